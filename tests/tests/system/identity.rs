//! The native `identity` with real processes in cgroups, real connections and exact counts. The pod is the `peer` of a lab: a process of
//! its cgroup lives in that namespace.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use weir_tests::cgroup::Cgroup;
use weir_tests::frame::Frame;
use weir_tests::harness::Test;
use weir_tests::kernel::KernelState;
use weir_tests::net::{Lab, PEER_IF};
use weir_tests::output::map;
use weir_tests::traffic::{listen_udp, received, send_frames_from, send_udp};
use weir_tests::weir::{Finished, Running, Weir};
use weir_tests::{patience, wait_for};

pub const TESTS: &[Test] = &[
    Test::new("identity_decides_what_a_pod_sends", sends),
    Test::new("identity_decides_what_is_sent_to_a_pod", receives),
    Test::new("identity_marks_sockets_and_keeps_others_from_it", marks),
    Test::new("identity_marks_what_is_accepted", accepted),
    Test::new("identity_of_connections_older_than_weir", older_connections),
    Test::new("identity_says_when_denied_is_nearly_full", denied_limit),
    Test::new("identity_policy_is_read_again", reload),
    Test::new("identity_follows_pods_that_come", pods),
    Test::new("identity_between_two_pods", between_pods),
    Test::new("identity_dry_run_drops_nothing", dry_run),
    Test::new("identity_ends_after_its_duration", duration),
    Test::new("identity_bad_policies_are_refused", refused),
    Test::new("nothing_is_left_of_identity", leftovers).alone(),
];

/// Long enough for a handshake within one machine, also an emulated one.
const SILENCE: Duration = Duration::from_millis(700);

fn policy(group: &Cgroup, rules: &str) -> String {
    format!(
        "default = \"deny\"\n[[identity]]\nname = \"web\"\nnumber = 7\ncgroup = \"{}\"\n{rules}",
        group.path()
    )
}

fn script(params: &str, blocks: &str) -> String {
    format!(r#"use identity(iface="veth0", policy=file("policy.toml"), audit="off"{params}) as id; {blocks}"#)
}

fn connects(ns: &weir_tests::net::Netns, to: SocketAddr) -> Result<bool> {
    ns.run(|| match TcpStream::connect_timeout(&to, SILENCE) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(patience()))?;
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Ok(false),
        Err(e) => Err(e).context("neither connected nor silent"),
    })
}

/// Sends a byte to everybody who connects.
fn serve(ns: &weir_tests::net::Netns, at: SocketAddr) -> Result<()> {
    let listener = ns.run(|| TcpListener::bind(at).with_context(|| format!("cannot listen at {at}")))?;
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"x");
        }
    });
    Ok(())
}

fn stats(done: &Finished) -> BTreeMap<String, u64> {
    let stats = map(&done.stdout, "@id.stats").into_iter();
    stats.filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect()
}

