//! What looks wrong in the picture, why, and the command that mends it.
//!
//! Chains end where the kernel ends them: with direct action in clsact by OK, SHOT, STOLEN, TRAP and REDIRECT
//! (`cls_bpf_exec_opcode` in net/sched/cls_bpf.c makes UNSPEC of every other code, which passes on); in tcx and netkit by
//! everything but NEXT, and clsact comes after tcx unless that said PASS, DROP or REDIRECT (`tcx_run` in net/core/dev.c).

use super::{Attachment, Hook, HookKind, Interface, Namespace, Node, Place, Program, XdpMode};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    StaleProgram,
    ShadowedProgram,
    GenericXdp,
    MissingClsact,
    NoOwner,
    MapPressure,
}

impl FindingKind {
    /// A stable name, the same as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::StaleProgram => "stale-program",
            FindingKind::ShadowedProgram => "shadowed-program",
            FindingKind::GenericXdp => "generic-xdp",
            FindingKind::MissingClsact => "missing-clsact",
            FindingKind::NoOwner => "no-owner",
            FindingKind::MapPressure => "map-pressure",
        }
    }
}

/// One thing that looks wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: FindingKind,
    /// Nothing for our own namespace.
    pub netns: Option<String>,
    pub interface: Option<String>,
    pub program: Option<u32>,
    pub map: Option<u32>,
    pub message: String,
    pub why: String,
    /// A command for a shell.
    pub fix: String,
}

const OK: i32 = 0;
const SHOT: i32 = 2;
const STOLEN: i32 = 4;
const REDIRECT: i32 = 7;
const TRAP: i32 = 8;
const NEXT: i32 = -1;

/// Finds what looks wrong.
#[must_use]
pub fn judge(node: &Node) -> Vec<Finding> {
    let mut all = Vec::new();
    for namespace in &node.namespaces {
        for interface in &namespace.interfaces {
            for hook in &interface.hooks {
                let site = Site {
                    namespace,
                    interface,
                    hook,
                };
                site.stale(&mut all);
                site.shadowed(&mut all);
                site.generic(&mut all);
            }
        }
        missing_clsact(namespace, &mut all);
    }
    no_owner(node, &mut all);
    super::pressure::judge(node, &mut all);
    all
}

/// A hook with its surroundings.
struct Site<'a> {
    namespace: &'a Namespace,
    interface: &'a Interface,
    hook: &'a Hook,
}

/// How to run a command where the interface is.
fn shell(namespace: &Namespace, command: &str) -> String {
    match namespace.name.as_deref().map(|n| (n, n.strip_prefix("pid "))) {
        None => command.to_owned(),
        Some((_, Some(pid))) => format!("nsenter -t {pid} -n {command}"),
        Some((name, None)) => format!("ip netns exec {name} {command}"),
    }
}

pub(super) fn label(program: &Program) -> String {
    if program.name.is_empty() {
        format!("program {}", program.id)
    } else {
        format!("`{}` (id {})", program.name, program.id)
    }
}

/// The command that removes exactly this program from its hook.
fn removal(namespace: &Namespace, interface: &Interface, hook: &Hook, attachment: &Attachment) -> String {
    let command = match &attachment.at {
        Place::Clsact { priority, handle, .. } => {
            format!(
                "weir net rm {} {} --priority {priority} --handle {handle:#x}",
                interface.name,
                hook.hook.name()
            )
        }
        _ => {
            let id = attachment.program.as_ref().map_or(0, |p| p.id);
            format!("weir net rm {} --id {id}", interface.name)
        }
    };
    shell(namespace, &command)
}

