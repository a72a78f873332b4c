//! The flow aggregator in the kernel (`BPF_PROG_TEST_RUN`, nothing is attached). Needs root; without it every test says that it was
//! skipped.

#![allow(clippy::unwrap_used, reason = "a failed test may panic; its helpers too")]

use aya::maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray, RingBuf, Stack};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use etherparse::{PacketBuilder, TcpHeader};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use weir_ebpf_builtins::flows as fl;

const NEXT: u32 = u32::MAX;
const XDP_PASS: u32 = 2;
/// A [`fl::Key`] as words.
type Key = [u64; 6];
/// A [`fl::Record`] as words.
type Record = [u64; 16];

const _: () = assert!(size_of::<fl::Key>() == 48 && size_of::<fl::Record>() == 128 && size_of::<fl::Delta>() == 72);

struct Rig {
    ebpf: Ebpf,
    program: &'static str,
}

/// What a record says, in words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    packets: u64,
    bytes: u64,
    flags: u32,
    syns: u32,
    fins: u32,
    rsts: u32,
    again: u32,
}

impl Rig {
    /// Room for `max` flows.
    fn load(program: &'static str, max: u32) -> Option<Self> {
        // SAFETY: no arguments, no failure.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: loading BPF programs needs root");
            return None;
        }
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for map in [fl::FLOWS_MAP, fl::RECORDS, fl::FREE] {
            loader.map_max_entries(map, max);
        }
        let mut ebpf = loader.load(&fl::OBJECT).unwrap();
        if program == fl::XDP {
            let program: &mut Xdp = ebpf.program_mut(program).unwrap().try_into().unwrap();
            program.load().unwrap();
        } else {
            let program: &mut SchedClassifier = ebpf.program_mut(program).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        let mut free: Stack<&mut MapData, u32> = ebpf.map_mut(fl::FREE).unwrap().try_into().unwrap();
        for index in (0..max).rev() {
            free.push(index, 0).unwrap();
        }
        Some(Self { ebpf, program })
    }

    fn try_run(&self, packet: &[u8]) -> Result<u32, ProgramError> {
        self.try_run_as(packet, None)
    }

    /// `ctx` is a `struct __sk_buff`.
    fn try_run_as(&self, packet: &[u8], ctx: Option<&[u8]>) -> Result<u32, ProgramError> {
        let options = TestRunOptions {
            data_in: Some(packet),
            ctx_in: ctx,
            ..TestRunOptions::default()
        };
        let result = if self.program == fl::XDP {
            let program: &Xdp = self.ebpf.program(self.program).unwrap().try_into().unwrap();
            program.test_run(options)?
        } else {
            let program: &SchedClassifier = self.ebpf.program(self.program).unwrap().try_into().unwrap();
            program.test_run(options)?
        };
        Ok(result.return_value)
    }

    /// Every packet goes on.
    #[track_caller]
    fn run(&self, packet: &[u8]) {
        let expected = if self.program == fl::XDP { XDP_PASS } else { NEXT };
        assert_eq!(self.try_run(packet).unwrap(), expected);
    }

    fn stats(&self) -> Vec<u64> {
        let map: PerCpuArray<&MapData, u64> = self.ebpf.map(fl::STATS_MAP).unwrap().try_into().unwrap();
        (0..fl::STATS).map(|i| map.get(&i, 0).unwrap().iter().sum()).collect()
    }

    /// Every flow with its record.
    fn flows(&self) -> BTreeMap<Key, Record> {
        let flows: BpfHashMap<&MapData, Key, u32> = self.ebpf.map(fl::FLOWS_MAP).unwrap().try_into().unwrap();
        let records: Array<&MapData, Record> = self.ebpf.map(fl::RECORDS).unwrap().try_into().unwrap();
        flows
            .iter()
            .map(|pair| {
                let (key, index) = pair.unwrap();
                let record = records.get(&index, 0).unwrap();
                assert_eq!(record[..6], key, "a record of another flow");
                (key, record)
            })
            .collect()
    }

