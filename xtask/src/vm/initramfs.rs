//! What the guest boots into: busybox, the modules that reach the shared file system, and one script.
//!
//! Input: the kernel and the run's [`Spec`]. Output: the bytes of an uncompressed cpio archive ("newc": the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst). All other modules are loaded by the kernel when it wants
//! them, from the package in the cache, which the guest sees through the shared file system.

use super::Spec;
use super::kernel::Kernel;
use crate::proc;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Needed before the shared file system is there, in this order.
const EARLY_MODULES: &[&str] = &["virtio_pci", "fuse", "virtiofs", "overlay"];

/// The first process. Port S1 carries standard output, S2 standard error, S3 the exit code.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for port in 1 2 3; do stty -F /dev/ttyS$port raw -echo 115200; done
for module in $(cat /run/modules); do
    modprobe "$module" || echo "init: no module $module"
done
fail() { echo "init: $1"; reboot -f; }
mount -t virtiofs -o ro host /host || fail "cannot mount the shared file system"
mount -t tmpfs -o size=75% memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root || fail "cannot mount the overlay"
release=$(uname -r)
mount -o bind "/host$(cat /run/module-dir)" "/lib/modules/$release" || fail "no modules"
mkdir -p "/root/lib/modules/$release"
mount -o bind "/lib/modules/$release" "/root/lib/modules/$release"
for dir in proc sys dev; do mount -o bind /$dir /root/$dir; done
cp /run/command /root/weir-vm-command
mount -t tmpfs tmpfs /root/run
mkdir -p /root/run/netns /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
# Who opens it has the kernel load the module.
mkdir /dev/net
mknod /dev/net/tun c 10 200
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for dir in /sys/kernel/debug /sys/kernel/tracing /sys/fs/bpf /sys/fs/cgroup; do mount -o bind $dir /root$dir; done
for dir in /dev/pts /dev/shm; do mount -o bind $dir /root$dir; done
ip link set lo up
hostname weir-vm
echo 1 >/proc/sys/net/core/bpf_jit_enable
setsid chroot /root /bin/sh /weir-vm-command </dev/null >/dev/ttyS1 2>/dev/ttyS2
code=$?
# The ports must be empty before the machine stops.
stty -F /dev/ttyS1 115200; stty -F /dev/ttyS2 115200
echo "exit $code" >/dev/ttyS3
stty -F /dev/ttyS3 115200
reboot -f
"#;

/// Builds the archive.
///
/// # Errors
/// A module or busybox is missing.
pub fn build(kernel: &Kernel, spec: &Spec<'_>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in [
        "bin",
        "sbin",
        "dev",
        "proc",
        "sys",
        "run",
        "host",
        "memory",
        "root",
        "lib",
        "lib/modules",
        "usr",
        "usr/bin",
    ] {
        archive.dir(dir);
    }
    let busybox = proc::which("busybox").context("`busybox` is not installed")?;
    archive.file("bin/busybox", 0o755, &fs::read(busybox)?);
    // The kernel calls this path by itself when it wants a module.
    archive.link("sbin/modprobe", "../bin/busybox");
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("run/modules", 0o644, EARLY_MODULES.join("\n").as_bytes());
    archive.file("run/module-dir", 0o644, kernel.modules.to_string_lossy().as_bytes());
    archive.file("run/command", 0o755, command(spec)?.as_bytes());

    let base = format!("lib/modules/{}", kernel.release);
    archive.dirs(&base);
    for index in ["modules.dep", "modules.alias", "modules.symbols"] {
        archive.file(
            &format!("{base}/{index}"),
            0o644,
            &fs::read(kernel.modules.join(index)).unwrap_or_default(),
        );
    }
    let dep = fs::read_to_string(kernel.modules.join("modules.dep")).context("the kernel has no modules.dep")?;
    for file in EARLY_MODULES.iter().flat_map(|m| files_of(&dep, m)).collect::<BTreeSet<_>>() {
        let path = format!("{base}/{file}");
        if let Some(parent) = Path::new(&path).parent() {
            archive.dirs(&parent.to_string_lossy());
        }
        archive.file(&path, 0o644, &fs::read(kernel.modules.join(file))?);
    }
    Ok(archive.finish())
}

