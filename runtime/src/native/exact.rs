//! The exact tables of a long list in the kernel: built before there are maps, moved into them, changed there.
//!
//! `weir_ebpf_builtins::exact` is the structure; here are sizes, mapped memory, and what to do when there is no more room: what does not
//! fit goes into the tries, which programs look into as well from then on.

use super::prefixes::{Entry, Key};
use crate::error::Error;
use crate::maps::Map;
use crate::sys::SysError;
use crate::sys::mmap::Mmap;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use weir_ebpf_builtins::PacketsBytes;
use weir_ebpf_builtins::blocklist::{NODE_SLOTS, SIEVE_WORDS};
use weir_ebpf_builtins::exact::{Bits, Counted, Family, Memory, NoRoom, Tables};

/// Shorter lists stay in the tries: they are as fast there, and cost less memory.
pub(super) const FROM: usize = 512;
/// Shorter lists have no sieve: their nodes are few, and in the cache.
const SIEVE_FROM: usize = 1 << 15;
/// Lists so long are flat, with a node for each /16 there is,
const FLAT_FROM: usize = 1 << 18;
/// if they have entries in so many of them: the nodes of few need a fraction of that memory.
const FLAT_BLOCKS: usize = 1 << 15;
/// Nodes and records to spare, whatever the list is.
const SPARE_NODES: u32 = 1024;
const SPARE_RECORDS: u32 = 4096;

/// One family of a list.
#[derive(Debug)]
pub(super) struct Exact {
    tables: Tables,
    sets: u32,
}

pub(super) fn bits<K: Key>(key: &K) -> Bits {
    let (bits, len) = key.order();
    (bits << (128 - K::WIDTH), len)
}

/// An entry as the key of a map.
pub(super) fn key<K: Key>((bits, len): Bits) -> K {
    K::new(bits >> (128 - K::WIDTH), len)
}

/// In how many /16s the entries of a sorted IPv4 list are. Those of a whole /16 and more need no node for it.
fn blocks<K: Key>(list: &[Entry<K>]) -> usize {
    let longer = list.iter().map(|entry| bits(&entry.key)).filter(|(_, len)| *len > 16);
    let mut last = None;
    longer.filter(|(bits, _)| last.replace(bits >> 112) != Some(bits >> 112)).count()
}

impl Exact {
    /// Builds the first set, if the list is long enough.
    pub fn build<K: Key>(list: &[Entry<K>], sets: u32) -> Option<Self> {
        if list.len() < FROM {
            return None;
        }
        let family = family::<K>();
        let mut tables = Tables::new(family, sets);
        if list.len() >= SIEVE_FROM {
            tables = tables.with_sieve();
        }
        if family == Family::V4 && list.len() >= FLAT_FROM && blocks(list) >= FLAT_BLOCKS {
            tables = tables.flat();
        }
        for entry in list {
            // A list that these cannot take (gigabytes of nodes) is the tries'.
            tables.insert(0, bits(&entry.key)).ok()?;
        }
        Some(Self { tables, sets })
    }

    /// How many nodes and records the maps are to hold: a list that is exchanged for another of its kind fits beside it.
    pub fn room(&self) -> (u32, u32) {
        let (nodes, records) = self.tables.used();
        let more = nodes.saturating_sub(self.tables.fixed());
        let more = if self.sets == 1 { more / 2 } else { more + more / 4 };
        (
            nodes.saturating_add(more).saturating_add(SPARE_NODES),
            records.saturating_mul(2).saturating_add(records / 2).saturating_add(SPARE_RECORDS),
        )
    }

    pub fn is_flat(&self) -> bool {
        self.tables.is_flat()
    }

    /// How many words the map of the sieve is to hold, if there is one.
    pub fn sieve_room(&self) -> Option<u32> {
        self.tables.has_sieve().then_some(SIEVE_WORDS * self.sets)
    }

    /// Moves into the maps; `sieve` is asked for if there is one.
    pub fn move_to<'m>(&mut self, nodes: &Map, records: &Map, sieve: impl FnOnce() -> Result<&'m Map, Error>) -> Result<(), Error> {
        let too_small = |map: &Map| Error::Object(format!("`{}` is too small", map.symbol));
        self.tables
            .move_to(memory_of_nodes(nodes)?, memory_of_records(records)?)
            .map_err(|NoRoom| too_small(nodes))?;
        if self.tables.has_sieve() {
            let map = sieve()?;
            self.tables
                .move_sieve_to(memory(map, size_of::<u64>())?)
                .map_err(|NoRoom| too_small(map))?;
        }
        Ok(())
    }

    /// Adds entries to a set; gives those that there is no room for. `grace` waits until programs that run now have ended.
    pub fn insert<'a, K: Key + 'a>(&mut self, set: usize, keys: impl Iterator<Item = &'a K>, grace: impl Fn()) -> Vec<K> {
        let set = u32::from(set == 1);
        let mut rest = Vec::new();
        for key in keys {
            let mut result = self.tables.insert(set, bits(key));
            if result.is_err() && self.tables.has_limbo() {
                grace();
                self.tables.reclaim();
                result = self.tables.insert(set, bits(key));
            }
            if result.is_err() {
                rest.push(*key);
            }
        }
        rest
    }

    /// Takes entries out of a set; gives those that are not there.
    pub fn remove<'a, K: Key + 'a>(&mut self, set: usize, keys: impl Iterator<Item = &'a K>) -> Vec<K> {
        keys.filter(|key| !self.tables.remove(u32::from(set == 1), bits(*key)))
            .copied()
            .collect()
    }

    /// Empties a set that no program looks into any more.
    pub fn clear(&mut self, set: usize) {
        self.tables.clear(u32::from(set == 1));
    }

    /// The entries that were hit; one may come more than once.
    pub fn hits(&self) -> impl Iterator<Item = Counted> {
        self.tables.hits()
    }

    /// Forgets all hits; gives what they were.
    pub fn clear_hits(&mut self) -> Vec<Counted> {
        self.tables.clear_hits()
    }

    /// Forgets the hits of one entry.
    pub fn forget_hits(&mut self, key: Bits) {
        self.tables.forget_hits(key);
    }

    /// Adds hits to an entry; `false` if it is not there.
    pub fn add_hits<K: Key>(&mut self, key: &K, hits: PacketsBytes) -> bool {
        self.tables.add_hits(bits(key), hits)
    }

    /// Gives the hits of entries that have been taken out, once.
    pub fn gone(&mut self) -> Vec<Counted> {
        self.tables.gone()
    }

    /// Whether something waits for a grace period.
    pub fn has_limbo(&self) -> bool {
        self.tables.has_limbo()
    }

    /// After a grace period: what was taken out may be used again.
    pub fn reclaim(&mut self) {
        self.tables.reclaim();
    }
}

