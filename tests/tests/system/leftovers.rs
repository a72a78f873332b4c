//! However weir ends, the kernel is as it was: no program, map, link, filter, qdisc or pin of ours, everyone else's untouched.

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use weir_tests::features::{Answer, Feature};
use weir_tests::frame::Frame;
use weir_tests::gate;
use weir_tests::harness::Need::{Has, Lacks};
use weir_tests::harness::Test;
use weir_tests::kernel::{KernelState, Kind};
use weir_tests::net::{Lab, NODE_IF, TempDir};
use weir_tests::terminal::Terminal;
use weir_tests::traffic;
use weir_tests::weir::{Running, Weir};
use weir_tests::{in_vm, patience, victim};

pub const TESTS: &[Test] = &[
    Test::new("nothing_is_left_after_exit", after_exit).alone(),
    Test::new("nothing_is_left_after_an_error", after_error).alone(),
    Test::new("nothing_is_left_after_sigint", || after_signal(Signal::SIGINT)).alone(),
    Test::new("nothing_is_left_after_sigterm", || after_signal(Signal::SIGTERM)).alone(),
    Test::new("nothing_is_left_after_sighup", || after_signal(Signal::SIGHUP)).alone(),
    Test::new("nothing_is_left_after_kill_9", after_kill).alone(),
    Test::new("nothing_is_left_of_tracing_after_kill_9", || {
        killed_in_the_middle(&tracing_probes()?)
    })
    .alone(),
    Test::new("nothing_is_left_of_kprobes_after_kill_9", || killed_in_the_middle(KPROBES))
        .alone()
        .needs(&[Has(Feature::Kprobe)]),
    Test::new("nothing_is_left_of_fentry_after_kill_9", || killed_in_the_middle(FENTRIES))
        .alone()
        .needs(&[Has(Feature::Fentry)]),
    Test::new("nothing_is_left_of_a_watchpoint_after_kill_9", watchpoint)
        .alone()
        .needs(&[Has(Feature::Watchpoint)]),
    Test::new("two_signals_at_once_are_one", two_signals).alone(),
    Test::new("the_demo_runs_and_leaves_nothing", demo).alone(),
    Test::new("clean_lists_what_is_left_and_removes_it", clean)
        .needs(&[Lacks(Feature::Tcx)])
        .alone(),
    Test::new("what_cannot_be_removed_is_said_with_the_command", refused_removal)
        .needs(&[Lacks(Feature::Tcx)])
        .alone(),
    Test::new("a_qdisc_goes_with_the_last_of_two_that_pass_each_other", passing_each_other)
        .needs(&[Lacks(Feature::Tcx)])
        .alone(),
    Test::new("a_job_that_ends_takes_no_filter_of_another_job", two_jobs)
        .needs(&[Lacks(Feature::Tcx)])
        .alone(),
    Test::new("who_holds_the_turn_is_waited_for_once", held_turn)
        .needs(&[Lacks(Feature::Tcx)])
        .alone(),
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

/// On a terminal and in a pipe. Emulated, a run takes a minute.
fn demo() -> Result<()> {
    let before = KernelState::now(None)?;
    let done = Weir::new(["demo", "--seconds", "1"]).run()?;
    ensure!(done.status.success(), "{done}");
    only_ours(&done.stdout)?;
    before.assert_same(None)?;
    if in_vm() {
        return Ok(());
    }
    let folder = TempDir::new()?;
    let mut terminal = Terminal::start(&["demo", "--seconds", "1"], folder.path())?;
    terminal.wait("the end", |t| t.printed().contains("All scripts have ended"))?;
    let text = terminal.printed().replace('\r', "");
    ensure!(terminal.ended(&BTreeSet::new())?.success(), "{text}");
    only_ours(&text)?;
    let (_, tables) = text.split_once("@fl: flows\n").with_context(|| text.clone())?;
    let mut tables = tables.lines().take_while(|line| line.starts_with(' '));
    ensure!(
        tables.all(|line| line.chars().count() <= usize::from(Terminal::COLUMNS)),
        "tables do not fit: {text}"
    );
    before.assert_same(None)
}

/// Nobody else's connections are in it.
fn only_ours(text: &str) -> Result<()> {
    let (_, answer) = text.split_once("@re: retransmits\n").with_context(|| text.to_owned())?;
    let lines = answer.lines().skip(1).take_while(|line| !line.starts_with("  processes"));
    let destinations: Vec<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    let ours = |to: &&str| ["10.0.0.1", "fd00::1"].contains(to);
    ensure!(
        !destinations.is_empty() && destinations.iter().all(ours),
        "{destinations:?}: {text}"
    );
    Ok(())
}

/// The helper that waits for weir's end, by the parent that it has.
fn children(pid: u32) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name may have blanks and brackets in it.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if parent == Some(pid)
            && let Ok(child) = entry.file_name().to_string_lossy().parse()
        {
            found.push(child);
        }
    }
    Ok(found)
}

