//! `weir net`, `weir maps`, `weir progs`: other people's programs are found, judged, and removed one at a time.
//!
//! The programs are foreign as far as weir knows: `tc` and `ip` load them from object files.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use weir_tests::features::{Answer, Feature};
use weir_tests::harness::Need::Has;
use weir_tests::harness::Test;
use weir_tests::kernel::{self, Kind, Object};
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::traffic;
use weir_tests::weir::{Finished, Weir};

pub const TESTS: &[Test] = &[
    Test::new("inspect_a_stale_filter_is_found_and_exactly_it_removed", stale).alone(),
    Test::new("inspect_a_program_that_never_runs_is_found", shadowed).alone(),
    Test::new("inspect_generic_xdp_is_found_and_removed_by_id", generic).alone(),
    Test::new("inspect_our_own_programs_have_an_owner", owned).alone(),
    Test::new("inspect_a_veth_without_what_its_siblings_have", missing).alone(),
    Test::new("inspect_watching_shows_what_comes_and_goes", watch).alone(),
    Test::new("inspect_watching_maps_and_programs_shows_them_again", watch_lists).alone(),
    Test::new("inspect_other_namespaces_are_shown", all_netns).alone(),
    Test::new("inspect_two_namespaces_with_one_number_are_not_mixed_up", same_number).alone(),
    Test::new("inspect_netkit_programs_are_shown_and_removed", netkit)
        .needs(&[Has(Feature::Netkit)])
        .alone(),
    Test::new("inspect_programs_of_namespaces_and_cgroups_are_shown_and_removed", other_hooks).alone(),
    Test::new("inspect_netfilter_programs_are_shown_and_removed", netfilter)
        .needs(&[Has(Feature::NetfilterLink)])
        .alone(),
    // libxdp's dispatcher needs programs that replace functions, which come with fentry.
    Test::new("inspect_members_of_a_dispatcher_are_shown_in_their_order", dispatcher)
        .needs(&[Has(Feature::Fentry)])
        .alone(),
    Test::new("inspect_pods_have_their_names", pods).alone(),
    Test::new("inspect_maps_show_typed_entries", maps).alone(),
    Test::new("inspect_wrong_input_is_refused_in_words", wrong_input).alone(),
    Test::new("inspect_without_permission_names_the_capability", no_permission),
];

/// Too much for an emulated machine.
pub const ONCE: &[Test] = &[Test::new("inspect_a_million_entries_take_seconds", million)];

/// Builds an object for `tc` or `ip` in the lab's folder. `script` names the loopback interface, which every machine has.
pub(super) fn build(lab: &Lab, name: &str, script: &str) -> Result<String> {
    Weir::new(["build", "-e", script, "-o", name]).at(lab).run()?.clean()?;
    Ok(lab.dir.path().join(name).to_string_lossy().into_owned())
}

/// Adds a classifier of an object file to the node's interface; returns the program's id.
pub(super) fn add_filter(lab: &Lab, object: &str, direction: &str, priority: &str) -> Result<u32> {
    let before = kernel::objects_of(Kind::Program)?;
    lab.node.classify(NODE_IF, direction, &["prio", priority], object)?;
    new_program(&before)
}

/// Puts a program that counts on the node's interface, in generic mode, and nobody owns it; returns its id.
pub(super) fn add_generic_xdp(lab: &Lab) -> Result<u32> {
    let object = build(lab, "x.o", "xdp:lo { @seen = count(); }")?;
    let before = kernel::objects_of(Kind::Program)?;
    lab.node
        .ip(&["link", "set", "dev", NODE_IF, "xdpgeneric", "obj", &object, "sec", "xdp.frags"])?;
    new_program(&before)
}

pub(super) fn new_program(before: &std::collections::BTreeSet<Object>) -> Result<u32> {
    let after = kernel::objects_of(Kind::Program)?;
    let new: Vec<u32> = after.difference(before).map(|o| o.id).collect();
    ensure!(new.len() == 1, "expected one new program, found {new:?}");
    Ok(new[0])
}

/// Holds a program, as the agent would that loaded it.
pub(super) fn hold(id: u32) -> Result<OwnedFd> {
    kernel::open(Object { kind: Kind::Program, id }).context("cannot hold the program")
}

pub(super) fn clsact(lab: &Lab) -> Result<()> {
    lab.node.tc(&["qdisc", "add", "dev", NODE_IF, "clsact"]).map(drop)
}

pub(super) fn weir(lab: &Lab, args: &[&str]) -> Result<Finished> {
    Weir::new(args.iter().copied()).at(lab).run()
}

/// Runs with `--json`, expects the exit code, and returns what it says.
pub(super) fn json(lab: &Lab, args: &[&str], code: i32) -> Result<Value> {
    let done = weir(lab, &[args, &["--json"]].concat())?;
    ensure!(done.status.code() == Some(code), "expected exit code {code}: {done}");
    serde_json::from_str(&done.stdout).with_context(|| format!("no JSON: {done}"))
}

