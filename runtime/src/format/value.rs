//! One value to text, and the order of values.

use super::{Context, sint, uint};
use crate::symbols::Frame;
use std::cmp::Ordering;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use weir_compiler::types::{StackMode, StructField, Type};

const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;

/// How tuples and records are separated: `(1, abc)` or, in JSON keys, `(1,abc)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    Spaced,
    Compact,
}

/// Appends the text of a value, as `print` shows it.
pub fn text(ty: &Type, bytes: &[u8], ctx: &Context, out: &mut Vec<u8>) {
    write_value(ty, bytes, ctx, Spacing::Spaced, out);
}

/// Appends the text of a map's key: a tuple loses its parentheses.
pub fn key_text(ty: &Type, bytes: &[u8], ctx: &Context, spacing: Spacing, out: &mut Vec<u8>) {
    match ty {
        Type::Tuple(_) => write_fields(ty, bytes, ctx, spacing, out),
        _ => write_value(ty, bytes, ctx, spacing, out),
    }
}

fn separator(spacing: Spacing) -> &'static [u8] {
    if spacing == Spacing::Spaced { b", " } else { b"," }
}

fn write_fields(ty: &Type, bytes: &[u8], ctx: &Context, spacing: Spacing, out: &mut Vec<u8>) {
    for (i, (field, offset)) in ty.fields().into_iter().zip(ty.field_offsets()).enumerate() {
        if i > 0 {
            out.extend_from_slice(separator(spacing));
        }
        write_value(field, slice(bytes, offset, field.size()), ctx, spacing, out);
    }
}

/// Cuts a field out of a value; what is missing reads as nothing.
pub(super) fn slice(bytes: &[u8], offset: u32, size: u32) -> &[u8] {
    let start = (offset as usize).min(bytes.len());
    let end = (offset as usize).saturating_add(size as usize).min(bytes.len());
    &bytes[start..end]
}

/// Appends formatted text. Writing to a `Vec` cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {{
        let _ = write!($out, $($arg)*);
    }};
}

