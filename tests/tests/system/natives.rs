//! Natives with real traffic: what the blocklist drops while its files change and its time passes, and what it refuses.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weir_tests::frame::Frame;
use weir_tests::gate;
use weir_tests::harness::Test;
use weir_tests::net::{Lab, NODE_IF, PEER_IF};
use weir_tests::output::map;
use weir_tests::traffic;
use weir_tests::weir::{Finished, Running, Weir, program};

pub const TESTS: &[Test] = &[
    Test::new("blocklist_reload_under_flood_lets_nothing_through", flood),
    Test::new("blocklist_atomic_reload_under_flood_lets_nothing_through", flood_atomic),
    Test::new("blocklist_keeps_its_list_when_the_file_is_bad", bad_files),
    Test::new("blocklist_entries_end_and_a_refreshed_one_never_lapses", ttl),
    Test::new("blocklist_ends_after_its_duration", duration),
    Test::new("blocklist_allow_ports_and_dry_run", narrowed),
    Test::new("blocklist_refuses_to_cut_off_gateway_and_ssh_peer", protect),
    Test::new("blocklist_refuses_where_connections_cannot_be_read", unreadable),
    Test::new("blocklist_over_capacity_is_refused_before_anything_is_attached", capacity),
    Test::new("blocklist_of_a_whole_subnet_leaves_arp_and_neighbour_discovery", neighbours),
    Test::new("blocklist_from_standard_input", standard_input),
    Test::new("blocklist_audit_log_has_every_change", audit),
];

/// What takes tools that guests have not, or there too much time.
pub const ONCE: &[Test] = &[
    Test::new("blocklist_of_a_quarter_million_hosts_everywhere", everywhere),
    Test::new("natives_are_objects_that_others_load", objects).alone(),
    Test::new("natives_run_as_their_documentation_shows", documented),
];

const SPORT: u16 = 5000;

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED)
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap_or(Ipv6Addr::UNSPECIFIED)
}

