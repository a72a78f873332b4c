//! The blocklist in the kernel (`BPF_PROG_TEST_RUN`, nothing is attached) against an oracle that shares no code with it.
//! Needs root; without it every test says that it was skipped.

#![allow(clippy::unwrap_used, reason = "a failed test may panic; its helpers too")]

mod oracle;
mod packet;
mod random;
mod rig;

use oracle::{Counters, Entry, Lists, Settings, judge};
use packet::{Body, Extension, Generator, Packet, Upper};
use rig::{Rig, TC_ACT_SHOT, TC_ACT_UNSPEC, XDP_DROP, XDP_PASS, XDP_TX, insn};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use weir_ebpf_builtins::blocklist as bl;

const MAX_HITS: u32 = 1024;
const BOTH: u32 = bl::IPV4 | bl::IPV6;

fn prefix(text: &str) -> Entry {
    let (address, len) = text.split_once('/').unwrap();
    (address.parse().unwrap(), len.parse().unwrap())
}

fn prefixes(list: &[&str]) -> Vec<Entry> {
    list.iter().map(|text| prefix(text)).collect()
}

fn v4(src: &str) -> Packet {
    Packet::v4(src.parse().unwrap(), "198.51.100.1".parse().unwrap())
}

fn v6(src: &str, extensions: &[Extension], upper: Upper) -> Packet {
    Packet::v6(src.parse().unwrap(), "2001:db8:ffff::1".parse().unwrap(), extensions, upper)
}

const TCP: Upper = Upper::Protocol(6);

fn verdict(outcome: oracle::Outcome, settings: &Settings) -> u32 {
    if outcome.stat == bl::STAT_DROPPED && !settings.dry_run {
        XDP_DROP
    } else {
        XDP_PASS
    }
}

/// Whether the processor is an emulated one, where everything takes ten times as long.
fn in_guest() -> bool {
    std::env::var_os("WEIR_TEST_VM").is_some()
}

/// Thousands of random packets under every way to match: verdict, statistics, and hits per prefix in packets and bytes.
#[test]
fn random_packets() {
    let mut outcomes = [0; bl::STATS as usize];
    for seed in 1..=24 {
        let mut generator = Generator::new(seed);
        let settings = Settings {
            fields: [bl::MATCH_SRC, bl::MATCH_DST, bl::MATCH_SRC | bl::MATCH_DST][seed as usize % 3],
            families: [BOTH, BOTH, bl::IPV4, bl::IPV6][seed as usize / 3 % 4],
            allow_families: [0, BOTH, bl::IPV6, bl::IPV4, BOTH][seed as usize % 5],
            proto: [0, 0, 6, 0, 1, 17, 0][seed as usize % 7],
            ports: [None, None, None, Some((0x101, 0x5a5a)), Some((0x5a5b, 0xffff)), Some((0, 0))][seed as usize % 6],
            second_set: seed % 4 == 1,
            exact: [0, BOTH, BOTH, bl::IPV4, bl::IPV6][seed as usize % 5],
            sieve: seed % 3 != 2,
            spill_every: [0, 0, 3][seed as usize % 3],
            dry_run: seed % 7 == 0,
            ..Settings::default()
        };
        let Some(mut rig) = Rig::load(&settings, MAX_HITS) else { return };
        let lists = Lists::random(&mut generator);
        rig.set(&lists);
        let mut expected = Counters::default();
        for _ in 0..if in_guest() { 250 } else { 2500 } {
            let packet = generator.packet();
            let outcome = judge(&packet, &settings, &lists);
            let bytes = packet.bytes();
            assert_eq!(
                rig.run(&bytes),
                verdict(outcome, &settings),
                "seed {seed}: {packet:?} {outcome:?} {settings:?}"
            );
            expected.add(outcome, bytes.len());
            outcomes[outcome.stat as usize] += 1;
        }
        assert_eq!(rig.counters(), expected, "seed {seed}");
    }
    // A generator that misses a case would make this test worthless.
    for (stat, seen) in outcomes.iter().enumerate().take(bl::STAT_UNCOUNTED as usize) {
        let enough = if in_guest() { 10 } else { 100 };
        assert!(*seen >= enough, "only {seen} packets with outcome {stat}");
    }
}

