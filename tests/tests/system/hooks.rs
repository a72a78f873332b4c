//! The packet hooks: what they refuse, how they attach on which kernel, what they see.

use anyhow::{Result, bail, ensure};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use weir_tests::features::Feature;
use weir_tests::frame::Frame;
use weir_tests::harness::Need::{Has, Lacks};
use weir_tests::harness::Test;
use weir_tests::kernel::{self, KernelState, Kind};
use weir_tests::net::{Lab, NODE_IF, TempDir};
use weir_tests::traffic;
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("comm_in_xdp_is_a_compile_error_that_says_why", comm_in_xdp),
    Test::new("an_unknown_interface_is_named", unknown_interface),
    Test::new("xdp_sees_through_two_vlan_tags", vlan),
    Test::new("a_limit_lets_some_packets_run_and_counts_the_rest", limit),
    Test::new("verdicts_at_tc_end_the_chain_or_pass_on", verdicts),
    Test::new("tx_sends_a_packet_back", sent_back),
    Test::new("an_object_decides_without_weir", object_alone),
    Test::new("tc_is_a_link_where_there_is_tcx", tcx).needs(&[Has(Feature::Tcx)]),
    Test::new("tc_is_clsact_where_there_is_no_tcx", clsact).needs(&[Lacks(Feature::Tcx)]),
];

/// The same on every kernel.
pub const ONCE: &[Test] = &[
    Test::new("hooks_refuse_bad_input_with_its_place_and_leave_nothing", bad_input).alone(),
    Test::new("hooks_take_100_000_prefixes_in_two_seconds", many_prefixes),
];

const TC: &str = "tc:veth0:ingress /udp.dport == 53/ { @in = count(); } tc:veth0:egress /udp.dport == 53/ { @out = count(); }";

fn comm_in_xdp() -> Result<()> {
    let lab = Lab::new()?;
    let done = Weir::script("xdp:veth0 { @[comm] = count(); }").at(&lab).run()?;
    // The name, the place, and that the process there is a bystander.
    done.refused(&["comm", "xdp", "^", "bystander"]).map(drop)
}

fn unknown_interface() -> Result<()> {
    let lab = Lab::new()?;
    Weir::script("xdp:veth9 { @ = count(); }")
        .at(&lab)
        .run()?
        .refused(&["veth9"])
        .map(drop)
}

/// What is wrong, what is right, and the place; DIR stands for a folder with files.
const BAD: &[(&str, &[&str])] = &[
    ("xdp:veht0 { drop(); }", &["there is no interface `veht0`", "did you mean `veth0`?"]),
    (
        "tc:veth0:ingress, tc:nothing1:egress { drop(); }",
        &["there is no interface `nothing1`", "`veth0`"],
    ),
    (
        "xdp:veth0 { skb.mark = 1; }",
        &["`skb.mark` is not available in an `xdp` block", "available in `tc`, `cgroup_skb`"],
    ),
    (
        "tc:veth0:ingress { @[addr.port] = count(); }",
        &["`addr.port` is not available in a `tc` block", "available in `cgroup`"],
    ),
    ("tc:veth0:ingress { ip.len = 5; }", &["`ip.len` cannot be assigned to", "`ip.ttl`"]),
    (
        "xdp:veth0 { tcp.syn = true; }",
        &["`tcp.syn` cannot be assigned to", "`tcp.flags` can"],
    ),
    (
        "tc:veth0:ingress /ip4.src == \"2001:db8::1\"/ { drop(); }",
        &["`ip4.src` is an IPv4 address, this is IPv6", "`ip6.src` or `ip.src`"],
    ),
    (
        "tc:veth0:ingress /ip.src in file(\"DIR/bad\")/ { drop(); }",
        &[
            "bad:3: expected an address, a prefix or a range, found `10.0.0.300`",
            "bad:4:",
            "write `10.0.0.0/8`",
        ],
    ),
    (
        "let @p = lpm(10, file(\"DIR/bad\")); xdp:veth0 /ip.src in @p/ { drop(); }",
        &["bad:3: `10.0.0.300` is not a prefix", "bad:4:"],
    ),
    (
        "let @p = lpm(2, file(\"DIR/three\")); xdp:veth0 /ip.src in @p/ { drop(); }",
        &["has 3 prefixes, the map holds 2", "`lpm(4, …)`"],
    ),
    (
        "xdp:veth0 /ip.src in file(\"DIR/none\")/ { drop(); }",
        &["cannot read", "none`: No such file"],
    ),
    (
        "tc:veth0:egress { redirect(\"veth9\"); }",
        &["there is no interface `veth9`", "did you mean `veth0`?"],
    ),
    (
        "tc:veth0:egress { mirror(\"vehicle\"); }",
        &["there is no interface `vehicle`", "`veth0`"],
    ),
    // The first block could be attached; it is not.
    (
        "tc:veth0:ingress { drop(); } xdp:lo:native { pass(); }",
        &["does not take a native XDP program", "xdp:lo:generic"],
    ),
];

