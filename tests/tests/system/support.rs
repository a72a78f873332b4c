//! The support library before a real kernel, without weir: a traffic generator that miscounts or an oracle that sees nothing
//! would make every other test worthless.

use anyhow::{Result, ensure};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use weir_tests::frame::Frame;
use weir_tests::harness::Test;
use weir_tests::kernel::{self, KernelState};
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::traffic::{self, Connected, Connection};

pub const TESTS: &[Test] = &[
    Test::new("support_frames_arrive_exactly", frames),
    Test::new("support_the_cable_carries_nothing_else", silence),
    Test::new("support_cutting_the_cable_makes_retransmissions", cut),
    Test::new("support_tcp_reaches_the_other_end", tcp),
    Test::new("support_leftovers_are_seen", leftovers).alone(),
    Test::new("support_a_lab_removes_itself_after_a_panic", panic),
];

fn frames() -> Result<()> {
    let lab = Lab::new()?;
    let (node4, node6) = (lab.node4(), lab.node6());
    let socket4 = traffic::listen_udp(&lab.node, SocketAddr::new(node4.into(), 5000))?;
    let socket6 = traffic::listen_udp(&lab.node, SocketAddr::new(node6.into(), 5000))?;
    // The kernel checks addresses and checksums, so what arrives was right.
    let stranger = Ipv4Addr::new(192, 0, 2, 1);
    let stranger6: Ipv6Addr = "2001:db8::1".parse()?;
    traffic::send_frames(
        &lab,
        &[(17, Frame::udp(stranger, node4, 5000)), (19, Frame::udp(stranger6, node6, 5000))],
    )?;
    traffic::send_udp(&lab.peer, lab.peer6().into(), SocketAddr::new(node6.into(), 5000), 3)?;
    traffic::settle(&lab)?;
    ensure!(traffic::received(&socket4)? == 17, "IPv4 frames were lost");
    ensure!(traffic::received(&socket6)? == 22, "IPv6 frames were lost");
    Ok(())
}

/// Packets that the node's end has received.
fn received_packets(lab: &Lab) -> Result<u64> {
    let links = lab.node.ip(&["-s", "-j", "link", "show", "dev", NODE_IF])?;
    let links: serde_json::Value = serde_json::from_str(&links)?;
    let packets = links[0]["stats64"]["rx"]["packets"].as_u64();
    packets.ok_or_else(|| anyhow::anyhow!("no packet count in {links}"))
}

fn silence() -> Result<()> {
    let lab = Lab::new()?;
    traffic::send_frames(&lab, &[(5, Frame::echo(lab.peer4(), Ipv4Addr::new(192, 0, 2, 1)))])?;
    traffic::settle(&lab)?;
    let packets = received_packets(&lab)?;
    ensure!(packets == 6, "five frames and the last one were sent, {packets} came");
    Ok(())
}

fn cut() -> Result<()> {
    let lab = Lab::new()?;
    let mut connection = Connection::open(&lab, 4433)?;
    ensure!(lab.node.snmp("Tcp", "RetransSegs")? == 0, "a retransmission on an empty cable");
    connection.lose(&lab, 2)?;
    connection.transfer(10_000)?;
    ensure!(lab.node.snmp("Tcp", "RetransSegs")? >= 2, "no retransmission");
    ensure!(lab.peer.snmp("Tcp", "RetransSegs")? == 0, "the peer retransmitted");
    Ok(())
}

fn tcp() -> Result<()> {
    let lab = Lab::new()?;
    ensure!(
        traffic::tcp_echo(&lab, 8080, Duration::from_secs(20))? == Connected::Yes,
        "no connection"
    );
    Ok(())
}

fn leftovers() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    lab.node.tc(&["qdisc", "add", "dev", NODE_IF, "clsact"])?;
    let map = kernel::make_map()?;
    let mine = kernel::held_by(std::process::id());
    ensure!(!mine.is_empty(), "a map that we hold is not seen");
    let (objects, changes) = before.changes(Some(&lab.node))?;
    ensure!(
        changes.iter().any(|c| c.starts_with("left: qdisc clsact")),
        "a qdisc was not seen: {changes:?}"
    );
    ensure!(objects.iter().any(|o| mine.contains(o)), "a map was not seen: {objects:?}");
    drop(map);
    kernel::assert_gone(&mine)?;
    lab.node.tc(&["qdisc", "del", "dev", NODE_IF, "clsact"])?;
    before.assert_same(Some(&lab.node))
}

fn panic() -> Result<()> {
    let mut name = String::new();
    let mut dir = std::path::PathBuf::new();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let lab = Lab::new();
        if let Ok(lab) = &lab {
            name = lab.node.name().to_owned();
            dir = lab.dir.path().to_owned();
        }
        // Without the hook, so that the report of the tests stays readable.
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    ensure!(result.is_err() && !name.is_empty(), "the lab was not made");
    ensure!(
        !std::path::Path::new("/run/netns").join(&name).exists(),
        "the namespace {name} is left"
    );
    ensure!(!dir.exists(), "{} is left", dir.display());
    Ok(())
}
