//! Which interfaces a script attaches to: patterns, those that come and go, other namespaces; and whom it meets there.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use weir_tests::features::{Feature, kernel_version};
use weir_tests::frame::Frame;
use weir_tests::harness::Need::{Has, Lacks};
use weir_tests::harness::Test;
use weir_tests::kernel::{self, KernelState, ProgramType};
use weir_tests::net::{Lab, NODE_IF, PEER_IF, Tun};
use weir_tests::traffic;
use weir_tests::weir::{Running, Weir, program};

pub const TESTS: &[Test] = &[
    Test::new("an_interface_that_comes_later_is_attached_to", comes_later).alone(),
    Test::new("nothing_is_left_of_a_later_interface_after_kill_9", later_and_killed).alone(),
    Test::new("interfaces_without_ethernet_start_with_ip", without_ethernet).needs(&[Has(Feature::Tun)]),
    Test::new("interfaces_that_are_tunnels_start_with_ip", tunnels).needs(&[Has(Feature::Tunnel)]),
    Test::new("interfaces_that_are_tunnels_with_many_ends_are_told", many_ends).needs(&[Has(Feature::Tunnel)]),
    Test::new("interfaces_of_wireguard_start_with_ip", wireguard).needs(&[Has(Feature::Wireguard)]),
    Test::new("a_glob_may_match_nothing_yet", nothing_yet),
    Test::new("other_namespaces_by_name_pid_and_path", namespaces),
    Test::new("a_namespace_that_goes_ends_nothing_else", namespace_goes).alone(),
    Test::new("a_foreign_xdp_program_is_named_and_stays", foreign_xdp),
    Test::new("force_takes_the_place_and_gives_it_back", force),
    Test::new("generic_xdp_that_comes_later_is_told_to_blocks_at_tc", generic_comes_later),
    Test::new("the_xdp_mode_in_force_is_printed", xdp_mode),
    Test::new("tcx_programs_run_in_the_order_asked_for", tcx_order).needs(&[Has(Feature::Tcx)]),
    Test::new("clsact_filters_have_the_priority_asked_for", clsact_priority).needs(&[Lacks(Feature::Tcx)]),
    Test::new("an_ingress_qdisc_in_the_way_is_named", ingress_qdisc).needs(&[Lacks(Feature::Tcx)]),
    Test::new("a_clsact_without_a_filter_goes_with_its_owner", empty_clsact),
    Test::new("a_missing_capability_is_named", no_net_admin),
];

fn counted(running: &mut Running, line: &str) -> Result<()> {
    running.wait_stdout(line, |text| text.lines().any(|l| l == line))
}

const EVERY_VETH: &str = "xdp:veth* /udp.dport == 5000/ { @x = count(); } tc:veth*:ingress /udp.dport == 5000/ { @t = count(); } \
                          interval:ms:50 { print(@x); print(@t); }";

fn frame() -> Frame {
    Frame::udp(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), 5000)
}

fn comes_later() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let mut weir = Weir::script(EVERY_VETH).at(&lab).start()?;
    traffic::send_frames(&lab, &[(3, frame())])?;
    counted(&mut weir, "@t: 3")?;
    lab.add_cable("veth7", "peer7")?;
    weir.wait_stderr("word of the new interface", |text| {
        text.contains("interface `veth7` appeared")
            && text.contains("`xdp:veth7` (native mode)")
            && text.contains("tc:veth7:ingress (from_pod")
    })?;
    traffic::send_frames_from(&lab.peer, "peer7", &[(4, frame())])?;
    counted(&mut weir, "@t: 7")?;
    counted(&mut weir, "@x: 7")?;
    lab.node.ip(&["link", "del", "veth7"])?;
    weir.wait_stderr("word of the interface's end", |text| {
        text.contains("interface `veth7` is gone; the other one goes on")
    })?;
    traffic::send_frames(&lab, &[(2, frame())])?;
    counted(&mut weir, "@t: 9")?;
    // The same name again is another interface.
    lab.add_cable("veth7", "peer7")?;
    weir.wait_stderr("word of the second new interface", |text| {
        text.matches("`veth7` appeared").count() == 2
    })?;
    traffic::send_frames_from(&lab.peer, "peer7", &[(1, frame())])?;
    counted(&mut weir, "@x: 10")?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@x", [("", 10)])?;
    done.expect_map("@t", [("", 10)])?;
    lab.node.ip(&["link", "del", "veth7"])?;
    before.assert_same(Some(&lab.node))
}

