//! Every way to end × everything that can be attached: the kernel is as it was, and what others have attached works on.
//!
//! One script has every kind of probe that this kernel knows, so a way to end is one run. Beside it stand programs of others and
//! another weir on the same hooks, through all of it.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use weir_tests::cgroup::Cgroup;
use weir_tests::features::{Answer, Feature};
use weir_tests::frame::Frame;
use weir_tests::gate::{Fault, Step};
use weir_tests::harness::Test;
use weir_tests::kernel::{self, KernelState, Kind, ProgramType};
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::weir::{Finished, Running, Weir};
use weir_tests::{in_vm, traffic, victim};

pub const TESTS: &[Test] = &[
    Test::new("ends_by_itself_or_by_a_signal_leave_nothing", signals).alone(),
    Test::new("ends_by_an_error_at_each_step_of_starting_leave_nothing", errors).alone(),
    Test::new("ends_for_want_of_memory_and_files_leave_nothing", limits).alone(),
    Test::new("ends_of_interfaces_and_namespaces_leave_nothing", interfaces).alone(),
];

fn has(feature: Feature) -> bool {
    matches!(feature.probe(), Answer::Yes)
}

/// Every kind of probe, the packet hooks on `at`.
fn everything(at: &str, group: &Cgroup) -> Result<String> {
    let exe = victim::path()?.display().to_string();
    Ok(format!(
        "{} uprobe:{exe}:weir_victim_add {{ @u[func] = count(); }} uretprobe:{exe}:weir_victim_add {{ @ur = hist(retval); }}
         usdt:{exe}:tick {{ @usdt = count(); }}",
        without_files(at, group)
    ))
}

/// The same for many runs. An emulated machine takes seconds to read a program's symbols: there only what else is put on perf events is
/// used, which is started and ended in the same way.
fn often(group: &Cgroup) -> Result<String> {
    if in_vm() {
        Ok(without_files(NODE_IF, group))
    } else {
        everything(NODE_IF, group)
    }
}

/// Every kind of probe but those in programs. The stacks are cleared, since the kernel's symbols take long to read, too.
fn without_files(at: &str, group: &Cgroup) -> String {
    let group = group.path();
    let mut script = format!(
        "begin {{ @begin = 1; }} end {{ @end = 1; clear(@stacks); }} self:signal:SIGUSR1 {{ @signal = count(); }}
         xdp:{at} {{ @x[ip.src] = count(); }} tc:{at}:ingress {{ @i[ip.src] = count(); }} tc:{at}:egress {{ @e[ip.dst] = count(); }}
         cgroup:{group}:connect4,cgroup:{group}:sock_create {{ @c[probe] = count(); }}
         cgroup_skb:{group}:ingress,cgroup_skb:{group}:egress {{ @s = sum(pkt.len); }}
         tracepoint:syscalls:sys_enter_openat {{ @o[comm] = count(); }} rawtracepoint:sched_switch {{ @r = count(); }}
         profile:hz:49 {{ @stacks[kstack] = count(); }} software:cpu-clock:1000000 {{ @clock = count(); }}
         interval:ms:100 {{ @ticks++; }} iter:task {{ @tasks = count(); }}"
    );
    if has(Feature::Kprobe) {
        // Functions that hardly anybody calls: an emulated processor does nothing else any more while the busy ones are probed.
        script += " kprobe:__x64_sys_getpriority { @k = count(); } kretprobe:__x64_sys_getpriority { @kr = count(); }
            kprobe:__x64_sys_?etpriority { @m[func] = count(); }";
    }
    if has(Feature::Fentry) {
        script += " fentry:__x64_sys_setpriority { @f = count(); } fexit:__x64_sys_setpriority { @fr[retval] = count(); }";
    }
    script
}

/// The natives beside it; they are on the interface of the lab.
const NATIVES: &str = r#"use blocklist(iface="veth0", prefixes=(192.0.2.0/24)) as bl; bl:drop { @dropped[ip.src] = count(); }
    use retransmits(netns="/proc/self/ns/net") as re; re:retransmit { @again = count(); }
    use identity(iface="veth0", policy=file("policy.toml"), audit="off", dry_run=true) as id; id:deny { @denied = count(); } "#;

