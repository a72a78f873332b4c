//! The only place of the command that writes. Data goes to standard output, everything else to standard error.

use crate::render::Failure;
use std::io::{ErrorKind, Write};

/// Writes data. A reader that has gone (`weir -l | head`) is no error.
///
/// # Errors
/// When standard output cannot be written.
pub fn stdout(text: &str) -> Result<(), Failure> {
    stdout_is_read(text).map(drop)
}

/// Writes data, and returns whether somebody still reads it.
///
/// # Errors
/// When standard output cannot be written.
pub fn stdout_is_read(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::new(format!("cannot write to standard output: {e}"))),
    }
}

/// Writes a message. There is nobody left to tell when that fails.
pub fn stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
