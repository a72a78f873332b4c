//! What a native's BPF program and user space agree on: record layouts, counter indices, slots, flag bits.
//!
//! Compiled twice: as a module of `weir-ebpf-builtins` for the host, and by path into the BPF programs in `ebpf/`.
//! So: no_std, no dependencies, no code that only one side could build. Integers are in host order (the objects are
//! little-endian), addresses in network order. Every change here is a change of the committed objects.

/// `AF_INET` of Linux.
pub const FAMILY_IPV4: u32 = 2;
/// `AF_INET6` of Linux.
pub const FAMILY_IPV6: u32 = 10;

/// An address prefix of either family, 24 bytes.
///
/// | offset | size | |
/// |---|---|---|
/// | 0 | 4 | `len_bits`, of its own family: 0–32 or 0–128 |
/// | 4 | 4 | `family`, [`FAMILY_IPV4`] or [`FAMILY_IPV6`] |
/// | 8 | 16 | `addr`, network order; IPv4 fills the first 4 bytes, the rest is zero |
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    pub len_bits: u32,
    pub family: u32,
    pub addr: [u8; 16],
}

/// What a native leaves for the program that it tail-calls on an event: element 0 of its per-CPU array `EVENT`, 32 bytes.
///
/// | offset | size | |
/// |---|---|---|
/// | 0 | 4 | `verdict`: the native's, as its hook returns it (`XDP_DROP` 1, `XDP_PASS` 2) |
/// | 4 | 4 | `slot`: which event; its index in `EVENTS` |
/// | 8 | 24 | `prefix`: the entry that matched |
///
/// Only the context survives a tail call, hence the array. The event's program returns `verdict`, unless that is
/// the hook's default (`XDP_PASS`): then it tail-calls slot 0 of the native's `CHAIN` first, so that the programs
/// behind the native still see the packet, and returns `verdict` if that slot is empty.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventRecord {
    pub verdict: u32,
    pub slot: u32,
    pub prefix: Prefix,
}

/// Key of the IPv4 tries and of `HITS4`, 8 bytes.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lpm4 {
    /// Prefix length in bits, 0–32.
    pub len_bits: u32,
    pub addr: [u8; 4],
}

/// Key of the IPv6 tries and of `HITS6`, 20 bytes.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lpm6 {
    /// Prefix length in bits, 0–128.
    pub len_bits: u32,
    pub addr: [u8; 16],
}

/// Per-CPU value of `HITS4` and `HITS6`, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketsBytes {
    /// XDP runs once per received frame, so one each.
    pub packets: u64,
    /// From the Ethernet header on, all fragments of the buffer; no frame check sequence.
    pub bytes: u64,
}

/// The blocklist: indices, slots and flags.
pub mod blocklist {
    /// Index in `STATS`: IP packets on no list, or without the protocol or port asked for. Every packet is counted once, by this or one of the five below.
    pub const STAT_PASSED: u32 = 0;
    /// Index in `STATS`: packets that the block list matched. With `DRY_RUN` they went on all the same.
    pub const STAT_DROPPED: u32 = 1;
    /// Index in `STATS`: packets that the allow list matched.
    pub const STAT_ALLOWED: u32 = 2;
    /// Index in `STATS`: packets cut off before the end of their fixed IP header (or VLAN tag), or of the wrong IP
    /// version or an impossible header length. They pass.
    pub const STAT_MALFORMED: u32 = 3;
    /// Index in `STATS`: packets that carry neither IPv4 nor IPv6 (ARP, LLDP, …), or more than two VLAN
    /// tags. They pass.
    pub const STAT_NON_IP: u32 = 4;
    /// Index in `STATS`: neighbour discovery of a listed address. It passes.
    pub const STAT_NEIGHBOUR: u32 = 5;
    /// Index in `STATS`: dropped packets missing in `HITS4`/`HITS6`, because those were full or the kernel was out
    /// of memory at the first hit.
    pub const STAT_UNCOUNTED: u32 = 6;
    /// Elements of `STATS`.
    pub const STATS: u32 = 7;

    /// Slot in `EVENTS`: a listed packet.
    pub const SLOT_DROP: u32 = 0;
    /// Slot in `EVENTS`: a packet on the allow list.
    pub const SLOT_ALLOW: u32 = 1;

    /// Words of `PORTS`: a bit for each port. The bit's number is the port in network order read as a little-endian number.
    pub const PORT_WORDS: usize = 1024;

    /// Bit of `MATCH`: look the source address up.
    pub const MATCH_SRC: u32 = 1;
    /// Bit of `MATCH`: look the destination address up (after the source).
    pub const MATCH_DST: u32 = 2;

    /// Bit of `FAMILIES` and `ALLOW_FAMILIES`.
    pub const IPV4: u32 = 1;
    /// Bit of `FAMILIES` and `ALLOW_FAMILIES`.
    pub const IPV6: u32 = 2;
}
