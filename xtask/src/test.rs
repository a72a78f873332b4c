//! `cargo xtask test`: every check and test of the project, and one line that says how it went.
//!
//! Order: what is missing is installed; formatting, lints, documentation, the committed BPF objects; unit, stage and
//! differential tests of all crates; the system tests on this kernel; the test programs that touch the kernel on each Debian
//! kernel, booted once, both at the same time. A failure does not stop the rest, a build that fails does. Where a few tests that
//! ask a kernel fail, each runs once more alone; what passes then was disturbed by the machine or by the tests before it, and is
//! named as such. So is an emulated machine that breaks down, and is started once more.
//! Output: each tool's own, a closing line per runner, the skipped tests by name, the failed tests and checks by name, and
//! `weir: N passed, N failed, N skipped`.
//! Fails if anything failed, or if no test ran.

use crate::{apt, proc, vm};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// Leave out the virtual machines
    #[arg(long)]
    no_vm: bool,
    /// Run only tests whose name contains this, and no other checks
    filter: Option<String>,
}

/// The kernels to boot and what they must have: a probe that says "no" there is a failure, not a reason to skip.
const KERNELS: &[(&str, &str)] = &[
    ("6.1", "kprobe,netem,tun,vlan,tunnel,wireguard,fentry,veth_module"),
    (
        "6.12",
        "kprobe,netem,tun,vlan,tunnel,wireguard,tcx,fentry,netkit,netfilter_link,veth_module",
    ),
];

/// The folders whose integration tests all ask the kernel something, so that each kernel must answer, and single such tests
/// elsewhere. All but `system`, which needs weir itself, run with the crates on this kernel.
const KERNEL_FOLDERS: &[&str] = &["tests", "runtime", "ebpf-builtins"];
const KERNEL_TESTS: &[&str] = &["system", "differential", "backend_hazards"];
/// They count milliseconds and processors, of which an emulated machine has too many and too few; or they ask no kernel anything; or
/// compile so much that emulation takes many minutes.
const HOST_ONLY: &[&str] = &["language", "session", "tshark", "object", "matrix"];

/// Random programs in each of the generated tests on an emulated processor, where each takes ten times as long.
const VM_RANDOM_COUNT: &str = "20";

/// More failures than that are no accident.
const AGAIN: usize = 5;

/// A guest needs a third of this beside the other; a busy machine may need more.
const VM_LIMIT: Duration = Duration::from_secs(2700);

