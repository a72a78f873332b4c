//! What a script says about its maps: the comment beside the first place that names one, and how its key is written there.
//!
//! Input: text. Output: plain data, for whoever shows maps outside of the script. Comments and maps are those of the lexer: neither a map in
//! a string nor `//` in one is any. What is in `#ifdef` is passed over.

use crate::diag::SourceId;
use crate::layout::Layout;
use crate::lexer;
use crate::token::{Tok, Token};

/// A map as the script first names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// With its `@`.
    pub map: String,
    /// The comment behind that line, else the one above it, or above its statement; without `//`, on one line.
    pub comment: Option<String>,
    /// The parts of the key as written, where it is first written with one.
    pub key: Vec<String>,
}

/// A comment that stands on lines of its own, or behind code.
struct Comment<'s> {
    start: usize,
    end: usize,
    text: &'s str,
}

/// Finds every map, each once, in the order of the text.
#[must_use]
pub fn mentions(text: &str) -> Vec<Mention> {
    let lexed = lexer::lex(SourceId(0), text);
    let tokens: Vec<&Token<'_>> = lexed.items.iter().flatten().collect();
    let comments: Vec<Comment<'_>> = Layout::new(text, &[])
        .comments()
        .iter()
        .map(|c| Comment {
            start: c.start,
            end: c.end,
            text: &text[c.start..c.end],
        })
        .collect();
    let mut out: Vec<Mention> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Tok::Map(name) = &token.tok else { continue };
        let (name, behind) = whole_name(name, &tokens[at + 1..]);
        let key = || key(text, behind);
        match out.iter_mut().find(|m| m.map == name) {
            Some(known) if known.key.is_empty() => known.key = key(),
            Some(_) => {}
            None => {
                let comment = comment(text, &comments, token.start as usize, statement(&tokens[..=at]));
                out.push(Mention {
                    map: name,
                    comment,
                    key: key(),
                });
            }
        }
    }
    out
}

/// `@bl.hits`, a native's map, is three tokens.
fn whole_name<'t, 's>(name: &str, behind: &'t [&'t Token<'s>]) -> (String, &'t [&'t Token<'s>]) {
    match behind {
        [dot, part, rest @ ..] if dot.tok == Tok::Dot => match part.tok {
            Tok::Name(part) if !name.is_empty() => (format!("@{name}.{part}"), rest),
            _ => (format!("@{name}"), behind),
        },
        _ => (format!("@{name}"), behind),
    }
}

