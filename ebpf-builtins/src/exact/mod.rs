//! The exact tables of the blocklist, from user space: longest prefix for long lists, changed while programs look into them.
//!
//! What it is: a tree over the bytes of an address ([`crate::abi::blocklist::NODE_SLOTS`]) whose leaves are short chains of records, sorted
//! longest first, that end in the prefixes which cover the whole slot. A chain that gets too long becomes a node; a node steps over the bytes
//! that all its records have in common. One family, one set or two. What it is not: maps and system calls. It works on memory, its
//! own or a map's.
//!
//! Whoever looks up at the same time finds an entry or not, nothing in between: what is new is written before the one word is
//! stored that leads to it, and what has been taken out is used again only after [`Tables::reclaim`], which wants a grace period of RCU before it.
//!
//! Records carry the hits of their entries. One that is taken out may still be counted in until then; what it has goes to the entry's record of
//! now, or is [`Tables::gone`] where the entry itself has been taken out. So nothing that was counted is lost.

use crate::abi::blocklist::{NODE, NODE_BYTE_SHIFT, NODE_INDEX, NODE_SLOTS, SIBLINGS};
use crate::abi::{Record4, Record6};
use std::collections::HashSet;

mod entries;
mod flat;
mod hits;
mod memory;
mod sieve;

pub use entries::entries;
pub use hits::Counted;
pub use memory::Memory;
use memory::Pool;

/// Nodes of one set that are always there: one for each value of the first byte.
const ROOT: u32 = 256;
/// A node with this many entries or less becomes a chain again. Less than [`SIBLINGS`], so that it does not come and go.
const COLLAPSE: u32 = 4;
/// Records and nodes that one insertion may need.
const RECORDS_AT_ONCE: usize = SIBLINGS as usize + 2;
const NODES_AT_ONCE: usize = 2;
/// No more: [`NODE_INDEX`].
const MOST_NODES: usize = 1 << NODE_BYTE_SHIFT;

/// A prefix: address in the upper bits, the rest zero, and length.
pub type Bits = (u128, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Words of a record: `Record4`, `Record6`.
    #[must_use]
    pub const fn record_words(self) -> usize {
        match self {
            Family::V4 => size_of::<Record4>() / 4,
            Family::V6 => size_of::<Record6>() / 4,
        }
    }

    /// Reads the entry of a record, given its words.
    fn key(self, word: impl Fn(usize) -> u32) -> Bits {
        let part = |i: usize| u128::from(u32::from_be(word(2 + i)));
        let bits = match self {
            Family::V4 => part(0) << 96,
            Family::V6 => part(0) << 96 | part(1) << 64 | part(2) << 32 | part(3),
        };
        (bits, word(1))
    }
}

/// There is no room for one more entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// A word that leads on: a slot of a node, or `next` of a record.
#[derive(Clone, Copy, Debug)]
enum Place {
    Slot(usize),
    Next(usize),
}

/// What user space alone knows of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Meta {
    /// The bytes before the node's own, the rest zero.
    base: u128,
    byte: u32,
    /// Entries in the node and below.
    entries: u32,
}

/// The nodes on the way to an entry: one for each byte at most.
#[derive(Default)]
struct Path {
    nodes: [u32; 16],
    len: usize,
}

impl Path {
    fn push(&mut self, node: u32) {
        self.nodes[self.len] = node;
        self.len += 1;
    }
}

/// The tables of one family.
#[derive(Debug)]
pub struct Tables {
    family: Family,
    nodes: Pool,
    records: Pool,
    meta: Vec<Meta>,
    /// A bit for each /24 of each set.
    sieve: Option<Memory>,
    /// Nodes before this one are always there.
    fixed: u32,
    sets: u32,
    /// Programs may be looking.
    live: bool,
    /// Hits of entries that have been taken out.
    gone: Vec<Counted>,
}

/// Which bits count in a prefix of this length.
fn mask(len: u32) -> u128 {
    u128::MAX.checked_shl(128 - len).unwrap_or(0)
}

fn byte_of(bits: u128, number: u32) -> u32 {
    (bits >> (120 - 8 * number)) as u32 & 0xff
}

/// The slots of a node that a prefix which ends in its byte covers.
fn range((bits, len): Bits, byte: u32) -> std::ops::Range<u32> {
    let first = byte_of(bits, byte);
    first..first + (1 << (8 * (byte + 1) - len))
}

