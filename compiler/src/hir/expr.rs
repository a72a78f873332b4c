//! Expressions.

use super::check::{Checker, nearest, nearest_name, unify};
use super::{CTy, Expr, ExprKind, MapValueTy, SetElem, Space, Ty};
use crate::constants::constant;
use crate::tables::{self, BuiltinKind, FunctionKind};
use weir_parser::ast::{self, BinaryOp, UnaryOp};
use weir_parser::{Diagnostic, Span};

impl Checker<'_> {
    fn make(kind: ExprKind, ty: Ty, span: Span) -> Expr {
        Expr { kind, ty, span }
    }

    /// Checks something whose truth is asked for.
    pub(super) fn condition(&mut self, expr: &ast::Expr) -> Expr {
        let value = self.expr(expr);
        if !matches!(value.ty, Ty::Bool | Ty::Int { .. } | Ty::Ptr { .. } | Ty::Error) {
            self.error(Diagnostic::error(
                "condition-type",
                value.span,
                format!("a condition is an integer, a pointer or a bool, found `{}`", value.ty),
            ));
        }
        value
    }

    pub(super) fn expr(&mut self, expr: &ast::Expr) -> Expr {
        let span = expr.span;
        match &expr.kind {
            ast::ExprKind::Int(n) => {
                let ty = if i64::try_from(*n).is_ok() { Ty::I64 } else { Ty::U64 };
                Self::make(ExprKind::Int(n.cast_signed()), ty, span)
            }
            ast::ExprKind::Duration(n) => Self::make(ExprKind::Int(n.cast_signed()), Ty::U64, span),
            ast::ExprKind::Bool(b) => Self::make(ExprKind::Int(i64::from(*b)), Ty::Bool, span),
            ast::ExprKind::Str(s) => {
                let cap = u32::try_from(s.len() + 1).unwrap_or(u32::MAX);
                if cap > 512 {
                    self.error(Diagnostic::error(
                        "string-too-long",
                        span,
                        format!("a string literal of {} bytes; 511 is the most", s.len()),
                    ));
                    return self.failed(span);
                }
                Self::make(ExprKind::Str(s.clone()), Ty::Str { cap }, span)
            }
            ast::ExprKind::Ipv4(bytes) => {
                let mut address = [0; 16];
                address[..4].copy_from_slice(bytes);
                Self::make(ExprKind::Inet { bytes: address, v6: false }, Ty::Inet, span)
            }
            ast::ExprKind::Ipv4Prefix(..) => {
                self.error(Diagnostic::error("prefix-alone", span, "a prefix can only stand in a set").help("`ip.src in (10.0.0.0/8)`"));
                self.failed(span)
            }
            ast::ExprKind::Name(name) => self.name(name, span),
            ast::ExprKind::Var(name) => match self.lookup_var(name) {
                Some(id) => Self::make(ExprKind::Var(id), self.vars[id].ty.clone(), span),
                None => {
                    let names: Vec<String> = self.scopes.iter().flat_map(|s| s.keys().cloned()).collect();
                    let d = Diagnostic::error("unknown-variable", span, format!("`${name}` has no value yet"));
                    let d = match nearest_name(name, names.iter().map(String::as_str)) {
                        Some(near) => d.help(format!("did you mean `${near}`?")),
                        None => d,
                    };
                    self.error(d);
                    self.failed(span)
                }
            },
            ast::ExprKind::Param(n) => {
                let text = usize::try_from(*n)
                    .ok()
                    .and_then(|n| n.checked_sub(1))
                    .and_then(|i| self.options.positional.get(i));
                let value = match text {
                    None => Some(0),
                    Some(text) => parse_int(text),
                };
                match value {
                    Some(value) => Self::make(ExprKind::Int(value), Ty::I64, span),
                    None => {
                        let text = text.cloned().unwrap_or_default();
                        self.error(
                            Diagnostic::error(
                                "param-type",
                                span,
                                format!("the parameter `${n}` is `{text}`, which is not an integer"),
                            )
                            .help(format!("`str(${n})` takes it as text")),
                        );
                        self.failed(span)
                    }
                }
            }
            ast::ExprKind::ParamCount => {
                let n = i64::try_from(self.options.positional.len()).unwrap_or(i64::MAX);
                Self::make(ExprKind::Int(n), Ty::I64, span)
            }
            ast::ExprKind::Map { name, keys } => self.map_get(expr, name, keys.as_deref()),
            ast::ExprKind::Field { base, name, .. } => self.field(expr, base, name),
            ast::ExprKind::TupleIndex { base, index } => self.tuple_index(base, *index, span),
            ast::ExprKind::Index { base, index } => self.index(base, index, span),
            ast::ExprKind::Call { name, args } => self.call(name, args, span),
            ast::ExprKind::Unary { op, expr } => self.unary(*op, expr, span),
            ast::ExprKind::IncDec { expr, increment, postfix } => self.inc_dec(expr, *increment, *postfix, span),
            ast::ExprKind::Binary { op, left, right } => self.binary(*op, left, right, span),
            ast::ExprKind::Ternary { cond, then, otherwise } => {
                let cond = self.condition(cond);
                let (then, otherwise) = (self.expr(then), self.expr(otherwise));
                let Some(ty) = self.unify_or_error(&then, &otherwise, span) else {
                    return self.failed(span);
                };
                Self::make(
                    ExprKind::Ternary {
                        cond: Box::new(cond),
                        then: Box::new(then),
                        otherwise: Box::new(otherwise),
                    },
                    ty,
                    span,
                )
            }
            ast::ExprKind::Elvis { value, otherwise } => {
                let (value, otherwise) = (self.expr(value), self.expr(otherwise));
                let Some(ty) = self.unify_or_error(&value, &otherwise, span) else {
                    return self.failed(span);
                };
                Self::make(
                    ExprKind::Elvis {
                        value: Box::new(value),
                        otherwise: Box::new(otherwise),
                    },
                    ty,
                    span,
                )
            }
            ast::ExprKind::Cast { ty, expr } => {
                let value = self.expr(expr);
                let ty = self.type_expr(ty);
                self.cast(value, ty, span)
            }
            ast::ExprKind::Tuple(parts) => {
                let parts: Vec<Expr> = parts.iter().map(|p| self.expr(p)).collect();
                if parts.iter().any(|p| p.ty == Ty::Error) {
                    return self.failed(span);
                }
                if parts.is_empty() {
                    return self.unsupported("the empty tuple", span);
                }
                let ty = Ty::Tuple(parts.iter().map(|p| p.ty.clone()).collect());
                Self::make(ExprKind::Tuple(parts), ty, span)
            }
            ast::ExprKind::In { value, set } => self.in_set(value, set, span),
            ast::ExprKind::SizeOf(arg) => {
                let size = match arg {
                    ast::SizeOfArg::Type(ty) => match self.type_expr_c(ty) {
                        Some(c) => self.c_size(&c),
                        None => return self.failed(span),
                    },
                    ast::SizeOfArg::Expr(e) => match self.expr(e).ty {
                        Ty::Int { bits, .. } => Some(u32::from(bits) / 8),
                        Ty::Obj { ty, .. } => self.c_size(&ty),
                        other => other.stored().map(|t| t.size()),
                    },
                };
                match size {
                    Some(size) => Self::make(ExprKind::Int(i64::from(size)), Ty::U64, span),
                    None => {
                        self.error(Diagnostic::error("no-size", span, "the size of this is not known"));
                        self.failed(span)
                    }
                }
            }
            ast::ExprKind::Record(_) => self.unsupported("a record", span),
            ast::ExprKind::Block(_) => self.unsupported("a block as a value", span),
            ast::ExprKind::OffsetOf { .. } => self.unsupported("`offsetof`", span),
            ast::ExprKind::TypeOf(_) => self.unsupported("`typeof` as a value", span),
            ast::ExprKind::Error => self.failed(span),
        }
    }

    fn unsupported(&mut self, what: &str, span: Span) -> Expr {
        self.error(Diagnostic::error(
            "unsupported",
            span,
            format!("{what} is not supported by this version of weir"),
        ));
        self.failed(span)
    }

    fn unify_or_error(&mut self, a: &Expr, b: &Expr, span: Span) -> Option<Ty> {
        match unify(&a.ty, &b.ty) {
            Some(ty) => Some(ty),
            None => {
                self.error(
                    Diagnostic::error(
                        "branch-types",
                        span,
                        format!("the two values have the types `{}` and `{}`", a.ty, b.ty),
                    )
                    .with(a.span, format!("`{}`", a.ty))
                    .with(b.span, format!("`{}`", b.ty)),
                );
                None
            }
        }
    }

    /// A bare word.
    fn name(&mut self, name: &str, span: Span) -> Expr {
        // What the user defines shadows weir's words, never bpftrace's builtins.
        if let Some(builtin) = tables::builtin(name) {
            return self.builtin(builtin, span);
        }
        if let Some(value) = self.defines.get(name) {
            if self.define_depth > 16 {
                self.error(Diagnostic::error("recursion", span, format!("`{name}` is defined by itself")));
                return self.failed(span);
            }
            let mut value = value.clone();
            value.span = span;
            self.define_depth += 1;
            let value = self.expr(&value);
            self.define_depth -= 1;
            return value;
        }
        if let Some(field) = tables::field(name) {
            return self.packet_field(field, span);
        }
        if let Some(value) = constant(name) {
            return Self::make(ExprKind::Int(value), Ty::I64, span);
        }
        if tables::is_header_word(name) {
            let header = if tables::header(name).is_some() {
                format!("`has({name})` asks whether the packet has it")
            } else {
                String::new()
            };
            let fields: Vec<&str> = tables::FIELDS
                .iter()
                .map(|f| f.name)
                .filter(|f| f.split('.').next() == Some(name))
                .take(6)
                .collect();
            let mut d = Diagnostic::error("header-alone", span, format!("`{name}` is a group of packet fields, not a value"))
                .help(format!("name a field: `{}`", fields.join("`, `")));
            if !header.is_empty() {
                d = d.help(header);
            }
            self.error(d);
            return self.failed(span);
        }
        if let Some(function) = tables::function(name) {
            self.error(
                Diagnostic::error("function-without-call", span, format!("`{name}` is a function"))
                    .help(format!("`{}`", function.signature)),
            );
            return self.failed(span);
        }
        if let Some((value, _)) = self.kernel.btf().and_then(|b| b.enumerator(name)) {
            return Self::make(ExprKind::Int(value), Ty::I64, span);
        }
        let d = Diagnostic::error("unknown-name", span, format!("unknown name `{name}`"));
        let names = tables::BUILTINS
            .iter()
            .map(|b| b.name)
            .chain(crate::constants::CONSTANTS.iter().map(|(n, _)| *n));
        let d = nearest(d, name, names.chain(tables::FUNCTIONS.iter().map(|f| f.name)));
        self.error(d);
        self.failed(span)
    }

    fn builtin(&mut self, builtin: &'static tables::Builtin, span: Span) -> Expr {
        if !builtin.hooks.contains(self.hook) {
            self.error(
                Diagnostic::error(
                    "not-at-this-hook",
                    span,
                    format!("`{}` is not available in {} block", builtin.name, self.hook.with_article()),
                )
                .label(format!("available in {}", builtin.hooks))
                .help(builtin.instead),
            );
            return self.failed(span);
        }
        let ty = match builtin.kind {
            BuiltinKind::Pid
            | BuiltinKind::Tid
            | BuiltinKind::Uid
            | BuiltinKind::Gid
            | BuiltinKind::Cpu
            | BuiltinKind::Ncpus
            | BuiltinKind::Rand => Ty::U32,
            BuiltinKind::Nsecs | BuiltinKind::Jiffies | BuiltinKind::Cgroup | BuiltinKind::Retval | BuiltinKind::Arg(_) => Ty::U64,
            BuiltinKind::Comm => Ty::Str { cap: 16 },
            BuiltinKind::Curtask => {
                let task = self.kernel.btf().and_then(|b| b.find_struct("task_struct"));
                let to = task.map_or(CTy::Void, |id| CTy::Struct {
                    name: "task_struct".to_owned(),
                    id: id.0,
                    union: false,
                });
                Ty::Ptr {
                    to: Box::new(to),
                    space: Space::Kernel,
                }
            }
            BuiltinKind::Ctx => Ty::Ptr {
                to: Box::new(CTy::Void),
                space: Space::Context,
            },
            BuiltinKind::Args => {
                self.error(
                    Diagnostic::error("args-alone", span, "`args` is a group of arguments, not a value")
                        .help("name one: `args.field`; `weir -lv PROBE` lists them"),
                );
                return self.failed(span);
            }
            BuiltinKind::Func | BuiltinKind::Probe => {
                self.site_dependent = true;
                Ty::Str { cap: 64 }
            }
        };
        if builtin.kind == BuiltinKind::Ncpus {
            return Self::make(ExprKind::Int(i64::from(self.kernel.cpus())), ty, span);
        }
        Self::make(ExprKind::Builtin(builtin.kind), ty, span)
    }

    fn packet_field(&mut self, index: usize, span: Span) -> Expr {
        let field = &tables::FIELDS[index];
        if !field.hooks.contains(self.hook) {
            self.error(
                Diagnostic::error(
                    "not-at-this-hook",
                    span,
                    format!("`{}` is not available in {} block", field.name, self.hook.with_article()),
                )
                .label(format!("available in {}", field.hooks)),
            );
            return self.failed(span);
        }
        let ty = match field.ty {
            tables::FieldType::Bool => Ty::Bool,
            tables::FieldType::U8 => Ty::Int { bits: 8, signed: false },
            tables::FieldType::U16 => Ty::Int { bits: 16, signed: false },
            tables::FieldType::U32 => Ty::U32,
            tables::FieldType::U64 => Ty::U64,
            tables::FieldType::Inet => Ty::Inet,
            tables::FieldType::Mac => Ty::Mac,
            tables::FieldType::Flow => Ty::Flow,
        };
        Self::make(ExprKind::Field(index), ty, span)
    }

    /// `a.b.c` of bare words, as text.
    fn dotted(expr: &ast::Expr) -> Option<String> {
        match &expr.kind {
            ast::ExprKind::Name(name) => Some(name.clone()),
            ast::ExprKind::Field { base, name, arrow: false } => Some(format!("{}.{}", Self::dotted(base)?, name.name)),
            _ => None,
        }
    }

    fn field(&mut self, whole: &ast::Expr, base: &ast::Expr, name: &ast::Ident) -> Expr {
        let span = whole.span;
        if let Some(path) = Self::dotted(whole) {
            let first = path.split('.').next().unwrap_or_default();
            if first == "args" {
                if let ast::ExprKind::Name(_) = base.kind
                    && let Some(args) = tables::builtin("args")
                {
                    if !args.hooks.contains(self.hook) {
                        return self.builtin(args, base.span);
                    }
                    return self.tracepoint_arg(name, span);
                }
            } else if let Some(native) = self.native.filter(|n| self.natives[*n].alias == first) {
                return self.event_var(native, name, span);
            } else if self.alias(first).is_some() {
                let d = Diagnostic::error("event-var", span, format!("`{path}` is a variable of an event of `{first}`"))
                    .help(format!("use it in a `{first}:EVENT` block; maps are `@{first}.NAME`"));
                self.error(d);
                return self.failed(span);
            } else if !self.defines.contains_key(first) && tables::is_header_word(first) {
                if let Some(field) = tables::field(&path) {
                    return self.packet_field(field, span);
                }
                let d = Diagnostic::error("unknown-field", span, format!("unknown packet field `{path}`"));
                let d = nearest(d, &path, tables::FIELDS.iter().map(|f| f.name));
                self.error(d);
                return self.failed(span);
            }
        }
        if let ast::ExprKind::Name(word) = &base.kind
            && word == "args"
            && let Some(args) = tables::builtin("args")
        {
            if !args.hooks.contains(self.hook) {
                return self.builtin(args, base.span);
            }
            return self.tracepoint_arg(name, span);
        }
        if let ast::ExprKind::Map { name: alias, keys: None } = &base.kind
            && self.alias(alias).is_some()
        {
            if self.map_argument(whole, "this").is_some() {
                self.error(
                    Diagnostic::error("map-as-value", span, "a native's map is not a value")
                        .help(format!("`print(@{alias}.{})`", name.name)),
                );
            }
            return self.failed(span);
        }
        let base = self.expr(base);
        self.member(base, name, span)
    }

    fn event_var(&mut self, native: usize, name: &ast::Ident, span: Span) -> Expr {
        let instance = &self.natives[native];
        let event = &instance.native.events[self.event];
        let Some(var) = event.vars.iter().find(|v| v.name == name.name) else {
            let names: Vec<String> = event.vars.iter().map(|v| format!("`{}.{}`", instance.alias, v.name)).collect();
            let d = Diagnostic::error(
                "unknown-event-var",
                name.span,
                format!("`{}:{}` has no variable `{}`", instance.alias, event.name, name.name),
            );
            let d = if names.is_empty() {
                d
            } else {
                d.help(format!("it has {}", names.join(", ")))
            };
            self.error(d);
            return self.failed(span);
        };
        let (ty, size) = match var.ty {
            weir_stdlib::decl::EventVarType::U32 => (Ty::U32, 4),
            weir_stdlib::decl::EventVarType::U64 => (Ty::U64, 8),
            weir_stdlib::decl::EventVarType::Prefix => (Ty::Prefix, 24),
        };
        Self::make(ExprKind::EventVar { offset: var.offset, size }, ty, span)
    }

    fn map_get(&mut self, whole: &ast::Expr, name: &str, keys: Option<&[ast::Expr]>) -> Expr {
        let span = whole.span;
        if keys.is_none() && self.alias(name).is_some() {
            let _ = self.map_argument(whole, "this");
            return self.failed(span);
        }
        let id = self.map(name, span);
        let key = match keys {
            None => None,
            Some(keys) => match self.key(keys, span) {
                Some(key) => Some(Box::new(key)),
                None => return self.failed(span),
            },
        };
        self.map_key(id, key.as_ref().map(|k| &k.ty), span);
        match self.maps[id].value.clone() {
            Some(MapValueTy::Plain(ty)) => Self::make(ExprKind::MapGet { map: id, key }, ty, span),
            Some(MapValueTy::Agg(agg)) => {
                let d = Diagnostic::error(
                    "aggregate-as-value",
                    span,
                    format!("`@{name}` holds `{agg}`, which cannot be read here"),
                )
                .help(format!("`print(@{name})`"));
                self.error(d);
                self.failed(span)
            }
            None => {
                self.error(Diagnostic::error("unassigned-map", span, format!("`@{name}` is never assigned")));
                self.failed(span)
            }
        }
    }

    fn tuple_index(&mut self, base: &ast::Expr, index: u32, span: Span) -> Expr {
        let base = self.expr(base);
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match &base.ty {
            Ty::Tuple(fields) => match fields.get(index) {
                Some(ty) => {
                    let ty = ty.clone();
                    Self::make(
                        ExprKind::TupleGet {
                            base: Box::new(base),
                            index,
                        },
                        ty,
                        span,
                    )
                }
                None => {
                    let n = fields.len();
                    self.error(
                        Diagnostic::error("tuple-index", span, format!("the tuple has {n} fields, `.{index}` is not one"))
                            .help(format!("they are `.0` to `.{}`", n - 1)),
                    );
                    self.failed(span)
                }
            },
            Ty::Error => self.failed(span),
            other => {
                let d = Diagnostic::error("not-a-tuple", base.span, format!("a value of type `{other}` has no fields"));
                self.error(d);
                self.failed(span)
            }
        }
    }

    fn index(&mut self, base: &ast::Expr, index: &ast::Expr, span: Span) -> Expr {
        let base = self.expr(base);
        let index = self.expr(index);
        let (elem, space) = match &base.ty {
            Ty::Obj {
                ty: CTy::Array { elem, .. },
                space,
            } => (elem.clone(), *space),
            Ty::Ptr { to, space } => (to.clone(), *space),
            Ty::Error => return self.failed(span),
            other => {
                let d = Diagnostic::error("not-an-array", base.span, format!("a value of type `{other}` has no elements"));
                self.error(d);
                return self.failed(span);
            }
        };
        if index.ty == Ty::Error {
            return self.failed(span);
        }
        if !matches!(index.ty, Ty::Int { .. }) {
            self.error(Diagnostic::error(
                "operand-type",
                index.span,
                format!("an index is an integer, found `{}`", index.ty),
            ));
            return self.failed(span);
        }
        let Some(size) = self.c_size(&elem) else {
            self.error(Diagnostic::error(
                "no-size",
                base.span,
                format!("the size of `{elem}` is not known"),
            ));
            return self.failed(span);
        };
        if let Ty::Obj {
            ty: CTy::Array { len, .. },
            ..
        } = &base.ty
            && let ExprKind::Int(n) = index.kind
            && *len > 0
            && !(0..i64::from(*len)).contains(&n)
        {
            let d = Diagnostic::error(
                "out-of-range",
                index.span,
                format!("the array has {len} elements, `[{n}]` is not one"),
            );
            self.error(d);
            return self.failed(span);
        }
        let ty = Ty::Obj { ty: *elem, space };
        let place = match index.kind {
            ExprKind::Int(n) if n >= 0 && u32::try_from(n).ok().and_then(|n| n.checked_mul(size)).is_some() => {
                let offset = u32::try_from(n).unwrap_or(0) * size;
                Self::make(
                    ExprKind::Place {
                        base: Box::new(base),
                        offset,
                    },
                    ty,
                    span,
                )
            }
            _ => Self::make(
                ExprKind::Element {
                    base: Box::new(base),
                    index: Box::new(index),
                    size,
                },
                ty,
                span,
            ),
        };
        self.load(place)
    }

    fn unary(&mut self, op: UnaryOp, expr: &ast::Expr, span: Span) -> Expr {
        let value = match op {
            UnaryOp::Not => self.condition(expr),
            _ => self.expr(expr),
        };
        if value.ty == Ty::Error {
            return self.failed(span);
        }
        match op {
            UnaryOp::Not => Self::make(ExprKind::Not(Box::new(value)), Ty::Bool, span),
            UnaryOp::Deref => match value.ty.clone() {
                Ty::Ptr { to, space } if !matches!(*to, CTy::Void | CTy::Opaque(_)) => {
                    let place = Self::make(
                        ExprKind::Place {
                            base: Box::new(value),
                            offset: 0,
                        },
                        Ty::Obj { ty: *to, space },
                        span,
                    );
                    self.load(place)
                }
                other => {
                    self.error(Diagnostic::error(
                        "not-a-pointer",
                        value.span,
                        format!("`*` takes a pointer to something of known size, found `{other}`"),
                    ));
                    self.failed(span)
                }
            },
            UnaryOp::AddrOf => self.unsupported("`&`", span),
            UnaryOp::Plus | UnaryOp::Neg | UnaryOp::BitNot => {
                if !matches!(value.ty, Ty::Int { .. }) {
                    let d = Diagnostic::error(
                        "operand-type",
                        value.span,
                        format!("`{}` takes an integer, found `{}`", op.symbol(), value.ty),
                    );
                    self.error(d);
                    return self.failed(span);
                }
                match op {
                    UnaryOp::Plus => value,
                    UnaryOp::Neg => {
                        if let ExprKind::Int(n) = value.kind {
                            return Self::make(ExprKind::Int(n.wrapping_neg()), Ty::I64, span);
                        }
                        Self::make(ExprKind::Neg(Box::new(value)), Ty::I64, span)
                    }
                    _ => {
                        let ty = Ty::Int {
                            bits: 64,
                            signed: value.ty.is_signed(),
                        };
                        Self::make(ExprKind::BitNot(Box::new(value)), ty, span)
                    }
                }
            }
        }
    }

    fn inc_dec(&mut self, target: &ast::Expr, increment: bool, postfix: bool, span: Span) -> Expr {
        let word = if increment { "++" } else { "--" };
        match &target.kind {
            ast::ExprKind::Map { name, keys } => {
                if self.alias(name).is_some() {
                    let _ = self.map_argument(target, word);
                    return self.failed(span);
                }
                let id = self.map(name, target.span);
                if self.maps[id].value.is_none() {
                    self.map_value(id, MapValueTy::Plain(Ty::I64), target.span);
                }
                let _ = keys;
                let inner = self.expr(target);
                self.finish_inc_dec(inner, increment, postfix, word, span)
            }
            ast::ExprKind::Var(_) => {
                let inner = self.expr(target);
                self.finish_inc_dec(inner, increment, postfix, word, span)
            }
            ast::ExprKind::Error => self.failed(span),
            _ => {
                let d = Diagnostic::error(
                    "assign-target",
                    target.span,
                    format!("`{word}` changes a variable `$x` or a map `@x`"),
                );
                self.error(d);
                self.failed(span)
            }
        }
    }

    fn finish_inc_dec(&mut self, inner: Expr, increment: bool, postfix: bool, word: &str, span: Span) -> Expr {
        if inner.ty == Ty::Error {
            return self.failed(span);
        }
        if !matches!(inner.ty, Ty::Int { .. }) {
            self.error(Diagnostic::error(
                "operand-type",
                inner.span,
                format!("`{word}` takes an integer, found `{}`", inner.ty),
            ));
            return self.failed(span);
        }
        let ty = inner.ty.clone();
        Self::make(
            ExprKind::IncDec {
                target: Box::new(inner),
                increment,
                postfix,
            },
            ty,
            span,
        )
    }

    /// Makes a literal in quotes an address where the other operand is one.
    fn adapt(&mut self, value: Expr, other: &Ty) -> Expr {
        let ExprKind::Str(text) = &value.kind else { return value };
        let text = String::from_utf8_lossy(text).into_owned();
        match other {
            Ty::Inet => match text.parse::<std::net::IpAddr>() {
                Ok(address) => {
                    let (bytes, v6) = inet_bytes(address);
                    Self::make(ExprKind::Inet { bytes, v6 }, Ty::Inet, value.span)
                }
                Err(_) => {
                    self.error(Diagnostic::error(
                        "bad-address",
                        value.span,
                        format!("`{text}` is not an IP address"),
                    ));
                    self.failed(value.span)
                }
            },
            Ty::Mac => match parse_mac(&text) {
                Some(mac) => Self::make(ExprKind::Mac(mac), Ty::Mac, value.span),
                None => {
                    self.error(
                        Diagnostic::error("bad-address", value.span, format!("`{text}` is not a MAC address"))
                            .help("six bytes: \"02:42:ac:11:00:02\""),
                    );
                    self.failed(value.span)
                }
            },
            _ => value,
        }
    }

    /// Gives a value the declared type of a variable.
    pub(super) fn coerce(&mut self, value: Expr, ty: &Ty) -> Expr {
        if value.ty == Ty::Error || *ty == Ty::Error || value.ty == *ty {
            return value;
        }
        match (&value.ty, ty) {
            (Ty::Int { .. } | Ty::Bool, Ty::Int { .. }) => {
                let span = value.span;
                Self::make(ExprKind::Convert(Box::new(value)), ty.clone(), span)
            }
            (Ty::Str { .. }, Ty::Str { .. }) => Expr { ty: ty.clone(), ..value },
            _ => {
                let d = Diagnostic::error("variable-type", value.span, format!("expected `{ty}`, found `{}`", value.ty));
                self.error(d);
                self.failed(value.span)
            }
        }
    }

    fn cast(&mut self, value: Expr, ty: Ty, span: Span) -> Expr {
        if value.ty == Ty::Error || ty == Ty::Error {
            return self.failed(span);
        }
        let ok = matches!(
            (&value.ty, &ty),
            (Ty::Int { .. } | Ty::Bool | Ty::Ptr { .. }, Ty::Int { .. } | Ty::Ptr { .. })
                | (Ty::Int { .. } | Ty::Bool, Ty::Bool)
                | (
                    Ty::Obj {
                        ty: CTy::Array { .. } | CTy::Struct { .. },
                        ..
                    },
                    Ty::Ptr { .. }
                )
        );
        if !ok {
            self.error(Diagnostic::error(
                "bad-cast",
                span,
                format!("`{}` cannot be cast to `{ty}`", value.ty),
            ));
            return self.failed(span);
        }
        let ty = match (&value.ty, ty) {
            (Ty::Ptr { space: Space::User, .. }, Ty::Ptr { to, .. }) => Ty::Ptr { to, space: Space::User },
            (_, ty) => ty,
        };
        Self::make(ExprKind::Convert(Box::new(value)), ty, span)
    }

    fn type_expr_c(&mut self, ty: &ast::TypeExpr) -> Option<CTy> {
        // A pointer to the type is always writable, so its target is what was meant.
        let pointer = ast::TypeExpr {
            kind: ast::TypeExprKind::Pointer(Box::new(ty.clone())),
            span: ty.span,
        };
        match self.type_expr(&pointer) {
            Ty::Ptr { to, .. } => Some(*to),
            _ => None,
        }
    }

    pub(super) fn binary(&mut self, op: BinaryOp, left: &ast::Expr, right: &ast::Expr, span: Span) -> Expr {
        if matches!(op, BinaryOp::And | BinaryOp::Or) {
            let (left, right) = (self.condition(left), self.condition(right));
            if left.ty == Ty::Error || right.ty == Ty::Error {
                return self.failed(span);
            }
            return Self::make(
                ExprKind::Binary {
                    op,
                    left: Box::new(left),
                    right: Box::new(right),
                },
                Ty::Bool,
                span,
            );
        }
        super::lints::byte_order(op, left, right, &mut self.diagnostics);
        let (l, r) = (self.expr(left), self.expr(right));
        let l = self.adapt(l, &r.ty);
        let r = self.adapt(r, &l.ty);
        if l.ty == Ty::Error || r.ty == Ty::Error {
            return self.failed(span);
        }
        let both_int = l.ty.is_int() && r.ty.is_int();
        let pointerish = |t: &Ty| matches!(t, Ty::Ptr { .. } | Ty::Int { .. });
        let ty = if op.is_comparison() {
            let equality = matches!(op, BinaryOp::Eq | BinaryOp::Ne);
            let is_text = |t: &Ty| matches!(t, Ty::Str { .. } | Ty::Obj { ty: CTy::Array { .. }, .. });
            let ok = both_int
                || pointerish(&l.ty) && pointerish(&r.ty)
                || equality
                    && matches!(
                        (&l.ty, &r.ty),
                        (Ty::Inet, Ty::Inet) | (Ty::Mac, Ty::Mac) | (Ty::Str { .. }, Ty::Str { .. })
                    )
                || equality && is_text(&l.ty) && is_text(&r.ty) && l.ty.stored().is_some() && r.ty.stored().is_some();
            if !ok {
                self.type_mismatch(op, &l, &r, span);
                return self.failed(span);
            }
            Ty::Bool
        } else if both_int {
            let signed = match op {
                BinaryOp::Shl | BinaryOp::Shr => l.ty.is_signed(),
                // A positive literal takes the sign of the other side.
                _ => match (&l.kind, &r.kind) {
                    (ExprKind::Int(0..), ExprKind::Int(0..)) => true,
                    (ExprKind::Int(0..), _) => r.ty.is_signed(),
                    (_, ExprKind::Int(0..)) => l.ty.is_signed(),
                    _ => l.ty.is_signed() || r.ty.is_signed(),
                },
            };
            if matches!(op, BinaryOp::Div | BinaryOp::Mod) && matches!(r.kind, ExprKind::Int(0)) {
                self.error(Diagnostic::error("division-by-zero", r.span, "division by zero"));
                return self.failed(span);
            }
            if let (ExprKind::Int(a), ExprKind::Int(b)) = (&l.kind, &r.kind)
                && let Some(n) = fold(op, *a, *b)
            {
                return Self::make(ExprKind::Int(n), Ty::Int { bits: 64, signed }, span);
            }
            Ty::Int { bits: 64, signed }
        } else {
            match (&l.ty, &r.ty, op) {
                (Ty::Ptr { to, space }, Ty::Int { .. }, BinaryOp::Add | BinaryOp::Sub) => {
                    let (to, space) = (to.clone(), *space);
                    let size = if matches!(*to, CTy::Void) { Some(1) } else { self.c_size(&to) };
                    let Some(size) = size else {
                        self.error(Diagnostic::error("no-size", l.span, format!("the size of `{to}` is not known")));
                        return self.failed(span);
                    };
                    let by = Self::make(ExprKind::Int(i64::from(size)), Ty::I64, r.span);
                    let r_span = r.span;
                    let scaled = Self::make(
                        ExprKind::Binary {
                            op: BinaryOp::Mul,
                            left: Box::new(r),
                            right: Box::new(by),
                        },
                        Ty::I64,
                        r_span,
                    );
                    return Self::make(
                        ExprKind::Binary {
                            op,
                            left: Box::new(l),
                            right: Box::new(scaled),
                        },
                        Ty::Ptr { to, space },
                        span,
                    );
                }
                _ => {
                    self.type_mismatch(op, &l, &r, span);
                    return self.failed(span);
                }
            }
        };
        Self::make(
            ExprKind::Binary {
                op,
                left: Box::new(l),
                right: Box::new(r),
            },
            ty,
            span,
        )
    }

    fn type_mismatch(&mut self, op: BinaryOp, l: &Expr, r: &Expr, span: Span) {
        let d = Diagnostic::error(
            "operand-type",
            span,
            format!("`{}` cannot be applied to `{}` and `{}`", op.symbol(), l.ty, r.ty),
        )
        .with(l.span, format!("`{}`", l.ty))
        .with(r.span, format!("`{}`", r.ty));
        self.error(d);
    }

    fn in_set(&mut self, value: &ast::Expr, set: &ast::InSet, span: Span) -> Expr {
        let value = self.expr(value);
        let elems = match set {
            ast::InSet::Expr(expr) => {
                if let ast::ExprKind::Map { name, keys: None } = &expr.kind
                    && self.alias(name).is_none()
                {
                    let id = self.map(name, expr.span);
                    self.map_key(id, Some(&value.ty), value.span);
                    if value.ty == Ty::Error {
                        return self.failed(span);
                    }
                    return Self::make(
                        ExprKind::HasKey {
                            map: id,
                            key: Box::new(value),
                        },
                        Ty::Bool,
                        span,
                    );
                }
                self.error(
                    Diagnostic::error("not-a-set", expr.span, "`in` takes a list in parentheses or a map")
                        .help("`x in (1, 5-9)` or `x in @map`"),
                );
                return self.failed(span);
            }
            ast::InSet::List(elems) => elems,
        };
        if value.ty == Ty::Error {
            return self.failed(span);
        }
        if elems.len() > 64 {
            self.error(Diagnostic::error(
                "set-too-large",
                span,
                format!("a set of {} elements; 64 is the most", elems.len()),
            ));
            return self.failed(span);
        }
        let mut out = Vec::new();
        for elem in elems {
            let checked = match elem {
                ast::SetElem::One(ast::Expr {
                    kind: ast::ExprKind::Ipv4Prefix(bytes, len),
                    ..
                }) if value.ty == Ty::Inet => {
                    let mut address = [0; 16];
                    address[..4].copy_from_slice(bytes);
                    Some(SetElem::Prefix(address, *len, false))
                }
                ast::SetElem::One(ast::Expr {
                    kind: ast::ExprKind::Str(text),
                    span,
                }) if value.ty == Ty::Inet && text.contains(&b'/') => self.prefix_text(text, *span),
                ast::SetElem::One(e) => self.set_constant(e, &value).map(SetElem::One),
                ast::SetElem::Range(a, b) => match (self.set_constant(a, &value), self.set_constant(b, &value)) {
                    (Some(a), Some(b)) => {
                        if !range_in_order(&a, &b) {
                            self.error(Diagnostic::error(
                                "empty-range",
                                a.span.to(b.span),
                                "the range ends before it starts",
                            ));
                        }
                        Some(SetElem::Range(a, b))
                    }
                    _ => None,
                },
            };
            match checked {
                Some(elem) => out.push(elem),
                None => return self.failed(span),
            }
        }
        Self::make(
            ExprKind::In {
                value: Box::new(value),
                set: out,
            },
            Ty::Bool,
            span,
        )
    }

    fn prefix_text(&mut self, text: &[u8], span: Span) -> Option<SetElem> {
        let text = String::from_utf8_lossy(text).into_owned();
        match weir_stdlib::prefix::parse_prefix(&text) {
            Ok((address, len)) => {
                let (bytes, v6) = inet_bytes(address);
                Some(SetElem::Prefix(bytes, len, v6))
            }
            Err(why) => {
                self.error(Diagnostic::error("bad-prefix", span, format!("`{text}` is not a prefix: {why}")));
                None
            }
        }
    }

    fn set_constant(&mut self, elem: &ast::Expr, value: &Expr) -> Option<Expr> {
        let e = self.expr(elem);
        let e = self.adapt(e, &value.ty);
        if e.ty == Ty::Error {
            return None;
        }
        if !matches!(
            e.kind,
            ExprKind::Int(_) | ExprKind::Inet { .. } | ExprKind::Mac(_) | ExprKind::Str(_)
        ) {
            self.error(Diagnostic::error("not-constant", elem.span, "elements of a set are constants").help("compare with `==` instead"));
            return None;
        }
        let fits = match (&value.ty, &e.ty) {
            (a, b) if a.is_int() && b.is_int() => true,
            (Ty::Str { .. }, Ty::Str { .. }) => true,
            (a, b) => a == b,
        };
        if !fits {
            self.error(Diagnostic::error(
                "operand-type",
                elem.span,
                format!("the set is searched for `{}`, found `{}`", value.ty, e.ty),
            ));
            return None;
        }
        Some(e)
    }

    /// Checks number of arguments and hook. Returns whether the call may be checked further.
    pub(super) fn call_allowed(&mut self, function: &'static tables::Function, name: &ast::Ident, args: &[ast::Arg], span: Span) -> bool {
        let (min, max) = function.args;
        if !(min..=max).contains(&args.len()) {
            let expected = match (min, max) {
                (0, 0) => "no argument".to_owned(),
                (1, 1) => "one argument".to_owned(),
                (a, b) if a == b => format!("{a} arguments"),
                (a, 128) => format!("at least {a} argument{}", if a == 1 { "" } else { "s" }),
                (a, b) => format!("{a} to {b} arguments"),
            };
            self.error(
                Diagnostic::error(
                    "argument-count",
                    span,
                    format!("`{}` takes {expected}, found {}", name.name, args.len()),
                )
                .help(format!("`{}`", function.signature)),
            );
            return false;
        }
        if !function.hooks.contains(self.hook) {
            self.error(
                Diagnostic::error(
                    "not-at-this-hook",
                    name.span,
                    format!("`{}` is not available in {} block", name.name, self.hook.with_article()),
                )
                .label(format!("available in {}", function.hooks)),
            );
            return false;
        }
        true
    }

    fn call(&mut self, name: &ast::Ident, args: &[ast::Arg], span: Span) -> Expr {
        let Some(function) = tables::function(&name.name) else {
            if args.is_empty() && tables::builtin(&name.name).is_some() {
                return self.name(&name.name, span);
            }
            let d = Diagnostic::error("unknown-function", name.span, format!("unknown function `{}`", name.name));
            let d = nearest(d, &name.name, tables::FUNCTIONS.iter().map(|f| f.name));
            self.error(d);
            return self.failed(span);
        };
        if !self.call_allowed(function, name, args, span) {
            return self.failed(span);
        }
        match function.kind {
            FunctionKind::Delete | FunctionKind::HasKey => self.map_call(function, args, span),
            FunctionKind::Str => self.str_call(args, span),
            FunctionKind::Ntop => self.ntop(args, span),
            FunctionKind::Bswap => {
                let value = self.expr(&args[0].value);
                match value.ty {
                    Ty::Int { bits: 8, .. } => value,
                    Ty::Int { bits, .. } => Self::make(
                        ExprKind::Bswap {
                            value: Box::new(value),
                            bits,
                        },
                        Ty::Int { bits, signed: false },
                        span,
                    ),
                    Ty::Error => self.failed(span),
                    other => {
                        self.error(Diagnostic::error(
                            "argument-type",
                            value.span,
                            format!("`bswap` takes an integer, found `{other}`"),
                        ));
                        self.failed(span)
                    }
                }
            }
            FunctionKind::Kptr | FunctionKind::Uptr => {
                let value = self.expr(&args[0].value);
                let space = if function.kind == FunctionKind::Kptr {
                    Space::Kernel
                } else {
                    Space::User
                };
                match value.ty.clone() {
                    Ty::Ptr { to, .. } => Expr {
                        ty: Ty::Ptr { to, space },
                        ..value
                    },
                    Ty::Int { .. } => Self::make(
                        ExprKind::Convert(Box::new(value)),
                        Ty::Ptr {
                            to: Box::new(CTy::Void),
                            space,
                        },
                        span,
                    ),
                    Ty::Error => self.failed(span),
                    other => {
                        self.error(Diagnostic::error(
                            "argument-type",
                            value.span,
                            format!("`{}` takes a pointer, found `{other}`", name.name),
                        ));
                        self.failed(span)
                    }
                }
            }
            FunctionKind::Has => {
                if let ast::ExprKind::Name(word) = &args[0].value.kind
                    && let Some(header) = tables::header(word)
                {
                    return Self::make(ExprKind::HasHeader(header), Ty::Bool, span);
                }
                let value = self.expr(&args[0].value);
                if value.ty == Ty::Error {
                    return self.failed(span);
                }
                Self::make(ExprKind::Has(Box::new(value)), Ty::Bool, span)
            }
            FunctionKind::Agg(_) => {
                self.error(
                    Diagnostic::error("aggregate-alone", span, format!("`{}()` can only be assigned to a map", name.name))
                        .help(format!("`@ = {}(…);`", name.name)),
                );
                self.failed(span)
            }
            FunctionKind::Printf
            | FunctionKind::Print
            | FunctionKind::Clear
            | FunctionKind::Zero
            | FunctionKind::Exit
            | FunctionKind::Time
            | FunctionKind::Verdict(_) => {
                self.error(
                    Diagnostic::error("no-value", span, format!("`{}` has no value", name.name))
                        .help("let it stand as a statement of its own"),
                );
                self.failed(span)
            }
        }
    }

    fn map_call(&mut self, function: &'static tables::Function, args: &[ast::Arg], span: Span) -> Expr {
        // `delete(@m[key])` is the older form of `delete(@m, key)`.
        let Some((map, key)) = self.map_argument(&args[0].value, function.name) else {
            return self.failed(span);
        };
        let super::EventMap::Own(map) = map else {
            self.error(Diagnostic::error(
                "read-only-map",
                args[0].value.span,
                format!("`{}` cannot be used with this map", function.name),
            ));
            return self.failed(span);
        };
        let key = match (key, args.get(1)) {
            (Some(key), None) => Some(key),
            (None, Some(arg)) => {
                let key = self.expr(&arg.value);
                self.map_key(map, Some(&key.ty), key.span);
                Some(key)
            }
            (None, None) => {
                self.map_key(map, None, args[0].value.span);
                None
            }
            (Some(_), Some(_)) => {
                self.error(Diagnostic::error("argument-count", span, "the key is given twice").help(format!("`{}`", function.signature)));
                return self.failed(span);
            }
        };
        if key.as_ref().is_some_and(|k| k.ty == Ty::Error) {
            return self.failed(span);
        }
        let kind = match (function.kind, key) {
            (FunctionKind::Delete, key) => ExprKind::Delete {
                map,
                key: key.map(Box::new),
            },
            (_, Some(key)) => ExprKind::HasKey { map, key: Box::new(key) },
            (_, None) => return self.failed(span),
        };
        Self::make(kind, Ty::Bool, span)
    }

    fn str_call(&mut self, args: &[ast::Arg], span: Span) -> Expr {
        let cap = match args.get(1) {
            None => 64,
            Some(arg) => {
                let n = self.expr(&arg.value);
                match n.kind {
                    ExprKind::Int(n) if (1..=1024).contains(&n) => u32::try_from(n).unwrap_or(64) + 1,
                    ExprKind::Error => return self.failed(span),
                    _ => {
                        self.error(Diagnostic::error(
                            "argument-type",
                            arg.value.span,
                            "the length of `str` is a constant from 1 to 1024",
                        ));
                        return self.failed(span);
                    }
                }
            }
        };
        if let ast::ExprKind::Param(n) = args[0].value.kind {
            let text = usize::try_from(n)
                .ok()
                .and_then(|n| n.checked_sub(1))
                .and_then(|i| self.options.positional.get(i))
                .cloned()
                .unwrap_or_default();
            let cap = u32::try_from(text.len() + 1).unwrap_or(u32::MAX);
            if cap > 512 {
                self.error(Diagnostic::error(
                    "string-too-long",
                    span,
                    format!("the parameter `${n}` has {} bytes; 511 is the most", text.len()),
                ));
                return self.failed(span);
            }
            return Self::make(ExprKind::Str(text.into_bytes()), Ty::Str { cap }, span);
        }
        let ptr = self.expr(&args[0].value);
        let space = match &ptr.ty {
            Ty::Error => return self.failed(span),
            Ty::Str { .. } => return ptr,
            Ty::Ptr { space, .. } => *space,
            Ty::Obj {
                ty: CTy::Array { .. },
                space,
            } => *space,
            Ty::Int { bits: 64, .. } => Space::Kernel,
            other => {
                self.error(Diagnostic::error(
                    "argument-type",
                    ptr.span,
                    format!("`str` takes a pointer, found `{other}`"),
                ));
                return self.failed(span);
            }
        };
        let cap = cap.next_multiple_of(8);
        Self::make(
            ExprKind::ReadStr {
                ptr: Box::new(ptr),
                cap,
                space,
            },
            Ty::Str { cap },
            span,
        )
    }

    fn ntop(&mut self, args: &[ast::Arg], span: Span) -> Expr {
        let family = (args.len() == 2).then(|| self.expr(&args[0].value));
        if let Some(family) = &family
            && !matches!(family.ty, Ty::Int { .. } | Ty::Error)
        {
            let d = Diagnostic::error(
                "argument-type",
                family.span,
                format!("the family of `ntop` is an integer, found `{}`", family.ty),
            )
            .help("`AF_INET` or `AF_INET6`");
            self.error(d);
        }
        let Some(last) = args.last() else { return self.failed(span) };
        let addr = self.expr(&last.value);
        let ok = match &addr.ty {
            Ty::Error => return self.failed(span),
            Ty::Int { .. } | Ty::Inet => true,
            Ty::Obj { ty, .. } => matches!(self.c_size(ty), Some(4 | 16)),
            Ty::Ptr { .. } => family.is_some(),
            _ => false,
        };
        if !ok {
            let d = Diagnostic::error(
                "argument-type",
                addr.span,
                format!("`ntop` takes an integer or an array of 4 or 16 bytes, found `{}`", addr.ty),
            );
            self.error(d);
            return self.failed(span);
        }
        if addr.ty == Ty::Inet {
            return addr;
        }
        if let Some(Expr {
            kind: ExprKind::Int(n),
            span: family_span,
            ..
        }) = &family
            && !matches!(*n, 2 | 10)
        {
            self.error(Diagnostic::error(
                "out-of-range",
                *family_span,
                format!("`ntop` knows the families `AF_INET` (2) and `AF_INET6` (10), not {n}"),
            ));
            return self.failed(span);
        }
        Self::make(
            ExprKind::Ntop {
                family: family.map(Box::new),
                addr: Box::new(addr),
            },
            Ty::Inet,
            span,
        )
    }
}

