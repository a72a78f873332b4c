//! `cargo xtask dist`: weir as one stripped static file, to be copied to machines that have nothing.
//!
//! Static glibc instead of musl: only the glibc target comes with every Rust. That is sound here, since nothing in weir loads
//! libraries at run time: users are read from `/etc/passwd`, and no host name is ever looked up.

use crate::proc;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
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
    check(&bytes, &registries()?).with_context(|| format!("{} is not what is given out", path.display()))?;
    println!("{}: {:.2} MB, static", path.display(), bytes.len() as f64 / 1e6);
    Ok(ExitCode::SUCCESS)
}

/// Refuses a file that needs others, is too large, or names a folder of the machine that built it.
fn check(file: &[u8], folders: &[PathBuf]) -> Result<()> {
    ensure!(!wants_linker(file)?, "it is not static: it names a dynamic linker");
    ensure!(
        file.len() <= MOST_BYTES,
        "it takes {} bytes, {} more than {MOST_BYTES}",
        file.len(),
        file.len() - MOST_BYTES
    );
    for folder in folders {
        ensure!(
            !contains(file, folder.as_os_str().as_encoded_bytes()),
            "it names `{}`, a folder of this machine",
            folder.display()
        );
    }
    Ok(())
}

/// Where cargo keeps the code of other crates, one folder for each registry.
fn registries() -> Result<Vec<PathBuf>> {
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME says where cargo is at home")?).join(".cargo"),
    };
    let folders = std::fs::read_dir(home.join("registry/src")).into_iter().flatten();
    folders.map(|entry| Ok(entry?.path())).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
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
        // With `--target` these are only for the target: build scripts and macros stay as they are.
        .env("CARGO_ENCODED_RUSTFLAGS", flags()?);
    proc::check(&mut cargo)?;
    Ok(proc::repo().join("target/dist").join(TARGET).join("release/weir"))
}

/// Options for every crate of the file, as cargo takes them where they may have blanks. With frame pointers the tables for unwinding,
/// which say where the frame is at each instruction, are so much shorter that the file is 3 % smaller; scripts compile as fast.
fn flags() -> Result<OsString> {
    let mut flags = OsString::from("-Ctarget-feature=+crt-static\x1f-Cforce-frame-pointers=yes");
    // A panic says where in the source it was: from the crate on, not from the root of this machine.
    for (folder, name) in std::iter::once((proc::repo().to_owned(), "weir")).chain(registries()?.into_iter().map(|folder| (folder, ""))) {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(folder);
        flags.push("=");
        flags.push(name);
    }
    Ok(flags)
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

    /// The header of a file of this size that has no segments.
    fn file(len: usize) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(len, 0);
        file
    }

    #[test]
    fn what_is_too_large_or_names_this_machine_is_not_given_out() {
        let folders = [PathBuf::from("/home/me/.cargo/registry/src/index")];
        let check = |file: &[u8]| check(file, &folders);
        check(&file(MOST_BYTES)).unwrap();
        let refused = |file: &[u8]| check(file).unwrap_err().to_string();
        assert_eq!(refused(&file(MOST_BYTES + 7)), "it takes 10000007 bytes, 7 more than 10000000");
        let mut names = file(100);
        names.extend(b"at /home/me/.cargo/registry/src/index/clap/src/lib.rs");
        assert!(refused(&names).contains("a folder of this machine"));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(refused(&own).contains("a dynamic linker"));
    }

    #[test]
    fn a_dynamic_program_is_told_from_none() {
        // The test itself is an ordinary dynamic program.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(wants_linker(&own).unwrap());
        assert!(wants_linker(b"#!/bin/sh").is_err());
        assert!(wants_linker(&own[..60]).is_err());
    }
}
