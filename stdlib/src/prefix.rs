//! Address prefixes as people write them: one, or a file of them.
//!
//! Input: text. Output: addresses with a length in bits, host bits zero, or the place and the reason. No I/O.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weir_ebpf_builtins::abi::{FAMILY_IPV4, FAMILY_IPV6};

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

/// Reads `ADDRESS` or `ADDRESS/LENGTH` of either family, without blanks. An address alone is a prefix of full length.
///
/// IPv4 in IPv6 notation (`::ffff:192.0.2.1`) stays IPv6: such addresses never appear in packets as IPv4.
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

/// A line of a list that is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    pub text: String,
    pub why: PrefixError,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}` is not a prefix: {}", self.line, self.text, self.why)
    }
}

impl std::error::Error for BadLine {}

/// Reads a list: one prefix a line; blank lines and everything from `#` on are ignored. Keeps order and repetitions.
///
/// # Errors
/// The first line that is not a prefix.
pub fn parse_list(text: &str) -> Result<Vec<(IpAddr, u8)>, BadLine> {
    // A list saved by a Windows editor starts with a byte order mark; its line ends are blanks to `trim`.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut prefixes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim();
        if entry.is_empty() {
            continue;
        }
        prefixes.push(parse_prefix(entry).map_err(|why| BadLine {
            line: index + 1,
            text: entry.to_owned(),
            why,
        })?);
    }
    Ok(prefixes)
}

/// Returns a prefix as the natives' programs have it.
#[must_use]
pub fn to_abi((address, len_bits): (IpAddr, u8)) -> weir_ebpf_builtins::Prefix {
    let mut addr = [0; 16];
    let family = match address {
        IpAddr::V4(a) => {
            addr[..4].copy_from_slice(&a.octets());
            FAMILY_IPV4
        }
        IpAddr::V6(a) => {
            addr = a.octets();
            FAMILY_IPV6
        }
    };
    weir_ebpf_builtins::Prefix {
        len_bits: len_bits.into(),
        family,
        addr,
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

    #[test]
    fn a_file() {
        let text = "\u{feff}# bad ones\r\n10.0.0.0/8 # private\r\n\r\n  2001:db8::/32\t\r\n10.0.0.0/8\n";
        let list: Vec<String> = parse_list(text).unwrap().into_iter().map(|(a, l)| format!("{a}/{l}")).collect();
        assert_eq!(list, ["10.0.0.0/8", "2001:db8::/32", "10.0.0.0/8"]);
        assert_eq!(parse_list("").unwrap(), []);
        let bad = parse_list("10.0.0.0/8\n\nbad one # x\n").unwrap_err();
        assert_eq!((bad.line, bad.text.as_str()), (3, "bad one"));
        assert_eq!(
            bad.to_string(),
            "line 3: `bad one` is not a prefix: expected an IPv4 or IPv6 address, with or without `/LENGTH`"
        );
    }

    #[test]
    fn as_the_programs_have_it() {
        let v4 = to_abi(parse_prefix("192.0.2.0/24").unwrap());
        assert_eq!((v4.len_bits, v4.family), (24, 2));
        assert_eq!(v4.addr, [192, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let v6 = to_abi(parse_prefix("2001:db8::/32").unwrap());
        assert_eq!((v6.len_bits, v6.family), (32, 10));
        assert_eq!(v6.addr[..5], [0x20, 0x01, 0x0d, 0xb8, 0]);
    }
}
