//! Which files have changed, by inotify.
//!
//! Input: paths. Output: those whose new content is complete. Folders are watched, not files, so that a file that is replaced by
//! another (`rename`, a symbolic link that is turned) is seen as well as one that is written in place; all folders on the way, since a
//! folder can be replaced, too (`current -> releases/7`). A file that somebody is writing is left alone until it is closed.

use crate::sys::{Result, SysError};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// Quiet time after the last event: several files, or a file that is taken away and put back, are one change.
const SETTLE: Duration = Duration::from_millis(50);
/// A file that has gone gets this long to come back before anybody is told.
const GONE: Duration = Duration::from_millis(500);
/// Whoever writes a file has it open for less than this, or somebody hears of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// As many symbolic links as the kernel follows on the way to a file.
const MOST_LINKS: usize = 40;
/// What is watched of a folder already stays watched.
const ADD: AddWatchFlags = AddWatchFlags::from_bits_retain(nix::libc::IN_MASK_ADD);

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// Every name on the way to it, symbolic links and what they point to included, with the folder that the name is in. The last is the
    /// file itself.
    way: Vec<(PathBuf, OsString)>,
    /// When its content may be read.
    due: Option<Instant>,
    /// Since when somebody has written and not closed it.
    writing: Option<Instant>,
    /// The same, of what [`Files::held_up`] has given and [`Files::changed`] has not yet.
    told: Option<Instant>,
}

/// A file that can be read now.
#[derive(Debug)]
pub(super) struct Changed {
    pub path: PathBuf,
    /// For how long it was written, if [`Files::held_up`] has given it.
    pub held_up: Option<Duration>,
}

/// Watches files.
#[derive(Debug)]
pub(super) struct Files {
    inotify: Inotify,
    folders: Vec<(WatchDescriptor, PathBuf)>,
    files: Vec<Watched>,
    patience: Duration,
}

fn failed(path: &Path, error: nix::errno::Errno) -> SysError {
    SysError::new("watch", path.display().to_string(), error.into())
}

/// Follows a path through all symbolic links, as [`Watched::way`] has it. `look` is called for every folder before the name in it is looked
/// at: what comes later than its watch is seen by the watch.
fn follow(path: &Path, mut look: impl FnMut(&Path)) -> Vec<(PathBuf, OsString)> {
    let backwards = |path: &Path| -> Vec<OsString> { path.components().rev().map(|c| c.as_os_str().to_owned()).collect() };
    let mut todo = backwards(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let mut at = PathBuf::from("/");
    let mut way = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match Path::new(&name).components().next() {
            Some(Component::Normal(_)) => {}
            Some(Component::ParentDir) => {
                at.pop();
                continue;
            }
            Some(Component::RootDir) => {
                at = PathBuf::from("/");
                continue;
            }
            _ => continue,
        }
        look(&at);
        let next = at.join(&name);
        way.push((at.clone(), name));
        match std::fs::read_link(&next) {
            Ok(target) if links < MOST_LINKS => {
                links += 1;
                todo.extend(backwards(&target));
            }
            _ => at = next,
        }
    }
    way
}

