//! Runs of hand-assembled objects on the running kernel. Needs root; touches only network namespaces of its own.

#![allow(clippy::unwrap_used)] // A panic is the failure.

#[path = "../common/mod.rs"]
mod common;
mod natives;
mod signals;

use common::{Asm, Builder, Capture, Net, int_field, root, run, span};
use std::process::{Command, Stdio};
use std::time::Duration;
use weir_compiler::kernel::{Feature, KernelInfo, Support};
use weir_compiler::object::{
    AttachPoint, CounterSpec, Direction, EventAction, FormatPart, FormatSpec, IfacePattern, MapKind, MapRef, NativeInstance, ProgramKind,
    XdpMode,
};
use weir_runtime::{Error, Kernel, Outcome, OutputFormat, Reason, Session};
use weir_stdlib::ParamValue;

const MS: Duration = Duration::from_millis(1);

fn iface(net: &str, name: &str) -> IfacePattern {
    IfacePattern {
        pattern: name.to_owned(),
        netns: Some(net.to_owned()),
        link_layer: weir_compiler::object::LinkLayer::Ethernet,
        overlap: weir_compiler::object::Overlap::default(),
    }
}

/// `begin { printf("%s %d\n", …); exit(); }`: the smallest useful script.
#[test]
fn begin_prints_and_exits() {
    if !root() {
        return;
    }
    let capture = Capture::new();
    let format = vec![
        FormatPart::Text("answer ".into()),
        FormatPart::Arg(FormatSpec {
            conv: 'd',
            ..FormatSpec::default()
        }),
        FormatPart::Text("\n".into()),
    ];
    let object = Builder::default()
        .ring()
        .event(
            EventAction::Printf {
                format,
                args: vec![int_field(8)],
            },
            16,
        )
        .event(EventAction::Exit { code: Some(int_field(8)) }, 16)
        .printf("never\n")
        .program(
            ProgramKind::RunOnce,
            &[AttachPoint::Begin],
            Asm::default().emit(0, 0, &[42]).emit(0, 1, &[3]).emit(0, 2, &[]).ret(0),
        )
        .build();
    let session = Session::start(object, &Kernel::new(), capture.options(OutputFormat::Text)).unwrap();
    assert_eq!(
        session.run().unwrap(),
        Outcome {
            code: 3,
            reason: Reason::Exit
        }
    );
    assert_eq!(capture.text(), "answer 42\n\n\n");
    assert_eq!(capture.notices(), ["Attached 1 probe"]);
}

/// A script of `begin` and `end` ends by itself; `end` may print after `exit()`, and maps come last.
#[test]
fn begin_and_end_alone_end_by_themselves() {
    if !root() {
        return;
    }
    let capture = Capture::new();
    let object = Builder::default()
        .ring()
        .count("n")
        .count("untouched")
        .printf("begin\n")
        .printf("end\n")
        .program(
            ProgramKind::RunOnce,
            &[AttachPoint::Begin],
            Asm::default().emit(0, 0, &[]).count(1).ret(0),
        )
        .program(
            ProgramKind::RunOnce,
            &[AttachPoint::End],
            Asm::default().emit(0, 1, &[]).count(1).ret(0),
        )
        .build();
    let session = Session::start(object, &Kernel::new(), capture.options(OutputFormat::Json)).unwrap();
    assert_eq!(session.run().unwrap().reason, Reason::Nothing);
    assert_eq!(
        capture.text(),
        "{\"type\": \"attached_probes\", \"count\": 2, \"data\": {\"probes\": 2}}\n\
         {\"type\": \"printf\", \"data\": \"begin\\n\"}\n\
         {\"type\": \"printf\", \"data\": \"end\\n\"}\n\
         {\"type\": \"map\", \"data\": {\"@n\": 2}}\n"
    );
}

