//! Reads pcap (micro- and nanoseconds, either byte order) and pcapng from memory, without copying or allocating for a packet.

use super::{LinkType, Way};

/// No capture has larger packets; a larger number in a length field is garbage.
const MAX_PACKET_BYTES: u32 = 256 * 1024;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at byte {offset}")]
pub struct PcapError {
    pub offset: usize,
    pub message: String,
    /// Whether the file simply ends too early: a capture that was still being written.
    pub truncated: bool,
}

/// One packet of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// What was captured of it.
    pub data: &'a [u8],
    /// Bytes on the wire.
    pub length: u32,
    /// Number of the interface in the file, from 0.
    pub interface: u32,
    pub link: LinkType,
    pub way: Option<Way>,
}

/// An interface that a pcapng file describes.
#[derive(Clone, Debug)]
struct Interface {
    /// `None` for a link type that weir cannot read.
    link: Result<LinkType, u16>,
    snap_length: u32,
    /// A timestamp `t` is `t * multiply / divide` nanoseconds.
    multiply: u64,
    divide: u64,
    offset_ns: i128,
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pcap { fraction_ns: u64, link: LinkType },
    Pcapng,
}

/// A capture being read.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
    kind: Kind,
    interfaces: Vec<Interface>,
    last_ns: u64,
}

/// Block types of pcapng.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

fn error(offset: usize, message: impl Into<String>) -> PcapError {
    PcapError {
        offset,
        message: message.into(),
        truncated: false,
    }
}

fn too_short(offset: usize, message: impl Into<String>) -> PcapError {
    PcapError {
        truncated: true,
        ..error(offset, message)
    }
}

