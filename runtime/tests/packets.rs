//! Packet blocks on a real kernel, packet by packet: `BPF_PROG_TEST_RUN` of what the compiler made, at XDP and at TC, with and
//! without the optimiser. Every sentence of the language's rules for absent values is a test here.
//! Needs the right to load programs; without it every test says so and passes.

#![allow(clippy::unwrap_used)] // A panic is the failure.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use weir_compiler::kernel::KernelInfo;
use weir_compiler::object::{MapRole, Object};
use weir_compiler::pipeline::{Options, Source, compile};
use weir_runtime::Kernel;
use weir_runtime::format::Context;
use weir_runtime::load::load;
use weir_runtime::maps::Contents;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_UNSPEC: u32 = u32::MAX;
const TC_SHOT: u32 = 2;

// ---- frames ------------------------------------------------------------------------------------

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

fn eth(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&MACS[..], &kind.to_be_bytes(), payload].concat()
}

fn vlan(tpid: u16, tci: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    eth(tpid, &[&tci.to_be_bytes()[..], &kind.to_be_bytes(), payload].concat())
}

/// IPv4 from 10.0.0.1 to 10.0.0.2 with `options` words and a fragment offset.
fn ip4(proto: u8, options: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let mut p = vec![0x45 + options, 0];
    p.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
    p.extend([0x12, 0x34]);
    p.extend(fragment.to_be_bytes());
    p.extend([64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    p.resize(header, 1);
    p.extend(payload);
    p
}

/// IPv6 from 2001:db8::1 to 2001:db8::2.
fn ip6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0];
    p.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    p.extend([next, 63]);
    for last in [1, 2] {
        p.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    p.extend(payload);
    p
}

fn tcp(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(sport.to_be_bytes());
    p.extend(dport.to_be_bytes());
    p.extend([0, 0, 0, 7, 0, 0, 0, 9, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    p
}

fn udp(sport: u16, dport: u16) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(sport.to_be_bytes());
    p.extend(dport.to_be_bytes());
    p.extend([0, 8, 0, 0]);
    p
}

fn tcp4(dport: u16) -> Vec<u8> {
    eth(0x0800, &ip4(6, 0, 0, &tcp(1000, dport, 2)))
}

fn tcp6(dport: u16) -> Vec<u8> {
    eth(0x86dd, &ip6(6, &tcp(1000, dport, 2)))
}

fn udp4(dport: u16) -> Vec<u8> {
    eth(0x0800, &ip4(17, 0, 0, &udp(1000, dport)))
}

fn arp() -> Vec<u8> {
    let mut p = vec![0, 1, 8, 0, 6, 4, 0, 1];
    p.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    eth(0x0806, &p)
}

// ---- running -----------------------------------------------------------------------------------

/// A `bpf()` attribute for `BPF_PROG_TEST_RUN`, `struct bpf_attr.test` of `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

fn test_run(prog: BorrowedFd<'_>, frame: &[u8]) -> u32 {
    const BPF_PROG_TEST_RUN: i32 = 10;
    // Both hooks refuse frames without a whole Ethernet header.
    assert!(frame.len() >= 14);
    let mut out = vec![0_u8; frame.len() + 512];
    let mut attr = TestRun {
        prog_fd: u32::try_from(prog.as_raw_fd()).unwrap(),
        data_size_in: u32::try_from(frame.len()).unwrap(),
        data_size_out: u32::try_from(out.len()).unwrap(),
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the attribute points to two live buffers of the given sizes.
    let r = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    assert_eq!(r, 0, "test run: {}", std::io::Error::last_os_error());
    attr.retval
}

/// Whether this process may load programs at all.
fn allowed() -> bool {
    // SAFETY: plain system call without pointers.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    eprintln!("skipped: loading BPF programs needs root");
    false
}

struct Result {
    verdicts: Vec<u32>,
    maps: String,
}

fn compiled(script: &str, optimise: bool) -> Object {
    let source = Source {
        name: "stdin".to_owned(),
        text: script.to_owned(),
    };
    let kernel = Kernel::new();
    let output = compile(
        &source,
        &kernel as &dyn KernelInfo,
        &Options {
            optimise,
            ..Options::default()
        },
    );
    let errors: Vec<_> = output.diagnostics.iter().filter(|d| d.is_error()).collect();
    output
        .object
        .unwrap_or_else(|| panic!("{script}\n{errors:#?}\n{:?}", output.internal))
}

/// Runs the frames through the first packet program of the script.
fn run(script: &str, frames: &[Vec<u8>]) -> Result {
    let [with, without] = [true, false].map(|optimise| run_one(script, frames, optimise));
    assert_eq!(with.verdicts, without.verdicts, "the optimiser changed the verdicts of {script}");
    assert_eq!(with.maps, without.maps, "the optimiser changed the maps of {script}");
    with
}

fn run_one(script: &str, frames: &[Vec<u8>], optimise: bool) -> Result {
    let object = compiled(script, optimise);
    let loaded = load(&object, &|_, _| None).unwrap_or_else(|e| match e {
        weir_runtime::Error::Rejected { log, .. } => panic!("{script}\n{log}"),
        other => panic!("{script}\n{other}"),
    });
    // Where there is no tcx, programs pass everything unless their owner says regularly that it lives.
    if let Some(map) = loaded.map_with(&object, |role| matches!(role, MapRole::Heartbeat)) {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one timespec.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let beat = u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap();
        weir_runtime::sys::bpf::map_update(map.fd.as_fd(), &0_u32.to_ne_bytes(), &beat.to_ne_bytes(), 0, "heartbeat").unwrap();
    }
    let verdicts = frames.iter().map(|f| test_run(loaded.programs[0].as_fd(), f)).collect();
    let mut text = Vec::new();
    let context = Context::default();
    for (spec, map) in object.maps.iter().zip(&loaded.maps) {
        if let MapRole::User { name, key, value, .. } = &spec.role {
            let mut snapshot = map.snapshot(name, key.as_ref(), value, true).unwrap();
            snapshot.sort();
            weir_runtime::format::map::text(&snapshot, 0, 1, &context, &mut text);
        }
    }
    Result {
        verdicts,
        maps: String::from_utf8(text).unwrap().split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// The same block at both hooks: `{}` in the script stands for the attach point. Returns XDP's result after checking that TC's maps
/// are the same and that both dropped the same packets.
fn both(block: &str, frames: &[Vec<u8>]) -> Result {
    let xdp = run(&format!("xdp:lo {block}"), frames);
    let tc = run(&format!("tc:lo:ingress {block}"), frames);
    assert_eq!(xdp.maps, tc.maps, "{block}");
    let dropped = |r: &Result, code| r.verdicts.iter().map(|v| *v == code).collect::<Vec<_>>();
    assert_eq!(dropped(&xdp, XDP_DROP), dropped(&tc, TC_SHOT), "{block}");
    xdp
}

fn drops(predicate: &str, frames: &[Vec<u8>]) -> Vec<bool> {
    both(&format!("/{predicate}/ {{ drop(); }}"), frames)
        .verdicts
        .iter()
        .map(|v| *v == XDP_DROP)
        .collect()
}

// ---- fields ------------------------------------------------------------------------------------

#[test]
fn the_scripts_of_the_readme() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), tcp4(80), tcp6(22), udp4(22), arp()];
    let r = run("xdp:lo /tcp.dport == 22/ { @[ip.src] = count(); drop(); }", &frames);
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_DROP, XDP_PASS, XDP_PASS]);
    assert_eq!(r.maps, "@[10.0.0.1]: 1 @[2001:db8::1]: 1");
    let r = run(
        "tc:lo:ingress /tcp.dport == 53 || udp.dport == 53/ { @dns[ip.src, port.dst] = count(); }",
        &[tcp4(53), udp4(53), udp4(53), tcp6(53), tcp4(22), arp()],
    );
    assert_eq!(r.verdicts, [TC_UNSPEC; 6]);
    assert_eq!(r.maps, "@dns[2001:db8::1, 53]: 1 @dns[10.0.0.1, 53]: 3");
}

