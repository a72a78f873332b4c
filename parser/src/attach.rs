//! Attach points: where their text ends, and how it splits into label and parts.
//!
//! Not here: what the parts mean; which providers exist is decided in the compiler. The one list below only says which
//! of bpftrace's providers never have a path, because bpftrace scripts may write `kprobe:f/pid == 1/` without a blank.

use crate::ast::{AttachPoint, Ident};
use crate::diag::{Diagnostic, SourceId, Span};
use crate::params;
use crate::token::RawAttachPoint;

/// Providers whose attach points never contain a path: a `/` always starts the predicate there.
const NO_PATH: &[&str] = &[
    "begin",
    "end",
    "self",
    "kprobe",
    "k",
    "kretprobe",
    "kr",
    "fentry",
    "f",
    "fexit",
    "fr",
    "kfunc",
    "kretfunc",
    "tracepoint",
    "t",
    "rawtracepoint",
    "rt",
    "profile",
    "p",
    "interval",
    "i",
    "software",
    "s",
    "hardware",
    "h",
];

/// Scans the attach point that starts at `start` of `text`. Returns it and the offset behind it.
pub(crate) fn scan<'s>(source: SourceId, text: &'s str, start: usize, diagnostics: &mut Vec<Diagnostic>) -> (RawAttachPoint<'s>, usize) {
    let bytes = text.as_bytes();
    let mut from = start;
    let mut label = None;
    let name_end = word_end(bytes, start);
    if name_end > start {
        let equals = blanks_end(bytes, name_end);
        if bytes.get(equals) == Some(&b'=') && bytes.get(equals + 1) != Some(&b'=') {
            label = Some((&text[start..name_end], start as u32));
            from = blanks_end(bytes, equals + 1);
        }
    }
    let mut at = from;
    let mut provider: Option<&str> = None;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b',' | b'{' | b'}' | b';' => break,
            byte if byte.is_ascii_whitespace() => break,
            b'/' => match provider {
                None => break,
                Some(provider) if NO_PATH.contains(&provider.to_ascii_lowercase().as_str()) => break,
                Some(_) => at += 1,
            },
            b':' => {
                provider.get_or_insert(&text[from..at]);
                at += 1;
            }
            // A parameter of the script: its commas and blanks are its own.
            b'(' if params::opens(&text[from..], at - from) => at = params::call_end(bytes, at).unwrap_or(at + 1),
            b'"' => {
                let end = quoted_end(bytes, at);
                if end == at + 1 || bytes[end - 1] != b'"' {
                    let span = Span::new(source, at as u32, end as u32);
                    diagnostics.push(
                        Diagnostic::error("unterminated-string", span, "this quoted part has no closing `\"`").help("add `\"` at its end"),
                    );
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    (
        RawAttachPoint {
            label,
            text: &text[from..at],
            text_start: from as u32,
        },
        at,
    )
}

/// Where the name at `at` ends; `at` itself if there is none.
pub(crate) fn word_end(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at) {
        Some(byte) if byte.is_ascii_alphabetic() || *byte == b'_' => {
            at + bytes[at..]
                .iter()
                .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
                .count()
        }
        _ => at,
    }
}

fn blanks_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at.min(bytes.len())..]
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count()
}

/// Where the quoted text that starts at `at` ends: behind its quote, or at the line break.
fn quoted_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(byte) = bytes.get(end) {
        match byte {
            b'"' => return end + 1,
            b'\n' => return end,
            b'\\' if bytes.get(end + 1).is_some_and(|byte| *byte != b'\n') => end += 2,
            _ => end += 1,
        }
    }
    bytes.len()
}

/// Splits an attach point at the colons outside quotes and removes the quotes.
pub(crate) fn split(source: SourceId, raw: &RawAttachPoint<'_>, diagnostics: &mut Vec<Diagnostic>) -> AttachPoint {
    let text_end = raw.text_start + raw.text.len() as u32;
    let start = raw.label.map_or(raw.text_start, |(_, at)| at);
    let label = raw.label.map(|(name, at)| Ident {
        name: name.to_owned(),
        span: Span::new(source, at, at + name.len() as u32),
    });
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut part_start = raw.text_start;
    let mut quoted = false;
    // The end of a `getopt(…)`, which stays as it is.
    let mut call_end = 0;
    let mut chars = raw.text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if at < call_end => part.push(c),
            '(' if !quoted && params::opens(raw.text, at) => {
                call_end = params::call_end(raw.text.as_bytes(), at).unwrap_or(0);
                part.push(c);
            }
            '"' => quoted = !quoted,
            '\\' if quoted => part.extend(chars.next().map(|(_, escaped)| escaped)),
            ':' if !quoted => {
                let end = raw.text_start + at as u32;
                parts.push(Ident {
                    name: std::mem::take(&mut part),
                    span: Span::new(source, part_start, end),
                });
                part_start = end + 1;
            }
            c => part.push(c),
        }
    }
    parts.push(Ident {
        name: part,
        span: Span::new(source, part_start, text_end),
    });
    let span = Span::new(source, start, text_end);
    if raw.text.is_empty() {
        let name = label.as_ref().map_or("", |label| &label.name);
        diagnostics.push(
            Diagnostic::error("syntax", span, format!("expected an attach point after `{name}=`"))
                .help(format!("write `{name}=kprobe:function`, for example")),
        );
    }
    if raw.text.ends_with('/') && parts.len() > 1 {
        let predicate = raw.text.trim_end_matches('/').find('/').unwrap_or(0);
        let (point, predicate) = raw.text.split_at(predicate);
        diagnostics.push(
            Diagnostic::error(
                "blank-before-predicate",
                span,
                format!("the attach point `{}` ends with `/`", raw.text),
            )
            .help(format!("write a blank before a predicate: `{point} {predicate}`")),
        );
    }
    AttachPoint {
        label,
        parts,
        text: raw.text.to_owned(),
        span,
    }
}
