//! What can go wrong, and what a person should hear about a run that goes on.

use crate::sys::{ATTACH, SysError, netns};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use weir_compiler::hir::{interface_help, nearest_name};
use weir_parser::Span;

/// Why a script could not be loaded, attached or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Sys(#[from] SysError),
    /// Our own object is not what the loader expects: a bug of weir.
    #[error("internal error: cannot read the compiled object: {0}")]
    Object(String),
    /// The verifier refused a program. The caller compiles again without the optimiser, then reports a bug of weir.
    #[error("the kernel's verifier rejected program `{name}`")]
    Rejected {
        /// Index into [`weir_compiler::object::Object::programs`], or `None` for a native's program.
        program: Option<usize>,
        name: String,
        /// The whole log; [`crate::verifier::digest`] finds what matters in it.
        log: String,
        span: Option<Span>,
    },
    #[error("no tracepoint `{category}:{name}` in this kernel")]
    NoTracepoint { category: String, name: String, span: Span },
    #[error("cannot attach to `{point}`: {}", why(.source))]
    Attach { point: String, span: Span, source: SysError },
    #[error("this kernel has no kprobes ({reason}): cannot attach to `{point}`")]
    NoKprobes { point: String, reason: String, span: Span },
    /// `override()` where the kernel allows no errors to be injected.
    #[error("cannot attach to `{point}`: the kernel does not let a probe decide what this function returns")]
    NotInjectable { point: String, span: Span },
    #[error("no network interface matches `{pattern}`{}", in_netns(.netns.as_deref()))]
    NoInterface {
        pattern: String,
        netns: Option<String>,
        known: Vec<String>,
        span: Span,
    },
    #[error("{}", link_layer(.iface, *.is_readable))]
    LinkLayer { iface: String, is_readable: bool, span: Span },
    #[error("`{iface}` already has an XDP program: {program}")]
    ForeignXdp {
        iface: String,
        asked: Asked,
        program: ForeignProgram,
        span: Span,
    },
    #[error("there is no cgroup v2 directory `{path}`")]
    NoCgroup { path: String, span: Span },
    #[error("there is no network namespace `{name}`")]
    NoNetns { name: String, known: Vec<String>, span: Span },
    #[error("cannot enter network namespace `{name}`: {source}")]
    Netns { name: String, span: Span, source: std::io::Error },
    #[error("the driver of `{iface}` does not take a native XDP program ({reason})")]
    NoNativeXdp {
        iface: String,
        asked: Asked,
        span: Span,
        reason: String,
    },
    #[error("the card of `{iface}` does not take {what} ({reason})")]
    NoOffload {
        iface: String,
        /// A program, or a map with its size.
        what: String,
        reason: String,
        /// The map of the script that it is, if it is one.
        map: Option<String>,
        span: Span,
    },
    /// `--before` or `--after`.
    #[error("there is no program `{program}` on `{point}`")]
    NoProgramInChain {
        program: String,
        point: String,
        /// Ids and names of those that are there.
        chain: Vec<(u32, String)>,
        span: Span,
    },
    #[error("`{iface}` has the qdisc `{kind}` where `clsact` must go")]
    IngressQdisc { iface: String, kind: String, span: Span },
    /// Two users of one XDP hook that cannot be put in one chain.
    #[error("{message}")]
    Chain { message: String, help: String, span: Span },
    /// A parameter of a native.
    #[error("{message}")]
    Param { message: String, help: Option<String>, span: Span },
    /// A line of a prefix file or a policy; 0 where only the file can be named.
    #[error("{}{}: {message}", .path.display(), if *.line == 0 { String::new() } else { format!(":{line}") })]
    PrefixFile {
        path: PathBuf,
        line: usize,
        message: String,
        span: Span,
    },
    #[error("cannot read `{}`: {source}", .path.display())]
    ReadFile { path: PathBuf, span: Span, source: std::io::Error },
    /// A script, or a part of one, that a capture file cannot be run through.
    #[error("{message}")]
    Replay {
        message: String,
        help: Option<String>,
        span: Option<Span>,
    },
    #[error("cannot write to `{}`: {source}", .path.display())]
    Output { path: PathBuf, source: std::io::Error },
}

