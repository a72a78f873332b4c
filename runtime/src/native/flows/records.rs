//! The records of live flows, in our memory: mapped from the kernel, written by its programs while we read.

use crate::error::Error;
use crate::maps::Map;
use crate::sys::SysError;
use crate::sys::mmap::Mmap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use weir_ebpf_builtins::flows::Record;

const WORDS: usize = size_of::<Record>() / 8;
/// The word that says whether an element is in use.
const FIRST_NS: usize = std::mem::offset_of!(Record, first_ns) / 8;
/// So far behind the last element that was ever used others may be: those that programs take at the same time are neighbours.
const AHEAD: usize = 1024;

/// All elements of `RECORDS`.
#[derive(Debug)]
pub(super) struct Records {
    memory: Mmap,
    len: usize,
    /// Behind this one none was ever used.
    high: usize,
}

impl Records {
    /// Maps the array.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn new(map: &Map) -> Result<Self, Error> {
        const PAGE: usize = 4096;
        let len = map.max_entries as usize;
        let memory = Mmap::new(map.fd.as_fd(), (len * size_of::<Record>()).next_multiple_of(PAGE), 0, true, false)
            .map_err(|e| Error::Sys(SysError::new("map", map.symbol.clone(), e)))?;
        Ok(Self { memory, len, high: 0 })
    }

    fn words(&self, index: usize) -> &[AtomicU64] {
        assert!(index < self.len);
        // SAFETY: so many bytes are mapped, aligned to a page, as long as `self` lives; the kernel's programs change words of it, and
        // this process only uses atomics.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast::<AtomicU64>().add(index * WORDS), WORDS) }
    }

    /// Reads an element; `None` if it is not in use.
    pub fn get(&self, index: u32) -> Option<Record> {
        let words = self.words(index as usize);
        if words[FIRST_NS].load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut copy = [0u64; WORDS];
        for (to, from) in copy.iter_mut().zip(words) {
            *to = from.load(Ordering::Relaxed);
        }
        // SAFETY: as large and as aligned as a record, which is made of integers.
        Some(unsafe { copy.as_ptr().cast::<Record>().read() })
    }

    /// Reads all that are in use.
    pub fn live(&mut self) -> Vec<(u32, Record)> {
        let mut live = Vec::new();
        let mut index = 0;
        while index < self.len.min(self.high + AHEAD) {
            if let Some(record) = self.get(index as u32) {
                live.push((index as u32, record));
                self.high = self.high.max(index + 1);
            }
            index += 1;
        }
        live
    }

    /// Makes an element ready for another flow. No program has it any more.
    pub fn free(&self, index: u32) {
        for word in self.words(index as usize) {
            word.store(0, Ordering::Release);
        }
    }
}