/// Ends by itself soon after everything is attached.
const SOON: &str = " interval:ms:150 { exit(); }";

/// A lab in which others have attached programs, which have to stay.
struct Stage {
    lab: Lab,
    group: Cgroup,
    /// Programs and links of others.
    _held: Vec<OwnedFd>,
    bystander: Running,
    before: KernelState,
}

impl Stage {
    fn new() -> Result<Self> {
        let (lab, group) = (Lab::new()?, Cgroup::new()?);
        lab.dir.write(
            "policy.toml",
            &format!(
                "default = \"deny\"\n[[identity]]\nname = \"web\"\nnumber = 7\ncgroup = \"{}\"\n",
                group.path()
            ),
        )?;
        lab.add_cable("veth1", "peer1")?;
        let object = |name: &str, script: &str| -> Result<String> {
            Weir::new(["build", "-e", script, "-o", name]).at(&lab).run()?.clean()?;
            Ok(lab.dir.path().join(name).to_string_lossy().into_owned())
        };
        let (tc, xdp) = (
            object("tc.o", "tc:lo:ingress { @ = count(); }")?,
            object("xdp.o", "xdp:lo { @ = count(); }")?,
        );
        lab.node.tc(&["qdisc", "add", "dev", NODE_IF, "clsact"])?;
        for direction in ["ingress", "egress"] {
            lab.node.classify(NODE_IF, direction, &["prio", "5"], &tc)?;
        }
        lab.node
            .ip(&["link", "set", "dev", "veth1", "xdpgeneric", "obj", &xdp, "sec", "xdp.frags"])?;
        let mut held = Vec::new();
        if has(Feature::Tcx) {
            const NEXT: i32 = -1;
            let program = kernel::load_program(ProgramType::SchedCls, "foreign", NEXT)?;
            held.push(kernel::attach_tcx(&lab.node, NODE_IF, &program)?);
            held.push(program);
        }
        let script = format!(
            "tc:{NODE_IF}:ingress {{ @n = count(); }} tc:{NODE_IF}:egress {{ @e = count(); }} cgroup:{}:connect4 {{ @c = count(); }}
             tracepoint:syscalls:sys_enter_openat {{ @o = count(); }}",
            group.path()
        );
        let bystander = Weir::script(&script).at(&lab).start()?;
        let before = KernelState::now(Some(&lab.node))?;
        Ok(Self {
            lab,
            group,
            _held: held,
            bystander,
            before,
        })
    }

    fn script(&self) -> Result<String> {
        Ok(NATIVES.to_owned() + &everything(NODE_IF, &self.group)?)
    }

    /// Nothing of a run is left, and nothing of the others has gone.
    fn same(&self) -> Result<()> {
        self.before.assert_same(Some(&self.lab.node))?;
        if has(Feature::Tcx) {
            let chain = kernel::tcx_chain(&self.lab.node, NODE_IF)?;
            ensure!(chain.iter().any(|name| name == "foreign") && chain.len() == 2, "{chain:?}");
        }
        Ok(())
    }

    /// The other weir has seen every packet, and ends as it should.
    fn end(self) -> Result<()> {
        traffic::send_frames(&self.lab, &[(3, Frame::udp(self.lab.peer4(), self.lab.node4(), 5353))])?;
        traffic::settle(&self.lab)?;
        let done = self.bystander.stop()?.clean()?;
        done.expect_map("@n", [("", 4)])
    }
}

/// No way to end may look like a bug of ours.
fn no_bug(done: &Finished) -> Result<()> {
    for word in ["panic", "internal error", "bug of weir"] {
        ensure!(!done.stderr.contains(word), "`{word}`: {done}");
    }
    Ok(())
}

