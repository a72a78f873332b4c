//! `weir doc --markdown`: the reference manual, from the declaration tables alone. The copy in `docs/` is compared by a test.

use std::fmt::Write;
use weir_compiler::constants::CONSTANTS;
use weir_compiler::tables::{BUILTINS, CGROUP_HOOKS, FIELDS, FUNCTIONS, Field, FieldType, Hook, Hooks, PROVIDERS, SETTINGS, STATEMENTS};
use weir_stdlib::NATIVES;

/// Title, text in front, and what writes the rest.
type Part = (&'static str, &'static str, fn(&mut String));

/// The whole manual.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Reference\n\n\
         Made by `weir doc --markdown` from the tables that the checker and the code generator use; `weir doc NAME` prints one entry, and\n\
         [language.md](language.md) says how the parts work together.\n",
    );
    let parts: [Part; 9] = [
        ("Probes", "Where a block runs. What is in brackets can be left out.", probes),
        (
            "Hooks of `cgroup:PATH:HOOK`",
            "System calls of sockets, made by processes of the cgroup.",
            cgroups,
        ),
        ("Statements and declarations", "", statements),
        (
            "Builtins",
            "Words that stand for a value. Where they are not everywhere, the matrix below says where.",
            builtins,
        ),
        ("Functions", "What is in brackets can be left out.", functions),
        (
            "Where what is available",
            "Builtins and functions that are not available in every probe. Elsewhere they are an error that says what to use instead.",
            matrix,
        ),
        (
            "Packet fields",
            "A field whose header the packet does not have is absent ([language.md](language.md#absent-values)). Numbers are in host byte order.",
            fields,
        ),
        (
            "Settings",
            "In `config = { name = value; }`, `:set` of the REPL, or as `BPFTRACE_NAME` in the environment.",
            settings,
        ),
        ("Constants", "Built in, besides every enumerator of the running kernel.", constants),
    ];
    for (title, text, part) in parts {
        // Writing to a `String` cannot fail.
        let _ = write!(out, "\n## {title}\n\n");
        if !text.is_empty() {
            let _ = write!(out, "{text}\n\n");
        }
        part(&mut out);
    }
    out.push_str("\n## Natives\n");
    for native in NATIVES {
        let _ = write!(out, "\n### {}\n\n```\n{}```\n", native.name, weir_stdlib::doc(native));
    }
    out
}

/// A table with its head; cells are Markdown.
fn table<const N: usize>(out: &mut String, head: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let _ = writeln!(out, "| {} |\n|{}", head.join(" | "), "---|".repeat(N));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn codes(words: &[&str]) -> String {
    words.iter().map(|w| code(w)).collect::<Vec<_>>().join(", ")
}

fn probes(out: &mut String) {
    let rows = PROVIDERS.iter().map(|p| [code(p.form), codes(p.aliases), p.doc.to_owned()]);
    table(out, ["probe", "also", "runs at"], rows);
}

fn cgroups(out: &mut String) {
    let can = |yes: bool| if yes { "`deny()`" } else { "" }.to_owned();
    table(
        out,
        ["hook", "runs at", "can"],
        CGROUP_HOOKS.iter().map(|h| [code(h.name), h.doc.to_owned(), can(h.can_deny)]),
    );
}

fn statements(out: &mut String) {
    for (index, statement) in STATEMENTS.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        let forms: Vec<String> = statement.form.split("  ").filter(|f| !f.is_empty()).map(form).collect();
        let _ = writeln!(out, "{gap}{}  \n{}.\n", forms.join(" "), statement.doc);
        let _ = writeln!(out, "```\n{}\n```", statement.example);
    }
}

/// A form as code; the word between two forms is none.
fn form(text: &str) -> String {
    if text == "or" { text.to_owned() } else { code(text) }
}

fn builtins(out: &mut String) {
    table(out, ["word", "value"], BUILTINS.iter().map(|b| [code(b.name), b.doc.to_owned()]));
}

fn functions(out: &mut String) {
    table(
        out,
        ["form", "what it does"],
        FUNCTIONS.iter().map(|f| [code(f.signature), f.doc.to_owned()]),
    );
}

