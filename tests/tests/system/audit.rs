//! The audit log of what has a name: what the next start changes, and what somebody who ends it writes in the place of a weir that is gone.

use super::pins::Name;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use weir_tests::cgroup::Cgroup;
use weir_tests::harness::Test;
use weir_tests::net::Lab;
use weir_tests::weir::{Running, Weir};

pub const TESTS: &[Test] = &[
    Test::new("pin_log_of_lists_that_are_taken_over", lists),
    Test::new("pin_log_of_a_policy_that_is_taken_over", policy),
    Test::new("pin_log_of_a_policy_that_the_kernel_refuses", half_way),
    Test::new("pin_log_of_a_takeover_that_is_cut_short", cut_short),
    Test::new("pin_log_has_no_end_of_what_never_began", never_began),
    Test::new("pin_log_of_a_stop_is_what_its_weir_would_write", stopped),
];

/// The lines of the log, without what is another in each: when, and by which process.
fn log(lab: &Lab) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(lab.dir.path().join("audit.log"))?;
    let line = |line: &str| -> Result<Value> {
        let mut line: Value = serde_json::from_str(line)?;
        let fields = line.as_object_mut().context("it has fields")?;
        ensure!(
            fields.remove("time").is_some() && fields.remove("pid").is_some(),
            "no time or no pid: {line}"
        );
        Ok(line)
    };
    text.lines().map(line).collect()
}

/// What the last lines, one for each list, say of some of their fields.
fn expect(lab: &Lab, lines: &[Value]) -> Result<()> {
    let all = log(lab)?;
    let last = &all[all.len().saturating_sub(lines.len())..];
    for (line, expected) in last.iter().zip(lines) {
        let fields = expected.as_object().context("it has fields")?;
        ensure!(
            fields.iter().all(|(name, value)| line.get(name).unwrap_or(&Value::Null) == value),
            "{line} is not {expected}"
        );
    }
    ensure!(last.len() == lines.len(), "too few lines: {last:?}");
    Ok(())
}

fn blocklist(lab: &Lab, name: &Name, params: &str) -> Result<Running> {
    let files = r#"prefixes=file("bad.txt"), allow=file("good.txt")"#;
    let script = format!(
        r#"use blocklist(iface="veth0", audit="audit.log", protect=false, pin="{}", {files}{params}) as bl;"#,
        name.0
    );
    Weir::script(&script).at(lab).start()
}

/// Of both families, some within others.
fn list(hosts: std::ops::Range<u32>) -> String {
    let wide = "172.16.0.0/16\n172.16.0.0/14\n12.0.0.0/6\n2001:db8::/32\n8000::/1\n";
    let hosts = hosts.map(|i| format!("172.16.{}.{}\n2001:db8:{i:x}::1\n", i >> 8, i & 255));
    wide.to_owned() + &hosts.collect::<String>()
}

fn pinned(name: &Name, file: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/weir/{}/{file}", name.0))
}

/// Takes a pinned file away: what it says is not known any more.
fn forget(name: &Name, file: &str) -> Result<()> {
    let path = pinned(name, file);
    std::fs::remove_file(&path).with_context(|| path.display().to_string())
}

/// Lists in tries and in tables, one set of them or two, also when they have outgrown these.
fn lists() -> Result<()> {
    for (params, from, then) in [
        ("", 30, 30),
        (", atomic=true", 30, 40),
        ("", 700, 700),
        (", atomic=true", 700, 600),
        ("", 600, 6000),
        (", atomic=true", 600, 6000),
        ("", 30, 700),
    ] {
        let what = format!("{from}, then {then} entries of each family{params}");
        taken_over(params, from, then).context(what)?;
    }
    Ok(())
}