fn later_and_killed() -> Result<()> {
    let lab = Lab::new()?;
    let mut weir = Weir::script(EVERY_VETH).at(&lab).start()?;
    lab.add_cable("veth7", "peer7")?;
    weir.wait_stderr("word of the new interface", |text| text.contains("`veth7` appeared"))?;
    weir.end_with(Signal::SIGKILL)?.nothing_left()?;
    weir_tests::wait_for("the end of all programs on the interface", || {
        let links = lab.node.ip(&["-o", "link", "show"])?;
        let qdiscs = lab.node.tc(&["qdisc", "show"])?;
        Ok((!links.contains("prog/xdp") && !qdiscs.contains("clsact")).then_some(()))
    })
}

fn wireguard() -> Result<()> {
    let lab = Lab::new()?;
    let [node, peer] = lab.add_wireguard()?;
    let script = "tc:wg0:ingress /udp.dport == 5000/ { @in[ip.src, ip.dst] = count(); if (has(eth) || has(eth.type)) { @eth = count(); } }
         xdp:wg0:generic /udp.dport == 5000/ { @xdp[ip.src] = count(); if (has(eth)) { @eth = count(); } }
         tc:w*:egress /udp.dport == 5001/ { @out[pkt.ifname, ip.dst] = count(); if (has(eth)) { @eth = count(); } }
         interval:ms:100 { print(@in); print(@xdp); print(@out); }";
    let mut weir = Weir::script(script).at(&lab).start()?;
    // The first packets wait for the handshake.
    for (here, there) in node.into_iter().zip(peer) {
        traffic::send_udp(&lab.peer, there, (here, 5000).into(), 5)?;
        traffic::send_udp(&lab.node, here, (there, 5001).into(), 3)?;
    }
    for (here, there) in node.into_iter().zip(peer) {
        for line in [
            format!("@in[{there}, {here}]: 5"),
            format!("@xdp[{there}]: 5"),
            format!("@out[wg0, {there}]: 3"),
        ] {
            counted(&mut weir, &line)?;
        }
    }
    let done = weir.stop()?.clean()?;
    ensure!(done.map("@eth").is_empty(), "a tunnel has no Ethernet: {done}");
    Ok(())
}

fn nothing_yet() -> Result<()> {
    let lab = Lab::new()?;
    let mut weir = Weir::script("tc:later*:ingress { @ = count(); } interval:ms:50 { print(@); }")
        .at(&lab)
        .start()?;
    weir.wait_stderr("a warning", |text| {
        text.contains("no interface matches `later*` yet") && text.contains(NODE_IF)
    })?;
    lab.add_cable("later1", "peer7")?;
    weir.wait_stderr("word of the new interface", |text| text.contains("`later1` appeared"))?;
    traffic::send_frames_from(&lab.peer, "peer7", &[(5, frame())])?;
    counted(&mut weir, "@: 5")?;
    weir.stop()?.clean().map(drop)
}