/// Kind and program of each finding.
fn findings(picture: &Value) -> Vec<(String, u64)> {
    let all = picture["findings"].as_array().cloned().unwrap_or_default();
    let one = |f: &Value| {
        (
            f["kind"].as_str().unwrap_or_default().to_owned(),
            f["program"].as_u64().unwrap_or(0),
        )
    };
    all.iter().map(one).collect()
}

/// The programs of a hook of the node's interface, in the order that is shown: place and id.
fn on_hook(picture: &Value, hook: &str) -> Vec<(String, u64, u64)> {
    let interfaces = picture["namespaces"][0]["interfaces"].as_array().cloned().unwrap_or_default();
    let interface = interfaces.iter().find(|i| i["name"] == NODE_IF).cloned().unwrap_or_default();
    let hooks = interface["hooks"].as_array().cloned().unwrap_or_default();
    let programs = hooks.iter().find(|h| h["hook"] == hook).map(|h| h["programs"].clone());
    let one = |p: &Value| {
        (
            p["at"]["via"].as_str().unwrap_or_default().to_owned(),
            p["at"]["priority"].as_u64().unwrap_or(0),
            p["program"]["id"].as_u64().unwrap_or(0),
        )
    };
    programs
        .and_then(|p| p.as_array().cloned())
        .unwrap_or_default()
        .iter()
        .map(one)
        .collect()
}

fn stale() -> Result<()> {
    let lab = Lab::new()?;
    clsact(&lab)?;
    // The policy of before the upgrade drops what the new one lets through.
    let old = build(&lab, "old.o", "tc:lo:ingress /udp.dport == 5000/ { @denied = count(); drop(); }")?;
    let new = build(&lab, "new.o", "tc:lo:ingress { @seen = count(); }")?;
    let stale = add_filter(&lab, &old, "ingress", "1")?;
    let current = add_filter(&lab, &new, "ingress", "2")?;
    let _agent = hold(current)?;

    let picture = json(&lab, &["net"], 3)?;
    let order = [
        ("clsact".to_owned(), 1, u64::from(stale)),
        ("clsact".to_owned(), 2, u64::from(current)),
    ];
    ensure!(on_hook(&picture, "ingress") == order, "{picture:#}");
    ensure!(
        findings(&picture) == [("stale-program".to_owned(), u64::from(stale))],
        "{picture:#}"
    );
    let fix = picture["findings"][0]["fix"].as_str().unwrap_or_default();
    ensure!(fix == "weir net rm veth0 ingress --priority 1 --handle 0x1", "{fix}");

    let table = weir(&lab, &["net", NODE_IF])?;
    ensure!(table.status.code() == Some(3), "{table}");
    let at = |word: &str| table.stdout.find(word);
    let rows = (at(&format!(" {stale}  ")), at(&format!(" {current}  ")), at("stale-program"));
    ensure!(matches!(rows, (Some(a), Some(b), Some(c)) if a < b && b < c), "{table}");
    // Both names of the direction.
    let meaning = format!("ingress = what netns {} sends", lab.peer.name());
    ensure!(table.stdout.contains(&meaning), "no `{meaning}` in {table}");

    let socket = traffic::listen_udp(&lab.node, (lab.node4(), 5000).into())?;
    let send = || traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), 5000).into(), 5);
    send()?;
    traffic::settle(&lab)?;
    ensure!(traffic::received(&socket)? == 0, "the stale program lets packets through");

    // Without a yes nothing happens, but what would is shown.
    let asked = weir(&lab, &["net", "rm", NODE_IF, "ingress", "--priority", "1"])?;
    ensure!(asked.status.code() == Some(1) && asked.stderr.contains("--yes"), "{asked}");
    ensure!(
        asked.stdout.contains(&format!("id {stale}")) && asked.stdout.contains("then:"),
        "{asked}"
    );
    ensure!(
        on_hook(&json(&lab, &["net"], 3)?, "ingress").len() == 2,
        "it was removed all the same"
    );

    let words: Vec<&str> = fix.split(' ').skip(1).chain(["--yes"]).collect();
    let removed = weir(&lab, &words)?.clean()?;
    ensure!(removed.stdout.contains("removed"), "{removed}");
    let picture = json(&lab, &["net"], 0)?;
    ensure!(on_hook(&picture, "ingress") == order[1..], "{picture:#}");
    let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, "ingress"])?;
    ensure!(filters.contains("pref 2") && !filters.contains("pref 1 "), "{filters}");
    send()?;
    traffic::settle(&lab)?;
    ensure!(traffic::received(&socket)? == 5, "packets are still dropped");
    // A second time there is nothing to remove, and what is there is named.
    weir(&lab, &words)?
        .refused(&["no BPF filter with priority 1", "priority 2 handle 0x1"])
        .map(drop)
}

