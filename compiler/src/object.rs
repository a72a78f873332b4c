//! What the compiler hands to the runtime: a standard BPF ELF object and a description of what is in it.
//!
//! The ELF alone is loadable by libbpf, bpftool and aya. The description says what no ELF can: where programs
//! attach, how records of the ring buffer are laid out, what the maps mean to the person who wrote the script.

use crate::kernel::KernelInfo;
use crate::overlap::Names;
use crate::tables::{CgroupHook, Hook};
use crate::types::{MapValue, StackMode, Type};
use std::time::Duration;
use weir_parser::Span;

/// One compiled script.
#[derive(Clone, Debug)]
pub struct Object {
    /// Little-endian 64-bit BPF ELF with BTF (`.maps`, func_info, line_info).
    pub elf: Vec<u8>,
    pub programs: Vec<ProgramSpec>,
    /// In the order of their ids: `EventAction::PrintMap { map }` and others name a map by its index here.
    pub maps: Vec<MapSpec>,
    /// A record of the ring buffer starts with its index here.
    pub events: Vec<EventSpec>,
    /// Counters of things that went wrong, in the per-CPU array with the role [`MapRole::Counters`].
    pub counters: Vec<CounterSpec>,
    pub natives: Vec<NativeInstance>,
    /// The network card that some of it is for.
    pub card: Option<Card>,
    pub config: Config,
    /// Name and text of the scripts that this one imports: what spans with the numbers 1, 2, … point into.
    pub imports: Vec<(String, String)>,
}

/// A network card that runs programs itself: `xdp:IFACE:offload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// One interface, by its name.
    pub iface: IfacePattern,
    /// The maps that lie in the card: indices into [`Object::maps`], ascending.
    pub maps: Vec<usize>,
    pub span: Span,
}

/// Settings of the `config` block and the environment that the runtime needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub max_map_keys: u32,
    pub max_strlen: u32,
    /// What `cat` prints of a file at most.
    pub max_cat_bytes: u64,
    pub print_maps_on_exit: bool,
    pub missing_probes: MissingProbes,
    pub str_trunc_trailer: String,
    /// How stacks are printed unless the call says otherwise.
    pub stack_mode: StackMode,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_map_keys: 4096,
            max_strlen: 1024,
            max_cat_bytes: 10240,
            print_maps_on_exit: true,
            missing_probes: MissingProbes::Error,
            str_trunc_trailer: "..".to_owned(),
            stack_mode: StackMode::Bpftrace,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingProbes {
    Error,
    Warn,
    Ignore,
}

/// One BPF program of the ELF and everywhere it attaches.
#[derive(Clone, Debug)]
pub struct ProgramSpec {
    /// Symbol in the ELF, and the name the kernel shows (first 15 bytes).
    pub name: String,
    pub section: String,
    pub kind: ProgramKind,
    pub attach: Vec<Attach>,
    /// How many it has, without the bodies of its loops.
    pub instructions: u32,
    /// The attach point of the first block in it, for messages about the whole program.
    pub span: Span,
}

