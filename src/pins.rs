//! `weir status`, `weir stop NAME`, `weir reload NAME`: natives that stay in force without weir (`pin="NAME"`).

use crate::args::{PinReload, PinStatus, PinStop};
use crate::caps::Needs;
use crate::compile::Job;
use crate::inspect::table::{Style, Table};
use crate::inspect::{fill, json, share};
use crate::out;
use crate::render::{Failure, Kind, Message, Renderer};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_compiler::pipeline::Source;
use weir_runtime::error::short_duration;
use weir_runtime::inspect::MapState;
use weir_runtime::pin::{self, Left, PinError, Record, Status};
use weir_runtime::sys::netns::{self, Netns};
use weir_runtime::{Error, Kernel, Notice, Observer, native};

fn failed(error: PinError) -> Failure {
    let help = match &error {
        PinError::Sys(e) if e.errno() == libc::EACCES => Some(Needs::of_folders().help()),
        PinError::Sys(e) if e.errno() == libc::EPERM => Some(Needs::of_pins().help()),
        _ => error.help(),
    };
    Failure {
        message: error.to_string(),
        help,
    }
}

/// "Nothing is pinned" and "there is no such name" are true only for who could see it.
fn may_look() -> Result<(), Failure> {
    pin::visible().map_err(failed)?;
    match Needs::of_pins().unmet() {
        Some(help) => Err(Failure::new("cannot look at what is pinned").help(help)),
        None => Ok(()),
    }
}

