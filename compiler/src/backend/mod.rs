//! CLIF to BPF instructions.
//!
//! Is: a code generator. Cranelift is used as IR, verifier and mid-end only (it has no BPF target); instruction
//! selection, register allocation glue and encoding are here. Is not: an ELF writer, a loader, or a type checker of
//! scripts. Input: one [`cranelift_codegen::ir::Function`] per BPF program or subprogram. Output: [`Compiled`].
//!
//! Stages, each with a readable text form: `opt` (CLIF to CLIF) → `isel` (CLIF to `lir`) → `regalloc`
//! (registers and spill slots) → `emit` ([`Insn`]s). `disasm` prints the result.
//!
//! # What the CLIF may contain
//!
//! Types are `i8`, `i16`, `i32`, `i64`. A program has the signature `(i64) -> i64`; a subprogram takes up to five `i64`
//! and returns one `i64`. Symbols are `UserExternalName { namespace, index }`, with the meaning of [`ns`]. The source
//! location of an instruction is an opaque number that comes out again in [`Compiled::lines`]; `!0` means none.
//!
//! Two operations of BPF are total where Cranelift's trap: division by zero gives 0 (remainder: the dividend), and a
//! load or store is never assumed to fault. Code that must agree with the x86-64 twin guards its divisors.

mod check;
mod disasm;
mod emit;
mod helpers;
mod insn;
mod isel;
mod lir;
mod opt;
mod regalloc;
#[cfg(any(test, feature = "x86"))]
pub mod x86;

pub use disasm::disassemble;
pub use helpers::helper_name;
pub use insn::Insn;
pub use opt::optimise;

use cranelift_codegen::ir;

/// Name spaces of `ExternalName::User` in the CLIF that the back end accepts.
pub mod ns {
    /// Kernel helper; the index is the helper's number in `enum bpf_func_id`. Used with `call`.
    pub const HELPER: u32 = 0;
    /// Map; used with `symbol_value.i64`.
    pub const MAP: u32 = 1;
    /// `call fn() -> i64` that yields `Input::consts[index]`: a constant that the optimiser cannot see.
    pub const CONST: u32 = 2;
    /// `call fn(i64) -> i64` that returns its argument: the optimiser moves nothing that depends on it across. Free.
    pub const PIN: u32 = 3;
    /// Subprogram; used with `call`.
    pub const SUBPROG: u32 = 4;
    /// Address of a subprogram, for callbacks; used with `func_addr.i64`.
    pub const SUBPROG_ADDR: u32 = 5;
    /// Address in `.rodata`: `symbol_value.i64` of index 0 whose global value has the byte offset as `offset`.
    pub const RODATA: u32 = 6;
    /// A constant hidden from the optimiser by [`super::optimise`] itself: the value is the global value's `offset`.
    pub(super) const HIDDEN: u32 = 0xffff_0000;
}

/// Instruction set level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// `-mcpu=v3`: ALU32, JMP32, atomics. Every kernel from 5.12 on.
    V3,
    /// `-mcpu=v4`: signed division, sign-extending moves and loads, 32-bit jumps. Kernel 6.6 and later.
    V4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub isa: Isa,
    /// Run the mid-end. Without it the code follows the CLIF one to one, which the kernel verifier sometimes prefers.
    pub optimise: bool,
}

/// One function to compile.
pub struct Input<'a> {
    pub func: ir::Function,
    /// For messages and text output.
    pub name: &'a str,
    /// Values of the opaque constants ([`ns::CONST`]).
    pub consts: &'a [i64],
    pub opts: Options,
}

/// Machine code of one function.
pub struct Compiled {
    /// Relocated places hold what a compiler for BPF leaves there: `src_reg` 0 for addresses, the addend in `imm`.
    pub insns: Vec<Insn>,
    pub relocs: Vec<Reloc>,
    /// Instruction index and source location, ascending, one entry where the location changes. The first is for
    /// instruction 0, as the kernel wants it.
    pub lines: Vec<(u32, u32)>,
    /// Bytes of stack below `r10`, stack slots and spills.
    pub stack_bytes: u32,
    /// Kept, not printed: hardly anybody reads them, and printing takes as long as compiling.
    clif: ir::Function,
    lir: lir::Lir,
}

