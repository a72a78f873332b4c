//! Packet fields.

use super::helper;
use super::hooks::{Hook, Hooks};

/// A field of a packet or of its context.
#[derive(Debug)]
pub struct Field {
    /// As written: `tcp.dport`.
    pub name: &'static str,
    pub kind: FieldKind,
    pub ty: FieldType,
    pub hooks: Hooks,
    /// Where a script may assign to it.
    pub writable: Hooks,
    pub doc: &'static str,
}

/// Room of a DNS name with its end: 253 characters are the most.
pub const NAME_BYTES: u32 = 256;
/// `IFNAMSIZ`
pub const IFNAME_BYTES: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    Bool,
    U8,
    U16,
    U32,
    U64,
    Inet,
    Mac,
    Flow,
    /// A DNS name.
    Name,
    /// The name of an interface.
    IfName,
    /// `ingress` or `egress`
    Direction,
    /// Bytes, at most `max_strlen` of them.
    Bytes,
}

/// Headers that the generated parser finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Header {
    Eth,
    Vlan,
    Arp,
    /// Either family.
    Ip,
    Ip4,
    Ip6,
    Tcp,
    Udp,
    Sctp,
    /// TCP, UDP or SCTP.
    Port,
    Icmp,
    Icmp6,
    /// Of a query or an answer on port 53.
    Dns,
    /// What follows the transport header.
    Payload,
}

/// Which IP packets have a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Any,
    V4,
    V6,
}

impl Family {
    /// Returns whether packets of the family have the field.
    #[must_use]
    pub fn has(self, v6: bool) -> bool {
        match self {
            Family::Any => true,
            Family::V4 => !v6,
            Family::V6 => v6,
        }
    }

    #[must_use]
    pub fn header(self) -> Header {
        match self {
            Family::Any => Header::Ip,
            Family::V4 => Header::Ip4,
            Family::V6 => Header::Ip6,
        }
    }
}

