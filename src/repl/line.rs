//! The line being typed: completion, hints, colours, and when an entry is complete. All names come from the declaration
//! tables and from the running kernel.

use crate::render::Failure;
use crate::repl::commands::{Arg, COMMANDS};
use crate::repl::entry::is_complete;
use crate::repl::pace::Pace;
use crate::repl::screen::Screen;
use crate::repl::{INTERRUPTED, Repl, tty};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, ExternalPrinter, Helper};
use std::borrow::Cow;
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weir_compiler::hir::settings;
use weir_compiler::kernel::KernelInfo;
use weir_compiler::pipeline::Stage;
use weir_compiler::tables::{BUILTINS, FIELDS, FUNCTIONS, PROVIDERS, provider, statement};
use weir_runtime::Kernel;
use weir_stdlib::NATIVES;

const PROMPT: &str = "weir> ";
/// Lines of history kept in the file.
const HISTORY: usize = 2000;

/// Reads entries from the terminal until it ends.
pub fn run(kernel: &Rc<Kernel>, allow_unsafe: bool, pace: &Arc<Pace>) -> Result<ExitCode, Failure> {
    let failure = |e: ReadlineError| Failure::new(format!("cannot use this terminal: {e}"));
    let config = Config::builder()
        .max_history_size(HISTORY)
        .map_err(failure)?
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<Words, FileHistory> = Editor::with_config(config).map_err(failure)?;
    let mut printer = editor.create_external_printer().map_err(failure)?;
    let screen = Screen::above(
        Box::new(move |text| {
            // A terminal that has gone is noticed by the next line.
            let _ = printer.print(text);
        }),
        Arc::clone(pace),
    )?;
    let mut repl = Repl::new(Rc::clone(kernel), screen, allow_unsafe);
    repl.interactive = true;
    let words = Rc::new(RefCell::new(Known::default()));
    editor.set_helper(Some(Words {
        kernel: Rc::clone(kernel),
        known: Rc::clone(&words),
        files: FilenameCompleter::new(),
        colour: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        pace: Arc::clone(pace),
    }));
    let history = history_file();
    if let Some(path) = &history {
        // There is none the first time.
        let _ = editor.load_history(path);
    }
    let greeting = format!(
        "weir {}: type a probe, `:help` says what else there is, Ctrl-D leaves\n",
        env!("CARGO_PKG_VERSION")
    );
    repl.screen.print(&pace.greeting(&greeting));
    while !repl.quit {
        {
            let mut known = words.borrow_mut();
            known.maps = repl.workspace.names();
            known
                .maps
                .extend(repl.jobs.iter().filter_map(|j| j.maps.as_ref()).flat_map(|m| m.of_natives()));
            known.jobs = repl.jobs.iter().map(|j| j.number).collect();
        }
        // Before the line is read: a Ctrl-C right behind it is meant for what the line does.
        INTERRUPTED.store(false, Ordering::Release);
        repl.screen.typing();
        tty::typing(true);
        let typed = editor.readline(PROMPT);
        tty::typing(false);
        repl.screen.typed();
        match typed {
            Ok(text) => {
                if !text.trim().is_empty() {
                    let _ = editor.add_history_entry(text.trim());
                    if let Some(path) = &history {
                        // Each time: a session that is killed keeps what was typed.
                        let _ = editor.save_history(path);
                    }
                }
                repl.take(&text);
            }
            Err(ReadlineError::Interrupted) => {
                repl.screen.skip();
                repl.reap();
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => {
                repl.leave();
                return Err(failure(error));
            }
        }
    }
    let code = repl.leave();
    repl.screen.close();
    Ok(code)
}

/// `$XDG_STATE_HOME/weir/history`, its folder made.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let state = state.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")))?;
    let folder = state.join("weir");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

/// What this session has made so far.
#[derive(Default)]
struct Known {
    maps: Vec<String>,
    jobs: Vec<usize>,
}

struct Words {
    kernel: Rc<Kernel>,
    known: Rc<RefCell<Known>>,
    files: FilenameCompleter,
    colour: bool,
    pace: Arc<Pace>,
}

impl Words {
    /// With colours the whole line is drawn again for each key, which a slow line has no time for.
    fn colours(&self) -> bool {
        self.colour && !self.pace.slow()
    }
}

impl Helper for Words {}

impl Validator for Words {
    fn validate(&self, ctx: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(ctx.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, ctx: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..pos];
        if let Some(command) = before.strip_prefix(':') {
            let Some((name, _)) = command.split_once(char::is_whitespace) else {
                let names = COMMANDS.iter().map(|c| format!(":{}", c.name));
                return Ok((0, pairs(before, names)));
            };
            let arg = COMMANDS.iter().find(|c| c.name.starts_with(name)).map_or(Arg::None, |c| c.arg);
            if arg == Arg::File {
                return self.files.complete(line, pos, ctx);
            }
            let start = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
            return Ok((start, pairs(&before[start..], self.arguments(arg).into_iter())));
        }
        let (start, candidates) = self.candidates(before);
        Ok((start, pairs(&before[start..], candidates.into_iter())))
    }
}

impl Words {
    fn arguments(&self, arg: Arg) -> Vec<String> {
        match arg {
            Arg::Map => self.known.borrow().maps.clone(),
            Arg::Stage => Stage::ALL.iter().map(|s| s.name().to_owned()).collect(),
            Arg::Job => self
                .known
                .borrow()
                .jobs
                .iter()
                .map(ToString::to_string)
                .chain(["all".to_owned()])
                .collect(),
            Arg::Name => names().collect(),
            Arg::Setting => std::iter::once("unsafe").chain(settings()).map(str::to_owned).collect(),
            Arg::Expr => self.known.borrow().maps.iter().cloned().chain(names()).collect(),
            Arg::None | Arg::File | Arg::Pattern => Vec::new(),
        }
    }

    /// Where the word before the cursor starts, and what it could become.
    fn candidates(&self, before: &str) -> (usize, Vec<String>) {
        let depth = depth(before);
        let is_word = |c: char| {
            c.is_alphanumeric() || c == '_' || c == '@' || c == '$' || c == '.' || (depth == 0 && matches!(c, ':' | '*' | '-' | '+'))
        };
        let start = before
            .char_indices()
            .rev()
            .take_while(|(_, c)| is_word(*c))
            .last()
            .map_or(before.len(), |(at, _)| at);
        let word = &before[start..];
        if depth == 0 {
            if let Some(native) = open_use(before) {
                return (start, native.params.iter().map(|p| format!("{}=", p.name)).collect());
            }
            if let Some((alias, native)) = used(before, word) {
                return (start, native.events.iter().map(|e| format!("{alias}:{} ", e.name)).collect());
            }
            return (start, self.probes(word));
        }
        if let Some((alias, native)) = used(before, word.trim_start_matches('@')) {
            let mut names: Vec<String> = if word.starts_with('@') {
                native.maps.iter().map(|m| format!("@{alias}.{}", m.name)).collect()
            } else {
                native
                    .events
                    .iter()
                    .flat_map(|e| e.vars)
                    .map(|v| format!("{alias}.{}", v.name))
                    .collect()
            };
            names.dedup();
            return (start, names);
        }
        if let Some(fields) = word.strip_prefix("args.") {
            let _ = fields;
            return (start, self.args_fields(before).into_iter().map(|f| format!("args.{f}")).collect());
        }
        if let Some(head) = before[..start].strip_suffix("->") {
            return (start, self.members(head, before));
        }
        if word.starts_with('@') {
            return (start, self.known.borrow().maps.clone());
        }
        if word.starts_with('$') {
            // The word being typed is no variable yet.
            return (start, variables(&before[..start]));
        }
        let functions = FUNCTIONS.iter().map(|f| format!("{}(", f.name));
        let words = BUILTINS.iter().map(|b| b.name.to_owned());
        let fields = FIELDS.iter().map(|f| f.name.to_owned());
        (start, functions.chain(words).chain(fields).collect())
    }

    /// What could stand before the `{`.
    fn probes(&self, word: &str) -> Vec<String> {
        let Some((first, rest)) = word.split_once(':') else {
            let providers = PROVIDERS.iter().map(|p| {
                if p.form.contains(':') {
                    format!("{}:", p.name)
                } else {
                    format!("{} ", p.name)
                }
            });
            let maps = self.known.borrow().maps.clone();
            return providers
                .chain(["use ".to_owned()])
                .chain(NATIVES.iter().map(|n| format!("use {}(", n.name)))
                .chain(maps)
                .collect();
        };
        let Some(known) = provider(first) else { return Vec::new() };
        match known.name {
            "tracepoint" => match rest.split_once(':') {
                Some((category, _)) => {
                    let all = self.kernel.tracepoints().into_iter().filter(|(c, _)| c == category);
                    all.map(|(c, name)| format!("{first}:{c}:{name}")).collect()
                }
                None => {
                    let mut all: Vec<String> = self
                        .kernel
                        .tracepoints()
                        .into_iter()
                        .map(|(c, _)| format!("{first}:{c}:"))
                        .collect();
                    all.dedup();
                    all
                }
            },
            // A hundred thousand names are no help before some letters are typed.
            "kprobe" | "kretprobe" | "fentry" | "fexit" if rest.len() >= 2 => {
                let all = self.kernel.functions().into_iter().filter(|f| f.starts_with(rest));
                all.map(|f| format!("{first}:{f}")).collect()
            }
            "xdp" | "tc" => match rest.split_once(':') {
                None => self.kernel.interfaces().into_iter().map(|i| format!("{first}:{i}")).collect(),
                Some((iface, _)) => {
                    let words: &[&str] = if known.name == "xdp" {
                        &["native", "generic", "offload"]
                    } else {
                        &["ingress", "egress", "from_pod", "to_pod"]
                    };
                    words.iter().map(|w| format!("{first}:{iface}:{w}")).collect()
                }
            },
            _ => Vec::new(),
        }
    }

    /// The fields of the tracepoint whose block is being typed.
    fn args_fields(&self, before: &str) -> Vec<String> {
        let head = before.rfind('{').map_or("", |at| &before[..at]);
        let Some(point) = head
            .split(|c: char| c.is_whitespace() || c == ',')
            .rfind(|w| w.matches(':').count() == 2)
        else {
            return Vec::new();
        };
        let mut parts = point.split(':');
        let (Some(word), Some(category), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Vec::new();
        };
        if provider(word).is_none_or(|p| p.name != "tracepoint") {
            return Vec::new();
        }
        self.kernel
            .tracepoint(category, name)
            .unwrap_or_default()
            .into_iter()
            .map(|f| f.name)
            .collect()
    }

    /// The members of the struct that stands before `->`: a variable that was cast, or a cast.
    fn members(&self, head: &str, before: &str) -> Vec<String> {
        let variable: String = head
            .chars()
            .rev()
            .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '$')
            .collect();
        let variable: String = variable.chars().rev().collect();
        let text = if variable.starts_with('$') {
            before.rfind(&format!("{variable} =")).map_or("", |at| &before[at..])
        } else {
            head
        };
        let Some((_, rest)) = text.split_once("(struct ") else {
            return Vec::new();
        };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(btf) = self.kernel.btf() else { return Vec::new() };
        let id = btf.find_struct(&name);
        id.map(|id| btf.member_names(id).map(str::to_owned).collect()).unwrap_or_default()
    }
}

