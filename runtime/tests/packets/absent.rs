//! The language's rules for absent values, sentence by sentence.

use crate::frames::*;
use crate::run::*;

#[test]
fn comparison_and_in_with_an_absent_operand_are_false() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), tcp4(80), udp4(22), arp()];
    assert_eq!(drops("tcp.dport == 22", &frames), [true, false, false, false]);
    assert_eq!(drops("tcp.dport != 22", &frames), [false, true, false, false]);
    assert_eq!(drops("tcp.dport < 100", &frames), [true, true, false, false]);
    assert_eq!(drops("tcp.dport >= 0", &frames), [true, true, false, false]);
    assert_eq!(drops("tcp.dport in (22, 50-90)", &frames), [true, true, false, false]);
    assert_eq!(drops("ip.src == 10.0.0.1", &frames), [true, true, true, false]);
    assert_eq!(
        drops("ip.src in (10.0.0.0/8, \"2001:db8::/32\")", &[tcp4(1), tcp6(1), arp()]),
        [true, true, false]
    );
    assert_eq!(
        drops("ip.src in (10.0.0.1-10.0.0.9)", &[tcp4(1), tcp6(1), arp()]),
        [true, false, false]
    );
    assert_eq!(drops("ip.src in (10.0.0.2-10.0.0.9)", &[tcp4(1)]), [false]);
    assert_eq!(drops("eth.src == \"02:00:00:00:00:01\"", &frames), [true; 4]);
    assert_eq!(drops("ip6.src == \"2001:db8::1\"", &[tcp4(1), tcp6(1)]), [false, true]);
}

#[test]
fn absent_is_false_where_truth_is_asked_for() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(22), arp()];
    assert_eq!(drops("!(tcp.dport == 22)", &frames), [false, true, true]);
    assert_eq!(drops("!tcp.dport", &frames), [false, true, true]);
    assert_eq!(drops("tcp.dport || udp.dport", &frames), [true, true, false]);
    assert_eq!(drops("tcp.dport && udp.dport", &frames), [false; 3]);
    assert_eq!(drops("tcp.dport ? false : true", &frames), [false, true, true]);
    assert_eq!(drops("tcp.syn", &frames), [true, false, false]);
    assert_eq!(drops("!tcp.syn", &frames), [false, true, true]);
    assert_eq!(drops("has(tcp)", &frames), [true, false, false]);
    assert_eq!(drops("has(ip) && !has(tcp)", &frames), [false, true, false]);
    assert_eq!(drops("has(udp.dport)", &frames), [false, true, false]);
    assert_eq!(drops("has(arp)", &frames), [false, false, true]);
}

#[test]
fn conditions_take_the_other_branch() {
    if !allowed() {
        return;
    }
    let r = both(
        "{ if (tcp.dport) { @t = count(); } else { @o = count(); } while (tcp.dport) { @w = count(); break; } }",
        &[tcp4(1), udp4(1), arp()],
    );
    assert_eq!(r.maps, "@t: 1 @o: 2 @w: 1");
}

#[test]
fn operators_casts_tuples_and_keys_with_an_absent_part_are_absent() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(22), arp()];
    let r = both(
        "{ @a[tcp.dport] = count(); @b[ip.src, tcp.dport + 1] = count(); @c = sum(udp.dport * 2); @d[(uint8)tcp.dport] = count(); @e[-tcp.dport] = count(); @f[(ip.src, udp.dport)] = count(); }",
        &frames,
    );
    assert_eq!(
        r.maps,
        "@a[22]: 1 @b[10.0.0.1, 23]: 1 @c: 44 @d[22]: 1 @e[-22]: 1 @f[10.0.0.1, 22]: 1"
    );
}

#[test]
fn elvis_gives_the_other_value_for_an_absent_one() {
    if !allowed() {
        return;
    }
    // An assignment with an inner effect is skipped as a whole, and the variable is absent all the same.
    let r = both("{ $x = 7; $x = tcp.dport + @n++; @kept[$x] = count(); }", &[udp4(1)]);
    assert_eq!(r.maps, "");
    let r = both("{ @[tcp.dport ?: udp.dport ?: 7] = count(); }", &[tcp4(22), udp4(53), arp()]);
    assert_eq!(r.maps, "@[7]: 1 @[22]: 1 @[53]: 1");
}

#[test]
fn a_variable_assigned_an_absent_value_is_absent_until_assigned_again() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(53), arp()];
    let r = both(
        "{ $p = tcp.dport; @a[$p] = count(); $p = 9; @b[$p] = count(); $q = udp.dport; if (has($q)) { @c[$q] = count(); } $s = ip.src; @d[$s] = count(); }",
        &frames,
    );
    assert_eq!(r.maps, "@a[22]: 1 @b[9]: 3 @c[53]: 1 @d[10.0.0.1]: 2");
}

