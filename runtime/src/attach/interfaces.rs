//! Programs on interfaces: on those that are there when a script starts, and on those that come while it runs.
//!
//! Input: programs with the patterns of their interfaces, then the kernel's word that something changed. Output: one attachment for
//! each program and interface, and notices. What cannot be attached at the start is an error; later it is a warning, and the others
//! go on.

use super::attachments::{Attachment, Attachments};
use super::chain::{self, Chain};
use super::reaper::Reaper;
use super::{Handle, Observer, iface, tc, xdp};
use crate::error::{Asked, Error, Notice};
use crate::kernel::running_version;
use crate::pin::Pin;
use crate::sys::netlink::{Link, LinkMonitor, Netlink};
use crate::sys::{Result as SysResult, SysError, bpf, netns};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use weir_compiler::kernel::KernelVersion;
use weir_compiler::object::{Direction, IfacePattern, LinkLayer, Overlap, XdpMode};
use weir_compiler::tables::IFNAME_BYTES;
use weir_parser::Span;

/// How to get along with other programs on the same hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where in a tcx chain.
    pub order: Option<Order>,
    /// Priority of filters in a clsact chain.
    pub priority: Option<u16>,
    /// Takes the place of somebody else's XDP program.
    pub force: bool,
    /// Says where each program is attached.
    pub verbose: bool,
}

/// Beside which other program ours goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Else behind it.
    pub before: bool,
    pub program: ProgramName,
}

/// A loaded program of anybody, as `bpftool prog` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramName {
    Id(u32),
    Name(String),
}

impl std::fmt::Display for ProgramName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ProgramName::Id(id) => write!(f, "{id}"),
            ProgramName::Name(name) => f.write_str(name),
        }
    }
}

/// The hook of an interface that a program hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Xdp(XdpMode),
    Tc(Direction),
}

/// A program with the interfaces it is for.
#[derive(Debug)]
pub struct Target {
    pub program: OwnedFd,
    pub pattern: IfacePattern,
    pub place: Place,
    /// Where the program looks up the names of interfaces, if it does.
    pub names: Option<OwnedFd>,
    /// The named instance that it belongs to: what it hangs on outlives us.
    pub pin: Option<Arc<Pin>>,
    /// Lets others come behind it on the XDP hook. Without one it is the last.
    pub chain: Option<Chain>,
    /// In whose words it was asked for.
    pub asked: Asked,
    pub span: Span,
}

/// One program about to be attached to one interface.
pub(super) struct Attempt<'a> {
    pub program: BorrowedFd<'a>,
    pub link: &'a Link,
    pub netns: Option<&'a str>,
    pub pin: Option<&'a Pin>,
    /// How many programs of this script are before it at the same place.
    pub earlier: u16,
    /// The last of them.
    pub previous: Option<BorrowedFd<'a>>,
    pub asked: Asked,
    pub span: Span,
    pub settings: &'a Settings,
    pub observer: &'a Observer,
}

#[derive(Debug)]
struct Watch {
    netns: Option<String>,
    /// Which namespace the name stands for.
    identity: Option<(u64, u64)>,
    monitor: LinkMonitor,
}

/// All programs on interfaces.
pub struct Interfaces {
    /// Before the reaper: it is told to go only when the filters are gone.
    attached: Attachments,
    targets: Vec<Target>,
    /// Namespaces that targets name; attachments have their index.
    namespaces: Vec<Option<String>>,
    /// Attempts that failed while running, said once: target and interface.
    failed: HashSet<(usize, u32)>,
    /// Interfaces that a pattern names and whose packets nobody here can read, said once: namespace and number.
    unreadable: HashSet<(usize, u32)>,
    /// Interfaces of which it was said that generic XDP hides their headers, by namespace and index.
    hidden: HashSet<(usize, u32)>,
    /// Interfaces of which it was said that their packets start outside, by namespace and index.
    outside: HashSet<(usize, u32)>,
    watches: Vec<Watch>,
    /// Readable when any watch is.
    ready: Option<Epoll>,
    tcx: bool,
    settings: Settings,
    observer: Observer,
    reaper_args: Vec<OsString>,
    reaper: Option<Reaper>,
}

impl std::fmt::Debug for Interfaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interfaces")
            .field("attached", &self.attached)
            .field("targets", &self.targets)
            .finish_non_exhaustive()
    }
}

