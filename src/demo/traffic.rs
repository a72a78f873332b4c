//! The traffic of the demonstration: clients, servers, guessers and a flood, each on a named thread in its namespace.
//!
//! Every thread ends within a moment of its being dropped; every rate is bounded.

use super::net::{CLIENT6, CLIENTS, Cable, NODE, NODE6, Netns};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, socket, sockopt};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub const SSH: u16 = 22;
pub const DNS: u16 = 53;
pub const WEB: u16 = 80;
pub const BACKUP: u16 = 8443;

/// What was done so far.
#[derive(Debug, Default)]
pub struct Counters {
    pub web_answers: AtomicU64,
    pub ssh_tries: AtomicU64,
    pub ssh_connected: AtomicU64,
    pub dns_questions: AtomicU64,
    pub flood: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub web_answers: u64,
    pub ssh_tries: u64,
    pub ssh_connected: u64,
    pub dns_questions: u64,
    pub flood: u64,
}

impl Counts {
    pub fn since(self, before: Self) -> Self {
        Self {
            web_answers: self.web_answers - before.web_answers,
            ssh_tries: self.ssh_tries - before.ssh_tries,
            ssh_connected: self.ssh_connected - before.ssh_connected,
            dns_questions: self.dns_questions - before.dns_questions,
            flood: self.flood - before.flood,
        }
    }
}

#[derive(Default)]
struct Shared {
    counters: Counters,
    stop: AtomicBool,
    flooding: AtomicBool,
}

