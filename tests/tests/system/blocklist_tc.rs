//! The blocklist at TC (`hook="tc"`): what comes in and what goes out, by links of tcx and by filters in clsact.

use super::natives;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use weir_tests::features::{Feature, kernel_version};
use weir_tests::frame::Frame;
use weir_tests::harness::Need::Lacks;
use weir_tests::harness::Test;
use weir_tests::kernel::KernelState;
use weir_tests::net::{Lab, Netns};
use weir_tests::traffic::{self, Connection};
use weir_tests::wait_for;
use weir_tests::weir::{Finished, Weir};

pub const TESTS: &[Test] = &[
    Test::new("blocklist_tc_ways_and_addresses", ways),
    Test::new("blocklist_tc_has_users_behind_it", users),
    Test::new("blocklist_tc_counts_packets_of_the_wire", wire),
    Test::new("blocklist_tc_and_others_judge_behind_generic_xdp", behind_generic_xdp),
    Test::new("blocklist_tc_allow_ports_and_dry_run", || natives::narrowed_with(TC)),
    Test::new("blocklist_tc_reload_under_flood_lets_nothing_through", || natives::flood_with(TC)),
    Test::new("blocklist_tc_killed_opens_the_gate_and_leaves_nothing", killed).alone(),
    Test::new("blocklist_tc_filters_of_a_silent_owner_let_everything_pass", silent).needs(&[Lacks(Feature::Tcx)]),
];

/// What user space does, whatever the hook.
pub const ONCE: &[Test] = &[
    Test::new("blocklist_tc_of_a_whole_subnet_leaves_arp_and_neighbour_discovery", || {
        natives::neighbours_with(TC)
    }),
    Test::new("blocklist_tc_entries_end_and_a_refreshed_one_never_lapses", || {
        natives::ttl_with(TC)
    }),
    Test::new("blocklist_tc_ends_after_its_duration", || natives::duration_with(TC)),
    Test::new("blocklist_tc_atomic_reload_under_flood_lets_nothing_through", || {
        natives::flood_with(&format!("{TC}, atomic=true"))
    }),
    Test::new("blocklist_tc_refuses_what_cannot_be", refused),
    Test::new("blocklist_at_xdp_of_a_veth_advises_tc", advice),
];

const TC: &str = ", hook=\"tc\"";
const PORT: u16 = 5000;
const BAD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn stats(done: &Finished, map: &str) -> BTreeMap<String, u64> {
    let entries = done.map(map).into_iter();
    entries.filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect()
}

/// Sends datagrams from one end to the other. What should not arrive is known by what was dropped in the end.
fn send(from: &Netns, to: &Netns, [source, target]: [IpAddr; 2], count: u32, passes: bool) -> Result<()> {
    let target = SocketAddr::new(target, PORT);
    let socket = wait_for("the port", || Ok(traffic::listen_udp(to, target).ok()))?;
    traffic::send_udp(from, source, target, count)?;
    let mut came = 0;
    if passes {
        wait_for("the packets", || {
            came += traffic::received(&socket)?;
            Ok((came >= count).then_some(()))
        })?;
    }
    came += traffic::received(&socket)?;
    ensure!(
        came == if passes { count } else { 0 },
        "{came} packets of {source} came to {target}"
    );
    Ok(())
}

/// Each direction, in the kernel's words and in the pod's, looks at the far end's address unless it is told otherwise.
fn ways() -> Result<()> {
    let lab = Lab::new()?;
    let node = [IpAddr::from(lab.node4()), IpAddr::from(lab.node6())];
    let peer = [IpAddr::from(lab.peer4()), IpAddr::from(lab.peer6())];
    // Whose addresses are listed; whether what comes in is dropped, and what goes out.
    for (direction, listed, comes, goes) in [
        ("", peer, true, false),
        (", direction=\"egress\"", peer, false, true),
        (", direction=\"from_pod\"", node, true, false),
        (", direction=\"to_pod\"", node, false, true),
        (", direction=\"both\"", peer, true, true),
        (", direction=\"both\", match=\"src\"", peer, true, false),
    ] {
        let [v4, v6] = listed;
        let script = format!(
            r#"use blocklist(iface="veth0", audit="off", prefixes=({v4}, "{v6}"){TC}{direction}) as bl; bl:drop {{ @[ip.src] = count(); }}"#
        );
        let weir = Weir::script(&script).at(&lab).start()?;
        for (family, count) in [(0, 2), (1, 3)] {
            send(&lab.peer, &lab.node, [peer[family], node[family]], count, !comes)?;
            send(&lab.node, &lab.peer, [node[family], peer[family]], count + 2, !goes)?;
        }
        let done = weir.stop()?.clean()?;
        let mut expected = Vec::new();
        if comes {
            expected.extend([(peer[0], 2), (peer[1], 3)]);
        }
        if goes {
            expected.extend([(node[0], 4), (node[1], 5)]);
        }
        let dropped: u64 = expected.iter().map(|(_, n)| n).sum();
        done.expect_map("@", expected)?;
        let seen = match direction {
            d if d.contains("both") => 14,
            d if d.contains("egress") || d.contains("to_pod") => 9,
            _ => 5,
        };
        let of = stats(&done, "@bl.stats");
        ensure!(
            of["dropped"] == dropped && of["passed"] == seen - dropped,
            "{direction}: {of:?}, {dropped} of {seen} should be dropped"
        );
    }
    Ok(())
}

