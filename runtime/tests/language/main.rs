//! The language at run time: scripts that run on the kernel of this machine, their output compared byte by byte, with and
//! without the optimiser. Needs the right to load programs; without it every test says so and passes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A panic is the failure.

#[path = "../common/mod.rs"]
mod common;
mod functions;
mod parity;
mod types;

use common::{Capture, root};
use weir_compiler::kernel::KernelInfo;
use weir_compiler::pipeline::{Options, Source, compile};
use weir_runtime::{Kernel, OutputFormat, Session};

fn run_one(script: &str, format: OutputFormat, optimise: bool, arguments: &[&str]) -> String {
    let source = Source {
        name: "stdin".to_owned(),
        text: script.to_owned(),
    };
    let kernel = Kernel::new();
    let mut options = Options {
        optimise,
        ..Options::default()
    };
    options.script.positional = arguments.iter().map(|a| (*a).to_owned()).collect();
    options.script.unsafe_functions = true;
    let output = compile(&source, &kernel, &options);
    let errors: Vec<_> = output.diagnostics.iter().filter(|d| d.is_error()).collect();
    let object = output
        .object
        .unwrap_or_else(|| panic!("{script}\n{errors:#?}\n{:?}", output.internal));
    output_of(object, format)
}

/// Runs a compiled script and returns what it printed.
fn output_of(object: weir_compiler::object::Object, format: OutputFormat) -> String {
    let kernel = Kernel::new();
    let capture = Capture::new();
    let mut run_options = capture.options(format);
    run_options.quiet = true;
    let session = Session::start(object, &kernel, run_options).unwrap_or_else(|e| match e {
        weir_runtime::Error::Rejected { log, .. } => panic!("{log}"),
        other => panic!("{other}"),
    });
    session.run().unwrap();
    capture.text()
}

/// Runs a script in all forms and returns what it printed, without empty lines.
fn run_with(script: &str, arguments: &[&str]) -> String {
    let [with, without] = [true, false].map(|o| run_one(script, OutputFormat::Text, o, arguments));
    assert_eq!(with, without, "the optimiser changed the output of {script}");
    let lines: Vec<&str> = with.lines().filter(|l| !l.is_empty()).collect();
    lines.join("\n")
}

fn run(script: &str) -> String {
    run_with(script, &[])
}

fn json(script: &str) -> String {
    run_one(script, OutputFormat::Json, true, &[])
}

/// `begin { BODY }` prints exactly this.
#[track_caller]
fn prints(body: &str, expected: &str) {
    assert_eq!(run(&format!("begin {{ {body} }}")).trim_end(), expected.trim_end(), "{body}");
}

