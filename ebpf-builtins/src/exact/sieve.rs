//! The sieve of a long list: a bit for each /24, set if an entry covers some of it or lies in it. Of IPv6, too: most of its /24s are given to nobody.
//!
//! A packet whose address is in none of them is judged by one load, from 2 MiB instead of from nodes of up to 64. A bit is set before the
//! entry is there and taken back after it has gone, so a program that sees no bit sees the list before or after the change. A bit too many
//! is no fault: programs look further, and find nothing.

use super::{Bits, Memory, NODE, NODE_BYTE_SHIFT, NODE_INDEX, NoRoom, ROOT, Tables, byte_of, mask};
use crate::abi::blocklist::SIEVE_WORDS;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of an address that a bit stands for.
const WIDTH: u32 = 24;
/// Of a slot of the root.
const BLOCKS_OF_ROOT: usize = 256;

/// The /24s of a prefix.
fn blocks((bits, len): Bits) -> std::ops::Range<u32> {
    let first = block(bits);
    first..first + (1 << WIDTH.saturating_sub(len))
}

fn block(bits: u128) -> u32 {
    (bits >> (128 - WIDTH)) as u32
}

fn place(block: u32) -> (usize, u64) {
    (block as usize / 64, 1 << (block % 64))
}

impl Tables {
    /// Gives tables that are still empty a sieve.
    #[must_use]
    pub fn with_sieve(mut self) -> Self {
        let words = SIEVE_WORDS * self.sets;
        self.sieve = Some(Memory::Own((0..words).map(|_| AtomicU64::new(0)).collect()));
        self
    }

    /// Whether there is a sieve, which then wants a place in a map, too.
    #[must_use]
    pub fn has_sieve(&self) -> bool {
        self.sieve.is_some()
    }

    /// Moves the sieve to the memory of a map, which must be zero, before programs look into it.
    ///
    /// # Errors
    /// When it is too small.
    pub fn move_sieve_to(&mut self, memory: Memory) -> Result<(), NoRoom> {
        if let Some(old) = &self.sieve {
            let new = memory.counters().get(..old.counters().len()).ok_or(NoRoom)?;
            for (old, new) in old.counters().iter().zip(new) {
                // Most of it is zero, as the map is, so most stores can be left out.
                match old.load(Ordering::Relaxed) {
                    0 => {}
                    word => new.store(word, Ordering::Relaxed),
                }
            }
            self.sieve = Some(memory);
        }
        Ok(())
    }

    /// The words of a set's sieve.
    fn sieve(&self, set: u32) -> Option<&[AtomicU64]> {
        let words = SIEVE_WORDS as usize;
        self.sieve
            .as_ref()
            .map(|memory| &memory.counters()[set as usize * words..][..words])
    }

    /// Whether the sieve lets an address through to the tables.
    pub(super) fn sieved(&self, set: u32, addr: u128) -> bool {
        let (word, bit) = place(block(addr));
        self.sieve(set).is_none_or(|sieve| sieve[word].load(Ordering::Relaxed) & bit != 0)
    }

    /// Sets the bits of an entry that is about to be added.
    pub(super) fn mark(&self, set: u32, key: Bits) {
        let Some(sieve) = self.sieve(set) else { return };
        let blocks = blocks(key);
        if blocks.len() >= 64 {
            let words = blocks.start as usize / 64..blocks.end as usize / 64;
            sieve[words].iter().for_each(|word| word.store(u64::MAX, Ordering::Release));
            return;
        }
        let (word, bit) = place(blocks.start);
        let bits = (bit << blocks.len()).wrapping_sub(bit);
        let before = sieve[word].load(Ordering::Relaxed);
        if before & bits != bits {
            // Nobody else writes, so this needs no exchange; and what leads to the entry is stored behind it.
            sieve[word].store(before | bits, Ordering::Release);
        }
    }

    /// Takes back the bits of an entry that has been taken out, where no other needs them.
    pub(super) fn unmark(&self, set: u32, key: Bits) {
        let Some(sieve) = self.sieve(set) else { return };
        // What covers all of it covers each /24 of it.
        if self.longest(self.leaf(set, key.0), key.0, key.1) != 0 {
            return;
        }
        let blocks = blocks(key);
        if blocks.len() < BLOCKS_OF_ROOT {
            let root = self.root_word(set, blocks.start);
            for number in blocks {
                if !self.touches(root, number) {
                    let (word, bit) = place(number);
                    sieve[word].store(sieve[word].load(Ordering::Relaxed) & !bit, Ordering::Release);
                }
            }
            return;
        }
        for first in blocks.step_by(BLOCKS_OF_ROOT) {
            let words = self.words_of(self.root_word(set, first), first);
            for (at, word) in sieve[place(first).0..].iter().zip(words) {
                at.store(word, Ordering::Release);
            }
        }
    }

    /// The bits of all /24s below a slot of the root.
    fn words_of(&self, mut root: u32, first: u32) -> [u64; BLOCKS_OF_ROOT / 64] {
        let mut words = [0; BLOCKS_OF_ROOT / 64];
        let mut add = |number: u32| words[number as usize % BLOCKS_OF_ROOT / 64] |= place(number).1;
        let all = first..first + BLOCKS_OF_ROOT as u32;
        if root & NODE != 0 {
            all.filter(|number| self.touches(root, *number)).for_each(add);
            return words;
        }
        while root != 0 {
            let own = blocks(self.key(root));
            if own.len() >= BLOCKS_OF_ROOT {
                return [u64::MAX; _];
            }
            (own.start.max(all.start)..own.end.min(all.end)).for_each(&mut add);
            root = self.next(root);
        }
        words
    }

    /// Takes back all bits of a set.
    pub(super) fn unmark_all(&self, set: u32) {
        for word in self.sieve(set).into_iter().flatten() {
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Release);
            }
        }
    }

    /// The slot that the first two bytes of a /24 select.
    fn root_word(&self, set: u32, block: u32) -> u32 {
        self.nodes.word(Self::slot(set * ROOT + (block >> 16), block >> 8 & 0xff))
    }

    /// Whether an entry covers a /24 or lies in it.
    fn touches(&self, mut word: u32, number: u32) -> bool {
        let addr = u128::from(number) << (128 - WIDTH);
        while word & NODE != 0 {
            let (node, byte) = (word & NODE_INDEX, word >> NODE_BYTE_SHIFT & 0x7f);
            let meta = self.meta[node as usize];
            if 8 * byte >= WIDTH && block(meta.base) == number && meta.entries > 0 {
                return true;
            }
            // Of a node of another /24, only what covers it matters, which any way down leads to.
            word = self.nodes.word(Self::slot(node, byte_of(addr, byte)));
        }
        while word != 0 {
            let (bits, len) = self.key(word);
            if (bits ^ addr) & mask(len.min(WIDTH)) == 0 {
                return true;
            }
            word = self.next(word);
        }
        false
    }
}
