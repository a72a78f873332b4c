//! The same script on the same packets in the kernel (`BPF_PROG_TEST_RUN`) and in a replay: verdicts, packets and maps must be
//! equal. Packets are built with etherparse and then damaged: cut off anywhere, bytes changed, made of garbage.
//! Needs the right to load programs; without it every test that compares says so and passes.

#![allow(clippy::unwrap_used)] // A panic is the failure.

mod common;

use etherparse::{IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, PacketBuilder, VlanId};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use weir_compiler::clif::Code;
use weir_compiler::object::{MapRole, MapSpec, Object};
use weir_compiler::pipeline::{Options, Source, compile, compile_portable};
use weir_runtime::format::Context;
use weir_runtime::load::load;
use weir_runtime::maps::Contents;
use weir_runtime::pcap::{LinkType, Reader, Way, Writer, WrittenPacket};
use weir_runtime::replay::{self, Engine, NoKernel};
use weir_runtime::{CaptureTarget, Kernel, Output};

// ---- packets -----------------------------------------------------------------------------------

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A well-formed packet of some kind; few hosts and ports, so that maps get to count.
fn good(rng: &mut Rng) -> Vec<u8> {
    let host = rng.below(6) as u8;
    let ports = (rng.pick(&[1000, 40_000, 65_535]), rng.pick(&[22, 53, 80, 443]));
    let payload: Vec<u8> = (0..rng.pick(&[0_usize, 1, 7, 64, 700])).map(|i| i as u8).collect();
    let mut builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, host], [2, 0, 0, 0, 1, 1]);
    let vlans = rng.below(6);
    let ip_step = |rng: &mut Rng, v6: bool| {
        if v6 {
            let mut source = [0; 16];
            source[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
            source[15] = host;
            let mut header = Ipv6Header {
                source,
                destination: [0xfd; 16],
                hop_limit: rng.pick(&[1, 64, 255]),
                traffic_class: rng.below(256) as u8,
                ..Ipv6Header::default()
            };
            let mut extensions = Ipv6Extensions::default();
            if rng.below(3) == 0 {
                let offset = (rng.below(2) as u16 * 16).try_into().unwrap();
                extensions.fragment = Some(Ipv6FragmentHeader::new(IpNumber::TCP, offset, true, 7));
                header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            }
            etherparse::IpHeaders::Ipv6(header, extensions)
        } else {
            let mut header = Ipv4Header::new(0, rng.pick(&[1, 64, 255]), IpNumber::TCP, [10, 0, 0, host], [192, 168, 7, 1]).unwrap();
            header.identification = rng.below(65_536) as u16;
            header.dont_fragment = rng.below(2) == 0;
            if rng.below(4) == 0 {
                header.options = (&[7_u8, 4, 1, 0][..]).try_into().unwrap();
            }
            if rng.below(6) == 0 {
                header.fragment_offset = 100.try_into().unwrap();
            }
            etherparse::IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
    };
    let v6 = rng.below(3) == 0;
    let mut out = Vec::new();
    if rng.below(12) == 0 {
        // An ARP request, the rest of the frame as it comes.
        out.extend([0xff; 6]);
        out.extend([
            2, 0, 0, 0, 0, host, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, host, 10, 0, 0, host,
        ]);
        out.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 9]);
        return out;
    }
    if vlans == 0 {
        let builder = builder.single_vlan(VlanId::try_new(5).unwrap());
        let step = builder.ip(ip_step(rng, v6));
        step.tcp(ports.0, ports.1, 7, 4096).syn().write(&mut out, &payload).unwrap();
        return out;
    }
    if vlans == 1 {
        let builder = builder.double_vlan(VlanId::try_new(5).unwrap(), VlanId::try_new(6).unwrap());
        let step = builder.ip(ip_step(rng, v6));
        step.udp(ports.0, ports.1).write(&mut out, &payload).unwrap();
        return out;
    }
    builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, host], [2, 0, 0, 0, 1, 1]);
    let step = builder.ip(ip_step(rng, v6));
    match rng.below(6) {
        0 | 1 => step.udp(ports.0, ports.1).write(&mut out, &payload).unwrap(),
        2 if v6 => step.icmpv6_echo_request(1, 2).write(&mut out, &payload).unwrap(),
        2 => step.icmpv4_echo_request(1, 2).write(&mut out, &payload).unwrap(),
        3 => step.tcp(ports.0, ports.1, 7, 4096).ack(9).psh().write(&mut out, &payload).unwrap(),
        4 => step.tcp(ports.0, ports.1, 7, 4096).fin().write(&mut out, &payload).unwrap(),
        _ => step.tcp(ports.0, ports.1, 7, 4096).syn().write(&mut out, &payload).unwrap(),
    }
    out
}