fn without_ethernet() -> Result<()> {
    let lab = Lab::new()?;
    let tun = Tun::new(&lab.node, "tun0")?;
    let (net4, net6) = ("10.99.7.1/24", "fd00:99::1/64");
    lab.node.ip(&["addr", "add", net4, "dev", "tun0"])?;
    lab.node.ip(&["addr", "add", net6, "dev", "tun0", "nodad"])?;
    let (from4, from6): (Ipv4Addr, Ipv6Addr) = ("10.99.7.2".parse()?, "fd00:99::2".parse()?);
    let to4: Ipv4Addr = "10.99.7.1".parse()?;
    let to6: Ipv6Addr = "fd00:99::1".parse()?;
    // Behind the 14 bytes of Ethernet.
    let packets = [Frame::udp(from4, to4, 5000), Frame::udp(from6, to6, 5000)].map(|f| f.bytes()[14..].to_vec());
    let seen = |weir: Running| -> Result<()> {
        tun.receive(&packets[0], 5)?;
        tun.receive(&packets[1], 3)?;
        // A packet on the cable, which has Ethernet, for those who listen everywhere.
        traffic::settle(&lab)?;
        let done = weir.stop()?.clean()?;
        done.expect_map("@", [(from4.to_string(), 5), (from6.to_string(), 3)])?;
        done.expect_map("@eth", [("", 0)])
            .or_else(|_| done.expect_map("@eth", std::iter::empty::<(&str, u32)>()))
    };
    let block = "/udp.dport == 5000/ { @[ip.src] = count(); if (has(eth.type) || has(eth)) { @eth = count(); } }";
    for point in ["tc:tun0:ingress", "tc:t*:ingress", "tc:*:ingress", "xdp:tun0:generic", "xdp:tun0"] {
        seen(Weir::script(&format!("{point} {block}")).at(&lab).start()?)?;
    }
    // Drops there, and counts on both kinds of interface by one block.
    let socket = traffic::listen_udp(&lab.node, (to4, 5000).into())?;
    let weir = Weir::script("tc:*:ingress /udp.dport == 5000/ { @ = count(); if (ip.src == 10.99.7.2) { drop(); } }")
        .at(&lab)
        .start()?;
    ensure!(weir.stderr().contains("Attached 1 probe"), "{}", weir.stderr());
    tun.receive(&packets[0], 4)?;
    traffic::send_frames(&lab, &[(2, frame())])?;
    traffic::settle(&lab)?;
    weir.stop()?.clean()?.expect_map("@", [("", 6)])?;
    ensure!(traffic::received(&socket)? == 0, "dropped packets arrived");
    tun.receive(&packets[0], 1)?;
    weir_tests::wait_for("a packet after the end", || Ok((traffic::received(&socket)? == 1).then_some(())))?;
    // What the node sends.
    let weir = Weir::script("tc:tun0:egress { @[ip.dst, udp.dport] = count(); }")
        .at(&lab)
        .start()?;
    traffic::send_udp(&lab.node, to4.into(), (from4, 53).into(), 4)?;
    weir.stop()?.clean()?.expect_map("@", [(format!("{from4}, 53"), 4)])
}

