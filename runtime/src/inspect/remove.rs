//! Removes one program from one place, after it has been shown.

use super::collect::{Error, Scope, collect};
use super::{Attachment, HookKind, Node, Objects, Place, XdpMode, netns};
use crate::sys::bpf::query::{self, HookTarget, LinkPlace, ObjectKind};
use crate::sys::cgroup::Cgroup2;
use crate::sys::netlink::{Filter, Netlink};
use crate::sys::{Result as SysResult, SysError};
use std::os::fd::AsFd;

const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const NETKIT_PRIMARY: u32 = 54;
const NETKIT_PEER: u32 = 55;
const FLOW_DISSECTOR: u32 = 17;

/// What is to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// A clsact filter of our own namespace.
    Filter {
        interface: String,
        ingress: bool,
        priority: u16,
        handle: Option<u32>,
    },
    /// A program wherever it is attached, in any namespace; or only on one interface of our own.
    Program { id: u32, interface: Option<String> },
}

/// One program at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Removal {
    /// `veth0 ingress`, `cgroup /system.slice`
    pub place: String,
    pub attachment: Attachment,
    /// What is on the hook then, in order.
    pub remaining: Vec<Attachment>,
    /// The links of which one may hold it: a link to XDP tells the interface's number and not its namespace, so two namespaces with one
    /// number cannot be told apart. Empty when it is clear.
    pub unclear: Vec<u32>,
    target: Target,
}

#[derive(Clone, Debug, PartialEq)]
enum Target {
    Interface {
        netns: u64,
        ifindex: u32,
        name: String,
        hook: HookKind,
    },
    Netns {
        netns: u64,
        hook: HookKind,
    },
    Cgroup {
        path: String,
    },
    Link,
}

/// What a selector names.
#[derive(Clone, Debug, PartialEq)]
pub struct Removals {
    pub found: Vec<Removal>,
    /// What is there instead, for the message when nothing was found.
    pub present: Vec<String>,
}

/// Finds what a selector names.
///
/// # Errors
/// As [`collect`].
pub fn select(selector: &Selector) -> Result<Removals, Error> {
    let scope = match selector {
        Selector::Filter { interface, .. }
        | Selector::Program {
            interface: Some(interface),
            ..
        } => Scope {
            interfaces: vec![interface.clone()],
            all_netns: false,
        },
        Selector::Program { interface: None, .. } => Scope {
            interfaces: Vec::new(),
            all_netns: true,
        },
    };
    let node = collect(&scope)?;
    let mut removals = Removals {
        found: Vec::new(),
        present: Vec::new(),
    };
    for (place, target, programs) in hooks(&node) {
        for (i, attachment) in programs.iter().enumerate() {
            let wanted = match (selector, &attachment.at, &target) {
                (
                    Selector::Filter {
                        ingress, priority, handle, ..
                    },
                    Place::Clsact {
                        priority: at,
                        handle: number,
                        classifier,
                        ..
                    },
                    Target::Interface { hook, .. },
                ) => {
                    let direction = if *ingress { HookKind::Ingress } else { HookKind::Egress };
                    if *hook == direction && classifier == "bpf" {
                        let name = attachment.program.as_ref().map_or_else(String::new, |p| format!(" (`{}`)", p.name));
                        removals.present.push(format!("priority {at} handle {number:#x}{name}"));
                    }
                    *hook == direction && classifier == "bpf" && at == priority && handle.is_none_or(|h| h == *number)
                }
                (Selector::Program { id, .. }, at, _) => {
                    attachment.program.as_ref().is_some_and(|p| p.id == *id) && !matches!(at, Place::Cgroup { from: Some(_), .. })
                }
                _ => false,
            };
            if wanted {
                let others = programs.iter().enumerate().filter(|(j, _)| *j != i);
                removals.found.push(Removal {
                    place: place.clone(),
                    attachment: attachment.clone(),
                    remaining: others.map(|(_, a)| a.clone()).collect(),
                    unclear: Vec::new(),
                    target: target.clone(),
                });
            }
        }
    }
    if removals.found.iter().any(|r| matches!(r.attachment.at, Place::Xdp { .. })) {
        find_links(&mut removals.found, &node, scope.all_netns)?;
    }
    Ok(removals)
}

