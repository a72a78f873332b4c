//! Writes the extract of the running kernel's BTF that the tests use: `cargo xtask btf-fixture FILE`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A tool for developers: a panic is its error message.

#[path = "../tests/cut/mod.rs"]
#[allow(dead_code, reason = "the lists are also for the tests")]
mod cut;

use weir_compiler::btf::Btf;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// It is checked in.
const MOST_BYTES: usize = 200_000;

fn main() {
    let path = std::env::args().nth(1).expect("the file to write is named");
    let blob = cut::cut(&Btf::from_bytes(std::fs::read(VMLINUX).unwrap()).unwrap());
    assert!(blob.len() <= MOST_BYTES, "{} bytes are more than {MOST_BYTES}", blob.len());
    std::fs::write(&path, &blob).unwrap();
    println!("{path}: {} bytes", blob.len());
}
