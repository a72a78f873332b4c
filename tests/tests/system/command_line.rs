//! The switches that change how a run goes and what is seen of it.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::fs::File;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};
use weir_tests::harness::Test;
use weir_tests::net::Lab;
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("a_script_without_probes_waits_for_its_command", command_only_begin),
    Test::new("a_bare_call_says_how_to_use_it", bare),
    Test::new("begin_and_end_alone_end_by_themselves", only_begin),
    Test::new("a_timeout_is_a_duration_or_seconds", timeout),
    Test::new("output_goes_to_a_file", output_file),
    Test::new("quiet_and_verbose", quiet_and_verbose),
    Test::new("a_dry_run_loads_and_runs_nothing", dry_run),
    Test::new("a_second_signal_stops_at_once", second_signal),
    Test::new("colours_only_when_asked", colours),
    Test::new("info_has_a_reason_for_each_no", info),
    Test::new("an_object_is_written", emit_elf),
];

fn command_only_begin() -> Result<()> {
    let done = Weir::new([
        "-c",
        "echo ran",
        "-e",
        "begin { printf(\"first\\n\"); } end { printf(\"last\\n\"); }",
    ])
    .run()?
    .clean()?;
    ensure!(
        done.stdout.starts_with("first\nran\n") && done.stdout.trim_end().ends_with("last"),
        "{done}"
    );
    Ok(())
}

fn bare() -> Result<()> {
    Weir::new::<&str>([]).run()?.refused(&["Usage: weir", "-e PROG"])?;
    Weir::new(["--no-such-switch"]).run()?.refused(&["--no-such-switch"])?;
    for switch in ["-V", "-h"] {
        Weir::new([switch]).run()?.clean()?;
    }
    Ok(())
}

fn only_begin() -> Result<()> {
    let done = Weir::script("begin { @ = 1; } end { printf(\"e\\n\"); }").run()?.clean()?;
    ensure!(done.stdout == "e\n\n\n@: 1\n", "{done}");
    ensure!(done.stderr == "Attached 2 probes\n", "{done}");
    Ok(())
}

fn timeout() -> Result<()> {
    for switch in [["--timeout", "0.2"], ["--timeout", "200ms"], ["--for", "200ms"]] {
        let begin = Instant::now();
        let args = switch.iter().copied().chain(["-e", "interval:s:60 {} end { printf(\"e\\n\"); }"]);
        let done = Weir::new(args).run()?.clean()?;
        ensure!(done.stdout.starts_with("e\n"), "{done}");
        ensure!(begin.elapsed() >= Duration::from_millis(200), "it ended too early");
    }
    Weir::new(["--timeout", "soon", "-e", "begin {}"])
        .run()?
        .refused(&["--timeout", "1h30m"])
        .map(drop)
}

fn output_file() -> Result<()> {
    let lab = Lab::new()?;
    let done = Weir::new(["-o", "out.txt", "-e", "begin { printf(\"to the file\\n\"); @x = 2; }"])
        .at(&lab)
        .run()?
        .clean()?;
    ensure!(done.stdout.is_empty(), "{done}");
    let text = std::fs::read_to_string(lab.dir.path().join("out.txt"))?;
    ensure!(text.contains("to the file\n") && text.ends_with("\n@x: 2\n"), "{text}");
    Weir::new(["-o", "no/such/folder/x", "-e", "begin {}"])
        .at(&lab)
        .run()?
        .refused(&["no/such/folder/x", "No such file"])?;
    for mode in ["line", "full", "none"] {
        let done = Weir::new(["-B", mode, "-e", "begin { printf(\"a\\nb\"); }"]).run()?.clean()?;
        ensure!(done.stdout.starts_with("a\nb"), "{mode}: {done}");
    }
    Weir::new(["-B", "page", "-e", "begin {}"])
        .run()?
        .refused(&["line", "full", "none"])
        .map(drop)
}

