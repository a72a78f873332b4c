//! Verdicts, packets, captures and maps of a replay are those of the kernel.

use crate::compare::*;
use crate::test_run::skb_can_be;
use crate::{common, generate, real};
use weir_compiler::object::LinkLayer;
use weir_runtime::pcap::Reader;

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

/// Blocks that change packets, capture them or send them elsewhere.
const WRITING: &[&str] = &[
    "{ ip.ttl--; }",
    "/ip.ttl > 1/ { ip.ttl--; ip.tos = 184; pass(); }",
    "/tcp.dport == 443/ { ip4.dst = 10.9.8.7; tcp.dport = 8443; @nat[ip.dst, tcp.dport] = count(); }",
    "/udp.dport == 53/ { ip.src = \"2001:db8::77\"; ip.src = 192.0.2.1; udp.dport = 5353; udp.sport = ip.ttl; }",
    "{ $to = ip.dst; ip.dst = ip.src; ip.src = $to; $port = tcp.dport; tcp.dport = tcp.sport; tcp.sport = $port; }",
    "{ $mac = eth.src; eth.src = eth.dst; eth.dst = $mac; @[eth.dst] = count(); }",
    "{ vlan.id = 9; vlan.prio = 3; @[vlan.id] = count(); } ",
    "/has(tcp)/ { tcp.seq = tcp.seq + 1; tcp.ack = 0; tcp.window--; tcp.flags = 17; }",
    "/ip.ttl == 64/ { ip.ttl = 1; if (udp.dport == 80) { udp.dport = 0; drop(); } @ = count(); }",
    "/ip.version == 6/ { ip6.hop_limit = 9; ip6.tos = 3; ip6.src = ip6.dst; }",
    "/port.dst == 80/ { redirect(\"lo\"); } ",
    "{ if (ip.ttl > 64) { capture(60); ip.ttl = 64; } if (tcp.syn) { capture(2000); drop(); } }",
    "/has(udp)/ { capture(); capture(20); } ",
];

const XDP: &[&str] = &[
    "xdp:lo /tcp.syn/ { $mac = eth.src; eth.src = eth.dst; eth.dst = $mac; tx(); }",
    "xdp:lo /udp.dport == 53/ { ip.ttl--; drop(); } xdp:lo { ip.ttl--; capture(50); } xdp:lo { @ttl[ip.ttl] = count(); }",
    "xdp:lo { pkt.meta = 7; } xdp:lo { @ = count(); }",
];

const TC: &[&str] = &[
    "tc:lo:ingress /tcp.dport == 22/ { skb.mark = 5; skb.priority = 6; @[skb.mark] = count(); next(); } tc:lo:ingress { pass(); }",
    // The interface is down: the copy is lost, the packet is not.
    "tc:lo:ingress { mirror(\"lo\"); ip.ttl--; @ = count(); }",
    "tc:lo:ingress /has(arp)/ { redirect(\"lo\"); } tc:lo:ingress /has(vlan)/ { capture(); ip.ttl--; pass(); }",
];

/// The packets of all captures with, or without, an Ethernet header that the kernel's test run can take.
fn from_captures(layer: LinkLayer) -> Vec<Vec<u8>> {
    let files: &[&str] = match layer {
        LinkLayer::Ethernet => &["http", "dns", "neighbours", "vlan", "fragments"],
        LinkLayer::None => &["tun"],
    };
    let mut packets = Vec::new();
    for file in files {
        let bytes = std::fs::read(real(&format!("{file}.pcap"))).unwrap();
        let mut reader = Reader::new(&bytes).unwrap();
        while let Some(packet) = reader.next_packet().unwrap() {
            packets.push(packet.data.to_vec());
        }
    }
    packets
}

