//! However weir ends, the kernel is as it was: no program, map, link, filter, qdisc or pin of ours, everyone else's untouched.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;
use weir_tests::features::{Answer, Feature};
use weir_tests::harness::Test;
use weir_tests::kernel::{KernelState, Kind};
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::traffic;
use weir_tests::weir::{Running, Weir};

pub const TESTS: &[Test] = &[
    Test::new("nothing_is_left_after_exit", after_exit).alone(),
    Test::new("nothing_is_left_after_an_error", after_error).alone(),
    Test::new("nothing_is_left_after_sigint", || after_signal(Signal::SIGINT)).alone(),
    Test::new("nothing_is_left_after_sigterm", || after_signal(Signal::SIGTERM)).alone(),
    Test::new("nothing_is_left_after_sighup", || after_signal(Signal::SIGHUP)).alone(),
    Test::new("nothing_is_left_after_kill_9", after_kill).alone(),
    Test::new("two_signals_at_once_are_one", two_signals).alone(),
    Test::new("the_demo_runs_and_leaves_nothing", demo).alone(),
    Test::new("nothing_is_left_of_a_native", native).alone(),
    Test::new("a_closed_pipe_ends_quietly", closed_pipe).alone(),
    Test::new("a_clsact_of_others_stays", foreign_clsact).alone(),
];

/// A program on every kind of hook that the first scripts use.
const EVERYWHERE: &str = "xdp:veth0 { @x[ip.src] = count(); } \
                          tc:veth0:ingress { @i[ip.src] = count(); } tc:veth0:egress { @e[ip.dst] = count(); } \
                          tracepoint:syscalls:sys_enter_openat { @[comm] = count(); } \
                          interval:ms:100 { print(@x); }";

/// Starts it and sees it work: the objects are there and packets are counted.
fn started(lab: &Lab) -> Result<Running> {
    let mut weir = Weir::script(EVERYWHERE).at(lab).start()?;
    let programs = weir.objects().iter().filter(|o| o.kind == Kind::Program).count();
    ensure!(programs >= 5, "expected a program for each block, found {:?}", weir.objects());
    traffic::settle(lab)?;
    let source = format!("@x[{}]: ", lab.peer4());
    weir.wait_stdout("the count of a packet", |text| text.contains(&source))?;
    Ok(weir)
}

fn after_exit() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let script = format!("{EVERYWHERE} interval:s:1 {{ exit(); }}");
    Weir::script(&script).at(&lab).start()?.wait()?.clean()?;
    before.assert_same(Some(&lab.node))
}

fn after_error() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    // The last attachment fails, when all others may have been made.
    let script = format!("{EVERYWHERE} xdp:veth9 {{ @y = count(); }}");
    Weir::script(&script).at(&lab).run()?.refused(&["veth9"])?;
    before.assert_same(Some(&lab.node))?;
    Weir::script("xdp:veth0 { @ = ; }").at(&lab).run()?.refused(&["^"])?;
    before.assert_same(Some(&lab.node))
}

fn after_signal(signal: Signal) -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let done = started(&lab)?.end_with(signal)?.clean()?;
    // It ends as if by `exit()`: the maps are printed.
    ensure!(done.map("@i").contains_key(&lab.peer4().to_string()), "{done}");
    before.assert_same(Some(&lab.node))
}

/// `timeout` signals the process and then its group: the maps must be printed all the same.
fn two_signals() -> Result<()> {
    let lab = Lab::new()?;
    let running = started(&lab)?;
    running.signal(Signal::SIGINT)?;
    let done = running.end_with(Signal::SIGINT)?.clean()?;
    ensure!(done.map("@i").contains_key(&lab.peer4().to_string()), "{done}");
    Ok(())
}

fn demo() -> Result<()> {
    let before = KernelState::now(None)?;
    let done = Weir::new(["demo", "--seconds", "1"]).run()?;
    ensure!(done.status.success(), "{done}");
    before.assert_same(None)
}

fn after_kill() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let done = started(&lab)?.end_with(Signal::SIGKILL)?;
    ensure!(done.status.signal() == Some(Signal::SIGKILL as i32), "{done}");
    if let Answer::No(_) = Feature::Tcx.probe() {
        // Filters in clsact have no owner that the kernel knows: the next start removes those of the dead.
        started(&lab)?.stop()?.clean()?;
    }
    before.assert_same(Some(&lab.node))
}

fn native() -> Result<()> {
    const SCRIPT: &str = r#"use blocklist(iface="veth0", prefixes=file("bad.txt")) as bl; bl:drop { @[ip.src] = count(); }"#;
    let lab = Lab::new()?;
    lab.dir.write("bad.txt", "10.66.0.0/16\n2001:db8:bad::/48\n")?;
    let before = KernelState::now(Some(&lab.node))?;
    Weir::script(SCRIPT).at(&lab).start()?.stop()?.clean()?;
    before.assert_same(Some(&lab.node))?;
    Weir::script(SCRIPT).at(&lab).start()?.end_with(Signal::SIGKILL)?.nothing_left()?;
    before.assert_same(Some(&lab.node))?;
    // A malformed list is refused before anything is attached, and the line is named.
    lab.dir.write("bad.txt", "10.66.0.0/16\nnot an address\n")?;
    Weir::script(SCRIPT).at(&lab).run()?.refused(&["bad.txt", "2", "not an address"])?;
    before.assert_same(Some(&lab.node))
}

fn closed_pipe() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let done = started(&lab)?.close_stdout()?;
    ensure!(
        !done.stderr.contains("panic") && !done.stderr.to_lowercase().contains("broken pipe"),
        "not quietly: {done}"
    );
    before.assert_same(Some(&lab.node))
}

fn foreign_clsact() -> Result<()> {
    let lab = Lab::new()?;
    lab.node.tc(&["qdisc", "add", "dev", NODE_IF, "clsact"])?;
    let before = KernelState::now(Some(&lab.node))?;
    started(&lab)?.stop()?.clean()?;
    before.assert_same(Some(&lab.node))
}
