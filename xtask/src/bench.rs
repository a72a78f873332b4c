//! `cargo xtask bench`: weir beside the installed bpftrace, as a markdown table with ratios.
//!
//! Every figure is the median of runs that alternate between the two programs, except for the time in BPF programs, which is the fastest run's.
//! Input: what to measure. Output: the table on standard output; it writes no file.

use crate::{apt, blocklist, flows, packets, proc, replay, rivals, test};
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;
use weir_tests::kernel::{self, Kind};
use weir_tests::weir::Weir;

#[derive(clap::Args)]
pub struct Args {
    /// What to measure; all if nothing is named
    #[arg(value_enum)]
    what: Vec<What>,
    /// Runs of each program for each figure
    #[arg(long, default_value_t = 11)]
    runs: usize,
    /// Events in each run that measures the cost of one
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// `blocklist`: leave out lists that are longer (the C's tries take half a minute to fill with a million)
    #[arg(long, default_value_t = u32::MAX)]
    longest: u32,
    /// Measure this program instead of building weir
    #[arg(long)]
    weir: Option<PathBuf>,
    /// Compare with this bpftrace instead of the installed one
    #[arg(long)]
    bpftrace: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Start to exit, and peak memory, of a script that only exits
    Start,
    /// Compile time of fifty lines, by part, and of parsing 10 000; bpftrace does not tell its own
    Compile,
    /// Cost of one event
    Events,
    /// Lines of `printf` a second, delivered and lost
    Lines,
    /// Size of the program with all its libraries
    Size,
    /// Packet blocks beside the same programs in C; only when named, and then alone
    Packets,
    /// Filters over a capture file beside tcpdump; only when named, and then alone
    Replay,
    /// The blocklist beside the same job in C, with lists of up to a million prefixes; only when named, and then alone
    Blocklist,
    /// The blocklist beside xdp-filter, nft and iptables, on live frames; only when named, and then alone
    Rivals,
    /// The flow aggregator beside the same job in C, with up to 131 072 flows; only when named, and then alone
    Flows,
}

const EXIT_SCRIPT: &str = "BEGIN { exit(); }";
/// Fires once per `getpid()`; the bodies are what is compared.
const GETPID: &str = "tracepoint:syscalls:sys_enter_getpid";
/// Has `args.id`, written `args->id` as older bpftraces want it; fires for every system call of the machine.
const SYS_ENTER: &str = "tracepoint:raw_syscalls:sys_enter";
/// What a probe costs that does nothing: first of the bodies at each probe.
const EMPTY: &str = "{}";
const BODIES: &[(&str, &str)] = &[
    (GETPID, EMPTY),
    (GETPID, "{ @ = count(); }"),
    (GETPID, "{ @[pid] = count(); }"),
    (GETPID, "{ @[comm] = count(); }"),
    (SYS_ENTER, EMPTY),
    (SYS_ENTER, "{ @ = hist(args->id); }"),
    (SYS_ENTER, "{ @[comm, args->id] = sum(1); }"),
];
/// What is printed, and how many lines at full speed.
const LINES: &str = "tracepoint:syscalls:sys_enter_getpid { printf(\"%d\\n\", pid); }";

