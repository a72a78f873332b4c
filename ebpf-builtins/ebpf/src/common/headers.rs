//! Headers as they lie in packets, and the numbers in them: what the kernel's UAPI headers call `iphdr`, `IPPROTO_*` and so on.

/// The fixed part of an IPv4 header.
#[repr(C, packed)]
pub struct Ipv4 {
    pub version_ihl: u8,
    _tos: u8,
    pub total_len: u16,
    pub id: u16,
    pub flags_fragment: u16,
    _ttl: u8,
    pub proto: u8,
    _checksum: u16,
    pub src: u32,
    pub dst: u32,
}

/// The fixed part of an IPv6 header.
#[repr(C, packed)]
pub struct Ipv6 {
    pub version_class: u8,
    _class_flow: [u8; 3],
    pub payload_len: u16,
    pub next_header: u8,
    _hop_limit: u8,
    pub src: [u64; 2],
    pub dst: [u64; 2],
}

/// How IPv6 extension headers start; the last field is a fragment header's.
#[repr(C, packed)]
pub struct Extension {
    pub next_header: u8,
    pub len: u8,
    pub fragment: u16,
}

/// How TCP, UDP and SCTP start.
#[repr(C, packed)]
pub struct Ports {
    pub src: u16,
    pub dst: u16,
}

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION_OPTIONS: u8 = 60;
