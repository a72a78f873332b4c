//! Functions at run time: those of the language, and those that a script defines.

use super::{Kernel, KernelInfo, OutputFormat, json, prints, root, run, run_one, run_with};

#[test]
fn functions_of_the_script() {
    if !root() {
        return;
    }
    let script = r#"
        fn add($a : int64, $b : int64) : int64 { return $a + $b; }
        fn sign($n : int64) : int64 { if ($n < 0) { return -1; } if ($n == 0) { return 0; } return 1; }
        fn first($n : int64) : int64 {
            for ($i : 0..100) { if ($i * $i >= $n) { return $i; } }
            return -1;
        }
        fn name($n : int64) : string { if ($n == 1) { return "one"; } return "many"; }
        fn note($what : string, $n : int64) : void { if ($n > 2) { return; } @seen[$what] = $n; printf("%s;", $what); }
        fn twice($n : int64) : int64 { return add($n, $n); }
        fn low($n : uint8) : uint8 { return (uint8)($n + 1); }
        fn unused($n : int64) : int64 { return $n; }
        begin {
            $a = 100; printf("%d %d%d%d %d %d ", add(1, add(2, 3)), sign(-7), sign(0), sign(9), first(50), first(100000));
            printf("%s %s %d %d %d ", name(1), name(2), twice(21), low((uint8)255), $a);
            note("x", 1); note("y", 3); note("z", 2);
            for ($i : 0..3) { if (sign($i) == 1) { break; } @n++; }
        }"#;
    assert_eq!(run(script), "6 -101 8 -1 one many 42 0 100 x;z;\n@n: 1\n@seen[x]: 1\n@seen[z]: 2");
}

#[test]
fn text_is_searched_and_joined() {
    if !root() {
        return;
    }
    prints(
        r#"printf("%d %d %d %d %d %d", strstr("abcd", "cd"), strstr("abcd", "a"), strstr("abc", "x"), strstr("abc", ""), strstr("aXbXc", "X"), strstr("ab", "abc"));"#,
        "2 0 -1 0 1 -1",
    );
    prints(
        r#"$a = "hello"; $b = str_concat($a, " world"); print($b); print(strlen($b)); print(str_concat("", "x")); print(str_concat("12345678", "9")); @m[str_concat("k", "ey")] = 1; print(str_concat(str_concat("a", "b"), "c") == "abc");"#,
        "hello world\n11\nx\n123456789\ntrue\n@m[key]: 1",
    );
    prints(
        r#"print(strcap("abc")); print(str("abc", 2)); printf("%r|%rx|%rh", buf("abc", 2), buf("abc", 2), buf("abc", 3));"#,
        "4\nab\nab|\\x61\\x62|61 62 63",
    );
    prints(
        r#"$a = (uint8[8])(uint64)0x0102030405060708; $b = (uint8[8])(uint64)0x0902030405060708; printf("%d%d%d", memcmp($a, $b, 7), memcmp($a, $b, 8), memcmp("abcdefghij", "abcdefghiX", 9));"#,
        "0-80",
    );
}

#[test]
fn numbers_have_names() {
    if !root() {
        return;
    }
    prints(
        r#"print(strerror(2)); print(signal_name(9)); print(signal_name(99)); print(signal_name(0)); print(signal_name(64)); print(syscall_name(257)); print(syscall_name(1000)); printf("%s|%10s|", syscall_name(0), signal_name(15)); @[signal_name(2)] = count();"#,
        "No such file or directory\nKilled\nN/A\nUnknown signal 0\nReal-time signal 30\nopenat\nUnknown syscall\nread|Terminated|\n@[Interrupt]: 1",
    );
}

#[test]
fn entries_are_found() {
    if !root() {
        return;
    }
    prints(
        r#"@x[1] = 7; if (find(@x, 1, $v)) { print($v); } if (find(@x, 2, $v)) { print("no"); } else { print($v); } @c["a", 1] = count(); if (find(@c, ("a", 1), $n)) { print($n); } $k = 1; print(find(@x, $k++, $w)); print($k);"#,
        "7\n7\n1\ntrue\n2\n@c[a, 1]: 1\n@x[1]: 7",
    );
    prints(
        r#"@x[1] = 1; if (delete(@x, 1)) { print("gone"); } print(delete(@x, 1)); @y[2] = 3; print(delete(@y[2])); print(has_key(@y, 2)); print(len(@y));"#,
        "gone\nfalse\ntrue\nfalse\n0",
    );
}

