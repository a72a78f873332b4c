//! `flows`: records, counters, slots.

use super::net::{Flow, Inet};

/// What a flow is counted by, 48 bytes: key of `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub flow: Flow,
    pub ifindex: u32,
    /// Number of the outer VLAN, 0 without one.
    pub vlan: u16,
    /// `DIRECTION_*`
    pub direction: u8,
    pub zero: u8,
}

/// Value of [`Key::direction`]: from the interface into the host.
pub const DIRECTION_INGRESS: u8 = 0;
/// Value of [`Key::direction`]: from the host out through the interface.
pub const DIRECTION_EGRESS: u8 = 1;

/// A flow, 128 bytes: element of `RECORDS`. What is called a count is only ever added to, atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub key: Key,
    /// Count of wire packets.
    pub packets: u64,
    /// Count of bytes on the wire, Ethernet header included, as the packets would have after segmentation.
    pub bytes: u64,
    /// Monotonic clock. 0 = the element is not in use.
    pub first_ns: u64,
    pub last_ns: u64,
    /// Cookie of the sender's socket, if that is on this host and not one of the kernel's own.
    pub cookie: u64,
    /// Counts of wire packets with the flag.
    pub syns: u32,
    pub fins: u32,
    pub rsts: u32,
    /// Count of segments that came again by their sequence numbers, while no socket told more.
    pub estimated: u32,
    /// `total_retrans` of the socket when it was first seen.
    pub base_retrans: u32,
    /// `total_retrans` of the socket now.
    pub retrans: u32,
    /// Smoothed round-trip time of the socket, microseconds.
    pub srtt_us: u32,
    /// The sequence number behind the last byte sent.
    pub next_seq: u32,
    /// Flags of TCP seen so far, as in the header's byte.
    pub flags: u32,
    /// `STATE_*`
    pub state: u32,
}

/// Bit of [`Record::state`]: there is a socket of TCP on this host that sends it.
pub const STATE_LOCAL: u32 = 1;
/// Bit of [`Record::state`]: `next_seq` is known.
pub const STATE_SEQ: u32 = 2;
/// Bit of [`Record::state`]: the kernel itself has sent of it, for nobody's socket.
pub const STATE_KERNEL: u32 = 4;
/// Where [`Record::state`] has how many bytes are in front of the IP header.
pub const STATE_LINK_SHIFT: u32 = 8;

/// A packet that no element was left for: record of the ring buffer `DELTAS`, 72 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    pub key: Key,
    pub bytes: u64,
    pub at_ns: u64,
    pub packets: u32,
    pub flags: u8,
    /// How many bytes are in front of the IP header.
    pub link: u8,
    pub zero: u16,
}

/// Key of `FRAGMENTS`, 48 bytes: what all fragments of a packet have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    pub src: [u64; 2],
    pub dst: [u64; 2],
    pub id: u32,
    pub ifindex: u32,
    pub proto: u8,
    pub direction: u8,
    pub zero: [u8; 6],
}

/// Value of `FRAGMENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPorts {
    pub sport: u16,
    pub dport: u16,
}

/// Index in `STATS`: packets that neither an element nor the ring buffer had room for.
pub const STAT_OVERFLOW: u32 = 0;
/// Index in `STATS`: their bytes.
pub const STAT_OVERFLOW_BYTES: u32 = 1;
/// Index in `STATS`: neither IPv4 nor IPv6.
pub const STAT_NON_IP: u32 = 2;
/// Index in `STATS`: cut off, or impossible headers.
pub const STAT_MALFORMED: u32 = 3;
/// Index in `STATS`, beside the above: fragments behind the first whose first was not seen. Their flow has no ports.
pub const STAT_STRAY_FRAGMENTS: u32 = 4;
/// Elements of `STATS`.
pub const STATS: u32 = 5;

/// Slot in `EVENTS`: the first packet of a flow.
pub const SLOT_NEW: u32 = 0;
/// Slot in `EVENTS`: the sender's first FIN.
pub const SLOT_CLOSE: u32 = 1;
/// Slot in `EVENTS`: a packet with RST.
pub const SLOT_RST: u32 = 2;
/// Slot in `EVENTS`: segments that were sent before.
pub const SLOT_RETRANSMIT: u32 = 3;
/// Elements of `EVENTS`.
pub const SLOTS: u32 = 4;

/// The element of `EVENT`, 160 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// As the hook returns it.
    pub verdict: u32,
    pub slot: u32,
    pub flow: Flow,
    pub src: Inet,
    pub dst: Inet,
    /// Of the flow so far, this packet included.
    pub packets: u64,
    pub bytes: u64,
    /// Nanoseconds since the first packet.
    pub age_ns: u64,
    /// Of the flow so far.
    pub retransmits: u32,
    pub segs: u32,
    pub srtt_us: u32,
    pub egress: u32,
    pub sport: u32,
    pub dport: u32,
    /// Number of the outer VLAN, 0 without one.
    pub vlan: u32,
    pub zero: u32,
}
