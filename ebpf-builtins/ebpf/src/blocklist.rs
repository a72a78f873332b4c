//! The blocklist: drops packets from, or to, listed prefixes.
//!
//! One program at XDP, one at TC for both directions, of the same code ([`Frame`]).
//! Input: a frame, two tries for each address family (block, allow), exact tables in the place of the first for a long
//! list (`exact`), settings in `.rodata`. Output: whether the packet is dropped, counters, and a tail call for each event that a script
//! listens to. Names, layouts and what the settings mean: `weir_ebpf_builtins::{abi, blocklist}`.
//!
//! The order: find the IP header, allow list, block list; only for what the block list matched: neighbour discovery, protocol and
//! ports; counters, tail calls. Unless there are ports to compare, only fixed headers are read: addresses are in every fragment, so
//! fragments need no treatment. What cannot be judged passes: an interface that has lost its ARP is lost for its owner.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[path = "../../src/abi.rs"]
#[allow(dead_code, reason = "shared by all natives")]
mod abi;
#[path = "common/atomic.rs"]
#[allow(dead_code, reason = "shared with flows")]
mod atomic;
#[allow(dead_code, reason = "shared by all natives")]
mod common;
mod exact;

use abi::blocklist::*;
use abi::{EventRecord, FAMILY_IPV4, FAMILY_IPV6, Lpm4, Lpm6, PacketsBytes, Prefix, Record4, Record6};
use atomic::add64;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::bpf_tail_call;
use common::headers::{ICMPV6, Ipv4, Ports, SCTP, TCP, UDP};
use common::heartbeat::is_owned;
use common::ipv6::skip_extensions;
use common::map::{Array, Hash, LpmTrie, PerCpuArray, PerCpuHash, ProgArray, SharedArray};
use common::packet::{
    Anywhere, ETH_P_IP, ETH_P_IPV6, Linear, Reader, Room, Skb, Truncated, context, lacks_ethernet, length, network_header, protocol,
    version,
};
use common::{setting, settings};
use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::NonNull;

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

/// Defaults; user space sets `max_entries` to what the script asks for.
const ENTRIES: usize = 1 << 20;
const HITS: usize = 1 << 16;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static BLOCK4: LpmTrie<Lpm4, Lpm4, ENTRIES> = LpmTrie::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static BLOCK6: LpmTrie<Lpm6, Lpm6, ENTRIES> = LpmTrie::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static SWAP4: LpmTrie<Lpm4, Lpm4, 1> = LpmTrie::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static SWAP6: LpmTrie<Lpm6, Lpm6, 1> = LpmTrie::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static STATE: Array<[u32; STATE_WORDS], 1> = Array::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static NODES4: SharedArray<[u32; NODE_SLOTS], 1> = SharedArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static NODES6: SharedArray<[u32; NODE_SLOTS], 1> = SharedArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static RECORDS4: SharedArray<Record4, 1> = SharedArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static RECORDS6: SharedArray<Record6, 1> = SharedArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static SIEVE4: SharedArray<u64, 1> = SharedArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static SIEVE6: SharedArray<u64, 1> = SharedArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static PORTS: Array<[u64; PORT_WORDS], 1> = Array::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static ALLOW4: LpmTrie<Lpm4, Lpm4, ENTRIES> = LpmTrie::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static ALLOW6: LpmTrie<Lpm6, Lpm6, ENTRIES> = LpmTrie::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static HITS4: PerCpuHash<Lpm4, PacketsBytes, HITS> = PerCpuHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static HITS6: PerCpuHash<Lpm6, PacketsBytes, HITS> = PerCpuHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static PAST4: Hash<Lpm4, PacketsBytes, HITS> = Hash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static PAST6: Hash<Lpm6, PacketsBytes, HITS> = Hash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static STATS: PerCpuArray<u64, { abi::blocklist::STATS as usize }> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENT: PerCpuArray<EventRecord, 1> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENTS: ProgArray<2> = ProgArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENTS_TC: ProgArray<2> = ProgArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static CHAIN: ProgArray<1> = ProgArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static HEARTBEAT: Array<u64, 1> = Array::new();

settings! {
    MATCH = MATCH_SRC;
    FAMILIES = IPV4 | IPV6;
    ALLOW_FAMILIES = 0;
    PROTO = 0;
    ONLY_PORTS = 0;
    ATOMIC = 0;
    EXACT = 0;
    SIEVE = 0;
    FLAT = 0;
    DRY_RUN = 0;
    EVENT_DROP = 0;
    EVENT_ALLOW = 0;
    CHAIN_NEXT = 0;
    NEEDS_HEARTBEAT = 0;
    IP_FIRST = 0;
}

