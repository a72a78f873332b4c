//! What one family of a list holds, with the time at which each entry ends. Pure: the caller tells the kernel and the time.

use super::prefixes::{Entry, Key};

/// Entries end within this fraction of their time after it, each at its own moment: a list must not end in one second.
const SPREAD: u64 = 10;
/// The time of an entry that does not end.
const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
struct Held<K> {
    key: K,
    /// Nanoseconds of the clock that the caller counts by.
    ends: u64,
}

/// One family of a list, sorted.
#[derive(Clone, Debug)]
pub(super) struct Table<K> {
    held: Vec<Held<K>>,
}

/// What a new list changes.
#[derive(Debug)]
pub(super) struct Change<K> {
    pub add: Vec<K>,
    pub remove: Vec<K>,
    /// The table once the kernel has taken both.
    pub table: Table<K>,
}

impl<K: Key> Table<K> {
    pub fn new() -> Self {
        Self { held: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.held.iter().map(|h| &h.key)
    }

    /// Compares with a new list, read at `now`. Every entry of it gets its whole time: one that stays is never seen as ended.
    pub fn change(&self, list: &[Entry<K>], ttl: Option<u64>, now: u64) -> Change<K> {
        let (add, remove) = difference(self.keys(), list.iter().map(|entry| &entry.key));
        let held = list
            .iter()
            .map(|entry| Held {
                key: entry.key,
                ends: entry.ttl.or(ttl).map_or(NEVER, |ttl| end_of(&entry.key, ttl, now)),
            })
            .collect();
        Change {
            add,
            remove,
            table: Self { held },
        }
    }

    /// Lists the entries whose time is over.
    pub fn ended(&self, now: u64) -> Vec<K> {
        self.held.iter().filter(|h| h.ends <= now).map(|h| h.key).collect()
    }

    /// Forgets them.
    pub fn forget_ended(&mut self, now: u64) {
        self.held.retain(|h| h.ends > now);
    }
}

/// What is to be added to one sorted list and removed from it to have the other.
pub(super) fn difference<'a, K: Key + 'a>(old: impl Iterator<Item = &'a K>, new: impl Iterator<Item = &'a K>) -> (Vec<K>, Vec<K>) {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    let mut old = old.peekable();
    for key in new {
        while let Some(gone) = old.next_if(|o| o.order() < key.order()) {
            remove.push(*gone);
        }
        if old.next_if(|o| o.order() == key.order()).is_none() {
            add.push(*key);
        }
    }
    remove.extend(old);
    (add, remove)
}

fn end_of<K: Key>(key: &K, ttl: u64, now: u64) -> u64 {
    let mut bytes = Vec::with_capacity(20);
    key.write(&mut bytes);
    // FNV-1a, then spread over all bits: neighbours in a list must not end together.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let fraction = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let spread = (u128::from(ttl / SPREAD) * u128::from(fraction)) >> 32;
    now.saturating_add(ttl)
        .saturating_add(u64::try_from(spread).unwrap_or(0))
        .min(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_ebpf_builtins::Lpm4;

    const SECOND: u64 = 1_000_000_000;

    fn host(n: u32) -> Lpm4 {
        Lpm4 {
            len_bits: 32,
            addr: n.to_be_bytes(),
        }
    }

    fn list(hosts: impl IntoIterator<Item = u32>) -> Vec<Entry<Lpm4>> {
        hosts.into_iter().map(|n| Entry { key: host(n), ttl: None }).collect()
    }

    fn table(hosts: impl IntoIterator<Item = u32>, ttl: Option<u64>, now: u64) -> Table<Lpm4> {
        Table::new().change(&list(hosts), ttl, now).table
    }

    #[test]
    fn only_the_difference_is_changed() {
        let old = table([1, 2, 3, 7], None, 0);
        let change = old.change(&list([2, 3, 4, 9]), None, 0);
        assert_eq!(change.add, [host(4), host(9)]);
        assert_eq!(change.remove, [host(1), host(7)]);
        assert_eq!(change.table.keys().copied().collect::<Vec<_>>(), [2, 3, 4, 9].map(host));
        let none = change.table.change(&list([]), None, 0);
        assert_eq!((none.add.len(), none.remove.len(), none.table.len()), (0, 4, 0));
        // One address, two lengths: two entries.
        let net = Lpm4 {
            len_bits: 24,
            addr: [0; 4],
        };
        let both = table([0], None, 0).change(&[Entry { key: net, ttl: None }, Entry { key: host(0), ttl: None }], None, 0);
        assert_eq!((both.add, both.remove.len()), (vec![net], 0));
    }

    #[test]
    fn a_refreshed_entry_never_lapses() {
        let old = table([1, 2], Some(10 * SECOND), 0);
        assert!(old.ended(10 * SECOND - 1).is_empty());
        // Read again a moment before the end, and even after it: nothing is removed and added again.
        for now in [10 * SECOND - 1, 30 * SECOND] {
            let change = old.change(&list([1, 2]), Some(10 * SECOND), now);
            assert!(change.add.is_empty() && change.remove.is_empty());
            assert!(change.table.ended(now + 10 * SECOND - 1).is_empty());
            assert_eq!(change.table.ended(now + 11 * SECOND).len(), 2);
        }
    }

    #[test]
    fn a_list_does_not_end_in_one_second() {
        let mut table = table(0..10_000, Some(600 * SECOND), 0);
        let mut most = 0;
        for second in 0..=660 {
            let ended = table.ended(second * SECOND).len();
            assert!(ended == 0 || second >= 600, "{ended} ended after {second} s");
            most = most.max(ended);
            table.forget_ended(second * SECOND);
        }
        assert_eq!(table.len(), 0);
        assert!(most < 400, "{most} of 10000 entries ended in one second");
    }

    #[test]
    fn a_line_goes_before_its_list() {
        let entries = [
            Entry { key: host(1), ttl: None },
            Entry {
                key: host(2),
                ttl: Some(SECOND),
            },
        ];
        let forever = Table::new().change(&entries, None, 0).table;
        assert_eq!(forever.ended(u64::MAX - 1), [host(2)]);
        let listed = Table::new().change(&entries, Some(100 * SECOND), 0).table;
        assert_eq!(listed.ended(2 * SECOND), [host(2)]);
    }
}
