//! `printf`: C's conversions over typed values.

use super::value::{self, slice};
use super::{Context, gfp, sint, uint};
use weir_compiler::object::{EventField, FormatPart, FormatSpec};
use weir_compiler::types::Type;

/// Appends the formatted text of one `printf` record.
pub fn printf(format: &[FormatPart], args: &[EventField], record: &[u8], ctx: &Context, out: &mut Vec<u8>) {
    let mut args = args.iter().map(|arg| (&arg.ty, slice(record, arg.offset, arg.ty.size())));
    for part in format {
        match part {
            FormatPart::Text(text) => out.extend_from_slice(text.as_bytes()),
            FormatPart::Arg(spec) if spec.width_arg || spec.precision_arg => {
                let mut spec = spec.clone();
                let mut star = |wanted: bool| wanted.then(|| args.next()).flatten().map(|(ty, bytes)| integer(ty, bytes));
                if let Some(width) = star(spec.width_arg) {
                    // As in C, a width below zero says `-`.
                    spec.minus |= width < 0;
                    spec.width = Some(columns(width.abs()));
                }
                if let Some(precision) = star(spec.precision_arg) {
                    spec.precision = (precision >= 0).then(|| columns(precision));
                }
                if let Some((ty, bytes)) = args.next() {
                    convert(&spec, ty, bytes, ctx, out);
                }
            }
            FormatPart::Arg(spec) => {
                if let Some((ty, bytes)) = args.next() {
                    convert(spec, ty, bytes, ctx, out);
                }
            }
        }
    }
}

/// A width that was measured: no line gets longer than what a format can say itself.
fn columns(n: i128) -> u32 {
    u32::try_from(n).unwrap_or(MAX_COLUMNS).min(MAX_COLUMNS)
}

const MAX_COLUMNS: u32 = 4096;

/// Reads what an integer conversion prints.
fn integer(ty: &Type, bytes: &[u8]) -> i128 {
    match ty {
        Type::Int { signed: true, .. } | Type::Enum { .. } => i128::from(sint(bytes)),
        _ => i128::from(uint(slice(bytes, 0, 8))),
    }
}

/// The bits that the conversion prints, without sign.
fn low_bits(spec: &FormatSpec, v: i128) -> u64 {
    v as u64 & (u64::MAX >> (64 - spec.bits.unwrap_or(64).clamp(1, 64)))
}

/// The same, read with a sign. As C reads 64 bits: an unsigned value above the signed range prints negative.
fn signed(spec: &FormatSpec, v: i128) -> i128 {
    let unused = 64 - spec.bits.unwrap_or(64).clamp(1, 64);
    i128::from((v as i64) << unused >> unused)
}

fn convert(spec: &FormatSpec, ty: &Type, bytes: &[u8], ctx: &Context, out: &mut Vec<u8>) {
    match spec.conv {
        'd' | 'i' => {
            let v = signed(spec, integer(ty, bytes));
            number(spec, v < 0, v.unsigned_abs().to_string(), "", out);
        }
        'u' => number(spec, false, low_bits(spec, integer(ty, bytes)).to_string(), "", out),
        'o' => {
            let digits = format!("{:o}", low_bits(spec, integer(ty, bytes)));
            number(spec, false, digits, if spec.alt { "0" } else { "" }, out);
        }
        'x' => {
            let v = low_bits(spec, integer(ty, bytes));
            number(spec, false, format!("{v:x}"), if spec.alt && v != 0 { "0x" } else { "" }, out);
        }
        'X' => {
            let v = low_bits(spec, integer(ty, bytes));
            number(spec, false, format!("{v:X}"), if spec.alt && v != 0 { "0X" } else { "" }, out);
        }
        'g' => pad(spec, gfp::names(integer(ty, bytes) as u64).as_bytes(), out),
        'p' => number(
            &FormatSpec {
                zero: false,
                ..spec.clone()
            },
            false,
            format!("{:x}", integer(ty, bytes) as u64),
            // As bpftrace has it; the pointers of `print` are another matter.
            if integer(ty, bytes) == 0 { "" } else { "0x" },
            out,
        ),
        'c' => pad(spec, &[integer(ty, bytes) as u8], out),
        'r' => {
            let mut text = Vec::new();
            let data = if matches!(ty, Type::Buf { .. }) {
                value::buffer(bytes)
            } else {
                bytes
            };
            match spec.conv2 {
                Some('x') => value::hex(data, false, true, &mut text),
                Some('h') => value::hex(data, false, false, &mut text),
                _ => value::hex(data, true, true, &mut text),
            }
            pad(spec, &text, out);
        }
        // `%s` and whatever else the compiler lets through: the value as `print` shows it.
        _ => {
            let mut text = Vec::new();
            value::text(ty, bytes, ctx, &mut text);
            if let Some(precision) = spec.precision {
                text.truncate(precision as usize);
            }
            pad(spec, &text, out);
        }
    }
}