#[test]
fn a_simple_statement_with_an_absent_part_has_no_effect_at_all() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(53), arp()];
    // The inner `@n++` must not happen either.
    let r = both(
        "{ @x[tcp.dport, @n++] = 1; @y = tcp.dport; @z += tcp.dport; @k[tcp.dport]++; }",
        &frames,
    );
    assert_eq!(r.maps, "@x[22, 0]: 1 @n: 1 @y: 22 @z: 22 @k[22]: 1");
    let r = run("xdp:lo { return tcp.dport - 21; }", &frames);
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_PASS]);
}

#[test]
fn blocks_on_one_hook_run_in_order_and_the_first_verdict_wins() {
    if !allowed() {
        return;
    }
    let script = "xdp:lo { @a = count(); } xdp:lo /tcp.dport == 22/ { drop(); } xdp:lo { @b = count(); pass(); } xdp:lo { @c = count(); }";
    let r = run(script, &[tcp4(22), tcp4(23), arp()]);
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_PASS]);
    assert_eq!(r.maps, "@a: 3 @b: 2");
    let r = run("tc:lo:ingress { @ = count(); next(); }", &[arp()]);
    assert_eq!(r.verdicts, [TC_UNSPEC]);
    let r = run("tc:lo:ingress { return TC_ACT_SHOT; }", &[arp()]);
    assert_eq!(r.verdicts, [TC_SHOT]);
}

#[test]
fn loops_see_the_packet_and_can_decide() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), udp4(53), arp()];
    let r = both(
        "{ $p = 0; for ($i : 0..3) { @[tcp.dport, $i] = count(); @s[ip.src] = count(); if (has(udp)) { @u = count(); } $p = tcp.dport; } @p[$p] = count(); }",
        &frames,
    );
    assert_eq!(r.maps, "@[22, 0]: 1 @[22, 1]: 1 @[22, 2]: 1 @s[10.0.0.1]: 6 @u: 3 @p[22]: 1");
    let r = both("{ for ($i : 20..30) { if (tcp.dport == $i) { drop(); } @n++; } }", &frames);
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_PASS]);
    assert_eq!(r.maps, "@n: 22");
    // An absent bound: no iteration.
    let r = both("{ for ($i : 0..tcp.dport) { @n++; } }", &frames);
    assert_eq!(r.maps, "@n: 22");
}

/// One sentence of the rules: statements that count in maps of their own, and what is there after the frames of [`table_frames`].
struct Sentence {
    rule: &'static str,
    body: &'static str,
    maps: &'static str,
}

