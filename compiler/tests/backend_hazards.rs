//! What the kernel verifier does not forgive in optimised code: each hazard once as it bites, once with its cure.
//!
//! The programs are XDP and go through a real `BPF_PROG_LOAD`. Where a program "bites", the verifier's reason is part of
//! the test: if a kernel learns to accept it, the test says so and the cure can go.

mod backend;

use backend::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_PROG_TYPE_XDP, levels, link, load, map, map_get, map_set, permitted, run};
use cranelift_reader::parse_functions;
use std::os::fd::OwnedFd;
use weir_compiler::backend::{Input, Isa, Options, compile, disassemble};

/// Bytes of the values of map 0.
const VALUE_BYTES: u32 = 64;

struct Kernel {
    /// Map 0, a hash map: what a lookup in an array finds under a constant key is never null for Linux 6.15 and later.
    map: OwnedFd,
    /// `.rodata`.
    rodata: OwnedFd,
}

impl Kernel {
    /// `None` if this process may not use `bpf()`; that was said on stdout.
    fn new() -> Option<Self> {
        permitted().then(|| {
            let hash = map(BPF_MAP_TYPE_HASH, VALUE_BYTES, 1).expect("a hash map with values of 64 bytes");
            map_set(&hash, 0, &[0; VALUE_BYTES as usize]).expect("room for one element");
            Self {
                map: hash,
                rodata: map(BPF_MAP_TYPE_ARRAY, VALUE_BYTES, 1).expect("an array map with values of 64 bytes"),
            }
        })
    }

    fn try_load(&self, clif: &str, isa: Isa, optimise: bool) -> Result<OwnedFd, String> {
        let func = parse_functions(clif).expect("the test's CLIF parses").remove(0);
        let compiled = compile(Input {
            func,
            name: "test",
            consts: &[1000],
            opts: Options { isa, optimise },
        })
        .expect("the test's CLIF compiles");
        let insns = link(&compiled, &[&self.map], Some(&self.rodata));
        load(BPF_PROG_TYPE_XDP, &insns).map_err(|(e, log)| {
            let bpf = disassemble(&compiled.insns, &compiled.relocs, &|kind| format!("{kind:?}"));
            format!("{e}\n{}\n{bpf}\n{log}", compiled.clif_text())
        })
    }

    /// Loads at every level; returns the program of the last.
    fn accepts(&self, clif: &str) -> OwnedFd {
        let mut last = None;
        for &isa in levels() {
            match self.try_load(clif, isa, true) {
                Ok(program) => last = Some(program),
                Err(log) => panic!("{isa:?}: the kernel refuses:\n{log}"),
            }
        }
        last.expect("at least one level")
    }

    fn refuses(&self, clif: &str, optimise: bool, reason: &str) {
        match self.try_load(clif, Isa::V3, optimise) {
            Ok(_) => panic!("the kernel accepts what it used to refuse (`{reason}`): the cure may be unnecessary"),
            Err(log) => assert!(log.contains(reason), "refused, but not because of `{reason}`:\n{log}"),
        }
    }
}

fn packet() -> Vec<u8> {
    (0..64).collect()
}

/// Declarations and the first blocks of a program: `v0` context, `v2` data, `v4` data_end, `v9` pointer to the value of
/// map 0 that may be null.
fn lookup(rest: &str) -> String {
    format!(
        "function u0:0(i64) -> i64 {{
            ss0 = explicit_slot 4, align = 4
            gv0 = symbol u1:0
            sig0 = (i64, i64) -> i64
            sig1 = (i64) -> i64
            sig2 = () -> i64
            fn0 = u0:1 sig0
            fn1 = u3:0 sig1
            fn2 = u0:5 sig2
            fn3 = u0:44 sig0
        block0(v0: i64):
            v1 = load.i32 notrap v0
            v2 = uextend.i64 v1
            v3 = load.i32 notrap v0+4
            v4 = uextend.i64 v3
            v5 = iconst.i32 0
            v6 = stack_addr.i64 ss0
            store notrap v5, v6
            v7 = symbol_value.i64 gv0
            v9 = call fn0(v7, v6)
            {rest}
        block99:
            v99 = iconst.i64 2
            return v99
        }}"
    )
}

/// A bound learnt on one copy of a value is not known of another.
#[test]
fn bound_on_a_recomputed_value() {
    let Some(kernel) = Kernel::new() else { return };
    // What the e-graph makes of `y = x & 255; if y < 56 { p[y] = 1 }`: `y` once more in the block that uses it.
    let clif = lookup(
        "brif v9, block1, block99
        block1:
            v10 = call fn2()
            v11 = iconst.i64 255
            v12 = band v10, v11
            v13 = iconst.i64 56
            v14 = icmp ult v12, v13
            brif v14, block2, block99
        block2:
            v15 = iconst.i64 255
            v16 = band v10, v15
            v17 = iadd v9, v16
            v18 = iconst.i8 1
            store notrap v18, v17
            jump block99",
    );
    kernel.refuses(&clif, false, "invalid access to map value");
    // The optimiser itself produces that, and merges the copies again.
    kernel.accepts(&clif);
}

