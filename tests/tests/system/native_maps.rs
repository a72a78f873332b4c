//! Maps of natives in everything that a script can do with a map: index, ask, go over, count, delete.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::net::{IpAddr, SocketAddr, TcpStream};
use weir_tests::cgroup::Cgroup;
use weir_tests::frame::Frame;
use weir_tests::harness::Test;
use weir_tests::net::Lab;
use weir_tests::traffic;
use weir_tests::wait_for;
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("native_maps_of_blocklist_in_every_operation", blocklist),
    Test::new("native_maps_of_flows_in_every_operation", flows),
    Test::new("native_maps_of_identity_in_every_operation", identity),
    Test::new("native_maps_of_retransmits_in_every_operation", retransmits),
];

const PORT: u16 = 5000;

/// An entry's counts at an interval that weir runs, in a packet's block once a second has gone, at a signal, and at the end. What is
/// deleted is counted from nothing.
fn blocklist() -> Result<()> {
    let lab = Lab::new()?;
    let script = r#"
use blocklist(iface="veth0", prefixes=(198.51.100.0/24, 203.0.113.1, "2001:db8::/32"), audit="off") as bl;
bl:drop /@bl.hits[ip.src].packets >= 5 && !(203.0.113.1 in @bl.hits)/ { @late = 1; printf("late\n"); }
interval:ms:100 /@bl.hits[198.51.100.77].packets == 5/ { @ticks = count(); printf("five\n"); }
self:signal:SIGUSR1 {
  $known = find(@bl.hits, "2001:db8::9", $v);
  printf("%d %d %d\n", len(@bl.hits), $known, $v.packets);
  printf("%d %d\n", delete(@bl.hits[198.51.100.0/24]), delete(@bl.hits, 203.0.113.0/24));
  printf("deleted\n");
}
end {
  for ($kv : @bl.hits) { @walked[$kv.0] = $kv.1.packets; }
  @entries = len(@bl.hits);
  @dropped = @bl.stats["dropped"];
  @net = @bl.hits[198.51.100.0/24].packets;
  @bytes = @bl.hits[198.51.100.99].bytes;
  @asked = ("2001:db8::1" in @bl.hits, has_key(@bl.hits, 192.0.2.1), 203.0.113.1 in @bl.hits);
}
"#;
    let mut weir = Weir::script(script).at(&lab).start()?;
    let source = |ip: &str| -> Result<Frame> {
        Ok(match ip.parse::<IpAddr>()? {
            IpAddr::V4(ip) => Frame::udp(ip, lab.node4(), PORT),
            IpAddr::V6(ip) => Frame::udp(ip, lab.node6(), PORT),
        })
    };
    let (first, v6) = (source("198.51.100.1")?, source("2001:db8::1")?);
    traffic::send_frames(&lab, &[(5, first.clone()), (2, v6)])?;
    weir.wait_stdout("the block on an interval", |text| text.contains("five"))?;
    // The programs of packets see it a second later.
    let mut sent = 5;
    wait_for("a packet's block that sees the entry", || {
        traffic::send_frames(&lab, &[(1, first.clone())])?;
        sent += 1;
        traffic::settle(&lab)?;
        Ok(weir.stdout().contains("late").then_some(()))
    })?;
    weir.signal(Signal::SIGUSR1)?;
    weir.wait_stdout("the block on a signal", |text| text.contains("deleted"))?;
    traffic::send_frames(&lab, &[(3, source("198.51.100.2")?), (1, source("203.0.113.1")?)])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    ensure!(done.stdout.contains("2 1 2\n1 0\n"), "{done}");
    done.expect_map("@walked", [("198.51.100.0/24", 3), ("2001:db8::/32", 2), ("203.0.113.1/32", 1)])?;
    let bytes = 3 * first.bytes().len();
    for line in [
        "@entries: 3".to_owned(),
        format!("@dropped: {}", sent + 2 + 3 + 1),
        "@net: 3".to_owned(),
        format!("@bytes: {bytes}"),
        "@asked: (true, false, true)".to_owned(),
        "@late: 1".to_owned(),
    ] {
        ensure!(done.stdout.lines().any(|l| l == line), "no `{line}`: {done}");
    }
    Ok(())
}

