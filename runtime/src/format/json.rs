//! One value to JSON, in the spelling of bpftrace: `", "` and `": "` in objects, no blanks in arrays.

use super::value::{self, Spacing, slice};
use super::{Context, sint, uint};
use std::io::Write;
use weir_compiler::types::Type;

/// Appends a string with its quotes.
pub fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..='\x1f' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => {
                let _ = write!(out, "{c}");
            }
        }
    }
    out.push(b'"');
}

/// Appends bytes as a string; what is not UTF-8 becomes U+FFFD.
pub fn bytes(text: &[u8], out: &mut Vec<u8>) {
    string(&String::from_utf8_lossy(text), out);
}

/// Appends an integer; in quotes when a double cannot hold it.
pub fn integer(v: i128, out: &mut Vec<u8>) {
    let exact = v as f64 as i128 == v;
    let _ = if exact { write!(out, "{v}") } else { write!(out, "\"{v}\"") };
}

/// Appends a value.
pub fn value(ty: &Type, data: &[u8], ctx: &Context, out: &mut Vec<u8>) {
    match ty {
        Type::Bool => out.extend_from_slice(if uint(data) != 0 { b"true" } else { b"false" }),
        Type::Int { signed: true, .. } | Type::Enum { .. } => integer(i128::from(sint(data)), out),
        Type::Int { signed: false, .. } => integer(i128::from(uint(data)), out),
        Type::Buf { .. } => array(value::buffer(data).iter(), out, |b, out| integer(i128::from(*b), out)),
        Type::Tuple(_) => {
            let fields = ty.fields();
            array(fields.iter().zip(ty.field_offsets()), out, |(field, offset), out| {
                value(field, slice(data, offset, field.size()), ctx, out);
            });
        }
        Type::Record(fields) => {
            out.push(b'{');
            for (i, ((name, field), offset)) in fields.iter().zip(ty.field_offsets()).enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                string(name, out);
                out.extend_from_slice(b": ");
                value(field, slice(data, offset, field.size()), ctx, out);
            }
            out.push(b'}');
        }
        Type::Struct { fields, .. } => {
            out.push(b'{');
            for (i, field) in fields.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                string(&field.name, out);
                out.extend_from_slice(b": ");
                let (ty, bytes) = value::member(field, data);
                value(&ty, &bytes, ctx, out);
            }
            out.push(b'}');
        }
        Type::Array { elem, len } => {
            array(0..*len, out, |i, out| {
                value(elem, slice(data, i * elem.size(), elem.size()), ctx, out)
            });
        }
        Type::Ptr { .. } => integer(super::uint(data).into(), out),
        // Names, stacks, times: their text.
        _ => {
            let mut text = Vec::new();
            value::text(ty, data, ctx, &mut text);
            bytes(&text, out);
        }
    }
}

/// Appends the key of a map as an object's key.
pub fn key(ty: &Type, data: &[u8], ctx: &Context, out: &mut Vec<u8>) {
    let mut text = Vec::new();
    value::key_text(ty, data, ctx, Spacing::Compact, &mut text);
    bytes(&text, out);
}

fn array<T>(items: impl Iterator<Item = T>, out: &mut Vec<u8>, mut each: impl FnMut(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        each(item, out);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(ty: &Type, data: &[u8]) -> String {
        let mut out = Vec::new();
        value(ty, data, &Context::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn integers_that_a_double_cannot_hold_are_strings() {
        assert_eq!(show(&Type::I64, &5i64.to_le_bytes()), "5");
        assert_eq!(show(&Type::U64, &u64::MAX.to_le_bytes()), "\"18446744073709551615\"");
        assert_eq!(show(&Type::U64, &(1u64 << 53).to_le_bytes()), "9007199254740992");
        assert_eq!(show(&Type::U64, &((1u64 << 53) + 1).to_le_bytes()), "\"9007199254740993\"");
    }

    #[test]
    fn composites_and_escapes() {
        let tuple = Type::Tuple(vec![Type::I64, Type::I64, Type::Str { cap: 8 }]);
        let data = [&1i64.to_le_bytes()[..], &2i64.to_le_bytes(), b"string\0\0"].concat();
        assert_eq!(show(&tuple, &data), r#"[1,2,"string"]"#);
        let record = Type::Record(vec![
            ("a".into(), Type::I64),
            (
                "d".into(),
                Type::Array {
                    elem: Box::new(Type::I64),
                    len: 1,
                },
            ),
        ]);
        assert_eq!(show(&record, &data), r#"{"a": 1, "d": [2]}"#);
        assert_eq!(
            show(&Type::Str { cap: 8 }, b"a\"\\\n\x01\xff\0\0"),
            "\"a\\\"\\\\\\n\\u0001\u{fffd}\""
        );
        let buf = [&2u32.to_le_bytes()[..], &[7, 255, 0, 0]].concat();
        assert_eq!(show(&Type::Buf { cap: 4 }, &buf), "[7,255]");
        let ty = Type::Enum {
            name: "e".into(),
            values: vec![("A".into(), 1)],
        };
        assert_eq!(show(&ty, &1i64.to_le_bytes()), "1");
    }
}
