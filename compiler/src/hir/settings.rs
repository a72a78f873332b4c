//! `config` blocks and the settings of the environment: what there is, what each takes.

use super::check::nearest;
use crate::object::{Config, MissingProbes};
use weir_parser::{Diagnostic, Span, ast};

/// Applies the settings of the environment, which win over the script's own.
pub(super) fn environment(settings: &[(String, String)], config: &mut Config, out: &mut Vec<Diagnostic>) {
    for (name, text) in settings {
        let value = match text.parse() {
            Ok(n) => ast::ExprKind::Int(n),
            Err(_) if text == "true" || text == "false" => ast::ExprKind::Bool(text == "true"),
            Err(_) => ast::ExprKind::Str(text.clone().into_bytes()),
        };
        match set(name, &value, config) {
            Setting::Done | Setting::Ignored => {}
            Setting::BadValue => out.push(Diagnostic::error(
                "bad-config",
                Span::default(),
                format!("the environment's `BPFTRACE_{}` cannot be `{text}`", name.to_ascii_uppercase()),
            )),
            Setting::Unknown => out.push(Diagnostic::warning(
                "unknown-config",
                Span::default(),
                format!("the environment's `BPFTRACE_{}` is no setting", name.to_ascii_uppercase()),
            )),
        }
    }
}

const KNOWN_SETTINGS: &[&str] = &[
    "max_map_keys",
    "max_strlen",
    "missing_probes",
    "print_maps_on_exit",
    "str_trunc_trailer",
    "stack_mode",
];

/// The names of all settings that do something.
pub fn settings() -> impl Iterator<Item = &'static str> {
    KNOWN_SETTINGS.iter().copied()
}

/// What a setting takes.
#[derive(Clone, Copy)]
enum Takes {
    Int,
    Bool,
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
}

const UNSTABLE: Takes = Takes::Word(&["enable", "warn", "error", "disable"]);

/// Settings of bpftrace that have no meaning here, and what they take.
const IGNORED_SETTINGS: &[(&str, Takes)] = &[
    ("cache_user_symbols", Takes::Word(&["PER_PID", "PER_PROGRAM", "NONE"])),
    ("cpp_demangle", Takes::Bool),
    ("lazy_symbolication", Takes::Bool),
    ("license", Takes::Text),
    ("log_size", Takes::Int),
    ("max_bpf_progs", Takes::Int),
    ("max_cat_bytes", Takes::Int),
    ("max_probes", Takes::Int),
    ("on_stack_limit", Takes::Int),
    ("perf_rb_pages", Takes::Int),
    ("show_debug_info", Takes::Bool),
    ("unstable_tseries", UNSTABLE),
    ("unstable_dw_ustack", UNSTABLE),
    ("unstable_typeinfo", UNSTABLE),
    ("unstable_import_statement", UNSTABLE),
    ("unstable_import", UNSTABLE),
    ("unstable_macro", UNSTABLE),
    ("unstable_map_decl", UNSTABLE),
    ("use_blazesym", Takes::Bool),
];

impl Takes {
    fn accepts(self, value: &ast::ExprKind) -> bool {
        use ast::ExprKind as E;
        match (self, value) {
            (Takes::Int, E::Int(_)) | (Takes::Bool, E::Bool(_) | E::Int(0 | 1)) | (Takes::Text, E::Str(_) | E::Name(_)) => true,
            (Takes::Word(words), E::Name(word)) => words.iter().any(|w| w.eq_ignore_ascii_case(word)),
            (Takes::Word(words), E::Str(word)) => words.iter().any(|w| w.as_bytes().eq_ignore_ascii_case(word)),
            // The older form of the unstable settings.
            (Takes::Word(_), E::Bool(_) | E::Int(0 | 1)) => true,
            _ => false,
        }
    }

    fn expected(self) -> String {
        match self {
            Takes::Int => "it takes a number".to_owned(),
            Takes::Bool => "it takes `true` or `false`".to_owned(),
            Takes::Text => "it takes a string".to_owned(),
            Takes::Word(words) => format!("it takes one of `{}`", words.join("`, `")),
        }
    }
}

