//! Builtins: what the kernel tells a program about where it runs.

use super::value::{Repr, Val};
use super::{Generator, plain};
use crate::object::{MapKind, MapRole, MapSpec};
use crate::tables::{BuiltinKind, helper};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};

/// Offsets of the first six arguments in `struct pt_regs` of x86-64 (System V order).
const ARG_OFFSETS: [i32; 6] = [112, 104, 96, 88, 72, 64];

/// `cs` in `struct pt_regs`.
const CS_OFFSET: i32 = 136;

/// `ax` in `struct pt_regs`.
const RETVAL_OFFSET: i32 = 80;

impl Generator<'_, '_> {
    pub(super) fn builtin(&mut self, kind: BuiltinKind) -> Val {
        let low = |g: &mut Self, n: Value| {
            let n = g.b.ins().ireduce(I32, n);
            g.b.ins().uextend(I64, n)
        };
        let value = match kind {
            BuiltinKind::Pid => {
                let both = self.helper(helper::GET_CURRENT_PID_TGID, &[]);
                self.b.ins().ushr_imm_s(both, 32)
            }
            BuiltinKind::Tid => {
                let both = self.helper(helper::GET_CURRENT_PID_TGID, &[]);
                low(self, both)
            }
            BuiltinKind::Uid => {
                let both = self.helper(helper::GET_CURRENT_UID_GID, &[]);
                low(self, both)
            }
            BuiltinKind::Gid => {
                let both = self.helper(helper::GET_CURRENT_UID_GID, &[]);
                self.b.ins().ushr_imm_s(both, 32)
            }
            BuiltinKind::Comm => {
                let to = self.memory_slot(16);
                if let Some(offset) = self.hir.comm_offset.filter(|_| self.hook.may_read_task()) {
                    let task = self.helper(helper::GET_CURRENT_TASK_BTF, &[]);
                    for word in [0, 8] {
                        let text = self.load(task, i32::try_from(offset).unwrap_or(0) + word, 8);
                        self.b.ins().store(plain(), text, to, word);
                    }
                    return Val {
                        repr: Repr::Mem { pointer: to, size: 16 },
                        present: None,
                    };
                }
                // Older kernels leave what follows the name's end as it was.
                self.zero(to, 0, 16);
                let size = self.int(16);
                self.helper(helper::GET_CURRENT_COMM, &[to, size]);
                return Val {
                    repr: Repr::Mem { pointer: to, size: 16 },
                    present: None,
                };
            }
            BuiltinKind::Nsecs => self.helper(helper::KTIME_GET_BOOT_NS, &[]),
            BuiltinKind::Cpu => {
                let n = self.helper(helper::GET_SMP_PROCESSOR_ID, &[]);
                low(self, n)
            }
            BuiltinKind::Curtask => self.helper(helper::GET_CURRENT_TASK, &[]),
            BuiltinKind::Cgroup => self.helper(helper::GET_CURRENT_CGROUP_ID, &[]),
            BuiltinKind::Rand => {
                let n = self.helper(helper::GET_PRANDOM_U32, &[]);
                low(self, n)
            }
            BuiltinKind::Jiffies => self.helper(helper::JIFFIES64, &[]),
            BuiltinKind::NumaId => {
                let n = self.helper(helper::GET_NUMA_NODE_ID, &[]);
                low(self, n)
            }
            // These became other expressions when they were checked.
            BuiltinKind::LeaderTid
            | BuiltinKind::LeaderComm
            | BuiltinKind::HasCpid
            | BuiltinKind::Args
            | BuiltinKind::Ncpus
            | BuiltinKind::Kstack
            | BuiltinKind::Ustack
            | BuiltinKind::Username
            | BuiltinKind::Elapsed
            | BuiltinKind::Ppid
            | BuiltinKind::Pcomm
            | BuiltinKind::Cpid
            | BuiltinKind::Ctx => self.ctx,
            BuiltinKind::Usermode => {
                // The lowest two bits of `cs` are the privilege level.
                let cs = self.load(self.ctx, CS_OFFSET, 8);
                let mask = self.int(3);
                let level = self.b.ins().band(cs, mask);
                let user = self.compare_imm(IntCC::NotEqual, level, 0);
                self.bool_to_int(user)
            }
            BuiltinKind::ProbeType => {
                let pointer = self.literal(self.hir.blocks[self.block].probe_type.as_bytes(), 16);
                return Val {
                    repr: Repr::Mem { pointer, size: 16 },
                    present: None,
                };
            }
            BuiltinKind::Arg(n) => self.load(self.ctx, ARG_OFFSETS[usize::from(n).min(5)], 8),
            BuiltinKind::Retval => self.load(self.ctx, RETVAL_OFFSET, 8),
            BuiltinKind::Func | BuiltinKind::Probe => {
                return self.site_name(kind == BuiltinKind::Func);
            }
        };
        Val::int(value)
    }

    /// `func` or `probe`: a literal, or, where the program is attached in many places, found by what the kernel says of this one.
    fn site_name(&mut self, func: bool) -> Val {
        let cap = crate::hir::builtins::name_cap(self.hook);
        let room = usize::try_from(cap - 1).unwrap_or(63);
        let cut = |name: &str| {
            let end = (0..=room.min(name.len())).rev().find(|i| name.is_char_boundary(*i));
            name[..end.unwrap_or(0)].to_owned()
        };
        let block = &self.hir.blocks[self.block];
        let names: Vec<String> = block.names.iter().map(|n| cut(if func { &n.func } else { &n.probe })).collect();
        if names.iter().all(|n| *n == names[0]) {
            let pointer = self.literal(names[0].as_bytes(), cap);
            return Val {
                repr: Repr::Mem { pointer, size: cap },
                present: None,
            };
        }
        let map = self.plan.map(MapSpec {
            name: format!("weir_{}_{}", if func { "funcs" } else { "probes" }, self.block),
            kind: MapKind::Array,
            key_size: 4,
            value_size: cap,
            max_entries: u32::try_from(names.len()).unwrap_or(u32::MAX),
            flags: 0,
            role: MapRole::Names { names },
        });
        let ctx = self.ctx;
        let cookie = self.helper(helper::GET_ATTACH_COOKIE, &[ctx]);
        let cookie = self.b.ins().ireduce(I32, cookie);
        let key = self.index_slot();
        self.b.ins().store(plain(), cookie, key, 0);
        // A copy: the map is shared, and what is done with the text may want room behind it.
        let copy = self.memory_slot(cap);
        self.zero(copy, 0, cap);
        let key = self.index_slot();
        let map = self.map_address(map);
        let name = self.helper(helper::MAP_LOOKUP_ELEM, &[map, key]);
        let (found, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(name, found, &[], done, &[]);
        self.b.switch_to_block(found);
        let name = self.pin(name);
        self.copy_text(name, cap, copy, 0, cap);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        Val {
            repr: Repr::Mem { pointer: copy, size: cap },
            present: None,
        }
    }
}
