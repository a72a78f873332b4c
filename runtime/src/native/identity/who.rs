//! Who is who now: which cgroups, interfaces and addresses belong to the identities of a policy.
//!
//! Input: the policy, the cgroup tree, `/proc`, kubelet's directory of pods. Output: plain data, gathered anew each time.

use super::policy::{Identity, Members};
use super::watch::Watch;
use crate::sys::cgroup::Cgroup2;
use crate::sys::netlink::Netlink;
use crate::sys::netns::{self, Netns};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use weir_compiler::hir::glob_match;

/// What belongs to identities, by their index in the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Everybody {
    /// By cgroup id.
    pub cgroups: BTreeMap<u64, usize>,
    /// Host sides of veths, by interface index.
    pub ifaces: BTreeMap<u32, usize>,
    pub addresses: Vec<BTreeSet<IpAddr>>,
    /// Cgroups that two identities claim: path, who has it, who does not get it.
    pub disputed: Vec<(String, usize, usize)>,
    /// Identities that nobody has now.
    pub nobody: Vec<usize>,
}

/// A pod that kubelet knows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    /// `NAMESPACE/NAME`
    name: String,
    uid: String,
}

/// Looks who is there. `netns` is where the interfaces are; what may change the answer is watched before it is looked at.
///
/// # Errors
/// When there is no cgroup v2.
pub fn look(identities: &[Identity], pods: &Path, netns: Option<&str>, watch: &mut Watch) -> Result<Everybody, String> {
    let tree = Cgroup2::get()?;
    watch.begin();
    let mut found = Everybody {
        addresses: vec![BTreeSet::new(); identities.len()],
        ..Everybody::default()
    };
    let pods = if identities.iter().any(|i| matches!(i.members, Members::Pod(_))) {
        watch.later(pods);
        let mut pods = pods_of(pods);
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        pods
    } else {
        Vec::new()
    };
    let mut by_uid: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if !pods.is_empty() {
        tree.walk("/", &mut |path, _| {
            watch.directory(&tree.directory(path));
            if let Some(uid) = uid_of(path) {
                by_uid.entry(uid).or_default().push(path.to_owned());
            }
        });
    }
    let here = netns_inode(netns);
    let mut namespaces: BTreeMap<u64, (u32, usize)> = BTreeMap::new();
    for (i, identity) in identities.iter().enumerate() {
        let paths: Vec<String> = match &identity.members {
            Members::Cgroup(pattern) => tree.search(pattern, &mut |dir| watch.directory(dir)),
            Members::Pod(pattern) => pods
                .iter()
                .filter(|pod| matches_pod(pattern, &pod.name))
                .flat_map(|pod| by_uid.get(&pod.uid).into_iter().flatten().cloned())
                .collect(),
        };
        if paths.is_empty() {
            found.nobody.push(i);
        }
        for path in paths {
            let Some(id) = tree.id(&path) else { continue };
            match found.cgroups.get(&id) {
                Some(first) if *first != i => {
                    found.disputed.push((path, *first, i));
                    continue;
                }
                _ => found.cgroups.insert(id, i),
            };
            tree.walk(&path, &mut |path, _| watch.cgroup(&tree.directory(path)));
            for pid in tree.processes(&path) {
                if let Some(inode) = namespace_of(pid).filter(|inode| Some(*inode) != here) {
                    namespaces.entry(inode).or_insert((pid, i));
                }
            }
        }
    }
    let opened: Vec<(Netns, usize)> = namespaces
        .into_values()
        .filter_map(|(pid, identity)| Some((Netns::open(&pid.to_string()).ok()?, identity)))
        .collect();
    let (cables, ids) = netns::run_in(netns, || (own_cables(), ids_of(&opened))).unwrap_or_default();
    for ((namespace, identity), id) in opened.iter().zip(ids) {
        let Ok(inside) = namespace.run(inside) else { continue };
        for (ifindex, (peer, _)) in inside.cables {
            // Numbers are only unique within a namespace, so our end must lead into this one.
            if id.is_some() && cables.get(&peer) == Some(&(ifindex, id)) {
                found.ifaces.insert(peer, *identity);
            }
        }
        found.addresses[*identity].extend(inside.addresses);
    }
    Ok(found)
}

/// Interfaces with the number of their other end, and the id of its namespace.
pub type Cables = BTreeMap<u32, (u32, Option<i32>)>;

