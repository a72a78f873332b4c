//! Attach points in the kernel's code.

use super::{Site, Target, function_match, glob_match, is_glob};
use crate::btf::{Btf, BtfType, TypeId};
use crate::hir::check::{Checker, nearest_name};
use crate::kernel::{Feature, Support};
use crate::object::AttachPoint;
use crate::tables::Hook;
use weir_parser::{Diagnostic, ast};

impl Checker<'_> {
    pub(super) fn tracepoint_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let [_, category, name] = parts else {
            return self.error(wrong("has the wrong number of parts"));
        };
        let make = |category: &str, name: &str| {
            let attach = AttachPoint::Tracepoint {
                category: category.to_owned(),
                name: name.to_owned(),
            };
            let mut site = Site::found(
                Hook::Tracepoint,
                point.span,
                "tracepoint",
                &format!("{category}:{name}"),
                "",
                attach,
            );
            site.target = Target::Tracepoint(category.to_owned(), name.to_owned());
            site
        };
        if is_glob(category) || is_glob(name) {
            let before = out.len();
            for (c, n) in self.kernel.tracepoints() {
                if glob_match(category, &c) && glob_match(name, &n) {
                    out.push(make(&c, &n));
                }
            }
            // Where tracefs cannot be read, the pattern stands for what it matches, if its arguments are known.
            let judged = self.options.judged_only && self.kernel.tracepoint(category, name).is_some();
            if out.len() == before && judged {
                out.push(make(category, name));
                return;
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
            let d = Diagnostic::error("no-tracefs", point.span, format!("tracepoints cannot be read: {why}"));
            self.error(d.help("run weir as root: mounting tracefs takes CAP_SYS_ADMIN, reading it CAP_DAC_READ_SEARCH"));
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

    pub(super) fn kprobe_site(
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
            Some((name, offset)) => match super::number(offset) {
                Some(n) if !ret => (name, n),
                Some(_) => return self.error(wrong("cannot have an offset")),
                None => return self.error(wrong("has an offset that is not a number")),
            },
        };
        if function.is_empty() {
            return self.error(wrong("names no function"));
        }
        let hook = if ret { Hook::Kretprobe } else { Hook::Kprobe };
        let word = if ret { "kretprobe" } else { "kprobe" };
        let pattern = is_glob(function) || module.as_deref().is_some_and(is_glob);
        let make = |module: Option<&str>, function: &str| {
            let attach = AttachPoint::Kprobe {
                module: module.map(str::to_owned),
                function: function.to_owned(),
                offset,
                ret,
                pattern,
            };
            let mut place = module.map_or_else(String::new, |m| format!("{m}:"));
            place.push_str(function);
            if offset > 0 {
                place.push_str(&format!("+{offset}"));
            }
            Site::found(hook, point.span, word, &place, function, attach)
        };
        if let Support::No(why) = self.kernel.feature(Feature::Kprobe) {
            let d = Diagnostic::error("no-kprobes", point.span, format!("this kernel has no kprobes ({why})"));
            let d = self.instead_of(d, function);
            if !self.lacking(d) {
                return;
            }
        }
        // `vmlinux` is the kernel itself, which the kernel has no word for.
        let given = |m: &str| (m != "vmlinux").then(|| m.to_owned());
        if pattern || module.as_deref().is_some_and(|m| m != "vmlinux") {
            let wanted = module.as_deref().unwrap_or("*");
            let all = self.kernel.functions_by_module();
            let before = out.len();
            for (m, f) in &all {
                if glob_match(wanted, m) && function_match(function, f) {
                    out.push(make(module.as_ref().and_then(|_| given(m)).as_deref(), f));
                }
            }
            if out.len() > before {
                return;
            }
            if !is_glob(wanted) && !all.iter().any(|(m, _)| m == wanted) {
                let mut modules: Vec<&str> = all.iter().map(|(m, _)| m.as_str()).collect();
                modules.dedup();
                let near = nearest_name(wanted, modules.into_iter()).map(|m| format!("did you mean `{word}:{m}:{function}`?"));
                return self.missing(point, format!("no module `{wanted}` is loaded"), near);
            }
            if pattern {
                let piece = all.iter().find(|(m, f)| glob_match(wanted, m) && glob_match(function, f));
                let help =
                    piece.map(|(_, f)| format!("pieces that the compiler split off, `{f}`, are left out unless the pattern has `.part.`"));
                return self.missing(point, format!("no kernel function matches `{function}`"), help);
            }
            let near = nearest_name(function, all.iter().filter(|(m, _)| m == wanted).map(|(_, f)| f.as_str()));
            let near = near.map(|n| format!("did you mean `{word}:{wanted}:{n}`?"));
            return self.missing(
                point,
                format!("the module `{wanted}` has no function `{function}` that can be probed"),
                near,
            );
        }
        if self.kernel.has_function(function) {
            out.push(make(None, function));
            return;
        }
        let functions = self.kernel.functions();
        let near = nearest_name(function, functions.iter().map(String::as_str)).map(|n| format!("`{word}:{n}`"));
        // A tracepoint of that name says what is meant exactly.
        let same = self.kernel.tracepoints().into_iter().find(|(_, name)| name == function);
        let same = same.map(|(c, n)| format!("`tracepoint:{c}:{n}`"));
        let near: Vec<String> = same.into_iter().chain(near).collect();
        let help = (!near.is_empty()).then(|| format!("did you mean {}?", near.join(" or ")));
        self.missing(point, format!("this kernel has no function `{function}` that can be probed"), help);
    }

    /// Says what works where a kernel function cannot be probed.
    pub(super) fn instead_of(&self, d: Diagnostic, function: &str) -> Diagnostic {
        let all = self.kernel.tracepoints();
        let same: Vec<String> = all
            .iter()
            .filter(|(_, n)| n == function)
            .map(|(c, n)| format!("`tracepoint:{c}:{n}`"))
            .collect();
        if !same.is_empty() {
            return d.help(format!("{} works here; its fields are `args.field`", same.join(" or ")));
        }
        match related_tracepoint(function, &all) {
            Some(near) => d.help(format!(
                "`tracepoint:{near}` works here and may answer the question; `weir -l 'tracepoint:*'` lists more"
            )),
            None => d.help("tracepoints work here: `weir -l 'tracepoint:*'` lists them"),
        }
    }

    pub(super) fn raw_tracepoint_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let ([_, name] | [_, _, name]) = parts else {
            return self.error(wrong("has the wrong number of parts"));
        };
        let kernel = self.kernel;
        let btf = kernel.btf();
        let make = |name: &str| {
            let attach = AttachPoint::RawTracepoint { name: name.to_owned() };
            let mut site = Site::found(Hook::RawTracepoint, point.span, "rawtracepoint", name, "", attach);
            site.target = btf.and_then(|b| raw_prototype(b, name)).unwrap_or(Target::Numbered);
            site
        };
        let known = |name: &str| btf.is_some_and(|b| raw_prototype(b, name).is_some());
        if !is_glob(name) && known(name) {
            out.push(make(name));
            return;
        }
        // Modules have events that the kernel's own types do not tell; tracefs does.
        let mut names: Vec<String> = kernel.tracepoints().into_iter().map(|(_, n)| n).collect();
        let events = btf.into_iter().flat_map(crate::btf::Btf::typedef_names);
        names.extend(events.filter_map(|n| n.strip_prefix("btf_trace_")).map(str::to_owned));
        names.sort();
        names.dedup();
        // Those of system calls are made from two events that all of them share.
        let syscall = |n: &str| (n.starts_with("sys_enter_") || n.starts_with("sys_exit_")) && !known(n);
        let found: Vec<&String> = names.iter().filter(|n| glob_match(name, n) && !syscall(n)).collect();
        if !found.is_empty() {
            out.extend(found.into_iter().map(|n| make(n)));
            return;
        }
        if is_glob(name) {
            return self.missing(point, format!("no raw tracepoint matches `{name}`"), None);
        }
        let near = if syscall(name) {
            let both = if name.starts_with("sys_enter_") { "sys_enter" } else { "sys_exit" };
            Some(format!(
                "all system calls share `rawtracepoint:{both}`; `tracepoint:syscalls:{name}` is this one alone"
            ))
        } else {
            let near = nearest_name(name, names.iter().map(String::as_str));
            near.map(|n| format!("did you mean `rawtracepoint:{n}`?"))
        };
        self.missing(point, format!("there is no raw tracepoint `{name}`"), near);
    }

    pub(super) fn iter_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let (kind, pin) = match parts {
            [_, kind] => (kind, None),
            [_, _, name] if name.is_empty() => return self.error(wrong("has an empty name")),
            [_, kind, name] => (kind, Some(name.as_str())),
            _ => return self.error(wrong("has the wrong number of parts")),
        };
        let kernel = self.kernel;
        let Some(btf) = self.need_btf(kernel, point.span) else { return };
        let find = |kind: &str| {
            let func = btf.find_func(&format!("bpf_iter_{kind}")).filter(|id| btf.is_own(*id))?;
            Some((func, btf.find_struct(&format!("bpf_iter__{kind}"))?))
        };
        let all = iterators(btf);
        let names = all.iter().filter(|n| glob_match(kind, n));
        let found: Vec<(&String, (TypeId, TypeId))> = names.filter_map(|n| Some((n, find(n)?))).collect();
        if found.is_empty() {
            let near = nearest_name(kind, all.iter().map(String::as_str)).map(|n| format!("did you mean `iter:{n}`?"));
            let near = near.or_else(|| Some(format!("there are `{}`", all.join("`, `"))));
            return self.missing(point, format!("this kernel has no iterator `{kind}`"), near);
        }
        if let (Some(pin), [_, _, ..]) = (pin, found.as_slice()) {
            let message = format!("`{kind}` matches {} iterators, which cannot all have the name `{pin}`", found.len());
            return self.error(Diagnostic::error("iter-name", point.span, message).help("name one iterator"));
        }
        for (name, (func, context)) in found {
            let attach = AttachPoint::Iter {
                kind: name.clone(),
                btf_id: func.0,
                pin: pin.map(str::to_owned),
            };
            let mut site = Site::found(Hook::Iter, point.span, "iter", name, "", attach);
            site.target = Target::Iter(context);
            out.push(site);
        }
    }
}