/// Looks up the addresses that are to be matched, the source first. A macro, since closures that are called twice are not inlined.
macro_rules! either {
    ($src:expr, $dst:expr, |$addr:ident| $find:expr) => {{
        let mut entry = None;
        if setting!(MATCH) & MATCH_SRC != 0 {
            let $addr = $src;
            entry = $find;
        }
        if entry.is_none() && setting!(MATCH) & MATCH_DST != 0 {
            let $addr = $dst;
            entry = $find;
        }
        entry
    }};
}

/// A packet as its hook has it.
trait Frame: Copy {
    type Whole: Reader;
    const PASS: u32;
    const DROP: u32;

    /// Reads what is not in the first buffer, too.
    fn whole(self) -> Self::Whole;
    fn context(self) -> *mut c_void;
    /// The EtherType of a packet on an interface without Ethernet; `packet` is its bytes.
    fn protocol<R: Reader>(self, packet: &R) -> Result<u16, Truncated>;
    /// Whether the packet is as on an interface without Ethernet all the same.
    fn lacks_ethernet(self) -> bool;
    /// Programs of events: an array takes those of one hook.
    fn events() -> &'static ProgArray<2>;
    /// How many packets the wire has of it.
    fn packets(self) -> u64;
    /// How many bytes these have; what they carry is asked for where segmentation repeats its header.
    fn bytes(self, upper: impl FnOnce() -> Upper) -> u64;
}

impl<'a> Frame for &'a xdp_md {
    type Whole = Anywhere<'a>;
    const PASS: u32 = XDP_PASS;
    const DROP: u32 = XDP_DROP;

    #[inline(always)]
    fn whole(self) -> Anywhere<'a> {
        Anywhere(self)
    }

    #[inline(always)]
    fn context(self) -> *mut c_void {
        context(self).cast()
    }

    #[inline(always)]
    fn protocol<R: Reader>(self, packet: &R) -> Result<u16, Truncated> {
        version(packet)
    }

    #[inline(always)]
    fn lacks_ethernet(self) -> bool {
        false
    }

    #[inline(always)]
    fn events() -> &'static ProgArray<2> {
        &EVENTS
    }

    #[inline(always)]
    fn packets(self) -> u64 {
        1
    }

    #[inline(always)]
    fn bytes(self, _: impl FnOnce() -> Upper) -> u64 {
        length(self)
    }
}

/// Where TCP has the length of its header.
const DATA_OFFSET: usize = 12;

impl<'a> Frame for &'a __sk_buff {
    type Whole = Skb<'a>;
    /// `TC_ACT_UNSPEC`, of tcx `TCX_NEXT`: whoever comes next decides.
    const PASS: u32 = u32::MAX;
    /// `TC_ACT_SHOT`
    const DROP: u32 = 2;

