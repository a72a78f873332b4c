//! `weir clean`: removes what a killed weir could not remove itself.

use crate::out;
use crate::render::Failure;
use std::fmt::Write;
use std::process::ExitCode;

pub fn main() -> Result<ExitCode, Failure> {
    let found = weir_runtime::clean().map_err(|e| {
        let help = e.help();
        Failure {
            message: e.to_string(),
            help,
        }
    })?;
    let mut text = String::new();
    for stale in &found {
        let netns = stale
            .netns
            .as_ref()
            .map_or_else(String::new, |n| format!(" in network namespace `{n}`"));
        let noun = if stale.filters == 1 { "filter" } else { "filters" };
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "removed {} stale {noun} from `{}`{netns}", stale.filters, stale.iface);
    }
    if found.is_empty() {
        text.push_str("nothing to clean\n");
    }
    out::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}
