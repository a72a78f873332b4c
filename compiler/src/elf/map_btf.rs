//! BTF definitions of maps (`.maps`): kind, number of entries, flags, types of key and value.
//!
//! Maps of the script get the types of the script, so that `bpftool map dump` shows fields by name; all others get
//! plain numbers of the right size. The layouts are those of [`crate::types`].

use super::btf_build::{BtfBuilder, Field, IntEncoding};
use super::{DEFAULT_RING_BYTES, ElfError};
use crate::btf::TypeId;
use crate::object::{MapKind, MapRole, MapSpec};
use crate::types::{MapValue, Type};

/// Adds the struct that defines a map; returns it and its size in bytes.
pub(super) fn definition(btf: &mut BtfBuilder, map: &MapSpec) -> Result<(TypeId, u32), ElfError> {
    let bad = |why| {
        Err(ElfError::Map {
            name: map.name.clone(),
            why,
        })
    };
    let max_entries = match (map.kind, map.max_entries) {
        (MapKind::RingBuf, 0) => DEFAULT_RING_BYTES,
        (_, 0) => return bad("it has no room for an entry"),
        (_, n) => n,
    };
    let mut members = vec![("type", number(btf, map.kind as u32))];
    if map.kind == MapKind::RingBuf {
        if map.key_size != 0 || map.value_size != 0 {
            return bad("a ring buffer has neither key nor value");
        }
    } else {
        if map.key_size == 0 || map.value_size == 0 {
            return bad("it lacks a key or a value");
        }
        let key = key_type(btf, map);
        let value = value_type(btf, map);
        members.push(("key", btf.ptr(key)));
        members.push(("value", btf.ptr(value)));
    }
    members.push(("max_entries", number(btf, max_entries)));
    if map.flags != 0 {
        members.push(("map_flags", number(btf, map.flags)));
    }
    let fields: Vec<Field<'_>> = members
        .iter()
        .zip((0..).step_by(8))
        .map(|((name, ty), offset)| Field::at_byte(name, *ty, offset))
        .collect();
    let size = fields.len() as u32 * 8;
    Ok((btf.structure("", size, &fields), size))
}

/// Encodes a number as loaders want it: a pointer to an array of so many elements.
fn number(btf: &mut BtfBuilder, value: u32) -> TypeId {
    let array = array_of(btf, INT, value);
    btf.ptr(array)
}

fn key_type(btf: &mut BtfBuilder, map: &MapSpec) -> TypeId {
    match (&map.role, map.kind) {
        (_, MapKind::LpmTrie) if map.key_size > 4 => {
            // The kernel wants a struct here, the prefix length first.
            let prefix_len = bytes_type(btf, 4);
            let data = array_of(btf, UCHAR, map.key_size - 4);
            structure(btf, "", map.key_size, &[("prefixlen", prefix_len, 0), ("data", data, 4)])
        }
        // Arrays must have an integer key.
        (MapRole::User { key: Some(key), .. }, MapKind::Hash | MapKind::PerCpuHash | MapKind::LruHash | MapKind::LruPerCpuHash)
            if key.size() == map.key_size =>
        {
            script_type(btf, key)
        }
        _ => bytes_type(btf, map.key_size),
    }
}

fn value_type(btf: &mut BtfBuilder, map: &MapSpec) -> TypeId {
    match &map.role {
        MapRole::User { key, value, .. } if value.size(key.is_none()) == map.value_size => map_value(btf, value, key.is_none()),
        _ => bytes_type(btf, map.value_size),
    }
}

/// Returns the type of one value of a map of the script.
fn map_value(btf: &mut BtfBuilder, value: &MapValue, scalar: bool) -> TypeId {
    let size = value.size(scalar);
    let word = |signed: bool| if signed { LONG } else { ULONG };
    let two = |btf: &mut BtfBuilder, first: &str, signed: bool| {
        let fields = [(first, int(btf, word(signed)), 0), ("n", int(btf, ULONG), 8)];
        structure(btf, "", 16, &fields)
    };
    match value {
        MapValue::Plain(ty) if scalar => {
            let plain = script_type(btf, ty);
            let assigned = int(btf, ULONG);
            structure(btf, "", size, &[("value", plain, 0), ("assigned", assigned, size - 8)])
        }
        MapValue::Plain(ty) => script_type(btf, ty),
        MapValue::Count => int(btf, ULONG),
        MapValue::Sum { signed } | MapValue::Avg { signed } | MapValue::Stats { signed } => two(btf, "sum", *signed),
        MapValue::Min { signed } => two(btf, "min", *signed),
        MapValue::Max { signed } => two(btf, "max", *signed),
        MapValue::Hist { .. } | MapValue::LHist { .. } | MapValue::TSeries { .. } => {
            let buckets = array_of(btf, ULONG, size / 8);
            structure(btf, "", size, &[("buckets", buckets, 0)])
        }
    }
}

