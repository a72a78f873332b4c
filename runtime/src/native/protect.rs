//! Whom a blocklist must not cut off: the default gateway, the resolvers, and whoever is logged in by SSH.
//!
//! Input: a network namespace, and what the list looks at. Output: addresses, each with its reason. Read anew each time.

use crate::error::Error;
use crate::sys::netlink::Netlink;
use crate::sys::{self, SysError, netns};
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use weir_parser::Span;

/// What of a packet the list looks at.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub netns: Option<String>,
    /// The far end's address, in packets from there.
    pub from_far: bool,
    /// The far end's address, in packets to there.
    pub to_far: bool,
    /// This end's address, in packets to here.
    pub to_near: bool,
    /// This end's address, in packets from here.
    pub from_near: bool,
    /// Only packets to these ports are dropped.
    pub ports: Option<Vec<(u16, u16)>>,
    /// TCP is among what is dropped.
    pub tcp: bool,
    pub udp: bool,
}

/// An address that must stay reachable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Protected {
    pub addr: IpAddr,
    pub why: &'static str,
}

const SSH: u16 = 22;
const DNS: u16 = 53;
const GATEWAY: &str = "the default gateway";
const RESOLVER: &str = "a resolver";
const SSH_PEER: &str = "the peer of an SSH session";
const SSH_LOCAL: &str = "this host's end of an SSH session";

impl Guard {
    /// Lists the addresses now. `span` is the list's.
    ///
    /// # Errors
    /// When gateways or connections cannot be found out: that none is known is no reason to let a list cut one off.
    pub fn addresses(&self, span: Span) -> Result<BTreeSet<Protected>, Error> {
        // Answers of both come to ports that nobody knows beforehand. What is sent to a gateway itself has no port to speak of.
        let from_far = self.from_far && self.ports.is_none();
        let hits_gateways = from_far || self.to_far && self.ports.is_none();
        let look = || {
            let gateways = if hits_gateways {
                Netlink::open()?.default_gateways()?
            } else {
                BTreeSet::new()
            };
            let sockets = if self.tcp { all_sockets()? } else { Vec::new() };
            Ok((gateways, sockets))
        };
        let (gateways, sockets) = netns::run_in(self.netns.as_deref(), look)
            .and_then(|seen| seen)
            .map_err(|e| Error::Param {
                message: format!("whom the list must not cut off is not known: {e}"),
                help: Some("force it with `protect=false`".to_owned()),
                span,
            })?;
        let mut all = BTreeSet::new();
        let mut add = |addr: IpAddr, why| {
            if !addr.is_loopback() && !addr.is_unspecified() {
                all.insert(Protected { addr, why });
            }
        };
        gateways.into_iter().for_each(|a| add(a, GATEWAY));
        if from_far || self.to_far && (self.udp || self.tcp) && self.has(DNS) {
            resolvers().into_iter().for_each(|a| add(a, RESOLVER));
        }
        if self.tcp {
            let own = std::env::var("SSH_CONNECTION").ok();
            for session in sessions(&sockets, own.as_deref(), &ssh_inodes()) {
                // Ports are those that packets go to.
                let (comes, goes) = (self.has(session.local.1), self.has(session.remote.1));
                if self.from_far && comes || self.to_far && goes {
                    add(session.remote.0, SSH_PEER);
                }
                if self.to_near && comes || self.from_near && goes {
                    add(session.local.0, SSH_LOCAL);
                }
            }
        }
        Ok(all)
    }

    /// Whether packets to this port are dropped.
    fn has(&self, port: u16) -> bool {
        let ports = self.ports.as_ref();
        ports.is_none_or(|ports| ports.iter().any(|(low, high)| (*low..=*high).contains(&port)))
    }
}

fn resolvers() -> Vec<IpAddr> {
    let read = |path| nameservers(&std::fs::read_to_string(path).unwrap_or_default());
    let mut found = read("/etc/resolv.conf");
    // systemd-resolved answers on the loopback and asks these.
    if found.iter().any(IpAddr::is_loopback) {
        found.extend(read("/run/systemd/resolve/resolv.conf"));
    }
    found
}

fn nameservers(text: &str) -> Vec<IpAddr> {
    let words = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("nameserver")?.split_whitespace().next());
    // `fe80::1%eth0`
    words.filter_map(|w| w.split('%').next()?.parse().ok()).collect()
}

/// A line of `/proc/net/tcp` or `tcp6`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Socket {
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    established: bool,
    listening: bool,
    inode: u64,
}

/// Sockets of TCP in the calling thread's network namespace.
fn all_sockets() -> sys::Result<Vec<Socket>> {
    let read = |name: &str| {
        let path = format!("/proc/thread-self/net/{name}");
        std::fs::read_to_string(&path).map_err(|e| SysError::new("read", path, e))
    };
    let v4 = read("tcp")?;
    let v6 = match read("tcp6") {
        // A kernel without IPv6, or with `ipv6.disable=1`. That /proc is there the other file has shown.
        Err(error) if error.errno() == libc::ENOENT => String::new(),
        text => text?,
    };
    Ok(sockets(&v4).chain(sockets(&v6)).collect())
}

