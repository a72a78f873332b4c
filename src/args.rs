//! The command line, as clap sees it. bpftrace's switches mean here what they mean there.
//!
//! A subcommand is one only as the first word; anything else is a script, so that `weir script.bt build` is a script with
//! the argument `build`.

use crate::inspect::args::{Maps, Net, NetRm, Progs};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;
use weir_compiler::pipeline::Stage;
use weir_runtime::attach::interfaces::ProgramName;

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    Run(Box<Run>),
    Build(Build),
    Doc(Doc),
    Clean(Clean),
    Demo(Demo),
    Repl(Repl),
    Check(Check),
    Fmt(Fmt),
    Completions(Completions),
    Net(Net),
    NetRm(NetRm),
    Maps(Maps),
    Progs(Progs),
    Replay(Box<Replay>),
    Status(PinStatus),
    Stop(PinStop),
    Reload(PinReload),
}

const AFTER_HELP: &str = "\
Commands (as the first word):
  weir run SCRIPT [-- ARGS]    runs a saved script; `weir run SCRIPT --help` says what it takes
  weir fmt FILE...             formats scripts in place; --check only says which are not
  weir build FILE -o x.bpf.o   compile to a BPF object that bpftool and libbpf load, too
  weir check FILE...           parses, types and compiles scripts; runs nothing, needs no root
  weir replay CAPTURE SCRIPT   runs packet probes over a capture file, without root and without a kernel
  weir doc [NAME]              what a word means: native, probe, statement, function, field, setting
  weir demo                    shows weir on traffic that it makes in network namespaces of its own
  weir repl                    probes typed one after the other, with maps that live on between them
  weir net [IFACE]             all BPF on the network, whosever it is, and what looks wrong
  weir net rm ...              removes one program of it, after showing it
  weir maps, weir progs        all BPF maps and programs, or what is in one
  weir completions SHELL       completion for bash, zsh, fish, ...
  weir status [NAME]           natives that stay in force without weir (parameter `pin`)
  weir stop NAME               ends one of them; `weir reload NAME` reads its files again
  weir clean                   removes TC filters that a killed weir left on an old kernel

Examples:
  weir -e 'tracepoint:syscalls:sys_enter_openat { @[comm] = count(); }'
  weir -e 'xdp:veth0 /tcp.dport == 22/ { @[ip.src] = count(); drop(); }'
  weir -l 'tracepoint:tcp:*'";

