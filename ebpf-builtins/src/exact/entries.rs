//! The entries of tables that somebody else has made, from their memory alone: for whoever takes over what a process has left.
//!
//! What lies there is believed as far as it is harmless: whatever it is, this ends, and reads nothing that is not there.

use super::{Bits, Family, Memory, NODE, NODE_INDEX, NODE_SLOTS, ROOT};
use std::sync::atomic::{AtomicU32, Ordering};

/// Nodes on the way to an entry: one for each byte of an address at most.
const DEEPEST: usize = 16;

/// Hands the entries of a set to `each`, sorted by address, then length.
pub fn entries(family: Family, set: u32, nodes: &Memory, records: &Memory, each: &mut dyn FnMut(Bits)) {
    let (nodes, records) = (nodes.words(), records.words());
    let mut walk = Walk {
        family,
        nodes,
        records,
        seen_nodes: Seen::new(nodes.len() / NODE_SLOTS),
        seen_records: Seen::new(records.len() / family.record_words()),
        chain: Vec::new(),
        each,
    };
    for root in set * ROOT..(set + 1) * ROOT {
        walk.node(root, 1);
    }
}

/// A bit for each of so many elements.
struct Seen {
    bits: Vec<u64>,
    count: usize,
}

impl Seen {
    fn new(count: usize) -> Self {
        Self {
            bits: vec![0; count.div_ceil(64)],
            count,
        }
    }

    /// Whether this one is there, and is seen for the first time.
    fn is_new(&mut self, index: u32) -> bool {
        let index = index as usize;
        if index >= self.count {
            return false;
        }
        let (word, bit) = (&mut self.bits[index / 64], 1 << (index % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

struct Walk<'m> {
    family: Family,
    nodes: &'m [AtomicU32],
    records: &'m [AtomicU32],
    seen_nodes: Seen,
    seen_records: Seen,
    /// Of one slot; here, so that not every slot makes one.
    chain: Vec<Bits>,
    each: &'m mut dyn FnMut(Bits),
}

impl Walk<'_> {
    /// Slots are in the order of addresses, and whatever covers several begins in the first of them.
    fn node(&mut self, node: u32, depth: usize) {
        // Only in garbage the way down is longer, and as long as there are nodes; the stack is not.
        if depth > DEEPEST || !self.seen_nodes.is_new(node) {
            return;
        }
        let nodes = self.nodes;
        let begin = node as usize * NODE_SLOTS;
        let mut last = 0;
        for slot in &nodes[begin..begin + NODE_SLOTS] {
            let word = slot.load(Ordering::Relaxed);
            // Neighbours mostly have the same cover.
            if word == last {
                continue;
            }
            last = word;
            if word & NODE != 0 {
                self.node(word & NODE_INDEX, depth + 1);
            } else {
                self.chain(word);
            }
        }
    }

    fn chain(&mut self, mut record: u32) {
        // Behind one that has been seen are those that were seen with it. 0 is none.
        while record != 0 && self.seen_records.is_new(record) {
            let at = record as usize * self.family.record_words();
            let word = |i: usize| self.records[at + i].load(Ordering::Relaxed);
            self.chain.push(self.family.key(word));
            record = word(0);
        }
        // The longest come first there.
        self.chain.sort_unstable();
        self.chain.drain(..).for_each(&mut *self.each);
    }
}
