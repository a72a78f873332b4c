//! Patterns that overlap, and what comes while a script runs: each place has one program, with the blocks of all patterns that name it.

use anyhow::{Context, Result, ensure};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use weir_tests::cgroup::Cgroup;
use weir_tests::frame::Frame;
use weir_tests::harness::Test;
use weir_tests::kernel::{KernelState, Kind};
use weir_tests::net::Lab;
use weir_tests::traffic;
use weir_tests::wait_for;
use weir_tests::weir::{Running, Weir};

pub const TESTS: &[Test] = &[
    Test::new("patterns_overlapping_at_xdp_are_one_program_an_interface", at_xdp).alone(),
    Test::new("patterns_overlapping_at_tc_run_in_script_order", at_tc).alone(),
    Test::new("patterns_that_share_no_name_change_with_it", new_name).alone(),
    Test::new("patterns_of_cgroups_take_in_those_that_come_later", later_cgroups).alone(),
    Test::new("patterns_of_cgroups_overlap", overlapping_cgroups),
];

fn frame(port: u16) -> Frame {
    Frame::udp(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), port)
}

fn counted(running: &mut Running, line: &str) -> Result<()> {
    running.wait_stdout(line, |text| text.lines().any(|l| l == line))
}

fn programs(running: &Running) -> usize {
    running.objects().iter().filter(|o| o.kind == Kind::Program).count()
}

/// Every block counts, each once for a packet, in the order of the script, up to the first verdict.
fn at_xdp() -> Result<()> {
    let lab = Lab::new()?;
    lab.add_cable("veth1", "peer1")?;
    let before = KernelState::now(Some(&lab.node))?;
    let script = "xdp:* /udp.dport in (1-9)/ { @all[pkt.ifname] = count(); if (udp.dport == 1) { drop(); } } \
                  xdp:veth0 /udp.dport in (1-9)/ { @one[pkt.ifname] = count(); if (udp.dport == 2) { pass(); } } \
                  xdp:veth*, xdp:veth0 /udp.dport in (1-9)/ { @veths[pkt.ifname] = count(); } \
                  interval:ms:50 { print(@veths); print(@all); }";
    let mut weir = Weir::script(script).at(&lab).start()?;
    let frames = [(3, frame(1)), (5, frame(2)), (7, frame(3))];
    traffic::send_frames(&lab, &frames)?;
    traffic::send_frames_from(&lab.peer, "peer1", &frames)?;
    counted(&mut weir, "@veths[veth0]: 7")?;
    counted(&mut weir, "@veths[veth1]: 12")?;
    lab.add_cable("veth2", "peer2")?;
    weir.wait_stderr("word of the new interface", |text| {
        text.contains("interface `veth2` appeared: attached to `xdp:veth2` (native mode)\n")
    })?;
    traffic::send_frames_from(&lab.peer, "peer2", &frames)?;
    counted(&mut weir, "@veths[veth2]: 12")?;
    // Not a veth by its name: only the first block.
    lab.add_cable("other0", "peer3")?;
    weir.wait_stderr("word of the other interface", |text| text.contains("interface `other0` appeared"))?;
    traffic::send_frames_from(&lab.peer, "peer3", &frames)?;
    counted(&mut weir, "@all[other0]: 15")?;
    // It gets the blocks of its new name, and not those of both.
    for (old, new, port) in [("other0", "veth3", 1), ("veth3", "other1", 3)] {
        // Before Linux 6.2 only what is down can be renamed.
        lab.node.ip(&["link", "set", old, "down"])?;
        lab.node.ip(&["link", "set", old, "name", new, "up"])?;
        wait_for("the cable", || {
            Ok(lab.peer.ip(&["link", "show", "peer3"])?.contains("state UP").then_some(()))
        })?;
        weir.wait_stderr("word of the name", |text| {
            text.contains(&format!(
                "interface `{old}` is called `{new}` now\nnote: interface `{new}` appeared: attached to `xdp:{new}`"
            ))
        })?;
        traffic::send_frames_from(&lab.peer, "peer3", &[(port, frame(3))])?;
        counted(&mut weir, &format!("@all[{new}]: {port}"))?;
    }
    let done = weir.stop()?.clean()?;
    done.expect_map(
        "@all",
        [
            ("veth0", 15),
            ("veth1", 15),
            ("veth2", 15),
            ("other0", 15),
            ("veth3", 1),
            ("other1", 3),
        ],
    )?;
    done.expect_map("@one", [("veth0", 12)])?;
    done.expect_map("@veths", [("veth0", 7), ("veth1", 12), ("veth2", 12), ("veth3", 1)])?;
    for cable in ["veth2", "other1"] {
        lab.node.ip(&["link", "del", cable])?;
    }
    before.assert_same(Some(&lab.node))
}