/// Runs a bpftrace or weir script.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version = concat!("v", env!("CARGO_PKG_VERSION")),
    arg_required_else_help = true,
    override_usage = "weir [OPTIONS] FILE [ARGS]\n       weir [OPTIONS] -e PROG [ARGS]\n       weir -l [PATTERN]",
    after_help = AFTER_HELP
)]
pub struct Run {
    /// Run this text instead of a file
    #[arg(short = 'e', value_name = "PROG")]
    pub program: Option<String>,
    /// The script (`-` for standard input), then its arguments: `$1`, `$2`, …
    #[arg(value_name = "FILE | ARGS", hide = true)]
    pub rest: Vec<OsString>,
    /// List probes; `-lv` with their arguments
    #[arg(short = 'l', long = "list")]
    pub list: bool,
    /// Print stages of the compiler and stop: tokens, ast, hir, plan, clif, opt, lir, bpf, elf, all
    #[arg(short = 'd', long = "debug", value_name = "STAGE[,STAGE]", value_parser = stages)]
    pub debug: Option<Stages>,
    /// Output format
    #[arg(short = 'f', long = "format", value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// Write output to a file
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// When output is handed on [default: when nothing more is waiting]
    #[arg(short = 'B', value_name = "MODE")]
    pub buffering: Option<Buffering>,
    /// Say nothing but results, errors and losses
    #[arg(short = 'q', long = "quiet")]
    pub quiet: bool,
    /// Say more
    #[arg(short = 'v', long = "verbose")]
    pub verbose: bool,
    /// Warn when a helper of the kernel fails
    #[arg(short = 'k', long = "warnings", conflicts_with = "no_warnings")]
    pub warnings: bool,
    /// No warnings at all
    #[arg(long = "no-warnings")]
    pub no_warnings: bool,
    /// End after this time: 30s, 5m, 1h30m, or seconds
    #[arg(long = "timeout", visible_alias = "for", value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    pub timeout: Option<Duration>,
    /// Compile and load, but attach nothing
    #[arg(long = "dry-run")]
    pub dry_run: bool,
    /// Start a command once everything is attached, and end when it ends; `cpid` is its process id
    #[arg(short = 'c', long = "cmd", value_name = "CMD", conflicts_with = "pid")]
    pub command: Option<String>,
    /// Trace this process, where the probe can tell, and end when it ends
    #[arg(short = 'p', long = "pid", value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
    pub pid: Option<u32>,
    /// Say what this kernel can do
    #[arg(long = "info")]
    pub info: bool,
    /// Write what `capture()` takes, as pcapng; `-` is standard output, for `tshark -r -`
    #[arg(long = "pcap", value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Serve the script's maps for Prometheus: `127.0.0.1:9464`, or `:9464` for all addresses
    #[arg(long = "prometheus", value_name = "ADDR", value_parser = crate::metrics::address)]
    pub prometheus: Option<std::net::SocketAddr>,
    /// Series of one map that are served at most, the largest values
    #[arg(long = "prometheus-limit", value_name = "N", default_value_t = 10_000, requires = "prometheus")]
    pub prometheus_limit: usize,
    /// Allow functions that act on the system
    #[arg(long = "unsafe")]
    pub allow_unsafe: bool,
    /// Run `tc` programs in front of another program (tcx, Linux 6.6)
    #[arg(long = "before", value_name = "ID|NAME", value_parser = program_name, conflicts_with = "after")]
    pub before: Option<ProgramName>,
    /// Run `tc` programs behind another program (tcx, Linux 6.6)
    #[arg(long = "after", value_name = "ID|NAME", value_parser = program_name)]
    pub after: Option<ProgramName>,
    /// Priority of `tc` filters in a clsact chain (kernels without tcx) [default: 40000]; several of one script count up from there
    #[arg(long = "priority", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub priority: Option<u16>,
    /// Take the place of somebody else's XDP program
    #[arg(long = "force")]
    pub force: bool,

    /// Whether it is `weir run`, which knows the script's parameters.
    #[arg(skip)]
    pub saved: bool,
    /// Write the BPF object to a file and stop
    #[arg(long = "emit-elf", value_name = "FILE", hide = true)]
    pub emit_elf: Option<PathBuf>,
    // Switches of bpftrace that mean nothing without LLVM and clang.
    #[arg(long = "no-feature", value_name = "X", hide = true)]
    pub no_feature: Vec<String>,
    #[arg(long = "verify-llvm-ir", hide = true)]
    pub verify_llvm_ir: bool,
    #[arg(short = 'I', value_name = "DIR", hide = true)]
    pub include_dirs: Vec<PathBuf>,
    #[arg(long = "include", value_name = "FILE", hide = true)]
    pub include: Vec<PathBuf>,
    #[arg(long = "emit-llvm", value_name = "FILE", hide = true, value_parser = no_llvm)]
    emit_llvm: Option<String>,
    #[arg(long = "aot", value_name = "FILE", hide = true, value_parser = no_aot)]
    aot: Option<String>,
    #[arg(long = "usdt-file-activation", hide = true)]
    pub usdt_file_activation: bool,
    #[arg(long = "debuginfo", value_name = "DIRS", hide = true)]
    pub debuginfo: Option<OsString>,
    #[arg(long = "traceable-functions", value_name = "FILE", hide = true)]
    pub traceable_functions: Option<OsString>,
    #[arg(long = "dwarf-pid", value_name = "PID", hide = true)]
    pub dwarf_pid: Option<String>,
    #[arg(long = "mode", value_name = "MODE", hide = true)]
    pub mode: Option<String>,
    #[arg(long = "probe-filter", value_name = "REGEX", hide = true)]
    pub probe_filter: Option<String>,
    // These would do something else there.
    #[arg(long = "test", hide = true)]
    pub test: bool,
    #[arg(long = "bench", hide = true)]
    pub bench: bool,
    #[arg(long = "fmt", hide = true)]
    pub fmt: bool,
}

