//! Settings of `config` blocks and of the environment.

/// A setting.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    pub takes: Takes,
    /// What it is when nobody sets it.
    pub preset: Preset,
    /// Empty for a setting of bpftrace that has no meaning here: it is accepted, and read as it was written.
    pub doc: &'static str,
    /// Whether `print(config)` has it; the rest has no meaning in bpftrace either.
    pub shown: bool,
}

impl Setting {
    #[must_use]
    pub fn has_effect(&self) -> bool {
        !self.doc.is_empty()
    }
}

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A number, the least and the greatest.
    Int(u64, u64),
    Bool,
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
}

impl Takes {
    /// As a clause of a help line.
    #[must_use]
    pub fn expected(self) -> String {
        match self {
            Takes::Int(0, u64::MAX) => "it takes a number".to_owned(),
            Takes::Int(1, u64::MAX) => "it takes a number above 0".to_owned(),
            Takes::Int(least, most) => format!("it takes a number from {least} to {most}"),
            Takes::Bool => "it takes `true` or `false`".to_owned(),
            Takes::Text => "it takes a string".to_owned(),
            Takes::Word(words) => format!("it takes one of `{}`", words.join("`, `")),
        }
    }
}

/// What a setting is that nobody has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    Int(u64),
    Bool(bool),
    Text(&'static str),
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Preset::Int(n) => write!(f, "{n}"),
            Preset::Bool(b) => write!(f, "{b}"),
            Preset::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// Longest string, in bytes: a few of them must fit into the working memory of a program.
pub const MAX_STRLEN: u64 = 8192;

const ANY: Takes = Takes::Int(0, u64::MAX);
const UNSTABLE: Takes = Takes::Word(&["enable", "warn", "error", "disable"]);
const WARN: Preset = Preset::Text("warn");
const ERROR: Preset = Preset::Text("error");
const ENABLE: Preset = Preset::Text("enable");

macro_rules! settings {
    ($($name:literal $takes:expr, $preset:expr, $shown:literal, $doc:literal;)*) => {
        /// Every setting, in the order in which bpftrace prints them.
        pub static SETTINGS: &[Setting] =
            &[$(Setting { name: $name, takes: $takes, preset: $preset, doc: $doc, shown: $shown },)*];
    };
}

settings! {
    "cpp_demangle" Takes::Bool, Preset::Bool(true), true, "";
    "lazy_symbolication" Takes::Bool, Preset::Bool(true), true, "";
    "print_maps_on_exit" Takes::Bool, Preset::Bool(true), true, "whether maps are printed when the script ends";
    "use_blazesym" Takes::Bool, Preset::Bool(false), true, "";
    "show_debug_info" Takes::Bool, Preset::Bool(false), true, "";
    "log_size" ANY, Preset::Int(1_000_000), true, "";
    "max_bpf_progs" ANY, Preset::Int(1024), true, "";
    "max_cat_bytes" ANY, Preset::Int(10240), true, "bytes of a file that `cat()` prints";
    "max_map_keys" Takes::Int(1, u64::MAX), Preset::Int(4096), true, "entries of a map that is not declared with a number of its own";
    "max_probes" ANY, Preset::Int(1024), true, "";
    "max_strlen" Takes::Int(1, MAX_STRLEN), Preset::Int(1024), true, "bytes of a string that is read, the NUL at its end included";
    "on_stack_limit" ANY, Preset::Int(32), true, "";
    "perf_rb_pages" ANY, Preset::Int(0), true, "";
    "str_trunc_trailer" Takes::Text, Preset::Text(".."), true, "what is printed behind a string that was cut off";
    "unstable_import_statement" UNSTABLE, ERROR, true, "";
    "unstable_tseries" UNSTABLE, WARN, true, "";
    "unstable_typeinfo" UNSTABLE, ERROR, true, "";
    "unstable_dw_ustack" UNSTABLE, WARN, true, "";
    "missing_probes" Takes::Word(&["error", "warn", "ignore"]), ERROR, true, "what to do about a probe that is not there: end, warn and go on, or go on";
    "stack_mode" Takes::Word(&["bpftrace", "perf", "raw", "build_id"]), Preset::Text("bpftrace"), true, "how stacks are printed when the script does not say";
    "license" Takes::Text, Preset::Text("GPL"), true, "";
    "cache_user_symbols" Takes::Word(&["PER_PID", "PER_PROGRAM", "NONE"]), Preset::Text("PER_PID"), false, "";
    "unstable_import" UNSTABLE, ENABLE, false, "";
    "unstable_macro" UNSTABLE, ENABLE, false, "";
    "unstable_map_decl" UNSTABLE, ENABLE, false, "";
}

#[must_use]
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name)
}
