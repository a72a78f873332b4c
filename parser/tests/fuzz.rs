//! Whatever the text: no panic, no endless loop, spans inside of the text, and a diagnostic for everything not understood.

mod support;

use proptest::prelude::*;
use support::without_spans;
use weir_parser::{LineIndex, SourceId, dump, dump_with_spans, parse, pretty, tokens_text};

/// Checks everything that must hold for any text.
fn check(text: &str) -> Result<(), TestCaseError> {
    let parsed = parse(SourceId(0), text);
    let lines = LineIndex::new(text);
    for diagnostic in &parsed.diagnostics {
        let places = std::iter::once(diagnostic.span).chain(diagnostic.labels.iter().map(|(span, _)| *span));
        for span in places {
            prop_assert!(
                span.start <= span.end && span.end as usize <= text.len(),
                "{:?} in {:?}",
                diagnostic,
                text
            );
            prop_assert!(
                text.is_char_boundary(span.start as usize) && text.is_char_boundary(span.end as usize),
                "{:?} in {:?}",
                diagnostic,
                text
            );
            let _ = lines.line_col(span.start);
        }
        prop_assert!(
            !diagnostic.message.is_empty() && !diagnostic.message.ends_with('.'),
            "{}",
            diagnostic.message
        );
    }
    let dumped = dump(&parsed.program);
    let _ = dump_with_spans(&parsed.program);
    let _ = tokens_text(SourceId(0), text);
    let formatted = pretty(&parsed.program);
    if parsed.has_errors() {
        return Ok(());
    }
    prop_assert!(!parsed.incomplete, "incomplete without an error: {:?}", text);
    prop_assert!(
        !dumped.contains("(error)"),
        "an error node without an error: {:?}\n{}",
        text,
        dumped
    );
    let again = parse(SourceId(0), &formatted);
    prop_assert_eq!(&again.diagnostics, &[], "{:?} became {:?}", text, formatted);
    prop_assert_eq!(
        without_spans(&again.program),
        without_spans(&parsed.program),
        "{:?} became {:?}",
        text,
        formatted
    );
    Ok(())
}

const PIECES: &[&str] = &[
    "if",
    "else",
    "while",
    "for",
    "unroll",
    "return",
    "break",
    "continue",
    "let",
    "sizeof",
    "offsetof",
    "typeof",
    "struct",
    "union",
    "enum",
    "true",
    "in",
    "as",
    "use",
    "has",
    "limit",
    "comptime",
    "config",
    "import",
    "macro",
    "fn",
    "begin",
    "END",
    "kprobe:f",
    "xdp:eth0 ",
    "self:signal:X",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ";",
    ":",
    "?",
    ".",
    "..",
    "->",
    "=",
    "+=",
    "/=",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "<<",
    ">>",
    "+",
    "-",
    "*",
    "/",
    "%",
    "&",
    "|",
    "^",
    "!",
    "~",
    "&&",
    "||",
    "++",
    "--",
    "$x",
    "@",
    "@m",
    "$1",
    "$#",
    "$",
    "#",
    "\n#define X ",
    "\n#ifdef A\n",
    "\n#endif\n",
    "\n#else\n",
    "#include <x>\n",
    "1",
    "0x1f",
    "10ms",
    "1e6",
    "08",
    "1.2.3.4",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "\"s\"",
    "\"",
    "'",
    "pid",
    "x",
    "u32",
    "AF_INET",
    "tcp.dport",
    "\n",
    "//",
    "/*",
    "*/",
    "é",
    "__attribute__",
    "name=",
    "\\",
];

const HEADS: &[&str] = &[
    "",
    "BEGIN {",
    "kprobe:f /",
    "macro m(a) {",
    "struct x {",
    "config = {",
    "use x(",
    "BEGIN { if (",
    "BEGIN { $x = ",
    "BEGIN { f(",
];
const TAILS: &[&str] = &["", "}", "/ { }", "; }", ") }", "; };"];

fn soup() -> impl Strategy<Value = String> {
    let pieces = prop::collection::vec((prop::sample::select(PIECES), prop::sample::select(vec![" ", "", "\n"])), 0..40);
    (prop::sample::select(HEADS), pieces, prop::sample::select(TAILS)).prop_map(|(head, pieces, tail)| {
        let mut text = head.to_owned();
        for (piece, blank) in pieces {
            text.push(' ');
            text.push_str(piece);
            text.push_str(blank);
        }
        text + tail
    })
}

