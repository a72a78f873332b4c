//! Retransmits: who sends again what to whom, from the tracepoints of TCP.
//!
//! Input: raw tracepoints and an iterator over open files; the offsets of the kernel's fields, which user space takes from BTF, in
//! `.rodata`. Output: a record for each connection (`SOCKS`, and `CLOSED` when it has ended), counters for what has no
//! connection, and a tail call for each event that a script listens to. Layouts: `weir_ebpf_builtins::abi::retransmits`.
//!
//! What counts is the kernel's own counter of the socket (`total_retrans`), read at every event, and not the events: older
//! kernels have no event for a segment that the host itself dropped, and skip one that interrupts another.

#![no_std]
#![no_main]

#[path = "../../src/abi.rs"]
mod abi;
mod common;

use abi::net::{Flow, Inet};
use abi::retransmits::*;
use abi::{FAMILY_IPV4, FAMILY_IPV6, KERNEL, Owner};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_ktime_get_ns, bpf_map_delete_elem, bpf_sock_from_file, bpf_tail_call,
};
use common::kernel::{peek, process};
use common::map::{FullHash, LruHash, Map, PerCpuArray, PerCpuHash, ProgArray};
use common::{setting, settings};

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

/// Defaults; user space sets `max_entries` to what the script asks for.
const CONNECTIONS: usize = 1 << 16;
const DESTINATIONS: usize = 1 << 14;

/// By the address of the kernel's socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static SOCKS: FullHash<u64, Conn, CONNECTIONS> = FullHash::new();
/// Until user space has taken them in.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static CLOSED: FullHash<ClosedKey, Conn, CONNECTIONS> = FullHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static LAST: PerCpuArray<ClosedKey, 1> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static DESTS: PerCpuHash<Inet, Dest, DESTINATIONS> = PerCpuHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static LISTENERS: LruHash<Port, Owner, 4096> = LruHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static STATS: PerCpuArray<u64, { abi::retransmits::STATS as usize }> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENT: PerCpuArray<Event, { SLOTS as usize }> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENTS: ProgArray<{ SLOTS as usize }> = ProgArray::new();

// Bytes from the start of the struct in the name; 0 for a field that the kernel does not have.
settings! {
    SOCK_FAMILY = 0;
    SOCK_STATE = 0;
    SOCK_NUM = 0;
    SOCK_DPORT = 0;
    SOCK_DADDR = 0;
    SOCK_SADDR = 0;
    SOCK_DADDR6 = 0;
    SOCK_SADDR6 = 0;
    SOCK_NET = 0;
    SOCK_PROTOCOL = 0;
    INET_SPORT = 0;
    NET_INUM = 0;
    ICSK_CA_STATE = 0;
    ICSK_CA_MASK = 0;
    ICSK_PENDING = 0;
    TP_TOTAL_RETRANS = 0;
    TP_DATA_SEGS_OUT = 0;
    SKB_SEGS = 0;
    SKB_HEAD = 0;
    SKB_NETWORK = 0;
    SKB_TRANSPORT = 0;
    SKB_DEV = 0;
    DEV_NET = 0;
    SOCKET_SK = 0;
    TASK_LEADER = 0;
    TASK_TGID = 0;
    TASK_COMM = 0;
    // Number of the only network namespace that counts, or 0.
    NETNS = 0;
    EVENT_RETRANSMIT = 0;
    EVENT_SYNACK = 0;
    EVENT_RESET_IN = 0;
    EVENT_RESET_OUT = 0;
}

const IPPROTO_TCP: u16 = 6;
const TCP_ESTABLISHED: u8 = 1;
const TCP_SYN_SENT: u8 = 2;
const TCP_SYN_RECV: u8 = 3;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
/// States of congestion control.
const CA_RECOVERY: u8 = 3;
const CA_LOSS: u8 = 4;
/// `ICSK_TIME_LOSS_PROBE`: what the timer is set for; still so while the probe is sent.
const TIME_LOSS_PROBE: u8 = 5;