/// Everything that `:doc` knows.
fn names() -> impl Iterator<Item = String> {
    let words = NATIVES.iter().map(|n| n.name).chain(PROVIDERS.iter().map(|p| p.name));
    let words = words.chain(BUILTINS.iter().map(|b| b.name)).chain(FUNCTIONS.iter().map(|f| f.name));
    words.chain(FIELDS.iter().map(|f| f.name)).map(str::to_owned)
}

/// How many braces are open.
fn depth(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' if !quoted => depth += 1,
            '}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth
}

/// The native whose parameters are being typed: `use NAME(…`.
fn open_use(before: &str) -> Option<&'static weir_stdlib::Native> {
    let at = before.rfind("use ")?;
    let (name, rest) = before[at + 4..].split_once('(')?;
    (!rest.contains(')')).then(|| weir_stdlib::native(name.trim()))?
}

/// The native that a word begins with by its name in the script: `bl:`, `bl.`.
fn used(before: &str, word: &str) -> Option<(String, &'static weir_stdlib::Native)> {
    let (name, _) = word.split_once([':', '.'])?;
    before.match_indices("use ").find_map(|(at, _)| {
        let rest = &before[at + 4..];
        let (native, rest) = rest.split_once('(')?;
        let native = weir_stdlib::native(native.trim())?;
        let (rest, _) = rest.split_once(';')?;
        let alias = rest.rsplit_once(')')?.1.trim().strip_prefix("as ").map_or(native.name, str::trim);
        (alias == name).then(|| (alias.to_owned(), native))
    })
}

