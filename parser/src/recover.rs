//! Runs the grammar over one item, and over it again after every error with the broken part replaced, until it parses:
//! so all errors of a script are found in one run.
//!
//! The smallest broken part is replaced: what stands between two brackets of an expression, else the statement (a head
//! such as `if …` keeps its block), else the head of the item. Because tokens arrive balanced, nothing outside of that
//! part is disturbed. (LALRPOP's own `!` drops tokens one by one and loses count of the brackets.)

use std::cell::Cell;

use lalrpop_util::ParseError;

use crate::diag::{Diagnostic, SourceId};
use crate::grammar::TopParser;
use crate::marks::matching;
use crate::message;
use crate::node::{Context, Top};
use crate::token::{RawAttachPoint, Tok, Token};

/// How many errors of one item are reported before the rest of it is given up.
const MAX_ERRORS: usize = 20;
/// How often one item is parsed at most.
const MAX_ATTEMPTS: usize = 60;

/// Parses one item. Returns it unless its head was broken.
pub(crate) fn parse_item(source: SourceId, text: &str, mut tokens: Vec<Token<'_>>, diagnostics: &mut Vec<Diagnostic>) -> Option<Top> {
    let mut errors = 0;
    let mut headless = false;
    for _ in 0..MAX_ATTEMPTS {
        let mut context = Context::new(source);
        let taken = Cell::new(0usize);
        let stream = tokens.iter().map(|token| {
            taken.set(taken.get() + 1);
            (token.start, token.tok.clone(), token.end)
        });
        let error = match TopParser::new().parse(&mut context, stream) {
            Ok(item) => {
                diagnostics.append(&mut context.diagnostics);
                return (!headless).then_some(item);
            }
            Err(error) => error,
        };
        let (at, expected) = match error {
            ParseError::UnrecognizedToken { expected, .. } => (taken.get().saturating_sub(1), expected),
            ParseError::UnrecognizedEof { expected, .. } => (tokens.len(), expected),
            ParseError::ExtraToken { .. } => (taken.get().saturating_sub(1), Vec::new()),
            ParseError::InvalidToken { .. } => (taken.get().saturating_sub(1), Vec::new()),
            ParseError::User { error } => match error {},
        };
        let known = [at.checked_sub(1), Some(at)].into_iter().flatten();
        let known = known
            .filter_map(|index| tokens.get(index))
            .any(|token| matches!(token.tok, Tok::ErrorExpr | Tok::ErrorStmt));
        if !known {
            if errors == MAX_ERRORS {
                return None;
            }
            errors += 1;
            diagnostics.push(message::unexpected(source, text, &tokens, at, &expected));
            if insert_semicolon(text, &mut tokens, at, &expected) {
                continue;
            }
        }
        match replace(&mut tokens, at, known) {
            Replaced::Part => {}
            Replaced::Head => headless = true,
            Replaced::Nothing => return None,
        }
    }
    None
}

/// Supplies a missing `;` where the next statement clearly starts. Returns whether it did.
fn insert_semicolon(text: &str, tokens: &mut Vec<Token<'_>>, at: usize, expected: &[String]) -> bool {
    if !message::is_missing_semicolon(text, tokens, at, expected) {
        return false;
    }
    let place = tokens[at - 1].end;
    tokens.insert(
        at,
        Token {
            tok: Tok::Semi,
            start: place,
            end: place,
        },
    );
    true
}

enum Replaced {
    Part,
    /// The head of the item: what is parsed from now on is no longer that item.
    Head,
    Nothing,
}

/// Replaces the smallest part around the error at token `at`; with `known`, the part around an earlier replacement.
fn replace(tokens: &mut Vec<Token<'_>>, at: usize, known: bool) -> Replaced {
    let mut open: Vec<usize> = Vec::new();
    for (index, token) in tokens.iter().enumerate().take(at) {
        if token.tok.closer().is_some() {
            open.push(index);
        } else if token.tok.is_closer() {
            open.pop();
        }
    }
    let blocks: Vec<usize> = open
        .iter()
        .copied()
        .filter(|index| matches!(tokens[*index].tok, Tok::LBrace | Tok::BlockOpen))
        .collect();
    if let Some(inner) = open.last().copied()
        && blocks.last() != Some(&inner)
        && !known
        && replace_in_brackets(tokens, inner)
    {
        return Replaced::Part;
    }
    match blocks.last() {
        Some(block) => {
            // The statement of the innermost block; if the error is in brackets, the statement around them.
            let at = open.iter().copied().find(|index| index > block).unwrap_or(at);
            if replace_statement(tokens, *block, at) {
                Replaced::Part
            } else {
                Replaced::Nothing
            }
        }
        None => replace_head(tokens, at, known),
    }
}