impl Interfaces {
    #[must_use]
    pub fn new(tcx: bool, settings: Settings, observer: &Observer, reaper_args: &[OsString]) -> Self {
        Self {
            attached: Attachments::default(),
            targets: Vec::new(),
            namespaces: Vec::new(),
            failed: HashSet::new(),
            unreadable: HashSet::new(),
            hidden: HashSet::new(),
            outside: HashSet::new(),
            watches: Vec::new(),
            ready: None,
            tcx,
            settings,
            observer: observer.clone(),
            reaper_args: reaper_args.to_vec(),
            reaper: None,
        }
    }

    /// Attaches a program to every interface that its pattern names, and remembers it for those to come. Returns how many there are.
    ///
    /// # Errors
    /// When an interface named in full does not exist, or any of them refuses.
    pub fn add(&mut self, target: Target) -> Result<usize, Error> {
        // Listening starts first: what comes while we list is heard.
        self.watch(target.pattern.netns.as_deref(), target.span)?;
        let links = iface::resolve(&target.pattern, target.span)?;
        // Of a pattern that is attached in parts the first one for Ethernet speaks, when the others find nothing either.
        let speaks = target.pattern.link_layer == LinkLayer::Ethernet && target.pattern.overlap.also.is_empty();
        // Both directions of a native are one place in the script.
        let name = target.pattern.to_string();
        let told = self
            .targets
            .iter()
            .any(|t| t.span == target.span && t.pattern.link_layer == LinkLayer::Ethernet && t.pattern.to_string() == name);
        if links.is_empty() && speaks && !told && !any(&target) {
            (self.observer)(&Notice::NoInterfaceYet {
                pattern: name,
                known: iface::names(target.pattern.netns.as_deref()).unwrap_or_default(),
                span: target.span,
            });
        }
        let index = self.targets.len();
        if !self.namespaces.contains(&target.pattern.netns) {
            self.namespaces.push(target.pattern.netns.clone());
        }
        self.targets.push(target);
        if speaks && self.targets[index].pattern.is_glob() {
            let target = &self.targets[index];
            let named = iface::named(&target.pattern, target.span)?;
            named.iter().for_each(|link| self.pass_over(index, link));
        }
        let mut modes = Vec::new();
        for link in &links {
            let handle = self.attach(index, link)?;
            if let Handle::Xdp(on) = &handle {
                let netns = self.targets[index].pattern.netns.as_deref();
                modes.push((with_netns(&link.name, netns), on.mode()));
            }
            if self.settings.verbose {
                let mut point = self.describe(index, link);
                if matches!(handle, Handle::Chained(_))
                    && let Some((chain, _)) = self.before(index, link)
                {
                    point = format!("{point}, behind `{}`", chain.alias());
                }
                (self.observer)(&Notice::AttachedTo { point });
            }
            self.keep(index, link, handle);
        }
        if !modes.is_empty() {
            (self.observer)(&Notice::XdpModes { modes });
        }
        Ok(links.len())
    }

    /// Says of an interface that a target names that it stays without a program, if nobody can read its packets. Of one that is named in full also if
    /// its packets start with something else than those of the interface that had the name at the start.
    fn pass_over(&mut self, index: usize, link: &Link) {
        let target = &self.targets[index];
        let (pattern, span) = (&target.pattern, target.span);
        let place = (self.namespace(pattern.netns.as_deref()), link.ifindex);
        let is_named = iface::is_named(pattern, link) && !iface::matches(pattern, link);
        // A pattern has programs for either.
        let has_another = pattern.is_glob() && iface::link_layer(link).is_some();
        if !is_named || has_another || !self.unreadable.insert(place) {
            return;
        }
        let error = iface::wrong_kind(link, span);
        let help = error.help();
        (self.observer)(&Notice::LateAttach {
            message: format!("{error}: it has no program of this script"),
            help: help.into_iter().next(),
            span,
        });
    }

    /// Says once of an interface whose packets start with a tunnel's header that what is inside is not looked at.
    fn starts_outside(&mut self, target: usize, link: &Link) {
        let target = &self.targets[target];
        let span = target.span;
        let place = (self.namespace(target.pattern.netns.as_deref()), link.ifindex);
        if !link.starts_outside || !self.outside.insert(place) {
            return;
        }
        (self.observer)(&Notice::LateAttach {
            message: format!(
                "`{}` is a GRE tunnel without one other end: its packets start with the outer IP header (`ip.proto` 47), and addresses and ports are not those inside",
                link.name
            ),
            help: Some("use the interfaces that its packets come from and go to, or a tunnel for each other end".to_owned()),
            span,
        });
    }

