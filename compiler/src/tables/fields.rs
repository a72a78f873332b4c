//! Packet fields.

use super::hooks::Hooks;
use crate::types::Type;

/// A field of a packet or of its context.
#[derive(Debug)]
pub struct Field {
    /// As written: `tcp.dport`.
    pub name: &'static str,
    pub kind: FieldKind,
    pub ty: FieldType,
    pub hooks: Hooks,
    pub doc: &'static str,
}

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
}

impl FieldType {
    /// Returns the type of the value in memory.
    #[must_use]
    pub fn ty(self) -> Type {
        let int = |bits| Type::Int { bits, signed: false };
        match self {
            FieldType::Bool => Type::Bool,
            FieldType::U8 => int(8),
            FieldType::U16 => int(16),
            FieldType::U32 => int(32),
            FieldType::U64 => int(64),
            FieldType::Inet => Type::Inet,
            FieldType::Mac => Type::Mac,
            FieldType::Flow => Type::Flow,
        }
    }
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
}

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// `bytes` big-endian bytes at `offset` in the header, then shifted right and masked.
    Bits {
        header: Header,
        offset: u16,
        bytes: u8,
        shift: u8,
        mask: u64,
    },
    /// Six bytes at `offset`.
    MacAt { header: Header, offset: u16 },
    /// Four bytes at `offset`, as IPv4 address.
    Inet4At { header: Header, offset: u16 },
    /// Sixteen bytes at `offset`, as IPv6 address.
    Inet6At { header: Header, offset: u16 },
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
    VlanTci,
    VlanId,
    VlanPrio,
    IpSrc,
    IpDst,
    IpVersion,
    IpProto,
    IpTtl,
    IpTos,
    IpLen,
    PortSrc,
    PortDst,
    TcpHdrLen,
}

