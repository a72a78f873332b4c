//! `weir demo`: a few scripts over traffic that is made for them, in network namespaces of our own.
//!
//! Nothing else on the machine is touched: the namespaces have no names and go with this process, however it ends, and the
//! scripts run in child processes that end with it.

mod net;
mod pods;
mod traffic;

use crate::args::Demo;
use crate::out;
use crate::render::Failure;
use anyhow::{Context, Result};
use net::{Cable, NODE_IF};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::termios::{cfmakeraw, tcgetattr};
use nix::unistd::{Pid, pipe2};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use traffic::{Counts, Traffic};
use weir_compiler::kernel::{Feature, KernelInfo, Support};
use weir_runtime::Kernel;
use weir_runtime::sys::netlink::Netlink;
use weir_runtime::sys::terminal;

/// bpftrace's test hook: a line of this name is printed when everything is attached.
const ATTACHED: &str = "__BPFTRACE_NOTIFY_PROBES_ATTACHED";
/// A script's output is cut after this many lines.
const MAX_LINES: usize = 32;
/// How long before a script's end its traffic is counted: after that, packets may come too late for it.
const MARGIN: Duration = Duration::from_millis(200);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

struct Step {
    question: &'static str,
    about: &'static str,
    script: String,
    /// The script ends by itself; others get a `--timeout`.
    ends: bool,
    flood: bool,
    /// What our own counters say about the same time.
    after: fn(Counts) -> String,
}

pub fn main(args: &Demo) -> Result<ExitCode, Failure> {
    Ok(demo(args)?)
}