fn shadowed() -> Result<()> {
    let lab = Lab::new()?;
    clsact(&lab)?;
    let always = build(&lab, "always.o", "tc:lo:egress { drop(); }")?;
    let never = build(&lab, "never.o", "tc:lo:ingress { @seen = count(); }")?;
    let first = add_filter(&lab, &always, "ingress", "5")?;
    let second = add_filter(&lab, &never, "ingress", "7")?;
    let _owners = (hold(first)?, hold(second)?);
    let picture = json(&lab, &["net", NODE_IF], 3)?;
    ensure!(
        findings(&picture) == [("shadowed-program".to_owned(), u64::from(second))],
        "{picture:#}"
    );
    let finding = &picture["findings"][0];
    ensure!(finding["why"].as_str().is_some_and(|w| w.contains("SHOT")), "{finding:#}");
    ensure!(
        finding["fix"] == "weir net rm veth0 ingress --priority 5 --handle 0x1",
        "{finding:#}"
    );
    // The other way round the first passes on.
    let lab = Lab::new()?;
    clsact(&lab)?;
    let first = add_filter(&lab, &never, "ingress", "5")?;
    let second = add_filter(&lab, &always, "ingress", "7")?;
    let _owners = (hold(first)?, hold(second)?);
    let picture = json(&lab, &["net", NODE_IF], 0)?;
    ensure!(on_hook(&picture, "ingress").len() == 2, "{picture:#}");
    Ok(())
}

fn generic() -> Result<()> {
    let lab = Lab::new()?;
    let id = add_generic_xdp(&lab)?;
    let picture = json(&lab, &["net"], 3)?;
    let expected = [("generic-xdp".to_owned(), u64::from(id)), ("no-owner".to_owned(), u64::from(id))];
    ensure!(findings(&picture) == expected, "{picture:#}");
    let done = weir(&lab, &["net", NODE_IF])?;
    ensure!(done.stdout.contains("xdp generic") && done.stdout.contains("nobody"), "{done}");
    let number = id.to_string();
    let shown = weir(&lab, &["progs", &number])?.clean()?;
    ensure!(shown.stdout.contains("xdp generic") && shown.stdout.contains(NODE_IF), "{shown}");
    weir(&lab, &["net", "rm", NODE_IF, "--id", &number, "--yes"])?.clean()?;
    kernel::assert_gone(&[Object { kind: Kind::Program, id }].into())?;
    ensure!(json(&lab, &["net"], 0)?["findings"] == Value::Array(vec![]), "findings are left");
    Ok(())
}

fn owned() -> Result<()> {
    let lab = Lab::new()?;
    let running = Weir::script("tc:veth0:ingress { @in = count(); } xdp:veth0 { @x = count(); }")
        .at(&lab)
        .start()?;
    let pid = running.pid()?;
    let picture = json(&lab, &["net", NODE_IF], 0)?;
    let via = match Feature::Tcx.probe() {
        Answer::No(_) => "clsact",
        _ => "tcx",
    };
    let ingress = on_hook(&picture, "ingress");
    ensure!(ingress.len() == 1 && ingress[0].0 == via, "{picture:#}");
    let hooks = &picture["namespaces"][0]["interfaces"][0]["hooks"];
    for hook in hooks.as_array().context("no hooks")? {
        let owners = hook["programs"][0]["program"]["owners"].as_array().cloned().unwrap_or_default();
        ensure!(owners.iter().any(|o| o["pid"] == pid && o["command"] == "weir"), "{hook:#}");
    }
    let xdp = on_hook(&picture, "xdp");
    ensure!(xdp.len() == 1, "{picture:#}");
    // A link is detached, and nobody else's.
    let id = xdp[0].2.to_string();
    weir(&lab, &["net", "rm", "--id", &id, "--yes"])?.clean()?;
    let picture = json(&lab, &["net", NODE_IF], 0)?;
    ensure!(
        on_hook(&picture, "xdp").is_empty() && on_hook(&picture, "ingress").len() == 1,
        "{picture:#}"
    );
    running.stop()?.clean().map(drop)
}

fn missing() -> Result<()> {
    let lab = Lab::new()?;
    clsact(&lab)?;
    let object = build(&lab, "p.o", "tc:lo:ingress { @seen = count(); }")?;
    let _first = hold(add_filter(&lab, &object, "ingress", "1")?)?;
    for (name, peer) in [("veth1", "pod1"), ("veth2", "pod2")] {
        lab.node.ip(&["link", "add", name, "type", "veth", "peer", "name", peer])?;
    }
    lab.node.tc(&["qdisc", "add", "dev", "veth1", "clsact"])?;
    let before = kernel::objects_of(Kind::Program)?;
    lab.node.classify("veth1", "ingress", &[], &object)?;
    let _second = hold(new_program(&before)?)?;
    let picture = json(&lab, &["net"], 3)?;
    ensure!(findings(&picture) == [("missing-clsact".to_owned(), 0)], "{picture:#}");
    let finding = &picture["findings"][0];
    ensure!(
        finding["interface"] == "veth2" && finding["fix"] == "tc qdisc add dev veth2 clsact",
        "{finding:#}"
    );
    Ok(())
}

