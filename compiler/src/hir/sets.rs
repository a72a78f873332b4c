//! `x in …`: lists, maps, files. Long lists become a map that is filled before the script runs.

use super::check::{Checker, Options};
use super::map_types::DeclaredKind;
use super::{Expr, ExprKind, SetElem, SetMap, Ty};
use crate::kernel::KernelInfo;
use weir_parser::ast::{self, BinaryOp};
use weir_parser::{Diagnostic, Span};
use weir_stdlib::prefix::covering;

/// The code of what is said of a parameter that the command line does not have.
const NOT_GIVEN: &str = "param-missing";
/// Sets up to this size are compared element by element.
const INLINE_ELEMENTS: usize = 64;
/// Elements that a set has at most, ranges counted by what is in them.
const MAX_ELEMENTS: usize = 1 << 20;

impl Checker<'_> {
    pub(super) fn in_set(&mut self, value: &ast::Expr, set: &ast::InSet, span: Span) -> Expr {
        if let ast::InSet::Expr(map) = set
            && self.is_native_map(map)
        {
            return self.in_native(value, map, span);
        }
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
                    self.error(match expr.kind {
                        ast::ExprKind::Ipv4Prefix(..) | ast::ExprKind::Ipv4(_) => d.help("put it in parentheses: `ip.src in (10.0.0.0/8)`"),
                        _ => d.help("`x in (1, 5-9)`, `x in @map` or `x in file(\"path\")`"),
                    });
                    return self.failed(span);
                }
            },
        };
        if value.ty == Ty::Error {
            return self.failed(span);
        }
        let mut out = Vec::new();
        let mut seen = 0;
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
            if let ExprKind::Field(index) = value.kind
                && !out[seen..].iter().all(|e| self.element_fits(index, e, span))
            {
                return self.failed(span);
            }
            seen = out.len();
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

    /// Whether the field can ever have this value; says so when not.
    fn element_fits(&mut self, field: usize, elem: &SetElem, set: Span) -> bool {
        let field = &crate::tables::FIELDS[field];
        match elem {
            SetElem::One(e) => {
                self.fits_width(field, BinaryOp::Eq, e);
                self.fits_family(field, e)
            }
            SetElem::Range(low, high) => {
                self.fits_width(field, BinaryOp::Eq, low);
                self.fits_width(field, BinaryOp::Eq, high);
                self.fits_family(field, low)
            }
            SetElem::Prefix(_, _, v6) => self.same_family(field, *v6, set),
        }
    }

    /// Whether the script declares the map as `lpm`.
    pub(super) fn is_lpm(&self, map: usize) -> bool {
        let state = &self.maps[map];
        match state.copy {
            Some(copy) => copy.lpm,
            None => self.decls.get(&state.name).is_some_and(|d| d.kind == DeclaredKind::Lpm),
        }
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
        if let ExprKind::Inet { bytes, v6 } = value.kind {
            return prefix(bytes, if v6 { 128 } else { 32 }, v6);
        }
        match value.ty {
            Ty::Inet | Ty::Prefix => Some(Self::make(ExprKind::Convert(Box::new(value)), Ty::Prefix, span)),
            Ty::Error => None,
            other => {
                let message = format!("the key is a prefix or an address here, found `{other}`");
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

    /// `file("path")`: one element a line; empty lines and comments do not count.
    fn file_elements(&mut self, args: &[ast::Arg], span: Span, value: &Expr, out: &mut Vec<SetElem>) -> Option<()> {
        let path = match file_path(args, span, self.options) {
            Ok(path) => path,
            // Whatever is in the file that will be named.
            Err(d) if self.options.judged_only && d.code == NOT_GIVEN => return Some(()),
            Err(d) => {
                self.error(*d);
                return None;
            }
        };
        let content = match self.kernel.read_file(&path) {
            Ok(content) => String::from_utf8_lossy(&content).into_owned(),
            Err(e) => {
                self.error(Diagnostic::error("no-file", span, format!("cannot read `{path}`: {e}")));
                return None;
            }
        };
        let mut bad = 0;
        for (number, line) in weir_stdlib::with_line_feeds(&content).lines().enumerate() {
            let text = match &value.ty {
                // A semicolon may belong to it.
                Ty::Str { .. } => line.split('#').next().unwrap_or_default(),
                _ => weir_stdlib::without_comment(line),
            };
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            match self.line_element(text, &value.ty, span) {
                Ok(elem) => out.push(elem),
                Err(expected) => {
                    bad += 1;
                    // A few lines show what is wrong with all.
                    if bad <= 5 {
                        let why = weir_stdlib::prefix::parse_prefix(text).err();
                        let message = match why.filter(|_| value.ty == Ty::Inet && text.contains('/')) {
                            Some(why) => format!("{path}:{}: `{text}` is not a prefix: {why}", number + 1),
                            None => format!("{path}:{}: expected {expected}, found `{text}`", number + 1),
                        };
                        self.error(Diagnostic::error("bad-line", span, message));
                    }
                }
            }
        }
        (bad == 0).then_some(())
    }

    fn line_element(&self, text: &str, ty: &Ty, span: Span) -> Result<SetElem, &'static str> {
        let max_strlen = self.config.max_strlen as usize;
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
            Ty::Str { .. } => "text that `max_strlen` allows",
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
            Ty::Str { .. } if text.len() < max_strlen => Some(SetElem::One(Self::text_literal(text.as_bytes().to_vec(), span))),
            _ => None,
        };
        elem.ok_or(expected)
    }

    /// Makes the keys of a map out of a long list.
    fn set_map(&mut self, elems: &[SetElem], ty: &Ty, span: Span) -> Option<SetMap> {
        let is_prefix = |e: &SetElem| match e {
            SetElem::Prefix(..) => true,
            SetElem::Range(a, _) => matches!(a.kind, ExprKind::Inet { .. }),
            SetElem::One(_) => false,
        };
        let lpm = elems.iter().any(is_prefix);
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
                    if let (ExprKind::Inet { bytes: a, v6 }, ExprKind::Inet { bytes: b, .. }) = (&a.kind, &b.kind) {
                        keys.extend(range_prefixes(a, b, *v6).map(|(bytes, len)| prefix_key(&bytes, len, *v6)));
                        continue;
                    }
                    let (ExprKind::Int(a), ExprKind::Int(b)) = (&a.kind, &b.kind) else {
                        continue;
                    };
                    let n = usize::try_from(b.saturating_sub(*a)).unwrap_or(usize::MAX);
                    if n.saturating_add(keys.len()) >= MAX_ELEMENTS {
                        let message = format!("the ranges of this set have more than {MAX_ELEMENTS} elements");
                        let help = format!("a comparison takes no room: `x >= {a} && x <= {b}`");
                        self.error(Diagnostic::error("set-too-large", span, message).help(help));
                        return None;
                    }
                    keys.extend((*a..=*b).map(|n| n.to_le_bytes().to_vec()));
                }
            }
        }
        keys.sort();
        keys.dedup();
        if keys.len() > MAX_ELEMENTS {
            let message = format!("this set has {} elements; {MAX_ELEMENTS} is the most", keys.len());
            self.error(Diagnostic::error("set-too-large", span, message).help("`use blocklist(…)` holds millions of prefixes"));
            return None;
        }
        let ty = if let Ty::Str { .. } = ty {
            Ty::Str {
                cap: u32::try_from(room).unwrap_or(u32::MAX),
            }
        } else {
            ty.clone()
        };
        Some(SetMap { lpm, ty, keys })
    }
}

