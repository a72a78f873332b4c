//! Parts of values and where they lie: fields of tuples, elements, offsets, addresses.

use super::check::Checker;
use super::{CTy, Expr, ExprKind, Space, Ty};
use weir_parser::{Diagnostic, Span, ast};

impl Checker<'_> {
    pub(super) fn offset_of(&mut self, of: &ast::SizeOfArg, fields: &[ast::Ident], span: Span) -> Expr {
        let mut at = match of {
            ast::SizeOfArg::Type(ty) => match self.type_expr_c(ty) {
                Some(ty) => ty,
                None => return self.failed(span),
            },
            ast::SizeOfArg::Expr(e) => match self.expr(e).ty {
                Ty::Obj { ty, .. } => ty,
                Ty::Ptr { to, .. } => *to,
                Ty::Error => return self.failed(span),
                other => {
                    self.error(Diagnostic::error(
                        "no-members",
                        e.span,
                        format!("a value of type `{other}` has no members"),
                    ));
                    return self.failed(span);
                }
            },
        };
        let mut offset = 0;
        for field in fields {
            // A place at address 0: the member's address is its offset.
            let null = Self::make(
                ExprKind::Int(0),
                Ty::Ptr {
                    to: Box::new(at),
                    space: Space::Kernel,
                },
                span,
            );
            let member = self.member(null, field, span);
            let place = match member.kind {
                ExprKind::Read { place, bits: None, .. } => *place,
                ExprKind::Error => return self.failed(span),
                ExprKind::Read { .. } => {
                    self.error(Diagnostic::error("no-offset", field.span, "a bitfield has no offset in bytes"));
                    return self.failed(span);
                }
                kind => Expr { kind, ..member },
            };
            let (ExprKind::Place { offset: by, .. }, Ty::Obj { ty, .. }) = (place.kind, place.ty) else {
                return self.failed(span);
            };
            offset += by;
            at = ty;
        }
        Self::make(ExprKind::Int(i64::from(offset)), Ty::U64, span)
    }

    pub(super) fn tuple_index(&mut self, base: &ast::Expr, index: u32, span: Span) -> Expr {
        let base = self.expr(base);
        self.tuple_field(base, usize::try_from(index).unwrap_or(usize::MAX), span)
    }

    fn tuple_field(&mut self, base: Expr, index: usize, span: Span) -> Expr {
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

    pub(super) fn index(&mut self, base: &ast::Expr, index: &ast::Expr, span: Span) -> Expr {
        if let Some(bytes) = self.packet_index(base, index, span) {
            return bytes;
        }
        let base = self.expr(base);
        let index = self.expr(index);
        if let (Ty::Tuple(_), ExprKind::Int(n)) = (&base.ty, &index.kind) {
            return self.tuple_field(base, usize::try_from(*n).unwrap_or(usize::MAX), span);
        }
        let base = Self::own_object(base);
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

    /// `&x`: where a variable, the value of a map, or a part of an object lies.
    pub(super) fn address(&mut self, value: Expr, span: Span) -> Expr {
        // The address of text is that of its first byte.
        let pointer = |to: CTy, space| {
            let to = match to {
                CTy::Array { elem, .. } if *elem == CTy::Char => elem,
                other => Box::new(other),
            };
            // Only where a pointer starts does the kernel know its type.
            let space = if space == Space::Btf { Space::Kernel } else { space };
            Ty::Ptr { to, space }
        };
        match value.kind {
            ExprKind::Var(id) => {
                // In memory an integer has eight bytes, whatever its type; the first of them are its value.
                let Some(to) = super::ctypes::as_c(&value.ty) else {
                    return self.no_address(&value.ty, span);
                };
                self.vars[id].addressed = true;
                Self::make(ExprKind::AddrOf(id), pointer(to, Space::Kernel), span)
            }
            ExprKind::MapGet { map, key } => {
                let Some(to) = super::ctypes::as_c(&value.ty) else {
                    return self.no_address(&value.ty, span);
                };
                Self::make(ExprKind::MapAddr { map, key }, pointer(to, Space::Kernel), span)
            }
            ExprKind::Read { place, bits: None, .. } | ExprKind::Convert(place) if matches!(place.ty, Ty::Obj { .. }) => {
                let Ty::Obj { ty, space } = place.ty.clone() else {
                    return self.failed(span);
                };
                Self::make(ExprKind::Convert(place), pointer(ty, space), span)
            }
            ExprKind::Place { .. } | ExprKind::Element { .. } => {
                let Ty::Obj { ty, space } = value.ty.clone() else {
                    return self.failed(span);
                };
                Self::make(ExprKind::Convert(Box::new(value)), pointer(ty, space), span)
            }
            ExprKind::Error => self.failed(span),
            _ => self.no_address(&value.ty, span),
        }
    }

    fn no_address(&mut self, ty: &Ty, span: Span) -> Expr {
        let d = Diagnostic::error("no-address", span, format!("this value of type `{ty}` has no address"))
            .help("`&` takes a variable `$x`, a map `@x` or a member `$p->x`");
        self.error(d);
        self.failed(span)
    }
}
