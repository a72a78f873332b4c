//! `cargo xtask builtins`: builds the natives' BPF objects, or checks that the committed ones are what the sources give.
//!
//! Input: `ebpf-builtins/ebpf` and `ebpf-builtins/src/abi.rs`. Output: `ebpf-builtins/objects/*.bpf.o` (stripped, with
//! BTF) and `objects/manifest.toml`. Users never need this; who changes a native does, and needs one of two toolchains
//! (`--install` gets the first that fits the machine, [`HELP`] says how to do it by hand).
//!
//! The same sources and tools give the same bytes in every folder. Other versions of the tools give other bytes, so
//! the manifest records them, and bytes are compared only where they match; hashes are compared always.

use crate::proc;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TARGET: &str = "bpfel-unknown-none";
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "22";

/// `v3` (32-bit registers and jumps) is understood from Linux 5.1 on. Headers in packets are not aligned; without the
/// feature every field is loaded byte by byte.
const FLAGS: &[&str] = &[
    "-Ctarget-cpu=v3",
    "-Clink-arg=--btf",
    "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
    "-Cdebuginfo=2",
];

const HELP: &str = "\
Building the natives needs rustc with a core library for bpfel-unknown-none, bpf-linker, and llvm-strip. Two ways:

anywhere with rustup:
    rustup toolchain install nightly --component rust-src
    cargo install bpf-linker --version 0.13.0 --locked
    and llvm-strip, from your distribution's `llvm`

Debian 12, rustc from the security suite:
    apt-get install -y --no-install-recommends rustc-web cargo-web libstd-rust-web-dev-bpf llvm-22 llvm-22-dev libpolly-22-dev
    LLVM_PREFIX=/usr/lib/llvm-22 LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker \\
        --version 0.13.0 --locked --no-default-features --features llvm-22

`cargo xtask builtins --install` does the second on Debian as root, else the first. The committed objects come from the second.
WEIR_BPF_RUSTC, WEIR_BPF_LINKER and WEIR_BPF_STRIP name programs in other places.";

const DEBIAN: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
];

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Change nothing: compare hashes with the manifest, and rebuild and compare bytes where the recorded tools are there
    #[arg(long)]
    check: bool,
    /// Install what is missing first
    #[arg(long)]
    install: bool,
}

/// `objects/manifest.toml`.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// Of the sources and the flags: [`source_hash`].
    source_sha256: String,
    tools: Versions,
    objects: BTreeMap<String, Entry>,
}

/// What decides over the bytes, as the programs name themselves.
#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
#[serde(deny_unknown_fields)]
struct Versions {
    compiler: String,
    linker: String,
    strip: String,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: String,
    size_bytes: usize,
}

