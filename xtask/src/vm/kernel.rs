//! Debian's kernel packages, fetched by `apt-get` and made ready to boot, once per version.
//!
//! Input: a series such as `6.1`. Output: an uncompressed `vmlinux`, which QEMU starts through its PVH entry point (no BIOS,
//! no decompression under emulation), and the modules, uncompressed and indexed.
//! Cache: `$WEIR_VM_CACHE`, else `$XDG_CACHE_HOME/weir-vm`, else `~/.cache/weir-vm`.

use crate::proc;
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::cmp::Ordering;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The cloud flavour: small, with the drivers that a virtual machine needs.
const FLAVOUR: &str = "-cloud-amd64";

pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    pub vmlinux: PathBuf,
    /// `lib/modules/RELEASE` of the package.
    pub modules: PathBuf,
}

/// Finds a kernel of that series: the newest in the cache, else the newest that apt knows.
///
/// # Errors
/// No such kernel, no network, or a package that does not look as expected.
pub fn find(series: &str) -> Result<Kernel> {
    let cache = cache_dir()?;
    let _lock = lock_cache()?;
    let cached = fs::read_dir(&cache)?.flatten().filter_map(|e| e.file_name().into_string().ok());
    if let Some(release) = newest(cached, series) {
        return Ok(kernel_in(&cache.join(&release), release));
    }
    let release = match offered(series)? {
        Some(release) => release,
        None => {
            proc::check(Command::new("apt-get").args(["-qq", "update"]))?;
            offered(series)?.with_context(|| format!("apt knows no kernel `linux-image-{series}…{FLAVOUR}`"))?
        }
    };
    eprintln!("xtask: downloading linux-image-{release}");
    let unpacked = cache.join(format!("unpacking-{release}"));
    let _ = fs::remove_dir_all(&unpacked);
    fetch(&release, &unpacked)?;
    prepare(&kernel_in(&unpacked, release.clone()))?;
    let place = cache.join(&release);
    fs::rename(&unpacked, &place).with_context(|| format!("cannot move the kernel to {}", place.display()))?;
    Ok(kernel_in(&place, release))
}

/// Keeps others out of the cache, which is made if it is missing: two runs at once must not unpack into one place.
///
/// # Errors
/// It cannot be made.
pub fn lock_cache() -> Result<Flock<fs::File>> {
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = fs::File::create(cache.join("lock")).context("cannot create the cache's lock file")?;
    Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .context("cannot lock the cache")
}

fn kernel_in(dir: &Path, release: String) -> Kernel {
    Kernel {
        vmlinux: dir.join("vmlinux"),
        modules: dir.join("lib/modules").join(&release),
        release,
    }
}

fn cache_dir() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = var("WEIR_VM_CACHE") {
        return Ok(dir);
    }
    let base = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|h| h.join(".cache")));
    Ok(base.context("neither `WEIR_VM_CACHE` nor `HOME` is set")?.join("weir-vm"))
}

/// The newest release of the series that apt could download.
fn offered(series: &str) -> Result<Option<String>> {
    let names = proc::output(Command::new("apt-cache").args(["pkgnames", "linux-image-"]))?;
    Ok(newest(
        names.lines().filter_map(|n| n.strip_prefix("linux-image-")).map(str::to_owned),
        series,
    ))
}

/// The newest of the releases that belong to the series: `6.1` takes `6.1.0-56-cloud-amd64` but not `6.12.…`.
fn newest(releases: impl Iterator<Item = String>, series: &str) -> Option<String> {
    releases.filter(|r| belongs(r, series)).max_by(|a, b| compare(a, b))
}

fn belongs(release: &str, series: &str) -> bool {
    let Some(version) = release.strip_suffix(FLAVOUR) else {
        return false;
    };
    // The package without an exact version (`6.12-cloud-amd64`) only depends on one that has it.
    let exact = version.split(['.', '-', '+']).count() > 2;
    exact
        && version
            .strip_prefix(series)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '+']))
}

/// Compares two releases number by number.
fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |s: &str| {
        s.split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse::<u64>().ok())
            .collect::<Vec<_>>()
    };
    numbers(a).cmp(&numbers(b))
}