fn watch() -> Result<()> {
    let lab = Lab::new()?;
    clsact(&lab)?;
    let object = build(&lab, "p.o", "tc:lo:ingress { @seen = count(); }")?;
    let mut watching = Weir::new(["net", NODE_IF, "--watch"]).at(&lab).start_unattached()?;
    watching.wait_stdout("the first picture", |text| text.contains("nothing"))?;
    let id = add_filter(&lab, &object, "egress", "3")?;
    let line = format!("veth0 egress  clsact prio 3 handle 0x1 da  id {id} w0_ingress\n");
    watching.wait_stdout("the new filter", |text| text.contains(&format!("+ {line}")))?;
    watching.wait_stdout("its finding", |text| text.contains("no-owner: "))?;
    lab.node.tc(&["filter", "del", "dev", NODE_IF, "egress"])?;
    watching.wait_stdout("its end", |text| text.contains(&format!("- {line}")))?;
    watching.end_with(Signal::SIGINT)?;
    // A reader that goes away ends it, quietly.
    let mut watching = Weir::new(["net", NODE_IF, "--watch", "--json"]).at(&lab).start_unattached()?;
    watching.wait_stdout("the first picture", |text| text.ends_with('\n'))?;
    add_filter(&lab, &object, "ingress", "3")?;
    watching.wait_stdout("the new filter", |text| {
        let mut lines = text.lines().skip(1).filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.any(|v| v["change"] == "attached" && v["interface"] == NODE_IF && v["attachment"]["at"]["priority"] == 3)
    })?;
    watching.end_with(Signal::SIGTERM).map(drop)
}

fn watch_lists() -> Result<()> {
    let lab = Lab::new()?;
    let running = Weir::script("tc:veth0:ingress { @watched[ip.src] = count(); }").at(&lab).start()?;
    for (command, line) in [
        (&["maps"][..], "AT_watched "),
        (&["progs"], "w0_ingress "),
        (&["maps", "@watched"], "AT_watched (id "),
    ] {
        let mut watching = Weir::new(command.iter().copied().chain(["--watch"])).at(&lab).start_unattached()?;
        watching.wait_stdout("a second page", |text| text.matches(line).count() >= 2)?;
        let done = watching.end_with(Signal::SIGINT)?;
        ensure!(done.stderr.is_empty() && !done.stdout.contains('\x1b'), "{done}");
    }
    // What is watched goes: that is said, and is the end.
    let mut watching = Weir::new(["maps", "@watched", "--watch"]).at(&lab).start_unattached()?;
    watching.wait_stdout("a first page", |text| text.contains("AT_watched"))?;
    running.stop()?.clean()?;
    let done = watching.wait()?;
    ensure!(
        done.status.code() == Some(1) && done.stderr.contains("no BPF map is called `@watched`"),
        "{done}"
    );
    Ok(())
}

/// A link to XDP tells the number of the interface, and not its namespace.
fn same_number() -> Result<()> {
    const PASS: i32 = 2;
    let lab = Lab::new()?;
    let program = kernel::load_program(kernel::ProgramType::Xdp, "twice", PASS)?;
    let id = kernel::program_id(&program)?.to_string();
    for ns in [&lab.node, &lab.peer] {
        ns.ip(&["link", "add", "same", "index", "77", "type", "veth", "peer", "name", "other"])?;
    }
    let links = [
        kernel::attach_xdp(&lab.node, "same", &program)?,
        kernel::attach_xdp(&lab.peer, "same", &program)?,
    ];
    let refused = weir(&lab, &["net", "rm", "same", "--id", &id, "--yes"])?;
    ensure!(
        refused.status.code() == Some(1)
            && refused.stderr.contains("the kernel does not say which of them link")
            && refused.stderr.contains("bpftool link detach id"),
        "{refused}"
    );
    let on = |ns: &weir_tests::net::Netns| -> Result<bool> { Ok(ns.ip(&["link", "show", "same"])?.contains("xdp")) };
    ensure!(on(&lab.node)? && on(&lab.peer)?, "one of them was removed");
    // Both at once leave no doubt.
    let removed = weir(&lab, &["net", "rm", "--id", &id, "--yes"])?.clean()?;
    ensure!(removed.stdout.matches("removed `twice`").count() == 2, "{removed}");
    ensure!(!on(&lab.node)? && !on(&lab.peer)?, "one is left");
    drop(links);
    Ok(())
}

fn all_netns() -> Result<()> {
    let lab = Lab::new()?;
    clsact(&lab)?;
    let object = build(&lab, "p.o", "tc:lo:ingress { @seen = count(); }")?;
    let id = add_filter(&lab, &object, "ingress", "3")?;
    // From the peer's namespace the node's is another one.
    let done = Weir::new(["net", "--all-netns", "--json"]).at_peer(&lab).run()?;
    let picture: Value = serde_json::from_str(&done.stdout).with_context(|| format!("no JSON: {done}"))?;
    let namespaces = picture["namespaces"].as_array().context("no namespaces")?;
    let node = namespaces
        .iter()
        .find(|n| n["name"] == lab.node.name())
        .context("the node is not shown")?;
    ensure!(node["interfaces"][0]["hooks"][0]["programs"][0]["program"]["id"] == id, "{node:#}");
    let fix = format!(
        "ip netns exec {} weir net rm veth0 ingress --priority 3 --handle 0x1",
        lab.node.name()
    );
    let all = picture["findings"].as_array().cloned().unwrap_or_default();
    ensure!(all.iter().any(|f| f["program"] == id && f["fix"] == fix.as_str()), "{picture:#}");
    // Without the switch it is not, and the peer has none.
    let done = Weir::new(["net"]).at_peer(&lab).run()?;
    ensure!(!done.stdout.contains(lab.node.name()), "{done}");
    // By id it is found in any namespace.
    let number = id.to_string();
    Weir::new(["net", "rm", "--id", &number, "--yes"]).at_peer(&lab).run()?.clean()?;
    let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, "ingress"])?;
    ensure!(!filters.contains("bpf"), "{filters}");
    Ok(())
}

