//! Natives: `use NAME(…) as ALIAS;` and blocks on their events.

use super::Site;
use crate::hir::check::{Checker, Options, nearest_name};
use crate::hir::sets::{file_path, given_text, not_given};
use crate::object::{AttachPoint, NativeInstance};
use crate::tables::{self, Hook};
use std::net::{IpAddr, Ipv4Addr};
use weir_parser::{Diagnostic, Span, ast};
use weir_stdlib::prefix::Range;
use weir_stdlib::{ParamDecl, ParamType, ParamValue};

impl Checker<'_> {
    pub(super) fn native_site(&mut self, point: &ast::AttachPoint, instance: usize, parts: &[String], out: &mut Vec<Site>) {
        let native = &self.natives[instance];
        let names: Vec<String> = native
            .native
            .events
            .iter()
            .map(|e| format!("`{}:{}`", native.alias, e.name))
            .collect();
        let [_, name] = parts else {
            let d = Diagnostic::error(
                "probe-form",
                point.span,
                format!("`{}` must name one event of `{}`", point.text, native.native.name),
            )
            .help(names.join(", "));
            return self.error(d);
        };
        let Some(event) = native.native.events.iter().position(|e| e.name == name) else {
            let d = Diagnostic::error(
                "unknown-event",
                point.parts[1].span,
                format!("`{}` has no event `{name}`", native.native.name),
            )
            .help(format!("its events are {}", names.join(", ")));
            return self.error(d);
        };
        let hook = match native.event_hook(event) {
            weir_stdlib::Hook::Xdp => Hook::NativeXdp,
            weir_stdlib::Hook::Tc => Hook::NativeTc,
            weir_stdlib::Hook::Trace => Hook::NativeTrace,
        };
        for link_layer in native.link_layers(self.kernel) {
            let attach = AttachPoint::NativeEvent {
                instance,
                event,
                link_layer,
            };
            let mut site = Site::new(hook, point.span, parts, attach);
            site.native = Some((instance, event));
            out.push(site);
        }
    }
}

