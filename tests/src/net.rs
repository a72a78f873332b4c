//! Network namespaces and veth pairs of our own, removed when the value goes, a panic included.
//!
//! Input: nothing. Output: a [`Lab`]: two namespaces, `node` with `veth0` and `peer` with `peer0`, both ends of one cable, with
//! addresses of both families that no other lab has. Neighbours are permanent and ARP is off (which also keeps the kernel from
//! reporting its multicast groups), so the only packets on the cable are those of the test.

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// The interface in the `node` namespace, where weir runs.
pub const NODE_IF: &str = "veth0";
/// The interface in the `peer` namespace, where traffic usually comes from.
pub const PEER_IF: &str = "peer0";
pub const NODE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];

const PREFIX: &str = "weirtest-";

/// A named network namespace of our own.
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    fn new(name: String) -> Result<Self> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(remove_stale);
        ip(&["netns", "add", &name])?;
        let file = match File::open(Path::new("/run/netns").join(&name)) {
            Ok(file) => file,
            Err(error) => {
                let _ = ip(&["netns", "del", &name]);
                return Err(error).context("cannot open the new network namespace");
            }
        };
        Ok(Self { name, file })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// An open file of the namespace, for `setns`.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs the closure in a thread inside this namespace, kept on one processor so that its packets stay in order.
    ///
    /// # Errors
    /// The closure's own, or `setns` was refused.
    ///
    /// # Panics
    /// Goes on with the closure's panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
                stay_on_one_cpu()?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` in this namespace and returns what it prints.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.name], args].concat())
    }

    /// Runs `tc` in this namespace and returns what it prints.
    pub fn tc(&self, args: &[&str]) -> Result<String> {
        tool("tc", &[&["-n", &self.name], args].concat(), None)
    }

    /// Puts the program of an object of `weir build` at an interface's clsact, with these options of the filter.
    pub fn classify(&self, iface: &str, direction: &str, options: &[&str], object: &str) -> Result<()> {
        let filter = [&["filter", "add", "dev", iface, direction], options].concat();
        self.tc(&[&filter[..], &["bpf", "da", "obj", object, "sec", "classifier"]].concat())
            .map(drop)
    }

    /// Sets a sysctl of this namespace: `net/ipv4/tcp_early_retrans`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net shows the namespace of whoever opens it.
        self.run(|| std::fs::write(Path::new("/proc/sys").join(key), value).with_context(|| format!("cannot set {key}")))
    }

    /// A counter of `/proc/net/snmp` in this namespace, such as `Tcp` `RetransSegs`.
    pub fn snmp(&self, group: &str, counter: &str) -> Result<u64> {
        self.counter("snmp", group, counter)
    }

    /// A counter of `/proc/net/netstat` in this namespace, such as `TcpExt` `TCPLossProbes`.
    pub fn netstat(&self, group: &str, counter: &str) -> Result<u64> {
        self.counter("netstat", group, counter)
    }

    fn counter(&self, file: &str, group: &str, counter: &str) -> Result<u64> {
        // Not /proc/net: that is the namespace of the process's first thread.
        let path = Path::new("/proc/thread-self/net").join(file);
        let text = self.run(|| std::fs::read_to_string(&path).context("cannot read the counters"))?;
        let mut lines = text.lines().filter_map(|l| l.strip_prefix(group)?.strip_prefix(": "));
        let (names, values) = lines
            .next()
            .zip(lines.next())
            .with_context(|| format!("no group {group} in {text}"))?;
        let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == counter);
        let (_, value) = found.with_context(|| format!("no counter {counter} in {names}"))?;
        value.parse().with_context(|| format!("{counter} is `{value}`"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("test support: {error:#}");
        }
    }
}

/// Removes the namespaces of test processes that were killed.
fn remove_stale() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn stay_on_one_cpu() -> Result<()> {
    let here = nix::unistd::Pid::from_raw(0);
    let allowed = nix::sched::sched_getaffinity(here).context("cannot ask for the processors")?;
    let first = (0..nix::sched::CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = nix::sched::CpuSet::new();
    one.set(first.context("no processor is allowed")?)?;
    nix::sched::sched_setaffinity(here, &one).context("cannot stay on one processor")
}

/// Two namespaces and the cable between them; also a folder for files, which is weir's current directory.
pub struct Lab {
    pub node: Netns,
    pub peer: Netns,
    pub dir: TempDir,
    subnet: (u8, u8),
}

impl Lab {
    /// Makes namespaces, cable and addresses.
    ///
    /// # Errors
    /// iproute2 is missing, or we are not root.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let node = Netns::new(format!("{PREFIX}{pid}-{serial}n"))?;
        let peer = Netns::new(format!("{PREFIX}{pid}-{serial}p"))?;
        // Probes on the kernel's functions see every namespace: labs of other tests must not look like this one. Nor like what tests put
        // on lists, which is below 10.192.0.0.
        let lab = Self {
            node,
            peer,
            dir: TempDir::new()?,
            subnet: (192 + (pid % 60) as u8, (serial % 256) as u8),
        };
        for ns in [&lab.node, &lab.peer] {
            ns.run(|| {
                let set = |key: &str, value: &str| {
                    std::fs::write(Path::new("/proc/sys/net").join(key), value).with_context(|| format!("cannot set {key}"))
                };
                // Spoofed sources must arrive, and nothing may be sent that the test does not send.
                for key in ["all", "default"] {
                    set(&format!("ipv4/conf/{key}/rp_filter"), "0")?;
                    set(&format!("ipv6/conf/{key}/accept_dad"), "0")?;
                    set(&format!("ipv6/conf/{key}/router_solicitations"), "0")?;
                }
                // A tail loss probe is a retransmission that bypasses `tcp_retransmit_skb`.
                set("ipv4/tcp_early_retrans", "0")
            })?;
        }
        let (node, peer) = (lab.node.name(), lab.peer.name());
        let (node_mac, peer_mac) = (mac(NODE_MAC), mac(PEER_MAC));
        ip_batch(
            node,
            &format!("link add {NODE_IF} address {node_mac} type veth peer name {PEER_IF} address {peer_mac} netns {peer}\n"),
        )?;
        let side = |name: &str, addr: (Ipv4Addr, Ipv6Addr), other: (Ipv4Addr, Ipv6Addr), other_mac: &str| {
            format!(
                "link set lo up\nlink set {name} addrgenmode none arp off\nlink set {name} up\n\
                 addr add {}/24 dev {name}\naddr add {}/64 dev {name} nodad\n\
                 neigh replace {} lladdr {other_mac} dev {name} nud permanent\n\
                 neigh replace {} lladdr {other_mac} dev {name} nud permanent\n",
                addr.0, addr.1, other.0, other.1
            )
        };
        let (node_addr, peer_addr) = ((lab.node4(), lab.node6()), (lab.peer4(), lab.peer6()));
        ip_batch(node, &side(NODE_IF, node_addr, peer_addr, &peer_mac))?;
        ip_batch(peer, &side(PEER_IF, peer_addr, node_addr, &node_mac))?;
        Ok(lab)
    }

    fn v4(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet.0, self.subnet.1, host)
    }

    fn v6(&self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, u16::from(self.subnet.0), u16::from(self.subnet.1), 0, 0, 0, 0, host)
    }

    pub fn node4(&self) -> Ipv4Addr {
        self.v4(1)
    }

    pub fn peer4(&self) -> Ipv4Addr {
        self.v4(2)
    }

    pub fn node6(&self) -> Ipv6Addr {
        self.v6(1)
    }

    pub fn peer6(&self) -> Ipv6Addr {
        self.v6(2)
    }

    /// Makes one more cable between node and peer, without addresses; it goes with the namespaces.
    pub fn add_cable(&self, node_if: &str, peer_if: &str) -> Result<()> {
        let (node, peer) = (self.node.name(), self.peer.name());
        ip_batch(
            node,
            &format!(
                "link add {node_if} type veth peer name {peer_if} netns {peer}\nlink set {node_if} addrgenmode none arp off\nlink set {node_if} up\n"
            ),
        )?;
        ip_batch(
            peer,
            &format!("link set {peer_if} addrgenmode none arp off\nlink set {peer_if} up\n"),
        )
    }

    /// Makes an encrypted tunnel through the cable, `wg0` at both ends, with addresses of both families; returns those of node and peer.
    ///
    /// # Errors
    /// The kernel has no WireGuard, or its tool is missing.
    pub fn add_wireguard(&self) -> Result<[[IpAddr; 2]; 2]> {
        // Any 32 bytes are a key.
        const KEYS: [&str; 2] = [
            "ERERERERERERERERERERERERERERERERERERERERERE=",
            "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=",
        ];
        const PORT: u16 = 51820;
        for (ns, far, own, other) in [(&self.node, self.peer4(), 0, 1), (&self.peer, self.node4(), 1, 0)] {
            let host = own + 1;
            let commands = format!(
                "link add wg0 type wireguard\nlink set wg0 addrgenmode none\naddr add 10.66.0.{host}/24 dev wg0\n\
                 addr add fd66::{host}/64 dev wg0 nodad\n"
            );
            ip_batch(ns.name(), &commands)?;
            let public = tool("wg", &["pubkey"], Some(KEYS[other]))?;
            let (port, endpoint) = (PORT.to_string(), format!("{far}:{PORT}"));
            let inside = ["netns", "exec", ns.name(), "wg", "set", "wg0", "listen-port", &port];
            let keys = ["private-key", "/dev/stdin", "peer", public.trim(), "allowed-ips", "0.0.0.0/0,::/0"];
            tool("ip", &[&inside[..], &keys, &["endpoint", &endpoint]].concat(), Some(KEYS[own]))?;
            ip_batch(ns.name(), "link set wg0 up\n")?;
        }
        let both = |host: u8| -> [IpAddr; 2] {
            let v6 = Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, host.into());
            [Ipv4Addr::new(10, 66, 0, host).into(), v6.into()]
        };
        Ok([both(1), both(2)])
    }

    /// Cuts or restores the way from node to peer, without a packet of its own: the node gets a wrong or the right hardware
    /// address for the peer, and the peer's kernel ignores frames that are not for it.
    pub fn cut(&self, cut: bool) -> Result<()> {
        let to = if cut { [0x02, 0, 0, 0, 0, 0x99] } else { PEER_MAC };
        for peer in [self.peer4().to_string(), self.peer6().to_string()] {
            let to = mac(to);
            self.node
                .ip(&["neigh", "replace", &peer, "lladdr", &to, "dev", NODE_IF, "nud", "permanent"])?;
        }
        Ok(())
    }
}

/// A tun interface: no Ethernet, packets start with IP. It goes with the value.
pub struct Tun {
    file: File,
}

impl Tun {
    /// Makes one and brings it up.
    ///
    /// # Errors
    /// The kernel has no tun, or we are not root.
    pub fn new(ns: &Netns, name: &str) -> Result<Self> {
        Self::made(ns, name, None)
    }

    /// Makes one that says of its packets that they are of another kind (`ARPHRD_*`), and brings it up.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn of_kind(ns: &Netns, name: &str, kind: libc::c_int) -> Result<Self> {
        Self::made(ns, name, Some(kind))
    }

    fn made(ns: &Netns, name: &str, kind: Option<libc::c_int>) -> Result<Self> {
        const TUNSETLINK: libc::c_ulong = 0x4004_54cd;
        const IFF_TUN: libc::c_short = 1;
        const IFF_NO_PI: libc::c_short = 0x1000;
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        let file = ns.run(|| {
            let file = File::options()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .context("cannot open /dev/net/tun")?;
            // SAFETY: all zero is a valid `ifreq`, a struct of integers.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = libc::c_char::from_ne_bytes([byte]);
            }
            request.ifr_ifru.ifru_flags = IFF_TUN | IFF_NO_PI;
            // SAFETY: the request reads and writes one `ifreq`, a live one.
            let result = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), TUNSETIFF, &raw mut request) };
            ensure!(result == 0, "cannot make a tun interface: {}", std::io::Error::last_os_error());
            if let Some(kind) = kind {
                // SAFETY: the request takes a number.
                let result = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), TUNSETLINK, kind) };
                ensure!(
                    result == 0,
                    "cannot set the kind of the interface: {}",
                    std::io::Error::last_os_error()
                );
            }
            Ok(file)
        })?;
        ip_batch(ns.name(), &format!("link set {name} addrgenmode none\nlink set {name} up\n"))?;
        Ok(Self { file })
    }

    /// Lets the interface receive this packet, the given number of times.
    pub fn receive(&self, packet: &[u8], count: u32) -> Result<()> {
        for _ in 0..count {
            (&self.file).write_all(packet).context("the tun interface refuses a packet")?;
        }
        Ok(())
    }
}

/// A card of the driver `netdevsim`: it takes XDP programs and never runs them. It goes with the value.
pub struct Simulated {
    id: u32,
}

/// What makes such cards, and what removes them.
const NEW_CARD: &str = "/sys/bus/netdevsim/new_device";
const NO_CARD: &str = "/sys/bus/netdevsim/del_device";

impl Simulated {
    /// Whether there is such a driver, as a module that is loaded now or otherwise.
    pub fn kind_is_known() -> Result<bool> {
        let lab = Lab::new()?;
        // Refused in any case: they are made otherwise. The question loads the module.
        let _ = lab.node.ip(&["link", "add", "try7", "type", "netdevsim"]);
        Ok(Path::new(NEW_CARD).exists())
    }

    /// Makes one with an interface of this name, and brings that up.
    ///
    /// # Errors
    /// There is no such driver, or we are not root.
    pub fn new(ns: &Netns, name: &str) -> Result<Self> {
        let names = || -> Result<Vec<String>> {
            let links = ns.ip(&["-o", "link", "show"])?;
            let names = links.lines().filter_map(|l| l.split(": ").nth(1)).map(str::to_owned);
            Ok(names.collect())
        };
        let before = names()?;
        // Two numbers of one process do not meet, and those of two processes do not either.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed) % 64;
        // It appears in the namespace of whoever writes.
        ns.run(|| std::fs::write(NEW_CARD, format!("{id} 1")).context("cannot make a card"))?;
        let card = Self { id };
        let new = names()?.into_iter().find(|n| !before.contains(n));
        let new = new.context("the new card has no interface")?;
        ip_batch(
            ns.name(),
            &format!("link set {new} name {name}\nlink set {name} addrgenmode none\nlink set {name} up\n"),
        )?;
        Ok(card)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(NO_CARD, self.id.to_string()) {
            eprintln!("test support: cannot remove card {}: {error}", self.id);
        }
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

fn ip(args: &[&str]) -> Result<String> {
    tool("ip", args, None)
}

/// Several `ip` commands in one process: starting one is dear on an emulated machine.
fn ip_batch(ns: &str, commands: &str) -> Result<()> {
    tool("ip", &["-n", ns, "-batch", "-"], Some(commands)).map(drop)
}

fn tool(program: &str, args: &[&str], input: Option<&str>) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{program}` (package iproute2)"))?;
    if let (Some(mut stdin), Some(text)) = (child.stdin.take(), input) {
        stdin.write_all(text.as_bytes())?;
    }
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!(
            "`{program} {}` failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A folder of our own, removed when the value goes.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Result<Self> {
        Self::below(std::env::temp_dir())
    }

    /// One in another place than the usual.
    pub fn below(folder: impl AsRef<Path>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = folder.as_ref().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in this folder.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        ensure!(!name.contains('/'), "`{name}` is not a plain file name");
        std::fs::write(self.0.join(name), text).with_context(|| format!("cannot write {name}"))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
