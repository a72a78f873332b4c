//! `cargo xtask bench blocklist`: the blocklist beside the same job in C with the kernel's trie (`ebpf-builtins/bench/blocklist.c`).
//!
//! Both run in the kernel by `BPF_PROG_TEST_RUN`, by turns, each packet with another source: `xtask/bench/draw.bpf.c` draws it and jumps. A
//! benchmark with one source hides more than ten times the cost. Input: the program to measure. Output: a table on standard output.

use crate::packets::{Pins, bpftool, repeated, xdp_id};
use crate::{apt, proc};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;
use weir_tests::frame::Frame;
use weir_tests::net::Lab;
use weir_tests::weir::Weir;

const XDP_DROP: u64 = 1;
const XDP_PASS: u64 = 2;
/// As in `draw.bpf.c`.
pub const SPREAD: u32 = 2_654_435_769;
const SPREAD64: u64 = 11_400_714_819_323_198_485;
/// The lists: what `draw.bpf.c` calls them, and how many entries they have of each family.
const LISTS: &[(&str, u32)] = &[("1k", 1 << 10), ("128k", 1 << 17), ("1m", 1 << 20)];

/// Packets of a run, at least.
const FEWEST: u32 = 200_000;

fn least(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

/// A listed address, and the length of its prefix: half are hosts, the rest networks as lists have them.
pub fn entry4(number: u32) -> (Ipv4Addr, u32) {
    let len = [32, 32, 32, 32, 32, 24, 24, 24, 28, 20][number as usize % 10];
    let bits = number.wrapping_mul(SPREAD) & (u32::MAX << (32 - len));
    (bits.into(), len)
}

fn entry6(number: u32) -> (Ipv6Addr, u32) {
    let len = [128, 128, 128, 128, 64, 64, 64, 48, 48, 40][number as usize % 10];
    let high = u64::from(number).wrapping_mul(SPREAD64);
    let bits = u128::from(high >> 3 | 1 << 61) << 64 | u128::from(high);
    ((bits & (u128::MAX << (128 - len))).into(), len)
}

/// Writes the list as a file of prefixes, and as commands for bpftool that fill the C program's tries.
fn write_lists(count: u32, dir: &Path, maps: &Path) -> Result<()> {
    let (mut list, mut commands) = (String::new(), String::new());
    let mut add = |addr: &[u8], len: u32, map: &str| {
        let element = [&len.to_le_bytes()[..], addr].concat();
        let bytes: String = element.iter().map(|b| format!("{b:02x} ")).collect();
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            commands,
            "map update pinned {} key hex {bytes}value hex {bytes}",
            maps.join(map).display()
        );
    };
    for number in 0..count {
        let ((v4, len4), (v6, len6)) = (entry4(number), entry6(number));
        let _ = writeln!(list, "{v4}/{len4}\n{v6}/{len6}");
        add(&v4.octets(), len4, "BLOCK4");
        add(&v6.octets(), len6, "BLOCK6");
    }
    std::fs::write(dir.join("bad.txt"), list)?;
    std::fs::write(dir.join("commands"), commands)?;
    Ok(())
}

/// Bytes of memory that a process holds, the kernel's maps of it not included.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

/// Bytes of all maps that a process holds, as the kernel accounts them.
fn maps_bytes(pid: u32) -> Result<u64> {
    let mut seen = std::collections::BTreeMap::new();
    for fd in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = std::fs::read_to_string(fd?.path()) else { continue };
        let of = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(bytes)) = (of("map_id:"), of("memlock:")) {
            seen.insert(id, bytes);
        }
    }
    Ok(seen.values().sum())
}