fn sends() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    let rules = format!(
        "[[rule]]\nname = \"api\"\nfrom = \"web\"\nto = [\"{}\", \"{}\"]\nport = 8080\nproto = \"tcp\"\nverdict = \"allow\"\n\
         [[rule]]\nname = \"logs\"\nfrom = \"web\"\nto = [\"10.0.0.0/8\", \"fd00::/8\"]\nport = \"5000-5001\"\nproto = \"udp\"\nverdict = \"allow\"\n\
         [[rule]]\nname = \"not that\"\nto = \"{}\"\nport = 5000\nverdict = \"deny\"\n",
        lab.node4(),
        lab.node6(),
        lab.node4(),
    );
    lab.dir.write("policy.toml", &policy(&group, &rules))?;
    let weir = Weir::script(&script(
        "",
        "id:deny { @denied[id.sender, id.rule, id.from_pod, ip.dst, port.dst] = count(); } id:allow { @allowed[id.sender, id.rule] = count(); } \
         end { print(@id.verdicts); print(@id.stats); print(@id.denied); }",
    ))
    .at(&lab)
    .start()?;
    let (node4, node6) = (IpAddr::from(lab.node4()), IpAddr::from(lab.node6()));
    let (peer4, peer6) = (IpAddr::from(lab.peer4()), IpAddr::from(lab.peer6()));
    for ip in [node4, node6] {
        serve(&lab.node, (ip, 8080).into())?;
        serve(&lab.node, (ip, 8081).into())?;
        ensure!(connects(&lab.peer, (ip, 8080).into())?, "{ip}: the allowed port is closed");
        ensure!(!connects(&lab.peer, (ip, 8081).into())?, "{ip}: the denied port is open");
    }
    // The first datagram, too.
    for (source, ip, port, expected) in [
        (peer4, node4, 5001, 3),
        (peer6, node6, 5001, 3),
        (peer6, node6, 5000, 3),
        (peer4, node4, 5000, 0),
        (peer4, node4, 5002, 0),
    ] {
        let socket = listen_udp(&lab.node, (ip, port).into())?;
        send_udp(&lab.peer, source, (ip, port).into(), 3)?;
        if expected > 0 {
            let mut arrived = 0;
            wait_for("the datagrams", || {
                arrived += received(&socket)?;
                Ok((arrived == expected).then_some(()))
            })?;
        } else {
            ensure!(received(&socket)? == 0, "{ip}:{port}: a denied datagram came through");
        }
    }
    // What the host begins is not the pod's; its answers pass.
    serve(&lab.peer, (peer4, 9090).into())?;
    ensure!(connects(&lab.node, (peer4, 9090).into())?, "the pod may not answer");
    let done = weir.stop()?.clean()?;
    let denied = done.map("@denied");
    let of = |key: String| denied.get(&key).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    ensure!(of(format!("web, not that, 1, {node4}, 5000")) == 3, "{denied:?}");
    ensure!(of(format!("web, , 1, {node4}, 5002")) == 3, "{denied:?}");
    // One SYN, or more when it was sent again.
    for ip in [node4, node6] {
        ensure!(of(format!("web, , 1, {ip}, 8081")) >= 1, "{denied:?}");
    }
    ensure!(denied.len() == 4, "{denied:?}");
    let stats = stats(&done);
    let total: u64 = denied.values().filter_map(|n| n.parse::<u64>().ok()).sum();
    ensure!(stats.get("denied") == Some(&total), "{stats:?} {denied:?}");
    ensure!(stats.get("unknown") == Some(&0) && stats.get("undecided") == Some(&0), "{stats:?}");
    let allowed = done.map("@allowed");
    ensure!(allowed.get("web, logs").map(String::as_str) == Some("9"), "{allowed:?}");
    ensure!(
        done.stdout.contains("@id.verdicts[logs]: { .packets = 9, .bytes = "),
        "the rule's own counter: {done}"
    );
    ensure!(
        done.stdout
            .contains(&format!("@id.denied[web -> {node4} udp/5002]: {{ .packets = 3, .bytes = 138 }}")),
        "{done}"
    );
    Ok(())
}

