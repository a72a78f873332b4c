//! The syntax tree: the whole bpftrace 0.27 language and weir's additions, names unresolved.
//!
//! Every node has the [`Span`] of the text it came from. Nothing here says what a name means: `tcp.dport` is a
//! field access on the name `tcp`, `drop()` is a call, `bl:drop` is an attach point with the parts `bl` and `drop`.

use crate::diag::Span;

/// A name as written (without `@` or `$`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ident {
    pub name: String,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Program {
    /// The first line when it starts with `#!`, without the line break.
    pub shebang: Option<String>,
    /// C types that the script defines itself.
    pub types: Vec<TypeDef>,
    pub items: Vec<Item>,
}

/// `struct x { … };`, `union x { … };`, `enum x { … };`
#[derive(Clone, Debug, PartialEq)]
pub struct TypeDef {
    /// `None` for an anonymous type inside of another, and for `enum { … }`.
    pub name: Option<Ident>,
    pub body: TypeBody,
    /// `__attribute__((packed))`
    pub packed: bool,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TypeBody {
    Struct(Vec<FieldDef>),
    Union(Vec<FieldDef>),
    /// Enumerators with their values where written.
    Enum(Vec<(Ident, Option<Expr>)>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct FieldDef {
    /// `None` for an anonymous struct or union, and for an unnamed bitfield.
    pub name: Option<Ident>,
    pub ty: FieldType,
    /// Width of a bitfield.
    pub bits: Option<u64>,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FieldType {
    /// Pointers and array lengths included.
    Type(TypeExpr),
    /// A type defined in place; with the lengths of the array of it, outermost first, where it is one.
    Inline(Box<TypeDef>, Vec<u64>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Define(Define),
    Include(Include),
    Config(Config),
    Import(Import),
    Macro(Macro),
    Fn(FnDef),
    MapDecl(MapDecl),
    Use(Use),
    Probe(Probe),
}

/// `#define NAME value`: an object-like macro whose value is one expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Define {
    pub name: Ident,
    /// `None` for `#define NAME`.
    pub value: Option<Expr>,
    pub span: Span,
}

/// `#include <x.h>` or `"x.h"`: kept so that it can be noted; the types come from BTF.
#[derive(Clone, Debug, PartialEq)]
pub struct Include {
    pub path: String,
    pub span: Span,
}

/// `config = { name = value; … }`
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub entries: Vec<(Ident, Expr)>,
    pub span: Span,
}

/// `import "path";`
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    pub path: String,
    pub path_span: Span,
    pub span: Span,
}

/// `macro name(expr, $var, @map) { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct Macro {
    pub name: Ident,
    pub params: Vec<MacroParam>,
    pub body: Block,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum MacroParam {
    Expr(Ident),
    Var(Ident),
    Map(Ident),
}

/// `fn name($a : type, …) : type { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct FnDef {
    pub name: Ident,
    pub params: Vec<(Ident, TypeExpr)>,
    pub ret: TypeExpr,
    pub body: Block,
    pub span: Span,
}

/// `let @m = hash(N);` — also `lruhash`, `percpuhash`, `percpulruhash`, `lpm(N[, file("…")])`.
#[derive(Clone, Debug, PartialEq)]
pub struct MapDecl {
    pub map: Ident,
    pub kind: Ident,
    pub args: Vec<Expr>,
    pub span: Span,
}

/// `use NAME(param=value, …) [as ALIAS];`
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    pub native: Ident,
    pub params: Vec<(Ident, Expr)>,
    pub alias: Option<Ident>,
    pub span: Span,
}

/// `attach point, … /predicate/ { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub attach_points: Vec<AttachPoint>,
    pub predicate: Option<Expr>,
    pub body: Block,
    pub span: Span,
}

/// One attach point, split at its colons: `xdp:veth0:native` has three parts. Quotes are removed, positional
/// parameters (`$1`) are left in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct AttachPoint {
    /// The `name` of `name=probe`.
    pub label: Option<Ident>,
    pub parts: Vec<Ident>,
    /// The whole attach point as written.
    pub text: String,
    pub span: Span,
}