impl Entry {
    fn of(object: &[u8]) -> Self {
        Self {
            sha256: hex(&Sha256::digest(object)),
            size_bytes: object.len(),
        }
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let home = proc::repo().join("ebpf-builtins");
    if args.install {
        install()?;
    }
    if args.check { check(&home) } else { build_and_write(&home) }.map(|()| ExitCode::SUCCESS)
}

fn build_and_write(home: &Path) -> Result<()> {
    let Some(toolchain) = Toolchain::find_all()?.into_iter().next() else {
        bail!("no toolchain for BPF programs\n\n{HELP}")
    };
    let objects = toolchain.build(home)?;
    let folder = home.join("objects");
    let mut entries = BTreeMap::new();
    for (name, bytes) in &objects {
        std::fs::write(folder.join(object_file(name)), bytes)?;
        println!("xtask: {} ({} bytes)", object_file(name), bytes.len());
        entries.insert(name.clone(), Entry::of(bytes));
    }
    for stale in object_files(&folder)?
        .into_iter()
        .filter(|f| !objects.keys().any(|name| object_file(name) == *f))
    {
        std::fs::remove_file(folder.join(&stale))?;
        println!("xtask: removed {stale}, which has no source");
    }
    let manifest = Manifest {
        source_sha256: source_hash(home)?,
        tools: toolchain.versions,
        objects: entries,
    };
    let text = format!(
        "# Written by `cargo xtask builtins`, checked by `cargo xtask builtins --check`.\n\n{}",
        toml::to_string(&manifest)?
    );
    std::fs::write(folder.join("manifest.toml"), text)?;
    Ok(())
}

fn check(home: &Path) -> Result<()> {
    let folder = home.join("objects");
    let path = folder.join("manifest.toml");
    let manifest: Manifest = toml::from_str(&std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?)
        .with_context(|| format!("{} is not as `cargo xtask builtins` writes it", path.display()))?;
    let files: Vec<String> = manifest.objects.keys().map(|name| object_file(name)).collect();
    if object_files(&folder)? != files {
        bail!(
            "{} and the manifest do not name the same objects: run `cargo xtask builtins`",
            folder.display()
        );
    }
    for (name, entry) in &manifest.objects {
        let found = Entry::of(&std::fs::read(folder.join(object_file(name)))?);
        if found != *entry {
            bail!("{} is not what the manifest says: {found:?}, expected {entry:?}", object_file(name));
        }
    }
    let found = source_hash(home)?;
    if found != manifest.source_sha256 {
        bail!(
            "the natives' sources have changed since the objects were built (hash {found}, expected {}): run `cargo xtask builtins`",
            manifest.source_sha256
        );
    }
    println!("xtask: {} object(s) and their sources are as in the manifest", files.len());

    let toolchains = Toolchain::find_all()?;
    let Some(toolchain) = toolchains.iter().find(|t| t.versions == manifest.tools) else {
        println!("xtask: not rebuilt, the recorded tools are not here: {:?}", manifest.tools);
        for other in &toolchains {
            println!("xtask: here: {:?}", other.versions);
        }
        return Ok(());
    };
    for (name, bytes) in toolchain.build(home)? {
        if manifest.objects.get(&name) != Some(&Entry::of(&bytes)) {
            bail!(
                "rebuilding gives another {} although sources and tools are the same: run `cargo xtask builtins`",
                object_file(&name)
            );
        }
    }
    println!("xtask: rebuilt byte for byte with {}", manifest.tools.compiler);
    Ok(())
}

fn object_file(name: &str) -> String {
    format!("{name}.bpf.o")
}

/// Names of the object files in a folder, sorted.
fn object_files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".bpf.o") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Hash of everything in the tree that decides over the objects: the files' names and contents, and the flags.
fn source_hash(home: &Path) -> Result<String> {
    let mut files = vec![home.join("src/abi.rs"), home.join("ebpf/Cargo.toml"), home.join("ebpf/Cargo.lock")];
    let mut folders = vec![home.join("ebpf/src"), home.join("src/abi")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { &mut folders } else { &mut files }.push(entry.path());
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    FLAGS.iter().for_each(|flag| add(flag.as_bytes()));
    for file in &files {
        let name = file.strip_prefix(home).context("a source outside of the crate")?;
        add(name.to_string_lossy().as_bytes());
        add(&std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A set of tools that can build the objects.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    linker: PathBuf,
    strip: PathBuf,
    /// The compiler has no core library for the target: build it from its sources.
    build_std: bool,
    core_sources: PathBuf,
    versions: Versions,
}

impl Toolchain {
    /// Finds every compiler that fits, best first, if the other tools are there too.
    fn find_all() -> Result<Vec<Self>> {
        let cargo_bin = cargo_home().join("bin");
        let linker = named("WEIR_BPF_LINKER")
            .or_else(|| proc::which("bpf-linker"))
            .or_else(|| existing(cargo_bin.join("bpf-linker")));
        let strip = named("WEIR_BPF_STRIP")
            .or_else(|| proc::which(&format!("llvm-strip-{LLVM}")))
            .or_else(|| existing(format!("/usr/lib/llvm-{LLVM}/bin/llvm-strip").into()))
            .or_else(|| proc::which("llvm-strip"));
        let (Some(linker), Some(strip)) = (linker, strip) else {
            return Ok(Vec::new());
        };
        let linker_version = first_line(&proc::output(Command::new(&linker).arg("--version"))?);
        let strip_version = proc::output(Command::new(&strip).arg("--version"))?;
        let strip_version = strip_version
            .lines()
            .map(str::trim)
            .find(|l| l.contains("version"))
            .unwrap_or_default()
            .to_owned();

        let nightly = Command::new("rustup")
            .args(["which", "rustc", "--toolchain", "nightly"])
            .output()
            .ok();
        let nightly = nightly
            .filter(|o| o.status.success())
            .map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()));
        let mut found = Vec::new();
        for rustc in named("WEIR_BPF_RUSTC")
            .into_iter()
            .chain(existing("/usr/bin/rustc".into()))
            .chain(nightly)
        {
            let run =
                |arg: &[&str]| proc::output(Command::new(&rustc).env_remove("RUSTUP_TOOLCHAIN").args(arg)).map(|s| s.trim().to_owned());
            let rustlib = Path::new(&run(&["--print", "sysroot"])?).join("lib/rustlib");
            let core_sources = rustlib.join("src/rust");
            let build_std = !rustlib.join(TARGET).join("lib").is_dir();
            let cargo = rustc.with_file_name("cargo");
            if (build_std && !core_sources.join("library/core").is_dir()) || !cargo.is_file() {
                continue;
            }
            let versions = Versions {
                compiler: first_line(&run(&["--version"])?),
                linker: linker_version.clone(),
                strip: strip_version.clone(),
            };
            found.push(Self {
                cargo,
                rustc,
                linker: linker.clone(),
                strip: strip.clone(),
                build_std,
                core_sources,
                versions,
            });
        }
        Ok(found)
    }

    /// Builds and strips every program; returns the objects by name.
    fn build(&self, home: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
        let target_dir = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| proc::repo().join("target"), PathBuf::from)
            .join("builtins");
        // Source paths end up in the line information. Of two that fit, the compiler takes the later.
        let mut remap = vec![(home.to_owned(), "/weir/ebpf-builtins"), (self.core_sources.clone(), "/rust")];
        for registry in std::fs::read_dir(cargo_home().join("registry/src")).into_iter().flatten() {
            remap.push((registry?.path(), "/cargo"));
        }
        let mut flags: Vec<String> = FLAGS.iter().map(|f| (*f).to_owned()).collect();
        flags.push(format!("-Clinker={}", self.linker.display()));
        flags.extend(
            remap
                .iter()
                .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
        );
        let mut cargo = Command::new(&self.cargo);
        cargo
            .current_dir(home.join("ebpf"))
            .args(["build", "--release", "--locked", "--quiet", "--target", TARGET]);
        if self.build_std {
            cargo.args(["-Z", "build-std=core"]);
        }
        // What the cargo that runs this program, or its caller, has set for its own builds must not reach this one.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let ours = ["RUST", "CARGO_PROFILE_", "CARGO_BUILD_", "CARGO_TARGET_", "CARGO_ENCODED_"]
                .iter()
                .any(|p| text.starts_with(p));
            if ours && text != "RUSTUP_HOME" || text == "CARGO" {
                cargo.env_remove(&name);
            }
        }
        cargo
            .env("RUSTC", &self.rustc)
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        // These use inline assembly for BPF, which a stable compiler lets only named crates do.
        cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf,blocklist,flows");
        proc::check(&mut cargo)?;

        let mut objects = BTreeMap::new();
        for name in programs(home)? {
            let stripped = target_dir.join(object_file(&name));
            std::fs::copy(target_dir.join(TARGET).join("release").join(&name), &stripped)?;
            proc::check(Command::new(&self.strip).arg("-g").arg(&stripped))?;
            objects.insert(name, std::fs::read(&stripped)?);
        }
        Ok(objects)
    }
}