fn taken_over(params: &str, from: u32, then: u32) -> Result<()> {
    let (lab, name) = (Lab::new()?, Name::new("lists"));
    let write = |bad: &str, good: &str| {
        lab.dir.write("bad.txt", bad)?;
        lab.dir.write("good.txt", good).map(drop)
    };
    write(&list(0..from), "")?;
    let mut first = blocklist(&lab, &name, params)?;
    expect(
        &lab,
        &[json!({"action": "start", "added": 2 * from + 5, "removed": 0, "add": null})],
    )?;
    write(&list(0..then), "192.0.2.1\n2001:db8::7\n")?;
    let entries = format!("{} in force", 2 * then + 5);
    first.wait_stderr("word of the reload", |text| {
        text.contains("2 added, 0 removed, 2 in force") && (from == then || text.contains(&entries))
    })?;
    let done = first.end_with(Signal::SIGKILL)?;
    ensure!(done.stderr.contains("has outgrown") == (then > 1000), "{done}");

    write(&format!("{}192.0.2.0/24\n::/0\n", list(1..then)), "2001:db8::7\n192.0.2.8\n")?;
    blocklist(&lab, &name, params)?.stop()?;
    let bad = json!({
        "action": "start", "list": "prefixes", "source": "bad.txt", "entries": 2 * then + 5, "added": 2, "removed": 2,
        "add": ["192.0.2.0/24", "::/0"], "remove": ["172.16.0.0/32", "2001:db8::1/128"],
    });
    let good = json!({
        "action": "start", "list": "allow", "source": "good.txt", "entries": 2, "added": 1, "removed": 1,
        "add": ["192.0.2.8/32"], "remove": ["192.0.2.1/32"],
    });
    expect(&lab, &[bad, good])?;

    // A reload when nobody is there is a start, too. The list that has gone is told, the same one has no changes.
    write(&format!("{}192.0.2.0/24\n::/0\n", list(1..then)), "")?;
    let renewed = name.tool("reload")?;
    ensure!(renewed.status.success(), "{renewed}");
    let bad = json!({"action": "start", "list": "prefixes", "added": 0, "removed": 0, "add": null, "remove": null});
    let good = json!({
        "action": "start", "list": "allow", "entries": 0, "added": 0, "removed": 2, "remove": ["192.0.2.8/32", "2001:db8::7/128"],
    });
    expect(&lab, &[bad, good])?;

    // Where it is not known what was in force, nothing is said of it.
    forget(&name, "map_STATE")?;
    write(&list(1..then), "")?;
    blocklist(&lab, &name, params)?.stop()?;
    let unknown =
        |list: &str, entries| json!({"action": "start", "list": list, "entries": entries, "added": null, "removed": null, "add": null});
    expect(&lab, &[unknown("prefixes", 2 * then + 3), unknown("allow", 0)])?;
    name.stop()
}

fn identity(lab: &Lab, name: &Name) -> Result<Running> {
    let script = format!(
        r#"use identity(iface="veth0", policy=file("policy.toml"), audit="audit.log", pin="{}") as id;"#,
        name.0
    );
    Weir::script(&script).at(lab).start()
}

/// What a rule says counts, not what it is called.
fn write_policy(lab: &Lab, group: &Cgroup, default: &str, rules: &[(&str, u16)]) -> Result<()> {
    let rule = |(name, port): &(&str, u16)| format!("[[rule]]\nname = \"{name}\"\nport = {port}\nverdict = \"allow\"\n");
    let rules: String = rules.iter().map(rule).collect();
    let who = format!("[[identity]]\nname = \"web\"\ncgroup = \"{}\"\n", group.path());
    lab.dir.write("policy.toml", &format!("default = \"{default}\"\n{who}{rules}"))
}

