//! The typed tree: every name resolved, every expression typed.
//!
//! Input: [`weir_parser::ast::Program`]. Output: [`Program`] and diagnostics; with an error among them the tree must
//! not be compiled further. Not here: memory layout of programs, packet parsing, code.

mod args;
pub(crate) mod builtins;
mod calls;
mod check;
mod ctypes;
mod expr;
mod functions;
mod lints;
mod locate;
pub(crate) mod loops;
mod macros;
mod map_types;
mod meta;
mod natives;
mod ops;
mod packet;
mod places;
mod printf;
mod probes;
mod script_types;
mod seq;
mod sets;
mod settings;
mod sizes;
mod stmt;
mod system;
pub mod text;
mod unify;
mod usdt;
pub mod visit;

pub use args::{Parameter, parameters};
pub use check::{HELP, Options, check, interface_help, nearest_name, unknown_parameters};
pub use map_types::{DeclaredKind, MapDecl};
pub(crate) use probes::glob_step;
pub use probes::{function_match, glob_match, is_glob, is_hidden_piece, iterators, raw_parameters};
pub use settings::settings;

use crate::object::{Attach, Config, NativeInstance, TextKind};
use crate::tables::{AggKind, BuiltinKind, Hook, Verdict};
use crate::types::{MapValue, Type};
pub use natives::Copied;
use weir_parser::Span;

#[derive(Debug, Default)]
pub struct Program {
    pub blocks: Vec<Block>,
    pub maps: Vec<Map>,
    pub natives: Vec<NativeInstance>,
    pub config: Config,
    /// Number of possible CPUs.
    pub cpus: u32,
    /// Where in the current `struct task_struct` programs read `comm`, in bytes; `None` where they call the helper.
    pub comm_offset: Option<u32>,
    pub sets: Vec<SetMap>,
    /// `-k`: failures of helpers are told.
    pub helper_errors: bool,
}

/// A constant set that became a map.
#[derive(Debug, Clone, PartialEq)]
pub struct SetMap {
    /// Prefixes: the key is `u32` number of bits that count, `u32` address family, 16 bytes of address.
    pub lpm: bool,
    /// What is looked for.
    pub ty: Ty,
    pub keys: Vec<Vec<u8>>,
}

pub type MapId = usize;
pub type VarId = usize;

/// A map of the script.
#[derive(Debug, Clone)]
pub struct Map {
    /// With the `@`.
    pub name: String,
    /// `None` for a scalar.
    pub key: Option<Ty>,
    pub value: MapValueTy,
    /// First place that fixed the type.
    pub span: Span,
    /// `let @m = hash(N)`
    pub declared: Option<MapDecl>,
    /// Keys that the declaration's file has.
    pub initial: Vec<Vec<u8>>,
    /// It is the copy of a native's map.
    pub copy: Option<Copied>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum MapValueTy {
    Plain(Ty),
    Agg(MapValue),
}

/// One probe block.
#[derive(Debug)]
pub struct Block {
    pub hook: Hook,
    pub attach: Vec<Attach>,
    /// What `probe` and `func` are at each attach point.
    pub names: Vec<SiteNames>,
    /// First word of the attach points, in full.
    pub probe_type: &'static str,
    /// Offset of a pointer in the context without which the block does not run: iterators end with a null.
    pub wants: Option<u32>,
    pub predicate: Option<Expr>,
    pub body: Vec<Stmt>,
    pub vars: Vec<Var>,
    /// For a block on a native's event: index into [`Program::natives`].
    pub native: Option<usize>,
    pub span: Span,
}

/// The names of one attach point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteNames {
    /// With all parts, wildcards filled in.
    pub probe: String,
    /// The function, where there is one.
    pub func: String,
}

/// A scratch variable.
#[derive(Debug, Clone)]
pub struct Var {
    pub name: String,
    pub ty: Ty,
    pub span: Span,
    /// Its type was written down: what is assigned is cut to it.
    pub declared: bool,
    /// Its address is taken, so it lies in memory.
    pub addressed: bool,
    /// The type of what is assigned, before it is widened: what `sizeof` tells.
    pub written: Option<Ty>,
}

