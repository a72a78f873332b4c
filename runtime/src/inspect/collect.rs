//! Takes the picture: which program is where, in the order in which the kernel runs them.
//!
//! Order: tcx before clsact; in tcx as the kernel lists them; in clsact by chain and priority, and within one priority as the kernel
//! lists them, which is how it walks them (a filter added later comes first).

use super::netns::{self, Known};
use super::objects::{Objects, statistics_are_on};
use super::{Attachment, Hook, HookKind, Interface, Namespace, Node, Peer, Place, XdpMode, cgroups, findings};
use crate::sys::SysError;
use crate::sys::bpf::query::{self, HookTarget, LinkPlace};
use crate::sys::netlink::{IngressQdisc, Link, Netlink};
use std::os::fd::{AsFd, BorrowedFd};

const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const NETKIT_PRIMARY: u32 = 54;
const NETKIT_PEER: u32 = 55;
const FLOW_DISSECTOR: u32 = 17;
const SK_LOOKUP: u32 = 36;

/// What the picture shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only these interfaces; all when empty. With names, hooks that belong to no interface are left out.
    pub interfaces: Vec<String>,
    pub all_netns: bool,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Sys(#[from] SysError),
    #[error("no network interface `{name}`")]
    NoInterface { name: String, known: Vec<String> },
}

/// Takes the picture.
///
/// # Errors
/// Without CAP_SYS_ADMIN, or when a named interface is not there.
pub fn collect(scope: &Scope) -> Result<Node, Error> {
    let mut objects = Objects::read(true)?;
    let all = netns::all();
    let mut namespaces = Vec::new();
    for known in all.iter().filter(|k| scope.all_netns || k.is_own) {
        let work = || namespace(known, &all, scope, &mut objects);
        match known.netns.run(work) {
            Ok(Ok(namespace)) => namespaces.push(namespace),
            // Another namespace may go while we look; our own may not.
            Ok(Err(_)) | Err(_) if !known.is_own => {}
            Ok(Err(e)) | Err(e) => return Err(e.into()),
        }
    }
    for name in &scope.interfaces {
        if !namespaces.iter().flat_map(|n| &n.interfaces).any(|i| i.name == *name) {
            let known = Netlink::open()?.links()?;
            return Err(Error::NoInterface {
                name: name.clone(),
                known: known.into_iter().map(|l| l.name).collect(),
            });
        }
    }
    let whole = scope.interfaces.is_empty();
    let mut node = Node {
        cgroups: if whole { cgroups::read(&mut objects) } else { Vec::new() },
        netfilter: if whole { netfilter(&mut objects) } else { Vec::new() },
        namespaces,
        findings: Vec::new(),
        statistics: statistics_are_on(),
        owners_complete: objects.owners.complete,
    };
    node.findings = findings::judge(&node);
    // The judge wants to see those without; the reader does not, unless asked for by name.
    if whole {
        for namespace in &mut node.namespaces {
            namespace.interfaces.retain(|i| !i.hooks.is_empty());
        }
        node.namespaces
            .retain(|n| n.name.is_none() || !n.interfaces.is_empty() || !n.hooks.is_empty());
    } else {
        let is_named = |n: &Option<String>| n.as_ref().is_none_or(|n| scope.interfaces.contains(n));
        for namespace in &mut node.namespaces {
            namespace.interfaces.retain(|i| scope.interfaces.contains(&i.name));
        }
        node.namespaces.retain(|n| !n.interfaces.is_empty());
        node.findings.retain(|f| is_named(&f.interface));
    }
    Ok(node)
}

/// Looks at one namespace, from a thread inside.
fn namespace(known: &Known, all: &[Known], scope: &Scope, objects: &mut Objects) -> Result<Namespace, SysError> {
    let mut netlink = Netlink::open()?;
    let mut interfaces = Vec::new();
    for link in netlink.links()? {
        interfaces.push(interface(&mut netlink, &link, all, objects)?);
    }
    let hooks = if scope.interfaces.is_empty() {
        netns_hooks(known.netns.fd().as_fd(), known.inode, objects)
    } else {
        Vec::new()
    };
    Ok(Namespace {
        name: (!known.is_own).then(|| known.name.clone()),
        pod: known.pod.clone().filter(|_| !known.is_own),
        inode: known.inode,
        interfaces,
        hooks,
    })
}

