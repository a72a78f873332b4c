//! The one renderer of everything that a person is told: diagnostics, runtime errors, notices, failures.
//!
//! Input: plain data and the sources that spans point into. Output: text for standard error, a newline at the end.

use annotate_snippets::{AnnotationKind, Group, Level, Snippet};
use std::fmt::Write;
use std::ops::Range;
use std::os::fd::AsFd;
use weir_compiler::pipeline::Source;
use weir_parser::{Diagnostic, Severity, Span};
use weir_runtime::Notice;

/// What went wrong outside of a script: message and what to do about it.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub help: Option<String>,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    #[default]
    Error,
    Warning,
    Lint,
    Note,
}

impl Kind {
    fn level(self) -> Level<'static> {
        match self {
            Kind::Error => Level::ERROR,
            Kind::Warning => Level::WARNING,
            Kind::Lint => Level::WARNING.with_name("lint"),
            Kind::Note => Level::NOTE,
        }
    }
}

impl From<Severity> for Kind {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Error => Kind::Error,
            Severity::Warning => Kind::Warning,
            Severity::Lint => Kind::Lint,
        }
    }
}

/// One message, from wherever it comes.
#[derive(Clone, Debug, Default)]
pub struct Message<'a> {
    pub kind: Kind,
    /// A stable name, or nothing.
    pub code: &'a str,
    pub text: String,
    pub span: Option<Span>,
    pub label: String,
    pub labels: &'a [(Span, String)],
    pub notes: Vec<String>,
    pub help: Vec<String>,
}

impl<'a> From<&'a Diagnostic> for Message<'a> {
    fn from(d: &'a Diagnostic) -> Self {
        Self {
            kind: d.severity.into(),
            code: d.code,
            text: d.message.clone(),
            span: Some(d.span),
            label: d.label.clone(),
            labels: &d.labels,
            notes: Vec::new(),
            help: d.help.clone(),
        }
    }
}

/// Messages of one script that are shown: who has made more mistakes has made one of them very often.
const MAX_SHOWN: usize = 50;

#[derive(Clone, Debug)]
pub struct Renderer {
    inner: annotate_snippets::Renderer,
}

impl Renderer {
    /// Renders for standard error: in colour when that and standard output are terminals, unless the environment says otherwise.
    pub fn for_stderr() -> Self {
        let is_terminal = nix::unistd::isatty(std::io::stderr()).unwrap_or(false);
        // As bpftrace: in colour only where all that is seen goes to a terminal.
        let both = is_terminal && nix::unistd::isatty(std::io::stdout()).unwrap_or(false);
        let env = |name| std::env::var(name).ok();
        let inner = if use_colour(env("BPFTRACE_COLOR").as_deref(), env("NO_COLOR").as_deref(), both) {
            annotate_snippets::Renderer::styled()
        } else {
            annotate_snippets::Renderer::plain()
        };
        match is_terminal.then(terminal_width).flatten() {
            Some(width) => Self {
                inner: inner.term_width(width),
            },
            None => Self { inner },
        }
    }

