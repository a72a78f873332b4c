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

#![no_std]

pub mod abi;
pub mod identity;

pub use abi::{EventRecord, Lpm4, Lpm6, PacketsBytes, Prefix};

/// Per-CPU array of event records, in every native.
pub const EVENT: &str = "EVENT";
/// Program array, indexed by the slots of the events, in every native.
pub const EVENTS: &str = "EVENTS";
/// Program array with one slot: the next program on the hook, in natives at XDP.
pub const CHAIN: &str = "CHAIN";

/// An ELF file at an address that ELF readers can cast from.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

/// The blocklist: drops packets from (or to) listed prefixes. XDP.
pub mod blocklist {
    pub use crate::abi::blocklist::*;

    /// The object file: little-endian BPF ELF with BTF, 16-byte aligned.
    pub static OBJECT: &[u8] = &BYTES.0;
    static BYTES: &crate::Aligned<[u8]> = &crate::Aligned(*include_bytes!("../objects/blocklist.bpf.o"));

    /// The program's symbol, in section `xdp.frags`.
    pub const PROGRAM: &str = "blocklist";

    /// LPM trie [`Lpm4`](crate::Lpm4) → [`Lpm4`](crate::Lpm4): the list. **The value of an entry is its key** (the
    /// program gets the matched prefix from it). Same for the three tries below.
    pub const BLOCK4: &str = "BLOCK4";
    /// LPM trie [`Lpm6`](crate::Lpm6) → [`Lpm6`](crate::Lpm6): the list.
    pub const BLOCK6: &str = "BLOCK6";
    /// As `BLOCK4`, of the second set; with [`RODATA_ATOMIC`] only.
    pub const SWAP4: &str = "SWAP4";
    /// As `BLOCK6`, of the second set.
    pub const SWAP6: &str = "SWAP6";
    /// Array with one `u32`: which set is in force, 0 or 1. Whoever changes it must wait for the programs that run (a grace period
    /// of RCU) before changing the set that was.
    pub const ACTIVE: &str = "ACTIVE";
    /// Array with one element of [`PORT_WORDS`] words: the ports, with [`RODATA_ONLY_PORTS`].
    pub const PORTS: &str = "PORTS";
    /// LPM trie [`Lpm4`](crate::Lpm4) → [`Lpm4`](crate::Lpm4): the allow list.
    pub const ALLOW4: &str = "ALLOW4";
    /// LPM trie [`Lpm6`](crate::Lpm6) → [`Lpm6`](crate::Lpm6): the allow list.
    pub const ALLOW6: &str = "ALLOW6";
    /// Per-CPU hash [`Lpm4`](crate::Lpm4) → [`PacketsBytes`](crate::PacketsBytes): hits per listed prefix, made on
    /// the first hit.
    pub const HITS4: &str = "HITS4";
    /// Per-CPU hash [`Lpm6`](crate::Lpm6) → [`PacketsBytes`](crate::PacketsBytes).
    pub const HITS6: &str = "HITS6";
    /// Per-CPU array `u32` → `u64`, indexed by the `STAT_*` constants.
    pub const STATS_MAP: &str = "STATS";
    pub use crate::{CHAIN, EVENT, EVENTS};

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
    /// `.rodata` `u32`: 1 = there are two sets of block tries, and `ACTIVE` says which is in force; default 0.
    pub const RODATA_ATOMIC: &str = "ATOMIC";
    /// `.rodata` `u32`: 1 = count, report, call the event, but let everything pass; default 0.
    pub const RODATA_DRY_RUN: &str = "DRY_RUN";
    /// `.rodata` `u32`: 1 = fill `EVENT` and tail-call [`SLOT_DROP`]; default 0.
    pub const RODATA_EVENT_DROP: &str = "EVENT_DROP";
    /// `.rodata` `u32`: 1 = fill `EVENT` and tail-call [`SLOT_ALLOW`]; default 0.
    pub const RODATA_EVENT_ALLOW: &str = "EVENT_ALLOW";
    /// `.rodata` `u32`: 1 = tail-call `CHAIN` slot 0 instead of returning `XDP_PASS`; default 0.
    pub const RODATA_CHAIN_NEXT: &str = "CHAIN_NEXT";

    /// Every map of the object.
    pub const MAPS: &[&str] = &[
        BLOCK4, BLOCK6, SWAP4, SWAP6, ACTIVE, PORTS, ALLOW4, ALLOW6, HITS4, HITS6, STATS_MAP, EVENT, EVENTS, CHAIN,
    ];
    /// Every setting of the object.
    pub const RODATA: &[&str] = &[
        RODATA_MATCH,
        RODATA_FAMILIES,
        RODATA_ALLOW_FAMILIES,
        RODATA_PROTO,
        RODATA_ONLY_PORTS,
        RODATA_ATOMIC,
        RODATA_DRY_RUN,
        RODATA_EVENT_DROP,
        RODATA_EVENT_ALLOW,
        RODATA_CHAIN_NEXT,
    ];
}