/// A name that was longer before: what a key holds behind its end must be zeros, whichever way the program reads it.
#[test]
fn a_shorter_name_of_a_task_is_a_key_of_its_own() {
    if !root() {
        return;
    }
    for name in [c"fifteen-letters", c"ab"] {
        nix::sys::prctl::set_name(name).unwrap();
    }
    prints(
        r#"@[comm] = 7; @two[comm, 1] = count(); printf("%d %d %d", @["ab"], has_key(@two, ("ab", 1)), comm == "ab");"#,
        "7 1 1\n@[ab]: 7\n@two[ab, 1]: 1",
    );
    nix::sys::prctl::set_name(c"fifteen-letters").unwrap();
    prints(
        r#"@[comm] = 7; printf("%d %s", @["fifteen-letters"], comm);"#,
        "7 fifteen-letters\n@[fifteen-letters]: 7",
    );
}

#[test]
fn the_task_and_its_namespaces() {
    if !root() || Kernel::new().btf().is_none() {
        return;
    }
    let comm = std::fs::read_to_string("/proc/1/comm").unwrap();
    prints(
        r#"printf("%d%d%d%d ", pid == pid(), pid(init) == pid, leader_tid == pid, tid(init) == tid); print(comm(1)); print(comm() == comm); print(has_cpid); print(probetype); print(pid(curr_ns) > 0);"#,
        &format!("1111 {comm}true\nfalse\nspecial\ntrue"),
    );
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();
    prints("print(leader_comm);", &own);
    assert_eq!(
        run(
            "begin { print(nsecs(sw_tai) > 0); print(is_err(-5)); print(is_err(5)); print(kfunc_exist(\"vfs_read\")); print(kfunc_exist(\"no_such\")); }"
        ),
        "true\ntrue\nfalse\ntrue\nfalse"
    );
}

#[test]
fn frames_are_counted() {
    if !root() {
        return;
    }
    let out = run("begin { $n = len(kstack); print($n > 2); print(len(kstack(2))); print(len(ustack) < 128); }");
    assert_eq!(out, "true\n2\ntrue");
}

#[test]
fn assertions_end_the_script() {
    if !root() {
        return;
    }
    assert_eq!(
        run("begin { assert(1 == 1, \"no\"); print(1); assert(pid == 0, \"pid is not 0\"); print(2); }"),
        "1"
    );
}

#[test]
fn per_cpu_variables_of_the_kernel() {
    let kernel = Kernel::new();
    let Some(_) = kernel.symbol_address("this_cpu_off").filter(|_| root()) else {
        eprintln!("skipped: this kernel hides its addresses");
        return;
    };
    // Each CPU's copy of `this_cpu_off` holds the distance to it.
    prints(
        r#"$p = percpu_kaddr("this_cpu_off"); print(*(uint64 *)$p == $p - kaddr("this_cpu_off")); print(percpu_kaddr("this_cpu_off", 0) == percpu_kaddr("this_cpu_off", 1));"#,
        if kernel.cpus() > 1 { "true\nfalse" } else { "true\ntrue" },
    );
}

