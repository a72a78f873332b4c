//! `weir doc [NAME]`: what a word means, from the declaration tables alone.

use crate::args::Doc;
use crate::render::Failure;
use crate::{manual, out};
use std::fmt::Write;
use std::process::ExitCode;
use weir_compiler::constants::CONSTANTS;
use weir_compiler::pipeline::Stage;
use weir_compiler::tables::{
    BUILTINS, Builtin, CGROUP_HOOKS, FIELDS, FUNCTIONS, Field, Function, Hooks, PROVIDERS, Provider, SETTINGS, STATEMENTS, Setting,
    Statement, provider, setting, statement,
};
use weir_stdlib::NATIVES;

pub fn main(args: &Doc) -> Result<ExitCode, Failure> {
    let text = match &args.name {
        None if args.markdown => manual::markdown(),
        None => index(),
        Some(name) => entry(name).ok_or_else(|| unknown(name))?,
    };
    out::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Everything there is, one line each.
pub fn index() -> String {
    let mut out = String::new();
    let natives = NATIVES.iter().map(|n| (n.name.to_owned(), n.summary));
    section(&mut out, "natives (`use NAME(…) as ALIAS;`)", natives);
    section(&mut out, "probes", PROVIDERS.iter().map(|p| (p.form.to_owned(), p.doc)));
    let forms = STATEMENTS.iter().map(|s| (s.words.join(", "), s.doc));
    section(&mut out, "statements and declarations", forms);
    section(&mut out, "builtins", BUILTINS.iter().map(|b| (b.name.to_owned(), b.doc)));
    section(&mut out, "functions", FUNCTIONS.iter().map(|f| (f.signature.to_owned(), f.doc)));
    section(&mut out, "packet fields", FIELDS.iter().map(|f| (f.name.to_owned(), f.doc)));
    let settings = SETTINGS.iter().filter(|s| s.has_effect());
    section(
        &mut out,
        "settings (`config = { … }`)",
        settings.map(|s| (s.name.to_owned(), s.doc)),
    );
    let stages: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).collect();
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "\nstages (`-d STAGE`): {}", stages.join(", "));
    out
}

fn section(out: &mut String, title: &str, rows: impl Iterator<Item = (String, &'static str)>) {
    let rows: Vec<_> = rows.collect();
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .filter(|w| *w <= 34)
        .max()
        .unwrap_or(0);
    let _ = writeln!(out, "{}{title}", if out.is_empty() { "" } else { "\n" });
    for (name, doc) in rows {
        let _ = writeln!(out, "  {name:width$}  {doc}");
    }
}

/// Everything that is called `name`; a header word is all of its fields.
pub fn entry(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(weir_stdlib::native(name).map(weir_stdlib::doc));
    parts.extend(provider(name).map(probe_text));
    parts.extend(statement(name).map(statement_text));
    parts.extend(BUILTINS.iter().find(|b| b.name == name).map(builtin_text));
    let call = name.trim_end_matches("()");
    parts.extend(FUNCTIONS.iter().find(|f| f.name == call).map(function_text));
    let prefix = format!("{}.", name.trim_end_matches(".*"));
    parts.extend(FIELDS.iter().find(|f| f.name == name).map(field_text));
    let fields: Vec<&Field> = FIELDS.iter().filter(|f| f.name.starts_with(&prefix)).collect();
    if !fields.is_empty() {
        let mut text = String::new();
        section(
            &mut text,
            &format!("fields of `{}`", prefix.trim_end_matches('.')),
            fields.into_iter().map(|f| (f.name.to_owned(), f.doc)),
        );
        parts.push(text);
    }
    parts.extend(setting(name).map(setting_text));
    parts.extend(
        CONSTANTS
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(n, v)| format!("{n}: constant\n    {v}\n")),
    );
    (!parts.is_empty()).then(|| parts.join("\n"))
}

fn probe_text(probe: &Provider) -> String {
    let aliases = if probe.aliases.is_empty() {
        String::new()
    } else {
        format!("\n    also written {}", quoted(probe.aliases))
    };
    let mut text = format!("{}: probe\n    {}\n    {}{aliases}\n", probe.name, probe.form, probe.doc);
    if probe.name == "cgroup" {
        section(&mut text, "hooks", CGROUP_HOOKS.iter().map(|h| (h.name.to_owned(), h.doc)));
    }
    text
}

fn statement_text(statement: &Statement) -> String {
    let mut text = format!(
        "{}: {}\n    {}\n    for example: {}\n",
        statement.words.join(", "),
        statement.form,
        statement.doc,
        statement.example
    );
    if statement.words.contains(&"use") {
        text.push_str("    `print(@ALIAS)` shows it on one screen; `weir doc NATIVE` has its parameters, maps and events\n");
        section(&mut text, "natives", NATIVES.iter().map(|n| (n.name.to_owned(), n.summary)));
    }
    text
}

