//! `weir check`: is a script right, here or on another kernel? Nothing is loaded, and parameters that are not given stand for values
//! that fit. Also `weir completions`.

use crate::args::{Check, Completions, whole};
use crate::compile::Job;
use crate::render::{Failure, Renderer};
use crate::{out, report, runbook, source};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use weir_compiler::pipeline::{self, Source};

use weir_parser::{Diagnostic, LineIndex, Severity};
use weir_runtime::Kernel;

/// One script's result in JSON.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    ok: bool,
    problems: Vec<Problem>,
}

impl Checked {
    /// Who reads JSON is told in JSON.
    fn refused(file: String, code: &str, failure: Failure) -> Self {
        let problem = Problem {
            severity: "error",
            code: code.to_owned(),
            message: failure.message,
            file: file.clone(),
            line: 1,
            column: 1,
            end_line: 1,
            end_column: 1,
            help: failure.help.into_iter().collect(),
        };
        Self {
            file,
            ok: false,
            problems: vec![problem],
        }
    }
}

/// One message in JSON. Lines and columns count from 1, columns in characters.
#[derive(Debug, Serialize)]
struct Problem {
    severity: &'static str,
    code: String,
    message: String,
    /// The script, or a file that it imports.
    file: String,
    line: u32,
    column: u32,
    end_line: u32,
    end_column: u32,
    help: Vec<String>,
}