/// Names of the programs: the binaries of the workspace.
fn programs(home: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Cargo {
        bin: Vec<Bin>,
    }
    #[derive(Deserialize)]
    struct Bin {
        name: String,
    }
    let cargo: Cargo = toml::from_str(&std::fs::read_to_string(home.join("ebpf/Cargo.toml"))?)?;
    Ok(cargo.bin.into_iter().map(|b| b.name).collect())
}

/// Installs what is missing, in the way that fits the machine.
fn install() -> Result<()> {
    let has_linker = proc::which("bpf-linker").is_some() || cargo_home().join("bin/bpf-linker").is_file();
    let debian = proc::which("apt-get").is_some() && nix::unistd::geteuid().is_root();
    let mut linker = Command::new("cargo");
    linker.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked"]);
    if debian {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "--no-install-recommends"])
            .args(DEBIAN);
        if proc::output(&mut apt).is_err() {
            proc::check(Command::new("apt-get").arg("update"))?;
            proc::check(&mut apt)?;
        }
        let prefix = format!("/usr/lib/llvm-{LLVM}");
        linker.env("LLVM_PREFIX", &prefix).env("LLVM_SYS_221_PREFIX", &prefix);
        linker.args(["--no-default-features", "--features", "llvm-22"]);
    } else {
        proc::check(Command::new("rustup").args(["toolchain", "install", "nightly", "--component", "rust-src"]))?;
    }
    if !has_linker {
        proc::check(&mut linker)?;
    }
    Ok(())
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}