impl Tables {
    /// Empty tables in memory of their own, with one set or two.
    #[must_use]
    pub fn new(family: Family, sets: u32) -> Self {
        let root = ROOT * sets;
        let mut meta = vec![Meta::default(); root as usize];
        for (index, meta) in (0..root).zip(&mut meta) {
            meta.base = u128::from(index % ROOT) << 120;
            meta.byte = 1;
        }
        Self {
            family,
            nodes: Pool::new(NODE_SLOTS, root, MOST_NODES),
            // Index 0 is none.
            records: Pool::new(family.record_words(), 1, 1 << 31),
            meta,
            sieve: None,
            fixed: root,
            sets,
            live: false,
            gone: Vec::new(),
        }
    }

    /// How many nodes and records are, or have been, in use: so many elements must the maps have at least.
    #[must_use]
    pub fn used(&self) -> (u32, u32) {
        (self.nodes.next, self.records.next)
    }

    /// Moves to the memory of maps, which must be zero. From now on, programs may look, and there is no more room than this.
    ///
    /// # Errors
    /// When it is too small for what there is.
    pub fn move_to(&mut self, nodes: Memory, records: Memory) -> Result<(), NoRoom> {
        self.nodes.move_to(nodes)?;
        self.records.move_to(records)?;
        self.live = true;
        Ok(())
    }

    /// Adds an entry to a set; `false` if it is there.
    ///
    /// # Errors
    /// No room; nothing has changed.
    pub fn insert(&mut self, set: u32, key: Bits) -> Result<bool, NoRoom> {
        if !self.nodes.has(NODES_AT_ONCE) || !self.records.has(RECORDS_AT_ONCE) {
            return Err(NoRoom);
        }
        self.mark(set, key);
        let mut path = Path::default();
        let added = if key.1 < 8 {
            self.insert_wide(set, key)
        } else {
            self.insert_at(set * ROOT + byte_of(key.0, 0), key, &mut path)
        };
        if added {
            path.nodes[..path.len]
                .iter()
                .for_each(|node| self.meta[*node as usize].entries += 1);
        }
        Ok(added)
    }

    /// Whether there is something for [`Self::reclaim`].
    #[must_use]
    pub fn has_limbo(&self) -> bool {
        !self.nodes.limbo.is_empty() || !self.records.limbo.is_empty()
    }

    /// Uses again what was taken out. After a grace period of RCU: nobody must be looking at it.
    pub fn reclaim(&mut self) {
        let nodes = std::mem::take(&mut self.nodes.limbo);
        self.nodes.free.extend(nodes);
        let records = std::mem::take(&mut self.records.limbo);
        self.free_records(records);
    }

    /// Finds the record of an entry.
    fn record_of(&self, set: u32, key: Bits) -> Option<u32> {
        let mut word = self.leaf(set, key.0);
        while word != 0 && self.key(word) != key {
            word = self.next(word);
        }
        (word != 0).then_some(word)
    }

    /// Follows nodes to the records that an address is to be compared with.
    fn leaf(&self, set: u32, addr: u128) -> u32 {
        let mut word = self.nodes.word(Self::slot(set * ROOT + byte_of(addr, 0), byte_of(addr, 1)));
        while word & NODE != 0 {
            word = self
                .nodes
                .word(Self::slot(word & NODE_INDEX, byte_of(addr, word >> NODE_BYTE_SHIFT & 0x7f)));
        }
        word
    }

    /// Looks an address up, as the programs do. Returns the length of the longest entry.
    #[must_use]
    pub fn find(&self, set: u32, addr: u128) -> Option<u32> {
        if !self.sieved(set, addr) {
            return None;
        }
        let record = self.longest(self.leaf(set, addr), addr, 128);
        (record != 0).then(|| self.len(record))
    }

    /// Finds, from a slot's first record on, the longest entry of at most `most` bits that covers an address; 0: none.
    fn longest(&self, mut word: u32, addr: u128, most: u32) -> u32 {
        while word != 0 {
            let (bits, len) = self.key(word);
            if len <= most && (bits ^ addr) & mask(len) == 0 {
                break;
            }
            word = self.next(word);
        }
        word
    }

    fn slot(node: u32, slot: u32) -> usize {
        node as usize * NODE_SLOTS + slot as usize
    }

    fn word(&self, place: Place) -> u32 {
        match place {
            Place::Slot(at) => self.nodes.word(at),
            Place::Next(at) => self.records.word(at),
        }
    }

    fn set(&self, place: Place, word: u32) {
        match place {
            Place::Slot(at) => self.nodes.set(at, word),
            Place::Next(at) => self.records.set(at, word),
        }
    }