const SENTENCES: &[Sentence] = &[
    Sentence {
        rule: "a field without its header is absent; has(x) takes a header, a whole one, or a field",
        body: "if (has(tcp)) { @a1++; } if (has(tcp.dport)) { @a2++; } if (has(udp)) { @a3++; } if (has(icmp)) { @a4++; }",
        maps: "@a1: 1 @a2: 1 @a3: 1 @a4: 1",
    },
    Sentence {
        rule: "a field that is cut off is absent",
        body: "@b1[tcp.sport] = count(); @b2[tcp.dport] = count(); @b3[tcp.seq] = count();",
        maps: "@b1[1000]: 1 @b2[22]: 1 @b3[7]: 1",
    },
    Sentence {
        rule: "operators with an absent part are absent",
        body: "@c1[tcp.dport + 1] = count(); @c2[-udp.dport] = count(); @c3[~tcp.dport & 0xff] = count(); @c4[1 + 2 * udp.dport] = count();",
        maps: "@c1[23]: 1 @c2[-53]: 1 @c3[233]: 1 @c4[107]: 1",
    },
    Sentence {
        rule: "casts of an absent value are absent",
        body: "@d1[(uint8)tcp.dport] = count(); @d2[(int64)udp.dport] = count();",
        maps: "@d1[22]: 1 @d2[53]: 1",
    },
    Sentence {
        rule: "calls with an absent argument are absent",
        body: "@e1[bswap(tcp.dport)] = count(); @e2 = sum(udp.dport); @e3 = max(tcp.dport); @e4 = hist(udp.dport);",
        maps: "@e1[5632]: 1 @e2: 53 @e3: 22 @e4: [32, 64) 1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
    },
    Sentence {
        rule: "tuples with an absent part are absent",
        body: "@f1[(ip.src, tcp.dport)] = count(); $f = (udp.dport, 1); @f2[$f.0] = count();",
        maps: "@f1[10.0.0.1, 22]: 1 @f2[53]: 1",
    },
    Sentence {
        rule: "map keys with an absent part are absent",
        body: "@g1[ip.src, udp.dport] = count(); @g2[1] = 5; @g3 = @g2[icmp.type - 7]; @g4[tcp.dport]++;",
        maps: "@g1[10.0.0.1, 53]: 1 @g2[1]: 5 @g3: 5 @g4[22]: 1",
    },
    Sentence {
        rule: "comparison with an absent operand is false",
        body: "if (tcp.dport == 22) { @h1++; } if (tcp.dport != 22) { @h2++; } if (udp.dport >= 0) { @h3++; } if (5 < icmp.type) { @h4++; } \
               if (tcp.dport == udp.dport) { @h5++; }",
        maps: "@h1: 1 @h3: 1 @h4: 1",
    },
    Sentence {
        rule: "`in` with an absent operand is false",
        body: "if (tcp.dport in (0-65535)) { @i1++; } @i2[53] = 1; if (udp.dport in @i2) { @i3++; } if (has_key(@i2, udp.dport)) { @i4++; } \
               if (ip6.src in (\"::/0\")) { @i5++; }",
        maps: "@i1: 1 @i2[53]: 1 @i3: 1 @i4: 1",
    },
    Sentence {
        rule: "`!` reads absent as false",
        body: "if (!tcp.dport) { @j1++; } if (!(tcp.dport == 22)) { @j2++; } if (!!udp.dport) { @j3++; }",
        maps: "@j1: 3 @j2: 3 @j3: 1",
    },
    Sentence {
        rule: "`&&` and `||` read absent as false",
        body: "if (tcp.dport || udp.dport) { @k1++; } if (tcp.dport && ip.ttl) { @k2++; } if (!(tcp.dport && udp.dport)) { @k3++; }",
        maps: "@k1: 2 @k2: 1 @k3: 4",
    },
    Sentence {
        rule: "short circuit as usual",
        body: "if (udp.dport && @l1++ >= 0) { @l2++; } if (udp.dport || @l3++ >= 0) { @l4++; }",
        maps: "@l1: 1 @l2: 1 @l3: 3 @l4: 4",
    },
    Sentence {
        rule: "the condition of `?:` reads absent as false",
        body: "@m1[tcp.dport ? 1 : 2] = count(); @m2[udp.dport ? udp.dport : tcp.dport] = count();",
        maps: "@m1[1]: 1 @m1[2]: 3 @m2[22]: 1 @m2[53]: 1",
    },
    Sentence {
        rule: "`if` and `while` read absent as false, and `else` runs",
        body: "if (tcp.dport) { @n1++; } else if (udp.dport) { @n2++; } else { @n3++; } $n = 0; while (udp.dport && $n < 3) { $n++; @n4++; }",
        maps: "@n1: 1 @n2: 1 @n3: 2 @n4: 3",
    },
    Sentence {
        rule: "`a ?: b` gives b when a is absent",
        body: "@o1[tcp.dport ?: udp.dport ?: 7] = count(); @o2[tcp.dport ?: icmp.type] = count();",
        maps: "@o1[7]: 2 @o1[22]: 1 @o1[53]: 1 @o2[8]: 1 @o2[22]: 1",
    },
    Sentence {
        rule: "a variable assigned an absent value is absent until assigned again",
        body: "$p = tcp.dport; @p1[$p] = count(); if (!has($p)) { @p2++; } $p = 5; @p3[$p] = count(); $p = udp.dport; @p4[$p] = count();",
        maps: "@p1[22]: 1 @p2: 3 @p3[5]: 4 @p4[53]: 1",
    },
    Sentence {
        rule: "an assignment with an absent part has no effect and no side effect",
        body: "@q1 = tcp.dport; @q2[tcp.dport, @q3++] = 1; @q4 += udp.dport;",
        maps: "@q1: 22 @q2[22, 0]: 1 @q3: 1 @q4: 53",
    },
    Sentence {
        rule: "`++`, calls and `print` with an absent part have no effect",
        body: "@r1[udp.dport]++; if (tcp.dport) { @r2[22] = 1; @r2[53] = 1; } delete(@r2, tcp.dport); print(tcp.dport); printf(\"%d\", udp.dport); \
               print((tcp.dport, @r3++));",
        maps: "@r1[53]: 1 @r2[53]: 1 @r3: 1",
    },
    Sentence {
        rule: "`return e` with an absent part has no effect",
        body: "if (has(icmp) || has(udp)) { return tcp.dport; } @s1++;",
        maps: "@s1: 4",
    },
    Sentence {
        rule: "`for` over an absent bound runs zero times",
        body: "for ($i : 20..tcp.dport) { @t1[$i]++; } for ($i : udp.dport..55) { @t2[$i]++; }",
        maps: "@t1[20]: 1 @t1[21]: 1 @t2[53]: 1 @t2[54]: 1",
    },
];

