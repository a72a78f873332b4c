//! Section names and context types of programs, as aya, libbpf (1.0 and later) and bpftool all know them.

use crate::object::{AttachPoint, Direction, ProgramKind};

/// Symbol of the `license` section, as `char _license[]` of C objects.
pub(super) const LICENSE_SYMBOL: &str = "_license";

/// Returns the ELF section of a program that attaches to `point`.
///
/// `frags` says whether XDP programs declare that they handle packets of several fragments (kernels from 5.18; without
/// it a driver refuses large MTUs). All programs of one program array must agree on it.
#[must_use]
pub fn section_name(kind: ProgramKind, point: &AttachPoint, frags: bool) -> String {
    match (kind, point) {
        (ProgramKind::Xdp | ProgramKind::NativeEventXdp, _) => if frags { "xdp.frags" } else { "xdp" }.to_owned(),
        // Older libbpf does not know `tcx/…`, and aya only knows this one; the loader says where it attaches.
        (ProgramKind::SchedCls | ProgramKind::NativeEventTc, _) => "classifier".to_owned(),
        (ProgramKind::CgroupSkb(Direction::Ingress), _) => "cgroup_skb/ingress".to_owned(),
        (ProgramKind::CgroupSkb(Direction::Egress), _) => "cgroup_skb/egress".to_owned(),
        (_, AttachPoint::Cgroup { hook, .. }) => format!("cgroup/{}", hook.name),
        (ProgramKind::CgroupSockAddr(_), _) => "cgroup/connect4".to_owned(),
        (ProgramKind::CgroupSockopt, _) => "cgroup/setsockopt".to_owned(),
        (ProgramKind::CgroupSock(_), _) => "cgroup/sock".to_owned(),
        (ProgramKind::PerfEvent, _) => "perf_event".to_owned(),
        (ProgramKind::Tracepoint, AttachPoint::Tracepoint { category, name }) => format!("tracepoint/{category}/{name}"),
        (ProgramKind::RawTracepoint, AttachPoint::Tracepoint { name, .. }) => format!("raw_tp/{name}"),
        (ProgramKind::Kprobe, AttachPoint::Kprobe { function, ret: false, .. }) => format!("kprobe/{function}"),
        (ProgramKind::Kprobe, AttachPoint::Kprobe { function, ret: true, .. }) => format!("kretprobe/{function}"),
        (ProgramKind::Fentry, AttachPoint::Fentry { function, .. }) => format!("fentry/{function}"),
        (ProgramKind::Fexit, AttachPoint::Fentry { function, .. }) => format!("fexit/{function}"),
        (ProgramKind::Iter, AttachPoint::Iter { kind, .. }) => format!("iter/{kind}"),
        (ProgramKind::RawTracepoint, AttachPoint::RawTracepoint { name }) => format!("raw_tp/{name}"),
        // No place in the section's name: aya knows no `kprobe.multi`, and a file's path may hold anything.
        (ProgramKind::KprobeMulti, _) => "kprobe".to_owned(),
        (ProgramKind::Uprobe, AttachPoint::Uprobe { ret: true, .. }) => "uretprobe".to_owned(),
        (ProgramKind::Uprobe, _) => "uprobe".to_owned(),
        (ProgramKind::Fentry, _) => "fentry".to_owned(),
        (ProgramKind::Fexit, _) => "fexit".to_owned(),
        (ProgramKind::Iter, _) => "iter".to_owned(),
        (ProgramKind::Tracepoint, _) => "tracepoint".to_owned(),
        (ProgramKind::Kprobe, _) => "kprobe".to_owned(),
        // `BPF_PROG_RUN` knows raw tracepoint programs; these are never attached.
        (ProgramKind::RunOnce | ProgramKind::RawTracepoint | ProgramKind::NativeEventTrace, _) => "raw_tp".to_owned(),
    }
}

/// Returns the struct that a program's context points to, `None` where each place has its own.
pub(super) fn context_struct(kind: ProgramKind) -> Option<&'static str> {
    match kind {
        ProgramKind::Xdp | ProgramKind::NativeEventXdp => Some("xdp_md"),
        ProgramKind::SchedCls | ProgramKind::NativeEventTc | ProgramKind::CgroupSkb(_) => Some("__sk_buff"),
        ProgramKind::CgroupSockAddr(_) => Some("bpf_sock_addr"),
        ProgramKind::CgroupSock(_) => Some("bpf_sock"),
        ProgramKind::CgroupSockopt => Some("bpf_sockopt"),
        ProgramKind::PerfEvent => Some("bpf_perf_event_data"),
        ProgramKind::Kprobe | ProgramKind::KprobeMulti | ProgramKind::Uprobe => Some("pt_regs"),
        ProgramKind::RunOnce | ProgramKind::RawTracepoint | ProgramKind::NativeEventTrace => Some("bpf_raw_tracepoint_args"),
        ProgramKind::Tracepoint | ProgramKind::Fentry | ProgramKind::Fexit | ProgramKind::Iter => None,
    }
}
