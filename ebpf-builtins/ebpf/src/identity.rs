//! The identity enforcer: which pod may talk to whom.
//!
//! Seven programs on one set of maps. Those on cgroup hooks write a process's identity into the mark of its sockets and keep others
//! from writing there. Two at TC find a packet's sender, ask the policy, and drop what it denies. User space fills `CGROUPS` (cgroup →
//! identity), `IFACES` (host side of a veth → identity of the pod behind it) and `RULES`. Names, layouts and what the settings mean:
//! `weir_ebpf_builtins::{abi, identity}`.
//!
//! The policy is asked once for each sender, destination, port and protocol; `CACHE` has the answers. `FLOWS` remembers which side
//! began a conversation, so that replies are let through and a reply cannot begin one.

#![no_std]
#![no_main]

#[path = "../../src/abi.rs"]
#[allow(dead_code, reason = "shared by all natives")]
mod abi;
#[allow(dead_code, reason = "shared by all natives")]
mod common;

use abi::PacketsBytes;
use abi::identity::{self as id, *};
use aya_ebpf::bindings::{__sk_buff, bpf_sock, bpf_sock_addr, bpf_sockopt};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_loop, bpf_setsockopt, bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id,
    bpf_skb_cgroup_id, bpf_tail_call,
};
use common::headers::{ICMPV6, Ipv4, Ipv6, Ports, SCTP, TCP, UDP};
use common::heartbeat::is_owned;
use common::ipv6::skip_extensions;
use common::map::{Array, Hash, LruHash, LruPerCpuHash, PerCpuArray, ProgArray};
use common::packet::{ETH_P_IP, ETH_P_IPV6, Reader, Room, Skb, Truncated, lacks_ethernet, network_header, protocol};
use common::{setting, settings};
use core::ffi::c_void;

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

/// `TC_ACT_UNSPEC`, of tcx `TCX_NEXT`: whoever comes next decides.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`
const SHOT: i32 = 2;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static CGROUPS: Hash<u64, u32, 65536> = Hash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static KNOWN: LruHash<u64, u32, 16384> = LruHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static IFACES: Hash<u32, u32, 65536> = Hash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static RULES: Array<Rule, 8192> = Array::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static POLICY: Array<Policy, 1> = Array::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static CACHE: LruHash<Question, Answer, 65536> = LruHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static FLOWS: LruHash<Flow, u32, 65536> = LruHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static VERDICTS: PerCpuArray<PacketsBytes, 4096> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static NAMES: Hash<u32, [u64; NAME_WORDS], 65536> = Hash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static RULE_NAMES: Array<[u64; RULE_WORDS], 4096> = Array::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static DENIED: LruPerCpuHash<Denied, PacketsBytes, 16384> = LruPerCpuHash::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static STATS: PerCpuArray<u64, { id::STATS as usize }> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENT: PerCpuArray<EventRecord, 1> = PerCpuArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static EVENTS: ProgArray<3> = ProgArray::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static HEARTBEAT: Array<u64, 1> = Array::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static SCRATCH: PerCpuArray<Packet, 1> = PerCpuArray::new();

settings! {
    ENFORCE = ENFORCE_FROM_POD;
    MASK = 0xffff;
    HALF = 4096;
    DENY_UNKNOWN = 0;
    DRY_RUN = 0;
    ON_DENY = 0;
    ON_ALLOW = 0;
    ON_UNKNOWN = 0;
    NEEDS_HEARTBEAT = 0;
    IP_FIRST = 0;
}

// ---- sockets ----

#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup/sock_create")]
fn identity_create(ctx: *mut bpf_sock) -> i32 {
    let identity = current_identity();
    if identity == 0 {
        return 1;
    }
    // SAFETY: the program's own context.
    let mark = unsafe { (*ctx).mark };
    if mark & setting!(MASK) == 0 {
        // SAFETY: as above.
        unsafe { (*ctx).mark = mark | identity };
        count(STAT_STAMPED);
    }
    1
}

/// One program for each hook: the kernel ties a program to its hook when it loads it.
macro_rules! stamps {
    ($($name:ident $section:literal;)*) => {
        $(
            #[unsafe(no_mangle)]
            #[unsafe(link_section = $section)]
            fn $name(ctx: *mut bpf_sock_addr) -> i32 {
                stamp(ctx);
                1
            }
        )*
    };
}