const HIDDEN: &str = "`veth0` has XDP in generic mode: what comes in reaches TC without its Ethernet header";

/// Since Linux 6.9 packets that were copied for somebody's generic XDP come to TC without their Ethernet header.
fn behind_generic_xdp() -> Result<()> {
    let lab = Lab::new()?;
    lab.dir.write(
        "policy.toml",
        "default = \"allow\"\n[[rule]]\nname = \"no\"\nport = 99\nverdict = \"deny\"\n",
    )?;
    let script = r#"
use blocklist(iface="veth0", hook="tc", audit="off", prefixes=(198.51.100.0/24, 8.0.70.0/24, "2001:db8:bad::/48", "2001:db8:86dd:6001::2")) as bl;
use flows(iface="veth0", direction="ingress") as fl;
use identity(iface="veth0", policy=file("policy.toml"), audit="off") as id;
end { print(@fl.stats); print(@fl.flows); print(@id.stats); }
"#;
    let (node4, node6) = (lab.node4(), lab.node6());
    let bad6: std::net::Ipv6Addr = "2001:db8:bad::1".parse()?;
    // Where Ethernet would have its type, these addresses have that of IPv4, that of a tag, and that of IP with its version behind it.
    let like = [[8, 0, 1, 1], [129, 0, 1, 1], [8, 0, 69, 1], [8, 0, 70, 1], [8, 0, 64, 1]].map(Ipv4Addr::from);
    let like6: [std::net::Ipv6Addr; 2] = ["2001:db8:86dd:6001::1".parse()?, "2001:db8:86dd:6001::2".parse()?];
    let frames = [
        (3, Frame::udp(BAD, node4, PORT)),
        (4, Frame::udp(BAD, node4, PORT).vlan(7)),
        (2, Frame::udp(bad6, node6, PORT)),
        (5, Frame::udp(like[0], node4, 99)),
        (6, Frame::udp(like[1], node4, PORT)),
        (8, Frame::udp(like[2], node4, 99)),
        (2, Frame::udp(like[3], node4, PORT)),
        (9, Frame::udp(like[4], node4, 99)),
        (10, Frame::udp(like6[0], node6, 99)),
        (11, Frame::udp(like6[1], node6, PORT)),
        // A tag that is still there where the kernel has taken one out.
        (12, Frame::udp(BAD, node4, PORT).vlan(7).vlan(8)),
        (13, Frame::udp(like[2], node4, 99).vlan(7).vlan(8)),
        (7, Frame::udp(lab.peer6(), node6, 99)),
    ];
    // What they are for may begin like an IP header.
    let alike: Vec<_> = frames
        .iter()
        .cloned()
        .map(|(count, mut frame)| {
            frame.mac[0] = if frame.src.is_ipv4() { 0x46 } else { 0x66 };
            (count, frame)
        })
        .collect();
    for (generic, frames) in [(false, &frames[..]), (false, &alike), (true, &frames)] {
        let other = generic.then(|| {
            Weir::script("xdp:veth0:generic /has(udp) && udp.dport != 9/ { @ = count(); }")
                .at(&lab)
                .start()
        });
        let other = other.transpose()?;
        let weir = Weir::script(script).at(&lab).start()?;
        let block = Weir::script("tc:veth0:ingress { @ = count(); }").at(&lab).start()?;
        traffic::send_frames(&lab, frames)?;
        traffic::settle(&lab)?;
        let done = weir.stop()?.clean()?;
        // Blocks do not find what natives find: they are told.
        let hides = generic && kernel_version()? >= (6, 9);
        ensure!(block.stderr().contains(HIDDEN) == hides, "generic {generic}: {}", block.stderr());
        block.stop()?.clean()?;
        if let Some(other) = other {
            other.stop()?.clean()?.expect_map("@", [("", 92)])?;
        }
        let [blocked, judged, flows] = ["@bl.stats", "@id.stats", "@fl.stats"].map(|map| stats(&done, map));
        ensure!(
            blocked["dropped"] == 34 && blocked["non_ip"] == 0,
            "generic {generic}: {blocked:?}\n{done}"
        );
        ensure!(
            judged["denied"] == 52 && judged["non_ip"] == 0,
            "generic {generic}: {judged:?}\n{done}"
        );
        ensure!(
            flows["non_ip"] == 0 && flows["malformed"] == 0,
            "generic {generic}: {flows:?}\n{done}"
        );
        for (source, packets) in [(like[0], 5), (like[1], 6), (like[2], 8)] {
            let is_row = |line: &&str| line.contains(&format!("{source}:")) && line.contains(&format!(".packets = {packets},"));
            ensure!(done.stdout.lines().any(|line| is_row(&line)), "generic {generic}, {source}: {done}");
        }
    }
    Ok(())
}

