//! Several users of one hook in one script: natives and blocks, each with what the ones before it let through.

use anyhow::{Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use weir_tests::frame::Frame;
use weir_tests::harness::Test;
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::traffic;
use weir_tests::weir::{Finished, Weir};

pub const TESTS: &[Test] = &[
    Test::new("chain_two_blocklists_flows_and_a_block_on_one_interface", one_interface),
    Test::new("chain_of_patterns_that_overlap_in_part", patterns),
    Test::new("chain_at_tc_lets_every_user_see_what_was_not_dropped", at_tc),
    Test::new("chain_of_two_modes_or_with_a_name_behind_is_refused", refused),
];

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const THIRD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn frames(to: Ipv4Addr, counts: [u32; 3]) -> Vec<(u32, Frame)> {
    let sources = [FIRST, SECOND, THIRD].map(|from| Frame::udp(from, to, 5000));
    counts.into_iter().zip(sources).collect()
}

/// What a native has counted of the test's frames: its other packet is that of `settle`, which belongs to nobody's list.
fn stat(done: &Finished, map: &str, name: &str) -> u64 {
    done.map(map).get(name).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A row of `@fl.flows` by what its key has in it.
fn packets(done: &Finished, map: &str, source: Ipv4Addr) -> u64 {
    let rows = done.map(map);
    let row = rows.iter().find(|(key, _)| key.contains(&format!("{source}:")));
    let packets = row.and_then(|(_, row)| row.split(".packets = ").nth(1)?.split([',']).next()?.parse().ok());
    packets.unwrap_or(0)
}

fn one_interface() -> Result<()> {
    let lab = Lab::new()?;
    let socket = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), 5000))?;
    let natives = format!(
        r#"use blocklist(iface="{NODE_IF}", audit="off", prefixes=192.0.2.0/24) as a;
        use blocklist(iface="{NODE_IF}", audit="off", prefixes=198.51.100.0/24) as b;
        use flows(iface="{NODE_IF}", hook="xdp", max=1000) as fl;"#
    );
    let blocks = format!(
        "xdp:{NODE_IF} /udp.dport == 5000/ {{ @[ip.src] = count(); }}
        xdp:{NODE_IF} /ip.src == {THIRD}/ {{ @last = count(); drop(); }}
        a:drop {{ @by_a[ip.src] = count(); }} b:drop {{ @by_b[ip.src] = count(); }} end {{ print(@fl.flows); }}"
    );
    let weir = Weir::script(&format!("{natives} {blocks}")).at(&lab).start()?;
    traffic::send_frames(&lab, &frames(lab.node4(), [5, 7, 11]))?;
    traffic::send_frames(&lab, &[(3, Frame::udp(lab.peer4(), lab.node4(), 5000))])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    ensure!(traffic::received(&socket)? == 3, "the verdicts are not those of the chain: {done}");
    done.expect_map("@", [(THIRD.to_string(), 11), (lab.peer4().to_string(), 3)])?;
    done.expect_entry("@last", "", 11)?;
    done.expect_map("@by_a", [(FIRST.to_string(), 5)])?;
    done.expect_map("@by_b", [(SECOND.to_string(), 7)])?;
    ensure!(
        stat(&done, "@a.stats", "dropped") == 5 && stat(&done, "@b.stats", "dropped") == 7,
        "{done}"
    );
    // What the first one drops, the second one never sees; the packet of `settle` passes both.
    ensure!(stat(&done, "@a.stats", "passed") == 7 + 11 + 3 + 1, "{done}");
    ensure!(stat(&done, "@b.stats", "passed") == 11 + 3 + 1, "{done}");
    let flows = [FIRST, SECOND, THIRD].map(|source| packets(&done, "@fl.flows", source));
    ensure!(flows == [0, 0, 11], "{flows:?}: {done}");
    // A dry run, and an event with a block, let the packet go on with the chain.
    let natives = natives.replacen("prefixes", "dry_run=true, prefixes", 1);
    let weir = Weir::script(&format!("{natives} {blocks}")).at(&lab).start()?;
    traffic::send_frames(&lab, &frames(lab.node4(), [5, 7, 11]))?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    ensure!(traffic::received(&socket)? == 5, "a dry run has dropped: {done}");
    done.expect_map("@", [(FIRST.to_string(), 5), (THIRD.to_string(), 11)])?;
    done.expect_map("@by_a", [(FIRST.to_string(), 5)])
}