fn write_value(ty: &Type, bytes: &[u8], ctx: &Context, spacing: Spacing, out: &mut Vec<u8>) {
    match ty {
        Type::Bool => out.extend_from_slice(if uint(bytes) != 0 { b"true" } else { b"false" }),
        Type::Int { signed: true, .. } => put!(out, "{}", sint(bytes)),
        Type::Int { signed: false, .. } => put!(out, "{}", uint(bytes)),
        Type::Str { .. } if ctx.escapes => escape(&string(bytes, ctx), out),
        Type::CommOf if ctx.escapes => escape(&comm_of(uint(bytes)), out),
        Type::Str { .. } => out.extend_from_slice(&string(bytes, ctx)),
        Type::Buf { .. } => hex(buffer(bytes), true, true, out),
        Type::Inet => put!(out, "{}", inet(uint(slice(bytes, 0, 8)), slice(bytes, 8, 16))),
        Type::Prefix => {
            let family = uint(slice(bytes, 4, 4));
            put!(out, "{}/{}", inet(family, slice(bytes, 8, 16)), uint(slice(bytes, 0, 4)));
        }
        Type::Mac => {
            for (i, byte) in bytes.iter().take(6).enumerate() {
                put!(out, "{}{byte:02X}", if i > 0 { ":" } else { "" });
            }
        }
        Type::Ptr { .. } => put!(out, "0x{:x}", uint(bytes)),
        // As bpftrace shows an address of none.
        Type::USym | Type::KSym if uint(slice(bytes, 0, 8)) == 0 => out.push(b'0'),
        Type::USym => {
            let pid = uint(slice(bytes, 8, 4)) as u32;
            out.extend_from_slice(ctx.symbols.usym(pid, uint(slice(bytes, 0, 8)), StackMode::Raw).as_bytes());
        }
        Type::Enum { values, .. } => match enum_name(values, sint(bytes)) {
            Some(name) => out.extend_from_slice(name.as_bytes()),
            None => put!(out, "{}", sint(bytes)),
        },
        Type::KSym => out.extend_from_slice(ctx.symbols.ksym(uint(bytes), false).as_bytes()),
        Type::KStack { depth, mode } => stack(bytes, *depth, (*mode, true), ctx, spacing, out),
        Type::UStack { depth, mode } => stack(bytes, *depth, (*mode, false), ctx, spacing, out),
        Type::Username => out.extend_from_slice(ctx.symbols.username(uint(bytes)).as_bytes()),
        Type::Timestamp { format } => {
            let ns = ctx.symbols.boot_to_realtime(uint(bytes));
            out.extend_from_slice(&super::time::strftime(format, ns));
        }
        Type::CgroupPath => out.extend_from_slice(ctx.symbols.cgroup_path(uint(bytes)).as_bytes()),
        Type::Strerror => {
            let code = i32::try_from(sint(bytes).abs()).unwrap_or(0);
            let text = std::io::Error::from_raw_os_error(code).to_string();
            // The standard library adds ` (os error N)`, the C library the number to what it does not know.
            let text = text.split(" (os error").next().unwrap_or_default();
            let text = if text.starts_with("Unknown error") { "Unknown error" } else { text };
            out.extend_from_slice(text.as_bytes());
        }
        Type::SignalName => out.extend_from_slice(signal_name(uint(bytes)).as_bytes()),
        Type::SyscallName => {
            let name = super::syscalls::syscall_name(uint(bytes)).unwrap_or("Unknown syscall");
            out.extend_from_slice(name.as_bytes());
        }
        Type::CommOf => out.extend_from_slice(&comm_of(uint(bytes))),
        Type::Flow => flow(bytes, out),
        Type::Tuple(_) => {
            out.push(b'(');
            write_fields(ty, bytes, ctx, spacing, out);
            out.push(b')');
        }
        Type::Record(fields) if fields.is_empty() => out.extend_from_slice(b"{}"),
        Type::Record(fields) => {
            let (open, equals, close): (&[u8], &[u8], &[u8]) = if spacing == Spacing::Spaced {
                (b"{ ", b" = ", b" }")
            } else {
                (b"{", b"=", b"}")
            };
            out.extend_from_slice(open);
            for (i, ((name, field), offset)) in fields.iter().zip(ty.field_offsets()).enumerate() {
                if i > 0 {
                    out.extend_from_slice(separator(spacing));
                }
                put!(out, ".{name}");
                out.extend_from_slice(equals);
                write_value(field, slice(bytes, offset, field.size()), ctx, spacing, out);
            }
            out.extend_from_slice(close);
        }
        Type::Struct { fields, .. } => {
            let (open, equals, close): (&[u8], &[u8], &[u8]) = if spacing == Spacing::Spaced {
                (b"{ ", b" = ", b" }")
            } else {
                (b"{", b"=", b"}")
            };
            if fields.is_empty() {
                return out.extend_from_slice(b"{}");
            }
            out.extend_from_slice(open);
            for (i, field) in fields.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(separator(spacing));
                }
                put!(out, ".{}", field.name);
                out.extend_from_slice(equals);
                let (ty, bytes) = member(field, bytes);
                write_value(&ty, &bytes, ctx, spacing, out);
            }
            out.extend_from_slice(close);
        }
        Type::Array { elem, len } => {
            out.push(b'[');
            for i in 0..*len {
                if i > 0 {
                    out.push(b',');
                }
                write_value(elem, slice(bytes, i * elem.size(), elem.size()), ctx, spacing, out);
            }
            out.push(b']');
        }
    }
}