/// Replaces what stands in the brackets that open at `open`. Returns false where the grammar wants no expression there.
fn replace_in_brackets(tokens: &mut Vec<Token<'_>>, open: usize) -> bool {
    let Some(close) = matching(tokens, open) else {
        return false;
    };
    let (start, end) = (tokens[open].end, tokens[close].start);
    let error = Token {
        tok: Tok::ErrorExpr,
        start,
        end: end.max(start),
    };
    match tokens[open].tok {
        // A broken type of a cast: the operand stays.
        Tok::CastOpen => {
            if matches!(
                open.checked_sub(1).map(|index| &tokens[index].tok),
                Some(Tok::SizeOf | Tok::OffsetOf | Tok::TypeOf)
            ) {
                return false;
            }
            tokens.drain(open..=close);
        }
        Tok::RecordOpen => {
            tokens[open].tok = Tok::LParen;
            tokens.splice(open + 1..close, [error]);
        }
        Tok::LParen | Tok::LBracket | Tok::SetOpen => {
            let before = open.checked_sub(1).map(|index| &tokens[index].tok);
            let second = open.checked_sub(2).map(|index| &tokens[index].tok);
            let head = matches!(before, Some(Tok::For | Tok::OffsetOf)) || matches!(second, Some(Tok::Macro | Tok::Fn));
            if head {
                return false;
            }
            tokens.splice(open + 1..close, [error]);
        }
        _ => return false,
    }
    true
}

/// Replaces the statement around token `at` in the block that opens at `block`; a statement's own block stays.
/// Returns whether there was anything to replace.
fn replace_statement(tokens: &mut Vec<Token<'_>>, block: usize, at: usize) -> bool {
    let mut start = block + 1;
    // The head of the statement that ended just before with its block: `$x = if $y { 1 }` has its error behind it.
    let mut head = None;
    let mut index = start;
    while index < at {
        let tok = &tokens[index].tok;
        if tok.closer().is_some() {
            // The block of `$x = if $y { 1 };` does not end it.
            let first = &tokens[start].tok;
            let headed = matches!(
                first,
                Tok::If | Tok::Else | Tok::While | Tok::For | Tok::Unroll | Tok::Limit | Tok::ErrorStmt | Tok::LBrace
            );
            let ends_statement = *tok == Tok::LBrace && headed;
            let open = index;
            match matching(tokens, index) {
                Some(close) if close < at => index = close,
                _ => break,
            }
            if ends_statement {
                head = Some(start..open);
                start = index + 1;
            }
        } else if matches!(tok, Tok::Semi | Tok::ErrorStmt) {
            start = index + 1;
        }
        index += 1;
    }
    let mut end = at;
    while let Some(token) = tokens.get(end) {
        match &token.tok {
            Tok::Semi => {
                end += 1;
                break;
            }
            // A block at the very place of the error cannot be kept as the first thing: it would be tried again.
            Tok::LBrace if end > start => break,
            tok if tok.closer().is_some() => end = matching(tokens, end).unwrap_or(end) + 1,
            tok if tok.is_closer() => break,
            _ => end += 1,
        }
    }
    if end <= start {
        match head {
            Some(head) if head.end > head.start => (start, end) = (head.start, head.end),
            _ => return false,
        }
    }
    if end == start + 1 && tokens[start].tok == Tok::ErrorStmt {
        tokens.remove(start);
        return true;
    }
    let error = Token {
        tok: Tok::ErrorStmt,
        start: tokens[start].start,
        end: tokens[end - 1].end,
    };
    tokens.splice(start..end, [error]);
    true
}

/// Replaces a broken predicate, or else everything before the block by a placeholder probe.
fn replace_head(tokens: &mut Vec<Token<'_>>, at: usize, known: bool) -> Replaced {
    let pred_start = tokens.iter().position(|token| token.tok == Tok::PredStart);
    let pred_end = tokens.iter().position(|token| token.tok == Tok::PredEnd);
    if let (Some(start), Some(end)) = (pred_start, pred_end)
        && !known
        && start < at
        && at <= end
    {
        let error = Token {
            tok: Tok::ErrorExpr,
            start: tokens[start].end,
            end: tokens[end].start,
        };
        tokens.splice(start + 1..end, [error]);
        return Replaced::Part;
    }
    let Some(body) = tokens.iter().position(|token| token.tok == Tok::LBrace) else {
        return Replaced::Nothing;
    };
    let placeholder = RawAttachPoint {
        label: None,
        text: "error",
        text_start: tokens[0].start,
    };
    if body == 1 && matches!(tokens[0].tok, Tok::AttachPoint(_)) || body == 0 || tokens[0].tok == Tok::Config {
        return Replaced::Nothing;
    }
    let head = Token {
        tok: Tok::AttachPoint(placeholder),
        start: tokens[0].start,
        end: tokens[body - 1].end,
    };
    tokens.splice(..body, [head]);
    Replaced::Head
}