/// What is outside of a tunnel's packets belongs to another interface, whatever header a kind of tunnel adds.
fn tunnels() -> Result<()> {
    let lab = Lab::new()?;
    let (outer4, outer6) = ([lab.node4().into(), lab.peer4().into()], [lab.node6().into(), lab.peer6().into()]);
    let inner4: [IpAddr; 2] = ["10.77.0.1".parse()?, "10.77.0.2".parse()?];
    let inner6: [IpAddr; 2] = ["fd77::1".parse()?, "fd77::2".parse()?];
    let kinds: [(&[&str], [IpAddr; 2], &[[IpAddr; 2]]); 5] = [
        (&["ipip"], outer4, &[inner4]),
        (&["sit"], outer4, &[inner6]),
        (&["gre"], outer4, &[inner4, inner6]),
        (&["ip6tnl", "mode", "any"], outer6, &[inner4, inner6]),
        (&["ip6gre"], outer6, &[inner4, inner6]),
    ];
    for (kind, outer, inner) in kinds {
        for (ns, [local, remote], which) in [(&lab.node, outer, 0), (&lab.peer, [outer[1], outer[0]], 1)] {
            let (local, remote) = (local.to_string(), remote.to_string());
            let make = ["link", "add", "try0", "type"];
            ns.ip(&[&make, kind, &["local", &local, "remote", &remote]].concat())?;
            for addresses in inner {
                let (length, flags) = if addresses[0].is_ipv4() {
                    (24, &[][..])
                } else {
                    (64, &["nodad"][..])
                };
                let address = format!("{}/{length}", addresses[which]);
                ns.ip(&[&["addr", "add", &address, "dev", "try0"], flags].concat())?;
            }
            ns.ip(&["link", "set", "try0", "up"])?;
        }
        let count = |map: &str| format!("@{map}[ip.src, ip.dst] = count(); if (has(eth) || has(eth.type)) {{ @eth = count(); }}");
        let script = format!(
            "tc:try0:ingress /udp.dport == 5000/ {{ {} }} tc:try0:egress /udp.dport == 5001/ {{ {} }} xdp:try0:generic /udp.dport == 5000/ {{ {} }}
             use blocklist(iface=\"try0\", hook=\"tc\", dry_run=true, audit=\"off\", prefixes=(0.0.0.0/0, \"::/0\")) as bl;
             bl:drop /udp.dport == 5000/ {{ @listed[ip.src, ip.dst] = count(); }}
             interval:ms:100 {{ print(@in); print(@xdp); print(@out); print(@listed); }}",
            count("in"),
            count("out"),
            count("xdp")
        );
        let mut weir = Weir::script(&script).at(&lab).start()?;
        for [node, peer] in inner {
            traffic::send_udp(&lab.peer, *peer, (*node, 5000).into(), 5)?;
            traffic::send_udp(&lab.node, *node, (*peer, 5001).into(), 3)?;
        }
        for [node, peer] in inner {
            for line in [
                format!("@in[{peer}, {node}]: 5"),
                format!("@xdp[{peer}, {node}]: 5"),
                format!("@listed[{peer}, {node}]: 5"),
                format!("@out[{node}, {peer}]: 3"),
            ] {
                counted(&mut weir, &line).with_context(|| format!("{kind:?}"))?;
            }
        }
        let done = weir.stop()?.clean()?;
        ensure!(done.map("@eth").is_empty(), "{kind:?} has Ethernet: {done}");
        for ns in [&lab.node, &lab.peer] {
            ns.ip(&["link", "del", "try0"])?;
        }
    }
    Ok(())
}

/// The kernel shows the outer header there, on which no rule about addresses inside may be believed to work.
fn many_ends() -> Result<()> {
    let lab = Lab::new()?;
    let (local4, remote4) = (lab.node4().to_string(), lab.peer4().to_string());
    let local6 = lab.node6().to_string();
    // ip(8) takes an address of IPv6 on the link by its bytes.
    let remote6 = lab.peer6().octets().map(|byte| format!("{byte:02x}")).join(":");
    let kinds: [(&[&str], Option<&str>); 5] = [
        (&["gre", "local", &local4], Some(&remote4)),
        (&["ip6gre", "local", &local6], Some(&remote6)),
        (&["gre", "local", &local4, "remote", &remote4], None),
        (&["gre", "external"], None),
        (&["ipip", "local", &local4], None),
    ];
    for (kind, neighbour) in kinds {
        lab.node.ip(&[&["link", "add", "try0", "type"], kind].concat())?;
        lab.node.ip(&["addr", "add", "10.78.0.1/24", "dev", "try0"])?;
        lab.node.ip(&["link", "set", "try0", "up"])?;
        let script = r#"use blocklist(iface="try0", hook="tc", direction="both", audit="off", prefixes=10.78.0.2) as bl;
                        tc:try0:egress { @[ip.proto] = count(); }"#;
        let weir = Weir::script(script).at(&lab).start()?;
        if let Some(neighbour) = neighbour {
            lab.node.ip(&[
                "neigh",
                "replace",
                "10.78.0.2",
                "lladdr",
                neighbour,
                "dev",
                "try0",
                "nud",
                "permanent",
            ])?;
            let inner: [IpAddr; 2] = ["10.78.0.1".parse()?, "10.78.0.2".parse()?];
            traffic::send_udp(&lab.node, inner[0], (inner[1], 5000).into(), 3)?;
        }
        let done = weir.stop()?;
        let told = done.stderr.matches("`try0` is a GRE tunnel without one other end").count();
        ensure!(
            done.status.success() && told == usize::from(neighbour.is_some()),
            "{kind:?}: said {told} times: {done}"
        );
        if neighbour.is_some() {
            // What is said is so.
            done.expect_entry("@", "47", 3).with_context(|| format!("{kind:?}"))?;
        }
        lab.node.ip(&["link", "del", "try0"])?;
    }
    Ok(())
}

fn namespaces() -> Result<()> {
    let lab = Lab::new()?;
    // A process to name the namespace by.
    let mut sleeper = Command::new("ip")
        .args(["netns", "exec", lab.node.name(), "sleep", "600"])
        .spawn()
        .context("cannot start a process in the namespace")?;
    let pid = sleeper.id().to_string();
    let result = (|| {
        weir_tests::wait_for("the process to be in the namespace", || {
            let of = |path: String| std::fs::metadata(path).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).ok();
            let named = of(format!("/run/netns/{}", lab.node.name()));
            Ok((named.is_some() && of(format!("/proc/{pid}/ns/net")) == named).then_some(()))
        })?;
        let path = format!("/run/netns/{}", lab.node.name());
        for netns in [lab.node.name(), &pid, &path] {
            // Not in the node: from where the test runs.
            let script = format!(
                "tc:{NODE_IF}@{netns}:ingress /udp.dport == 5000/ {{ @ = count(); }} xdp:\"{NODE_IF}@{netns}\" {{ @x = count(); }}"
            );
            let weir = Weir::script(&script).start()?;
            traffic::send_frames(&lab, &[(6, frame())])?;
            traffic::settle(&lab)?;
            let done = weir.stop()?.clean()?;
            done.expect_map("@", [("", 6)])?;
            done.expect_map("@x", [("", 7)])?;
        }
        let missing = Weir::script(&format!("xdp:veth9@{} {{ @ = count(); }}", lab.node.name())).run()?;
        missing.refused(&["no interface `veth9` in network namespace", "did you mean `veth0`?", "^"])?;
        let nowhere = format!("{}x", lab.node.name());
        let missing = Weir::script(&format!("xdp:veth0@{nowhere} {{ @ = count(); }}")).run()?;
        missing
            .refused(&[&format!("no network namespace `{nowhere}`"), "did you mean", "^"])
            .map(drop)
    })();
    sleeper.kill()?;
    sleeper.wait()?;
    result
}

