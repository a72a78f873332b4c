//! What scripts can name beyond the language: declarations of the natives, embedded in the binary.
//!
//! One declaration per native; the type checker, `weir doc`, `weir -l` and completion are derived from it. The BPF
//! objects themselves are in `weir-ebpf-builtins`.

pub mod blocklist;
pub mod decl;
mod doc;
pub mod duration;
pub mod flows;
pub mod identity;
pub mod prefix;
pub mod retransmits;

pub use decl::{
    Apart, Attach, Column, ColumnType, EventDecl, EventVar, Hook, KeyShape, MapDecl, MapShape, Native, ParamDecl, ParamType, ParamValue,
    ProgramDecl, Room, ValueShape, Writable,
};
pub use doc::{doc, type_word};
pub use duration::{parse_duration, show_duration};
pub use prefix::{PrefixError, as_in_packets, parse_prefix, with_line_feeds, without_comment};

/// Every native, by name.
pub const NATIVES: &[&Native] = &[&blocklist::BLOCKLIST, &flows::FLOWS, &identity::IDENTITY, &retransmits::RETRANSMITS];

/// Whether a text can name something for good. It becomes a file of the kernel's own file system, where names have no dots.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=48).contains(&text.len()) && text.bytes().all(ok) && !text.starts_with('-')
}

/// Finds a native by the name that `use` gives.
#[must_use]
pub fn native(name: &str) -> Option<&'static Native> {
    NATIVES.iter().copied().find(|n| n.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_names_of_their_map() {
        let mut levels = 0;
        for (native, map) in NATIVES.iter().flat_map(|n| n.maps.iter().map(move |m| (n, m))) {
            let names = match map.shape {
                MapShape::Counters(names) | MapShape::Known(names) => names,
                MapShape::ByPrefix(_) | MapShape::Table { .. } => &[],
            };
            for level in map.levels {
                assert!(names.contains(level), "@{}.{} has no `{level}`", native.name, map.name);
                levels += 1;
            }
        }
        assert!(levels > 0);
    }

    #[test]
    fn parameters_that_stand_apart_are_declared() {
        for (native, apart) in NATIVES.iter().flat_map(|n| n.apart.iter().map(move |a| (n, a))) {
            let of = |name: &str| native.params.iter().find(|p| p.name == name).map(|p| p.ty);
            assert!(of(apart.param).is_some(), "{} has no `{}`", native.name, apart.param);
            let (name, words) = apart.with;
            let Some(ParamType::Choice(all)) = of(name) else {
                panic!("`{name}` of {} has no words", native.name)
            };
            assert!(
                !words.is_empty() && words.iter().all(|w| all.contains(w)),
                "{words:?} of {}",
                native.name
            );
        }
    }
}
