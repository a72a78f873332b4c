//! The native `retransmits` beside the kernel's own counters, with segments that are really lost.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use weir_tests::features::{self, Feature};
use weir_tests::harness::Need::Has;
use weir_tests::harness::Test;
use weir_tests::net::{Lab, Netns};
use weir_tests::traffic::{self, Connection, TcpInfo, tcp_info};
use weir_tests::weir::{Finished, Running, Weir};

pub const TESTS: &[Test] = &[
    Test::new("retransmits_are_what_the_kernel_counts", sums),
    Test::new("retransmits_are_what_the_kernel_counts_with_netem", netem).needs(&[Has(Feature::Netem)]),
    Test::new("retransmits_of_ipv6_and_of_older_connections", older),
    Test::new("retransmits_of_a_namespace_that_goes_stay", namespace_gone).alone(),
    Test::new("retransmits_to_nobody_are_all_of_them", nobody),
    Test::new("retransmits_without_room_are_counted_all_the_same", full),
    Test::new("retransmits_know_resets", resets),
    Test::new("retransmits_refuses_a_namespace_that_is_not_there", refused),
];

const PORT: u16 = 7443;
const QUIET: u16 = 7444;
/// What the client's thread calls itself; what counts is the process, as for connections that are found open.
const THREAD: &std::ffi::CStr = c"weir-client";

/// Prints every table at the end, and on SIGUSR1.
const PRINT: &str = "{ print(@re.destinations); print(@re.processes); print(@re.connections); print(@re.stats); }";

fn start(lab: &Lab, more: &str) -> Result<Running> {
    let script = format!(r#"use retransmits(netns="/proc/self/ns/net") as re; self:signal:SIGUSR1 {PRINT} end {PRINT} {more}"#);
    Weir::script(&script).at(lab).start()
}

/// The numbers of `.stats`.
fn stats(done: &Finished, alias: &str) -> BTreeMap<String, u64> {
    let all = done.map(&format!("@{alias}.stats")).into_iter();
    all.filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect()
}

/// A field of a row: `{ .retransmits = 5, .ratio = 2.50% }`.
fn field(row: &str, name: &str) -> Result<String> {
    let fields = row.trim_matches(['{', '}', ' ']).split(", ");
    let found = fields
        .filter_map(|f| f.trim().strip_prefix('.')?.split_once(" = "))
        .find(|(n, _)| *n == name);
    Ok(found.with_context(|| format!("no `{name}` in `{row}`"))?.1.to_owned())
}

fn number(row: &str, name: &str) -> Result<u64> {
    Ok(field(row, name)?.parse()?)
}

/// A counter of `/proc/net/netstat` (group `TcpExt`).
fn netstat(ns: &Netns, counter: &str) -> Result<u64> {
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat").context("cannot read the counters"))?;
    let mut lines = text.lines().filter_map(|l| l.strip_prefix("TcpExt: "));
    let (names, values) = lines.next().zip(lines.next()).context("no TcpExt")?;
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == counter);
    Ok(found.with_context(|| format!("no {counter}"))?.1.parse()?)
}

/// The client's name.
fn process() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/self/comm")?.trim().to_owned())
}

/// Connects from the node to the peer, in a thread with a name of its own.
fn connect(lab: &Lab, to: SocketAddr) -> Result<TcpStream> {
    lab.node.run(|| {
        nix::sys::prctl::set_name(THREAD)?;
        TcpStream::connect_timeout(&to, Duration::from_secs(20)).with_context(|| format!("cannot connect to {to}"))
    })
}

fn pair(lab: &Lab, ip: impl Into<IpAddr>, port: u16) -> Result<Connection> {
    let to = SocketAddr::new(ip.into(), port);
    let listener = lab
        .peer
        .run(|| TcpListener::bind(to).with_context(|| format!("cannot listen on {to}")))?;
    let node_side = connect(lab, to)?;
    let (peer_side, _) = listener.accept()?;
    Ok(Connection { node_side, peer_side })
}

