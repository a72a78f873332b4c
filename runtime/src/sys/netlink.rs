//! A small rtnetlink client: interfaces, qdiscs, and the BPF classifier (`cls_bpf`) of the clsact qdisc.
//!
//! Messages are built and parsed as bytes; layouts are those of `linux/netlink.h`, `linux/rtnetlink.h` and
//! `linux/pkt_cls.h`. Everything works in the calling thread's network namespace.

mod routes;

pub use routes::Route;

use super::{Result, SysError};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_ECHO: u16 = 0x8;
const NLM_F_DUMP: u16 = 0x300;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

const IFLA_BROADCAST: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_GRE_COLLECT_METADATA: u16 = 18;
const ARPHRD_IP6GRE: u16 = 823;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP_EXPECTED_FD: u16 = 8;
const XDP_FLAGS_REPLACE: u32 = 1 << 4;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const IFLA_EXT_MASK: u16 = 29;
/// Leave out the statistics: the dump is several times smaller.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// `TC_H_CLSACT`, the same number as `TC_H_INGRESS`.
const PARENT_CLSACT: u32 = 0xffff_fff1;
const HANDLE_CLSACT: u32 = 0xffff_0000;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// Ethernet (`ARPHRD_ETHER` 1), loopback (772), …
    pub arphrd: u16,
    /// In bytes.
    pub mtu: u32,
    /// What made it, where it is not hardware: `veth`, `tun`, `wireguard`.
    pub kind: String,
    pub xdp: XdpAttached,
    /// Index of the other end (veth, netkit) or of the lower device; 0 for none.
    pub lower: u32,
    /// Where `lower` is when not in this namespace: an id that this namespace has for the other.
    pub lower_netnsid: Option<i32>,
    /// Whether it is a GRE tunnel with no other end, or over IPv4 a group of them: its packets start with the outer header
    /// (`ipgre_header_ops`; `ip6gre_header_ops` is only for no other end).
    pub starts_outside: bool,
}

/// The ids of the XDP programs on an interface, 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpAttached {
    pub native: u32,
    pub generic: u32,
    pub offload: u32,
}

impl XdpAttached {
    /// Returns the id of any program there.
    #[must_use]
    pub fn any(&self) -> Option<u32> {
        self.in_machine().or(Some(self.offload).filter(|id| *id != 0))
    }

    /// Returns the id of the program that this machine runs itself, in whatever mode.
    #[must_use]
    pub fn in_machine(&self) -> Option<u32> {
        [self.native, self.generic].into_iter().find(|id| *id != 0)
    }
}

/// What stands at an interface's ingress qdisc place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngressQdisc {
    Nothing,
    Clsact,
    /// Another kind, by name: `ingress`.
    Other(String),
}

/// A `cls_bpf` filter in a clsact chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub ifindex: u32,
    pub ingress: bool,
    pub priority: u16,
    /// Network byte order, as in the message.
    pub protocol_be: u16,
    pub handle: u32,
    pub name: String,
    pub prog_id: u32,
    pub chain: u32,
    /// Its program's return value is the verdict.
    pub direct_action: bool,
}

/// Any classifier in a clsact chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// `bpf`, `flower`, `u32`, …
    pub kind: String,
    /// What a BPF classifier runs; of the others only place and number are filled in.
    pub filter: Filter,
}

/// What happened to the interfaces of a network namespace since it was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChanges {
    /// Whether there is any reason to look at the interfaces again.
    pub any: bool,
    /// Indices of interfaces that are gone; one that has the number now is another interface.
    pub gone: Vec<u32>,
}

/// Hears of changes to the interfaces of one network namespace, which it keeps alive.
#[derive(Debug)]
pub struct LinkMonitor {
    socket: OwnedFd,
}

impl LinkMonitor {
    /// Starts listening in the calling thread's network namespace.
    ///
    /// # Errors
    /// What socket(2) and bind(2) say.
    pub fn open() -> Result<Self> {
        let socket = route_socket(libc::RTMGRP_LINK as u32, libc::SOCK_NONBLOCK)?;
        Ok(Self { socket })
    }

