//! Reads the pcapng files that weir writes, so that a test can say what is in them. Not weir's own reader: what is wrong in both
//! would be seen by nobody.
//!
//! Input: bytes. Output: [`Captured`] packets. Format: draft-ietf-opsawg-pcapng, little-endian only.

use anyhow::{Context, Result, bail, ensure};

/// One packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub interface: String,
    pub time_ns: u64,
    pub data: Vec<u8>,
    /// Bytes on the wire.
    pub length: u32,
    /// 1 came in, 2 went out.
    pub way: u32,
    /// Who decided (1 TC, 2 XDP), and what.
    pub verdict: (u8, i64),
    pub comment: String,
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let part = bytes.get(at..at + 4).with_context(|| format!("the file ends at {}", bytes.len()))?;
    Ok(u32::from_le_bytes(part.try_into()?))
}

/// Reads the options from `at` on: code and value.
fn options(block: &[u8], mut at: usize) -> Result<Vec<(u16, &[u8])>> {
    let mut all = Vec::new();
    while at + 4 <= block.len() {
        let word = u32_at(block, at)?;
        let (code, len) = (word as u16, (word >> 16) as usize);
        if code == 0 {
            break;
        }
        all.push((code, block.get(at + 4..at + 4 + len).context("an option is cut off")?));
        at += 4 + len.next_multiple_of(4);
    }
    Ok(all)
}

/// Reads a whole file.
///
/// # Errors
/// It is not what weir should write, and where.
pub fn read(bytes: &[u8]) -> Result<Vec<Captured>> {
    ensure!(u32_at(bytes, 0)? == 0x0a0d_0d0a, "no section at the start");
    let (mut at, mut interfaces, mut packets) = (0, Vec::new(), Vec::new());
    while at < bytes.len() {
        let (kind, length) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)? as usize);
        let block = bytes
            .get(at + 8..at + length - 4)
            .with_context(|| format!("the block at {at} is cut off"))?;
        ensure!(
            u32_at(bytes, at + length - 4)? as usize == length,
            "the block at {at} has two lengths"
        );
        match kind {
            0x0a0d_0d0a => ensure!(
                at == 0 && u32_at(block, 0)? == 0x1a2b_3c4d,
                "a second section, or another byte order"
            ),
            1 => {
                let options = options(block, 8)?;
                // A pcap file has no names of interfaces.
                let name = options.iter().find(|(code, _)| *code == 2).map_or(&[][..], |(_, name)| *name);
                ensure!(options.contains(&(9, &[9])), "the clock of an interface is not in nanoseconds");
                interfaces.push(String::from_utf8(name.to_vec())?);
            }
            6 => {
                let captured = u32_at(block, 12)? as usize;
                let mut packet = Captured {
                    interface: interfaces.get(u32_at(block, 0)? as usize).context("no such interface")?.clone(),
                    time_ns: u64::from(u32_at(block, 4)?) << 32 | u64::from(u32_at(block, 8)?),
                    data: block.get(20..20 + captured).context("a packet is cut off")?.to_vec(),
                    length: u32_at(block, 16)?,
                    way: 0,
                    verdict: (0, 0),
                    comment: String::new(),
                };
                for (code, value) in options(block, 20 + captured.next_multiple_of(4))? {
                    match (code, value) {
                        (1, text) => packet.comment = String::from_utf8(text.to_vec())?,
                        (2, value) => packet.way = u32_at(value, 0)?,
                        (7, [who, code @ ..]) => packet.verdict = (*who, i64::from_le_bytes(code.try_into()?)),
                        (code, _) => bail!("option {code} of a packet is unknown"),
                    }
                }
                packets.push(packet);
            }
            _ => bail!("a block of type {kind:#x} at {at}"),
        }
        at += length;
    }
    Ok(packets)
}