impl ProgramSpec {
    /// Whether it runs in a network card.
    #[must_use]
    pub fn is_in_card(&self) -> bool {
        self.attach.iter().any(|a| a.point.is_in_card())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgramKind {
    /// `begin`, `end`, `self:signal`: raw tracepoint programs that are never attached, run by `BPF_PROG_RUN`.
    RunOnce,
    Tracepoint,
    RawTracepoint,
    Kprobe,
    /// Many functions by one link: `BPF_TRACE_KPROBE_MULTI`.
    KprobeMulti,
    Uprobe,
    Fentry,
    Fexit,
    /// Run by reading from a descriptor.
    Iter,
    /// perf events: `interval`, `profile`, `software`, `hardware`, `watchpoint`.
    PerfEvent,
    Xdp,
    /// TC: tcx or clsact.
    SchedCls,
    CgroupSkb(Direction),
    /// `struct bpf_sock_addr`; with the attach type.
    CgroupSockAddr(u32),
    /// `struct bpf_sock`; with the attach type.
    CgroupSock(u32),
    /// setsockopt(2) in a cgroup; only natives have it.
    CgroupSockopt,
    /// The block of a native's event: an XDP program in the native's program array.
    NativeEventXdp,
    /// The same for TC.
    NativeEventTc,
    /// The same for tracing: a raw tracepoint program.
    NativeEventTrace,
}

impl ProgramKind {
    /// Whether it is about packets or sockets; loading it takes CAP_NET_ADMIN.
    #[must_use]
    pub fn is_network(self) -> bool {
        matches!(
            self,
            ProgramKind::Xdp
                | ProgramKind::SchedCls
                | ProgramKind::NativeEventXdp
                | ProgramKind::NativeEventTc
                | ProgramKind::CgroupSkb(_)
                | ProgramKind::CgroupSockAddr(_)
                | ProgramKind::CgroupSock(_)
                | ProgramKind::CgroupSockopt
        )
    }

    /// The kind of program for a hook on system calls of sockets.
    #[must_use]
    pub fn of_cgroup(hook: &CgroupHook) -> Self {
        match hook.hook {
            Hook::CgroupSockAddr => ProgramKind::CgroupSockAddr(hook.attach_type),
            _ => ProgramKind::CgroupSock(hook.attach_type),
        }
    }
}

/// One place a program attaches to.
#[derive(Clone, Debug, PartialEq)]
pub struct Attach {
    pub point: AttachPoint,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AttachPoint {
    Begin,
    End,
    Signal {
        name: String,
    },
    /// Perf event on one CPU.
    Interval {
        period: Duration,
    },
    /// A block on an interval that weir itself runs, after it has renewed the copies of natives' maps that the block reads.
    Timer {
        period: Duration,
    },
    /// Perf event on every CPU.
    Profile {
        period: Duration,
    },
    Tracepoint {
        category: String,
        name: String,
    },
    /// Perf event that fires at every `count`-th event, on every CPU.
    Counter {
        hardware: bool,
        event: String,
        /// `PERF_COUNT_SW_*` or `PERF_COUNT_HW_*`
        config: u64,
        count: u64,
    },
    /// Access to memory; `mode` is of `HW_BREAKPOINT_R` 1, `_W` 2, `_X` 4.
    Watchpoint {
        address: u64,
        len: u32,
        mode: u32,
    },
    RawTracepoint {
        name: String,
    },
    Kprobe {
        module: Option<String>,
        function: String,
        offset: u64,
        ret: bool,
        /// Found by a pattern: where the kernel refuses it, the others go on.
        pattern: bool,
    },
    Fentry {
        of: FunctionOf,
        function: String,
        /// Of the function, in the types of whatever it belongs to.
        btf_id: u32,
        ret: bool,
    },
    /// A place in the code of a file.
    Uprobe {
        path: String,
        /// With `+offset`; the address where there is no name.
        function: String,
        /// Bytes from the start of the file.
        offset: u64,
        ret: bool,
    },
    /// One place of a static event of a file.
    Usdt {
        path: String,
        provider: String,
        name: String,
        /// Bytes from the start of the file.
        offset: u64,
        /// File offset of the counter of listeners, or 0.
        semaphore: u64,
    },
    Iter {
        kind: String,
        /// Of the kernel's function `bpf_iter_KIND`.
        btf_id: u32,
        /// The name in the BPF file system that it runs for whoever reads, also when weir has ended.
        pin: Option<String>,
    },
    Xdp {
        iface: IfacePattern,
        mode: XdpMode,
    },
    Tc {
        iface: IfacePattern,
        direction: Direction,
    },
    CgroupSkb {
        path: CgroupPattern,
        direction: Direction,
    },
    Cgroup {
        path: CgroupPattern,
        hook: &'static CgroupHook,
    },
    /// Index into [`Object::natives`], index into the declaration's events.
    NativeEvent {
        instance: usize,
        event: usize,
        /// What the native's packets start with.
        link_layer: LinkLayer,
    },
}

impl AttachPoint {
    /// Whether the program runs in a network card.
    #[must_use]
    pub fn is_in_card(&self) -> bool {
        matches!(
            self,
            AttachPoint::Xdp {
                mode: XdpMode::Offload,
                ..
            }
        )
    }

    /// What the packets there start with.
    #[must_use]
    pub fn link_layer(&self) -> LinkLayer {
        match self {
            AttachPoint::Xdp { iface, .. } | AttachPoint::Tc { iface, .. } => iface.link_layer,
            AttachPoint::CgroupSkb { .. } => LinkLayer::None,
            AttachPoint::NativeEvent { link_layer, .. } => *link_layer,
            _ => LinkLayer::Ethernet,
        }
    }

    /// Returns the interfaces whose packets are seen.
    #[must_use]
    pub fn iface(&self) -> Option<&IfacePattern> {
        match self {
            AttachPoint::Xdp { iface, .. } | AttachPoint::Tc { iface, .. } => Some(iface),
            _ => None,
        }
    }

    /// Returns what names the places, where those can come and go.
    #[must_use]
    pub fn pattern(&self) -> Option<(Names, &str)> {
        match self {
            AttachPoint::Xdp { iface, .. } | AttachPoint::Tc { iface, .. } => Some((Names::Interfaces, &iface.pattern)),
            AttachPoint::CgroupSkb { path, .. } | AttachPoint::Cgroup { path, .. } => Some((Names::Cgroups, &path.pattern)),
            _ => None,
        }
    }

    /// The same for change.
    pub fn overlap_mut(&mut self) -> Option<&mut Overlap> {
        match self {
            AttachPoint::Xdp { iface, .. } | AttachPoint::Tc { iface, .. } => Some(&mut iface.overlap),
            AttachPoint::CgroupSkb { path, .. } | AttachPoint::Cgroup { path, .. } => Some(&mut path.overlap),
            _ => None,
        }
    }

    /// Returns the way that packets go.
    #[must_use]
    pub fn direction(&self) -> Option<Direction> {
        match self {
            AttachPoint::Xdp { .. } | AttachPoint::NativeEvent { .. } => Some(Direction::Ingress),
            AttachPoint::Tc { direction, .. } | AttachPoint::CgroupSkb { direction, .. } => Some(*direction),
            _ => None,
        }
    }
}

/// Whose function it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FunctionOf {
    Kernel,
    Module(String),
    /// The id of a BPF program that is loaded.
    Program(u32),
}

/// `NAME`, a glob, or `*`; optionally in another network namespace. Only interfaces whose packets start as said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IfacePattern {
    pub pattern: String,
    pub netns: Option<String>,
    pub link_layer: LinkLayer,
    pub overlap: Overlap,
}

/// A path or a pattern of paths, from the root of the cgroup v2 hierarchy; starts with `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CgroupPattern {
    pub pattern: String,
    pub overlap: Overlap,
}

