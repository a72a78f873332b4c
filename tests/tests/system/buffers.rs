//! The shapes in which the kernel keeps a packet: tags beside it, pieces of it elsewhere, many packets in one; and whose it is.

use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use weir_tests::cgroup::Cgroup;
use weir_tests::features::Feature;
use weir_tests::frame::{Frame, Payload};
use weir_tests::harness::Need::Has;
use weir_tests::harness::Test;
use weir_tests::net::{Lab, NODE_IF, PEER_IF};
use weir_tests::pcapng;
use weir_tests::traffic::{self, Connection};
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("buffers_with_a_stripped_vlan_tag_have_it_at_tc", stripped_tag),
    Test::new("buffers_of_vlan_interfaces_have_their_tags_on_both_ways", vlan_interfaces).needs(&[Has(Feature::Vlan)]),
    Test::new("buffers_in_pieces_are_read_and_written_whole", in_pieces),
    Test::new("buffers_larger_than_a_page_are_whole_at_xdp", large_at_xdp),
    Test::new("buffers_with_many_segments_count_as_on_the_wire", segments),
    Test::new("buffers_belong_to_a_socket_and_its_cgroup", owners),
];

/// What the kernel has taken out of the frame, as a card does: it does so with every tagged frame, before TC.
fn stripped_tag() -> Result<()> {
    let lab = Lab::new()?;
    let from = Ipv4Addr::new(192, 0, 2, 9);
    let body = "/udp.dport == 5000/ { @tag[vlan.id, vlan.prio, eth.type, udp.dport] = count(); @inner[vlan[1].id] = count(); \
                @mac[eth.src] = count(); @len[pkt.len] = count(); if (!has(vlan)) { @plain = count(); } }";
    let file = lab.dir.path().join("tags.pcapng");
    for hook in ["tc:veth0:ingress", "xdp:veth0", "xdp:veth0:generic"] {
        let script = format!("{hook} {body} {hook} /udp.dport == 5000/ {{ capture(22); }}");
        let words = ["--pcap".into(), file.as_os_str().to_owned(), "-e".into(), script.into()];
        let weir = Weir::new(words).at(&lab).start()?;
        let frame = Frame::udp(from, lab.node4(), 5000);
        // Priority 3 of tag 7, two tags, none.
        let tagged = frame.clone().vlan(0x6007);
        traffic::send_frames(&lab, &[(3, tagged), (4, frame.clone().vlan(5).vlan(6)), (2, frame.clone())])?;
        traffic::settle(&lab)?;
        let done = weir.stop()?.clean()?;
        done.expect_map("@tag", [("7, 3, 2048, 5000", 3), ("5, 0, 2048, 5000", 4)])
            .context(hook)?;
        done.expect_map("@inner", [("6", 4)]).context(hook)?;
        done.expect_map("@plain", [("", 2)]).context(hook)?;
        done.expect_map("@mac", [("02:00:00:00:00:02", 9)]).context(hook)?;
        let lengths: u32 = done.map("@len").values().filter_map(|v| v.parse::<u32>().ok()).sum();
        ensure!(lengths == 9, "{hook}: {done}");
        // As on the wire, wherever the kernel keeps the tag.
        let heads: [(usize, &[u8]); 3] = [
            (3, &[0x81, 0, 0x60, 7, 8, 0, 0x45]),
            (4, &[0x81, 0, 0, 5, 0x81, 0, 0, 6, 8, 0]),
            (2, &[8, 0, 0x45]),
        ];
        let packets = pcapng::read(&std::fs::read(&file)?)?;
        for (n, head) in heads {
            let found = packets.iter().filter(|p| p.data[12..].starts_with(head)).count();
            ensure!(found == n, "{hook}: {found} of {n} with {head:x?}: {packets:#?}");
        }
    }
    Ok(())
}

