//! Instances of natives: the embedded object is parameterised, loaded, filled; script blocks hang on its events.

mod audit;
mod blocklist;
mod copies;
mod engine;
mod exact;
mod files;
mod fit;
mod flows;
mod forms;
pub(crate) mod heartbeat;
mod identity;
mod left;
mod lists;
mod pinned;
pub mod prefixes;
mod pressure;
mod process;
mod protect;
mod retransmits;
pub(crate) mod summary;
mod table;
pub(crate) mod upkeep;

use crate::attach::chain::{self, Behind, Chain};
use crate::attach::interfaces::{Place, Target};
use crate::attach::tracing::Iterator as KernelIterator;
use crate::attach::{Attacher, Handle, cgroup, iface};
use crate::error::{Asked, Error, Notice};
use crate::format::uint;
use crate::kernel::Kernel;
use crate::load::{Elf, Loaded};
use crate::maps::{Cell, Contents, Map, Row, Snapshot};
use crate::pin::Pin;
use crate::sys::bpf;
pub use audit::record_stop;
use engine::Engine;
use forms::{Forms, Program};
use lists::Lists;
pub use pinned::renew;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use weir_compiler::kernel::KernelInfo;
use weir_compiler::native_maps;
use weir_compiler::object::{AttachPoint, Direction, IfacePattern, LinkLayer, MapKind, NativeInstance, Object, XdpMode};
use weir_compiler::tables::{CGROUP_HOOKS, CgroupHook};
use weir_compiler::types::{MapValue, Type};
use weir_parser::Span;
use weir_stdlib::{Attach, MapDecl, MapShape, ParamType, ParamValue, ValueShape};

/// Packets and bytes by keys as [`Type::Prefix`].
type Counted = Vec<(Vec<u8>, [u64; 2])>;

/// Measured as docs/benchmarks.md says: "On a veth".
const VETH_FIGURE: &str = "Measured: TCP that passes took four times as long with XDP, and a dropped packet 2.6 µs instead of 2.2";

/// A native in the kernel.
#[derive(Debug)]
pub struct Instance {
    spec: NativeInstance,
    maps: HashMap<String, Map>,
    /// Those that the parameters ask for, in the order of the declaration.
    programs: Vec<Program>,
    /// Where the programs at XDP and TC go.
    iface: Option<(IfacePattern, XdpMode)>,
    /// Who comes behind each of its forms on the XDP hook.
    behind: Vec<(LinkLayer, Behind)>,
    /// What changes while it runs. Read by the printing thread, too.
    lists: Option<Mutex<Lists>>,
    engine: Option<Mutex<Box<dyn Engine>>>,
    /// What programs of the script see of its maps.
    copies: Mutex<Vec<copies::Copy>>,
    /// What was said and is still to be told.
    untold: Mutex<Vec<Notice>>,
    /// What its summary says above all: that it would cost less elsewhere.
    advice: OnceLock<String>,
    /// Everything of it is attached, or has been.
    started: OnceLock<()>,
    /// The name under which it outlives us. After everything that it holds.
    pin: Option<Arc<Pin>>,
}

/// What a native's own code decides: how its object is made ready.
pub(crate) struct Setup {
    pub elf: Elf,
    /// `max_entries` by map symbol.
    pub sizes: Vec<(&'static str, u32)>,
    /// Keys and values to fill in, by map symbol: both as the map wants them.
    pub fill: Vec<(&'static str, Vec<u8>, Vec<u8>)>,
    /// Symbols of programs that this kernel cannot have and that are not essential.
    pub skip: Vec<&'static str>,
    /// Maps, by their symbols, that a named instance keeps from one start to the next: what they count goes on.
    pub keep: &'static [&'static str],
    pub(in crate::native) lists: Option<Lists>,
    pub(in crate::native) engine: Option<Box<dyn Engine>>,
}

/// Reads the parameters of an instance.
pub(crate) struct Params<'a>(pub &'a NativeInstance);