    /// The only flow between two addresses, any direction and VLAN.
    #[track_caller]
    fn seen(&self, from: &str, to: &str, proto: u8) -> Seen {
        let flows = self.flows();
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut found = flows.iter().filter(|(key, _)| {
            let [src, dst] = [[key[0], key[1]], [key[2], key[3]]];
            src == words(from.ip())
                && dst == words(to.ip())
                && key[4] as u16 == from.port()
                && (key[4] >> 16) as u16 == to.port()
                && (key[4] >> 32) as u8 == proto
        });
        let (_, record) = found.next().unwrap_or_else(|| panic!("no {from} > {to}"));
        assert!(found.next().is_none(), "two of {from} > {to}");
        let low = |i: usize| record[i] as u32;
        let high = |i: usize| (record[i] >> 32) as u32;
        Seen {
            packets: record[6],
            bytes: record[7],
            syns: low(11),
            fins: high(11),
            rsts: low(12),
            again: high(12),
            flags: low(15),
        }
    }
}

fn words(addr: IpAddr) -> [u64; 2] {
    let mut bytes = [0; 16];
    match addr {
        IpAddr::V4(a) => bytes[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => bytes = a.octets(),
    }
    [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
}

fn udp_of(packets: u64, bytes: u64) -> Seen {
    Seen {
        packets,
        bytes,
        ..Seen::default()
    }
}

#[derive(Clone, Copy)]
enum Kind {
    /// Flags, sequence number, bytes of payload.
    Tcp(u8, u32, usize),
    Udp(usize),
    Echo,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// Between addresses such as `10.0.0.1:4000`, behind these VLAN tags.
fn tagged(from: &str, to: &str, kind: Kind, tags: &[u16]) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), 64),
        _ => panic!("two families"),
    };
    let mut out = Vec::new();
    match kind {
        Kind::Tcp(flags, seq, len) => {
            let mut header = TcpHeader::new(from.port(), to.port(), seq, 1000);
            header.fin = flags & FIN != 0;
            header.syn = flags & SYN != 0;
            header.rst = flags & RST != 0;
            header.psh = flags & PSH != 0;
            header.ack = flags & ACK != 0;
            ip.tcp_header(header).write(&mut out, &vec![7; len])
        }
        Kind::Udp(len) => ip.udp(from.port(), to.port()).write(&mut out, &vec![7; len]),
        Kind::Echo if from.is_ipv4() => ip.icmpv4_echo_request(1, 1).write(&mut out, &[0; 56]),
        Kind::Echo => ip.icmpv6_echo_request(1, 1).write(&mut out, &[0; 56]),
    }
    .unwrap();
    // The outermost tag of two is of the other kind.
    for (i, tag) in tags.iter().enumerate().rev() {
        let kind: [u8; 2] = if i == 0 && tags.len() == 2 { [0x88, 0xa8] } else { [0x81, 0] };
        let tag = tag.to_be_bytes();
        out.splice(12..12, [kind[0], kind[1], tag[0], tag[1]]);
    }
    out
}

fn packet(from: &str, to: &str, kind: Kind) -> Vec<u8> {
    tagged(from, to, kind, &[])
}

const A: &str = "10.0.0.1:4000";
const B: &str = "10.0.0.2:443";
const A6: &str = "[fd00::1]:4000";
const B6: &str = "[fd00::2]:53";

