//! `weir net`: the table, its findings, and what changes.

use super::args::Net;
use super::table::{Style, Table};
use super::{LOOK_AGAIN, failed, json, loaded, maps_of, owner, runs};
use crate::out;
use crate::render::Failure;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;
use weir_runtime::inspect::{Attachment, Finding, Interface, Namespace, Node, Place, Scope, collect};

/// The exit code that says that something looks wrong.
const FINDINGS: u8 = 3;

pub fn main(args: &Net) -> Result<ExitCode, Failure> {
    let scope = Scope {
        interfaces: args.interfaces.clone(),
        all_netns: args.all_netns,
    };
    let node = collect(&scope).map_err(failed)?;
    let style = Style::for_stdout();
    if args.watch {
        return watch(&scope, node, args.json, style);
    }
    let text = if args.json { json(&node)? } else { text(&node, style) };
    out::stdout(&text)?;
    Ok(if node.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FINDINGS)
    })
}

const HEAD: [&str; 11] = ["#", "AT", "ID", "PROGRAM", "TYPE", "TAG", "LOADED", "UID", "RUNS", "OWNER", "MAPS"];

/// The whole picture as text.
pub fn text(node: &Node, style: Style) -> String {
    let mut table = Table::new(style, HEAD.to_vec(), &["#", "ID", "UID"], 4);
    for namespace in &node.namespaces {
        if let Some(title) = namespace.title() {
            table.text(style.bold(&title));
        }
        for interface in &namespace.interfaces {
            table.text(interface_line(interface, style));
            if interface.hooks.is_empty() {
                table.text("  nothing");
            }
            for hook in &interface.hooks {
                table.text(match &hook.meaning {
                    Some(meaning) => format!("  {} = {meaning}", hook.hook.name()),
                    None => format!("  {}", hook.hook.name()),
                });
                rows(&mut table, &hook.programs, node);
            }
        }
        for hook in &namespace.hooks {
            table.text(style.bold(hook.hook.name()));
            rows(&mut table, &hook.programs, node);
        }
    }
    for cgroup in &node.cgroups {
        table.text(style.bold(&format!("cgroup {}", cgroup.path)));
        rows(&mut table, &cgroup.programs, node);
    }
    if !node.netfilter.is_empty() {
        table.text(style.bold("netfilter"));
        rows(&mut table, &node.netfilter, node);
    }
    let mut out = if table.has_rows() || node.namespaces.iter().any(|n| !n.interfaces.is_empty()) {
        table.render()
    } else {
        "no BPF programs on the network\n".to_owned()
    };
    if !node.owners_complete && table.has_rows() {
        out.push_str("\nSome processes cannot be seen from here: \"nobody seen\" may be one of them.\n");
    }
    out + &findings(&node.findings, style)
}

fn interface_line(interface: &Interface, style: Style) -> String {
    let mut facts: Vec<String> = Vec::new();
    if !interface.kind.is_empty() {
        facts.push(interface.kind.clone());
    }
    if let Some(peer) = &interface.peer {
        let name = peer.interface.as_deref().unwrap_or("unknown");
        facts.push(match &peer.namespace {
            Some(namespace) => format!("other end {name} in {namespace}"),
            None => format!("other end {name}"),
        });
    }
    if interface.clsact {
        facts.push("clsact".to_owned());
    }
    let line = format!("{}  {}", style.bold(&interface.name), facts.join(", "));
    line.trim_end().to_owned()
}

fn rows(table: &mut Table, attachments: &[Attachment], node: &Node) {
    for (i, attachment) in attachments.iter().enumerate() {
        let mut cells = vec![(i + 1).to_string(), attachment.at.text()];
        if let Some(program) = &attachment.program {
            cells.extend([
                program.id.to_string(),
                program.name.clone(),
                program.kind.clone(),
                program.tag.clone(),
                loaded(program),
                program.uid.to_string(),
                runs(program, node.statistics),
                owner(&program.owners, &program.pins, node.owners_complete),
                maps_of(program),
            ]);
        }
        table.row(cells);
    }
}

