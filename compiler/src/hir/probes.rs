//! Attach points and `use`: from the words between colons to what the kernel is asked for.

use super::check::{Checker, Options, nearest, nearest_name};
use crate::kernel::{Feature, Support};
use crate::object::{Attach, AttachPoint, Direction, IfacePattern, MissingProbes, NativeInstance, XdpMode};
use crate::tables::{self, Hook};
use std::time::Duration;
use weir_parser::{Diagnostic, Span, ast};
use weir_stdlib::{ParamType, ParamValue};

/// One place a block runs at.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub hook: Hook,
    pub attach: Attach,
    pub text: String,
    pub func: String,
    pub tracepoint: Option<(String, String)>,
    /// Instance and event.
    pub native: Option<(usize, usize)>,
}

const MAX_PROBES: usize = 1024;

impl Checker<'_> {
    /// Resolves the attach points of a probe, wildcards expanded.
    pub(super) fn sites(&mut self, probe: &ast::Probe) -> Vec<Site> {
        let mut out = Vec::new();
        for point in &probe.attach_points {
            self.site(point, &mut out);
        }
        // The same place twice, by name or by two patterns, is one probe.
        let mut seen: Vec<AttachPoint> = Vec::new();
        if out.len() <= MAX_PROBES {
            out.retain(|s| {
                let new = !seen.contains(&s.attach.point);
                if new {
                    seen.push(s.attach.point.clone());
                }
                new
            });
        }
        if out.len() > MAX_PROBES {
            self.error(
                Diagnostic::error(
                    "too-many-probes",
                    probe.span,
                    format!("the attach points match {} places; {MAX_PROBES} is the most", out.len()),
                )
                .help("narrow the pattern"),
            );
            out.clear();
        }
        out
    }

    fn site(&mut self, point: &ast::AttachPoint, out: &mut Vec<Site>) {
        let parts: Vec<String> = point.parts.iter().map(|p| self.positional(&p.name)).collect();
        let Some(first) = parts.first() else { return };
        let span = point.span;
        let first_span = point.parts[0].span;
        let Some(provider) = tables::provider(first) else {
            if let Some(instance) = self.alias(first) {
                return self.native_site(point, instance, &parts, out);
            }
            let d = Diagnostic::error("unknown-provider", first_span, format!("unknown probe type `{first}`"));
            let names = tables::PROVIDERS.iter().map(|p| p.name);
            let aliases: Vec<&str> = self.natives.iter().map(|n| n.alias.as_str()).collect();
            let d = nearest(d, first, names.chain(aliases));
            let native = weir_stdlib::native(first);
            let d = if native.is_some() {
                d.help(format!("start an instance first: `use {first}(…) as x;`, then `x:EVENT`"))
            } else {
                d
            };
            return self.error(d);
        };
        let site = |hook: Hook, attach: AttachPoint| Site {
            hook,
            attach: Attach { point: attach, span },
            text: parts.join(":"),
            func: String::new(),
            tracepoint: None,
            native: None,
        };
        let wrong = |what: &str| {
            Diagnostic::error("probe-form", span, format!("`{}` {what}", parts.join(":"))).help(format!("the form is `{}`", provider.form))
        };
        match provider.name {
            "begin" | "end" => {
                if parts.len() > 1 {
                    return self.error(wrong("has too many parts"));
                }
                out.push(site(
                    Hook::RunOnce,
                    if provider.name == "begin" {
                        AttachPoint::Begin
                    } else {
                        AttachPoint::End
                    },
                ));
            }
            "self" => match parts.get(1..).unwrap_or_default() {
                [kind, name] if kind == "signal" && matches!(name.as_str(), "SIGUSR1" | "SIGUSR2") => {
                    out.push(site(Hook::RunOnce, AttachPoint::Signal { name: name.clone() }));
                }
                [kind, _] if kind == "signal" => self.error(wrong("names a signal that cannot be probed").help("`SIGUSR1` or `SIGUSR2`")),
                _ => self.error(wrong("is incomplete")),
            },
            "interval" | "profile" => match period(&parts[1..]) {
                Ok(period) => out.push(site(
                    Hook::PerfEvent,
                    if provider.name == "interval" {
                        AttachPoint::Interval { period }
                    } else {
                        AttachPoint::Profile { period }
                    },
                )),
                Err(what) => self.error(wrong(what)),
            },
            "tracepoint" => self.tracepoint_site(point, &parts, out, wrong),
            "kprobe" | "kretprobe" => self.kprobe_site(point, &parts, provider.name == "kretprobe", out, wrong),
            "xdp" => {
                let (iface, mode) = match parts.get(1..).unwrap_or_default() {
                    [iface] => (iface, XdpMode::Auto),
                    [iface, mode] => match mode.as_str() {
                        "native" => (iface, XdpMode::Native),
                        "generic" => (iface, XdpMode::Generic),
                        "offload" => (iface, XdpMode::Offload),
                        _ => return self.error(wrong("has an unknown mode")),
                    },
                    _ => return self.error(wrong("has the wrong number of parts")),
                };
                if let Some(iface) = self.iface(iface, point.parts[1].span) {
                    out.push(site(Hook::Xdp, AttachPoint::Xdp { iface, mode }));
                }
            }
            "tc" => {
                let [iface, direction] = parts.get(1..).unwrap_or_default() else {
                    return self.error(wrong("has the wrong number of parts"));
                };
                let direction = match direction.as_str() {
                    "ingress" | "from_pod" => Direction::Ingress,
                    "egress" | "to_pod" => Direction::Egress,
                    _ => return self.error(wrong("has an unknown direction")),
                };
                if let Some(iface) = self.iface(iface, point.parts[1].span) {
                    out.push(site(Hook::Tc, AttachPoint::Tc { iface, direction }));
                }
            }
            _ => self.error(wrong("is not supported by this version of weir")),
        }
    }

    /// Puts the positional parameters into an attach point's word.
    fn positional(&self, word: &str) -> String {
        if !word.contains('$') {
            return word.to_owned();
        }
        let mut out = String::new();
        let mut rest = word;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let digits: String = rest[at + 1..].chars().take_while(char::is_ascii_digit).collect();
            match digits.parse::<usize>().ok().and_then(|n| n.checked_sub(1)) {
                Some(i) => out.push_str(self.options.positional.get(i).map_or("", String::as_str)),
                None => out.push('$'),
            }
            rest = &rest[at + 1 + digits.len()..];
        }
        out.push_str(rest);
        out
    }

    fn iface(&mut self, word: &str, span: Span) -> Option<IfacePattern> {
        let (pattern, netns) = match word.split_once('@') {
            Some((pattern, netns)) => (pattern, Some(netns.to_owned())),
            None => (word, None),
        };
        if pattern.is_empty() {
            self.error(Diagnostic::error("no-interface", span, "the interface is missing"));
            return None;
        }
        let glob = pattern.contains(['*', '?', '[']);
        if !glob && netns.is_none() {
            let interfaces = self.kernel.interfaces();
            if !interfaces.iter().any(|i| i == pattern) {
                let d = Diagnostic::error("no-interface", span, format!("there is no interface `{pattern}`"));
                let d = match nearest_name(pattern, interfaces.iter().map(String::as_str)) {
                    Some(near) => d.help(format!("did you mean `{near}`?")),
                    None => d.help(format!("there are `{}`", interfaces.join("`, `"))),
                };
                self.error(d);
                return None;
            }
        }
        Some(IfacePattern {
            pattern: pattern.to_owned(),
            netns,
        })
    }

    fn native_site(&mut self, point: &ast::AttachPoint, instance: usize, parts: &[String], out: &mut Vec<Site>) {
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
        out.push(Site {
            hook: Hook::NativeXdp,
            attach: Attach {
                point: AttachPoint::NativeEvent { instance, event },
                span: point.span,
            },
            text: parts.join(":"),
            func: String::new(),
            tracepoint: None,
            native: Some((instance, event)),
        });
    }

    fn tracepoint_site(&mut self, point: &ast::AttachPoint, parts: &[String], out: &mut Vec<Site>, wrong: impl Fn(&str) -> Diagnostic) {
        let [_, category, name] = parts else {
            return self.error(wrong("has the wrong number of parts"));
        };
        let make = |category: &str, name: &str| Site {
            hook: Hook::Tracepoint,
            attach: Attach {
                point: AttachPoint::Tracepoint {
                    category: category.to_owned(),
                    name: name.to_owned(),
                },
                span: point.span,
            },
            text: format!("tracepoint:{category}:{name}"),
            func: String::new(),
            tracepoint: Some((category.to_owned(), name.to_owned())),
            native: None,
        };
        if is_glob(category) || is_glob(name) {
            let before = out.len();
            for (c, n) in self.kernel.tracepoints() {
                if glob_match(category, &c) && glob_match(name, &n) {
                    out.push(make(&c, &n));
                }
            }
            if out.len() == before {
                self.missing(point, format!("no tracepoint matches `{category}:{name}`"), None);
            }
            return;
        }
        if self.kernel.tracepoint(category, name).is_some() {
            out.push(make(category, name));
            return;
        }
        if let Support::No(why) | Support::Unknown(why) = self.kernel.feature(Feature::Tracefs) {
            self.error(Diagnostic::error(
                "no-tracefs",
                point.span,
                format!("tracepoints cannot be read: {why}"),
            ));
            return;
        }
        let all: Vec<String> = self.kernel.tracepoints().into_iter().map(|(c, n)| format!("{c}:{n}")).collect();
        let wanted = format!("{category}:{name}");
        // The right name in the wrong category is the likeliest slip.
        let near = all
            .iter()
            .find(|t| t.split(':').nth(1) == Some(name))
            .map(String::as_str)
            .or_else(|| nearest_name(&wanted, all.iter().map(String::as_str)));
        let near = near.map(|n| format!("did you mean `tracepoint:{n}`?"));
        self.missing(point, format!("there is no tracepoint `{wanted}`"), near);
    }

    fn kprobe_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        ret: bool,
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let (module, function) = match parts {
            [_, function] => (None, function.as_str()),
            [_, module, function] => (Some(module.clone()), function.as_str()),
            _ => return self.error(wrong("has the wrong number of parts")),
        };
        let (function, offset) = match function.split_once('+') {
            None => (function, 0),
            Some((name, offset)) => {
                let value = match offset.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => offset.parse(),
                };
                match value {
                    Ok(n) if !ret => (name, n),
                    Ok(_) => return self.error(wrong("cannot have an offset")),
                    Err(_) => return self.error(wrong("has an offset that is not a number")),
                }
            }
        };
        let hook = if ret { Hook::Kretprobe } else { Hook::Kprobe };
        let word = if ret { "kretprobe" } else { "kprobe" };
        let make = |function: &str| Site {
            hook,
            attach: Attach {
                point: AttachPoint::Kprobe {
                    module: module.clone(),
                    function: function.to_owned(),
                    offset,
                    ret,
                },
                span: point.span,
            },
            text: format!("{word}:{function}"),
            func: function.to_owned(),
            tracepoint: None,
            native: None,
        };
        if let Support::No(why) = self.kernel.feature(Feature::Kprobe) {
            let mut d = Diagnostic::error("no-kprobes", point.span, format!("this kernel has no kprobes ({why})"));
            let all = self.kernel.tracepoints();
            let same: Vec<String> = all
                .iter()
                .filter(|(_, n)| n == function)
                .map(|(c, n)| format!("`tracepoint:{c}:{n}`"))
                .collect();
            if !same.is_empty() {
                d = d.help(format!("{} works here; its fields are `args.field`", same.join(" or ")));
            } else if let Some(near) = related_tracepoint(function, &all) {
                d = d.help(format!(
                    "`tracepoint:{near}` works here and may answer the question; `weir -l 'tracepoint:*'` lists more"
                ));
            } else {
                d = d.help("tracepoints work here: `weir -l 'tracepoint:*'` lists them");
            }
            return self.error(d);
        }
        if is_glob(function) {
            let before = out.len();
            for name in self.kernel.functions() {
                if glob_match(function, &name) {
                    out.push(make(&name));
                }
            }
            if out.len() == before {
                self.missing(point, format!("no kernel function matches `{function}`"), None);
            }
            return;
        }
        if self.kernel.has_function(function) {
            out.push(make(function));
            return;
        }
        let functions = self.kernel.functions();
        let near = nearest_name(function, functions.iter().map(String::as_str)).map(|n| format!("did you mean `{word}:{n}`?"));
        self.missing(point, format!("this kernel has no function `{function}` that can be probed"), near);
    }

    /// A probe that does not exist: an error, a warning or nothing, as configured.
    fn missing(&mut self, point: &ast::AttachPoint, message: String, help: Option<String>) {
        let config = self.config.missing_probes;
        let mut d = match config {
            MissingProbes::Error => Diagnostic::error("unknown-probe", point.span, message),
            MissingProbes::Warn => Diagnostic::warning("unknown-probe", point.span, message),
            MissingProbes::Ignore => return,
        };
        if let Some(help) = help {
            d = d.help(help);
        }
        self.error(d);
    }
}

