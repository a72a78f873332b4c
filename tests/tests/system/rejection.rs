//! A verifier that says no: tried again without the optimiser, else our own report with the script's line; never its raw log.

use anyhow::{Context, Result, ensure};
use weir_tests::gate::{Gate, Reject};
use weir_tests::harness::Test;
use weir_tests::net::TempDir;
use weir_tests::weir::{Finished, Weir};

pub const TESTS: &[Test] = &[
    Test::new("a_rejected_program_is_tried_without_the_optimiser", again),
    Test::new("a_program_rejected_twice_is_our_bug_with_the_script_line", twice),
    Test::new("a_helper_that_the_kernel_lacks_is_named", no_helper),
    Test::new("a_program_too_long_for_the_kernel_is_said_so", too_long),
];

const SCRIPT: &str = "begin {\n  $a = 1 + 2;\n  @ = $a * 4;\n}";

const LOG: &str = "func#0 @0
0: R1=ctx() R10=fp0
; @ = $a * 4; @ stdin:3
0: (b7) r1 = 12                       ; R1_w=12
1: (7b) *(u64 *)(r2 +0) = r1
R2 !read_ok
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
";

fn run(args: &[&str], gate: &mut Gate, dir: &TempDir) -> Result<Finished> {
    let folder = dir.path().to_str().context("a path")?.to_owned();
    Weir::new(args.iter().copied())
        .env("TMPDIR", folder)
        .run_behind(&mut gate.supervisor)
}

/// What no user wants to read.
fn no_raw_log(done: &Finished) -> Result<()> {
    for words in ["processed 2 insns", "func#0", "R10=fp0", "max_states"] {
        ensure!(!done.stderr.contains(words), "the verifier's raw log: {done}");
    }
    Ok(())
}

fn again() -> Result<()> {
    let dir = TempDir::new()?;
    let mut gate = Gate::new(Reject::FirstForm, LOG)?;
    let done = run(&["-e", SCRIPT], &mut gate, &dir)?.clean()?;
    ensure!(done.stdout.ends_with("@: 12\n") && done.stderr == "Attached 1 probe\n", "{done}");
    let loads = gate.loads();
    let (no, yes): (Vec<_>, Vec<_>) = loads.iter().partition(|l| l.rejected);
    // Once to learn that it is rejected, once for the log; then the other form, at once.
    ensure!(no.len() == 2 && !no[0].with_log && no[1].with_log, "{loads:?}");
    ensure!(yes.len() == 1 && yes[0].instructions > no[0].instructions, "{loads:?}");
    let mut gate = Gate::new(Reject::FirstForm, LOG)?;
    let done = run(&["-v", "-e", SCRIPT], &mut gate, &dir)?.clean()?;
    ensure!(done.stderr.contains("the unoptimised one is taken instead"), "{done}");
    no_raw_log(&done)?;
    ensure!(
        std::fs::read_dir(dir.path())?.next().is_none(),
        "a report of what went well in the end"
    );
    Ok(())
}

fn twice() -> Result<()> {
    let dir = TempDir::new()?;
    let mut gate = Gate::new(Reject::Everything, LOG)?;
    let done = run(&["-e", SCRIPT], &mut gate, &dir)?.refused(&[
        "this is a bug of weir, not of the script",
        "stdin:",
        "R2 !read_ok",
        "at instruction 1: (7b) *(u64 *)(r2 +0) = r1",
        "please report it with",
    ])?;
    no_raw_log(&done)?;
    let forms: std::collections::BTreeSet<u32> = gate.loads().iter().map(|l| l.instructions).collect();
    ensure!(forms.len() == 2, "both forms are tried: {:?}", gate.loads());
    let report = std::fs::read_dir(dir.path())?.next().context("no report")??.path();
    let text = std::fs::read_to_string(report)?;
    for part in [SCRIPT, "verifier log 1:", "verifier log 2:", "processed 2 insns"] {
        ensure!(text.contains(part), "no `{part}` in the report: {text}");
    }
    Ok(())
}

fn too_long() -> Result<()> {
    let dir = TempDir::new()?;
    let mut gate = Gate::new(Reject::Everything, "BPF program is too large. Processed 1000001 insn\n")?;
    let done = run(&["-e", SCRIPT], &mut gate, &dir)?.refused(&["too long for the kernel", "loop less often", "stdin:1:1"])?;
    ensure!(!done.stderr.contains("1000001"), "{done}");
    Ok(())
}

fn no_helper() -> Result<()> {
    let dir = TempDir::new()?;
    let mut gate = Gate::new(
        Reject::Everything,
        "5: (85) call bpf_override_return#58\nunknown func bpf_override_return#58\n",
    )?;
    let done =
        run(&["-e", SCRIPT], &mut gate, &dir)?.refused(&["this kernel has no `bpf_override_return`", "CONFIG_BPF_KPROBE_OVERRIDE"])?;
    ensure!(
        !done.stderr.contains("bug of weir") && std::fs::read_dir(dir.path())?.next().is_none(),
        "{done}"
    );
    Ok(())
}
