//! Which files have changed, by inotify.
//!
//! Input: paths. Output: those whose new content is complete. Folders are watched, not files, so that a file that is replaced by
//! another (`rename`, a symbolic link that is turned) is seen as well as one that is written in place. A file that somebody is
//! writing is left alone until it is closed.

use crate::sys::{Result, SysError};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Quiet time after the last event: several files, or a file that is taken away and put back, are one change.
const SETTLE: Duration = Duration::from_millis(50);
/// A file that has gone gets this long to come back before anybody is told.
const GONE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// Where it really is, through all symbolic links.
    real: Option<PathBuf>,
    /// When its content may be read.
    due: Option<Instant>,
    /// Somebody has written and not yet closed it.
    writing: bool,
}

/// Watches files.
#[derive(Debug)]
pub(super) struct Files {
    inotify: Inotify,
    folders: Vec<(WatchDescriptor, PathBuf)>,
    files: Vec<Watched>,
}

fn failed(path: &Path, error: nix::errno::Errno) -> SysError {
    SysError::new("watch", path.display().to_string(), error.into())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
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
        };
        for path in paths {
            files.files.push(Watched {
                real: None,
                path,
                due: None,
                writing: false,
            });
            files.resolve(files.files.len() - 1)?;
        }
        Ok(files)
    }

    /// Readable when [`Self::take_in`] has something to do.
    pub fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }

    /// Finds out where a file really is, and watches the folders on both ends of the link. Returns whether it has moved.
    fn resolve(&mut self, index: usize) -> Result<bool> {
        let path = self.files[index].path.clone();
        let real = std::fs::canonicalize(&path).ok();
        self.watch(folder_of(&path))?;
        if let Some(real) = &real {
            self.watch(folder_of(real))?;
        }
        let moved = self.files[index].real != real;
        self.files[index].real = real;
        Ok(moved)
    }

    fn watch(&mut self, folder: &Path) -> Result<()> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO;
        match self.inotify.add_watch(folder, flags) {
            Ok(wd) => {
                if !self.folders.iter().any(|(known, at)| *known == wd && at == folder) {
                    self.folders.push((wd, folder.to_owned()));
                }
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
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    self.files.iter_mut().for_each(|f| f.due = Some(now + SETTLE));
                    continue;
                }
                let Some(name) = event.name else { continue };
                let folders: Vec<PathBuf> = self
                    .folders
                    .iter()
                    .filter(|(wd, _)| *wd == event.wd)
                    .map(|(_, folder)| folder.clone())
                    .collect();
                for index in 0..self.files.len() {
                    if self.files[index].is_at(&folders, &name) {
                        self.files[index].happened(event.mask, now);
                        // In a folder that may not be watched yet.
                        let _ = self.resolve(index);
                    } else if self.resolve(index).unwrap_or(false) {
                        // A link on the way to it was turned.
                        self.files[index].due = Some(now + SETTLE);
                    }
                }
            }
        }
    }

    /// When [`Self::changed`] has something to give.
    pub fn due(&self) -> Option<Instant> {
        self.files.iter().filter(|f| !f.writing).filter_map(|f| f.due).min()
    }

    /// Gives the files whose new content can be read now.
    pub fn changed(&mut self) -> Vec<PathBuf> {
        self.take_in();
        let now = Instant::now();
        let ready = self.files.iter_mut().filter(|f| !f.writing && f.due.is_some_and(|due| due <= now));
        ready
            .map(|f| {
                f.due = None;
                f.path.clone()
            })
            .collect()
    }

    /// Whether a file has been touched again since [`Self::changed`] gave it: what was read meanwhile is not to be trusted.
    pub fn touched(&mut self, path: &Path) -> bool {
        self.take_in();
        self.files.iter().any(|f| f.path == path && (f.writing || f.due.is_some()))
    }
}

impl Watched {
    fn is_at(&self, folders: &[PathBuf], name: &OsStr) -> bool {
        let here = |path: &Path| path.file_name() == Some(name) && folders.iter().any(|f| f == folder_of(path));
        here(&self.path) || self.real.as_deref().is_some_and(here)
    }

    fn happened(&mut self, mask: AddWatchFlags, now: Instant) {
        if mask.intersects(AddWatchFlags::IN_MODIFY) {
            self.writing = true;
            self.due = Some(now + SETTLE);
        } else if mask.intersects(AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO) {
            self.writing = false;
            // The first one counts: a file that is replaced all the time must be read all the same.
            self.due = Some(self.due.unwrap_or(now + SETTLE).min(now + SETTLE));
        } else if mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) {
            self.writing = false;
            self.due = Some(now + GONE);
        } else if mask.intersects(AddWatchFlags::IN_CREATE) {
            // A link or another name for a file has its content at once; a new file is still to be written.
            self.due = Some(now + GONE);
        } else {
            // `touch`: the same content counts as read again.
            self.due = self.due.or(Some(now + SETTLE));
        }
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

    /// Waits for the next change, at most two seconds.
    fn next(files: &mut Files) -> Vec<PathBuf> {
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
        assert_eq!(files.due(), None);
        assert!(files.touched(&path));
        drop(file);
        assert_eq!(next(&mut files), [path]);
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