/// The path that `file(…)` names: a literal, or what the command line says (`$1`, `str($1)`, `getopt("name", "default")`).
pub(super) fn file_path(args: &[ast::Arg], span: Span, options: &Options) -> Result<String, Box<Diagnostic>> {
    if let [ast::Arg { name: None, value }] = args {
        if let Some(d) = not_given(value, options) {
            return Err(d);
        }
        if let Some(text) = given_text(value, options)? {
            return Ok(text);
        }
    }
    let d = Diagnostic::error(
        "argument-type",
        span,
        "`file` takes the path of a file, which must be known before the start",
    );
    Err(Box::new(d.help(
        "`file(\"addresses.txt\")`, `file($1)` or `file(getopt(\"list\", \"addresses.txt\"))`",
    )))
}

/// A text that is known before the start; `None` where it is not.
pub(super) fn given_text(value: &ast::Expr, options: &Options) -> Result<Option<String>, Box<Diagnostic>> {
    use ast::ExprKind as E;
    let positional = |n: u32| {
        let index = usize::try_from(n).ok().and_then(|n| n.checked_sub(1));
        index.and_then(|i| options.positional.get(i)).cloned().map(Some).ok_or_else(|| {
            let d = Diagnostic::error(NOT_GIVEN, value.span, format!("the parameter `${n}` is not given"));
            Box::new(d.help("it stands behind the script on the command line"))
        })
    };
    match &value.kind {
        E::Str(text) => Ok(Some(String::from_utf8_lossy(text).into_owned())),
        E::Param(n) => positional(*n),
        E::Call { name, args } if name.name == "str" => match args.first().map(|a| &a.value.kind) {
            Some(E::Param(n)) => positional(*n),
            _ => Ok(None),
        },
        E::Call { name, args } if name.name == "getopt" => Ok(named(args, options)),
        _ => Ok(None),
    }
}