/// First half of the name of who resets what nobody has a socket for.
const THE_KERNEL: u64 = {
    let (name, mut half) = (KERNEL.as_bytes(), [0; 8]);
    let mut i = 0;
    while i < name.len() {
        half[i] = name[i];
        i += 1;
    }
    u64::from_ne_bytes(half)
};

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

/// The arguments of a tracepoint, or what an iterator is called with.
type Args = *const u64;

#[inline(always)]
fn arg(args: Args, n: usize) -> u64 {
    // SAFETY: the verifier knows how many arguments there are.
    unsafe { *args.add(n) }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/tcp_retransmit_skb")]
fn retransmit(args: Args) -> u32 {
    let (sk, skb) = (arg(args, 0), arg(args, 1));
    if !counts(peek(sk, setting!(SOCK_NET))) {
        return 0;
    }
    let segs = match peek::<u16>(skb, setting!(SKB_SEGS)) {
        0 => 1,
        segs => u32::from(segs),
    };
    let total: u32 = peek(sk, setting!(TP_TOTAL_RETRANS));
    let sent: u32 = peek(sk, setting!(TP_DATA_SEGS_OUT));
    if SOCKS.get(&sk).is_none() {
        // Older than us, and nobody has it open: what it sent before is unknown.
        let conn = Conn {
            base_retrans: total.wrapping_sub(segs),
            base_sent: sent.saturating_sub(segs),
            ..connection(sk)
        };
        add(sk, &conn, BPF_NOEXIST);
    }
    let Some(conn) = SOCKS.get(&sk) else {
        count(STAT_UNTRACKED, u64::from(segs));
        return 0;
    };
    // SAFETY: the socket's lock is held, so no other event is at this record.
    let conn = unsafe { &mut *conn.as_ptr() };
    let flow = flow(sk);
    let kind = kind(sk);
    let more = total.wrapping_sub(conn.retrans);
    conn.retrans = total;
    conn.sent = sent;
    conn.flow = flow;
    match kind {
        KIND_RTO => conn.kinds[KIND_RTO] += more,
        KIND_FAST => conn.kinds[KIND_FAST] += more,
        KIND_TLP => conn.kinds[KIND_TLP] += more,
        KIND_SYN => conn.kinds[KIND_SYN] += more,
        _ => conn.kinds[KIND_OTHER] += more,
    }
    if setting!(EVENT_RETRANSMIT) != 0 {
        let word = match kind {
            KIND_RTO => *b"rto\0\0\0\0\0",
            KIND_FAST => *b"fast\0\0\0\0",
            KIND_TLP => *b"tlp\0\0\0\0\0",
            KIND_SYN => *b"syn\0\0\0\0\0",
            _ => *b"other\0\0\0",
        };
        let total = total.wrapping_sub(conn.base_retrans);
        let state = peek(sk, setting!(SOCK_STATE));
        event(
            args,
            SLOT_RETRANSMIT,
            &flow,
            u64::from_le_bytes(word),
            (conn.comm, conn.pid),
            (more, total),
            state,
        );
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/tcp_retransmit_synack")]
fn synack(args: Args) -> u32 {
    let (sk, request) = (arg(args, 0), arg(args, 1));
    let net = peek(sk, setting!(SOCK_NET));
    if !counts(net) {
        return 0;
    }
    // With TCP Fast Open there is a connection already, whose counter has it, too.
    if let Some(conn) = SOCKS.get(&sk) {
        // SAFETY: as in `retransmit`.
        let conn = unsafe { &mut *conn.as_ptr() };
        conn.base_retrans = conn.base_retrans.wrapping_add(1);
        conn.retrans = conn.retrans.wrapping_add(1);
    }
    count(STAT_SYNACK, 1);
    let flow = flow(request);
    if let Some(dest) = destination(&flow) {
        dest.synacks += 1;
    }
    if setting!(EVENT_SYNACK) != 0 {
        let owner = listener(net, flow.sport);
        let word = u64::from_le_bytes(*b"synack\0\0");
        event(args, SLOT_SYNACK, &flow, word, (owner.comm, owner.pid as u32), (1, 1), TCP_SYN_RECV);
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/tcp_receive_reset")]
fn reset_in(args: Args) -> u32 {
    let sk = arg(args, 0);
    if !counts(peek(sk, setting!(SOCK_NET))) {
        return 0;
    }
    count(STAT_RESET_IN, 1);
    let flow = flow(sk);
    if let Some(dest) = destination(&flow) {
        dest.resets_in += 1;
    }
    let owner = match SOCKS.get(&sk) {
        Some(conn) => {
            // SAFETY: as in `retransmit`.
            let conn = unsafe { &mut *conn.as_ptr() };
            conn.resets_in += 1;
            // Of one that was never established nothing told the port.
            conn.flow = flow;
            (conn.comm, conn.pid)
        }
        None => ([0; 2], 0),
    };
    if setting!(EVENT_RESET_IN) != 0 {
        event(args, SLOT_RESET_IN, &flow, 0, owner, (0, 0), peek(sk, setting!(SOCK_STATE)));
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/tcp_send_reset")]
fn reset_out(args: Args) -> u32 {
    let (sk, skb) = (arg(args, 0), arg(args, 1));
    let net = if sk != 0 {
        peek(sk, setting!(SOCK_NET))
    } else {
        peek(peek(skb, setting!(SKB_DEV)), setting!(DEV_NET))
    };
    if !counts(net) {
        return 0;
    }
    count(STAT_RESET_OUT, 1);
    // What the packet says is so even where the socket is a listener's, or there is none.
    let flow = if skb != 0 { answered(skb) } else { flow(sk) };
    if let Some(dest) = destination(&flow) {
        dest.resets_out += 1;
    }
    // One that `close` sends comes when the connection has ended, a moment ago on this CPU.
    let conn = SOCKS.get(&sk).or_else(|| {
        let first = 0;
        // SAFETY: this CPU's element.
        let last = unsafe { *LAST.get(&first)?.as_ptr() };
        if last.sk == sk { CLOSED.get(&last) } else { None }
    });
    let owner = match conn {
        Some(conn) => {
            // SAFETY: as in `retransmit`.
            let conn = unsafe { &mut *conn.as_ptr() };
            conn.resets_out += 1;
            (conn.comm, conn.pid)
        }
        // Of whole names, the compiler would make another map.
        None => ([if sk == 0 { THE_KERNEL } else { 0 }, 0], 0),
    };
    if setting!(EVENT_RESET_OUT) != 0 {
        let state = if sk != 0 { peek(sk, setting!(SOCK_STATE)) } else { TCP_CLOSE };
        event(args, SLOT_RESET_OUT, &flow, 0, owner, (0, 0), state);
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/inet_sock_set_state")]
fn state(args: Args) -> u32 {
    let (sk, old, new) = (arg(args, 0), arg(args, 1) as u8, arg(args, 2) as u8);
    let net = peek(sk, setting!(SOCK_NET));
    if peek::<u16>(sk, setting!(SOCK_PROTOCOL)) != IPPROTO_TCP || !counts(net) {
        return 0;
    }
    match new {
        // In `connect`: the port is not chosen yet.
        TCP_SYN_SENT => {
            let owner = current();
            let conn = Conn {
                comm: owner.comm,
                pid: owner.pid as u32,
                owner: OWNER_KNOWN,
                state: new,
                ..connection(sk)
            };
            add(sk, &conn, BPF_ANY);
        }
        // In softirq: who will accept it is not known yet. Its counter starts with its SYN-ACKs, which have an event of their own.
        TCP_ESTABLISHED if old == TCP_SYN_RECV => {
            let flow = flow(sk);
            let owner = listener(net, flow.sport);
            let conn = Conn {
                flow,
                comm: owner.comm,
                pid: owner.pid as u32,
                owner: if owner.pid != 0 { OWNER_LISTENER } else { OWNER_UNKNOWN },
                state: new,
                base_sent: 0,
                ..connection(sk)
            };
            // With TCP Fast Open it may have sent something again before this.
            add(sk, &conn, BPF_NOEXIST);
        }
        TCP_LISTEN => {
            let port = Port {
                net,
                port: u64::from(peek::<u16>(sk, setting!(SOCK_NUM))),
            };
            LISTENERS.set(&port, &current());
        }
        TCP_CLOSE => close(sk),
        _ => {
            if let Some(conn) = SOCKS.get(&sk) {
                // SAFETY: as in `retransmit`.
                let conn = unsafe { &mut *conn.as_ptr() };
                conn.state = new;
                if new == TCP_ESTABLISHED {
                    conn.flow = flow(sk);
                }
            }
        }
    }
    0
}

/// Takes the last readings of a connection, and puts it where user space takes it from.
#[inline(always)]
fn close(sk: u64) {
    let Some(conn) = SOCKS.get(&sk) else { return };
    // SAFETY: as in `retransmit`.
    let conn = unsafe { &mut *conn.as_ptr() };
    conn.retrans = peek(sk, setting!(TP_TOTAL_RETRANS));
    conn.sent = peek(sk, setting!(TP_DATA_SEGS_OUT));
    conn.state = TCP_CLOSE;
    if conn.flow.sport == 0 {
        conn.flow = flow(sk);
    }
    let key = ClosedKey {
        sk,
        since_ns: conn.since_ns,
    };
    let first = 0;
    if let Some(last) = LAST.get(&first) {
        // SAFETY: this CPU's element, and one program writes it, which does not interrupt itself.
        unsafe { last.write(key) };
    }
    if !CLOSED.set(&key, conn) {
        count(STAT_UNKEPT, u64::from(conn.retrans.wrapping_sub(conn.base_retrans)));
    }
    delete(&SOCKS, &sk);
}

/// For every open file of every process: a socket of TCP is the process's, and its counters are read.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
fn open_sockets(args: Args) -> u32 {
    // `struct bpf_iter__task_file`: meta, task, fd, file.
    let (task, file) = (arg(args, 1), arg(args, 3));
    if task == 0 || file == 0 {
        return 0;
    }
    // SAFETY: the verifier knows the file.
    let socket = unsafe { bpf_sock_from_file(file as *mut _) } as u64;
    if socket == 0 {
        return 0;
    }
    let sk: u64 = peek(socket, setting!(SOCKET_SK));
    let family = u32::from(peek::<u16>(sk, setting!(SOCK_FAMILY)));
    if sk == 0
        || (family != FAMILY_IPV4 && family != FAMILY_IPV6)
        || peek::<u16>(sk, setting!(SOCK_PROTOCOL)) != IPPROTO_TCP
        || !counts(peek(sk, setting!(SOCK_NET)))
    {
        return 0;
    }
    let owner = process!(task);
    let state: u8 = peek(sk, setting!(SOCK_STATE));
    if state == TCP_LISTEN {
        let port = Port {
            net: peek(sk, setting!(SOCK_NET)),
            port: u64::from(peek::<u16>(sk, setting!(SOCK_NUM))),
        };
        LISTENERS.set(&port, &owner);
        return 0;
    }
    if state == TCP_CLOSE {
        return 0;
    }
    if SOCKS.get(&sk).is_none() {
        let conn = Conn { state, ..connection(sk) };
        add(sk, &conn, BPF_NOEXIST);
    }
    if let Some(conn) = SOCKS.get(&sk) {
        // SAFETY: no event writes these fields, and there is one iterator at a time.
        let conn = unsafe { &mut *conn.as_ptr() };
        conn.seen_retrans = peek(sk, setting!(TP_TOTAL_RETRANS));
        conn.seen_sent = peek(sk, setting!(TP_DATA_SEGS_OUT));
        if conn.owner != OWNER_KNOWN {
            conn.comm = owner.comm;
            conn.pid = owner.pid as u32;
            conn.owner = OWNER_KNOWN;
        }
    }
    0
}

/// Whether a network namespace is one that counts.
#[inline(always)]
fn counts(net: u64) -> bool {
    let wanted = setting!(NETNS);
    wanted == 0 || peek::<u32>(net, setting!(NET_INUM)) == wanted
}

/// Makes the record of a connection that counts from now on.
#[inline(always)]
fn connection(sk: u64) -> Conn {
    let retrans = peek(sk, setting!(TP_TOTAL_RETRANS));
    let sent = peek(sk, setting!(TP_DATA_SEGS_OUT));
    Conn {
        // SAFETY: takes nothing.
        since_ns: unsafe { bpf_ktime_get_ns() },
        flow: flow(sk),
        netns: peek(peek(sk, setting!(SOCK_NET)), setting!(NET_INUM)),
        base_retrans: retrans,
        base_sent: sent,
        retrans,
        sent,
        seen_retrans: retrans,
        seen_sent: sent,
        ..Conn::default()
    }
}

/// The process that runs.
#[inline(always)]
fn current() -> Owner {
    // SAFETY: takes nothing.
    process!(unsafe { bpf_get_current_task() })
}

/// The process that listens on a port.
#[inline(always)]
fn listener(net: u64, port: u16) -> Owner {
    let port = Port {
        net,
        port: u64::from(port),
    };
    // SAFETY: a value is written once.
    LISTENERS.get(&port).map_or(Owner::default(), |owner| unsafe { *owner.as_ptr() })
}

/// Why a segment is sent again.
#[inline(always)]
fn kind(sk: u64) -> usize {
    let ca_state = peek::<u8>(sk, setting!(ICSK_CA_STATE)) & setting!(ICSK_CA_MASK) as u8;
    if peek::<u8>(sk, setting!(SOCK_STATE)) == TCP_SYN_SENT {
        KIND_SYN
    } else if ca_state == CA_LOSS {
        KIND_RTO
    } else if ca_state == CA_RECOVERY {
        KIND_FAST
    } else if peek::<u8>(sk, setting!(ICSK_PENDING)) == TIME_LOSS_PROBE {
        KIND_TLP
    } else {
        KIND_OTHER
    }
}

/// Upper half of an IPv4 address in IPv6, as two words in network order: `::ffff:0:0`.
const MAPPED_HIGH: u64 = 0;
const MAPPED_LOW: u64 = 0xffff_0000;

/// The addresses and ports of a socket (or of a request for one, which starts likewise), seen from here.
#[inline(always)]
fn flow(sk: u64) -> Flow {
    let mut flow = Flow {
        sport: peek(sk, setting!(SOCK_NUM)),
        dport: u16::from_be(peek(sk, setting!(SOCK_DPORT))),
        proto: IPPROTO_TCP as u8,
        has_ports: 1,
        ..Flow::default()
    };
    // A socket that is closed has given its port back, but knows which it was. (A request always has one.)
    if flow.sport == 0 {
        flow.sport = u16::from_be(peek(sk, setting!(INET_SPORT)));
    }
    if u32::from(peek::<u16>(sk, setting!(SOCK_FAMILY))) == FAMILY_IPV6 && setting!(SOCK_DADDR6) != 0 {
        flow.src = peek(sk, setting!(SOCK_SADDR6));
        flow.dst = peek(sk, setting!(SOCK_DADDR6));
        flow.family = FAMILY_IPV6 as u8;
        unmap(&mut flow);
    } else {
        flow.src = [u64::from(peek::<u32>(sk, setting!(SOCK_SADDR))), 0];
        flow.dst = [u64::from(peek::<u32>(sk, setting!(SOCK_DADDR))), 0];
        flow.family = FAMILY_IPV4 as u8;
    }
    flow
}

/// Turns IPv4 over an IPv6 socket into IPv4.
#[inline(always)]
fn unmap(flow: &mut Flow) {
    if flow.dst[0] == MAPPED_HIGH && flow.dst[1] & 0xffff_ffff == MAPPED_LOW {
        flow.src = [flow.src[1] >> 32, 0];
        flow.dst = [flow.dst[1] >> 32, 0];
        flow.family = FAMILY_IPV4 as u8;
    }
}

/// The flow of the answer to a packet.
#[inline(always)]
fn answered(skb: u64) -> Flow {
    let head: u64 = peek(skb, setting!(SKB_HEAD));
    let network = head + u64::from(peek::<u16>(skb, setting!(SKB_NETWORK)));
    let ports: [u16; 2] = peek(head + u64::from(peek::<u16>(skb, setting!(SKB_TRANSPORT))), 0);
    let mut flow = Flow {
        sport: u16::from_be(ports[1]),
        dport: u16::from_be(ports[0]),
        proto: IPPROTO_TCP as u8,
        has_ports: 1,
        ..Flow::default()
    };
    if peek::<u8>(network, 0) >> 4 == 6 {
        flow.dst = peek(network, 8);
        flow.src = peek(network, 24);
        flow.family = FAMILY_IPV6 as u8;
    } else {
        flow.dst = [u64::from(peek::<u32>(network, 12)), 0];
        flow.src = [u64::from(peek::<u32>(network, 16)), 0];
        flow.family = FAMILY_IPV4 as u8;
    }
    flow
}

/// This CPU's counters of a flow's peer; `None` when there is no room for one more.
#[inline(always)]
fn destination(flow: &Flow) -> Option<&'static mut Dest> {
    let key = flow.destination();
    if DESTS.get(&key).is_none() {
        DESTS.set(&key, &Dest::default());
    }
    // SAFETY: this CPU's counters, and each has one program that writes it, which does not interrupt itself.
    DESTS.get(&key).map(|dest| unsafe { &mut *dest.as_ptr() })
}

/// Leaves the event's record and goes on with the script's program.
#[inline(always)]
fn event(args: Args, slot: u32, flow: &Flow, kind: u64, (comm, pid): ([u64; 2], u32), (segs, total): (u32, u32), state: u8) {
    let Some(record) = EVENT.get(&slot) else { return };
    let event = Event {
        verdict: 0,
        slot,
        flow: *flow,
        src: flow.source(),
        dst: flow.destination(),
        comm,
        kind,
        pid,
        segs,
        total,
        state: u32::from(state),
        sport: u32::from(flow.sport),
        dport: u32::from(flow.dport),
    };
    // SAFETY: this CPU's element; one program writes it, and does not interrupt itself.
    unsafe { record.write(event) };
    // SAFETY: the program's own context, a program array, an index.
    unsafe { bpf_tail_call(args.cast_mut().cast(), EVENTS.id(), slot) };
}

#[inline(always)]
fn add(sk: u64, conn: &Conn, flags: u64) {
    SOCKS.set_with(&sk, conn, flags);
}

#[inline(always)]
fn delete<K, V, const T: usize, const M: usize, const F: usize>(map: &Map<K, V, T, M, F>, key: &K) {
    // SAFETY: `key` is readable for the key's size.
    unsafe { bpf_map_delete_elem(map.id(), core::ptr::from_ref(key).cast()) };
}

#[inline(always)]
fn count(stat: u32, by: u64) {
    if let Some(counter) = STATS.get(&stat) {
        // SAFETY: this CPU's counter, and one program writes it, which does not interrupt itself.
        unsafe { *counter.as_ptr() += by };
    }
}