pub fn run(args: &Args) -> Result<ExitCode> {
    proc::need_root("loading BPF programs")?;
    apt::install(apt::TEST)?;
    let mut report = Report::default();
    if args.filter.is_none() {
        report.check("formatting", cargo(&["fmt", "--all", "--check"]));
        report.check("lints", cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
        let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        report.check("documentation", doc);
        let mut objects = Command::new(std::env::current_exe()?);
        objects.args(["builtins", "--check"]);
        report.check("prebuilt BPF objects", objects);
    }
    // Always the whole workspace: with fewer packages cargo picks other features, and builds everything again.
    let weir = program(built(&["build", "--workspace", "--bin", "weir"])?, "weir")?;
    let env = vec![("WEIR_BIN".to_owned(), weir)];
    let programs = kernel_tests(built(&["test", "--workspace", "--no-run", "--test", "*"])?)?;

    let mut crates = cargo(&["test", "--workspace", "--no-fail-fast"]);
    crates.args(&args.filter);
    report.runner("crates", |tally| local(crates, tally))?;

    // The others of the list have run with the crates.
    let filter = args.filter.as_deref();
    report.kernel(&format!("kernel {}", release()?), &programs[..1], filter, |script, tally| {
        let mut command = Command::new(&script[0]);
        // What this command installs is there.
        command.args(&script[1..]).envs(env.clone()).env("WEIR_TEST_REQUIRE", "zsh,fish");
        local(command, tally)
    })?;

    if !args.no_vm {
        report.guests(&programs, filter, &env)?;
    }
    report.close()
}

/// A command that runs all the programs and fails if one of them does.
fn one_after_the_other(programs: &[String], filter: Option<&str>) -> Vec<String> {
    let script = r#"
        filter=$1 failed=0
        shift
        for program; do
            echo "program $program"
            "$program" ${filter:+"$filter"} || failed=1
        done
        exit $failed"#;
    let words = ["sh", "-c", script, "sh", filter.unwrap_or_default()];
    words.into_iter().map(str::to_owned).chain(programs.iter().cloned()).collect()
}

/// A command that runs these tests, each alone.
fn each_alone(failures: &[Failure]) -> Vec<String> {
    let script = r#"
        failed=0
        while [ $# -gt 0 ]; do
            echo "program $1"
            "$1" --exact "$2" || failed=1
            shift 2
        done
        exit $failed"#;
    let tests = failures.iter().flat_map(|f| [f.program.clone(), f.test.clone()]);
    ["sh", "-c", script, "sh"].into_iter().map(str::to_owned).chain(tests).collect()
}

/// `cargo` as it was called, in the repository.
fn cargo(args: &[&str]) -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.args(args).current_dir(proc::repo());
    c
}

/// A program that cargo has built.
pub struct Built {
    target: String,
    /// Whether it is an integration test.
    test: bool,
    /// The folder of its package, below the top of the repository.
    folder: String,
    pub path: String,
}

/// Builds something and returns its programs.
pub fn built(args: &[&str]) -> Result<Vec<Built>> {
    let mut command = cargo(args);
    command
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let out = command.output().context("cannot start cargo")?;
    ensure!(out.status.success(), "`{}` failed", proc::shown(&command));
    Ok(String::from_utf8_lossy(&out.stdout).lines().filter_map(program_of).collect())
}

/// The program that a message of cargo announces, if it announces one.
fn program_of(message: &str) -> Option<Built> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some(Built {
        target: message["target"]["name"].as_str()?.to_owned(),
        test: message["target"]["kind"][0] == "test",
        folder: folder.strip_prefix(proc::repo()).ok()?.to_str()?.to_owned(),
        path: message["executable"].as_str()?.to_owned(),
    })
}

/// The file of the program of that name.
pub fn program(all: Vec<Built>, target: &str) -> Result<String> {
    let found = all.into_iter().find(|b| b.target == target);
    found.map(|b| b.path).with_context(|| format!("cargo built no `{target}`"))
}

/// Those of the tests that ask the kernel something, `system` first.
fn kernel_tests(mut all: Vec<Built>) -> Result<Vec<String>> {
    all.retain(|b| {
        b.test
            && !HOST_ONLY.contains(&b.target.as_str())
            && (KERNEL_FOLDERS.contains(&b.folder.as_str()) || KERNEL_TESTS.contains(&b.target.as_str()))
    });
    for name in KERNEL_TESTS {
        ensure!(all.iter().any(|b| b.target == *name), "there is no test `{name}`");
    }
    all.sort_by_key(|b| (b.target != "system", b.target.clone()));
    Ok(all.into_iter().map(|b| b.path).collect())
}

fn release() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// How the tests of one runner went, read from what libtest and libtest-mimic print.
#[derive(Default, Debug)]
struct Tally {
    /// The program whose output is read.
    program: String,
    failures: Vec<Failure>,
    broke_down: bool,
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Names of skipped tests, with the reason where there is one.
    skipped: Vec<String>,
}

/// A test that failed, and the program that it is in.
#[derive(Clone, PartialEq, Debug)]
struct Failure {
    program: String,
    test: String,
}

impl Tally {
    fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let before = rest.split(what).next()?;
                before.trim_end().rsplit([' ', '.']).next()?.parse::<u64>().ok()
            };
            self.passed += count(" passed").unwrap_or(0);
            self.failed += count(" failed").unwrap_or(0);
            self.ignored += count(" ignored").unwrap_or(0);
        } else if let Some(program) = line.strip_prefix("program ") {
            self.program = program.to_owned();
        } else if let Some((name, _)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... FAILED")) {
            self.failures.push(Failure {
                program: self.program.clone(),
                test: name.trim_end().to_owned(),
            });
        } else if let Some(rest) = line.strip_prefix("skipped: ") {
            self.skipped.push(rest.to_owned());
        } else if let Some((name, _)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ignored")) {
            let name = name.trim_end();
            if !self.skipped.iter().any(|s| s.split(": ").next() == Some(name)) {
                self.skipped.push(name.to_owned());
            }
        }
    }

    /// Counts as passed those failed tests of which a second run says that every one asked for ran and they were not among its
    /// failures; returns their names.
    fn mended_by(&mut self, again: &Tally) -> Vec<String> {
        if again.passed + again.failures.len() as u64 != self.failures.len() as u64 {
            return Vec::new();
        }
        let (failures, mended): (Vec<_>, Vec<_>) = self.failures.drain(..).partition(|f| again.failures.contains(f));
        self.failures = failures;
        self.failed -= mended.len() as u64;
        self.passed += mended.len() as u64;
        mended.into_iter().map(|f| f.test).collect()
    }
}

