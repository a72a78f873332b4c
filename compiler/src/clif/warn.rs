//! `-k`: failures of helpers, told to user space as they happen. Without the switch nothing is generated.

use super::Generator;
use super::value::Val;
use crate::object::{EventAction, HelperCall};
use crate::types::Type;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I32;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, Value};

impl Generator<'_, '_> {
    /// Tells when a helper has returned a negative error.
    pub fn warn_failed(&mut self, call: HelperCall, result: Value) {
        if !self.hir.helper_errors {
            return;
        }
        // Helpers return an `int` or a `long`; the low half has the sign of both.
        let low = self.b.ins().ireduce(I32, result);
        let zero = self.b.ins().iconst(I32, 0);
        let failed = self.b.ins().icmp(IntCC::SignedLessThan, low, zero);
        let (tell, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(failed, tell, &[], done, &[]);
        self.b.switch_to_block(tell);
        self.b.set_cold_block(tell);
        let code = self.b.ins().sextend(I64, low);
        self.tell(call, code);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// Tells, where the control flow now stands, that a map has no such key.
    pub fn warn_no_entry(&mut self, present: Option<Value>) {
        if !self.hir.helper_errors {
            return;
        }
        self.when(present, |g| {
            let zero = g.int(0);
            g.tell(HelperCall::MapLookup, zero);
        });
    }

    fn tell(&mut self, call: HelperCall, code: Value) {
        let place = self.place;
        self.send(&[(Val::int(code), Type::I64)], place, |mut fields| EventAction::HelperError {
            call,
            code: fields.remove(0),
        });
    }
}
