//! The native `flows` beside what the tests have sent, and beside the kernel's own counters.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use weir_tests::frame::{Frame, Payload};
use weir_tests::harness::Test;
use weir_tests::net::{Lab, NODE_IF, Netns, TempDir};
use weir_tests::terminal::Terminal;
use weir_tests::traffic::{self, Connection, TcpInfo, tcp_info};
use weir_tests::weir::{Finished, Weir};
use weir_tests::{in_vm, wait_for};

pub const TESTS: &[Test] = &[
    Test::new("flows_are_what_was_sent", sent),
    Test::new("flows_know_their_sockets", sockets),
    Test::new("flows_know_whose_sockets_are_gone", gone),
    Test::new("flows_know_who_accepts_late", late),
    Test::new("flows_know_what_the_kernel_sends", kernels),
    Test::new("flows_end_and_are_reported", reported),
    Test::new("flows_are_reported_on_standard_output", on_stdout),
    Test::new("flows_that_find_no_room_are_counted", no_room),
    Test::new("flows_that_nobody_takes_in_are_warned_of", overflow),
    Test::new("flows_stand_side_by_side", side_by_side),
    Test::new("flows_have_one_event_a_packet", events),
    Test::new("flows_fit_the_screen", screen),
    Test::new("flows_refuse_what_cannot_be", refused),
];

const PORT: u16 = 7443;
const FLAGS_FIN_ACK: u8 = 0x11;
const FLAGS_RST: u8 = 0x04;

/// The numbers of `.stats`.
fn stats(done: &Finished, alias: &str) -> BTreeMap<String, u64> {
    let all = done.map(&format!("@{alias}.stats")).into_iter();
    all.filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect()
}

/// A field of a row: `{ .packets = 5, .flags = ......S. }`.
fn field<'r>(row: &'r str, name: &str) -> Result<&'r str> {
    let fields = row.trim_matches(['{', '}', ' ']).split(", ");
    let mut fields = fields.filter_map(|f| f.trim().strip_prefix('.')?.split_once(" = "));
    let found = fields.find(|(n, _)| *n == name);
    Ok(found.with_context(|| format!("no `{name}` in `{row}`"))?.1)
}

fn number(row: &str, name: &str) -> Result<u64> {
    Ok(field(row, name)?.parse()?)
}

/// Live, exported and overflow: all that was seen.
fn all_packets(stats: &BTreeMap<String, u64>) -> u64 {
    stats["live_packets"] + stats["exported_packets"] + stats["overflow"]
}

fn tcp(lab: &Lab, flags: u8) -> Frame {
    let payload = Payload::Tcp {
        sport: 40_000,
        dport: PORT,
        flags,
        data: Vec::new(),
    };
    Frame::new(lab.peer4(), lab.node4(), payload)
}