/// TCP to port 22, TCP cut off behind its source port, UDP to port 53, an echo request.
fn table_frames() -> Vec<Vec<u8>> {
    let cut = ip4(6, 0, 0, &tcp(1000, 22, 2)[..2]);
    vec![tcp4(22), eth(0x0800, &cut), udp4(53), eth(0x0800, &ip4(1, 0, 0, &[8, 0, 0, 0]))]
}

#[test]
fn every_sentence_holds_at_every_hook_with_packets() {
    if !allowed() {
        return;
    }
    let hooks = [
        "xdp:lo",
        "tc:lo:ingress",
        "tc:lo:egress",
        "cgroup_skb:/:ingress",
        "cgroup_skb:/:egress",
        "use blocklist(iface=\"lo\", audit=\"off\", protect=false, prefixes=198.51.100.0/24) as bl; bl:drop",
        "use flows(iface=\"lo\", max=100) as fl; fl:new",
    ];
    let frames = table_frames();
    // A guest is slow, and the egress sides differ by nothing but where they attach, events of natives by who calls them.
    let hooks = hooks
        .iter()
        .filter(|h| !is_guest() || !h.ends_with(":egress") && !h.starts_with("use "));
    for hook in hooks {
        // What a native has decided stands.
        let decides = |s: &&Sentence| !hook.starts_with("use ") || !s.body.contains("return ");
        let sentences: Vec<&Sentence> = SENTENCES.iter().filter(decides).collect();
        // A few at a time: one program with all of them is one that nobody would write.
        for part in sentences.chunks(7) {
            let body: Vec<&str> = part.iter().map(|s| s.body).collect();
            let script = format!("{hook} {{ {} }}", body.join("\n"));
            for optimise in [true, false] {
                let session = Session::new(&script, optimise);
                for frame in &frames {
                    session.run(frame, None);
                }
                let maps = session.maps();
                let mut all: Vec<&str> = maps.split(" @").map(|m| m.trim_start_matches('@')).collect();
                for sentence in part {
                    for map in sentence.maps.split(" @").map(|m| m.trim_start_matches('@')) {
                        let at = all.iter().position(|m| *m == map);
                        assert!(at.is_some(), "{hook}, {}: no `@{map}` in {maps}", sentence.rule);
                        all.remove(at.unwrap());
                    }
                }
                // What is left is an effect that should not have been.
                assert!(all.iter().all(|m| m.is_empty()), "{hook}: {all:?} in {maps}\n{script}");
                let records = session.records();
                let printed = part.iter().any(|s| s.body.contains("print(")).then_some(3);
                assert_eq!(records, printed.unwrap_or(0), "{hook}: records of {script}");
            }
        }
    }
}

#[test]
fn predicates_and_verdicts_follow_the_rules_at_every_hook_with_packets() {
    if !allowed() {
        return;
    }
    // Whether the packet is dropped: TCP, cut TCP, UDP, ICMP.
    let cases = [
        ("/tcp.dport == 22/ { drop(); }", [true, false, false, false]),
        ("/tcp.dport != 22/ { drop(); }", [false; 4]),
        ("/!(tcp.dport == 22)/ { drop(); }", [false, true, true, true]),
        ("/tcp.dport/ { drop(); }", [true, false, false, false]),
        ("{ if (tcp.dport == 22) { pass(); } drop(); }", [false, true, true, true]),
        ("{ if (tcp.dport) { $x = 1; } else { drop(); } }", [false, true, true, true]),
    ];
    let hooks = [
        ("xdp:lo", XDP_DROP),
        ("tc:lo:ingress", TC_SHOT),
        ("tc:lo:egress", TC_SHOT),
        ("cgroup_skb:/:ingress", 0),
        ("cgroup_skb:/:egress", 0),
    ];
    let frames = table_frames();
    for (hook, drop) in hooks {
        for (body, expected) in cases.iter().take(if is_guest() { 2 } else { cases.len() }) {
            let verdicts = run(&format!("{hook} {body}"), &frames).verdicts;
            let dropped: Vec<bool> = verdicts.iter().map(|v| *v == drop).collect();
            assert_eq!(dropped, expected, "{hook} {body}: {verdicts:?}");
        }
    }
    // What a program returns is a number of the hook; an absent one leaves the default.
    assert_eq!(
        run("xdp:lo { return tcp.dport - 21; }", &frames).verdicts,
        [XDP_DROP, XDP_PASS, XDP_PASS, XDP_PASS]
    );
    assert_eq!(
        run("tc:lo:egress { return tcp.dport - 20; }", &frames).verdicts,
        [TC_SHOT, TC_UNSPEC, TC_UNSPEC, TC_UNSPEC]
    );
    assert_eq!(
        run("cgroup_skb:/:egress { return tcp.dport - 22; }", &frames).verdicts,
        [0, 1, 1, 1]
    );
}
