//! Runs the program as a user would, and knows when its probes are attached.
//!
//! Input: arguments, a namespace, a folder. Output: exit code, standard output and error, and a check that nothing of this
//! process is left in the kernel. Every wait has a bound; none is a guess.

use crate::gate::{Install, Supervisor};
use crate::kernel::{self, Object};
use crate::net::{Lab, Netns};
use crate::{output, patience};
use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// bpftrace's own test hook: with this variable set it prints a line of that name when all probes are attached.
const ATTACHED: &str = "__BPFTRACE_NOTIFY_PROBES_ATTACHED";

/// The program under test: `WEIR_BIN`, else the one built beside this test.
///
/// # Errors
/// It has not been built.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEIR_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe().context("cannot find the test's own file")?;
    // target/PROFILE/deps/TEST-HASH
    let built = test.ancestors().nth(2).context("the test is not in a target folder")?.join("weir");
    ensure!(
        built.exists(),
        "{} is not there: run `cargo build` first, or set WEIR_BIN",
        built.display()
    );
    Ok(built)
}

/// A run to be started.
pub struct Weir<'a> {
    program: Option<PathBuf>,
    args: Vec<OsString>,
    ns: Option<&'a Netns>,
    dir: Option<&'a Path>,
    env: Vec<(&'static str, String)>,
    /// Runs in the child, in their order, before it becomes the program.
    conditions: Vec<Condition>,
    /// Files in the place of standard input (0) or output (1).
    streams: Vec<(i32, PathBuf)>,
    stdout_is_a_socket: bool,
}

/// What makes life hard for the program.
enum Condition {
    /// An empty file system lies over this folder, for this process alone.
    Hidden(CString),
    /// This folder has the content of another one, for this process alone.
    InPlace(CString, CString),
    /// Root with no other capabilities than these bits.
    Capabilities(u64),
    /// Somebody else than root, of no group.
    User(u32),
    /// A resource, and how much of it there is.
    Limit(libc::__rlimit_resource_t, u64),
    /// This standard stream is closed.
    Closed(i32),
    /// A supervisor decides which system calls go well.
    Supervised(Install),
}

impl Condition {
    /// Only system calls that are safe after a fork.
    fn apply(&self) -> std::io::Result<()> {
        let check = |ret: libc::c_int| {
            if ret == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        let none = std::ptr::null();
        match self {
            // SAFETY: strings that end in NUL, and numbers.
            Condition::Hidden(path) => unsafe {
                check(libc::unshare(libc::CLONE_NEWNS))?;
                check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
                check(libc::mount(c"none".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()))
            },
            // SAFETY: strings that end in NUL, and numbers.
            Condition::InPlace(path, other) => unsafe {
                check(libc::unshare(libc::CLONE_NEWNS))?;
                check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
                check(libc::mount(other.as_ptr(), path.as_ptr(), none, libc::MS_BIND, none.cast()))
            },
            Condition::Capabilities(keep) => {
                for bit in (0..64 as libc::c_ulong).filter(|bit| keep & (1 << bit) == 0) {
                    // SAFETY: numbers only. A bit that the kernel does not know is refused, and nobody has it.
                    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) };
                }
                Ok(())
            }
            // SAFETY: numbers, and an empty list.
            Condition::User(id) => unsafe {
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setgid(*id))?;
                check(libc::setuid(*id))
            },
            Condition::Limit(resource, n) => {
                let limit = libc::rlimit {
                    rlim_cur: *n,
                    rlim_max: *n,
                };
                // SAFETY: a live struct.
                check(unsafe { libc::setrlimit(*resource, &raw const limit) })
            }
            Condition::Supervised(install) => install.run(),
            // SAFETY: a number.
            Condition::Closed(fd) => check(unsafe { libc::close(*fd) }),
        }
    }
}

impl<'a> Weir<'a> {
    pub fn new<S: Into<OsString>>(args: impl IntoIterator<Item = S>) -> Self {
        Self {
            program: None,
            args: args.into_iter().map(Into::into).collect(),
            ns: None,
            dir: None,
            env: Vec::new(),
            conditions: Vec::new(),
            streams: Vec::new(),
            stdout_is_a_socket: false,
        }
    }

    /// `weir -e SCRIPT`.
    pub fn script(text: &str) -> Self {
        Self::new(["-e", text])
    }

    /// Runs this file instead of [`program`].
    pub fn program(mut self, file: &Path) -> Self {
        self.program = Some(file.to_owned());
        self
    }

    /// With this variable in its environment.
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// An empty file system lies over this folder.
    pub fn hidden(mut self, path: &str) -> Self {
        self.conditions
            .push(Condition::Hidden(CString::new(path).expect("no NUL in a path")));
        self
    }

