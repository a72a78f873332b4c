//! `for` over ranges and maps.

use super::check::Checker;
use super::natives::Purpose;
use super::unify::storable;
use super::{Expr, ExprKind, MapValueTy, StmtKind, Ty};
use crate::types::MapValue;
use std::collections::HashMap;
use weir_parser::Diagnostic;
use weir_parser::ast;

/// What one call of the kernel's loop helper repeats at most (`BPF_MAX_LOOPS`).
pub const MAX_ITERATIONS: i64 = 1 << 23;

impl Checker<'_> {
    pub(super) fn for_loop(&mut self, var: &ast::Ident, range: &ast::ForRange, body: &ast::Block) -> Option<StmtKind> {
        match range {
            ast::ForRange::Range { start, end } => {
                let (start, end) = (self.bound(start), self.bound(end));
                let (start, end) = (start?, end?);
                if let (ExprKind::Int(a), ExprKind::Int(b)) = (&start.kind, &end.kind)
                    && b.saturating_sub(*a) > MAX_ITERATIONS
                {
                    let d = Diagnostic::error(
                        "range-too-long",
                        start.span.to(end.span),
                        format!("the range has {} steps; the kernel repeats at most {MAX_ITERATIONS} times", b - a),
                    );
                    self.error(d);
                    return None;
                }
                let (id, body) = self.loop_body(var, Ty::I64, body);
                Some(StmtKind::ForRange { var: id, start, end, body })
            }
            ast::ForRange::Over(over) => self.for_map(var, over, body),
        }
    }

    fn bound(&mut self, bound: &ast::Expr) -> Option<Expr> {
        let value = self.expr(bound);
        match value.ty {
            Ty::Int { .. } => Some(value),
            Ty::Error => None,
            _ => {
                let d = Diagnostic::error(
                    "operand-type",
                    value.span,
                    format!("the bounds of a range are integers, found `{}`", value.ty),
                );
                self.error(d);
                None
            }
        }
    }

    fn for_map(&mut self, var: &ast::Ident, over: &ast::Expr, body: &ast::Block) -> Option<StmtKind> {
        if self.is_native_map(over) {
            return self.for_native(var, over, body);
        }
        let ast::ExprKind::Map { name, keys: None } = &over.kind else {
            let d = Diagnostic::error("not-iterable", over.span, "`for` goes over a map or a range")
                .help("`for ($kv : @map)` or `for ($i : 0..10)`");
            self.error(d);
            return None;
        };
        if self.alias(name).is_some() {
            let _ = self.map_argument(over, "for");
            return None;
        }
        let map = self.map(name, over.span);
        if self.is_lpm(map) {
            let d = Diagnostic::error(
                "not-iterable",
                over.span,
                format!("`@{name}` is keyed by prefix; the kernel cannot go over such a map"),
            )
            .help(format!("`print(@{name})` shows it"));
            self.error(d);
            return None;
        }
        let state = self.maps[map].clone();
        let key = match state.key {
            Some(Some(key)) => key,
            Some(None) => {
                let d = Diagnostic::error(
                    "not-iterable",
                    over.span,
                    format!("`@{name}` is a scalar and has nothing to go over"),
                )
                .with(state.key_span, "used without a key here");
                self.error(d);
                return None;
            }
            None => {
                let d = Diagnostic::error("unassigned-map", over.span, format!("`@{name}` is never assigned"));
                self.error(d);
                return None;
            }
        };
        let mut fields = vec![key];
        match state.value {
            Some(MapValueTy::Plain(ty)) => fields.push(ty),
            Some(MapValueTy::Agg(agg)) => fields.extend(aggregate_type(&agg)),
            None => {}
        }
        let (id, body) = self.loop_body(var, Ty::Tuple(fields), body);
        Some(StmtKind::ForMap { var: id, map, body })
    }

    /// `for ($kv : @ALIAS.map)`
    fn for_native(&mut self, var: &ast::Ident, over: &ast::Expr, body: &ast::Block) -> Option<StmtKind> {
        let (map, key) = self.native_copy(over, Purpose::Walk, "for")?;
        if key.is_some() {
            self.error(Diagnostic::error("not-iterable", over.span, "`for` goes over a whole map"));
            return None;
        }
        let (Some(Some(key)), Some(MapValueTy::Plain(value))) = (self.maps[map].key.clone(), self.maps[map].value.clone()) else {
            return None;
        };
        let (id, body) = self.loop_body(var, Ty::Tuple(vec![key, value]), body);
        Some(StmtKind::ForMap { var: id, map, body })
    }

    /// Checks the body with a fresh variable that only it sees.
    fn loop_body(&mut self, var: &ast::Ident, ty: Ty, body: &ast::Block) -> (usize, Vec<super::Stmt>) {
        self.scopes.push(HashMap::new());
        let id = self.declare_var(&var.name, storable(&ty), var.span);
        self.loops += 1;
        let body = self.statements(body);
        self.loops -= 1;
        self.scopes.pop();
        (id, body)
    }
}

/// The type of what an aggregation has come to, where that is a number.
pub(super) fn aggregate_type(agg: &MapValue) -> Option<Ty> {
    match agg {
        MapValue::Count => Some(Ty::U64),
        MapValue::Sum { signed } | MapValue::Min { signed } | MapValue::Max { signed } | MapValue::Avg { signed } => {
            Some(Ty::Int { bits: 64, signed: *signed })
        }
        MapValue::Plain(_) | MapValue::Stats { .. } | MapValue::Hist { .. } | MapValue::LHist { .. } | MapValue::TSeries { .. } => None,
    }
}
