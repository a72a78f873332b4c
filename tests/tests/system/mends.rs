//! Each finding of `weir net` prints a command that mends it: run as printed, with a yes on the terminal, the finding is gone.

use super::inspect::{add_filter, add_generic_xdp, build, clsact, hold, json, new_program};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use weir_tests::harness::Test;
use weir_tests::kernel::{self, Kind, ProgramType};
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::traffic;
use weir_tests::weir::{Finished, Weir, program};

pub const TESTS: &[Test] = &[
    Test::new("mends_a_stale_and_an_orphaned_program", stale).alone(),
    Test::new("mends_a_shadowed_program", shadowed).alone(),
    Test::new("mends_generic_xdp", generic).alone(),
    Test::new("mends_a_missing_clsact", missing).alone(),
    Test::new("mends_a_full_map", full).alone(),
    Test::new("mends_what_is_in_another_namespace", elsewhere).alone(),
];

/// The findings of a kind, each with its command.
fn fixes(lab: &Lab, kind: &str) -> Result<Vec<String>> {
    let done = Weir::new(["net", "--json"]).at(lab).run()?;
    let picture: Value = serde_json::from_str(&done.stdout).with_context(|| format!("no JSON: {done}"))?;
    let all = picture["findings"].as_array().cloned().unwrap_or_default();
    let of_kind = all.iter().filter(|f| f["kind"] == kind);
    Ok(of_kind.map(|f| f["fix"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Types a command into a shell on a terminal, where `weir` is installed, and says yes to what it asks.
fn typed(lab: &Lab, command: &str) -> Result<Finished> {
    let bin = lab.dir.path().join("bin");
    if !bin.exists() {
        std::fs::create_dir(&bin)?;
        std::os::unix::fs::symlink(program()?, bin.join("weir"))?;
    }
    lab.dir.write("yes", "y\n")?;
    let path = std::env::var("PATH").unwrap_or_default();
    // `ip netns exec` and `nsenter` find it there, too.
    let done = Weir::new(["-qec", command, "/dev/null"])
        .program(Path::new("/usr/bin/script"))
        .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", bin.display()))
        .env("SHELL", "/bin/sh")
        .stdin_from(&lab.dir.path().join("yes"))
        .at(lab)
        .run()?;
    ensure!(done.status.success(), "`{command}`: {done}");
    Ok(done)
}

/// There is one finding of the kind; its command is run, and then there is none.
fn mended(lab: &Lab, kind: &str) -> Result<Finished> {
    let before = fixes(lab, kind)?;
    ensure!(before.len() == 1, "findings of {kind}: {before:?}");
    let done = typed(lab, &before[0])?;
    let after = fixes(lab, kind)?;
    ensure!(after.is_empty(), "after `{}`: {after:?}\n{done}", before[0]);
    Ok(done)
}

fn stale() -> Result<()> {
    let lab = Lab::new()?;
    clsact(&lab)?;
    let object = build(&lab, "p.o", "tc:lo:ingress { @seen = count(); }")?;
    add_filter(&lab, &object, "ingress", "1")?;
    let current = hold(add_filter(&lab, &object, "ingress", "2")?)?;
    let done = mended(&lab, "stale-program")?;
    ensure!(
        done.stdout.contains("Remove it? [y/N]") && done.stdout.contains("removed `"),
        "{done}"
    );
    json(&lab, &["net"], 0)?;
    drop(current);
    mended(&lab, "no-owner")?;
    let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, "ingress"])?;
    ensure!(!filters.contains("bpf"), "{filters}");
    Ok(())
}

fn shadowed() -> Result<()> {
    let lab = Lab::new()?;
    clsact(&lab)?;
    let always = build(&lab, "always.o", "tc:lo:egress { drop(); }")?;
    let counts = build(&lab, "counts.o", "tc:lo:ingress { @seen = count(); }")?;
    let first = add_filter(&lab, &always, "ingress", "5")?;
    let second = add_filter(&lab, &counts, "ingress", "7")?;
    // Both have owners: what stands in the way goes.
    let owners = (hold(first)?, hold(second)?);
    mended(&lab, "shadowed-program")?;
    let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, "ingress"])?;
    ensure!(!filters.contains("pref 5 ") && filters.contains("pref 7 "), "{filters}");
    drop(owners);
    // Nobody has the second: it goes itself.
    let lab = Lab::new()?;
    clsact(&lab)?;
    let _owner = hold(add_filter(&lab, &always, "ingress", "5")?)?;
    add_filter(&lab, &counts, "ingress", "7")?;
    mended(&lab, "shadowed-program")?;
    let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, "ingress"])?;
    ensure!(filters.contains("pref 5 ") && !filters.contains("pref 7 "), "{filters}");
    Ok(())
}