fn quiet_and_verbose() -> Result<()> {
    let done = Weir::new(["-q", "-e", "begin { printf(\"x\\n\"); }"]).run()?.clean()?;
    ensure!(done.stderr.is_empty(), "{done}");
    let done = Weir::new(["-v", "-e", "begin { printf(\"x\\n\"); }"]).run()?.clean()?;
    for word in ["program ", "instructions", "maps"] {
        ensure!(done.stderr.contains(word), "-v does not say `{word}`: {done}");
    }
    // A warning, and how it is silenced.
    let script = "begin { warnf(\"careful\"); errorf(\"wrong\"); }";
    let loud = Weir::script(script).run()?.clean()?;
    ensure!(
        loud.stderr.contains("warning: careful") && loud.stderr.contains("error: wrong"),
        "{loud}"
    );
    let done = Weir::new(["--no-warnings", "-e", script]).run()?.clean()?;
    ensure!(!done.stderr.contains("warning") && done.stderr.contains("error: wrong"), "{done}");
    Ok(())
}

fn dry_run() -> Result<()> {
    let done = Weir::new(["--dry-run", "-e", "begin { printf(\"never\\n\"); } interval:s:1 {}"])
        .run()?
        .clean()?;
    ensure!(done.stdout.is_empty() && !done.attached, "{done}");
    Weir::new(["--dry-run", "-e", "begin { fake }"]).run()?.refused(&["fake"]).map(drop)
}

fn second_signal() -> Result<()> {
    // Nobody reads: the output blocks, and with it the end, until another signal comes.
    let lab = Lab::new()?;
    let pipe = lab.dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
    let _held = File::options().read(true).write(true).open(&pipe)?;
    let line = "x".repeat(4000);
    let script = format!("interval:ms:1 {{ for ($i : 0..20) {{ printf(\"{line}\\n\"); }} }}");
    let mut run = Weir::script(&script).stdout_to(&pipe).start_unattached()?;
    run.wait_stderr("the attachment", |text| text.contains("Attached 1 probe"))?;
    let pid = nix::unistd::Pid::from_raw(run.pid()?.cast_signed());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let sender = std::thread::spawn(move || {
        // Signals close to each other count as one, so these are not.
        while stopped.recv_timeout(Duration::from_millis(300)) == Err(RecvTimeoutError::Timeout) {
            let _ = nix::sys::signal::kill(pid, Signal::SIGINT);
        }
    });
    let done = run.wait();
    drop(stop);
    let _ = sender.join();
    let done = done?.nothing_left()?;
    ensure!(done.status.code() == Some(130), "{done}");
    Ok(())
}

fn colours() -> Result<()> {
    let done = Weir::script("begin { fake }").run()?;
    ensure!(!done.stderr.contains('\x1b'), "no terminal, no colours: {done}");
    let done = Weir::script("begin { fake }").env("BPFTRACE_COLOR", "always").run()?;
    ensure!(done.stderr.contains('\x1b'), "{done}");
    Ok(())
}

fn info() -> Result<()> {
    let done = Weir::new(["--info"]).run()?.clean()?;
    for word in ["Linux", "BTF", "kprobe", "tcx"] {
        ensure!(done.stdout.contains(word), "no `{word}`: {done}");
    }
    for line in done.stdout.lines().filter(|l| l.contains(":  ")) {
        ensure!(line.split_whitespace().next_back() != Some("no"), "a no without a reason: {line}");
    }
    Ok(())
}

fn emit_elf() -> Result<()> {
    let lab = Lab::new()?;
    // Where `comm` lies is a matter of the kernel: an object asks for it.
    let script = "interval:s:1 { @[comm] = count(); }";
    Weir::new(["--emit-elf", "x.o", "-e", script]).at(&lab).run()?.clean()?;
    Weir::new(["build", "-o", "y.o", "-e", script]).at(&lab).run()?.clean()?;
    let bytes = std::fs::read(lab.dir.path().join("x.o"))?;
    ensure!(bytes.starts_with(b"\x7fELF"), "it is no ELF file");
    ensure!(
        bytes == std::fs::read(lab.dir.path().join("y.o"))?,
        "`weir build` writes another one"
    );
    Ok(())
}
