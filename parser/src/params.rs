//! The parameters that a script takes: `getopt("name", default, "description")`, in code and in attach points, and `$1`, `$2` …
//!
//! Input: text. Output: plain data, for `--help`, for splitting a command line, and for the compiler, which puts values into
//! attach points. Calls whose name is not a literal are nobody's parameter and are left to the type checker.

use std::ops::Range;

use crate::diag::SourceId;
use crate::lexer;
use crate::token::{Tok, Token};

/// The function that names a parameter.
const GETOPT: &str = "getopt";

/// What a parameter takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Default {
    /// `--name` alone, or `--name=true`.
    Switch,
    /// A number; what it is without being given, as written.
    Int(String),
    Text(String),
    /// It has to be given.
    Required,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub default: Default,
    /// Empty where the script says nothing.
    pub doc: String,
}

/// All parameters of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// In the order of the text, each once.
    pub named: Vec<Param>,
    /// The highest `$N`.
    pub positional: u32,
    /// Whether the script asks how many there are, so that any number may be right.
    pub counts: bool,
}

impl Params {
    /// Reads the parameters of a script. Errors in it are passed over.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self::of_all([text])
    }

    /// Reads the parameters of a script and of those that it imports.
    pub fn of_all<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let mut out = Params::default();
        // Most scripts take none, and need not be read once more.
        let may_take = |text: &&str| text.contains(GETOPT) || text.contains('$');
        texts.into_iter().filter(may_take).for_each(|text| out.collect(text));
        out
    }

    fn collect(&mut self, text: &str) {
        let lexed = lexer::lex(SourceId(0), text);
        let tokens: Vec<&Token<'_>> = lexed.items.iter().flatten().collect();
        let mut in_use = false;
        for (at, token) in tokens.iter().enumerate() {
            match &token.tok {
                Tok::Use => in_use = true,
                Tok::Semi => in_use = false,
                Tok::Param(n) => self.positional = self.positional.max(*n),
                Tok::ParamCount => self.counts = true,
                Tok::AttachPoint(point) => {
                    in_attach_point(point.text).into_iter().for_each(|(_, param)| self.add(param));
                    self.positional = self.positional.max(highest(point.text));
                }
                Tok::Name(GETOPT) => {
                    if let Some(param) = call(text, &tokens[at + 1..], in_use) {
                        self.add(param);
                    }
                }
                _ => {}
            }
        }
    }

    /// The first mention that says something stands.
    fn add(&mut self, param: Param) {
        let Some(known) = self.named.iter_mut().find(|p| p.name == param.name) else {
            self.named.push(param);
            return;
        };
        if known.doc.is_empty() {
            known.doc = param.doc;
        }
        if known.default == Default::Required && param.default != Default::Required {
            known.default = param.default;
        }
    }
}

/// The words behind a script, told apart.
#[derive(Clone, Debug, std::default::Default, PartialEq, Eq)]
pub struct Words {
    /// In order; `None` for `--name` without a value.
    pub named: Vec<(String, Option<String>)>,
    /// `$1`, `$2`, …
    pub positional: Vec<String>,
}

impl Words {
    /// Reads `--name=value`, `--name value` and `--name`; all else is positional, as is everything behind `--`. A parameter that the
    /// script does not have, or that is a switch, takes no word behind it.
    #[must_use]
    pub fn read(words: &[String], parameters: &[Param]) -> Self {
        let mut out = Self::default();
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let Some(rest) = word.strip_prefix("--") else {
                out.positional.push(word.clone());
                continue;
            };
            if rest.is_empty() {
                out.positional.extend(words.by_ref().cloned());
                break;
            }
            let (name, value) = match rest.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => {
                    let takes_one = parameters.iter().any(|p| p.name == rest && p.default != Default::Switch);
                    let value = words.next_if(|next| takes_one && !next.starts_with("--")).cloned();
                    (rest, value)
                }
            };
            out.named.push((name.to_owned(), value));
        }
        out
    }

    /// The same as words that are read alike whatever the script takes.
    #[must_use]
    pub fn plain(self) -> Vec<String> {
        // It would take the word behind it.
        let open = matches!(self.named.last(), Some((_, None))) && !self.positional.is_empty();
        let named = self.named.into_iter().map(|(name, value)| match value {
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}"),
        });
        let rest = open || self.positional.iter().any(|word| word.starts_with("--"));
        let end = rest.then(|| "--".to_owned());
        named.chain(end).chain(self.positional).collect()
    }
}

