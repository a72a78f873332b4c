//! The command line: processes that bound a run, output that fails, an environment that lacks something.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Output, Stdio};
use weir_tests::harness::Test;
use weir_tests::net::TempDir;
use weir_tests::weir::{Weir, program};

pub const TESTS: &[Test] = &[
    Test::new("a_command_is_held_until_all_is_attached", command),
    Test::new("a_command_that_outlives_the_script_is_ended", command_outlives),
    Test::new("a_command_that_cannot_be_started_is_named", bad_commands),
    Test::new("a_run_ends_with_the_process_it_watches", watched),
    Test::new("failing_helpers_are_told_where_they_fail", helper_errors),
    Test::new("problems_are_objects_in_json", problems_in_json),
    Test::new("output_that_cannot_be_written_is_an_error", output),
    Test::new("exit_codes_are_those_of_bpftrace", exit_codes),
    Test::new("settings_of_the_environment_win", environment),
    Test::new("switches_of_bpftrace_change_nothing", foreign_switches),
    Test::new("without_btf_only_what_needs_it_fails", no_btf),
    Test::new("tracefs_is_mounted_where_it_is_missing", no_tracefs),
    Test::new("without_permission_the_capability_is_named", no_permission),
    Test::new("few_descriptors_are_an_error_that_says_so", few_files),
    Test::new("unreadable_scripts_are_named", unreadable),
    Test::new("a_script_lists_its_parameters", parameters),
    Test::new("a_script_of_begin_and_end_ends_by_itself", ends_by_itself),
];

fn weir(args: &[&str]) -> Result<Output> {
    Command::new(program()?)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("cannot run weir")
}

/// Runs a line of shell in which `$WEIR` is the program.
fn shell(line: &str) -> Result<Output> {
    Command::new("sh")
        .args(["-c", line])
        .env("WEIR", program()?)
        .stdin(Stdio::null())
        .output()
        .context("cannot run a shell")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn says(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let err = text(&output.stderr);
    ensure!(output.status.code() == Some(code), "expected {code}, got {}: {err}", output.status);
    for word in words {
        ensure!(err.contains(word), "`{word}` is not in {err}");
    }
    Ok(())
}

fn command() -> Result<()> {
    // Its very first system call is counted, and nothing of anybody else's.
    let script = "tracepoint:sched:sched_process_exec /pid == cpid/ { @exec = count(); } \
                  tracepoint:syscalls:sys_enter_openat /pid == cpid && str(args.filename) == \"/etc/hostname\"/ { @open = count(); }";
    let done = Weir::new(["-v", "-c", "cat /etc/hostname /etc/hostname \"/etc/hostname\"", "-e", script]).run()?;
    let done = done.clean()?;
    ensure!(done.stdout.contains("@exec: 1\n") && done.stdout.contains("@open: 3\n"), "{done}");
    ensure!(done.stderr.contains("exited with code 0"), "{done}");
    Ok(())
}

fn command_outlives() -> Result<()> {
    let done = Weir::new([
        "-v",
        "-c",
        "sleep 1000",
        "-e",
        "interval:ms:50 { printf(\"%d\\n\", cpid); exit(); }",
    ])
    .run()?;
    let done = done.clean()?;
    ensure!(done.stderr.contains("was sent SIGTERM"), "{done}");
    let pid: i32 = done.stdout.lines().next().context("no process id")?.parse()?;
    // We are not its parent: once it is a zombie or gone, it does nothing any more.
    weir_tests::wait_for("the command's end", || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Ok((state.is_empty() || state.contains(") Z ")).then_some(()))
    })
}

fn bad_commands() -> Result<()> {
    let script = "begin { printf(\"never\\n\"); }";
    says(
        &weir(&["-c", "no-such-program", "-e", script])?,
        1,
        &["there is no program `no-such-program` in PATH"],
    )?;
    says(
        &weir(&["-c", "/etc/passwd", "-e", script])?,
        1,
        &["`/etc/passwd` cannot be executed"],
    )?;
    says(&weir(&["-c", "\"open", "-e", script])?, 1, &["quotes must be closed"])?;
    says(&weir(&["-p", "4190000", "-e", script])?, 1, &["there is no process 4190000"])?;
    says(&weir(&["-c", "true", "-p", "1", "-e", script])?, 1, &["cannot be used with"])?;
    says(&weir(&["-p", "x", "-e", script])?, 1, &["'x'"])
}

fn watched() -> Result<()> {
    let mut sleeper = Command::new("sleep").arg("1000").spawn()?;
    let pid = sleeper.id().to_string();
    let run = Weir::new(["-p", &pid, "-e", "interval:ms:20 { @ = count(); }"]).start()?;
    kill(Pid::from_raw(sleeper.id() as i32), Signal::SIGKILL)?;
    sleeper.wait()?;
    run.wait()?.clean().map(drop)
}

