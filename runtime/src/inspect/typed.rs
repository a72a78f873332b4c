//! Bytes of anybody's map as values, by the BTF that came with it; plain numbers or hexadecimal where there is none.
//!
//! The structs that weir's own maps have for addresses, prefixes, flows and Ethernet addresses are shown as those.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use weir_compiler::btf::{Btf, BtfType, TypeId};

/// Types inside types; damaged BTF may contain itself.
const MAX_DEPTH: u32 = 32;

/// A value of a map, ready to be shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    /// Text, an enumerator, an address.
    Text(String),
    Struct(Vec<(String, Value)>),
    List(Vec<Value>),
    /// Without a type.
    Bytes(Vec<u8>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Int(n) => write!(f, "{n}"),
            Value::Float(n) => write!(f, "{n}"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Text(text) => f.write_str(text),
            Value::Bytes(bytes) => {
                for (i, byte) in bytes.iter().enumerate() {
                    write!(f, "{}{byte:02x}", if i > 0 { " " } else { "" })?;
                }
                Ok(())
            }
            Value::Struct(fields) if fields.is_empty() => f.write_str("{}"),
            Value::Struct(fields) => {
                f.write_str("{ ")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}.{name} = {value}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(" }")
            }
            Value::List(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Int(n) => match (i64::try_from(*n), u64::try_from(*n)) {
                (Ok(n), _) => serializer.serialize_i64(n),
                (_, Ok(n)) => serializer.serialize_u64(n),
                _ => serializer.serialize_str(&n.to_string()),
            },
            Value::Float(n) => serializer.serialize_f64(*n),
            Value::Bool(b) => serializer.serialize_bool(*b),
            Value::Text(_) | Value::Bytes(_) => serializer.collect_str(self),
            Value::Struct(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
            Value::List(values) => values.serialize(serializer),
        }
    }
}

impl Value {
    /// Finds a number to sort by: the value itself, or a field of that name at any depth, or the sum over CPUs.
    #[must_use]
    pub fn number(&self, field: Option<&str>) -> Option<f64> {
        match (self, field) {
            (Value::Int(n), None) => Some(*n as f64),
            (Value::Float(n), None) => Some(*n),
            (Value::Bool(b), None) => Some(f64::from(u8::from(*b))),
            (Value::Struct(fields), None) => fields.iter().find_map(|(_, v)| v.number(None)),
            (Value::Struct(fields), Some(wanted)) => {
                let (first, rest) = wanted.split_once('.').map_or((wanted, None), |(a, b)| (a, Some(b)));
                let direct = fields.iter().find(|(name, _)| name == first).and_then(|(_, v)| v.number(rest));
                direct.or_else(|| fields.iter().find_map(|(_, v)| v.number(Some(wanted))))
            }
            (Value::List(values), field) => {
                let numbers: Vec<f64> = values.iter().filter_map(|v| v.number(field)).collect();
                (!numbers.is_empty()).then(|| numbers.iter().sum())
            }
            _ => None,
        }
    }

    /// Names the fields that [`Value::number`] takes.
    #[must_use]
    pub fn fields(&self) -> Vec<String> {
        match self {
            Value::Struct(fields) => fields
                .iter()
                .flat_map(|(name, value)| {
                    let inner = value.fields();
                    if inner.is_empty() {
                        vec![name.clone()]
                    } else {
                        inner.into_iter().map(|i| format!("{name}.{i}")).collect()
                    }
                })
                .collect(),
            Value::List(values) => values.first().map(Value::fields).unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}

/// Reads bytes by a type; without one, up to 8 bytes are a number.
#[must_use]
pub fn decode(btf: Option<&Btf>, ty: u32, bytes: &[u8]) -> Value {
    match btf.filter(|_| ty != 0) {
        Some(btf) => Reader { btf }.value(TypeId(ty), "", bytes, 0),
        None if matches!(bytes.len(), 1 | 2 | 4 | 8) => Value::Int(i128::from(unsigned(bytes))),
        None => Value::Bytes(bytes.to_vec()),
    }
}

/// Where in a value the number is that [`Value::number`] would find, for going through a million of them without making values of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    offset: usize,
    size: usize,
    ty: u32,
}

impl Leaf {
    /// Nothing where that depends on the bytes, or there is no number.
    #[must_use]
    pub fn find(btf: Option<&Btf>, ty: u32, size: usize, field: Option<&str>) -> Option<Self> {
        let all = Self { offset: 0, size, ty };
        match btf.filter(|_| ty != 0) {
            Some(btf) => match (Reader { btf }).leaf(all, "", field, 0) {
                Found::At(leaf) => Some(leaf),
                Found::No | Found::Unsure => None,
            },
            None => (field.is_none() && matches!(size, 1 | 2 | 4 | 8)).then_some(all),
        }
    }

