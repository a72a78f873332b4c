//! One weir at a time changes the clsact qdiscs of a network namespace.
//!
//! The kernel cannot remove a qdisc "if nothing is in it": we look, then remove. A filter that another weir adds in between would go with
//! the qdisc; and who finds a qdisc whose maker has not yet put a filter into it would take it for somebody else's, and leave it.
//! The lock is on the namespace itself, so it leaves no file behind, and goes with whoever held it. It binds weirs only, and whoever can see
//! the namespace can take it, without any privilege: it is waited for once, and then done without.

use crate::sys::netns;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A turn takes milliseconds. Somebody who was stopped in the middle of one does not hold up the others for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Namespaces, by device and inode, whose turn somebody held for longer: nobody in this process waits there until it is free again.
static HELD: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// Held while a qdisc is looked at and changed. Dropping it ends it.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "closing it is what it is for")] Option<File>);

impl Turn {
    /// Waits for the turn in the calling thread's network namespace. Never call it while holding one there.
    #[must_use]
    pub fn take() -> Self {
        let file = File::open(netns::HERE).ok();
        if let Some(file) = &file {
            wait(file, PATIENCE);
        }
        Self(file)
    }
}

/// Returns whether the lock on this file is ours now.
fn wait(file: &File, patience: Duration) -> bool {
    let held = || HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(meta) = file.metadata() else { return false };
    let identity = (meta.dev(), meta.ino());
    let end = Instant::now() + patience;
    loop {
        // SAFETY: a number, and a live descriptor.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            held().remove(&identity);
            return true;
        }
        let may_change = matches!(io::Error::last_os_error().raw_os_error(), Some(libc::EWOULDBLOCK | libc::EINTR));
        if !may_change || held().contains(&identity) {
            return false;
        }
        if Instant::now() > end {
            held().insert(identity);
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_does_not_let_go_is_waited_for_once() {
        let path = std::env::temp_dir().join(format!("weir-turn-{}", std::process::id()));
        let holder = File::create(&path).unwrap();
        let open = || File::open(&path).unwrap();
        let patience = Duration::from_millis(300);
        assert!(wait(&holder, patience));
        let timed = |patience| {
            let start = Instant::now();
            (wait(&open(), patience), start.elapsed())
        };
        let (ours, first) = timed(patience);
        assert!(!ours && first >= patience, "{first:?}");
        // An hour would show.
        assert!(!timed(Duration::from_secs(3600)).0);
        drop(holder);
        assert!(timed(patience).0);
        // Whoever comes next is new.
        let holder = open();
        assert!(wait(&holder, patience));
        let (ours, again) = timed(patience);
        assert!(!ours && again >= patience, "{again:?}");
        std::fs::remove_file(&path).unwrap();
    }
}