#[test]
fn every_field_reads_its_bytes() {
    if !allowed() {
        return;
    }
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("eth.src", tcp4(1), "02:00:00:00:00:01"),
        ("eth.dst", arp(), "02:00:00:00:00:02"),
        ("eth.type", tcp6(1), "34525"),
        ("vlan.id", vlan(0x8100, 0x6123, 0x0800, &ip4(6, 0, 0, &tcp(1, 2, 0))), "291"),
        ("vlan.prio", vlan(0x8100, 0x6123, 0x0800, &[]), "3"),
        ("arp.op", arp(), "1"),
        ("arp.sip", arp(), "10.0.0.1"),
        ("arp.dip", arp(), "10.0.0.2"),
        ("arp.smac", arp(), "02:00:00:00:00:01"),
        ("ip.src", tcp4(1), "10.0.0.1"),
        ("ip.dst", tcp6(1), "2001:db8::2"),
        ("ip.version", tcp4(1), "4"),
        ("ip.version", tcp6(1), "6"),
        ("ip.proto", udp4(1), "17"),
        ("ip.proto", tcp6(1), "6"),
        ("ip.ttl", tcp4(1), "64"),
        ("ip.ttl", tcp6(1), "63"),
        ("ip.len", tcp4(1), "40"),
        ("ip.len", tcp6(1), "60"),
        ("ip.tos", tcp4(1), "0"),
        ("ip4.src", tcp4(1), "10.0.0.1"),
        ("ip4.dst", tcp4(1), "10.0.0.2"),
        ("ip4.ttl", tcp4(1), "64"),
        ("ip4.tos", tcp4(1), "0"),
        ("ip4.len", tcp4(1), "40"),
        ("ip4.id", tcp4(1), "4660"),
        ("ip4.frag", eth(0x0800, &ip4(17, 0, 7, &[0; 8])), "7"),
        ("ip4.proto", tcp4(1), "6"),
        ("ip6.src", tcp6(1), "2001:db8::1"),
        ("ip6.dst", tcp6(1), "2001:db8::2"),
        ("ip6.hop_limit", tcp6(1), "63"),
        ("ip6.flow_label", tcp6(1), "0"),
        ("tcp.sport", tcp4(443), "1000"),
        ("tcp.dport", tcp6(443), "443"),
        ("tcp.seq", tcp4(1), "7"),
        ("tcp.ack", tcp4(1), "9"),
        ("tcp.window", tcp4(1), "4096"),
        ("tcp.hdr_len", tcp4(1), "20"),
        ("tcp.flags", tcp4(1), "2"),
        ("tcp.syn", tcp4(1), "true"),
        ("tcp.flags.ack", tcp4(1), "false"),
        ("udp.sport", udp4(5), "1000"),
        ("udp.dport", udp4(5), "5"),
        ("udp.len", udp4(5), "8"),
        ("port.src", udp4(5), "1000"),
        ("port.dst", tcp6(5), "5"),
        (
            "sctp.dport",
            eth(0x0800, &ip4(132, 0, 0, &[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0])),
            "2",
        ),
        ("port.src", eth(0x0800, &ip4(132, 0, 0, &[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0])), "1"),
        ("icmp.type", eth(0x0800, &ip4(1, 0, 0, &[8, 3, 0, 0])), "8"),
        ("icmp.code", eth(0x0800, &ip4(1, 0, 0, &[8, 3, 0, 0])), "3"),
        ("icmp6.type", eth(0x86dd, &ip6(58, &[135, 1, 0, 0])), "135"),
        ("icmp6.code", eth(0x86dd, &ip6(58, &[135, 1, 0, 0])), "1"),
        ("pkt.len", tcp4(1), "54"),
        ("pkt.segs", tcp4(1), "1"),
    ];
    for (field, frame, expected) in cases {
        let r = both(&format!("{{ @[{field}] = count(); }}"), std::slice::from_ref(frame));
        assert_eq!(r.maps, format!("@[{expected}]: 1"), "{field}");
    }
    // A field that no case reads would be untested.
    for field in weir_compiler::tables::FIELDS {
        let context = matches!(
            field.kind,
            weir_compiler::tables::FieldKind::Context { .. } | weir_compiler::tables::FieldKind::Address(_)
        );
        let alias = ["tcp.f", "tcp.r", "tcp.p", "sctp.s"].iter().any(|p| field.name.starts_with(p));
        assert!(
            context || alias || cases.iter().any(|(name, ..)| *name == field.name),
            "`{}` has no case",
            field.name
        );
    }
}

