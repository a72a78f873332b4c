//! `printf`: the format, checked against the arguments.

use super::check::Checker;
use super::{Event, Expr, Ty};
use crate::object::{FormatPart, FormatSpec, TextKind};
use crate::types::Type;
use weir_parser::ast;
use weir_parser::{Diagnostic, Span};

impl Checker<'_> {
    pub(super) fn printf(&mut self, what: TextKind, name: &str, args: &[ast::Arg], span: Span) -> Option<Event> {
        let ast::ExprKind::Str(format) = &args[0].value.kind else {
            let message = format!("the format of `{name}` is a string literal");
            self.error(Diagnostic::error("format-literal", args[0].value.span, message).help(format!("`{name}(\"%s\\n\", x)`")));
            return None;
        };
        let format_span = args[0].value.span;
        let values: Vec<Expr> = args[1..].iter().map(|a| self.value(&a.value)).collect();
        let parts = match parse_format(&String::from_utf8_lossy(format)) {
            Ok(parts) => parts,
            Err(message) => {
                self.error(Diagnostic::error("bad-format", format_span, message));
                return None;
            }
        };
        let specs: Vec<&FormatSpec> = parts
            .iter()
            .filter_map(|p| if let FormatPart::Arg(spec) = p { Some(spec) } else { None })
            .collect();
        if specs.len() != values.len() {
            let d = Diagnostic::error(
                "format-count",
                span,
                format!(
                    "the format has {} conversion{}, {} argument{} given",
                    specs.len(),
                    plural(specs.len()),
                    values.len(),
                    if values.len() == 1 { " is" } else { "s are" }
                ),
            );
            self.error(d);
            return None;
        }
        let mut ok = true;
        for (spec, value) in specs.iter().zip(&values) {
            ok &= value.ty != Ty::Error;
            if value.ty == Ty::Error {
                continue;
            }
            if let Some(expected) = mismatch(spec, &value.ty) {
                let conv: String = std::iter::once(spec.conv).chain(spec.conv2).collect();
                let mut d = Diagnostic::error(
                    "format-type",
                    value.span,
                    format!("`%{conv}` prints {expected}, found `{}`", value.ty),
                );
                if let Some(better) = suggestion(&value.ty) {
                    d = d.help(format!("`{better}` prints it"));
                }
                self.error(d);
                ok = false;
            }
        }
        ok.then_some(Event::Printf {
            what,
            format: parts,
            args: values,
        })
    }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// Returns what the conversion prints when the type does not fit.
fn mismatch(spec: &FormatSpec, ty: &Ty) -> Option<&'static str> {
    let textual = matches!(
        ty,
        Ty::Str { .. } | Ty::Inet | Ty::Prefix | Ty::Mac | Ty::Flow | Ty::Bool | Ty::Tuple(_) | Ty::Record(_) | Ty::Kept(_)
    );
    let number = matches!(
        ty,
        Ty::Int { .. } | Ty::Bool | Ty::Ptr { .. } | Ty::Kept(Type::Enum { .. } | Type::KSym | Type::USym)
    );
    match spec.conv {
        's' => (!textual).then_some("text"),
        'r' => (!matches!(ty, Ty::Buf { .. })).then_some("a buffer"),
        _ => (!number).then_some("an integer"),
    }
}

fn suggestion(ty: &Ty) -> Option<&'static str> {
    match ty {
        Ty::Str { .. } | Ty::Inet | Ty::Prefix | Ty::Mac | Ty::Flow | Ty::Tuple(_) | Ty::Record(_) | Ty::Kept(_) => Some("%s"),
        Ty::Buf { .. } => Some("%r"),
        Ty::Int { signed: true, .. } => Some("%d"),
        Ty::Int { signed: false, .. } => Some("%u"),
        Ty::Ptr { .. } => Some("%p"),
        _ => None,
    }
}

/// Takes a format apart.
pub(super) fn parse_format(format: &str) -> Result<Vec<FormatPart>, String> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            text.push('%');
            continue;
        }
        let mut spec = FormatSpec::default();
        let mut written = String::from("%");
        while let Some(&flag) = chars.peek() {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                ' ' => spec.space = true,
                '#' => spec.alt = true,
                '0' => spec.zero = true,
                _ => break,
            }
            written.push(flag);
            chars.next();
        }
        spec.width = number(&mut chars, &mut written)?;
        if chars.peek() == Some(&'.') {
            chars.next();
            written.push('.');
            spec.precision = Some(number(&mut chars, &mut written)?.unwrap_or(0));
        }
        while let Some(&length) = chars.peek() {
            if !matches!(length, 'h' | 'l' | 'L' | 'j' | 'z' | 't') {
                break;
            }
            written.push(length);
            chars.next();
        }
        let Some(conv) = chars.next() else {
            return Err(format!(
                "`{written}` at the end of the format is no conversion; `%%` prints a percent sign"
            ));
        };
        written.push(conv);
        spec.conv = conv;
        match conv {
            'd' | 'i' | 'u' | 'o' | 'x' | 'X' | 'c' | 's' | 'p' => {}
            'r' => {
                if let Some(second @ ('x' | 'h')) = chars.peek().copied() {
                    spec.conv2 = Some(second);
                    chars.next();
                }
            }
            _ => {
                return Err(format!(
                    "`{written}` is no conversion; there are `%d %i %u %o %x %X %c %s %p %r %rx %rh`, and `%%` for a percent sign"
                ));
            }
        }
        if !text.is_empty() {
            parts.push(FormatPart::Text(std::mem::take(&mut text)));
        }
        parts.push(FormatPart::Arg(spec));
    }
    if !text.is_empty() {
        parts.push(FormatPart::Text(text));
    }
    Ok(parts)
}

fn number(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, written: &mut String) -> Result<Option<u32>, String> {
    let mut digits = String::new();
    while let Some(&digit) = chars.peek()
        && digit.is_ascii_digit()
    {
        digits.push(digit);
        written.push(digit);
        chars.next();
    }
    if digits.is_empty() {
        return Ok(None);
    }
    match digits.parse::<u32>() {
        Ok(n) if n <= 4096 => Ok(Some(n)),
        _ => Err(format!("`{written}` asks for more than 4096 columns")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_split_into_text_and_conversions() {
        let parts = parse_format("a %-8s|%08llx %% %5.2d\n").unwrap();
        assert_eq!(parts.len(), 7);
        assert_eq!(parts[0], FormatPart::Text("a ".to_owned()));
        assert_eq!(
            parts[1],
            FormatPart::Arg(FormatSpec {
                minus: true,
                width: Some(8),
                conv: 's',
                ..FormatSpec::default()
            })
        );
        assert_eq!(
            parts[3],
            FormatPart::Arg(FormatSpec {
                zero: true,
                width: Some(8),
                conv: 'x',
                ..FormatSpec::default()
            })
        );
        assert_eq!(parts[4], FormatPart::Text(" % ".to_owned()));
        assert_eq!(
            parts[5],
            FormatPart::Arg(FormatSpec {
                width: Some(5),
                precision: Some(2),
                conv: 'd',
                ..FormatSpec::default()
            })
        );
        assert!(parse_format("100%").unwrap_err().contains("`%%` prints a percent sign"));
        assert!(parse_format("%y").unwrap_err().starts_with("`%y` is no conversion"));
        assert!(parse_format("%99999d").unwrap_err().contains("4096"));
    }
}