/// A packet as it may come: most are well formed, many are not. Never shorter than an Ethernet header, which the kernel's test run
/// refuses.
fn packet(rng: &mut Rng) -> Vec<u8> {
    let mut out = good(rng);
    match rng.below(5) {
        0 => out.truncate(14 + rng.below(70) as usize),
        1 => {
            for _ in 0..=rng.below(4) {
                let at = rng.below(out.len().min(80) as u64) as usize;
                out[at] = rng.next() as u8;
            }
        }
        2 if rng.below(4) == 0 => {
            out = (0..14 + rng.below(100)).map(|_| rng.next() as u8).collect();
            let kind = rng.pick(&[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]);
            out[12..14].copy_from_slice(&kind);
        }
        _ => {}
    }
    out
}

fn packets(n: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng(0x77e1_25ee_d001);
    (0..n).map(|_| packet(&mut rng)).collect()
}

// ---- the kernel --------------------------------------------------------------------------------

/// `struct bpf_attr.test` of `include/uapi/linux/bpf.h`.
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
    rest: [u64; 6],
}

/// Whether the kernel's test run takes the frame as an skb: not an IP packet without its whole header.
fn skb_can_be(frame: &[u8]) -> bool {
    match frame[12..14] {
        [8, 0] => frame.len() >= 14 + 20,
        [0x86, 0xdd] => frame.len() >= 14 + 40,
        _ => true,
    }
}

fn test_run(prog: BorrowedFd<'_>, frame: &[u8]) -> (i32, Vec<u8>) {
    const BPF_PROG_TEST_RUN: i32 = 10;
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
    out.truncate(attr.data_size_out as usize);
    (attr.retval as i32, out)
}

#[derive(PartialEq)]
struct Result {
    verdicts: Vec<i32>,
    packets: Vec<Vec<u8>>,
    maps: String,
}

fn source(script: &str) -> Source {
    Source {
        name: "stdin".to_owned(),
        text: script.to_owned(),
    }
}