/// Two interfaces on top of each other tag what is sent: the inner tag is in the frame, the outer one beside it, going out and coming in.
fn vlan_interfaces() -> Result<()> {
    let lab = Lab::new()?;
    let (from, to) = (Ipv4Addr::new(10, 79, 0, 1), Ipv4Addr::new(10, 79, 0, 2));
    let sides = [
        (&lab.node, NODE_IF, (from, "10.79.0.1/24"), (to, "02:00:00:00:00:02")),
        (&lab.peer, PEER_IF, (to, "10.79.0.2/24"), (from, "02:00:00:00:00:01")),
    ];
    for (ns, iface, (_, address), (other, mac)) in sides {
        for (below, name, id) in [(iface, "v7", "7"), ("v7", "v79", "9")] {
            ns.ip(&["link", "add", "link", below, "name", name, "type", "vlan", "id", id])?;
            ns.ip(&["link", "set", name, "addrgenmode", "none", "arp", "off"])?;
            ns.ip(&["link", "set", name, "up"])?;
        }
        ns.ip(&["addr", "add", address, "dev", "v79"])?;
        ns.ip(&[
            "neigh",
            "replace",
            &other.to_string(),
            "lladdr",
            mac,
            "dev",
            "v79",
            "nud",
            "permanent",
        ])?;
    }
    let socket = traffic::listen_udp(&lab.peer, (to, 5001).into())?;
    let tags = "vlan.id, vlan[1].id, eth.type, pkt.u8[16]";
    // The checksum is the kernel's to finish here; both fields are behind two tags, of which one is not in the frame.
    let script = format!(
        "tc:{NODE_IF}:egress /udp.dport == 5000/ {{ @out[{tags}] = count(); capture(60); udp.dport = 5001; ip.ttl = 9; }}
        tc:{PEER_IF}@{}:ingress /udp.dport == 5001/ {{ @in[{tags}, ip.ttl] = count(); }}",
        lab.peer.name()
    );
    let file = lab.dir.path().join("tags.pcapng");
    let words = ["--pcap".into(), file.as_os_str().to_owned(), "-e".into(), script.into()];
    let weir = Weir::new(words).at(&lab).start()?;
    traffic::send_udp(&lab.node, from.into(), (to, 5000).into(), 6)?;
    let mut arrived = 0;
    weir_tests::wait_for("the datagrams at the rewritten port", || {
        arrived += traffic::received(&socket)?;
        Ok((arrived == 6).then_some(()))
    })?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@out", [("7, 9, 2048, 8", 6)])?;
    done.expect_map("@in", [("7, 9, 2048, 8, 9", 6)])?;
    let packets = pcapng::read(&std::fs::read(&file)?)?;
    let head = [0x81, 0, 0, 7, 0x81, 0, 0, 9, 8, 0, 0x45];
    ensure!(
        packets.len() == 6 && packets.iter().all(|p| p.data.get(12..23) == Some(&head[..])),
        "{packets:#?}"
    );
    Ok(())
}

fn large_frame(lab: &Lab, port: u16, size: usize) -> Frame {
    let mut data = vec![0x61; size];
    data[size - 1] = 0x7a;
    Frame::new(
        lab.peer4(),
        lab.node4(),
        Payload::Udp {
            sport: 40_000,
            dport: port,
            data,
        },
    )
}

fn large_mtu(lab: &Lab) -> Result<()> {
    lab.node.ip(&["link", "set", NODE_IF, "mtu", "9000"])?;
    lab.peer.ip(&["link", "set", PEER_IF, "mtu", "9000"])?;
    Ok(())
}

/// Headers in fragments: a filter must not be passed by scattering a packet.
fn in_pieces() -> Result<()> {
    let lab = Lab::new()?;
    large_mtu(&lab)?;
    let size = 5000;
    let last = 14 + 20 + 8 + size - 1;
    let socket = traffic::listen_udp(&lab.node, (lab.node4(), 5001).into())?;
    for hook in ["tc:veth0:ingress", "xdp:veth0:generic"] {
        let script = format!(
            "{hook} /udp.dport == 5000/ {{ @[ip.src, udp.len, pkt.u8[{last}]] = count(); @len[pkt.len] = count(); \
             if (udp.sport == 40000) {{ drop(); }} }}"
        );
        let weir = Weir::script(&script).at(&lab).start()?;
        let frame = large_frame(&lab, 5000, size).bytes();
        // Cut behind Ethernet, in the middle of IP's header, and in that of UDP's.
        for linear in [14, 20, 37] {
            traffic::send_scattered(&lab, &frame, linear, 3)?;
        }
        traffic::settle(&lab)?;
        let done = weir.stop()?.clean()?;
        done.expect_map("@", [(format!("{}, {}, 122", lab.peer4(), size + 8), 9)])
            .context(hook)?;
        done.expect_map("@len", [((last + 1).to_string(), 9)]).context(hook)?;
    }
    // Written: what the receiving kernel takes has right checksums.
    let weir = Weir::script("tc:veth0:ingress /udp.dport == 5000/ { udp.dport = 5001; ip.ttl--; @ = count(); }")
        .at(&lab)
        .start()?;
    for linear in [14, 37] {
        traffic::send_scattered(&lab, &large_frame(&lab, 5000, size).bytes(), linear, 2)?;
    }
    traffic::settle(&lab)?;
    weir.stop()?.clean()?.expect_map("@", [("", 4)])?;
    let received = traffic::received(&socket)?;
    ensure!(received == 4, "{received} of 4 rewritten datagrams arrived");
    Ok(())
}

