//! Natives with a name (`pin="NAME"`): weir ends, is killed or starts again while packets come at full speed, and each packet is judged.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weir_tests::cgroup::Cgroup;
use weir_tests::features::Feature;
use weir_tests::frame::Frame;
use weir_tests::harness::Need::Lacks;
use weir_tests::harness::Test;
use weir_tests::kernel::KernelState;
use weir_tests::net::Lab;
use weir_tests::patience;
use weir_tests::traffic;
use weir_tests::weir::{Finished, Running, Weir};

pub const TESTS: &[Test] = &[
    Test::new("pin_outlives_kill_under_flood_and_is_taken_over", flood).alone(),
    Test::new("pin_at_tc_outlives_kill_under_flood_and_is_taken_over", flood_at_tc).alone(),
    Test::new("pin_keeps_the_hits_of_a_long_list", long_list).alone(),
    Test::new("pin_keeps_what_is_uncounted", uncounted).alone(),
    Test::new("pin_of_identity_outlives_kill_and_keeps_its_replies", identity).alone(),
    Test::new("pin_outlives_the_heartbeat_of_filters", heartbeat)
        .needs(&[Lacks(Feature::Tcx)])
        .alone(),
    Test::new("pin_is_listed_reloaded_and_stopped", managed).alone(),
    Test::new("pin_has_its_audit_log_where_it_was_started_and_ends_in_it", logged),
    Test::new("pin_of_an_interface_that_goes", interface_gone).alone(),
    Test::new("pin_in_generic_mode_is_mended_by_its_name", generic).alone(),
    Test::new("pin_names_and_owners_are_checked", refused).alone(),
];

const PORT: u16 = 5000;
const BAD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// What `weir net` offers for it ends it as a whole, and does not leave a name that judges nothing.
fn generic() -> Result<()> {
    let (lab, name) = (Lab::new()?, Name::new("generic"));
    let script = |mode: &str| {
        format!(
            r#"use blocklist(iface="veth0", audit="off", mode="{mode}", pin="{}", prefixes={BAD}) as bl;"#,
            name.0
        )
    };
    let net = || Weir::new(["net", "veth0"]).at(&lab).run();
    Weir::script(&script("generic")).at(&lab).start()?.stop()?;
    let seen = net()?;
    let fix = format!("fix: weir stop {}", name.0);
    ensure!(
        seen.stdout.contains("generic-xdp: veth0") && seen.stdout.contains(&fix) && !seen.stdout.contains("weir net rm"),
        "{seen}"
    );
    ensure!(seen.stdout.contains("start it again with `mode=\"native\"`"), "{seen}");
    let stopped = name.tool("stop")?;
    ensure!(stopped.status.success(), "{stopped}");
    Weir::script(&script("native")).at(&lab).start()?.stop()?;
    let seen = net()?;
    ensure!(!seen.stdout.contains("generic-xdp"), "{seen}");
    let stopped = name.tool("stop")?;
    ensure!(stopped.status.success(), "{stopped}");
    Ok(())
}

/// A name that is given back, whatever becomes of the test.
pub(super) struct Name(pub(super) String);

impl Name {
    pub(super) fn new(what: &str) -> Self {
        Self(format!("weirtest-{}-{what}", std::process::id()))
    }

    pub(super) fn tool(&self, command: &str) -> Result<Finished> {
        Weir::new([command, &self.0]).run()
    }

    /// Ends it: nothing of it is left.
    pub(super) fn stop(&self) -> Result<()> {
        let done = self.tool("stop")?;
        ensure!(done.status.success() && done.stdout.contains("no longer in force"), "{done}");
        Ok(())
    }

    fn status(&self) -> Result<serde_json::Value> {
        let done = Weir::new(["status", &self.0, "--json"]).run()?;
        ensure!(done.status.success(), "{done}");
        let all: serde_json::Value = serde_json::from_str(&done.stdout)?;
        all.get(0).cloned().context("no status")
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Mostly it is gone by now, which is an error to `weir stop` and none to us.
        let _ = self.tool("stop");
    }
}

