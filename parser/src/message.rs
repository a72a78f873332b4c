//! Syntax errors in the user's words.
//!
//! Input: the tokens of an item, where the grammar stopped, and what it would have taken. Output: one diagnostic.

use crate::diag::{Diagnostic, SourceId, Span};
use crate::token::{Tok, Token};

/// Words that start statements, for "did you mean".
const STATEMENT_WORDS: &[&str] = &[
    "if", "else", "while", "for", "unroll", "return", "break", "continue", "let", "limit",
];

/// Builds the message for the error at token `at` (the end of the item if there is no such token).
pub(crate) fn unexpected(source: SourceId, text: &str, tokens: &[Token<'_>], at: usize, expected: &[String]) -> Diagnostic {
    let kinds = Expected::new(expected);
    if is_missing_semicolon(text, tokens, at, expected) {
        let before = &tokens[at - 1];
        let span = last_char(source, text, before);
        return Diagnostic::error("missing-semicolon", span, "expected `;` after this statement")
            .with(token_span(source, text, tokens, at), "the next statement starts here")
            .help("add `;`");
    }
    let found = found(text, tokens, at);
    let span = token_span(source, text, tokens, at);
    let wanted = kinds.in_words(tokens, at);
    let mut diagnostic = Diagnostic::error("syntax", span, format!("expected {wanted}, found {found}"));
    for help in helps(text, tokens, at, &kinds) {
        diagnostic = diagnostic.help(help);
    }
    diagnostic
}

/// Whether a `;` is missing before token `at`, and the next statement clearly starts there.
pub(crate) fn is_missing_semicolon(text: &str, tokens: &[Token<'_>], at: usize, expected: &[String]) -> bool {
    let (Some(before), Some(token)) = (at.checked_sub(1).and_then(|index| tokens.get(index)), tokens.get(at)) else {
        return false;
    };
    if !Expected::new(expected).has(";") {
        return false;
    }
    let new_line = text[before.end as usize..token.start.max(before.end) as usize].contains('\n');
    match token.tok {
        Tok::Var(_)
        | Tok::Map(_)
        | Tok::Let
        | Tok::If
        | Tok::While
        | Tok::For
        | Tok::Unroll
        | Tok::Return
        | Tok::Break
        | Tok::Continue
        | Tok::Limit => true,
        Tok::Name(_) | Tok::PlusPlus | Tok::MinusMinus | Tok::Use | Tok::Import | Tok::AttachPoint(_) => new_line,
        _ => false,
    }
}

/// The span of token `at`; behind the last token if there is none.
fn token_span(source: SourceId, text: &str, tokens: &[Token<'_>], at: usize) -> Span {
    match (tokens.get(at), tokens.last()) {
        (Some(token), _) => Span::new(source, token.start, token.end),
        (None, Some(last)) => last_char(source, text, last),
        (None, None) => Span::new(source, 0, 0),
    }
}

/// The span of the last character of a token.
fn last_char(source: SourceId, text: &str, token: &Token<'_>) -> Span {
    let slice = &text[token.start as usize..token.end as usize];
    let len = slice.chars().next_back().map_or(0, char::len_utf8) as u32;
    Span::new(source, token.end - len, token.end)
}

fn found(text: &str, tokens: &[Token<'_>], at: usize) -> String {
    let Some(token) = tokens.get(at) else {
        let end = tokens.last().map_or(0, |last| last.end as usize);
        return if text[end..].trim().is_empty() {
            "the end of the script".to_owned()
        } else {
            "the end of this line".to_owned()
        };
    };
    let slice = &text[token.start as usize..token.end as usize];
    match &token.tok {
        Tok::PredEnd => "the end of the predicate".to_owned(),
        Tok::Str(_) => {
            let shown: String = slice.chars().take(24).collect();
            let dots = if shown.len() < slice.len() { "…" } else { "" };
            format!("the string `{shown}{dots}`")
        }
        _ if slice.is_empty() => "the end".to_owned(),
        _ => format!("`{slice}`"),
    }
}

/// The terminals that the grammar would have taken.
struct Expected<'e> {
    names: Vec<&'e str>,
}

impl<'e> Expected<'e> {
    fn new(expected: &'e [String]) -> Self {
        Self {
            names: expected.iter().map(|name| name.trim_matches('"')).collect(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// `an expression`, `` `,` or `)` ``, …
    fn in_words(&self, tokens: &[Token<'_>], at: usize) -> String {
        let mut words: Vec<String> = Vec::new();
        let expression = self.has("INT") && self.has("STR") && self.has("VAR");
        if expression && self.has("while") {
            words.push("a statement".to_owned());
        } else if expression {
            words.push("an expression".to_owned());
        } else {
            let singles = [
                (
                    "NAME",
                    if self.after_dot(tokens, at) {
                        "the name of a field"
                    } else {
                        "a name"
                    },
                ),
                ("VAR", "a `$variable`"),
                ("MAP", "a `@map`"),
                ("INT", "a number"),
                ("STR", "a string"),
                ("ATTACH_POINT", "an attach point"),
                ("PRED_START", "a predicate"),
                ("PRED_END", "`/` at the end of the predicate"),
            ];
            words.extend(
                singles
                    .iter()
                    .filter(|(name, _)| self.has(name))
                    .map(|(_, word)| (*word).to_owned()),
            );
            if self.has("struct") && !self.has("VAR") {
                words = vec!["a type".to_owned()];
            }
        }
        // Behind a finished statement there is much that could follow; the `;` is what is missing.
        let in_type = tokens.first().is_some_and(|first| matches!(first.tok, Tok::Struct | Tok::Union));
        if self.has(";") && !expression && (self.has("}") || self.has("=") || in_type) {
            return "`;`".to_owned();
        }
        let marks = [";", ",", ")", "]", "}", "{", "=", ":", "(", "as", "else", ".."];
        let operator = self.has("BIN_OP");
        for mark in marks {
            // Behind an operand much is possible; only what closes is worth naming.
            let noise = expression && matches!(mark, ")" | "]" | "}" | "{" | "(" | ";" | ",")
                || operator
                    && matches!(mark, "(" | "=" | ":" | "as" | "else" | ".." | "}")
                    && (self.has(";") || self.has(")") || self.has("]") || self.has("{"));
            if self.has(mark) && !noise {
                words.push(format!("`{mark}`"));
            }
        }
        if words.is_empty() && operator {
            words.push("an operator".to_owned());
        }
        match words.split_last() {
            None => "something else".to_owned(),
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        }
    }

    fn after_dot(&self, tokens: &[Token<'_>], at: usize) -> bool {
        matches!(
            at.checked_sub(1).and_then(|index| tokens.get(index)).map(|token| &token.tok),
            Some(Tok::Dot | Tok::Arrow)
        )
    }
}

/// What the author should write instead, where the mistake is a known one.
fn helps(text: &str, tokens: &[Token<'_>], at: usize, expected: &Expected<'_>) -> Vec<String> {
    let tok = |index: Option<usize>| index.and_then(|index| tokens.get(index)).map(|token| &token.tok);
    let before = tok(at.checked_sub(1));
    let mut helps = Vec::new();
    let Some(token) = tokens.get(at) else {
        match tokens.first().map(|first| &first.tok) {
            Some(Tok::AttachPoint(_)) => helps.push("a probe needs a block: `{ … }`".to_owned()),
            Some(Tok::Import | Tok::Use) if expected.has(";") => helps.push("add `;`".to_owned()),
            Some(Tok::Define) => helps.push("the value of a `#define` is one expression".to_owned()),
            _ => {}
        }
        return helps;
    };
    if tokens[0].tok == Tok::Let {
        helps.push("at the top of a script `let` declares a map, for example `let @m = hash(1000);`".to_owned());
    }
    if let Some(address) = bare_address(text, token.start as usize) {
        helps.push(format!("an address with `:` goes in quotes: `\"{address}\"`"));
    }
    match &token.tok {
        Tok::Assign if before.is_some_and(Tok::ends_operand) => {
            helps.push("`==` compares; an assignment is a statement of its own".to_owned())
        }
        Tok::Name(word) if before.is_some_and(Tok::ends_operand) => match *word {
            "and" => helps.push("write `&&`".to_owned()),
            "or" => helps.push("write `||`".to_owned()),
            "not" => helps.push("write `!`".to_owned()),
            _ => {}
        },
        Tok::AttachPoint(_) if matches!(before, Some(Tok::AttachPoint(_))) => {
            helps.push("attach points are separated by `,`; a probe's code stands in `{ … }`".to_owned());
        }
        Tok::LBrace if expected.has("PRED_END") => helps.push("a predicate ends with `/` before the `{`".to_owned()),
        Tok::Str(_) if matches!(before, Some(Tok::Name("import"))) => {
            helps.push("`import` stands at the top of the script, outside of probes".to_owned())
        }
        Tok::Colon if tokens[..at].iter().any(|token| token.tok == Tok::LBrace) => {
            helps.push("only attach points and `? :` take a `:`; is a `}` missing before a new probe".to_owned())
        }
        _ => {}
    }
    if expected.has("{")
        && !expected.has("STR")
        && matches!(
            statement_head(tokens, at),
            Some(Tok::If | Tok::Else | Tok::While | Tok::For | Tok::Unroll)
        )
    {
        helps.push("the body stands in braces: `{ … }`".to_owned());
    }
    if tokens.first().is_some_and(|first| first.tok == Tok::Define) {
        helps.push("the value of a `#define` is one expression".to_owned());
    }
    helps.extend(misspelt_keyword(text, tokens, at));
    helps
}

/// The first token of the statement that token `at` belongs to.
/// The IPv6 address, prefix of such, or MAC address that the text has around a place.
fn bare_address(text: &str, at: usize) -> Option<&str> {
    let part = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '/');
    let (before, behind) = text.split_at_checked(at)?;
    let start = at - before.chars().rev().take_while(|c| part(*c)).count();
    let end = at + behind.chars().take_while(|c| part(*c)).count();
    // The `/` of a predicate is none of it.
    let word = text[start..end].trim_matches('/');
    let address = word.split_once('/').map_or(word, |(address, _)| address);
    let pairs = || {
        address
            .split(':')
            .filter(|p| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit()))
            .count()
    };
    let is_address = address.contains(':') && address.parse::<std::net::Ipv6Addr>().is_ok() || address.len() == 17 && pairs() == 6;
    is_address.then_some(word)
}

fn statement_head<'t, 's>(tokens: &'t [Token<'s>], at: usize) -> Option<&'t Tok<'s>> {
    statement_start(tokens, at).map(|index| &tokens[index].tok)
}

fn statement_start(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    for index in (0..at.min(tokens.len())).rev() {
        let tok = &tokens[index].tok;
        if tok.is_closer() && *tok != Tok::RBrace {
            depth += 1;
        } else if matches!(tok, Tok::LParen | Tok::LBracket | Tok::CastOpen | Tok::RecordOpen | Tok::SetOpen) {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && matches!(tok, Tok::Semi | Tok::LBrace | Tok::RBrace | Tok::BlockOpen) {
            return (index + 1 < at).then_some(index + 1);
        }
    }
    None
}

/// `whlie (…) {`: a name where the statement shows that a keyword was meant.
fn misspelt_keyword(text: &str, tokens: &[Token<'_>], at: usize) -> Option<String> {
    let start = statement_start(tokens, at)?;
    let token = &tokens[start];
    let Tok::Name(word) = token.tok else {
        return None;
    };
    // `retrun 1`, `els {`; a call only where a block follows it: `whlie (…) {`.
    let next = &tokens.get(start + 1)?.tok;
    let meant = match next {
        Tok::LBrace | Tok::Var(_) | Tok::Int(_) | Tok::Name(_) => true,
        Tok::LParen => tokens.get(at).is_some_and(|token| token.tok == Tok::LBrace),
        _ => false,
    };
    if !meant {
        return None;
    }
    let near = STATEMENT_WORDS
        .iter()
        .map(|known| (strsim::osa_distance(word, known), *known))
        .min()?;
    let written = &text[token.start as usize..token.end as usize];
    (near.0 > 0 && near.0 <= 2 && near.0 < near.1.len() && word.len() > 1)
        .then(|| format!("did you mean `{}` instead of `{written}`", near.1))
}