pub fn run(args: &Args) -> Result<ExitCode> {
    proc::need_root("measuring BPF programs")?;
    let alone = [What::Packets, What::Replay, What::Blocklist, What::Rivals, What::Flows]
        .iter()
        .any(|what| args.what.contains(what));
    if !alone && args.bpftrace.is_none() {
        apt::install(apt::BENCH)?;
    }
    let weir = match &args.weir {
        Some(path) => std::path::absolute(path)?,
        None => test::program(test::built(&["build", "--release", "--package", "weir", "--bin", "weir"])?, "weir")?.into(),
    };
    if args.what.contains(&What::Packets) {
        return packets::run(&weir, args.runs);
    }
    if args.what.contains(&What::Replay) {
        return replay::run(&weir, args.runs);
    }
    if args.what.contains(&What::Blocklist) {
        return blocklist::run(&weir, args.runs, args.longest);
    }
    if args.what.contains(&What::Rivals) {
        return rivals::run(&weir, args.runs);
    }
    if args.what.contains(&What::Flows) {
        return flows::run(&weir, args.runs);
    }
    let bpftrace = match &args.bpftrace {
        Some(path) => std::path::absolute(path)?,
        None => proc::which("bpftrace").context("bpftrace is not installed")?,
    };
    private_tracefs()?;
    let pair = Pair {
        weir: &weir,
        bpftrace: &bpftrace,
    };
    let wanted = |what| args.what.is_empty() || args.what.contains(&what);
    let mut rows = Vec::new();
    if wanted(What::Start) {
        rows.extend(start(&pair, args.runs)?);
    }
    if wanted(What::Compile) {
        rows.extend(compile(pair.weir, args.runs)?);
    }
    if wanted(What::Events) {
        rows.extend(events(&pair, args)?);
    }
    if wanted(What::Lines) {
        rows.extend(lines(&pair, args)?);
    }
    if wanted(What::Size) {
        rows.push(Row {
            what: "program and its libraries".into(),
            unit: "MB",
            weir: size(&weir)?,
            bpftrace: size(&bpftrace)?,
        });
    }
    print_table(&pair, &rows, args.runs)
}

struct Pair<'a> {
    weir: &'a Path,
    bpftrace: &'a Path,
}

struct Row {
    what: String,
    unit: &'static str,
    weir: f64,
    bpftrace: f64,
}

fn print_table(pair: &Pair<'_>, rows: &[Row], runs: usize) -> Result<ExitCode> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpus
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let date = proc::output(Command::new("date").args(["-u", "+%F"]))?;
    let version = |program| -> Result<String> { Ok(proc::output(Command::new(program).arg("--version"))?.trim().to_owned()) };
    println!(
        "{}, kernel {}, {}. {} beside {}; medians of {runs} alternating runs.\n",
        date.trim(),
        kernel.trim(),
        cpu,
        version(pair.weir)?,
        version(pair.bpftrace)?
    );
    println!("| | weir | bpftrace | bpftrace / weir |");
    println!("|---|---:|---:|---:|");
    for row in rows {
        let ratio = if row.weir > 0.0 && row.bpftrace.is_finite() {
            format!("{:.1}", row.bpftrace / row.weir)
        } else {
            "–".to_owned()
        };
        let other = if row.bpftrace.is_finite() {
            format!("{:.1} {}", row.bpftrace, row.unit)
        } else {
            "–".to_owned()
        };
        println!("| {} | {:.1} {} | {other} | {ratio} |", row.what, row.weir, row.unit);
    }
    println!(
        "\n\"Program\" is the kernel's own figure, of the fastest run: what else the machine does only adds. It includes the reading of the clock."
    );
    Ok(ExitCode::SUCCESS)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// Gives this process and its children a tracefs where the machine has none mounted: bpftrace wants one.
fn private_tracefs() -> Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a private mount namespace")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    for (kind, at, file) in [
        ("tracefs", "/sys/kernel/tracing", "events"),
        ("debugfs", "/sys/kernel/debug", "tracing"),
    ] {
        if !Path::new(at).join(file).exists() {
            mount(Some(kind), at, Some(kind), MsFlags::empty(), NONE).with_context(|| format!("cannot mount {kind} at {at}"))?;
        }
    }
    Ok(())
}

