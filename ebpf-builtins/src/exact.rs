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
use crate::abi::{PacketsBytes, Record4, Record6};
use std::collections::HashSet;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

    /// Where its hits are, in words.
    const fn hits_at(self) -> usize {
        match self {
            Family::V4 => offset_of!(Record4, hits) / 4,
            Family::V6 => offset_of!(Record6, hits) / 4,
        }
    }
}

/// An entry with its hits.
pub type Counted = (Bits, PacketsBytes);

/// There is no room for one more entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// Memory of a map, or our own until there is a map. Counters are 64 bits wide, all else is words of 32.
pub enum Memory {
    Own(Vec<AtomicU64>),
    /// Memory that stays where it is as long as its owner.
    Lent {
        memory: &'static [AtomicU64],
        owner: Box<dyn std::any::Any + Send + Sync>,
    },
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} words", self.words().len())
    }
}

impl Memory {
    #[inline]
    fn counters(&self) -> &[AtomicU64] {
        match self {
            Memory::Own(all) => all,
            Memory::Lent { memory, .. } => memory,
        }
    }

    #[inline]
    fn words(&self) -> &[AtomicU32] {
        let all = self.counters();
        // SAFETY: the same memory, borrowed as long, in halves of the alignment that these need.
        unsafe { std::slice::from_raw_parts(all.as_ptr().cast(), all.len() * 2) }
    }

    /// Makes room for an element; `false` where memory is of a fixed size.
    fn grow(&mut self, words: usize) -> bool {
        match self {
            Memory::Own(all) => {
                all.resize_with(all.len() + words / 2, || AtomicU64::new(0));
                true
            }
            Memory::Lent { .. } => false,
        }
    }
}

/// Elements of one size in memory: which are in use, and which may be soon.
#[derive(Debug)]
struct Pool {
    memory: Memory,
    /// Words of an element.
    size: usize,
    /// Elements from here on have never been used.
    next: u32,
    free: Vec<u32>,
    /// Taken out, but somebody may still look.
    limbo: Vec<u32>,
    most: usize,
}

impl Pool {
    fn new(size: usize, used: u32, most: usize) -> Self {
        let mut memory = Memory::Own(Vec::new());
        memory.grow(size * used as usize);
        Self {
            memory,
            size,
            next: used,
            free: Vec::new(),
            limbo: Vec::new(),
            most,
        }
    }

    fn has(&self, count: usize) -> bool {
        let never_used = match &self.memory {
            Memory::Own(_) => self.most,
            Memory::Lent { .. } => self.memory.words().len() / self.size,
        } - self.next as usize;
        self.free.len() + never_used >= count
    }