/// A tracepoint counts exactly, an interval prints the map and ends the run.
#[test]
fn tracepoints_and_intervals() {
    if !root() {
        return;
    }
    let capture = Capture::new();
    let object = Builder::default()
        .ring()
        .count("hits")
        .event(
            EventAction::PrintMap {
                map: MapRef::Own(1),
                top: 0,
                div: 0,
            },
            8,
        )
        .exit()
        .program(
            ProgramKind::Tracepoint,
            &[AttachPoint::Tracepoint {
                category: "syscalls".into(),
                name: "sys_enter_getpgid".into(),
            }],
            Asm::default().count(1).ret(0),
        )
        .program(
            ProgramKind::PerfEvent,
            &[AttachPoint::Interval { period: 200 * MS }],
            Asm::default().emit(0, 0, &[]).emit(0, 1, &[]).ret(0),
        )
        .build();
    let session = Session::start(object, &Kernel::new(), capture.options(OutputFormat::Text)).unwrap();
    assert_eq!(session.probes(), 2);
    for _ in 0..7 {
        nix::unistd::getpgid(None).unwrap();
    }
    assert_eq!(session.run().unwrap().reason, Reason::Exit);
    assert_eq!(capture.text(), "@hits: 7\n\n\n@hits: 7\n");
}

#[test]
fn a_missing_tracepoint_is_named() {
    if !root() {
        return;
    }
    let object = Builder::default()
        .program(
            ProgramKind::Tracepoint,
            &[AttachPoint::Tracepoint {
                category: "tcp".into(),
                name: "no_such".into(),
            }],
            Asm::default().ret(0),
        )
        .build();
    let error = Session::start(object, &Kernel::new(), Capture::new().options(OutputFormat::Text))
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "no tracepoint `tcp:no_such` in this kernel");
}

#[test]
fn the_timeout_ends_a_run() {
    if !root() {
        return;
    }
    let capture = Capture::new();
    let object = Builder::default()
        .count("ticks")
        .program(
            ProgramKind::PerfEvent,
            &[AttachPoint::Profile { period: 10 * MS }],
            Asm::default().count(0).ret(0),
        )
        .build();
    let mut options = capture.options(OutputFormat::Text);
    options.timeout = Some(150 * MS);
    options.quiet = true;
    let session = Session::start(object, &Kernel::new(), options).unwrap();
    assert_eq!(session.run().unwrap().reason, Reason::Timeout);
    let text = capture.text();
    let ticks: u64 = text.trim().strip_prefix("@ticks: ").unwrap().parse().unwrap();
    assert!(ticks > 3, "{text}");
    assert!(capture.notices().is_empty());
}

