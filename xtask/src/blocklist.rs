//! `cargo xtask bench blocklist`: the blocklist beside the same job in C with the kernel's trie (`ebpf-builtins/bench/blocklist.c`).
//!
//! Both run in the kernel by `BPF_PROG_TEST_RUN`, by turns, each packet with another source: `xtask/bench/draw.bpf.c` draws it and jumps. A
//! benchmark with one source hides more than ten times the cost. A list of one entry is measured with one source, and so is what it costs
//! that several processors count in one entry. Input: the program to measure. Output: tables on standard output.

use crate::packets::{Pins, bpftool, repeated, xdp_id};
use crate::test_run::Program;
use crate::{apt, bench, proc};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;
use weir_tests::frame::Frame;
use weir_tests::net::{Lab, Netns, PEER_IF};
use weir_tests::weir::Weir;

const XDP_DROP: u64 = 1;
const XDP_PASS: u64 = 2;
/// As in `draw.bpf.c`.
pub const SPREAD: u32 = 2_654_435_769;
const SPREAD64: u64 = 11_400_714_819_323_198_485;
/// The lists: what `draw.bpf.c` calls them, and how many entries they have of each family.
const LISTS: &[(&str, u32)] = &[("1k", 1 << 10), ("128k", 1 << 17), ("1m", 1 << 20)];