/// Compiles a script to a BPF object file.
#[derive(Debug, Parser)]
#[command(name = "weir build", override_usage = "weir build FILE -o x.bpf.o [ARGS]")]
pub struct Build {
    /// Compile this text instead of a file
    #[arg(short = 'e', value_name = "PROG")]
    pub program: Option<String>,
    /// The script (`-` for standard input), then its arguments
    #[arg(value_name = "FILE | ARGS", hide = true)]
    pub rest: Vec<OsString>,
    /// Where to write the object
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub output: PathBuf,
    /// No warnings
    #[arg(short = 'q', long = "quiet", visible_alias = "no-warnings")]
    pub quiet: bool,
    /// Say how long the parts of the compiler took
    #[arg(short = 'v', long = "verbose")]
    pub verbose: bool,
}

/// Parses, types and compiles scripts without running them. Needs no root.
#[derive(Debug, Parser)]
#[command(name = "weir check", override_usage = "weir check FILE... [--btf FILE] [--json] [-- ARGS]")]
pub struct Check {
    /// The scripts (`-` for standard input)
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<OsString>,
    /// Check against the types of another kernel: a copy of its /sys/kernel/btf/vmlinux
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
    /// Errors only
    #[arg(short = 'q', long = "quiet", visible_alias = "no-warnings")]
    pub quiet: bool,
    /// Arguments of the scripts
    #[arg(value_name = "ARGS", last = true)]
    pub args: Vec<OsString>,
}

/// Formats scripts in place. Comments stay, and so does what the author had on one line.
#[derive(Debug, Parser)]
#[command(name = "weir fmt", override_usage = "weir fmt [--check] FILE...\n       weir fmt - < FILE")]
pub struct Fmt {
    /// The scripts; `-` formats standard input to standard output
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<OsString>,
    /// Change nothing; name the files that are not formatted, and end with 1 if there are any
    #[arg(long)]
    pub check: bool,
}

/// Prints a completion script for a shell.
#[derive(Debug, Parser)]
#[command(
    name = "weir completions",
    after_help = "bash: weir completions bash > /etc/bash_completion.d/weir"
)]
pub struct Completions {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// The whole command line as one declaration, for completions.
pub fn whole() -> clap::Command {
    let named = |command: clap::Command, name: &'static str| command.name(name).override_usage("");
    Run::command()
        .subcommand(named(Build::command(), "build"))
        .subcommand(named(run_command(), "run"))
        .subcommand(named(Fmt::command(), "fmt"))
        .subcommand(named(Check::command(), "check"))
        .subcommand(named(Replay::command(), "replay"))
        .subcommand(named(Doc::command(), "doc"))
        .subcommand(named(Clean::command(), "clean"))
        .subcommand(named(Demo::command(), "demo"))
        .subcommand(named(Repl::command(), "repl"))
        .subcommand(named(Net::command(), "net").subcommand(named(NetRm::command(), "rm")))
        .subcommand(named(Maps::command(), "maps"))
        .subcommand(named(Progs::command(), "progs"))
        .subcommand(named(PinStatus::command(), "status"))
        .subcommand(named(PinStop::command(), "stop"))
        .subcommand(named(PinReload::command(), "reload"))
        .subcommand(named(Completions::command(), "completions"))
}

/// Says what a name means: a native, probe type, statement, builtin, function, packet field or setting.
#[derive(Debug, Parser)]
#[command(name = "weir doc")]
pub struct Doc {
    /// Without a name: everything there is, one line each
    pub name: Option<String>,
    /// The whole reference manual, as Markdown
    #[arg(long, conflicts_with = "name")]
    pub markdown: bool,
}

/// Shows weir on traffic that it makes in network namespaces of its own.
#[derive(Debug, Parser)]
#[command(name = "weir demo")]
pub struct Demo {
    /// Seconds for each of the scripts
    #[arg(long = "seconds", value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Plays a pod that asks these addresses
    #[arg(long = "pod", value_name = "ADDRESS", hide = true)]
    pub pod: Vec<std::net::SocketAddr>,
}

/// Runs the packet probes of a script over a capture file, without root and without a kernel.
///
/// Every packet passes the `xdp:` blocks, then the `tc:` blocks of its direction (of both, where the file does not tell
/// it). Interface names in the script play no part. `interval` follows the time of the packets; the maps are printed at
/// the end.
#[derive(Debug, Parser)]
#[command(
    name = "weir replay",
    override_usage = "weir replay [OPTIONS] CAPTURE SCRIPT [ARGS]\n       weir replay [OPTIONS] CAPTURE -e PROG [ARGS]"
)]
pub struct Replay {
    /// The capture, pcap or pcapng (`-` for standard input)
    #[arg(value_name = "CAPTURE")]
    pub capture: PathBuf,
    /// Run this text instead of a file
    #[arg(short = 'e', value_name = "PROG")]
    pub program: Option<String>,
    /// The script, then its arguments
    #[arg(value_name = "SCRIPT | ARGS", hide = true)]
    pub rest: Vec<OsString>,
    /// Write the packets that were dropped, as pcapng; `-` is standard output
    #[arg(long = "write-dropped", value_name = "FILE")]
    pub write_dropped: Option<PathBuf>,
    /// Write all other packets, as they left the script; `-` is standard output
    #[arg(long = "write-passed", value_name = "FILE")]
    pub write_passed: Option<PathBuf>,
    /// Write what `capture()` takes, as pcapng; `-` is standard output
    #[arg(long = "pcap", value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Output format
    #[arg(short = 'f', long = "format", value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// Write output to a file
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Say nothing but results and errors
    #[arg(short = 'q', long = "quiet")]
    pub quiet: bool,
    /// No warnings
    #[arg(long = "no-warnings")]
    pub no_warnings: bool,
    /// Allow functions that act on the system
    #[arg(long = "unsafe")]
    pub allow_unsafe: bool,
}

