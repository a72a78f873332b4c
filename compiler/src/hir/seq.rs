//! `printf` in an iterator that has a name: whoever reads the name gets the text, long after weir has gone, so it is the kernel that
//! formats it (`bpf_seq_printf`). It knows fewer conversions than weir does.

use super::check::Checker;
use super::{Event, Expr, ExprKind, StmtKind, Ty};
use crate::object::{AttachPoint, FormatPart, FormatSpec, TextKind};
use std::fmt::Write as _;
use weir_parser::{Diagnostic, Span};

/// Values that the kernel takes for one text (`MAX_BPRINTF_VARARGS`).
const MAX_VALUES: usize = 12;

impl Checker<'_> {
    /// Whether the block is run by whoever reads a name.
    pub(super) fn is_pinned_iterator(&self) -> bool {
        matches!(self.point, Some(AttachPoint::Iter { pin: Some(_), .. }))
    }

    /// Makes of a statement one whose text the kernel writes. Others that need weir are errors.
    pub(super) fn for_readers(&mut self, kind: StmtKind, name: &str, span: Span) -> Option<StmtKind> {
        match kind {
            StmtKind::Event(Event::Printf {
                what: TextKind::Print,
                format,
                args,
            }) => self.seq_printf(&format, args, span).map(StmtKind::Event),
            StmtKind::Event(_) | StmtKind::Exit { .. } => {
                let message = format!("`{name}` needs a weir that runs, and this block runs whenever somebody reads its name");
                self.error(Diagnostic::error("iter-name", span, message).help("`printf` works: whoever reads gets the text"));
                None
            }
            other => Some(other),
        }
    }

    fn seq_printf(&mut self, parts: &[FormatPart], values: Vec<Expr>, span: Span) -> Option<Event> {
        if values.len() > MAX_VALUES {
            let message = format!("{} values are too many here: the kernel formats at most {MAX_VALUES}", values.len());
            self.error(Diagnostic::error("iter-name", span, message).help("print them with several calls"));
            return None;
        }
        let mut format = String::new();
        let mut args = Vec::new();
        let mut values = values.into_iter();
        for part in parts {
            match part {
                FormatPart::Text(text) if !text.bytes().all(is_written) => {
                    let message = "the kernel, which writes this text, writes printable ASCII, blanks and line ends only";
                    self.error(Diagnostic::error("iter-name", span, message));
                    return None;
                }
                FormatPart::Text(text) => format.push_str(&text.replace('%', "%%")),
                FormatPart::Arg(spec) => {
                    let value = values.next()?;
                    let Some((conversion, value)) = conversion(spec, value) else {
                        let conv: String = std::iter::once(spec.conv).chain(spec.conv2).collect();
                        let message = format!("the kernel, which writes this text, cannot print this value with `%{conv}`");
                        let d = Diagnostic::error("iter-name", span, message);
                        self.error(d.help("it prints numbers with `%d %u %x %X %c` and text with `%s`, to a width that is a number"));
                        return None;
                    };
                    format.push_str(&conversion);
                    args.push(value);
                }
            }
        }
        Some(Event::SeqPrintf {
            format: format.into_bytes(),
            args,
        })
    }
}

/// Whether the kernel takes the byte in a format; a NUL would end it (`bpf_bprintf_prepare`).
fn is_written(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t'..=b'\r')
}

/// What the kernel calls a conversion, and the value as it takes it: 64 bits, or text.
fn conversion(spec: &FormatSpec, value: Expr) -> Option<(String, Expr)> {
    if spec.width_arg || spec.precision_arg || spec.precision.is_some() {
        return None;
    }
    let mut out = String::from("%");
    for (flag, set) in [('-', spec.minus), ('+', spec.plus), (' ', spec.space), ('0', spec.zero)] {
        if set {
            out.push(flag);
        }
    }
    if let Some(width) = spec.width {
        let _ = write!(out, "{width}");
    }
    if spec.conv == 's' {
        out.push('s');
        return matches!(value.ty, Ty::Str { .. }).then_some((out, value));
    }
    if !matches!(value.ty, Ty::Int { .. } | Ty::Bool | Ty::Ptr { .. }) {
        return None;
    }
    let (conversion, signed) = match spec.conv {
        'd' | 'i' => ("lld", true),
        'u' => ("llu", false),
        'x' => ("llx", false),
        'X' => ("llX", false),
        'c' => ("c", false),
        // `%p` of the kernel hides addresses.
        'p' => ("llx", false),
        _ => return None,
    };
    if spec.alt || spec.conv == 'p' {
        // The kernel does not take `#` from programs.
        match spec.conv {
            'x' | 'p' if spec.width.is_none() => out.insert_str(0, "0x"),
            'X' if spec.width.is_none() => out.insert_str(0, "0X"),
            'd' | 'i' | 'u' => {}
            _ => return None,
        }
    }
    out.push_str(conversion);
    let bits = spec.bits.unwrap_or(64);
    let span = value.span;
    let ty = Ty::Int { bits, signed };
    let cut = Expr {
        kind: ExprKind::Convert(Box::new(value)),
        ty,
        span,
    };
    Some((out, cut))
}