/// `use blocklist` on the node's interface with these parameters, and a count of what is dropped by source.
fn script(params: &str) -> String {
    format!(r#"use blocklist(iface="veth0", audit="off", {params}) as bl; bl:drop {{ @[ip.src] = count(); }}"#)
}

fn started(lab: &Lab, params: &str) -> Result<Running> {
    Weir::script(&script(params)).at(lab).start()
}

/// Puts a file in place as careful programs do.
fn replace(lab: &Lab, name: &str, text: &str) -> Result<()> {
    let (new, path) = (lab.dir.path().join("new"), lab.dir.path().join(name));
    std::fs::write(&new, text)?;
    std::fs::rename(new, path).context("cannot replace the file")
}

fn stats(done: &Finished) -> BTreeMap<String, u64> {
    let stats = map(&done.stdout, "@bl.stats").into_iter();
    stats.filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect()
}

fn flood() -> Result<()> {
    flood_with("")
}

fn flood_atomic() -> Result<()> {
    flood_with(", atomic=true")
}

/// Two lists take turns while packets come at full speed. What both of them list, by other prefixes, never passes; what neither of them
/// lists is never dropped; what one of them lists is either.
pub fn flood_with(extra: &str) -> Result<()> {
    const LISTS: [&str; 2] = [
        "10.66.0.0/16\n192.0.2.0/25\n2001:db8:bad::/48\n198.51.100.1\n",
        "10.64.0.0/10\n192.0.2.1\n2001:db8::/32\n203.0.113.1\n",
    ];
    const RELOADS: usize = 20;
    let lab = Lab::new()?;
    let (node4, node6) = (lab.node4(), lab.node6());
    // Enough neighbours in the tries that a change takes a while.
    let more: String = (0..3000u32).map(|i| format!("172.16.{}.{}\n", i >> 8, i & 255)).collect();
    let other: String = (0..3000u32).map(|i| format!("172.24.{}.{}\n", i >> 8, i & 255)).collect();
    let lists = [format!("{}{more}", LISTS[0]), format!("{}{other}", LISTS[1])];
    lab.dir.write("bad.txt", &lists[0])?;
    let mut weir = started(&lab, &format!("prefixes=file(\"bad.txt\"){extra}"))?;
    let listed4 = traffic::listen_udp(&lab.node, SocketAddr::new(node4.into(), 5001))?;
    let listed6 = traffic::listen_udp(&lab.node, SocketAddr::new(node6.into(), 5001))?;
    let always = [
        Frame::udp(v4("10.66.1.2"), node4, 5001),
        Frame::udp(v4("192.0.2.1"), node4, 5001),
        Frame::udp(v6("2001:db8:bad::1"), node6, 5001),
    ];
    let never = [
        Frame::udp(v4("10.128.0.1"), node4, SPORT),
        Frame::udp(v6("2001:db9::1"), node6, SPORT),
    ];
    let sometimes = [
        Frame::udp(v4("198.51.100.1"), node4, SPORT),
        Frame::udp(v4("203.0.113.1"), node4, SPORT),
    ];
    let frames: Vec<(u32, Frame)> = always.iter().chain(&never).chain(&sometimes).map(|f| (16, f.clone())).collect();
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| -> Result<u64> {
        let sender = scope.spawn(|| -> Result<u64> {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                traffic::send_frames(&lab, &frames)?;
                rounds += 1;
            }
            Ok(rounds)
        });
        let reloads = (1..=RELOADS).try_for_each(|i| {
            replace(&lab, "bad.txt", &lists[i % 2])?;
            weir.wait_stderr("word of the reload", |text| text.matches("`prefixes` read again").count() == i)
        });
        stop.store(true, Ordering::Relaxed);
        let rounds = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        reloads.and(rounds)
    })?;
    traffic::settle(&lab)?;
    ensure!(
        traffic::received(&listed4)? + traffic::received(&listed6)? == 0,
        "a packet of an address that is in both lists came through"
    );
    let done = weir.stop()?.clean()?;
    let sent = rounds * 16;
    ensure!(rounds > RELOADS as u64, "hardly any traffic: {rounds} rounds");
    let dropped: BTreeMap<String, u64> = done.map("@").into_iter().filter_map(|(k, n)| Some((k, n.parse().ok()?))).collect();
    for (source, expected) in [("10.66.1.2", sent), ("192.0.2.1", sent), ("2001:db8:bad::1", sent)] {
        ensure!(dropped.get(source) == Some(&expected), "{source}: {dropped:?}, {sent} were sent");
    }
    for source in ["10.128.0.1", "2001:db9::1"] {
        ensure!(!dropped.contains_key(source), "{source} is on no list: {dropped:?}");
    }
    for source in ["198.51.100.1", "203.0.113.1"] {
        let n = dropped.get(source).copied().unwrap_or(0);
        ensure!(n > 0 && n < sent, "{source} is on one of the lists, {n} of {sent} were dropped");
    }
    let stats = stats(&done);
    let of = |name: &str| stats.get(name).copied().unwrap_or(0);
    // One more: the packet of `settle`.
    ensure!(of("dropped") + of("passed") == sent * 7 + 1, "{stats:?}, {} were sent", sent * 7);
    ensure!(of("dropped") == dropped.values().sum::<u64>(), "{stats:?} {dropped:?}");
    Ok(())
}

/// Sends `count` datagrams from a source and returns how many arrive.
fn arrive(lab: &Lab, source: &str, count: u32) -> Result<u32> {
    // Another test's child process may hold our last socket until it executes its program.
    let address = SocketAddr::new(lab.node4().into(), SPORT);
    let socket = weir_tests::wait_for("the port", || Ok(traffic::listen_udp(&lab.node, address).ok()))?;
    traffic::send_frames(lab, &[(count, Frame::udp(v4(source), lab.node4(), SPORT))])?;
    traffic::settle(lab)?;
    traffic::received(&socket)
}

