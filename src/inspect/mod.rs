//! `weir net`, `weir maps`, `weir progs`: what BPF is on this machine, whoever put it there.

pub mod args;
mod maps;
mod net;
mod progs;
mod rm;
pub(crate) mod table;

pub use maps::main as maps;
pub use net::main as net;
pub use progs::main as progs;
pub(crate) use rm::agreed;
pub use rm::main as rm;

use crate::caps::Needs;
use crate::out;
use crate::render::Failure;
use std::time::Duration;
use weir_runtime::error::short_duration;
use weir_runtime::inspect::{self, MapState, Owner, Pinned, Program};
use weir_runtime::sys::SysError;

/// How often `--watch` looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A refusal of the kernel in words, with the capability that is missing.
fn refused(error: &SysError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error.errno() {
        libc::EPERM | libc::EACCES => failure.help(Needs::of_inspection().help()),
        _ => failure,
    }
}

fn failed(error: inspect::Error) -> Failure {
    match error {
        inspect::Error::Sys(e) => refused(&e),
        inspect::Error::NoInterface { name, known } => {
            let failure = Failure::new(format!("no network interface `{name}`"));
            match nearest(&name, known.iter().map(String::as_str)) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None if known.is_empty() => failure,
                None => failure.help(format!("there are: {}", known.join(", "))),
            }
        }
    }
}

/// The name that was probably meant.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |k: &&str| strsim::osa_distance(name, k);
    let best = known.min_by_key(distance)?;
    // Half of it wrong is another name.
    (distance(&best) <= 2 && distance(&best) * 2 < name.chars().count().max(best.chars().count())).then_some(best)
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(format!("internal error: cannot write JSON: {e}")))?;
    Ok(text + "\n")
}

/// Shows a text again every second until nobody reads it any more. Ctrl-C ends it like any program.
fn again(mut text: impl FnMut() -> Result<String, Failure>) -> Result<(), Failure> {
    let is_terminal = nix::unistd::isatty(std::io::stdout()).unwrap_or(false);
    loop {
        let mut page = text()?;
        if is_terminal {
            // Clear, and start at the top.
            page.insert_str(0, "\x1b[H\x1b[2J");
        } else {
            page.push('\n');
        }
        if !out::stdout_is_read(&page)? {
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// `pin bad`, or a path as who sees it writes it.
fn place(pin: &Pinned) -> String {
    if let Some(name) = &pin.instance {
        return format!("pin {name}");
    }
    match pin.path.strip_prefix("/proc/").and_then(|rest| rest.split_once("/root/")) {
        Some((pid, path)) => format!("/{path} in the mount namespace of pid {pid}"),
        None => pin.path.clone(),
    }
}

/// `agent (pid 812)`, a pin, or nobody.
fn owner(owners: &[Owner], pins: &[Pinned], complete: bool) -> String {
    let mut all: Vec<String> = owners.iter().map(|o| format!("{} (pid {})", o.command, o.pid)).collect();
    let mut named: Vec<String> = pins.iter().map(place).collect();
    named.dedup();
    all.extend(named);
    match all.len() {
        0 if complete => "nobody".to_owned(),
        0 => "nobody seen".to_owned(),
        1 | 2 => all.join(", "),
        n => format!("{}, {}, {} more", all[0], all[1], n - 2),
    }
}

fn loaded(program: &Program) -> String {
    format!("{} ago", short_duration(Duration::from_secs(program.age_s)))
}

/// `12 × 45 ns`
fn runs(program: &Program, statistics: bool) -> String {
    match program.run_count {
        0 if statistics => "0".to_owned(),
        0 => String::new(),
        n => format!("{n} × {} ns", program.run_time_ns / n),
    }
}

/// `policy 8/10 80%`
pub(crate) fn fill(map: &MapState) -> String {
    match (map.entries, map.pressure()) {
        (Some(entries), Some(percent)) => share(entries, map.max_entries.into(), percent),
        (Some(entries), None) => format!("{entries}/{}", map.max_entries),
        (None, _) => String::new(),
    }
}

/// `8/10 80%`
pub(crate) fn share(entries: u64, max: u64, percent: u64) -> String {
    format!("{entries}/{max} {percent}%")
}

fn maps_of(program: &Program) -> String {
    const SHOWN: usize = 4;
    let mut words: Vec<String> = program
        .maps
        .iter()
        .take(SHOWN)
        .map(|m| {
            let name = if m.name.is_empty() { m.kind.as_str() } else { m.name.as_str() };
            format!("{name}#{} {}", m.id, fill(m)).trim_end().to_owned()
        })
        .collect();
    if program.maps.len() > SHOWN {
        words.push(format!("{} more", program.maps.len() - SHOWN));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names() {
        let known = ["veth0", "eth0", "lo"];
        assert_eq!(nearest("vth0", known.into_iter()), Some("veth0"));
        assert_eq!(nearest("wlan7", known.into_iter()), None);
        assert_eq!(nearest("xy", ["lo"].into_iter()), None);
    }

    #[test]
    fn owners_in_words() {
        let one = Owner {
            pid: 812,
            command: "agent".into(),
        };
        assert_eq!(owner(std::slice::from_ref(&one), &[], true), "agent (pid 812)");
        let pin = |path: &str, instance: Option<&str>| Pinned {
            path: path.into(),
            instance: instance.map(str::to_owned),
        };
        assert_eq!(owner(&[], &[pin("/sys/fs/bpf/x", None)], true), "/sys/fs/bpf/x");
        let ours = ["link_xdp_3", "prog_blocklist"].map(|file| pin(&format!("/sys/fs/bpf/weir/bad/{file}"), Some("bad")));
        assert_eq!(owner(&[], &ours, true), "pin bad");
        assert_eq!(
            owner(&[], &[pin("/proc/812/root/sys/fs/bpf/weir/bad/prog_x", None)], true),
            "/sys/fs/bpf/weir/bad/prog_x in the mount namespace of pid 812"
        );
        assert_eq!(owner(&[], &[], true), "nobody");
        assert_eq!(owner(&[], &[], false), "nobody seen");
        assert_eq!(
            owner(&[one.clone(), one], &[pin("/p", None), pin("/q", None)], true),
            "agent (pid 812), agent (pid 812), 2 more"
        );
    }
}