    /// The number in a value.
    #[must_use]
    pub fn number(&self, btf: Option<&Btf>, value: &[u8]) -> Option<f64> {
        let bytes = value.get(self.offset..self.offset + self.size)?;
        decode(btf, self.ty, bytes).number(None)
    }
}

enum Found {
    At(Leaf),
    No,
    Unsure,
}

struct Reader<'a> {
    btf: &'a Btf,
}

impl Reader<'_> {
    /// `name` is the field's or typedef's: it tells addresses and ports in network order from plain numbers.
    fn value(&self, ty: TypeId, name: &str, bytes: &[u8], depth: u32) -> Value {
        if depth > MAX_DEPTH {
            return Value::Bytes(bytes.to_vec());
        }
        let raw = || Value::Bytes(bytes.to_vec());
        match self.btf.type_by_id(ty) {
            Some(BtfType::Typedef { name: alias, target }) => match (alias, bytes.len()) {
                ("__be16", 2) => Value::Int(i128::from(u16::from_be_bytes([bytes[0], bytes[1]]))),
                ("__be32", 4) if is_address(name) => v4(bytes),
                ("__be32", 4) => Value::Int(i128::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))),
                _ => self.value(target, name, bytes, depth + 1),
            },
            Some(BtfType::Const(t) | BtfType::Volatile(t) | BtfType::Restrict(t) | BtfType::TypeTag { target: t, .. }) => {
                self.value(t, name, bytes, depth + 1)
            }
            Some(BtfType::Int(int)) => {
                let bytes = &bytes[..bytes.len().min(int.size as usize)];
                match (int.bool, int.signed) {
                    _ if bytes.len() > 16 => raw(),
                    (true, _) => Value::Bool(bytes.iter().any(|b| *b != 0)),
                    (_, true) => Value::Int(signed(bytes)),
                    (_, false) => Value::Int(i128::try_from(wide(bytes)).unwrap_or(i128::MAX)),
                }
            }
            Some(BtfType::Float { .. }) => match bytes.len() {
                4 => Value::Float(f64::from(f32::from_bits(unsigned(bytes) as u32))),
                8 => Value::Float(f64::from_bits(unsigned(bytes))),
                _ => raw(),
            },
            Some(BtfType::Ptr(_)) => Value::Text(format!("{:#x}", unsigned(bytes))),
            Some(BtfType::Enum(info)) => {
                let number = if info.signed { signed(bytes) } else { i128::from(unsigned(bytes)) };
                let found = info.values().find(|e| i128::from(e.value) == number);
                found.map_or(Value::Int(number), |e| Value::Text(e.name.to_owned()))
            }
            Some(BtfType::Array(array)) => self.array(array.elem, array.len as usize, name, bytes, depth),
            Some(BtfType::Struct(composite) | BtfType::Union(composite)) => {
                if let Some(known) = known_struct(composite.name, bytes) {
                    return known;
                }
                let members = composite.members().map(|m| {
                    let value = if m.bitfield_size > 0 {
                        Value::Int(i128::from(bit_field(bytes, m.bit_offset, m.bitfield_size)))
                    } else {
                        let start = (m.bit_offset / 8) as usize;
                        let size = self.btf.size_of(m.ty).unwrap_or(0) as usize;
                        match bytes.get(start..start + size) {
                            Some(part) => self.value(m.ty, m.name, part, depth + 1),
                            None => Value::Bytes(Vec::new()),
                        }
                    };
                    (m.name.to_owned(), value)
                });
                let mut fields = Vec::new();
                for (name, value) in members {
                    match value {
                        // Members of an anonymous struct or union are as if of the outer one.
                        Value::Struct(inner) if name.is_empty() => fields.extend(inner),
                        value => fields.push((name, value)),
                    }
                }
                Value::Struct(fields)
            }
            _ => raw(),
        }
    }

    /// As [`Value::number`] goes through what [`Self::value`] makes.
    fn leaf(&self, at: Leaf, name: &str, field: Option<&str>, depth: u32) -> Found {
        if depth > MAX_DEPTH {
            return Found::Unsure;
        }
        let number = || if field.is_none() { Found::At(at) } else { Found::No };
        match self.btf.type_by_id(TypeId(at.ty)) {
            Some(BtfType::Typedef { name: "__be32", .. }) if at.size == 4 && is_address(name) => Found::No,
            Some(BtfType::Typedef { name: "__be16", .. }) if at.size == 2 => number(),
            Some(BtfType::Typedef { name: "__be32", .. }) if at.size == 4 => number(),
            Some(
                BtfType::Typedef { target: t, .. }
                | BtfType::Const(t)
                | BtfType::Volatile(t)
                | BtfType::Restrict(t)
                | BtfType::TypeTag { target: t, .. },
            ) => self.leaf(Leaf { ty: t.0, ..at }, name, field, depth + 1),
            Some(BtfType::Int(_)) if at.size <= 16 => number(),
            Some(BtfType::Float { .. }) if matches!(at.size, 4 | 8) => number(),
            Some(BtfType::Ptr(_)) => Found::No,
            Some(BtfType::Struct(composite) | BtfType::Union(composite)) => {
                let members: Vec<_> = composite.members().collect();
                let plain = members.iter().all(|m| m.bitfield_size == 0 && !m.name.is_empty());
                if !plain || has_meaning(composite.name) {
                    return Found::Unsure;
                }
                let member = |m: &weir_compiler::btf::Member<'_>, field: Option<&str>| {
                    let inner = Leaf {
                        offset: at.offset + (m.bit_offset / 8) as usize,
                        size: self.btf.size_of(m.ty).unwrap_or(0) as usize,
                        ty: m.ty.0,
                    };
                    if inner.offset + inner.size > at.offset + at.size {
                        return Found::Unsure;
                    }
                    self.leaf(inner, m.name, field, depth + 1)
                };
                if let Some(wanted) = field {
                    let (first, rest) = wanted.split_once('.').map_or((wanted, None), |(a, b)| (a, Some(b)));
                    let direct = members.iter().find(|m| m.name == first).map(|m| member(m, rest));
                    if let Some(found @ (Found::At(_) | Found::Unsure)) = direct {
                        return found;
                    }
                }
                let mut inside = members.iter().map(|m| member(m, field));
                inside.find(|found| !matches!(found, Found::No)).unwrap_or(Found::No)
            }
            _ => Found::Unsure,
        }
    }

    fn array(&self, elem: TypeId, len: usize, name: &str, bytes: &[u8], depth: u32) -> Value {
        let size = self.btf.size_of(elem).unwrap_or(0) as usize;
        if size == 0 || len > 65_536 {
            return Value::Bytes(bytes.to_vec());
        }
        if size == 1 {
            // Text is what is declared as characters, or looks like it to the last byte.
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            let is_text = end > 0 && bytes[..end].iter().all(|b| matches!(b, b' '..=b'~')) && bytes[end..].iter().all(|b| *b == 0);
            return match (bytes.len(), is_address(name)) {
                (4, true) => v4(bytes),
                (16, true) => v6(bytes),
                (6, _) => mac(bytes),
                _ if is_text && self.is_char(elem) => Value::Text(String::from_utf8_lossy(&bytes[..end]).into_owned()),
                _ if self.is_char(elem) && bytes.iter().all(|b| *b == 0) => Value::Text(String::new()),
                _ => Value::Bytes(bytes.to_vec()),
            };
        }
        Value::List(
            bytes
                .chunks_exact(size)
                .take(len)
                .map(|b| self.value(elem, name, b, depth + 1))
                .collect(),
        )
    }

    fn is_char(&self, ty: TypeId) -> bool {
        match self.btf.type_by_id(ty) {
            Some(BtfType::Int(int)) => int.char || int.name == "char",
            Some(BtfType::Const(t) | BtfType::Volatile(t) | BtfType::Typedef { target: t, .. }) => self.is_char(t),
            _ => false,
        }
    }
}