/// A pure addition is lifted out of a loop, over the null check of its pointer.
#[test]
fn arithmetic_on_a_pointer_that_may_be_null() {
    let Some(kernel) = Kernel::new() else { return };
    let program = |pointer: &str, pin: &str| {
        lookup(&format!(
            "v10 = call fn2()
            v12 = iconst.i64 31
            v11 = band v10, v12
            v20 = iconst.i64 0
            jump block1(v20)
        block1(v21: i64):
            v22 = iconst.i64 5
            v23 = icmp ult v21, v22
            brif v23, block2, block99
        block2:
            brif v9, block3, block99
        block3:
            {pin}
            v27 = iadd {pointer}, v11
            v28 = iadd v27, v21
            v29 = load.i8 notrap v28
            v30 = iconst.i8 1
            v31 = iadd v29, v30
            store notrap v31, v28
            v32 = iconst.i64 1
            v33 = iadd v21, v32
            jump block1(v33)"
        ))
    };
    kernel.refuses(&program("v9", ""), true, "pointer arithmetic on map_value_or_null prohibited");
    let loaded = kernel.accepts(&program("v24", "v24 = call fn1(v9)"));
    assert_eq!(run(&loaded, &packet()).expect("it runs").0, 2);
    let mut value = [0; VALUE_BYTES as usize];
    map_get(&kernel.map, 0, &mut value).expect("element 0 exists");
    assert_eq!(
        value.iter().map(|b| u32::from(*b)).sum::<u32>(),
        5,
        "five neighbours were counted up"
    );
}

/// A load that may move goes to its use, behind a store to the same place. (In the recipe's trial it also went before its
/// check.) Such flags are for memory that no program writes.
#[test]
fn load_that_may_move() {
    let Some(kernel) = Kernel::new() else { return };
    let old_value = |flags: &str| {
        let program = kernel.accepts(&lookup(&format!(
            "brif v9, block1, block99
        block1:
            v20 = load.i64 {flags} v9+24
            v21 = iconst.i64 77
            store notrap v21, v9+24
            return v20"
        )));
        map_set(&kernel.map, 0, &[5; VALUE_BYTES as usize]).expect("element 0 exists");
        run(&program, &packet()).expect("it runs").0
    };
    assert_eq!(old_value("notrap readonly can_move"), 77, "the load no longer moves");
    assert_eq!(old_value("notrap"), 0x0505_0505);
}

/// A helper that changes the packet makes every pointer into it invalid.
#[test]
fn packet_pointers_after_a_helper_that_moves_the_packet() {
    let Some(kernel) = Kernel::new() else { return };
    let program = |flags: &str| {
        lookup(&format!(
            "v20 = load.i32 {flags} v0
            v21 = uextend.i64 v20
            v22 = load.i32 {flags} v0+4
            v23 = uextend.i64 v22
            v24 = iconst.i64 34
            v25 = iadd v21, v24
            v26 = icmp ugt v25, v23
            brif v26, block99, block1
        block1:
            v27 = load.i8 notrap v21+23
            v28 = uextend.i64 v27
            v29 = band v28, v24
            v30 = call fn3(v0, v29)
            v31 = load.i32 {flags} v0
            v32 = uextend.i64 v31
            v33 = load.i32 {flags} v0+4
            v34 = uextend.i64 v33
            v35 = iconst.i64 14
            v36 = iadd v32, v35
            v37 = icmp ugt v36, v34
            brif v37, block99, block2
        block2:
            v38 = uload8.i64 notrap v32+13
            return v38"
        ))
    };
    kernel.refuses(&program("notrap readonly can_move"), true, "invalid mem access 'scalar'");
    kernel.accepts(&program("notrap"));
}

/// A second load of `ctx->data` is another pointer, of which no range is known.
#[test]
fn data_is_loaded_once() {
    let Some(kernel) = Kernel::new() else { return };
    let program = |again: &str, pointer: &str| {
        lookup(&format!(
            "v24 = iconst.i64 34
            v25 = iadd v2, v24
            v26 = icmp ugt v25, v4
            brif v26, block99, block1
        block1:
            v27 = call fn2()
            {again}
            v28 = uload8.i64 notrap {pointer}+23
            return v28"
        ))
    };
    kernel.refuses(&program("v30 = uload32.i64 notrap v0", "v30"), true, "invalid access to packet");
    kernel.refuses(
        &program("v31 = load.i32 notrap v0 v30 = uextend.i64 v31", "v30"),
        true,
        "invalid access to packet",
    );
    kernel.accepts(&program("", "v2"));
}