/// Probes typed one after the other: each runs in the background, and its maps live on.
#[derive(Debug, Parser)]
#[command(name = "weir repl")]
pub struct Repl {
    /// Allow functions that act on the system
    #[arg(long = "unsafe")]
    pub allow_unsafe: bool,
}

/// Lists TC filters whose weir was killed, on every interface of this and of all named network namespaces, and removes them.
#[derive(Debug, PartialEq, Eq, Parser)]
#[command(name = "weir clean")]
pub struct Clean {
    /// Do not ask
    #[arg(long = "yes", short = 'y')]
    pub yes: bool,
}

/// Lists the natives that stay in force without weir (`pin="NAME"`): since when, where, whether a weir looks after them.
///
/// MAPS tells how full each list is (`ipv4`, `allow_ipv4`: as in `.entries`) and each map that scripts see (`.hits`: of several kernel maps
/// behind it the fullest), and, without a dot, tables of the native itself.
#[derive(Debug, PartialEq, Eq, Parser)]
#[command(name = "weir status")]
pub struct PinStatus {
    /// Only this one
    pub name: Option<String>,
    /// Machine-readable output; `lists` is what the lists have, `maps` the kernel's maps with the kernel's names, as `weir maps --json`
    #[arg(long)]
    pub json: bool,
}

/// Ends a native that stays in force without weir. A weir that looks after it ends, too.
#[derive(Debug, PartialEq, Eq, Parser)]
#[command(name = "weir stop")]
pub struct PinStop {
    /// What `pin` called it
    pub name: String,
}

