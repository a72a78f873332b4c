//! The identity enforcer in the kernel (`BPF_PROG_TEST_RUN`, nothing is attached). Needs root; without it every test says that it was
//! skipped.

#![allow(clippy::unwrap_used, reason = "a failed test may panic; its helpers too")]

use aya::maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use etherparse::{PacketBuilder, TcpHeader};
use std::net::IpAddr;
use weir_ebpf_builtins::identity as id;

const NEXT: u32 = u32::MAX;
const SHOT: u32 = 2;
/// The loopback interface, which test runs have as the packet's.
const LOOPBACK: u32 = 1;
const HALF: u32 = 16;
const WEB: u32 = 7;

struct Rig {
    ebpf: Ebpf,
}

/// What a rule says, in words.
struct Says {
    from: u32,
    to: &'static str,
    proto: u8,
    ports: Option<(u16, u16)>,
    verdict: u32,
}

const fn allow(from: u32, to: &'static str, proto: u8, ports: Option<(u16, u16)>) -> Says {
    Says {
        from,
        to,
        proto,
        ports,
        verdict: id::ALLOW,
    }
}

fn bytes_of(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            bytes
        }
        IpAddr::V6(a) => a.octets(),
    }
}

/// 56 bytes as `Rule` documents them.
fn row(rule: u32, says: &Says) -> [u8; 56] {
    let mut out = [0; 56];
    out[0..4].copy_from_slice(&says.from.to_le_bytes());
    out[4..8].copy_from_slice(&rule.to_le_bytes());
    out[8..12].copy_from_slice(&says.verdict.to_le_bytes());
    let (low, high) = says.ports.unwrap_or((0, u16::MAX));
    out[12..14].copy_from_slice(&low.to_le_bytes());
    out[14..16].copy_from_slice(&high.to_le_bytes());
    out[17] = says.proto;
    out[18] = says.ports.is_some().into();
    if says.to != "any" {
        let (addr, len) = says.to.split_once('/').unwrap();
        let (addr, len): (IpAddr, usize) = (addr.parse().unwrap(), len.parse().unwrap());
        out[16] = if addr.is_ipv4() { 2 } else { 10 };
        out[24..40].copy_from_slice(&bytes_of(addr));
        for bit in 0..len {
            out[40 + bit / 8] |= 0x80 >> (bit % 8);
        }
    }
    out
}

impl Rig {
    fn load(settings: &[(&str, u32)]) -> Option<Self> {
        Self::load_with(settings, &[])
    }