/// When weir and its helper are both killed, `weir clean` says what is left, and removes it when it may.
fn clean() -> Result<()> {
    const SCRIPT: &str = "tc:veth0:ingress,tc:veth0:egress { @ = count(); }";
    let lab = Lab::new()?;
    let nothing = Weir::new(["clean"]).at(&lab).run()?;
    ensure!(nothing.status.success() && nothing.stdout == "nothing to clean\n", "{nothing}");
    let before = KernelState::now(Some(&lab.node))?;
    let running = Weir::script(SCRIPT).at(&lab).start()?;
    let pid = running.pid()?;
    for child in children(pid)? {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGKILL)?;
    }
    let _ = running.end_with(Signal::SIGKILL)?;
    // Nobody is asked: there is no terminal.
    let listed = Weir::new(["clean"]).at(&lab).run()?;
    for direction in ["ingress", "egress"] {
        let line = format!("veth0 {direction} priority 40000 handle 0x1: made by a weir that is gone (pid {pid})");
        ensure!(listed.stdout.contains(&line), "no `{line}`: {listed}");
    }
    ensure!(listed.stdout.lines().count() == 2, "listed twice: {listed}");
    ensure!(
        listed.status.code() == Some(1)
            && listed
                .stderr
                .contains("nothing was removed: standard input is no terminal to ask on"),
        "{listed}"
    );
    ensure!(!before.changes(Some(&lab.node))?.1.is_empty(), "removed without a word");
    let done = Weir::new(["clean", "--yes"]).at(&lab).run()?;
    ensure!(
        done.status.success() && done.stdout.ends_with("removed 2 stale filters\n"),
        "{done}"
    );
    before.assert_same(Some(&lab.node))
}

const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_DELTFILTER: u16 = 45;

/// A kernel that lets nothing be removed: weir says what stays and how it is removed, and that removes it.
fn refused_removal() -> Result<()> {
    const SCRIPT: &str = "tc:veth0:ingress { @ = count(); } interval:ms:50 { exit(); }";
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let refuse = |what: u16, mut times: u32| {
        gate::requests(move |kind| {
            let refused = kind == what && times > 0;
            times -= u32::from(refused);
            refused.then_some(libc::ENOMEM)
        })
    };
    // Weir's helper has memory of its own, so one refusal is none.
    for what in [RTM_DELTFILTER, RTM_DELQDISC] {
        let done = Weir::script(SCRIPT).at(&lab).run_behind(&mut refuse(what, 1)?)?.clean()?;
        ensure!(!done.stderr.contains("stays"), "{done}");
        before.assert_same(Some(&lab.node)).with_context(|| format!("{what}: {done}"))?;
    }
    let done = Weir::script(SCRIPT).at(&lab).run_behind(&mut refuse(RTM_DELTFILTER, u32::MAX)?)?;
    for words in [
        "warning: weir's filter stays on `veth0` ingress, priority 40000 handle 0x1: cannot delete a filter of `veth0`: Cannot allocate memory",
        "ten seconds from now it lets everything pass; remove it: `tc filter del dev veth0 ingress prio 40000 handle 0x1 bpf`",
    ] {
        ensure!(done.stderr.contains(words), "no `{words}`: {done}");
    }
    ensure!(our_filters(&lab)? == 1, "nothing stays: {done}");
    lab.node
        .tc(&["filter", "del", "dev", "veth0", "ingress", "prio", "40000", "handle", "0x1", "bpf"])?;
    ensure!(our_filters(&lab)? == 0, "the command removes nothing");
    lab.node.tc(&["qdisc", "del", "dev", "veth0", "clsact"])?;
    before.assert_same(Some(&lab.node))?;
    // From outside, the command goes inside.
    let script = SCRIPT.replace("veth0", &format!("veth0@{}", lab.node.name()));
    let done = Weir::script(&script).run_behind(&mut refuse(RTM_DELQDISC, u32::MAX)?)?;
    let words =
        "warning: the clsact qdisc that weir made stays on `veth0`: cannot remove the clsact qdisc of `veth0`: Cannot allocate memory";
    ensure!(done.stderr.contains(words), "no `{words}`: {done}");
    let (_, command) = done
        .stderr
        .split_once("it does nothing; remove it: `")
        .with_context(|| done.to_string())?;
    let (command, _) = command.split_once('`').with_context(|| done.to_string())?;
    let status = std::process::Command::new("sh").args(["-c", command]).status()?;
    ensure!(status.success(), "`{command}` failed: {done}");
    before.assert_same(Some(&lab.node))
}