/// Returns a member of a struct as a value of its own: a bitfield is cut out, a short enumeration is widened.
pub(super) fn member<'b>(field: &StructField, bytes: &'b [u8]) -> (Type, std::borrow::Cow<'b, [u8]>) {
    let bytes = slice(bytes, field.offset, field.size);
    let signed = matches!(field.ty, Type::Int { signed: true, .. } | Type::Enum { .. });
    let number = |n: i64| n.to_le_bytes().to_vec().into();
    let wide = match &field.ty {
        Type::Int { signed, .. } => Type::Int { bits: 64, signed: *signed },
        other => other.clone(),
    };
    match field.bits {
        Some((shift, width)) => {
            let n = uint(bytes) << (64 - u32::from(shift) - u32::from(width)).min(63);
            let by = (64 - u32::from(width)).min(63);
            let n = if signed { n.cast_signed() >> by } else { (n >> by).cast_signed() };
            (wide, number(n))
        }
        None if matches!(field.ty, Type::Enum { .. }) && bytes.len() < 8 => (wide, number(sint(bytes))),
        None => (field.ty.clone(), bytes.into()),
    }
}

/// What the C library says of signals, from 1.
const SIGNALS: &[&str] = &[
    "Hangup",
    "Interrupt",
    "Quit",
    "Illegal instruction",
    "Trace/breakpoint trap",
    "Aborted",
    "Bus error",
    "Floating point exception",
    "Killed",
    "User defined signal 1",
    "Segmentation fault",
    "User defined signal 2",
    "Broken pipe",
    "Alarm clock",
    "Terminated",
    "Stack fault",
    "Child exited",
    "Continued",
    "Stopped (signal)",
    "Stopped",
    "Stopped (tty input)",
    "Stopped (tty output)",
    "Urgent I/O condition",
    "CPU time limit exceeded",
    "File size limit exceeded",
    "Virtual timer expired",
    "Profiling timer expired",
    "Window changed",
    "I/O possible",
    "Power failure",
    "Bad system call",
];
/// The first that the C library leaves to programs, and the last one of the kernel.
const REAL_TIME: std::ops::RangeInclusive<u64> = 34..=64;

/// Returns a signal in words, those of the C library, as bpftrace does.
fn signal_name(number: u64) -> std::borrow::Cow<'static, str> {
    let known = number.checked_sub(1).and_then(|n| SIGNALS.get(usize::try_from(n).ok()?));
    match known {
        Some(words) => (*words).into(),
        None if REAL_TIME.contains(&number) => format!("Real-time signal {}", number - REAL_TIME.start()).into(),
        None if number < *REAL_TIME.end() => format!("Unknown signal {number}").into(),
        None => "N/A".into(),
    }
}

/// Returns the name that a process has now, nothing where it is gone.
fn comm_of(pid: u64) -> Vec<u8> {
    let mut name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    name
}

/// Returns the text of a string, with the trailer when it was cut off.
#[must_use]
pub fn string(bytes: &[u8], ctx: &Context) -> Vec<u8> {
    // `str` has room for one byte more than it may read, so that what it cut off shows.
    let longest = (ctx.max_strlen as usize, (ctx.max_strlen as usize + 1).next_multiple_of(8));
    match bytes.iter().position(|b| *b == 0) {
        Some(end) if (end, bytes.len()) != longest => bytes[..end].to_vec(),
        Some(end) => [&bytes[..end], ctx.trunc_trailer.as_bytes()].concat(),
        None => [bytes, ctx.trunc_trailer.as_bytes()].concat(),
    }
}

/// Appends text for a terminal: line breaks and tabs as they are, other control characters as `\x1b`.
pub fn escape(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'\n' | b'\t' => out.push(*byte),
            0..=0x1f | 0x7f => put!(out, "\\x{byte:02x}"),
            _ => out.push(*byte),
        }
    }
}

/// Returns the content of a buffer.
#[must_use]
pub fn buffer(bytes: &[u8]) -> &[u8] {
    slice(bytes, 4, u32::try_from(uint(slice(bytes, 0, 4))).unwrap_or(u32::MAX))
}

/// Appends bytes as hexadecimal: `\x01` each, or `01 02` when not `escape`; with `ascii`, printable ones as they are.
pub fn hex(bytes: &[u8], ascii: bool, escape: bool, out: &mut Vec<u8>) {
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b' '..=b'~' if ascii => out.push(*byte),
            _ if escape => put!(out, "\\x{byte:02x}"),
            _ if i > 0 => put!(out, " {byte:02x}"),
            _ => put!(out, "{byte:02x}"),
        }
    }
}