    fn keep(&mut self, target: usize, link: &Link, handle: Handle) {
        self.starts_outside(target, link);
        let netns = self.namespace(self.targets[target].pattern.netns.as_deref());
        self.attached.push(Attachment {
            target,
            netns,
            ifindex: link.ifindex,
            iface: link.name.clone(),
            handle,
        });
        self.hides_headers(netns, link);
    }

    /// Says once of an interface that has XDP in generic mode, anybody's, that blocks at TC find no header in what comes in. Natives do, and
    /// of blocks that ask for the mode themselves the compiler has said so.
    fn hides_headers(&mut self, netns: usize, link: &Link) {
        let (mut generic, mut block) = (link.xdp.generic != 0, None);
        for attachment in self.attached.on(netns, link.ifindex) {
            let target = &self.targets[attachment.target];
            match (target.place, &attachment.handle) {
                (Place::Xdp(XdpMode::Generic), _) if target.asked == Asked::Block => return,
                (_, Handle::Xdp(on)) => generic |= on.mode() == "generic",
                (Place::Tc(Direction::Ingress), _) if target.asked == Asked::Block => block = block.or(Some(target)),
                _ => {}
            }
        }
        let Some(target) = block.filter(|t| generic && t.pattern.link_layer == LinkLayer::Ethernet) else {
            return;
        };
        if running_version() < KernelVersion::new(6, 9, 0) {
            return;
        }
        let span = target.span;
        if self.hidden.insert((netns, link.ifindex)) {
            (self.observer)(&Notice::LateAttach {
                message: format!(
                    "`{}` has XDP in generic mode: what comes in reaches TC without its Ethernet header, and blocks find no header in it",
                    link.name
                ),
                help: Some("use native XDP there, or none; natives (`use`) read such packets".to_owned()),
                span,
            });
        }
    }

    fn describe(&self, target: usize, link: &Link) -> String {
        let target = &self.targets[target];
        point_name(target.place, link, target.pattern.netns.as_deref())
    }

    fn namespace(&self, netns: Option<&str>) -> usize {
        // One that no target names has nothing attached.
        let known = self.namespaces.iter().position(|n| n.as_deref() == netns);
        known.unwrap_or(self.namespaces.len())
    }

    /// What is on the hook of a target and this interface already, in its order.
    fn earlier(&self, target: usize, link: &Link) -> impl DoubleEndedIterator<Item = &Attachment> {
        let target = &self.targets[target];
        let (place, netns) = (target.place, self.namespace(target.pattern.netns.as_deref()));
        let one_hook = move |other: Place| match (place, other) {
            // The card has a hook of its own.
            (Place::Xdp(a), Place::Xdp(b)) => (a == XdpMode::Offload) == (b == XdpMode::Offload),
            (a, b) => a == b,
        };
        self.attached
            .on(netns, link.ifindex)
            .filter(move |a| one_hook(self.targets[a.target].place))
    }

    /// The native that a target comes behind on this interface, and the mode of what is attached there.
    fn before(&self, target: usize, link: &Link) -> Option<(&Chain, &'static str)> {
        if !matches!(self.targets[target].place, Place::Xdp(_)) {
            return None;
        }
        let last = self.earlier(target, link).next_back()?;
        let mode = match &last.handle {
            Handle::Xdp(on) => on.mode(),
            Handle::Chained(chained) => chained.mode,
            _ => return None,
        };
        Some((self.targets[last.target].chain.as_ref()?, mode))
    }