/// The tracepoint that shares the most words with a function's name, if it shares a telling one.
fn related_tracepoint(function: &str, all: &[(String, String)]) -> Option<String> {
    let words: Vec<&str> = function.split('_').filter(|w| w.len() > 2).collect();
    let score = |name: &str| name.split('_').filter(|w| words.contains(w)).count();
    let best = all
        .iter()
        .max_by_key(|(c, n)| (score(n), std::cmp::Reverse((c.len() + n.len(), c.clone(), n.clone()))))?;
    (score(&best.1) >= 2).then(|| format!("{}:{}", best.0, best.1))
}

fn is_glob(word: &str) -> bool {
    word.contains(['*', '?', '['])
}

/// Matches `*`, `?` and `[set]`.
#[must_use]
pub fn glob_match(pattern: &str, text: &str) -> bool {
    fn go(p: &[u8], t: &[u8]) -> bool {
        match p.first() {
            None => t.is_empty(),
            Some(b'*') => (0..=t.len()).any(|i| go(&p[1..], &t[i..])),
            Some(b'?') => !t.is_empty() && go(&p[1..], &t[1..]),
            Some(b'[') => {
                let Some(end) = p.iter().position(|&c| c == b']') else {
                    return t.first() == Some(&b'[') && go(&p[1..], &t[1..]);
                };
                let Some(&c) = t.first() else { return false };
                let set = &p[1..end];
                let (set, negate) = if set.first() == Some(&b'!') {
                    (&set[1..], true)
                } else {
                    (set, false)
                };
                let mut found = false;
                let mut i = 0;
                while i < set.len() {
                    if i + 2 < set.len() && set[i + 1] == b'-' {
                        found |= (set[i]..=set[i + 2]).contains(&c);
                        i += 3;
                    } else {
                        found |= set[i] == c;
                        i += 1;
                    }
                }
                found != negate && go(&p[end + 1..], &t[1..])
            }
            Some(c) => t.first() == Some(c) && go(&p[1..], &t[1..]),
        }
    }
    // Runs of `*` mean the same as one and cost exponentially.
    let mut pattern = pattern.as_bytes().to_vec();
    pattern.dedup_by(|a, b| *a == b'*' && *b == b'*');
    go(&pattern, text.as_bytes())
}