/// Finds the enumerator of a value.
#[must_use]
pub fn enum_name(values: &[(String, i64)], value: i64) -> Option<&str> {
    values.iter().find(|(_, v)| *v == value).map(|(name, _)| name.as_str())
}

fn inet(family: u64, addr: &[u8]) -> String {
    match family {
        AF_INET => <[u8; 4]>::try_from(slice(addr, 0, 4)).map_or_else(|_| String::new(), |a| Ipv4Addr::from(a).to_string()),
        AF_INET6 => <[u8; 16]>::try_from(addr).map_or_else(|_| String::new(), |a| Ipv6Addr::from(a).to_string()),
        // Never set, or not an internet address.
        _ => String::new(),
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        2 => "igmp".to_owned(),
        4 => "ipip".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        41 => "ipv6".to_owned(),
        47 => "gre".to_owned(),
        50 => "esp".to_owned(),
        51 => "ah".to_owned(),
        58 => "icmp6".to_owned(),
        132 => "sctp".to_owned(),
        other => format!("proto {other}"),
    }
}

/// `10.0.0.1:443 > 10.0.0.2:5555 tcp`, `[2001:db8::1]:443 > …`
fn flow(bytes: &[u8], out: &mut Vec<u8>) {
    let byte = |at: u32| uint(slice(bytes, at, 1));
    let family = byte(37);
    let ports = byte(38) == 1;
    let end = |addr_at: u32, port_at: u32| {
        let addr = inet(family, slice(bytes, addr_at, 16));
        let port = uint(slice(bytes, port_at, 2));
        match (ports, family) {
            (true, AF_INET6) => format!("[{addr}]:{port}"),
            (true, _) => format!("{addr}:{port}"),
            (false, _) => addr,
        }
    };
    put!(out, "{} > {} {}", end(0, 32), end(16, 34), protocol(byte(36) as u8));
}

/// A stack is a line for each frame, with a line break before and after. In keys of JSON bpftrace does not indent.
fn stack(bytes: &[u8], depth: u32, (mode, kernel): (StackMode, bool), ctx: &Context, spacing: Spacing, out: &mut Vec<u8>) {
    let indent = if spacing == Spacing::Spaced { "        " } else { "" };
    out.push(b'\n');
    let (id, pid) = (uint(slice(bytes, 0, 4)) as u32, uint(slice(bytes, 4, 4)) as u32);
    if mode == StackMode::BuildId {
        for frame in ctx.symbols.build_ids(id, depth).unwrap_or_default() {
            match frame {
                Frame::File(build_id, offset) => put!(out, "{build_id} 0x{offset:x}\n"),
                Frame::Address(addr) => put!(out, "{addr:x}\n"),
            }
        }
        return;
    }
    for addr in ctx.symbols.stack(id, depth).unwrap_or_default() {
        match (mode, kernel) {
            (StackMode::Raw | StackMode::BuildId, _) => put!(out, "{addr:x}\n"),
            (StackMode::Bpftrace, true) => put!(out, "{indent}{}\n", ctx.symbols.ksym(addr, true)),
            (StackMode::Perf, true) => put!(out, "\t{addr:x} {}\n", ctx.symbols.ksym(addr, true)),
            (StackMode::Bpftrace, false) => put!(out, "{indent}{}\n", ctx.symbols.usym(pid, addr, mode)),
            (StackMode::Perf, false) => put!(out, "\t{addr:x} {}\n", ctx.symbols.usym(pid, addr, mode)),
        }
    }
}

