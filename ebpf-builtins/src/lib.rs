//! The natives: prebuilt BPF programs and what user space must know to load them.
//!
//! What it is: the objects of `objects/` as bytes, the types that both sides share ([`abi`]), and the symbol names in
//! each object. What it is not: declarations for scripts (`weir-stdlib`) or loading (`weir-runtime`). The programs'
//! sources are in `ebpf/`, a workspace of its own for `bpfel-unknown-none`; `cargo xtask builtins` builds them.
//!
//! Common to all natives:
//! - `EVENT`: per-CPU array of event records (one for all events of programs that never interrupt each other, else one each); `EVENTS`:
//!   program array with one slot per event; `CHAIN`, at XDP: program array, slot 0 is the next program on the hook. Programs put there must be loaded as the native
//!   is, or the kernel refuses them (EINVAL): the same program type, for XDP the flag `BPF_F_XDP_HAS_FRAGS`, and the
//!   same `expected_attach_type` (newer kernels compare it; take `BPF_XDP` for all).
//! - Settings are `u32` variables of `.rodata`, set before loading. Nothing else in `.rodata` is for user space.
//! - Maps are BTF maps in `.maps`; their `max_entries` are defaults that user space may change before loading.
//! - The license is GPL; helpers are those of Linux 5.18 and older.

pub mod abi;
pub mod exact;
pub mod flows;
pub mod identity;
mod packed;

pub use abi::{EventRecord, Lpm4, Lpm6, Owner, PacketsBytes, Prefix, Record4, Record6};
pub use packed::Object;

/// Per-CPU array of event records, in every native.
pub const EVENT: &str = "EVENT";
/// Program array, indexed by the slots of the events, in every native.
pub const EVENTS: &str = "EVENTS";
/// The same for the programs at TC, in natives whose `EVENTS` is for XDP: a program array takes programs of one type, and whoever loads the
/// whole object has both.
pub const EVENTS_TC: &str = "EVENTS_TC";
/// The same for the program at XDP, in natives whose `EVENTS` is for TC.
pub const EVENTS_XDP: &str = "EVENTS_XDP";
/// Program array with one slot: the next program on the hook, in natives at XDP.
pub const CHAIN: &str = "CHAIN";

/// `.rodata` `u32`, in natives on interfaces: 1 = packets start with the IP header, as those of tun, WireGuard and IP tunnels do; default 0, they start
/// with Ethernet.
pub const RODATA_IP_FIRST: &str = "IP_FIRST";

/// What a native that is loaded for both kinds of interfaces has twice, the program arrays and `.rodata`, is called so for those whose packets start
/// with IP.
#[must_use]
pub fn of_ip(symbol: &str) -> String {
    format!("{symbol}_IP")
}

/// Array with one `u64`, in natives that decide at TC: when user space last showed itself, by the boot clock.
pub const HEARTBEAT: &str = "HEARTBEAT";

/// The blocklist: drops packets from (or to) listed prefixes. XDP or TC.
pub mod blocklist {
    pub use crate::abi::blocklist::*;

    /// The object file: little-endian BPF ELF with BTF, 16-byte aligned.
    pub static OBJECT: std::sync::LazyLock<crate::Object> = crate::packed::object!("blocklist");

    /// The program's symbol, in section `xdp.frags`.
    pub const PROGRAM: &str = "blocklist";
    /// The same at TC, for either direction, in section `classifier`.
    pub const TC: &str = "blocklist_tc";

