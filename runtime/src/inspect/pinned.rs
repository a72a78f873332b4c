//! Where objects are pinned: the BPF file systems of all namespaces of mounts.
//!
//! `ip netns exec` and containers have mounts of their own. What is pinned outside is pinned all the same; what is pinned in there is none
//! of this machine's named instances, whatever its folder is called.
//! Input: `/proc/*/mountinfo`, and what is mounted. A file system that other mounts cover for every process cannot be looked into.

use crate::sys::bpf::query::{self, ObjectKind};
use crate::sys::proc;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A place where an object is pinned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Pinned {
    /// Can be opened from here: what only another process sees begins with `/proc/PID/root`.
    pub path: String,
    /// The named instance of this machine that it belongs to, as in `weir status`.
    #[serde(skip)]
    pub instance: Option<String>,
}

/// A folder by whatever path: number of its file system, and inode.
type Inode = (u64, u64);

fn inode(folder: &Path) -> Option<Inode> {
    fs::metadata(folder).ok().map(|m| (m.dev(), m.ino()))
}

/// All pins that were found.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    found: BTreeMap<(u8, u32), BTreeSet<Pinned>>,
    /// What was read. By file system alone it is not told: of one, a mount may show a subfolder.
    folders: BTreeSet<Inode>,
    views: BTreeSet<View>,
    /// The folder of this machine's named instances.
    ours: Option<Inode>,
}

impl Pins {
    /// Begins with what this process sees.
    #[must_use]
    pub fn read() -> Self {
        let mut pins = Self {
            ours: crate::pin::ours().and_then(|dir| inode(&dir)),
            ..Self::default()
        };
        pins.read_mounts("self", "");
        pins
    }

    /// Adds what another process sees besides.
    pub fn add_process(&mut self, pid: u32) {
        self.read_mounts(&pid.to_string(), &format!("/proc/{pid}/root"));
    }

    /// `root` leads to where the process's paths begin.
    fn read_mounts(&mut self, process: &str, root: &str) {
        let Some(view) = View::of(process).filter(|v| !self.views.contains(v)) else {
            return;
        };
        let Ok(mounts) = fs::read(format!("/proc/{process}/mountinfo")) else {
            return;
        };
        let mut all = self.clone();
        for mount in bpf_mounts(&String::from_utf8_lossy(&mounts)) {
            all.read_folder(&PathBuf::from(format!("{root}{}", mount.folder)), mount.device, None);
        }
        // If it has ended meanwhile, its paths lead nowhere, and another process has to show what is there.
        if View::of(process).as_ref() == Some(&view) {
            all.views.insert(view);
            *self = all;
        }
    }

    /// Reads a folder, unless something else covers it.
    fn read_folder(&mut self, folder: &Path, device: u64, instance: Option<&str>) {
        let Some(here) = inode(folder).filter(|(found, _)| *found == device) else {
            return;
        };
        if !self.folders.insert(here) {
            return;
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let instance = if self.ours == Some(here) { Some(name.as_str()) } else { instance };
                self.read_folder(&entry.path(), device, instance);
            } else if kind.is_file() {
                self.add(&entry.path(), instance);
            }
        }
    }

    fn add(&mut self, path: &Path, instance: Option<&str>) {
        let Ok((kind, fd)) = query::by_pin(path) else { return };
        let mut add = |kind: ObjectKind, id| {
            self.found.entry((kind as u8, id)).or_default().insert(Pinned {
                path: path.display().to_string(),
                instance: instance.map(str::to_owned),
            });
        };
        match kind {
            ObjectKind::Program => {
                if let Ok(info) = query::prog_details(fd.as_fd()) {
                    add(kind, info.id);
                }
            }
            ObjectKind::Map => {
                if let Ok(info) = query::map_details(fd.as_fd()) {
                    add(kind, info.info.id);
                }
            }
            ObjectKind::Link => {
                if let Ok(info) = query::link_details(fd.as_fd()) {
                    add(kind, info.id);
                    add(ObjectKind::Program, info.prog_id);
                }
            }
            ObjectKind::Btf => {}
        }
    }

    /// Returns where an object is pinned.
    #[must_use]
    pub fn of(&self, kind: ObjectKind, id: u32) -> Vec<Pinned> {
        self.found.get(&(kind as u8, id)).into_iter().flatten().cloned().collect()
    }
}

/// What a process sees of mounts: those of its namespace that are below its root, which `chroot` moves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct View {
    namespace: PathBuf,
    /// The mount that its root is in, and the inode there: a folder that is mounted twice has one inode.
    root: (u64, u64),
}

impl View {
    /// Nothing when it has ended, or we may not look at it.
    fn of(process: &str) -> Option<Self> {
        let namespace = fs::read_link(format!("/proc/{process}/ns/mnt")).ok()?;
        let mut open = fs::OpenOptions::new();
        let root = open
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(format!("/proc/{process}/root"))
            .ok()?;
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", root.as_raw_fd())).ok()?;
        let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()?;
        Some(Self {
            namespace,
            root: (mount, root.metadata().ok()?.ino()),
        })
    }
}

/// A mount of a BPF file system, or of a folder in one.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: u64,
    folder: String,
}

/// The BPF file systems in a `/proc/PID/mountinfo` file.
fn bpf_mounts(mountinfo: &str) -> impl Iterator<Item = Mount> {
    mountinfo.lines().filter_map(|line| {
        // `ID PARENT MAJOR:MINOR ROOT FOLDER OPTIONS [FIELD…] - TYPE SOURCE OPTIONS`
        let (mount, system) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(2);
        let (major, minor) = words.next()?.split_once(':')?;
        let folder = proc::unescaped(words.nth(1)?);
        let device = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
        system.starts_with("bpf ").then_some(Mount { device, folder })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_file_systems_are_found() {
        let text = "26 25 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
                    34 26 0:29 / /sys/fs/bpf rw shared:11 - bpf bpf rw,mode=700\n\
                    35 26 0:300 /a /mnt/with\\040blank rw - bpf none rw\n";
        let mount = |minor, folder: &str| Mount {
            device: libc::makedev(0, minor),
            folder: folder.into(),
        };
        assert_eq!(
            bpf_mounts(text).collect::<Vec<_>>(),
            [mount(29, "/sys/fs/bpf"), mount(300, "/mnt/with blank")]
        );
    }

    #[test]
    fn a_view_is_known_again() {
        assert!(View::of("self").is_some());
        assert_eq!(View::of("self"), View::of(&std::process::id().to_string()));
    }
}
