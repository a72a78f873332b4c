//! `cargo xtask dist`: weir as one stripped static file, to be copied to machines that have nothing.
//!
//! Static glibc instead of musl: only the glibc target comes with every Rust. That is sound here, since nothing in weir loads
//! libraries at run time: users are read from `/etc/passwd`, and no host name is ever looked up.

use crate::proc;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

#[derive(clap::Args)]
pub struct Args {}

/// What the file may take.
const MOST_BYTES: usize = 10_000_000;
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Options of Rust's own linker, lld. A static file that may lie anywhere has 10 000 relocations: packed, they take a word for
/// some sixty. And functions with the same code stand once: Rust promises no function an address of its own.
const LINKER: &[&str] = &["-z,pack-relative-relocs", "--icf=all"];

/// `p_type` of the segment that names the dynamic linker.
const PT_INTERP: u32 = 3;

pub fn run(_: &Args) -> Result<ExitCode> {
    let path = build()?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        !wants_linker(&bytes)?,
        "{} is not static: it names a dynamic linker",
        path.display()
    );
    ensure!(
        bytes.len() <= MOST_BYTES,
        "{} takes {} bytes, more than {MOST_BYTES}",
        path.display(),
        bytes.len()
    );
    println!("{}: {:.1} MB, static", path.display(), bytes.len() as f64 / 1e6);
    Ok(ExitCode::SUCCESS)
}

/// Builds the file and says where it is.
pub fn build() -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(proc::repo())
        .args(["rustc", "--release", "--package", "weir", "--bin", "weir", "--target", TARGET])
        // The profile's `strip` does not reach a package that has settings of its own there (cargo 1.95).
        .args(["--target-dir", "target/dist", "--", "-Cstrip=symbols"])
        .args(LINKER.iter().map(|option| format!("-Clink-arg=-Wl,{option}")))
        // Only for the target: build scripts and macros stay as they are.
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
    proc::check(&mut cargo)?;
    Ok(proc::repo().join("target/dist").join(TARGET).join("release/weir"))
}

/// Whether a 64-bit little-endian ELF file has a segment that names a dynamic linker.
fn wants_linker(elf: &[u8]) -> Result<bool> {
    let word = |at: usize, len: usize| -> Result<usize> {
        let bytes = elf.get(at..at + len).context("the ELF file is cut off")?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
    };
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "this is no 64-bit ELF file");
    let (table, size, count) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
    for i in 0..count {
        if word(table + i * size, 4)? == PT_INTERP as usize {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_none() {
        // The test itself is an ordinary dynamic program.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(wants_linker(&own).unwrap());
        assert!(wants_linker(b"#!/bin/sh").is_err());
        assert!(wants_linker(&own[..60]).is_err());
    }
}
