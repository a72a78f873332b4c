//! Traffic with exact counts between the two ends of a [`Lab`].
//!
//! Input: a lab and a number. Output: exactly that many packets on the cable. Every sender returns when its packets have been
//! handed to the kernel; [`settle`] returns when the other end has handled them.

use crate::frame::Frame;
use crate::net::{Lab, NODE_IF, Netns, PEER_IF};
use crate::{patience, wait_for};
use anyhow::{Context, Result, bail, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Sends each frame `count` times from the peer, as it is.
pub fn send_frames(lab: &Lab, frames: &[(u32, Frame)]) -> Result<()> {
    send_frames_from(&lab.peer, PEER_IF, frames)
}

/// As [`send_frames`], from any interface.
pub fn send_frames_from(ns: &Netns, interface: &str, frames: &[(u32, Frame)]) -> Result<()> {
    ns.run(|| {
        let socket = PacketSocket::open(interface)?;
        for (count, frame) in frames {
            let bytes = frame.bytes();
            for _ in 0..*count {
                socket.send(&bytes)?;
            }
        }
        Ok(())
    })
}

/// Sends a frame of more than one page from the peer so that only its first `linear` bytes are in one piece and the headers behind them
/// lie in fragments of the buffer.
pub fn send_scattered(lab: &Lab, frame: &[u8], linear: u16, count: u32) -> Result<()> {
    // `struct virtio_net_hdr`: no offloads; the length of what goes into the first piece.
    let mut message = vec![0; 10];
    message[2..4].copy_from_slice(&linear.to_ne_bytes());
    message.extend(frame);
    lab.peer.run(|| {
        let socket = PacketSocket::open(PEER_IF)?;
        let yes: libc::c_int = 1;
        // SAFETY: the option is a live int whose size is passed.
        let set = unsafe {
            libc::setsockopt(
                socket.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const yes).cast(),
                size_of_val(&yes) as u32,
            )
        };
        ensure!(set == 0, "PACKET_VNET_HDR: {}", std::io::Error::last_os_error());
        for _ in 0..count {
            socket.send(&message)?;
        }
        Ok(())
    })
}

/// Sends UDP datagrams through a plain socket.
pub fn send_udp(from: &Netns, source: IpAddr, to: SocketAddr, count: u32) -> Result<()> {
    from.run(|| {
        let socket = UdpSocket::bind((source, 0)).context("cannot bind")?;
        for _ in 0..count {
            socket.send_to(b"weir", to).context("cannot send")?;
        }
        Ok(())
    })
}

/// What the kernel's `struct tcp_info` says of a socket.
pub struct TcpInfo {
    pub total_retrans: u64,
    pub rtt_us: u64,
    pub segs_out: u64,
    pub data_segs_out: u64,
}

/// Asks the kernel about a connection.
pub fn tcp_info(stream: &TcpStream) -> Result<TcpInfo> {
    let mut info = [0u8; 192];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    ensure!(result == 0 && len >= 160, "no tcp_info: {}", std::io::Error::last_os_error());
    let at = |offset: usize| -> Result<u64> { Ok(u64::from(u32::from_ne_bytes(info[offset..offset + 4].try_into()?))) };
    Ok(TcpInfo {
        total_retrans: at(100)?,
        rtt_us: at(68)?,
        segs_out: at(136)?,
        data_segs_out: at(156)?,
    })
}

/// A UDP socket that is there to receive.
///
/// Of a socket before it, closed a moment ago, the kernel may still hold the file: its iterators over files do while they look.
pub fn listen_udp(at: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    let socket = wait_for(&format!("{address} to be free"), || {
        match at.run(|| Ok(UdpSocket::bind(address)))? {
            Ok(socket) => Ok(Some(socket)),
            Err(e) if e.kind() == ErrorKind::AddrInUse => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot bind {address}")),
        }
    })?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How many datagrams lie in the socket.
pub fn received(socket: &UdpSocket) -> Result<u32> {
    let mut buffer = [0; 2048];
    let mut count = 0;
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => count += 1,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(count),
            Err(e) => return Err(e).context("cannot receive"),
        }
    }
}

