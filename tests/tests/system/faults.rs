//! Natives when something goes wrong around them: files, cgroups, interfaces, others on the same hook, clocks, the end of weir itself.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weir_tests::cgroup::Cgroup;
use weir_tests::frame::Frame;
use weir_tests::gate::{self, HalfWriter};
use weir_tests::harness::Test;
use weir_tests::kernel::{self, ProgramType};
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::traffic;
use weir_tests::wait_for;
use weir_tests::weir::{Running, Weir};

pub const TESTS: &[Test] = &[
    Test::new("faults_of_a_policy_file_leave_the_old_policy", policy_file),
    Test::new("faults_of_a_policy_that_is_written_while_it_is_read", written_while_read),
    Test::new("faults_of_the_kernel_at_a_reload_are_tried_again", refused_by_the_kernel),
    Test::new("faults_cgroup_that_goes_and_comes_again", cgroup_gone),
    Test::new("faults_interface_that_goes_and_comes_again", interface_gone),
    Test::new("faults_foreign_xdp_program_stays_unless_forced", foreign_xdp),
    Test::new("faults_full_map_of_hits_is_counted", full_hits),
    Test::new("faults_two_identities_on_one_interface", two_identities),
    Test::new("faults_kill_during_reload_of_a_pinned_list_under_flood", killed_in_reload).alone(),
];

/// What changes the whole machine.
pub const ALONE_ON_A_MACHINE: &[Test] = &[Test::new("faults_clock_jumps_end_nothing_early", clock_jumps).alone()];

const PORT: u16 = 5000;
const BAD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn replace(lab: &Lab, name: &str, text: &str) -> Result<()> {
    lab.dir.write("new", text)?;
    std::fs::rename(lab.dir.path().join("new"), lab.dir.path().join(name)).context("cannot replace the file")
}

/// Sends from a source and returns how many arrive.
fn arrive(lab: &Lab, source: Ipv4Addr, count: u32) -> Result<u32> {
    let address = SocketAddr::new(lab.node4().into(), PORT);
    let socket = wait_for("the port", || Ok(traffic::listen_udp(&lab.node, address).ok()))?;
    traffic::send_frames(lab, &[(count, Frame::udp(source, lab.node4(), PORT))])?;
    traffic::settle(lab)?;
    traffic::received(&socket)
}

/// How many of `count` datagrams from the pod arrive at the port; what comes later on the same cable has been waited for.
fn from_pod(lab: &Lab, port: u16, count: u32) -> Result<u32> {
    let node = IpAddr::from(lab.node4());
    let listen = |port| wait_for("the port", || Ok(traffic::listen_udp(&lab.node, (node, port).into()).ok()));
    let (socket, last) = (listen(port)?, listen(4000)?);
    traffic::send_udp(&lab.peer, lab.peer4().into(), (node, port).into(), count)?;
    traffic::send_udp(&lab.peer, lab.peer4().into(), (node, 4000).into(), 1)?;
    wait_for("the last datagram", || Ok((traffic::received(&last)? == 1).then_some(())))?;
    traffic::received(&socket)
}

fn policy(cgroup: &str, ports: &[u16]) -> String {
    let rules = ports
        .iter()
        .map(|port| format!("[[rule]]\nname = \"port {port}\"\nport = {port}\nverdict = \"allow\"\n"));
    format!(
        "default = \"deny\"\n[[identity]]\nname = \"web\"\ncgroup = \"{cgroup}\"\n{}",
        rules.collect::<String>()
    )
}

const IDENTITY: &str = r#"use identity(iface="veth0", policy=file("policy.toml"), audit="off", max=3) as id;"#;