    /// Takes in all that has happened; never blocks.
    pub fn changes(&mut self) -> LinkChanges {
        let mut changes = LinkChanges::default();
        let mut buf = vec![0u8; 64 * 1024];
        loop {
            // SAFETY: the buffer is live and of the length given.
            let got = unsafe { libc::recv(self.socket.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) };
            if got < 0 {
                match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR) => continue,
                    // The kernel had more to say than the socket took: look at everything.
                    Some(libc::ENOBUFS) => {
                        changes.any = true;
                        continue;
                    }
                    _ => return changes,
                }
            }
            for Message { kind, body, .. } in messages(&buf[..got.cast_unsigned()]) {
                // A bridge says that a port has left it with the same message, in its own family.
                let of_bridge = body.first().is_none_or(|family| *family != 0);
                match kind {
                    RTM_DELLINK if !of_bridge => {
                        changes.any = true;
                        changes.gone.push(u32_at(body, 4));
                    }
                    RTM_NEWLINK if !of_bridge => changes.any = true,
                    _ => {}
                }
            }
        }
    }
}

impl AsRawFd for LinkMonitor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// Opens a bound rtnetlink socket in the calling thread's network namespace.
fn route_socket(groups: u32, flags: libc::c_int) -> Result<OwnedFd> {
    let error = || SysError::last("open", "rtnetlink socket");
    // SAFETY: plain socket(2); the result is checked and owned at once.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_nl is plain integers, all zero means "kernel, any port".
    let mut addr: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    addr.nl_family = libc::AF_NETLINK as u16;
    addr.nl_groups = groups;
    // SAFETY: addr is a valid sockaddr_nl of the size given.
    let ret = unsafe { libc::bind(fd, std::ptr::from_ref(&addr).cast(), size_of_val(&addr) as u32) };
    if ret < 0 {
        return Err(error());
    }
    Ok(socket)
}

/// A message that was received.
struct Message<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    body: &'a [u8],
}

/// Iterates over the messages in a buffer.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        if rest.len() < 16 {
            return None;
        }
        let len = (u32_at(rest, 0) as usize).clamp(16, rest.len());
        let message = Message {
            kind: u16::from_ne_bytes([rest[4], rest[5]]),
            flags: u16::from_ne_bytes([rest[6], rest[7]]),
            seq: u32_at(rest, 8),
            body: &rest[16..len],
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// A netlink socket bound to one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    seq: u32,
    /// A list changed while the kernel was telling it, since somebody who cares set this to false.
    torn: bool,
}

/// A message under construction.
struct Request {
    buf: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        let mut buf = vec![0; 16];
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        buf[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        Self { buf }
    }

    /// `struct ifinfomsg`
    fn ifinfo(mut self, ifindex: u32) -> Self {
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&ifindex.to_ne_bytes());
        self.buf.extend_from_slice(&[0; 8]);
        self
    }

    /// `struct tcmsg`
    fn tc(mut self, ifindex: u32, handle: u32, parent: u32, info: u32) -> Self {
        self.buf.extend_from_slice(&[0; 4]);
        for word in [ifindex, handle, parent, info] {
            self.buf.extend_from_slice(&word.to_ne_bytes());
        }
        self
    }

    fn attr(mut self, kind: u16, data: &[u8]) -> Self {
        let len = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(data);
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
        self
    }

    fn str_attr(self, kind: u16, text: &str) -> Self {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        self.attr(kind, &data)
    }

    fn nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.buf.len();
        self = inside(self.attr(kind, &[]));
        let len = u16::try_from(self.buf.len() - start).unwrap_or(u16::MAX);
        self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }
}

/// Iterates over the attributes in `data`.
fn attrs(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(data.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(data.get(2..4)?.try_into().ok()?);
        let value = data.get(4..len)?;
        data = data.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        // The top bits say "nested" and "network order".
        Some((kind & 0x3fff, value))
    })
}