/// What has been run so far.
#[derive(Default)]
struct Report {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    /// Tests that failed and passed when they ran alone.
    disturbed: Vec<String>,
    /// What failed and stayed so, with what is known of it.
    failures: Vec<String>,
}

impl Report {
    /// Runs a check that is no test; a failure counts as one.
    fn check(&mut self, what: &str, mut command: Command) {
        let start = Instant::now();
        let result = match proc::check(&mut command) {
            Ok(()) => "ok".to_owned(),
            Err(error) => {
                self.failed += 1;
                self.failures.push(format!("{what}: {error:#}"));
                format!("FAILED: {error:#}")
            }
        };
        println!("check {what}: {result} ({} s)", start.elapsed().as_secs());
    }

    /// Runs tests and prints the closing line.
    fn runner(&mut self, name: &str, run: impl FnOnce(&Arc<Mutex<Tally>>) -> Result<Ended>) -> Result<()> {
        println!("\nrunner {name}");
        let start = Instant::now();
        let tally = tally_of(run)?;
        self.add(name, tally, start);
        Ok(())
    }

    /// Runs programs that ask a kernel, and what failed in them once more; `run` runs a command where that kernel is.
    fn kernel(
        &mut self,
        name: &str,
        programs: &[String],
        filter: Option<&str>,
        run: impl Fn(&[String], &Arc<Mutex<Tally>>) -> Result<Ended>,
    ) -> Result<()> {
        println!("\nrunner {name}");
        let start = Instant::now();
        let everything = one_after_the_other(programs, filter);
        let mut tally = tally_of(|tally| run(&everything, tally))?;
        if tally.broke_down {
            println!("\nrunner {name}: the machine broke down; once more from the start");
            self.disturbed.push(format!("the whole runner, whose machine broke down ({name})"));
            tally = tally_of(|tally| run(&everything, tally))?;
        }
        let all_named = tally.failures.len() as u64 == tally.failed;
        if all_named && (1..=AGAIN).contains(&tally.failures.len()) {
            println!("\nrunner {name}: {} failed; each once more, alone", tally.failed);
            let again = tally_of(|again| run(&each_alone(&tally.failures), again))?;
            let mended = tally.mended_by(&again);
            self.disturbed.extend(mended.into_iter().map(|test| format!("{test} ({name})")));
        }
        self.add(name, tally, start);
        Ok(())
    }

    /// Runs the programs on every kernel at once: each emulated machine keeps one processor of this one busy, whatever it has itself.
    fn guests(&mut self, programs: &[String], filter: Option<&str>, env: &[(String, String)]) -> Result<()> {
        let kernels = KERNELS.iter().map(|(kernel, required)| match vm::netdevsim::make(kernel) {
            Ok(()) => (*kernel, format!("{required},netdevsim")),
            Err(error) => {
                println!("\nno netdevsim for Linux {kernel}: {error:#}");
                (*kernel, (*required).to_owned())
            }
        });
        let kernels: Vec<(&str, String)> = kernels.collect();
        let on = |kernel: &str, required: &str| {
            let mut env = env.to_vec();
            let more = [
                ("WEIR_TEST_VM", "1"),
                ("WEIR_TEST_REQUIRE", required),
                ("WEIR_DIFF_COUNT", VM_RANDOM_COUNT),
                ("WEIR_ACCEPT_COUNT", VM_RANDOM_COUNT),
            ];
            env.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
            let mut report = Report::default();
            report.kernel(&format!("Debian kernel {kernel}"), programs, filter, |script, tally| {
                let spec = vm::Spec {
                    env: &env,
                    limit: VM_LIMIT,
                    ..vm::Spec::new(kernel, script)
                };
                guest(&spec, tally)
            })?;
            Ok::<_, anyhow::Error>(report)
        };
        let reports: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = kernels
                .iter()
                .map(|(kernel, required)| scope.spawn(move || on(kernel, required)))
                .collect();
            running.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for report in reports {
            let report = report.map_err(|_| anyhow!("a runner panicked"))??;
            self.passed += report.passed;
            self.failed += report.failed;
            self.skipped.extend(report.skipped);
            self.disturbed.extend(report.disturbed);
            self.failures.extend(report.failures);
        }
        Ok(())
    }