fn policy() -> Result<()> {
    let (lab, group, name) = (Lab::new()?, Cgroup::new()?, Name::new("policy"));
    write_policy(&lab, &group, "deny", &[("one", 1)])?;
    let mut first = identity(&lab, &name)?;
    write_policy(&lab, &group, "deny", &[("one", 1), ("two", 2), ("three", 3)])?;
    first.wait_stderr("word of the reload", |text| text.contains("3 in force"))?;
    first.end_with(Signal::SIGKILL)?;
    write_policy(&lab, &group, "allow", &[("three", 3), ("two", 22), ("four", 4)])?;
    identity(&lab, &name)?.stop()?;
    expect(
        &lab,
        &[json!({
            "action": "start", "list": "policy", "source": "policy.toml", "entries": 3, "added": 2, "removed": 2,
            "add": ["allow two", "allow four", "default allow"], "remove": ["allow one", "allow two", "default deny"],
        })],
    )?;
    let renewed = name.tool("reload")?;
    ensure!(renewed.status.success(), "{renewed}");
    let same = json!({"action": "start", "entries": 3, "added": 0, "removed": 0, "add": null, "remove": null});
    expect(&lab, &[same])?;
    forget(&name, "rules")?;
    identity(&lab, &name)?.stop()?;
    let unknown = json!({"action": "start", "entries": 3, "added": null, "removed": null, "add": null, "remove": null});
    expect(&lab, &[unknown])?;
    // Nor is it known then how much has ended.
    forget(&name, "rules")?;
    name.stop()?;
    expect(
        &lab,
        &[json!({"action": "end", "list": "policy", "source": "policy.toml", "entries": 0, "added": null, "removed": null})],
    )
}

/// A policy that was put in force only half way is not written down, whatever is in force now; one with a fault in it changes nothing.
fn half_way() -> Result<()> {
    let (lab, group, name) = (Lab::new()?, Cgroup::new()?, Name::new("half"));
    for (is_frozen, removed) in [(false, json!(1)), (true, Value::Null)] {
        write_policy(&lab, &group, "deny", &[("one", 1)])?;
        let mut running = identity(&lab, &name)?;
        if is_frozen {
            // From now on nobody writes there.
            let done = Command::new("bpftool")
                .args(["map", "freeze", "pinned"])
                .arg(pinned(&name, "map_POLICY"))
                .output()
                .context("bpftool")?;
            ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            write_policy(&lab, &group, "deny", &[("one", 1), ("two", 2)])?;
        } else {
            lab.dir.write("policy.toml", "default = \"never\"\n")?;
        }
        let told = if is_frozen {
            "not all of the new policy is in force"
        } else {
            "the policy in force stays as it is"
        };
        running.wait_stderr("word of the reload", |text| text.contains(told))?;
        running.end_with(Signal::SIGKILL)?;
        name.stop()?;
        expect(&lab, &[json!({"action": "end", "list": "policy", "removed": removed})])?;
    }
    Ok(())
}

