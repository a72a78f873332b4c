//! The name of a file, as the kernel makes it of a `struct path`.

use super::Generator;
use super::value::{Repr, Val};
use crate::hir::{Expr, ExprKind};
use crate::tables::{BuiltinKind, helper};
use cranelift_codegen::ir::{Block, InstBuilder, Value};

impl<'h> Generator<'_, 'h> {
    /// `path(place)`: empty where a pointer on the way is null or the kernel has no name.
    pub fn file_path(&mut self, place: &'h Expr, cap: u32) -> Val {
        let size = cap.next_multiple_of(8);
        let to = self.memory_slot(size);
        self.zero(to, 0, size);
        let done = self.b.create_block();
        if let Some(from) = self.followed(place, done) {
            let bytes = self.int(i64::from(cap));
            self.helper(helper::D_PATH, &[from, to, bytes]);
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        Val {
            repr: Repr::Mem { pointer: to, size },
            present: None,
        }
    }

    /// Address of a place by loads whose types the kernel follows; where a pointer is null it goes to `none`.
    fn followed(&mut self, e: &Expr, none: Block) -> Option<Value> {
        match &e.kind {
            ExprKind::Builtin(BuiltinKind::Ctx) => Some(self.ctx),
            ExprKind::Place { base, offset } => {
                let base = self.followed(base, none)?;
                Some(if *offset == 0 {
                    base
                } else {
                    self.b.ins().iadd_imm_s(base, i64::from(*offset))
                })
            }
            ExprKind::CtxLoad { offset, .. } => {
                let pointer = self.load(self.ctx, i32::try_from(*offset).ok()?, 8);
                Some(self.unless_null(pointer, none))
            }
            ExprKind::Read { place, .. } => {
                let address = self.followed(place, none)?;
                let pointer = self.load(address, 0, 8);
                Some(self.unless_null(pointer, none))
            }
            _ => None,
        }
    }

    fn unless_null(&mut self, pointer: Value, none: Block) -> Value {
        let some = self.b.create_block();
        // The verifier knows the register that was compared, and only that.
        let pointer = self.pin(pointer);
        self.b.ins().brif(pointer, some, &[], none, &[]);
        self.b.switch_to_block(some);
        pointer
    }
}