impl Params<'_> {
    pub(crate) fn get(&self, name: &str) -> Option<(&ParamValue, Span)> {
        let i = self.0.native.params.iter().position(|p| p.name == name)?;
        let value = self.0.params.get(i)?.as_ref()?;
        Some((value, self.0.param_spans.get(i).copied().flatten().unwrap_or(self.0.span)))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)?.0 {
            ParamValue::Str(s) => Some(s),
            _ => None,
        }
    }

    pub(crate) fn int(&self, name: &str) -> Option<u64> {
        match self.get(name)?.0 {
            ParamValue::Int(n) => Some(*n),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            Some((ParamValue::Bool(value), _)) => *value,
            _ => default,
        }
    }

    /// Nanoseconds.
    pub(crate) fn duration(&self, name: &str) -> Option<u64> {
        match self.get(name)?.0 {
            ParamValue::Duration(ns) => Some(*ns),
            _ => None,
        }
    }
}

/// Loads every native of a script. Nothing is attached.
///
/// # Errors
/// Bad parameters, files that cannot be read, what the kernel says.
pub fn load_all(object: &Object, kernel: &Kernel) -> Result<Vec<Instance>, Error> {
    let natives = object.natives.iter().enumerate();
    natives.map(|(i, spec)| load(object, i, spec, kernel)).collect()
}

fn load(object: &Object, index: usize, spec: &NativeInstance, kernel: &Kernel) -> Result<Instance, Error> {
    // A native runs its event's jump, and the chain's, only where something is attached.
    let event_used = |event: &str| {
        object.programs.iter().flat_map(|p| &p.attach).any(|a| {
            matches!(&a.point, AttachPoint::NativeEvent { instance, event: e, .. }
                if *instance == index && spec.native.events.get(*e).is_some_and(|d| d.name == event))
        })
    };
    let params = Params(spec);
    let iface = iface_and_mode(&params)?;
    let netns = iface.as_ref().and_then(|(pattern, _)| pattern.netns.clone());
    let link_layers = spec.link_layers(kernel);
    let behind = match &iface {
        Some((pattern, _)) if spec.is_on_xdp() => link_layers
            .iter()
            .map(|layer| Ok((*layer, behind(object, index, pattern, *layer)?)))
            .collect::<Result<_, Error>>()?,
        _ => Vec::new(),
    };
    let chained = behind
        .iter()
        .any(|(layer, behind)| *layer == LinkLayer::Ethernet && *behind != Behind::Nobody);
    let pin = pinned::open(&params)?;
    let setup = match spec.native.name {
        "blocklist" => blocklist::setup(&params, netns.as_deref(), &event_used, chained, kernel, pin.as_deref())?,
        "flows" => flows::setup(&params, netns.as_deref(), &event_used, chained, kernel)?,
        "identity" => identity::setup(&params, netns.as_deref(), &event_used, kernel, pin.as_ref())?,
        "retransmits" => retransmits::setup(&params, &event_used, kernel)?,
        other => return Err(Error::Object(format!("no loader for native `{other}`"))),
    };
    let Setup {
        elf,
        sizes,
        fill,
        skip,
        keep,
        mut lists,
        mut engine,
    } = setup;
    let forms = Forms::new(spec, link_layers, elf, &behind)?;
    let maps = forms.maps(&sizes, keep, pin.as_deref())?;
    for (name, keys, values) in &fill {
        let map = maps.get(*name).ok_or_else(|| Error::Object(format!("no map `{name}`")))?;
        bpf::map_update_many(map.fd.as_fd(), keys, values, map.key_size as usize, map.value_size as usize, name)?;
    }
    if let Some(lists) = &mut lists {
        lists.move_in(&maps)?;
        if let Some(pin) = &pin {
            lists.take_over(pin);
        }
    }
    if let Some(engine) = &mut engine {
        engine.move_in(&maps)?;
    }
    let programs = forms.programs(&maps, &skip, kernel)?;
    Ok(Instance {
        spec: spec.clone(),
        maps,
        programs,
        iface,
        behind,
        lists: lists.map(Mutex::new),
        engine: engine.map(Mutex::new),
        copies: Mutex::default(),
        untold: Mutex::default(),
        advice: OnceLock::new(),
        started: OnceLock::new(),
        pin,
    })
}

/// The kernel's number for an iterator.
fn iterator_id(kernel: &Kernel, name: &str, spec: &NativeInstance) -> Result<u32, Error> {
    let found = kernel.btf().and_then(|btf| btf.find_func(&format!("bpf_iter_{name}")));
    found.map(|id| id.0).ok_or_else(|| Error::Param {
        message: format!("`{}` needs the kernel's iterator `{name}`, and its BTF has none", spec.native.name),
        help: Some("kernels are built with CONFIG_DEBUG_INFO_BTF for that".to_owned()),
        span: spec.span,
    })
}

