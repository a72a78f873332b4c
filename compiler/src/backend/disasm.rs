//! BPF instructions as text, in the form `bpftool prog dump xlated` and the kernel's verifier log use
//! (`kernel/bpf/disasm.c`, Linux 6.18).

use super::helpers::helper_name;
use super::insn::{Insn, PSEUDO_CALL, SRC_REG, alu, atomic, class, jmp, mode};
use super::{Reloc, RelocKind};
use std::fmt::Write;

/// Disassembles a program, one instruction a line. `name` names what a relocation refers to, for instance a map.
#[must_use]
pub fn disassemble(insns: &[Insn], relocs: &[Reloc], name: &dyn Fn(RelocKind) -> String) -> String {
    let mut out = String::new();
    let mut at = 0;
    while let Some(insn) = insns.get(at) {
        let reloc = u32::try_from(at)
            .ok()
            .and_then(|at| relocs.iter().find(|r| r.insn == at))
            .map(|r| name(r.kind));
        let text = instruction(*insn, insns.get(at + 1).copied(), reloc.as_deref());
        // Writing to a string does not fail.
        let _ = writeln!(out, "{at:4}: ({:02x}) {text}", insn.code);
        at += if insn.is_wide() { 2 } else { 1 };
    }
    out
}

/// One instruction; `second` is the slot after it and `reloc` the name of what it refers to.
fn instruction(insn: Insn, second: Option<Insn>, reloc: Option<&str>) -> String {
    let unknown = || format!("(unknown code {:02x})", insn.code);
    match insn.code & 7 {
        class::ALU32 | class::ALU64 => arithmetic(insn).unwrap_or_else(unknown),
        class::JMP | class::JMP32 => jump(insn, reloc).unwrap_or_else(unknown),
        class::LD if insn.is_wide() => {
            let high = second.map_or(0, |s| s.imm);
            let value = (i64::from(high) << 32) | i64::from(insn.imm as u32);
            match reloc {
                Some(name) => format!("r{} = {name}", insn.dst()),
                None => format!("r{} = {value:#x}", insn.dst()),
            }
        }
        class::LDX => {
            let cast = match insn.code & 0xe0 {
                mode::MEM => 'u',
                mode::MEMSX => 's',
                _ => return unknown(),
            };
            format!("r{} = *({cast}{} *)(r{} {:+})", insn.dst(), size_bits(insn), insn.src(), insn.off)
        }
        class::ST => format!("*(u{} *)(r{} {:+}) = {}", size_bits(insn), insn.dst(), insn.off, insn.imm),
        class::STX if insn.code & 0xe0 == mode::ATOMIC => atomic_text(insn).unwrap_or_else(unknown),
        class::STX => format!("*(u{} *)(r{} {:+}) = r{}", size_bits(insn), insn.dst(), insn.off, insn.src()),
        _ => unknown(),
    }
}

const fn size_bits(insn: Insn) -> u32 {
    match insn.code & 0x18 {
        0x00 => 32,
        0x08 => 16,
        0x10 => 8,
        _ => 64,
    }
}

fn arithmetic(insn: Insn) -> Option<String> {
    let wide = insn.code & 7 == class::ALU64;
    let reg = if wide { 'r' } else { 'w' };
    let dst = format!("{reg}{}", insn.dst());
    let src = if insn.code & SRC_REG == 0 {
        insn.imm.to_string()
    } else {
        format!("{reg}{}", insn.src())
    };
    let signed = if insn.off == 1 { "s" } else { "" };
    let op = match insn.code & 0xf0 {
        alu::ADD => "+=".to_owned(),
        alu::SUB => "-=".to_owned(),
        alu::MUL => "*=".to_owned(),
        alu::DIV => format!("{signed}/="),
        alu::MOD => format!("{signed}%="),
        alu::OR => "|=".to_owned(),
        alu::AND => "&=".to_owned(),
        alu::XOR => "^=".to_owned(),
        alu::LSH => "<<=".to_owned(),
        alu::RSH => ">>=".to_owned(),
        alu::ARSH => "s>>=".to_owned(),
        alu::NEG => return Some(format!("{dst} = -{dst}")),
        alu::MOV if insn.off != 0 => return Some(format!("{dst} = (s{}){src}", insn.off)),
        alu::MOV => return Some(format!("{dst} = {src}")),
        alu::END => {
            let order = match (wide, insn.code & SRC_REG) {
                (true, _) => "bswap",
                (false, SRC_REG) => "be",
                (false, _) => "le",
            };
            return Some(format!("r{0} = {order}{1} r{0}", insn.dst(), insn.imm));
        }
        _ => return None,
    };
    Some(format!("{dst} {op} {src}"))
}