fn interface(netlink: &mut Netlink, link: &Link, all: &[Known], objects: &mut Objects) -> Result<Interface, SysError> {
    let peer = peer(netlink, link, all);
    let who = peer.as_ref().map(Peer::who);
    let clsact = netlink.ingress_qdisc(link.ifindex, &link.name)? != IngressQdisc::Nothing;
    let mut hooks = Vec::new();
    let mut push = |hook, verb: &str, programs: Vec<Attachment>| {
        if !programs.is_empty() {
            let meaning = who.as_ref().map(|who| format!("what {who} {verb}"));
            hooks.push(Hook { hook, meaning, programs });
        }
    };
    push(HookKind::Xdp, "sends", xdp(link, objects));
    for (hook, verb, attach_type, ingress) in [
        (HookKind::Ingress, "sends", TCX_INGRESS, true),
        (HookKind::Egress, "receives", TCX_EGRESS, false),
    ] {
        let mut programs = by_query(HookTarget::Ifindex(link.ifindex), attach_type, &Place::Tcx, objects);
        if clsact {
            programs.extend(classifiers(netlink, link, ingress, objects)?);
        }
        push(hook, verb, programs);
    }
    if link.kind == "netkit" {
        for (hook, verb, attach_type) in [
            (HookKind::NetkitPrimary, "receives", NETKIT_PRIMARY),
            (HookKind::NetkitPeer, "sends", NETKIT_PEER),
        ] {
            push(
                hook,
                verb,
                by_query(HookTarget::Ifindex(link.ifindex), attach_type, &Place::Netkit, objects),
            );
        }
    }
    Ok(Interface {
        name: link.name.clone(),
        ifindex: link.ifindex,
        kind: link.kind.clone(),
        peer,
        clsact,
        hooks,
    })
}

/// Asks a hook that lists its own programs; nothing where the kernel does not know it.
fn by_query(target: HookTarget<'_>, attach_type: u32, at: &Place, objects: &mut Objects) -> Vec<Attachment> {
    let found = query::prog_query(target, attach_type, false).unwrap_or_default();
    let attachment = |p: &query::HookProgram| Attachment {
        at: at.clone(),
        link_id: (p.link_id != 0).then_some(p.link_id),
        program: objects.program(p.id).ok(),
    };
    found.programs.iter().map(attachment).collect()
}

fn classifiers(netlink: &mut Netlink, link: &Link, ingress: bool, objects: &mut Objects) -> Result<Vec<Attachment>, SysError> {
    let all = netlink.classifiers(link.ifindex, ingress, &link.name)?;
    let attachment = |c: crate::sys::netlink::Classifier| {
        let filter = c.filter;
        Attachment {
            at: Place::Clsact {
                priority: filter.priority,
                handle: filter.handle,
                chain: filter.chain,
                protocol: protocol(u16::from_be(filter.protocol_be)),
                direct_action: filter.direct_action,
                filter: filter.name,
                classifier: c.kind,
            },
            link_id: None,
            program: (filter.prog_id != 0).then(|| objects.program(filter.prog_id).ok()).flatten(),
        }
    };
    Ok(all.into_iter().map(attachment).collect())
}

/// Names an Ethernet protocol as `tc` does.
fn protocol(number: u16) -> String {
    match number {
        0x0003 => "all".to_owned(),
        0x0800 => "ip".to_owned(),
        0x0806 => "arp".to_owned(),
        0x86dd => "ipv6".to_owned(),
        0x8100 => "802.1Q".to_owned(),
        other => format!("{other:#06x}"),
    }
}

/// The XDP programs of an interface, a dispatcher's members after it.
fn xdp(link: &Link, objects: &mut Objects) -> Vec<Attachment> {
    let modes = [
        (link.xdp.native, XdpMode::Native),
        (link.xdp.generic, XdpMode::Generic),
        (link.xdp.offload, XdpMode::Offload),
    ];
    let mut all = Vec::new();
    for (id, mode) in modes.into_iter().filter(|(id, _)| *id != 0) {
        let held = objects
            .links
            .iter()
            .find(|l| l.prog_id == id && matches!(l.place, LinkPlace::Xdp { ifindex } if ifindex == link.ifindex));
        all.push(Attachment {
            at: Place::Xdp { mode },
            link_id: held.map(|l| l.id),
            program: objects.program(id).ok(),
        });
        let members: Vec<(u32, u32, u32)> = objects
            .links
            .iter()
            .filter_map(|l| match l.place {
                LinkPlace::Tracing { target_prog, target_func } if target_prog == id => Some((l.id, l.prog_id, target_func)),
                _ => None,
            })
            .collect();
        all.extend(dispatcher_members(id, members, objects));
    }
    all
}

