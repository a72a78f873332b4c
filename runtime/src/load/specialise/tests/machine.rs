//! Runs programs as the kernel's interpreter would, to see whether two of them do the same.

use super::*;

/// Where things are for [`Machine`]: no number of a program comes near.
const STACK_END: u64 = 0x7fff_1234_5000;
const SETTINGS_AT: u64 = 0x6fff_0000_0000;
const MEMORY_AT: u64 = 0x5fff_0000_0000;
/// Of another map.
const OTHER_AT: u64 = 0x4fff_0000_0000;

/// A machine as slow and plain as can be, with two helpers: one reads 8 bytes at `r2`, one writes 8 bytes to `r1`.
pub(super) struct Machine {
    registers: [u64; 11],
    stack: [u8; STACK as usize],
    memory: [u8; 64],
    /// What anybody else could see: calls with their arguments, stores to memory, the end.
    seen: Vec<String>,
}

impl Machine {
    fn at(&mut self, address: u64, len: usize) -> Option<&mut [u8]> {
        let inside = |start: u64, bytes: usize| {
            let at = usize::try_from(address.checked_sub(start)?).ok()?;
            (at.saturating_add(len) <= bytes).then_some(at)
        };
        if let Some(at) = inside(STACK_END - STACK as u64, STACK as usize) {
            return Some(&mut self.stack[at..at + len]);
        }
        inside(MEMORY_AT, 64).map(|at| &mut self.memory[at..at + len])
    }

    fn load(&mut self, address: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        let settings = data();
        if (OTHER_AT..OTHER_AT + 64).contains(&address) {
            return address - OTHER_AT;
        }
        match address.checked_sub(SETTINGS_AT).map(|at| at as usize) {
            Some(at) if at.saturating_add(len) <= settings.len() => bytes[..len].copy_from_slice(&settings[at..at + len]),
            _ => {
                if let Some(from) = self.at(address, len) {
                    bytes[..len].copy_from_slice(from);
                }
            }
        }
        u64::from_le_bytes(bytes)
    }

    fn store(&mut self, address: u64, len: usize, number: u64) {
        let number = if len == 8 { number } else { number & ((1 << (len * 8)) - 1) };
        if (MEMORY_AT..MEMORY_AT + 64).contains(&address) {
            self.seen.push(format!("{:x} = {:x}", address - MEMORY_AT, number));
        }
        if let Some(to) = self.at(address, len) {
            to.copy_from_slice(&number.to_le_bytes()[..len]);
        }
    }

    fn call(&mut self, helper: i32) {
        self.registers[0] = match helper {
            1 => {
                let key = self.load(self.registers[2], 8);
                self.seen.push(format!("lookup {key:x}"));
                if key.is_multiple_of(3) { 0 } else { MEMORY_AT + key % 5 * 8 }
            }
            113 => {
                let number = self.seen.len() as u64 * 0x0101_0101_0101;
                self.store(self.registers[1], 8, number);
                self.seen.push(format!("read {:x}", self.registers[3]));
                number
            }
            _ => {
                self.seen.push("time".into());
                self.seen.len() as u64
            }
        };
        // Whoever reads these now gets something else.
        for (number, register) in self.registers[1..6].iter_mut().enumerate() {
            *register = 0xdead_0000 + number as u64;
        }
    }

