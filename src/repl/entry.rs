//! What is typed becomes a program: dressed as a script, compiled with the maps that are there, started as a job.
//!
//! Messages point into what was typed, wherever that stands in the text that is compiled; places in imported scripts stay theirs.

use super::jobs::Job;
use super::{INTERRUPTED, Repl, one_line, told};
use crate::caps::Needs;
use crate::compile::guarded;
use crate::render::{Failure, Message};
use crate::report;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use weir_compiler::hir;
use weir_compiler::object::{EventAction, Object};
use weir_compiler::pipeline::{self, Source, Stage};
use weir_parser::{Diagnostic, SourceId, Span, ast};
use weir_runtime::Error;
use weir_runtime::attach::run_once;

/// A text on its way to the compiler: the entry with what stands before and behind it.
pub(super) struct Entry {
    pub source: Source,
    /// Bytes of what earlier entries have defined.
    pub earlier: u32,
    /// Bytes before what was typed: those, and our own frame.
    pub before: u32,
    pub typed: String,
    /// Statements that run once.
    pub once: bool,
}

impl Repl {
    /// The text that is compiled: a script as it is, statements in a `begin` block.
    pub(super) fn dress(&self, text: &str, name: Option<&str>) -> Entry {
        let name = name.map_or_else(|| format!("entry {}", self.entries + 1), str::to_owned);
        let parsed = weir_parser::parse(SourceId(0), text);
        let wrapped = format!("begin {{\n{text}\n}}");
        let once = parsed.has_errors() && {
            let statements = weir_parser::parse(SourceId(0), &wrapped);
            // When neither is right, the message should be about what the author most likely meant.
            !statements.has_errors() || !looks_like_a_probe(text)
        };
        let (before, text_there) = if once {
            (format!("{}begin {{\n", self.prelude), format!("{text}\n}}"))
        } else {
            (self.prelude.clone(), text.to_owned())
        };
        Entry {
            earlier: len(&self.prelude),
            before: len(&before),
            source: Source {
                name,
                text: before + &text_there,
            },
            typed: text.to_owned(),
            once,
        }
    }

    /// The text that prints a value.
    pub(super) fn value_entry(&self, text: &str) -> Entry {
        let value = text.trim_end_matches(';');
        let before = format!("{}begin {{\nprint((", self.prelude);
        Entry {
            earlier: len(&self.prelude),
            before: len(&before),
            source: Source {
                name: format!("entry {}", self.entries + 1),
                text: format!("{before}{value}\n));}}"),
            },
            typed: value.to_owned(),
            once: true,
        }
    }

    /// Whether a text is right, without a word about it.
    pub(super) fn compiles(&self, entry: &Entry) -> bool {
        let options = pipeline::Options {
            script: self.options(&[]),
            ..pipeline::Options::default()
        };
        guarded(|| pipeline::compile(&entry.source, &*self.kernel, &options))
            .object
            .is_some()
    }

    /// Compiles and runs an entry, or a file of this name.
    pub(super) fn entry(&mut self, text: &str, file: Option<&str>, script_args: &[String]) -> Result<(), Failure> {
        let value = (file.is_none() && is_expression(text))
            .then(|| self.value_entry(text))
            .filter(|entry| self.compiles(entry));
        let entry = value.unwrap_or_else(|| self.dress(text, file));
        if self.define(&entry) {
            return Ok(());
        }
        let mut first_log = None;
        loop {
            let (object, types) = self.compile(&entry, script_args, first_log.is_none(), &[])?.0.ok_or_else(told)?;
            if object.events.iter().any(|e| matches!(e.action, EventAction::Capture { .. })) {
                return Err(Failure::new("`capture()` has no file to write to here").help("run it as a script: `weir --pcap FILE -e '…'`"));
            }
            match self.start(&entry, object.clone(), &types) {
                Ok(()) => return Ok(()),
                Err(error) => match (&*error, &first_log) {
                    (Error::Rejected { log, span, .. }, None) => {
                        if report::too_long(log) {
                            self.screen.print(&report::loop_too_long(&self.renderer, &entry.source, *span));
                            return Err(told());
                        }
                        first_log = Some(log.clone());
                    }
                    (Error::Rejected { log, .. }, Some(first)) => {
                        let text = report::rejected(&self.renderer, &entry.source, &object, &error, &[first, log]);
                        self.screen.print(&text);
                        return Err(told());
                    }
                    _ => {
                        self.tell(&entry, &error, &object);
                        return Err(told());
                    }
                },
            }
        }
    }

