//! `weir repl`: probes typed one after the other, each running in the background while the next is typed.
//!
//! Input: lines of a terminal (rustyline) or of a pipe. Output: what the jobs print, above the line being typed. An entry is
//! compiled with the maps that are there, and its own are kept only when it runs. Not here: compiling, attaching.

mod commands;
mod jobs;
mod line;
mod maps;
mod screen;
mod watch;

use crate::caps::Needs;
use crate::compile::{config_from_env, guarded, split_named};
use crate::render::{Failure, Message, Renderer};
use crate::{args, doc, list, report, source};
use jobs::Job;
use maps::Workspace;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use screen::Screen;
use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weir_compiler::hir;
use weir_compiler::object::{EventAction, Object};
use weir_compiler::pipeline::{self, Source, Stage};
use weir_parser::{Diagnostic, SourceId, Span};
use weir_runtime::attach::run_once;
use weir_runtime::{Error, Kernel};

/// Ctrl-C while no line is being typed.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Release);
}

pub fn main(args: &args::Repl) -> Result<ExitCode, Failure> {
    // SAFETY: the handler only stores to an atomic.
    unsafe { signal(Signal::SIGINT, SigHandler::Handler(interrupted)) }.map_err(|e| Failure::new(format!("cannot handle signals: {e}")))?;
    let kernel = Rc::new(Kernel::new());
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        end_on_signals()?;
        line::run(&kernel, args.allow_unsafe)
    } else {
        let mut repl = Repl::new(kernel, Screen::new(None), args.allow_unsafe);
        repl.pipe(std::io::stdin().lock());
        Ok(repl.leave())
    }
}

/// Puts the terminal back when a signal ends us; everything in the kernel hangs on descriptors and goes by itself.
fn end_on_signals() -> Result<(), Failure> {
    let failure = |e: nix::Error| Failure::new(format!("cannot handle signals: {e}"));
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGHUP);
    // Every thread that is started from here on inherits it.
    set.thread_block().map_err(failure)?;
    let terminal = nix::sys::termios::tcgetattr(std::io::stdin()).map_err(failure)?;
    let terminal = std::sync::Mutex::new(terminal);
    std::thread::Builder::new()
        .name("weir-signals".to_owned())
        .spawn(move || {
            if set.wait().is_ok()
                && let Ok(terminal) = terminal.lock()
            {
                let _ = nix::sys::termios::tcsetattr(std::io::stdin(), nix::sys::termios::SetArg::TCSANOW, &terminal);
            }
            std::process::exit(0);
        })
        .map_err(|e| Failure::new(format!("cannot start a thread: {e}")))?;
    Ok(())
}

pub struct Repl {
    kernel: Rc<Kernel>,
    screen: Screen,
    renderer: Renderer,
    workspace: Workspace,
    jobs: Vec<Job>,
    /// Entries so far; the number of the next job.
    entries: usize,
    /// What `:save` writes, in order.
    saved: Vec<String>,
    /// Definitions of earlier entries, which every later one sees: macros, types, `#define`s, map declarations.
    prelude: String,
    /// The last entry, for `:dump`.
    last: Option<Source>,
    config: Vec<(String, String)>,
    allow_unsafe: bool,
    quit: bool,
    failed: bool,
    /// Whether a person sits there.
    interactive: bool,
}

/// A text on its way to the compiler: the entry with what stands before and behind it.
struct Entry {
    source: Source,
    /// Bytes before what was typed.
    before: u32,
    typed: String,
    /// Statements that run once.
    once: bool,
}

impl Repl {
    pub fn new(kernel: Rc<Kernel>, screen: Screen, allow_unsafe: bool) -> Self {
        Self {
            kernel,
            screen,
            renderer: Renderer::for_stderr(),
            workspace: Workspace::default(),
            jobs: Vec::new(),
            entries: 0,
            saved: Vec::new(),
            prelude: String::new(),
            last: None,
            config: config_from_env(),
            allow_unsafe,
            quit: false,
            failed: false,
            interactive: false,
        }
    }

    /// Takes entries from a pipe until it ends.
    fn pipe(&mut self, input: impl BufRead) {
        let mut text = String::new();
        for line in input.lines() {
            let Ok(line) = line else { break };
            text.push_str(&line);
            text.push('\n');
            if !is_complete(&text) {
                continue;
            }
            self.take(&std::mem::take(&mut text));
            if self.quit {
                return;
            }
        }
        if !text.trim().is_empty() {
            self.take(&text);
        }
    }

