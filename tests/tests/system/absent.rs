//! A field without its header is absent: never an error, never a zero that looks like a value.
//!
//! Every test sends the same frames from one source: to port 22 and 80 by TCP, to port 22 by UDP, and echo requests.

use anyhow::Result;
use std::net::Ipv4Addr;
use weir_tests::frame::Frame;
use weir_tests::harness::Test;
use weir_tests::net::Lab;
use weir_tests::traffic;
use weir_tests::weir::{Finished, Weir};

pub const TESTS: &[Test] = &[
    Test::new("absent_comparison_is_false_and_its_negation_true", comparisons),
    Test::new("absent_key_makes_the_statement_without_effect", keys),
    Test::new("absent_condition_runs_else", conditions),
    Test::new("absent_value_has_a_default", defaults),
    Test::new("has_tells_whether_a_header_is_there", has),
];

const TCP_22: u32 = 5;
const TCP_80: u32 = 7;
const UDP_22: u32 = 3;
const ECHO: u32 = 2;

/// Runs the script, in which `FROM` stands for "it is one of our frames", and sends the frames.
fn with_frames(script: &str) -> Result<Finished> {
    let lab = Lab::new()?;
    let source = Ipv4Addr::new(10, 66, 0, 1);
    let weir = Weir::script(&script.replace("FROM", &format!("ip.src == {source}")))
        .at(&lab)
        .start()?;
    let to = lab.node4();
    traffic::send_frames(
        &lab,
        &[
            (TCP_22, Frame::syn(source, to, 22)),
            (TCP_80, Frame::syn(source, to, 80)),
            (UDP_22, Frame::udp(source, to, 22)),
            (ECHO, Frame::echo(source, to)),
        ],
    )?;
    traffic::settle(&lab)?;
    weir.stop()?.clean()
}

fn comparisons() -> Result<()> {
    let done = with_frames(
        "xdp:veth0 /FROM && tcp.dport == 22/ { @equal = count(); }
         xdp:veth0 /FROM && tcp.dport != 22/ { @unequal = count(); }
         xdp:veth0 /FROM && !(tcp.dport == 22)/ { @not_equal = count(); }
         xdp:veth0 /FROM && !(tcp.dport != 22)/ { @not_unequal = count(); }
         xdp:veth0 /FROM && (tcp.dport == 22 || udp.dport == 22)/ { @either = count(); }
         xdp:veth0 /FROM && port.dst == 22/ { @port = count(); }
         xdp:veth0 /FROM && tcp.dport < 65535/ { @less = count(); }",
    )?;
    done.expect_map("@equal", [("", TCP_22)])?;
    done.expect_map("@unequal", [("", TCP_80)])?;
    done.expect_map("@not_equal", [("", TCP_80 + UDP_22 + ECHO)])?;
    done.expect_map("@not_unequal", [("", TCP_22 + UDP_22 + ECHO)])?;
    done.expect_map("@either", [("", TCP_22 + UDP_22)])?;
    done.expect_map("@port", [("", TCP_22 + UDP_22)])?;
    done.expect_map("@less", [("", TCP_22 + TCP_80)])
}

fn keys() -> Result<()> {
    let done = with_frames("xdp:veth0 /FROM/ { @tcp[tcp.dport] = count(); @udp[ip.src, udp.dport] = count(); @all = count(); }")?;
    done.expect_map("@tcp", [("22", TCP_22), ("80", TCP_80)])?;
    done.expect_map("@udp", [("10.66.0.1, 22", UDP_22)])?;
    done.expect_map("@all", [("", TCP_22 + TCP_80 + UDP_22 + ECHO)])
}

fn conditions() -> Result<()> {
    let done = with_frames("xdp:veth0 /FROM/ { if (tcp.dport == 22) { @then = count(); } else { @else = count(); } }")?;
    done.expect_map("@then", [("", TCP_22)])?;
    done.expect_map("@else", [("", TCP_80 + UDP_22 + ECHO)])
}

fn defaults() -> Result<()> {
    let done = with_frames("xdp:veth0 /FROM/ { @[tcp.dport ?: 0] = count(); }")?;
    done.expect_map("@", [("0", UDP_22 + ECHO), ("22", TCP_22), ("80", TCP_80)])
}

fn has() -> Result<()> {
    let done = with_frames(
        "xdp:veth0 /FROM && has(tcp)/ { @tcp = count(); }
         xdp:veth0 /FROM && !has(tcp)/ { @rest = count(); }
         xdp:veth0 /FROM && has(udp.dport)/ { @udp = count(); }",
    )?;
    done.expect_map("@tcp", [("", TCP_22 + TCP_80)])?;
    done.expect_map("@rest", [("", UDP_22 + ECHO)])?;
    done.expect_map("@udp", [("", UDP_22)])
}