    /// `sizes` are entries of maps.
    fn load_with(settings: &[(&str, u32)], sizes: &[(&str, u32)]) -> Option<Self> {
        // SAFETY: no arguments, no failure.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: loading BPF programs needs root");
            return None;
        }
        let mut loader = EbpfLoader::new();
        loader.btf(None).override_global(id::RODATA_HALF, &HALF, true);
        for (name, value) in settings {
            loader.override_global(name, value, true);
        }
        for (name, size) in sizes {
            loader.map_max_entries(name, *size);
        }
        let mut ebpf = loader.load(&id::OBJECT).unwrap();
        for name in [id::FROM_POD_PROGRAM, id::TO_POD_PROGRAM] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        Some(Self { ebpf })
    }

    /// The pod behind the loopback interface is `web`.
    fn with_web(settings: &[(&str, u32)]) -> Option<Self> {
        let mut rig = Self::load(settings)?;
        let mut ifaces: BpfHashMap<&mut MapData, u32, u32> = rig.ebpf.map_mut(id::IFACES).unwrap().try_into().unwrap();
        ifaces.insert(LOOPBACK, WEB, 0).unwrap();
        Some(rig)
    }

    fn set(&mut self, generation: u32, rules: &[Says], default: u32) {
        let half = generation & 1;
        let mut map: Array<&mut MapData, [u8; 56]> = self.ebpf.map_mut(id::RULES).unwrap().try_into().unwrap();
        for (i, says) in rules.iter().enumerate() {
            map.set(half * HALF + i as u32, row(i as u32, says), 0).unwrap();
        }
        let mut policy: Array<&mut MapData, [u32; 6]> = self.ebpf.map_mut(id::POLICY).unwrap().try_into().unwrap();
        let mut state = policy.get(&0, 0).unwrap();
        state[2 + half as usize] = rules.len() as u32;
        state[4 + half as usize] = default;
        state[0] = generation;
        policy.set(0, state, 0).unwrap();
    }

    /// Returns the verdict and the mark that the packet has then.
    fn run(&self, program: &str, packet: &[u8], mark: u32) -> (u32, u32) {
        self.try_run(program, packet, mark).unwrap()
    }

    fn try_run(&self, program: &str, packet: &[u8], mark: u32) -> Result<(u32, u32), ProgramError> {
        let program: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        // `struct __sk_buff` up to its length; the mark is its third word.
        let mut context = vec![0; 192];
        context[8..12].copy_from_slice(&mark.to_le_bytes());
        let mut after = vec![0; 192];
        let options = TestRunOptions {
            data_in: Some(packet),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        };
        let result = program.test_run(options)?;
        Ok((result.return_value, u32::from_le_bytes(after[8..12].try_into().unwrap())))
    }

    fn sends(&self, packet: &[u8]) -> u32 {
        self.run(id::FROM_POD_PROGRAM, packet, 0).0
    }

    fn receives(&self, packet: &[u8], mark: u32) -> u32 {
        self.run(id::TO_POD_PROGRAM, packet, mark).0
    }

    fn stats(&self) -> Vec<u64> {
        let map: PerCpuArray<&MapData, u64> = self.ebpf.map(id::STATS_MAP).unwrap().try_into().unwrap();
        (0..id::STATS).map(|i| map.get(&i, 0).unwrap().iter().sum()).collect()
    }

    #[track_caller]
    fn counted(&self, expected: &[(u32, u64)]) {
        let stats = self.stats();
        let mut all = vec![0; id::STATS as usize];
        for (stat, n) in expected {
            all[*stat as usize] = *n;
        }
        assert_eq!(stats, all);
    }

    fn verdicts(&self, rule: u32) -> [u64; 2] {
        let map: PerCpuArray<&MapData, [u64; 2]> = self.ebpf.map(id::VERDICTS).unwrap().try_into().unwrap();
        map.get(&rule, 0).unwrap().iter().fold([0; 2], |[p, b], [q, c]| [p + q, b + c])
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Syn,
    SynAck,
    Ack,
    Reset,
    Udp,
    /// ICMP type, of either version.
    Icmp(u8),
}

/// `10.0.0.1:4000` style addresses on both ends.
fn packet(from: &str, to: &str, kind: Kind) -> Vec<u8> {
    let (from, to): (std::net::SocketAddr, std::net::SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), 64),
        _ => panic!("two families"),
    };
    let mut out = Vec::new();
    let tcp = |set: &dyn Fn(&mut TcpHeader)| {
        let mut header = TcpHeader::new(from.port(), to.port(), 1, 1000);
        set(&mut header);
        header
    };
    match kind {
        Kind::Syn => ip.tcp_header(tcp(&|h| h.syn = true)).write(&mut out, &[]),
        Kind::SynAck => ip.tcp_header(tcp(&|h| (h.syn, h.ack) = (true, true))).write(&mut out, &[]),
        Kind::Ack => ip.tcp_header(tcp(&|h| h.ack = true)).write(&mut out, &[1; 10]),
        Kind::Reset => ip.tcp_header(tcp(&|h| h.rst = true)).write(&mut out, &[]),
        Kind::Udp => ip.udp(from.port(), to.port()).write(&mut out, &[1; 10]),
        Kind::Icmp(kind) if from.is_ipv4() => ip.icmpv4_raw(kind, 0, [0; 4]).write(&mut out, &[1; 28]),
        Kind::Icmp(kind) => ip.icmpv6_raw(kind, 0, [0; 4]).write(&mut out, &[1; 28]),
    }
    .unwrap();
    out
}

const POD: &str = "10.0.0.1:4000";

