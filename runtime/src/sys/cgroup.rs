//! The cgroup v2 hierarchy, wherever it is mounted, or mounted privately.
//!
//! Paths count from its root and start with `/`; the root is `/` alone.

use super::{mount, proc};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use weir_compiler::hir::{glob_match, is_glob};

/// `CGROUP2_SUPER_MAGIC`
const MAGIC: i64 = 0x6367_7270;
/// Where the hierarchy is on most systems: alone, or beside the old ones. What people write although it may be mounted elsewhere.
const USUAL: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// The hierarchy.
#[derive(Debug)]
pub struct Cgroup2 {
    /// A path that leads to its root.
    root: PathBuf,
    /// Where it is mounted for all to see.
    mounted: Option<String>,
    /// Keeps a private mount.
    _private: Option<OwnedFd>,
}

impl Cgroup2 {
    /// Finds it, once.
    ///
    /// # Errors
    /// Why it is not to be had, in one line.
    pub fn get() -> Result<&'static Self, String> {
        static HIERARCHY: OnceLock<Result<Cgroup2, String>> = OnceLock::new();
        HIERARCHY.get_or_init(Self::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Self, String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        // Something else may have been mounted over it since.
        if let Some(mounted) = mount_points(&mounts).find(|m| is_cgroup2(m)) {
            return Ok(Self {
                root: PathBuf::from(&mounted),
                mounted: Some(mounted),
                _private: None,
            });
        }
        let private = mount::private(c"cgroup2").map_err(|e| match e.raw_os_error() {
            Some(libc::ENODEV) => "this kernel has no cgroup v2 (CONFIG_CGROUPS is not set)".to_owned(),
            Some(libc::EPERM) => "cgroup v2 is not mounted, and mounting it takes CAP_SYS_ADMIN".to_owned(),
            _ => format!("cgroup v2 is not mounted and cannot be: {e}"),
        })?;
        Ok(Self {
            root: PathBuf::from(format!("/proc/self/fd/{}", private.as_raw_fd())),
            mounted: None,
            _private: Some(private),
        })
    }

    /// The last word of the mount point, as bpftrace prints it in front of paths.
    #[must_use]
    pub fn name(&self) -> &str {
        let mounted = self.mounted.as_deref().unwrap_or("cgroup");
        mounted.rsplit('/').next().unwrap_or(mounted)
    }

    /// A path as people write it, from the root of the hierarchy or of the file system, as one from the root of the hierarchy.
    #[must_use]
    pub fn normal(&self, path: &str) -> String {
        let below = self
            .mounted
            .as_deref()
            .into_iter()
            .chain(USUAL)
            .find_map(|mount| path.strip_prefix(mount).filter(|rest| rest.is_empty() || rest.starts_with('/')));
        let parts = below.unwrap_or(path).split('/').filter(|p| !p.is_empty() && *p != ".");
        format!("/{}", parts.collect::<Vec<_>>().join("/"))
    }

    /// Returns a path that leads to the directory of a cgroup.
    #[must_use]
    pub fn directory(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Opens the directory of a cgroup.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn open_dir(&self, path: &str) -> io::Result<OwnedFd> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(self.directory(path))?;
        Ok(file.into())
    }

    /// Makes a cgroup; a `0` written to the file that is returned puts its writer into it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn make(&self, path: &str) -> io::Result<File> {
        std::fs::create_dir(self.directory(path))?;
        File::options().write(true).open(self.directory(path).join("cgroup.procs"))
    }

    /// Removes a cgroup without processes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_dir(self.directory(path))
    }

    /// Returns the id of a cgroup: the inode number of its directory.
    #[must_use]
    pub fn id(&self, path: &str) -> Option<u64> {
        let meta = std::fs::metadata(self.directory(&self.normal(path))).ok()?;
        meta.is_dir().then(|| meta.ino())
    }

    /// Finds the cgroups that a pattern names; `*` stays within one directory.
    #[must_use]
    pub fn find(&self, pattern: &str) -> Vec<String> {
        self.search(pattern, &mut |_| {})
    }

    /// The same, for those who want to hear of changes: `visit` gets every directory before it is looked into.
    pub fn search(&self, pattern: &str, visit: &mut dyn FnMut(&Path)) -> Vec<String> {
        let pattern = self.normal(pattern);
        let mut found = vec![String::new()];
        for part in pattern.split('/').filter(|p| !p.is_empty()) {
            // Never up: the hierarchy ends at its root.
            if part == ".." {
                return Vec::new();
            }
            let literal = !is_glob(part);
            for path in &found {
                visit(&self.directory(path));
            }
            found = found
                .into_iter()
                .flat_map(|path| {
                    let names = if literal { vec![part.to_owned()] } else { self.children(&path) };
                    names
                        .into_iter()
                        .filter(|name| literal || glob_match(part, name))
                        .map(move |name| format!("{path}/{name}"))
                })
                .filter(|path| self.directory(path).is_dir())
                .collect();
        }
        found.into_iter().map(|p| if p.is_empty() { "/".to_owned() } else { p }).collect()
    }

    fn children(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Returns the processes of a cgroup and of all below it, as this process's pid namespace numbers them.
    #[must_use]
    pub fn processes(&self, path: &str) -> Vec<u32> {
        let mut pids = Vec::new();
        self.walk(path, &mut |path, _| {
            let text = std::fs::read_to_string(self.directory(path).join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()).filter(|pid| *pid != 0));
        });
        pids
    }

    /// Visits a cgroup and all below it, with their ids.
    pub fn walk(&self, path: &str, visit: &mut dyn FnMut(&str, u64)) {
        let Ok(meta) = std::fs::metadata(self.directory(path)) else {
            return;
        };
        visit(path, meta.ino());
        let above = path.trim_end_matches('/');
        for name in self.children(path) {
            self.walk(&format!("{above}/{name}"), visit);
        }
    }
}

/// The places where a mount table has cgroup v2.
fn mount_points(mounts: &str) -> impl Iterator<Item = String> + '_ {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let place = fields.nth(1)?;
        (fields.next() == Some("cgroup2")).then(|| proc::unescaped(place))
    })
}

fn is_cgroup2(path: &str) -> bool {
    nix::sys::statfs::statfs(Path::new(path)).is_ok_and(|s| s.filesystem_type().0 == MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_count_from_the_root_of_the_hierarchy() {
        let at = |mounted: Option<&str>| Cgroup2 {
            root: PathBuf::from("/x"),
            mounted: mounted.map(str::to_owned),
            _private: None,
        };
        for (written, normal) in [
            ("/", "/"),
            ("system.slice", "/system.slice"),
            ("/system.slice/a.service/", "/system.slice/a.service"),
            ("/mnt/cg", "/"),
            ("/mnt/cg/a//b", "/a/b"),
            ("/mnt/cgroups", "/mnt/cgroups"),
            ("/sys/fs/cgroup/unified/a", "/a"),
            ("/sys/fs/cgroup/a", "/a"),
        ] {
            assert_eq!(at(Some("/mnt/cg")).normal(written), normal, "{written}");
        }
        assert_eq!(at(None).normal("/sys/fs/cgroup/a"), "/a");
    }

    #[test]
    fn mount_tables() {
        let table = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nx /a\\040b cgroup2 rw 0 0\n";
        assert_eq!(mount_points(table).collect::<Vec<_>>(), ["/sys/fs/cgroup/unified", "/a b"]);
    }
}
