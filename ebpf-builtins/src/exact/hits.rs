//! The hits of entries, which lie in their records: programs add to them, at any moment.

use super::{Bits, Family, Tables};
use crate::abi::{PacketsBytes, Record4, Record6};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

/// An entry with its hits.
pub type Counted = (Bits, PacketsBytes);

impl Family {
    /// Where the hits of a record are, in words.
    const fn hits_at(self) -> usize {
        match self {
            Family::V4 => offset_of!(Record4, hits) / 4,
            Family::V6 => offset_of!(Record6, hits) / 4,
        }
    }
}

impl Tables {
    /// Uses records again that nobody looks at; their hits stay with their entries.
    pub(super) fn free_records(&mut self, records: impl IntoIterator<Item = u32>) {
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

    pub(super) fn counters(&self, record: u32) -> [&AtomicU64; 2] {
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
}