fn range_in_order(a: &Expr, b: &Expr) -> bool {
    match (&a.kind, &b.kind) {
        (ExprKind::Int(a), ExprKind::Int(b)) => a <= b,
        (ExprKind::Inet { bytes: a, v6: x }, ExprKind::Inet { bytes: b, v6: y }) => x == y && a <= b,
        _ => false,
    }
}

fn fold(op: BinaryOp, a: i64, b: i64) -> Option<i64> {
    Some(match op {
        BinaryOp::Add => a.wrapping_add(b),
        BinaryOp::Sub => a.wrapping_sub(b),
        BinaryOp::Mul => a.wrapping_mul(b),
        BinaryOp::Shl if (0..64).contains(&b) => a.wrapping_shl(u32::try_from(b).ok()?),
        BinaryOp::BitAnd => a & b,
        BinaryOp::BitOr => a | b,
        BinaryOp::BitXor => a ^ b,
        _ => return None,
    })
}

/// Parses an integer as the lexer would.
fn parse_int(text: &str) -> Option<i64> {
    let (text, negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let value = if let Some(hex) = text.strip_prefix("0x") {
        u64::from_str_radix(hex, 16).ok()?
    } else if text.len() > 1 && text.starts_with('0') {
        u64::from_str_radix(&text[1..], 8).ok()?
    } else {
        text.parse().ok()?
    };
    let value = value.cast_signed();
    Some(if negative { value.wrapping_neg() } else { value })
}

pub(super) fn inet_bytes(address: std::net::IpAddr) -> ([u8; 16], bool) {
    let mut bytes = [0; 16];
    match address {
        std::net::IpAddr::V4(v4) => {
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, false)
        }
        std::net::IpAddr::V6(v6) => (v6.octets(), true),
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
