//! `cargo xtask bench packets`: packet blocks beside the same programs written by hand in C.
//!
//! The C is `xtask/bench/packets.bpf.c`, compiled by clang; both sides run in the kernel by `BPF_PROG_TEST_RUN`, on the same frame and by
//! turns. Input: the program to measure. Output: the table on standard output, and exit code 1 when a block is slower than it may be.

use crate::{apt, proc};
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use weir_tests::frame::{Frame, Payload};
use weir_tests::kernel::Kind;
use weir_tests::net::{Lab, TempDir};
use weir_tests::weir::{Running, Weir};

/// Runs of a program that one figure is the kernel's average of.
const REPEAT: &str = "200000";
/// Such figures for each of the runs asked for: what else the machine does hits some of them, and only adds.
const ROUNDS: usize = 8;
/// How much slower than C a block may be.
const BAR: f64 = 1.15;

/// What is compared: a name, the program in C, the block.
const CASES: &[(&str, &str, &str)] = &[
    ("count per source", "count_source", "xdp:veth0 { @[ip.src] = count(); }"),
    ("drop a TCP port", "drop_port", "xdp:veth0 /tcp.dport == 443/ { drop(); }"),
    (
        "longest prefix",
        "member",
        "let @bad = lpm(1024); begin { @bad[11.0.0.0/8] = 1; } xdp:veth0 /ip.src in @bad/ { drop(); }",
    ),
    (
        "count per flow",
        "count_flow",
        "xdp:veth0 { @[ip.src, ip.dst, ip.proto, port.src, port.dst] = count(); }",
    ),
    ("time to live, with checksum", "lower_ttl", "xdp:veth0 { ip.ttl--; }"),
];

pub fn bpftool(args: &[&str]) -> Result<Value> {
    let text = proc::output(Command::new("bpftool").arg("-j").args(args))?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("bpftool {}: `{text}`", args.join(" ")))
}

/// Runs a program and returns its verdict and nanoseconds a packet.
pub fn one(program: &[&str], frame: &Path) -> Result<(u64, f64)> {
    repeated(program, frame, REPEAT)
}

/// The same, as often as is wanted.
pub fn repeated(program: &[&str], frame: &Path, repeat: &str) -> Result<(u64, f64)> {
    let frame = frame.to_str().context("a path that is no text")?;
    let args = [&["prog", "run"], program, &["data_in", frame, "repeat", repeat]].concat();
    let result = bpftool(&args)?;
    let number = |key: &str| result[key].as_u64().with_context(|| format!("no `{key}` in {result}"));
    Ok((number("retval")?, number("duration")? as f64))
}

fn instructions(program: &[&str]) -> Result<u64> {
    let shown = bpftool(&[&["prog", "show"], program].concat())?;
    let bytes = shown["bytes_xlated"].as_u64();
    Ok(bytes.with_context(|| format!("no size in {shown}"))? / 8)
}

/// The id of the XDP program that a script holds.
pub fn xdp_id(weir: &Running) -> Result<String> {
    for object in weir.objects().iter().filter(|o| o.kind == Kind::Program) {
        let id = object.id.to_string();
        if bpftool(&["prog", "show", "id", &id])?["type"] == "xdp" {
            return Ok(id);
        }
    }
    anyhow::bail!("the script has no XDP program")
}

/// Programs in C, compiled and pinned where only this process sees them; they go with it.
pub struct Pins {
    dir: TempDir,
}

impl Pins {
    /// # Errors
    /// Without the right to mount.
    pub fn new() -> Result<Self> {
        const NONE: Option<&str> = None;
        let dir = TempDir::new()?;
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a private mount namespace")?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        let pins = dir.path().join("pins");
        std::fs::create_dir(&pins)?;
        mount(Some("bpf"), &pins, Some("bpf"), MsFlags::empty(), NONE).context("cannot mount bpffs")?;
        Ok(Self { dir })
    }

