//! The memory of a family's nodes and records, and which elements of it are in use.

use super::NoRoom;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
    pub(super) fn counters(&self) -> &[AtomicU64] {
        match self {
            Memory::Own(all) => all,
            Memory::Lent { memory, .. } => memory,
        }
    }

    #[inline]
    pub(super) fn words(&self) -> &[AtomicU32] {
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
pub(super) struct Pool {
    pub memory: Memory,
    /// Words of an element.
    pub size: usize,
    /// Elements from here on have never been used.
    pub next: u32,
    pub free: Vec<u32>,
    /// Taken out, but somebody may still look.
    pub limbo: Vec<u32>,
    pub most: usize,
}

impl Pool {
    pub fn new(size: usize, used: u32, most: usize) -> Self {
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

    pub fn has(&self, count: usize) -> bool {
        let never_used = match &self.memory {
            Memory::Own(_) => self.most,
            Memory::Lent { .. } => self.memory.words().len() / self.size,
        } - self.next as usize;
        self.free.len() + never_used >= count
    }

    /// Takes an element; its words are whatever they were. The caller has asked [`Self::has`].
    pub fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let index = self.next;
            self.next += 1;
            if (self.next as usize) * self.size > self.memory.words().len() {
                self.memory.grow(self.size);
            }
            index
        })
    }

    /// Copies all there is to other memory, which must be zero, and stays there.
    pub fn move_to(&mut self, memory: Memory) -> Result<(), NoRoom> {
        let old = &self.memory.words()[..self.next as usize * self.size];
        let new = memory.words().get(..old.len()).ok_or(NoRoom)?;
        for (old, new) in old.iter().zip(new) {
            // The new memory is zero, so that zeros need no stores.
            match old.load(Ordering::Relaxed) {
                0 => {}
                word => new.store(word, Ordering::Relaxed),
            }
        }
        self.memory = memory;
        Ok(())
    }

    #[inline]
    pub fn word(&self, at: usize) -> u32 {
        self.memory.words()[at].load(Ordering::Relaxed)
    }

    #[inline]
    pub fn set(&self, at: usize, word: u32) {
        self.memory.words()[at].store(word, Ordering::Release);
    }
}
