//! Source text formatted, comments included: the pretty printer's part that has the text, too.
//!
//! What the author had on one line stays on one line, and so do single blank lines. What has comments inside of an expression or
//! between the parts of a header stays as it is. The result is parsed again: a text that would not be the same script is refused.

use crate::ast::{Block, Item, Program, Stmt, StmtKind, TypeDef};
use crate::diag::{Diagnostic, SourceId, Span};
use crate::dump::dump;
use crate::layout::{INDENT, Layout, WIDTH};
use crate::pretty::Printer;

/// Why a text was not formatted.
#[derive(Debug)]
pub enum FormatError {
    /// It has errors.
    Syntax(Vec<Diagnostic>),
    /// The result would not be the same script: our bug. Says what would be lost.
    Changed(&'static str),
}

/// Returns a script's text formatted, comments included.
///
/// # Errors
/// When the text has errors.
pub fn format(text: &str) -> Result<String, FormatError> {
    let parsed = crate::parse(SourceId(0), text);
    if parsed.has_errors() {
        return Err(FormatError::Syntax(parsed.diagnostics));
    }
    let program = parsed.program;
    let mut printer = Printer {
        layout: Some(layout_of(text, &program)),
        ..Printer::default()
    };
    printer.program(&program);
    let out = printer.out;
    let again = crate::parse(SourceId(0), &out);
    if dump(&again.program) != dump(&program) {
        return Err(FormatError::Changed("code"));
    }
    if layout_of(&out, &again.program).comment_texts() != layout_of(text, &program).comment_texts() {
        return Err(FormatError::Changed("comments"));
    }
    Ok(out)
}

fn layout_of<'s>(text: &'s str, program: &Program) -> Layout<'s> {
    let types = program.types.iter().map(|t| range(t.span));
    let items: Vec<_> = types.chain(program.items.iter().map(|i| range(item_span(i)))).collect();
    Layout::new(text, &items)
}

pub(crate) fn range(span: Span) -> (usize, usize) {
    (span.start as usize, span.end as usize)
}

fn item_span(item: &Item) -> Span {
    match item {
        Item::Define(item) => item.span,
        Item::Include(item) => item.span,
        Item::Config(item) => item.span,
        Item::Import(item) => item.span,
        Item::Macro(item) => item.span,
        Item::Fn(item) => item.span,
        Item::MapDecl(item) => item.span,
        Item::Use(item) => item.span,
        Item::Probe(item) => item.span,
    }
}