/// Unknown names, half a file, too many rows, a link that leads to itself: each is said, and the policy in force stays. The next good one
/// is taken.
fn policy_file() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    let good = policy(&group.path(), &[4000, 5001]);
    lab.dir.write("policy.toml", &good)?;
    let mut weir = Weir::script(IDENTITY).at(&lab).start()?;
    ensure!(
        from_pod(&lab, 5001, 2)? == 2 && from_pod(&lab, 5002, 2)? == 0,
        "the policy is not in force"
    );
    let half = &good[..good.len() - 12];
    let unknown = format!("{good}[[rule]]\nfrom = \"wbe\"\nverdict = \"allow\"\n");
    let many = policy(&group.path(), &[1, 2, 3, 4]);
    let faults = [
        (unknown.as_str(), &["no identity `wbe`; did you mean `web`?"][..]),
        (half, &["policy.toml:"]),
        (many.as_str(), &["the policy takes 4 rows", "`max` is 3", "add `max=4`"]),
    ];
    let mut said = 0;
    let mut complaint = |weir: &mut Running, words: &[&str]| {
        said += 1;
        weir.wait_stderr(&format!("a complaint with {words:?}"), |text| {
            text.matches("the policy in force stays").count() >= said && words.iter().all(|w| text.contains(w))
        })
    };
    for (text, words) in faults {
        replace(&lab, "policy.toml", text)?;
        complaint(&mut weir, words)?;
        ensure!(
            from_pod(&lab, 5001, 2)? == 2 && from_pod(&lab, 5002, 2)? == 0,
            "the old policy is gone after {words:?}"
        );
    }
    let path = lab.dir.path().join("policy.toml");
    std::os::unix::fs::symlink("policy.toml", lab.dir.path().join("loop"))?;
    std::fs::rename(lab.dir.path().join("loop"), &path)?;
    complaint(&mut weir, &["cannot read `policy.toml`", "symbolic links"])?;
    ensure!(from_pod(&lab, 5001, 2)? == 2, "the old policy is gone with its file");
    replace(&lab, "policy.toml", &policy(&group.path(), &[4000, 5002]))?;
    weir.wait_stderr("word of the reload", |text| {
        text.contains("policy read again: 1 rules added, 1 removed")
    })?;
    ensure!(
        from_pod(&lab, 5001, 2)? == 0 && from_pod(&lab, 5002, 2)? == 2,
        "the new policy is not in force"
    );
    weir.stop()?.nothing_left().map(drop)
}

/// Half of a new policy is there when the file is read, and makes sense: the old one stays in force until the other half is there.
fn written_while_read() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    replace(&lab, "policy.toml", &policy(&group.path(), &[4000, 5001]))?;
    let (half, rest) = (policy(&group.path(), &[]), policy(&group.path(), &[4000, 5001, 5002]));
    let rest = rest.strip_prefix(&half).context("a policy begins otherwise")?;
    let mut writer = HalfWriter::new("policy.toml", lab.dir.path().join("policy.toml"), half)?;
    let script = format!("{IDENTITY} interval:ms:50 {{ printf(\"alive\\n\"); }}");
    let mut weir = Weir::script(&script).at(&lab).start_behind(&mut writer.opens)?;
    weir.wait_stdout("a sign of life", |text| text.contains("alive"))?;
    writer.arm();
    replace(&lab, "policy.toml", &policy(&group.path(), &[4000]))?;
    let mut file = writer.half()?;
    ensure!(from_pod(&lab, 5001, 2)? == 2, "what is not written yet is no longer in force");
    file.write_all(rest.as_bytes())?;
    drop(file);
    weir.wait_stderr("word of the reload", |text| text.contains("policy read again:"))?;
    ensure!(
        from_pod(&lab, 5001, 2)? == 2 && from_pod(&lab, 5002, 2)? == 2,
        "the new policy is not in force"
    );
    let done = weir.stop()?.nothing_left()?;
    ensure!(
        done.stderr.contains("policy read again: 1 rules added, 0 removed, 3 in force") && done.stderr.matches("read again").count() == 1,
        "half a policy was in force: {done}"
    );
    Ok(())
}

/// The kernel refuses the new rules, then takes them: weir has told, and goes on by itself.
fn refused_by_the_kernel() -> Result<()> {
    const BPF_MAP_UPDATE_BATCH: u32 = 26;
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    replace(&lab, "policy.toml", &policy(&group.path(), &[4000, 5001]))?;
    let refused = Arc::new(AtomicBool::new(false));
    let mut calls = gate::commands(BPF_MAP_UPDATE_BATCH, Arc::clone(&refused))?;
    let script = format!("{IDENTITY} interval:ms:50 {{ printf(\"alive\\n\"); }}");
    let mut weir = Weir::script(&script).at(&lab).start_behind(&mut calls)?;
    weir.wait_stdout("a sign of life", |text| text.contains("alive"))?;
    refused.store(true, Ordering::SeqCst);
    replace(&lab, "policy.toml", &policy(&group.path(), &[4000, 5002]))?;
    weir.wait_stderr("word of the refusal", |text| {
        text.contains("Cannot allocate memory") && text.contains("not all of the new policy is in force; weir tries again every second")
    })?;
    ensure!(
        from_pod(&lab, 5001, 2)? == 2 && from_pod(&lab, 5002, 2)? == 0,
        "the old rules are in force no more"
    );
    refused.store(false, Ordering::SeqCst);
    weir.wait_stderr("word of the reload", |text| {
        text.contains("policy read again: 1 rules added, 1 removed, 2 in force")
    })?;
    ensure!(
        from_pod(&lab, 5001, 2)? == 0 && from_pod(&lab, 5002, 2)? == 2,
        "the new rules are not in force"
    );
    weir.stop()?.nothing_left().map(drop)
}

