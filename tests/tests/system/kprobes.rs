//! What only kernels with kprobes have: places inside of functions, registers, results that a probe decides, many functions by
//! one link.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;
use weir_tests::features::Feature;
use weir_tests::harness::Need::Has;
use weir_tests::harness::Test;
use weir_tests::kernel::Kind;
use weir_tests::victim;
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("kprobe_at_an_offset_and_its_registers", offset).needs(&[Has(Feature::Kprobe)]),
    Test::new("kprobe_can_decide_what_a_function_returns", override_result).needs(&[Has(Feature::Kprobe), Has(Feature::Override)]),
    Test::new("kprobes_of_a_pattern_are_one_link", many).needs(&[Has(Feature::Kprobe)]),
    Test::new("signals_end_the_process_that_meets_a_probe", signal),
];

const CALLS: u64 = 50;

fn offset() -> Result<()> {
    let comm = victim::COMM;
    // The first instruction has four bytes (`endbr64`) or five (what ftrace may patch), by the kernel's configuration.
    let script = |offset: u32| {
        format!(
            "kprobe:__x64_sys_setpriority /comm == \"{comm}\"/ {{ @start[reg(\"di\") == arg0] = count(); }}
             kprobe:__x64_sys_setpriority+{offset} /comm == \"{comm}\"/ {{ @inside[probe, reg(\"sp\") != 0] = count(); }}"
        )
    };
    let mut errors = String::new();
    for at in [4, 5] {
        let weir = match Weir::script(&script(at)).start() {
            Ok(weir) => weir,
            Err(e) => {
                errors += &format!("{e:#}\n");
                continue;
            }
        };
        victim::run(&["call", &CALLS.to_string()])?;
        let done = weir.stop()?.clean()?;
        done.expect_map("@start", [("true", CALLS)])?;
        return done.expect_map("@inside", [(format!("kprobe:__x64_sys_setpriority+{at}, true"), CALLS)]);
    }
    anyhow::bail!("no offset is the start of an instruction: {errors}")
}

/// Debian's kernels are built without it; what weir says then is tested everywhere.
fn override_result() -> Result<()> {
    let comm = victim::COMM;
    let script = format!(
        "kprobe:__x64_sys_getpriority /comm == \"{comm}\"/ {{ override(-13); @ = count(); }}
         tracepoint:syscalls:sys_exit_getpriority /comm == \"{comm}\"/ {{ @ret[args.ret] = count(); }}"
    );
    Weir::script(&script)
        .run()?
        .refused(&["`override` changes the system", "--unsafe"])?;
    let closed = "kprobe:tcp_v4_rcv { override(-13); }";
    Weir::new(["--unsafe", "-e", closed])
        .run()?
        .refused(&["does not let a probe decide what this function returns", "error_injection/list"])?;
    let weir = Weir::new(["--unsafe", "-e", &script]).start()?;
    victim::run(&["call", &CALLS.to_string()])?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [("", CALLS)])?;
    done.expect_map("@ret", [("-13", CALLS)])
}

fn many() -> Result<()> {
    let comm = victim::COMM;
    let script = format!("kprobe:__x64_sys_[gs]et* /comm == \"{comm}\"/ {{ @[func] = count(); }}");
    let weir = Weir::script(&script).start()?;
    let links = weir.objects().iter().filter(|o| o.kind == Kind::Link).count();
    victim::run(&["call", &CALLS.to_string()])?;
    let done = weir.stop()?.clean()?;
    done.expect_entry("@", "__x64_sys_getpriority", CALLS)?;
    done.expect_entry("@", "__x64_sys_setpriority", CALLS)?;
    let probes = weir_tests::output::numbers(&done.stderr).into_iter().max().unwrap_or(0);
    ensure!(probes >= 30, "{probes} probes: {done}");
    // Without CONFIG_FPROBE each function has a link of its own.
    let multi = std::fs::read_to_string("/proc/kallsyms")?.contains(" register_fprobe\n");
    if multi {
        // Functions that the kernel refuses split a link, at most a few times.
        ensure!(links < 8, "{probes} probes by {links} links: {done}");
    }
    Ok(())
}

/// By a tracepoint, which every kernel has.
fn signal() -> Result<()> {
    let comm = victim::COMM;
    let script = format!("tracepoint:syscalls:sys_enter_setpriority /comm == \"{comm}\"/ {{ signal(\"KILL\"); @ = count(); }}");
    Weir::script(&script).run()?.refused(&["`signal` changes the system", "--unsafe"])?;
    let weir = Weir::new(["--unsafe", "-e", &script]).start()?;
    let status = victim::start(&["call", "50"])?.wait_with_output()?.status;
    let done = weir.stop()?.clean()?;
    ensure!(
        status.signal() == Some(Signal::SIGKILL as i32),
        "the victim ended with {status}: {done}"
    );
    // It never came to a second call.
    done.expect_map("@", [("", 1)])
}