    fn at(&self, record: u32) -> usize {
        record as usize * self.records.size
    }

    fn next(&self, record: u32) -> u32 {
        self.records.word(self.at(record))
    }

    fn next_of(&self, record: u32) -> Place {
        Place::Next(self.at(record))
    }

    fn len(&self, record: u32) -> u32 {
        self.records.word(self.at(record) + 1)
    }

    fn key(&self, record: u32) -> Bits {
        let at = self.at(record);
        self.family.key(|i| self.records.word(at + i))
    }

    /// Writes a record that nobody sees yet.
    fn record(&mut self, (bits, len): Bits, next: u32) -> u32 {
        let record = self.records.take();
        let at = self.at(record);
        let word = |bits: u128, i: u32| ((bits >> (96 - 32 * i)) as u32).to_be();
        self.records.set(at, next);
        self.records.set(at + 1, len);
        match self.family {
            Family::V4 => {
                self.records.set(at + 2, word(bits, 0));
                self.records.set(at + 3, word(mask(len), 0));
            }
            Family::V6 => (0..4).for_each(|i| self.records.set(at + 2 + i as usize, word(bits, i))),
        }
        record
    }

    fn drop_record(&mut self, record: u32) {
        if self.live {
            &mut self.records.limbo
        } else {
            &mut self.records.free
        }
        .push(record);
    }

    fn drop_node(&mut self, node: u32) {
        if self.live { &mut self.nodes.limbo } else { &mut self.nodes.free }.push(node);
    }

    /// Makes a node whose slots all lead to `cover`; nobody sees it yet.
    fn node(&mut self, bits: u128, byte: u32, cover: u32) -> u32 {
        let node = self.nodes.take();
        (0..NODE_SLOTS as u32).for_each(|slot| self.nodes.set(Self::slot(node, slot), cover));
        if self.meta.len() <= node as usize {
            self.meta.resize(node as usize + 1, Meta::default());
        }
        self.meta[node as usize] = Meta {
            base: bits & mask(8 * byte),
            byte,
            entries: 0,
        };
        node
    }

    fn word_of_node(&self, node: u32) -> u32 {
        NODE | self.meta[node as usize].byte << NODE_BYTE_SHIFT | node
    }

    /// Finds, from a word that leads to part of a prefix, the longest entry of at most `len` bits that covers it. Any way down meets all of
    /// those at its end.
    fn cover(&self, mut word: u32, len: u32) -> u32 {
        while word & NODE != 0 {
            word = self.nodes.word(Self::slot(word & NODE_INDEX, 0));
        }
        while word != 0 && self.len(word) > len {
            word = self.next(word);
        }
        word
    }

    /// A prefix of less than a byte: it ends before the first node, in all slots of several of them.
    fn insert_wide(&mut self, set: u32, key: Bits) -> bool {
        let roots = range(key, 0);
        let parent = self.cover(self.nodes.word(Self::slot(set * ROOT + roots.start, 0)), key.1);
        if parent != 0 && self.len(parent) == key.1 {
            return false;
        }
        let record = self.record(key, parent);
        for root in roots {
            (0..NODE_SLOTS as u32).for_each(|slot| self.push(Place::Slot(Self::slot(set * ROOT + root, slot)), record, key.1));
        }
        true
    }

    /// Puts a covering record behind everything longer.
    fn push(&self, mut place: Place, record: u32, len: u32) {
        let mut word = self.word(place);
        if word & NODE != 0 {
            let node = word & NODE_INDEX;
            (0..NODE_SLOTS as u32).for_each(|slot| self.push(Place::Slot(Self::slot(node, slot)), record, len));
            return;
        }
        while word != 0 && self.len(word) > len {
            place = self.next_of(word);
            word = self.word(place);
        }
        if word != record {
            self.set(place, record);
        }
    }

    /// Takes a covering record out.
    fn pop(&self, mut place: Place, record: u32, len: u32) {
        let mut word = self.word(place);
        if word & NODE != 0 {
            let node = word & NODE_INDEX;
            (0..NODE_SLOTS as u32).for_each(|slot| self.pop(Place::Slot(Self::slot(node, slot)), record, len));
            return;
        }
        while word != 0 && self.len(word) > len {
            place = self.next_of(word);
            word = self.word(place);
        }
        if word == record {
            self.set(place, self.next(record));
        }
    }