fn receives() -> Result<()> {
    let (lab, clients, group) = (Lab::new()?, Cgroup::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    let text = format!(
        "[[identity]]\nname = \"client\"\ncgroup = \"{}\"\n[[identity]]\nname = \"web\"\ncgroup = \"{}\"\n\
         [[rule]]\nfrom = \"client\"\nto = \"web\"\nport = [8080, 5001]\nverdict = \"allow\"\n",
        clients.path(),
        group.path(),
    );
    lab.dir.write("policy.toml", &text)?;
    let weir = Weir::script(&script(
        r#", direction="to_pod", unknown="deny""#,
        "id:deny { @denied[id.sender, id.from_pod, port.dst] = count(); } id:unknown { @unknown[port.dst] = count(); }",
    ))
    .at(&lab)
    .start()?;
    let ips = [IpAddr::from(lab.peer4()), IpAddr::from(lab.peer6())];
    for ip in ips {
        serve(&lab.peer, (ip, 8080).into())?;
        // Only errors of the kernel come back from another process.
        let connect = move |port| match TcpStream::connect_timeout(&(ip, port).into(), SILENCE) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            other => other.map(drop),
        };
        let good = clients.run(&lab.node, move || connect(8080))?;
        ensure!(good.is_ok(), "{ip}: {good:?}");
        // Another port is denied; whoever is nobody is unknown.
        let bad = clients.run(&lab.node, move || connect(8081))?;
        ensure!(matches!(&bad, Err(e) if e.kind() == io::ErrorKind::TimedOut), "{ip}: {bad:?}");
        ensure!(!connects(&lab.node, (ip, 8080).into())?, "{ip}: open for everybody");
        // The first datagram of a socket that is not connected.
        let socket = listen_udp(&lab.peer, (ip, 5001).into())?;
        let local: IpAddr = if ip.is_ipv4() { lab.node4().into() } else { lab.node6().into() };
        let sent = clients.run(&lab.node, move || {
            let sender = UdpSocket::bind((local, 0))?;
            sender.send_to(b"weir", (ip, 5001)).map(drop)
        })?;
        ensure!(sent.is_ok(), "{sent:?}");
        wait_for("the datagram", || Ok((received(&socket)? == 1).then_some(())))?;
    }
    let done = weir.stop()?.clean()?;
    let (denied, unknown) = (done.map("@denied"), done.map("@unknown"));
    ensure!(denied.keys().eq(["client, 0, 8081"]), "{denied:?}");
    ensure!(unknown.keys().eq(["8080"]), "{unknown:?}");
    Ok(())
}

fn mark_of(socket: &impl AsRawFd) -> io::Result<u32> {
    let (mut mark, mut len) = (0u32, 4);
    // SAFETY: writes four bytes into `mark`.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw mut mark).cast(),
            &raw mut len,
        )
    };
    if ret == 0 { Ok(mark) } else { Err(io::Error::last_os_error()) }
}

fn set_mark(socket: &impl AsRawFd, mark: u32) -> io::Result<()> {
    // SAFETY: reads four bytes of `mark`.
    let ret = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, (&raw const mark).cast(), 4) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is(found: u32, expected: u32) -> io::Result<()> {
    // The number that is not as expected comes back as the error's.
    if found == expected {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(10_000 + found as i32))
    }
}

fn marks() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    lab.dir.write("policy.toml", &policy(&group, ""))?;
    let node = IpAddr::from(lab.node4());
    // A process whose sockets are older than the program; it goes on when it hears a byte.
    let (reader, mut writer) = io::pipe()?;
    let older = std::thread::scope(|scope| -> Result<(io::Result<()>, Running)> {
        let (group, lab) = (&group, &lab);
        let (mut ready, tell) = io::pipe()?;
        let older = scope.spawn(move || {
            let mut state = Some((reader, tell));
            group.run(&lab.node, move || {
                let Some((mut reader, mut tell)) = state.take() else {
                    return Ok(());
                };
                let (connected, unconnected) = (UdpSocket::bind((node, 0))?, UdpSocket::bind((node, 0))?);
                tell.write_all(b"x")?;
                let mut byte = [0];
                reader.read_exact(&mut byte)?;
                is(mark_of(&connected)?, 0)?;
                connected.connect((node, 9))?;
                is(mark_of(&connected)?, 7)?;
                unconnected.send_to(b"weir", (node, 9))?;
                is(mark_of(&unconnected)?, 7)
            })
        });
        let mut byte = [0];
        ready.read_exact(&mut byte)?;
        let weir = Weir::script(&script("", "end { print(@id.stats); }")).at(lab).start()?;
        writer.write_all(b"x")?;
        let older = older.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((older, weir))
    });
    let (older, weir) = older?;
    ensure!(older.is_ok(), "older sockets: {older:?}");
    let newer = group.run(&lab.node, move || {
        let socket = UdpSocket::bind((node, 0))?;
        is(mark_of(&socket)?, 7)?;
        // Others' bits are theirs; ours are not.
        set_mark(&socket, 0x0002_0007)?;
        is(mark_of(&socket)?, 0x0002_0007)?;
        set_mark(&socket, 8)
    })?;
    ensure!(
        matches!(&newer, Err(e) if e.raw_os_error() == Some(libc::EPERM)),
        "another mark is refused: {newer:?}"
    );
    // Whoever has no identity has no mark either, and may set any.
    lab.node.run(|| {
        let socket = UdpSocket::bind((node, 0))?;
        ensure!(mark_of(&socket)? == 0, "a mark without an identity");
        set_mark(&socket, 8).context("refused without an identity")
    })?;
    let done = weir.stop()?.clean()?;
    let stats = stats(&done);
    ensure!(stats.get("stamped") == Some(&3) && stats.get("refused") == Some(&1), "{stats:?}");
    Ok(())
}

