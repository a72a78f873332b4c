//! The flow aggregator: what flows there are, and how much each has carried.
//!
//! Three programs on one set of maps: two at TC, one for each direction, or one at XDP; an iterator tells whose the open sockets are,
//! and a program of the root cgroup whose those were that have been closed. A
//! flow is an index in `FLOWS` and a record in `RECORDS`, which user space has in its memory; names, layouts, and how it ends a
//! flow without losing a packet: `weir_ebpf_builtins::{abi::flows, flows}`.
//!
//! Every packet is counted once: in its flow's record; without a free record in a record of the ring buffer; without room
//! there in a counter. Packets always go on.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[path = "../../src/abi.rs"]
#[allow(dead_code, reason = "shared by all natives")]
mod abi;
#[path = "common/atomic.rs"]
mod atomic;
#[allow(dead_code, reason = "shared by all natives")]
mod common;

use abi::flows::{self as fl, *};
use abi::{FAMILY_IPV4, FAMILY_IPV6, Owner};
use atomic::{add32, add64, or32};
use aya_ebpf::bindings::{__sk_buff, bpf_sock, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_map_pop_elem, bpf_map_push_elem, bpf_ringbuf_output,
    bpf_sock_from_file, bpf_tail_call, bpf_tcp_sock,
};
use common::headers::{AUTHENTICATION, DESTINATION_OPTIONS, Extension, FRAGMENT, HOP_BY_HOP, Ipv4, Ipv6, Ports, ROUTING, SCTP, TCP, UDP};
use common::kernel::{peek, process};
use common::map::{FullHash, LruHash, PerCpuArray, ProgArray, RingBuf, SharedArray, Stack};
use common::packet::{
    Anywhere, ETH_P_IP, ETH_P_IPV6, Linear, Reader, Room, Skb, Truncated, context, lacks_ethernet, length, protocol, version,
};
use common::{setting, settings};
use core::ffi::c_void;

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

/// `TC_ACT_UNSPEC`, of tcx `TCX_NEXT`: whoever comes next decides.
const NEXT: i32 = -1;
const XDP_PASS: u32 = 2;

/// A default; user space sets `max_entries` to what the script asks for.
const FLOWS_MAX: usize = 1 << 16;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static FLOWS: FullHash<Key, u32, FLOWS_MAX> = FullHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static RECORDS: SharedArray<Record, FLOWS_MAX> = SharedArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static FREE: Stack<FLOWS_MAX> = Stack::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static DELTAS: RingBuf<{ 1 << 22 }> = RingBuf::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static FRAGMENTS: LruHash<Fragment, FragmentPorts, 8192> = LruHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static OWNERS: LruHash<u64, Owner, 65536> = LruHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static STATS: PerCpuArray<u64, { fl::STATS as usize }> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static SCRATCH: PerCpuArray<Packet, 1> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENT: PerCpuArray<Event, 1> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENTS: ProgArray<{ SLOTS as usize }> = ProgArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENTS_XDP: ProgArray<{ SLOTS as usize }> = ProgArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static CHAIN: ProgArray<1> = ProgArray::new();