/// `{ statements; value }`: `value` is the last expression without `;`, meaningful where a value is wanted.
///
/// Where a value is wanted and the last statement is an `if` with `else` and there is no `value`, the blocks of that `if`
/// have it. (`if` after an operator or `=` is a [`ExprKind::Ternary`] of two blocks.)
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Block {
    pub stmts: Vec<Stmt>,
    pub value: Option<Box<Expr>>,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Stmt {
    pub kind: StmtKind,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum StmtKind {
    /// Any expression as a statement: calls, `@x++`, …
    Expr(Expr),
    /// `target op= value`; `op` is `None` for plain `=`. `_ = f()` has the target `Name("_")`.
    Assign {
        target: Expr,
        op: Option<BinaryOp>,
        value: Expr,
    },
    /// `let $x;` `let $x = e;` `let $x: type = e;`
    Let {
        var: Ident,
        ty: Option<TypeExpr>,
        value: Option<Expr>,
    },
    If {
        cond: Expr,
        then: Block,
        otherwise: Option<Block>,
    },
    While {
        cond: Expr,
        body: Block,
    },
    Unroll {
        count: Expr,
        body: Block,
    },
    /// `for ($kv : @map)` and `for ($i : a..b)`
    For {
        var: Ident,
        range: ForRange,
        body: Block,
    },
    /// `limit(10/s) { … }`: the rate is the expression `10/s`.
    Limit {
        rate: Expr,
        body: Block,
    },
    Block(Block),
    Break,
    Continue,
    Return(Option<Expr>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum ForRange {
    /// A map, or anything else that is not a range.
    Over(Expr),
    Range {
        start: Expr,
        end: Expr,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub kind: ExprKind,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// Decimal, hexadecimal, octal, `1e6`, `1_000`.
    Int(u64),
    /// `10ms`: the value in nanoseconds.
    Duration(u64),
    Bool(bool),
    /// Escapes resolved; bytes, because `\x80` is allowed.
    Str(Vec<u8>),
    /// `10.0.0.1`
    Ipv4([u8; 4]),
    /// `10.0.0.0/8`, host bits already checked to be zero.
    Ipv4Prefix([u8; 4], u8),
    /// A bare word: builtin, constant, macro, function without parentheses, first part of a packet field.
    Name(String),
    /// `$x`
    Var(String),
    /// `$1`
    Param(u32),
    /// `$#`
    ParamCount,
    /// `@x` or `@x[k, …]` (`@` has the empty name). `keys` is `None` without brackets.
    Map {
        name: String,
        keys: Option<Vec<Expr>>,
    },
    /// `a.b`, `a->b`
    Field {
        base: Box<Expr>,
        name: Ident,
        arrow: bool,
    },
    /// `t.0`
    TupleIndex {
        base: Box<Expr>,
        index: u32,
    },
    Index {
        base: Box<Expr>,
        index: Box<Expr>,
    },
    /// `f(a, b)`. `comptime x` is the call `comptime(x)`.
    Call {
        name: Ident,
        args: Vec<Arg>,
    },
    Unary {
        op: UnaryOp,
        expr: Box<Expr>,
    },
    /// `++x`, `x++`, `--x`, `x--`
    IncDec {
        expr: Box<Expr>,
        increment: bool,
        postfix: bool,
    },
    Binary {
        op: BinaryOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    Ternary {
        cond: Box<Expr>,
        then: Box<Expr>,
        otherwise: Box<Expr>,
    },
    /// `a ?: b`
    Elvis {
        value: Box<Expr>,
        otherwise: Box<Expr>,
    },
    Cast {
        ty: TypeExpr,
        expr: Box<Expr>,
    },
    /// `(a, b)`, `(a,)`, `()`
    Tuple(Vec<Expr>),
    /// `(a = 1, b = "x")`
    Record(Vec<(Ident, Expr)>),
    /// `x in (a, lo-hi, prefix)` and `x in @m`
    In {
        value: Box<Expr>,
        set: InSet,
    },
    /// `{ a; b }` as a value
    Block(Box<Block>),
    SizeOf(SizeOfArg),
    /// `offsetof(struct x, a.b)`
    OffsetOf {
        of: SizeOfArg,
        fields: Vec<Ident>,
    },
    /// `typeof(x)` where a value is wanted (comparison of types).
    TypeOf(SizeOfArg),
    /// Stands where the parser recovered from an error; a diagnostic has been given.
    Error,
}

/// An argument of a call: an expression, `name=expr` where a call takes named arguments, or a type that starts with
/// `struct`, `union` or `enum` (as [`ExprKind::TypeOf`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    pub name: Option<Ident>,
    pub value: Expr,
}

/// A bare name that is no builtin, no constant in capitals and no macro parameter counts as a type.
#[derive(Clone, Debug, PartialEq)]
pub enum SizeOfArg {
    Type(TypeExpr),
    Expr(Box<Expr>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum InSet {
    List(Vec<SetElem>),
    /// `@m`, `file("…")` — anything that is not a parenthesised list.
    Expr(Box<Expr>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum SetElem {
    One(Expr),
    /// Inclusive on both ends.
    Range(Expr, Expr),
}

#[derive(Clone, Debug, PartialEq)]
pub struct TypeExpr {
    pub kind: TypeExprKind,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TypeExprKind {
    /// `uint32`, `u32`, `pid_t`, `string`, `inet`
    Name(String),
    /// `string[64]`, `buffer[16]`; 0 for `string[]`.
    Sized(String, u64),
    Struct(String),
    Union(String),
    Enum(String),
    Pointer(Box<TypeExpr>),
    /// `int32[4]`; 0 for `int32[]`, whose length follows from the value.
    Array(Box<TypeExpr>, u64),
    /// `typeof(e)`
    TypeOf(Box<Expr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    Not,
    BitNot,
    Neg,
    Plus,
    Deref,
    AddrOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    BitAnd,
    BitOr,
    BitXor,
    Shl,
    Shr,
    And,
    Or,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl UnaryOp {
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            UnaryOp::Not => "!",
            UnaryOp::BitNot => "~",
            UnaryOp::Neg => "-",
            UnaryOp::Plus => "+",
            UnaryOp::Deref => "*",
            UnaryOp::AddrOf => "&",
        }
    }
}

impl BinaryOp {
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::BitAnd => "&",
            BinaryOp::BitOr => "|",
            BinaryOp::BitXor => "^",
            BinaryOp::Shl => "<<",
            BinaryOp::Shr => ">>",
            BinaryOp::And => "&&",
            BinaryOp::Or => "||",
            BinaryOp::Eq => "==",
            BinaryOp::Ne => "!=",
            BinaryOp::Lt => "<",
            BinaryOp::Le => "<=",
            BinaryOp::Gt => ">",
            BinaryOp::Ge => ">=",
        }
    }

    #[must_use]
    pub fn is_comparison(self) -> bool {
        matches!(
            self,
            BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge
        )
    }
}