fn start(pair: &Pair<'_>, runs: usize) -> Result<Vec<Row>> {
    let (mut weir, mut bpftrace) = (Vec::new(), Vec::new());
    // The first run of each fills the page cache and is not counted.
    for round in 0..=runs {
        for (program, into) in [(pair.weir, &mut weir), (pair.bpftrace, &mut bpftrace)] {
            let cost = one_start(program)?;
            if round > 0 {
                into.push(cost);
            }
        }
    }
    let (time, busy, memory) = (|c: &Cost| c.wall_ms, |c: &Cost| c.cpu_ms, |c: &Cost| c.peak_mib);
    let row = |what: String, unit, of: fn(&Cost) -> f64| Row {
        what,
        unit,
        weir: median(weir.iter().map(of).collect()),
        bpftrace: median(bpftrace.iter().map(of).collect()),
    };
    Ok(vec![
        row(format!("start to exit of `{EXIT_SCRIPT}`"), "ms", time),
        row(format!("processor time of `{EXIT_SCRIPT}`"), "ms", busy),
        row(format!("peak memory of `{EXIT_SCRIPT}`"), "MiB", memory),
    ])
}

/// Fifty lines, whose compilation is timed.
const FIFTY: &str = include_str!("fifty.bt");
/// What the file starts with: a comment and a `config` block, of which a script has one.
const HEAD_LINES: usize = 2;
/// Lines whose parsing is timed.
const MANY_LINES: usize = 10_000;

/// What `-v` says of the compiler's time.
fn compile(weir: &Path, runs: usize) -> Result<Vec<Row>> {
    let mut times: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..runs {
        let mut command = Command::new(weir);
        let out = command.args(["-v", "--dry-run", "-e", FIFTY]).stdin(Stdio::null()).output()?;
        for (part, ms) in compile_times(&out)? {
            match times.iter_mut().find(|(name, _)| *name == part) {
                Some((_, all)) => all.push(ms),
                None => times.push((part, vec![ms])),
            }
        }
    }
    let row = |what: String, all: Vec<f64>| Row {
        what,
        unit: "ms",
        weir: median(all),
        bpftrace: f64::NAN,
    };
    let mut rows: Vec<Row> = times
        .into_iter()
        .map(|(part, all)| row(format!("compile 50 lines: {part}"), all))
        .collect();
    rows.push(row(format!("parse {MANY_LINES} lines"), parse_many(weir, runs)?));
    Ok(rows)
}

/// Reads what `-v` says: all of the time, then its parts, in milliseconds.
fn compile_times(out: &std::process::Output) -> Result<Vec<(String, f64)>> {
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "weir failed: {said}");
    let line = said
        .lines()
        .find_map(|l| l.strip_prefix("compiled in "))
        .context("`-v` does not say how long it took")?;
    let (total, parts) = line.split_once(" ms: ").context("the times have another form")?;
    let parts = parts.split(", ").filter_map(|p| p.rsplit_once(' '));
    std::iter::once(("all of it", total))
        .chain(parts)
        .map(|(part, ms)| Ok((part.to_owned(), ms.parse().with_context(|| format!("`{ms}` is no time"))?)))
        .collect()
}

