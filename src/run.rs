//! `weir FILE` and `weir -e PROG`: read, compile, load, run, report.

use crate::args::{Buffering, Format, Run, split_rest};
use crate::caps::Needs;
use crate::child::{self, Child};
use crate::compile::Job;
use crate::metrics::{Counters, Listening, Scrape, Server};
use crate::render::{Failure, Kind, Message, Renderer};
use crate::{build, capture, info, list, out, report, runbook, source};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use weir_compiler::kernel::{Feature, KernelInfo, Support};
use weir_compiler::object::{Object, ProgramKind};
use weir_compiler::pipeline::{Source, Stage};
use weir_parser::LineIndex;
use weir_runtime::attach::interfaces::{Order, Settings};
use weir_runtime::printer::Places;
use weir_runtime::sink::Place;
use weir_runtime::{Error, Kernel, Notice, Options, OutputFormat, Session, load, native};

pub fn main(args: &Run) -> Result<ExitCode, Failure> {
    let kernel = Kernel::new();
    if args.info {
        return info::main(&kernel);
    }
    if args.list {
        return list::main(args, &kernel);
    }
    if args.test || args.bench {
        let failure = Failure::new("weir runs no `test:` and `bench:` blocks");
        return Err(failure.help("without the switch they are left out, and the rest of the script runs"));
    }
    if args.fmt {
        return Err(Failure::new("`--fmt` is bpftrace's")
            .help("`weir fmt FILE` formats a script in place, `weir fmt --check FILE` only says whether it is"));
    }
    let (file, script_args) = split_rest(args.program.as_deref(), &args.rest).map_err(Failure::new)?;
    let source = source::read(args.program.as_deref(), file)?;
    let script_args = if args.saved {
        match runbook::arguments(&source, &weir_compiler::pipeline::parameters(&source, &kernel), script_args)? {
            runbook::Call::Run(script_args) => script_args,
            runbook::Call::Help(text) => {
                out::stdout(&text)?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    } else {
        script_args
    };
    // Before anything starts a thread.
    let bound = Bound::of(args)?;
    let code = script(args, &kernel, &source, script_args, &bound);
    if let Some(child) = bound.child {
        let (pid, how) = (child.pid(), child.end());
        if args.verbose {
            out::stderr(&format!("process {pid} {how}\n"));
        }
    }
    code
}

/// What bounds a run: the command of `-c`, the process of `-p`.
struct Bound {
    child: Option<Child>,
    /// The handle on either.
    process: Option<Arc<OwnedFd>>,
}

impl Bound {
    fn of(args: &Run) -> Result<Self, Failure> {
        let child = args.command.as_deref().map(Child::start).transpose()?;
        let pid = child.as_ref().map(Child::pid).or(args.pid);
        let process = pid.map(child::watch).transpose()?.map(Arc::new);
        Ok(Self { child, process })
    }
}

fn script(args: &Run, kernel: &Kernel, source: &Source, script_args: Vec<String>, bound: &Bound) -> Result<ExitCode, Failure> {
    let renderer = Renderer::for_stderr();
    let job = Job {
        source,
        kernel,
        args: script_args,
        allow_unsafe: args.allow_unsafe,
        helper_errors: args.warnings,
        portable: args.emit_elf.is_some(),
        child: bound.child.as_ref().map(Child::pid),
        warnings: !args.quiet && !args.no_warnings,
        times: args.verbose,
        judged_only: false,
    };

    if job.wants_help()
        && let Some(code) = job.help(&renderer)?
    {
        return Ok(code);
    }
    if let Some(stages) = &args.debug {
        let (object, dumps) = job.compile(&renderer, true, &stages.0);
        out::stdout(&dump_text(&dumps))?;
        return Ok(if object.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let (Some(object), _) = job.compile(&renderer, true, &[]) else {
        return Ok(ExitCode::FAILURE);
    };
    if let Some(path) = &args.emit_elf {
        build::write(&object, path, &renderer, args.quiet || args.no_warnings)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(message) = capture::refuse(&object, args.pcap.as_deref()) {
        out::stderr(&renderer.message(std::slice::from_ref(source), &message));
        return Ok(ExitCode::FAILURE);
    }
    if args.verbose {
        describe(&object);
    }
    let needs = Needs::of(&object);
    // A port that is taken is told before anything is attached.
    let metrics = args.prometheus.map(Listening::at).transpose()?;
    let counters = Counters::default();
    check_order(args, &object, kernel)?;
    // The maps of imported scripts are served, too.
    let texts = std::iter::once(&source.text).chain(object.imports.iter().map(|(_, text)| text));
    let texts: Vec<String> = if metrics.is_some() { texts.cloned().collect() } else { Vec::new() };
    match start_or_retry(args, &job, &renderer, object, bound, &counters) {
        Ok(Some(session)) => {
            let server = metrics
                .map(|listening| serve(listening, args, source, &texts, &renderer, &session, counters))
                .transpose()?;
            let outcome = session.run();
            drop(server);
            match outcome {
                // As the shell sees it: the low eight bits.
                Ok(outcome) => Ok(ExitCode::from(outcome.code as u8)),
                Err(error) => Ok(tell(&renderer, source, &error, &needs)),
            }
        }
        Ok(None) => Ok(ExitCode::SUCCESS),
        Err(Refusal::Told) => Ok(ExitCode::FAILURE),
        Err(Refusal::Error(error)) => Ok(tell(&renderer, source, &error, &needs)),
    }
}

/// Starts to serve the maps of a session.
fn serve(
    listening: Listening,
    args: &Run,
    source: &Source,
    texts: &[String],
    renderer: &Renderer,
    session: &Session,
    counters: Counters,
) -> Result<Server, Failure> {
    let warning = |renderer: &Renderer, text: String, help: &str| {
        renderer.message(
            &[],
            &Message {
                kind: Kind::Warning,
                text,
                help: vec![help.to_owned()],
                ..Message::default()
            },
        )
    };
    let (limit, silent, theirs) = (args.prometheus_limit, args.no_warnings, renderer.clone());
    let warn = move |map: &str, keys: usize| {
        if !silent {
            let text =
                format!("`{map}` has {keys} keys, more than the {limit} series that are served for Prometheus: the smallest are left out");
            out::stderr(&warning(&theirs, text, "aggregate by fewer keys, or raise `--prometheus-limit`"));
        }
    };
    if !args.quiet {
        out::stderr(&format!("Serving metrics at http://{}/metrics\n", listening.address()));
    }
    listening.serve(Scrape {
        context: Mutex::new(session.maps().context().map_err(anyhow::Error::from)?),
        maps: session.maps(),
        mentions: Scrape::mentions_of(texts.iter().map(String::as_str)),
        name: source.name.clone(),
        counters,
        limit,
        warn: Box::new(warn),
        warned: Mutex::default(),
    })
}

/// Refuses an order that nothing would follow.
fn check_order(args: &Run, object: &Object, kernel: &Kernel) -> Result<(), Failure> {
    let switch = match (&args.before, &args.after, args.priority) {
        (Some(_), _, _) => "--before",
        (_, Some(_), _) => "--after",
        (_, _, Some(_)) => "--priority",
        _ => return Ok(()),
    };
    let refuse = |message: String, help: &str| {
        Err(Failure {
            message,
            help: Some(help.to_owned()),
        })
    };
    if !object.programs.iter().any(|p| p.kind == ProgramKind::SchedCls) {
        return refuse(format!("`{switch}` orders `tc` programs, and the script has none"), "leave it out");
    }
    match (switch, kernel.feature(Feature::Tcx)) {
        ("--priority", Support::Yes) => refuse(
            "`--priority` is for the clsact filters of kernels without tcx, and this kernel has tcx".to_owned(),
            "name a program that is there: `--before ID|NAME` or `--after ID|NAME`; tcx programs run in front of all clsact filters",
        ),
        ("--before" | "--after", Support::No(reason)) => refuse(
            format!("`{switch}` needs tcx, which this kernel has not: {reason}"),
            "give the filter a priority: `--priority N`; lower numbers run first (`tc filter show dev IFACE ingress`)",
        ),
        _ => Ok(()),
    }
}

enum Refusal {
    /// The message is out.
    Told,
    Error(Box<Error>),
}

/// Starts the script; once more without the optimiser when the kernel rejects a program. `None`: a dry run that went well.
fn start_or_retry(
    args: &Run,
    job: &Job<'_>,
    renderer: &Renderer,
    object: Object,
    bound: &Bound,
    counters: &Counters,
) -> Result<Option<Session>, Refusal> {
    let first = match start(args, job, renderer, object, bound, counters) {
        Err(error @ Error::Rejected { .. }) => error,
        other => return other.map_err(|e| Refusal::Error(Box::new(e))),
    };
    let Error::Rejected { log: first_log, span, .. } = &first else {
        return Err(Refusal::Told);
    };
    if report::too_long(first_log) {
        out::stderr(&report::loop_too_long(renderer, job.source, *span));
        return Err(Refusal::Told);
    }
    if let Some(helper) = report::missing_helper(first_log) {
        out::stderr(&report::no_helper(renderer, job.source, helper, *span));
        return Err(Refusal::Told);
    }
    // The author has seen the messages of the first compilation.
    let again = Job {
        warnings: false,
        times: false,
        judged_only: false,
        args: job.args.clone(),
        ..*job
    };
    let (Some(object), _) = again.compile(renderer, false, &[]) else {
        return Err(Refusal::Told);
    };
    match start(args, job, renderer, object.clone(), bound, counters) {
        Err(error) => match &error {
            Error::Rejected { log, .. } => {
                out::stderr(&report::rejected(renderer, job.source, &object, &error, &[first_log, log]));
                Err(Refusal::Told)
            }
            _ => Err(Refusal::Error(Box::new(error))),
        },
        Ok(session) => {
            if args.verbose {
                let text = format!("{first}; the unoptimised one is taken instead");
                out::stderr(&renderer.message(
                    &[],
                    &Message {
                        kind: Kind::Note,
                        text,
                        ..Message::default()
                    },
                ));
            }
            Ok(session)
        }
    }
}

fn start(
    args: &Run,
    job: &Job<'_>,
    renderer: &Renderer,
    object: Object,
    bound: &Bound,
    counters: &Counters,
) -> Result<Option<Session>, Error> {
    if args.dry_run {
        let natives = native::load_all(&object, job.kernel)?;
        load::load(&object, &|instance, symbol| natives.get(instance).and_then(|n| n.map_fd(symbol)))?;
        return Ok(None);
    }
    let imports = object.imports.iter().map(|(name, text)| Source {
        name: name.clone(),
        text: text.clone(),
    });
    let sources: Vec<Source> = std::iter::once(job.source.clone()).chain(imports).collect();
    let renderer = renderer.clone();
    let (quiet, warnings) = (args.quiet, !args.no_warnings);
    let counters = counters.clone();
    let options = Options {
        output: capture::output(args.output.as_deref(), args.pcap.as_deref()),
        capture: args.pcap.as_deref().map(capture::target),
        format: match args.format {
            Format::Text => OutputFormat::Text,
            Format::Json => OutputFormat::Json,
        },
        buffering: match args.buffering {
            None => weir_runtime::Buffering::Auto,
            Some(Buffering::Line) => weir_runtime::Buffering::Line,
            Some(Buffering::Full) => weir_runtime::Buffering::Full,
            Some(Buffering::None) => weir_runtime::Buffering::None,
        },
        quiet,
        timeout: args.timeout,
        pid: args.pid,
        until_exit: bound.process.clone(),
        on_attached: bound
            .child
            .as_ref()
            .map(|child| Arc::new(child.release()) as Arc<dyn Fn() + Send + Sync>),
        places: Some(places(job.source)),
        attach: Settings {
            order: match (&args.before, &args.after) {
                (Some(program), _) => Some(Order {
                    before: true,
                    program: program.clone(),
                }),
                (None, Some(program)) => Some(Order {
                    before: false,
                    program: program.clone(),
                }),
                (None, None) => None,
            },
            priority: args.priority,
            force: args.force,
            verbose: args.verbose,
        },
        observer: Arc::new(move |notice| {
            counters.hear(notice);
            if wanted(notice, quiet, warnings) {
                out::stderr(&renderer.notice(&sources, notice));
            }
        }),
        ..Options::default()
    };
    Session::start(object, job.kernel, options).map(Some)
}

/// Finds lines and columns for structured output.
fn places(source: &Source) -> Places {
    let (file, text) = (source.name.clone(), source.text.clone());
    Arc::new(move |span| {
        let (line, column) = LineIndex::new(&text).line_col(span.start);
        Some(Place {
            file: file.clone(),
            line,
            column,
        })
    })
}

/// `-q` is for what is only good to know; a loss of data is not, and is silenced by `--no-warnings` alone.
pub fn wanted(notice: &Notice, quiet: bool, warnings: bool) -> bool {
    match notice {
        Notice::LostEvents { .. }
        | Notice::LostEventsTotal { .. }
        | Notice::LostCaptures { .. }
        | Notice::MapFull { .. }
        | Notice::ScratchExhausted { .. } => warnings,
        _ if notice.is_warning() => warnings && !quiet,
        _ => !quiet,
    }
}

/// Shows an error of the run.
fn tell(renderer: &Renderer, source: &Source, error: &Error, needs: &Needs) -> ExitCode {
    let errno = match error {
        Error::Sys(e) | Error::Attach { source: e, .. } => e.errno(),
        _ => 0,
    };
    let help = if matches!(errno, libc::EPERM | libc::EACCES) {
        vec![needs.help()]
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
    out::stderr(&renderer.message(std::slice::from_ref(source), &message));
    ExitCode::FAILURE
}

/// The text forms asked for, under headings when there are several.
fn dump_text(dumps: &[(Stage, String)]) -> String {
    let mut text = String::new();
    for (stage, dump) in dumps {
        if dumps.len() > 1 {
            text.push_str(&format!("=== {} ===\n", stage.name()));
        }
        text.push_str(dump);
        if !dump.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

/// `-v`: what was made of the script.
fn describe(object: &Object) {
    let mut text = String::new();
    for program in &object.programs {
        let noun = if program.attach.len() == 1 {
            "attach point"
        } else {
            "attach points"
        };
        text.push_str(&format!(
            "program {} ({}): {} {noun}, {} instructions\n",
            program.name,
            program.section,
            program.attach.len(),
            program.instructions
        ));
    }
    text.push_str(&format!("{} maps, {} bytes of object\n", object.maps.len(), object.elf.len()));
    out::stderr(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_not_good_to_know_only() {
        let lost = Notice::LostEventsTotal { count: 1 };
        let attached = Notice::Attached { probes: 1 };
        assert!(wanted(&lost, true, true) && !wanted(&lost, false, false));
        assert!(wanted(&attached, false, false) && !wanted(&attached, true, true));
    }

    #[test]
    fn several_stages_have_headings() {
        assert_eq!(dump_text(&[(Stage::Ast, "a".into())]), "a\n");
        let two = dump_text(&[(Stage::Ast, "a\n".into()), (Stage::Hir, "b".into())]);
        assert_eq!(two, "=== ast ===\na\n=== hir ===\nb\n");
    }
}
