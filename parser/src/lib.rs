//! Source text to syntax tree.
//!
//! Input: the text of one script. Output: [`ast::Program`] *and* [`Diagnostic`]s; parsing never fails and never
//! panics. The parser knows syntax only: what a name means is decided in `weir-compiler`.
//! Not here: name resolution, types, files (imports are resolved by the caller).
//!
//! Stages: `lexer` (text to the tokens of each item, brackets balanced) → `marks` (casts, records, words that are
//! keywords by position) → `grammar` (one item to a tree), run by `recover`.

pub mod ast;
mod attach;
pub mod diag;
mod directive;
mod dump;
mod format;
mod layout;
mod lexer;
mod lines;
mod literal;
mod marks;
pub mod mentions;
mod message;
mod node;
pub mod params;
mod pretty;
mod recover;
mod token;

lalrpop_util::lalrpop_mod!(
    #[allow(clippy::all, clippy::unwrap_used, unused, reason = "generated")]
    grammar
);

pub use diag::{Diagnostic, Severity, SourceId, Span};
pub use dump::{dump, dump_with_spans};
pub use format::{FormatError, format};
pub use lines::LineIndex;
pub use pretty::pretty;

/// What [`parse`] returns.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The tree, as far as the text could be understood.
    pub program: ast::Program,
    /// In the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether the text ends inside of something that more lines could complete.
    pub incomplete: bool,
}

impl Parsed {
    /// Whether there is an error among the diagnostics.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Parses a script.
#[must_use]
pub fn parse(source: SourceId, text: &str) -> Parsed {
    let lexed = lexer::lex(source, text);
    let mut diagnostics = lexed.diagnostics;
    let mut program = ast::Program {
        shebang: lexed.shebang.map(str::to_owned),
        ..ast::Program::default()
    };
    for tokens in lexed.items {
        match recover::parse_item(source, text, tokens, &mut diagnostics) {
            Some(node::Top::Item(item)) => program.items.push(item),
            Some(node::Top::Type(def)) => program.types.push(def),
            None => {}
        }
    }
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
    Parsed {
        program,
        diagnostics,
        incomplete: lexed.incomplete,
    }
}

/// Prints the tokens of a script as the grammar sees them, one a line: `line:col-line:col kind text`.
#[must_use]
pub fn tokens_text(source: SourceId, text: &str) -> String {
    use std::fmt::Write as _;
    let lexed = lexer::lex(source, text);
    let lines = LineIndex::new(text);
    let mut out = String::new();
    for token in lexed.items.iter().flatten() {
        let ((line, column), (end_line, end_column)) = (lines.line_col(token.start), lines.line_col(token.end));
        let slice = &text[token.start as usize..token.end as usize];
        let _ = writeln!(
            out,
            "{line}:{column}-{end_line}:{end_column} {} {}",
            token.tok.kind_name(),
            slice.escape_debug()
        );
    }
    out
}