/// Filters of weirs at the node's ingress.
fn our_filters(lab: &Lab) -> Result<usize> {
    let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, "ingress"])?;
    Ok(filters.matches(" weir:").count())
}

/// A second name of a lab's namespace.
struct Alias(String);

impl Alias {
    fn of(lab: &Lab) -> Result<Self> {
        let alias = Self(format!("{}-alias", lab.node.name()));
        let (path, name) = (
            Path::new("/run/netns").join(&alias.0),
            Path::new("/run/netns").join(lab.node.name()),
        );
        std::fs::File::create(&path).context("cannot make a name")?;
        mount(Some(&name), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("cannot bind the namespace to its second name")?;
        Ok(alias)
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        let path = Path::new("/run/netns").join(&self.0);
        // Both fail when it is gone already.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(&path);
    }
}

/// Jobs of one REPL are one process: what one cannot remove, since its namespace has lost its name, is not looked for among the others'.
fn two_jobs() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let mut t = lab.node.run(|| Terminal::start(&["repl"], lab.dir.path()))?;
    t.wait_prompt()?;
    t.line("tc:veth0:ingress /udp.dport == 5353/ { drop(); }")?;
    t.wait_for("job 1: attached 1 probe")?;
    let goes_on = |filters: usize| -> Result<()> {
        let socket = traffic::listen_udp(&lab.node, (lab.node4(), 5353).into())?;
        traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), 5353).into(), 3)?;
        traffic::settle(&lab)?;
        let received = traffic::received(&socket)?;
        ensure!(
            received == 0 && our_filters(&lab)? == filters,
            "{received} packets came in, {} filters are there, expected {filters}",
            our_filters(&lab)?
        );
        Ok(())
    };
    goes_on(1)?;
    // A namespace that ends with its name.
    let other = Lab::new()?;
    t.line(&format!(
        "tc:veth0:ingress,tc:veth0@{}:ingress {{ @a = count(); }}",
        other.node.name()
    ))?;
    t.wait_for("job 2: attached 2 probes")?;
    goes_on(2)?;
    drop(other);
    t.wait_for("is gone; what was attached there")?;
    goes_on(2)?;
    t.line(":stop 2")?;
    t.wait_for("job 2 stopped")?;
    goes_on(1).context("after a job was stopped")?;
    // The same interface by another name of its namespace, which goes before the job.
    let alias = Alias::of(&lab)?;
    t.line(&format!("tc:veth0@{}:ingress {{ @b = count(); }}", alias.0))?;
    t.wait_for("job 3: attached 1 probe")?;
    goes_on(2)?;
    drop(alias);
    weir_tests::wait_for("the end of what was attached by a name that is gone", || {
        Ok((our_filters(&lab)? < 2).then_some(()))
    })?;
    goes_on(1).context("after a name was lost")?;
    t.line(":stop 3")?;
    t.wait_for("job 3 stopped")?;
    goes_on(1).context("after a job without a name was stopped")?;
    let objects = t.objects();
    let status = t.left(&objects)?;
    ensure!(status.success(), "it ended with {status}");
    before.assert_same(Some(&lab.node))
}

/// Whoever can see the namespace can hold the lock: with many interfaces that is one delay.
fn held_turn() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let lab = Lab::new()?;
    for n in 1..6 {
        lab.add_cable(&format!("veth{n}"), &format!("peer{n}"))?;
    }
    let before = KernelState::now(Some(&lab.node))?;
    let timed = || -> Result<Duration> {
        let start = Instant::now();
        let done = Weir::script("tc:veth*:ingress { @ = count(); } interval:ms:50 { exit(); }")
            .at(&lab)
            .run()?;
        done.clean()?;
        Ok(start.elapsed())
    };
    let free = timed()?;
    let file = std::fs::File::open(Path::new("/run/netns").join(lab.node.name()))?;
    let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    let held = timed()?;
    // Six starts and six ends would be a minute.
    ensure!(
        held >= PATIENCE && held < free + 4 * PATIENCE,
        "{held:?} while the turn is held, {free:?} without"
    );
    drop(lock);
    before.assert_same(Some(&lab.node))
}

