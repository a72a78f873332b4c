//! Probe types.

use super::hooks::Hook;

/// A probe type: the first part of an attach point.
#[derive(Debug)]
pub struct Provider {
    pub name: &'static str,
    /// Other spellings that mean the same.
    pub aliases: &'static [&'static str],
    pub form: &'static str,
    pub hook: Hook,
    pub doc: &'static str,
}

/// Every probe type.
pub static PROVIDERS: &[Provider] = &[
    Provider {
        name: "begin",
        aliases: &["BEGIN"],
        form: "begin",
        hook: Hook::RunOnce,
        doc: "once, before anything is attached",
    },
    Provider {
        name: "end",
        aliases: &["END"],
        form: "end",
        hook: Hook::RunOnce,
        doc: "once, after everything is detached",
    },
    Provider {
        name: "self",
        aliases: &[],
        form: "self:signal:NAME",
        hook: Hook::RunOnce,
        doc: "when weir itself receives the signal",
    },
    Provider {
        name: "interval",
        aliases: &["i"],
        form: "interval:s:N | ms:N | us:N | hz:N | interval:10ms",
        hook: Hook::PerfEvent,
        doc: "regularly, on one CPU",
    },
    Provider {
        name: "profile",
        aliases: &["p"],
        form: "profile:hz:N | s:N | ms:N | us:N",
        hook: Hook::PerfEvent,
        doc: "regularly, on every CPU",
    },
    Provider {
        name: "tracepoint",
        aliases: &["t"],
        form: "tracepoint:CATEGORY:NAME",
        hook: Hook::Tracepoint,
        doc: "a static event of the kernel",
    },
    Provider {
        name: "kprobe",
        aliases: &["k"],
        form: "kprobe:[MODULE:]FUNCTION[+OFFSET]",
        hook: Hook::Kprobe,
        doc: "entry of a kernel function",
    },
    Provider {
        name: "kretprobe",
        aliases: &["kr"],
        form: "kretprobe:[MODULE:]FUNCTION",
        hook: Hook::Kretprobe,
        doc: "return of a kernel function",
    },
    Provider {
        name: "xdp",
        aliases: &[],
        form: "xdp:IFACE[:native|generic|offload]",
        hook: Hook::Xdp,
        doc: "every packet that an interface receives, before the stack",
    },
    Provider {
        name: "tc",
        aliases: &[],
        form: "tc:IFACE:ingress|egress (or from_pod|to_pod)",
        hook: Hook::Tc,
        doc: "every packet into or out of an interface, as sk_buff",
    },
    Provider {
        name: "cgroup",
        aliases: &[],
        form: "cgroup:PATH:connect4|connect6|bind4|sendmsg4|…",
        hook: Hook::CgroupSockAddr,
        doc: "a system call of a socket, by a process of a cgroup",
    },
    Provider {
        name: "cgroup_skb",
        aliases: &[],
        form: "cgroup_skb:PATH:ingress|egress",
        hook: Hook::CgroupSkb,
        doc: "every packet of the sockets in a cgroup, from its IP header on",
    },
];

/// Finds a probe type; names are case-insensitive, as in bpftrace.
#[must_use]
pub fn provider(name: &str) -> Option<&'static Provider> {
    PROVIDERS
        .iter()
        .find(|p| p.name.eq_ignore_ascii_case(name) || p.aliases.iter().any(|a| a.eq_ignore_ascii_case(name)))
}