fn u32_at(data: &[u8], offset: usize) -> u32 {
    data.get(offset..offset + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

fn text(data: &[u8]) -> String {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    String::from_utf8_lossy(&data[..end]).into_owned()
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn open() -> Result<Self> {
        let socket = route_socket(0, 0)?;
        Ok(Self {
            socket,
            seq: 1,
            torn: false,
        })
    }

    /// Sends a request and hands every answer (`type`, body) to `each` until the kernel says it is done.
    fn request(&mut self, mut request: Request, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.seq += 1;
        let len = request.buf.len() as u32;
        request.buf[0..4].copy_from_slice(&len.to_ne_bytes());
        request.buf[8..12].copy_from_slice(&self.seq.to_ne_bytes());
        // SAFETY: the buffer is live and of the length given.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), request.buf.as_ptr().cast(), request.buf.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut buf = vec![0u8; 64 * 1024];
        loop {
            // SAFETY: the buffer is live and of the length given.
            let got = unsafe { libc::recv(self.socket.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) };
            if got < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            for Message { kind, flags, seq, body } in messages(&buf[..got.cast_unsigned()]) {
                if seq != self.seq {
                    continue;
                }
                self.torn |= flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return ack(body),
                    kind => each(kind, body),
                }
            }
        }
    }

    /// Lists the interfaces of this network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let request = Request::new(RTM_GETLINK, NLM_F_DUMP)
            .ifinfo(0)
            .attr(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        let mut links = Vec::new();
        self.request(request, |kind, body| {
            if kind == RTM_NEWLINK
                && let Some(link) = parse_link(body)
            {
                links.push(link);
            }
        })
        .map_err(|e| SysError::new("list", "network interfaces", e))?;
        Ok(links)
    }

    /// Finds an interface by name.
    ///
    /// # Errors
    /// What the kernel says; `ENODEV` becomes `None`.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let request = Request::new(RTM_GETLINK, NLM_F_ACK)
            .ifinfo(0)
            .str_attr(IFLA_IFNAME, name)
            .attr(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        let mut link = None;
        match self.request(request, |kind, body| {
            if kind == RTM_NEWLINK {
                link = parse_link(body);
            }
        }) {
            Ok(()) => Ok(link),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) => Ok(None),
            Err(e) => Err(SysError::new("find interface", name, e)),
        }
    }

    /// Puts an XDP program on an interface without a link, or takes the one there away. `XDP_FLAGS_*` say in which mode.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn xdp_set(&mut self, ifindex: u32, program: Option<BorrowedFd<'_>>, flags: u32, iface: &str) -> Result<()> {
        let fd = program.map_or(-1, |p| p.as_raw_fd());
        let request = Request::new(RTM_SETLINK, NLM_F_ACK).ifinfo(ifindex).nested(IFLA_XDP, |r| {
            r.attr(IFLA_XDP_FD, &fd.to_ne_bytes()).attr(IFLA_XDP_FLAGS, &flags.to_ne_bytes())
        });
        self.request(request, |_, _| {})
            .map_err(|e| SysError::new("change the XDP program of", iface, e))
    }

    /// Says what stands at the interface's ingress place.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ingress_qdisc(&mut self, ifindex: u32, iface: &str) -> Result<IngressQdisc> {
        let request = Request::new(RTM_GETQDISC, NLM_F_DUMP).tc(ifindex, 0, 0, 0);
        let mut found = IngressQdisc::Nothing;
        self.request(request, |kind, body| {
            if kind != RTM_NEWQDISC || u32_at(body, 4) != ifindex || u32_at(body, 12) != PARENT_CLSACT {
                return;
            }
            let name = attrs(&body[20..])
                .find(|(kind, _)| *kind == TCA_KIND)
                .map(|(_, value)| text(value))
                .unwrap_or_default();
            found = if name == "clsact" {
                IngressQdisc::Clsact
            } else {
                IngressQdisc::Other(name)
            };
        })
        .map_err(|e| SysError::new("list the qdiscs of", iface, e))?;
        Ok(found)
    }

    /// Adds the clsact qdisc.
    ///
    /// # Errors
    /// What the kernel says; `EEXIST` when an ingress or clsact qdisc is there.
    pub fn clsact_add(&mut self, ifindex: u32, iface: &str) -> Result<()> {
        let request = Request::new(RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .tc(ifindex, HANDLE_CLSACT, PARENT_CLSACT, 0)
            .str_attr(TCA_KIND, "clsact");
        self.request(request, |_, _| {})
            .map_err(|e| SysError::new("add the clsact qdisc to", iface, e))
    }

    /// Removes the clsact qdisc with everything in it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clsact_delete(&mut self, ifindex: u32, iface: &str) -> Result<()> {
        let request = Request::new(RTM_DELQDISC, NLM_F_ACK)
            .tc(ifindex, HANDLE_CLSACT, PARENT_CLSACT, 0)
            .str_attr(TCA_KIND, "clsact");
        self.request(request, |_, _| {})
            .map_err(|e| SysError::new("remove the clsact qdisc of", iface, e))
    }

    /// Adds a direct-action BPF filter for all protocols. Priority and handle 0 let the kernel choose; the filter as it
    /// is then is returned.
    ///
    /// # Errors
    /// What the kernel says; `EEXIST` when the handle is taken at that priority.
    pub fn filter_add(&mut self, filter: &Filter, prog: BorrowedFd<'_>, iface: &str) -> Result<Filter> {
        let request = filter_request(filter, prog, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO);
        let mut made = None;
        self.request(request, |kind, body| {
            if kind == RTM_NEWTFILTER {
                made = parse_filter(body);
            }
        })
        .map_err(|e| SysError::new("add a filter to the clsact qdisc of", iface, e))?;
        if let Some(made) = made {
            return Ok(made);
        }
        // No echo: find it by its name, which is ours alone.
        let all = self.filters(filter.ifindex, filter.ingress, iface)?;
        all.into_iter()
            .rfind(|f| f.name == filter.name)
            .ok_or_else(|| SysError::new("find the new filter on", iface, io::Error::from_raw_os_error(libc::ENOENT)))
    }

    /// Gives a filter that is there another program: every packet meets the old one or the new one.
    ///
    /// # Errors
    /// What the kernel says; `ENOENT` when the filter is gone.
    pub fn filter_replace(&mut self, filter: &Filter, prog: BorrowedFd<'_>, iface: &str) -> Result<()> {
        let request = filter_request(filter, prog, NLM_F_ACK);
        self.request(request, |_, _| {})
            .map_err(|e| SysError::new("exchange the program of a filter of", iface, e))
    }

    /// Returns the id that this namespace has for another one, by a descriptor of that.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn netns_id(&mut self, netns: BorrowedFd<'_>) -> Result<Option<i32>> {
        let mut request = Request::new(RTM_GETNSID, NLM_F_ACK);
        // `struct rtgenmsg`, padded
        request.buf.extend_from_slice(&[0; 4]);
        let request = request.attr(NETNSA_FD, &netns.as_raw_fd().to_ne_bytes());
        let mut found = None;
        self.request(request, |kind, body| {
            if kind == RTM_NEWNSID {
                let mut attrs = attrs(body.get(4..).unwrap_or_default());
                found = attrs
                    .find(|(kind, _)| *kind == NETNSA_NSID)
                    .map(|(_, v)| u32_at(v, 0).cast_signed());
            }
        })
        .map_err(|e| SysError::new("ask for the id of", "network namespace", e))?;
        Ok(found.filter(|id| *id >= 0))
    }

    /// Takes exactly this XDP program off an interface; `mode` is one of `XDP_FLAGS_*_MODE`.
    ///
    /// # Errors
    /// `EEXIST` when another program is there by now, `EBUSY` when a link holds it.
    pub fn xdp_detach(&mut self, ifindex: u32, mode: u32, prog: BorrowedFd<'_>, iface: &str) -> Result<()> {
        let request = Request::new(RTM_SETLINK, NLM_F_ACK).ifinfo(ifindex).nested(IFLA_XDP, |r| {
            r.attr(IFLA_XDP_FD, &(-1i32).to_ne_bytes())
                .attr(IFLA_XDP_FLAGS, &(mode | XDP_FLAGS_REPLACE).to_ne_bytes())
                .attr(IFLA_XDP_EXPECTED_FD, &prog.as_raw_fd().to_ne_bytes())
        });
        self.request(request, |_, _| {})
            .map_err(|e| SysError::new("remove the XDP program of", iface, e))
    }

    /// Deletes one filter.
    ///
    /// # Errors
    /// What the kernel says; `ENOENT` when it is gone.
    pub fn filter_delete(&mut self, filter: &Filter, iface: &str) -> Result<()> {
        let info = (u32::from(filter.priority) << 16) | u32::from(filter.protocol_be);
        let request = Request::new(RTM_DELTFILTER, NLM_F_ACK)
            .tc(
                filter.ifindex,
                filter.handle,
                if filter.ingress { CLSACT_INGRESS } else { CLSACT_EGRESS },
                info,
            )
            .str_attr(TCA_KIND, "bpf");
        let request = if filter.chain == 0 {
            request
        } else {
            request.attr(TCA_CHAIN, &filter.chain.to_ne_bytes())
        };
        self.request(request, |_, _| {})
            .map_err(|e| SysError::new("delete a filter of", iface, e))
    }

    /// Lists the BPF filters of one direction.
    ///
    /// # Errors
    /// What the kernel says; without a clsact qdisc the list is empty.
    pub fn filters(&mut self, ifindex: u32, ingress: bool, iface: &str) -> Result<Vec<Filter>> {
        let (bpf, _) = self.filters_and_count(ifindex, ingress, iface)?;
        Ok(bpf)
    }

    /// Lists the BPF filters of one direction, and counts the filters of every kind there.
    ///
    /// # Errors
    /// What the kernel says; without a clsact qdisc there are none.
    pub fn filters_and_count(&mut self, ifindex: u32, ingress: bool, iface: &str) -> Result<(Vec<Filter>, usize)> {
        let all = self.classifiers(ifindex, ingress, iface)?;
        let count = all.len();
        Ok((all.into_iter().filter(|c| c.kind == "bpf").map(|c| c.filter).collect(), count))
    }

    /// Lists the classifiers of one direction in the order in which the kernel asks them.
    ///
    /// # Errors
    /// What the kernel says; without a clsact qdisc there are none.
    pub fn classifiers(&mut self, ifindex: u32, ingress: bool, iface: &str) -> Result<Vec<Classifier>> {
        let request = Request::new(RTM_GETTFILTER, NLM_F_DUMP).tc(ifindex, 0, if ingress { CLSACT_INGRESS } else { CLSACT_EGRESS }, 0);
        let mut all = Vec::new();
        let result = self.request(request, |kind, body| {
            // Each chain comes as a head without a handle, then its elements.
            if kind == RTM_NEWTFILTER
                && u32_at(body, 8) != 0
                && let Some((kind, filter)) = parse_classifier(body)
            {
                all.push(Classifier {
                    kind,
                    filter: Filter { ingress, ..filter },
                });
            }
        });
        match result {
            Ok(()) => Ok(all),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(Vec::new()),
            Err(e) => Err(SysError::new("list the filters of", iface, e)),
        }
    }
}

