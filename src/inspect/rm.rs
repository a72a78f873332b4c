//! `weir net rm`: removes one program from one place, after showing it.

use super::args::{Direction, NetRm};
use super::{failed, loaded, owner, refused};
use crate::out;
use crate::render::Failure;
use std::fmt::Write;
use std::io::BufRead;
use std::process::ExitCode;
use weir_runtime::inspect::{Attachment, Removal, Selector, select};

pub fn main(args: &NetRm) -> Result<ExitCode, Failure> {
    let selector = match (args.id, &args.interface, args.direction, args.priority) {
        (Some(id), interface, ..) => Selector::Program {
            id,
            interface: interface.clone(),
        },
        (None, Some(interface), Some(direction), Some(priority)) => Selector::Filter {
            interface: interface.clone(),
            ingress: direction == Direction::Ingress,
            priority,
            handle: args.handle,
        },
        // The command line does not let it come so far.
        _ => {
            return Err(Failure::new(
                "name a filter by interface, direction and priority, or a program by id",
            ));
        }
    };
    let removals = select(&selector).map_err(failed)?;
    let found = removals.found;
    match (&selector, found.len()) {
        (Selector::Filter { .. }, 0) => return Err(nothing_there(args, &removals.present)),
        (Selector::Program { id, .. }, 0) => {
            return Err(
                Failure::new(format!("program {id} is not attached to the network here")).help("`weir net --all-netns` shows what is")
            );
        }
        (Selector::Filter { priority, .. }, n) if n > 1 => {
            return Err(Failure::new(format!("{n} filters have priority {priority} there"))
                .help(format!("add one of: {}", handles(&removals.present, *priority))));
        }
        _ => {}
    }
    out::stdout(&plan(&found))?;
    if let Some(unclear) = found.iter().find(|r| !r.unclear.is_empty()) {
        return Err(which_link(unclear));
    }
    if !args.yes && !agreed()? {
        out::stdout("nothing was removed\n")?;
        return Ok(ExitCode::FAILURE);
    }
    for removal in &found {
        removal.run().map_err(|e| refused(&e))?;
        out::stdout(&format!("removed {} from {}\n", what(&removal.attachment), removal.place))?;
        if let Some(link) = removal.still_listed() {
            out::stdout(&format!(
                "it runs no more, but the kernel lists its link {link} as before until whoever holds that lets go of it\n"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn nothing_there(args: &NetRm, present: &[String]) -> Failure {
    let direction = match args.direction {
        Some(Direction::Egress) => "egress",
        _ => "ingress",
    };
    let handle = args.handle.map_or_else(String::new, |h| format!(" and handle {h:#x}"));
    let failure = Failure::new(format!(
        "no BPF filter with priority {}{handle} on {} {direction}",
        args.priority.unwrap_or(0),
        args.interface.as_deref().unwrap_or_default()
    ));
    if present.is_empty() {
        failure.help("it has no BPF filters in that direction")
    } else {
        failure.help(format!("there are: {}", present.join(", ")))
    }
}

/// The kernel does not say enough to remove exactly what was asked for.
fn which_link(removal: &Removal) -> Failure {
    let links: Vec<String> = removal.unclear.iter().map(u32::to_string).collect();
    let failure = Failure::new(format!(
        "{} is on interfaces of the same number in several network namespaces, and the kernel does not say which of them link {} holds",
        what(&removal.attachment),
        links.join(" or ")
    ));
    let commands: Vec<String> = links.iter().map(|id| format!("`bpftool link detach id {id}`")).collect();
    failure.help(format!(
        "end the process that holds it; or detach a link by hand: {}",
        commands.join(" or ")
    ))
}

/// `--handle 0x1, --handle 0x2`
fn handles(present: &[String], priority: u16) -> String {
    let prefix = format!("priority {priority} handle ");
    let all: Vec<String> = present
        .iter()
        .filter_map(|p| p.strip_prefix(&prefix))
        .map(|rest| format!("--handle {rest}"))
        .collect();
    all.join(", ")
}

fn what(attachment: &Attachment) -> String {
    let at = attachment.at.text();
    match &attachment.program {
        Some(program) => format!("`{}` (id {}, {at})", program.name, program.id),
        None => at,
    }
}

fn plan(found: &[Removal]) -> String {
    let mut text = String::new();
    for removal in found {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{}\n  remove:  {}", removal.place, what(&removal.attachment));
        if let Some(program) = &removal.attachment.program {
            let _ = writeln!(
                text,
                "           tag {}, loaded {}, owner: {}",
                program.tag,
                loaded(program),
                owner(&program.owners, &program.pins, true)
            );
        }
        if removal.remaining.is_empty() {
            let _ = writeln!(text, "  then:    nothing runs there");
        }
        for (i, attachment) in removal.remaining.iter().enumerate() {
            let head = if i == 0 { "then:" } else { "" };
            let _ = writeln!(text, "  {head:<8} {}. {}", i + 1, what(attachment));
        }
    }
    text
}

/// Asks on the terminal.
pub(crate) fn agreed() -> Result<bool, Failure> {
    if !nix::unistd::isatty(std::io::stdin()).unwrap_or(false) {
        return Err(Failure::new("nothing was removed: standard input is no terminal to ask on").help("add `--yes`"));
    }
    out::stderr("Remove it? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|e| Failure::new(format!("cannot read the answer: {e}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_one_priority() {
        let present = [
            "priority 1 handle 0x1 (`a`)",
            "priority 10 handle 0x1",
            "priority 1 handle 0x2 (`b`)",
        ]
        .map(String::from);
        assert_eq!(handles(&present, 1), "--handle 0x1 (`a`), --handle 0x2 (`b`)");
    }
}
