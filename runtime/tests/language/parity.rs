//! What bpftrace 0.27 does where C, the kernel or common sense would do otherwise: each line was run with both.

use super::{json, prints, root, run, run_one};
use weir_runtime::OutputFormat;

#[test]
fn a_difference_may_fall_below_zero() {
    if !root() {
        return;
    }
    prints("$a = (uint64)5; $b = (uint64)7; print($a - $b);", "-2");
    prints("$a = (uint32)5; print($a - 6); $a -= 6; print($a);", "-1\n-1");
    prints("$d = (uint64)1; $d--; $d--; print($d);", "-1");
    prints(
        "print((uint64)1 - (uint64)2 > 0); @c = (uint64)1; @c -= (uint64)2; print(@c); clear(@c);",
        "false\n@c: -1",
    );
    prints(
        "@ = hist((uint64)1 - (uint64)5); print(@); clear(@);",
        &format!("@:\n(..., 0)               1 |{}|", "@".repeat(52)),
    );
    // Sums and products keep their sign.
    prints(
        "$a = (uint64)-1; print($a + (uint64)0); print($a * (uint64)1);",
        "18446744073709551615\n18446744073709551615",
    );
}

#[test]
fn division_by_zero_gives_one_and_is_told() {
    if !root() {
        return;
    }
    prints("$z = 0; $a = 10; print($a / $z); print($a % $z); print(-10 / $z);", "1\n1\n1");
    prints(
        "$z = (uint64)0; print((uint64)10 / $z); $y = 5; $y /= $z; print($y); @x = 7 % $z; print(@x); clear(@x);",
        "1\n1\n@x: 1",
    );
    let told = json("begin {\n  $z = 0; print(10 / $z); }");
    let message = "Divide or modulo by 0 detected. This can lead to unexpected results. 1 is being used as the result.";
    assert!(
        told.contains(&format!("{{\"type\": \"runtime_error\", \"msg\": \"{message}\"")),
        "{told}"
    );
    assert!(!json("begin { $z = 3; print(10 / $z); }").contains("runtime_error"));
}