/// What is accepted has the mark of who listens, and can be given no other.
fn accepted() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    lab.dir.write("policy.toml", &policy(&group, ""))?;
    let at = SocketAddr::new(lab.node4().into(), 8080);
    let weir = Weir::script(&script("", "end { print(@id.stats); }")).at(&lab).start()?;
    let refused = group.run(&lab.node, move || {
        let listener = TcpListener::bind(at)?;
        let client = TcpStream::connect(at)?;
        let (accepted, _) = listener.accept()?;
        is(mark_of(&client)?, 7)?;
        is(mark_of(&accepted)?, 7)?;
        set_mark(&accepted, 8)
    })?;
    ensure!(
        matches!(&refused, Err(e) if e.raw_os_error() == Some(libc::EPERM)),
        "another mark is refused: {refused:?}"
    );
    let done = weir.stop()?.clean()?;
    let stats = stats(&done);
    // The one that listens and the one that connects.
    ensure!(stats.get("stamped") == Some(&2) && stats.get("refused") == Some(&1), "{stats:?}");
    Ok(())
}

/// Nobody saw it begin, and the rules would deny it: `unknown` decides. What was dropped is sent again, and arrives when weir is gone.
fn older_connections() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    lab.dir.write("policy.toml", &policy(&group, ""))?;
    let at = SocketAddr::new(lab.node4().into(), 8080);
    let listener = lab.node.run(|| TcpListener::bind(at).context("cannot listen"))?;
    let mut pod = lab
        .peer
        .run(|| TcpStream::connect_timeout(&at, patience()).context("cannot connect"))?;
    let (mut node, _) = listener.accept()?;
    node.set_read_timeout(Some(patience()))?;
    for unknown in ["deny", "allow"] {
        let mut weir = Weir::script(&script(&format!(", unknown=\"{unknown}\""), "interval:ms:50 { print(@id.stats); }"))
            .at(&lab)
            .start()?;
        pod.write_all(b"x")?;
        weir.wait_stdout("a packet of the connection", |text| {
            map(text, "@id.stats").get("undecided").is_some_and(|n| n != "0")
        })?;
        let mut byte = [0];
        if unknown == "deny" {
            node.set_nonblocking(true)?;
            let seen = node.read(&mut byte);
            node.set_nonblocking(false)?;
            ensure!(
                matches!(&seen, Err(e) if e.kind() == io::ErrorKind::WouldBlock),
                "what nobody knows came through: {seen:?}"
            );
        } else {
            node.read_exact(&mut byte).context("what nobody knows did not come through")?;
        }
        let done = weir.stop()?.clean()?;
        ensure!(stats(&done).get("denied") == Some(&0), "{unknown}: {done}");
        if unknown == "deny" {
            node.read_exact(&mut byte).context("the gate stayed shut")?;
        }
    }
    Ok(())
}

/// More is denied than `.denied` has room for: weir says so, and everything is counted all the same.
fn denied_limit() -> Result<()> {
    const SENT: u16 = 17_000;
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    lab.dir.write("policy.toml", &policy(&group, ""))?;
    let mut weir = Weir::script(&script("", "end { print(@id.stats); }")).at(&lab).start()?;
    let frames: Vec<_> = (1000..1000 + SENT)
        .map(|port| (1, Frame::udp(lab.peer4(), lab.node4(), port)))
        .collect();
    send_frames_from(&lab.peer, PEER_IF, &frames)?;
    weir.wait_stderr("word of it", |text| {
        text.contains("`.denied` has ") && text.contains(" entries of at most 16384")
    })?;
    let done = weir.stop()?.clean()?;
    let stats = stats(&done);
    ensure!(
        stats.get("denied") == Some(&u64::from(SENT)) && stats.get("uncounted") == Some(&0),
        "{stats:?}"
    );
    ensure!(done.stderr.matches("`.denied` has ").count() == 1, "said more than once: {done}");
    Ok(())
}

