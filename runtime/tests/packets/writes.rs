//! Assignments to packet fields: the bytes, the checksums, and what the script sees of them.

use crate::frames::*;
use crate::run::*;
use weir_compiler::object::CounterSpec;

/// Frames of both families, TCP and UDP, tagged or not, with right checksums and some data.
fn frames() -> Vec<Vec<u8>> {
    let data = b"some data!!";
    let t = [tcp(1000, 22, 0x18), data.to_vec()].concat();
    let mut u = udp(1000, 53);
    u.extend(data);
    u[5] = 19;
    [
        eth(0x0800, &ip4(6, 0, 0, &t)),
        eth(0x0800, &ip4(17, 3, 0, &u)),
        eth(0x86dd, &ip6(6, &t)),
        eth(0x86dd, &ip6(17, &u)),
        eth(0x86dd, &ip6(58, b"\x80\0\0\0\0\x01\0\x01ping")),
        eth(0x0800, &ip4(1, 0, 0, b"\x08\0\0\0\0\x01\0\x01ping")),
        vlan(0x8100, 0x6005, 0x0800, &ip4(6, 0, 0, &t)),
        vlan(0x8100, 5, 0x86dd, &ip6(17, &u)),
    ]
    .map(summed)
    .to_vec()
}

/// Runs a block on all frames at both hooks and checks every checksum.
fn written(block: &str) -> Vec<Vec<u8>> {
    let before = frames();
    let r = both(block, &before);
    for (old, new) in before.iter().zip(&r.frames) {
        assert_eq!(wrong_sums(new), Vec::<String>::new(), "{block}\n{old:02x?}\n{new:02x?}");
    }
    // The same when the headers lie in fragments.
    if can_split() {
        for linear in [0, 36] {
            let split = run_one(&format!("xdp:lo {block}"), &before, true, Some(linear));
            assert_eq!(split.frames, r.frames, "{block}, {linear} bytes linear");
        }
    }
    r.frames
}

/// The differing bytes of two frames: offset, new value.
fn changed(old: &[u8], new: &[u8]) -> Vec<(usize, u8)> {
    assert_eq!(old.len(), new.len());
    (0..old.len()).filter(|i| old[*i] != new[*i]).map(|i| (i, new[i])).collect()
}

#[test]
fn every_checksum_is_right_behind_a_write() {
    if !allowed() {
        return;
    }
    for f in frames() {
        assert_eq!(wrong_sums(&f), Vec::<String>::new(), "the checker itself");
    }
    for block in [
        "{ ip.dst = 10.99.98.97; }",
        "{ ip.src = \"2001:db8:ffff::77\"; }",
        "{ ip4.dst = 1.2.3.4; ip6.dst = \"fe80::1234:5678\"; }",
        "{ tcp.dport = 8080; udp.dport = 5353; }",
        "{ tcp.sport = 1; udp.sport = 65535; }",
        "{ tcp.seq = 4294967295; tcp.ack = 1; tcp.window = 17; tcp.flags = 0x11; }",
        "{ ip.ttl--; }",
        "{ ip.ttl = 255; ip.tos = 0xb8; }",
        "{ ip4.ttl = 1; ip6.hop_limit = 2; ip4.tos = 3; ip6.tos = 0xff; }",
        "{ ip.dst = 10.0.0.9; ip.src = 10.0.0.8; tcp.dport = 1; udp.dport = 2; ip.ttl -= 3; }",
        "{ eth.dst = \"aa:bb:cc:dd:ee:ff\"; eth.src = eth.dst; vlan.id = 77; vlan.prio = 2; }",
        "{ $t = ip.src; ip.src = ip.dst; ip.dst = $t; $p = tcp.sport; tcp.sport = tcp.dport; tcp.dport = $p; }",
    ] {
        written(block);
    }
}