/// A program that the verifier rejects comes back with its index, its log and the line.
#[test]
fn the_verifier_is_heard() {
    if !root() {
        return;
    }
    let good = Asm::default().ret(0);
    // r0 = *(u64 *)(r2 + 0): r2 was never set.
    let bad = Asm::default().push(0x79, 0, 2, 0, 0).push(0x95, 0, 0, 0, 0);
    let object = Builder::default()
        .program(ProgramKind::RunOnce, &[AttachPoint::Begin], good)
        .program(ProgramKind::RunOnce, &[AttachPoint::End], bad)
        .build();
    let lines = weir_runtime::load::program_lines(&object, 1);
    let error = Session::start(object, &Kernel::new(), Capture::new().options(OutputFormat::Text))
        .err()
        .unwrap();
    let Error::Rejected { program, name, log, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((program, name.as_str()), (Some(1), "p1"));
    let digest = weir_runtime::verifier::digest(&log, &lines);
    assert_eq!(digest.message, ["R2 !read_ok"]);
    assert_eq!(digest.insn, Some(0));
    assert_eq!(digest.source.as_deref(), Some("the only line"));
    assert_eq!(digest.place, Some((1, 1)));
}

/// Records that do not fit are counted by the program; the run says so as it happens and in the end.
#[test]
fn losses_are_reported() {
    if !root() {
        return;
    }
    let capture = Capture::new();
    let object = Builder::default()
        .counters(&[CounterSpec::LostEvents])
        .program(ProgramKind::RunOnce, &[AttachPoint::Begin], Asm::default().count(0).count(0).ret(0))
        .build();
    let session = Session::start(object, &Kernel::new(), capture.options(OutputFormat::Text)).unwrap();
    session.run().unwrap();
    assert_eq!(
        capture.notices(),
        ["Attached 1 probe", "Lost 2 events", "Total lost event count: 2"]
    );
}

/// Waits until the counts of a packet program arrive, without sleeping longer than needed.
fn packets(object: weir_compiler::object::Object, kernel: &Kernel, net: &Net, count: usize) -> (String, Vec<String>) {
    let capture = Capture::new();
    let mut options = capture.options(OutputFormat::Text);
    options.timeout = Some(300 * MS);
    let session = Session::start(object, kernel, options).unwrap();
    net.send(count);
    session.run().unwrap();
    (capture.text(), capture.notices())
}

/// `if ethertype == IPv4 and protocol == UDP then count`: ARP and neighbour discovery do not disturb the numbers.
fn count_udp_xdp(map: u32, verdict: i32) -> Asm {
    Asm::default()
        .push(0x61, 2, 1, 0, 0) // r2 = data
        .push(0x61, 3, 1, 4, 0) // r3 = data_end
        .push(0xbf, 4, 2, 0, 0)
        .push(0x07, 4, 0, 0, 34)
        .push(0x2d, 4, 3, 13, 0) // data + 34 > data_end: pass
        .push(0x69, 5, 2, 12, 0)
        .push(0x55, 5, 0, 11, 0x0008)
        .push(0x71, 5, 2, 23, 0)
        .push(0x55, 5, 0, 9, 17)
        .count(map) // 8 slots and a wide load: 9
        .ret(verdict)
        .fix_jumps()
}

/// `skb->protocol == IPv4 && len > 40`: good enough to tell our datagrams from the rest.
fn count_udp_tc(map: u32) -> Asm {
    let mut asm = Asm::default()
        .push(0x61, 2, 1, 16, 0)
        .push(0x55, 2, 0, 0, 0x0008)
        .count(map)
        .ret(-1)
        .insns;
    // Jump over the counting: to `r0 = -1`.
    let target = asm.len() as i16 - 2;
    asm[1][2..4].copy_from_slice(&(target - 2).to_le_bytes());
    let relocs = Asm::default().push(0, 0, 0, 0, 0).push(0, 0, 0, 0, 0).count(map).relocs;
    Asm { insns: asm, relocs }
}

trait FixJumps {
    fn fix_jumps(self) -> Self;
}

impl FixJumps for Asm {
    /// Lets the early exits of `count_udp_xdp` jump to a `return XDP_PASS` that is appended.
    fn fix_jumps(mut self) -> Self {
        let end = self.insns.len() as i16;
        for i in [4, 6, 8] {
            self.insns[i][2..4].copy_from_slice(&(end - i as i16 - 1).to_le_bytes());
        }
        self.ret(2)
    }
}

#[test]
fn xdp_counts_in_another_namespace_and_is_gone_after() {
    if !root() {
        return;
    }
    let net = Net::new();
    let point = AttachPoint::Xdp {
        iface: iface(&net.a, "va"),
        mode: XdpMode::Auto,
    };
    let object = Builder::default()
        .count("n")
        .program(ProgramKind::Xdp, &[point], count_udp_xdp(0, 2))
        .build();
    let (text, notices) = packets(object, &Kernel::new(), &net, 25);
    assert_eq!(text, "\n\n@n: 25\n");
    let mode = format!("XDP runs in native mode on `va@{}`", net.a);
    assert_eq!(notices, [mode.as_str(), "Attached 1 probe"]);
    assert!(!run(&format!("ip -n {} link show dev va", net.a)).contains("xdp"));
}

#[test]
fn a_foreign_xdp_program_is_named_and_left_alone() {
    if !root() {
        return;
    }
    let net = Net::new();
    let object = || {
        let point = AttachPoint::Xdp {
            iface: iface(&net.a, "va"),
            mode: XdpMode::Generic,
        };
        Builder::default()
            .program(ProgramKind::Xdp, &[point], Asm::default().ret(2))
            .build()
    };
    let kernel = Kernel::new();
    let first = Session::start(object(), &kernel, Capture::new().options(OutputFormat::Text)).unwrap();
    let error = Session::start(object(), &kernel, Capture::new().options(OutputFormat::Text))
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(
        text.starts_with("`va` already has an XDP program: `p0`, id ") && text.contains(", loaded "),
        "{text}"
    );
    assert!(run(&format!("ip -n {} link show dev va", net.a)).contains("xdpgeneric"));
    drop(first);
}

#[test]
fn an_unknown_interface_says_which_there_are() {
    if !root() {
        return;
    }
    let net = Net::new();
    let point = AttachPoint::Xdp {
        iface: iface(&net.a, "eth9"),
        mode: XdpMode::Auto,
    };
    let object = Builder::default()
        .program(ProgramKind::Xdp, &[point], Asm::default().ret(2))
        .build();
    let error = Session::start(object, &Kernel::new(), Capture::new().options(OutputFormat::Text))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        format!("no network interface matches `eth9` in network namespace `{}`", net.a)
    );
    assert_eq!(error.help(), ["there are `lo`, `va`"]);
}

