//! Attach points and `use`, one file a family: from the words between colons to what the kernel is asked for.

mod cgroup;
mod fentry;
mod native;
mod packet;
mod perf;
mod tracing;
mod user;

pub(super) use native::native_instance;
pub use tracing::{iterators, raw_parameters};

use super::SiteNames;
use super::check::{Checker, nearest};
use super::usdt::UsdtArg;
use crate::btf::TypeId;
use crate::object::{Attach, AttachPoint, MissingProbes};
use crate::tables::{self, Hook};
use std::collections::HashMap;
use weir_parser::params::{Default, in_attach_point};
use weir_parser::{Diagnostic, Span, ast};

/// One place a block runs at.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub hook: Hook,
    pub attach: Attach,
    pub names: SiteNames,
    /// The provider's own name.
    pub probe_type: &'static str,
    pub target: Target,
    /// Instance and event.
    pub native: Option<(usize, usize)>,
}

/// Where the arguments of a block come from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    None,
    /// Category and name.
    Tracepoint(String, String),
    /// A function or event whose arguments lie in the context, 8 bytes each: its prototype, and how many parameters of it are
    /// not among them.
    Proto {
        proto: TypeId,
        skip: usize,
    },
    /// Numbered arguments without names or types.
    Numbered,
    /// A function of a BPF program: which of its arguments the kernel shows, and whether it returns something.
    BpfFunction {
        args: Vec<bool>,
        returns: bool,
    },
    /// Where a note says that the arguments are.
    Usdt(Vec<UsdtArg>),
    /// The struct that the context of an iterator is.
    Iter(TypeId),
}

impl Target {
    /// The first pointer in an iterator's context behind its head: null at the end.
    pub fn wants(&self, kernel: &dyn crate::kernel::KernelInfo) -> Option<u32> {
        let Target::Iter(id) = self else { return None };
        let btf = kernel.btf()?;
        let fields = btf.fields(*id);
        let (_, field) = fields.iter().find(|(name, _)| *name != "meta")?;
        matches!(btf.resolved(field.ty), Some(crate::btf::BtfType::Ptr(_))).then(|| field.byte_offset())
    }
}

impl Site {
    /// An attach point that needs no more than its words.
    fn new(hook: Hook, span: Span, parts: &[String], point: AttachPoint) -> Self {
        let provider = parts.first().and_then(|first| tables::provider(first));
        let probe_type = match point {
            AttachPoint::Begin | AttachPoint::End | AttachPoint::Signal { .. } => "special",
            _ => provider.map_or(hook.name(), |p| p.name),
        };
        let rest = parts.get(1..).unwrap_or_default().iter().map(String::as_str);
        let mut words: Vec<&str> = vec![provider.map_or(parts[0].as_str(), |p| p.name)];
        words.extend(rest);
        // A time alone is told in microseconds, as in bpftrace.
        let micros = match (&point, parts) {
            (AttachPoint::Interval { period } | AttachPoint::Profile { period }, [_, _]) => Some(period.as_micros().to_string()),
            _ => None,
        };
        if let Some(micros) = &micros {
            words.splice(1.., ["us", micros]);
        }
        Self {
            hook,
            attach: Attach { point, span },
            names: SiteNames {
                probe: words.join(":"),
                func: String::new(),
            },
            probe_type,
            target: Target::None,
            native: None,
        }
    }

    /// A place found by name: `probe` and `func` say which.
    fn found(hook: Hook, span: Span, probe_type: &'static str, place: &str, func: &str, point: AttachPoint) -> Self {
        Self {
            hook,
            attach: Attach { point, span },
            names: SiteNames {
                probe: format!("{probe_type}:{place}"),
                func: func.to_owned(),
            },
            probe_type,
            target: Target::None,
            native: None,
        }
    }

    /// Whether a block that does not depend on its place can be one program for both.
    pub fn shares_code(&self, other: &Site) -> bool {
        // Programs on functions of the kernel and iterators belong to one place each.
        let own = matches!(self.hook, Hook::Fentry | Hook::Fexit | Hook::Iter);
        let denies = |s: &Site| s.cgroup_hook().map(|h| h.can_deny);
        self.hook == other.hook
            && self.native == other.native
            && self.probe_type == other.probe_type
            && denies(self) == denies(other)
            && !own
    }
}