fn fetch(release: &str, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let mut get = Command::new("apt-get");
    // Root downloads into its own cache folder, which apt's sandbox user may not enter.
    get.args([
        "-qq",
        "-o",
        "APT::Sandbox::User=root",
        "download",
        &format!("linux-image-{release}"),
    ]);
    proc::output(get.current_dir(into)).with_context(|| format!("cannot download linux-image-{release}"))?;
    let deb = fs::read_dir(into)?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "deb"));
    let deb = deb.context("apt-get downloaded no package")?;
    proc::check(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(into))?;
    fs::remove_file(&deb)?;
    Ok(())
}

/// Uncompresses kernel and modules and writes the modules' index.
fn prepare(kernel: &Kernel) -> Result<()> {
    let top = kernel.vmlinux.parent().context("the kernel has a folder")?;
    let image = top.join("boot").join(format!("vmlinuz-{}", kernel.release));
    let bytes = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
    let vmlinux = vmlinux_of(&bytes).with_context(|| format!("in {}", image.display()))?;
    fs::write(&kernel.vmlinux, vmlinux)?;
    // busybox cannot read compressed modules.
    let mut packed = Vec::new();
    files_below(&kernel.modules, &mut |path| {
        if path.extension().is_some_and(|e| e == "xz") {
            packed.push(path.to_owned());
        }
    })?;
    for some in packed.chunks(100) {
        proc::check(Command::new("xz").args(["-dq", "-T0"]).args(some))?;
    }
    index(kernel)
}

/// Writes down which modules there are and what each needs.
///
/// # Errors
/// busybox is missing.
pub fn index(kernel: &Kernel) -> Result<()> {
    let top = kernel.vmlinux.parent().context("the kernel has a folder")?;
    proc::check(
        Command::new("busybox")
            .args(["depmod", "-b"])
            .arg(top)
            .arg(&kernel.release)
            .current_dir(top),
    )
}

fn files_below(dir: &Path, each: &mut impl FnMut(&Path)) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files_below(&entry.path(), each)?;
        } else if kind.is_file() {
            each(&entry.path());
        }
    }
    Ok(())
}

/// Takes the ELF kernel out of a bzImage. Layout: the kernel's Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
fn vmlinux_of(image: &[u8]) -> Result<Vec<u8>> {
    const SETUP_SECTORS: usize = 0x1f1;
    const MAGIC: usize = 0x202;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    ensure!(image.get(MAGIC..MAGIC + 4) == Some(b"HdrS"), "not a bzImage");
    let setup = (image[SETUP_SECTORS] as usize + 1) * 512;
    let start = setup + word(PAYLOAD_OFFSET).context("the header is cut off")?;
    // The last four bytes are the uncompressed size, appended by the kernel's build.
    let end = start + word(PAYLOAD_LENGTH).context("the header is cut off")?.saturating_sub(4);
    let payload = image.get(start..end).context("the payload is cut off")?;
    let tool: &[&str] = match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => &["lz4", "-dcq", "-"],
        [0x28, 0xb5, 0x2f, 0xfd, ..] => &["zstd", "-dcq", "-"],
        [0x1f, 0x8b, ..] => &["gzip", "-dc"],
        [0xfd, b'7', b'z', b'X', ..] => &["xz", "-dcq", "-"],
        _ => bail!("unknown compression of the payload"),
    };
    let vmlinux = filter(tool, payload)?;
    ensure!(vmlinux.starts_with(b"\x7fELF"), "the payload is no ELF file");
    Ok(vmlinux)
}

/// Sends the bytes through a program and returns what comes out.
fn filter(tool: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", tool[0]))?;
    let mut stdin = child.stdin.take().context("the child has a standard input")?;
    let out = std::thread::scope(|scope| {
        // The tool may end early; its exit code tells.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output()
    })?;
    ensure!(out.status.success(), "`{}` failed ({})", tool[0], out.status);
    Ok(out.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_takes_its_own_releases_and_the_newest_wins() {
        let all = [
            "6.1.0-9-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.1.0-57-amd64",
            "6.12-cloud-amd64",
            "6.12.117+deb12-cloud-amd64",
            "lock",
        ];
        let pick = |series| newest(all.iter().map(|s| (*s).to_owned()), series);
        assert_eq!(pick("6.1").as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(pick("6.12").as_deref(), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(pick("6.1.0-9").as_deref(), Some("6.1.0-9-cloud-amd64"));
        assert_eq!(pick("6.2"), None);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(vmlinux_of(b"short").is_err());
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(vmlinux_of(&image).is_err(), "no known compression");
        image[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(vmlinux_of(&image).is_err(), "the payload lies outside");
    }
}