    #[inline(always)]
    fn whole(self) -> Skb<'a> {
        Skb(self)
    }

    #[inline(always)]
    fn context(self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    #[inline(always)]
    fn protocol<R: Reader>(self, _: &R) -> Result<u16, Truncated> {
        Ok(protocol(self))
    }

    #[inline(always)]
    fn lacks_ethernet(self) -> bool {
        lacks_ethernet(self)
    }

    #[inline(always)]
    fn events() -> &'static ProgArray<2> {
        &EVENTS_TC
    }

    #[inline(always)]
    fn packets(self) -> u64 {
        if self.gso_segs > 1 { u64::from(self.gso_segs) } else { 1 }
    }

    #[inline(always)]
    fn bytes(self, upper: impl FnOnce() -> Upper) -> u64 {
        let len = u64::from(self.len);
        let repeated = self.packets() - 1;
        if repeated == 0 {
            return len;
        }
        let Upper { proto, offset, is_there } = upper();
        if !is_there {
            return len;
        }
        let mut room = Room::new();
        let header = match proto {
            TCP => match self.whole().header::<[u8; 1]>(offset + DATA_OFFSET, &mut room) {
                Ok(&[data_offset]) => (data_offset >> 4) as usize * 4,
                Err(Truncated) => return len,
            },
            _ => 8,
        };
        len + repeated * (offset + header) as u64
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp.frags")]
fn blocklist(ctx: &xdp_md) -> u32 {
    let linear = Linear::new(ctx);
    let outcome = match classify(ctx, &linear) {
        Ok(outcome) => outcome,
        // Not in the first buffer: perhaps in a fragment.
        Err(Truncated) if length(ctx) > linear.len() as u64 => classify(ctx, &Anywhere(ctx)).unwrap_or(STAT_MALFORMED),
        Err(Truncated) => STAT_MALFORMED,
    };
    let verdict = conclude(ctx, outcome);
    if verdict == XDP_PASS && setting!(CHAIN_NEXT) != 0 {
        tail_call(ctx, &CHAIN, 0);
    }
    verdict
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn blocklist_tc(ctx: &__sk_buff) -> u32 {
    if setting!(NEEDS_HEARTBEAT) != 0 && !is_owned(&HEARTBEAT) {
        return <&__sk_buff>::PASS;
    }
    let linear = Linear::of_skb(ctx);
    let outcome = match classify(ctx, &linear) {
        Ok(outcome) => outcome,
        Err(Truncated) if ctx.len as usize > linear.len() => classify(ctx, &Skb(ctx)).unwrap_or(STAT_MALFORMED),
        Err(Truncated) => STAT_MALFORMED,
    };
    conclude(ctx, outcome)
}

/// Counts the packet, and goes on to the event that it is; returns what becomes of it.
#[inline(always)]
fn conclude<F: Frame>(frame: F, outcome: u32) -> u32 {
    count(outcome, frame.packets());
    // Everything is released: a tail call does not return, unless the slot is empty.
    match outcome {
        STAT_DROPPED => {
            if setting!(EVENT_DROP) != 0 {
                tail_call(frame, F::events(), SLOT_DROP);
            }
            if setting!(DRY_RUN) == 0 {
                return F::DROP;
            }
        }
        STAT_ALLOWED if setting!(EVENT_ALLOW) != 0 => tail_call(frame, F::events(), SLOT_ALLOW),
        _ => {}
    }
    F::PASS
}

/// Goes on with another program; returns if the slot is empty.
#[inline(always)]
fn tail_call<F: Frame, const MAX: usize>(frame: F, programs: &'static ProgArray<MAX>, slot: u32) {
    // SAFETY: the program's own context, a program array, an index.
    unsafe { bpf_tail_call(frame.context(), programs.id(), slot) };
}

/// Decides on a packet; counts its hit and leaves the event record. Returns the index of its counter in `STATS`.
#[inline(always)]
fn classify<F: Frame, R: Reader>(frame: F, packet: &R) -> Result<u32, Truncated> {
    let is_first = setting!(IP_FIRST) != 0 || frame.lacks_ethernet();
    let first = if is_first { Some(frame.protocol(packet)?) } else { None };
    let (ethertype, offset) = network_header(packet, first)?;
    match ethertype {
        ETH_P_IP => ipv4(frame, packet, offset),
        ETH_P_IPV6 => ipv6(frame, packet, offset),
        _ => Ok(STAT_NON_IP),
    }
}

/// The entry that matched, and its counters if it has its own.
#[derive(Clone, Copy)]
pub struct Match<K: 'static> {
    key: &'static K,
    hits: Option<NonNull<PacketsBytes>>,
}

impl<K> Match<K> {
    #[inline(always)]
    fn of_trie(key: &'static K) -> Self {
        Self { key, hits: None }
    }
}

/// An IPv4 address as a trie's key.
#[repr(C, align(8))]
struct Key4 {
    len_bits: u32,
    addr: u32,
}

#[inline(always)]
fn ipv4<F: Frame, R: Reader>(frame: F, packet: &R, offset: usize) -> Result<u32, Truncated> {
    let mut room = Room::new();
    let header: &Ipv4 = packet.header(offset, &mut room)?;
    if header.version_ihl >> 4 != 4 || header.version_ihl & 15 < 5 {
        return Ok(STAT_MALFORMED);
    }
    if setting!(ALLOW_FAMILIES) & IPV4 != 0
        && let Some(entry) = either!(header.src, header.dst, |addr| trie4(&ALLOW4, addr))
    {
        if setting!(EVENT_ALLOW) != 0 {
            record(F::PASS, SLOT_ALLOW, prefix4(entry));
        }
        return Ok(STAT_ALLOWED);
    }
    if setting!(FAMILIES) & IPV4 == 0 {
        return Ok(STAT_PASSED);
    }
    let state = State::now();
    // Two ways to the end: where they met, it would be kept in memory which one it was.
    if setting!(EXACT) & IPV4 == 0 {
        let entry = either!(header.src, header.dst, |addr| listed4(state, addr));
        return Ok(entry.map_or(STAT_PASSED, |key| listed_in_4(frame, header, offset, Match::of_trie(key))));
    }
    let entry = either!(header.src, header.dst, |addr| exact4(state, addr));
    Ok(entry.map_or(STAT_PASSED, |entry| listed_in_4(frame, header, offset, entry)))
}

/// What becomes of a packet with a listed address.
#[inline(always)]
fn listed_in_4<F: Frame>(frame: F, header: &Ipv4, offset: usize, entry: Match<Lpm4>) -> u32 {
    let upper = || Upper {
        proto: header.proto,
        offset: offset + ((header.version_ihl & 15) as usize) * 4,
        is_there: header.flags_fragment & 0x1fff_u16.to_be() == 0,
    };
    if narrowed() && !wanted(frame, &upper()) {
        return STAT_PASSED;
    }
    hit(frame, &HITS4, entry, upper);
    if setting!(EVENT_DROP) != 0 {
        record(drop_verdict::<F>(), SLOT_DROP, prefix4(entry.key));
    }
    STAT_DROPPED
}

#[inline(always)]
fn exact4(state: State, addr: u32) -> Option<Match<Lpm4>> {
    let exact = exact::find4(state.second, addr);
    if !state.spilled {
        return exact;
    }
    match (exact, listed4(state, addr).map(Match::of_trie)) {
        (Some(exact), Some(other)) if exact.key.len_bits > other.key.len_bits => Some(exact),
        (exact, other) => other.or(exact),
    }
}

/// Finds the entry of an address in the tries of the set in force.
#[inline(always)]
fn listed4(state: State, addr: u32) -> Option<&'static Lpm4> {
    if state.second { trie4(&SWAP4, addr) } else { trie4(&BLOCK4, addr) }
}

