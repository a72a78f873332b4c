//! Random CLIF, compiled for BPF and run by the kernel, against the same CLIF compiled for x86-64 by Cranelift.
//!
//! A program reads its inputs from a packet, computes with every operation that the back end accepts, and writes all its
//! variables back: packet, map and return value must be equal. Each program is compiled four times (V3 and V4, with and
//! without the mid-end). Seeds are fixed; `WEIR_DIFF_SEED` and `WEIR_DIFF_COUNT` run others.

#![allow(clippy::print_stdout, reason = "reports of failures, and what was run")]

mod backend;
#[path = "differential/generate.rs"]
mod generate;
#[path = "differential/operations.rs"]
mod operations;

use backend::{BPF_MAP_TYPE_ARRAY, BPF_PROG_TYPE_XDP, levels, link, load, map, map_get, map_set, permitted, run};
use cranelift_codegen::ir::Function;
use generate::{ELEMENT_BYTES, PACKET_BYTES, Program, Rng};
use std::cell::UnsafeCell;
use std::os::fd::OwnedFd;
use weir_compiler::backend::{Compiled, Input, Options, compile, disassemble, x86};

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
    let array = map(BPF_MAP_TYPE_ARRAY, ELEMENT_BYTES as u32, 1).expect("an array map with one element");
    let (mut failures, mut too_complex) = (0, 0);
    for seed in first..first + count {
        match one(seed, &memory, &array) {
            Ok(Verdict::Equal) => {}
            Ok(Verdict::TooComplex) => too_complex += 1,
            Err(report) => {
                println!("{report}");
                failures += 1;
                assert!(failures < 3, "giving up after three failures, the last is seed {seed}");
            }
        }
    }
    println!("{count} programs, seeds from {first}, {too_complex} of them too complex for the verifier");
    assert_eq!(failures, 0, "of {count} programs");
    assert!(
        too_complex * 100 <= count,
        "too many programs are beyond the verifier: {too_complex} of {count}"
    );
}

enum Verdict {
    Equal,
    /// Over a million instructions to verify, which nested loops with branches can reach.
    TooComplex,
}

fn one(seed: u64, memory: &LowMemory, array: &OwnedFd) -> Result<Verdict, String> {
    let program = generate::program(seed);
    let mut rng = Rng::new(seed ^ 0x5eed);
    let inputs: Vec<Vec<u8>> = (0..3).map(|_| generate::packet(&mut rng)).collect();
    compare(&format!("seed {seed}"), &program, &inputs, memory, array)
}

/// Every operation on its own, with operands that find edge cases.
#[test]
fn operations_equal_x86() {
    if !permitted() {
        return;
    }
    let memory = LowMemory::new();
    let array = map(BPF_MAP_TYPE_ARRAY, ELEMENT_BYTES as u32, 1).expect("an array map with one element");
    let inputs = operations::packets();
    for operation in operations::all() {
        let func = cranelift_reader::parse_functions(&operation.clif)
            .unwrap_or_else(|e| panic!("{e}\n{}", operation.clif))
            .remove(0);
        let program = Program { func, consts: Vec::new() };
        match compare(&operation.name, &program, &inputs, &memory, &array) {
            Ok(Verdict::Equal) => {}
            Ok(Verdict::TooComplex) => panic!("{}: too complex for the verifier", operation.name),
            Err(report) => panic!("{report}"),
        }
    }
}