    /// LPM trie [`Lpm4`](crate::Lpm4) → [`Lpm4`](crate::Lpm4): the list. **The value of an entry is its key** (the
    /// program gets the matched prefix from it). Same for the three tries below.
    pub const BLOCK4: &str = "BLOCK4";
    /// LPM trie [`Lpm6`](crate::Lpm6) → [`Lpm6`](crate::Lpm6): the list.
    pub const BLOCK6: &str = "BLOCK6";
    /// As `BLOCK4`, of the second set; with [`RODATA_ATOMIC`] only.
    pub const SWAP4: &str = "SWAP4";
    /// As `BLOCK6`, of the second set.
    pub const SWAP6: &str = "SWAP6";
    /// Array with one element of [`STATE_WORDS`] words. Whoever changes the set in force must wait for the programs that run (a grace
    /// period of RCU) before changing the set that was.
    pub const STATE: &str = "STATE";
    /// Array of nodes of [`NODE_SLOTS`] words, mappable: the exact tables for long lists ([`crate::exact`]), with
    /// [`RODATA_EXACT`] only.
    pub const NODES4: &str = "NODES4";
    /// As `NODES4`, for IPv6.
    pub const NODES6: &str = "NODES6";
    /// Array of [`Record4`](crate::Record4), mappable; element 0 is not used.
    pub const RECORDS4: &str = "RECORDS4";
    /// Array of [`Record6`](crate::Record6), mappable; element 0 is not used.
    pub const RECORDS6: &str = "RECORDS6";
    /// Array of words of 64 bits, mappable, [`SIEVE_WORDS`] for each set: which /24s of IPv4 have anything to do with the exact tables, with
    /// [`RODATA_SIEVE`] only.
    pub const SIEVE4: &str = "SIEVE4";
    /// As `SIEVE4`, for IPv6: a bit for each /24 there, too.
    pub const SIEVE6: &str = "SIEVE6";
    /// Array with one element of [`PORT_WORDS`] words: the ports, with [`RODATA_ONLY_PORTS`].
    pub const PORTS: &str = "PORTS";
    /// LPM trie [`Lpm4`](crate::Lpm4) → [`Lpm4`](crate::Lpm4): the allow list.
    pub const ALLOW4: &str = "ALLOW4";
    /// LPM trie [`Lpm6`](crate::Lpm6) → [`Lpm6`](crate::Lpm6): the allow list.
    pub const ALLOW6: &str = "ALLOW6";
    /// Per-CPU hash [`Lpm4`](crate::Lpm4) → [`PacketsBytes`](crate::PacketsBytes): hits per prefix that is listed in a trie, made on
    /// the first hit. Those of the exact tables are in their records.
    pub const HITS4: &str = "HITS4";
    /// Per-CPU hash [`Lpm6`](crate::Lpm6) → [`PacketsBytes`](crate::PacketsBytes).
    pub const HITS6: &str = "HITS6";
    /// Hash [`Lpm4`](crate::Lpm4) → [`PacketsBytes`](crate::PacketsBytes): hits of entries that are no longer where they were counted. User
    /// space alone writes it; it is here to be kept and pinned with the rest.
    pub const PAST4: &str = "PAST4";
    /// As `PAST4`, for IPv6.
    pub const PAST6: &str = "PAST6";
    /// Per-CPU array `u32` → `u64`, indexed by the `STAT_*` constants.
    pub const STATS_MAP: &str = "STATS";
    pub use crate::{CHAIN, EVENT, EVENTS, EVENTS_TC, HEARTBEAT};

