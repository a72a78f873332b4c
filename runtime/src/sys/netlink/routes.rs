//! Routes: which way an address goes, and the gateways of default routes.

use super::{NLM_F_ACK, NLM_F_DUMP, Netlink, Request, attrs, u32_at};
use crate::sys::{Result, SysError};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GATEWAY: u16 = 6;

/// Where packets for an address go.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub ifindex: u32,
    /// To this machine itself.
    pub local: bool,
}

impl Request {
    /// `struct rtmsg`
    fn route(mut self, family: u8, prefix: u8) -> Self {
        self.buf.extend_from_slice(&[family, prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        self
    }

    /// `struct nhmsg`
    fn nexthop(mut self) -> Self {
        self.buf.extend_from_slice(&[0; 8]);
        self
    }
}

impl Netlink {
    /// Asks which way packets for an address go; `None` when there is no way.
    ///
    /// # Errors
    /// What the kernel says otherwise.
    pub fn route(&mut self, to: IpAddr) -> Result<Option<Route>> {
        let (family, bytes) = match to {
            IpAddr::V4(a) => (libc::AF_INET, a.octets().to_vec()),
            IpAddr::V6(a) => (libc::AF_INET6, a.octets().to_vec()),
        };
        let request = Request::new(RTM_GETROUTE, NLM_F_ACK)
            .route(family as u8, 8 * bytes.len() as u8)
            .attr(RTA_DST, &bytes);
        let mut route = None;
        match self.request(request, |kind, body| {
            if kind == RTM_NEWROUTE && body.len() >= 12 {
                let ifindex = attrs(&body[12..]).find(|(kind, _)| *kind == RTA_OIF);
                route = ifindex.map(|(_, data)| Route {
                    ifindex: u32_at(data, 0),
                    local: body[7] == RTN_LOCAL,
                });
            }
        }) {
            Ok(()) => Ok(route),
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES)
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(SysError::new("find the way to", to.to_string(), e)),
        }
    }

    /// Lists the gateways of all default routes, whichever table they are in and however many a route has.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn default_gateways(&mut self) -> Result<BTreeSet<IpAddr>> {
        let mut found = Gateways::default();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.request(Request::new(RTM_GETROUTE, NLM_F_DUMP).route(family as u8, 0), |kind, body| {
                if kind == RTM_NEWROUTE {
                    found.route(body);
                }
            })
            .map_err(|e| SysError::new("list", "routes", e))?;
        }
        // With `nexthop_compat_mode=0` a route tells nothing but the number of its next hop.
        if !found.nexthops.is_empty() {
            let mut nexthops = BTreeMap::new();
            self.request(Request::new(RTM_GETNEXTHOP, NLM_F_DUMP).nexthop(), |kind, body| {
                if kind == RTM_NEWNEXTHOP {
                    nexthops.extend(Nexthop::read(body));
                }
            })
            .map_err(|e| SysError::new("list", "next hops", e))?;
            found.resolve(&nexthops);
        }
        Ok(found.addresses)
    }
}

#[derive(Debug, Default)]
struct Gateways {
    addresses: BTreeSet<IpAddr>,
    /// Numbers of next hops that stand for themselves: `ip nexthop`.
    nexthops: BTreeSet<u32>,
}

impl Gateways {
    /// Adds the gateways of a default route: its own, or those of its next hops.
    fn route(&mut self, body: &[u8]) {
        // `struct rtmsg`: the family, bits of the destination; the type is the eighth byte.
        let (Some([_, 0, _, _, _, _, _, RTN_UNICAST]), Some(mut rest)) = (body.first_chunk(), body.get(12..)) else {
            return;
        };
        self.hop(rest);
        rest = attrs(rest).find(|(kind, _)| *kind == RTA_MULTIPATH).map_or(&[], |(_, hops)| hops);
        // `struct rtnexthop`: the length, with its attributes behind eight bytes.
        while let Some(len) = rest
            .first_chunk()
            .map(|len| usize::from(u16::from_ne_bytes(*len)))
            .filter(|len| *len >= 8)
        {
            self.hop(rest.get(8..len).unwrap_or(&[]));
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        }
    }

    fn hop(&mut self, data: &[u8]) {
        for (kind, value) in attrs(data) {
            match kind {
                RTA_GATEWAY => self.addresses.extend(address(value)),
                // `struct rtvia`: a family of its own before the address.
                RTA_VIA => self.addresses.extend(address(value.get(2..).unwrap_or(&[]))),
                RTA_NH_ID => {
                    self.nexthops.insert(u32_at(value, 0));
                }
                _ => {}
            }
        }
    }

    fn resolve(&mut self, all: &BTreeMap<u32, Nexthop>) {
        for nexthop in self.nexthops.iter().filter_map(|id| all.get(id)) {
            // A group has no gateway, and no group in it.
            let members = nexthop.members.iter().filter_map(|id| all.get(id));
            self.addresses
                .extend(members.chain([nexthop]).filter_map(|nexthop| nexthop.gateway));
        }
    }
}

/// A next hop with a number, or a group of such.
#[derive(Debug, Default)]
struct Nexthop {
    gateway: Option<IpAddr>,
    members: Vec<u32>,
}

impl Nexthop {
    /// Reads one, with its number.
    fn read(body: &[u8]) -> Option<(u32, Self)> {
        let mut id = None;
        let mut nexthop = Self::default();
        for (kind, value) in attrs(body.get(8..)?) {
            match kind {
                NHA_ID => id = Some(u32_at(value, 0)),
                NHA_GATEWAY => nexthop.gateway = address(value),
                // `struct nexthop_grp`: a number and its weight.
                NHA_GROUP => nexthop.members = value.chunks_exact(8).map(|member| u32_at(member, 0)).collect(),
                _ => {}
            }
        }
        Some((id?, nexthop))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
