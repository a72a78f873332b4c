//! `blocklist`: parameters → settings, map sizes and tries of its object, and the lists that are kept up to date.

use super::audit::{Audit, Before};
use super::exact::Exact;
use super::lists::{Lists, Origin, Plan, covering, fits, spares};
use super::prefixes::{Prefixes, bytes};
use super::protect::Guard;
use super::{Params, Setup, heartbeat, left, prefixes};
use crate::error::{Error, Notice};
use crate::kernel::Kernel;
use crate::load::Elf;
use crate::pin::Pin;
use weir_ebpf_builtins::blocklist as object;
use weir_stdlib::ParamValue;
use weir_stdlib::blocklist::{AUDIT_DEFAULT, MAX_DEFAULT, MAX_HITS_DEFAULT};

/// IP protocols by their names in `proto`.
const PROTOCOLS: &[(&str, u32)] = &[("tcp", 6), ("udp", 17), ("icmp", 1), ("sctp", 132)];
const TCP: u32 = 6;
const UDP: u32 = 17;

/// Where packets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    tc: bool,
    incoming: bool,
    outgoing: bool,
    /// Bits of `MATCH`.
    matched: u32,
}

impl Way {
    /// Reads `hook`, `direction` and `match`, which is the far end unless it is given.
    fn of(params: &Params<'_>) -> Result<Self, Error> {
        let tc = params.text("hook") == Some("tc");
        let direction = params.text("direction").unwrap_or("ingress");
        let refused = |param: &str, message: String, help: &str| {
            Err(Error::Param {
                message,
                help: Some(help.to_owned()),
                span: params.get(param).map_or(params.0.span, |(_, span)| span),
            })
        };
        if !tc && !matches!(direction, "ingress" | "from_pod") {
            let message = format!("XDP sees what comes in, and `direction` is `{direction}`");
            return refused("direction", message, "add `hook=\"tc\"`: TC sees what goes out, too");
        }
        if tc && params.get("mode").is_some() {
            let message = "TC has no `mode`: it is the same on every interface".to_owned();
            return refused("mode", message, "leave out `mode`, or `hook=\"tc\"`");
        }
        let far = match direction {
            "egress" | "from_pod" => "dst",
            "both" => "either",
            _ => "src",
        };
        Ok(Self {
            tc,
            incoming: matches!(direction, "ingress" | "to_pod" | "both"),
            outgoing: matches!(direction, "egress" | "from_pod" | "both"),
            matched: match params.text("match").unwrap_or(far) {
                "dst" => object::MATCH_DST,
                "either" => object::MATCH_SRC | object::MATCH_DST,
                _ => object::MATCH_SRC,
            },
        })
    }

    /// Tells whether addresses of the far end are looked up in packets that come from there.
    fn comes_from_far(self) -> bool {
        self.incoming && self.matched & object::MATCH_SRC != 0
    }

    /// The same in packets that go there.
    fn goes_to_far(self) -> bool {
        self.outgoing && self.matched & object::MATCH_DST != 0
    }

    /// Tells whether addresses of this end are looked up in packets that come.
    fn comes_to_near(self) -> bool {
        self.incoming && self.matched & object::MATCH_DST != 0
    }

    fn goes_from_near(self) -> bool {
        self.outgoing && self.matched & object::MATCH_SRC != 0
    }

    /// Says at the start what is judged by what.
    fn notice(self, params: &Params<'_>) -> Option<Notice> {
        let direction = match params.text("direction").unwrap_or("ingress") {
            _ if !self.tc => return None,
            "both" => "what comes in and what goes out",
            "egress" | "to_pod" => "what goes out (egress; of a pod's interface: to_pod)",
            _ => "what comes in (ingress; of a pod's interface: from_pod)",
        };
        let address = match self.matched {
            object::MATCH_SRC => "its source",
            object::MATCH_DST => "its destination",
            _ => "either address",
        };
        Some(Notice::Native {
            alias: params.0.alias.clone(),
            message: format!("judges {direction} by {address}"),
            warning: false,
            span: None,
        })
    }
}

