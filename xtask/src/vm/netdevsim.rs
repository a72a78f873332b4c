//! `netdevsim` for the guests: a driver whose cards exist in the kernel alone and take XDP programs. Debian builds it for no kernel.
//!
//! Input: a series. Output: the module beside the others of its kernel in the cache. It is built once, from Debian's source package of
//! exactly that kernel and its headers, which are unpacked and thrown away again: nothing is installed. A guest loads it when somebody
//! asks for an interface of the kind.

use super::kernel::{self, Kernel};
use crate::proc;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the module lies, below the kernel's modules.
const PLACE: &str = "extra/netdevsim.ko";

/// Written to whenever a package comes or goes.
const PACKAGES: &str = "/var/lib/dpkg/status";

/// Takes the driver's folder out of a source package.
const EXTRACT: &str = r#"
    dpkg-deb --fsys-tarfile "$1" | tar -xO "./usr/src/$2.tar.xz" | tar -xJ "$2/drivers/net/netdevsim"
"#;

/// Builds the module if it is not there yet.
///
/// # Errors
/// Why it cannot be built: most likely, the archive has a newer source by now than the kernel in the cache.
pub fn make(series: &str) -> Result<()> {
    let kernel = kernel::find(series)?;
    let _lock = kernel::lock_cache()?;
    let module = kernel.modules.join(PLACE);
    if module.exists() {
        return Ok(());
    }
    let failed = kernel.modules.join("no-netdevsim");
    if let Some(reason) = said_since(Path::new(PACKAGES), &failed) {
        bail!("{} (said in {})", reason.trim(), failed.display());
    }
    eprintln!("xtask: building netdevsim for {}", kernel.release);
    let work = kernel.modules.join("building-netdevsim");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let built = fetch(&kernel, &work).and_then(|(source, headers)| {
        build(&source, &headers).inspect_err(|e| {
            // The same code will not compile the next time, either, with the same packages. What could not be fetched may be there then.
            let _ = fs::write(&failed, format!("{e:#}"));
        })
    });
    let kept = built.and_then(|file| keep(&kernel, &file, &module));
    let _ = fs::remove_dir_all(&work);
    kept
}

/// What a file says, unless the other has been written to since.
fn said_since(other: &Path, file: &Path) -> Option<String> {
    let written = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    if written(other) > written(file) {
        return None;
    }
    fs::read_to_string(file).ok()
}

/// Fetches what it takes; returns the driver's folder and that of the headers.
fn fetch(kernel: &Kernel, work: &Path) -> Result<(PathBuf, PathBuf)> {
    let version = version(kernel)?;
    let release = &kernel.release;
    let mut numbers = release.split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        bail!("`{release}` has no version");
    };
    let source = format!("linux-source-{major}.{minor}");
    let headers = format!("linux-headers-{release}");
    let deb = download(&source, &version, work)?;
    let mut extract = Command::new("sh");
    extract.args(["-c", EXTRACT, "sh"]).arg(&deb).arg(&source).current_dir(work);
    proc::check(&mut extract)?;
    fs::remove_file(&deb)?;
    let deb = download(&headers, &version, work)?;
    let depends = proc::output(Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Depends"))?;
    unpack(&deb, work)?;
    for name in depends.split([',', '|']).filter_map(|d| d.split_whitespace().next()) {
        if name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-") {
            unpack(&download(name, &version, work)?, work)?;
        }
    }
    // The one path in them that is not relative.
    let headers = work.join("usr/src").join(headers);
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile).with_context(|| format!("cannot read {}", makefile.display()))?;
    fs::write(&makefile, text.replace(" /usr/", &format!(" {}/usr/", work.display())))?;
    Ok((work.join(source).join("drivers/net/netdevsim"), headers))
}

/// The version of the kernel's package, as its source has it: `6.1.192-2`.
fn version(kernel: &Kernel) -> Result<String> {
    let top = kernel.vmlinux.parent().context("the kernel has a folder")?;
    let changes = top.join(format!("usr/share/doc/linux-image-{}/changelog.gz", kernel.release));
    let text = proc::output(Command::new("gzip").arg("-dc").arg(&changes))?;
    source_version(&text).with_context(|| format!("{} names no version", changes.display()))
}

fn source_version(changelog: &str) -> Option<String> {
    let (name, rest) = changelog.split_once(" (")?;
    let (version, _) = rest.split_once(')')?;
    // The signed packages count for themselves behind a `+`.
    let signed = name.starts_with("linux-signed");
    Some(if signed {
        version.replacen('+', "-", 1)
    } else {
        version.to_owned()
    })
}

fn download(name: &str, version: &str, into: &Path) -> Result<PathBuf> {
    let mut get = Command::new("apt-get");
    get.args(["-qq", "-o", "APT::Sandbox::User=root", "download", &format!("{name}={version}")]);
    proc::output(get.current_dir(into)).with_context(|| format!("the archive has no {name} of version {version}"))?;
    let deb = fs::read_dir(into)?.flatten().map(|e| e.path()).find(|p| {
        let file = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        file.starts_with(&format!("{name}_"))
    });
    deb.context("apt-get downloaded no package")
}

fn unpack(deb: &Path, into: &Path) -> Result<()> {
    proc::check(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into))?;
    Ok(fs::remove_file(deb)?)
}

fn build(source: &Path, headers: &Path) -> Result<PathBuf> {
    let mut make = Command::new("make");
    make.arg("-C")
        .arg(headers)
        .arg(format!("M={}", source.display()))
        .args(["CONFIG_NETDEVSIM=m", "modules"]);
    proc::output(&mut make)?;
    let file = source.join("netdevsim.ko");
    // The debugging information is 30 times the rest.
    proc::output(Command::new("strip").arg("--strip-debug").arg(&file))?;
    Ok(file)
}

fn keep(kernel: &Kernel, file: &Path, module: &Path) -> Result<()> {
    let folder = module.parent().context("the module has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::rename(file, module).with_context(|| format!("cannot move the module to {}", module.display()))?;
    kernel::index(kernel).inspect_err(|_| {
        let _ = fs::remove_file(module);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_source() {
        let of = |text| source_version(text).unwrap();
        assert_eq!(of("linux-signed-amd64 (6.1.192+2) bookworm-security; urgency=high\n"), "6.1.192-2");
        assert_eq!(of("linux-signed-6.12-amd64 (6.12.117+1~deb12u1) x\n"), "6.12.117-1~deb12u1");
        assert_eq!(of("linux (6.1.192-2+b1) x\n"), "6.1.192-2+b1");
        assert_eq!(source_version("nothing"), None);
    }

    #[test]
    fn a_failure_counts_until_a_package_is_installed() {
        let folder = std::env::temp_dir().join(format!("weir-netdevsim-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (packages, failed) = (folder.join("packages"), folder.join("failed"));
        let write = |path: &Path, at: u64| {
            fs::write(path, "why").unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at);
            fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
        };
        assert_eq!(said_since(&packages, &failed), None);
        write(&failed, 2000);
        assert_eq!(said_since(&packages, &failed).as_deref(), Some("why"));
        write(&packages, 1000);
        assert_eq!(said_since(&packages, &failed).as_deref(), Some("why"));
        write(&packages, 3000);
        assert_eq!(said_since(&packages, &failed), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
