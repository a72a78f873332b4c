//! Calls between BPF functions, in the kernel and on x86-64.

mod backend;

use backend::{BPF_PROG_TYPE_XDP, levels, load, permitted, run};
use cranelift_reader::parse_functions;
use weir_compiler::backend::{Compiled, Input, Insn, Isa, Options, RelocKind, compile, x86};

/// `mix(seven, data byte 3, ctx) + 1`, with a value that lives over the call.
const MAIN: &str = "function u0:0(i64) -> i64 system_v {
        sig0 = (i64, i64, i64, i64, i64) -> i64 system_v
        fn0 = u4:1 sig0
    block0(v0: i64):
        v1 = load.i32 notrap v0
        v2 = uextend.i64 v1
        v3 = load.i32 notrap v0+4
        v4 = uextend.i64 v3
        v5 = iconst.i64 14
        v6 = iadd v2, v5
        v7 = icmp ugt v6, v4
        brif v7, block1, block2
    block1:
        v8 = iconst.i64 0
        return v8
    block2:
        v9 = uload8.i64 notrap v2+3
        v10 = iconst.i64 7
        v11 = call fn0(v10, v9, v9, v9, v9)
        v12 = iadd v11, v9
        return v12
    }";

const MIX: &str = "function u0:1(i64, i64, i64, i64, i64) -> i64 system_v {
    block0(v0: i64, v1: i64, v2: i64, v3: i64, v4: i64):
        v5 = imul v0, v1
        v6 = iadd v5, v2
        v7 = iadd v6, v3
        v8 = iadd v7, v4
        return v8
    }";

fn built(clif: &str, isa: Isa) -> Compiled {
    let func = parse_functions(clif).expect("the test's CLIF parses").remove(0);
    let opts = Options { isa, optimise: true };
    compile(Input {
        func,
        name: "test",
        consts: &[],
        opts,
    })
    .expect("the test's CLIF compiles")
}

/// Puts the functions behind each other and connects the calls, as a linker does.
fn link(functions: &[Compiled]) -> Vec<Insn> {
    let mut starts = Vec::new();
    let mut insns: Vec<Insn> = Vec::new();
    for function in functions {
        starts.push(insns.len());
        insns.extend(&function.insns);
    }
    for (function, start) in functions.iter().zip(&starts) {
        for reloc in &function.relocs {
            let RelocKind::Subprog(callee) = reloc.kind else {
                panic!("only calls here")
            };
            let at = start + reloc.insn as usize;
            assert_eq!((insns[at].src(), insns[at].imm), (1, -1), "what the linker expects of a call");
            insns[at].imm = starts[callee as usize] as i32 - (at as i32 + 1);
        }
    }
    insns
}

fn packet() -> Vec<u8> {
    (10..74).collect()
}

/// Byte 3 of the packet is 13.
const EXPECTED: u32 = 7 * 13 + 4 * 13;

#[test]
fn call_in_the_kernel() {
    if !permitted() {
        return;
    }
    for &isa in levels() {
        let insns = link(&[built(MAIN, isa), built(MIX, isa)]);
        let program = load(BPF_PROG_TYPE_XDP, &insns).unwrap_or_else(|(e, log)| panic!("{e}\n{log}"));
        assert_eq!(run(&program, &packet()).expect("it runs").0, EXPECTED);
    }
}

#[test]
fn call_on_x86() {
    let parse = |clif: &str| parse_functions(clif).expect("the test's CLIF parses").remove(0);
    let mix = x86::compile(&parse(MIX), &[], &|_| None).expect("it compiles");
    let main = x86::compile(&parse(MAIN), &[], &|symbol| {
        (symbol == x86::Symbol::Subprog(1)).then(|| mix.address())
    })
    .expect("it compiles");
    // Too short a packet: the program must not touch it.
    let context: [u32; 2] = [64, 70];
    // SAFETY: the program reads the two fields of the context and, as the packet is too short, nothing else.
    assert_eq!(unsafe { main.call(context.as_ptr() as u64) }, 0);
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let memory = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    assert_ne!(memory, libc::MAP_FAILED, "no memory below 4 GiB");
    let packet = packet();
    let context = [memory as u32, memory as u32 + packet.len() as u32];
    // SAFETY: the mapping is larger than the packet; the program reads inside both.
    let result = unsafe {
        std::ptr::copy_nonoverlapping(packet.as_ptr(), memory.cast(), packet.len());
        main.call(context.as_ptr() as u64)
    };
    assert_eq!(result, i64::from(EXPECTED));
}

/// A symbol that the caller does not know is an error, not a jump into nothing.
#[test]
fn unresolved_on_x86() {
    let func = parse_functions(MAIN).expect("the test's CLIF parses").remove(0);
    match x86::compile(&func, &[], &|_| None) {
        Err(x86::NativeError::Unresolved(x86::Symbol::Subprog(1))) => {}
        other => panic!("{other:?}"),
    }
}