fn demo(args: &Demo) -> Result<ExitCode> {
    if !args.pod.is_empty() {
        pods::talk(&args.pod);
    }
    on_interrupt()?;
    let cable = Arc::new(Cable::new()?);
    let kprobes = Kernel::new().feature(Feature::Kprobe) == Support::Yes;
    let traffic = Traffic::start(&cable)?;
    say("weir demo: two network namespaces of its own with a cable between them, and real traffic on it. Ctrl-C ends it.\n");
    let pods = pods::Pods::start(&cable)?;
    // Those who send again are at the other end of the cable; its namespace has no name but our descriptor.
    let senders = format!("/proc/{}/fd/{}", std::process::id(), cable.peer.file().as_raw_fd());
    let steps = steps(args.seconds, kprobes, &senders, pods.as_ref().map(pods::Pods::policy).as_deref());
    let mut failed = false;
    for (i, step) in steps.iter().enumerate() {
        say(&format!("\n{}/{}  {}\n     {}\n\n", i + 1, steps.len(), step.question, step.about));
        failed |= !run_step(step, &cable, &traffic, args.seconds)?;
        if interrupted() {
            break;
        }
    }
    drop((traffic, pods));
    let left = cable
        .node
        .run(|| Ok(Netlink::open()?.link(NODE_IF)?.and_then(|link| link.xdp.any())))?;
    match left {
        None if !interrupted() => say("\nAll scripts have ended: no XDP program is left on veth0, and the namespaces go now.\n"),
        None => {}
        Some(id) => {
            failed = true;
            say(&format!("\nThe XDP program {id} was left on veth0: that is a bug of weir.\n"));
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn steps(seconds: u64, kprobes: bool, senders: &str, policy: Option<&Path>) -> Vec<Step> {
    let retransmits = if kprobes {
        "kprobe:tcp_retransmit_skb { $sk = (struct sock *)arg0; @retransmits[ntop($sk->__sk_common.skc_daddr)] = count(); }"
    } else {
        "tracepoint:tcp:tcp_retransmit_skb { @retransmits[ntop(args.daddr)] = count(); }"
    };
    let mut steps = vec![
        Step {
            question: "Which programs on this machine open files?",
            about: "Plain bpftrace: a tracepoint and a map by command name; the five largest after some seconds.",
            script: format!(
                "tracepoint:syscalls:sys_enter_openat {{ @[comm] = count(); }} interval:s:{seconds} {{ print(@, 5); clear(@); exit(); }}"
            ),
            ends: true,
            flood: false,
            after: |c| format!("the web server answered {} requests and opens a file for each", c.web_answers),
        },
        Step {
            question: "Who knocks at port 22? Count them, and drop them in the driver.",
            about: "`xdp:` sees every packet before the kernel has spent anything on it; `drop()` is the verdict.",
            script: "xdp:veth0 /tcp.dport == 22/ { @[ip.src] = count(); drop(); }".to_owned(),
            ends: false,
            flood: false,
            after: |c| {
                format!(
                    "{} tries to reach port 22, {} of them got through; port 80 answered {} requests meanwhile",
                    c.ssh_tries, c.ssh_connected, c.web_answers
                )
            },
        },
        Step {
            question: "Who asks for names, over UDP or TCP, IPv4 or IPv6?",
            about: "A field that a packet does not have is absent, so this condition means what it says.",
            script: "tc:veth0:ingress /tcp.dport == 53 || udp.dport == 53/ { @dns[ip.src, port.dst] = count(); }".to_owned(),
            ends: false,
            flood: false,
            after: |c| format!("{} questions were asked (one over TCP is several packets)", c.dns_questions),
        },
        Step {
            question: "Lose one packet in fifty to port 8443, and see who has to send again.",
            about: if kprobes {
                "An XDP block and a kprobe in one script, each with its own map."
            } else {
                "An XDP block and a tracepoint in one script (this kernel has no kprobes)."
            },
            script: format!("xdp:veth0 /tcp.dport == 8443 && rand % 50 == 0/ {{ @lost[ip.src] = count(); drop(); }} {retransmits}"),
            ends: false,
            flood: false,
            after: |c| format!("the web server did not notice: {} requests answered", c.web_answers),
        },
        Step {
            question: "The same loss, and the whole answer: who retransmits to whom, and how much of what they send?",
            about: "`retransmits` is a native: ready-made programs that scripts give parameters. Without `netns` it counts all namespaces.",
            script: format!("use retransmits(netns=\"{senders}\") as re; xdp:veth0 /tcp.dport == 8443 && rand % 50 == 0/ {{ drop(); }}"),
            ends: false,
            flood: false,
            after: |_| "one packet in fifty was dropped; what is small is the share of all that was sent".to_owned(),
        },
        Step {
            question: "Which flows were the largest, whose are they, and how far away is the other side?",
            about: "`flows` adds up packets in the kernel, by connection and direction; what it knows of sockets it asks the kernel.",
            script: "use flows(iface=\"veth0\") as fl;".to_owned(),
            ends: false,
            flood: false,
            after: |c| {
                format!(
                    "the largest is the backup to port 8443; {} requests of the web are flows of their own",
                    c.web_answers
                )
            },
        },
        Step {
            question: "A SYN flood from rotating networks: block the networks, see the hits.",
            about: "`blocklist` is another native, an XDP program; a block of the script hangs on its `drop` event.",
            script: "use blocklist(iface=\"veth0\", prefixes=(198.51.100.0/24, 203.0.113.0/24)) as bl; bl:drop { @dropped = count(); } \
                     interval:s:1 { print(@bl.hits); }"
                .to_owned(),
            ends: false,
            flood: true,
            after: |c| {
                format!(
                    "{} SYNs were sent by the flood; the web server answered {} requests of others meanwhile",
                    c.flood, c.web_answers
                )
            },
        },
    ];
    if let Some(policy) = policy {
        steps.push(Step {
            question: "Two pods, `web` and `batch`: who may talk to whom?",
            about: "`identity` is a native, too: cgroup hooks know whose socket it is, TC drops what the policy does not allow.",
            script: format!(
                "use identity(iface=\"pod-*\", policy=file(\"{}\"), audit=\"off\") as id; \
                 id:deny {{ @denied[id.sender, port.dst] = count(); }} interval:s:{seconds} {{ exit(); }}",
                policy.display()
            ),
            ends: true,
            flood: false,
            after: |_| "the policy allows `web` to reach port 80, and nobody anything else".to_owned(),
        });
    }
    steps
}

/// Runs one script and tells what happened; false when it failed.
fn run_step(step: &Step, cable: &Cable, traffic: &Traffic, seconds: u64) -> Result<bool> {
    let timeout = if step.ends {
        String::new()
    } else {
        format!("--timeout {seconds} ")
    };
    say(&format!("$ weir {timeout}-e '{}'\n", step.script));
    let (theirs, ours) = output()?;
    let mut child = spawn(step, cable, seconds, theirs)?;
    let lines = reader(ours);
    let patience = Instant::now() + Duration::from_secs(seconds + 30);
    let mut seen = Seen::default();
    while !seen.attached && !seen.ended && !interrupted() && Instant::now() < patience {
        seen.read(&lines, Duration::from_millis(50));
    }
    traffic.set_flood(step.flood);
    // What was under way when the probes came belongs to neither side.
    let begin = Instant::now();
    let before = traffic.counts();
    let end = begin + Duration::from_secs(seconds).saturating_sub(MARGIN);
    while !seen.ended && !interrupted() && Instant::now() < end {
        seen.read(&lines, end.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
    }
    traffic.set_flood(false);
    // Longer than the flood takes to notice, so that all of it is counted on both sides.
    std::thread::sleep(MARGIN / 4);
    let counts = traffic.counts().since(before);
    while !seen.ended && Instant::now() < patience {
        if interrupted() {
            // Ctrl-C reaches the child as well; a signal to us alone does not.
            terminate(&child);
        }
        seen.read(&lines, Duration::from_millis(50));
    }
    if !seen.ended {
        terminate(&child);
    }
    let status = child.wait().context("cannot wait for the script")?;
    if seen.lines > MAX_LINES {
        say(&format!("... and {} more lines\n", seen.lines - MAX_LINES));
    }
    if interrupted() {
        return Ok(true);
    }
    if !status.success() || !seen.attached {
        say("(this script failed; the reason is above)\n");
        return Ok(false);
    }
    say(&format!("-> {}\n", (step.after)(counts)));
    Ok(true)
}

/// What a script has printed so far.
#[derive(Default)]
struct Seen {
    attached: bool,
    ended: bool,
    lines: usize,
}

impl Seen {
    /// Passes on what comes within the time.
    fn read(&mut self, lines: &Receiver<String>, time: Duration) {
        match lines.recv_timeout(time) {
            Ok(line) if line == ATTACHED => self.attached = true,
            Ok(line) if line.is_empty() => {}
            Ok(line) => {
                self.lines += 1;
                if self.lines <= MAX_LINES {
                    say(&format!("{line}\n"));
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => self.ended = true,
        }
    }
}

/// Where a script prints, and where we read that: where we have a terminal it gets one as wide, so that tables fit it.
fn output() -> Result<(Stdio, File)> {
    let stdout = std::io::stdout();
    let Some((rows, columns)) = terminal::size(stdout.as_fd()) else {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        return Ok((theirs.into(), ours.into()));
    };
    let size = Winsize {
        ws_row: rows.try_into().unwrap_or(u16::MAX),
        ws_col: columns.try_into().unwrap_or(u16::MAX),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let mut modes = tcgetattr(&stdout).context("cannot ask the terminal")?;
    // Ours adds the carriage returns.
    cfmakeraw(&mut modes);
    let pty = openpty(&size, &modes).context("cannot make a terminal")?;
    for fd in [&pty.master, &pty.slave] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("cannot make a terminal")?;
    }
    Ok((pty.slave.into(), pty.master.into()))
}

/// Hands on the lines that are printed. A terminal that nobody prints to any more is an error to read.
fn reader(output: File) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn spawn(step: &Step, cable: &Cable, seconds: u64, stdout: Stdio) -> Result<Child> {
    // By its path, so that its name is the usual one in the output; the file may have been replaced since.
    let exe = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(exe.as_deref().unwrap_or(Path::new("/proc/self/exe")));
    command.arg0("weir").arg("-q");
    if !step.ends {
        command.arg("--timeout").arg(seconds.to_string());
    }
    command
        .args(["-e", &step.script])
        .env(ATTACHED, "1")
        .stdin(Stdio::null())
        .stdout(stdout);
    let netns = cable.node.file().as_raw_fd();
    // SAFETY: setns and prctl are async-signal-safe; the descriptor is open as long as the cable that we borrow.
    unsafe {
        command.pre_exec(move || {
            // The child ends with us, even when we are killed.
            if libc::setns(netns, libc::CLONE_NEWNET) < 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn().context("cannot start weir for a script")
}

fn terminate(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

extern "C" fn note_interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn on_interrupt() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note_interrupt), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores one atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }
    Ok(())
}

/// The demonstration goes on when nobody reads it: it ends by itself soon.
fn say(text: &str) {
    let _ = out::stdout(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_parser::SourceId;

    #[test]
    fn every_script_of_the_demonstration_parses() {
        for step in steps(4, true, "/n", Some(Path::new("/p")))
            .iter()
            .chain(&steps(4, false, "/n", None))
        {
            let parsed = weir_parser::parse(SourceId(0), &step.script);
            assert!(!parsed.has_errors(), "{}: {:?}", step.script, parsed.diagnostics);
        }
    }
}