impl Files {
    /// Starts watching. A file need not exist, nor its folder.
    ///
    /// # Errors
    /// When there are no more inotify instances.
    pub fn new(paths: Vec<PathBuf>) -> Result<Self> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let mut files = Self {
            inotify: Inotify::init(flags).map_err(|e| failed(Path::new("files"), e))?,
            folders: Vec::new(),
            files: Vec::new(),
            patience: PATIENCE,
        };
        for path in paths {
            files.files.push(Watched {
                way: Vec::new(),
                path,
                due: None,
                writing: None,
                told: None,
            });
            files.resolve(files.files.len() - 1)?;
        }
        Ok(files)
    }

    /// Readable when [`Self::take_in`] has something to do.
    pub fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }

    /// Finds out where a file really is, and watches the folders on the way.
    fn resolve(&mut self, index: usize) -> Result<()> {
        let before: Vec<WatchDescriptor> = self.folders.iter().map(|(wd, _)| *wd).collect();
        let path = self.files[index].path.clone();
        let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO;
        // A folder on the way that may not be watched is not worth a failed start.
        let way = follow(&path, |folder| drop(self.watch(folder, names)));
        let content = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB;
        let watched = way.last().map_or(Ok(()), |(folder, _)| self.watch(folder, names | content));
        self.files[index].way = way;
        let files = &self.files;
        let is_on_a_way = |at: &PathBuf| files.iter().any(|f| f.way.iter().any(|(folder, _)| folder == at));
        self.folders.retain(|(_, at)| is_on_a_way(at));
        for wd in before {
            if !self.folders.iter().any(|(known, _)| *known == wd) {
                // Fails when the folder is gone, and the watch with it.
                let _ = self.inotify.rm_watch(wd);
            }
        }
        watched
    }

    fn watch(&mut self, folder: &Path, events: AddWatchFlags) -> Result<()> {
        // Another file may want more of the same folder.
        let watched = self.inotify.add_watch(folder, events | ADD);
        if matches!(watched, Ok(_) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR)) {
            // A watch stays with its folder when that is moved: what was here before is not here any more.
            self.folders.retain(|(_, at)| at != folder);
        }
        match watched {
            Ok(wd) => {
                self.folders.push((wd, folder.to_owned()));
                Ok(())
            }
            // Reading the file will say so.
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Ok(()),
            Err(e) => Err(failed(folder, e)),
        }
    }

    /// Takes in what has happened.
    pub fn take_in(&mut self) {
        let now = Instant::now();
        while let Ok(events) = self.inotify.read_events() {
            if events.is_empty() {
                return;
            }
            for event in events {
                let folders: Vec<PathBuf> = self
                    .folders
                    .iter()
                    .filter(|(wd, _)| *wd == event.wd)
                    .map(|(_, folder)| folder.clone())
                    .collect();
                for index in 0..self.files.len() {
                    let file = &mut self.files[index];
                    let is_elsewhere = match &event.name {
                        Some(name) => file.happened(&folders, name, event.mask, now),
                        None => file.lost(&folders, event.mask, now),
                    };
                    if is_elsewhere {
                        // It may be in a folder now that is not watched yet.
                        let _ = self.resolve(index);
                    }
                }
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.folders.retain(|(wd, _)| *wd != event.wd);
                }
            }
        }
    }

    /// When [`Self::changed`] or [`Self::held_up`] has something to give.
    pub fn due(&self) -> Option<Instant> {
        let patience = self.patience;
        let due = |f: &Watched| match f.writing {
            None => f.due,
            Some(since) => f.told.is_none().then(|| since + patience),
        };
        self.files.iter().filter_map(due).min()
    }

    /// Gives the files whose new content can be read now.
    pub fn changed(&mut self) -> Vec<Changed> {
        self.take_in();
        let now = Instant::now();
        let ready = self
            .files
            .iter_mut()
            .filter(|f| f.writing.is_none() && f.due.is_some_and(|due| due <= now));
        ready
            .map(|f| {
                f.due = None;
                Changed {
                    path: f.path.clone(),
                    held_up: f.told.take().map(|since| now.saturating_duration_since(since)),
                }
            })
            .collect()
    }

    /// Gives, once, each file that cannot be read because somebody has been writing it for long, and for how long.
    pub fn held_up(&mut self) -> Vec<(PathBuf, Duration)> {
        let now = Instant::now();
        let patience = self.patience;
        let tell = |f: &mut Watched| {
            let since = f.writing.filter(|since| f.told.is_none() && now >= *since + patience)?;
            f.told = Some(since);
            Some((f.path.clone(), now.saturating_duration_since(since)))
        };
        self.files.iter_mut().filter_map(tell).collect()
    }

    /// Whether a file has been touched again since [`Self::changed`] gave it: what was read meanwhile is not to be trusted.
    pub fn touched(&mut self, path: &Path) -> bool {
        self.take_in();
        self.files
            .iter()
            .any(|f| f.path == path && (f.writing.is_some() || f.due.is_some()))
    }
}