/// How many of `count` datagrams from the pod to the port arrive; what comes later on the same cable has been waited for.
fn arrive(lab: &Lab, port: u16, count: u32) -> Result<u32> {
    let node = IpAddr::from(lab.node4());
    let socket = listen_udp(&lab.node, (node, port).into())?;
    let last = listen_udp(&lab.node, (node, 4000).into())?;
    send_udp(&lab.peer, lab.peer4().into(), (node, port).into(), count)?;
    send_udp(&lab.peer, lab.peer4().into(), (node, 4000).into(), 1)?;
    wait_for("the last datagram", || Ok((received(&last)? == 1).then_some(())))?;
    received(&socket)
}

fn port_rule(port: u16, verdict: &str) -> String {
    format!("[[rule]]\nname = \"port {port}\"\nport = {port}\nverdict = \"{verdict}\"\n")
}

fn replace(lab: &Lab, text: &str) -> Result<()> {
    lab.dir.write("new", text)?;
    std::fs::rename(lab.dir.path().join("new"), lab.dir.path().join("policy.toml")).context("cannot replace the policy")
}

fn reload() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    let of = |one: &str, two: &str| {
        let rules = [port_rule(4000, "allow"), port_rule(5001, one), port_rule(5002, two)].concat();
        policy(&group, &rules)
    };
    lab.dir.write("policy.toml", &of("allow", "deny"))?;
    let text = script("", "end { print(@id.verdicts); }").replace("audit=\"off\"", "audit=\"audit.log\"");
    let mut weir = Weir::script(&text).at(&lab).start()?;
    let mut expected = [0, 0];
    for round in 0..6 {
        let first = round % 2 == 0;
        ensure!(arrive(&lab, 5001, 5)? == if first { 5 } else { 0 }, "round {round}: port 5001");
        ensure!(arrive(&lab, 5002, 5)? == if first { 0 } else { 5 }, "round {round}: port 5002");
        expected = expected.map(|n| n + 5);
        let next = if first { of("deny", "allow") } else { of("allow", "deny") };
        replace(&lab, &next)?;
        weir.wait_stderr("word of the reload", |text| {
            text.matches("policy read again: 2 rules added, 2 removed").count() == round + 1
        })?;
    }
    // What is wrong is said, with its line, and changes nothing.
    for (text, message) in [
        (
            "default = \"deny\"\n[[rule]]\nverdict = \"alow\"\n",
            "policy.toml:3: `verdict` is \"allow\" or \"deny\", found \"alow\"; the policy in force stays",
        ),
        ("", "policy.toml is empty; the policy in force stays"),
    ] {
        replace(&lab, text)?;
        weir.wait_stderr(message, |stderr| stderr.contains(message))?;
        ensure!(
            arrive(&lab, 5001, 1)? == 1 && arrive(&lab, 5002, 1)? == 0,
            "a bad policy is in force"
        );
        expected = expected.map(|n| n + 1);
    }
    // So is a writer that does not come to an end.
    let mut half = std::fs::File::create(lab.dir.path().join("policy.toml"))?;
    half.write_all(b"default = ")?;
    weir.wait_stderr("word of the writer", |text| {
        text.contains("`id`: `policy.toml` has been written since ")
    })?;
    drop(half);
    weir.wait_stderr("word of the policy", |text| {
        text.split_once("`id`: `policy.toml` is read now, after ")
            .is_some_and(|(_, behind)| behind.contains("policy.toml:1: ") && behind.contains("the policy in force stays"))
    })?;
    std::fs::remove_file(lab.dir.path().join("policy.toml"))?;
    ensure!(arrive(&lab, 5001, 1)? == 1, "without its file the policy is gone");
    expected[0] += 1;
    let done = weir.stop()?;
    // Rules keep their counters by their names.
    for (port, count) in [(5001, expected[0]), (5002, expected[1])] {
        let line = format!("@id.verdicts[port {port}]: {{ .packets = {count}, .bytes = {} }}", count * 46);
        ensure!(done.stdout.contains(&line), "no `{line}`: {done}");
    }
    // Who, when and what is in the log; what changed nothing is not.
    let log = std::fs::read_to_string(lab.dir.path().join("audit.log"))?;
    let lines: Vec<serde_json::Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(
        lines.len() == 8 && lines[0]["action"] == "start" && lines[0]["added"] == 3 && lines[7]["action"] == "end",
        "{log}"
    );
    ensure!(
        lines
            .iter()
            .all(|l| l["uid"] == 0 && l["time"].is_string() && l["list"] == "policy" && l["source"] == "policy.toml"),
        "{log}"
    );
    ensure!(
        lines[1]["action"] == "reload"
            && lines[1]["add"] == serde_json::json!(["deny port 5001", "allow port 5002"])
            && lines[1]["remove"] == serde_json::json!(["allow port 5001", "deny port 5002"]),
        "{log}"
    );
    done.nothing_left().map(drop)
}