/// XDP with fragments: what does not fit into the first page is there all the same.
fn large_at_xdp() -> Result<()> {
    let lab = Lab::new()?;
    large_mtu(&lab)?;
    let size = 8000;
    let last = 14 + 20 + 8 + size - 1;
    let socket = traffic::listen_udp(&lab.node, (lab.node4(), 5001).into())?;
    let script = format!(
        "xdp:veth0:native /udp.dport in (5000, 5001)/ {{ @[pkt.len, pkt.u8[{last}], pkt.u8[{}]] = count(); @behind[pkt.u8[{}]] = count(); \
         if (udp.dport == 5000) {{ drop(); }} }}",
        last - 1,
        last + 1
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    let to = |port: u16| SocketAddr::new(lab.node4().into(), port);
    let mut data = vec![0x61; size];
    data[size - 1] = 0x7a;
    lab.peer.run(|| {
        let socket = UdpSocket::bind((IpAddr::from(lab.peer4()), 40_000))?;
        for port in [5000, 5000, 5001, 5001, 5001] {
            socket.send_to(&data, to(port))?;
        }
        Ok(())
    })?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [(format!("{}, 122, 97", last + 1), 5)])?;
    ensure!(done.map("@behind").is_empty(), "a byte behind the end: {done}");
    let received = traffic::received(&socket)?;
    ensure!(received == 3, "{received} of 3 passed datagrams arrived");
    Ok(())
}

/// A connection's packets are large ones on a veth; the kernel counts what a wire would see.
fn segments() -> Result<()> {
    let lab = Lab::new()?;
    let script = "tc:veth0:egress /has(tcp)/ { @out_segs = sum(pkt.segs); @out = count(); } \
                  tc:veth0:ingress /has(tcp)/ { @in_segs = sum(pkt.segs); @in = count(); }";
    let before = [lab.node.snmp("Tcp", "OutSegs")?, lab.peer.snmp("Tcp", "OutSegs")?];
    let weir = Weir::script(script).at(&lab).start()?;
    let mut connection = Connection::open(&lab, 8080)?;
    connection.transfer(2_000_000)?;
    connection.all_acknowledged()?;
    let done = weir.stop()?.clean()?;
    let after = [lab.node.snmp("Tcp", "OutSegs")?, lab.peer.snmp("Tcp", "OutSegs")?];
    let number = |map: &str| -> Result<u64> {
        let text = done.map(map).get("").cloned().with_context(|| format!("{map}: {done}"))?;
        text.parse().with_context(|| format!("{map}: {text}"))
    };
    let out = after[0] - before[0];
    ensure!(number("@out_segs")? == out, "the kernel sent {out} segments: {done}");
    ensure!(number("@out")? * 2 < out, "nothing was sent in large packets: {done}");
    let came = after[1] - before[1];
    ensure!(number("@in_segs")? == came, "the peer's kernel sent {came} segments: {done}");
    drop(connection);
    Ok(())
}

/// The cookie that the kernel gives a socket.
fn cookie(socket: &UdpSocket) -> Result<u64> {
    let mut cookie = 0_u64;
    let mut size = size_of_val(&cookie) as u32;
    // SAFETY: the option is written to a live integer whose size is passed.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    ensure!(got == 0, "SO_COOKIE: {}", std::io::Error::last_os_error());
    Ok(cookie)
}

fn owners() -> Result<()> {
    let (lab, group) = (Lab::new()?, Cgroup::new()?);
    let (to, from) = (SocketAddr::new(lab.peer4().into(), 5000), IpAddr::from(lab.node4()));
    let script = format!(
        "tc:veth0:egress /udp.dport == 5000/ {{ @tc[skb.cgroup_id] = count(); @cookie[skb.cookie] = count(); }} \
         tc:veth0:ingress /udp.dport == 5000/ {{ @in[skb.cookie] = count(); }} \
         cgroup_skb:{}:egress /udp.dport == 5000/ {{ @skb[skb.cgroup_id] = count(); @its[skb.cookie] = count(); }}",
        group.path()
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    let sent = group.run(&lab.node, move || {
        let socket = UdpSocket::bind((from, 0))?;
        for _ in 0..4 {
            socket.send_to(b"weir", to)?;
        }
        Ok(())
    })?;
    ensure!(sent.is_ok(), "{sent:?}");
    let socket = lab.node.run(|| Ok(UdpSocket::bind((from, 0))?))?;
    for _ in 0..3 {
        socket.send_to(b"weir", to)?;
    }
    // Not ours by anything that the node knows.
    traffic::send_frames(&lab, &[(2, Frame::udp(lab.peer4(), lab.node4(), 5000))])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    let id = std::fs::metadata(group.dir())?.ino().to_string();
    done.expect_map("@skb", [(&id, 4)])?;
    let by_group = done.map("@tc");
    ensure!(by_group.get(&id).map(String::as_str) == Some("4"), "cgroup {id}: {done}");
    let by_socket = done.map("@cookie");
    let ours = cookie(&socket)?.to_string();
    ensure!(by_socket.get(&ours).map(String::as_str) == Some("3"), "cookie {ours}: {done}");
    ensure!(by_socket.len() == 2, "two sockets have sent: {done}");
    ensure!(done.map("@its").len() == 1 && !done.map("@its").contains_key(&ours), "{done}");
    Ok(())
}
