//! Packets that come out of a replay, and the Ethernet header that packets without one get for it.

use crate::capture::CaptureTarget;
use crate::error::Error;
use crate::pcap::{LinkType, Packet, Way, Writer, WrittenPacket};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

const ETH_8021Q: [u8; 2] = [0x81, 0x00];
const ETH_8021AD: [u8; 2] = [0x88, 0xa8];
const ETH_IP: [u8; 2] = [0x08, 0x00];
const ETH_IPV6: [u8; 2] = [0x86, 0xdd];

/// Where the packet of a file's record starts for a program, and which way it went, if its own header tells.
///
/// What has no Ethernet header is as on an interface that has none, where packets start with IP: a cooked header is the file's, not the
/// packet's, and VLAN tags behind it are stepped over. What is not IP there has no bytes that a program could take for it.
pub fn start(link: LinkType, data: &[u8]) -> (usize, Option<Way>) {
    let (mut skip, mut kind, packet_type) = match (link, data) {
        (LinkType::Ethernet | LinkType::Raw, _) => return (0, None),
        (LinkType::Sll, [a, b, .., _]) if data.len() >= 16 => (16, [data[14], data[15]], u16::from_be_bytes([*a, *b])),
        (LinkType::Sll2, [a, b, ..]) if data.len() >= 20 => (20, [*a, *b], u16::from(data[10])),
        _ => return (data.len(), None),
    };
    while let (ETH_8021Q | ETH_8021AD, Some([_, _, a, b])) = (kind, data[skip..].first_chunk()) {
        kind = [*a, *b];
        skip += 4;
    }
    if kind != ETH_IP && kind != ETH_IPV6 {
        skip = data.len();
    }
    // `PACKET_OUTGOING`
    (skip, Some(if packet_type == 4 { Way::Out } else { Way::In }))
}

/// A pcapng file that packets are written to as they came, with what a program has changed.
#[derive(Debug)]
pub struct PacketFile {
    path: PathBuf,
    writer: Writer<BufWriter<File>>,
    names: HashMap<u32, String>,
    interfaces: HashMap<(u32, LinkType), u32>,
    buffer: Vec<u8>,
}

impl PacketFile {
    /// # Errors
    /// When it cannot be made.
    pub fn create(target: &CaptureTarget) -> Result<Self, Error> {
        let (file, path) = target.open();
        match file.and_then(|file| Writer::new(BufWriter::with_capacity(256 * 1024, file))) {
            Ok(writer) => Ok(Self {
                path,
                writer,
                names: HashMap::new(),
                interfaces: HashMap::new(),
                buffer: Vec::new(),
            }),
            Err(source) => Err(Error::Output { path, source }),
        }
    }

    /// Says what an interface of the capture is called.
    pub fn name(&mut self, interface: u32, name: &str) {
        self.names.insert(interface, name.to_owned());
    }

    /// Writes a packet: `frame` is what has become of all but its first `skip` bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, packet: &Packet<'_>, skip: usize, frame: &[u8]) -> Result<(), Error> {
        let data = if skip == 0 {
            frame
        } else {
            self.buffer.clear();
            self.buffer.extend_from_slice(&packet.data[..skip]);
            self.buffer.extend_from_slice(frame);
            &self.buffer
        };
        let key = (packet.interface, packet.link);
        let mut write = || {
            let interface = match self.interfaces.get(&key) {
                Some(interface) => *interface,
                None => {
                    let name = self.names.get(&packet.interface).map_or("", String::as_str);
                    let number = self.writer.interface(name, packet.link, 0)?;
                    self.interfaces.insert(key, number);
                    number
                }
            };
            self.writer.packet(&WrittenPacket {
                interface,
                time_ns: packet.time_ns,
                data,
                length: packet.length,
                way: packet.way,
                verdict: None,
                comment: "",
            })
        };
        write().map_err(|source| Error::Output {
            path: self.path.clone(),
            source,
        })
    }

    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().map_err(|source| Error::Output {
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_without_ethernet_start_with_ip() {
        assert_eq!(start(LinkType::Ethernet, &[0; 60]), (0, None));
        assert_eq!(start(LinkType::Raw, &[0x45, 0]), (0, None));
        let sll = [0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0, 8, 0, 0x45];
        assert_eq!(start(LinkType::Sll, &sll), (16, Some(Way::Out)));
        assert_eq!(start(LinkType::Sll, &sll[..15]), (15, None));
        let sll2 = [0x86, 0xdd, 0, 0, 0, 0, 0, 3, 0, 1, 0, 6, 2, 0, 0, 0, 0, 7, 0, 0, 0x60];
        assert_eq!(start(LinkType::Sll2, &sll2), (20, Some(Way::In)));
        assert_eq!(start(LinkType::Sll2, &sll2[..19]), (19, None));
    }

    #[test]
    fn tags_behind_a_cooked_header_are_stepped_over_and_what_is_not_ip_is_no_packet() {
        let mut tagged = vec![0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0, 0x81, 0];
        // Read as the start of IP, this tag would be version 4.
        tagged.extend([0x45, 0x00, 0x08, 0x00, 0x45]);
        assert_eq!(start(LinkType::Sll, &tagged), (20, Some(Way::In)));
        assert_eq!(start(LinkType::Sll, &tagged[..18]), (18, Some(Way::In)));
        tagged[14..16].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(start(LinkType::Sll, &tagged), (tagged.len(), Some(Way::In)));
    }
}