fn tc_object(net: &Net) -> weir_compiler::object::Object {
    let point = AttachPoint::Tc {
        iface: iface(&net.a, "va"),
        direction: Direction::Ingress,
    };
    Builder::default()
        .count("n")
        .program(ProgramKind::SchedCls, &[point], count_udp_tc(0))
        .build()
}

#[test]
fn tcx_counts_and_is_gone_after() {
    if !root() {
        return;
    }
    let kernel = Kernel::new();
    if let Support::No(why) = kernel.feature(Feature::Tcx) {
        assert!(
            kernel.version() < weir_compiler::kernel::KernelVersion::new(6, 6, 0),
            "a kernel of 6.6 should have tcx"
        );
        eprintln!("skipped: {why}");
        return;
    }
    let net = Net::new();
    let (text, _) = packets(tc_object(&net), &kernel, &net, 12);
    assert_eq!(text, "\n\n@n: 12\n");
    assert!(!run(&format!("tc -n {} qdisc show dev va", net.a)).contains("clsact"));
}

/// What a kernel without tcx gets; it works on newer ones, too.
fn old_kernel() -> Kernel {
    Kernel::new().assume(Feature::Tcx, Support::No("not here".to_owned()))
}

#[test]
fn clsact_counts_and_the_qdisc_goes_with_us() {
    if !root() {
        return;
    }
    let net = Net::new();
    let (text, _) = packets(tc_object(&net), &old_kernel(), &net, 12);
    assert_eq!(text, "\n\n@n: 12\n");
    assert!(!run(&format!("tc -n {} qdisc show dev va", net.a)).contains("clsact"));
}

#[test]
fn a_clsact_qdisc_of_others_stays() {
    if !root() {
        return;
    }
    let net = Net::new();
    run(&format!("tc -n {} qdisc add dev va clsact", net.a));
    packets(tc_object(&net), &old_kernel(), &net, 1);
    assert!(run(&format!("tc -n {} qdisc show dev va", net.a)).contains("clsact"));
    assert!(!run(&format!("tc -n {} filter show dev va ingress", net.a)).contains("weir:"));
}

#[test]
fn an_ingress_qdisc_in_the_way_is_named() {
    if !root() {
        return;
    }
    let net = Net::new();
    run(&format!("tc -n {} qdisc add dev va ingress", net.a));
    let error = Session::start(tc_object(&net), &old_kernel(), Capture::new().options(OutputFormat::Text))
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "`va` has the qdisc `ingress` where `clsact` must go");
    assert!(run(&format!("tc -n {} qdisc show dev va", net.a)).contains("ingress"));
}

