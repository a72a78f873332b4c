//! Maps in our own memory, with the meaning of the kernel's on a machine with one CPU.

use super::table::{Lpm, Refused, Table};
use crate::maps::{Contents, Shape};
use crate::sys::bpf::Elements;
use crate::sys::{Result, SysError};
use std::cell::UnsafeCell;
use std::io;
use weir_compiler::object::{MapKind, MapRole, MapSpec};

/// A map. The code of programs gets its address and hands it to the helpers.
#[derive(Debug)]
pub struct MemoryMap {
    symbol: String,
    shape: Shape,
    key_size: usize,
    store: UnsafeCell<Store>,
}

#[derive(Debug)]
enum Store {
    /// Elements in whole words.
    Array(Box<[u64]>),
    Hash(Table),
    Lpm(Lpm),
    /// Nothing to look up: the ring buffer.
    Nothing,
}

// SAFETY: a replay runs, reads and prints on one thread; the bound is there because a live run reads the kernel's maps on another.
unsafe impl Send for MemoryMap {}
// SAFETY: as above.
unsafe impl Sync for MemoryMap {}

impl MemoryMap {
    /// Makes a map, with what a constant set holds.
    ///
    /// # Errors
    /// A map that only the kernel has, by its name.
    pub fn new(spec: &MapSpec) -> std::result::Result<Self, String> {
        let value_size = spec.value_size.next_multiple_of(8);
        let store = match spec.kind {
            MapKind::Array | MapKind::PerCpuArray => {
                let words = value_size as usize / 8 * spec.max_entries as usize;
                let mut data = vec![0; words].into_boxed_slice();
                if let MapRole::Rodata { data: content } = &spec.role {
                    for (word, bytes) in data.iter_mut().zip(content.chunks(8)) {
                        let mut raw = [0; 8];
                        raw[..bytes.len()].copy_from_slice(bytes);
                        *word = u64::from_ne_bytes(raw);
                    }
                }
                Store::Array(data)
            }
            MapKind::Hash | MapKind::PerCpuHash => Store::Hash(Table::new(spec.key_size, value_size, spec.max_entries, false)),
            MapKind::LruHash | MapKind::LruPerCpuHash => Store::Hash(Table::new(spec.key_size, value_size, spec.max_entries, true)),
            MapKind::LpmTrie => Store::Lpm(Lpm::new(spec.key_size, value_size, spec.max_entries)),
            MapKind::RingBuf => Store::Nothing,
            _ => return Err(spec.name.clone()),
        };
        let map = Self {
            symbol: spec.name.clone(),
            shape: Shape {
                kind: spec.kind,
                value_size: spec.value_size,
                max_entries: spec.max_entries,
                has_set_word: spec.has_set_word(),
            },
            key_size: spec.key_size as usize,
            store: UnsafeCell::new(store),
        };
        // Every device is there: only what has no number is lost.
        if let (MapRole::Devices { .. }, Store::Array(data)) = (&spec.role, map.store()) {
            data.fill(1);
        }
        if let MapRole::Set { keys } = &spec.role {
            for key in keys {
                map.update(key, &[0; 8], 0).map_err(|_| spec.name.clone())?;
            }
        }
        Ok(map)
    }

    #[allow(clippy::mut_from_ref, reason = "one thread, and no reference outlives the call of a helper")]
    fn store(&self) -> &mut Store {
        // SAFETY: one thread; every method ends its use of the reference before it returns or calls anything outside.
        unsafe { &mut *self.store.get() }
    }

    #[must_use]
    pub fn key_size(&self) -> usize {
        self.key_size
    }

    /// Returns the size of a value in whole words, in bytes.
    #[must_use]
    pub fn value_size(&self) -> usize {
        self.shape.value_size.next_multiple_of(8) as usize
    }

    fn element(&self, data: &[u64], index: usize) -> Option<*mut u8> {
        let words = self.value_size() / 8;
        (index < self.shape.max_entries as usize).then(|| data[index * words..].as_ptr().cast_mut().cast())
    }

    fn index(key: &[u8]) -> usize {
        key.first_chunk::<4>().map_or(usize::MAX, |n| u32::from_ne_bytes(*n) as usize)
    }