fn link_layer(iface: &str, is_readable: bool) -> String {
    if is_readable {
        format!("packets of `{iface}` start otherwise than those of the interface of this name that the script was made for")
    } else {
        format!("packets of `{iface}` start with neither Ethernet nor IP")
    }
}

fn in_netns(netns: Option<&str>) -> String {
    netns.map_or_else(String::new, |name| format!(" in network namespace `{name}`"))
}

/// In whose words XDP was asked for: those of a block (`xdp:IFACE`), or a native's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Block,
    Native { has_mode: bool },
}

impl Asked {
    fn in_mode(self, iface: &str, mode: &str) -> String {
        match self {
            Asked::Block => format!("`xdp:{iface}:{mode}`"),
            Asked::Native { .. } => format!("`mode=\"{mode}\"`"),
        }
    }

    fn at_tc(self, iface: &str) -> String {
        match self {
            Asked::Block => format!("`tc:{iface}:ingress`"),
            Asked::Native { .. } => "`hook=\"tc\"`".to_owned(),
        }
    }
}

/// Somebody else's program where ours should go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignProgram {
    pub id: u32,
    /// At most 15 bytes, as the kernel keeps it.
    pub name: String,
    pub age: Option<Duration>,
    /// Processes that hold it open, where that can be seen.
    pub owners: Vec<(u32, String)>,
}

impl fmt::Display for ForeignProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "id {}", self.id)?;
        } else {
            write!(f, "`{}`, id {}", self.name, self.id)?;
        }
        if let Some(age) = self.age {
            write!(f, ", loaded {} ago", short_duration(age))?;
        }
        for (pid, comm) in &self.owners {
            write!(f, ", held by `{comm}` (pid {pid})")?;
        }
        Ok(())
    }
}

/// Joins names, the first few of many.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    if names.len() <= SHOWN + 1 {
        return names.join(", ");
    }
    format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN)
}

/// Writes a duration in the largest unit that leaves a number of at least 1: `42 s`, `3 min`, `5 h`, `2 d`.
#[must_use]
pub fn short_duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        7200..=172_799 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86400),
    }
}

/// The kernel's words alone where the attach point has been named already.
fn why(source: &SysError) -> String {
    match source.what {
        ATTACH => crate::sys::describe(&source.source),
        _ => source.to_string(),
    }
}

/// The program that libxdp puts on an interface; those that it runs are not to be seen from outside.
const LIBXDP_DISPATCHER: &str = "xdp_dispatcher";

/// The name that was probably meant, else all there are.
fn nearest_or_all(wrong: &str, known: &[String]) -> Vec<String> {
    let near = nearest_name(wrong, known.iter().map(String::as_str));
    match near {
        Some(near) => vec![format!("did you mean `{near}`?")],
        None if known.is_empty() => Vec::new(),
        None => vec![format!("there are: {}", known.join(", "))],
    }
}

impl Error {
    /// Returns the place in the script that it is about.
    #[must_use]
    pub fn span(&self) -> Option<Span> {
        match self {
            Error::Sys(_) | Error::Object(_) | Error::Output { .. } => None,
            Error::Rejected { span, .. } | Error::Replay { span, .. } => *span,
            Error::NoTracepoint { span, .. }
            | Error::Attach { span, .. }
            | Error::NoKprobes { span, .. }
            | Error::NotInjectable { span, .. }
            | Error::NoInterface { span, .. }
            | Error::LinkLayer { span, .. }
            | Error::ForeignXdp { span, .. }
            | Error::NoCgroup { span, .. }
            | Error::NoNetns { span, .. }
            | Error::Netns { span, .. }
            | Error::NoNativeXdp { span, .. }
            | Error::NoOffload { span, .. }
            | Error::NoProgramInChain { span, .. }
            | Error::IngressQdisc { span, .. }
            | Error::Chain { span, .. }
            | Error::Param { span, .. }
            | Error::PrefixFile { span, .. }
            | Error::ReadFile { span, .. } => Some(*span),
        }
    }

