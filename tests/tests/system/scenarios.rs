//! What people do, verbatim: flows and retransmissions by process and destination, with real traffic and real loss, equal to
//! what the kernel itself counts; and what its tracepoints see beyond `tcp_retransmit_skb`.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use weir_tests::features::Feature;
use weir_tests::frame::Frame;
use weir_tests::harness::Need::Has;
use weir_tests::harness::Test;
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::traffic::{self, Connection};
use weir_tests::weir::Weir;
use weir_tests::{output, patience};

pub const TESTS: &[Test] = &[
    Test::new("flows_are_counted_by_process_and_destination", flows).needs(&[Has(Feature::Kprobe)]),
    Test::new("the_retransmit_ratio_equals_the_kernels_counters", ratio).needs(&[Has(Feature::Kprobe), Has(Feature::Netem)]),
    Test::new("a_tail_loss_probe_is_seen_by_the_tracepoint", tail_loss_probe),
    Test::new("repeated_syn_acks_are_seen_by_the_tracepoint", syn_acks),
];

const FLOWS: &str = "kprobe:tcp_sendmsg {
    $sk = (struct sock *)arg0;
    $daddr = ntop(AF_INET, $sk->__sk_common.skc_daddr);
    $dport = $sk->__sk_common.skc_dport >> 8;
    @flows[comm, $daddr, $dport] = count();
}
interval:s:30 { print(@flows); clear(@flows); }
";

const RATIO: &str = r#"kprobe:tcp_retransmit_skb {
    $sk = (struct sock *)arg0;
    $daddr = ntop(AF_INET, $sk->__sk_common.skc_daddr);
    @retx[comm, $daddr] = count();
}
kprobe:tcp_sendmsg {
    $sk = (struct sock *)arg0;
    $daddr = ntop(AF_INET, $sk->__sk_common.skc_daddr);
    @sends[comm, $daddr] = count();
}
interval:s:10 {
    printf("=== Retransmit ratio (last 10s) ===\n");
    print(@retx);
    print(@sends);
    clear(@retx);
    clear(@sends);
}
"#;

/// Writes one byte `count` times from a thread of this name: one `tcp_sendmsg` each.
fn send(connection: &mut Connection, comm: &'static str, count: usize) -> Result<()> {
    let Connection { node_side, peer_side } = connection;
    peer_side.set_read_timeout(Some(patience()))?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<()> {
            nix::sys::prctl::set_name(&std::ffi::CString::new(comm)?)?;
            (0..count).try_for_each(|_| node_side.write_all(b"x").context("cannot send"))
        });
        peer_side.read_exact(&mut vec![0; count]).context("not all of it arrived")?;
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn flows() -> Result<()> {
    const SENDS: usize = 17;
    let lab = Lab::new()?;
    let mut connection = Connection::open(&lab, 443)?;
    let weir = Weir::new(["--timeout", "120", "-e", FLOWS]).at(&lab).start()?;
    send(&mut connection, "weir-flows", SENDS)?;
    let done = weir.stop()?.clean()?;
    // As it was written: the port's bytes are swapped, and the program says so.
    let key = format!("weir-flows, {}, {}", lab.peer4(), 443 & 0xff);
    let seen: usize = printed(&done.stdout, "@flows", |k| k == key).iter().sum();
    ensure!(seen == SENDS, "{key} was counted {seen} times: {done}");
    ensure!(
        done.stderr.contains("network byte order") && done.stderr.contains("bswap"),
        "{done}"
    );
    Ok(())
}

/// The values of a map's entries, over all times it was printed.
fn printed(text: &str, map: &str, wanted: impl Fn(&str) -> bool) -> Vec<usize> {
    let entries = text.lines().flat_map(|line| output::map(line, map));
    entries.filter(|(key, _)| wanted(key)).filter_map(|(_, n)| n.parse().ok()).collect()
}