/// What is in a pod's network namespace.
struct Inside {
    cables: Cables,
    addresses: Vec<IpAddr>,
}

fn inside() -> Inside {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|a| {
        let address = a.address?;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        // Everybody has these.
        let local = match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
        };
        (!local).then_some(ip)
    });
    Inside {
        addresses: addresses.collect(),
        cables: own_cables(),
    }
}

/// The veths of the current namespace.
fn own_cables() -> Cables {
    let links = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
    links
        .into_iter()
        .filter(|l| l.kind == "veth" || l.kind == "netkit")
        .map(|l| (l.ifindex, (l.lower, l.lower_netnsid)))
        .collect()
}

/// The ids that the current namespace has for others. The kernel has given one to each that a cable leads into, when it listed cables.
fn ids_of(namespaces: &[(Netns, usize)]) -> Vec<Option<i32>> {
    let mut netlink = Netlink::open().ok();
    let ids = namespaces
        .iter()
        .map(|(namespace, _)| netlink.as_mut()?.netns_id(namespace.fd().as_fd()).ok()?);
    ids.collect()
}

/// The veths of the namespace where the interfaces are.
pub fn cables(netns: Option<&str>) -> Cables {
    netns::run_in(netns, own_cables).unwrap_or_default()
}

fn netns_inode(netns: Option<&str>) -> Option<u64> {
    match netns {
        Some(name) => netns::identity(name).map(|(_, inode)| inode),
        None => fs::metadata("/proc/thread-self/ns/net").ok().map(|m| m.ino()),
    }
}

fn namespace_of(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|m| m.ino())
}

fn pods_of(directory: &Path) -> Vec<Pod> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|e| pod(&e.file_name().to_string_lossy())).collect()
}

/// `NAMESPACE_NAME_UID`; none of the three has an underscore in it.
fn pod(directory: &str) -> Option<Pod> {
    let mut parts = directory.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && !uid.is_empty()).then(|| Pod {
        name: format!("{namespace}/{name}"),
        uid: uid.to_owned(),
    })
}

/// The uid of the pod that a cgroup is for: `…/podUID` (cgroupfs driver) or `…-podUID.slice` with underscores (systemd driver).
fn uid_of(path: &str) -> Option<String> {
    let (above, last) = path.rsplit_once('/')?;
    if !above.contains("kubepods") && !last.contains("kubepods") {
        return None;
    }
    let last = last.strip_suffix(".slice").unwrap_or(last);
    let (before, uid) = last.rsplit_once("pod")?;
    // Not `kubepods` itself, whose `pod` is followed by an `s`.
    let is_start = before.is_empty() || before.ends_with('-');
    (is_start && uid.len() >= 8).then(|| uid.replace('_', "-"))
}

/// `NAMESPACE/NAME`, each a pattern of its own.
fn matches_pod(pattern: &str, name: &str) -> bool {
    match (pattern.split_once('/'), name.split_once('/')) {
        (Some((pattern_ns, pattern_name)), Some((ns, name))) => glob_match(pattern_ns, ns) && glob_match(pattern_name, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_told_by_their_directories() {
        let pod = pod("shop_web-7d4b9_0e9f6a1c-aaaa-bbbb-cccc-1234567890ab").unwrap();
        assert_eq!(
            (pod.name.as_str(), pod.uid.as_str()),
            ("shop/web-7d4b9", "0e9f6a1c-aaaa-bbbb-cccc-1234567890ab")
        );
        assert!(super::pod("containers").is_none());
        assert!(matches_pod("shop/web-*", &pod.name));
        assert!(matches_pod("*/web-7*", &pod.name));
        assert!(!matches_pod("*", &pod.name));
        assert!(!matches_pod("sh/web-*", &pod.name));
    }

    #[test]
    fn both_cgroup_drivers_are_understood() {
        let uid = Some("0e9f6a1c-aaaa-bbbb-cccc-1234567890ab".to_owned());
        for path in [
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0e9f6a1c_aaaa_bbbb_cccc_1234567890ab.slice",
            "/kubepods/besteffort/pod0e9f6a1c-aaaa-bbbb-cccc-1234567890ab",
        ] {
            assert_eq!(uid_of(path), uid, "{path}");
        }
        for path in [
            "/kubepods.slice",
            "/kubepods/besteffort",
            "/system.slice/podman-12345678.service",
            "/",
        ] {
            assert_eq!(uid_of(path), None, "{path}");
        }
    }
}