/// Parses the blocks of the fifty lines so often that they are many. Nothing is loaded: `build` only writes a file.
fn parse_many(weir: &Path, runs: usize) -> Result<Vec<f64>> {
    let blocks: Vec<&str> = FIFTY.lines().skip(HEAD_LINES).collect();
    let text: Vec<&str> = blocks
        .iter()
        .copied()
        .cycle()
        .take(MANY_LINES.next_multiple_of(blocks.len()))
        .collect();
    let folder = std::env::temp_dir().join(format!("weir-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (script, object) = (folder.join("many.bt"), folder.join("many.bpf.o"));
    std::fs::write(&script, text.join("\n"))?;
    let run = || -> Result<f64> {
        let mut command = Command::new(weir);
        let out = command
            .arg("build")
            .arg("-v")
            .arg(&script)
            .arg("-o")
            .arg(&object)
            .stdin(Stdio::null())
            .output()?;
        let times = compile_times(&out)?;
        times
            .iter()
            .find(|(part, _)| part == "parse")
            .map(|(_, ms)| *ms)
            .context("`-v` does not name parsing")
    };
    let times = (0..runs).map(|_| run()).collect();
    std::fs::remove_dir_all(&folder)?;
    times
}

struct Cost {
    wall_ms: f64,
    /// Of the process and its children, which another program on the processor does not prolong.
    cpu_ms: f64,
    peak_mib: f64,
}

/// One run of the script that only exits.
fn one_start(program: &Path) -> Result<Cost> {
    let begin = Instant::now();
    let mut command = Command::new(program);
    command
        .args(["-e", EXIT_SCRIPT])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let (code, usage) = wait_with_usage(child)?;
    let wall_ms = begin.elapsed().as_secs_f64() * 1e3;
    ensure!(code == 0, "`{}` failed with {code}", proc::shown(&command));
    Ok(Cost {
        wall_ms,
        cpu_ms: (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) as f64 * 1e3
            + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) as f64 / 1e3,
        peak_mib: usage.ru_maxrss as f64 / 1024.0,
    })
}

/// Waits for a child; its exit code, or 128 + signal, and what it used. The peak of its memory includes what the child
/// shared with us before it became another program, so it is never less than our own few MiB: an upper bound.
fn wait_with_usage(child: Child) -> Result<(i32, libc::rusage)> {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both pointers are to live values of the right types; the child is ours and nobody else waits for it.
    let pid = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, usage.as_mut_ptr()) };
    ensure!(pid >= 0, "cannot wait: {}", std::io::Error::last_os_error());
    // SAFETY: the struct is integers only, zeroed before and filled by the call.
    let usage = unsafe { usage.assume_init() };
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    };
    Ok((code, usage))
}

fn events(pair: &Pair<'_>, args: &Args) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let mut rows = Vec::new();
    // Of the probe at hand: mostly the reading of the clock, which is the kernel's own.
    let mut empty = (0.0, 0.0);
    for (probe, body) in BODIES {
        let script = format!("{probe} {body}");
        let (mut weir, mut bpftrace) = (Vec::new(), Vec::new());
        for _ in 0..args.runs {
            for (program, into) in [(pair.weir, &mut weir), (pair.bpftrace, &mut bpftrace)] {
                into.push(one_event_run(program, &script, args.events).with_context(|| format!("{} -e '{script}'", program.display()))?);
            }
        }
        let place = if *probe == SYS_ENTER { " at `sys_enter`" } else { "" };
        let row = |what: &str, unit, weir, bpftrace| Row {
            what: format!("`{body}`{place}: {what}"),
            unit,
            weir,
            bpftrace,
        };
        let both = |what: &str, unit, of: fn(&EventCost) -> f64| {
            row(
                what,
                unit,
                median(weir.iter().map(of).collect()),
                median(bpftrace.iter().map(of).collect()),
            )
        };
        let fastest = |all: &[EventCost]| all.iter().map(|c| c.program_ns).fold(f64::INFINITY, f64::min);
        let program = (fastest(&weir), fastest(&bpftrace));
        rows.push(row("program, per event", "ns", program.0, program.1));
        if *body == EMPTY {
            empty = program;
        } else {
            rows.push(row(
                "the same, less the empty program's",
                "ns",
                program.0 - empty.0,
                program.1 - empty.1,
            ));
        }
        rows.push(both("added to the system call", "ns", |c| c.added_ns));
        rows.push(both("instructions", "", |c| f64::from(c.instructions)));
    }
    Ok(rows)
}

struct EventCost {
    /// The kernel's own figure: time in the program by runs.
    program_ns: f64,
    /// By the clock: the system call with the probe, less without.
    added_ns: f64,
    /// Of the program, as the kernel has rewritten it.
    instructions: u32,
}