fn generic() -> Result<()> {
    let lab = Lab::new()?;
    let id = add_generic_xdp(&lab)?;
    let _owner = hold(id)?;
    mended(&lab, "generic-xdp")?;
    // The same program, in native mode.
    let picture = json(&lab, &["net"], 0)?;
    let xdp = &picture["namespaces"][0]["interfaces"][0]["hooks"][0]["programs"][0];
    ensure!(xdp["at"]["mode"] == "native" && xdp["program"]["id"] == id, "{picture:#}");
    // One that a link holds.
    let lab = Lab::new()?;
    let running = Weir::script("xdp:veth0:generic { @x = count(); }").at(&lab).start()?;
    mended(&lab, "generic-xdp")?;
    let links = lab.node.ip(&["link", "show", NODE_IF])?;
    ensure!(!links.contains("xdp"), "{links}");
    running.stop()?.clean().map(drop)
}

fn missing() -> Result<()> {
    let lab = Lab::new()?;
    for (name, peer) in [("veth1", "pod1"), ("veth2", "pod2")] {
        lab.node.ip(&["link", "add", name, "type", "veth", "peer", "name", peer])?;
    }
    let object = build(&lab, "p.o", "tc:lo:ingress { @seen = count(); }")?;
    let add = |iface: &str| -> Result<u32> {
        let before = kernel::objects_of(Kind::Program)?;
        lab.node.tc(&["qdisc", "add", "dev", iface, "clsact"])?;
        lab.node.classify(iface, "ingress", &[], &object)?;
        new_program(&before)
    };
    // Each has a program of its own: its owner will attach another when the qdisc is there.
    let owners = (hold(add(NODE_IF)?)?, hold(add("veth1")?)?);
    mended(&lab, "missing-clsact")?;
    let qdiscs = lab.node.tc(&["qdisc", "show", "dev", "veth2"])?;
    ensure!(qdiscs.contains("clsact"), "{qdiscs}");
    drop(owners);
    // One program serves all of them: it comes to the one that was missed, and works there.
    let lab = Lab::new()?;
    for (name, peer) in [("veth1", "peer1"), ("veth2", "peer2")] {
        lab.add_cable(name, peer)?;
    }
    // Both pass on; with the same code, one would be a version of the other.
    const UNSPEC: i32 = -1;
    const PIPE: i32 = 3;
    let programs = [("first", UNSPEC, 1), ("second", PIPE, 2)].map(|(name, returns, priority)| -> Result<_> {
        let program = kernel::load_program(ProgramType::SchedCls, name, returns)?;
        let id = kernel::program_id(&program)?;
        Ok((program, id, priority))
    });
    let programs = programs.into_iter().collect::<Result<Vec<_>>>()?;
    for iface in [NODE_IF, "veth1"] {
        lab.node.tc(&["qdisc", "add", "dev", iface, "clsact"])?;
        for (_, id, priority) in &programs {
            let pin = format!("/sys/fs/bpf/weir-test-{}", std::process::id());
            let tc = format!("tc filter add dev {iface} egress prio {priority} bpf direct-action object-pinned {pin}");
            typed(&lab, &format!("bpftool prog pin id {id} {pin} && {tc} && rm {pin}"))?;
        }
    }
    let fix = fixes(&lab, "missing-clsact")?;
    ensure!(
        fix.len() == 1 && fix[0].starts_with("sh -c 'tc qdisc add dev veth2 clsact && bpftool "),
        "{fix:?}"
    );
    mended(&lab, "missing-clsact")?;
    let picture = json(&lab, &["net", "veth2"], 0)?;
    let hook = &picture["namespaces"][0]["interfaces"][0]["hooks"][0];
    let order: Vec<&Value> = hook["programs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| &p["program"]["id"])
        .collect();
    ensure!(hook["hook"] == "egress" && order == [programs[0].1, programs[1].1], "{picture:#}");
    let left = std::fs::read_dir("/sys/fs/bpf")?
        .filter_map(Result::ok)
        .any(|e| e.file_name().to_string_lossy().contains("weir-mend"));
    ensure!(!left, "a name is left in /sys/fs/bpf");
    Ok(())
}

fn full() -> Result<()> {
    let lab = Lab::new()?;
    let running = Weir::script("config = { max_map_keys = 5 } tc:veth0:ingress { @by[udp.dport] = count(); }")
        .at(&lab)
        .start()?;
    for port in 1001..=1004 {
        traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), port).into(), 1)?;
    }
    traffic::settle(&lab)?;
    // Five are four and the last one of all.
    let done = mended(&lab, "map-pressure")?;
    ensure!(
        done.stdout.contains("remove:  all entries") && done.stdout.contains("removed 5 entries of AT_by"),
        "{done}"
    );
    json(&lab, &["net"], 0)?;
    // There is room again.
    traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), 1009).into(), 2)?;
    traffic::settle(&lab)?;
    let done = running.stop()?.clean()?;
    ensure!(done.map("@by").get("1009").is_some_and(|n| n == "2"), "{done}");
    // What cannot be emptied, and what nobody has agreed to.
    let running = Weir::script("tc:veth0:ingress { @n = count(); @by[udp.dport] = count(); }")
        .at(&lab)
        .start()?;
    Weir::new(["maps", "@n", "--clear", "--yes"])
        .at(&lab)
        .run()?
        .refused(&["whose entries cannot be removed"])?;
    let asked = Weir::new(["maps", "@by", "--clear"]).at(&lab).run()?;
    ensure!(asked.status.code() == Some(1) && asked.stderr.contains("add `--yes`"), "{asked}");
    Weir::new(["maps", "--clear"]).at(&lab).run()?.refused(&["ID | NAME | PIN"])?;
    Weir::new(["maps", "@by", "--clear", "--yes"]).at(&lab).run()?.clean()?;
    running.stop()?.clean().map(drop)
}

fn elsewhere() -> Result<()> {
    let lab = Lab::new()?;
    clsact(&lab)?;
    let object = build(&lab, "p.o", "tc:lo:ingress { @seen = count(); }")?;
    let id = add_filter(&lab, &object, "ingress", "3")?;
    let done = Weir::new(["net", "--all-netns", "--json"]).at_peer(&lab).run()?;
    let picture: Value = serde_json::from_str(&done.stdout).with_context(|| format!("no JSON: {done}"))?;
    let all = picture["findings"].as_array().cloned().unwrap_or_default();
    let fix = all
        .iter()
        .find(|f| f["program"] == id)
        .map(|f| f["fix"].as_str().unwrap_or_default().to_owned());
    let fix = fix.with_context(|| format!("{picture:#}"))?;
    ensure!(fix.starts_with("ip netns exec "), "{fix}");
    typed(&lab, &fix)?;
    let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, "ingress"])?;
    ensure!(!filters.contains("bpf"), "{filters}");
    Ok(())
}
