//! Whole replays: from a capture file to what is printed and written.

use crate::{portable, real, source};
use etherparse::PacketBuilder;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use weir_compiler::pipeline::{Options, compile_portable};
use weir_compiler::tables::PROVIDERS;
use weir_runtime::pcap::{LinkType, Reader, Way, Writer, WrittenPacket};
use weir_runtime::replay::{self, Engine, NoKernel};
use weir_runtime::{CaptureTarget, Output};

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
            o.write_dropped = Some(CaptureTarget::File(dropped.clone()));
            o.write_passed = Some(CaptureTarget::File(passed.clone()));
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
    let (passed, captured) = (folder.at("passed.pcapng"), folder.at("captured.pcapng"));
    let (out, _, _) = replay(
        &folder,
        &capture(&raw, LinkType::Raw),
        "xdp:a { @len[pkt.len] = count(); if (has(eth)) { @eth = count(); } } \
         xdp:a /udp.dport == 53/ { @[ip.src] = count(); ip.ttl--; capture(24); }",
        |o| {
            o.write_passed = Some(CaptureTarget::File(passed.clone()));
            o.capture = Some(CaptureTarget::File(captured.clone()));
        },
    );
    assert_eq!(out.matches("@[10.0.0.").count(), 4, "{out}");
    assert!(out.contains("@len[1048]: 4\n") && !out.contains("@eth"), "{out}");
    let mut changed = raw;
    for packet in &mut changed {
        packet[8] -= 1;
        // One less in a high byte: one more of it in the sum.
        let sum = u16::from_be_bytes([packet[10], packet[11]]);
        let (sum, carry) = sum.overflowing_add(0x100);
        packet[10..12].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    }
    let written: Vec<_> = read_all(&passed).into_iter().map(|p| p.1).collect();
    assert_eq!(written, changed);
    let bytes = std::fs::read(&captured).unwrap();
    let mut reader = Reader::new(&bytes).unwrap();
    for packet in &changed {
        let there = reader.next_packet().unwrap().unwrap();
        assert_eq!((there.link, there.data), (LinkType::Raw, &packet[..24]));
    }
}

/// What is known of the captures of real traffic, whatever their times and random numbers.
#[test]
fn real_captures_are_counted() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "http.pcap",
            "xdp:a { @[tcp.syn, tcp.flags.ack, tcp.rst] = count(); @bytes[tcp.sport == 80] = sum(tcp.payload_len); }",
            &[
                "@[true, false, false]: 3\n",
                "@[true, true, false]: 2\n",
                "@[false, true, true]: 1\n",
                "@bytes[true]: 414\n",
            ],
        ),
        (
            "dns.pcap",
            "tc:a:ingress { @q[dns.qname, dns.qtype, dns.qr] = count(); @r[dns.rcode] = count(); }",
            &[
                "@q[example.org, 1, false]: 2\n",
                "@q[www.example.org, 28, true]: 2\n",
                "@r[3]: 2\n",
                "@r[0]: 10\n",
            ],
        ),
        (
            "neighbours.pcap",
            "xdp:a { @arp[arp.op, arp.sip] = count(); @icmp[icmp.type] = count(); @icmp6[icmp6.type] = count(); }",
            &[
                "@arp[1, 10.9.0.1]: 1\n",
                "@arp[2, 10.9.0.2]: 1\n",
                "@icmp[8]: 3\n",
                "@icmp6[135]: 1\n",
                "@icmp6[129]: 3\n",
            ],
        ),
        (
            "vlan.pcap",
            "xdp:a { @[vlan.id, vlan.prio, vlan[1].id ?: 0, udp.dport] = count(); }",
            &["@[5, 0, 0, 53]: 1\n", "@[5, 3, 0, 443]: 1\n", "@[7, 0, 9, 443]: 1\n"],
        ),
        (
            "fragments.pcap",
            "xdp:a { @[ip.version] = count(); @ports[udp.dport, ip.frag] = count(); @len = sum(ip.len); }",
            &["@[4]: 3\n", "@[6]: 3\n", "@len: 8220\n"],
        ),
        (
            "cooked.pcap",
            "tc:a:ingress { @in[ip.src] = count(); } tc:a:egress { @out[ip.version, udp.dport] = count(); } xdp:a { @eth[eth.type] = count(); }",
            &["@in[10.9.0.2]: 3\n", "@in[fd09::2]: 3\n", "@out[4, 53]: 3\n", "@out[6, 53]: 3\n"],
        ),
        (
            // What is no IP, such as ARP, is a packet of which nothing is known but its length.
            "cooked2.pcap",
            "xdp:a { @n = count(); @ip[ip.version] = count(); @eth[eth.src] = count(); @arp[arp.op] = count(); }",
            &["@n: 16\n", "@ip[4]: 6\n", "@ip[6]: 8\n"],
        ),
        (
            "tun.pcap",
            "xdp:a { @[ip.src, udp.dport] = count(); @eth[eth.dst] = count(); }",
            &["@[10.8.0.1, 56]: 1\n", "@[fd08::1, 53]: 1\n"],
        ),
    ];
    for (file, script, expected) in cases {
        let folder = Folder::new("real");
        let (out, said, outcome) = replay(&folder, &std::fs::read(real(file)).unwrap(), script, |_| {});
        assert_eq!(outcome.damage, None, "{file}: {said}");
        for line in *expected {
            assert!(out.contains(line), "{file} lacks {line:?}: {out}");
        }
        assert!(!out.contains("@eth"), "{file}: there is no Ethernet header: {out}");
    }
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
    let refused = |script: &str| -> Vec<(String, String)> {
        let output = compile_portable(&source(script), &NoKernel, &Options::default()).0;
        let errors = output.diagnostics.iter().filter(|d| d.is_error());
        errors.map(|d| (d.message.clone(), d.help.join("\n"))).collect()
    };
    for provider in PROVIDERS {
        for name in [provider.name].iter().chain(provider.aliases) {
            let found = refused(&format!("{name}:a:b {{ @ = count(); }}"));
            let says = found.iter().any(|(message, help)| {
                *message == format!("`{}` cannot be replayed: a capture has packets only", provider.name)
                    && help == "a replay runs `begin`, `end`, `interval`, `xdp`, `tc`: `xdp:any { … }` sees every packet"
            });
            assert_eq!(says, !provider.replays, "{name}: {found:?}");
            assert!(provider.replays || found.len() == 1, "{name}: {found:?}");
        }
    }
    // All of them at once, each with its place.
    assert_eq!(refused("kprobe:f, xdp:a { @a = count(); } iter:task { @b = count(); }").len(), 2);
    for call in ["kaddr(\"_text\")", "cgroupid(\"/\")", "percpu_kaddr(\"runqueues\")"] {
        let name = call.split('(').next().unwrap();
        let found = refused(&format!("xdp:a {{ @ = {call}; }}"));
        assert_eq!(found[0].0, format!("`{name}` needs a kernel, and a replay has none"), "{found:?}");
    }
    assert_eq!(refused("begin { print(kstack(3)); @[ustack] = count(); }").len(), 2);
    let found = refused("xdp:a { $s = (struct sock *)1; }");
    assert_eq!(found[0].0, "a replay has no kernel, and so none of its types");
    let refuse = |script: &str| {
        let (object, code) = portable(script);
        Engine::new(&object, &code).unwrap_err().to_string()
    };
    assert!(refuse("begin { @ = cgroup; }").contains("needs the kernel (`bpf_get_current_cgroup_id`)"));
    let native = "use flows(iface=\"eth0\") as fl; fl:new { @ = count(); }";
    assert_eq!(refuse(native), "`flows` cannot be replayed: natives run in the kernel only");
}