/// Closes the client's side first, and waits until both kernels have forgotten it.
fn close(connection: Connection) -> Result<()> {
    let Connection { mut node_side, peer_side } = connection;
    node_side.shutdown(Shutdown::Write)?;
    let mut nothing = Vec::new();
    (&peer_side).take(1).read_to_end(&mut nothing)?;
    drop(peer_side);
    node_side.read_to_end(&mut nothing)?;
    Ok(())
}

/// A SYN, a SYN-ACK, every seventh packet with data and a last one are lost on their way; the sums of both sides are those of the
/// kernels, by kind, too. The row of the connection is that of `ss -ti`, and stays when the connection is closed.
fn sums() -> Result<()> {
    let lab = Lab::new()?;
    lab.node.sysctl("net/ipv4/tcp_early_retrans", "3")?;
    let peer = lab.peer.name();
    let more = format!(
        r#"use retransmits(netns="{peer}") as pe; end {{ print(@pe.stats); print(@pe.destinations); }}
        re:retransmit {{ @segs[re.kind] = sum(re.segs); @last[re.flow] = max(re.total); @who[re.comm, re.dst] = count(); }}
        pe:synack {{ @synacks[pe.dst, pe.sport] = count(); }}
        tc:peer0@{peer}:ingress /tcp.syn/ {{ @syn++; if (@syn == 1) {{ drop(); }} }}
        tc:veth0:ingress /tcp.syn/ {{ @synack++; if (@synack == 1) {{ drop(); }} }}
        tc:peer0@{peer}:ingress /tcp.payload_len == 33/ {{ @tail++; if (@tail == 1) {{ drop(); }} }}
        tc:peer0@{peer}:ingress /tcp.payload_len > 33/ {{ @n++; if (@n % 7 == 3) {{ drop(); }} }}"#
    );
    let mut weir = start(&lab, &more)?;
    let mut connection = pair(&lab, lab.peer4(), PORT)?;
    connection.transfer(400_000)?;
    connection.all_acknowledged()?;
    // Of a connection that has lost nothing yet: else there are no probes.
    let mut quiet = pair(&lab, lab.peer4(), QUIET)?;
    quiet.transfer(33)?;
    quiet.all_acknowledged()?;
    let key = format!("{} > {}:{PORT} tcp", connection.node_side.local_addr()?, lab.peer4());
    let TcpInfo {
        total_retrans: retransmitted,
        data_segs_out: sent,
        ..
    } = tcp_info(&connection.node_side)?;
    weir.signal(Signal::SIGUSR1)?;
    weir.wait_stdout("the tables", |text| text.contains("@re.stats[untracked]"))?;
    close(connection)?;
    close(quiet)?;
    let done = weir.stop()?.clean()?;

    let kernel = |ns: &Netns| ns.snmp("Tcp", "RetransSegs");
    let (ours, theirs) = (stats(&done, "re"), stats(&done, "pe"));
    ensure!(
        ours["retransmits"] == kernel(&lab.node)?,
        "node: {ours:?}, kernel {}",
        kernel(&lab.node)?
    );
    ensure!(
        theirs["retransmits"] == kernel(&lab.peer)?,
        "peer: {theirs:?}, kernel {}",
        kernel(&lab.peer)?
    );
    ensure!(
        ours["syn"] == netstat(&lab.node, "TCPSynRetrans")? && ours["syn"] >= 1,
        "{ours:?}, kernel {}",
        netstat(&lab.node, "TCPSynRetrans")?
    );
    ensure!(
        theirs["synack"] == netstat(&lab.peer, "TCPSynRetrans")? && theirs["synack"] >= 1,
        "{theirs:?}"
    );
    let probes = netstat(&lab.node, "TCPLossProbes")?;
    ensure!((1..=probes).contains(&ours["tlp"]), "{ours:?}, kernel {probes} probes");
    ensure!(ours["fast"] >= 1 && ours["untracked"] == 0, "{ours:?}");

    // By the events, by destination, process and connection it is the same.
    let client = process()?;
    let sums = done.map("@segs");
    for kind in ["syn", "tlp", "fast", "rto", "other"] {
        let n = sums.get(kind).map_or(Ok(0), |n| n.parse())?;
        ensure!(n == ours[kind], "{kind}: {n} by events, {ours:?}");
    }
    done.expect_entry("@last", &key, retransmitted)?;
    ensure!(
        done.map("@who").keys().all(|k| *k == format!("{client}, {}", lab.peer4())),
        "{done}"
    );
    done.expect_entry("@synacks", &format!("{}, {PORT}", lab.node4()), theirs["synack"])?;

    let rows = |text: &str, table: &str| weir_tests::output::map(text, &format!("@re.{table}"));
    let first = done.stdout.split_once("@re.stats[untracked]").context("no tables")?.0;
    let open = rows(first, "connections");
    let row = open.get(&key).with_context(|| format!("no `{key}`: {done}"))?;
    ensure!(
        number(row, "retransmits")? == retransmitted && number(row, "sent")? == sent,
        "{row}: {retransmitted} of {sent}"
    );
    ensure!(field(row, "state")? == "ESTABLISHED" && field(row, "process")? == client, "{row}");
    ensure!(number(row, "pid")? == u64::from(std::process::id()), "{row}");
    // What is printed at the end comes behind, and goes before.
    for (table, key) in [
        ("connections", key.as_str()),
        ("processes", &client),
        ("destinations", &lab.peer4().to_string()),
    ] {
        let row = done
            .map(&format!("@re.{table}"))
            .remove(key)
            .with_context(|| format!("no `{key}`: {done}"))?;
        let expected = if table == "connections" {
            retransmitted
        } else {
            ours["retransmits"]
        };
        ensure!(
            number(&row, "retransmits")? == expected && number(&row, "sent")? >= sent,
            "{table}: {row}"
        );
        let percent = 100.0 * number(&row, "retransmits")? as f64 / number(&row, "sent")? as f64;
        ensure!(field(&row, "ratio")? == format!("{percent:.2}%"), "{row}: {percent}");
        if table == "connections" {
            ensure!(field(&row, "state")? == "CLOSE", "{row}");
        }
    }
    Ok(())
}