fn signals() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.script()?;
    Weir::script(&(script + SOON)).at(&stage.lab).start()?.wait()?.clean()?;
    stage.same().context("after exit()")?;
    let script = everything(NODE_IF, &stage.group)?;
    // The others, by one kind of probe each, are in `leftovers`, on every kernel: an emulated machine is slow.
    let ways = if in_vm() { 1 } else { 3 };
    let gentle = &[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP][..ways];
    // What a panic that aborts or a crash looks like to the kernel, and what cannot be handled. (Not SIGSEGV: Rust's handler waits for
    // the fault to come again, which one that was sent does not.)
    let hard = &[Signal::SIGKILL, Signal::SIGABRT][..ways.min(2)];
    for signal in gentle.iter().chain(hard).copied() {
        let run = Weir::script(&script).at(&stage.lab).start()?;
        let programs = run.objects().iter().filter(|o| o.kind == Kind::Program).count();
        ensure!(programs >= 15, "a program for each block, found {programs}");
        let done = run.end_with(signal)?.nothing_left()?;
        if gentle.contains(&signal) {
            ensure!(done.status.success() && done.map("@end").len() == 1, "{done}");
        } else {
            ensure!(done.status.signal() == Some(signal as i32), "{done}");
        }
        stage.same().with_context(|| format!("after {signal}"))?;
    }
    // Natives have more to put away.
    Weir::script(&stage.script()?)
        .at(&stage.lab)
        .start()?
        .end_with(Signal::SIGKILL)?
        .nothing_left()?;
    stage.same().context("after natives were killed")?;
    stage.end()
}

const MAP_CREATE: u32 = 0;
const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const RAW_TRACEPOINT_OPEN: u32 = 17;
const BTF_LOAD: u32 = 18;
const LINK_CREATE: u32 = 28;
const ITER_CREATE: u32 = 33;

/// Whether a step leaves something that has to be put away: maps, programs, BTF, links, events, what netlink makes, threads and processes.
fn makes_something(step: Step) -> bool {
    match step {
        Step::Bpf(command) => [
            MAP_CREATE,
            PROG_LOAD,
            PROG_ATTACH,
            RAW_TRACEPOINT_OPEN,
            BTF_LOAD,
            LINK_CREATE,
            ITER_CREATE,
        ]
        .contains(&command),
        Step::PerfEventOpen | Step::PerfEventSetBpf | Step::Send | Step::Clone => true,
    }
}

fn errors() -> Result<()> {
    let stage = Stage::new()?;
    let script = often(&stage.group)? + SOON;
    let mut count = Fault::new(None)?;
    Weir::script(&script).at(&stage.lab).run_behind(&mut count.supervisor)?.clean()?;
    let all = count.seen();
    // The last of a kind is refused when most is there already.
    let last = all.iter().filter(|(step, _)| makes_something(**step)).map(|(step, n)| (*step, *n));
    let first = [(Step::Bpf(LINK_CREATE), 1)];
    let steps: Vec<(Step, usize)> = last.chain(first).collect();
    let (mut refused, mut hit) = (0, 0);
    for (step, n) in steps {
        let mut fault = Fault::new(Some((step, n)))?;
        let done = Weir::script(&script)
            .at(&stage.lab)
            .run_behind(&mut fault.supervisor)
            .with_context(|| format!("{step:?} number {n}"))?;
        no_bug(&done).with_context(|| format!("{step:?} number {n}"))?;
        ensure!(matches!(done.status.code(), Some(0 | 1)), "{step:?} number {n}: {done}");
        // There may be one call less than the time before.
        hit += usize::from(fault.seen().get(&step).is_some_and(|seen| *seen >= n));
        refused += usize::from(done.status.code() == Some(1));
        stage
            .same()
            .with_context(|| format!("after {step:?} number {n} was refused: {done}"))?;
    }
    ensure!(
        all.contains_key(&Step::PerfEventOpen) && all.len() >= 8,
        "start-up is made of {all:?}"
    );
    ensure!(hit >= 5 && refused >= 4, "{hit} calls and {refused} runs were refused: {all:?}");
    stage.end()
}

