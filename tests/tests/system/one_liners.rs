//! The one-liners that the project promises, typed as there, before traffic whose counts are known.

use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use weir_tests::features::Feature;
use weir_tests::frame::Frame;
use weir_tests::harness::Need::{Has, Lacks};
use weir_tests::harness::Test;
use weir_tests::net::Lab;
use weir_tests::output::{map, numbers};
use weir_tests::traffic::{self, Connected, Connection};
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("begin_printf_prints_exactly_that", begin_printf),
    Test::new("json_has_one_object_a_line", json),
    Test::new("openat_is_counted_by_command", openat),
    Test::new("xdp_counts_and_drops_ssh_and_passes_the_rest", xdp_drop),
    Test::new("tc_counts_dns_over_udp_and_tcp_of_both_families", tc_dns),
    Test::new("blocklist_drops_what_is_listed_and_counts_it", blocklist),
    Test::new("kprobe_counts_retransmits_by_destination", kprobe_retransmits).needs(&[Has(Feature::Kprobe), Has(Feature::Netem)]),
    Test::new("kprobe_missing_is_named_and_the_tracepoint_offered", kprobe_missing).needs(&[Lacks(Feature::Kprobe)]),
    Test::new("tracepoint_counts_retransmits_by_port", tracepoint_port),
    Test::new("tracepoint_counts_retransmits_by_destination", tracepoint_destination),
];

const KPROBE: &str = "kprobe:tcp_retransmit_skb { $sk = (struct sock *)arg0; $daddr = ntop(AF_INET, $sk->__sk_common.skc_daddr); \
                      @retransmits[$daddr] = count(); } interval:s:60 { print(@retransmits); clear(@retransmits); exit(); }";

fn begin_printf() -> Result<()> {
    let done = Weir::script(r#"BEGIN { printf("%s %d\n", "hello", 42); exit(); }"#)
        .run()?
        .clean()?;
    // As bpftrace does, a run may end with empty lines before its maps, of which there are none here.
    let rest = done.stdout.strip_prefix("hello 42\n");
    ensure!(rest.is_some_and(|r| r.chars().all(|c| c == '\n')), "{done}");
    ensure!(done.attached, "it never said that it is attached: {done}");
    Ok(())
}

fn json() -> Result<()> {
    let script = r#"BEGIN { @a["x"] = 7; printf("%s %d\n", "hello", 42); exit(); }"#;
    let done = Weir::new(["-f", "json", "-e", script]).run()?.clean()?;
    let lines = done.stdout.lines().filter(|l| !l.trim().is_empty());
    let objects: Vec<serde_json::Value> = lines
        .map(|l| serde_json::from_str(l).with_context(|| format!("`{l}` is no JSON")))
        .collect::<Result<_>>()?;
    let of_type = |kind: &str| objects.iter().filter(|o| o["type"] == kind).map(|o| &o["data"]).collect::<Vec<_>>();
    ensure!(of_type("printf") == [&serde_json::json!("hello 42\n")], "{done}");
    ensure!(of_type("map") == [&serde_json::json!({"@a": {"x": 7}})], "{done}");
    Ok(())
}

fn openat() -> Result<()> {
    const OPENS: u32 = 37;
    let weir = Weir::script("tracepoint:syscalls:sys_enter_openat { @[comm] = count(); } interval:s:3 { print(@); exit(); }").start()?;
    traffic::open_files("weir-test-open", OPENS)?;
    let done = weir.wait()?.clean()?;
    done.expect_entry("@", "weir-test-open", OPENS)?;
    // Once by `print`, once at the end.
    let printed = done.stdout.lines().filter(|l| **l == format!("@[weir-test-open]: {OPENS}")).count();
    ensure!(printed == 2, "printed {printed} times: {done}");
    Ok(())
}

fn xdp_drop() -> Result<()> {
    let lab = Lab::new()?;
    let weir = Weir::script("xdp:veth0 /tcp.dport == 22/ { @[ip.src] = count(); drop(); }")
        .at(&lab)
        .start()?;
    let stranger = Ipv4Addr::new(192, 0, 2, 9);
    let stranger6: Ipv6Addr = "2001:db8::9".parse()?;
    let listener = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), 22))?;
    traffic::send_frames(
        &lab,
        &[
            (11, Frame::syn(stranger, lab.node4(), 22)),
            (5, Frame::syn(stranger6, lab.node6(), 22)),
            (3, Frame::udp(stranger, lab.node4(), 22)),
            (4, Frame::syn(stranger, lab.node4(), 2222)),
        ],
    )?;
    // A real client sends one SYN, and then one more with each retransmission, until it gives up.
    ensure!(
        traffic::tcp_echo(&lab, 22, Duration::from_millis(1500))? == Connected::TimedOut,
        "port 22 was reached"
    );
    let syns = 1 + lab.peer.snmp("Tcp", "RetransSegs")?;
    ensure!(
        traffic::tcp_echo(&lab, 8080, Duration::from_secs(20))? == Connected::Yes,
        "port 8080 was not reached"
    );
    traffic::settle(&lab)?;
    ensure!(traffic::received(&listener)? == 3, "UDP to port 22 was dropped");
    let done = weir.stop()?.clean()?;
    done.expect_map(
        "@",
        [
            (stranger.to_string(), 11),
            (stranger6.to_string(), 5),
            (lab.peer4().to_string(), syns),
        ],
    )?;
    ensure!(
        traffic::tcp_echo(&lab, 22, Duration::from_secs(20))? == Connected::Yes,
        "port 22 stays closed after the end"
    );
    Ok(())
}

