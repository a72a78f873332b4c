//! A program to be probed: the test's own executable, started again with [`ARG`]. It has functions with plain names, a static event with
//! a counter of listeners, and does exactly what it is told.

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::ffi::{CStr, CString, c_char};
use std::hint::black_box;
use std::io::{BufRead, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// First argument of the executable as a victim.
pub const ARG: &str = "--weir-victim";
/// Its name while it works.
pub const COMM: &str = "weir-victim";

/// A function to be probed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_victim_add(a: u64, text: *const c_char, b: u64) -> u64 {
    // SAFETY: every caller here passes a C string.
    let first = unsafe { CStr::from_ptr(text) }.to_bytes().first().copied().unwrap_or(0);
    black_box(a) + black_box(b) + u64::from(first)
}

/// Another one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_victim_double(a: u64) -> u64 {
    black_box(a) * 2
}

/// A number to be read by its name.
#[unsafe(no_mangle)]
#[used]
static weir_victim_level: AtomicU32 = AtomicU32::new(7);

/// A number to be watched.
static CELL: AtomicU64 = AtomicU64::new(0);

/// A page of its own: where two segments share a page of the file, the kernel counts in whichever it finds first, which may be
/// the other mapping of it.
#[repr(C, align(4096))]
struct Page(AtomicU16);

/// Counted up by the kernel while somebody listens to `weir_test:tick`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".probes")]
#[used]
static weir_victim_semaphore: Page = Page(AtomicU16::new(0));

/// The static event `weir_test:tick` with a signed 64-bit number in a register, a 32-bit one in memory, and the constant 42.
#[inline(always)]
fn tick(number: i64, in_memory: &i32) {
    // SAFETY: a `nop` and a note about it (`stapsdt`, version 3); nothing is changed.
    unsafe {
        std::arch::asm!(
            "990: nop",
            ".pushsection .note.stapsdt, \"\", \"note\"",
            ".balign 4",
            ".4byte 992f-991f, 994f-993f, 3",
            "991: .asciz \"stapsdt\"",
            "992: .balign 4",
            "993: .8byte 990b",
            ".8byte _.stapsdt.base",
            ".8byte weir_victim_semaphore",
            ".asciz \"weir_test\"",
            ".asciz \"tick\"",
            ".asciz \"-8@{number} -4@({memory}) 8@$42\"",
            "994: .balign 4",
            ".popsection",
            ".ifndef _.stapsdt.base",
            ".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat",
            ".weak _.stapsdt.base",
            ".hidden _.stapsdt.base",
            "_.stapsdt.base: .space 1",
            ".size _.stapsdt.base, 1",
            ".popsection",
            ".endif",
            number = in(reg) number,
            memory = in(reg) std::ptr::from_ref(in_memory),
            options(att_syntax, nostack, preserves_flags),
        );
    }
}

/// The executable that is probed.
///
/// # Errors
/// `/proc` is not there.
pub fn path() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find the test's own file")
}

/// Starts the victim; it waits for nothing.
///
/// # Errors
/// It cannot be started.
pub fn start(args: &[&str]) -> Result<Child> {
    let mut command = Command::new(path()?);
    command.arg(ARG).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().context("cannot start the victim")
}

/// Runs the victim to its end and returns what it printed.
///
/// # Errors
/// It failed.
pub fn run(args: &[&str]) -> Result<String> {
    let out = start(args)?.wait_with_output()?;
    ensure!(out.status.success(), "the victim failed: {out:?}");
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The victim's own `main`; `None` when this is not one.
pub fn main() -> Option<Result<()>> {
    let mut args = std::env::args().skip(1);
    (args.next().as_deref() == Some(ARG)).then(|| work(&args.collect::<Vec<_>>()))
}

fn work(args: &[String]) -> Result<()> {
    let number = |i: usize| -> Result<u64> { Ok(args.get(i).context("a number is missing")?.parse()?) };
    rename(COMM);
    match args.first().map(String::as_str) {
        Some("call") => call(number(1)?),
        Some("preempt") => preempt(number(1)?, number(2)?),
        Some("threads") => threads(number(1)?),
        Some("spin") => {
            (0..number(1)?).for_each(|i| _ = black_box(i));
            Ok(())
        }
        Some("touch") => touch(number(1)?),
        Some("on-demand") => on_demand(number(1)?),
        _ => bail!("unknown work {args:?}"),
    }
}

fn rename(name: &str) {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: PR_SET_NAME reads a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Calls everything `n` times, then says where `weir_victim_double` is in the file's addresses and how many listen.
fn call(n: u64) -> Result<()> {
    let text = c"hello".to_owned();
    let mut sum = 0;
    for i in 0..n {
        sum += weir_victim_add(black_box(i), text.as_ptr(), 100) + weir_victim_double(black_box(i));
        // One event in two places.
        match i % 2 {
            0 => tick(-7, black_box(&(i as i32))),
            _ => tick(-7, black_box(&(i as i32))),
        }
        // SAFETY: two system calls without memory; the second asks for the priority that is there.
        unsafe {
            libc::getpriority(libc::PRIO_PROCESS, 0);
            libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        }
    }
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let exe = path()?.to_string_lossy().into_owned();
    let first = maps.lines().find(|l| l.ends_with(&exe)).context("no mapping of the executable")?;
    let base = u64::from_str_radix(first.split('-').next().unwrap_or_default(), 16)?;
    let address = weir_victim_double as extern "C" fn(u64) -> u64 as usize as u64 - base;
    let listeners = weir_victim_semaphore.0.load(Ordering::Relaxed);
    writeln!(std::io::stdout(), "sum {sum} address {address:#x} listeners {listeners}")?;
    Ok(())
}

/// Threads on one CPU that call as fast as they can, each with a text of its own.
fn preempt(count: u64, calls: u64) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    let run = |i: u64| -> Result<()> {
        sched_setaffinity(Pid::from_raw(0), &cpus)?;
        let text = CString::new(format!("thread {i}"))?;
        for n in 0..calls {
            black_box(weir_victim_add(n, text.as_ptr(), 1));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|i| scope.spawn(move || run(i))).collect();
        all.into_iter()
            .try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })
}