impl CgroupPattern {
    #[must_use]
    pub fn new(pattern: String) -> Self {
        Self {
            pattern,
            overlap: Overlap::default(),
        }
    }

    /// Whether it may name several cgroups, also ones that come later.
    #[must_use]
    pub fn is_glob(&self) -> bool {
        crate::hir::is_glob(&self.pattern)
    }

    /// Whether it names the cgroup of this path.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        crate::overlap::path_matches(&self.pattern, path) && self.overlap.admits(|other| crate::overlap::path_matches(other, path))
    }
}

impl std::fmt::Display for CgroupPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.pattern)
    }
}

/// Where patterns of a script overlap, each place has one program, with the blocks of all patterns that name it: of what a pattern
/// names, that which these others name, too, or do not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Overlap {
    pub also: Vec<String>,
    pub except: Vec<String>,
}

impl Overlap {
    /// Whether a place is one of those; `matches` says which patterns name it.
    #[must_use]
    pub fn admits(&self, matches: impl Fn(&str) -> bool) -> bool {
        self.also.iter().all(|p| matches(p)) && !self.except.iter().any(|p| matches(p))
    }
}

/// What packets of an interface start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkLayer {
    Ethernet,
    /// The IP header comes first: tun, WireGuard, IP tunnels.
    None,
}

impl IfacePattern {
    /// Reads `IFACE[@NETNS]`, for interfaces with Ethernet.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (pattern, netns) = text.split_once('@').map_or((text, None), |(p, n)| (p, Some(n.to_owned())));
        Self {
            pattern: pattern.to_owned(),
            netns,
            link_layer: LinkLayer::Ethernet,
            overlap: Overlap::default(),
        }
    }

    /// Whether it may name several interfaces, also ones that come later.
    #[must_use]
    pub fn is_glob(&self) -> bool {
        crate::hir::is_glob(&self.pattern)
    }
}

impl std::fmt::Display for IfacePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.pattern)?;
        self.netns.as_ref().map_or(Ok(()), |netns| write!(f, "@{netns}"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// Native, else generic with a warning.
    Auto,
    Native,
    Generic,
    Offload,
}

impl XdpMode {
    /// The mode that a script insists on.
    #[must_use]
    pub fn asked_for(self) -> Option<&'static str> {
        match self {
            XdpMode::Auto => None,
            XdpMode::Native => Some("native"),
            XdpMode::Generic => Some("generic"),
            XdpMode::Offload => Some("offload"),
        }
    }
}

