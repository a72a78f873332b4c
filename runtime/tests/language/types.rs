//! Types at run time: structs of the script and of the kernel, arrays, addresses, widths of integers.

use super::{Kernel, KernelInfo, OutputFormat, json, prints, root, run, run_one, run_with};

/// Whether the test can run: root, and a kernel with types.
fn typed() -> bool {
    root() && Kernel::new().btf().is_some()
}

#[test]
fn structs_of_the_script_are_read_like_those_of_the_kernel() {
    if !typed() {
        return;
    }
    // The script's own words for the first members of `struct list_head`, through the kernel's pointers.
    let script = "struct node { struct node *next; struct node *prev; };
        begin {
            $head = (struct node *)&curtask->group_leader->tasks;
            print($head->next->prev == $head); print($head->prev->next == $head);
            print((uint64)$head->next == (uint64)curtask->group_leader->tasks.next);
        }";
    assert_eq!(run(script), "true\ntrue\ntrue");
    let script = "struct inner { int x; struct { int y; }; union { int a; short b; }; };
        struct outer { char c; struct inner in[2]; void *p; struct outer *next; };
        union u { int a; long b; char c[9]; };
        struct __attribute__((packed)) p { char c; int i; };
        begin {
            print((sizeof(struct inner), sizeof(struct outer), sizeof(union u), sizeof(struct p)));
            print((offsetof(struct outer, in), offsetof(struct inner, b), offsetof(struct outer, next), offsetof(struct p, i)));
        }";
    assert_eq!(run(script), "(12, 48, 16, 5)\n(4, 8, 40, 1)");
}

#[test]
fn bitfields_of_the_script() {
    if !root() {
        return;
    }
    let script = "struct bits { unsigned int a:3; int b:5; unsigned int c:24; };
        begin {
            $n = (uint64)0x12345618 | 0xf0 ; $x = $n; $p = (struct bits *)&$x;
            print(($p->a, $p->b, $p->c)); print(*$p); print(sizeof(struct bits));
        }";
    // 0x123456f8: the low three bits are 0, the next five all set.
    assert_eq!(run(script), "(0, -1, 1193046)\n{ .a = 0, .b = -1, .c = 1193046 }\n4");
}

#[test]
fn enumerations_of_the_script() {
    if !root() {
        return;
    }
    let script = r#"#define BASE 4
        enum color { RED, GREEN = BASE + 1, BLUE, DARK = -1 };
        struct paint { enum color c; char name[4]; };
        begin {
            $c = (enum color)6; print($c); printf("%s %d %s\n", GREEN, BLUE, $c); @[$c, RED] = 1; print($c == BLUE);
            $n = (uint64)0x41424305; $n = $n | (uint64)0x42 << 32; $p = (struct paint *)&$n; print($p->c); print(sizeof(struct paint));
        }"#;
    let out = run(script);
    assert!(out.starts_with("BLUE\nGREEN 6 BLUE\ntrue\n"), "{out}");
    assert!(out.contains("@[BLUE, RED]: 1") && out.contains("\n8\n"), "{out}");
}

