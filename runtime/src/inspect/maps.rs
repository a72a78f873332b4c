//! Maps of anybody: how full they are, and what is in them.

use super::owners::Owner;
use super::pinned::Pinned;
use crate::sys::bpf::query::{self, MapDetails, ObjectKind};
use crate::sys::bpf::{self, Elements};
use crate::sys::{Result, proc};
use serde::Serialize;
use std::os::fd::{AsFd, BorrowedFd};
use weir_compiler::btf::Btf;

/// From here on a map counts as nearly full.
pub const PRESSURE_PERCENT: u64 = 80;

/// Keys looked at when a map can only be counted slot by slot.
const MAX_SLOTS: u32 = 1 << 16;

/// A map without its content.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MapState {
    pub id: u32,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip)]
    pub raw_kind: u32,
    pub key_bytes: u32,
    pub value_bytes: u32,
    pub max_entries: u32,
    pub flags: u32,
    /// How many keys it has; `None` where the kernel does not tell, or where every slot always has a value.
    pub entries: Option<u64>,
    /// Whether it can be full at all.
    #[serde(skip)]
    pub can_fill: bool,
    /// Whether it makes room by itself.
    pub evicts: bool,
    /// As [`MapState::pressure`] says.
    pub pressure_percent: Option<u64>,
    pub owners: Vec<Owner>,
    pub pins: Vec<Pinned>,
    /// Programs that use it, in lists of maps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<User>,
}

/// A program that uses a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    pub id: u32,
    pub name: String,
}

impl MapState {
    /// How full it is, in percent, for maps that can be full.
    #[must_use]
    pub fn pressure(&self) -> Option<u64> {
        let entries = self.entries.filter(|_| self.can_fill && self.max_entries > 0)?;
        Some(entries * 100 / u64::from(self.max_entries))
    }
}

mod kind {
    pub const HASH: u32 = 1;
    pub const ARRAY: u32 = 2;
    pub const PROG_ARRAY: u32 = 3;
    pub const PERF_EVENT_ARRAY: u32 = 4;
    pub const PERCPU_HASH: u32 = 5;
    pub const PERCPU_ARRAY: u32 = 6;
    pub const STACK_TRACE: u32 = 7;
    pub const CGROUP_ARRAY: u32 = 8;
    pub const LRU_HASH: u32 = 9;
    pub const LRU_PERCPU_HASH: u32 = 10;
    pub const LPM_TRIE: u32 = 11;
    pub const ARRAY_OF_MAPS: u32 = 12;
    pub const HASH_OF_MAPS: u32 = 13;
    pub const DEVMAP: u32 = 14;
    pub const SOCKMAP: u32 = 15;
    pub const CPUMAP: u32 = 16;
    pub const XSKMAP: u32 = 17;
    pub const SOCKHASH: u32 = 18;
    pub const REUSEPORT_SOCKARRAY: u32 = 20;
    pub const PERCPU_CGROUP_STORAGE: u32 = 21;
    pub const DEVMAP_HASH: u32 = 25;
}

/// Names an `enum bpf_map_type` as bpftool does.
#[must_use]
pub fn map_type(kind: u32) -> String {
    const NAMES: [&str; 34] = [
        "unspec",
        "hash",
        "array",
        "prog_array",
        "perf_event_array",
        "percpu_hash",
        "percpu_array",
        "stack_trace",
        "cgroup_array",
        "lru_hash",
        "lru_percpu_hash",
        "lpm_trie",
        "array_of_maps",
        "hash_of_maps",
        "devmap",
        "sockmap",
        "cpumap",
        "xskmap",
        "sockhash",
        "cgroup_storage",
        "reuseport_sockarray",
        "percpu_cgroup_storage",
        "queue",
        "stack",
        "sk_storage",
        "devmap_hash",
        "struct_ops",
        "ringbuf",
        "inode_storage",
        "task_storage",
        "bloom_filter",
        "user_ringbuf",
        "cgrp_storage",
        "arena",
    ];
    NAMES
        .get(kind as usize)
        .map_or_else(|| format!("type {kind}"), |name| (*name).to_owned())
}

/// Whether one lookup gives a value for every possible CPU.
#[must_use]
pub fn is_per_cpu(raw_kind: u32) -> bool {
    matches!(
        raw_kind,
        kind::PERCPU_HASH | kind::PERCPU_ARRAY | kind::LRU_PERCPU_HASH | kind::PERCPU_CGROUP_STORAGE
    )
}

/// How the entries of a kind of map are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counting {
    /// In batches, keys and values.
    Batch,
    /// Key by key: values are references, or not for user space.
    Keys,
    /// By asking each slot of an array of references.
    Slots,
    /// Not at all: every slot has a value, or the kernel does not tell.
    No,
}

fn counting(raw_kind: u32) -> Counting {
    match raw_kind {
        kind::HASH | kind::PERCPU_HASH | kind::LRU_HASH | kind::LRU_PERCPU_HASH | kind::LPM_TRIE => Counting::Batch,
        kind::HASH_OF_MAPS | kind::DEVMAP_HASH | kind::SOCKHASH | kind::STACK_TRACE => Counting::Keys,
        kind::PROG_ARRAY | kind::ARRAY_OF_MAPS | kind::DEVMAP | kind::CPUMAP | kind::XSKMAP | kind::SOCKMAP | kind::REUSEPORT_SOCKARRAY => {
            Counting::Slots
        }
        _ => Counting::No,
    }
}