/// Adds the entries of a set in maps that somebody else has filled, sorted.
///
/// # Errors
/// When they cannot be mapped.
pub(super) fn entries<K: Key>(set: usize, nodes: &Map, records: &Map, keys: &mut Vec<K>) -> Result<(), Error> {
    let (nodes, records) = (memory_of_nodes(nodes)?, memory_of_records(records)?);
    let mut each = |bits| keys.push(key(bits));
    weir_ebpf_builtins::exact::entries(family::<K>(), u32::from(set == 1), &nodes, &records, &mut each);
    Ok(())
}

fn family<K: Key>() -> Family {
    if K::WIDTH == 32 { Family::V4 } else { Family::V6 }
}

fn memory_of_nodes(map: &Map) -> Result<Memory, Error> {
    memory(map, NODE_SLOTS * 4)
}

fn memory_of_records(map: &Map) -> Result<Memory, Error> {
    memory(map, map.value_size.next_multiple_of(8) as usize)
}

/// Maps an array into our memory.
fn memory(map: &Map, element: usize) -> Result<Memory, Error> {
    const PAGE: usize = 4096;
    let len = map.max_entries as usize * element;
    let mapping = Mmap::new(map.fd.as_fd(), len.next_multiple_of(PAGE), 0, true, false)
        .map_err(|e| Error::Sys(SysError::new("map", map.symbol.clone(), e)))?;
    // SAFETY: `len` bytes are mapped, aligned to a page, until `mapping` is dropped, which goes along as the owner; the programs only
    // load words of it and add to counters, and this process only uses atomics.
    let memory: &'static [AtomicU64] = unsafe { std::slice::from_raw_parts(mapping.as_ptr().cast(), len / 8) };
    Ok(Memory::Lent {
        memory,
        owner: Box::new(mapping),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_ebpf_builtins::Lpm4;
    use weir_ebpf_builtins::blocklist::FLAT_NODES;

    /// A sorted list of so many hosts, spread evenly over so many /16s from 16.0.0.0 on.
    fn hosts(count: usize, blocks: usize) -> Vec<Entry<Lpm4>> {
        let host = |i: usize| (0x1000_0000 + ((i % blocks) << 16) + i / blocks) as u128;
        let mut list: Vec<_> = (0..count)
            .map(|i| Entry {
                key: Lpm4::new(host(i), 32),
                ttl: None,
            })
            .collect();
        list.sort_unstable_by_key(|entry| entry.key.order());
        list
    }

    #[test]
    fn long_lists_in_many_blocks_are_flat() {
        let many = hosts(FLAT_FROM, FLAT_BLOCKS);
        for sets in [1, 2] {
            let flat = Exact::build(&many, sets).unwrap();
            // Those that are always there are not reckoned twice for a list that is exchanged.
            let fixed = sets * (256 + FLAT_NODES);
            let (nodes, records) = flat.room();
            assert!(
                flat.is_flat() && (fixed + SPARE_NODES..fixed + 2 * SPARE_NODES).contains(&nodes),
                "{nodes}"
            );
            assert!(records as usize > 2 * FLAT_FROM, "{records}");
            assert_eq!(flat.sieve_room(), Some(SIEVE_WORDS * sets));
            assert_eq!(flat.tables.find(0, 0x1000_0003 << 96), Some(32));
            assert_eq!(flat.tables.find(0, 0x1000_0103 << 96), None);
        }
        let shorter = Exact::build(&many[..FLAT_FROM - 1], 1).unwrap();
        assert!(!shorter.is_flat() && shorter.sieve_room().is_some());
    }

    /// All of a /14: four nodes and one for each /24, not one for each /16 there is.
    #[test]
    fn long_lists_in_few_blocks_are_not_flat() {
        for sets in [1, 2] {
            let exact = Exact::build(&hosts(FLAT_FROM, 4), sets).unwrap();
            let (nodes, _) = exact.room();
            assert!(!exact.is_flat() && nodes < 5000, "{nodes}");
        }
    }

    #[test]
    fn whole_blocks_need_no_nodes() {
        let entry = |addr, len| Entry {
            key: Lpm4::new(addr, len),
            ttl: None,
        };
        let list = [
            (0x0a00_0000, 8),
            (0x0a01_0000, 16),
            (0x0a01_0000, 17),
            (0x0a01_8000, 32),
            (0x0a02_0000, 24),
            (0x0b02_0000, 24),
        ];
        assert_eq!(blocks(&list.map(|(addr, len)| entry(addr, len))), 3);
        assert_eq!(blocks::<Lpm4>(&[]), 0);
    }
}