/// The same program at TC: random packets, in the tries and in the exact tables, with the same outcomes and counters.
#[test]
fn random_packets_at_tc() {
    let mut dropped = 0;
    for seed in if in_guest() { 102..=103 } else { 101..=104 } {
        let mut generator = Generator::new(seed);
        let settings = Settings {
            fields: bl::MATCH_SRC | bl::MATCH_DST,
            families: BOTH,
            allow_families: BOTH,
            proto: if seed == 102 { 17 } else { 0 },
            ports: (seed == 103).then_some((0x101, 0x5a5a)),
            exact: if seed % 2 == 0 { BOTH } else { 0 },
            sieve: seed == 102,
            flat: seed == 104,
            ..Settings::default()
        };
        let Some(mut rig) = Rig::load_tc(&settings, MAX_HITS) else { return };
        let lists = Lists::random(&mut generator);
        rig.set(&lists);
        let mut expected = Counters::default();
        for _ in 0..if in_guest() { 250 } else { 1500 } {
            let packet = generator.packet();
            let outcome = judge(&packet, &settings, &lists);
            let bytes = packet.bytes();
            // Less than a header of Ethernet and one of IP, or more than a page, the kernel does not take there.
            if !(14 + 40..=3500).contains(&bytes.len()) {
                continue;
            }
            let drops = outcome.stat == bl::STAT_DROPPED;
            let verdict = if drops { TC_ACT_SHOT } else { TC_ACT_UNSPEC };
            assert_eq!(rig.run_tc(&bytes), verdict, "seed {seed}: {packet:?} {outcome:?} {settings:?}");
            expected.add(outcome, bytes.len());
            dropped += u32::from(drops);
        }
        assert_eq!(rig.counters(), expected, "seed {seed}");
    }
    assert!(dropped > if in_guest() { 20 } else { 100 }, "{dropped}");
}