/// A good script with a few bytes changed.
fn mutated() -> impl Strategy<Value = String> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut texts: Vec<String> = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .expect("cases")
        .map(|entry| entry.expect("entry").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.extension().is_some_and(|extension| extension == "weir") {
            texts.push(std::fs::read_to_string(path).expect("case"));
        }
    }
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, prop::sample::select(PIECES)), 1..4);
    (prop::sample::select(texts), edits).prop_map(|(text, edits)| {
        let mut chars: Vec<char> = text.chars().collect();
        for (place, kind, piece) in edits {
            let at = place.index(chars.len().max(1)).min(chars.len());
            match kind {
                0 => {
                    chars.splice(at..at, piece.chars());
                }
                1 if at < chars.len() => {
                    chars.remove(at);
                }
                _ => chars.truncate(at),
            }
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn ascii_text(text in "[ -~\n\t]{0,120}") {
        check(&text)?;
    }

    #[test]
    fn token_soup(text in soup()) {
        check(&text)?;
    }

    #[test]
    fn mutated_scripts(text in mutated()) {
        check(&text)?;
    }
}

/// Depth is bounded with a diagnostic; nothing overflows the stack, wherever the nesting comes from.
#[test]
fn deep_nesting() {
    let n = 20_000;
    let deep = [
        format!("BEGIN {{ $x = {}1{}; }}", "(".repeat(n), ")".repeat(n)),
        format!("BEGIN {{ $x = {}1; }}", "!".repeat(n)),
        format!("BEGIN {{ $x = {}1; }}", "- ".repeat(n)),
        format!("BEGIN {{ $x = 1{}; }}", " + 1".repeat(n)),
        format!("BEGIN {{ $x = {}1; }}", "1 ? 2 : ".repeat(n)),
        format!("BEGIN {{ $x = {}1; }}", "1 ?: ".repeat(n)),
        format!("BEGIN {{ $x = {}1; }}", "(u8)".repeat(n)),
        format!("BEGIN {{ $x = (u8{})1; }}", "*".repeat(n)),
        format!("BEGIN {{ $x = a{}; }}", ".a".repeat(n)),
        format!("BEGIN {{ $x = a{}; }}", "[1]".repeat(n)),
        format!("BEGIN {{ $x = {}1{}; }}", "f(".repeat(n), ")".repeat(n)),
        format!("BEGIN {{ $x = {}1{}; }}", "@[".repeat(n), "]".repeat(n)),
        format!("BEGIN {{ $x = {}1{}; }}", "(1, ".repeat(n), ")".repeat(n)),
        format!("BEGIN {{ $x = {}1{}; }}", "(a = ".repeat(n), ")".repeat(n)),
        format!("BEGIN {{ $x = {}1{}; }}", "{ ".repeat(n), " }".repeat(n)),
        format!("BEGIN {{ $x = {}1{}; }}", "sizeof(".repeat(n), ")".repeat(n)),
        format!("BEGIN {{ $x = {}1{}; }}", "typeof(".repeat(n), ")".repeat(n)),
        format!("BEGIN {{ $x = {}1{}1; }}", "(typeof(".repeat(n), "))".repeat(n)),
        format!("BEGIN {{ {}1{} }}", "limit(".repeat(n), ")".repeat(n)),
        format!("BEGIN {{ $x = 1{}; }}", " in (1)".repeat(n)),
        format!("BEGIN {{ {} {} }}", "{".repeat(n), "}".repeat(n)),
        format!("BEGIN {{ {} {} }}", "if (1) {".repeat(n), "}".repeat(n)),
        format!("BEGIN {{ if (1) {{ }} {} }}", "else if (1) { } ".repeat(n)),
        format!("BEGIN {{ $x = if 1 {{ 1 }} {} else {{ 2 }}; }}", "else if 1 { 1 } ".repeat(n)),
        format!("struct x {{ {} int a; {} }};", "struct {".repeat(n), "} b;".repeat(n)),
        format!("struct x {{ int {}a; }};", "*".repeat(n)),
        format!("BEGIN {{ {}", "(".repeat(n)),
        format!("BEGIN {{ {}", "{".repeat(n)),
        format!("#if {}0", "!".repeat(n)),
    ];
    for text in deep {
        let parsed = parse(SourceId(0), &text);
        let shown: String = text.chars().take(60).collect();
        let _ = (dump(&parsed.program), pretty(&parsed.program), parsed.program.clone());
        // Parentheses add no depth, and the type of a type is that type.
        let flat = shown.contains("$x = ((((((((((") || shown.contains("$x = typeof(typeof(");
        assert!(flat || parsed.has_errors(), "{shown}");
    }
}