    /// For the program alone, `path` has the content of the folder `other`.
    pub fn in_place(mut self, path: &str, other: &Path) -> Self {
        let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL in a path");
        self.conditions.push(Condition::InPlace(text(Path::new(path)), text(other)));
        self
    }

    /// Root with no capabilities but these, by their numbers in `linux/capability.h`.
    pub fn capabilities(mut self, keep: &[u32]) -> Self {
        self.conditions
            .push(Condition::Capabilities(keep.iter().fold(0, |all, bit| all | 1 << bit)));
        self
    }

    /// Runs as this user, who has to be able to start the program.
    pub fn user(mut self, id: u32) -> Self {
        self.conditions.push(Condition::User(id));
        self
    }

    /// Descriptors that may be open at once.
    pub fn max_files(self, n: u64) -> Self {
        self.limit(libc::RLIMIT_NOFILE, n)
    }

    /// With so much of a resource and no more.
    pub fn limit(mut self, resource: libc::__rlimit_resource_t, n: u64) -> Self {
        self.conditions.push(Condition::Limit(resource, n));
        self
    }

    pub fn closed(mut self, fd: i32) -> Self {
        self.conditions.push(Condition::Closed(fd));
        self
    }

    /// Standard output goes to this file, which is there.
    pub fn stdout_to(mut self, path: &Path) -> Self {
        self.streams.push((1, path.to_owned()));
        self
    }

    /// Standard output is a socket, as that of a service is.
    pub fn stdout_to_socket(mut self) -> Self {
        self.stdout_is_a_socket = true;
        self
    }

    /// Standard input is this file.
    pub fn stdin_from(mut self, path: &Path) -> Self {
        self.streams.push((0, path.to_owned()));
        self
    }

    /// Runs in the lab's node, in its folder.
    pub fn at(mut self, lab: &'a Lab) -> Self {
        self.ns = Some(&lab.node);
        self.dir = Some(lab.dir.path());
        self
    }

    /// Runs at the other end of the lab's cable, in its folder.
    pub fn at_peer(mut self, lab: &'a Lab) -> Self {
        self.ns = Some(&lab.peer);
        self.dir = Some(lab.dir.path());
        self
    }

    /// Runs without these capabilities (numbers of `linux/capability.h`).
    pub fn without_capabilities(mut self, numbers: &[u32]) -> Self {
        let lacks = numbers.iter().fold(0, |all, bit| all | 1 << bit);
        self.conditions.push(Condition::Capabilities(!lacks));
        self
    }