#[test]
fn scripts_are_imported_once() {
    if !root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let dir = std::env::temp_dir().join(format!("weir-import-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("lib")).unwrap();
    for folder in [dir.clone(), dir.join("lib")] {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::write(dir.join("one.bt"), "import \"main.bt\"; import \"lib\"; macro one() { 1 }").unwrap();
    std::fs::write(
        dir.join("lib/a.bt"),
        "struct pair { int a; int b; }; fn two() : int64 { return 2; }",
    )
    .unwrap();
    std::fs::write(dir.join("lib/b.bt"), "import \"a.bt\"; begin { printf(\"b \"); }").unwrap();
    let main = dir.join("main.bt");
    let text = "import \"one.bt\"; import \"lib/a.bt\"; begin { printf(\"%d %d %d\\n\", one(), two(), sizeof(struct pair)); }";
    std::fs::write(&main, text).unwrap();
    let compiled = |name: &std::path::Path, text: &str| {
        let source = super::Source {
            name: name.display().to_string(),
            text: text.to_owned(),
        };
        super::compile(&source, &Kernel::new(), &super::Options::default())
    };
    let output = compiled(&main, text);
    assert!(output.object.is_some(), "{:?}", output.diagnostics);
    let names: Vec<&str> = output.imports.iter().map(|s| s.name.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["one.bt", "a.bt", "b.bt"]);
    let mut printed = super::output_of(output.object.unwrap(), OutputFormat::Text);
    printed.retain(|c| c != '\n');
    assert_eq!(printed, "b 1 2 8");
    // An error points into the file that it is in.
    std::fs::write(dir.join("lib/b.bt"), "fn three() : int64 { return nothing; }").unwrap();
    let output = compiled(&main, text);
    let d = output.diagnostics.iter().find(|d| d.is_error()).unwrap();
    assert_eq!((d.span.source.0, d.span.start), (3, 28), "{d:?}");
    // What everybody may write is refused.
    std::fs::set_permissions(dir.join("lib"), PermissionsExt::from_mode(0o777)).unwrap();
    let output = compiled(&main, text);
    assert!(
        output.diagnostics.iter().any(|d| d.message.contains("everybody may write")),
        "{:?}",
        output.diagnostics
    );
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn debugf_goes_to_the_trace_pipe() {
    if !root() {
        return;
    }
    let marker = format!("weir-test-{}", std::process::id());
    run_one(
        &format!("begin {{ debugf(\"{marker} %d %s %x\", -5, \"text\", 255); }}"),
        OutputFormat::Text,
        true,
        &[],
    );
    let trace = ["/sys/kernel/tracing/trace", "/sys/kernel/debug/tracing/trace"];
    let Some(text) = trace.iter().find_map(|p| std::fs::read(p).ok()) else {
        eprintln!("skipped: no trace file of tracefs is readable");
        return;
    };
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains(&format!("{marker} -5 text ff")), "{marker} is not in the trace");
}

#[test]
fn series_over_time() {
    if !root() {
        return;
    }
    let box_of = |least: i64, value: i64, most: i64| {
        let (edge, bar) = ("_".repeat(51), format!("{:25}*{:25}", "", ""));
        let scale = format!("{:19}{least}{most:>width$}", "", width = 53 - least.to_string().len());
        format!(
            "{scale}\nhh:mm:ss.ns        |{edge}|\nT |{bar}| {value}\n{:19}v{edge}v\n{scale}",
            ""
        )
    };
    // The time is the machine's.
    let shown = |script: &str| -> String {
        let text = run_one(script, OutputFormat::Text, true, &[]);
        let lines = text.lines().filter(|l| !l.is_empty()).map(|line| match line.split_once(' ') {
            Some((time, rest)) if time.len() == 18 && time.ends_with(".000000000") => format!("T {rest}"),
            _ => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let one = |arguments: &str| {
        shown(&format!(
            "begin {{ @ = tseries(5, 100d, 3{arguments}); @ = tseries(8, 100d, 3{arguments}); }}"
        ))
    };
    assert_eq!(one(""), format!("@:\n{}", box_of(7, 8, 9)));
    assert_eq!(one(", \"avg\""), format!("@:\n{}", box_of(5, 6, 7)));
    assert_eq!(one(", \"min\""), format!("@:\n{}", box_of(4, 5, 6)));
    assert_eq!(one(", \"max\""), format!("@:\n{}", box_of(7, 8, 9)));
    assert_eq!(one(", \"sum\""), format!("@:\n{}", box_of(12, 13, 14)));
    assert_eq!(
        shown("begin { @[1] = tseries((uint64)3, 100d, 1); @[2] = tseries(4, 100d, 1); print(@, 1); clear(@); print(@); }"),
        format!("@[2]:\n{}", box_of(3, 4, 5))
    );
    // A row of intervals: what is kept is the last five, one behind the other.
    let out = json("interval:ms:20 /@i < 30/ { @i++; @s = tseries(@i, 40ms, 5, \"max\"); if (@i == 30) { exit(); } }");
    let line = out.lines().find(|l| l.contains("tseries")).unwrap();
    let values: Vec<i64> = line
        .split("\"value\":")
        .skip(1)
        .map(|v| v[..v.find('}').unwrap()].parse().unwrap())
        .collect();
    assert!(
        (1..=5).contains(&values.len()) && values.is_sorted() && values.last() == Some(&30),
        "{line}"
    );
}

#[test]
fn user_stacks_with_build_ids() {
    if !root() {
        return;
    }
    // A file with a build id, or an address where the kernel could not look: never nothing.
    let run = |script: &str| run_one(script, OutputFormat::Text, true, &[]);
    for script in [
        "begin { @[ustack(build_id, 1)] = count(); }",
        "config = { stack_mode = build_id } begin { print(ustack(1)); }",
    ] {
        let out = run(script);
        let line = out.lines().find(|l| !l.is_empty() && !l.starts_with('@')).unwrap();
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        match line.split_once(" 0x") {
            Some((id, offset)) => assert!(id.len() == 40 && hex(id) && hex(offset), "{out}"),
            None => assert!(hex(line), "{out}"),
        }
    }
    // The kernel's own stack stays as it is.
    assert!(run("config = { stack_mode = build_id } begin { print(kstack(1)); }").contains("w0_begin+"));
}

#[test]
fn settings_are_read() {
    if !root() {
        return;
    }
    prints(
        "print(config.max_strlen); print(config.stack_mode); print(config.print_maps_on_exit); print(config.license); print(config.missing_probes);",
        "1024\nbpftrace\ntrue\nGPL\nerror",
    );
    assert_eq!(
        run(
            "config = { max_strlen = 200; license = \"Dual BSD/GPL\"; cpp_demangle = 0; log_size = 5; unstable_tseries = enable }
            begin { print((config.max_strlen, config.license, config.cpp_demangle, config.log_size, config.unstable_tseries));
                    if comptime (config.max_strlen == 200) { print(\"short\"); } else { fail(\"long\"); } }"
        )
        .trim_end(),
        "(200, Dual BSD/GPL, false, 5, enable)\nshort"
    );
}

#[test]
fn formats_take_all_conversions() {
    if !root() {
        return;
    }
    prints(
        r#"printf("%gr|%-12gr|%*d|%-*d|%.*s|%s %s|%hhd %hd %d|%hhu %x %lx|%u", 0xcc0, 0x40, 5, 3, 4, 3, 2, "abc", 5, -7, 300, 70000, 5000000000, -1, -1, -1, (int8)-1);"#,
        "GFP_KERNEL|__GFP_IO    |    3|3   |ab|5 -7|44 4464 5000000000|255 ffffffff ffffffffffffffff|4294967295",
    );
    prints("$w = 4; printf(\"%*x|%s\", $w, 255, sizeof(1) == sizeof(-128));", "  ff|true");
    prints(
        "print(sizeof(1)); print(sizeof(128)); print(sizeof(70000)); print(sizeof(5000000000)); print(sizeof(-1)); print(sizeof(1000 * 1000)); print(sizeof(string[5])); print(typeof(1) == typeof(int8));",
        "1\n2\n4\n8\n1\n4\n5\ntrue",
    );
    prints(r#"printf("50%! %s %05d 100%", buf("a\x01", 2), 7);"#, r"50%! a\x01 00007 100%");
    prints(
        r#"print(str("abcdef", 3)); print(bswap(0x1234)); print(str("ab", 5));"#,
        "abc\n13330\nab",
    );
    assert_eq!(
        run_with(
            "begin { print($1); print($2); print($1 == \"weir\"); print($3); }",
            &["weir", "0x10"]
        )
        .trim_end(),
        "weir\n16\ntrue\n0"
    );
    prints("print(1 << 63); print((1 << 63) > 5);", "9223372036854775808\ntrue");
    prints("print(~5); print(~0 == 0xffffffffffffffff);", "18446744073709551610\ntrue");
}

#[test]
fn signs_meet_in_comparisons() {
    if !root() {
        return;
    }
    prints(
        "$a = (int64)-1; $b = (uint32)5; $c = (uint64)7; print($a < $b); print($a > $c); print(-1 > $b); print($c > -1); print($c >= 7); print(0 > $a);",
        "true\nfalse\nfalse\ntrue\ntrue\ntrue",
    );
    // Addresses, and numbers that only fit without a sign.
    prints(
        "$u = (uint64)0xffffffffffffffff; print($u > 5); print(0xfffffffffffffffe < $u); print((uint64)curtask > 0);",
        "true\ntrue\ntrue",
    );
}

#[test]
fn an_empty_text_gives_way() {
    if !root() {
        return;
    }
    prints(
        r#"$e = ""; $f = "full"; print($e ?: "other"); print($f ?: "other"); print(str($3) ?: "none");"#,
        "other\nfull\nnone",
    );
}

#[test]
fn one_entry_is_printed_as_it_is_at_that_moment() {
    if !root() {
        return;
    }
    prints(
        "@a[1] = 1; print(@a[1]); @a[1] = 2; print(@a[1]); delete(@a, 1); print(@a[1]); @c[1] = count(); print(@c[1]); clear(@c);",
        "1\n2\n0\n1",
    );
}
