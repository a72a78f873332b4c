//! `cargo xtask setup`: the system packages that the tests and the benchmark need.

use crate::apt;
use anyhow::Result;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Args {
    /// Also install bpftrace, which `cargo xtask bench` compares with
    #[arg(long)]
    bench: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    apt::install(apt::TEST)?;
    if args.bench {
        apt::install(apt::BENCH)?;
    }
    println!("xtask: everything is installed");
    Ok(ExitCode::SUCCESS)
}