/// A pod's cgroup is removed: nobody has its identity. One of the same name comes: it is the pod again, with another number of the kernel's.
fn cgroup_gone() -> Result<()> {
    let (lab, above) = (Lab::new()?, Cgroup::new()?);
    let pod = above.below("pod")?;
    lab.dir.write("policy.toml", &policy(&pod.path(), &[4000]))?;
    let script = format!("{IDENTITY} id:deny {{ @denied[id.sender] = count(); }} interval:ms:100 {{ print(@id.entries); }}");
    let mut weir = Weir::script(&script).at(&lab).start()?;
    let entries = |text: &str, name: &str| -> Vec<String> {
        let head = format!("@id.entries[{name}]: ");
        text.lines()
            .filter_map(|l| l.strip_prefix(head.as_str()))
            .map(str::to_owned)
            .collect()
    };
    let last = |text: &str| (entries(text, "cgroups").pop(), entries(text, "interfaces").pop());
    let one = (Some("1".to_owned()), Some("1".to_owned()));
    let none = (Some("0".to_owned()), Some("0".to_owned()));
    let resident = pod.resident(&lab.peer)?;
    weir.wait_stdout("the pod", |text| last(text) == one)?;
    ensure!(from_pod(&lab, 5001, 2)? == 0, "the pod may send");
    drop(resident);
    drop(pod);
    weir.wait_stdout("the end of the cgroup", |text| last(text) == none)?;
    weir.wait_stderr("word of it", |text| text.contains("nobody is `web` now"))?;
    ensure!(from_pod(&lab, 5001, 2)? == 2, "nobody's packets are denied");
    let pod = above.below("pod")?;
    let resident = pod.resident(&lab.peer)?;
    weir.wait_stdout("the pod again", |text| last(text) == one)?;
    ensure!(from_pod(&lab, 5001, 3)? == 0, "the pod may send");
    let done = weir.stop()?;
    drop(resident);
    done.expect_entry("@denied", "web", 5)
}

/// Natives on an interface that is removed go on, and are there again when one of that name comes.
fn interface_gone() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    lab.add_cable("veth1", "peer1")?;
    lab.dir.write("policy.toml", &policy(&group.path(), &[4000]))?;
    let script = r#"
use flows(iface="veth1", direction="ingress", export="flows.json") as fl;
use identity(iface="veth1", policy=file("policy.toml"), audit="off", dry_run=true) as id;
id:deny { limit(100/s) { printf("denied\n"); } }
"#;
    let mut weir = Weir::script(script).at(&lab).start()?;
    let frames = |count| [(count, Frame::udp(lab.peer4(), lab.node4(), PORT))];
    let send = |count| traffic::send_frames_from(&lab.peer, "peer1", &frames(count));
    let mut sent = 0;
    let mut denied = |weir: &Running| -> Result<()> {
        let before = weir.stdout().matches("denied").count();
        wait_for("a packet to be denied", || {
            send(1)?;
            sent += 1;
            Ok((weir.stdout().matches("denied").count() > before).then_some(()))
        })
    };
    denied(&weir)?;
    lab.node.ip(&["link", "del", "veth1"])?;
    weir.wait_stderr("word of the interface", |text| text.contains("interface `veth1` is gone"))?;
    lab.add_cable("veth1", "peer1")?;
    weir.wait_stderr("word of the new one", |text| text.contains("interface `veth1` appeared"))?;
    // Whose it is, is known soon after.
    denied(&weir)?;
    let done = weir.stop()?;
    let text = std::fs::read_to_string(lab.dir.path().join("flows.json"))?;
    let packets: u64 = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|r| r["destinationTransportPort"] == PORT)
        .filter_map(|r| r["packetDeltaCount"].as_u64())
        .sum();
    ensure!(packets == sent, "{packets} of {sent} were reported: {text} {done}");
    done.nothing_left().map(drop)
}