    /// Keeps definitions that come without a probe; they are checked when something uses them.
    pub(super) fn define(&mut self, entry: &Entry) -> bool {
        use weir_parser::ast::Item;
        if entry.once {
            return false;
        }
        let parsed = weir_parser::parse(SourceId(0), &entry.typed);
        let runs = parsed.program.items.iter().any(|i| matches!(i, Item::Probe(_) | Item::Use(_)));
        let defines = !parsed.program.items.is_empty() || !parsed.program.types.is_empty();
        if runs || parsed.has_errors() || !defines {
            return false;
        }
        // Later entries may be of other files, and a saved session lies somewhere else.
        let text = absolute_imports(&entry.typed, &parsed.program, &entry.source.name);
        self.prelude.push_str(&text);
        self.prelude.push('\n');
        self.saved.push(text);
        self.screen.print("defined for the entries that follow\n");
        true
    }

    pub(super) fn options(&self, script_args: &[String]) -> hir::Options {
        hir::Options {
            words: script_args.to_vec(),
            config: self.config.clone(),
            unsafe_functions: self.allow_unsafe,
            maps: self.workspace.types(),
            ..hir::Options::default()
        }
    }

    /// Compiles, and shows what is to be said about it. Without an object an error has been shown.
    #[expect(clippy::type_complexity, reason = "an object with the types of its maps, and the stages")]
    pub(super) fn compile(
        &self,
        entry: &Entry,
        script_args: &[String],
        optimise: bool,
        dump: &[Stage],
    ) -> Result<(Option<(Object, Vec<hir::Map>)>, Vec<(Stage, String)>), Failure> {
        let options = pipeline::Options {
            script: self.options(script_args),
            optimise,
            dump: dump.to_vec(),
        };
        let output = guarded(|| pipeline::compile(&entry.source, &*self.kernel, &options));
        // The second compilation says nothing that the first has not said.
        let shown = output
            .diagnostics
            .into_iter()
            .filter(|d| optimise && (d.is_error() || dump.is_empty()));
        // What was typed, then the imports as they are numbered, then the definitions of earlier entries.
        let typed = Source {
            name: entry.source.name.clone(),
            text: entry.typed.clone(),
        };
        let earlier = Source {
            name: "earlier definitions".to_owned(),
            text: self.prelude.clone(),
        };
        let sources: Vec<Source> = std::iter::once(typed).chain(output.imports).chain([earlier]).collect();
        let last = SourceId(u32::try_from(sources.len() - 1).unwrap_or(u32::MAX));
        let shown: Vec<Diagnostic> = shown.map(|d| self.placed(entry, last, d)).collect();
        self.screen.print(&self.renderer.diagnostics(&sources, &shown));
        if let Some((stage, message)) = &output.internal {
            self.screen.print(&report::internal(&self.renderer, &entry.source, stage, message));
            return Ok((None, output.dumps));
        }
        Ok((output.object.map(|o| (o, output.maps)), output.dumps))
    }

    /// Moves a message to where it is in what was typed, and says which entry made a map that it names.
    fn placed(&self, entry: &Entry, earlier: SourceId, mut d: Diagnostic) -> Diagnostic {
        let place = |span| moved(span, entry, earlier);
        d.span = place(d.span).unwrap_or_default();
        d.labels.retain(|(span, _)| place(*span).is_some());
        for (span, _) in &mut d.labels {
            *span = place(*span).unwrap_or_default();
        }
        if ["key-type", "value-type", "key-missing", "key-unexpected", "map-exists"].contains(&d.code)
            && let Some(name) = d.message.split('`').find(|w| w.starts_with('@'))
            && let Some((number, text)) = self.workspace.maker(name)
        {
            let help = format!("`{name}` is of entry {number}: `{}`", one_line(&text, 60));
            d.help.push(help);
        }
        d
    }