fn namespace_goes() -> Result<()> {
    let lab = Lab::new()?;
    let script = format!(
        "tc:{PEER_IF}@{}:ingress {{ @p = count(); }} tc:{NODE_IF}@{}:ingress {{ @n = count(); }} interval:ms:50 {{ print(@n); }}",
        lab.peer.name(),
        lab.node.name()
    );
    let mut weir = Weir::script(&script).start()?;
    traffic::send_frames(&lab, &[(2, frame())])?;
    counted(&mut weir, "@n: 2")?;
    let Lab { node, peer, dir: _dir, .. } = lab;
    let name = peer.name().to_owned();
    drop(peer);
    weir.wait_stderr("word of the namespace", |text| {
        text.contains(&format!("network namespace `{name}` is gone"))
    })?;
    // The cable's other end, in the node, went with it: weir does not keep it alive.
    weir.wait_stderr("word of the cable", |text| {
        text.contains(&format!("interface `{NODE_IF}@{}` is gone", node.name()))
    })?;
    weir.stop()?.clean().map(drop)
}

fn foreign_xdp() -> Result<()> {
    let lab = Lab::new()?;
    let first = Weir::script("xdp:veth0 /udp.dport == 5000/ { @first = count(); }")
        .at(&lab)
        .start()?;
    let second = Weir::script("xdp:veth* { @second = count(); drop(); }").at(&lab).run()?;
    second.refused(&[
        "already has an XDP program",
        "w0_xdp",
        "weir -e xdp:veth0",
        " s ago",
        &first.pid()?.to_string(),
        "--force",
        "^",
    ])?;
    traffic::send_frames(&lab, &[(5, frame())])?;
    traffic::settle(&lab)?;
    first.stop()?.clean()?.expect_map("@first", [("", 5)])
}