/// Checks `use NAME(…) as ALIAS;` against the declaration.
pub(in crate::hir) fn native_instance(
    item: &ast::Use,
    program: &ast::Program,
    earlier: &[NativeInstance],
    options: &Options,
    out: &mut Vec<Diagnostic>,
) -> Option<NativeInstance> {
    let Some(native) = weir_stdlib::native(&item.native.name) else {
        let d = Diagnostic::error("unknown-native", item.native.span, format!("unknown native `{}`", item.native.name));
        let d = match nearest_name(&item.native.name, weir_stdlib::NATIVES.iter().map(|n| n.name)) {
            Some(near) => d.help(format!("did you mean `{near}`?")),
            None => d.help(format!(
                "there are `{}`",
                weir_stdlib::NATIVES.iter().map(|n| n.name).collect::<Vec<_>>().join("`, `")
            )),
        };
        out.push(d);
        return None;
    };
    let alias = item.alias.as_ref().unwrap_or(&item.native);
    let mut usable = true;
    let meaning = match tables::provider(&alias.name) {
        Some(provider) if provider.name != alias.name => Some(format!("is short for the probe `{}`", provider.name)),
        Some(_) => Some("is a kind of probe".to_owned()),
        None if tables::is_header_word(&alias.name) => Some("is a header of packets".to_owned()),
        None => (alias.name == "args").then(|| "are the arguments of a probe".to_owned()),
    };
    if let Some(meaning) = meaning {
        usable = false;
        let message = format!("`{}` {meaning}", alias.name);
        let help = format!("`as {}`, or another name of your own", free_alias(&native.name[..2], program));
        out.push(Diagnostic::error("bad-alias", alias.span, message).help(help));
    }
    if let Some(other) = earlier.iter().find(|n| n.alias == alias.name) {
        usable = false;
        out.push(
            Diagnostic::error("bad-alias", alias.span, format!("`{}` names another instance", alias.name))
                .with(other.span, "taken here")
                .help(format!("`use {}(…) as {};`", native.name, free_alias(&alias.name, program))),
        );
    }
    let mut params = vec![None; native.params.len()];
    let mut spans = vec![None; native.params.len()];
    for (name, value) in &item.params {
        let Some(index) = native.params.iter().position(|p| p.name == name.name) else {
            let list: Vec<&str> = native.params.iter().map(|p| p.name).collect();
            let mut d = Diagnostic::error(
                "unknown-param",
                name.span,
                format!("`{}` has no parameter `{}`", native.name, name.name),
            );
            if let Some((_, why)) = native.without.iter().find(|(param, _)| *param == name.name) {
                out.push(d.help(*why));
                continue;
            }
            if let Some(near) = nearest_name(&name.name, list.iter().copied()) {
                d = d.help(format!("did you mean `{near}`?"));
            }
            out.push(d.help(format!("its parameters are `{}`", list.join("`, `"))));
            continue;
        };
        if params[index].is_some() {
            out.push(Diagnostic::error(
                "param-twice",
                name.span,
                format!("`{}` is given twice", name.name),
            ));
            continue;
        }
        match param_value(&native.params[index], value, options) {
            Ok(v) => {
                params[index] = Some(v);
                spans[index] = Some(value.span);
            }
            Err(d) => out.push(*d),
        }
    }
    for (decl, given) in native.params.iter().zip(&params) {
        if decl.required && given.is_none() && !item.params.iter().any(|(n, _)| n.name == decl.name) {
            out.push(
                Diagnostic::error(
                    "param-missing",
                    item.span,
                    format!("`{}` needs the parameter `{}`", native.name, decl.name),
                )
                .help(format!("`{}=…`: {}", decl.name, decl.doc)),
            );
        }
    }
    let word = |name: &str| {
        let at = native.params.iter().position(|p| p.name == name)?;
        match params[at].as_ref()? {
            ParamValue::Str(word) => Some(word.as_str()),
            _ => None,
        }
    };
    for apart in native.apart {
        let (with, words) = apart.with;
        let at = native
            .params
            .iter()
            .position(|p| p.name == apart.param && word(with).is_some_and(|w| words.contains(&w)));
        if let Some(span) = at.filter(|at| params[*at].is_some()).and_then(|at| spans[at]) {
            out.push(Diagnostic::error("param-value", span, apart.message).help(apart.help));
        }
    }
    // With wrong parameters nothing runs, but the name stands for what the author means.
    usable.then(|| NativeInstance {
        native,
        alias: alias.name.clone(),
        params,
        span: item.span,
        param_spans: spans,
    })
}

/// A name like the one that is wanted, which no other instance has.
fn free_alias(wanted: &str, program: &ast::Program) -> String {
    let taken = |name: &str| {
        program
            .items
            .iter()
            .any(|item| matches!(item, ast::Item::Use(u) if u.alias.as_ref().unwrap_or(&u.native).name == name))
    };
    let mut name = wanted.to_owned();
    let mut number = 1;
    while taken(&name) {
        number += 1;
        name = format!("{wanted}{number}");
    }
    name
}

