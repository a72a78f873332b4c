//! Syntax tree to BPF object: the compiler proper.
//!
//! Pure: no I/O. What it knows of the kernel comes in through [`kernel::KernelInfo`]. The stages, in order:
//! `hir` (names and types) → `plan` (maps, events, programs) → `clif` (Cranelift IR) → `backend` (BPF) → `elf`.
//! Each stage is a module with one entry function, one input type, one output type and a text form.

pub mod backend;
pub mod btf;
mod card;
pub mod clif;
pub mod constants;
pub mod elf;
pub mod hir;
mod import;
pub mod kernel;
pub mod native_maps;
pub mod object;
pub mod overlap;
pub mod pipeline;
pub mod plan;
pub mod tables;
pub mod types;

/// For keys of a few words, of which a compilation looks up thousands. (The crate's own alias would switch on its `std` feature.)
type FxHashMap<K, V> = std::collections::HashMap<K, V, rustc_hash::FxBuildHasher>;