impl Problem {
    fn of(diagnostic: &Diagnostic, sources: &[(&Source, LineIndex<'_>)]) -> Self {
        let source = sources.get(diagnostic.span.source.0 as usize).or_else(|| sources.first());
        let nothing = LineIndex::new("");
        let lines = source.map_or(&nothing, |(_, lines)| lines);
        let (line, column) = lines.line_col(diagnostic.span.start);
        let (end_line, end_column) = lines.line_col(diagnostic.span.end);
        Self {
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Lint => "lint",
            },
            code: diagnostic.code.to_owned(),
            message: diagnostic.message.clone(),
            file: source.map(|(s, _)| s.name.clone()).unwrap_or_default(),
            line,
            column,
            end_line,
            end_column,
            help: diagnostic.help.clone(),
        }
    }
}

pub fn main(args: &Check) -> Result<ExitCode, Failure> {
    let kernel = match &args.btf {
        Some(file) => other_kernel(file)?,
        None => Kernel::for_judging(),
    };
    let script_args = args.args.iter().map(|a| {
        let text = a.to_str().map(str::to_owned);
        text.ok_or_else(|| Failure::new(format!("the argument `{}` is not UTF-8", a.display())))
    });
    let script_args: Vec<String> = script_args.collect::<Result<_, _>>()?;
    let renderer = Renderer::for_stderr();
    let mut all = Vec::new();
    // The others are judged all the same.
    let refuse = |all: &mut Vec<Checked>, file: String, code: &str, failure: Failure| {
        if !args.json {
            out::stderr(&renderer.failure(&failure));
        }
        all.push(Checked::refused(file, code, failure));
    };
    for file in &args.files {
        let source = match source::read(None, Some(file)) {
            Ok(source) => source,
            Err(failure) => {
                refuse(&mut all, file.display().to_string(), "cannot-read", failure);
                continue;
            }
        };
        let params = pipeline::parameters(&source, &kernel);
        let given = match runbook::some_arguments(&source, &params, script_args.clone()) {
            Ok(runbook::Call::Run(given)) => given,
            Ok(runbook::Call::Help(_)) if args.json => {
                let failure = Failure::new("`--help` is for people").help(format!("`weir run {} --help`", source.name));
                refuse(&mut all, source.name.clone(), "bad-argument", failure);
                continue;
            }
            Ok(runbook::Call::Help(text)) => {
                out::stdout(&text)?;
                continue;
            }
            Err(failure) => {
                refuse(&mut all, source.name.clone(), "bad-argument", failure);
                continue;
            }
        };
        let job = Job {
            source: &source,
            kernel: &kernel,
            args: given,
            // Checking runs nothing.
            allow_unsafe: true,
            helper_errors: false,
            portable: false,
            child: None,
            warnings: !args.quiet,
            times: false,
            judged_only: true,
        };
        all.push(check(&job, &source, args.json, &renderer));
    }
    let ok = all.iter().all(|c| c.ok);
    if args.json {
        let text = serde_json::to_string_pretty(&all).map_err(|e| Failure::new(format!("internal error: cannot write JSON: {e}")))?;
        out::stdout(&(text + "\n"))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(job: &Job<'_>, source: &Source, as_json: bool, renderer: &Renderer) -> Checked {
    if !as_json {
        let (object, _) = job.compile(renderer, true, &[]);
        return Checked {
            file: source.name.clone(),
            ok: object.is_some(),
            problems: Vec::new(),
        };
    }
    let output = job.output(true, &[]);
    let sources = std::iter::once(source).chain(&output.imports);
    let sources: Vec<_> = sources.map(|s| (s, LineIndex::new(&s.text))).collect();
    let shown = output.diagnostics.iter().filter(|d| d.is_error() || job.warnings);
    let problems = shown.map(|d| Problem::of(d, &sources)).collect();
    if let Some((stage, message)) = &output.internal {
        out::stderr(&report::internal(renderer, source, stage, message));
    }
    Checked {
        file: source.name.clone(),
        ok: output.object.is_some() && output.internal.is_none(),
        problems,
    }
}

fn other_kernel(file: &Path) -> Result<Kernel, Failure> {
    let name = file.display();
    let bytes = std::fs::read(file).map_err(|e| Failure::new(format!("cannot read `{name}`: {e}")))?;
    let is_elf = bytes.starts_with(b"\x7fELF");
    Kernel::of_btf(bytes).map_err(|e| {
        let failure = Failure::new(format!("`{name}` is not the BTF of a kernel: {e}"));
        if is_elf {
            failure.help(format!(
                "take the section out: `objcopy -O binary --only-section=.BTF {name} vmlinux.btf`"
            ))
        } else {
            failure.help("copy /sys/kernel/btf/vmlinux of the other machine")
        }
    })
}

pub fn completions(args: &Completions) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    let zsh = args.shell == clap_complete::Shell::Zsh;
    let mut command = if zsh { words_are_commands(&whole()) } else { whole() };
    clap_complete::generate(args.shell, &mut command, "weir", &mut script);
    let mut text = String::from_utf8_lossy(&script).into_owned();
    if zsh {
        // The first word may be a script, too.
        let commands = "_describe -t commands 'weir commands' commands \"$@\"\n";
        text = text.replace(commands, &format!("{commands}    _files\n"));
    }
    if args.shell == clap_complete::Shell::Fish {
        // Of a switch without its value it makes an error, and offers nothing then.
        let parsed = "argparse -s (__fish_weir_global_optspecs) -- $cmd 2>/dev/null\n";
        let but_last = parsed.replace("$cmd", "$cmd[1..-2]");
        text = text.replace(parsed, &format!("{parsed}    or {but_last}"));
        for inner in command.get_subcommands() {
            let name = inner.get_name();
            words_of_places(inner, &format!("__fish_weir_using_subcommand {name}"), &mut text);
            for inner in inner.get_subcommands() {
                let words = format!(
                    "__fish_weir_using_subcommand {name}; and __fish_seen_subcommand_from {}",
                    inner.get_name()
                );
                words_of_places(inner, &words, &mut text);
            }
        }
    }
    out::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What a command takes without a switch, where that is one of some words, for fish: `clap_complete` leaves it out.
fn words_of_places(command: &clap::Command, condition: &str, script: &mut String) {
    for arg in command.get_positionals() {
        let words = arg.get_possible_values();
        let words: Vec<&str> = words.iter().map(clap::builder::PossibleValue::get_name).collect();
        if !words.is_empty() {
            let words = words.join(" ");
            script.push_str(&format!("complete -c weir -n \"{condition}\" -f -a \"{words}\"\n"));
        }
    }
}

/// The commands without what else could stand in their place: `clap_complete` makes zsh take the first word for a script's name, and
/// expects commands behind it.
fn words_are_commands(command: &clap::Command) -> clap::Command {
    if !command.has_subcommands() {
        return command.clone();
    }
    let switches = command.get_arguments().filter(|arg| !arg.is_positional());
    // clap wants names that live for ever.
    let name: &'static str = command.get_name().to_owned().leak();
    clap::Command::new(name)
        .about(command.get_about().cloned().unwrap_or_default())
        .args(switches.cloned())
        .subcommands(command.get_subcommands().map(words_are_commands))
}