fn compare(name: &str, program: &Program, inputs: &[Vec<u8>], memory: &LowMemory, array: &OwnedFd) -> Result<Verdict, String> {
    let Program { func, consts } = program;
    let native = x86::compile(func, consts, &|symbol| match symbol {
        x86::Symbol::Map(0) => Some(0),
        x86::Symbol::Helper(1) => Some(map_lookup_elem as *const () as u64),
        x86::Symbol::Helper(189) => Some(xdp_load_bytes as *const () as u64),
        _ => None,
    })
    .map_err(|e| format!("{name}: x86: {e}\n{}", func.display()))?;
    let expected: Vec<Outcome> = inputs.iter().map(|packet| memory.run(&native, packet)).collect();
    for &isa in levels() {
        for optimise in [false, true] {
            let input = Input {
                func: func.clone(),
                name: "random",
                consts,
                opts: Options { isa, optimise },
            };
            let what = format!("{name}, {isa:?}, optimise {optimise}");
            let compiled = compile(input).map_err(|e| format!("{what}: {e}\n{}", func.display()))?;
            let program = match load(BPF_PROG_TYPE_XDP, &link(&compiled, &[array], None)) {
                Ok(program) => program,
                Err((e, _)) if e.raw_os_error() == Some(libc::E2BIG) => return Ok(Verdict::TooComplex),
                Err((e, log)) => return Err(format!("{what}: load: {e}\n{}\n{}", report(func, &compiled), tail(&log))),
            };
            for (packet, expected) in inputs.iter().zip(&expected) {
                map_set(array, 0, &initial_element()).map_err(|e| format!("{what}: map: {e}"))?;
                let (result, packet_out) = run(&program, packet).map_err(|e| format!("{what}: run: {e}"))?;
                let mut element = [0; ELEMENT_BYTES];
                map_get(array, 0, &mut element).map_err(|e| format!("{what}: map: {e}"))?;
                let got = Outcome {
                    result,
                    packet: packet_out,
                    element,
                };
                if got != *expected {
                    return Err(format!(
                        "{what}\n{}\ninput    {packet:02x?}\nexpected {expected:02x?}\ngot      {got:02x?}",
                        report(func, &compiled)
                    ));
                }
            }
        }
    }
    Ok(Verdict::Equal)
}

/// Everything a program can be told by.
#[derive(Debug, PartialEq)]
struct Outcome {
    result: u32,
    packet: Vec<u8>,
    element: [u8; ELEMENT_BYTES],
}

/// The value of map 0 before each run.
fn initial_element() -> [u8; ELEMENT_BYTES] {
    std::array::from_fn(|i| (i as u8).wrapping_mul(37))
}

thread_local! {
    /// The value of map 0 on the native side, aligned as the kernel does.
    static ELEMENT: UnsafeCell<[u64; ELEMENT_BYTES / 8]> = const { UnsafeCell::new([0; ELEMENT_BYTES / 8]) };
}

/// Address of this thread's value of map 0. No reference to it is ever made.
fn element() -> *mut [u8; ELEMENT_BYTES] {
    ELEMENT.with(|e| e.get().cast())
}

/// `bpf_map_lookup_elem` for an array map with one element.
extern "C" fn map_lookup_elem(_map: u64, key: *const u32) -> *mut u8 {
    // SAFETY: the generated programs pass a key in their stack.
    let key = unsafe { *key };
    if key == 0 { element().cast() } else { std::ptr::null_mut() }
}

fn report(func: &Function, compiled: &Compiled) -> String {
    let bpf = disassemble(&compiled.insns, &compiled.relocs, &|kind| format!("{kind:?}"));
    format!(
        "--- CLIF\n{}\n--- selected from\n{}\n--- LIR\n{}\n--- BPF\n{bpf}",
        func.display(),
        compiled.clif_text(),
        compiled.lir_text()
    )
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

    fn run(&self, native: &x86::Native, packet: &[u8]) -> Outcome {
        assert_eq!(packet.len(), PACKET_BYTES);
        let data = self.start as usize + 4096;
        let context = [data as u32, (data + packet.len()) as u32, data as u32, 1, 0, 0];
        // SAFETY: the mapping has a page for the context and one for the packet, and no reference to them exists.
        unsafe {
            std::ptr::copy_nonoverlapping(context.as_ptr().cast(), self.start, size_of_val(&context));
            std::ptr::copy_nonoverlapping(packet.as_ptr(), data as *mut u8, packet.len());
        }
        // SAFETY: the value lives as long as the thread, and only this thread has its address.
        unsafe { element().write(initial_element()) };
        // SAFETY: the generator makes functions of this signature that stay inside the packet and their stack slots.
        let result = unsafe { native.call(self.start as u64) } as u32;
        // SAFETY: as above.
        let packet = unsafe { std::slice::from_raw_parts(data as *const u8, packet.len()) }.to_vec();
        // SAFETY: as above.
        let element = unsafe { element().read() };
        Outcome { result, packet, element }
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
