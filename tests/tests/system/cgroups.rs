//! The hooks of cgroups: system calls of sockets, with exact counts of real ones.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use weir_tests::cgroup::Cgroup;
use weir_tests::harness::Test;
use weir_tests::kernel::{KernelState, Kind};
use weir_tests::net::Lab;
use weir_tests::weir::{Weir, program};

pub const TESTS: &[Test] = &[
    Test::new("cgroup_connect_counts_and_refuses", connect),
    Test::new("cgroup_blocks_on_one_hook_are_one_program", order),
    Test::new("every_cgroup_hook_sees_its_call", every_hook),
    Test::new("cgroup_addresses_can_be_rewritten", rewrite),
    Test::new("cgroup_skb_counts_and_drops", packets),
    Test::new("cgroups_are_found_from_any_namespace", any_namespace),
    Test::new("nothing_is_left_of_cgroup_programs", leftovers).alone(),
    Test::new("a_missing_cgroup_is_named", missing),
];

fn tcp(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect(to).map(drop)
}

fn is_refused(result: &io::Result<()>, errno: i32) -> bool {
    matches!(result, Err(e) if e.raw_os_error() == Some(errno))
}

fn connect() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let (node4, node6) = (IpAddr::from(lab.node4()), IpAddr::from(lab.node6()));
    let _listeners = lab.node.run(|| {
        let listen = |ip, port| TcpListener::bind((ip, port)).context("cannot listen");
        Ok([listen(node4, 8080)?, listen(node4, 8081)?, listen(node6, 8080)?])
    })?;
    let path = group.path();
    let weir = Weir::script(&format!(
        "cgroup:{path}:connect4,cgroup:{path}:connect6 {{ @[addr.ip, addr.port, addr.family, addr.proto, uid] = count(); \
         if (addr.port == 8081 || addr.ip == \"{node6}\" && addr.port == 9) {{ deny(); }} }}"
    ))
    .at(&lab)
    .start()?;
    for _ in 0..3 {
        let result = group.run(&lab.node, move || tcp((node4, 8080).into()))?;
        ensure!(result.is_ok(), "{result:?}");
        let result = group.run(&lab.node, move || tcp((node6, 8080).into()))?;
        ensure!(result.is_ok(), "{result:?}");
    }
    let denied = group.run(&lab.node, move || tcp((node4, 8081).into()))?;
    ensure!(is_refused(&denied, libc::EPERM), "{denied:?}");
    let denied = group.run(&lab.node, move || tcp((node6, 9).into()))?;
    ensure!(is_refused(&denied, libc::EPERM), "{denied:?}");
    // Whoever is not in the cgroup is not asked.
    lab.node
        .run(|| TcpStream::connect((node4, 8081)).context("refused outside of the cgroup").map(drop))?;
    let done = weir.stop()?.clean()?;
    done.expect_map(
        "@",
        [
            (format!("{node4}, 8080, 2, 6, 0"), 3),
            (format!("{node6}, 8080, 10, 6, 0"), 3),
            (format!("{node4}, 8081, 2, 6, 0"), 1),
            (format!("{node6}, 9, 10, 6, 0"), 1),
        ],
    )?;
    let again = group.run(&lab.node, move || tcp((node4, 8081).into()))?;
    ensure!(again.is_ok(), "still refused after the end: {again:?}");
    Ok(())
}

/// The first verdict wins; without one the next block is asked, then the call goes on.
fn order() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let ip = IpAddr::from(lab.node4());
    let path = group.path();
    let weir = Weir::script(&format!(
        "cgroup:{path}:connect4 {{ @first = count(); if (addr.port == 1) {{ allow(); }} if (addr.port == 2) {{ deny(); }} }} \
         cgroup:{path}:connect4 {{ @second = count(); if (addr.port == 3) {{ return 0; }} }}"
    ))
    .at(&lab)
    .start()?;
    let programs = weir.objects().iter().filter(|o| o.kind == Kind::Program).count();
    ensure!(programs == 1, "expected one program, found {:?}", weir.objects());
    // Nobody listens: a call that goes on ends with another error.
    for (port, errno) in [(1, libc::ECONNREFUSED), (2, libc::EPERM), (3, libc::EPERM), (4, libc::ECONNREFUSED)] {
        let result = group.run(&lab.node, move || tcp((ip, port).into()))?;
        ensure!(is_refused(&result, errno), "port {port}: {result:?}");
    }
    let done = weir.stop()?.clean()?;
    done.expect_map("@first", [("", 4)])?;
    done.expect_map("@second", [("", 2)])
}