fn param_value(decl: &ParamDecl, value: &ast::Expr, options: &Options) -> Result<ParamValue, Box<Diagnostic>> {
    use ast::ExprKind as E;
    let expected = || match decl.ty {
        ParamType::Iface => "the name of an interface in quotes, such as \"eth1\"".to_owned(),
        ParamType::Prefixes => "`file(\"path\")`, a prefix, or a list such as `(10.0.0.0/8, \"2001:db8::/32\")`".to_owned(),
        ParamType::File => "`file(\"path\")`".to_owned(),
        ParamType::Ports => "a port, or a list of ports and ranges such as `(80, 443, 8000-8080)`".to_owned(),
        ParamType::Duration { min_ns } => format!("a time such as `30s` or `\"5m\"`, at least {}", weir_stdlib::show_duration(min_ns)),
        ParamType::Text => "a text in quotes".to_owned(),
        ParamType::Path { none: None } => "a path in quotes".to_owned(),
        ParamType::Path { none: Some(word) } => format!("a path in quotes, or `\"{word}\"`"),
        ParamType::Name => "a name in quotes: up to 48 letters, digits, `-` and `_`".to_owned(),
        ParamType::Choice(words) => format!("one of \"{}\"", words.join("\", \"")),
        ParamType::Bool => "`true` or `false`".to_owned(),
        ParamType::Int { min, max } => format!("an integer from {min} to {max}"),
    };
    let plain = || Diagnostic::error("param-value", value.span, format!("`{}` takes {}", decl.name, expected()));
    if let Some(missing) = missing(value, options) {
        return if options.judged_only { Ok(stand_in(decl.ty)) } else { Err(missing) };
    }
    // `$1` stands for its text.
    let from_outside = matches!(&value.kind, E::Call { name, .. } if name.name == "getopt");
    let text = match from_outside {
        true => Some(given_text(value, options)?.ok_or_else(|| Box::new(plain().help(decl.doc)))?),
        false => given_text(value, options)?,
    };
    let found = text.clone();
    let wrong = || {
        let mut d = plain();
        // What comes from the command line stands nowhere in the script.
        if let (Some(found), false) = (&found, matches!(value.kind, E::Str(_))) {
            d.message.push_str(&format!(", found `{found}`"));
        }
        if let Some(edit) = edit(decl, value, found.as_deref()) {
            d = d.help(edit);
        }
        Box::new(d.help(decl.doc))
    };
    match (decl.ty, &value.kind, text) {
        (ParamType::Iface, _, Some(text)) if !text.is_empty() => Ok(ParamValue::Str(text)),
        (ParamType::Choice(words), _, Some(text)) if words.contains(&text.as_str()) => Ok(ParamValue::Str(text)),
        (ParamType::Bool, E::Bool(b), _) => Ok(ParamValue::Bool(*b)),
        (ParamType::Bool, _, Some(text)) if text == "true" || text == "false" => Ok(ParamValue::Bool(text == "true")),
        (ParamType::Text | ParamType::Path { .. }, _, Some(text)) => Ok(ParamValue::Str(text)),
        (ParamType::Name, _, Some(text)) if weir_stdlib::is_name(&text) => Ok(ParamValue::Str(text)),
        (ParamType::Duration { min_ns }, kind, text) => {
            let ns = match kind {
                E::Duration(ns) => Some(*ns),
                _ => text.as_deref().and_then(weir_stdlib::parse_duration),
            };
            ns.filter(|ns| *ns >= min_ns).map(ParamValue::Duration).ok_or_else(wrong)
        }
        (ParamType::Ports | ParamType::Prefixes, E::Tuple(elems), _) if elems.is_empty() => {
            let d = Diagnostic::error("param-value", value.span, format!("`{}` is an empty list", decl.name));
            let edit = match decl.required {
                true => "give it an entry".to_owned(),
                false => format!("give it an entry, or leave `{}` out", decl.name),
            };
            Err(Box::new(d.help(edit).help(decl.doc)))
        }
        (ParamType::Ports, E::Tuple(elems), _) => elems
            .iter()
            .map(|elem| port_range(decl, elem))
            .collect::<Result<_, _>>()
            .map(ParamValue::Ports),
        (ParamType::Ports, _, Some(text)) => {
            let ranges = text.split(',').map(|part| ports_text(decl, part.trim(), value.span));
            ranges.collect::<Result<_, _>>().map(ParamValue::Ports)
        }
        (ParamType::Ports, E::Int(_) | E::Binary { .. }, None) => port_range(decl, value).map(|range| ParamValue::Ports(vec![range])),
        (ParamType::Int { min, max }, E::Int(n) | E::Duration(n), _) if (min..=max).contains(n) => Ok(ParamValue::Int(*n)),
        (ParamType::Int { min, max }, _, Some(text)) => match text.parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(ParamValue::Int(n)),
            _ => Err(wrong()),
        },
        (ParamType::Prefixes | ParamType::File, E::Call { name, args }, None) if name.name == "file" => {
            file_path(args, value.span, options).map(ParamValue::File)
        }
        (ParamType::Prefixes, _, Some(text)) if text == "-" => Ok(ParamValue::Stdin),
        (ParamType::Prefixes, _, Some(text)) if !matches!(value.kind, E::Str(_)) => {
            // One of several is no name of them all.
            let written = outside(value).filter(|_| !text.contains(','));
            text.split(',')
                .map(|part| known_prefix(decl, part.trim(), written.as_deref(), value.span))
                .collect::<Result<Vec<_>, _>>()
                .map(ParamValue::List)
        }
        (ParamType::Prefixes, E::Tuple(elems), _) => elems
            .iter()
            .map(|elem| prefix_text(decl, elem))
            .collect::<Result<Vec<_>, _>>()
            .map(ParamValue::List),
        (ParamType::Prefixes, kind, _) if matches!(kind, E::Str(_) | E::Ipv4(_) | E::Ipv4Prefix(..)) || range_text(value).is_some() => {
            prefix_text(decl, value).map(|text| ParamValue::List(vec![text]))
        }
        _ => Err(wrong()),
    }
}