    /// Returns a stable, greppable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Error::Sys(_) => "system",
            Error::Object(_) => "internal",
            Error::Rejected { .. } => "verifier",
            Error::NoTracepoint { .. } => "no-tracepoint",
            Error::Attach { .. } => "attach",
            Error::NoKprobes { .. } => "no-kprobes",
            Error::NotInjectable { .. } => "not-injectable",
            Error::NoInterface { .. } => "no-interface",
            Error::LinkLayer { .. } => "link-layer",
            Error::ForeignXdp { .. } => "foreign-xdp",
            Error::NoCgroup { .. } => "no-cgroup",
            Error::NoNetns { .. } | Error::Netns { .. } => "netns",
            Error::NoNativeXdp { .. } => "no-native-xdp",
            Error::NoOffload { .. } => "no-offload",
            Error::NoProgramInChain { .. } => "no-program",
            Error::IngressQdisc { .. } => "ingress-qdisc",
            Error::Chain { .. } => "chain",
            Error::Param { .. } => "native-parameter",
            Error::PrefixFile { .. } => "bad-file",
            Error::ReadFile { .. } => "read-file",
            Error::Replay { .. } => "replay",
            Error::Output { .. } => "output",
        }
    }

    /// Returns what to do about it, one line each.
    #[must_use]
    pub fn help(&self) -> Vec<String> {
        match self {
            Error::Sys(e) | Error::Attach { source: e, .. } => e.help().into_iter().collect(),
            Error::NotInjectable { .. } => {
                vec!["`/sys/kernel/debug/error_injection/list` has the functions that `override` may be used on".to_owned()]
            }
            Error::NoInterface { pattern, known, .. } => vec![interface_help(pattern, known)],
            Error::NoNetns { name, known, .. } if known.is_empty() => {
                vec![format!(
                    "write a name of `ip netns`, a pid or a path for `{name}`; there are no names"
                )]
            }
            Error::NoNetns { name, known, .. } => nearest_or_all(name, known),
            Error::Netns { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
                vec!["entering a network namespace takes CAP_SYS_ADMIN".to_owned()]
            }
            Error::NoProgramInChain { chain, .. } if chain.is_empty() => vec!["no program is there yet: leave the order out".to_owned()],
            Error::NoProgramInChain { chain, .. } => {
                let names: Vec<String> = chain.iter().map(|(id, name)| format!("`{name}` (id {id})")).collect();
                vec![format!("there are, in their order: {}", names.join(", "))]
            }
            Error::ForeignXdp { iface, program, asked, .. } if program.name == LIBXDP_DISPATCHER => vec![
                format!("it is libxdp's dispatcher, which runs other programs: `xdp-loader status {iface}` lists them"),
                format!(
                    "unload them with `xdp-loader unload {iface} --all`, use {}, or take its place with `--force`",
                    asked.at_tc(iface)
                ),
            ],
            Error::ForeignXdp { iface, asked, .. } => {
                vec![format!(
                    "end its owner, use {}, or take its place with `--force`",
                    asked.at_tc(iface)
                )]
            }
            Error::LinkLayer { is_readable: true, .. } => vec!["start the script again".to_owned()],
            Error::LinkLayer { .. } => vec!["weir reads packets of Ethernet interfaces and of IP tunnels".to_owned()],
            Error::NoNativeXdp { iface, asked, .. } => {
                vec![format!("write {}, or use {}", asked.in_mode(iface, "generic"), asked.at_tc(iface))]
            }
            Error::NoOffload { iface, map: None, .. } => vec![format!("write `xdp:{iface}:native`")],
            Error::NoOffload { iface, map: Some(map), .. } => vec![format!(
                "declare it with room for fewer, as in `let {map} = hash(N);`, or write `xdp:{iface}:native`"
            )],
            Error::IngressQdisc { iface, .. } => {
                vec![format!(
                    "remove it with `tc qdisc del dev {iface} ingress` if nobody needs its filters"
                )]
            }
            Error::Chain { help, .. } => vec![help.clone()],
            Error::Param { help, .. } | Error::Replay { help, .. } => help.clone().into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

impl Error {
    /// What it says, what stays as it was, and what to do: for whoever hears of it while a run goes on.
    pub(crate) fn while_running(&self, what_stays: &str) -> String {
        let parts = [self.to_string(), what_stays.to_owned()].into_iter().chain(self.help());
        parts.collect::<Vec<_>>().join("; ")
    }
}

/// Something a person should hear while a run goes on. Rendered by the binary, on stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// `Attached N probes`, as bpftrace says it.
    Attached { probes: usize },
    /// An iterator has its name.
    Named { path: String },
    /// Records did not fit into the ring buffer since the last such notice.
    LostEvents { count: u64 },
    /// At the end.
    LostEventsTotal { count: u64 },
    /// Packets that `capture` asked for did not fit into the ring buffer since the last such notice.
    LostCaptures { count: u64 },
    /// A map was full for the first time since the last such notice.
    MapFull {
        map: String,
        /// Keyed by prefix, and so declared.
        lpm: bool,
        max_entries: u32,
        refused: u64,
        span: Span,
    },
    /// A program found no free working memory.
    ScratchExhausted { count: u64 },
    /// `pkt.meta` was not written: the driver keeps nothing before a packet.
    NoMetadata { count: u64, span: Span },
    /// Packets were sent to an interface that was gone.
    NoDevice { device: String, count: u64, span: Span },
    /// Native XDP was refused and generic XDP taken.
    XdpGeneric {
        iface: String,
        asked: Asked,
        reason: String,
        span: Span,
    },
    /// XDP is attached; the mode of each interface.
    XdpModes { modes: Vec<(String, &'static str)> },
    /// `--force` took somebody else's program away.
    XdpDisplaced {
        iface: String,
        program: ForeignProgram,
        comes_back: bool,
        span: Span,
    },
    /// A glob names no interface so far.
    NoInterfaceYet { pattern: String, known: Vec<String>, span: Span },
    /// With `-v`: what was attached where.
    AttachedTo { point: String },
    /// An interface came while running, and was attached to.
    InterfaceAppeared { iface: String, points: Vec<String> },
    /// An interface that came while running cannot be attached to.
    LateAttach { message: String, help: Option<String>, span: Span },
    /// An interface that was attached to is gone; `left` others are there.
    InterfaceGone { iface: String, left: usize },
    /// An interface that was attached to has got another name.
    InterfaceRenamed { before: String, iface: String, stays: bool },
    /// A device that packets are sent to has gone, or is there again.
    Device { name: String, there: bool, span: Span },
    /// A pattern names no cgroup so far.
    NoCgroupYet { pattern: String, span: Span },
    /// A cgroup came while running, and was attached to.
    CgroupAppeared { path: String, points: Vec<String> },
    /// A cgroup that was attached to is gone; `left` others are there.
    CgroupGone { path: String, left: usize },
    /// A network namespace that was attached in has lost its name.
    NamespaceGone { netns: String },
    /// An attach point is missing, and the script's `missing_probes` says to go on.
    MissingProbe { message: String, span: Span },
    /// A replay has ended: packets read, and their verdicts in words.
    Replayed { packets: u64, verdicts: String },
    /// What weir attached without a link could not be removed.
    Remains { iface: String, netns: Option<String>, left: Left },
    /// Filters of dead owners were removed at start.
    RemovedStale { count: usize },
    /// What `limit` held back since the last such notice.
    Limited { count: u64, span: Span },
    /// `-k`: a helper of the kernel has failed.
    Helper { helper: &'static str, code: i64, span: Span },
    /// `errorf` or `warnf` of the script.
    Script { message: String, error: bool, span: Span },
    /// A native has something to say.
    Native {
        /// Its name in the script.
        alias: String,
        message: String,
        warning: bool,
        span: Option<Span>,
    },
    /// Anything else, with what to do about it.
    Other { message: String, span: Option<Span> },
}

/// What could not be removed from an interface, and why its owner could not. Why the helper process could not either is not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    Filter {
        direction: &'static str,
        priority: u16,
        handle: u32,
        error: String,
    },
    /// A clsact qdisc that weir made; its filters are gone.
    Qdisc { error: String },
}

/// The helper that refuses to update a full map.
pub(crate) const UPDATE: &str = "map_update_elem";

fn with_helper(f: &mut fmt::Formatter<'_>, helper: &str, code: i64) -> fmt::Result {
    let message = helper_message(helper, code);
    write!(f, "{message}\nAdditional Info - helper: {helper}, retcode: {code}")
}

/// Says what a failed helper means, in bpftrace's words.
#[must_use]
pub fn helper_message(helper: &str, code: i64) -> String {
    match helper {
        UPDATE if code == -i64::from(libc::E2BIG) => {
            "Map full; can't update element. Try increasing max_map_keys config or manually setting \
                                                      the max entries in a map declaration e.g. `let @a = hash(5000)`"
                .to_owned()
        }
        "map_lookup_elem" => "Can't lookup map element because it does not exist.".to_owned(),
        "map_delete_elem" if code == -i64::from(libc::ENOENT) => "Can't delete map element because it does not exist.".to_owned(),
        _ => errno_text(code),
    }
}

/// What the C library says of the negative error number that a helper returns. JSON has no more: it names helper and number, too.
#[must_use]
pub fn errno_text(code: i64) -> String {
    let errno = i32::try_from(code.unsigned_abs()).unwrap_or(0);
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    // The standard library adds ` (os error N)`.
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

impl Notice {
    /// Returns whether it is a warning, not only information.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        !matches!(
            self,
            Notice::Attached { .. }
                | Notice::Named { .. }
                | Notice::Replayed { .. }
                | Notice::RemovedStale { .. }
                | Notice::Limited { .. }
                | Notice::Script { error: true, .. }
                | Notice::XdpModes { .. }
                | Notice::AttachedTo { .. }
                | Notice::InterfaceAppeared { .. }
                | Notice::InterfaceGone { .. }
                | Notice::InterfaceRenamed { .. }
                | Notice::Device { there: true, .. }
                | Notice::CgroupAppeared { .. }
                | Notice::CgroupGone { .. }
                | Notice::NamespaceGone { .. }
                | Notice::Native { warning: false, .. }
        )
    }

    /// Returns the place in the script that it is about.
    #[must_use]
    pub fn span(&self) -> Option<Span> {
        match self {
            Notice::MapFull { span, .. }
            | Notice::XdpGeneric { span, .. }
            | Notice::XdpDisplaced { span, .. }
            | Notice::NoInterfaceYet { span, .. }
            | Notice::NoCgroupYet { span, .. }
            | Notice::Device { span, .. }
            | Notice::LateAttach { span, .. }
            | Notice::MissingProbe { span, .. }
            | Notice::NoMetadata { span, .. }
            | Notice::NoDevice { span, .. }
            | Notice::Limited { span, .. }
            | Notice::Helper { span, .. }
            | Notice::Script { span, .. } => Some(*span),
            Notice::Native { span, .. } | Notice::Other { span, .. } => *span,
            _ => None,
        }
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Notice::MapFull {
                map,
                lpm,
                max_entries,
                refused,
                ..
            } => {
                let room = max_entries.saturating_mul(4);
                let updates = if *refused == 1 { "update was" } else { "updates were" };
                let todo = if *lpm {
                    format!("declare it with more room: `let {map} = lpm({room});`")
                } else {
                    format!("raise `max_map_keys` in the `config` block, or declare the map with room: `let {map} = hash({room});`")
                };
                Some(format!(
                    "`{map}` has room for {max_entries} keys, {refused} {updates} refused: {todo}"
                ))
            }
            Notice::Remains { iface, netns, left } => {
                let inside = netns
                    .as_deref()
                    .map_or_else(String::new, |netns| format!("nsenter --net={} ", netns::path(netns)));
                Some(match left {
                    // Not `weir clean`: its owner may be a session of several, which lives on.
                    Left::Filter {
                        direction,
                        priority,
                        handle,
                        ..
                    } => format!(
                        "ten seconds from now it lets everything pass; remove it: \
                         `{inside}tc filter del dev {iface} {direction} prio {priority} handle {handle:#x} bpf`"
                    ),
                    Left::Qdisc { .. } => format!("it does nothing; remove it: `{inside}tc qdisc del dev {iface} clsact`"),
                })
            }
            Notice::NoMetadata { .. } => Some("decide in the `xdp` block itself, or match at `tc` ingress again".to_owned()),
            Notice::LostEventsTotal { .. } => Some("print less often, or aggregate in a map".to_owned()),
            Notice::LostCaptures { .. } => Some("capture fewer packets, or fewer bytes of each: `capture(64)`".to_owned()),
            Notice::XdpGeneric { iface, asked, .. } => Some(format!(
                "it runs after the kernel has made its buffer, and copies packets that have too little room in front or lie in pieces: \
                 {} is cheaper{}",
                asked.at_tc(iface),
                match asked {
                    Asked::Native { has_mode: false } => String::new(),
                    _ => format!("; write {} to ask for it all the same", asked.in_mode(iface, "generic")),
                }
            )),
            Notice::NoInterfaceYet { known, .. } if !known.is_empty() => Some(format!("there are: {}", known.join(", "))),
            Notice::NoCgroupYet { .. } => Some("a path counts from the root of the cgroup v2 hierarchy: `/system.slice/*`".to_owned()),
            Notice::LateAttach { help, .. } => help.clone(),
            Notice::XdpDisplaced { comes_back: true, .. } => {
                Some("it is put back when weir ends, but not when weir is killed with SIGKILL".to_owned())
            }
            Notice::XdpDisplaced { .. } => Some("its owner holds it by a link: only the owner can attach it again".to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Attached { probes: 1 } => f.write_str("Attached 1 probe"),
            Notice::Attached { probes } => write!(f, "Attached {probes} probes"),
            Notice::Named { path } => write!(f, "Program pinned to {path}"),
            Notice::LostEvents { count } => write!(f, "Lost {count} events"),
            Notice::Replayed { packets, verdicts } => {
                let noun = if *packets == 1 { "packet" } else { "packets" };
                let separator = if verdicts.is_empty() { "" } else { ": " };
                write!(f, "Replayed {packets} {noun}{separator}{verdicts}")
            }
            Notice::LostCaptures { count: 1 } => f.write_str("1 packet is missing in the capture file"),
            Notice::LostCaptures { count } => write!(f, "{count} packets are missing in the capture file"),
            Notice::LostEventsTotal { count } => write!(f, "Total lost event count: {count}"),
            Notice::MapFull { .. } => with_helper(f, UPDATE, -i64::from(libc::E2BIG)),
            Notice::Limited { count, .. } => write!(f, "`limit` held back {count} runs"),
            Notice::Script { message, .. } => f.write_str(message),
            Notice::Helper { helper, code, .. } => with_helper(f, helper, *code),
            Notice::ScratchExhausted { count } => {
                write!(f, "{count} program runs were skipped because their working memory was in use")
            }
            Notice::NoDevice { device, count, .. } => {
                let packets = if *count == 1 { "packet was" } else { "packets were" };
                write!(f, "{count} {packets} sent to `{device}`, which was gone, and lost")
            }
            Notice::NoMetadata { count, .. } => write!(
                f,
                "`pkt.meta` was not written {count} times: the interface's driver keeps no metadata"
            ),
            Notice::XdpGeneric { iface, reason, .. } => {
                write!(f, "`{iface}` runs XDP in generic mode: its driver refused native XDP ({reason})")
            }
            Notice::MissingProbe { message, .. } | Notice::Other { message, .. } => f.write_str(message),
            Notice::Native { alias, message, .. } => write!(f, "`{alias}`: {message}"),
            Notice::XdpModes { modes } => {
                for (i, mode) in ["native", "generic", "offload"].into_iter().enumerate() {
                    let names: Vec<String> = modes.iter().filter(|(_, m)| *m == mode).map(|(n, _)| format!("`{n}`")).collect();
                    if names.is_empty() {
                        continue;
                    }
                    let other = i > 0 && modes.iter().any(|(_, m)| *m != mode);
                    write!(f, "{}XDP runs in {mode} mode on {}", if other { "; " } else { "" }, list(&names))?;
                }
                Ok(())
            }
            Notice::XdpDisplaced { iface, program, .. } => write!(f, "took the XDP program of `{iface}` away: {program}"),
            Notice::NoInterfaceYet { pattern, .. } => write!(f, "no interface matches `{pattern}` yet; one that comes is attached to"),
            Notice::AttachedTo { point } => write!(f, "attached to `{point}`"),
            Notice::InterfaceAppeared { iface, points } => write!(f, "interface `{iface}` appeared: attached to {}", points.join(", ")),
            Notice::LateAttach { message, .. } => f.write_str(message),
            Notice::Device { name, there: true, .. } => write!(f, "interface `{name}` is there again: packets are sent to it"),
            Notice::Device { name, .. } => write!(
                f,
                "interface `{name}` is gone: packets that are sent to it are lost until it is back"
            ),
            Notice::NoCgroupYet { pattern, .. } => write!(f, "no cgroup matches `{pattern}` yet; one that comes is attached to"),
            Notice::CgroupAppeared { path, points } => write!(f, "cgroup `{path}` appeared: attached to {}", points.join(", ")),
            Notice::CgroupGone { path, left: 0 } => write!(f, "cgroup `{path}` is gone; it was the last one"),
            Notice::CgroupGone { path, left: 1 } => write!(f, "cgroup `{path}` is gone; the other one goes on"),
            Notice::CgroupGone { path, left } => write!(f, "cgroup `{path}` is gone; the other {left} go on"),
            Notice::InterfaceGone { iface, left: 0 } => write!(f, "interface `{iface}` is gone; it was the last one"),
            Notice::InterfaceGone { iface, left: 1 } => write!(f, "interface `{iface}` is gone; the other one goes on"),
            Notice::InterfaceGone { iface, left } => write!(f, "interface `{iface}` is gone; the other {left} go on"),
            Notice::InterfaceRenamed { before, iface, stays } => {
                let stays = if *stays { "; what is attached to it stays" } else { "" };
                write!(f, "interface `{before}` is called `{iface}` now{stays}")
            }
            Notice::NamespaceGone { netns } => write!(f, "network namespace `{netns}` is gone; what was attached there is detached"),
            Notice::Remains { iface, left, .. } => match left {
                Left::Filter {
                    direction,
                    priority,
                    handle,
                    error,
                } => write!(
                    f,
                    "weir's filter stays on `{iface}` {direction}, priority {priority} handle {handle:#x}: {error}"
                ),
                Left::Qdisc { error } => write!(f, "the clsact qdisc that weir made stays on `{iface}`: {error}"),
            },
            Notice::RemovedStale { count: 1 } => f.write_str("removed 1 stale filter whose owner had died"),
            Notice::RemovedStale { count } => write!(f, "removed {count} stale filters whose owners had died"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_programs_are_named_with_their_age() {
        let program = ForeignProgram {
            id: 7,
            name: "xdp_drop".to_owned(),
            age: Some(Duration::from_secs(200)),
            owners: vec![(12, "weir".to_owned())],
        };
        assert_eq!(program.to_string(), "`xdp_drop`, id 7, loaded 3 min ago, held by `weir` (pid 12)");
    }

    #[test]
    fn the_dispatcher_of_libxdp_is_known() {
        let help = |name: &str| {
            let error = Error::ForeignXdp {
                iface: "eth0".to_owned(),
                asked: Asked::Block,
                program: ForeignProgram {
                    id: 7,
                    name: name.to_owned(),
                    age: None,
                    owners: Vec::new(),
                },
                span: Span::default(),
            };
            error.help().join("\n")
        };
        let of_libxdp = help("xdp_dispatcher");
        assert!(
            of_libxdp.contains("libxdp's dispatcher") && of_libxdp.contains("xdp-loader unload eth0 --all"),
            "{of_libxdp}"
        );
        assert!(!help("xdp_drop").contains("libxdp"));
    }

    #[test]
    fn durations_take_the_largest_useful_unit() {
        let text: Vec<_> = [5, 120, 7200, 172_800].map(|s| short_duration(Duration::from_secs(s))).into();
        assert_eq!(text, ["5 s", "2 min", "2 h", "2 d"]);
    }
}