    /// Adds an entry below a node whose bytes it has. `path` gets the nodes that it is in.
    fn insert_at(&mut self, mut node: u32, key: Bits, path: &mut Path) -> bool {
        loop {
            path.push(node);
            let byte = self.meta[node as usize].byte;
            let end = 8 * (byte + 1);
            if key.1 <= end {
                return self.insert_cover(node, range(key, byte), key);
            }
            let place = Place::Slot(Self::slot(node, byte_of(key.0, byte)));
            let word = self.word(place);
            if word & NODE == 0 {
                return self.insert_chained(place, end, key);
            }
            let child = word & NODE_INDEX;
            let Meta { base, byte, entries, .. } = self.meta[child as usize];
            let common = (base ^ key.0).leading_zeros().min(key.1);
            if common >= 8 * byte {
                node = child;
                continue;
            }
            // It ends in, or differs in, the bytes that the child steps over: a node in between.
            let cover = self.cover(word, end);
            let between = self.node(key.0, common / 8, cover);
            self.nodes.set(Self::slot(between, byte_of(base, common / 8)), word);
            self.meta[between as usize].entries = entries;
            // Complete before anybody sees it.
            path.push(between);
            let added = self.insert_once(between, key);
            self.set(place, self.word_of_node(between));
            return added;
        }
    }

    /// Adds an entry to a node that it is not below any child of.
    fn insert_once(&mut self, node: u32, key: Bits) -> bool {
        let byte = self.meta[node as usize].byte;
        if key.1 <= 8 * (byte + 1) {
            return self.insert_cover(node, range(key, byte), key);
        }
        let place = Place::Slot(Self::slot(node, byte_of(key.0, byte)));
        self.insert_chained(place, 8 * (byte + 1), key)
    }

    fn insert_cover(&mut self, node: u32, slots: std::ops::Range<u32>, key: Bits) -> bool {
        let parent = self.cover(self.nodes.word(Self::slot(node, slots.start)), key.1);
        if parent != 0 && self.len(parent) == key.1 {
            return false;
        }
        let record = self.record(key, parent);
        for slot in slots {
            self.push(Place::Slot(Self::slot(node, slot)), record, key.1);
        }
        true
    }

    /// Adds an entry to the chain of a slot, which covers `end` bits; a chain that is full becomes a node.
    fn insert_chained(&mut self, slot: Place, end: u32, key: Bits) -> bool {
        // The chain's entries and records; the last place is for the new one.
        let mut members = [((0, 0), 0); SIBLINGS as usize + 1];
        let mut count = 0;
        let mut place = slot;
        let mut word = self.word(slot);
        let mut before = slot;
        while word != 0 && self.len(word) > end {
            let member = self.key(word);
            if member == key {
                return false;
            }
            members[count] = (member, word);
            count += 1;
            place = self.next_of(word);
            word = self.word(place);
            if member.1 > key.1 {
                before = place;
            }
        }
        if count < SIBLINGS as usize {
            let record = self.record(key, self.word(before));
            self.set(before, record);
            return true;
        }
        let cover = self.word(place);
        members[count] = (key, 0);
        let shortest = members.iter().map(|(member, _)| member.1).min().unwrap_or(0);
        let common = members.iter().map(|(member, _)| (member.0 ^ key.0).leading_zeros()).min();
        // The shortest has to end in the node's byte, or the records must differ in it: so no slot gets all of them.
        let byte = common.unwrap_or(0).min(shortest - 1) / 8;
        let node = self.node(key.0, byte, cover);
        // Those that cover others first.
        members.sort_unstable_by_key(|(member, _)| member.1);
        for (member, _) in &members {
            self.insert_once(node, *member);
        }
        // The new one, too: the node is not on the caller's path.
        self.meta[node as usize].entries = SIBLINGS + 1;
        self.set(slot, self.word_of_node(node));
        for (_, record) in members {
            if record != 0 {
                self.drop_record(record);
            }
        }
        true
    }

    /// Takes an entry out of a set; `false` if it is not there.
    ///
    /// Needs no room: a node that becomes a chain again stays a node if there is none.
    pub fn remove(&mut self, set: u32, key: Bits) -> bool {
        let removed = self.take_out(set, key);
        if removed {
            self.unmark(set, key);
        }
        removed
    }

