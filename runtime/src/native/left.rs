//! The lists that the last owner of a named blocklist has left in force: read from its pinned maps, for the audit log.

use super::exact;
use super::lists::{ALLOW, BLOCK, TABLES};
use super::map_kind;
use super::prefixes::Key;
use crate::format::uint;
use crate::maps::Map;
use crate::pin::Pin;
use crate::sys::bpf;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use weir_ebpf_builtins::blocklist::{self as object, STATE_ACTIVE};
use weir_ebpf_builtins::{Lpm4, Lpm6};

/// A list, each family sorted.
#[derive(Debug)]
pub(super) struct InForce {
    pub v4: Vec<Lpm4>,
    pub v6: Vec<Lpm6>,
}

impl InForce {
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }
}

/// A map that somebody else has made, in the shape that it has.
pub(super) fn map(fd: OwnedFd, symbol: &str) -> Option<Map> {
    let info = bpf::map_info(fd.as_fd()).ok()?;
    Some(Map {
        fd,
        kind: map_kind(info.kind),
        symbol: symbol.to_owned(),
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        has_set_word: false,
    })
}

/// Both lists, those blocked first, if they can be known.
pub(super) type Lists = Option<[InForce; 2]>;

/// Begins to read what a name stands for, for [`read`]'s answer at the end of a start: of a trie with a million entries that takes most of a second,
/// and a start has enough to do. Nobody changes it: its owner is gone.
pub(super) fn begin(pin: &Pin) -> Option<JoinHandle<Lists>> {
    let tables = TABLES.iter().flat_map(|[nodes, records, _]| [nodes, records]);
    let symbols = BLOCK.iter().chain(&ALLOW[..1]).flatten().chain(tables).chain([&object::STATE]);
    // Now: by the end others have these names.
    let maps: HashMap<&str, OwnedFd> = symbols.filter_map(|symbol| Some((*symbol, pin.map(symbol)?))).collect();
    let read = move || read(|symbol| maps.get(symbol)?.try_clone().ok());
    std::thread::Builder::new().spawn(read).ok()
}

/// Reads both lists, those blocked first. `None`: it cannot be known.
pub(super) fn read(open: impl Fn(&str) -> Option<OwnedFd>) -> Lists {
    let open = |symbol: &str| map(open(symbol)?, symbol);
    let state = open(object::STATE)?.lookup(&0u32.to_ne_bytes()).ok()??;
    let set = usize::from(uint(state.get(4 * STATE_ACTIVE..4 * STATE_ACTIVE + 4)?) != 0);
    let allow = InForce {
        v4: of_trie(&open(ALLOW[0][0])?)?,
        v6: of_trie(&open(ALLOW[0][1])?)?,
    };
    let block = InForce {
        v4: of_family(&open, 0, set)?,
        v6: of_family(&open, 1, set)?,
    };
    Some([block, allow])
}

/// Entries are in the exact tables, in the trie, or some in those for which these had no room.
fn of_family<K: Key>(open: &dyn Fn(&str) -> Option<Map>, family: usize, set: usize) -> Option<Vec<K>> {
    let mut keys = of_trie(&open(BLOCK[set][family])?)?;
    let [nodes, records, _] = TABLES[family];
    let (nodes, records) = (open(nodes)?, open(records)?);
    // Of one entry: the list was short.
    if records.max_entries > 1 {
        let are_sorted = keys.is_empty();
        exact::entries(set, &nodes, &records, &mut keys).ok()?;
        if !are_sorted {
            sort(&mut keys);
        }
    }
    Some(keys)
}

fn of_trie<K: Key>(trie: &Map) -> Option<Vec<K>> {
    let elements = trie.elements().ok()?;
    let key = |bytes: &[u8]| {
        let (len, addr) = bytes.split_first_chunk::<4>()?;
        let addr = addr.iter().fold(0, |addr: u128, byte| addr << 8 | u128::from(*byte));
        Some(K::new(addr, u32::from_ne_bytes(*len)))
    };
    let mut keys: Vec<K> = elements.iter().map(|(bytes, _)| key(bytes)).collect::<Option<_>>()?;
    sort(&mut keys);
    Some(keys)
}

fn sort<K: Key>(keys: &mut [K]) {
    keys.sort_unstable_by_key(Key::order);
}