pub fn status(args: &PinStatus) -> Result<ExitCode, Failure> {
    may_look()?;
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => pin::names(),
    };
    let mut all = Vec::new();
    for name in &names {
        match pin::status(name) {
            Ok(status) => all.push(status),
            // Ended since the list was made.
            Err(PinError::Unknown { .. }) if args.name.is_none() => {}
            Err(e) => return Err(failed(e)),
        }
    }
    let text = match () {
        () if args.json => json(&all)?,
        () if all.is_empty() => "nothing is pinned\n".to_owned(),
        () => page(&all, Style::for_stdout()),
    };
    out::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn page(all: &[Status], style: Style) -> String {
    let head = vec!["NAME", "NATIVE", "INTERFACE", "SINCE", "STARTED", "WEIR", "MAPS"];
    let mut table = Table::new(style, head, &[], 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let ago = |then: u64| format!("{} ago", short_duration(Duration::from_secs(now.saturating_sub(then))));
    for status in all {
        let Some(record) = &status.record else {
            let name = &status.name;
            table.row(vec![name.clone()]);
            table.text(format!("  its start was cut short: start it again, or `weir stop {name}`"));
            continue;
        };
        let lists = status.lists.iter().filter(|l| l.entries > 0);
        let lists = lists.map(|l| format!("{} {}", l.name, share(l.entries, l.max, l.entries * 100 / l.max.max(1))));
        let maps: Vec<String> = lists.chain(other_maps(status, &record.native)).collect();
        let native = if record.dry_run { " (dry run)" } else { "" };
        table.row(vec![
            status.name.clone(),
            format!("{}{native}", record.native),
            record.iface.clone(),
            ago(record.since),
            ago(record.started),
            if status.owner_alive {
                format!("pid {}", record.owner.pid)
            } else {
                "gone".to_owned()
            },
            maps.join(", "),
        ]);
        table.text(match status.attached.as_slice() {
            [] => format!(
                "  judges nothing: what it was on is gone; `weir stop {}` removes what is left",
                status.name
            ),
            places => format!("  on {}", places.join(", ")),
        });
    }
    table.render()
}

/// What is in the maps that are no lists, by the names that scripts have for them; of several kernel maps behind one name the fullest.
fn other_maps(status: &Status, native: &str) -> Vec<String> {
    // Of lists the maps say less: they are larger than a list may be.
    let told = |map: &str| status.lists.iter().flat_map(|l| &l.maps).any(|m| m == map);
    let decl = weir_stdlib::native(native);
    let mut fullest: Vec<(String, &MapState)> = Vec::new();
    for map in status.maps.iter().filter(|m| m.entries.is_some_and(|n| n > 0) && !told(&m.name)) {
        let name = match decl.and_then(|native| native.map_of(&map.name)) {
            Some(decl) => format!(".{}", decl.name),
            // A cache of the programs tells nobody anything.
            None if map.evicts => continue,
            None => map.name.to_lowercase(),
        };
        match fullest.iter_mut().find(|(other, _)| *other == name) {
            Some((_, other)) if (other.pressure(), other.entries) < (map.pressure(), map.entries) => *other = map,
            Some(_) => {}
            None => fullest.push((name, map)),
        }
    }
    fullest.iter().map(|(name, map)| format!("{name} {}", fill(map))).collect()
}

pub fn stop(args: &PinStop) -> Result<ExitCode, Failure> {
    may_look()?;
    let name = &args.name;
    let left = Left::open(name);
    let owner = pin::stop(name).map_err(failed)?;
    // An owner writes its own.
    if let (None, Some(left)) = (owner, &left)
        && let Err(error) = native::record_stop(left)
    {
        let warning = Message {
            kind: Kind::Warning,
            text: error.to_string(),
            ..Message::default()
        };
        out::stderr(&Renderer::for_stderr().message(&[], &warning));
    }
    let text = match owner {
        Some(pid) => format!("`{name}` is no longer in force; its weir (pid {pid}) has ended\n"),
        None => format!("`{name}` is no longer in force\n"),
    };
    out::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub fn reload(args: &PinReload) -> Result<ExitCode, Failure> {
    may_look()?;
    let name = &args.name;
    if let Some(answer) = pin::reload(name).map_err(failed)? {
        if !answer.good {
            return Err(Failure::new(answer.text));
        }
        out::stdout(&format!("`{name}`: {}\n", answer.text))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(record) = pin::status(name).map_err(failed)?.record else {
        return Err(Failure::new(format!("the start of `{name}` was cut short")).help(format!("start it again, or `weir stop {name}`")));
    };
    let Some(statement) = &record.statement else {
        return Err(Failure::new(format!("a list of `{name}` came from standard input, which is gone"))
            .help("start it again with the list, or give it as `file(\"PATH\")`"));
    };
    go_there(name, &record)?;
    renew(name, statement)
}

/// Enters the network namespace that the instance's interface is in, unless its statement names one.
fn go_there(name: &str, record: &Record) -> Result<(), Failure> {
    if record.iface.contains('@') || netns::here() == Some(record.netns) {
        return Ok(());
    }
    let gone =
        || Failure::new(format!("the network namespace of `{name}` is gone")).help(format!("`weir stop {name}` removes what is left"));
    let found = netns::find(record.netns).ok_or_else(gone)?;
    let error = |e: weir_runtime::sys::SysError| Failure::new(e.to_string());
    // The compiler and the loader run on this thread.
    netns::enter(&Netns::open(&found).map_err(error)?).map_err(error)
}

/// Starts the instance once more and leaves it: a start takes over what is pinned, with its files as they are now.
fn renew(name: &str, statement: &str) -> Result<ExitCode, Failure> {
    let source = Source {
        name: format!("pin {name}"),
        text: statement.to_owned(),
    };
    let renderer = Renderer::for_stderr();
    let kernel = Kernel::new();
    let job = Job {
        source: &source,
        kernel: &kernel,
        args: Vec::new(),
        allow_unsafe: false,
        helper_errors: false,
        portable: false,
        child: None,
        warnings: false,
        times: false,
        judged_only: false,
    };
    let (Some(object), _) = job.compile(&renderer, true, &[]) else {
        return Ok(ExitCode::FAILURE);
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let observer: Observer = Arc::new(move |notice: &Notice| {
        if notice.is_warning() {
            hear.lock().unwrap_or_else(PoisonError::into_inner).push(notice.clone());
        }
    });
    let entries = native::renew(&object, &kernel, &observer);
    for notice in told.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        out::stderr(&renderer.notice(std::slice::from_ref(&source), notice));
    }
    match entries {
        Ok(()) => {
            out::stdout(&format!("`{name}`: read again, and taken over\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            out::stderr(&renderer.message(&[], &what_is_wrong(&error)));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The statement is not what the person typed just now: no caret into it.
fn what_is_wrong(error: &Error) -> Message<'static> {
    Message {
        kind: Kind::Error,
        text: format!("{error}; what is pinned stays in force as it was"),
        help: error.help(),
        ..Message::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_runtime::pin::{ListState, Owner};

    fn status(name: &str) -> Status {
        Status {
            name: name.to_owned(),
            record: Some(Record {
                native: "blocklist".to_owned(),
                alias: "bl".to_owned(),
                iface: "veth0".to_owned(),
                netns: (0, 0),
                dry_run: false,
                since: 0,
                started: 0,
                owner: Owner {
                    pid: 77,
                    start: 1,
                    pid_namespace: 1,
                },
                statement: None,
                files: Vec::new(),
                sources: std::collections::BTreeMap::new(),
                audit: None,
                version: String::new(),
                settled: true,
            }),
            owner_alive: false,
            attached: Vec::new(),
            lists: Vec::new(),
            maps: Vec::new(),
        }
    }

    #[test]
    fn lists_are_shown_by_what_they_may_have_and_not_by_their_maps() {
        let list = |name: &str, entries, map: &str| ListState {
            name: name.to_owned(),
            entries,
            max: 100,
            maps: vec![map.to_owned()],
        };
        let map = |name: &str, entries| MapState {
            id: 1,
            name: name.to_owned(),
            kind: "lpm_trie".to_owned(),
            raw_kind: 11,
            key_bytes: 8,
            value_bytes: 8,
            max_entries: 200,
            flags: 1,
            entries: Some(entries),
            can_fill: true,
            evicts: false,
            pressure_percent: None,
            owners: Vec::new(),
            pins: Vec::new(),
            used_by: Vec::new(),
        };
        let mut said = status("bad");
        said.maps = vec![
            map("BLOCK4", 2),
            map("HITS4", 1),
            map("ALLOW4", 0),
            map("HITS6", 30),
            map("PAST6", 29),
        ];
        let maps = |status: &Status| page(std::slice::from_ref(status), Style::plain());
        // Of a version that did not say.
        assert!(maps(&said).contains(" block4 2/200 1%, .hits 30/200 15%\n"), "{}", maps(&said));
        said.lists = vec![
            list("ipv4", 50, "BLOCK4"),
            list("ipv6", 0, "BLOCK6"),
            list("allow_ipv4", 1, "ALLOW4"),
        ];
        assert!(
            maps(&said).contains(" ipv4 50/100 50%, allow_ipv4 1/100 1%, .hits 30/200 15%\n"),
            "{}",
            maps(&said)
        );
        let mut pods = status("pods");
        pods.record = pods.record.map(|record| Record {
            native: "identity".to_owned(),
            ..record
        });
        pods.maps = ["CACHE", "CGROUPS", "DENIED"].map(|name| map(name, 3)).into();
        pods.maps[0].evicts = true;
        pods.maps[2].evicts = true;
        assert!(maps(&pods).contains(" cgroups 3/200 1%, .denied 3/200 1%\n"), "{}", maps(&pods));
    }

    #[test]
    fn a_page_says_who_looks_after_what_and_where_it_is() {
        let mut dead = status("bad");
        dead.attached = vec!["xdp:veth0".to_owned()];
        let alive = Status {
            owner_alive: true,
            ..status("pods")
        };
        let cut = Status {
            record: None,
            ..status("cut")
        };
        let page = page(&[dead, alive, cut], Style::plain());
        let lines: Vec<&str> = page.lines().collect();
        assert!(
            lines[1].starts_with("bad") && lines[1].contains("blocklist") && lines[1].ends_with("gone"),
            "{page}"
        );
        assert_eq!(lines[2], "  on xdp:veth0");
        assert!(lines[3].ends_with("pid 77") && lines[4].contains("judges nothing"), "{page}");
        assert!(lines[6].contains("`weir stop cut`"), "{page}");
    }
}
