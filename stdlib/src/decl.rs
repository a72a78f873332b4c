//! The shape of a native's declaration.

/// A prebuilt BPF program that scripts parameterise.
#[derive(Debug)]
pub struct Native {
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Paragraphs for `weir doc`.
    pub doc: &'static str,
    /// A script that uses it, run by the tests.
    pub example: &'static str,
    pub programs: &'static [ProgramDecl],
    pub params: &'static [ParamDecl],
    pub maps: &'static [MapDecl],
    pub events: &'static [EventDecl],
    /// Bytes of an element of the per-CPU array `EVENT`.
    pub event_size: u32,
    /// Parameters that others have and this one has not, each with the reason, or what to do instead.
    pub without: &'static [(&'static str, &'static str)],
    /// Parameters that mean nothing beside another.
    pub apart: &'static [Apart],
}

/// A parameter that is refused where another one has one of some values.
#[derive(Debug)]
pub struct Apart {
    pub param: &'static str,
    /// The other one, a [`ParamType::Choice`], and its words.
    pub with: (&'static str, &'static [&'static str]),
    pub message: &'static str,
    /// The change to make.
    pub help: &'static str,
}

/// [`Native::without`] of those that decide nothing.
pub const ONLY_WATCHES: &[(&str, &str)] = &[
    ("dry_run", "it only watches: nothing is dropped or changed in any case"),
    (
        "duration",
        "it only watches, so there is nothing to end but the run: `--timeout 5m`, or `interval:m:5 { exit(); }`",
    ),
    (
        "pin",
        "it only watches, and what it sees is put together by weir: to go on without a terminal it is run as a service, `examples/weir@.service`",
    ),
    ("audit", "it only watches, so there are no changes that a log could name"),
];

/// What is said of the parameter `iface` in every native that has it.
pub const IFACE_DOC: &str = "a name, or a glob for several: with Ethernet, or with packets that start with IP (tun, WireGuard, IP tunnels)";

impl Native {
    /// Returns whether a program of it may run at XDP.
    #[must_use]
    pub fn is_on_xdp(&self) -> bool {
        self.programs.iter().any(|p| p.attach == Attach::Xdp)
    }

    /// Returns the map that scripts see of one of the kernel's.
    #[must_use]
    pub fn map_of(&self, symbol: &str) -> Option<&'static MapDecl> {
        // Those that the runtime puts together have the name of the one they come from.
        self.maps
            .iter()
            .find(|map| map.symbols.contains(&symbol) || map.name.eq_ignore_ascii_case(symbol))
    }

    /// Returns the programs that these parameters ask for. `word` gives a parameter's text, or `None` where the default holds.
    pub fn programs_for<'w>(&self, word: impl Fn(&str) -> Option<&'w str>) -> impl Iterator<Item = &'static ProgramDecl> {
        let wanted = move |program: &&ProgramDecl| {
            program.when.iter().all(|(param, words)| {
                let default = self.params.iter().find(|p| p.name == *param).map_or("", |p| p.default);
                words.contains(&word(param).unwrap_or(default.trim_matches('"')))
            })
        };
        self.programs.iter().filter(wanted)
    }

    /// Returns how many elements the array `EVENT` has.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.events.iter().map(|e| e.record + 1).max().unwrap_or(1)
    }
}

/// One program of a native.
#[derive(Debug)]
pub struct ProgramDecl {
    /// Symbol in the native's object.
    pub symbol: &'static str,
    pub attach: Attach,
    /// Used only where each of these parameters is one of these words.
    pub when: &'static [(&'static str, &'static [&'static str])],
}

/// What a program of a native is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// The interfaces of the parameter `iface`.
    Xdp,
    /// The same, what comes from them into the host.
    TcIngress,
    /// The same, what goes out through them.
    TcEgress,
    /// A hook on system calls of sockets, of all cgroups: the last word of `cgroup:/:NAME`.
    Cgroup(&'static str),
    /// setsockopt(2), of all cgroups.
    CgroupSetsockopt,
    /// A raw tracepoint of the kernel by its name.
    RawTracepoint(&'static str),
    /// An iterator of the kernel (`iter:NAME`), run when the native's user space wants to know.
    Iter(&'static str),
}

/// Of which type the program of an event is; a block on the event becomes a program of the same type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Xdp,
    Tc,
    /// A raw tracepoint.
    Trace,
}

#[derive(Debug)]
pub struct ParamDecl {
    pub name: &'static str,
    pub ty: ParamType,
    pub required: bool,
    /// As printed by `weir doc`; empty for required parameters.
    pub default: &'static str,
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// Interface name or glob.
    Iface,
    /// `file("…")`, a list of prefixes, or `"-"` for standard input.
    Prefixes,
    /// `file("…")`, of a form of its own.
    File,
    /// A port, a range of ports, or a list of both.
    Ports,
    /// A time, in quotes or not: `30s`, `"5m"`; at least this many nanoseconds.
    Duration {
        min_ns: u64,
    },
    /// Any text.
    Text,
    /// A path in quotes, or a word that stands for none.
    Path {
        none: Option<&'static str>,
    },
    /// What something is called: letters, digits, `-` and `_`.
    Name,
    /// One of these words, in quotes.
    Choice(&'static [&'static str]),
    Bool,
    /// Inclusive range.
    Int {
        min: u64,
        max: u64,
    },
}