#[test]
fn text_has_an_order() {
    if !root() {
        return;
    }
    prints(
        r#"print("abc" < "abd"); print("abc" < "ab"); print("ab" < "abc"); print("a" <= "a"); print("b" >= "c");"#,
        "true\nfalse\ntrue\ntrue\nfalse",
    );
    prints(
        r#"$s = "zz"; @x = "a"; print($s > @x); print("" < "a"); print("\xff" > "a"); clear(@x);"#,
        "true\ntrue\ntrue",
    );
    prints(
        r#"print("aaaaaaaab" > "aaaaaaaaa"); print("aaaaaaaa" < "aaaaaaaaa"); print("aaaaaaaaa" > "aaaaaaaa");"#,
        "true\ntrue\ntrue",
    );
    // Longer than what is unrolled.
    let long = "x".repeat(200);
    prints(
        &format!(r#"@l = "{long}y"; print(@l > "{long}x"); print(@l < "{long}z"); print(@l >= "{long}y"); clear(@l);"#),
        "true\ntrue\ntrue",
    );
    prints(
        r#"print(memcmp("ab", "ad", 2)); print(memcmp("ad", "ab", 2)); print(memcmp("ab", "ab", 2));"#,
        "-2\n2\n0",
    );
}

#[test]
fn sizes_are_those_of_what_is_written() {
    if !root() {
        return;
    }
    prints(
        "$x = 5; print(sizeof($x)); $y = (uint16)7; print(sizeof($y)); $z = -300; print(sizeof($z)); $q = nsecs; print(sizeof($q));",
        "1\n2\n2\n8",
    );
    prints(
        "@m = (int32)5; print(sizeof(@m)); $b = 5; $b = 70000; print(sizeof($b)); clear(@m);",
        "4\n4",
    );
    prints(
        r#"print((sizeof((1, 2)), sizeof((1, 300, "abc")), sizeof((1, (uint64)5, (int8)3)), sizeof((a=1, b=2)), sizeof(((int32)1, (int8)2))));"#,
        "(2, 8, 24, 2, 8)",
    );
    prints(
        r#"$t = (1, "ab"); $x = (uint8)1; print((sizeof($t), sizeof($x + $x), sizeof($x << 1), sizeof($x == 1), sizeof($x ? 1 : 2), sizeof(1 + 2)));"#,
        "(4, 8, 8, 1, 1, 1)",
    );
}

#[test]
fn maps_show_what_was_cleared_and_what_was_zeroed() {
    if !root() {
        return;
    }
    prints("@ = hist(5); clear(@); print(@); print(1);", "1");
    let row = "@h:";
    // At the end, too: it is there, and empty.
    prints("@h = hist(5); zero(@h); print(@h);", &format!("{row}\n{row}"));
    prints(
        "@c = count(); zero(@c); @s = stats(5); zero(@s); @d = count(); clear(@d);",
        "@c: 0\n@s: { .count = 0, .average = 0, .total = 0 }",
    );
    prints(
        r#"print(@a); print(@b); print(@k); if (pid == 0) { @a = 1; @b = (1, "x"); @k[1] = count(); }"#,
        "@a: 0\n@b: (0, )",
    );
    assert!(!json("begin { @k[1] = hist(2); clear(@k); print(@k); }").contains("hist"));
    // What only its own value is assigned to is a number.
    prints("@m[1] = @m[1] + 1; @y = @y + 2; print(@y); clear(@y);", "@y: 2\n@m[1]: 1");
}

#[test]
fn names_and_numbers_are_written_as_there() {
    if !root() {
        return;
    }
    prints("print(ksym(0)); print(usym(0)); print(ksym(1));", "0\n0\n0x1");
    prints("print(probetype);", "special");
    assert_eq!(
        run("interval:10ms { print(probe); print(probetype); exit(); }"),
        "interval:us:10000\ninterval"
    );
    assert_eq!(run("interval:ms:10 { print(probe); exit(); }"), "interval:ms:10");
    // On one processor: the others may print, too, before the script has ended.
    assert_eq!(run("profile:100000000 /cpu == 0/ { print(probe); exit(); }"), "profile:us:100000");
    let pointer = json("begin { print((int8*)5); print((1, (int8*)6)); @p[(int8*)7] = (int8*)8; }");
    for line in [r#""data": 5}"#, r#""data": [1,6]}"#, r#""data": {"@p": {"0x7": 8}}}"#] {
        assert!(pointer.contains(line), "{pointer}");
    }
    let raw = run_one("begin { print(kstack(raw, 1)); }", OutputFormat::Text, true, &[]);
    assert!(raw.trim().chars().all(|c| c.is_ascii_hexdigit()), "{raw}");
}

#[test]
fn what_is_kept_is_printed_as_there() {
    if !root() {
        return;
    }
    // One number of an aggregation, and nothing where there is none.
    prints(
        r#"@c[1] = count(); @k["a", 1] = sum(-2); @a[1] = avg(-4); print(@c[1]); print(@k["a", 1]); print(@a[1]); print(@c[2]); clear(@c); clear(@k); clear(@a);"#,
        "1\n-2\n-4\n0",
    );
    // As wide as what was assigned.
    prints(
        r#"$x = (int32)-1; $y = (int16)-1; $z = -1; printf("%u %x %X %o\n", $x, $y, $z, $z); printf("%u %lx\n", (int32)-1, $x);"#,
        "4294967295 ffffffff FFFFFFFF 37777777777\n4294967295 ffffffffffffffff",
    );
    // In a loop more may come.
    prints(
        r#"$x = -1; for ($i : 0..1) { printf("%x\n", $x); $x = -5000000000; }"#,
        "ffffffffffffffff",
    );
    prints("$x = 1; $x = 300; print(sizeof($x)); $y = 5; $y++; print(sizeof($y));", "2\n8");
    // So it is with maps: what is counted may become any number.
    prints(
        r#"@a++; @a = 0; @b = 0; @b--; @d = 5; @d += 300; @e = (int8)1; @e -= 1; @f |= 1; @g = 1; @g |= 0x100000000; @h = 5; @h = 300;
           print((sizeof(@a), sizeof(@b), sizeof(@d), sizeof(@e), sizeof(@f), sizeof(@g), sizeof(@h))); printf("%d %x\n", @d, @g);
           clear(@a); clear(@b); clear(@d); clear(@e); clear(@f); clear(@g); clear(@h);"#,
        "(8, 8, 8, 8, 8, 8, 2)\n305 100000001",
    );
    let quiet = json("begin { @h = hist(1024, 1); @i = hist(4096, 2); }");
    assert!(!quiet.contains("attached_probes"), "{quiet}");
    let text = run("begin { @h = hist(1024, 1); @i = hist(4096, 2); }");
    assert!(text.contains("[1024, 1536) ") && text.contains("[4K, 5K) "), "{text}");
}

#[test]
fn the_settings_are_a_record() {
    if !root() {
        return;
    }
    let all = run(
        "config = { max_strlen = 77; max_cat_bytes = 5 } begin { print(config); print(config.max_cat_bytes); cat(\"/proc/sys/kernel/ostype\"); }",
    );
    assert!(
        all.starts_with("{ .cpp_demangle = true, .lazy_symbolication = true, .print_maps_on_exit = true, "),
        "{all}"
    );
    assert!(
        all.contains(".max_cat_bytes = 5, .max_map_keys = 4096, ") && all.contains(".max_strlen = 77, "),
        "{all}"
    );
    assert!(all.ends_with(".license = GPL }\n5\nLinux"), "{all}");
}