const OWNER_ENV: &str = "WEIR_TEST_OWNER_NETNS";

/// Not a test: the process that a test kills. Attaches to the namespace in its environment and waits.
#[test]
fn owner_entry() {
    let Ok(netns) = std::env::var(OWNER_ENV) else { return };
    let net = Net {
        a: netns,
        b: String::new(),
    };
    let options = Capture::new().options(OutputFormat::Text);
    let session = Session::start(tc_object(&net), &old_kernel(), options).unwrap();
    std::mem::forget(net);
    println!("attached");
    session.run().unwrap();
}

/// Not a test: what runs on the clsact path start as their reaper (`common::REAPER`).
#[test]
fn reaper_entry() {
    if std::env::args().skip(1).eq(common::REAPER) {
        assert!(weir_runtime::reaper_main(), "something is left");
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        std::thread::sleep(10 * MS);
    }
    panic!("waited in vain: {what}");
}

/// `kill -9`: the reaper removes the filter and our qdisc.
#[test]
fn a_killed_owner_leaves_nothing() {
    if !root() {
        return;
    }
    let net = Net::new();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_entry", "--nocapture"])
        .env(OWNER_ENV, &net.a)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let filters = || run(&format!("tc -n {} filter show dev va ingress", net.a));
    wait_for("the filter", || filters().contains("weir:"));
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_for("the reaper", || !filters().contains("weir:"));
    wait_for("the qdisc's end", || {
        !run(&format!("tc -n {} qdisc show dev va", net.a)).contains("clsact")
    });
}

/// Killed together with its reaper, an owner leaves its filter; `clean` finds it by its tag.
#[test]
fn clean_removes_what_a_dead_reaper_could_not() {
    if !root() {
        return;
    }
    let net = Net::new();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_entry", "--nocapture"])
        .env(OWNER_ENV, &net.a)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let filters = || run(&format!("tc -n {} filter show dev va ingress", net.a));
    wait_for("the filter", || filters().contains("weir:"));
    // The reaper is the only child of any of the owner's threads.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", owner.id())).unwrap();
    let children: String = tasks
        .map(|t| std::fs::read_to_string(t.unwrap().path().join("children")).unwrap_or_default())
        .collect();
    let reaper: i32 = children.trim().parse().unwrap();
    let stale = || -> Vec<_> {
        let all = weir_runtime::stale().unwrap();
        all.into_iter().filter(|s| s.netns.as_ref() == Some(&net.a)).collect()
    };
    assert_eq!(stale(), [], "the owner lives");
    weir_runtime::clean().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(reaper), nix::sys::signal::SIGKILL).unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(filters().contains("weir:"));
    let found = stale();
    assert!(
        matches!(&found[..], [s] if s.iface == "va" && s.ingress && s.owner == owner.id()),
        "{found:?}"
    );
    assert!(filters().contains("weir:"), "looking removes nothing");
    assert!(weir_runtime::clean().unwrap() >= 1);
    assert!(!run(&format!("tc -n {} qdisc show dev va", net.a)).contains("clsact"));
}

/// Two scripts in one clsact qdisc: it goes with the last of them, whoever made it.
#[test]
fn the_last_of_two_removes_the_qdisc() {
    if !root() {
        return;
    }
    let net = Net::new();
    let kernel = old_kernel();
    let capture = Capture::new();
    let first = Session::start(tc_object(&net), &kernel, capture.options(OutputFormat::Text)).unwrap();
    let second = Session::start(tc_object(&net), &kernel, capture.options(OutputFormat::Text)).unwrap();
    let qdiscs = || run(&format!("tc -n {} qdisc show dev va", net.a));
    drop(first);
    assert!(qdiscs().contains("clsact"));
    drop(second);
    assert!(!qdiscs().contains("clsact"));
}

