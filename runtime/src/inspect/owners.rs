//! Who keeps a BPF object alive: processes with a descriptor, and pins.
//!
//! Input: `/proc/*/fd`, `/proc/*/fdinfo`, and [`Pins`]. A program that hangs on an interface without either is nobody's: the interface
//! alone keeps it.

use super::pinned::{Pinned, Pins};
use crate::sys::bpf::query::{self, ObjectKind};
use crate::sys::proc;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

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
    pins: Pins,
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
            pins: Pins::read(),
            ..Self::default()
        };
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>()
                && pid != std::process::id()
            {
                all.read_process(pid);
                all.pins.add_process(pid);
            }
        }
        all
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

    /// Returns the processes that hold an object.
    #[must_use]
    pub fn processes(&self, kind: ObjectKind, id: u32) -> Vec<Owner> {
        self.processes.get(&(code(kind), id)).into_iter().flatten().cloned().collect()
    }

    /// Returns where an object is pinned.
    #[must_use]
    pub fn pins(&self, kind: ObjectKind, id: u32) -> Vec<Pinned> {
        self.pins.of(kind, id)
    }
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
    fn links_name_their_program() {
        let text = "pos:\t0\nflags:\t02000002\nlink_type:\ttcx\nlink_id:\t7\nprog_tag:\t0011\nprog_id:\t12\nifindex:\t3\n";
        assert_eq!(ids_in_fdinfo(text), [(ObjectKind::Link, 7), (ObjectKind::Program, 12)]);
        assert_eq!(ids_in_fdinfo("link_type:\titer\nprog_id:\t0\n"), []);
    }
}