#[inline(always)]
fn trie4<const MAX: usize>(trie: &LpmTrie<Lpm4, Lpm4, MAX>, addr: u32) -> Option<&'static Lpm4> {
    let key = Key4 { len_bits: 32, addr };
    // SAFETY: an `Lpm4` by layout.
    let entry = trie.get(unsafe { &*(&raw const key).cast::<Lpm4>() })?;
    // SAFETY: user space never changes an entry's value: it is the key.
    Some(unsafe { entry.as_ref() })
}

#[inline(always)]
fn prefix4(entry: &Lpm4) -> Prefix {
    // As numbers, for the copy to be made of words.
    let addr = u128::from(u32::from_le_bytes(entry.addr)).to_le_bytes();
    Prefix {
        len_bits: entry.len_bits,
        family: FAMILY_IPV4,
        addr,
    }
}

/// The fixed IPv6 header.
#[repr(C, packed)]
struct Ipv6 {
    version: u8,
    _traffic_class_flow: [u8; 3],
    _payload_len: u16,
    next_header: u8,
    _hop_limit: u8,
    /// Addresses in two halves each: see [`Reader::header`].
    src_high: u64,
    src_low: u64,
    dst_high: u64,
    dst_low: u64,
}

/// An IPv6 address as a trie's key, behind four bytes that align the address: the verifier wants stack accesses
/// aligned, and two stores are less than sixteen.
#[repr(C, align(8))]
struct Key6 {
    _align: u32,
    len_bits: u32,
    high: u64,
    low: u64,
}

#[inline(always)]
fn ipv6<F: Frame, R: Reader>(frame: F, packet: &R, offset: usize) -> Result<u32, Truncated> {
    let mut room = Room::new();
    let header: &Ipv6 = packet.header(offset, &mut room)?;
    if header.version >> 4 != 6 {
        return Ok(STAT_MALFORMED);
    }
    if setting!(ALLOW_FAMILIES) & IPV6 != 0
        && let Some(entry) = either!(header.src(), header.dst(), |addr| trie6(&ALLOW6, addr))
    {
        if setting!(EVENT_ALLOW) != 0 {
            record(F::PASS, SLOT_ALLOW, prefix6(entry));
        }
        return Ok(STAT_ALLOWED);
    }
    if setting!(FAMILIES) & IPV6 == 0 {
        return Ok(STAT_PASSED);
    }
    let state = State::now();
    if setting!(EXACT) & IPV6 == 0 {
        let entry = either!(header.src(), header.dst(), |addr| listed6(state, addr));
        return Ok(entry.map_or(STAT_PASSED, |key| listed_in_6(frame, header, offset, Match::of_trie(key))));
    }
    let entry = either!(header.src(), header.dst(), |addr| exact6(state, addr));
    Ok(entry.map_or(STAT_PASSED, |entry| listed_in_6(frame, header, offset, entry)))
}