#[test]
fn the_rules_decide() {
    let rules = [
        allow(WEB, "192.0.2.1/32", 6, Some((443, 443))),
        allow(WEB, "10.1.0.0/16", 17, Some((53, 60))),
        allow(WEB, "2001:db8::/32", 0, None),
        Says {
            verdict: id::DENY,
            ..allow(0, "10.9.0.0/16", 0, None)
        },
        allow(8, "10.3.0.0/16", 0, None),
        allow(0, "10.4.0.0/16", 0, None),
    ];
    let Some(mut rig) = Rig::with_web(&[]) else { return };
    rig.set(0, &rules, id::DENY);
    let v6 = "[fd00::1]:4000";
    for (from, to, kind, verdict) in [
        (POD, "192.0.2.1:443", Kind::Syn, NEXT),
        (POD, "192.0.2.1:443", Kind::Udp, SHOT),
        (POD, "192.0.2.1:444", Kind::Syn, SHOT),
        (POD, "192.0.2.2:443", Kind::Syn, SHOT),
        (POD, "10.1.200.3:53", Kind::Udp, NEXT),
        (POD, "10.1.200.3:60", Kind::Udp, NEXT),
        (POD, "10.1.200.3:61", Kind::Udp, SHOT),
        (POD, "10.2.200.3:53", Kind::Udp, SHOT),
        (POD, "10.9.1.1:1", Kind::Syn, SHOT),
        (POD, "10.3.1.1:1", Kind::Syn, SHOT),
        (POD, "10.4.1.1:1", Kind::Syn, NEXT),
        (POD, "10.4.1.1:0", Kind::Icmp(8), NEXT),
        (POD, "10.3.1.1:0", Kind::Icmp(8), SHOT),
        (v6, "[2001:db8:1::1]:99", Kind::Syn, NEXT),
        (v6, "[2001:db9::1]:99", Kind::Syn, SHOT),
        (v6, "[2001:db8::1]:0", Kind::Icmp(128), NEXT),
    ] {
        let bytes = packet(from, to, kind);
        // Asked, and remembered.
        for _ in 0..2 {
            assert_eq!(rig.sends(&bytes), verdict, "{from} -> {to}");
        }
    }
    assert_eq!(rig.verdicts(0), [2, 2 * 54]);
    assert_eq!(rig.verdicts(3), [2, 2 * 54]);
    assert_eq!(rig.verdicts(5)[0], 4);
    rig.counted(&[(id::STAT_ALLOWED, 14), (id::STAT_DENIED, 18)]);
}

#[test]
fn replies_pass_and_only_they_do() {
    let Some(mut rig) = Rig::with_web(&[(id::RODATA_ENFORCE, id::ENFORCE_FROM_POD | id::ENFORCE_TO_POD)]) else {
        return;
    };
    rig.set(0, &[allow(WEB, "192.0.2.1/32", 6, Some((443, 443)))], id::DENY);
    let server = "192.0.2.1:443";
    // Before the pod has asked, nobody may talk to it.
    assert_eq!(rig.receives(&packet(server, POD, Kind::Syn), 9), SHOT);
    assert_eq!(rig.sends(&packet(POD, server, Kind::Syn)), NEXT);
    assert_eq!(rig.receives(&packet(server, POD, Kind::SynAck), 0), NEXT);
    assert_eq!(rig.sends(&packet(POD, server, Kind::Ack)), NEXT);
    // Another port of the same server is another conversation.
    assert_eq!(rig.receives(&packet("192.0.2.1:80", POD, Kind::Udp), 9), SHOT);
    // What was denied has begun nothing.
    assert_eq!(rig.sends(&packet(POD, "192.0.2.1:53", Kind::Udp)), SHOT);
    assert_eq!(rig.receives(&packet("192.0.2.1:53", POD, Kind::Udp), 9), SHOT);
    rig.counted(&[(id::STAT_ALLOWED, 2), (id::STAT_REPLIES, 1), (id::STAT_DENIED, 4)]);
}

#[test]
fn the_direction_that_is_not_enforced_is_watched() {
    let Some(mut rig) = Rig::with_web(&[]) else { return };
    rig.set(0, &[], id::DENY);
    let client = "192.0.2.9:5555";
    assert_eq!(rig.receives(&packet(client, "10.0.0.1:80", Kind::Syn), 0), NEXT);
    // So the pod may answer, although it may not send anything of its own.
    assert_eq!(rig.sends(&packet("10.0.0.1:80", client, Kind::SynAck)), NEXT);
    assert_eq!(rig.sends(&packet("10.0.0.1:81", client, Kind::Syn)), SHOT);
    rig.counted(&[(id::STAT_WATCHED, 1), (id::STAT_REPLIES, 1), (id::STAT_DENIED, 1)]);
}

#[test]
fn the_undecided_pass_unless_they_are_to_be_denied() {
    for (deny, verdict) in [(0, NEXT), (1, SHOT)] {
        let Some(mut rig) = Rig::with_web(&[(id::RODATA_DENY_UNKNOWN, deny)]) else {
            return;
        };
        rig.set(0, &[], id::DENY);
        let other = "192.0.2.1:443";
        // A connection older than the program, a reset, ICMP errors.
        assert_eq!(rig.sends(&packet(POD, other, Kind::Ack)), verdict);
        assert_eq!(rig.sends(&packet(POD, other, Kind::Reset)), verdict);
        assert_eq!(rig.sends(&packet("10.0.0.1:0", "192.0.2.1:0", Kind::Icmp(3))), verdict);
        assert_eq!(rig.sends(&packet("[fd00::1]:0", "[fd00::2]:0", Kind::Icmp(1))), verdict);
        rig.counted(&[(id::STAT_UNDECIDED, 4)]);
    }
}

