//! Random CLIF, compiled for BPF and run by the kernel, against the same CLIF compiled for x86-64 by Cranelift.
//!
//! A program reads its inputs from a packet, computes with every operation that the back end accepts, and writes all its
//! variables back: packet and return value must be equal. Each program is compiled four times (V3 and V4, with and
//! without the mid-end). Seeds are fixed; `WEIR_DIFF_SEED` and `WEIR_DIFF_COUNT` run others.

mod backend;
#[path = "differential/generate.rs"]
mod generate;

use backend::{BPF_PROG_TYPE_XDP, load, permitted, run};
use cranelift_codegen::ir::Function;
use generate::{PACKET_BYTES, Program, Rng};
use weir_compiler::backend::{Compiled, Input, Isa, Options, compile, disassemble, x86};

const FIRST_SEED: u64 = 1;
const COUNT: u64 = 600;

#[test]
fn bpf_equals_x86() {
    if !permitted() {
        return;
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (first, count) = (number("WEIR_DIFF_SEED", FIRST_SEED), number("WEIR_DIFF_COUNT", COUNT));
    let memory = LowMemory::new();
    let mut failures = 0;
    for seed in first..first + count {
        if let Err(report) = one(seed, &memory) {
            println!("{report}");
            failures += 1;
            assert!(failures < 3, "giving up after three failures, the last is seed {seed}");
        }
    }
    assert_eq!(failures, 0, "of {count} programs");
    println!("{count} programs, seeds from {first}");
}

fn one(seed: u64, memory: &LowMemory) -> Result<(), String> {
    let Program { func, consts } = generate::program(seed);
    let mut rng = Rng::new(seed ^ 0x5eed);
    let inputs: Vec<Vec<u8>> = (0..3).map(|_| generate::packet(&mut rng)).collect();
    let native = x86::compile(&func, &consts, &|symbol| match symbol {
        x86::Symbol::Helper(189) => Some(xdp_load_bytes as *const () as u64),
        _ => None,
    })
    .map_err(|e| format!("seed {seed}: x86: {e}\n{}", func.display()))?;
    let expected: Vec<(u32, Vec<u8>)> = inputs.iter().map(|packet| memory.run(&native, packet)).collect();
    for isa in [Isa::V3, Isa::V4] {
        for optimise in [false, true] {
            let input = Input { func: func.clone(), name: "random", consts: &consts, opts: Options { isa, optimise } };
            let what = format!("seed {seed}, {isa:?}, optimise {optimise}");
            let compiled = compile(input).map_err(|e| format!("{what}: {e}\n{}", func.display()))?;
            let program = load(BPF_PROG_TYPE_XDP, &compiled.insns)
                .map_err(|(e, log)| format!("{what}: load: {e}\n{}\n{}", report(&func, &compiled), tail(&log)))?;
            for (packet, expected) in inputs.iter().zip(&expected) {
                let got = run(&program, packet).map_err(|e| format!("{what}: run: {e}"))?;
                if got != *expected {
                    return Err(format!("{what}\n{}\ninput    {packet:02x?}\nexpected {expected:02x?}\ngot      {got:02x?}", report(&func, &compiled)));
                }
            }
        }
    }
    Ok(())
}

fn report(func: &Function, compiled: &Compiled) -> String {
    let bpf = disassemble(&compiled.insns, &compiled.relocs, &|kind| format!("{kind:?}"));
    format!("--- CLIF\n{}\n--- selected from\n{}\n--- LIR\n{}\n--- BPF\n{bpf}", func.display(), compiled.clif_text, compiled.lir_text)
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A packet and its `struct xdp_md` in the low 4 GiB, where the 32-bit fields of the context are real addresses.
struct LowMemory {
    start: *mut u8,
}

impl LowMemory {
    fn new() -> Self {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
            libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        assert_ne!(start, libc::MAP_FAILED, "no memory below 4 GiB");
        Self { start: start.cast() }
    }

    fn run(&self, native: &x86::Native, packet: &[u8]) -> (u32, Vec<u8>) {
        assert_eq!(packet.len(), PACKET_BYTES);
        let data = self.start as usize + 4096;
        let context = [data as u32, (data + packet.len()) as u32, data as u32, 1, 0, 0];
        // SAFETY: the mapping has a page for the context and one for the packet, and no reference to them exists.
        unsafe {
            std::ptr::copy_nonoverlapping(context.as_ptr().cast(), self.start, size_of_val(&context));
            std::ptr::copy_nonoverlapping(packet.as_ptr(), data as *mut u8, packet.len());
        }
        // SAFETY: the generator makes functions of this signature that stay inside the packet and their stack slots.
        let result = unsafe { native.call(self.start as u64) } as u32;
        // SAFETY: as above.
        let out = unsafe { std::slice::from_raw_parts(data as *const u8, packet.len()) };
        (result, out.to_vec())
    }
}

/// `bpf_xdp_load_bytes`, for programs that stay inside the packet.
extern "C" fn xdp_load_bytes(context: *const u32, offset: u64, buffer: *mut u8, len: u64) -> i64 {
    // SAFETY: the generated programs pass their context, a stack slot of at least `len` bytes, and an offset inside the packet.
    unsafe {
        let data = *context as usize as *const u8;
        std::ptr::copy_nonoverlapping(data.add(offset as u32 as usize), buffer, len as u32 as usize);
    }
    0
}
