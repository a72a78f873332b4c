//! Every field reads its bytes, wherever headers hide.

use crate::frames::*;
use crate::run::*;

#[test]
fn the_scripts_of_the_readme() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), tcp4(80), tcp6(22), udp4(22), arp()];
    let r = run("xdp:lo /tcp.dport == 22/ { @[ip.src] = count(); drop(); }", &frames);
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_DROP, XDP_PASS, XDP_PASS]);
    assert_eq!(r.maps, "@[10.0.0.1]: 1 @[2001:db8::1]: 1");
    let r = run(
        "tc:lo:ingress /tcp.dport == 53 || udp.dport == 53/ { @dns[ip.src, port.dst] = count(); }",
        &[tcp4(53), udp4(53), udp4(53), tcp6(53), tcp4(22), arp()],
    );
    assert_eq!(r.verdicts, [TC_UNSPEC; 6]);
    assert_eq!(r.maps, "@dns[2001:db8::1, 53]: 1 @dns[10.0.0.1, 53]: 3");
}

#[test]
fn every_field_reads_its_bytes() {
    if !allowed() {
        return;
    }
    let split = can_split();
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("eth.src", tcp4(1), "02:00:00:00:00:01"),
        ("eth.dst", arp(), "02:00:00:00:00:02"),
        ("eth.type", tcp6(1), "34525"),
        ("vlan.id", vlan(0x8100, 0x6123, 0x0800, &ip4(6, 0, 0, &tcp(1, 2, 0))), "291"),
        ("vlan.prio", vlan(0x8100, 0x6123, 0x0800, &[]), "3"),
        ("vlan[1].id", two_tags(), "7"),
        ("vlan[1].prio", two_tags(), "1"),
        ("arp.op", arp(), "1"),
        ("arp.dmac", arp(), "00:00:00:00:00:00"),
        ("arp.sip", arp(), "10.0.0.1"),
        ("arp.dip", arp(), "10.0.0.2"),
        ("arp.smac", arp(), "02:00:00:00:00:01"),
        ("ip.src", tcp4(1), "10.0.0.1"),
        ("ip.dst", tcp6(1), "2001:db8::2"),
        ("ip.version", tcp4(1), "4"),
        ("ip.version", tcp6(1), "6"),
        ("ip.proto", udp4(1), "17"),
        ("ip.proto", tcp6(1), "6"),
        ("ip.ttl", tcp4(1), "64"),
        ("ip.ttl", tcp6(1), "63"),
        ("ip.len", tcp4(1), "40"),
        ("ip.len", tcp6(1), "60"),
        ("ip.tos", tcp4(1), "0"),
        ("ip4.src", tcp4(1), "10.0.0.1"),
        ("ip4.dst", tcp4(1), "10.0.0.2"),
        ("ip4.ttl", tcp4(1), "64"),
        ("ip4.tos", tcp4(1), "0"),
        ("ip4.len", tcp4(1), "40"),
        ("ip4.id", tcp4(1), "4660"),
        ("ip4.frag", eth(0x0800, &ip4(17, 0, 7, &[0; 8])), "7"),
        ("ip4.proto", tcp4(1), "6"),
        ("ip.id", tcp4(1), "4660"),
        ("ip.id", fragment6(), "9"),
        ("ip.frag", eth(0x0800, &ip4(17, 0, 7, &[0; 8])), "7"),
        ("ip.frag", fragment6(), "1"),
        ("ip.proto", fragment6(), "6"),
        ("ip4.df", eth(0x0800, &ip4(17, 0, 0x4000, &[0; 8])), "true"),
        ("ip4.mf", eth(0x0800, &ip4(17, 0, 0x2000, &[0; 8])), "true"),
        ("ip4.mf", tcp4(1), "false"),
        ("ip4.hdr_len", eth(0x0800, &ip4(17, 3, 0, &[0; 8])), "32"),
        ("ip6.proto", tcp6(1), "6"),
        ("ip6.next", fragment6(), "44"),
        ("ip6.ttl", tcp6(1), "63"),
        (
            "ip6.tos",
            eth(0x86dd, &[&[0x6a, 0xb0, 0, 0][..], &ip6(6, &tcp(1, 2, 0))[4..]].concat()),
            "171",
        ),
        (
            "ip.tos",
            eth(0x86dd, &[&[0x6a, 0xb0, 0, 0][..], &ip6(6, &tcp(1, 2, 0))[4..]].concat()),
            "171",
        ),
        ("ip6.len", tcp6(1), "60"),
        ("ip6.id", fragment6(), "9"),
        ("ip6.frag", fragment6(), "1"),
        ("ip6.src", tcp6(1), "2001:db8::1"),
        ("ip6.dst", tcp6(1), "2001:db8::2"),
        ("ip6.hop_limit", tcp6(1), "63"),
        ("ip6.flow_label", tcp6(1), "0"),
        ("tcp.sport", tcp4(443), "1000"),
        ("tcp.dport", tcp6(443), "443"),
        ("tcp.seq", tcp4(1), "7"),
        ("tcp.ack", tcp4(1), "9"),
        ("tcp.window", tcp4(1), "4096"),
        ("tcp.hdr_len", tcp4(1), "20"),
        ("tcp.flags", tcp4(1), "2"),
        ("tcp.syn", tcp4(1), "true"),
        ("tcp.flags.ack", tcp4(1), "false"),
        ("udp.sport", udp4(5), "1000"),
        ("udp.dport", udp4(5), "5"),
        ("udp.len", udp4(5), "8"),
        ("port.src", udp4(5), "1000"),
        ("port.dst", tcp6(5), "5"),
        (
            "sctp.dport",
            eth(0x0800, &ip4(132, 0, 0, &[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0])),
            "2",
        ),
        ("port.src", eth(0x0800, &ip4(132, 0, 0, &[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0])), "1"),
        ("icmp.type", eth(0x0800, &ip4(1, 0, 0, &[8, 3, 0, 0])), "8"),
        ("icmp.code", eth(0x0800, &ip4(1, 0, 0, &[8, 3, 0, 0])), "3"),
        ("icmp6.type", eth(0x86dd, &ip6(58, &[135, 1, 0, 0])), "135"),
        ("icmp6.code", eth(0x86dd, &ip6(58, &[135, 1, 0, 0])), "1"),
        ("tcp.payload_len", tcp4(1), "0"),
        (
            "tcp.payload_len",
            eth(0x0800, &ip4(6, 2, 0, &[tcp(1, 2, 0), vec![7; 5]].concat())),
            "5",
        ),
        (
            "tcp.payload_len",
            eth(0x86dd, &ip6(0, &[&[6, 0, 0, 0, 0, 0, 0, 0][..], &tcp(1, 2, 0), &[7; 9]].concat())),
            "9",
        ),
        ("dns.id", dns4(), "4660"),
        ("dns.qr", dns4(), "true"),
        ("dns.rcode", dns4(), "3"),
        ("dns.qname", dns4(), "www.example.com"),
        ("dns.qtype", dns4(), "28"),
        ("dns.qname", dns_tcp6(), "www.example.com"),
        ("dns.qtype", dns_tcp6(), "28"),
        ("flow", tcp4(443), "10.0.0.1:1000 > 10.0.0.2:443 tcp"),
        ("flow", tcp6(443), "[2001:db8::1]:1000 > [2001:db8::2]:443 tcp"),
        ("flow", udp4(53), "10.0.0.1:1000 > 10.0.0.2:53 udp"),
        ("flow", eth(0x0800, &ip4(47, 0, 0, &[0; 8])), "10.0.0.1 > 10.0.0.2 gre"),
        ("flow", fragment6(), "2001:db8::1 > 2001:db8::2 tcp"),
        (
            "flow",
            eth(0x86dd, &ip6(0, &[&[17, 0, 0, 0, 0, 0, 0, 0][..], &udp(5, 6)].concat())),
            "[2001:db8::1]:5 > [2001:db8::2]:6 udp",
        ),
        ("pkt.u8[14]", tcp4(1), "69"),
        ("pkt.u16[12]", tcp6(1), "34525"),
        ("pkt.u32[30]", tcp4(1), "167772162"),
        ("pkt.ifname", tcp4(1), "lo"),
        ("pkt.direction", tcp4(1), "ingress"),
        ("pkt.queue", tcp4(1), "0"),
        ("pkt.len", tcp4(1), "54"),
        ("pkt.segs", tcp4(1), "1"),
    ];
    let mut names: Vec<&str> = cases.iter().map(|(field, ..)| *field).collect();
    names.sort_unstable();
    names.dedup();
    for part in names.chunks(8) {
        // A map for each; what the others of the script find in a frame is tried with frames of their own.
        let blocks = |hook: &str| -> String {
            let counts = part
                .iter()
                // A test run at TC has no receive queue.
                .filter(|field| **field != "pkt.queue" || hook.starts_with("xdp"))
                .enumerate()
                .map(|(i, field)| format!("@m{i:02}[{field}] = count();"));
            format!("{hook} {{ {} }}", counts.collect::<Vec<_>>().join(" "))
        };
        for hook in ["xdp:lo", "tc:lo:ingress"] {
            for optimise in [true, false] {
                let session = Session::new(&blocks(hook), optimise);
                let kept = part.iter().filter(|field| **field != "pkt.queue" || hook.starts_with("xdp"));
                for (i, field) in kept.enumerate() {
                    for (_, frame, expected) in cases.iter().filter(|(name, ..)| name == field) {
                        let expected = format!("@m{i:02}[{expected}]: 1");
                        // The same when nothing but a few bytes lies in the first buffer.
                        let linear: &[Option<usize>] = if split && optimise && hook == "xdp:lo" {
                            &[None, Some(0), Some(34)]
                        } else {
                            &[None]
                        };
                        for linear in linear {
                            session.clear();
                            session.run(frame, linear.filter(|n| *n < frame.len()));
                            let maps = session.maps();
                            assert!(
                                maps.split_inclusive(": 1").any(|m| m.trim() == expected),
                                "{hook}, {field}, linear {linear:?}: {maps}, not {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
    // Alone, with nothing parsed but for it. A guest says nothing more about that.
    for (field, frame, expected) in cases.iter().filter(|_| !is_guest()) {
        let r = run_one(
            &format!("xdp:lo {{ @[{field}] = count(); }}"),
            std::slice::from_ref(frame),
            true,
            None,
        );
        assert_eq!(r.maps, format!("@[{expected}]: 1"), "{field}");
    }
    // A field that no case reads would be untested.
    for field in weir_compiler::tables::FIELDS {
        use weir_compiler::tables::FieldKind as Kind;
        // What the context or a socket tells is tried with traffic; `pkt.payload` below.
        let context =
            matches!(field.kind, Kind::Context { .. } | Kind::Address(_) | Kind::Helper(_) | Kind::Meta) || field.name == "pkt.payload";
        let alias = ["tcp.f", "tcp.r", "tcp.p", "sctp.s"].iter().any(|p| field.name.starts_with(p));
        assert!(
            context
                || alias
                || cases
                    .iter()
                    .any(|(name, ..)| name.strip_prefix(field.name).is_some_and(|r| r.is_empty() || r.starts_with('['))),
            "`{}` has no case",
            field.name
        );
    }
}

fn two_tags() -> Vec<u8> {
    vlan(0x88a8, 5, 0x8100, &[&[0x20, 7, 8, 0][..], &ip4(6, 0, 0, &tcp(1, 2, 0))].concat())
}

/// A later fragment.
fn fragment6() -> Vec<u8> {
    eth(0x86dd, &ip6(44, &[&[6_u8, 0, 0, 9, 0, 0, 0, 9][..], &[0; 20]].concat()))
}

/// An answer: no such name as `www.example.com`, type AAAA.
fn dns() -> Vec<u8> {
    let mut p = vec![0x12, 0x34, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0];
    p.extend(b"\x03www\x07example\x03com\0");
    p.extend([0, 28, 0, 1]);
    p
}

fn udp_data(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap();
    [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &length.to_be_bytes(), &[0, 0], data].concat()
}

fn dns4() -> Vec<u8> {
    eth(0x0800, &ip4(17, 0, 0, &udp_data(53, 4000, &dns())))
}

fn dns_tcp6() -> Vec<u8> {
    let length = u16::try_from(dns().len()).unwrap().to_be_bytes();
    eth(0x86dd, &ip6(6, &[tcp(4000, 53, 0x18), length.to_vec(), dns()].concat()))
}

#[test]
fn a_payload_is_what_follows_the_transport_header() {
    if !allowed() {
        return;
    }
    // What pads a short frame is not payload.
    let mut padded = eth(0x0800, &ip4(17, 0, 0, &udp_data(1, 2, b"hello")));
    padded.resize(60, 0xee);
    let icmp = eth(0x0800, &ip4(1, 0, 0, b"\x08\0\0\0\0\x01\0\x01ping"));
    let tcp_frame = eth(0x86dd, &ip6(6, &[tcp(1, 2, 0), b"hello".to_vec()].concat()));
    let r = both("{ @[pkt.payload] = count(); }", &[padded, icmp, tcp_frame, arp(), udp4(1)]);
    assert_eq!(r.maps, "@[]: 1 @[ping]: 1 @[hello]: 2");
}

#[test]
fn bytes_by_offset_are_absent_behind_the_end() {
    if !allowed() {
        return;
    }
    let r = both(
        "{ $at = 52; @a[pkt.u16[$at]] = count(); @b[pkt.u16[53]] = count(); @c[pkt.u8[$at + 1]] = count(); @d[pkt.u32[$at]] = count(); @e[pkt.u8[tcp.dport - 1]] = count(); @f[pkt.u8[-1 + ip.version * 0]] = count(); }",
        &[eth(0x0800, &ip4(6, 0, 0, &tcp(1, 2, 0)))],
    );
    assert_eq!(r.maps, "@a[0]: 1 @c[0]: 1 @e[0]: 1");
}

#[test]
fn names_in_dns_messages_that_are_cut_or_wrong_are_absent() {
    if !allowed() {
        return;
    }
    let script = "{ @id[dns.id] = count(); @name[dns.qname] = count(); @type[dns.qtype] = count(); }";
    let message = |question: &[u8]| {
        eth(
            0x0800,
            &ip4(
                17,
                0,
                0,
                &udp_data(4000, 53, &[&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], question].concat()),
            ),
        )
    };
    let long: Vec<u8> = std::iter::repeat_n(b"\x3fabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk".to_vec(), 5)
        .flatten()
        .collect();
    let good = [message(b"\x03www\0\0\x01\0\x01"), message(b"\0\0\x02\0\x01")];
    let bad = [
        // Compressed, a label too long, cut in a label, without an end, too long a name.
        message(b"\xc0\x0c\0\x01\0\x01"),
        message(b"\x40www\0\0\x01\0\x01"),
        message(b"\x09www"),
        message(b"\x03www"),
        message(&[long, vec![0, 0, 1, 0, 1]].concat()),
    ];
    // A name without its type, a message without its header, another port, no question.
    let part = [
        message(b"\x03www\0\0"),
        eth(0x0800, &ip4(17, 0, 0, &udp_data(4000, 53, &[0; 11]))),
        udp4(54),
    ];
    // Every length of a whole message: the name is there exactly when all of it is.
    let whole = dns4();
    let end = whole.len() - 4;
    for hook in ["xdp:lo", "tc:lo:ingress"] {
        for optimise in [true, false] {
            let session = Session::new(&format!("{hook} {script}"), optimise);
            let maps = |frames: &[Vec<u8>]| {
                session.clear();
                for frame in frames {
                    session.run(frame, None);
                }
                session.maps()
            };
            assert_eq!(maps(&good), "@id[7]: 2 @name[.]: 1 @name[www]: 1 @type[1]: 1 @type[2]: 1");
            assert_eq!(maps(&bad), "@id[7]: 5");
            assert_eq!(maps(&part), "@id[7]: 1 @name[www]: 1");
            for n in 62..=whole.len() {
                let maps = maps(&[whole[..n].to_vec()]);
                assert_eq!(maps.contains("@name[www.example.com]"), n >= end, "{n}: {maps}");
                assert_eq!(maps.contains("@name"), n >= end, "{n}: {maps}");
                assert_eq!(maps.contains("@type[28]"), n >= end + 2, "{n}: {maps}");
            }
        }
    }
}

#[test]
fn garbage_is_never_read_past_its_end_nor_taken_for_more_than_it_is() {
    if !allowed() {
        return;
    }
    // Every field at once, on frames of every length and of bytes that mean nothing.
    let fields: Vec<String> = weir_compiler::tables::FIELDS
        .iter()
        .filter(|f| f.hooks.contains(weir_compiler::tables::Hook::Xdp) && f.hooks.contains(weir_compiler::tables::Hook::Tc))
        .filter(|f| !matches!(f.name, "pkt.meta" | "pkt.payload" | "dns.qname" | "pkt.queue" | "pkt.ifindex"))
        .map(|f| {
            if f.name.starts_with("pkt.u") {
                format!("{}[40]", f.name)
            } else {
                f.name.to_owned()
            }
        })
        .collect();
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut frames = Vec::new();
    for n in 0..if is_guest() { 96 } else { 240 } {
        let mut frame: Vec<u8> = (0..62 + n % 90).map(|_| random().to_le_bytes()[0]).collect();
        // Most of them look like IP for a while.
        let kind: [u8; 2] = [[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]][n % 4];
        frame[12..14].copy_from_slice(&kind);
        if n % 4 == 0 {
            frame[14] = 0x40 | (frame[14] & 15);
            frame[23] = [6, 17, 1, 132][n / 4 % 4];
        } else if n % 4 == 1 {
            frame[14] = 0x60;
            frame[20] = [0, 43, 44, 51, 60, 6, 17, 58][n / 4 % 8];
        }
        frames.push(frame);
    }
    for part in fields.chunks(8) {
        let sets: Vec<String> = part.iter().enumerate().map(|(i, f)| format!("@m{i}[{f}] = count();")).collect();
        both(&format!("{{ {} }}", sets.join(" ")), &frames);
    }
}

#[test]
fn headers_are_found_behind_options_tags_and_extensions() {
    if !allowed() {
        return;
    }
    let t = tcp(1000, 22, 2);
    let hop = |inner: Vec<u8>| [&[6_u8, 0, 0, 0, 0, 0, 0, 0][..], &inner].concat();
    let found = [
        eth(0x0800, &ip4(6, 10, 0, &t)),
        vlan(0x8100, 5, 0x0800, &ip4(6, 0, 0, &t)),
        vlan(0x88a8, 5, 0x8100, &[&[0, 7, 8, 0][..], &ip4(6, 3, 0, &t)].concat()),
        eth(0x86dd, &ip6(0, &hop(t.clone()))),
        eth(0x86dd, &ip6(60, &[&[43_u8, 1][..], &[0; 14], &hop(t.clone())].concat())),
        // First fragment: more to come, offset 0.
        eth(0x86dd, &ip6(44, &[&[6_u8, 0, 0, 1, 0, 0, 0, 9][..], &t].concat())),
        eth(0x0800, &ip4(6, 0, 0x2000, &t)),
        // Authentication header of 12 bytes.
        eth(0x86dd, &ip6(51, &[&[6_u8, 1][..], &[0; 10], &t].concat())),
    ];
    assert!(drops("tcp.dport == 22", &found).iter().all(|d| *d));
    let missing = [
        // Later fragments have no ports, whatever their bytes look like.
        eth(0x0800, &ip4(6, 0, 0x0001, &t)),
        eth(0x86dd, &ip6(44, &[&[6_u8, 0, 0, 9, 0, 0, 0, 9][..], &t].concat())),
        // Three tags are one too many.
        vlan(0x8100, 5, 0x8100, &[&[0, 7, 0x81, 0, 0, 8, 8, 0][..], &ip4(6, 0, 0, &t)].concat()),
        // A header length below five words, a wrong version.
        eth(0x0800, &[&[0x44][..], &ip4(6, 0, 0, &t)[1..]].concat()),
        eth(0x0800, &[&[0x65][..], &ip4(6, 0, 0, &t)[1..]].concat()),
        eth(0x86dd, &ip6(17, &t)),
    ];
    assert_eq!(drops("tcp.dport == 22", &missing), vec![false; missing.len()]);
}

#[test]
fn truncated_packets_never_match_and_never_read_past_the_end() {
    if !allowed() {
        return;
    }
    for whole in [
        tcp4(22),
        tcp6(22),
        vlan(
            0x8100,
            5,
            0x86dd,
            &ip6(0, &[&[6_u8, 0, 0, 0, 0, 0, 0, 0][..], &tcp(1, 22, 0)].concat()),
        ),
    ] {
        let frames: Vec<Vec<u8>> = (14..=whole.len()).map(|n| whole[..n].to_vec()).collect();
        let verdicts = run("xdp:lo /tcp.dport == 22/ { drop(); }", &frames).verdicts;
        let expected: Vec<u32> = (14..=whole.len())
            .map(|n| if n == whole.len() { XDP_DROP } else { XDP_PASS })
            .collect();
        assert_eq!(verdicts, expected);
        // A test run at TC refuses frames that end within the IP header.
        let long = frames.into_iter().filter(|f| f.len() >= 62).collect::<Vec<_>>();
        let expected: Vec<bool> = long.iter().map(|f| f.len() == whole.len()).collect();
        assert_eq!(drops("tcp.dport == 22", &long), expected);
    }
}

#[test]
fn headers_in_fragmented_memory_are_pulled_in() {
    if !allowed() {
        return;
    }
    // At TC a test run copies frames above one page into fragments; headers stay linear there, so it is the long frame
    // itself that is tried here. Real non-linear buffers are tried with traffic.
    let mut frame = tcp4(22);
    frame.resize(3000, 7);
    assert_eq!(drops("tcp.dport == 22", &[frame]), [true]);
}

/// `struct __sk_buff` with some of its fields, by their offsets.
fn sk_buff(fields: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; 192];
    for (at, value) in fields {
        bytes[*at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

#[test]
fn fields_of_the_context_are_those_of_the_buffer() {
    if !allowed() {
        return;
    }
    // Mark, priority, time stamp, segments and their size, as a driver or socket sets them.
    let context = sk_buff(&[(8, 7), (32, 3), (152, 123_456), (164, 5), (176, 1000)]);
    let body = "{ @mark[skb.mark] = count(); @prio[skb.priority] = count(); @t[skb.tstamp] = count(); @segs[pkt.segs] = count(); \
                @gs[skb.gso_segs] = count(); @size[skb.gso_size] = count(); @len[skb.len == pkt.len] = count(); skb.mark = skb.mark + 1; \
                @new[skb.mark] = count(); @cg[skb.cgroup_id] = count(); }";
    for hook in ["tc:lo:ingress", "tc:lo:egress", "cgroup_skb:/:ingress", "cgroup_skb:/:egress"] {
        let session = Session::new(&format!("{hook} {body}"), true);
        session.run_in(&tcp4(22), &context);
        session.run_in(&tcp4(22), &sk_buff(&[]));
        let maps = session.maps();
        for expected in [
            "@mark[0]: 1 @mark[7]: 1",
            "@prio[0]: 1 @prio[3]: 1",
            "@t[123456]: 1",
            "@segs[1]: 1 @segs[5]: 1",
            "@gs[0]: 1 @gs[5]: 1",
            "@size[0]: 1 @size[1000]: 1",
            "@len[true]: 2",
            "@new[1]: 1 @new[8]: 1",
        ] {
            assert!(maps.contains(expected), "{hook}: {expected} is not in {maps}");
        }
    }
}
