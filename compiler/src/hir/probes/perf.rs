//! Attach points on clocks, on counters of events, and on addresses.

use super::Site;
use crate::hir::check::{Checker, nearest};
use crate::kernel::{Feature, Support};
use crate::object::AttachPoint;
use crate::tables::{self, Hook};
use std::time::Duration;
use weir_parser::{Diagnostic, ast};

impl Checker<'_> {
    /// `software:EVENT[:COUNT]` and `hardware:EVENT[:COUNT]`.
    pub(super) fn counter_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        hardware: bool,
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let (word, count) = match parts {
            [_, word] => (word, None),
            [_, word, count] => (word, Some(count)),
            _ => return self.error(wrong("has the wrong number of parts")),
        };
        let kind = if hardware { "hardware" } else { "software" };
        let events = || tables::COUNTERS.iter().filter(move |c| c.hardware == hardware);
        let Some(event) = events().find(|c| c.name == word || c.alias == Some(word.as_str())) else {
            let d = Diagnostic::error("unknown-counter", point.parts[1].span, format!("there is no {kind} event `{word}`"));
            let names: Vec<&str> = events().map(|c| c.name).collect();
            let d = nearest(d, word, names.iter().copied());
            return self.error(d.help(format!("the events are `{}`", names.join("`, `"))));
        };
        let count = match count.map(|c| c.parse::<u64>()) {
            None => event.default_count,
            Some(Ok(n)) if n > 0 => n,
            Some(_) => return self.error(wrong("has no positive number of events")),
        };
        if hardware && let Support::No(why) = self.kernel.feature(Feature::Pmu) {
            let d = Diagnostic::error("no-pmu", point.span, format!("this machine has no `hardware` events ({why})"));
            if !self.lacking(d.help("`software:cpu-clock:1000000` or `profile:hz:99` sample by time instead")) {
                return;
            }
        }
        let attach = AttachPoint::Counter {
            hardware,
            event: event.name.to_owned(),
            config: event.config,
            count,
        };
        let place = format!("{}:{count}", event.name);
        out.push(Site::found(Hook::PerfCounter, point.span, kind, &place, "", attach));
    }

    /// `watchpoint:ADDRESS:LENGTH:MODE`.
    pub(super) fn watchpoint_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let [_, address, len, letters] = parts else {
            return self.error(wrong("has the wrong number of parts"));
        };
        let Some(address) = super::number(address) else {
            return self.error(
                wrong("has an address that is not a number").help("`kaddr(\"NAME\")` in a script, or `/proc/kallsyms`, tell addresses"),
            );
        };
        let len = match len.parse() {
            Ok(len @ (1 | 2 | 4 | 8)) => len,
            _ => return self.error(wrong("has a length that the processor cannot watch").help("1, 2, 4 or 8 bytes")),
        };
        let mut mode = 0;
        for letter in letters.chars() {
            let bit = match letter {
                'r' => 1,
                'w' => 2,
                'x' => 4,
                _ => return self.error(wrong("has an unknown mode").help("letters of `r`, `w` and `x`")),
            };
            if mode & bit != 0 {
                return self.error(wrong("names a mode twice"));
            }
            mode |= bit;
        }
        // x86 watches writes, or reads and writes, or execution; nothing else.
        match mode {
            2 | 3 => {}
            4 if len == 8 => {}
            4 => return self.error(wrong("watches execution, which takes the length 8")),
            1 => return self.error(wrong("watches reads alone, which the processor cannot").help("`rw`")),
            _ => return self.error(wrong("has a mode that the processor does not know").help("`w`, `rw` or `x`")),
        }
        if mode != 4 && !address.is_multiple_of(u64::from(len)) {
            return self.error(wrong("has an address that is not a multiple of the length"));
        }
        out.push(Site::new(
            Hook::Watchpoint,
            point.span,
            parts,
            AttachPoint::Watchpoint { address, len, mode },
        ));
    }
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