#[test]
fn every_program_counts_every_packet_once() {
    for program in [fl::INGRESS, fl::EGRESS, fl::XDP] {
        let Some(rig) = Rig::load(program, 64) else { return };
        let mut bytes = 0;
        for (flags, seq, len) in [(SYN, 100, 0), (ACK, 101, 0), (ACK | PSH, 101, 50), (ACK | FIN, 151, 0)] {
            let packet = packet(A, B, Kind::Tcp(flags, seq, len));
            bytes += packet.len() as u64;
            rig.run(&packet);
        }
        rig.run(&packet(B, A, Kind::Tcp(RST | ACK, 5, 0)));
        for len in [10, 20, 30] {
            rig.run(&packet(A6, B6, Kind::Udp(len)));
        }
        for _ in 0..5 {
            rig.run(&packet("10.0.0.1:0", "10.0.0.2:0", Kind::Echo));
            rig.run(&packet("[fd00::1]:0", "[fd00::2]:0", Kind::Echo));
        }
        let tcp = rig.seen(A, B, 6);
        let expected = Seen {
            packets: 4,
            bytes,
            flags: u32::from(FIN | SYN | PSH | ACK),
            syns: 1,
            fins: 1,
            ..Seen::default()
        };
        assert_eq!(tcp, expected, "{program}");
        let expected = Seen {
            packets: 1,
            bytes: 54,
            flags: u32::from(RST | ACK),
            rsts: 1,
            ..Seen::default()
        };
        assert_eq!(rig.seen(B, A, 6), expected, "{program}");
        assert_eq!(rig.seen(A6, B6, 17), udp_of(3, 3 * 62 + 60), "{program}");
        assert_eq!(rig.seen("10.0.0.1:0", "10.0.0.2:0", 1), udp_of(5, 5 * 98), "{program}");
        assert_eq!(rig.seen("[fd00::1]:0", "[fd00::2]:0", 58), udp_of(5, 5 * 118), "{program}");
        let directions: Vec<u8> = rig.flows().keys().map(|key| (key[5] >> 48) as u8).collect();
        let expected = if program == fl::EGRESS {
            fl::DIRECTION_EGRESS
        } else {
            fl::DIRECTION_INGRESS
        };
        assert_eq!(directions, [expected; 5]);
        assert_eq!(rig.stats(), [0; fl::STATS as usize], "{program}");
    }
}

/// A buffer that becomes several segments: each has the headers, the last one alone the FIN.
#[test]
fn a_large_buffer_is_many_packets_and_one_fin() {
    /// Bytes from the start of `struct __sk_buff`.
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    for program in [fl::INGRESS, fl::EGRESS] {
        let Some(rig) = Rig::load(program, 64) else { return };
        let packet = packet(A, B, Kind::Tcp(ACK | FIN, 100, 500));
        let mut ctx = [0; 192];
        ctx[GSO_SEGS] = 5;
        ctx[GSO_SIZE] = 100;
        assert_eq!(rig.try_run_as(&packet, Some(&ctx)).unwrap(), NEXT);
        let expected = Seen {
            packets: 5,
            bytes: 5 * 54 + 500,
            flags: u32::from(ACK | FIN),
            fins: 1,
            ..Seen::default()
        };
        assert_eq!(rig.seen(A, B, 6), expected, "{program}");
    }
}

#[test]
fn vlans_are_told_apart() {
    for program in [fl::INGRESS, fl::XDP] {
        let Some(rig) = Rig::load(program, 64) else { return };
        let packets = [&[][..], &[7], &[8], &[8, 7], &[9, 7]].map(|tags| tagged(A, B, Kind::Udp(10), tags));
        for packet in &packets {
            rig.run(packet);
        }
        // The outer tag counts. How much there is in front of the IP header is known.
        let flows = rig.flows();
        let mut found: Vec<(u16, u64, u64)> = flows.iter().map(|(k, r)| ((k[5] >> 32) as u16, r[6], r[15] >> 40)).collect();
        found.sort_unstable();
        assert_eq!(found, [(0, 1, 14), (7, 1, 18), (8, 2, 18), (9, 1, 22)], "{program}");
    }
}