fn tc_dns() -> Result<()> {
    let lab = Lab::new()?;
    let weir = Weir::script("tc:veth0:ingress /tcp.dport == 53 || udp.dport == 53/ { @dns[ip.src, port.dst] = count(); }")
        .at(&lab)
        .start()?;
    let (node4, node6, peer4, peer6) = (lab.node4(), lab.node6(), lab.peer4(), lab.peer6());
    traffic::send_udp(&lab.peer, peer4.into(), SocketAddr::new(node4.into(), 53), 7)?;
    traffic::send_udp(&lab.peer, peer6.into(), SocketAddr::new(node6.into(), 53), 5)?;
    traffic::send_udp(&lab.peer, peer4.into(), SocketAddr::new(node4.into(), 54), 9)?;
    // The other direction must not count.
    traffic::send_udp(&lab.node, node4.into(), SocketAddr::new(peer4.into(), 53), 9)?;
    let resolver = Ipv4Addr::new(192, 0, 2, 53);
    let resolver6: Ipv6Addr = "2001:db8::53".parse()?;
    traffic::send_frames(
        &lab,
        &[
            (2, Frame::syn(resolver, node4, 53)),
            (3, Frame::syn(resolver6, node6, 53)),
            (4, Frame::echo(resolver, node4)),
        ],
    )?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    done.expect_map(
        "@dns",
        [
            (format!("{peer4}, 53"), 7),
            (format!("{peer6}, 53"), 5),
            (format!("{resolver}, 53"), 2),
            (format!("{resolver6}, 53"), 3),
        ],
    )
}