/// Whoever is at XDP already is named and stays; with `--force` it is back when weir ends.
fn foreign_xdp() -> Result<()> {
    let lab = Lab::new()?;
    let theirs = kernel::load_program(ProgramType::Xdp, "their_xdp", 2)?;
    let id = kernel::program_id(&theirs)?;
    let attached = std::process::Command::new("ip")
        .args(["netns", "exec", lab.node.name(), "bpftool", "net", "attach", "xdpgeneric", "id"])
        .args([&id.to_string(), "dev", NODE_IF])
        .output()
        .context("cannot start bpftool")?;
    ensure!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
    let there = || -> Result<Option<u64>> {
        let links: serde_json::Value = serde_json::from_str(&lab.node.ip(&["-j", "-d", "link", "show", "dev", NODE_IF])?)?;
        Ok(links[0]["xdp"]["prog"]["id"].as_u64())
    };
    let blocklist = format!(r#"use blocklist(iface="veth0", audit="off", prefixes={BAD}) as bl;"#);
    let flows = r#"use flows(iface="veth0", hook="xdp") as fl;"#;
    for script in [blocklist.as_str(), flows] {
        Weir::script(script)
            .at(&lab)
            .run()?
            .refused(&["their_xdp", &format!("id {id}"), "--force"])?;
        ensure!(there()? == Some(u64::from(id)), "their program is gone");
        let weir = Weir::new(["--force", "-e", script]).at(&lab).start()?;
        ensure!(there()? != Some(u64::from(id)), "their program still runs");
        if script == blocklist {
            ensure!(arrive(&lab, BAD, 3)? == 0, "the list is not in force");
        }
        let done = weir.stop()?;
        ensure!(done.status.success() && done.stderr.contains("put back"), "{done}");
        ensure!(there()? == Some(u64::from(id)), "their program was not put back");
        ensure!(arrive(&lab, BAD, 3)? == 3, "something still drops");
    }
    Ok(())
}

/// More prefixes are hit than there is room for: all are dropped, and those without a counter of their own are counted.
fn full_hits() -> Result<()> {
    let lab = Lab::new()?;
    let script = r#"use blocklist(iface="veth0", audit="off", prefixes=(198.51.100.1, 198.51.100.2, 198.51.100.3), max_hits=2) as bl;"#;
    let mut weir = Weir::script(script).at(&lab).start()?;
    for host in 1..=3 {
        ensure!(arrive(&lab, Ipv4Addr::new(198, 51, 100, host), 4)? == 0, "host {host} passes");
    }
    weir.wait_stderr("word of it", |text| {
        text.contains("`.hits` is full with 2 prefixes") && text.contains("give it more with `max_hits=8`")
    })?;
    let done = weir.stop()?.clean()?;
    let hits = done.map("@bl.hits");
    ensure!(hits.len() == 2 && hits.values().all(|v| v.contains(".packets = 4,")), "{done}");
    done.expect_entry("@bl.stats", "dropped", 12)?;
    done.expect_entry("@bl.stats", "uncounted", 4)
}

/// Each judges by its own policy: what one of them denies does not pass.
fn two_identities() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    lab.dir.write("policy.toml", &policy(&group.path(), &[4000, 5001, 5002]))?;
    lab.dir.write("second.toml", &policy(&group.path(), &[4000, 5002, 5003]))?;
    let second = r#"use identity(iface="veth0", policy=file("second.toml"), audit="off", mark_mask=0xff0000) as two;"#;
    let weir = Weir::script(&format!("{IDENTITY} {second} end {{ print(@id.verdicts); print(@two.verdicts); }}"))
        .at(&lab)
        .start()?;
    for (port, expected) in [(5001, 0), (5002, 3), (5003, 0)] {
        ensure!(from_pod(&lab, port, 3)? == expected, "port {port}");
    }
    let done = weir.stop()?.clean()?;
    done.expect_entry("@id.verdicts", "port 5002", "{ .packets = 3, .bytes = 138 }")?;
    done.expect_entry("@two.verdicts", "port 5002", "{ .packets = 3, .bytes = 138 }")
}