/// Whatever the script calls them; a file that has no names leaves the field absent.
/// Of a card's programs nobody sees what they do; but they are the same code with other maps.
#[test]
fn what_a_card_counts_is_what_is_counted_elsewhere() {
    let folder = Folder::new("card");
    let frames: Vec<Vec<u8>> = (0..130u8).map(|i| udp(50 + u16::from(i % 7), i)).collect();
    let bytes = capture(&frames, LinkType::Ethernet);
    let blocks = "{ @n = count(); @len = sum(udp.len); @avg = avg(ip.ttl); @st = stats(udp.dport); @h = hist(udp.dport); @from[ip.src] = count();
          @x++; @last = udp.dport; @first = pkt.u16[12]; if (udp.dport > 54) { ip.ttl--; } if (@n > 20) { @late++; } if (@avg == 64) { @same += 2; }
          @gone = 5; if (udp.dport == 56) { delete(@gone); delete(@from, ip.src); drop(); } }
         interval:s:1 { print(@n); zero(@n); zero(@x); clear(@last); }";
    let printed = |mode: &str| replay(&folder, &bytes, &format!("xdp:a{mode} {blocks}"), |_| {});
    let ((card, said, _), (machine, ..)) = (printed(":offload"), printed(""));
    assert_eq!(card, machine);
    assert!(
        card.contains("@n: 100\n") && card.contains("@n: 30\n") && card.contains("@late: 90\n"),
        "{card}"
    );
    assert!(said.contains("130 packets") && said.contains("18 drop"), "{said}");
}

#[test]
fn interfaces_have_the_names_of_the_file() {
    let folder = Folder::new("names");
    let frames: Vec<_> = (0..6).map(|i| udp(53, i)).collect();
    let script =
        "xdp:* { @[pkt.ifname] = count(); if (!has(pkt.ifname)) { @none++; } } tc:b*:egress { @b[pkt.ifname, pkt.direction] = count(); }";
    let (out, _, _) = replay(&folder, &capture(&frames, LinkType::Ethernet), script, |_| {});
    assert!(
        out.contains("@[eth7]: 6\n") && out.contains("@b[eth7, egress]: 3\n") && !out.contains("@none"),
        "{out}"
    );
    let (out, _, _) = replay(&folder, &std::fs::read(real("http.pcap")).unwrap(), script, |_| {});
    assert!(!out.contains("@[") && out.contains("@none: "), "{out}");
    // What is sent to another interface is that: every one is there.
    let (_, said, _) = replay(
        &folder,
        &capture(&frames, LinkType::Ethernet),
        "xdp:a { redirect(\"gone\"); }",
        |_| {},
    );
    assert_eq!(said, "Replayed 6 packets: 6 XDP_REDIRECT");
}