/// Whether [`known_struct`] may know it.
fn has_meaning(name: &str) -> bool {
    matches!(name, "in_addr" | "in6_addr") || name.starts_with("weir_")
}

/// Structs with a meaning of their own: the kernel's addresses, and those of weir's maps.
fn known_struct(name: &str, bytes: &[u8]) -> Option<Value> {
    let family_of = |at: usize| bytes.get(at).copied();
    let addr = |at: usize, family: u8| -> Option<String> {
        match family {
            2 => Some(v4(bytes.get(at..at + 4)?).to_string()),
            10 => Some(v6(bytes.get(at..at + 16)?).to_string()),
            _ => None,
        }
    };
    match name {
        "in_addr" if bytes.len() == 4 => Some(v4(bytes)),
        "in6_addr" if bytes.len() == 16 => Some(v6(bytes)),
        "weir_inet" => Some(Value::Text(addr(8, family_of(0)?)?)),
        "weir_prefix" => Some(Value::Text(format!("{}/{}", addr(8, family_of(4)?)?, unsigned(bytes.get(0..4)?)))),
        "weir_mac" => Some(mac(bytes.get(..6)?)),
        "weir_flow" => {
            let family = family_of(37)?;
            let end = |at: usize, port: usize| -> Option<String> {
                let addr = addr(at, family)?;
                let port = unsigned(bytes.get(port..port + 2)?);
                Some(if family == 10 {
                    format!("[{addr}]:{port}")
                } else {
                    format!("{addr}:{port}")
                })
            };
            Some(Value::Text(format!("{} > {} proto {}", end(0, 32)?, end(16, 34)?, bytes.get(36)?)))
        }
        _ => None,
    }
}