/// The scratch variables named so far.
fn variables(before: &str) -> Vec<String> {
    let mut out: Vec<String> = before
        .match_indices('$')
        .map(|(at, _)| {
            before[at..]
                .chars()
                .enumerate()
                .take_while(|(i, c)| *i == 0 || c.is_alphanumeric() || *c == '_')
                .map(|(_, c)| c)
                .collect()
        })
        .filter(|name: &String| name.len() > 1)
        .collect();
    out.sort();
    out.dedup();
    out
}

fn pairs(word: &str, all: impl Iterator<Item = String>) -> Vec<Pair> {
    let mut fitting: Vec<String> = all.filter(|c| c.starts_with(word)).collect();
    fitting.sort();
    fitting.dedup();
    let pair = |c: String| Pair {
        display: c.trim_end().to_owned(),
        replacement: c,
    };
    fitting.into_iter().map(pair).collect()
}

impl Hinter for Words {
    type Hint = String;

    /// The signature of the function, or the arguments of the command, that has just been typed.
    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<String> {
        if pos < line.len() {
            return None;
        }
        if let Some(command) = line.strip_prefix(':') {
            let name = command.strip_suffix(' ').unwrap_or(command);
            let found = COMMANDS.iter().find(|c| c.name == name)?;
            let space = if command.ends_with(' ') { "" } else { " " };
            return Some(format!("{space}{}   {}", found.args, found.doc));
        }
        let call = line.strip_suffix('(')?;
        let name: String = call.chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let name: String = name.chars().rev().collect();
        if let Some(function) = FUNCTIONS.iter().find(|f| f.name == name) {
            let args = function.signature.split_once('(').map_or("", |(_, args)| args);
            return Some(format!("{args}   {}", function.doc));
        }
        let native = weir_stdlib::native(&name)?;
        let params: Vec<&str> = native.params.iter().map(|p| p.name).collect();
        Some(format!("{}=…)   {}", params.join("=…, "), native.summary))
    }
}