fn bad_files() -> Result<()> {
    let lab = Lab::new()?;
    lab.dir.write("bad.txt", "198.51.100.1\n")?;
    let mut weir = started(&lab, "prefixes=file(\"bad.txt\"), max=3")?;
    let mut faults = 0;
    let mut fault = |weir: &mut Running, words: &[&str]| -> Result<()> {
        faults += 1;
        weir.wait_stderr(&format!("a complaint with {words:?}"), |text| {
            text.matches("the list in force stays as it is").count() == faults && words.iter().all(|w| text.contains(w))
        })?;
        ensure!(arrive(&lab, "198.51.100.1", 3)? == 0, "the old list is gone after {words:?}");
        Ok(())
    };
    replace(&lab, "bad.txt", "203.0.113.1\n# more\n10.0.0.300\n")?;
    fault(&mut weir, &["bad.txt:3: expected an address or a prefix, found `10.0.0.300`"])?;
    replace(&lab, "bad.txt", "")?;
    fault(&mut weir, &["bad.txt is empty"])?;
    replace(&lab, "bad.txt", "203.0.113.1\n203.0.113.2\n203.0.113.3\n203.0.113.4\n")?;
    fault(&mut weir, &["`prefixes` has 4 IPv4 prefixes, but `max` is 3"])?;
    std::fs::remove_file(lab.dir.path().join("bad.txt"))?;
    fault(&mut weir, &["cannot read `bad.txt`"])?;
    // A good one is taken again, written in place this time; then one with a comment only: nothing is listed.
    lab.dir.write("bad.txt", "203.0.113.1\n")?;
    weir.wait_stderr("word of the reload", |text| text.contains("1 added, 1 removed, 1 in force"))?;
    ensure!(
        arrive(&lab, "203.0.113.1", 2)? == 0 && arrive(&lab, "198.51.100.1", 2)? == 2,
        "the new list is not in force"
    );
    lab.dir.write("bad.txt", "# nobody\n")?;
    weir.wait_stderr("word of the empty list", |text| {
        text.contains("0 added, 1 removed: `prefixes` has no entry, nothing is dropped")
    })?;
    ensure!(arrive(&lab, "203.0.113.1", 2)? == 2, "an entry is left");
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [("198.51.100.1", 12), ("203.0.113.1", 2)])
}

/// Sends until a packet of the source arrives; returns when.
fn passes(lab: &Lab, source: &str) -> Result<Instant> {
    weir_tests::wait_for("the end of the entry", || Ok((arrive(lab, source, 1)? == 1).then(Instant::now)))
}

fn ttl() -> Result<()> {
    ttl_with("")
}

pub fn ttl_with(extra: &str) -> Result<()> {
    let lab = Lab::new()?;
    let list = "198.51.100.1 ttl=1s\n198.51.100.2\n198.51.100.3 ttl=1h\n";
    lab.dir.write("bad.txt", list)?;
    let weir = started(&lab, &format!("prefixes=file(\"bad.txt\"), ttl=2s{extra}"))?;
    // Much longer than a second, but refreshed all the time, in place and by a new file.
    let begin = Instant::now();
    let mut refreshed = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        if refreshed.elapsed() > Duration::from_millis(150) {
            replace(&lab, "bad.txt", list)?;
            refreshed = Instant::now();
        }
        ensure!(arrive(&lab, "198.51.100.1", 5)? == 0, "a refreshed entry has lapsed");
    }
    // What was refreshed last may have been taken in a little later.
    let first = passes(&lab, "198.51.100.1")?;
    ensure!(first.duration_since(refreshed) >= Duration::from_secs(1), "it ended early");
    passes(&lab, "198.51.100.2")?;
    ensure!(arrive(&lab, "198.51.100.3", 2)? == 0, "an entry ended long before its time");
    weir.stop()?.clean().map(drop)
}

fn duration() -> Result<()> {
    duration_with("")
}

pub fn duration_with(extra: &str) -> Result<()> {
    let lab = Lab::new()?;
    // A slow machine may not have sent anything when a short duration is over already.
    for seconds in [1, 10, 60] {
        let begun = Instant::now();
        let mut weir = started(&lab, &format!("prefixes=198.51.100.0/24, duration={seconds}s{extra}"))?;
        let passed = arrive(&lab, "198.51.100.1", 3)?;
        let is_late = begun.elapsed() >= Duration::from_secs(seconds);
        ensure!(passed == 0 || is_late, "it is not in force");
        weir.wait_stderr("word of the end", |text| text.contains("its `duration` is over"))?;
        ensure!(arrive(&lab, "198.51.100.1", 3)? == 3, "it is still in force");
        let done = weir.stop()?.clean()?;
        if passed == 0 {
            return done.expect_map("@", [("198.51.100.1", 3)]);
        }
    }
    bail!("this machine takes more than a minute to send three datagrams")
}

fn narrowed() -> Result<()> {
    narrowed_with("")
}

