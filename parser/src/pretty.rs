//! The tree as source text, formatted; parsing the result gives the same tree again (spans apart).
//!
//! [`pretty`] has the tree alone: comments and blank lines are lost, numbers are decimal. With a layout (`format.rs`) it keeps them.

use std::fmt::Write as _;

use crate::ast::{
    AttachPoint, BinaryOp, Block, Expr, ExprKind, FieldDef, FieldType, ForRange, Ident, InSet, Item, MacroParam, Probe, Program, SetElem,
    SizeOfArg, Stmt, StmtKind, TypeBody, TypeDef, TypeExprKind,
};
use crate::dump::type_text;
use crate::format::range;
use crate::layout::{INDENT, Layout, WIDTH};
use crate::node::{IN_PRECEDENCE, precedence};

/// Returns the program as formatted source text.
#[must_use]
pub fn pretty(program: &Program) -> String {
    let mut printer = Printer::default();
    if let Some(line) = &program.shebang {
        printer.out.push_str(line);
        printer.out.push('\n');
    }
    for def in &program.types {
        printer.type_def(def);
        printer.out.push_str(";\n");
    }
    if !program.types.is_empty() {
        printer.out.push('\n');
    }
    let mut previous: Option<&Item> = None;
    for item in &program.items {
        if previous.is_some_and(|previous| has_block(previous) || has_block(item)) {
            printer.out.push('\n');
        }
        printer.item(item);
        printer.out.push('\n');
        previous = Some(item);
    }
    printer.out
}

/// Returns one expression as source text.
pub(crate) fn expr_text(expr: &Expr) -> String {
    let mut printer = Printer::default();
    printer.expr(expr, LOWEST);
    printer.out
}

fn has_block(item: &Item) -> bool {
    matches!(item, Item::Probe(_) | Item::Macro(_) | Item::Fn(_) | Item::Config(_))
}

// Binding strengths beside those of the binary operators (1 to 10).
const LOWEST: u8 = 0;
const UNARY: u8 = 11;
const POSTFIX: u8 = 12;
/// More than anything has: always in parentheses.
const PRIMARY: u8 = 13;

#[derive(Default)]
pub(crate) struct Printer<'s> {
    pub(crate) out: String,
    pub(crate) indent: usize,
    /// The text that is formatted, where there is one.
    pub(crate) layout: Option<Layout<'s>>,
    /// How many blocks are being printed on one line.
    pub(crate) inline: usize,
}

