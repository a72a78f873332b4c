//! What the blocklist should do, written down a second time: linear search over the lists, on packet descriptions.

use crate::packet::{Body, Extension, Generator, Packet, Upper};
use std::collections::BTreeMap;
use std::net::IpAddr;
use weir_ebpf_builtins::blocklist as bl;

pub type Entry = (IpAddr, u8);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub fields: u32,
    pub families: u32,
    pub allow_families: u32,
    /// IP protocol, 0 for all, 1 for both ICMPs.
    pub proto: u32,
    /// Inclusive.
    pub ports: Option<(u16, u16)>,
    /// Run on the second set of tries, with the first one empty.
    pub second_set: bool,
    /// Families in the exact tables, as in `EXACT`.
    pub exact: u32,
    /// The exact tables have a sieve in front.
    pub sieve: bool,
    /// The exact tables of IPv4 are flat.
    pub flat: bool,
    /// Every so many-th entry is in the tries nevertheless; 0: none.
    pub spill_every: usize,
    pub dry_run: bool,
    pub event_drop: bool,
    pub event_allow: bool,
    pub chain_next: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fields: bl::MATCH_SRC,
            families: bl::IPV4 | bl::IPV6,
            allow_families: bl::IPV4 | bl::IPV6,
            proto: 0,
            ports: None,
            second_set: false,
            exact: 0,
            sieve: false,
            flat: false,
            spill_every: 0,
            dry_run: false,
            event_drop: false,
            event_allow: false,
            chain_next: false,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Lists {
    pub block: Vec<Entry>,
    pub allow: Vec<Entry>,
}

impl Lists {
    pub fn random(generator: &mut Generator) -> Self {
        let mut list = |max| {
            let len = 1 + generator.random.below(max);
            (0..len).map(|_| generator.prefix()).collect()
        };
        Self {
            block: list(300),
            allow: list(30),
        }
    }
}

/// The counter of a packet, and the entry that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub stat: u32,
    pub entry: Option<Entry>,
}

/// What the maps should hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub stats: [u64; bl::STATS as usize],
    /// Packets and bytes.
    pub hits: BTreeMap<Entry, [u64; 2]>,
}

impl Counters {
    pub fn add(&mut self, outcome: Outcome, bytes: usize) {
        self.stats[outcome.stat as usize] += 1;
        if let (bl::STAT_DROPPED, Some(entry)) = (outcome.stat, outcome.entry) {
            let [packets, total] = self.hits.entry(entry).or_default();
            *packets += 1;
            *total += bytes as u64;
        }
    }
}

pub fn judge(packet: &Packet, settings: &Settings, lists: &Lists) -> Outcome {
    let len = packet.bytes().len();
    let only = |stat| Outcome { stat, entry: None };
    if len < 14 + 4 * packet.tags.len().min(2) {
        return only(bl::STAT_MALFORMED);
    }
    if packet.tags.len() > 2 {
        return only(bl::STAT_NON_IP);
    }
    let at = packet.network_offset();
    let (src, dst, family): (IpAddr, IpAddr, u32) = match &packet.body {
        Body::Other(_) => return only(bl::STAT_NON_IP),
        Body::V4 {
            src,
            dst,
            version,
            header_words,
            ..
        } => {
            if len < at + 20 || *version != 4 || *header_words < 5 {
                return only(bl::STAT_MALFORMED);
            }
            ((*src).into(), (*dst).into(), bl::IPV4)
        }
        Body::V6 { src, dst, version, .. } => {
            if len < at + 40 || *version != 6 {
                return only(bl::STAT_MALFORMED);
            }
            ((*src).into(), (*dst).into(), bl::IPV6)
        }
    };
    let find = |list: &[Entry], families: u32| {
        let wanted = [(bl::MATCH_SRC, src), (bl::MATCH_DST, dst)];
        let wanted = wanted
            .iter()
            .filter(|(field, _)| families & family != 0 && settings.fields & field != 0);
        wanted.map(|(_, address)| longest(list, *address)).find(Option::is_some).flatten()
    };
    if let Some(entry) = find(&lists.allow, settings.allow_families) {
        return Outcome {
            stat: bl::STAT_ALLOWED,
            entry: Some(entry),
        };
    }
    match find(&lists.block, settings.families) {
        Some(_) if is_neighbour_discovery(packet, len) => only(bl::STAT_NEIGHBOUR),
        Some(_) if !wanted(packet, len, settings) => only(bl::STAT_PASSED),
        Some(entry) => Outcome {
            stat: bl::STAT_DROPPED,
            entry: Some(entry),
        },
        None => only(bl::STAT_PASSED),
    }
}

fn longest(list: &[Entry], address: IpAddr) -> Option<Entry> {
    list.iter()
        .filter(|entry| covers(**entry, address))
        .max_by_key(|entry| entry.1)
        .copied()
}

/// Compares the first `len` bits as a number.
fn covers((prefix, len): Entry, address: IpAddr) -> bool {
    // The address in the upper bits, the rest zero.
    fn bits(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
            IpAddr::V6(a) => a.to_bits(),
        }
    }
    let same = (bits(prefix) ^ bits(address)).leading_zeros();
    prefix.is_ipv4() == address.is_ipv4() && same >= u32::from(len)
}

/// Whether the packet has the protocol and the port that are asked for.
fn wanted(packet: &Packet, len: usize, settings: &Settings) -> bool {
    // Protocol, and where its header starts unless that is in another fragment.
    let (proto, upper) = match &packet.body {
        Body::Other(_) => return false,
        Body::V4 {
            header_words,
            fragment,
            proto,
            ..
        } => {
            let at = packet.network_offset() + 4 * usize::from(*header_words);
            (*proto, (fragment & 0x1fff == 0).then_some(at))
        }
        Body::V6 { extensions, upper, .. } => {
            let mut at = packet.network_offset() + 40;
            let last = match upper {
                Upper::Protocol(proto) => *proto,
                Upper::Icmp6(_) => 58,
            };
            let mut result = None;
            for (index, extension) in extensions.iter().enumerate() {
                // The ninth, or one that is cut off, is where we know no more.
                if index == 8 || len < at + 4 {
                    result = Some((extension.kind(), Some(at)));
                    break;
                }
                at += extension.len();
                if *extension == Extension::LaterFragment {
                    let next = extensions.get(index + 1).map_or(last, |e| e.kind());
                    result = Some((next, None));
                    break;
                }
            }
            result.unwrap_or((last, Some(at)))
        }
    };
    let same = settings.proto == 0 || settings.proto == u32::from(proto) || (settings.proto == 1 && proto == 58);
    let port = |(low, high): (u16, u16)| {
        let (6 | 17 | 132, Some(at)) = (proto, upper) else { return false };
        let bytes = packet.bytes();
        len >= at + 4 && (low..=high).contains(&u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]))
    };
    same && settings.ports.is_none_or(port)
}

fn is_neighbour_discovery(packet: &Packet, len: usize) -> bool {
    let Body::V6 {
        extensions,
        upper: Upper::Icmp6(133..=137),
        ..
    } = &packet.body
    else {
        return false;
    };
    let upper = packet.network_offset() + 40 + extensions.iter().map(|e| e.len()).sum::<usize>();
    extensions.len() <= 8
        && !extensions
            .iter()
            .any(|e| matches!(e, Extension::Fragment | Extension::LaterFragment))
        && len >= upper + 2
}