#[test]
fn headers_are_found_behind_options_tags_and_extensions() {
    if !allowed() {
        return;
    }
    let t = tcp(1000, 22, 2);
    let hop = |inner: Vec<u8>| [&[6_u8, 0, 0, 0, 0, 0, 0, 0][..], &inner].concat();
    let found = [
        eth(0x0800, &ip4(6, 10, 0, &t)),
        vlan(0x8100, 5, 0x0800, &ip4(6, 0, 0, &t)),
        vlan(0x88a8, 5, 0x8100, &[&[0, 7, 8, 0][..], &ip4(6, 3, 0, &t)].concat()),
        eth(0x86dd, &ip6(0, &hop(t.clone()))),
        eth(0x86dd, &ip6(60, &[&[43_u8, 1][..], &[0; 14], &hop(t.clone())].concat())),
        // First fragment: more to come, offset 0.
        eth(0x86dd, &ip6(44, &[&[6_u8, 0, 0, 1, 0, 0, 0, 9][..], &t].concat())),
        eth(0x0800, &ip4(6, 0, 0x2000, &t)),
        // Authentication header of 12 bytes.
        eth(0x86dd, &ip6(51, &[&[6_u8, 1][..], &[0; 10], &t].concat())),
    ];
    assert!(drops("tcp.dport == 22", &found).iter().all(|d| *d));
    let missing = [
        // Later fragments have no ports, whatever their bytes look like.
        eth(0x0800, &ip4(6, 0, 0x0001, &t)),
        eth(0x86dd, &ip6(44, &[&[6_u8, 0, 0, 9, 0, 0, 0, 9][..], &t].concat())),
        // Three tags are one too many.
        vlan(0x8100, 5, 0x8100, &[&[0, 7, 0x81, 0, 0, 8, 8, 0][..], &ip4(6, 0, 0, &t)].concat()),
        // A header length below five words, a wrong version.
        eth(0x0800, &[&[0x44][..], &ip4(6, 0, 0, &t)[1..]].concat()),
        eth(0x0800, &[&[0x65][..], &ip4(6, 0, 0, &t)[1..]].concat()),
        eth(0x86dd, &ip6(17, &t)),
    ];
    assert_eq!(drops("tcp.dport == 22", &missing), vec![false; missing.len()]);
}