/// Killed at some moment of a reload: of what is in both lists nothing ever passes, `weir status` names the dead owner, `weir reload` brings
/// the new list in force, `weir stop` ends it.
fn killed_in_reload() -> Result<()> {
    let lab = Lab::new()?;
    let name = format!("weirtest-{}-faults", std::process::id());
    let hosts = |second: u8| -> String { (0..3000u32).map(|i| format!("172.{second}.{}.{}\n", i >> 8, i & 255)).collect() };
    let lists = [format!("{BAD}\n{}", hosts(16)), format!("{BAD}\n{OTHER}\n{}", hosts(17))];
    let script = format!(r#"use blocklist(iface="veth0", audit="off", pin="{name}", prefixes=file("bad.txt")) as bl;"#);
    let tool = |command: &str| Weir::new([command, name.as_str()]).at(&lab).run();
    lab.dir.write("bad.txt", &lists[0])?;
    let address = SocketAddr::new(lab.node4().into(), PORT);
    let first = Weir::script(&script).at(&lab).start()?;
    let socket = traffic::listen_udp(&lab.node, address)?;
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| -> Result<()> {
        let flood = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                traffic::send_frames(&lab, &[(64, Frame::udp(BAD, lab.node4(), PORT))])?;
            }
            Ok(())
        });
        let rounds = (|| -> Result<()> {
            let mut running = Some(first);
            for round in 0..2u64 {
                let weir = match running.take() {
                    Some(weir) => weir,
                    None => Weir::script(&script).at(&lab).start()?,
                };
                replace(&lab, "bad.txt", &lists[1 - round as usize])?;
                // Somewhere on the way: files are read a moment after they were written.
                std::thread::sleep(Duration::from_millis(50 + 15 * round));
                weir.end_with(Signal::SIGKILL)?;
                let status = tool("status")?;
                ensure!(status.status.success() && status.stdout.contains(&name), "{status}");
                let reload = tool("reload")?;
                ensure!(reload.status.success(), "{reload}");
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        rounds
    });
    let verdicts = result.and_then(|()| {
        traffic::settle(&lab)?;
        let passed = traffic::received(&socket)?;
        drop(socket);
        // The last list has one of them only.
        Ok((passed, arrive(&lab, BAD, 3)?, arrive(&lab, OTHER, 3)?))
    });
    let stopped = tool("stop")?;
    ensure!(
        verdicts? == (0, 0, 3),
        "what passed: under flood, of the last list, of the one before"
    );
    ensure!(stopped.status.success(), "{stopped}");
    ensure!(arrive(&lab, BAD, 3)? == 3, "still in force");
    Ok(())
}

/// Sets the wall clock, and puts it right when the value goes.
struct Clock(i64);

impl Clock {
    fn jump(seconds: i64) -> Result<Self> {
        Self::shift(seconds)?;
        Ok(Self(seconds))
    }

    fn shift(seconds: i64) -> Result<()> {
        let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
        let then = TimeSpec::new(now.tv_sec() + seconds, now.tv_nsec());
        clock_settime(ClockId::CLOCK_REALTIME, then).context("cannot set the clock")
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if let Err(e) = Self::shift(-self.0) {
            eprintln!("test support: {e:#}");
        }
    }
}

/// The wall clock jumps by a day, there and back: what has its time left stays, what has none left ends.
fn clock_jumps() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    lab.dir.write("policy.toml", &policy(&group.path(), &[9, 4000, PORT]))?;
    lab.dir.write("bad.txt", &format!("{BAD} ttl=1h\n{OTHER} ttl=20s\n"))?;
    let script = r#"
use blocklist(iface="veth0", audit="off", prefixes=file("bad.txt"), duration=2h) as bl;
use identity(iface="veth0", policy=file("policy.toml"), audit="off", duration=1h) as id;
use flows(iface="veth0", direction="ingress", idle=1h, export="flows.json") as fl;
interval:s:1 { print(@fl.stats); }
"#;
    let mut weir = Weir::script(script).at(&lab).start()?;
    ensure!(
        arrive(&lab, BAD, 2)? == 0 && arrive(&lab, OTHER, 2)? == 0,
        "the list is not in force"
    );
    ensure!(from_pod(&lab, 5001, 2)? == 0, "the policy is not in force");
    for seconds in [86_400, -86_400] {
        let _clock = Clock::jump(seconds)?;
        let ticks = |text: &str| text.matches("@fl.stats[flows]").count();
        let seen = ticks(&weir.stdout());
        weir.wait_stdout("two seconds", |text| ticks(text) >= seen + 2)?;
        ensure!(arrive(&lab, BAD, 2)? == 0, "an entry ended by the wall clock");
        ensure!(from_pod(&lab, 5001, 2)? == 0, "the policy ended by the wall clock");
    }
    ensure!(!weir.stderr().contains("is over"), "{}", weir.stderr());
    wait_for("the end of an entry whose time is over", || {
        Ok((arrive(&lab, OTHER, 1)? == 1).then_some(()))
    })?;
    let done = weir.stop()?;
    ensure!(done.status.success(), "{done}");
    let text = std::fs::read_to_string(lab.dir.path().join("flows.json"))?;
    let idle = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    ensure!(
        idle.into_iter().all(|report| report["flowEndReason"] != 1),
        "a flow ended by the wall clock: {text}"
    );
    done.nothing_left().map(drop)
}
