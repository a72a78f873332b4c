//! Random changes beside a linear search.

use super::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// xorshift64*: the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.next() >> 33) as u32 % end
    }

    fn address(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

fn longest(list: &BTreeSet<Bits>, addr: u128) -> Option<u32> {
    list.iter()
        .filter(|(bits, len)| (bits ^ addr) & mask(*len) == 0)
        .map(|(_, len)| *len)
        .max()
}

/// Prefixes that lie close together, so that they nest, share bytes, fill chains.
fn prefix(random: &mut Random, width: u32) -> Bits {
    let len = match random.below(4) {
        0 => random.below(width + 1),
        1 => width,
        2 => width - random.below(10),
        _ => 8 * random.below(width / 8 + 1),
    };
    let mut bits = 0x2001_0db8_0000_0000_u128 << 64;
    for _ in 0..random.below(4) {
        // One of a few values in a byte.
        bits ^= u128::from(random.below(5)) << (128 - width + 8 * random.below(width / 8));
    }
    if random.below(3) == 0 {
        bits ^= random.address() >> random.below(width) & mask(width);
    }
    (bits & mask(len), len)
}

fn listed(tables: &Tables, set: u32) -> Vec<Bits> {
    let mut all = Vec::new();
    entries(tables.family, set, &tables.nodes.memory, &tables.records.memory, &mut |key| {
        all.push(key)
    });
    all
}

fn agree(tables: &Tables, set: u32, list: &BTreeSet<Bits>, random: &mut Random, width: u32) {
    let mut addresses: Vec<u128> = (0..60)
        .map(|_| prefix(random, width).0 | random.address() >> width.min(120))
        .collect();
    for (bits, len) in list {
        // Both ends, and beyond.
        let last = bits | !mask(*len) & mask(width);
        let one = 1_u128 << (128 - width);
        addresses.extend([*bits, last, bits.wrapping_sub(one), last.wrapping_add(one)]);
    }
    assert!(listed(tables, set).iter().eq(list), "set {set}");
    for addr in addresses {
        let addr = addr & mask(width);
        assert_eq!(tables.find(set, addr), longest(list, addr), "{addr:032x}");
        if tables.has_sieve() {
            // Not a bit too many, either.
            let near = list.iter().any(|(bits, len)| (bits ^ addr) & mask(*len).min(mask(24)) == 0);
            assert_eq!(tables.sieved(set, addr), near, "{addr:032x}");
        }
    }
}

#[test]
fn random_changes_agree_with_a_linear_search() {
    for seed in 1..=30_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (family, width) = if seed % 2 == 0 { (Family::V4, 32) } else { (Family::V6, 128) };
        let mut tables = Tables::new(family, 1);
        if matches!(seed, 5 | 10 | 15 | 20 | 25) {
            tables = tables.with_sieve();
        }
        if seed == 10 {
            tables = tables.flat();
        }
        let mut list = BTreeSet::new();
        for step in 0..400 {
            if step == 150 {
                let memory = |words: usize| Memory::Own((0..words).map(|_| AtomicU64::new(0)).collect());
                let nodes = if tables.is_flat() { 66_560 * 128 } else { 1 << 19 };
                tables.move_to(memory(nodes), memory(1 << 19)).unwrap();
                tables.move_sieve_to(memory(1 << 18)).unwrap();
            }
            let key = prefix(&mut random, width);
            if tables.is_flat() && key.1 < 8 {
                // It would be in millions of slots.
                continue;
            }
            if random.below(3) > 0 {
                assert_eq!(tables.insert(0, key), Ok(list.insert(key)), "{key:x?}");
            }
            let gone = match random.below(4) {
                0 => list.iter().nth(random.below(list.len().max(1) as u32) as usize).copied(),
                1 => Some(prefix(&mut random, width)),
                _ => None,
            };
            if let Some(gone) = gone {
                assert_eq!(tables.remove(0, gone), list.remove(&gone), "{gone:x?}");
            }
            if step % 40 == 39 {
                agree(&tables, 0, &list, &mut random, width);
                tables.reclaim();
            }
        }
        for key in std::mem::take(&mut list) {
            assert!(tables.remove(0, key));
        }
        agree(&tables, 0, &list, &mut random, width);
        if let Some(sieve) = &tables.sieve {
            assert!(sieve.counters().iter().all(|word| word.load(Ordering::Relaxed) == 0), "seed {seed}");
        }
        // Nothing is lost: no node but the first, no record.
        tables.reclaim();
        assert_eq!(
            tables.nodes.next as usize - tables.nodes.free.len(),
            tables.fixed as usize,
            "seed {seed}"
        );
        assert_eq!(tables.records.next as usize - tables.records.free.len(), 1, "seed {seed}");
    }
}