/// An interface that gets another name has the blocks for that, and not those for the old one, too.
fn new_name() -> Result<()> {
    let lab = Lab::new()?;
    lab.add_cable("veth1", "peer1")?;
    let before = KernelState::now(Some(&lab.node))?;
    let block = |hook: &str, name: &str| format!("{hook} /udp.dport == 3/ {{ @{name}[pkt.ifname] = count(); }} ");
    let script = [
        block("xdp:veth1*", "xdp_old"),
        block("xdp:wan*", "xdp_new"),
        block("tc:veth1*:ingress", "tc_old"),
        block("tc:wan*:ingress", "tc_new"),
        block("tc:veth1*:egress", "no_other"),
        "interval:ms:50 { print(@tc_old); print(@tc_new); }".to_owned(),
    ];
    let mut weir = Weir::script(&script.concat()).at(&lab).start()?;
    traffic::send_frames_from(&lab.peer, "peer1", &[(2, frame(3))])?;
    counted(&mut weir, "@tc_old[veth1]: 2")?;
    // Before Linux 6.2 only what is down can be renamed.
    lab.node.ip(&["link", "set", "veth1", "down"])?;
    lab.node.ip(&["link", "set", "veth1", "name", "wan0", "up"])?;
    wait_for("the cable", || {
        Ok(lab.peer.ip(&["link", "show", "peer1"])?.contains("state UP").then_some(()))
    })?;
    weir.wait_stderr("word of the name", |text| {
        text.contains(
            "interface `veth1` is called `wan0` now; what is attached to it stays\nnote: interface `wan0` appeared: attached to `xdp:wan0`",
        )
    })?;
    traffic::send_frames_from(&lab.peer, "peer1", &[(5, frame(3))])?;
    counted(&mut weir, "@tc_new[wan0]: 5")?;
    let done = weir.stop()?.clean()?;
    for hook in ["xdp", "tc"] {
        done.expect_map(&format!("@{hook}_old"), [("veth1", 2)])?;
        done.expect_map(&format!("@{hook}_new"), [("wan0", 5)])?;
    }
    ensure!(!done.stderr.contains("error") && !done.stderr.contains("cannot"), "{done}");
    lab.node.ip(&["link", "set", "wan0", "down"])?;
    lab.node.ip(&["link", "set", "wan0", "name", "veth1", "up"])?;
    before.assert_same(Some(&lab.node))
}

/// The second block is between the two of the other pattern, also where the kernel would run programs one after the other.
fn at_tc() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    for direction in ["ingress", "egress"] {
        let script = format!(
            "tc:veth*:{direction} /udp.dport == 7/ {{ @a = count(); skb.mark = skb.mark * 10 + 1; }} \
             tc:veth0:{direction} /udp.dport == 7/ {{ @b = count(); skb.mark = skb.mark * 10 + 2; }} \
             tc:v*:{direction} /udp.dport == 7/ {{ @order[skb.mark] = count(); drop(); }} \
             tc:veth0:{direction} /udp.dport == 7/ {{ @never = count(); }}"
        );
        let weir = Weir::script(&script).at(&lab).start()?;
        let attached = if direction == "ingress" {
            traffic::send_frames(&lab, &[(6, Frame::udp(lab.peer4(), lab.node4(), 7))])?;
            traffic::settle(&lab)
        } else {
            let to = SocketAddr::new(lab.peer4().into(), 7);
            traffic::send_udp(&lab.node, lab.node4().into(), to, 6)
        };
        // A datagram that is dropped on its way out is an error of the call on some kernels.
        attached.or_else(|e| if direction == "egress" { Ok(()) } else { Err(e) })?;
        let done = weir.stop()?.clean()?;
        done.expect_map("@a", [("", 6)])?;
        done.expect_map("@b", [("", 6)])?;
        done.expect_map("@order", [("12", 6)])?;
        ensure!(!done.stdout.contains("@never: 6"), "{done}");
    }
    before.assert_same(Some(&lab.node))
}