/// Reads the files of a native that stays in force without weir again, and puts them in force without a gap.
#[derive(Debug, PartialEq, Eq, Parser)]
#[command(name = "weir reload")]
pub struct PinReload {
    /// What `pin` called it
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Buffering {
    Line,
    Full,
    None,
}

/// The argument of `-d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages(pub Vec<Stage>);

/// Reads the command line; the first argument is the program's own name.
///
/// # Errors
/// What clap says, requests for help and version included.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, clap::Error> {
    let args: Vec<OsString> = args.collect();
    match args.get(1).and_then(|a| a.to_str()) {
        Some("build") => sub(&args).map(Command::Build),
        Some("run") => run_saved(&args[1..]).map(|run| Command::Run(Box::new(run))),
        Some("fmt") => sub(&args).map(Command::Fmt),
        Some("check") => sub(&args).map(Command::Check),
        Some("completions") => sub(&args).map(Command::Completions),
        Some("doc") => sub(&args).map(Command::Doc),
        Some("clean") => sub(&args).map(Command::Clean),
        Some("replay") => sub(&args).map(|replay| Command::Replay(Box::new(replay))),
        Some("repl") => sub(&args).map(Command::Repl),
        // Nothing said, on a terminal: somebody wants to explore.
        None if is_terminal() => Ok(Command::Repl(Repl { allow_unsafe: false })),
        Some("net") if args.get(2).is_some_and(|a| a == "rm") => sub(&args[1..]).map(Command::NetRm),
        Some("net") => sub(&args).map(Command::Net),
        Some("maps") => sub(&args).map(Command::Maps),
        Some("progs") => sub(&args).map(Command::Progs),
        Some("status") => sub(&args).map(Command::Status),
        Some("stop") => sub(&args).map(Command::Stop),
        Some("reload") => sub(&args).map(Command::Reload),
        Some("demo") => sub(&args).map(Command::Demo),
        _ => Run::try_parse_from(&args)
            .map(|run| Command::Run(Box::new(run)))
            .map_err(|error| of_the_script(error, &args)),
    }
    .map_err(|error| which_bytes(error, &args))
}

/// A switch that is unknown and stands behind a script is most likely the script's.
fn of_the_script(error: clap::Error, args: &[OsString]) -> clap::Error {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let at = args
        .iter()
        .position(|a| a.to_str().is_some_and(|a| a.split('=').next() == Some(word)));
    let script = args[..at.unwrap_or(0)].iter().skip(1).find(|a| Path::new(a).is_file());
    let (ErrorKind::UnknownArgument, Some(script)) = (error.kind(), script) else {
        return error;
    };
    let script = script.display();
    let message = format!(
        "unexpected argument '{word}' found\n\nparameters of a script stand behind `--`: weir {script} -- {word}, or: weir run {script} {word}\n"
    );
    clap::Error::raw(ErrorKind::UnknownArgument, message)
}

/// Says which argument is no text; clap only says that one is not.
fn which_bytes(error: clap::Error, args: &[OsString]) -> clap::Error {
    let Some(bad) = args.iter().find(|a| a.to_str().is_none()) else {
        return error;
    };
    if error.kind() != clap::error::ErrorKind::InvalidUtf8 {
        return error;
    }
    let message = format!("the argument {bad:?} is not UTF-8 text\n");
    clap::Error::raw(clap::error::ErrorKind::InvalidUtf8, message)
}

/// Reads the number of a process.
fn pid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(pid) if i32::try_from(pid).is_ok_and(|pid| pid > 0) => Ok(pid),
        _ => Err("`-p` takes a process id, such as 1234".to_owned()),
    }
}

/// Reads the arguments of a subcommand, the second word of which is its name.
fn sub<T: CommandFactory + FromArgMatches>(args: &[OsString]) -> Result<T, clap::Error> {
    let command = T::command();
    // Else it would be called by the second word alone, in the line that says how to use it.
    let name = command.get_name().to_owned();
    T::from_arg_matches(&command.bin_name(name).try_get_matches_from(&args[1..])?)
}

/// `weir run`: the switches of a run, then a script; what follows the script is the script's.
fn run_command() -> clap::Command {
    Run::command()
        .name("weir run")
        .about("Runs a saved script with its parameters")
        .override_usage("weir run [OPTIONS] SCRIPT [--] [PARAMETERS]\n       weir run SCRIPT --help")
        .after_help("`weir run SCRIPT --help` says what the script is for and which parameters it takes.")
        .mut_arg("rest", |a| a.trailing_var_arg(true).allow_hyphen_values(true))
}

fn run_saved(args: &[OsString]) -> Result<Run, clap::Error> {
    let mut run = Run::from_arg_matches(&run_command().try_get_matches_from(args)?)?;
    run.saved = true;
    // Everything behind the script is the script's, so clap takes an unknown switch in front of it for the script.
    if let Some(word) = run
        .rest
        .first()
        .and_then(|w| w.to_str())
        .filter(|w| w.len() > 1 && w.starts_with('-'))
    {
        let message = format!("unexpected argument '{word}' found\n\nparameters of a script stand behind it: weir run SCRIPT {word}\n");
        return Err(clap::Error::raw(clap::error::ErrorKind::UnknownArgument, message));
    }
    Ok(run)
}

