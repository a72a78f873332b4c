//! `printf`: the format, checked against the arguments.

use super::check::Checker;
use super::{Event, Expr, ExprKind, Ty};
use crate::object::{FormatPart, FormatSpec, TextKind};
use crate::types::Type;
use std::ops::Range;
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
        let mut parts = match parse_format(&String::from_utf8_lossy(format)) {
            Ok(parts) => parts,
            Err(wrong) => {
                for (at, message) in wrong {
                    self.error(Diagnostic::error("bad-format", format_span, message).within(at.start, at.end));
                }
                return None;
            }
        };
        let specs = parts
            .iter_mut()
            .filter_map(|p| if let FormatPart::Arg(spec) = p { Some(spec) } else { None });
        // What each value is for: a conversion, or a width or precision before it.
        let uses: Vec<Use<'_>> = specs
            .flat_map(|spec| {
                let stars = usize::from(spec.width_arg) + usize::from(spec.precision_arg);
                std::iter::repeat_with(|| Use::Star).take(stars).chain([Use::Value(spec)])
            })
            .collect();
        if uses.len() != values.len() {
            let d = Diagnostic::error(
                "format-count",
                span,
                format!(
                    "the format has {} conversion{}, {} argument{} given",
                    uses.len(),
                    plural(uses.len()),
                    values.len(),
                    if values.len() == 1 { " is" } else { "s are" }
                ),
            );
            self.error(d);
            return None;
        }
        let mut ok = true;
        for (wanted, value) in uses.into_iter().zip(&values) {
            ok &= value.ty != Ty::Error;
            if value.ty == Ty::Error {
                continue;
            }
            let spec = match wanted {
                Use::Value(spec) => spec,
                Use::Star => {
                    if !matches!(value.ty, Ty::Int { .. }) {
                        let message = format!("`*` takes an integer, found `{}`", value.ty);
                        self.error(Diagnostic::error("format-type", value.span, message));
                        ok = false;
                    }
                    continue;
                }
            };
            spec.bits = printed_bits(spec.bits, value, self.is_narrow_variable(value));
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

    /// Whether it is a variable that nothing wider than 32 bits was assigned to so far; in loops that may come yet.
    fn is_narrow_variable(&self, value: &Expr) -> bool {
        matches!(value.kind, ExprKind::Var(_)) && self.loops == 0 && matches!(self.written_type(value), Ty::Int { bits: ..=32, .. })
    }
}

/// Wrong conversions that are told of one format.
const MAX_WRONG: usize = 10;

/// What an argument behind the format is for.
enum Use<'a> {
    Value(&'a mut FormatSpec),
    /// `*`
    Star,
}

/// How many bits of an integer are printed: those of the length modifier; without one 32, as in C, unless the value is wider:
/// nothing that was measured is cut off unasked.
fn printed_bits(written: Option<u8>, value: &Expr, narrow_variable: bool) -> Option<u8> {
    let narrow = match (&value.kind, &value.ty) {
        _ if narrow_variable => true,
        (ExprKind::Int(n), Ty::Int { signed, .. }) => i32::try_from(*n).is_ok() || !signed && u32::try_from(*n).is_ok(),
        (_, Ty::Int { bits, .. }) => *bits <= 32,
        (_, Ty::Bool) => true,
        _ => false,
    };
    written.or(narrow.then_some(32)).filter(|bits| *bits < 64)
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
        's' => (!textual && !number && !matches!(ty, Ty::Buf { .. })).then_some("text"),
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

/// Takes a format apart, or says what is wrong and where.
pub(super) fn parse_format(format: &str) -> Result<Vec<FormatPart>, Vec<(Range<usize>, String)>> {
    let mut parts = Vec::new();
    let mut wrong = Vec::new();
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.peek() {
            Some('%') => {
                chars.next();
                text.push('%');
                continue;
            }
            // `50%!`, `100%\n`: nothing that asks for a value.
            None => {
                text.push('%');
                continue;
            }
            Some(next) if !(next.is_alphanumeric() || "-+ #0.*".contains(*next)) => {
                text.push('%');
                continue;
            }
            Some(_) => {}
        }
        let mut written = String::from("%");
        match conversion(&mut chars, &mut written) {
            Ok(spec) => {
                if !text.is_empty() {
                    parts.push(FormatPart::Text(std::mem::take(&mut text)));
                }
                parts.push(FormatPart::Arg(spec));
            }
            Err(message) => {
                let end = format.len() - chars.clone().map(char::len_utf8).sum::<usize>();
                wrong.push((end - written.len()..end, message));
                if wrong.len() == MAX_WRONG {
                    break;
                }
            }
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    if !text.is_empty() {
        parts.push(FormatPart::Text(text));
    }
    Ok(parts)
}

/// Reads one conversion, the percent sign of which is in `written` already.
fn conversion(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, written: &mut String) -> Result<FormatSpec, String> {
    let mut spec = FormatSpec::default();
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
    spec.width_arg = star(chars, written);
    if !spec.width_arg {
        spec.width = number(chars, written)?;
    }
    if chars.peek() == Some(&'.') {
        chars.next();
        written.push('.');
        spec.precision_arg = star(chars, written);
        if !spec.precision_arg {
            spec.precision = Some(number(chars, written)?.unwrap_or(0));
        }
    }
    while let Some(&length) = chars.peek() {
        if !matches!(length, 'h' | 'l' | 'L' | 'j' | 'z' | 't') {
            break;
        }
        spec.bits = Some(match (length, spec.bits) {
            ('h', Some(16)) => 8,
            ('h', _) => 16,
            _ => 64,
        });
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
        'g' if chars.peek() == Some(&'r') => {
            spec.conv2 = chars.next();
        }
        'r' => {
            if let Some(second @ ('x' | 'h')) = chars.peek().copied() {
                spec.conv2 = Some(second);
                chars.next();
            }
        }
        _ => {
            return Err(format!(
                "`{written}` is no conversion; there are `%d %i %u %o %x %X %c %s %p %r %rx %rh %gr`, and `%%` for a percent sign"
            ));
        }
    }
    Ok(spec)
}

fn star(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, written: &mut String) -> bool {
    let star = chars.next_if_eq(&'*');
    written.extend(star);
    star.is_some()
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
                bits: Some(64),
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
        let [FormatPart::Arg(spec)] = &parse_format("%-*.*hhd").unwrap()[..] else {
            panic!()
        };
        assert!(spec.width_arg && spec.precision_arg && spec.minus);
        assert_eq!((spec.bits, spec.conv), (Some(8), 'd'));
        for text in ["100%", "100%\n", "50%!"] {
            assert_eq!(parse_format(text), Ok(vec![FormatPart::Text(text.to_owned())]));
        }
        let wrong = parse_format("ä %y %d %99999d 100%-").unwrap_err();
        let places: Vec<_> = wrong.iter().map(|(at, _)| at.clone()).collect();
        assert_eq!(places, [3..5, 9..15, 20..22]);
        assert!(wrong[0].1.starts_with("`%y` is no conversion"));
        assert!(wrong[1].1.contains("4096"));
        assert!(wrong[2].1.contains("`%%` prints a percent sign"));
    }
}
