//! Lists of address prefixes: from files (one a line, `#` comments) and from scripts.

use super::Params;
use crate::error::Error;
use std::net::IpAddr;
use std::path::Path;
use weir_ebpf_builtins::{Lpm4, Lpm6};
use weir_parser::Span;
use weir_stdlib::ParamValue;

/// Prefixes of both families, sorted, without doubles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    pub v4: Vec<Lpm4>,
    pub v6: Vec<Lpm6>,
}

impl Prefixes {
    /// Parses `10.0.0.0/8`, `10.0.0.1`, `2001:db8::/32` and adds it.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let (addr, len) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let addr: IpAddr = addr
            .parse()
            .map_err(|_| format!("expected an address or a prefix, found `{}`", shortened(text)))?;
        let max: u32 = if addr.is_ipv4() { 32 } else { 128 };
        let len_bits = match len {
            None => max,
            Some(l) => l
                .parse()
                .ok()
                .filter(|n| *n <= max && l.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| format!("expected a prefix length from 0 to {max}, found `{}`", shortened(l)))?,
        };
        let network = mask(addr, len_bits);
        if network != addr {
            return Err(format!(
                "`{text}` has host bits beyond the prefix; write `{network}/{len_bits}` or `{addr}`"
            ));
        }
        match addr {
            IpAddr::V4(a) => self.v4.push(Lpm4 {
                len_bits,
                addr: a.octets(),
            }),
            IpAddr::V6(a) => self.v6.push(Lpm6 {
                len_bits,
                addr: a.octets(),
            }),
        }
        Ok(())
    }

    fn sort(&mut self) {
        // In the order of addresses: neighbours in the trie are inserted one after the other.
        self.v4.sort_unstable_by_key(|p| (p.addr, p.len_bits));
        self.v4.dedup();
        self.v6.sort_unstable_by_key(|p| (p.addr, p.len_bits));
        self.v6.dedup();
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// The number of the first bad line (from 1), and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut prefixes = Self::default();
        // Some editors start a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (i, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if !entry.is_empty() {
                prefixes.add(entry).map_err(|message| (i + 1, message))?;
            }
        }
        prefixes.sort();
        Ok(prefixes)
    }

    /// Returns the elements of the IPv4 trie as bytes: keys, which are the values, too.
    #[must_use]
    pub fn bytes_v4(&self) -> Vec<u8> {
        self.v4
            .iter()
            .flat_map(|p| p.len_bits.to_ne_bytes().into_iter().chain(p.addr))
            .collect()
    }

    /// Returns the elements of the IPv6 trie as bytes.
    #[must_use]
    pub fn bytes_v6(&self) -> Vec<u8> {
        self.v6
            .iter()
            .flat_map(|p| p.len_bits.to_ne_bytes().into_iter().chain(p.addr))
            .collect()
    }
}

fn mask(addr: IpAddr, len_bits: u32) -> IpAddr {
    match addr {
        IpAddr::V4(a) => IpAddr::from((u32::from(a) & u32::MAX.checked_shl(32 - len_bits).unwrap_or(0)).to_be_bytes()),
        IpAddr::V6(a) => IpAddr::from((u128::from(a) & u128::MAX.checked_shl(128 - len_bits).unwrap_or(0)).to_be_bytes()),
    }
}

/// As much of a text as a message should repeat.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Larger than a list of ten million prefixes.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Reads a file of prefixes.
///
/// # Errors
/// When it cannot be read, or a line is bad: named as `file:line`.
pub fn read_file(path: &Path, span: Span) -> Result<Prefixes, Error> {
    let failed = |source| Error::ReadFile {
        path: path.to_owned(),
        span,
        source,
    };
    // A device or a pipe may never end; nothing is opened before that is known.
    let info = std::fs::metadata(path).map_err(failed)?;
    if !info.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    if info.len() > MAX_FILE_BYTES {
        return Err(failed(std::io::Error::other(format!(
            "it is larger than {} MiB",
            MAX_FILE_BYTES >> 20
        ))));
    }
    let text = std::fs::read(path).map_err(failed)?;
    Prefixes::parse(&String::from_utf8_lossy(&text)).map_err(|(line, message)| Error::PrefixFile {
        path: path.to_owned(),
        line,
        message,
        span,
    })
}

/// Reads a parameter that is a list or a file; `None` when it is not given.
pub(crate) fn param(params: &Params<'_>, name: &str) -> Result<Option<(Prefixes, Span)>, Error> {
    let Some((value, span)) = params.get(name) else { return Ok(None) };
    let list = match value {
        ParamValue::File(path) => return Ok(Some((read_file(Path::new(path), span)?, span))),
        ParamValue::List(list) => list.clone(),
        ParamValue::Str(one) => vec![one.clone()],
        _ => return Err(Error::Object(format!("parameter `{name}` is no list of prefixes"))),
    };
    let mut prefixes = Prefixes::default();
    for entry in &list {
        prefixes.add(entry).map_err(|message| Error::Param { message, help: None, span })?;
    }
    prefixes.sort();
    Ok(Some((prefixes, span)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_comments_blank_lines_and_both_families() {
        let text = "# bad guys\n192.0.2.0/24\n\n 10.0.0.1 # host\n2001:db8::/32\n10.0.0.1\n0.0.0.0/0\n";
        let p = Prefixes::parse(text).unwrap();
        assert_eq!(p.v4.len(), 3);
        assert_eq!(p.v4[0], Lpm4 { len_bits: 0, addr: [0; 4] });
        assert_eq!(
            p.v4[1],
            Lpm4 {
                len_bits: 32,
                addr: [10, 0, 0, 1]
            }
        );
        assert_eq!(p.v6[0].len_bits, 32);
        assert_eq!(p.bytes_v4().len(), 24);
        assert_eq!(p.bytes_v6().len(), 20);
    }

    #[test]
    fn bad_lines_are_named_and_say_the_fix() {
        let error = |text: &str| Prefixes::parse(text).unwrap_err();
        assert_eq!(
            error("10.0.0.1\nfoo\n"),
            (2, "expected an address or a prefix, found `foo`".to_owned())
        );
        assert_eq!(
            error("10.0.0.0/33"),
            (1, "expected a prefix length from 0 to 32, found `33`".to_owned())
        );
        assert_eq!(error("10.0.0.0/+8").0, 1);
        assert_eq!(
            error("10.1.2.3/8"),
            (
                1,
                "`10.1.2.3/8` has host bits beyond the prefix; write `10.0.0.0/8` or `10.1.2.3`".to_owned()
            )
        );
        assert!(error("2001:db8::1/32").1.contains("write `2001:db8::/32`"));
    }
}