fn netem() -> Result<()> {
    let lab = Lab::new()?;
    traffic::one_segment_a_packet(&lab)?;
    let weir = start(&lab, "re:retransmit { @ = sum(re.segs); }")?;
    let mut connection = pair(&lab, lab.peer4(), PORT)?;
    traffic::netem_loss(&lab, 10)?;
    weir_tests::wait_for("loss", || {
        connection.transfer(100_000)?;
        Ok((lab.node.snmp("Tcp", "RetransSegs")? >= 10).then_some(()))
    })?;
    connection.all_acknowledged()?;
    let done = weir.stop()?.clean()?;
    let kernel = lab.node.snmp("Tcp", "RetransSegs")?;
    let ours = stats(&done, "re");
    ensure!(ours["retransmits"] == kernel, "{ours:?}, kernel {kernel}");
    done.expect_entry("@", "", kernel)
}

/// A connection older than weir counts from weir's start; it is known whose it is.
fn older() -> Result<()> {
    let lab = Lab::new()?;
    let mut connection = pair(&lab, lab.peer6(), PORT)?;
    connection.transfer(10_000)?;
    connection.lose(&lab, 1)?;
    let before = lab.node.snmp("Tcp", "RetransSegs")?;
    let sent_before = tcp_info(&connection.node_side)?.data_segs_out;
    let weir = start(&lab, "re:retransmit { @[re.dst, re.pid] = sum(re.segs); }")?;
    connection.lose(&lab, 2)?;
    let sent = tcp_info(&connection.node_side)?.data_segs_out - sent_before;
    let done = weir.stop()?.clean()?;
    let kernel = lab.node.snmp("Tcp", "RetransSegs")? - before;
    let pid = std::process::id();
    done.expect_entry("@", &format!("{}, {pid}", lab.peer6()), kernel)?;
    let rows = done.map("@re.destinations");
    let row = rows.get(&lab.peer6().to_string()).with_context(|| done.to_string())?;
    ensure!(
        number(row, "retransmits")? == kernel && number(row, "sent")? == sent,
        "{row}: {kernel} of {sent}"
    );
    // It was opened before anybody looked at who does it: the name is the process's.
    ensure!(done.map("@re.processes").contains_key(&process()?), "{done}");
    Ok(())
}

