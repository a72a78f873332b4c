//! Frames made by hand, every byte known.

pub const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

pub fn eth(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&MACS[..], &kind.to_be_bytes(), payload].concat()
}

pub fn vlan(tpid: u16, tci: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    eth(tpid, &[&tci.to_be_bytes()[..], &kind.to_be_bytes(), payload].concat())
}

/// IPv4 from 10.0.0.1 to 10.0.0.2 with `options` words and a fragment offset.
pub fn ip4(proto: u8, options: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let mut p = vec![0x45 + options, 0];
    p.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
    p.extend([0x12, 0x34]);
    p.extend(fragment.to_be_bytes());
    p.extend([64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    p.resize(header, 1);
    p.extend(payload);
    p
}

/// IPv6 from 2001:db8::1 to 2001:db8::2.
pub fn ip6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0];
    p.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    p.extend([next, 63]);
    for last in [1, 2] {
        p.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    p.extend(payload);
    p
}

pub fn tcp(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(sport.to_be_bytes());
    p.extend(dport.to_be_bytes());
    p.extend([0, 0, 0, 7, 0, 0, 0, 9, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    p
}

pub fn udp(sport: u16, dport: u16) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(sport.to_be_bytes());
    p.extend(dport.to_be_bytes());
    p.extend([0, 8, 0, 0]);
    p
}

pub fn tcp4(dport: u16) -> Vec<u8> {
    eth(0x0800, &ip4(6, 0, 0, &tcp(1000, dport, 2)))
}

pub fn tcp6(dport: u16) -> Vec<u8> {
    eth(0x86dd, &ip6(6, &tcp(1000, dport, 2)))
}

pub fn udp4(dport: u16) -> Vec<u8> {
    eth(0x0800, &ip4(17, 0, 0, &udp(1000, dport)))
}

pub fn arp() -> Vec<u8> {
    let mut p = vec![0, 1, 8, 0, 6, 4, 0, 1];
    p.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    eth(0x0806, &p)
}

/// The Internet checksum of RFC 1071, by its definition and none of the ways of the code under test.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for (i, byte) in bytes.iter().enumerate() {
        sum += u64::from(*byte) << if i % 2 == 0 { 8 } else { 0 };
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}

/// Fills in every checksum of a frame.
pub fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    let places = sums(&frame);
    for (at, covered, udp) in places {
        frame[at..at + 2].copy_from_slice(&[0, 0]);
        // The pseudo-header comes from the same frame, whose checksum is zero now.
        let sum = checksum(&covered(&frame));
        let sum = if udp && sum == 0 { 0xffff } else { sum };
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Says which checksums of a frame are wrong.
pub fn wrong_sums(frame: &[u8]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, covered, udp) in sums(frame) {
        let stored = u16::from_be_bytes([frame[at], frame[at + 1]]);
        if udp && stored == 0 {
            continue;
        }
        if checksum(&covered(frame)) != 0 {
            wrong.push(format!("the checksum at {at} is {stored:#06x}"));
        }
    }
    wrong
}

type Covered = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Every checksum of a frame: where it is, the bytes that it covers, whether it is UDP's.
fn sums(frame: &[u8]) -> Vec<(usize, Covered, bool)> {
    let mut at = 12;
    let mut kind = u16::from_be_bytes([frame[at], frame[at + 1]]);
    while kind == 0x8100 || kind == 0x88a8 {
        at += 4;
        kind = u16::from_be_bytes([frame[at], frame[at + 1]]);
    }
    let ip = at + 2;
    let mut out: Vec<(usize, Covered, bool)> = Vec::new();
    let (l4, proto, addresses) = if kind == 0x0800 {
        let end = ip + 4 * usize::from(frame[ip] & 15);
        out.push((ip + 10, Box::new(move |f| f[ip..end].to_vec()), false));
        (end, frame[ip + 9], ip + 12..ip + 20)
    } else {
        (ip + 40, frame[ip + 6], ip + 8..ip + 40)
    };
    let check = match proto {
        6 => 16,
        17 => 6,
        58 => 2,
        _ => return out,
    };
    let covered = move |f: &[u8]| {
        let body = &f[l4..];
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&f[addresses.clone()], &length, &[0, 0, 0, proto], body].concat()
    };
    out.push((l4 + check, Box::new(covered), proto == 17));
    out
}