#[test]
fn truncated_packets_never_match_and_never_read_past_the_end() {
    if !allowed() {
        return;
    }
    for whole in [
        tcp4(22),
        tcp6(22),
        vlan(
            0x8100,
            5,
            0x86dd,
            &ip6(0, &[&[6_u8, 0, 0, 0, 0, 0, 0, 0][..], &tcp(1, 22, 0)].concat()),
        ),
    ] {
        let frames: Vec<Vec<u8>> = (14..=whole.len()).map(|n| whole[..n].to_vec()).collect();
        let verdicts = run("xdp:lo /tcp.dport == 22/ { drop(); }", &frames).verdicts;
        let expected: Vec<u32> = (14..=whole.len())
            .map(|n| if n == whole.len() { XDP_DROP } else { XDP_PASS })
            .collect();
        assert_eq!(verdicts, expected);
        // A test run at TC refuses frames that end within the IP header.
        let long = frames.into_iter().filter(|f| f.len() >= 62).collect::<Vec<_>>();
        let expected: Vec<bool> = long.iter().map(|f| f.len() == whole.len()).collect();
        assert_eq!(drops("tcp.dport == 22", &long), expected);
    }
}

#[test]
fn headers_in_fragmented_memory_are_pulled_in() {
    if !allowed() {
        return;
    }
    // At TC a test run copies frames above one page into fragments; headers stay linear there, so it is the long frame
    // itself that is tried here. Real non-linear buffers are tried with traffic.
    let mut frame = tcp4(22);
    frame.resize(3000, 7);
    assert_eq!(drops("tcp.dport == 22", &[frame]), [true]);
}

