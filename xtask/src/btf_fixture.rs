//! `cargo xtask btf-fixture`: the extract of the running kernel's types that the compiler's tests use.
//!
//! The work is done by an example of the compiler, so that the project's chores need not be built with the compiler in them.
//! Input: a file to write. Output: the file.

use crate::proc;
use anyhow::Result;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

#[derive(clap::Args)]
pub struct Args {
    /// Usually `compiler/tests/fixtures/vmlinux-X.Y.btf`
    file: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["run", "--quiet", "--workspace", "--example", "btf_fixture", "--"])
        .arg(std::path::absolute(&args.file)?)
        .current_dir(proc::repo());
    proc::check(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
