//! The pass over an item's tokens that decides what the grammar cannot see with one token of lookahead: casts, records,
//! sets, words that are keywords by position only.
//!
//! Input: balanced tokens of one item. Output: the same tokens, some replaced one for one.

use std::collections::HashSet;

use crate::token::{Tok, Token};

/// Words that are values, so that `(word) - 1` is no cast. bpftrace's builtins and weir's first words of packet fields.
const VALUE_NAMES: &[&str] = &[
    "addr",
    "args",
    "arp",
    "cgroup",
    "comm",
    "config",
    "cpid",
    "cpu",
    "ctx",
    "curtask",
    "dns",
    "dw_ustack",
    "elapsed",
    "eth",
    "flow",
    "func",
    "gid",
    "has_cpid",
    "icmp",
    "icmp6",
    "ip",
    "ip4",
    "ip6",
    "jiffies",
    "kstack",
    "leader_comm",
    "leader_tid",
    "ncpus",
    "nsecs",
    "numaid",
    "pcomm",
    "pid",
    "pkt",
    "port",
    "ppid",
    "probe",
    "probetype",
    "rand",
    "retval",
    "skb",
    "tcp",
    "tid",
    "udp",
    "uid",
    "usermode",
    "username",
    "ustack",
    "vlan",
];

/// Whether a bare name stands for a value rather than a type: a builtin, a constant in capitals, or a name that the
/// script itself gave to a value (`#define`, macro, macro parameter).
pub(crate) fn is_value_name(name: &str, own: &HashSet<&str>) -> bool {
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    VALUE_NAMES.binary_search(&name).is_ok()
        || own.contains(name)
        || numbered("arg")
        || numbered("sarg")
        || name.starts_with("__builtin_")
        || !name.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// Replaces tokens as LANGUAGE.md says. `own` holds the names that the script gave to values.
pub(crate) fn mark<'s>(text: &'s str, tokens: &mut [Token<'s>], own: &HashSet<&str>) {
    let in_use = tokens.first().is_some_and(|first| first.tok == Tok::Use);
    let pairs = Pairs::new(tokens);
    for at in 0..tokens.len() {
        let slice = &text[tokens[at].start as usize..tokens[at].end as usize];
        let previous = at.checked_sub(1).map(|index| &tokens[index].tok);
        let next = tokens.get(at + 1).map(|token| &token.tok);
        let replacement = match &tokens[at].tok {
            tok if matches!(previous, Some(Tok::Dot | Tok::Arrow)) && is_word(tok) => Some(Tok::Name(slice)),
            tok if next == Some(&Tok::Assign) && matches!(previous, Some(Tok::LParen | Tok::RecordOpen | Tok::Comma)) && is_word(tok) => {
                Some(Tok::Name(slice))
            }
            Tok::Name("in") if previous.is_some_and(Tok::ends_operand) || ends_block_expr(tokens, &pairs, at) => Some(Tok::In),
            Tok::Name("as") if in_use && previous.is_some_and(Tok::ends_operand) => Some(Tok::As),
            Tok::Name("limit") if starts_statement(previous) && limit_has_block(tokens, &pairs, at) => Some(Tok::Limit),
            Tok::Name("comptime") if next.is_some_and(starts_operand) => Some(Tok::Comptime),
            Tok::If if previous.is_some_and(Tok::wants_operand) => Some(Tok::IfExpr),
            Tok::LParen => mark_paren(tokens, &pairs, at, own),
            _ => None,
        };
        if let Some(tok) = replacement {
            tokens[at].tok = tok;
        }
    }
}

/// Whether the token is a name or a keyword that can be the name of a field.
fn is_word(tok: &Tok<'_>) -> bool {
    tok.kind_name() == "keyword" || matches!(tok, Tok::Bool(_))
}

/// Which bracket belongs to which, by index; marking never changes it.
struct Pairs(Vec<u32>);

impl Pairs {
    fn new(tokens: &[Token<'_>]) -> Self {
        let mut pairs: Vec<u32> = vec![u32::MAX; tokens.len()];
        let mut open: Vec<usize> = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            if token.tok.closer().is_some() {
                open.push(at);
            } else if token.tok.is_closer()
                && let Some(start) = open.pop()
            {
                pairs[start] = at as u32;
                pairs[at] = start as u32;
            }
        }
        Self(pairs)
    }

    fn other(&self, at: usize) -> Option<usize> {
        self.0.get(at).filter(|other| **other != u32::MAX).map(|other| *other as usize)
    }
}

/// Whether the token before `at` closes a block that is a value.
fn ends_block_expr(tokens: &[Token<'_>], pairs: &Pairs, at: usize) -> bool {
    let last = at.checked_sub(1).filter(|last| tokens[*last].tok == Tok::RBrace);
    last.and_then(|last| pairs.other(last))
        .is_some_and(|open| tokens[open].tok == Tok::BlockOpen)
}

fn starts_statement(previous: Option<&Tok<'_>>) -> bool {
    matches!(previous, Some(Tok::LBrace | Tok::RBrace | Tok::BlockOpen | Tok::Semi))
}

/// `limit ( … ) {`
fn limit_has_block(tokens: &[Token<'_>], pairs: &Pairs, at: usize) -> bool {
    tokens.get(at + 1).is_some_and(|token| token.tok == Tok::LParen)
        && pairs
            .other(at + 1)
            .and_then(|close| tokens.get(close + 1))
            .is_some_and(|token| token.tok == Tok::LBrace)
}

/// Finds the closing token of the opening one at `open`.
pub(crate) fn matching(tokens: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.tok.closer().is_some() {
            depth += 1;
        } else if token.tok.is_closer() {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

/// What the `(` at `at` is.
fn mark_paren<'s>(tokens: &[Token<'s>], pairs: &Pairs, at: usize, own: &HashSet<&str>) -> Option<Tok<'s>> {
    let previous = at.checked_sub(1).map(|index| &tokens[index].tok);
    match previous {
        Some(Tok::In) => return Some(Tok::SetOpen),
        Some(Tok::SizeOf | Tok::OffsetOf | Tok::TypeOf) => return is_type_argument(tokens, pairs, at, own).then_some(Tok::CastOpen),
        // `#define NAME (value)`
        _ if at == 2 && tokens[0].tok == Tok::Define => {}
        // The parentheses of a call or of a statement's head.
        Some(Tok::Name(_) | Tok::If | Tok::IfExpr | Tok::While | Tok::For | Tok::Unroll | Tok::Limit) => return None,
        _ => {}
    }
    let second = tokens.get(at + 1).map(|token| &token.tok);
    let third = tokens.get(at + 2).map(|token| &token.tok);
    if third == Some(&Tok::Assign) && second.is_some_and(|tok| matches!(tok, Tok::Name(_)) || is_word(tok)) {
        return Some(Tok::RecordOpen);
    }
    if matches!(second, Some(Tok::Struct | Tok::Union | Tok::Enum)) {
        return Some(Tok::CastOpen);
    }
    let shape = scan_type(tokens, pairs, at + 1)?;
    if tokens.get(shape.end).map(|token| &token.tok) != Some(&Tok::RParen) {
        return None;
    }
    let follower = tokens.get(shape.end + 1).map(|token| &token.tok);
    let is_cast = match shape.name {
        Some(name) if is_value_name(name, own) => false,
        _ => follower.is_some_and(starts_operand) || shape.certain,
    };
    is_cast.then_some(Tok::CastOpen)
}

/// Whether a token can start the operand of a cast. `{` and `+` cannot: `if (x) {`, `(x) + 1`.
fn starts_operand(tok: &Tok<'_>) -> bool {
    match tok {
        Tok::Name("in") => false,
        Tok::Name(_)
        | Tok::Var(_)
        | Tok::Map(_)
        | Tok::Param(_)
        | Tok::ParamCount
        | Tok::Int(_)
        | Tok::Duration(_)
        | Tok::Str(_)
        | Tok::Bool(_)
        | Tok::Ipv4(_)
        | Tok::Prefix(_)
        | Tok::LParen
        | Tok::Minus
        | Tok::Star
        | Tok::Amp
        | Tok::Bang
        | Tok::Tilde
        | Tok::SizeOf
        | Tok::OffsetOf
        | Tok::TypeOf => true,
        _ => false,
    }
}

/// Whether the argument of `sizeof`, `offsetof` or `typeof` is a type.
fn is_type_argument(tokens: &[Token<'_>], pairs: &Pairs, at: usize, own: &HashSet<&str>) -> bool {
    if matches!(
        tokens.get(at + 1).map(|token| &token.tok),
        Some(Tok::Struct | Tok::Union | Tok::Enum)
    ) {
        return true;
    }
    let Some(shape) = scan_type(tokens, pairs, at + 1) else {
        return false;
    };
    matches!(tokens.get(shape.end).map(|token| &token.tok), Some(Tok::RParen | Tok::Comma))
        && shape.name.is_none_or(|name| !is_value_name(name, own))
}

struct TypeShape<'s> {
    /// Index of the token behind the type.
    end: usize,
    /// The name, where nothing but the name (and `[n]`) says that this is a type.
    name: Option<&'s str>,
    /// Whether it cannot be an expression.
    certain: bool,
}

/// Scans the tokens of a type: base, then any number of `*` and `[n]`.
fn scan_type<'s>(tokens: &[Token<'s>], pairs: &Pairs, from: usize) -> Option<TypeShape<'s>> {
    let tok = |at: usize| tokens.get(at).map(|token| &token.tok);
    let mut name = None;
    let mut certain = true;
    let mut at = from;
    match tok(at)? {
        Tok::Struct | Tok::Union | Tok::Enum => {
            matches!(tok(at + 1), Some(Tok::Name(_))).then_some(())?;
            at += 2;
        }
        Tok::TypeOf => {
            matches!(tok(at + 1), Some(Tok::LParen | Tok::CastOpen)).then_some(())?;
            at = pairs.other(at + 1)? + 1;
            certain = false;
        }
        Tok::Name(first) => {
            at += 1;
            let c_word = matches!(
                *first,
                "unsigned" | "signed" | "long" | "short" | "int" | "char" | "const" | "volatile"
            );
            if c_word && matches!(tok(at), Some(Tok::Name(_))) {
                while let Some(Tok::Name(_)) = tok(at) {
                    at += 1;
                }
            } else {
                name = Some(*first);
                certain = false;
            }
        }
        _ => return None,
    }
    loop {
        match tok(at) {
            Some(Tok::Star) => {
                name = None;
                certain = true;
                at += 1;
            }
            Some(Tok::LBracket) => {
                at += 1;
                if matches!(tok(at), Some(Tok::Int(_))) {
                    at += 1;
                }
                (tok(at) == Some(&Tok::RBracket)).then_some(())?;
                at += 1;
            }
            _ => return Some(TypeShape { end: at, name, certain }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VALUE_NAMES;

    #[test]
    fn value_names_are_sorted_for_the_binary_search() {
        assert!(VALUE_NAMES.is_sorted());
    }
}
