//! What the tree does not hold and a formatter must keep: comments, blank lines, how literals were written, what stood on
//! one line, and directives such as `#ifdef`.
//!
//! Input: the text and its tokens. The pretty printer asks here at each item and statement.

use crate::ast::{Expr, ExprKind};
use crate::diag::SourceId;
use crate::lexer;

/// Longer lines are not made by joining what the author had broken.
pub(crate) const WIDTH: usize = 140;
/// Blanks for each level.
pub(crate) const INDENT: usize = 4;

/// A comment: its bytes in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comment {
    pub start: usize,
    pub end: usize,
}

#[derive(Debug)]
pub(crate) struct Layout<'s> {
    pub text: &'s str,
    /// In the order of the text, those in [`Self::raw`] left out.
    comments: Vec<Comment>,
    /// How many of them are printed.
    printed: usize,
    /// Conditional directives with all that is between them: the tree has one branch only, so they stay as they are.
    pub raw: Vec<(usize, usize)>,
}

impl<'s> Layout<'s> {
    /// Reads the layout of a text whose items lie at `items`.
    pub fn new(text: &'s str, items: &[(usize, usize)]) -> Self {
        let gaps = gaps(text);
        let mut raw = conditionals(text, &gaps);
        // Whatever a directive stands in or encloses stays with it.
        for region in &mut raw {
            loop {
                let before = *region;
                for item in items {
                    if item.0 < region.1 && region.0 < item.1 {
                        *region = (region.0.min(item.0), region.1.max(item.1));
                    }
                }
                if before == *region {
                    break;
                }
            }
        }
        raw.dedup_by(|next, last| {
            let overlaps = next.0 < last.1;
            if overlaps {
                last.1 = last.1.max(next.1);
            }
            overlaps
        });
        let mut comments = Vec::new();
        for (start, end) in gaps {
            comments_in(text, start, end, &raw, &mut comments);
        }
        Self {
            text,
            comments,
            printed: 0,
            raw,
        }
    }

    pub fn comments(&self) -> &[Comment] {
        &self.comments
    }

    /// The texts of all comments.
    pub fn comment_texts(&self) -> Vec<String> {
        let text = |c: &Comment| {
            let lines = self.text[c.start..c.end].lines().map(str::trim);
            lines.collect::<Vec<_>>().join("\n")
        };
        self.comments.iter().map(text).collect()
    }

    /// Takes the next comment if it starts before `end`.
    pub fn next_before(&mut self, end: usize) -> Option<Comment> {
        let comment = *self.comments.get(self.printed)?;
        if comment.start >= end {
            return None;
        }
        self.printed += 1;
        Some(comment)
    }

    /// Takes the next comment if only blanks and `;` are between `end` and it, on the same line.
    pub fn next_trailing(&mut self, end: usize) -> Option<Comment> {
        let comment = *self.comments.get(self.printed)?;
        let between = self.text.get(end..comment.start)?;
        let trailing = between.chars().all(|c| c == ';' || c == ' ' || c == '\t');
        if !trailing {
            return None;
        }
        // What something else follows on its line belongs to that.
        let after = &self.text[comment.end..];
        let line = after.lines().next().unwrap_or_default();
        if !line.trim().is_empty() {
            return None;
        }
        self.printed += 1;
        Some(comment)
    }

    /// Whether there is a comment in a range.
    pub fn has_comment(&self, start: usize, end: usize) -> bool {
        let first = self.comments.partition_point(|c| c.start < start);
        self.comments.get(first).is_some_and(|c| c.start < end)
    }

    /// Passes over the comments before `end`, which were printed with the text around them.
    pub fn skip_before(&mut self, end: usize) {
        while self.next_before(end).is_some() {}
    }

    /// Whether a blank line stands in front of what starts at `start`.
    pub fn blank_before(&self, start: usize) -> bool {
        let before = &self.text[..start];
        let blanks = &before[before.trim_end_matches([' ', '\t', '\r', '\n', ';']).len()..];
        blanks.matches('\n').count() > 1
    }

    pub fn has_line_break(&self, start: usize, end: usize) -> bool {
        self.text.get(start..end).is_some_and(|text| text.contains('\n'))
    }

    /// A part of the text for the indentation `indent`, in blanks; further lines move with the first.
    pub fn moved(&self, start: usize, end: usize, indent: usize) -> String {
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let old = width(&self.text[line_start..]);
        let mut out = String::new();
        for (number, line) in self.text[start..end].lines().enumerate() {
            if number == 0 {
                out.push_str(line.trim_end());
                continue;
            }
            out.push('\n');
            let content = line.trim();
            if !content.is_empty() {
                let blanks = (width(line) + indent).saturating_sub(old);
                out.extend(std::iter::repeat_n(' ', blanks));
                out.push_str(content);
            }
        }
        out
    }