// ---- absent values -----------------------------------------------------------------------------

#[test]
fn comparison_and_in_with_an_absent_operand_are_false() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), tcp4(80), udp4(22), arp()];
    assert_eq!(drops("tcp.dport == 22", &frames), [true, false, false, false]);
    assert_eq!(drops("tcp.dport != 22", &frames), [false, true, false, false]);
    assert_eq!(drops("tcp.dport < 100", &frames), [true, true, false, false]);
    assert_eq!(drops("tcp.dport >= 0", &frames), [true, true, false, false]);
    assert_eq!(drops("tcp.dport in (22, 50-90)", &frames), [true, true, false, false]);
    assert_eq!(drops("ip.src == 10.0.0.1", &frames), [true, true, true, false]);
    assert_eq!(
        drops("ip.src in (10.0.0.0/8, \"2001:db8::/32\")", &[tcp4(1), tcp6(1), arp()]),
        [true, true, false]
    );
    assert_eq!(
        drops("ip.src in (10.0.0.1-10.0.0.9)", &[tcp4(1), tcp6(1), arp()]),
        [true, false, false]
    );
    assert_eq!(drops("ip.src in (10.0.0.2-10.0.0.9)", &[tcp4(1)]), [false]);
    assert_eq!(drops("eth.src == \"02:00:00:00:00:01\"", &frames), [true; 4]);
    assert_eq!(drops("ip6.src == \"2001:db8::1\"", &[tcp4(1), tcp6(1)]), [false, true]);
}

#[test]
fn absent_is_false_where_truth_is_asked_for() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(22), arp()];
    assert_eq!(drops("!(tcp.dport == 22)", &frames), [false, true, true]);
    assert_eq!(drops("!tcp.dport", &frames), [false, true, true]);
    assert_eq!(drops("tcp.dport || udp.dport", &frames), [true, true, false]);
    assert_eq!(drops("tcp.dport && udp.dport", &frames), [false; 3]);
    assert_eq!(drops("tcp.dport ? false : true", &frames), [false, true, true]);
    assert_eq!(drops("tcp.syn", &frames), [true, false, false]);
    assert_eq!(drops("!tcp.syn", &frames), [false, true, true]);
    assert_eq!(drops("has(tcp)", &frames), [true, false, false]);
    assert_eq!(drops("has(ip) && !has(tcp)", &frames), [false, true, false]);
    assert_eq!(drops("has(udp.dport)", &frames), [false, true, false]);
    assert_eq!(drops("has(arp)", &frames), [false, false, true]);
}

#[test]
fn conditions_take_the_other_branch() {
    if !allowed() {
        return;
    }
    let r = both(
        "{ if (tcp.dport) { @t = count(); } else { @o = count(); } while (tcp.dport) { @w = count(); break; } }",
        &[tcp4(1), udp4(1), arp()],
    );
    assert_eq!(r.maps, "@t: 1 @o: 2 @w: 1");
}

#[test]
fn operators_casts_tuples_and_keys_with_an_absent_part_are_absent() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(22), arp()];
    let r = both(
        "{ @a[tcp.dport] = count(); @b[ip.src, tcp.dport + 1] = count(); @c = sum(udp.dport * 2); @d[(uint8)tcp.dport] = count(); @e[-tcp.dport] = count(); @f[(ip.src, udp.dport)] = count(); }",
        &frames,
    );
    assert_eq!(
        r.maps,
        "@a[22]: 1 @b[10.0.0.1, 23]: 1 @c: 44 @d[22]: 1 @e[-22]: 1 @f[10.0.0.1, 22]: 1"
    );
}

#[test]
fn elvis_gives_the_other_value_for_an_absent_one() {
    if !allowed() {
        return;
    }
    // An assignment with an inner effect is skipped as a whole, and the variable is absent all the same.
    let r = both("{ $x = 7; $x = tcp.dport + @n++; @kept[$x] = count(); }", &[udp4(1)]);
    assert_eq!(r.maps, "");
    let r = both("{ @[tcp.dport ?: udp.dport ?: 7] = count(); }", &[tcp4(22), udp4(53), arp()]);
    assert_eq!(r.maps, "@[7]: 1 @[22]: 1 @[53]: 1");
}

