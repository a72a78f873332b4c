//! The packet and the context that a program sees, in memory whose addresses fit 32 bits: `xdp_md.data` is a `u32`.
//!
//! No verifier stands behind the code that runs here. A packet ends right at an unmapped page, so that a read past its end
//! stops the process instead of computing with what lies there.

use std::io;
use std::ptr::NonNull;
use weir_compiler::object::LinkLayer;

/// Room in front of a packet, as a driver leaves it.
const HEADROOM: usize = 4096;
/// Larger packets do not come out of a capture file.
const MAX_BYTES: usize = 256 * 1024 + 4096;
const PAGE: usize = 4096;

/// `struct xdp_md` and the part of `struct __sk_buff` that programs can read, in one place: only one is in use at a time.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Context(pub [u32; 64]);

/// Words of `struct xdp_md`.
const XDP_DATA: usize = 0;
const XDP_DATA_END: usize = 1;
const XDP_DATA_META: usize = 2;
const XDP_IFINDEX: usize = 3;

/// Words of `struct __sk_buff`.
const SKB_LEN: usize = 0;
const SKB_PROTOCOL: usize = 4;
const SKB_INGRESS_IFINDEX: usize = 9;
const SKB_IFINDEX: usize = 10;
const SKB_DATA: usize = 19;
const SKB_DATA_END: usize = 20;
const SKB_DATA_META: usize = 35;
const SKB_TSTAMP: usize = 38;
const SKB_WIRE_LEN: usize = 40;
const SKB_GSO_SEGS: usize = 41;

/// A packet in guarded memory.
#[derive(Debug)]
pub struct Frame {
    start: NonNull<u8>,
    mapped: usize,
    /// Address of the byte behind the last one that a packet can have.
    end: usize,
    data: usize,
    meta: usize,
    data_end: usize,
    /// Bytes on the wire; more than there are when the capture cut the packet off.
    pub wire_length: u32,
    /// What the packet starts with.
    pub link_layer: LinkLayer,
    pub context: Box<Context>,
}

impl Frame {
    /// Maps the memory.
    ///
    /// # Errors
    /// When there is no room below 2 GiB.
    pub fn new() -> io::Result<Self> {
        let room = (HEADROOM + MAX_BYTES).next_multiple_of(PAGE);
        let mapped = PAGE + room + PAGE;
        #[cfg(target_arch = "x86_64")]
        let low = libc::MAP_32BIT;
        #[cfg(not(target_arch = "x86_64"))]
        let low = 0;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | low,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let frame = Self {
            start,
            mapped,
            end: start.as_ptr() as usize + PAGE + room,
            data: 0,
            meta: 0,
            data_end: 0,
            wire_length: 0,
            link_layer: LinkLayer::Ethernet,
            context: Box::new(Context([0; 64])),
        };
        // SAFETY: the pages between the two guards belong to the mapping just made.
        let ret = unsafe { libc::mprotect(start.as_ptr().add(PAGE).cast(), room, libc::PROT_READ | libc::PROT_WRITE) };
        if ret != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(frame)
    }

    /// Takes a packet.
    #[inline]
    pub fn set(&mut self, packet: &[u8], link_layer: LinkLayer, wire_length: u32) {
        let packet = &packet[..packet.len().min(MAX_BYTES)];
        self.data_end = self.end;
        self.data = self.end - packet.len();
        self.meta = self.data;
        self.wire_length = wire_length;
        self.link_layer = link_layer;
        // SAFETY: that many bytes below the guard are mapped and nobody holds a reference to them.
        unsafe { std::ptr::copy_nonoverlapping(packet.as_ptr(), self.data as *mut u8, packet.len()) };
    }

    /// `skb->protocol`, in network byte order.
    fn protocol(&self) -> u16 {
        let kind = match (self.link_layer, self.bytes()) {
            (LinkLayer::Ethernet, bytes) => bytes.get(12..14).map_or([0, 0], |b| [b[0], b[1]]),
            (LinkLayer::None, [first, ..]) if first >> 4 == 4 => [0x08, 0x00],
            (LinkLayer::None, [first, ..]) if first >> 4 == 6 => [0x86, 0xdd],
            (LinkLayer::None, _) => [0, 0],
        };
        u16::from_ne_bytes(kind)
    }

