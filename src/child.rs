//! `-c CMD` and `-p PID`: a process of the user's whose life bounds the run.
//!
//! A command is started at once, so that the script knows its process id, and held until everything is attached, so that
//! nothing of it is missed.

use crate::render::Failure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{AccessFlags, ForkResult, Pid, access, fork, pipe2};
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A command that waits for its start.
pub struct Child {
    pid: Pid,
    /// Writing a byte lets it run; closing the pipe ends it.
    hold: Arc<Mutex<Option<std::fs::File>>>,
}

impl Child {
    /// Forks the command and holds it.
    ///
    /// # Errors
    /// It cannot be understood, found, or started.
    pub fn start(command: &str) -> Result<Self, Failure> {
        if command.trim().is_empty() {
            return Err(Failure::new("`-c` takes a command, found nothing").help("`-c \"sleep 1\"`"));
        }
        let words = shlex::split(command).filter(|w| !w.is_empty());
        let words =
            words.ok_or_else(|| Failure::new(format!("`{command}` is no command")).help("quotes must be closed: `-c \"sleep 1\"`"))?;
        let program = find(&words[0])?;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Failure::new("a command has no NUL bytes"));
        let path = text(program.as_os_str().as_bytes())?;
        let args = words.iter().map(|w| text(w.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let failure = |e: Errno| Failure::new(format!("cannot start `{command}`: {e}"));
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(failure)?;
        // SAFETY: nothing has started a thread yet; the child calls only async-signal-safe functions before `exec`.
        match unsafe { fork() }.map_err(failure)? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                hold: Arc::new(Mutex::new(Some(writer.into()))),
            }),
            ForkResult::Child => {
                drop(writer);
                // SAFETY: numbers only. The command goes when we are killed, and hears of a closed pipe and a full file as others do.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                    libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                    libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
                }
                let mut byte = [0u8];
                // SAFETY: the buffer is as long as it is said to be.
                let n = unsafe { libc::read(reader.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
                if n == 1 {
                    let _ = nix::unistd::execv(&path, &args);
                }
                // SAFETY: ends this process, without running what the parent has registered.
                unsafe { libc::_exit(127) }
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// What lets it run.
    pub fn release(&self) -> impl Fn() + Send + Sync + 'static {
        let hold = Arc::clone(&self.hold);
        move || {
            if let Some(mut pipe) = hold.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = pipe.write_all(&[1]);
            }
        }
    }

    /// Ends it if it still runs; says how it ended.
    pub fn end(self) -> String {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner).take();
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                let _ = kill(self.pid, Signal::SIGTERM);
                "was sent SIGTERM".to_owned()
            }
            Ok(WaitStatus::Exited(_, code)) => format!("exited with code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("was ended by {signal}"),
            Ok(_) | Err(_) => "is gone".to_owned(),
        }
    }
}

/// Finds a program as the shell does.
fn find(name: &str) -> Result<PathBuf, Failure> {
    let runs = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if name.contains('/') {
        let path = PathBuf::from(name);
        return if runs(&path) {
            Ok(path)
        } else if path.exists() {
            Err(Failure::new(format!("`{name}` cannot be executed")))
        } else {
            Err(Failure::new(format!("there is no program `{name}`")))
        };
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| runs(path));
    found.ok_or_else(|| Failure::new(format!("there is no program `{name}` in PATH")))
}

/// Opens a handle on a process that becomes readable when the process ends.
///
/// # Errors
/// There is no such process.
pub fn watch(pid: u32) -> Result<OwnedFd, Failure> {
    // SAFETY: the call takes two integers and returns a descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just given us this descriptor.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => match Errno::last() {
            Errno::ESRCH => Err(Failure::new(format!("there is no process {pid}"))),
            // A thread's id is none of a process.
            Errno::EINVAL | Errno::ENOENT => {
                Err(Failure::new(format!("{pid} is no process")).help("give the process id, not that of a thread"))
            }
            errno => Err(Failure::new(format!("cannot watch process {pid}: {errno}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_the_shell_finds_them() {
        assert!(find("sh").unwrap().ends_with("sh"));
        assert_eq!(find("/bin/sh").unwrap(), PathBuf::from("/bin/sh"));
        assert_eq!(
            find("no-such-program").unwrap_err().message,
            "there is no program `no-such-program` in PATH"
        );
        assert_eq!(
            find("/etc/hostname-not").unwrap_err().message,
            "there is no program `/etc/hostname-not`"
        );
        assert!(find("/etc/passwd").unwrap_err().message.contains("cannot be executed"));
    }

    #[test]
    fn a_process_that_is_not_there_cannot_be_watched() {
        assert!(watch(std::process::id()).is_ok());
        assert!(watch(4_190_000).unwrap_err().message.contains("there is no process"));
    }
}