fn matrix(out: &mut String) {
    // What runs on the event of a native is what runs at the native's own place.
    let hooks: Vec<Hook> = Hook::ALL.into_iter().filter(|h| !h.is_native_event()).collect();
    let words = BUILTINS.iter().map(|b| (b.name.to_owned(), b.hooks));
    let calls = FUNCTIONS.iter().map(|f| (format!("{}()", f.name), f.hooks));
    // Words with the same places are one row.
    let mut rows: Vec<(Vec<String>, Hooks)> = Vec::new();
    for (name, there) in words.chain(calls).filter(|(_, there)| *there != Hooks::ALL) {
        match rows.iter_mut().find(|(_, hooks)| *hooks == there) {
            Some((names, _)) => names.push(name),
            None => rows.push((vec![name], there)),
        }
    }
    let names: Vec<String> = hooks.iter().map(|h| h.name().replace('/', " ")).collect();
    let _ = writeln!(out, "| | {} |\n|---|{}", names.join(" | "), ":-:|".repeat(hooks.len()));
    for (names, there) in rows {
        let marks: Vec<&str> = hooks.iter().map(|h| if there.contains(*h) { "✓" } else { "" }).collect();
        let names: Vec<String> = names.iter().map(|n| code(n)).collect();
        let _ = writeln!(out, "| {} | {} |", names.join(" "), marks.join(" | "));
    }
}

fn fields(out: &mut String) {
    let none = Hooks::of(&[]);
    let row = |f: &Field| {
        let writable = if f.writable == none {
            String::new()
        } else {
            f.writable.to_string()
        };
        [
            code(f.name),
            type_word(f.ty).to_owned(),
            f.doc.to_owned(),
            f.hooks.to_string(),
            writable,
        ]
    };
    table(
        out,
        ["field", "type", "what it is", "in", "can be assigned to in"],
        FIELDS.iter().map(row),
    );
}

fn settings(out: &mut String) {
    let (known, ignored): (Vec<_>, Vec<_>) = SETTINGS.iter().partition(|s| s.has_effect());
    table(
        out,
        ["setting", "unless set", "what it is", "takes"],
        known.iter().map(|s| {
            let takes = s.takes.expected();
            let takes = takes.strip_prefix("it takes ").unwrap_or(&takes).to_owned();
            [code(s.name), code(&s.preset.to_string()), s.doc.to_owned(), takes]
        }),
    );
    let names: Vec<&str> = ignored.iter().map(|s| s.name).collect();
    let _ = writeln!(out, "\nAccepted, without effect: {}.", codes(&names));
}

fn constants(out: &mut String) {
    let names: Vec<&str> = CONSTANTS.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(out, "{}.", codes(&names));
}

/// A field's type as a user knows it.
#[must_use]
pub fn type_word(ty: FieldType) -> &'static str {
    match ty {
        FieldType::Bool => "bool",
        FieldType::U8 | FieldType::U16 | FieldType::U32 | FieldType::U64 => "number",
        FieldType::Inet => "address",
        FieldType::Mac => "MAC address",
        FieldType::Flow => "flow",
        FieldType::Name | FieldType::IfName | FieldType::Direction => "text",
        FieldType::Bytes => "buffer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_EXPECT=1` writes it.
    #[test]
    fn the_manual_in_docs_is_that_of_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md");
        expect_test::expect_file![path].assert_eq(&markdown());
    }

    #[test]
    fn every_table_is_in_the_manual() {
        let text = markdown();
        let names = BUILTINS.iter().map(|b| b.name).chain(FUNCTIONS.iter().map(|f| f.signature));
        let names = names.chain(FIELDS.iter().map(|f| f.name)).chain(SETTINGS.iter().map(|s| s.name));
        for name in names
            .chain(CGROUP_HOOKS.iter().map(|h| h.name))
            .chain(NATIVES.iter().map(|n| n.name))
        {
            assert!(text.contains(&name.replace('|', "\\|")), "{name}");
        }
        assert!(text.contains("| `pid` `tid` `uid`"), "words with the same places are one row");
    }
}