pub fn narrowed_with(extra: &str) -> Result<()> {
    let lab = Lab::new()?;
    let (node4, node6) = (lab.node4(), lab.node6());
    // Allow before block, whatever the lengths are; both lists with both families; the destination's ports.
    let weir = started(
        &lab,
        &format!(
            "prefixes=(198.51.100.0/24, \"2001:db8::/32\", 198.51.100.7), allow=(198.51.100.0/28, \"2001:db8::1\"), proto=\"udp\", \
             ports=(5000, 6000-6002){extra}"
        ),
    )?;
    let udp = |src: &str, port| Frame::udp(v4(src), node4, port);
    let frames = [
        (3, udp("198.51.100.7", 5000)),
        (4, udp("198.51.100.99", 5000)),
        (5, udp("198.51.100.99", 5001)),
        (6, udp("198.51.100.99", 6002).vlan(7)),
        (7, Frame::syn(v4("198.51.100.99"), node4, 5000)),
        (8, Frame::udp(v6("2001:db8::1"), node6, 6001)),
        (9, Frame::udp(v6("2001:db8::2"), node6, 6001)),
        (2, Frame::udp(v6("2001:db8::2"), node6, 5999)),
    ];
    traffic::send_frames(&lab, &frames)?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [("198.51.100.99", 10), ("2001:db8::2", 9)])?;
    let of = stats(&done);
    ensure!(
        of["dropped"] == 19 && of["allowed"] == 11 && of["passed"] == 5 + 7 + 2 + 1,
        "{of:?}"
    );

    // A dry run counts the same and drops nothing. `protect` has nothing to refuse then.
    let weir = started(&lab, &format!("prefixes=(0.0.0.0/0, \"::/0\"), dry_run=true{extra}"))?;
    ensure!(arrive(&lab, "198.51.100.7", 5)? == 5, "a dry run has dropped");
    let done = weir.stop()?.clean()?;
    done.expect_entry("@", "198.51.100.7", 5)?;
    // Five, and the packet of `settle`.
    ensure!(stats(&done)["dropped"] == 6, "{done}");
    Ok(())
}

/// The node's subnet, as a prefix. Not more: the machine's own resolvers, which are protected, may be anywhere.
fn subnet(lab: &Lab) -> String {
    let [a, b, c, _] = lab.node4().octets();
    format!("{a}.{b}.{c}.0/24")
}

