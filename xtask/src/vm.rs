//! `cargo xtask vm`: one command as root on a stock Debian kernel inside QEMU.
//!
//! The guest sees this machine's file system read-only (virtiofs) under a layer in its own memory that takes all writes,
//! so a test binary built here runs there as it is, and nothing that it does comes back. QEMU emulates the processor:
//! `/dev/kvm` is neither needed nor used.
//!
//! Input: a kernel series and a command. Output: the command's standard output and error, live, and its exit code.
//! Not here: where the kernel comes from ([`kernel`]) and what the guest does at boot ([`initramfs`]).

mod initramfs;
mod kernel;
pub mod netdevsim;

use crate::{apt, proc};
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";
const QEMU: &str = "qemu-system-x86_64";

/// Exit codes of ours, outside what a command usually returns.
const TIMED_OUT: u8 = 124;
const GUEST_DIED: u8 = 125;

#[derive(clap::Args)]
pub struct Args {
    /// `6.1` or `6.12` (the newest Debian 12 kernel of that series), or an exact one such as `6.1.0-56`
    kernel: String,
    /// Time limit for boot and command together, in seconds
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Guest memory in MiB
    #[arg(long, default_value_t = 1536)]
    memory: u32,
    /// Guest processors
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Set an environment variable in the guest
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Build the module `netdevsim` for it first: simulated network cards
    #[arg(long)]
    netdevsim: bool,
    /// Print the guest's console as well
    #[arg(long)]
    console: bool,
    /// The command and its arguments, found and run as on this machine, in the current directory
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// One run of a virtual machine.
pub struct Spec<'a> {
    pub kernel: &'a str,
    pub command: &'a [String],
    pub env: &'a [(String, String)],
    pub limit: Duration,
    pub memory_mib: u32,
    pub cpus: u32,
}

impl<'a> Spec<'a> {
    /// A run with the defaults of the command line.
    pub fn new(kernel: &'a str, command: &'a [String]) -> Self {
        Self {
            kernel,
            command,
            env: &[],
            limit: Duration::from_secs(300),
            memory_mib: 1536,
            cpus: 2,
        }
    }
}

/// How a run ended.
pub struct Outcome {
    /// The exact kernel release that ran.
    pub release: String,
    pub end: End,
    /// What the guest's kernel and init wrote to the console.
    pub console: String,
}

pub enum End {
    /// The command ran and returned this.
    Exit(u8),
    TimedOut,
    /// QEMU ended before the command did (panic, out of memory, no boot); the text is QEMU's own complaint.
    Died(String),
}

impl Outcome {
    /// The exit code that stands for this outcome; complains on standard error unless the command itself returned.
    pub fn code(&self) -> u8 {
        match &self.end {
            End::Exit(code) => *code,
            End::TimedOut => {
                eprintln!("{}xtask: the virtual machine reached its time limit", self.tail());
                TIMED_OUT
            }
            End::Died(why) => {
                eprintln!("{}{why}xtask: the virtual machine ended before the command did", self.tail());
                GUEST_DIED
            }
        }
    }

