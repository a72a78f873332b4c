//! Capture files: pcap and pcapng read, pcapng written. Bytes only; nothing here knows what a packet means to a script.

mod read;
mod write;

pub use read::{Packet, PcapError, Reader};
pub use write::{Verdict, Writer, WrittenPacket};

/// How a packet starts, by the numbers of <https://www.tcpdump.org/linktypes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    Ethernet,
    /// IPv4 or IPv6, told apart by the first four bits.
    Raw,
    /// "Linux cooked", version 1: what `tcpdump -i any` wrote for a long time.
    Sll,
    /// "Linux cooked", version 2, with the interface's number.
    Sll2,
}

impl LinkType {
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => LinkType::Ethernet,
            // RAW by its number in files, by those that BSDs have for it, and with the version told.
            101 | 12 | 14 | 228 | 229 => LinkType::Raw,
            113 => LinkType::Sll,
            276 => LinkType::Sll2,
            _ => return None,
        })
    }

    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            LinkType::Ethernet => 1,
            LinkType::Raw => 101,
            LinkType::Sll => 113,
            LinkType::Sll2 => 276,
        }
    }
}

/// Which way a packet went, seen from the machine that captured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    In,
    Out,
}
