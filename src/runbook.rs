//! Saved scripts: what the comment at the head says, and the parameters that the script takes.
//!
//! Input: a script's text and the words behind it on the command line. Output: its help, or its arguments in the one form that
//! the compiler takes (`--name=value`, then `$1`, `$2` …), or what is wrong with them.

use crate::render::Failure;
use std::fmt::Write as _;
use weir_compiler::hir::nearest_name;
use weir_compiler::pipeline::Source;
use weir_parser::params::{Default, Param, Params, Words};

/// What the words behind a script ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    Run(Vec<String>),
    Help(String),
}

/// The comment at the head of a script.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    /// Its first line.
    title: String,
    /// The lines up to `usage:`, without those around it that are empty.
    description: Vec<String>,
    /// The lines behind `usage:`.
    usage: Vec<String>,
}

/// Reads the arguments of a saved script, which takes these parameters, with those of what it imports.
///
/// # Errors
/// A parameter that the script does not have, one that it needs, or a value of the wrong kind.
pub fn arguments(source: &Source, params: &Params, words: Vec<String>) -> Result<Call, Failure> {
    read(source, params, words, true)
}

/// Reads the arguments of a script that is only judged: what it needs may be left out.
///
/// # Errors
/// A parameter that the script does not have, or a value of the wrong kind.
pub fn some_arguments(source: &Source, params: &Params, words: Vec<String>) -> Result<Call, Failure> {
    read(source, params, words, false)
}

fn read(source: &Source, params: &Params, words: Vec<String>, complete: bool) -> Result<Call, Failure> {
    // A first `--` says that the rest is the script's, which it is anyway.
    let words = words.strip_prefix(&["--".to_owned()]).unwrap_or(&words);
    let own = words.split(|w| w == "--").next().unwrap_or_default();
    if own.iter().any(|w| w == "--help" || w == "-h") {
        return Ok(Call::Help(help(source, params)));
    }
    let words = Words::read(words, &params.named);
    for (name, value) in &words.named {
        let Some(param) = params.named.iter().find(|p| p.name == *name) else {
            return Err(unknown(source, params, name));
        };
        if value.is_none() && param.default != Default::Switch {
            return Err(needs(source, param, "needs a value"));
        }
    }
    for param in params.named.iter().filter(|p| complete && p.default == Default::Required) {
        if !words.named.iter().any(|(name, _)| *name == param.name) {
            return Err(needs(source, param, "is missing"));
        }
    }
    let given = words.positional.len();
    let wanted = params.positional as usize;
    if given < wanted && complete {
        let which = if wanted == given + 1 {
            format!("the argument `${wanted}` is missing")
        } else {
            format!("the arguments `${}` to `${wanted}` are missing", given + 1)
        };
        return Err(Failure::new(format!("{which}: `{}` takes {wanted}", source.name)).help(usage_line(source, params)));
    }
    if given > wanted && !params.counts {
        let extra = &words.positional[wanted];
        return Err(Failure::new(format!("`{}` has no use for the argument `{extra}`", source.name)).help(usage_line(source, params)));
    }
    Ok(Call::Run(words.plain()))
}

fn unknown(source: &Source, params: &Params, name: &str) -> Failure {
    let failure = Failure::new(format!("`{}` has no parameter `--{name}`", source.name));
    let names = || params.named.iter().map(|p| p.name.as_str());
    match nearest_name(name, names()) {
        Some(near) => failure.help(format!("did you mean `--{near}`?")),
        None if params.named.is_empty() => failure.help("it takes none"),
        None => failure.help(format!(
            "there are {}",
            names().map(|n| format!("`--{n}`")).collect::<Vec<_>>().join(", ")
        )),
    }
}

fn needs(source: &Source, param: &Param, what: &str) -> Failure {
    let failure = Failure::new(format!("the parameter `--{}` of `{}` {what}", param.name, source.name));
    let form = form(param);
    if param.doc.is_empty() {
        failure.help(format!("write `{form}`"))
    } else {
        failure.help(format!("`{form}`: {}", param.doc))
    }
}

/// `--iface TEXT`
fn form(param: &Param) -> String {
    match &param.default {
        Default::Switch => format!("--{}", param.name),
        // `5m`: without a unit it would be nanoseconds, or refused.
        Default::Int(default) if default.ends_with(|c: char| c.is_ascii_lowercase()) && !default.starts_with("0x") => {
            format!("--{} TIME", param.name)
        }
        Default::Int(_) => format!("--{} N", param.name),
        Default::Text(_) | Default::Required => format!("--{} TEXT", param.name),
    }
}

