//! `config` blocks and the settings of the environment: what there is, what each takes.

use super::check::{Checker, nearest};
use super::{Expr, ExprKind, Ty};
use crate::object::{Config, MissingProbes};
use crate::tables::{self, MAX_STRLEN, Preset, SETTINGS, Takes};
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
        let shown = SETTINGS.iter().filter(|s| s.shown);
        shown.filter_map(|s| Some((s.name, self.read(s.name)?)))
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
                None => Value::from(tables::setting(name)?.preset),
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

/// The names of all settings that do something.
pub fn settings() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().filter(|s| s.has_effect()).map(|s| s.name)
}

impl From<Preset> for Value {
    fn from(preset: Preset) -> Self {
        match preset {
            Preset::Int(n) => Value::Int(n),
            Preset::Bool(b) => Value::Bool(b),
            Preset::Text(text) => Value::Text(text.to_owned()),
        }
    }
}

impl Takes {
    fn accepts(self, value: &ast::ExprKind) -> bool {
        use ast::ExprKind as E;
        match (self, value) {
            (Takes::Int(..), E::Int(_)) | (Takes::Bool, E::Bool(_) | E::Int(0 | 1)) | (Takes::Text, E::Str(_) | E::Name(_)) => true,
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
            return match tables::setting(key) {
                None => Setting::Unknown,
                Some(s) if s.has_effect() || !s.takes.accepts(value) => Setting::BadValue,
                Some(s) => {
                    settings.ignored.insert(s.name, s.takes.value(value));
                    Setting::Ignored
                }
            };
        }
    };
    if done { Setting::Done } else { Setting::BadValue }
}

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
                if let Some(expected) = tables::setting(key).map(|s| s.takes.expected()) {
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
    nearest(d, &name.to_ascii_lowercase(), SETTINGS.iter().map(|s| s.name))
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
    fn the_table_says_what_a_setting_is_that_nobody_sets() {
        for setting in SETTINGS {
            assert_eq!(
                Settings::default().read(setting.name),
                Some(setting.preset.into()),
                "{}",
                setting.name
            );
        }
    }

    #[test]
    fn what_the_table_says_has_an_effect_is_taken() {
        for setting in SETTINGS {
            let value = match setting.preset {
                Preset::Int(n) => ast::ExprKind::Int(n),
                Preset::Bool(b) => ast::ExprKind::Bool(b),
                Preset::Text(text) => ast::ExprKind::Str(text.into()),
            };
            let taken = set(setting.name, &value, &mut Settings::default());
            let expected = matches!(taken, Setting::Done) == setting.has_effect() && !matches!(taken, Setting::BadValue | Setting::Unknown);
            assert!(expected, "{}", setting.name);
        }
    }

    #[test]
    fn the_limits_of_the_table_are_those_that_hold() {
        for setting in SETTINGS.iter().filter(|s| s.has_effect()) {
            let Takes::Int(least, most) = setting.takes else { continue };
            for outside in [least.checked_sub(1), most.checked_add(1)].into_iter().flatten() {
                let taken = set(setting.name, &ast::ExprKind::Int(outside), &mut Settings::default());
                assert!(matches!(taken, Setting::BadValue), "{} = {outside}", setting.name);
            }
        }
    }
}
