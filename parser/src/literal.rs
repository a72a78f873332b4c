//! The values of number, string and address literals.
//!
//! Input: the text of one literal. Output: its token, and diagnostics for what does not fit; a bad literal still gives a
//! token, so that the rest of the script is read.

use std::borrow::Cow;

use crate::diag::{Diagnostic, SourceId, Span};
use crate::token::Tok;

/// Reads a number: decimal, `0x`, octal, exponent, underscores, C suffixes, duration units.
pub(crate) fn number<'s>(source: SourceId, start: u32, text: &str, diagnostics: &mut Vec<Diagnostic>) -> Tok<'s> {
    let span = Span::new(source, start, start + text.len() as u32);
    match parse_number(text) {
        Ok(tok) => tok,
        Err(problem) => {
            diagnostics.push(problem.into_diagnostic(text, span));
            Tok::Int(0)
        }
    }
}

enum NumberProblem {
    Overflow { duration: bool },
    Suffix(String),
    OctalDigit(char),
    NoHexDigits,
    TrailingUnderscore,
}

impl NumberProblem {
    fn into_diagnostic(self, text: &str, span: Span) -> Diagnostic {
        match self {
            NumberProblem::Overflow { duration: false } => {
                Diagnostic::error("integer-overflow", span, format!("the number `{text}` does not fit in 64 bits"))
                    .help(format!("the largest number is `{}`", u64::MAX))
            }
            NumberProblem::Overflow { duration: true } => Diagnostic::error(
                "integer-overflow",
                span,
                format!("the duration `{text}` does not fit in 64 bits of nanoseconds"),
            )
            .help("the longest duration is about 584 years, `213503d`"),
            NumberProblem::Suffix(suffix) => {
                Diagnostic::error("bad-number", span, format!("unknown suffix `{suffix}` of the number `{text}`"))
                    .help("durations end in `ns`, `us`, `ms`, `s`, `m`, `h` or `d`; names cannot start with a digit")
            }
            NumberProblem::OctalDigit(digit) => {
                let decimal = text.trim_start_matches('0');
                Diagnostic::error(
                    "bad-number",
                    span,
                    format!("`{digit}` is not an octal digit; a number that starts with `0` is octal"),
                )
                .help(format!(
                    "for a decimal number write `{}`",
                    if decimal.is_empty() { "0" } else { decimal }
                ))
            }
            NumberProblem::NoHexDigits => Diagnostic::error("bad-number", span, format!("`{text}` has no hexadecimal digits")),
            NumberProblem::TrailingUnderscore => Diagnostic::error("bad-number", span, format!("the number `{text}` ends with `_`"))
                .help(format!("write `{}`", text.trim_end_matches('_'))),
        }
    }
}

fn parse_number<'s>(text: &str) -> Result<Tok<'s>, NumberProblem> {
    if text.ends_with('_') {
        return Err(NumberProblem::TrailingUnderscore);
    }
    if let Some(rest) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let digits_end = rest.find(|c: char| !c.is_ascii_hexdigit() && c != '_').unwrap_or(rest.len());
        let (digits, suffix) = rest.split_at(digits_end);
        let value = digits_value(digits, 16).ok_or(NumberProblem::Overflow { duration: false })?;
        if !digits.bytes().any(|byte| byte.is_ascii_hexdigit()) {
            return Err(NumberProblem::NoHexDigits);
        }
        return if is_c_suffix(suffix) {
            Ok(Tok::Int(value))
        } else {
            Err(NumberProblem::Suffix(suffix.to_owned()))
        };
    }
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, mut rest) = text.split_at(digits_end);
    let mut exponent: Option<u32> = None;
    if let Some(after) = rest.strip_prefix(['e', 'E'])
        && after.starts_with(|c: char| c.is_ascii_digit())
    {
        let end = after.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(after.len());
        exponent = Some(
            digits_value(&after[..end], 10)
                .and_then(|value| u32::try_from(value).ok())
                .unwrap_or(u32::MAX),
        );
        rest = &after[end..];
    }
    let unit = duration_unit(rest);
    let overflow = NumberProblem::Overflow { duration: unit.is_some() };
    if unit.is_none() && !is_c_suffix(rest) {
        return Err(NumberProblem::Suffix(rest.to_owned()));
    }
    let octal = exponent.is_none() && unit.is_none() && digits.len() > 1 && digits.starts_with('0');
    if octal && let Some(digit) = digits.chars().find(|c| matches!(c, '8' | '9')) {
        return Err(NumberProblem::OctalDigit(digit));
    }
    let mut value = digits_value(digits, if octal { 8 } else { 10 });
    if let Some(exponent) = exponent {
        value = if value == Some(0) {
            Some(0)
        } else {
            10u64.checked_pow(exponent).and_then(|scale| value?.checked_mul(scale))
        };
    }
    match (value, unit) {
        (Some(value), None) => Ok(Tok::Int(value)),
        (Some(value), Some(unit)) => value.checked_mul(unit).map(Tok::Duration).ok_or(overflow),
        (None, _) => Err(overflow),
    }
}

