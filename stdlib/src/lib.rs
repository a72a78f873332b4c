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
    Attach, Column, ColumnType, EventDecl, EventVar, Hook, KeyShape, MapDecl, MapShape, Native, ParamDecl, ParamType, ParamValue,
    ProgramDecl, Room, ValueShape, Writable,
};
pub use doc::{doc, type_word};
pub use duration::{parse_duration, show_duration};
pub use prefix::{PrefixError, parse_prefix, without_comment};

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
