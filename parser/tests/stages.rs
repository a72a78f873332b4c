//! Stage files: every `tests/cases/*.weir` against the tokens and the tree beside it.
//!
//! `UPDATE_EXPECT=1 cargo test -p weir-parser` rewrites the expected files; read the difference.

use std::path::PathBuf;

use expect_test::{expect, expect_file};
use weir_parser::{SourceId, dump, dump_with_spans, parse, pretty, tokens_text};

fn cases() -> Vec<(PathBuf, String)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("cases")
        .map(|entry| entry.expect("entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "weir"));
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), std::fs::read_to_string(&path).expect("case")))
        .collect()
}

#[test]
fn trees() {
    let cases = cases();
    assert!(cases.len() >= 18, "only {} cases", cases.len());
    for (path, text) in cases {
        let parsed = parse(SourceId(0), &text);
        assert_eq!(parsed.diagnostics, [], "{}", path.display());
        assert!(!parsed.incomplete, "{}", path.display());
        expect_file![path.with_extension("ast")].assert_eq(&dump(&parsed.program));
    }
}

#[test]
fn formatted() {
    for (path, text) in cases() {
        let parsed = parse(SourceId(0), &text);
        expect_file![path.with_extension("pretty")].assert_eq(&pretty(&parsed.program));
    }
}

#[test]
fn tokens() {
    for (path, text) in cases() {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if [
            "s1_retransmits",
            "s2_flows",
            "s3_ratio",
            "attach_points",
            "casts",
            "predicates",
            "one_liners",
        ]
        .contains(&name.as_str())
        {
            expect_file![path.with_extension("tokens")].assert_eq(&tokens_text(SourceId(0), &text));
        }
    }
}

#[test]
fn spans() {
    let text = "kprobe:f /pid == 1/ { let $x : u32 = (1 + 2) ; if $x { } @m [ 1 ] ++ ; f ( a , ) }";
    expect![[r#"
        (probe @0..82
          (attach "kprobe" "f" @0..8)
          (predicate (== @10..18 (name pid @10..13) (int 1 @17..18)))
          (block @20..82
            (let $x : u32 @22..44 (+ @37..44 (int 1 @38..39) (int 2 @42..43)))
            (if @47..56
              (var $x @50..52)
              (block @53..56))
            (do @57..68 (_++ @57..68 (map @m[] @57..65 (int 1 @62..63))))
            (value (call f @71..80 (name a @75..76)))))
    "#]]
    .assert_eq(&dump_with_spans(&parse(SourceId(0), text).program));
}

/// Every node's span is the text of the node: without blanks or comments around it.
#[test]
fn spans_are_tight() {
    for (path, text) in cases() {
        let dump = dump_with_spans(&parse(SourceId(0), &text).program);
        let mut seen = 0;
        for span in dump.split(" @").skip(1) {
            let numbers: String = span.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let Some((start, end)) = numbers.split_once("..") else { continue };
            let (Ok(start), Ok(end)) = (start.parse::<usize>(), end.parse::<usize>()) else {
                continue;
            };
            let slice = &text[start..end];
            assert!(!slice.is_empty() && slice.trim() == slice, "{}: `{slice}`", path.display());
            seen += 1;
        }
        assert!(seen > 3, "{}", path.display());
    }
}
