//! Which values a program can return, as far as its code says so: enough to tell that a program ends its chain.
//!
//! Input: code after the verifier's rewriting. Output: all values that `r0` can have at the exits of the main function, or
//! `None` when they are not all constants. It follows constants through registers and over jumps; it never guesses: what it does not
//! understand is unknown.

use std::collections::BTreeSet;

const REGS: usize = 11;
/// Longer programs are not looked at: this is a hint in a table, and must stay quick.
const MAX_CODE: usize = 1 << 16;
/// More different values than any set of verdicts has.
const MAX_VALUES: usize = 16;

/// A register: nothing reached it yet, some constants, or anything.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Consts(BTreeSet<i32>),
    Any,
}

type State = Vec<Value>;

struct Insn {
    class: u8,
    code: u8,
    dst: usize,
    src: usize,
    off: i16,
    imm: i32,
}

impl Insn {
    fn decode(raw: [u8; 8]) -> Self {
        Self {
            class: raw[0] & 7,
            code: raw[0],
            dst: usize::from(raw[1] & 0xf),
            src: usize::from(raw[1] >> 4),
            off: i16::from_le_bytes([raw[2], raw[3]]),
            imm: i32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]),
        }
    }
}

const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const ALU: u8 = 4;
const JMP: u8 = 5;
const JMP32: u8 = 6;
const ALU64: u8 = 7;

const OP_JA: u8 = 0x00;
const OP_CALL: u8 = 0x80;
const OP_EXIT: u8 = 0x90;
const OP_TAIL_CALL: u8 = 0xf0;
const OP_MOV: u8 = 0xb0;
const MODE_MEM: u8 = 0x60;
const LD_IMM64: u8 = 0x18;
const HELPER_TAIL_CALL: i32 = 12;
const PSEUDO_CALL: usize = 1;

/// Finds the values that a program can return, as 32-bit numbers.
#[must_use]
pub fn values(code: &[[u8; 8]]) -> Option<Vec<i32>> {
    if code.len() > MAX_CODE {
        return None;
    }
    let mut states: Vec<Option<State>> = vec![None; code.len()];
    let mut result = BTreeSet::new();
    let mut work = vec![(0usize, vec![Value::Any; REGS])];
    while let Some((at, state)) = work.pop() {
        let merged = match states.get_mut(at)? {
            Some(old) => match join(old, &state) {
                Some(new) => new,
                // Nothing new: this way has been followed.
                None => continue,
            },
            slot => {
                *slot = Some(state.clone());
                state
            }
        };
        states[at] = Some(merged.clone());
        let mut state = merged;
        let insn = Insn::decode(code[at]);
        let target = |off: i64| usize::try_from(at as i64 + 1 + off).ok();
        match insn.class {
            JMP | JMP32 => match insn.code & 0xf0 {
                OP_EXIT if insn.class == JMP => match &state[0] {
                    Value::Consts(values) => result.extend(values.iter().copied()),
                    Value::Any => return None,
                },
                OP_TAIL_CALL => return None,
                OP_CALL => {
                    if insn.src != PSEUDO_CALL && insn.imm == HELPER_TAIL_CALL {
                        return None;
                    }
                    state[..6].fill(Value::Any);
                    work.push((at + 1, state));
                }
                // The 32-bit form has its distance in the immediate.
                OP_JA if insn.class == JMP => work.push((target(i64::from(insn.off))?, state)),
                OP_JA => work.push((target(i64::from(insn.imm))?, state)),
                _ => {
                    work.push((target(i64::from(insn.off))?, state.clone()));
                    work.push((at + 1, state));
                }
            },
            ALU | ALU64 => {
                let by_register = insn.code & 8 != 0;
                let value = match insn.code & 0xf0 {
                    // A sign-extending move has an offset.
                    OP_MOV if by_register && insn.off == 0 => state.get(insn.src)?.clone(),
                    OP_MOV if !by_register => Value::Consts(BTreeSet::from([insn.imm])),
                    _ => Value::Any,
                };
                *state.get_mut(insn.dst)? = value;
                work.push((at + 1, state));
            }
            _ if insn.code == LD_IMM64 => {
                *state.get_mut(insn.dst)? = Value::Any;
                work.push((at + 2, state));
            }
            LDX => {
                *state.get_mut(insn.dst)? = Value::Any;
                work.push((at + 1, state));
            }
            ST => work.push((at + 1, state)),
            STX => {
                // Atomics may fetch the old value.
                if insn.code & 0xe0 != MODE_MEM {
                    *state.get_mut(insn.src)? = Value::Any;
                    state[0] = Value::Any;
                }
                work.push((at + 1, state));
            }
            // Old packet loads, into r0.
            _ => {
                state[..6].fill(Value::Any);
                work.push((at + 1, state));
            }
        }
    }
    (!result.is_empty()).then(|| result.into_iter().collect())
}