/// `getopt(…)` in an attach point, with where they stand in its text. Without a default the value has to be given.
#[must_use]
pub fn in_attach_point(text: &str) -> Vec<(Range<usize>, Param)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find(GETOPT).map(|at| from + at) {
        let open = at + GETOPT.len();
        let Some(end) = call_end(text.as_bytes(), open) else {
            from = open;
            continue;
        };
        // As an expression, so that literals are read in one place.
        let code = format!("begin{{{};}}", &text[at..end]);
        let lexed = lexer::lex(SourceId(0), &code);
        let tokens: Vec<&Token<'_>> = lexed.items.iter().flatten().collect();
        let start = tokens.iter().position(|t| t.tok == Tok::Name(GETOPT));
        if let Some(param) = start.and_then(|start| call(&code, &tokens[start + 1..], true)) {
            found.push((at..end, param));
        }
        from = end;
    }
    found
}

/// Where a call that opens at `open` ends; strings are passed over. `None` where no call opens, or none closes.
pub(crate) fn call_end(bytes: &[u8], open: usize) -> Option<usize> {
    if bytes.get(open) != Some(&b'(') {
        return None;
    }
    let mut at = open + 1;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at += 1;
                while *bytes.get(at)? != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b')' => return Some(at + 1),
            b'(' | b'\n' | b'{' | b'}' => return None,
            _ => {}
        }
        at += 1;
    }
}

/// Whether a call of `getopt` opens at `at`.
pub(crate) fn opens(text: &str, at: usize) -> bool {
    text.as_bytes().get(at) == Some(&b'(') && text[..at].ends_with(GETOPT)
}