/// Which link holds which of the XDP attachments.
fn find_links(found: &mut [Removal], node: &Node, is_whole: bool) -> Result<(), Error> {
    let everywhere;
    let node = if is_whole {
        node
    } else {
        everywhere = collect(&Scope {
            interfaces: Vec::new(),
            all_netns: true,
        })?;
        &everywhere
    };
    let xdp_at = |target: &Target, a: &Attachment| match (target, &a.at, &a.program) {
        (Target::Interface { ifindex, .. }, Place::Xdp { .. }, Some(program)) => Some((*ifindex, program.id)),
        _ => None,
    };
    let places: Vec<(u32, u32)> = hooks(node)
        .iter()
        .flat_map(|(_, target, programs)| programs.iter().filter_map(move |a| xdp_at(target, a)))
        .collect();
    let links = Objects::read(false)?.links;
    let keys: Vec<Option<(u32, u32)>> = found.iter().map(|r| xdp_at(&r.target, &r.attachment)).collect();
    for (i, key) in keys.iter().enumerate() {
        let Some(key) = key else { continue };
        let held: Vec<u32> = links
            .iter()
            .filter(|l| matches!(l.place, LinkPlace::Xdp { ifindex } if (ifindex, l.prog_id) == *key))
            .map(|l| l.id)
            .collect();
        let there = places.iter().filter(|p| *p == key).count();
        let wanted = keys.iter().filter(|k| k.as_ref() == Some(key)).count();
        if there <= 1 || held.is_empty() {
            continue;
        }
        if wanted == there && held.len() == there {
            // All of them go, so it does not matter which is where.
            let nth = keys[..i].iter().filter(|k| k.as_ref() == Some(key)).count();
            found[i].attachment.link_id = held.get(nth).copied();
        } else {
            found[i].unclear = held;
        }
    }
    Ok(())
}

/// All hooks of the picture with how to get at them. Programs of different kinds of hooks on one cgroup are apart.
fn hooks(node: &Node) -> Vec<(String, Target, Vec<Attachment>)> {
    let mut all = Vec::new();
    for namespace in &node.namespaces {
        let netns = namespace.inode;
        let within = namespace.title().map_or_else(String::new, |t| format!(" in {t}"));
        for interface in &namespace.interfaces {
            for hook in &interface.hooks {
                let target = Target::Interface {
                    netns,
                    ifindex: interface.ifindex,
                    name: interface.name.clone(),
                    hook: hook.hook,
                };
                let place = format!("{} {}{within}", interface.name, hook.hook.name());
                all.push((place, target, hook.programs.clone()));
            }
        }
        for hook in &namespace.hooks {
            let target = Target::Netns { netns, hook: hook.hook };
            all.push((format!("{}{within}", hook.hook.name()), target, hook.programs.clone()));
        }
    }
    for cgroup in &node.cgroups {
        let mut types: Vec<u32> = Vec::new();
        for attachment in &cgroup.programs {
            if let Place::Cgroup { raw_type, .. } = attachment.at
                && !types.contains(&raw_type)
            {
                types.push(raw_type);
            }
        }
        for wanted in types {
            let of_type = |a: &&Attachment| matches!(a.at, Place::Cgroup { raw_type, .. } if raw_type == wanted);
            let programs = cgroup.programs.iter().filter(of_type).cloned().collect();
            let target = Target::Cgroup { path: cgroup.path.clone() };
            all.push((format!("cgroup {}", cgroup.path), target, programs));
        }
    }
    for attachment in &node.netfilter {
        let same_hook = |a: &&Attachment| match (&a.at, &attachment.at) {
            (Place::Netfilter { family: f, hook: h, .. }, Place::Netfilter { family, hook, .. }) => f == family && h == hook,
            _ => false,
        };
        let programs: Vec<Attachment> = node.netfilter.iter().filter(same_hook).cloned().collect();
        // Once for each hook, at its first program.
        if programs.first() == Some(attachment) {
            all.push(("netfilter".to_owned(), Target::Link, programs));
        }
    }
    all
}

