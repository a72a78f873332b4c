//! `weir check`: is a script right, here or on another kernel? Nothing is loaded. Also `weir completions`.

use crate::args::{Check, Completions, whole};
use crate::compile::Job;
use crate::render::{Failure, Renderer};
use crate::{out, report, source};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use weir_compiler::pipeline::Source;

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
    fn unreadable(file: String, failure: Failure) -> Self {
        let problem = Problem {
            severity: "error",
            code: "cannot-read".to_owned(),
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
        None => Kernel::new(),
    };
    let script_args = args.args.iter().map(|a| {
        let text = a.to_str().map(str::to_owned);
        text.ok_or_else(|| Failure::new(format!("the argument `{}` is not UTF-8", a.display())))
    });
    let script_args: Vec<String> = script_args.collect::<Result<_, _>>()?;
    let renderer = Renderer::for_stderr();
    let mut all = Vec::new();
    for file in &args.files {
        let source = match source::read(None, Some(file)) {
            Ok(source) => source,
            Err(failure) if args.json => {
                all.push(Checked::unreadable(file.display().to_string(), failure));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let job = Job {
            source: &source,
            kernel: &kernel,
            args: script_args.clone(),
            // Checking runs nothing.
            allow_unsafe: true,
            helper_errors: false,
            portable: false,
            child: None,
            warnings: !args.quiet,
            times: false,
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
    clap_complete::generate(args.shell, &mut whole(), "weir", &mut script);
    out::stdout(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