/// As the kernel names it, seen from the interface's own host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

/// One map of the ELF.
#[derive(Clone, Debug)]
pub struct MapSpec {
    /// Symbol in the ELF, and (first 15 bytes) the name the kernel shows.
    pub name: String,
    pub kind: MapKind,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    /// `BPF_F_*` of map creation.
    pub flags: u32,
    pub role: MapRole,
}

impl MapSpec {
    /// Whether the last word of its one value says that it was assigned: it is a plain scalar of the script.
    #[must_use]
    pub fn has_set_word(&self) -> bool {
        matches!(
            &self.role,
            MapRole::User {
                key: None,
                value: MapValue::Plain(_),
                ..
            }
        )
    }
}

/// Kernel map types, numbered as in `enum bpf_map_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum MapKind {
    Hash = 1,
    Array = 2,
    ProgArray = 3,
    PerCpuHash = 5,
    PerCpuArray = 6,
    StackTrace = 7,
    LruHash = 9,
    LruPerCpuHash = 10,
    LpmTrie = 11,
    RingBuf = 27,
}

impl MapKind {
    #[must_use]
    pub fn is_per_cpu(self) -> bool {
        matches!(self, MapKind::PerCpuHash | MapKind::PerCpuArray | MapKind::LruPerCpuHash)
    }

    /// Returns what people call it, with its article.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            MapKind::Hash => "a hash",
            MapKind::Array => "an array",
            MapKind::ProgArray => "an array of programs",
            MapKind::PerCpuHash => "a hash for each processor",
            MapKind::PerCpuArray => "an array for each processor",
            MapKind::StackTrace => "a map of stacks",
            MapKind::LruHash => "an LRU hash",
            MapKind::LruPerCpuHash => "an LRU hash for each processor",
            MapKind::LpmTrie => "a trie of prefixes",
            MapKind::RingBuf => "a ring buffer",
        }
    }
}

#[derive(Clone, Debug)]
pub enum MapRole {
    /// A map of the script. `key` is `None` for a scalar (an array with one element).
    /// A scalar per-CPU map is a `PerCpuArray`, a scalar plain one an `Array`.
    User {
        name: String,
        key: Option<Type>,
        value: MapValue,
        /// Keys that are there, with the value 1, before anything runs.
        initial: Vec<Vec<u8>>,
        span: Span,
    },
    /// The one ring buffer; with `max_entries` 0 the runtime chooses its size by the machine's memory.
    Ring,
    /// Per-CPU working memory of the programs.
    Scratch,
    /// Per-CPU array of `u64`, one element for each of [`Object::counters`].
    Counters,
    /// Read-only constants (`.rodata`) with their content.
    Rodata { data: Vec<u8> },
    /// Array with one `u64`: `CLOCK_MONOTONIC` nanoseconds, written once a second by the owner. Programs in a
    /// clsact chain pass everything when it is older than ten seconds.
    Heartbeat,
    /// Stacks of one depth: `value_size / 8` frames.
    Stacks,
    /// Array with one `u64`: nanoseconds of the boot clock when the script started, written before anything runs.
    Started,
    /// The name of each place that a program is attached to, by its cookie: text of `value_size` bytes, put there before anything runs.
    Names { names: Vec<String> },
    /// Hash from interface number (`u32`) to name (16 bytes), filled whenever a program is attached to one. Numbers are those of one
    /// network namespace.
    Interfaces { netns: Option<String> },
    /// Array of `u64`: the numbers of the devices that the script sends packets to, put there before anything runs.
    Devices { devices: Vec<Device> },
    /// A constant set: every key has the value 0, put there before anything runs.
    Set { keys: Vec<Vec<u8>> },
    /// What programs of the script see of a native's map. A key that is a prefix counts the bits of its family in a trie, as always there.
    Copy {
        /// Index into [`Object::natives`], index into the declaration's maps.
        instance: usize,
        map: usize,
        key: Type,
        value: MapValue,
    },
    /// Stands for a map of a native: the runtime puts that map's file descriptor in its place.
    Native { instance: usize, map: String },
}

/// A device that a script sends packets to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    /// The network namespace of the program that sends to it.
    pub netns: Option<String>,
    pub span: Span,
}

