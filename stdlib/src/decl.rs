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
    pub hook: Hook,
    pub params: &'static [ParamDecl],
    pub maps: &'static [MapDecl],
    pub events: &'static [EventDecl],
}

/// Where the native's program runs; blocks on its events are programs of the same type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Xdp,
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
    /// A port, a range of ports, or a list of both.
    Ports,
    /// A time, in quotes or not: `30s`, `"5m"`; at least this many nanoseconds.
    Duration {
        min_ns: u64,
    },
    /// Any text.
    Text,
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
    /// Whether scripts may clear and delete.
    pub writable: bool,
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapShape {
    /// Keyed by an address prefix.
    ByPrefix(ValueShape),
    /// An array of named counters, printed `name: n`.
    Counters(&'static [&'static str]),
    /// Numbers that the runtime knows, printed likewise; no map of the kernel, and not printed at exit.
    Known(&'static [&'static str]),
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
    /// Whether verdict functions in the block replace the native's verdict.
    pub decides: bool,
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
}
