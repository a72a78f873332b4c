//! A world that is not as one would wish: few rights, no /proc, no room, no streams. Never a panic, never a raw log of the
//! kernel, never exit code 0 for a failure, and the message says what to do.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::path::Path;
use weir_tests::harness::Test;
use weir_tests::kernel::KernelState;
use weir_tests::net::Lab;
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("without_rights_the_capability_is_named", no_rights),
    Test::new("two_capabilities_are_enough_for_tracing", few_rights),
    Test::new("without_proc_it_works", no_proc),
    Test::new("few_descriptors_are_an_error_with_its_name", few_descriptors),
    Test::new("scripts_that_are_none_are_named", bad_scripts),
    Test::new("a_full_disk_is_an_error", full_disk),
    Test::new("closed_streams_are_no_crash", closed_streams),
    Test::new("nothing_is_left_of_a_command_after_kill_9", kill_with_command).alone(),
];

const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

fn no_rights() -> Result<()> {
    Weir::script("interval:s:1 {}")
        .capabilities(&[])
        .run()?
        .refused(&["CAP_BPF", "CAP_PERFMON"])?;
    Weir::script("interval:s:1 {}")
        .capabilities(&[CAP_BPF])
        .run()?
        .refused(&["CAP_PERFMON"])?;
    let lab = Lab::new()?;
    Weir::script("xdp:veth0 { drop(); }")
        .at(&lab)
        .capabilities(&[CAP_BPF, CAP_PERFMON])
        .run()?
        .refused(&["CAP_NET_ADMIN"])?;
    Ok(())
}

fn few_rights() -> Result<()> {
    let done = Weir::script("interval:ms:10 { @[pid] = count(); exit(); }")
        .capabilities(&[CAP_BPF, CAP_PERFMON])
        .run()?
        .clean()?;
    ensure!(done.attached && done.map("@").len() == 1, "{done}");
    Ok(())
}

fn no_proc() -> Result<()> {
    let done = Weir::script("interval:ms:10 { @[comm] = count(); exit(); }")
        .hidden("/proc")
        .run()?
        .clean()?;
    ensure!(done.map("@").len() == 1, "{done}");
    Ok(())
}

fn few_descriptors() -> Result<()> {
    for n in [5, 7, 9, 12, 15] {
        let done = Weir::script("interval:s:60 { @[comm] = count(); printf(\"x\"); } begin { exit(); }")
            .max_files(n)
            .run()?;
        if done.status.success() {
            continue;
        }
        ensure!(!done.stderr.contains("panic") && !done.stderr.contains("internal error"), "{done}");
        done.refused(&["error"])?;
    }
    Ok(())
}

fn bad_scripts() -> Result<()> {
    let lab = Lab::new()?;
    let file = |name: &str| Weir::new([name]).at(&lab).run();
    std::fs::write(lab.dir.path().join("empty.bt"), b"")?;
    file("empty.bt")?.refused(&["no probe"])?;
    let long = "// a comment\n".repeat(100_000) + "begin { printf(\"after all\\n\"); }";
    std::fs::write(lab.dir.path().join("long.bt"), long)?;
    let done = file("long.bt")?.clean()?;
    ensure!(done.stdout.starts_with("after all\n"), "{done}");
    // An error after as many lines of code has its place.
    let long = "begin { @a = 1; }\n".to_owned() + &"// x\n\n".repeat(50_000) + "begin { @b = nonsense; }\n";
    std::fs::write(lab.dir.path().join("long.bt"), long)?;
    file("long.bt")?.refused(&["long.bt:100002:14", "unknown name `nonsense`"])?;
    // As many statements are more than a program may have.
    let long = "begin {\n".to_owned() + &"  @a++;\n".repeat(100_000) + "}\n";
    std::fs::write(lab.dir.path().join("long.bt"), long)?;
    let done = file("long.bt")?;
    ensure!(
        !done.stderr.contains("internal error") && !done.stderr.contains("processed"),
        "{done}"
    );
    done.refused(&["too long for the kernel"])?;
    // The standard input.
    let script = lab.dir.path().join("stdin.bt");
    std::fs::write(&script, "begin { printf(\"%s\\n\", str($1)); }")?;
    let done = Weir::new(["-", "word"]).stdin_from(&script).run()?.clean()?;
    ensure!(done.stdout.starts_with("word\n"), "{done}");
    Ok(())
}

fn full_disk() -> Result<()> {
    let full = Path::new("/dev/full");
    let script = "begin { printf(\"x\\n\"); } interval:s:60 {}";
    Weir::script(script)
        .stdout_to(full)
        .run()?
        .refused(&["cannot write", "No space left"])?;
    // No signal ends weir where the file may not grow.
    let lab = Lab::new()?;
    let grown = lab.dir.path().join("grown").display().to_string();
    let much = "begin { for $i : 0..1000 { printf(\"%d\\n\", $i); } exit(); }";
    Weir::new(["-o", &grown, "-e", much])
        .limit(libc::RLIMIT_FSIZE, 512)
        .run()?
        .refused(&["grown", "File too large"])?;
    Weir::new(["-o", "/dev/full", "-e", script])
        .run()?
        .refused(&["/dev/full", "No space left"])?;
    Weir::new(["-l", "t:syscalls:*"])
        .stdout_to(full)
        .run()?
        .refused(&["No space left"])
        .map(drop)
}

fn closed_streams() -> Result<()> {
    for fd in [0, 1, 2] {
        let done = Weir::script("begin { printf(\"x\\n\"); }").closed(fd).run()?;
        ensure!(done.status.success(), "stream {fd} closed: {done}");
    }
    let done = Weir::new(["-"]).closed(0).run()?;
    done.refused(&["no probe"]).map(drop)
}

fn kill_with_command() -> Result<()> {
    let before = KernelState::now(None)?;
    let run = Weir::new([
        "-c",
        "sleep 599",
        "-e",
        "profile:hz:99 { @[comm] = count(); } tracepoint:syscalls:sys_enter_openat { @o = count(); }",
    ])
    .start()?;
    let done = run.end_with(Signal::SIGKILL)?.nothing_left()?;
    before.assert_same(None)?;
    // The child goes, too.
    weir_tests::wait_for("the end of the child", || {
        let mut there = false;
        for process in std::fs::read_dir("/proc")?.flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            there |= line == b"sleep\x00599\0";
        }
        Ok((!there).then_some(()))
    })?;
    ensure!(!done.stderr.contains("panic"), "{done}");
    Ok(())
}