/// Thousands of nested prefixes in the exact tables, which then lose half of them: verdicts and hits at both ends of each, and beyond.
#[test]
fn exact_tables_agree_with_the_oracle() {
    for (second_set, long, spill_every) in [(false, true, 0), (true, false, 5)] {
        let settings = Settings {
            exact: BOTH,
            sieve: long,
            // Their 64 MiB take an emulated processor half a minute; there, `flat_tables_of_either_set` is all.
            flat: long && !in_guest(),
            second_set,
            spill_every,
            ..Settings::default()
        };
        let Some(mut rig) = Rig::load(&settings, 1 << 14) else { return };
        let mut random = random::Random::new(3 + u64::from(second_set));
        let mut block = Vec::new();
        let mut add = |address: u128, width: u8, len: u8| {
            // Of a family's width, in the upper bits.
            let bits = address & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            let address = if width == 32 {
                IpAddr::from(((bits >> 96) as u32).to_be_bytes())
            } else {
                IpAddr::from(bits.to_be_bytes())
            };
            block.push((address, len));
        };
        for _ in 0..1200 {
            // Few values in each byte, so that prefixes nest and chains fill up.
            let mut address = 0_u128;
            for byte in 0..16 {
                let value = if random.one_in(3) { random.below(3) } else { 1 };
                address |= (value as u128) << (120 - 8 * byte);
            }
            let v4 = random.one_in(2);
            let width = if v4 { 32 } else { 128 };
            let len = if random.one_in(2) {
                width
            } else {
                12 + random.below(usize::from(width) - 11) as u8
            };
            add(address, width, len);
        }
        // A chain as long as it can get: one of every length. The shortest cover half of the world, so once with and once without.
        let shortest = if second_set { 0 } else { 8 };
        (shortest..=32).for_each(|len| add(0xc0a8_0101 << 96, 32, len));
        (shortest..=128).for_each(|len| add(0xfd12_3456_789a_bcde_f012_3456_789a_bcde, 128, len));
        block.sort();
        block.dedup();
        // Those in the tries stay: the rig takes entries out of the tables only.
        let lists = Lists { block, allow: vec![] };
        rig.set(&lists);
        let mut expected = Counters::default();
        let mut anywhere = random::Random::new(99);
        let mut check = |rig: &Rig, lists: &Lists, step: usize| {
            for (address, len) in lists.block.iter().step_by(step) {
                let mut sources = match address {
                    IpAddr::V4(a) => {
                        let last = a.to_bits() | u32::MAX.checked_shr(u32::from(*len)).unwrap_or(0);
                        [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                            .map(|a| IpAddr::from(a.to_be_bytes()))
                            .to_vec()
                    }
                    IpAddr::V6(a) => {
                        let last = a.to_bits() | u128::MAX.checked_shr(u32::from(*len)).unwrap_or(0);
                        [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                            .map(|a| IpAddr::from(a.to_be_bytes()))
                            .to_vec()
                    }
                };
                sources.push(IpAddr::from((anywhere.next() as u32).to_be_bytes()));
                for source in sources.drain(..) {
                    let packet = match source {
                        IpAddr::V4(source) => Packet::v4(source, "198.51.100.1".parse().unwrap()),
                        IpAddr::V6(source) => Packet::v6(source, "2001:db8:ffff::1".parse().unwrap(), &[], TCP),
                    };
                    let outcome = judge(&packet, &settings, lists);
                    let bytes = packet.bytes();
                    assert_eq!(rig.run(&bytes), verdict(outcome, &settings), "{source} {outcome:?}");
                    expected.add(outcome, bytes.len());
                }
            }
            assert_eq!(rig.counters(), expected);
        };
        check(&rig, &lists, 1);
        let (mut left, mut index) = (Vec::new(), 0);
        for entry in &lists.block {
            let in_tables = spill_every == 0 || index % spill_every != 0;
            index += 1;
            if in_tables && (random.one_in(2) || entry.1 == 0) {
                rig.remove(*entry);
            } else {
                left.push(*entry);
            }
        }
        let left = Lists {
            block: left,
            allow: vec![],
        };
        check(&rig, &left, 2);
        let [passed, dropped, ..] = expected.stats;
        assert!((second_set || passed > 100) && dropped > 1000, "{passed} {dropped}");
    }
}

/// Both sets of flat tables, which begin at places of their own.
#[test]
fn flat_tables_of_either_set() {
    let block = prefixes(&["192.0.2.0/24", "192.0.2.128/25", "192.0.0.0/12", "0.0.0.1/32", "255.255.255.255/32"]);
    let lists = Lists { block, allow: vec![] };
    for second_set in [false, true] {
        let settings = Settings {
            exact: bl::IPV4,
            flat: true,
            second_set,
            ..Settings::default()
        };
        let Some(mut rig) = Rig::load(&settings, MAX_HITS) else { return };
        rig.set(&lists);
        let mut expected = Counters::default();
        for source in [
            "192.0.2.1",
            "192.0.2.200",
            "192.15.0.1",
            "192.16.0.1",
            "0.0.0.1",
            "0.0.0.2",
            "255.255.255.255",
        ] {
            let packet = v4(source);
            let outcome = judge(&packet, &settings, &lists);
            let bytes = packet.bytes();
            assert_eq!(rig.run(&bytes), verdict(outcome, &settings), "{source} {outcome:?}");
            expected.add(outcome, bytes.len());
        }
        assert_eq!(rig.counters(), expected);
        assert_eq!(expected.stats[bl::STAT_DROPPED as usize], 5);
    }
}

/// Packets of listed addresses, cut at every length: too short for the address passes, the rest is dropped.
#[test]
fn every_length() {
    let settings = Settings::default();
    let Some(mut rig) = Rig::load(&settings, MAX_HITS) else { return };
    let lists = Lists {
        block: prefixes(&["0.0.0.0/0", "::/0"]),
        allow: vec![],
    };
    rig.set(&lists);
    let solicitation = [Extension::Options(0, 0), Extension::Authentication(1), Extension::Options(60, 1)];
    let plain = [
        v4("10.0.0.1"),
        v6("2001:db8::1", &[], TCP),
        v6("fe80::1", &solicitation, Upper::Icmp6(135)),
        Packet::of(Body::Other(0x0806)),
    ];
    let mut expected = Counters::default();
    for packet in plain {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100], &[0x88a8, 0x8100, 0x8100]] {
            let whole = packet.clone().tagged(tags);
            for len in packet::ETHERNET..=whole.bytes().len() {
                let cut = Packet {
                    cut: Some(len),
                    ..whole.clone()
                };
                let outcome = judge(&cut, &settings, &lists);
                assert_eq!(rig.run(&cut.bytes()), verdict(outcome, &settings), "{cut:?}");
                expected.add(outcome, len);
            }
        }
    }
    assert_eq!(rig.counters(), expected);
}

