//! The address in a system call of a socket: `addr.*` at the hooks of cgroups.
//!
//! Fields are read at the start of the program, as those of packets are, and are plain values from then on.

use super::value::{Repr, Val, VarSlot, words};
use super::{Generator, packet, plain};
use crate::hir::{ExprKind, visit};
use crate::object::AttachPoint;
use crate::tables::{AddressFamily, AddressPart, CgroupHook, FIELDS, FieldKind, Hook};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I16, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use std::collections::BTreeSet;

/// Where the parts are in the context, in bytes from its start. Addresses are in network order.
struct Layout {
    ip4: i32,
    ip6: i32,
    port: i32,
    /// Else the port is a number in host order.
    port_be: bool,
    family: i32,
    proto: i32,
}

/// `struct bpf_sock_addr`
const SOCK_ADDR: Layout = Layout {
    ip4: 4,
    ip6: 8,
    port: 24,
    port_be: true,
    family: 28,
    proto: 36,
};

/// `struct bpf_sock`
const SOCK: Layout = Layout {
    ip4: 24,
    ip6: 28,
    port: 44,
    port_be: false,
    family: 4,
    proto: 12,
};

impl Generator<'_, '_> {
    /// The hook on system calls that the program is for; all its attach points share it.
    pub(super) fn cgroup_hook(&self) -> Option<&'static CgroupHook> {
        match self.plan.programs[self.index].attach.first()?.point {
            AttachPoint::Cgroup { hook, .. } => Some(hook),
            _ => None,
        }
    }

    fn address_layout(&self) -> Layout {
        if self.hook == Hook::CgroupSockAddr { SOCK_ADDR } else { SOCK }
    }

    /// Reads what these blocks name of the address.
    pub(super) fn read_address(&mut self, blocks: &[usize]) {
        let mut wanted = BTreeSet::new();
        for &index in blocks {
            visit::block(&self.hir.blocks[index], &mut |e| {
                if let ExprKind::Field(field) = e.kind {
                    wanted.insert(field);
                }
            });
        }
        for field in wanted {
            let FieldKind::Address(part) = FIELDS[field].kind else { continue };
            let values = self.address_part(part);
            let slot = VarSlot {
                words: (0..words(&packet::field_ty(FIELDS[field].ty)))
                    .map(|_| self.b.declare_var(I64))
                    .collect(),
                present: None,
                memory: None,
                present_at: None,
            };
            for (var, value) in slot.words.iter().zip(values) {
                self.b.def_var(*var, value);
            }
            self.fields.insert(field, slot);
        }
    }

    fn address_part(&mut self, part: AddressPart) -> Vec<Value> {
        let layout = self.address_layout();
        let ctx = self.ctx;
        match part {
            AddressPart::Family => vec![self.load(ctx, layout.family, 4)],
            AddressPart::Proto => vec![self.load(ctx, layout.proto, 4)],
            AddressPart::Port => {
                let raw = self.load(ctx, layout.port, 4);
                vec![if layout.port_be { self.swap16(raw) } else { raw }]
            }
            AddressPart::Ip => {
                let v6 = self.cgroup_hook().is_some_and(|h| h.family == AddressFamily::V6);
                if !v6 {
                    return vec![self.int(2), self.load(ctx, layout.ip4, 4), self.int(0)];
                }
                // Four loads of four bytes: not every context allows wider ones.
                let mut halves = [0, 8].into_iter().map(|at| {
                    let low = self.load(ctx, layout.ip6 + at, 4);
                    let high = self.load(ctx, layout.ip6 + at + 4, 4);
                    let high = self.b.ins().ishl_imm_s(high, 32);
                    self.b.ins().bor(low, high)
                });
                let parts: Vec<Value> = halves.by_ref().collect();
                let mut all = vec![self.int(10)];
                all.extend(parts);
                all
            }
        }
    }

    fn swap16(&mut self, value: Value) -> Value {
        let short = self.b.ins().ireduce(I16, value);
        let swapped = self.b.ins().bswap(short);
        self.b.ins().uextend(I64, swapped)
    }

    /// Assigns to a part of the address; one of the other family has no place there.
    pub(super) fn assign_address(&mut self, field: usize, part: AddressPart, value: &Val) {
        let layout = self.address_layout();
        match (part, &value.repr) {
            (AddressPart::Port, _) => {
                let n = self.as_int(value);
                self.when(value.present, |g| {
                    let be = g.swap16(n);
                    let host = g.swap16(be);
                    g.store_address(layout.port, be);
                    g.hold(field, &[host]);
                });
            }
            (AddressPart::Ip, Repr::Words(words)) => {
                let words = words.clone();
                let v6 = self.cgroup_hook().is_some_and(|h| h.family == AddressFamily::V6);
                let same = self.compare_imm(IntCC::Equal, words[0], if v6 { 10 } else { 2 });
                let present = self.both(value.present, Some(same));
                self.when(present, |g| {
                    if v6 {
                        for (half, at) in [(words[1], 0), (words[2], 8)] {
                            g.store_address(layout.ip6 + at, half);
                            let high = g.b.ins().ushr_imm_s(half, 32);
                            g.store_address(layout.ip6 + at + 4, high);
                        }
                    } else {
                        g.store_address(layout.ip4, words[1]);
                    }
                    g.hold(field, &words);
                });
            }
            _ => {}
        }
    }

    /// The kernel takes four bytes at a time.
    fn store_address(&mut self, offset: i32, value: Value) {
        let short = self.b.ins().ireduce(I32, value);
        self.b.ins().store(plain(), short, self.ctx, offset);
    }

    /// Any number but 0 lets the call go on; the kernel wants exactly 0 or 1, and from some hooks only 1.
    pub(super) fn cgroup_answer(&mut self, n: Value) -> Value {
        if self.cgroup_hook().is_some_and(|h| !h.can_deny) {
            return self.int(1);
        }
        let c = self.compare_imm(IntCC::NotEqual, n, 0);
        self.b.ins().uextend(I64, c)
    }
}