/// Returns the type of a value of the script, laid out as [`Type`] says.
fn script_type(btf: &mut BtfBuilder, ty: &Type) -> TypeId {
    let size = ty.size();
    match ty {
        Type::Bool => btf.int("_Bool", 1, IntEncoding::Bool),
        Type::Int { bits, signed } => int(btf, int_of(u32::from(*bits) / 8, *signed)),
        Type::Str { cap } => array_of(btf, CHAR, *cap),
        Type::Buf { .. } => {
            let fields = [("len", int(btf, UINT), 0), ("data", array_of(btf, UCHAR, size - 4), 4)];
            structure(btf, "weir_buf", size, &fields)
        }
        Type::Inet => {
            let fields = [("family", int(btf, ULONG), 0), ("addr", array_of(btf, UCHAR, 16), 8)];
            structure(btf, "weir_inet", size, &fields)
        }
        Type::Prefix => {
            let fields = [
                ("prefixlen", int(btf, UINT), 0),
                ("family", int(btf, UINT), 4),
                ("addr", array_of(btf, UCHAR, 16), 8),
            ];
            structure(btf, "weir_prefix", size, &fields)
        }
        Type::Mac => {
            let addr = array_of(btf, UCHAR, 6);
            structure(btf, "weir_mac", size, &[("addr", addr, 0)])
        }
        Type::USym => {
            let fields = [("addr", int(btf, ULONG), 0), ("pid", int(btf, UINT), 8)];
            structure(btf, "weir_usym", size, &fields)
        }
        Type::KStack { .. } | Type::UStack { .. } => {
            let fields = [("id", int(btf, INT), 0), ("pid", int(btf, UINT), 4)];
            structure(btf, "weir_stack", size, &fields)
        }
        Type::Flow => {
            let fields = [
                ("saddr", array_of(btf, UCHAR, 16), 0),
                ("daddr", array_of(btf, UCHAR, 16), 16),
                ("sport", int(btf, USHORT), 32),
                ("dport", int(btf, USHORT), 34),
                ("protocol", int(btf, UCHAR), 36),
                ("family", int(btf, UCHAR), 37),
                ("has_ports", int(btf, UCHAR), 38),
            ];
            structure(btf, "weir_flow", size, &fields)
        }
        Type::Enum { .. } => int(btf, LONG),
        Type::Ptr { .. }
        | Type::KSym
        | Type::Username
        | Type::Timestamp { .. }
        | Type::CgroupPath
        | Type::Strerror
        | Type::SignalName
        | Type::SyscallName
        | Type::CommOf => int(btf, ULONG),
        Type::Struct { size, .. } => array_of(btf, UCHAR, *size),
        Type::Tuple(_) | Type::Record(_) => {
            let names: Vec<String> = match ty {
                Type::Record(fields) => fields.iter().map(|(name, _)| name.clone()).collect(),
                _ => (0..ty.fields().len()).map(|i| format!("f{i}")).collect(),
            };
            let types: Vec<TypeId> = ty.fields().into_iter().map(|field| script_type(btf, field)).collect();
            let fields: Vec<(&str, TypeId, u32)> = names
                .iter()
                .zip(types)
                .zip(ty.field_offsets())
                .map(|((name, ty), offset)| (name.as_str(), ty, offset))
                .collect();
            structure(btf, "", size, &fields)
        }
        Type::Array { elem, len } => {
            let elem = script_type(btf, elem);
            let index = btf.int("__ARRAY_SIZE_TYPE__", 4, IntEncoding::Unsigned);
            btf.array(elem, index, *len)
        }
    }
}

/// C name, bytes and sign of an integer type.
type IntType = (&'static str, u32, IntEncoding);

const CHAR: IntType = ("char", 1, IntEncoding::Signed);
const SCHAR: IntType = ("signed char", 1, IntEncoding::Signed);
const UCHAR: IntType = ("unsigned char", 1, IntEncoding::Unsigned);
const SHORT: IntType = ("short", 2, IntEncoding::Signed);
const USHORT: IntType = ("unsigned short", 2, IntEncoding::Unsigned);
const INT: IntType = ("int", 4, IntEncoding::Signed);
const UINT: IntType = ("unsigned int", 4, IntEncoding::Unsigned);
const LONG: IntType = ("long", 8, IntEncoding::Signed);
const ULONG: IntType = ("unsigned long", 8, IntEncoding::Unsigned);

fn int(btf: &mut BtfBuilder, (name, size, encoding): IntType) -> TypeId {
    btf.int(name, size, encoding)
}

fn int_of(size: u32, signed: bool) -> IntType {
    match (size, signed) {
        (1, true) => SCHAR,
        (1, false) => UCHAR,
        (2, true) => SHORT,
        (2, false) => USHORT,
        (4, true) => INT,
        (4, false) => UINT,
        (_, true) => LONG,
        (_, false) => ULONG,
    }
}

/// Returns a type of so many bytes: an integer, or an array of the widest one that divides it.
fn bytes_type(btf: &mut BtfBuilder, size: u32) -> TypeId {
    match size {
        1 | 2 | 4 | 8 => int(btf, int_of(size, false)),
        _ if size.is_multiple_of(8) => array_of(btf, ULONG, size / 8),
        _ if size.is_multiple_of(4) => array_of(btf, UINT, size / 4),
        _ => array_of(btf, UCHAR, size),
    }
}

fn array_of(btf: &mut BtfBuilder, elem: IntType, len: u32) -> TypeId {
    let elem = int(btf, elem);
    let index = btf.int("__ARRAY_SIZE_TYPE__", 4, IntEncoding::Unsigned);
    btf.array(elem, index, len)
}

/// Adds a struct of `(name, type, byte offset)`.
fn structure(btf: &mut BtfBuilder, name: &str, size: u32, fields: &[(&str, TypeId, u32)]) -> TypeId {
    let fields: Vec<Field<'_>> = fields.iter().map(|(name, ty, offset)| Field::at_byte(name, *ty, *offset)).collect();
    btf.structure(name, size, &fields)
}