fn script(name: &Name, params: &str) -> String {
    format!(r#"use blocklist(iface="veth0", audit="off", pin="{}", {params}) as bl;"#, name.0)
}

fn started(lab: &Lab, name: &Name, params: &str) -> Result<Running> {
    Weir::script(&script(name, params)).at(lab).start()
}

fn stats(done: &Finished, map: &str) -> BTreeMap<String, u64> {
    let entries = done.map(map).into_iter();
    entries.filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect()
}

/// Sends from a source and returns how many arrive.
fn arrive(lab: &Lab, source: Ipv4Addr, count: u32) -> Result<u32> {
    let address = SocketAddr::new(lab.node4().into(), PORT);
    let socket = weir_tests::wait_for("the port", || Ok(traffic::listen_udp(&lab.node, address).ok()))?;
    traffic::send_frames(lab, &[(count, Frame::udp(source, lab.node4(), PORT))])?;
    traffic::settle(lab)?;
    traffic::received(&socket)
}

/// Hits of a long list lie beside its entries: they go on when weir is killed and another list takes over, and of what is no longer listed
/// they stay.
fn long_list() -> Result<()> {
    let lab = Lab::new()?;
    let name = Name::new("long");
    let hosts = |second: u8| -> String { (0..700u32).map(|i| format!("172.{second}.{}.{}\n", i >> 8, i & 255)).collect() };
    let gone = Ipv4Addr::new(172, 16, 0, 9);
    lab.dir.write("bad.txt", &format!("{BAD}\n{}", hosts(16)))?;
    let first = started(&lab, &name, "prefixes=file(\"bad.txt\")")?;
    ensure!(arrive(&lab, BAD, 5)? + arrive(&lab, gone, 3)? == 0, "not in force");
    first.end_with(Signal::SIGKILL)?;
    ensure!(arrive(&lab, BAD, 4)? == 0, "not in force without weir");
    // Its tables are no map whose entries can be counted.
    let page = name.tool("status")?;
    ensure!(page.stdout.contains("ipv4 701/1048576 0%"), "{page}");
    lab.dir.write("bad.txt", &format!("{BAD}\n{}", hosts(17)))?;
    let walk = "end { for ($kv : @bl.hits) { @walked[$kv.0] = $kv.1.packets; } }";
    let script = format!("{}{walk}", script(&name, "prefixes=file(\"bad.txt\")"));
    let second = Weir::script(&script).at(&lab).start()?;
    ensure!(
        arrive(&lab, BAD, 2)? == 0 && arrive(&lab, gone, 1)? == 1,
        "the second list is not in force"
    );
    let done = second.stop()?;
    done.expect_map("@walked", [(format!("{BAD}/32"), 11), (format!("{gone}/32"), 3)])?;
    name.stop()
}

/// So does the number of packets whose entries have gone, and for whose hits there was no room.
fn uncounted() -> Result<()> {
    let lab = Lab::new()?;
    let name = Name::new("uncounted");
    let hosts = |count: u32| -> String { (0..count).map(|i| format!("172.16.{}.{}\n", i >> 8, i & 255)).collect() };
    lab.dir.write("bad.txt", &hosts(600))?;
    let params = "prefixes=file(\"bad.txt\"), max_hits=1";
    let mut first = started(&lab, &name, params)?;
    let [one, other] = [(2, 80), (2, 81)].map(|(third, fourth)| Ipv4Addr::new(172, 16, third, fourth));
    ensure!(arrive(&lab, one, 3)? + arrive(&lab, other, 3)? == 0, "not in force");
    lab.dir.write("bad.txt", &hosts(560))?;
    first.wait_stderr("word of the reload", |text| text.contains("40 removed, 560 in force"))?;
    first.end_with(Signal::SIGKILL)?;
    let done = started(&lab, &name, params)?.stop()?;
    let of = stats(&done, "@bl.stats");
    ensure!(of.get("uncounted") == Some(&3) && of.get("dropped") == Some(&6), "{done}");
    name.stop()
}

/// Killed while it runs, killed while it starts, ended by Ctrl-C, with lists short and long: of a listed source nothing ever passes, and
/// every one of its packets is counted.
fn flood() -> Result<()> {
    flood_with("", "xdp:veth0")
}

/// The same with links of tcx, or filters in clsact.
fn flood_at_tc() -> Result<()> {
    flood_with(", hook=\"tc\"", "tc:veth0:ingress")
}

fn flood_with(extra: &str, place: &str) -> Result<()> {
    let lab = Lab::new()?;
    let name = Name::new("flood");
    let params = format!("prefixes=file(\"bad.txt\"){extra}");
    let before = KernelState::now(Some(&lab.node))?;
    let long: String = (0..700u32).map(|i| format!("172.16.{}.{}\n", i >> 8, i & 255)).collect();
    let lists = [format!("{BAD}\n{long}"), format!("198.51.100.0/24\n{OTHER}\n")];
    let start = |round: usize| -> Result<Running> {
        lab.dir.write("bad.txt", &lists[round % 2])?;
        started(&lab, &name, &params)
    };
    let address = SocketAddr::new(lab.node4().into(), PORT);
    let socket = traffic::listen_udp(&lab.node, address)?;
    let first = start(0)?;
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| -> Result<u64> {
        let flood = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                traffic::send_frames(&lab, &[(64, Frame::udp(BAD, lab.node4(), PORT))])?;
                sent += 64;
            }
            Ok(sent)
        });
        let rounds = (|| -> Result<()> {
            first.end_with(Signal::SIGKILL)?;
            for round in 1..4 {
                let running = start(round)?;
                let signal = if round == 2 { Signal::SIGINT } else { Signal::SIGKILL };
                running.end_with(signal)?;
                // Somewhere on the way: a start that is killed leaves what was in force.
                let starting = Weir::script(&script(&name, &params)).at(&lab).start_unattached()?;
                std::thread::sleep(Duration::from_millis(15 * round as u64));
                starting.end_with(Signal::SIGKILL)?;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let sent = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        rounds.and(sent)
    })?;
    traffic::settle(&lab)?;
    ensure!(traffic::received(&socket)? == 0, "a packet of a listed source came through");
    drop(socket);
    let done = start(0)?.stop()?;
    ensure!(
        done.stderr.contains("taken over") && done.stderr.contains("stays in force"),
        "{done}"
    );
    let dropped = stats(&done, "@bl.stats");
    ensure!(dropped.get("dropped") == Some(&sent), "{dropped:?}, {sent} were sent");
    ensure!(arrive(&lab, BAD, 3)? == 0, "not in force without weir");
    let status = name.status()?;
    let on = status["attached"][0].as_str().unwrap_or_default();
    ensure!(on.starts_with(place) && status["owner_alive"] == false, "{status}");
    name.stop()?;
    ensure!(arrive(&lab, BAD, 3)? == 3, "still in force");
    before.assert_same(Some(&lab.node))
}

