//! Two pods: network namespaces with an interface on the node, processes in cgroups of their own, and a policy for them.
//!
//! Cgroups and the policy's file have names, so they outlive a demonstration that is killed; the next one removes what it left.

use super::net::{Cable, Netns};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use weir_runtime::sys::cgroup::Cgroup2;

const PREFIX: &str = "weir-demo-";
/// Who asks which ports, on the node's address of its own cable.
const PODS: [(&str, &[u16]); 2] = [("web", &[80, 22]), ("batch", &[80])];

/// Pods that talk; they end with the value.
pub struct Pods {
    children: Vec<Child>,
    cgroups: Vec<String>,
    dir: PathBuf,
    _namespaces: Vec<Netns>,
}

impl Pods {
    /// Makes them; `None` where there is no cgroup v2.
    pub fn start(cable: &Cable) -> Result<Option<Self>> {
        let Ok(tree) = Cgroup2::get() else { return Ok(None) };
        remove_stale(tree);
        let own = format!("{PREFIX}{}", std::process::id());
        let dir = std::env::temp_dir().join(&own);
        std::fs::create_dir(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
        let mut pods = Self {
            children: Vec::new(),
            cgroups: Vec::new(),
            dir,
            _namespaces: Vec::new(),
        };
        pods.make_cgroup(tree, format!("/{own}"))?;
        let mut policy = String::from("default = \"deny\"\n");
        for (i, (name, ports)) in PODS.into_iter().enumerate() {
            let path = format!("/{own}/{name}");
            let procs = pods.make_cgroup(tree, path.clone())?;
            policy.push_str(&format!("[[identity]]\nname = \"{name}\"\ncgroup = \"{path}\"\n"));
            let address = |host| IpAddr::V4(Ipv4Addr::new(10, 0, 1 + i as u8, host));
            let namespace = Netns::new()?;
            cable.add(&namespace, &format!("pod-{name}"), &[address(1)], &[address(2)])?;
            let targets: Vec<SocketAddr> = ports.iter().map(|port| SocketAddr::new(address(1), *port)).collect();
            pods.children.push(spawn(&procs, &namespace, &targets)?);
            pods._namespaces.push(namespace);
        }
        policy.push_str("[[rule]]\nname = \"web may browse\"\nfrom = \"web\"\nport = 80\nproto = \"tcp\"\nverdict = \"allow\"\n");
        std::fs::write(pods.policy(), policy).context("cannot write the policy")?;
        Ok(Some(pods))
    }

    /// The policy's file.
    pub fn policy(&self) -> PathBuf {
        self.dir.join("policy.toml")
    }

    fn make_cgroup(&mut self, tree: &Cgroup2, path: String) -> Result<File> {
        let procs = tree.make(&path).with_context(|| format!("cannot make the cgroup `{path}`"))?;
        self.cgroups.push(path);
        Ok(procs)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Ok(tree) = Cgroup2::get() {
            // The ones below first.
            for path in self.cgroups.iter().rev() {
                let _ = tree.remove(path);
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Removes the cgroups and folders of demonstrations that were killed.
fn remove_stale(tree: &Cgroup2) {
    let is_dead = |name: &str| {
        let pid = name
            .strip_prefix(PREFIX)
            .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && !pid.is_empty());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    for path in tree
        .find(&format!("/{PREFIX}*"))
        .into_iter()
        .filter(|p| is_dead(p.trim_start_matches('/')))
    {
        for (name, _) in PODS {
            let _ = tree.remove(&format!("{path}/{name}"));
        }
        let _ = tree.remove(&path);
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if is_dead(&entry.file_name().to_string_lossy()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn spawn(procs: &File, namespace: &Netns, targets: &[SocketAddr]) -> Result<Child> {
    let exe = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(exe.as_deref().unwrap_or(Path::new("/proc/self/exe")));
    command.arg("demo");
    for target in targets {
        command.arg("--pod").arg(target.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (procs, netns) = (procs.as_raw_fd(), namespace.file().as_raw_fd());
    // SAFETY: all three are async-signal-safe; the descriptors are open until the child has started.
    unsafe {
        command.pre_exec(move || {
            if libc::write(procs, c"0".as_ptr().cast(), 1) != 1
                || libc::setns(netns, libc::CLONE_NEWNET) < 0
                || libc::prctl(libc::PR_SET_PDEATHSIG, Signal::SIGKILL as libc::c_int) < 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn().context("cannot start a pod")
}

/// What the process of a pod does: it asks everybody in turn, until it is killed.
pub fn talk(targets: &[SocketAddr]) -> ! {
    loop {
        for target in targets {
            if let Ok(mut stream) = TcpStream::connect_timeout(target, Duration::from_millis(250)) {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(250)));
                let mut page = Vec::new();
                let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
                let _ = stream.read_to_end(&mut page);
            }
            std::thread::sleep(Duration::from_millis(60));
        }
    }
}
