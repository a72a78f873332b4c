//! `retransmits`: records, counters, slots.

use super::net::{Flow, Inet};

/// Index in `STATS`: SYN-ACKs sent again.
pub const STAT_SYNACK: u32 = 0;
/// Index in `STATS`: resets received.
pub const STAT_RESET_IN: u32 = 1;
/// Index in `STATS`: resets sent.
pub const STAT_RESET_OUT: u32 = 2;
/// Index in `STATS`: segments sent again by connections that `SOCKS` had no room for.
pub const STAT_UNTRACKED: u32 = 3;
/// Index in `STATS`: segments sent again by connections that `CLOSED` had no room for when they ended.
pub const STAT_UNKEPT: u32 = 4;
/// Elements of `STATS`.
pub const STATS: u32 = 5;

/// Slot in `EVENTS` and element of `EVENT`: a segment is sent again.
pub const SLOT_RETRANSMIT: u32 = 0;
/// Slot in `EVENTS` and element of `EVENT`: a SYN-ACK is sent again.
pub const SLOT_SYNACK: u32 = 1;
/// Slot in `EVENTS` and element of `EVENT`: a reset came.
pub const SLOT_RESET_IN: u32 = 2;
/// Slot in `EVENTS` and element of `EVENT`: a reset is sent.
pub const SLOT_RESET_OUT: u32 = 3;
/// Elements of `EVENTS` and of `EVENT`.
pub const SLOTS: u32 = 4;

/// Index in [`Conn::kinds`]: the timer ran out.
pub const KIND_RTO: usize = 0;
/// Index in [`Conn::kinds`]: the peer's acknowledgements told of the loss.
pub const KIND_FAST: usize = 1;
/// Index in [`Conn::kinds`]: a tail-loss probe.
pub const KIND_TLP: usize = 2;
/// Index in [`Conn::kinds`]: a SYN.
pub const KIND_SYN: usize = 3;
/// Index in [`Conn::kinds`]: none of these.
pub const KIND_OTHER: usize = 4;
/// Elements of [`Conn::kinds`].
pub const KINDS: usize = 5;

/// Value of [`Conn::owner`]: nobody knows whose socket it is.
pub const OWNER_UNKNOWN: u8 = 0;
/// Value of [`Conn::owner`]: whoever listens on the port.
pub const OWNER_LISTENER: u8 = 1;
/// Value of [`Conn::owner`]: who has the socket open, or has connected it.
pub const OWNER_KNOWN: u8 = 2;

/// A connection, 128 bytes: value of `SOCKS` and `CLOSED`.
///
/// Readings are the kernel's own counters of the socket, which wrap. Events and the iterator write fields of their own: neither undoes
/// what the other has read, and the later reading is the larger one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conn {
    /// When it was first seen, nanoseconds of the monotonic clock.
    pub since_ns: u64,
    /// Seen from this host: the source is here.
    pub flow: Flow,
    pub comm: [u64; 2],
    pub pid: u32,
    /// Number of the network namespace.
    pub netns: u32,
    /// `total_retrans` before the first segment that counts.
    pub base_retrans: u32,
    /// `data_segs_out` likewise.
    pub base_sent: u32,
    /// `total_retrans` at the last event.
    pub retrans: u32,
    /// `data_segs_out` at the last event.
    pub sent: u32,
    /// `total_retrans` when the iterator last came by.
    pub seen_retrans: u32,
    /// `data_segs_out` likewise.
    pub seen_sent: u32,
    /// Of `retrans - base_retrans`, by `KIND_*`.
    pub kinds: [u32; KINDS],
    pub resets_in: u32,
    pub resets_out: u32,
    /// `TCP_*`
    pub state: u8,
    /// `OWNER_*`
    pub owner: u8,
    pub zero: [u8; 2],
}

/// Key of `CLOSED`: sockets are made again at the same address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClosedKey {
    pub sk: u64,
    pub since_ns: u64,
}

/// Per-CPU value of `DESTS`, by the peer's [`Inet`]: what need not belong to a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dest {
    pub synacks: u64,
    pub resets_in: u64,
    pub resets_out: u64,
}

/// Key of `LISTENERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Address of the network namespace.
    pub net: u64,
    pub port: u64,
}

/// Element of `EVENT`, 144 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// 0: tracing programs decide nothing.
    pub verdict: u32,
    pub slot: u32,
    pub flow: Flow,
    pub src: Inet,
    pub dst: Inet,
    pub comm: [u64; 2],
    /// Text: `rto`, `fast`, `tlp`, `syn`, `synack`, `other`.
    pub kind: u64,
    pub pid: u32,
    /// Segments sent again now.
    pub segs: u32,
    /// And of the connection so far.
    pub total: u32,
    pub state: u32,
    pub sport: u32,
    pub dport: u32,
}
