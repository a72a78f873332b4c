//! The program on a terminal: keys go in, a model of the screen says what a person would see.
//!
//! Every wait has a bound; what was on the screen is in the error.

use crate::kernel::{self, Object};
use crate::patience;
use crate::weir::program;
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

pub const CTRL_C: &str = "\x03";
pub const CTRL_D: &str = "\x04";
pub const TAB: &str = "\t";
pub const UP: &str = "\x1b[A";

pub struct Terminal {
    child: Child,
    master: File,
    screen: vt100::Parser,
    /// Everything that came, for what has scrolled away.
    all: String,
    columns: u16,
    /// How the terminal was before the program started.
    modes: Termios,
    /// Bytes a second that the line to the screen carries, and when the next ones can come.
    line: Option<(f64, Instant)>,
    /// How far it has been looked for [`QUESTION`]s, which a terminal answers when it comes to them.
    asked: usize,
    /// Whether it does.
    answers: bool,
}

/// Asks a terminal how it is, and the answer of one that is well.
const QUESTION: &str = "\x1b[5n";
const ANSWER: &str = "\x1b[0n";

const SCROLLBACK: usize = 20_000;

impl Terminal {
    /// How wide it is at first.
    pub const COLUMNS: u16 = 100;

    /// Starts the program with these arguments; its state goes into the folder.
    ///
    /// # Errors
    /// No terminal, or no program.
    pub fn start(args: &[&str], state: &Path) -> Result<Self> {
        let (rows, columns) = (24, Self::COLUMNS);
        let size = winsize(rows, columns);
        let pty = openpty(&size, None).context("cannot make a terminal")?;
        // The program must not hold the other end of its own terminal: that would never hang up.
        for fd in [&pty.master, &pty.slave] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        let end = |fd: &OwnedFd| fd.try_clone();
        let mut command = Command::new(program()?);
        command
            .args(args)
            .env("TERM", "xterm-256color")
            .env("XDG_STATE_HOME", state)
            .env_remove("NO_COLOR")
            .stdin(end(&pty.slave)?)
            .stdout(end(&pty.slave)?)
            .stderr(end(&pty.slave)?);
        // SAFETY: both calls are async-signal-safe; descriptor 0 is the terminal.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let modes = tcgetattr(&pty.slave)?;
        let child = command.spawn().context("cannot start the program")?;
        Ok(Self {
            child,
            master: pty.master.into(),
            screen: vt100::Parser::new(cells(rows)?, cells(columns)?, SCROLLBACK),
            all: String::new(),
            columns,
            modes,
            line: None,
            asked: 0,
            answers: true,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From now on the line to the screen carries so many bytes a second.
    pub fn slow_line(&mut self, bytes_per_second: u32) {
        self.line = Some((f64::from(bytes_per_second), Instant::now()));
    }

    /// From now on it answers no question, as terminals do that are none.
    pub fn mute(&mut self) {
        self.answers = false;
    }

    /// Bytes that have come so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.all.len()
    }

    /// Whether the text stands on the screen in a colour of its own.
    pub fn is_coloured(&self, text: &str) -> bool {
        let screen = self.screen.screen();
        screen.rows(0, self.columns).enumerate().any(|(row, shown)| {
            let column = shown.find(text).map(|at| shown[..at].chars().count());
            let place = u16::try_from(row).ok().zip(column.and_then(|c| u16::try_from(c).ok()));
            place
                .and_then(|(row, column)| screen.cell(row, column))
                .is_some_and(|cell| cell.fgcolor() != vt100::Color::Default)
        })
    }

    /// The BPF objects that it holds now.
    pub fn objects(&self) -> BTreeSet<Object> {
        kernel::held_by(self.pid()).into_iter().collect()
    }

    /// Presses keys.
    ///
    /// # Errors
    /// The program has gone.
    pub fn keys(&mut self, keys: &str) -> Result<()> {
        self.master.write_all(keys.as_bytes()).context("nobody reads the keys")
    }

    /// Types a line and the return key.
    ///
    /// # Errors
    /// The program has gone.
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.keys(text)?;
        self.keys("\r")
    }

    /// What is on the screen, without trailing blanks.
    pub fn shown(&self) -> String {
        let text = self.screen.screen().contents();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    /// Everything that was printed, colours and cursor movements included.
    pub fn printed(&self) -> &str {
        &self.all
    }

    /// The line that the cursor is in.
    pub fn cursor_line(&self) -> String {
        let (row, _) = self.screen.screen().cursor_position();
        let text = self.screen.screen().rows(0, self.columns).nth(usize::from(row));
        text.unwrap_or_default().trim_end().to_owned()
    }

    /// Takes in what comes within the time; false when the program has closed the terminal.
    fn read(&mut self, time: Duration) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        if !matches!(poll(&mut fds, wait), Ok(n) if n > 0) {
            return true;
        }
        let mut buf = [0; 16384];
        // A slow line brings a twentieth of a second's worth at a time.
        let mut size = buf.len();
        if let Some((rate, next)) = &mut self.line {
            const SLICE: Duration = Duration::from_millis(50);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            *next = Instant::now() + SLICE;
            size = ((*rate * SLICE.as_secs_f64()) as usize).clamp(1, buf.len());
        }
        match self.master.read(&mut buf[..size]) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.screen.process(&buf[..n]);
                self.all.push_str(&String::from_utf8_lossy(&buf[..n]));
                self.answer();
                true
            }
        }
    }

    fn answer(&mut self) {
        while let Some(at) = self.all[self.asked..].find(QUESTION) {
            self.asked += at + QUESTION.len();
            if self.answers {
                // A program that has gone hears no answers.
                let _ = self.master.write_all(ANSWER.as_bytes());
            }
        }
    }

    /// Waits until the screen satisfies the question.
    ///
    /// # Errors
    /// It never did in time; the screen is in the error.
    pub fn wait(&mut self, what: &str, good: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience();
        while !good(self) {
            let open = self.read(Duration::from_millis(50));
            if !good(self) && (!open || Instant::now() > deadline) {
                bail!("{what} never came; the screen:\n{}\n", self.shown());
            }
        }
        Ok(())
    }

    /// Waits for a text on the screen.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        self.wait(&format!("`{text}`"), |t| t.shown().contains(text))
    }

    /// Waits until the prompt stands there with nothing behind it.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_prompt(&mut self) -> Result<()> {
        self.wait("the prompt", |t| t.cursor_line() == "weir>")
    }

    /// Makes the terminal larger or smaller.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        let size = winsize(rows, columns);
        // SAFETY: the ioctl reads a `winsize`, which is what the pointer is to.
        let answer = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        ensure!(answer == 0, "the terminal cannot be resized");
        self.columns = columns;
        self.screen.screen_mut().set_size(cells(rows)?, cells(columns)?);
        Ok(())
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// It has gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid() as i32), signal).context("cannot send the signal")
    }

    /// Waits until the program does something else than reading a line: while it edits one, it reads even Ctrl-C itself.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_busy(&mut self) -> Result<()> {
        self.wait("a moment between two prompts", |t| {
            tcgetattr(&t.master).is_ok_and(|m| m.local_flags.contains(LocalFlags::ISIG))
        })
    }

    /// Leaves at the prompt.
    ///
    /// # Errors
    /// It did not end in time, or something is left.
    pub fn left(mut self, objects: &BTreeSet<Object>) -> Result<ExitStatus> {
        self.wait_prompt()?;
        self.keys(CTRL_D)?;
        self.ended(objects)
    }

    /// Waits for the end and checks that none of the objects is left.
    ///
    /// # Errors
    /// It did not end in time, or something is left.
    pub fn ended(mut self, objects: &BTreeSet<Object>) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            self.read(Duration::from_millis(20));
            ensure!(Instant::now() < deadline, "it did not end; the screen:\n{}", self.shown());
        };
        kernel::assert_gone(objects)?;
        // Who is killed can put nothing back.
        if status.code().is_some() {
            let modes = tcgetattr(&self.master)?;
            ensure!(modes == self.modes, "the terminal was {:?} and is {modes:?}", self.modes);
        }
        Ok(status)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cells(count: u16) -> Result<NonZero<u16>> {
    NonZero::new(count).context("a terminal has rows and columns")
}

fn winsize(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