#[test]
fn strings() {
    if !root() {
        return;
    }
    prints(
        r#"printf("%d%d%d", strncmp("hello", "help", 3), strncmp("hello", "help", 4), strncmp("a", "a", 100));"#,
        "010",
    );
    prints(
        r#"printf("%d%d%d%d%d", strcontains("hello world", "lo w"), strcontains("hello", "lx"), strcontains("say a long needle here", "a long needle"), strcontains("x", ""), strcontains("ab", "abc"));"#,
        "10110",
    );
    prints(r#"printf("%d %d %d", strlen("hello"), strlen(""), strlen("exactly8"));"#, "5 0 8");
    // Different rooms, equal and unequal content.
    prints(
        r#"@a = "a text that needs much more room than the other one"; @a = "hello"; printf("%d%d%d%d", @a == "hello", @a == "hell", @a != "hello there", "12345678" == "123456789");"#,
        "1010\n@a: hello",
    );
    prints(
        r#"$c = curtask->comm; printf("%d %d", $c == comm, curtask->comm == "nobody");"#,
        "1 0",
    );
    prints(
        r#"printf("%s|%s", str(curtask->comm, 2), str(curtask->comm) == comm ? "same" : "other");"#,
        &format!("{}|same", &std::fs::read_to_string("/proc/thread-self/comm").unwrap()[..2]),
    );
}

#[test]
fn long_strings_lie_in_scratch() {
    if !root() {
        return;
    }
    let long = "x".repeat(300);
    prints(
        &format!(r#"$s = "{long}"; @m["{long}"] = "{long}"; printf("%s", $s); $t = (1, "{long}", 2); print($t); print($s == "{long}");"#),
        &format!("{long}(1, {long}, 2)\ntrue\n@m[{long}]: {long}"),
    );
}

#[test]
fn text_longer_than_max_strlen_has_the_trailer() {
    if !root() {
        return;
    }
    let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    let script = |config: &str| format!(r#"config = {{ {config} }} begin {{ printf("%s|%s", str(curtask->comm), "li"); }}"#);
    assert_eq!(run(&script("max_strlen = 3")).trim_end(), format!("{}..|li", &comm[..3]));
    assert_eq!(
        run(&script("max_strlen = 3; str_trunc_trailer = \"[...]\"")).trim_end(),
        format!("{}[...]|li", &comm[..3])
    );
    assert_eq!(run(&script("max_strlen = 64")).trim_end(), format!("{}|li", comm.trim_end()));
}

#[test]
fn buffers() {
    if !root() {
        return;
    }
    let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    let hex: Vec<String> = comm.bytes().take(3).map(|b| format!("{b:02x}")).collect();
    prints(
        r#"$c = curtask->comm; $n = strlen($c) - strlen($c) + 2; printf("%r %rx %rh", buf(curtask->comm, 4), buf(curtask->comm, $n), buf(curtask->comm, 3));"#,
        &format!("{} \\x{}\\x{} {}", &comm[..4], hex[0], hex[1], hex.join(" ")),
    );
    let bytes: Vec<String> = comm.bytes().take(3).map(|b| b.to_string()).collect();
    assert!(
        json("begin { print(buf(curtask->comm, 3)); }").contains(&format!(r#"{{"type": "value", "data": [{}]}}"#, bytes.join(","))),
        "bytes in JSON"
    );
}

#[test]
fn tuples_hold_text_and_bools() {
    if !root() {
        return;
    }
    prints(
        r#"$x = (true, "abc", 1, (2, "d")); print($x); printf("%s %s", $x.1, ($x.3).1); @m[true, "k", 5] = "v"; @n = $x;"#,
        "(true, abc, 1, (2, d))\nabc d\n@m[true, k, 5]: v\n@n: (true, abc, 1, (2, d))"
            .replace("d@m", "d\n@m")
            .as_str(),
    );
}

#[test]
fn loops_over_ranges() {
    if !root() {
        return;
    }
    prints(
        r#"$sum = 0; $s = "x"; for ($i : 0..10) { if ($i == 3) { continue; } if ($i == 7) { break; } $sum += $i; @a[$i] = $i * 2; $s = "changed"; } printf("%d %s", $sum, $s);"#,
        "18 changed\n@a[0]: 0\n@a[1]: 2\n@a[2]: 4\n@a[4]: 8\n@a[5]: 10\n@a[6]: 12",
    );
    prints(
        r#"for ($i : 2..4) { for ($j : $i..4) { printf("%d,%d ", $i, $j); } }"#,
        "2,2 2,3 3,3 ",
    );
    prints(
        r#"for ($i : 5..5) { printf("never"); } for ($i : 7..-1) { printf("never"); } for ($i : -2..1) { printf("%d ", $i); }"#,
        "-2 -1 0 ",
    );
    prints(
        r#"for ($i : 0..5) { if ($i == 2) { printf("left"); return; } } printf("not here");"#,
        "left",
    );
    prints(r#"for ($i : 0..5) { unroll(3) { if ($i == 1) { break; } @n++; } }"#, "@n: 12");
    prints(r#"for ($i : 0..100000) { @n++; }"#, "@n: 100000");
    prints(r#"for ($i : 0..5) { for ($j : 0..5) { if ($j == 2) { return; } @n++; } }"#, "@n: 2");
}

#[test]
fn while_loops_are_not_bounded_by_the_verifier() {
    if !root() {
        return;
    }
    prints(
        r#"$n = 0; while ($n < 100000) { $n++; if ($n % 2 == 0) { continue; } if ($n > 50000) { break; } } printf("%d", $n);"#,
        "50001",
    );
}

#[test]
fn loops_over_maps() {
    if !root() {
        return;
    }
    prints(
        r#"@c["one", 1] = count(); @c["two", 2] = count(); @c["two", 2] = count(); for ($kv : @c) { @out[$kv.0.0] = $kv.1 * 10 + $kv.0.1; } clear(@c);"#,
        "@out[one]: 11\n@out[two]: 22",
    );
    prints(
        r#"@m[1] = "a"; for ($kv : @m) { print($kv); } for ($kv : @m) { return; } printf("not here");"#,
        "(1, a)\n@m[1]: a",
    );
    prints(r#"@h[3] = hist(5); for ($kv : @h) { print($kv.0); } clear(@h);"#, "3");
}

#[test]
fn aggregations_are_read_from_all_cpus() {
    if !root() {
        return;
    }
    prints(
        r#"@x = sum(5); @x = sum(7); @mn = min(4); @mn = min(9); @mx = max(-4); @mx = max(-9); @av = avg(10); @av = avg(21); @c[1] = count();
        printf("%d %d %d %d %d %d %d", @x, @mn, @mx, @av, @c[1] + 1, @c[2], (int32)@x); if (@x == 12) { printf(" yes"); } clear(@c);"#,
        "12 4 -4 15 2 0 12 yes\n@av: 15\n@mn: 4\n@mx: -4\n@x: 12",
    );
}

#[test]
fn stacks_symbols_and_names() {
    if !root() {
        return;
    }
    // Addresses differ from load to load, so each form on its own.
    let run = |script: &str| run_one(script, OutputFormat::Text, true, &[]);
    let out = run("begin { @[kstack(3)] = count(); @u[ustack(2)] = count(); }");
    let frames: Vec<&str> = out.lines().filter(|l| l.starts_with("    ")).collect();
    assert_eq!(frames.len(), 5, "{out}");
    assert!(frames[0].contains("w0_begin+"), "{out}");
    assert!(frames[1].contains("bpf_prog_test_run_raw_tp+"), "{out}");
    let out = run("begin { print(kstack(raw, 1)); print(kstack(perf, 1)); }");
    assert!(out.lines().any(|l| l.starts_with('\t') && l.contains("w0_begin+")), "{out}");
    prints(
        r#"printf("%s %s %s", ksym(kaddr("vfs_read")), username, strerror(13)); print(strftime("%Y-%m", nsecs) != strftime("%Y-%m", 0));"#,
        "vfs_read root Permission deniedtrue",
    );
}

#[test]
fn macros_are_hygienic_and_overloaded() {
    if !root() {
        return;
    }
    let script = r#"
        macro add_one(x) { x + 1 }
        macro twice($v) { $v = $v * 2; $v }
        macro bump(@m, k) { @m[k]++; }
        macro local(x) { let $t = x; $t += 5; $t }
        macro local($x, y) { $x + y }
        macro nested(x) { add_one(add_one(x)) }
        macro answer() { 42 }
        begin {
            $t = 3; print(add_one($t)); $r = twice($t); printf("%d %d\n", $t, $r);
            bump(@cnt, "a"); bump(@cnt, "a");
            print(local($t)); print($t); print(local($t, 100)); print(nested(1)); print(answer()); print(answer);
        }"#;
    assert_eq!(run(script), "4\n6 6\n11\n6\n106\n3\n42\n42\n@cnt[a]: 2");
}

#[test]
fn records_and_blocks() {
    if !root() {
        return;
    }
    prints(
        r#"$r = (a=1, b="x", c=(1, true)); print($r); printf("%d %s %d\n", $r.a, $r.b, $r.c.0); @r = $r; @k[$r.a, $r.b] = 1; print({ $q = 5; $q * 2 }); print((1, 2, 3)[1]);"#,
        "{ .a = 1, .b = x, .c = (1, true) }\n1 x 1\n10\n2\n@k[1, x]: 1\n@r: { .a = 1, .b = x, .c = (1, true) }",
    );
    assert!(
        json(r#"begin { print((a=1, b=(c="x", d=2))); }"#).contains(r#"{"type": "value", "data": {"a": 1, "b": {"c": "x", "d": 2}}}"#),
        "record in JSON"
    );
}

#[test]
fn enumerations_are_printed_by_name() {
    if !root() || Kernel::new().btf().is_none() {
        return;
    }
    prints(
        r#"print((enum pid_type)1); print(PIDTYPE_TGID); @[(enum pid_type)2] = count(); printf("%s %d %d", PIDTYPE_SID, PIDTYPE_SID, PIDTYPE_TGID == 1);"#,
        "PIDTYPE_TGID\nPIDTYPE_TGID\nPIDTYPE_SID 3 1\n@[PIDTYPE_PGID]: 1",
    );
    assert!(json("begin { print(PIDTYPE_TGID); }").contains(r#""data": 1}"#), "a number in JSON");
}

#[test]
fn sizes_offsets_and_types() {
    if !root() || Kernel::new().btf().is_none() {
        return;
    }
    prints(
        "print(offsetof(struct task_struct, comm) > 0); print(sizeof(uint32)); print(offsetof(struct list_head, prev)); let $n: uint8 = (uint8)300; print($n); let $u: int64; $u = 4; print($u);",
        "true\n4\n8\n44\n4",
    );
    prints(
        "print(!5); print(1 < 2); print((bool)7); print((uint8)true + 1); print(true ? 1 : 2);",
        "false\ntrue\ntrue\n2\n1",
    );
}

#[test]
fn declared_maps() {
    if !root() {
        return;
    }
    let out = run(
        "let @l = lruhash(2); let @p = percpulruhash(10); begin { for ($i : 0..5) { @l[$i] = $i; @p[$i] = count(); } print(len(@p)); }",
    );
    assert!(out.starts_with("5\n"), "{out}");
    // How many of its entries an LRU map keeps depends on the processors that it has lists for.
    assert!((1..=2).contains(&out.matches("@l[").count()), "{out}");
}

#[test]
fn arguments_of_the_script() {
    if !root() {
        return;
    }
    assert_eq!(
        run_with(
            r#"begin { printf("%d %s %d|%s|%d", $1, str($2), $#, str($3), $4); }"#,
            &["7", "text"]
        ),
        "7 text 2||0"
    );
    prints(
        r#"print(getopt("n", 5)); print(getopt("s", "d")); print(getopt("b"));"#,
        "5\nd\nfalse",
    );
}

#[test]
fn the_system_is_asked() {
    if !root() {
        return;
    }
    prints(r#"cat("/proc/sys/kernel/%s", "ostype"); system("echo hi %d", 3);"#, "Linux\nhi 3");
    assert!(
        json(r#"begin { system("echo hi"); }"#).contains(r#"{"type": "syscall", "data": "hi\n"}"#),
        "system in JSON"
    );
    prints(
        r#"print(elapsed < 10000000000); print(nsecs(monotonic) <= nsecs(boot)); print(pton("10.0.0.1")); print(pton("::1") == pton("::1"));"#,
        "true\ntrue\n10.0.0.1\ntrue",
    );
    prints("printf(\"%d\", ppid == curtask->real_parent->tgid);", "1");
}

#[test]
fn a_limited_block_runs_that_often() {
    if !root() {
        return;
    }
    let cpus = i64::from(Kernel::new().cpus());
    let out = run(&format!("begin {{ for ($i : 0..1000) {{ limit({}/h) {{ @n++; }} }} }}", 5 * cpus));
    assert_eq!(out, "@n: 5");
}

#[test]
fn long_sets_of_numbers_and_text() {
    if !root() {
        return;
    }
    let numbers: Vec<String> = (0..70).map(|n| (n * 3).to_string()).collect();
    let numbers = numbers.join(", ");
    prints(
        &format!(
            "$n = 6; printf(\"%d%d%d%d\", $n in ({numbers}), $n + 1 in ({numbers}), 5000 in ({numbers}, 4000-6000), -1 in ({numbers}));"
        ),
        "1010",
    );
    let words: Vec<String> = (0..70).map(|n| format!("\"word{n}\"")).collect();
    let words = words.join(", ");
    prints(
        &format!(
            r#"$w = "word7"; $l = "word7 and much more than any of the words"; printf("%d%d%d", $w in ({words}), "word70" in ({words}), $l in ({words}));"#
        ),
        "100",
    );
}

#[test]
fn what_end_sends_after_exit_is_printed() {
    if !root() {
        return;
    }
    for _ in 0..20 {
        assert_eq!(run("begin { @x = 1; exit(); } end { printf(\"end\\n\"); clear(@x); }"), "end");
    }
}

#[test]
fn deleting_a_scalar_aggregation_deletes_it_on_every_cpu() {
    if !root() {
        return;
    }
    let script = "profile:hz:99 { @ = count(); } interval:ms:200 { delete(@); print(@); @n++; if (@n > 3) { exit(); } } end { clear(@); clear(@n); }";
    let out = run_one(script, OutputFormat::Text, true, &[]);
    let counts: Vec<u64> = out.lines().filter_map(|l| l.strip_prefix("@: ")?.parse().ok()).collect();
    // About twenty events a CPU come between two looks, a few at most between deleting and printing.
    assert_eq!(counts.len(), 4, "{out}");
    assert!(counts.iter().all(|n| *n < 10), "{out}");
}

#[test]
fn a_value_that_fills_another_map_does_not_disturb_the_scalar_it_is_assigned_to() {
    if !root() {
        return;
    }
    let script = "config = { max_map_keys = 2; print_maps_on_exit = false } begin { @y[1] = 1; @y[2] = 1; @y[3] = 1; @w[5] = 1; @w[6] = 1; @n = 5; @n = @w[7]++; print(@n); }";
    assert_eq!(run(script), "@n: 0");
}

#[test]
fn a_variable_has_room_for_its_longest_text_from_the_start() {
    if !root() {
        return;
    }
    prints(
        r#"$x = "ab"; $i = 0; while ($i < 2) { print($x); $x = "abcdefghijklmno"; $i++; }"#,
        "ab\nabcdefghijklmno",
    );
}

#[test]
fn one_signed_use_makes_an_aggregation_signed() {
    if !root() {
        return;
    }
    prints(
        "@a = max((uint64)5); @a = max(-7); @b = min((uint64)5); @b = min(-7);",
        "@a: 5\n@b: -7",
    );
}

#[test]
fn zeroing_a_scalar_leaves_it_assigned() {
    if !root() {
        return;
    }
    prints("@p = 5; zero(@p); print(@p); clear(@p);", "@p: 0");
}

#[test]
fn a_large_histogram_starts_empty() {
    if !root() {
        return;
    }
    // Other statements leave text in the memory that the zeros come from.
    let long = "y".repeat(400);
    let out = run(&format!(
        r#"begin {{ for ($i : 0..3) {{ @t["{long}", $i] = "{long}"; print(("{long}", $i)); @h[$i] = hist(5, 5); @l[$i] = lhist(7, 0, 1000, 1); }} clear(@t); }}"#
    ));
    let counts: Vec<&str> = out.lines().filter(|l| l.contains('|')).collect();
    assert_eq!(counts.len(), 6, "{out}");
    assert!(
        counts.iter().all(|l| l.split('|').next().unwrap_or("").trim_end().ends_with(" 1")),
        "{out}"
    );
}
