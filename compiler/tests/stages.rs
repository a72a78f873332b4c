//! Stage files: `tests/cases/STAGE/*.weir`, the script and below a line of dashes what the stage prints.
//!
//! `WEIR_BLESS=1 cargo test -p weir-compiler --test stages` writes what is printed now; read the diff.

#![allow(clippy::unwrap_used)] // A panic is the failure.

mod support;

use std::fmt::Write;
use std::path::Path;
use support::FixtureKernel;
use weir_compiler::pipeline::{Options, Output, Source, Stage, compile};

const SEPARATOR: &str = "\n--------\n";

fn run(script: &str, stage: Option<Stage>) -> Output {
    // First-line switches: what the kernel lacks, whether the object is for others, what `$1` is.
    let first = script.lines().next().unwrap_or_default();
    let kernel = FixtureKernel {
        kprobes: !first.contains("no-kprobes"),
        tcx: !first.contains("no-tcx"),
        btf: !first.contains("no-btf"),
        fentry: !first.contains("no-fentry"),
        pmu: !first.contains("no-pmu"),
        v4: !first.contains("no-v4"),
    };
    let source = Source {
        name: "stdin".to_owned(),
        text: script.to_owned(),
    };
    let mut options = Options {
        dump: stage.into_iter().collect(),
        ..Options::default()
    };
    // As `weir build` does it.
    options.script.portable = first.contains("portable");
    // As `weir check` does it.
    options.script.judged_only = first.contains("judged");
    // What stands behind the script on the command line.
    let given = first.split_whitespace().filter_map(|word| word.strip_prefix("given:"));
    options.script.positional = given.map(str::to_owned).collect();
    compile(&source, &kernel, &options)
}

fn text(script: &str, output: &Output) -> String {
    let mut out = String::new();
    let index = weir_parser::LineIndex::new(script);
    for d in &output.diagnostics {
        let (line, col) = index.line_col(d.span.start);
        let (end_line, end_col) = index.line_col(d.span.end);
        let place = if line == end_line {
            format!("{line}:{col}-{end_col}")
        } else {
            format!("{line}:{col}-{end_line}:{end_col}")
        };
        writeln!(out, "{place}: {:?}[{}]: {}", d.severity, d.code, d.message).unwrap();
        if !d.label.is_empty() {
            writeln!(out, "  label: {}", d.label).unwrap();
        }
        for (span, label) in &d.labels {
            let (line, col) = index.line_col(span.start);
            writeln!(out, "  {line}:{col}: {label}").unwrap();
        }
        for help in &d.help {
            writeln!(out, "  help: {help}").unwrap();
        }
    }
    if let Some((stage, message)) = &output.internal {
        writeln!(out, "internal error in {stage}: {message}").unwrap();
    }
    for (_, dump) in &output.dumps {
        out.push_str(dump);
    }
    out
}

fn check_folder(name: &str, stage: Option<Stage>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", folder.display());
    let mut failures = Vec::new();
    for path in files {
        let content = std::fs::read_to_string(&path).unwrap();
        let (script, expected) = content.split_once(SEPARATOR).unwrap_or((content.trim_end(), ""));
        let output = run(script, stage);
        if let Some((stage, message)) = &output.internal {
            failures.push(format!("{}: internal error in {stage}: {message}", path.display()));
            continue;
        }
        let actual = text(script, &output);
        if actual.trim_end() != expected.trim_end() {
            if std::env::var_os("WEIR_BLESS").is_some() {
                std::fs::write(&path, format!("{script}{SEPARATOR}{}\n", actual.trim_end())).unwrap();
            } else {
                failures.push(format!("{}\n--- expected\n{expected}\n--- actual\n{actual}", path.display()));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn diagnostics() {
    check_folder("errors", None);
}

#[test]
fn hir() {
    check_folder("hir", Some(Stage::Hir));
}

#[test]
fn plan() {
    check_folder("plan", Some(Stage::Plan));
}

#[test]
fn clif() {
    check_folder("clif", Some(Stage::Clif));
}

#[test]
fn bpf() {
    check_folder("bpf", Some(Stage::Bpf));
}

#[test]
fn elf() {
    check_folder("elf", Some(Stage::Elf));
}

#[test]
fn same_text_same_bytes() {
    let script = "xdp:veth0 /tcp.dport == 22/ { @[ip.src] = count(); drop(); } interval:s:1 { print(@); }";
    let (a, b) = (run(script, None), run(script, None));
    assert_eq!(a.object.unwrap().elf, b.object.unwrap().elf);
}

/// Without the long jumps of instruction set v4 a block can be too long for its own `if`.
#[test]
fn a_block_that_is_too_long_for_a_jump_says_so() {
    let body = |n: u32| -> String { (0..n).map(|i| format!("@c[{i}] = count();")).collect() };
    let script = |n| format!("// no-v4\nbegin {{ if (nsecs > 1) {{ {} }} @d = 1; }}", body(n));
    let short = run(&script(20), None);
    assert!(short.object.is_some(), "{}", text(&script(20), &short));
    let long = script(1500);
    let said = text(&long, &run(&long, None));
    assert!(
        said.contains("[block-too-long]: this block is too long: it takes a jump over "),
        "{said}"
    );
    assert!(said.contains("kernels before 6.6 allow 32767"), "{said}");
}

#[test]
fn every_example_of_the_statements_compiles() {
    for statement in weir_compiler::tables::STATEMENTS {
        let example = statement.example;
        let output = run(example, None);
        assert_eq!(text(example, &output), "", "{example}");
        assert!(output.object.is_some(), "{example}");
        let words: Vec<&str> = example.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for word in statement.words {
            assert!(words.contains(word), "no `{word}`: {example}");
        }
    }
}