#[test]
fn who_is_unknown_is_not_the_default() {
    for (deny, verdict) in [(0, NEXT), (1, SHOT)] {
        // Nobody is behind the interface.
        let Some(mut rig) = Rig::load(&[(id::RODATA_DENY_UNKNOWN, deny)]) else {
            return;
        };
        rig.set(0, &[allow(WEB, "10.3.0.0/16", 0, None), allow(0, "10.4.0.0/16", 0, None)], id::DENY);
        assert_eq!(rig.sends(&packet(POD, "10.3.0.1:1", Kind::Syn)), verdict);
        assert_eq!(rig.sends(&packet(POD, "10.4.0.1:1", Kind::Syn)), NEXT, "a rule for everybody");
        // A mark tells.
        let (by_mark, mark) = rig.run(id::FROM_POD_PROGRAM, &packet(POD, "10.3.0.2:1", Kind::Syn), WEB);
        assert_eq!((by_mark, mark), (NEXT, WEB));
        rig.counted(&[(id::STAT_UNKNOWN, 1), (id::STAT_ALLOWED, 2)]);
    }
}

#[test]
fn marks_are_shared() {
    let Some(mut rig) = Rig::with_web(&[(id::RODATA_MASK, 0xff)]) else {
        return;
    };
    rig.set(0, &[allow(WEB, "any", 0, None)], id::DENY);
    let bytes = packet(POD, "10.3.0.1:1", Kind::Syn);
    // Ours is written beside what others have in theirs.
    assert_eq!(rig.run(id::FROM_POD_PROGRAM, &bytes, 0x4200), (NEXT, 0x4200 | WEB));
    // A value of others in our bits stays, and does not make the pod somebody else.
    assert_eq!(rig.run(id::FROM_POD_PROGRAM, &bytes, 0x4209), (NEXT, 0x4209));
    rig.counted(&[(id::STAT_ALLOWED, 2), (id::STAT_FOREIGN_MARK, 1), (id::STAT_DISAGREE, 1)]);
}

#[test]
fn what_always_passes() {
    let Some(mut rig) = Rig::with_web(&[(id::RODATA_DENY_UNKNOWN, 1)]) else {
        return;
    };
    rig.set(0, &[], id::DENY);
    let mut arp = vec![0xff; 12];
    arp.extend_from_slice(&[0x08, 0x06]);
    arp.resize(60, 0);
    assert_eq!(rig.sends(&arp), NEXT);
    for kind in 133..=137 {
        assert_eq!(rig.sends(&packet("[fe80::1]:0", "[fe80::2]:0", Kind::Icmp(kind))), NEXT);
    }
    let mut fragment = packet(POD, "10.3.0.1:1", Kind::Udp);
    fragment[20..22].copy_from_slice(&[0x20, 0x10]);
    assert_eq!(rig.sends(&fragment), NEXT);
    // Its first fragment is judged.
    fragment[20..22].copy_from_slice(&[0x20, 0]);
    assert_eq!(rig.sends(&fragment), SHOT);
    rig.counted(&[
        (id::STAT_NON_IP, 1),
        (id::STAT_NEIGHBOUR, 5),
        (id::STAT_FRAGMENTS, 1),
        (id::STAT_DENIED, 1),
    ]);
}

/// Cut at every length: either it is judged, or it passes as malformed.
#[test]
fn every_length() {
    let Some(mut rig) = Rig::with_web(&[]) else { return };
    rig.set(0, &[], id::DENY);
    let whole = packet("[fd00::1]:1", "[fd00::2]:2", Kind::Syn);
    let mut judged = 0;
    for len in 15..=whole.len() {
        // Up to the flags of TCP.
        let expected = if len < 14 + 40 + 14 { NEXT } else { SHOT };
        // Newer kernels make no packet of too few bytes.
        if let Ok((verdict, _)) = rig.try_run(id::FROM_POD_PROGRAM, &whole[..len], 0) {
            assert_eq!(verdict, expected, "{len} bytes");
            judged += 1;
        }
    }
    assert!(judged >= whole.len() - 54, "{judged} lengths");
}