impl Removal {
    /// The link that the kernel goes on listing as if it were attached, after [`Self::run`]: netfilter's links do not tell that they have
    /// been detached, and exist as long as somebody holds them.
    #[must_use]
    pub fn still_listed(&self) -> Option<u32> {
        let id = self
            .attachment
            .link_id
            .filter(|_| matches!(self.attachment.at, Place::Netfilter { .. }))?;
        query::by_id(ObjectKind::Link, id).is_ok().then_some(id)
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the kernel says; when something else is there by now, nothing is removed.
    pub fn run(&self) -> SysResult<()> {
        let gone = |what: &str| SysError::new("find", what, std::io::Error::from_raw_os_error(libc::ENOENT));
        if let Some(link) = self.attachment.link_id {
            let link = query::by_id(ObjectKind::Link, link)?;
            return query::link_detach(&link);
        }
        let program = self.attachment.program.as_ref().ok_or_else(|| gone("the program"))?;
        let prog = query::by_id(ObjectKind::Program, program.id)?;
        match &self.target {
            Target::Interface {
                netns,
                ifindex,
                name,
                hook,
            } => {
                let known = netns::all();
                let known = known
                    .iter()
                    .find(|k| k.inode == *netns)
                    .ok_or_else(|| gone("the network namespace"))?;
                known.netns.run(|| match &self.attachment.at {
                    Place::Clsact { .. } => self.delete_filter(*ifindex, *hook == HookKind::Ingress, program.id, name),
                    Place::Xdp { mode } => {
                        let flag = match mode {
                            XdpMode::Generic => 1 << 1,
                            XdpMode::Native => 1 << 2,
                            XdpMode::Offload => 1 << 3,
                        };
                        Netlink::open()?.xdp_detach(*ifindex, flag, prog.as_fd(), name)
                    }
                    _ => {
                        let attach_type = match hook {
                            HookKind::Ingress => TCX_INGRESS,
                            HookKind::Egress => TCX_EGRESS,
                            HookKind::NetkitPrimary => NETKIT_PRIMARY,
                            _ => NETKIT_PEER,
                        };
                        query::prog_detach(HookTarget::Ifindex(*ifindex), attach_type, prog.as_fd(), &program.name)
                    }
                })?
            }
            Target::Netns { netns, hook } => {
                let known = netns::all();
                let known = known
                    .iter()
                    .find(|k| k.inode == *netns)
                    .ok_or_else(|| gone("the network namespace"))?;
                // Socket lookup has links only. A flow dissector is taken from the namespace of whoever asks, and the kernel wants no
                // target there.
                if *hook != HookKind::FlowDissector {
                    return Err(gone("the link"));
                }
                let detach = || query::prog_detach(HookTarget::Ifindex(0), FLOW_DISSECTOR, prog.as_fd(), &program.name);
                known.netns.run(detach)?
            }
            Target::Cgroup { path } => {
                let hierarchy = Cgroup2::get().map_err(|_| gone("the cgroup2 hierarchy"))?;
                let dir = hierarchy.open_dir(path).map_err(|e| SysError::new("open cgroup", path, e))?;
                let Place::Cgroup { raw_type, .. } = self.attachment.at else {
                    return Err(gone("the hook"));
                };
                query::prog_detach(HookTarget::Fd(dir.as_fd()), raw_type, prog.as_fd(), &program.name)
            }
            Target::Link => Err(gone("the link")),
        }
    }

    /// Deletes the filter if it still runs the program that was shown.
    fn delete_filter(&self, ifindex: u32, ingress: bool, prog_id: u32, iface: &str) -> SysResult<()> {
        let Place::Clsact {
            priority, handle, chain, ..
        } = self.attachment.at
        else {
            return Ok(());
        };
        let mut netlink = Netlink::open()?;
        let is_it = |f: &Filter| f.priority == priority && f.handle == handle && f.chain == chain && f.prog_id == prog_id;
        let filter = netlink.filters(ifindex, ingress, iface)?.into_iter().find(is_it);
        let filter = filter.ok_or_else(|| {
            SysError::new(
                "find the filter that was shown on",
                iface,
                std::io::Error::from_raw_os_error(libc::ENOENT),
            )
        })?;
        netlink.filter_delete(&filter, iface)
    }
}
