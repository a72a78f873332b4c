//! The terminal of a session, and who reads its keys.
//!
//! While a line is being typed every key is a key; while a command runs those that send signals do so. In neither case the kernel edits or echoes:
//! in the canonical mode of a shell Ctrl-D would become a mark that is a NUL byte later, Ctrl-R, Ctrl-V and Ctrl-W would be gone, and
//! what is typed would be shown in the middle of the output.
//!
//! One thread reads the user's terminal. It keeps what the terminal answers ([`super::pace`]), which is nobody's key, and hands on everything
//! else through a pseudo-terminal of our own, which is standard input for all others.

use super::pace::Pace;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{dup2_stdin, read};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The user's terminal as it was, while a command runs, and while a line is typed.
static TERMINAL: OnceLock<(OwnedFd, [libc::termios; 3])> = OnceLock::new();
const USERS: usize = 0;
const COMMAND: usize = 1;
const LINE: usize = 2;

/// A line is being typed.
static TYPED: AtomicBool = AtomicBool::new(false);

/// How long the beginning of what may be an answer is kept from whoever waits for keys, in milliseconds.
const HALF: u16 = 50;

/// The terminal of a session. Dropping it gives the user theirs back.
pub struct Tty(Arc<Pace>);

impl Tty {
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter(pace: &Arc<Pace>) -> nix::Result<Self> {
        // The kernel's own form: what is changed in nix's does not get into what it is made into.
        let old = libc::termios::from(tcgetattr(io::stdin())?);
        let mut command = old;
        command.c_lflag &= !(libc::ICANON | libc::ECHO | libc::IEXTEN);
        command.c_lflag |= libc::ISIG;
        command.c_iflag &= !(libc::ICRNL | libc::INLCR | libc::IGNCR | libc::IXON);
        command.c_cc[libc::VMIN] = 1;
        command.c_cc[libc::VTIME] = 0;
        let mut line = command;
        line.c_lflag &= !libc::ISIG;
        let users = io::stdin().as_fd().try_clone_to_owned().map_err(nix_error)?;
        let _ = TERMINAL.set((users, [old, command, line]));
        let action = SigAction::new(SigHandler::Handler(suspend), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler makes only async-signal-safe calls, and reads what is never written again.
        unsafe { sigaction(Signal::SIGTSTP, &action) }?;
        set(COMMAND);
        let tty = Self(Arc::clone(pace));
        // Without pseudo-terminals (a container without devpts) keys come straight from the user's, and nothing can be asked.
        let _ = tty.between(&line.into());
        Ok(tty)
    }

    /// Puts ourselves between the user's terminal and standard input.
    fn between(&self, modes: &Termios) -> io::Result<()> {
        let ours = openpty(None, Some(modes))?;
        let users = io::stdin().as_fd().try_clone_to_owned()?;
        // SAFETY: the flag is the descriptor's own, and programs that we start have no use for it.
        unsafe { libc::fcntl(ours.master.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        let pace = Arc::clone(&self.0);
        let keys = File::from(ours.master);
        std::thread::Builder::new()
            .name("weir-keys".to_owned())
            .spawn(move || read_keys(&users, keys, &pace))?;
        dup2_stdin(ours.slave.as_fd())?;
        self.0.listen();
        Ok(())
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.0.quiet();
        restore();
    }
}

fn nix_error(error: io::Error) -> nix::Error {
    nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// From here on keys that send signals are keys as all others, or are not.
pub fn typing(typed: bool) {
    TYPED.store(typed, Ordering::Release);
    set(if typed { LINE } else { COMMAND });
}

/// Gives the user their terminal as it was.
pub fn restore() {
    set(USERS);
}

fn set(mode: usize) {
    if let Some((fd, modes)) = TERMINAL.get() {
        // SAFETY: the call reads a `termios`, which is what the pointer is to.
        unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSANOW, &raw const modes[mode]) };
    }
}

/// Ctrl-Z: the shell gets its terminal while we are stopped.
extern "C" fn suspend(_: libc::c_int) {
    set(USERS);
    let _ = raise(Signal::SIGSTOP);
    set(if TYPED.load(Ordering::Acquire) { LINE } else { COMMAND });
}

/// Hands on keys until the terminal has gone, or nobody wants them.
fn read_keys(users: &OwnedFd, mut keys: File, pace: &Pace) {
    let mut answers = Answers::default();
    let mut bytes = [0; 1024];
    loop {
        let mut fds = [PollFd::new(users.as_fd(), PollFlags::POLLIN)];
        let time = if answers.0.is_empty() {
            PollTimeout::NONE
        } else {
            PollTimeout::from(HALF)
        };
        let more = match poll(&mut fds, time) {
            Ok(0) => std::mem::take(&mut answers.0),
            Ok(_) => match read(users, &mut bytes) {
                Ok(0) => return,
                Ok(n) if pace.asked() => {
                    let (keys, found) = answers.split(&bytes[..n]);
                    (0..found).for_each(|_| pace.answer());
                    keys
                }
                Ok(n) => [&std::mem::take(&mut answers.0), &bytes[..n]].concat(),
                Err(nix::Error::EINTR | nix::Error::EAGAIN) => continue,
                Err(_) => return,
            },
            Err(nix::Error::EINTR) => continue,
            Err(_) => return,
        };
        if !more.is_empty() {
            pace.key();
            if keys.write_all(&more).is_err() {
                return;
            }
        }
    }
}

/// The beginning of what may be an answer: `ESC [ 0 n`, or with a 3 from a terminal that is broken.
#[derive(Default)]
struct Answers(Vec<u8>);

impl Answers {
    /// What are keys, and how many answers there were.
    fn split(&mut self, bytes: &[u8]) -> (Vec<u8>, usize) {
        let (mut keys, mut found) = (Vec::new(), 0);
        for byte in bytes {
            self.0.push(*byte);
            match self.0.as_slice() {
                [0x1b] | [0x1b, b'['] | [0x1b, b'[', b'0' | b'3'] => {}
                [0x1b, b'[', _, b'n'] => {
                    found += 1;
                    self.0.clear();
                }
                _ => {
                    keys.append(&mut self.0);
                    if *byte == 0x1b {
                        keys.pop();
                        self.0.push(0x1b);
                    }
                }
            }
        }
        (keys, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_no_keys() {
        let mut answers = Answers::default();
        assert_eq!(answers.split(b"ab\x1b[0nc"), (b"abc".to_vec(), 1));
        // In pieces, between other sequences, and what only begins like one.
        assert_eq!(answers.split(b"\x1b["), (Vec::new(), 0));
        assert_eq!(answers.split(b"3n\x1b[A\x1b\x1b[0n\x1b[0;5H"), (b"\x1b[A\x1b\x1b[0;5H".to_vec(), 2));
        assert_eq!(answers.split(b"\x1b[0"), (Vec::new(), 0));
        assert_eq!(answers.0, b"\x1b[0");
    }
}