/// What a process may have, by `setrlimit`: it ends at its start or does without, and leaves nothing.
fn limits() -> Result<()> {
    let stage = Stage::new()?;
    let script = often(&stage.group)?;
    let run = Weir::script(&script).at(&stage.lab).start()?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", run.pid()?))?;
    let peak = status
        .lines()
        .find_map(|l| l.strip_prefix("VmPeak:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let peak = peak.with_context(|| status.clone())? << 10;
    let files = std::fs::read_dir(format!("/proc/{}/fd", run.pid()?))?.count() as u64;
    run.stop()?.clean()?;
    // What is set aside for threads counts, too, though little of it is ever used.
    for (resource, name, used) in [(libc::RLIMIT_AS, "memory", peak), (libc::RLIMIT_NOFILE, "files", files)] {
        let mut ends = Vec::new();
        // Emulated, a run takes many seconds.
        let percents: &[u64] = if in_vm() { &[200, 60, 15] } else { &[200, 90, 60, 30, 15] };
        for percent in percents.iter().copied() {
            let done = Weir::script(&(script.clone() + SOON))
                .at(&stage.lab)
                .limit(resource, used * percent / 100)
                .run()?;
            stage.same().with_context(|| format!("with {percent} % of the {name}: {done}"))?;
            ensure!(percent < 200 || done.status.success(), "with twice the {name} that it has: {done}");
            ends.push((percent, done.status.success()));
        }
        ensure!(ends.iter().any(|(_, good)| !good), "{name}: which went well: {ends:?}");
    }
    // The kernel counts buffers of perf events as locked, which weir has none of, and since 5.11 neither maps nor programs. Whoever may lock
    // memory has no limit.
    const CAP_IPC_LOCK: u32 = 14;
    let done = Weir::script(&(script.clone() + SOON))
        .at(&stage.lab)
        .without_capabilities(&[CAP_IPC_LOCK])
        .limit(libc::RLIMIT_MEMLOCK, 0)
        .run()?;
    no_bug(&done)?;
    ensure!(done.status.success(), "locked memory is not needed: {done}");
    stage.same().with_context(|| format!("without locked memory: {done}"))?;
    // Nothing may be written to a file of any size: what goes wrong is said, and everything is put away.
    let output = stage.lab.dir.path().join("output");
    let done = Weir::new(["-e", &(script + SOON), "-o", &output.to_string_lossy()])
        .at(&stage.lab)
        .limit(libc::RLIMIT_FSIZE, 0)
        .run()?;
    ensure!(!done.status.success(), "a file of no size has its output: {done}");
    stage.same().with_context(|| format!("without room in files: {done}"))?;
    stage.end()
}

fn interfaces() -> Result<()> {
    let before = KernelState::now(None)?;
    // The interface goes, then the run.
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    lab.add_cable("veth1", "peer1")?;
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut run = Weir::script(&everything("veth1", &group)?).at(&lab).start()?;
        lab.node.ip(&["link", "del", "veth1"])?;
        run.wait_stderr("word of the interface's end", |text| text.contains("`veth1` is gone"))?;
        let done = run.end_with(signal)?.nothing_left()?;
        no_bug(&done)?;
        before
            .assert_same(None)
            .with_context(|| format!("after the interface and {signal}"))?;
        lab.add_cable("veth1", "peer1")?;
    }
    // The namespace goes, then the run.
    let at = format!("{NODE_IF}@{}", lab.node.name());
    let run = Weir::script(&everything(&at, &group)?).start()?;
    drop(lab);
    let done = run.stop()?.nothing_left()?;
    no_bug(&done)?;
    ensure!(done.status.success(), "{done}");
    before.assert_same(None).context("after the namespace")?;
    // The cgroup goes, then the run.
    let run = Weir::script(&format!("cgroup:{}:connect4 {{ @ = count(); }} interval:s:60 {{}}", group.path())).start()?;
    drop(group);
    run.stop()?.clean()?;
    before.assert_same(None).context("after the cgroup")
}