pub(super) fn setup(
    params: &Params<'_>,
    netns: Option<&str>,
    event_used: &dyn Fn(&str) -> bool,
    chained: bool,
    kernel: &Kernel,
    pin: Option<&Pin>,
) -> Result<Setup, Error> {
    let way = Way::of(params)?;
    let left = Before::of(pin.filter(|_| Audit::is_wanted(params)), left::begin);
    let mut elf = Elf::parse(&object::OBJECT)?;
    let max = params.int("max").unwrap_or(MAX_DEFAULT);
    let max_hits = u32::try_from(params.int("max_hits").unwrap_or(MAX_HITS_DEFAULT)).unwrap_or(u32::MAX);
    let (block, block_span) = prefixes::param(params, "prefixes")?.unwrap_or((Prefixes::default(), params.0.span));
    let (allow, allow_span) = prefixes::param(params, "allow")?.unwrap_or((Prefixes::default(), params.0.span));
    let nothing_listed = block.v4.is_empty() && block.v6.is_empty();
    fits("prefixes", &block, max, block_span)?;
    fits("allow", &allow, max, allow_span)?;
    let proto = params
        .text("proto")
        .and_then(|word| PROTOCOLS.iter().find(|(name, _)| *name == word));
    let proto = proto.map_or(0, |(_, number)| *number);
    let ports = match params.get("ports") {
        Some((ParamValue::Ports(ports), _)) => Some(ports.clone()),
        _ => None,
    };
    let (dry_run, atomic) = (params.flag("dry_run"), params.flag("atomic"));

    let guard = (params.flag_or("protect", true) && !dry_run).then(|| Guard {
        netns: netns.map(str::to_owned),
        from_far: way.comes_from_far(),
        to_far: way.goes_to_far(),
        to_near: way.comes_to_near(),
        from_near: way.goes_from_near(),
        ports: ports.clone(),
        tcp: proto == 0 || proto == TCP,
        udp: proto == 0 || proto == UDP,
    });
    if let Some(guard) = &guard {
        let allowed = |addr| covering(&allow, addr).is_some();
        spares(&guard.addresses(block_span)?, |addr| covering(&block, addr), allowed, block_span)?;
    }
    let origin = |what: &'static str, ttl| {
        let (value, span) = params.get(what).map_or((None, params.0.span), |(v, span)| (Some(v), span));
        let file = match value {
            Some(ParamValue::File(path)) => Some(path.into()),
            _ => None,
        };
        Origin { what, span, file, ttl }
    };
    let (block_from, allow_from) = (origin("prefixes", params.duration("ttl")), origin("allow", None));

    // A file may get what it has not yet.
    let families = |list: &Prefixes, from: &Origin| {
        let any = from.file.is_some();
        (if any || !list.v4.is_empty() { object::IPV4 } else { 0 }) | (if any || !list.v6.is_empty() { object::IPV6 } else { 0 })
    };
    let beats = way.tc && heartbeat::is_needed(kernel, pin);
    let sets = if atomic { 2 } else { 1 };
    let exact = [Exact::build(&block.v4, sets), Exact::build(&block.v6, sets)];
    let in_tables = (if exact[0].is_some() { object::IPV4 } else { 0 }) | (if exact[1].is_some() { object::IPV6 } else { 0 });
    let [sieve4, sieve6] = exact.each_ref().map(|exact| exact.as_ref().and_then(Exact::sieve_room));
    let sieves = (if sieve4.is_some() { object::IPV4 } else { 0 }) | (if sieve6.is_some() { object::IPV6 } else { 0 });
    let flat = exact[0].as_ref().is_some_and(Exact::is_flat);
    for (symbol, value) in [
        (object::RODATA_EXACT, in_tables),
        (object::RODATA_SIEVE, sieves),
        (object::RODATA_FLAT, if flat { object::IPV4 } else { 0 }),
        (object::RODATA_MATCH, way.matched),
        (object::RODATA_FAMILIES, families(&block, &block_from)),
        (object::RODATA_ALLOW_FAMILIES, families(&allow, &allow_from)),
        (object::RODATA_PROTO, proto),
        (object::RODATA_ONLY_PORTS, u32::from(ports.is_some())),
        (object::RODATA_ATOMIC, u32::from(atomic)),
        (object::RODATA_DRY_RUN, u32::from(dry_run)),
        (object::RODATA_EVENT_DROP, u32::from(event_used("drop"))),
        (object::RODATA_EVENT_ALLOW, u32::from(event_used("allow"))),
        (object::RODATA_CHAIN_NEXT, u32::from(chained)),
        (object::RODATA_NEEDS_HEARTBEAT, u32::from(beats)),
    ] {
        elf.set_rodata(symbol, value)?;
    }

    // While a list is changed, the tries hold the old entries and the new ones.
    let room = u32::try_from(max.saturating_mul(2)).unwrap_or(u32::MAX);
    let second = if atomic { room } else { 1 };
    // The value of an entry is its key.
    let block4 = block.v4.iter().filter(|_| exact[0].is_none());
    let block6 = block.v6.iter().filter(|_| exact[1].is_none());
    let mut fill: Vec<(&'static str, Vec<u8>, Vec<u8>)> = [
        (object::BLOCK4, bytes(block4.map(|e| &e.key))),
        (object::BLOCK6, bytes(block6.map(|e| &e.key))),
        (object::ALLOW4, bytes(allow.v4.iter().map(|e| &e.key))),
        (object::ALLOW6, bytes(allow.v6.iter().map(|e| &e.key))),
    ]
    .into_iter()
    .filter(|(_, keys)| !keys.is_empty())
    .map(|(map, keys)| (map, keys.clone(), keys))
    .collect();
    if let Some(ports) = &ports {
        fill.push((object::PORTS, 0u32.to_ne_bytes().to_vec(), port_bits(ports)));
    }

    let mut notices: Vec<Notice> = way.notice(params).into_iter().collect();
    notices.extend(nothing_listed.then(|| Notice::Native {
        alias: params.0.alias.clone(),
        message: "`prefixes` has no entry: nothing is dropped".to_owned(),
        warning: true,
        span: Some(block_span),
    }));
    let audit = Audit::of(params, AUDIT_DEFAULT, &mut notices);
    let [(nodes4, records4), (nodes6, records6)] = exact.each_ref().map(|exact| exact.as_ref().map_or((1, 1), Exact::room));
    let pinned = params.get("pin").is_some();
    let counted_in_records = exact.each_ref().map(Option::is_some);
    let past = |family: usize| if pinned || counted_in_records[family] { max_hits } else { 1 };
    let lists = Lists::new(Plan {
        alias: params.0.alias.clone(),
        span: params.0.span,
        block: (block_from, block),
        allow: (allow_from, allow),
        max,
        atomic,
        exact,
        guard,
        audit,
        duration: params.duration("duration"),
        notices,
        beats,
        left,
    });
    Ok(Setup {
        elf,
        sizes: vec![
            (object::BLOCK4, room),
            (object::BLOCK6, room),
            (object::SWAP4, second),
            (object::SWAP6, second),
            (object::NODES4, nodes4),
            (object::RECORDS4, records4),
            (object::NODES6, nodes6),
            (object::RECORDS6, records6),
            (object::SIEVE4, sieve4.unwrap_or(1)),
            (object::SIEVE6, sieve6.unwrap_or(1)),
            (object::ALLOW4, room),
            (object::ALLOW6, room),
            (object::HITS4, max_hits),
            (object::HITS6, max_hits),
            (object::PAST4, past(0)),
            (object::PAST6, past(1)),
        ],
        fill,
        skip: Vec::new(),
        keep: &[object::HITS4, object::HITS6, object::PAST4, object::PAST6, object::STATS_MAP],
        lists: Some(lists),
        engine: None,
    })
}

/// `PORTS` with these ports.
fn port_bits(ports: &[(u16, u16)]) -> Vec<u8> {
    let mut words = vec![0u64; object::PORT_WORDS];
    for port in ports.iter().flat_map(|(low, high)| *low..=*high) {
        // The program takes the port as it lies in the packet.
        let bit = usize::from(u16::from_ne_bytes(port.to_be_bytes()));
        words[bit / 64] |= 1 << (bit % 64);
    }
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_bits_in_network_order() {
        let bits = port_bits(&[(443, 443), (0x0102, 0x0103)]);
        let set: Vec<usize> = (0..65536).filter(|bit| bits[bit / 8] >> (bit % 8) & 1 != 0).collect();
        assert_eq!(set, [0x0201, 0x0301, 0xbb01]);
    }
}
