//! Address prefixes as people write them.
//!
//! Input: text. Output: an address and a length in bits, host bits zero, or the reason why not. No I/O.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a text is not a prefix. Its `Display` goes after "… is not a prefix: ".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixError {
    Address,
    Length {
        max: u8,
    },
    /// Bits beyond the length are set; carries the prefix that was probably meant.
    HostBits {
        meant: String,
    },
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrefixError::Address => f.write_str("expected an IPv4 or IPv6 address, with or without `/LENGTH`"),
            PrefixError::Length { max } => write!(f, "expected a length from 0 to {max}"),
            PrefixError::HostBits { meant } => write!(f, "bits beyond the length are set, write `{meant}`"),
        }
    }
}

impl std::error::Error for PrefixError {}

/// Returns a list with its lines ended by LF. Some exports end them with CR alone: what is behind a comment or an entry there must not be
/// taken for a part of it.
#[must_use]
pub fn with_line_feeds(text: &str) -> Cow<'_, str> {
    match text.contains('\r') {
        true => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
        false => Cow::Borrowed(text),
    }
}

/// Returns what a line of a list says without its comment, which `#` begins, or `;` as in lists that are published.
#[must_use]
pub fn without_comment(line: &str) -> &str {
    line.split(['#', ';']).next().unwrap_or_default()
}

/// Reads `ADDRESS` or `ADDRESS/LENGTH` of either family, without blanks. An address alone is a prefix of full length.
///
/// IPv4 in IPv6 notation (`::ffff:192.0.2.1`) stays IPv6, as sockets have it; [`as_in_packets`] is for what is compared with packets.
///
/// # Errors
/// Not an address, a length that its family does not have, or bits beyond the length.
pub fn parse_prefix(text: &str) -> Result<(IpAddr, u8), PrefixError> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| PrefixError::Address)?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => max,
        // `u8::from_str` would take a sign.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|n| *n <= max).ok_or(PrefixError::Length { max })?
        }
        Some(_) => return Err(PrefixError::Length { max }),
    };
    let masked = mask(address, length);
    if masked != address {
        return Err(PrefixError::HostBits {
            meant: format!("{masked}/{length}"),
        });
    }
    Ok((address, length))
}

/// Returns the prefix as packets have its addresses: a program that listens for both families writes IPv4 as `::ffff:192.0.2.1`, and no
/// packet has such an address. As a network it stays what it is: lists of what is never routed have `::ffff:0:0/96`, and nobody means all
/// of IPv4 by it.
#[must_use]
pub fn as_in_packets((address, length): (IpAddr, u8)) -> (IpAddr, u8) {
    match address {
        IpAddr::V6(a) if length == 128 => a.to_ipv4_mapped().map_or((address, length), |a| (IpAddr::V4(a), 32)),
        _ => (address, length),
    }
}

/// The fewest prefixes that have exactly the addresses from `low` to `high`, as numbers of `width` bits.
pub fn covering(low: u128, high: u128, width: u8) -> impl Iterator<Item = (u128, u8)> {
    let mut next = (low <= high).then_some(low);
    std::iter::from_fn(move || {
        let at = next?;
        // The largest prefix that begins here and does not go beyond the end.
        let mut bits = at.trailing_zeros().min(width.into()) as u8;
        let last = |bits: u8| at | 1_u128.checked_shl(bits.into()).map_or(u128::MAX, |size| size - 1);
        while last(bits) > high {
            bits -= 1;
        }
        next = last(bits).checked_add(1).filter(|next| *next <= high);
        Some((at, width - bits))
    })
}

/// Addresses from one to another (`10.0.0.1-10.0.0.9`), and the prefixes that are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: IpAddr,
    pub last: IpAddr,
    pub prefixes: Vec<(IpAddr, u8)>,
}

impl Range {
    /// Reads a range, if that is what a text is.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let (width, low, high) = match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (32_u8, u128::from(a.to_bits()), u128::from(b.to_bits())),
            (IpAddr::V6(a), IpAddr::V6(b)) => (128, a.to_bits(), b.to_bits()),
            _ => return None,
        };
        if low > high {
            return None;
        }
        let address = |at: u128| match first {
            IpAddr::V4(_) => Ipv4Addr::from_bits(at as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(at).into(),
        };
        let prefixes = covering(low, high, width).map(|(at, len)| (address(at), len)).collect();
        Some(Self { first, last, prefixes })
    }

    /// Says what to write instead: all of it if that is little. `quote` stands around what scripts take in quotes only.
    #[must_use]
    pub fn instead(&self, quote: &str) -> String {
        const MOST: usize = 4;
        let shown = |(addr, len): &(IpAddr, u8)| {
            let quote = if addr.is_ipv6() { quote } else { "" };
            let is_host = *len == if addr.is_ipv6() { 128 } else { 32 };
            let length = if is_host { String::new() } else { format!("/{len}") };
            format!("`{quote}{addr}{length}{quote}`")
        };
        match &self.prefixes[..] {
            [first, .., last] if self.prefixes.len() > MOST => {
                format!("the {} prefixes from {} to {}", self.prefixes.len(), shown(first), shown(last))
            }
            few => few.iter().map(shown).collect::<Vec<_>>().join(", "),
        }
    }
}

/// Returns the address with the bits beyond the length zeroed.
fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(
            a.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0),
        )),
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(
            a.to_bits() & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse_prefix(text) {
            Ok((address, length)) => format!("{address}/{length}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn prefixes_of_both_families() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255/32", "255.255.255.255/32"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1/128"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_prefix() {
        let address = PrefixError::Address.to_string();
        for text in [
            "",
            "/8",
            "10.0.0/8",
            "010.0.0.1",
            "example.com",
            "10.0.0.0 /8",
            "2001:db8::/32/1x",
            "fe80::1%eth0",
        ] {
            assert!(parse_prefix(text).is_err(), "{text}");
        }
        assert_eq!(shown("10.0.0"), address);
        for (text, max) in [
            ("10.0.0.0/33", 32),
            ("10.0.0.0/", 32),
            ("10.0.0.0/-1", 32),
            ("10.0.0.0/+8", 32),
            ("::/129", 128),
            ("::/999", 128),
        ] {
            assert_eq!(shown(text), format!("expected a length from 0 to {max}"), "{text}");
        }
        assert_eq!(shown("10.1.2.3/8"), "bits beyond the length are set, write `10.0.0.0/8`");
        assert_eq!(shown("2001:db8::1/32"), "bits beyond the length are set, write `2001:db8::/32`");
        assert_eq!(shown("0.0.0.1/0"), "bits beyond the length are set, write `0.0.0.0/0`");
    }
}
