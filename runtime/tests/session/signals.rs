//! Blocks of a script on its own signals, what ends it, and what comes then: run in a process of its own.

use super::common::{Asm, Builder, Capture, root};
use super::{MS, wait_for};
use std::process::{Command, Stdio};
use weir_compiler::object::{AttachPoint, ProgramKind};
use weir_runtime::{Kernel, Outcome, OutputFormat, Reason, Session};

const SIGNAL_ENV: &str = "WEIR_TEST_SIGNAL_OUTPUT";

/// Not a test: a script with a block on SIGUSR1, one on `end`, and output every millisecond when asked for.
#[test]
fn signal_entry() {
    let Ok(path) = std::env::var(SIGNAL_ENV) else { return };
    let capture = Capture::new();
    let mut options = capture.options(OutputFormat::Text);
    options.output = weir_runtime::Output::File(path.into());
    options.notify_attached = true;
    let mut builder = Builder::default()
        .ring()
        .count("signals")
        .printf("usr1\n")
        .printf("end\n")
        .printf(&"noise ".repeat(1000))
        .program(
            ProgramKind::RunOnce,
            &[AttachPoint::Signal { name: "SIGUSR1".into() }],
            Asm::default().emit(0, 0, &[]).count(1).ret(0),
        )
        .program(ProgramKind::RunOnce, &[AttachPoint::End], Asm::default().emit(0, 1, &[]).ret(0));
    if std::env::var("WEIR_TEST_SIGNAL_NOISE").is_ok() {
        builder = builder.program(
            ProgramKind::PerfEvent,
            &[AttachPoint::Interval { period: MS }],
            Asm::default().emit(0, 2, &[]).ret(0),
        );
    }
    let session = Session::start(builder.build(), &Kernel::new(), options).unwrap();
    let outcome = session.run().unwrap();
    std::process::exit(if outcome.reason == Reason::Interrupted { 77 } else { outcome.code });
}

fn signal_child(path: &std::path::Path, noise: bool) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "signals::signal_entry", "--nocapture"])
        .env(SIGNAL_ENV, path)
        .stdout(Stdio::null());
    if noise {
        command.env("WEIR_TEST_SIGNAL_NOISE", "1");
    }
    command.spawn().unwrap()
}

fn kill(child: &std::process::Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn signals_run_their_blocks_and_the_first_sigterm_ends_in_order() {
    if !root() {
        return;
    }
    let capture = Capture::new();
    let mut child = signal_child(&capture.path, false);
    let text = || std::fs::read_to_string(&capture.path).unwrap_or_default();
    wait_for("attached", || text().contains("__BPFTRACE_NOTIFY_PROBES_ATTACHED\n"));
    kill(&child, nix::sys::signal::SIGUSR1);
    wait_for("the block", || text().contains("usr1\n"));
    kill(&child, nix::sys::signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(text(), "__BPFTRACE_NOTIFY_PROBES_ATTACHED\nusr1\nend\n\n\n@signals: 1\n");
}

/// Nobody reads the pipe: the first signal cannot be finished, the second ends the run at once.
#[test]
fn a_blocked_reader_does_not_block_the_second_signal() {
    use std::os::unix::fs::OpenOptionsExt;
    if !root() {
        return;
    }
    let fifo = Capture::new();
    nix::unistd::mkfifo(&fifo.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&fifo.path)
        .unwrap();
    let mut child = signal_child(&fifo.path, true);
    // 6000 bytes every millisecond fill the pipe of 64 KiB, then the printing thread blocks: nothing more comes for a while.
    let mut before = 0;
    wait_for("a full pipe", || {
        std::thread::sleep(50 * MS);
        let mut waiting: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int.
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&reader), libc::FIONREAD, &raw mut waiting) };
        let stands_still = waiting == std::mem::replace(&mut before, waiting);
        waiting >= 60_000 && stands_still
    });
    kill(&child, nix::sys::signal::SIGINT);
    std::thread::sleep(200 * MS);
    assert!(child.try_wait().unwrap().is_none(), "the maps cannot have been printed");
    kill(&child, nix::sys::signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(77));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    if !root() {
        return;
    }
    let fifo = Capture::new();
    nix::unistd::mkfifo(&fifo.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = fifo.path.clone();
    let reader = std::thread::spawn(move || {
        use std::io::Read;
        let mut first = [0u8; 4];
        std::fs::File::open(path).unwrap().read_exact(&mut first).unwrap();
        first
    });
    let object = Builder::default()
        .ring()
        .printf("tick\n")
        .program(
            ProgramKind::PerfEvent,
            &[AttachPoint::Interval { period: 10 * MS }],
            Asm::default().emit(0, 0, &[]).ret(0),
        )
        .build();
    let session = Session::start(object, &Kernel::new(), fifo.options(OutputFormat::Text)).unwrap();
    assert_eq!(
        session.run().unwrap(),
        Outcome {
            code: 0,
            reason: Reason::OutputClosed
        }
    );
    assert_eq!(&reader.join().unwrap(), b"tick");
    assert_eq!(fifo.notices(), ["Attached 1 probe"]);
}
