//! Storage of maps in our own memory. Values never move, since the code that runs on them holds their addresses.

/// Why an update was refused; the numbers are those of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `EEXIST`
    Exists,
    /// `ENOENT`
    Missing,
    /// `E2BIG`
    Full,
    /// `EINVAL`
    Invalid,
}

impl Refused {
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Refused::Exists => libc::EEXIST,
            Refused::Missing => libc::ENOENT,
            Refused::Full => libc::E2BIG,
            Refused::Invalid => libc::EINVAL,
        }
    }
}

/// `BPF_NOEXIST`, `BPF_EXIST`
const NO_EXIST: u64 = 1;
const EXIST: u64 = 2;

/// Entries in one piece of memory.
const CHUNK: usize = 1024;

/// Takes the entry's place in `slots` when it is empty.
const EMPTY: u32 = u32::MAX;

/// A hash table with room for a fixed number of entries.
#[derive(Debug)]
pub struct Table {
    key_words: usize,
    key_size: usize,
    value_words: usize,
    max_entries: usize,
    /// Whether a full table makes room by dropping an entry that was not used lately.
    lru: bool,
    /// Numbers of entries, open addressing; the length is a power of two.
    slots: Vec<u32>,
    hashes: Vec<u32>,
    live: Vec<bool>,
    /// Looked up since the hand last passed.
    used: Vec<bool>,
    hand: usize,
    chunks: Vec<Box<[u64]>>,
    free: Vec<u32>,
    len: usize,
}

impl Table {
    #[must_use]
    pub fn new(key_size: u32, value_size: u32, max_entries: u32, lru: bool) -> Self {
        Self {
            key_words: key_size.div_ceil(8) as usize,
            key_size: key_size as usize,
            value_words: value_size.div_ceil(8) as usize,
            max_entries: max_entries as usize,
            lru,
            slots: vec![EMPTY; 64],
            hashes: Vec::new(),
            live: Vec::new(),
            used: Vec::new(),
            hand: 0,
            chunks: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn entry_words(&self) -> usize {
        self.key_words + self.value_words
    }

    #[inline]
    fn entry(&self, number: u32) -> *mut u64 {
        let (chunk, at) = (number as usize / CHUNK, number as usize % CHUNK);
        // Kept as a pointer: code outside writes to values through it.
        self.chunks[chunk][at * self.entry_words()..].as_ptr().cast_mut()
    }

    fn key(&self, number: u32) -> &[u8] {
        // SAFETY: an entry starts with its key, `key_words` words long.
        unsafe { std::slice::from_raw_parts(self.entry(number).cast::<u8>(), self.key_size) }
    }

    #[inline]
    fn value(&self, number: u32) -> *mut u8 {
        // SAFETY: the value follows the key inside the entry.
        unsafe { self.entry(number).add(self.key_words).cast() }
    }

    #[inline]
    fn hash(key: &[u8]) -> u32 {
        const K: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut h: u64 = 0;
        let mut words = key.chunks_exact(8);
        for word in &mut words {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            h = (h.rotate_left(23) ^ u64::from_ne_bytes(bytes)).wrapping_mul(K);
        }
        let mut rest = [0; 8];
        rest[..words.remainder().len()].copy_from_slice(words.remainder());
        h = (h.rotate_left(23) ^ u64::from_ne_bytes(rest)).wrapping_mul(K);
        (h >> 32) as u32
    }

    /// Returns where the key's number stands in `slots`, or the empty place that it would take.
    #[inline]
    fn find(&self, key: &[u8], hash: u32) -> (usize, Option<u32>) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let number = self.slots[at];
            if number == EMPTY {
                return (at, None);
            }
            if self.hashes[number as usize] == hash && self.key(number) == key {
                return (at, Some(number));
            }
            at = (at + 1) & mask;
        }
    }

