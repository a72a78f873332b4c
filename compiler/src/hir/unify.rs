//! Types that meet: what holds values of both, and what a map or variable keeps.

use super::{MapValueTy, Space, Ty};
use crate::types::{MapValue, Series, Type};

/// Joins two uses of an aggregation: signed if one of them is.
pub(super) fn unify_aggregate(old: &crate::types::MapValue, new: &crate::types::MapValue) -> Option<crate::types::MapValue> {
    use crate::types::MapValue as V;
    Some(match (old, new) {
        (V::Sum { signed: a }, V::Sum { signed: b }) => V::Sum { signed: *a || *b },
        (V::Min { signed: a }, V::Min { signed: b }) => V::Min { signed: *a || *b },
        (V::Max { signed: a }, V::Max { signed: b }) => V::Max { signed: *a || *b },
        (V::Avg { signed: a }, V::Avg { signed: b }) => V::Avg { signed: *a || *b },
        (V::Stats { signed: a }, V::Stats { signed: b }) => V::Stats { signed: *a || *b },
        (
            V::TSeries {
                interval,
                count,
                series,
                signed: a,
            },
            V::TSeries {
                interval: other,
                count: intervals,
                series: word,
                signed: b,
            },
        ) if (interval, count, series) == (other, intervals, word) => V::TSeries {
            interval: *interval,
            count: *count,
            series: *series,
            signed: *a || *b,
        },
        (a, b) if a == b => a.clone(),
        _ => return None,
    })
}

pub(super) fn describe_value(value: &MapValueTy) -> String {
    match value {
        MapValueTy::Plain(ty) => ty.to_string(),
        // Two of one kind can differ in their numbers alone.
        MapValueTy::Agg(agg) => match agg {
            MapValue::LHist { min, max, step } => format!("lhist({min}, {max}, {step})"),
            MapValue::Hist { bits } if *bits > 0 => format!("hist(n, {bits})"),
            MapValue::TSeries {
                interval, count, series, ..
            } => {
                let word = Series::WORDS
                    .iter()
                    .find(|(_, s)| s == series)
                    .map(|(word, _)| format!(", \"{word}\""));
                format!("tseries({interval}ns, {count}{})", word.unwrap_or_default())
            }
            _ => agg.to_string(),
        },
    }
}

/// Returns the type as a map or variable keeps it: integers in 64 bits, character arrays as strings.
pub(super) fn storable(ty: &Ty) -> Ty {
    match ty {
        Ty::Int { signed, .. } => Ty::Int { bits: 64, signed: *signed },
        Ty::Str { cap } => Ty::Str {
            cap: cap.next_multiple_of(8).max(8),
        },
        Ty::Obj {
            ty: super::CTy::Array { elem, len },
            ..
        } if **elem == super::CTy::Char => Ty::Str {
            cap: len.next_multiple_of(8),
        },
        // What is kept is a number to the kernel, whatever it was.
        Ty::Ptr { to, space: Space::Btf } => Ty::Ptr {
            to: to.clone(),
            space: Space::Kernel,
        },
        Ty::Tuple(fields) => Ty::Tuple(fields.iter().map(storable).collect()),
        Ty::Record(fields) => Ty::Record(fields.iter().map(|(name, ty)| (name.clone(), storable(ty))).collect()),
        other => other.clone(),
    }
}

/// Returns the type that holds values of both.
pub(super) fn unify(a: &Ty, b: &Ty) -> Option<Ty> {
    Some(match (a, b) {
        (Ty::Error, other) | (other, Ty::Error) => other.clone(),
        (Ty::Int { bits: x, signed: s }, Ty::Int { bits: y, signed: t }) => Ty::Int {
            bits: *x.max(y),
            signed: *s || *t,
        },
        (Ty::Int { bits, signed }, Ty::Bool) | (Ty::Bool, Ty::Int { bits, signed }) => Ty::Int {
            bits: *bits,
            signed: *signed,
        },
        (Ty::Str { cap: x }, Ty::Str { cap: y }) => Ty::Str { cap: *x.max(y) },
        (Ty::Buf { cap: x }, Ty::Buf { cap: y }) => Ty::Buf { cap: *x.max(y) },
        (Ty::Int { .. } | Ty::Bool, Ty::Kept(Type::Enum { .. })) | (Ty::Kept(Type::Enum { .. }), Ty::Int { .. } | Ty::Bool) => Ty::I64,
        (Ty::Record(x), Ty::Record(y)) if x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.0 == y.0) => {
            let fields = x.iter().zip(y).map(|((name, x), (_, y))| Some((name.clone(), unify(x, y)?)));
            Ty::Record(fields.collect::<Option<_>>()?)
        }
        (Ty::Ptr { to: x, space: s }, Ty::Ptr { to: y, space: t }) if x == y && s != t => Ty::Ptr {
            to: x.clone(),
            space: if *s == Space::User || *t == Space::User {
                Space::User
            } else {
                Space::Kernel
            },
        },
        (Ty::Ptr { space, .. }, Ty::Ptr { .. }) if a != b => Ty::Ptr {
            to: Box::new(super::CTy::Void),
            space: *space,
        },
        (Ty::Tuple(x), Ty::Tuple(y)) if x.len() == y.len() => Ty::Tuple(x.iter().zip(y).map(|(x, y)| unify(x, y)).collect::<Option<_>>()?),
        (a, b) if a == b => a.clone(),
        _ => return None,
    })
}
