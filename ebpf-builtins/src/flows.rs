//! The flow aggregator: packets, bytes and more of each flow. TC or XDP.

pub use crate::abi::flows::*;

/// The object file: little-endian BPF ELF with BTF, 16-byte aligned.
pub static OBJECT: std::sync::LazyLock<crate::Object> = crate::packed::object!("flows");

/// At TC ingress, in section `classifier`.
pub const INGRESS: &str = "flows_ingress";
/// At TC egress.
pub const EGRESS: &str = "flows_egress";
/// At XDP, in section `xdp.frags`.
pub const XDP: &str = "flows_xdp";
/// Program for the iterator `task_file`: whose open sockets are.
pub const OPEN_SOCKETS: &str = "flows_sockets";
/// Program for the cgroup hook `sock_release`: whose a socket was that is closed.
pub const CLOSED_SOCKETS: &str = "flows_release";

/// Hash [`Key`] → `u32`, index in `RECORDS`. User space ends a flow: it deletes the key, waits for a grace period of RCU, reads the
/// element, sets all of it to zero and pushes its index to `FREE`. So no update is lost, and none hits another flow.
pub const FLOWS_MAP: &str = "FLOWS";
/// Array of [`Record`], mappable.
pub const RECORDS: &str = "RECORDS";
/// Stack of `u32`: the elements of `RECORDS` that are free. User space fills it before anything is attached.
pub const FREE: &str = "FREE";
/// Ring buffer of [`Delta`]: packets that found `FREE` empty.
pub const DELTAS: &str = "DELTAS";
/// LRU hash [`Fragment`] → [`FragmentPorts`].
pub const FRAGMENTS: &str = "FRAGMENTS";
/// LRU hash from the cookie of a socket to its [`crate::abi::Owner`].
pub const OWNERS: &str = "OWNERS";
/// Per-CPU array `u32` → `u64`, indexed by the `STAT_*` constants.
pub const STATS_MAP: &str = "STATS";
/// Per-CPU array with one element, for the programs alone.
pub const SCRATCH: &str = "SCRATCH";
pub use crate::{CHAIN, EVENT, EVENTS, EVENTS_XDP};

/// `.rodata` `u32` each, for the programs that see sockets: where a field is in a struct of the kernel, in bytes. Name, struct, field.
pub const OFFSETS: &[(&str, &str, &str)] = &[
    ("SOCKET_SK", "socket", "sk"),
    ("SOCK_COOKIE", "sock_common", "skc_cookie"),
    ("SOCK_STATE", "sock_common", "skc_state"),
    ("SOCK_KERN", "sock", "sk_kern_sock"),
    ("SOCK_TYPE", "sock", "sk_type"),
    ("TASK_LEADER", "task_struct", "group_leader"),
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_COMM", "task_struct", "comm"),
    ("TASK_FLAGS", "task_struct", "flags"),
];
/// `.rodata` `u32`: which bits of the byte at `SOCK_KERN` are the field's; 0, the default: sockets are not looked into.
pub const RODATA_KERN_MASK: &str = "KERN_MASK";
/// `.rodata` `u32`, by `SLOT_*`: 1 = fill `EVENT` and tail-call the slot; default 0.
pub const RODATA_EVENTS: &[&str] = &["ON_NEW", "ON_CLOSE", "ON_RST", "ON_RETRANSMIT"];
/// `.rodata` `u32`: 1 = tail-call `CHAIN` slot 0 instead of returning `XDP_PASS`; default 0.
pub const RODATA_CHAIN_NEXT: &str = "CHAIN_NEXT";
pub use crate::RODATA_IP_FIRST;

/// Every map of the object.
pub const MAPS: &[&str] = &[
    FLOWS_MAP, RECORDS, FREE, DELTAS, FRAGMENTS, OWNERS, STATS_MAP, SCRATCH, EVENT, EVENTS, EVENTS_XDP, CHAIN,
];