/// libxdp's dispatcher calls its functions `prog0`, `prog1`, … in this order; each member replaces one of them.
fn dispatcher_members(dispatcher: u32, members: Vec<(u32, u32, u32)>, objects: &mut Objects) -> Vec<Attachment> {
    if members.is_empty() {
        return Vec::new();
    }
    let btf_id = query::by_id(query::ObjectKind::Program, dispatcher)
        .and_then(|fd| query::prog_details(fd.as_fd()))
        .map_or(0, |info| info.btf_id);
    let mut placed: Vec<(u32, u32, u32)> = members
        .into_iter()
        .filter_map(|(link, prog, func)| {
            let name = super::objects::whole_name(btf_id, Some(func))?;
            // A replaced function of another name is tracing's business, not libxdp's.
            Some((name.strip_prefix("prog")?.parse().ok()?, link, prog))
        })
        .collect();
    placed.sort_unstable();
    let attachment = |(position, link, prog): (u32, u32, u32)| Attachment {
        at: Place::XdpMember { dispatcher, position },
        link_id: Some(link),
        program: objects.program(prog).ok(),
    };
    placed.into_iter().map(attachment).collect()
}

/// Finds the other end of a veth or netkit, in whichever namespace it is.
fn peer(netlink: &mut Netlink, link: &Link, all: &[Known]) -> Option<Peer> {
    if !matches!(link.kind.as_str(), "veth" | "netkit") || link.lower == 0 {
        return None;
    }
    let name_of = |links: Vec<Link>| links.into_iter().find(|l| l.ifindex == link.lower).map(|l| l.name);
    let Some(nsid) = link.lower_netnsid else {
        return Some(Peer {
            interface: netlink.links().ok().and_then(name_of),
            namespace: None,
        });
    };
    let home = all
        .iter()
        .find(|k| netlink.netns_id(k.netns.fd().as_fd()).ok().flatten() == Some(nsid));
    let Some(home) = home else {
        return Some(Peer {
            interface: None,
            namespace: Some(format!("netns id {nsid}")),
        });
    };
    let links = home.netns.run(|| Netlink::open().and_then(|mut n| n.links()));
    let title = match &home.pod {
        Some(pod) => format!("pod {pod}"),
        None => format!("netns {}", home.name),
    };
    Some(Peer {
        interface: links.ok().and_then(Result::ok).and_then(name_of),
        namespace: Some(title),
    })
}

fn netns_hooks(netns: BorrowedFd<'_>, inode: u64, objects: &mut Objects) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for (hook, attach_type) in [(HookKind::SkLookup, SK_LOOKUP), (HookKind::FlowDissector, FLOW_DISSECTOR)] {
        let mut programs = by_query(HookTarget::Fd(netns), attach_type, &Place::Netns, objects);
        for attachment in &mut programs {
            let prog = attachment.program.as_ref().map_or(0, |p| p.id);
            attachment.link_id = objects
                .links
                .iter()
                .find(|l| {
                    l.prog_id == prog
                        && matches!(l.place, LinkPlace::Netns { inode: at, attach_type: kind }
                            if u64::from(at) == inode && kind == attach_type)
                })
                .map(|l| l.id);
        }
        if !programs.is_empty() {
            hooks.push(Hook {
                hook,
                meaning: None,
                programs,
            });
        }
    }
    hooks
}

/// Netfilter programs, by family, hook and priority, which is how they run.
fn netfilter(objects: &mut Objects) -> Vec<Attachment> {
    let mut found: Vec<(u32, u32, i32, u32, u32)> = objects
        .links
        .iter()
        .filter_map(|l| match l.place {
            LinkPlace::Netfilter { family, hook, priority } => Some((family, hook, priority, l.id, l.prog_id)),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    let attachment = |(family, hook, priority, link, prog): (u32, u32, i32, u32, u32)| Attachment {
        at: Place::Netfilter {
            family: match family {
                2 => "ip".to_owned(),
                10 => "ip6".to_owned(),
                other => format!("family {other}"),
            },
            hook: ["prerouting", "input", "forward", "output", "postrouting"]
                .get(hook as usize)
                .map_or_else(|| format!("hook {hook}"), |h| (*h).to_owned()),
            priority,
        },
        link_id: Some(link),
        program: objects.program(prog).ok(),
    };
    found.into_iter().map(attachment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_the_names_of_tc() {
        assert_eq!(protocol(0x0003), "all");
        assert_eq!(protocol(0x86dd), "ipv6");
        assert_eq!(protocol(0x88cc), "0x88cc");
    }
}
