//! The tree as text, for `-d ast` and for tests: S-expressions, on one line where they fit, else indented.
//!
//! Output is stable: spans appear only on request.

use std::fmt::Write as _;

use crate::ast::{
    Arg, AttachPoint, Block, Expr, ExprKind, FieldType, ForRange, Ident, InSet, Item, MacroParam, Program, SetElem, SizeOfArg, Stmt,
    StmtKind, TypeBody, TypeDef, TypeExpr, TypeExprKind,
};
use crate::diag::Span;

/// Returns the tree without spans.
#[must_use]
pub fn dump(program: &Program) -> String {
    run(program, false)
}

/// Returns the tree with the byte span of every node, as `@start..end`.
#[must_use]
pub fn dump_with_spans(program: &Program) -> String {
    run(program, true)
}

fn run(program: &Program, spans: bool) -> String {
    let mut dump = Dump { nodes: Vec::new(), spans };
    if let Some(line) = &program.shebang {
        dump.leaf(&format!("shebang {line:?}"), None);
    }
    for def in &program.types {
        dump.type_def(def);
    }
    for item in &program.items {
        dump.item(item);
    }
    let mut out = String::new();
    for node in &dump.nodes {
        node.layout(&mut out, 0);
        out.push('\n');
    }
    out
}

/// How long a line may become before its node is broken into several.
const LINE_WIDTH: usize = 110;

struct Sexp {
    head: String,
    children: Vec<Sexp>,
    /// Characters on one line.
    width: usize,
    /// A block is always broken, so that every statement starts a line.
    block: bool,
}

impl Sexp {
    fn flat(&self, out: &mut String) {
        let _ = write!(out, "({}", self.head);
        for child in &self.children {
            out.push(' ');
            child.flat(out);
        }
        out.push(')');
    }

    fn layout(&self, out: &mut String, indent: usize) {
        if !self.block && indent + self.width <= LINE_WIDTH || self.children.is_empty() {
            self.flat(out);
            return;
        }
        let _ = write!(out, "({}", self.head);
        for child in &self.children {
            let _ = write!(out, "\n{:indent$}", "", indent = indent + 2);
            child.layout(out, indent + 2);
        }
        out.push(')');
    }
}

struct Dump {
    /// The finished children of the node being built.
    nodes: Vec<Sexp>,
    spans: bool,
}

impl Dump {
    fn leaf(&mut self, head: &str, span: Option<Span>) {
        self.node(head, span, |_| {});
    }

    /// Adds a node with what `children` adds as its children.
    fn node(&mut self, head: &str, span: Option<Span>, children: impl FnOnce(&mut Self)) {
        let mut head = head.to_owned();
        if let (true, Some(span)) = (self.spans, span) {
            let _ = write!(head, " @{}..{}", span.start, span.end);
        }
        let siblings = std::mem::take(&mut self.nodes);
        children(self);
        let children = std::mem::replace(&mut self.nodes, siblings);
        let width = 2 + head.chars().count() + children.iter().map(|child| 1 + child.width).sum::<usize>();
        let block = head.starts_with("block") || head.starts_with("probe") || children.iter().any(|child| child.block);
        self.nodes.push(Sexp {
            head,
            children,
            width,
            block,
        });
    }