/// Any descriptor, until the real one is known.
fn placeholder() -> Result<OwnedFd, Error> {
    let null = std::fs::File::open("/dev/null");
    null.map(OwnedFd::from)
        .map_err(|e| Error::Sys(crate::sys::SysError::new("open", "/dev/null", e)))
}

fn map_kind(kind: u32) -> MapKind {
    let kinds = [
        MapKind::Hash,
        MapKind::Array,
        MapKind::ProgArray,
        MapKind::PerCpuHash,
        MapKind::PerCpuArray,
        MapKind::StackTrace,
        MapKind::LruHash,
        MapKind::LruPerCpuHash,
        MapKind::LpmTrie,
        MapKind::RingBuf,
    ];
    kinds.into_iter().find(|k| *k as u32 == kind).unwrap_or(MapKind::Hash)
}

/// `IFACE[@NETNS]` and the mode, of natives on interfaces.
fn iface_and_mode(params: &Params<'_>) -> Result<Option<(IfacePattern, XdpMode)>, Error> {
    let on_interfaces = |a: &Attach| matches!(a, Attach::Xdp | Attach::TcIngress | Attach::TcEgress);
    if !params.0.native.programs.iter().any(|p| on_interfaces(&p.attach)) {
        return Ok(None);
    }
    let text = params.text("iface").ok_or_else(|| Error::Param {
        message: "`iface` is missing".to_owned(),
        help: None,
        span: params.0.span,
    })?;
    let mode = match params.text("mode") {
        Some("native") => XdpMode::Native,
        Some("generic") => XdpMode::Generic,
        Some("offload") => {
            return Err(Error::Param {
                message: format!(
                    "`{}` does not run in a card: it needs maps for each processor and a ring buffer, which cards do not have",
                    params.0.alias
                ),
                help: Some("write `mode=\"native\"`".to_owned()),
                span: params.get("mode").map_or(params.0.span, |(_, span)| span),
            });
        }
        _ => XdpMode::Auto,
    };
    Ok(Some((IfacePattern::parse(text), mode)))
}

/// A hook on system calls of sockets by its name.
fn cgroup_hook(name: &str) -> Result<&'static CgroupHook, Error> {
    let hook = CGROUP_HOOKS.iter().find(|h| h.name == name);
    hook.ok_or_else(|| Error::Object(format!("no cgroup hook `{name}`")))
}

/// Tells who may come behind an instance on the XDP hook of its interfaces: the natives after it, then the script's own blocks.
fn behind(object: &Object, index: usize, pattern: &IfacePattern, link_layer: LinkLayer) -> Result<Behind, Error> {
    let with_layer = |pattern: &IfacePattern| IfacePattern {
        link_layer,
        ..pattern.clone()
    };
    let mut natives = Vec::new();
    for spec in object.natives.iter().skip(index + 1).filter(|n| n.is_on_xdp()) {
        natives.extend(iface_and_mode(&Params(spec))?.map(|(pattern, _)| with_layer(&pattern)));
    }
    let points = object.programs.iter().flat_map(|p| &p.attach);
    let blocks = points.filter_map(|a| match &a.point {
        AttachPoint::Xdp { iface, .. } => Some(iface),
        _ => None,
    });
    let others: Vec<&IfacePattern> = natives.iter().chain(blocks).collect();
    Ok(chain::behind(&with_layer(pattern), &others))
}