impl Printer<'_> {
    pub(crate) fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    pub(crate) fn line(&mut self) {
        if self.inline > 0 {
            self.out.push(' ');
            return;
        }
        // No blanks at the end of an empty line.
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', self.indent * INDENT));
    }

    pub(crate) fn type_def(&mut self, def: &TypeDef) {
        let (word, fields) = match &def.body {
            TypeBody::Struct(fields) => ("struct", fields.as_slice()),
            TypeBody::Union(fields) => ("union", fields.as_slice()),
            TypeBody::Enum(_) => ("enum", [].as_slice()),
        };
        self.push(word);
        if let Some(name) = &def.name {
            let _ = write!(self.out, " {}", name.name);
        }
        self.push(" {");
        self.indent += 1;
        for field in fields {
            self.line();
            self.field(field);
        }
        if let TypeBody::Enum(values) = &def.body {
            for (name, value) in values {
                self.line();
                self.push(&name.name);
                if let Some(value) = value {
                    self.push(" = ");
                    self.expr(value, LOWEST);
                }
                self.push(",");
            }
        }
        self.indent -= 1;
        self.line();
        self.push(if def.packed { "} __attribute__((packed))" } else { "}" });
    }

    fn field(&mut self, field: &FieldDef) {
        let name = field.name.as_ref().map_or("", |name| &name.name);
        match &field.ty {
            FieldType::Inline(def, dims) => {
                self.type_def(def);
                if !name.is_empty() {
                    let _ = write!(self.out, " {name}");
                }
                for dim in dims {
                    let _ = write!(self.out, "[{dim}]");
                }
            }
            FieldType::Type(ty) => {
                // C's order: the element type first, the lengths behind the name, outermost first.
                let (mut inner, mut dims) = (ty, String::new());
                while let TypeExprKind::Array(of, size) = &inner.kind {
                    let _ = match size {
                        0 => write!(dims, "[]"),
                        size => write!(dims, "[{size}]"),
                    };
                    inner = of;
                }
                let text = type_text(inner);
                let blank = if text.ends_with('*') || name.is_empty() { "" } else { " " };
                let _ = write!(self.out, "{text}{blank}{name}{dims}");
            }
        }
        if let Some(bits) = field.bits {
            let _ = write!(self.out, " : {bits}");
        }
        self.push(";");
    }

    pub(crate) fn item(&mut self, item: &Item) {
        match item {
            Item::Define(define) => {
                let _ = write!(self.out, "#define {}", define.name.name);
                if let Some(value) = &define.value {
                    let mut inner = Printer::default();
                    inner.expr(value, LOWEST);
                    // A directive is one line.
                    let _ = write!(self.out, " {}", inner.out.replace('\n', " "));
                }
            }
            Item::Include(include) if include.path.contains('/') && include.path.starts_with('.') || include.path.contains('>') => {
                let _ = write!(self.out, "#include \"{}\"", include.path);
            }
            Item::Include(include) => {
                let _ = write!(self.out, "#include <{}>", include.path);
            }
            Item::Config(config) => {
                self.push("config = {");
                self.indent += 1;
                for (name, value) in &config.entries {
                    self.line();
                    let _ = write!(self.out, "{} = ", name.name);
                    self.expr(value, LOWEST);
                    self.push(";");
                }
                self.indent -= 1;
                self.line();
                self.push("}");
            }
            Item::Import(import) => {
                self.push("import ");
                self.string(import.path.as_bytes());
                self.push(";");
            }
            Item::Macro(item) => {
                let params: Vec<String> = item.params.iter().map(macro_param).collect();
                self.header(item.span.start as usize, &item.body, |p| {
                    let _ = write!(p.out, "macro {}({}) ", item.name.name, params.join(", "));
                });
                self.block(&item.body);
            }
            Item::Fn(item) => {
                let params: Vec<String> = item
                    .params
                    .iter()
                    .map(|(name, ty)| format!("${} : {}", name.name, type_text(ty)))
                    .collect();
                self.header(item.span.start as usize, &item.body, |p| {
                    let _ = write!(p.out, "fn {}({}) : {} ", item.name.name, params.join(", "), type_text(&item.ret));
                });
                self.block(&item.body);
            }
            Item::MapDecl(decl) => {
                let _ = write!(self.out, "let @{} = {}(", decl.map.name, decl.kind.name);
                self.list(&decl.args);
                self.push(");");
            }
            Item::Use(item) => {
                let _ = write!(self.out, "use {}(", item.native.name);
                for (index, (name, value)) in item.params.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    let _ = write!(self.out, "{comma}{}=", name.name);
                    self.expr(value, LOWEST);
                }
                self.push(")");
                if let Some(alias) = &item.alias {
                    let _ = write!(self.out, " as {}", alias.name);
                }
                self.push(";");
            }
            Item::Probe(probe) => {
                self.header(probe.span.start as usize, &probe.body, |p| p.probe_header(probe));
                self.block(&probe.body);
            }
        }
    }

    fn probe_header(&mut self, probe: &Probe) {
        let mut last = None;
        for point in &probe.attach_points {
            if let Some(end) = last {
                let start = point.span.start as usize;
                let broken = self.layout.as_ref().is_none_or(|l| l.has_line_break(end, start));
                self.push(if broken { ",\n" } else { ", " });
            }
            self.attach_point(point);
            last = Some(point.span.end as usize);
        }
        self.push(" ");
        if let Some(predicate) = &probe.predicate {
            self.push("/");
            let start = self.out.len();
            self.bare(predicate);
            // `/*` would start a comment.
            if self.out[start..].starts_with('*') {
                self.out.insert(start, ' ');
            }
            self.push("/ ");
        }
    }

    fn attach_point(&mut self, point: &AttachPoint) {
        if let Some(label) = &point.label {
            let _ = write!(self.out, "{}=", label.name);
        }
        self.push(&point.text);
    }

    fn block(&mut self, block: &Block) {
        let (start, end) = range(block.span);
        let commented = self.layout.as_ref().is_some_and(|l| l.has_comment(start, end));
        if block.stmts.is_empty() && block.value.is_none() && !commented {
            self.push("{}");
            return;
        }
        let on_one_line = self.layout.as_ref().is_some_and(|l| !l.has_line_break(start, end)) && !commented;
        if on_one_line || self.inline > 0 {
            let from = self.out.len();
            self.inline += 1;
            self.block_body(block);
            self.inline -= 1;
            let line = self.out.rfind('\n').map_or(0, |at| at + 1);
            if self.inline > 0 || self.out[line..].chars().count() <= WIDTH {
                return;
            }
            self.out.truncate(from);
        }
        self.block_body(block);
    }

    fn block_body(&mut self, block: &Block) {
        self.push("{");
        self.indent += 1;
        let value = block.value.as_deref().map(|v| v.span);
        for stmt in &block.stmts {
            self.statement_start(stmt.span);
            self.kept_or(stmt, Self::stmt);
            self.trailing_comment(stmt.span.end as usize);
        }
        if let (Some(value), Some(span)) = (&block.value, value) {
            self.statement_start(span);
            if !self.kept(range(span)) {
                self.expr(value, LOWEST);
            }
            self.trailing_comment(span.end as usize);
        }
        self.comments_before((block.span.end as usize).saturating_sub(1));
        self.indent -= 1;
        self.line();
        self.push("}");
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match &stmt.kind {
            StmtKind::Expr(expr) => {
                self.expr(expr, LOWEST);
                self.push(";");
            }
            StmtKind::Assign { target, op, value } => {
                self.expr(target, LOWEST);
                let _ = write!(self.out, " {}= ", op.map_or("", BinaryOp::symbol));
                self.expr(value, LOWEST);
                self.push(";");
            }
            StmtKind::Let { var, ty, value } => {
                let _ = write!(self.out, "let ${}", var.name);
                if let Some(ty) = ty {
                    let _ = write!(self.out, " : {}", type_text(ty));
                }
                if let Some(value) = value {
                    self.push(" = ");
                    self.expr(value, LOWEST);
                }
                self.push(";");
            }
            StmtKind::If { cond, then, otherwise } => self.if_stmt(cond, then, otherwise.as_ref()),
            StmtKind::While { cond, body } => self.headed("while", cond, body),
            StmtKind::Unroll { count, body } => self.headed("unroll", count, body),
            StmtKind::Limit { rate, body } => {
                self.push("limit(");
                match &rate.kind {
                    // `10/s` is one thing to its author.
                    ExprKind::Binary {
                        op: BinaryOp::Div,
                        left,
                        right,
                    } if self.layout.is_some() => {
                        self.expr(left, precedence(BinaryOp::Div));
                        self.push("/");
                        self.expr(right, POSTFIX);
                    }
                    _ => self.bare(rate),
                }
                self.push(") ");
                self.block(body);
            }
            StmtKind::For { var, range, body } => {
                let _ = write!(self.out, "for (${} : ", var.name);
                match range {
                    ForRange::Over(expr) => self.expr(expr, LOWEST),
                    ForRange::Range { start, end } => {
                        self.expr(start, LOWEST);
                        self.push("..");
                        self.expr(end, LOWEST);
                    }
                }
                self.push(") ");
                self.block(body);
            }
            StmtKind::Block(block) => self.block(block),
            StmtKind::Break => self.push("break;"),
            StmtKind::Continue => self.push("continue;"),
            StmtKind::Return(value) => {
                self.push("return");
                if let Some(value) = value {
                    self.push(" ");
                    self.expr(value, LOWEST);
                }
                self.push(";");
            }
        }
    }

    fn if_stmt(&mut self, cond: &Expr, then: &Block, otherwise: Option<&Block>) {
        self.headed("if", cond, then);
        let Some(otherwise) = otherwise else {
            return;
        };
        self.push(" else ");
        // `else { if … }` stays what it is where the author wrote it.
        let inner_is_all = otherwise.stmts.first().is_some_and(|s| s.span == otherwise.span);
        match (otherwise.stmts.as_slice(), &otherwise.value) {
            (
                [
                    Stmt {
                        kind: StmtKind::If { cond, then, otherwise },
                        ..
                    },
                ],
                None,
            ) if self.layout.is_none() || inner_is_all => self.if_stmt(cond, then, otherwise.as_ref()),
            _ => self.block(otherwise),
        }
    }

    fn headed(&mut self, word: &str, expr: &Expr, body: &Block) {
        let _ = write!(self.out, "{word} (");
        self.bare(expr);
        self.push(") ");
        self.block(body);
    }

    fn list(&mut self, exprs: &[Expr]) {
        for (index, expr) in exprs.iter().enumerate() {
            if index > 0 {
                self.push(", ");
            }
            self.expr(expr, LOWEST);
        }
    }

    fn named_list<'a>(&mut self, fields: impl Iterator<Item = (&'a Ident, &'a Expr)>) {
        for (index, (name, value)) in fields.enumerate() {
            if index > 0 {
                self.push(", ");
            }
            let _ = write!(self.out, "{} = ", name.name);
            self.expr(value, LOWEST);
        }
    }

    /// Prints an expression, in parentheses if it binds weaker than `least`, or if the author had some.
    fn expr(&mut self, expr: &Expr, least: u8) {
        let parentheses = strength(expr) < least || self.layout.as_ref().is_some_and(|l| l.in_parentheses(expr));
        if parentheses {
            self.push("(");
            self.expr_inner(expr);
            self.push(")");
        } else {
            self.expr_inner(expr);
        }
    }

    /// Prints an expression that stands between delimiters of its own.
    fn bare(&mut self, expr: &Expr) {
        self.expr_inner(expr);
    }

    fn expr_inner(&mut self, expr: &Expr) {
        if let Some(text) = self.layout.as_ref().and_then(|l| l.literal(expr)) {
            self.push(text);
            return;
        }
        match &expr.kind {
            ExprKind::Int(value) => {
                let _ = write!(self.out, "{value}");
            }
            ExprKind::Duration(value) => self.duration(*value),
            ExprKind::Bool(value) => {
                let _ = write!(self.out, "{value}");
            }
            ExprKind::Str(bytes) => self.string(bytes),
            ExprKind::Ipv4([a, b, c, d]) => {
                let _ = write!(self.out, "{a}.{b}.{c}.{d}");
            }
            ExprKind::Ipv4Prefix([a, b, c, d], length) => {
                let _ = write!(self.out, "{a}.{b}.{c}.{d}/{length}");
            }
            ExprKind::Name(name) => self.push(name),
            ExprKind::Var(name) => {
                let _ = write!(self.out, "${name}");
            }
            ExprKind::Param(number) => {
                let _ = write!(self.out, "${number}");
            }
            ExprKind::ParamCount => self.push("$#"),
            ExprKind::Map { name, keys } => {
                let _ = write!(self.out, "@{name}");
                if let Some(keys) = keys {
                    self.push("[");
                    self.list(keys);
                    self.push("]");
                }
            }
            ExprKind::Field { base, name, arrow } => {
                self.base(base);
                self.push(if *arrow { "->" } else { "." });
                self.push(&name.name);
            }
            ExprKind::TupleIndex { base, index } => {
                self.base(base);
                let _ = write!(self.out, ".{index}");
            }
            ExprKind::Index { base, index } => {
                // `(@m)[i]` indexes the map's value, `@m[i]` is a key.
                if matches!(base.kind, ExprKind::Map { keys: None, .. }) {
                    self.push("(");
                    self.bare(base);
                    self.push(")");
                } else {
                    self.base(base);
                }
                self.push("[");
                self.expr(index, LOWEST);
                self.push("]");
            }
            ExprKind::Call { name, args } => {
                let _ = write!(self.out, "{}(", name.name);
                for (index, arg) in args.iter().enumerate() {
                    if index > 0 {
                        self.push(", ");
                    }
                    if let Some(name) = &arg.name {
                        let _ = write!(self.out, "{} = ", name.name);
                    }
                    match &arg.value.kind {
                        ExprKind::TypeOf(SizeOfArg::Type(ty)) if arg.name.is_none() && is_tagged(&ty.kind) => self.push(&type_text(ty)),
                        // `comptime (a + b)` has the parentheses of the call.
                        _ if name.name == "comptime" => self.bare(&arg.value),
                        _ => self.expr(&arg.value, LOWEST),
                    }
                }
                self.push(")");
            }
            ExprKind::Unary { op, expr } => {
                self.push(op.symbol());
                let start = self.out.len();
                self.expr(expr, UNARY);
                // `- -x` is not `--x`, `& &x` not `&&x`.
                if self.out[start..].starts_with(op.symbol()) && matches!(op.symbol(), "-" | "+" | "&") {
                    self.out.insert(start, ' ');
                }
            }
            ExprKind::IncDec { expr, increment, postfix } => {
                let op = if *increment { "++" } else { "--" };
                if *postfix {
                    self.base(expr);
                    self.push(op);
                } else {
                    self.push(op);
                    self.expr(expr, UNARY);
                }
            }
            ExprKind::Binary { op, left, right } => {
                let strength = precedence(*op);
                self.expr(left, strength);
                let _ = write!(self.out, " {} ", op.symbol());
                let start = self.out.len();
                self.expr(right, strength + 1);
                // `/` before `{` would end a predicate.
                if *op == BinaryOp::Div && self.out[start..].starts_with('{') {
                    self.out.insert(start, '(');
                    self.push(")");
                }
            }
            ExprKind::Ternary { cond, then, otherwise } => {
                self.expr(cond, LOWEST + 1);
                self.push(" ? ");
                self.expr(then, LOWEST);
                self.push(" : ");
                self.expr(otherwise, LOWEST);
            }
            ExprKind::Elvis { value, otherwise } => {
                self.expr(value, LOWEST + 1);
                self.push(" ?: ");
                self.expr(otherwise, LOWEST);
            }
            ExprKind::Cast { ty, expr } => {
                let _ = write!(self.out, "({})", type_text(ty));
                self.cast_operand(expr);
            }
            ExprKind::Tuple(elems) => {
                self.push("(");
                self.list(elems);
                self.push(if elems.len() == 1 { ",)" } else { ")" });
            }
            ExprKind::Record(fields) => {
                self.push("(");
                self.named_list(fields.iter().map(|(name, value)| (name, value)));
                self.push(")");
            }
            ExprKind::In { value, set } => {
                self.expr(value, IN_PRECEDENCE);
                self.push(" in ");
                match set {
                    // A parenthesis behind `in` would be a list.
                    InSet::Expr(expr) => self.expr(expr, UNARY),
                    InSet::List(elems) => self.set(elems),
                }
            }
            ExprKind::Block(block) => self.block(block),
            ExprKind::SizeOf(of) => self.size_of("sizeof", of, &[]),
            ExprKind::TypeOf(of) => self.size_of("typeof", of, &[]),
            ExprKind::OffsetOf { of, fields } => self.size_of("offsetof", of, fields),
            ExprKind::Error => self.push("__error"),
        }
    }

    /// Prints what a postfix operator applies to.
    fn base(&mut self, base: &Expr) {
        // `1.2.3.4` is an address, not three tuple indices.
        let number = matches!(
            base.kind,
            ExprKind::Int(_) | ExprKind::Duration(_) | ExprKind::Ipv4(_) | ExprKind::Ipv4Prefix(..)
        );
        self.expr(base, if number { PRIMARY } else { POSTFIX });
    }

    /// Behind a cast `+` would be an addition, `{` a block of its own, and an address no address.
    fn cast_operand(&mut self, expr: &Expr) {
        let start = self.out.len();
        if strength(expr) >= UNARY && matches!(expr.kind, ExprKind::Ipv4(_) | ExprKind::Ipv4Prefix(..)) {
            self.bare(expr);
        } else {
            self.expr(expr, UNARY);
        }
        if self.out[start..].starts_with(['+', '{'])
            || self.out[start..].starts_with("--")
            || matches!(expr.kind, ExprKind::Ipv4(_) | ExprKind::Ipv4Prefix(..))
        {
            self.out.insert(start, '(');
            self.push(")");
        }
    }

    fn set(&mut self, elems: &[SetElem]) {
        self.push("(");
        for (index, elem) in elems.iter().enumerate() {
            if index > 0 {
                self.push(", ");
            }
            match elem {
                // A subtraction of literals has parentheses of its own; without them it is a range.
                SetElem::One(expr) if matches!(expr.kind, ExprKind::Binary { op: BinaryOp::Sub, .. }) => {
                    self.push("(");
                    self.bare(expr);
                    self.push(")");
                }
                SetElem::One(expr) => self.expr(expr, LOWEST),
                SetElem::Range(low, high) => {
                    self.expr(low, UNARY);
                    self.push("-");
                    self.expr(high, UNARY);
                }
            }
        }
        self.push(")");
    }

    fn size_of(&mut self, word: &str, of: &SizeOfArg, fields: &[Ident]) {
        let _ = write!(self.out, "{word}(");
        match of {
            SizeOfArg::Type(ty) => self.push(&type_text(ty)),
            SizeOfArg::Expr(expr) => self.expr(expr, LOWEST),
        }
        if !fields.is_empty() {
            let path: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
            let _ = write!(self.out, ", {}", path.join("."));
        }
        self.push(")");
    }

    /// Prints nanoseconds in the largest unit that fits.
    fn duration(&mut self, value: u64) {
        let units = [
            ("d", 86_400_000_000_000),
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
        ];
        let unit = units.iter().find(|(_, scale)| value > 0 && value.is_multiple_of(*scale));
        let (name, scale) = unit.copied().unwrap_or(("ns", 1));
        let _ = write!(self.out, "{}{name}", value / scale);
    }

    fn string(&mut self, bytes: &[u8]) {
        self.push("\"");
        let mut rest = bytes;
        while !rest.is_empty() {
            let (valid, skip) = match std::str::from_utf8(rest) {
                Ok(text) => (text, rest.len()),
                Err(error) if error.valid_up_to() > 0 => {
                    let (valid, _) = rest.split_at(error.valid_up_to());
                    (std::str::from_utf8(valid).unwrap_or_default(), valid.len())
                }
                Err(_) => {
                    let _ = write!(self.out, "\\x{:02x}", rest[0]);
                    rest = &rest[1..];
                    continue;
                }
            };
            for c in valid.chars() {
                match c {
                    '\n' => self.push("\\n"),
                    '\t' => self.push("\\t"),
                    '\r' => self.push("\\r"),
                    '"' => self.push("\\\""),
                    '\\' => self.push("\\\\"),
                    c if c.is_ascii_control() => {
                        let _ = write!(self.out, "\\x{:02x}", u32::from(c));
                    }
                    c => self.out.push(c),
                }
            }
            rest = &rest[skip..];
        }
        self.push("\"");
    }
}

/// How strongly an expression holds together.
fn strength(expr: &Expr) -> u8 {
    match &expr.kind {
        ExprKind::Ternary { .. } | ExprKind::Elvis { .. } => LOWEST,
        ExprKind::Binary { op, .. } => precedence(*op),
        ExprKind::In { .. } => IN_PRECEDENCE,
        ExprKind::Unary { .. } | ExprKind::Cast { .. } | ExprKind::IncDec { postfix: false, .. } => UNARY,
        ExprKind::Call { name, args } if name.name == "comptime" && args.len() == 1 => UNARY,
        _ => POSTFIX,
    }
}

fn is_tagged(kind: &TypeExprKind) -> bool {
    match kind {
        TypeExprKind::Struct(_) | TypeExprKind::Union(_) | TypeExprKind::Enum(_) => true,
        TypeExprKind::Pointer(to) => is_tagged(&to.kind),
        _ => false,
    }
}

fn macro_param(param: &MacroParam) -> String {
    match param {
        MacroParam::Expr(ident) => ident.name.clone(),
        MacroParam::Var(ident) => format!("${}", ident.name),
        MacroParam::Map(ident) => format!("@{}", ident.name),
    }
}