/// With both families listed as a whole, written out by hand.
#[test]
fn what_always_passes() {
    let Some(mut rig) = Rig::load(&Settings::default(), MAX_HITS) else {
        return;
    };
    rig.set(&Lists {
        block: prefixes(&["0.0.0.0/0", "::/0"]),
        allow: vec![],
    });
    let check = |packet: Packet, expected: u32| assert_eq!(rig.run(&packet.bytes()), expected, "{packet:?}");
    for ethertype in [0x0806, 0x88cc, 0x88e5, 0x8847] {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            check(Packet::of(Body::Other(ethertype)).tagged(tags), XDP_PASS);
        }
    }
    check(v4("10.0.0.1"), XDP_DROP);
    check(v4("10.0.0.1").tagged(&[0x8100]), XDP_DROP);
    check(v4("10.0.0.1").tagged(&[0x88a8, 0x8100]), XDP_DROP);
    check(v4("10.0.0.1").tagged(&[0x88a8, 0x8100, 0x8100]), XDP_PASS);
    // Every fragment carries the addresses.
    for fragment in [0x2000, 0x2001, 0x00b9] {
        let body = Body::V4 {
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            version: 4,
            header_words: 5,
            fragment,
            proto: 6,
        };
        check(Packet::of(body), XDP_DROP);
    }
    check(v6("2001:db8::1", &[Extension::Fragment], TCP), XDP_DROP);
    for kind in 0..=255 {
        let expected = if (133..=137).contains(&kind) { XDP_PASS } else { XDP_DROP };
        let options = |count| vec![Extension::Options(0, 0); count];
        check(v6("fe80::1", &[], Upper::Icmp6(kind)), expected);
        check(v6("fe80::1", &[], Upper::Icmp6(kind)).tagged(&[0x88a8, 0x8100]), expected);
        check(v6("fe80::1", &options(8), Upper::Icmp6(kind)), expected);
        check(v6("fe80::1", &options(9), Upper::Icmp6(kind)), XDP_DROP);
        check(
            v6(
                "fe80::1",
                &[Extension::Options(43, 255), Extension::Authentication(4)],
                Upper::Icmp6(kind),
            ),
            expected,
        );
        // RFC 6980: not neighbour discovery for the receiver either.
        check(v6("fe80::1", &[Extension::Fragment], Upper::Icmp6(kind)), XDP_DROP);
    }
}