impl<'a> Reader<'a> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// When it is no capture file, or of a link type that weir does not know.
    pub fn new(bytes: &'a [u8]) -> Result<Self, PcapError> {
        let Some(magic) = bytes.first_chunk::<4>() else {
            return Err(too_short(bytes.len(), "this is no capture: the file ends"));
        };
        let mut reader = Self {
            bytes,
            at: 0,
            big_endian: false,
            kind: Kind::Pcapng,
            interfaces: Vec::new(),
            last_ns: 0,
        };
        let (big_endian, fraction_ns) = match *magic {
            [0x0a, 0x0d, 0x0d, 0x0a] => {
                reader.section(0)?;
                return Ok(reader);
            }
            [0xd4, 0xc3, 0xb2, 0xa1] => (false, 1000),
            [0xa1, 0xb2, 0xc3, 0xd4] => (true, 1000),
            [0x4d, 0x3c, 0xb2, 0xa1] => (false, 1),
            [0xa1, 0xb2, 0x3c, 0x4d] => (true, 1),
            [0x1f, 0x8b, ..] => return Err(error(0, "this is gzip, unpack it first (`gunzip`): no capture starts")),
            [0x28, 0xb5, 0x2f, 0xfd] => return Err(error(0, "this is zstd, unpack it first (`unzstd`): no capture starts")),
            [0x34, 0xcd, 0xb2, 0xa1] | [0xa1, 0xb2, 0xcd, 0x34] => {
                return Err(error(
                    0,
                    "this is the modified pcap of old kernels, convert it first (`editcap -F pcapng`): header",
                ));
            }
            [a, b, c, d] => {
                return Err(error(
                    0,
                    format!("this is no capture, neither pcap nor pcapng: found {a:02x} {b:02x} {c:02x} {d:02x}"),
                ));
            }
        };
        reader.big_endian = big_endian;
        if bytes.len() < 24 {
            return Err(too_short(bytes.len(), "the file ends inside its header"));
        }
        // The upper half says how much checksum the frames carry.
        let number = (reader.u32(20) & 0xffff) as u16;
        let link = LinkType::from_number(number).ok_or_else(|| unknown_link(20, number))?;
        reader.kind = Kind::Pcap { fraction_ns, link };
        reader.at = 24;
        Ok(reader)
    }

    /// Returns the next packet, `None` at the end of the file.
    ///
    /// # Errors
    /// The file ends inside a packet, or its structure is broken; no later packet can be read then.
    #[inline]
    pub fn next_packet(&mut self) -> Result<Option<Packet<'a>>, PcapError> {
        let result = match self.kind {
            Kind::Pcap { fraction_ns, link } => self.pcap(fraction_ns, link),
            Kind::Pcapng => self.pcapng(),
        };
        if result.is_err() {
            self.at = self.bytes.len();
        }
        result
    }

    /// Returns the name of an interface, where the file has one.
    #[must_use]
    pub fn interface_name(&self, interface: u32) -> Option<&str> {
        self.interfaces.get(interface as usize)?.name.as_deref()
    }

    #[inline]
    fn word(&self, at: usize) -> [u8; 4] {
        let mut word = [0; 4];
        if let Some(bytes) = self.bytes.get(at..at + 4) {
            word.copy_from_slice(bytes);
        }
        word
    }

    #[inline]
    fn u32(&self, at: usize) -> u32 {
        let word = self.word(at);
        if self.big_endian {
            u32::from_be_bytes(word)
        } else {
            u32::from_le_bytes(word)
        }
    }

    fn u16(&self, at: usize) -> u16 {
        let word = self.word(at);
        if self.big_endian {
            u16::from_be_bytes([word[0], word[1]])
        } else {
            u16::from_le_bytes([word[0], word[1]])
        }
    }

    #[inline]
    fn pcap(&mut self, fraction_ns: u64, link: LinkType) -> Result<Option<Packet<'a>>, PcapError> {
        let at = self.at;
        let left = self.bytes.len() - at;
        if left < 16 {
            if left == 0 {
                return Ok(None);
            }
            return Err(too_short(
                at,
                format!("the file ends inside a packet's header, {left} bytes of 16 are there,"),
            ));
        }
        let (seconds, fraction, captured, length) = (self.u32(at), self.u32(at + 4), self.u32(at + 8), self.u32(at + 12));
        if captured > MAX_PACKET_BYTES {
            return Err(error(
                at,
                format!("a packet of {captured} bytes, {MAX_PACKET_BYTES} is the most: the file is damaged"),
            ));
        }
        let start = at + 16;
        let Some(data) = self.bytes.get(start..start + captured as usize) else {
            let there = self.bytes.len() - start;
            return Err(too_short(
                at,
                format!("the file ends inside a packet, {there} bytes of {captured} are there,"),
            ));
        };
        self.at = start + captured as usize;
        Ok(Some(Packet {
            time_ns: u64::from(seconds) * NS_PER_SECOND + u64::from(fraction) * fraction_ns,
            data,
            length: length.max(captured),
            interface: 0,
            link,
            way: None,
        }))
    }

    /// Reads blocks up to the next packet.
    fn pcapng(&mut self) -> Result<Option<Packet<'a>>, PcapError> {
        loop {
            let at = self.at;
            let left = self.bytes.len() - at;
            if left == 0 {
                return Ok(None);
            }
            if left < 12 {
                return Err(too_short(at, format!("the file ends inside a block, {left} bytes are left,")));
            }
            let kind = self.u32(at);
            if kind == SECTION {
                self.section(at)?;
                continue;
            }
            let length = self.block_length(at)?;
            self.at = at + length;
            // Without type, length and the length's copy.
            let (body, end) = (at + 8, at + length - 4);
            match kind {
                INTERFACE => self.interface(body, end)?,
                ENHANCED_PACKET => return self.enhanced(body, end, false).map(Some),
                OLD_PACKET => return self.enhanced(body, end, true).map(Some),
                SIMPLE_PACKET => return self.simple(body, end).map(Some),
                // Names, statistics, decryption keys, …
                _ => {}
            }
        }
    }

    /// Checks the frame of a block: its length, and the copy of it at its end.
    fn block_length(&self, at: usize) -> Result<usize, PcapError> {
        let length = self.u32(at + 4) as usize;
        if length < 12 || !length.is_multiple_of(4) {
            return Err(error(at, format!("a block of {length} bytes: the file is damaged")));
        }
        let left = self.bytes.len() - at;
        if length > left {
            let message = format!("the file ends inside a block, {left} bytes of {length} are there,");
            return Err(too_short(at, message));
        }
        let copy = self.u32(at + length - 4) as usize;
        if copy != length {
            return Err(error(
                at,
                format!("a block whose two lengths differ, {length} and {copy}: the file is damaged"),
            ));
        }
        Ok(length)
    }

    /// A section sets the byte order and starts the interfaces anew.
    fn section(&mut self, at: usize) -> Result<(), PcapError> {
        if self.bytes.len() - at < 28 {
            return Err(too_short(at, "the file ends inside a section's header"));
        }
        self.big_endian = match self.word(at + 8) {
            [0x1a, 0x2b, 0x3c, 0x4d] => true,
            [0x4d, 0x3c, 0x2b, 0x1a] => false,
            _ => return Err(error(at + 8, "a section without byte order: the file is damaged")),
        };
        let length = self.block_length(at)?;
        if length < 28 {
            return Err(error(at, format!("a section's header of {length} bytes: the file is damaged")));
        }
        let major = self.u16(at + 12);
        if major != 1 {
            return Err(error(at + 12, format!("pcapng of version {major}, weir reads version 1:")));
        }
        self.interfaces.clear();
        self.at = at + length;
        Ok(())
    }

    fn interface(&mut self, body: usize, end: usize) -> Result<(), PcapError> {
        if end < body + 8 {
            return Err(error(body - 8, "an interface without a link type: the file is damaged"));
        }
        let number = self.u16(body);
        let mut interface = Interface {
            link: LinkType::from_number(number).ok_or(number),
            snap_length: self.u32(body + 4),
            multiply: 1000,
            divide: 1,
            offset_ns: 0,
            name: None,
        };
        let mut options = Options { at: body + 8, end };
        while let Some((code, start, len)) = options.next(self) {
            let value = &self.bytes[start..start + len];
            match (code, value) {
                (2, name) => interface.name = Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()),
                (9, [resolution, ..]) => {
                    let (multiply, divide) = ticks(*resolution)
                        .ok_or_else(|| error(start, format!("a clock of resolution {resolution:#x}, which weir does not read:")))?;
                    (interface.multiply, interface.divide) = (multiply, divide);
                }
                (14, _) if len == 8 => {
                    let (low, high) = (self.u32(start), self.u32(start + 4));
                    let (low, high) = if self.big_endian { (high, low) } else { (low, high) };
                    let seconds = (u64::from(high) << 32 | u64::from(low)).cast_signed();
                    interface.offset_ns = i128::from(seconds) * i128::from(NS_PER_SECOND);
                }
                _ => {}
            }
        }
        self.interfaces.push(interface);
        Ok(())
    }

    /// An enhanced packet block, or its predecessor with a 16-bit interface number.
    fn enhanced(&mut self, body: usize, end: usize, old: bool) -> Result<Packet<'a>, PcapError> {
        let at = body - 8;
        if end < body + 20 {
            return Err(error(at, "a packet without a header: the file is damaged"));
        }
        let number = if old { u32::from(self.u16(body)) } else { self.u32(body) };
        let ticks = u64::from(self.u32(body + 4)) << 32 | u64::from(self.u32(body + 8));
        let (captured, length) = (self.u32(body + 12), self.u32(body + 16));
        let data = self.data(at, body + 20, end, captured)?;
        let interface = self.described(at, number)?;
        let link = interface.link.map_err(|number| unknown_link(at, number))?;
        let time_ns = if interface.divide == 1 && interface.offset_ns == 0 {
            ticks.saturating_mul(interface.multiply)
        } else {
            let ns = u128::from(ticks) * u128::from(interface.multiply) / u128::from(interface.divide);
            u64::try_from(i128::try_from(ns).unwrap_or(i128::MAX).saturating_add(interface.offset_ns)).unwrap_or(0)
        };
        let mut way = None;
        let options = body + 20 + (captured as usize).next_multiple_of(4);
        let mut options = Options { at: options, end };
        while let Some((code, start, len)) = options.next(self) {
            if code == 2 && len == 4 {
                way = match self.u32(start) & 3 {
                    1 => Some(Way::In),
                    2 => Some(Way::Out),
                    _ => None,
                };
            }
        }
        self.last_ns = time_ns;
        Ok(Packet {
            time_ns,
            data,
            length: length.max(captured),
            interface: number,
            link,
            way,
        })
    }

    /// A simple packet block has no time: it is that of the packet before.
    fn simple(&mut self, body: usize, end: usize) -> Result<Packet<'a>, PcapError> {
        let at = body - 8;
        if end < body + 4 {
            return Err(error(at, "a packet without a header: the file is damaged"));
        }
        let length = self.u32(body);
        let interface = self.described(at, 0)?;
        let link = interface.link.map_err(|number| unknown_link(at, number))?;
        let captured = match interface.snap_length {
            0 => length,
            snap => length.min(snap),
        };
        let data = self.data(at, body + 4, end, captured)?;
        Ok(Packet {
            time_ns: self.last_ns,
            data,
            length,
            interface: 0,
            link,
            way: None,
        })
    }

    fn described(&self, at: usize, number: u32) -> Result<&Interface, PcapError> {
        self.interfaces
            .get(number as usize)
            .ok_or_else(|| error(at, format!("a packet of interface {number}, which the file does not describe,")))
    }

    fn data(&self, at: usize, start: usize, end: usize, captured: u32) -> Result<&'a [u8], PcapError> {
        if captured > MAX_PACKET_BYTES || start + captured as usize > end {
            let room = (end - start).min(MAX_PACKET_BYTES as usize);
            return Err(error(
                at,
                format!("a packet of {captured} bytes in a block with room for {room}: the file is damaged"),
            ));
        }
        Ok(&self.bytes[start..start + captured as usize])
    }
}

