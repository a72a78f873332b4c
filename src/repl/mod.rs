//! `weir repl`: probes typed one after the other, each running in the background while the next is typed.
//!
//! Input: lines of a terminal (rustyline) or of a pipe. Output: what the jobs print, above the line being typed. An entry is
//! compiled with the maps that are there, and its own are kept only when it runs. Not here: compiling, attaching.

mod actions;
mod commands;
mod entry;
mod jobs;
mod line;
mod maps;
mod pace;
mod screen;
mod tty;
mod watch;

use crate::args;
use crate::compile::config_from_env;
use crate::render::{Failure, Renderer};
use entry::{is_complete, is_map_name};
use jobs::Job;
use maps::Workspace;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use pace::Pace;
use screen::Screen;
use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weir_compiler::pipeline::Source;
use weir_runtime::Kernel;

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
        let pace = Arc::new(Pace::default());
        end_on_signals(&pace)?;
        let _tty = tty::Tty::enter(&pace).map_err(|e| Failure::new(format!("cannot use this terminal: {e}")))?;
        line::run(&kernel, args.allow_unsafe, &pace)
    } else {
        let mut repl = Repl::new(kernel, Screen::plain(), args.allow_unsafe);
        repl.pipe(std::io::stdin().lock());
        Ok(repl.leave())
    }
}

/// Puts the terminal back when a signal ends us; everything in the kernel hangs on descriptors and goes by itself.
fn end_on_signals(pace: &Arc<Pace>) -> Result<(), Failure> {
    let failure = |e: nix::Error| Failure::new(format!("cannot handle signals: {e}"));
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGHUP);
    set.add(Signal::SIGQUIT);
    // Every thread that is started from here on inherits it.
    set.thread_block().map_err(failure)?;
    let pace = Arc::clone(pace);
    std::thread::Builder::new()
        .name("weir-signals".to_owned())
        .spawn(move || {
            if set.wait().is_ok() {
                pace.quiet();
                tty::restore();
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
    fn pipe(&mut self, mut input: impl BufRead) {
        let mut text = String::new();
        for number in 1.. {
            let mut line = Vec::new();
            match input.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => {
                    self.refused(&format!("cannot read line {number}: {e}"));
                    break;
                }
            }
            match std::str::from_utf8(&line) {
                Ok(line) => text.push_str(line),
                Err(e) => {
                    let at = e.valid_up_to() + 1;
                    self.refused(&format!(
                        "line {number} is not UTF-8 (byte {at}): it and the entry that it is in are left out"
                    ));
                    text.clear();
                    continue;
                }
            }
            if !is_complete(&text) {
                continue;
            }
            INTERRUPTED.store(false, Ordering::Release);
            self.take(&std::mem::take(&mut text));
            if self.quit {
                return;
            }
        }
        if !text.trim().is_empty() {
            self.take(&text);
        }
    }

    /// Says what is wrong with what was read.
    fn refused(&mut self, message: &str) {
        self.failed = true;
        self.screen.print(&self.renderer.failure(&Failure::new(message)));
    }

    /// Ends all jobs.
    fn leave(&mut self) -> ExitCode {
        self.screen.ending(true);
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
        self.reap();
        let text = text.trim();
        let result = if text.is_empty() || text.starts_with("//") && !text.contains('\n') {
            Ok(())
        } else if let Some(command) = text.strip_prefix(':') {
            let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
            commands::find(name).and_then(|c| (c.run)(self, rest.trim()))
        } else if let Some(maps) = self.native_prints(text) {
            maps.iter().try_for_each(|map| self.print(map))
        } else if is_map_name(text) {
            self.print(text)
        } else {
            self.event_of_another_job(text).and_then(|()| self.entry(text, None, &[]))
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
}

/// The message is out already.
fn told() -> Failure {
    Failure::new("")
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
    fn texts_are_short() {
        assert_eq!(one_line("a\n  b", 10), "a b");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(age(Duration::from_secs(300)), "5 min");
        assert_eq!(bytes(1 << 20), "1024 KiB");
    }
}