fn digits_value(digits: &str, radix: u32) -> Option<u64> {
    let digits = digits.chars().filter_map(|c| c.to_digit(radix));
    digits.into_iter().try_fold(0u64, |value, digit| {
        value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// Nanoseconds in a unit.
fn duration_unit(suffix: &str) -> Option<u64> {
    Some(match suffix {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return None,
    })
}

fn is_c_suffix(suffix: &str) -> bool {
    matches!(
        suffix.to_ascii_lowercase().as_str(),
        "" | "u" | "l" | "ll" | "ul" | "ull" | "lu" | "llu"
    )
}

/// Reads a string whose opening quote is at `start` and whose text follows in `rest`.
///
/// Returns the token and how many bytes of `rest` belong to it, the closing quote included. A line break ends an
/// unterminated string.
pub(crate) fn string<'s>(source: SourceId, start: u32, rest: &'s str, diagnostics: &mut Vec<Diagnostic>) -> (Tok<'s>, usize) {
    let bytes = rest.as_bytes();
    let plain = bytes
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | b'\n'))
        .unwrap_or(bytes.len());
    if bytes.get(plain) == Some(&b'"') {
        return (Tok::Str(Cow::Borrowed(&bytes[..plain])), plain + 1);
    }
    let mut value = bytes[..plain].to_vec();
    let mut at = plain;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return (Tok::Str(Cow::Owned(value)), at + 1),
            b'\n' => break,
            b'\\' => {
                let (escaped, len) = escape(&rest[at..]);
                match escaped {
                    Ok(Some(byte)) => value.push(byte),
                    Ok(None) => {}
                    Err(message) => {
                        let from = start + 1 + at as u32;
                        let span = Span::new(source, from, from + len as u32);
                        diagnostics.push(
                            Diagnostic::error("bad-escape", span, message)
                                .help("the escapes are `\\n` `\\t` `\\r` `\\\\` `\\\"`, `\\101` (octal) and `\\x41` (hexadecimal)"),
                        );
                    }
                }
                at += len;
            }
            byte => {
                value.push(*byte);
                at += 1;
            }
        }
    }
    // What only closes brackets at the end of the line was not meant as text: `print("abc);`.
    let line = &rest[..at];
    let text = line.trim_end_matches([')', ']', '}', ';', ' ', '\t', '\r']);
    let (cut, tail) = (text.len(), at - text.len());
    if !line[cut..].trim().is_empty() && value.len() >= tail {
        value.truncate(value.len() - tail);
        at = cut;
    }
    let span = Span::new(source, start, start + 1 + at as u32);
    diagnostics.push(Diagnostic::error("unterminated-string", span, "this string has no closing `\"`").help("add `\"` at its end"));
    (Tok::Str(Cow::Owned(value)), at)
}

/// Where bytes `start..end` of a string's value are written in its literal, quotes included.
pub(crate) fn written(literal: &str, start: usize, end: usize) -> Option<(usize, usize)> {
    let mut at = 1;
    let mut value = 0;
    let mut from = None;
    while at < literal.len() {
        if value == start && from.is_none() {
            from = Some(at);
        }
        if value >= end {
            return Some((from?, at));
        }
        let (len, bytes) = if literal[at..].starts_with('\\') {
            let (escaped, len) = escape(&literal[at..]);
            (len, usize::from(matches!(escaped, Ok(Some(_)))))
        } else {
            let len = literal[at..].chars().next()?.len_utf8();
            (len, len)
        };
        at += len;
        value += bytes;
    }
    None
}

