//! What is printed, byte for byte as bpftrace prints it: each form once as text and once as JSON.

use anyhow::{Result, ensure};
use weir_tests::harness::Test;
use weir_tests::net::Lab;
use weir_tests::victim;
use weir_tests::weir::{Finished, Weir};

pub const TESTS: &[Test] = &[
    Test::new("values_are_printed_as_bpftrace_does", values),
    Test::new("maps_are_printed_and_sorted_as_bpftrace_does", maps),
    Test::new("histograms_are_printed_as_bpftrace_does", histograms),
    Test::new("print_takes_a_top_and_a_divisor", top_and_div),
    Test::new("arrays_and_nested_values_are_printed_as_bpftrace_does", nested),
    Test::new("joined_arguments_are_printed_as_bpftrace_does", joined),
    Test::new("stacks_are_printed_as_bpftrace_does", stacks).alone(),
    Test::new("problems_have_their_place_in_json", problems),
    Test::new("failed_helpers_are_told_with_k", helpers),
    Test::new("unknown_numbers_and_bits_are_printed_as_bpftrace_does", odd_values),
    Test::new("str_takes_a_length_that_is_known_at_run_time", lengths),
    Test::new("a_macro_without_parentheses_is_a_statement", bare_macro),
    Test::new("lost_events_are_counted_in_both_forms", lost),
    Test::new("other_kinds_of_json_objects", other_objects),
    Test::new("what_begin_prints_is_out_before_a_refusal_to_attach", refused_to_attach),
    Test::new("quiet_json_comes_while_the_script_runs", quiet_json),
];

/// Nothing tells how many probes there are, and nothing waits for it.
fn quiet_json() -> Result<()> {
    let quiet = Weir::new(["-q", "-f", "json", "-e", "begin { print(1); } interval:ms:50 { print(2); }"]);
    let mut running = quiet.env("__BPFTRACE_NOTIFY_PROBES_ATTACHED", "0").start_unattached()?;
    let line = |n: u32| format!("{{\"type\": \"value\", \"data\": {n}}}\n");
    running.wait_stdout("both values", |text| text.starts_with(&line(1)) && text.contains(&line(2)))?;
    let done = running.end_with(nix::sys::signal::Signal::SIGINT)?;
    ensure!(!done.stdout.contains("attached_probes"), "{done}");
    done.nothing_left().map(drop)
}

/// Runs `begin { BODY }` and compares all of its output.
fn prints(body: &str, text: &str, json: &str) -> Result<()> {
    let script = format!("begin {{ {body} }}");
    let done = Weir::script(&script).run()?.clean()?;
    ensure!(done.stdout == text, "expected\n{text}\nfrom {done}");
    let done = Weir::new(["-f", "json", "-e", &script]).run()?.clean()?;
    let attached = "{\"type\": \"attached_probes\", \"count\": 1, \"data\": {\"probes\": 1}}\n";
    let rest = done.stdout.replacen(attached, "", 1);
    ensure!(rest != done.stdout, "no `attached_probes`: {done}");
    ensure!(rest == json, "expected\n{json}\nfrom {done}");
    Ok(())
}

fn values() -> Result<()> {
    prints(
        r#"printf("test %d\n", 5); print(5); print((1, "abc")); print((a=1, b="x")); print(true); print((int8*)255); print((uint64)18446744073709551615); print((1, (2, "s")));"#,
        "test 5\n5\n(1, abc)\n{ .a = 1, .b = x }\ntrue\n0xff\n18446744073709551615\n(1, (2, s))\n\n\n",
        "{\"type\": \"printf\", \"data\": \"test 5\\n\"}\n\
         {\"type\": \"value\", \"data\": 5}\n\
         {\"type\": \"value\", \"data\": [1,\"abc\"]}\n\
         {\"type\": \"value\", \"data\": {\"a\": 1, \"b\": \"x\"}}\n\
         {\"type\": \"value\", \"data\": true}\n\
         {\"type\": \"value\", \"data\": 255}\n\
         {\"type\": \"value\", \"data\": \"18446744073709551615\"}\n\
         {\"type\": \"value\", \"data\": [1,[2,\"s\"]]}\n",
    )
}

