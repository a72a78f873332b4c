//! Packets that come out of a replay, and the Ethernet header that packets without one get for it.

use crate::error::Error;
use crate::pcap::{LinkType, Packet, Way, Writer, WrittenPacket};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Makes an Ethernet header for a packet that has none, with what is known: the type, and at a cooked one the sender. Returns
/// how many bytes of the packet it stands for, and which way the packet went.
pub fn ethernet_header(link: LinkType, data: &[u8], header: &mut [u8; ETHERNET]) -> Option<(usize, Option<Way>)> {
    let (skip, kind, sender, packet_type) = match link {
        LinkType::Ethernet => return None,
        LinkType::Raw => {
            let kind: [u8; 2] = match data.first()? >> 4 {
                4 => [0x08, 0x00],
                6 => [0x86, 0xdd],
                _ => [0, 0],
            };
            header[12..].copy_from_slice(&kind);
            return Some((0, None));
        }
        LinkType::Sll => {
            let cooked = data.first_chunk::<16>()?;
            let sender = (cooked[5] == 6).then_some(&data[6..12]);
            (16, [cooked[14], cooked[15]], sender, u16::from_be_bytes([cooked[0], cooked[1]]))
        }
        LinkType::Sll2 => {
            let cooked = data.first_chunk::<20>()?;
            let sender = (cooked[11] == 6).then_some(&data[12..18]);
            (20, [cooked[0], cooked[1]], sender, u16::from(cooked[10]))
        }
    };
    if let Some(sender) = sender {
        header[6..12].copy_from_slice(sender);
    }
    header[12..].copy_from_slice(&kind);
    // `PACKET_OUTGOING`
    Some((skip, Some(if packet_type == 4 { Way::Out } else { Way::In })))
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
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).and_then(|file| Writer::new(BufWriter::with_capacity(256 * 1024, file)));
        match file {
            Ok(writer) => Ok(Self {
                path: path.to_owned(),
                writer,
                names: HashMap::new(),
                interfaces: HashMap::new(),
                buffer: Vec::new(),
            }),
            Err(source) => Err(Error::Output {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Says what an interface of the capture is called.
    pub fn name(&mut self, interface: u32, name: &str) {
        self.names.insert(interface, name.to_owned());
    }

    /// Writes a packet: `frame` is what it has become, after `skip` bytes of it became an Ethernet header.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, packet: &Packet<'_>, skip: usize, frame: &[u8]) -> Result<(), Error> {
        let data = if packet.link == LinkType::Ethernet {
            frame
        } else {
            self.buffer.clear();
            self.buffer.extend_from_slice(&packet.data[..skip]);
            self.buffer.extend_from_slice(frame.get(ETHERNET..).unwrap_or(&[]));
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
    fn packets_without_ethernet_get_a_header() {
        let mut header = [0; 14];
        assert_eq!(ethernet_header(LinkType::Raw, &[0x45, 0], &mut header), Some((0, None)));
        assert_eq!(header[12..], [8, 0]);
        assert_eq!(ethernet_header(LinkType::Raw, &[0x60], &mut header), Some((0, None)));
        assert_eq!(header[12..], [0x86, 0xdd]);
        assert_eq!(ethernet_header(LinkType::Raw, &[], &mut header), None);
        let sll = [0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0, 8, 0, 0x45];
        assert_eq!(ethernet_header(LinkType::Sll, &sll, &mut header), Some((16, Some(Way::Out))));
        assert_eq!(header, [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9, 8, 0]);
        let sll2 = [0x86, 0xdd, 0, 0, 0, 0, 0, 3, 0, 1, 0, 6, 2, 0, 0, 0, 0, 7, 0, 0, 0x60];
        assert_eq!(ethernet_header(LinkType::Sll2, &sll2, &mut header), Some((20, Some(Way::In))));
        assert_eq!(header[6..], [2, 0, 0, 0, 0, 7, 0x86, 0xdd]);
        assert_eq!(ethernet_header(LinkType::Sll2, &sll2[..19], &mut header), None);
    }
}