/// `s:3`, `ms:100`, `us:5`, `hz:99`, `10ms`, or bare nanoseconds.
fn period(parts: &[String]) -> Result<Duration, &'static str> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n > 0);
    let nanos = match parts {
        [one] => {
            let digits = one.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let n = number(digits).ok_or("has no positive number")?;
            let unit = match &one[digits.len()..] {
                "" | "ns" => 1,
                "us" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err("has an unknown unit"),
            };
            n.checked_mul(unit).ok_or("is too long")?
        }
        [unit, n] => {
            let n = number(n).ok_or("has no positive number")?;
            match unit.as_str() {
                "s" => n.checked_mul(1_000_000_000).ok_or("is too long")?,
                "ms" => n.checked_mul(1_000_000).ok_or("is too long")?,
                "us" => n.checked_mul(1_000).ok_or("is too long")?,
                "hz" => 1_000_000_000 / n,
                _ => return Err("has an unknown unit"),
            }
        }
        _ => return Err("has the wrong number of parts"),
    };
    if nanos < 1_000 {
        return Err("is shorter than a microsecond");
    }
    Ok(Duration::from_nanos(nanos))
}

/// Checks `use NAME(…) as ALIAS;` against the declaration.
pub(super) fn native_instance(
    item: &ast::Use,
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
    let errors = out.len();
    if tables::provider(&alias.name).is_some() || tables::is_header_word(&alias.name) || alias.name == "args" {
        out.push(
            Diagnostic::error("bad-alias", alias.span, format!("`{}` already has a meaning", alias.name))
                .help("`as bl`, or another name of your own"),
        );
    }
    if let Some(other) = earlier.iter().find(|n| n.alias == alias.name) {
        out.push(
            Diagnostic::error("bad-alias", alias.span, format!("`{}` names another instance", alias.name))
                .with(other.span, "taken here")
                .help(format!("`use {}(…) as {}2;`", native.name, alias.name)),
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
    if out[errors..].iter().any(Diagnostic::is_error) {
        return None;
    }
    Some(NativeInstance {
        native,
        alias: alias.name.clone(),
        params,
        span: item.span,
        param_spans: spans,
    })
}

fn param_value(decl: &weir_stdlib::ParamDecl, value: &ast::Expr, options: &Options) -> Result<ParamValue, Box<Diagnostic>> {
    use ast::ExprKind as E;
    let expected = || match decl.ty {
        ParamType::Iface => "the name of an interface in quotes, such as \"eth1\"".to_owned(),
        ParamType::Prefixes => "`file(\"path\")`, a prefix, or a list such as `(10.0.0.0/8, \"2001:db8::/32\")`".to_owned(),
        ParamType::Choice(words) => format!("one of \"{}\"", words.join("\", \"")),
        ParamType::Bool => "`true` or `false`".to_owned(),
        ParamType::Int { min, max } => format!("an integer from {min} to {max}"),
    };
    let wrong = || Box::new(Diagnostic::error("param-value", value.span, format!("`{}` takes {}", decl.name, expected())).help(decl.doc));
    // `$1` stands for its text.
    let positional = |n: u32| {
        usize::try_from(n)
            .ok()
            .and_then(|n| n.checked_sub(1))
            .and_then(|i| options.positional.get(i))
            .cloned()
    };
    let text = match &value.kind {
        E::Str(s) => Some(String::from_utf8_lossy(s).into_owned()),
        E::Param(n) => Some(positional(*n).ok_or_else(|| {
            Box::new(Diagnostic::error(
                "param-missing",
                value.span,
                format!("the parameter `${n}` is not given"),
            ))
        })?),
        E::Call { name, args } if name.name == "str" => match args.first().map(|a| &a.value.kind) {
            Some(E::Param(n)) => positional(*n),
            _ => None,
        },
        _ => None,
    };
    match (decl.ty, &value.kind, text) {
        (ParamType::Iface, _, Some(text)) if !text.is_empty() => Ok(ParamValue::Str(text)),
        (ParamType::Choice(words), _, Some(text)) if words.contains(&text.as_str()) => Ok(ParamValue::Str(text)),
        (ParamType::Bool, E::Bool(b), _) => Ok(ParamValue::Bool(*b)),
        (ParamType::Int { min, max }, E::Int(n) | E::Duration(n), _) if (min..=max).contains(n) => Ok(ParamValue::Int(*n)),
        (ParamType::Int { min, max }, _, Some(text)) => match text.parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(ParamValue::Int(n)),
            _ => Err(wrong()),
        },
        (ParamType::Prefixes, E::Call { name, args }, None) if name.name == "file" => match args.as_slice() {
            [ast::Arg { name: None, value: path }] => match &path.kind {
                E::Str(path) => Ok(ParamValue::File(String::from_utf8_lossy(path).into_owned())),
                E::Param(n) => positional(*n).map(ParamValue::File).ok_or_else(wrong),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        },
        (ParamType::Prefixes, E::Tuple(elems), _) => elems.iter().map(prefix_text).collect::<Result<Vec<_>, _>>().map(ParamValue::List),
        (ParamType::Prefixes, _, _) => match prefix_text(value) {
            Ok(text) => Ok(ParamValue::List(vec![text])),
            Err(d) if matches!(value.kind, E::Str(_)) => Err(d),
            Err(_) => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

fn prefix_text(value: &ast::Expr) -> Result<String, Box<Diagnostic>> {
    let text = match &value.kind {
        ast::ExprKind::Ipv4([a, b, c, d]) => format!("{a}.{b}.{c}.{d}/32"),
        ast::ExprKind::Ipv4Prefix([a, b, c, d], len) => format!("{a}.{b}.{c}.{d}/{len}"),
        ast::ExprKind::Str(s) => String::from_utf8_lossy(s).into_owned(),
        _ => {
            return Err(Box::new(
                Diagnostic::error("bad-prefix", value.span, "expected an address or a prefix").help("`10.0.0.0/8` or `\"2001:db8::/32\"`"),
            ));
        }
    };
    match weir_stdlib::prefix::parse_prefix(&text) {
        Ok((address, len)) => Ok(format!("{address}/{len}")),
        Err(why) => Err(Box::new(Diagnostic::error(
            "bad-prefix",
            value.span,
            format!("`{text}` is not a prefix: {why}"),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_like_the_shell() {
        assert!(glob_match("tcp_*", "tcp_sendmsg"));
        assert!(glob_match("*send*", "tcp_sendmsg"));
        assert!(!glob_match("tcp_*", "udp_sendmsg"));
        assert!(glob_match("v[ef]s_?ead", "vfs_read"));
        assert!(!glob_match("v[!f]s_read", "vfs_read"));
        assert!(glob_match("***************a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
    }

    #[test]
    fn periods_read_all_forms() {
        let p = |parts: &[&str]| period(&parts.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(p(&["s", "3"]), Ok(Duration::from_secs(3)));
        assert_eq!(p(&["hz", "100"]), Ok(Duration::from_millis(10)));
        assert_eq!(p(&["10ms"]), Ok(Duration::from_millis(10)));
        assert_eq!(p(&["500000"]), Ok(Duration::from_micros(500)));
        assert_eq!(p(&["s", "0"]), Err("has no positive number"));
        assert_eq!(p(&["weeks", "1"]), Err("has an unknown unit"));
    }
}
