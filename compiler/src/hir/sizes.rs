//! `sizeof`, of types and of values as they are written.

use super::check::Checker;
use super::unify::unify;
use super::{Expr, ExprKind, Ty};
use weir_parser::{Diagnostic, Span, ast};

impl Checker<'_> {
    pub(super) fn size_of(&mut self, arg: &ast::SizeOfArg, span: Span) -> Expr {
        let size = match arg {
            ast::SizeOfArg::Type(ast::TypeExpr {
                kind: ast::TypeExprKind::Sized(_, cap @ 1..),
                ..
            }) => u32::try_from(*cap).ok(),
            ast::SizeOfArg::Type(ty) => match self.type_expr_c(ty) {
                Some(c) => self.c_size(&c),
                None => return self.failed(span),
            },
            ast::SizeOfArg::Expr(e) => {
                let value = self.expr(e);
                match self.written_type(&value) {
                    Ty::Error => return self.failed(span),
                    ty => self.layout(&ty).map(|(size, _)| size),
                }
            }
        };
        match size {
            Some(size) => Self::make(ExprKind::Int(i64::from(size)), Ty::U64, span),
            None => {
                self.error(Diagnostic::error("no-size", span, "the size of this is not known"));
                self.failed(span)
            }
        }
    }

    /// The type of an expression as it is written: a constant has the least type that holds it, and so has a variable or map
    /// that it is assigned to.
    pub(super) fn written_type(&self, value: &Expr) -> Ty {
        match (&value.kind, &value.ty) {
            (ExprKind::Var(id), ty) => self.vars[*id]
                .written
                .as_ref()
                .filter(|_| !self.vars[*id].declared)
                .unwrap_or(ty)
                .clone(),
            (ExprKind::MapGet { map, .. }, ty) => self.maps[*map].written.as_ref().unwrap_or(ty).clone(),
            (ExprKind::Ternary { then, otherwise, .. }, ty) => {
                let both = unify(&self.written_type(then), &self.written_type(otherwise));
                both.unwrap_or_else(|| ty.clone())
            }
            (ExprKind::Tuple(parts), Ty::Record(fields)) => {
                let types = fields
                    .iter()
                    .zip(parts)
                    .map(|((name, _), part)| (name.clone(), self.written_type(part)));
                Ty::Record(types.collect())
            }
            (ExprKind::Tuple(parts), Ty::Tuple(_)) => Ty::Tuple(parts.iter().map(|part| self.written_type(part)).collect()),
            _ => written_type(value),
        }
    }

    /// Size and alignment of a value as it is written, as C would lay it out.
    fn layout(&self, ty: &Ty) -> Option<(u32, u32)> {
        let mut fields: Box<dyn Iterator<Item = &Ty>> = match ty {
            Ty::Int { bits, .. } => return Some((u32::from(*bits) / 8, u32::from(*bits) / 8)),
            Ty::Str { cap } => return Some((*cap, 1)),
            Ty::Obj { ty, .. } => return self.c_size(ty).map(|size| (size, 8)),
            Ty::Tuple(fields) => Box::new(fields.iter()),
            Ty::Record(fields) => Box::new(fields.iter().map(|(_, ty)| ty)),
            other => return other.stored().map(|t| (t.size(), t.align())),
        };
        let (size, align) = fields.try_fold((0_u32, 1_u32), |(end, widest), field| {
            let (size, align) = self.layout(field)?;
            Some((end.next_multiple_of(align.max(1)) + size, widest.max(align)))
        })?;
        Some((size.next_multiple_of(align), align))
    }
}

/// The type of an expression as it is written: an integer that is a constant has the least type that holds it.
pub(super) fn written_type(value: &Expr) -> Ty {
    let constant = match &value.kind {
        ExprKind::Int(n) => Some(*n),
        ExprKind::Neg(inner) => match inner.kind {
            ExprKind::Int(n) => Some(n.wrapping_neg()),
            _ => None,
        },
        _ => None,
    };
    match (&value.ty, constant) {
        (Ty::Int { signed, .. }, Some(n)) => {
            let bits = match n {
                n if !*signed && n < 0 => 64,
                n if i8::try_from(n).is_ok() => 8,
                n if i16::try_from(n).is_ok() => 16,
                n if i32::try_from(n).is_ok() => 32,
                _ => 64,
            };
            Ty::Int { bits, signed: *signed }
        }
        (ty, _) => ty.clone(),
    }
}