    /// Adds what a runner has done, and prints its closing line.
    fn add(&mut self, name: &str, mut tally: Tally, start: Instant) {
        println!(
            "runner {name}: {} passed, {} failed, {} skipped ({} s)",
            tally.passed,
            tally.failed,
            tally.ignored,
            start.elapsed().as_secs()
        );
        self.passed += tally.passed;
        self.failed += tally.failed;
        self.skipped.extend(tally.skipped.drain(..).map(|s| format!("{s} ({name})")));
        let named = tally.failures.len() as u64;
        self.failures
            .extend(tally.failures.drain(..).map(|f| format!("{} ({name})", f.test)));
        if named < tally.failed {
            self.failures.push(format!("{} without a name ({name})", tally.failed - named));
        }
    }

    fn close(self) -> Result<ExitCode> {
        println!();
        for test in &self.skipped {
            println!("skipped {test}");
        }
        for test in &self.disturbed {
            println!("failed once, went well again: {test}");
        }
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        println!(
            "weir: {} passed, {} failed, {} skipped",
            self.passed,
            self.failed,
            self.skipped.len()
        );
        if self.passed + self.failed == 0 {
            bail!("no test ran");
        }
        Ok(if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// How a command with tests ended.
#[derive(Clone, Copy, PartialEq)]
enum Ended {
    Well,
    Badly,
    /// The machine it ran on went first.
    BrokeDown,
}

impl From<bool> for Ended {
    fn from(well: bool) -> Self {
        if well { Ended::Well } else { Ended::Badly }
    }
}

/// What a run of tests prints.
fn tally_of(run: impl FnOnce(&Arc<Mutex<Tally>>) -> Result<Ended>) -> Result<Tally> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let ended = run(&tally)?;
    let mut tally = std::mem::take(&mut *lock(&tally));
    tally.broke_down = ended == Ended::BrokeDown;
    if ended != Ended::Well && tally.failed == 0 {
        // A crash, a time limit, a build error: no test said so, but something failed.
        tally.failed = 1;
    }
    Ok(tally)
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(|e| e.into_inner())
}

/// Runs tests here; prints and reads their output line by line.
fn local(mut command: Command, tally: &Arc<Mutex<Tally>>) -> Result<Ended> {
    let shown = proc::shown(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        lock(tally).line(&line);
    }
    Ok(child.wait()?.success().into())
}

/// Runs tests in a virtual machine.
fn guest(spec: &vm::Spec<'_>, tally: &Arc<Mutex<Tally>>) -> Result<Ended> {
    let out = Reader {
        tally: Arc::clone(tally),
        kernel: spec.kernel.to_owned(),
        line: Vec::new(),
    };
    let outcome = vm::boot(spec, out, std::io::stderr())?;
    println!("{} | the kernel was {}", spec.kernel, outcome.release);
    let code = outcome.code();
    Ok(match outcome.end {
        vm::End::Died(_) => Ended::BrokeDown,
        vm::End::Exit(_) | vm::End::TimedOut => (code == 0).into(),
    })
}

/// Prints what is written to it behind the kernel's name, and reads it, line by line.
struct Reader {
    tally: Arc<Mutex<Tally>>,
    kernel: String,
    line: Vec<u8>,
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line);
                println!("{} | {line}", self.kernel);
                lock(&self.tally).line(&line);
                self.line.clear();
            } else {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_both_harnesses_is_counted() {
        let text = "skipped: b: this kernel has no kprobes\n\
                    test a ... ok\ntest b       ... ignored\ntest src/lib.rs - x (line 3) ... ignored\n\
                    test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 3.06s\n\
                    test result: ok. 10 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n";
        let mut tally = Tally::default();
        text.lines().for_each(|l| tally.line(l));
        assert_eq!((tally.passed, tally.failed, tally.ignored), (15, 2, 2));
        assert_eq!(tally.skipped, ["b: this kernel has no kprobes", "src/lib.rs - x (line 3)"]);
    }

    #[test]
    fn what_passes_alone_counts_as_passed_and_is_named() {
        let read = |text: &str| {
            let mut tally = Tally::default();
            text.lines().for_each(|l| tally.line(l));
            tally
        };
        let first = "program /t/a\ntest x ... ok\ntest y   ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n\
                     program /t/b\ntest y ... FAILED\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        let of = |program: &str| Failure {
            program: program.to_owned(),
            test: "y".to_owned(),
        };
        let mut tally = read(first);
        assert_eq!(tally.failures, [of("/t/a"), of("/t/b")]);
        assert_eq!(each_alone(&tally.failures)[3..], ["sh", "/t/a", "y", "/t/b", "y"]);
        let again = "program /t/a\ntest y ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n\
                     program /t/b\ntest y ... FAILED\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        assert_eq!(tally.mended_by(&read(again)), ["y"]);
        assert_eq!((tally.passed, tally.failed), (2, 1));
        assert_eq!(tally.failures, [of("/t/b")]);
        // A second run that broke off, or ran nothing, mends nothing.
        let mut tally = read(first);
        assert!(tally.mended_by(&read("program /t/a\n")).is_empty());
        assert_eq!((tally.passed, tally.failed), (1, 2));
    }