fn bad_input() -> Result<()> {
    let lab = Lab::new()?;
    let dir = TempDir::new()?;
    dir.write("bad", "10.0.0.0/8\n# a comment\n10.0.0.300\n10.1.2.3/8\n")?;
    dir.write("three", "10.0.0.0/8\n11.0.0.0/8\n2001:db8::/32\n")?;
    let before = KernelState::now(Some(&lab.node))?;
    for (script, words) in BAD {
        let script = script.replace("DIR", &dir.path().display().to_string());
        let done = Weir::script(&script).at(&lab).run()?;
        done.refused(&[words, &["^", "stdin:1:"][..]].concat())?;
    }
    before.assert_same(Some(&lab.node))
}

/// How long it takes is asked three times: others may be busy on the machine.
fn many_prefixes() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(2);
    let lab = Lab::new()?;
    let dir = TempDir::new()?;
    let prefixes: Vec<String> = (0..100_000_u32)
        .map(|i| format!("{}.{}.{}.0/24", 20 + (i >> 16), i >> 8 & 255, i & 255))
        .collect();
    dir.write("prefixes", &prefixes.join("\n"))?;
    let list = dir.path().join("prefixes");
    let script = format!(
        "tc:veth0:ingress /ip.src in file(\"{}\")/ {{ @[ip.src] = count(); drop(); }}",
        list.display()
    );
    let mut times = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let weir = Weir::script(&script).at(&lab).start()?;
        times.push(start.elapsed());
        // The first one, the last one, one in the middle; one beside each.
        let frame = |source: [u8; 4]| Frame::udp(Ipv4Addr::from(source), lab.node4(), 5000);
        let listed = [[20, 0, 0, 1], [21, 134, 159, 255], [20, 200, 7, 9]];
        let others = [[19, 255, 255, 1], [21, 134, 160, 1]];
        traffic::send_frames(&lab, &listed.map(|s| (2, frame(s))))?;
        traffic::send_frames(&lab, &others.map(|s| (2, frame(s))))?;
        traffic::settle(&lab)?;
        let done = weir.stop()?.clean()?;
        done.expect_map("@", listed.map(|s| (Ipv4Addr::from(s).to_string(), 2)))?;
        if times.iter().any(|t| *t < LIMIT) {
            return Ok(());
        }
    }
    bail!("attached after {times:?}")
}

fn vlan() -> Result<()> {
    let lab = Lab::new()?;
    let source = Ipv4Addr::new(192, 0, 2, 9);
    let weir = Weir::script("xdp:veth0 /tcp.dport == 22/ { @[ip.src] = count(); drop(); }")
        .at(&lab)
        .start()?;
    let syn = Frame::syn(source, lab.node4(), 22);
    traffic::send_frames(&lab, &[(2, syn.clone()), (3, syn.clone().vlan(5)), (4, syn.vlan(5).vlan(6))])?;
    traffic::settle(&lab)?;
    weir.stop()?.clean()?.expect_map("@", [(source.to_string(), 2 + 3 + 4)])
}

/// Two scripts of two owners on one hook; the one that asks for it comes first.
fn verdicts() -> Result<()> {
    let lab = Lab::new()?;
    // A tcx chain runs in the order of attaching, a clsact chain by priority.
    let first: &[&str] = match kernel::query_tcx() {
        Ok(()) => &[],
        Err(_) => &["--priority", "7"],
    };
    let script = "tc:veth0:ingress /udp.dport == 5001/ { pass(); } tc:veth0:ingress /udp.dport == 5002/ { next(); } \
                  tc:veth0:ingress /udp.dport == 5003/ { drop(); } tc:veth0:ingress /udp.dport in (5001-5004)/ { @[udp.dport] = count(); }";
    let before = Weir::new(first.iter().copied().chain(["-e", script])).at(&lab).start()?;
    let behind = Weir::script("tc:veth0:ingress /udp.dport in (5001-5004)/ { @[udp.dport] = count(); }")
        .at(&lab)
        .start()?;
    let mut sockets = Vec::new();
    let mut frames = Vec::new();
    for (port, count) in (5001..).zip([2, 3, 4, 5]) {
        sockets.push(traffic::listen_udp(&lab.node, (lab.node4(), port).into())?);
        frames.push((count, Frame::udp(lab.peer4(), lab.node4(), port)));
    }
    traffic::send_frames(&lab, &frames)?;
    traffic::settle(&lab)?;
    // A verdict ends the block, and those behind it.
    before.stop()?.clean()?.expect_map("@", [("5004", 5)])?;
    behind.stop()?.clean()?.expect_map("@", [("5002", 3), ("5004", 5)])?;
    let arrived: Vec<u32> = sockets.iter().map(traffic::received).collect::<Result<_>>()?;
    ensure!(arrived == [2, 3, 0, 5], "{arrived:?} arrived");
    Ok(())
}