/// The type of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Ty {
    /// Of calls that have no value.
    Void,
    Bool,
    Int {
        bits: u8,
        signed: bool,
    },
    Str {
        cap: u32,
    },
    Inet,
    Prefix,
    Mac,
    Flow,
    /// Pointer to a C object.
    Ptr {
        to: Box<CTy>,
        space: Space,
    },
    /// A C object itself, known by its address: a struct member, an array.
    Obj {
        ty: CTy,
        space: Space,
    },
    Tuple(Vec<Ty>),
    Record(Vec<(String, Ty)>),
    /// Bytes from `buf`, at most `cap` of them.
    Buf {
        cap: u32,
    },
    /// A value that only user space gives a meaning to, as it lies in memory: symbols, stacks, times, enumerations,
    /// arrays.
    Kept(Type),
    /// A value that has no type because of an error that has been reported.
    Error,
}

/// Which memory a pointer points into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Kernel,
    User,
    /// The program's own context: loaded directly.
    Context,
    /// A struct of the kernel behind a pointer whose type the kernel knows: loaded directly where the way to it is nothing but
    /// such loads, else like [`Space::Kernel`].
    Btf,
}

/// A C type.
#[derive(Debug, Clone, PartialEq)]
pub enum CTy {
    Void,
    Int {
        bits: u8,
        signed: bool,
    },
    /// `char`: an array of it is a string.
    Char,
    /// A struct or union of the kernel's BTF, by type id.
    Struct {
        name: String,
        id: u32,
        union: bool,
    },
    /// An enumeration of the kernel's BTF, by type id.
    Enum {
        name: String,
        id: u32,
        bits: u8,
        signed: bool,
    },
    Ptr(Box<CTy>),
    Array {
        elem: Box<CTy>,
        len: u32,
    },
    /// Something that cannot be used but may stand behind a pointer.
    Opaque(String),
}

impl CTy {
    /// Returns the size in bytes, where the type itself tells.
    #[must_use]
    pub fn size(&self) -> Option<u32> {
        match self {
            CTy::Int { bits, .. } | CTy::Enum { bits, .. } => Some(u32::from(*bits) / 8),
            CTy::Char => Some(1),
            CTy::Ptr(_) => Some(8),
            CTy::Array { elem, len } => elem.size().map(|s| s * len),
            CTy::Void | CTy::Struct { .. } | CTy::Opaque(_) => None,
        }
    }
}

impl std::fmt::Display for CTy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CTy::Void => f.write_str("void"),
            CTy::Int { bits, signed: true } => write!(f, "int{bits}"),
            CTy::Int { bits, signed: false } => write!(f, "uint{bits}"),
            CTy::Char => f.write_str("char"),
            CTy::Enum { name, .. } => write!(f, "enum {name}"),
            CTy::Struct { name, union: false, .. } => write!(f, "struct {name}"),
            CTy::Struct { name, union: true, .. } => write!(f, "union {name}"),
            CTy::Ptr(to) => write!(f, "{to} *"),
            CTy::Array { elem, len } => write!(f, "{elem}[{len}]"),
            CTy::Opaque(name) => f.write_str(name),
        }
    }
}

impl Ty {
    pub const U64: Ty = Ty::Int { bits: 64, signed: false };
    pub const I64: Ty = Ty::Int { bits: 64, signed: true };
    pub const U32: Ty = Ty::Int { bits: 32, signed: false };

    #[must_use]
    pub fn is_int(&self) -> bool {
        matches!(self, Ty::Int { .. } | Ty::Bool | Ty::Kept(Type::Enum { .. }))
    }

    /// Returns whether values of the type are kept in memory, not in registers.
    #[must_use]
    pub fn in_memory(&self) -> bool {
        match self {
            Ty::Str { .. } | Ty::Buf { .. } | Ty::Kept(Type::Array { .. } | Type::Struct { .. }) => true,
            Ty::Tuple(fields) => fields.iter().any(Ty::in_memory),
            Ty::Record(fields) => fields.iter().any(|(_, ty)| ty.in_memory()),
            _ => false,
        }
    }

    /// Returns the room that a buffer of `len` bytes takes: with its length in whole words.
    #[must_use]
    pub fn buffer(len: u32) -> Ty {
        Ty::Buf {
            cap: (len + 4).next_multiple_of(8) - 4,
        }
    }

