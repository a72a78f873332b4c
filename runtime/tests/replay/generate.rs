//! Packets built with etherparse and then damaged: cut off anywhere, bytes changed, made of garbage.

use etherparse::{IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, PacketBuilder, VlanId};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A well-formed packet of some kind; few hosts and ports, so that maps get to count.
fn good(rng: &mut Rng) -> Vec<u8> {
    let host = rng.below(6) as u8;
    let ports = (rng.pick(&[1000, 40_000, 65_535]), rng.pick(&[22, 53, 80, 443]));
    let payload: Vec<u8> = (0..rng.pick(&[0_usize, 1, 7, 64, 700])).map(|i| i as u8).collect();
    let mut builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, host], [2, 0, 0, 0, 1, 1]);
    let vlans = rng.below(6);
    let ip_step = |rng: &mut Rng, v6: bool| {
        if v6 {
            let mut source = [0; 16];
            source[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
            source[15] = host;
            let mut header = Ipv6Header {
                source,
                destination: [0xfd; 16],
                hop_limit: rng.pick(&[1, 64, 255]),
                traffic_class: rng.below(256) as u8,
                ..Ipv6Header::default()
            };
            let mut extensions = Ipv6Extensions::default();
            if rng.below(3) == 0 {
                let offset = (rng.below(2) as u16 * 16).try_into().unwrap();
                extensions.fragment = Some(Ipv6FragmentHeader::new(IpNumber::TCP, offset, true, 7));
                header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            }
            etherparse::IpHeaders::Ipv6(header, extensions)
        } else {
            let mut header = Ipv4Header::new(0, rng.pick(&[1, 64, 255]), IpNumber::TCP, [10, 0, 0, host], [192, 168, 7, 1]).unwrap();
            header.identification = rng.below(65_536) as u16;
            header.dont_fragment = rng.below(2) == 0;
            if rng.below(4) == 0 {
                header.options = (&[7_u8, 4, 1, 0][..]).try_into().unwrap();
            }
            if rng.below(6) == 0 {
                header.fragment_offset = 100.try_into().unwrap();
            }
            etherparse::IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
    };
    let v6 = rng.below(3) == 0;
    let mut out = Vec::new();
    if rng.below(12) == 0 {
        // An ARP request, the rest of the frame as it comes.
        out.extend([0xff; 6]);
        out.extend([
            2, 0, 0, 0, 0, host, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, host, 10, 0, 0, host,
        ]);
        out.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 9]);
        return out;
    }
    if vlans == 0 {
        let builder = builder.single_vlan(VlanId::try_new(5).unwrap());
        let step = builder.ip(ip_step(rng, v6));
        step.tcp(ports.0, ports.1, 7, 4096).syn().write(&mut out, &payload).unwrap();
        return out;
    }
    if vlans == 1 {
        let builder = builder.double_vlan(VlanId::try_new(5).unwrap(), VlanId::try_new(6).unwrap());
        let step = builder.ip(ip_step(rng, v6));
        step.udp(ports.0, ports.1).write(&mut out, &payload).unwrap();
        return out;
    }
    builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, host], [2, 0, 0, 0, 1, 1]);
    let step = builder.ip(ip_step(rng, v6));
    match rng.below(6) {
        0 | 1 => step.udp(ports.0, ports.1).write(&mut out, &payload).unwrap(),
        2 if v6 => step.icmpv6_echo_request(1, 2).write(&mut out, &payload).unwrap(),
        2 => step.icmpv4_echo_request(1, 2).write(&mut out, &payload).unwrap(),
        3 => step.tcp(ports.0, ports.1, 7, 4096).ack(9).psh().write(&mut out, &payload).unwrap(),
        4 => step.tcp(ports.0, ports.1, 7, 4096).fin().write(&mut out, &payload).unwrap(),
        _ => step.tcp(ports.0, ports.1, 7, 4096).syn().write(&mut out, &payload).unwrap(),
    }
    out
}

/// A packet as it may come: most are well formed, many are not. Never shorter than an Ethernet header, which the kernel's test run
/// refuses.
fn packet(rng: &mut Rng) -> Vec<u8> {
    let mut out = good(rng);
    match rng.below(5) {
        0 => out.truncate(14 + rng.below(70) as usize),
        1 => {
            for _ in 0..=rng.below(4) {
                let at = rng.below(out.len().min(80) as u64) as usize;
                out[at] = rng.next() as u8;
            }
        }
        2 if rng.below(4) == 0 => {
            out = (0..14 + rng.below(100)).map(|_| rng.next() as u8).collect();
            let kind = rng.pick(&[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]);
            out[12..14].copy_from_slice(&kind);
        }
        _ => {}
    }
    out
}

pub fn packets(n: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng(0x77e1_25ee_d001);
    (0..n).map(|_| packet(&mut rng)).collect()
}
