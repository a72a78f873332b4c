//! Natives on interfaces whose packets start with IP (tun stands for all of them), alone and beside those with Ethernet in one instance.

use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, Ipv6Addr};
use weir_tests::features::Feature;
use weir_tests::frame::Frame;
use weir_tests::harness::Need::Has;
use weir_tests::harness::Test;
use weir_tests::net::{Lab, Tun};
use weir_tests::traffic;
use weir_tests::weir::{Finished, Running, Weir};

pub const TESTS: &[Test] = &[
    Test::new("native_links_blocklist_without_ethernet", blocklist).needs(&[Has(Feature::Tun)]),
    Test::new("native_links_flows_and_identity_without_ethernet", flows_and_identity).needs(&[Has(Feature::Tun)]),
];

/// What user space does, whatever the kernel.
pub const ONCE: &[Test] = &[Test::new("native_links_nobody_is_passed_over_in_silence", passed_over).needs(&[Has(Feature::Tun)])];

const PORT: u16 = 5000;
const NODE4: Ipv4Addr = Ipv4Addr::new(10, 99, 7, 1);
const BAD4: Ipv4Addr = Ipv4Addr::new(10, 99, 7, 2);
const GOOD4: Ipv4Addr = Ipv4Addr::new(10, 99, 7, 3);
const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);
const BAD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 2);

/// What is behind the 14 bytes of Ethernet.
fn packet(frame: &Frame) -> Vec<u8> {
    frame.bytes()[14..].to_vec()
}

fn tun(lab: &Lab) -> Result<Tun> {
    let tun = Tun::new(&lab.node, "tun0")?;
    lab.node.ip(&["addr", "add", &format!("{NODE4}/24"), "dev", "tun0"])?;
    lab.node.ip(&["addr", "add", &format!("{NODE6}/64"), "dev", "tun0", "nodad"])?;
    Ok(tun)
}

fn expect(done: &Finished, line: &str) -> Result<()> {
    ensure!(done.stdout.lines().any(|l| l.trim() == line), "no `{line}`: {done}");
    Ok(())
}

/// At XDP and at TC, by a name and by patterns that meet both kinds: what is listed is dropped, blocks on the event and whoever comes behind
/// read the right bytes.
fn blocklist() -> Result<()> {
    let lab = Lab::new()?;
    let tun = tun(&lab)?;
    let socket = traffic::listen_udp(&lab.node, (NODE4, PORT).into())?;
    let listed = format!("({BAD4}, \"{BAD6}\", 198.51.100.0/24)");
    let bad = Frame::udp(BAD4, NODE4, PORT);
    let (bad6, good) = (Frame::udp(BAD6, NODE6, PORT), Frame::udp(GOOD4, NODE4, PORT));
    for (iface, more) in [
        ("tun0", ""),
        ("*", ", mode=\"generic\""),
        ("tun0", ", hook=\"tc\""),
        ("*", ", hook=\"tc\""),
    ] {
        let point = if more.contains("tc") {
            format!("tc:{iface}:ingress")
        } else {
            format!("xdp:{iface}{}", if more.is_empty() { "" } else { ":generic" })
        };
        let script = format!(
            "use blocklist(iface=\"{iface}\", prefixes={listed}, audit=\"off\"{more}) as bl; \
             bl:drop {{ @dropped[ip.src, udp.dport] = count(); if (has(eth)) {{ @eth = count(); }} }} \
             {point} /udp.dport == {PORT}/ {{ @behind[ip.src] = count(); }}"
        );
        let weir = Weir::script(&script).at(&lab).start()?;
        tun.receive(&packet(&bad), 5)?;
        tun.receive(&packet(&bad6), 3)?;
        tun.receive(&packet(&good), 4)?;
        traffic::send_frames(&lab, &[(7, Frame::udp(Ipv4Addr::new(198, 51, 100, 9), lab.node4(), PORT))])?;
        traffic::settle(&lab)?;
        let done = weir.stop()?.clean().with_context(|| script.clone())?;
        let both = iface == "*";
        expect(&done, &format!("@bl.stats[dropped]: {}", if both { 15 } else { 8 }))?;
        expect(&done, "@bl.stats[malformed]: 0")?;
        let bytes = 5 * packet(&bad).len();
        expect(&done, &format!("@bl.hits[{BAD4}/32]: {{ .packets = 5, .bytes = {bytes} }}"))?;
        let mut dropped = vec![(format!("{BAD4}, {PORT}"), 5), (format!("{BAD6}, {PORT}"), 3)];
        if both {
            dropped.push((format!("198.51.100.9, {PORT}"), 7));
            expect(&done, "@eth: 7")?;
        }
        done.expect_map("@dropped", dropped).with_context(|| script.clone())?;
        done.expect_map("@behind", [(GOOD4.to_string(), 4)])
            .with_context(|| script.clone())?;
        ensure!(
            traffic::received(&socket)? == 4,
            "{script}: dropped packets arrived, or others did not"
        );
    }
    Ok(())
}