/// Protocol and ports, written out by hand: only the packets asked for are dropped.
#[test]
fn narrowed() {
    let settings = Settings {
        proto: 6,
        ports: Some((443, 444)),
        ..Settings::default()
    };
    let Some(mut rig) = Rig::load(&settings, MAX_HITS) else { return };
    rig.set(&Lists {
        block: prefixes(&["10.0.0.0/8", "2001:db8::/32"]),
        allow: vec![],
    });
    // Port 443 is 01 bb: not one byte twice, so the bytes are patched.
    let with_port = |packet: Packet, at: usize, port: u16| {
        let mut bytes = packet.bytes();
        bytes[at + 2..at + 4].copy_from_slice(&port.to_be_bytes());
        bytes
    };
    let udp = |packet: Packet| {
        let Body::V4 {
            src,
            dst,
            version,
            header_words,
            fragment,
            ..
        } = packet.body
        else {
            panic!()
        };
        Packet::of(Body::V4 {
            src,
            dst,
            version,
            header_words,
            fragment,
            proto: 17,
        })
    };
    for (port, expected) in [
        (442, XDP_PASS),
        (443, XDP_DROP),
        (444, XDP_DROP),
        (445, XDP_PASS),
        (0xbb01, XDP_PASS),
    ] {
        assert_eq!(rig.run(&with_port(v4("10.0.0.1"), 34, port)), expected, "{port}");
        assert_eq!(
            rig.run(&with_port(v4("10.0.0.1").tagged(&[0x88a8, 0x8100]), 42, port)),
            expected,
            "{port}"
        );
        assert_eq!(rig.run(&with_port(v6("2001:db8::1", &[], TCP), 54, port)), expected, "{port}");
        let behind = [Extension::Options(0, 1), Extension::Fragment, Extension::Authentication(1)];
        assert_eq!(
            rig.run(&with_port(v6("2001:db8::1", &behind, TCP), 54 + 16 + 8 + 12, port)),
            expected,
            "{port}"
        );
        // Not listed, or another protocol.
        assert_eq!(rig.run(&with_port(v4("192.0.2.1"), 34, port)), XDP_PASS);
        assert_eq!(rig.run(&with_port(udp(v4("10.0.0.1")), 34, port)), XDP_PASS);
        // A fragment behind the first has no ports, whatever its bytes look like.
        assert_eq!(
            rig.run(&with_port(v6("2001:db8::1", &[Extension::LaterFragment], TCP), 62, port)),
            XDP_PASS
        );
    }
}

/// The longest prefix counts; the allow list wins over a longer block entry; source before destination.
#[test]
fn precedence() {
    let settings = Settings {
        fields: bl::MATCH_SRC | bl::MATCH_DST,
        ..Settings::default()
    };
    let Some(mut rig) = Rig::load(&settings, MAX_HITS) else { return };
    rig.set(&Lists {
        block: prefixes(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "198.51.100.0/24", "10.9.9.9/32"]),
        allow: prefixes(&["10.9.0.0/16"]),
    });
    assert_eq!(rig.run(&v4("10.1.2.3").bytes()), XDP_DROP);
    assert_eq!(rig.run(&v4("10.1.9.9").bytes()), XDP_DROP);
    assert_eq!(rig.run(&v4("10.200.0.1").bytes()), XDP_DROP);
    assert_eq!(rig.run(&v4("192.0.2.1").bytes()), XDP_DROP);
    assert_eq!(rig.run(&v4("10.9.9.9").bytes()), XDP_PASS);
    let hit: Vec<Entry> = rig.counters().hits.into_keys().collect();
    assert_eq!(hit, prefixes(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "198.51.100.0/24"]));
}

/// A full `.hits` loses no verdict and says how much it misses.
#[test]
fn full_hits() {
    let Some(mut rig) = Rig::load(&Settings::default(), 4) else {
        return;
    };
    let block: Vec<Entry> = (0..10).map(|i| (IpAddr::from([10, 0, 0, i]), 32)).collect();
    rig.set(&Lists { block, allow: vec![] });
    for round in 1..=3 {
        for last in 0..10 {
            assert_eq!(rig.run(&v4(&format!("10.0.0.{last}")).bytes()), XDP_DROP);
        }
        let counters = rig.counters();
        assert_eq!(counters.stats[bl::STAT_DROPPED as usize], 10 * round);
        assert_eq!(counters.stats[bl::STAT_UNCOUNTED as usize], 6 * round);
        assert_eq!(counters.hits.values().map(|[packets, _]| *packets).collect::<Vec<_>>(), [round; 4]);
    }
}