/// Cuts a datagram up as a router would: offset in bytes, more to come.
fn fragment(whole: &[u8], from: usize, to: usize, more: bool) -> Vec<u8> {
    let mut out = whole[..34].to_vec();
    out.extend_from_slice(&whole[34 + from..34 + to]);
    let total = (20 + to - from) as u16;
    out[16..18].copy_from_slice(&total.to_be_bytes());
    out[18..20].copy_from_slice(&77u16.to_be_bytes());
    let field = (from / 8) as u16 | if more { 0x2000 } else { 0 };
    out[20..22].copy_from_slice(&field.to_be_bytes());
    out
}

/// The same for IPv6.
fn fragment6(whole: &[u8], from: usize, to: usize, more: bool) -> Vec<u8> {
    let mut out = whole[..54].to_vec();
    let next = std::mem::replace(&mut out[20], 44);
    out[18..20].copy_from_slice(&((8 + to - from) as u16).to_be_bytes());
    let field = from as u16 | u16::from(more);
    out.extend([next, 0, (field >> 8) as u8, field as u8, 0, 0, 0, 77]);
    out.extend_from_slice(&whole[54 + from..54 + to]);
    out
}

#[test]
fn fragments_belong_to_the_flow_of_their_first() {
    for program in [fl::EGRESS, fl::XDP] {
        let Some(rig) = Rig::load(program, 64) else { return };
        let whole = packet(A, B, Kind::Udp(100));
        let whole6 = packet(A6, B6, Kind::Udp(100));
        // Nobody knows the ports of these yet.
        rig.run(&fragment(&whole, 80, 108, false));
        rig.run(&fragment6(&whole6, 80, 108, false));
        for (from, to, more) in [(0, 40, true), (40, 80, true), (80, 108, false)] {
            rig.run(&fragment(&whole, from, to, more));
            rig.run(&fragment6(&whole6, from, to, more));
        }
        assert_eq!(rig.seen(A, B, 17), udp_of(3, 3 * 34 + 108), "{program}");
        assert_eq!(rig.seen(A6, B6, 17), udp_of(3, 3 * 62 + 108), "{program}");
        assert_eq!(rig.seen("10.0.0.1:0", "10.0.0.2:0", 17).packets, 1);
        assert_eq!(rig.seen("[fd00::1]:0", "[fd00::2]:0", 17).packets, 1);
        let mut stats = [0; fl::STATS as usize];
        stats[fl::STAT_STRAY_FRAGMENTS as usize] = 2;
        assert_eq!(rig.stats(), stats);
    }
}

#[test]
fn what_comes_again_is_told_by_its_numbers() {
    let Some(rig) = Rig::load(fl::INGRESS, 64) else { return };
    let run = |flags, seq, len| rig.run(&packet(A, B, Kind::Tcp(flags, seq, len)));
    let again = || rig.seen(A, B, 6).again;
    // Numbers wrap.
    let first = u32::MAX - 100;
    run(SYN, first, 0);
    run(SYN, first, 0);
    assert_eq!(again(), 1, "a SYN");
    run(ACK, first + 1, 100);
    run(ACK, 0, 100);
    run(ACK, 100, 0);
    run(ACK, 100, 0);
    assert_eq!(again(), 1, "acknowledgements carry nothing");
    run(ACK, 0, 100);
    run(ACK, first + 1, 50);
    assert_eq!(again(), 3);
    run(ACK, 99, 1);
    run(ACK, 99, 0);
    assert_eq!(again(), 3, "somebody asks whether we are alive");
    run(ACK, 50, 100);
    assert_eq!(again(), 3, "half of it is new");
    run(ACK | FIN, 150, 0);
    run(ACK | FIN, 150, 0);
    run(RST, 151, 0);
    run(RST, 151, 0);
    assert_eq!(again(), 4, "a FIN, and no reset");
}