    /// Puts a target behind the natives of this script that are on the interface already.
    fn attach_behind(&self, index: usize, link: &Link) -> Result<Option<Handle>, Error> {
        use std::os::fd::AsFd;
        let target = &self.targets[index];
        let (Some((chain, mode)), Place::Xdp(wanted)) = (self.before(index, link), target.place) else {
            return Ok(None);
        };
        let refuse = |message, help: &str| {
            Err(Error::Chain {
                message,
                help: help.to_owned(),
                span: target.span,
            })
        };
        let (alias, iface) = (chain.alias(), &link.name);
        if self.earlier(index, link).count() > chain::MOST {
            let message = format!("more than {} users of the XDP hook of `{iface}`", chain::MOST + 1);
            return refuse(message, "give one instance the lists of several, or use TC for some");
        }
        if wanted.asked_for().is_some_and(|asked| asked != mode) {
            let message = format!("`{alias}` runs in {mode} mode on `{iface}`, and an interface has XDP in one mode");
            return refuse(message, "give both the same mode");
        }
        if let Some(pin) = &target.pin {
            let message = format!("`{}` would end with weir: on `{iface}` it comes behind `{alias}`", pin.name());
            return refuse(
                message,
                "what has a name must be the first on its interface: put its `use` first, or leave `pin` out",
            );
        }
        let chained = chain.put(index, target.program.as_fd(), link.ifindex, mode, target.span)?;
        Ok(Some(Handle::Chained(chained)))
    }

    fn attach(&mut self, target: usize, link: &Link) -> Result<Handle, Error> {
        use std::os::fd::AsFd;
        let index = target;
        let target = &self.targets[target];
        // Before the first packet.
        note_name(target, link)?;
        if let Some(handle) = self.attach_behind(index, link)? {
            return Ok(handle);
        }
        let attempt = Attempt {
            program: target.program.as_fd(),
            link,
            netns: target.pattern.netns.as_deref(),
            pin: target.pin.as_deref(),
            earlier: u16::try_from(self.earlier(index, link).count()).unwrap_or(u16::MAX),
            previous: self
                .earlier(index, link)
                .next_back()
                .map(|a| self.targets[a.target].program.as_fd()),
            asked: target.asked,
            span: target.span,
            settings: &self.settings,
            observer: &self.observer,
        };
        match target.place {
            Place::Xdp(mode) => xdp::attach(&attempt, mode).map(Handle::Xdp),
            Place::Tc(direction) if self.tcx => tc::attach_tcx(&attempt, direction).map(Handle::Link),
            Place::Tc(direction) => {
                let reaper = match &mut self.reaper {
                    Some(reaper) => reaper,
                    none => none.insert(Reaper::start(&self.reaper_args, &self.observer)?),
                };
                tc::attach_clsact(&attempt, direction, reaper).map(Handle::Clsact)
            }
        }
    }

    fn watch(&mut self, netns: Option<&str>, span: Span) -> Result<(), Error> {
        if self.watches.iter().any(|w| w.netns.as_deref() == netns) {
            return Ok(());
        }
        let monitor = iface::in_netns(netns, span, LinkMonitor::open)?;
        let no_epoll = |e: nix::errno::Errno| SysError::new("wait for", "interfaces", e.into());
        if self.ready.is_none() {
            self.ready = Some(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(no_epoll)?);
        }
        // SAFETY: the socket is open and is closed, which takes it out again, only with the watch that owns it.
        let socket = unsafe { BorrowedFd::borrow_raw(monitor.as_raw_fd()) };
        if let Some(ready) = &self.ready {
            ready.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(no_epoll)?;
        }
        self.watches.push(Watch {
            netns: netns.map(str::to_owned),
            identity: netns.and_then(netns::identity),
            monitor,
        });
        Ok(())
    }

    /// A descriptor that is readable when [`Self::refresh`] has something to do.
    #[must_use]
    pub fn ready(&self) -> Option<RawFd> {
        self.ready.as_ref().map(|e| e.0.as_raw_fd())
    }

    /// Whether namespaces of others have to be looked after: [`Self::check_namespaces`].
    #[must_use]
    pub fn looks_into_namespaces(&self) -> bool {
        self.watches.iter().any(|w| w.netns.is_some())
    }

    /// Takes in what has happened to interfaces: attaches to new ones, lets go of those that are gone.
    pub fn refresh(&mut self) {
        for i in 0..self.watches.len() {
            let changes = self.watches[i].monitor.changes();
            if changes.any {
                let netns = self.watches[i].netns.clone();
                self.refresh_in(netns.as_deref(), &changes.gone);
            }
        }
    }

