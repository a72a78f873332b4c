//! Attach points in programs and libraries.

use super::{Site, Target, glob_match, is_glob, number};
use crate::hir::check::{Checker, nearest_name};
use crate::hir::usdt;
use crate::kernel::UserFunction;
use crate::object::AttachPoint;
use crate::tables::Hook;
use weir_parser::{Diagnostic, ast};

impl Checker<'_> {
    /// The files that an attach point names, or says that there are none.
    fn binaries(&mut self, point: &ast::AttachPoint, name: &str) -> Vec<String> {
        match self.kernel.binaries(name) {
            Ok(paths) => paths,
            Err(why) => {
                self.missing(point, why, None);
                Vec::new()
            }
        }
    }

    pub(super) fn uprobe_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        ret: bool,
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let (binary, cpp, function) = match parts {
            [_, binary, function] => (binary, false, function.as_str()),
            [_, binary, language, function] if language == "cpp" => (binary, true, function.as_str()),
            _ => {
                return self
                    .error(wrong("has the wrong number of parts").help("names with `::` go in quotes: `uprobe:BINARY:cpp:\"ns::f\"`"));
            }
        };
        let (function, offset) = match function.rsplit_once('+').map(|(name, offset)| (name, number(offset))) {
            Some((name, Some(n))) => (name, n),
            Some((_, None)) if !cpp => return self.error(wrong("has an offset that is not a number")),
            _ => (function, 0),
        };
        if ret && offset > 0 {
            return self.error(wrong("cannot have an offset"));
        }
        if function.is_empty() {
            return self.error(wrong("names no function"));
        }
        let hook = if ret { Hook::Uretprobe } else { Hook::Uprobe };
        let word = if ret { "uretprobe" } else { "uprobe" };
        let make = |path: &str, name: &str, at: u64| {
            let function = if offset > 0 { format!("{name}+{offset}") } else { name.to_owned() };
            let attach = AttachPoint::Uprobe {
                path: path.to_owned(),
                function: function.clone(),
                offset: at + offset,
                ret,
            };
            Site::found(hook, point.span, word, &format!("{path}:{function}"), name, attach)
        };
        let before = out.len();
        let paths = self.binaries(point, binary);
        for path in &paths {
            if let Some(address) = number(function) {
                match self.kernel.code_offset(path, address) {
                    Some(at) => out.push(make(path, function, at)),
                    None => self.missing(point, format!("the address {function} is not in the code of `{path}`"), None),
                }
                continue;
            }
            let functions = match self.kernel.user_functions(path) {
                Ok(functions) => functions,
                Err(why) => {
                    self.missing(point, why, None);
                    continue;
                }
            };
            let pattern = is_glob(function);
            let matches = |f: &&UserFunction| match (&f.demangled, cpp) {
                (Some(full), true) if pattern => glob_match(function, full),
                // Without parameters it is every overload.
                (Some(full), true) => full == function || full.split('(').next() == Some(function),
                (None, true) => false,
                _ if pattern => glob_match(function, &f.name),
                _ => f.name == function,
            };
            let mut found: Vec<&UserFunction> = functions.iter().filter(matches).collect();
            if !found.is_empty() && found.iter().all(|f| f.indirect) {
                self.missing(point, chosen(path, &found), Some(chosen_from(&functions, &found)));
                continue;
            }
            found.retain(|f| !f.indirect);
            // Several names of one place are one probe.
            found.sort_by_key(|f| f.offset);
            found.dedup_by_key(|f| f.offset);
            for f in found {
                let name = if cpp { f.demangled.as_deref().unwrap_or(&f.name) } else { &f.name };
                out.push(make(path, name, f.offset));
            }
            // Among many files a pattern of names need not be in each.
            if out.len() == before && paths.len() == 1 {
                let names = || {
                    functions
                        .iter()
                        .map(|f| if cpp { f.demangled.as_deref().unwrap_or(&f.name) } else { &f.name })
                };
                let help = if functions.is_empty() {
                    Some("it was stripped of its symbols: `uprobe:BINARY:0xADDRESS` takes an address of its code".to_owned())
                } else {
                    nearest_name(function, names()).map(|n| format!("did you mean `{word}:{binary}:{n}`?"))
                };
                let what = if pattern { "matching" } else { "called" };
                self.missing(point, format!("`{path}` has no function {what} `{function}`"), help);
            }
        }
        if out.len() == before && paths.len() > 1 {
            self.missing(
                point,
                format!("none of the {} files has a function `{function}`", paths.len()),
                None,
            );
        }
    }

    pub(super) fn usdt_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let (binary, provider, name) = match parts {
            [_, binary, name] => (binary, "*", name),
            [_, binary, provider, name] => (binary, provider.as_str(), name),
            _ => return self.error(wrong("has the wrong number of parts")),
        };
        let before = out.len();
        let paths = self.binaries(point, binary);
        for path in &paths {
            let probes = match self.kernel.usdt_probes(path) {
                Ok(probes) => probes,
                Err(why) => {
                    self.missing(point, why, None);
                    continue;
                }
            };
            for probe in probes
                .iter()
                .filter(|p| glob_match(provider, &p.provider) && glob_match(name, &p.name))
            {
                let attach = AttachPoint::Usdt {
                    path: path.clone(),
                    provider: probe.provider.clone(),
                    name: probe.name.clone(),
                    offset: probe.offset,
                    semaphore: probe.semaphore,
                };
                let place = format!("{path}:{}:{}", probe.provider, probe.name);
                let mut site = Site::found(Hook::Usdt, point.span, "usdt", &place, "", attach);
                site.target = Target::Usdt(usdt::parse(&probe.args));
                out.push(site);
            }
            if out.len() == before && paths.len() == 1 {
                let help = if probes.is_empty() {
                    None
                } else {
                    let names: Vec<String> = probes.iter().map(|p| format!("{}:{}", p.provider, p.name)).collect();
                    let wanted = if provider == "*" {
                        name.clone()
                    } else {
                        format!("{provider}:{name}")
                    };
                    let full = |n: &&String| {
                        if provider == "*" {
                            n.split(':').nth(1).unwrap_or(n) == wanted
                        } else {
                            **n == wanted
                        }
                    };
                    let near = names.iter().find(full).map(String::as_str);
                    let near = near.or_else(|| {
                        nearest_name(
                            &wanted,
                            names.iter().map(|n| {
                                if provider == "*" {
                                    n.split(':').nth(1).unwrap_or(n)
                                } else {
                                    n.as_str()
                                }
                            }),
                        )
                    });
                    near.map(|n| format!("did you mean `usdt:{binary}:{n}`?"))
                        .or_else(|| Some(format!("`weir -l 'usdt:{binary}:*'` lists them")))
                };
                let message = if probes.is_empty() {
                    format!("`{path}` has no static events")
                } else {
                    format!("`{path}` has no static event `{name}`")
                };
                self.missing(point, message, help);
            }
        }
        if out.len() == before && paths.len() > 1 {
            self.missing(
                point,
                format!("none of the {} files has a static event `{name}`", paths.len()),
                None,
            );
        }
    }
}