/// `uload32` of `ctx->data` is as good as `load.i32` and `uextend`: both are one 32-bit load.
#[test]
fn either_way_to_load_data() {
    let Some(kernel) = Kernel::new() else { return };
    let loaded = kernel.accepts(&lookup(
        "v20 = call fn2()
            v21 = uload32.i64 notrap v0
            v22 = uload32.i64 notrap v0+4
            v24 = iconst.i64 34
            v25 = iadd v21, v24
            v26 = icmp ugt v25, v22
            brif v26, block99, block1
        block1:
            v28 = uload8.i64 notrap v21+23
            return v28",
    ));
    assert_eq!(run(&loaded, &packet()).expect("it runs").0, 23);
}

/// The verifier learns from `data + n > data_end`, not from the difference.
#[test]
fn difference_of_packet_pointers() {
    let Some(kernel) = Kernel::new() else { return };
    let program = |check: &str| {
        lookup(&format!(
            "v24 = iconst.i64 34
            {check}
            brif v26, block99, block1
        block1:
            v28 = uload8.i64 notrap v2+23
            return v28"
        ))
    };
    kernel.refuses(
        &program("v25 = isub v4, v2 v26 = icmp ult v25, v24"),
        true,
        "invalid access to packet",
    );
    kernel.accepts(&program("v25 = iadd v2, v24 v26 = icmp ugt v25, v4"));
}

/// Bounds survive `umin`, `select` and a comparison of halves.
#[test]
fn bounds_through_minimum_and_select() {
    let Some(kernel) = Kernel::new() else { return };
    for bound in [
        "v40 = iconst.i64 63 v41 = umin v10, v40",
        "v40 = iconst.i64 63 v42 = icmp ult v10, v40 v41 = select v42, v10, v40",
        "v40 = iconst.i64 63 v42 = icmp ugt v10, v40 v41 = select v42, v40, v10",
        "v40 = iconst.i32 63 v42 = ireduce.i32 v10 v43 = umin v42, v40 v41 = uextend.i64 v43",
        "v40 = iconst.i64 64 v41 = urem v10, v40",
        "v40 = iconst.i64 58 v41 = ushr v10, v40",
        "v42 = ireduce.i8 v10 v40 = iconst.i8 2 v43 = ushr v42, v40 v41 = uextend.i64 v43",
    ] {
        kernel.accepts(&lookup(&format!(
            "brif v9, block1, block99
        block1:
            v8 = call fn1(v9)
            v10 = call fn2()
            {bound}
            v12 = iadd v8, v41
            v13 = iconst.i8 1
            store notrap v13, v12
            jump block99"
        )));
    }
}

/// A pointer that does not fit in registers over a call is spilled and comes back as a pointer.
#[test]
fn spilled_pointers() {
    let Some(kernel) = Kernel::new() else { return };
    let mut body = String::from("brif v9, block1, block99\nblock1:\n v8 = call fn1(v9)\n");
    // Twelve values live over a call.
    for i in 0..12 {
        body.push_str(&format!("v{} = load.i64 notrap v8+{}\n", 100 + i, i * 4));
    }
    body.push_str("v50 = call fn2()\n");
    for i in 0..12 {
        body.push_str(&format!("store notrap v{}, v8+{}\n", 100 + i, 48 - i * 4));
    }
    body.push_str("store notrap v50, v8+56\n v51 = load.i32 notrap v0 v52 = uextend.i64 v51 return v52");
    kernel.accepts(&lookup(&body));
}

/// A stack slot is initialised before a helper reads it, also when its store is a constant.
#[test]
fn read_only_data_and_opaque_constants() {
    let Some(kernel) = Kernel::new() else { return };
    let clif = "function u0:0(i64) -> i64 {
            gv0 = symbol u6:0+6
            sig0 = () -> i64
            fn0 = u2:0 sig0
        block0(v0: i64):
            v1 = symbol_value.i64 gv0
            v2 = uload8.i64 notrap v1+1
            v3 = call fn0()
            v4 = iadd v2, v3
            return v4
        }";
    let mut value = [0; VALUE_BYTES as usize];
    value[7] = 34;
    map_set(&kernel.rodata, 0, &value).expect("element 0 exists");
    let loaded = kernel.accepts(clif);
    assert_eq!(run(&loaded, &packet()).expect("it runs").0, 1034);
}