impl Watched {
    /// Takes in an event of a name in folders. Returns whether the way to the file may be another one now.
    fn happened(&mut self, folders: &[PathBuf], name: &OsStr, mask: AddWatchFlags, now: Instant) -> bool {
        let here = |(folder, at): &(PathBuf, OsString)| at == name && folders.contains(folder);
        let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO;
        let is_moved = mask.intersects(names) && self.way.iter().any(here);
        // The content of a folder on the way is nobody's content.
        if !is_moved && !self.way.last().is_some_and(here) {
            return false;
        }
        if mask.intersects(AddWatchFlags::IN_MODIFY) {
            self.writing = self.writing.or(Some(now));
            self.due = Some(now + SETTLE);
        } else if mask.intersects(AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO) {
            self.writing = None;
            // The first one counts: a file that is replaced all the time must be read all the same.
            self.due = Some(self.due.unwrap_or(now + SETTLE).min(now + SETTLE));
        } else if mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) {
            // What is gone is not read, after however long a time.
            (self.writing, self.told) = (None, None);
            self.due = Some(now + GONE);
        } else if mask.intersects(AddWatchFlags::IN_CREATE) {
            // A link or another name for a file has its content at once; a new file is still to be written.
            self.due = Some(now + GONE);
        } else {
            // `touch`: the same content counts as read again.
            self.due = self.due.or(Some(now + SETTLE));
        }
        is_moved
    }

    /// Takes in that events are missing, or that folders were unmounted. Returns whether that concerns this file: anything may have happened
    /// to it, and to the way to it.
    fn lost(&mut self, folders: &[PathBuf], mask: AddWatchFlags, now: Instant) -> bool {
        let is_unmounted = mask.contains(AddWatchFlags::IN_UNMOUNT) && self.way.iter().any(|(folder, _)| folders.contains(folder));
        let is_concerned = is_unmounted || mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
        if is_concerned {
            // Nobody will say again that it was closed.
            self.writing = None;
            if is_unmounted {
                self.told = None;
            }
            self.due = Some(self.due.unwrap_or(now + SETTLE).min(now + SETTLE));
        }
        is_concerned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-files-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// The files of the next change.
    fn next(files: &mut Files) -> Vec<PathBuf> {
        wait(files).into_iter().map(|changed| changed.path).collect()
    }

    /// Waits for the next change, at most two seconds.
    fn wait(files: &mut Files) -> Vec<Changed> {
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            files.take_in();
            let changed = files.changed();
            if !changed.is_empty() {
                return changed;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Vec::new()
    }

    #[test]
    fn a_written_a_replaced_and_a_touched_file_have_changed() {
        let folder = Folder::new("plain");
        let path = folder.0.join("list");
        std::fs::write(&path, "a").unwrap();
        let mut files = Files::new(vec![path.clone()]).unwrap();
        assert!(files.changed().is_empty());
        std::fs::write(&path, "b").unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&path));
        std::fs::write(folder.0.join("new"), "c").unwrap();
        std::fs::rename(folder.0.join("new"), &path).unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&path));
        std::fs::File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&path));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(next(&mut files), [path]);
    }

    #[test]
    fn a_file_that_is_being_written_waits_until_it_is_closed() {
        let folder = Folder::new("open");
        let path = folder.0.join("list");
        std::fs::write(&path, "a").unwrap();
        let mut files = Files::new(vec![path.clone()]).unwrap();
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        files.take_in();
        assert!(files.due().unwrap() > Instant::now() + SETTLE, "only somebody's patience ends");
        assert!(files.changed().is_empty() && files.touched(&path));
        drop(file);
        assert_eq!(next(&mut files), [path]);
    }

    #[test]
    fn a_file_that_is_written_for_long_is_told_once_and_when_it_is_read() {
        let folder = Folder::new("held");
        let (path, other) = (folder.0.join("list"), folder.0.join("other"));
        for path in [&path, &other] {
            std::fs::write(path, "a").unwrap();
        }
        let mut files = Files::new(vec![path.clone(), other.clone()]).unwrap();
        let patience = Duration::from_millis(200);
        files.patience = patience;
        let mut file = std::fs::File::create(&path).unwrap();
        let began = Instant::now();
        file.write_all(b"half").unwrap();
        files.take_in();
        assert!(files.held_up().is_empty());
        let due = files.due().unwrap();
        assert!(due >= began + patience);
        // More of it does not begin anew.
        std::thread::sleep(patience / 2);
        file.write_all(b" and more").unwrap();
        files.take_in();
        assert_eq!(files.due(), Some(due));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let held = files.held_up();
        assert!(matches!(&held[..], [(of, time)] if *of == path && *time >= patience), "{held:?}");
        file.write_all(b" still").unwrap();
        files.take_in();
        assert!(files.due().is_none() && files.held_up().is_empty());
        drop(file);
        let changed = wait(&mut files);
        assert!(changed[0].path == path && changed[0].held_up.unwrap() >= patience, "{changed:?}");
        // The next one is another story.
        std::fs::write(&path, "b").unwrap();
        let changed = wait(&mut files);
        assert!(changed[0].path == path && changed[0].held_up.is_none(), "{changed:?}");
    }

    #[test]
    fn a_file_that_is_written_for_long_and_removed_is_not_told_as_read() {
        let folder = Folder::new("aborted");
        let (path, aside) = (folder.0.join("list"), folder.0.join("aside"));
        std::fs::write(&path, "a").unwrap();
        let mut files = Files::new(vec![path.clone()]).unwrap();
        files.patience = Duration::ZERO;
        for remove in [true, false] {
            let mut file = std::fs::File::create(&path).unwrap();
            file.write_all(b"half").unwrap();
            files.take_in();
            assert_eq!(files.held_up().len(), 1);
            if remove {
                std::fs::remove_file(&path).unwrap();
            } else {
                std::fs::rename(&path, &aside).unwrap();
            }
            drop(file);
            let changed = wait(&mut files);
            assert!(changed[0].path == path && changed[0].held_up.is_none(), "{changed:?}");
        }
    }

    #[test]
    fn a_turned_link_to_a_folder_on_the_way_is_a_change() {
        let folder = Folder::new("release");
        for (name, text) in [("one", "a"), ("two", "b")] {
            std::fs::create_dir_all(folder.0.join(name).join("lists")).unwrap();
            std::fs::write(folder.0.join(name).join("lists/bad"), text).unwrap();
        }
        std::os::unix::fs::symlink("one", folder.0.join("current")).unwrap();
        let list = folder.0.join("current/lists/bad");
        let mut files = Files::new(vec![list.clone()]).unwrap();
        std::os::unix::fs::symlink("two", folder.0.join("new")).unwrap();
        std::fs::rename(folder.0.join("new"), folder.0.join("current")).unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&list));
        std::fs::write(folder.0.join("two/lists/bad"), "c").unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&list));
        // Where it was before is nobody's business any more.
        std::fs::write(folder.0.join("one/lists/bad"), "d").unwrap();
        files.take_in();
        assert_eq!(files.due(), None);
    }

    #[test]
    fn a_folder_that_is_replaced_or_comes_later_is_watched() {
        let folder = Folder::new("folder");
        let list = folder.0.join("a/b/list");
        let mut files = Files::new(vec![list.clone()]).unwrap();
        std::fs::create_dir_all(folder.0.join("a/b")).unwrap();
        std::fs::write(&list, "a").unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&list));
        std::fs::rename(folder.0.join("a"), folder.0.join("old")).unwrap();
        std::fs::create_dir_all(folder.0.join("a/b")).unwrap();
        std::fs::write(&list, "b").unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&list));
        std::fs::write(&list, "c").unwrap();
        assert_eq!(next(&mut files), [list]);
    }

    /// Makes so many events in a folder that the kernel leaves out those that come after them.
    fn flood(folder: &Path) {
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let (one, two) = (folder.join("flood.1"), folder.join("flood.2"));
        std::fs::write(&one, "").unwrap();
        // Each is two events.
        for _ in 0..=most.trim().parse::<usize>().unwrap() / 4 {
            std::fs::rename(&one, &two).unwrap();
            std::fs::rename(&two, &one).unwrap();
        }
    }

    #[test]
    fn what_is_lost_when_the_queue_overflows_is_looked_for() {
        let folder = Folder::new("overflow");
        for name in ["one", "two"] {
            std::fs::create_dir(folder.0.join(name)).unwrap();
            std::fs::write(folder.0.join(name).join("list"), name).unwrap();
        }
        let (list, current) = (folder.0.join("current/list"), folder.0.join("current"));
        std::os::unix::fs::symlink("one", &current).unwrap();
        let mut files = Files::new(vec![list.clone()]).unwrap();
        // That it is closed is lost.
        let mut file = std::fs::File::create(&list).unwrap();
        file.write_all(b"a").unwrap();
        files.take_in();
        assert!(files.due().unwrap() > Instant::now() + SETTLE);
        flood(&folder.0);
        drop(file);
        assert_eq!(next(&mut files), std::slice::from_ref(&list));
        // That the link is turned is lost.
        flood(&folder.0);
        std::os::unix::fs::symlink("two", folder.0.join("new")).unwrap();
        std::fs::rename(folder.0.join("new"), &current).unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&list));
        std::fs::write(folder.0.join("two/list"), "b").unwrap();
        assert_eq!(next(&mut files), [list]);
    }

    #[test]
    fn who_writes_in_a_folder_that_was_moved_away_holds_nothing_back() {
        let folder = Folder::new("moved");
        let (now, old) = (folder.0.join("a"), folder.0.join("old"));
        let list = now.join("list");
        std::fs::create_dir(&now).unwrap();
        std::fs::write(&list, "a").unwrap();
        let mut files = Files::new(vec![list.clone()]).unwrap();
        std::fs::rename(&now, &old).unwrap();
        files.take_in();
        let mut file = std::fs::File::options().append(true).open(old.join("list")).unwrap();
        file.write_all(b"b").unwrap();
        files.take_in();
        std::fs::create_dir(&now).unwrap();
        std::fs::write(&list, "c").unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&list));
        file.write_all(b"d").unwrap();
        assert!(!files.touched(&list));
        std::fs::write(&list, "e").unwrap();
        assert_eq!(next(&mut files), [list]);
    }

    #[test]
    fn what_is_not_on_the_way_any_more_is_not_watched() {
        let folder = Folder::new("turns");
        let current = folder.0.join("current");
        let turn = |name: &str| {
            std::fs::create_dir(folder.0.join(name)).unwrap();
            std::fs::write(folder.0.join(name).join("list"), name).unwrap();
            std::os::unix::fs::symlink(name, folder.0.join("new")).unwrap();
            std::fs::rename(folder.0.join("new"), &current).unwrap();
        };
        turn("0");
        let (list, other) = (current.join("list"), folder.0.join("0/list"));
        let mut files = Files::new(vec![list.clone(), other.clone()]).unwrap();
        let watches = |files: &Files| {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", files.as_raw_fd())).unwrap();
            info.lines().filter(|line| line.starts_with("inotify ")).count()
        };
        turn("1");
        assert_eq!(next(&mut files), std::slice::from_ref(&list));
        let first = watches(&files);
        for name in ["2", "3"] {
            turn(name);
            assert_eq!(next(&mut files), std::slice::from_ref(&list));
            assert_eq!(watches(&files), first);
        }
        // Another file's folder stays watched.
        std::fs::write(&other, "a").unwrap();
        assert_eq!(next(&mut files), [other]);
    }

    #[test]
    fn a_turned_link_is_a_change() {
        let folder = Folder::new("link");
        for (name, text) in [("one", "a"), ("two", "b")] {
            std::fs::create_dir(folder.0.join(name)).unwrap();
            std::fs::write(folder.0.join(name).join("list"), text).unwrap();
        }
        // As Kubernetes mounts a ConfigMap: list → data/list, data → one.
        let (list, data) = (folder.0.join("list"), folder.0.join("data"));
        std::os::unix::fs::symlink("one", &data).unwrap();
        std::os::unix::fs::symlink("data/list", &list).unwrap();
        let mut files = Files::new(vec![list.clone()]).unwrap();
        std::os::unix::fs::symlink("two", folder.0.join("data.new")).unwrap();
        std::fs::rename(folder.0.join("data.new"), &data).unwrap();
        assert_eq!(next(&mut files), std::slice::from_ref(&list));
        // The file behind the link is watched where it is now.
        std::fs::write(folder.0.join("two/list"), "c").unwrap();
        assert_eq!(next(&mut files), [list]);
    }
}