#[test]
fn whole_structs_are_printed_and_kept() {
    if !typed() {
        return;
    }
    let script = "struct point { int x; short y; char name[8]; };
        begin {
            $bytes = (1, 2); $a = (uint8[8])(uint64)0x0000fffe00000007; $p = (struct point *)&$a;
            $s = *$p; printf(\"%d %d\\n\", $s.x, $s.y); @s = *$p; print(@s.x);
        } end { printf(\"%d\\n\", @s.y); }";
    let out = run(script);
    assert!(out.starts_with("7 -2\n7\n-2\n@s: { .x = 7, .y = -2, .name = "), "{out}");
    // A struct of the kernel, printed and as JSON.
    let out = run("begin { print(curtask->tasks); $t = curtask->tasks; print($t.next == curtask->tasks.next); }");
    assert!(
        out.starts_with("{ .next = 0x") && out.contains(", .prev = 0x") && out.ends_with(" }\ntrue"),
        "{out}"
    );
    let out = json("begin { print(curtask->tasks); }");
    // Addresses are numbers there, and as text when a double cannot hold them.
    assert!(out.contains(r#""data": {"next": "18446"#), "{out}");
    // A nested one, with an array.
    // The counter in it changes from run to run.
    let out = run_one(
        "begin { print(*curtask->nsproxy); print(curtask->signal->rlim[3]); }",
        OutputFormat::Text,
        true,
        &[],
    );
    assert!(out.starts_with("{ .count = { .refs = { .counter = "), "{out}");
    assert!(out.contains("{ .rlim_cur = ") && out.contains(", .rlim_max = "), "{out}");
}

#[test]
fn arrays_and_integers_become_each_other() {
    if !root() {
        return;
    }
    prints(
        "$a = (uint8[8])(uint64)12345; print($a); print($a[0]); print($a[1]); @a = $a; @b[$a] = 1; $c = @a; print($c[1]);",
        "[57,48,0,0,0,0,0,0]\n57\n48\n48\n@a: [57,48,0,0,0,0,0,0]\n@b[[57,48,0,0,0,0,0,0]]: 1",
    );
    prints(
        "$a = (uint8[4])(uint32)0x04030201; print((uint32)$a == 0x04030201); print($a); print((uint16[2])$a); print((int8[])(int16)-2);",
        "true\n[1,2,3,4]\n[513,1027]\n[-2,-1]",
    );
    prints(
        "$a = (uint8[4])(uint32)1; $b = (uint8[4])(uint32)1; $c = (uint8[4])(uint32)2; printf(\"%d%d%d%d\", $a == $b, $a != $b, $a == $c, $a != $c); @m[1] = $a; print(@m[1] == $b);",
        "1001true\n@m[1]: [1,0,0,0]",
    );
    prints(
        "$i = 2; $a = (uint8[8])(uint64)0x0807060504030201; print($a[$i]); $s = \"abc\"; print($s[1]);",
        "3\n98",
    );
}

#[test]
fn addresses_of_variables_maps_and_members() {
    if !root() {
        return;
    }
    prints("$x = 5; $p = &$x; print(*$p); $x = 7; print(*$p);", "5\n7");
    prints(
        "@x = 5; $p = &@x; print(*$p); @m[1] = 6; $q = &@m[1]; print(*$q); print(&@m[2] == 0);",
        "5\n6\ntrue\n@m[1]: 6\n@x: 5",
    );
    prints(
        "$s = \"hello\"; $p = &$s; print(str($p, 3)); print(str($p + 1)); @t = \"text\"; print(str(&@t));",
        "hel\nello\ntext\n@t: text",
    );
    // In a program with loops, variables lie elsewhere.
    prints("$x = 1; $p = &$x; for ($i : 0..3) { $x += 2; } print(*$p);", "7");
    if typed() {
        prints(
            "$l = &curtask->tasks; $t = container_of($l, struct task_struct, tasks); print($t == curtask); print($t->tgid == pid);
             $c = container_of(&curtask->comm, struct task_struct, comm); print($c == curtask);",
            "true\ntrue\ntrue",
        );
    }
}

#[test]
fn pointers_count_in_their_targets() {
    if !root() {
        return;
    }
    prints(
        "$a = (uint32)1; $p = (int32 *)1000; $q = $p + 3; print((uint64)$q); print((uint64)($q - 1)); $r = (int32 **)1000; print((uint64)($r + 1)); print(sizeof($r)); print(sizeof(*$r)); print(sizeof(*$p));",
        "1012\n1008\n1008\n8\n8\n4",
    );
    prints(
        "$a = (uint16[4])(uint64)0x0004000300020001; $p = (uint16 *)&$a; print(($p[0], $p[3], *($p + 2)));",
        "(1, 4, 3)",
    );
}

#[test]
fn declared_variables_keep_their_width() {
    if !root() {
        return;
    }
    prints(
        "let $a: uint8 = 250; $a += 10; print($a); let $b: int8 = 127; $b++; print($b); let $c: bool = 7; print($c); print(sizeof($a)); let $d: int64; $d = -1; print($d);",
        "4\n-128\ntrue\n1\n-1",
    );
    prints(
        "let $s: string[8] = \"abc\"; print($s); print(sizeof($s)); print(sizeof(\"abc\"));",
        "abc\n8\n4",
    );
    prints(
        "let $x; $x = 5; print($x); let $y = 1; if (1) { let $y = 2; print($y); } print($y);",
        "5\n2\n1",
    );
    prints(
        "let $u: uint64 = 18446744073709551615; print($u); print((int64)$u); print(-9223372036854775808);",
        "18446744073709551615\n-1\n-9223372036854775808",
    );
}

#[test]
fn types_are_compared_while_compiling() {
    if !root() {
        return;
    }
    let script = r#"
        macro kind(x) {
            if comptime is_str(x) { printf("text "); } else if comptime is_integer(x) { printf("number "); } else if comptime is_ptr(x) { printf("pointer "); } else { fail("no kind"); }
        }
        begin {
            kind("a"); kind(5); kind(curtask);
            printf("%d%d%d%d%d%d", is_array((uint8[2])(uint16)1), is_array(5), is_unsigned_integer((uint8)5), is_unsigned_integer(-5), is_literal(5), is_literal(pid));
            $x = 5; printf(" %d%d%d", typeof($x) == typeof(int64), typeof($x) != typeof("a"), typeof(curtask) == typeof(curtask));
            static_assert(sizeof(uint32) == 4 && "a" != "b", "wrong");
            print((typeof(curtask))0 == 0);
        }"#;
    assert_eq!(run(script), "text number pointer 101010 111true");
}

#[test]
fn tuples_and_records_are_compared_and_nested() {
    if !root() {
        return;
    }
    prints(
        r#"printf("%d%d%d%d", (1, "a") == (1, "a"), (1, "a") != (1, "b"), (a=1, b="x") == (a=1, b="x"), (a=1, b=(c=2)) == (a=1, b=(c=3)));"#,
        "1110",
    );
    prints(
        r#"$a = (1, "x", (2, 3)); print($a.2.1); print($a[0]); @m[(a=1, b="k")] = (x=(1, 2), y=true); print(@m[(a=1, b="k")].x.1); print(());"#,
        "3\n1\n2\n()\n@m[{ .a = 1, .b = k }]: { .x = (1, 2), .y = true }",
    );
}

#[test]
fn defines_may_build_on_each_other() {
    if !root() {
        return;
    }
    let mut script = "#define D0 7\n".to_owned();
    for n in 1..60 {
        script += &format!("#define D{n} D{}\n", n - 1);
    }
    script += "#ifdef BPFTRACE_HAVE_BTF\n#define BTF 1\n#else\n#include <linux/nothing.h>\n#define BTF 0\n#endif\n";
    script += "begin { printf(\"%d %d %d\", D59, BTF, $1); }";
    assert_eq!(run_with(&script, &["-3"]), "7 1 -3");
}