/// One thing at the top of a script.
enum Top<'a> {
    Type(&'a TypeDef),
    Item(&'a Item),
    /// Directives, with what is between them.
    Raw,
}

impl Printer<'_> {
    /// Prints a whole script with its layout.
    fn program(&mut self, program: &Program) {
        if let Some(line) = &program.shebang {
            self.push(line.trim_end());
        }
        let Some(layout) = &self.layout else { return };
        let (raw, length) = (layout.raw.clone(), layout.text.len());
        let types = program.types.iter().map(|t| (range(t.span), Top::Type(t)));
        let items = program.items.iter().map(|i| (range(item_span(i)), Top::Item(i)));
        let mut tops: Vec<_> = types.chain(items).collect();
        tops.retain(|(at, _)| !raw.iter().any(|r| r.0 <= at.0 && at.1 <= r.1));
        tops.extend(raw.into_iter().map(|r| (r, Top::Raw)));
        tops.sort_by_key(|(at, _)| *at);
        for ((start, end), top) in tops {
            self.comments_before(start);
            self.separate(start);
            self.top(&top, (start, end));
            self.trailing_comment(end);
        }
        self.comments_before(length);
        let end = self.out.trim_end().len();
        self.out.truncate(end);
        if !self.out.is_empty() {
            self.push("\n");
        }
    }

    fn top(&mut self, top: &Top<'_>, at: (usize, usize)) {
        match top {
            Top::Raw => self.raw(at),
            Top::Type(def) => {
                if !self.kept(at) {
                    self.type_def(def);
                }
                self.push(";");
            }
            // A directive is its line; the blocks of the others know themselves what to keep.
            Top::Item(Item::Define(_) | Item::Include(_)) => self.raw(at),
            Top::Item(item @ (Item::Probe(_) | Item::Macro(_) | Item::Fn(_))) => self.item(item),
            Top::Item(item) => {
                if self.kept(at) {
                    return;
                }
                let start = self.out.len();
                self.item(item);
                self.unless_too_long(start, at);
            }
        }
    }

    /// Starts the line of something, with the blank line that the author had.
    fn separate(&mut self, start: usize) {
        let first = self.out.is_empty() || self.out.ends_with('{');
        let blank = self.layout.as_ref().is_some_and(|l| l.blank_before(start));
        if self.out.is_empty() {
            return;
        }
        if blank && !first {
            self.push("\n");
        }
        self.line();
    }

    /// Prints the comments that start before `end`, each on a line.
    pub(crate) fn comments_before(&mut self, end: usize) {
        while let Some(comment) = self.layout.as_mut().and_then(|l| l.next_before(end)) {
            self.separate(comment.start);
            self.raw((comment.start, comment.end));
        }
    }

    pub(crate) fn trailing_comment(&mut self, end: usize) {
        while let Some(comment) = self.layout.as_mut().and_then(|l| l.next_trailing(end)) {
            self.push(" ");
            self.raw((comment.start, comment.end));
        }
    }

    /// Prints a part of the text as it is.
    pub(crate) fn raw(&mut self, (start, end): (usize, usize)) {
        let Some(layout) = &mut self.layout else { return };
        let text = layout.moved(start, end, self.indent * INDENT);
        layout.skip_before(end);
        self.out.push_str(&text);
    }

    /// Prints something as it is if there are comments in it. Returns whether it did.
    pub(crate) fn kept(&mut self, at: (usize, usize)) -> bool {
        let keep = self.layout.as_ref().is_some_and(|l| l.has_comment(at.0, at.1));
        if keep {
            self.raw(at);
        }
        keep
    }

    /// Goes back to the author's lines if what was printed since `start` is too long for one. Returns whether it did.
    pub(crate) fn unless_too_long(&mut self, start: usize, at: (usize, usize)) -> bool {
        let broken = self.layout.as_ref().is_some_and(|l| l.has_line_break(at.0, at.1));
        let line = self.out.rfind('\n').map_or(0, |at| at + 1);
        let back = broken && self.out[line..].chars().count() > WIDTH;
        if back {
            self.out.truncate(start);
            self.raw(at);
        }
        back
    }

    /// Prints what is in front of a block, or all of the author's header if there are comments in it.
    pub(crate) fn header(&mut self, start: usize, body: &Block, print: impl FnOnce(&mut Self)) {
        let body_start = body.span.start as usize;
        let text = self.layout.as_ref().map(|l| l.text);
        if let Some(text) = text
            && self.layout.as_ref().is_some_and(|l| l.has_comment(start, body_start))
        {
            let end = start + text[start..body_start].trim_end().len();
            // A line comment takes the rest of its line.
            let in_comment = text[..end].rsplit('\n').next().is_some_and(|line| line.contains("//"));
            self.raw((start, end));
            if in_comment {
                self.line()
            } else {
                self.push(" ")
            }
            return;
        }
        let from = self.out.len();
        print(self);
        let Some(text) = text else { return };
        let end = start + text[start..body_start].trim_end().len();
        let line = self.out.rfind('\n').map_or(0, |at| at + 1);
        if text[start..end].contains('\n') && self.out[line..].chars().count() > WIDTH {
            self.out.truncate(from);
            self.raw((start, end));
            self.push(" ");
        }
    }

    pub(crate) fn statement_start(&mut self, span: Span) {
        if self.layout.is_some() && self.inline == 0 {
            self.comments_before(span.start as usize);
            self.separate(span.start as usize);
        } else {
            self.line();
        }
    }

    /// Prints a statement; as it is, if there are comments in it outside of the blocks that it has.
    pub(crate) fn kept_or(&mut self, stmt: &Stmt, print: impl FnOnce(&mut Self, &Stmt)) {
        let at = range(stmt.span);
        let blocks: Vec<&Block> = match &stmt.kind {
            StmtKind::If { .. } => own_blocks(stmt),
            StmtKind::While { body, .. } | StmtKind::Unroll { body, .. } | StmtKind::For { body, .. } | StmtKind::Limit { body, .. } => {
                vec![body]
            }
            StmtKind::Block(block) => vec![block],
            _ => Vec::new(),
        };
        let simple = blocks.is_empty();
        let mut from = at.0;
        let mut commented = false;
        if let Some(layout) = &self.layout {
            for block in &blocks {
                commented |= layout.has_comment(from, block.span.start as usize);
                from = block.span.end as usize;
            }
            commented |= layout.has_comment(from, at.1);
        }
        if commented {
            self.raw(at);
            if simple {
                self.push(";");
            }
            return;
        }
        let start = self.out.len();
        print(self, stmt);
        // The span of a simple statement ends before its `;`.
        if simple && self.unless_too_long(start, at) {
            self.push(";");
        }
    }
}

/// The blocks of an `if`, those of its `else if`s included.
fn own_blocks(stmt: &Stmt) -> Vec<&Block> {
    let StmtKind::If { then, otherwise, .. } = &stmt.kind else {
        return Vec::new();
    };
    let mut blocks = vec![then];
    if let Some(block) = otherwise {
        match (block.stmts.as_slice(), &block.value) {
            ([inner], None) if matches!(inner.kind, StmtKind::If { .. }) && inner.span == block.span => blocks.extend(own_blocks(inner)),
            _ => blocks.push(block),
        }
    }
    blocks
}