/// Asks for a map's state.
///
/// # Errors
/// What the kernel says.
pub fn state(map: BorrowedFd<'_>, count: bool) -> Result<MapState> {
    let info = query::map_details(map)?.info;
    let counting = counting(info.kind);
    let mut state = MapState {
        id: info.id,
        entries: count.then(|| entries(map, &info, counting)).flatten(),
        kind: map_type(info.kind),
        raw_kind: info.kind,
        key_bytes: info.key_size,
        value_bytes: info.value_size,
        max_entries: info.max_entries,
        flags: info.flags,
        can_fill: matches!(counting, Counting::Batch | Counting::Keys),
        evicts: matches!(info.kind, kind::LRU_HASH | kind::LRU_PERCPU_HASH),
        pressure_percent: None,
        owners: Vec::new(),
        pins: Vec::new(),
        used_by: Vec::new(),
        name: info.name,
    };
    state.pressure_percent = state.pressure();
    Ok(state)
}

fn entries(map: BorrowedFd<'_>, info: &bpf::MapInfo, how: Counting) -> Option<u64> {
    let key_size = info.key_size as usize;
    match how {
        Counting::Batch => {
            let mut count = 0;
            bpf::map_batches(map, key_size, lookup_size(info), info.max_entries, &info.name, |n, _, _| {
                count += n as u64
            })
            .ok()?;
            Some(count)
        }
        Counting::Keys => {
            let mut key = None;
            let mut next = vec![0u8; key_size];
            let mut count = 0u64;
            while bpf::map_next_key(map, key.as_deref(), &mut next, &info.name).ok()? {
                count += 1;
                key = Some(next.clone());
                // A map that changes under us may start over.
                if count > u64::from(info.max_entries) {
                    return Some(u64::from(info.max_entries));
                }
            }
            Some(count)
        }
        Counting::Slots if info.max_entries <= MAX_SLOTS => {
            let mut value = vec![0u8; lookup_size(info).max(8)];
            let used = (0..info.max_entries).filter(|i| query::map_has(map, &i.to_ne_bytes(), &mut value));
            Some(used.count() as u64)
        }
        Counting::Slots | Counting::No => None,
    }
}

/// How many bytes one lookup gives.
fn lookup_size(info: &bpf::MapInfo) -> usize {
    if is_per_cpu(info.kind) {
        info.value_size.next_multiple_of(8) as usize * proc::possible_cpus() as usize
    } else {
        info.value_size as usize
    }
}

/// A map's content, with the types of its key and value where the kernel has them.
#[derive(Debug)]
pub struct Dump {
    pub details: MapDetails,
    pub btf: Option<Btf>,
    pub elements: Elements,
    /// Size of one CPU's part of a value, and how many there are (1 for maps that are not per CPU).
    pub part: (usize, usize),
}

/// Removes the entries that were read, those that have gone meanwhile left out. Returns how many it removed.
///
/// # Errors
/// What the kernel says.
pub fn remove(map: BorrowedFd<'_>, dump: &Dump) -> Result<u64> {
    let mut gone = 0;
    for (key, _) in dump.elements.iter() {
        gone += u64::from(bpf::map_delete(map, key, &dump.details.info.name)?);
    }
    Ok(gone)
}

/// Reads all of a map.
///
/// # Errors
/// What the kernel says; `EOPNOTSUPP` for kinds that user space cannot read.
pub fn dump(map: BorrowedFd<'_>) -> Result<Dump> {
    let details = query::map_details(map)?;
    let info = &details.info;
    let readable = matches!(counting(info.kind), Counting::Batch | Counting::Slots)
        || matches!(
            info.kind,
            kind::ARRAY | kind::PERCPU_ARRAY | kind::HASH_OF_MAPS | kind::DEVMAP_HASH | kind::SOCKHASH | kind::STACK_TRACE
        );
    if !readable || matches!(info.kind, kind::PERF_EVENT_ARRAY | kind::CGROUP_ARRAY) {
        let unsupported = std::io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        return Err(crate::sys::SysError::new("read the entries of map", info.name.clone(), unsupported));
    }
    let elements = bpf::map_elements(map, info.key_size as usize, lookup_size(info), info.max_entries, &info.name)?;
    let btf = btf_of(details.btf_id);
    let part = if is_per_cpu(info.kind) {
        (info.value_size.next_multiple_of(8) as usize, proc::possible_cpus() as usize)
    } else {
        (info.value_size as usize, 1)
    };
    Ok(Dump {
        details,
        btf,
        elements,
        part,
    })
}

fn btf_of(id: u32) -> Option<Btf> {
    let fd = (id != 0).then(|| query::by_id(ObjectKind::Btf, id).ok()).flatten()?;
    Btf::from_bytes(query::btf_bytes(fd.as_fd()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_maps_that_can_be_full_have_pressure() {
        let mut map = MapState {
            id: 1,
            name: "m".into(),
            kind: map_type(kind::HASH),
            raw_kind: kind::HASH,
            key_bytes: 4,
            value_bytes: 8,
            max_entries: 10,
            flags: 0,
            entries: Some(8),
            can_fill: true,
            evicts: false,
            pressure_percent: None,
            owners: vec![],
            pins: vec![],
            used_by: vec![],
        };
        assert_eq!(map.pressure(), Some(80));
        map.can_fill = false;
        assert_eq!(map.pressure(), None);
        assert_eq!(counting(kind::ARRAY), Counting::No);
        assert_eq!(map_type(11), "lpm_trie");
        assert_eq!(map_type(99), "type 99");
    }
}