    /// Returns the address of a value; it is good until the entry is removed.
    #[inline]
    pub fn lookup(&mut self, key: &[u8]) -> Option<*mut u8> {
        let (_, number) = self.find(key, Self::hash(key));
        let number = number?;
        if self.lru {
            self.used[number as usize] = true;
        }
        Some(self.value(number))
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// What the flags forbid, or a full table.
    pub fn update(&mut self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Refused> {
        if flags > EXIST {
            return Err(Refused::Invalid);
        }
        let hash = Self::hash(key);
        let (_, found) = self.find(key, hash);
        let number = match found {
            Some(_) if flags == NO_EXIST => return Err(Refused::Exists),
            None if flags == EXIST => return Err(Refused::Missing),
            Some(number) => number,
            None => {
                if self.len >= self.max_entries {
                    if !self.lru || self.len == 0 {
                        return Err(Refused::Full);
                    }
                    self.evict();
                }
                if (self.len + 1) * 2 > self.slots.len() {
                    self.grow();
                }
                let (at, _) = self.find(key, hash);
                let number = self.new_entry();
                self.slots[at] = number;
                self.hashes[number as usize] = hash;
                self.live[number as usize] = true;
                self.used[number as usize] = false;
                self.len += 1;
                let entry = self.entry(number).cast::<u8>();
                // SAFETY: the entry has room for a key; nothing else has its address.
                unsafe { std::ptr::copy_nonoverlapping(key.as_ptr(), entry, self.key_size.min(key.len())) };
                number
            }
        };
        let len = value.len().min(self.value_words * 8);
        // SAFETY: the entry has room for a value. The source may be the same value: a program may write it back.
        unsafe { std::ptr::copy(value.as_ptr(), self.value(number), len) };
        Ok(())
    }

    fn new_entry(&mut self) -> u32 {
        if let Some(number) = self.free.pop() {
            return number;
        }
        let number = self.hashes.len();
        if number / CHUNK == self.chunks.len() {
            self.chunks.push(vec![0; CHUNK * self.entry_words()].into_boxed_slice());
        }
        self.hashes.push(0);
        self.live.push(false);
        self.used.push(false);
        u32::try_from(number).unwrap_or(EMPTY - 1)
    }

    fn grow(&mut self) {
        let mask = self.slots.len() * 2 - 1;
        self.slots = vec![EMPTY; mask + 1];
        for number in 0..self.hashes.len() {
            if self.live[number] {
                let mut at = self.hashes[number] as usize & mask;
                while self.slots[at] != EMPTY {
                    at = (at + 1) & mask;
                }
                self.slots[at] = number as u32;
            }
        }
    }

    /// Drops an entry that was not looked up since the hand last passed it.
    fn evict(&mut self) {
        loop {
            let at = self.hand % self.hashes.len();
            self.hand = at + 1;
            if !self.live[at] {
                continue;
            }
            if std::mem::take(&mut self.used[at]) {
                continue;
            }
            let key = self.key(at as u32).to_vec();
            self.remove(&key);
            return;
        }
    }

    /// Removes an entry. Returns whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let (mut hole, Some(number)) = self.find(key, Self::hash(key)) else {
            return false;
        };
        let mask = self.slots.len() - 1;
        // What would not be found behind the hole moves into it.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let next = self.slots[at];
            if next == EMPTY {
                break;
            }
            let home = self.hashes[next as usize] as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = next;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
        self.live[number as usize] = false;
        self.free.push(number);
        self.len -= 1;
        true
    }

    /// Lists the entries that are there: key and address of the value.
    #[must_use]
    pub fn entries(&self) -> Vec<(Vec<u8>, *mut u8)> {
        (0..self.hashes.len())
            .filter(|n| self.live[*n])
            .map(|n| (self.key(n as u32).to_vec(), self.value(n as u32)))
            .collect()
    }

    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.find(key, Self::hash(key)).1.is_some()
    }
}

/// Longest-prefix match: a table of masked keys, asked once for each length that occurs.
#[derive(Debug)]
pub struct Lpm {
    table: Table,
    /// Number of prefixes of each length in bits.
    lengths: Vec<u32>,
    /// Lengths that occur, longest first.
    present: Vec<u32>,
}

impl Lpm {
    #[must_use]
    pub fn new(key_size: u32, value_size: u32, max_entries: u32) -> Self {
        let bits = key_size.saturating_sub(4) * 8;
        Self {
            table: Table::new(key_size, value_size, max_entries, false),
            lengths: vec![0; bits as usize + 1],
            present: Vec::new(),
        }
    }

    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    fn length(key: &[u8]) -> u32 {
        key.first_chunk::<4>().map_or(0, |len| u32::from_ne_bytes(*len))
    }

    /// The key with everything behind the first `bits` bits zero.
    fn masked(key: &[u8], bits: u32) -> Vec<u8> {
        let mut out = key.to_vec();
        out[..4].copy_from_slice(&bits.to_ne_bytes());
        for (i, byte) in out[4..].iter_mut().enumerate() {
            let start = i as u32 * 8;
            *byte &= match bits.saturating_sub(start) {
                0 => 0,
                n if n >= 8 => 0xff,
                n => 0xff << (8 - n),
            };
        }
        out
    }

    pub fn lookup(&mut self, key: &[u8]) -> Option<*mut u8> {
        let most = Self::length(key);
        for i in 0..self.present.len() {
            let bits = self.present[i];
            if bits <= most
                && let Some(value) = self.table.lookup(&Self::masked(key, bits))
            {
                return Some(value);
            }
        }
        None
    }

