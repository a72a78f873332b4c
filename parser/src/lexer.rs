//! Source text to tokens, one list per item of the script.
//!
//! Splits the script into items (probes, macros, …) so that an error in one cannot disturb the next, turns attach points
//! into tokens, ends predicates, and balances brackets: a missing or stray bracket is reported here and repaired, so
//! that the grammar only ever sees balanced tokens. The words and parentheses whose meaning depends on their neighbours
//! are left to [`crate::marks`].

use std::borrow::Cow;
use std::collections::HashSet;

use logos::Logos;

use crate::ast::BinaryOp;
use crate::attach;
use crate::diag::{Diagnostic, SourceId, Span};
use crate::directive::Conditional;
use crate::literal;
use crate::marks;
use crate::token::{Tok, Token};

/// The tokens of a script.
#[derive(Debug, Default)]
pub(crate) struct Lexed<'s> {
    pub shebang: Option<&'s str>,
    /// Never empty lists; brackets in them are balanced.
    pub items: Vec<Vec<Token<'s>>>,
    pub diagnostics: Vec<Diagnostic>,
    /// Whether the text ends in the middle of an item, a bracket or a comment.
    pub incomplete: bool,
}

/// Splits a script into the tokens of its items.
pub(crate) fn lex(source: SourceId, text: &str) -> Lexed<'_> {
    let mut lexer = Lexer {
        source,
        text,
        pos: 0,
        end: text.len(),
        lexed: Lexed::default(),
        own_values: HashSet::new(),
        defines: HashSet::from(["BPFTRACE_HAVE_BTF"]),
        conditionals: Vec::new(),
        after_stray: false,
    };
    lexer.script();
    lexer.lexed
}

/// What kind of item is being read; says where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Probe,
    /// Ends with its `}`.
    Braces,
    /// A C type: ends with `;`, or with `}` where none follows.
    TypeDef,
    /// `import` and `use`: end with `;`.
    Line,
    /// `let @m = hash(1)`: ends with `;` or without.
    Let,
    /// Ends with the text (the value of a `#define`).
    Rest,
    /// Code outside of any item.
    Stray,
}

pub(crate) struct Lexer<'s> {
    pub(crate) source: SourceId,
    pub(crate) text: &'s str,
    pub(crate) pos: usize,
    /// Where to stop: the end of the text, or of the line of a `#define`.
    pub(crate) end: usize,
    pub(crate) lexed: Lexed<'s>,
    /// Names that the script gave to values: defines, macros.
    pub(crate) own_values: HashSet<&'s str>,
    pub(crate) defines: HashSet<&'s str>,
    pub(crate) conditionals: Vec<Conditional>,
    /// Whether code outside of items has just been reported.
    after_stray: bool,
}

/// An item in the making.
struct ItemBuilder<'s> {
    kind: ItemKind,
    tokens: Vec<Token<'s>>,
    /// Indices of the open brackets.
    open: Vec<usize>,
    in_predicate: bool,
    /// The attach points of a probe are being read.
    in_header: bool,
}

impl<'s> ItemBuilder<'s> {
    fn last(&self) -> Option<&Tok<'s>> {
        self.tokens.last().map(|token| &token.tok)
    }

    fn top(&self) -> Option<&Tok<'s>> {
        self.open.last().map(|index| &self.tokens[*index].tok)
    }

    fn in_parens(&self) -> bool {
        self.top().is_some_and(|tok| !matches!(tok, Tok::LBrace | Tok::BlockOpen))
    }

    fn end(&self) -> u32 {
        self.tokens.last().map_or(0, |token| token.end)
    }

    fn push(&mut self, tok: Tok<'s>, start: usize, end: usize) {
        self.tokens.push(Token {
            tok,
            start: start as u32,
            end: end as u32,
        });
    }

    /// Adds the closing token of the innermost open bracket, without text.
    fn close_top(&mut self) {
        if let Some(index) = self.open.pop()
            && let Some(closer) = self.tokens[index].tok.closer()
        {
            let at = self.end() as usize;
            self.push(closer, at, at);
        }
    }
}