/// What the pod may not send does not pass while nobody is there; what it may be answered passes after the next start, too.
fn identity() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    let name = Name::new("identity");
    let before = KernelState::now(Some(&lab.node))?;
    let policy = |port: u16| {
        format!(
            "default = \"deny\"\n[[identity]]\nname = \"web\"\ncgroup = \"{}\"\n[[rule]]\nname = \"last\"\nport = 4000\nverdict = \"allow\"\n\
             [[rule]]\nname = \"one\"\nport = {port}\nverdict = \"allow\"\n",
            group.path()
        )
    };
    let text = format!(
        r#"use identity(iface="veth0", policy=file("policy.toml"), audit="off", unknown="deny", pin="{}") as id; end {{ print(@id.verdicts); }}"#,
        name.0
    );
    let start = || Weir::script(&text).at(&lab).start();
    let node = std::net::IpAddr::from(lab.node4());
    let arrive = |port: u16, count: u32| -> Result<u32> {
        let socket = traffic::listen_udp(&lab.node, (node, port).into())?;
        let last = traffic::listen_udp(&lab.node, (node, 4000).into())?;
        traffic::send_udp(&lab.peer, lab.peer4().into(), (node, port).into(), count)?;
        traffic::send_udp(&lab.peer, lab.peer4().into(), (node, 4000).into(), 1)?;
        weir_tests::wait_for("the last datagram", || Ok((traffic::received(&last)? == 1).then_some(())))?;
        traffic::received(&socket)
    };
    lab.dir.write("policy.toml", &policy(5001))?;
    let first = start()?;
    // The host asks; in the middle of a connection only what was seen to begin may be answered.
    let at = SocketAddr::new(lab.peer4().into(), 9090);
    let listener = lab.peer.run(|| Ok(TcpListener::bind(at)?))?;
    let mut client = lab.node.run(|| Ok(TcpStream::connect_timeout(&at, patience())?))?;
    client.set_read_timeout(Some(patience()))?;
    let (mut pod, _) = listener.accept()?;
    let mut answered = |when: &str| -> Result<()> {
        pod.write_all(b"x")?;
        client
            .read_exact(&mut [0])
            .with_context(|| format!("the pod may not answer {when}"))
    };
    answered("at first")?;
    first.end_with(Signal::SIGKILL)?;
    answered("without weir")?;
    ensure!(arrive(5001, 3)? == 3 && arrive(5002, 3)? == 0, "not in force without weir");
    let status = name.status()?;
    let attached = status["attached"].as_array().map_or(0, Vec::len);
    ensure!(attached == 8 && status["owner_alive"] == false, "{status}");
    // Another policy; the rules' counters go on by their names.
    lab.dir.write("policy.toml", &policy(5002))?;
    let running = start()?;
    ensure!(arrive(5001, 2)? == 0 && arrive(5002, 2)? == 2, "the new policy is not in force");
    answered("after the next start")?;
    let done = running.stop()?;
    done.expect_entry("@id.verdicts", "one", "{ .packets = 5, .bytes = 230 }")?;
    ensure!(arrive(5001, 2)? == 0, "not in force without weir");
    let reload = name.tool("reload")?;
    ensure!(reload.status.success(), "{reload}");
    ensure!(arrive(5002, 2)? == 2 && arrive(5003, 2)? == 0, "not in force after a reload");
    name.stop()?;
    ensure!(arrive(5003, 2)? == 2, "still in force");
    before.assert_same(Some(&lab.node))
}

