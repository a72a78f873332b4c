//! Loaded programs → attached programs. One file for each kind of attach point.
//!
//! Links are owned by descriptors: dropping [`Attached`] (or dying) detaches. The one exception is the clsact
//! qdisc of kernels without tcx, see [`tc`] and [`reaper`].

mod attachments;
pub mod cgroup;
pub mod chain;
pub mod iface;
pub mod interfaces;
pub mod kprobe;
pub mod perf;
pub mod reaper;
pub mod run_once;
pub mod tc;
pub mod tracepoint;
pub mod tracing;
pub mod turn;
pub mod uprobe;
pub mod xdp;

use crate::error::{Error, Notice};
use crate::kernel::Kernel;
use crate::load::Loaded;
use crate::maps;
use crate::sys::SysError;
use crate::sys::bpf::{LinkTarget, link_create};
use interfaces::{Interfaces, Place, Settings, Target};
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use weir_compiler::kernel::{Feature, KernelInfo, Support};
use weir_compiler::object::{Attach, AttachPoint, CgroupPattern, IfacePattern, LinkLayer, MapRole, MissingProbes, Object, ProgramKind};
use weir_parser::Span;

/// Receives what a person should hear. Called from any thread.
pub type Observer = Arc<dyn Fn(&Notice) + Send + Sync>;

/// One attachment; dropping it detaches.
#[derive(Debug)]
pub enum Handle {
    /// A link alone (tcx, cgroups).
    Link(OwnedFd),
    Xdp(xdp::OnXdp),
    /// Behind a native on the XDP hook.
    Chained(chain::Chained),
    /// A link on a perf event. The link goes first.
    Perf {
        link: OwnedFd,
        event: OwnedFd,
    },
    /// A filter in a clsact chain.
    Clsact(tc::ClsactFilter),
}

/// One program and one place that it goes to.
#[derive(Clone, Copy, Debug)]
pub struct Point<'a> {
    pub program: BorrowedFd<'a>,
    /// Which of the program's places it is; the program can ask the kernel for it.
    pub cookie: u64,
    pub span: Span,
}

impl Point<'_> {
    fn error(&self, point: &str, source: SysError) -> Error {
        Error::Attach {
            point: point.to_owned(),
            span: self.span,
            source,
        }
    }
}

/// What attaching needs.
pub struct Attacher<'a> {
    pub kernel: &'a Kernel,
    /// The one process whose events count, where the kernel can tell them apart.
    pub pid: Option<u32>,
    /// Functions of a pattern that the kernel refused.
    left_out: Option<(Span, Vec<String>)>,
    pub observer: &'a Observer,
    /// Says where each program is attached.
    pub verbose: bool,
    /// Where programs look up the names of interfaces, by network namespace, if any does.
    names: Vec<(Option<String>, OwnedFd)>,
    pub attached: Attached,
}

/// Everything that is attached.
#[derive(Debug)]
pub struct Attached {
    handles: Vec<Handle>,
    pub interfaces: Interfaces,
    pub cgroups: cgroup::Cgroups,
    /// As bpftrace counts them: attach points, `begin` and `end` included.
    pub probes: usize,
    /// Run once, when everything else is attached.
    pub iterators: Vec<tracing::Iterator>,
}

/// Up to this many attachments are removed one after the other.
const DETACH_ALONE: usize = 8;
const DETACH_THREADS: usize = 64;

impl Attached {
    /// Detaches everything. Filters of a clsact chain are removed one by one, the last one takes the qdisc along if it is ours.
    pub fn detach(mut self) {
        // Closing a perf event waits for every CPU to have passed by; hundreds of them wait together.
        let mut handles = std::mem::take(&mut self.handles);
        if handles.len() > DETACH_ALONE {
            let chunk = handles.len().div_ceil(DETACH_THREADS);
            std::thread::scope(|scope| {
                while !handles.is_empty() {
                    let part = handles.split_off(handles.len().saturating_sub(chunk));
                    // Where there can be no more threads they wait one after the other: the closure is dropped here.
                    let _ = std::thread::Builder::new().spawn_scoped(scope, move || drop(part));
                }
            });
        }
        drop(handles);
    }
}

impl<'a> Attacher<'a> {
    #[must_use]
    pub fn new(kernel: &'a Kernel, observer: &'a Observer, reaper_args: &[OsString], settings: Settings) -> Self {
        let tcx = kernel.feature(Feature::Tcx) == Support::Yes;
        Self {
            kernel,
            observer,
            verbose: settings.verbose,
            names: Vec::new(),
            attached: Attached {
                handles: Vec::new(),
                interfaces: Interfaces::new(tcx, settings, observer, reaper_args),
                cgroups: cgroup::Cgroups::new(observer),
                probes: 0,
                iterators: Vec::new(),
            },
            pid: None,
            left_out: None,
        }
    }

