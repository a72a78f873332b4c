//! Attach points in the kernel's code and on its clocks.

use super::{Site, glob_match, is_glob};
use crate::hir::check::{Checker, nearest_name};
use crate::kernel::{Feature, Support};
use crate::object::{Attach, AttachPoint};
use crate::tables::Hook;
use std::time::Duration;
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

/// `s:3`, `ms:100`, `us:5`, `hz:99`, `10ms`, or bare nanoseconds.
pub(super) fn period(parts: &[String]) -> Result<Duration, &'static str> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