/// Where the statement starts whose last token this is.
fn statement(tokens: &[&Token<'_>]) -> usize {
    let before = tokens
        .iter()
        .rposition(|t| matches!(t.tok, Tok::Semi | Tok::LBrace | Tok::RBrace | Tok::BlockOpen))
        .map_or(0, |at| at + 1);
    tokens.get(before).map_or(0, |t| t.start as usize)
}

/// The parts of the key that follows, as they are written.
fn key(text: &str, tokens: &[&Token<'_>]) -> Vec<String> {
    let [open, rest @ ..] = tokens else { return Vec::new() };
    if open.tok != Tok::LBracket {
        return Vec::new();
    }
    let (mut depth, mut parts, mut from) = (0usize, Vec::new(), open.end);
    for token in rest {
        match &token.tok {
            Tok::RBracket | Tok::Comma if depth == 0 => {
                parts.push(text[from as usize..token.start as usize].trim().to_owned());
                from = token.end;
                if token.tok == Tok::RBracket {
                    return parts;
                }
            }
            tok if tok.is_closer() => depth = depth.saturating_sub(1),
            tok if tok.closer().is_some() => depth += 1,
            _ => {}
        }
    }
    Vec::new()
}

fn comment(text: &str, comments: &[Comment<'_>], at: usize, statement: usize) -> Option<String> {
    let line_end = |at: usize| text[at..].find('\n').map_or(text.len(), |n| at + n);
    let end = line_end(at);
    // Behind the code of that line, and nothing behind it.
    let behind = comments
        .iter()
        .find(|c| c.start >= at && c.start < end && text[c.end..].lines().next().unwrap_or_default().trim().is_empty());
    if let Some(words) = behind.map(|c| words(c.text)).filter(|w| !w.is_empty()) {
        return Some(words.join(" "));
    }
    above(text, comments, at).or_else(|| above(text, comments, statement))
}

/// The comments on the lines above the one of `at`, without a line between.
fn above(text: &str, comments: &[Comment<'_>], at: usize) -> Option<String> {
    let line_start = |at: usize| text[..at].rfind('\n').map_or(0, |n| n + 1);
    let first = line_start(at);
    let (mut start, mut lines) = (first, Vec::new());
    for comment in comments.iter().rev().filter(|c| c.end < first) {
        let own_line = text[line_start(comment.start)..comment.start].trim().is_empty();
        let adjacent = text[comment.end..start].matches('\n').count() == 1 && text[comment.end..start].trim().is_empty();
        if !own_line || !adjacent {
            break;
        }
        lines.splice(0..0, words(comment.text));
        start = line_start(comment.start);
    }
    // The head of a script says what all of it is for.
    let is_head = lines.iter().any(|l| l.starts_with("usage:") || l.starts_with("output:"));
    (!lines.is_empty() && !is_head).then(|| lines.join(" "))
}

/// The lines of a comment without the signs that make it one.
fn words(comment: &str) -> Vec<String> {
    let lines = comment.lines().map(|line| {
        let line = line.trim().trim_start_matches('/').trim_start_matches('*');
        line.trim_end_matches("*/").trim().to_owned()
    });
    lines.filter(|l| !l.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, map: &str) -> Mention {
        let all = mentions(text);
        all.into_iter()
            .find(|m| m.map == map)
            .unwrap_or_else(|| panic!("no {map} in {text}"))
    }

    fn said(text: &str, map: &str) -> Option<String> {
        of(text, map).comment
    }

    #[test]
    fn comments_are_those_beside_the_first_mention() {
        assert_eq!(said("begin { @b = 1; @c = 1; // the last\n}", "@b").as_deref(), Some("the last"));
        let text = "begin {\n  // Who.\n  // Why.\n  @ab = 1; @a = 2;\n  @z = 1; /* trails */\n}";
        assert_eq!(said(text, "@ab").as_deref(), Some("Who. Why."));
        assert_eq!(said(text, "@a").as_deref(), Some("Who. Why."));
        assert_eq!(said(text, "@z").as_deref(), Some("trails"));
        // Above the statement, when that is longer than a line.
        let text =
            "// Datagrams.\ntc:a:ingress\n/udp/\n{ @s = count(); }\nend {\n// Both.\nprintf(\"%d\",\n  @t);\n/* Of\n * all. */\n@u = 1; }";
        assert_eq!(said(text, "@s"), None, "the comment is about the probe, and three lines away");
        assert_eq!(said(text, "@t").as_deref(), Some("Both."));
        assert_eq!(said(text, "@u").as_deref(), Some("Of all."));
        assert_eq!(said("// Title.\n// usage: weir x\nbegin { @a = 1; }", "@a"), None);
        assert_eq!(said("// Far.\n\nbegin { @a = 1; }", "@a"), None);
    }

    #[test]
    fn neither_maps_nor_comments_are_in_strings() {
        let text = "begin { printf(\"@a // is %d\\n\", 1); }\n// It.\nend { @a = 1; @b = \"http://x\"; }";
        assert_eq!(said(text, "@a").as_deref(), Some("It."));
        assert_eq!(said(text, "@b").as_deref(), Some("It."));
        assert_eq!(mentions("begin { /* @no */ print(\"@never\"); } // @nor"), []);
        assert_eq!(said("begin { @x = 1; /* in */ @y = 2; }", "@x"), None, "code follows");
    }

    #[test]
    fn keys_are_as_they_are_written() {
        let text = "begin { print(@a); @a[ip.src, $d, ntop(args.daddr, 4), (1, @b[2, 3])] = count(); @[\n pid,\n comm ] = 1; @bl.hits[x] = 1; @n = 1; }";
        assert_eq!(of(text, "@a").key, ["ip.src", "$d", "ntop(args.daddr, 4)", "(1, @b[2, 3])"]);
        assert_eq!(of(text, "@b").key, ["2", "3"]);
        assert_eq!(of(text, "@").key, ["pid", "comm"]);
        assert_eq!(of(text, "@bl.hits").key, ["x"]);
        assert!(of(text, "@n").key.is_empty());
    }

    #[test]
    fn texts_that_are_no_scripts_do_no_harm() {
        for text in ["", "@", "@[", "@x[1, ", "begin { @x[", "// @", "/*", "@x[é]", "@é", "begin { @ /"] {
            let _ = mentions(text);
        }
    }
}