fn ratio() -> Result<()> {
    const SENDS: usize = 9;
    let lab = Lab::new()?;
    traffic::one_segment_a_packet(&lab)?;
    let mut connection = Connection::open(&lab, 443)?;
    let mut weir = Weir::script(RATIO).at(&lab).start()?;
    // Not across an interval's end: what comes between `print` and `clear` is nobody's.
    weir.wait_stdout("the first interval", |text| text.contains("=== Retransmit ratio (last 10s) ==="))?;
    send(&mut connection, "weir-ratio", SENDS)?;
    traffic::netem_loss(&lab, 30)?;
    weir_tests::wait_for("loss", || {
        connection.transfer(10_000)?;
        Ok((lab.node.snmp("Tcp", "RetransSegs")? >= 3).then_some(()))
    })?;
    connection.all_acknowledged()?;
    let done = weir.stop()?.clean()?;
    let peer = lab.peer4().to_string();
    let retransmitted = usize::try_from(lab.node.snmp("Tcp", "RetransSegs")?)?;
    // Whose turn it was when the timer fired says nothing.
    let seen: usize = printed(&done.stdout, "@retx", |k| k.ends_with(&format!(", {peer}"))).iter().sum();
    ensure!(seen == retransmitted, "counted {seen}, the kernel {retransmitted}: {done}");
    let sends: usize = printed(&done.stdout, "@sends", |k| k == format!("weir-ratio, {peer}")).iter().sum();
    ensure!(sends == SENDS, "counted {sends} sends: {done}");
    Ok(())
}

/// Sent by `tcp_send_loss_probe`, past `tcp_retransmit_skb`.
fn tail_loss_probe() -> Result<()> {
    let lab = Lab::new()?;
    lab.node.sysctl("net/ipv4/tcp_early_retrans", "3")?;
    let mut connection = Connection::open(&lab, 4435)?;
    let weir = Weir::script("tracepoint:tcp:tcp_retransmit_skb { @[args.dport] = count(); }")
        .at(&lab)
        .start()?;
    // A round trip that is known: the probe's timer follows from it.
    connection.transfer(1000)?;
    connection.all_acknowledged()?;
    connection.lose(&lab, 1)?;
    let done = weir.stop()?.clean()?;
    ensure!(
        lab.node.netstat("TcpExt", "TCPLossProbes")? >= 1,
        "the kernel sent no probe: {done}"
    );
    done.expect_entry("@", "4435", lab.node.snmp("Tcp", "RetransSegs")?)
}

fn syn_acks() -> Result<()> {
    const PORT: u16 = 8081;
    let lab = Lab::new()?;
    let stranger = Ipv4Addr::new(192, 0, 2, 9);
    let address = stranger.to_string();
    // There is a way to the stranger, and nobody at its end.
    lab.node.ip(&["route", "add", &address, "dev", NODE_IF])?;
    lab.node.ip(&[
        "neigh",
        "replace",
        &address,
        "lladdr",
        "02:00:00:00:00:99",
        "dev",
        NODE_IF,
        "nud",
        "permanent",
    ])?;
    let listener = lab.node.run(|| Ok(std::net::TcpListener::bind((lab.node4(), PORT))?))?;
    let script = "tracepoint:tcp:tcp_retransmit_synack { @[ntop(args.daddr), args.sport] = count(); } \
                  tracepoint:tcp:tcp_retransmit_skb /args.sport == 8081/ { @other = count(); }";
    let weir = Weir::script(script).at(&lab).start()?;
    traffic::send_frames(&lab, &[(1, Frame::syn(stranger, lab.node4(), PORT))])?;
    weir_tests::wait_for("a second SYN-ACK", || Ok((lab.node.snmp("Tcp", "RetransSegs")? >= 1).then_some(())))?;
    // Nothing is repeated when the listener has gone.
    drop(listener);
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [(format!("{stranger}, {PORT}"), lab.node.snmp("Tcp", "RetransSegs")?)])?;
    ensure!(done.map("@other").is_empty(), "{done}");
    Ok(())
}