/// Natives and blocks each on some of the interfaces, those that come later among them.
fn patterns() -> Result<()> {
    let lab = Lab::new()?;
    lab.add_cable("veth5", "peer5")?;
    let script = format!(
        r#"use blocklist(iface="veth*", audit="off", prefixes=192.0.2.0/24) as a;
        use blocklist(iface="veth5", audit="off", prefixes=198.51.100.0/24) as b;
        xdp:{NODE_IF} /udp.dport == 5000/ {{ @one[ip.src] = count(); }}
        xdp:* /udp.dport == 5000/ {{ @all[pkt.ifname, ip.src] = count(); }}
        a:drop {{ @by_a[ip.src] = count(); }} b:drop {{ @by_b[ip.src] = count(); }}
        interval:ms:50 {{ print(@all); }}"#
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    lab.add_cable("veth7", "peer7")?;
    weir.wait_stderr("word of the new interface", |text| text.contains("interface `veth7` appeared"))?;
    lab.add_cable("other1", "peer8")?;
    weir.wait_stderr("word of the other interface", |text| text.contains("interface `other1` appeared"))?;
    let to = lab.node4();
    traffic::send_frames(&lab, &frames(to, [1, 2, 3]))?;
    for (peer, counts) in [("peer5", [4, 5, 6]), ("peer7", [7, 8, 9]), ("peer8", [10, 11, 12])] {
        traffic::send_frames_from(&lab.peer, peer, &frames(to, counts))?;
    }
    weir.wait_stdout("the last packet", |text| text.contains(&format!("@all[other1, {THIRD}]: 12")))?;
    // One that goes takes nothing from the others, and one of its name again is another one.
    lab.node.ip(&["link", "del", "veth5"])?;
    weir.wait_stderr("word of the interface's end", |text| text.contains("interface `veth5` is gone"))?;
    lab.add_cable("veth5", "peer5")?;
    weir.wait_stderr("word of the interface's return", |text| text.contains("interface `veth5` appeared"))?;
    traffic::send_frames_from(&lab.peer, "peer5", &frames(to, [1, 1, 1]))?;
    traffic::send_frames(&lab, &frames(to, [1, 1, 1]))?;
    weir.wait_stdout("the packets after that", |text| {
        text.contains(&format!("@all[veth5, {THIRD}]: 7")) && text.contains(&format!("@all[{NODE_IF}, {THIRD}]: 4"))
    })?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@one", [(SECOND.to_string(), 3), (THIRD.to_string(), 4)])?;
    done.expect_map("@by_a", [(FIRST.to_string(), 2 + 5 + 7)])?;
    done.expect_map("@by_b", [(SECOND.to_string(), 6)])?;
    let all = [
        (NODE_IF, SECOND, 3),
        (NODE_IF, THIRD, 4),
        ("veth5", THIRD, 7),
        ("veth7", SECOND, 8),
        ("veth7", THIRD, 9),
        ("other1", FIRST, 10),
        ("other1", SECOND, 11),
        ("other1", THIRD, 12),
    ];
    done.expect_map("@all", all.map(|(iface, source, n)| (format!("{iface}, {source}"), n)))
}

/// At TC the kernel has the chain: natives first, then the blocks.
fn at_tc() -> Result<()> {
    let lab = Lab::new()?;
    let socket = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), 5000))?;
    let script = format!(
        r#"use flows(iface="{NODE_IF}", direction="ingress", max=1000) as fl; use flows(iface="{NODE_IF}", max=1000) as fm;
        use blocklist(iface="{NODE_IF}", audit="off", prefixes=192.0.2.0/24) as a;
        tc:{NODE_IF}:ingress /udp.dport == 5000/ {{ @[ip.src] = count(); }}
        tc:{NODE_IF}:ingress /ip.src == {SECOND}/ {{ drop(); }}
        tc:veth*:ingress /udp.dport == 5000/ {{ @behind[ip.src] = count(); }}
        end {{ print(@fl.flows); print(@fm.flows); }}"#
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    traffic::send_frames(&lab, &frames(lab.node4(), [5, 7, 11]))?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    ensure!(traffic::received(&socket)? == 11, "{done}");
    done.expect_map("@", [(SECOND.to_string(), 7), (THIRD.to_string(), 11)])?;
    done.expect_map("@behind", [(THIRD.to_string(), 11)])?;
    for map in ["@fl.flows", "@fm.flows"] {
        let flows = [FIRST, SECOND, THIRD].map(|source| packets(&done, map, source));
        ensure!(flows == [0, 7, 11], "{map} {flows:?}: {done}");
    }
    ensure!(stat(&done, "@a.stats", "dropped") == 5, "{done}");
    Ok(())
}

fn refused() -> Result<()> {
    let lab = Lab::new()?;
    let first = format!(r#"use blocklist(iface="{NODE_IF}", audit="off", mode="native", prefixes=192.0.2.0/24) as a;"#);
    Weir::script(&format!("{first} xdp:{NODE_IF}:generic {{ @ = count(); }}"))
        .at(&lab)
        .run()?
        .refused(&["error[chain]", "`a` runs in native mode on `veth0`", "give both the same mode"])?
        .nothing_left()?;
    let name = format!("chain-{}", std::process::id());
    Weir::script(&format!(
        r#"{first} use blocklist(iface="{NODE_IF}", audit="off", pin="{name}", prefixes=198.51.100.0/24) as b;"#
    ))
    .at(&lab)
    .run()?
    .refused(&["error[chain]", "would end with weir", "it comes behind `a`", "put its `use` first"])?
    .nothing_left()?;
    let status = Weir::new(["status", &name]).run()?;
    ensure!(
        !status.stdout.contains(&name),
        "the name of what was refused is still there: {status}"
    );
    Ok(())
}