    /// # Errors
    /// As [`Table::update`]; also a length beyond the key's.
    pub fn update(&mut self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Refused> {
        let bits = Self::length(key);
        if bits as usize >= self.lengths.len() {
            return Err(Refused::Invalid);
        }
        let before = self.table.len();
        self.table.update(&Self::masked(key, bits), value, flags)?;
        if self.table.len() > before {
            self.lengths[bits as usize] += 1;
            self.note_lengths();
        }
        Ok(())
    }

    pub fn remove(&mut self, key: &[u8]) -> bool {
        let bits = Self::length(key);
        let there = (bits as usize) < self.lengths.len() && self.table.remove(&Self::masked(key, bits));
        if there {
            self.lengths[bits as usize] -= 1;
            self.note_lengths();
        }
        there
    }

    fn note_lengths(&mut self) {
        self.present = (0..self.lengths.len() as u32)
            .rev()
            .filter(|l| self.lengths[*l as usize] > 0)
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(p: *mut u8) -> u64 {
        // SAFETY: values in these tests are one word.
        unsafe { p.cast::<u64>().read_unaligned() }
    }

    #[test]
    fn a_table_is_a_map_through_any_sequence_of_operations() {
        let mut table = Table::new(12, 8, 300, false);
        let mut model: HashMap<Vec<u8>, u64> = HashMap::new();
        let mut state: u64 = 1;
        let mut addresses: HashMap<Vec<u8>, *mut u8> = HashMap::new();
        for step in 0..50_000_u64 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mut key = vec![0; 12];
            key[..4].copy_from_slice(&((state >> 33) as u32 % 400).to_le_bytes());
            match (state >> 20) % 4 {
                0 => {
                    assert_eq!(table.remove(&key), model.remove(&key).is_some());
                    addresses.remove(&key);
                }
                1 => assert_eq!(table.lookup(&key).map(read), model.get(&key).copied()),
                flags => {
                    // Any, or only new.
                    let flags = flags - 2;
                    let expected = match model.contains_key(&key) {
                        true if flags == NO_EXIST => Err(Refused::Exists),
                        false if model.len() == 300 => Err(Refused::Full),
                        _ => Ok(()),
                    };
                    assert_eq!(table.update(&key, &step.to_ne_bytes(), flags), expected, "step {step}");
                    if expected.is_ok() {
                        model.insert(key.clone(), step);
                        let address = table.lookup(&key).unwrap();
                        assert_eq!(*addresses.entry(key).or_insert(address), address, "values do not move");
                    }
                }
            }
            assert_eq!(table.len(), model.len());
        }
        let mut all: Vec<_> = table.entries().into_iter().map(|(k, v)| (k, read(v))).collect();
        let mut expected: Vec<_> = model.into_iter().collect();
        all.sort();
        expected.sort();
        assert_eq!(all, expected);
    }

    #[test]
    fn flags_are_those_of_the_kernel() {
        let mut table = Table::new(8, 8, 2, false);
        let key = [1; 8];
        assert_eq!(table.update(&key, &[1; 8], EXIST), Err(Refused::Missing));
        assert_eq!(table.update(&key, &[1; 8], NO_EXIST), Ok(()));
        assert_eq!(table.update(&key, &[2; 8], NO_EXIST), Err(Refused::Exists));
        assert_eq!(table.update(&key, &[2; 8], EXIST), Ok(()));
        assert_eq!(table.update(&key, &[2; 8], 9), Err(Refused::Invalid));
    }

    #[test]
    fn an_lru_table_drops_what_nobody_looked_at() {
        let mut table = Table::new(8, 8, 4, true);
        let key = |n: u64| n.to_ne_bytes();
        for n in 0..4 {
            table.update(&key(n), &key(n), 0).unwrap();
        }
        table.lookup(&key(0));
        table.lookup(&key(2));
        for n in 4..6 {
            table.update(&key(n), &key(n), 0).unwrap();
        }
        let there: Vec<u64> = (0..6).filter(|n| table.contains(&key(*n))).collect();
        assert_eq!(there, [0, 2, 4, 5]);
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut lpm = Lpm::new(8, 8, 10);
        let key = |bits: u32, a: [u8; 4]| [&bits.to_ne_bytes()[..], &a].concat();
        let value = |n: u64| n.to_ne_bytes();
        for (bits, address, n) in [
            (8, [10, 9, 9, 9], 1),
            (24, [10, 0, 0, 0], 2),
            (32, [10, 0, 0, 7], 3),
            (0, [0; 4], 9),
        ] {
            lpm.update(&key(bits, address), &value(n), 0).unwrap();
        }
        let mut find = |a| lpm.lookup(&key(32, a)).map(read);
        assert_eq!(find([10, 0, 0, 7]), Some(3));
        assert_eq!(find([10, 0, 0, 8]), Some(2));
        assert_eq!(find([10, 1, 0, 8]), Some(1));
        assert_eq!(find([11, 1, 0, 8]), Some(9));
        assert!(lpm.remove(&key(0, [1; 4])) && !lpm.remove(&key(0, [1; 4])));
        assert_eq!(lpm.lookup(&key(32, [11, 1, 0, 8])), None);
        // A prefix is not found in a longer one.
        assert_eq!(lpm.lookup(&key(16, [10, 0, 0, 7])).map(read), Some(1));
        assert_eq!(lpm.update(&key(33, [0; 4]), &value(1), 0), Err(Refused::Invalid));
    }
}
