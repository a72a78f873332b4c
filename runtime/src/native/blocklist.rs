//! `blocklist`: parameters → settings, map sizes and tries of its object.

use super::{Params, Setup, prefixes};
use crate::error::Error;
use crate::load::Elf;
use weir_ebpf_builtins::blocklist as object;
use weir_stdlib::blocklist::{MAX_DEFAULT, MAX_HITS_DEFAULT};

pub(super) fn setup(params: &Params<'_>, event_used: &dyn Fn(&str) -> bool, chained: bool) -> Result<Setup, Error> {
    let mut elf = Elf::parse(object::OBJECT)?;
    let max = params.int("max").unwrap_or(MAX_DEFAULT);
    let max_hits = u32::try_from(params.int("max_hits").unwrap_or(MAX_HITS_DEFAULT)).unwrap_or(u32::MAX);
    let (block, block_span) = prefixes::param(params, "prefixes")?.unwrap_or((prefixes::Prefixes::default(), params.0.span));
    let (allow, allow_span) = prefixes::param(params, "allow")?.unwrap_or((prefixes::Prefixes::default(), params.0.span));
    for (list, what, span) in [(&block, "prefixes", block_span), (&allow, "allow", allow_span)] {
        for (count, family) in [(list.v4.len(), "IPv4"), (list.v6.len(), "IPv6")] {
            if count as u64 > max {
                return Err(Error::Param {
                    message: format!("`{what}` has {count} {family} prefixes, but `max` is {max}"),
                    help: Some(format!("add `max={}`", count.next_power_of_two())),
                    span,
                });
            }
        }
    }
    let families = |list: &prefixes::Prefixes| {
        (if list.v4.is_empty() { 0 } else { object::IPV4 }) | (if list.v6.is_empty() { 0 } else { object::IPV6 })
    };
    let matched = match params.text("match") {
        Some("dst") => object::MATCH_DST,
        Some("either") => object::MATCH_SRC | object::MATCH_DST,
        _ => object::MATCH_SRC,
    };
    for (symbol, value) in [
        (object::RODATA_MATCH, matched),
        (object::RODATA_FAMILIES, families(&block)),
        (object::RODATA_ALLOW_FAMILIES, families(&allow)),
        (object::RODATA_DRY_RUN, u32::from(params.flag("dry_run"))),
        (object::RODATA_EVENT_DROP, u32::from(event_used("drop"))),
        (object::RODATA_EVENT_ALLOW, u32::from(event_used("allow"))),
        (object::RODATA_CHAIN_NEXT, u32::from(chained)),
    ] {
        elf.set_rodata(symbol, value)?;
    }
    let max = u32::try_from(max).unwrap_or(u32::MAX);
    let fill = [
        (object::BLOCK4, block.bytes_v4()),
        (object::BLOCK6, block.bytes_v6()),
        (object::ALLOW4, allow.bytes_v4()),
        (object::ALLOW6, allow.bytes_v6()),
    ];
    Ok(Setup {
        elf,
        program: object::PROGRAM,
        sizes: vec![
            (object::BLOCK4, max),
            (object::BLOCK6, max),
            (object::ALLOW4, max),
            (object::ALLOW6, max),
            (object::HITS4, max_hits),
            (object::HITS6, max_hits),
        ],
        // The value of an entry is its key.
        fill: fill
            .into_iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(map, keys)| (map, keys.clone(), keys))
            .collect(),
    })
}