fn protect() -> Result<()> {
    let lab = Lab::new()?;
    let (node4, peer4) = (lab.node4(), lab.peer4());
    let net = subnet(&lab);
    let everything = |params: &str| Weir::script(&script(&format!("prefixes={net}{params}"))).at(&lab);
    // Nobody is there yet.
    everything("").start()?.stop()?.clean()?;

    lab.node.ip(&["route", "add", "default", "via", &peer4.to_string()])?;
    everything("").run()?.refused(&[
        &format!("the list covers {peer4}, the default gateway, by its entry {net}"),
        "protect=false",
        "^",
    ])?;
    lab.node.ip(&["route", "del", "default"])?;
    // Of several next hops, and of another table: whichever is used.
    let [a, b, c, _] = node4.octets();
    let second = format!("{a}.{b}.{c}.77");
    let first = peer4.to_string();
    let second_listed = || Weir::script(&script(&format!("prefixes={second}"))).at(&lab);
    let covers_second = || second_listed().run();
    let refusal = format!("the list covers {second}, the default gateway");
    lab.node
        .ip(&["route", "add", "default", "nexthop", "via", &first, "nexthop", "via", &second])?;
    covers_second()?.refused(&[&refusal])?;
    lab.node.ip(&["route", "del", "default"])?;
    lab.node.ip(&["route", "add", "default", "via", &second, "table", "77"])?;
    covers_second()?.refused(&[&refusal])?;
    lab.node.ip(&["route", "flush", "table", "77"])?;
    // IPv4 by way of an IPv6 neighbour.
    let by_v6 = ["default", "via", "inet6", "fe80::77", "dev", NODE_IF];
    lab.node.ip(&[&["route", "add"], &by_v6[..]].concat())?;
    Weir::script(&script("prefixes=\"fe80::77\""))
        .at(&lab)
        .run()?
        .refused(&["the list covers fe80::77, the default gateway"])?;
    lab.node.ip(&[&["route", "del"], &by_v6[..]].concat())?;
    // A route that names a next hop, or a group of them, by number alone.
    lab.node.sysctl("net/ipv4/nexthop_compat_mode", "0")?;
    for (id, via) in [("1", &first), ("2", &second)] {
        lab.node.ip(&["nexthop", "add", "id", id, "via", via, "dev", NODE_IF])?;
    }
    lab.node.ip(&["nexthop", "add", "id", "3", "group", "1/2"])?;
    lab.node.ip(&["route", "add", "default", "nhid", "1"])?;
    second_listed().start()?.stop()?.clean()?;
    for id in ["2", "3"] {
        lab.node.ip(&["route", "replace", "default", "nhid", id])?;
        covers_second()?.refused(&[&refusal])?;
    }
    lab.node.ip(&["route", "del", "default"])?;
    lab.node.ip(&["-6", "route", "add", "default", "via", &lab.peer6().to_string()])?;
    Weir::script(&script("prefixes=\"fd00::/8\""))
        .at(&lab)
        .run()?
        .refused(&["the default gateway", &format!("allow=\"{}\"", lab.peer6())])?;
    lab.node.ip(&["-6", "route", "del", "default"])?;

    // Who is asked for names, whoever that is on this machine.
    lab.dir.write("resolv.conf", &format!("nameserver {peer4}\n"))?;
    let asking = |params: &str| everything(params).in_place("/etc", lab.dir.path());
    asking("").run()?.refused(&[
        &format!("the list covers {peer4}, a resolver, by its entry {net}"),
        &format!("allow={peer4}"),
        "^",
    ])?;
    asking(&format!(", allow={peer4}")).start()?.stop()?.clean()?;
    asking(", ports=443").start()?.stop()?.clean()?;

    let to = SocketAddr::new(node4.into(), 22);
    let listener = lab.node.run(|| TcpListener::bind(to).context("cannot listen"))?;
    let _client = lab.peer.run(|| TcpStream::connect(to).context("cannot connect"))?;
    let _server = listener.accept()?;
    everything("").run()?.refused(&[
        &format!("the list covers {peer4}, the peer of an SSH session"),
        &format!("allow={peer4}"),
        "^",
    ])?;
    // What cannot hit the session is no danger: other ports, another protocol, an exception for the peer.
    for harmless in [
        ", ports=443",
        ", proto=\"udp\"",
        &format!(", allow={peer4}"),
        &format!(", match=\"dst\", allow={net}"),
    ] {
        everything(harmless).start()?.stop()?.clean()?;
    }
    // Of what goes out, the far end is the destination; ports are those of the other side.
    let out = ", hook=\"tc\", direction=\"egress\"";
    everything(out)
        .run()?
        .refused(&[&format!("the list covers {peer4}, the peer of an SSH session")])?;
    everything(&format!("{out}, match=\"src\""))
        .run()?
        .refused(&["this host's end of an SSH session"])?;
    everything(&format!("{out}, ports=22")).start()?.stop()?.clean()?;
    everything(", ports=(20-30)").run()?.refused(&["the peer of an SSH session"])?;
    everything(", match=\"dst\"")
        .run()?
        .refused(&["this host's end of an SSH session"])?;

    // A file that becomes dangerous is not taken; forced, it is.
    lab.dir.write("bad.txt", "198.51.100.1\n")?;
    let mut weir = started(&lab, "prefixes=file(\"bad.txt\")")?;
    replace(&lab, "bad.txt", &format!("{net}\n"))?;
    weir.wait_stderr("a refusal", |text| {
        text.contains("the peer of an SSH session") && text.contains("the list in force stays as it is")
    })?;
    ensure!(arrive(&lab, "198.51.100.1", 2)? == 0, "the old list is gone");
    weir.stop()?.clean()?;
    everything(", protect=false").start()?.stop()?.clean()?;

    // Where nobody can tell who is protected, nothing new is taken.
    let name = lab.dir.path().join("node");
    std::os::unix::fs::symlink(Path::new("/run/netns").join(lab.node.name()), &name)?;
    lab.dir.write("bad.txt", "198.51.100.1\n")?;
    let elsewhere = format!(
        r#"use blocklist(iface="{NODE_IF}@{}", audit="off", prefixes=file("bad.txt")) as bl;"#,
        name.display()
    );
    let mut weir = Weir::script(&elsewhere).at(&lab).start()?;
    std::fs::remove_file(&name)?;
    replace(&lab, "bad.txt", "198.51.100.2\n")?;
    weir.wait_stderr("a refusal", |text| {
        let words = [
            "whom the list must not cut off is not known: cannot open network namespace",
            "`protect=false`",
        ];
        words.iter().all(|word| text.contains(word)) && text.contains("the list in force stays as it is")
    })?;
    weir.stop()?.clean().map(drop)
}

