//! Ethernet frames made by hand, with right checksums, so that a test knows every byte that a probe sees.
//!
//! Input: a [`Frame`]. Output: its bytes. Not a parser. Formats: RFC 791, RFC 8200, RFC 768, RFC 9293, RFC 792, IEEE 802.1Q.

use crate::net::{NODE_MAC, PEER_MAC};
use std::net::IpAddr;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;

/// What follows the IP header.
#[derive(Clone, Debug)]
pub enum Payload {
    Udp {
        sport: u16,
        dport: u16,
        data: Vec<u8>,
    },
    Tcp {
        sport: u16,
        dport: u16,
        flags: u8,
        data: Vec<u8>,
    },
    /// An echo request, ICMP or ICMPv6 by the address family.
    Echo {
        id: u16,
    },
    /// Any protocol; the bytes are sent as they are, without a checksum of ours.
    Raw {
        proto: u8,
        data: Vec<u8>,
    },
}

/// One frame from peer to node.
#[derive(Clone, Debug)]
pub struct Frame {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// VLAN ids, the outermost first.
    pub vlans: Vec<u16>,
    pub payload: Payload,
    /// Whom it is for; the node's by itself.
    pub mac: [u8; 6],
}

impl Frame {
    pub fn new(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, payload: Payload) -> Self {
        Self {
            src: src.into(),
            dst: dst.into(),
            vlans: Vec::new(),
            payload,
            mac: NODE_MAC,
        }
    }

    pub fn udp(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, dport: u16) -> Self {
        Self::new(
            src,
            dst,
            Payload::Udp {
                sport: 40_000,
                dport,
                data: b"weir".to_vec(),
            },
        )
    }

    pub fn syn(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, dport: u16) -> Self {
        Self::new(
            src,
            dst,
            Payload::Tcp {
                sport: 40_000,
                dport,
                flags: SYN,
                data: Vec::new(),
            },
        )
    }

    pub fn echo(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> Self {
        Self::new(src, dst, Payload::Echo { id: 1 })
    }

    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    /// The whole frame, Ethernet header included, without the trailing checksum.
    ///
    /// # Panics
    /// If the two addresses are of different families.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend(self.mac);
        out.extend(PEER_MAC);
        for id in &self.vlans {
            out.extend(ETH_P_8021Q.to_be_bytes());
            out.extend(id.to_be_bytes());
        }
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let pseudo = [src.octets(), dst.octets()].concat();
                let (proto, body) = self.transport(&pseudo, false);
                out.extend(ETH_P_IP.to_be_bytes());
                let mut header = vec![0x45, 0];
                header.extend((20 + body.len() as u16).to_be_bytes());
                header.extend([0, 1, 0x40, 0, 64, proto, 0, 0]);
                header.extend(&pseudo);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                out.extend(header);
                out.extend(body);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let pseudo = [src.octets(), dst.octets()].concat();
                let (proto, body) = self.transport(&pseudo, true);
                out.extend(ETH_P_IPV6.to_be_bytes());
                out.extend([0x60, 0, 0, 0]);
                out.extend((body.len() as u16).to_be_bytes());
                out.extend([proto, 64]);
                out.extend(pseudo);
                out.extend(body);
            }
            (src, dst) => panic!("a frame from {src} to {dst}"),
        }
        out
    }

    /// Protocol number and the bytes after the IP header; `addresses` is the first part of the pseudo header.
    fn transport(&self, addresses: &[u8], v6: bool) -> (u8, Vec<u8>) {
        let (proto, mut body, sum_at) = match &self.payload {
            Payload::Raw { proto, data } => return (*proto, data.clone()),
            Payload::Udp { sport, dport, data } => {
                let mut b = [
                    sport.to_be_bytes(),
                    dport.to_be_bytes(),
                    (8 + data.len() as u16).to_be_bytes(),
                    [0, 0],
                ]
                .concat();
                b.extend(data);
                (17, b, 6)
            }
            Payload::Tcp { sport, dport, flags, data } => {
                let mut b = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
                b.extend(1u32.to_be_bytes());
                b.extend([0; 4]);
                b.extend([0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                b.extend(data);
                (6, b, 16)
            }
            Payload::Echo { id } => {
                let mut b = vec![if v6 { 128 } else { 8 }, 0, 0, 0];
                b.extend(id.to_be_bytes());
                b.extend([0, 1]);
                (if v6 { 58 } else { 1 }, b, 2)
            }
        };
        let mut summed = Vec::new();
        if proto != 1 {
            summed.extend(addresses);
            summed.extend((body.len() as u32).to_be_bytes());
            summed.extend([0, 0, 0, proto]);
        }
        summed.extend(&body);
        let sum = match checksum(&summed) {
            // In UDP zero means "no checksum".
            0 if proto == 17 => 0xffff,
            sum => sum,
        };
        body[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        (proto, body)
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn checksums_verify() {
        let a = Ipv4Addr::new(192, 0, 2, 1);
        let b = Ipv4Addr::new(192, 0, 2, 2);
        let frame = Frame::udp(a, b, 53).bytes();
        // A header together with its checksum sums up to zero.
        assert_eq!(checksum(&frame[14..34]), 0);
        let udp = &frame[34..];
        let pseudo = [&a.octets()[..], &b.octets(), &(udp.len() as u32).to_be_bytes(), &[0, 0, 0, 17], udp].concat();
        assert_eq!(checksum(&pseudo), 0);
    }

    #[test]
    fn tags_and_families_are_where_they_belong() {
        let a: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let frame = Frame::syn(a, a, 22).vlan(5).bytes();
        assert_eq!(frame[12..18], [0x81, 0, 0, 5, 0x86, 0xdd]);
        assert_eq!(frame[18] >> 4, 6);
        assert_eq!(frame[18 + 6], 6, "next header is TCP");
        assert_eq!(frame[18 + 40 + 2..18 + 40 + 4], [0, 22]);
    }
}