fn blocklist() -> Result<()> {
    let lab = Lab::new()?;
    lab.dir.write(
        "bad.txt",
        "# what attacks us\n10.66.0.0/16\n192.0.2.7\n\n2001:db8:bad::/48 # and this\n",
    )?;
    let script = r#"use blocklist(iface="veth0", prefixes=file("bad.txt")) as bl; bl:drop { @[ip.src] = count(); } interval:s:1 { print(@bl.hits); }"#;
    let mut weir = Weir::script(script).at(&lab).start()?;
    let (node4, node6) = (lab.node4(), lab.node6());
    let v4 = |a: &str| a.parse::<Ipv4Addr>();
    let v6 = |a: &str| a.parse::<Ipv6Addr>();
    let good4 = traffic::listen_udp(&lab.node, SocketAddr::new(node4.into(), 5000))?;
    let good6 = traffic::listen_udp(&lab.node, SocketAddr::new(node6.into(), 5000))?;
    let frames = [
        (6, Frame::udp(v4("10.66.1.2")?, node4, 5000)),
        (4, Frame::udp(v4("10.66.255.255")?, node4, 5000)),
        (8, Frame::udp(v4("10.67.0.0")?, node4, 5000)),
        (3, Frame::syn(v4("192.0.2.7")?, node4, 80)),
        (5, Frame::udp(v4("192.0.2.8")?, node4, 5000)),
        (2, Frame::udp(v6("2001:db8:bad::1")?, node6, 5000)),
        (7, Frame::udp(v6("2001:db8:900d::1")?, node6, 5000)),
    ];
    traffic::send_frames(&lab, &frames)?;
    traffic::settle(&lab)?;
    ensure!(
        traffic::received(&good4)? == 8 + 5,
        "IPv4 sources that are not listed must pass, listed ones must not"
    );
    ensure!(
        traffic::received(&good6)? == 7,
        "IPv6 sources that are not listed must pass, listed ones must not"
    );
    let hits = |text: &str, prefix: &str| map(text, "@bl.hits").get(prefix).map(|v| numbers(v)).unwrap_or_default();
    weir.wait_stdout("the hits of 10.66.0.0/16", |text| hits(text, "10.66.0.0/16").contains(&10))?;
    weir.wait_stdout("the hits of 192.0.2.7/32", |text| hits(text, "192.0.2.7/32").contains(&3))?;
    weir.wait_stdout("the hits of 2001:db8:bad::/48", |text| hits(text, "2001:db8:bad::/48").contains(&2))?;
    let done = weir.stop()?.clean()?;
    done.expect_map(
        "@",
        [("10.66.1.2", 6), ("10.66.255.255", 4), ("192.0.2.7", 3), ("2001:db8:bad::1", 2)],
    )?;
    // The instance is owned by the process: the gate opens with its end.
    traffic::send_frames(&lab, &[(6, Frame::udp(v4("10.66.1.2")?, node4, 5000))])?;
    traffic::settle(&lab)?;
    ensure!(traffic::received(&good4)? == 6, "the list is still in force after the end");
    Ok(())
}

fn kprobe_retransmits() -> Result<()> {
    const AT_LEAST: u64 = 10;
    let lab = Lab::new()?;
    traffic::one_segment_a_packet(&lab)?;
    let mut connection = Connection::open(&lab, 443)?;
    let weir = Weir::script(KPROBE).at(&lab).start()?;
    traffic::netem_loss(&lab, 10)?;
    weir_tests::wait_for("loss", || {
        connection.transfer(100_000)?;
        Ok((lab.node.snmp("Tcp", "RetransSegs")? >= AT_LEAST).then_some(()))
    })?;
    connection.all_acknowledged()?;
    let done = weir.stop()?.clean()?;
    let retransmitted = lab.node.snmp("Tcp", "RetransSegs")?;
    done.expect_entry("@retransmits", &lab.peer4().to_string(), retransmitted)
}

fn kprobe_missing() -> Result<()> {
    let done = Weir::script(KPROBE)
        .run()?
        .refused(&["kprobe", "tracepoint:tcp:tcp_retransmit_skb"])?;
    ensure!(!done.attached, "it said that it is attached: {done}");
    Ok(())
}

fn tracepoint_port() -> Result<()> {
    const PORT: u16 = 4433;
    let lab = Lab::new()?;
    let mut connection = Connection::open(&lab, PORT)?;
    let weir = Weir::script("tracepoint:tcp:tcp_retransmit_skb { @[args.dport] = count(); }")
        .at(&lab)
        .start()?;
    connection.lose(&lab, 3)?;
    let done = weir.stop()?.clean()?;
    done.expect_entry("@", &PORT.to_string(), lab.node.snmp("Tcp", "RetransSegs")?)
}

fn tracepoint_destination() -> Result<()> {
    let lab = Lab::new()?;
    let mut connection = Connection::open(&lab, 4434)?;
    let weir = Weir::script("tracepoint:tcp:tcp_retransmit_skb { @[ntop(args.daddr)] = count(); }")
        .at(&lab)
        .start()?;
    connection.lose(&lab, 2)?;
    let done = weir.stop()?.clean()?;
    done.expect_entry("@", &lab.peer4().to_string(), lab.node.snmp("Tcp", "RetransSegs")?)
}