fn netkit() -> Result<()> {
    const NEXT: i32 = -1;
    let lab = Lab::new()?;
    lab.node.ip(&["link", "add", "nkhost", "type", "netkit"])?;
    let program = kernel::load_program(kernel::ProgramType::SchedCls, "into_pod", NEXT)?;
    let link = kernel::attach_netkit(&lab.node, "nkhost", &program)?;
    let id = kernel::program_id(&program)?;
    let picture = json(&lab, &["net", "nkhost"], 0)?;
    let interface = &picture["namespaces"][0]["interfaces"][0];
    let hook = &interface["hooks"][0];
    ensure!(
        interface["kind"] == "netkit" && interface["peer"]["interface"].is_string(),
        "{picture:#}"
    );
    ensure!(
        hook["hook"] == "netkit_primary" && hook["programs"][0]["at"]["via"] == "netkit" && hook["programs"][0]["program"]["id"] == id,
        "{picture:#}"
    );
    let done = weir(&lab, &["net", "nkhost"])?.clean()?;
    ensure!(
        done.stdout.contains("netkit primary = what ") && done.stdout.contains("into_pod"),
        "{done}"
    );
    weir(&lab, &["net", "rm", "nkhost", "--id", &id.to_string(), "--yes"])?.clean()?;
    let picture = json(&lab, &["net", "nkhost"], 0)?;
    ensure!(
        picture["namespaces"][0]["interfaces"][0]["hooks"] == Value::Array(vec![]),
        "{picture:#}"
    );
    drop(link);
    Ok(())
}

/// The ids of all programs in a picture: maps have ids, too.
fn programs(part: &Value, ids: &mut BTreeSet<u64>) {
    match part {
        Value::Object(fields) => {
            ids.extend(fields.get("program").and_then(|p| p["id"].as_u64()));
            fields.values().for_each(|value| programs(value, ids));
        }
        Value::Array(values) => values.iter().for_each(|value| programs(value, ids)),
        _ => {}
    }
}

/// What hangs on no interface: socket lookup, flow dissector, cgroups.
fn other_hooks() -> Result<()> {
    use kernel::ProgramType::{CgroupSkb, FlowDissector, SkLookup};
    const PASS: i32 = 1;
    let lab = Lab::new()?;
    let group = weir_tests::cgroup::Cgroup::new()?;
    let mut ids = Vec::new();
    let mut held: Vec<OwnedFd> = Vec::new();
    for (kind, name, hook) in [(SkLookup, "pick_socket", "sk_lookup"), (FlowDissector, "dissect", "flow_dissector")] {
        // A flow dissector says 0 for what it has dissected.
        let program = kernel::load_program(kind, name, i32::from(kind == SkLookup))?;
        held.push(kernel::attach_netns(&lab.node, kind, &program)?);
        let id = kernel::program_id(&program)?;
        held.push(program);
        ids.push(id);
        let picture = json(&lab, &["net"], 0)?;
        let hooks = picture["namespaces"][0]["hooks"].as_array().cloned().unwrap_or_default();
        let found = hooks
            .iter()
            .find(|h| h["hook"] == hook)
            .with_context(|| format!("no {hook}: {picture:#}"))?;
        let program = &found["programs"][0];
        ensure!(
            program["at"]["via"] == "netns" && program["program"]["name"] == name && program["program"]["id"] == id,
            "{found:#}"
        );
        ensure!(program["program"]["owners"][0]["pid"] == std::process::id(), "{found:#}");
    }
    let path = group.path();
    for name in ["first", "second"] {
        let program = kernel::load_program(CgroupSkb, name, PASS)?;
        held.push(kernel::attach_cgroup(group.dir(), &program)?);
        ids.push(kernel::program_id(&program)?);
        held.push(program);
    }
    let cgroup = |picture: &Value| -> Vec<Value> {
        let all = picture["cgroups"].as_array().cloned().unwrap_or_default();
        let ours = all.into_iter().find(|c| c["path"] == path);
        ours.and_then(|c| c["programs"].as_array().cloned()).unwrap_or_default()
    };
    let picture = json(&lab, &["net"], 0)?;
    let names: Vec<Value> = cgroup(&picture).iter().map(|p| p["program"]["name"].clone()).collect();
    ensure!(names == ["first", "second"], "{picture:#}");
    ensure!(cgroup(&picture)[0]["at"]["attach_type"] == "inet_ingress", "{picture:#}");
    let text = weir(&lab, &["net"])?.clean()?;
    for words in [
        "socket lookup",
        "pick_socket",
        "flow dissector",
        "dissect",
        &path,
        "first",
        "second",
    ] {
        ensure!(text.stdout.contains(words), "no `{words}`: {text}");
    }
    // By id, each alone.
    for (i, id) in ids.iter().enumerate() {
        weir(&lab, &["net", "rm", "--id", &id.to_string(), "--yes"])?.clean()?;
        let picture = json(&lab, &["net"], 0)?;
        let mut shown = BTreeSet::new();
        programs(&picture, &mut shown);
        let there = |id: &u32| shown.contains(&u64::from(*id));
        ensure!(
            ids[..=i].iter().all(|id| !there(id)) && ids[i + 1..].iter().all(there),
            "after {id}: {picture:#}"
        );
    }
    Ok(())
}