/// Whether a field of this name holds an internet address.
fn is_address(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("addr")
        || name
            .split(['_', '.'])
            .any(|w| matches!(w, "ip" | "ip4" | "ip6" | "ipv4" | "ipv6" | "daddr" | "saddr"))
}

fn v4(bytes: &[u8]) -> Value {
    match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => Value::Text(Ipv4Addr::from(bytes).to_string()),
        Err(_) => Value::Bytes(bytes.to_vec()),
    }
}

fn v6(bytes: &[u8]) -> Value {
    match <[u8; 16]>::try_from(bytes) {
        Ok(bytes) => Value::Text(Ipv6Addr::from(bytes).to_string()),
        Err(_) => Value::Bytes(bytes.to_vec()),
    }
}

fn mac(bytes: &[u8]) -> Value {
    let parts: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Value::Text(parts.join(":"))
}

/// Reads up to 8 bytes, little-endian.
fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn wide(bytes: &[u8]) -> u128 {
    bytes.iter().take(16).rev().fold(0, |n, b| n << 8 | u128::from(*b))
}

fn signed(bytes: &[u8]) -> i128 {
    let bits = bytes.len().min(16) as u32 * 8;
    if bits == 0 || bits == 128 {
        return wide(bytes).cast_signed();
    }
    let shift = 128 - bits;
    (wide(bytes) << shift).cast_signed() >> shift
}

