//! `cargo xtask`: the project's own chores, one file per subcommand.
//!
//! What it is: a thin command line over the modules below. What it is not: part of the shipped program.
//! Input: arguments. Output: what the tools print, an exit code, and for `test` a closing summary line.
#![allow(
    clippy::print_stdout,
    reason = "a command-line tool for developers: its report is its standard output"
)]

mod apt;
mod bench;
mod blocklist;
mod btf_fixture;
mod builtins;
mod dist;
mod flows;
mod packets;
mod proc;
mod replay;
mod rivals;
mod setup;
mod test;
mod test_run;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores: tests, virtual machines, benchmarks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every check and test, natively and on the Debian kernels in QEMU (needs root)
    Test(test::Args),
    /// Run one command as root inside a throw-away virtual machine with a Debian kernel
    Vm(vm::Args),
    /// Measure weir beside the installed bpftrace and print a markdown table (needs root)
    Bench(bench::Args),
    /// Build weir as one stripped static file
    Dist(dist::Args),
    /// Build the natives' BPF objects, or check the committed ones
    Builtins(builtins::Args),
    /// Cut the extract of the running kernel's types that the compiler's tests use
    BtfFixture(btf_fixture::Args),
    /// Install the system packages that the tests need and that are missing
    Setup(setup::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Dist(args) => dist::run(&args),
        Task::Builtins(args) => builtins::run(&args),
        Task::BtfFixture(args) => btf_fixture::run(&args),
        Task::Setup(args) => setup::run(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