#[test]
fn a_write_changes_its_bytes_and_no_others() {
    if !allowed() {
        return;
    }
    let before = frames();
    let after = written("{ tcp.dport = 8080; }");
    let expected = |at: usize, old: &[u8]| {
        let mut new = old.to_vec();
        new[at..at + 2].copy_from_slice(&8080_u16.to_be_bytes());
        summed(new)
    };
    assert_eq!(after[0], expected(14 + 20 + 2, &before[0]));
    assert_eq!(after[2], expected(14 + 40 + 2, &before[2]));
    assert_eq!(after[6], expected(18 + 20 + 2, &before[6]));
    for i in [1, 3, 4, 5, 7] {
        assert_eq!(after[i], before[i], "frame {i} is not TCP");
    }
    // An IPv4 address has no place in an IPv6 packet.
    let after = written("{ ip.dst = 10.0.0.7; }");
    for i in [2, 3, 4, 7] {
        assert_eq!(after[i], before[i], "frame {i} is IPv6");
    }
    assert_eq!(after[0][30..34], [10, 0, 0, 7]);
    let after = written("{ ip.ttl--; }");
    assert_eq!(changed(&before[2], &after[2]), [(14 + 7, 62)]);
    let after = written("{ ip6.tos = 0xab; }");
    assert_eq!(changed(&before[2], &after[2]), [(14, 0x6a), (15, 0xb0)]);
    let after = written("{ vlan.id = 0xabc; }");
    assert_eq!(changed(&before[6], &after[6]), [(14, 0x6a), (15, 0xbc)]);
    assert_eq!(after[0], before[0]);
    let after = written("{ eth.src = \"aa:bb:cc:dd:ee:ff\"; }");
    assert_eq!(after[4][6..12], [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
    assert_eq!(after[4][..6], before[4][..6]);
}

#[test]
fn a_udp_checksum_of_zero_is_left_alone() {
    if !allowed() {
        return;
    }
    for frame in [
        eth(0x0800, &ip4(17, 0, 0, &[udp(1, 2), vec![7; 4]].concat())),
        eth(0x86dd, &ip6(17, &udp(1, 2))),
    ] {
        let mut frame = frame;
        if frame[12] == 8 {
            let sum = checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let at = frame.len() - if frame[12] == 8 { 6 } else { 2 };
        assert_eq!(frame[at..at + 2], [0, 0]);
        let r = both("{ udp.dport = 9; ip.src = ip.dst; }", std::slice::from_ref(&frame));
        assert_eq!(r.frames[0][at..at + 2], [0, 0]);
        assert_eq!(wrong_sums(&r.frames[0]), Vec::<String>::new());
        assert_ne!(r.frames[0], frame);
    }
}

#[test]
fn a_udp_checksum_that_comes_to_zero_is_written_as_ones() {
    if !allowed() {
        return;
    }
    // All destination ports: for one of them the sum of the rest is zero.
    let frame = summed(eth(0x0800, &ip4(17, 0, 0, &[udp(1, 2), vec![7; 4]].concat())));
    let stored = u16::from_be_bytes([frame[40], frame[41]]);
    // Adding what the checksum lacks to a covered word makes the sum all ones, the checksum zero.
    let sum = u32::from(stored) + 2;
    let port = if sum > 0xffff { sum - 0xffff } else { sum };
    let r = both(&format!("{{ udp.dport = {port}; }}"), &[frame]);
    assert_eq!(r.frames[0][40..42], [0xff, 0xff]);
    assert_eq!(wrong_sums(&r.frames[0]), Vec::<String>::new());
}

#[test]
fn what_is_read_behind_a_write_is_the_new_value() {
    if !allowed() {
        return;
    }
    let frame = summed(tcp4(22));
    let r = both(
        "{ tcp.dport = 8080; ip.dst = 10.0.0.7; @a[tcp.dport, port.dst, flow] = count(); }",
        std::slice::from_ref(&frame),
    );
    assert_eq!(r.maps, "@a[8080, 8080, 10.0.0.1:1000 > 10.0.0.7:8080 tcp]: 1");
    let r = both(
        "{ ip.dst = 10.0.0.7; ip.ttl = 9; tcp.flags = 0x10; @b[ip4.dst, ip.dst, ip4.ttl] = count(); @c[tcp.syn, tcp.flags.ack] = count(); @d[pkt.u8[33], pkt.u8[22]] = count(); }",
        &[frame],
    );
    assert_eq!(r.maps, "@b[10.0.0.7, 10.0.0.7, 9]: 1 @c[false, true]: 1 @d[7, 9]: 1");
    // Whatever was not there is still not there.
    let r = both(
        "{ ip.dst = 10.0.0.7; @a[ip6.dst] = count(); @b[udp.dport] = count(); }",
        &[summed(tcp4(22))],
    );
    assert_eq!(r.maps, "");
}

#[test]
fn a_write_with_an_absent_part_has_no_effect() {
    if !allowed() {
        return;
    }
    let before = summed(tcp4(22));
    let r = both(
        "{ udp.dport = 5; tcp.dport = udp.sport; ip.ttl = arp.op + @n++; ip6.dst = ip.src; }",
        std::slice::from_ref(&before),
    );
    assert_eq!(r.frames, [before]);
    assert_eq!(r.maps, "");
}

#[test]
fn numbers_are_cut_to_the_field() {
    if !allowed() {
        return;
    }
    let r = both(
        "{ tcp.dport += 65536; ip.ttl += 256; @[tcp.dport, ip.ttl] = count(); }",
        &[summed(tcp4(22))],
    );
    assert_eq!(r.maps, "@[22, 64]: 1");
    assert_eq!(r.frames, [summed(tcp4(22))]);
}

#[test]
fn headers_in_later_fragments_are_not_written() {
    if !allowed() {
        return;
    }
    let frame = eth(0x0800, &ip4(6, 0, 0x0007, &tcp(1, 22, 0)));
    let r = both("{ tcp.dport = 80; }", std::slice::from_ref(&frame));
    assert_eq!(r.frames, [frame]);
}

#[test]
fn writes_in_loops_are_those_of_the_same_statements_in_a_row() {
    if !allowed() {
        return;
    }
    // What the kernel calls for each round shares the packet with the code around it.
    for (looped, straight) in [
        (
            "{ for ($i : 0..3) { ip.ttl--; tcp.dport += 7; udp.sport = $i; } }",
            "{ ip.ttl -= 3; tcp.dport += 21; udp.sport = 2; }",
        ),
        (
            "{ $n = 0; while ($n < 2) { $n++; ip.dst = 10.0.0.7; ip6.src = \"fe80::1\"; for ($i : 0..2) { ip.tos += 4; } } }",
            "{ ip.dst = 10.0.0.7; ip6.src = \"fe80::1\"; ip.tos += 16; }",
        ),
        (
            "{ for ($i : 0..9) { eth.dst = \"aa:bb:cc:dd:ee:ff\"; vlan.id = 70 + $i; if ($i == 4) { break; } } }",
            "{ eth.dst = \"aa:bb:cc:dd:ee:ff\"; vlan.id = 74; }",
        ),
    ] {
        assert_eq!(written(looped), written(straight), "{looped}");
    }
    // What is read in the loop and behind it is the new value; what a verdict in it has not reached is the old.
    let frame = summed(tcp4(22));
    let r = both(
        "{ for ($i : 0..3) { tcp.dport++; ip.dst = 10.0.0.7; @in[tcp.dport] = count(); } @out[port.dst, flow] = count(); }",
        std::slice::from_ref(&frame),
    );
    assert_eq!(
        r.maps,
        "@in[23]: 1 @in[24]: 1 @in[25]: 1 @out[25, 10.0.0.1:1000 > 10.0.0.7:25 tcp]: 1"
    );
    let r = both(
        "{ ip.ttl = 5; for ($j : 0..9) { ip.ttl--; if (ip.ttl == 3) { drop(); } } ip.ttl = 77; }",
        std::slice::from_ref(&frame),
    );
    assert_eq!(r.verdicts, [XDP_DROP]);
    assert_eq!(r.frames[0][22], 3);
    assert_eq!(wrong_sums(&r.frames[0]), Vec::<String>::new());
    // Over the entries of a map.
    let r = both(
        "{ @m[1] = 2; @m[5] = 3; for ($kv : @m) { ip.ttl -= $kv.1; } @t[ip.ttl] = count(); }",
        std::slice::from_ref(&frame),
    );
    assert_eq!(r.maps, "@m[1]: 2 @m[5]: 3 @t[59]: 1");
}

#[test]
fn a_tag_that_finds_no_room_before_the_packet_is_counted() {
    if !allowed() {
        return;
    }
    let session = Session::new("xdp:lo { pkt.meta = 7; @n = count(); }", true);
    let not_written = || session.counted(|c| matches!(c, CounterSpec::NoMetadata { .. }));
    session.run(&tcp4(22), None);
    assert_eq!((not_written(), session.maps().as_str()), (0, "@n: 1"));
    // Somebody else's data takes all the room that the kernel gives: 32 bytes, on newer ones up to 252, less what a frame needs.
    let full = |room: usize| {
        let bytes = [vec![0; room], tcp4(22)].concat();
        // `struct xdp_md`
        let context = [room, bytes.len(), 0, 0, 0, 0].map(|n| u32::try_from(n).unwrap().to_ne_bytes());
        session.try_in(&bytes, &context.concat()).ok()
    };
    let most = (4..=63).rev().find_map(|words| Some((4 * words, full(4 * words)?)));
    let (room, ran) = most.expect("the kernel takes data before a packet");
    assert_eq!(ran.verdict, XDP_PASS);
    eprintln!("{room} bytes are the most");
    assert_eq!((not_written(), session.maps().as_str()), (1, "@n: 2"));
}
