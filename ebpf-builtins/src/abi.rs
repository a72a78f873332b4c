//! What a native's BPF program and user space agree on: record layouts, counter indices, slots, flag bits.
//!
//! Compiled twice: as a module of `weir-ebpf-builtins` for the host, and by path into the BPF programs in `ebpf/`.
//! So: no_std, no dependencies, no code that only one side could build. Integers are in host order (the objects are
//! little-endian), addresses in network order. Every change here is a change of the committed objects.

#[path = "abi/flows.rs"]
pub mod flows;
#[path = "abi/net.rs"]
pub mod net;
#[path = "abi/retransmits.rs"]
pub mod retransmits;

/// `AF_INET` of Linux.
pub const FAMILY_IPV4: u32 = 2;
/// `AF_INET6` of Linux.
pub const FAMILY_IPV6: u32 = 10;

/// As the name of a process: the kernel itself has sent it, for nobody's socket.
pub const KERNEL: &str = "kernel";

/// A process: its name, padded with zeros, and number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub comm: [u64; 2],
    pub pid: u64,
}

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

/// Element of `RECORDS4`, 32 bytes: an entry of the exact tables, with its hits: what is counted lies where the entry is, and costs no more
/// than the entry does.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record4 {
    /// The record to compare with if this one does not match; 0: none.
    pub next: u32,
    pub key: Lpm4,
    /// The bits of the address that count, network order.
    pub mask: u32,
    /// Of all CPUs: added to atomically.
    pub hits: PacketsBytes,
}

/// Element of `RECORDS6`, 40 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record6 {
    pub next: u32,
    pub key: Lpm6,
    pub hits: PacketsBytes,
}

/// Per-CPU value of `HITS4` and `HITS6`, value of `PAST4` and `PAST6`, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketsBytes {
    /// On the wire: at TC, a packet that is yet to be cut into segments, or is put together of several, is as many as those.
    pub packets: u64,
    /// From the Ethernet header on, all fragments of the buffer, the headers of all segments; no frame check sequence.
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
    /// Index in `STATS`: dropped packets of entries that are gone, for which there was no room in `PAST4`/`PAST6`. User space alone counts these;
    /// they are here to be kept and pinned with the rest.
    pub const STAT_UNCOUNTED_PAST: u32 = 7;
    /// Elements of `STATS`.
    pub const STATS: u32 = 8;

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

    /// Bit of `FAMILIES`, `ALLOW_FAMILIES`, `EXACT`, `SIEVE` and `FLAT`.
    pub const IPV4: u32 = 1;
    /// Bit of `FAMILIES`, `ALLOW_FAMILIES`, `EXACT` and `SIEVE`.
    pub const IPV6: u32 = 2;

    /// Word of `STATE`: which set is in force, 0 or 1.
    pub const STATE_ACTIVE: usize = 0;
    /// Word of `STATE`: 1 = entries for which the exact tables have no room are in the tries.
    pub const STATE_SPILLED: usize = 1;
    /// Words of `STATE`.
    pub const STATE_WORDS: usize = 2;

    /// Slots of a node of the exact tables (`NODES4`, `NODES6`): one for each value of one byte of the address. A slot is 0 (nothing),
    /// the index of a record, or [`NODE`] with the byte of the address that selects the slot there ([`NODE_BYTE_SHIFT`]) and
    /// the node's index ([`NODE_INDEX`]).
    ///
    /// The first two bytes of an address select a node and a slot in it: nodes 0 to 255 of the first set, 256 to 511 of the second. Bytes
    /// may be stepped over on the way, so records are compared in any case, along [`Record4::next`](super::Record4) until one matches.
    pub const NODE_SLOTS: usize = 256;
    /// Bit of a slot: the rest is a node.
    pub const NODE: u32 = 1 << 31;
    /// Where a slot has the number of the address's byte.
    pub const NODE_BYTE_SHIFT: u32 = 24;
    /// Bits of a slot that are a node's index.
    pub const NODE_INDEX: u32 = (1 << NODE_BYTE_SHIFT) - 1;
    /// So many records of a slot are compared before those that cover all of the slot.
    pub const SIBLINGS: u32 = 8;

    /// Flat tables have a node for each /16 of IPv4 from the start, which the root leads to, too. So many for each set, right behind the roots
    /// of all sets.
    pub const FLAT_NODES: u32 = 1 << 16;

    /// Words of 64 bits of a set in `SIEVE4` and `SIEVE6`: a bit for each /24, the lowest of a word first. Where it is 0, no entry of the exact tables
    /// covers the /24 or lies in it. The first set's, then the second's.
    pub const SIEVE_WORDS: u32 = 1 << 18;
}