/// Waits until the node's kernel has handled all that the peer has sent: packets of one cable stay in order, so when a last
/// one arrives the others have been there.
///
/// # Errors
/// The last one does not arrive: something drops what it should not.
pub fn settle(lab: &Lab) -> Result<()> {
    const PORT: u16 = 9;
    let to = SocketAddr::new(lab.node4().into(), PORT);
    let socket = lab.node.run(|| UdpSocket::bind(to).context("cannot bind"))?;
    socket.set_read_timeout(Some(patience()))?;
    send_udp(&lab.peer, lab.peer4().into(), to, 1)?;
    let mut buffer = [0; 16];
    socket
        .recv(&mut buffer)
        .context("the last packet did not come through the cable")
        .map(drop)
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Connected {
    /// Bytes went there and came back.
    Yes,
    /// No answer in time.
    TimedOut,
}

/// Connects from peer to node and sends a few bytes there and back; `timeout` is for the handshake.
///
/// # Errors
/// Anything but an established connection or silence.
pub fn tcp_echo(lab: &Lab, port: u16, timeout: Duration) -> Result<Connected> {
    let to = SocketAddr::new(lab.node4().into(), port);
    let listener = lab
        .node
        .run(|| TcpListener::bind(to).with_context(|| format!("cannot listen on {to}")))?;
    let client = match lab.peer.run(|| Ok(TcpStream::connect_timeout(&to, timeout)))? {
        Ok(client) => client,
        Err(e) if e.kind() == ErrorKind::TimedOut => return Ok(Connected::TimedOut),
        Err(e) => return Err(e).with_context(|| format!("cannot connect to {to}")),
    };
    let (server, _) = listener.accept()?;
    ping_pong(client, server)?;
    Ok(Connected::Yes)
}

/// Connects from a port of choice, in the calling thread's network namespace.
///
/// # Errors
/// What `connect` says, as an [`std::io::Error`].
pub fn connect_from(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt};
    let family = if from.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).map_err(std::io::Error::from)?;
    Ok(TcpStream::from(fd))
}

fn ping_pong(mut client: TcpStream, mut server: TcpStream) -> Result<()> {
    let mut buffer = [0; 4];
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(patience()))?;
    }
    client.write_all(b"ping")?;
    server.read_exact(&mut buffer)?;
    server.write_all(b"pong")?;
    client.read_exact(&mut buffer)?;
    ensure!(&buffer == b"pong", "got {buffer:?} instead");
    Ok(())
}

/// An established connection from node to peer.
pub struct Connection {
    pub node_side: TcpStream,
    pub peer_side: TcpStream,
}

impl Connection {
    /// Connects from the node to a port of the peer.
    pub fn open(lab: &Lab, port: u16) -> Result<Self> {
        let to = SocketAddr::new(lab.peer4().into(), port);
        let listener = lab
            .peer
            .run(|| TcpListener::bind(to).with_context(|| format!("cannot listen on {to}")))?;
        let node_side = lab
            .node
            .run(|| TcpStream::connect_timeout(&to, patience()).with_context(|| format!("cannot connect to {to}")))?;
        let (peer_side, _) = listener.accept()?;
        Ok(Self { node_side, peer_side })
    }