fn maps() -> Result<()> {
    prints(
        r#"@a = 5; @b["k", 2] = 7; @c["y"] = 30; @c["z"] = 9; @c["x"] = 20; @d[3] = "c"; @d[1] = "b"; @d[2] = "a";
           @e = stats(5); @e = stats(7); @f["p"] = stats(9); @f["q"] = stats(3); @g["h"] = avg(9); @g["i"] = avg(3); @h[1] = (1, "t");
           @i[(1, 2)] = sum(5); @j = count(); @k = min(3); @k = min(2); @l = max(9); @m[-1] = 1; @n[1] = (a=1, b="x");"#,
        "\n\n@a: 5\n@b[k, 2]: 7\n@c[z]: 9\n@c[x]: 20\n@c[y]: 30\n@d[1]: b\n@d[2]: a\n@d[3]: c\n\
         @e: { .count = 2, .average = 6, .total = 12 }\n\
         @f[q]: { .count = 1, .average = 3, .total = 3 }\n@f[p]: { .count = 1, .average = 9, .total = 9 }\n\
         @g[i]: 3\n@g[h]: 9\n@h[1]: (1, t)\n@i[1, 2]: 5\n@j: 1\n@k: 2\n@l: 9\n@m[-1]: 1\n@n[1]: { .a = 1, .b = x }\n",
        "{\"type\": \"map\", \"data\": {\"@a\": 5}}\n\
         {\"type\": \"map\", \"data\": {\"@b\": {\"k,2\": 7}}}\n\
         {\"type\": \"map\", \"data\": {\"@c\": {\"z\": 9, \"x\": 20, \"y\": 30}}}\n\
         {\"type\": \"map\", \"data\": {\"@d\": {\"1\": \"b\", \"2\": \"a\", \"3\": \"c\"}}}\n\
         {\"type\": \"stats\", \"data\": {\"@e\": {\"count\": 2, \"average\": 6, \"total\": 12}}}\n\
         {\"type\": \"stats\", \"data\": {\"@f\": {\"q\": {\"count\": 1, \"average\": 3, \"total\": 3}, \"p\": {\"count\": 1, \"average\": 9, \"total\": 9}}}}\n\
         {\"type\": \"stats\", \"data\": {\"@g\": {\"i\": 3, \"h\": 9}}}\n\
         {\"type\": \"map\", \"data\": {\"@h\": {\"1\": [1,\"t\"]}}}\n\
         {\"type\": \"map\", \"data\": {\"@i\": {\"1,2\": 5}}}\n\
         {\"type\": \"map\", \"data\": {\"@j\": 1}}\n\
         {\"type\": \"map\", \"data\": {\"@k\": 2}}\n\
         {\"type\": \"map\", \"data\": {\"@l\": 9}}\n\
         {\"type\": \"map\", \"data\": {\"@m\": {\"-1\": 1}}}\n\
         {\"type\": \"map\", \"data\": {\"@n\": {\"1\": {\"a\": 1, \"b\": \"x\"}}}}\n",
    )
}

fn nested() -> Result<()> {
    prints(
        r#"print((uint8[4])0x04030201); print((uint16[2])0x20001); print((a=(b=1, c="x"), d=(1, "y"))); @r["k"] = (a=1, b=(c=2, d=true)); @t[1, "x"] = (uint8[2])0x201;"#,
        "[1,2,3,4]\n[1,2]\n{ .a = { .b = 1, .c = x }, .d = (1, y) }\n\n\n@r[k]: { .a = 1, .b = { .c = 2, .d = true } }\n@t[1, x]: [1,2]\n",
        "{\"type\": \"value\", \"data\": [1,2,3,4]}\n\
         {\"type\": \"value\", \"data\": [1,2]}\n\
         {\"type\": \"value\", \"data\": {\"a\": {\"b\": 1, \"c\": \"x\"}, \"d\": [1,\"y\"]}}\n\
         {\"type\": \"map\", \"data\": {\"@r\": {\"k\": {\"a\": 1, \"b\": {\"c\": 2, \"d\": true}}}}}\n\
         {\"type\": \"map\", \"data\": {\"@t\": {\"1,x\": [1,2]}}}\n",
    )
}

