//! How large a terminal is.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Rows and columns of the terminal that a descriptor is; `None` when it is none, or does not know.
#[must_use]
pub fn size(fd: BorrowedFd<'_>) -> Option<(usize, usize)> {
    // SAFETY: all zero is a valid `winsize`.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the ioctl writes a `winsize` to the pointer, which is one.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_row > 0 && size.ws_col > 0).then(|| (usize::from(size.ws_row), usize::from(size.ws_col)))
}