/// The id of the XDP program on the node's interface.
fn xdp_id(lab: &Lab) -> Result<Option<u64>> {
    let links: serde_json::Value = serde_json::from_str(&lab.node.ip(&["-j", "-d", "link", "show", "dev", NODE_IF])?)?;
    Ok(links[0]["xdp"]["prog"]["id"].as_u64())
}

/// Attaches somebody's XDP program in generic mode to the node's interface, as `ip link set … xdp` does: without a link.
fn attach_generic(lab: &Lab, id: u32) -> Result<()> {
    let attached = Command::new("ip")
        .args(["netns", "exec", lab.node.name(), "bpftool", "net", "attach", "xdpgeneric", "id"])
        .args([&id.to_string(), "dev", NODE_IF])
        .output()
        .context("cannot start bpftool")?;
    ensure!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
    Ok(())
}

fn generic_comes_later() -> Result<()> {
    let lab = Lab::new()?;
    let theirs = kernel::load_program(ProgramType::Xdp, "their_xdp", 2)?;
    let id = kernel::program_id(&theirs)?;
    let mut weir = Weir::script("tc:veth0:ingress { @ = count(); }").at(&lab).start()?;
    let said = "`veth0` has XDP in generic mode";
    ensure!(!weir.stderr().contains(said), "there is none yet: {}", weir.stderr());
    let hides = kernel_version()? >= (6, 9);
    for _ in 0..2 {
        attach_generic(&lab, id)?;
        if hides {
            weir.wait_stderr("word of their program", |text| text.contains(said))?;
        }
        lab.node.ip(&["link", "set", "dev", NODE_IF, "xdpgeneric", "off"])?;
    }
    // What it hears of next comes behind what it has heard of both.
    lab.node.ip(&["link", "set", "dev", NODE_IF, "down"])?;
    lab.node.ip(&["link", "set", "dev", NODE_IF, "name", "veth9", "up"])?;
    weir.wait_stderr("word of the name", |text| text.contains("is called `veth9` now"))?;
    let done = weir.stop()?;
    ensure!(
        done.status.success() && done.stderr.matches(said).count() == usize::from(hides),
        "{done}"
    );
    Ok(())
}

fn force() -> Result<()> {
    let lab = Lab::new()?;
    let theirs = kernel::load_program(ProgramType::Xdp, "their_xdp", 2)?;
    let id = kernel::program_id(&theirs)?;
    attach_generic(&lab, id)?;
    ensure!(xdp_id(&lab)? == Some(u64::from(id)), "their program is not there");
    let refused = Weir::script("xdp:veth0 { @ = count(); }").at(&lab).run()?;
    refused.refused(&["their_xdp", &format!("id {id}"), "--force"])?;
    let weir = Weir::new(["--force", "-e", "xdp:veth0 /udp.dport == 5000/ { @ = count(); }"])
        .at(&lab)
        .start()?;
    ensure!(xdp_id(&lab)? != Some(u64::from(id)), "their program still runs");
    traffic::send_frames(&lab, &[(4, frame())])?;
    traffic::settle(&lab)?;
    // Their program stays, so this is not the place to ask whether everything is gone.
    let done = weir.stop()?;
    ensure!(done.status.success(), "{done}");
    done.expect_map("@", [("", 4)])?;
    for words in ["their_xdp", "put back when weir ends"] {
        ensure!(done.stderr.contains(words), "{done}");
    }
    ensure!(xdp_id(&lab)? == Some(u64::from(id)), "their program was not put back");
    Ok(())
}