fn every_hook() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let path = group.path();
    let mut script = String::new();
    for hook in ["bind", "post_bind", "sendmsg", "recvmsg", "getsockname", "getpeername", "connect"] {
        for family in [4, 6] {
            script.push_str(&format!(
                "cgroup:{path}:{hook}{family} {{ @{hook}[addr.ip, addr.port, addr.proto] = count(); }} "
            ));
        }
    }
    script.push_str(&format!(
        "cgroup:{path}:sock_* {{ @sock[probe, addr.family, addr.proto] = count(); }}"
    ));
    let weir = Weir::script(&script).at(&lab).start()?;
    let addresses = [IpAddr::from(lab.node4()), IpAddr::from(lab.node6())];
    for ip in addresses {
        let result = group.run(&lab.node, move || {
            let mut buffer = [0; 16];
            let receiver = UdpSocket::bind((ip, 7001))?;
            let sender = UdpSocket::bind((ip, 7002))?;
            for _ in 0..3 {
                sender.send_to(b"weir", (ip, 7001))?;
            }
            for _ in 0..3 {
                receiver.recv_from(&mut buffer)?;
            }
            sender.connect((ip, 7001))?;
            sender.local_addr()?;
            sender.peer_addr()?;
            sender.peer_addr().map(drop)
        })?;
        ensure!(result.is_ok(), "{result:?}");
    }
    let done = weir.stop()?.clean()?;
    let of = |port: u16, count: u32| addresses.map(|ip| (format!("{ip}, {port}, 17"), count));
    for map in ["@bind", "@post_bind"] {
        done.expect_map(map, [of(7001, 1), of(7002, 1)].concat())?;
    }
    done.expect_map("@sendmsg", of(7001, 3))?;
    done.expect_map("@recvmsg", of(7002, 3))?;
    done.expect_map("@connect", of(7001, 1))?;
    done.expect_map("@getsockname", of(7002, 1))?;
    done.expect_map("@getpeername", of(7001, 2))?;
    let probe = format!("cgroup:{path}:sock_*");
    let sockets = done.map("@sock");
    // Two sockets a family are made; that they are released is seen too, by the same block.
    for family in [2, 10] {
        let key = format!("{probe}, {family}, 17");
        ensure!(sockets.get(&key).map(String::as_str) == Some("4"), "{key}: {done}");
    }
    Ok(())
}

/// A service by another address and port: nobody listens where the process connects to.
fn rewrite() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let (node4, node6) = (IpAddr::from(lab.node4()), IpAddr::from(lab.node6()));
    let _listeners = lab.node.run(|| {
        let listen = |ip| TcpListener::bind((ip, 8080)).context("cannot listen");
        Ok([listen(node4)?, listen(node6)?])
    })?;
    let path = group.path();
    let weir = Weir::script(&format!(
        "cgroup:{path}:connect4,cgroup:{path}:connect6 /addr.port == 9/ {{ addr.port = 8080; addr.ip = {node4}; addr.ip = \"{node6}\"; \
         @[addr.ip, addr.port] = count(); }}"
    ))
    .at(&lab)
    .start()?;
    let (other4, other6): (IpAddr, IpAddr) = ("192.0.2.1".parse()?, "2001:db8::1".parse()?);
    for (ip, count) in [(other4, 2), (other6, 3)] {
        for _ in 0..count {
            let result = group.run(&lab.node, move || tcp((ip, 9).into()))?;
            ensure!(result.is_ok(), "{ip}: {result:?}");
        }
    }
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [(format!("{node4}, 8080"), 2), (format!("{node6}, 8080"), 3)])
}