impl Site {
    /// The hook on system calls of sockets, for sites that are one.
    pub fn cgroup_hook(&self) -> Option<&'static tables::CgroupHook> {
        match self.attach.point {
            AttachPoint::Cgroup { hook, .. } => Some(hook),
            _ => None,
        }
    }
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
        let head = point.parts.first().map_or("", |p| p.name.as_str());
        let may_be_any = self.options.judged_only && tables::provider(head).is_some_and(|p| matches!(p.name, "xdp" | "tc"));
        let parts: Option<Vec<String>> = point
            .parts
            .iter()
            .enumerate()
            .map(|(i, p)| self.filled(p, may_be_any && i == 1))
            .collect();
        let Some(parts) = parts else { return };
        let Some(first) = parts.first() else { return };
        let span = point.span;
        let first_span = point.parts[0].span;
        let Some(provider) = tables::provider(first) else {
            if let Some(instance) = self.alias(first) {
                return self.native_site(point, instance, &parts, out);
            }
            if self.failed_uses.contains(first) {
                return;
            }
            if is_left_out(point) {
                let message = format!("`{}` is left out: weir runs no tests and benchmarks", parts.join(":"));
                self.diagnostics.push(Diagnostic::warning("left-out", span, message));
                return;
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
        if self.kernel.any_interface() && !provider.replays {
            let run: Vec<String> = tables::PROVIDERS
                .iter()
                .filter(|p| p.replays)
                .map(|p| format!("`{}`", p.name))
                .collect();
            let message = format!("`{}` cannot be replayed: a capture has packets only", provider.name);
            let d = Diagnostic::error("replay", span, message);
            return self.error(d.help(format!("a replay runs {}: `xdp:any {{ … }}` sees every packet", run.join(", "))));
        }
        let site = |hook: Hook, attach: AttachPoint| Site::new(hook, span, &parts, attach);
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
            "interval" | "profile" => match perf::period(&parts[1..]) {
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
            "rawtracepoint" => self.raw_tracepoint_site(point, &parts, out, wrong),
            "kprobe" | "kretprobe" => self.kprobe_site(point, &parts, provider.name == "kretprobe", out, wrong),
            "fentry" | "fexit" => self.fentry_site(point, &parts, provider.name == "fexit", out, wrong),
            "software" | "hardware" => self.counter_site(point, &parts, provider.name == "hardware", out, wrong),
            "watchpoint" => self.watchpoint_site(point, &parts, out, wrong),
            "uprobe" | "uretprobe" => self.uprobe_site(point, &parts, provider.name == "uretprobe", out, wrong),
            "usdt" => self.usdt_site(point, &parts, out, wrong),
            "iter" => self.iter_site(point, &parts, out, wrong),
            "xdp" => self.xdp_site(point, &parts, out, wrong),
            "tc" => self.tc_site(point, &parts, out, wrong),
            "cgroup" => self.cgroup_site(point, &parts, out, wrong),
            "cgroup_skb" => self.cgroup_skb_site(point, &parts, out, wrong),
            _ => self.error(wrong("is not supported by this version of weir")),
        }
    }

    /// Puts the script's parameters, named and positional, into an attach point's word. Where it may be any, those that are not given
    /// stand there by their names.
    fn filled(&mut self, word: &ast::Ident, any: bool) -> Option<String> {
        let mut out = String::new();
        let mut from = 0;
        for (range, param) in in_attach_point(&word.name) {
            out.push_str(&self.positional(&word.name[from..range.start], any));
            let given = self.options.named.iter().rev().find(|(n, _)| *n == param.name);
            if matches!(given, Some((_, None))) {
                self.error(super::sets::value_missing(&param.name, word.span, "TEXT"));
                return None;
            }
            match given
                .and_then(|(_, value)| value.clone())
                .or_else(|| self.attach_defaults.get(&param.name).cloned())
            {
                Some(value) => out.push_str(&value),
                None if any => out.push_str(&param.name),
                None => {
                    let d = Diagnostic::error("param-missing", word.span, format!("the parameter `--{}` is not given", param.name));
                    let call = format!("getopt(\"{0}\", \"DEFAULT\")", param.name);
                    self.error(d.help(format!(
                        "write `--{}=VALUE` behind the script, or give it a default: `{call}`",
                        param.name
                    )));
                    return None;
                }
            }
            from = range.end;
        }
        out.push_str(&self.positional(&word.name[from..], any));
        Some(out)
    }

    /// Puts the positional parameters into an attach point's word.
    fn positional(&self, word: &str, any: bool) -> String {
        if !word.contains('$') {
            return word.to_owned();
        }
        let mut out = String::new();
        let mut rest = word;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let digits: String = rest[at + 1..].chars().take_while(char::is_ascii_digit).collect();
            match digits.parse::<usize>().ok().and_then(|n| n.checked_sub(1)) {
                Some(i) => match self.options.positional.get(i) {
                    Some(text) => out.push_str(text),
                    None if any => out.push_str(&format!("arg{digits}")),
                    None => {}
                },
                None => out.push('$'),
            }
            rest = &rest[at + 1 + digits.len()..];
        }
        out.push_str(rest);
        out
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

/// What parameters in attach points are where nobody gives them: the first attach point with a default says it for all.
pub(super) fn attach_defaults(program: &ast::Program) -> HashMap<String, String> {
    let probes = program.items.iter().filter_map(|item| match item {
        ast::Item::Probe(probe) => Some(&probe.attach_points),
        _ => None,
    });
    let mut out = HashMap::new();
    for (_, param) in probes.flatten().flat_map(|point| in_attach_point(&point.text)) {
        if let Default::Int(text) | Default::Text(text) = param.default {
            out.entry(param.name).or_insert(text);
        }
    }
    out
}

/// Whether a block is of those that bpftrace runs only when it is asked for.
pub(super) fn is_left_out(point: &ast::AttachPoint) -> bool {
    point
        .parts
        .first()
        .is_some_and(|first| tables::LEFT_OUT.contains(&first.name.as_str()))
}

/// A number as in C: `26`, `0x1a`.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Whether a word is a pattern and no name.
#[must_use]
pub fn is_glob(word: &str) -> bool {
    word.contains(['*', '?', '['])
}

/// What the compiler calls a piece that it has split off a function.
const PIECE: &str = ".part.";

/// Matches functions of the kernel. `NAME.part.0` is a piece of `NAME`, entered from it only: a pattern passes over it unless it says
/// `.part.` itself. bpftrace has it so; other names with dots (`.isra.0`, `.constprop.0`) are functions of their own.
#[must_use]
pub fn function_match(pattern: &str, name: &str) -> bool {
    !is_hidden_piece(pattern, name) && glob_match(pattern, name)
}

/// Whether a pattern passes over a function for being a piece of another.
#[must_use]
pub fn is_hidden_piece(pattern: &str, name: &str) -> bool {
    is_glob(pattern) && name.contains(PIECE) && !pattern.contains(PIECE)
}

/// Matches `*`, `?` and `[set]`. Takes no longer than the product of the lengths, whatever the pattern.
#[must_use]
pub fn glob_match(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Behind the last `*`, and the text that it has not taken yet. An earlier one need never take more.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if let Some(next) = glob_step(pattern, p, text[t]) {
            (p, t) = (next, t + 1);
        } else if let Some((after, taken)) = star {
            (p, t) = (after, taken + 1);
            star = Some((after, taken + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Matches one character with what stands at `p` in the pattern, no `*`; returns what follows that.
pub(crate) fn glob_step(pattern: &[u8], p: usize, c: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => {
            let Some(len) = pattern[p..].iter().position(|c| *c == b']') else {
                return (c == b'[').then_some(p + 1);
            };
            let set = &pattern[p + 1..p + len];
            let (set, negate) = match set.split_first() {
                Some((b'!', rest)) => (rest, true),
                _ => (set, false),
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
            (found != negate).then_some(p + len + 1)
        }
        other => (other == c).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_functions_are_passed_over() {
        assert!(function_match("tcp_s*", "tcp_sendmsg"));
        assert!(!function_match("tcp_s*", "tcp_schedule_loss_probe.part.0"));
        assert!(!function_match("tcp*.*", "tcp_schedule_loss_probe.part.0"));
        assert!(function_match("tcp_s*", "tcp_small_queue_check.isra.0"));
        assert!(function_match("tcp_s*.part.*", "tcp_schedule_loss_probe.part.0"));
        assert!(function_match("tcp_schedule_loss_probe.part.0", "tcp_schedule_loss_probe.part.0"));
        assert!(!function_match("tcp_s*", "udp_sendmsg"));
    }

    #[test]
    fn globs_match_like_the_shell() {
        assert!(glob_match("tcp_*", "tcp_sendmsg"));
        assert!(glob_match("*send*", "tcp_sendmsg"));
        assert!(!glob_match("tcp_*", "udp_sendmsg"));
        assert!(glob_match("v[ef]s_?ead", "vfs_read"));
        assert!(!glob_match("v[!f]s_read", "vfs_read"));
        assert!(glob_match("*_read*", "vfs_readv"));
        assert!(glob_match("a**b*", "axxb"));
        assert!(glob_match("", ""));
        assert!(glob_match("*", ""));
        assert!(!glob_match("?", ""));
        assert!(glob_match("[", "["));
        assert!(!glob_match("*ab", "abx"));
        assert!(glob_match("*ab*ab", "abxabab"));
        assert!(glob_match("***************a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
    }
}