    fn tail(&self) -> String {
        let lines: Vec<&str> = self.console.lines().collect();
        lines[lines.len().saturating_sub(40)..]
            .iter()
            .map(|l| format!("console: {l}\n"))
            .collect()
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let env = args
        .env
        .iter()
        .map(|e| {
            e.split_once('=')
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .with_context(|| format!("`{e}` is not NAME=VALUE"))
        })
        .collect::<Result<Vec<_>>>()?;
    if args.netdevsim {
        netdevsim::make(&args.kernel)?;
    }
    let spec = Spec {
        env: &env,
        limit: Duration::from_secs(args.limit),
        memory_mib: args.memory,
        cpus: args.cpus,
        ..Spec::new(&args.kernel, &args.command)
    };
    let outcome = boot(&spec, std::io::stdout(), std::io::stderr())?;
    if args.console {
        eprint!("{}", outcome.console);
    }
    Ok(ExitCode::from(outcome.code()))
}

/// Boots the kernel, runs the command, and copies its output to the two writers while it runs.
///
/// # Errors
/// A tool, the kernel package or a right is missing, or QEMU could not be started. A command that fails, a guest that
/// dies and the time limit are not errors but an [`Outcome`].
pub fn boot(spec: &Spec<'_>, stdout: impl Write + Send + 'static, stderr: impl Write + Send + 'static) -> Result<Outcome> {
    proc::need_root("sharing the file system with a virtual machine")?;
    apt::install(apt::TEST)?;
    let kernel = kernel::find(spec.kernel)?;
    let work = WorkDir::new()?;
    let initrd = work.path("initrd");
    fs::write(&initrd, initramfs::build(&kernel, spec)?).with_context(|| format!("cannot write {}", initrd.display()))?;

    // Each of the guest's serial ports is a socket that QEMU connects to; the first is the console.
    let console = collect(work.listen("console")?);
    let exit = collect(work.listen("exit")?);
    let out = forward(work.listen("out")?, stdout);
    let err = forward(work.listen("err")?, stderr);

    let _fs_daemon = share_root(&work)?;
    let mut qemu = Running(start_qemu(spec, &kernel, &initrd, &work)?);
    let deadline = Instant::now() + spec.limit;
    let timed_out = loop {
        if qemu.0.try_wait().context("cannot wait for QEMU")?.is_some() {
            break false;
        }
        if Instant::now() >= deadline {
            break true;
        }
        // The end of the guest is seen here; its output flows in the other threads meanwhile.
        std::thread::sleep(Duration::from_millis(20));
    };
    drop(qemu);

    // QEMU is gone, so every socket has reached its end; the bound only guards against one that it never connected.
    let drained = Duration::from_secs(5);
    for done in [out, err] {
        if let Ok(result) = done.recv_timeout(drained) {
            result.context("cannot write the guest's output")?;
        }
    }
    let said = exit.recv_timeout(drained).unwrap_or_default();
    let console = console.recv_timeout(drained).unwrap_or_default();
    let end = match said
        .lines()
        .find_map(|l| l.trim().strip_prefix("exit "))
        .and_then(|n| n.parse().ok())
    {
        Some(code) => End::Exit(code),
        None if timed_out => End::TimedOut,
        None => End::Died(fs::read_to_string(work.path("qemu.log")).unwrap_or_default()),
    };
    Ok(Outcome {
        release: kernel.release,
        end,
        console,
    })
}

fn start_qemu(spec: &Spec<'_>, kernel: &kernel::Kernel, initrd: &Path, work: &WorkDir) -> Result<Child> {
    let memory = format!("{}M", spec.memory_mib);
    let mut c = Command::new(QEMU);
    // thread=single: with a thread for each processor QEMU 7.2 now and then keeps the translation of code that another processor
    // was just patching, and the guest's kernel dies of the breakpoint in it (`__schedule`, when perf events come and go).
    c.args([
        "-M",
        "pc",
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max",
        "-smp",
        &spec.cpus.to_string(),
        "-m",
        &memory,
    ]);
    c.args([
        "-display",
        "none",
        "-vga",
        "none",
        "-nic",
        "none",
        "-monitor",
        "none",
        "-no-reboot",
        "-nodefaults",
    ]);
    c.arg("-kernel").arg(&kernel.vmlinux).arg("-initrd").arg(initrd);
    // mitigations=off: they only cost time under emulation. norandmaps: translated code is found by its address, so a program
    // that lies elsewhere at each start is translated at each start (weir then takes 1.2 s instead of 0.2). panic=-1 with
    // -no-reboot: a panic ends QEMU at once. no_timer_check: on a busy machine the timer ticks too late for the kernel's test of it.
    c.args([
        "-append",
        "console=ttyS0 quiet panic=-1 reboot=t mitigations=off norandmaps no_timer_check tsc=reliable random.trust_cpu=on",
    ]);
    for name in ["console", "out", "err", "exit"] {
        let path = work.path(name);
        c.args([
            "-chardev",
            &format!("socket,id={name},path={}", path.display()),
            "-serial",
            &format!("chardev:{name}"),
        ]);
    }
    c.args([
        "-object",
        &format!("memory-backend-memfd,id=mem,size={memory},share=on"),
        "-numa",
        "node,memdev=mem",
    ]);
    c.args(["-chardev", &format!("socket,id=fs,path={}", work.path("fs").display())]);
    c.args(["-device", "vhost-user-fs-pci,chardev=fs,tag=host,queue-size=1024"]);
    let log = fs::File::create(work.path("qemu.log"))?;
    c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    proc::die_with_us(&mut c).spawn().with_context(|| format!("cannot start `{QEMU}`"))
}

/// Starts the daemon that serves `/` to the guest, itself inside a mount namespace where `/` is read-only.
fn share_root(work: &WorkDir) -> Result<Running> {
    if !Path::new(VIRTIOFSD).exists() {
        bail!("{VIRTIOFSD} is not there (Debian 12: package `qemu-system-common`)");
    }
    let socket = work.path("fs");
    let dir = work.0.clone();
    let log_path = work.path("virtiofsd.log");
    let log = fs::File::create(&log_path)?;
    let mut c = Command::new(VIRTIOFSD);
    c.arg(format!("--socket-path={}", socket.display()));
    c.args([
        "-o",
        "source=/",
        "-o",
        "sandbox=chroot",
        "-o",
        "cache=always",
        "-o",
        "log_level=err",
    ]);
    c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    proc::die_with_us(&mut c);
    // SAFETY: between fork and exec only system calls are made here (`unshare`, `mount`); their arguments were allocated before.
    unsafe {
        c.pre_exec(move || read_only_root(&dir).map_err(std::io::Error::from));
    }
    let mut daemon = Running(c.spawn().with_context(|| format!("cannot start {VIRTIOFSD}"))?);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        let ended = daemon.0.try_wait()?.is_some();
        if ended || Instant::now() > deadline {
            bail!(
                "virtiofsd did not start: {}",
                fs::read_to_string(&log_path).unwrap_or_default().trim()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(daemon)
}

/// Enters a private mount namespace where `/` is read-only except for `writable` and an empty `/run` (for the daemon's lock).
fn read_only_root(writable: &Path) -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(Some(writable), writable, NONE, MsFlags::MS_BIND, NONE)?;
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), NONE)?;
    mount(NONE, "/", NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, NONE)
}