/// As [`listed_in_4`]; neighbour discovery passes.
#[inline(always)]
fn listed_in_6<F: Frame>(frame: F, header: &Ipv6, offset: usize, entry: Match<Lpm6>) -> u32 {
    let (proto, offset) = (header.next_header, offset + size_of::<Ipv6>());
    // What most packets have is no header that leads to another one, and no neighbour discovery.
    let upper = if matches!(proto, TCP | UDP) {
        let is_there = true;
        Upper { proto, offset, is_there }
    } else {
        let (upper, fragmented) = upper6(frame, proto, offset);
        if !fragmented && is_neighbour_discovery(frame, &upper) {
            return STAT_NEIGHBOUR;
        }
        upper
    };
    if narrowed() && !wanted(frame, &upper) {
        return STAT_PASSED;
    }
    hit(frame, &HITS6, entry, || upper);
    if setting!(EVENT_DROP) != 0 {
        record(drop_verdict::<F>(), SLOT_DROP, prefix6(entry.key));
    }
    STAT_DROPPED
}

/// An IPv6 address as it lies in the packet, in two halves.
#[derive(Clone, Copy)]
struct Halves {
    high: u64,
    low: u64,
}

impl Ipv6 {
    #[inline(always)]
    fn src(&self) -> Halves {
        Halves {
            high: self.src_high,
            low: self.src_low,
        }
    }

    #[inline(always)]
    fn dst(&self) -> Halves {
        Halves {
            high: self.dst_high,
            low: self.dst_low,
        }
    }
}

#[inline(always)]
fn exact6(state: State, addr: Halves) -> Option<Match<Lpm6>> {
    let exact = exact::find6(state.second, addr);
    if !state.spilled {
        return exact;
    }
    match (exact, listed6(state, addr).map(Match::of_trie)) {
        (Some(exact), Some(other)) if exact.key.len_bits > other.key.len_bits => Some(exact),
        (exact, other) => other.or(exact),
    }
}

#[inline(always)]
fn listed6(state: State, addr: Halves) -> Option<&'static Lpm6> {
    if state.second { trie6(&SWAP6, addr) } else { trie6(&BLOCK6, addr) }
}

#[inline(always)]
fn trie6<const MAX: usize>(trie: &LpmTrie<Lpm6, Lpm6, MAX>, addr: Halves) -> Option<&'static Lpm6> {
    let key = Key6 {
        _align: 0,
        len_bits: 128,
        high: addr.high,
        low: addr.low,
    };
    // SAFETY: an `Lpm6` by layout, from `len_bits` to the end of `key`.
    let entry = trie.get(unsafe { &*(&raw const key).byte_add(offset_of!(Key6, len_bits)).cast::<Lpm6>() })?;
    // SAFETY: as for `trie4`.
    Some(unsafe { entry.as_ref() })
}

#[inline(always)]
fn prefix6(entry: &Lpm6) -> Prefix {
    let addr = u128::from_le_bytes(entry.addr).to_le_bytes();
    Prefix {
        len_bits: entry.len_bits,
        family: FAMILY_IPV6,
        addr,
    }
}

/// Tells whether an IPv6 payload is neighbour discovery (RFC 4861: ICMPv6 types 133 to 137).
///
/// Behind a fragment header it is none: neighbour discovery in fragments, even in a single one, is to be ignored by
/// its receiver (RFC 6980, section 5), so there is nothing to let through.
#[inline(always)]
fn is_neighbour_discovery<F: Frame>(frame: F, upper: &Upper) -> bool {
    if upper.proto != ICMPV6 || !upper.is_there {
        return false;
    }
    let mut room = Room::new();
    let kind = frame.whole().header::<[u8; 2]>(upper.offset, &mut room).map(|&[kind, _]| kind);
    matches!(kind, Ok(133..=137))
}

/// Where the block list is.
#[derive(Clone, Copy)]
struct State {
    /// In the second set.
    second: bool,
    /// Some of it in the tries, although there are exact tables.
    spilled: bool,
}