    /// Loads and attaches. What runs once is waited for, everything else becomes a job.
    pub(super) fn start(&mut self, entry: &Entry, mut object: Object, types: &[hir::Map]) -> Result<(), Box<Error>> {
        // The maps stay, so they are not printed when the job ends.
        object.config.print_maps_on_exit = false;
        let number = self.entries + 1;
        let title = one_line(&entry.typed, 60);
        // Blocks that run once end by themselves: they are waited for, and are no jobs.
        let once = run_once::only_runs_once(&object);
        let screen = if once { self.screen.clone() } else { self.screen.of_a_job() };
        let mut job = Job::script(number, title, &entry.source, object, self.workspace.descriptors(), &screen)?;
        if let Some(handle) = &job.maps {
            self.workspace.keep(handle, types, number, &entry.typed)?;
        }
        self.entries = number;
        self.last = Some(entry.source.clone());
        self.saved.push(entry.source.text[self.prelude.len()..].to_owned());
        if once {
            self.finish(&mut job);
            return Ok(());
        }
        let noun = if job.probes == 1 { "probe" } else { "probes" };
        self.screen.print(&format!("job {number}: attached {} {noun}\n", job.probes));
        self.jobs.push(job);
        Ok(())
    }

    /// Waits for what runs once; Ctrl-C ends it.
    pub(super) fn finish(&self, job: &mut Job) {
        let mut asked = false;
        while !job.is_done() {
            if INTERRUPTED.load(Ordering::Acquire) && !asked {
                job.ask_to_stop();
                asked = true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        job.wait();
        if let Some(why) = job.failure() {
            self.screen.print(&format!("{why}\n"));
        }
    }

    pub(super) fn tell(&self, entry: &Entry, error: &Error, object: &Object) {
        let errno = match error {
            Error::Sys(e) | Error::Attach { source: e, .. } => e.errno(),
            _ => 0,
        };
        let help = if matches!(errno, libc::EPERM | libc::EACCES) {
            vec![Needs::of(object).help()]
        } else {
            error.help()
        };
        let message = Message {
            code: error.code(),
            text: error.to_string(),
            span: error.span(),
            help,
            ..Message::default()
        };
        self.screen
            .print(&self.renderer.message(std::slice::from_ref(&entry.source), &message));
    }
}

/// A text whose imports do not depend on where it is. Paths are relative to the file that names them, which `name` is.
fn absolute_imports(text: &str, program: &ast::Program, name: &str) -> String {
    let folder = Path::new(name).parent().unwrap_or_else(|| Path::new(""));
    let mut out = text.to_owned();
    let imports = program
        .items
        .iter()
        .filter_map(|i| if let ast::Item::Import(import) = i { Some(import) } else { None });
    // From the end, so that the places before stay where they are.
    for import in imports.collect::<Vec<_>>().into_iter().rev() {
        let range = import.path_span.start as usize..import.path_span.end as usize;
        if let (Ok(path), true) = (std::path::absolute(folder.join(&import.path)), text.get(range.clone()).is_some()) {
            out.replace_range(range, &format!("\"{}\"", path.display().to_string().escape_default()));
        }
    }
    out
}

fn len(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

/// Where a span of the compiled text is for whoever typed: in what was typed, or in the definitions before it. Nothing for what stands
/// between, which nobody has typed. Spans in imports stay.
fn moved(span: Span, entry: &Entry, earlier: SourceId) -> Option<Span> {
    if span.source != SourceId(0) {
        return Some(span);
    }
    if span.end <= entry.earlier && span.end > 0 {
        return Some(Span::new(earlier, span.start, span.end));
    }
    if span.start < entry.before {
        return None;
    }
    let most = len(&entry.typed);
    let shift = |at: u32| at.saturating_sub(entry.before).min(most);
    Some(Span::new(span.source, shift(span.start), shift(span.end)))
}

/// Whether an entry may be taken as it is, or more lines belong to it.
pub(super) fn is_complete(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(':')
        || is_map_name(text)
        || is_expression(text)
        || is_statements(text)
        || !weir_parser::parse(SourceId(0), text).incomplete
}

/// Whether a text is statements that run once; the last needs no `;`.
fn is_statements(text: &str) -> bool {
    let parsed = weir_parser::parse(SourceId(0), &format!("begin {{\n{text}\n}}"));
    !looks_like_a_probe(text) && !parsed.has_errors() && !parsed.incomplete
}

/// Whether a text is a value to be shown: `1 + 1`, `comm`, `@x[1]`. A probe type alone is the beginning of a probe.
pub(super) fn is_expression(text: &str) -> bool {
    let text = text.trim().trim_end_matches(';');
    let parses = |text: &str| {
        let parsed = weir_parser::parse(SourceId(0), text);
        !parsed.has_errors() && !parsed.incomplete
    };
    !text.is_empty()
        && !looks_like_a_probe(text)
        && parses(&format!("begin {{\nprint((\n{text}\n));\n}}"))
        && parses(&format!("begin {{\nif (\n{text}\n) {{ }}\n}}"))
}

/// `@`, `@x`, `@bl.hits`
pub(super) fn is_map_name(text: &str) -> bool {
    text.strip_prefix('@')
        .is_some_and(|rest| rest.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.'))
}

/// Whether a text starts as a probe does: a provider, or a word with a colon.
pub(super) fn looks_like_a_probe(text: &str) -> bool {
    let word: String = text.chars().take_while(|c| !c.is_whitespace() && *c != '{' && *c != '/').collect();
    word.contains(':') || weir_compiler::tables::provider(&word).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_lines_belong_to_an_open_block() {
        assert!(!is_complete("begin {"));
        assert!(is_complete("begin {\n}"));
        assert!(is_complete(":type {"));
        assert!(is_complete("@x"));
        assert!(is_complete("@x = 5") && is_complete("$x = 1; print($x)"));
        assert!(!is_complete("@x =") && !is_complete("if (1) {") && !is_complete("tracepoint:a:b"));
    }

    #[test]
    fn maps_and_probes_are_told_from_statements() {
        assert!(is_map_name("@") && is_map_name("@bl.hits") && !is_map_name("@x[1]") && !is_map_name("x"));
        assert!(looks_like_a_probe("kprobe:tcp_sendmsg {") && looks_like_a_probe("begin{}"));
        assert!(!looks_like_a_probe("print(@x);"));
    }

    #[test]
    fn imports_are_independent_of_where_they_stand() {
        let text = "import \"a.weir\"; import \"/b/c.weir\";";
        let program = weir_parser::parse(SourceId(0), text).program;
        assert_eq!(
            absolute_imports(text, &program, "/x/y.weir"),
            "import \"/x/a.weir\"; import \"/b/c.weir\";"
        );
        assert!(absolute_imports(text, &program, "entry 1").starts_with("import \"/"));
    }

    #[test]
    fn messages_are_where_something_was_typed() {
        let text = "macro m(x) { x }\nbegin {\nprint(1)\n}";
        let entry = Entry {
            source: Source {
                name: "entry 2".to_owned(),
                text: text.to_owned(),
            },
            earlier: 17,
            before: 25,
            typed: "print(1)".to_owned(),
            once: true,
        };
        let earlier = SourceId(1);
        let at = |start, end| moved(Span::new(SourceId(0), start, end), &entry, earlier);
        assert_eq!(at(25, 30), Some(Span::new(SourceId(0), 0, 5)));
        assert_eq!(at(31, 36), Some(Span::new(SourceId(0), 6, 8)), "no further than what was typed");
        assert_eq!(at(6, 7), Some(Span::new(earlier, 6, 7)));
        assert_eq!(at(17, 22), None, "our own frame");
        let import = Span::new(SourceId(2), 3, 4);
        assert_eq!(moved(import, &entry, earlier), Some(import));
    }
}