const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BLUE: &str = "\x1b[34m";
const MAGENTA: &str = "\x1b[35m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

impl Highlighter for Words {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        if self.colours() {
            Cow::Owned(colours(line))
        } else {
            Cow::Borrowed(line)
        }
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        if self.colours() {
            Cow::Owned(format!("{CYAN}{prompt}{PLAIN}"))
        } else {
            Cow::Borrowed(prompt)
        }
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        if self.colours() {
            Cow::Owned(format!("{DIM}{hint}{PLAIN}"))
        } else {
            Cow::Borrowed(hint)
        }
    }

    fn highlight_char(&self, _: &str, _: usize, kind: CmdKind) -> bool {
        self.colours() && kind != CmdKind::MoveCursor
    }
}

/// Colours a line by the look of its words; it need not be right as a script.
fn colours(line: &str) -> String {
    let mut out = String::with_capacity(line.len() * 2);
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let run = |more: fn(char) -> bool| rest.chars().skip(1).take_while(|c| more(*c)).map(char::len_utf8).sum::<usize>() + c.len_utf8();
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let (colour, len) = match c {
            '"' => (GREEN, string_len(rest)),
            '/' if rest.starts_with("//") => (DIM, rest.find('\n').unwrap_or(rest.len())),
            '@' => (YELLOW, run(word)),
            '$' => (MAGENTA, run(word)),
            c if c.is_ascii_digit() => (CYAN, run(word)),
            c if c.is_alphabetic() || c == '_' => {
                let len = run(word);
                let name = &rest[..len];
                let head = name.split('.').next().unwrap_or(name);
                let known = provider(name).is_some()
                    || FUNCTIONS.iter().any(|f| f.name == name)
                    || BUILTINS.iter().any(|b| b.name == head)
                    || FIELDS.iter().any(|f| f.name == name)
                    || statement(name).is_some();
                (if known { BLUE } else { "" }, len)
            }
            _ => ("", c.len_utf8()),
        };
        let (piece, tail) = rest.split_at(len);
        if colour.is_empty() {
            out.push_str(piece);
        } else {
            out.push_str(colour);
            out.push_str(piece);
            out.push_str(PLAIN);
        }
        rest = tail;
    }
    out
}