    /// `.rodata` `u32`: [`MATCH_SRC`], [`MATCH_DST`] or both; default source.
    pub const RODATA_MATCH: &str = "MATCH";
    /// `.rodata` `u32`: [`IPV4`] and [`IPV6`], the families that the list has or may get while loaded (a family that
    /// is not there costs nothing); default both.
    pub const RODATA_FAMILIES: &str = "FAMILIES";
    /// `.rodata` `u32`: the same for the allow list; default none.
    pub const RODATA_ALLOW_FAMILIES: &str = "ALLOW_FAMILIES";
    /// `.rodata` `u32`: the IP protocol that is dropped, 1 for both ICMPs; default 0, all.
    pub const RODATA_PROTO: &str = "PROTO";
    /// `.rodata` `u32`: 1 = drop only packets to a port in `PORTS`; default 0.
    pub const RODATA_ONLY_PORTS: &str = "ONLY_PORTS";
    /// `.rodata` `u32`: 1 = there are two sets of block tries, and `STATE` says which is in force; default 0.
    pub const RODATA_ATOMIC: &str = "ATOMIC";
    /// `.rodata` `u32`: [`IPV4`] and [`IPV6`], the families whose block list is in the exact tables; default none.
    pub const RODATA_EXACT: &str = "EXACT";
    /// `.rodata` `u32`: [`IPV4`] and [`IPV6`], the families for which `SIEVE4`, `SIEVE6` is asked before the exact tables; default none.
    pub const RODATA_SIEVE: &str = "SIEVE";
    /// `.rodata` `u32`: [`IPV4`], if its exact tables are flat ([`FLAT_NODES`]); default 0.
    pub const RODATA_FLAT: &str = "FLAT";
    /// `.rodata` `u32`: 1 = count, report, call the event, but let everything pass; default 0.
    pub const RODATA_DRY_RUN: &str = "DRY_RUN";
    /// `.rodata` `u32`: 1 = fill `EVENT` and tail-call [`SLOT_DROP`]; default 0.
    pub const RODATA_EVENT_DROP: &str = "EVENT_DROP";
    /// `.rodata` `u32`: 1 = fill `EVENT` and tail-call [`SLOT_ALLOW`]; default 0.
    pub const RODATA_EVENT_ALLOW: &str = "EVENT_ALLOW";
    /// `.rodata` `u32`: 1 = tail-call `CHAIN` slot 0 instead of returning `XDP_PASS`; default 0.
    pub const RODATA_CHAIN_NEXT: &str = "CHAIN_NEXT";
    /// `.rodata` `u32`: 1 = let everything pass at TC when `HEARTBEAT` is older than ten seconds; default 0.
    pub const RODATA_NEEDS_HEARTBEAT: &str = "NEEDS_HEARTBEAT";

    /// Every map of the object.
    pub const MAPS: &[&str] = &[
        BLOCK4, BLOCK6, SWAP4, SWAP6, STATE, NODES4, NODES6, RECORDS4, RECORDS6, SIEVE4, SIEVE6, PORTS, ALLOW4, ALLOW6, HITS4, HITS6,
        PAST4, PAST6, STATS_MAP, EVENT, EVENTS, EVENTS_TC, CHAIN, HEARTBEAT,
    ];
    /// Every setting of the object.
    pub const RODATA: &[&str] = &[
        RODATA_MATCH,
        RODATA_FAMILIES,
        RODATA_ALLOW_FAMILIES,
        RODATA_PROTO,
        RODATA_ONLY_PORTS,
        RODATA_ATOMIC,
        RODATA_EXACT,
        RODATA_SIEVE,
        RODATA_FLAT,
        RODATA_DRY_RUN,
        RODATA_EVENT_DROP,
        RODATA_EVENT_ALLOW,
        RODATA_CHAIN_NEXT,
        RODATA_NEEDS_HEARTBEAT,
        crate::RODATA_IP_FIRST,
    ];
}

/// Retransmits: who sends again what to whom. Raw tracepoints of TCP, and an iterator over open files.
pub mod retransmits {
    pub use crate::abi::retransmits::*;

    /// The object file: little-endian BPF ELF with BTF, 16-byte aligned.
    pub static OBJECT: std::sync::LazyLock<crate::Object> = crate::packed::object!("retransmits");

    /// Program for the tracepoint `tcp_retransmit_skb`.
    pub const RETRANSMIT: &str = "retransmit";
    /// Program for the tracepoint `tcp_retransmit_synack`.
    pub const SYNACK: &str = "synack";
    /// Program for the tracepoint `tcp_receive_reset`.
    pub const RESET_IN: &str = "reset_in";
    /// Program for the tracepoint `tcp_send_reset`.
    pub const RESET_OUT: &str = "reset_out";
    /// Program for the tracepoint `inet_sock_set_state`.
    pub const STATE: &str = "state";
    /// Program for the iterator `task_file`: reads the counters of open sockets, and whose they are.
    pub const OPEN_SOCKETS: &str = "open_sockets";