/// What both families have, at different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpPart {
    Src,
    Dst,
    Version,
    Proto,
    Ttl,
    Tos,
    Len,
    Id,
    Frag,
}

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// `bytes` big-endian bytes at `offset` in the header, then shifted right (left for a negative number) and masked.
    Bits {
        header: Header,
        offset: u16,
        bytes: u8,
        shift: i8,
        mask: u64,
    },
    /// Six bytes at `offset`.
    MacAt { header: Header, offset: u16 },
    /// Four bytes at `offset`, as IPv4 address.
    Inet4At { header: Header, offset: u16 },
    /// A part of the IP header.
    Ip { family: Family, part: IpPart },
    /// A value that the parser computes; see `clif::packet`.
    Parsed(Parsed),
    /// `bytes` bytes at `offset` of the context, in host order (`struct xdp_md`, `struct __sk_buff`).
    Context { xdp: Option<(u16, u8)>, skb: Option<(u16, u8)> },
    /// Of the address in a system call.
    Address(AddressPart),
    /// All fragments of the buffer.
    PacketLen,
    /// `max(1, gso_segs)`
    Segments,
    /// `bytes` bytes of the frame, at an offset that the script gives.
    At { bytes: u8 },
    /// The number that XDP has left before the packet.
    Meta,
    /// The interface's name: known when the block is compiled, or looked up by its number.
    IfName,
    /// Known when the block is compiled.
    Direction,
    /// Receive queue; at TC egress the transmit queue.
    Queue,
    /// What a helper that takes only the context returns; 0 stands for absent.
    Helper(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressPart {
    Ip,
    Port,
    Family,
    Proto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parsed {
    /// EtherType after VLAN tags.
    EthType,
    VlanId {
        inner: bool,
    },
    VlanPrio {
        inner: bool,
    },
    PortSrc,
    PortDst,
    TcpHdrLen,
    TcpPayloadLen,
    Flow,
    Payload,
    DnsId,
    DnsQr,
    DnsRcode,
    DnsQname,
    DnsQtype,
}

macro_rules! fields {
    (@writable) => { Hooks::of(&[]) };
    (@writable $hooks:expr) => { $hooks };
    ($($name:literal $ty:ident, $hooks:expr, $kind:expr, $doc:literal $(, $writable:expr)?;)*) => {
        /// Every packet field. What stands behind the text are the hooks where it can be assigned to.
        pub static FIELDS: &[Field] = &[$(Field {
            name: $name,
            kind: $kind,
            ty: FieldType::$ty,
            hooks: $hooks,
            writable: fields!(@writable $($writable)?),
            doc: $doc,
        },)*];
    };
}

const fn at(header: Header, offset: u16, bytes: u8) -> FieldKind {
    FieldKind::Bits {
        header,
        offset,
        bytes,
        shift: 0,
        mask: u64::MAX,
    }
}

const fn bits(header: Header, offset: u16, bytes: u8, shift: i8, mask: u64) -> FieldKind {
    FieldKind::Bits {
        header,
        offset,
        bytes,
        shift,
        mask,
    }
}

const fn flag(bit: i8) -> FieldKind {
    FieldKind::Bits {
        header: Header::Tcp,
        offset: 13,
        bytes: 1,
        shift: bit,
        mask: 1,
    }
}

const fn ip(family: Family, part: IpPart) -> FieldKind {
    FieldKind::Ip { family, part }
}

const fn parsed(parsed: Parsed) -> FieldKind {
    FieldKind::Parsed(parsed)
}

const fn skb(offset: u16, bytes: u8) -> FieldKind {
    ctx(None, Some((offset, bytes)))
}

const fn ctx(xdp: Option<(u16, u8)>, skb: Option<(u16, u8)>) -> FieldKind {
    FieldKind::Context { xdp, skb }
}

fields! {
    "eth.src" Mac, Hooks::FRAME, FieldKind::MacAt { header: Header::Eth, offset: 6 }, "source MAC address", Hooks::FRAME;
    "eth.dst" Mac, Hooks::FRAME, FieldKind::MacAt { header: Header::Eth, offset: 0 }, "destination MAC address", Hooks::FRAME;
    "eth.type" U16, Hooks::FRAME, parsed(Parsed::EthType), "EtherType after VLAN tags";
    "vlan.id" U16, Hooks::FRAME, parsed(Parsed::VlanId { inner: false }), "VLAN id of the outer tag", Hooks::FRAME;
    "vlan.prio" U8, Hooks::FRAME, parsed(Parsed::VlanPrio { inner: false }), "priority of the outer tag", Hooks::FRAME;
    "vlan[1].id" U16, Hooks::FRAME, parsed(Parsed::VlanId { inner: true }), "VLAN id of the inner tag";
    "vlan[1].prio" U8, Hooks::FRAME, parsed(Parsed::VlanPrio { inner: true }), "priority of the inner tag";
    "arp.op" U16, Hooks::FRAME, at(Header::Arp, 6, 2), "ARP operation: 1 request, 2 reply";
    "arp.sip" Inet, Hooks::FRAME, FieldKind::Inet4At { header: Header::Arp, offset: 14 }, "sender's IPv4 address";
    "arp.dip" Inet, Hooks::FRAME, FieldKind::Inet4At { header: Header::Arp, offset: 24 }, "target's IPv4 address";
    "arp.smac" Mac, Hooks::FRAME, FieldKind::MacAt { header: Header::Arp, offset: 8 }, "sender's MAC address";
    "arp.dmac" Mac, Hooks::FRAME, FieldKind::MacAt { header: Header::Arp, offset: 18 }, "target's MAC address";
    "ip.src" Inet, Hooks::PACKET, ip(Family::Any, IpPart::Src), "source address, either family", Hooks::FRAME;
    "ip.dst" Inet, Hooks::PACKET, ip(Family::Any, IpPart::Dst), "destination address, either family", Hooks::FRAME;
    "ip.version" U8, Hooks::PACKET, ip(Family::Any, IpPart::Version), "4 or 6";
    "ip.proto" U8, Hooks::PACKET, ip(Family::Any, IpPart::Proto), "protocol, after IPv6 extension headers";
    "ip.ttl" U8, Hooks::PACKET, ip(Family::Any, IpPart::Ttl), "time to live, or hop limit", Hooks::FRAME;
    "ip.tos" U8, Hooks::PACKET, ip(Family::Any, IpPart::Tos), "type of service, or traffic class", Hooks::FRAME;
    "ip.len" U32, Hooks::PACKET, ip(Family::Any, IpPart::Len), "length of the IP packet with its headers, in bytes";
    "ip.id" U32, Hooks::PACKET, ip(Family::Any, IpPart::Id), "identification; IPv6: only with a fragment header";
    "ip.frag" U16, Hooks::PACKET, ip(Family::Any, IpPart::Frag), "fragment offset in units of 8 bytes; IPv6: only with a fragment header";
    "ip4.src" Inet, Hooks::PACKET, ip(Family::V4, IpPart::Src), "IPv4 source address", Hooks::FRAME;
    "ip4.dst" Inet, Hooks::PACKET, ip(Family::V4, IpPart::Dst), "IPv4 destination address", Hooks::FRAME;
    "ip4.proto" U8, Hooks::PACKET, ip(Family::V4, IpPart::Proto), "IPv4 protocol";
    "ip4.ttl" U8, Hooks::PACKET, ip(Family::V4, IpPart::Ttl), "IPv4 time to live", Hooks::FRAME;
    "ip4.tos" U8, Hooks::PACKET, ip(Family::V4, IpPart::Tos), "IPv4 type of service", Hooks::FRAME;
    "ip4.len" U32, Hooks::PACKET, ip(Family::V4, IpPart::Len), "IPv4 total length in bytes";
    "ip4.id" U16, Hooks::PACKET, ip(Family::V4, IpPart::Id), "IPv4 identification";
    "ip4.frag" U16, Hooks::PACKET, ip(Family::V4, IpPart::Frag), "IPv4 fragment offset in units of 8 bytes";
    "ip4.df" Bool, Hooks::PACKET, bits(Header::Ip4, 6, 1, 6, 1), "`don't fragment`";
    "ip4.mf" Bool, Hooks::PACKET, bits(Header::Ip4, 6, 1, 5, 1), "more fragments follow";
    "ip4.hdr_len" U8, Hooks::PACKET, FieldKind::Bits { header: Header::Ip4, offset: 0, bytes: 1, shift: -2, mask: 0x3c }, "length of the IPv4 header in bytes";
    "ip6.src" Inet, Hooks::PACKET, ip(Family::V6, IpPart::Src), "IPv6 source address", Hooks::FRAME;
    "ip6.dst" Inet, Hooks::PACKET, ip(Family::V6, IpPart::Dst), "IPv6 destination address", Hooks::FRAME;
    "ip6.proto" U8, Hooks::PACKET, ip(Family::V6, IpPart::Proto), "protocol after the extension headers";
    "ip6.next" U8, Hooks::PACKET, at(Header::Ip6, 6, 1), "next header as it stands in the IPv6 header";
    "ip6.ttl" U8, Hooks::PACKET, ip(Family::V6, IpPart::Ttl), "IPv6 hop limit", Hooks::FRAME;
    "ip6.hop_limit" U8, Hooks::PACKET, ip(Family::V6, IpPart::Ttl), "IPv6 hop limit", Hooks::FRAME;
    "ip6.tos" U8, Hooks::PACKET, ip(Family::V6, IpPart::Tos), "IPv6 traffic class", Hooks::FRAME;
    "ip6.len" U32, Hooks::PACKET, ip(Family::V6, IpPart::Len), "length of the IPv6 packet with its header, in bytes";
    "ip6.id" U32, Hooks::PACKET, ip(Family::V6, IpPart::Id), "identification in the fragment header";
    "ip6.frag" U16, Hooks::PACKET, ip(Family::V6, IpPart::Frag), "fragment offset in units of 8 bytes, from the fragment header";
    "ip6.flow_label" U32, Hooks::PACKET, bits(Header::Ip6, 0, 4, 0, 0xf_ffff), "IPv6 flow label";
    "tcp.sport" U16, Hooks::PACKET, at(Header::Tcp, 0, 2), "TCP source port", Hooks::FRAME;
    "tcp.dport" U16, Hooks::PACKET, at(Header::Tcp, 2, 2), "TCP destination port", Hooks::FRAME;
    "tcp.seq" U32, Hooks::PACKET, at(Header::Tcp, 4, 4), "sequence number", Hooks::FRAME;
    "tcp.ack" U32, Hooks::PACKET, at(Header::Tcp, 8, 4), "acknowledgement number", Hooks::FRAME;
    "tcp.window" U16, Hooks::PACKET, at(Header::Tcp, 14, 2), "receive window, unscaled", Hooks::FRAME;
    "tcp.hdr_len" U8, Hooks::PACKET, parsed(Parsed::TcpHdrLen), "length of the TCP header in bytes";
    "tcp.payload_len" U32, Hooks::PACKET, parsed(Parsed::TcpPayloadLen), "bytes of data, without the TCP header";
    "tcp.flags" U8, Hooks::PACKET, at(Header::Tcp, 13, 1), "all flags as a number", Hooks::FRAME;
    "tcp.flags.fin" Bool, Hooks::PACKET, flag(0), "FIN";
    "tcp.flags.syn" Bool, Hooks::PACKET, flag(1), "SYN";
    "tcp.flags.rst" Bool, Hooks::PACKET, flag(2), "RST";
    "tcp.flags.psh" Bool, Hooks::PACKET, flag(3), "PSH";
    "tcp.flags.ack" Bool, Hooks::PACKET, flag(4), "ACK";
    "tcp.flags.urg" Bool, Hooks::PACKET, flag(5), "URG";
    "tcp.flags.ece" Bool, Hooks::PACKET, flag(6), "ECE";
    "tcp.flags.cwr" Bool, Hooks::PACKET, flag(7), "CWR";
    "tcp.fin" Bool, Hooks::PACKET, flag(0), "short for `tcp.flags.fin`";
    "tcp.syn" Bool, Hooks::PACKET, flag(1), "short for `tcp.flags.syn`";
    "tcp.rst" Bool, Hooks::PACKET, flag(2), "short for `tcp.flags.rst`";
    "tcp.psh" Bool, Hooks::PACKET, flag(3), "short for `tcp.flags.psh`";
    "udp.sport" U16, Hooks::PACKET, at(Header::Udp, 0, 2), "UDP source port", Hooks::FRAME;
    "udp.dport" U16, Hooks::PACKET, at(Header::Udp, 2, 2), "UDP destination port", Hooks::FRAME;
    "udp.len" U16, Hooks::PACKET, at(Header::Udp, 4, 2), "UDP length with its header, in bytes";
    "sctp.sport" U16, Hooks::PACKET, at(Header::Sctp, 0, 2), "SCTP source port";
    "sctp.dport" U16, Hooks::PACKET, at(Header::Sctp, 2, 2), "SCTP destination port";
    "port.src" U16, Hooks::PACKET, parsed(Parsed::PortSrc), "source port of TCP, UDP or SCTP";
    "port.dst" U16, Hooks::PACKET, parsed(Parsed::PortDst), "destination port of TCP, UDP or SCTP";
    "icmp.type" U8, Hooks::PACKET, at(Header::Icmp, 0, 1), "ICMP type";
    "icmp.code" U8, Hooks::PACKET, at(Header::Icmp, 1, 1), "ICMP code";
    "icmp6.type" U8, Hooks::PACKET, at(Header::Icmp6, 0, 1), "ICMPv6 type";
    "icmp6.code" U8, Hooks::PACKET, at(Header::Icmp6, 1, 1), "ICMPv6 code";
    "dns.id" U16, Hooks::PACKET, parsed(Parsed::DnsId), "id of a DNS message on port 53, UDP or TCP";
    "dns.qr" Bool, Hooks::PACKET, parsed(Parsed::DnsQr), "whether it is an answer";
    "dns.rcode" U8, Hooks::PACKET, parsed(Parsed::DnsRcode), "result: 0 no error, 3 no such name";
    "dns.qname" Name, Hooks::PACKET, parsed(Parsed::DnsQname), "name that is asked for";
    "dns.qtype" U16, Hooks::PACKET, parsed(Parsed::DnsQtype), "type that is asked for: 1 A, 28 AAAA";
    "pkt.len" U32, Hooks::PACKET, FieldKind::PacketLen, "length of the packet in bytes, all fragments of its buffer";
    "pkt.segs" U32, Hooks::PACKET, FieldKind::Segments, "packets on the wire: segments of a GSO packet, else 1";
    "pkt.ifname" IfName, Hooks::FRAME, FieldKind::IfName, "name of the interface";
    "pkt.ifindex" U32, Hooks::PACKET, ctx(Some((12, 4)), Some((40, 4))), "interface number";
    "pkt.queue" U32, Hooks::FRAME, FieldKind::Queue, "receive queue; at TC egress the transmit queue";
    "pkt.direction" Direction, Hooks::of(&[Hook::Xdp, Hook::Tc, Hook::NativeXdp, Hook::CgroupSkb]), FieldKind::Direction, "`ingress` or `egress`";
    "pkt.u8" U8, Hooks::PACKET, FieldKind::At { bytes: 1 }, "`pkt.u8[off]`: a byte, counted from the first of the frame";
    "pkt.u16" U16, Hooks::PACKET, FieldKind::At { bytes: 2 }, "`pkt.u16[off]`: two bytes as a number in host order";
    "pkt.u32" U32, Hooks::PACKET, FieldKind::At { bytes: 4 }, "`pkt.u32[off]`: four bytes as a number in host order";
    "pkt.payload" Bytes, Hooks::PACKET, parsed(Parsed::Payload), "what follows the header of TCP, UDP, SCTP or ICMP, at most `max_strlen` bytes";
    "pkt.meta" U32, Hooks::of(&[Hook::Xdp, Hook::Tc]), FieldKind::Meta, "a number that an `xdp` block leaves for `tc` ingress of the same interface", Hooks::of(&[Hook::Xdp]);
    "skb.len" U32, Hooks::SKB, skb(0, 4), "length of the buffer in bytes";
    "skb.mark" U32, Hooks::SKB, skb(8, 4), "firewall mark", Hooks::SKB;
    "skb.priority" U32, Hooks::SKB, skb(32, 4), "queueing priority", Hooks::SKB;
    "skb.hash" U32, Hooks::SKB, skb(68, 4), "flow hash";
    "skb.queue" U32, Hooks::SKB, skb(12, 4), "queue mapping";
    "skb.tstamp" U64, Hooks::SKB, skb(152, 8), "time stamp in nanoseconds";
    "skb.pkt_type" U32, Hooks::SKB, skb(4, 4), "0 for us, 1 broadcast, 2 multicast, 3 for another host, 4 outgoing";
    "skb.ifindex" U32, Hooks::SKB, skb(40, 4), "interface number";
    "skb.ingress_ifindex" U32, Hooks::SKB, skb(36, 4), "number of the interface it came in by, 0 for what this host sends";
    "skb.napi_id" U32, Hooks::SKB, skb(84, 4), "NAPI instance that received it";
    "skb.gso_segs" U32, Hooks::SKB, skb(164, 4), "segments of a GSO packet, else 0";
    "skb.gso_size" U32, Hooks::SKB, skb(176, 4), "payload of one segment of a GSO packet, else 0";
    "skb.wire_len" U32, Hooks::TC, skb(160, 4), "length on the wire in bytes, headers of all segments included";
    "skb.cgroup_id" U64, Hooks::SKB, FieldKind::Helper(helper::SKB_CGROUP_ID), "cgroup v2 id of the socket that it belongs to";
    "skb.cookie" U64, Hooks::SKB, FieldKind::Helper(helper::GET_SOCKET_COOKIE), "cookie of the socket that it belongs to";
    "flow" Flow, Hooks::PACKET, parsed(Parsed::Flow), "addresses, ports and protocol as one key; every IP packet has it";
    "addr.ip" Inet, Hooks::ADDRESS, FieldKind::Address(AddressPart::Ip), "address that the call is about", Hooks::SOCK_ADDR;
    "addr.port" U16, Hooks::ADDRESS, FieldKind::Address(AddressPart::Port), "port that the call is about", Hooks::SOCK_ADDR;
    "addr.family" U32, Hooks::CGROUP_CALL, FieldKind::Address(AddressPart::Family), "`AF_INET` or `AF_INET6`, of the socket";
    "addr.proto" U32, Hooks::CGROUP_CALL, FieldKind::Address(AddressPart::Proto), "protocol of the socket: `IPPROTO_TCP`, `IPPROTO_UDP`, …";
}

/// Words that can stand before the dot of a packet field.
#[must_use]
pub fn is_header_word(word: &str) -> bool {
    FIELDS.iter().any(|f| f.name.split('.').next() == Some(word))
}

/// Returns the index into [`FIELDS`].
#[must_use]
pub fn field(name: &str) -> Option<usize> {
    FIELDS.iter().position(|f| f.name == name)
}

/// Returns the header whose presence `has(word)` asks for.
#[must_use]
pub fn header(word: &str) -> Option<Header> {
    Some(match word {
        "eth" => Header::Eth,
        "vlan" => Header::Vlan,
        "arp" => Header::Arp,
        "ip" => Header::Ip,
        "ip4" => Header::Ip4,
        "ip6" => Header::Ip6,
        "tcp" => Header::Tcp,
        "udp" => Header::Udp,
        "sctp" => Header::Sctp,
        "port" => Header::Port,
        "icmp" => Header::Icmp,
        "icmp6" => Header::Icmp6,
        "dns" => Header::Dns,
        _ => return None,
    })
}
