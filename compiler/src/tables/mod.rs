//! The declaration tables: hooks, builtins, functions, packet fields, statements, settings.
//!
//! Each thing a script can name is declared once, here; type checker, code generator, `-l`, completion and the
//! reference manual are derived from it. Natives are declared in `weir-stdlib`, constants in [`crate::constants`].

mod builtins;
mod cgroups;
mod counters;
mod fields;
mod functions;
pub mod helper;
mod hooks;
mod providers;
mod settings;
mod statements;

pub use builtins::{BUILTINS, Builtin, BuiltinKind, builtin};
pub use cgroups::{AddressFamily, CGROUP_HOOKS, CgroupHook};
pub use counters::{COUNTERS, Counter};
pub use fields::*;
pub use functions::{AggKind, FUNCTIONS, Function, FunctionKind, Is, Verdict, function};
pub use hooks::{Hook, Hooks};
pub use providers::{LEFT_OUT, PROVIDERS, Provider, provider};
pub use settings::{MAX_STRLEN, Preset, SETTINGS, Setting, Takes, setting};
pub use statements::{STATEMENTS, Statement, statement};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_within_a_table() {
        fn unique<'a>(names: impl Iterator<Item = &'a str>) {
            let mut seen = std::collections::HashSet::new();
            for name in names {
                assert!(seen.insert(name), "`{name}` is declared twice");
            }
        }
        unique(BUILTINS.iter().map(|b| b.name));
        unique(FUNCTIONS.iter().map(|f| f.name));
        unique(FIELDS.iter().map(|f| f.name));
        unique(PROVIDERS.iter().map(|p| p.name));
        unique(SETTINGS.iter().map(|s| s.name));
        unique(STATEMENTS.iter().flat_map(|s| s.words).copied());
    }

    #[test]
    fn every_builtin_missing_somewhere_says_what_to_use_instead() {
        for b in BUILTINS.iter().filter(|b| b.hooks != Hooks::ALL) {
            assert!(!b.instead.is_empty(), "{}", b.name);
        }
    }
}
