//! Maps that are nearly full, and whether weir may offer to empty them.

use super::findings::{Finding, FindingKind, attachments, label};
use super::{Node, Owner, PRESSURE_PERCENT, Pinned};
use std::collections::BTreeSet;

/// Whether an object is weir's own, or nobody's: no other process holds it, and it is pinned nowhere else.
fn is_ours(owners: &[Owner], pins: &[Pinned]) -> bool {
    // A copy may bear its version: `weir-1.2`.
    let weir = |command: &str| command == "weir" || command.starts_with("weir-");
    owners.iter().all(|o| weir(&o.command)) && pins.iter().all(|pin| pin.instance.is_some())
}

/// Maps that somebody else has, or one of the programs that use them.
fn foreign_maps(node: &Node) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    for placed in attachments(node) {
        let Some(program) = &placed.attachment.program else { continue };
        for map in &program.maps {
            let nobodys = map.owners.is_empty() && map.pins.is_empty() && !program.is_owned();
            // Somebody whom we cannot see may hold it.
            let unknown = nobodys && !node.owners_complete;
            if unknown || !is_ours(&map.owners, &map.pins) || !is_ours(&program.owners, &program.pins) {
                all.insert(map.id);
            }
        }
    }
    all
}

/// Finds what is nearly full.
pub(super) fn judge(node: &Node, out: &mut Vec<Finding>) {
    let mut seen = BTreeSet::new();
    let foreign = foreign_maps(node);
    for placed in attachments(node) {
        let Some(program) = &placed.attachment.program else { continue };
        for map in &program.maps {
            let Some(percent) = map.pressure().filter(|p| *p >= PRESSURE_PERCENT) else {
                continue;
            };
            if !seen.insert(map.id) {
                continue;
            }
            let why = if map.evicts {
                "it makes room by forgetting the keys that were used least recently; if those still matter, its owner must make it larger"
            } else {
                "when it is full, new keys are refused and the program goes without them; its owner must make it larger, or delete keys"
            };
            let message = format!(
                "map `{}` (id {}) of {} is {percent} % full: {} of {}",
                map.name,
                map.id,
                label(program),
                map.entries.unwrap_or(0),
                map.max_entries
            );
            // What others keep in their maps is theirs: connections, policies.
            let clear = if foreign.contains(&map.id) { "" } else { " --clear" };
            out.push(Finding {
                map: Some(map.id),
                fix: format!("weir maps {}{clear}", map.id),
                ..placed.finding(FindingKind::MapPressure, message, why)
            });
        }
    }
}
