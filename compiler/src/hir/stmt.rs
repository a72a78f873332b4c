//! Statements.

use super::check::Checker;
use super::unify::unify;
use super::{Event, EventMap, Expr, ExprKind, MapValueTy, Stmt, StmtKind, Ty};
use crate::object::TextKind;
use crate::tables::{self, AggKind, FunctionKind, Verdict};
use crate::types::{MapValue, Series};
use weir_parser::ast::{self, BinaryOp};
use weir_parser::{Diagnostic, Span};
use weir_stdlib::Writable;

/// What `capture()` takes of a packet: headers; payloads hold secrets.
const CAPTURE_BYTES: i64 = 128;
/// Intervals that `tseries` keeps at most: a per-CPU value has at most 32 KiB.
const MAX_INTERVALS: i64 = 1000;
/// Room for a record must be left in working memory.
const MAX_CAPTURE_BYTES: i64 = 16384;

impl Checker<'_> {
    pub(super) fn statement(&mut self, stmt: &ast::Stmt, out: &mut Vec<Stmt>) {
        let span = stmt.span;
        let kind = match &stmt.kind {
            ast::StmtKind::Expr(expr) => return self.expression_statement(expr, span, out),
            ast::StmtKind::Assign { target, op, value } => match self.assignment(target, *op, value, span) {
                Some(kind) => kind,
                None => return,
            },
            ast::StmtKind::Let { var, ty, value } => {
                if ty.is_some() && value.is_none() || value.is_none() {
                    let declared = ty.as_ref().map_or(Ty::Error, |t| self.type_expr(t));
                    let id = self.declare_var(&var.name, storable_declared(&declared), var.span);
                    self.vars[id].declared = ty.is_some();
                    return;
                }
                let Some(value) = value else { return };
                let mut value = self.value(value);
                if let Some(ty) = ty {
                    let ty = self.type_expr(ty);
                    value = self.coerce(value, &ty);
                }
                if value.ty == Ty::Void {
                    self.error(Diagnostic::error("bad-value", value.span, "this has no value to assign"));
                    value = self.failed(span);
                }
                let declared = ty.is_some();
                let ty = if declared {
                    storable_declared(&value.ty)
                } else {
                    super::unify::storable(&value.ty)
                };
                let id = self.declare_var(&var.name, ty, var.span);
                self.vars[id].declared = declared;
                self.vars[id].written = Some(self.written_type(&value));
                if value.ty == Ty::Error {
                    return;
                }
                StmtKind::SetVar { var: id, value }
            }
            ast::StmtKind::If { cond, then, otherwise } if super::meta::is_comptime(cond) => {
                let taken = match self.decided(cond) {
                    Some(true) => Some(then),
                    Some(false) => otherwise.as_ref(),
                    None => None,
                };
                match taken {
                    Some(block) => StmtKind::Block(self.statements(block)),
                    None => return,
                }
            }
            ast::StmtKind::If { cond, then, otherwise } => StmtKind::If {
                cond: self.condition(cond),
                then: self.statements(then),
                otherwise: otherwise.as_ref().map(|b| self.statements(b)).unwrap_or_default(),
            },
            ast::StmtKind::While { cond, body } => {
                let cond = self.condition(cond);
                self.loops += 1;
                let body = self.statements(body);
                self.loops -= 1;
                StmtKind::While { cond, body }
            }
            ast::StmtKind::Unroll { count, body } => {
                let count_expr = self.expr(count);
                let count = match count_expr.kind {
                    ExprKind::Int(n @ 1..=100) => u32::try_from(n).unwrap_or(1),
                    ExprKind::Error => 1,
                    _ => {
                        self.error(Diagnostic::error(
                            "bad-unroll",
                            count_expr.span,
                            "`unroll` takes a constant from 1 to 100",
                        ));
                        1
                    }
                };
                self.loops += 1;
                let body = self.statements(body);
                self.loops -= 1;
                StmtKind::Unroll { count, body }
            }
            ast::StmtKind::For { var, range, body } => match self.for_loop(var, range, body) {
                Some(kind) => kind,
                None => return,
            },
            ast::StmtKind::Limit { rate, body } => {
                let Some((rate, per)) = self.rate(rate) else { return };
                self.limits += 1;
                let number = self.limits;
                let body = self.statements(body);
                StmtKind::Limit { number, rate, per, body }
            }
            ast::StmtKind::Block(block) => StmtKind::Block(self.statements(block)),
            ast::StmtKind::Break | ast::StmtKind::Continue => {
                let word = if matches!(stmt.kind, ast::StmtKind::Break) {
                    "break"
                } else {
                    "continue"
                };
                if self.loops == 0 {
                    return self.error(Diagnostic::error("outside-loop", span, format!("`{word}` stands outside a loop")));
                }
                if word == "break" { StmtKind::Break } else { StmtKind::Continue }
            }
            ast::StmtKind::Return(value) => {
                if let Some(value) = value {
                    super::lints::verdict(self.hook, value, &mut self.diagnostics);
                }
                if self.fn_return(value.as_ref(), span, out) {
                    return;
                }
                let value = value.as_ref().map(|v| self.expr(v));
                if let Some(value) = &value {
                    if !matches!(value.ty, Ty::Int { .. } | Ty::Error | Ty::Bool) {
                        self.error(Diagnostic::error(
                            "return-type",
                            value.span,
                            format!("`return` takes a verdict, found `{}`", value.ty),
                        ));
                    } else if self.hook.is_native_event() {
                        self.native_verdict(span, "return");
                    } else if matches!(value.kind, ExprKind::Int(0)) && self.cgroup_hook.is_some() {
                        self.deny(span, "return 0");
                    }
                }
                match value {
                    // As in bpftrace: nobody asks for the value of a block that sees no packet.
                    Some(value) if !self.hook.has_verdict() => {
                        out.push(Self::stmt(StmtKind::Expr(value), span));
                        StmtKind::Return(None)
                    }
                    value => StmtKind::Return(value),
                }
            }
        };
        out.push(Self::stmt(kind, span));
    }

    /// `10/s`: how often in how many nanoseconds.
    fn rate(&mut self, rate: &ast::Expr) -> Option<(u64, u64)> {
        let (count, per) = match &rate.kind {
            ast::ExprKind::Binary {
                op: BinaryOp::Div,
                left,
                right,
            } => {
                let per = match &right.kind {
                    ast::ExprKind::Duration(ns) => Some(*ns),
                    ast::ExprKind::Name(unit) => match unit.as_str() {
                        "us" => Some(1_000),
                        "ms" => Some(1_000_000),
                        "s" => Some(1_000_000_000),
                        "m" => Some(60_000_000_000),
                        "h" => Some(3_600_000_000_000),
                        _ => None,
                    },
                    _ => None,
                };
                (Some(left), per)
            }
            _ => (None, None),
        };
        let (Some(count), Some(per)) = (count, per) else {
            let d = Diagnostic::error("bad-rate", rate.span, "a rate is a number in a time")
                .help("`limit(10/s) { … }`; units are `us ms s m h`");
            self.error(d);
            return None;
        };
        let count = self.constant(count, 1..=1_000_000_000, "the rate of `limit`")?;
        Some((count.cast_unsigned(), per))
    }

    /// Some hooks of cgroups come when there is nothing left to refuse.
    fn deny(&mut self, span: Span, what: &str) {
        if let Some(hook) = self.cgroup_hook
            && !hook.can_deny
        {
            let d = Diagnostic::error(
                "cannot-deny",
                span,
                format!("`{what}` cannot be: nothing can be refused at `{}`", hook.name),
            );
            self.error(d.help(
                "the kernel asks at `connect4`, `bind4`, `sendmsg4` and their like of IPv6, `post_bind4`, `post_bind6`, `sock_create`",
            ));
        }
    }

    fn native_verdict(&mut self, span: Span, what: &str) {
        let Some(native) = self.native.and_then(|n| self.natives.get(n)) else {
            return;
        };
        let event = &native.native.events[self.event];
        if !event.decides {
            let d = Diagnostic::error(
                "verdict-in-event",
                span,
                format!("`{what}` cannot change the verdict of `{}:{}`", native.alias, event.name),
            )
            .help(format!(
                "the block ends with the verdict of `{}`; leave the verdict out",
                native.native.name
            ));
            self.error(d);
        }
    }

    fn expression_statement(&mut self, expr: &ast::Expr, span: Span, out: &mut Vec<Stmt>) {
        if let ast::ExprKind::Call { name, args } = &expr.kind
            && self.is_macro(&name.name)
        {
            return self.macro_statement(name, args, span, out);
        }
        if let ast::ExprKind::Name(name) = &expr.kind
            && self.names_macro(name)
        {
            let name = ast::Ident {
                name: name.clone(),
                span: expr.span,
            };
            return self.macro_statement(&name, &[], span, out);
        }
        if let ast::ExprKind::Call { name, args } = &expr.kind
            && let Some(function) = tables::function(&name.name)
            && let Some(kind) = self.call_statement(function, name, args, span)
        {
            if let Some(kind) = kind {
                out.push(Self::stmt(kind, span));
            }
            return;
        }
        if let ast::ExprKind::IncDec {
            expr: target, increment, ..
        } = &expr.kind
            && let Some(field) = self.field_target(target)
        {
            let op = if *increment { BinaryOp::Add } else { BinaryOp::Sub };
            let one = ast::Expr {
                kind: ast::ExprKind::Int(1),
                span,
            };
            if let Some(kind) = self.assign_field(field, target, Some(op), &one, span) {
                out.push(Self::stmt(kind, span));
            }
            return;
        }
        if let ast::ExprKind::Call { name, args } = &expr.kind
            && let Some(done) = self.meta_statement(name, args, span, out)
        {
            return done;
        }
        let value = self.expr(expr);
        if value.ty == Ty::Error {
            return;
        }
        if !has_effect(&value) {
            let d = Diagnostic::lint("no-effect", span, "this statement has no effect");
            self.error(match &expr.kind {
                ast::ExprKind::Name(name) if self.hook.has_packet() && ["XDP_", "TC_ACT_", "TCX_"].iter().any(|p| name.starts_with(p)) => {
                    d.help(format!("`return {name};` gives it as verdict"))
                }
                _ => d,
            });
        }
        out.push(Self::stmt(StmtKind::Expr(value), span));
    }

    /// Checks a call that stands as a statement. `None`: it is an expression like others; `Some(None)`: an error was given.
    #[allow(clippy::option_option, reason = "three outcomes, all local to the caller above")]
    fn call_statement(
        &mut self,
        function: &'static tables::Function,
        name: &ast::Ident,
        args: &[ast::Arg],
        span: Span,
    ) -> Option<Option<StmtKind>> {
        let kind = match function.kind {
            FunctionKind::Printf
            | FunctionKind::Text(_)
            | FunctionKind::Join
            | FunctionKind::Print
            | FunctionKind::Clear
            | FunctionKind::Zero
            | FunctionKind::Exit
            | FunctionKind::Time
            | FunctionKind::Verdict(_)
            | FunctionKind::Redirect
            | FunctionKind::Mirror
            | FunctionKind::Capture
            | FunctionKind::Agg(_) => function.kind,
            _ => return None,
        };
        if !self.call_allowed(function, name, args, span) {
            return Some(None);
        }
        let made = match kind {
            FunctionKind::Printf => self.printf(TextKind::Print, function.name, args, span).map(StmtKind::Event),
            FunctionKind::Text(what) => {
                if what == TextKind::System && !self.allowed_unsafe(function.name, name.span) {
                    return Some(None);
                }
                self.printf(what, function.name, args, span).map(StmtKind::Event)
            }
            FunctionKind::Join => self.join(args).map(StmtKind::Event),
            FunctionKind::Print => self.print(args, span).map(StmtKind::Event),
            FunctionKind::Clear | FunctionKind::Zero => {
                let Some((map, None)) = self.map_argument(&args[0].value, function.name) else {
                    return Some(None);
                };
                if let EventMap::Native { instance, map } = map
                    && self.natives[instance].native.maps[map].writable == Writable::No
                {
                    let d = Diagnostic::error(
                        "read-only-map",
                        args[0].value.span,
                        format!("`{}` cannot change this map", function.name),
                    );
                    let native = self.natives[instance].native.name;
                    self.error(d.help(format!("`{native}` writes it, scripts read it")));
                    return Some(None);
                }
                Some(StmtKind::Event(if kind == FunctionKind::Clear {
                    Event::Clear(map)
                } else {
                    Event::Zero(map)
                }))
            }
            FunctionKind::Exit => {
                let code = args.first().map(|a| self.expr(&a.value));
                if let Some(code) = &code
                    && !matches!(code.ty, Ty::Int { .. } | Ty::Error)
                {
                    let d = Diagnostic::error("argument-type", code.span, format!("`exit` takes an integer, found `{}`", code.ty));
                    self.error(d);
                }
                Some(StmtKind::Exit { code })
            }
            FunctionKind::Time => {
                let format = match args.first().map(|a| &a.value.kind) {
                    None => "%H:%M:%S\n".to_owned(),
                    Some(ast::ExprKind::Str(s)) => String::from_utf8_lossy(s).into_owned(),
                    Some(_) => {
                        self.error(Diagnostic::error(
                            "argument-type",
                            args[0].value.span,
                            "`time` takes a string literal",
                        ));
                        return Some(None);
                    }
                };
                Some(StmtKind::Event(Event::Time(format)))
            }
            FunctionKind::Verdict(verdict) => {
                if self.hook.is_native_event() {
                    self.native_verdict(span, &format!("{}()", function.name));
                }
                if verdict == Verdict::Deny {
                    self.deny(span, "deny()");
                }
                Some(StmtKind::Verdict(verdict))
            }
            FunctionKind::Redirect | FunctionKind::Mirror => self.redirect(&args[0].value, kind == FunctionKind::Mirror),
            FunctionKind::Capture => {
                let bytes = match args.first() {
                    None => Some(CAPTURE_BYTES),
                    Some(arg) => self.constant(&arg.value, 1..=MAX_CAPTURE_BYTES, "the number of bytes"),
                };
                bytes.map(|n| StmtKind::Capture {
                    bytes: u32::try_from(n).unwrap_or(u32::MAX),
                })
            }
            FunctionKind::Agg(_) => {
                self.error(
                    Diagnostic::error("aggregate-alone", span, format!("`{}()` must be assigned to a map", function.name))
                        .help(format!("`@ = {}(…);`", function.name)),
                );
                None
            }
            _ => None,
        };
        Some(match made {
            Some(made) if self.is_pinned_iterator() => self.for_readers(made, function.name, span),
            made => made,
        })
    }

    fn print(&mut self, args: &[ast::Arg], span: Span) -> Option<Event> {
        let first = &args[0].value;
        if let ast::ExprKind::Map { name, keys: None } = &first.kind
            && let Some(instance) = self.alias(name)
        {
            let [top, _] = self.print_numbers(&args[1..])?;
            return Some(Event::PrintNative { instance, top });
        }
        if self.is_map_expr(first) {
            let (map, key) = self.map_argument(first, "print")?;
            if let Some(key) = key {
                let EventMap::Own(map) = map else { return None };
                let is_one_number = match &self.maps[map].value {
                    Some(MapValueTy::Plain(_)) => true,
                    Some(MapValueTy::Agg(agg)) => super::loops::aggregate_type(agg).is_some(),
                    None => false,
                };
                if args.len() == 1 && is_one_number {
                    // Its value at this moment.
                    let value = self.value(first);
                    return (value.ty != Ty::Error).then_some(Event::PrintValue(value));
                }
                if args.len() > 1 {
                    self.error(Diagnostic::error(
                        "argument-count",
                        span,
                        "`print` of one entry takes no further argument",
                    ));
                    return None;
                }
                return Some(Event::PrintMapKey { map, key });
            }
            let numbers = self.print_numbers(&args[1..])?;
            return Some(Event::PrintMap {
                map,
                top: numbers[0],
                div: numbers[1],
            });
        }
        if args.len() > 1 {
            self.error(Diagnostic::error(
                "argument-count",
                span,
                "`top` and `div` are for maps; `print` of a value takes one argument",
            ));
            return None;
        }
        let value = self.value(first);
        if value.ty == Ty::Error {
            return None;
        }
        if value.ty.stored().is_none() {
            self.error(Diagnostic::error(
                "argument-type",
                value.span,
                format!("a value of type `{}` cannot be printed", value.ty),
            ));
            return None;
        }
        Some(Event::PrintValue(value))
    }

    /// `top` and `div` of `print`; 0 where they are not given.
    fn print_numbers(&mut self, args: &[ast::Arg]) -> Option<[u32; 2]> {
        let mut numbers = [0u32; 2];
        for (slot, arg) in numbers.iter_mut().zip(args) {
            let value = self.expr(&arg.value);
            match value.kind {
                ExprKind::Int(n) if u32::try_from(n).is_ok() => *slot = u32::try_from(n).unwrap_or(0),
                ExprKind::Error => {}
                _ => {
                    self.error(Diagnostic::error(
                        "argument-type",
                        arg.value.span,
                        "`print` takes constants for `top` and `div`",
                    ));
                    return None;
                }
            }
        }
        Some(numbers)
    }

    /// Returns whether the expression names a map of the script or of a native.
    fn is_map_expr(&self, expr: &ast::Expr) -> bool {
        match &expr.kind {
            ast::ExprKind::Map { .. } => true,
            ast::ExprKind::Field { base, .. } => {
                matches!(&base.kind, ast::ExprKind::Map { name, keys: None } if self.alias(name).is_some())
            }
            _ => false,
        }
    }

    pub(super) fn alias(&self, name: &str) -> Option<usize> {
        self.natives.iter().position(|n| n.alias == name)
    }

    /// Resolves an argument that must be a map; with the key where one is given.
    pub(super) fn map_argument(&mut self, expr: &ast::Expr, function: &str) -> Option<(EventMap, Option<Expr>)> {
        match &expr.kind {
            ast::ExprKind::Map { name, keys } => {
                if let Some(instance) = self.alias(name) {
                    let native = &self.natives[instance];
                    let names: Vec<String> = native.native.maps.iter().map(|m| format!("`@{name}.{}`", m.name)).collect();
                    let d = Diagnostic::error(
                        "native-map",
                        expr.span,
                        format!("`@{name}` is an instance of `{}`", native.native.name),
                    )
                    .help(format!("its maps are {}", names.join(", ")));
                    self.error(d);
                    return None;
                }
                let id = self.map(name, expr.span);
                match keys {
                    None => Some((EventMap::Own(id), None)),
                    Some(keys) => {
                        let key = self.key(id, keys, expr.span)?;
                        self.map_key(id, Some(&key.ty), key.span);
                        Some((EventMap::Own(id), Some(key)))
                    }
                }
            }
            ast::ExprKind::Field { base, name, .. } => {
                let ast::ExprKind::Map { name: alias, keys: None } = &base.kind else {
                    return self.not_a_map(expr, function);
                };
                let Some(instance) = self.alias(alias) else {
                    return self.not_a_map(expr, function);
                };
                let native = &self.natives[instance];
                match native.native.maps.iter().position(|m| m.name == name.name) {
                    Some(map) => Some((EventMap::Native { instance, map }, None)),
                    None => {
                        let names: Vec<&str> = native.native.maps.iter().map(|m| m.name).collect();
                        let d = Diagnostic::error(
                            "unknown-map",
                            name.span,
                            format!("`{}` has no map `{}`", native.native.name, name.name),
                        )
                        .help(format!("it has `{}`", names.join("`, `")));
                        self.error(d);
                        None
                    }
                }
            }
            _ => self.not_a_map(expr, function),
        }
    }

    fn not_a_map<T>(&mut self, expr: &ast::Expr, function: &str) -> Option<T> {
        self.error(Diagnostic::error("not-a-map", expr.span, format!("`{function}` takes a map")).help(format!("`{function}(@name)`")));
        None
    }

    /// Makes one expression of the words between a map's brackets.
    pub(super) fn key(&mut self, map: usize, keys: &[ast::Expr], span: Span) -> Option<Expr> {
        if self.is_lpm(map) {
            return match keys {
                [key] => self.prefix_key(key),
                _ => {
                    let d = Diagnostic::error("key-type", span, "an `lpm` map has one key, a prefix or an address");
                    self.error(d);
                    None
                }
            };
        }
        let mut parts: Vec<Expr> = keys.iter().map(|k| self.value(k)).collect();
        if parts.iter().any(|p| p.ty == Ty::Error) {
            return None;
        }
        if parts.len() == 1 {
            return parts.pop();
        }
        let ty = Ty::Tuple(parts.iter().map(|p| p.ty.clone()).collect());
        let span = parts.first().zip(parts.last()).map_or(span, |(a, b)| a.span.to(b.span));
        Some(Expr {
            kind: ExprKind::Tuple(parts),
            ty,
            span,
        })
    }

    fn assignment(&mut self, target: &ast::Expr, op: Option<BinaryOp>, value: &ast::Expr, span: Span) -> Option<StmtKind> {
        match &target.kind {
            ast::ExprKind::Var(name) => {
                let value = match op {
                    None => self.value(value),
                    Some(op) => self.binary(op, target, value, span),
                };
                if value.ty == Ty::Error {
                    if self.lookup_var(name).is_none() {
                        self.declare_var(name, Ty::Error, target.span);
                    }
                    return None;
                }
                if value.ty == Ty::Void {
                    self.error(Diagnostic::error("bad-value", value.span, "this has no value to assign"));
                    return None;
                }
                if let Some(id) = self.lookup_var(name).filter(|id| self.vars[*id].declared) {
                    let ty = self.vars[id].ty.clone();
                    let value = self.coerce_var(value, id, &ty);
                    return (value.ty != Ty::Error).then_some(StmtKind::SetVar { var: id, value });
                }
                let ty = super::unify::storable(&value.ty);
                let written = self.written_type(&value);
                let id = match self.lookup_var(name) {
                    None => self.declare_var(name, ty, target.span),
                    Some(id) => match unify(&self.vars[id].ty, &ty) {
                        Some(ty) => {
                            self.var_grew |= self.vars[id].ty != ty;
                            self.vars[id].ty = ty;
                            id
                        }
                        None => {
                            let var = &self.vars[id];
                            let d = Diagnostic::error(
                                "variable-type",
                                value.span,
                                format!("`${name}` is `{}` and cannot become `{}`", var.ty, value.ty),
                            )
                            .with(var.span, format!("`{}` here", var.ty));
                            self.error(d);
                            return None;
                        }
                    },
                };
                let var = &mut self.vars[id];
                var.written = match &var.written {
                    Some(old) => unify(old, &written),
                    None => Some(written),
                };
                Some(StmtKind::SetVar { var: id, value })
            }
            ast::ExprKind::Map { name, keys } => {
                if self.alias(name).is_some() {
                    let _ = self.map_argument(target, "assignment");
                    return None;
                }
                let id = self.map(name, target.span);
                let key = match keys {
                    None => None,
                    Some(keys) => Some(self.key(id, keys, target.span)?),
                };
                self.map_key(id, key.as_ref().map(|k| &k.ty), target.span);
                if op.is_none()
                    && let ast::ExprKind::Call { name, args } = &value.kind
                    && let Some(function) = tables::function(&name.name)
                    && let FunctionKind::Agg(agg) = function.kind
                {
                    return self.aggregate(id, key, function, agg, name, args, value.span);
                }
                match op {
                    None => {
                        let outer = self.assigning.replace(id);
                        let value = self.value(value);
                        self.assigning = outer;
                        self.map_value(id, MapValueTy::Plain(value.ty.clone()), value.span);
                        self.written_to_map(id, &value);
                        (value.ty != Ty::Error).then_some(StmtKind::SetMap { map: id, key, value })
                    }
                    Some(op @ (BinaryOp::Add | BinaryOp::Sub)) => {
                        let value = self.expr(value);
                        if !matches!(value.ty, Ty::Int { .. } | Ty::Error) {
                            self.error(Diagnostic::error(
                                "operand-type",
                                value.span,
                                format!("`{}=` takes an integer, found `{}`", op.symbol(), value.ty),
                            ));
                            return None;
                        }
                        let ty = if op == BinaryOp::Sub { Ty::I64 } else { value.ty.clone() };
                        self.map_value(id, MapValueTy::Plain(ty.clone()), value.span);
                        self.counted_in_map(id);
                        let span = value.span;
                        let value = if op == BinaryOp::Sub {
                            Expr {
                                kind: ExprKind::Neg(Box::new(value)),
                                ty,
                                span,
                            }
                        } else {
                            value
                        };
                        Some(StmtKind::AddMap { map: id, key, value })
                    }
                    Some(op) => {
                        // What only its own value is assigned to is a number.
                        let outer = self.assigning.replace(id);
                        let value = self.binary(op, target, value, span);
                        self.assigning = outer;
                        self.map_value(id, MapValueTy::Plain(value.ty.clone()), value.span);
                        self.written_to_map(id, &value);
                        (value.ty != Ty::Error).then_some(StmtKind::SetMap { map: id, key, value })
                    }
                }
            }
            _ if self.is_native_map(target) => {
                self.native_assigned(target);
                None
            }
            _ if self.field_target(target).is_some() => {
                let field = self.field_target(target)?;
                self.assign_field(field, target, op, value, span)
            }
            ast::ExprKind::Name(name) if name == "_" && op.is_none() => {
                let value = self.expr(value);
                Some(StmtKind::Expr(value))
            }
            ast::ExprKind::Error => None,
            _ => {
                let d = Diagnostic::error("assign-target", target.span, "this cannot be assigned to")
                    .help("assign to a variable `$x` or a map `@x`");
                self.error(d);
                None
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one statement, taken apart by its only caller")]
    fn aggregate(
        &mut self,
        map: usize,
        key: Option<Expr>,
        function: &'static tables::Function,
        agg: AggKind,
        name: &ast::Ident,
        args: &[ast::Arg],
        span: Span,
    ) -> Option<StmtKind> {
        if !self.call_allowed(function, name, args, span) {
            return None;
        }
        let value = args.first().map(|a| self.expr(&a.value));
        if let Some(value) = &value {
            if value.ty == Ty::Error {
                return None;
            }
            if !value.ty.is_int() {
                let d = Diagnostic::error(
                    "argument-type",
                    value.span,
                    format!("`{}` takes an integer, found `{}`", function.name, value.ty),
                );
                self.error(d);
                return None;
            }
        }
        let signed = value
            .as_ref()
            .is_some_and(|v| v.ty.is_signed() && !matches!(v.kind, ExprKind::Int(0..)));
        let kind = match agg {
            AggKind::Count => MapValue::Count,
            AggKind::Sum => MapValue::Sum { signed },
            AggKind::Avg => MapValue::Avg { signed },
            AggKind::Min => MapValue::Min { signed },
            AggKind::Max => MapValue::Max { signed },
            AggKind::Stats => MapValue::Stats { signed },
            AggKind::Hist => {
                let bits = match args.get(1) {
                    None => 0,
                    Some(arg) => self.constant(&arg.value, 0..=5, "the second argument of `hist`")?,
                };
                MapValue::Hist {
                    bits: u8::try_from(bits).unwrap_or(0),
                }
            }
            AggKind::LHist => {
                let min = self.constant(&args[1].value, i64::MIN..=i64::MAX, "the minimum of `lhist`")?;
                let max = self.constant(&args[2].value, i64::MIN..=i64::MAX, "the maximum of `lhist`")?;
                let step = self.constant(&args[3].value, 1..=i64::MAX, "the step of `lhist`")?;
                if max <= min {
                    self.error(Diagnostic::error(
                        "lhist-range",
                        args[2].value.span,
                        format!("the maximum {max} is not above the minimum {min}"),
                    ));
                    return None;
                }
                let buckets = (i128::from(max) - i128::from(min)) / i128::from(step);
                if buckets > 1000 {
                    self.error(
                        Diagnostic::error(
                            "lhist-range",
                            span,
                            format!("`lhist` would need {buckets} buckets; 1000 is the most"),
                        )
                        .help("use a larger step"),
                    );
                    return None;
                }
                MapValue::LHist { min, max, step }
            }
            AggKind::TSeries => {
                let interval = self.constant(&args[1].value, 1..=i64::MAX, "the interval of `tseries`")?;
                let count = self.constant(&args[2].value, 1..=MAX_INTERVALS, "the number of intervals of `tseries`")?;
                let series = match args.get(3) {
                    None => Series::Last,
                    Some(arg) => self.series(&arg.value)?,
                };
                MapValue::TSeries {
                    interval: interval.cast_unsigned(),
                    count: u32::try_from(count).unwrap_or(1),
                    series,
                    signed,
                }
            }
        };
        self.map_value(map, MapValueTy::Agg(kind), span);
        Some(StmtKind::Aggregate { map, key, agg, value })
    }

    /// What `tseries` makes of the values of an interval.
    fn series(&mut self, arg: &ast::Expr) -> Option<Series> {
        let ast::ExprKind::Str(word) = &arg.kind else {
            let d = Diagnostic::error("not-constant", arg.span, "the fourth argument of `tseries` is a word in quotes");
            self.error(d.help("`\"avg\"`, `\"max\"`, `\"min\"` or `\"sum\"`"));
            return None;
        };
        let word = String::from_utf8_lossy(word);
        let found = Series::WORDS.iter().find(|(name, _)| *name == word);
        if found.is_none() {
            let d = Diagnostic::error(
                "unknown-word",
                arg.span,
                format!("`tseries` cannot take the `{word}` of an interval"),
            );
            self.error(d.help("there are `avg`, `max`, `min` and `sum`; without a word the last value stays"));
        }
        found.map(|(_, series)| *series)
    }

    /// Evaluates an argument that must be a constant in a range.
    pub(super) fn constant(&mut self, expr: &ast::Expr, range: std::ops::RangeInclusive<i64>, what: &str) -> Option<i64> {
        let value = self.expr(expr);
        let n = match value.kind {
            ExprKind::Int(n) => n,
            ExprKind::Neg(inner) => match inner.kind {
                ExprKind::Int(n) => n.wrapping_neg(),
                _ => i64::MIN,
            },
            ExprKind::Error => return None,
            _ => {
                self.error(Diagnostic::error("not-constant", expr.span, format!("{what} must be a constant")));
                return None;
            }
        };
        if !range.contains(&n) {
            self.error(Diagnostic::error(
                "out-of-range",
                expr.span,
                format!("{what} must be from {} to {}, found {n}", range.start(), range.end()),
            ));
            return None;
        }
        Some(n)
    }
}

/// The type of a variable whose type is written down: integers keep their width.
fn storable_declared(ty: &Ty) -> Ty {
    match ty {
        Ty::Int { .. } => ty.clone(),
        other => super::unify::storable(other),
    }
}

fn has_effect(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Inline { .. }
        | ExprKind::Give { .. }
        | ExprKind::IncDec { .. }
        | ExprKind::Delete { .. }
        | ExprKind::Helper { .. }
        | ExprKind::Block { .. }
        | ExprKind::Error => true,
        ExprKind::Ternary { then, otherwise, .. } => has_effect(then) || has_effect(otherwise),
        _ => false,
    }
}