    fn take_out(&mut self, set: u32, key: Bits) -> bool {
        if key.1 < 8 {
            let roots = range(key, 0);
            let record = self.cover(self.nodes.word(Self::slot(set * ROOT + roots.start, 0)), key.1);
            if record == 0 || self.key(record) != key {
                return false;
            }
            for root in roots {
                (0..NODE_SLOTS as u32).for_each(|slot| self.pop(Place::Slot(Self::slot(set * ROOT + root, slot)), record, key.1));
            }
            self.drop_record(record);
            return true;
        }
        // The nodes on the way, each with the slot that leads to it and the bits which that covers.
        let mut path: Vec<(u32, Option<(Place, u32)>)> = vec![(set * ROOT + byte_of(key.0, 0), None)];
        loop {
            let node = path[path.len() - 1].0;
            let byte = self.meta[node as usize].byte;
            let end = 8 * (byte + 1);
            if key.1 <= end {
                let slots = range(key, byte);
                let record = self.cover(self.nodes.word(Self::slot(node, slots.start)), key.1);
                if record == 0 || self.key(record) != key {
                    return false;
                }
                slots.for_each(|slot| self.pop(Place::Slot(Self::slot(node, slot)), record, key.1));
                self.drop_record(record);
                break;
            }
            let slot = Place::Slot(Self::slot(node, byte_of(key.0, byte)));
            let mut word = self.word(slot);
            if word & NODE != 0 {
                let child = word & NODE_INDEX;
                let meta = self.meta[child as usize];
                if (meta.base ^ key.0).leading_zeros().min(key.1) < 8 * meta.byte {
                    return false;
                }
                path.push((child, Some((slot, end))));
                continue;
            }
            let mut place = slot;
            while word != 0 && self.len(word) > end && self.key(word) != key {
                place = self.next_of(word);
                word = self.word(place);
            }
            if word == 0 || self.key(word) != key {
                return false;
            }
            self.set(place, self.next(word));
            self.drop_record(word);
            break;
        }
        path.iter().for_each(|(node, _)| self.meta[*node as usize].entries -= 1);
        let small = path.iter().find_map(|(node, slot)| {
            slot.filter(|_| *node >= self.fixed && self.meta[*node as usize].entries <= COLLAPSE)
                .map(|slot| (*node, slot))
        });
        if let Some((node, (slot, end))) = small
            && self.records.has(COLLAPSE as usize)
        {
            self.collapse(node, slot, end);
        }
        true
    }

    /// Makes a node a chain again.
    fn collapse(&mut self, node: u32, slot: Place, end: u32) {
        let (mut nodes, mut records) = (Vec::new(), HashSet::new());
        self.gather(node, end, &mut nodes, &mut records);
        let mut next = self.cover(self.word(slot), end);
        let mut members: Vec<Bits> = records.iter().map(|record| self.key(*record)).collect();
        members.sort_unstable_by_key(|member| member.1);
        for member in members {
            next = self.record(member, next);
        }
        self.set(slot, next);
        nodes.into_iter().for_each(|node| self.drop_node(node));
        records.into_iter().for_each(|record| self.drop_record(record));
    }

    /// Lists the nodes from here on, and their records of more than `end` bits.
    fn gather(&self, node: u32, end: u32, nodes: &mut Vec<u32>, records: &mut HashSet<u32>) {
        nodes.push(node);
        let mut last = 0;
        for slot in 0..NODE_SLOTS as u32 {
            let mut word = self.nodes.word(Self::slot(node, slot));
            if word & NODE != 0 {
                self.gather(word & NODE_INDEX, end, nodes, records);
                continue;
            }
            // Neighbours mostly have the same cover.
            if word == last {
                continue;
            }
            last = word;
            while word != 0 && self.len(word) > end {
                records.insert(word);
                word = self.next(word);
            }
        }
    }

    /// Empties a set. Nobody must be looking into it: what was there is free at once.
    pub fn clear(&mut self, set: u32) {
        let (mut nodes, mut records) = (Vec::new(), HashSet::new());
        for root in set * ROOT..(set + 1) * ROOT {
            self.gather(root, 0, &mut nodes, &mut records);
            for slot in 0..NODE_SLOTS as u32 {
                // Of no bits: it covers everything.
                let everything = self.cover(self.nodes.word(Self::slot(root, slot)), 0);
                if everything != 0 {
                    records.insert(everything);
                }
            }
        }
        self.unmark_all(set);
        for node in nodes {
            if node >= self.fixed {
                self.nodes.free.push(node);
                continue;
            }
            self.meta[node as usize].entries = 0;
            for slot in 0..NODE_SLOTS as u32 {
                let at = Self::slot(node, slot);
                if !self.leads_to_fixed(self.nodes.word(at)) {
                    self.nodes.set(at, 0);
                }
            }
        }
        self.free_records(records);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests;
