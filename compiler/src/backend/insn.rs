//! One BPF instruction and its encoding (`struct bpf_insn` of `include/uapi/linux/bpf.h`).

/// Instruction classes, the low three bits of the code.
pub(super) mod class {
    pub const LD: u8 = 0;
    pub const LDX: u8 = 1;
    pub const ST: u8 = 2;
    pub const STX: u8 = 3;
    pub const ALU32: u8 = 4;
    pub const JMP: u8 = 5;
    pub const JMP32: u8 = 6;
    pub const ALU64: u8 = 7;
}

/// Operand source: immediate or register.
pub(super) const SRC_IMM: u8 = 0x00;
pub(super) const SRC_REG: u8 = 0x08;

/// Arithmetic operations, the high four bits of the code.
pub(super) mod alu {
    pub const ADD: u8 = 0x00;
    pub const SUB: u8 = 0x10;
    pub const MUL: u8 = 0x20;
    pub const DIV: u8 = 0x30;
    pub const OR: u8 = 0x40;
    pub const AND: u8 = 0x50;
    pub const LSH: u8 = 0x60;
    pub const RSH: u8 = 0x70;
    pub const NEG: u8 = 0x80;
    pub const MOD: u8 = 0x90;
    pub const XOR: u8 = 0xa0;
    pub const MOV: u8 = 0xb0;
    pub const ARSH: u8 = 0xc0;
    pub const END: u8 = 0xd0;
}

/// Jump operations.
pub(super) mod jmp {
    pub const JA: u8 = 0x00;
    pub const JEQ: u8 = 0x10;
    pub const JGT: u8 = 0x20;
    pub const JGE: u8 = 0x30;
    pub const JSET: u8 = 0x40;
    pub const JNE: u8 = 0x50;
    pub const JSGT: u8 = 0x60;
    pub const JSGE: u8 = 0x70;
    pub const CALL: u8 = 0x80;
    pub const EXIT: u8 = 0x90;
    pub const JLT: u8 = 0xa0;
    pub const JLE: u8 = 0xb0;
    pub const JSLT: u8 = 0xc0;
    pub const JSLE: u8 = 0xd0;
}

/// Access modes of loads and stores.
pub(super) mod mode {
    pub const IMM: u8 = 0x00;
    pub const MEM: u8 = 0x60;
    pub const MEMSX: u8 = 0x80;
    pub const ATOMIC: u8 = 0xc0;
}

/// Operations of `mode::ATOMIC`, in the immediate.
pub(super) mod atomic {
    pub const FETCH: i32 = 0x01;
    pub const XCHG: i32 = 0xe0 | FETCH;
    pub const CMPXCHG: i32 = 0xf0 | FETCH;
}

/// `src_reg` of a call of another BPF function.
pub(super) const PSEUDO_CALL: u8 = 1;

/// `struct bpf_insn`. A 64-bit load of a constant takes two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Insn {
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four (little-endian layout).
    pub regs: u8,
    pub off: i16,
    pub imm: i32,
}

impl Insn {
    #[must_use]
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        Self {
            code,
            regs: (src << 4) | (dst & 0xf),
            off,
            imm,
        }
    }

    #[must_use]
    pub const fn dst(self) -> u8 {
        self.regs & 0xf
    }

    #[must_use]
    pub const fn src(self) -> u8 {
        self.regs >> 4
    }

    /// Replaces the source register, as loaders do for `BPF_PSEUDO_*`.
    pub const fn set_src(&mut self, src: u8) {
        self.regs = (self.regs & 0xf) | (src << 4);
    }

    /// Whether this is the first slot of a two-slot instruction.
    #[must_use]
    pub const fn is_wide(self) -> bool {
        self.code == class::LD | mode::IMM | 0x18
    }

    /// Little-endian bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        let (o, i) = (self.off.to_le_bytes(), self.imm.to_le_bytes());
        [self.code, self.regs, o[0], o[1], i[0], i[1], i[2], i[3]]
    }

    #[must_use]
    pub const fn from_bytes(b: [u8; 8]) -> Self {
        Self {
            code: b[0],
            regs: b[1],
            off: i16::from_le_bytes([b[2], b[3]]),
            imm: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip() {
        // `r6 = r1`, as clang encodes it.
        let mov = Insn::new(class::ALU64 | alu::MOV | SRC_REG, 6, 1, 0, 0);
        assert_eq!(mov.to_bytes(), [0xbf, 0x16, 0, 0, 0, 0, 0, 0]);
        let store = Insn::new(0x7b, 10, 1, -8, 0);
        assert_eq!(store.to_bytes(), [0x7b, 0x1a, 0xf8, 0xff, 0, 0, 0, 0]);
        assert_eq!(Insn::from_bytes(store.to_bytes()), store);
        assert!(Insn::new(0x18, 1, 1, 0, 0).is_wide());
    }
}