/// Frames of every kind from the peer: each flow has its packets and bytes, under the name of its interface, and from the side of
/// the pod behind it.
fn sent() -> Result<()> {
    let lab = Lab::new()?;
    let script = format!(r#"use flows(iface="{NODE_IF}", max=1000) as fl; end {{ print(@fl.flows); print(@fl.stats); }}"#);
    let weir = Weir::script(&script).at(&lab).start()?;
    let (peer4, node4, peer6, node6) = (lab.peer4(), lab.node4(), lab.peer6(), lab.node6());
    let frames = [
        (17, Frame::udp(peer4, node4, PORT), format!("{peer4}:40000 > {node4}:{PORT} udp"), 0),
        (
            5,
            Frame::udp(peer6, node6, PORT),
            format!("[{peer6}]:40000 > [{node6}]:{PORT} udp"),
            0,
        ),
        (
            9,
            Frame::udp(peer4, node4, 99).vlan(12),
            format!("{peer4}:40000 > {node4}:99 udp"),
            12,
        ),
        (
            4,
            Frame::udp(peer4, node4, 98).vlan(13).vlan(14),
            format!("{peer4}:40000 > {node4}:98 udp"),
            13,
        ),
        (
            3,
            Frame::echo(peer4, Ipv4Addr::new(192, 0, 2, 1)),
            format!("{peer4} > 192.0.2.1 icmp"),
            0,
        ),
    ];
    let to_send: Vec<(u32, Frame)> = frames.iter().map(|(n, frame, ..)| (*n, frame.clone())).collect();
    traffic::send_frames(&lab, &to_send)?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    let rows = done.map("@fl.flows");
    for (n, frame, flow, vlan) in &frames {
        let key = format!("{flow}, {NODE_IF}, ingress/from_pod");
        let row = rows.get(&key).with_context(|| format!("no `{key}`: {done}"))?;
        ensure!(number(row, "packets")? == u64::from(*n), "{key}: {row}");
        // A tag that the interface has taken out is not in the frame any more.
        let taken_out = if *vlan == 0 { 0 } else { 4 };
        let bytes = (frame.bytes().len() as u64 - taken_out) * u64::from(*n);
        ensure!(
            number(row, "bytes")? == bytes && number(row, "vlan")? == *vlan,
            "{key}: {row}, not {bytes}"
        );
        ensure!(field(row, "known_by")? == "-" && field(row, "flags")? == "-", "{row}");
    }
    let stats = stats(&done, "fl");
    // The last one is that of `settle`; the kernel answers to a port that nobody has.
    let from_pod: u64 = rows
        .iter()
        .filter(|(k, _)| k.contains("ingress"))
        .map(|(_, row)| number(row, "packets"))
        .sum::<Result<_>>()?;
    ensure!(from_pod == 17 + 5 + 9 + 4 + 3 + 1, "{done}");
    ensure!(
        rows.keys().all(|k| k.ends_with("ingress/from_pod") || k.ends_with("egress/to_pod")),
        "{done}"
    );
    let live: u64 = rows.values().map(|row| number(row, "packets")).sum::<Result<_>>()?;
    ensure!(stats["live_packets"] == live && stats["flows"] == rows.len() as u64, "{stats:?}");
    ensure!(
        (stats["exported_packets"], stats["overflow"], stats["malformed"]) == (0, 0, 0),
        "{stats:?}"
    );
    Ok(())
}

/// A connection that loses packets: the sender's socket tells how many, and how far it is; from the other end it is an estimate.
fn sockets() -> Result<()> {
    let lab = Lab::new()?;
    let peer = lab.peer.name();
    let script = format!(
        r#"use flows(iface="{NODE_IF}", max=1000) as fl; use flows(iface="peer0@{peer}", direction="ingress", max=1000) as there;
        fl:new {{ @new[fl.flow, fl.egress] = count(); }} fl:close {{ @close[fl.flow] = count(); }}
        fl:retransmit {{ @segs[fl.flow] = sum(fl.segs); @last[fl.flow] = max(fl.retransmits); }}
        self:signal:SIGUSR1 {{ print(@fl.flows); print(@there.flows); printf("printed\n"); }}"#
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    let mut connection = Connection::open(&lab, PORT)?;
    connection.transfer(300_000)?;
    connection.lose(&lab, 2)?;
    connection.transfer(1)?;
    connection.all_acknowledged()?;
    let local = connection.node_side.local_addr()?;
    let flow = format!("{local} > {}:{PORT} tcp", lab.peer4());
    let back = format!("{}:{PORT} > {local} tcp", lab.peer4());
    let TcpInfo {
        total_retrans: retransmits,
        rtt_us,
        segs_out,
        ..
    } = tcp_info(&connection.node_side)?;
    weir.signal(Signal::SIGUSR1)?;
    weir.wait_stdout("the tables", |text| text.contains("printed"))?;
    let Connection { mut node_side, peer_side } = connection;
    node_side.shutdown(Shutdown::Write)?;
    let mut nothing = Vec::new();
    (&peer_side).take(1).read_to_end(&mut nothing)?;
    drop(peer_side);
    node_side.read_to_end(&mut nothing)?;
    let done = weir.stop()?.clean()?;
    let before = done.stdout.split_once("printed").context("no tables")?.0;
    let rows = weir_tests::output::map(before, "@fl.flows");
    let key = format!("{flow}, {NODE_IF}, egress/to_pod");
    let row = rows.get(&key).with_context(|| format!("no `{key}`: {done}"))?;
    ensure!(retransmits >= 2, "{retransmits} retransmits");
    ensure!(
        number(row, "retransmits")? == retransmits && field(row, "known_by")? == "kernel",
        "{row}: {retransmits}"
    );
    // Every segment passes here, those that are lost behind it, too.
    ensure!(number(row, "packets")? == segs_out, "{row}: {segs_out} segments");
    // As of its last packet; the last acknowledgement has moved it by an eighth at most.
    let rtt = number(row, "rtt_us")?;
    ensure!(rtt > 0 && rtt <= 8 * rtt_us.max(1) + 1000, "{row}: {rtt_us} µs");
    let comm = std::fs::read_to_string("/proc/self/comm")?;
    ensure!(
        field(row, "process")? == comm.trim() && number(row, "pid")? == u64::from(std::process::id()),
        "{row}"
    );
    ensure!(field(row, "flags")?.replace('P', ".") == "...A..S.", "{row}");

    let there = weir_tests::output::map(before, "@there.flows");
    let row = there
        .iter()
        .find(|(k, _)| k.starts_with(&flow))
        .with_context(|| format!("no {flow}: {done}"))?
        .1;
    // What was lost before it never came, so it came once only; the probes that were lost may have been more than that.
    ensure!(number(row, "retransmits")? <= retransmits, "{row}");

    done.expect_map("@new", [(format!("{flow}, 1"), 1), (format!("{back}, 0"), 1)])?;
    done.expect_map("@close", [(&flow, 1), (&back, 1)])?;
    done.expect_entry("@segs", &flow, retransmits)?;
    done.expect_entry("@last", &flow, retransmits)
}

/// Sockets that were closed before anybody asked whose they are: clients' and servers', of TCP and UDP. What comes from elsewhere
/// belongs to who gets it.
fn gone() -> Result<()> {
    let lab = Lab::new()?;
    let folder = TempDir::new()?;
    let path = folder.path().join("flows.json");
    let peer = lab.peer.name();
    let script = format!(
        r#"use flows(iface="{NODE_IF}", max=1000, export="{}") as fl; use flows(iface="peer0@{peer}", direction="to_pod", max=1000) as out;
        end {{ print(@fl.flows); print(@out.flows); }}"#,
        path.display()
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    let mut connection = Connection::open(&lab, PORT)?;
    connection.transfer(1)?;
    let local = connection.node_side.local_addr()?;
    drop(connection);
    let server = SocketAddr::new(lab.peer6().into(), PORT);
    let socket = lab.peer.run(|| Ok(UdpSocket::bind(server)?))?;
    let client = lab.node.run(|| Ok(UdpSocket::bind(SocketAddr::new(lab.node6().into(), 0))?))?;
    let client_at = client.local_addr()?;
    client.send_to(b"question", server)?;
    socket.recv_from(&mut [0; 9])?;
    socket.send_to(b"answer", client_at)?;
    client.recv_from(&mut [0; 9])?;
    // The process counts, and not its thread.
    let closer = std::thread::Builder::new()
        .name("closer".to_owned())
        .spawn(move || drop((socket, client)))?;
    ensure!(closer.join().is_ok(), "the thread has failed");
    let done = weir.stop()?.clean()?;
    let comm = std::fs::read_to_string("/proc/self/comm")?;
    let is_ours =
        |row: &str| -> Result<bool> { Ok(field(row, "process")? == comm.trim() && number(row, "pid")? == u64::from(std::process::id())) };
    let rows = done.map("@fl.flows");
    let connection = [
        format!("{local} > {}:{PORT} tcp", lab.peer4()),
        format!("{}:{PORT} > {local} tcp", lab.peer4()),
    ];
    let datagrams = [format!("{client_at} > {server} udp"), format!("{server} > {client_at} udp")];
    for flow in connection.iter().chain(&datagrams) {
        let (_, row) = rows
            .iter()
            .find(|(k, _)| k.starts_with(flow))
            .with_context(|| format!("no {flow}: {done}"))?;
        ensure!(is_ours(row)?, "{flow}: {row}");
    }
    let out = done.map("@out.flows");
    ensure!(
        out.iter().filter(|(k, _)| k.contains(&format!(":{PORT} > "))).count() == 2,
        "{done}"
    );
    for (flow, row) in out.iter().filter(|(k, _)| k.contains(&format!(":{PORT} > "))) {
        ensure!(is_ours(row)?, "{flow}: {row}");
    }
    let of_port: Vec<_> = lines(&path)?
        .into_iter()
        .filter(|l| l["sourceTransportPort"] == PORT || l["destinationTransportPort"] == PORT)
        .collect();
    ensure!(
        of_port.len() == 4
            && of_port
                .iter()
                .all(|l| l["processName"] == comm.trim() && l["processId"] == std::process::id()),
        "{of_port:#?}"
    );
    Ok(())
}

/// Until somebody accepts a connection nobody has its socket.
fn late() -> Result<()> {
    let lab = Lab::new()?;
    let script = format!(r#"use flows(iface="{NODE_IF}", max=1000) as fl; interval:s:1 {{ print(@fl.flows); }}"#);
    let mut weir = Weir::script(&script).at(&lab).start()?;
    let to = SocketAddr::new(lab.peer4().into(), PORT);
    let listener = lab.peer.run(|| Ok(TcpListener::bind(to)?))?;
    let client = lab.node.run(|| Ok(TcpStream::connect(to)?))?;
    let flow = format!("@fl.flows[{to} > {} tcp", client.local_addr()?);
    let last = |text: &str, process: &str| {
        let row = text.lines().rfind(|line| line.starts_with(&flow));
        row.is_some_and(|row| row.contains(&format!(".process = {process},")))
    };
    weir.wait_stdout("a socket of nobody", |text| last(text, "?"))?;
    let (server, _) = listener.accept()?;
    let comm = std::fs::read_to_string("/proc/self/comm")?;
    weir.wait_stdout("the one who has accepted", |text| last(text, comm.trim()))?;
    drop((client, server));
    weir.stop()?.clean().map(drop)
}

/// What nobody listens for is answered by the kernel; the same ends are a process's as soon as one listens.
fn kernels() -> Result<()> {
    let lab = Lab::new()?;
    let folder = TempDir::new()?;
    let path = folder.path().join("flows.json");
    lab.node.ip(&["link", "set", "lo", "up"])?;
    let script = format!(
        r#"use flows(iface="{NODE_IF}", max=1000, export="{}") as fl; use flows(iface="lo", max=1000) as lo;
        self:signal:SIGUSR1 {{ print(@fl.flows); print(@lo.flows); printf("printed\n"); }}
        end {{ print(@fl.flows); }}"#,
        path.display()
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    let own = SocketAddr::from(([127, 0, 0, 1], 40_001));
    let ends = [
        (
            SocketAddr::new(lab.peer4().into(), 40_001),
            SocketAddr::new(lab.node4().into(), PORT),
        ),
        (
            SocketAddr::new(lab.peer6().into(), 40_001),
            SocketAddr::new(lab.node6().into(), PORT),
        ),
    ];
    // Pings are answered before what comes after them.
    traffic::send_frames(&lab, &[(3, Frame::echo(lab.peer4(), lab.node4()))])?;
    let connect = |ns: &Netns, (from, to): (SocketAddr, SocketAddr)| ns.run(|| traffic::connect_from(from, to));
    let to_self = (own, SocketAddr::from(([127, 0, 0, 1], PORT)));
    for (ns, ends) in [(&lab.peer, ends[0]), (&lab.peer, ends[1]), (&lab.node, to_self)] {
        let refused = connect(ns, ends).err().context("somebody listens")?;
        let error = refused.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(error == Some(ErrorKind::ConnectionRefused), "{refused}");
    }
    weir.signal(Signal::SIGUSR1)?;
    weir.wait_stdout("the tables", |text| text.contains("printed"))?;
    let connections = ends.iter().map(|ends| {
        let listener = lab.node.run(|| Ok(TcpListener::bind(ends.1)?))?;
        let mut client = connect(&lab.peer, *ends)?;
        let (mut server, _) = listener.accept()?;
        server.write_all(b"x")?;
        client.read_exact(&mut [0])?;
        Ok((client, server))
    });
    let connections: Vec<(TcpStream, TcpStream)> = connections.collect::<Result<_>>()?;
    let done = weir.stop()?.clean()?;
    drop(connections);
    let comm = std::fs::read_to_string("/proc/self/comm")?;
    let (refused, connected) = done.stdout.split_once("printed").context("no tables")?;
    let expect = |text: &str, map: &str, flow: &str, process: &str| -> Result<()> {
        let all = weir_tests::output::map(text, map);
        let row = all.iter().find(|(key, _)| key.starts_with(flow));
        let (_, row) = row.with_context(|| format!("no {flow}: {done}"))?;
        let pid = if process == "kernel" { 0 } else { std::process::id() };
        ensure!(
            field(row, "process")? == process && number(row, "pid")? == u64::from(pid),
            "{flow}: {row}"
        );
        ensure!(number(row, "retransmits")? == 0, "{flow}: {row}");
        // It has no counters, though its socket looks like one of TCP.
        ensure!(
            process != "kernel" || number(row, "rtt_us")? == 0 && field(row, "known_by")? != "kernel",
            "{flow}: {row}"
        );
        Ok(())
    };
    for (from, to) in ends {
        expect(refused, "@fl.flows", &format!("{from} > {to} tcp, "), comm.trim())?;
        expect(refused, "@fl.flows", &format!("{to} > {from} tcp, "), "kernel")?;
        expect(connected, "@fl.flows", &format!("{to} > {from} tcp, "), comm.trim())?;
    }
    expect(refused, "@fl.flows", &format!("{} > {} icmp, ", lab.node4(), lab.peer4()), "kernel")?;
    let (from, to) = to_self;
    for (flow, process) in [
        (format!("{from} > {to} tcp, lo, egress"), comm.trim()),
        (format!("{to} > {from} tcp, lo, egress"), "kernel"),
        // The receiver's.
        (format!("{from} > {to} tcp, lo, ingress"), "kernel"),
        (format!("{to} > {from} tcp, lo, ingress"), comm.trim()),
    ] {
        expect(refused, "@lo.flows", &flow, process)?;
    }
    let lines = lines(&path)?;
    let pongs = lines
        .iter()
        .filter(|l| l["protocolIdentifier"] == 1 && l["sourceIPv4Address"] == lab.node4().to_string());
    let who: Vec<_> = pongs.map(|l| (&l["processName"], &l["processId"])).collect();
    ensure!(who == [(&"kernel".into(), &0.into())], "{lines:#?}");
    Ok(())
}

/// The reports in a file.
fn lines(path: &Path) -> Result<Vec<serde_json::Value>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last one may still be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|l| serde_json::from_str(l).with_context(|| format!("`{l}` is no JSON")))
        .collect()
}

/// Flows end for each of the reasons, and the reports of each add up to what was sent.
fn reported() -> Result<()> {
    let lab = Lab::new()?;
    let folder = TempDir::new()?;
    let path = folder.path().join("flows.json");
    let script = format!(
        r#"use flows(iface="{NODE_IF}", direction="from_pod", idle=3s, active=1s, max=1000, export="{}") as fl; end {{ print(@fl.stats); }}"#,
        path.display()
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    let (peer, node) = (lab.peer4(), lab.node4());
    let idle = Frame::udp(peer, node, 1001);
    traffic::send_frames(
        &lab,
        &[
            (7, idle.clone()),
            (1, tcp(&lab, 2)),
            (2, tcp(&lab, FLAGS_FIN_ACK)),
            (1, tcp(&lab, FLAGS_RST)),
        ],
    )?;
    let of = |lines: &[serde_json::Value], port: u16| -> Vec<serde_json::Value> {
        lines.iter().filter(|l| l["destinationTransportPort"] == port).cloned().collect()
    };
    let has = |port: u16, reason: u64| {
        let lines = lines(&path)?;
        Ok(of(&lines, port).iter().any(|l| l["flowEndReason"] == reason).then_some(lines))
    };
    // One that never rests is reported while it goes on.
    let mut busy = 0u64;
    wait_for("reports of a flow that goes on", || {
        traffic::send_frames(&lab, &[(1, Frame::udp(peer, node, 1002))])?;
        busy += 1;
        has(1002, 2)
    })?;
    wait_for("the end of an idle flow", || has(1001, 1))?;
    wait_for("the end of a connection", || has(PORT, 3))?;
    traffic::send_frames(&lab, &[(5, Frame::udp(lab.peer6(), lab.node6(), 1003))])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    let all = lines(&path)?;
    let sum = |port: u16, name: &str| of(&all, port).iter().map(|l| l[name].as_u64().unwrap_or(0)).sum::<u64>();
    for (port, packets) in [(1001, 7), (1002, busy), (PORT, 4), (1003, 5)] {
        ensure!(sum(port, "packetDeltaCount") == packets, "{port}: not {packets}: {all:#?}");
    }
    let frame = idle.bytes().len() as u64;
    ensure!(
        sum(1001, "layer2OctetDeltaCount") == 7 * frame && sum(1001, "octetDeltaCount") == 7 * (frame - 14),
        "{all:#?}"
    );
    let one = &of(&all, 1001)[0];
    ensure!(
        one["sourceIPv4Address"] == peer.to_string() && one["destinationIPv4Address"] == node.to_string(),
        "{one}"
    );
    ensure!(
        one["protocolIdentifier"] == 17 && one["ipVersion"] == 4 && one["flowDirection"] == 0,
        "{one}"
    );
    ensure!(
        one["podDirection"] == "from_pod" && one["interfaceName"] == NODE_IF && one["sourceTransportPort"] == 40_000,
        "{one}"
    );
    for line in &all {
        let (start, end) = (line["flowStartMilliseconds"].as_u64(), line["flowEndMilliseconds"].as_u64());
        ensure!(start.is_some() && start <= end, "{line}");
        // One that is quiet does not go on.
        ensure!(line["flowEndReason"] != 2 || line["packetDeltaCount"] != 0, "{line}");
    }
    let closed = of(&all, PORT).pop().context("no report")?;
    ensure!(closed["tcpControlBits"] == 0x17, "{closed}");
    let counts = ["tcpSynTotalCount", "tcpFinTotalCount", "tcpRstTotalCount"].map(|name| closed[name].as_u64());
    ensure!(counts == [Some(1), Some(2), Some(1)], "{closed}");
    // The last one was live when weir ended.
    ensure!(
        of(&all, 1003)[0]["flowEndReason"] == 4 && of(&all, 1003)[0]["sourceIPv6Address"] == lab.peer6().to_string(),
        "{all:#?}"
    );
    let stats = stats(&done, "fl");
    ensure!(all_packets(&stats) == 7 + busy + 4 + 5 + 1, "{stats:?}, {busy}");
    let packets: u64 = all.iter().filter_map(|l| l["packetDeltaCount"].as_u64()).sum();
    ensure!(packets == all_packets(&stats), "{packets}: {stats:?}");
    Ok(())
}

/// Reports on standard output stand between the lines that the script prints, all of them whole: in a file, and in a pipe and a
/// socket that are full time and again.
fn on_stdout() -> Result<()> {
    const FLOWS: u16 = 2000;
    const TICK: &str = "a tick of the script";
    let lab = Lab::new()?;
    let script = format!(
        r#"use flows(iface="{NODE_IF}", direction="from_pod", idle=1s, max=10000, export="-") as fl;
        interval:us:200 {{ printf("{TICK}\n"); }}"#
    );
    let folder = TempDir::new()?;
    let path = folder.path().join("out");
    std::fs::write(&path, "")?;
    let to_send: Vec<_> = (0..FLOWS).map(|n| (1, Frame::udp(lab.peer4(), lab.node4(), 10_000 + n))).collect();
    for place in ["file", "pipe", "socket"] {
        let weir = Weir::script(&script).at(&lab);
        let weir = match place {
            "file" => weir.stdout_to(&path).start_unattached(),
            "pipe" => weir.start(),
            _ => weir.stdout_to_socket().start(),
        }
        .with_context(|| format!("on a {place}"))?;
        let text = || match place {
            "file" => std::fs::read_to_string(&path).unwrap_or_default(),
            _ => weir.stdout(),
        };
        wait_for("a sign of life", || Ok(text().contains(TICK).then_some(())))?;
        traffic::send_frames(&lab, &to_send)?;
        let ticks = |text: &str| text.matches(TICK).count();
        let reports = |text: &str| text.matches("\"destinationTransportPort\":1").count();
        wait_for("all reports", || Ok((reports(&text()) >= usize::from(FLOWS)).then_some(())))?;
        let before = ticks(&text());
        wait_for("more of the script", || Ok((ticks(&text()) > before).then_some(())))?;
        let text = match place {
            "file" => {
                weir.stop()?.clean()?;
                std::fs::read_to_string(&path)?
            }
            _ => weir.stop()?.clean()?.stdout,
        };
        // The tables at the end are the printer's alone.
        let text = text.split_once("@fl:").context("no tables at the end")?.0;
        let mut ports = BTreeMap::new();
        for line in text.lines() {
            if line.starts_with('{') {
                let report: serde_json::Value = serde_json::from_str(line).with_context(|| format!("{place}: `{line}` is no report"))?;
                *ports.entry(report["destinationTransportPort"].as_u64()).or_insert(0) += 1;
            } else {
                ensure!(
                    line.is_empty() || line == TICK || line.starts_with("__BPFTRACE"),
                    "{place}: `{line}` is torn"
                );
            }
        }
        let ours = (0..FLOWS).filter(|n| ports.get(&Some(u64::from(10_000 + n))) == Some(&1)).count();
        ensure!(ours == usize::from(FLOWS), "{place}: {ours} flows have one report");
    }
    Ok(())
}

/// Many more flows than there is room for: live, exported and overflow are what was sent, to the packet and the byte.
fn no_room() -> Result<()> {
    // An emulated machine is slow.
    let (flows, max) = if in_vm() { (5000u32, 2048) } else { (200_000, 65_536) };
    let lab = Lab::new()?;
    let folder = TempDir::new()?;
    let path = folder.path().join("flows.json");
    let script = format!(
        r#"use flows(iface="{NODE_IF}", direction="from_pod", max={max}, export="{}") as fl; end {{ print(@fl.stats); }}"#,
        path.display()
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    let frame = Frame::udp(Ipv4Addr::new(11, 0, 0, 0), lab.node4(), 9999).bytes();
    lab.peer.run(|| {
        let socket = traffic::PacketSocket::open("peer0")?;
        let mut frame = frame.clone();
        for n in 0..flows {
            frame[26..30].copy_from_slice(&(0x0b00_0000 + n).to_be_bytes());
            socket.send(&frame)?;
        }
        Ok(())
    })?;
    traffic::settle(&lab)?;
    let done = weir.stop()?;
    ensure!(done.stderr.contains("flows are taken") && done.stderr.contains("`max="), "{done}");
    let done = done.nothing_left()?;
    let stats = stats(&done, "fl");
    ensure!(done.stderr.contains("in no report") == (stats["overflow"] > 0), "{done}");
    ensure!(stats["unlisted"] > 0 && stats["max"] == max, "{stats:?}");
    // And the last one.
    ensure!(all_packets(&stats) == u64::from(flows) + 1, "{stats:?}");
    let settle = 14 + 20 + 8 + 4;
    let bytes = stats["live_bytes"] + stats["exported_bytes"] + stats["overflow_bytes"];
    ensure!(bytes == u64::from(flows) * frame.len() as u64 + settle, "{stats:?}");
    let lines = lines(&path)?;
    let packets = |wanted: &dyn Fn(&serde_json::Value) -> bool| -> u64 {
        let lines = lines.iter().filter(|l| wanted(l));
        lines.filter_map(|l| l["packetDeltaCount"].as_u64()).sum()
    };
    let reported = packets(&|_| true);
    ensure!(reported == u64::from(flows) + 1 - stats["overflow"], "{reported}: {stats:?}");
    // Those without a place end for lack of resources, as IPFIX calls it.
    let unlisted = packets(&|l| l["flowEndReason"] == 5);
    ensure!(unlisted == stats["unlisted"], "{unlisted}: {stats:?}");
    Ok(())
}

/// A weir that does not get to run leaves more packets without a place than the ring buffer holds: it says so, once, and they are
/// counted all the same.
fn overflow() -> Result<()> {
    // Records of 4 MiB are fewer.
    const PACKETS: u32 = 60_000;
    let lab = Lab::new()?;
    let script = format!(
        r#"use flows(iface="{NODE_IF}", direction="from_pod", max=1) as fl; interval:s:1 {{ printf("alive\n"); }} end {{ print(@fl.stats); }}"#
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    let (peer, node) = (lab.peer4(), lab.node4());
    traffic::send_frames(&lab, &[(1, Frame::udp(peer, node, 1001)), (9, Frame::udp(peer, node, 1002))])?;
    weir.wait_stderr("a warning of flows without a place", |text| text.contains("are taken"))?;
    ensure!(!weir.stderr().contains("in no report"), "{}", weir.stderr());
    weir.signal(Signal::SIGSTOP)?;
    // If the place is free by now, the first one takes it.
    let sent = traffic::send_frames(&lab, &[(1, Frame::udp(peer, node, 1003)), (PACKETS, Frame::udp(peer, node, 1004))]);
    weir.signal(Signal::SIGCONT)?;
    sent?;
    weir.wait_stderr("a warning of packets in no report", |text| text.contains("in no report"))?;
    let alive = weir.stdout().matches("alive").count();
    weir.wait_stdout("two more looks", |text| text.matches("alive").count() >= alive + 2)?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    ensure!(done.stderr.matches("in no report").count() == 1, "{done}");
    let stats = stats(&done, "fl");
    ensure!(stats["overflow"] > 0 && stats["unlisted"] > 9, "{stats:?}");
    ensure!(all_packets(&stats) == u64::from(PACKETS) + 12, "{stats:?}");
    Ok(())
}

/// At XDP, at TC with and without its own direction, on one interface: each counts the same packets.
fn side_by_side() -> Result<()> {
    let lab = Lab::new()?;
    let script = format!(
        r#"use flows(iface="{NODE_IF}", hook="xdp", max=1000) as x; use flows(iface="{NODE_IF}", direction="ingress", max=1000) as one;
        use flows(iface="{NODE_IF}", direction="to_pod", max=1000) as out; use flows(iface="{NODE_IF}", max=1000) as two;
        x:new /x.dport == 5000/ {{ @at_x = count(); }} one:new /one.dport == 5000/ {{ @at_one = count(); }}
        xdp:{NODE_IF} /udp.dport == 5000/ {{ @behind = count(); }}
        self:signal:SIGUSR1 {{ clear(@one.flows); printf("cleared\n"); }}
        end {{ print(@x.flows); print(@one.flows); print(@out.flows); print(@two.flows); print(@one.stats); }}"#
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    traffic::send_frames(&lab, &[(20, Frame::udp(lab.peer4(), lab.node4(), 5000))])?;
    traffic::send_udp(&lab.node, lab.node4().into(), SocketAddr::new(lab.peer4().into(), 5001), 6)?;
    traffic::settle(&lab)?;
    weir.signal(Signal::SIGUSR1)?;
    weir.wait_stdout("the end of all flows", |text| text.contains("cleared"))?;
    traffic::send_frames(&lab, &[(3, Frame::udp(lab.peer4(), lab.node4(), 5000))])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.nothing_left()?;
    let packets = |alias: &str, port: u16| -> Result<u64> {
        let rows = done.map(&format!("@{alias}.flows"));
        let row = rows.iter().find(|(k, _)| k.contains(&format!(":{port} udp")));
        row.map_or(Ok(0), |(_, row)| number(row, "packets"))
    };
    for (alias, inward, outward) in [("x", 23, 0), ("one", 3, 0), ("out", 0, 6), ("two", 23, 6)] {
        ensure!(
            packets(alias, 5000)? == inward && packets(alias, 5001)? == outward,
            "{alias}: {done}"
        );
    }
    done.expect_entry("@at_x", "", 1)?;
    done.expect_entry("@at_one", "", 2)?;
    done.expect_entry("@behind", "", 23)?;
    let stats = stats(&done, "one");
    ensure!(stats["exported_packets"] >= 20 && all_packets(&stats) >= 24, "{stats:?}");
    Ok(())
}

/// A packet that begins a flow and resets it has the event that there is a block for.
fn events() -> Result<()> {
    let lab = Lab::new()?;
    let script = format!(
        r#"use flows(iface="{NODE_IF}", direction="from_pod", max=1000) as a; use flows(iface="{NODE_IF}", direction="from_pod", max=1000) as b;
        a:new /tcp.dport == {PORT}/ {{ @new[a.src, a.dport] = sum(a.packets); }}
        b:new /tcp.dport == {PORT}/ {{ @b_new = count(); }} b:rst {{ @rst[b.flow] = count(); }} b:close {{ @close = count(); }}
        b:retransmit {{ @again = sum(b.segs); }}"#
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    traffic::send_frames(
        &lab,
        &[
            (1, tcp(&lab, FLAGS_RST)),
            (3, tcp(&lab, 2)),
            (2, tcp(&lab, FLAGS_FIN_ACK)),
            (1, tcp(&lab, FLAGS_RST)),
        ],
    )?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@new", [(format!("{}, {PORT}", lab.peer4()), 1)])?;
    ensure!(done.map("@b_new").is_empty(), "{done}");
    done.expect_map("@rst", [(format!("{}:40000 > {}:{PORT} tcp", lab.peer4(), lab.node4()), 2)])?;
    done.expect_entry("@close", "", 1)?;
    // All have one sequence number: two of the SYNs, and the second FIN; the first one is the first FIN above.
    done.expect_entry("@again", "", 3)
}

/// On a terminal no line is longer than it is wide, and neither a number nor an IPv4 address is cut; a pipe gets all of it.
fn screen() -> Result<()> {
    const SENDER: &str = "fd77:1234:5678:9abc:def0:1122:3344:5566";
    let lab = Lab::new()?;
    let folder = TempDir::new()?;
    let node = lab.node.name();
    let script =
        format!(r#"use flows(iface="{NODE_IF}@{node}", max=1000) as fl; self:signal:SIGUSR1 {{ print(@fl); printf("printed\n"); }}"#);
    let mut piped = Weir::script(&script).start()?;
    let mut terminal = Terminal::start(&["-e", &script], folder.path())?;
    terminal.wait_for("Attached")?;
    let objects = terminal.objects();
    let mut connection = Connection::open(&lab, PORT)?;
    connection.transfer(100_000)?;
    let from: Ipv6Addr = SENDER.parse()?;
    let to = Ipv6Addr::new(0xfd77, 0x1234, 0x5678, 0x9abc, 0xa1b2, 0xc3d4, 0xe5f6, 0x789);
    traffic::send_frames(&lab, &[(3, Frame::udp(from, to, PORT)), (2, Frame::udp(to, from, PORT))])?;
    traffic::settle(&lab)?;
    let comm = std::fs::read_to_string("/proc/self/comm")?;
    let (ours, theirs) = (connection.node_side.local_addr()?, lab.peer4());
    let flow = format!("{ours} > {theirs}:{PORT} tcp");
    let print = |terminal: &mut Terminal, columns: u16| -> Result<String> {
        terminal.resize(50, columns)?;
        let before = terminal.printed().len();
        terminal.signal(Signal::SIGUSR1)?;
        terminal.wait("the table", |t| t.printed()[before..].contains("printed"))?;
        Ok(terminal.printed()[before..].replace('\r', ""))
    };
    for columns in [80, 100, 120, 160, 250] {
        let text = print(&mut terminal, columns)?;
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        ensure!(longest <= usize::from(columns), "{longest} of {columns}:\n{text}");
        let row = text
            .lines()
            .find(|line| line.contains(&flow))
            .with_context(|| format!("no {flow}:\n{text}"))?;
        // At least the name's two ends.
        let (head, tail) = (&comm[..4], &comm.trim()[comm.trim().len() - 4..]);
        ensure!(row.contains(head) && row.contains(tail), "{columns}: {row}");
        let whole = columns == 250;
        ensure!(
            text.contains(SENDER) == whole && text.contains("the same in all: interface veth0") != whole,
            "{columns}:\n{text}"
        );
        ensure!(whole || text.contains("[fd77:1") && text.contains('…'), "{columns}:\n{text}");
        ensure!(text.contains("no room for: known_by") == (columns < 160), "{columns}:\n{text}");
    }
    terminal.signal(Signal::SIGINT)?;
    terminal.ended(&objects)?;
    piped.signal(Signal::SIGUSR1)?;
    piped.wait_stdout("the table", |text| text.contains("printed"))?;
    let done = piped.stop()?.clean()?;
    ensure!(
        done.stdout
            .contains(&format!("[{SENDER}]:40000 > [{to}]:{PORT} udp, {NODE_IF}, ingress/from_pod")),
        "{done}"
    );
    ensure!(!done.stdout.contains('…') && !done.stdout.contains("the same in all"), "{done}");
    Ok(())
}

fn refused() -> Result<()> {
    let lab = Lab::new()?;
    for (script, words) in [
        (
            r#"use flows(iface="veth0", hook="xdp", direction="to_pod") as fl;"#,
            ["XDP sees what comes in, not to_pod", "TC sees both directions", "^^^"],
        ),
        (
            r#"use flows(iface="veth0", export="/no/such/folder/flows.json") as fl;"#,
            ["reports cannot be written to `/no/such/folder/flows.json`", "No such file", "^^^"],
        ),
    ] {
        Weir::script(script).at(&lab).run()?.refused(&words)?.nothing_left()?;
    }
    Ok(())
}
