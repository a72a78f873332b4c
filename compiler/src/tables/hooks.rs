//! Where blocks can run.

use std::fmt;

/// Where a block can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// `begin`, `end`, `self:signal`
    RunOnce,
    /// `interval`, `profile`
    PerfEvent,
    /// `software`, `hardware`
    PerfCounter,
    Watchpoint,
    Tracepoint,
    RawTracepoint,
    Kprobe,
    Kretprobe,
    Fentry,
    Fexit,
    Uprobe,
    Uretprobe,
    Usdt,
    Iter,
    Xdp,
    Tc,
    /// A block on a native's event; runs as an XDP program.
    NativeXdp,
    /// A block on a native's event; runs as a TC program.
    NativeTc,
    /// A block on a native's event; runs as a raw tracepoint program. Mostly in softirq: the current task is a bystander.
    NativeTrace,
    /// `cgroup_skb`: packets of the sockets in a cgroup; they start at the IP header.
    CgroupSkb,
    /// `cgroup`: the addresses of system calls made in a cgroup.
    CgroupSockAddr,
    /// `cgroup`: sockets of a cgroup that have an address now.
    CgroupPostBind,
    /// `cgroup`: sockets of a cgroup without an address.
    CgroupSock,
}

impl Hook {
    pub const ALL: [Hook; 23] = [
        Hook::RunOnce,
        Hook::PerfEvent,
        Hook::PerfCounter,
        Hook::Watchpoint,
        Hook::Tracepoint,
        Hook::RawTracepoint,
        Hook::Kprobe,
        Hook::Kretprobe,
        Hook::Fentry,
        Hook::Fexit,
        Hook::Uprobe,
        Hook::Uretprobe,
        Hook::Usdt,
        Hook::Iter,
        Hook::Xdp,
        Hook::Tc,
        Hook::NativeXdp,
        Hook::NativeTc,
        Hook::NativeTrace,
        Hook::CgroupSkb,
        Hook::CgroupSockAddr,
        Hook::CgroupPostBind,
        Hook::CgroupSock,
    ];

    /// Returns the word the user knows the hook by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Hook::RunOnce => "begin/end",
            Hook::PerfEvent => "interval/profile",
            Hook::PerfCounter => "software/hardware",
            Hook::Watchpoint => "watchpoint",
            Hook::Tracepoint => "tracepoint",
            Hook::RawTracepoint => "rawtracepoint",
            Hook::Fentry => "fentry",
            Hook::Fexit => "fexit",
            Hook::Uprobe => "uprobe",
            Hook::Uretprobe => "uretprobe",
            Hook::Usdt => "usdt",
            Hook::Iter => "iter",
            Hook::Kprobe => "kprobe",
            Hook::Kretprobe => "kretprobe",
            Hook::Xdp => "xdp",
            Hook::Tc => "tc",
            Hook::NativeXdp | Hook::NativeTc | Hook::NativeTrace => "native event",
            Hook::CgroupSkb => "cgroup_skb",
            Hook::CgroupSockAddr => "cgroup",
            Hook::CgroupPostBind => "cgroup post_bind",
            Hook::CgroupSock => "cgroup sock_create/sock_release",
        }
    }

    /// Returns the name as it stands in a sentence: ``an `xdp` ``.
    #[must_use]
    pub fn with_article(self) -> String {
        let article = if matches!(self, Hook::Xdp | Hook::PerfEvent | Hook::Fentry | Hook::Fexit | Hook::Iter) {
            "an"
        } else {
            "a"
        };
        format!("{article} `{}`", self.name())
    }

    /// Returns whether a program can start while the same program is interrupted on the same CPU: then its working memory
    /// is one of several slots. Elsewhere the kernel counts programs that run (`bpf_prog_active`, the program's own
    /// `active`) and leaves out the second.
    #[must_use]
    pub fn may_nest(self) -> bool {
        matches!(
            self,
            Hook::Uprobe | Hook::Uretprobe | Hook::Usdt | Hook::Iter | Hook::CgroupSockAddr | Hook::CgroupPostBind | Hook::CgroupSock
        )
    }

    /// Returns whether programs may follow the pointer to the current task: that takes CAP_PERFMON, which tracing has anyway and
    /// programs of cgroups can do without.
    #[must_use]
    pub fn may_read_task(self) -> bool {
        Hooks::PROCESS.contains(self) && !self.is_cgroup_call()
    }

    /// Returns whether the kernel keeps a number with each place that a program is attached to, by which one program tells them
    /// apart (`bpf_get_attach_cookie`).
    #[must_use]
    pub fn has_cookie(self) -> bool {
        matches!(
            self,
            Hook::PerfEvent
                | Hook::PerfCounter
                | Hook::Watchpoint
                | Hook::Tracepoint
                | Hook::Kprobe
                | Hook::Kretprobe
                | Hook::Uprobe
                | Hook::Uretprobe
                | Hook::Usdt
        )
    }

    /// Returns whether the block sees a packet.
    #[must_use]
    pub fn has_packet(self) -> bool {
        matches!(self, Hook::Xdp | Hook::Tc | Hook::NativeXdp | Hook::NativeTc | Hook::CgroupSkb)
    }

    /// Returns whether the block hangs on the event of a native: its program is tail-called.
    #[must_use]
    pub fn is_native_event(self) -> bool {
        matches!(self, Hook::NativeXdp | Hook::NativeTc | Hook::NativeTrace)
    }

    /// Returns whether the context is a `struct __sk_buff`.
    #[must_use]
    pub fn is_skb(self) -> bool {
        matches!(self, Hook::Tc | Hook::NativeTc | Hook::CgroupSkb)
    }

    /// Returns whether what the program returns decides about something.
    #[must_use]
    pub fn has_verdict(self) -> bool {
        self.has_packet() || self.is_cgroup_call()
    }

    /// Returns whether the block runs in a system call of a socket, with the verdicts of cgroups.
    #[must_use]
    pub fn is_cgroup_call(self) -> bool {
        matches!(self, Hook::CgroupSockAddr | Hook::CgroupPostBind | Hook::CgroupSock)
    }

    /// Returns what the program returns when no block gives a verdict.
    #[must_use]
    pub fn default_verdict(self) -> i32 {
        match self {
            Hook::Xdp | Hook::NativeXdp => 2,
            Hook::Tc | Hook::NativeTc => -1,
            Hook::CgroupSkb | Hook::CgroupSockAddr | Hook::CgroupPostBind | Hook::CgroupSock => 1,
            _ => 0,
        }
    }
}

