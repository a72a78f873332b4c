//! Two network namespaces and a cable between them, without any other program's help.
//!
//! The namespaces have no name and no owner but our descriptors: however this process ends, they and everything in them go.

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The interface in the namespace where weir runs.
pub const NODE_IF: &str = "veth0";
const PEER_IF: &str = "peer0";

pub const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub const NODE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
pub const CLIENTS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 4)),
];
pub const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));

/// A network namespace without a name.
pub struct Netns {
    file: File,
}

impl Netns {
    pub fn new() -> Result<Self> {
        // unshare(2) is per thread: the thread goes, the namespace stays with the descriptor.
        let made = std::thread::spawn(|| -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Self {
            file: file.context("cannot make a network namespace (it takes root, or CAP_SYS_ADMIN)")?,
        })
    }

    /// An open file of it, for setns(2).
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs the work on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread inside.
    pub fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")
    }
}

/// Where weir runs, and where its clients are.
pub struct Cable {
    pub node: Netns,
    pub peer: Netns,
}

impl Cable {
    /// Makes both ends and gives them their addresses.
    ///
    /// # Errors
    /// Without the privilege, or without veth interfaces in the kernel.
    pub fn new() -> Result<Self> {
        let (node, peer) = (Netns::new()?, Netns::new()?);
        let mut clients = CLIENTS.to_vec();
        clients.push(CLIENT6);
        connect(&node, &peer, NODE_IF, &[NODE, NODE6], &clients)?;
        Ok(Self { node, peer })
    }

    /// Makes another cable, from the node to somebody else.
    pub fn add(&self, other: &Netns, name: &str, here: &[IpAddr], there: &[IpAddr]) -> Result<()> {
        connect(&self.node, other, name, here, there)
    }
}

/// A cable between two namespaces, with addresses at both ends.
fn connect(node: &Netns, peer: &Netns, name: &str, here: &[IpAddr], there: &[IpAddr]) -> Result<()> {
    let peer_fd = peer.file.as_raw_fd();
    node.run(|| {
        let mut netlink = Netlink::open()?;
        netlink
            .send(add_veth(name, peer_fd))
            .context("cannot make a pair of veth interfaces")?;
        netlink.configure(name, here)
    })?;
    peer.run(|| Netlink::open()?.configure(PEER_IF, there))
}

/// A rtnetlink message under construction (`linux/netlink.h`).
struct Message(Vec<u8>);

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// The address is usable at once.
const IFA_F_NODAD: u8 = 0x02;

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut buf = vec![0; 16];
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        buf[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        Self(buf)
    }

    /// `struct ifinfomsg`
    fn ifinfo(mut self, index: u32, flags: u32) -> Self {
        self.0.extend_from_slice(&[0; 4]);
        for word in [index, flags, flags] {
            self.0.extend_from_slice(&word.to_ne_bytes());
        }
        self
    }

    fn attr(mut self, kind: u16, data: &[u8]) -> Self {
        self.0.extend_from_slice(&(4 + data.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn name(self, name: &str) -> Self {
        self.attr(IFLA_IFNAME, format!("{name}\0").as_bytes())
    }

    fn nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = inside(self.attr(kind, &[]));
        let len = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }
}

/// The pair, one end here and one in the namespace of the descriptor.
fn add_veth(name: &str, peer: i32) -> Message {
    Message::new(libc::RTM_NEWLINK, NLM_F_CREATE_EXCL)
        .ifinfo(0, 0)
        .name(name)
        .nested(IFLA_LINKINFO, |m| {
            m.attr(IFLA_INFO_KIND, b"veth").nested(IFLA_INFO_DATA, |m| {
                m.nested(VETH_INFO_PEER, |m| {
                    m.ifinfo(0, 0).name(PEER_IF).attr(IFLA_NET_NS_FD, &peer.to_ne_bytes())
                })
            })
        })
}

fn add_address(index: u32, address: IpAddr) -> Message {
    let (family, prefix, bytes) = match address {
        IpAddr::V4(a) => (libc::AF_INET as u8, 24, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6 as u8, 64, a.octets().to_vec()),
    };
    let mut message = Message::new(libc::RTM_NEWADDR, NLM_F_CREATE_EXCL);
    // `struct ifaddrmsg`
    message.0.extend_from_slice(&[family, prefix, IFA_F_NODAD, 0]);
    message.0.extend_from_slice(&index.to_ne_bytes());
    message.attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes)
}

struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Self> {
        // SAFETY: plain socket(2); the result is checked and owned at once.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        ensure!(fd >= 0, "cannot open a netlink socket: {}", io::Error::last_os_error());
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends and waits for the kernel's answer.
    fn send(&mut self, mut message: Message) -> io::Result<()> {
        let len = message.0.len();
        message.0[0..4].copy_from_slice(&(len as u32).to_ne_bytes());
        // SAFETY: the buffer is live and of the length given.
        if unsafe { libc::send(self.0.as_raw_fd(), message.0.as_ptr().cast(), len, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answer = [0u8; 4096];
        // SAFETY: the buffer is live and of the length given.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        if got < 20 {
            return Err(io::Error::last_os_error());
        }
        // An acknowledgement is `struct nlmsgerr` behind the header: zero or a negative errno.
        match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }

    fn configure(&mut self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        for (name, addresses) in [("lo", &[][..]), (name, addresses)] {
            let index = nix::net::if_::if_nametoindex(name).with_context(|| format!("cannot find `{name}`"))?;
            let up = Message::new(libc::RTM_NEWLINK, 0).ifinfo(index, libc::IFF_UP as u32);
            self.send(up).with_context(|| format!("cannot bring `{name}` up"))?;
            for address in addresses {
                self.send(add_address(index, *address))
                    .with_context(|| format!("cannot give {address} to `{name}`"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let message = Message(Vec::new()).nested(2, |m| m.attr(1, b"veth\0"));
        assert_eq!(message.0[..4], [16, 0, 2, 0]);
        assert_eq!(message.0[4..], [9, 0, 1, 0, b'v', b'e', b't', b'h', 0, 0, 0, 0]);
    }
}