impl State {
    /// Reads it: once for each packet, so that both addresses are judged by one list. Without settings that need it, nothing is read.
    #[inline(always)]
    fn now() -> Self {
        let nothing = Self {
            second: false,
            spilled: false,
        };
        if setting!(ATOMIC) == 0 && setting!(EXACT) == 0 {
            return nothing;
        }
        let first = 0;
        let Some(words) = STATE.get(&first) else { return nothing };
        let read = |word| {
            // SAFETY: a word of the element; user space writes each as a whole.
            unsafe { words.cast::<u32>().add(word).read_volatile() != 0 }
        };
        Self {
            second: setting!(ATOMIC) != 0 && read(STATE_ACTIVE),
            spilled: setting!(EXACT) != 0 && read(STATE_SPILLED),
        }
    }
}

/// Whether a listed packet is dropped only with a certain protocol or port.
#[inline(always)]
fn narrowed() -> bool {
    setting!(PROTO) != 0 || setting!(ONLY_PORTS) != 0
}

/// What comes behind the IP headers.
///
/// Where it starts is a number in any case: of a number that is only there sometimes, older verifiers do not follow when it is.
#[derive(Clone, Copy)]
struct Upper {
    proto: u8,
    /// Where its header starts, if it is there: not in a fragment behind the first.
    offset: usize,
    is_there: bool,
}

const ICMP: u32 = 1;

/// Tells whether a packet has the protocol, and its port is among the ports, that are asked for.
#[inline(always)]
fn wanted<F: Frame>(frame: F, upper: &Upper) -> bool {
    let proto = setting!(PROTO);
    if proto != 0 && u32::from(upper.proto) != proto && !(proto == ICMP && upper.proto == ICMPV6) {
        return false;
    }
    if setting!(ONLY_PORTS) == 0 {
        return true;
    }
    if !upper.is_there || !matches!(upper.proto, TCP | UDP | SCTP) {
        return false;
    }
    let packet = frame.whole();
    let mut room = Room::new();
    let Ok(ports) = packet.header::<Ports>(upper.offset, &mut room) else {
        return false;
    };
    // As it lies in the packet: turned round, the verifier would no longer know its bounds.
    let port = ports.dst as usize;
    let first = 0;
    // SAFETY: user space filled it before the program was loaded.
    PORTS
        .get(&first)
        .is_some_and(|words| (unsafe { words.as_ref() }[port >> 6] >> (port & 63)) & 1 != 0)
}

/// Walks along the extension headers; tells as well whether the packet is a fragment. What is cut off there carries nothing.
#[inline(always)]
fn upper6<F: Frame>(frame: F, mut proto: u8, mut offset: usize) -> (Upper, bool) {
    let mut fragmented = false;
    let carries = skip_extensions(&frame.whole(), &mut proto, &mut offset, &mut fragmented).unwrap_or(false);
    let upper = Upper {
        proto,
        offset,
        is_there: carries,
    };
    (upper, fragmented)
}

#[inline(always)]
fn drop_verdict<F: Frame>() -> u32 {
    if setting!(DRY_RUN) != 0 { F::PASS } else { F::DROP }
}

/// Leaves the event record for the program of `slot`.
#[inline(always)]
fn record(verdict: u32, slot: u32, prefix: Prefix) {
    let first = 0;
    if let Some(event) = EVENT.get(&first) {
        // SAFETY: this CPU's element; no other program runs on this CPU until the tail-called one has read it.
        unsafe { event.write(EventRecord { verdict, slot, prefix }) };
    }
}

/// Counts a packet for the entry that matched it.
#[inline(always)]
fn hit<F: Frame, K, const MAX: usize>(frame: F, hits: &PerCpuHash<K, PacketsBytes, MAX>, entry: Match<K>, upper: impl FnOnce() -> Upper) {
    let (packets, bytes) = (frame.packets(), frame.bytes(upper));
    if let Some(own) = entry.hits {
        let own = own.as_ptr();
        // SAFETY: the counters of a record; nobody uses it again before this program has ended.
        unsafe {
            add64(&raw mut (*own).packets, packets);
            add64(&raw mut (*own).bytes, bytes);
        }
    } else if let Some(counters) = hits.get(entry.key) {
        // SAFETY: this CPU's counters; programs of one hook do not interrupt each other.
        let counters = unsafe { &mut *counters.as_ptr() };
        counters.packets += packets;
        counters.bytes += bytes;
    } else if !hits.set(entry.key, &PacketsBytes { packets, bytes }) {
        // No race with another CPU that made the element in the meantime: this sets only our own, untouched counters.
        count(STAT_UNCOUNTED, packets);
    }
}

#[inline(always)]
fn count(stat: u32, packets: u64) {
    if let Some(counter) = STATS.get(&stat) {
        // SAFETY: this CPU's counter.
        unsafe { *counter.as_ptr() += packets };
    }
}
