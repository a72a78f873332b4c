//! When it is worth looking who there is: something has happened to cgroups, pods or interfaces.
//!
//! Looking costs some system calls for each cgroup, and there may be thousands. The kernel tells of directories that come and go and of
//! cgroups that get their first process or lose their last; what it does not tell (a process that enters another network namespace)
//! is mostly done right after one of these, and found at the latest when some seconds have gone.

use super::who::Cables;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::path::Path;
use std::time::{Duration, Instant};

/// Looks after a change, about a second apart.
const AFTER_CHANGE: u32 = 3;
/// Without any change, so often.
const AT_LEAST: Duration = Duration::from_secs(10);
/// Of the time, looking may take one part in so many.
const SHARE: u32 = 20;

/// Hears of changes.
#[derive(Debug)]
pub struct Watch {
    /// None where the kernel has no more of them.
    inotify: Option<Inotify>,
    /// Everything that matters is watched.
    is_complete: bool,
    /// Looks that a change has left to do.
    again: u32,
    /// As of the last look.
    cables: Cables,
    last: Instant,
    not_before: Instant,
}

impl Watch {
    pub fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let now = Instant::now();
        Self {
            is_complete: inotify.is_some(),
            inotify,
            again: AFTER_CHANGE,
            cables: Cables::new(),
            last: now,
            not_before: now,
        }
    }

    /// Somebody begins to look, and watches anew: again is the same.
    pub fn begin(&mut self) {
        self.is_complete = self.inotify.is_some();
    }

    fn add(&mut self, path: &Path, flags: AddWatchFlags) {
        let Some(inotify) = &self.inotify else { return };
        match inotify.add_watch(path, flags) {
            // What has gone meanwhile has told so to whoever watches the directory above.
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENODEV) => {}
            // No more watches: then looking is the only way.
            Err(_) => self.is_complete = false,
        }
    }

    /// Wants to hear of what comes and goes in a directory.
    pub fn directory(&mut self, path: &Path) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        self.add(path, flags);
    }

    /// As [`Self::directory`], for one that need not be there yet.
    pub fn later(&mut self, path: &Path) {
        self.directory(path);
        // Its coming is told by nobody.
        self.is_complete &= path.is_dir();
    }

    /// Wants to hear of what comes and goes in a cgroup, and whether anybody is in it.
    pub fn cgroup(&mut self, path: &Path) {
        self.directory(path);
        self.add(&path.join("cgroup.events"), AddWatchFlags::IN_MODIFY);
    }

    /// Whether somebody should look now.
    pub fn is_due(&mut self, now: Instant, cables: Cables) -> bool {
        let mut changed = cables != self.cables;
        self.cables = cables;
        if let Some(inotify) = &self.inotify {
            // Which ones does not matter, and a queue that was too short is a change, too.
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {
                changed = true;
            }
        }
        if changed {
            self.again = AFTER_CHANGE;
        }
        now >= self.not_before && (self.again > 0 || !self.is_complete || now.duration_since(self.last) >= AT_LEAST)
    }

    /// Somebody has looked, which took so long.
    pub fn looked(&mut self, now: Instant, took: Duration) {
        self.again = self.again.saturating_sub(1);
        self.last = now;
        self.not_before = now + took.saturating_mul(SHARE).min(AT_LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cables(ifindices: &[u32]) -> Cables {
        ifindices.iter().map(|i| (*i, (i + 1, Some(0)))).collect()
    }

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("weir-watch-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Looks as often as after a change, and returns how often that was.
    fn looks(watch: &mut Watch, now: &mut Instant, seconds: u32) -> u32 {
        let mut looks = 0;
        for _ in 0..seconds {
            *now += SECOND;
            if watch.is_due(*now, cables(&[1])) {
                watch.looked(*now, Duration::ZERO);
                looks += 1;
            }
        }
        looks
    }

    #[test]
    fn nothing_is_looked_at_while_nothing_changes() {
        let dir = Folder::new();
        let (mut watch, mut now) = (Watch::new(), Instant::now());
        watch.directory(&dir.0);
        assert_eq!(looks(&mut watch, &mut now, 5), AFTER_CHANGE, "at the start");
        assert_eq!(looks(&mut watch, &mut now, 5), 0);
        std::fs::create_dir(dir.0.join("pod")).unwrap();
        assert_eq!(looks(&mut watch, &mut now, 5), AFTER_CHANGE, "something came");
        std::fs::remove_dir(dir.0.join("pod")).unwrap();
        assert_eq!(looks(&mut watch, &mut now, 5), AFTER_CHANGE, "something went");
        assert!(watch.is_due(now + SECOND, cables(&[1, 3])), "an interface came");
        assert_eq!(looks(&mut watch, &mut now, 4), AFTER_CHANGE, "and went");
        assert_eq!(looks(&mut watch, &mut now, 40), 4, "now and then all the same");
    }

    #[test]
    fn without_watches_it_is_always_time_but_not_for_more_than_its_share() {
        let (mut watch, mut now) = (Watch::new(), Instant::now());
        watch.is_complete = false;
        assert_eq!(looks(&mut watch, &mut now, 8), 8);
        watch.looked(now, Duration::from_millis(200));
        assert_eq!(looks(&mut watch, &mut now, 3), 0);
        assert_eq!(looks(&mut watch, &mut now, 1), 1);
    }
}