/// Names a map for [`EventAction`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapRef {
    /// Index into [`Object::maps`].
    Own(usize),
    /// Index into [`Object::natives`], index into the declaration's maps.
    Native { instance: usize, map: usize },
}

/// How to read one kind of ring-buffer record and what to do with it.
///
/// A record is: `u32` index into [`Object::events`], `u32` zero, then the payload. Field offsets count from the
/// start of the record.
#[derive(Clone, Debug)]
pub struct EventSpec {
    pub action: EventAction,
    pub size: u32,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub enum EventAction {
    /// `printf`
    Printf {
        format: Vec<FormatPart>,
        args: Vec<EventField>,
    },
    /// `errorf`, `warnf`, `cat`, `system`: formatted text that is not simply printed.
    Text {
        what: TextKind,
        format: Vec<FormatPart>,
        args: Vec<EventField>,
    },
    /// `join`: texts up to the first empty one.
    Join {
        separator: String,
        args: Vec<EventField>,
    },
    /// `print(x)` of anything that is not a map.
    PrintValue(EventField),
    /// `print(@m[, top[, div]])`; 0 means not given.
    PrintMap {
        map: MapRef,
        top: u32,
        div: u32,
    },
    /// `print(@m[key])`, the key as in the map.
    PrintMapKey {
        map: MapRef,
        key: EventField,
    },
    Clear(MapRef),
    Zero(MapRef),
    /// `delete(@ALIAS.map[key])`: the entry has gone from the copy. The key is as it lies there.
    Delete {
        /// Index into [`Object::natives`], index into the declaration's maps.
        instance: usize,
        map: usize,
        key: EventField,
    },
    /// `print(@ALIAS[, top])`: what a native has found out, on one screen.
    PrintNative {
        /// Index into [`Object::natives`].
        instance: usize,
        top: u32,
    },
    /// `exit(code)`
    Exit {
        code: Option<EventField>,
    },
    /// `-k`: a helper of the kernel has failed with this code.
    HelperError {
        call: HelperCall,
        code: EventField,
    },
    /// A division or remainder by zero.
    DividedByZero,
    /// `capture`: a packet, laid out as in [`capture`], for the capture file.
    Capture {
        /// Index into [`Object::programs`].
        program: usize,
    },
    /// `time(format)`
    Time {
        format: String,
    },
}

/// A helper whose failure a script may want to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelperCall {
    MapLookup,
    MapDelete,
    ReadUser,
    ReadKernel,
    ReadUserStr,
    ReadKernelStr,
}

impl HelperCall {
    /// Returns the helper that reads memory.
    #[must_use]
    pub fn read(user: bool, text: bool) -> Self {
        match (user, text) {
            (true, false) => HelperCall::ReadUser,
            (true, true) => HelperCall::ReadUserStr,
            (false, false) => HelperCall::ReadKernel,
            (false, true) => HelperCall::ReadKernelStr,
        }
    }

    /// Returns the kernel's name of it, without `bpf_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HelperCall::MapLookup => "map_lookup_elem",
            HelperCall::MapDelete => "map_delete_elem",
            HelperCall::ReadUser => "probe_read_user",
            HelperCall::ReadKernel => "probe_read_kernel",
            HelperCall::ReadUserStr => "probe_read_user_str",
            HelperCall::ReadKernelStr => "probe_read_kernel_str",
        }
    }
}

/// Layout of the record of [`EventAction::Capture`]: bytes from its start. The packet's first bytes follow the header.
pub mod capture {
    /// `i64`: what the program returned.
    pub const VERDICT: u32 = 8;
    /// `u32`: bytes of the packet on the wire.
    pub const LENGTH: u32 = 16;
    /// `u32`: bytes of it in the record.
    pub const CAPTURED: u32 = 20;
    /// `u64`: number of the interface.
    pub const IFINDEX: u32 = 24;
    /// `u64`: nanoseconds of the monotonic clock.
    pub const TIME: u32 = 32;
    /// `u32`: whether a VLAN tag lies beside the packet, as the kernel keeps one that a driver took out or will put in.
    pub const TAGGED: u32 = 40;
    /// `u32`: that tag, and its EtherType in network order.
    pub const TAG: u32 = 44;
    pub const TAG_TYPE: u32 = 48;
    pub const HEADER_BYTES: u32 = 56;
}

/// What becomes of formatted text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// `printf`
    Print,
    /// `errorf`: a message with its place in the script.
    Error,
    /// `warnf`
    Warning,
    /// `cat`: the name of a file to print.
    Cat,
    /// `system`: a command to run.
    System,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EventField {
    pub offset: u32,
    pub ty: Type,
}