/// Reads one escape that starts with a backslash. Returns its byte (`None` for a continued line) and its length.
fn escape(text: &str) -> (Result<Option<u8>, String>, usize) {
    let Some(kind) = text[1..].chars().next() else {
        return (Ok(None), 1);
    };
    let simple = match kind {
        'n' => Some(b'\n'),
        't' => Some(b'\t'),
        'r' => Some(b'\r'),
        '"' => Some(b'"'),
        '\\' => Some(b'\\'),
        _ => None,
    };
    if let Some(byte) = simple {
        return (Ok(Some(byte)), 2);
    }
    match kind {
        '\n' => (Ok(None), 2),
        '0'..='7' => {
            let len = text[1..].bytes().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
            let value = u32::from_str_radix(&text[1..=len], 8).unwrap_or(u32::MAX);
            match u8::try_from(value) {
                Ok(byte) => (Ok(Some(byte)), 1 + len),
                Err(_) => (Err(format!("the octal escape `{}` is more than a byte", &text[..=len])), 1 + len),
            }
        }
        'x' | 'X' => {
            let len = text[2..].bytes().take(2).take_while(u8::is_ascii_hexdigit).count();
            match u8::from_str_radix(&text[2..2 + len], 16) {
                Ok(byte) => (Ok(Some(byte)), 2 + len),
                Err(_) => (Err("the escape `\\x` has no hexadecimal digits".to_owned()), 2),
            }
        }
        other => (Err(format!("unknown escape `\\{other}`")), 1 + other.len_utf8()),
    }
}

/// Reads four dotted decimals, with `/len` if it follows without blanks. Returns `None` if `rest` starts otherwise,
/// else the token and its length.
pub(crate) fn ipv4<'s>(source: SourceId, start: u32, rest: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<(Tok<'s>, usize)> {
    let bytes = rest.as_bytes();
    let mut at = 0;
    let mut octets = [0u32; 4];
    for (index, octet) in octets.iter_mut().enumerate() {
        if index > 0 {
            (bytes.get(at) == Some(&b'.')).then_some(())?;
            at += 1;
        }
        let len = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        (len > 0).then_some(())?;
        *octet = rest[at..at + len].parse().unwrap_or(u32::MAX);
        at += len;
    }
    let continues = |at: usize| match bytes.get(at) {
        Some(byte) if byte.is_ascii_alphanumeric() || *byte == b'_' => true,
        Some(b'.') => bytes.get(at + 1).is_some_and(u8::is_ascii_digit),
        _ => false,
    };
    if continues(at) {
        return None;
    }
    let mut length: Option<u32> = None;
    if bytes.get(at) == Some(&b'/') {
        let len = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if len > 0 && !continues(at + 1 + len) {
            length = Some(rest[at + 1..at + 1 + len].parse().unwrap_or(u32::MAX));
            at += 1 + len;
        }
    }
    let text = &rest[..at];
    let span = Span::new(source, start, start + at as u32);
    if let Some(octet) = octets.iter().find(|octet| **octet > 255) {
        let shown = if *octet == u32::MAX {
            "a part".to_owned()
        } else {
            format!("`{octet}`")
        };
        diagnostics.push(Diagnostic::error(
            "bad-address",
            span,
            format!("{shown} of the address `{text}` is more than 255"),
        ));
        return Some((Tok::Ipv4([0; 4]), at));
    }
    let address = octets.map(|octet| octet as u8);
    let Some(length) = length else {
        return Some((Tok::Ipv4(address), at));
    };
    if length > 32 {
        diagnostics.push(
            Diagnostic::error("bad-prefix", span, format!("the prefix length of `{text}` is more than 32"))
                .help("an IPv4 prefix length is between `/0` and `/32`"),
        );
        return Some((Tok::Ipv4(address), at));
    }
    let mask = if length == 0 { 0 } else { u32::MAX << (32 - length) };
    let value = u32::from_be_bytes(address);
    let masked = (value & mask).to_be_bytes();
    if masked != address {
        let [a, b, c, d] = masked;
        diagnostics.push(
            Diagnostic::error("prefix-host-bits", span, format!("the prefix `{text}` has bits beyond its length")).help(format!(
                "write `{a}.{b}.{c}.{d}/{length}`, or `{}` for the one address",
                &text[..text.find('/').unwrap_or(text.len())]
            )),
        );
    }
    Some((Tok::Prefix((masked, length as u8)), at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_value_are_found_in_what_is_written() {
        let at = |literal: &str, start, end| written(literal, start, end).map(|(a, b)| literal[a..b].to_owned());
        assert_eq!(at(r#""a %y""#, 2, 4).as_deref(), Some("%y"));
        assert_eq!(at(r#""\n\x41\101 %y %d""#, 4, 6).as_deref(), Some("%y"));
        assert_eq!(at(r#""ä\t%y""#, 3, 5).as_deref(), Some("%y"));
        assert_eq!(at(r#""\"%y""#, 1, 3).as_deref(), Some("%y"));
        assert_eq!(at("\"a\\\n%y\"", 1, 3).as_deref(), Some("%y"));
        assert_eq!(at(r#""a""#, 5, 6), None);
    }
}