fn unknown_link(offset: usize, number: u16) -> PcapError {
    error(
        offset,
        format!("packets of link type {number}, weir reads Ethernet (1), raw IP (101) and Linux cooked (113, 276):"),
    )
}

/// What a timestamp's unit is in nanoseconds, as a fraction.
fn ticks(resolution: u8) -> Option<(u64, u64)> {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 != 0 {
        return Some((NS_PER_SECOND, 1_u64.checked_shl(exponent)?));
    }
    match exponent {
        0..=9 => Some((10_u64.pow(9 - exponent), 1)),
        10..=28 => Some((1, 10_u64.checked_pow(exponent - 9)?)),
        _ => None,
    }
}

/// Walks over the options of a block; a broken list ends it.
struct Options {
    at: usize,
    end: usize,
}

impl Options {
    /// Returns code, place and length of the next value.
    #[inline]
    fn next(&mut self, reader: &Reader<'_>) -> Option<(u16, usize, usize)> {
        if self.at + 4 > self.end {
            return None;
        }
        let (code, len) = (reader.u16(self.at), usize::from(reader.u16(self.at + 2)));
        let start = self.at + 4;
        if code == 0 || start + len > self.end {
            return None;
        }
        self.at = start + len.next_multiple_of(4);
        Some((code, start, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcap::{Verdict, Writer, WrittenPacket};

    fn pcap(big: bool, magic: u32, link: u32, packets: &[(u32, u32, &[u8], u32)]) -> Vec<u8> {
        let word = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let half = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut out = word(magic).to_vec();
        out.extend([half(2), half(4)].concat());
        out.extend([word(0), word(0), word(65535), word(link)].concat());
        for (seconds, fraction, data, length) in packets {
            out.extend([word(*seconds), word(*fraction), word(data.len() as u32), word(*length)].concat());
            out.extend(*data);
        }
        out
    }

    /// Time, bytes and length on the wire.
    type Seen = (u64, Vec<u8>, u32);

    fn all(bytes: &[u8]) -> (Vec<Seen>, Option<PcapError>) {
        let mut reader = match Reader::new(bytes) {
            Ok(reader) => reader,
            Err(e) => return (Vec::new(), Some(e)),
        };
        let mut packets = Vec::new();
        loop {
            match reader.next_packet() {
                Ok(Some(p)) => packets.push((p.time_ns, p.data.to_vec(), p.length)),
                Ok(None) => return (packets, None),
                Err(e) => {
                    // It stays at the end.
                    assert_eq!(reader.next_packet(), Ok(None));
                    return (packets, Some(e));
                }
            }
        }
    }

    #[test]
    fn pcap_in_both_byte_orders_and_both_resolutions() {
        for big in [false, true] {
            for (magic, ns) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
                let file = pcap(big, magic, 1, &[(7, 5, b"abcd", 60), (8, 0, b"", 0)]);
                let expected = vec![(7 * NS_PER_SECOND + 5 * ns, b"abcd".to_vec(), 60), (8 * NS_PER_SECOND, vec![], 0)];
                assert_eq!(all(&file), (expected, None));
            }
        }
    }

    #[test]
    fn what_was_there_before_the_cut_is_read() {
        let file = pcap(false, 0xa1b2_c3d4, 1, &[(7, 5, b"abcd", 4), (8, 0, b"efgh", 4)]);
        for len in 45..file.len() {
            let (packets, error) = all(&file[..len]);
            let error = error.unwrap();
            assert_eq!(packets.len(), 1, "{len}");
            assert!(error.truncated && error.offset == 44, "{len}: {error}");
        }
        assert_eq!(
            all(&file[..file.len() - 1]).1.unwrap().to_string(),
            "the file ends inside a packet, 3 bytes of 4 are there, at byte 44"
        );
        assert_eq!(all(&file[..44]).1, None);
    }

    #[test]
    fn what_is_no_capture_is_named() {
        let message = |bytes: &[u8]| all(bytes).1.unwrap().to_string();
        assert_eq!(
            message(b"hello"),
            "this is no capture, neither pcap nor pcapng: found 68 65 6c 6c at byte 0"
        );
        assert_eq!(message(b""), "this is no capture: the file ends at byte 0");
        assert!(message(&[0x1f, 0x8b, 8, 0]).contains("gunzip"));
        assert!(message(&[0x28, 0xb5, 0x2f, 0xfd]).contains("unzstd"));
        assert!(message(&[0x34, 0xcd, 0xb2, 0xa1]).contains("editcap"));
        assert!(message(&pcap(false, 0xa1b2_c3d4, 147, &[])).contains("link type 147"));
        assert!(message(&0xa1b2_c3d4_u32.to_le_bytes()).contains("inside its header"));
        let mut damaged = pcap(false, 0xa1b2_c3d4, 1, &[(7, 5, b"abcd", 4)]);
        damaged[24 + 8..24 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            message(&damaged),
            "a packet of 4294967295 bytes, 262144 is the most: the file is damaged at byte 24"
        );
    }

    fn written() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let a = writer.interface("eth0", LinkType::Ethernet, 128).unwrap();
        let b = writer.interface("tun0", LinkType::Raw, 128).unwrap();
        for (interface, way, data) in [(a, Some(Way::In), &b"12345"[..]), (b, Some(Way::Out), b"6789"), (a, None, b"")] {
            writer
                .packet(&WrittenPacket {
                    interface,
                    time_ns: 1_700_000_000_123_456_789,
                    data,
                    length: 1500,
                    way,
                    verdict: Some(Verdict::Xdp(1)),
                    comment: "drop",
                })
                .unwrap();
        }
        writer.into_inner()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let bytes = written();
        let mut reader = Reader::new(&bytes).unwrap();
        let mut next = || {
            let p = reader.next_packet().unwrap().unwrap();
            assert_eq!((p.time_ns, p.length), (1_700_000_000_123_456_789, 1500));
            (p.interface, p.link, p.way, p.data)
        };
        assert_eq!(next(), (0, LinkType::Ethernet, Some(Way::In), &b"12345"[..]));
        assert_eq!(next(), (1, LinkType::Raw, Some(Way::Out), &b"6789"[..]));
        assert_eq!(next(), (0, LinkType::Ethernet, None, &b""[..]));
        assert_eq!(reader.next_packet(), Ok(None));
        assert_eq!((reader.interface_name(0), reader.interface_name(1)), (Some("eth0"), Some("tun0")));
        assert_eq!(reader.interface_name(2), None);
    }

    #[test]
    fn no_damage_panics_and_every_error_has_its_place() {
        let bytes = written();
        for len in 0..bytes.len() {
            let (_, error) = all(&bytes[..len]);
            assert!(error.is_none_or(|e| e.offset <= len));
        }
        // Every byte once wrong, in three ways.
        for at in 0..bytes.len() {
            for wrong in [0, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = wrong;
                let (_, error) = all(&damaged);
                assert!(error.is_none_or(|e| e.offset < damaged.len()));
            }
        }
    }

    #[test]
    fn big_endian_pcapng_with_a_clock_of_its_own() {
        let word = |n: u32| n.to_be_bytes();
        let block = |kind: u32, body: &[u8]| {
            let length = word(body.len() as u32 + 12);
            [&word(kind)[..], &length, body, &length].concat()
        };
        let section = block(SECTION, &[&word(0x1a2b_3c4d)[..], &[0, 1, 0, 0], &[0xff; 8]].concat());
        // 2^-10 seconds, and an hour later than said.
        let options = [&[0, 9, 0, 1, 0x8a, 0, 0, 0][..], &[0, 14, 0, 8], &3600_u64.to_be_bytes()].concat();
        let interface = block(INTERFACE, &[&[0, 1, 0, 0][..], &word(0), &options].concat());
        let packet = block(
            ENHANCED_PACKET,
            &[&word(0)[..], &word(0), &word(2048 + 512), &word(3), &word(9), b"abc\0"].concat(),
        );
        let simple = block(SIMPLE_PACKET, &[&word(2)[..], b"de\0\0"].concat());
        let unknown = block(0xbad, b"1234");
        let file = [section, interface, unknown, packet, simple].concat();
        let time = 3602 * NS_PER_SECOND + NS_PER_SECOND / 2;
        let expected = vec![(time, b"abc".to_vec(), 9), (time, b"de".to_vec(), 2)];
        assert_eq!(all(&file), (expected, None));
    }
}