/// Orders two values of one type: numbers by value, strings by their bytes, tuples field by field.
#[must_use]
pub fn compare(ty: &Type, a: &[u8], b: &[u8]) -> Ordering {
    match ty {
        Type::Int { signed: true, .. } | Type::Enum { .. } => sint(a).cmp(&sint(b)),
        Type::Int { signed: false, .. }
        | Type::Ptr { .. }
        | Type::KSym
        | Type::Username
        | Type::Timestamp { .. }
        | Type::CgroupPath
        | Type::SignalName
        | Type::SyscallName
        | Type::CommOf
        | Type::Strerror => uint(a).cmp(&uint(b)),
        Type::Prefix => {
            // Family, then address, then length: as in a routing table.
            (slice(a, 4, 20), uint(slice(a, 0, 4))).cmp(&(slice(b, 4, 20), uint(slice(b, 0, 4))))
        }
        Type::Str { .. } => {
            let text = |s: &[u8]| s.iter().position(|c| *c == 0).unwrap_or(s.len());
            a[..text(a)].cmp(&b[..text(b)])
        }
        Type::Tuple(_) | Type::Record(_) => ty
            .fields()
            .into_iter()
            .zip(ty.field_offsets())
            .map(|(field, offset)| compare(field, slice(a, offset, field.size()), slice(b, offset, field.size())))
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal),
        Type::Struct { fields, .. } => fields
            .iter()
            .map(|field| {
                let ((ty, x), (_, y)) = (member(field, a), member(field, b));
                compare(&ty, &x, &y)
            })
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal),
        Type::Array { elem, len } => (0..*len)
            .map(|i| compare(elem, slice(a, i * elem.size(), elem.size()), slice(b, i * elem.size(), elem.size())))
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal),
        _ => a.cmp(b),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn show(ty: &Type, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        text(ty, bytes, &Context::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    pub fn str_type(cap: u32) -> Type {
        Type::Str { cap }
    }

    #[test]
    fn scalars() {
        assert_eq!(show(&Type::Bool, &[1]), "true");
        assert_eq!(show(&Type::Int { bits: 8, signed: true }, &[0xff]), "-1");
        assert_eq!(show(&Type::Int { bits: 16, signed: false }, &[0xff, 0xff]), "65535");
        assert_eq!(show(&Type::I64, &(-5i64).to_le_bytes()), "-5");
        assert_eq!(
            show(
                &Type::Ptr {
                    pointee: "struct sock".into()
                },
                &0xffff_8880_u64.to_le_bytes()
            ),
            "0xffff8880"
        );
        assert_eq!(show(&Type::Mac, &[0x18, 0xc0, 0x4d, 0, 0xaa, 1, 0, 0]), "18:C0:4D:00:AA:01");
        assert_eq!(show(&Type::Strerror, &13u64.to_le_bytes()), "Permission denied");
    }

    #[test]
    fn strings_and_buffers() {
        assert_eq!(show(&str_type(8), b"abc\0xxxx"), "abc");
        assert_eq!(show(&str_type(3), b"abc"), "abc..");
        let mut buf = 3u32.to_le_bytes().to_vec();
        buf.extend(b"a\x01b\0");
        assert_eq!(show(&Type::Buf { cap: 4 }, &buf), "a\\x01b");
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        let text = b"a\x1b[31m\tb\x07\n\x7f\xc3\xa4\0";
        let mut out = Vec::new();
        let ctx = Context {
            escapes: true,
            ..Context::default()
        };
        super::text(&str_type(24), text, &ctx, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a\\x1b[31m\tb\\x07\n\\x7f\u{e4}");
        // Elsewhere the bytes are left alone.
        let mut out = Vec::new();
        super::text(&str_type(24), text, &Context::default(), &mut out);
        assert_eq!(out, &text[..text.len() - 1]);
    }

    #[test]
    fn text_that_str_cut_off_has_the_trailer() {
        let ctx = Context {
            max_strlen: 5,
            ..Context::default()
        };
        assert_eq!(string(b"hello\0\0\0", &ctx), b"hello..");
        assert_eq!(string(b"hell\0\0\0\0", &ctx), b"hell");
        // A literal that happens to be as long has other room.
        assert_eq!(string(b"hello\0\0\0\0\0\0\0\0\0\0\0", &ctx), b"hello");
    }

    #[test]
    fn addresses() {
        let mut v4 = 2u64.to_le_bytes().to_vec();
        v4.extend([10, 0, 0, 1]);
        v4.resize(24, 0);
        assert_eq!(show(&Type::Inet, &v4), "10.0.0.1");
        let mut v6 = 10u64.to_le_bytes().to_vec();
        v6.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(show(&Type::Inet, &v6), "2001:db8::1");
        let mut prefix = 8u32.to_le_bytes().to_vec();
        prefix.extend(2u32.to_le_bytes());
        prefix.extend([10, 0, 0, 0]);
        prefix.resize(24, 0);
        assert_eq!(show(&Type::Prefix, &prefix), "10.0.0.0/8");
    }

    #[test]
    fn flows_with_and_without_ports() {
        let mut f = vec![0u8; 40];
        f[..4].copy_from_slice(&[10, 0, 0, 1]);
        f[16..20].copy_from_slice(&[10, 0, 0, 2]);
        f[32..34].copy_from_slice(&443u16.to_le_bytes());
        f[34..36].copy_from_slice(&5555u16.to_le_bytes());
        f[36..39].copy_from_slice(&[6, 2, 1]);
        assert_eq!(show(&Type::Flow, &f), "10.0.0.1:443 > 10.0.0.2:5555 tcp");
        f[36] = 1;
        f[38] = 0;
        assert_eq!(show(&Type::Flow, &f), "10.0.0.1 > 10.0.0.2 icmp");
        f[36..39].copy_from_slice(&[17, 10, 1]);
        assert_eq!(show(&Type::Flow, &f), "[a00:1::]:443 > [a00:2::]:5555 udp");
    }

    #[test]
    fn composites() {
        let tuple = Type::Tuple(vec![Type::I64, str_type(8)]);
        let mut bytes = 1i64.to_le_bytes().to_vec();
        bytes.extend(b"abc\0\0\0\0\0");
        assert_eq!(show(&tuple, &bytes), "(1, abc)");
        let record = Type::Record(vec![("a".into(), Type::I64), ("b".into(), str_type(8))]);
        assert_eq!(show(&record, &bytes), "{ .a = 1, .b = abc }");
        assert_eq!(show(&Type::Record(vec![]), &[]), "{}");
        let array = Type::Array {
            elem: Box::new(Type::Int { bits: 8, signed: false }),
            len: 3,
        };
        assert_eq!(show(&array, &[1, 2, 3]), "[1,2,3]");
        let mut key = Vec::new();
        key_text(&tuple, &bytes, &Context::default(), Spacing::Spaced, &mut key);
        assert_eq!(key, b"1, abc");
        key.clear();
        key_text(&tuple, &bytes, &Context::default(), Spacing::Compact, &mut key);
        assert_eq!(key, b"1,abc");
    }

    #[test]
    fn enums_by_name_or_number() {
        let ty = Type::Enum {
            name: "e".into(),
            values: vec![("A".into(), 1)],
        };
        assert_eq!(show(&ty, &1i64.to_le_bytes()), "A");
        assert_eq!(show(&ty, &7i64.to_le_bytes()), "7");
    }

    #[test]
    fn cut_off_bytes_are_not_a_panic() {
        for ty in [
            Type::Inet,
            Type::Flow,
            Type::Prefix,
            Type::Mac,
            Type::Buf { cap: 9 },
            Type::Tuple(vec![Type::I64, Type::Inet]),
        ] {
            show(&ty, &[]);
            show(&ty, &[1, 2, 3]);
        }
    }

    #[test]
    fn order_of_values() {
        assert_eq!(compare(&Type::I64, &(-1i64).to_le_bytes(), &1i64.to_le_bytes()), Ordering::Less);
        assert_eq!(compare(&Type::U64, &(-1i64).to_le_bytes(), &1i64.to_le_bytes()), Ordering::Greater);
        assert_eq!(compare(&str_type(4), b"ab\0z", b"ab\0a"), Ordering::Equal);
        assert_eq!(compare(&str_type(4), b"ab\0z", b"abc\0"), Ordering::Less);
    }
}
