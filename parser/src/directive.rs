//! Preprocessor lines: `#define NAME value`, `#include`, and the conditionals that bpftrace scripts use to include
//! headers only where there is no BTF.
//!
//! Not here: macros with parameters, headers. `BPFTRACE_HAVE_BTF` is always defined.

use crate::attach::word_end;
use crate::diag::Diagnostic;
use crate::lexer::Lexer;
use crate::token::{Tok, Token};

/// An open `#if`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditional {
    start: usize,
    end: usize,
    /// Whether one of its branches was taken.
    taken: bool,
}

impl<'s> Lexer<'s> {
    /// Reads the directive whose `#` is at the current position. `in_item`: inside of a block.
    pub(crate) fn directive(&mut self, in_item: bool) {
        let start = self.pos;
        let line_end = self.directive_end(start);
        let bytes = self.text.as_bytes();
        let word_start = start + 1 + self.text[start + 1..line_end].len() - self.text[start + 1..line_end].trim_start().len();
        let word_stop = word_end(&bytes[..line_end], word_start);
        let word = &self.text[word_start..word_stop];
        let rest = self.text[word_stop..line_end].trim();
        let span = self.span(start, word_stop.max(start + 1));
        self.pos = line_end;
        match word {
            "define" | "include" if in_item => {
                self.report(
                    Diagnostic::error("directive-in-block", span, format!("`#{word}` inside of a block"))
                        .help("move it to the top of the script"),
                );
            }
            "define" => self.define(start, word_stop, line_end),
            "include" => self.include(start, word_stop, line_end),
            "if" | "ifdef" | "ifndef" => {
                let active = self.condition(word, rest, word_start, line_end);
                self.conditionals.push(Conditional { start, end: word_stop, taken: active });
                if !active {
                    self.skip_inactive();
                }
            }
            "else" | "elif" | "endif" => self.branch(word, start, word_stop),
            "undef" => {
                self.defines.remove(rest);
                self.report(Diagnostic::warning("ignored-directive", span, "`#undef` has no effect on a `#define` before it"));
            }
            "pragma" | "" => {}
            "error" => {
                let span = self.span(start, line_end);
                self.report(Diagnostic::error("error-directive", span, format!("`#error`: {rest}")));
            }
            "warning" => {
                let span = self.span(start, line_end);
                self.report(Diagnostic::warning("error-directive", span, format!("`#warning`: {rest}")));
            }
            _ => self.report(
                Diagnostic::error("unknown-directive", span, format!("unknown directive `#{word}`"))
                    .help("`#define NAME value`, `#include`, `#ifdef`, `#ifndef`, `#if`, `#else` and `#endif` are known; comments start with `//`"),
            ),
        }
    }

    /// Where the directive's line ends, continued lines included.
    fn directive_end(&self, start: usize) -> usize {
        let mut at = start;
        loop {
            let Some(len) = self.text[at..self.end].find('\n') else {
                return self.end;
            };
            let end = at + len;
            if !self.text[..end].trim_end_matches('\r').ends_with('\\') {
                return end;
            }
            at = end + 1;
        }
    }

    fn define(&mut self, start: usize, word_stop: usize, line_end: usize) {
        let bytes = self.text.as_bytes();
        let name_start = line_end - self.text[word_stop..line_end].trim_start().len();
        let name_stop = word_end(&bytes[..line_end], name_start);
        if name_stop == name_start {
            let span = self.span(start, word_stop);
            self.report(Diagnostic::error("bad-define", span, "`#define` needs a name").help("write `#define NAME value`"));
            return;
        }
        let name = &self.text[name_start..name_stop];
        self.defines.insert(name);
        self.own_values.insert(name);
        if bytes.get(name_stop) == Some(&b'(') {
            let span = self.span(name_start, line_end);
            self.report(
                Diagnostic::error(
                    "function-like-define",
                    span,
                    format!("`#define {name}(…)` with parameters is not supported"),
                )
                .help(format!("write it as a macro: `macro {name}(a, b) {{ … }}`")),
            );
            return;
        }
        let tokens = vec![
            Token {
                tok: Tok::Define,
                start: start as u32,
                end: word_stop as u32,
            },
            Token {
                tok: Tok::Name(name),
                start: name_start as u32,
                end: name_stop as u32,
            },
        ];
        self.pos = name_stop;
        self.define_value(tokens, line_end);
    }

