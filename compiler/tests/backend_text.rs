//! CLIF snippets, the LIR selected for them and the BPF that comes out, as text.

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{AbiParam, Function, InstBuilder, MemFlagsData, Signature, UserFuncName};
use cranelift_codegen::isa::CallConv;
use cranelift_reader::parse_functions;
use expect_test::{Expect, expect};
use weir_compiler::backend::{Backend, BackendError, Compiled, Input, Isa, MAX_INSNS, Options, RelocKind, compile, disassemble};

fn build(clif: &str, isa: Isa, optimise: bool) -> Result<Compiled, BackendError> {
    let func = parse_functions(clif).expect("the test's CLIF parses").remove(0);
    compile(Input {
        func,
        name: "test",
        consts: &[100, 0x1_0000_0001],
        opts: Options { isa, optimise },
    })
}

fn check(clif: &str, isa: Isa, expected: Expect) {
    let compiled = build(clif, isa, true).expect("the test's CLIF compiles");
    let bpf = disassemble(&compiled.insns, &compiled.relocs, &|kind| match kind {
        RelocKind::Map(i) => format!("map[{i}]"),
        RelocKind::Rodata(off) => format!("rodata+{off}"),
        RelocKind::Subprog(i) => format!("subprog{i}"),
        RelocKind::SubprogAddr(i) => format!("&subprog{i}"),
    });
    expected.assert_eq(&format!("{}{bpf}stack {}\n", compiled.lir_text(), compiled.stack_bytes));
}