fn flows() -> Result<()> {
    let lab = Lab::new()?;
    let script = r#"
use flows(iface="veth0", direction="ingress", max=1000) as fl;
fl:new { @known[port.dst] = (flow, "veth0", "ingress/from_pod") in @fl.flows; }
interval:ms:100 {
  for ($kv : @fl.flows) {
    if ($kv.1.packets == 7) { printf("seven of %s\n", $kv.0.0); }
  }
}
self:signal:SIGUSR1 {
  @live = @fl.stats["flows"];
  for ($kv : @fl.flows) {
    @walked[$kv.0.0, $kv.0.2] = $kv.1.packets;
    if ($kv.1.packets == 7) { delete(@fl.flows[$kv.0]); }
  }
  printf("deleted\n");
}
end {
  @entries = len(@fl.flows);
  @ended = @fl.stats["exported_flows"];
  @packets = @fl.stats["exported_packets"];
}
"#;
    let mut weir = Weir::script(script).at(&lab).start()?;
    let (peer, node) = (lab.peer4(), lab.node4());
    traffic::send_frames(
        &lab,
        &[
            (7, Frame::udp(peer, node, PORT)),
            (7, Frame::udp(peer, node, 5002)),
            (4, Frame::udp(lab.peer6(), lab.node6(), 5001)),
        ],
    )?;
    weir.wait_stdout("the block on an interval", |text| {
        [PORT, 5002].iter().all(|port| text.contains(&format!(":{port} udp\n")))
    })?;
    weir.signal(Signal::SIGUSR1)?;
    weir.wait_stdout("the block on a signal", |text| text.contains("deleted"))?;
    let done = weir.stop()?.clean()?;
    done.expect_entry("@walked", &format!("{peer}:40000 > {node}:{PORT} udp, ingress/from_pod"), 7)?;
    done.expect_entry(
        "@walked",
        &format!("[{}]:40000 > [{}]:5001 udp, ingress/from_pod", lab.peer6(), lab.node6()),
        4,
    )?;
    done.expect_entry("@known", &PORT.to_string(), "false")?;
    // Neighbour discovery may have made more of them.
    let number = |name: &str| -> Result<u64> {
        let line = done.stdout.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
        Ok(line.with_context(|| format!("no {name}: {done}"))?.parse()?)
    };
    let (live, entries) = (number("@live")?, number("@entries")?);
    ensure!(live >= 3 && entries + 2 >= live, "{done}");
    // Both that were deleted, all of each.
    ensure!((number("@ended")?, number("@packets")?) == (2, 14), "{done}");
    Ok(())
}

fn identity() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    let policy = format!(
        "default = \"deny\"\n[[identity]]\nname = \"web\"\nnumber = 7\ncgroup = \"{}\"\n[[rule]]\nname = \"logs\"\nfrom = \"web\"\nto = \
         \"{}\"\nport = 5000\nproto = \"udp\"\nverdict = \"allow\"\n",
        group.path(),
        lab.node4()
    );
    lab.dir.write("policy.toml", &policy)?;
    let script = r#"
use identity(iface="veth0", policy=file("policy.toml"), audit="off") as id;
id:deny /@id.verdicts["logs"].packets == 3/ { printf("seen\n"); }
self:signal:SIGUSR1 {
  for ($kv : @id.denied) { @denied[$kv.0] = $kv.1.packets; delete(@id.denied[$kv.0]); }
  @logs = @id.verdicts["logs"].packets;
  delete(@id.verdicts["logs"]);
  printf("deleted\n");
}
end {
  @left = (len(@id.denied), @id.verdicts["logs"].packets, "logs" in @id.verdicts, "other" in @id.verdicts);
  @rules = @id.entries["rules"];
  @allowed = @id.stats["allowed"];
}
"#;
    let mut weir = Weir::script(script).at(&lab).start()?;
    let (peer, node) = (IpAddr::from(lab.peer4()), IpAddr::from(lab.node4()));
    let socket = traffic::listen_udp(&lab.node, (node, PORT).into())?;
    traffic::send_udp(&lab.peer, peer, (node, PORT).into(), 3)?;
    let mut arrived = 0;
    wait_for("the datagrams", || {
        arrived += traffic::received(&socket)?;
        Ok((arrived == 3).then_some(()))
    })?;
    // The program of packets sees the count a second later.
    let mut denied = 0;
    wait_for("a packet's block that sees the rule's count", || {
        traffic::send_udp(&lab.peer, peer, (node, 5002).into(), 1)?;
        denied += 1;
        Ok(weir.stdout().contains("seen").then_some(()))
    })?;
    weir.signal(Signal::SIGUSR1)?;
    weir.wait_stdout("the block on a signal", |text| text.contains("deleted"))?;
    let done = weir.stop()?.clean()?;
    let rows = done.map("@denied");
    ensure!(
        rows.len() == 1 && rows.iter().all(|(k, n)| k.starts_with("web -> ") && *n == denied.to_string()),
        "{denied} were denied: {done}"
    );
    for line in ["@logs: 3", "@left: (0, 0, true, false)", "@rules: 1", "@allowed: 3"] {
        ensure!(done.stdout.lines().any(|l| l == line), "no `{line}`: {done}");
    }
    Ok(())
}

fn retransmits() -> Result<()> {
    let lab = Lab::new()?;
    let peer = lab.peer4();
    let script = format!(
        r#"
use retransmits(netns="/proc/self/ns/net") as re;
re:reset_in /@re.destinations[re.dst].resets_in > 0/ {{ printf("again\n"); }}
end {{
  for ($kv : @re.destinations) {{ @walked[$kv.0] = $kv.1.resets_in; }}
  @peer = @re.destinations[{peer}].resets_in;
  @counts = (len(@re.destinations), {peer} in @re.destinations, 192.0.2.1 in @re.destinations);
  @resets = @re.stats["resets_in"];
}}
"#
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    // Nobody listens there.
    let mut resets = 0;
    wait_for("a block that sees the destination", || {
        let refused = lab.node.run(|| Ok(TcpStream::connect(SocketAddr::from((peer, PORT)))))?;
        ensure!(refused.is_err(), "somebody listens");
        resets += 1;
        Ok(weir.stdout().contains("again").then_some(()))
    })?;
    weir.wait_stdout("the event", |text| text.contains("again"))?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@walked", [(peer.to_string(), resets)])?;
    for line in [
        format!("@peer: {resets}"),
        "@counts: (1, true, false)".to_owned(),
        format!("@resets: {resets}"),
    ] {
        ensure!(done.stdout.lines().any(|l| *l == line), "no `{line}`: {done}");
    }
    Ok(())
}