#[test]
fn a_new_policy_is_in_force_at_once() {
    let Some(mut rig) = Rig::with_web(&[]) else { return };
    let syn = packet(POD, "10.3.0.1:1", Kind::Syn);
    let ack = packet(POD, "10.3.0.1:1", Kind::Ack);
    for generation in 0..6 {
        let verdict = if generation % 2 == 0 {
            rig.set(generation, &[allow(WEB, "10.3.0.0/16", 0, None)], id::DENY);
            NEXT
        } else {
            rig.set(generation, &[], id::DENY);
            SHOT
        };
        assert_eq!(rig.sends(&syn), verdict, "generation {generation}");
        // Seen to begin, so a connection that was allowed does not outlive its rule.
        assert_eq!(rig.sends(&ack), verdict, "generation {generation}");
    }
}

/// With room for a few answers only: most are forgotten before they are asked for again, and decided on anew.
#[test]
fn what_was_forgotten_is_decided_on_again() {
    const SMALL: &[(&str, u32)] = &[("CACHE", 64), ("FLOWS", 64), ("KNOWN", 64)];
    let Some(mut rig) = Rig::load_with(&[], SMALL) else { return };
    let mut ifaces: BpfHashMap<&mut MapData, u32, u32> = rig.ebpf.map_mut(id::IFACES).unwrap().try_into().unwrap();
    ifaces.insert(LOOPBACK, WEB, 0).unwrap();
    rig.set(0, &[allow(WEB, "10.3.0.0/16", 17, Some((1000, 1999)))], id::DENY);
    for round in 0..3 {
        for port in (0..3000u32).map(|i| 500 + i * 7 % 3000) {
            let bytes = packet(POD, &format!("10.3.0.1:{port}"), Kind::Udp);
            let expected = if (1000..2000).contains(&port) { NEXT } else { SHOT };
            assert_eq!(rig.sends(&bytes), expected, "round {round}, port {port}");
        }
    }
    rig.counted(&[(id::STAT_ALLOWED, 3000), (id::STAT_DENIED, 6000)]);
    // Another policy, with answers of the old one still there.
    rig.set(1, &[allow(WEB, "10.3.0.0/16", 17, Some((2000, 2999)))], id::DENY);
    for port in [999, 1000, 1999, 2000, 2999, 3000] {
        let bytes = packet(POD, &format!("10.3.0.1:{port}"), Kind::Udp);
        let expected = if (2000..3000).contains(&port) { NEXT } else { SHOT };
        assert_eq!(rig.sends(&bytes), expected, "port {port}");
    }
}

#[test]
fn a_dry_run_drops_nothing_and_counts_all() {
    let Some(mut rig) = Rig::with_web(&[(id::RODATA_DRY_RUN, 1)]) else {
        return;
    };
    rig.set(0, &[], id::DENY);
    assert_eq!(rig.sends(&packet(POD, "10.3.0.1:1", Kind::Syn)), NEXT);
    rig.counted(&[(id::STAT_DENIED, 1)]);
}

#[test]
fn without_a_heartbeat_everything_passes() {
    let Some(mut rig) = Rig::with_web(&[(id::RODATA_NEEDS_HEARTBEAT, 1)]) else {
        return;
    };
    rig.set(0, &[], id::DENY);
    let syn = packet(POD, "10.3.0.1:1", Kind::Syn);
    assert_eq!(rig.sends(&syn), NEXT);
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into `now`.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) }, 0);
    let mut beat: Array<&mut MapData, u64> = rig.ebpf.map_mut(id::HEARTBEAT).unwrap().try_into().unwrap();
    beat.set(0, now.tv_sec as u64 * 1_000_000_000, 0).unwrap();
    assert_eq!(rig.sends(&syn), SHOT);
    rig.counted(&[(id::STAT_DENIED, 1)]);
}

/// The programs on cgroup hooks load, too.
#[test]
fn every_program_loads() {
    use aya::programs::Program;
    let Some(mut rig) = Rig::load(&[]) else { return };
    let mut loaded = 0;
    for (name, program) in rig.ebpf.programs_mut() {
        let result = match program {
            Program::CgroupSock(p) => p.load(),
            Program::CgroupSockAddr(p) => p.load(),
            Program::CgroupSockopt(p) => p.load(),
            Program::SchedClassifier(_) => continue,
            other => panic!("{name} is {:?}", other.prog_type()),
        };
        result.unwrap_or_else(|e| panic!("{name}: {e}"));
        loaded += 1;
    }
    assert_eq!(loaded, 6);
}
