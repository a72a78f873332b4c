//! Packets as descriptions that can be turned into bytes. The oracle judges the description, never the bytes.

use crate::random::Random;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const ETHERNET: usize = 14;

#[derive(Clone, Debug)]
pub struct Packet {
    /// EtherType of each VLAN tag, outermost first.
    pub tags: Vec<u16>,
    pub body: Body,
    /// Cut off to so many bytes, if it is longer.
    pub cut: Option<usize>,
    /// Bytes behind the last header.
    pub payload: usize,
    /// What these bytes are; so the destination port is this byte twice.
    pub fill: u8,
}

#[derive(Clone, Debug)]
pub enum Body {
    /// Not IP: the EtherType.
    Other(u16),
    V4 {
        src: Ipv4Addr,
        dst: Ipv4Addr,
        version: u8,
        header_words: u8,
        fragment: u16,
        proto: u8,
    },
    V6 {
        src: Ipv6Addr,
        dst: Ipv6Addr,
        version: u8,
        extensions: Vec<Extension>,
        upper: Upper,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Its type, and its length field.
    Options(u8, u8),
    Authentication(u8),
    Fragment,
    /// A fragment behind the first.
    LaterFragment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    Protocol(u8),
    Icmp6(u8),
}

impl Extension {
    pub fn kind(self) -> u8 {
        match self {
            Extension::Options(kind, _) => kind,
            Extension::Authentication(_) => 51,
            Extension::Fragment | Extension::LaterFragment => 44,
        }
    }

    pub fn len(self) -> usize {
        match self {
            Extension::Options(_, len) => (usize::from(len) + 1) * 8,
            Extension::Authentication(len) => (usize::from(len) + 2) * 4,
            Extension::Fragment | Extension::LaterFragment => 8,
        }
    }
}

impl Packet {
    pub fn v4(src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        Self::of(Body::V4 {
            src,
            dst,
            version: 4,
            header_words: 5,
            fragment: 0,
            proto: 6,
        })
    }

    pub fn v6(src: Ipv6Addr, dst: Ipv6Addr, extensions: &[Extension], upper: Upper) -> Self {
        Self::of(Body::V6 {
            src,
            dst,
            version: 6,
            extensions: extensions.to_vec(),
            upper,
        })
    }

    pub fn of(body: Body) -> Self {
        Self {
            tags: Vec::new(),
            body,
            cut: None,
            payload: 26,
            fill: 0x5a,
        }
    }

    /// The packet with VLAN tags in front.
    pub fn tagged(mut self, tags: &[u16]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// Where the network header starts.
    pub fn network_offset(&self) -> usize {
        ETHERNET + 4 * self.tags.len()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            out.extend(tag.to_be_bytes());
            out.extend([0x20, 0x64]);
        }
        let ethertype: u16 = match &self.body {
            Body::Other(ethertype) => *ethertype,
            Body::V4 { .. } => 0x0800,
            Body::V6 { .. } => 0x86dd,
        };
        out.extend(ethertype.to_be_bytes());
        match &self.body {
            Body::Other(_) => out.extend([0x45; 46]),
            Body::V4 {
                src,
                dst,
                version,
                header_words,
                fragment,
                proto,
            } => {
                let mut header = vec![0; usize::from(*header_words).max(5) * 4];
                header[0] = version << 4 | header_words;
                header[6..8].copy_from_slice(&fragment.to_be_bytes());
                header[8] = 64;
                header[9] = *proto;
                header[12..16].copy_from_slice(&src.octets());
                header[16..20].copy_from_slice(&dst.octets());
                out.extend(header);
            }
            Body::V6 {
                src,
                dst,
                version,
                extensions,
                upper,
            } => {
                let (protocol, first) = match upper {
                    Upper::Protocol(protocol) => (*protocol, 0x86),
                    Upper::Icmp6(kind) => (58, *kind),
                };
                let kinds: Vec<u8> = extensions.iter().map(|e| e.kind()).chain([protocol]).collect();
                out.extend([version << 4, 0, 0, 0, 0, 0, kinds[0], 255]);
                out.extend(src.octets());
                out.extend(dst.octets());
                for (index, extension) in extensions.iter().enumerate() {
                    let at = out.len();
                    out.resize(at + extension.len(), 0);
                    out[at] = kinds[index + 1];
                    out[at + 1] = match extension {
                        Extension::Options(_, len) | Extension::Authentication(len) => *len,
                        Extension::Fragment | Extension::LaterFragment => 0,
                    };
                    if *extension == Extension::LaterFragment {
                        out[at + 2..at + 4].copy_from_slice(&0x0008_u16.to_be_bytes());
                    }
                }
                out.extend([first, 0]);
            }
        }
        out.resize(out.len() + self.payload, self.fill);
        out.truncate(self.cut.unwrap_or(usize::MAX));
        out
    }
}

/// Makes addresses that often share prefixes, and packets of all kinds that carry them.
pub struct Generator {
    pub random: Random,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    pub fn v4(&mut self) -> Ipv4Addr {
        let r = &mut self.random;
        let any = r.next() as u32;
        // Few values in the upper bytes, so that prefixes nest and packets hit them.
        Ipv4Addr::from_bits(
            r.choose(&[0x0a00_0000, 0x0a01_0000, 0xc0a8_0000, 0xcb00_7100, 0]) | any & r.choose(&[0xff, 0xffff, 0x3, 0xff_ffff]),
        )
    }