/// What is said of a `getopt` without a default, or with an empty one, that is not given where nothing is called nothing: no file,
/// no interface. In code it would be a switch that is off.
pub(super) fn not_given(value: &ast::Expr, options: &Options) -> Option<Box<Diagnostic>> {
    use ast::ExprKind as E;
    let E::Call { name, args } = &value.kind else { return None };
    if name.name != "getopt" {
        return None;
    }
    let E::Str(name) = &args.first()?.value.kind else { return None };
    let name = String::from_utf8_lossy(name);
    let has_default = args
        .get(1)
        .is_some_and(|a| !matches!(&a.value.kind, E::Str(text) if text.is_empty()));
    let given = options.named.iter().rev().find(|(n, _)| *n == name);
    let is_switch = args.get(1).is_none_or(|a| matches!(a.value.kind, E::Bool(_)));
    if matches!(given, Some((_, None))) && !is_switch {
        return Some(Box::new(value_missing(&name, value.span, "VALUE")));
    }
    if has_default || given.is_some() {
        return None;
    }
    let d = Diagnostic::error(NOT_GIVEN, value.span, format!("the parameter `--{name}` is not given"));
    let help = format!("write `--{name}=VALUE` behind the script, or give it a default: `getopt(\"{name}\", \"DEFAULT\")`");
    Some(Box::new(d.help(help)))
}

/// What is said of `--name` alone where it is no switch. `form` is what the value looks like.
pub(super) fn value_missing(name: &str, span: Span, form: &str) -> Diagnostic {
    Diagnostic::error("param-type", span, format!("`--{name}` needs a value")).help(format!("write `--{name}={form}` behind the script"))
}

/// `getopt("name", default)`: what `--name=…` says, else the default, as text.
fn named(args: &[ast::Arg], options: &Options) -> Option<String> {
    use ast::ExprKind as E;
    let E::Str(name) = &args.first()?.value.kind else { return None };
    let name = String::from_utf8_lossy(name);
    let given = options.named.iter().rev().find(|(n, _)| *n == name);
    match (given, args.get(1).map(|a| &a.value.kind)) {
        (Some((_, Some(value))), _) => Some(value.clone()),
        (Some((_, None)), _) => Some("true".to_owned()),
        (None, Some(E::Str(text))) => Some(String::from_utf8_lossy(text).into_owned()),
        (None, Some(E::Int(n))) => Some(n.to_string()),
        (None, Some(E::Duration(ns))) => Some(weir_stdlib::show_duration(*ns)),
        (None, Some(E::Bool(b))) => Some(b.to_string()),
        (None, None) => Some("false".to_owned()),
        _ => None,
    }
}

