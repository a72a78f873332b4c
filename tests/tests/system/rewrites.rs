//! Packets that scripts change, tag or send elsewhere, judged by the kernel that receives them.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use weir_tests::frame::{Frame, Payload};
use weir_tests::harness::Test;
use weir_tests::net::{Lab, Netns};
use weir_tests::patience;
use weir_tests::traffic;
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("a_connection_goes_through_rewritten_ports_at_tc", ports_at_tc),
    Test::new("rewritten_addresses_reach_their_sockets_at_tc_and_xdp", addresses),
    Test::new("redirected_packets_leave_by_the_other_interface", redirected),
    Test::new("native_xdp_redirects_into_a_veth_whose_peer_has_xdp", redirected_natively),
    Test::new("redirects_follow_a_device_that_goes_and_comes_back", device_comes_back),
    Test::new("mirrored_packets_go_both_ways", mirrored),
    Test::new("what_xdp_leaves_before_a_packet_tc_reads", tagged),
    Test::new("the_name_of_an_interface_is_known_in_a_pattern_too", names),
    Test::new(
        "names_of_interfaces_are_those_of_their_namespace_in_natives_events_too",
        names_of_namespaces_and_events,
    ),
    Test::new("a_redirect_to_a_missing_device_is_refused", missing_device),
];

/// A whole connection, both families, with the checksum offload of veth as it is.
fn ports_at_tc() -> Result<()> {
    let lab = Lab::new()?;
    let weir = Weir::script(
        "tc:veth0:ingress /tcp.dport == 80/ { tcp.dport = 8080; @in = count(); } tc:veth0:egress /tcp.sport == 8080/ { tcp.sport = 80; @out = count(); }",
    )
    .at(&lab)
    .start()?;
    for host in [IpAddr::from(lab.node4()), lab.node6().into()] {
        let listener = lab.node.run(|| Ok(TcpListener::bind(SocketAddr::new(host, 8080))?))?;
        let to = SocketAddr::new(host, 80);
        let mut client = lab
            .peer
            .run(|| TcpStream::connect_timeout(&to, patience()).with_context(|| format!("cannot connect to {to}")))?;
        let (mut server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(patience()))?;
            stream.set_write_timeout(Some(patience()))?;
        }
        // More than one segment each way, so that large ones are among them.
        let data: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let got = std::thread::scope(|scope| -> Result<Vec<u8>> {
            let send = scope.spawn(|| client.write_all(&data));
            let mut got = vec![0; data.len()];
            server.read_exact(&mut got)?;
            let sent = send.join();
            ensure!(sent.is_ok_and(|r| r.is_ok()), "sending failed");
            Ok(got)
        })?;
        ensure!(got == data, "other bytes arrived");
    }
    weir.stop()?.clean()?;
    Ok(())
}

/// Frames for an address that nobody has, with complete checksums, rewritten to the node's: its kernel takes only right ones.
fn addresses() -> Result<()> {
    const COUNT: u32 = 9;
    for hook in ["tc:veth0:ingress", "xdp:veth0:native", "xdp:veth0:generic"] {
        let lab = Lab::new()?;
        let script = format!(
            "{hook} /udp.dport == 7000/ {{ udp.dport = 7001; ip.dst = {}; ip.dst = \"{}\"; ip.ttl--; @ = count(); }}",
            lab.node4(),
            lab.node6()
        );
        let weir = Weir::script(&script).at(&lab).start()?;
        let sockets =
            [IpAddr::from(lab.node4()), lab.node6().into()].map(|host| traffic::listen_udp(&lab.node, SocketAddr::new(host, 7001)));
        let elsewhere = (Ipv4Addr::new(198, 51, 100, 7), "2001:db8:77::7".parse::<Ipv6Addr>()?);
        let mut frames = Vec::new();
        // Lengths odd and even: the checksum's last word is padded.
        for data in [b"weir".to_vec(), b"weirs".to_vec()] {
            let payload = || Payload::Udp {
                sport: 40_000,
                dport: 7000,
                data: data.clone(),
            };
            frames.push((COUNT, Frame::new(lab.peer4(), elsewhere.0, payload())));
            frames.push((COUNT, Frame::new(lab.peer6(), elsewhere.1, payload())));
        }
        traffic::send_frames(&lab, &frames)?;
        traffic::settle(&lab)?;
        let done = weir.stop()?;
        for socket in sockets {
            let got = traffic::received(&socket?)?;
            ensure!(got == 2 * COUNT, "{got} datagrams of {} arrived at {hook}: {done}", 2 * COUNT);
        }
        ensure!(done.stdout.contains(&format!("@: {}", 4 * COUNT)), "{done}");
    }
    Ok(())
}

