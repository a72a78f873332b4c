//! The text of `weir doc NAME`, from a native's declaration alone.

use crate::decl::{Attach, EventDecl, EventVarType, MapShape, Native, ParamType, ValueShape, Writable};
use std::fmt::Write;

/// Columns that text is wrapped to.
const WIDTH: usize = 100;

/// Returns the documentation of a native as plain text, at most 100 columns wide, with a newline at the end.
#[must_use]
pub fn doc(native: &Native) -> String {
    let mut out = String::new();
    heading(&mut out, "NAME");
    line(&mut out, 4, &format!("{} - {}", native.name, native.summary));

    heading(&mut out, "USE");
    let required: Vec<String> = native
        .params
        .iter()
        .filter(|p| p.required)
        .map(|p| format!("{}={}", p.name, form(p.ty)))
        .collect();
    let params: Vec<&str> = required.iter().map(String::as_str).chain(["..."]).collect();
    line(&mut out, 4, &format!("use {}({}) as NAME;", native.name, params.join(", ")));

    heading(&mut out, "DESCRIPTION");
    for (index, paragraph) in native.doc.split("\n\n").enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if paragraph.starts_with("    ") {
            // Written to be copied.
            paragraph.lines().for_each(|text| line(&mut out, 4, text));
        } else {
            wrapped(&mut out, 4, paragraph);
        }
    }
    out.push('\n');
    let mut places: Vec<String> = Vec::new();
    for program in native.programs {
        let place = match program.attach {
            Attach::Xdp => "XDP".to_owned(),
            Attach::TcIngress => "TC ingress".to_owned(),
            Attach::TcEgress => "TC egress".to_owned(),
            Attach::Cgroup(name) => format!("cgroup {name}"),
            Attach::CgroupSetsockopt => "cgroup setsockopt".to_owned(),
            Attach::RawTracepoint(name) => format!("the tracepoint {name}"),
            Attach::Iter(name) => format!("the iterator {name}"),
        };
        let default = |param: &str| native.params.iter().find(|p| p.name == param).map_or("", |p| p.default);
        let unusual = program
            .when
            .iter()
            .find(|(param, words)| !words.contains(&default(param).trim_matches('"')));
        let place = match unusual {
            Some((param, words)) => format!("{place} (with `{param}=\"{}\"`)", words.join("|")),
            None => place,
        };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let runs = format!("It runs at {}; the blocks of its events run where it does.", places.join(", "));
    wrapped(&mut out, 4, &runs);

    heading(&mut out, "PARAMETERS");
    for param in native.params {
        let default = if param.required {
            "required".to_owned()
        } else {
            format!("default {}", param.default)
        };
        line(&mut out, 4, &format!("{}={}  ({default})", param.name, form(param.ty)));
        wrapped(&mut out, 8, param.doc);
    }
    if !native.maps.is_empty() {
        heading(&mut out, "MAPS");
        wrapped(
            &mut out,
            4,
            "As any map: `print`, `@NAME.map[key]`, `key in @NAME.map`, `for ($kv : @NAME.map)`, `len`, `find`; `delete` and `clear` where \
             nothing else is said. Blocks on intervals, signals and `end` see a map as it is, blocks in the kernel as it was within the last second.",
        );
    }
    for map in native.maps {
        let shape = match map.shape {
            MapShape::ByPrefix(ValueShape::PacketsBytes) => "[prefix]: packets, bytes".to_owned(),
            MapShape::Counters(names) | MapShape::Known(names) => format!(": {}", names.join(", ")),
            MapShape::Table { columns, .. } => {
                let names: Vec<&str> = columns.iter().map(|c| c.name).collect();
                format!("[{}]: {}", map.shape.key_names().join(", "), names.join(", "))
            }
        };
        let writable = match map.writable {
            Writable::Entries => "",
            Writable::Whole => "  (no `delete`)",
            Writable::No => "  (read only)",
        };
        let head = format!("@NAME.{}{shape}{writable}", map.name);
        // A table's columns may take more than a line.
        if head.len() + 4 > WIDTH {
            wrapped(&mut out, 4, &head)
        } else {
            line(&mut out, 4, &head)
        }
        wrapped(&mut out, 8, map.doc);
    }
    if !native.events.is_empty() {
        heading(&mut out, "EVENTS");
    }
    let variables = |out: &mut String, event: &EventDecl| {
        for var in event.vars {
            wrapped(out, 8, &format!("NAME.{}: {}; {}", var.name, type_word(var.ty), var.doc));
        }
    };
    // Most natives have one record for all their events.
    let (first, others) = native
        .events
        .split_first()
        .map_or((None, &[][..]), |(first, others)| (Some(first), others));
    let shared = first.filter(|first| !others.is_empty() && others.iter().all(|event| std::ptr::eq(event.vars, first.vars)));
    for event in native.events {
        let decides = if event.decides {
            "  (a verdict in the block replaces the native's)"
        } else {
            ""
        };
        line(&mut out, 4, &format!("NAME:{}{decides}", event.name));
        wrapped(&mut out, 8, event.doc);
        if shared.is_none() {
            variables(&mut out, event);
        }
    }
    if let Some(first) = shared {
        line(&mut out, 4, "In each of them:");
        variables(&mut out, first);
    }
    heading(&mut out, "EXAMPLE");
    for text in native.example.lines() {
        line(&mut out, 4, text);
    }
    out
}