/// Bytes of the string literal at the start of a text, its quotes included.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        let known = Known {
            maps: vec!["@".into(), "@flows".into(), "@retx".into()],
            jobs: vec![1, 3],
        };
        Words {
            kernel: Rc::new(Kernel::new()),
            known: Rc::new(RefCell::new(known)),
            files: FilenameCompleter::new(),
            colour: true,
            pace: Arc::default(),
        }
    }

    fn complete(text: &str) -> Vec<String> {
        let history = FileHistory::new();
        let ctx = Context::new(&history);
        let (_, pairs) = words().complete(text, text.len(), &ctx).unwrap();
        pairs.into_iter().map(|p| p.replacement).collect()
    }

    #[test]
    fn completion_knows_the_tables() {
        assert_eq!(complete(":jo"), [":jobs"]);
        assert_eq!(complete(":print @f"), ["@flows"]);
        assert_eq!(complete(":stop "), ["1", "3", "all"]);
        assert_eq!(complete(":set max_s"), ["max_strlen"]);
        assert_eq!(complete("tracep"), ["tracepoint:"]);
        let script = "use blocklist(iface=\"lo\", prefixes=(10.0.0.1, 10.0.0.2)) as bl; ";
        assert_eq!(complete(&format!("{script}bl:d")), ["bl:drop "]);
        assert_eq!(complete(&format!("{script}bl:drop {{ print(@bl.h")), ["@bl.hits"]);
        assert_eq!(complete(&format!("{script}bl:drop {{ @[bl.")), ["bl.prefix"]);
        assert_eq!(complete("use blocklist(iface=\"lo\"); blocklist:al"), ["blocklist:allow "]);
        assert_eq!(complete("begin { strnc"), ["strncmp("]);
        assert_eq!(complete("begin { print(@r"), ["@retx"]);
        assert_eq!(complete("begin { $abc = 1; print($a"), ["$abc"]);
        assert!(complete("xdp:lo /tcp.dpo").is_empty(), "a predicate is no place for probes");
        assert!(complete("xdp:lo { @[tcp.dp").contains(&"tcp.dport".to_owned()));
        assert!(complete("use blocklist(pre").contains(&"prefixes=".to_owned()));
    }

    #[test]
    fn completion_asks_the_kernel() {
        assert_eq!(complete("xdp:l"), ["xdp:lo"]);
        assert_eq!(complete("tc:lo:in"), ["tc:lo:ingress"]);
        assert!(complete("kprobe:").is_empty(), "too many to be of help");
    }

    #[test]
    fn hints_are_signatures() {
        let history = FileHistory::new();
        let ctx = Context::new(&history);
        let hint = |text: &str| words().hint(text, text.len(), &ctx);
        assert!(hint("begin { strncmp(").unwrap().starts_with("a, b, n)"));
        assert!(hint(":every").unwrap().contains("5s @MAP"));
        assert!(hint("use blocklist(").unwrap().contains("prefixes=…"));
        assert_eq!(hint("begin { nosuch("), None);
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let text = "tracepoint:a:b /pid == 12/ { @x[\"a\\\"b\"] = count(); $y = é; } // end";
        let mut plain = colours(text);
        for code in [DIM, GREEN, YELLOW, BLUE, MAGENTA, CYAN, PLAIN] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, text);
        assert!(colours("count(").contains(BLUE) && !colours("kount(").contains(BLUE));
        assert_eq!(string_len("\"open"), 5);
    }
}