impl<'s> Lexer<'s> {
    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.source, start as u32, end as u32)
    }

    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        self.lexed.diagnostics.push(diagnostic);
    }

    fn byte(&self, at: usize) -> Option<u8> {
        (at < self.end).then(|| self.text.as_bytes()[at])
    }

    /// Skips blanks and comments.
    fn skip_trivia(&mut self) {
        let (end, open_comment) = trivia_end(&self.text.as_bytes()[..self.end], self.pos);
        self.pos = end;
        if let Some(start) = open_comment {
            self.lexed.incomplete = true;
            let span = self.span(start, start + 2);
            self.report(Diagnostic::error("unclosed-comment", span, "this comment is never closed").help("add `*/` at its end"));
        }
    }

    fn script(&mut self) {
        if self.text.starts_with("#!") {
            let line = self.text.lines().next().unwrap_or_default();
            self.lexed.shebang = Some(line);
            self.pos = line.len();
        }
        loop {
            self.skip_trivia();
            match self.byte(self.pos) {
                None => break,
                Some(b'#') => self.directive(false),
                Some(b';') => self.pos += 1,
                Some(byte @ (b'}' | b')' | b']')) => {
                    if !self.after_stray {
                        let span = self.span(self.pos, self.pos + 1);
                        self.report(Diagnostic::error(
                            "unopened-bracket",
                            span,
                            format!("unexpected `{}`: no bracket is open here", byte as char),
                        ));
                    }
                    self.pos += 1;
                }
                Some(_) => self.item(),
            }
        }
        self.finish_conditionals();
    }

    /// Reads one item that starts at the current position.
    fn item(&mut self) {
        let (kind, keyword) = self.classify();
        let mut item = ItemBuilder {
            kind,
            tokens: Vec::new(),
            open: Vec::new(),
            in_predicate: false,
            in_header: kind == ItemKind::Probe,
        };
        if let Some(keyword) = keyword {
            let end = attach::word_end(self.text.as_bytes(), self.pos);
            item.push(keyword, self.pos, end);
            self.pos = end;
        }
        if kind == ItemKind::Stray {
            if !self.after_stray {
                self.report_stray();
            }
        } else {
            self.after_stray = false;
        }
        self.rest_of_item(&mut item);
        if kind == ItemKind::Stray {
            self.after_stray = true;
            return;
        }
        self.finish_item(item.tokens);
    }

    /// Marks an item's tokens and keeps them.
    pub(crate) fn finish_item(&mut self, mut tokens: Vec<Token<'s>>) {
        if tokens.is_empty() {
            return;
        }
        if matches!(tokens[0].tok, Tok::Struct | Tok::Union | Tok::Enum) {
            // C: there are no casts or words by position in it.
        } else if tokens[0].tok == Tok::Macro {
            if let Some(Token { tok: Tok::Name(name), .. }) = tokens.get(1) {
                self.own_values.insert(name);
            }
            let params = tokens.iter().skip(2).take_while(|token| token.tok != Tok::RParen);
            let params = params.filter_map(|token| if let Tok::Name(name) = token.tok { Some(name) } else { None });
            // Names of values for as long as this macro lasts. No copy of all names: a script may have many macros.
            let params: Vec<&str> = params.filter(|name| self.own_values.insert(*name)).collect();
            marks::mark(self.text, &mut tokens, &self.own_values);
            params.iter().for_each(|name| {
                self.own_values.remove(name);
            });
        } else {
            marks::mark(self.text, &mut tokens, &self.own_values);
        }
        self.lexed.items.push(tokens);
    }

    /// Says what the item at the current position is, by its first words.
    fn classify(&self) -> (ItemKind, Option<Tok<'s>>) {
        let bytes = &self.text.as_bytes()[..self.end];
        let word_end = attach::word_end(bytes, self.pos);
        let word = &self.text[self.pos..word_end];
        let after = trivia_end(bytes, word_end).0;
        let next = bytes.get(after).copied().unwrap_or(b' ');
        let next_is_word = after > word_end && attach::word_end(bytes, after) > after;
        match word {
            "config" if next == b'=' && bytes.get(trivia_end(bytes, after + 1).0) == Some(&b'{') => (ItemKind::Braces, Some(Tok::Config)),
            "import" if next == b'"' => (ItemKind::Line, Some(Tok::Import)),
            "macro" if next_is_word => (ItemKind::Braces, Some(Tok::Macro)),
            "fn" if next_is_word => (ItemKind::Braces, Some(Tok::Fn)),
            "use" if next_is_word => (ItemKind::Line, Some(Tok::Use)),
            "let" => (ItemKind::Let, Some(Tok::Let)),
            "struct" if next_is_word || next == b'{' => (ItemKind::TypeDef, Some(Tok::Struct)),
            "union" if next_is_word || next == b'{' => (ItemKind::TypeDef, Some(Tok::Union)),
            "enum" if next_is_word || next == b'{' => (ItemKind::TypeDef, Some(Tok::Enum)),
            "if" | "else" | "while" | "for" | "unroll" | "return" | "break" | "continue" => (ItemKind::Stray, None),
            "" => match bytes[self.pos] {
                b'$' if bytes.get(self.pos + 1).is_some_and(u8::is_ascii_digit) => (ItemKind::Probe, None),
                b'*' | b'?' | b'[' | b'"' => (ItemKind::Probe, None),
                byte if byte.is_ascii_digit() => (ItemKind::Probe, None),
                _ => (ItemKind::Stray, None),
            },
            _ if next == b'(' => (ItemKind::Stray, None),
            _ => (ItemKind::Probe, None),
        }
    }

    fn report_stray(&mut self) {
        let bytes = self.text.as_bytes();
        let first = bytes[self.pos];
        let mut end = attach::word_end(bytes, self.pos).max(self.pos + 1);
        if matches!(first, b'@' | b'$') {
            end = attach::word_end(bytes, self.pos + 1).max(self.pos + 1);
        }
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        let span = self.span(self.pos, end);
        let found = &self.text[self.pos..end];
        let diagnostic = match first {
            b'{' => Diagnostic::error("code-outside-probe", span, "expected a probe before this block")
                .help("name where the block runs, for example `begin { … }`"),
            b'/' => Diagnostic::error("code-outside-probe", span, "expected an attach point before this predicate"),
            _ => Diagnostic::error(
                "code-outside-probe",
                span,
                format!("expected a probe, found `{found}` outside of any block"),
            )
            .help("statements stand in the block of a probe, for example `begin { … }`"),
        };
        self.report(diagnostic);
    }

    /// Reads tokens until the item ends.
    fn rest_of_item(&mut self, item: &mut ItemBuilder<'s>) {
        loop {
            self.skip_trivia();
            let Some(byte) = self.byte(self.pos) else {
                if item.kind != ItemKind::Rest && item.kind != ItemKind::Let {
                    self.lexed.incomplete = true;
                }
                // A `/` at the very end closes the predicate, though no `{` follows it.
                if item.in_predicate
                    && let Some(last) = item.tokens.last_mut()
                    && last.tok == Tok::BinOp(BinaryOp::Div)
                {
                    last.tok = Tok::PredEnd;
                }
                if !item.open.is_empty() {
                    let index = item.open.last().copied().unwrap_or_default();
                    self.report_unclosed(item, index, None);
                    self.lexed.incomplete |= item.kind != ItemKind::Rest;
                }
                while !item.open.is_empty() {
                    item.close_top();
                }
                return;
            };
            if byte == b'#' {
                self.directive(true);
                continue;
            }
            let ended = if item.in_header {
                self.header_token(item, byte)
            } else {
                self.token(item)
            };
            if ended {
                return;
            }
        }
    }

    /// Reads one token of the attach points of a probe. Returns whether the item ends.
    fn header_token(&mut self, item: &mut ItemBuilder<'s>, byte: u8) -> bool {
        let start = self.pos;
        match byte {
            b',' => {
                item.push(Tok::Comma, start, start + 1);
                self.pos += 1;
            }
            b'/' => {
                item.push(Tok::PredStart, start, start + 1);
                item.in_header = false;
                item.in_predicate = true;
                self.pos += 1;
            }
            b'{' => {
                item.in_header = false;
                item.open.push(item.tokens.len());
                item.push(Tok::LBrace, start, start + 1);
                self.pos += 1;
            }
            b';' => {
                item.push(Tok::Semi, start, start + 1);
                self.pos += 1;
                return true;
            }
            b'}' => return true,
            _ => {
                let (point, end) = attach::scan(self.source, self.text, start, &mut self.lexed.diagnostics);
                item.push(Tok::AttachPoint(point), start, end);
                self.pos = end;
            }
        }
        false
    }

    /// Reads one token of anything but attach points. Returns whether the item ends.
    fn token(&mut self, item: &mut ItemBuilder<'s>) -> bool {
        let start = self.pos;
        if self.ends_line_item(item) || self.next_item_starts(item) {
            return true;
        }
        let tok = self.next_tok(item.last());
        let end = self.pos;
        match tok {
            Tok::BinOp(BinaryOp::Div) if item.in_predicate && self.byte(self.after_trivia(end)) == Some(b'{') => {
                self.close_parens(item, start);
                item.push(Tok::PredEnd, start, end);
                item.in_predicate = false;
            }
            Tok::LBrace => self.open_brace(item, start),
            Tok::LParen | Tok::LBracket => {
                item.open.push(item.tokens.len());
                item.push(tok, start, end);
            }
            Tok::RBrace => return self.close_brace(item, start),
            Tok::RParen | Tok::RBracket => {
                self.close_paren(item, tok, start);
                if item.kind == ItemKind::Let && item.open.is_empty() && self.byte(self.after_trivia(self.pos)) != Some(b';') {
                    return true;
                }
            }
            Tok::Semi => {
                self.close_parens(item, start);
                item.push(Tok::Semi, start, end);
                if item.open.is_empty() && item.kind != ItemKind::Rest {
                    return true;
                }
            }
            tok => item.push(tok, start, end),
        }
        false
    }

    fn after_trivia(&self, at: usize) -> usize {
        trivia_end(&self.text.as_bytes()[..self.end], at).0
    }

    /// `import` and `use` without their `;` end with the line, so that the error stays theirs.
    fn ends_line_item(&self, item: &ItemBuilder<'s>) -> bool {
        let complete = matches!(item.last(), Some(Tok::RParen | Tok::Str(_) | Tok::Name(_)));
        if item.kind != ItemKind::Line || !item.open.is_empty() || !complete || item.tokens.len() < 2 {
            return false;
        }
        let new_line = self.text[item.end() as usize..self.pos].contains('\n');
        let rest = &self.text[self.pos..];
        new_line && !rest.starts_with([';', '(']) && !(rest.starts_with("as") && attach::word_end(rest.as_bytes(), 0) == 2)
    }

    /// Whether another item starts where a statement should: then the block before it was never closed.
    fn next_item_starts(&mut self, item: &mut ItemBuilder<'s>) -> bool {
        let at_statement = matches!(item.last(), Some(Tok::Semi | Tok::LBrace | Tok::RBrace));
        if item.open.is_empty() || item.in_parens() || !at_statement || matches!(item.kind, ItemKind::Line | ItemKind::Let | ItemKind::Rest)
        {
            return false;
        }
        let bytes = &self.text.as_bytes()[..self.end];
        let word_end = attach::word_end(bytes, self.pos);
        if word_end == self.pos || item.tokens[0].tok == Tok::Config {
            return false;
        }
        let next = bytes.get(self.after_trivia(word_end)).copied();
        let starts = match &self.text[self.pos..word_end] {
            "begin" | "end" | "BEGIN" | "END" => next == Some(b'{'),
            // `int a:4;`
            _ if item.kind == ItemKind::TypeDef => false,
            "macro" | "fn" => next.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_'),
            _ => bytes.get(word_end) == Some(&b':') && bytes.get(word_end + 1).is_some_and(|byte| !byte.is_ascii_whitespace()),
        };
        if starts {
            let index = item.open.last().copied().unwrap_or_default();
            self.report_unclosed(item, index, Some((self.pos, word_end, "the next probe starts here")));
            while !item.open.is_empty() {
                item.close_top();
            }
        }
        starts
    }

    fn open_brace(&mut self, item: &mut ItemBuilder<'s>, start: usize) {
        // Behind a name only the value of a `#define` starts; outside of brackets (`config = {`) no expression does.
        let expression = match item.kind {
            ItemKind::Rest => item.tokens.len() <= 2 || item.last().is_some_and(Tok::wants_operand),
            _ => item.last().is_some_and(Tok::wants_operand) && (item.in_predicate || !item.open.is_empty()),
        };
        if !expression {
            self.close_parens(item, start);
            if std::mem::take(&mut item.in_predicate) {
                let span = self.span(start, start + 1);
                self.report(
                    Diagnostic::error("syntax", span, "expected `/` at the end of the predicate, found `{`")
                        .help("a predicate stands between two `/`: `/pid == 1/ { … }`"),
                );
                let end = item.end() as usize;
                item.push(Tok::PredEnd, end, end);
            }
        }
        item.open.push(item.tokens.len());
        item.push(if expression { Tok::BlockOpen } else { Tok::LBrace }, start, start + 1);
    }

    /// Handles `}`. Returns whether the item ends.
    fn close_brace(&mut self, item: &mut ItemBuilder<'s>, start: usize) -> bool {
        let has_brace = item
            .open
            .iter()
            .any(|index| matches!(item.tokens[*index].tok, Tok::LBrace | Tok::BlockOpen));
        if !has_brace {
            // Not ours: the item ends before it.
            self.close_parens(item, start);
            if item.kind == ItemKind::Rest {
                let span = self.span(start, start + 1);
                self.report(Diagnostic::error(
                    "unopened-bracket",
                    span,
                    "unexpected `}`: no bracket is open here",
                ));
                return false;
            }
            self.pos = start;
            return true;
        }
        self.close_parens(item, start);
        item.open.pop();
        item.push(Tok::RBrace, start, start + 1);
        match item.kind {
            ItemKind::Rest => false,
            ItemKind::TypeDef if item.open.is_empty() => {
                let rest = &self.text[self.after_trivia(self.pos)..self.end];
                !rest.starts_with(';') && !rest.starts_with("__attribute__")
            }
            _ => item.open.is_empty() && !item.in_predicate,
        }
    }

    fn close_paren(&mut self, item: &mut ItemBuilder<'s>, tok: Tok<'s>, start: usize) {
        let since_brace = item
            .open
            .iter()
            .rev()
            .take_while(|index| !matches!(item.tokens[**index].tok, Tok::LBrace | Tok::BlockOpen));
        let Some(depth) = since_brace
            .clone()
            .position(|index| item.tokens[*index].tok.closer().as_ref() == Some(&tok))
        else {
            let span = self.span(start, start + 1);
            let shown = if tok == Tok::RParen { ')' } else { ']' };
            self.report(
                Diagnostic::error("unopened-bracket", span, format!("unexpected `{shown}`: no bracket is open here"))
                    .help(format!("remove this `{shown}`")),
            );
            return;
        };
        if depth > 0 {
            let index = item.open.last().copied().unwrap_or_default();
            self.report_unclosed(item, index, Some((start, start + 1, "expected before this")));
            for _ in 0..depth {
                item.close_top();
            }
        }
        item.open.pop();
        item.push(tok, start, start + 1);
    }

    /// Closes the open parentheses and square brackets before something that cannot stand in them.
    fn close_parens(&mut self, item: &mut ItemBuilder<'s>, before: usize) {
        if !item.in_parens() {
            return;
        }
        let index = item.open.last().copied().unwrap_or_default();
        self.report_unclosed(item, index, Some((before, before + 1, "expected before this")));
        while item.in_parens() {
            item.close_top();
        }
    }

    fn report_unclosed(&mut self, item: &ItemBuilder<'s>, index: usize, place: Option<(usize, usize, &str)>) {
        let opener = &item.tokens[index];
        let (shown, closer) = match opener.tok.closer() {
            Some(Tok::RParen) => ('(', ')'),
            Some(Tok::RBracket) => ('[', ']'),
            _ => ('{', '}'),
        };
        let span = self.span(opener.start as usize, opener.end as usize);
        let mut diagnostic =
            Diagnostic::error("unclosed-bracket", span, format!("this `{shown}` is never closed")).help(format!("add `{closer}`"));
        if let Some((start, end, what)) = place {
            let what = if what.starts_with("expected") {
                format!("`{closer}` {what}")
            } else {
                what.to_owned()
            };
            diagnostic = diagnostic.with(self.span(start, end), what);
        }
        self.report(diagnostic);
    }

    /// Reads the next token; characters that cannot be one are reported and give `ErrorExpr`.
    fn next_tok(&mut self, previous: Option<&Tok<'s>>) -> Tok<'s> {
        let start = self.pos;
        let rest = &self.text[start..self.end];
        let mut raw = Tok::lexer(rest);
        let tok = match raw.next() {
            Some(Ok(tok)) => tok,
            Some(Err(())) | None => return self.bad_character(start),
        };
        self.pos = start + raw.span().end;
        let diagnostics = &mut self.lexed.diagnostics;
        match tok {
            Tok::RawNumber(digits) => {
                let address = if matches!(previous, Some(Tok::Dot | Tok::Arrow | Tok::RParen | Tok::RBracket)) {
                    None
                } else {
                    literal::ipv4(self.source, start as u32, rest, diagnostics)
                };
                match address {
                    Some((tok, len)) => {
                        self.pos = start + len;
                        tok
                    }
                    None => literal::number(self.source, start as u32, digits, diagnostics),
                }
            }
            Tok::RawParam(digits) => match digits.parse() {
                Ok(number @ 1..=u32::MAX) => Tok::Param(number),
                _ => {
                    let span = Span::new(self.source, start as u32, self.pos as u32);
                    diagnostics.push(
                        Diagnostic::error("bad-parameter", span, format!("there is no parameter `${digits}`"))
                            .help("the parameters of a script are `$1`, `$2` and so on; `$#` is their number"),
                    );
                    Tok::Param(1)
                }
            },
            Tok::Quote => {
                let (tok, len) = literal::string(self.source, start as u32, &rest[1..], diagnostics);
                self.pos = start + 1 + len;
                tok
            }
            tok => tok,
        }
    }

    /// Reports a run of characters that cannot start a token, and skips it.
    fn bad_character(&mut self, start: usize) -> Tok<'s> {
        let rest = &self.text[start..self.end];
        let is_bad = |c: char| !c.is_ascii() || matches!(c, '\'' | '`' | '\\' | '$') || c.is_ascii_control() && !c.is_ascii_whitespace();
        let first = rest.chars().next().unwrap_or(' ');
        // `'text'`: read on behind the closing quote, and take it as the string that was meant.
        if let Some(inner) = rest.strip_prefix('\'')
            && let Some(len) = inner.find(['\'', '\n', '"'])
            && inner[len..].starts_with('\'')
        {
            self.pos = start + len + 2;
            let span = self.span(start, self.pos);
            self.report(
                Diagnostic::error("bad-character", span, "strings are written in double quotes")
                    .help(format!("write `\"{}\"`", &inner[..len])),
            );
            return Tok::Str(Cow::Borrowed(&inner.as_bytes()[..len]));
        }
        let len = rest.find(|c| !is_bad(c)).unwrap_or(rest.len()).max(first.len_utf8());
        self.pos = start + len;
        let span = self.span(start, self.pos);
        let shown: String = rest[..len]
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
            .collect();
        let mut diagnostic = Diagnostic::error("bad-character", span, format!("unexpected `{shown}`"));
        match first {
            '\'' => diagnostic = diagnostic.help("strings are written in double quotes: `\"…\"`"),
            '$' => diagnostic = diagnostic.help("a scratch variable is written `$name`, a parameter `$1`"),
            '“' | '”' | '„' | '‘' | '’' => diagnostic = diagnostic.help("write plain double quotes: `\"…\"`"),
            _ => {}
        }
        self.report(diagnostic);
        // Reported: what cannot be understood around it is no second error.
        Tok::ErrorExpr
    }

    /// Reads the value of a `#define` that ends at `end`, after the tokens that are there already.
    pub(crate) fn define_value(&mut self, tokens: Vec<Token<'s>>, end: usize) {
        let outer_end = std::mem::replace(&mut self.end, end);
        let mut item = ItemBuilder {
            kind: ItemKind::Rest,
            tokens,
            open: Vec::new(),
            in_predicate: false,
            in_header: false,
        };
        self.rest_of_item(&mut item);
        self.end = outer_end;
        self.pos = end;
        self.finish_item(item.tokens);
    }
}

/// Where blanks, comments and continued lines end, and where a comment starts that is never closed.
pub(crate) fn trivia_end(bytes: &[u8], mut at: usize) -> (usize, Option<usize>) {
    loop {
        match bytes.get(at) {
            Some(byte) if byte.is_ascii_whitespace() => at += 1,
            Some(b'\\') if bytes.get(at + 1) == Some(&b'\n') => at += 2,
            Some(b'/') if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at);
            }
            Some(b'/') if bytes.get(at + 1) == Some(&b'*') => {
                let start = at;
                match bytes[at + 2..].windows(2).position(|pair| pair == b"*/") {
                    Some(len) => at += 2 + len + 2,
                    None => return (bytes.len(), Some(start)),
                }
            }
            _ => return (at, None),
        }
    }
}