/// What a variable of an event is.
#[must_use]
pub fn type_word(ty: EventVarType) -> &'static str {
    match ty {
        EventVarType::U32 | EventVarType::U64 => "number",
        EventVarType::Prefix => "prefix",
        EventVarType::Inet => "address",
        EventVarType::Flow => "flow",
        EventVarType::Text { .. } => "text",
    }
}

/// How a value of the type is written.
fn form(ty: ParamType) -> String {
    match ty {
        ParamType::Iface => "\"IFACE\"".to_owned(),
        ParamType::Prefixes => "file(\"PATH\"), (PREFIX, ...) or \"-\"".to_owned(),
        ParamType::File => "file(\"PATH\")".to_owned(),
        ParamType::Ports => "(PORT, PORT-PORT, ...)".to_owned(),
        ParamType::Duration { .. } => "TIME, such as 30s, 5m, \"1h\"".to_owned(),
        ParamType::Text => "\"TEXT\"".to_owned(),
        ParamType::Path { .. } => "\"PATH\"".to_owned(),
        ParamType::Name => "\"NAME\"".to_owned(),
        ParamType::Choice(words) => words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join("|"),
        ParamType::Bool => "true|false".to_owned(),
        ParamType::Int { min, max } => format!("{min}..{max}"),
    }
}

fn heading(out: &mut String, text: &str) {
    if !out.is_empty() {
        out.push('\n');
    }
    line(out, 0, text);
}

fn line(out: &mut String, indent: usize, text: &str) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "{:indent$}{text}", "");
}

fn wrapped(out: &mut String, indent: usize, text: &str) {
    let mut current = String::new();
    for word in text.split_whitespace() {
        if !current.is_empty() && indent + current.chars().count() + 1 + word.chars().count() > WIDTH {
            line(out, indent, &current);
            current.clear();
        }
        if !current.is_empty() {
            current.push(' ');
        }
        current.push_str(word);
    }
    if !current.is_empty() {
        line(out, indent, &current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NATIVES;

    #[test]
    fn every_declared_thing_is_in_the_text() {
        for native in NATIVES {
            let text = doc(native);
            for param in native.params {
                assert!(
                    text.contains(&format!("\n    {}=", param.name)),
                    "{} {}\n{text}",
                    native.name,
                    param.name
                );
            }
            for map in native.maps {
                assert!(text.contains(&format!("\n    @NAME.{}", map.name)), "{text}");
            }
            for event in native.events {
                assert!(text.contains(&format!("\n    NAME:{}\n", event.name)), "{text}");
                for var in event.vars {
                    assert!(text.contains(&format!("NAME.{}:", var.name)), "{text}");
                }
            }
            for example in native.example.lines() {
                assert!(text.contains(example));
            }
            let too_long: Vec<_> = text.lines().filter(|l| l.chars().count() > WIDTH).collect();
            assert!(too_long.is_empty(), "{too_long:#?}");
        }
    }

    /// What each event has is said once.
    #[test]
    fn variables_of_all_events_are_told_once() {
        for name in ["flows", "retransmits"] {
            let native = NATIVES.iter().find(|n| n.name == name).unwrap();
            let text = doc(native);
            assert_eq!(text.matches("\n        NAME.sport:").count(), 1, "{text}");
        }
    }

    #[test]
    fn declarations_are_complete() {
        for native in NATIVES {
            let named =
                |what: &str, name: &str, doc: &str| assert!(!name.is_empty() && !doc.is_empty(), "{}: {what} `{name}`", native.name);
            named("native", native.name, native.doc);
            named("native", native.summary, native.example);
            native.params.iter().for_each(|p| {
                named("parameter", p.name, p.doc);
                assert_eq!(p.required, p.default.is_empty(), "{}", p.name);
            });
            native.maps.iter().for_each(|m| named("map", m.name, m.doc));
            native.events.iter().for_each(|e| named("event", e.name, e.doc));
        }
    }
}