impl Site<'_> {
    fn finding(&self, kind: FindingKind, program: &Program, message: String, why: String, fix: String) -> Finding {
        Finding {
            kind,
            netns: self.namespace.name.clone(),
            interface: Some(self.interface.name.clone()),
            program: Some(program.id),
            map: None,
            message,
            why,
            fix,
        }
    }

    /// `veth0 ingress`
    fn name(&self) -> String {
        format!("{} {}", self.interface.name, self.hook.hook.name())
    }

    /// Programs of one family on one hook: all but the current one are left over.
    fn stale(&self, out: &mut Vec<Finding>) {
        if self.hook.hook == HookKind::Xdp {
            return;
        }
        let with: Vec<(&Attachment, &Program)> = self.hook.programs.iter().filter_map(|a| Some((a, a.program.as_ref()?))).collect();
        for (attachment, program) in &with {
            // The one that somebody holds, or else the youngest, is the current one.
            let rank = |p: &Program| (p.is_owned(), p.load_time_ns);
            let newer = with
                .iter()
                .filter(|(a, p)| !std::ptr::eq(*a, *attachment) && same_family(p, program) && rank(p) > rank(program))
                .max_by_key(|(_, p)| rank(p));
            let Some((current_at, current)) = newer else { continue };
            // Two processes that both live may both mean it: two runs of one tool.
            let others_alive =
                !program.owners.is_empty() && !current.owners.is_empty() && program.owners.iter().all(|o| !current.owners.contains(o));
            if others_alive {
                continue;
            }
            let held = if program.is_owned() {
                String::new()
            } else {
                ", and no process or pin holds it".to_owned()
            };
            out.push(self.finding(
                FindingKind::StaleProgram,
                program,
                format!("{}: {} at {} looks stale", self.name(), label(program), attachment.at.text()),
                format!(
                    "{} of the same family runs on the same hook at {}, loaded {} later{held}",
                    label(current),
                    current_at.at.text(),
                    crate::error::short_duration(std::time::Duration::from_nanos(
                        current.load_time_ns.saturating_sub(program.load_time_ns)
                    )),
                ),
                removal(self.namespace, self.interface, self.hook, attachment),
            ));
        }
    }

    /// Programs that never run, because one before always ends the chain.
    fn shadowed(&self, out: &mut Vec<Finding>) {
        // What ended the chain of tcx, and what ended all.
        let mut tcx_end: Option<&Attachment> = None;
        let mut end: Option<&Attachment> = None;
        for attachment in &self.hook.programs {
            let in_tcx = matches!(attachment.at, Place::Tcx | Place::Netkit);
            // Only chain 0 runs by itself.
            if matches!(attachment.at, Place::Clsact { chain, .. } if chain != 0) {
                continue;
            }
            let ended = end.or(if in_tcx { tcx_end } else { None });
            if let (Some(ended), Some(program)) = (ended, &attachment.program)
                && let Some(by) = &ended.program
            {
                // What nobody holds goes; else what stands in the way.
                let goes = if by.is_owned() && !program.is_owned() { attachment } else { ended };
                out.push(self.finding(
                    FindingKind::ShadowedProgram,
                    program,
                    format!("{}: {} never runs", self.name(), label(program)),
                    format!(
                        "{} at {} comes first and always ends the chain: it returns {}",
                        label(by),
                        ended.at.text(),
                        by.returns.as_deref().map(|r| verdicts(r, in_tcx)).unwrap_or_default()
                    ),
                    removal(self.namespace, self.interface, self.hook, goes),
                ));
                continue;
            }
            let returns = attachment.program.as_ref().and_then(|p| p.returns.as_deref());
            let Some(returns) = returns else { continue };
            match &attachment.at {
                Place::Tcx | Place::Netkit => {
                    if returns.iter().all(|r| *r != NEXT) {
                        tcx_end = tcx_end.or(Some(attachment));
                    }
                    if returns.iter().all(|r| matches!(*r, OK | SHOT | REDIRECT)) {
                        end = end.or(Some(attachment));
                    }
                }
                Place::Clsact {
                    direct_action: true,
                    protocol,
                    ..
                } if protocol == "all" && returns.iter().all(|r| matches!(*r, OK | SHOT | STOLEN | REDIRECT | TRAP)) => {
                    end = end.or(Some(attachment));
                }
                _ => {}
            }
        }
    }

    fn generic(&self, out: &mut Vec<Finding>) {
        for attachment in &self.hook.programs {
            let (Place::Xdp { mode: XdpMode::Generic }, Some(program)) = (&attachment.at, &attachment.program) else {
                continue;
            };
            let (iface, id) = (&self.interface.name, program.id);
            let mut why = GENERIC.to_owned();
            let fix = match (program.named(), attachment.link_id) {
                // Without its link it would be listed and judge nothing.
                (Some(name), _) => {
                    why.push_str(": start it again with `mode=\"native\"`; in between nothing is judged");
                    format!("weir stop {name}")
                }
                (None, Some(_)) => format!("weir net rm {iface} --id {id}"),
                (None, None) => {
                    format!("sh -c 'bpftool net detach xdpgeneric dev {iface} && bpftool net attach xdpdrv id {id} dev {iface}'")
                }
            };
            let message = format!("{iface}: {} runs in generic mode", label(program));
            out.push(self.finding(FindingKind::GenericXdp, program, message, why, shell(self.namespace, &fix)));
        }
    }
}

