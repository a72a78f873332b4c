//! Shared by the tests: comparing trees without their spans.

use weir_parser::ast::Program;

/// Returns the tree's debug text with every span removed.
pub fn without_spans(program: &Program) -> String {
    let text = format!("{program:?}");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("Span { source: SourceId(") {
        out.push_str(&rest[..at]);
        let end = rest[at..].find('}').expect("a span's debug text ends with a brace");
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    out
}