fn sockets(text: &str) -> impl Iterator<Item = Socket> {
    text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, port) = endpoint(fields.get(1)?)?;
        let remote = endpoint(fields.get(2)?)?;
        let state = *fields.get(3)?;
        Some(Socket {
            local: (local, port),
            remote,
            established: state == "01",
            listening: state == "0A",
            inode: fields.get(9)?.parse().ok()?,
        })
    })
}

/// `0100007F:0016`: words as they lie in memory.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (addr, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for word in addr.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let addr = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some((addr, u16::from_str_radix(port, 16).ok()?))
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
}

/// Established SSH sessions. `own` is `SSH_CONNECTION`.
fn sessions(sockets: &[Socket], own: Option<&str>, held_by_ssh: &HashSet<u64>) -> Vec<Session> {
    let listening: HashSet<u16> = sockets.iter().filter(|s| s.listening).map(|s| s.local.1).collect();
    // Where sshd listens, or where it serves what somebody (systemd) listens to. Not what it connects to for its users.
    let mut ports: HashSet<u16> = sockets
        .iter()
        .filter(|s| held_by_ssh.contains(&s.inode) && listening.contains(&s.local.1))
        .map(|s| s.local.1)
        .collect();
    ports.insert(SSH);
    let mut found = Vec::new();
    if let Some([remote, from, local, port]) = own.map(|own| own.split(' ').collect::<Vec<_>>()).as_deref()
        && let (Ok(remote), Ok(local)) = (remote.parse::<IpAddr>(), local.parse::<IpAddr>())
        && let (Ok(from), Ok(port)) = (from.parse(), port.parse())
    {
        found.push(Session {
            local: (local.to_canonical(), port),
            remote: (remote.to_canonical(), from),
        });
        ports.insert(port);
    }
    let established = sockets.iter().filter(|s| s.established && ports.contains(&s.local.1));
    found.extend(established.map(|s| Session {
        local: s.local,
        remote: s.remote,
    }));
    found
}

/// Inodes of the sockets that SSH servers hold.
fn ssh_inodes() -> HashSet<u64> {
    let mut inodes = HashSet::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let comm = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if !comm.starts_with("sshd") && !comm.starts_with("dropbear") {
            continue;
        }
        for fd in std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten() {
            let target = std::fs::read_link(fd.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']'));
            let inode: Option<u64> = inode.and_then(|n| n.parse().ok());
            inodes.extend(inode);
        }
    }
    inodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn resolvers_are_read_from_resolv_conf() {
        let text = "# nameserver 1.1.1.1\nnameserver 192.0.2.53\nsearch example.org\nnameserver fe80::1%eth0\n  nameserver 127.0.0.53\n";
        assert_eq!(nameservers(text), [ip("192.0.2.53"), ip("fe80::1"), ip("127.0.0.53")]);
    }

    #[test]
    fn ssh_sessions_are_those_of_the_server() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let line = |local: &str, remote: &str, state: &str, inode: u32| {
            format!("   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0\n")
        };
        let text = [
            head.to_owned(),
            line("00000000:0016", "00000000:0000", "0A", 1),
            line("0100000A:0016", "0200000A:C001", "01", 2),
            // sshd on a port of its own, and what it forwards for a user.
            line("00000000:08AE", "00000000:0000", "0A", 3),
            line("0100000A:08AE", "0300000A:C001", "01", 4),
            line("0100000A:C002", "0400000A:0050", "01", 5),
            // Somebody else.
            line("0100000A:01BB", "0500000A:C001", "01", 6),
            line("0100000A:0016", "0600000A:C001", "06", 7),
        ]
        .concat();
        let list: Vec<Socket> = sockets(&text).collect();
        assert_eq!(list.len(), 7);
        let held = HashSet::from([1, 2, 3, 4, 5]);
        let remotes = |own: Option<&str>, held: &HashSet<u64>| -> Vec<String> {
            sessions(&list, own, held)
                .into_iter()
                .map(|session| session.remote.0.to_string())
                .collect()
        };
        assert_eq!(remotes(None, &held), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(remotes(None, &HashSet::new()), ["10.0.0.2"]);
        let own = "192.0.2.9 50000 10.0.0.1 443";
        assert_eq!(remotes(Some(own), &HashSet::new()), ["192.0.2.9", "10.0.0.2", "10.0.0.5"]);
        // IPv4 in an IPv6 socket.
        let mapped = endpoint("0000000000000000FFFF00000100000A:0016").unwrap();
        assert_eq!(mapped, (ip("10.0.0.1"), 22));
    }
}