    fn include(&mut self, start: usize, word_stop: usize, line_end: usize) {
        let rest = &self.text[word_stop..line_end];
        let path = rest.trim_start();
        let path_start = line_end - path.len();
        let closer = match path.chars().next() {
            Some('<') => '>',
            Some('"') => '"',
            _ => {
                let span = self.span(start, word_stop);
                self.report(Diagnostic::error("bad-include", span, "`#include` needs a file name").help("write `#include <linux/file.h>`"));
                return;
            }
        };
        let Some(len) = path[1..].find(closer) else {
            let span = self.span(path_start, line_end);
            self.report(Diagnostic::error(
                "bad-include",
                span,
                format!("this file name has no closing `{closer}`"),
            ));
            return;
        };
        let path_end = path_start + 1 + len + 1;
        let path = &self.text[path_start..path_end];
        self.finish_item(vec![Token {
            tok: Tok::Include(path),
            start: start as u32,
            end: path_end as u32,
        }]);
    }

    /// Handles `#else`, `#elif`, `#endif` after a branch that was taken.
    fn branch(&mut self, word: &str, start: usize, word_stop: usize) {
        if self.conditionals.is_empty() {
            let span = self.span(start, word_stop);
            self.report(Diagnostic::error(
                "unopened-conditional",
                span,
                format!("`#{word}` without an `#if` before it"),
            ));
            return;
        }
        if word == "endif" {
            self.conditionals.pop();
        } else {
            self.skip_inactive();
        }
    }

    /// Skips the lines of a branch that is not taken, up to the branch that is, or behind `#endif`.
    fn skip_inactive(&mut self) {
        let mut depth = 0usize;
        while self.pos < self.end {
            let line_start = self.pos;
            let line_end = self.directive_end(line_start);
            self.pos = line_end;
            let line = &self.text[line_start..line_end];
            if let Some(directive) = line.trim_start().strip_prefix('#') {
                let directive = directive.trim_start();
                let word_len = word_end(directive.as_bytes(), 0);
                let (word, rest) = directive.split_at(word_len);
                match word {
                    "if" | "ifdef" | "ifndef" => depth += 1,
                    "endif" if depth == 0 => {
                        self.conditionals.pop();
                        return;
                    }
                    "endif" => depth -= 1,
                    "else" | "elif" if depth == 0 => {
                        let word_start = line_end - directive.len();
                        let active = word == "else" || self.condition("if", rest.trim(), word_start, line_end);
                        if let Some(top) = self.conditionals.last_mut()
                            && !top.taken
                            && active
                        {
                            top.taken = true;
                            return;
                        }
                    }
                    _ => {}
                }
            }
            if self.pos < self.end {
                self.pos += 1;
            }
        }
    }

    /// Evaluates the condition of `#if`, `#ifdef`, `#ifndef`.
    fn condition(&mut self, word: &str, rest: &str, word_start: usize, line_end: usize) -> bool {
        let rest = rest
            .split("//")
            .next()
            .unwrap_or_default()
            .split("/*")
            .next()
            .unwrap_or_default()
            .trim();
        let value = match word {
            "ifdef" => Some(self.defines.contains(rest)),
            "ifndef" => Some(!self.defines.contains(rest)),
            _ => self.any_of(rest),
        };
        value.unwrap_or_else(|| {
            let span = self.span(word_start, line_end);
            self.report(
                Diagnostic::error("bad-condition", span, format!("cannot evaluate the condition `{rest}`"))
                    .help("conditions are `0`, `1`, `defined(NAME)` and these with `!`, `&&`, `||`"),
            );
            false
        })
    }

    fn any_of(&self, condition: &str) -> Option<bool> {
        condition.split("||").try_fold(false, |any, part| Some(any | self.all_of(part)?))
    }

    fn all_of(&self, condition: &str) -> Option<bool> {
        condition
            .split("&&")
            .try_fold(true, |all, part| Some(all & self.defined(part.trim())?))
    }

    fn defined(&self, condition: &str) -> Option<bool> {
        let mut condition = condition;
        let mut negated = false;
        while let Some(rest) = condition.strip_prefix('!') {
            condition = rest.trim_start();
            negated = !negated;
        }
        match condition {
            "0" => return Some(negated),
            "1" => return Some(!negated),
            _ => {}
        }
        let name = condition.strip_prefix("defined")?.trim();
        let name = name.strip_prefix('(').map_or(Some(name), |inner| inner.strip_suffix(')'))?.trim();
        (!name.is_empty() && word_end(name.as_bytes(), 0) == name.len()).then(|| self.defines.contains(name) != negated)
    }

    /// Reports the conditionals that are open at the end of the script.
    pub(crate) fn finish_conditionals(&mut self) {
        for open in std::mem::take(&mut self.conditionals) {
            let span = self.span(open.start, open.end);
            self.lexed.incomplete = true;
            self.report(Diagnostic::error("unclosed-conditional", span, "this condition has no `#endif`").help("add `#endif`"));
        }
    }
}