/// At both hooks: what the block is called with, and the packets that the kernel takes there.
fn everywhere(blocks: &[&str], frames: &[Vec<u8>]) -> Vec<Result> {
    let mut results = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        for (j, point) in ["xdp:lo", "tc:lo:ingress"].into_iter().enumerate() {
            // Loading is what takes long in a guest: every block at one of the hooks.
            if in_guest() && i % 2 != j {
                continue;
            }
            let mut frames = frames.to_vec();
            if point.starts_with("tc") {
                frames.retain(|f| skb_can_be(f));
            }
            let result = same(&format!("{point} {block}"), &frames, LinkLayer::Ethernet);
            assert!(!result.maps.is_empty() || !block.contains('@'), "{point} {block} counted nothing");
            let changes = frames.iter().zip(&result.packets).filter(|(a, b)| a != b).count();
            assert!(
                changes > 0 || !WRITING.contains(block) || block.contains("redirect") || !block.contains(" = ") && !block.contains("--"),
                "{point} {block} changed nothing"
            );
            results.push(result);
        }
    }
    results
}

/// On an emulated processor each takes ten times as long.
fn how_many(n: usize) -> usize {
    if in_guest() { n / 15 } else { n }
}

fn in_guest() -> bool {
    std::env::var_os("WEIR_TEST_VM").is_some()
}

/// Generated and real ones.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = generate::packets(how_many(1500));
    let real = from_captures(LinkLayer::Ethernet);
    assert!(real.len() > 50);
    frames.extend(real);
    frames
}

#[test]
fn a_replay_equals_the_kernel() {
    if !common::root() {
        return;
    }
    everywhere(BLOCKS, &frames());
}

#[test]
fn changed_packets_and_captures_equal_the_kernels() {
    if !common::root() {
        return;
    }
    let frames = frames();
    let results = everywhere(WRITING, &frames);
    let captured: usize = results.iter().map(|r| r.captures.len()).sum();
    assert!(captured > frames.len() / 4, "{captured} were captured");
    for script in XDP {
        same(script, &frames, LinkLayer::Ethernet);
    }
    let frames: Vec<_> = frames.into_iter().filter(|f| skb_can_be(f)).collect();
    for script in TC {
        same(script, &frames, LinkLayer::Ethernet);
    }
}

/// The code for interfaces without Ethernet: a pattern has it, too.
#[test]
fn packets_without_ethernet_are_replayed_as_the_kernel_sees_them() {
    if !common::root() {
        return;
    }
    let mut frames: Vec<Vec<u8>> = generate::packets(how_many(600)).iter().map(|f| f[14..].to_vec()).collect();
    // The kernel's test run takes nothing that is shorter than an Ethernet header.
    frames.retain(|f| f.len() >= 14);
    frames.extend(from_captures(LinkLayer::None));
    // It also takes the first bytes for one, and refuses what then seems to be IP without its whole header.
    frames.retain(|f| skb_can_be(f));
    // Each is two programs to load.
    for block in BLOCKS.iter().chain(WRITING).step_by(if in_guest() { 4 } else { 1 }) {
        for point in ["xdp:lo*", "tc:lo*:ingress"] {
            same(&format!("{point} {block}"), &frames, LinkLayer::None);
        }
    }
    let eth = same(
        "xdp:lo* { @ip[ip.version] = count(); @eth[eth.type] = count(); if (has(vlan)) { drop(); } }",
        &frames,
        LinkLayer::None,
    );
    assert!(eth.maps.contains("@ip[4]") && !eth.maps.contains("@eth"), "{}", eth.maps);
    assert!(eth.verdicts.iter().all(|v| *v == 2));
}

#[test]
fn declared_maps_equal_the_kernels() {
    if !common::root() {
        return;
    }
    let mut frames = generate::packets(how_many(600));
    frames.retain(|f| skb_can_be(f));
    let scripts = [
        "let @l = lpm(16); xdp:lo { @l[10.0.0.0/30] = 1; @l[10.0.0.2] = 2; @l[\"2001:db8::/64\"] = 3; @[@l[ip.src]] = count(); }",
        // Never full: which entry an LRU map drops is the kernel's business.
        "let @r = lruhash(4096); tc:lo:ingress { @r[ip.src, port.dst] = pkt.len; if (@r[ip.src, 22] > 60) { drop(); } }",
        // Full: what does not fit is refused, here as there.
        "let @f = hash(3); xdp:lo { @f[port.dst] = count(); }",
    ];
    for script in scripts {
        let result = same(script, &frames, LinkLayer::Ethernet);
        assert!(!result.maps.is_empty(), "{script} did nothing");
    }
}