/// What a setting takes, in the words of a help line.
fn expected_value(key: &str) -> Option<String> {
    let known = match key {
        "max_map_keys" => "it takes a number above 0".to_owned(),
        "max_strlen" => format!("it takes a number from 1 to {MAX_STRLEN}"),
        "print_maps_on_exit" => Takes::Bool.expected(),
        "str_trunc_trailer" => Takes::Text.expected(),
        "missing_probes" => Takes::Word(&["error", "warn", "ignore"]).expected(),
        "stack_mode" => Takes::Word(&["bpftrace", "perf", "raw"]).expected(),
        _ => {
            return IGNORED_SETTINGS
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, takes)| takes.expected());
        }
    };
    Some(known)
}

enum Setting {
    Done,
    BadValue,
    Unknown,
    Ignored,
}

fn set(name: &str, value: &ast::ExprKind, config: &mut Config) -> Setting {
    let key = name.to_ascii_lowercase();
    let key = key.strip_prefix("bpftrace_").unwrap_or(&key);
    let done = match (key, value) {
        ("max_map_keys", ast::ExprKind::Int(n)) if *n >= 1 => u32::try_from(*n).map(|n| config.max_map_keys = n).is_ok(),
        ("max_strlen", ast::ExprKind::Int(n)) if (1..=MAX_STRLEN).contains(n) => {
            config.max_strlen = u32::try_from(*n).unwrap_or(1024);
            true
        }
        ("print_maps_on_exit", ast::ExprKind::Bool(b)) => {
            config.print_maps_on_exit = *b;
            true
        }
        ("print_maps_on_exit", ast::ExprKind::Int(n @ 0..=1)) => {
            config.print_maps_on_exit = *n != 0;
            true
        }
        ("str_trunc_trailer", ast::ExprKind::Str(s)) => {
            config.str_trunc_trailer = String::from_utf8_lossy(s).into_owned();
            true
        }
        ("missing_probes", ast::ExprKind::Name(word)) => missing_probes(word.as_bytes(), config),
        ("missing_probes", ast::ExprKind::Str(word)) => missing_probes(word, config),
        ("stack_mode", ast::ExprKind::Name(word)) => stack_mode(word, config),
        ("stack_mode", ast::ExprKind::Str(word)) => stack_mode(&String::from_utf8_lossy(word), config),
        _ => {
            return if KNOWN_SETTINGS.contains(&key) {
                Setting::BadValue
            } else if let Some((_, takes)) = IGNORED_SETTINGS.iter().find(|(name, _)| *name == key) {
                if takes.accepts(value) {
                    Setting::Ignored
                } else {
                    Setting::BadValue
                }
            } else {
                Setting::Unknown
            };
        }
    };
    if done { Setting::Done } else { Setting::BadValue }
}

/// Longest string, in bytes: a few of them must fit into the working memory of a program.
const MAX_STRLEN: u64 = 8192;

fn stack_mode(word: &str, config: &mut Config) -> bool {
    match crate::types::StackMode::by_name(word) {
        Some(mode) => config.stack_mode = mode,
        None => return false,
    }
    true
}

pub(super) fn config_block(block: &ast::Config, config: &mut Config, out: &mut Vec<Diagnostic>) {
    for (name, value) in &block.entries {
        match set(&name.name, &value.kind, config) {
            Setting::Done | Setting::Ignored => {}
            Setting::BadValue => {
                let key = name.name.to_ascii_lowercase();
                let key = key.strip_prefix("bpftrace_").unwrap_or(&key);
                let mut d = Diagnostic::error("bad-config", value.span, format!("`{key}` cannot have this value"));
                if let Some(expected) = expected_value(key) {
                    d = d.help(expected);
                }
                out.push(d);
            }
            Setting::Unknown => {
                let d = Diagnostic::error("unknown-config", name.span, format!("unknown setting `{}`", name.name));
                let all = KNOWN_SETTINGS.iter().copied().chain(IGNORED_SETTINGS.iter().map(|(name, _)| *name));
                out.push(nearest(d, &name.name.to_ascii_lowercase(), all));
            }
        }
    }
}

fn missing_probes(word: &[u8], config: &mut Config) -> bool {
    config.missing_probes = match word {
        b"error" => MissingProbes::Error,
        b"warn" => MissingProbes::Warn,
        b"ignore" => MissingProbes::Ignore,
        _ => return false,
    };
    true
}
