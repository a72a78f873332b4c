//! `weir replay`: packet probes over a capture file.

use crate::args::{Format, Replay, split_rest};
use crate::compile::Job;
use crate::render::{Failure, Message, Renderer};
use crate::{capture, out, run, source};
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use weir_runtime::replay::{self, NoKernel};
use weir_runtime::{Buffering, OutputFormat};

pub fn main(args: &Replay) -> Result<ExitCode, Failure> {
    let (file, script_args) = split_rest(args.program.as_deref(), &args.rest).map_err(Failure::new)?;
    if args.program.is_none() && file.is_none() {
        return Err(Failure::new("no script").help("`weir replay CAPTURE -e 'PROGRAM'`, or `weir replay CAPTURE SCRIPT`"));
    }
    if args.capture == Path::new("-") && args.program.is_none() && file == Some(OsStr::new("-")) {
        return Err(Failure::new("standard input cannot be both capture and script").help("give the script with `-e`, or as a file"));
    }
    let source = source::read(args.program.as_deref(), file)?;
    let renderer = Renderer::for_stderr();
    let job = Job {
        source: &source,
        kernel: &NoKernel,
        args: script_args,
        child: None,
        helper_errors: false,
        portable: false,
        times: false,
        allow_unsafe: args.allow_unsafe,
        warnings: !args.quiet && !args.no_warnings,
    };
    let Some((object, code)) = job.compile_portable(&renderer) else {
        return Ok(ExitCode::FAILURE);
    };
    if let Some(message) = capture::refuse(&object, args.pcap.as_deref()) {
        out::stderr(&renderer.message(std::slice::from_ref(&source), &message));
        return Ok(ExitCode::FAILURE);
    }
    let files = [
        ("--pcap", args.pcap.as_deref()),
        ("--write-dropped", args.write_dropped.as_deref()),
        ("--write-passed", args.write_passed.as_deref()),
    ];
    if let Some(message) = capture::refuse_stdout(&files) {
        out::stderr(&renderer.message(std::slice::from_ref(&source), &message));
        return Ok(ExitCode::FAILURE);
    }
    let (sources, their_renderer) = ([source.clone()], renderer.clone());
    let (quiet, warnings) = (args.quiet, !args.no_warnings);
    let options = replay::Options {
        output: capture::output(args.output.as_deref(), files.into_iter().filter_map(|(_, file)| file)),
        format: match args.format {
            Format::Text => OutputFormat::Text,
            Format::Json => OutputFormat::Json,
        },
        buffering: Buffering::Full,
        quiet,
        capture: args.pcap.as_deref().map(capture::target),
        write_dropped: args.write_dropped.as_deref().map(capture::target),
        write_passed: args.write_passed.as_deref().map(capture::target),
        observer: Arc::new(move |notice| {
            if run::wanted(notice, quiet, warnings) {
                out::stderr(&their_renderer.notice(&sources, notice));
            }
        }),
    };
    let error = match replay::run(object, &code, &args.capture, &options) {
        Ok(replay::Outcome { code, damage: None }) => return Ok(ExitCode::from(code as u8)),
        // What was read before has been printed.
        Ok(replay::Outcome { damage: Some(damage), .. }) => Message {
            code: if damage.truncated { "capture-cut-off" } else { "capture-damaged" },
            text: format!("`{}`: {damage}", args.capture.display()),
            notes: vec!["everything above counts the packets before".to_owned()],
            ..Message::default()
        },
        Err(error) => Message {
            code: error.code(),
            text: error.to_string(),
            span: error.span(),
            help: error.help(),
            ..Message::default()
        },
    };
    out::stderr(&renderer.message(std::slice::from_ref(&source), &error));
    Ok(ExitCode::FAILURE)
}