/// Appends a number with sign, prefix, precision, padding.
fn number(spec: &FormatSpec, negative: bool, mut digits: String, prefix: &str, out: &mut Vec<u8>) {
    let signed = matches!(spec.conv, 'd' | 'i');
    let sign = match negative {
        true => "-",
        false if signed && spec.plus => "+",
        false if signed && spec.space => " ",
        false => "",
    };
    if let Some(precision) = spec.precision {
        let precision = precision as usize;
        if precision == 0 && digits == "0" {
            digits.clear();
        }
        digits = "0".repeat(precision.saturating_sub(digits.len())) + &digits;
    }
    let width = spec.width.unwrap_or(0) as usize;
    // A precision or `-` switches the flag `0` off.
    if spec.zero && !spec.minus && spec.precision.is_none() {
        let used = sign.len() + prefix.len() + digits.len();
        digits = "0".repeat(width.saturating_sub(used)) + &digits;
    }
    pad(spec, format!("{sign}{prefix}{digits}").as_bytes(), out);
}

fn pad(spec: &FormatSpec, text: &[u8], out: &mut Vec<u8>) {
    let fill = (spec.width.unwrap_or(0) as usize).saturating_sub(text.len());
    if !spec.minus {
        out.resize(out.len() + fill, b' ');
    }
    out.extend_from_slice(text);
    if spec.minus {
        out.resize(out.len() + fill, b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses `%-08.3d` into a spec.
    fn spec(text: &str) -> FormatSpec {
        let mut s = FormatSpec::default();
        let mut chars = text.strip_prefix('%').unwrap().chars().peekable();
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => s.minus = true,
                '+' => s.plus = true,
                ' ' => s.space = true,
                '#' => s.alt = true,
                _ => s.zero = true,
            }
        }
        let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut n = None;
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                n = Some(n.unwrap_or(0) * 10 + d.to_digit(10).unwrap());
            }
            n
        };
        s.width = digits(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            s.precision = Some(digits(&mut chars).unwrap_or(0));
        }
        s.conv = chars.next().unwrap();
        s.conv2 = chars.next();
        s
    }

    fn int(format: &str, v: i64) -> String {
        let mut out = Vec::new();
        convert(&spec(format), &Type::I64, &v.to_le_bytes(), &Context::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// What the C library says, for every flag of integer conversions.
    fn c_printf(format: &str, v: i64) -> String {
        let end = format.len() - 1;
        let format = std::ffi::CString::new(format!("{}ll{}", &format[..end], &format[end..])).unwrap();
        let mut buf = [0u8; 128];
        // SAFETY: the buffer is of the length given and the format takes one long long.
        let n = unsafe { libc::snprintf(buf.as_mut_ptr().cast(), buf.len(), format.as_ptr(), v) };
        String::from_utf8(buf[..n as usize].to_vec()).unwrap()
    }

    #[test]
    fn integers_are_as_the_c_library_prints_them() {
        for flags in ["", "-", "+", " ", "0", "#", "-#", "0#", "+0", " 0", "-0"] {
            for size in ["", "6", "20", ".4", "8.4", ".0", "12.0"] {
                for conv in ["d", "i", "u", "x", "X", "o"] {
                    // `#o` with a precision counts the leading 0 as a digit: nobody writes that.
                    if conv == "o" && flags.contains('#') {
                        continue;
                    }
                    for v in [0, 5, -5, 255, 123_456_789, i64::MIN, i64::MAX] {
                        let format = format!("%{flags}{size}{conv}");
                        assert_eq!(int(&format, v), c_printf(&format, v), "{format} of {v}");
                    }
                }
            }
        }
    }

    #[test]
    fn length_modifiers_say_how_many_bits_count() {
        let show = |bits: u8, format: &str, v: i64| {
            let spec = FormatSpec {
                bits: Some(bits),
                ..spec(format)
            };
            let mut out = Vec::new();
            convert(&spec, &Type::I64, &v.to_le_bytes(), &Context::default(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            [show(8, "%d", 300), show(16, "%d", 70000), show(32, "%d", 1 << 32)],
            ["44", "4464", "0"]
        );
        assert_eq!(
            [show(8, "%u", -1), show(16, "%x", -1), show(32, "%x", -1)],
            ["255", "ffff", "ffffffff"]
        );
        assert_eq!(
            [show(8, "%d", 200), show(32, "%o", -1), show(32, "%X", -2)],
            ["-56", "37777777777", "FFFFFFFE"]
        );
    }

    #[test]
    fn stars_take_width_and_precision_from_the_arguments() {
        let show = |format: FormatSpec, values: &[i64]| {
            let fields: Vec<_> = (0..values.len() as u32)
                .map(|i| EventField {
                    offset: i * 8,
                    ty: Type::I64,
                })
                .collect();
            let record: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut out = Vec::new();
            printf(&[FormatPart::Arg(format)], &fields, &record, &Context::default(), &mut out);
            String::from_utf8(out).unwrap()
        };
        let star = FormatSpec {
            width_arg: true,
            ..spec("%d")
        };
        assert_eq!(show(star.clone(), &[5, 3]), "    3");
        assert_eq!(show(star.clone(), &[-5, 3]), "3    ");
        assert_eq!(show(star.clone(), &[i64::MAX, 3]).len(), 4096);
        let both = FormatSpec {
            precision_arg: true,
            ..star
        };
        assert_eq!(show(both.clone(), &[6, 3, 7]), "   007");
        assert_eq!(show(both, &[6, -1, 7]), "     7");
    }

    #[test]
    fn pointers_characters_and_strings() {
        assert_eq!(int("%p", 0x1234), "0x1234");
        assert_eq!(int("%12p", 0x1234), "      0x1234");
        assert_eq!(int("%c", 65), "A");
        let mut out = Vec::new();
        let ctx = Context::default();
        for format in ["%6s|", "%-6s|", "%.2s|"] {
            convert(
                &spec(&format[..format.len() - 1]),
                &Type::Str { cap: 8 },
                b"abc\0\0\0\0\0",
                &ctx,
                &mut out,
            );
            out.push(b'|');
        }
        assert_eq!(out, b"   abc|abc   |ab|");
    }

    #[test]
    fn buffers_three_ways() {
        let bytes = [&3u32.to_le_bytes()[..], b"a\x01\xfe\0"].concat();
        let show = |format: &str| {
            let mut out = Vec::new();
            convert(&spec(format), &Type::Buf { cap: 4 }, &bytes, &Context::default(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(show("%r"), "a\\x01\\xfe");
        assert_eq!(show("%rx"), "\\x61\\x01\\xfe");
        assert_eq!(show("%rh"), "61 01 fe");
    }

    #[test]
    fn a_whole_record() {
        let format = [
            FormatPart::Text("v=".into()),
            FormatPart::Arg(spec("%s")),
            FormatPart::Text(" ".into()),
            FormatPart::Arg(spec("%d")),
            FormatPart::Text("\n".into()),
        ];
        let args = [
            EventField {
                offset: 8,
                ty: Type::Str { cap: 8 },
            },
            EventField { offset: 16, ty: Type::I64 },
        ];
        let record = [&[0u8; 8][..], b"hello\0\0\0", &42i64.to_le_bytes()].concat();
        let mut out = Vec::new();
        printf(&format, &args, &record, &Context::default(), &mut out);
        assert_eq!(out, b"v=hello 42\n");
    }
}