fn joined() -> Result<()> {
    let script = "tracepoint:syscalls:sys_enter_execve /pid == cpid/ { join(args.argv); join(args.argv, \"-\"); }";
    let args = ["-c", "true one two", "-e", script];
    let done = Weir::new(args).run()?.clean()?;
    ensure!(done.stdout == "true one two\ntrue-one-two\n\n\n", "{done}");
    let done = Weir::new(["-f", "json"].into_iter().chain(args)).run()?.clean()?;
    let lines = "{\"type\": \"join\", \"data\": \"true one two\\n\"}\n{\"type\": \"join\", \"data\": \"true-one-two\\n\"}\n";
    ensure!(done.stdout.ends_with(lines), "{done}");
    Ok(())
}

fn stacks() -> Result<()> {
    let exe = victim::path()?.display().to_string();
    let script = format!("uprobe:{exe}:weir_victim_double {{ @[ustack(1)] = count(); @v[tid] = ustack(1); print(ustack(1)); }}");
    let frame = "        weir_victim_double+0\n";
    let run = |args: &[&str]| -> Result<Finished> {
        // What has ended has no names any more.
        let mut victim = victim::OnDemand::start(2)?;
        let weir = Weir::new(args.iter().copied().chain(["-e", &script])).start()?;
        victim.work()?;
        let done = weir.stop()?.clean()?;
        victim.end()?;
        Ok(done)
    };
    let done = run(&[])?;
    let tid = done.map("@v").into_keys().next().unwrap_or_default();
    let printed = format!("\n{frame}\n");
    let text = format!("{}\n\n@[\n{frame}]: 2\n@v[{tid}]: \n{frame}\n", printed.repeat(2));
    ensure!(done.stdout == text, "expected\n{text}\nfrom {done}");
    let done = run(&["-f", "json"])?;
    let (escaped, key) = ("\\n        weir_victim_double+0\\n", "\\nweir_victim_double+0\\n");
    for line in [
        format!("{{\"type\": \"value\", \"data\": \"{escaped}\"}}\n"),
        format!("{{\"type\": \"map\", \"data\": {{\"@\": {{\"{key}\": 2}}}}}}\n"),
    ] {
        ensure!(done.stdout.contains(&line), "no {line} in {done}");
    }
    Ok(())
}

fn bar(label: &str, count: u64, width: usize) -> String {
    format!("{label:<16}{count:>8} |{:<52}|\n", "@".repeat(width))
}

fn histograms() -> Result<()> {
    let text = [
        "\n\n@h:\n".to_owned(),
        bar("(..., 0)", 1, 26),
        bar("[0]", 0, 0),
        bar("[1]", 0, 0),
        bar("[2, 4)", 2, 52),
        "\n@k[1]:\n".to_owned(),
        bar("[1M, 2M)", 1, 52),
        "\n@l:\n".to_owned(),
        bar("(..., 0)", 1, 52),
        bar("[0, 10)", 1, 52),
        bar("[10, 20)", 0, 0),
        bar("[20, ...)", 1, 52),
        "\n".to_owned(),
    ];
    prints(
        "@h = hist(-1); @h = hist(2); @h = hist(3); @k[1] = hist(1048576); @l = lhist(-5, 0, 20, 10); @l = lhist(5, 0, 20, 10); @l = lhist(99, 0, 20, 10);",
        &text.concat(),
        "{\"type\": \"hist\", \"data\": {\"@h\": [{\"max\": -1, \"count\": 1},{\"min\": 0, \"max\": 0, \"count\": 0},{\"min\": 1, \"max\": 1, \"count\": 0},{\"min\": 2, \"max\": 3, \"count\": 2}]}}\n\
         {\"type\": \"hist\", \"data\": {\"@k\": {\"1\": [{\"min\": 1048576, \"max\": 2097151, \"count\": 1}]}}}\n\
         {\"type\": \"hist\", \"data\": {\"@l\": [{\"max\": -1, \"count\": 1},{\"min\": 0, \"max\": 9, \"count\": 1},{\"min\": 10, \"max\": 19, \"count\": 0},{\"min\": 20, \"count\": 1}]}}\n",
    )
}