/// A piece of a `printf` format; each `Arg` takes the next argument.
#[derive(Clone, Debug, PartialEq)]
pub enum FormatPart {
    Text(String),
    Arg(FormatSpec),
}

/// `%-08.3lld`: what the conversion asks for.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct FormatSpec {
    pub minus: bool,
    pub plus: bool,
    pub space: bool,
    pub alt: bool,
    pub zero: bool,
    pub width: Option<u32>,
    /// `*`: the width is an argument of its own, before the value.
    pub width_arg: bool,
    pub precision: Option<u32>,
    /// `.*`: the precision is an argument of its own, before the value.
    pub precision_arg: bool,
    /// How many low bits of an integer count; all 64 where nothing is said.
    pub bits: Option<u8>,
    /// `d i u o x X c s p r g` (`r`: buffer as hex with `\x`, `rx` plain hex, `rh` hex and text, `gr` the kernel's allocation
    /// flags by name); see `conv2`.
    pub conv: char,
    /// Second letter of a two-letter conversion (`rx`, `rh`, `gr`).
    pub conv2: Option<char>,
}

/// What went wrong in the kernel, one counter each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CounterSpec {
    /// The ring buffer was full: that many records were lost.
    LostEvents,
    /// A packet that was to be captured did not fit into the ring buffer.
    LostCaptures,
    /// An update of the map with this index was refused because it was full.
    MapFull { map: usize, span: Span },
    /// `limit` kept its body from running.
    Limited { span: Span },
    /// A number could not be left before a packet: the driver keeps no metadata.
    NoMetadata { span: Span },
    /// A packet, or the copy of one, was sent to a device that is gone.
    NoDevice { device: String, span: Span },
    /// A program found no free working memory and did nothing.
    ScratchExhausted,
}

/// One `use NAME(…) as ALIAS;`, checked against the declaration.
#[derive(Clone, Debug)]
pub struct NativeInstance {
    pub native: &'static weir_stdlib::Native,
    pub alias: String,
    /// In the order of the declaration's parameters; `None` where the default holds.
    pub params: Vec<Option<weir_stdlib::ParamValue>>,
    pub span: Span,
    /// Span of each given parameter's value.
    pub param_spans: Vec<Option<Span>>,
}

impl NativeInstance {
    /// Returns the text that a parameter is given.
    #[must_use]
    pub fn word(&self, param: &str) -> Option<&str> {
        let i = self.native.params.iter().position(|p| p.name == param)?;
        match self.params.get(i)?.as_ref()? {
            weir_stdlib::ParamValue::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the interfaces that it is on, for those with Ethernet.
    #[must_use]
    pub fn iface(&self) -> Option<IfacePattern> {
        self.word("iface").map(IfacePattern::parse)
    }

    /// Returns what the packets of its interfaces start with: there is a form of its programs, and of blocks on its events, for each. A pattern
    /// may meet either.
    #[must_use]
    pub fn link_layers(&self, kernel: &dyn KernelInfo) -> Vec<LinkLayer> {
        match self.iface() {
            Some(pattern) if pattern.is_glob() => vec![LinkLayer::Ethernet, LinkLayer::None],
            // One that is not there is complained about elsewhere.
            Some(pattern) => {
                let layer = kernel.link_layer(&pattern.pattern, pattern.netns.as_deref());
                vec![layer.unwrap_or(LinkLayer::Ethernet)]
            }
            None => vec![LinkLayer::Ethernet],
        }
    }

    /// Returns the programs that its parameters ask for, in the order of the declaration.
    pub fn programs(&self) -> impl Iterator<Item = &'static weir_stdlib::ProgramDecl> {
        self.native.programs_for(|param| self.word(param))
    }

    /// Returns whether one of them runs at XDP.
    #[must_use]
    pub fn is_on_xdp(&self) -> bool {
        self.programs().any(|p| p.attach == weir_stdlib::Attach::Xdp)
    }

    /// Returns what a block on an event becomes. Events of packets come from where the native is attached.
    #[must_use]
    pub fn event_hook(&self, event: usize) -> weir_stdlib::Hook {
        match self.native.events[event].hook {
            weir_stdlib::Hook::Tc if self.is_on_xdp() => weir_stdlib::Hook::Xdp,
            hook => hook,
        }
    }
}