fn xdp_mode() -> Result<()> {
    let lab = Lab::new()?;
    for (script, mode) in [
        ("xdp:veth0", "native"),
        ("xdp:veth0:native", "native"),
        ("xdp:veth0:generic", "generic"),
    ] {
        let done = Weir::script(&format!("{script} {{ @ = count(); }}"))
            .at(&lab)
            .start()?
            .stop()?
            .clean()?;
        ensure!(done.stderr.contains(&format!("XDP runs in {mode} mode on `veth0`")), "{done}");
    }
    // A driver without XDP of its own.
    let done = Weir::script("xdp:lo { @ = count(); }").at(&lab).start()?.stop()?.clean()?;
    for words in ["warning", "generic", "tc:lo:ingress", "XDP runs in generic mode on `lo`"] {
        ensure!(done.stderr.contains(words), "{done}");
    }
    let refused = Weir::script("xdp:lo:native { @ = count(); }").at(&lab).run()?;
    refused
        .refused(&["does not take a native XDP program", "xdp:lo:generic", "^"])
        .map(drop)
}

fn tcx_order() -> Result<()> {
    let lab = Lab::new()?;
    let passes = kernel::load_program(ProgramType::SchedCls, "their_first", -1)?;
    // TC_ACT_SHOT: what runs behind it sees nothing.
    let drops = kernel::load_program(ProgramType::SchedCls, "their_second", 2)?;
    let links = [&passes, &drops].map(|p| kernel::attach_tcx(&lab.node, NODE_IF, p));
    let _links = links.into_iter().collect::<Result<Vec<_>>>()?;
    let drops_id = kernel::program_id(&drops)?.to_string();
    let (first, second, ours) = ("their_first", "their_second", "w1_ingress");
    let script = "tc:veth0:ingress /udp.dport == 5000/ { @ = count(); } interval:ms:50 { print(@); }";
    for (switches, chain, sees) in [
        (&[][..], [first, second, ours], false),
        (&["--before", "their_second"], [first, ours, second], true),
        (&["--after", "their_first"], [first, ours, second], true),
        (&["--after", &drops_id], [first, second, ours], false),
    ] {
        let mut weir = Weir::new(switches.iter().copied().chain(["-e", script])).at(&lab).start()?;
        let found = kernel::tcx_chain(&lab.node, NODE_IF)?;
        ensure!(found == chain, "{switches:?}: the order is {found:?}, expected {chain:?}");
        traffic::send_frames(&lab, &[(3, frame())])?;
        if sees {
            counted(&mut weir, "@: 3")?;
        }
        let done = weir.stop()?.clean()?;
        let seen = done.map("@").get("").cloned().unwrap_or_default();
        ensure!(
            seen == if sees { "3" } else { "" } || (!sees && seen == "0"),
            "{switches:?}: {done}"
        );
    }
    // Several users of one script keep their order.
    let natives = "use flows(iface=\"veth0\", direction=\"ingress\", max=100) as fl; ";
    let flows = "flows_ingress";
    for (switches, chain) in [
        (["--before", "their_second"], [first, flows, "w1_ingress", second]),
        (["--after", "their_first"], [first, flows, "w1_ingress", second]),
    ] {
        let script = format!("{natives}{script}");
        let weir = Weir::new(switches.into_iter().chain(["-e", &script])).at(&lab).start()?;
        let found = kernel::tcx_chain(&lab.node, NODE_IF)?;
        ensure!(found == chain, "{switches:?}: the order is {found:?}, expected {chain:?}");
        weir.stop()?.clean()?;
    }
    let missing = Weir::new(["--before", "nobody", "-e", "tc:veth0:ingress { @ = count(); }"])
        .at(&lab)
        .run()?;
    missing.refused(&["no program `nobody`", "`their_first`", "`their_second`", "^"])?;
    let priority = Weir::new(["--priority", "5", "-e", "tc:veth0:ingress { @ = count(); }"])
        .at(&lab)
        .run()?;
    priority.refused(&["`--priority` is for the clsact filters", "--before"]).map(drop)
}