    /// Renders all of a compilation's messages: errors, then warnings, then lints, each in the order of the text.
    pub fn diagnostics(&self, sources: &[Source], list: &[Diagnostic]) -> String {
        let mut list: Vec<&Diagnostic> = list.iter().collect();
        list.sort_by_key(|d| Kind::from(d.severity));
        let mut out = String::new();
        let rest = list.split_off(list.len().min(MAX_SHOWN));
        for (i, diagnostic) in list.into_iter().enumerate() {
            if i > 0 {
                out.push('\n');
            }
            out.push_str(&self.message(sources, &diagnostic.into()));
        }
        if !rest.is_empty() {
            let counts = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Lint, "lint")];
            let counts = counts.map(|(severity, word)| (rest.iter().filter(|d| d.severity == severity).count(), word));
            let words: Vec<String> = counts
                .iter()
                .filter(|(n, _)| *n > 0)
                .map(|(n, word)| format!("{n} more {word}{}", if *n == 1 { "" } else { "s" }))
                .collect();
            // Writing to a `String` cannot fail.
            let _ = writeln!(out, "\n… and {}", words.join(", "));
        }
        out
    }

    /// Renders something that a person should hear while a script runs. What bpftrace says, is said in its words.
    pub fn notice(&self, sources: &[Source], notice: &Notice) -> String {
        if matches!(
            notice,
            Notice::Attached { .. } | Notice::Named { .. } | Notice::Replayed { .. } | Notice::LostEvents { .. }
        ) {
            return format!("{notice}\n");
        }
        self.message(
            sources,
            &Message {
                kind: match notice {
                    Notice::Script { error: true, .. } => Kind::Error,
                    _ if notice.is_warning() => Kind::Warning,
                    _ => Kind::Note,
                },
                text: notice.to_string(),
                span: notice.span(),
                help: notice.help().into_iter().collect(),
                ..Message::default()
            },
        )
    }

    pub fn failure(&self, failure: &Failure) -> String {
        self.message(
            &[],
            &Message {
                text: failure.message.clone(),
                help: failure.help.iter().cloned().collect(),
                ..Message::default()
            },
        )
    }

    pub fn message(&self, sources: &[Source], message: &Message<'_>) -> String {
        let mut title = message.kind.level().primary_title(message.text.as_str());
        if !message.code.is_empty() {
            title = title.id(message.code);
        }
        let mut group = Group::with_title(title);
        let marks = marks(message);
        // The source of the message itself first.
        let first = message.span.map_or(0, |s| s.source.0 as usize);
        let order = std::iter::once(first).chain((0..sources.len()).filter(|i| *i != first));
        for (index, source) in order.filter_map(|i| sources.get(i).map(|s| (i, s))) {
            let mut here = marks.iter().filter(|m| m.span.source.0 as usize == index).peekable();
            if here.peek().is_none() {
                continue;
            }
            // Only the lines that are shown: the renderer reads all that it gets, once for each message.
            let (lines, before) = lines_of(&source.text, here.clone().map(|mark| range(&source.text, mark.span)));
            let snippet = Snippet::source(&source.text[lines.clone()])
                .line_start(before + 1)
                .path(source.name.as_str());
            let first = lines.start;
            group = group.element(snippet.annotations(here.map(move |mark| {
                let range = range(&source.text, mark.span);
                let annotation = mark.kind.span(range.start - first..range.end - first);
                if mark.label.is_empty() {
                    annotation
                } else {
                    annotation.label(mark.label)
                }
            })));
        }
        group = group.elements(message.notes.iter().map(|n| Level::NOTE.message(n.as_str())));
        group = group.elements(message.help.iter().map(|h| Level::HELP.message(h.as_str())));
        let mut out = self.inner.render(&[group]);
        // Writing to a `String` cannot fail.
        let _ = writeln!(out);
        out
    }
}

struct Mark<'a> {
    span: Span,
    kind: AnnotationKind,
    label: &'a str,
}

fn marks<'a>(message: &'a Message<'_>) -> Vec<Mark<'a>> {
    let primary = message.span.map(|span| Mark {
        span,
        kind: AnnotationKind::Primary,
        label: &message.label,
    });
    let others = message.labels.iter().map(|(span, label)| Mark {
        span: *span,
        kind: AnnotationKind::Context,
        label,
    });
    primary.into_iter().chain(others).collect()
}

/// Brings a span into the text and onto character boundaries: a bad span must not hide the message.
fn range(text: &str, span: Span) -> Range<usize> {
    let start = text.floor_char_boundary(span.start as usize);
    let end = text.ceil_char_boundary((span.end as usize).min(text.len()));
    start..end.max(start)
}

/// Returns the whole lines that the ranges touch, and how many lines are before them.
fn lines_of(text: &str, ranges: impl Iterator<Item = Range<usize>>) -> (Range<usize>, usize) {
    let (start, end) = ranges.fold((text.len(), 0), |(start, end), r| (start.min(r.start), end.max(r.end)));
    let start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
    (start..end, text[..start].bytes().filter(|b| *b == b'\n').count())
}