fn pods() -> Result<()> {
    const UID: &str = "0e9f6a1c-1111-2222-3333-1234567890ab";
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let slice = group.below("kubepods-burstable.slice")?;
    lab.dir.write(
        "policy.toml",
        "[[identity]]\nname = \"web\"\npod = \"shop/web-*\"\n[[rule]]\nfrom = \"web\"\nto = \"web\"\nverdict = \"allow\"\n",
    )?;
    let gone = Weir::script(&script(r#", pods="pods", unknown="allow""#, "begin { exit(); }"))
        .at(&lab)
        .run()?;
    ensure!(
        gone.status.success()
            && gone
                .stderr
                .contains("nobody is `web` now: no cgroup matches, and `pods`, by which pods are known, is no directory"),
        "{gone}"
    );
    std::fs::create_dir(lab.dir.path().join("pods"))?;
    let mut weir = Weir::script(&script(
        r#", pods="pods", unknown="allow""#,
        "id:deny { @[id.sender] = count(); } interval:ms:200 { print(@id.entries); }",
    ))
    .at(&lab)
    .start()?;
    weir.wait_stderr("word of nobody", |text| text.contains("nobody is `web` now"))?;
    ensure!(arrive(&lab, 5001, 1)? == 1, "not known, and denied");
    // Kubelet makes the directory, the runtime the cgroup and its processes.
    std::fs::create_dir(lab.dir.path().join(format!("pods/shop_web-7d4b9_{UID}")))?;
    let pod = slice.below(&format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_")))?;
    let container = pod.below("cri-containerd-1.scope")?;
    let resident = container.resident(&lab.peer)?;
    weir.wait_stdout("the pod", |text| {
        text.contains("@id.entries[interfaces]: 1") && text.contains("@id.entries[cgroups]: 1")
    })?;
    let node = IpAddr::from(lab.node4());
    let socket = listen_udp(&lab.node, (node, 5001).into())?;
    send_udp(&lab.peer, lab.peer4().into(), (node, 5001).into(), 2)?;
    // And when it goes, its interface has nobody's name.
    drop(resident);
    weir.wait_stdout("the pod's end", |text| {
        text.rfind("@id.entries[interfaces]: 0") > text.rfind("@id.entries[interfaces]: 1")
    })?;
    ensure!(received(&socket)? == 0, "the pod may not send there");
    drop((container, pod));
    weir.stop()?.clean()?.expect_map("@", [("web", 2)])
}

/// Two pods behind two veths, their packets forwarded by the host: the mark is lost on the way into the host, and both doors know the sender.
fn between_pods() -> Result<()> {
    let (lab, other) = (Lab::new()?, Lab::new()?);
    let (group, group2) = (Cgroup::new()?, Cgroup::new()?);
    let _pods = (group.resident(&lab.peer)?, group2.resident(&other.peer)?);
    let (a, b) = (lab.peer4(), std::net::Ipv4Addr::new(10, 255, 1, 2));
    let second = other.peer.name();
    lab.node
        .ip(&["link", "add", "veth1", "type", "veth", "peer", "name", "eth9", "netns", second])?;
    lab.node.ip(&["addr", "add", "10.255.1.1/30", "dev", "veth1"])?;
    lab.node.ip(&["link", "set", "veth1", "up"])?;
    lab.node.sysctl("net/ipv4/ip_forward", "1")?;
    other.peer.ip(&["addr", "add", "10.255.1.2/30", "dev", "eth9"])?;
    other.peer.ip(&["link", "set", "eth9", "up"])?;
    other.peer.ip(&["route", "add", &format!("{a}/32"), "via", "10.255.1.1"])?;
    lab.peer.ip(&["route", "add", "10.255.1.0/30", "via", &lab.node4().to_string()])?;
    let text = format!(
        "default = \"deny\"\n[[identity]]\nname = \"a\"\nnumber = 7\ncgroup = \"{}\"\n[[identity]]\nname = \"b\"\nnumber = 8\ncgroup = \"{}\"\n\
         [[rule]]\nname = \"api\"\nfrom = \"a\"\nto = \"b\"\nport = [5001, 8080]\nverdict = \"allow\"\n",
        group.path(),
        group2.path()
    );
    lab.dir.write("policy.toml", &text)?;
    let script = r#"use identity(iface="veth*", policy=file("policy.toml"), audit="off", direction="both", unknown="deny") as id;
id:allow { @allowed[id.sender, id.from_pod, port.dst] = count(); } id:deny { @denied[id.sender, id.from_pod, port.dst] = count(); }
end { print(@id.stats); }"#;
    let weir = Weir::script(script).at(&lab).start()?;
    let sends = |from: &Cgroup, ns: &weir_tests::net::Netns, local: IpAddr, to: SocketAddr| -> Result<()> {
        let sent = from.run(ns, move || {
            let socket = UdpSocket::bind((local, 0))?;
            is(mark_of(&socket)?, if local == IpAddr::from(b) { 8 } else { 7 })?;
            (0..3).try_for_each(|_| socket.send_to(b"weir", to).map(drop))
        })?;
        sent.context("cannot send")
    };
    let (open, closed) = (
        listen_udp(&other.peer, (b, 5001).into())?,
        listen_udp(&other.peer, (b, 5002).into())?,
    );
    let back = listen_udp(&lab.peer, (a, 5001).into())?;
    sends(&group, &lab.peer, a.into(), (b, 5002).into())?;
    sends(&group2, &other.peer, b.into(), (a, 5001).into())?;
    sends(&group, &lab.peer, a.into(), (b, 5001).into())?;
    let mut arrived = 0;
    wait_for("the datagrams", || {
        arrived += received(&open)?;
        Ok((arrived == 3).then_some(()))
    })?;
    ensure!(received(&closed)? == 0 && received(&back)? == 0, "a denied datagram came through");
    serve(&other.peer, (b, 8080).into())?;
    ensure!(connects(&lab.peer, (b, 8080).into())?, "the other pod may not answer");
    let done = weir.stop()?.clean()?;
    let (allowed, denied) = (done.map("@allowed"), done.map("@denied"));
    for door in ["a, 1, 5001", "a, 0, 5001"] {
        ensure!(allowed.get(door).map(String::as_str) == Some("3"), "{door}: {done}");
    }
    ensure!(denied.len() == 2, "{done}");
    for door in ["a, 1, 5002", "b, 1, 5001"] {
        ensure!(denied.get(door).map(String::as_str) == Some("3"), "{door}: {done}");
    }
    ensure!(stats(&done).get("disagree") == Some(&0), "{done}");
    Ok(())
}

fn dry_run() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    lab.dir.write("policy.toml", &policy(&group, ""))?;
    let weir = Weir::script(&script(", dry_run=true", "id:deny { @ = count(); }"))
        .at(&lab)
        .start()?;
    ensure!(arrive(&lab, 5001, 4)? == 4, "a dry run drops");
    weir.stop()?.clean()?.expect_map("@", [("", 5)])
}

fn duration() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    lab.dir.write("policy.toml", &policy(&group, &port_rule(4000, "allow")))?;
    // A slow machine may not have sent anything when a short duration is over already.
    for seconds in [2, 10, 60] {
        let started = Instant::now();
        let text = script(&format!(", duration={seconds}s"), "").replace("audit=\"off\"", "audit=\"audit.log\"");
        let mut weir = Weir::script(&text).at(&lab).start()?;
        let passed = arrive(&lab, 5001, 4)?;
        let is_late = started.elapsed() >= Duration::from_secs(seconds);
        ensure!(passed == 0 || is_late, "nothing is denied");
        weir.wait_stderr("the end of enforcement", |text| {
            text.contains("its `duration` is over: everything passes from now on")
        })?;
        ensure!(arrive(&lab, 5001, 4)? == 4, "still denied after the duration");
        weir.stop()?.nothing_left()?;
        // What was in force ended with its time, and not once more with weir.
        let path = lab.dir.path().join("audit.log");
        let log = std::fs::read_to_string(&path)?;
        let ends: Vec<&str> = log.lines().filter(|l| l.contains(r#""action":"end""#)).collect();
        ensure!(ends.len() == 1 && ends[0].contains(r#""removed":1"#), "{log}");
        std::fs::remove_file(path)?;
        if passed == 0 {
            return Ok(());
        }
    }
    bail!("this machine takes more than a minute to send four datagrams")
}

fn refused() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    for (text, params, words) in [
        (
            "[[rule]]\nfrom = \"fronted\"\nverdict = \"allow\"\n[[identity]]\nname = \"frontend\"\ncgroup = \"/\"\n",
            "",
            &["policy.toml:3: no identity `fronted`; did you mean `frontend`?"][..],
        ),
        ("default = allow\n", "", &["policy.toml:1: string values must be quoted"]),
        (
            "",
            "",
            &[
                "policy.toml is empty",
                "a policy that lets everything pass says `default = \"allow\"`",
            ],
        ),
        (
            "[[rule]]\nport = [1, 2, 3]\nverdict = \"deny\"\n",
            ", max=2",
            &["the policy takes 3 rows", "but `max` is 2", "add `max=4`"],
        ),
        (
            "default = \"deny\"\n",
            ", mark_mask=0x101",
            &["`mark_mask` is 0x101: its bits are not side by side"],
        ),
        (
            "default = \"deny\"\n",
            ", unknown=\"drop\"",
            &["`unknown` takes one of \"allow\", \"deny\""],
        ),
    ] {
        lab.dir.write("policy.toml", text)?;
        Weir::script(&script(params, "")).at(&lab).run()?.refused(words)?;
    }
    std::fs::remove_file(lab.dir.path().join("policy.toml"))?;
    Weir::script(&script("", ""))
        .at(&lab)
        .run()?
        .refused(&["cannot read `policy.toml`"])?;
    let literal = r#"use identity(iface="veth0", policy="policy.toml") as id;"#;
    Weir::script(literal)
        .at(&lab)
        .run()?
        .refused(&["`policy` takes `file(\"path\")`"])?;
    // A policy with nobody in it is odd, but no mistake.
    lab.dir.write("policy.toml", &policy(&group, ""))?;
    let weir = Weir::script(&script("", "")).at(&lab).start()?;
    ensure!(!weir.stderr().contains("nobody"), "the cgroup is there: {}", weir.stderr());
    weir.stop()?.clean().map(drop)
}

fn leftovers() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let _pod = group.resident(&lab.peer)?;
    lab.dir.write("policy.toml", &policy(&group, &port_rule(4000, "allow")))?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGKILL] {
        let before = KernelState::now(Some(&lab.node))?;
        let weir = Weir::script(&script("", "id:deny { @ = count(); }")).at(&lab).start()?;
        ensure!(arrive(&lab, 5001, 2)? == 0, "nothing is denied");
        let _ = weir.end_with(signal)?;
        wait_for("nothing to be left", || {
            Ok(before.assert_same(Some(&lab.node)).is_ok().then_some(()))
        })
        .or_else(|_| before.assert_same(Some(&lab.node)))?;
        ensure!(arrive(&lab, 5001, 2)? == 2, "{signal}: still denied");
    }
    Ok(())
}