    fn type_def(&mut self, def: &TypeDef) {
        let (word, fields) = match &def.body {
            TypeBody::Struct(fields) => ("struct", fields.as_slice()),
            TypeBody::Union(fields) => ("union", fields.as_slice()),
            TypeBody::Enum(_) => ("enum", [].as_slice()),
        };
        let name = def.name.as_ref().map(|name| format!(" {}", name.name)).unwrap_or_default();
        let packed = if def.packed { " packed" } else { "" };
        self.node(&format!("{word}{name}{packed}"), Some(def.span), |d| {
            for field in fields {
                let name = field.name.as_ref().map_or("_", |name| &name.name);
                let bits = field.bits.map(|bits| format!(" : {bits}")).unwrap_or_default();
                match &field.ty {
                    FieldType::Type(ty) => d.leaf(&format!("{name} {}{bits}", type_text(ty)), Some(field.span)),
                    FieldType::Inline(def, dims) => {
                        let dims: String = dims.iter().map(|dim| format!("[{dim}]")).collect();
                        d.node(&format!("{name}{dims}"), Some(field.span), |d| d.type_def(def));
                    }
                }
            }
            if let TypeBody::Enum(values) = &def.body {
                for (name, value) in values {
                    d.node(&name.name, Some(name.span), |d| d.exprs(value.as_slice()));
                }
            }
        });
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Define(define) => self.node(&format!("define {}", define.name.name), Some(define.span), |d| {
                if let Some(value) = &define.value {
                    d.expr(value);
                }
            }),
            Item::Include(include) => self.leaf(&format!("include {:?}", include.path), Some(include.span)),
            Item::Config(config) => self.node("config", Some(config.span), |d| {
                for (name, value) in &config.entries {
                    d.named(name, value);
                }
            }),
            Item::Import(import) => self.leaf(&format!("import {:?}", import.path), Some(import.span)),
            Item::Macro(item) => {
                let params: Vec<String> = item.params.iter().map(macro_param).collect();
                self.node(&format!("macro {} [{}]", item.name.name, params.join(" ")), Some(item.span), |d| {
                    d.block(&item.body)
                });
            }
            Item::Fn(item) => {
                let params: Vec<String> = item
                    .params
                    .iter()
                    .map(|(name, ty)| format!("${} : {}", name.name, type_text(ty)))
                    .collect();
                let head = format!("fn {} [{}] : {}", item.name.name, params.join(", "), type_text(&item.ret));
                self.node(&head, Some(item.span), |d| d.block(&item.body));
            }
            Item::MapDecl(decl) => self.node(&format!("map @{} {}", decl.map.name, decl.kind.name), Some(decl.span), |d| {
                d.exprs(&decl.args)
            }),
            Item::Use(item) => {
                let alias = item.alias.as_ref().map(|alias| format!(" as {}", alias.name)).unwrap_or_default();
                self.node(&format!("use {}{alias}", item.native.name), Some(item.span), |d| {
                    for (name, value) in &item.params {
                        d.named(name, value);
                    }
                });
            }
            Item::Probe(probe) => self.node("probe", Some(probe.span), |d| {
                for point in &probe.attach_points {
                    d.attach_point(point);
                }
                if let Some(predicate) = &probe.predicate {
                    d.node("predicate", None, |d| d.expr(predicate));
                }
                d.block(&probe.body);
            }),
        }
    }

    fn attach_point(&mut self, point: &AttachPoint) {
        let label = point.label.as_ref().map(|label| format!("{}=", label.name)).unwrap_or_default();
        let parts: Vec<String> = point.parts.iter().map(|part| format!("{:?}", part.name)).collect();
        self.leaf(&format!("attach {label}{}", parts.join(" ")), Some(point.span));
    }

    fn named(&mut self, name: &Ident, value: &Expr) {
        self.node(&format!("{} =", name.name), Some(name.span), |d| d.expr(value));
    }

    fn block(&mut self, block: &Block) {
        self.node("block", Some(block.span), |d| {
            for stmt in &block.stmts {
                d.stmt(stmt);
            }
            if let Some(value) = &block.value {
                d.node("value", None, |d| d.expr(value));
            }
        });
    }

    fn stmt(&mut self, stmt: &Stmt) {
        let span = Some(stmt.span);
        match &stmt.kind {
            StmtKind::Expr(expr) => self.node("do", span, |d| d.expr(expr)),
            StmtKind::Assign { target, op, value } => {
                let op = op.map_or("", |op| op.symbol());
                self.node(&format!("assign {op}="), span, |d| {
                    d.expr(target);
                    d.expr(value);
                });
            }
            StmtKind::Let { var, ty, value } => {
                let ty = ty.as_ref().map(|ty| format!(" : {}", type_text(ty))).unwrap_or_default();
                self.node(&format!("let ${}{ty}", var.name), span, |d| {
                    if let Some(value) = value {
                        d.expr(value);
                    }
                });
            }
            StmtKind::If { cond, then, otherwise } => self.node("if", span, |d| {
                d.expr(cond);
                d.block(then);
                if let Some(otherwise) = otherwise {
                    d.block(otherwise);
                }
            }),
            StmtKind::While { cond, body } => self.headed("while", span, cond, body),
            StmtKind::Unroll { count, body } => self.headed("unroll", span, count, body),
            StmtKind::Limit { rate, body } => self.headed("limit", span, rate, body),
            StmtKind::For { var, range, body } => self.node(&format!("for ${}", var.name), span, |d| {
                match range {
                    ForRange::Over(expr) => d.expr(expr),
                    ForRange::Range { start, end } => d.node("range", None, |d| {
                        d.expr(start);
                        d.expr(end);
                    }),
                }
                d.block(body);
            }),
            StmtKind::Block(block) => self.block(block),
            StmtKind::Break => self.leaf("break", span),
            StmtKind::Continue => self.leaf("continue", span),
            StmtKind::Return(value) => self.node("return", span, |d| {
                if let Some(value) = value {
                    d.expr(value);
                }
            }),
        }
    }

    fn headed(&mut self, head: &str, span: Option<Span>, expr: &Expr, body: &Block) {
        self.node(head, span, |d| {
            d.expr(expr);
            d.block(body);
        });
    }

    fn exprs(&mut self, exprs: &[Expr]) {
        for expr in exprs {
            self.expr(expr);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        let span = Some(expr.span);
        match &expr.kind {
            ExprKind::Int(value) => self.leaf(&format!("int {value}"), span),
            ExprKind::Duration(value) => self.leaf(&format!("duration {value}ns"), span),
            ExprKind::Bool(value) => self.leaf(&format!("bool {value}"), span),
            ExprKind::Str(bytes) => self.leaf(&format!("str \"{}\"", bytes.escape_ascii()), span),
            ExprKind::Ipv4([a, b, c, d]) => self.leaf(&format!("ipv4 {a}.{b}.{c}.{d}"), span),
            ExprKind::Ipv4Prefix([a, b, c, d], length) => self.leaf(&format!("prefix {a}.{b}.{c}.{d}/{length}"), span),
            ExprKind::Name(name) => self.leaf(&format!("name {name}"), span),
            ExprKind::Var(name) => self.leaf(&format!("var ${name}"), span),
            ExprKind::Param(number) => self.leaf(&format!("param ${number}"), span),
            ExprKind::ParamCount => self.leaf("param-count", span),
            ExprKind::Map { name, keys: None } => self.leaf(&format!("map @{name}"), span),
            ExprKind::Map { name, keys: Some(keys) } => self.node(&format!("map @{name}[]"), span, |d| d.exprs(keys)),
            ExprKind::Field { base, name, arrow } => {
                let op = if *arrow { "->" } else { "." };
                self.node(&format!("field {op}{}", name.name), span, |d| d.expr(base));
            }
            ExprKind::TupleIndex { base, index } => self.node(&format!("element .{index}"), span, |d| d.expr(base)),
            ExprKind::Index { base, index } => self.node("index", span, |d| {
                d.expr(base);
                d.expr(index);
            }),
            ExprKind::Call { name, args } => self.node(&format!("call {}", name.name), span, |d| {
                for Arg { name, value } in args {
                    match name {
                        Some(name) => d.named(name, value),
                        None => d.expr(value),
                    }
                }
            }),
            ExprKind::Unary { op, expr } => self.node(&format!("unary {}", op.symbol()), span, |d| d.expr(expr)),
            ExprKind::IncDec { expr, increment, postfix } => {
                let op = if *increment { "++" } else { "--" };
                let text = if *postfix { format!("_{op}") } else { format!("{op}_") };
                self.node(&text, span, |d| d.expr(expr));
            }
            ExprKind::Binary { op, left, right } => self.node(op.symbol(), span, |d| {
                d.expr(left);
                d.expr(right);
            }),
            ExprKind::Ternary { cond, then, otherwise } => self.node("?:", span, |d| {
                d.expr(cond);
                d.expr(then);
                d.expr(otherwise);
            }),
            ExprKind::Elvis { value, otherwise } => self.node("elvis", span, |d| {
                d.expr(value);
                d.expr(otherwise);
            }),
            ExprKind::Cast { ty, expr } => self.node(&format!("cast {}", type_text(ty)), span, |d| d.expr(expr)),
            ExprKind::Tuple(elems) => self.node("tuple", span, |d| d.exprs(elems)),
            ExprKind::Record(fields) => self.node("record", span, |d| {
                for (name, value) in fields {
                    d.named(name, value);
                }
            }),
            ExprKind::In { value, set } => self.node("in", span, |d| {
                d.expr(value);
                match set {
                    InSet::Expr(expr) => d.expr(expr),
                    InSet::List(elems) => d.node("set", None, |d| {
                        for elem in elems {
                            match elem {
                                SetElem::One(expr) => d.expr(expr),
                                SetElem::Range(low, high) => d.node("range", None, |d| {
                                    d.expr(low);
                                    d.expr(high);
                                }),
                            }
                        }
                    }),
                }
            }),
            ExprKind::Block(block) => self.block(block),
            ExprKind::SizeOf(of) => self.size_of("sizeof", span, of, &[]),
            ExprKind::TypeOf(of) => self.size_of("typeof", span, of, &[]),
            ExprKind::OffsetOf { of, fields } => self.size_of("offsetof", span, of, fields),
            ExprKind::Error => self.leaf("error", span),
        }
    }

    fn size_of(&mut self, head: &str, span: Option<Span>, of: &SizeOfArg, fields: &[Ident]) {
        let path: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        let path = if path.is_empty() {
            String::new()
        } else {
            format!(" .{}", path.join("."))
        };
        match of {
            SizeOfArg::Type(ty) => self.leaf(&format!("{head} {}{path}", type_text(ty)), span),
            SizeOfArg::Expr(expr) => self.node(&format!("{head}{path}"), span, |d| d.expr(expr)),
        }
    }
}