fn is_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Splits what is left of the command line: the script's file, unless the text was given, and the script's arguments.
///
/// # Errors
/// An argument that is no UTF-8, in one line.
pub fn split_rest<'a>(program: Option<&str>, rest: &'a [OsString]) -> Result<(Option<&'a OsStr>, Vec<String>), String> {
    let (file, args) = match (program, rest) {
        (None, [file, args @ ..]) => (Some(file.as_os_str()), args),
        _ => (None, rest),
    };
    let text = |a: &OsString| {
        a.to_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("the argument `{}` is not UTF-8", a.display()))
    };
    Ok((file, args.iter().map(text).collect::<Result<_, _>>()?))
}

fn stages(text: &str) -> Result<Stages, String> {
    let mut stages = Vec::new();
    for name in text.split(',') {
        match name {
            "all" => stages.extend(Stage::ALL),
            // bpftrace's names of the same things.
            "parse" => stages.push(Stage::Ast),
            "types" => stages.push(Stage::Hir),
            "codegen" => stages.push(Stage::Clif),
            "codegen-opt" => stages.push(Stage::Opt),
            "dis" => stages.push(Stage::Bpf),
            name => {
                let known = || Stage::ALL.map(Stage::name).join(", ");
                stages.push(
                    Stage::ALL
                        .into_iter()
                        .find(|s| s.name() == name)
                        .ok_or_else(|| format!("there are: {}, all", known()))?,
                );
            }
        }
    }
    Ok(Stages(stages))
}

fn program_name(text: &str) -> Result<ProgramName, String> {
    match text.parse() {
        Ok(id) => Ok(ProgramName::Id(id)),
        Err(_) if text.is_empty() => Err("write the program's id or name, as `bpftool net` shows them".to_owned()),
        Err(_) => Ok(ProgramName::Name(text.to_owned())),
    }
}

fn no_llvm(_: &str) -> Result<String, String> {
    Err("weir has no LLVM; `-d clif` and `-d opt` print its intermediate code, before and after the optimiser".to_owned())
}

fn no_aot(_: &str) -> Result<String, String> {
    Err(
        "weir makes no executables of scripts: `weir build FILE -o x.bpf.o` writes the BPF object, and weir itself is one file to copy"
            .to_owned(),
    )
}

/// Parses `30`, `0.5`, `30s`, `5m`, `1h30m`, `250ms`. A number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    const HOW: &str = "write a number with `ms`, `s`, `m`, `h` or `d`: `90`, `30s`, `1h30m`";
    if let Ok(seconds) = text.parse::<f64>() {
        return positive(Duration::try_from_secs_f64(seconds).map_err(|_| HOW.to_owned())?);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(HOW)?;
        let number: u64 = rest[..digits].parse().map_err(|_| HOW.to_owned())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let ms = match &rest[..unit] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(HOW.to_owned()),
        };
        total += Duration::from_millis(number.checked_mul(ms).ok_or_else(|| "that is too long".to_owned())?);
        rest = &rest[unit..];
    }
    positive(total)
}

