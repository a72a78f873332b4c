//! Maps of natives, `@ALIAS.map`, where a script indexes them, asks them, deletes from them or goes over them.
//!
//! The programs of a native count in maps of their own form, and its user space makes of these what scripts see. So what a script's
//! program reads is a copy, which the runtime keeps: renewed right before a block that weir itself runs, else once a second.

use super::check::{Checker, nearest_name};
use super::map_types::MapState;
use super::{EventMap, Expr, ExprKind, MapId, MapValueTy, Ty};
use crate::native_maps;
use crate::types::Type;
use weir_parser::{Diagnostic, Span, ast};
use weir_stdlib::Writable;

/// Says that a map of the script is the copy of a native's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Index into [`super::Program::natives`].
    pub instance: usize,
    /// Index into the declaration's maps.
    pub map: usize,
    /// For looking up by the longest prefix; otherwise for going over it.
    pub lpm: bool,
}

/// What a copy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To find the entry of a key.
    Key,
    /// To go over all entries, or count them.
    Walk,
}

/// A type of user space as the checker has it.
fn checked(ty: Type) -> Ty {
    match ty {
        Type::Int { bits, signed } => Ty::Int { bits, signed },
        Type::Str { cap } => Ty::Str { cap },
        Type::Inet => Ty::Inet,
        Type::Prefix => Ty::Prefix,
        Type::Flow => Ty::Flow,
        Type::Tuple(fields) => Ty::Tuple(fields.into_iter().map(checked).collect()),
        Type::Record(fields) => Ty::Record(fields.into_iter().map(|(name, ty)| (name, checked(ty))).collect()),
        other => Ty::Kept(other),
    }
}