#[test]
fn hits_stay_with_their_entries() {
    for (family, width) in [(Family::V4, 32), (Family::V6, 128)] {
        let mut random = Random(11);
        let mut tables = Tables::new(family, 2);
        let memory = || Memory::Own((0..1 << 18).map(|_| AtomicU64::new(0)).collect());
        tables.move_to(memory(), memory()).unwrap();
        let (mut list, mut expected) = (BTreeSet::new(), std::collections::BTreeMap::<Bits, u64>::new());
        let mut gone = std::collections::BTreeMap::<Bits, u64>::new();
        for step in 0..1000_u64 {
            let key = prefix(&mut random, width);
            let set = random.below(2);
            if random.below(2) == 0 {
                tables.insert(set, key).unwrap();
                list.insert((set, key));
            } else if let Some((set, key)) = list.iter().nth(random.below(list.len().max(1) as u32) as usize).copied() {
                tables.remove(set, key);
                list.remove(&(set, key));
            }
            // Counted as programs do, some of it in records that are being taken out.
            let record = 1 + random.below(tables.records.next.max(2) - 1);
            if tables.records.next > 1 && !tables.records.free.contains(&record) {
                tables.counters(record)[0].fetch_add(step + 1, Ordering::Relaxed);
                tables.counters(record)[1].fetch_add(2 * (step + 1), Ordering::Relaxed);
                *expected.entry(tables.key(record)).or_default() += step + 1;
            }
            if step % 50 == 49 {
                tables.reclaim();
                for (key, hits) in tables.gone() {
                    assert!(!list.contains(&(0, key)) && !list.contains(&(1, key)), "{key:x?}");
                    *gone.entry(key).or_default() += hits.packets;
                }
            }
        }
        let mut counted = gone;
        for (key, hits) in tables.hits() {
            assert_eq!(hits.bytes, 2 * hits.packets);
            *counted.entry(key).or_default() += hits.packets;
        }
        assert_eq!(counted, expected);
        // Cleared sets: all of it is gone, none of it lost.
        (0..2).for_each(|set| tables.clear(set));
        tables.reclaim();
        let sum: u64 = tables.gone().iter().map(|(_, hits)| hits.packets).sum();
        assert!(sum > 0 && tables.hits().next().is_none());
    }
}

#[test]
fn two_sets_do_not_disturb_each_other() {
    two_sets(Tables::new(Family::V4, 2).with_sieve());
}

#[test]
fn two_flat_sets_do_not_disturb_each_other() {
    two_sets(Tables::new(Family::V4, 2).with_sieve().flat());
}

fn two_sets(mut tables: Tables) {
    let mut random = Random(7);
    let least = if tables.is_flat() { 7 } else { 0 };
    let lists: [BTreeSet<Bits>; 2] = std::array::from_fn(|_| {
        let all = (0..600).map(|_| prefix(&mut random, 32));
        all.filter(|(_, len)| *len >= least).collect()
    });
    for (set, list) in (0..).zip(&lists) {
        for key in list {
            assert_eq!(tables.insert(set, *key), Ok(true));
        }
    }
    (0..).zip(&lists).for_each(|(set, list)| agree(&tables, set, list, &mut random, 32));
    tables.clear(0);
    agree(&tables, 0, &BTreeSet::new(), &mut random, 32);
    agree(&tables, 1, &lists[1], &mut random, 32);
    tables.clear(1);
    assert_eq!(tables.nodes.next as usize - tables.nodes.free.len(), tables.fixed as usize);
    assert_eq!(tables.records.next as usize - tables.records.free.len(), 1);
}

