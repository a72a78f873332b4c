//! Copies of natives' maps, for the programs of a script that index them or go over them.

use super::Instance;
use crate::error::{Error, Notice};
use crate::load::Loaded;
use crate::maps::{self, Cell, Snapshot};
use crate::sys::bpf;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use weir_compiler::object::{MapRole, Object};

/// Bits of the family, which a trie's key counts.
const FAMILY_BITS: u32 = 32;

/// One copy, and what is in it.
#[derive(Debug)]
pub(super) struct Copy {
    /// Index into the declaration's maps.
    map: usize,
    /// Keyed by prefix, for the longest that matches.
    lpm: bool,
    fd: OwnedFd,
    symbol: String,
    key_size: usize,
    value_size: usize,
    max_entries: usize,
    /// Values by keys, both as they lie there; an empty value for a key of which that is not known.
    held: HashMap<Vec<u8>, Vec<u8>>,
    /// Somebody was told that not everything has room.
    told: bool,
}

impl Copy {
    /// Finds the copies of an instance among the script's maps.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn all(instance: usize, object: &Object, loaded: &Loaded) -> Result<Vec<Self>, Error> {
        let both = object.maps.iter().zip(&loaded.maps);
        let copies = both.filter_map(|(spec, made)| match spec.role {
            MapRole::Copy { instance: i, map, .. } if i == instance => Some((map, made)),
            _ => None,
        });
        copies
            .map(|(map, made)| {
                Ok(Self {
                    map,
                    lpm: made.kind == weir_compiler::object::MapKind::LpmTrie,
                    fd: maps::dup(made.fd.as_fd(), &made.symbol)?,
                    symbol: made.symbol.clone(),
                    key_size: made.key_size as usize,
                    value_size: made.value_size as usize,
                    max_entries: made.max_entries as usize,
                    held: HashMap::new(),
                    told: false,
                })
            })
            .collect()
    }

    /// A key of the original as it lies in the copy.
    fn key(&self, key: &[u8]) -> Vec<u8> {
        let mut key = key.to_vec();
        key.resize(self.key_size, 0);
        if self.lpm {
            shift_length(&mut key, |bits| bits + FAMILY_BITS);
        }
        key
    }

    /// Writes what has changed, and removes what has gone: a program that looks meanwhile finds each entry as it was or as it is. The last
    /// rows are the important ones where not all have room. Returns how many have none.
    fn renew(&mut self, snapshot: &Snapshot) -> Result<usize, Error> {
        let left_out = snapshot.rows.len().saturating_sub(self.max_entries);
        let mut now: HashMap<Vec<u8>, Vec<u8>> = HashMap::with_capacity(snapshot.rows.len() - left_out);
        for row in &snapshot.rows[left_out..] {
            let mut value = match &row.value {
                Cell::Plain(bytes) => bytes.clone(),
                Cell::Int(n) => (*n as u64).to_ne_bytes().to_vec(),
                _ => continue,
            };
            value.resize(self.value_size, 0);
            now.insert(self.key(&row.key), value);
        }
        let gone: Vec<u8> = self.held.keys().filter(|key| !now.contains_key(*key)).flatten().copied().collect();
        bpf::map_delete_many(self.fd.as_fd(), &gone, self.key_size, &self.symbol)?;
        let changed = now.iter().filter(|(key, value)| self.held.get(*key) != Some(*value));
        let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = changed.map(|(key, value)| (key.as_slice(), value.as_slice())).unzip();
        bpf::map_update_many(
            self.fd.as_fd(),
            &keys.concat(),
            &values.concat(),
            self.key_size,
            self.value_size,
            &self.symbol,
        )?;
        self.held = now;
        Ok(left_out)
    }
}

/// Changes the number of bits in front of a prefix.
fn shift_length(key: &mut [u8], change: impl Fn(u32) -> u32) {
    if let Some(bits) = key.first_chunk_mut::<4>() {
        *bits = change(u32::from_ne_bytes(*bits)).to_ne_bytes();
    }
}

/// A key that a program has sent, as the original has it.
pub(super) fn original_key(key: &[u8], is_prefix: bool) -> Vec<u8> {
    let mut key = key.to_vec();
    if is_prefix {
        shift_length(&mut key, |bits| bits.saturating_sub(FAMILY_BITS));
    }
    key
}

impl Instance {
    /// Takes charge of the copies that the script's programs read.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn keep_copies(&self, index: usize, object: &Object, loaded: &Loaded) -> Result<(), Error> {
        *self.copies() = Copy::all(index, object, loaded)?;
        Ok(())
    }

    /// Returns whether the script reads any map of it.
    pub(crate) fn has_copies(&self) -> bool {
        !self.copies().is_empty()
    }

    /// Makes the copies what the originals are now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn renew_copies(&self) -> Result<(), Error> {
        let mut copies = self.copies();
        if copies.is_empty() {
            return Ok(());
        }
        self.look()?;
        let mut read: HashMap<usize, Snapshot> = HashMap::new();
        // Rows that no copy has room for are counted, and not made.
        let mut room: HashMap<usize, u32> = HashMap::new();
        for copy in copies.iter() {
            let most = room.entry(copy.map).or_default();
            *most = (*most).max(u32::try_from(copy.max_entries).unwrap_or(u32::MAX));
        }
        for copy in copies.iter_mut() {
            let snapshot = match read.entry(copy.map) {
                Entry::Occupied(found) => found.into_mut(),
                Entry::Vacant(place) => place.insert(self.read(copy.map, room[&copy.map], false)?),
            };
            let left_out = copy.renew(snapshot)?;
            if left_out > 0 && !copy.told {
                copy.told = true;
                let message = format!(
                    "`{}` has {} entries, and the script sees {} of them",
                    snapshot.name,
                    snapshot.rows.len(),
                    copy.max_entries
                );
                self.untold().push(Notice::Native {
                    alias: self.spec.alias.clone(),
                    message,
                    warning: true,
                    span: Some(self.spec.span),
                });
            }
        }
        Ok(())
    }

    /// Deletes an entry that a program has deleted from its copy.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete(&self, map: usize, sent: &[u8]) -> Result<(), Error> {
        let decl = &self.spec.native.maps[map];
        let is_prefix = matches!(decl.shape, weir_stdlib::MapShape::ByPrefix(_));
        let key = original_key(sent, is_prefix);
        // Not to be renewed in between.
        let mut copies = self.copies();
        if is_prefix {
            self.delete_prefix(decl, &key)?;
        } else if let Some(mut engine) = self.engine() {
            engine.delete(decl.name, &key, &self.maps)?;
        }
        for copy in copies.iter_mut().filter(|c| c.map == map) {
            let key = copy.key(&key);
            if let Some(value) = copy.held.get_mut(&key) {
                value.clear();
            }
        }
        Ok(())
    }

    /// Ends what [`Self::delete`] has begun.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn deleted(&self) -> Result<(), Error> {
        self.engine().map_or(Ok(()), |mut engine| engine.deleted(&self.maps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_tries_count_the_family() {
        let prefix = [&24u32.to_ne_bytes()[..], &2u32.to_ne_bytes(), &[192, 0, 2, 0], &[0; 12]].concat();
        let mut sent = prefix.clone();
        shift_length(&mut sent, |bits| bits + FAMILY_BITS);
        assert_eq!(sent[..4], 56u32.to_ne_bytes());
        assert_eq!(original_key(&sent, true), prefix);
        assert_eq!(original_key(&prefix, false), prefix);
    }
}