/// A direct-action BPF filter for all protocols.
fn filter_request(filter: &Filter, prog: BorrowedFd<'_>, flags: u16) -> Request {
    let info = (u32::from(filter.priority) << 16) | u32::from((libc::ETH_P_ALL as u16).to_be());
    Request::new(RTM_NEWTFILTER, flags)
        .tc(
            filter.ifindex,
            filter.handle,
            if filter.ingress { CLSACT_INGRESS } else { CLSACT_EGRESS },
            info,
        )
        .str_attr(TCA_KIND, "bpf")
        .nested(TCA_OPTIONS, |r| {
            r.attr(TCA_BPF_FD, &prog.as_raw_fd().to_ne_bytes())
                .str_attr(TCA_BPF_NAME, &filter.name)
                .attr(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes())
        })
}

/// Reads an `NLMSG_ERROR` body: 0 is an acknowledgement.
fn ack(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).cast_signed() {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        ifindex: u32_at(body, 4),
        name: String::new(),
        arphrd: u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?),
        mtu: 0,
        kind: String::new(),
        xdp: XdpAttached::default(),
        lower: 0,
        lower_netnsid: None,
        starts_outside: false,
    };
    let is_gre = matches!(link.arphrd, libc::ARPHRD_IPGRE | ARPHRD_IP6GRE);
    let mut described = false;
    for (kind, value) in attrs(body.get(16..)?) {
        match kind {
            // A tunnel's broadcast address is its other end.
            IFLA_BROADCAST if is_gre => {
                let is_group = value.len() == 4 && (0xe0..0xf0).contains(&value[0]);
                link.starts_outside = value.iter().all(|b| *b == 0) || is_group;
            }
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0),
            IFLA_LINK => link.lower = u32_at(value, 0),
            IFLA_LINK_NETNSID => link.lower_netnsid = Some(u32_at(value, 0).cast_signed()),
            IFLA_LINKINFO => {
                for (kind, value) in attrs(value) {
                    match kind {
                        IFLA_INFO_KIND => link.kind = text(value),
                        IFLA_INFO_DATA if is_gre => described = attrs(value).any(|(kind, _)| kind == IFLA_GRE_COLLECT_METADATA),
                        _ => {}
                    }
                }
            }
            IFLA_XDP => {
                let mut single = 0;
                for (kind, value) in attrs(value) {
                    match kind {
                        IFLA_XDP_PROG_ID => single = u32_at(value, 0),
                        IFLA_XDP_DRV_PROG_ID => link.xdp.native = u32_at(value, 0),
                        IFLA_XDP_SKB_PROG_ID => link.xdp.generic = u32_at(value, 0),
                        IFLA_XDP_HW_PROG_ID => link.xdp.offload = u32_at(value, 0),
                        _ => {}
                    }
                }
                if link.xdp.any().is_none() {
                    link.xdp.native = single;
                }
            }
            _ => {}
        }
    }
    // Where each packet says its other end, the kernel puts no header in front either.
    link.starts_outside &= !described;
    Some(link)
}