stamps! {
    identity_connect4 "cgroup/connect4";
    identity_connect6 "cgroup/connect6";
    identity_sendmsg4 "cgroup/sendmsg4";
    identity_sendmsg6 "cgroup/sendmsg6";
}

const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;

/// Writes the current process's identity into the mark of a socket that is older than the program.
#[inline(always)]
fn stamp(ctx: *mut bpf_sock_addr) {
    let identity = current_identity();
    if identity == 0 {
        return;
    }
    // SAFETY: the program's own context; the kernel says what `sk` is.
    let sk = unsafe { (*ctx).__bindgen_anon_1.sk };
    if sk.is_null() {
        return;
    }
    // SAFETY: not null, so it is a socket.
    let mark = unsafe { (*sk).mark };
    let ours = mark & setting!(MASK);
    if ours == identity {
        return;
    }
    if ours != 0 {
        count(STAT_FOREIGN_MARK);
        return;
    }
    let mut stamped = mark | identity;
    // SAFETY: four bytes that are readable.
    let failed = unsafe { bpf_setsockopt(ctx.cast(), SOL_SOCKET, SO_MARK, (&raw mut stamped).cast(), 4) };
    if failed == 0 {
        count(STAT_STAMPED);
    }
}

/// Refuses other values than its own to a process with an identity, in our bits.
#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup/setsockopt")]
fn identity_setsockopt(ctx: *mut bpf_sockopt) -> i32 {
    // SAFETY: the program's own context.
    let (level, name) = unsafe { ((*ctx).level, (*ctx).optname) };
    if level != SOL_SOCKET || name != SO_MARK {
        return 1;
    }
    let identity = current_identity();
    if identity == 0 {
        return 1;
    }
    // SAFETY: as above.
    let (at, end) = unsafe { ((*ctx).__bindgen_anon_2.optval as usize, (*ctx).__bindgen_anon_3.optval_end as usize) };
    if at + 4 > end {
        // The kernel will say that it is too short.
        return 1;
    }
    // SAFETY: four bytes by the check.
    let mark = unsafe { (at as *const u32).read() };
    if mark & setting!(MASK) == identity {
        return 1;
    }
    count(STAT_REFUSED);
    0
}