/// One looks at the qdisc, the other ends meanwhile: neither does it take the first one's filter along, nor does the qdisc stay.
fn passing_each_other() -> Result<()> {
    const SCRIPT: &str = "tc:veth0:ingress { @ = count(); } interval:ms:50 { printf(\"alive\\n\"); }";
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let (removes, removal) = mpsc::channel();
    let mut first_calls = gate::requests(move |kind| {
        if kind == RTM_DELQDISC {
            let _ = removes.send(());
        }
        None
    })?;
    let mut first = Weir::script(SCRIPT).at(&lab).start_behind(&mut first_calls)?;
    first.wait_stdout("a sign of life", |text| text.contains("alive"))?;
    let (looks, look) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let mut second_calls = gate::requests(move |kind| {
        if kind == RTM_GETQDISC && looks.send(()).is_ok() {
            // Until the other end is dropped.
            let _ = may_go.recv();
        }
        None
    })?;
    let mut second = Weir::script(SCRIPT).at(&lab).start_behind(&mut second_calls)?;
    look.recv_timeout(patience()).context("the second does not look at the qdisc")?;
    drop(look);
    first.signal(Signal::SIGINT)?;
    // What would happen happens at once; the first one's patience is longer.
    ensure!(
        removal.recv_timeout(Duration::from_secs(1)).is_err(),
        "the first removes the qdisc while the second looks at it"
    );
    drop(go);
    second.wait_stdout("a sign of life", |text| text.contains("alive"))?;
    first.wait()?.clean()?;
    traffic::send_frames(&lab, &[(3, Frame::udp(lab.peer4(), lab.node4(), 5353))])?;
    traffic::settle(&lab)?;
    second.stop()?.clean()?.expect_map("@", [("", 4)])?;
    before.assert_same(Some(&lab.node))
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

const KPROBES: &str = "kprobe:vfs_read { @a = count(); } kretprobe:vfs_read { @b = count(); } \
                       kprobe:__x64_sys_[gs]et* { @c[func] = count(); } kprobe:vfs_write+0 { @d = count(); } \
                       interval:ms:50 { printf(\"alive\\n\"); print(@a); }";
const FENTRIES: &str = "fentry:vfs_read { @a[args.file] = count(); } fexit:vfs_read { @b[retval] = count(); } \
                        interval:ms:50 { printf(\"alive\\n\"); }";

/// Every tracing probe that this machine has without kprobes; the files that are probed are this program's own.
fn tracing_probes() -> Result<String> {
    let exe = victim::path()?.display().to_string();
    Ok(format!(
        "begin {{ @begin = 1; }} end {{ @end = 1; }} self:signal:SIGUSR1 {{ @signal = count(); }}
         profile:hz:99 {{ @stacks[kstack, ustack] = count(); }} software:cpu-clock:1000000 {{ @s = count(); }}
         software:page-faults:10 {{ @f = count(); }}
         tracepoint:sched:sched_sw* {{ @t[probe] = count(); }} rawtracepoint:sched_switch {{ @r = count(); }}
         uprobe:{exe}:weir_victim_* {{ @u[func] = count(); }} uretprobe:{exe}:weir_victim_add {{ @ur = count(); }}
         usdt:{exe}:tick {{ @usdt = count(); }}
         interval:ms:50 {{ printf(\"alive\\n\"); for ($kv : @t) {{ @last = $kv.1; }} }}"
    ))
}

/// Killed while it works: its programs run, its ring has records, its maps have entries.
fn killed_in_the_middle(script: &str) -> Result<()> {
    let before = KernelState::now(None)?;
    let mut run = Weir::script(script).start()?;
    run.wait_stdout("a sign of life", |text| text.contains("alive"))?;
    ensure!(run.objects().iter().any(|o| o.kind == Kind::Program), "{:?}", run.objects());
    let done = run.end_with(Signal::SIGKILL)?;
    ensure!(done.status.signal() == Some(Signal::SIGKILL as i32), "{done}");
    done.nothing_left()?;
    before.assert_same(None)?;
    // A program that was probed goes on as before.
    victim::run(&["call", "3"]).map(drop)
}

fn watchpoint() -> Result<()> {
    let victim = victim::OnDemand::start(10)?;
    let before = KernelState::now(None)?;
    let script = format!("watchpoint:{}:8:rw {{ @ = count(); }}", victim.address);
    let run = Weir::new(["-p", &victim.pid(), "-e", &script]).start()?;
    run.end_with(Signal::SIGKILL)?.nothing_left()?;
    before.assert_same(None)?;
    victim.go()
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