/// What is said of a value that takes its text from the command line, which does not have it.
fn missing(value: &ast::Expr, options: &Options) -> Option<Box<Diagnostic>> {
    use ast::ExprKind as E;
    let E::Call { name, args } = &value.kind else {
        return given_text(value, options).err();
    };
    match name.name.as_str() {
        "file" => missing(&args.first()?.value, options),
        "getopt" => not_given(value, options),
        _ => given_text(value, options).err(),
    }
}

/// A value that fits, for a parameter that nobody has given.
fn stand_in(ty: ParamType) -> ParamValue {
    match ty {
        ParamType::Iface | ParamType::Text | ParamType::Path { .. } | ParamType::Name => ParamValue::Str("any".to_owned()),
        ParamType::Prefixes => ParamValue::List(Vec::new()),
        ParamType::File => ParamValue::File("any".to_owned()),
        ParamType::Ports => ParamValue::Ports(vec![(1, 1)]),
        ParamType::Duration { min_ns } => ParamValue::Duration(min_ns),
        ParamType::Choice(words) => ParamValue::Str(words.first().copied().unwrap_or_default().to_owned()),
        ParamType::Bool => ParamValue::Bool(false),
        ParamType::Int { min, .. } => ParamValue::Int(min),
    }
}

fn prefix_text(decl: &ParamDecl, value: &ast::Expr) -> Result<String, Box<Diagnostic>> {
    let text = match &value.kind {
        ast::ExprKind::Ipv4([a, b, c, d]) => format!("{a}.{b}.{c}.{d}/32"),
        ast::ExprKind::Ipv4Prefix([a, b, c, d], len) => format!("{a}.{b}.{c}.{d}/{len}"),
        ast::ExprKind::Str(s) => String::from_utf8_lossy(s).into_owned(),
        _ => {
            if let Some(d) = no_entry(decl, value) {
                return Err(d);
            }
            if let Some(range) = range_text(value).and_then(|text| Range::parse(&text)) {
                return Err(no_range(&range, "\"", value.span));
            }
            let d = Diagnostic::error("bad-prefix", value.span, "expected an address or a prefix");
            return Err(Box::new(match bare(value).and_then(|text| as_file(decl, &text, None)) {
                Some(edit) => d.help(edit),
                None => d.help("`10.0.0.0/8` or `\"2001:db8::/32\"`"),
            }));
        }
    };
    match Range::parse(&text) {
        Some(range) => Err(no_range(&range, "\"", value.span)),
        None => known_prefix(decl, &text, None, value.span),
    }
}

