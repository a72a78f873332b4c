//! Interface patterns to interfaces, in any network namespace.

use crate::error::Error;
use crate::sys::netlink::{Link, Netlink};
use crate::sys::{Result as SysResult, SysError, netns};
use weir_compiler::hir::{glob_match, is_glob};
use weir_compiler::object::{Device, IfacePattern, LinkLayer};
use weir_parser::Span;

const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;

/// Whether an interface is one that the pattern names, and its packets start as the pattern says.
#[must_use]
pub fn matches(pattern: &IfacePattern, link: &Link) -> bool {
    // A filter that looks at the wrong bytes is worse than none.
    is_named(pattern, link) && link_layer(link) == Some(pattern.link_layer)
}

/// Whether an interface has a name that the pattern matches. `*` is all but the loopback.
#[must_use]
pub fn is_named(pattern: &IfacePattern, link: &Link) -> bool {
    let matches = |pattern: &str| {
        if is_glob(pattern) {
            glob_match(pattern, &link.name) && !(pattern == "*" && link.arphrd == ARPHRD_LOOPBACK)
        } else {
            link.name == pattern
        }
    };
    matches(&pattern.pattern) && pattern.overlap.admits(matches)
}

/// What the packets of an interface start with, `None` when it is neither Ethernet nor IP. `ARPHRD_*` of linux/if_arp.h.
#[must_use]
pub fn link_layer(link: &Link) -> Option<LinkLayer> {
    match link.arphrd {
        ARPHRD_ETHER | ARPHRD_LOOPBACK => Some(LinkLayer::Ethernet),
        // PPP, raw IP, tunnels of IPv4, IPv6, 6in4 and GRE, nothing at all (tun, WireGuard).
        512 | 519 | 768 | 769 | 776 | 778 | 823 | 0xfffe => Some(LinkLayer::None),
        _ => None,
    }
}

/// Runs `work` in a network namespace that a script names.
///
/// # Errors
/// When there is none of that name, or it cannot be entered; and what `work` says.
pub fn in_netns<T: Send>(netns: Option<&str>, span: Span, work: impl FnOnce() -> SysResult<T> + Send) -> Result<T, Error> {
    let result = netns::run_in(netns, work).map_err(|e| missing(netns, span, e))?;
    Ok(result?)
}

fn missing(netns: Option<&str>, span: Span, error: SysError) -> Error {
    match netns {
        Some(name) if error.errno() == libc::ENOENT => Error::NoNetns {
            name: name.to_owned(),
            known: netns::named(),
            span,
        },
        Some(name) => Error::Netns {
            name: name.to_owned(),
            span,
            source: error.source,
        },
        None => Error::Sys(error),
    }
}

/// Lists the names of the interfaces in a network namespace.
///
/// # Errors
/// What the kernel says.
pub fn names(netns: Option<&str>) -> SysResult<Vec<String>> {
    let links = netns::run_in(netns, || Netlink::open().and_then(|mut n| n.links()))??;
    Ok(links.into_iter().map(|l| l.name).collect())
}

/// Finds the interfaces that a pattern names. A glob may name none yet.
///
/// # Errors
/// When an interface named in full does not exist, or the network namespace cannot be entered.
pub fn resolve(pattern: &IfacePattern, span: Span) -> Result<Vec<Link>, Error> {
    let netns = pattern.netns.as_deref();
    if pattern.is_glob() {
        return Ok(named(pattern, span)?.into_iter().filter(|l| matches(pattern, l)).collect());
    }
    match in_netns(netns, span, || Netlink::open()?.link(&pattern.pattern))? {
        Some(link) if matches(pattern, &link) => Ok(vec![link]),
        Some(link) => Err(wrong_kind(&link, span)),
        None => Err(Error::NoInterface {
            pattern: pattern.pattern.clone(),
            netns: pattern.netns.clone(),
            known: names(netns).unwrap_or_default(),
            span,
        }),
    }
}

/// Lists the interfaces that a pattern with wildcards names, whatever their packets start with.
///
/// # Errors
/// When the network namespace cannot be entered.
pub fn named(pattern: &IfacePattern, span: Span) -> Result<Vec<Link>, Error> {
    let all = in_netns(pattern.netns.as_deref(), span, || Netlink::open()?.links())?;
    Ok(all.into_iter().filter(|l| is_named(pattern, l)).collect())
}

/// Why an interface that a pattern names is not attached to.
#[must_use]
pub fn wrong_kind(link: &Link, span: Span) -> Error {
    Error::LinkLayer {
        iface: link.name.clone(),
        is_readable: link_layer(link).is_some(),
        span,
    }
}

/// Finds the number of a device that packets are sent to.
///
/// # Errors
/// When there is none of the name, or the network namespace cannot be entered.
pub fn device(device: &Device) -> Result<u32, Error> {
    let links = netns::run_in(device.netns.as_deref(), || Netlink::open().and_then(|mut n| n.links()))??;
    match links.iter().find(|l| l.name == device.name) {
        Some(link) => Ok(link.ifindex),
        None => Err(Error::NoInterface {
            pattern: device.name.clone(),
            netns: device.netns.clone(),
            known: links.into_iter().map(|l| l.name).collect(),
            span: device.span,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, matches) in [
            ("veth0", "veth0", true),
            ("veth0", "veth01", false),
            ("lxc*", "lxc12", true),
            ("*", "anything", true),
            ("v*0", "veth10", true),
            ("veth?", "veth1", true),
            ("veth?", "veth", false),
            ("eth[0-2]", "eth1", true),
            ("eth[!0]", "eth0", false),
            ("eth[ab]", "etha", true),
        ] {
            assert_eq!(glob_match(pattern, name), matches, "{pattern} {name}");
        }
    }
}