impl Instance {
    /// Returns the name in the script.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.spec.alias
    }

    /// Opens a map by its symbol.
    #[must_use]
    pub fn map_fd(&self, symbol: &str) -> Option<BorrowedFd<'_>> {
        self.maps.get(symbol).map(|m| m.fd.as_fd())
    }

    /// Puts the script's programs for this native's events into its program array.
    ///
    /// # Errors
    /// What the kernel says; `EINVAL` when a program does not fit.
    pub fn connect(&self, index: usize, object: &Object, loaded: &Loaded) -> Result<(), Error> {
        for (spec, program) in object.programs.iter().zip(&loaded.programs) {
            for attach in &spec.attach {
                let AttachPoint::NativeEvent {
                    instance,
                    event,
                    link_layer,
                } = &attach.point
                else {
                    continue;
                };
                if *instance != index {
                    continue;
                }
                let slot = self.spec.native.events.get(*event).map_or(0, |e| e.slot);
                self.put(&forms::symbol(self.events(), *link_layer), slot, program, attach.span)?;
            }
        }
        Ok(())
    }

    /// The program array of the hook that the instance is on.
    fn events(&self) -> &'static str {
        use weir_ebpf_builtins::{EVENTS, EVENTS_TC, EVENTS_XDP};
        let own = if self.spec.is_on_xdp() { EVENTS_XDP } else { EVENTS_TC };
        if self.maps.contains_key(own) { own } else { EVENTS }
    }

    fn put(&self, array: &str, slot: u32, program: &OwnedFd, span: Span) -> Result<(), Error> {
        let map = self.maps.get(array).ok_or_else(|| Error::Object(format!("no map `{array}`")))?;
        bpf::map_update(map.fd.as_fd(), &slot.to_ne_bytes(), &program.as_raw_fd().to_ne_bytes(), 0, array).map_err(|source| Error::Attach {
            point: format!("{}:{array}[{slot}]", self.spec.alias),
            span,
            source,
        })
    }

    /// Attaches the native itself: to its interfaces, those that come later included, and to places of the kernel.
    ///
    /// # Errors
    /// As for any program of that kind.
    pub fn attach(&self, attacher: &mut Attacher<'_>) -> Result<(), Error> {
        let mut iterators = Vec::new();
        self.introduce()?;
        for program in &self.programs {
            let refused = |point: String, source| Error::Attach {
                point,
                span: self.spec.span,
                source,
            };
            match program.decl.attach {
                Attach::Xdp => {
                    let mode = self.iface.as_ref().map_or(XdpMode::Auto, |(_, mode)| *mode);
                    self.on_interfaces(attacher, program, Place::Xdp(mode))?;
                }
                Attach::TcIngress => self.on_interfaces(attacher, program, Place::Tc(Direction::Ingress))?,
                Attach::TcEgress => self.on_interfaces(attacher, program, Place::Tc(Direction::Egress))?,
                Attach::Cgroup(_) | Attach::CgroupSetsockopt => {
                    let hook = match program.decl.attach {
                        Attach::Cgroup(name) => (name, cgroup_hook(name)?.attach_type),
                        _ => ("setsockopt", cgroup::setsockopt_type()),
                    };
                    cgroup::attach_native(attacher, program.fd.as_fd(), hook, self.pin.as_deref(), self.spec.span)?;
                    attacher.attached.probes += 1;
                }
                Attach::RawTracepoint(name) => {
                    let c_name = CString::new(name).map_err(|_| Error::Object(format!("bad name `{name}`")))?;
                    let link = bpf::raw_tracepoint_open(program.fd.as_fd(), &c_name);
                    attacher.push(Handle::Link(link.map_err(|e| refused(format!("rawtracepoint:{name}"), e))?));
                    attacher.attached.probes += 1;
                }
                Attach::Iter(name) => {
                    let iterator = KernelIterator::new(program.fd.as_fd(), name);
                    iterators.push(iterator.map_err(|e| refused(format!("iter:{name}"), e))?);
                }
            }
        }
        if self.adopts() {
            // What the last start had decides by this one's programs already.
            self.settle()?;
        }
        if let Some(mut lists) = self.lists() {
            lists.started(&self.maps)?;
        }
        if let Some(mut engine) = self.engine() {
            engine.started(&self.maps, iterators)?;
        }
        self.started.get_or_init(|| ());
        if let Some(notice) = self.how_long() {
            (attacher.observer)(&notice);
        }
        Ok(())
    }

    /// Everything of the script is attached: what has a name outlives weir from now on.
    ///
    /// # Errors
    /// What its name cannot be given to.
    pub fn attached(&self) -> Result<(), Error> {
        if self.adopts() { Ok(()) } else { self.settle() }
    }

    fn on_interfaces(&self, attacher: &mut Attacher<'_>, program: &Program, place: Place) -> Result<(), Error> {
        let span = Params(&self.spec).get("iface").map_or(self.spec.span, |(_, span)| span);
        let Some((pattern, _)) = &self.iface else {
            return Err(Error::Object(format!("`{}` has no interface", self.spec.native.name)));
        };
        let chain = match place {
            Place::Xdp(_) => {
                let array = &forms::symbol(weir_ebpf_builtins::CHAIN, program.link_layer);
                let behind = self.behind.iter().find(|(layer, _)| *layer == program.link_layer);
                let map = self.maps.get(array).ok_or_else(|| Error::Object(format!("no map `{array}`")))?;
                Chain::new(
                    &self.spec.alias,
                    map.fd.as_fd(),
                    behind.map_or(Behind::Nobody, |(_, behind)| *behind),
                )?
            }
            _ => None,
        };
        let target = Target {
            program: crate::maps::dup(program.fd.as_fd(), "program")?,
            pattern: IfacePattern {
                link_layer: program.link_layer,
                ..pattern.clone()
            },
            place,
            names: attacher.names(pattern)?,
            pin: self.pin.clone(),
            chain,
            asked: Asked::Native {
                has_mode: self.spec.native.params.iter().any(|p| p.name == "mode"),
            },
            span,
        };
        attacher.attached.probes += attacher.attached.interfaces.add(target)?;
        if let (Place::Xdp(mode), Some((pattern, _))) = (place, &self.iface) {
            self.advise(mode, pattern, span);
        }
        Ok(())
    }

    /// Says where TC would be the better place: on a veth, XDP's packets have their buffers already, and what it lets pass is no longer put together.
    fn advise(&self, mode: XdpMode, pattern: &IfacePattern, span: Span) {
        let has_choice = |p: &weir_stdlib::ParamDecl| p.name == "hook" && matches!(p.ty, ParamType::Choice(words) if words.contains(&"tc"));
        if mode == XdpMode::Generic || !self.spec.native.params.iter().any(has_choice) {
            return;
        }
        // What has gone meanwhile needs no advice.
        let Ok(links) = iface::resolve(pattern, span) else { return };
        let veths: Vec<&str> = links.iter().filter(|l| l.kind == "veth").map(|l| l.name.as_str()).collect();
        let which = match veths[..] {
            [] => return,
            [one] => format!("`{one}` is a veth"),
            [first, ..] => format!("`{first}` and {} others are veths", veths.len() - 1),
        };
        let message = format!("{which}: `hook=\"tc\"` is cheaper there. {VETH_FIGURE}");
        if self.advice.set(message.clone()).is_ok() {
            self.say(message, None);
        }
    }

    fn copies(&self) -> MutexGuard<'_, Vec<copies::Copy>> {
        self.copies.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn untold(&self) -> MutexGuard<'_, Vec<Notice>> {
        self.untold.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn engine(&self) -> Option<MutexGuard<'_, Box<dyn Engine>>> {
        // As for the lists.
        let engine = self.engine.as_ref()?.lock();
        Some(engine.unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn lists(&self) -> Option<MutexGuard<'_, Lists>> {
        // A thread that panicked over it left it as it was between two changes.
        let lists = self.lists.as_ref()?.lock();
        Some(lists.unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Reads a file again that has changed, if it is one of this native's. `touched` tells whether it has changed once more since.
    pub(crate) fn reload(&self, path: &Path, touched: &mut dyn FnMut() -> bool) {
        if let Some(mut lists) = self.lists() {
            lists.reload(path, &self.maps, &mut *touched);
        }
        if let Some(mut engine) = self.engine() {
            engine.reload(path, &self.maps, touched);
        }
    }

    /// Says something, as a warning where it has a place in the script.
    fn say(&self, message: String, span: Option<Span>) {
        self.untold().push(Notice::Native {
            alias: self.spec.alias.clone(),
            message,
            warning: span.is_some(),
            span,
        });
    }

    /// Whether the native wants [`Self::tick`] about once a second.
    pub(crate) fn wants_ticks(&self) -> bool {
        self.engine.is_some() || self.lists.is_some() || self.pin.is_some() || self.has_copies()
    }

    /// Lets time pass.
    pub(crate) fn tick(&self) {
        if let Some(mut lists) = self.lists() {
            lists.tick(&self.maps);
        }
        if let Some(mut engine) = self.engine() {
            engine.tick(&self.maps);
        }
    }

    /// Everything is detached, and printed.
    pub(crate) fn ended(&self) {
        // A `begin` that calls `exit()` keeps it from being in force at all.
        let is_over = self.started.get().is_some() && self.pin.as_ref().is_none_or(|pin| !pin.outlives());
        if let Some(mut lists) = self.lists() {
            lists.check_hits(&self.maps);
            if is_over {
                lists.record_end();
            }
        }
        if let Some(mut engine) = self.engine() {
            engine.ended(&self.maps);
            if is_over {
                engine.record_end();
            }
        }
    }

    /// The start has failed: nothing that it made stays.
    pub(crate) fn give_up(&self) {
        if let Some(pin) = &self.pin {
            pin.clear_away();
        }
    }

    /// Gives what a person should hear of it, once.
    pub(crate) fn notices(&self) -> Vec<Notice> {
        let mut notices = std::mem::take(&mut *self.untold());
        notices.extend(self.lists().into_iter().flat_map(|mut lists| lists.notices()));
        notices.extend(self.engine().into_iter().flat_map(|mut engine| engine.notices()));
        notices
    }

    /// Returns whether it keeps tables, which are too long to be printed at exit.
    pub(crate) fn has_tables(&self) -> bool {
        self.spec.native.maps.iter().any(|m| matches!(m.shape, MapShape::Table { .. }))
    }

    /// What stands above its summary.
    pub(crate) fn title(&self) -> String {
        let title = format!(
            "@{}: {}{}",
            self.spec.alias,
            self.spec.native.name,
            pinned::in_brief(&Params(&self.spec))
        );
        match self.advice.get() {
            Some(advice) => format!("{title}\n  {advice}"),
            None => title,
        }
    }

    /// Reads every map, in the order of the declaration, for whoever shows the `top` entries of each (0: all); of tables, with `telling`,
    /// without rows that have nothing to say on one screen.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn snapshots(&self, top: u32, telling: bool) -> Result<Vec<Snapshot>, Error> {
        self.look()?;
        (0..self.spec.native.maps.len()).map(|map| self.read(map, top, telling)).collect()
    }

    /// What its maps look like, in the order of the declaration.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = MapShape> {
        self.spec.native.maps.iter().map(|map| map.shape)
    }

    /// Lets the native's user space see how things are now.
    fn look(&self) -> Result<(), Error> {
        self.engine().map_or(Ok(()), |mut engine| engine.look(&self.maps))
    }

    /// Returns which maps, by their index in the declaration, are printed at exit: those that the kernel has.
    pub(crate) fn printed_at_exit(&self) -> impl Iterator<Item = usize> {
        let maps = self.spec.native.maps.iter().enumerate();
        let tables = self.has_tables();
        maps.filter(move |(_, m)| tables || !matches!(m.shape, MapShape::Known(_)))
            .map(|(i, _)| i)
    }

    /// The numbers of `.entries`, in the order of the declaration.
    fn known(&self) -> Result<Vec<u64>, Error> {
        use weir_ebpf_builtins::blocklist::{BLOCK4, HITS4};
        let map = |symbol: &str| self.maps.get(symbol).ok_or_else(|| Error::Object(format!("no map `{symbol}`")));
        let of_prefixes = |m: &&MapDecl| matches!(m.shape, MapShape::ByPrefix(_));
        let hits = self
            .spec
            .native
            .maps
            .iter()
            .find(of_prefixes)
            .map(|m| self.counted_prefixes(m))
            .transpose()?
            .unwrap_or_default();
        let sizes = self.lists().map(|l| l.sizes()).unwrap_or_default();
        let mut numbers: Vec<u64> = sizes.iter().map(|n| *n as u64).collect();
        // The tries have room for twice as much: see `lists`.
        numbers.extend([
            u64::from(map(BLOCK4)?.max_entries / 2),
            hits as u64,
            u64::from(map(HITS4)?.max_entries),
        ]);
        Ok(numbers)
    }

    /// Names every map as scripts do: `@ALIAS.name`.
    #[must_use]
    pub fn map_names(&self) -> Vec<String> {
        self.declared().map(|(name, _)| name).collect()
    }

    /// Lists its maps with their names, in the order of the declaration.
    pub fn declared(&self) -> impl Iterator<Item = (String, &'static MapDecl)> {
        let maps = self.spec.native.maps.iter();
        maps.map(|m| (format!("@{}.{}", self.spec.alias, m.name), m))
    }

    /// Reads a map by its index in the declaration.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn snapshot(&self, map: usize) -> Result<Snapshot, Error> {
        self.snapshot_top(map, 0)
    }

    /// The same for whoever shows the most important entries only: not all of the others are made (0: all).
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn snapshot_top(&self, map: usize, top: u32) -> Result<Snapshot, Error> {
        self.look()?;
        self.read(map, top, false)
    }

    /// Reads a map. Of a table only the last `top` rows are made (0: all); those before them are empty. With `telling` those are left out that
    /// have nothing to say on one screen.
    fn read(&self, map: usize, top: u32, telling: bool) -> Result<Snapshot, Error> {
        let decl = self
            .spec
            .native
            .maps
            .get(map)
            .ok_or_else(|| Error::Object(format!("native has no map {map}")))?;
        let name = format!("@{}.{}", self.spec.alias, decl.name);
        let maps = decl.symbols.iter().filter_map(|s| self.maps.get(*s));
        match decl.shape {
            MapShape::ByPrefix(ValueShape::PacketsBytes) => {
                let mut counted = self.by_prefix(decl)?;
                counted.sort_by(|(key, [packets, _]), (other, [than, _])| (packets, key).cmp(&(than, other)));
                let rows = counted.into_iter().map(|(key, sums)| Row {
                    key,
                    value: Cell::Plain(sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()),
                });
                let rows = rows.collect();
                Ok(Snapshot {
                    name,
                    key: Some(native_maps::key_type(decl.shape)),
                    value: MapValue::Plain(native_maps::value_type(decl.shape)),
                    rows,
                })
            }
            MapShape::Counters(names) => {
                let mut numbers = Vec::new();
                for map in maps {
                    for (i, counter) in (0u32..).zip(names) {
                        numbers.push(if *counter == weir_stdlib::blocklist::UNCOUNTED && self.lists.is_some() {
                            lists::uncounted(map)?
                        } else {
                            stat(map, i)?
                        });
                    }
                }
                Ok(named_numbers(name, names, &numbers))
            }
            MapShape::Known(names) => match self.engine() {
                Some(mut engine) => Ok(named_numbers(name, names, &engine.numbers(decl.name, &self.maps)?)),
                None => Ok(named_numbers(name, names, &self.known()?)),
            },
            MapShape::Table { .. } => {
                let rows = self
                    .engine()
                    .map(|mut engine| match telling {
                        true => engine.telling_rows(decl.name, top as usize, &self.maps),
                        false => engine.rows(decl.name, top as usize, &self.maps),
                    })
                    .transpose()?;
                Ok(engine::snapshot(name, decl.shape, rows.unwrap_or_default()))
            }
        }
    }

    /// Reads what is counted by prefix, wherever it is: keys as [`Type::Prefix`], each once, in their order.
    fn by_prefix(&self, decl: &MapDecl) -> Result<Counted, Error> {
        let mut counted = Vec::new();
        // As long as it is held, nothing goes from one place to another.
        let lists = self.lists();
        for map in decl.symbols.iter().filter_map(|s| self.maps.get(*s)) {
            for (key, value) in map.elements()?.iter() {
                let sums = sum_words(value, 2);
                counted.push((prefix_key(key), [uint(&sums[..8]), uint(&sums[8..])]));
            }
        }
        for (key, hits) in lists.iter().flat_map(|lists| lists.hits()) {
            counted.push((prefix_key(&key), [hits.packets, hits.bytes]));
        }
        counted.sort_unstable();
        counted.dedup_by(|(key, [packets, bytes]), (first, sums)| {
            let same = key == first;
            if same {
                sums[0] = sums[0].wrapping_add(*packets);
                sums[1] = sums[1].wrapping_add(*bytes);
            }
            same
        });
        Ok(counted)
    }

    /// Tells how many prefixes are counted, wherever that is.
    fn counted_prefixes(&self, decl: &MapDecl) -> Result<usize, Error> {
        let mut keys = Vec::new();
        // As in `by_prefix`.
        let lists = self.lists();
        for map in decl.symbols.iter().filter_map(|s| self.maps.get(*s)) {
            keys.extend(map.elements()?.iter().map(|(key, _)| lists::bits_of(key)));
        }
        keys.extend(lists.iter().flat_map(|lists| lists.counted()));
        keys.sort_unstable();
        keys.dedup();
        Ok(keys.len())
    }

    /// Reads the entry of one key (24 bytes, a prefix).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn snapshot_key(&self, map: usize, key: &[u8]) -> Result<Snapshot, Error> {
        let mut all = self.snapshot(map)?;
        all.rows.retain(|row| row.key == key);
        Ok(all)
    }

    /// Deletes the entry of a prefix.
    fn delete_prefix(&self, decl: &MapDecl, prefix: &[u8]) -> Result<(), Error> {
        let addr = match prefix.get(4..8).map(uint) {
            Some(2) => 8..12,
            _ => 8..24,
        };
        let key = [prefix.get(..4).unwrap_or(&[]), prefix.get(addr).unwrap_or(&[])].concat();
        let maps = decl.symbols.iter().filter_map(|s| self.maps.get(*s));
        // As long as they are held, nothing goes from one place to another.
        let lists = self.lists();
        for map in maps.filter(|map| map.key_size as usize == key.len()) {
            bpf::map_delete(map.fd.as_fd(), &key, &map.symbol)?;
        }
        if let Some(mut lists) = lists {
            lists.forget_hits(&key);
        }
        Ok(())
    }

    /// Clears (or zeroes) a map by its index in the declaration.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear(&self, map: usize, zero: bool) -> Result<(), Error> {
        let decl = self
            .spec
            .native
            .maps
            .get(map)
            .ok_or_else(|| Error::Object(format!("native has no map {map}")))?;
        if let Some(mut engine) = self.engine() {
            return engine.clear(decl.name, &self.maps);
        }
        // As in `delete_prefix`.
        let lists = self.lists();
        for map in decl.symbols.iter().filter_map(|s| self.maps.get(*s)) {
            if zero { map.zero()? } else { map.clear()? }
        }
        if let Some(mut lists) = lists {
            lists.clear_hits(zero, &self.maps)?;
        }
        Ok(())
    }
}

