//! `config` blocks and the settings of the environment: what there is, what each takes.

use super::check::{Checker, nearest};
use super::{Expr, ExprKind, Ty};
use crate::object::{Config, MissingProbes};
use std::collections::HashMap;
use weir_parser::{Diagnostic, Span, ast};

/// The settings of a script.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub config: Config,
    /// What was written for those that have no meaning here.
    ignored: HashMap<&'static str, Value>,
}

/// What a setting is, as `config.NAME` reads it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Int(u64),
    Bool(bool),
    Text(String),
}

impl Settings {
    /// Returns all settings that `config` has, in bpftrace's order.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, Value)> {
        SHOWN_SETTINGS.iter().filter_map(|name| Some((*name, self.read(name)?)))
    }

    /// Returns what a setting is; `None` where there is none of that name.
    pub fn read(&self, name: &str) -> Option<Value> {
        let config = &self.config;
        Some(match name {
            "max_map_keys" => Value::Int(config.max_map_keys.into()),
            "max_strlen" => Value::Int(config.max_strlen.into()),
            "max_cat_bytes" => Value::Int(config.max_cat_bytes),
            "print_maps_on_exit" => Value::Bool(config.print_maps_on_exit),
            "str_trunc_trailer" => Value::Text(config.str_trunc_trailer.clone()),
            "stack_mode" => Value::Text(config.stack_mode.name().to_owned()),
            "missing_probes" => Value::Text(
                match config.missing_probes {
                    MissingProbes::Error => "error",
                    MissingProbes::Warn => "warn",
                    MissingProbes::Ignore => "ignore",
                }
                .to_owned(),
            ),
            _ => match self.ignored.get(name) {
                Some(value) => value.clone(),
                None => IGNORED_SETTINGS.iter().find(|s| s.0 == name)?.2.value(),
            },
        })
    }
}

impl Checker<'_> {
    fn setting_value(value: Value, span: Span) -> Expr {
        match value {
            Value::Int(n) => Self::make(ExprKind::Int(n.cast_signed()), Ty::U64, span),
            Value::Bool(b) => Self::make(ExprKind::Int(i64::from(b)), Ty::Bool, span),
            Value::Text(text) => {
                let cap = u32::try_from(text.len() + 1).unwrap_or(u32::MAX);
                Self::make(ExprKind::Str(text.into_bytes()), Ty::Str { cap }, span)
            }
        }
    }

    /// `config`: a record of all settings.
    pub(super) fn whole_config(&mut self, span: Span) -> Expr {
        let all: Vec<(&str, Value)> = self.settings.all().collect();
        let (mut types, mut parts) = (Vec::new(), Vec::new());
        for (name, value) in all {
            let value = Self::setting_value(value, span);
            types.push((name.to_owned(), value.ty.clone()));
            parts.push(value);
        }
        Self::make(ExprKind::Tuple(parts), Ty::Record(types), span)
    }

    /// `config.max_strlen`: what a setting is.
    pub(super) fn setting(&mut self, name: &ast::Ident, span: Span) -> Expr {
        match self.settings.read(&name.name) {
            Some(value) => Self::setting_value(value, span),
            None => {
                let d = unknown(&name.name, name.span);
                self.error(d);
                self.failed(span)
            }
        }
    }
}

