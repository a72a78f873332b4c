//! `x in …`: lists, maps, files. Long lists become a map that is filled before the script runs.

use super::check::{Checker, DeclaredKind};
use super::{Expr, ExprKind, SetElem, SetMap, Ty};
use weir_parser::ast;
use weir_parser::{Diagnostic, Span};

/// Sets up to this size are compared element by element.
const INLINE_ELEMENTS: usize = 64;
/// Elements that a set has at most, ranges counted by what is in them.
const MAX_ELEMENTS: usize = 1 << 20;

impl Checker<'_> {
    pub(super) fn in_set(&mut self, value: &ast::Expr, set: &ast::InSet, span: Span) -> Expr {
        let value = self.value(value);
        let elems = match set {
            ast::InSet::List(elems) => elems.clone(),
            ast::InSet::Expr(expr) => match &expr.kind {
                ast::ExprKind::Map { name, keys: None } if self.alias(name).is_none() => {
                    let id = self.map(name, expr.span);
                    let value = if self.is_lpm(id) && value.ty == Ty::Inet {
                        let span = value.span;
                        Self::make(ExprKind::Convert(Box::new(value)), Ty::Prefix, span)
                    } else {
                        value
                    };
                    self.map_key(id, Some(&value.ty), value.span);
                    if value.ty == Ty::Error {
                        return self.failed(span);
                    }
                    let kind = ExprKind::HasKey {
                        map: id,
                        key: Box::new(value),
                    };
                    return Self::make(kind, Ty::Bool, span);
                }
                ast::ExprKind::Call { name, .. } if name.name == "file" => vec![ast::SetElem::One((**expr).clone())],
                _ => {
                    let d = Diagnostic::error("not-a-set", expr.span, "`in` takes a list in parentheses, a map or a file");
                    self.error(d.help("`x in (1, 5-9)`, `x in @map` or `x in file(\"path\")`"));
                    return self.failed(span);
                }
            },
        };
        if value.ty == Ty::Error {
            return self.failed(span);
        }
        let mut out = Vec::new();
        for elem in &elems {
            let ok = match elem {
                ast::SetElem::One(ast::Expr {
                    kind: ast::ExprKind::Call { name, args },
                    span,
                }) if name.name == "file" => self.file_elements(args, *span, &value, &mut out),
                _ => self.set_element(elem, &value).map(|e| out.push(e)),
            };
            if ok.is_none() {
                return self.failed(span);
            }
        }
        if out.len() <= INLINE_ELEMENTS {
            let kind = ExprKind::In {
                value: Box::new(value),
                set: out,
            };
            return Self::make(kind, Ty::Bool, span);
        }
        let Some(set) = self.set_map(&out, &value.ty, span) else {
            return self.failed(span);
        };
        let number = match self.sets.iter().position(|s| *s == set) {
            Some(number) => number,
            None => {
                self.sets.push(set);
                self.sets.len() - 1
            }
        };
        let kind = ExprKind::InMap {
            value: Box::new(value),
            set: number,
        };
        Self::make(kind, Ty::Bool, span)
    }

    /// Whether the script declares the map as `lpm`.
    pub(super) fn is_lpm(&self, map: usize) -> bool {
        self.decls.get(&self.maps[map].name).is_some_and(|d| d.kind == DeclaredKind::Lpm)
    }

    /// The key of an LPM map: a prefix as it is, an address with all its bits.
    pub(super) fn prefix_key(&mut self, key: &ast::Expr) -> Option<Expr> {
        let span = key.span;
        let prefix = |bytes, len, v6| Some(Self::make(ExprKind::Prefix(bytes, len, v6), Ty::Prefix, span));
        match &key.kind {
            ast::ExprKind::Ipv4Prefix(four, len) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(four);
                return prefix(bytes, *len, false);
            }
            ast::ExprKind::Str(text) => {
                let text = String::from_utf8_lossy(text).into_owned();
                return match weir_stdlib::prefix::parse_prefix(&text) {
                    Ok((address, len)) => {
                        let (bytes, v6) = super::ops::inet_bytes(address);
                        prefix(bytes, len, v6)
                    }
                    Err(why) => {
                        self.error(Diagnostic::error("bad-prefix", span, format!("`{text}` is not a prefix: {why}")));
                        None
                    }
                };
            }
            _ => {}
        }
        let value = self.value(key);
        match value.ty {
            Ty::Inet => Some(Self::make(ExprKind::Convert(Box::new(value)), Ty::Prefix, span)),
            Ty::Error => None,
            other => {
                let message = format!("the key of an `lpm` map is a prefix or an address, found `{other}`");
                self.error(Diagnostic::error("key-type", span, message));
                None
            }
        }
    }

    fn set_element(&mut self, elem: &ast::SetElem, value: &Expr) -> Option<SetElem> {
        match elem {
            ast::SetElem::One(ast::Expr {
                kind: ast::ExprKind::Ipv4Prefix(bytes, len),
                ..
            }) if value.ty == Ty::Inet => {
                let mut address = [0; 16];
                address[..4].copy_from_slice(bytes);
                Some(SetElem::Prefix(address, *len, false))
            }
            ast::SetElem::One(ast::Expr {
                kind: ast::ExprKind::Str(text),
                span,
            }) if value.ty == Ty::Inet && text.contains(&b'/') => self.prefix_text(text, *span),
            ast::SetElem::One(e) => self.set_constant(e, value).map(SetElem::One),
            ast::SetElem::Range(a, b) => {
                let (a, b) = (self.set_constant(a, value), self.set_constant(b, value));
                let (a, b) = (a?, b?);
                if !super::ops::range_in_order(&a, &b) {
                    let d = Diagnostic::error("empty-range", a.span.to(b.span), "the range ends before it starts");
                    self.error(d);
                }
                Some(SetElem::Range(a, b))
            }
        }
    }

    /// `file("path")`: one element a line; empty lines and what follows `#` do not count.
    fn file_elements(&mut self, args: &[ast::Arg], span: Span, value: &Expr, out: &mut Vec<SetElem>) -> Option<()> {
        let [
            ast::Arg {
                value: ast::Expr {
                    kind: ast::ExprKind::Str(path),
                    ..
                },
                ..
            },
        ] = args
        else {
            let d = Diagnostic::error("argument-type", span, "`file` takes the path of a file as a string literal");
            self.error(d.help("`x in file(\"addresses.txt\")`"));
            return None;
        };
        let path = String::from_utf8_lossy(path).into_owned();
        let content = match self.kernel.read_file(&path) {
            Ok(content) => String::from_utf8_lossy(&content).into_owned(),
            Err(e) => {
                self.error(Diagnostic::error("no-file", span, format!("cannot read `{path}`: {e}")));
                return None;
            }
        };
        let mut bad = 0;
        for (number, line) in content.lines().enumerate() {
            let text = line.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            match Self::line_element(text, &value.ty, span) {
                Ok(elem) => out.push(elem),
                Err(expected) => {
                    bad += 1;
                    // A few lines show what is wrong with all.
                    if bad <= 5 {
                        let message = format!("{path}:{}: expected {expected}, found `{text}`", number + 1);
                        self.error(Diagnostic::error("bad-line", span, message));
                    }
                }
            }
        }
        (bad == 0).then_some(())
    }

    fn line_element(text: &str, ty: &Ty, span: Span) -> Result<SetElem, &'static str> {
        let int = |text: &str| super::expr::parse_int(text.trim()).map(|n| Self::make(ExprKind::Int(n), Ty::I64, span));
        let inet = |text: &str| {
            let (bytes, v6) = super::ops::inet_bytes(text.trim().parse().ok()?);
            Some(Self::make(ExprKind::Inet { bytes, v6 }, Ty::Inet, span))
        };
        let range = |a: Option<Expr>, b: Option<Expr>| match (a, b) {
            (Some(a), Some(b)) if super::ops::range_in_order(&a, &b) => Some(SetElem::Range(a, b)),
            _ => None,
        };
        let expected = match ty {
            Ty::Int { .. } | Ty::Bool => "an integer or a range",
            Ty::Inet => "an address, a prefix or a range",
            Ty::Mac => "a MAC address",
            Ty::Str { .. } => "text of at most 511 bytes",
            _ => "nothing: this type has no elements in a file",
        };
        let elem = match ty {
            ty if ty.is_int() => match int(text) {
                Some(n) => Some(SetElem::One(n)),
                None => text.split_once('-').and_then(|(a, b)| range(int(a), int(b))),
            },
            Ty::Inet if text.contains('/') => weir_stdlib::prefix::parse_prefix(text).ok().map(|(address, len)| {
                let (bytes, v6) = super::ops::inet_bytes(address);
                SetElem::Prefix(bytes, len, v6)
            }),
            Ty::Inet => match inet(text) {
                Some(address) => Some(SetElem::One(address)),
                None => text.split_once('-').and_then(|(a, b)| range(inet(a), inet(b))),
            },
            Ty::Mac => super::ops::parse_mac(text).map(|mac| SetElem::One(Self::make(ExprKind::Mac(mac), Ty::Mac, span))),
            Ty::Str { .. } if text.len() < 512 => {
                let cap = u32::try_from(text.len() + 1).unwrap_or(512);
                let text = ExprKind::Str(text.as_bytes().to_vec());
                Some(SetElem::One(Self::make(text, Ty::Str { cap }, span)))
            }
            _ => None,
        };
        elem.ok_or(expected)
    }

    /// Makes the keys of a map out of a long list.
    fn set_map(&mut self, elems: &[SetElem], ty: &Ty, span: Span) -> Option<SetMap> {
        let lpm = elems.iter().any(|e| matches!(e, SetElem::Prefix(..)));
        let longest = |e: &SetElem| match e {
            SetElem::One(Expr {
                kind: ExprKind::Str(text), ..
            }) => text.len() + 1,
            _ => 8,
        };
        let room = elems.iter().map(longest).max().unwrap_or(8).next_multiple_of(8);
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for elem in elems {
            match elem {
                SetElem::Prefix(bytes, len, v6) => keys.push(prefix_key(bytes, *len, *v6)),
                SetElem::One(e) => keys.push(match &e.kind {
                    ExprKind::Int(n) => n.to_le_bytes().to_vec(),
                    ExprKind::Inet { bytes, v6 } if lpm => prefix_key(bytes, if *v6 { 128 } else { 32 }, *v6),
                    ExprKind::Inet { bytes, v6 } => {
                        let mut key = u64::from(family(*v6)).to_le_bytes().to_vec();
                        key.extend(bytes);
                        key
                    }
                    ExprKind::Mac(mac) => [&mac[..], &[0, 0]].concat(),
                    ExprKind::Str(text) => {
                        let mut key = text.clone();
                        key.resize(room, 0);
                        key
                    }
                    _ => continue,
                }),
                SetElem::Range(a, b) => {
                    let (ExprKind::Int(a), ExprKind::Int(b)) = (&a.kind, &b.kind) else {
                        let message = format!("a set of more than {INLINE_ELEMENTS} elements cannot have ranges of addresses");
                        self.error(Diagnostic::error("set-range", span, message).help("write them as prefixes"));
                        return None;
                    };
                    let n = usize::try_from(b.saturating_sub(*a)).unwrap_or(usize::MAX);
                    if n.saturating_add(keys.len()) >= MAX_ELEMENTS {
                        let message = format!("the ranges of this set have more than {MAX_ELEMENTS} elements");
                        self.error(Diagnostic::error("set-too-large", span, message));
                        return None;
                    }
                    keys.extend((*a..=*b).map(|n| n.to_le_bytes().to_vec()));
                }
            }
        }
        keys.sort();
        keys.dedup();
        let ty = if let Ty::Str { .. } = ty {
            Ty::Str {
                cap: u32::try_from(room).unwrap_or(512),
            }
        } else {
            ty.clone()
        };
        Some(SetMap { lpm, ty, keys })
    }
}

fn family(v6: bool) -> u32 {
    if v6 { 10 } else { 2 }
}

/// Bits that count (the family is part of them), family, address.
fn prefix_key(bytes: &[u8; 16], len: u8, v6: bool) -> Vec<u8> {
    let mut key = (32 + u32::from(len)).to_le_bytes().to_vec();
    key.extend(family(v6).to_le_bytes());
    key.extend(bytes);
    key
}