/// How many packets an interface has received.
fn rx_packets(ns: &Netns, iface: &str) -> Result<u64> {
    let text = ns.ip(&["-s", "-j", "link", "show", iface])?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    json[0]["stats64"]["rx"]["packets"].as_u64().with_context(|| text.clone())
}

fn redirected() -> Result<()> {
    const COUNT: u32 = 13;
    for hook in ["tc:veth0:ingress", "xdp:veth0:generic"] {
        let lab = Lab::new()?;
        lab.add_cable("veth1", "peer1")?;
        let before = rx_packets(&lab.peer, "peer1")?;
        let script = format!("{hook} /udp.dport == 7000/ {{ @ = count(); redirect(\"veth1\"); }}");
        let weir = Weir::script(&script).at(&lab).start()?;
        let socket = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), 7000))?;
        traffic::send_frames(&lab, &[(COUNT, Frame::udp(lab.peer4(), lab.node4(), 7000))])?;
        traffic::settle(&lab)?;
        let done = weir.stop()?;
        let there = rx_packets(&lab.peer, "peer1")? - before;
        ensure!(
            there == u64::from(COUNT),
            "{there} of {COUNT} packets left by veth1 at {hook}: {done}"
        );
        ensure!(traffic::received(&socket)? == 0, "they arrived here, too: {done}");
        ensure!(done.stdout.contains(&format!("@: {COUNT}")), "{done}");
    }
    Ok(())
}

/// A device that is made again has another number. What is sent to it in between is counted.
fn device_comes_back() -> Result<()> {
    for hook in ["tc:veth0:ingress", "xdp:veth0:generic"] {
        device_goes_and_comes(hook).with_context(|| hook.to_owned())?;
    }
    Ok(())
}

/// The number in `… 3 packets were sent to …`.
fn lost_packets(line: &str) -> Option<u32> {
    let (before, _) = line.split_once(" packet")?;
    before.rsplit(' ').next()?.parse().ok()
}

fn device_goes_and_comes(hook: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.add_cable("veth1", "peer1")?;
    let script = format!("{hook} /udp.dport == 7000/ {{ @ = count(); redirect(\"veth1\"); }}");
    let mut weir = Weir::script(&script).at(&lab).start()?;
    lab.node.ip(&["link", "del", "veth1"])?;
    weir.wait_stderr("word of the end", |text| {
        text.contains("interface `veth1` is gone: packets that are sent to it are lost until it is back")
    })?;
    let socket = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), 7000))?;
    let frame = Frame::udp(lab.peer4(), lab.node4(), 7000);
    traffic::send_frames(&lab, &[(3, frame.clone())])?;
    traffic::settle(&lab)?;
    lab.add_cable("veth1", "peer1")?;
    weir.wait_stderr("word of its return", |text| text.contains("interface `veth1` is there again"))?;
    let before = rx_packets(&lab.peer, "peer1")?;
    traffic::send_frames(&lab, &[(5, frame)])?;
    traffic::settle(&lab)?;
    let there = rx_packets(&lab.peer, "peer1")? - before;
    let done = weir.stop()?.clean()?;
    ensure!(there == 5, "{there} of 5 packets left by the new veth1: {done}");
    ensure!(traffic::received(&socket)? == 0, "they arrived here: {done}");
    // Those in between were sent to nobody, and are counted: said every now and then, so maybe in parts.
    let told = done
        .stderr
        .lines()
        .filter(|line| line.contains("sent to `veth1`, which was gone, and lost"));
    let lost: u32 = told.filter_map(lost_packets).sum();
    ensure!(lost == 3, "{lost} of 3 packets were lost: {done}");
    done.expect_map("@", [("", 8)])
}