/// Applies the settings of the environment, which win over the script's own.
pub(super) fn environment(settings: &[(String, String)], config: &mut Settings, out: &mut Vec<Diagnostic>) {
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

/// What a record of all settings has. Those that are missing have no meaning in bpftrace 0.27 either.
const SHOWN_SETTINGS: &[&str] = &[
    "cpp_demangle",
    "lazy_symbolication",
    "print_maps_on_exit",
    "use_blazesym",
    "show_debug_info",
    "log_size",
    "max_bpf_progs",
    "max_cat_bytes",
    "max_map_keys",
    "max_probes",
    "max_strlen",
    "on_stack_limit",
    "perf_rb_pages",
    "str_trunc_trailer",
    "unstable_import_statement",
    "unstable_tseries",
    "unstable_typeinfo",
    "unstable_dw_ustack",
    "missing_probes",
    "stack_mode",
    "license",
];

const KNOWN_SETTINGS: &[&str] = &[
    "max_cat_bytes",
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

/// What a setting is that nobody has set.
#[derive(Clone, Copy)]
enum Preset {
    Int(u64),
    Bool(bool),
    Text(&'static str),
}

impl Preset {
    fn value(self) -> Value {
        match self {
            Preset::Int(n) => Value::Int(n),
            Preset::Bool(b) => Value::Bool(b),
            Preset::Text(text) => Value::Text(text.to_owned()),
        }
    }
}

const UNSTABLE: Takes = Takes::Word(&["enable", "warn", "error", "disable"]);
const WARN: Preset = Preset::Text("warn");
const ENABLE: Preset = Preset::Text("enable");

/// Settings of bpftrace that have no meaning here, what they take, and what they are in bpftrace.
const IGNORED_SETTINGS: &[(&str, Takes, Preset)] = &[
    (
        "cache_user_symbols",
        Takes::Word(&["PER_PID", "PER_PROGRAM", "NONE"]),
        Preset::Text("PER_PID"),
    ),
    ("cpp_demangle", Takes::Bool, Preset::Bool(true)),
    ("lazy_symbolication", Takes::Bool, Preset::Bool(true)),
    ("license", Takes::Text, Preset::Text("GPL")),
    ("log_size", Takes::Int, Preset::Int(1_000_000)),
    ("max_bpf_progs", Takes::Int, Preset::Int(1024)),
    ("max_probes", Takes::Int, Preset::Int(1024)),
    ("on_stack_limit", Takes::Int, Preset::Int(32)),
    ("perf_rb_pages", Takes::Int, Preset::Int(0)),
    ("show_debug_info", Takes::Bool, Preset::Bool(false)),
    ("unstable_tseries", UNSTABLE, WARN),
    ("unstable_dw_ustack", UNSTABLE, WARN),
    ("unstable_typeinfo", UNSTABLE, Preset::Text("error")),
    ("unstable_import_statement", UNSTABLE, Preset::Text("error")),
    ("unstable_import", UNSTABLE, ENABLE),
    ("unstable_macro", UNSTABLE, ENABLE),
    ("unstable_map_decl", UNSTABLE, ENABLE),
    ("use_blazesym", Takes::Bool, Preset::Bool(false)),
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

    /// The value as it is read; for what is accepted.
    fn value(self, written: &ast::ExprKind) -> Value {
        match (self, written) {
            (Takes::Bool, ast::ExprKind::Int(n)) => Value::Bool(*n != 0),
            (_, ast::ExprKind::Int(n)) => Value::Int(*n),
            (_, ast::ExprKind::Bool(b)) => Value::Bool(*b),
            (_, ast::ExprKind::Str(text)) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            (_, ast::ExprKind::Name(word)) => Value::Text(word.clone()),
            _ => Value::Text(String::new()),
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
        "max_cat_bytes" => Takes::Int.expected(),
        "max_strlen" => format!("it takes a number from 1 to {MAX_STRLEN}"),
        "print_maps_on_exit" => Takes::Bool.expected(),
        "str_trunc_trailer" => Takes::Text.expected(),
        "missing_probes" => Takes::Word(&["error", "warn", "ignore"]).expected(),
        "stack_mode" => Takes::Word(&["bpftrace", "perf", "raw", "build_id"]).expected(),
        _ => {
            return IGNORED_SETTINGS
                .iter()
                .find(|(name, ..)| *name == key)
                .map(|(_, takes, _)| takes.expected());
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

fn set(name: &str, value: &ast::ExprKind, settings: &mut Settings) -> Setting {
    let config = &mut settings.config;
    let key = name.to_ascii_lowercase();
    let key = key.strip_prefix("bpftrace_").unwrap_or(&key);
    let done = match (key, value) {
        ("max_map_keys", ast::ExprKind::Int(n)) if *n >= 1 => u32::try_from(*n).map(|n| config.max_map_keys = n).is_ok(),
        ("max_strlen", ast::ExprKind::Int(n)) if (1..=MAX_STRLEN).contains(n) => {
            config.max_strlen = u32::try_from(*n).unwrap_or(1024);
            true
        }
        ("max_cat_bytes", ast::ExprKind::Int(n)) => {
            config.max_cat_bytes = *n;
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
            } else if let Some((name, takes, _)) = IGNORED_SETTINGS.iter().find(|(name, ..)| *name == key) {
                if takes.accepts(value) {
                    settings.ignored.insert(name, takes.value(value));
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

pub(super) fn config_block(block: &ast::Config, config: &mut Settings, out: &mut Vec<Diagnostic>) {
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
            Setting::Unknown => out.push(unknown(&name.name, name.span)),
        }
    }
}

/// Says that there is no setting of that name, and which is meant.
pub(super) fn unknown(name: &str, span: Span) -> Diagnostic {
    let d = Diagnostic::error("unknown-config", span, format!("unknown setting `{name}`"));
    let all = KNOWN_SETTINGS
        .iter()
        .copied()
        .chain(IGNORED_SETTINGS.iter().map(|(name, ..)| *name));
    nearest(d, &name.to_ascii_lowercase(), all)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_all_settings_leaves_none_out() {
        assert_eq!(Settings::default().all().count(), SHOWN_SETTINGS.len());
        for known in KNOWN_SETTINGS {
            assert!(SHOWN_SETTINGS.contains(known), "{known}");
        }
    }
}