    /// Takes an element; its words are whatever they were. The caller has asked [`Self::has`].
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let index = self.next;
            self.next += 1;
            if (self.next as usize) * self.size > self.memory.words().len() {
                self.memory.grow(self.size);
            }
            index
        })
    }

    #[inline]
    fn word(&self, at: usize) -> u32 {
        self.memory.words()[at].load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, at: usize, word: u32) {
        self.memory.words()[at].store(word, Ordering::Release);
    }
}

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
        for (pool, memory) in [(&mut self.nodes, nodes), (&mut self.records, records)] {
            let old = &pool.memory.words()[..pool.next as usize * pool.size];
            let new = memory.words().get(..old.len()).ok_or(NoRoom)?;
            for (old, new) in old.iter().zip(new) {
                new.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            pool.memory = memory;
        }
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

    /// Uses records again that nobody looks at; their hits stay with their entries.
    fn free_records(&mut self, records: impl IntoIterator<Item = u32>) {
        for record in records {
            let hits = self.take_hits(record);
            if hits != PacketsBytes::default() {
                let key = self.key(record);
                if !self.add_hits(key, hits) {
                    self.gone.push((key, hits));
                }
            }
            self.records.free.push(record);
        }
    }

    /// Gives the hits of entries that have been taken out, once.
    pub fn gone(&mut self) -> Vec<Counted> {
        std::mem::take(&mut self.gone)
    }

    /// Lists the entries that were hit; an entry may come more than once, and all of it counts.
    pub fn hits(&self) -> impl Iterator<Item = Counted> {
        let counted = (1..self.records.next).map(|record| {
            let [packets, bytes] = self.counters(record).map(|counter| counter.load(Ordering::Relaxed));
            (record, PacketsBytes { packets, bytes })
        });
        counted
            .filter(|(_, hits)| hits.packets != 0)
            .map(|(record, hits)| (self.key(record), hits))
    }

    /// Forgets all hits. Returns what they were.
    pub fn clear_hits(&mut self) -> Vec<Counted> {
        let records = (1..self.records.next).map(|record| (record, self.take_hits(record)));
        let mut all: Vec<Counted> = records
            .filter(|(_, hits)| hits.packets != 0)
            .map(|(record, hits)| (self.key(record), hits))
            .collect();
        all.append(&mut self.gone);
        all
    }

    /// Forgets the hits of one entry.
    pub fn forget_hits(&mut self, key: Bits) {
        for set in 0..self.sets {
            if let Some(record) = self.record_of(set, key) {
                self.take_hits(record);
            }
        }
    }

    /// Adds hits to an entry; `false` if it is not there.
    pub fn add_hits(&mut self, key: Bits, hits: PacketsBytes) -> bool {
        let Some(record) = (0..self.sets).find_map(|set| self.record_of(set, key)) else {
            return false;
        };
        let [packets, bytes] = self.counters(record);
        packets.fetch_add(hits.packets, Ordering::Relaxed);
        bytes.fetch_add(hits.bytes, Ordering::Relaxed);
        true
    }

    fn counters(&self, record: u32) -> [&AtomicU64; 2] {
        let at = (self.at(record) + self.family.hits_at()) / 2;
        let all = self.records.memory.counters();
        [&all[at], &all[at + 1]]
    }

    fn take_hits(&self, record: u32) -> PacketsBytes {
        // Most have none, and writing to them would cost.
        let take = |counter: &AtomicU64| match counter.load(Ordering::Relaxed) {
            0 => 0,
            _ => counter.swap(0, Ordering::Relaxed),
        };
        let [packets, bytes] = self.counters(record).map(take);
        PacketsBytes { packets, bytes }
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
        let mut word = self.leaf(set, addr);
        while word != 0 {
            let (bits, len) = self.key(word);
            if (bits ^ addr) & mask(len) == 0 {
                return Some(len);
            }
            word = self.next(word);
        }
        None
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
        let word = |i| u128::from(u32::from_be(self.records.word(at + 2 + i)));
        let bits = match self.family {
            Family::V4 => word(0) << 96,
            Family::V6 => word(0) << 96 | word(1) << 64 | word(2) << 32 | word(3),
        };
        (bits, self.len(record))
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
            slot.filter(|_| self.meta[*node as usize].entries <= COLLAPSE)
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
                let word = self.nodes.word(Self::slot(root, slot));
                let everything = self.cover(word, 0);
                if everything != 0 {
                    records.insert(everything);
                }
                self.nodes.set(Self::slot(root, slot), 0);
            }
            self.meta[root as usize].entries = 0;
        }
        let meta = &self.meta;
        self.nodes
            .free
            .extend(nodes.into_iter().filter(|node| meta[*node as usize].byte != 1));
        self.free_records(records);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

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
        for addr in addresses {
            let addr = addr & mask(width);
            assert_eq!(tables.find(set, addr), longest(list, addr), "{addr:032x}");
        }
    }

    #[test]
    fn random_changes_agree_with_a_linear_search() {
        for seed in 1..=30_u64 {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let (family, width) = if seed % 2 == 0 { (Family::V4, 32) } else { (Family::V6, 128) };
            let mut tables = Tables::new(family, 1);
            let mut list = BTreeSet::new();
            for step in 0..400 {
                if step == 150 {
                    let memory = || Memory::Own((0..1 << 19).map(|_| AtomicU64::new(0)).collect());
                    tables.move_to(memory(), memory()).unwrap();
                }
                let key = prefix(&mut random, width);
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
            // Nothing is lost: no node but the first, no record.
            tables.reclaim();
            assert_eq!(tables.nodes.next as usize - tables.nodes.free.len(), ROOT as usize, "seed {seed}");
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
        let mut random = Random(7);
        let mut tables = Tables::new(Family::V4, 2);
        let lists: [BTreeSet<Bits>; 2] = std::array::from_fn(|_| (0..600).map(|_| prefix(&mut random, 32)).collect());
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
        assert_eq!(tables.nodes.next as usize - tables.nodes.free.len(), 2 * ROOT as usize);
        assert_eq!(tables.records.next as usize - tables.records.free.len(), 1);
    }

    #[test]
    fn no_room_changes_nothing() {
        let mut tables = Tables::new(Family::V4, 1);
        let memory = |words: usize| Memory::Own((0..words / 2).map(|_| AtomicU64::new(0)).collect());
        assert_eq!(tables.move_to(memory(NODE_SLOTS), memory(64)), Err(NoRoom));
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
}
