//! Consumer of the BPF ring buffer (`BPF_MAP_TYPE_RINGBUF`), by mmap as `kernel/bpf/ringbuf.c` lays it out.
//!
//! Page 0 holds the consumer position (ours to write), page 1 the producer position, then the data follows twice, so
//! that a record that wraps around is contiguous. A record is a `u32` length with two flag bits, a `u32` page offset,
//! then the payload, padded to 8 bytes.

use crate::sys::mmap::Mmap;
use crate::sys::{Result, SysError};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

const BUSY_BIT: u32 = 1 << 31;
const DISCARD_BIT: u32 = 1 << 30;
const HEADER: usize = 8;

/// A ring buffer open for reading. There must be only one for each map.
#[derive(Debug)]
pub struct Ring {
    map: OwnedFd,
    consumer: Mmap,
    /// Producer page and the data, mapped read-only.
    producer: Mmap,
    page: usize,
    size: usize,
}

/// Returns the size of a memory page.
#[must_use]
pub fn page_size() -> usize {
    // SAFETY: sysconf has no memory arguments.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Chooses the size in bytes of the ring buffer: 1/4096 of the available memory, as a power of two between 256 KiB
/// and 8 MiB.
#[must_use]
pub fn choose_size(available_memory: Option<u64>) -> u32 {
    let wanted = (available_memory.unwrap_or(1 << 30) / 4096).clamp(256 * 1024, 8 * 1024 * 1024);
    let power = wanted.checked_next_power_of_two().unwrap_or(8 << 20);
    let power = if power > wanted { power / 2 } else { power };
    u32::try_from(power).unwrap_or(256 * 1024).max(page_size() as u32)
}

impl Ring {
    /// Maps the ring buffer of `size` bytes.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn new(map: OwnedFd, size: u32) -> Result<Self> {
        let page = page_size();
        let size = size as usize;
        let error = |e| SysError::new("map", "ring buffer", e);
        let consumer = Mmap::new(map.as_fd(), page, 0, true, false).map_err(error)?;
        let producer = Mmap::new(map.as_fd(), page + 2 * size, page, false, false).map_err(error)?;
        Ok(Self {
            map,
            consumer,
            producer,
            page,
            size,
        })
    }

    /// Becomes readable when there is a record.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    fn consumer_pos(&self) -> &AtomicUsize {
        // SAFETY: the consumer page is mapped, page-aligned and lives as long as self; the kernel reads it atomically.
        unsafe { AtomicUsize::from_ptr(self.consumer.as_ptr().cast()) }
    }

    /// Hands every complete record to `each`, until there is none, `each` says false, or `limit` bytes were read.
    /// Returns whether it stopped with records left.
    pub fn drain(&self, limit: usize, mut each: impl FnMut(&[u8]) -> bool) -> bool {
        let mut consumer = self.consumer_pos().load(Ordering::Acquire);
        let start = consumer;
        loop {
            // SAFETY: the producer page is mapped, page-aligned and lives as long as self.
            let producer = unsafe { (*self.producer.as_ptr().cast::<AtomicUsize>()).load(Ordering::Acquire) };
            if consumer == producer {
                return false;
            }
            if consumer.wrapping_sub(start) >= limit {
                return true;
            }
            // SAFETY: data starts one page in; the offset is below size and headers are 8-byte aligned.
            let header = unsafe { self.producer.as_ptr().add(self.page + (consumer & (self.size - 1))) };
            // SAFETY: as above; the kernel clears the busy bit with release order.
            let word = unsafe { (*header.cast::<AtomicU32>()).load(Ordering::Acquire) };
            if word & BUSY_BIT != 0 {
                return false;
            }
            let len = (word & !(BUSY_BIT | DISCARD_BIT)) as usize;
            let mut go_on = true;
            if word & DISCARD_BIT == 0 {
                // SAFETY: a committed record lies contiguously in the doubled mapping and is not written again before
                // the consumer position has passed it.
                let record = unsafe { std::slice::from_raw_parts(header.add(HEADER), len.min(self.size)) };
                go_on = each(record);
            }
            consumer = consumer.wrapping_add((HEADER + len).next_multiple_of(8));
            self.consumer_pos().store(consumer, Ordering::Release);
            if !go_on {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::io::Write;
    use std::os::fd::AsRawFd;

    /// A memfd laid out like a ring buffer of one page of data, with the data twice.
    fn fake(producer: usize, data: &[(usize, &[u8])]) -> (Ring, usize) {
        let page = page_size();
        let mut file = std::fs::File::from(memfd_create(c"ring", MFdFlags::empty()).unwrap());
        let mut bytes = vec![0u8; page * 4];
        bytes[page..page + 8].copy_from_slice(&producer.to_ne_bytes());
        for (at, content) in data {
            for copy in 0..2 {
                let start = page * (2 + copy) + at;
                let end = (start + content.len()).min(bytes.len());
                bytes[start..end].copy_from_slice(&content[..end - start]);
            }
        }
        file.write_all(&bytes).unwrap();
        (Ring::new(file.into(), page as u32).unwrap(), page)
    }

    fn record(len: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = len.to_ne_bytes().to_vec();
        out.extend([0; 4]);
        out.extend(payload);
        out
    }

    fn read(ring: &Ring) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        ring.drain(usize::MAX, |r| {
            all.push(r.to_vec());
            true
        });
        all
    }

    #[test]
    fn records_are_read_once_and_discarded_ones_skipped() {
        let (ring, _) = fake(
            48,
            &[
                (0, &record(3, b"abc")),
                (16, &record(DISCARD_BIT | 4, b"xxxx")),
                (32, &record(8, b"12345678")),
            ],
        );
        assert_eq!(read(&ring), [b"abc".to_vec(), b"12345678".to_vec()]);
        assert!(read(&ring).is_empty());
        assert!(ring.fd().as_raw_fd() >= 0);
    }

    #[test]
    fn a_record_being_written_stops_the_reader() {
        let (ring, _) = fake(32, &[(0, &record(1, b"a")), (16, &record(BUSY_BIT | 1, b"b"))]);
        assert_eq!(read(&ring), [b"a".to_vec()]);
        assert!(read(&ring).is_empty());
    }

    #[test]
    fn the_reader_stops_when_told_and_goes_on_after() {
        let (ring, _) = fake(32, &[(0, &record(1, b"a")), (16, &record(1, b"b"))]);
        assert!(ring.drain(usize::MAX, |_| false));
        assert_eq!(read(&ring), [b"b".to_vec()]);
    }

    #[test]
    fn ring_sizes_are_bounded_powers_of_two() {
        for memory in [None, Some(0), Some(1 << 28), Some(24 << 30), Some(1 << 40)] {
            let size = choose_size(memory);
            assert!(size.is_power_of_two() && (256 * 1024..=8 << 20).contains(&size), "{size}");
        }
        assert_eq!(choose_size(Some(24 << 30)), 4 << 20);
    }
}