/// Without the kernel's tables of TCP nobody can tell whom a list cuts off; a kernel without IPv6 has one table less.
fn unreadable() -> Result<()> {
    let lab = Lab::new()?;
    let listed = |params: &str| Weir::script(&script(&format!("prefixes=198.51.100.1{params}"))).at(&lab);
    let to = SocketAddr::new(lab.node4().into(), 22);
    let listener = lab.node.run(|| TcpListener::bind(to).context("cannot listen"))?;
    let _client = lab.peer.run(|| TcpStream::connect(to).context("cannot connect"))?;
    let _server = listener.accept()?;
    for (table, error) in [
        ("/net/tcp", libc::EACCES),
        ("/net/tcp", libc::ENOENT),
        ("/net/tcp6", libc::EACCES),
        ("/net/tcp6", libc::EMFILE),
    ] {
        let mut opens = gate::opens(table, move || Some(error))?;
        listed("").run_behind(&mut opens)?.refused(&[
            &format!("whom the list must not cut off is not known: cannot read `/proc/thread-self{table}`"),
            "`protect=false`",
            "^",
        ])?;
        // Whom a list of other packets hits these do not tell.
        let mut opens = gate::opens(table, move || Some(error))?;
        let attached = |text: &str| text.contains("__BPFTRACE_NOTIFY_PROBES_ATTACHED");
        let mut weir = listed(", proto=\"udp\"").start_behind(&mut opens)?;
        weir.wait_stdout("a start", attached)?;
        weir.stop()?.clean()?;
    }
    let mut opens = gate::opens("/net/tcp6", || Some(libc::ENOENT))?;
    let net = subnet(&lab);
    Weir::script(&script(&format!("prefixes={net}")))
        .at(&lab)
        .run_behind(&mut opens)?
        .refused(&[&format!("the list covers {}, the peer of an SSH session", lab.peer4())])?;
    Ok(())
}

fn capacity() -> Result<()> {
    let lab = Lab::new()?;
    lab.dir.write("bad.txt", "198.51.100.1\n198.51.100.2\n198.51.100.3\n")?;
    let done = Weir::script(&script("prefixes=file(\"bad.txt\"), max=2")).at(&lab).run()?;
    done.refused(&["`prefixes` has 3 IPv4 prefixes, but `max` is 2", "add `max=4`", "^"])?;
    let mut weir = started(&lab, "prefixes=file(\"bad.txt\"), max=3")?;
    // Full lists can be exchanged all the same, and their pressure is said.
    weir.wait_stderr("a warning", |text| text.contains("a list has 3 entries of at most 3: raise `max`"))?;
    replace(&lab, "bad.txt", "198.51.100.4\n198.51.100.5\n198.51.100.6\n")?;
    weir.wait_stderr("word of the reload", |text| text.contains("3 added, 3 removed, 3 in force"))?;
    ensure!(
        arrive(&lab, "198.51.100.6", 2)? == 0 && arrive(&lab, "198.51.100.1", 2)? == 2,
        "the new list is not in force"
    );
    weir.stop()?.clean().map(drop)
}

/// A list that is long enough for flat tables, with a node for each /16 there is.
fn everywhere() -> Result<()> {
    const HOSTS: u32 = 1 << 18;
    const BLOCKS: u32 = 40_000;
    let lab = Lab::new()?;
    // From 16.0.0.0 on: the lab is in 10.0.0.0/8.
    let host = |i: u32| Ipv4Addr::from_bits(0x1000_c84d + ((i % BLOCKS) << 16) + i / BLOCKS);
    let list: String = (0..HOSTS).map(|i| format!("{}\n", host(i))).collect();
    lab.dir.write("bad.txt", &list)?;
    for (extra, sets) in [("", 1), (", atomic=true", 2)] {
        let weir = started(&lab, &format!("prefixes=file(\"bad.txt\"){extra}"))?;
        let nodes = largest_map_of(weir.pid()?, 1024)?;
        ensure!(nodes > sets << 16, "room for {nodes} nodes: that is not flat");
        for i in [0, 39_999, 40_000, HOSTS - 1] {
            let (listed, beside) = (host(i), Ipv4Addr::from_bits(host(i).to_bits() + 0x100));
            ensure!(arrive(&lab, &listed.to_string(), 3)? == 0, "{listed} is listed, and came");
            ensure!(
                arrive(&lab, &beside.to_string(), 2)? == 2,
                "{beside} is not listed, and did not come"
            );
        }
        let done = weir.stop()?.clean()?;
        done.expect_map("@", [0, 39_999, 40_000, HOSTS - 1].map(|i| (host(i), 3)))?;
        ensure!(stats(&done)["dropped"] == 12, "{done}");
    }
    Ok(())
}