#[test]
fn a_variable_assigned_an_absent_value_is_absent_until_assigned_again() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(53), arp()];
    let r = both(
        "{ $p = tcp.dport; @a[$p] = count(); $p = 9; @b[$p] = count(); $q = udp.dport; if (has($q)) { @c[$q] = count(); } $s = ip.src; @d[$s] = count(); }",
        &frames,
    );
    assert_eq!(r.maps, "@a[22]: 1 @b[9]: 3 @c[53]: 1 @d[10.0.0.1]: 2");
}

#[test]
fn a_simple_statement_with_an_absent_part_has_no_effect_at_all() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(53), arp()];
    // The inner `@n++` must not happen either.
    let r = both(
        "{ @x[tcp.dport, @n++] = 1; @y = tcp.dport; @z += tcp.dport; @k[tcp.dport]++; }",
        &frames,
    );
    assert_eq!(r.maps, "@x[22, 0]: 1 @n: 1 @y: 22 @z: 22 @k[22]: 1");
    let r = run("xdp:lo { return tcp.dport - 21; }", &frames);
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_PASS]);
}

#[test]
fn blocks_on_one_hook_run_in_order_and_the_first_verdict_wins() {
    if !allowed() {
        return;
    }
    let script = "xdp:lo { @a = count(); } xdp:lo /tcp.dport == 22/ { drop(); } xdp:lo { @b = count(); pass(); } xdp:lo { @c = count(); }";
    let r = run(script, &[tcp4(22), tcp4(23), arp()]);
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_PASS]);
    assert_eq!(r.maps, "@a: 3 @b: 2");
    let r = run("tc:lo:ingress { @ = count(); next(); }", &[arp()]);
    assert_eq!(r.verdicts, [TC_UNSPEC]);
    let r = run("tc:lo:ingress { return TC_ACT_SHOT; }", &[arp()]);
    assert_eq!(r.verdicts, [TC_SHOT]);
}

#[test]
fn loops_see_the_packet_and_can_decide() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(53), arp()];
    let r = both(
        "{ $p = 0; for ($i : 0..3) { @[tcp.dport, $i] = count(); @s[ip.src] = count(); if (has(udp)) { @u = count(); } $p = tcp.dport; } @p[$p] = count(); }",
        &frames,
    );
    assert_eq!(r.maps, "@[22, 0]: 1 @[22, 1]: 1 @[22, 2]: 1 @s[10.0.0.1]: 6 @u: 3 @p[22]: 1");
    let r = both("{ for ($i : 20..30) { if (tcp.dport == $i) { drop(); } @n++; } }", &frames);
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_PASS]);
    assert_eq!(r.maps, "@n: 22");
    // An absent bound: no iteration.
    let r = both("{ for ($i : 0..tcp.dport) { @n++; } }", &frames);
    assert_eq!(r.maps, "@n: 22");
}

#[test]
fn long_sets_and_files_are_searched_in_maps() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), tcp6(80), udp4(53), arp()];
    // More than are compared one by one: ports with a range, prefixes of both families, whole addresses.
    let ports: Vec<String> = (1000..1070).map(|p| p.to_string()).collect();
    assert_eq!(
        drops(&format!("port.dst in ({}, 20-30, 53)", ports.join(", ")), &frames),
        [true, false, true, false]
    );
    let prefixes: Vec<String> = (0..70).map(|i| format!("192.0.{i}.0/24")).collect();
    let prefixes = prefixes.join(", ");
    assert_eq!(
        drops(&format!("ip.src in ({prefixes}, 10.0.0.0/31)"), &frames),
        [true, false, true, false]
    );
    assert_eq!(
        drops(&format!("ip.src in ({prefixes}, \"2001:db8::/32\")"), &frames),
        [false, true, false, false]
    );
    assert_eq!(drops(&format!("ip.src in ({prefixes}, 10.0.0.0/32)"), &frames), [false; 4]);
    let addresses: Vec<String> = (0..70).map(|i| format!("192.0.2.{i}")).collect();
    assert_eq!(
        drops(&format!("ip.src in ({}, 10.0.0.1)", addresses.join(", ")), &frames),
        [true, false, true, false]
    );
    let path = std::env::temp_dir().join(format!("weir-set-{}", std::process::id()));
    std::fs::write(&path, "# bad ones\n10.0.0.0/24   # ours\n\n192.0.2.7\n").unwrap();
    let short = drops(&format!("ip.src in file(\"{}\")", path.display()), &frames);
    std::fs::write(&path, format!("{}\n10.0.0.0/24\n2001:db8::1\n", addresses.join("\n"))).unwrap();
    let long = drops(&format!("ip.src in (198.51.100.1, file(\"{}\"))", path.display()), &frames);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(short, [true, false, true, false]);
    assert_eq!(long, [true, true, true, false]);
}