    fn refresh_in(&mut self, netns: Option<&str>, gone: &[u32]) {
        // Entered by its name, which must still stand for the same namespace.
        if self.watches.iter().any(|w| w.netns.as_deref() == netns && w.is_stale()) {
            return;
        }
        let list = || -> SysResult<Vec<Link>> { Netlink::open()?.links() };
        let Ok(Ok(mut links)) = netns::run_in(netns, list) else { return };
        let namespace = self.namespace(netns);
        let there: HashSet<u32> = links.iter().map(|l| l.ifindex).collect();
        let mut lost = self.attached.interfaces_of(namespace);
        lost.retain(|ifindex| gone.contains(ifindex) || !there.contains(ifindex));
        lost.sort_unstable();
        self.failed.retain(|(_, ifindex)| !gone.contains(ifindex));
        self.unreadable.retain(|(_, ifindex)| !gone.contains(ifindex));
        self.hidden.retain(|(_, ifindex)| !gone.contains(ifindex));
        self.outside.retain(|(_, ifindex)| !gone.contains(ifindex));
        self.let_go(&lost, netns);
        let renamed = links.iter().filter(|link| self.rename(link, netns)).count();
        if renamed > 0 {
            // The list is of when they had their programs.
            let Ok(Ok(again)) = netns::run_in(netns, list) else { return };
            links = again;
        }
        for link in &links {
            let mut points: Vec<String> = Vec::new();
            for target in 0..self.targets.len() {
                let pattern = &self.targets[target].pattern;
                if pattern.netns.as_deref() == netns && iface::is_named(pattern, link) && !iface::matches(pattern, link) {
                    self.pass_over(target, link);
                    continue;
                }
                let known = self.attached.on(namespace, link.ifindex).any(|a| a.target == target);
                if known
                    || pattern.netns.as_deref() != netns
                    || !iface::matches(pattern, link)
                    || self.failed.contains(&(target, link.ifindex))
                {
                    continue;
                }
                match self.attach(target, link) {
                    Ok(handle) => {
                        let mode = match &handle {
                            Handle::Xdp(on) => format!(" ({} mode)", on.mode()),
                            _ => String::new(),
                        };
                        let point = format!("`{}`{mode}", self.describe(target, link));
                        if !points.contains(&point) {
                            points.push(point);
                        }
                        self.keep(target, link, handle);
                    }
                    // Gone again already: the next message says so.
                    Err(Error::Attach { source, .. }) if source.errno() == libc::ENODEV => {}
                    Err(error) => {
                        self.failed.insert((target, link.ifindex));
                        let help = error.help();
                        (self.observer)(&Notice::LateAttach {
                            message: error.to_string(),
                            help: help.into_iter().next(),
                            span: self.targets[target].span,
                        });
                    }
                }
            }
            if !points.is_empty() {
                (self.observer)(&Notice::InterfaceAppeared {
                    iface: with_netns(&link.name, netns),
                    points,
                });
            }
            // Somebody's program may have come to it.
            self.hides_headers(namespace, link);
        }
    }

    /// Says that an interface has another name. What is on it stays, also where its pattern is for the old name only; but of blocks at
    /// one place, and of patterns that overlap, an interface has the program for its name: the other would be in its way, or count twice.
    /// Returns whether anything was detached.
    fn rename(&mut self, link: &Link, netns: Option<&str>) -> bool {
        let namespace = self.namespace(netns);
        let Some(before) = self.attached.rename(namespace, link.ifindex, &link.name) else {
            return false;
        };
        let is_part = |target: &Target| target.pattern.overlap != Overlap::default();
        let takes_over = |old: &Target, new: &Target| {
            let same = old.place == new.place && old.pattern.netns == new.pattern.netns;
            let are_blocks = old.asked == Asked::Block && new.asked == Asked::Block;
            same && (are_blocks || is_part(old) && is_part(new)) && iface::matches(&new.pattern, link)
        };
        let on = self.attached.on(namespace, link.ifindex).map(|a| a.target);
        let (mut goes, mut stays) = (Vec::new(), false);
        for index in on {
            let target = &self.targets[index];
            let may_go = target.pin.is_none() && !iface::matches(&target.pattern, link);
            if may_go && self.targets.iter().any(|new| takes_over(target, new)) {
                goes.push(index);
                continue;
            }
            stays = true;
            // If that fails, packets are told by the name that they had.
            let _ = note_name(target, link);
        }
        for index in &goes {
            drop(self.attached.take_of(namespace, link.ifindex, *index));
        }
        (self.observer)(&Notice::InterfaceRenamed {
            before: with_netns(&before, netns),
            iface: with_netns(&link.name, netns),
            stays,
        });
        !goes.is_empty()
    }