    /// Returns the packet as it is now.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: these bytes are mapped; no program runs while the reference lives, since running takes the frame mutably.
        unsafe { std::slice::from_raw_parts(self.data as *const u8, self.data_end - self.data) }
    }

    /// Returns what is in the linear part.
    #[must_use]
    pub fn captured(&self) -> usize {
        self.data_end - self.data
    }

    /// Returns where the byte at `offset` lies, if `len` bytes are there.
    #[must_use]
    pub fn at(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        (end <= self.captured() as u64).then(|| (self.data + offset as usize) as *mut u8)
    }

    /// Moves the start of the metadata by `delta` bytes, as `bpf_xdp_adjust_meta` does. Returns whether that is allowed.
    pub fn adjust_meta(&mut self, delta: i64) -> bool {
        let Some(meta) = (self.meta as i64).checked_add(delta).and_then(|m| usize::try_from(m).ok()) else {
            return false;
        };
        let allowed = meta <= self.data && self.data - meta <= 252 && (self.data - meta).is_multiple_of(4);
        if allowed {
            self.meta = meta;
            self.refresh_xdp();
        }
        allowed
    }

    fn refresh_xdp(&mut self) {
        let words = &mut self.context.0;
        words[XDP_DATA] = self.data as u32;
        words[XDP_DATA_END] = self.data_end as u32;
        words[XDP_DATA_META] = self.meta as u32;
    }

    /// Makes the context an `xdp_md`; returns its address.
    #[inline]
    pub fn xdp(&mut self, ifindex: u32) -> u64 {
        self.refresh_xdp();
        let words = &mut self.context.0;
        words[XDP_IFINDEX] = ifindex;
        words[4] = 0;
        words[5] = 0;
        self.context.0.as_ptr() as u64
    }

    /// Makes the context an `__sk_buff`; returns its address. `mark` and whatever else a program at XDP or in front of it left
    /// is gone: a packet arrives fresh.
    pub fn skb(&mut self, ifindex: u32, ingress: bool, time_ns: u64) -> u64 {
        let protocol = self.protocol();
        let words = &mut self.context.0;
        words.fill(0);
        words[SKB_LEN] = self.wire_length;
        words[SKB_PROTOCOL] = u32::from(protocol);
        words[SKB_INGRESS_IFINDEX] = if ingress { ifindex } else { 0 };
        words[SKB_IFINDEX] = ifindex;
        words[SKB_DATA] = self.data as u32;
        words[SKB_DATA_END] = self.data_end as u32;
        words[SKB_DATA_META] = self.meta as u32;
        words[SKB_TSTAMP] = time_ns as u32;
        words[SKB_TSTAMP + 1] = (time_ns >> 32) as u32;
        words[SKB_WIRE_LEN] = self.wire_length;
        words[SKB_GSO_SEGS] = 0;
        words.as_ptr() as u64
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`, not used after this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_lies_below_the_guard_at_an_address_of_32_bits() {
        let mut frame = Frame::new().unwrap();
        frame.set(b"abcde", LinkLayer::Ethernet, 60);
        let ctx = frame.xdp(7) as *const u32;
        // SAFETY: the context is alive and longer than four words.
        let words = unsafe { std::slice::from_raw_parts(ctx, 4) };
        assert_eq!(words[1] - words[0], 5);
        assert_eq!(words[1] as usize % PAGE, 0);
        assert_eq!((words[2], words[3]), (words[0], 7));
        // SAFETY: the five bytes from `data` on are the packet.
        let bytes = unsafe { std::slice::from_raw_parts(words[0] as usize as *const u8, 5) };
        assert_eq!(bytes, b"abcde");
        assert_eq!(frame.bytes(), b"abcde");
        assert!(frame.at(0, 5).is_some() && frame.at(1, 5).is_none() && frame.at(u64::MAX, 2).is_none());
    }

    #[test]
    fn metadata_is_words_in_front_of_the_packet() {
        let mut frame = Frame::new().unwrap();
        frame.set(b"0123456789abcdef", LinkLayer::Ethernet, 16);
        assert!(frame.adjust_meta(-8) && !frame.adjust_meta(-3) && !frame.adjust_meta(12) && !frame.adjust_meta(-300));
        frame.xdp(1);
        assert_eq!(frame.context.0[XDP_DATA] - frame.context.0[XDP_DATA_META], 8);
    }

    #[test]
    fn an_skb_has_what_programs_read() {
        let mut frame = Frame::new().unwrap();
        let mut packet = [0; 60];
        packet[12..14].copy_from_slice(&[8, 0]);
        frame.set(&packet, LinkLayer::Ethernet, 1500);
        frame.skb(3, true, 0x1_0000_0002);
        let words = &frame.context.0;
        assert_eq!((words[SKB_LEN], words[SKB_IFINDEX], words[SKB_PROTOCOL]), (1500, 3, 8));
        assert_eq!((words[SKB_TSTAMP], words[SKB_TSTAMP + 1]), (2, 1));
        assert_eq!(words[SKB_DATA_END] - words[SKB_DATA], 60);
        for (first, protocol) in [(0x45, 0x0800_u16), (0x60, 0x86dd), (0x00, 0)] {
            frame.set(&[first; 40], LinkLayer::None, 40);
            frame.skb(3, false, 0);
            assert_eq!(frame.context.0[SKB_PROTOCOL], u32::from(protocol.to_be()));
        }
    }
}