fn setting_text(setting: &Setting) -> String {
    let doc = if setting.has_effect() {
        setting.doc
    } else {
        "a setting of bpftrace that has no effect here"
    };
    format!(
        "{}: setting\n    {doc}\n    {}; {} unless set\n",
        setting.name,
        setting.takes.expected(),
        setting.preset
    )
}

fn builtin_text(builtin: &Builtin) -> String {
    let elsewhere = if builtin.instead.is_empty() {
        String::new()
    } else {
        format!("\n    elsewhere: {}", builtin.instead)
    };
    format!(
        "{}: builtin\n    {}\n    in {}{elsewhere}\n",
        builtin.name,
        builtin.doc,
        hooks(builtin.hooks)
    )
}

fn function_text(function: &Function) -> String {
    format!(
        "{}: function\n    {}\n    {}\n    in {}\n",
        function.name,
        function.signature,
        function.doc,
        hooks(function.hooks)
    )
}

fn field_text(field: &Field) -> String {
    let ty = crate::manual::type_word(field.ty);
    format!(
        "{}: packet field ({ty})\n    {}\n    in {}; absent when the packet has no such header{}\n",
        field.name,
        field.doc,
        hooks(field.hooks),
        if field.writable == Hooks::of(&[]) {
            String::new()
        } else {
            format!("; can be assigned to in {}", field.writable)
        }
    )
}

fn hooks(hooks: Hooks) -> String {
    if hooks == Hooks::ALL {
        "every probe".to_owned()
    } else {
        hooks.to_string()
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

pub fn unknown(name: &str) -> Failure {
    let names = NATIVES
        .iter()
        .map(|n| n.name)
        .chain(PROVIDERS.iter().map(|p| p.name))
        .chain(BUILTINS.iter().map(|b| b.name));
    let names = names.chain(FUNCTIONS.iter().map(|f| f.name)).chain(FIELDS.iter().map(|f| f.name));
    let names = names.chain(STATEMENTS.iter().flat_map(|s| s.words).copied());
    let names = names.chain(SETTINGS.iter().map(|s| s.name));
    let nearest = names
        .map(|n| (strsim::damerau_levenshtein(n, name), n))
        .min()
        .filter(|(distance, n)| *distance <= 2.min(n.len() / 2));
    let failure = Failure::new(format!("nothing is called `{name}`"));
    match nearest {
        Some((_, nearest)) => failure.help(format!("did you mean `{nearest}`? `weir doc` lists everything")),
        None => failure.help("`weir doc` lists everything"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natives_have_their_events_in_their_entries() {
        for native in NATIVES {
            let text = entry(native.name).unwrap();
            assert!(text.contains(native.summary), "{text}");
            for event in native.events {
                assert!(text.contains(&format!("NAME:{}\n", event.name)), "{}: {text}", event.name);
            }
        }
    }

    #[test]
    fn every_name_in_the_index_has_an_entry() {
        let names = NATIVES
            .iter()
            .map(|n| n.name)
            .chain(PROVIDERS.iter().map(|p| p.name))
            .chain(BUILTINS.iter().map(|b| b.name));
        for name in names.chain(FUNCTIONS.iter().map(|f| f.name)).chain(FIELDS.iter().map(|f| f.name)) {
            assert!(index().contains(name), "{name}");
            assert!(entry(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_word_with_several_meanings_has_them_all() {
        let tcp = entry("tcp").unwrap();
        assert!(tcp.contains("tcp.dport") && !tcp.contains("udp.dport"), "{tcp}");
        let comm = entry("comm").unwrap();
        assert!(comm.contains("builtin") && comm.contains("softirq"), "{comm}");
        assert!(entry("printf()").is_some());
        assert!(entry("AF_INET6").unwrap().contains("10"));
        let of_use = entry("use").unwrap();
        assert!(of_use.contains("retransmits") && of_use.contains("`print(@ALIAS)`"), "{of_use}");
        assert_eq!(
            (of_use.matches("natives\n").count(), of_use.matches("use, as: ").count()),
            (1, 1),
            "{of_use}"
        );
        assert!(entry("limit").unwrap().contains("limit (n/s)"));
        assert!(entry("else").unwrap().starts_with("if, else: "));
        assert!(entry("max_map_keys").unwrap().contains("above 0; 4096 unless set"));
        assert!(entry("log_size").unwrap().contains("no effect"));
    }

    #[test]
    fn an_unknown_name_gets_the_nearest() {
        assert!(unknown("blocklst").help.unwrap().contains("`blocklist`"));
        assert_eq!(unknown("zzzzzz").help.unwrap(), "`weir doc` lists everything");
    }
}
