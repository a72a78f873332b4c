//! One weir at a time changes the clsact qdiscs of a network namespace.
//!
//! The kernel cannot remove a qdisc "if nothing is in it": we look, then remove. A filter that another weir adds in between would go with
//! the qdisc; and who finds a qdisc whose maker has not yet put a filter into it would take it for somebody else's, and leave it.
//! The lock is on the namespace itself, so it leaves no file behind, and goes with whoever held it. It binds weirs only.

use crate::sys::netns;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// A turn takes milliseconds. Somebody who was stopped in the middle of one does not hold up the others for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Held while a qdisc is looked at and changed. Dropping it ends it.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "closing it is what it is for")] Option<File>);

impl Turn {
    /// Waits for the turn in the calling thread's network namespace. Never call it while holding one there.
    #[must_use]
    pub fn take() -> Self {
        let file = File::open(netns::HERE).ok();
        let end = Instant::now() + PATIENCE;
        while let Some(file) = &file {
            // SAFETY: a number, and a live descriptor.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 || Instant::now() > end {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Self(file)
    }
}