/// Reads a BPF filter; `None` for other classifiers and for the head of a chain.
fn parse_filter(body: &[u8]) -> Option<Filter> {
    let (kind, filter) = parse_classifier(body)?;
    (kind == "bpf" && filter.handle != 0).then_some(filter)
}

fn parse_classifier(body: &[u8]) -> Option<(String, Filter)> {
    let info = u32_at(body, 16);
    let parent = u32_at(body, 12);
    let mut filter = Filter {
        ifindex: u32_at(body, 4),
        ingress: parent == CLSACT_INGRESS,
        priority: (info >> 16) as u16,
        protocol_be: info as u16,
        handle: u32_at(body, 8),
        ..Filter::default()
    };
    let mut name = String::new();
    for (kind, value) in attrs(body.get(20..)?) {
        match kind {
            TCA_KIND => name = text(value),
            TCA_CHAIN => filter.chain = u32_at(value, 0),
            TCA_OPTIONS if name == "bpf" => {
                for (kind, value) in attrs(value) {
                    match kind {
                        TCA_BPF_NAME => filter.name = text(value),
                        TCA_BPF_ID => filter.prog_id = u32_at(value, 0),
                        TCA_BPF_FLAGS => filter.direct_action = u32_at(value, 0) & TCA_BPF_FLAG_ACT_DIRECT != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((name, filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_pad() {
        let r = Request { buf: Vec::new() }
            .str_attr(1, "ab")
            .nested(2, |r| r.attr(3, &[9]).attr(4, &[1, 2, 3, 4]));
        let all: Vec<_> = attrs(&r.buf).collect();
        assert_eq!(all[0], (1, &b"ab\0"[..]));
        assert_eq!(all[1].0, 2);
        assert_eq!(attrs(all[1].1).collect::<Vec<_>>(), [(3, &[9u8][..]), (4, &[1, 2, 3, 4])]);
    }

    #[test]
    fn a_cut_attribute_ends_the_list() {
        assert_eq!(attrs(&[8, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attrs(&[]).count(), 0);
    }

    #[test]
    fn gre_tunnels_without_one_other_end_start_outside() {
        let starts_outside = |arphrd: u16, remote: &[u8]| {
            let mut header = vec![0; 16];
            header[2..4].copy_from_slice(&arphrd.to_ne_bytes());
            let request = Request { buf: header }.attr(IFLA_BROADCAST, remote);
            parse_link(&request.buf).unwrap().starts_outside
        };
        assert!(starts_outside(libc::ARPHRD_IPGRE, &[0; 4]) && starts_outside(ARPHRD_IP6GRE, &[0; 16]));
        assert!(starts_outside(libc::ARPHRD_IPGRE, &[239, 1, 1, 1]) && !starts_outside(libc::ARPHRD_IPGRE, &[192, 0, 2, 1]));
        let mut group = [0; 16];
        group[..2].copy_from_slice(&[0xff, 0x02]);
        assert!(!starts_outside(ARPHRD_IP6GRE, &group));
        group[0] = 0xe0;
        assert!(!starts_outside(ARPHRD_IP6GRE, &group));
        assert!(!starts_outside(libc::ARPHRD_ETHER, &[0; 4]));
    }

    #[test]
    fn the_loopback_interface_is_listed() {
        let mut netlink = Netlink::open().unwrap();
        assert!(netlink.links().unwrap().iter().any(|l| l.name == "lo" && l.ifindex == 1));
        assert_eq!(netlink.link("lo").unwrap().unwrap().ifindex, 1);
        assert_eq!(netlink.link("no-such-iface").unwrap(), None);
    }
}