impl Compiled {
    /// The CLIF that instruction selection saw.
    #[must_use]
    pub fn clif_text(&self) -> String {
        self.clif.display().to_string()
    }

    /// The function with virtual registers, as it went into register allocation.
    #[must_use]
    pub fn lir_text(&self) -> String {
        self.lir.to_string()
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("insns", &self.insns)
            .field("relocs", &self.relocs)
            .field("lines", &self.lines)
            .field("stack_bytes", &self.stack_bytes)
            .finish_non_exhaustive()
    }
}

/// A place the linker or loader has to fill in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloc {
    /// Index of the instruction (the first slot of a two-slot load).
    pub insn: u32,
    pub kind: RelocKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelocKind {
    /// `ld_imm64` of a map.
    Map(u32),
    /// `call` of a subprogram.
    Subprog(u32),
    /// `ld_imm64` of a subprogram's address.
    SubprogAddr(u32),
    /// `ld_imm64` of an address in `.rodata`, byte offset.
    Rodata(u32),
}

/// Bytes of stack that a BPF call chain may use (`MAX_BPF_STACK` of the kernel).
pub const MAX_STACK_BYTES: u32 = 512;

/// Instructions that a program may have, for whoever may load programs at all (`BPF_COMPLEXITY_LIMIT_INSNS` of the kernel).
pub const MAX_INSNS: usize = 1_000_000;

/// Why a function could not be compiled. All but [`BackendError::StackTooLarge`], [`BackendError::BranchOutOfRange`] and
/// [`BackendError::TooLong`] are bugs of the compiler.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("cranelift verifier, {stage}: {message}")]
    Verifier { stage: &'static str, message: String },
    #[error("instruction selection does not know `{inst}` in `{function}`")]
    Unsupported { function: String, inst: String },
    #[error("function `{function}` needs {bytes} bytes of stack, the kernel allows {MAX_STACK_BYTES}")]
    StackTooLarge { function: String, bytes: u32 },
    #[error("function `{function}` is too long: a jump over {distance} instructions, this kernel allows 32767")]
    BranchOutOfRange { function: String, distance: i64 },
    #[error("function `{function}` has {insns} instructions, the kernel allows {MAX_INSNS}")]
    TooLong { function: String, insns: usize },
    #[error("register allocation of `{function}`: {message}")]
    RegAlloc { function: String, message: String },
}

/// Compiles one function; see [`Backend::compile`].
///
/// # Errors
///
/// As [`Backend::compile`].
pub fn compile(input: Input<'_>) -> Result<Compiled, BackendError> {
    Backend::default().compile(input)
}

/// The working memory of a compilation, to be used for one function after the other.
#[derive(Default)]
pub struct Backend {
    optimiser: opt::Optimiser,
    allocator: regalloc::Allocator,
}

impl Backend {
    /// Compiles one function. What was compiled before leaves no trace in it.
    ///
    /// # Errors
    ///
    /// The stack frame is over 512 bytes, a jump is out of range, or the CLIF holds something the back end does not know.
    pub fn compile(&mut self, input: Input<'_>) -> Result<Compiled, BackendError> {
        let Input {
            func: mut clif,
            name,
            consts,
            opts,
        } = input;
        self.optimiser.run(&mut clif, opts.optimise)?;
        let lir = isel::select(&clif, &self.optimiser, name, consts, opts.isa)?;
        // Every operation but a jump to what follows becomes an instruction: no use to look for registers for so many.
        let insns = lir.blocks.iter().map(|b| b.insts.len().saturating_sub(1)).sum();
        if insns > MAX_INSNS {
            return Err(BackendError::TooLong {
                function: name.to_owned(),
                insns,
            });
        }
        let allocation = self.allocator.allocate(&lir, name)?;
        let code = emit::emit(&lir, &allocation, name, opts.isa)?;
        Ok(Compiled {
            insns: code.insns,
            relocs: code.relocs,
            lines: code.lines,
            stack_bytes: code.stack_bytes,
            clif,
            lir,
        })
    }
}