    pub(super) fn run(code: &[bpf_insn]) -> Vec<String> {
        let mut machine = Self {
            registers: std::array::from_fn(|r| if r == 10 { STACK_END } else { 0xdead }),
            stack: [0xee; STACK as usize],
            memory: std::array::from_fn(|at| at as u8),
            seen: Vec::new(),
        };
        let mut at = 0;
        for _ in 0..10_000 {
            let insn = code[at];
            at += 1;
            let (dst, src) = (usize::from(insn.dst_reg()), usize::from(insn.src_reg()));
            let imm = i64::from(insn.imm) as u64;
            let right = if insn.code & FROM_REGISTER != 0 {
                machine.registers[src]
            } else {
                imm
            };
            let off = insn.off as i64 as u64;
            let left = machine.registers[dst];
            match insn.code {
                EXIT => {
                    let r0 = machine.registers[0];
                    machine.seen.push(format!("exit {r0:x}"));
                    return machine.seen;
                }
                CALL => machine.call(insn.imm),
                LD_IMM64 => {
                    let upper = code[at].imm as u32;
                    at += 1;
                    machine.registers[dst] = if insn.src_reg() == MAP_VALUE {
                        (if insn.imm == MAP { SETTINGS_AT } else { OTHER_AT }) + u64::from(upper)
                    } else {
                        u64::from(insn.imm as u32) | u64::from(upper) << 32
                    };
                }
                STX_ATOMIC | STX_ATOMIC_W => {
                    let (to, len) = (left.wrapping_add(off), size(insn.code));
                    let narrow = |number: u64| if len == 4 { u64::from(number as u32) } else { number };
                    let old = machine.load(to, len);
                    let new = match insn.imm {
                        EXCHANGE => right,
                        COMPARE if narrow(machine.registers[0]) == old => right,
                        COMPARE => old,
                        _ => old.wrapping_add(right),
                    };
                    machine.store(to, len, narrow(new));
                    match insn.imm {
                        COMPARE => machine.registers[0] = old,
                        imm if imm & FETCH != 0 => machine.registers[src] = old,
                        _ => {}
                    }
                }
                code if code & CLASS == LDX && code & MODE == MODE_SIGNED => {
                    let number = machine.load(machine.registers[src].wrapping_add(off), size(code));
                    let shift = 64 - size(code) * 8;
                    machine.registers[dst] = ((number << shift) as i64 >> shift) as u64;
                }
                // A move with a sign.
                code if matches!(code, 0xbf | 0xbc) && insn.off != 0 => {
                    let shift = 64 - insn.off as u32;
                    let number = ((right << shift) as i64 >> shift) as u64;
                    machine.registers[dst] = if code == 0xbc { u64::from(number as u32) } else { number };
                }
                code if code & CLASS == LDX => machine.registers[dst] = machine.load(machine.registers[src].wrapping_add(off), size(code)),
                code if code & CLASS == ST => machine.store(left.wrapping_add(off), size(code), imm),
                code if code & CLASS == STX => machine.store(left.wrapping_add(off), size(code), machine.registers[src]),
                code if matches!(code & CLASS, JMP | JMP32) => {
                    let narrow = |number: u64| if code & CLASS == JMP32 { u64::from(number as u32) } else { number };
                    let signed = |number: u64| {
                        if code & CLASS == JMP32 {
                            i64::from(number as i32)
                        } else {
                            number as i64
                        }
                    };
                    let (a, b, c, d) = (narrow(left), narrow(right), signed(left), signed(right));
                    let taken = match code & OPERATION {
                        0x00 => true,
                        0x10 => a == b,
                        0x20 => a > b,
                        0x30 => a >= b,
                        0x40 => a & b != 0,
                        0x50 => a != b,
                        0x60 => c > d,
                        0x70 => c >= d,
                        0xa0 => a < b,
                        0xb0 => a <= b,
                        0xc0 => c < d,
                        _ => c <= d,
                    };
                    if taken {
                        at = at.checked_add_signed(insn.off as isize).unwrap();
                    }
                }
                code if code & CLASS == ALU64 => {
                    let by = right % 64;
                    machine.registers[dst] = match code & OPERATION {
                        0x00 => left.wrapping_add(right),
                        0x10 => left.wrapping_sub(right),
                        0x20 => left.wrapping_mul(right),
                        0x30 => left.checked_div(right).unwrap_or(0),
                        0x40 => left | right,
                        0x50 => left & right,
                        0x60 => left << by,
                        0x70 => left >> by,
                        0x80 => 0_u64.wrapping_sub(left),
                        0x90 => left.checked_rem(right).unwrap_or(left),
                        0xa0 => left ^ right,
                        0xb0 => right,
                        _ => (left as i64 >> by) as u64,
                    };
                }
                code => {
                    let (left, right) = (left as u32, right as u32);
                    let by = right % 32;
                    machine.registers[dst] = u64::from(match code & OPERATION {
                        0x00 => left.wrapping_add(right),
                        0x10 => left.wrapping_sub(right),
                        0x20 => left.wrapping_mul(right),
                        0x30 => left.checked_div(right).unwrap_or(0),
                        0x40 => left | right,
                        0x50 => left & right,
                        0x60 => left << by,
                        0x70 => left >> by,
                        0x80 => 0_u32.wrapping_sub(left),
                        0x90 => left.checked_rem(right).unwrap_or(left),
                        0xa0 => left ^ right,
                        0xb0 => right,
                        _ => (left as i32 >> by) as u32,
                    });
                }
            }
        }
        panic!("does not end");
    }
}