fn use_colour(bpftrace: Option<&str>, no_color: Option<&str>, is_terminal: bool) -> bool {
    match bpftrace {
        Some("always") => true,
        Some("never") => false,
        _ => is_terminal && no_color.is_none_or(str::is_empty),
    }
}

fn terminal_width() -> Option<usize> {
    let (_, columns) = weir_runtime::sys::terminal::size(std::io::stderr().as_fd())?;
    (columns >= 40).then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use weir_parser::SourceId;

    fn span(start: usize, end: usize) -> Span {
        Span::new(SourceId(0), start as u32, end as u32)
    }

    fn at(text: &str, part: &str) -> Span {
        let start = text.find(part).unwrap();
        span(start, start + part.len())
    }

    fn plain() -> Renderer {
        Renderer {
            inner: annotate_snippets::Renderer::plain(),
        }
    }

    fn source(text: &str) -> [Source; 1] {
        [Source {
            name: "stdin".into(),
            text: text.into(),
        }]
    }

    fn check(text: &str, list: &[Diagnostic], expected: &Expect) {
        expected.assert_eq(&plain().diagnostics(&source(text), list));
    }

    #[test]
    fn an_error_with_label_other_places_and_help() {
        let text = "xdp:veth0 { @[comm] = count(); }";
        let error = Diagnostic::error("wrong-hook", at(text, "comm"), "`comm` does not exist in `xdp`")
            .label("not here")
            .with(at(text, "xdp:veth0"), "because of this probe")
            .help("count by `ip.src` instead");
        check(
            text,
            &[error],
            &expect![[r#"
                error[wrong-hook]: `comm` does not exist in `xdp`
                 --> stdin:1:15
                  |
                1 | xdp:veth0 { @[comm] = count(); }
                  | ---------     ^^^^ not here
                  | |
                  | because of this probe
                  |
                  = help: count by `ip.src` instead
            "#]],
        );
    }

    #[test]
    fn errors_come_before_warnings_before_lints() {
        let text = "BEGIN { @a = 1; @b = 2; @c = 3; }";
        let list = [
            Diagnostic::lint("l", at(text, "@a"), "a lint"),
            Diagnostic::warning("w", at(text, "@b"), "a warning"),
            Diagnostic::error("e", at(text, "@c"), "an error"),
        ];
        check(
            text,
            &list,
            &expect![[r#"
                error[e]: an error
                 --> stdin:1:25
                  |
                1 | BEGIN { @a = 1; @b = 2; @c = 3; }
                  |                         ^^

                warning[w]: a warning
                 --> stdin:1:17
                  |
                1 | BEGIN { @a = 1; @b = 2; @c = 3; }
                  |                 ^^

                lint[l]: a lint
                 --> stdin:1:9
                  |
                1 | BEGIN { @a = 1; @b = 2; @c = 3; }
                  |         ^^
            "#]],
        );
    }

    #[test]
    fn tabs_and_wide_characters_keep_the_caret_in_place() {
        let text = "\t/* größe 漢字 */\t@x = fake;\n";
        check(
            text,
            &[Diagnostic::error("unknown-name", at(text, "fake"), "unknown name `fake`")],
            &expect![[r#"
                error[unknown-name]: unknown name `fake`
                 --> stdin:1:22
                  |
                1 |     /* größe 漢字 */    @x = fake;
                  |                              ^^^^
            "#]],
        );
    }

    #[test]
    fn a_span_over_several_lines() {
        let text = "BEGIN {\n  @x = (1,\n    2,\n    3);\n}\n";
        check(
            text,
            &[Diagnostic::error("e", at(text, "(1,\n    2,\n    3)"), "too wide").label("this")],
            &expect![[r#"
                error[e]: too wide
                 --> stdin:2:8
                  |
                2 |     @x = (1,
                  |  ________^
                3 | |     2,
                4 | |     3);
                  | |______^ this
            "#]],
        );
    }

    #[test]
    fn the_end_of_the_text_can_be_pointed_at() {
        check(
            "BEGIN {",
            &[Diagnostic::error("syntax", span(7, 7), "expected `}`, found the end").help("close the block with `}`")],
            &expect![[r#"
                error[syntax]: expected `}`, found the end
                 --> stdin:1:8
                  |
                1 | BEGIN {
                  |        ^
                  |
                  = help: close the block with `}`
            "#]],
        );
    }

    #[test]
    fn of_many_errors_the_first_are_shown_and_the_others_counted() {
        let text = "begin { nosuch; }\n".repeat(MAX_SHOWN + 3);
        let at = |i: usize| span(18 * i + 8, 18 * i + 14);
        let mut list: Vec<Diagnostic> = (0..MAX_SHOWN + 2).map(|i| Diagnostic::error("e", at(i), "an error")).collect();
        list.insert(0, Diagnostic::warning("w", at(0), "a warning"));
        let shown = plain().diagnostics(&source(&text), &list);
        assert_eq!(shown.matches("error[e]").count(), MAX_SHOWN);
        assert!(shown.ends_with("\n\n… and 2 more errors, 1 more warning\n"), "{shown}");
        // Lines are numbered from the start of the text, not from what the renderer was given.
        assert!(
            shown.contains("--> stdin:50:9\n   |\n50 | begin { nosuch; }\n   |         ^^^^^^\n"),
            "{shown}"
        );
    }

    #[test]
    fn a_bad_span_does_not_hide_the_message() {
        for span in [span(0, 9999), span(9999, 10_000), span(5, 2), span(1, 2)] {
            let text = plain().diagnostics(&source("ä"), &[Diagnostic::error("e", span, "the message")]);
            assert!(text.starts_with("error[e]: the message\n"), "{text}");
        }
        let text = plain().diagnostics(&source(""), &[Diagnostic::error("e", span(0, 0), "the message")]);
        assert!(text.starts_with("error[e]: the message\n"), "{text}");
    }

    #[test]
    fn bpftraces_notices_are_in_its_words_and_others_are_messages() {
        let text = "BEGIN { @x[1] = 2; }";
        let sources = source(text);
        assert_eq!(plain().notice(&sources, &Notice::Attached { probes: 2 }), "Attached 2 probes\n");
        assert_eq!(plain().notice(&sources, &Notice::LostEvents { count: 5 }), "Lost 5 events\n");
        let full = Notice::MapFull {
            map: "@x".into(),
            lpm: false,
            max_entries: 10,
            refused: 3,
            span: at(text, "@x[1]"),
        };
        expect![[r#"
            warning: Map full; can't update element. Try increasing max_map_keys config or manually setting the max entries in a map declaration e.g. `let @a = hash(5000)`
                     Additional Info - helper: map_update_elem, retcode: -7
             --> stdin:1:9
              |
            1 | BEGIN { @x[1] = 2; }
              |         ^^^^^
              |
              = help: `@x` has room for 10 keys, 3 updates were refused: raise `max_map_keys` in the `config` block, or declare the map with room: `let @x = hash(40);`
        "#]]
        .assert_eq(&plain().notice(&sources, &full));
        let stale = Notice::RemovedStale { count: 1 };
        assert_eq!(
            plain().notice(&sources, &stale),
            "note: removed 1 stale filter whose owner had died\n"
        );
    }

    #[test]
    fn a_failure_has_no_place() {
        let failure = Failure::new("cannot read `x.bt`: no such file").help("say where it is");
        expect![[r#"
            error: cannot read `x.bt`: no such file
             |
             = help: say where it is
        "#]]
        .assert_eq(&plain().failure(&failure));
    }

    #[test]
    fn colour_is_for_terminals_unless_asked() {
        assert!(use_colour(None, None, true));
        assert!(use_colour(Some("auto"), Some(""), true));
        assert!(!use_colour(None, Some("1"), true));
        assert!(!use_colour(Some("never"), None, true));
        assert!(use_colour(Some("always"), Some("1"), false));
        assert!(!use_colour(None, None, false));
    }
}