/// What looks wrong, why, and what to do.
pub fn findings(all: &[Finding], style: Style) -> String {
    let mut text = String::new();
    for finding in all {
        let netns = finding.netns.as_ref().map_or_else(String::new, |n| format!(" (netns {n})"));
        // Writing to a `String` cannot fail.
        let _ = write!(
            text,
            "\n{}: {}{netns}\n  why: {}\n  fix: {}\n",
            style.warn(finding.kind.name()),
            finding.message,
            finding.why,
            style.bold(&finding.fix)
        );
    }
    text
}

/// One attachment in a line, as the key of what changes.
fn lines(node: &Node) -> BTreeMap<String, serde_json::Value> {
    let mut all = BTreeMap::new();
    let mut add = |namespace: Option<&Namespace>, interface: Option<&str>, hook: &str, attachment: &Attachment| {
        let program = attachment.program.as_ref();
        let title = namespace.and_then(Namespace::title).map_or_else(String::new, |t| format!("{t} "));
        let iface = interface.map_or_else(String::new, |i| format!("{i} "));
        let named = program.map_or_else(String::new, |p| format!("  id {} {}", p.id, p.name));
        let line = format!("{title}{iface}{hook}  {}{named}", attachment.at.text());
        let value = serde_json::json!({
            "netns": namespace.and_then(|n| n.name.clone()),
            "interface": interface,
            "hook": hook,
            "attachment": attachment,
        });
        all.insert(line, value);
    };
    for namespace in &node.namespaces {
        for interface in &namespace.interfaces {
            for hook in &interface.hooks {
                for attachment in &hook.programs {
                    add(Some(namespace), Some(&interface.name), hook.hook.name(), attachment);
                }
            }
        }
        for hook in &namespace.hooks {
            for attachment in &hook.programs {
                add(Some(namespace), None, hook.hook.name(), attachment);
            }
        }
    }
    for cgroup in &node.cgroups {
        for attachment in &cgroup.programs {
            if !matches!(attachment.at, Place::Cgroup { from: Some(_), .. }) {
                add(None, None, &format!("cgroup {}", cgroup.path), attachment);
            }
        }
    }
    for attachment in &node.netfilter {
        add(None, None, "netfilter", attachment);
    }
    all
}

/// Shows the picture, then a line for everything that comes or goes.
fn watch(scope: &Scope, mut node: Node, as_json: bool, style: Style) -> Result<ExitCode, Failure> {
    let first = if as_json {
        serde_json::to_string(&node).map_err(|e| Failure::new(format!("internal error: cannot write JSON: {e}")))? + "\n"
    } else {
        text(&node, style)
    };
    let mut is_read = out::stdout_is_read(&first)?;
    while is_read {
        std::thread::sleep(LOOK_AGAIN);
        let now = collect(scope).map_err(failed)?;
        let change = changes(&node, &now, as_json, style);
        if !change.is_empty() {
            is_read = out::stdout_is_read(&change)?;
        }
        node = now;
    }
    Ok(ExitCode::SUCCESS)
}

fn changes(before: &Node, now: &Node, as_json: bool, style: Style) -> String {
    let (old, new) = (lines(before), lines(now));
    let gone = old.iter().filter(|(line, _)| !new.contains_key(*line)).map(|c| ("-", c));
    let come = new.iter().filter(|(line, _)| !old.contains_key(*line)).map(|c| ("+", c));
    let mut text = String::new();
    for (sign, (line, value)) in gone.chain(come) {
        if as_json {
            let mut value = value.clone();
            value["change"] = if sign == "+" { "attached".into() } else { "detached".into() };
            text += &format!("{value}\n");
        } else {
            text += &format!("{sign} {line}\n");
        }
    }
    let fresh: Vec<Finding> = now.findings.iter().filter(|f| !is_known(f, &before.findings)).cloned().collect();
    if as_json {
        for finding in &fresh {
            text += &format!("{}\n", serde_json::json!({ "change": "finding", "finding": finding }));
        }
    } else {
        text += findings(&fresh, style).trim_start_matches('\n');
    }
    text
}

/// Numbers in a message change all the time; what it is about does not.
fn is_known(finding: &Finding, known: &[Finding]) -> bool {
    let key = |f: &Finding| (f.kind, f.netns.clone(), f.interface.clone(), f.program, f.map);
    known.iter().any(|k| key(k) == key(finding))
}
