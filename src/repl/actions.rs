//! What the commands of the REPL do. Their names, arguments and documentation are in the table in `commands`.

use super::entry::{Entry, is_map_name};
use super::jobs::Job;
use super::{INTERRUPTED, Repl, age, bytes, commands, told, watch};
use crate::render::Failure;
use crate::{args, doc, list, source};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use weir_compiler::hir::settings;
use weir_compiler::object::EventAction;
use weir_compiler::pipeline::{Source, Stage};

impl Repl {
    pub(super) fn help(&mut self, topic: &str) -> Result<(), Failure> {
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

    pub(super) fn jobs(&mut self, _: &str) -> Result<(), Failure> {
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

    pub(super) fn stop(&mut self, which: &str) -> Result<(), Failure> {
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
            self.screen.ending(true);
            let ended = job.wait();
            self.screen.ending(false);
            if ended {
                self.screen.print(&format!("job {number} stopped\n"));
            } else {
                self.screen.print(&format!("job {number} is slow to detach; it goes on doing so\n"));
            }
        }
        Ok(())
    }

    /// The maps of natives in running jobs: `@bl.hits`.
    fn of_natives(&self) -> Vec<String> {
        let maps = self.jobs.iter().filter_map(|j| j.maps.as_ref());
        maps.flat_map(|m| m.of_natives()).collect()
    }

    /// What is to be printed, each as `@MAP TOP`, if the entry is `@NATIVE`, `print(@NATIVE, TOP)` or `print(@NATIVE.MAP, TOP)` and
    /// the native is another job's.
    pub(super) fn native_prints(&self, text: &str) -> Option<Vec<String>> {
        let text = text.trim_end_matches(';').trim_end();
        let inside = text.strip_prefix("print(").and_then(|t| t.strip_suffix(')')).unwrap_or(text);
        let (name, top) = inside.split_once(',').unwrap_or((inside, ""));
        let (name, top) = (name.trim(), top.trim());
        if !is_map_name(name) || !top.chars().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let is_part = |map: &String| map.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let parts: Vec<String> = self.of_natives().into_iter().filter(is_part).collect();
        (!parts.is_empty()).then(|| parts.iter().map(|map| format!("{map} {top}")).collect())
    }

    /// Refuses a block on an event of another job's native.
    pub(super) fn event_of_another_job(&self, text: &str) -> Result<(), Failure> {
        let Some((alias, _)) = text.split_once(':') else { return Ok(()) };
        let job = self.jobs.iter().find(|j| {
            let maps = j.maps.as_ref().map(|m| m.of_natives()).unwrap_or_default();
            maps.iter().any(|map| {
                map.strip_prefix('@')
                    .and_then(|m| m.split_once('.'))
                    .is_some_and(|(a, _)| a == alias)
            })
        });
        match job {
            None => Ok(()),
            Some(job) => Err(Failure::new(format!("`{alias}` runs already, in job {}", job.number)).help(format!(
                "blocks on its events stand in one entry with it: `:stop {}`, then `use … as {alias}; {text}`",
                job.number
            ))),
        }
    }

    /// A name as typed, checked against the maps that there are.
    pub(super) fn map_name(&self, text: &str) -> Result<String, Failure> {
        let name = if text.starts_with('@') {
            text.to_owned()
        } else {
            format!("@{text}")
        };
        let natives = self.of_natives();
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
    pub(super) fn map_and_top(&self, text: &str) -> Result<(String, u32), Failure> {
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

    pub(super) fn print(&mut self, text: &str) -> Result<(), Failure> {
        let (name, top) = self.map_and_top(text)?;
        if let Some(result) = self.workspace.print(&name, top, &self.screen) {
            return result.map_err(|e| Failure::new(e.to_string()));
        }
        let snapshot = self.native_snapshot(&name)?;
        self.screen.print(&self.workspace.text(&snapshot, top));
        Ok(())
    }

    pub(super) fn native_snapshot(&self, name: &str) -> Result<weir_runtime::maps::Snapshot, Failure> {
        for handle in self.jobs.iter().filter_map(|j| j.maps.as_ref()) {
            if let Some(snapshot) = handle.snapshot(name).map_err(|e| Failure::new(e.to_string()))? {
                return Ok(snapshot);
            }
        }
        Err(Failure::new(format!("`{name}` has gone with its job")))
    }

    pub(super) fn every(&mut self, text: &str) -> Result<(), Failure> {
        let how = || Failure::new("how often, and which map?").help("`:every 5s @m`, `:every 1s @m 10`");
        let (period, rest) = text.split_once(char::is_whitespace).ok_or_else(how)?;
        let time = args::duration(period).map_err(|e| Failure::new(format!("`{period}` is no time: {e}")))?;
        let (name, top) = self.map_and_top(rest)?;
        if !self.workspace.has(&name) {
            return Err(Failure::new(format!("`{name}` belongs to a native")).help("write an `interval` block beside its `use`"));
        }
        let (workspace, screen, number) = (self.workspace.clone(), self.screen.of_a_job(), self.entries + 1);
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

    pub(super) fn watch(&mut self, text: &str) -> Result<(), Failure> {
        let (name, _) = self.map_and_top(text)?;
        if !self.interactive {
            return Err(Failure::new("`:watch` needs a terminal").help("`:every 1s @m` works in a pipe"));
        }
        self.screen.hold();
        let result = watch::watch(&name, &self.workspace, self.screen.pace(), || {
            match self.workspace.snapshot(&name) {
                Some(snapshot) => snapshot.map_err(|e| e.to_string()),
                None => self.native_snapshot(&name).map_err(|e| e.message),
            }
        });
        self.screen.release();
        result.map_err(Failure::new)
    }

    pub(super) fn clear(&mut self, text: &str) -> Result<(), Failure> {
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

    pub(super) fn maps(&mut self, _: &str) -> Result<(), Failure> {
        let fills = self.workspace.fills();
        let natives = self.of_natives();
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

    pub(super) fn list(&mut self, pattern: &str) -> Result<(), Failure> {
        if pattern.is_empty() {
            return Err(Failure::new("list what?").help("`:list 'tracepoint:tcp:*'`"));
        }
        let words = ["weir", "-l", pattern.trim_matches('\'')].map(Into::into);
        match args::parse(words.into_iter()) {
            Ok(args::Command::Run(run)) => list::main(&run, &self.kernel).map(drop),
            _ => Err(Failure::new(format!("`{pattern}` is no pattern"))),
        }
    }

    pub(super) fn type_of(&mut self, text: &str) -> Result<(), Failure> {
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

    pub(super) fn dump(&mut self, stage: &str) -> Result<(), Failure> {
        let stages: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).collect();
        let stage = Stage::ALL.into_iter().find(|s| s.name() == stage);
        let stage = stage.ok_or_else(|| Failure::new("which stage?").help(format!("there are {}", stages.join(", "))))?;
        let source = self.last.clone().ok_or_else(|| Failure::new("there is no entry yet"))?;
        let entry = Entry {
            earlier: 0,
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

    pub(super) fn save(&mut self, path: &str) -> Result<(), Failure> {
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

    pub(super) fn load(&mut self, text: &str) -> Result<(), Failure> {
        let mut words = text.split_whitespace();
        let Some(path) = words.next() else {
            return Err(Failure::new("which file?").help("`:load script.weir eth1`"));
        };
        let script_args: Vec<String> = words.filter(|w| *w != "--").map(str::to_owned).collect();
        let source = source::read(None, Some(path.as_ref()))?;
        // By its name, so that messages and imports are relative to the file.
        self.entry(&source.text, Some(&source.name), &script_args)
    }

    pub(super) fn net(&mut self, text: &str) -> Result<(), Failure> {
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

    pub(super) fn doc(&mut self, name: &str) -> Result<(), Failure> {
        let text = if name.is_empty() {
            doc::index()
        } else {
            doc::entry(name).ok_or_else(|| doc::unknown(name))?
        };
        self.screen.print(&text);
        Ok(())
    }

    pub(super) fn set(&mut self, text: &str) -> Result<(), Failure> {
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
            (name, value) => {
                // The checker knows the names and what they take.
                let before = "config = { ";
                let typed = if value.is_empty() {
                    return Err(Failure::new(format!("`{name}` needs a value")).help(settings_help(name)));
                } else {
                    format!("{name} = {}", literal(value))
                };
                let entry = Entry {
                    earlier: 0,
                    before: before.len() as u32,
                    source: Source {
                        name: ":set".to_owned(),
                        text: format!("{before}{typed} }} begin {{ }}"),
                    },
                    typed,
                    once: false,
                };
                if self.compile(&entry, &[], true, &[])?.0.is_none() {
                    return Err(told());
                }
                self.config.retain(|(n, _)| n != name);
                self.config.push((name.to_owned(), value.trim_matches('"').to_owned()));
            }
        }
        Ok(())
    }

    pub(super) fn wait(&mut self, text: &str) -> Result<(), Failure> {
        let time = args::duration(text).map_err(|e| Failure::new(format!("`{text}` is no time: {e}")).help("`:wait 2s`"))?;
        let end = Instant::now() + time;
        while Instant::now() < end && !INTERRUPTED.load(Ordering::Acquire) {
            std::thread::sleep((end - Instant::now()).min(Duration::from_millis(20)));
            self.reap();
        }
        Ok(())
    }

    pub(super) fn quit(&mut self, _: &str) -> Result<(), Failure> {
        self.quit = true;
        Ok(())
    }
}

/// A value of a setting as a script writes it: words that are neither numbers nor names are texts.
fn literal(value: &str) -> String {
    let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain || value.starts_with('"') {
        value.to_owned()
    } else {
        format!("\"{}\"", value.escape_default())
    }
}

fn settings_help(name: &str) -> String {
    let known: Vec<&str> = settings().collect();
    if known.contains(&name) {
        format!("`:set {name} VALUE`; `:set` alone shows what is set")
    } else {
        format!("there are unsafe, {}", known.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_a_script_writes_them() {
        assert_eq!(literal("200"), "200");
        assert_eq!(literal("perf"), "perf");
        assert_eq!(literal(".."), "\"..\"");
        assert_eq!(literal("\"..\""), "\"..\"");
        assert!(settings_help("max_strlen").contains(":set max_strlen VALUE"));
        assert!(settings_help("x").contains("max_map_keys"));
    }
}