    pub fn v6(&mut self) -> Ipv6Addr {
        let r = &mut self.random;
        let any = u128::from(r.next()) << 64 | u128::from(r.next());
        let base = r.choose(&[0x2001_0db8 << 96, 0x2001_0db8_0bad << 80, 0xfe80 << 112, 0]);
        Ipv6Addr::from_bits(base | any & r.choose(&[0xff, 0xffff, u128::MAX >> 32, u128::MAX >> 48, u64::MAX.into()]))
    }

    /// A prefix of either family with zero host bits.
    pub fn prefix(&mut self) -> (IpAddr, u8) {
        if self.random.one_in(2) {
            let len = if self.random.one_in(40) {
                0
            } else {
                8 + self.random.below(25) as u8
            };
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            (Ipv4Addr::from_bits(self.v4().to_bits() & mask).into(), len)
        } else {
            let len = if self.random.one_in(40) {
                0
            } else {
                16 + self.random.below(113) as u8
            };
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            (Ipv6Addr::from_bits(self.v6().to_bits() & mask).into(), len)
        }
    }

    pub fn packet(&mut self) -> Packet {
        let body = match self.random.below(20) {
            0 => Body::Other(self.random.choose(&[0x0806, 0x88cc, 0x88f7, 0x0026, 0x8847])),
            1..=9 => {
                let (src, dst) = (self.v4(), self.v4());
                let version = if self.random.one_in(30) { self.random.below(16) as u8 } else { 4 };
                let header_words = if self.random.one_in(6) { self.random.below(16) as u8 } else { 5 };
                let fragment = self.random.choose(&[0, 0, 0, 0x4000, 0x2000, 0x2001, 0x00b9]);
                Body::V4 {
                    src,
                    dst,
                    version,
                    header_words,
                    fragment,
                    proto: self.random.choose(&[6, 6, 17, 1, 132, 47]),
                }
            }
            _ => {
                let (src, dst) = (self.v6(), self.v6());
                let version = if self.random.one_in(30) { self.random.below(16) as u8 } else { 6 };
                let count = if self.random.one_in(3) { self.random.below(11) } else { 0 };
                let extensions = (0..count).map(|_| self.extension()).collect();
                let upper = match self.random.below(4) {
                    0 => Upper::Icmp6(128 + self.random.below(16) as u8),
                    1 => Upper::Icmp6(self.random.next() as u8),
                    _ => Upper::Protocol(self.random.choose(&[6, 17, 59, 132, 50])),
                };
                Body::V6 {
                    src,
                    dst,
                    version,
                    extensions,
                    upper,
                }
            }
        };
        let tags = match self.random.below(8) {
            0..=3 => 0,
            4 | 5 => 1,
            6 => 2,
            _ => 3,
        };
        let tags = (0..tags).map(|_| self.random.choose(&[0x8100, 0x88a8])).collect();
        let mut packet = Packet {
            tags,
            body,
            cut: None,
            payload: self.random.below(200),
            fill: self.random.choose(&[0x5a, 0x01, 0xff, 0]),
        };
        if self.random.one_in(4) {
            packet.cut = Some(ETHERNET + self.random.below(packet.bytes().len() - ETHERNET + 1));
        }
        packet
    }

    fn extension(&mut self) -> Extension {
        match self.random.below(12) {
            0 if self.random.one_in(2) => Extension::LaterFragment,
            0 => Extension::Fragment,
            1 | 2 => Extension::Authentication(self.random.below(5) as u8),
            _ => {
                let len = if self.random.one_in(10) {
                    self.random.next() as u8
                } else {
                    self.random.below(3) as u8
                };
                Extension::Options(self.random.choose(&[0, 43, 60]), len)
            }
        }
    }
}