/// Counters of several CPUs add up to what was sent.
#[test]
fn all_cpus_count() {
    const PACKETS: u32 = 20_000;
    let Some(mut rig) = Rig::load(&Settings::default(), MAX_HITS) else {
        return;
    };
    rig.set(&Lists {
        block: prefixes(&["10.0.0.0/8"]),
        allow: vec![],
    });
    let cpus = std::thread::available_parallelism().unwrap().get();
    let bytes = v4("10.0.0.1").bytes();
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let (rig, bytes) = (&rig, &bytes);
            scope.spawn(move || {
                // SAFETY: plain data, set up before it is used; 0 is this thread.
                unsafe {
                    let mut set: libc::cpu_set_t = std::mem::zeroed();
                    libc::CPU_SET(cpu, &mut set);
                    libc::sched_setaffinity(0, size_of_val(&set), &set);
                }
                assert_eq!(rig.run_many(bytes, PACKETS), XDP_DROP);
            });
        }
    });
    let sent = u64::from(PACKETS) * cpus as u64;
    let mut expected = Counters::default();
    expected.stats[bl::STAT_DROPPED as usize] = sent;
    expected.hits.insert(prefix("10.0.0.0/8"), [sent, sent * bytes.len() as u64]);
    assert_eq!(rig.counters(), expected);
}

/// A packet in several buffers: its bytes count as a whole.
#[test]
fn multi_buffer() {
    let Some(mut rig) = Rig::load(&Settings::default(), MAX_HITS) else {
        return;
    };
    rig.set(&Lists {
        block: prefixes(&["10.0.0.0/8"]),
        allow: vec![],
    });
    let mut bytes = v4("10.0.0.1").bytes();
    bytes.resize(9000, 0);
    assert_eq!(rig.run(&bytes), XDP_DROP);
    assert_eq!(rig.counters().hits[&prefix("10.0.0.0/8")], [1, 9000]);
}

/// Headers that are not in the first buffer, as some drivers leave them.
#[test]
fn headers_in_a_fragment() {
    // The chained program returns the length of the first buffer: shows whether the kernel does as it is asked.
    let settings = Settings {
        chain_next: true,
        ..Settings::default()
    };
    let Some(mut rig) = Rig::load(&settings, MAX_HITS) else { return };
    let linear_length = [insn::load32(0, 1, 4), insn::load32(2, 1, 0), insn::sub_reg(0, 2), insn::EXIT];
    rig.put(bl::CHAIN, 0, &rig::load_xdp(&linear_length));
    let large = |packet: Packet| Packet { payload: 5000, ..packet };
    if rig.run_short(&large(v4("192.0.2.1")).bytes(), 20) != Some(20) {
        eprintln!("skipped: this kernel's BPF_PROG_TEST_RUN cannot make a short first buffer");
        return;
    }

    let lists = Lists {
        block: prefixes(&["10.0.0.0/8", "2001:db8::/32", "fe80::/10"]),
        allow: prefixes(&["10.0.0.1/32", "2001:db8::1/128"]),
    };
    rig.set(&lists);
    let before = rig.counters();
    let mut expected = Counters {
        stats: before.stats,
        ..Counters::default()
    };
    for packet in [
        v4("10.0.0.1"),
        v4("10.0.0.2"),
        v4("192.0.2.1"),
        v4("10.0.0.2").tagged(&[0x88a8, 0x8100]),
        v6("2001:db8::1", &[], TCP),
        v6("2001:db8::2", &[], TCP),
        v6("2001:db8::2", &[], TCP).tagged(&[0x88a8, 0x8100]),
        v6("fe80::1", &[Extension::Options(0, 0)], Upper::Icmp6(135)),
        Packet::of(Body::Other(0x0806)).tagged(&[0x8100]),
    ] {
        let packet = large(packet);
        let bytes = packet.bytes();
        let outcome = judge(&packet, &settings, &lists);
        for linear in (packet::ETHERNET as u32)..80 {
            let verdict = if outcome.stat == bl::STAT_DROPPED { XDP_DROP } else { linear };
            assert_eq!(rig.run_short(&bytes, linear), Some(verdict), "first buffer {linear}: {packet:?}");
            expected.add(outcome, bytes.len());
        }
    }
    assert_eq!(rig.counters(), expected);
}

