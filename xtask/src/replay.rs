//! `cargo xtask bench replay`: filters over a capture file, beside tcpdump.
//!
//! Whole processes on the same cached file, by turns. Input: the program to measure. Output: the table on standard output, and exit code 1
//! when weir is slower than tcpdump at the same filter.

use crate::bench::median;
use crate::{apt, proc};
use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use weir_tests::frame::{ACK, Frame, Payload};
use weir_tests::net::TempDir;

const PACKETS: u32 = 5_000_000;
/// Different ones, over and over.
const DIFFERENT: u32 = 1024;

const FILTER: &str = "xdp:e /tcp.dport == 443/ { drop(); }";
const COUNT: &str = "xdp:e { @[ip.src] = count(); }";
const TCPDUMP_FILTER: &str = "tcp dst port 443";

/// TCP and UDP of a few hundred hosts, a quarter of it for port 443, 40 to 400 bytes of data.
fn frame(n: u32) -> Vec<u8> {
    let host = Ipv4Addr::from(0x0a00_0000 + n % 300);
    let dport = [443, 80, 53, 22][n as usize % 4];
    let data = vec![7; 40 + (n as usize * 37) % 360];
    let payload = if n.is_multiple_of(3) {
        Payload::Udp { sport: 5000, dport, data }
    } else {
        Payload::Tcp {
            sport: 5000,
            dport,
            flags: ACK,
            data,
        }
    };
    Frame::new(host, Ipv4Addr::new(192, 0, 2, 1), payload).bytes()
}

/// A pcap file; returns its size.
fn write(path: &Path) -> Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        out.write_all(&word.to_le_bytes())?;
    }
    let frames: Vec<Vec<u8>> = (0..DIFFERENT).map(frame).collect();
    for n in 0..PACKETS {
        let frame = &frames[(n % DIFFERENT) as usize];
        let length = frame.len() as u32;
        for word in [1_700_000_000 + n / 1_000_000, n % 1_000_000, length, length] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(frame)?;
    }
    out.flush()?;
    Ok(std::fs::metadata(path)?.len())
}

/// Runs a command to its end; returns seconds, and seconds of processor time.
fn one(command: &mut Command) -> Result<(f64, f64)> {
    let cpu = || -> Result<f64> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6)
    };
    let (before, start) = (cpu()?, Instant::now());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let wall = start.elapsed().as_secs_f64();
    let shown = proc::shown(command);
    ensure!(status.with_context(|| shown.clone())?.success(), "`{shown}` failed");
    Ok((wall, cpu()? - before))
}

/// # Errors
/// Something is missing on the machine, or a program fails.
pub fn run(weir: &Path, runs: usize) -> Result<ExitCode> {
    apt::install(apt::REPLAY)?;
    let dir = TempDir::new()?;
    let file = dir.path().join("capture.pcap");
    let bytes = write(&file)?;
    let replay = |script: &str| {
        let mut c = Command::new(weir);
        c.arg("replay").arg(&file).args(["-e", script]);
        c
    };
    let mut commands = [
        (format!("`weir replay F -e '{FILTER}'`"), replay(FILTER)),
        (format!("`tcpdump -r F '{TCPDUMP_FILTER}' -w /dev/null`"), {
            let mut c = Command::new("tcpdump");
            c.arg("-r").arg(&file).args([TCPDUMP_FILTER, "-w", "/dev/null"]);
            c
        }),
        (format!("`weir replay F -e '{COUNT}'`"), replay(COUNT)),
    ];
    let mut costs = vec![(Vec::new(), Vec::new()); commands.len()];
    // The first round fills the cache and is not counted.
    for round in 0..=runs {
        for ((_, command), (wall, cpu)) in commands.iter_mut().zip(&mut costs) {
            let (seconds, busy) = one(command)?;
            if round > 0 {
                wall.push(seconds);
                cpu.push(busy);
            }
        }
    }
    println!(
        "{PACKETS} packets, {:.2} GB, cached; whole process, medians of {runs} runs by turns.\n",
        bytes as f64 / 1e9
    );
    println!("| | wall | CPU | packets a second |\n|---|---:|---:|---:|");
    let mut walls = Vec::new();
    for ((name, _), (wall, cpu)) in commands.iter().zip(costs) {
        let wall = median(wall);
        println!(
            "| {name} | {wall:.2} s | {:.2} s | {:.1} M |",
            median(cpu),
            f64::from(PACKETS) / wall / 1e6
        );
        walls.push(wall);
    }
    if walls[0] > walls[1] {
        println!("\nweir is slower than tcpdump.");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
