//! Running other programs: with a readable error, and so that they never outlive us.
//!
//! Input: a [`Command`]. Output: its status or its captured standard output.

use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program and its arguments as one would type them, for error messages.
pub fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs the command with our own standard streams; an exit code other than 0 is an error.
pub fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs the command and returns its standard output; an exit code other than 0 is an error that carries its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !out.status.success() {
        bail!(
            "`{}` failed ({}): {}",
            shown(command),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Makes the kernel kill the child when the thread that starts it ends, however that happens.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: `prctl` is async-signal-safe and touches only the child.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        })
    }
}

/// Where a program is, searching `PATH` and the system directories that a plain user's `PATH` may lack.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].iter().map(PathBuf::from));
    dirs.map(|d| d.join(program)).find(|p| p.is_file())
}

/// The top of the repository: the folder above this crate.
pub fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is one folder below the top")
}

/// Shows on a terminal what long work is at, in place of what it was at before; nothing when empty. Before a row is printed, it goes.
pub fn progress(now: &str) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        // Who has closed the terminal does not look at it.
        let _ = write!(terminal, "\r\x1b[K{now}");
    }
}

/// An error that names the cure unless we run as root.
pub fn need_root(what: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{what} needs root: run it again with `sudo -E env \"PATH=$PATH\"` in front");
    }
    Ok(())
}