fn show<'a>(maps: impl Iterator<Item = (&'a MapSpec, &'a dyn Contents)>) -> String {
    let mut text = Vec::new();
    for (spec, map) in maps {
        if let MapRole::User { name, key, value, .. } = &spec.role {
            let mut snapshot = map.snapshot(name, key.as_ref(), value, true).unwrap();
            snapshot.sort();
            weir_runtime::format::map::text(&snapshot, 0, 1, &Context::default(), &mut text);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn in_kernel(script: &str, frames: &[Vec<u8>]) -> Result {
    let output = compile(&source(script), &Kernel::new(), &Options::default());
    let object = output.object.unwrap_or_else(|| panic!("{script}\n{:#?}", output.diagnostics));
    let loaded = load(&object, &|_, _| None).unwrap_or_else(|e| panic!("{script}\n{e}"));
    if let Some(map) = loaded.map_with(&object, |role| matches!(role, MapRole::Heartbeat)) {
        let beat = weir_runtime::sys::proc::clock_ns(libc::CLOCK_MONOTONIC);
        map.put(&0_u32.to_ne_bytes(), &beat.to_ne_bytes(), 0).unwrap();
    }
    let (verdicts, packets) = frames.iter().map(|f| test_run(loaded.programs[0].as_fd(), f)).unzip();
    let maps = object.maps.iter().zip(loaded.maps.iter().map(|m| m as &dyn Contents));
    Result {
        verdicts,
        packets,
        maps: show(maps),
    }
}

fn portable(script: &str) -> (Object, Code) {
    let (output, code) = compile_portable(&source(script), &NoKernel, &Options::default());
    let object = output.object.unwrap_or_else(|| panic!("{script}\n{:#?}", output.diagnostics));
    (object, code.unwrap())
}

fn in_replay(script: &str, frames: &[Vec<u8>]) -> Result {
    let (object, code) = portable(script);
    let (maps, mut machine) = Engine::new(&object, &code).unwrap_or_else(|e| panic!("{script}\n{e}")).into_parts();
    let mut result = Result {
        verdicts: Vec::new(),
        packets: Vec::new(),
        maps: String::new(),
    };
    for frame in frames {
        machine.state.frame.set(&[], frame, u32::try_from(frame.len()).unwrap());
        let verdict = if machine.xdp.is_empty() {
            machine.run_tc(1, true, false).unwrap()
        } else {
            machine.run_xdp(1)
        };
        result.verdicts.push(verdict);
        result.packets.push(machine.state.frame.bytes().to_vec());
    }
    result.maps = show(object.maps.iter().zip(maps.iter().map(|m| m as &dyn Contents)));
    result
}

/// Blocks that between them use every header, every kind of map and every kind of value.
const BLOCKS: &[&str] = &[
    "/tcp.dport == 443/ { drop(); }",
    "/!(tcp.dport == 22) && ip.ttl > 1/ { @[ip.src] = count(); pass(); }",
    "{ @n = count(); @bytes = sum(pkt.len); @[eth.type] = count(); }",
    "{ @[ip.src, port.dst] = count(); @low = min(ip.ttl); @high = max(ip.len); @avg = avg(pkt.len); @s = stats(ip.tos); }",
    "/has(tcp)/ { @flags[tcp.syn, tcp.fin, tcp.rst, tcp.psh] = count(); @h = hist(tcp.window); @l = lhist(pkt.len, 0, 1000, 100); }",
    "{ @[vlan.id ?: 0, vlan.prio ?: 9] = count(); if (has(vlan)) { drop(); } }",
    "/ip.src in (10.0.0.0/30, \"2001:db8::/126\")/ { @in[ip.src] = count(); drop(); }",
    "/tcp.dport in (22, 80-90, 443) || udp.dport in (53, 1000-2000)/ { @[ip.proto] = sum(ip.len); drop(); }",
    "{ @seen[ip.src] = pkt.len; if (@seen[ip.dst] > 100) { drop(); } @last = ip.dst; @x += ip.ttl; @y++; }",
    "{ $a = ip.ttl / (tcp.window % 3); $b = (int64)ip.ttl % (int64)(tcp.hdr_len - 20); @[$a, $b] = count(); }",
    "/arp.op == 1/ { @arp[arp.sip, arp.dip] = count(); drop(); }",
    "/icmp.type == 8 || icmp6.type == 128/ { @icmp[ip.version] = count(); drop(); }",
    "{ for $i : 0..4 { if ($i == ip.ttl % 5) { @loop[$i] = count(); } if ($i == 3 && has(udp)) { drop(); } } }",
    "{ @m[eth.src] = 1; if (@m[eth.dst]) { drop(); } delete(@m, eth.dst); @size = len(@m); }",
];

#[test]
fn a_replay_equals_the_kernel() {
    if !common::root() {
        return;
    }
    // An emulated processor takes ten times as long for each.
    let all = packets(if std::env::var_os("WEIR_TEST_VM").is_some() { 150 } else { 1500 });
    for block in BLOCKS {
        for point in ["xdp:lo", "tc:lo:ingress"] {
            let mut frames = all.clone();
            if point.starts_with("tc") {
                frames.retain(|f| skb_can_be(f));
            }
            let script = format!("{point} {block}");
            let (kernel, replay) = (in_kernel(&script, &frames), in_replay(&script, &frames));
            for (i, frame) in frames.iter().enumerate() {
                assert_eq!(kernel.verdicts[i], replay.verdicts[i], "{script}\npacket {i}: {frame:02x?}");
                assert!(kernel.packets[i] == replay.packets[i], "{script}\npacket {i}: {frame:02x?}");
            }
            assert_eq!(kernel.maps, replay.maps, "{script}");
            assert!(!kernel.maps.is_empty() || block.contains("drop"), "{script} did nothing");
        }
    }
}

#[test]
fn declared_maps_equal_the_kernels() {
    if !common::root() {
        return;
    }
    let mut frames = packets(600);
    frames.retain(|f| skb_can_be(f));
    let scripts = [
        "let @l = lpm(16); xdp:lo { @l[10.0.0.0/30] = 1; @l[10.0.0.2] = 2; @l[\"2001:db8::/64\"] = 3; @[@l[ip.src]] = count(); }",
        // Never full: which entry an LRU map drops is the kernel's business.
        "let @r = lruhash(4096); tc:lo:ingress { @r[ip.src, port.dst] = pkt.len; if (@r[ip.src, 22] > 60) { drop(); } }",
        // Full: what does not fit is refused, here as there.
        "let @f = hash(3); xdp:lo { @f[port.dst] = count(); }",
    ];
    for script in scripts {
        let (kernel, replay) = (in_kernel(script, &frames), in_replay(script, &frames));
        assert_eq!(kernel.verdicts, replay.verdicts, "{script}");
        assert_eq!(kernel.maps, replay.maps, "{script}");
        assert!(!kernel.maps.is_empty(), "{script} did nothing");
    }
}

// ---- whole replays -----------------------------------------------------------------------------

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-replay-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A capture of these packets, one every 10 ms from second 1000 on, by turns coming in and going out.
fn capture(frames: &[Vec<u8>], link: LinkType) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    let interface = writer.interface("eth7", link, 0).unwrap();
    for (i, frame) in frames.iter().enumerate() {
        writer
            .packet(&WrittenPacket {
                interface,
                time_ns: 1_000_000_000_000 + 10_000_000 * i as u64,
                data: frame,
                length: u32::try_from(frame.len()).unwrap() + 1000,
                way: Some(if i % 2 == 0 { Way::In } else { Way::Out }),
                verdict: None,
                comment: "",
            })
            .unwrap();
    }
    writer.into_inner()
}

/// Replays a capture. Returns what was printed, what was said, and how it ended.
fn replay(folder: &Folder, bytes: &[u8], script: &str, change: impl FnOnce(&mut replay::Options)) -> (String, String, replay::Outcome) {
    let (file, out) = (folder.at("in.pcapng"), folder.at("out.txt"));
    std::fs::write(&file, bytes).unwrap();
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&said);
    let mut options = replay::Options {
        output: Output::File(out.clone()),
        observer: Arc::new(move |n: &weir_runtime::Notice| heard.lock().unwrap().push(n.to_string())),
        ..replay::Options::default()
    };
    change(&mut options);
    let (object, code) = portable(script);
    let outcome = replay::run(object, &code, &file, &options).unwrap();
    let said = said.lock().unwrap().join("\n");
    (std::fs::read_to_string(&out).unwrap(), said, outcome)
}

