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