    #[must_use]
    pub fn is_signed(&self) -> bool {
        matches!(self, Ty::Int { signed: true, .. } | Ty::Kept(Type::Enum { .. }))
    }

    /// Returns the type of the value when it lies in a map or an event, `None` where it cannot.
    /// Integers take 64 bits there, strings whole words.
    #[must_use]
    pub fn stored(&self) -> Option<Type> {
        Some(match self {
            Ty::Bool => Type::Bool,
            Ty::Int { signed, .. } => Type::Int { bits: 64, signed: *signed },
            Ty::Str { cap } => Type::Str {
                cap: cap.next_multiple_of(8),
            },
            Ty::Inet => Type::Inet,
            Ty::Prefix => Type::Prefix,
            Ty::Mac => Type::Mac,
            Ty::Flow => Type::Flow,
            Ty::Ptr { to, .. } => Type::Ptr { pointee: to.to_string() },
            Ty::Obj {
                ty: CTy::Array { elem, len },
                ..
            } if **elem == CTy::Char => Type::Str {
                cap: len.next_multiple_of(8),
            },
            Ty::Tuple(fields) => Type::Tuple(fields.iter().map(Ty::stored).collect::<Option<_>>()?),
            Ty::Record(fields) => {
                let fields = fields.iter().map(|(name, ty)| Some((name.clone(), ty.stored()?)));
                Type::Record(fields.collect::<Option<_>>()?)
            }
            Ty::Buf { cap } => Type::Buf { cap: *cap },
            Ty::Kept(ty) => ty.clone(),
            Ty::Void | Ty::Obj { .. } | Ty::Error => return None,
        })
    }
}

