//! What BPF is on this machine's network, whoever put it there: gathered into plain data, judged, and removed on demand.
//!
//! Input: the running kernel. Output: [`Node`], one picture of it, ready for a table or for JSON; dumps of maps.
//! It renders nothing and decides nothing: that is the binary's.

mod cgroups;
mod collect;
mod findings;
pub mod maps;
mod netns;
mod objects;
mod owners;
mod pinned;
mod pressure;
mod remove;
mod returns;
pub mod typed;

pub use collect::{Error, Scope, collect};
pub use findings::{Finding, FindingKind};
pub use maps::{Dump, MapState, PRESSURE_PERCENT};
pub use objects::{Objects, Program, statistics_are_on};
pub use owners::{Owner, Owners};
pub use pinned::Pinned;
pub use remove::{Removal, Removals, Selector, select};

use serde::Serialize;

/// One picture of a machine's network BPF.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Node {
    pub namespaces: Vec<Namespace>,
    /// Hooks of cgroups, each cgroup after its parent.
    pub cgroups: Vec<Cgroup>,
    /// Netfilter programs of all namespaces: their links do not say in which one they are.
    pub netfilter: Vec<Attachment>,
    pub findings: Vec<Finding>,
    /// Whether the kernel counts runs of programs now.
    pub statistics: bool,
    /// Whether all processes could be looked into; if not, "nobody" may be somebody else's process.
    pub owners_complete: bool,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Namespace {
    /// A name of `ip netns`, else `pid N`; nothing for the one that weir runs in.
    pub name: Option<String>,
    /// The pod that lives in it, where that can be told.
    pub pod: Option<String>,
    pub inode: u64,
    pub interfaces: Vec<Interface>,
    /// Socket lookup and flow dissector.
    pub hooks: Vec<Hook>,
}

impl Namespace {
    /// What to call it: pod, name, or nothing for our own.
    #[must_use]
    pub fn title(&self) -> Option<String> {
        match (&self.pod, &self.name) {
            (Some(pod), _) => Some(format!("pod {pod}")),
            (None, Some(name)) => Some(format!("netns {name}")),
            (None, None) => None,
        }
    }
}

/// A network interface that has BPF on it, or was asked for by name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interface {
    pub name: String,
    pub ifindex: u32,
    /// `veth`, `netkit`, `bridge`, …; empty for hardware.
    pub kind: String,
    /// The other end of a veth or netkit.
    pub peer: Option<Peer>,
    /// Whether it has a clsact qdisc.
    pub clsact: bool,
    pub hooks: Vec<Hook>,
}

/// The other end of a cable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Nothing when its namespace cannot be entered.
    pub interface: Option<String>,
    /// Its namespace, when that is another one: `pod x`, `netns y`.
    pub namespace: Option<String>,
}

impl Peer {
    /// Who sits at the other end.
    #[must_use]
    pub fn who(&self) -> String {
        match (&self.namespace, &self.interface) {
            (Some(namespace), _) => namespace.clone(),
            (None, Some(interface)) => interface.clone(),
            (None, None) => "the other end".to_owned(),
        }
    }
}

/// A place where programs run one after the other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hook {
    pub hook: HookKind,
    /// The same direction as the other end of a cable sees it: `what pod web-1 sends`.
    pub meaning: Option<String>,
    pub programs: Vec<Attachment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HookKind {
    Xdp,
    Ingress,
    Egress,
    NetkitPrimary,
    NetkitPeer,
    SkLookup,
    FlowDissector,
}

impl HookKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HookKind::Xdp => "xdp",
            HookKind::Ingress => "ingress",
            HookKind::Egress => "egress",
            HookKind::NetkitPrimary => "netkit primary",
            HookKind::NetkitPeer => "netkit peer",
            HookKind::SkLookup => "socket lookup",
            HookKind::FlowDissector => "flow dissector",
        }
    }
}

/// A program on a hook.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attachment {
    pub at: Place,
    /// The link that holds it there, if it is held by one.
    pub link_id: Option<u32>,
    /// Nothing for classifiers that are not BPF.
    pub program: Option<Program>,
}

/// Where exactly on its hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "via", rename_all = "snake_case")]
pub enum Place {
    Xdp {
        mode: XdpMode,
    },
    /// A member of a libxdp dispatcher, which is the XDP program itself.
    XdpMember {
        dispatcher: u32,
        /// Its place in the dispatcher's order.
        position: u32,
    },
    Tcx,
    Clsact {
        priority: u16,
        handle: u32,
        chain: u32,
        /// `all`, `ip`, …
        protocol: String,
        direct_action: bool,
        /// The filter's own name.
        filter: String,
        /// `bpf`, or what else stands in the chain.
        classifier: String,
    },
    Netkit,
    Netns,
    Netfilter {
        family: String,
        hook: String,
        priority: i32,
    },
    Cgroup {
        attach_type: String,
        #[serde(skip)]
        raw_type: u32,
        /// `multi`, `override`, or nothing: whether others may attach below.
        flags: String,
        /// Inherited from this cgroup.
        from: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    Native,
    Generic,
    Offload,
}

impl XdpMode {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Offload => "offload",
        }
    }
}

impl Place {
    /// Says it in the words of the tools that put programs there.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Place::Xdp { mode } => format!("xdp {}", mode.name()),
            Place::XdpMember { position, .. } => format!("dispatcher slot {position}"),
            Place::Tcx => "tcx".to_owned(),
            Place::Clsact {
                priority,
                handle,
                chain,
                protocol,
                direct_action,
                classifier,
                ..
            } => {
                let mut text = format!("clsact prio {priority} handle {handle:#x}");
                if *chain != 0 {
                    text += &format!(" chain {chain}");
                }
                if protocol != "all" {
                    text += &format!(" proto {protocol}");
                }
                match (classifier.as_str(), direct_action) {
                    ("bpf", true) => text += " da",
                    ("bpf", false) => {}
                    (other, _) => text += &format!(" ({other}, not BPF)"),
                }
                text
            }
            Place::Netkit => "netkit".to_owned(),
            Place::Netns => "netns".to_owned(),
            Place::Netfilter { family, hook, priority } => format!("{family} {hook} prio {priority}"),
            Place::Cgroup {
                attach_type, flags, from, ..
            } => {
                let mut text = attach_type.clone();
                if !flags.is_empty() {
                    text += &format!(" ({flags})");
                }
                if let Some(from) = from {
                    text += &format!(" from {from}");
                }
                text
            }
        }
    }
}

/// A cgroup with programs of its own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cgroup {
    /// From the root of the hierarchy, which is `/`.
    pub path: String,
    pub id: u64,
    /// For each kind of hook, in the order of execution, what ancestors lend included.
    pub programs: Vec<Attachment>,
}