/// Joins `new` into `old`; `None` when that changes nothing.
fn join(old: &State, new: &State) -> Option<State> {
    let joined: State = old
        .iter()
        .zip(new)
        .map(|(a, b)| match (a, b) {
            (Value::Consts(a), Value::Consts(b)) => {
                let all: BTreeSet<i32> = a.union(b).copied().collect();
                if all.len() > MAX_VALUES { Value::Any } else { Value::Consts(all) }
            }
            _ => Value::Any,
        })
        .collect();
    (joined != *old).then_some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u8, regs: u8, off: i16, imm: i32) -> [u8; 8] {
        let (o, i) = (off.to_le_bytes(), imm.to_le_bytes());
        [code, regs, o[0], o[1], i[0], i[1], i[2], i[3]]
    }

    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn one_constant() {
        assert_eq!(values(&[insn(0xb7, 0, 0, 2), EXIT]), Some(vec![2]));
        // w0 = -1
        assert_eq!(values(&[insn(0xb4, 0, 0, -1), EXIT]), Some(vec![-1]));
    }

    #[test]
    fn both_ways_of_a_branch_by_another_register() {
        let code = [
            insn(0x61, 0x12, 0, 0), // r2 = *(u32 *)(r1 + 0)
            insn(0xb7, 6, 0, 0),    // r6 = 0
            insn(0x15, 2, 1, 7),    // if r2 == 7 goto +1
            insn(0xb7, 6, 0, 2),    // r6 = 2
            insn(0xbf, 0x60, 0, 0), // r0 = r6
            EXIT,
        ];
        assert_eq!(values(&code), Some(vec![0, 2]));
    }

    #[test]
    fn what_is_not_constant_is_unknown() {
        // r0 = *(u32 *)(r1 + 0)
        assert_eq!(values(&[insn(0x61, 0x10, 0, 0), EXIT]), None);
        // a helper's result
        assert_eq!(values(&[insn(0x85, 0, 0, 5), EXIT]), None);
        // a tail call may return anything
        assert_eq!(values(&[insn(0x85, 0, 0, 12), insn(0xb7, 0, 0, 0), EXIT]), None);
        assert_eq!(values(&[]), None);
        assert_eq!(values(&[insn(0x05, 0, 9, 0)]), None);
    }

    #[test]
    fn loops_and_subprograms_end() {
        let code = [
            insn(0xb7, 0, 0, 1),  // r0 = 1
            insn(0x15, 1, 1, 0),  // if r1 == 0 goto +1
            insn(0x05, 0, -2, 0), // goto -2
            EXIT,
        ];
        assert_eq!(values(&code), Some(vec![1]));
        let code = [
            insn(0x85, 0x10, 0, 2), // call +2
            insn(0xb7, 0, 0, 0),    // r0 = 0
            EXIT,
            insn(0xb7, 0, 0, 9), // the subprogram
            EXIT,
        ];
        assert_eq!(values(&code), Some(vec![0]));
    }
}