fn odd_values() -> Result<()> {
    prints(
        r#"$s = (int64)5; print(~(uint8)5); print(~$s); print(~0); printf("%p %p\n", 0, 255); print(strerror(4095)); print(syscall_name(99999));"#,
        "250\n-6\n18446744073709551615\n0 0xff\nUnknown error\nUnknown syscall\n\n\n",
        "{\"type\": \"value\", \"data\": 250}\n\
         {\"type\": \"value\", \"data\": -6}\n\
         {\"type\": \"value\", \"data\": \"18446744073709551615\"}\n\
         {\"type\": \"printf\", \"data\": \"0 0xff\\n\"}\n\
         {\"type\": \"value\", \"data\": \"Unknown error\"}\n\
         {\"type\": \"value\", \"data\": \"Unknown syscall\"}\n",
    )
}

fn lengths() -> Result<()> {
    prints(
        r#"$p = kptr((uint64)curtask + offsetof(struct task_struct, comm));
           $n = 2; print(strlen(str($p, $n))); print(strncmp(str($p, $n), comm, 2));
           $n = 0; printf("[%s]\n", str($p, $n));
           $n = 5000; print(str($p, $n) == comm);
           $n = -1; print(str($p, $n) == comm);"#,
        "2\n0\n[]\ntrue\ntrue\n\n\n",
        "{\"type\": \"value\", \"data\": 2}\n\
         {\"type\": \"value\", \"data\": 0}\n\
         {\"type\": \"printf\", \"data\": \"[]\\n\"}\n\
         {\"type\": \"value\", \"data\": true}\n\
         {\"type\": \"value\", \"data\": true}\n",
    )
}

fn bare_macro() -> Result<()> {
    let script = r#"macro hello() { printf("hello\n") } begin { hello; hello(); }"#;
    let done = Weir::script(script).run()?.clean()?;
    ensure!(done.stdout == "hello\nhello\n\n\n", "{done}");
    Ok(())
}

fn top_and_div() -> Result<()> {
    // Bars show the counts that are printed.
    prints(
        "@h = hist(1); for ($i : 0..10) { @h = hist(5); } print(@h, 0, 4); clear(@h);",
        &format!("@h:\n{}{}{}\n\n\n", bar("[1]", 0, 0), bar("[2, 4)", 0, 0), bar("[4, 8)", 2, 52)),
        "{\"type\": \"hist\", \"data\": {\"@h\": [{\"min\": 1, \"max\": 1, \"count\": 0},\
         {\"min\": 2, \"max\": 3, \"count\": 0},{\"min\": 4, \"max\": 7, \"count\": 2}]}}\n",
    )?;
    prints(
        "@[1] = 10; @[2] = 20; @[3] = 35; print(@, 2, 10); print(@[3]); clear(@);",
        "@[2]: 2\n@[3]: 3\n35\n\n\n",
        "{\"type\": \"map\", \"data\": {\"@\": {\"2\": 2, \"3\": 3}}}\n{\"type\": \"value\", \"data\": 35}\n",
    )
}

fn problems() -> Result<()> {
    let script = "begin {\n  errorf(\"no %d\", 1);\n  warnf(\"hm\\n\"); }";
    let done = Weir::new(["-f", "json", "-e", script]).run()?.clean()?;
    for line in [
        "{\"type\": \"errorf\", \"msg\": \"no 1\", \"filename\": \"stdin\", \"line\": 2, \"col\": 3}\n",
        "{\"type\": \"warnf\", \"msg\": \"hm\\n\", \"filename\": \"stdin\", \"line\": 3, \"col\": 3}\n",
    ] {
        ensure!(done.stdout.contains(line), "no {line} in {done}");
    }
    let done = Weir::new(["-f", "json", "-e", "begin { assert(pid == 0, \"no\"); print(1); }"]).run()?;
    ensure!(done.status.code() == Some(1) && !done.stdout.contains("value"), "{done}");
    let line = "{\"type\": \"errorf\", \"msg\": \"assert failed: no\", ";
    ensure!(done.stdout.contains(line), "no {line} in {done}");
    Ok(())
}

