//! The terminal between two prompts.
//!
//! While a line is being typed the terminal is raw; before and after that it is as the editor found it. Were that the canonical mode of a shell,
//! the kernel would edit what is typed while a command runs: Ctrl-D would become a mark that is a NUL byte later, Ctrl-R, Ctrl-V and
//! Ctrl-W would be gone, and what is typed would be shown in the middle of the output. So for the whole session keys are kept as they are for the next
//! prompt, and only those that send signals mean something.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use std::io;
use std::sync::OnceLock;

/// The user's terminal, and that of the session.
static MODES: OnceLock<(libc::termios, libc::termios)> = OnceLock::new();

/// The terminal of a session. Dropping it gives the user theirs back.
pub struct Tty {
    old: Termios,
}

impl Tty {
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter() -> nix::Result<Self> {
        let old = tcgetattr(io::stdin())?;
        let mut session = old.clone();
        session.local_flags &= !(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::IEXTEN);
        session.local_flags |= LocalFlags::ISIG;
        session.input_flags &= !(InputFlags::ICRNL | InputFlags::INLCR | InputFlags::IGNCR | InputFlags::IXON);
        session.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        session.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        let _ = MODES.set((old.clone().into(), session.clone().into()));
        let action = SigAction::new(SigHandler::Handler(suspend), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler makes only async-signal-safe calls, and reads what is never written again.
        unsafe { sigaction(Signal::SIGTSTP, &action) }?;
        tcsetattr(io::stdin(), SetArg::TCSANOW, &session)?;
        Ok(Self { old })
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.old);
    }
}

/// Ctrl-Z: the shell gets its terminal while we are stopped.
extern "C" fn suspend(_: libc::c_int) {
    let Some((old, session)) = MODES.get() else { return };
    let set = |mode: &libc::termios| {
        // SAFETY: the call reads a `termios`, which is what the pointer is to.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, mode) };
    };
    set(old);
    let _ = raise(Signal::SIGSTOP);
    set(session);
}