fn bit_field(bytes: &[u8], offset: u32, bits: u32) -> u64 {
    let start = (offset / 8) as usize;
    let word = wide(bytes.get(start..).unwrap_or_default());
    let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
    (word >> (offset % 8)) as u64 & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(signed(&[0xff]), -1);
        assert_eq!(signed(&[0xfe, 0xff, 0xff, 0xff]), -2);
        assert_eq!(bit_field(&[0b1011_0100], 2, 3), 0b101);
        assert_eq!(decode(None, 0, &[1, 0, 0, 0]), Value::Int(1));
        assert_eq!(decode(None, 0, &[1, 2, 3]).to_string(), "01 02 03");
    }

    #[test]
    fn own_structs_are_what_they_mean() {
        let mut inet = 2u64.to_le_bytes().to_vec();
        inet.extend([10, 0, 0, 1]);
        inet.resize(24, 0);
        assert_eq!(known_struct("weir_inet", &inet), Some(Value::Text("10.0.0.1".into())));
        assert_eq!(known_struct("weir_inet", &[0; 24]), None);
        assert_eq!(known_struct("in6_addr", &[0; 16]), Some(Value::Text("::".into())));
    }

    #[test]
    fn fields_are_found_at_any_depth() {
        let value = Value::Struct(vec![
            ("a".into(), Value::Int(1)),
            ("b".into(), Value::Struct(vec![("c".into(), Value::Int(7))])),
        ]);
        assert_eq!(value.number(None), Some(1.0));
        assert_eq!(value.number(Some("c")), Some(7.0));
        assert_eq!(value.number(Some("b.c")), Some(7.0));
        assert_eq!(value.number(Some("d")), None);
        assert_eq!(value.fields(), ["a", "b.c"]);
        let per_cpu = Value::List(vec![value.clone(), value]);
        assert_eq!(per_cpu.number(Some("c")), Some(14.0));
        assert_eq!(
            serde_json::to_string(&per_cpu).unwrap(),
            r#"[{"a":1,"b":{"c":7}},{"a":1,"b":{"c":7}}]"#
        );
    }

    /// The short way to a number is the long one, for whatever the kernel has as types.
    #[test]
    fn a_leaf_is_the_number_of_the_whole_value() {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let btf = Btf::from_bytes(bytes).unwrap();
        let structs = btf
            .ids()
            .filter(|id| matches!(btf.type_by_id(*id), Some(BtfType::Struct(_) | BtfType::Int(_))));
        let (mut leaves, mut asked) = (0, 0);
        for ty in structs.step_by(7).take(2000) {
            let size = btf.size_of(ty).unwrap_or(0) as usize;
            if size == 0 || size > 512 {
                continue;
            }
            let bytes: Vec<u8> = (0..size).map(|i| (i * 37 + 11) as u8).collect();
            let value = decode(Some(&btf), ty.0, &bytes);
            let fields = value.fields();
            let fields = fields.iter().flat_map(|f| [f.as_str(), f.rsplit('.').next().unwrap_or(f)]).take(20);
            for field in [None, Some("no_such_field")].into_iter().chain(fields.map(Some)) {
                asked += 1;
                let Some(leaf) = Leaf::find(Some(&btf), ty.0, size, field) else {
                    continue;
                };
                leaves += 1;
                assert_eq!(leaf.number(Some(&btf), &bytes), value.number(field), "{field:?} of {value:?}");
            }
        }
        assert!(leaves > 500 && asked > leaves, "{leaves} of {asked}");
        assert_eq!(
            Leaf::find(None, 0, 8, None).and_then(|l| l.number(None, &[2, 1, 0, 0, 0, 0, 0, 0])),
            Some(258.0)
        );
        assert_eq!(Leaf::find(None, 0, 8, Some("x")), None);
    }

    #[test]
    fn names_of_addresses() {
        for name in ["saddr", "ip", "remote_ip4", "dst_addr"] {
            assert!(is_address(name), "{name}");
        }
        for name in ["zip", "skip", "count", "description"] {
            assert!(!is_address(name), "{name}");
        }
    }
}