/// A takeover that fails half way leaves maps and rules of which nobody knows whose they are; one that is refused leaves all as it was.
fn cut_short() -> Result<()> {
    let (lab, group, name) = (Lab::new()?, Cgroup::new()?, Name::new("short"));
    write_policy(&lab, &group, "deny", &[("one", 1)])?;
    lab.dir.write("bad.txt", "192.0.2.1\n")?;
    let policy = r#"identity(iface="veth0", policy=file("policy.toml")"#;
    let prefixes = r#"blocklist(iface="veth0", protect=false, prefixes=file("bad.txt")"#;
    for (native, list) in [(policy, "policy"), (prefixes, "prefixes")] {
        let weir = |more: &str| Weir::script(&format!(r#"use {native}, audit="audit.log", pin="{}"{more}) as a;"#, name.0)).at(&lab);
        let cut = || -> Result<()> {
            // Not one of those that tell what is in force.
            forget(&name, "map_STATS")?;
            let in_the_way = pinned(&name, "map_STATS");
            std::fs::create_dir(&in_the_way)?;
            weir("").run()?.refused(&["map_STATS"])?;
            Ok(std::fs::remove_dir(&in_the_way)?)
        };
        weir("").start()?.stop()?;
        cut()?;
        weir("").start()?.stop()?;
        let last = log(&lab)?
            .into_iter()
            .rfind(|line| line["list"] == list)
            .context("a line of the list")?;
        ensure!(
            last["action"] == "start" && last["entries"] == 1 && last["added"].is_null() && last["removed"].is_null(),
            "{last}"
        );
        weir("").start()?.stop()?;
        expect(&lab, &[json!({"action": "start", "list": list, "added": 0, "removed": 0})])?;
        cut()?;
        let before = log(&lab)?.len();
        name.stop()?;
        expect(&lab, &[json!({"action": "end", "list": list, "removed": null})])?;
        ensure!(log(&lab)?.len() == before + 1, "{:?}", log(&lab)?);
    }
    let weir = |more: &str| Weir::script(&format!(r#"use {prefixes}, audit="audit.log", pin="{}"{more}) as a;"#, name.0)).at(&lab);
    weir("").start()?.stop()?;
    lab.dir.write("bad.txt", "192.0.2.1\n192.0.2.3\n")?;
    weir(", mode=\"generic\"").run()?.refused(&["native mode"])?;
    name.stop()?;
    expect(&lab, &[json!({"action": "end", "list": "prefixes", "removed": 1})])
}

/// Starts it twice, and changes its files: what its own weir says at the end, and what `weir stop` says when that has been killed.
fn both_ends(lab: &Lab, name: &Name, start: &dyn Fn() -> Result<Running>) -> Result<[Vec<Value>; 2]> {
    let owned = start()?;
    let before = log(lab)?.len();
    name.stop()?;
    owned.wait()?;
    let owners = log(lab)?.split_off(before);
    start()?.end_with(Signal::SIGKILL)?;
    let before = log(lab)?.len();
    name.stop()?;
    Ok([owners, log(lab)?.split_off(before)])
}

fn stopped() -> Result<()> {
    let (lab, group, name) = (Lab::new()?, Cgroup::new()?, Name::new("ended"));
    for (hosts, then, allowed) in [(20, 40, 1), (600, 700, 0)] {
        let start = || {
            lab.dir.write("good.txt", if allowed > 0 { "192.0.2.1\n" } else { "" })?;
            lab.dir.write("bad.txt", &list(0..hosts))?;
            let mut running = blocklist(&lab, &name, "")?;
            lab.dir.write("bad.txt", &list(0..then))?;
            running.wait_stderr("word of the reload", |text| text.contains("0 removed"))?;
            Ok(running)
        };
        let [owners, others] = both_ends(&lab, &name, &start)?;
        ensure!(owners == others, "{owners:?} and {others:?}");
        ensure!(
            owners.len() == 1 + allowed && owners[0]["action"] == "end" && owners[0]["removed"] == 2 * then + 5,
            "{owners:?}"
        );
    }
    // What its owner has said of its lists is known still.
    lab.dir.write("good.txt", "192.0.2.1\n")?;
    blocklist(&lab, &name, "")?.end_with(Signal::SIGKILL)?;
    forget(&name, "map_STATE")?;
    name.stop()?;
    expect(
        &lab,
        &[json!({"list": "prefixes", "removed": 1405}), json!({"list": "allow", "removed": 1})],
    )?;

    let start = || {
        write_policy(&lab, &group, "deny", &[("one", 1)])?;
        let mut running = identity(&lab, &name)?;
        write_policy(&lab, &group, "deny", &[("one", 1), ("two", 2)])?;
        running.wait_stderr("word of the reload", |text| text.contains("2 in force"))?;
        Ok(running)
    };
    let [owners, others] = both_ends(&lab, &name, &start)?;
    ensure!(owners == others, "{owners:?} and {others:?}");
    ensure!(
        owners.len() == 1 && owners[0]["action"] == "end" && owners[0]["removed"] == 2,
        "{owners:?}"
    );
    Ok(())
}

/// What `begin` keeps from being attached has not ended, and what has the name is in force as before.
fn never_began() -> Result<()> {
    let (lab, name) = (Lab::new()?, Name::new("never"));
    let script = |pin: &str| {
        format!(r#"use blocklist(iface="veth0", audit="audit.log", prefixes=192.0.2.1{pin}) as bl; begin {{ printf("begun\n"); exit(); }}"#)
    };
    let pin = format!(r#", pin="{}""#, name.0);
    for (pin, lines) in [("", 0), (&pin, 0), (&pin, 1)] {
        if lines > 0 {
            let first = script(pin).replace("exit();", "");
            Weir::script(&first).at(&lab).start()?.stop()?;
        }
        let done = Weir::script(&script(pin)).at(&lab).run()?;
        ensure!(done.stdout.contains("begun"), "{done}");
        ensure!(log(&lab)?.len() == lines, "{:?}", log(&lab)?);
    }
    name.stop()
}