    /// Drops what is on these interfaces, and says so.
    fn let_go(&mut self, interfaces: &[u32], netns: Option<&str>) {
        let namespace = self.namespace(netns);
        let mut names: Vec<String> = Vec::new();
        for ifindex in interfaces {
            for attachment in self.attached.take(namespace, *ifindex) {
                // The kernel has let go of it already.
                drop(attachment.handle);
                if let Some(pin) = &self.targets[attachment.target].pin {
                    pin.forget_interface(*ifindex);
                }
                let name = with_netns(&attachment.iface, netns);
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let left = self.attached.interfaces();
        for iface in names {
            (self.observer)(&Notice::InterfaceGone { iface, left });
        }
    }

    /// Lets go of network namespaces whose name is gone: our sockets would keep them, and all that is in them, alive.
    pub fn check_namespaces(&mut self) {
        let stale: Vec<String> = self
            .watches
            .iter()
            .filter(|w| w.is_stale())
            .filter_map(|w| w.netns.clone())
            .collect();
        for netns in stale {
            self.watches.retain(|w| w.netns.as_deref() != Some(&netns));
            let namespace = self.namespace(Some(&netns));
            for ifindex in self.attached.interfaces_of(namespace) {
                drop(self.attached.take(namespace, ifindex));
            }
            if let Some(reaper) = &mut self.reaper {
                // Without it there is nobody who holds the namespace.
                let _ = reaper.leave(&netns);
            }
            (self.observer)(&Notice::NamespaceGone { netns });
        }
    }
}

impl Watch {
    fn is_stale(&self) -> bool {
        self.netns.as_deref().is_some_and(|name| netns::identity(name) != self.identity)
    }
}

/// Tells a program what an interface is called.
fn note_name(target: &Target, link: &Link) -> SysResult<()> {
    use std::os::fd::AsFd;
    let Some(names) = &target.names else { return Ok(()) };
    // A name is at most 15 bytes and its end.
    let mut name = [0; IFNAME_BYTES as usize];
    let bytes = link.name.as_bytes();
    let n = bytes.len().min(name.len() - 1);
    name[..n].copy_from_slice(&bytes[..n]);
    bpf::map_update(names.as_fd(), &link.ifindex.to_ne_bytes(), &name, 0, "interface names")
}

/// Whether any interface has a name that the pattern matches, whatever its packets start with and other patterns match.
fn any(target: &Target) -> bool {
    [LinkLayer::Ethernet, LinkLayer::None].into_iter().any(|link_layer| {
        let whole = IfacePattern {
            link_layer,
            overlap: Overlap::default(),
            ..target.pattern.clone()
        };
        iface::resolve(&whole, target.span).is_ok_and(|links| !links.is_empty())
    })
}

fn with_netns(iface: &str, netns: Option<&str>) -> String {
    netns.map_or_else(|| iface.to_owned(), |netns| format!("{iface}@{netns}"))
}

/// Names a hook of an interface as scripts do. Of a veth both sides are named: the kernel's words are those of the end that is here,
/// and people think of the end in the container.
pub(super) fn point_name(place: Place, link: &Link, netns: Option<&str>) -> String {
    let iface = with_netns(&link.name, netns);
    match place {
        Place::Xdp(_) => format!("xdp:{iface}"),
        Place::Tc(direction) => {
            let (word, pod) = match direction {
                Direction::Ingress => ("ingress", "from_pod: what its peer sends"),
                Direction::Egress => ("egress", "to_pod: what its peer receives"),
            };
            if matches!(link.kind.as_str(), "veth" | "netkit") {
                format!("tc:{iface}:{word} ({pod})")
            } else {
                format!("tc:{iface}:{word}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_veth_are_named() {
        let mut link = Link {
            name: "lxc1".to_owned(),
            kind: "veth".to_owned(),
            ..Link::default()
        };
        assert_eq!(
            point_name(Place::Tc(Direction::Ingress), &link, None),
            "tc:lxc1:ingress (from_pod: what its peer sends)"
        );
        assert_eq!(
            point_name(Place::Tc(Direction::Egress), &link, Some("blue")),
            "tc:lxc1@blue:egress (to_pod: what its peer receives)"
        );
        link.kind.clear();
        assert_eq!(point_name(Place::Tc(Direction::Egress), &link, None), "tc:lxc1:egress");
        assert_eq!(point_name(Place::Xdp(XdpMode::Auto), &link, None), "xdp:lxc1");
    }
}