/// Reads the prefixes that an `lpm` map starts with: one a line, `#` comments, an address alone is one of its full length.
pub(super) fn file_prefixes(
    file: &ast::Expr,
    kernel: &dyn KernelInfo,
    options: &Options,
    max_entries: u32,
    out: &mut Vec<Diagnostic>,
) -> Option<Vec<Vec<u8>>> {
    let span = file.span;
    let path = match &file.kind {
        ast::ExprKind::Call { name, args } if name.name == "file" => file_path(args, span, options),
        _ => {
            let d = Diagnostic::error("argument-type", span, "an `lpm` map is filled from a file");
            Err(Box::new(d.help("`let @bad = lpm(1024, file(\"prefixes.txt\"));`")))
        }
    };
    let path = match path {
        Ok(path) => path,
        // Whatever is in the file that will be named.
        Err(d) if options.judged_only && d.code == NOT_GIVEN => return Some(Vec::new()),
        Err(d) => {
            out.push(*d);
            return None;
        }
    };
    let content = match kernel.read_file(&path) {
        Ok(content) => String::from_utf8_lossy(&content).into_owned(),
        Err(e) => {
            out.push(Diagnostic::error("no-file", span, format!("cannot read `{path}`: {e}")));
            return None;
        }
    };
    let mut keys = Vec::new();
    let mut bad = 0;
    for (number, line) in weir_stdlib::with_line_feeds(&content).lines().enumerate() {
        let text = weir_stdlib::without_comment(line).trim();
        if text.is_empty() {
            continue;
        }
        match weir_stdlib::prefix::parse_prefix(text) {
            Ok((address, len)) => {
                let (bytes, v6) = super::ops::inet_bytes(address);
                let mut key = u32::from(len).wrapping_add(32).to_le_bytes().to_vec();
                key.extend(family(v6).to_le_bytes());
                key.extend(bytes);
                keys.push(key);
            }
            Err(why) => {
                bad += 1;
                // A few lines show what is wrong with all.
                if bad <= 5 {
                    let message = format!("{path}:{}: `{text}` is not a prefix: {why}", number + 1);
                    out.push(Diagnostic::error("bad-line", span, message));
                }
            }
        }
    }
    if bad > 0 {
        return None;
    }
    keys.sort();
    keys.dedup();
    if keys.len() > max_entries as usize {
        let message = format!("`{path}` has {} prefixes, the map holds {max_entries}", keys.len());
        out.push(Diagnostic::error("set-too-large", span, message).help(format!("`lpm({}, …)`", keys.len().next_power_of_two())));
        return None;
    }
    Some(keys)
}

fn family(v6: bool) -> u32 {
    if v6 { 10 } else { 2 }
}

/// The fewest prefixes that have exactly the addresses from `low` to `high`.
fn range_prefixes(low: &[u8; 16], high: &[u8; 16], v6: bool) -> impl Iterator<Item = ([u8; 16], u8)> + use<> {
    let width: u8 = if v6 { 128 } else { 32 };
    let unused = 128 - width;
    let (low, high) = (u128::from_be_bytes(*low) >> unused, u128::from_be_bytes(*high) >> unused);
    covering(low, high, width).map(move |(at, len)| ((at << unused).to_be_bytes(), len))
}

/// Bits that count (the family is part of them), family, address.
pub(super) fn prefix_key(bytes: &[u8; 16], len: u8, v6: bool) -> Vec<u8> {
    let mut key = (32 + u32::from(len)).to_le_bytes().to_vec();
    key.extend(family(v6).to_le_bytes());
    key.extend(bytes);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(low: &str, high: &str) -> Vec<String> {
        let (a, v6) = crate::hir::ops::inet_bytes(low.parse().unwrap());
        let (b, _) = crate::hir::ops::inet_bytes(high.parse().unwrap());
        let text = |bytes: [u8; 16]| match v6 {
            true => std::net::IpAddr::from(bytes).to_string(),
            false => std::net::IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]).to_string(),
        };
        range_prefixes(&a, &b, v6)
            .map(|(bytes, len)| format!("{}/{len}", text(bytes)))
            .collect()
    }

    #[test]
    fn ranges_of_addresses_become_the_fewest_prefixes() {
        assert_eq!(
            prefixes("10.0.0.1", "10.0.0.9"),
            ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/30", "10.0.0.8/31"]
        );
        assert_eq!(prefixes("0.0.0.0", "255.255.255.255"), ["0.0.0.0/0"]);
        assert_eq!(prefixes("255.255.255.254", "255.255.255.255"), ["255.255.255.254/31"]);
        assert_eq!(prefixes("10.0.0.7", "10.0.0.7"), ["10.0.0.7/32"]);
        assert_eq!(prefixes("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ["::/0"]);
        assert_eq!(prefixes("2001:db8::1", "2001:db8::2"), ["2001:db8::1/128", "2001:db8::2/128"]);
        // Every address of a range is in exactly one of them.
        let parts = prefixes("192.0.2.3", "192.0.2.250");
        let size: u32 = parts
            .iter()
            .map(|p| 1 << (32 - p.split('/').nth(1).unwrap().parse::<u32>().unwrap()))
            .sum();
        assert_eq!(size, 248);
    }
}
