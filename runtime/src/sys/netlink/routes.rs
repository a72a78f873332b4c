//! Routes: which way an address goes, and the gateways of default routes.

use super::{NLM_F_ACK, NLM_F_DUMP, Netlink, Request, attrs, u32_at};
use crate::sys::{Result, SysError};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
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

/// How often a list is asked for that changes meanwhile.
const TRIES: usize = 8;

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
    /// What the kernel says, or that it never told a whole list.
    pub fn default_gateways(&mut self) -> Result<BTreeSet<IpAddr>> {
        for _ in 0..TRIES {
            self.torn = false;
            let found = self.default_gateways_once()?;
            if !self.torn {
                return Ok(found);
            }
        }
        let source = io::Error::other("they change faster than they can be read");
        Err(SysError::new("list", "routes", source))
    }

    fn default_gateways_once(&mut self) -> Result<BTreeSet<IpAddr>> {
        let mut found = Gateways::default();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = Request::new(RTM_GETROUTE, NLM_F_DUMP).route(family as u8, 0);
            match self.request(request, |kind, body| {
                if kind == RTM_NEWROUTE {
                    found.route(body);
                }
            }) {
                // A kernel without IPv6 has no such routes.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {}
                result => result.map_err(|e| SysError::new("list", "routes", e))?,
            }
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

#[cfg(test)]
mod tests {
    use super::super::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// A message of the kernel's: its type, flags and body.
    type Answer = (u16, u16, Vec<u8>);

    /// What is found where the kernel answers so, list by list; and how many lists it was asked for.
    fn found(lists: &[Vec<Answer>]) -> (Result<Vec<String>>, usize) {
        let (ours, mut kernel) = UnixStream::pair().unwrap();
        let mut netlink = Netlink {
            socket: ours.into(),
            seq: 1,
            torn: false,
        };
        std::thread::scope(|scope| {
            let kernel = scope.spawn(move || {
                let mut asked = 0;
                let mut buf = [0; 256];
                while kernel.read(&mut buf).unwrap() > 0 {
                    let mut all = Vec::new();
                    for (kind, flags, body) in &lists[asked % lists.len()] {
                        all.extend((16 + body.len() as u32).to_ne_bytes());
                        all.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
                        all.extend(&buf[8..12]);
                        all.extend([0; 4]);
                        all.extend(body);
                    }
                    asked += 1;
                    kernel.write_all(&all).unwrap();
                }
                asked
            });
            let gateways = netlink.default_gateways();
            drop(netlink);
            let gateways = gateways.map(|all| all.iter().map(IpAddr::to_string).collect());
            (gateways, kernel.join().unwrap())
        })
    }

    fn default_route(gateway: [u8; 4]) -> Vec<u8> {
        let request = Request {
            buf: vec![2, 0, 0, 0, 254, 3, 0, RTN_UNICAST, 0, 0, 0, 0],
        };
        request.attr(RTA_GATEWAY, &gateway).buf
    }

    fn done(flags: u16) -> Answer {
        (NLMSG_DONE, flags, vec![0; 4])
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_asked_for_again() {
        let route = |n: u8| (RTM_NEWROUTE, 0, default_route([10, 0, 0, n]));
        let (gateways, asked) = found(&[
            vec![route(1), done(NLM_F_DUMP_INTR)],
            vec![done(0)],
            vec![route(1), route(2), done(0)],
            vec![done(0)],
        ]);
        assert_eq!((gateways.unwrap(), asked), (vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()], 4));
        let (gateways, asked) = found(&[vec![route(1), done(NLM_F_DUMP_INTR)]]);
        let refused = gateways.unwrap_err().to_string();
        assert_eq!(refused, "cannot list `routes`: they change faster than they can be read");
        assert_eq!(asked, 2 * TRIES);
    }

    #[test]
    fn a_missing_family_has_no_routes_and_other_failures_are_told() {
        let route = vec![(RTM_NEWROUTE, 0, default_route([10, 0, 0, 1])), done(0)];
        let failure = |errno: i32| vec![(NLMSG_ERROR, 0, (-errno).to_ne_bytes().to_vec())];
        let (gateways, _) = found(&[route.clone(), failure(libc::EAFNOSUPPORT)]);
        assert_eq!(gateways.unwrap(), ["10.0.0.1"]);
        let (gateways, _) = found(&[route, failure(libc::ENOMEM)]);
        assert_eq!(gateways.unwrap_err().errno(), libc::ENOMEM);
    }
}
