//! Sets, prefixes, maps and aggregations.

use crate::frames::*;
use crate::run::*;

#[test]
fn long_sets_and_files_are_searched_in_maps() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), tcp6(80), udp4(53), arp()];
    // More than are compared one by one: ports with a range, prefixes of both families, whole addresses.
    let ports: Vec<String> = (1000..1070).map(|p| p.to_string()).collect();
    assert_eq!(
        drops(&format!("port.dst in ({}, 20-30, 53)", ports.join(", ")), &frames),
        [true, false, true, false]
    );
    let prefixes: Vec<String> = (0..70).map(|i| format!("192.0.{i}.0/24")).collect();
    let prefixes = prefixes.join(", ");
    assert_eq!(
        drops(&format!("ip.src in ({prefixes}, 10.0.0.0/31)"), &frames),
        [true, false, true, false]
    );
    assert_eq!(
        drops(&format!("ip.src in ({prefixes}, \"2001:db8::/32\")"), &frames),
        [false, true, false, false]
    );
    assert_eq!(drops(&format!("ip.src in ({prefixes}, 10.0.0.0/32)"), &frames), [false; 4]);
    let addresses: Vec<String> = (0..70).map(|i| format!("192.0.2.{i}")).collect();
    assert_eq!(
        drops(&format!("ip.src in ({}, 10.0.0.1)", addresses.join(", ")), &frames),
        [true, false, true, false]
    );
    let path = std::env::temp_dir().join(format!("weir-set-{}", std::process::id()));
    std::fs::write(&path, "; bad ones\n10.0.0.0/24   # ours\n\n192.0.2.7 ; SBL1\n").unwrap();
    let short = drops(&format!("ip.src in file(\"{}\")", path.display()), &frames);
    std::fs::write(&path, format!("{}\n10.0.0.0/24\n2001:db8::1\n", addresses.join("\n"))).unwrap();
    let long = drops(&format!("ip.src in (198.51.100.1, file(\"{}\"))", path.display()), &frames);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(short, [true, false, true, false]);
    assert_eq!(long, [true, true, true, false]);
}

#[test]
fn maps_keyed_by_prefix_find_the_longest() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), tcp6(80), udp4(53), arp()];
    let script = |body: &str| {
        format!(
            "let @p = lpm(100); xdp:lo {{ @p[10.0.0.0/8] = 1; @p[10.0.0.0/24] = 2; @p[\"2001:db8::/32\"] = 3; @p[0.0.0.0/0] = 4; {body} }}"
        )
    };
    let maps = "@p[10.0.0.0/8]: 1 @p[10.0.0.0/24]: 2 @p[2001:db8::/32]: 3 @p[0.0.0.0/0]: 4";
    let r = run(&script("@found[ip.src, @p[ip.src]] = count();"), &frames);
    assert_eq!(r.maps, format!("{maps} @found[2001:db8::1, 3]: 1 @found[10.0.0.1, 2]: 2"));
    let r = run(
        &script(
            "delete(@p, 10.0.0.0/24); delete(@p, 0.0.0.0/0); @f[@p[ip.src]] = count(); if (11.0.0.1 in @p || has_key(@p, \"2001:db9::1\")) { drop(); }",
        ),
        &frames,
    );
    assert_eq!(r.maps, "@p[10.0.0.0/8]: 1 @p[2001:db8::/32]: 3 @f[3]: 1 @f[1]: 2");
    assert_eq!(r.verdicts, [XDP_PASS; 4]);
}

/// An address is the prefix of all its bits, in either family, written out or of a packet.
#[test]
fn addresses_are_keys_of_all_their_bits() {
    if !allowed() {
        return;
    }
    let frames = [tcp4(22), tcp6(80)];
    let script = |body: &str| format!("let @p = lpm(100); xdp:lo {{ {body} }}");
    let r = run(&script("@p[ip.src] = 1; @p[192.0.2.1] = 2; @p[\"2001:db8::9\"] = 3;"), &frames);
    assert_eq!(
        r.maps,
        "@p[10.0.0.1/32]: 1 @p[2001:db8::1/128]: 1 @p[192.0.2.1/32]: 2 @p[2001:db8::9/128]: 3"
    );
    let fill = "@p[10.0.0.1/32] = 1; @p[\"2001:db8::1/128\"] = 2; @p[10.0.0.0/24] = 3; @p[192.0.2.1/32] = 4;";
    for delete in [
        "delete(@p, ip.src);",
        "delete(@p[ip.src]);",
        "delete(@p, 10.0.0.1); delete(@p, \"2001:db8::1\");",
    ] {
        let r = run(&script(&format!("{fill} {delete} delete(@p, 192.0.2.1);")), &frames[..1]);
        let left = if delete.contains("2001") { "" } else { "@p[2001:db8::1/128]: 2 " };
        assert_eq!(r.maps, format!("{left}@p[10.0.0.0/24]: 3"), "{delete}");
        let r = run(&script(&format!("{fill} {delete} delete(@p, 192.0.2.1);")), &frames[1..]);
        let left = if delete.contains("2001") { "" } else { "@p[10.0.0.1/32]: 1 " };
        assert_eq!(r.maps, format!("{left}@p[10.0.0.0/24]: 3"), "{delete}");
    }
}

