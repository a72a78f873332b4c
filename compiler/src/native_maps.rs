//! How a native's map looks to a script: the types of its keys and values, and how many entries scripts see.

use crate::object::NativeInstance;
use crate::types::Type;
use weir_stdlib::decl::{FLOW_AT_BYTES, TEXT_BYTES};
use weir_stdlib::{Column, ColumnType, KeyShape, MapDecl, MapShape, ParamValue, Room, ValueShape};

/// Returns the type of its keys.
#[must_use]
pub fn key_type(shape: MapShape) -> Type {
    match shape {
        MapShape::ByPrefix(_) => Type::Prefix,
        MapShape::Counters(_) | MapShape::Known(_) => Type::Str { cap: TEXT_BYTES },
        MapShape::Table { key, .. } => match key {
            KeyShape::Address => Type::Inet,
            KeyShape::Text(_) => Type::Str { cap: TEXT_BYTES },
            KeyShape::Flow => Type::Flow,
            KeyShape::FlowAt => Type::Tuple(vec![Type::Flow, Type::Str { cap: FLOW_AT_BYTES }, Type::Str { cap: FLOW_AT_BYTES }]),
        },
    }
}

/// Returns the type of its values: a record, or a number.
#[must_use]
pub fn value_type(shape: MapShape) -> Type {
    let ty = |column: &Column| match column.ty {
        ColumnType::Count => Type::U64,
        ColumnType::Text => Type::Str { cap: TEXT_BYTES },
    };
    match shape {
        MapShape::ByPrefix(ValueShape::PacketsBytes) => {
            Type::Record(vec![("packets".to_owned(), Type::U64), ("bytes".to_owned(), Type::U64)])
        }
        MapShape::Counters(_) | MapShape::Known(_) => Type::U64,
        MapShape::Table { columns, .. } => Type::Record(columns.iter().map(|c| (c.name.to_owned(), ty(c))).collect()),
    }
}

/// Returns the names that its keys can have, where those are fixed.
#[must_use]
pub fn names(shape: MapShape) -> Option<&'static [&'static str]> {
    match shape {
        MapShape::Counters(names) | MapShape::Known(names) => Some(names),
        MapShape::ByPrefix(_) | MapShape::Table { .. } => None,
    }
}

/// Returns how many entries its copy has room for.
#[must_use]
pub fn room(instance: &NativeInstance, decl: &MapDecl) -> u32 {
    let (param, times) = match decl.room {
        Room::Fixed(n) => return n.max(1),
        Room::Param(param, times) => (param, times),
    };
    let index = instance.native.params.iter().position(|p| p.name == param);
    let given = match index.and_then(|i| instance.params.get(i)?.as_ref()) {
        Some(ParamValue::Int(n)) => Some(*n),
        _ => None,
    };
    let default = || index.and_then(|i| instance.native.params[i].default.parse().ok());
    let n = given.or_else(default).unwrap_or(1 << 16).saturating_mul(u64::from(times));
    u32::try_from(n).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_parser::Span;

    /// Every map that takes its room from a parameter names one that is a number and has a default.
    #[test]
    fn every_map_has_room() {
        for native in weir_stdlib::NATIVES {
            let instance = |params| NativeInstance {
                native,
                alias: "x".to_owned(),
                params,
                span: Span::default(),
                param_spans: Vec::new(),
            };
            for map in native.maps {
                let default = room(&instance(vec![None; native.params.len()]), map);
                if let Room::Param(param, times) = map.room {
                    let at = native.params.iter().position(|p| p.name == param).expect("its parameter");
                    let declared: u32 = native.params[at].default.parse().expect("a default that is a number");
                    assert_eq!(default, declared * times, "{}.{}", native.name, map.name);
                    let mut params = vec![None; native.params.len()];
                    params[at] = Some(ParamValue::Int(100));
                    assert_eq!(room(&instance(params), map), 100 * times);
                } else {
                    assert!(default >= 1);
                }
            }
        }
    }
}