fn jump(insn: Insn, reloc: Option<&str>) -> Option<String> {
    let narrow = insn.code & 7 == class::JMP32;
    let op = match insn.code & 0xf0 {
        jmp::JA if narrow => return Some(format!("gotol pc{:+}", insn.imm)),
        jmp::JA => return Some(format!("goto pc{:+}", insn.off)),
        jmp::EXIT => return Some("exit".to_owned()),
        jmp::CALL if insn.src() == PSEUDO_CALL => {
            return Some(match reloc {
                Some(name) => format!("call {name}"),
                None => format!("call pc{:+}", insn.imm),
            });
        }
        jmp::CALL => {
            let name = u32::try_from(insn.imm)
                .ok()
                .and_then(helper_name)
                .unwrap_or_else(|| "unknown".to_owned());
            return Some(format!("call {name}#{}", insn.imm));
        }
        jmp::JEQ => "==",
        jmp::JNE => "!=",
        jmp::JGT => ">",
        jmp::JGE => ">=",
        jmp::JLT => "<",
        jmp::JLE => "<=",
        jmp::JSGT => "s>",
        jmp::JSGE => "s>=",
        jmp::JSLT => "s<",
        jmp::JSLE => "s<=",
        jmp::JSET => "&",
        _ => return None,
    };
    let reg = if narrow { 'w' } else { 'r' };
    let rhs = if insn.code & SRC_REG == 0 {
        format!("{:#x}", insn.imm)
    } else {
        format!("{reg}{}", insn.src())
    };
    Some(format!("if {reg}{} {op} {rhs} goto pc{:+}", insn.dst(), insn.off))
}

fn atomic_text(insn: Insn) -> Option<String> {
    let bits = size_bits(insn);
    let suffix = if bits == 64 { "64" } else { "" };
    let reg = if bits == 64 { 'r' } else { 'w' };
    let place = format!("(u{bits} *)(r{} {:+})", insn.dst(), insn.off);
    let src = format!("{reg}{}", insn.src());
    match insn.imm {
        atomic::CMPXCHG => return Some(format!("{reg}0 = atomic{suffix}_cmpxchg({place}, {reg}0, {src})")),
        atomic::XCHG => return Some(format!("{src} = atomic{suffix}_xchg({place}, {src})")),
        _ => {}
    }
    let (sign, word) = match u8::try_from(insn.imm & !atomic::FETCH).ok()? {
        alu::ADD => ("+=", "add"),
        alu::AND => ("&=", "and"),
        alu::OR => ("|=", "or"),
        alu::XOR => ("^=", "xor"),
        _ => return None,
    };
    Some(if insn.imm & atomic::FETCH == 0 {
        format!("lock *{place} {sign} {src}")
    } else {
        format!("{src} = atomic{suffix}_fetch_{word}({place}, {src})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> String {
        instruction(Insn::new(code, dst, src, off, imm), Some(Insn::new(0, 0, 0, 0, 0)), None)
    }

    #[test]
    fn prints_as_the_kernel_does() {
        // Codes and texts as in a verifier log of Linux 6.18.
        assert_eq!(text(0xbf, 6, 1, 0, 0), "r6 = r1");
        assert_eq!(text(0xb4, 0, 0, 0, -1), "w0 = -1");
        assert_eq!(text(0x61, 2, 1, 4, 0), "r2 = *(u32 *)(r1 +4)");
        assert_eq!(text(0x91, 0, 1, -1, 0), "r0 = *(s8 *)(r1 -1)");
        assert_eq!(text(0x7b, 10, 1, -8, 0), "*(u64 *)(r10 -8) = r1");
        assert_eq!(text(0x62, 10, 0, -4, 7), "*(u32 *)(r10 -4) = 7");
        assert_eq!(text(0x2d, 1, 2, 3, 0), "if r1 > r2 goto pc+3");
        assert_eq!(text(0x56, 1, 0, -2, 8), "if w1 != 0x8 goto pc-2");
        assert_eq!(text(0x85, 0, 0, 0, 5), "call bpf_ktime_get_ns#5");
        assert_eq!(text(0x95, 0, 0, 0, 0), "exit");
        assert_eq!(text(0x06, 0, 0, 0, 70000), "gotol pc+70000");
        assert_eq!(text(0x3f, 1, 2, 1, 0), "r1 s/= r2");
        assert_eq!(text(0x97, 1, 0, 0, 10), "r1 %= 10");
        assert_eq!(text(0xbf, 1, 2, 8, 0), "r1 = (s8)r2");
        assert_eq!(text(0xdc, 1, 0, 0, 16), "r1 = be16 r1");
        assert_eq!(text(0x87, 1, 0, 0, 0), "r1 = -r1");
        assert_eq!(text(0x18, 1, 0, 0, 16), "r1 = 0x10");
        assert_eq!(text(0xdb, 1, 2, 0, 0), "lock *(u64 *)(r1 +0) += r2");
        assert_eq!(text(0xdb, 1, 2, 8, 1), "r2 = atomic64_fetch_add((u64 *)(r1 +8), r2)");
        assert_eq!(text(0xc3, 1, 2, 0, 0xf1), "w0 = atomic_cmpxchg((u32 *)(r1 +0), w0, w2)");
    }
}