const FAILING: &str = "begin { @x[1] = 1; printf(\"%d\\n\", @x[2]); delete(@x, 5); print(str(uptr(16))); }";

fn helper_errors() -> Result<()> {
    let output = weir(&["-k", "-e", FAILING])?;
    says(
        &output,
        0,
        &[
            "Can't lookup map element because it does not exist.",
            "Additional Info - helper: map_lookup_elem, retcode: 0",
            "stdin:1:35",
            "helper: map_delete_elem, retcode: -2",
            "Bad address",
            "helper: probe_read_user_str, retcode: -14",
        ],
    )?;
    // Without the switch the same script says nothing.
    let output = weir(&["-e", FAILING])?;
    ensure!(!text(&output.stderr).contains("helper"), "{}", text(&output.stderr));
    Ok(())
}

fn problems_in_json() -> Result<()> {
    let script = "begin { @x[1] = 1; print(@x[2]); errorf(\"bad %d\", 3); warnf(\"odd\"); }";
    let output = weir(&["-k", "-f", "json", "-e", script])?;
    ensure!(output.stderr.is_empty(), "on standard error: {}", text(&output.stderr));
    let mut kinds = Vec::new();
    for line in text(&output.stdout).lines() {
        let object: serde_json::Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        if object.get("msg").is_some() {
            ensure!(
                object["filename"] == "stdin" && object["line"] == 1 && object["col"].is_u64(),
                "{line}"
            );
            kinds.push(format!("{} {}", object["type"], object["msg"]));
        }
    }
    // What the number means, as the C library says it, which for an element that is not there is no error.
    ensure!(
        kinds == [r#""helper_error" "Success""#, r#""errorf" "bad 3""#, r#""warnf" "odd""#],
        "{kinds:?} in {}",
        text(&output.stdout)
    );
    let full = "config = { max_map_keys = 2 } begin { @x[1] = 1; @x[2] = 1; @x[3] = 1; }";
    let output = weir(&["-f", "json", "-e", full])?;
    ensure!(
        text(&output.stdout).contains(r#"{"type": "helper_error", "msg": "Argument list too long", "helper": "map_update_elem", "retcode": -7, "filename": "stdin", "line": 1, "col": "#),
        "{}",
        text(&output.stdout)
    );
    Ok(())
}

fn output() -> Result<()> {
    let script = "begin { printf(\"x\\n\"); }";
    says(
        &shell(&format!("\"$WEIR\" -e '{script}' > /dev/full"))?,
        1,
        &["cannot write to `standard output`", "No space left"],
    )?;
    for switch in ["--help", "-h", "-V"] {
        let written = shell(&format!("\"$WEIR\" {switch} > /dev/full"))?;
        says(&written, 1, &["cannot write to standard output", "No space left"])?;
    }
    says(
        &weir(&["-o", "/no/such/folder/f", "-e", script])?,
        1,
        &["cannot write to `/no/such/folder/f`"],
    )?;
    // A closed output is a reader that has gone; a closed input is nothing at all.
    says(&shell(&format!("\"$WEIR\" -e '{script}' >&-"))?, 0, &[])?;
    let output = shell(&format!("\"$WEIR\" -e '{script}' <&-"))?;
    ensure!(text(&output.stdout) == "x\n\n\n", "{:?}", text(&output.stdout));
    let dir = TempDir::new()?;
    let file = dir.path().join("out");
    says(&weir(&["-o", file.to_str().context("path")?, "-e", script])?, 0, &[])?;
    ensure!(std::fs::read_to_string(file)? == "x\n\n\n", "the file has something else");
    Ok(())
}

fn exit_codes() -> Result<()> {
    for (script, code) in [
        ("begin { exit(); }", 0),
        ("begin { exit(7); }", 7),
        ("interval:ms:10 { exit(300); }", 300 & 0xff),
        ("begin { fail_here }", 1),
        ("begin {", 1),
    ] {
        let output = weir(&["-e", script])?;
        ensure!(output.status.code() == Some(code), "`{script}` ended with {}", output.status);
    }
    // A signal ends a run normally.
    let run = Weir::script("interval:s:100 { }").start()?;
    ensure!(run.end_with(Signal::SIGTERM)?.status.code() == Some(0), "SIGTERM is no failure");
    says(&weir(&[])?, 1, &["Usage: weir"])?;
    says(&weir(&["--no-such-switch"])?, 1, &["--no-such-switch"])
}

fn environment() -> Result<()> {
    let check = |env: &[(&str, &str)], args: &[&str]| -> Result<Output> {
        Command::new(program()?)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .output()
            .context("cannot run weir")
    };
    let keys = "config = { max_map_keys = 1000 } begin { @x[1] = 1; @x[2] = 1; @x[3] = 1; print(len(@x)); exit(); }";
    let output = check(&[("BPFTRACE_MAX_MAP_KEYS", "2")], &["-e", keys])?;
    ensure!(
        text(&output.stdout).starts_with("2\n"),
        "the environment did not win: {}",
        text(&output.stdout)
    );
    let output = check(&[("BPFTRACE_PRINT_MAPS_ON_EXIT", "0")], &["-e", "begin { @x = 1; }"])?;
    ensure!(!text(&output.stdout).contains("@x"), "{}", text(&output.stdout));
    says(
        &check(&[("BPFTRACE_MAX_MAP_KEYS", "many")], &["-e", "begin { }"])?,
        1,
        &["BPFTRACE_MAX_MAP_KEYS"],
    )
}

fn foreign_switches() -> Result<()> {
    let script = "begin { printf(\"ok\\n\"); }";
    let output = weir(&[
        "--verify-llvm-ir",
        "--no-feature",
        "kprobe_multi,uprobe_multi",
        "--usdt-file-activation",
        "--debuginfo",
        "/usr/lib/debug",
        "-I",
        "/usr/include",
        "--unsafe",
        "-e",
        script,
    ])?;
    ensure!(
        text(&output.stdout).starts_with("ok\n") && output.status.success(),
        "{}",
        text(&output.stderr)
    );
    says(&weir(&["--emit-llvm", "x", "-e", script])?, 1, &["-d clif"])?;
    says(&weir(&["--aot", "x", "-e", script])?, 1, &["weir build"])?;
    says(&weir(&["--fmt", "x.bt"])?, 1, &["weir fmt FILE"])?;
    // Blocks that bpftrace leaves out unless it is asked for them.
    let tests = "test:one { @t = 1; } begin { printf(\"ok\\n\"); } bench:two { $x = 1; }";
    let output = weir(&["-e", tests])?;
    says(
        &output,
        0,
        &["`test:one` is left out", "`bench:two` is left out", "Attached 1 probe\n"],
    )?;
    ensure!(text(&output.stdout) == "ok\n\n\n", "{}", text(&output.stdout));
    says(&weir(&["--test", "-e", tests])?, 1, &["no `test:` and `bench:` blocks"])?;
    says(
        &weir(&["-e", "test:one { }"])?,
        1,
        &["the script has no probe", "`test:one` is left out"],
    )
}

fn no_btf() -> Result<()> {
    let hidden = |script: &str| {
        shell(&format!(
            "exec unshare -m sh -c 'mount -t tmpfs none /sys/kernel/btf && exec \"$WEIR\" -e \"{script}\"'"
        ))
    };
    let output = hidden("begin { @ = 5; }")?;
    ensure!(text(&output.stdout).contains("@: 5"), "{}", text(&output.stderr));
    says(
        &hidden("begin { print(((struct task_struct *)curtask)->pid); }")?,
        1,
        &["no type information", "stdin:1:", "tracepoint"],
    )?;
    says(
        &hidden("begin { print(curtask->pid); }")?,
        1,
        &["no type information", "stdin:1:15"],
    )
}

fn no_tracefs() -> Result<()> {
    let output = shell(
        "exec unshare -m sh -c 'for d in /sys/kernel/debug /sys/kernel/tracing; do mount -t tmpfs none $d; done; \
         exec \"$WEIR\" -e \"tracepoint:syscalls:sys_enter_openat { exit(4); }\"'",
    )?;
    // Files are opened all the time, not least by the shell's own children.
    says(&output, 4, &["Attached 1 probe"])
}

fn no_permission() -> Result<()> {
    let dir = TempDir::new()?;
    let run = |line: &str| -> Result<Output> {
        std::fs::copy(program()?, dir.path().join("weir"))?;
        Command::new("sh")
            .args([
                "-c",
                &format!("chmod 755 \"$D\" && exec setpriv --reuid=65534 --clear-groups \"$D/weir\" {line}"),
            ])
            .env("D", dir.path())
            .stdin(Stdio::null())
            .output()
            .context("cannot run setpriv")
    };
    says(&run("-e 'interval:s:1 { @ = 1; }'")?, 1, &["lacks CAP_BPF, CAP_PERFMON"])?;
    says(&run("-e 'tracepoint:syscalls:sys_enter_openat { @ = 1; }'")?, 1, &["CAP_SYS_ADMIN"])?;
    says(&run("-l 'tracepoint:tcp:*'")?, 1, &["cannot list tracepoints"])?;
    // What takes no permission works.
    says(&run("-d ast -e 'begin { }'")?, 0, &[])?;
    says(&run("doc count")?, 0, &[])
}

fn few_files() -> Result<()> {
    let output = shell("ulimit -n 24; exec \"$WEIR\" -e 'tracepoint:syscalls:sys_enter_* { @ = count(); }'")?;
    says(&output, 1, &["Too many open files", "ulimit -n"])?;
    // A soft limit is raised to the hard one.
    let output = shell("ulimit -Sn 24; exec \"$WEIR\" -e 'tracepoint:syscalls:sys_enter_f* { @ = 1; } interval:ms:1 { exit(); }'")?;
    says(&output, 0, &["Attached"])
}

fn unreadable() -> Result<()> {
    says(&weir(&["/no/such/script.bt"])?, 1, &["there is no file `/no/such/script.bt`"])?;
    says(&weir(&["/"])?, 1, &["`/` is a directory"])?;
    let dir = TempDir::new()?;
    let file = dir.path().join("bad.bt");
    std::fs::write(&file, b"begin {\n  // \xff\n}\n")?;
    says(
        &weir(&[file.to_str().context("path")?])?,
        1,
        &["is not UTF-8 text: byte 0xff in line 2"],
    )
}

fn parameters() -> Result<()> {
    let script = "begin { printf(\"%d %s %d\\n\", getopt(\"port\", 80, \"what to count\"), getopt(\"name\", \"x\"), getopt(\"all\")); }";
    let output = weir(&["-e", script, "--", "--help"])?;
    let expected = "Parameters of `stdin`, given after `--`, with their defaults:\n  --port=80  what to count\n  --name=x\n  --all\n";
    ensure!(
        text(&output.stdout) == expected && output.status.success(),
        "{}",
        text(&output.stdout)
    );
    let output = weir(&["-e", script, "--", "--all", "--port=0x10"])?;
    ensure!(text(&output.stdout).starts_with("16 x 1\n"), "{}", text(&output.stdout));
    // A blank is as good as an equals sign, with every command.
    let dir = weir_tests::net::TempDir::new()?;
    dir.write(
        "p.weir",
        &format!("{script} xdp:getopt(\"iface\") {{ @ = count(); }} end {{ print($#); exit(); }}"),
    )?;
    let file = dir.path().join("p.weir").to_string_lossy().into_owned();
    let begin =
        "begin { printf(\"%d %s %d %s %s\\n\", getopt(\"port\", 80), getopt(\"name\", \"x\"), getopt(\"all\"), str($1), str($1, 2)); }";
    dir.write("b.weir", begin)?;
    let plain = dir.path().join("b.weir").to_string_lossy().into_owned();
    let words = ["--port", "-5", "--all", "word", "--name", "a b"];
    for start in [
        &[plain.as_str(), "--"][..],
        &["-e", begin, "--"],
        &["run", &plain, "--"],
        &["run", &plain],
    ] {
        let all: Vec<&str> = start.iter().chain(&words).copied().collect();
        let output = weir(&all)?;
        ensure!(
            text(&output.stdout).starts_with("-5 a b 1 word wo\n"),
            "{all:?}: {} {}",
            text(&output.stdout),
            text(&output.stderr)
        );
    }
    let capture = concat!(env!("CARGO_MANIFEST_DIR"), "/cases/captures/vlan.pcap");
    for start in [&["check", &file][..], &["replay", "-q", capture, &file]] {
        let all: Vec<&str> = start
            .iter()
            .chain(&["--"])
            .chain(&words)
            .chain(&["--iface", "lo"])
            .copied()
            .collect();
        let output = weir(&all)?;
        ensure!(output.status.success(), "{all:?}: {}", text(&output.stderr));
        ensure!(
            start[0] == "check" || text(&output.stdout).starts_with("-5 a b 1\n"),
            "{all:?}: {}",
            text(&output.stdout)
        );
    }
    says(&weir(&["check", &file, "--", "--iface"])?, 1, &["`--iface`", "needs a value"])?;
    says(
        &weir(&["-e", script, "--", "--prot=1"])?,
        1,
        &["no parameter `--prot`", "did you mean `--port`?"],
    )?;
    says(
        &weir(&["-e", script, "--", "--port=many"])?,
        1,
        &["`--port` is an integer, found `many`"],
    )?;
    // Also where nothing but a value is missing, in code, in an attach point, in a file's name.
    let places = [
        "begin { print(getopt(\"a\", 1)); }",
        "begin { print(getopt(\"a\", \"x\")); }",
        "begin { } interval:s:getopt(\"a\", 1) { }",
        "begin { print(1.2.3.4 in file(getopt(\"a\", \"/dev/null\"))); }",
    ];
    for place in places {
        says(&weir(&["-e", place, "--", "--a"])?, 1, &["`--a` needs a value", "write `--a=", "^"])?;
    }
    Ok(())
}

fn ends_by_itself() -> Result<()> {
    let done = Weir::script("begin { printf(\"b\\n\"); } end { printf(\"e\\n\"); }")
        .run()?
        .clean()?;
    ensure!(done.stdout == "b\ne\n\n\n" || done.stdout == "b\n\n\ne\n", "{done}");
    Ok(())
}