fn clsact_priority() -> Result<()> {
    let lab = Lab::new()?;
    for (switches, expected) in [(&[][..], 40000), (&["--priority", "7"], 7)] {
        let script = "tc:veth0:ingress /udp.dport == 5000/ { @ = count(); }";
        let weir = Weir::new(switches.iter().copied().chain(["-e", script])).at(&lab).start()?;
        let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, "ingress"])?;
        ensure!(filters.contains(&format!("pref {expected} bpf")), "{filters}");
        traffic::send_frames(&lab, &[(2, frame())])?;
        traffic::settle(&lab)?;
        weir.stop()?.clean()?.expect_map("@", [("", 2)])?;
    }
    let order = Weir::new(["--before", "x", "-e", "tc:veth0:ingress { @ = count(); }"])
        .at(&lab)
        .run()?;
    order.refused(&["`--before` needs tcx", "--priority"]).map(drop)
}

fn ingress_qdisc() -> Result<()> {
    let lab = Lab::new()?;
    lab.node.tc(&["qdisc", "add", "dev", NODE_IF, "ingress"])?;
    let before = lab.node.tc(&["qdisc", "show"])?;
    let refused = Weir::script("tc:veth0:egress { @ = count(); }").at(&lab).run()?;
    refused.refused(&["qdisc `ingress`", "tc qdisc del dev veth0 ingress", "^"])?;
    ensure!(lab.node.tc(&["qdisc", "show"])? == before, "the qdisc of others was touched");
    Ok(())
}

/// Killed between making the qdisc and its first filter, weir leaves a qdisc that nothing names as its own: the helper was told before.
/// It is started here as weir starts it, by an owner that is dead already.
fn empty_clsact() -> Result<()> {
    let lab = Lab::new()?;
    let index = lab.node.ip(&["-o", "link", "show", "dev", NODE_IF])?;
    let index = index.split(':').next().unwrap_or_default().trim();
    let pid_namespace = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid")?);
    for (makes, stays) in [("1", false), ("0", true)] {
        lab.node.tc(&["qdisc", "replace", "dev", NODE_IF, "clsact"])?;
        let mut helper = Command::new(program()?)
            .arg("__reap")
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start the helper")?;
        let told = format!(
            "weir:{}:1:{pid_namespace}\n{index} {NODE_IF} {makes} {}\n",
            u32::MAX / 4,
            lab.node.name()
        );
        helper.stdin.take().context("it is piped")?.write_all(told.as_bytes())?;
        ensure!(helper.wait()?.success(), "the helper failed");
        let there = lab.node.tc(&["qdisc", "show", "dev", NODE_IF])?.contains("clsact");
        ensure!(there == stays, "told {makes}: the qdisc is {}", if there { "left" } else { "gone" });
    }
    Ok(())
}

fn no_net_admin() -> Result<()> {
    let lab = Lab::new()?;
    let setpriv = Path::new("/usr/bin/setpriv");
    ensure!(setpriv.exists(), "{} is not there (package util-linux)", setpriv.display());
    let weir = program()?;
    for script in ["xdp:veth0 { @ = count(); }", "tc:veth0:ingress { @ = count(); }"] {
        let args = ["--bounding-set=-net_admin,-sys_admin", "--inh-caps=-net_admin,-sys_admin"].map(std::ffi::OsString::from);
        let args = args.into_iter().chain([weir.clone().into(), "-e".into(), script.into()]);
        Weir::new(args).program(setpriv).at(&lab).run()?.refused(&["CAP_NET_ADMIN"])?;
    }
    Ok(())
}