    /// Returns the address of a value.
    #[inline]
    pub fn lookup(&self, key: &[u8]) -> Option<*mut u8> {
        match self.store() {
            Store::Array(data) => self.element(data, Self::index(key)),
            Store::Hash(table) => table.lookup(key),
            Store::Lpm(lpm) => lpm.lookup(key),
            Store::Nothing => None,
        }
    }

    /// # Errors
    /// As the kernel's.
    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> std::result::Result<(), Refused> {
        match self.store() {
            Store::Array(data) => {
                if flags == 1 {
                    return Err(Refused::Exists);
                }
                let element = self.element(data, Self::index(key)).ok_or(Refused::Full)?;
                // SAFETY: the element has room for a value. The source may be the same element.
                unsafe { std::ptr::copy(value.as_ptr(), element, value.len().min(self.value_size())) };
                Ok(())
            }
            Store::Hash(table) => table.update(key, value, flags),
            Store::Lpm(lpm) => lpm.update(key, value, flags),
            Store::Nothing => Err(Refused::Invalid),
        }
    }

    /// # Errors
    /// As the kernel's: an array keeps its elements.
    pub fn delete(&self, key: &[u8]) -> std::result::Result<(), Refused> {
        let there = match self.store() {
            Store::Hash(table) => table.remove(key),
            Store::Lpm(lpm) => lpm.remove(key),
            Store::Array(_) | Store::Nothing => return Err(Refused::Invalid),
        };
        if there { Ok(()) } else { Err(Refused::Missing) }
    }

    /// Lists keys and addresses of values.
    #[must_use]
    pub fn entries(&self) -> Vec<(Vec<u8>, *mut u8)> {
        match self.store() {
            Store::Array(data) => (0..self.shape.max_entries)
                .filter_map(|i| Some((i.to_ne_bytes().to_vec(), self.element(data, i as usize)?)))
                .collect(),
            Store::Hash(table) => table.entries(),
            Store::Lpm(lpm) => lpm.table().entries(),
            Store::Nothing => Vec::new(),
        }
    }

    /// Returns whether a loop over the map may still visit the key.
    #[must_use]
    pub fn still_has(&self, key: &[u8]) -> bool {
        match self.store() {
            Store::Hash(table) => table.contains(key),
            _ => true,
        }
    }

    /// Returns the memory of an array, for checks of addresses.
    #[must_use]
    pub fn region(&self) -> Option<(u64, u64)> {
        match self.store() {
            Store::Array(data) => {
                let start = data.as_ptr() as u64;
                Some((start, start + data.len() as u64 * 8))
            }
            _ => None,
        }
    }

    fn bytes(&self, value: *mut u8) -> Vec<u8> {
        let mut out = vec![0; self.element_size()];
        // SAFETY: a value has `value_size` bytes, which `element_size` does not exceed.
        unsafe { std::ptr::copy_nonoverlapping(value, out.as_mut_ptr(), out.len()) };
        out
    }

    fn refused(&self, what: &'static str, refused: Refused) -> SysError {
        SysError::new(what, &self.symbol, io::Error::from_raw_os_error(refused.errno()))
    }
}

impl Contents for MemoryMap {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn element_size(&self) -> usize {
        if self.shape.kind.is_per_cpu() {
            self.value_size()
        } else {
            self.shape.value_size as usize
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.lookup(key).map(|value| self.bytes(value)))
    }

    fn all(&self) -> Result<Elements> {
        let mut all = Elements {
            key_size: self.key_size,
            value_size: self.element_size(),
            ..Elements::default()
        };
        for (key, value) in self.entries() {
            all.keys.extend(key);
            all.values.extend(self.bytes(value));
        }
        Ok(all)
    }

    fn put(&self, key: &[u8], value: &[u8], flags: u64) -> Result<()> {
        self.update(key, value, flags).map_err(|e| self.refused("update map", e))
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        match self.delete(key) {
            Ok(()) | Err(Refused::Missing) => Ok(()),
            Err(e) => Err(self.refused("delete from map", e)),
        }
    }
}