fn netfilter() -> Result<()> {
    const ACCEPT: i32 = 1;
    let lab = Lab::new()?;
    let mut held: Vec<OwnedFd> = Vec::new();
    // Attached in the other order than that in which they run.
    for (name, priority) in [("late", 100), ("early", -50)] {
        let program = kernel::load_program(kernel::ProgramType::Netfilter, name, ACCEPT)?;
        held.push(kernel::attach_netfilter(&lab.node, priority, &program)?);
        held.push(program);
    }
    let shown = |picture: &Value| -> Vec<(String, i64)> {
        let all = picture["netfilter"].as_array().cloned().unwrap_or_default();
        let of = |a: &Value| Some((a["program"]["name"].as_str()?.to_owned(), a["at"]["priority"].as_i64()?));
        all.iter().filter_map(of).collect()
    };
    let picture = json(&lab, &["net"], 0)?;
    ensure!(
        shown(&picture) == [("early".to_owned(), -50), ("late".to_owned(), 100)],
        "{picture:#}"
    );
    let text = weir(&lab, &["net"])?.clean()?;
    for words in ["netfilter", "early", "late", "ip input prio -50", "ip input prio 100"] {
        ensure!(text.stdout.contains(words), "no `{words}`: {text}");
    }
    let id = kernel::program_id(&held[1])?;
    let done = weir(&lab, &["net", "rm", "--id", &id.to_string(), "--yes"])?.clean()?;
    let words = "it runs no more, but the kernel lists its link";
    ensure!(done.stdout.contains(words), "no `{words}`: {done}");
    // It is true, though nothing but the packets tells.
    let (kind, other) = (Kind::Program, kernel::program_id(&held[3])?);
    let stats = kernel::enable_stats()?;
    traffic::settle(&lab)?;
    let runs = [id, other].map(|id| kernel::run_stats(Object { kind, id }).map(|(_, runs)| runs));
    drop(stats);
    let [gone, there] = runs;
    let (gone, there) = (gone?, there?);
    ensure!(gone == 0 && there > 0, "the removed one ran {gone} times, the other {there}");
    held.drain(..2);
    let picture = json(&lab, &["net"], 0)?;
    ensure!(shown(&picture) == [("early".to_owned(), -50)], "{picture:#}");
    Ok(())
}

fn dispatcher() -> Result<()> {
    // Programs of the package itself, by what they let pass.
    let folder = bpf_folder("xdpfilt_alw_tcp.o").context("the objects of xdp-tools are nowhere below /usr/lib")?;
    let folder = folder.display();
    let lab = Lab::new()?;
    // Each with a file system of pins of its own, which goes with the process: then only the kernel knows who is a member.
    let script = format!(
        "mount -t bpf bpf /sys/fs/bpf && xdp-loader load -m skb -P 30 {NODE_IF} {folder}/xdpfilt_alw_tcp.o && \
         xdp-loader load -m skb -P 20 {NODE_IF} {folder}/xdpfilt_alw_udp.o && exec {} net {NODE_IF} --json",
        weir_tests::weir::program()?.display()
    );
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", lab.node.name(), "sh", "-c", &script])
        .output()
        .context("cannot start `ip`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let picture: Value = serde_json::from_str(&text).with_context(|| format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    let xdp = on_hook(&picture, "xdp");
    let via: Vec<&str> = xdp.iter().map(|(via, ..)| via.as_str()).collect();
    ensure!(via == ["xdp", "xdp_member", "xdp_member"], "{picture:#}");
    let programs = &picture["namespaces"][0]["interfaces"][0]["hooks"][0]["programs"];
    let name = |i: usize| programs[i]["program"]["name"].as_str().unwrap_or_default().to_owned();
    ensure!(
        name(0) == "xdp_dispatcher" && name(1).contains("udp") && name(2).contains("tcp"),
        "{programs:#}"
    );
    ensure!(
        programs[1]["at"]["position"] == 0 && programs[2]["at"]["position"] == 1 && programs[1]["at"]["dispatcher"] == xdp[0].2,
        "{programs:#}"
    );
    Ok(())
}

/// Where packages put BPF objects: below the folder of the machine's kind, which has a name of its own everywhere.
fn bpf_folder(object: &str) -> Option<std::path::PathBuf> {
    let lib = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    let fixed = ["/usr/lib64", "/usr/lib"].map(std::path::PathBuf::from);
    lib.chain(fixed)
        .map(|path| path.join("bpf"))
        .find(|path| path.join(object).exists())
}

/// A process in the pod's namespace and cgroup, with a host name of its own in `/etc`.
fn pod_process(lab: &Lab, group: &std::path::Path, name: &'static std::ffi::CStr) -> Result<std::process::Child> {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let procs = std::fs::File::options().write(true).open(group.join("cgroup.procs"))?;
    let (procs_fd, ns_fd) = (procs.as_raw_fd(), lab.peer.file().as_raw_fd());
    let mut command = std::process::Command::new("sleep");
    command.arg("600");
    // SAFETY: plain system calls on descriptors that live until the child has started, and on constant strings.
    unsafe {
        command.pre_exec(move || {
            let none = std::ptr::null();
            let check = |good: bool| if good { Ok(()) } else { Err(std::io::Error::last_os_error()) };
            check(libc::write(procs_fd, c"0".as_ptr().cast(), 1) == 1)?;
            check(libc::setns(ns_fd, libc::CLONE_NEWNET) == 0)?;
            check(libc::unshare(libc::CLONE_NEWNS) == 0)?;
            check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0)?;
            check(libc::mount(c"none".as_ptr(), c"/etc".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()) == 0)?;
            let file = libc::open(c"/etc/hostname".as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o644);
            let length = name.to_bytes().len();
            check(file >= 0 && libc::write(file, name.as_ptr().cast(), length) == length as isize)
        });
    }
    command.spawn().context("cannot start a process in the pod")
}