impl Checker<'_> {
    /// Whether the expression is `@ALIAS.map` or `@ALIAS.map[key]`, the map known or not.
    pub(super) fn is_native_map(&self, expr: &ast::Expr) -> bool {
        match &expr.kind {
            ast::ExprKind::Field { base, arrow: false, .. } => {
                matches!(&base.kind, ast::ExprKind::Map { name, keys: None } if self.alias(name).is_some())
            }
            ast::ExprKind::Index { base, .. } => !matches!(base.kind, ast::ExprKind::Index { .. }) && self.is_native_map(base),
            _ => false,
        }
    }

    /// Takes `@ALIAS.map` or `@ALIAS.map[key]` apart: the copy, and the key as it is written. What is wrong has been said.
    pub(super) fn native_copy<'e>(
        &mut self,
        expr: &'e ast::Expr,
        purpose: Purpose,
        function: &str,
    ) -> Option<(MapId, Option<&'e ast::Expr>)> {
        let (map, key) = match &expr.kind {
            ast::ExprKind::Index { base, index } => (&**base, Some(&**index)),
            _ => (expr, None),
        };
        let (EventMap::Native { instance, map }, _) = self.map_argument(map, function)? else {
            return None;
        };
        Some((self.copy_of(instance, map, purpose), key))
    }

    /// Returns the copy of a native's map, made at its first mention.
    pub(super) fn copy_of(&mut self, instance: usize, map: usize, purpose: Purpose) -> MapId {
        let native = &self.natives[instance];
        let decl = &native.native.maps[map];
        let key = native_maps::key_type(decl.shape);
        // The kernel cannot go over a trie, and finds no longest prefix in anything else.
        let lpm = purpose == Purpose::Key && key == Type::Prefix;
        let copy = Some(Copied { instance, map, lpm });
        if let Some(id) = self.maps.iter().position(|m| m.copy == copy) {
            return id;
        }
        self.maps.push(MapState {
            name: format!("@{}.{}", native.alias, decl.name),
            key: Some(Some(checked(key))),
            key_span: native.span,
            value: Some(MapValueTy::Plain(checked(native_maps::value_type(decl.shape)))),
            value_span: native.span,
            copy,
            written: None,
        });
        self.maps.len() - 1
    }

    /// The key of a native's map: it must fit the type that is declared.
    pub(super) fn native_key(&mut self, id: MapId, key: &ast::Expr, span: Span) -> Option<Expr> {
        let parts = match &key.kind {
            ast::ExprKind::Tuple(parts) if !self.is_lpm(id) => parts.as_slice(),
            _ => std::slice::from_ref(key),
        };
        let errors = self.diagnostics.len();
        let key = self.key(id, parts, span)?;
        let declared = self.maps[id].key.clone();
        self.map_key(id, Some(&key.ty), key.span);
        if self.maps[id].key != declared {
            // Only text grows, and the native's has its length.
            let name = self.maps[id].name.clone();
            self.maps[id].key = declared;
            let message = format!("this text may be longer than those in the key of `{name}`");
            self.error(Diagnostic::error("key-type", key.span, message).help("read less of it: `str(p, 16)`"));
        }
        self.known_name(id, &key);
        (self.diagnostics.len() == errors).then_some(key)
    }

    /// A name that none of the map's numbers has.
    fn known_name(&mut self, id: MapId, key: &Expr) {
        let (Some(copy), ExprKind::Str(text)) = (self.maps[id].copy, &key.kind) else {
            return;
        };
        let Some(names) = native_maps::names(self.natives[copy.instance].native.maps[copy.map].shape) else {
            return;
        };
        let text = String::from_utf8_lossy(text).into_owned();
        if !names.contains(&text.as_str()) {
            let d = Diagnostic::error("unknown-key", key.span, format!("`{}` has no `{text}`", self.maps[id].name));
            let d = match nearest_name(&text, names.iter().copied()) {
                Some(near) => d.help(format!("did you mean \"{near}\"?")),
                None => d,
            };
            self.error(d.help(format!("it has \"{}\"", names.join("\", \""))));
        }
    }

    /// `@ALIAS.map[key]` as a value.
    pub(super) fn native_get(&mut self, expr: &ast::Expr) -> Expr {
        let span = expr.span;
        let Some((map, Some(key))) = self.native_copy(expr, Purpose::Key, "this") else {
            return self.failed(span);
        };
        let (Some(key), Some(MapValueTy::Plain(ty))) = (self.native_key(map, key, span), self.maps[map].value.clone()) else {
            return self.failed(span);
        };
        let key = Some(Box::new(key));
        Self::make(ExprKind::MapGet { map, key }, ty, span)
    }

    /// `x in @ALIAS.map`
    pub(super) fn in_native(&mut self, value: &ast::Expr, map: &ast::Expr, span: Span) -> Expr {
        let Some((id, _)) = self.native_copy(map, Purpose::Key, "in") else {
            return self.failed(span);
        };
        match self.native_key(id, value, span) {
            Some(key) => Self::make(
                ExprKind::HasKey {
                    map: id,
                    key: Box::new(key),
                },
                Ty::Bool,
                span,
            ),
            None => self.failed(span),
        }
    }

    /// `delete` and `has_key` with a native's map. `second` is their second argument.
    pub(super) fn native_call(&mut self, function: &str, deletes: bool, map: &ast::Expr, second: Option<&ast::Expr>, span: Span) -> Expr {
        let Some((id, key)) = self.native_copy(map, Purpose::Key, function) else {
            return self.failed(span);
        };
        if deletes && !self.may_delete(id, map.span) {
            return self.failed(span);
        }
        let key = match (key, second) {
            (Some(key), None) | (None, Some(key)) => key,
            (Some(_), Some(_)) => {
                self.error(Diagnostic::error("argument-count", span, "the key is given twice"));
                return self.failed(span);
            }
            (None, None) => {
                let name = self.maps[id].name.clone();
                let d = Diagnostic::error("key-missing", map.span, format!("`{function}` takes one entry of `{name}`"));
                self.error(d.help(if deletes {
                    format!("`clear({name})` takes all of them")
                } else {
                    format!("`{name}[key]`")
                }));
                return self.failed(span);
            }
        };
        let Some(key) = self.native_key(id, key, span) else {
            return self.failed(span);
        };
        let key = Box::new(key);
        let kind = if deletes {
            ExprKind::Delete { map: id, key: Some(key) }
        } else {
            ExprKind::HasKey { map: id, key }
        };
        Self::make(kind, Ty::Bool, span)
    }

    fn may_delete(&mut self, id: MapId, span: Span) -> bool {
        let Some(copy) = self.maps[id].copy else { return true };
        let native = &self.natives[copy.instance];
        let name = &self.maps[id].name;
        let d = Diagnostic::error("read-only-map", span, format!("entries of `{name}` cannot be deleted"));
        let d = match native.native.maps[copy.map].writable {
            Writable::Entries => return true,
            Writable::Whole => d.help(format!(
                "`{}` adds them up from several places; `clear({name})` begins anew",
                native.native.name
            )),
            Writable::No => d.help(format!("`{}` writes it, scripts read it", native.native.name)),
        };
        self.error(d);
        false
    }

    /// An assignment to a native's map.
    pub(super) fn native_assigned(&mut self, target: &ast::Expr) {
        let Some((id, _)) = self.native_copy(target, Purpose::Walk, "assignment") else {
            return;
        };
        let Some(copy) = self.maps[id].copy else { return };
        let d = Diagnostic::error(
            "read-only-map",
            target.span,
            format!("`{}` cannot be assigned to", self.maps[id].name),
        );
        let native = self.natives[copy.instance].native.name;
        self.error(d.help(format!(
            "`{native}` writes it, scripts read it; keep what is yours in a map of your own, `@mine[…]`"
        )));
    }
}