/// A child that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder for the sockets and the initramfs of one run, removed with this value.
struct WorkDir(PathBuf);

impl WorkDir {
    fn new() -> Result<Self> {
        let temp = std::env::temp_dir();
        remove_stale(&temp);
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let path = temp.join(format!("weir-vm.{}.{run}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = self.path(name);
        UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what runs left behind that were killed hard.
fn remove_stale(temp: &Path) {
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.strip_prefix("weir-vm.")?.split('.').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Reads one connection to its end in a thread; the text arrives in the channel.
fn collect(listener: UnixListener) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Ok((mut from, _)) = listener.accept() {
            // A reset at the end of QEMU keeps what came before it.
            let _ = from.read_to_end(&mut bytes);
        }
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

/// Copies one connection to the writer as it comes, in a thread; the channel says when it has ended.
fn forward(listener: UnixListener, mut to: impl Write + Send + 'static) -> Receiver<std::io::Result<()>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let result = listener.accept().and_then(|(from, _)| copy_live(from, &mut to));
        let _ = send.send(result);
    });
    receive
}

fn copy_live(mut from: UnixStream, to: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(&buffer[..n])?;
                to.flush()?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            // QEMU's end may reset the connection; what came before has been written.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_one_process_do_not_meet() {
        let (one, other) = (WorkDir::new().unwrap(), WorkDir::new().unwrap());
        let (_one, _other) = (one.listen("console").unwrap(), other.listen("console").unwrap());
        let path = other.0.clone();
        remove_stale(path.parent().unwrap());
        assert!(path.exists(), "the folder of a process that lives is not stale");
        drop(other);
        assert!(!path.exists() && one.0.exists());
    }
}