fn helpers() -> Result<()> {
    // Unused results are still asked for.
    let script = "begin { @m[1] = 2; $x = @m[7]; print($x); delete(@m, 9); print(*(uint64*)8); }";
    let done = Weir::new(["-k", "-e", script]).run()?.clean()?;
    for words in [
        "Can't lookup map element because it does not exist.",
        "Additional Info - helper: map_lookup_elem, retcode: 0",
        "Can't delete map element because it does not exist.",
        "Additional Info - helper: map_delete_elem, retcode: -2",
        // An address of user space is out of range for this helper.
        "Numerical result out of range",
        "Additional Info - helper: probe_read_kernel, retcode: -34",
        "stdin:1:",
    ] {
        ensure!(done.stderr.contains(words), "no `{words}` in {done}");
    }
    let done = Weir::script(script).run()?.clean()?;
    ensure!(!done.stderr.contains("helper"), "only with -k: {done}");
    let done = Weir::new(["-k", "-f", "json", "-e", script]).run()?.clean()?;
    let line = "{\"type\": \"helper_error\", \"msg\": \"No such file or directory\", \"helper\": \"map_delete_elem\", \
                \"retcode\": -2, \"filename\": \"stdin\", \"line\": 1, \"col\": ";
    ensure!(done.stdout.contains(line), "no {line} in {done}");
    // A full map is told always.
    let full = "config = { max_map_keys = 1 } begin { @m[1] = 1; @m[2] = 2; }";
    let done = Weir::new(["-f", "json", "-e", full]).run()?.clean()?;
    ensure!(done.stdout.contains("\"helper\": \"map_update_elem\", \"retcode\": -7, "), "{done}");
    Ok(())
}

fn lost() -> Result<()> {
    // Far more than the largest ring holds, faster than anybody reads.
    const EVENTS: usize = 100_000;
    let line = "x".repeat(500);
    let script = format!("begin {{ $s = \"{line}\"; for ($i : 0..{EVENTS}) {{ printf(\"%s %d\\n\", $s, $i); }} }}");
    let done = Weir::script(&script).run()?.clean()?;
    let printed = done.stdout.lines().filter(|l| l.starts_with('x')).count();
    let total = done.stderr.lines().find_map(|l| l.split_once("Total lost event count: "));
    let total: usize = total.map_or(Ok(0), |(_, n)| n.trim().parse())?;
    ensure!(done.stderr.contains("Lost ") && done.stderr.contains(" events"), "{}", done.stderr);
    ensure!(printed + total == EVENTS, "{printed} printed, {total} lost: {}", done.stderr);
    let done = Weir::new(["-f", "json", "-e", &script]).run()?.clean()?;
    ensure!(done.stdout.contains("{\"type\": \"lost_events\", \"count\": "), "{}", done.stderr);
    Ok(())
}

fn other_objects() -> Result<()> {
    let script = "begin { time(\"%%\\n\"); cat(\"/proc/sys/kernel/ostype\"); system(\"echo a b\"); }";
    let done = Weir::new(["--unsafe", "-f", "json", "-e", script]).run()?.clean()?;
    for line in [
        "{\"type\": \"time\", \"data\": \"%\\n\"}\n",
        "{\"type\": \"cat\", \"data\": \"Linux\\n\"}\n",
        "{\"type\": \"syscall\", \"data\": \"a b\\n\"}\n",
    ] {
        ensure!(done.stdout.contains(line), "no {line} in {done}");
    }
    let done = Weir::new(["--unsafe", "-e", script]).run()?.clean()?;
    // bpftrace ends a command's output with a line break of its own.
    ensure!(done.stdout == "%\nLinux\na b\n\n\n\n", "{done}");
    // What fails without a word prints nothing, and is told.
    let done = Weir::new(["--unsafe", "-e", "begin { system(\"exit 3\"); print(1); }"])
        .run()?
        .clean()?;
    ensure!(done.stdout == "1\n\n\n" && done.stderr.contains("exit status: 3"), "{done}");
    Ok(())
}

/// In JSON it would follow the number of probes, which never comes then.
fn refused_to_attach() -> Result<()> {
    let lab = Lab::new()?;
    let script = r#"begin { printf("first\n"); } xdp:lo:native { @ = count(); }"#;
    for (format, text) in [("text", "first\n"), ("json", "{\"type\": \"printf\", \"data\": \"first\\n\"}\n")] {
        let done = Weir::new(["-f", format, "-e", script]).at(&lab).run()?;
        ensure!(done.stdout == text && done.status.code() == Some(1), "{format}: {done}");
        ensure!(done.stderr.contains("error[no-native-xdp]"), "{format}: {done}");
    }
    Ok(())
}