/// A program for a slot of `EVENTS`: adds one to `seen[0]`, copies the event record to `seen[1..]`, goes on as every
/// event program must.
fn event_program(rig: &Rig, seen: &OwnedFd) -> OwnedFd {
    use insn::*;
    let lookup = |map_fd| {
        [
            map(1, map_fd).as_slice(),
            &[mov_reg(2, 10), add(2, -8), call(1), jump_if(0, true, 0, 2), mov(0, 0), EXIT],
        ]
        .concat()
    };
    let mut code = vec![mov_reg(6, 1), store_imm(10, -8, 0)];
    code.extend(lookup(rig.map_fd(bl::EVENT)));
    code.push(mov_reg(7, 0));
    code.extend(lookup(seen.as_raw_fd()));
    code.extend([load(1, 0, 0), add(1, 1), store(0, 0, 1)]);
    for word in 0..4 {
        code.extend([load(1, 7, word * 8), store(0, word * 8 + 8, 1)]);
    }
    // The verdict; if it is the default, the next program first.
    code.extend([load32(8, 7, 0), jump_if(8, true, 2, 5), mov_reg(1, 6)]);
    code.extend(map(2, rig.map_fd(bl::CHAIN)));
    code.extend([mov(3, 0), call(12), mov_reg(0, 8), EXIT]);
    rig::load_xdp(&code)
}

#[test]
fn events_get_their_record() {
    for (dry_run, chain) in [(false, false), (true, false), (false, true), (true, true)] {
        let settings = Settings {
            dry_run,
            event_drop: true,
            event_allow: true,
            chain_next: chain,
            ..Settings::default()
        };
        let Some(mut rig) = Rig::load(&settings, MAX_HITS) else { return };
        rig.set(&Lists {
            block: prefixes(&["10.0.0.0/8", "2001:db8::/33"]),
            allow: prefixes(&["10.1.0.0/16", "2001:db8::8/128"]),
        });
        let seen = [rig::array(40), rig::array(40)];
        rig.put(bl::EVENTS, bl::SLOT_DROP, &event_program(&rig, &seen[0]));
        rig.put(bl::EVENTS, bl::SLOT_ALLOW, &event_program(&rig, &seen[1]));
        let next = rig::load_xdp(&[insn::mov(0, XDP_TX as i32), insn::EXIT]);
        if chain {
            rig.put(bl::CHAIN, 0, &next);
        }
        let passed = if chain { XDP_TX } else { XDP_PASS };
        let dropped = if dry_run { passed } else { XDP_DROP };

        let family_and_len = |family: u64, len: u64| family << 32 | len;
        let slot_and_verdict = |slot: u32, verdict: u32| u64::from(slot) << 32 | u64::from(verdict);
        let own = slot_and_verdict(bl::SLOT_DROP, if dry_run { XDP_PASS } else { XDP_DROP });
        assert_eq!(rig.run(&v4("10.2.3.4").bytes()), dropped);
        assert_eq!(rig::read_array(&seen[0]), [1, own, family_and_len(2, 8), 10, 0]);
        assert_eq!(rig.run(&v6("2001:db8::7", &[], TCP).bytes()), dropped);
        assert_eq!(rig::read_array(&seen[0]), [2, own, family_and_len(10, 33), 0xb80d_0120, 0]);
        assert_eq!(rig::read_array(&seen[1]), [0; 5]);

        let own = slot_and_verdict(bl::SLOT_ALLOW, XDP_PASS);
        assert_eq!(rig.run(&v4("10.1.3.4").bytes()), passed);
        assert_eq!(rig::read_array(&seen[1]), [1, own, family_and_len(2, 16), 0x010a, 0]);
        assert_eq!(rig.run(&v6("2001:db8::8", &[], TCP).bytes()), passed);
        assert_eq!(rig::read_array(&seen[1]), [2, own, family_and_len(10, 128), 0xb80d_0120, 8 << 56]);

        // No event: on no list, neighbour discovery, not IP.
        for packet in [
            v4("192.0.2.1"),
            v6("2001:db8::7", &[], Upper::Icmp6(135)),
            Packet::of(Body::Other(0x0806)),
        ] {
            assert_eq!(rig.run(&packet.bytes()), passed, "{packet:?}");
        }
        assert_eq!(rig::read_array::<5>(&seen[0])[0], 2);
        assert_eq!(rig::read_array::<5>(&seen[1])[0], 2);
        assert_eq!(rig.counters().stats, [1, 2, 2, 0, 1, 1, 0, 0]);
    }
}

