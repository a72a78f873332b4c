//! The exact tables: longest prefix in a few loads, for lists of thousands to millions of entries.
//!
//! Layout: `abi::blocklist::NODE_SLOTS`. User space builds and changes them (`weir_ebpf_builtins::exact`) by stores of
//! single words, and reuses nothing before a grace period of RCU; so every load here sees the list before or after a change.

use crate::abi::blocklist::{FLAT_NODES, IPV4, IPV6, NODE, NODE_BYTE_SHIFT, NODE_INDEX, NODE_SLOTS, SIBLINGS, SIEVE_WORDS};
use crate::abi::{Lpm4, Lpm6, Record4, Record6};
use crate::common::map::SharedArray;
use crate::common::setting;
use crate::{ATOMIC, FLAT, Halves, Match, NODES4, NODES6, RECORDS4, RECORDS6, SIEVE, SIEVE4, SIEVE6};
use core::mem::offset_of;
use core::ptr::NonNull;

type Nodes<const MAX: usize> = SharedArray<[u32; NODE_SLOTS], MAX>;

/// Loads a word that user space may change at any time.
#[inline(always)]
fn load<T>(at: NonNull<T>, offset: usize) -> u32 {
    // SAFETY: in an element of a map, aligned, by the callers below.
    unsafe { at.cast::<u32>().byte_add(offset).read_volatile() }
}

#[inline(always)]
fn load64<T>(at: NonNull<T>, offset: usize) -> u64 {
    // SAFETY: as above.
    unsafe { at.cast::<u64>().byte_add(offset).read_volatile() }
}

/// The node of the first byte.
#[inline(always)]
fn root(second: bool, byte: u32) -> u32 {
    byte + if second { NODE_SLOTS as u32 } else { 0 }
}

/// Follows nodes from a slot of one, at most `LEVELS` more; returns the record to start with, or 0.
#[inline(always)]
fn descend<const MAX: usize, const LEVELS: u32>(
    nodes: &'static Nodes<MAX>,
    node: u32,
    slot: u32,
    byte: impl Fn(u32) -> u32,
) -> Option<u32> {
    let mut slot = load(nodes.get(&node)?, (slot & 0xff) as usize * 4);
    for _ in 0..LEVELS {
        if slot & NODE == 0 {
            break;
        }
        let node = nodes.get(&(slot & NODE_INDEX))?;
        slot = load(node, byte(slot >> NODE_BYTE_SHIFT) as usize * 4);
    }
    Some(slot)
}

/// Whether an entry has anything to do with a /24, given by its number.
#[inline(always)]
fn sieved(sieve: &'static SharedArray<u64, 1>, second: bool, block: u32) -> bool {
    let word = (block >> 6) + if second { SIEVE_WORDS } else { 0 };
    sieve.get(&word).is_some_and(|word| load64(word, 0) >> (block & 63) & 1 != 0)
}

/// Finds the longest entry that covers an address, which is in network order.
#[inline(always)]
pub fn find4(second: bool, addr: u32) -> Option<Match<Lpm4>> {
    let bits = u32::from_be(addr);
    if setting!(SIEVE) & IPV4 != 0 && !sieved(&SIEVE4, second, bits >> 8) {
        return None;
    }
    let byte = |number: u32| bits >> ((number & 3 ^ 3) * 8) & 0xff;
    let mut record = if setting!(FLAT) != 0 {
        let roots = if setting!(ATOMIC) != 0 { 2 } else { 1 } * NODE_SLOTS as u32;
        let set = if second { FLAT_NODES } else { 0 };
        descend::<_, 1>(&NODES4, roots + set + (bits >> 16), bits >> 8, byte)?
    } else {
        descend::<_, 2>(&NODES4, root(second, bits >> 24), bits >> 16, byte)?
    };
    // Those of the slot, then one that covers it for each shorter length.
    for _ in 0..SIBLINGS + 33 {
        if record == 0 {
            break;
        }
        let at = RECORDS4.get(&record)?;
        let (key, mask) = (offset_of!(Record4, key), offset_of!(Record4, mask));
        if (load(at, key + offset_of!(Lpm4, addr)) ^ addr) & load(at, mask) == 0 {
            // SAFETY: in the element. The entry of a record never changes as long as programs may see it.
            return Some(unsafe {
                Match {
                    key: at.cast::<Lpm4>().byte_add(key).as_ref(),
                    hits: Some(at.cast().byte_add(offset_of!(Record4, hits))),
                }
            });
        }
        record = load(at, offset_of!(Record4, next));
    }
    None
}

/// Finds the longest entry that covers an address.
#[inline(always)]
pub fn find6(second: bool, addr: Halves) -> Option<Match<Lpm6>> {
    let (high, low) = (u64::from_be(addr.high), u64::from_be(addr.low));
    if setting!(SIEVE) & IPV6 != 0 && !sieved(&SIEVE6, second, (high >> 40) as u32) {
        return None;
    }
    let byte = |number: u32| {
        // Without a branch, which would become a table of the two.
        let lower = 0_u64.wrapping_sub(u64::from(number >> 3 & 1));
        let half = high & !lower | low & lower;
        (half >> ((number & 7 ^ 7) * 8)) as u32 & 0xff
    };
    let mut record = descend::<_, 14>(&NODES6, root(second, (high >> 56) as u32), (high >> 48) as u32, byte)?;
    for _ in 0..SIBLINGS + 129 {
        if record == 0 {
            break;
        }
        let at = RECORDS6.get(&record)?;
        let key = offset_of!(Record6, key);
        let len = load(at, key + offset_of!(Lpm6, len_bits));
        let differs = u64::from_be(load64(at, key + offset_of!(Lpm6, addr)) ^ addr.high);
        let matches = if len <= 64 {
            // A shift by all bits is none for the machine.
            len == 0 || differs >> (64 - len & 63) == 0
        } else {
            let differs_low = u64::from_be(load64(at, key + offset_of!(Lpm6, addr) + 8) ^ addr.low);
            differs == 0 && differs_low >> (128 - len & 63) == 0
        };
        if matches {
            // SAFETY: as above.
            return Some(unsafe {
                Match {
                    key: at.cast::<Lpm6>().byte_add(key).as_ref(),
                    hits: Some(at.cast().byte_add(offset_of!(Record6, hits))),
                }
            });
        }
        record = load(at, offset_of!(Record6, next));
    }
    None
}