/// A range of addresses without quotes, which the parser takes for a difference.
fn range_text(value: &ast::Expr) -> Option<String> {
    use ast::ExprKind as E;
    let E::Binary {
        op: ast::BinaryOp::Sub,
        left,
        right,
    } = &value.kind
    else {
        return None;
    };
    match (&left.kind, &right.kind) {
        (E::Ipv4(first), E::Ipv4(last)) => Some(format!("{}-{}", Ipv4Addr::from(*first), Ipv4Addr::from(*last))),
        _ => None,
    }
}

fn no_range(range: &Range, quote: &str, span: Span) -> Box<Diagnostic> {
    let (first, last) = (range.first, range.last);
    let message = format!("expected an address or a prefix, found the range `{first}-{last}`");
    Box::new(Diagnostic::error("bad-prefix", span, message).help(format!("write {}", range.instead(quote))))
}

/// Reads a prefix. `written` is how the script names the text, where it does not stand there itself.
fn known_prefix(decl: &ParamDecl, text: &str, written: Option<&str>, span: Span) -> Result<String, Box<Diagnostic>> {
    match weir_stdlib::prefix::parse_prefix(text) {
        Ok((address, len)) => Ok(format!("{address}/{len}")),
        Err(why) => {
            if let Some(range) = Range::parse(text) {
                return Err(no_range(&range, "", span));
            }
            let d = Diagnostic::error("bad-prefix", span, format!("`{text}` is not a prefix: {why}"));
            Err(Box::new(match as_file(decl, text, written) {
                Some(edit) => d.help(edit),
                None => d,
            }))
        }
    }
}

/// The change for a text that may name a file. What begins with an address is a prefix, or a line of a list, with a mistake in it.
fn as_file(decl: &ParamDecl, text: &str, written: Option<&str>) -> Option<String> {
    let head = text.split(['/', ' ', '%']).next().unwrap_or_default();
    let is_name = text.contains(char::is_alphabetic) && head.parse::<IpAddr>().is_err();
    let path = written.map_or_else(|| format!("\"{text}\""), str::to_owned);
    is_name.then(|| format!("to read a file: `{}=file({path})`", decl.name))
}

/// What stands in the script where a value comes from the command line.
fn outside(value: &ast::Expr) -> Option<String> {
    use ast::ExprKind as E;
    match &value.kind {
        E::Param(n) => Some(format!("${n}")),
        E::Call { name, args } if name.name == "str" => outside(&args.first()?.value),
        E::Call { name, args } if name.name == "getopt" => {
            let shown = |value: &ast::Expr| match &value.kind {
                E::Str(text) => format!("\"{}\"", String::from_utf8_lossy(text)),
                E::Int(n) => n.to_string(),
                _ => "…".to_owned(),
            };
            let args: Vec<String> = args.iter().map(|a| shown(&a.value)).collect();
            Some(format!("getopt({})", args.join(", ")))
        }
        _ => None,
    }
}

/// What is said of an entry that comes from the command line: what stands there may be a list of its own.
fn no_entry(decl: &ParamDecl, value: &ast::Expr) -> Option<Box<Diagnostic>> {
    let written = outside(value)?;
    let message = format!("`{written}` cannot stand in the list of `{}`", decl.name);
    let d = Diagnostic::error("param-value", value.span, message);
    let edit = format!("give it the whole list, with commas between: `{}={written}`", decl.name);
    Some(Box::new(d.help(edit).help(decl.doc)))
}

/// A word, or a name with a dot, that has no quotes.
fn bare(value: &ast::Expr) -> Option<String> {
    use ast::ExprKind as E;
    match &value.kind {
        E::Name(name) => Some(name.clone()),
        E::Field { base, name, arrow: false } => Some(format!("{}.{}", bare(base)?, name.name)),
        _ => None,
    }
}

/// The word that is meant: in other letters' case, or a similar one.
fn near_word<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    let same = words.iter().find(|w| w.eq_ignore_ascii_case(word));
    same.copied().or_else(|| nearest_name(word, words.iter().copied()))
}

