//! The `weir` command: arguments in, exit code out. One file per concern; everything that compiles or touches the
//! kernel is in the crates below.

mod args;
mod build;
mod caps;
mod capture;
mod check;
mod child;
mod clean;
mod compile;
mod demo;
mod doc;
mod fmt;
mod info;
mod inspect;
mod list;
mod manual;
mod metrics;
mod out;
mod pins;
mod render;
mod repl;
mod replay;
mod report;
mod run;
mod runbook;
mod source;

use args::Command;
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    // The helper process that cleans up after a killed weir: before anything else is done.
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(weir_runtime::REAPER_ARG)) {
        return if weir_runtime::reaper_main() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    raise_file_limit();
    outlive_full_files();
    let command = match args::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            // Help and version go to standard output and are no failure. A closed pipe is nobody's problem, a full disk is.
            let told = error.print().and_then(|()| std::io::stdout().flush());
            return match told {
                _ if error.use_stderr() => ExitCode::FAILURE,
                Err(e) if e.kind() != ErrorKind::BrokenPipe => {
                    out::stderr(&format!("error: cannot write to standard output: {e}\n"));
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            };
        }
    };
    let result = match command {
        Command::Run(args) => run::main(&args),
        Command::Build(args) => build::main(&args),
        Command::Doc(args) => doc::main(&args),
        Command::Clean(args) => clean::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Repl(args) => repl::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Fmt(args) => fmt::main(&args),
        Command::Completions(args) => check::completions(&args),
        Command::Net(args) => inspect::net(&args),
        Command::NetRm(args) => inspect::rm(&args),
        Command::Maps(args) => inspect::maps(&args),
        Command::Progs(args) => inspect::progs(&args),
        Command::Replay(args) => replay::main(&args),
        Command::Status(args) => pins::status(&args),
        Command::Stop(args) => pins::stop(&args),
        Command::Reload(args) => pins::reload(&args),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            out::stderr(&render::Renderer::for_stderr().failure(&failure));
            ExitCode::FAILURE
        }
    }
}

/// A file that may not grow any more (`ulimit -f`) is one that cannot be written, as on a full disk: what drops packets goes on.
fn outlive_full_files() {
    // SAFETY: no handler is set.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn) };
}

/// Every probe takes a descriptor; the limit that a shell sets is often a thousand, and ours to raise.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Not being allowed to is no reason to stop: most scripts need a few.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
