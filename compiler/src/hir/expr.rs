//! Expressions.

use super::check::{Checker, nearest, nearest_name};
use super::unify::unify;
use super::{CTy, Expr, ExprKind, MapValueTy, Ty};
use crate::constants::constant;
use crate::tables::{self, FieldKind};
use crate::types::Type;
use weir_parser::ast::{self, UnaryOp};
use weir_parser::{Diagnostic, Span};

/// The largest object of the kernel that is copied as a whole.
const MAX_COPIED_BYTES: u32 = 16 << 10;

/// The most values that a tuple or a record holds, those of the tuples in it included.
const MAX_VALUES: usize = 256;

/// Text that is too long.
struct TooLong {
    diagnostic: Diagnostic,
    /// `None` where no setting allows as much.
    setting: Option<String>,
}

fn values_in(ty: &Ty) -> usize {
    match ty {
        Ty::Tuple(parts) => parts.iter().map(values_in).sum(),
        Ty::Record(fields) => fields.iter().map(|(_, ty)| values_in(ty)).sum(),
        _ => 1,
    }
}

impl Checker<'_> {
    pub(super) fn make(kind: ExprKind, ty: Ty, span: Span) -> Expr {
        Expr { kind, ty, span }
    }

    /// Checks something whose truth is asked for.
    pub(super) fn condition(&mut self, expr: &ast::Expr) -> Expr {
        let value = self.expr(expr);
        if !(value.ty.is_int() || matches!(value.ty, Ty::Ptr { .. } | Ty::Error)) {
            self.error(Diagnostic::error(
                "condition-type",
                value.span,
                format!("a condition is an integer, a pointer or a bool, found `{}`", value.ty),
            ));
        }
        value
    }

    /// Checks something whose value is wanted: character arrays become text, other arrays are read.
    pub(super) fn value(&mut self, expr: &ast::Expr) -> Expr {
        let value = self.expr(expr);
        self.loaded(value)
    }

    /// Reads an array where it stands for its content.
    pub(super) fn loaded(&mut self, value: Expr) -> Expr {
        let Ty::Obj {
            ty: CTy::Array { elem, len },
            space,
        } = &value.ty
        else {
            return if matches!(
                value.ty,
                Ty::Obj {
                    ty: CTy::Struct { .. },
                    ..
                }
            ) {
                self.copied(value)
            } else {
                value
            };
        };
        let (span, space, len) = (value.span, *space, *len);
        match **elem {
            CTy::Char => {
                let cap = len.next_multiple_of(8).max(8);
                let kind = ExprKind::ReadStr {
                    ptr: Box::new(value),
                    len: None,
                    cap,
                    space,
                };
                Self::make(kind, Ty::Str { cap }, span)
            }
            CTy::Int { bits, signed } if (1..=256).contains(&len) => {
                let ty = Type::Array {
                    elem: Box::new(Type::Int { bits, signed }),
                    len,
                };
                let kind = ExprKind::ReadArray {
                    size: ty.size(),
                    place: Box::new(value),
                };
                Self::make(kind, Ty::Kept(ty), span)
            }
            _ => self.copied(value),
        }
    }

    /// Reads a whole object of C, so that it can be kept and printed.
    fn copied(&mut self, value: Expr) -> Expr {
        let Ty::Obj { ty, .. } = &value.ty else { return value };
        let Some(kept) = self.kept_object(ty).filter(|k| (1..=MAX_COPIED_BYTES).contains(&k.size())) else {
            return value;
        };
        let span = value.span;
        let kind = ExprKind::ReadArray {
            size: kept.size(),
            place: Box::new(value),
        };
        Self::make(kind, Ty::Kept(kept), span)
    }

    pub(super) fn text_literal(bytes: Vec<u8>, span: Span) -> Expr {
        let cap = u32::try_from(bytes.len() + 1).unwrap_or(u32::MAX);
        Self::make(ExprKind::Str(bytes), Ty::Str { cap }, span)
    }

    /// Text of the command line.
    pub(super) fn given_text(&mut self, text: &str, span: Span) -> Expr {
        if let Some(longer) = self.too_long(text.len(), span) {
            let d = longer.diagnostic;
            self.error(match longer.setting {
                Some(set) => d.help(set),
                None => d,
            });
            return self.failed(span);
        }
        Self::text_literal(text.as_bytes().to_vec(), span)
    }

    /// Says of text of so many bytes that it is longer than the script allows, and what would allow it.
    fn too_long(&self, len: usize, span: Span) -> Option<TooLong> {
        let cap = u32::try_from(len + 1).unwrap_or(u32::MAX);
        let max = self.config.max_strlen;
        let most = max.saturating_sub(1);
        (cap > max).then(|| TooLong {
            diagnostic: Diagnostic::error(
                "string-too-long",
                span,
                format!("a string of {len} bytes; `max_strlen`, which is {max}, allows {most}"),
            ),
            setting: (u64::from(cap) <= tables::MAX_STRLEN).then(|| format!("`config = {{ max_strlen = {} }}`", cap.next_multiple_of(64))),
        })
    }

    pub(super) fn expr(&mut self, expr: &ast::Expr) -> Expr {
        let span = expr.span;
        if !self.may_write_out(1, span) {
            return self.failed(span);
        }
        match &expr.kind {
            ast::ExprKind::Int(n) => {
                let ty = if i64::try_from(*n).is_ok() { Ty::I64 } else { Ty::U64 };
                Self::make(ExprKind::Int(n.cast_signed()), ty, span)
            }
            ast::ExprKind::Duration(n) => Self::make(ExprKind::Int(n.cast_signed()), Ty::U64, span),
            ast::ExprKind::Bool(b) => Self::make(ExprKind::Int(i64::from(*b)), Ty::Bool, span),
            ast::ExprKind::Str(s) => {
                if let Some(longer) = self.too_long(s.len(), span) {
                    let pieces = "write it in pieces";
                    let help = longer
                        .setting
                        .map_or_else(|| pieces.to_owned(), |set| format!("{pieces}, or {set}"));
                    self.error(longer.diagnostic.help(help));
                    return self.failed(span);
                }
                Self::text_literal(s.clone(), span)
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
                self.may_stand_in(*n, span);
                let text = usize::try_from(*n)
                    .ok()
                    .and_then(|n| n.checked_sub(1))
                    .and_then(|i| self.options.positional.get(i));
                let value = match text {
                    None => Some(0),
                    Some(text) => parse_int(text),
                };
                match (value, text) {
                    (Some(value), _) => Self::make(ExprKind::Int(value), Ty::I64, span),
                    // As it stands: `comm == $1`.
                    (None, Some(text)) if text.starts_with(|c: char| c.is_alphabetic() || "/_.".contains(c)) => self.given_text(text, span),
                    (None, text) => {
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
            ast::ExprKind::Index { .. } if self.is_native_map(expr) => self.native_get(expr),
            ast::ExprKind::Index { base, index } => self.index(base, index, span),
            ast::ExprKind::Call { name, args } => self.call(name, args, span),
            ast::ExprKind::Unary { op, expr } => self.unary(*op, expr, span),
            ast::ExprKind::IncDec { expr, increment, postfix } => self.inc_dec(expr, *increment, *postfix, span),
            ast::ExprKind::Binary { op, left, right } => self.binary(*op, left, right, span),
            ast::ExprKind::Ternary { cond, then, otherwise } => {
                let cond = self.condition(cond);
                let (then, otherwise) = (self.value(then), self.value(otherwise));
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
                let (value, otherwise) = (self.value(value), self.value(otherwise));
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
                let parts: Vec<Expr> = parts.iter().map(|p| self.value(p)).collect();
                if parts.iter().any(|p| p.ty == Ty::Error) {
                    return self.failed(span);
                }
                let ty = Ty::Tuple(parts.iter().map(|p| p.ty.clone()).collect());
                self.tuple(parts, ty, span)
            }
            ast::ExprKind::In { value, set } => self.in_set(value, set, span),
            ast::ExprKind::SizeOf(arg) => self.size_of(arg, span),
            ast::ExprKind::Record(fields) => self.record(fields, span),
            ast::ExprKind::Block(block) => self.block_value(block, span),
            ast::ExprKind::OffsetOf { of, fields } => self.offset_of(of, fields, span),
            ast::ExprKind::TypeOf(_) => {
                self.error(
                    Diagnostic::error("type-as-value", span, "a type is not a value")
                        .help("two types can be compared: `typeof(a) == typeof(b)`"),
                );
                self.failed(span)
            }
            ast::ExprKind::Error => self.failed(span),
        }
    }

    fn record(&mut self, fields: &[(ast::Ident, ast::Expr)], span: Span) -> Expr {
        let mut parts = Vec::new();
        let mut types: Vec<(String, Ty)> = Vec::new();
        for (name, value) in fields {
            let value = self.value(value);
            if value.ty == Ty::Error {
                return self.failed(span);
            }
            types.push((name.name.clone(), value.ty.clone()));
            parts.push(value);
        }
        self.tuple(parts, Ty::Record(types), span)
    }

    /// A tuple or a record, unless it holds too much: tuples of tuples double quickly, and each copy moves every value.
    fn tuple(&mut self, parts: Vec<Expr>, ty: Ty, span: Span) -> Expr {
        let values = values_in(&ty);
        if values > MAX_VALUES {
            let message = format!("this holds {values} values: {MAX_VALUES} are the most");
            let help = "keep what belongs together in a map: its key says which it is";
            self.error(Diagnostic::error("too-many-values", span, message).help(help));
            return self.failed(span);
        }
        Self::make(ExprKind::Tuple(parts), ty, span)
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
    pub(super) fn name(&mut self, name: &str, span: Span) -> Expr {
        // What the user defines shadows weir's words, never bpftrace's builtins.
        if let Some(builtin) = tables::builtin(name) {
            return self.builtin(builtin, span);
        }
        if let Some(value) = self.defines.get(name) {
            if self.expanding.iter().any(|n| n == name) {
                self.error(Diagnostic::error("recursion", span, format!("`{name}` is defined by itself")));
                return self.failed(span);
            }
            let mut value = value.clone();
            value.span = span;
            self.expanding.push(name.to_owned());
            let value = self.expr(&value);
            self.expanding.pop();
            return value;
        }
        if self.is_macro(name) {
            let name = ast::Ident {
                name: name.to_owned(),
                span,
            };
            return self.macro_value(&name, &[], span);
        }
        if let Some((value, id)) = self.types.enumerator(name) {
            let ty = self.enumeration(id);
            return Self::make(ExprKind::Int(value), ty, span);
        }
        if let Some(field) = tables::field(name) {
            return self.packet_field(field, span);
        }
        if let Some(value) = constant(name) {
            return Self::make(ExprKind::Int(value), Ty::I64, span);
        }
        if name == "config" {
            return self.whole_config(span);
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
        if let Some((value, id)) = self.kernel.btf().and_then(|b| b.enumerator(name)) {
            let ty = self.enumeration(id.0);
            return Self::make(ExprKind::Int(value), ty, span);
        }
        let d = Diagnostic::error("unknown-name", span, format!("unknown name `{name}`"));
        let names = tables::BUILTINS
            .iter()
            .map(|b| b.name)
            .chain(crate::constants::CONSTANTS.iter().map(|(n, _)| *n));
        // `dport` alone: of which header?
        let fields: Vec<&str> = tables::FIELDS
            .iter()
            .filter(|f| f.hooks.contains(self.hook) && f.name.rsplit('.').next() == Some(name))
            .map(|f| f.name)
            .collect();
        let d = if fields.is_empty() {
            nearest(d, name, names.chain(tables::FUNCTIONS.iter().map(|f| f.name)))
        } else {
            d.help(format!("name its header: `{}`", fields.join("`, `")))
        };
        self.error(d);
        self.failed(span)
    }

    pub(super) fn packet_field(&mut self, index: usize, span: Span) -> Expr {
        let field = &tables::FIELDS[index];
        if !field.hooks.contains(self.hook) {
            let message = format!("`{}` is not available in {} block", field.name, self.hook.with_article());
            let mut d = Diagnostic::error("not-at-this-hook", span, message).label(format!("available in {}", field.hooks));
            if let Some(help) = self.instead_of_field(field) {
                d = d.help(help);
            }
            self.error(d);
            return self.failed(span);
        }
        if let Some(text) = self.known_field(index, span) {
            return text;
        }
        if let FieldKind::At { .. } = field.kind {
            let d = Diagnostic::error("header-alone", span, format!("`{}` needs the offset of the bytes", field.name))
                .help(format!("`{}[12]` counts from the first byte of the packet", field.name));
            self.error(d);
            return self.failed(span);
        }
        if field.kind == FieldKind::Meta && !self.reads_meta(span) {
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
            tables::FieldType::Name => Ty::Str { cap: tables::NAME_BYTES },
            tables::FieldType::IfName | tables::FieldType::Direction => Ty::Str { cap: tables::IFNAME_BYTES },
            tables::FieldType::Bytes => Ty::buffer(self.config.max_strlen),
        };
        Self::make(ExprKind::Field(index), ty, span)
    }

    /// `a.b.c` of bare words, as text.
    pub(super) fn dotted(expr: &ast::Expr) -> Option<String> {
        match &expr.kind {
            ast::ExprKind::Name(name) => Some(name.clone()),
            ast::ExprKind::Field { base, name, arrow: false } => Some(format!("{}.{}", Self::dotted(base)?, name.name)),
            ast::ExprKind::Index { base, index } => match (&base.kind, &index.kind) {
                (ast::ExprKind::Name(name), ast::ExprKind::Int(n)) => Some(format!("{name}[{n}]")),
                _ => None,
            },
            _ => None,
        }
    }

    fn field(&mut self, whole: &ast::Expr, base: &ast::Expr, name: &ast::Ident) -> Expr {
        let span = whole.span;
        if let Some(path) = Self::dotted(whole) {
            let first = path.split(['.', '[']).next().unwrap_or_default();
            if first == "args" {
                if let ast::ExprKind::Name(_) = base.kind
                    && let Some(args) = tables::builtin("args")
                {
                    if !args.hooks.contains(self.hook) {
                        return self.builtin(args, base.span);
                    }
                    return self.argument(name, span);
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
            && word == "config"
            && !self.defines.contains_key(word)
        {
            return self.setting(name, span);
        }
        if let ast::ExprKind::Name(word) = &base.kind
            && word == "args"
            && let Some(args) = tables::builtin("args")
        {
            if !args.hooks.contains(self.hook) {
                return self.builtin(args, base.span);
            }
            return self.argument(name, span);
        }
        if let ast::ExprKind::Map { name: alias, keys: None } = &base.kind
            && self.alias(alias).is_some()
        {
            if self.map_argument(whole, "this").is_some() {
                self.error(
                    Diagnostic::error("map-as-value", span, "a native's map is not a value")
                        .help(format!("`print(@{alias}.{0})`, or an entry: `@{alias}.{0}[key]`", name.name)),
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
            weir_stdlib::decl::EventVarType::Inet => (Ty::Inet, 24),
            weir_stdlib::decl::EventVarType::Flow => (Ty::Flow, 40),
            weir_stdlib::decl::EventVarType::Text { cap } => (Ty::Str { cap }, cap),
        };
        Self::make(ExprKind::EventVar { offset: var.offset, size }, ty, span)
    }

    pub(super) fn map_get(&mut self, whole: &ast::Expr, name: &str, keys: Option<&[ast::Expr]>) -> Expr {
        let span = whole.span;
        if self.alias(name).is_some() {
            let _ = self.map_argument(whole, "this");
            return self.failed(span);
        }
        let id = self.map(name, span);
        let key = match keys {
            None => None,
            Some(keys) => match self.key(id, keys, span) {
                Some(key) => Some(Box::new(key)),
                None => return self.failed(span),
            },
        };
        self.map_key(id, key.as_ref().map(|k| &k.ty), span);
        match self.maps[id].value.clone() {
            Some(MapValueTy::Plain(ty)) => Self::make(ExprKind::MapGet { map: id, key }, ty, span),
            Some(MapValueTy::Agg(agg)) if super::loops::aggregate_type(&agg).is_some() => {
                let ty = super::loops::aggregate_type(&agg).unwrap_or(Ty::I64);
                Self::make(ExprKind::AggGet { map: id, key }, ty, span)
            }
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
            // A map that only its own value is assigned to holds numbers, as in bpftrace.
            None if self.self_assigned && self.assigning == Some(id) => {
                let ty = Ty::I64;
                Self::make(ExprKind::MapGet { map: id, key }, ty, span)
            }
            None => {
                let mut d = Diagnostic::error("unassigned-map", span, format!("`@{name}` is never assigned"));
                let natives: Vec<String> = self.natives.iter().map(|n| format!("`@{}`", n.alias)).collect();
                if !natives.is_empty() {
                    d = d.help(format!("natives here are {}", natives.join(", ")));
                }
                self.error(d);
                self.failed(span)
            }
        }
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
            UnaryOp::AddrOf => self.address(value, span),
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
                        let ty = match (&value.kind, &value.ty) {
                            // All bits of a word: what a mask is, however the constant is written.
                            (ExprKind::Int(_), Ty::Int { bits: 64, .. }) => Ty::U64,
                            (_, ty) => ty.clone(),
                        };
                        let narrow = matches!(ty, Ty::Int { bits, signed: false } if bits < 64);
                        let all = Self::make(ExprKind::BitNot(Box::new(value)), if narrow { Ty::U64 } else { ty.clone() }, span);
                        if narrow {
                            Self::make(ExprKind::Convert(Box::new(all)), ty, span)
                        } else {
                            all
                        }
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
                self.counted_in_map(id);
                let inner = self.expr(target);
                self.finish_inc_dec(inner, increment, postfix, word, span)
            }
            ast::ExprKind::Var(_) => {
                let inner = self.expr(target);
                if let ExprKind::Var(id) = inner.kind {
                    // It may become any number of its type now.
                    self.vars[id].written = Some(self.vars[id].ty.clone());
                }
                self.finish_inc_dec(inner, increment, postfix, word, span)
            }
            ast::ExprKind::Error => self.failed(span),
            _ if self.is_native_map(target) => {
                self.native_assigned(target);
                self.failed(span)
            }
            _ if self.field_target(target).is_some() => {
                let d = Diagnostic::error("no-value", span, format!("`{word}` of a packet field has no value"));
                self.error(d.help("let it stand as a statement of its own"));
                self.failed(span)
            }
            _ => {
                let d = Diagnostic::error(
                    "assign-target",
                    target.span,
                    format!("`{word}` changes a variable `$x`, a map `@x` or a packet field"),
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
        // What is counted down may fall below zero.
        if let ExprKind::Var(id) = inner.kind
            && !increment
            && !self.vars[id].declared
            && self.vars[id].ty != Ty::I64
        {
            self.vars[id].ty = Ty::I64;
            self.var_grew = true;
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
}

/// Parses an integer as the lexer would.
pub(super) fn parse_int(text: &str) -> Option<i64> {
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