/// The entry of a list of one: a host of each family, which has bits set everywhere.
const ONE: u32 = 1;
/// A cable with programs that are there for comparison.
const IDLE_IF: &str = "idle0";
/// How much slower than C a list of one entry may be.
const BAR_OF_ONE: f64 = 1.1;
/// How often each side is loaded for that.
const LOADS: usize = 5;
/// Figures of a load for each of the runs asked for, of which the fastest counts.
const ROUNDS: usize = 10;
/// Bytes that Ethernet has at least.
const SHORTEST: usize = 64;
/// Packets of each processor when several count in one entry: the start of a process is short beside it.
const TOGETHER: &str = "5000000";

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
fn write_lists(numbers: Range<u32>, dir: &Path, maps: &Path) -> Result<()> {
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
    for number in numbers {
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

/// Seconds of processor time that a process has taken.
fn processor_time(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may have spaces in it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context("no times in stat");
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no CLK_TCK")?;
    Ok((ticks(11)? + ticks(12)?) / per_second as f64)
}

/// Writes a frame, padded to what Ethernet has at least, to a file.
fn write_frame(pins: &Pins, name: &str, mut bytes: Vec<u8>) -> Result<std::path::PathBuf> {
    let path = pins.dir().join(name);
    bytes.resize(bytes.len().max(SHORTEST), 0);
    std::fs::write(&path, bytes)?;
    Ok(path)
}

const SCRIPT: &str =
    "use blocklist(iface=\"veth0\", prefixes=file(\"bad.txt\"), audit=\"off\", max=2097152, max_hits=2097152, protect=false) as bl;";

/// A list of one entry of each family beside the C, each packet from one source: the same job, each with a trie. Tells whether all of it is
/// within the bar.
///
/// Both are attached (`test_run`) and loaded several times: where the kernel puts a program makes a difference of a twentieth. What the
/// kernel takes to run any program at all is in both, and shown: the bar is for the whole, as for every figure of a test run.
fn one_entry(weir: &Path, runs: usize, pins: &Pins, lab: &Lab) -> Result<bool> {
    let cases = [
        ("IPv4", "another", Frame::udp(lab.peer4(), lab.node4(), 5000), XDP_PASS),
        ("IPv4", "listed", Frame::udp(entry4(ONE).0, lab.node4(), 5000), XDP_DROP),
        ("IPv6", "another", Frame::udp(lab.peer6(), lab.node6(), 5000), XDP_PASS),
        ("IPv6", "listed", Frame::udp(entry6(ONE).0, lab.node6(), 5000), XDP_DROP),
    ];
    let attach = |ns: &Netns, program: &Path, iface| {
        let path = program.to_str().context("a path that is no text")?;
        ns.run(|| bpftool(&["net", "attach", "xdpdrv", "pinned", path, "dev", iface, "overwrite"]))
    };
    lab.add_cable(IDLE_IF, IDLE_IF)?;
    let idle = pins.program("draw", "drop");
    attach(&lab.peer, &idle, IDLE_IF)?;
    // The kernel looks for a program among those that are attached, by halves: with four it looks as long for each.
    attach(&lab.node, &pins.program("draw", "send4"), IDLE_IF)?;
    let idle = Program::pinned(&idle)?;
    let mut all = [(); 4].map(|()| [Vec::new(), Vec::new(), Vec::new()]);
    for load in 0..LOADS {
        proc::progress(&format!("one entry, loading {} of {LOADS}", load + 1));
        let name = format!("1-{load}");
        pins.load(&proc::repo().join("ebpf-builtins/bench/blocklist.c"), &name)?;
        let c = pins.program(&name, "blocklist_c");
        attach(&lab.peer, &c, PEER_IF)?;
        write_lists(ONE..ONE + 1, lab.dir.path(), &pins.maps(&name))?;
        fill_c(lab)?;
        let running = Weir::script(SCRIPT).program(weir).at(lab).start()?;
        let (ours, c) = (Program::of_id(&xdp_id(&running)?)?, Program::pinned(&c)?);
        for ((family, sources, frame, verdict), all) in cases.iter().zip(&mut all) {
            let mut frame = frame.bytes();
            frame.resize(frame.len().max(SHORTEST), 0);
            let mut fastest = [(f64::INFINITY, f64::INFINITY); 3];
            for _ in 0..runs * ROUNDS {
                for ((program, verdict), (fastest, by_kernel)) in
                    [(&idle, XDP_DROP), (&ours, *verdict), (&c, *verdict)].into_iter().zip(&mut fastest)
                {
                    let ran = program.run(&frame)?;
                    ensure!(ran.verdict == verdict, "one entry, {family} {sources}: verdict {}", ran.verdict);
                    *fastest = fastest.min(ran.ns);
                    *by_kernel = by_kernel.min(ran.kernel_ns);
                }
            }
            for (all, (fastest, by_kernel)) in all.iter_mut().zip(fastest) {
                // The kernel rounds down.
                ensure!(
                    fastest < by_kernel + 3.0,
                    "{fastest:.1} ns a packet, of which {by_kernel} in the program: is it attached, and the machine quiet?"
                );
                all.push(fastest);
            }
        }
        running.stop()?;
    }
    lab.peer.run(|| bpftool(&["net", "detach", "xdpdrv", "dev", PEER_IF]))?;
    proc::progress("");
    println!("| one entry | sources | any program | weir | C, trie | weir / C | less any program |\n|---|---|---:|---:|---:|---:|---:|");
    let mut within = true;
    for ((family, sources, ..), all) in cases.iter().zip(all) {
        let [idle, weir, c] = all.map(bench::median);
        within &= weir / c <= BAR_OF_ONE;
        let (ratio, without) = (weir / c, (weir - idle) / (c - idle));
        println!("| {family} | {sources} | {idle:.1} ns | {weir:.1} ns | {c:.1} ns | {ratio:.2} | {without:.2} |");
    }
    Ok(within)
}

/// Several processors at a time, all packets from one listed address: in a list whose entries have their hits beside them, and in C with
/// hits for each processor.
fn together(weir: &Path, runs: usize, pins: &Pins, lab: &Lab) -> Result<()> {
    let c = pins.program("1k", "blocklist_c");
    let c = ["pinned", c.to_str().context("a path that is no text")?];
    write_lists(0..1 << 10, lab.dir.path(), &pins.maps("1k"))?;
    let running = Weir::script(SCRIPT).program(weir).at(lab).start()?;
    let id = xdp_id(&running)?;
    let ours = ["id", id.as_str()];
    let frame = write_frame(pins, "frame", Frame::udp(entry4(1).0, lab.node4(), 5000).bytes())?;
    let most = std::thread::available_parallelism()?.get();
    println!("\n| processors on one entry | weir, packets a second | C, trie |\n|---:|---:|---:|");
    for processors in [1, most] {
        let mut all = [Vec::new(), Vec::new()];
        for _ in 0..runs {
            for (program, all) in [&ours, &c].into_iter().zip(&mut all) {
                let times: Vec<Result<f64>> = std::thread::scope(|scope| {
                    let started: Vec<_> = (0..processors)
                        .map(|_| scope.spawn(|| repeated(program, &frame, TOGETHER).map(|(_, ns)| ns)))
                        .collect();
                    started
                        .into_iter()
                        .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread has panicked")))
                        .collect()
                });
                let rates = times.into_iter().map(|ns| Ok(1e9 / ns?)).collect::<Result<Vec<f64>>>()?;
                all.push(rates.iter().sum::<f64>());
            }
        }
        // Not the best: that is the run in which they met least.
        let [weir, c] = all.map(bench::median);
        println!("| {processors} | {:.1} M | {:.1} M |", weir / 1e6, c / 1e6);
    }
    running.stop()?;
    Ok(())
}

/// Has bpftool fill the tries of the C program.
fn fill_c(lab: &Lab) -> Result<()> {
    proc::check(
        Command::new("bpftool")
            .args(["batch", "file"])
            .arg(lab.dir.path().join("commands"))
            .stdout(std::process::Stdio::null()),
    )
}

/// # Errors
/// Something is missing on the machine, or one of the two sides has a wrong verdict.
pub fn run(weir: &Path, runs: usize, longest: u32) -> Result<ExitCode> {
    apt::install(apt::PACKETS)?;
    let pins = Pins::new()?;
    pins.load(&proc::repo().join("xtask/bench/draw.bpf.c"), "draw")?;
    let next = pins.map("draw", "next");
    let lab = Lab::new()?;
    let within = one_entry(weir, runs, &pins, &lab)?;
    let frames = [
        write_frame(&pins, "frame0", Frame::udp(lab.peer4(), lab.node4(), 5000).bytes())?,
        write_frame(&pins, "frame1", Frame::udp(lab.peer6(), lab.node6(), 5000).bytes())?,
    ];
    let lists: Vec<_> = LISTS.iter().filter(|(_, count)| *count <= longest).collect();
    if !lists.is_empty() {
        println!("\n| entries | sources | drawing | weir | C, trie | C / weir |\n|---|---|---:|---:|---:|---:|");
    }
    let mut loads = String::new();
    for (name, count) in &lists {
        proc::progress(&format!("{count} entries: filling both"));
        pins.load(&proc::repo().join("ebpf-builtins/bench/blocklist.c"), name)?;
        let c = pins.program(name, "blocklist_c");
        write_lists(0..*count, lab.dir.path(), &pins.maps(name))?;
        let begin = Instant::now();
        fill_c(&lab)?;
        let c_load = begin.elapsed();
        let begin = Instant::now();
        let running = Weir::script(SCRIPT).program(weir).at(&lab).start()?;
        let start = begin.elapsed();
        let pid = running.pid()?;
        let _ = writeln!(
            loads,
            "| {count} + {count} | {:.2} s | {:.2} s | {:.0} MiB | {:.0} MiB | {:.1} s |",
            start.as_secs_f64(),
            processor_time(pid)?,
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
                    proc::progress(&format!("{count} {entries}, {sources}: round {round} of {runs}"));
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
                proc::progress("");
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
    if !lists.is_empty() {
        println!(
            "\n| entries, IPv4 + IPv6 | start to attached | its processor time | maps | weir | C: filled by bpftool |\n|---|---:|---:|---:|---:|---:|\n{loads}"
        );
    }
    if longest >= 1 << 10 {
        together(weir, runs, &pins, &lab)?;
    }
    if !within {
        println!("\nA list of one entry is slower than {BAR_OF_ONE} times the same in C.");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