/// Packets of the cgroup's sockets, from their IP header on.
fn packets() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let (node4, node6) = (IpAddr::from(lab.node4()), IpAddr::from(lab.node6()));
    let path = group.path();
    let weir = Weir::script(&format!(
        "cgroup_skb:{path}:egress /has(udp)/ {{ @out[ip.src, ip.dst, udp.dport] = count(); if (udp.dport == 7003) {{ drop(); }} }} \
         cgroup_skb:{path}:egress /udp.dport == 7004/ {{ deny(); }} \
         cgroup_skb:{path}:ingress /udp.dport == 7001/ {{ @in[ip.version, ip.proto, udp.dport, udp.len] = count(); }}"
    ))
    .at(&lab)
    .start()?;
    for ip in [node4, node6] {
        let result = group.run(&lab.node, move || {
            let mut buffer = [0; 16];
            let receiver = UdpSocket::bind((ip, 7001))?;
            let sender = UdpSocket::bind((ip, 7002))?;
            for _ in 0..4 {
                sender.send_to(b"weir", (ip, 7001))?;
            }
            for _ in 0..4 {
                receiver.recv_from(&mut buffer)?;
            }
            // A dropped packet is an error of the call that sent it.
            for port in [7003, 7004] {
                match sender.send_to(b"weir", (ip, port)) {
                    Err(e) if e.raw_os_error() == Some(libc::EPERM) => {}
                    other => return Err(io::Error::other(format!("{port}: {other:?}"))),
                }
            }
            Ok(())
        })?;
        ensure!(result.is_ok(), "{result:?}");
    }
    let done = weir.stop()?.clean()?;
    let out = [node4, node6].map(|ip| [(7001, 4), (7003, 1), (7004, 1)].map(|(port, n)| (format!("{ip}, {ip}, {port}"), n)));
    done.expect_map("@out", out.concat())?;
    done.expect_map("@in", [("4, 17, 7001, 12", 4), ("6, 17, 7001, 12", 4)])
}

/// `ip netns exec` hides the mounted hierarchy; absolute paths and patterns work as well.
fn any_namespace() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let ip = IpAddr::from(lab.node4());
    let absolute = group.dir().display().to_string();
    let pattern = group.path().replace("weirtest", "weirt?st");
    for path in [group.path(), absolute, pattern] {
        let script = format!("cgroup:{path}:connect4 {{ @ = count(); }}");
        let args = [
            "netns".into(),
            "exec".into(),
            lab.node.name().into(),
            program()?.into_os_string(),
            "-e".into(),
            script.into(),
        ];
        let weir = Weir::new(args).program(Path::new("/usr/sbin/ip")).start()?;
        let result = group.run(&lab.node, move || tcp((ip, 1).into()))?;
        ensure!(is_refused(&result, libc::ECONNREFUSED), "{result:?}");
        weir.stop()?.clean()?.expect_map("@", [("", 1)])?;
    }
    Ok(())
}

fn leftovers() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let ip = IpAddr::from(lab.node4());
    let before = KernelState::now(Some(&lab.node))?;
    let path = group.path();
    let script = format!(
        "cgroup:{path}:connect4 {{ @ = count(); deny(); }} cgroup:{path}:post_bind4 {{ @b = count(); }} cgroup:{path}:sock_create {{ @s = count(); }} \
         cgroup_skb:{path}:ingress {{ @i = count(); }} cgroup_skb:{path}:egress {{ @e = count(); }}"
    );
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let weir = Weir::script(&script).at(&lab).start()?;
        let denied = group.run(&lab.node, move || tcp((ip, 1).into()))?;
        ensure!(is_refused(&denied, libc::EPERM), "{denied:?}");
        weir.end_with(signal)?.nothing_left()?;
        before.assert_same(Some(&lab.node))?;
        let free = group.run(&lab.node, move || tcp((ip, 1).into()))?;
        ensure!(is_refused(&free, libc::ECONNREFUSED), "after {signal}: {free:?}");
    }
    // A cgroup that goes takes the programs along; weir goes on.
    let weir = Weir::script(&script).at(&lab).start()?;
    drop(group);
    weir.stop()?.clean()?;
    before.assert_same(Some(&lab.node))
}

fn missing() -> Result<()> {
    let group = Cgroup::new()?;
    let wrong = group.path().replace("weirtest", "weirtset");
    let done = Weir::script(&format!("cgroup:{wrong}:connect4 {{ @ = count(); }}")).run()?;
    done.refused(&[&format!("`{wrong}`"), &format!("did you mean `{}`", group.path()), "^"])
        .map(drop)
}
