//! Every error message, in the words the author of a script reads, with the place and the help.
//!
//! `UPDATE_EXPECT=1 cargo test -p weir-parser` rewrites `tests/cases/errors.txt`; read the difference.

use std::fmt::Write as _;

use expect_test::expect_file;
use weir_parser::{Diagnostic, LineIndex, Severity, SourceId, dump, parse};

/// Scripts with errors, by what is wrong in them.
const SCRIPTS: &[(&str, &str)] = &[
    ("IPv6 without quotes", "xdp:eth0 /ip.src == 2001:db8::1/ { drop(); }"),
    ("IPv6 prefix without quotes", "xdp:eth0 /ip.src in (fe80::/10)/ { drop(); }"),
    ("MAC without quotes", "xdp:eth0 { eth.dst = 02:42:ac:11:00:02; }"),
    // Numbers, strings, addresses.
    ("number too large", "BEGIN { $x = 18446744073709551616; }"),
    ("hexadecimal too large", "BEGIN { $x = 0x1_0000_0000_0000_0000; }"),
    ("exponent too large", "BEGIN { $x = 1e20; $y = 0e99; }"),
    ("duration too long", "BEGIN { $x = 300000d; }"),
    ("number suffix", "BEGIN { $x = 10xyz; }"),
    ("octal digit", "BEGIN { $x = 0089; }"),
    ("hexadecimal without digits", "BEGIN { $x = 0x; $y = 0xg; }"),
    ("trailing underscore", "BEGIN { $x = 1_; }"),
    ("unterminated string", "BEGIN { print(\"abc); }\nEND { print(1); }"),
    ("unknown escape", r#"BEGIN { print("a\qb\'"); }"#),
    ("hexadecimal escape", r#"BEGIN { print("\xzz"); }"#),
    ("octal escape", r#"BEGIN { print("\777"); }"#),
    ("single quotes", "BEGIN { print('abc'); }"),
    ("one single quote", "BEGIN { print(it's); }"),
    ("typographic quotes", "BEGIN { print(“abc”); }"),
    ("address part", "xdp:lo /ip.src == 10.0.0.300/ { }"),
    ("address part beyond 32 bits", "xdp:lo /ip.src == 10.0.0.99999999999/ { }"),
    ("prefix length", "xdp:lo /ip.src in (10.0.0.0/33)/ { }"),
    ("prefix with host bits", "xdp:lo /ip.src in (10.0.0.1/8)/ { }"),
    ("parameter zero", "BEGIN { print($0); print($99999999999); }"),
    ("lone dollar", "BEGIN { $ = 1; }"),
    ("characters", "BEGIN { é\u{1}`; }"),
    // Brackets and comments.
    ("unclosed comment", "BEGIN { } /* never"),
    ("unclosed parenthesis", "BEGIN { print(1; exit(); }"),
    ("unclosed parenthesis at a block", "BEGIN { if ($x == 1 { print(1); } }"),
    ("unclosed bracket", "BEGIN { @x[1 = 2; }"),
    ("mixed brackets", "BEGIN { print(@x[1); }"),
    ("stray parenthesis", "BEGIN { print(1)); }"),
    ("stray bracket", "BEGIN { @x[1]] = 2; }"),
    ("stray brace", "BEGIN { } } END { }"),
    ("unclosed brace at the end", "BEGIN { if (1) { print(1); }"),
    (
        "unclosed brace before a probe",
        "BEGIN { if (1) {\n  print(1);\nkprobe:f { exit(); }",
    ),
    ("unclosed brace before a macro", "BEGIN { print(1);\nmacro m() { 1 }"),
    ("stray bracket in a define", "#define X }\nBEGIN { }"),
    // Items.
    ("statement outside", "print(1); @x = 2;\nBEGIN { }\nif (1) { }"),
    ("block outside", "{ print(1); }"),
    ("predicate outside", "/pid == 1/ { print(1); }"),
    ("no block", "kprobe:f"),
    ("no block with predicate", "kprobe:f /pid == 1/"),
    ("two attach points", "kprobe:f kprobe:g { }"),
    ("predicate without end", "kprobe:f /pid == 1 { exit(); $x = ; }"),
    ("empty predicate", "kprobe:f / / { }"),
    ("predicate without blank", "xdp:eth0/tcp.dport==22/ { }"),
    ("unterminated attach point", "uprobe:\"/bin/bash:f { }\nBEGIN { }"),
    ("label without attach point", "name= { }"),
    ("import without semicolon", "import \"x.bt\"\nBEGIN { }"),
    ("import of bytes", "import \"\\xff\";"),
    ("import in a block", "BEGIN { import \"x.bt\"; }"),
    ("use without semicolon", "use blocklist(iface = \"eth0\") as bl\nbl:drop { }"),
    ("use without alias", "use blocklist() as;"),
    ("use with unnamed parameter", "use blocklist(\"eth0\");"),
    ("use with a parameter twice", "use blocklist(iface = \"a\", iface = \"b\");"),
    ("let of a variable", "let $x = 1;"),
    ("let without kind", "let @m = 5;"),
    ("config entry", "config = { a = ; b = 2; c }"),
    ("macro parameter", "macro m(3) { print(1; }"),
    ("fn without type", "fn f($a) : int32 { $x = ; }"),
    // Statements.
    ("missing semicolon before a line", "BEGIN { $x = 1\n  print($x); }"),
    ("missing semicolon in a line", "BEGIN { $x = 1 $y = 2; }"),
    ("body without braces", "BEGIN { if ($x) exit(); }"),
    ("misspelt while", "BEGIN { whlie ($x) { } }"),
    ("misspelt return", "BEGIN { retrun 1; }"),
    ("misspelt else", "BEGIN { if (1) { } esle { } }"),
    ("comparison with =", "BEGIN { if ($x = 1) { } }"),
    ("and, or", "BEGIN { if ($x and $y) { } if ($x or $y) { } }"),
    ("else without if", "BEGIN { else { print(1); } }"),
    ("for without variable", "BEGIN { for (x : @m) { print(1 2); } }"),
    ("for without range", "BEGIN { for ($i) { } for ($i : ) { } }"),
    ("let without variable", "BEGIN { let x = 1; let; }"),
    ("let with a broken type", "BEGIN { let $x : 3 = 1; }"),
    ("two types in one", "BEGIN { let $x : foo bar = 1; }"),
    ("colon", "BEGIN { a : b; }"),
    ("assignment to a literal", "BEGIN { 1 = 2; \"a\" = 3; 10.0.0.1 = 4; }"),
    ("assignment to a call", "BEGIN { f() = 2; $1 = 3; $x.0 = 4; }"),
    ("assignment to a comparison", "BEGIN { $x == 1 = 2; ($x + 1)++; -$x += 2; }"),
    // Expressions.
    ("nothing behind an operator", "BEGIN { $x = 1 + ; $y = ; }"),
    ("operator missing in arguments", "BEGIN { print(1 2); print(1,,2); }"),
    ("field name missing", "BEGIN { $x = $y.; $z = $y->3; }"),
    ("ternary without colon", "BEGIN { $x = $y ? 1; }"),
    ("if as a value without else", "BEGIN { $x = if $y { 1 }; print(2 3); }"),
    ("several indices", "BEGIN { $x[1, 2]; $x[]; }"),
    ("empty key", "BEGIN { @x[] = 1; }"),
    ("tuple index", "BEGIN { $x.99999999999; }"),
    ("record field twice", "BEGIN { $r = (a = 1, a = 2); }"),
    ("broken record", "BEGIN { $r = (a = 1, 2); }"),
    ("empty set", "BEGIN { $x in (); }"),
    ("empty range", "BEGIN { $x in (9-3, 10.0.0.9-10.0.0.1); }"),
    ("broken cast", "BEGIN { $x = (struct *)$y; }"),
    ("broken sizeof", "BEGIN { sizeof(struct); offsetof(struct x); }"),
    (
        "several errors",
        "BEGIN { $a = ; if (1 2) { $b = ; } print(3 4); }\nkprobe:f { @ = ; }",
    ),
    (
        "string where an operator belongs",
        "BEGIN { print(pid \"a very long string, longer than it needs to be\"); }",
    ),
    // Directives.
    ("define of a statement", "#define X struct foo\n#define Y 1 +\nBEGIN { }"),
    ("define without name", "#define\nBEGIN { }"),
    ("define with parameters", "#define MAX(a, b) ((a) > (b) ? (a) : (b))\nBEGIN { }"),
    ("define in a block", "BEGIN {\n#define X 1\n#include <x.h>\n}"),
    ("include without file", "#include\n#include linux/x.h\n#include <x.h\nBEGIN { }"),
    ("unknown directive", "# a comment\nBEGIN { }"),
    ("else without if directive", "#else\n#endif\nBEGIN { }"),
    ("condition without end", "#ifdef X\nBEGIN { }"),
    ("condition that cannot be evaluated", "#if FOO > 3\n#endif\nBEGIN { }"),
    ("error and warning", "#error not here\n#warning careful\n#undef X\nBEGIN { }"),
    // C types.
    ("field without name", "struct x { int; };"),
    ("field of unknown shape", "struct x { int a b; void (*f)(int); u32 ok; };"),
    ("field after qualifier", "struct x { foo struct y z; };"),
    ("pointer to a type in place", "struct x { struct { int a; } *p; };"),
    ("struct without end", "struct x { int a;\nBEGIN { }"),
];

fn render(text: &str, diagnostics: &[Diagnostic]) -> String {
    let lines = LineIndex::new(text);
    let place = |span: weir_parser::Span| {
        let ((line, column), (end_line, end_column)) = (lines.line_col(span.start), lines.line_col(span.end));
        format!("{line}:{column}-{end_line}:{end_column}")
    };
    let mut out = String::new();
    for diagnostic in diagnostics {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Lint => "lint",
        };
        let _ = writeln!(
            out,
            "  {} {severity}[{}]: {}",
            place(diagnostic.span),
            diagnostic.code,
            diagnostic.message
        );
        for (span, label) in &diagnostic.labels {
            let _ = writeln!(out, "    {}: {label}", place(*span));
        }
        for help in &diagnostic.help {
            let _ = writeln!(out, "    help: {help}");
        }
    }
    out
}

#[test]
fn messages() {
    let mut out = String::new();
    for (name, script) in SCRIPTS {
        let parsed = parse(SourceId(0), script);
        assert!(!parsed.diagnostics.is_empty(), "{name}: no diagnostic");
        for diagnostic in &parsed.diagnostics {
            let text = &diagnostic.message;
            assert!(
                !text.ends_with('.') && !text.starts_with(|c: char| c.is_ascii_uppercase()),
                "{name}: {text}"
            );
        }
        let _ = writeln!(out, "# {name}");
        for line in script.lines() {
            let _ = writeln!(out, "| {line}");
        }
        let _ = writeln!(out, "{}", render(script, &parsed.diagnostics));
    }
    expect_file!["cases/errors.txt"].assert_eq(&out);
}

/// Every code that the sources can produce is shown by a script above.
#[test]
fn every_code_is_shown() {
    let mut shown: Vec<&str> = SCRIPTS
        .iter()
        .flat_map(|(_, script)| parse(SourceId(0), script).diagnostics)
        .map(|d| d.code)
        .collect();
    let deep = format!("BEGIN {{ $x = {}1; }}", "!".repeat(300));
    shown.extend(parse(SourceId(0), &deep).diagnostics.iter().map(|d| d.code));
    let mut known = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("sources") {
        let text = std::fs::read_to_string(entry.expect("entry").path()).expect("source");
        for call in ["Diagnostic::error(", "Diagnostic::warning("] {
            for rest in text.split(call).skip(1) {
                let Some(code) = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) else {
                    continue;
                };
                assert!(shown.contains(&code), "no script shows `{code}`");
                known += 1;
            }
        }
    }
    assert!(known > 40, "only {known} found");
}

/// An error does not hide what is right around it.
#[test]
fn the_rest_of_the_tree_stays() {
    let text = "BEGIN { $a = ; $b = 2; if ($c == ) { $d = 4; } print(5 6); $e = 7 }\nkprobe:f { @ = count(); }";
    let parsed = parse(SourceId(0), text);
    assert_eq!(parsed.diagnostics.len(), 3);
    let tree = dump(&parsed.program);
    for kept in [
        "(assign = (var $b) (int 2))",
        "(assign = (var $d) (int 4))",
        "(call print (error))",
        "(assign = (var $e) (int 7))",
        "(call count)",
    ] {
        assert!(tree.contains(kept), "{kept} is not in\n{tree}");
    }
}

/// What a REPL asks: would more lines complete it?
#[test]
fn incomplete() {
    let incomplete = |text: &str| parse(SourceId(0), text).incomplete;
    for text in [
        "BEGIN {",
        "BEGIN",
        "kprobe:f /pid",
        "kprobe:f,",
        "BEGIN { print(",
        "macro m(",
        "/* x",
        "#if 0",
        "use x(",
        "import \"x\"",
        "BEGIN { if (1) { }",
        "struct x {",
    ] {
        assert!(incomplete(text), "{text}");
    }
    for text in [
        "",
        "BEGIN { }",
        "BEGIN { $x = ; }",
        "let @m = hash(1)",
        "print(1);",
        "}",
        "// x",
        "#define X 1",
        "BEGIN { print(1 }",
    ] {
        assert!(!incomplete(text), "{text}");
    }
}

#[test]
fn an_expression_that_is_too_deep_is_said_once() {
    let text = format!("begin {{ $x = {}pid; $y = {}1; @ = ; }}", "pid + ".repeat(5000), "!".repeat(600));
    let parsed = weir_parser::parse(SourceId(0), &text);
    let codes: Vec<&str> = parsed.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes.iter().filter(|c| **c == "too-deep").count(), 2, "{codes:?}");
}