/// The parameter of a call, from its parenthesis on. Where it is `needed`, the value has to be given unless there is a default.
fn call(text: &str, tokens: &[&Token<'_>], needed: bool) -> Option<Param> {
    let mut tokens = tokens.iter();
    let mut next = || tokens.next().map(|t| (&t.tok, &text[t.start as usize..t.end as usize]));
    (*next()?.0 == Tok::LParen).then_some(())?;
    let string = |tok: &Tok<'_>| match tok {
        Tok::Str(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    let name = string(next()?.0)?;
    let mut param = Param {
        name,
        default: if needed { Default::Required } else { Default::Switch },
        doc: String::new(),
    };
    if *next()?.0 != Tok::Comma {
        return Some(param);
    }
    let mut value = next()?;
    let sign = if *value.0 == Tok::Minus {
        value = next()?;
        "-"
    } else {
        ""
    };
    param.default = match value.0 {
        // No interface and no file is called nothing: the form for a description without a default.
        Tok::Str(bytes) if needed && bytes.is_empty() => Default::Required,
        Tok::Str(bytes) => Default::Text(String::from_utf8_lossy(bytes).into_owned()),
        Tok::Bool(_) => Default::Switch,
        Tok::Int(_) | Tok::Duration(_) => Default::Int(format!("{sign}{}", value.1)),
        Tok::Name(_) => Default::Int(value.1.to_owned()),
        _ => param.default,
    };
    if *next()?.0 == Tok::Comma {
        param.doc = string(next()?.0).unwrap_or_default();
    }
    Some(param)
}

/// The highest `$N` in an attach point.
fn highest(text: &str) -> u32 {
    let digits = text.split('$').skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().unwrap_or(0)
    });
    digits.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(name: &str, default: Default, doc: &str) -> Param {
        Param {
            name: name.to_owned(),
            default,
            doc: doc.to_owned(),
        }
    }

    #[test]
    fn words_are_read_by_what_the_script_takes() {
        let params = Params::of(r#"begin { getopt("n", 1); getopt("s", "x"); getopt("on"); getopt("off", false); }"#).named;
        let read = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let read = Words::read(&words, &params);
            for parameters in [&params[..], &[]] {
                let again = Words::read(&read.clone().plain(), parameters);
                assert_eq!(again, read, "{line}");
            }
            let named: Vec<String> = read
                .named
                .iter()
                .map(|(n, v)| v.as_ref().map_or(n.clone(), |v| format!("{n}:{v}")))
                .collect();
            (named.join(" "), read.positional.join(" "))
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(read("--n 5 a --s=b c"), pair("n:5 s:b", "a c"));
        assert_eq!(read("--n -5 --s --on"), pair("n:-5 s on", ""));
        // Switches, and what the script does not have, take nothing.
        assert_eq!(read("--on a --off b --what c"), pair("on off what", "a b c"));
        assert_eq!(read("a -- --n 5 -- x"), pair("", "a --n 5 -- x"));
        assert_eq!(read("--s= --n"), pair("s: n", ""));
        // A value that is missing stays so.
        assert_eq!(read("c --s"), pair("s", "c"));
        assert_eq!(read("--n --s -- c"), pair("n s", "c"));
    }

    #[test]
    fn parameters_are_found_wherever_they_stand() {
        let params = Params::of(
            r#"tc:getopt("iface", "eth0", "the interface, or a pattern"):ingress, tc:getopt("iface"):egress /tcp.dport == getopt("port", 0x16)/ {
                print(@x, getopt("top", 5, "how many")); if (getopt("v")) { print($3); }
            }
            use blocklist(iface=getopt("dev", "eth1"), ttl=getopt("ttl", 5m, "how long")) as bl;"#,
        );
        assert_eq!(
            params.named,
            [
                param("iface", Default::Text("eth0".into()), "the interface, or a pattern"),
                param("port", Default::Int("0x16".into()), ""),
                param("top", Default::Int("5".into()), "how many"),
                param("v", Default::Switch, ""),
                param("dev", Default::Text("eth1".into()), ""),
                param("ttl", Default::Int("5m".into()), "how long"),
            ]
        );
        assert_eq!((params.positional, params.counts), (3, false));
    }

    #[test]
    fn an_attach_point_needs_its_value() {
        assert_eq!(Params::of("xdp:getopt(\"if\") {}").named, [param("if", Default::Required, "")]);
        assert_eq!(
            Params::of("use blocklist(iface=getopt(\"if\", \"\", \"d\")) as bl; begin { print(getopt(\"t\", \"\")); }").named,
            [param("if", Default::Required, "d"), param("t", Default::Text(String::new()), "")]
        );
        // A parameter of a native is no switch, unless it says so.
        assert_eq!(
            Params::of("use blocklist(iface=getopt(\"if\"), atomic=getopt(\"at\", false)) as bl; begin { getopt(\"t\"); }").named,
            [
                param("if", Default::Required, ""),
                param("at", Default::Switch, ""),
                param("t", Default::Switch, "")
            ]
        );
        // A later mention may say what it is.
        assert_eq!(
            Params::of("xdp:getopt(\"if\", \"\", \"d\") {}").named,
            [param("if", Default::Required, "d")]
        );
        let params = Params::of("xdp:getopt(\"if\") {} tc:getopt(\"if\", \"lo\", \"d\"):egress {}");
        assert_eq!(params.named, [param("if", Default::Text("lo".into()), "d")]);
        assert_eq!(Params::of("xdp:$12:native {} begin { $#; }").positional, 12);
        let found = in_attach_point("tc:lxcgetopt(\"x\", \"a:b)\")-1:ingress");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, 6..25);
        assert!(in_attach_point("kprobe:getopt").is_empty() && in_attach_point("kprobe:getopt(\"x").is_empty());
    }

    #[test]
    fn broken_text_has_what_it_has() {
        for text in [
            "",
            "begin { getopt(",
            "begin { getopt(\"a\"",
            "begin { getopt(5) }",
            "xdp:getopt( {",
        ] {
            assert!(Params::of(text).named.len() <= 1, "{text}");
        }
    }
}