/// The module's own file and those it depends on, as modules.dep names them; none if the module is built in.
fn files_of<'a>(dep: &'a str, module: &str) -> Vec<&'a str> {
    let plain = |s: &str| s.replace('-', "_");
    for line in dep.lines() {
        let Some((file, needs)) = line.split_once(':') else { continue };
        let name = file.rsplit('/').next().unwrap_or(file);
        if plain(name.trim_end_matches(".ko")) == plain(module) {
            return std::iter::once(file).chain(needs.split_whitespace()).collect();
        }
    }
    Vec::new()
}

/// The script that runs the command inside the guest as it would run here.
fn command(spec: &Spec<'_>) -> Result<String> {
    let here = std::env::current_dir().context("the current directory is gone")?;
    let mut s = String::from("#!/bin/sh\n");
    let mut set = |name: &str, value: &str| writeln!(s, "export {name}={}", quoted(value));
    let path = std::env::var("PATH").unwrap_or_default();
    set("PATH", &format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"))?;
    set("HOME", "/root")?;
    set("TERM", "dumb")?;
    for (name, value) in spec.env {
        set(name, value)?;
    }
    writeln!(s, "cd {} || exit 126", quoted(&here.to_string_lossy()))?;
    s.push_str("exec");
    for word in spec.command {
        s.push(' ');
        s.push_str(&quoted(word));
    }
    s.push('\n');
    Ok(s)
}

/// The text as one word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A cpio archive under construction.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    made: BTreeSet<String>,
}

impl Archive {
    fn dir(&mut self, path: &str) {
        if self.made.insert(path.to_owned()) {
            self.entry(path, 0o040_755, &[]);
        }
    }

    /// The folder and those above it.
    fn dirs(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.dir(&path[..at]);
        }
        self.dir(path);
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, 0o100_000 | mode, content);
    }

    fn link(&mut self, path: &str, target: &str) {
        self.entry(path, 0o120_777, target.as_bytes());
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let (ino, size, name_size) = (self.inode, content.len() as u32, path.len() as u32 + 1);
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_what_cpio_reads() {
        let mut archive = Archive::default();
        archive.dirs("a/b");
        archive.file("a/b/c", 0o644, b"hello");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"070701"));
        assert!(bytes.len().is_multiple_of(4));
        let names: Vec<_> = ["a\0", "a/b\0", "a/b/c\0", "TRAILER!!!\0"]
            .iter()
            .map(|n| bytes.windows(n.len()).position(|w| w == n.as_bytes()).unwrap())
            .collect();
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn a_module_comes_with_what_it_needs() {
        let dep = "kernel/fs/fuse/fuse.ko:\nkernel/fs/fuse/virtiofs.ko: kernel/fs/fuse/fuse.ko kernel/v/virtio-ring.ko\n";
        assert_eq!(
            files_of(dep, "virtiofs"),
            ["kernel/fs/fuse/virtiofs.ko", "kernel/fs/fuse/fuse.ko", "kernel/v/virtio-ring.ko"]
        );
        assert!(files_of(dep, "built_in").is_empty());
    }

    #[test]
    fn the_command_survives_the_shell() {
        let words = ["echo".to_owned(), "it's $HOME".to_owned()];
        let env = [("A".to_owned(), "b c".to_owned())];
        let script = command(&Spec {
            env: &env,
            ..Spec::new("6.1", &words)
        })
        .unwrap();
        assert!(script.contains(r"exec 'echo' 'it'\''s $HOME'"), "{script}");
        assert!(script.contains("export A='b c'"), "{script}");
    }
}