const GENERIC: &str = "the kernel has built an sk_buff for every packet before the program sees it, so it saves nothing; \
                       attach it in native mode if the driver can";

/// `OK, SHOT`
fn verdicts(returns: &[i32], tcx: bool) -> String {
    let name = |r: &i32| match (*r, tcx) {
        (OK, true) => "PASS".to_owned(),
        (OK, false) => "OK".to_owned(),
        (SHOT, true) => "DROP".to_owned(),
        (SHOT, false) => "SHOT".to_owned(),
        (STOLEN, _) => "STOLEN".to_owned(),
        (REDIRECT, _) => "REDIRECT".to_owned(),
        (TRAP, _) => "TRAP".to_owned(),
        (other, _) => other.to_string(),
    };
    returns.iter().map(name).collect::<Vec<_>>().join(" or ")
}

/// Whether two programs are versions of one: the same code, or the same name but for a version.
fn same_family(a: &Program, b: &Program) -> bool {
    a.tag == b.tag || (!a.name.is_empty() && family(&a.name) == family(&b.name))
}

/// A name without version and age: `policy_v2`, `policy-1.4.0` and `policy_old` are all `policy`.
fn family(name: &str) -> &str {
    let mut left = name;
    while let Some(at) = left.rfind(['_', '-', '.']) {
        let last = &left[at + 1..];
        let digits = last.strip_prefix(['v', 'r']).unwrap_or(last);
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let is_hash = last.len() >= 6 && last.bytes().all(|b| b.is_ascii_hexdigit()) && last.bytes().any(|b| b.is_ascii_digit());
        let is_age = matches!(last, "old" | "new" | "prev" | "bak" | "stale" | "next" | "v");
        if at == 0 || !(is_number || is_hash || is_age) {
            break;
        }
        left = &left[..at];
    }
    left
}

/// What makes interfaces alike: their kind, and how their name starts. Nothing for those that nobody guards.
fn siblings(interface: &Interface) -> Option<(&str, &str)> {
    let (kind, name) = (interface.kind.as_str(), interface.name.as_str());
    let stem = match kind {
        _ if name == "lo" => return None,
        "dummy" | "ifb" => return None,
        // Pods' ends are named by their network plugin, and then by a hash: `lxc…`, `veth…`, `cali…`.
        "veth" | "netkit" => name.get(..3).unwrap_or(name),
        // `eth0`, `ens1f0`, `vlan.12`
        _ => name.split(|c: char| c.is_ascii_digit()).next().unwrap_or(name),
    };
    Some((kind, stem))
}

/// Interfaces of one kind are alike: one without what the others have was missed.
fn missing_clsact(namespace: &Namespace, out: &mut Vec<Finding>) {
    let mut groups: BTreeMap<(&str, &str), Vec<&Interface>> = BTreeMap::new();
    for interface in &namespace.interfaces {
        if let Some(key) = siblings(interface) {
            groups.entry(key).or_default().push(interface);
        }
    }
    let serves = |i: &Interface| {
        i.hooks
            .iter()
            .any(|h| h.hook != HookKind::Xdp && h.programs.iter().any(|p| p.program.is_some()))
    };
    for group in groups.values() {
        let with: Vec<&Interface> = group.iter().copied().filter(|i| serves(i)).collect();
        // Two alike, and not fewer than those without, are a rule; one is an accident.
        if with.len() < 2 || with.len() * 2 < group.len() {
            continue;
        }
        let uses_clsact = with.iter().any(|i| i.clsact);
        let shared = shared_programs(&with);
        for interface in group.iter().filter(|i| !serves(i)) {
            let names: Vec<&str> = with.iter().take(3).map(|i| i.name.as_str()).collect();
            let qdisc = format!("tc qdisc add dev {} clsact", interface.name);
            let message = if uses_clsact && !interface.clsact {
                format!("{}: no clsact qdisc", interface.name)
            } else {
                format!("{}: no TC program", interface.name)
            };
            let (fix, rest) = match &shared {
                // One program serves all of them: it can serve this one, too.
                Some(programs) => {
                    let qdisc = (!interface.clsact).then_some(qdisc);
                    let all: Vec<String> = qdisc.into_iter().chain(attach(interface, programs)).collect();
                    (format!("sh -c '{}'", all.join(" && ")), "its packets pass by the policy")
                }
                None if uses_clsact && !interface.clsact => (qdisc, "its packets pass by the policy until their owner attaches here, too"),
                // Each has a program of its own: nobody but their owner can make another. With the qdisc, all is there that it needs.
                None if uses_clsact => continue,
                None => (
                    format!("weir net {} --watch", interface.name),
                    "its packets pass by the policy until their owner attaches here, too",
                ),
            };
            out.push(Finding {
                kind: FindingKind::MissingClsact,
                netns: namespace.name.clone(),
                interface: Some(interface.name.clone()),
                program: None,
                map: None,
                message,
                why: format!(
                    "{} of {} interfaces like it have TC programs ({}{}); {rest}",
                    with.len(),
                    group.len(),
                    names.join(", "),
                    if with.len() > names.len() { ", …" } else { "" }
                ),
                fix: shell(namespace, &fix),
            });
        }
    }
}