fn udp(dport: u16, last: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [3; 6]).ipv4([10, 0, 0, last], [10, 0, 0, 99], 64);
    step.udp(7, dport).write(&mut out, &[0; 20]).unwrap();
    out
}

/// Time, bytes, length on the wire, direction, name of the interface.
type Seen = (u64, Vec<u8>, u32, Option<Way>, Option<String>);

fn read_all(path: &Path) -> Vec<Seen> {
    let bytes = std::fs::read(path).unwrap();
    let mut reader = Reader::new(&bytes).unwrap();
    let mut all = Vec::new();
    while let Some(p) = reader.next_packet().unwrap() {
        let name = reader.interface_name(p.interface).map(str::to_owned);
        all.push((p.time_ns, p.data.to_vec(), p.length, p.way, name));
    }
    all
}

#[test]
fn blocks_run_on_the_time_of_the_packets() {
    let folder = Folder::new("time");
    let frames: Vec<_> = (0..100).map(|i| udp(if i < 10 { 53 } else { 80 }, i % 3)).collect();
    let script = "begin { @t = nsecs; } xdp:any0 { @n = count(); } \
                  interval:ms:250 { printf(\"%d packets by %d\\n\", @n, (nsecs - @t) / 1000000); } \
                  end { printf(\"the end\\n\"); clear(@t); }";
    let (out, said, outcome) = replay(&folder, &capture(&frames, LinkType::Ethernet), script, |_| {});
    // 99 steps of 10 ms; the packet at 250 ms comes after the block.
    let lines: Vec<&str> = out.lines().filter(|l| !l.is_empty()).collect();
    assert_eq!(
        lines,
        ["25 packets by 250", "50 packets by 500", "75 packets by 750", "the end", "@n: 100"]
    );
    assert_eq!(said, "Replayed 100 packets: 100 pass");
    assert_eq!((outcome.code, outcome.damage), (0, None));
}

#[test]
fn directions_select_blocks_and_exit_ends() {
    let folder = Folder::new("ways");
    let frames: Vec<_> = (0..10).map(|i| udp(53, i)).collect();
    let both = "tc:a:ingress { @in[ip.src] = count(); } tc:a:egress { @out = count(); drop(); } \
                xdp:a { @len = max(pkt.len); if (@len == 1) { tx(); } }";
    let (out, said, _) = replay(&folder, &capture(&frames, LinkType::Ethernet), both, |_| {});
    assert!(out.contains("@out: 5\n") && out.matches("@in[").count() == 5, "{out}");
    // What is on the wire counts, not what was captured.
    assert!(out.contains(&format!("@len: {}\n", frames[0].len() + 1000)), "{out}");
    assert_eq!(said, "Replayed 10 packets: xdp 10 pass; tc 5 next, 5 drop");
    let (out, _, outcome) = replay(
        &folder,
        &capture(&frames, LinkType::Ethernet),
        "xdp:a { @n++; if (@n == 3) { exit(7); } }",
        |_| {},
    );
    assert!(out.contains("@n: 3\n"), "{out}");
    assert_eq!(outcome.code, 7);
}