/// A checked argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParamValue {
    Str(String),
    Bool(bool),
    Int(u64),
    /// Nanoseconds.
    Duration(u64),
    /// `file("path")`
    File(String),
    /// `"-"`
    Stdin,
    /// Inclusive ranges.
    Ports(Vec<(u16, u16)>),
    /// Addresses and prefixes written in the script, as text (`10.0.0.0/8`).
    List(Vec<String>),
}

/// A map of the native that scripts can name as `@ALIAS.name`.
#[derive(Debug)]
pub struct MapDecl {
    pub name: &'static str,
    /// Symbol in the native's object. Prefix-keyed maps may be two symbols, IPv4 and IPv6; the runtime joins them.
    pub symbols: &'static [&'static str],
    pub shape: MapShape,
    /// Of the names of [`MapShape::Counters`] and [`MapShape::Known`] those that say how it is now, and do not only grow.
    pub levels: &'static [&'static str],
    pub writable: Writable,
    /// How many entries the copy of it has room for that scripts index and go over.
    pub room: Room,
    pub doc: &'static str,
}

/// What scripts may do to a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writable {
    No,
    /// `clear` and `zero`, not `delete`.
    Whole,
    Entries,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Fixed(u32),
    /// So many times what this parameter says.
    Param(&'static str, u32),
}

/// Bytes of a text that is a key or a column.
pub const TEXT_BYTES: u32 = 64;
/// Bytes of each text of [`KeyShape::FlowAt`].
pub const FLOW_AT_BYTES: u32 = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapShape {
    /// Keyed by an address prefix.
    ByPrefix(ValueShape),
    /// An array of named counters, printed `name: n`.
    Counters(&'static [&'static str]),
    /// Numbers that the runtime knows, printed likewise; no map of the kernel, and not printed at exit.
    Known(&'static [&'static str]),
    /// Rows that the runtime makes of what the native's maps hold.
    Table {
        key: KeyShape,
        columns: &'static [Column],
        /// Names of columns, and of parts of the key behind the first, that a narrow screen does without, the first one first.
        spare: &'static [&'static str],
    },
}

impl MapShape {
    /// Returns what the parts of a key are called.
    #[must_use]
    pub fn key_names(self) -> Vec<&'static str> {
        match self {
            MapShape::ByPrefix(_) => vec!["prefix"],
            MapShape::Counters(_) | MapShape::Known(_) => vec!["name"],
            MapShape::Table { key, .. } => match key {
                KeyShape::Address => vec!["address"],
                KeyShape::Text(word) => vec![word],
                KeyShape::Flow => vec!["flow"],
                KeyShape::FlowAt => vec!["flow", "interface", "direction"],
            },
        }
    }
}

/// What the rows of a table are called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyShape {
    Address,
    /// Text with a name for it: `process`.
    Text(&'static str),
    Flow,
    /// A flow, the interface, and which way it goes there.
    FlowAt,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub ty: ColumnType,
}

impl Column {
    #[must_use]
    pub const fn count(name: &'static str) -> Self {
        Self {
            name,
            ty: ColumnType::Count,
        }
    }

    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self {
            name,
            ty: ColumnType::Text,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    Count,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueShape {
    /// Per-CPU `{ u64 packets, u64 bytes }`
    PacketsBytes,
}

/// A point in the native where a script's block runs.
#[derive(Debug)]
pub struct EventDecl {
    pub name: &'static str,
    /// Slot in the native's program array `EVENTS`.
    pub slot: u32,
    /// Element of the per-CPU array `EVENT` that its variables are in. Events of programs that can interrupt each other need one each.
    pub record: u32,
    pub hook: Hook,
    /// Whether verdict functions in the block replace the native's verdict.
    pub decides: bool,
    /// Whether packet after packet may have it, so that a line for each would be a flood.
    pub each_packet: bool,
    pub vars: &'static [EventVar],
    pub doc: &'static str,
}

/// A variable of an event, `ALIAS.name` in its block, in the native's per-CPU event record.
#[derive(Debug)]
pub struct EventVar {
    pub name: &'static str,
    /// Bytes from the start of the event record.
    pub offset: u32,
    pub ty: EventVarType,
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventVarType {
    U32,
    U64,
    /// As `weir_ebpf_builtins::Prefix`: `u32` length in bits, `u32` address family, 16 bytes in network order.
    Prefix,
    /// As `weir_ebpf_builtins::Inet`: `u64` address family, 16 bytes in network order.
    Inet,
    /// As `weir_ebpf_builtins::Flow`.
    Flow,
    /// So many bytes, a multiple of 8, with zeros behind the text.
    Text {
        cap: u32,
    },
}