/// What `weir build` writes is for others to load: there is no weir that would have to be alive.
fn object_alone() -> Result<()> {
    let lab = Lab::new()?;
    Weir::new(["build", "-e", "tc:lo:ingress /udp.dport == 5001/ { drop(); }", "-o", "tc.o"])
        .at(&lab)
        .run()?
        .clean()?;
    let object = lab.dir.path().join("tc.o").display().to_string();
    lab.node.tc(&["qdisc", "add", "dev", NODE_IF, "clsact"])?;
    lab.node.classify(NODE_IF, "ingress", &[], &object)?;
    let ports = [5001, 5002];
    let listen = |port: u16| traffic::listen_udp(&lab.node, (lab.node4(), port).into());
    let sockets = ports.into_iter().map(listen).collect::<Result<Vec<_>>>()?;
    let frames = ports.map(|port| (3, Frame::udp(lab.peer4(), lab.node4(), port)));
    traffic::send_frames(&lab, &frames)?;
    traffic::settle(&lab)?;
    let arrived: Vec<u32> = sockets.iter().map(traffic::received).collect::<Result<_>>()?;
    ensure!(arrived == [0, 3], "{arrived:?} arrived");
    Ok(())
}

fn sent_back() -> Result<()> {
    const COUNT: u32 = 7;
    let lab = Lab::new()?;
    let far = Weir::script("tc:peer0:ingress /udp.dport == 5000/ { @[ip.src] = count(); }")
        .at_peer(&lab)
        .start()?;
    let weir = Weir::script("xdp:veth0:generic /udp.dport == 5000/ { @ = count(); tx(); }")
        .at(&lab)
        .start()?;
    let socket = traffic::listen_udp(&lab.node, (lab.node4(), 5000).into())?;
    traffic::send_frames(&lab, &[(COUNT, Frame::udp(lab.peer4(), lab.node4(), 5000))])?;
    traffic::settle(&lab)?;
    weir.stop()?.clean()?.expect_map("@", [("", COUNT)])?;
    far.stop()?.clean()?.expect_map("@", [(lab.peer4().to_string(), COUNT)])?;
    ensure!(traffic::received(&socket)? == 0, "what was sent back arrived, too");
    Ok(())
}

/// Each processor has its share, and frames may come on any.
fn limit() -> Result<()> {
    const FRAMES: u64 = 300;
    let lab = Lab::new()?;
    for hook in ["xdp:veth0", "tc:veth0:ingress"] {
        let script = format!("{hook} /udp.dport == 5000/ {{ @all = count(); limit(40/h) {{ @some = count(); }} }}");
        let weir = Weir::script(&script).at(&lab).start()?;
        traffic::send_frames(&lab, &[(u32::try_from(FRAMES)?, Frame::udp(lab.peer4(), lab.node4(), 5000))])?;
        traffic::settle(&lab)?;
        let done = weir.stop()?.clean()?;
        done.expect_map("@all", [("", FRAMES)])?;
        let ran: u64 = done.map("@some").get("").map_or(Ok(0), |n| n.parse())?;
        // Said every now and then while it runs.
        let words = done.stderr.split("`limit` held back ").skip(1);
        let held: u64 = words.filter_map(|w| w.split(' ').next()?.parse::<u64>().ok()).sum();
        ensure!(
            (1..=40).contains(&ran) && held == FRAMES - ran,
            "{hook}: {ran} ran, {held} were held back: {done}"
        );
    }
    Ok(())
}

/// Sends 4 datagrams in and 6 out.
fn both_ways(lab: &Lab) -> Result<()> {
    let (node, peer) = (lab.node4(), lab.peer4());
    traffic::send_udp(&lab.peer, peer.into(), (node, 53).into(), 4)?;
    traffic::send_udp(&lab.node, node.into(), (peer, 53).into(), 6)?;
    traffic::settle(lab)
}

fn tcx() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.node.tc(&["qdisc", "show", "dev", NODE_IF])?;
    let weir = Weir::script(TC).at(&lab).start()?;
    let links = weir.objects().iter().filter(|o| o.kind == Kind::Link).count();
    ensure!(links >= 2, "expected a link for each direction, found {:?}", weir.objects());
    ensure!(
        lab.node.tc(&["qdisc", "show", "dev", NODE_IF])? == before,
        "with tcx no qdisc is needed"
    );
    both_ways(&lab)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@in", [("", 4)])?;
    done.expect_map("@out", [("", 6)])
}

fn clsact() -> Result<()> {
    let lab = Lab::new()?;
    let weir = Weir::script(TC).at(&lab).start()?;
    for hook in ["ingress", "egress"] {
        let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, hook])?;
        ensure!(filters.contains("bpf") && filters.contains("direct-action"), "{hook}: `{filters}`");
        // A handle, and a name that tells whose it is.
        let owner = format!("weir:{}:", weir.pid()?);
        ensure!(filters.contains(" handle 0x") && filters.contains(&owner), "{hook}: `{filters}`");
    }
    both_ways(&lab)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@in", [("", 4)])?;
    done.expect_map("@out", [("", 6)])?;
    let after = lab.node.tc(&["qdisc", "show", "dev", NODE_IF])?;
    ensure!(!after.contains("clsact"), "the qdisc that weir made is left: `{after}`");
    Ok(())
}