#[test]
fn long_sets_take_ranges_of_addresses() {
    if !allowed() {
        return;
    }
    let addresses: Vec<String> = (0..70).map(|i| format!("192.0.2.{i}")).collect();
    let set = format!(
        "ip.src in ({}, 10.0.0.0-10.0.0.2, \"2001:db8::\"-\"2001:db8::1\")",
        addresses.join(", ")
    );
    assert_eq!(drops(&set, &[tcp4(22), tcp6(80), arp()]), [true, true, false]);
    let set = format!("ip.src in ({}, 10.0.0.2-10.0.0.9)", addresses.join(", "));
    assert_eq!(drops(&set, &[tcp4(22), tcp6(80), arp()]), [false; 3]);
}

#[test]
fn maps_of_prefixes_start_with_what_a_file_has() {
    if !allowed() {
        return;
    }
    let path = std::env::temp_dir().join(format!("weir-lpm-{}", std::process::id()));
    std::fs::write(&path, "# both families\n10.0.0.0/24\n2001:db8::/32  # ours\n192.0.2.7\n").unwrap();
    let script = |size: u32, block: &str| format!("let @p = lpm({size}, file(\"{}\")); xdp:lo {{ {block} }}", path.display());
    let r = run(
        &script(
            10,
            "if (ip.dst in @p) { @hit[ip.dst] = count(); } @v = @p[ip.src]; @p[10.0.0.2/32] = 7; if (@p[ip.dst] == 7) { drop(); }",
        ),
        &[tcp4(22), tcp6(80), arp()],
    );
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_PASS]);
    assert_eq!(
        r.maps,
        "@p[10.0.0.0/24]: 1 @p[192.0.2.7/32]: 1 @p[2001:db8::/32]: 1 @p[10.0.0.2/32]: 7 @hit[10.0.0.2]: 1 @hit[2001:db8::2]: 1 @v: 1"
    );
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_hundred_thousand_prefixes_load_in_time() {
    if !allowed() {
        return;
    }
    let path = std::env::temp_dir().join(format!("weir-many-{}", std::process::id()));
    let lines: Vec<String> = (0..100_000_u32)
        .map(|i| format!("{}.{}.{}.0/24", 20 + (i >> 16), (i >> 8) & 255, i & 255))
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let script = format!("xdp:lo /ip.src in file(\"{}\")/ {{ drop(); }}", path.display());
    let start = std::time::Instant::now();
    let mut hit = tcp4(22);
    hit[26..30].copy_from_slice(&[21, 134, 159, 77]);
    let r = run_one(&script, &[hit, tcp4(22), tcp6(22)], true, None);
    let took = start.elapsed();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(r.verdicts, [XDP_DROP, XDP_PASS, XDP_PASS]);
    // Unoptimised and beside other tests, perhaps emulated: the promised two seconds are measured by the benchmark.
    let most = if std::env::var_os("WEIR_TEST_VM").is_some() { 60 } else { 10 };
    assert!(took.as_secs() < most, "it took {took:?}");
    eprintln!("100 000 prefixes: {took:?}");
}

#[test]
fn a_full_map_keeps_what_it_has() {
    if !allowed() {
        return;
    }
    let frames: Vec<_> = (1..20).map(tcp4).collect();
    let r = run(
        "let @m = hash(4); config = { print_maps_on_exit = true } xdp:lo { @m[tcp.dport] = 1; }",
        &frames,
    );
    assert_eq!(r.maps.matches("@m[").count(), 4);
    assert_eq!(r.verdicts, vec![XDP_PASS; frames.len()]);
}

#[test]
fn aggregations_hold_what_they_say() {
    if !allowed() {
        return;
    }
    let frames: Vec<_> = [1, 2, 4, 8, 100].map(tcp4).to_vec();
    let r = both(
        "{ @s = sum(tcp.dport); @a = avg(tcp.dport); @lo = min(tcp.dport); @hi = max(tcp.dport); @n[1] = count(); @st = stats(tcp.dport); }",
        &frames,
    );
    assert_eq!(
        r.maps,
        "@s: 115 @a: 23 @lo: 1 @hi: 100 @n[1]: 5 @st: { .count = 5, .average = 23, .total = 115 }"
    );
    let r = both("{ @h = hist(tcp.dport); }", &frames);
    for bucket in ["[1] 1 |", "[2, 4) 1 |", "[4, 8) 1 |", "[8, 16) 1 |", "[64, 128) 1 |"] {
        assert!(r.maps.contains(bucket), "{}", r.maps);
    }
    let r = both("{ @l = lhist(tcp.dport, 2, 10, 4); }", &frames);
    for bucket in ["(..., 2) 1 |", "[2, 6) 2 |", "[6, 10) 1 |", "[10, ...) 1 |"] {
        assert!(r.maps.contains(bucket), "{}", r.maps);
    }
}