/// The loopback device has no native XDP: generic is taken, and said.
#[test]
fn generic_xdp_comes_with_a_warning() {
    if !root() {
        return;
    }
    let net = Net::new();
    let object = |mode| {
        let point = AttachPoint::Xdp {
            iface: iface(&net.a, "lo"),
            mode,
        };
        Builder::default()
            .program(ProgramKind::Xdp, &[point], Asm::default().ret(2))
            .build()
    };
    let kernel = Kernel::new();
    let capture = Capture::new();
    let error = Session::start(object(XdpMode::Native), &kernel, capture.options(OutputFormat::Text))
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .starts_with("the driver of `lo` does not take a native XDP program ("),
        "{error}"
    );
    let session = Session::start(object(XdpMode::Auto), &kernel, capture.options(OutputFormat::Text)).unwrap();
    let notices = capture.notices();
    assert!(
        notices[0].starts_with("`lo` runs XDP in generic mode: its driver refused native XDP ("),
        "{notices:?}"
    );
    assert!(run(&format!("ip -n {} link show dev lo", net.a)).contains("xdpgeneric"));
    drop(session);
    assert!(!run(&format!("ip -n {} link show dev lo", net.a)).contains("xdp"));
}

/// Programs can read from the heartbeat that their owner is alive.
#[test]
fn the_heart_beats_before_anything_runs() {
    if !root() {
        return;
    }
    let capture = Capture::new();
    let format = vec![FormatPart::Arg(FormatSpec {
        conv: 'd',
        ..FormatSpec::default()
    })];
    // A record of id 0 and the first word of the heartbeat.
    let mut asm = Asm::default()
        .push(0x7a, 10, 0, -16, 0)
        .push(0x7a, 10, 0, -8, 0)
        .push(0x62, 10, 0, -20, 0)
        .map(1, 1)
        .push(0xbf, 2, 10, 0, 0)
        .push(0x07, 2, 0, 0, -20)
        .call(1)
        .push(0x15, 0, 0, 2, 0)
        .push(0x79, 1, 0, 0, 0)
        .push(0x7b, 10, 1, -8, 0);
    asm = asm
        .map(1, 0)
        .push(0xbf, 2, 10, 0, 0)
        .push(0x07, 2, 0, 0, -16)
        .mov(3, 16)
        .mov(4, 0)
        .call(130)
        .ret(0);
    let object = Builder::default()
        .ring()
        .heartbeat()
        .event(
            EventAction::Printf {
                format,
                args: vec![int_field(8)],
            },
            16,
        )
        .program(ProgramKind::RunOnce, &[AttachPoint::Begin], asm)
        .build();
    let before = weir_runtime::sys::proc::clock_ns(libc::CLOCK_MONOTONIC);
    let session = Session::start(object, &Kernel::new(), capture.options(OutputFormat::Text)).unwrap();
    session.run().unwrap();
    let beat: u64 = capture.text().trim().parse().unwrap();
    assert!(beat >= before, "{beat} {before}");
}

/// A full map is named with the cure.
#[test]
fn a_full_map_is_named() {
    if !root() {
        return;
    }
    let capture = Capture::new();
    let object = Builder::default()
        .counters(&[CounterSpec::MapFull { map: 1, span: span() }])
        .count("flows")
        .program(ProgramKind::RunOnce, &[AttachPoint::Begin], Asm::default().count(0).ret(0))
        .build();
    let session = Session::start(object, &Kernel::new(), capture.options(OutputFormat::Text)).unwrap();
    session.run().unwrap();
    assert!(
        capture.notices()[1].starts_with("Map full; can't update element."),
        "{:?}",
        capture.notices()
    );
}