#[test]
fn maps_keyed_by_prefix_find_the_longest() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), tcp6(80), udp4(53), arp()];
    let script = |body: &str| {
        format!(
            "let @p = lpm(100); xdp:lo {{ @p[10.0.0.0/8] = 1; @p[10.0.0.0/24] = 2; @p[\"2001:db8::/32\"] = 3; @p[0.0.0.0/0] = 4; {body} }}"
        )
    };
    let maps = "@p[10.0.0.0/8]: 1 @p[10.0.0.0/24]: 2 @p[2001:db8::/32]: 3 @p[0.0.0.0/0]: 4";
    let r = run(&script("@found[ip.src, @p[ip.src]] = count();"), &frames);
    assert_eq!(r.maps, format!("{maps} @found[2001:db8::1, 3]: 1 @found[10.0.0.1, 2]: 2"));
    let r = run(
        &script(
            "delete(@p, 10.0.0.0/24); delete(@p, 0.0.0.0/0); @f[@p[ip.src]] = count(); if (11.0.0.1 in @p || has_key(@p, \"2001:db9::1\")) { drop(); }",
        ),
        &frames,
    );
    assert_eq!(r.maps, "@p[10.0.0.0/8]: 1 @p[2001:db8::/32]: 3 @f[3]: 1 @f[1]: 2");
    assert_eq!(r.verdicts, [XDP_PASS; 4]);
}

#[test]
fn a_full_map_keeps_what_it_has() {
    if !allowed() {
        return;
    }
    let frames: Vec<_> = (1..20).map(tcp4).collect();
    let r = run(
        "let @m = hash(4); config = { print_maps_on_exit = true } xdp:lo { @m[tcp.dport] = 1; }",
        &frames,
    );
    assert_eq!(r.maps.matches("@m[").count(), 4);
    assert_eq!(r.verdicts, vec![XDP_PASS; frames.len()]);
}

#[test]
fn aggregations_hold_what_they_say() {
    if !allowed() {
        return;
    }
    let frames: Vec<_> = [1, 2, 4, 8, 100].map(tcp4).to_vec();
    let r = both(
        "{ @s = sum(tcp.dport); @a = avg(tcp.dport); @lo = min(tcp.dport); @hi = max(tcp.dport); @n[1] = count(); @st = stats(tcp.dport); }",
        &frames,
    );
    assert_eq!(
        r.maps,
        "@s: 115 @a: 23 @lo: 1 @hi: 100 @n[1]: 5 @st: { .count = 5, .average = 23, .total = 115 }"
    );
    let r = both("{ @h = hist(tcp.dport); }", &frames);
    for bucket in ["[1] 1 |", "[2, 4) 1 |", "[4, 8) 1 |", "[8, 16) 1 |", "[64, 128) 1 |"] {
        assert!(r.maps.contains(bucket), "{}", r.maps);
    }
    let r = both("{ @l = lhist(tcp.dport, 2, 10, 4); }", &frames);
    for bucket in ["(..., 2) 1 |", "[2, 6) 2 |", "[6, 10) 1 |", "[10, ...) 1 |"] {
        assert!(r.maps.contains(bucket), "{}", r.maps);
    }
}