/// A veth takes redirected frames only where its other end polls for them, as it does with XDP.
fn redirected_natively() -> Result<()> {
    const COUNT: u32 = 13;
    let lab = Lab::new()?;
    lab.add_cable("veth1", "peer1")?;
    let before = rx_packets(&lab.peer, "peer1")?;
    let far = Weir::script("xdp:peer1:native /udp.dport == 7000/ { @far[ip.ttl] = count(); }")
        .at_peer(&lab)
        .start()?;
    let weir = Weir::script("xdp:veth0:native /udp.dport == 7000/ { ip.ttl = 7; @ = count(); redirect(\"veth1\"); }")
        .at(&lab)
        .start()?;
    let socket = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), 7000))?;
    traffic::send_frames(&lab, &[(COUNT, Frame::udp(lab.peer4(), lab.node4(), 7000))])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?;
    ensure!(done.stdout.contains(&format!("@: {COUNT}")), "{done}");
    ensure!(traffic::received(&socket)? == 0, "they arrived here, too: {done}");
    far.stop()?.expect_entry("@far", "7", COUNT)?;
    let there = rx_packets(&lab.peer, "peer1")? - before;
    ensure!(there == u64::from(COUNT), "{there} of {COUNT} packets left by veth1: {done}");
    Ok(())
}

fn mirrored() -> Result<()> {
    const COUNT: u32 = 7;
    let lab = Lab::new()?;
    lab.add_cable("veth1", "peer1")?;
    let before = rx_packets(&lab.peer, "peer1")?;
    let weir = Weir::script("tc:veth0:ingress /udp.dport == 7000/ { mirror(\"veth1\"); @[udp.sport] = count(); }")
        .at(&lab)
        .start()?;
    let socket = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), 7000))?;
    traffic::send_frames(&lab, &[(COUNT, Frame::udp(lab.peer4(), lab.node4(), 7000))])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    let there = rx_packets(&lab.peer, "peer1")? - before;
    ensure!(there == u64::from(COUNT), "{there} copies of {COUNT} arrived: {done}");
    ensure!(
        traffic::received(&socket)? == COUNT,
        "the packets themselves did not arrive: {done}"
    );
    done.expect_entry("@", "40000", COUNT)?;
    Ok(())
}

fn tagged() -> Result<()> {
    // Not generic mode: since Linux 6.9 that may copy a packet into a buffer that forgets the length of the Ethernet header
    // (`skb_pp_cow_data`), and TC then sees it from the IP header on.
    let lab = Lab::new()?;
    let script = "xdp:veth0:native /udp.dport == 53/ { pkt.meta = 1; pkt.meta = 11; } xdp:veth0:native /tcp.syn/ { pkt.meta = 2; } \
         tc:veth0:ingress /has(pkt.meta)/ { skb.mark = pkt.meta + 1; @tag[pkt.meta] = count(); } \
         tc:veth0:ingress /udp.dport == 54/ { @none[has(pkt.meta)] = count(); } \
         tc:veth0:ingress /skb.mark != 0/ { @mark[skb.mark] = count(); }";
    let weir = Weir::script(script).at(&lab).start()?;
    traffic::send_frames(
        &lab,
        &[
            (11, Frame::syn(lab.peer4(), lab.node4(), 22)),
            (5, Frame::udp(lab.peer4(), lab.node4(), 53)),
            (3, Frame::udp(lab.peer6(), lab.node6(), 54)),
        ],
    )?;
    traffic::settle(&lab)?;
    let done = weir.stop()?;
    for (map, key, count) in [
        ("@tag", "11", 5),
        ("@tag", "2", 11),
        ("@none", "false", 3),
        ("@mark", "12", 5),
        ("@mark", "3", 11),
    ] {
        done.expect_entry(map, key, count)?;
    }
    Ok(())
}