/// A kprobe counts where the kernel has them; elsewhere the error says what is missing.
#[test]
fn kprobes_count_or_say_what_is_missing() {
    if !root() {
        return;
    }
    let net = Net::new();
    let kernel = Kernel::new();
    let point = |ret| AttachPoint::Kprobe {
        module: None,
        function: "udp_sendmsg".into(),
        offset: 0,
        ret,
        pattern: false,
    };
    let object = Builder::default()
        .count("calls")
        .count("returns")
        .program(ProgramKind::Kprobe, &[point(false)], Asm::default().count(0).ret(0))
        .program(ProgramKind::Kprobe, &[point(true)], Asm::default().count(1).ret(0))
        .build();
    if kernel.feature(Feature::Kprobe) == Support::Yes {
        assert!(kernel.has_function("udp_sendmsg") && !kernel.has_function("no_such_function"));
        let (text, notices) = packets(object, &kernel, &net, 5);
        // Other tests send datagrams at the same time.
        let count = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).unwrap().parse::<u64>().unwrap();
        assert!(count("@calls: ") >= 5 && count("@returns: ") >= 5, "{text}");
        assert_eq!(notices, ["Attached 2 probes"]);
    } else {
        let error = Session::start(object, &kernel, Capture::new().options(OutputFormat::Text))
            .err()
            .unwrap();
        assert_eq!(
            error.to_string(),
            "this kernel has no kprobes (CONFIG_KPROBES is not set): cannot attach to `kprobe:udp_sendmsg`"
        );
    }
}

/// A bug of ours after everything is attached: unwinding puts away programs, links, filters and maps.
#[test]
fn a_panic_leaves_nothing() {
    if !root() {
        return;
    }
    let net = Net::new();
    let capture = Capture::new();
    let at = || iface(&net.a, "va");
    let xdp = AttachPoint::Xdp {
        iface: at(),
        mode: XdpMode::Auto,
    };
    let tc = |direction| AttachPoint::Tc { iface: at(), direction };
    let object = Builder::default()
        .ring()
        .count("unwound")
        .program(ProgramKind::Xdp, &[xdp], Asm::default().count(1).ret(2))
        .program(
            ProgramKind::SchedCls,
            &[tc(Direction::Ingress), tc(Direction::Egress)],
            Asm::default().count(1).ret(0),
        )
        .program(
            ProgramKind::Tracepoint,
            &[AttachPoint::Tracepoint {
                category: "syscalls".into(),
                name: "sys_enter_openat".into(),
            }],
            Asm::default().count(1).ret(0),
        )
        .build();
    let maps = || {
        let mut objects = weir_runtime::inspect::Objects::read(false).unwrap();
        objects.all_maps().unwrap().iter().filter(|m| m.name == "AT_unwound").count()
    };
    let seen = std::sync::Arc::new(std::sync::Mutex::new(0));
    let options = weir_runtime::Options {
        on_attached: Some(std::sync::Arc::new({
            let seen = std::sync::Arc::clone(&seen);
            move || {
                *seen.lock().unwrap() = maps();
                // Without the hook, so that the report of the tests stays readable.
                std::panic::resume_unwind(Box::new("a bug"));
            }
        })),
        ..capture.options(OutputFormat::Text)
    };
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Session::start(object, &Kernel::new(), options).unwrap().run()
    }));
    assert_eq!(ended.unwrap_err().downcast_ref(), Some(&"a bug"));
    assert_eq!(*seen.lock().unwrap(), 1, "it was not attached when it went wrong");
    // The kernel frees programs, and the maps that they use, a moment later.
    let left = || {
        let links = run(&format!("ip -d -n {} link show va", net.a));
        let tc = |what: &str| run(&format!("tc -n {} {what}", net.a));
        let filters = ["ingress", "egress"].map(|direction| tc(&format!("filter show dev va {direction}")));
        let qdiscs = tc("qdisc show dev va");
        [
            (maps() > 0).then(|| "a map".to_owned()),
            links.contains("xdp").then_some(links),
            filters.iter().any(|f| !f.trim().is_empty()).then(|| filters.concat()),
            qdiscs.contains("clsact").then_some(qdiscs),
        ]
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while left().iter().any(Option::is_some) {
        assert!(std::time::Instant::now() < deadline, "left: {:?}", left());
        std::thread::yield_now();
    }
}