/// The change that a value of the wrong form seems to want.
fn edit(decl: &ParamDecl, value: &ast::Expr, text: Option<&str>) -> Option<String> {
    use ast::ExprKind as E;
    let bare = bare(value);
    let bare = bare.as_deref();
    match decl.ty {
        ParamType::Choice(words) => match bare {
            Some(word) if words.contains(&word) => Some(format!("write it in quotes: `\"{word}\"`")),
            word => near_word(word.or(text)?, words).map(|near| format!("did you mean `\"{near}\"`?")),
        },
        ParamType::Iface | ParamType::Text | ParamType::Path { .. } | ParamType::Name => {
            bare.map(|word| format!("write it in quotes: `\"{word}\"`"))
        }
        ParamType::Bool => {
            let digit = match value.kind {
                E::Int(1) => Some("1"),
                E::Int(0) => Some("0"),
                _ => None,
            };
            match text.or(bare).or(digit)? {
                "yes" | "on" | "1" => Some("write `true`".to_owned()),
                "no" | "off" | "0" => Some("write `false`".to_owned()),
                word => near_word(word, &["true", "false"]).map(|near| format!("did you mean `{near}`?")),
            }
        }
        ParamType::Duration { min_ns } => {
            let seconds = match value.kind {
                E::Int(n) => n,
                _ => text?.parse::<u64>().ok()?,
            };
            let fits = seconds.checked_mul(1_000_000_000).is_some_and(|ns| ns >= min_ns);
            fits.then(|| format!("write it with its unit: `{seconds}s`"))
        }
        ParamType::File => match (&value.kind, text) {
            (E::Str(_), Some(text)) => Some(format!("write `file(\"{text}\")`")),
            _ => None,
        },
        ParamType::Prefixes => as_file(decl, bare?, None),
        ParamType::Ports | ParamType::Int { .. } => None,
    }
}

/// A port, or `LOW-HIGH`, which the parser takes for a difference where it is no element of a set.
fn port_range(decl: &ParamDecl, value: &ast::Expr) -> Result<(u16, u16), Box<Diagnostic>> {
    use ast::ExprKind as E;
    let no_range = || no_port(decl, value.span, format!("`{}` takes ports and ranges of ports", decl.name));
    match &value.kind {
        E::Int(n) => ports(decl, &n.to_string(), *n, *n, value.span),
        E::Str(text) => ports_text(decl, &String::from_utf8_lossy(text), value.span),
        E::Binary {
            op: ast::BinaryOp::Sub,
            left,
            right,
        } => match (&left.kind, &right.kind) {
            (E::Int(low), E::Int(high)) => ports(decl, &format!("{low}-{high}"), *low, *high, value.span),
            _ => Err(no_range()),
        },
        _ => Err(no_entry(decl, value).unwrap_or_else(no_range)),
    }
}

fn ports_text(decl: &ParamDecl, text: &str, span: Span) -> Result<(u16, u16), Box<Diagnostic>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (low.trim().parse(), high.trim().parse()) {
        (Ok(low), Ok(high)) => ports(decl, text, low, high, span),
        _ => Err(no_port(decl, span, format!("`{text}` is neither a port nor a range of ports"))),
    }
}

fn ports(decl: &ParamDecl, text: &str, low: u64, high: u64, span: Span) -> Result<(u16, u16), Box<Diagnostic>> {
    match (u16::try_from(low), u16::try_from(high)) {
        (Ok(low), Ok(high)) if low <= high => Ok((low, high)),
        (Ok(_), Ok(_)) => Err(no_port(decl, span, format!("the range `{text}` ends before it begins"))),
        _ => Err(no_port(decl, span, format!("`{text}` is not within the ports, 0 to 65535"))),
    }
}

fn no_port(decl: &ParamDecl, span: Span, message: String) -> Box<Diagnostic> {
    Box::new(Diagnostic::error("param-value", span, message).help(decl.doc))
}