/// How many elements the largest map with values of this size has that a process holds.
fn largest_map_of(pid: u32, value_size: u32) -> Result<u32> {
    let mut largest = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // It may have been closed again.
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        let word = |name: &str| -> Option<u32> { text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok() };
        if word("value_size:") == Some(value_size) {
            largest = largest.max(word("max_entries:").unwrap_or(0));
        }
    }
    Ok(largest)
}

fn neighbours() -> Result<()> {
    neighbours_with("")
}

pub fn neighbours_with(extra: &str) -> Result<()> {
    let lab = Lab::new()?;
    for (ns, iface) in [(&lab.node, NODE_IF), (&lab.peer, PEER_IF)] {
        ns.ip(&["link", "set", iface, "arp", "on"])?;
        ns.ip(&["neigh", "flush", "dev", iface, "nud", "permanent"])?;
    }
    let weir = started(&lab, &format!("prefixes=({}, \"fd00::/8\", \"fe80::/10\"){extra}", subnet(&lab)))?;
    let (node4, node6) = (lab.node4(), lab.node6());
    traffic::send_udp(&lab.peer, lab.peer4().into(), SocketAddr::new(node4.into(), SPORT), 1)?;
    traffic::send_udp(&lab.peer, lab.peer6().into(), SocketAddr::new(node6.into(), SPORT), 1)?;
    let known = |address: &str| -> Result<bool> {
        let neighbour = lab.peer.ip(&["neigh", "show", "to", address, "dev", PEER_IF])?;
        Ok(neighbour.contains("lladdr 02:00:00:00:00:01"))
    };
    weir_tests::wait_for("both neighbours", || {
        Ok((known(&node4.to_string())? && known(&node6.to_string())?).then_some(()))
    })?;
    // Packets that waited for their neighbour have been sent by now, and were dropped.
    weir_tests::wait_for("the packets", || {
        let links = lab.node.ip(&["-s", "-j", "link", "show", "dev", NODE_IF])?;
        let links: serde_json::Value = serde_json::from_str(&links)?;
        Ok((links[0]["stats64"]["rx"]["packets"].as_u64() >= Some(4)).then_some(()))
    })?;
    let done = weir.stop()?.clean()?;
    let of = stats(&done);
    // What the link says of itself from its link-local address is not in the list, and passes.
    ensure!(of["non_ip"] >= 1 && of["neighbour"] >= 1 && of["dropped"] == 2, "{of:?}");
    done.expect_entry("@", &lab.peer4().to_string(), 1)?;
    done.expect_entry("@", &lab.peer6().to_string(), 1)
}

fn standard_input() -> Result<()> {
    let lab = Lab::new()?;
    let script = r#"use blocklist(iface="veth0", prefixes="-", audit="off", max=10) as bl; begin { print(@bl.entries); exit(); }"#;
    let weir = program()?;
    let line = r#"printf '198.51.100.1\n198.51.100.0/24 # net\n2001:db8::/32\n' | exec "$0" -e "$1""#;
    let args = ["-c".as_ref(), line.as_ref(), weir.as_os_str(), script.as_ref()];
    let done = Weir::new(args).program(Path::new("/bin/sh")).at(&lab).run()?.clean()?;
    for (name, number) in [("ipv4", 2), ("ipv6", 1), ("allow_ipv4", 0), ("max", 10), ("hits", 0)] {
        done.expect_entry("@bl.entries", name, number)?;
    }
    Ok(())
}