/// Two processors that add to one flow at the same time lose nothing.
#[test]
fn every_processor_counts() {
    const EACH: u32 = 100_000;
    for program in [fl::EGRESS, fl::XDP] {
        let Some(rig) = Rig::load(program, 64) else { return };
        let packet = packet(A, B, Kind::Tcp(FIN, 1, 6));
        let options = || TestRunOptions {
            data_in: Some(&packet),
            repeat: EACH,
            ..TestRunOptions::default()
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| match rig.ebpf.program(program).unwrap() {
                    aya::programs::Program::Xdp(program) => program.test_run(options()).unwrap().return_value,
                    aya::programs::Program::SchedClassifier(program) => program.test_run(options()).unwrap().return_value,
                    other => panic!("{:?}", other.prog_type()),
                });
            }
        });
        let seen = rig.seen(A, B, 6);
        let sent = 2 * EACH;
        assert_eq!(
            (seen.packets, seen.fins, seen.bytes),
            (sent.into(), sent, u64::from(sent) * 60),
            "{program}"
        );
    }
}

/// Cut at every length: either it has a flow, or it is malformed.
#[test]
fn every_length() {
    for program in [fl::INGRESS, fl::XDP] {
        let Some(rig) = Rig::load(program, 64) else { return };
        let whole = packet(A6, B6, Kind::Tcp(SYN, 1, 0));
        let (mut cut, mut counted) = (0, 0);
        for len in 14..=whole.len() {
            // Newer kernels make no packet of too few bytes.
            if rig.try_run(&whole[..len]).is_ok() {
                // Up to the flags of TCP.
                if len < 14 + 40 + 14 { cut += 1 } else { counted += 1 }
            }
        }
        assert_eq!(rig.stats()[fl::STAT_MALFORMED as usize], cut, "{program}");
        assert_eq!(rig.seen(A6, B6, 6).packets, counted, "{program}");
        assert!(cut > 10 && counted > 5, "{cut}, {counted}");
        let mut arp = vec![0xff; 12];
        arp.extend_from_slice(&[0x08, 0x06]);
        arp.resize(60, 0);
        rig.run(&arp);
        assert_eq!(rig.stats()[fl::STAT_NON_IP as usize], 1, "{program}");
    }
}

/// Many more flows than there is room for: what is in records, in the ring buffer, and in the counters, is what was sent.
#[test]
fn two_hundred_thousand_flows() {
    // An emulated machine is slow; what the ring buffer has no room for must be there all the same.
    let (sent, max) = if std::env::var_os("WEIR_TEST_VM").is_some() {
        (60_000, 4096)
    } else {
        (200_000u32, 65_536)
    };
    let Some(mut rig) = Rig::load(fl::INGRESS, max) else { return };
    let mut udp = packet(A, B, Kind::Udp(10));
    let len = udp.len() as u64;
    for n in 0..sent {
        // The sender's address.
        udp[26..30].copy_from_slice(&(0x0b00_0000 + n).to_be_bytes());
        rig.run(&udp);
    }
    let live: u64 = rig.flows().values().map(|record| record[6]).sum();
    assert_eq!((rig.flows().len() as u64, live), (u64::from(max), u64::from(max)));
    let stats = rig.stats();
    let (overflow, overflow_bytes) = (stats[fl::STAT_OVERFLOW as usize], stats[fl::STAT_OVERFLOW_BYTES as usize]);
    let mut ring: RingBuf<&mut MapData> = rig.ebpf.map_mut(fl::DELTAS).unwrap().try_into().unwrap();
    let (mut unlisted, mut bytes) = (0u64, 0u64);
    while let Some(delta) = ring.next() {
        bytes += u64::from_le_bytes(delta[48..56].try_into().unwrap());
        unlisted += u64::from(u32::from_le_bytes(delta[64..68].try_into().unwrap()));
    }
    assert!(unlisted > 0 && overflow > 0, "{unlisted}, {overflow}");
    assert_eq!(live + unlisted + overflow, u64::from(sent));
    assert_eq!(live * len + bytes + overflow_bytes, u64::from(sent) * len);
}
