//! Writes pcapng: one section, an interface where its first packet is, nanoseconds, direction and verdict with each packet.
//!
//! Format: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html>, little-endian.

use super::{LinkType, Way};
use std::io::{self, Write};

/// What happened to a packet, by the numbers of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Tc(i64),
    Xdp(i64),
}

/// A packet to write.
#[derive(Clone, Copy, Debug)]
pub struct WrittenPacket<'a> {
    /// What [`Writer::interface`] gave.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub data: &'a [u8],
    /// Bytes on the wire.
    pub length: u32,
    pub way: Option<Way>,
    pub verdict: Option<Verdict>,
    /// For people; none when empty.
    pub comment: &'a str,
}

/// A capture being written. Packets are buffered; `flush` or drop it.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    interfaces: u32,
    block: Vec<u8>,
}

/// Blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

/// Options.
const END: u16 = 0;
const COMMENT: u16 = 1;
const USER_APPLICATION: u16 = 4;
const IF_NAME: u16 = 2;
const IF_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const PACKET_VERDICT: u16 = 7;

/// `epb_verdict` starts with who decided.
const VERDICT_TC: u8 = 1;
const VERDICT_XDP: u8 = 2;

impl<W: Write> Writer<W> {
    /// Starts the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self {
            out,
            interfaces: 0,
            block: Vec::with_capacity(512),
        };
        writer.put(&0x1a2b_3c4d_u32.to_le_bytes());
        writer.put(&1_u16.to_le_bytes());
        writer.put(&0_u16.to_le_bytes());
        // How long the section is, nobody knows yet.
        writer.put(&[0xff; 8]);
        writer.option(USER_APPLICATION, concat!("weir ", env!("CARGO_PKG_VERSION")).as_bytes());
        writer.option(END, &[]);
        writer.end_block(SECTION)?;
        Ok(writer)
    }

    /// Describes an interface; returns its number.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn interface(&mut self, name: &str, link: LinkType, snap_length: u32) -> io::Result<u32> {
        self.put(&link.number().to_le_bytes());
        self.put(&0_u16.to_le_bytes());
        self.put(&snap_length.to_le_bytes());
        if !name.is_empty() {
            self.option(IF_NAME, name.as_bytes());
        }
        // 10^-9 seconds.
        self.option(IF_RESOLUTION, &[9]);
        self.option(END, &[]);
        self.end_block(INTERFACE)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a packet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn packet(&mut self, packet: &WrittenPacket<'_>) -> io::Result<()> {
        self.put(&packet.interface.to_le_bytes());
        self.put(&((packet.time_ns >> 32) as u32).to_le_bytes());
        self.put(&(packet.time_ns as u32).to_le_bytes());
        self.put(&u32::try_from(packet.data.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.put(&packet.length.to_le_bytes());
        self.padded(packet.data);
        if let Some(way) = packet.way {
            let flags: u32 = match way {
                Way::In => 1,
                Way::Out => 2,
            };
            self.option(PACKET_FLAGS, &flags.to_le_bytes());
        }
        if let Some(verdict) = packet.verdict {
            let (who, code) = match verdict {
                Verdict::Tc(code) => (VERDICT_TC, code),
                Verdict::Xdp(code) => (VERDICT_XDP, code),
            };
            let mut value = [who; 9];
            value[1..].copy_from_slice(&code.to_le_bytes());
            self.option(PACKET_VERDICT, &value);
        }
        if !packet.comment.is_empty() {
            self.option(COMMENT, packet.comment.as_bytes());
        }
        self.option(END, &[]);
        self.end_block(PACKET)
    }

    /// Hands what is buffered on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Returns what was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn put(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.put(bytes);
        let len = self.block.len();
        self.block.resize(len.next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.put(&code.to_le_bytes());
        self.put(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.padded(value);
    }

    /// Everything put since the last block becomes a block of this kind.
    fn end_block(&mut self, kind: u32) -> io::Result<()> {
        let length = u32::try_from(self.block.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&length)?;
        self.out.write_all(&self.block)?;
        self.out.write_all(&length)?;
        self.block.clear();
        Ok(())
    }
}