settings! {
    ON_NEW = 0;
    ON_CLOSE = 0;
    ON_RST = 0;
    ON_RETRANSMIT = 0;
    CHAIN_NEXT = 0;
    IP_FIRST = 0;
    // Bytes from the start of the struct in the name.
    SOCKET_SK = 0;
    SOCK_COOKIE = 0;
    SOCK_STATE = 0;
    SOCK_KERN = 0;
    SOCK_TYPE = 0;
    TASK_LEADER = 0;
    TASK_TGID = 0;
    TASK_COMM = 0;
    TASK_FLAGS = 0;
    // Bits at SOCK_KERN.
    KERN_MASK = 0;
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// No element of `RECORDS`.
const NOWHERE: u32 = u32::MAX;
/// No slot of `EVENTS`.
const NO_EVENT: u32 = u32::MAX;

/// Of `sock.sk_type`.
const SOCK_STREAM: u16 = 1;
/// States of sockets that are less than a `struct sock`: what is left of a connection, and what may become one.
const TCP_TIME_WAIT: u8 = 6;
const TCP_NEW_SYN_RECV: u8 = 12;

/// Of `task_struct.flags`.
const PF_KTHREAD: u32 = 0x0020_0000;

const BPF_NOEXIST: u64 = 1;
const BPF_RB_NO_WAKEUP: u64 = 1;

/// What there is to know of a packet.
///
/// It lies in a map: what the verifier reads from there it knows nothing of, so it follows what comes after the headers once, and
/// not once for each way through them.
#[repr(C)]
struct Packet {
    key: Key,
    fragment: Fragment,
    /// On the wire.
    bytes: u64,
    packets: u32,
    /// Length of the whole.
    len: u32,
    /// How many bytes of headers segmentation repeats.
    headers: u32,
    /// How many bytes are in front of the IP header.
    link: u32,
    /// Of TCP: the first byte's number, how many bytes, and the header's flags.
    seq: u32,
    payload: u32,
    flags: u32,
    /// 1 = `total_retrans` and `srtt_us` are those of the sender's socket.
    is_local: u32,
    total_retrans: u32,
    srtt_us: u32,
    /// 1 = it is the first of its flow.
    is_new: u32,
    /// 1 = the first of several fragments.
    is_fragmented: u32,
    zero: u32,
    /// Address of the kernel's socket that it is from, of any kind, [`NOBODY`] or [`MADE_HERE`].
    sender: u64,
}

/// Of [`Packet::sender`]: it comes from elsewhere.
const NOBODY: u64 = 0;
/// Of [`Packet::sender`]: it was made here, without a socket.
const MADE_HERE: u64 = 1;

// ---- programs ----

#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn flows_ingress(ctx: *mut __sk_buff) -> i32 {
    at_tc::<DIRECTION_INGRESS>(ctx)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn flows_egress(ctx: *mut __sk_buff) -> i32 {
    at_tc::<DIRECTION_EGRESS>(ctx)
}

#[inline(always)]
fn at_tc<const DIRECTION: u8>(ctx: *mut __sk_buff) -> i32 {
    let first = 0;
    let Some(packet) = SCRATCH.get(&first) else { return NEXT };
    // SAFETY: this CPU's element; programs at TC do not interrupt each other.
    let packet = unsafe { &mut *packet.as_ptr() };
    // SAFETY: the program's own context.
    let skb = unsafe { &*ctx };
    packet.key.ifindex = skb.ifindex;
    packet.key.direction = DIRECTION;
    // A tag that the interface has taken out of the packet.
    packet.key.vlan = if skb.vlan_present != 0 { skb.vlan_tci as u16 & 0xfff } else { 0 };
    packet.len = skb.len;
    // What most packets have is in the first buffer.
    match parse::<true, _>(&Linear::of_skb(skb), packet, |_| Ok(ip_at_tc(skb)))
        .or_else(|Truncated| parse::<false, _>(&Skb(skb), packet, |_| Ok(ip_at_tc(skb))))
    {
        Ok(None) => {}
        Ok(Some(stat)) => {
            count(stat, 1);
            return NEXT;
        }
        Err(Truncated) => {
            count(STAT_MALFORMED, 1);
            return NEXT;
        }
    }
    let segments = if skb.gso_segs > 1 { skb.gso_segs } else { 1 };
    packet.packets = segments;
    packet.bytes = u64::from(skb.len) + u64::from(segments - 1) * u64::from(read(&packet.headers));

    packet.is_local = 0;
    // What was forwarded came in by an interface.
    let is_made_here = DIRECTION == DIRECTION_EGRESS && skb.ingress_ifindex == 0;
    packet.sender = if is_made_here { MADE_HERE } else { NOBODY };
    // SAFETY: the program's own context; null or a socket.
    let sk = unsafe { skb.__bindgen_anon_2.sk };
    if !sk.is_null() {
        // Of an address that has been in memory the verifier allows arithmetic.
        packet.sender = sk as u64;
        // SAFETY: not null.
        let tcp = unsafe { bpf_tcp_sock(sk) };
        if !tcp.is_null() {
            packet.is_local = 1;
            // SAFETY: not null.
            unsafe {
                packet.total_retrans = (*tcp).total_retrans;
                packet.srtt_us = (*tcp).srtt_us >> 3;
            }
        }
    }
    let slot = account::<true>(ctx.cast(), packet, NEXT as u32);
    if slot != NO_EVENT {
        // SAFETY: the program's own context, a program array, an index. Returns only if the slot is empty.
        unsafe { bpf_tail_call(ctx.cast(), EVENTS.id(), slot) };
    }
    NEXT
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp.frags")]
fn flows_xdp(ctx: &xdp_md) -> u32 {
    let slot = at_xdp(ctx);
    if slot != NO_EVENT {
        // SAFETY: as at TC; an array takes programs of one hook.
        unsafe { bpf_tail_call(context(ctx).cast(), EVENTS_XDP.id(), slot) };
    }
    if setting!(CHAIN_NEXT) != 0 {
        // SAFETY: as above.
        unsafe { bpf_tail_call(context(ctx).cast(), CHAIN.id(), 0) };
    }
    XDP_PASS
}

#[inline(always)]
fn at_xdp(ctx: &xdp_md) -> u32 {
    let first = 0;
    let Some(packet) = SCRATCH.get(&first) else { return NO_EVENT };
    // SAFETY: this CPU's element; programs at XDP do not interrupt each other.
    let packet = unsafe { &mut *packet.as_ptr() };
    let len = length(ctx);
    packet.key.ifindex = ctx.ingress_ifindex;
    packet.key.direction = DIRECTION_INGRESS;
    packet.key.vlan = 0;
    packet.len = len as u32;
    match parse::<true, _>(&Linear::new(ctx), packet, ip_at_xdp).or_else(|Truncated| parse::<false, _>(&Anywhere(ctx), packet, ip_at_xdp)) {
        Ok(None) => {}
        Ok(Some(stat)) => {
            count(stat, 1);
            return NO_EVENT;
        }
        Err(Truncated) => {
            count(STAT_MALFORMED, 1);
            return NO_EVENT;
        }
    }
    packet.packets = 1;
    packet.bytes = len;
    packet.is_local = 0;
    packet.sender = NOBODY;
    account::<false>(context(ctx).cast(), packet, XDP_PASS)
}

// ---- counting ----

/// Reads a word of which the verifier, and the compiler, shall know nothing.
#[inline(always)]
fn read<T: Copy>(value: &T) -> T {
    // SAFETY: a reference can be read.
    unsafe { core::ptr::read_volatile(value) }
}

/// Adds the packet to its flow. Returns the event that it is, or [`NO_EVENT`].
#[inline(always)]
fn account<const TC: bool>(ctx: *mut c_void, packet: &mut Packet, verdict: u32) -> u32 {
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    packet.is_new = 0;
    let index = match FLOWS.get(&packet.key) {
        // SAFETY: a word that is written once.
        Some(index) => unsafe { index.read_volatile() },
        None => begin(packet, now),
    };
    let Some(record) = RECORDS.get(&index) else {
        unlisted(packet, now);
        return NO_EVENT;
    };
    let record = record.as_ptr();
    let (packets, bytes) = (read(&packet.packets), read(&packet.bytes));
    let flags = read(&packet.flags) as u8;
    // SAFETY: the flow's record: whoever ends the flow waits for this program. Others may add at the same time.
    unsafe {
        add64(&raw mut (*record).packets, u64::from(packets));
        add64(&raw mut (*record).bytes, bytes);
        (&raw mut (*record).last_ns).write_volatile(now);
    }
    if TC {
        // SAFETY: as above.
        unsafe { sent_by(ctx, record, packet) };
    }
    let mut again = 0;
    let mut is_first_fin = false;
    if read(&packet.key.flow.proto) == TCP {
        // SAFETY: as above.
        unsafe {
            if (*record).flags & u32::from(flags) != u32::from(flags) {
                or32(&raw mut (*record).flags, u32::from(flags));
            }
            // Of the segments that a large buffer is cut into the last one alone has the FIN.
            if flags & SYN != 0 {
                add32(&raw mut (*record).syns, 1);
            }
            if flags & FIN != 0 {
                is_first_fin = (*record).fins == 0;
                add32(&raw mut (*record).fins, 1);
            }
            if flags & RST != 0 {
                add32(&raw mut (*record).rsts, 1);
            }
            again = if TC && read(&packet.is_local) != 0 && !is_answer_of_the_kernel(record, packet, flags) {
                told(record, packet)
            } else {
                estimated(record, packet, packets, flags)
            };
        }
    }
    // A packet has one program, so one event.
    let slot = if setting!(ON_RST) != 0 && flags & RST != 0 {
        SLOT_RST
    } else if setting!(ON_CLOSE) != 0 && is_first_fin {
        SLOT_CLOSE
    } else if setting!(ON_NEW) != 0 && read(&packet.is_new) != 0 {
        SLOT_NEW
    } else if setting!(ON_RETRANSMIT) != 0 && again != 0 {
        SLOT_RETRANSMIT
    } else {
        return NO_EVENT;
    };
    let first = 0;
    let Some(event) = EVENT.get(&first) else { return NO_EVENT };
    let event = event.as_ptr();
    // SAFETY: this CPU's element; nothing interrupts until the tail-called program has read it.
    unsafe {
        (*event).verdict = verdict;
        (*event).slot = slot;
        (*event).flow = packet.key.flow;
        (*event).src = packet.key.flow.source();
        (*event).dst = packet.key.flow.destination();
        (*event).packets = (*record).packets;
        (*event).bytes = (*record).bytes;
        (*event).age_ns = now.wrapping_sub((*record).first_ns);
        (*event).retransmits = (*record).estimated + (*record).retrans.wrapping_sub((*record).base_retrans);
        (*event).segs = again;
        (*event).srtt_us = (*record).srtt_us;
        (*event).egress = u32::from(packet.key.direction);
        (*event).sport = u32::from(packet.key.flow.sport);
        (*event).dport = u32::from(packet.key.flow.dport);
        (*event).vlan = u32::from(packet.key.vlan);
    }
    slot
}

/// Gives a flow a record. Returns its index, or [`NOWHERE`].
#[inline(always)]
fn begin(packet: &mut Packet, now: u64) -> u32 {
    let mut index = NOWHERE;
    // SAFETY: the helper writes the word, or nothing.
    if unsafe { bpf_map_pop_elem(FREE.id(), (&raw mut index).cast()) } != 0 {
        return NOWHERE;
    }
    let Some(record) = RECORDS.get(&index) else { return NOWHERE };
    let record = record.as_ptr();
    // SAFETY: nobody else has this record, and all of it is zero.
    unsafe {
        (*record).key = packet.key;
        (*record).last_ns = now;
        (*record).state = read(&packet.link) << STATE_LINK_SHIFT;
        (&raw mut (*record).first_ns).write_volatile(now);
    }
    if FLOWS.set_with(&packet.key, &index, BPF_NOEXIST) {
        packet.is_new = 1;
        return index;
    }
    // Another CPU was faster.
    // SAFETY: as above, still.
    unsafe {
        (*record).key = Key::default();
        (*record).last_ns = 0;
        (*record).state = 0;
        (&raw mut (*record).first_ns).write_volatile(0);
        bpf_map_push_elem(FREE.id(), (&raw const index).cast(), 0);
    }
    // SAFETY: a word that is written once.
    FLOWS.get(&packet.key).map_or(NOWHERE, |index| unsafe { index.read_volatile() })
}

/// Hands a packet without a record to user space.
#[inline(always)]
fn unlisted(packet: &Packet, now: u64) {
    let (packets, bytes) = (read(&packet.packets), read(&packet.bytes));
    let mut delta = Delta {
        key: packet.key,
        bytes,
        at_ns: now,
        packets,
        flags: read(&packet.flags) as u8,
        link: read(&packet.link) as u8,
        zero: 0,
    };
    // SAFETY: all of `delta` is readable.
    let failed = unsafe { bpf_ringbuf_output(DELTAS.id(), (&raw mut delta).cast(), size_of::<Delta>() as u64, BPF_RB_NO_WAKEUP) };
    if failed != 0 {
        count(STAT_OVERFLOW, u64::from(packets));
        count(STAT_OVERFLOW_BYTES, bytes);
    }
}

/// Takes in whose packet it is: a socket's, or the kernel's own.
///
/// # Safety
/// `record` is the flow's, `ctx` the context of a program at TC.
#[inline(always)]
unsafe fn sent_by(ctx: *mut c_void, record: *mut Record, packet: &Packet) {
    let sender = read(&packet.sender);
    // SAFETY: the caller's.
    unsafe {
        if sender == NOBODY || (*record).cookie != 0 {
            return;
        }
        if sender != MADE_HERE && !is_kernels(sender) {
            (*record).cookie = bpf_get_socket_cookie(ctx);
        } else if (*record).state & STATE_KERNEL == 0 {
            or32(&raw mut (*record).state, STATE_KERNEL);
        }
    }
}

/// Whether a socket is one that the kernel uses for itself: to answer to what nobody listens for, say. Not of streams: those of MPTCP are
/// made by the kernel, too, and some process has each.
#[inline(always)]
fn is_kernels(sk: u64) -> bool {
    setting!(KERN_MASK) != 0
        && !matches!(peek::<u8>(sk, setting!(SOCK_STATE)), TCP_TIME_WAIT | TCP_NEW_SYN_RECV)
        && u32::from(peek::<u8>(sk, setting!(SOCK_KERN))) & setting!(KERN_MASK) != 0
        && peek::<u16>(sk, setting!(SOCK_TYPE)) != SOCK_STREAM
}

/// Whether a packet may be the kernel's answer for a connection that is over, or never was. The socket that it is from counts as one of TCP
/// for some kernels, but has no counters, whatever is read there.
///
/// # Safety
/// `record` is the flow's.
#[inline(always)]
unsafe fn is_answer_of_the_kernel(record: *mut Record, packet: &Packet, flags: u8) -> bool {
    // SAFETY: the caller's.
    let (cookie, fins) = unsafe { ((*record).cookie, (*record).fins) };
    cookie == 0 || flags & RST != 0 || fins != 0 && flags & FIN == 0 && read(&packet.payload) == 0
}

/// Takes over what the sender's socket says. Returns how many segments it has sent again since the last packet.
///
/// # Safety
/// `record` is the flow's.
#[inline(always)]
unsafe fn told(record: *mut Record, packet: &Packet) -> u32 {
    let total = read(&packet.total_retrans);
    // SAFETY: the caller's. The socket's lock orders its packets.
    unsafe {
        (*record).srtt_us = read(&packet.srtt_us);
        if (*record).state & STATE_LOCAL == 0 {
            (*record).base_retrans = total;
            (*record).retrans = total;
            or32(&raw mut (*record).state, STATE_LOCAL);
            return 0;
        }
        let more = total.wrapping_sub((*record).retrans);
        if more as i32 <= 0 {
            return 0;
        }
        (*record).retrans = total;
        more
    }
}

/// Looks at sequence numbers. Returns how many segments were seen to come again; those that overtook each other on the way look the
/// same.
///
/// # Safety
/// `record` is the flow's.
#[inline(always)]
unsafe fn estimated(record: *mut Record, packet: &Packet, packets: u32, flags: u8) -> u32 {
    let seq = read(&packet.seq);
    let payload = read(&packet.payload);
    let end = seq
        .wrapping_add(payload)
        .wrapping_add(u32::from(flags & SYN != 0))
        .wrapping_add(u32::from(flags & FIN != 0));
    if end == seq || flags & RST != 0 {
        return 0;
    }
    // SAFETY: the caller's. Another CPU may do the same: it is an estimate.
    unsafe {
        let state = (*record).state;
        let next = (*record).next_seq;
        let ahead = end.wrapping_sub(next) as i32;
        if state & STATE_SEQ == 0 || ahead > 0 {
            (*record).next_seq = end;
            if state & STATE_SEQ == 0 {
                or32(&raw mut (*record).state, STATE_SEQ);
            }
            return 0;
        }
        // The byte that some send to see whether the other side is still there.
        let is_keepalive = payload == 1 && ahead == 0 && flags & (SYN | FIN) == 0;
        if state & STATE_LOCAL != 0 || is_keepalive {
            return 0;
        }
        add32(&raw mut (*record).estimated, packets);
    }
    packets
}

#[inline(always)]
fn count(stat: u32, by: u64) {
    if let Some(counter) = STATS.get(&stat) {
        // SAFETY: this CPU's word; these programs do not interrupt each other.
        unsafe { *counter.as_ptr() += by };
    }
}

// ---- headers ----

#[repr(C, packed)]
struct Ethernet {
    _addresses: [u8; 12],
    ethertype: u16,
}

#[repr(C, packed)]
struct VlanTag {
    id: u16,
    ethertype: u16,
}

#[repr(C, packed)]
struct FragmentHeader {
    _next_and_reserved: u16,
    offset_flags: u16,
    id: u32,
}

/// Behind the ports.
#[repr(C, packed)]
struct TcpRest {
    seq: u32,
    _ack: u32,
    data_offset: u8,
    flags: u8,
}

const ETH_P_8021Q: u16 = 0x8100_u16.to_be();
const ETH_P_8021AD: u16 = 0x88a8_u16.to_be();
const EXTENSIONS: u32 = 8;
/// Of IPv4's flags and offset.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// The same in IPv6's fragment header.
const MORE_FRAGMENTS6: u16 = 0x0001;
const FRAGMENT_OFFSET6: u16 = 0xfff8;

/// The EtherType that a packet without Ethernet would have; nothing of one that has it.
#[inline(always)]
fn ip_at_xdp<R: Reader>(packet: &R) -> Result<Option<u16>, Truncated> {
    if setting!(IP_FIRST) != 0 {
        version(packet).map(Some)
    } else {
        Ok(None)
    }
}

/// The same at TC.
#[inline(always)]
fn ip_at_tc(skb: &__sk_buff) -> Option<u16> {
    let is_first = setting!(IP_FIRST) != 0 || lacks_ethernet(skb);
    is_first.then(|| protocol(skb))
}

/// Fills in what there is to know. Returns a counter for packets that belong to no flow. With `COMMON`, what few packets have (extension
/// headers) is taken for truncated. `first` says what a packet without Ethernet is.
#[inline(always)]
fn parse<const COMMON: bool, R: Reader>(
    reader: &R,
    packet: &mut Packet,
    first: impl FnOnce(&R) -> Result<Option<u16>, Truncated>,
) -> Result<Option<u32>, Truncated> {
    packet.key.flow.sport = 0;
    packet.key.flow.dport = 0;
    packet.key.flow.has_ports = 0;
    packet.key.flow.zero = 0;
    packet.key.zero = 0;
    packet.flags = 0;
    packet.seq = 0;
    packet.payload = 0;
    packet.is_fragmented = 0;

    let (ethertype, offset) = match first(reader)? {
        Some(ethertype) => (ethertype, 0),
        None => (reader.header::<Ethernet>(0, &mut Room::new())?.ethertype, size_of::<Ethernet>()),
    };
    let (ethertype, mut offset) = behind_tags(reader, ethertype, offset, &mut packet.key.vlan)?;
    packet.link = offset as u32;
    let network = offset;
    // Where IP says that the packet ends: behind it there may be padding.
    let mut end = packet.len;
    let mut is_later = false;
    match ethertype {
        ETH_P_IP => {
            let mut room = Room::new();
            let header: &Ipv4 = reader.header(network, &mut room)?;
            let length = (header.version_ihl & 15) as usize * 4;
            if header.version_ihl >> 4 != 4 || length < size_of::<Ipv4>() {
                return Ok(Some(STAT_MALFORMED));
            }
            packet.key.flow.family = FAMILY_IPV4 as u8;
            packet.key.flow.src = [u64::from(header.src), 0];
            packet.key.flow.dst = [u64::from(header.dst), 0];
            packet.key.flow.proto = header.proto;
            let total = u32::from(u16::from_be(header.total_len));
            if total != 0 {
                end = network as u32 + total;
            }
            offset = network + length;
            let fragment = u16::from_be(header.flags_fragment);
            is_later = fragment & FRAGMENT_OFFSET != 0;
            if is_later || fragment & MORE_FRAGMENTS != 0 {
                packet.is_fragmented = 1;
                packet.fragment.id = u32::from(header.id);
            }
        }
        ETH_P_IPV6 => {
            let mut room = Room::new();
            let header: &Ipv6 = reader.header(network, &mut room)?;
            if header.version_class >> 4 != 6 {
                return Ok(Some(STAT_MALFORMED));
            }
            packet.key.flow.family = FAMILY_IPV6 as u8;
            // An array would be copied byte by byte.
            for i in 0..2 {
                packet.key.flow.src[i] = header.src[i];
                packet.key.flow.dst[i] = header.dst[i];
            }
            let mut proto = header.next_header;
            let payload = u32::from(u16::from_be(header.payload_len));
            offset = network + size_of::<Ipv6>();
            if payload != 0 {
                end = offset as u32 + payload;
            }
            for _ in 0..EXTENSIONS {
                if !matches!(proto, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) {
                    break;
                }
                if COMMON {
                    return Err(Truncated);
                }
                let mut room = Room::new();
                let extension: &Extension = reader.header(offset, &mut room)?;
                let len = extension.len as usize;
                let next = extension.next_header;
                if proto == FRAGMENT {
                    let mut room = Room::new();
                    let header: &FragmentHeader = reader.header(offset, &mut room)?;
                    let fragment = u16::from_be(header.offset_flags);
                    if fragment & (FRAGMENT_OFFSET6 | MORE_FRAGMENTS6) != 0 {
                        packet.is_fragmented = 1;
                        packet.fragment.id = header.id;
                    }
                    offset += 8;
                    proto = next;
                    if fragment & FRAGMENT_OFFSET6 != 0 {
                        is_later = true;
                        break;
                    }
                    continue;
                }
                offset += if proto == AUTHENTICATION { (len + 2) << 2 } else { (len + 1) << 3 };
                proto = next;
            }
            packet.key.flow.proto = proto;
        }
        _ => return Ok(Some(STAT_NON_IP)),
    }
    packet.headers = offset as u32;
    let proto = read(&packet.key.flow.proto);
    if is_later {
        // Its ports are in the first fragment.
        fragment_key(packet);
        match FRAGMENTS.get(&packet.fragment) {
            Some(ports) => {
                // SAFETY: written once.
                let ports = unsafe { *ports.as_ptr() };
                packet.key.flow.sport = ports.sport;
                packet.key.flow.dport = ports.dport;
                packet.key.flow.has_ports = 1;
            }
            None => count(STAT_STRAY_FRAGMENTS, 1),
        }
        return Ok(None);
    }
    if matches!(proto, TCP | UDP | SCTP) {
        let mut room = Room::new();
        let ports: &Ports = reader.header(offset, &mut room)?;
        packet.key.flow.sport = u16::from_be(ports.src);
        packet.key.flow.dport = u16::from_be(ports.dst);
        packet.key.flow.has_ports = 1;
        packet.headers = offset as u32 + 8;
        if proto == TCP {
            let mut room = Room::new();
            let rest: &TcpRest = reader.header(offset + size_of::<Ports>(), &mut room)?;
            packet.flags = u32::from(rest.flags);
            packet.seq = u32::from_be(rest.seq);
            let behind = offset as u32 + u32::from(rest.data_offset >> 4) * 4;
            packet.headers = behind;
            packet.payload = end.saturating_sub(behind);
        }
        if read(&packet.is_fragmented) != 0 {
            fragment_key(packet);
            let ports = FragmentPorts {
                sport: read(&packet.key.flow.sport),
                dport: read(&packet.key.flow.dport),
            };
            FRAGMENTS.set(&packet.fragment, &ports);
        }
    }
    Ok(None)
}

/// Returns the EtherType behind up to two VLAN tags, and where what it names starts. `vlan` is the outer tag's, unless it is known.
#[inline(always)]
fn behind_tags<R: Reader>(reader: &R, mut ethertype: u16, mut offset: usize, vlan: &mut u16) -> Result<(u16, usize), Truncated> {
    for _ in 0..2 {
        if ethertype != ETH_P_8021Q && ethertype != ETH_P_8021AD {
            break;
        }
        let mut room = Room::new();
        let tag: &VlanTag = reader.header(offset, &mut room)?;
        if *vlan == 0 {
            *vlan = u16::from_be(tag.id) & 0xfff;
        }
        ethertype = tag.ethertype;
        offset += size_of::<VlanTag>();
    }
    Ok((ethertype, offset))
}

/// Fills in what a packet's fragments are known by.
#[inline(always)]
fn fragment_key(packet: &mut Packet) {
    packet.fragment.src = packet.key.flow.src;
    packet.fragment.dst = packet.key.flow.dst;
    packet.fragment.ifindex = packet.key.ifindex;
    packet.fragment.proto = packet.key.flow.proto;
    packet.fragment.direction = packet.key.direction;
    packet.fragment.zero = [0; 6];
}

// ---- sockets ----

/// For every open file of every process: a socket that one of the programs has met, which gave it a cookie, is the process's.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
fn flows_sockets(args: *const u64) -> u32 {
    // `struct bpf_iter__task_file`: meta, task, fd, file.
    // SAFETY: the verifier knows how many there are.
    let (task, file) = unsafe { (*args.add(1), *args.add(3)) };
    if task == 0 || file == 0 {
        return 0;
    }
    // SAFETY: the verifier knows the file.
    let socket = unsafe { bpf_sock_from_file(file as *mut _) } as u64;
    if socket == 0 {
        return 0;
    }
    let sk: u64 = peek(socket, setting!(SOCKET_SK));
    let cookie: u64 = if sk == 0 { 0 } else { peek(sk, setting!(SOCK_COOKIE)) };
    if cookie == 0 {
        return 0;
    }
    let owner = process!(task);
    // Processes come in the order of their numbers: a child that is about to become another program has its parent's sockets, too.
    OWNERS.set_with(&cookie, &owner, BPF_NOEXIST);
    0
}

/// Whoever closes a socket last has had it: that tells of those that are gone before the iterator comes. Not a thread of the kernel,
/// which closes what others have left.
#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup/sock_release")]
fn flows_release(ctx: *mut bpf_sock) -> i32 {
    // What the program is called with is the kernel's `struct sock`.
    let cookie: u64 = peek(ctx as u64, setting!(SOCK_COOKIE));
    if cookie == 0 {
        return 1;
    }
    // SAFETY: takes nothing.
    let task = unsafe { bpf_get_current_task() };
    if peek::<u32>(task, setting!(TASK_FLAGS)) & PF_KTHREAD != 0 {
        return 1;
    }
    let owner = process!(task);
    OWNERS.set_with(&cookie, &owner, BPF_NOEXIST);
    1
}