fn audit() -> Result<()> {
    let lab = Lab::new()?;
    lab.dir.write("bad.txt", "198.51.100.1\n198.51.100.2 ttl=1s\n")?;
    let script = r#"use blocklist(iface="veth0", prefixes=file("bad.txt"), audit="audit.log") as bl;"#;
    let mut weir = Weir::script(&format!("{script} bl:drop {{ @ = count(); }}")).at(&lab).start()?;
    weir_tests::wait_for("the end of an entry", || {
        let text = std::fs::read_to_string(lab.dir.path().join("audit.log"))?;
        Ok(text.contains("expire").then_some(()))
    })?;
    replace(&lab, "bad.txt", "2001:db8::/32\n198.51.100.1\n")?;
    weir.wait_stderr("word of the reload", |text| text.contains("1 added, 0 removed, 2 in force"))?;
    weir.stop()?.clean()?;
    let text = std::fs::read_to_string(lab.dir.path().join("audit.log"))?;
    let lines: Vec<serde_json::Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let actions: Vec<&str> = lines.iter().filter_map(|l| l["action"].as_str()).collect();
    ensure!(actions == ["start", "expire", "reload", "end"], "{text}");
    ensure!(
        lines
            .iter()
            .all(|l| l["uid"] == 0 && l["instance"] == "bl" && l["time"].is_string()),
        "{text}"
    );
    ensure!(lines[0]["added"] == 2 && lines[0]["source"] == "bad.txt", "{text}");
    ensure!(
        lines[1]["remove"] == serde_json::json!(["198.51.100.2/32"]) && lines[1]["entries"] == 1,
        "{text}"
    );
    ensure!(
        lines[2]["add"] == serde_json::json!(["2001:db8::/32"]) && lines[2]["entries"] == 2,
        "{text}"
    );
    ensure!(lines[3]["removed"] == 2 && lines[3]["entries"] == 0, "{text}");
    // Switched off, there is none; where it cannot be, that is said, and the list is in force all the same.
    let weir = Weir::script(&script.replace("audit.log", "no/such/folder/log")).at(&lab).start()?;
    let done = weir.stop()?.clean()?;
    ensure!(
        done.stderr.contains("no audit log is kept: cannot open `no/such/folder/log`"),
        "{done}"
    );
    Ok(())
}

/// Each native is a plain object, too: others load it, with its settings as they are.
fn objects() -> Result<()> {
    let lab = Lab::new()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ebpf-builtins/objects");
    let mut loaded = Vec::new();
    for file in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = file?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".bpf.o")) else {
            continue;
        };
        let pins = Pins::new(name)?;
        let done = std::process::Command::new("bpftool")
            .args(["prog", "loadall"])
            .args([&path, &pins.0])
            .output()
            .context("bpftool")?;
        ensure!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        ensure!(std::fs::read_dir(&pins.0)?.count() > 0, "{name}: no program is pinned");
        loaded.push(name.to_owned());
    }
    loaded.sort();
    ensure!(loaded == ["blocklist", "flows", "identity", "retransmits"], "{loaded:?}");
    let object = folder.join("blocklist.bpf.o").display().to_string();
    lab.node.ip(&["link", "set", NODE_IF, "xdp", "obj", &object, "sec", "xdp.frags"])?;
    let link = lab.node.ip(&["-d", "link", "show", "dev", NODE_IF])?;
    ensure!(link.contains("prog/xdp"), "{link}");
    // Its lists are empty.
    ensure!(arrive(&lab, "198.51.100.1", 2)? == 2, "an empty list drops");
    lab.node.ip(&["link", "set", NODE_IF, "xdp", "off"]).map(drop)
}

/// A folder of the BPF file system.
struct Pins(std::path::PathBuf);

impl Pins {
    fn new(name: &str) -> Result<Self> {
        let path = Path::new("/sys/fs/bpf").join(format!("weirtest-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("test support: {}: {error}", self.0.display());
        }
    }
}

/// What `weir doc` shows runs as it is printed.
fn documented() -> Result<()> {
    for name in ["blocklist", "flows", "identity", "retransmits"] {
        let lab = Lab::new()?;
        lab.dir.write(
            "policy.toml",
            "[[identity]]\nname = \"web\"\ncgroup = \"/weirtest-nobody\"\n[[rule]]\nverdict = \"allow\"\nfrom = \"web\"\n",
        )?;
        let doc = Weir::new(["doc", name]).run()?;
        let (_, example) = doc.stdout.split_once("\nEXAMPLE\n").with_context(|| doc.to_string())?;
        let lines = example.lines().map_while(|line| line.strip_prefix("    "));
        let script: Vec<&str> = lines.collect();
        ensure!(
            script.first().is_some_and(|line| line.starts_with(&format!("use {name}("))),
            "{doc}"
        );
        let mut weir = Weir::script(&script.join("\n")).at(&lab).start()?;
        // Each of them prints something about every second.
        weir.wait_stdout("the first second", |text| !text.is_empty())?;
        weir.stop()?.clean()?;
    }
    Ok(())
}