/// The programs by direction, where all these interfaces have the same ones: loaded once, attached everywhere.
fn shared_programs(interfaces: &[&Interface]) -> Option<Vec<(HookKind, u32)>> {
    let of = |interface: &Interface| -> Option<Vec<(HookKind, u32)>> {
        let hooks = interface.hooks.iter().filter(|h| h.hook != HookKind::Xdp);
        let all = hooks.flat_map(|h| h.programs.iter().map(move |a| (h.hook, a)));
        all.map(|(hook, attachment)| {
            let plain = match &attachment.at {
                Place::Tcx => true,
                Place::Clsact {
                    chain,
                    protocol,
                    direct_action,
                    ..
                } => *chain == 0 && protocol == "all" && *direct_action,
                _ => false,
            };
            Some((hook, attachment.program.as_ref().filter(|_| plain)?.id))
        })
        .collect()
    };
    let (first, rest) = interfaces.split_first()?;
    let programs = of(first)?;
    (!programs.is_empty() && rest.iter().all(|i| of(i).as_ref() == Some(&programs))).then_some(programs)
}

/// Attaches loaded programs to their directions, in this order: `tc` takes them by a name only, and puts one without a priority before
/// all that are there.
fn attach(interface: &Interface, programs: &[(HookKind, u32)]) -> Vec<String> {
    let mut taken: BTreeMap<HookKind, u16> = BTreeMap::new();
    for hook in &interface.hooks {
        let priorities = hook.programs.iter().filter_map(|a| match &a.at {
            Place::Clsact { priority, .. } => Some(*priority),
            _ => None,
        });
        taken.insert(hook.hook, priorities.max().unwrap_or(0));
    }
    let command = |(hook, id): &(HookKind, u32)| {
        let last = taken.entry(*hook).or_default();
        *last = last.saturating_add(1);
        let pin = format!("/sys/fs/bpf/weir-mend-{id}-{}", hook.name());
        format!(
            "bpftool prog pin id {id} {pin} && (tc filter add dev {} {} prio {last} bpf direct-action object-pinned {pin}; r=$?; rm {pin}; exit $r)",
            interface.name,
            hook.name()
        )
    };
    programs.iter().map(command).collect()
}

/// An attachment of the picture, with what to call its place and the command that removes it.
pub(super) struct Placed<'a> {
    namespace: Option<&'a Namespace>,
    interface: Option<&'a Interface>,
    place: String,
    pub(super) attachment: &'a Attachment,
    fix: String,
}

impl Placed<'_> {
    pub(super) fn finding(&self, kind: FindingKind, message: String, why: &str) -> Finding {
        Finding {
            kind,
            netns: self.namespace.and_then(|n| n.name.clone()),
            interface: self.interface.map(|i| i.name.clone()),
            program: self.attachment.program.as_ref().map(|p| p.id),
            map: None,
            message,
            why: why.to_owned(),
            fix: self.fix.clone(),
        }
    }
}

