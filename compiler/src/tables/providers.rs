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
    /// Whether `weir replay` runs it: a capture has packets and their time, and no kernel.
    pub replays: bool,
    pub doc: &'static str,
}

/// Blocks of bpftrace that only run when it is asked for tests or benchmarks. They are left out, as there without `--test`, `--bench`.
pub const LEFT_OUT: &[&str] = &["test", "bench"];

/// Every probe type.
pub static PROVIDERS: &[Provider] = &[
    Provider {
        name: "begin",
        aliases: &["BEGIN"],
        form: "begin",
        hook: Hook::RunOnce,
        replays: true,
        doc: "once, before anything is attached",
    },
    Provider {
        name: "end",
        aliases: &["END"],
        form: "end",
        hook: Hook::RunOnce,
        replays: true,
        doc: "once, after everything is detached",
    },
    Provider {
        name: "self",
        aliases: &[],
        form: "self:signal:NAME",
        hook: Hook::RunOnce,
        replays: false,
        doc: "when weir itself receives the signal",
    },
    Provider {
        name: "interval",
        aliases: &["i"],
        form: "interval:s:N | ms:N | us:N | hz:N | interval:10ms",
        hook: Hook::PerfEvent,
        replays: true,
        doc: "regularly, on one CPU",
    },
    Provider {
        name: "profile",
        aliases: &["p"],
        form: "profile:hz:N | s:N | ms:N | us:N",
        hook: Hook::PerfEvent,
        replays: false,
        doc: "regularly, on every CPU",
    },
    Provider {
        name: "software",
        aliases: &["s"],
        form: "software:EVENT[:COUNT]",
        hook: Hook::PerfCounter,
        replays: false,
        doc: "every COUNT events that the kernel counts itself",
    },
    Provider {
        name: "hardware",
        aliases: &["h"],
        form: "hardware:EVENT[:COUNT]",
        hook: Hook::PerfCounter,
        replays: false,
        doc: "every COUNT events that the processor counts",
    },
    Provider {
        name: "watchpoint",
        aliases: &["w"],
        form: "watchpoint:ADDRESS:LENGTH:MODE",
        hook: Hook::Watchpoint,
        replays: false,
        doc: "access to a memory address; MODE is of `r`, `w`, `x`",
    },
    Provider {
        name: "tracepoint",
        aliases: &["t"],
        form: "tracepoint:CATEGORY:NAME",
        hook: Hook::Tracepoint,
        replays: false,
        doc: "a static event of the kernel",
    },
    Provider {
        name: "kprobe",
        aliases: &["k"],
        form: "kprobe:[MODULE:]FUNCTION[+OFFSET]",
        hook: Hook::Kprobe,
        replays: false,
        doc: "entry of a kernel function",
    },
    Provider {
        name: "kretprobe",
        aliases: &["kr"],
        form: "kretprobe:[MODULE:]FUNCTION",
        hook: Hook::Kretprobe,
        replays: false,
        doc: "return of a kernel function",
    },
    Provider {
        name: "rawtracepoint",
        aliases: &["rt"],
        form: "rawtracepoint:[MODULE:]EVENT",
        hook: Hook::RawTracepoint,
        replays: false,
        doc: "a static event of the kernel, with the arguments that the kernel has there",
    },
    Provider {
        name: "fentry",
        aliases: &["f", "kfunc"],
        form: "fentry:[MODULE:]FUNCTION | fentry:bpf:[ID:]PROGRAM",
        hook: Hook::Fentry,
        replays: false,
        doc: "entry of a function of the kernel, of a module or of a BPF program, with typed arguments",
    },
    Provider {
        name: "fexit",
        aliases: &["fr", "kretfunc"],
        form: "fexit:[MODULE:]FUNCTION | fexit:bpf:[ID:]PROGRAM",
        hook: Hook::Fexit,
        replays: false,
        doc: "return of a function of the kernel, of a module or of a BPF program, with typed arguments and return value",
    },
    Provider {
        name: "uprobe",
        aliases: &["u"],
        form: "uprobe:BINARY:FUNCTION[+OFFSET]",
        hook: Hook::Uprobe,
        replays: false,
        doc: "entry of a function of a program or library",
    },
    Provider {
        name: "uretprobe",
        aliases: &["ur"],
        form: "uretprobe:BINARY:FUNCTION",
        hook: Hook::Uretprobe,
        replays: false,
        doc: "return of a function of a program or library",
    },
    Provider {
        name: "usdt",
        aliases: &["U"],
        form: "usdt:BINARY:[PROVIDER:]PROBE",
        hook: Hook::Usdt,
        replays: false,
        doc: "a static event of a program or library",
    },
    Provider {
        name: "iter",
        aliases: &["it"],
        form: "iter:KIND[:NAME]",
        hook: Hook::Iter,
        replays: false,
        doc: "once for every object of a kind that the kernel has; with a name, for whoever reads that file in `/sys/fs/bpf`, also when weir has ended",
    },
    Provider {
        name: "xdp",
        aliases: &[],
        form: "xdp:IFACE[:native|generic|offload]",
        hook: Hook::Xdp,
        replays: true,
        doc: "every packet that an interface receives, before the stack",
    },
    Provider {
        name: "tc",
        aliases: &[],
        form: "tc:IFACE:ingress|egress (or from_pod|to_pod)",
        hook: Hook::Tc,
        replays: true,
        doc: "every packet into or out of an interface, as sk_buff",
    },
    Provider {
        name: "cgroup",
        aliases: &[],
        form: "cgroup:PATH:connect4|connect6|bind4|sendmsg4|…",
        hook: Hook::CgroupSockAddr,
        replays: false,
        doc: "a system call of a socket, by a process of a cgroup",
    },
    Provider {
        name: "cgroup_skb",
        aliases: &[],
        form: "cgroup_skb:PATH:ingress|egress",
        hook: Hook::CgroupSkb,
        replays: false,
        doc: "every packet of the sockets in a cgroup, from its IP header on",
    },
];

/// Finds a probe type; names are case-insensitive, as in bpftrace.
#[must_use]
pub fn provider(name: &str) -> Option<&'static Provider> {
    // `u` and `U` are two things; every other name may be written either way.
    let exact = PROVIDERS.iter().find(|p| p.aliases.contains(&name));
    exact.or_else(|| by_any_case(name))
}

fn by_any_case(name: &str) -> Option<&'static Provider> {
    PROVIDERS
        .iter()
        .find(|p| p.name.eq_ignore_ascii_case(name) || p.aliases.iter().any(|a| a.eq_ignore_ascii_case(name)))
}