#[test]
fn no_room_changes_nothing() {
    let mut tables = Tables::new(Family::V4, 1);
    let memory = |words: usize| Memory::Own((0..words / 2).map(|_| AtomicU64::new(0)).collect());
    assert_eq!(tables.move_to(memory(NODE_SLOTS), memory(64)), Err(NoRoom));
    assert_eq!(Tables::new(Family::V4, 2).with_sieve().move_sieve_to(memory(1 << 19)), Err(NoRoom));
    let lend = |words: usize| {
        let memory: &'static [AtomicU64] = Vec::leak((0..words / 2).map(|_| AtomicU64::new(0)).collect());
        Memory::Lent {
            memory,
            owner: Box::new(()),
        }
    };
    tables.move_to(lend(NODE_SLOTS * 300), lend(8 * 40)).unwrap();
    let key = |i: u32| (u128::from(0x0a00_0000 + i) << 96, 32);
    let added = (0..100).take_while(|i| tables.insert(0, key(*i)) == Ok(true)).count();
    assert!((20..40).contains(&added), "{added}");
    let found = (0..100).filter(|i| tables.find(0, key(*i).0) == Some(32)).count();
    assert_eq!(found, added);
    // What goes makes room, once nobody can be looking at it.
    (0..15).for_each(|i| assert!(tables.remove(0, key(i))));
    assert_eq!(tables.insert(0, key(90)), Err(NoRoom));
    tables.reclaim();
    assert_eq!(tables.insert(0, key(90)), Ok(true));
}

/// Memory of whoever was here before: it ends, whatever lies there.
#[test]
fn garbage_has_some_entries_or_none() {
    let mut random = Random(5);
    let mut garbage = |len: u32| {
        let word = |random: &mut Random| match random.below(3) {
            0 => NODE | random.below(8) << 24 | random.below(len),
            1 => random.below(len),
            _ => random.next() as u32,
        };
        let words = (0..len).map(|_| AtomicU64::new(u64::from(word(&mut random)) << 32 | u64::from(word(&mut random))));
        Memory::Own(words.collect())
    };
    for (family, set) in [(Family::V4, 0), (Family::V6, 0), (Family::V4, 1)] {
        let (nodes, records) = (garbage(1 << 16), garbage(1 << 12));
        let mut count = 0;
        entries(family, set, &nodes, &records, &mut |_| count += 1);
        assert!((1..1 << 13).contains(&count), "{count}");
        // Not even a root.
        entries(family, set, &garbage(8), &records, &mut |_| unreachable!("it is in no node"));
    }
}

/// Each node leads to the next, as deep as there is memory: a walk has a stack for addresses, which end after sixteen bytes.
#[test]
fn a_chain_of_nodes_is_followed_as_far_as_addresses_go() {
    const LONG: u32 = 1000;
    let mut words = vec![0; (ROOT + LONG) as usize * NODE_SLOTS];
    let mut node = 0;
    for i in 0..LONG {
        let slots = &mut words[node as usize * NODE_SLOTS..];
        (slots[0], slots[1]) = (i + 1, NODE | (ROOT + i));
        node = ROOT + i;
    }
    let pairs = words
        .chunks(2)
        .map(|pair| AtomicU64::new(u64::from(pair[1]) << 32 | u64::from(pair[0])));
    let nodes = Memory::Own(pairs.collect());
    let records = Memory::Own((0..1 << 14).map(|_| AtomicU64::new(0)).collect());
    let mut count = 0;
    entries(Family::V6, 0, &nodes, &records, &mut |_| count += 1);
    assert_eq!(count, 16);
}