    /// A folder for other files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn program(&self, object: &str, name: &str) -> PathBuf {
        self.dir().join("pins").join(format!("{object}-programs")).join(name)
    }

    pub fn maps(&self, object: &str) -> PathBuf {
        self.dir().join("pins").join(format!("{object}-maps"))
    }

    pub fn map(&self, object: &str, name: &str) -> PathBuf {
        self.maps(object).join(name)
    }

    /// Compiles a source and loads what is in it under a name.
    ///
    /// # Errors
    /// clang or the kernel does not take it.
    pub fn load(&self, source: &Path, name: &str) -> Result<()> {
        let object = self.dir().join(format!("{name}.o"));
        proc::check(
            Command::new("clang")
                .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-c"])
                .arg(source)
                .arg("-o")
                .arg(&object),
        )?;
        proc::check(
            Command::new("bpftool")
                .args(["prog", "loadall"])
                .arg(&object)
                .arg(self.dir().join("pins").join(format!("{name}-programs")))
                .args(["type", "xdp", "pinmaps"])
                .arg(self.maps(name)),
        )
    }
}

/// # Errors
/// Something is missing on the machine, or the two sides disagree on a verdict.
pub fn run(weir: &Path, runs: usize) -> Result<ExitCode> {
    apt::install(apt::PACKETS)?;
    let pins = Pins::new()?;
    pins.load(&proc::repo().join("xtask/bench/packets.bpf.c"), "packets")?;
    let key = "40 0 0 0 2 0 0 0 11 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";
    proc::check(
        Command::new("bpftool")
            .args(["map", "update", "pinned"])
            .arg(pins.map("packets", "bad"))
            .arg("key")
            .args(key.split(' '))
            .arg("value")
            .args("1 0 0 0 0 0 0 0".split(' ')),
    )?;
    let lab = Lab::new()?;
    let frame = pins.dir().join("frame");
    let payload = Payload::Tcp {
        sport: 40_000,
        dport: 443,
        flags: weir_tests::frame::ACK,
        data: vec![0; 20],
    };
    std::fs::write(&frame, Frame::new(lab.peer4(), lab.node4(), payload).bytes())?;

    println!("| | weir | C | weir / C | instructions | in C |\n|---|---:|---:|---:|---:|---:|");
    let mut within = true;
    for (name, c, script) in CASES {
        let running = Weir::script(script).program(weir).at(&lab).start()?;
        let id = xdp_id(&running)?;
        let pinned = pins.program("packets", c);
        let ours = ["id", &id];
        let theirs = ["pinned", pinned.to_str().context("a path that is no text")?];
        let (mut weir_ns, mut c_ns) = (Vec::new(), Vec::new());
        // The first round warms up and is not counted.
        for round in 0..=runs * ROUNDS {
            let ((ours_said, ours_ns), (theirs_said, theirs_ns)) = (one(&ours, &frame)?, one(&theirs, &frame)?);
            ensure!(ours_said == theirs_said, "{name}: weir says {ours_said}, C says {theirs_said}");
            if round > 0 {
                weir_ns.push(ours_ns);
                c_ns.push(theirs_ns);
            }
        }
        // The fastest of each side. Medians are no good here: a shared machine has fast and slow times, and with an uneven
        // number of each on the two sides the medians compare a fast time with a slow one.
        let fastest = |all: &[f64]| all.iter().copied().fold(f64::INFINITY, f64::min);
        let (weir_ns, c_ns) = (fastest(&weir_ns), fastest(&c_ns));
        let ratio = weir_ns / c_ns;
        within &= ratio <= BAR;
        println!(
            "| {name} | {weir_ns:.0} ns | {c_ns:.0} ns | {ratio:.2} | {} | {} |",
            instructions(&ours)?,
            instructions(&theirs)?,
        );
        running.stop()?;
    }
    if !within {
        println!("\nA block is slower than {BAR} times the same in C.");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