/// # Errors
/// Something is missing on the machine, or one of the two sides has a wrong verdict.
pub fn run(weir: &Path, runs: usize) -> Result<ExitCode> {
    apt::install(apt::PACKETS)?;
    let pins = Pins::new()?;
    pins.load(&proc::repo().join("xtask/bench/draw.bpf.c"), "draw")?;
    let next = pins.map("draw", "next");
    let lab = Lab::new()?;
    let frames = [
        Frame::udp(lab.peer4(), lab.node4(), 5000).bytes(),
        Frame::udp(lab.peer6(), lab.node6(), 5000).bytes(),
    ];
    let frame = |family: usize| -> Result<std::path::PathBuf> {
        let path = pins.dir().join(format!("frame{family}"));
        let mut bytes = frames[family].clone();
        bytes.resize(bytes.len().max(64), 0);
        std::fs::write(&path, bytes)?;
        Ok(path)
    };
    let frames = [frame(0)?, frame(1)?];
    println!("| entries | sources | drawing | weir | C, trie | C / weir |\n|---|---|---:|---:|---:|---:|");
    let mut loads = String::new();
    for (name, count) in LISTS {
        pins.load(&proc::repo().join("ebpf-builtins/bench/blocklist.c"), name)?;
        let c = pins.program(name, "blocklist_c");
        write_lists(*count, lab.dir.path(), &pins.maps(name))?;
        let begin = Instant::now();
        proc::check(
            Command::new("bpftool")
                .args(["batch", "file"])
                .arg(lab.dir.path().join("commands"))
                .stdout(std::process::Stdio::null()),
        )?;
        let c_load = begin.elapsed();
        let begin = Instant::now();
        let script = "use blocklist(iface=\"veth0\", prefixes=file(\"bad.txt\"), audit=\"off\", max=2097152, max_hits=2097152, protect=false) as bl;";
        let running = Weir::script(script).program(weir).at(&lab).start()?;
        let start = begin.elapsed();
        let pid = running.pid()?;
        let _ = writeln!(
            loads,
            "| {count} + {count} | {:.2} s | {:.0} MiB | {:.0} MiB | {:.1} s |",
            start.as_secs_f64(),
            maps_bytes(pid)? as f64 / f64::from(1 << 20),
            resident(pid)? as f64 / f64::from(1 << 20),
            c_load.as_secs_f64(),
        );
        let id = xdp_id(&running)?;
        for (family, (family_name, frame)) in [("v4", &frames[0]), ("v6", &frames[1])].into_iter().enumerate() {
            let entries = if family == 0 { "IPv4" } else { "IPv6" };
            for (sources, drawn, verdict) in [("anywhere", "any", XDP_PASS), ("listed", *name, XDP_DROP)] {
                let draw = pins.program("draw", &format!("{family_name}_{drawn}"));
                let draw = ["pinned", draw.to_str().context("a path that is no text")?];
                let (mut nothing, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
                // As many packets as there are sources. A round before that, of four times as many, meets nearly all of them, makes the C's
                // hit counters, and is not measured: what a list costs under attack is not what the first packet of each source costs.
                let packets = (*count).max(FEWEST);
                for round in 0..=runs {
                    let repeat = if round == 0 { packets * 4 } else { packets }.to_string();
                    for (program, times) in [
                        (None, &mut nothing),
                        (Some(["id", &id]), &mut ours),
                        (c.to_str().map(|c| ["pinned", c]), &mut theirs),
                    ] {
                        let slot = ["key", "0", "0", "0", "0"];
                        let map = ["pinned", next.to_str().context("a path that is no text")?];
                        match program {
                            Some(program) => bpftool(&[&["map", "update"], &map[..], &slot, &["value"], &program].concat())?,
                            None => bpftool(&[&["map", "delete"], &map[..], &slot].concat()).unwrap_or_default(),
                        };
                        let (said, ns) = repeated(&draw, frame, &repeat)?;
                        // A drawn address may be listed by chance; in a small list it hardly is.
                        let expected = if program.is_none() { XDP_PASS } else { verdict };
                        ensure!(
                            said == expected || verdict == XDP_PASS,
                            "{name} {entries} {sources}: verdict {said}"
                        );
                        if round > 0 {
                            times.push(ns);
                        }
                    }
                }
                let (ours, theirs) = (least(&ours), least(&theirs));
                println!(
                    "| {count} {entries} | {sources} | {:.0} ns | {ours:.0} ns | {theirs:.0} ns | {:.1} |",
                    least(&nothing),
                    theirs / ours,
                );
            }
        }
        running.stop()?;
    }
    println!("\n| entries, IPv4 + IPv6 | start to attached | maps | weir | C: filled by bpftool |\n|---|---:|---:|---:|---:|\n{loads}");
    Ok(ExitCode::SUCCESS)
}
