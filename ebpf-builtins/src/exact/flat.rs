//! Flat tables, for the longest IPv4 lists: each /16 has its node from the start, at a place that its number says.
//!
//! So programs begin there and do not read the root, which is one load less on the way of each packet. They are for lists
//! that would have many of these nodes anyway: all of them take 64 MiB a set. The root leads to them as to any other node: nothing else here needs to know.

use super::{Family, Meta, NODE, NODE_INDEX, NODE_SLOTS, ROOT, Tables};
use crate::abi::blocklist::FLAT_NODES;

impl Tables {
    /// Makes tables that are still empty flat. For IPv4.
    ///
    /// # Panics
    /// For IPv6.
    #[must_use]
    pub fn flat(mut self) -> Self {
        assert_eq!(
            self.family,
            Family::V4,
            "for IPv6 it would be the same for each /16 of all there are"
        );
        for set in 0..self.sets {
            for number in 0..FLAT_NODES {
                let node = self.nodes.take();
                self.meta.push(Meta {
                    base: u128::from(number) << 112,
                    byte: 2,
                    entries: 0,
                });
                let root = Self::slot(set * ROOT + (number >> 8), number % NODE_SLOTS as u32);
                self.nodes.set(root, self.word_of_node(node));
            }
        }
        self.fixed = self.nodes.next;
        self
    }

    #[must_use]
    pub fn is_flat(&self) -> bool {
        self.fixed > ROOT * self.sets
    }

    /// How many nodes are always there: no entry needs room for them.
    #[must_use]
    pub fn fixed(&self) -> u32 {
        self.fixed
    }

    pub(super) fn leads_to_fixed(&self, word: u32) -> bool {
        word & NODE != 0 && word & NODE_INDEX < self.fixed
    }
}