/// Every attachment of the picture, those that are inherited only where they are from.
pub(super) fn attachments(node: &Node) -> Vec<Placed<'_>> {
    let mut all = Vec::new();
    let by_id = |a: &Attachment| format!("weir net rm --id {}", a.program.as_ref().map_or(0, |p| p.id));
    for namespace in &node.namespaces {
        for interface in &namespace.interfaces {
            for hook in &interface.hooks {
                all.extend(hook.programs.iter().map(|attachment| Placed {
                    namespace: Some(namespace),
                    interface: Some(interface),
                    place: format!("{} {}", interface.name, hook.hook.name()),
                    attachment,
                    fix: removal(namespace, interface, hook, attachment),
                }));
            }
        }
        for hook in &namespace.hooks {
            all.extend(hook.programs.iter().map(|attachment| Placed {
                namespace: Some(namespace),
                interface: None,
                place: hook.hook.name().to_owned(),
                attachment,
                fix: by_id(attachment),
            }));
        }
    }
    let elsewhere = |place: String, attachment| Placed {
        namespace: None,
        interface: None,
        place,
        fix: by_id(attachment),
        attachment,
    };
    for cgroup in &node.cgroups {
        for attachment in &cgroup.programs {
            if !matches!(&attachment.at, Place::Cgroup { from: Some(_), .. }) {
                all.push(elsewhere(format!("cgroup {} {}", cgroup.path, attachment.at.text()), attachment));
            }
        }
    }
    for attachment in &node.netfilter {
        all.push(elsewhere(format!("netfilter {}", attachment.at.text()), attachment));
    }
    all
}

