//! Reads of settings become the numbers that they read: what is in `.rodata` is known when a native is loaded.
//!
//! The verifier knows those numbers as well and takes the branches out that they decide, but it leaves the reads, two instructions and a
//! load for each: a tenth of what a packet costs with a short list. Input: code that has its maps, the descriptor of such a map and what is
//! in it. The code stays as long as it is, so jumps and lines need no change. Only reads of 32 bits are replaced, which settings are.

use aya_obj::generated::bpf_insn;

const LD_IMM64: u8 = 0x18;
/// `src` of [`LD_IMM64`]: a map's descriptor, and in the upper half an offset in its first element.
const MAP_VALUE: u8 = 2;
/// `src` of [`CALL`]: a function of the program itself.
const PSEUDO_CALL: u8 = 1;
const LDX_W: u8 = 0x61;
const MOV32_IMM: u8 = 0xb4;
const JA32: u8 = 0x06;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const CLASS: u8 = 0x07;
const CLASS_JMP: u8 = 0x05;
const CLASS_JMP32: u8 = 0x06;

fn insn(code: u8, dst: u8, imm: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(dst, 0),
        off: 0,
        imm,
    }
}

/// Whether the instruction of each number may be jumped to.
fn targets(code: &[bpf_insn]) -> Vec<bool> {
    let mut targets = vec![false; code.len()];
    for (at, insn) in code.iter().enumerate() {
        let distance = match insn.code {
            EXIT => continue,
            // Of helpers it is a number.
            CALL if insn.src_reg() != PSEUDO_CALL => continue,
            CALL | JA32 => insn.imm as isize,
            code if matches!(code & CLASS, CLASS_JMP | CLASS_JMP32) => isize::from(insn.off),
            _ => continue,
        };
        let target = (at + 1).checked_add_signed(distance);
        if let Some(target) = target.and_then(|target| targets.get_mut(target)) {
            *target = true;
        }
    }
    targets
}

fn number(data: &[u8], at: i64) -> Option<i32> {
    let bytes = data.get(usize::try_from(at).ok()?..)?;
    bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// Whether the instruction takes an address in the map with this descriptor.
fn is_address(insn: &bpf_insn, map: i32) -> bool {
    insn.code == LD_IMM64 && insn.src_reg() == MAP_VALUE && insn.imm == map
}

/// How many addresses in that map the code takes, each of which a read may follow.
#[cfg(test)]
pub(super) fn addresses(code: &[bpf_insn], map: i32) -> usize {
    code.iter().filter(|insn| is_address(insn, map)).count()
}

/// Replaces what reads the map with this descriptor, of which `data` is the content for good. Returns how many reads those were.
pub(super) fn fold(code: &mut [bpf_insn], map: i32, data: &[u8]) -> usize {
    let targets = targets(code);
    let mut folded = 0;
    for at in 0..code.len().saturating_sub(2) {
        let [address, offset, read] = [code[at], code[at + 1], code[at + 2]];
        let is_read = is_address(&address, map) && read.code == LDX_W && read.src_reg() == address.dst_reg() && !targets[at + 2];
        if !is_read {
            continue;
        }
        let Some(number) = number(data, i64::from(offset.imm) + i64::from(read.off)) else {
            continue;
        };
        code[at + 2] = insn(MOV32_IMM, read.dst_reg(), number);
        if read.dst_reg() == address.dst_reg() {
            // Nobody needs the address, which is longer to write down than a number, any more.
            code[at].set_src_reg(0);
            code[at].imm = number;
            code[at + 1].imm = 0;
        }
        folded += 1;
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: i32 = 5;
    const JNE: u8 = 0x55;

    /// `dst = &map[offset]`
    fn address(dst: u8, map: i32, offset: i32) -> [bpf_insn; 2] {
        let mut first = insn(LD_IMM64, dst, map);
        first.set_src_reg(MAP_VALUE);
        [first, insn(0, 0, offset)]
    }

    /// `dst = *(src + off)`
    fn read(code: u8, dst: u8, src: u8, off: i16) -> bpf_insn {
        let mut read = insn(code, dst, 0);
        read.set_src_reg(src);
        read.off = off;
        read
    }

    fn jump(code: u8, off: i16) -> bpf_insn {
        let mut jump = insn(code, 1, 0);
        jump.off = off;
        jump
    }

    /// Code, registers, offset, number.
    type Shown = (u8, u8, u8, i16, i32);

    fn shown(code: &[bpf_insn]) -> Vec<Shown> {
        code.iter().map(|i| (i.code, i.dst_reg(), i.src_reg(), i.off, i.imm)).collect()
    }

    fn folded(mut code: Vec<bpf_insn>) -> (usize, Vec<Shown>) {
        let data: Vec<u8> = [7_i32, -2, 9].iter().flat_map(|n| n.to_ne_bytes()).collect();
        let count = fold(&mut code, MAP, &data);
        (count, shown(&code))
    }

    #[test]
    fn reads_are_numbers_and_the_code_is_as_long_as_it_was() {
        // The address is gone where its register gets the number, and stays where another one does.
        let same = [&address(1, MAP, 4)[..], &[read(LDX_W, 1, 1, 0)]].concat();
        let expected = vec![(LD_IMM64, 1, 0, 0, -2), (0, 0, 0, 0, 0), (MOV32_IMM, 1, 0, 0, -2)];
        assert_eq!(folded(same), (1, expected));
        let other = [&address(4, MAP, 4)[..], &[read(LDX_W, 2, 4, 4)]].concat();
        let expected = vec![(LD_IMM64, 4, MAP_VALUE, 0, MAP), (0, 0, 0, 0, 4), (MOV32_IMM, 2, 0, 0, 9)];
        assert_eq!(folded(other), (1, expected));
    }

    #[test]
    fn what_is_no_such_read_stays() {
        const LDX_DW: u8 = 0x79;
        let with = |first: [bpf_insn; 2], rest: &[bpf_insn]| [&first[..], rest].concat();
        let back_to_the_read = [jump(JNE, -2), insn(EXIT, 0, 0)];
        let back_to_the_address = [jump(JNE, -4), insn(EXIT, 0, 0)];
        let call = |distance| {
            let mut call = insn(CALL, 0, distance);
            call.set_src_reg(PSEUDO_CALL);
            call
        };
        let at_one = |rest: &[bpf_insn]| with(address(1, MAP, 0), &[&[read(LDX_W, 1, 1, 0)], rest].concat());
        for (name, code) in [
            ("another map", with(address(1, MAP + 1, 0), &[read(LDX_W, 1, 1, 0)])),
            ("of 64 bits", with(address(1, MAP, 0), &[read(LDX_DW, 1, 1, 0)])),
            ("of another register", with(address(1, MAP, 0), &[read(LDX_W, 1, 2, 0)])),
            ("behind the end", with(address(1, MAP, 12), &[read(LDX_W, 1, 1, 0)])),
            ("half behind the end", with(address(1, MAP, 8), &[read(LDX_W, 1, 1, 2)])),
            ("before the beginning", with(address(1, MAP, 0), &[read(LDX_W, 1, 1, -4)])),
            ("jumped to", at_one(&back_to_the_read)),
            ("called", at_one(&[call(-2), insn(EXIT, 0, 0)])),
            ("far jumped to", at_one(&[insn(JA32, 0, -2), insn(EXIT, 0, 0)])),
            ("cut off", address(1, MAP, 0).to_vec()),
        ] {
            assert_eq!(folded(code.clone()), (0, shown(&code)), "{name}");
        }
        assert_eq!(folded(at_one(&back_to_the_address)).0, 1);
    }
}