    #[test]
    fn a_machine_that_breaks_down_is_started_once_more() {
        let runs = std::cell::Cell::new(0);
        let run = |breakdowns: u32| {
            let mut report = Report::default();
            runs.set(0);
            report
                .kernel("test", &["/t/a".to_owned()], None, |_, tally| {
                    runs.set(runs.get() + 1);
                    if runs.get() <= breakdowns {
                        return Ok(Ended::BrokeDown);
                    }
                    lock(tally).line("test result: ok. 3 passed; 0 failed; 0 ignored");
                    Ok(Ended::Well)
                })
                .unwrap();
            (report.passed, report.failed, report.disturbed.len(), runs.get())
        };
        assert_eq!(run(0), (3, 0, 0, 1));
        assert_eq!(run(1), (3, 0, 1, 2));
        assert_eq!(run(9), (0, 1, 1, 2));
    }

    #[test]
    fn cargo_s_messages_name_the_programs() {
        let manifest = proc::repo().join("runtime/Cargo.toml");
        let message = serde_json::json!({
            "manifest_path": manifest.to_str().unwrap(),
            "target": {"name": "session", "kind": ["test"]},
            "executable": "/t/session-1",
        });
        let built = program_of(&message.to_string()).unwrap();
        assert_eq!(
            (built.target.as_str(), built.test, built.folder.as_str()),
            ("session", true, "runtime")
        );
        assert!(program_of(r#"{"reason":"build-finished","success":true}"#).is_none());
        assert!(kernel_tests(vec![built]).is_err(), "the named ones must be there");
    }

    #[test]
    fn what_failed_is_named_at_the_end() {
        let mut report = Report::default();
        let mut tally = Tally::default();
        let text = "test a ... FAILED\ntest result: FAILED. 0 passed; 2 failed; 0 ignored\n";
        text.lines().for_each(|l| tally.line(l));
        report.add("crates", tally, Instant::now());
        report.check("truth", Command::new("false"));
        assert_eq!(report.failed, 3);
        assert_eq!(report.failures[..2], ["a (crates)", "1 without a name (crates)"]);
        assert!(report.failures[2].starts_with("truth: "), "{}", report.failures[2]);
    }

    #[test]
    fn nothing_run_is_an_error() {
        assert!(Report::default().close().is_err());
    }
}