    /// Sends that many bytes from node to peer and waits until the peer has read them all.
    pub fn transfer(&mut self, bytes: usize) -> Result<()> {
        let Self { node_side, peer_side } = self;
        peer_side.set_read_timeout(Some(patience()))?;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| node_side.write_all(&vec![0x77; bytes]).context("cannot send"));
            let mut buffer = vec![0; 64 * 1024];
            let mut got = 0;
            while got < bytes {
                match peer_side
                    .read(&mut buffer)
                    .with_context(|| format!("after {got} of {bytes} bytes"))?
                {
                    0 => bail!("the connection ended after {got} of {bytes} bytes"),
                    n => got += n,
                }
            }
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Waits until the peer's kernel has acknowledged all that the node sent: from then on nothing is retransmitted.
    pub fn all_acknowledged(&self) -> Result<()> {
        wait_for("the last acknowledgement", || {
            let mut unacknowledged: libc::c_int = 0;
            // SAFETY: the request writes one int, to a live one.
            let result = unsafe { libc::ioctl(self.node_side.as_raw_fd(), libc::TIOCOUTQ, &raw mut unacknowledged) };
            ensure!(result == 0, "cannot ask for the send queue: {}", std::io::Error::last_os_error());
            Ok((unacknowledged == 0).then_some(()))
        })
    }

    /// Cuts the cable, sends a byte, waits until the kernel has retransmitted at least `at_least` times, and lets it arrive.
    ///
    /// # Errors
    /// The kernel does not retransmit.
    pub fn lose(&mut self, lab: &Lab, at_least: u64) -> Result<()> {
        let before = lab.node.snmp("Tcp", "RetransSegs")?;
        lab.cut(true)?;
        self.node_side.write_all(b"x")?;
        let enough = wait_for("retransmissions", || {
            let now = lab.node.snmp("Tcp", "RetransSegs")?;
            Ok((now >= before + at_least).then_some(()))
        });
        lab.cut(false)?;
        enough?;
        let mut byte = [0];
        self.peer_side.set_read_timeout(Some(patience()))?;
        self.peer_side.read_exact(&mut byte).context("the lost byte never arrived")?;
        self.all_acknowledged()
    }
}

/// Opens a file exactly `count` times by `openat` from a thread with that name (`comm`, at most 15 bytes), and nothing else.
pub fn open_files(comm: &'static str, count: u32) -> Result<()> {
    ensure!(comm.len() < 16, "the kernel cuts `{comm}`");
    let thread = std::thread::spawn(move || {
        // The name is set from inside, after the thread's own start.
        let name = std::ffi::CString::new(comm)?;
        nix::sys::prctl::set_name(&name)?;
        for _ in 0..count {
            // SAFETY: a plain system call with a static path; the result is checked.
            let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), libc::O_RDONLY) };
            ensure!(fd >= 0, "cannot open /dev/null: {}", std::io::Error::last_os_error());
            // SAFETY: the call above returned this descriptor to us alone.
            drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
        Ok(())
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// From now on the node's new connections send one segment a packet, so that there is enough to lose and one retransmission
/// is one segment.
pub fn one_segment_a_packet(lab: &Lab) -> Result<()> {
    lab.node.ip(&["link", "set", NODE_IF, "gso_max_segs", "1"]).map(drop)
}

/// Puts random loss between node and peer, on the node's side.
pub fn netem_loss(lab: &Lab, percent: u32) -> Result<()> {
    lab.node
        .tc(&["qdisc", "replace", "dev", NODE_IF, "root", "netem", "loss", &format!("{percent}%")])
        .map(drop)
}

/// An AF_PACKET socket on one interface.
pub struct PacketSocket {
    fd: OwnedFd,
    address: libc::sockaddr_ll,
}

impl PacketSocket {
    /// Opens it in the current thread's namespace.
    pub fn open(interface: &str) -> Result<Self> {
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: `name` is a terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, "there is no interface `{interface}`");
        // SAFETY: a plain system call; the result is checked. Protocol 0: receives nothing.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(fd >= 0, "cannot open a packet socket: {}", std::io::Error::last_os_error());
        // SAFETY: the call above returned this descriptor to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zero is a valid `sockaddr_ll`, a struct of integers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        Ok(Self { fd, address })
    }

    /// Sends one frame as it is.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        // SAFETY: buffer and address are live and their sizes are passed.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const self.address).cast(),
                size_of_val(&self.address) as u32,
            )
        };
        ensure!(
            sent == bytes.len() as isize,
            "cannot send a frame: {}",
            std::io::Error::last_os_error()
        );
        Ok(())
    }
}