impl std::fmt::Display for Ty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ty::Void => f.write_str("none"),
            Ty::Bool => f.write_str("bool"),
            Ty::Int { bits, signed } => write!(f, "{}int{bits}", if *signed { "" } else { "u" }),
            Ty::Str { cap } => write!(f, "string[{cap}]"),
            Ty::Inet => f.write_str("inet"),
            Ty::Prefix => f.write_str("prefix"),
            Ty::Mac => f.write_str("macaddr_t"),
            Ty::Flow => f.write_str("flow"),
            Ty::Ptr { to, .. } => write!(f, "{to} *"),
            Ty::Obj { ty, .. } => write!(f, "{ty}"),
            Ty::Tuple(fields) => {
                f.write_str("(")?;
                for (i, field) in fields.iter().enumerate() {
                    write!(f, "{}{field}", if i > 0 { "," } else { "" })?;
                }
                f.write_str(")")
            }
            Ty::Record(fields) => {
                f.write_str("(")?;
                for (i, (name, field)) in fields.iter().enumerate() {
                    write!(f, "{}{name}={field}", if i > 0 { "," } else { "" })?;
                }
                f.write_str(")")
            }
            Ty::Buf { cap } => write!(f, "buffer[{cap}]"),
            Ty::Kept(ty) => write!(f, "{ty}"),
            Ty::Error => f.write_str("unknown"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Expr {
    pub kind: ExprKind,
    pub ty: Ty,
    pub span: Span,
}

#[derive(Debug, Clone)]
pub enum ExprKind {
    Int(i64),
    Str(Vec<u8>),
    /// Address bytes as in memory; `v6` tells the family.
    Inet {
        bytes: [u8; 16],
        v6: bool,
    },
    Mac([u8; 6]),
    /// A prefix as key of an LPM map: address bytes, length, whether it is IPv6.
    Prefix([u8; 16], u8, bool),
    Builtin(BuiltinKind),
    /// Index into [`crate::tables::FIELDS`].
    Field(usize),
    /// Bytes of the packet at an offset, as a number in host order.
    PacketBytes {
        offset: Box<Expr>,
        bytes: u8,
    },
    /// Presence of a header.
    HasHeader(crate::tables::Header),
    /// Whether the expression has a value.
    Has(Box<Expr>),
    /// What an aggregation has come to, all CPUs together.
    AggGet {
        map: MapId,
        key: Option<Box<Expr>>,
    },
    /// A variable of the native's event, at this offset of its event record.
    EventVar {
        offset: u32,
        size: u32,
    },
    Var(VarId),
    MapGet {
        map: MapId,
        key: Option<Box<Expr>>,
    },
    HasKey {
        map: MapId,
        key: Box<Expr>,
    },
    Delete {
        map: MapId,
        key: Option<Box<Expr>>,
    },
    /// `@x++` and the like; the target is a variable or a map entry.
    IncDec {
        target: Box<Expr>,
        increment: bool,
        postfix: bool,
    },
    Not(Box<Expr>),
    BitNot(Box<Expr>),
    Neg(Box<Expr>),
    Binary {
        op: weir_parser::ast::BinaryOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    Ternary {
        cond: Box<Expr>,
        then: Box<Expr>,
        otherwise: Box<Expr>,
    },
    Elvis {
        value: Box<Expr>,
        otherwise: Box<Expr>,
    },
    /// Any element matches.
    In {
        value: Box<Expr>,
        set: Vec<SetElem>,
    },
    /// Whether a set of [`Program::sets`] has the value.
    InMap {
        value: Box<Expr>,
        set: usize,
    },
    /// Integer to integer (or pointer) of the expression's type.
    Convert(Box<Expr>),
    /// A fixed part of the context: `size` bytes at `offset`.
    CtxLoad {
        offset: u32,
        size: u32,
    },
    /// The object at `base + offset`; `base` is a pointer or another object. The type is `Ty::Obj`.
    Place {
        base: Box<Expr>,
        offset: u32,
    },
    /// Address of element `index` of the array `base`, whose elements take `size` bytes.
    Element {
        base: Box<Expr>,
        index: Box<Expr>,
        size: u32,
    },
    /// A scalar read from the object `place`; `bits` is `(shift, width)` for a bitfield.
    Read {
        place: Box<Expr>,
        size: u32,
        bits: Option<(u8, u8)>,
    },
    /// Text at a pointer, up to `cap` bytes with the NUL; no more than `len` bytes of text, if that is said.
    ReadStr {
        ptr: Box<Expr>,
        len: Option<Box<Expr>>,
        cap: u32,
        space: Space,
    },
    /// Bytes at a pointer: `len` of them, at most `cap`.
    ReadBuf {
        ptr: Box<Expr>,
        len: Box<Expr>,
        cap: u32,
        space: Space,
    },
    /// An array of the kernel, all of it: `size` bytes.
    ReadArray {
        place: Box<Expr>,
        size: u32,
    },
    /// 0 when the first `n` bytes of two texts agree, else 1.
    Memcmp {
        left: Box<Expr>,
        right: Box<Expr>,
        n: u32,
    },
    Strncmp {
        left: Box<Expr>,
        right: Box<Expr>,
        n: u32,
    },
    /// Where a text is in another: its first byte, or -1; without `index` only whether it is.
    Strcontains {
        text: Box<Expr>,
        part: Box<Expr>,
        index: bool,
    },
    /// Two texts, one behind the other.
    Concat {
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// A helper that writes `size` bytes: called with the address of them, their size, and the arguments; the value is what it has written.
    Fill {
        number: u32,
        size: u32,
        args: Vec<Expr>,
    },
    /// A helper that reads the value: called with the arguments, then address and size of it in memory.
    Give {
        number: u32,
        args: Vec<Expr>,
        value: Box<Expr>,
        size: u32,
    },
    Strlen(Box<Expr>),
    /// The name of the `struct path` at a place to which the way is nothing but loads that the kernel follows.
    FilePath {
        place: Box<Expr>,
        cap: u32,
    },
    /// The stack at this moment, from the stack map of its depth; `build_id`: files and offsets instead of addresses.
    Stack {
        user: bool,
        depth: u32,
        build_id: bool,
    },
    /// Number of entries of a map.
    Len(MapId),
    /// Nanoseconds since the script started.
    Elapsed,
    /// A call of a kernel helper with plain numbers.
    Helper {
        number: u32,
        args: Vec<Expr>,
    },
    /// The body of a function of the script; `return` in it ends it. The value is the variable's.
    Inline {
        body: Vec<Stmt>,
        result: Option<VarId>,
    },
    /// Address of a variable.
    AddrOf(VarId),
    /// Address of a map's value, null where there is none.
    MapAddr {
        map: MapId,
        key: Option<Box<Expr>>,
    },
    /// Bytes of the stack at this moment.
    StackBytes {
        user: bool,
        depth: u32,
    },
    /// Statements, then the value.
    Block {
        body: Vec<Stmt>,
        value: Box<Expr>,
    },
    /// Address at a tracepoint's `__data_loc` field.
    DataLoc {
        offset: u32,
    },
    /// IPv4 (from an integer in network order) or, from memory, `len` 4 or 16 bytes. `family` decides at run time when
    /// it is no constant.
    Ntop {
        family: Option<Box<Expr>>,
        addr: Box<Expr>,
    },
    Bswap {
        value: Box<Expr>,
        bits: u8,
    },
    Tuple(Vec<Expr>),
    TupleGet {
        base: Box<Expr>,
        index: usize,
    },
    /// Stands for something that had an error.
    Error,
}

#[derive(Debug, Clone)]
pub enum SetElem {
    One(Expr),
    /// Inclusive.
    Range(Expr, Expr),
    /// Address bytes in network order, length, whether it is IPv6.
    Prefix([u8; 16], u8, bool),
}

#[derive(Debug, Clone)]
pub struct Stmt {
    pub kind: StmtKind,
    pub span: Span,
}

#[derive(Debug, Clone)]
pub enum StmtKind {
    Expr(Expr),
    SetVar {
        var: VarId,
        value: Expr,
    },
    SetMap {
        map: MapId,
        key: Option<Expr>,
        value: Expr,
    },
    /// Writes to the packet or its context; the index is into [`crate::tables::FIELDS`].
    SetField {
        field: usize,
        value: Expr,
    },
    /// Out of another device: the packet, or for `mirror` a copy.
    Redirect {
        device: String,
        mirror: bool,
    },
    /// `@m[k] += n`: atomic add of the (possibly negated) value.
    AddMap {
        map: MapId,
        key: Option<Expr>,
        value: Expr,
    },
    Aggregate {
        map: MapId,
        key: Option<Expr>,
        agg: AggKind,
        value: Option<Expr>,
    },
    Event(Event),
    If {
        cond: Expr,
        then: Vec<Stmt>,
        otherwise: Vec<Stmt>,
    },
    While {
        cond: Expr,
        body: Vec<Stmt>,
    },
    /// `var` counts from `start` up to but not including `end`.
    ForRange {
        var: VarId,
        start: Expr,
        end: Expr,
        body: Vec<Stmt>,
    },
    /// `var` is a tuple of key and value, or of the key alone where the value cannot be read.
    ForMap {
        var: VarId,
        map: MapId,
        body: Vec<Stmt>,
    },
    /// The body is repeated in the code.
    Unroll {
        count: u32,
        body: Vec<Stmt>,
    },
    Block(Vec<Stmt>),
    /// Runs the body at most `rate` times in `per` nanoseconds, on each CPU its share. `number` tells one from the others.
    Limit {
        number: u32,
        rate: u64,
        per: u64,
        body: Vec<Stmt>,
    },
    Break,
    Continue,
    /// Ends the block; `value` is the verdict where the hook has one.
    Return(Option<Expr>),
    Verdict(Verdict),
    /// The packet goes to the capture file, with this many bytes at most, once its verdict is known.
    Capture {
        bytes: u32,
    },
    /// Sends the event, then ends the block.
    Exit {
        code: Option<Expr>,
    },
}

/// Work for user space.
#[derive(Debug, Clone)]
pub enum Event {
    /// What becomes of the formatted text is `what`'s.
    Printf {
        what: TextKind,
        format: Vec<crate::object::FormatPart>,
        args: Vec<Expr>,
    },
    /// Text for whoever reads the iterator, which the kernel formats: its format, without the NUL; numbers and texts.
    SeqPrintf {
        format: Vec<u8>,
        args: Vec<Expr>,
    },
    /// `join`: the texts up to the first empty one.
    Join {
        separator: String,
        args: Vec<Expr>,
    },
    PrintValue(Expr),
    PrintMap {
        map: EventMap,
        top: u32,
        div: u32,
    },
    PrintMapKey {
        map: MapId,
        key: Expr,
    },
    Clear(EventMap),
    Zero(EventMap),
    PrintNative {
        instance: usize,
        top: u32,
    },
    Time(String),
}

#[derive(Debug, Clone, Copy)]
pub enum EventMap {
    Own(MapId),
    Native { instance: usize, map: usize },
}