/// Switched on, but nobody in the slots: the native's own verdict.
#[test]
fn empty_slots() {
    let settings = Settings {
        event_drop: true,
        event_allow: true,
        chain_next: true,
        ..Settings::default()
    };
    let Some(mut rig) = Rig::load(&settings, MAX_HITS) else { return };
    rig.set(&Lists {
        block: prefixes(&["10.0.0.0/8"]),
        allow: prefixes(&["10.1.0.0/16"]),
    });
    assert_eq!(rig.run(&v4("10.0.0.1").bytes()), XDP_DROP);
    assert_eq!(rig.run(&v4("10.1.0.1").bytes()), XDP_PASS);
    assert_eq!(rig.run(&v4("192.0.2.1").bytes()), XDP_PASS);
    // The chain goes on where an event has no program.
    rig.put(bl::CHAIN, 0, &rig::load_xdp(&[insn::mov(0, XDP_TX as i32), insn::EXIT]));
    assert_eq!(rig.run(&v4("10.0.0.1").bytes()), XDP_DROP);
    assert_eq!(rig.run(&v4("10.1.0.1").bytes()), XDP_TX);
    assert_eq!(rig.run(&v4("192.0.2.1").bytes()), XDP_TX);
}

/// The verifier sees another program for each combination of settings.
///
/// Some of them, and fewer in a virtual machine without hardware support, where loading takes long. The steps have no factor in common with
/// the numbers of choices, so that every switch is met in both positions.
#[test]
fn every_combination_of_settings_loads() {
    let step = if std::env::var_os("WEIR_TEST_VM").is_some() { 53 } else { 13 };
    let mut number = 0;
    for fields in 1..=3 {
        for (families, allow_families) in [(1, 0), (2, 0), (3, 0), (1, 2), (2, 1), (3, 3)] {
            for switches in 0..16 {
                number += 1;
                if number % step != 0 {
                    continue;
                }
                let on = |bit: u32| switches >> bit & 1 == 1;
                let narrow = fields == 3 && families == 3;
                let settings = Settings {
                    fields,
                    families,
                    allow_families,
                    dry_run: on(0),
                    event_drop: on(1),
                    event_allow: on(2),
                    chain_next: on(3),
                    // What narrows comes behind the lookups, so it need not meet every way to look up.
                    proto: if narrow { [0, 6, 1, 17][switches as usize % 4] } else { 0 },
                    ports: (narrow && on(1)).then_some((1, 2)),
                    second_set: on(3) != on(0),
                    exact: if on(2) != on(1) { families } else { 0 },
                    ..Settings::default()
                };
                if Rig::load(&settings, MAX_HITS).is_none() {
                    return;
                }
                // The verifier takes longest for those.
                if number % (step * 4) == 0 && Rig::load_tc(&settings, MAX_HITS).is_none() {
                    return;
                }
            }
        }
    }
    // With everything that scripts can ask for. To verify that takes an emulated machine seconds.
    for fields in if in_guest() { 1..=1 } else { 1..=3 } {
        let settings = Settings {
            fields,
            families: BOTH,
            allow_families: BOTH,
            proto: 17,
            ports: Some((1, 2)),
            event_drop: true,
            event_allow: true,
            exact: if fields == 2 { BOTH } else { 0 },
            second_set: fields == 2,
            ..Settings::default()
        };
        if Rig::load(&settings, MAX_HITS).is_none() || Rig::load_tc(&settings, MAX_HITS).is_none() {
            return;
        }
    }
}

/// What is switched off is not in the program that runs: the verifier takes it out.
#[test]
fn what_is_switched_off_costs_nothing() {
    let off = Settings {
        allow_families: 0,
        ..Settings::default()
    };
    let on = Settings {
        allow_families: BOTH,
        ports: Some((1, 2)),
        event_drop: true,
        event_allow: true,
        ..off
    };
    let size = |settings: &Settings| Rig::load(settings, MAX_HITS).map(|rig| rig.translated_bytes());
    let (Some(small), Some(large)) = (size(&off), size(&on)) else {
        return;
    };
    assert!(small * 5 / 4 < large, "{small} bytes without, {large} with");
}