/// Two lists and a block on one hook, tags in the packets: each user sees what those before it let through.
fn users() -> Result<()> {
    let lab = Lab::new()?;
    let script = r#"
use blocklist(iface="veth0", hook="tc", audit="off", prefixes=(198.51.100.0/24, "2001:db8:bad::/48"), allow=198.51.100.9) as first;
use blocklist(iface="veth0", hook="tc", audit="off", prefixes=(203.0.113.0/24, 198.51.100.0/24)) as second;
tc:veth0:ingress { @behind[ip.src] = count(); }
first:drop { @by_first[ip.src, first.prefix] = count(); @tags[vlan.id] = count(); }
first:allow { @allowed[ip.src] = count(); }
second:drop { @by_second[ip.src] = count(); }
"#;
    let weir = Weir::script(script).at(&lab).start()?;
    let (node4, node6) = (lab.node4(), lab.node6());
    let [allowed, other, good] = [[198, 51, 100, 9], [203, 0, 113, 1], [192, 0, 2, 1]].map(Ipv4Addr::from);
    let bad6: std::net::Ipv6Addr = "2001:db8:bad::1".parse()?;
    let socket = traffic::listen_udp(&lab.node, SocketAddr::new(node4.into(), PORT))?;
    let udp = |src: Ipv4Addr| Frame::udp(src, node4, PORT);
    traffic::send_frames(
        &lab,
        &[
            (3, udp(BAD)),
            (4, udp(BAD).vlan(7)),
            (5, udp(BAD).vlan(7).vlan(8)),
            (2, Frame::udp(bad6, node6, PORT)),
            (6, Frame::udp(bad6, node6, PORT).vlan(9)),
            (7, udp(allowed)),
            (8, udp(other)),
            (9, udp(good)),
        ],
    )?;
    traffic::settle(&lab)?;
    ensure!(
        traffic::received(&socket)? == 9,
        "what is listed has come through, or something else has not"
    );
    let done = weir.stop()?.clean()?;
    done.expect_map(
        "@by_first",
        [(format!("{BAD}, 198.51.100.0/24"), 12), (format!("{bad6}, 2001:db8:bad::/48"), 8)],
    )?;
    done.expect_map("@tags", [(7, 9), (9, 6)])?;
    done.expect_map("@allowed", [(allowed, 7)])?;
    // The second list has what the first one's exception let through.
    done.expect_map("@by_second", [(allowed, 7), (other, 8)])?;
    done.expect_entry("@behind", &good.to_string(), 9)?;
    let behind = done.map("@behind");
    // Beside it the packet of `settle`.
    ensure!(behind.len() == 2, "{behind:?}");
    Ok(())
}