    /// Remembers where the programs of a script look up names.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn use_names(&mut self, object: &Object, loaded: &Loaded) -> Result<(), Error> {
        for (spec, map) in object.maps.iter().zip(&loaded.maps) {
            if let MapRole::Interfaces { netns } = &spec.role {
                self.names.push((netns.clone(), maps::dup(map.fd.as_fd(), &map.symbol)?));
            }
        }
        Ok(())
    }

    pub(crate) fn names(&self, pattern: &IfacePattern) -> Result<Option<OwnedFd>, Error> {
        let found = self.names.iter().find(|(netns, _)| *netns == pattern.netns);
        Ok(found.map(|(_, fd)| maps::dup(fd.as_fd(), "interface names")).transpose()?)
    }

    pub(crate) fn push(&mut self, handle: Handle) {
        self.attached.handles.push(handle);
    }

    /// Links a program to a perf event, which is then owned by [`Attached`].
    fn link_event(&mut self, place: &Point<'_>, point: &str, event: Result<OwnedFd, SysError>) -> Result<(), Error> {
        let event = event.map_err(|e| place.error(point, e))?;
        let target = LinkTarget::PerfEvent {
            event: event.as_fd(),
            cookie: place.cookie,
        };
        let link = link_create(place.program, target, point).map_err(|e| place.error(point, e))?;
        self.push(Handle::Perf { link, event });
        Ok(())
    }

    fn left_out(&mut self, span: Span, name: &str) {
        self.left_out.get_or_insert_with(|| (span, Vec::new())).1.push(name.to_owned());
    }

    /// Attaches every program of a script, except those that run once and the events of natives.
    ///
    /// # Errors
    /// The first attach point that cannot be had, unless the script says that missing probes do not matter.
    pub fn attach_all(&mut self, object: &Object, loaded: &Loaded) -> Result<(), Error> {
        let mut counter = Counter::of(object);
        for (spec, program) in object.programs.iter().zip(&loaded.programs) {
            if spec.kind == ProgramKind::KprobeMulti {
                kprobe::attach_many(self, program.as_fd(), &spec.attach, spec.span)?;
                continue;
            }
            for (cookie, attach) in (0u64..).zip(&spec.attach) {
                let place = Point {
                    program: program.as_fd(),
                    cookie,
                    span: attach.span,
                };
                let refused = self.left_out.as_ref().map_or(0, |(_, names)| names.len());
                match self.attach_one(attach, &place) {
                    Ok(()) if self.left_out.as_ref().map_or(0, |(_, names)| names.len()) > refused => {}
                    Ok(()) => self.attached.probes += usize::from(counter.counts(attach)),
                    Err(e) if is_missing(&e) && object.config.missing_probes != MissingProbes::Error => {
                        if object.config.missing_probes == MissingProbes::Warn {
                            (self.observer)(&Notice::MissingProbe {
                                message: e.to_string(),
                                span: attach.span,
                            });
                        }
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        kprobe::report_left_out(self);
        Ok(())
    }

    fn attach_one(&mut self, attach: &Attach, place: &Point<'_>) -> Result<(), Error> {
        let (program, span) = (place.program, place.span);
        match &attach.point {
            // Run by the session; a native's events are in its program array already.
            AttachPoint::Begin
            | AttachPoint::End
            | AttachPoint::Signal { .. }
            | AttachPoint::Timer { .. }
            | AttachPoint::NativeEvent { .. } => Ok(()),
            AttachPoint::Interval { period } => perf::interval(self, place, *period),
            AttachPoint::Profile { period } => perf::profile(self, place, *period),
            AttachPoint::Counter {
                hardware,
                event,
                config,
                count,
            } => perf::counter(self, place, *hardware, (event, *config, *count)),
            AttachPoint::Watchpoint { address, len, mode } => perf::watchpoint(self, place, *address, *len, *mode),
            AttachPoint::Tracepoint { category, name } => tracepoint::attach(self, place, category, name),
            AttachPoint::RawTracepoint { name } => tracing::raw_tracepoint(self, place, name),
            AttachPoint::Fentry { function, ret, .. } => tracing::function(self, place, function, *ret),
            AttachPoint::Iter { kind, pin, .. } => tracing::iterator(self, place, kind, pin.as_deref()),
            AttachPoint::Uprobe {
                path,
                function,
                offset,
                ret,
            } => {
                let kind = if *ret { "uretprobe" } else { "uprobe" };
                let code = uprobe::Code {
                    point: &format!("{kind}:{path}:{function}"),
                    path,
                    offset: *offset,
                    semaphore: 0,
                    ret: *ret,
                };
                uprobe::attach(self, place, &code)
            }
            AttachPoint::Usdt {
                path,
                provider,
                name,
                offset,
                semaphore,
            } => {
                let code = uprobe::Code {
                    point: &format!("usdt:{path}:{provider}:{name}"),
                    path,
                    offset: *offset,
                    semaphore: *semaphore,
                    ret: false,
                };
                uprobe::attach(self, place, &code)
            }
            AttachPoint::Kprobe {
                module,
                function,
                offset,
                ret,
                pattern,
            } => {
                let target = crate::sys::perf::KprobeTarget {
                    module: module.as_deref(),
                    function,
                    offset: *offset,
                    ret: *ret,
                };
                kprobe::attach(self, place, &target, *pattern)
            }
            AttachPoint::Xdp { iface, mode } => self.on_interfaces(program, iface, Place::Xdp(*mode), span),
            AttachPoint::CgroupSkb { path, direction } => self.on_cgroups(program, path, cgroup::Place::Packets(*direction), span),
            AttachPoint::Cgroup { path, hook } => self.on_cgroups(program, path, cgroup::Place::Call(hook), span),
            AttachPoint::Tc { iface, direction } => self.on_interfaces(program, iface, Place::Tc(*direction), span),
        }
    }

    fn on_interfaces(&mut self, program: BorrowedFd<'_>, pattern: &IfacePattern, place: Place, span: Span) -> Result<(), Error> {
        let target = Target {
            program: maps::dup(program, "program")?,
            pattern: pattern.clone(),
            place,
            names: self.names(pattern)?,
            pin: None,
            chain: None,
            asked: crate::error::Asked::Block,
            span,
        };
        self.attached.interfaces.add(target).map(drop)
    }

    fn on_cgroups(&mut self, program: BorrowedFd<'_>, pattern: &CgroupPattern, place: cgroup::Place, span: Span) -> Result<(), Error> {
        let target = cgroup::Target {
            program: maps::dup(program, "program")?,
            pattern: pattern.clone(),
            place,
            span,
        };
        self.attached.cgroups.add(target, self.verbose)
    }

    /// Ends attaching.
    #[must_use]
    pub fn finish(self) -> Attached {
        self.attached
    }
}

/// How many probes a script has, had everything been attached.
#[must_use]
pub fn probes(object: &Object) -> usize {
    let mut counter = Counter::of(object);
    object.programs.iter().flat_map(|p| &p.attach).filter(|a| counter.counts(a)).count()
}

/// Tells which attach points are probes to whoever wrote the script.
struct Counter<'a> {
    object: &'a Object,
    /// Static events, by where the attach point stands, file, provider and name: the compiler may have put one into several places of a
    /// file.
    events: HashSet<(Span, [&'a str; 3])>,
}

impl<'a> Counter<'a> {
    fn of(object: &'a Object) -> Self {
        Self {
            object,
            events: HashSet::new(),
        }
    }

    fn counts(&mut self, attach: &'a Attach) -> bool {
        match &attach.point {
            // A pattern is attached twice, by what packets start with, and patterns that overlap in parts.
            AttachPoint::Xdp { iface, .. } | AttachPoint::Tc { iface, .. } => {
                !(iface.is_glob() && iface.link_layer == LinkLayer::None) && iface.overlap.also.is_empty()
            }
            AttachPoint::CgroupSkb { path, .. } | AttachPoint::Cgroup { path, .. } => path.overlap.also.is_empty(),
            AttachPoint::NativeEvent { instance, link_layer, .. } => {
                let pattern = self
                    .object
                    .natives
                    .get(*instance)
                    .and_then(weir_compiler::object::NativeInstance::iface);
                !(*link_layer == LinkLayer::None && pattern.is_some_and(|p| p.is_glob()))
            }
            AttachPoint::Usdt { path, provider, name, .. } => self.events.insert((attach.span, [path, provider, name])),
            _ => true,
        }
    }
}

/// Whether an error means that the attach point does not exist here (and not that it was refused).
fn is_missing(error: &Error) -> bool {
    match error {
        Error::NoCgroup { .. } | Error::NoTracepoint { .. } | Error::NoKprobes { .. } | Error::NoInterface { .. } => true,
        Error::Attach { source, .. } => source.errno() == libc::ENOENT,
        _ => false,
    }
}