fn no_owner(node: &Node, out: &mut Vec<Finding>) {
    // Somebody whom we cannot see may hold it.
    if !node.owners_complete {
        return;
    }
    // A stale one is named once.
    let stale = out.iter().filter(|f| f.kind == FindingKind::StaleProgram);
    let mut known: BTreeSet<u32> = stale.filter_map(|f| f.program).collect();
    for placed in attachments(node) {
        let Some(program) = placed.attachment.program.as_ref().filter(|p| !p.is_owned()) else {
            continue;
        };
        if known.insert(program.id) {
            out.push(placed.finding(
                FindingKind::NoOwner,
                format!("{}: {} belongs to nobody", placed.place, label(program)),
                "no process holds it and it is pinned nowhere: whoever attached it has ended, and it stays until somebody removes it",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{MapState, Owner, Pinned};

    fn program(id: u32, name: &str, returns: &[i32]) -> Program {
        Program {
            id,
            name: name.into(),
            kind: "sched_cls".into(),
            tag: format!("{id:016x}"),
            loaded_at: 0,
            load_time_ns: u64::from(id) * 3_600_000_000_000,
            age_s: 0,
            uid: 0,
            run_count: 0,
            run_time_ns: 0,
            owners: vec![Owner {
                pid: 100,
                command: "agent".into(),
            }],
            pins: vec![],
            maps: vec![],
            returns: (!returns.is_empty()).then(|| returns.to_vec()),
        }
    }

    fn clsact(priority: u16, program: Program) -> Attachment {
        Attachment {
            at: Place::Clsact {
                priority,
                handle: 1,
                chain: 0,
                protocol: "all".into(),
                direct_action: true,
                filter: String::new(),
                classifier: "bpf".into(),
            },
            link_id: None,
            program: Some(program),
        }
    }

    fn tcx(program: Program) -> Attachment {
        Attachment {
            at: Place::Tcx,
            link_id: Some(1),
            program: Some(program),
        }
    }

    fn interface(name: &str, programs: Vec<Attachment>) -> Interface {
        let hook = Hook {
            hook: HookKind::Ingress,
            meaning: None,
            programs,
        };
        Interface {
            name: name.into(),
            ifindex: 1,
            kind: "veth".into(),
            peer: None,
            clsact: !hook.programs.is_empty(),
            hooks: if hook.programs.is_empty() { vec![] } else { vec![hook] },
        }
    }

    fn node(interfaces: Vec<Interface>) -> Node {
        Node {
            namespaces: vec![Namespace {
                name: None,
                pod: None,
                inode: 1,
                interfaces,
                hooks: vec![],
            }],
            cgroups: vec![],
            netfilter: vec![],
            findings: vec![],
            statistics: false,
            owners_complete: true,
        }
    }

    fn kinds(programs: Vec<Attachment>) -> Vec<(FindingKind, u32)> {
        judge(&node(vec![interface("veth0", programs)]))
            .into_iter()
            .map(|f| (f.kind, f.program.unwrap_or(0)))
            .collect()
    }

    #[test]
    fn versions_are_one_family() {
        for name in ["policy", "policy_v2", "policy-1.4.0", "policy_old", "policy_3fa9c1"] {
            assert_eq!(family(name), "policy", "{name}");
        }
        for name in ["from_container", "prog1", "_2", "to_netdev", "cil_from_netdev"] {
            assert_eq!(family(name), name);
        }
    }

    #[test]
    fn the_older_of_two_versions_is_stale() {
        let found = kinds(vec![
            clsact(1, program(1, "enforce_v1", &[])),
            clsact(2, program(2, "enforce_v2", &[])),
        ]);
        assert_eq!(found, [(FindingKind::StaleProgram, 1)]);
    }

    #[test]
    fn the_one_that_nobody_holds_is_stale_though_it_is_younger() {
        let mut orphan = program(9, "enforce", &[]);
        orphan.owners.clear();
        let found = kinds(vec![clsact(1, orphan), clsact(2, program(2, "enforce", &[]))]);
        assert_eq!(found, [(FindingKind::StaleProgram, 9)]);
    }

    #[test]
    fn two_processes_with_one_program_each_are_not_stale() {
        let mut other = program(2, "tc_ingress", &[]);
        other.owners[0].pid = 200;
        assert_eq!(kinds(vec![tcx(program(1, "tc_ingress", &[])), tcx(other)]), []);
    }

    #[test]
    fn clsact_ends_where_the_kernel_ends_it() {
        let pair = |returns: &[i32]| kinds(vec![clsact(1, program(1, "a", returns)), clsact(2, program(2, "b", &[]))]);
        for ends in [&[OK][..], &[SHOT], &[STOLEN], &[TRAP], &[REDIRECT], &[OK, SHOT]] {
            assert_eq!(pair(ends), [(FindingKind::ShadowedProgram, 2)], "{ends:?}");
        }
        // UNSPEC, RECLASSIFY, PIPE, QUEUED pass on, and so may an unknown value.
        for passes in [&[-1][..], &[1], &[3], &[5], &[OK, -1], &[]] {
            assert_eq!(pair(passes), [], "{passes:?}");
        }
    }

    #[test]
    fn in_tcx_only_next_passes_on() {
        let pair = |returns: &[i32]| kinds(vec![tcx(program(1, "a", returns)), tcx(program(2, "b", &[]))]);
        assert_eq!(pair(&[NEXT]), []);
        assert_eq!(pair(&[OK]), [(FindingKind::ShadowedProgram, 2)]);
        assert_eq!(pair(&[3]), [(FindingKind::ShadowedProgram, 2)]);
        // Clsact comes after it, unless tcx has decided.
        let both = |returns: &[i32]| kinds(vec![tcx(program(1, "a", returns)), clsact(1, program(2, "b", &[]))]);
        assert_eq!(both(&[NEXT]), []);
        assert_eq!(both(&[3]), []);
        assert_eq!(both(&[OK, SHOT]), [(FindingKind::ShadowedProgram, 2)]);
    }

    #[test]
    fn a_pod_without_what_its_siblings_have() {
        let with = |name: &str, id| interface(name, vec![clsact(1, program(id, "p", &[]))]);
        let found = judge(&node(vec![
            with("lxc1", 1),
            with("lxc2", 2),
            interface("lxc3", vec![]),
            interface("xyz", vec![]),
        ]));
        let found: Vec<_> = found.iter().map(|f| (f.kind, f.interface.as_deref(), f.fix.as_str())).collect();
        assert_eq!(found, [(FindingKind::MissingClsact, Some("lxc3"), "tc qdisc add dev lxc3 clsact")]);
        assert_eq!(judge(&node(vec![with("lxc1", 1), interface("lxc3", vec![])])), []);
    }

    #[test]
    fn one_program_for_all_siblings_comes_to_the_one_that_was_missed() {
        let with = |name: &str, attachment: fn(Program) -> Attachment| interface(name, vec![attachment(program(7, "p", &[]))]);
        let fixes = |all: Vec<Interface>| -> Vec<String> { judge(&node(all)).into_iter().map(|f| f.fix).collect() };
        let first: fn(Program) -> Attachment = |p| clsact(1, p);
        let pinned = |id: u32, prio: u16| {
            let pin = format!("/sys/fs/bpf/weir-mend-{id}-ingress");
            format!(
                "bpftool prog pin id {id} {pin} && (tc filter add dev lxc3 ingress prio {prio} bpf direct-action object-pinned {pin}; \
                 r=$?; rm {pin}; exit $r)"
            )
        };
        let attach = pinned(7, 1);
        let whole = format!("sh -c 'tc qdisc add dev lxc3 clsact && {attach}'");
        for kind in [first, tcx] {
            let all = vec![with("lxc1", kind), with("lxc2", kind), interface("lxc3", vec![])];
            assert_eq!(fixes(all), [whole.as_str()]);
        }
        // The qdisc is there already.
        let bare = Interface {
            clsact: true,
            ..interface("lxc3", vec![])
        };
        assert_eq!(
            fixes(vec![with("lxc1", first), with("lxc2", first), bare.clone()]),
            [format!("sh -c '{attach}'")]
        );
        // A program each: with the qdisc, the rest is their owner's.
        let own = |name: &str, id| interface(name, vec![clsact(1, program(id, "p", &[]))]);
        assert!(fixes(vec![own("lxc1", 1), own("lxc2", 2), bare.clone()]).is_empty());
        // Two programs run in the order in which they run elsewhere, behind what is there and is not BPF.
        let two = |name: &str| interface(name, vec![first(program(7, "p", &[])), clsact(2, program(5, "q", &[]))]);
        let chain = |from: u16| format!("{} && {}", pinned(7, from), pinned(5, from + 1));
        assert_eq!(fixes(vec![two("lxc1"), two("lxc2"), bare]), [format!("sh -c '{}'", chain(1))]);
        let mut other = clsact(9, program(1, "", &[]));
        other.program = None;
        let busy = interface("lxc3", vec![other]);
        assert_eq!(fixes(vec![two("lxc1"), two("lxc2"), busy]), [format!("sh -c '{}'", chain(10))]);
    }

    #[test]
    fn siblings_with_programs_of_their_own_in_tcx_have_a_rule_too() {
        let own = |name: &str, id| Interface {
            clsact: false,
            ..interface(name, vec![tcx(program(id, "p", &[]))])
        };
        let found = judge(&node(vec![own("lxc1", 1), own("lxc2", 2), interface("lxc3", vec![])]));
        let found: Vec<_> = found.iter().map(|f| (f.kind, f.message.as_str(), f.fix.as_str())).collect();
        assert_eq!(
            found,
            [(FindingKind::MissingClsact, "lxc3: no TC program", "weir net lxc3 --watch")]
        );
    }

    #[test]
    fn siblings_are_of_any_kind() {
        let of_kind = |kind: &str, name: &str, programs: Vec<Attachment>| Interface {
            kind: kind.into(),
            ..interface(name, programs)
        };
        let missed = |all: Vec<Interface>| -> Vec<String> { judge(&node(all)).into_iter().filter_map(|f| f.interface).collect() };
        for kind in ["", "vlan", "netkit", "bridge"] {
            let with = |name: &str, id| of_kind(kind, name, vec![clsact(1, program(id, "p", &[]))]);
            let all = vec![
                with("ens1", 1),
                with("ens2", 2),
                of_kind(kind, "ens3", vec![]),
                of_kind(kind, "lo", vec![]),
            ];
            assert_eq!(missed(all), ["ens3"], "{kind}");
        }
        // What nobody guards, and what is of another kind.
        let with = |name: &str, id| of_kind("dummy", name, vec![clsact(1, program(id, "p", &[]))]);
        assert!(missed(vec![with("d1", 1), with("d2", 2), of_kind("dummy", "d3", vec![])]).is_empty());
        let with = |name: &str, id| of_kind("", name, vec![clsact(1, program(id, "p", &[]))]);
        assert!(missed(vec![with("eth0", 1), with("eth1", 2), of_kind("vlan", "eth2", vec![])]).is_empty());
    }

    /// A map that is nearly full, and that nobody has.
    fn map(id: u32) -> MapState {
        MapState {
            id,
            name: "m".into(),
            kind: "hash".into(),
            raw_kind: 1,
            key_bytes: 4,
            value_bytes: 4,
            max_entries: 10,
            flags: 0,
            entries: Some(8),
            can_fill: true,
            evicts: false,
            pressure_percent: None,
            owners: vec![],
            pins: vec![],
            used_by: vec![],
        }
    }

    fn pin(path: &str, instance: Option<&str>) -> Pinned {
        Pinned {
            path: path.into(),
            instance: instance.map(str::to_owned),
        }
    }

    #[test]
    fn only_an_instance_of_this_machine_is_stopped_by_its_name() {
        let fix = |pin: Pinned| {
            let mut generic = tcx(program(5, "x", &[]));
            generic.at = Place::Xdp { mode: XdpMode::Generic };
            generic.program.as_mut().unwrap().pins.push(pin);
            let mut interface = interface("veth0", vec![generic]);
            interface.hooks[0].hook = HookKind::Xdp;
            judge(&node(vec![interface])).remove(0).fix
        };
        let path = "/sys/fs/bpf/weir/bad/prog_x";
        assert_eq!(fix(pin(path, Some("bad"))), "weir stop bad");
        assert_eq!(fix(pin(&format!("/proc/812/root{path}"), None)), "weir net rm veth0 --id 5");
    }

    #[test]
    fn only_what_is_weirs_own_or_nobodys_is_emptied() {
        let held = |command: &str, pins: &[Pinned]| {
            let mut program = program(5, "x", &[]);
            program.owners[0].command = command.into();
            program.pins = pins.to_vec();
            program.maps.push(map(3));
            program
        };
        let fix = |programs: Vec<Program>, owners_complete: bool| {
            let programs = programs.into_iter().map(tcx).collect();
            let mut node = node(vec![interface("veth0", programs)]);
            node.owners_complete = owners_complete;
            let found = judge(&node).into_iter().find(|f| f.kind == FindingKind::MapPressure).unwrap();
            assert!(found.why.contains("its owner must make it larger"), "{}", found.why);
            found.fix
        };
        let (empty, show) = ("weir maps 3 --clear", "weir maps 3");
        assert_eq!(fix(vec![held("weir", &[])], true), empty);
        assert_eq!(
            fix(vec![held("weir", &[pin("/sys/fs/bpf/weir/bad/prog_x", Some("bad"))])], false),
            empty
        );
        assert_eq!(fix(vec![held("agent", &[])], true), show);
        assert_eq!(fix(vec![held("weir", &[pin("/sys/fs/bpf/agent/x", None)])], true), show);
        // A container's weir is another one.
        let other = pin("/proc/812/root/sys/fs/bpf/weir/bad/prog_x", None);
        assert_eq!(fix(vec![held("weir", &[other])], true), show);
        // Whoever has the map, or another program that uses it, has a say.
        let mut shared = held("weir", &[]);
        shared.maps[0].owners = held("agent", &[]).owners;
        assert_eq!(fix(vec![shared], true), show);
        assert_eq!(fix(vec![held("weir", &[]), held("agent", &[])], true), show);
        // Nobody's, as far as can be seen.
        let mut orphan = held("weir", &[]);
        orphan.owners.clear();
        assert_eq!(fix(vec![orphan.clone()], true), empty);
        assert_eq!(fix(vec![orphan], false), show);
    }

    #[test]
    fn orphans_and_full_maps() {
        let mut orphan = program(5, "x", &[]);
        orphan.owners.clear();
        orphan.maps.push(map(3));
        let mut node = node(vec![interface("veth0", vec![clsact(7, orphan)])]);
        let found = judge(&node);
        assert_eq!(found[0].fix, "weir net rm veth0 ingress --priority 7 --handle 0x1");
        assert_eq!(
            found.iter().map(|f| f.kind).collect::<Vec<_>>(),
            [FindingKind::NoOwner, FindingKind::MapPressure]
        );
        // Who cannot see everybody does not say "nobody".
        node.owners_complete = false;
        assert_eq!(judge(&node).len(), 1);
        node.namespaces[0].name = Some("blue".into());
        node.owners_complete = true;
        assert!(judge(&node)[0].fix.starts_with("ip netns exec blue weir net rm veth0 ingress"));
    }
}