/// Attaches the script and fires its probe, once without and once with the kernel's statistics.
fn one_event_run(program: &Path, script: &str, events: u64) -> Result<EventCost> {
    let setting = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").context("cannot read kernel.bpf_stats_enabled")?;
    ensure!(
        setting.trim() == "0",
        "kernel.bpf_stats_enabled is on: the figures without statistics would include them"
    );
    let before = kernel::objects_of(Kind::Program)?;
    let without = fire(events);
    let tool = Weir::script(script).program(program).start()?;
    let with = fire(events);
    let ((ns, runs), instructions) = {
        let _stats = kernel::enable_stats().context("cannot switch on the statistics of BPF programs")?;
        fire(events);
        // Other programs may come and go on the machine: ours is the one that ran for each event.
        let now = kernel::objects_of(Kind::Program)?;
        let stats = now
            .difference(&before)
            .filter_map(|program| Some((kernel::run_stats(*program).ok()?, kernel::instructions(*program).ok()?)));
        stats
            .filter(|((_, runs), _)| *runs >= events)
            .max_by_key(|((_, runs), _)| *runs)
            .context("no program ran for each event")?
    };
    tool.stop()?.clean()?;
    Ok(EventCost {
        program_ns: ns as f64 / runs as f64,
        added_ns: with - without,
        instructions,
    })
}

/// Calls `getpid()` that often; nanoseconds by the clock for one call.
fn fire(events: u64) -> f64 {
    let begin = Instant::now();
    for _ in 0..events {
        // SAFETY: a system call without arguments. Not `libc::getpid()`, which some C libraries answer from memory.
        unsafe { libc::syscall(libc::SYS_getpid) };
    }
    begin.elapsed().as_nanos() as f64 / events as f64
}

/// As many lines as the events make: what arrives, how fast, and what is said to be lost.
fn lines(pair: &Pair<'_>, args: &Args) -> Result<Vec<Row>> {
    let (mut weir, mut bpftrace) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        for (program, into) in [(pair.weir, &mut weir), (pair.bpftrace, &mut bpftrace)] {
            let tool = Weir::script(LINES).program(program).start()?;
            let begin = Instant::now();
            fire(args.events);
            let done = tool.stop()?;
            let seconds = begin.elapsed().as_secs_f64();
            let numbers = |line: &&str| !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit());
            let delivered = done.stdout.lines().filter(numbers).count();
            into.push((
                delivered as f64 / seconds,
                args.events.saturating_sub(delivered as u64) as f64 / args.events as f64,
            ));
            done.nothing_left()?;
        }
    }
    let row = |what: &str, unit, of: fn(&(f64, f64)) -> f64| Row {
        what: what.into(),
        unit,
        weir: median(weir.iter().map(of).collect()),
        bpftrace: median(bpftrace.iter().map(of).collect()),
    };
    Ok(vec![
        row("`printf(\"%d\\n\", pid)`: thousand lines a second", "k/s", |l| l.0 / 1e3),
        row("`printf(\"%d\\n\", pid)`: lost at full speed", "%", |l| l.1 * 100.0),
    ])
}

fn stay_on_one_cpu() -> Result<()> {
    let here = Pid::from_raw(0);
    let allowed = sched_getaffinity(here)?;
    let last = (0..CpuSet::count())
        .rev()
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .context("no processor is allowed")?;
    let mut one = CpuSet::new();
    one.set(last)?;
    sched_setaffinity(here, &one).context("cannot stay on one processor")
}

/// The program file and every library that the loader maps for it, in MB.
fn size(program: &Path) -> Result<f64> {
    let bytes = |path: &Path| {
        std::fs::metadata(path)
            .map(|m| m.len())
            .with_context(|| format!("cannot read {}", path.display()))
    };
    let mut total = bytes(program)?;
    // A static program makes `ldd` fail.
    let libraries = Command::new("ldd").arg(program).output().context("cannot start `ldd`")?;
    for line in String::from_utf8_lossy(&libraries.stdout).lines() {
        if let Some(path) = line.split_whitespace().find(|w| w.starts_with('/')) {
            total += bytes(Path::new(path))?;
        }
    }
    Ok(total as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
