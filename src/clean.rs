//! `weir clean`: removes what a killed weir could not remove itself.

use crate::args::Clean;
use crate::caps::Needs;
use crate::inspect::agreed;
use crate::out;
use crate::render::Failure;
use std::fmt::Write;
use std::process::ExitCode;
use weir_runtime::Stale;

pub fn main(args: &Clean) -> Result<ExitCode, Failure> {
    let failure = |e: weir_runtime::sys::SysError| {
        let help = e.help();
        Failure {
            message: e.to_string(),
            help,
        }
    };
    // Without them the namespaces of others stay unseen, and "nothing" would be a guess.
    if let Some(help) = Needs::of_inspection().unmet() {
        return Err(Failure::new("cannot look for filters in all network namespaces and remove them").help(help));
    }
    let found = weir_runtime::stale().map_err(failure)?;
    if found.is_empty() {
        out::stdout("nothing to clean\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    out::stdout(&found.iter().map(line).collect::<String>())?;
    if !args.yes && !agreed()? {
        out::stdout("nothing was removed\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let removed = weir_runtime::clean().map_err(failure)?;
    let noun = if removed == 1 { "filter" } else { "filters" };
    out::stdout(&format!("removed {removed} stale {noun}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn line(stale: &Stale) -> String {
    let mut text = stale.iface.clone();
    if let Some(netns) = &stale.netns {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "@{netns}");
    }
    let direction = if stale.ingress { "ingress" } else { "egress" };
    let _ = writeln!(
        text,
        " {direction} priority {} handle {:#x}: made by a weir that is gone (pid {})",
        stale.priority, stale.handle, stale.owner
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_told_by_where_it_is() {
        let stale = Stale {
            netns: Some("blue".to_owned()),
            iface: "veth0".to_owned(),
            ingress: true,
            priority: 40000,
            handle: 1,
            owner: 77,
        };
        assert_eq!(
            line(&stale),
            "veth0@blue ingress priority 40000 handle 0x1: made by a weir that is gone (pid 77)\n"
        );
    }
}