fn usage_line(source: &Source, params: &Params) -> String {
    let mut line = format!("weir run {}", source.name);
    let mut words: Vec<String> = params
        .named
        .iter()
        .map(|p| match p.default {
            Default::Required => form(p),
            _ => format!("[{}]", form(p)),
        })
        .collect();
    words.extend((1..=params.positional).map(|n| format!("ARG{n}")));
    if params.counts {
        words.push("[ARG...]".to_owned());
    }
    if !words.is_empty() {
        let _ = write!(line, " -- {}", words.join(" "));
    }
    line
}

/// What `--help` prints.
fn help(source: &Source, params: &Params) -> String {
    let head = head(&source.text);
    let mut out = String::new();
    for line in std::iter::once(&head.title).chain(&head.description).filter(|l| !l.is_empty()) {
        out.push_str(line);
        out.push('\n');
    }
    if !out.is_empty() {
        out.push('\n');
    }
    let _ = writeln!(out, "Usage: {}", usage_line(source, params));
    for line in &head.usage {
        let _ = writeln!(out, "       {line}");
    }
    if params.named.is_empty() {
        return out;
    }
    out.push_str("\nParameters:\n");
    let width = params.named.iter().map(|p| form(p).len()).max().unwrap_or(0);
    for param in &params.named {
        let default = match &param.default {
            Default::Switch => String::new(),
            Default::Required => "(needed)".to_owned(),
            Default::Int(text) => format!("[default: {text}]"),
            Default::Text(text) => format!("[default: \"{text}\"]"),
        };
        let doc = [param.doc.as_str(), &default]
            .into_iter()
            .filter(|t| !t.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
        let _ = writeln!(out, "{}", format!("  {:width$}  {doc}", form(param)).trim_end());
    }
    out
}

/// Reads the comment that a script starts with, behind `#!`.
fn head(text: &str) -> Head {
    let mut lines = Vec::new();
    let mut in_block = false;
    for line in text.lines().skip_while(|l| l.starts_with("#!") || l.trim().is_empty()) {
        let line = line.trim();
        let content = if in_block {
            let (content, ends) = line.split_once("*/").map_or((line, false), |(c, _)| (c, true));
            in_block = !ends;
            content.trim_start_matches('*').trim()
        } else if let Some(content) = line.strip_prefix("//") {
            content.trim()
        } else if let Some(content) = line.strip_prefix("/*") {
            let (content, ends) = content.split_once("*/").map_or((content, false), |(c, _)| (c, true));
            in_block = !ends;
            content.trim_start_matches('*').trim()
        } else {
            break;
        };
        lines.push(content.to_owned());
    }
    let mut head = Head::default();
    let mut lines = lines.into_iter().skip_while(String::is_empty).peekable();
    let section = |line: &str| ["usage:", "output:"].iter().any(|s| line.to_ascii_lowercase().starts_with(s));
    if let Some(title) = lines.next_if(|l| !section(l)) {
        head.title = title;
    }
    while let Some(line) = lines.next_if(|l| !section(l)) {
        head.description.push(line);
    }
    while head.description.last().is_some_and(String::is_empty) {
        head.description.pop();
    }
    if lines.peek().is_some_and(|l| l.to_ascii_lowercase().starts_with("usage:")) {
        let first = lines.next().unwrap_or_default();
        head.usage
            .extend(Some(first["usage:".len()..].trim().to_owned()).filter(|l| !l.is_empty()));
        while let Some(line) = lines.next_if(|l| !l.is_empty() && !section(l)) {
            head.usage.push(line);
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = r#"#!/usr/bin/env -S weir run
// Top talkers.
// Bytes by source.
//
// usage: weir run top.weir -- --iface eth0
//        ./top.weir --iface eth0
//
// output:
//     @[10.0.0.1]: 5
// late

tc:getopt("iface", "", "interface to watch"):ingress { @[ip.src] = sum(pkt.len); }
interval:s:1 { print(@, getopt("top", 10, "lines to print")); if (getopt("once")) { exit(); } }
xdp:getopt("dev"):native {}
"#;

    fn script(text: &str) -> Source {
        Source {
            name: "top.weir".to_owned(),
            text: text.to_owned(),
        }
    }

    fn call(text: &str, words: &[&str]) -> Result<Call, Failure> {
        arguments(&script(text), &Params::of(text), words.iter().map(|w| (*w).to_owned()).collect())
    }

    fn run(text: &str, words: &[&str]) -> Vec<String> {
        match call(text, words) {
            Ok(Call::Run(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    fn refused(text: &str, words: &[&str]) -> String {
        let failure = call(text, words).unwrap_err();
        format!("{}\n{}", failure.message, failure.help.unwrap_or_default())
    }

    #[test]
    fn values_stand_behind_a_blank_or_an_equals_sign() {
        let wanted = ["--dev=eth1", "--iface=eth0", "--top=5", "--once"];
        assert_eq!(
            run(SCRIPT, &["--", "--dev", "eth1", "--iface", "eth0", "--top=5", "--once"]),
            wanted
        );
        assert_eq!(run(SCRIPT, &["--dev=eth1", "--iface=eth0", "--top", "5", "--once"]), wanted);
        assert_eq!(run("begin { print($1); print($2); }", &["a", "--", "--b"]), ["--", "a", "--b"]);
        assert_eq!(run("begin { print($#); }", &["a", "b", "c"]), ["a", "b", "c"]);
        // A negative number is a value.
        assert_eq!(run("begin { print(getopt(\"n\", 1)); }", &["--n", "-5"]), ["--n=-5"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            refused(SCRIPT, &["--ifaces", "x"]),
            "`top.weir` has no parameter `--ifaces`\ndid you mean `--iface`?"
        );
        assert_eq!(refused("begin {}", &["--x"]), "`top.weir` has no parameter `--x`\nit takes none");
        assert!(refused(SCRIPT, &["--zz"]).contains("there are `--iface`, `--top`, `--once`, `--dev`"));
        assert!(refused(SCRIPT, &["--iface", "x"]).starts_with("the parameter `--dev` of `top.weir` is missing"));
        assert_eq!(
            refused(SCRIPT, &["--iface", "--top", "5"]),
            "the parameter `--iface` of `top.weir` needs a value\n`--iface TEXT`: interface to watch"
        );
        assert_eq!(
            refused("xdp:$1 { @[$2] = count(); }", &["a"]),
            "the argument `$2` is missing: `top.weir` takes 2\nweir run top.weir -- ARG1 ARG2"
        );
        assert!(refused("xdp:$1 { @[$2] = count(); }", &[]).starts_with("the arguments `$1` to `$2` are missing"));
        assert!(refused("xdp:$1 {}", &["a", "b"]).starts_with("`top.weir` has no use for the argument `b`"));
    }

    #[test]
    fn help_is_the_head_and_the_parameters() {
        let Ok(Call::Help(text)) = call(SCRIPT, &["--top", "5", "--help"]) else {
            panic!()
        };
        assert_eq!(
            text,
            "Top talkers.\nBytes by source.\n\nUsage: weir run top.weir -- --iface TEXT [--top N] [--once] --dev TEXT\n       weir run top.weir -- --iface eth0\n       ./top.weir --iface eth0\n\nParameters:\n  --iface TEXT  interface to watch (needed)\n  --top N       lines to print [default: 10]\n  --once\n  --dev TEXT    (needed)\n"
        );
    }

    #[test]
    fn times_are_told_from_numbers() {
        let script = "begin { print(getopt(\"ttl\", 5m)); print(getopt(\"mask\", 0xff)); print(getopt(\"n\", 5)); }";
        let Ok(Call::Help(text)) = call(script, &["--help"]) else {
            panic!()
        };
        assert!(text.contains("-- [--ttl TIME] [--mask N] [--n N]\n"), "{text}");
    }

    #[test]
    fn heads_in_both_kinds_of_comments() {
        let block = head("/*\n * Title\n * More.\n *\n * USAGE: weir x\n */\nbegin {}");
        assert_eq!(
            (block.title.as_str(), block.description.as_slice()),
            ("Title", ["More.".to_owned()].as_slice())
        );
        assert_eq!(block.usage, ["weir x"]);
        assert_eq!(head("begin {} // not a head"), Head::default());
        assert_eq!(head("/* one */\nbegin {}").title, "one");
    }
}