    fn spawn(self) -> Result<Running> {
        let mut command = Command::new(self.program.map_or_else(program, Ok)?);
        command
            .args(&self.args)
            .env(ATTACHED, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.current_dir(self.dir.unwrap_or(Path::new("/")));
        if let Some(ns) = self.ns {
            let file = ns.file().as_raw_fd();
            // SAFETY: `setns` is async-signal-safe; the descriptor is open as long as the namespace that we borrow.
            unsafe {
                command.pre_exec(move || {
                    if libc::setns(file, libc::CLONE_NEWNET) == 0 {
                        Ok(())
                    } else {
                        Err(std::io::Error::last_os_error())
                    }
                });
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let conditions = self.conditions;
        if !conditions.is_empty() {
            // SAFETY: [`Condition::apply`] calls what is safe after a fork.
            unsafe {
                command.pre_exec(move || conditions.iter().try_for_each(Condition::apply));
            }
        }
        let mut piped_out = true;
        for (fd, path) in &self.streams {
            let open = File::options().read(*fd == 0).write(*fd == 1).open(path);
            let file = open.with_context(|| format!("cannot open {}", path.display()))?;
            if *fd == 0 {
                command.stdin(file);
            } else {
                piped_out = false;
                command.stdout(file);
            }
        }
        let mut socket = None;
        if self.stdout_is_a_socket {
            let (ours, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
            command.stdout(OwnedFd::from(theirs));
            socket = Some(ours);
        }
        let shown: Vec<String> = self.args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let out = match child.stdout.take() {
            None if socket.is_some() => Capture::of(socket.context("it is there")?),
            Some(pipe) => Capture::of(pipe),
            None if piped_out => bail!("standard output is piped"),
            None => Capture::of(File::open("/dev/null").context("cannot open /dev/null")?),
        };
        let err = Capture::of(child.stderr.take().context("standard error is piped")?);
        Ok(Running {
            child: Some(child),
            out,
            err,
            ours: BTreeSet::new(),
            shown: shown.join(" "),
        })
    }

    /// Starts and returns when all probes are attached.
    ///
    /// # Errors
    /// It ended before, or did not say so in time; the text is in the error.
    pub fn start(self) -> Result<Running> {
        let mut run = self.spawn()?;
        let deadline = Instant::now() + patience();
        loop {
            let said = |c: &Capture| c.lock().text.lines().any(|l| l == ATTACHED);
            if said(&run.out) || said(&run.err) {
                break;
            }
            if run.child.as_mut().context("it is running")?.try_wait()?.is_some() {
                let done = run.wait()?;
                // It may attach and end at once.
                if done.attached {
                    bail!("it ended at once: use `run` for `{}`", done.shown);
                }
                bail!("no probe was attached: {done}");
            }
            if Instant::now() > deadline {
                let done = run.end_with(Signal::SIGKILL)?;
                bail!("it did not say that its probes are attached within {:?}: {done}", patience());
            }
            // Waits for a next piece of output, or long enough to look at the process again.
            run.out.wait_more(Duration::from_millis(20));
        }
        run.note_objects()?;
        Ok(run)
    }

    /// Starts a command that attaches nothing, and does not wait for it.
    ///
    /// # Errors
    /// The program is not there.
    pub fn start_unattached(self) -> Result<Running> {
        self.spawn()
    }

    /// Runs to the end, while a supervisor decides which of its system calls go well.
    ///
    /// # Errors
    /// As those of [`Self::run`].
    pub fn run_behind(self, supervisor: &mut Supervisor) -> Result<Finished> {
        self.start_behind(supervisor)?.wait()
    }

    /// As [`Self::run_behind`], without waiting for anything.
    ///
    /// # Errors
    /// As those of [`Self::run`].
    pub fn start_behind(mut self, supervisor: &mut Supervisor) -> Result<Running> {
        self.conditions.push(Condition::Supervised(supervisor.install()));
        let running = self.spawn()?;
        supervisor.serve()?;
        Ok(running)
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// It did not end in time. An exit code is not an error.
    pub fn run(self) -> Result<Finished> {
        self.spawn()?.wait()
    }
}

/// A started program; killed if the value goes before it ended.
pub struct Running {
    child: Option<Child>,
    out: Capture,
    err: Capture,
    ours: BTreeSet<Object>,
    shown: String,
}

impl Running {
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("it has ended")?.id())
    }

    /// Remembers which BPF objects it holds now; [`Finished::clean`] wants them gone.
    fn note_objects(&mut self) -> Result<()> {
        self.ours.extend(kernel::held_by(self.pid()?));
        Ok(())
    }

    /// The objects that it held when its probes were attached.
    pub fn objects(&self) -> &BTreeSet<Object> {
        &self.ours
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.out.lock().text.clone()
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        self.err.lock().text.clone()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()? as i32), signal).context("cannot send the signal")
    }

    /// Waits until what it has printed satisfies the question.
    ///
    /// # Errors
    /// It ended, or it took too long; what was printed is in the error.
    pub fn wait_stdout(&mut self, what: &str, good: impl Fn(&str) -> bool) -> Result<()> {
        self.wait_text(&self.out, what, good)
    }

    /// As [`Self::wait_stdout`], for what it says on standard error.
    ///
    /// # Errors
    /// As there.
    pub fn wait_stderr(&mut self, what: &str, good: impl Fn(&str) -> bool) -> Result<()> {
        self.wait_text(&self.err, what, good)
    }

    fn wait_text(&self, from: &Capture, what: &str, good: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience();
        loop {
            let (text, ended) = {
                let state = from.lock();
                (state.text.clone(), state.ended)
            };
            if good(&text) {
                return Ok(());
            }
            if ended || Instant::now() > deadline {
                bail!(
                    "{what} never came; standard output:\n{}\nstandard error:\n{}",
                    self.out.lock().text,
                    self.err.lock().text
                );
            }
            from.wait_more(Duration::from_millis(100));
        }
    }

    /// Sends the signal and waits for the end.
    pub fn end_with(self, signal: Signal) -> Result<Finished> {
        self.signal(signal)?;
        self.wait()
    }

    /// Ctrl-C and the end.
    pub fn stop(self) -> Result<Finished> {
        self.end_with(Signal::SIGINT)
    }

    /// Nobody reads its standard output any more; waits for the end.
    pub fn close_stdout(self) -> Result<Finished> {
        self.out.close();
        self.wait()
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// It did not in time, and was killed.
    pub fn wait(mut self) -> Result<Finished> {
        let mut child = self.child.take().context("it has ended before")?;
        let deadline = Instant::now() + patience();
        let status = loop {
            if let Some(status) = child.try_wait().context("cannot wait")? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                let (out, err) = (self.out.finish(), self.err.finish());
                bail!(
                    "`{}` did not end within {:?}\nstandard output:\n{out}\nstandard error:\n{err}",
                    self.shown,
                    patience()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let (mut stdout, mut stderr) = (self.out.finish(), self.err.finish());
        let attached = [&mut stdout, &mut stderr].into_iter().any(|text| {
            let line = format!("{ATTACHED}\n");
            let there = text.contains(&line);
            *text = text.replacen(&line, "", 1);
            there
        });
        Ok(Finished {
            status,
            stdout,
            stderr,
            attached,
            ours: std::mem::take(&mut self.ours),
            shown: std::mem::take(&mut self.shown),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How a run ended.
pub struct Finished {
    pub status: ExitStatus,
    /// Without the line that says that probes are attached.
    pub stdout: String,
    pub stderr: String,
    /// Whether that line came.
    pub attached: bool,
    ours: BTreeSet<Object>,
    shown: String,
}

impl Finished {
    /// Fails unless it ended with code 0 and left nothing in the kernel.
    pub fn clean(self) -> Result<Self> {
        ensure!(self.status.success(), "it failed: {self}");
        self.nothing_left()
    }

    /// Fails unless it ended by itself with code 1, saying each of the words on standard error and nothing on standard output,
    /// and left nothing in the kernel.
    pub fn refused(self, words: &[&str]) -> Result<Self> {
        ensure!(self.status.code() == Some(1), "expected exit code 1: {self}");
        ensure!(self.stdout.is_empty(), "an error belongs on standard error: {self}");
        for word in words {
            ensure!(self.stderr.contains(word), "the error does not say `{word}`: {self}");
        }
        self.nothing_left()
    }

    /// Fails if an object that it held is still in the kernel.
    pub fn nothing_left(self) -> Result<Self> {
        kernel::assert_gone(&self.ours).with_context(|| format!("after {self}"))?;
        Ok(self)
    }

    /// The last printed state of a map.
    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        output::map(&self.stdout, name)
    }

    /// Fails unless the map was last printed with exactly these entries; in the message both.
    pub fn expect_map<K: ToString, V: ToString>(&self, name: &str, expected: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        let (found, expected) = (self.map(name), output::entries(expected));
        ensure!(found == expected, "{name} is {found:?}, expected {expected:?}: {self}");
        Ok(())
    }

    /// Fails unless the map has this entry; others may be there.
    pub fn expect_entry(&self, name: &str, key: &str, value: impl ToString) -> Result<()> {
        let (found, value) = (self.map(name), value.to_string());
        ensure!(
            found.get(key) == Some(&value),
            "{name}[{key}] is {:?}, expected {value}: {self}",
            found.get(key)
        );
        Ok(())
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        write!(
            f,
            "`weir {}`: {end}\nstandard output:\n{}\nstandard error:\n{}",
            self.shown, self.stdout, self.stderr
        )
    }
}

/// A pipe that is read as it fills.
struct Capture {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    text: String,
    ended: bool,
    closed: bool,
}

impl Capture {
    fn of(pipe: impl Into<OwnedFd>) -> Self {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let mut file = File::from(pipe.into());
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            let mut pending = Vec::new();
            loop {
                let n = match read_unless_closed(&mut file, &mut buffer, &theirs.0) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => n,
                };
                pending.extend_from_slice(&buffer[..n]);
                // Whole characters only: a read may end inside one.
                let whole = match std::str::from_utf8(&pending) {
                    Ok(_) => pending.len(),
                    Err(e) if e.error_len().is_none() => e.valid_up_to(),
                    Err(_) => pending.len(),
                };
                let rest = pending.split_off(whole);
                theirs
                    .0
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .text
                    .push_str(&String::from_utf8_lossy(&pending));
                pending = rest;
                theirs.1.notify_all();
            }
            drop(file);
            theirs.0.lock().unwrap_or_else(|e| e.into_inner()).ended = true;
            theirs.1.notify_all();
        });
        Self { shared }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for more text, for the end, or for the time.
    fn wait_more(&self, time: Duration) {
        let state = self.lock();
        let seen = state.text.len();
        let _ = self.shared.1.wait_timeout_while(state, time, |s| s.text.len() == seen && !s.ended);
    }

    /// Closes our end and returns when it is closed.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let _ = self.shared.1.wait_timeout_while(state, patience(), |s| !s.ended);
    }

    /// All the text, when the other end is closed.
    fn finish(&mut self) -> String {
        let state = self.lock();
        let bound = Duration::from_secs(5);
        let (state, _) = self
            .shared
            .1
            .wait_timeout_while(state, bound, |s| !s.ended)
            .unwrap_or_else(|e| e.into_inner());
        state.text.clone()
    }
}

/// Reads some bytes; 0 at the end of the pipe, or when we have closed our side of it.
fn read_unless_closed(file: &mut File, buffer: &mut [u8], state: &Mutex<State>) -> std::io::Result<usize> {
    const LOOK_AGAIN_MS: u8 = 20;
    loop {
        let ready = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], LOOK_AGAIN_MS)?;
        if state.lock().unwrap_or_else(|e| e.into_inner()).closed {
            return Ok(0);
        }
        if ready > 0 {
            return file.read(buffer);
        }
    }
}