fn names() -> Result<()> {
    let lab = Lab::new()?;
    let weir = Weir::script("tc:veth*:ingress /udp.dport == 7000/ { @[pkt.ifname, pkt.direction] = count(); } tc:veth0:ingress /udp.dport == 7001/ { @b[pkt.ifname] = count(); }")
        .at(&lab)
        .start()?;
    // One that comes while the script runs has its name, too.
    lab.add_cable("veth1", "peer1")?;
    let frame = |port| Frame::udp(lab.peer4(), lab.node4(), port);
    traffic::send_frames(&lab, &[(4, frame(7000)), (2, frame(7001))])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?;
    done.expect_entry("@", "veth0, ingress", 4)?;
    done.expect_entry("@b", "veth0", 2)?;
    Ok(())
}

/// Interfaces of two namespaces may have one number, and natives' events are on interfaces, too.
fn names_of_namespaces_and_events() -> Result<()> {
    let lab = Lab::new()?;
    let (node, peer) = (lab.node.name(), lab.peer.name());
    let number = |ns: &Netns, iface: &str| -> Result<u64> {
        let text = ns.ip(&["-j", "link", "show", iface])?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        json[0]["ifindex"].as_u64().with_context(|| text.clone())
    };
    let index = 4242;
    for (ns, name) in [(&lab.node, "n4242"), (&lab.peer, "p4242")] {
        ns.ip(&[
            "link",
            "add",
            name,
            "index",
            &index.to_string(),
            "type",
            "veth",
            "peer",
            "name",
            &format!("{name}b"),
        ])?;
        ensure!(number(ns, name)? == index, "`{name}` has another number");
        ns.ip(&["link", "set", name, "up"])?;
        ns.ip(&["link", "set", &format!("{name}b"), "up"])?;
    }
    let script = format!(
        "use blocklist(iface=\"?4242@{node}\", prefixes=192.0.2.0/24, audit=\"off\", protect=false) as bl;
         use flows(iface=\"p424*@{peer}\", direction=\"ingress\", max=100) as fl;
         bl:drop {{ @drop[pkt.ifname, pkt.direction] = count(); }}
         fl:new /udp.dport == 5000/ {{ @new[pkt.ifname] = count(); }}
         tc:n424*@{node}:ingress /udp.dport == 5000/ {{ @n[pkt.ifname] = count(); }}
         tc:p424*@{peer}:ingress /udp.dport == 5000/ {{ @p[pkt.ifname] = count(); }}"
    );
    let weir = Weir::script(&script).start()?;
    let listed = Frame::udp(Ipv4Addr::new(192, 0, 2, 9), lab.node4(), 5000);
    let other = Frame::udp(lab.peer4(), lab.node4(), 5000);
    for (ns, name, count) in [(&lab.node, "n4242b", 2), (&lab.peer, "p4242b", 3)] {
        traffic::send_frames_from(ns, name, &[(count, other.clone()), (count + 2, listed.clone())])?;
    }
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@drop", [("n4242, ingress", 4)])?;
    // Every packet but the dropped ones; a flow is new once.
    done.expect_map("@n", [("n4242", 2)])?;
    done.expect_map("@p", [("p4242", 3 + 5)])?;
    done.expect_map("@new", [("p4242", 2)])
}

fn missing_device() -> Result<()> {
    let lab = Lab::new()?;
    let script = "tc:veth0:ingress { redirect(\"veth9\"); }";
    Weir::script(script)
        .at(&lab)
        .run()?
        .refused(&["there is no interface `veth9`", "did you mean `veth0`?"])?;
    // Of another namespace, which is asked when the script starts.
    let script = format!("tc:veth0@{}:ingress {{ redirect(\"veth9\"); }}", lab.node.name());
    Weir::script(&script)
        .run()?
        .refused(&[
            "no network interface matches `veth9`",
            lab.node.name(),
            "did you mean `veth0`?",
            "^",
        ])
        .map(drop)
}
