//! What ticks: `profile`, `interval`, `software:cpu-clock` as often as they say, on as many processors as they say; `hardware` where the
//! processor counts.

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use weir_tests::features::Feature;
use weir_tests::harness::Need::{Has, Lacks};
use weir_tests::harness::Test;
use weir_tests::weir::Weir;
use weir_tests::{in_vm, victim};

pub const TESTS: &[Test] = &[
    Test::new("clocks_tick_as_often_as_they_say", clocks),
    Test::new("hardware_counts_instructions", instructions).needs(&[Has(Feature::Pmu)]),
    Test::new("hardware_missing_is_named_and_a_clock_offered", no_counters).needs(&[Lacks(Feature::Pmu)]),
];

/// What a clock has done: by processor how often it has ticked, and how many nanoseconds after the start of the script that was.
type Ticks<'a> = BTreeMap<&'a str, BTreeMap<u32, (u64, u64)>>;

/// The clocks of the script: name, probe, nanoseconds between two ticks, and whether it ticks on every processor.
const CLOCKS: [(&str, &str, u64, bool); 5] = [
    ("hz", "profile:hz:99", 10_101_010, true),
    ("ms", "profile:ms:7", 7_000_000, true),
    ("clock", "software:cpu-clock:9000000", 9_000_000, true),
    ("fast", "interval:hz:49", 20_408_163, false),
    ("slow", "interval:200ms", 200_000_000, false),
];

/// A timer of the kernel never ticks early, and all that ticks is counted: no clock is ahead of the kernel's own. What a busy machine
/// comes late for is left out, so a clock may be behind; on an emulated machine, whose processors wait for each other, far behind.
/// A processor that sleeps may not tick at all (seen on Linux 6.18 in a virtual machine, with bpftrace too), so none of them may sleep.
fn clocks() -> Result<()> {
    const LEAST_NS: u64 = 1_500_000_000;
    let share = if in_vm() { 4 } else { 2 };
    let online = online()?;
    let _awake = Awake::new(&online)?;
    let blocks: String = CLOCKS
        .iter()
        .map(|(name, probe, ..)| format!("{probe} {{ @{name}[cpu]++; }}\n"))
        .collect();
    let shown: String = CLOCKS
        .iter()
        .map(|(name, ..)| format!("for ($kv : @{name}) {{ $n = $kv.1; printf(\"{name} %d %d %d\\n\", $kv.0, $n, nsecs - @from); }}\n"))
        .collect();
    let script = format!("begin {{ @from = nsecs; }}\n{blocks} interval:ms:100 {{ {shown} }}");
    let mut weir = Weir::script(&script).start()?;
    weir.wait_stdout("as many ticks as the time that went by has room for", |text| {
        let ticks = ticks(text);
        CLOCKS.iter().all(|(name, _, period, _)| {
            let enough = |(n, ns): &(u64, u64)| *ns >= LEAST_NS && n * share >= ns / period;
            ticks.get(name).is_some_and(|cpus| !cpus.is_empty() && cpus.values().all(enough))
        })
    })?;
    let text = weir.stdout();
    weir.stop()?.clean()?;
    for (name, _, period, everywhere) in CLOCKS {
        let cpus: BTreeSet<u32> = ticks(&text)[name].keys().copied().collect();
        if everywhere {
            ensure!(cpus == online, "`{name}` ticks on {cpus:?}, there are {online:?}");
        } else {
            ensure!(cpus.len() == 1 && cpus.is_subset(&online), "`{name}` ticks on {cpus:?}");
        }
        for (.., n, ns) in lines(&text).filter(|(of, ..)| *of == name) {
            ensure!(n * period <= ns, "`{name}` has ticked {n} times in {ns} ns:\n{text}");
        }
    }
    Ok(())
}

/// Name, processor, ticks and time of each whole line.
fn lines(text: &str) -> impl Iterator<Item = (&str, u32, u64, u64)> {
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        Some((name, u32::try_from(number()?).ok()?, number()?, number()?))
    })
}

/// The last of each clock on each processor.
fn ticks(text: &str) -> Ticks<'_> {
    let mut all = Ticks::new();
    for (name, cpu, n, ns) in lines(text) {
        all.entry(name).or_default().insert(cpu, (n, ns));
    }
    all
}

/// The processors that run: `0-3,6`.
fn online() -> Result<BTreeSet<u32>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").context("cannot read the list of processors")?;
    let mut all = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(first.parse::<u32>()?..=last.parse::<u32>()?);
    }
    Ok(all)
}

/// Keeps processors from sleeping with threads that let everybody else go first.
struct Awake(Arc<AtomicBool>);

impl Awake {
    fn new(cpus: &BTreeSet<u32>) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        for cpu in cpus {
            let mut one = CpuSet::new();
            one.set(usize::try_from(*cpu)?)?;
            let over = Arc::clone(&over);
            let (pinned, is_pinned) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                // SAFETY: changes the priority of the calling thread.
                unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
                let _ = pinned.send(sched_setaffinity(Pid::from_raw(0), &one));
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            is_pinned.recv()?.context("a thread cannot stay on its processor")?;
        }
        Ok(Self(over))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A loop takes at least one instruction a turn, and not a hundred.
fn instructions() -> Result<()> {
    const TURNS: u64 = 400_000_000;
    const EVERY: u64 = 1_000_000;
    let script = format!("hardware:instructions:{EVERY} /comm == \"{}\"/ {{ @ = count(); }}", victim::COMM);
    let weir = Weir::script(&script).start()?;
    victim::run(&["spin", &TURNS.to_string()])?;
    let done = weir.stop()?.clean()?;
    let count: u64 = done.map("@").get("").context("no instruction was counted")?.parse()?;
    // Each processor may be on its way to the next sample when the loop comes and goes.
    ensure!((TURNS / EVERY / 2..100 * TURNS / EVERY).contains(&count), "{done}");
    Ok(())
}

fn no_counters() -> Result<()> {
    Weir::script("hardware:instructions:1000000 { @ = count(); }")
        .run()?
        .refused(&["hardware", "no counters", "cpu-clock"])
        .map(drop)
}