/// Filters of an owner that is dead give up after ten seconds, unless they have a name.
fn heartbeat() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    let name = Name::new("heartbeat");
    lab.dir.write(
        "policy.toml",
        &format!(
            "default = \"deny\"\n[[identity]]\nname = \"web\"\ncgroup = \"{}\"\n[[rule]]\nport = 9\nverdict = \"allow\"\n",
            group.path()
        ),
    )?;
    let text = format!(
        r#"use identity(iface="veth0", policy=file("policy.toml"), audit="off", pin="{}") as id;"#,
        name.0
    );
    Weir::script(&text).at(&lab).start()?.end_with(Signal::SIGKILL)?;
    let node = std::net::IpAddr::from(lab.node4());
    let socket = traffic::listen_udp(&lab.node, (node, PORT).into())?;
    let killed = Instant::now();
    while killed.elapsed() < Duration::from_secs(13) {
        traffic::send_udp(&lab.peer, lab.peer4().into(), (node, PORT).into(), 5)?;
        traffic::settle(&lab)?;
        ensure!(
            traffic::received(&socket)? == 0,
            "open {:?} after the end of weir",
            killed.elapsed()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    name.stop()
}

/// Whoever ends it, and wherever they are, that is in the log; what outlives its weir has not ended.
fn logged() -> Result<()> {
    let (lab, name) = (Lab::new()?, Name::new("logged"));
    let script = script(&name, &format!("prefixes=({BAD}, {OTHER})")).replace("audit=\"off\"", "audit=\"audit.log\"");
    let actions = || -> Result<Vec<(String, u64)>> {
        let text = std::fs::read_to_string(lab.dir.path().join("audit.log"))?;
        let lines: Vec<serde_json::Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let of = |l: &serde_json::Value| {
            (
                l["action"].as_str().unwrap_or_default().to_owned(),
                l["removed"].as_u64().unwrap_or(0),
            )
        };
        Ok(lines.iter().map(of).collect())
    };
    let (start, end) = (("start".to_owned(), 0), ("end".to_owned(), 2));
    Weir::script(&script).at(&lab).start()?.end_with(Signal::SIGKILL)?;
    // Neither is in the folder of the script.
    let renewed = name.tool("reload")?;
    ensure!(renewed.status.success() && renewed.stderr.is_empty(), "{renewed}");
    ensure!(actions()? == [start.clone(), start.clone()], "{:?}", actions());
    name.stop()?;
    ensure!(actions()? == [start.clone(), start.clone(), end.clone()], "{:?}", actions());
    Weir::script(&script).at(&lab).start()?.stop()?;
    ensure!(actions()?.len() == 4, "what stays in force has ended: {:?}", actions());
    let owned = Weir::script(&script).at(&lab).start()?;
    name.stop()?;
    owned.wait()?;
    ensure!(actions()?[3..] == [start.clone(), start, end], "{:?}", actions());
    Ok(())
}

fn managed() -> Result<()> {
    let lab = Lab::new()?;
    let name = Name::new("managed");
    let before = KernelState::now(Some(&lab.node))?;
    let path = |text: &str| lab.dir.write("bad.txt", text);
    path(&format!("{BAD}\n"))?;
    let mut running = started(&lab, &name, "prefixes=file(\"bad.txt\")")?;
    let pid = running.pid()?;
    let status = name.status()?;
    ensure!(
        status["native"] == "blocklist"
            && status["owner_alive"] == true
            && status["owner"]["pid"] == pid
            && status["attached"][0] == "xdp:veth0",
        "{status}"
    );
    let page = Weir::new(["status"]).run()?;
    ensure!(
        page.stdout.contains(&format!("pid {pid}")) && page.stdout.contains("ipv4 1/1048576 0%") && !page.stdout.contains("BLOCK4"),
        "{page}"
    );
    // Its owner reads the file, whether it has changed or not, and says what came of it.
    let same = name.tool("reload")?;
    ensure!(same.stdout.contains("0 added, 0 removed, 1 in force"), "{same}");
    running.wait_stderr("word of the reload", |text| text.contains("0 added"))?;
    path("10.0.0.0/33\n")?;
    let bad = name.tool("reload")?;
    ensure!(
        bad.status.code() == Some(1) && bad.stderr.contains("bad.txt:1") && bad.stderr.contains("stays"),
        "{bad}"
    );
    ensure!(arrive(&lab, BAD, 2)? == 0, "the old list is not in force");
    // One that cannot answer is told as such, soon.
    running.signal(Signal::SIGSTOP)?;
    let stopped = name.tool("reload")?;
    ensure!(
        stopped.status.code() == Some(1)
            && stopped.stderr.contains(&format!("(pid {pid}) is stopped"))
            && stopped.stderr.contains(&format!("`kill -CONT {pid}`")),
        "{stopped}"
    );
    running.end_with(Signal::SIGKILL)?;
    // Nobody is there: a start does it, and ends.
    let bad = name.tool("reload")?;
    ensure!(
        bad.status.code() == Some(1) && bad.stderr.contains("bad.txt:1") && bad.stderr.contains("stays"),
        "{bad}"
    );
    ensure!(arrive(&lab, BAD, 2)? == 0, "the old list is not in force");
    path(&format!("{OTHER}\n203.0.113.0/24\n"))?;
    let good = name.tool("reload")?;
    ensure!(good.status.success(), "{good}");
    ensure!(
        arrive(&lab, BAD, 2)? == 2 && arrive(&lab, OTHER, 2)? == 0,
        "the new list is not in force"
    );
    let status = name.status()?;
    ensure!(status["owner_alive"] == false, "somebody is there");
    // The room that a change of the list needs is not the person's.
    ensure!(
        status["lists"][0] == serde_json::json!({"name": "ipv4", "entries": 2, "max": 1_048_576, "maps": ["BLOCK4", "SWAP4"]}),
        "{status}"
    );
    // It is not a stale program: `clean` leaves it, and `net` names it.
    let clean = Weir::new(["clean", "--yes"]).run()?;
    ensure!(clean.stdout.contains("nothing to clean"), "{clean}");
    let net = Weir::new(["net", "veth0"]).at(&lab).run()?;
    ensure!(
        net.stdout.contains(&format!("pin {}", name.0)) && !net.stdout.contains("no-owner"),
        "{net}"
    );
    // Ending it ends its owner, too.
    let running = started(&lab, &name, "prefixes=file(\"bad.txt\")")?;
    name.stop()?;
    let done = running.wait()?;
    ensure!(done.status.success() && done.stderr.contains("ended by `weir stop"), "{done}");
    ensure!(arrive(&lab, OTHER, 2)? == 2, "still in force");
    before.assert_same(Some(&lab.node))
}

/// The interface goes while nobody is there: nothing is judged, the status says so, and the next start makes it good.
fn interface_gone() -> Result<()> {
    let (lab, other) = (Lab::new()?, Lab::new()?);
    let name = Name::new("gone");
    started(&lab, &name, &format!("prefixes={BAD}"))?.end_with(Signal::SIGKILL)?;
    ensure!(arrive(&lab, BAD, 2)? == 0, "not in force without weir");
    lab.node.ip(&["link", "del", "veth0"])?;
    weir_tests::wait_for("the link to let go", || {
        Ok((name.status()?["attached"].as_array().is_some_and(Vec::is_empty)).then_some(()))
    })?;
    let page = name.tool("status")?;
    ensure!(page.stdout.contains("judges nothing"), "{page}");
    // The same name, elsewhere.
    started(&other, &name, &format!("prefixes={BAD}"))?.end_with(Signal::SIGKILL)?;
    ensure!(arrive(&other, BAD, 2)? == 0, "not in force at its new place");
    ensure!(name.status()?["attached"][0] == "xdp:veth0", "it is not there");
    name.stop()
}

fn refused() -> Result<()> {
    let lab = Lab::new()?;
    let name = Name::new("refused");
    let bad = |text: &str, words: &[&str]| Weir::script(text).at(&lab).run()?.refused(words).map(drop);
    bad(
        r#"use blocklist(iface="veth0", prefixes=192.0.2.1, pin="a.b") as bl;"#,
        &["letters, digits", "pin"],
    )?;
    bad(&script(&name, "prefixes=192.0.2.1, duration=5m"), &["duration", "weir stop"])?;
    name.tool("stop")?.refused(&["nothing is pinned as"])?;
    let running = started(&lab, &name, &format!("prefixes={BAD}"))?;
    bad(&script(&name, "prefixes=192.0.2.1"), &["a weir that runs (pid ", "weir stop"])?;
    running.end_with(Signal::SIGKILL)?;
    lab.dir.write("policy.toml", "default = \"allow\"\n")?;
    bad(
        &format!(
            r#"use identity(iface="veth0", policy=file("policy.toml"), pin="{}") as id;"#,
            name.0
        ),
        &["is a `blocklist`", "weir stop"],
    )?;
    // A mistyped name is answered with the nearest.
    let near = Weir::new(["stop", &name.0[..name.0.len() - 1]]).run()?;
    near.refused(&["did you mean", &name.0])?;
    // A start that cannot be attached takes nothing with it.
    bad(
        &script(&name, "prefixes=192.0.2.1, mode=\"generic\""),
        &["native mode", "weir stop"],
    )?;
    ensure!(arrive(&lab, BAD, 2)? == 0, "no longer in force");
    name.stop()?;
    // A new name is given when all of the script is attached: here another's program is in the way of the rest.
    let other = Weir::script("xdp:lo { @ = count(); }").at(&lab).start()?;
    bad(
        &format!("{} xdp:lo {{ @ = count(); }}", script(&name, &format!("prefixes={BAD}"))),
        &["xdp:lo", "--force"],
    )?;
    name.tool("stop")?.refused(&["nothing is pinned as"])?;
    other.stop()?.clean()?;
    ensure!(arrive(&lab, BAD, 2)? == 2, "in force after a start that was refused");
    // Without a name, weir says beforehand how long it lasts.
    let unnamed = |more: &str| {
        let text = format!(r#"use blocklist(iface="veth0", audit="off", prefixes={BAD}{more}) as bl; end {{ print(@bl); }}"#);
        Weir::script(&text).at(&lab).start()?.stop()
    };
    ensure!(unnamed("")?.stderr.contains("as long as weir runs"), "the gate opens unannounced");
    let timed = unnamed(", duration=1h")?;
    ensure!(timed.stderr.contains("in force for 1h, at most as long as weir runs"), "{timed}");
    ensure!(timed.stdout.contains("@bl: blocklist (in force for 1h)\n"), "{timed}");
    let dry = unnamed(", dry_run=true")?;
    ensure!(
        !dry.stderr.contains("as long as") && dry.stderr.contains("dry run: what would be dropped is counted, and passes"),
        "a dry run closes no gate: {dry}"
    );
    ensure!(
        dry.stdout.contains("@bl: blocklist (dry run: nothing is dropped)\n"),
        "a dry run's counters: {dry}"
    );
    let both = unnamed(", dry_run=true, duration=1h")?;
    ensure!(
        both.stderr.contains("dry run: what would be dropped is counted for 1h, and passes"),
        "{both}"
    );
    ensure!(
        both.stdout.contains("@bl: blocklist (dry run for 1h: nothing is dropped)\n"),
        "{both}"
    );
    Ok(())
}