/// Numbers with their names, in the order of the declaration: it tells a story that sorting would not.
fn named_numbers(name: String, names: &[&str], numbers: &[u64]) -> Snapshot {
    let rows = names.iter().zip(numbers).map(|(counter, number)| Row {
        key: engine::text_bytes(counter),
        value: Cell::Int(i128::from(*number)),
    });
    Snapshot {
        name,
        key: Some(Type::Str { cap: 64 }),
        value: MapValue::Count,
        rows: rows.collect(),
    }
}

/// An LPM key (`u32` length, 4 or 16 bytes) as a [`Type::Prefix`].
fn prefix_key(key: &[u8]) -> Vec<u8> {
    let addr = key.get(4..).unwrap_or(&[]);
    let family: u32 = if addr.len() == 4 { 2 } else { 10 };
    let mut out = key.get(..4).unwrap_or(&[0; 4]).to_vec();
    out.extend_from_slice(&family.to_le_bytes());
    out.extend_from_slice(addr);
    out.resize(24, 0);
    out
}

/// One number of a native's `STATS`.
fn stat(stats: &Map, index: u32) -> Result<u64, Error> {
    Ok(uint(&sum_words(&stats.lookup(&index.to_ne_bytes())?.unwrap_or_default(), 1)))
}

/// Adds up the `words` counters of every CPU.
fn sum_words(parts: &[u8], words: usize) -> Vec<u8> {
    let mut sums = vec![0u64; words];
    for part in parts.chunks_exact(words * 8) {
        for (sum, word) in sums.iter_mut().zip(part.chunks_exact(8)) {
            *sum = sum.wrapping_add(uint(word));
        }
    }
    sums.iter().flat_map(|s| s.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_both_families_become_prefixes() {
        let v4 = prefix_key(&[8, 0, 0, 0, 10, 0, 0, 0]);
        assert_eq!(v4.len(), 24);
        assert_eq!(&v4[..12], &[8, 0, 0, 0, 2, 0, 0, 0, 10, 0, 0, 0]);
        let v6 = prefix_key(&[&[64, 0, 0, 0][..], &[0x20; 16]].concat());
        assert_eq!((v6[4], v6.len()), (10, 24));
    }

    #[test]
    fn counters_of_all_cpus_add_up() {
        let parts: Vec<u8> = [1u64, 10, 2, 20].iter().flat_map(|w| w.to_le_bytes()).collect();
        let expected: Vec<u8> = [3u64, 30].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(sum_words(&parts, 2), expected);
    }
}
