//! Debian packages: which are missing, and installing those.
//!
//! Not a package manager: `apt-get` does the work, and only when something is missing, so an offline machine that has
//! everything is not touched.

use crate::proc;
use anyhow::Result;
use std::process::Command;

/// A package and the program that shows it is there.
pub struct Package {
    pub name: &'static str,
    pub program: &'static str,
}

const fn package(name: &'static str, program: &'static str) -> Package {
    Package { name, program }
}

/// What `cargo xtask test` needs beside the Rust toolchain.
pub const TEST: &[Package] = &[
    package("iproute2", "ip"),
    package("bpftool", "bpftool"),
    package("tcpdump", "tcpdump"),
    package("tshark", "tshark"),
    package("qemu-system-x86", "qemu-system-x86_64"),
    package("busybox-static", "busybox"),
    package("lz4", "lz4"),
    package("xz-utils", "xz"),
    package("zstd", "zstd"),
    package("xdp-tools", "xdp-loader"),
    package("gcc", "gcc"),
    package("make", "make"),
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
    wanted.iter().filter(|p| proc::which(p.program).is_none()).map(|p| p.name).collect()
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