    /// A literal as it was written.
    pub fn literal(&self, expr: &Expr) -> Option<&'s str> {
        let mut slice = self.slice(expr)?;
        while let Some(inner) = slice.strip_prefix('(').and_then(|s| s.strip_suffix(')')) {
            slice = inner.trim();
        }
        let first = slice.bytes().next()?;
        let fits = match expr.kind {
            ExprKind::Int(_) | ExprKind::Duration(_) | ExprKind::Ipv4(_) | ExprKind::Ipv4Prefix(..) => first.is_ascii_digit(),
            ExprKind::Str(_) => first == b'"' && !slice.contains('\n'),
            _ => false,
        };
        fits.then_some(slice)
    }

    /// Whether the author put parentheses around an expression that has none of its own.
    pub fn in_parentheses(&self, expr: &Expr) -> bool {
        if matches!(
            expr.kind,
            ExprKind::Tuple(_) | ExprKind::Record(_) | ExprKind::Block(_) | ExprKind::Error
        ) {
            return false;
        }
        let Some(slice) = self.slice(expr).filter(|s| s.starts_with('(')) else {
            return false;
        };
        closing(slice) == Some(slice.len() - 1)
    }

    fn slice(&self, expr: &Expr) -> Option<&'s str> {
        let (start, end) = (expr.span.start as usize, expr.span.end as usize);
        (start < end).then(|| self.text.get(start..end)).flatten()
    }
}

/// How many blanks a line starts with; a tab counts as a level.
fn width(line: &str) -> usize {
    line.bytes()
        .take_while(|b| matches!(b, b' ' | b'\t'))
        .map(|b| if b == b'\t' { INDENT } else { 1 })
        .sum()
}

/// Where the parenthesis at the start of a text closes; strings are passed over.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'(' => depth += 1,
            b')' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// What lies between the tokens.
fn gaps(text: &str) -> Vec<(usize, usize)> {
    let lexed = lexer::lex(SourceId(0), text);
    let mut gaps = Vec::new();
    let mut at = lexed.shebang.map_or(0, str::len);
    for token in lexed.items.iter().flatten() {
        let (start, end) = (token.start as usize, token.end as usize);
        if start > at {
            gaps.push((at, start));
        }
        at = at.max(end);
    }
    if at < text.len() {
        gaps.push((at, text.len()));
    }
    gaps
}

/// Where the line that starts at `start` ends, lines that go on behind `\` included.
fn directive_end(text: &str, start: usize) -> usize {
    let mut at = start;
    while let Some(len) = text[at..].find('\n') {
        if !text[..at + len].trim_end_matches('\r').ends_with('\\') {
            return at + len;
        }
        at += len + 1;
    }
    text.len()
}

/// The directives that are no items, conditionals up to their `#endif`.
fn conditionals(text: &str, gaps: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (start, end) in gaps {
        let mut at = (*start).max(found.last().map_or(0, |f| f.1));
        while at < *end {
            at = lexer::trivia_end(&text.as_bytes()[..*end], at).0;
            match text.as_bytes().get(at) {
                Some(b'#') if at < *end => {
                    let stop = region_end(text, at);
                    found.push((at, stop));
                    at = stop;
                }
                _ => at += 1,
            }
        }
    }
    found
}

fn region_end(text: &str, start: usize) -> usize {
    let mut depth = 0usize;
    let mut at = start;
    loop {
        let end = directive_end(text, at);
        let line = text[at..end].trim_start();
        if let Some(directive) = line.strip_prefix('#') {
            let word: String = directive.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
            match word.as_str() {
                "if" | "ifdef" | "ifndef" => depth += 1,
                "endif" => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        if depth == 0 || end >= text.len() {
            return end;
        }
        at = end + 1;
    }
}

/// The comments between two tokens, those in `raw` left out.
fn comments_in(text: &str, start: usize, end: usize, raw: &[(usize, usize)], out: &mut Vec<Comment>) {
    let bytes = text.as_bytes();
    let mut at = start;
    while at < end {
        if let Some(region) = raw.iter().find(|r| r.0 <= at && at < r.1) {
            at = region.1;
            continue;
        }
        let len = match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'/')) => text[at..end].find('\n').unwrap_or(end - at),
            (b'/', Some(b'*')) => text[at + 2..end].find("*/").map_or(end - at, |len| len + 4),
            _ => {
                at += 1;
                continue;
            }
        };
        let kept = text[at..at + len].trim_end().len();
        out.push(Comment { start: at, end: at + kept });
        at += len;
    }
}