/// Running traffic; ends with the value.
pub struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts the servers, then the clients.
    pub fn start(cable: &Arc<Cable>) -> Result<Self> {
        let mut traffic = Self {
            shared: Arc::new(Shared::default()),
            threads: Vec::new(),
        };
        // Addresses, not text: for that the static file would have the C library's resolver in it, 160 kB.
        for (name, port, serve) in [
            ("web-server", WEB, answer as fn(TcpStream)),
            ("sshd", SSH, drop),
            ("dns-server", DNS, drop),
            ("backup-server", BACKUP, swallow),
        ] {
            let listener = cable
                .node
                .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("cannot listen on port {port}")))?;
            traffic.spawn(name, cable, |c| &c.node, move |shared| accept(shared, &listener, serve))?;
        }
        let dns = cable
            .node
            .run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, DNS)).context("cannot listen for datagrams"))?;
        traffic.spawn("dns-server", cable, |c| &c.node, move |shared| echo(shared, &dns))?;
        traffic.spawn("browser", cable, |c| &c.peer, browse)?;
        traffic.spawn("resolver", cable, |c| &c.peer, resolve)?;
        traffic.spawn("backup", cable, |c| &c.peer, backup)?;
        for (name, from) in [("guesser", CLIENTS[1]), ("guesser6", CLIENT6)] {
            traffic.spawn(name, cable, |c| &c.peer, move |shared| guess(shared, from))?;
        }
        let raw = cable.peer.run(raw_socket)?;
        traffic.spawn("flood", cable, |c| &c.peer, move |shared| flood(shared, &raw))?;
        Ok(traffic)
    }

    fn spawn(
        &mut self,
        name: &str,
        cable: &Arc<Cable>,
        side: fn(&Cable) -> &Netns,
        work: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<()> {
        let (shared, cable) = (Arc::clone(&self.shared), Arc::clone(cable));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if side(&cable).enter().is_ok() {
                work(&shared);
            }
        });
        self.threads.push(thread.context("cannot start a thread")?);
        Ok(())
    }

    pub fn set_flood(&self, on: bool) {
        self.shared.flooding.store(on, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        let c = &self.shared.counters;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counts {
            web_answers: get(&c.web_answers),
            ssh_tries: get(&c.ssh_tries),
            ssh_connected: get(&c.ssh_connected),
            dns_questions: get(&c.dns_questions),
            flood: get(&c.flood),
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Waits between two pieces of work; false when the traffic is to end.
    fn pause(&self, ms: u64) -> bool {
        std::thread::sleep(Duration::from_millis(ms));
        !self.stop.load(Ordering::Relaxed)
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Waits until the descriptor can be used, or the time is over.
fn ready(fd: &impl AsFd, flags: PollFlags, ms: u16) -> bool {
    matches!(poll(&mut [PollFd::new(fd.as_fd(), flags)], PollTimeout::from(ms)), Ok(n) if n > 0)
}

fn accept(shared: &Shared, listener: &TcpListener, serve: fn(TcpStream)) {
    while !shared.stop.load(Ordering::Relaxed) {
        if ready(listener, PollFlags::POLLIN, 100)
            && let Ok((stream, _)) = listener.accept()
        {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            serve(stream);
        }
    }
}

/// A request, a file, an answer.
fn answer(mut stream: TcpStream) {
    let mut request = [0; 512];
    if matches!(stream.read(&mut request), Ok(n) if n > 0) {
        let _page = File::open("/etc/hosts");
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello\n");
    }
}

fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
}

fn echo(shared: &Shared, socket: &UdpSocket) {
    let mut buffer = [0; 512];
    while !shared.stop.load(Ordering::Relaxed) {
        if ready(socket, PollFlags::POLLIN, 100)
            && let Ok((len, from)) = socket.recv_from(&mut buffer)
            && len > 2
        {
            buffer[2] |= 0x80;
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}

/// Connects from a given address. std cannot bind before it connects.
fn connect_from(from: IpAddr, to: SocketAddr, ms: u16) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => {}
        Err(Errno::EINPROGRESS) => {
            if !ready(&fd, PollFlags::POLLOUT, ms) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match getsockopt(&fd, sockopt::SocketError)? {
                0 => {}
                code => return Err(io::Error::from_raw_os_error(code)),
            }
        }
        Err(e) => return Err(e.into()),
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    Ok(stream)
}

fn node_for(from: IpAddr) -> IpAddr {
    if from.is_ipv4() { NODE } else { NODE6 }
}

fn browse(shared: &Shared) {
    let everybody = CLIENTS.into_iter().chain([CLIENT6]);
    for from in everybody.cycle() {
        if let Ok(mut stream) = connect_from(from, SocketAddr::new(node_for(from), WEB), 500) {
            let mut page = Vec::new();
            if stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok() && stream.read_to_end(&mut page).is_ok() && !page.is_empty() {
                add(&shared.counters.web_answers);
            }
        }
        if !shared.pause(20) {
            return;
        }
    }
}

fn resolve(shared: &Shared) {
    // A query for the address of example.com.
    const QUESTION: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
    // Some clients ask more than others, and every tenth question is over TCP.
    let askers = [CLIENTS[0], CLIENTS[0], CLIENTS[0], CLIENTS[1], CLIENT6];
    for (i, from) in askers.into_iter().cycle().enumerate() {
        let to = SocketAddr::new(node_for(from), DNS);
        if i % 10 == 9 {
            if connect_from(from, to, 200).is_ok() {
                add(&shared.counters.dns_questions);
            }
        } else if let Ok(socket) = UdpSocket::bind(SocketAddr::new(from, 0))
            && socket.send_to(QUESTION, to).is_ok()
        {
            add(&shared.counters.dns_questions);
        }
        if !shared.pause(25) {
            return;
        }
    }
}

fn guess(shared: &Shared, from: IpAddr) {
    loop {
        let connected = connect_from(from, SocketAddr::new(node_for(from), SSH), 250).is_ok();
        add(&shared.counters.ssh_tries);
        if connected {
            add(&shared.counters.ssh_connected);
        }
        if !shared.pause(80) {
            return;
        }
    }
}

/// One long transfer, about 2 MB/s, begun anew when it breaks.
fn backup(shared: &Shared) {
    let chunk = vec![0; 40_000];
    loop {
        if let Ok(mut stream) = connect_from(CLIENTS[2], SocketAddr::new(NODE, BACKUP), 500) {
            while stream.write_all(&chunk).is_ok() {
                if !shared.pause(20) {
                    return;
                }
            }
        }
        if !shared.pause(100) {
            return;
        }
    }
}

/// A socket that sends IP packets as they are, with whatever source they claim.
fn raw_socket() -> Result<OwnedFd> {
    // SAFETY: plain socket(2); the result is checked and owned at once.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot open a raw socket (it takes root, or CAP_NET_RAW)");
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two documentation networks that take turns, 2000 SYNs a second.
fn flood(shared: &Shared, raw: &OwnedFd) {
    const NETWORKS: [[u8; 3]; 2] = [[198, 51, 100], [203, 0, 113]];
    let IpAddr::V4(target) = NODE else { return };
    let to = SockaddrStorage::from(SocketAddr::new(NODE, 0));
    let mut n = 0u32;
    while shared.pause(10) {
        if !shared.flooding.load(Ordering::Relaxed) {
            continue;
        }
        for _ in 0..20 {
            n = n.wrapping_add(1);
            let [a, b, c] = NETWORKS[(n as usize / 500) % 2];
            let packet = syn(Ipv4Addr::new(a, b, c, n as u8), target, n);
            if nix::sys::socket::sendto(raw.as_raw_fd(), &packet, &to, nix::sys::socket::MsgFlags::empty()).is_ok() {
                add(&shared.counters.flood);
            }
        }
    }
}

/// An IPv4 packet with a SYN to the web server. The kernel fills in the IP header's checksum.
fn syn(from: Ipv4Addr, to: Ipv4Addr, n: u32) -> [u8; 40] {
    let mut p = [0; 40];
    p[0] = 0x45;
    p[3] = 40;
    p[8] = 64;
    p[9] = libc::IPPROTO_TCP as u8;
    p[12..16].copy_from_slice(&from.octets());
    p[16..20].copy_from_slice(&to.octets());
    p[20..22].copy_from_slice(&(1024 + (n % 60_000) as u16).to_be_bytes());
    p[22..24].copy_from_slice(&WEB.to_be_bytes());
    p[24..28].copy_from_slice(&n.to_be_bytes());
    p[32] = 5 << 4;
    p[33] = 0x02;
    p[34..36].copy_from_slice(&u16::MAX.to_be_bytes());
    // TCP checksum with its pseudo-header: addresses, protocol, length.
    let words = p[12..].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum::<u32>() + libc::IPPROTO_TCP as u32 + 20;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    p[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_syn_adds_up() {
        let p = syn(Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(10, 0, 0, 1), 77);
        let words = p[12..].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        let mut sum: u32 = words.sum::<u32>() + 6 + 20;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    }
}