/// Has `n` more threads until its input ends.
fn threads(n: u64) -> Result<()> {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(receiver));
    let all: Vec<_> = (0..n)
        .map(|_| {
            let receiver = std::sync::Arc::clone(&receiver);
            std::thread::spawn(move || {
                rename(COMM);
                let _ = receiver.lock().map(|r| r.recv());
            })
        })
        .collect();
    let named = || -> Result<usize> {
        let tasks = std::fs::read_dir("/proc/self/task")?;
        let names = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok());
        Ok(names.filter(|c| c.trim() == COMM).count())
    };
    while named()? <= usize::try_from(n)? {
        std::thread::yield_now();
    }
    writeln!(std::io::stdout(), "ready")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(sender);
    for thread in all {
        let _ = thread.join();
    }
    Ok(())
}

/// Says where its cell is; on a line of input calls functions and writes to the cell `n` times; says so, and ends with its input.
fn on_demand(n: u64) -> Result<()> {
    writeln!(std::io::stdout(), "{:#x}", CELL.as_ptr() as usize)?;
    std::io::stdin().read_line(&mut String::new())?;
    let text = c"hello".to_owned();
    for i in 0..n {
        black_box(weir_victim_add(i, text.as_ptr(), weir_victim_level.load(Ordering::Relaxed).into()));
        black_box(weir_victim_double(black_box(i)));
        CELL.store(i, Ordering::SeqCst);
    }
    writeln!(std::io::stdout(), "done")?;
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// A started victim that waits for [`OnDemand::go`].
pub struct OnDemand {
    child: Child,
    output: std::io::BufReader<std::process::ChildStdout>,
    /// Of its cell, in hexadecimal.
    pub address: String,
}

impl OnDemand {
    /// # Errors
    /// It cannot be started.
    pub fn start(times: u64) -> Result<Self> {
        let mut child = start(&["on-demand", &times.to_string()])?;
        let mut address = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().context("no output")?);
        output.read_line(&mut address)?;
        Ok(Self {
            child,
            output,
            address: address.trim().to_owned(),
        })
    }

    #[must_use]
    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Lets it work, and returns when it has.
    ///
    /// # Errors
    /// It failed.
    pub fn work(&mut self) -> Result<()> {
        self.child.stdin.as_mut().context("no input")?.write_all(b"go\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line == "done\n", "the victim says `{line}`");
        Ok(())
    }

    /// Lets it work, and waits for its end.
    ///
    /// # Errors
    /// It failed.
    pub fn go(mut self) -> Result<()> {
        self.work()?;
        self.end()
    }

    /// Lets it end.
    ///
    /// # Errors
    /// It failed.
    pub fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "the victim failed: {status}");
        Ok(())
    }
}

/// Writes to `n` fresh pages.
fn touch(n: u64) -> Result<()> {
    let pages = usize::try_from(n)?;
    let len = std::num::NonZeroUsize::new(pages * 4096).context("no pages")?;
    // SAFETY: a private anonymous mapping of our own, small pages only.
    unsafe {
        let base = nix::sys::mman::mmap_anonymous(
            None,
            len,
            nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE,
            nix::sys::mman::MapFlags::MAP_PRIVATE,
        )?;
        libc::madvise(base.as_ptr(), len.get(), libc::MADV_NOHUGEPAGE);
        for page in 0..pages {
            base.as_ptr().cast::<u8>().add(page * 4096).write_volatile(1);
        }
    }
    Ok(())
}