    /// Ends all jobs.
    fn leave(&mut self) -> ExitCode {
        for job in &self.jobs {
            job.ask_to_stop();
        }
        for job in &mut self.jobs {
            job.wait();
        }
        self.jobs.clear();
        // For a person an error has been seen; for a pipe it is the result.
        if self.failed && !self.interactive {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    /// Does what was typed.
    pub fn take(&mut self, text: &str) {
        INTERRUPTED.store(false, Ordering::Release);
        self.reap();
        let text = text.trim();
        let result = if text.is_empty() || text.starts_with("//") && !text.contains('\n') {
            Ok(())
        } else if let Some(command) = text.strip_prefix(':') {
            let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
            commands::find(name).and_then(|c| (c.run)(self, rest.trim()))
        } else if is_map_name(text) {
            self.print(text)
        } else {
            self.entry(text, &[])
        };
        if let Err(failure) = result {
            self.failed = true;
            if !failure.message.is_empty() {
                self.screen.print(&self.renderer.failure(&failure));
            }
        }
        self.reap();
    }

    /// Says which jobs have ended by themselves.
    pub fn reap(&mut self) {
        let mut i = 0;
        while i < self.jobs.len() {
            if !self.jobs[i].is_done() {
                i += 1;
                continue;
            }
            let mut job = self.jobs.remove(i);
            job.wait();
            match job.failure() {
                Some(why) => self.screen.print(&format!("job {} has failed: {why}\n", job.number)),
                None => self.screen.print(&format!("job {} has ended\n", job.number)),
            }
        }
    }

    // ---- entries ------------------------------------------------------------------------------

    /// The text that is compiled: a script as it is, statements in a `begin` block.
    fn dress(&self, text: &str) -> Entry {
        let name = format!("entry {}", self.entries + 1);
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
            before: u32::try_from(before.len()).unwrap_or(0),
            source: Source {
                name,
                text: before + &text_there,
            },
            typed: text.to_owned(),
            once,
        }
    }

    /// The text that prints a value.
    fn value_entry(&self, text: &str) -> Entry {
        let value = text.trim_end_matches(';');
        let before = format!("{}begin {{\nprint((", self.prelude);
        Entry {
            before: u32::try_from(before.len()).unwrap_or(0),
            source: Source {
                name: format!("entry {}", self.entries + 1),
                text: format!("{before}{value}\n));}}"),
            },
            typed: value.to_owned(),
            once: true,
        }
    }

    /// Whether a text is right, without a word about it.
    fn compiles(&self, entry: &Entry) -> bool {
        let options = pipeline::Options {
            script: self.options(&[]),
            ..pipeline::Options::default()
        };
        guarded(|| pipeline::compile(&entry.source, &*self.kernel, &options))
            .object
            .is_some()
    }

    /// Compiles and runs an entry.
    fn entry(&mut self, text: &str, script_args: &[String]) -> Result<(), Failure> {
        let value = is_expression(text)
            .then(|| self.value_entry(text))
            .filter(|entry| self.compiles(entry));
        let entry = value.unwrap_or_else(|| self.dress(text));
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
    fn define(&mut self, entry: &Entry) -> bool {
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
        self.prelude.push_str(&entry.typed);
        self.prelude.push('\n');
        self.saved.push(entry.typed.clone());
        self.screen.print("defined for the entries that follow\n");
        true
    }

    fn options(&self, script_args: &[String]) -> hir::Options {
        let (named, positional) = split_named(script_args);
        hir::Options {
            positional,
            named,
            config: self.config.clone(),
            unsafe_functions: self.allow_unsafe,
            maps: self.workspace.types(),
            ..hir::Options::default()
        }
    }

    /// Compiles, and shows what is to be said about it. Without an object an error has been shown.
    #[expect(clippy::type_complexity, reason = "an object with the types of its maps, and the stages")]
    fn compile(
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
        let shown: Vec<Diagnostic> = shown.map(|d| self.placed(entry, d)).collect();
        let typed = Source {
            name: entry.source.name.clone(),
            text: entry.typed.clone(),
        };
        self.screen.print(&self.renderer.diagnostics(&[typed], &shown));
        if let Some((stage, message)) = &output.internal {
            self.screen.print(&report::internal(&self.renderer, &entry.source, stage, message));
            return Ok((None, output.dumps));
        }
        Ok((output.object.map(|o| (o, output.maps)), output.dumps))
    }

    /// Moves a message to where it is in what was typed, and says which entry made a map that it names.
    fn placed(&self, entry: &Entry, mut d: Diagnostic) -> Diagnostic {
        let most = u32::try_from(entry.typed.len()).unwrap_or(u32::MAX);
        let place = |span: Span| {
            let shift = |at: u32| at.saturating_sub(entry.before).min(most);
            Span::new(span.source, shift(span.start), shift(span.end))
        };
        d.span = place(d.span);
        // Places before what was typed are nobody's to see.
        d.labels.retain(|(span, _)| span.start >= entry.before);
        for (span, _) in &mut d.labels {
            *span = place(*span);
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
    fn start(&mut self, entry: &Entry, mut object: Object, types: &[hir::Map]) -> Result<(), Box<Error>> {
        // The maps stay, so they are not printed when the job ends.
        object.config.print_maps_on_exit = false;
        let number = self.entries + 1;
        let title = one_line(&entry.typed, 60);
        // Blocks that run once end by themselves: they are waited for, and are no jobs.
        let once = run_once::only_runs_once(&object);
        let mut job = Job::script(number, title, &entry.source, object, self.workspace.descriptors(), &self.screen)?;
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
    fn finish(&self, job: &mut Job) {
        let mut asked = false;
        while !job.is_done() {
            if INTERRUPTED.swap(false, Ordering::AcqRel) && !asked {
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

    fn tell(&self, entry: &Entry, error: &Error, object: &Object) {
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

    // ---- commands -----------------------------------------------------------------------------

    fn help(&mut self, topic: &str) -> Result<(), Failure> {
        if topic.is_empty() {
            self.screen.print(&commands::help());
            return Ok(());
        }
        if let Ok(command) = commands::find(topic.trim_start_matches(':')) {
            self.screen
                .print(&format!(":{} {}\n    {}\n", command.name, command.args, command.doc));
            return Ok(());
        }
        self.doc(topic)
    }

    fn jobs(&mut self, _: &str) -> Result<(), Failure> {
        if self.jobs.is_empty() {
            self.screen.print("nothing runs in the background\n");
        }
        for job in &self.jobs {
            let age = age(job.started.elapsed());
            self.screen
                .print(&format!("{:>3}  {:>4} probes  {age:>6}  {}\n", job.number, job.probes, job.title));
        }
        Ok(())
    }

    fn stop(&mut self, which: &str) -> Result<(), Failure> {
        let numbers: Vec<usize> = match which {
            "all" => self.jobs.iter().map(|j| j.number).collect(),
            "" => self.jobs.last().map(|j| j.number).into_iter().collect(),
            n => {
                let number = n
                    .parse()
                    .map_err(|_| Failure::new(format!("`{n}` is no job")).help("`:stop 1`, or `:stop all`"))?;
                vec![number]
            }
        };
        if numbers.is_empty() {
            self.screen.print("nothing runs in the background\n");
        }
        for number in numbers {
            let Some(at) = self.jobs.iter().position(|j| j.number == number) else {
                return Err(Failure::new(format!("there is no job {number}")).help("`:jobs` lists them"));
            };
            let mut job = self.jobs.remove(at);
            job.ask_to_stop();
            if job.wait() {
                self.screen.print(&format!("job {number} stopped\n"));
            } else {
                self.screen.print(&format!("job {number} is slow to detach; it goes on doing so\n"));
            }
        }
        Ok(())
    }

    /// A name as typed, checked against the maps that there are.
    fn map_name(&self, text: &str) -> Result<String, Failure> {
        let name = if text.starts_with('@') {
            text.to_owned()
        } else {
            format!("@{text}")
        };
        let natives: Vec<String> = self
            .jobs
            .iter()
            .filter_map(|j| j.maps.as_ref())
            .flat_map(|m| m.of_natives())
            .collect();
        if self.workspace.has(&name) || natives.contains(&name) {
            return Ok(name);
        }
        let all: Vec<String> = self.workspace.names().into_iter().chain(natives).collect();
        let failure = Failure::new(format!("there is no map `{name}`"));
        Err(if all.is_empty() {
            failure.help("an entry makes one: `tracepoint:syscalls:sys_enter_openat { @[comm] = count(); }`")
        } else {
            failure.help(format!("there are `{}`", all.join("`, `")))
        })
    }

    /// `@MAP [TOP]`
    fn map_and_top(&self, text: &str) -> Result<(String, u32), Failure> {
        let mut words = text.split_whitespace();
        let Some(name) = words.next() else {
            return Err(Failure::new("which map?").help("`:maps` lists them"));
        };
        let top = match words.next() {
            None => 0,
            Some(n) => n.parse().map_err(|_| Failure::new(format!("`{n}` is no number of entries")))?,
        };
        Ok((self.map_name(name)?, top))
    }

    fn print(&mut self, text: &str) -> Result<(), Failure> {
        let (name, top) = self.map_and_top(text)?;
        if let Some(result) = self.workspace.print(&name, top, &self.screen) {
            return result.map_err(|e| Failure::new(e.to_string()));
        }
        let snapshot = self.native_snapshot(&name)?;
        self.screen.print(&self.workspace.text(&snapshot, top));
        Ok(())
    }

    fn native_snapshot(&self, name: &str) -> Result<weir_runtime::maps::Snapshot, Failure> {
        for handle in self.jobs.iter().filter_map(|j| j.maps.as_ref()) {
            if let Some(snapshot) = handle.snapshot(name).map_err(|e| Failure::new(e.to_string()))? {
                return Ok(snapshot);
            }
        }
        Err(Failure::new(format!("`{name}` has gone with its job")))
    }

    fn every(&mut self, text: &str) -> Result<(), Failure> {
        let how = || Failure::new("how often, and which map?").help("`:every 5s @m`, `:every 1s @m 10`");
        let (period, rest) = text.split_once(char::is_whitespace).ok_or_else(how)?;
        let time = args::duration(period).map_err(|e| Failure::new(format!("`{period}` is no time: {e}")))?;
        let (name, top) = self.map_and_top(rest)?;
        if !self.workspace.has(&name) {
            return Err(Failure::new(format!("`{name}` belongs to a native")).help("write an `interval` block beside its `use`"));
        }
        let (workspace, screen, number) = (self.workspace.clone(), self.screen.clone(), self.entries + 1);
        let shown = name.clone();
        let job = Job::every(number, format!(":every {text}"), time, move || {
            if let Some(Err(error)) = workspace.print(&shown, top, &screen) {
                screen.print(&format!("{error}\n"));
            }
        });
        self.jobs
            .push(job.map_err(|e| Failure::new(format!("cannot start a thread: {e}")))?);
        self.entries = number;
        let arguments = if top == 0 { name.clone() } else { format!("{name}, {top}") };
        self.saved
            .push(format!("interval:{}ms {{ print({arguments}); }}", time.as_millis()));
        self.screen.print(&format!("job {number}: prints {name} every {period}\n"));
        Ok(())
    }

    fn watch(&mut self, text: &str) -> Result<(), Failure> {
        let (name, _) = self.map_and_top(text)?;
        if !self.interactive {
            return Err(Failure::new("`:watch` needs a terminal").help("`:every 1s @m` works in a pipe"));
        }
        self.screen.hold();
        let result = watch::watch(&name, &self.workspace, || match self.workspace.snapshot(&name) {
            Some(snapshot) => snapshot.map_err(|e| e.to_string()),
            None => self.native_snapshot(&name).map_err(|e| e.message),
        });
        self.screen.release();
        result.map_err(Failure::new)
    }

    fn clear(&mut self, text: &str) -> Result<(), Failure> {
        let names = if text == "all" {
            self.workspace.names()
        } else {
            vec![self.map_and_top(text)?.0]
        };
        for name in names {
            match self.workspace.clear(&name) {
                Some(result) => result.map_err(|e| Failure::new(e.to_string()))?,
                None => return Err(Failure::new(format!("`{name}` belongs to a native")).help("`clear` it in a block beside its `use`")),
            }
        }
        Ok(())
    }

    fn maps(&mut self, _: &str) -> Result<(), Failure> {
        let fills = self.workspace.fills();
        let natives: Vec<String> = self
            .jobs
            .iter()
            .filter_map(|j| j.maps.as_ref())
            .flat_map(|m| m.of_natives())
            .collect();
        if fills.is_empty() && natives.is_empty() {
            self.screen.print("no maps yet\n");
            return Ok(());
        }
        let width = fills.iter().map(|f| f.ty.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for fill in fills {
            let percent = fill.entries * 100 / fill.max_entries.max(1) as usize;
            let pressure = if percent >= 80 { "  nearly full" } else { "" };
            let (used, pressure) = if fill.max_entries == 1 {
                (format!("{:>23}", "one value"), "")
            } else {
                (format!("{:>7} / {:<7} {percent:>3} %", fill.entries, fill.max_entries), pressure)
            };
            let size = bytes(fill.bytes);
            out.push_str(&format!("{:width$}  {used}  {size:>8}  entry {}{pressure}\n", fill.ty, fill.entry));
        }
        for name in natives {
            out.push_str(&format!("{name}  (of a native)\n"));
        }
        self.screen.print(&out);
        Ok(())
    }

    fn list(&mut self, pattern: &str) -> Result<(), Failure> {
        if pattern.is_empty() {
            return Err(Failure::new("list what?").help("`:list 'tracepoint:tcp:*'`"));
        }
        let words = ["weir", "-l", pattern.trim_matches('\'')].map(Into::into);
        match args::parse(words.into_iter()) {
            Ok(args::Command::Run(run)) => list::main(&run, &self.kernel).map(drop),
            _ => Err(Failure::new(format!("`{pattern}` is no pattern"))),
        }
    }

    fn type_of(&mut self, text: &str) -> Result<(), Failure> {
        if let Some(ty) = self.workspace.type_of(text) {
            self.screen.print(&format!("{ty}\n"));
            return Ok(());
        }
        if text.is_empty() {
            return Err(Failure::new("the type of what?").help("`:type nsecs / 1000`, `:type @m`"));
        }
        let entry = self.value_entry(text);
        let (object, _) = self.compile(&entry, &[], true, &[])?.0.ok_or_else(told)?;
        let found = object.events.iter().find_map(|e| match &e.action {
            EventAction::PrintValue(field) => Some(field.ty.to_string()),
            EventAction::PrintMapKey { .. } | EventAction::PrintMap { .. } => Some("a map's value".to_owned()),
            _ => None,
        });
        self.screen.print(&format!("{}\n", found.unwrap_or_else(|| "nothing".to_owned())));
        Ok(())
    }

    fn dump(&mut self, stage: &str) -> Result<(), Failure> {
        let stages: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).collect();
        let stage = Stage::ALL.into_iter().find(|s| s.name() == stage);
        let stage = stage.ok_or_else(|| Failure::new("which stage?").help(format!("there are {}", stages.join(", "))))?;
        let source = self.last.clone().ok_or_else(|| Failure::new("there is no entry yet"))?;
        let entry = Entry {
            before: 0,
            typed: source.text.clone(),
            source,
            once: false,
        };
        let dumps = self.compile(&entry, &[], true, &[stage])?.1;
        for (_, text) in dumps {
            self.screen.print(&format!("{}\n", text.trim_end()));
        }
        Ok(())
    }

    fn save(&mut self, path: &str) -> Result<(), Failure> {
        if path.is_empty() {
            return Err(Failure::new("into which file?").help("`:save incident.weir`"));
        }
        if self.saved.is_empty() {
            return Err(Failure::new("there is nothing to save yet"));
        }
        let text = format!(
            "#!/usr/bin/env weir\n// Saved from a session of `weir repl`.\n\n{}\n",
            self.saved.join("\n\n")
        );
        let write = || {
            use std::io::Write;
            use std::os::unix::fs::OpenOptionsExt;
            // A file that is there is somebody's.
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|e: std::io::Error| Failure::new(format!("cannot write `{path}`: {e}")))?;
        self.screen.print(&format!("`{path}` has the session; run it with `weir {path}`\n"));
        Ok(())
    }

    fn load(&mut self, text: &str) -> Result<(), Failure> {
        let mut words = text.split_whitespace();
        let Some(path) = words.next() else {
            return Err(Failure::new("which file?").help("`:load script.weir eth1`"));
        };
        let script_args: Vec<String> = words.filter(|w| *w != "--").map(str::to_owned).collect();
        let source = source::read(None, Some(path.as_ref()))?;
        self.entry(source.text.trim(), &script_args)
    }

    fn net(&mut self, text: &str) -> Result<(), Failure> {
        // The same program: what it prints is data, and goes where data goes.
        let program = std::env::current_exe().map_err(|e| Failure::new(format!("cannot find our own program: {e}")))?;
        let output = std::process::Command::new(program)
            .arg("net")
            .args(text.split_whitespace())
            .output();
        let output = output.map_err(|e| Failure::new(format!("cannot run `weir net`: {e}")))?;
        self.screen.print(&String::from_utf8_lossy(&output.stdout));
        self.screen.print(&String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn doc(&mut self, name: &str) -> Result<(), Failure> {
        let text = if name.is_empty() {
            doc::index()
        } else {
            doc::entry(name).ok_or_else(|| doc::unknown(name))?
        };
        self.screen.print(&text);
        Ok(())
    }

    fn set(&mut self, text: &str) -> Result<(), Failure> {
        let (name, value) = text.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((text, ""));
        let value = value.trim().trim_start_matches('=').trim();
        match (name, value) {
            ("", _) => {
                let mut out = format!("unsafe {}\n", if self.allow_unsafe { "on" } else { "off" });
                for (name, value) in &self.config {
                    out.push_str(&format!("{name} {value}\n"));
                }
                self.screen.print(&out);
            }
            ("unsafe", "on" | "true" | "1") => self.allow_unsafe = true,
            ("unsafe", "off" | "false" | "0") => self.allow_unsafe = false,
            ("unsafe", _) => return Err(Failure::new("`unsafe` is `on` or `off`")),
            (name, "") => return Err(Failure::new(format!("`{name}` needs a value")).help("`:set max_strlen 200`")),
            (name, value) => {
                // The checker knows the names and what they take.
                let mut config = self.config.clone();
                config.retain(|(n, _)| n != name);
                config.push((name.to_owned(), value.to_owned()));
                let old = std::mem::replace(&mut self.config, config);
                let entry = self.dress("begin { }");
                if self.compile(&entry, &[], true, &[])?.0.is_none() {
                    self.config = old;
                    return Err(told());
                }
            }
        }
        Ok(())
    }

    fn wait(&mut self, text: &str) -> Result<(), Failure> {
        let time = args::duration(text).map_err(|e| Failure::new(format!("`{text}` is no time: {e}")).help("`:wait 2s`"))?;
        let end = Instant::now() + time;
        while Instant::now() < end && !INTERRUPTED.load(Ordering::Acquire) {
            std::thread::sleep((end - Instant::now()).min(Duration::from_millis(20)));
            self.reap();
        }
        Ok(())
    }

    fn quit(&mut self, _: &str) -> Result<(), Failure> {
        self.quit = true;
        Ok(())
    }
}

/// The message is out already.
fn told() -> Failure {
    Failure::new("")
}

/// Whether an entry may be taken as it is, or more lines belong to it.
fn is_complete(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(':') || is_map_name(text) || is_expression(text) || !weir_parser::parse(SourceId(0), text).incomplete
}

/// Whether a text is a value to be shown: `1 + 1`, `comm`, `@x[1]`. A probe type alone is the beginning of a probe.
fn is_expression(text: &str) -> bool {
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
fn is_map_name(text: &str) -> bool {
    text.strip_prefix('@')
        .is_some_and(|rest| rest.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.'))
}

/// Whether a text starts as a probe does: a provider, or a word with a colon.
fn looks_like_a_probe(text: &str) -> bool {
    let word: String = text.chars().take_while(|c| !c.is_whitespace() && *c != '{' && *c != '/').collect();
    word.contains(':') || weir_compiler::tables::provider(&word).is_some()
}

fn one_line(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most - 1).chain(['…']).collect()
}

fn age(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{} KiB", n >> 10),
        _ => format!("{} MiB", n >> 20),
    }
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
    }

    #[test]
    fn maps_and_probes_are_told_from_statements() {
        assert!(is_map_name("@") && is_map_name("@bl.hits") && !is_map_name("@x[1]") && !is_map_name("x"));
        assert!(looks_like_a_probe("kprobe:tcp_sendmsg {") && looks_like_a_probe("begin{}"));
        assert!(!looks_like_a_probe("print(@x);"));
    }

    #[test]
    fn texts_are_short() {
        assert_eq!(one_line("a\n  b", 10), "a b");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(age(Duration::from_secs(300)), "5 min");
        assert_eq!(bytes(1 << 20), "1024 KiB");
    }
}
