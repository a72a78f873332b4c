//! Network namespaces: which there are, what to call them, who lives in them.

use crate::sys::netns::Netns;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

/// A network namespace that can be entered.
#[derive(Debug)]
pub struct Known {
    pub inode: u64,
    /// A name of `ip netns`, else `pid N`.
    pub name: String,
    pub pod: Option<String>,
    pub netns: Netns,
    pub is_own: bool,
}

/// Finds all network namespaces: ours first, then by name.
#[must_use]
pub fn all() -> Vec<Known> {
    let own = fs::metadata("/proc/thread-self/ns/net").map_or(0, |m| m.ino());
    let mut found: BTreeMap<u64, Known> = BTreeMap::new();
    let mut add = |path: &str, name: String, pod: &dyn Fn() -> Option<String>| {
        let Ok(meta) = fs::metadata(path) else { return };
        let known = found.get_mut(&meta.ino());
        if let Some(known) = known {
            // The first process that tells of a pod names it.
            if known.pod.is_none() {
                known.pod = pod();
            }
            return;
        }
        let Ok(file) = File::open(path) else { return };
        found.insert(
            meta.ino(),
            Known {
                inode: meta.ino(),
                netns: Netns::from_fd(file.into(), &name),
                name,
                pod: pod(),
                is_own: meta.ino() == own,
            },
        );
    };
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        add(&format!("/run/netns/{name}"), name, &|| None);
    }
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_string_lossy().parse().ok())
        .collect();
    pids.sort_unstable();
    for pid in pids {
        add(&format!("/proc/{pid}/ns/net"), format!("pid {pid}"), &|| pod_of(pid));
    }
    // A thread may be alone in its namespace.
    add("/proc/thread-self/ns/net", "own".to_owned(), &|| None);
    let mut all: Vec<Known> = found.into_values().collect();
    all.sort_by_key(|k| (!k.is_own, k.name.clone()));
    all
}

/// The pod of a process: Kubernetes gives every pod's processes a cgroup of its own, and the pod's name as host name.
fn pod_of(pid: u32) -> Option<String> {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    if !cgroup.contains("kubepods") {
        return None;
    }
    let name = fs::read_to_string(format!("/proc/{pid}/root/etc/hostname")).ok()?;
    Some(name.trim().to_owned()).filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_comes_first() {
        let all = all();
        assert!(all[0].is_own);
        assert!(all.iter().skip(1).all(|k| !k.is_own));
    }
}