/// The namespace that is counted goes: weir has not kept it, says so, goes on, and still has what was counted.
fn namespace_gone() -> Result<()> {
    let lab = Lab::new()?;
    let script = format!(r#"use retransmits(netns="{}") as re; end {PRINT}"#, lab.node.name());
    let mut weir = Weir::script(&script).start()?;
    let mut connection = pair(&lab, lab.peer4(), PORT)?;
    connection.lose(&lab, 2)?;
    let kernel = lab.node.snmp("Tcp", "RetransSegs")?;
    let (to, name) = (lab.peer4().to_string(), lab.node.name().to_owned());
    close(connection)?;
    drop(lab);
    weir.wait_stderr("word of the namespace", |text| {
        text.contains(&format!("network namespace `{name}` is gone: what was counted stays"))
    })?;
    let done = weir.stop()?.clean()?;
    let rows = done.map("@re.destinations");
    let row = rows.get(&to).with_context(|| done.to_string())?;
    ensure!(number(row, "retransmits")? == kernel, "{row}: {kernel}");
    ensure!(done.stderr.matches("is gone").count() == 1, "said more than once: {done}");
    Ok(())
}

/// One connection has a row, the other only a part in the sum; so when they end at once.
fn full() -> Result<()> {
    let lab = Lab::new()?;
    let script =
        format!(r#"use retransmits(netns="/proc/self/ns/net", max=1) as re; self:signal:SIGUSR2 {{ print(@re.stats); }} end {PRINT}"#);
    let mut weir = Weir::script(&script).at(&lab).start()?;
    let mut first = pair(&lab, lab.peer4(), PORT)?;
    let mut second = pair(&lab, lab.peer4(), QUIET)?;
    first.lose(&lab, 1)?;
    let of_first = tcp_info(&first.node_side)?.total_retrans;
    second.lose(&lab, 2)?;
    let of_second = tcp_info(&second.node_side)?.total_retrans;
    weir.signal(Signal::SIGUSR2)?;
    weir.wait_stderr("word of the pressure", |text| text.contains("1 connections of at most 1"))?;
    close(first)?;
    close(second)?;
    let done = weir.stop()?.clean()?;
    let kernel = lab.node.snmp("Tcp", "RetransSegs")?;
    let ours = stats(&done, "re");
    ensure!(ours["retransmits"] == kernel, "{ours:?}, kernel {kernel}");
    ensure!(
        (of_first, of_second) == (kernel - ours["untracked"], ours["untracked"]),
        "{of_first}, {of_second}: {ours:?}"
    );
    ensure!(
        done.stderr.contains("1 connections of at most 1") && done.stderr.contains("`max=4`"),
        "{done}"
    );
    Ok(())
}

/// SYNs that nobody answers: all that was sent was sent again. Cleared, they are not counted any more.
fn nobody() -> Result<()> {
    let lab = Lab::new()?;
    let mut weir = start(
        &lab,
        "self:signal:SIGUSR2 { print(@re, 3); clear(@re.destinations); print(@re.stats); }",
    )?;
    lab.cut(true)?;
    let to = SocketAddr::new(lab.peer4().into(), PORT);
    let failed = lab.node.run(|| Ok(TcpStream::connect_timeout(&to, Duration::from_millis(1500))))?;
    ensure!(failed.is_err(), "connected through a cut cable");
    lab.cut(false)?;
    let kernel = lab.node.snmp("Tcp", "RetransSegs")?;
    ensure!(kernel >= 1, "no SYN was sent again");
    weir.signal(Signal::SIGUSR2)?;
    weir.wait_stdout("the numbers", |text| text.contains("@re.stats[untracked]"))?;
    let done = weir.stop()?.clean()?;
    let summary = done.stdout.split_once("@re.stats").context("no numbers")?.0;
    let line = summary
        .lines()
        .find(|l| l.trim_start().starts_with(&lab.peer4().to_string()))
        .with_context(|| done.to_string())?;
    let words: Vec<&str> = line.split_whitespace().collect();
    ensure!(words[1..4] == [&kernel.to_string(), "0", "100%"], "{line}");
    ensure!(
        summary.starts_with("@re: retransmits\n  destinations  retransmits  sent  ratio"),
        "{summary}"
    );
    ensure!(stats(&done, "re")["retransmits"] == 0, "{done}");
    Ok(())
}

/// A server that closes with data unread resets; both sides know it, and whose it was.
fn resets() -> Result<()> {
    let lab = Lab::new()?;
    let peer = lab.peer.name();
    let more = format!(
        r#"use retransmits(netns="{peer}") as pe; end {{ print(@pe.stats); print(@pe.destinations); }}
        re:reset_in {{ @in[re.flow, re.comm] = count(); }} pe:reset_out {{ @out[pe.dst, pe.sport] = count(); @who[pe.sport, pe.comm, pe.pid] = count(); }}"#
    );
    let weir = start(&lab, &more)?;
    let refused = lab
        .node
        .run(|| Ok(TcpStream::connect(SocketAddr::new(lab.peer4().into(), QUIET))))?;
    ensure!(refused.is_err(), "somebody listens");
    // Of a reset without a socket older kernels have no event.
    let seen = usize::from(features::kernel_version()? >= (6, 10));
    let Connection { mut node_side, peer_side } = pair(&lab, lab.peer4(), PORT)?;
    let from = node_side.local_addr()?;
    node_side.write_all(b"nobody reads this")?;
    peer_side.peek(&mut [0])?;
    drop(peer_side);
    let error = node_side.read(&mut [0]).err().context("no reset came")?;
    ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
    drop(node_side);
    let done = weir.stop()?.clean()?;
    let (ours, theirs) = (stats(&done, "re"), stats(&done, "pe"));
    ensure!((ours["resets_in"], ours["resets_out"]) == (2, 0), "{ours:?}");
    ensure!((theirs["resets_in"], theirs["resets_out"]) == (0, 1 + seen as u64), "{theirs:?}");
    ensure!(lab.peer.snmp("Tcp", "OutRsts")? == 2, "the kernel has sent others");
    done.expect_entry("@in", &format!("{from} > {}:{PORT} tcp, {}", lab.peer4(), process()?), 1)?;
    done.expect_entry("@out", &format!("{}, {PORT}", lab.node4()), 1)?;
    let who = [
        (format!("{PORT}, {}, {}", process()?, std::process::id()), 1),
        (format!("{QUIET}, kernel, 0"), 1),
    ];
    done.expect_map("@who", who.into_iter().take(1 + seen))?;
    let rows = done.map("@re.processes");
    let row = rows.get(&process()?).with_context(|| done.to_string())?;
    ensure!(number(row, "resets_in")? == 2, "{row}");
    Ok(())
}

fn refused() -> Result<()> {
    let lab = Lab::new()?;
    Weir::script(r#"use retransmits(netns="no-such-namespace") as re;"#)
        .at(&lab)
        .run()?
        .refused(&["no network namespace `no-such-namespace`", lab.node.name(), "^^^"])?
        .nothing_left()?;
    // What is there and is something else: the folder of all names, a file, a namespace of another kind.
    for name in ["", "/etc/passwd", "/proc/self/ns/mnt"] {
        Weir::script(&format!(r#"use retransmits(netns="{name}") as re;"#))
            .at(&lab)
            .run()?
            .refused(&[&format!("`{name}` is no network namespace"), "leave `netns` out", "^^"])?
            .nothing_left()?;
    }
    Ok(())
}