fn macro_param(param: &MacroParam) -> String {
    match param {
        MacroParam::Expr(ident) => ident.name.clone(),
        MacroParam::Var(ident) => format!("${}", ident.name),
        MacroParam::Map(ident) => format!("@{}", ident.name),
    }
}

/// A type as it is written.
pub(crate) fn type_text(ty: &TypeExpr) -> String {
    match &ty.kind {
        TypeExprKind::Name(name) => name.clone(),
        TypeExprKind::Sized(name, 0) => format!("{name}[]"),
        TypeExprKind::Sized(name, size) => format!("{name}[{size}]"),
        TypeExprKind::Struct(name) => format!("struct {name}"),
        TypeExprKind::Union(name) => format!("union {name}"),
        TypeExprKind::Enum(name) => format!("enum {name}"),
        TypeExprKind::Pointer(to) => match to.kind {
            TypeExprKind::Pointer(_) => format!("{}*", type_text(to)),
            _ => format!("{} *", type_text(to)),
        },
        TypeExprKind::Array(of, 0) => format!("{}[]", type_text(of)),
        TypeExprKind::Array(of, size) => format!("{}[{size}]", type_text(of)),
        TypeExprKind::TypeOf(expr) => format!("typeof({})", crate::pretty::expr_text(expr)),
    }
}
