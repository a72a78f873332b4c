//! Operators, casts, sets.

use super::check::Checker;
use super::unify::unify;
use super::{CTy, Expr, ExprKind, SetElem, Space, Ty};
use crate::types::Type;
use weir_parser::ast::{self, BinaryOp};
use weir_parser::{Diagnostic, Span};

/// The comparison with its sides exchanged.
fn turned(op: BinaryOp) -> BinaryOp {
    match op {
        BinaryOp::Lt => BinaryOp::Gt,
        BinaryOp::Le => BinaryOp::Ge,
        BinaryOp::Gt => BinaryOp::Lt,
        BinaryOp::Ge => BinaryOp::Le,
        other => other,
    }
}

impl Checker<'_> {
    /// Makes a literal in quotes an address where the other operand is one.
    pub(super) fn adapt(&mut self, value: Expr, other: &Ty) -> Expr {
        if self.stand_ins.contains(&value.span) {
            let kind = match other {
                Ty::Inet => ExprKind::Inet { bytes: [0; 16], v6: false },
                Ty::Mac => ExprKind::Mac([0; 6]),
                Ty::Str { .. } => ExprKind::Str(Vec::new()),
                _ => return value,
            };
            let ty = if matches!(other, Ty::Str { .. }) {
                Ty::Str { cap: 1 }
            } else {
                other.clone()
            };
            return Self::make(kind, ty, value.span);
        }
        let ExprKind::Str(text) = &value.kind else { return value };
        let text = String::from_utf8_lossy(text).into_owned();
        match other {
            Ty::Inet => match text.parse::<std::net::IpAddr>() {
                Ok(address) => {
                    let (bytes, v6) = inet_bytes(address);
                    Self::make(ExprKind::Inet { bytes, v6 }, Ty::Inet, value.span)
                }
                Err(_) => {
                    let d = Diagnostic::error("bad-address", value.span, format!("`{text}` is not an IP address"));
                    self.error(match text.split_once('/') {
                        Some((address, bits)) if address.parse::<std::net::Ipv4Addr>().is_ok() => {
                            let address = address.parse().map_or(0, std::net::Ipv4Addr::to_bits);
                            let bits = bits.parse().unwrap_or(32).min(32);
                            let net = std::net::Ipv4Addr::from_bits(address & u32::MAX.checked_shl(32 - bits).unwrap_or(0));
                            d.help(format!("a prefix stands in a set, without quotes: `ip.src in ({net}/{bits})`"))
                        }
                        Some((address, _)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                            d.help(format!("a prefix stands in a set: `ip.src in (\"{text}\")`"))
                        }
                        _ => d,
                    });
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

    /// Notes the place of a parameter that is not given, where the script is only judged: there a value stands that fits.
    pub(super) fn may_stand_in(&mut self, number: u32, span: Span) {
        let given = usize::try_from(number).is_ok_and(|n| (1..=self.options.positional.len()).contains(&n));
        if self.options.judged_only && !given {
            self.stand_ins.insert(span);
        }
    }

    /// Makes bytes in memory an address where the other operand is one.
    fn address_of(&mut self, value: Expr, other: &Ty) -> Expr {
        match &value.ty {
            Ty::Obj { ty, .. } if *other == Ty::Inet && matches!(self.c_size(ty), Some(4 | 16)) => {
                let span = value.span;
                let kind = ExprKind::Ntop {
                    family: None,
                    addr: Box::new(value),
                };
                Self::make(kind, Ty::Inet, span)
            }
            _ => value,
        }
    }

    /// Gives a value the declared type of a variable.
    pub(super) fn coerce(&mut self, value: Expr, ty: &Ty) -> Expr {
        if value.ty == Ty::Error || *ty == Ty::Error || value.ty == *ty {
            return value;
        }
        match (&value.ty, ty) {
            (Ty::Int { .. }, Ty::Int { bits, signed }) if matches!(value.kind, ExprKind::Int(_)) => {
                let span = value.span;
                let ExprKind::Int(n) = value.kind else { return value };
                if !fits(n, &value.ty, *bits, *signed) {
                    let shown = if value.ty.is_signed() {
                        n.to_string()
                    } else {
                        n.cast_unsigned().to_string()
                    };
                    let d = Diagnostic::error("integer-overflow", span, format!("`{shown}` does not fit in `{ty}`"));
                    self.error(d.help(format!("`({ty}){shown}` cuts it off")));
                    return self.failed(span);
                }
                Self::make(ExprKind::Int(n), ty.clone(), span)
            }
            (Ty::Int { .. } | Ty::Bool, Ty::Int { .. } | Ty::Bool) | (Ty::Kept(Type::Enum { .. }), Ty::Int { .. }) => {
                let span = value.span;
                Self::make(ExprKind::Convert(Box::new(value)), ty.clone(), span)
            }
            (Ty::Ptr { space, .. }, Ty::Ptr { to, .. }) => {
                let (space, to, span) = (*space, to.clone(), value.span);
                Self::make(ExprKind::Convert(Box::new(value)), Ty::Ptr { to, space }, span)
            }
            (
                Ty::Obj {
                    ty: CTy::Array { .. } | CTy::Struct { .. },
                    ..
                }
                | Ty::Int { .. },
                Ty::Ptr { .. },
            )
            | (Ty::Int { .. }, Ty::Kept(Type::Enum { .. })) => {
                let span = value.span;
                Self::make(ExprKind::Convert(Box::new(value)), ty.clone(), span)
            }
            (Ty::Str { .. }, Ty::Str { .. }) => Expr { ty: ty.clone(), ..value },
            (a, b) if unify(a, b).as_ref() == Some(b) => value,
            _ => {
                let d = Diagnostic::error("variable-type", value.span, format!("expected `{ty}`, found `{}`", value.ty));
                self.error(d);
                self.failed(value.span)
            }
        }
    }

    /// Gives a value the type of the variable that it is assigned to.
    pub(super) fn coerce_var(&mut self, value: Expr, var: super::VarId, ty: &Ty) -> Expr {
        let errors = self.diagnostics.len();
        let value = self.coerce(value, ty);
        let (span, name) = (self.vars[var].span, self.vars[var].name.clone());
        for d in &mut self.diagnostics[errors..] {
            d.labels.push((span, format!("`${name}` is declared as `{ty}` here")));
        }
        value
    }

    pub(super) fn cast(&mut self, value: Expr, ty: Ty, span: Span) -> Expr {
        if value.ty == Ty::Error || ty == Ty::Error {
            return self.failed(span);
        }
        let value = match (&value.ty, &ty) {
            (Ty::Obj { ty: CTy::Array { .. }, .. }, Ty::Int { .. } | Ty::Kept(Type::Array { .. })) => self.loaded(value),
            _ => value,
        };
        if let Ty::Kept(Type::Array { elem, len }) = &ty {
            return self.cast_to_array(value, elem, *len, span);
        }
        if value.ty == ty && !matches!(ty, Ty::Int { .. }) {
            return value;
        }
        let ok = match (&value.ty, &ty) {
            (a, Ty::Int { .. } | Ty::Ptr { .. }) if a.is_int() || matches!(a, Ty::Ptr { .. }) => true,
            (a, b) if a.is_int() && b.is_int() => true,
            (Ty::Kept(array @ Type::Array { .. }), Ty::Int { .. }) => array.size() <= 8,
            (Ty::Str { .. }, Ty::Str { .. }) => return Expr { ty, span, ..value },
            (
                Ty::Obj {
                    ty: CTy::Array { .. } | CTy::Struct { .. },
                    ..
                },
                Ty::Ptr { .. },
            ) => true,
            _ => false,
        };
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
            (Ty::Int { .. }, Ty::Ptr { to, .. }) => Ty::Ptr {
                to,
                space: self.default_space(),
            },
            (_, ty) => ty,
        };
        Self::make(ExprKind::Convert(Box::new(value)), ty, span)
    }

    /// `(uint8[8])x`: the bytes of an integer, or of another array.
    fn cast_to_array(&mut self, value: Expr, elem: &Type, len: u32, span: Span) -> Expr {
        let bytes = match &value.ty {
            Ty::Int { bits, .. } => Some(u32::from(*bits) / 8),
            Ty::Kept(array @ Type::Array { .. }) => Some(array.size()),
            _ => None,
        };
        let len = if len == 0 { bytes.unwrap_or(0) / elem.size().max(1) } else { len };
        let ty = Type::Array {
            elem: Box::new(elem.clone()),
            len,
        };
        // A literal has no width of its own.
        let fits = bytes == Some(ty.size()) || matches!(value.kind, ExprKind::Int(_)) && (1..=8).contains(&ty.size());
        if !fits || !matches!(elem, Type::Int { .. }) {
            let d = Diagnostic::error("bad-cast", span, format!("`{}` cannot be cast to `{ty}`", value.ty));
            self.error(match bytes {
                Some(bytes) => d.help(format!("the value has {bytes} bytes, the array {}", ty.size())),
                None => d,
            });
            return self.failed(span);
        }
        Self::make(ExprKind::Convert(Box::new(value)), Ty::Kept(ty), span)
    }

    pub(super) fn type_expr_c(&mut self, ty: &ast::TypeExpr) -> Option<CTy> {
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
        if let (BinaryOp::Eq | BinaryOp::Ne, ast::ExprKind::TypeOf(a), ast::ExprKind::TypeOf(b)) = (op, &left.kind, &right.kind) {
            let (a, b) = (self.type_of(a), self.type_of(b));
            let (Some(a), Some(b)) = (a, b) else { return self.failed(span) };
            let same = a == b;
            return Self::make(ExprKind::Int(i64::from(same == (op == BinaryOp::Eq))), Ty::Bool, span);
        }
        super::lints::byte_order(op, left, right, &mut self.diagnostics);
        let (l, r) = (self.expr(left), self.expr(right));
        let l = self.address_of(l, &r.ty);
        let r = self.address_of(r, &l.ty);
        let (l, r) = (self.loaded(l), self.loaded(r));
        let l = self.adapt(l, &r.ty);
        let r = self.adapt(r, &l.ty);
        if l.ty == Ty::Error || r.ty == Ty::Error {
            return self.failed(span);
        }
        if op.is_comparison() {
            for (field, op, value) in [(&l, op, &r), (&r, turned(op), &l)] {
                let ExprKind::Field(index) = field.kind else { continue };
                let field = &crate::tables::FIELDS[index];
                self.fits_width(field, op, value);
                if !self.fits_family(field, value) {
                    return self.failed(span);
                }
            }
        }
        let both_int = l.ty.is_int() && r.ty.is_int();
        let pointerish = |t: &Ty| matches!(t, Ty::Ptr { .. } | Ty::Int { .. });
        let ty = if op.is_comparison() {
            let equality = matches!(op, BinaryOp::Eq | BinaryOp::Ne);
            let ok = both_int
                || pointerish(&l.ty) && pointerish(&r.ty)
                || equality && matches!((&l.ty, &r.ty), (Ty::Inet, Ty::Inet) | (Ty::Mac, Ty::Mac))
                || matches!((&l.ty, &r.ty), (Ty::Str { .. }, Ty::Str { .. }))
                || equality
                    && matches!(l.ty, Ty::Kept(_) | Ty::Flow | Ty::Tuple(_) | Ty::Record(_) | Ty::Buf { .. })
                    && unify(&l.ty, &r.ty).is_some();
            if !ok {
                self.type_mismatch(op, &l, &r, span);
                return self.failed(span);
            }
            Ty::Bool
        } else if both_int {
            let signed = match op {
                BinaryOp::Shl | BinaryOp::Shr => l.ty.is_signed(),
                // What is taken away may be the greater one.
                BinaryOp::Sub => true,
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
                // What two literals without a sign come to has none either: `1 << 63`.
                let grown = *a >= 0 && *b >= 0 && n < 0 && matches!(op, BinaryOp::Shl | BinaryOp::Add | BinaryOp::Mul);
                let signed = signed && !grown;
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
        self.error(if op == BinaryOp::BitAnd && l.ty == Ty::Inet {
            d.help("`x in (10.0.0.0/8, 192.0.2.0/24)` asks for prefixes; a map declared as `lpm(N)` and keyed by prefix finds the longest")
        } else {
            d
        });
    }

    pub(super) fn prefix_text(&mut self, text: &[u8], span: Span) -> Option<SetElem> {
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

    pub(super) fn set_constant(&mut self, elem: &ast::Expr, value: &Expr) -> Option<Expr> {
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
}

/// Whether a constant of the type fits into an integer of that width and sign.
fn fits(n: i64, ty: &Ty, bits: u8, signed: bool) -> bool {
    let n = if ty.is_signed() {
        i128::from(n)
    } else {
        i128::from(n.cast_unsigned())
    };
    let (low, high) = if signed {
        (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
    } else {
        (0, (1_i128 << bits) - 1)
    };
    (low..=high).contains(&n)
}

pub(super) fn range_in_order(a: &Expr, b: &Expr) -> bool {
    match (&a.kind, &b.kind) {
        (ExprKind::Int(a), ExprKind::Int(b)) => a <= b,
        (ExprKind::Inet { bytes: a, v6: x }, ExprKind::Inet { bytes: b, v6: y }) => x == y && a <= b,
        _ => false,
    }
}

pub(super) fn fold(op: BinaryOp, a: i64, b: i64) -> Option<i64> {
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

pub(super) fn parse_mac(text: &str) -> Option<[u8; 6]> {
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