    /// Hash from the address of a socket to its [`Conn`].
    pub const SOCKS: &str = "SOCKS";
    /// Hash [`ClosedKey`] → [`Conn`]: connections that have ended. User space takes them away.
    pub const CLOSED: &str = "CLOSED";
    /// Per-CPU array with one [`ClosedKey`]: the connection that ended last.
    pub const LAST: &str = "LAST";
    /// Per-CPU hash [`Inet`](crate::abi::net::Inet) → [`Dest`].
    pub const DESTS: &str = "DESTS";
    /// LRU hash [`Port`] → [`Owner`](crate::abi::Owner).
    pub const LISTENERS: &str = "LISTENERS";
    /// Per-CPU array `u32` → `u64`, indexed by the `STAT_*` constants.
    pub const STATS_MAP: &str = "STATS";

    /// `.rodata` `u32` each: where a field is in a struct of the kernel, in bytes. Name, struct, field.
    pub const OFFSETS: &[(&str, &str, &str)] = &[
        ("SOCK_FAMILY", "sock_common", "skc_family"),
        ("SOCK_STATE", "sock_common", "skc_state"),
        ("SOCK_NUM", "sock_common", "skc_num"),
        ("SOCK_DPORT", "sock_common", "skc_dport"),
        ("SOCK_DADDR", "sock_common", "skc_daddr"),
        ("SOCK_SADDR", "sock_common", "skc_rcv_saddr"),
        ("SOCK_NET", "sock_common", "skc_net"),
        ("SOCK_PROTOCOL", "sock", "sk_protocol"),
        ("INET_SPORT", "inet_sock", "inet_sport"),
        ("NET_INUM", "net", "ns.inum"),
        ("ICSK_CA_STATE", "inet_connection_sock", "icsk_ca_state"),
        ("ICSK_PENDING", "inet_connection_sock", "icsk_pending"),
        ("TP_TOTAL_RETRANS", "tcp_sock", "total_retrans"),
        ("TP_DATA_SEGS_OUT", "tcp_sock", "data_segs_out"),
        ("SKB_HEAD", "sk_buff", "head"),
        ("SKB_NETWORK", "sk_buff", "network_header"),
        ("SKB_TRANSPORT", "sk_buff", "transport_header"),
        ("SKB_DEV", "sk_buff", "dev"),
        ("DEV_NET", "net_device", "nd_net"),
        ("SOCKET_SK", "socket", "sk"),
        ("TASK_LEADER", "task_struct", "group_leader"),
        ("TASK_TGID", "task_struct", "tgid"),
        ("TASK_COMM", "task_struct", "comm"),
    ];
    /// The same, of fields that a kernel without IPv6 does not have; default 0, none.
    pub const OFFSETS_IPV6: &[(&str, &str, &str)] = &[
        ("SOCK_DADDR6", "sock_common", "skc_v6_daddr"),
        ("SOCK_SADDR6", "sock_common", "skc_v6_rcv_saddr"),
    ];
    /// `.rodata` `u32`: the bits of the byte at `ICSK_CA_STATE`.
    pub const RODATA_CA_MASK: &str = "ICSK_CA_MASK";
    /// `.rodata` `u32`: `sk_buff.cb` and in it `tcp_skb_cb.tcp_gso_segs`.
    pub const RODATA_SKB_SEGS: &str = "SKB_SEGS";
    /// `.rodata` `u32`: number of the only network namespace that counts; default 0, all.
    pub const RODATA_NETNS: &str = "NETNS";
    /// `.rodata` `u32`: 1 = tail-call the slot; by `SLOT_*`. Default 0.
    pub const RODATA_EVENTS: &[&str] = &["EVENT_RETRANSMIT", "EVENT_SYNACK", "EVENT_RESET_IN", "EVENT_RESET_OUT"];
}
