//! `cargo xtask bench flows`: the flow aggregator beside the same job in C (`ebpf-builtins/bench/flows.c`).
//!
//! Both run at XDP by `BPF_PROG_TEST_RUN`, by turns, each packet of another of so many flows: `xtask/bench/draw.bpf.c` draws its source and
//! jumps. Input: the program to measure. Output: a table on standard output.

use crate::packets::{Pins, bpftool, one, xdp_id};
use crate::{apt, bench, proc};
use anyhow::{Context, Result, ensure};
use std::process::ExitCode;
use weir_tests::frame::{Frame, Payload};
use weir_tests::net::Lab;
use weir_tests::weir::Weir;

const XDP_PASS: u64 = 2;
/// How many flows there are, and what `draw.bpf.c` calls so many sources; one flow is drawn by nobody.
const LIVE: &[(&str, Option<&str>)] = &[("1", None), ("1 024", Some("1k")), ("131 072", Some("128k"))];

/// # Errors
/// Something is missing on the machine, or a packet does not pass.
pub fn run(weir: &std::path::Path, runs: usize) -> Result<ExitCode> {
    apt::install(apt::PACKETS)?;
    let pins = Pins::new()?;
    pins.load(&proc::repo().join("xtask/bench/draw.bpf.c"), "draw")?;
    pins.load(&proc::repo().join("ebpf-builtins/bench/flows.c"), "flows")?;
    let next = pins.map("draw", "next");
    let next = ["pinned", next.to_str().context("a path that is no text")?];
    let c = pins.program("flows", "flows_c");
    let c = ["pinned", c.to_str().context("a path that is no text")?];
    let lab = Lab::new()?;
    let payload = Payload::Tcp {
        sport: 40_000,
        dport: 443,
        flags: 0x10,
        data: vec![7; 100],
    };
    let frames = [
        ("IPv4", "v4", Frame::new(lab.peer4(), lab.node4(), payload.clone())),
        ("IPv6", "v6", Frame::new(lab.peer6(), lab.node6(), payload)),
    ];
    let script = "use flows(iface=\"veth0\", hook=\"xdp\", max=524288, idle=\"1h\") as fl;";
    let running = Weir::script(script).program(weir).at(&lab).start()?;
    let id = xdp_id(&running)?;
    let ours = ["id", id.as_str()];
    println!("| flows | drawing | weir | C | weir / C |\n|---|---:|---:|---:|---:|");
    for (family, prefix, frame) in &frames {
        let path = pins.dir().join(family);
        std::fs::write(&path, frame.bytes())?;
        for (count, sources) in LIVE {
            let drawn = sources.map(|sources| pins.program("draw", &format!("{prefix}_{sources}")));
            let (mut nothing, mut weir, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
            // The first round makes the flows, and is not counted.
            for round in 0..=runs {
                proc::progress(&format!("{count} flows of {family}: round {round} of {runs}"));
                for (program, times) in [(None, &mut nothing), (Some(ours), &mut weir), (Some(c), &mut theirs)] {
                    let (said, ns) = match (&drawn, program) {
                        (None, None) => continue,
                        (None, Some(program)) => one(&program, &path)?,
                        (Some(draw), program) => {
                            let slot = ["key", "0", "0", "0", "0"];
                            match program {
                                Some(program) => bpftool(&[&["map", "update"], &next[..], &slot, &["value"], &program].concat())?,
                                None => bpftool(&[&["map", "delete"], &next[..], &slot].concat()).unwrap_or_default(),
                            };
                            one(&["pinned", draw.to_str().context("a path that is no text")?], &path)?
                        }
                    };
                    ensure!(said == XDP_PASS, "{count} flows of {family}: verdict {said}");
                    if round > 0 {
                        times.push(ns);
                    }
                }
            }
            proc::progress("");
            let ratio = bench::median(weir.iter().zip(&theirs).map(|(a, b)| a / b).collect());
            let nothing = if nothing.is_empty() { 0.0 } else { bench::median(nothing) };
            println!(
                "| {count} {family} | {nothing:.0} ns | {:.0} ns | {:.0} ns | {ratio:.2} |",
                bench::median(weir),
                bench::median(theirs)
            );
        }
    }
    running.stop()?;
    Ok(ExitCode::SUCCESS)
}