/// The identity enforcer: records, indices, slots and flags.
pub mod identity {
    /// One line of the policy as the kernel compares it, 56 bytes; element of `RULES`. The first one that matches decides.
    ///
    /// | offset | size | |
    /// |---|---|---|
    /// | 0 | 4 | `from`: identity of the sender, 0 = any |
    /// | 4 | 4 | `rule`: index in `VERDICTS` |
    /// | 8 | 4 | `verdict`: [`ALLOW`] or [`DENY`] |
    /// | 12 | 2 | `port_low`, host order |
    /// | 14 | 2 | `port_high`, inclusive |
    /// | 16 | 1 | `family`, 0 = either |
    /// | 17 | 1 | `proto`, 0 = any |
    /// | 18 | 1 | `with_port`: 1 = packets without a port do not match |
    /// | 19 | 5 | zero |
    /// | 24 | 16 | `addr`, network order, already masked |
    /// | 40 | 16 | `mask` |
    #[repr(C, align(8))]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Rule {
        pub from: u32,
        pub rule: u32,
        pub verdict: u32,
        pub port_low: u16,
        pub port_high: u16,
        pub family: u8,
        pub proto: u8,
        pub with_port: u8,
        pub zero: [u8; 5],
        pub addr: [u64; 2],
        pub mask: [u64; 2],
    }

    /// `Rule::verdict`: goes on.
    pub const ALLOW: u32 = 0;
    /// `Rule::verdict`: dropped.
    pub const DENY: u32 = 1;

    /// The one element of `POLICY`, 24 bytes. Whoever puts a new policy in force fills the half of `RULES` that is not in force and
    /// its two words here first, and then writes `generation`; and waits for a grace period of RCU before the next change.
    #[repr(C, align(8))]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Policy {
        /// Its lowest bit says which half of `RULES` is in force.
        pub generation: u32,
        pub zero: u32,
        /// Rules in each half.
        pub rules: [u32; 2],
        /// What happens to packets of a known sender that no rule matches: [`ALLOW`] or [`DENY`].
        pub default: [u32; 2],
    }

    /// A decision that was made, 32 bytes: key of `CACHE`.
    #[repr(C, align(8))]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Question {
        pub generation: u32,
        pub identity: u32,
        pub dst: [u64; 2],
        /// Host order; 0 for protocols without ports.
        pub port: u16,
        pub proto: u8,
        /// 4 or 6.
        pub version: u8,
        pub zero: u32,
    }

    /// Value of `CACHE`.
    #[repr(C, align(8))]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Answer {
        pub verdict: u32,
        /// Index in `VERDICTS`, or [`NO_RULE`].
        pub rule: u32,
    }

    /// `Answer::rule` where no rule matched.
    pub const NO_RULE: u32 = u32::MAX;

    /// A conversation, seen from the pod, 48 bytes: key of `FLOWS`.
    #[repr(C, align(8))]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flow {
        pub pod: [u64; 2],
        pub peer: [u64; 2],
        pub ifindex: u32,
        /// Network order.
        pub pod_port: u16,
        pub peer_port: u16,
        pub proto: u32,
        pub zero: u32,
    }

    /// Value of `FLOWS`: the pod began it.
    pub const FROM_POD: u32 = 1;
    /// Value of `FLOWS`: the other side began it.
    pub const TO_POD: u32 = 2;

    /// Key of `DENIED`, 32 bytes.
    #[repr(C, align(8))]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Denied {
        /// 0 = unknown.
        pub identity: u32,
        /// Host order.
        pub port: u16,
        pub proto: u8,
        /// 4 or 6.
        pub version: u8,
        pub dst: [u64; 2],
    }

    /// What the program that is tail-called on an event finds in `EVENT`, 120 bytes. `verdict` as TC returns it.
    #[repr(C, align(8))]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct EventRecord {
        pub verdict: u32,
        pub slot: u32,
        /// Of the sender, 0 = unknown.
        pub identity: u32,
        /// Index of the rule that decided, or [`NO_RULE`].
        pub rule: u32,
        /// 1 = the packet comes from the pod, 0 = it goes to it.
        pub from_pod: u32,
        pub zero: u32,
        /// Of the identity, with zeros behind it.
        pub name: [u64; NAME_WORDS],
        /// Of the rule, with zeros behind it.
        pub rule_name: [u64; RULE_WORDS],
    }

    /// Words of an identity's name, in `NAMES`.
    pub const NAME_WORDS: usize = 4;
    /// Words of a rule's name, in `RULE_NAMES`.
    pub const RULE_WORDS: usize = 8;

    /// Index in `STATS`: packets that the policy lets through. Every packet is counted once, by this or one of the next nine.
    pub const STAT_ALLOWED: u32 = 0;
    /// Index in `STATS`: packets that the policy does not let through. With `DRY_RUN` they went on all the same.
    pub const STAT_DENIED: u32 = 1;
    /// Index in `STATS`: packets of conversations that the other side began, and that were let through then.
    pub const STAT_REPLIES: u32 = 2;
    /// Index in `STATS`: packets whose sender has no identity and that no rule for everybody matches.
    pub const STAT_UNKNOWN: u32 = 3;
    /// Index in `STATS`: ICMP errors, resets, and packets of TCP connections older than the program, that the policy would deny.
    pub const STAT_UNDECIDED: u32 = 4;
    /// Index in `STATS`: fragments behind the first. They pass: without their first they are worth nothing.
    pub const STAT_FRAGMENTS: u32 = 5;
    /// Index in `STATS`: neighbour discovery. It passes.
    pub const STAT_NEIGHBOUR: u32 = 6;
    /// Index in `STATS`: neither IPv4 nor IPv6. They pass.
    pub const STAT_NON_IP: u32 = 7;
    /// Index in `STATS`: cut off, or impossible headers. They pass.
    pub const STAT_MALFORMED: u32 = 8;
    /// Index in `STATS`: packets in the direction that is only watched.
    pub const STAT_WATCHED: u32 = 9;
    /// Index in `STATS`, beside the above: values of others in our bits of a mark. They stay.
    pub const STAT_FOREIGN_MARK: u32 = 10;
    /// Index in `STATS`, beside the above: packets whose interface, cgroup and mark did not agree on the sender.
    pub const STAT_DISAGREE: u32 = 11;
    /// Index in `STATS`, beside the above: sockets that got their identity.
    pub const STAT_STAMPED: u32 = 12;
    /// Index in `STATS`, beside the above: calls of `setsockopt(SO_MARK)` that were refused.
    pub const STAT_REFUSED: u32 = 13;
    /// Index in `STATS`, beside the above: packets that `DENIED` had no room for.
    pub const STAT_UNCOUNTED: u32 = 14;
    /// Elements of `STATS`.
    pub const STATS: u32 = 15;

    /// Slot in `EVENTS`.
    pub const SLOT_DENY: u32 = 0;
    /// Slot in `EVENTS`.
    pub const SLOT_ALLOW: u32 = 1;
    /// Slot in `EVENTS`.
    pub const SLOT_UNKNOWN: u32 = 2;

    /// Bit of `ENFORCE`: what the pod sends.
    pub const ENFORCE_FROM_POD: u32 = 1;
    /// Bit of `ENFORCE`: what is sent to the pod.
    pub const ENFORCE_TO_POD: u32 = 2;

    /// How deep below the root a cgroup's ancestors are looked for.
    pub const LEVELS: u32 = 16;
}