#[test]
fn dropped_and_passed_packets_are_written() {
    let folder = Folder::new("write");
    let frames: Vec<_> = (0..10).map(|i| udp(if i % 5 == 0 { 53 } else { 80 }, i)).collect();
    let (dropped, passed) = (folder.at("dropped.pcapng"), folder.at("passed.pcapng"));
    replay(
        &folder,
        &capture(&frames, LinkType::Ethernet),
        "xdp:a /udp.dport == 53/ { drop(); }",
        |o| {
            o.write_dropped = Some(dropped.clone());
            o.write_passed = Some(passed.clone());
        },
    );
    let (dropped, passed) = (read_all(&dropped), read_all(&passed));
    assert_eq!((dropped.len(), passed.len()), (2, 8));
    assert_eq!(
        dropped[1],
        (
            1_000_050_000_000,
            frames[5].clone(),
            frames[5].len() as u32 + 1000,
            Some(Way::Out),
            Some("eth7".to_owned())
        )
    );
}

#[test]
fn a_packet_is_captured_once_with_its_verdict() {
    let folder = Folder::new("capture");
    let frames: Vec<_> = (0..10).map(|i| udp(if i % 5 == 0 { 53 } else { 80 }, i)).collect();
    let target = folder.at("captured.pcapng");
    let script =
        "xdp:a /ip.src == 10.0.0.5 || udp.dport == 80/ { capture(20); capture(30); capture(10); } xdp:a /udp.dport == 53/ { drop(); }";
    replay(&folder, &capture(&frames, LinkType::Ethernet), script, |o| {
        o.capture = Some(CaptureTarget::File(target.clone()));
    });
    let all = read_all(&target);
    assert_eq!(all.len(), 9);
    for (i, (time, data, length, way, name)) in all.iter().enumerate() {
        let frame = &frames[i + 1];
        assert_eq!(*time, 1_000_000_000_000 + 10_000_000 * (i as u64 + 1));
        assert_eq!((data.as_slice(), *length), (&frame[..30], frame.len() as u32 + 1000));
        assert_eq!((*way, name.as_deref()), (Some(Way::In), Some("eth7")));
    }
    let bytes = std::fs::read(&target).unwrap();
    let count = |word: &[u8]| bytes.windows(word.len()).filter(|w| *w == word).count();
    assert_eq!((count(b"drop"), count(b"pass")), (1, 8));
}

#[test]
fn packets_without_ethernet_are_read_and_written_as_they_came() {
    let folder = Folder::new("raw");
    let raw: Vec<_> = (0..4).map(|i| udp(53, i)[14..].to_vec()).collect();
    let passed = folder.at("passed.pcapng");
    let (out, _, _) = replay(
        &folder,
        &capture(&raw, LinkType::Raw),
        "xdp:a /udp.dport == 53/ { @[ip.src] = count(); }",
        |o| o.write_passed = Some(passed.clone()),
    );
    assert_eq!(out.matches("@[10.0.0.").count(), 4, "{out}");
    let written: Vec<_> = read_all(&passed).into_iter().map(|p| p.1).collect();
    assert_eq!(written, raw);
}

#[test]
fn what_was_read_before_the_damage_is_printed() {
    let folder = Folder::new("damage");
    let frames: Vec<_> = (0..10).map(|i| udp(53, i)).collect();
    let bytes = capture(&frames, LinkType::Ethernet);
    let (out, _, outcome) = replay(&folder, &bytes[..bytes.len() - 5], "xdp:a { @n = count(); }", |_| {});
    assert!(out.contains("@n: 9\n"), "{out}");
    assert!(outcome.damage.is_some_and(|d| d.truncated));
}

#[test]
fn what_needs_a_kernel_is_refused_by_name() {
    let refuse = |script: &str| {
        let (object, code) = portable(script);
        Engine::new(&object, &code).unwrap_err().to_string()
    };
    assert!(refuse("profile:hz:99 { @ = count(); }").contains("cannot be replayed"));
    assert!(refuse("begin { @ = cgroup; }").contains("needs the kernel (`bpf_get_current_cgroup_id`)"));
}