/// What is cut into segments behind TC, or was put together before it, counts as on the wire: as `flows` counts it, by other code.
fn wire() -> Result<()> {
    let lab = Lab::new()?;
    let script = format!(
        r#"
use blocklist(iface="veth0", hook="tc", direction="both", dry_run=true, audit="off", prefixes={}) as bl;
use flows(iface="veth0") as fl;
end {{
  for ($kv : @bl.hits) {{ printf("%d packets, %d bytes\n", $kv.1.packets, $kv.1.bytes); }}
  printf("%d packets, %d bytes\n", @fl.stats["live_packets"] + @fl.stats["exported_packets"], @fl.stats["live_bytes"] + @fl.stats["exported_bytes"]);
}}
"#,
        lab.peer4()
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    let mut connection = Connection::open(&lab, 4433)?;
    connection.transfer(2_000_000)?;
    connection.all_acknowledged()?;
    let done = weir.stop()?.clean()?;
    let lines: Vec<&str> = done.stdout.lines().filter(|line| line.contains(" packets, ")).collect();
    ensure!(lines.len() == 2 && lines[0] == lines[1], "{done}");
    let packets: u64 = lines[0].split(' ').next().unwrap_or_default().parse()?;
    ensure!(
        packets >= 2_000_000 / 1460,
        "{packets} packets of the wire cannot carry two million bytes"
    );
    Ok(())
}

fn killed() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let script = format!(
        r#"use blocklist(iface="veth0", audit="off", direction="both", prefixes={}{TC}) as bl; bl:drop {{ printf("dropped\n"); }}"#,
        lab.peer4()
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    let (node, peer) = (IpAddr::from(lab.node4()), IpAddr::from(lab.peer4()));
    send(&lab.peer, &lab.node, [peer, node], 3, false)?;
    send(&lab.node, &lab.peer, [node, peer], 4, false)?;
    // No packet is left to arrive late: these are all that were sent.
    weir.wait_stdout("the drops", |text| text.matches("dropped\n").count() == 7)?;
    ensure!(
        weir.stderr().contains("in force as long as weir runs, then everything passes"),
        "{}",
        weir.stderr()
    );
    weir.end_with(Signal::SIGKILL)?.nothing_left()?;
    before.assert_same(Some(&lab.node))?;
    send(&lab.peer, &lab.node, [peer, node], 3, true)?;
    send(&lab.node, &lab.peer, [node, peer], 3, true)
}

/// Nobody shows the programs that somebody is there: ten seconds later they decide nothing, and at once again when there is somebody.
fn silent() -> Result<()> {
    let lab = Lab::new()?;
    let script = format!(r#"use blocklist(iface="veth0", audit="off", prefixes={BAD}{TC}) as bl;"#);
    let weir = Weir::script(&script).at(&lab).start()?;
    let came = || -> Result<u32> {
        let socket = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), PORT))?;
        traffic::send_frames(&lab, &[(3, Frame::udp(BAD, lab.node4(), PORT))])?;
        traffic::settle(&lab)?;
        traffic::received(&socket)
    };
    ensure!(came()? == 0, "the list is not in force");
    let stopped = Instant::now();
    weir.signal(Signal::SIGSTOP)?;
    wait_for("the gate to open", || Ok((came()? == 3).then_some(())))?;
    // Ten after the last beat, which may be late on a busy machine.
    ensure!(stopped.elapsed() > Duration::from_secs(3), "open after {:?}", stopped.elapsed());
    weir.signal(Signal::SIGCONT)?;
    wait_for("the list to be in force again", || Ok((came()? == 0).then_some(())))?;
    weir.stop()?.clean().map(drop)
}

fn refused() -> Result<()> {
    let lab = Lab::new()?;
    let run = |params: &str| {
        Weir::script(&format!(
            r#"use blocklist(iface="veth0", audit="off", prefixes={BAD}{params}) as bl;"#
        ))
        .at(&lab)
        .run()
    };
    run(", direction=\"egress\"")?.refused(&["XDP sees what comes in, and `direction` is `egress`", "add `hook=\"tc\"`", "^"])?;
    run(", direction=\"both\"")?.refused(&["`direction` is `both`"])?;
    run(", hook=\"tc\", mode=\"native\"")?.refused(&["TC has no `mode`", "leave out `mode`", "^"])?;
    run(", hook=\"socket\"")?.refused(&["`hook` takes one of \"xdp\", \"tc\"", "^"])?;
    // What starts without an entry is no error, since a file may get some; nobody is to believe that it drops.
    lab.dir.write("none.txt", "# nobody yet\n")?;
    let script = r#"use blocklist(iface="none*", hook="tc", direction="both", audit="off", prefixes=file("none.txt")) as bl; interval:ms:1 { exit(); }"#;
    let empty = Weir::script(script).at(&lab).run()?;
    ensure!(
        empty.status.success() && empty.stderr.contains("warning: `bl`: `prefixes` has no entry: nothing is dropped"),
        "{empty}"
    );
    let told = empty.stderr.matches("no interface matches `none*` yet").count();
    ensure!(told == 1, "said {told} times: {empty}");
    run(", hook=\"tc\", direction=\"out\"")?
        .refused(&["`direction` takes one of", "\"to_pod\""])
        .map(drop)
}

fn advice() -> Result<()> {
    let lab = Lab::new()?;
    let words = "`veth0` is a veth: `hook=\"tc\"` is cheaper there";
    for (params, told) in [("", true), (TC, false), (", mode=\"generic\"", false)] {
        let script = format!(
            r#"use blocklist(iface="veth0", audit="off", prefixes={BAD}{params}) as bl; interval:ms:100 {{ print(@bl); exit(); }}"#
        );
        let done = Weir::script(&script).at(&lab).run()?.clean()?;
        ensure!(
            done.stderr.contains(words) == told && done.stdout.contains(words) == told,
            "{params}: {done}"
        );
    }
    Ok(())
}
