//! Addresses and flows as scripts know them.

/// An address of either family, 24 bytes: `family` is `AF_INET` or `AF_INET6`, the address in network order; IPv4 fills the
/// first 4 bytes and the rest is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inet {
    pub family: u64,
    /// As two words, which are copied faster than bytes.
    pub addr: [u64; 2],
}

/// A 5-tuple, 40 bytes.
///
/// | offset | size | |
/// |---|---|---|
/// | 0 | 16 | `src`, network order as in [`Inet`] |
/// | 16 | 16 | `dst` |
/// | 32 | 2 | `sport`, host order; 0 without ports |
/// | 34 | 2 | `dport` |
/// | 36 | 1 | `proto` |
/// | 37 | 1 | `family` |
/// | 38 | 1 | `has_ports`: 1 if the packet has ports |
/// | 39 | 1 | zero |
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub src: [u64; 2],
    pub dst: [u64; 2],
    pub sport: u16,
    pub dport: u16,
    pub proto: u8,
    pub family: u8,
    pub has_ports: u8,
    pub zero: u8,
}

impl Flow {
    /// Returns the address that the flow comes from.
    #[inline(always)]
    pub fn source(&self) -> Inet {
        Inet {
            family: self.family as u64,
            addr: self.src,
        }
    }

    /// Returns the address that the flow goes to.
    #[inline(always)]
    pub fn destination(&self) -> Inet {
        Inet {
            family: self.family as u64,
            addr: self.dst,
        }
    }
}