/// Iterators over something that has to be named first, a map or a cgroup.
const NEED_A_TARGET: &[&str] = &["bpf_map_elem", "bpf_sk_storage_map", "sockmap", "cgroup"];

/// The kernel's iterators: those with a context and a function.
#[must_use]
pub fn iterators(btf: &Btf) -> Vec<String> {
    let names = btf.struct_names().filter_map(|n| n.strip_prefix("bpf_iter__"));
    let mut names: Vec<String> = names
        .filter(|n| !NEED_A_TARGET.contains(n) && btf.find_func(&format!("bpf_iter_{n}")).is_some_and(|id| btf.is_own(id)))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// The arguments of a raw tracepoint, for lists.
#[must_use]
pub fn raw_parameters(btf: &Btf, name: &str) -> Option<Vec<crate::hir::Parameter>> {
    match raw_prototype(btf, name)? {
        Target::Proto { proto, skip } => Some(crate::hir::parameters(btf, proto, skip).0),
        _ => None,
    }
}

/// The prototype of a raw tracepoint's arguments: of the function that calls its listeners, which has their names, else of their type.
fn raw_prototype(btf: &Btf, name: &str) -> Option<Target> {
    let typedef = btf.find_typedef(&format!("btf_trace_{name}"))?;
    let named = btf
        .find_func(&format!("__traceiter_{name}"))
        .and_then(|id| match btf.type_by_id(id) {
            Some(BtfType::Func { proto, .. }) => Some(proto),
            _ => None,
        });
    let proto = match named {
        Some(proto) => proto,
        None => match btf.resolved(typedef)? {
            BtfType::Ptr(to) => btf.resolve(to),
            _ => return None,
        },
    };
    Some(Target::Proto { proto, skip: 1 })
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