fn flows_and_identity() -> Result<()> {
    let lab = Lab::new()?;
    let tun = tun(&lab)?;
    let (udp, udp6) = (Frame::udp(BAD4, NODE4, PORT), Frame::udp(BAD6, NODE6, PORT));
    let cable = Frame::udp(lab.peer4(), lab.node4(), PORT);
    let after_packets = |weir: Running| -> Result<Finished> {
        tun.receive(&packet(&udp), 5)?;
        tun.receive(&packet(&udp6), 3)?;
        traffic::send_frames(&lab, &[(2, cable.clone())])?;
        traffic::settle(&lab)?;
        weir.stop()?.clean()
    };
    for (iface, hook) in [("tun0", ""), ("*", ""), ("*", ", hook=\"xdp\"")] {
        let script = format!(
            "use flows(iface=\"{iface}\"{hook}) as fl; fl:new /udp.dport == {PORT}/ {{ @new[ip.src] = count(); }} end {{ print(@fl.flows); print(@fl.stats); }}"
        );
        let weir = Weir::script(&script).at(&lab).start()?;
        let done = after_packets(weir)?;
        for (from, to, count, frame) in [
            (BAD4.to_string(), NODE4.to_string(), 5, &udp),
            (format!("[{BAD6}]"), format!("[{NODE6}]"), 3, &udp6),
        ] {
            let key = format!("@fl.flows[{from}:40000 > {to}:{PORT} udp, tun0, ingress]: ");
            let row = done
                .stdout
                .lines()
                .find(|l| l.starts_with(&key))
                .with_context(|| format!("no `{key}`: {done}"))?;
            let bytes = count * packet(frame).len();
            ensure!(row.contains(&format!(".packets = {count}, .bytes = {bytes},")), "{row}");
        }
        let mut new = vec![(BAD4.to_string(), 1), (BAD6.to_string(), 1)];
        if iface == "*" {
            new.push((lab.peer4().to_string(), 1));
        }
        done.expect_map("@new", new).with_context(|| script.clone())?;
        expect(&done, "@fl.stats[malformed]: 0")?;
    }

    let rules = format!(
        "[[rule]]\nname = \"closed\"\nto = [\"{NODE4}\", \"{NODE6}\", \"{}\"]\nport = {PORT}\nproto = \"udp\"\nverdict = \"deny\"\n",
        lab.node4()
    );
    lab.dir.write("policy.toml", &format!("default = \"allow\"\n{rules}"))?;
    let socket = traffic::listen_udp(&lab.node, (NODE4, PORT).into())?;
    for iface in ["tun0", "*"] {
        let script = format!(
            "use identity(iface=\"{iface}\", policy=file(\"policy.toml\"), audit=\"off\") as id; \
             id:deny {{ @denied[id.rule, ip.dst, port.dst] = count(); }} end {{ print(@id.stats); }}"
        );
        let weir = Weir::script(&script).at(&lab).start()?;
        let done = after_packets(weir)?;
        let mut denied = vec![(format!("closed, {NODE4}, {PORT}"), 5), (format!("closed, {NODE6}, {PORT}"), 3)];
        if iface == "*" {
            denied.push((format!("closed, {}, {PORT}", lab.node4()), 2));
        }
        done.expect_map("@denied", denied).with_context(|| script.clone())?;
        expect(&done, "@id.stats[malformed]: 0")?;
        ensure!(traffic::received(&socket)? == 0, "{script}: denied packets arrived");
    }
    Ok(())
}

/// `ARPHRD_CAN`: neither Ethernet nor IP.
const CAN: libc::c_int = 280;

/// Who cannot be read is refused by its name, and named where a pattern meets it; so is one that is of another kind when it comes back.
fn passed_over() -> Result<()> {
    let lab = Lab::new()?;
    let can = Tun::of_kind(&lab.node, "can0", CAN)?;
    let start = |iface: &str| {
        Weir::script(&format!(
            "use blocklist(iface=\"{iface}\", prefixes=192.0.2.1, audit=\"off\", hook=\"tc\");"
        ))
        .at(&lab)
    };
    start("can0").run()?.refused(&[
        "packets of `can0` start with neither Ethernet nor IP",
        "Ethernet interfaces and of IP tunnels",
        "^",
    ])?;
    let told = |weir: &mut Running| {
        weir.wait_stderr("word of `can0`", |text| {
            text.contains("packets of `can0` start with neither Ethernet nor IP: it has no program of this script")
        })
    };
    let mut weir = start("*").start()?;
    told(&mut weir)?;
    ensure!(weir.stderr().matches("`can0`").count() == 1, "{}", weir.stderr());
    weir.stop()?.clean()?;
    // One that comes later.
    drop(can);
    let mut weir = start("*").start()?;
    ensure!(!weir.stderr().contains("can0"), "{}", weir.stderr());
    let can = Tun::of_kind(&lab.node, "can0", CAN)?;
    told(&mut weir)?;
    weir.stop()?.clean()?;
    drop(can);

    let tun = tun(&lab)?;
    // What the driver cannot do is said in the words of the parameters.
    let at_xdp = |more: &str| Weir::script(&format!("use blocklist(iface=\"tun0\", prefixes=192.0.2.1, audit=\"off\"{more});")).at(&lab);
    at_xdp(", mode=\"native\"").run()?.refused(&[
        "does not take a native XDP program",
        "write `mode=\"generic\"`, or use `hook=\"tc\"`",
        "^",
    ])?;
    at_xdp(", mode=\"offload\"")
        .run()?
        .refused(&["does not run in a card", "write `mode=\"native\"`", "^"])?;
    let weir = at_xdp("").start()?;
    ensure!(
        weir.stderr().contains("`tun0` runs XDP in generic mode")
            && weir.stderr().contains("`hook=\"tc\"` is cheaper; write `mode=\"generic\"`"),
        "{}",
        weir.stderr()
    );
    weir.stop()?.clean()?;
    let mut weir = start("tun0").start()?;
    drop(tun);
    weir.wait_stderr("the end of `tun0`", |text| {
        text.contains("`tun0` is gone") || text.contains("`tun0`")
    })?;
    lab.add_cable("tun0", "peer7")?;
    weir.wait_stderr("word of the other `tun0`", |text| {
        text.contains("packets of `tun0` start otherwise than those of the interface of this name that the script was made for")
    })?;
    weir.stop()?.clean().map(drop)
}
