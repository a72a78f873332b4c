//! Who keeps a BPF object alive: processes with a descriptor, and pins.
//!
//! Input: `/proc/*/fd`, `/proc/*/fdinfo`, the mounted BPF file systems. A program that hangs on an interface without either is
//! nobody's: the interface alone keeps it.

use crate::sys::bpf::query::{self, ObjectKind};
use crate::sys::proc;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Inode of the first pid namespace (`PROC_PID_INIT_INO`): from there all processes can be seen.
const INIT_PID_NAMESPACE: u64 = 0xefff_fffc;

/// A process that holds an object open, directly or by a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Owner {
    pub pid: u32,
    pub command: String,
}

/// All holders of all objects at one moment.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    processes: BTreeMap<(u8, u32), BTreeSet<Owner>>,
    pins: BTreeMap<(u8, u32), BTreeSet<String>>,
    /// Whether every process could be looked into.
    pub complete: bool,
}

fn code(kind: ObjectKind) -> u8 {
    kind as u8
}

impl Owners {
    /// Looks at all processes but our own, and at all pins.
    #[must_use]
    pub fn read() -> Self {
        let mut all = Self {
            complete: proc::pid_namespace() == INIT_PID_NAMESPACE,
            ..Self::default()
        };
        let mut seen = Seen::default();
        all.read_mounts("self", &mut seen);
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>()
                && pid != std::process::id()
            {
                all.read_process(pid);
                all.read_mounts(&pid.to_string(), &mut seen);
            }
        }
        if let Some(dir) = crate::pin::hidden_folder() {
            all.read_pins(&dir, "");
        }
        all
    }

    /// Reads the BPF file systems that a process sees and that were not read before. `ip netns exec` and containers have mounts of their
    /// own: what is pinned outside is pinned all the same.
    fn read_mounts(&mut self, process: &str, seen: &mut Seen) {
        let Ok(namespace) = fs::read_link(format!("/proc/{process}/ns/mnt")) else {
            return;
        };
        if !seen.namespaces.insert(namespace) {
            return;
        }
        let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
        for (device, dir) in bpf_mounts(&mounts) {
            let root = if process == "self" {
                String::new()
            } else {
                format!("/proc/{process}/root")
            };
            // One that is covered by another mount cannot be read here, but perhaps elsewhere.
            if !seen.devices.contains(device) && fs::read_dir(format!("{root}{dir}")).is_ok() {
                seen.devices.insert(device.to_owned());
                self.read_pins(Path::new(&format!("{root}{dir}")), &root);
            }
        }
    }

    fn read_process(&mut self, pid: u32) {
        let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(list) => list,
            Err(e) => {
                // A process that has ended holds nothing.
                self.complete &= e.kind() == std::io::ErrorKind::NotFound;
                return;
            }
        };
        let mut owner = None;
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            if query::kind_of_target(&target.to_string_lossy()).is_none() {
                continue;
            }
            let number = descriptor.file_name();
            let Ok(text) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy())) else {
                continue;
            };
            let owner: &Owner = owner.get_or_insert_with(|| Owner {
                pid,
                command: fs::read_to_string(format!("/proc/{pid}/comm"))
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
            });
            // A link's text names its program, too.
            for (kind, id) in ids_in_fdinfo(&text) {
                self.processes.entry((code(kind), id)).or_default().insert(owner.clone());
            }
        }
    }

    /// `root` is what the process that sees the pins does not see of their paths.
    fn read_pins(&mut self, dir: &Path, root: &str) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                self.read_pins(&path, root);
                continue;
            }
            let Ok((kind, fd)) = query::by_pin(&path) else { continue };
            let mut add = |kind, id| {
                let text = path.display().to_string();
                let text = text.strip_prefix(root).unwrap_or(&text).to_owned();
                self.pins.entry((code(kind), id)).or_default().insert(text);
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
    }

    /// Returns the processes that hold an object.
    #[must_use]
    pub fn processes(&self, kind: ObjectKind, id: u32) -> Vec<Owner> {
        self.processes.get(&(code(kind), id)).into_iter().flatten().cloned().collect()
    }

    /// Returns the paths under which an object is pinned.
    #[must_use]
    pub fn pins(&self, kind: ObjectKind, id: u32) -> Vec<String> {
        self.pins.get(&(code(kind), id)).into_iter().flatten().cloned().collect()
    }
}

/// What was looked at already.
#[derive(Default)]
struct Seen {
    namespaces: BTreeSet<PathBuf>,
    /// File systems, by number.
    devices: BTreeSet<String>,
}

/// The BPF file systems in a `/proc/PID/mountinfo` file: number of the device, and folder.
fn bpf_mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &str)> {
    mountinfo.lines().filter_map(|line| {
        // `ID PARENT MAJOR:MINOR ROOT FOLDER OPTIONS [FIELD…] - TYPE SOURCE OPTIONS`
        let (mount, system) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(2);
        let (device, dir) = (words.next()?, words.nth(1)?);
        system.starts_with("bpf ").then_some((device, dir))
    })
}

/// The ids in a `/proc/PID/fdinfo` file.
fn ids_in_fdinfo(text: &str) -> Vec<(ObjectKind, u32)> {
    const KEYS: [(&str, ObjectKind); 3] = [
        ("prog_id:", ObjectKind::Program),
        ("map_id:", ObjectKind::Map),
        ("link_id:", ObjectKind::Link),
    ];
    let id = |line: &str| {
        let (key, kind) = KEYS.into_iter().find(|(key, _)| line.starts_with(key))?;
        let id: u32 = line[key.len()..].trim().parse().ok()?;
        // A link of a kind without a program says 0.
        (id != 0).then_some((kind, id))
    };
    text.lines().filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_file_systems_are_found() {
        let text = "26 25 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n34 26 0:29 / /sys/fs/bpf rw shared:11 - bpf bpf rw,mode=700\n";
        assert_eq!(bpf_mounts(text).collect::<Vec<_>>(), [("0:29", "/sys/fs/bpf")]);
    }

    #[test]
    fn links_name_their_program() {
        let text = "pos:\t0\nflags:\t02000002\nlink_type:\ttcx\nlink_id:\t7\nprog_tag:\t0011\nprog_id:\t12\nifindex:\t3\n";
        assert_eq!(ids_in_fdinfo(text), [(ObjectKind::Link, 7), (ObjectKind::Program, 12)]);
        assert_eq!(ids_in_fdinfo("link_type:\titer\nprog_id:\t0\n"), []);
    }
}