fn pods() -> Result<()> {
    let lab = Lab::new()?;
    let group = weir_tests::cgroup::Cgroup::new()?;
    let pod = group.dir().join("kubepods-burstable-pod1.slice");
    std::fs::create_dir(&pod)?;
    let mut process = pod_process(&lab, &pod, c"web-1")?;
    let running = Weir::script("tc:veth0:ingress { @ = count(); }").at(&lab).start();
    let shown = running.and_then(|running| {
        let picture = json(&lab, &["net", NODE_IF], 0)?;
        let text = weir(&lab, &["net", NODE_IF])?;
        running.stop()?.clean()?;
        Ok((picture, text))
    });
    process.kill()?;
    process.wait()?;
    weir_tests::wait_for("the end of the pod's cgroup", || {
        Ok(std::fs::remove_dir(&pod).is_ok().then_some(()))
    })?;
    let (picture, text) = shown?;
    let interface = &picture["namespaces"][0]["interfaces"][0];
    ensure!(interface["peer"]["namespace"] == "pod web-1", "{picture:#}");
    ensure!(
        text.stdout.contains("other end peer0 in pod web-1") && text.stdout.contains("ingress = what pod web-1 sends"),
        "{text}"
    );
    Ok(())
}

fn maps() -> Result<()> {
    let lab = Lab::new()?;
    let running = Weir::script("tc:veth0:ingress { @by[ip.src] = count(); @size[ip.src] = sum(pkt.len); }")
        .at(&lab)
        .start()?;
    let peer = lab.peer4();
    traffic::send_udp(&lab.peer, peer.into(), (lab.node4(), 53).into(), 4)?;
    traffic::settle(&lab)?;
    let list = json(&lab, &["maps"], 0)?;
    let ours: Vec<u32> = running.objects().iter().filter(|o| o.kind == Kind::Map).map(|o| o.id).collect();
    let of_name = |name: &str| {
        let all = list.as_array().cloned().unwrap_or_default();
        let is_it = |m: &&Value| m["name"] == name && ours.iter().any(|id| m["id"] == *id);
        all.iter()
            .find(is_it)
            .cloned()
            .with_context(|| format!("no map {name} in {list:#}"))
    };
    let by = of_name("AT_by")?;
    ensure!(by["entries"] == 1 && by["owners"][0]["command"] == "weir", "{by:#}");
    let id = by["id"].to_string();
    // The address is read by the type that weir gave its map; the packets are four and the last one of all.
    let done = weir(&lab, &["maps", &id])?.clean()?;
    ensure!(done.stdout.contains(&format!("[{peer}]: 5 ")), "{done}");
    let size = of_name("AT_size")?["id"].to_string();
    let top = json(&lab, &["maps", &size, "--top", "1", "--by", "sum"], 0)?;
    ensure!(
        top["entries_in_map"] == 1 && top["entries"][0]["key"] == peer.to_string(),
        "{top:#}"
    );
    weir(&lab, &["maps", &size, "--by", "bytes"])?.refused(&["no number `bytes`", "sum"])?;
    let unknown = weir(&lab, &["maps", "no-such-map"])?;
    unknown.refused(&["no BPF map is called `no-such-map`"])?;
    running.stop()?.clean()?;
    weir(&lab, &["maps", &id])?
        .refused(&[&format!("no BPF map has id {id}"), "weir maps"])
        .map(drop)
}