/// What is said of functions that the program's start puts others in the place of.
fn chosen(path: &str, found: &[&UserFunction]) -> String {
    const MOST: usize = 4;
    let names: Vec<String> = found.iter().take(MOST).map(|f| format!("`{}`", f.name)).collect();
    let more = match found.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let rest = match found.len() {
        1 => "is chosen when the program is loaded and has no code of its own",
        _ => "are chosen when the program is loaded and have no code of their own",
    };
    format!("{}{more} of `{path}` {rest}", names.join(", "))
}

/// Which functions may run in their place: those are named after what a processor must be able to do.
fn chosen_from(functions: &[UserFunction], found: &[&UserFunction]) -> String {
    const ABLE: [&str; 6] = ["avx", "erms", "evex", "generic", "sse", "ssse"];
    let runs = |f: &&UserFunction| {
        let name = f.name.trim_start_matches('_');
        let suffix = found.iter().find_map(|i| name.strip_prefix(&i.name)?.strip_prefix('_'));
        !f.indirect && suffix.is_some_and(|suffix| ABLE.iter().any(|able| suffix.starts_with(able)))
    };
    let names: Vec<String> = functions.iter().filter(runs).take(6).map(|f| format!("`{}`", f.name)).collect();
    if names.is_empty() {
        "the file has no names for those that run in their place: `uprobe:BINARY:0xADDRESS` takes an address of its code".to_owned()
    } else {
        format!("of these one runs in its place: {}", names.join(", "))
    }
}