/// Returns the identity of the process that runs, by its cgroup.
#[inline(always)]
fn current_identity() -> u32 {
    // SAFETY: no arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: any level; one that does not exist has the id 0.
    identity_of(cgroup, |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}

/// Looks for a cgroup's nearest ancestor with an identity; 0 where none has one.
#[inline(always)]
fn identity_of(cgroup: u64, ancestor: impl Fn(i32) -> u64) -> u32 {
    if cgroup == 0 {
        return 0;
    }
    if let Some(known) = KNOWN.get(&cgroup) {
        // SAFETY: a word that is written as a whole.
        return unsafe { known.read_volatile() };
    }
    let mut identity = 0;
    for level in 1..=LEVELS as i32 {
        let id = ancestor(level);
        if id == 0 {
            break;
        }
        if let Some(found) = CGROUPS.get(&id) {
            // SAFETY: as above.
            identity = unsafe { found.read_volatile() };
        }
    }
    KNOWN.set(&cgroup, &identity);
    identity
}

// ---- packets ----

#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn identity_from_pod(ctx: *mut __sk_buff) -> i32 {
    enforce::<true>(ctx)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn identity_to_pod(ctx: *mut __sk_buff) -> i32 {
    enforce::<false>(ctx)
}

/// What there is to know of a packet.
///
/// It lies in a map: what the verifier reads from there it knows nothing of, so it follows what comes after the headers once, and not
/// once for each way through them.
#[repr(C)]
struct Packet {
    /// 4 or 6.
    version: u8,
    proto: u8,
    src: [u64; 2],
    dst: [u64; 2],
    /// Network order; 0 where there are none.
    src_port: u16,
    dst_port: u16,
    tcp_flags: u8,
    /// How many bytes of headers segmentation repeats.
    headers: u32,
    /// 1 = an ICMP error.
    is_error: u8,
    /// See [`forget`].
    cell: u32,
}

const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ICMP: u8 = 1;

#[inline(always)]
fn enforce<const FROM_POD: bool>(ctx: *mut __sk_buff) -> i32 {
    if setting!(NEEDS_HEARTBEAT) != 0 && !is_owned(&HEARTBEAT) {
        return NEXT;
    }
    // SAFETY: the program's own context.
    let ifindex = unsafe { (*ctx).ifindex };
    let first = 0;
    let Some(packet) = SCRATCH.get(&first) else { return NEXT };
    // SAFETY: this CPU's element; programs at TC do not interrupt each other.
    let packet = unsafe { &mut *packet.as_ptr() };
    // SAFETY: the program's own context; nothing writes it meanwhile.
    let stat = parse(unsafe { &*ctx }, packet).unwrap_or(STAT_MALFORMED);
    if stat != NO_STAT {
        count(stat);
        return NEXT;
    }

    forget_field(&mut packet.version);
    forget_field(&mut packet.proto);
    forget_field(&mut packet.src_port);
    forget_field(&mut packet.dst_port);
    forget_field(&mut packet.tcp_flags);
    forget_field(&mut packet.headers);
    forget_field(&mut packet.is_error);
    for i in 0..2 {
        forget_field(&mut packet.src[i]);
        forget_field(&mut packet.dst[i]);
    }

    let flow = if FROM_POD {
        Flow {
            pod: packet.src,
            peer: packet.dst,
            ifindex,
            pod_port: packet.src_port,
            peer_port: packet.dst_port,
            proto: u32::from(packet.proto),
            zero: 0,
        }
    } else {
        Flow {
            pod: packet.dst,
            peer: packet.src,
            ifindex,
            pod_port: packet.dst_port,
            peer_port: packet.src_port,
            proto: u32::from(packet.proto),
            zero: 0,
        }
    };
    let begun = FLOWS.get(&flow).map_or(0, |begun| {
        // SAFETY: a word that is written as a whole.
        unsafe { begun.read_volatile() }
    });
    let begun = forget(packet, begun);
    let (ours, theirs, enforced) = if FROM_POD {
        (id::FROM_POD, id::TO_POD, ENFORCE_FROM_POD)
    } else {
        (id::TO_POD, id::FROM_POD, ENFORCE_TO_POD)
    };
    let identity = sender::<FROM_POD>(ctx, packet);
    if begun == theirs && packet.is_error == 0 {
        count(STAT_REPLIES);
        return NEXT;
    }
    // In the middle of something that was not seen to begin: either it is older than the program, or forgotten, or made up.
    let midway = begun == 0 && (packet.is_error != 0 || (packet.proto == TCP && packet.tcp_flags & FIN_SYN_RST_ACK != SYN));
    if setting!(ENFORCE) & enforced == 0 {
        if begun == 0 && !midway {
            FLOWS.set(&flow, &ours);
        }
        count(STAT_WATCHED);
        return NEXT;
    }

    let answer = ask(packet, identity);
    let undecided = midway || packet.tcp_flags & RST != 0;
    let outcome = if answer.verdict == ALLOW && (answer.rule != NO_RULE || identity != 0) {
        if begun == 0 && packet.is_error == 0 {
            FLOWS.set(&flow, &ours);
        }
        STAT_ALLOWED
    } else if undecided {
        STAT_UNDECIDED
    } else if answer.rule == NO_RULE && identity == 0 {
        STAT_UNKNOWN
    } else {
        STAT_DENIED
    };
    finish::<FROM_POD>(ctx, packet, identity, answer, outcome)
}

/// Counts, reports and decides.
#[inline(always)]
fn finish<const FROM_POD: bool>(ctx: *mut __sk_buff, packet: &Packet, identity: u32, answer: Answer, outcome: u32) -> i32 {
    let denied = outcome == STAT_DENIED || (matches!(outcome, STAT_UNKNOWN | STAT_UNDECIDED) && setting!(DENY_UNKNOWN) != 0);
    let shot = denied && setting!(DRY_RUN) == 0;
    let (packets, bytes) = on_the_wire(ctx, packet);
    add_stat(outcome, packets);
    if answer.rule != NO_RULE
        && matches!(outcome, STAT_ALLOWED | STAT_DENIED)
        && let Some(sums) = VERDICTS.get(&answer.rule)
    {
        // SAFETY: this CPU's element; TC programs do not interrupt each other.
        let sums = unsafe { &mut *sums.as_ptr() };
        sums.packets += packets;
        sums.bytes += bytes;
    }
    if denied {
        let key = Denied {
            identity,
            port: u16::from_be(packet.dst_port),
            proto: packet.proto,
            version: packet.version,
            dst: packet.dst,
        };
        if let Some(sums) = DENIED.get(&key) {
            // SAFETY: as above.
            let sums = unsafe { &mut *sums.as_ptr() };
            sums.packets += packets;
            sums.bytes += bytes;
        } else if !DENIED.set(&key, &PacketsBytes { packets, bytes }) {
            add_stat(STAT_UNCOUNTED, packets);
        }
    }
    // What the pod sends carries its name from here on, for the program at the other pod's interface.
    if FROM_POD && identity != 0 && !shot {
        let mask = setting!(MASK);
        // SAFETY: the program's own context.
        let mark = unsafe { (*ctx).mark };
        if mark & mask == 0 {
            // SAFETY: as above.
            unsafe { (*ctx).mark = mark | identity };
        }
    }
    let verdict = if shot { SHOT } else { NEXT };
    let slot = match outcome {
        STAT_ALLOWED if setting!(ON_ALLOW) != 0 => SLOT_ALLOW,
        STAT_DENIED if setting!(ON_DENY) != 0 => SLOT_DENY,
        STAT_UNKNOWN | STAT_UNDECIDED if setting!(ON_UNKNOWN) != 0 => SLOT_UNKNOWN,
        _ => return verdict,
    };
    let first = 0;
    if let Some(event) = EVENT.get(&first) {
        // SAFETY: this CPU's element; nothing interrupts until the tail-called program has read it.
        let event = unsafe { &mut *event.as_ptr() };
        event.verdict = verdict as u32;
        event.slot = slot;
        event.identity = identity;
        event.rule = answer.rule;
        event.from_pod = u32::from(FROM_POD);
        // SAFETY: texts that user space writes as wholes.
        event.name = NAMES.get(&identity).map_or([0; NAME_WORDS], |name| unsafe { name.read() });
        // SAFETY: as above.
        event.rule_name = RULE_NAMES.get(&answer.rule).map_or([0; RULE_WORDS], |name| unsafe { name.read() });
    }
    // SAFETY: the program's own context, a program array, an index. Returns only if the slot is empty.
    unsafe { bpf_tail_call(ctx.cast(), EVENTS.id(), slot) };
    verdict
}

/// Returns how many packets and bytes the wire sees of it.
#[inline(always)]
fn on_the_wire(ctx: *mut __sk_buff, packet: &Packet) -> (u64, u64) {
    // SAFETY: the program's own context.
    let (len, segments) = unsafe { ((*ctx).len, (*ctx).gso_segs) };
    let segments = u64::from(if segments > 1 { segments } else { 1 });
    (segments, u64::from(len) + (segments - 1) * u64::from(packet.headers))
}

/// Takes from the verifier what it knows of a value, so that the ways that led to it become one.
#[inline(always)]
fn forget(packet: &mut Packet, value: u32) -> u32 {
    let cell = &raw mut packet.cell;
    // SAFETY: our own word; volatile, or the compiler would keep the value where it is.
    unsafe {
        cell.write_volatile(value);
        cell.read_volatile()
    }
}

/// As [`forget`], for what lies in memory already.
#[inline(always)]
fn forget_field<T: Copy>(field: &mut T) {
    let field = &raw mut *field;
    // SAFETY: our own memory.
    unsafe { field.write(field.read_volatile()) };
}

/// Finds a packet's sender; 0 where nothing tells.
#[inline(always)]
fn sender<const FROM_POD: bool>(ctx: *mut __sk_buff, packet: &mut Packet) -> u32 {
    let mask = setting!(MASK);
    // Where it came from: the pod's own interface, or that of the pod whose packet was forwarded here. 0 for what the host sends.
    // SAFETY: the program's own context.
    let ifindex = unsafe { if FROM_POD { (*ctx).ifindex } else { (*ctx).ingress_ifindex } };
    let by_iface = IFACES.get(&ifindex).map_or(0, |identity| {
        // SAFETY: a word that is written as a whole.
        unsafe { identity.read_volatile() }
    });
    let by_iface = forget(packet, by_iface);
    // SAFETY: the program's own context.
    let cgroup = unsafe { bpf_skb_cgroup_id(ctx) };
    // SAFETY: the program's own context, any level.
    let by_cgroup = identity_of(cgroup, |level| unsafe { bpf_skb_ancestor_cgroup_id(ctx, level) });
    let by_cgroup = forget(packet, by_cgroup);
    let mut by_socket = 0;
    // SAFETY: the program's own context; null or a socket.
    let sk = unsafe { (*ctx).__bindgen_anon_2.sk };
    if !sk.is_null() {
        // SAFETY: not null.
        let full = unsafe { bpf_sk_fullsock(sk) };
        if !full.is_null() {
            // SAFETY: not null.
            by_socket = unsafe { (*full).mark } & mask;
        }
    }
    let by_socket = forget(packet, by_socket);
    // SAFETY: the program's own context.
    let by_mark = unsafe { (*ctx).mark } & mask;

    // The first one that tells decides.
    let mut found = by_iface;
    for next in [by_cgroup, by_socket] {
        if found == 0 {
            found = next;
        }
    }
    if FROM_POD && found != 0 && by_mark != 0 && by_mark != found {
        // Somebody else's value, or a pod that tries to be another.
        count(STAT_FOREIGN_MARK);
    }
    if found == 0 {
        found = by_mark;
    }
    let found = forget(packet, found);
    let others = [by_cgroup, by_socket, by_mark];
    if others.into_iter().any(|other| other != 0 && other != found) {
        count(STAT_DISAGREE);
    }
    found
}

/// One search through the rules.
#[repr(C)]
struct Search {
    dst: [u64; 2],
    from: u32,
    /// Where the half in force begins.
    base: u32,
    /// Host order.
    port: u32,
    family: u32,
    proto: u32,
    has_port: u32,
    verdict: u32,
    rule: u32,
}

/// Asks the policy, or remembers what it said.
#[inline(always)]
fn ask(packet: &Packet, identity: u32) -> Answer {
    let first = 0;
    let none = Answer {
        verdict: DENY,
        rule: NO_RULE,
    };
    let Some(policy) = POLICY.get(&first) else { return none };
    let policy = policy.as_ptr();
    // SAFETY: words that are written as a whole, in the order that `Policy` demands.
    let generation = unsafe { (&raw const (*policy).generation).read_volatile() };
    let question = Question {
        generation,
        identity,
        dst: packet.dst,
        port: u16::from_be(packet.dst_port),
        proto: packet.proto,
        version: packet.version,
        zero: 0,
    };
    if let Some(answer) = CACHE.get(&question) {
        // SAFETY: written once, when it was made.
        return unsafe { answer.read() };
    }
    let second = generation & 1 != 0;
    // SAFETY: as above.
    let (rules, default) = unsafe {
        if second {
            ((*policy).rules[1], (*policy).default[1])
        } else {
            ((*policy).rules[0], (*policy).default[0])
        }
    };
    let mut search = Search {
        dst: packet.dst,
        from: identity,
        base: if second { setting!(HALF) } else { 0 },
        port: u32::from(u16::from_be(packet.dst_port)),
        family: if packet.version == 4 { abi::FAMILY_IPV4 } else { abi::FAMILY_IPV6 },
        proto: u32::from(packet.proto),
        has_port: u32::from(matches!(packet.proto, TCP | UDP | SCTP)),
        // Without an identity there is no default: the sender is unknown.
        verdict: if identity == 0 { DENY } else { default },
        rule: NO_RULE,
    };
    // SAFETY: a callback of the type that the helper wants, and its context.
    unsafe { bpf_loop(rules, compare as *mut c_void, (&raw mut search).cast(), 0) };
    let answer = Answer {
        verdict: search.verdict,
        rule: search.rule,
    };
    CACHE.set(&question, &answer);
    answer
}

/// Compares one rule; ends the search when it matches.
#[inline(never)]
unsafe extern "C" fn compare(index: u32, search: *mut Search) -> u64 {
    // SAFETY: `bpf_loop` hands on what `ask` gave it.
    let search = unsafe { &mut *search };
    let at = search.base.wrapping_add(index);
    let Some(rule) = RULES.get(&at) else { return 1 };
    // SAFETY: user space does not write the half that is in force.
    let rule = unsafe { rule.as_ref() };
    let matches = (rule.from == 0 || rule.from == search.from)
        && (rule.family == 0 || u32::from(rule.family) == search.family)
        && (rule.proto == 0 || u32::from(rule.proto) == search.proto)
        && (rule.with_port == 0
            || (search.has_port != 0 && u32::from(rule.port_low) <= search.port && search.port <= u32::from(rule.port_high)))
        && search.dst[0] & rule.mask[0] == rule.addr[0]
        && search.dst[1] & rule.mask[1] == rule.addr[1];
    if !matches {
        return 0;
    }
    search.verdict = rule.verdict;
    search.rule = rule.rule;
    1
}

#[repr(C, packed)]
struct TcpRest {
    data_offset: u8,
    flags: u8,
}

/// No counter.
const NO_STAT: u32 = u32::MAX;

/// Fills in what there is to know. Returns a counter for packets that nothing is asked of, [`NO_STAT`] for others: of an `Option` in a
/// `Result` the compiler moves registers that nobody has written, which the verifier refuses.
#[inline(always)]
fn parse(ctx: &__sk_buff, packet: &mut Packet) -> Result<u32, Truncated> {
    packet.src_port = 0;
    packet.dst_port = 0;
    packet.tcp_flags = 0;
    packet.is_error = 0;
    let skb = Skb(ctx);
    let is_first = setting!(IP_FIRST) != 0 || lacks_ethernet(ctx);
    let (ethertype, network) = network_header(&skb, is_first.then(|| protocol(ctx)))?;
    let mut offset;
    match ethertype {
        ETH_P_IP => {
            let mut room = Room::new();
            let header: &Ipv4 = skb.header(network, &mut room)?;
            let length = (header.version_ihl & 15) as usize * 4;
            if header.version_ihl >> 4 != 4 || length < size_of::<Ipv4>() {
                return Ok(STAT_MALFORMED);
            }
            packet.version = 4;
            packet.src = [u64::from(header.src), 0];
            packet.dst = [u64::from(header.dst), 0];
            packet.proto = header.proto;
            offset = network + length;
            if header.flags_fragment & 0x1fff_u16.to_be() != 0 {
                return Ok(STAT_FRAGMENTS);
            }
        }
        ETH_P_IPV6 => {
            let mut room = Room::new();
            let header: &Ipv6 = skb.header(network, &mut room)?;
            if header.version_class >> 4 != 6 {
                return Ok(STAT_MALFORMED);
            }
            packet.version = 6;
            packet.src = header.src;
            packet.dst = header.dst;
            packet.proto = header.next_header;
            offset = network + size_of::<Ipv6>();
            if !skip_extensions(&skb, &mut packet.proto, &mut offset, &mut false)? {
                return Ok(STAT_FRAGMENTS);
            }
        }
        _ => return Ok(STAT_NON_IP),
    }
    packet.headers = offset as u32;
    match packet.proto {
        TCP | UDP | SCTP => {
            let mut room = Room::new();
            let ports: &Ports = skb.header(offset, &mut room)?;
            packet.src_port = ports.src;
            packet.dst_port = ports.dst;
            packet.headers += 8;
            if packet.proto == TCP {
                let mut room = Room::new();
                let rest: &TcpRest = skb.header(offset + 12, &mut room)?;
                packet.tcp_flags = rest.flags;
                packet.headers += ((rest.data_offset >> 4) as u32 * 4).wrapping_sub(8);
            }
        }
        ICMP | ICMPV6 => {
            let mut room = Room::new();
            let &[kind, _] = skb.header::<[u8; 2]>(offset, &mut room)?;
            if packet.proto == ICMPV6 && matches!(kind, 130..=137 | 143) {
                return Ok(STAT_NEIGHBOUR);
            }
            packet.is_error = u8::from(if packet.proto == ICMP {
                matches!(kind, 3 | 4 | 5 | 11 | 12)
            } else {
                kind < 128
            });
        }
        _ => {}
    }
    Ok(NO_STAT)
}

#[inline(always)]
fn count(stat: u32) {
    add_stat(stat, 1);
}

#[inline(always)]
fn add_stat(stat: u32, n: u64) {
    if let Some(counter) = STATS.get(&stat) {
        // This target has no atomic additions. Programs at TC do not interrupt each other; what those on system calls count (stamps,
        // refusals) may miss one when they preempt each other on a CPU.
        // SAFETY: this CPU's word.
        unsafe { *counter.as_ptr() += n };
    }
}