fn connect(lab: &Lab, group: &Cgroup, port: u16) -> Result<bool> {
    let ip = IpAddr::from(lab.node4());
    // Nobody listens: a call that may go on is refused by the other side.
    match group.run(&lab.node, move || TcpStream::connect((ip, port)).map(drop))? {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        other => other.map(|()| true).context("connect"),
    }
}

fn later_cgroups() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let path = group.path();
    let before = KernelState::now(Some(&lab.node))?;
    let script = format!(
        "cgroup:{path}/pod*:connect4 {{ @[cgroup] = count(); if (addr.port == 9) {{ deny(); }} }} \
         cgroup_skb:{path}/*/inner:egress {{ @out = count(); }}"
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    weir.wait_stderr("a warning", |text| text.contains(&format!("no cgroup matches `{path}/pod*` yet")))?;
    let first = group.below("pod1")?;
    let word = format!("cgroup `{path}/pod1` appeared: attached to `cgroup:{path}/pod1:connect4`");
    weir.wait_stderr("word of the new cgroup", |text| text.contains(&word))?;
    ensure!(!connect(&lab, &first, 9)?, "the new cgroup is not asked");
    ensure!(connect(&lab, &first, 10)?, "all of its calls are refused");
    // Two levels at once, whose upper one nobody watched before.
    let inner = first.below("inner")?;
    weir.wait_stderr("word of the inner cgroup", |text| {
        text.contains(&format!("attached to `cgroup_skb:{path}/pod1/inner:egress`"))
    })?;
    drop(inner);
    weir.wait_stderr("word of its end", |text| {
        text.contains(&format!("cgroup `{path}/pod1/inner` is gone; the other one goes on"))
    })?;
    drop(first);
    weir.wait_stderr("word of the end", |text| {
        text.contains(&format!("cgroup `{path}/pod1` is gone; it was the last one"))
    })?;
    // The same name again is another cgroup.
    let again = group.below("pod1")?;
    weir.wait_stderr("word of the second one", |text| text.matches(&word).count() == 2)?;
    ensure!(!connect(&lab, &again, 9)?, "the cgroup that came back is not asked");
    let done = weir.stop()?.clean()?;
    let counts: u32 = done.map("@").values().filter_map(|v| v.parse::<u32>().ok()).sum();
    ensure!(counts == 3, "{done}");
    drop(again);
    before.assert_same(Some(&lab.node))
}

fn overlapping_cgroups() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let (one, two) = (group.below("one")?, group.below("two")?);
    let path = group.path();
    let script = format!(
        "cgroup:{path}/*:connect4 {{ @all = count(); if (addr.port == 1) {{ deny(); }} }} \
         cgroup:{path}/one:connect4 {{ @one = count(); if (addr.port == 2) {{ deny(); }} }} \
         cgroup:{path}/*:connect4 {{ @after = count(); }}"
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    // For `one` and for the rest.
    ensure!(programs(&weir) == 2, "{:?}", weir.objects());
    for (group, port, allowed) in [
        (&one, 1, false),
        (&one, 2, false),
        (&one, 3, true),
        (&two, 1, false),
        (&two, 2, true),
    ] {
        ensure!(connect(&lab, group, port)? == allowed, "port {port} of {}", group.path());
    }
    let done = weir.stop()?.clean()?;
    done.expect_map("@all", [("", 5)])?;
    done.expect_map("@one", [("", 2)])?;
    done.expect_map("@after", [("", 2)])
}