/// A set of hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks(u64);

impl Hooks {
    pub const XDP: Hooks = Hooks::of(&[Hook::Xdp, Hook::NativeXdp]);
    pub const TC: Hooks = Hooks::of(&[Hook::Tc, Hook::NativeTc]);
    /// Hooks that see a whole frame.
    pub const FRAME: Hooks = Hooks::of(&[Hook::Xdp, Hook::Tc, Hook::NativeXdp, Hook::NativeTc]);
    /// Hooks that see a packet, from its link or from its IP header on.
    pub const PACKET: Hooks = Hooks::of(&[Hook::Xdp, Hook::Tc, Hook::NativeXdp, Hook::NativeTc, Hook::CgroupSkb]);
    /// Hooks whose packets lie in a `struct sk_buff`.
    pub const SKB: Hooks = Hooks::of(&[Hook::Tc, Hook::NativeTc, Hook::CgroupSkb]);
    pub const CGROUP: Hooks = Hooks::of(&[Hook::CgroupSkb, Hook::CgroupSockAddr, Hook::CgroupPostBind, Hook::CgroupSock]);
    /// System calls of sockets in a cgroup.
    pub const CGROUP_CALL: Hooks = Hooks::of(&[Hook::CgroupSockAddr, Hook::CgroupPostBind, Hook::CgroupSock]);
    /// Those of them that know an address.
    pub const ADDRESS: Hooks = Hooks::of(&[Hook::CgroupSockAddr, Hook::CgroupPostBind]);
    pub const SOCK_ADDR: Hooks = Hooks::of(&[Hook::CgroupSockAddr]);
    pub const ALL: Hooks = Hooks::of(&Hook::ALL);
    /// Hooks in which the current task is the one that caused the event.
    pub const PROCESS: Hooks = Hooks::of(&[
        Hook::RunOnce,
        Hook::PerfEvent,
        Hook::PerfCounter,
        Hook::Watchpoint,
        Hook::Tracepoint,
        Hook::RawTracepoint,
        Hook::Kprobe,
        Hook::Kretprobe,
        Hook::Fentry,
        Hook::Fexit,
        Hook::Uprobe,
        Hook::Uretprobe,
        Hook::Usdt,
        Hook::Iter,
        Hook::CgroupSockAddr,
        Hook::CgroupPostBind,
        Hook::CgroupSock,
    ]);

    /// Hooks in which stacks can be taken and memory of processes written: the kernel has no helpers for it in the rest.
    pub const STACK: Hooks = Hooks::of(&[
        Hook::RunOnce,
        Hook::PerfEvent,
        Hook::PerfCounter,
        Hook::Watchpoint,
        Hook::Tracepoint,
        Hook::RawTracepoint,
        Hook::Kprobe,
        Hook::Kretprobe,
        Hook::Fentry,
        Hook::Fexit,
        Hook::Uprobe,
        Hook::Uretprobe,
        Hook::Usdt,
        Hook::Iter,
    ]);

    /// Hooks whose context is the CPU's registers.
    pub const REGISTERS: Hooks = Hooks::of(&[
        Hook::PerfEvent,
        Hook::PerfCounter,
        Hook::Watchpoint,
        Hook::Kprobe,
        Hook::Kretprobe,
        Hook::Uprobe,
        Hook::Uretprobe,
        Hook::Usdt,
    ]);

    /// Hooks in which a signal reaches the task that caused the event.
    pub const SIGNAL: Hooks = Hooks::of(&[
        Hook::PerfEvent,
        Hook::PerfCounter,
        Hook::Watchpoint,
        Hook::Tracepoint,
        Hook::RawTracepoint,
        Hook::Kprobe,
        Hook::Kretprobe,
        Hook::Fentry,
        Hook::Fexit,
        Hook::Uprobe,
        Hook::Uretprobe,
        Hook::Usdt,
    ]);

    #[must_use]
    pub const fn of(hooks: &[Hook]) -> Hooks {
        let mut bits = 0;
        let mut i = 0;
        while i < hooks.len() {
            bits |= 1 << hooks[i] as u16;
            i += 1;
        }
        Hooks(bits)
    }

    #[must_use]
    pub const fn contains(self, hook: Hook) -> bool {
        self.0 & (1 << hook as u16) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Hook> {
        Hook::ALL.into_iter().filter(move |h| self.contains(*h))
    }
}

impl fmt::Display for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |wanted: bool| -> Vec<String> {
            Hook::ALL
                .into_iter()
                .filter(|h| !h.is_native_event() && self.contains(*h) == wanted)
                .map(|h| format!("`{}`", h.name()))
                .collect()
        };
        // What is nearly everywhere is said by where it is not.
        let (there, missing) = (list(true), list(false));
        if missing.len() * 2 < there.len() {
            return write!(f, "every probe but {}", missing.join(", "));
        }
        f.write_str(&there.join(", "))
    }
}
