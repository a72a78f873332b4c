//! Debian packages: which are missing, and installing those.
//!
//! Not a package manager: `apt-get` does the work, and only when something is missing, so an offline machine that has
//! everything is not touched.

use crate::proc;
use anyhow::Result;
use std::fs;
use std::process::Command;

/// A package and the program that shows it is there.
pub struct Package {
    pub name: &'static str,
    pub program: &'static str,
    /// The program must need no library: another package has one of the same name that does.
    linked: Linked,
}

#[derive(Clone, Copy, PartialEq)]
enum Linked {
    Anyhow,
    Statically,
}

const fn package(name: &'static str, program: &'static str) -> Package {
    Package {
        name,
        program,
        linked: Linked::Anyhow,
    }
}

const fn static_package(name: &'static str, program: &'static str) -> Package {
    Package {
        name,
        program,
        linked: Linked::Statically,
    }
}

impl Package {
    fn is_there(&self) -> bool {
        proc::which(self.program).is_some_and(|path| match self.linked {
            Linked::Anyhow => true,
            Linked::Statically => fs::read(path).is_ok_and(|elf| interpreter(&elf).is_none()),
        })
    }
}

/// The segment of a 64-bit little-endian ELF file that names its loader.
fn interpreter(elf: &[u8]) -> Option<usize> {
    const PT_INTERP: usize = 3;
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = elf.get(at..at.checked_add(bytes)?)?;
        field
            .iter()
            .rev()
            .try_fold(0usize, |n, b| n.checked_mul(256)?.checked_add(usize::from(*b)))
    };
    let (first, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).find(|i| number(first + i * size, 4) == Some(PT_INTERP))
}

/// What `cargo xtask test` needs beside the Rust toolchain.
pub const TEST: &[Package] = &[
    package("iproute2", "ip"),
    package("bpftool", "bpftool"),
    package("tcpdump", "tcpdump"),
    package("tshark", "tshark"),
    package("qemu-system-x86", "qemu-system-x86_64"),
    static_package("busybox-static", "busybox"),
    package("lz4", "lz4"),
    package("xz-utils", "xz"),
    package("zstd", "zstd"),
    package("xdp-tools", "xdp-loader"),
    package("gcc", "gcc"),
    package("make", "make"),
    package("dwarves", "pahole"),
    package("wireguard-tools", "wg"),
    package("zsh", "zsh"),
    package("fish", "fish"),
];

/// What `cargo xtask bench` compares with.
pub const BENCH: &[Package] = &[package("bpftrace", "bpftrace")];

/// What `cargo xtask bench packets` compares with, and by.
pub const PACKETS: &[Package] = &[package("clang", "clang"), package("bpftool", "bpftool")];

/// What `cargo xtask bench rivals` compares with.
pub const RIVALS: &[Package] = &[
    package("xdp-tools", "xdp-filter"),
    package("nftables", "nft"),
    package("iptables", "iptables"),
    package("ethtool", "ethtool"),
];

/// What `cargo xtask bench replay` compares with.
pub const REPLAY: &[Package] = &[package("tcpdump", "tcpdump")];

/// The packages of the list whose program is not on this machine.
pub fn missing(wanted: &[Package]) -> Vec<&'static str> {
    wanted.iter().filter(|p| !p.is_there()).map(|p| p.name).collect()
}

/// Installs what is missing of the list; does nothing, and asks nobody, if nothing is.
///
/// # Errors
/// `apt-get` is not there, or could not install a package.
pub fn install(wanted: &[Package]) -> Result<()> {
    let names = missing(wanted);
    if names.is_empty() {
        return Ok(());
    }
    proc::need_root("installing packages")?;
    println!("xtask: installing {}", names.join(" "));
    let get = || {
        let mut c = Command::new("apt-get");
        c.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        c
    };
    let install = || {
        let mut c = get();
        c.args(["install", "-y", "--no-install-recommends"]).args(&names);
        c
    };
    // The package lists may be old or absent (fresh container): ask for new ones only if the first attempt fails.
    if proc::output(&mut install()).is_ok() {
        return Ok(());
    }
    proc::check(get().arg("update"))?;
    proc::check(&mut install())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        let own = fs::read(std::env::current_exe().expect("the test has a file")).expect("it can be read");
        assert!(interpreter(&own).is_some());
        assert!(interpreter(b"#!/bin/sh\n").is_none());
    }
}