macro_rules! fields {
    ($($name:literal $ty:ident, $hooks:expr, $kind:expr, $doc:literal;)*) => {
        /// Every packet field.
        pub static FIELDS: &[Field] =
            &[$(Field { name: $name, kind: $kind, ty: FieldType::$ty, hooks: $hooks, doc: $doc },)*];
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

const fn bits(header: Header, offset: u16, bytes: u8, shift: u8, mask: u64) -> FieldKind {
    FieldKind::Bits {
        header,
        offset,
        bytes,
        shift,
        mask,
    }
}

const fn flag(bit: u8) -> FieldKind {
    FieldKind::Bits {
        header: Header::Tcp,
        offset: 13,
        bytes: 1,
        shift: bit,
        mask: 1,
    }
}

const fn ctx(xdp: Option<(u16, u8)>, skb: Option<(u16, u8)>) -> FieldKind {
    FieldKind::Context { xdp, skb }
}

fields! {
    "eth.src" Mac, Hooks::FRAME, FieldKind::MacAt { header: Header::Eth, offset: 6 }, "source MAC address";
    "eth.dst" Mac, Hooks::FRAME, FieldKind::MacAt { header: Header::Eth, offset: 0 }, "destination MAC address";
    "eth.type" U16, Hooks::FRAME, FieldKind::Parsed(Parsed::EthType), "EtherType after VLAN tags";
    "vlan.id" U16, Hooks::FRAME, FieldKind::Parsed(Parsed::VlanId), "VLAN id of the outer tag";
    "vlan.prio" U8, Hooks::FRAME, FieldKind::Parsed(Parsed::VlanPrio), "priority of the outer tag";
    "arp.op" U16, Hooks::FRAME, at(Header::Arp, 6, 2), "ARP operation: 1 request, 2 reply";
    "arp.sip" Inet, Hooks::FRAME, FieldKind::Inet4At { header: Header::Arp, offset: 14 }, "sender's IPv4 address";
    "arp.dip" Inet, Hooks::FRAME, FieldKind::Inet4At { header: Header::Arp, offset: 24 }, "target's IPv4 address";
    "arp.smac" Mac, Hooks::FRAME, FieldKind::MacAt { header: Header::Arp, offset: 8 }, "sender's MAC address";
    "ip.src" Inet, Hooks::PACKET, FieldKind::Parsed(Parsed::IpSrc), "source address, either family";
    "ip.dst" Inet, Hooks::PACKET, FieldKind::Parsed(Parsed::IpDst), "destination address, either family";
    "ip.version" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::IpVersion), "4 or 6";
    "ip.proto" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::IpProto), "protocol, after IPv6 extension headers";
    "ip.ttl" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::IpTtl), "time to live, or hop limit";
    "ip.tos" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::IpTos), "type of service, or traffic class";
    "ip.len" U32, Hooks::PACKET, FieldKind::Parsed(Parsed::IpLen), "length of the IP packet with its headers, in bytes";
    "ip4.src" Inet, Hooks::PACKET, FieldKind::Inet4At { header: Header::Ip4, offset: 12 }, "IPv4 source address";
    "ip4.dst" Inet, Hooks::PACKET, FieldKind::Inet4At { header: Header::Ip4, offset: 16 }, "IPv4 destination address";
    "ip4.ttl" U8, Hooks::PACKET, at(Header::Ip4, 8, 1), "IPv4 time to live";
    "ip4.tos" U8, Hooks::PACKET, at(Header::Ip4, 1, 1), "IPv4 type of service";
    "ip4.len" U16, Hooks::PACKET, at(Header::Ip4, 2, 2), "IPv4 total length in bytes";
    "ip4.id" U16, Hooks::PACKET, at(Header::Ip4, 4, 2), "IPv4 identification";
    "ip4.frag" U16, Hooks::PACKET, bits(Header::Ip4, 6, 2, 0, 0x1fff), "fragment offset in units of 8 bytes";
    "ip4.proto" U8, Hooks::PACKET, at(Header::Ip4, 9, 1), "IPv4 protocol";
    "ip6.src" Inet, Hooks::PACKET, FieldKind::Inet6At { header: Header::Ip6, offset: 8 }, "IPv6 source address";
    "ip6.dst" Inet, Hooks::PACKET, FieldKind::Inet6At { header: Header::Ip6, offset: 24 }, "IPv6 destination address";
    "ip6.hop_limit" U8, Hooks::PACKET, at(Header::Ip6, 7, 1), "IPv6 hop limit";
    "ip6.flow_label" U32, Hooks::PACKET, bits(Header::Ip6, 0, 4, 0, 0xf_ffff), "IPv6 flow label";
    "tcp.sport" U16, Hooks::PACKET, at(Header::Tcp, 0, 2), "TCP source port";
    "tcp.dport" U16, Hooks::PACKET, at(Header::Tcp, 2, 2), "TCP destination port";
    "tcp.seq" U32, Hooks::PACKET, at(Header::Tcp, 4, 4), "sequence number";
    "tcp.ack" U32, Hooks::PACKET, at(Header::Tcp, 8, 4), "acknowledgement number";
    "tcp.window" U16, Hooks::PACKET, at(Header::Tcp, 14, 2), "receive window, unscaled";
    "tcp.hdr_len" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::TcpHdrLen), "length of the TCP header in bytes";
    "tcp.flags" U8, Hooks::PACKET, at(Header::Tcp, 13, 1), "all flags as a number";
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
    "udp.sport" U16, Hooks::PACKET, at(Header::Udp, 0, 2), "UDP source port";
    "udp.dport" U16, Hooks::PACKET, at(Header::Udp, 2, 2), "UDP destination port";
    "udp.len" U16, Hooks::PACKET, at(Header::Udp, 4, 2), "UDP length with its header, in bytes";
    "sctp.sport" U16, Hooks::PACKET, at(Header::Sctp, 0, 2), "SCTP source port";
    "sctp.dport" U16, Hooks::PACKET, at(Header::Sctp, 2, 2), "SCTP destination port";
    "port.src" U16, Hooks::PACKET, FieldKind::Parsed(Parsed::PortSrc), "source port of TCP, UDP or SCTP";
    "port.dst" U16, Hooks::PACKET, FieldKind::Parsed(Parsed::PortDst), "destination port of TCP, UDP or SCTP";
    "icmp.type" U8, Hooks::PACKET, at(Header::Icmp, 0, 1), "ICMP type";
    "icmp.code" U8, Hooks::PACKET, at(Header::Icmp, 1, 1), "ICMP code";
    "icmp6.type" U8, Hooks::PACKET, at(Header::Icmp6, 0, 1), "ICMPv6 type";
    "icmp6.code" U8, Hooks::PACKET, at(Header::Icmp6, 1, 1), "ICMPv6 code";
    "pkt.len" U32, Hooks::PACKET, FieldKind::PacketLen, "length of the frame in bytes";
    "pkt.segs" U32, Hooks::PACKET, FieldKind::Segments, "packets on the wire: segments of a GSO packet, else 1";
    "pkt.ifindex" U32, Hooks::PACKET, ctx(Some((12, 4)), Some((40, 4))), "interface number";
    "pkt.queue" U32, Hooks::PACKET, ctx(Some((16, 4)), Some((12, 4))), "receive queue";
    "skb.mark" U32, Hooks::SKB, ctx(None, Some((8, 4))), "firewall mark";
    "skb.priority" U32, Hooks::SKB, ctx(None, Some((32, 4))), "queueing priority";
    "skb.hash" U32, Hooks::SKB, ctx(None, Some((68, 4))), "flow hash";
    "skb.queue" U32, Hooks::SKB, ctx(None, Some((12, 4))), "queue mapping";
    "addr.ip" Inet, Hooks::ADDRESS, FieldKind::Address(AddressPart::Ip), "address that the call is about";
    "addr.port" U16, Hooks::ADDRESS, FieldKind::Address(AddressPart::Port), "port that the call is about";
    "addr.family" U32, Hooks::CGROUP_CALL, FieldKind::Address(AddressPart::Family), "`AF_INET` or `AF_INET6`, of the socket";
    "addr.proto" U32, Hooks::CGROUP_CALL, FieldKind::Address(AddressPart::Proto), "protocol of the socket: `IPPROTO_TCP`, `IPPROTO_UDP`, …";
    "skb.tstamp" U64, Hooks::SKB, ctx(None, Some((152, 8))), "time stamp in nanoseconds";
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
        _ => return None,
    })
}