#[test]
fn packet_bounds_check_and_fold() {
    check(
        "function u0:0(i64) -> i64 {
        block0(v0: i64):
            v1 = load.i32 notrap v0
            v2 = uextend.i64 v1
            v3 = load.i32 notrap v0+4
            v4 = uextend.i64 v3
            v5 = iconst.i64 34
            v6 = iadd v2, v5
            v7 = icmp ugt v6, v4
            brif v7, block1, block2
        block1:
            v8 = iconst.i64 2
            return v8
        block2:
            v9 = iconst.i64 14
            v10 = iadd v2, v9
            v11 = uload8.i64 notrap v10+9
            v12 = iconst.i64 6
            v13 = icmp eq v11, v12
            v14 = uextend.i64 v13
            v15 = iconst.i64 1
            v16 = iadd v14, v15
            return v16
        }",
        Isa::V3,
        expect![[r#"
            function test {
            b0:
              params v0
              v1 = load32 [v0+0]
              v2 = load32 [v0+4]
              v3 = add v1, 34
              if v3 > v2 goto b2 else b1
            b1:
              v4 = load8 [v1+23]
              v5 = 1
              v6 = if v4 == 6 then v5 else 0
              v7 = add v6, 1
              ret v7
            b2:
              v8 = 2
              ret v8
            }
               0: (61) r2 = *(u32 *)(r1 +0)
               1: (61) r4 = *(u32 *)(r1 +4)
               2: (bf) r6 = r2
               3: (07) r6 += 34
               4: (2d) if r6 > r4 goto pc+6
               5: (71) r9 = *(u8 *)(r2 +23)
               6: (b7) r0 = 1
               7: (15) if r9 == 0x6 goto pc+1
               8: (b7) r0 = 0
               9: (07) r0 += 1
              10: (95) exit
              11: (b7) r0 = 2
              12: (95) exit
            stack 0
        "#]],
    );
}

#[test]
fn map_lookup_and_atomic_add() {
    check(
        "function u0:0(i64) -> i64 {
            ss0 = explicit_slot 4, align = 4
            gv0 = symbol u1:3
            sig0 = (i64, i64) -> i64
            sig1 = (i64) -> i64
            fn0 = u0:1 sig0
            fn1 = u3:0 sig1
        block0(v0: i64):
            v1 = iconst.i32 0
            v2 = stack_addr.i64 ss0
            store v1, v2
            v3 = symbol_value.i64 gv0
            v4 = call fn0(v3, v2)
            brif v4, block1, block2
        block1:
            v5 = call fn1(v4)
            v6 = iconst.i64 1
            v7 = atomic_rmw.i64 add v5, v6
            jump block2
        block2:
            v8 = iconst.i64 2
            return v8
        }",
        Isa::V3,
        expect![[r#"
            function test {
              slot0 = r10-4
            b0:
              params v0
              store32 [slot0+0], 0
              v1 = map 3
              v2 = &slot0+0
              v3 = call helper 1(v1, v2)
              if v3 != 0 goto b2 else b1
            b1:
              goto b3
            b2:
              v4 = 1
              atomic Add [v3+0], v4
              goto b3
            b3:
              v5 = 2
              ret v5
            }
               0: (62) *(u32 *)(r10 -4) = 0
               1: (18) r1 = map[3]
               3: (bf) r2 = r10
               4: (07) r2 += -4
               5: (85) call bpf_map_lookup_elem#1
               6: (15) if r0 == 0x0 goto pc+2
               7: (b7) r1 = 1
               8: (db) lock *(u64 *)(r0 +0) += r1
               9: (b7) r0 = 2
              10: (95) exit
            stack 8
        "#]],
    );
}

#[test]
fn signed_arithmetic_v3() {
    check(
        SIGNED,
        Isa::V3,
        expect![[r#"
        function test {
        b0:
          params v0
          v1 = load64 [v0+0]
          v2 = load64 [v0+8]
          v3 = arsh v1, 63
          v4 = xor v1, v3
          v5 = sub v4, v3
          v6 = arsh v2, 63
          v7 = xor v2, v6
          v8 = sub v7, v6
          v9 = div v5, v8
          v10 = xor v3, v6
          v11 = xor v9, v10
          v12 = sub v11, v10
          v13 = load16 [v0+16]
          v14 = lsh v13, 48
          v15 = arsh v14, 48
          v16 = add v12, v15
          ret v16
        }
           0: (79) r0 = *(u64 *)(r1 +0)
           1: (79) r3 = *(u64 *)(r1 +8)
           2: (bf) r2 = r0
           3: (c7) r2 s>>= 63
           4: (af) r0 ^= r2
           5: (1f) r0 -= r2
           6: (bf) r4 = r3
           7: (c7) r4 s>>= 63
           8: (af) r3 ^= r4
           9: (1f) r3 -= r4
          10: (3f) r0 /= r3
          11: (af) r2 ^= r4
          12: (af) r0 ^= r2
          13: (1f) r0 -= r2
          14: (69) r1 = *(u16 *)(r1 +16)
          15: (67) r1 <<= 48
          16: (c7) r1 s>>= 48
          17: (0f) r0 += r1
          18: (95) exit
        stack 0
    "#]],
    );
}

#[test]
fn signed_arithmetic_v4() {
    check(
        SIGNED,
        Isa::V4,
        expect![[r#"
        function test {
        b0:
          params v0
          v1 = load64 [v0+0]
          v2 = load64 [v0+8]
          v3 = sdiv v1, v2
          v4 = loads16 [v0+16]
          v5 = add v3, v4
          ret v5
        }
           0: (79) r0 = *(u64 *)(r1 +0)
           1: (79) r4 = *(u64 *)(r1 +8)
           2: (3f) r0 s/= r4
           3: (89) r8 = *(s16 *)(r1 +16)
           4: (0f) r0 += r8
           5: (95) exit
        stack 0
    "#]],
    );
}

const SIGNED: &str = "function u0:0(i64) -> i64 {
    block0(v0: i64):
        v1 = load.i64 v0
        v2 = load.i64 v0+8
        v3 = sdiv v1, v2
        v4 = sload16.i64 v0+16
        v5 = iadd v3, v4
        return v5
    }";

#[test]
fn division_by_a_constant_stays_one() {
    check(
        "function u0:0(i64) -> i64 {
        block0(v0: i64):
            v1 = load.i64 v0
            v2 = iconst.i64 1000
            v3 = udiv v1, v2
            v4 = iconst.i64 60
            v5 = urem v3, v4
            return v5
        }",
        Isa::V3,
        expect![[r#"
            function test {
            b0:
              params v0
              v1 = load64 [v0+0]
              v2 = div v1, 1000
              v3 = mod v2, 60
              ret v3
            }
               0: (79) r0 = *(u64 *)(r1 +0)
               1: (37) r0 /= 1000
               2: (97) r0 %= 60
               3: (95) exit
            stack 0
        "#]],
    );
}

#[test]
fn minimum_and_select_keep_bounds() {
    check(
        "function u0:0(i64) -> i64 {
        block0(v0: i64):
            v1 = load.i32 v0
            v2 = iconst.i32 255
            v3 = umin v1, v2
            v4 = load.i32 v0+4
            v5 = iconst.i32 -5
            v6 = icmp sgt v4, v5
            v7 = select v6, v3, v4
            v8 = uextend.i64 v7
            return v8
        }",
        Isa::V3,
        expect![[r#"
            function test {
            b0:
              params v0
              v1 = load32 [v0+0]
              v2 = load32 [v0+4]
              v3 = if v1 <= 255 then v1 else 255
              v4 = if v2.w s> -5 then v3 else v2
              ret v4
            }
               0: (61) r0 = *(u32 *)(r1 +0)
               1: (61) r4 = *(u32 *)(r1 +4)
               2: (b5) if r0 <= 0xff goto pc+1
               3: (b7) r0 = 255
               4: (66) if w4 s> 0xfffffffb goto pc+1
               5: (bf) r0 = r4
               6: (95) exit
            stack 0
        "#]],
    );
}

#[test]
fn constants_of_every_size() {
    check(
        "function u0:0(i64) -> i64 {
            ss0 = explicit_slot 32, align = 8
            sig0 = () -> i64
            fn0 = u2:0 sig0
            fn1 = u2:1 sig0
        block0(v0: i64):
            v1 = stack_addr.i64 ss0
            v2 = iconst.i64 -1
            store v2, v1
            v3 = iconst.i64 0xffff_ffff
            store v3, v1+8
            v4 = iconst.i64 0x1234_5678_9abc_def0
            store v4, v1+16
            v5 = call fn0()
            store v5, v1+24
            v6 = call fn1()
            return v6
        }",
        Isa::V3,
        expect![[r#"
            function test {
              slot0 = r10-32
            b0:
              params v0
              store64 [slot0+0], -1
              v1 = 4294967295
              store64 [slot0+8], v1
              v2 = 1311768467463790320
              store64 [slot0+16], v2
              store64 [slot0+24], 100
              v3 = 4294967297
              ret v3
            }
               0: (7a) *(u64 *)(r10 -32) = -1
               1: (b4) w3 = -1
               2: (7b) *(u64 *)(r10 -24) = r3
               3: (18) r6 = 0x123456789abcdef0
               5: (7b) *(u64 *)(r10 -16) = r6
               6: (7a) *(u64 *)(r10 -8) = 100
               7: (18) r0 = 0x100000001
               9: (95) exit
            stack 32
        "#]],
    );
}

#[test]
fn loop_with_a_counter() {
    check(
        "function u0:0(i64) -> i64 {
        block0(v0: i64):
            v1 = iconst.i64 0
            jump block1(v1, v1)
        block1(v2: i64, v3: i64):
            v4 = load.i64 v0+8
            v5 = iadd v3, v4
            v6 = iconst.i64 1
            v7 = iadd v2, v6
            v8 = iconst.i64 10
            v9 = icmp ult v7, v8
            brif v9, block1(v7, v5), block2
        block2:
            return v5
        }",
        Isa::V3,
        expect![[r#"
            function test {
            b0:
              params v0
              v1 = 0
              v2 = 0
              goto b1(v1, v2)
            b1(v3, v4):
              v5 = load64 [v0+8]
              v6 = add v3, 1
              v7 = add v4, v5
              if v6 < 10 goto b2 else b3
            b2:
              goto b1(v6, v7)
            b3:
              ret v7
            }
               0: (b7) r7 = 0
               1: (b7) r0 = 0
               2: (79) r9 = *(u64 *)(r1 +8)
               3: (07) r7 += 1
               4: (0f) r0 += r9
               5: (a5) if r7 < 0xa goto pc-4
               6: (95) exit
            stack 0
        "#]],
    );
}

#[test]
fn subprogram_callback_and_rodata() {
    check(
        "function u0:0(i64) -> i64 {
            gv0 = symbol u6:0+24
            sig0 = (i64, i64) -> i64
            sig1 = (i64, i64, i64, i64) -> i64
            fn0 = u4:2 sig0
            fn1 = u5:1 sig0
            fn2 = u0:181 sig1
        block0(v0: i64):
            v1 = symbol_value.i64 gv0
            v2 = call fn0(v0, v1)
            v3 = func_addr.i64 fn1
            v4 = iconst.i64 8
            v5 = iconst.i64 0
            v6 = call fn2(v4, v3, v2, v5)
            return v6
        }",
        Isa::V3,
        expect![[r#"
            function test {
            b0:
              params v0
              v1 = rodata+24
              v2 = call subprog 2(v0, v1)
              v3 = 8
              v4 = &subprog 1
              v5 = 0
              v6 = call helper 181(v3, v4, v2, v5)
              ret v6
            }
               0: (18) r2 = rodata+24
               2: (85) call subprog2
               3: (b7) r1 = 8
               4: (18) r2 = &subprog1
               6: (b7) r4 = 0
               7: (bf) r3 = r0
               8: (85) call bpf_loop#181
               9: (95) exit
            stack 0
        "#]],
    );
}

#[test]
fn compare_and_exchange() {
    check(
        "function u0:0(i64) -> i64 {
        block0(v0: i64):
            v1 = load.i64 v0
            v2 = iconst.i32 7
            v3 = iconst.i32 9
            v4 = atomic_cas v1, v2, v3
            v5 = atomic_rmw.i32 xchg v1, v4
            v6 = uextend.i64 v5
            return v6
        }",
        Isa::V3,
        expect![[r#"
            function test {
            b0:
              params v0
              v1 = load64 [v0+0]
              v2 = 7
              v3 = 9
              v4 = cmpxchg.w [v1+0], v2, v3
              v5 = atomic Xchg.w [v1+0], v4
              ret v5
            }
               0: (79) r2 = *(u64 *)(r1 +0)
               1: (b7) r0 = 7
               2: (b7) r6 = 9
               3: (c3) w0 = atomic_cmpxchg((u32 *)(r2 +0), w0, w6)
               4: (c3) w0 = atomic_xchg((u32 *)(r2 +0), w0)
               5: (95) exit
            stack 0
        "#]],
    );
}

#[test]
fn bit_tests_need_no_mask_register() {
    check(
        "function u0:0(i64) -> i64 {
        block0(v0: i64):
            v1 = load.i32 v0
            v2 = iconst.i32 16
            v3 = band v1, v2
            v4 = iconst.i32 0
            v5 = icmp eq v3, v4
            brif v5, block1, block2
        block1:
            v6 = iconst.i64 1
            return v6
        block2:
            v7 = iconst.i64 2
            return v7
        }",
        Isa::V3,
        expect![[r#"
            function test {
            b0:
              params v0
              v1 = load32 [v0+0]
              if v1 !& 16 goto b2 else b1
            b1:
              v2 = 2
              ret v2
            b2:
              v3 = 1
              ret v3
            }
               0: (61) r2 = *(u32 *)(r1 +0)
               1: (45) if r2 & 0x10 goto pc+1
               2: (05) goto pc+2
               3: (b7) r0 = 2
               4: (95) exit
               5: (b7) r0 = 1
               6: (95) exit
            stack 0
        "#]],
    );
}

/// What the front end must never emit is a typed error, not a panic.
#[test]
fn unknown_operations_are_refused() {
    for (clif, part) in [
        ("function u0:0(i64) -> i64 { block0(v0: i64): v1 = bitrev v0 return v1 }", "bitrev"),
        ("function u0:0(i64) -> i64 { block0(v0: i64): trap user1 }", "trap"),
        (
            "function u0:0(i64) -> i64 { block0(v0: i64): v1 = fcvt_from_sint.f64 v0 v2 = bitcast.i64 v1 return v2 }",
            "f64",
        ),
        (
            "function u0:0(i64) -> i64 { sig0 = () -> i64 fn0 = u2:9 sig0 block0(v0: i64): v1 = call fn0() return v1 }",
            "call",
        ),
        (
            "function u0:0(i64) -> i64 { sig0 = () -> i64 fn0 = u77:9 sig0 block0(v0: i64): v1 = call fn0() return v1 }",
            "call",
        ),
        (
            "function u0:0(i64) -> i64 { block0(v0: i64): v1 = load.i8 v0 v2 = atomic_rmw.i8 add v0, v1 return v0 }",
            "atomic_rmw",
        ),
        (
            "function u0:0(i64) -> i64 { block0(v0: i64): v1 = load.i32 big v0 v2 = uextend.i64 v1 return v2 }",
            "load",
        ),
        (
            "function u0:0(i32) -> i64 { block0(v0: i32): v1 = uextend.i64 v0 return v1 }",
            "signature",
        ),
    ] {
        match build(clif, Isa::V4, false) {
            Err(BackendError::Unsupported { function, inst }) => {
                assert_eq!(function, "test");
                assert!(inst.contains(part), "{inst}");
            }
            other => panic!("{clif}: {other:?}"),
        }
    }
}

#[test]
fn broken_clif_is_reported() {
    let clif = "function u0:0(i64) -> i64 { block0(v0: i64): v1 = iconst.i32 1 return v1 }";
    assert!(matches!(
        build(clif, Isa::V3, true),
        Err(BackendError::Verifier { stage: "input", .. })
    ));
}

#[test]
fn a_frame_over_512_bytes_is_an_error() {
    let clif = "function u0:0(i64) -> i64 {
            ss0 = explicit_slot 520, align = 8
        block0(v0: i64):
            v1 = stack_addr.i64 ss0
            store v0, v1
            return v0
        }";
    match build(clif, Isa::V3, true) {
        Err(e @ BackendError::StackTooLarge { bytes: 520, .. }) => {
            assert_eq!(e.to_string(), "function `test` needs 520 bytes of stack, the kernel allows 512");
        }
        other => panic!("{other:?}"),
    }
    // A slot that nobody uses takes no room.
    let unused = clif.replace("v1 = stack_addr.i64 ss0\n            store v0, v1", "");
    assert_eq!(build(&unused, Isa::V3, true).expect("it fits").stack_bytes, 0);
}

/// A jump over more than 32767 instructions: an error on V3, `gotol` on V4.
#[test]
fn long_jumps() {
    let mut clif = String::from("function u0:0(i64) -> i64 { block0(v0: i64): v1 = load.i64 v0 brif v1, block1, block2\nblock1:\n");
    for i in 0..33_000 {
        clif.push_str(&format!("istore8 v1, v0+{}\n", i % 100));
    }
    clif.push_str("jump block2\nblock2:\nreturn v1 }");
    match build(&clif, Isa::V3, false) {
        Err(BackendError::BranchOutOfRange { distance: 33_000, .. }) => {}
        Err(e) => panic!("{e}"),
        Ok(c) => panic!("{}", disassemble(&c.insns[..9], &[], &|_| String::new())),
    }
    let compiled = build(&clif, Isa::V4, false).expect("V4 has long jumps");
    let text = disassemble(&compiled.insns, &[], &|_| String::new());
    let head: Vec<&str> = text.lines().take(4).collect();
    assert!(head[1].contains("if r"), "{head:?}");
    assert_eq!(head[2].trim(), "2: (05) goto pc+1");
    assert_eq!(head[3].trim(), "3: (06) gotol pc+33000");
}

#[test]
fn source_locations_come_out() {
    let clif = "function u0:0(i64) -> i64 {
        block0(v0: i64):
        @0007   v1 = load.i64 v0
        @0008   store v1, v0+8
        @0008   store v1, v0+16
        @0009   return v1
        }";
    let compiled = build(clif, Isa::V3, false).expect("it compiles");
    assert_eq!(compiled.lines, vec![(0, 7), (1, 8), (3, 9)]);
    // The kernel refuses a function without a line for its first instruction.
    let late = clif.replace("@0007   v1", "v1");
    assert_eq!(build(&late, Isa::V3, false).expect("it compiles").lines, vec![(0, 8), (3, 9)]);
}

#[test]
fn cold_blocks_go_to_the_end() {
    check(
        "function u0:0(i64) -> i64 {
            sig0 = () -> i64
            fn0 = u0:5 sig0
        block0(v0: i64):
            v1 = load.i64 v0
            brif v1, block2, block1
        block1 cold:
            v2 = call fn0()
            jump block3(v2)
        block2:
            v3 = load.i64 v0+8
            jump block3(v3)
        block3(v4: i64):
            return v4
        }",
        Isa::V3,
        expect![[r#"
            function test {
            b0:
              params v0
              v1 = load64 [v0+0]
              if v1 != 0 goto b1 else b2
            b1:
              v2 = load64 [v0+8]
              goto b3(v2)
            b2 cold:
              v3 = call helper 5()
              goto b3(v3)
            b3(v4):
              ret v4
            }
               0: (79) r2 = *(u64 *)(r1 +0)
               1: (15) if r2 == 0x0 goto pc+2
               2: (79) r0 = *(u64 *)(r1 +8)
               3: (95) exit
               4: (85) call bpf_ktime_get_ns#5
               5: (05) goto pc-3
            stack 0
        "#]],
    );
}

/// The way out of a loop is behind its body, whichever arm of the branch it is.
#[test]
fn loops_stay_together() {
    check(
        "function u0:0(i64) -> i64 {
        block0(v0: i64):
            v1 = iconst.i64 0
            jump block1(v1)
        block1(v2: i64):
            v3 = iconst.i64 10
            v4 = icmp ult v2, v3
            brif v4, block2, block3
        block2:
            v5 = iadd v0, v2
            v6 = iconst.i8 1
            store v6, v5
            v7 = iconst.i64 1
            v8 = iadd v2, v7
            jump block1(v8)
        block3:
            return v1
        }",
        Isa::V3,
        expect![[r#"
            function test {
            b0:
              params v0
              v1 = 0
              goto b1(v1)
            b1(v2):
              if v2 < 10 goto b2 else b3
            b2:
              v3 = add v0, v2
              v4 = 1
              store8 [v3+0], v4
              v5 = add v2, 1
              goto b1(v5)
            b3:
              v6 = 0
              ret v6
            }
               0: (b7) r6 = 0
               1: (35) if r6 >= 0xa goto pc+6
               2: (bf) r7 = r1
               3: (0f) r7 += r6
               4: (b7) r9 = 1
               5: (73) *(u8 *)(r7 +0) = r9
               6: (07) r6 += 1
               7: (05) goto pc-7
               8: (b7) r0 = 0
               9: (95) exit
            stack 0
        "#]],
    );
}

/// One working memory for all, as the pipeline has it: nothing of one function shows in the next, not even after an error.
#[test]
fn functions_compiled_one_after_the_other_are_as_if_alone() {
    let loops = "function u0:0(i64) -> i64 {
        block0(v0: i64):
            v1 = iconst.i64 0
            jump block1(v1)
        block1(v2: i64):
            v5 = iconst.i64 3
            v3 = iadd v2, v5
            v4 = icmp ult v3, v0
            brif v4, block1(v3), block2
        block2:
            return v3
        }";
    let arms = "function u0:0(i64) -> i64 {
        block0(v0: i64):
            v1 = load.i64 notrap v0
            v2 = load.i64 notrap v0+8
            brif v1, block1, block2
        block1:
            v3 = imul v2, v2
            return v3
        block2:
            v4 = udiv v1, v2
            return v4
        }";
    let broken = "function u0:0(i64) -> i64 { block0(v0: i64): v1 = iconst.i32 1 return v1 }";
    let input = |clif: &str| Input {
        func: parse_functions(clif).expect("the test's CLIF parses").remove(0),
        name: "test",
        consts: &[],
        opts: Options {
            isa: Isa::V4,
            optimise: true,
        },
    };
    let mut backend = Backend::default();
    for clif in [loops, arms, loops, broken, arms, loops] {
        match (backend.compile(input(clif)), compile(input(clif))) {
            (Ok(together), Ok(alone)) => {
                assert_eq!(together.insns, alone.insns, "{clif}");
                assert_eq!(together.clif_text(), alone.clif_text());
                assert_eq!(together.lir_text(), alone.lir_text());
                assert_eq!(together.lines, alone.lines);
            }
            (Err(together), Err(alone)) => assert_eq!(together.to_string(), alone.to_string()),
            (together, alone) => panic!("{clif}: {together:?} and {alone:?}"),
        }
    }
}

/// Refused before the passes that would take minutes for it.
#[test]
fn a_program_that_no_kernel_takes_is_refused() {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.push(AbiParam::new(I64));
    signature.returns.push(AbiParam::new(I64));
    let mut func = Function::with_name_signature(UserFuncName::default(), signature);
    let block = func.dfg.make_block();
    func.layout.append_block(block);
    let ctx = func.dfg.append_block_param(block, I64);
    let mut at = FuncCursor::new(&mut func).at_bottom(block);
    for _ in 0..=MAX_INSNS {
        at.ins().store(MemFlagsData::new(), ctx, ctx, 0);
    }
    at.ins().return_(&[ctx]);
    let input = Input {
        func,
        name: "test",
        consts: &[],
        opts: Options {
            isa: Isa::V4,
            optimise: false,
        },
    };
    let error = compile(input).expect_err("no kernel takes so many instructions");
    assert!(matches!(error, BackendError::TooLong { .. }), "{error}");
}
