//! Reports of our own bugs: a short message, and a file with everything that it takes to find the bug.

use crate::render::{Message, Renderer};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use weir_compiler::object::Object;
use weir_compiler::pipeline::Source;
use weir_parser::{SourceId, Span};
use weir_runtime::{Error, load, verifier};

/// Describes a bug of the compiler.
pub fn internal(renderer: &Renderer, source: &Source, stage: &str, message: &str) -> String {
    let first = message.lines().next().unwrap_or("");
    let file = write(
        &std::env::temp_dir(),
        source,
        &format!("internal error in stage {stage}:\n{message}"),
    );
    let text = format!("internal error in the compiler ({stage}): {first}");
    renderer.message(
        std::slice::from_ref(source),
        &Message {
            code: "internal",
            text,
            help: vec![help(&file)],
            ..Message::default()
        },
    )
}

/// Describes a program that the kernel's verifier rejected, with and without the optimiser. `logs` has a log for each
/// attempt; `object` is what `error` is about.
pub fn rejected(renderer: &Renderer, source: &Source, object: &Object, error: &Error, logs: &[&str]) -> String {
    let Error::Rejected { program, log, span, .. } = error else {
        return renderer.message(
            &[],
            &Message {
                text: error.to_string(),
                ..Message::default()
            },
        );
    };
    let lines = program.map(|p| load::program_lines(object, p)).unwrap_or_default();
    let digest = verifier::digest(log, &lines);
    let all: Vec<String> = logs
        .iter()
        .enumerate()
        .map(|(i, log)| format!("verifier log {}:\n{}", i + 1, tail(log)))
        .collect();
    let file = write(&std::env::temp_dir(), source, &format!("{error}\n{}", all.join("\n")));
    let place = digest.place.and_then(|(line, column)| place(&source.text, line, column));
    let mut notes = vec!["this is a bug of weir, not of the script".to_owned()];
    if let Some(insn) = digest.insn_text {
        notes.push(format!("at instruction {}: {insn}", digest.insn.unwrap_or(0)));
    }
    // The first line stands at the caret.
    notes.extend(digest.message.iter().skip(1).cloned());
    let message = Message {
        code: error.code(),
        text: error.to_string(),
        span: place.or(*span),
        label: digest.message.first().cloned().unwrap_or_default(),
        notes,
        help: vec![help(&file)],
        ..Message::default()
    };
    renderer.message(std::slice::from_ref(source), &message)
}

/// The end of a log, where it says what is wrong; a loop that the kernel followed for a million steps fills many megabytes.
fn tail(log: &str) -> &str {
    const MOST_BYTES: usize = 256 * 1024;
    &log[log.ceil_char_boundary(log.len().saturating_sub(MOST_BYTES))..]
}

/// Whether the kernel refused a program for its size or its loops: nothing that compiling it again would change.
pub fn too_long(log: &str) -> bool {
    ["too large", "too complex", "infinite loop"]
        .iter()
        .any(|words| tail(log).contains(words))
}

/// The helper that the kernel, or its build, does not have: `unknown func bpf_override_return#58`.
pub fn missing_helper(log: &str) -> Option<&str> {
    let last = tail(log);
    let word = ["unknown func ", "cannot use helper "]
        .iter()
        .find_map(|before| last.split_once(before).map(|(_, rest)| rest))?;
    word.split(['#', ' ', '\n']).next().filter(|name| name.starts_with("bpf_"))
}

/// Says that a script asks for what this kernel does not do.
pub fn no_helper(renderer: &Renderer, source: &Source, helper: &str, span: Option<Span>) -> String {
    let help = match helper {
        "bpf_override_return" => "`override` needs a kernel that was built with CONFIG_BPF_KPROBE_OVERRIDE".to_owned(),
        _ => format!("the functions that need it say so: `weir doc`, or look for `{helper}` in bpf-helpers(7)"),
    };
    let message = Message {
        code: "no-helper",
        text: format!("this kernel has no `{helper}` for such a program"),
        span,
        help: vec![help],
        ..Message::default()
    };
    renderer.message(std::slice::from_ref(source), &message)
}

/// Says that a script asks for more than the kernel follows.
pub fn loop_too_long(renderer: &Renderer, source: &Source, span: Option<Span>) -> String {
    let message = Message {
        code: "too-long",
        text: "this block is too long for the kernel: its verifier gave up following it".to_owned(),
        span,
        help: vec!["loop less often, or split the block".to_owned()],
        ..Message::default()
    };
    renderer.message(std::slice::from_ref(source), &message)
}

fn help(file: &io::Result<PathBuf>) -> String {
    match file {
        Ok(path) => format!(
            "please report it with `{}`, which has the script, the log and the kernel's version in it",
            path.display()
        ),
        Err(e) => format!("please report it with the script and the kernel's version (the report could not be written: {e})"),
    }
}

/// The span of the character at line and column, both from 1.
fn place(text: &str, line: u32, column: u32) -> Option<Span> {
    let mut start = 0;
    for _ in 1..line {
        start += text.get(start..)?.find('\n')? + 1;
    }
    let rest = text[start..].lines().next()?;
    let at = start + (column.max(1) as usize - 1).min(rest.len());
    let at = text.floor_char_boundary(at);
    Some(Span::new(
        SourceId(0),
        u32::try_from(at).ok()?,
        u32::try_from(text.ceil_char_boundary(at + 1)).ok()?,
    ))
}

/// Writes the report into a new file that only we can read: a script may hold secrets.
fn write(folder: &Path, source: &Source, what: &str) -> io::Result<PathBuf> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = format!(
        "weir {} on Linux {} ({})\n\n{what}\n\nscript `{}`:\n{}\n",
        env!("CARGO_PKG_VERSION"),
        kernel.trim(),
        std::env::consts::ARCH,
        source.name,
        source.text
    );
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for n in 0..100 {
        let path = folder.join(format!("weir-report-{}-{n}.txt", std::process::id()));
        // Never through a link that somebody has put there.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => return file.write_all(text.as_bytes()).map(|()| path),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_everything_in_it_and_never_overwrites() {
        let folder = std::env::temp_dir().join(format!("weir-report-test-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let source = Source {
            name: "x.bt".into(),
            text: "BEGIN { @x = 1; }".into(),
        };
        let first = write(&folder, &source, "the log").unwrap();
        let second = write(&folder, &source, "another log").unwrap();
        assert_ne!(first, second);
        let text = std::fs::read_to_string(&first).unwrap();
        for part in ["the log", "BEGIN { @x = 1; }", "x.bt", env!("CARGO_PKG_VERSION"), "Linux"] {
            assert!(text.contains(part), "{text}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_helper_that_is_not_there_is_found_in_the_log() {
        let old = "5: (85) call bpf_override_return#58\nunknown func bpf_override_return#58\nprocessed 6 insns\n";
        let new = "program of this type cannot use helper bpf_override_return#58\n";
        assert_eq!(missing_helper(old), Some("bpf_override_return"));
        assert_eq!(missing_helper(new), Some("bpf_override_return"));
        assert_eq!(missing_helper("R1 !read_ok\n"), None);
    }

    #[test]
    fn places_are_found_in_the_text() {
        let text = "BEGIN {\n  ä = 1;\n}\n";
        let at = |line, column| place(text, line, column).map(|s| (s.start, s.end));
        assert_eq!(at(1, 1), Some((0, 1)));
        assert_eq!(at(2, 3), Some((10, 12)));
        assert_eq!(at(2, 4), Some((10, 12)));
        // Behind the last character.
        assert_eq!(at(3, 99), Some((19, 20)));
        assert_eq!(at(9, 1), None);
    }
}