fn positive(time: Duration) -> Result<Duration, String> {
    // A century is for ever, and adding it to a clock cannot overflow.
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    match time {
        Duration::ZERO => Err("it must be more than nothing".to_owned()),
        time if time > CENTURY => Err("that is too long".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, clap::Error> {
        parse(std::iter::once("weir").chain(words.iter().copied()).map(OsString::from))
    }

    fn run(words: &[&str]) -> Run {
        match parse_words(words) {
            Ok(Command::Run(run)) => *run,
            other => panic!("{other:?}"),
        }
    }

    fn rest(run: &Run) -> (Option<&str>, Vec<String>) {
        let (file, args) = split_rest(run.program.as_deref(), &run.rest).unwrap();
        (file.map(|f| f.to_str().unwrap()), args)
    }

    #[test]
    fn the_declaration_is_consistent() {
        Run::command().debug_assert();
        Check::command().debug_assert();
        Fmt::command().debug_assert();
        run_command().debug_assert();
        Completions::command().debug_assert();
        whole().debug_assert();
        Build::command().debug_assert();
        Doc::command().debug_assert();
        Demo::command().debug_assert();
        Replay::command().debug_assert();
        Clean::command().debug_assert();
    }

    #[test]
    fn a_script_and_its_arguments() {
        assert_eq!(rest(&run(&["x.bt", "1", "b"])), (Some("x.bt"), vec!["1".into(), "b".into()]));
        assert_eq!(rest(&run(&["x.bt", "--", "-5"])), (Some("x.bt"), vec!["-5".into()]));
        assert_eq!(rest(&run(&["-"])), (Some("-"), vec![]));
        assert_eq!(rest(&run(&["-e", "BEGIN {}", "eth0"])), (None, vec!["eth0".into()]));
    }

    #[test]
    fn subcommands_are_only_first_words() {
        assert!(matches!(parse_words(&["clean"]), Ok(Command::Clean(Clean { yes: false }))));
        assert!(matches!(parse_words(&["demo"]), Ok(Command::Demo(_))));
        assert!(matches!(parse_words(&["doc", "blocklist"]), Ok(Command::Doc(Doc { name: Some(n), .. })) if n == "blocklist"));
        let Ok(Command::Build(build)) = parse_words(&["build", "x.weir", "-o", "x.bpf.o"]) else {
            panic!()
        };
        assert_eq!(build.output, PathBuf::from("x.bpf.o"));
        assert_eq!(rest(&run(&["x.bt", "clean"])).0, Some("x.bt"));
        assert_eq!(rest(&run(&["-q", "doc"])).0, Some("doc"));
    }

    #[test]
    fn what_follows_a_saved_script_is_its_own() {
        let args = run(&["run", "-q", "x.weir", "--iface", "eth0", "-q", "--help"]);
        assert!(args.saved && args.quiet);
        let words = |args: &Run| rest(args).1;
        assert_eq!(words(&args), ["--iface", "eth0", "-q", "--help"]);
        assert_eq!(words(&run(&["run", "x.weir", "--", "--top", "5"])), ["--", "--top", "5"]);
        assert!(!parse_words(&["run", "--help"]).unwrap_err().use_stderr());
        assert!(
            parse_words(&["run", "--iface", "x.weir"])
                .unwrap_err()
                .to_string()
                .contains("behind it")
        );
    }

    #[test]
    fn what_the_help_lists_is_completed() {
        let whole = whole();
        let listed: Vec<&str> = AFTER_HELP
            .lines()
            .filter_map(|l| l.strip_prefix("  weir ")?.split([' ', ',']).next())
            .collect();
        let listed: Vec<&str> = listed.into_iter().filter(|w| !w.starts_with('-')).collect();
        for word in listed.iter().chain(&["progs"]) {
            assert!(whole.get_subcommands().any(|s| s.get_name() == *word), "{word}");
            // And it is one: its own help, not that of a run.
            let help = parse_words(&[word, "--help"]).unwrap_err().to_string();
            assert!(help.contains(&format!("weir {word}")), "{word}: {help}");
        }
        assert!(listed.len() >= 12, "{listed:?}");
        for command in whole.get_subcommands() {
            let name = command.get_name();
            assert!(AFTER_HELP.contains(&format!("weir {name}")), "`{name}` is not in the help");
        }
    }

    #[test]
    fn listing_takes_a_pattern_or_none() {
        let args = run(&["-lv", "t:tcp:*"]);
        assert!(args.list && args.verbose);
        assert_eq!(rest(&args).0, Some("t:tcp:*"));
        assert_eq!(rest(&run(&["-l"])).0, None);
    }

    #[test]
    fn switches_of_bpftrace_are_taken() {
        let args = run(&[
            "--verify-llvm-ir",
            "--no-feature",
            "kprobe_multi",
            "--unsafe",
            "-B",
            "line",
            "-f",
            "json",
            "-k",
            "--usdt-file-activation",
            "--debuginfo",
            "/usr/lib/debug",
            "--traceable-functions",
            "f.txt",
            "--mode",
            "codegen",
            "x.bt",
        ]);
        assert_eq!((args.format, args.buffering), (Format::Json, Some(Buffering::Line)));
        assert_eq!(rest(&args).0, Some("x.bt"));
        for (switch, alternative) in [("--emit-llvm", "-d clif"), ("--aot", "weir build")] {
            let error = parse_words(&[switch, "out", "x.bt"]).unwrap_err();
            assert!(error.to_string().contains(alternative), "{error}");
            assert!(error.use_stderr());
        }
    }

    #[test]
    fn a_command_or_a_process_not_both() {
        assert_eq!(run(&["-c", "sleep 1", "x"]).command.as_deref(), Some("sleep 1"));
        assert_eq!(run(&["-p", "12", "x"]).pid, Some(12));
        assert_eq!(run(&["--for", "5m", "x"]).timeout, Some(Duration::from_secs(300)));
        assert!(
            parse_words(&["-c", "ls", "-p", "1", "x"])
                .unwrap_err()
                .to_string()
                .contains("cannot be used with")
        );
        assert!(parse_words(&["-p", "0", "x"]).is_err());
        assert!(parse_words(&["-p", "init", "x"]).is_err());
    }

    #[test]
    fn stages_by_our_and_their_names() {
        assert_eq!(run(&["-d", "ast,bpf", "x"]).debug, Some(Stages(vec![Stage::Ast, Stage::Bpf])));
        assert_eq!(run(&["-d", "codegen-opt", "x"]).debug, Some(Stages(vec![Stage::Opt])));
        assert_eq!(run(&["-d", "all", "x"]).debug, Some(Stages(Stage::ALL.to_vec())));
        let error = parse_words(&["-d", "verifier", "x"]).unwrap_err().to_string();
        assert!(error.contains("tokens, ast, hir"), "{error}");
    }

    #[test]
    fn without_anything_it_says_how_to_use_it() {
        let error = parse_words(&[]).unwrap_err();
        assert!(error.use_stderr() && error.to_string().contains("Usage: weir"), "{error}");
    }

    #[test]
    fn programs_by_id_or_name() {
        assert_eq!(run(&["--before", "12", "x"]).before, Some(ProgramName::Id(12)));
        assert_eq!(
            run(&["--after", "cil_from_container", "x"]).after,
            Some(ProgramName::Name("cil_from_container".into()))
        );
        assert!(parse_words(&["--before", "1", "--after", "2", "x"]).is_err());
        assert!(parse_words(&["--priority", "0", "x"]).is_err());
    }

    #[test]
    fn wrong_arguments_are_named_with_what_is_wanted() {
        use std::os::unix::ffi::OsStringExt;
        let said = |words: &[&str]| parse_words(words).unwrap_err().to_string();
        for words in [["-p", "abc"], ["-p", "-1"], ["-p", "0"], ["-p", "4294967295"]] {
            assert!(said(&words).contains("`-p` takes a process id"), "{words:?}: {}", said(&words));
        }
        assert!(said(&["--timeout", "-5"]).contains("write a number with"));
        assert!(said(&["maps", "x", "--top", "-1"]).contains("`--top` takes a number"));
        let bytes = OsString::from_vec(b"a\xffb".to_vec());
        let error = parse(["weir".into(), "-e".into(), bytes].into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "error: the argument \"a\\xFFb\" is not UTF-8 text\n");
    }

    #[test]
    fn durations() {
        let ms = |text: &str| duration(text).map(|d| d.as_millis());
        assert_eq!(ms("30"), Ok(30_000));
        assert_eq!(ms("0.5"), Ok(500));
        assert_eq!(ms("30s"), Ok(30_000));
        assert_eq!(ms("5m"), Ok(300_000));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("2d"), Ok(172_800_000));
        for bad in [
            "",
            "s",
            "5x",
            "-1",
            "1h30",
            "inf",
            "NaN",
            "0",
            "0s",
            "99999999999999999999",
            "1e300",
            "99999999999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_version_is_bpftraces_form() {
        let error = parse_words(&["-V"]).unwrap_err();
        assert!(!error.use_stderr());
        assert_eq!(error.to_string(), concat!("weir v", env!("CARGO_PKG_VERSION"), "\n"));
    }
}