/// Two maps of a million entries are read whole, and the largest found.
fn million() -> Result<()> {
    // A build without optimisations on a busy machine takes a fifth of it; going through them entry by entry takes far more.
    const MOST: Duration = Duration::from_secs(60);
    const ENTRIES: usize = 1_000_000;
    let mut running = Weir::script(
        "config = { max_map_keys = 1048576; print_maps_on_exit = false }
         begin { for ($i : 0..1000000) { @big[$i] = ($i * 7919) % 1000003; @mean[$i] = avg($i); } printf(\"full\\n\"); } interval:s:600 { }",
    )
    .start()?;
    running.wait_stdout("all entries", |text| text.contains("full"))?;
    let list: Value = serde_json::from_str(&Weir::new(["maps", "--json"]).run()?.clean()?.stdout)?;
    let of_name = |name: &str| -> Result<String> {
        let ours = |id: &Value| running.objects().iter().any(|o| o.kind == Kind::Map && *id == o.id);
        let found = list.as_array().into_iter().flatten().find(|m| m["name"] == name && ours(&m["id"]));
        let found = found.with_context(|| format!("no map {name} in {list:#}"))?;
        ensure!(found["entries"] == ENTRIES, "{found:#}");
        Ok(found["id"].to_string())
    };
    let (big, mean) = (of_name("AT_big")?, of_name("AT_mean")?);
    let timed = |args: &[&str]| -> Result<Finished> {
        let start = Instant::now();
        let done = Weir::new(args.iter().copied()).run()?.clean()?;
        ensure!(start.elapsed() < MOST, "{args:?} took {:?}", start.elapsed());
        Ok(done)
    };
    let top = timed(&["maps", &mean, "--top", "2", "--by", "sum"])?;
    let lines: Vec<&str> = top.stdout.lines().collect();
    ensure!(
        lines.len() == 3 && lines[1].starts_with("  [999999]: ") && lines[2].starts_with("  [999998]: "),
        "{top}"
    );
    let whole = timed(&["maps", &big])?;
    let entries: BTreeSet<&str> = whole.stdout.lines().skip(1).collect();
    ensure!(
        entries.len() == ENTRIES && entries.contains("  [341332]: 1000002"),
        "{} entries",
        entries.len()
    );
    running.stop()?.clean().map(drop)
}

fn wrong_input() -> Result<()> {
    let lab = Lab::new()?;
    weir(&lab, &["net", "vth0"])?.refused(&["no network interface `vth0`", "did you mean `veth0`"])?;
    weir(&lab, &["net", "rm", "vth0", "ingress", "--priority", "1", "--yes"])?.refused(&["no network interface `vth0`"])?;
    weir(&lab, &["net", "rm", NODE_IF, "ingress", "--priority", "1", "--yes"])?
        .refused(&["no BPF filter with priority 1", "no BPF filters in that direction"])?;
    weir(&lab, &["net", "rm", NODE_IF, "ingress"])?.refused(&["--priority"])?;
    weir(&lab, &["net", "rm", NODE_IF, "sideways", "--priority", "1"])?.refused(&["ingress", "egress"])?;
    weir(&lab, &["net", "rm"])?.refused(&["--priority", "--id"])?;
    weir(&lab, &["net", "--no-such-switch"])?.refused(&["--no-such-switch"])?;
    weir(&lab, &["progs", "4294967294"])?.refused(&["no BPF program has id 4294967294"])?;
    weir(&lab, &["net", "rm", "--id", "4294967294", "--yes"])?.refused(&["program 4294967294 is not attached"])?;
    weir(&lab, &["maps", "/sys/fs/bpf/no-such-pin"])?.refused(&["no-such-pin", "No such file"])?;
    weir(&lab, &["maps", "--top", "3"])?.refused(&["ID | NAME | PIN"])?;
    // Two filters of one priority are told apart by their handles.
    clsact(&lab)?;
    let object = build(&lab, "p.o", "tc:lo:ingress { @seen = count(); }")?;
    add_filter(&lab, &object, "ingress", "3")?;
    add_filter(&lab, &object, "ingress", "3")?;
    weir(&lab, &["net", "rm", NODE_IF, "ingress", "--priority", "3", "--yes"])?.refused(&[
        "2 filters have priority 3",
        "--handle 0x1",
        "--handle 0x2",
    ])?;
    weir(
        &lab,
        &["net", "rm", NODE_IF, "ingress", "--priority", "3", "--handle", "2", "--yes"],
    )?
    .clean()?;
    let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, "ingress"])?;
    ensure!(filters.contains("handle 0x1") && !filters.contains("handle 0x2"), "{filters}");
    Ok(())
}

fn no_permission() -> Result<()> {
    // CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
    const PRIVILEGED: &[u32] = &[12, 21, 38, 39];
    for command in [
        &["net"][..],
        &["maps"],
        &["progs"],
        &["net", "rm", "--id", "1", "--yes"],
        &["maps", "1"],
    ] {
        let done = Weir::new(command.iter().copied()).without_capabilities(PRIVILEGED).run()?;
        done.refused(&["CAP_SYS_ADMIN", "CAP_NET_ADMIN"])?;
    }
    Ok(())
}
