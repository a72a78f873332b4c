//! Values during generation.

use super::{Generator, plain};
use crate::hir::Ty;
use crate::types::Type;
use cranelift_codegen::ir::types::{I8, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::Variable;

/// How a value is held.
#[derive(Debug, Clone)]
pub(crate) enum Repr {
    /// One `i64`.
    Int(Value),
    /// Several `i64`, as the type lies in memory: `inet` and `prefix` 3, `flow` 5.
    Words(Vec<Value>),
    /// Text: address of `size` readable bytes, zero after the end of the text.
    Mem {
        pointer: Value,
        size: u32,
    },
    /// Address of a C object.
    Place(Value),
    Tuple(Vec<Val>),
}

/// A value and whether it is there.
#[derive(Debug, Clone)]
pub(crate) struct Val {
    pub repr: Repr,
    /// An `i8`, 0 for an absent value; `None` for a value that is always there.
    pub present: Option<Value>,
}

impl Val {
    pub fn int(value: Value) -> Self {
        Self {
            repr: Repr::Int(value),
            present: None,
        }
    }
}

/// Storage of a script variable or a packet field.
#[derive(Debug, Clone)]
pub(crate) struct VarSlot {
    pub words: Vec<Variable>,
    pub present: Option<Variable>,
    /// What is no plain number lives in memory that belongs to the variable, laid out as its type is stored.
    pub memory: Option<Room>,
    /// Where presence lies as a word, for what lies in the frame.
    pub present_at: Option<u32>,
}

/// Where something lies in working memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Room {
    At(Value),
    /// Bytes from the start of scratch: the same for a program and the bodies of its loops.
    Frame(u32),
}

/// Number of `i64` that a value of the type is held in, 0 for text.
pub(crate) fn words(ty: &Ty) -> usize {
    match ty {
        Ty::Inet | Ty::Prefix => 3,
        Ty::Flow => 5,
        Ty::Str { .. } => 0,
        Ty::Obj { .. } => 1,
        Ty::Tuple(fields) => fields.iter().map(words).sum(),
        Ty::Record(fields) => fields.iter().map(|(_, ty)| words(ty)).sum(),
        Ty::Kept(ty) => ty.size().div_ceil(8) as usize,
        _ => 1,
    }
}

impl Generator<'_, '_> {
    /// Both must be present.
    pub fn both(&mut self, a: Option<Value>, b: Option<Value>) -> Option<Value> {
        match (a, b) {
            (None, x) | (x, None) => x,
            (Some(a), Some(b)) => Some(self.b.ins().band(a, b)),
        }
    }

    /// Truth of a value; absent is false. An `i8`.
    pub fn truth(&mut self, value: &Val) -> Value {
        let Repr::Int(n) = value.repr else {
            return self.b.ins().iconst(I8, 1);
        };
        let truth = self.compare_imm(cranelift_codegen::ir::condcodes::IntCC::NotEqual, n, 0);
        match value.present {
            None => truth,
            Some(present) => self.b.ins().band(truth, present),
        }
    }

    pub fn as_int(&mut self, value: &Val) -> Value {
        match &value.repr {
            Repr::Int(n) | Repr::Place(n) => *n,
            Repr::Words(words) => words[0],
            Repr::Mem { pointer, .. } => *pointer,
            Repr::Tuple(_) => self.int(0),
        }
    }

    /// Writes a value where the type's layout wants it. Every byte of `ty` is written.
    pub fn store_value(&mut self, value: &Val, ty: &Type, pointer: Value, offset: u32) {
        let at = i32::try_from(offset).unwrap_or(0);
        match (&value.repr, ty) {
            (Repr::Tuple(parts), Type::Tuple(_) | Type::Record(_)) => {
                let fields = ty.fields();
                let used: u32 = fields.iter().map(|f| f.size()).sum();
                if used != ty.size() {
                    self.zero(pointer, offset, ty.size());
                }
                for ((part, field), field_offset) in parts.iter().zip(fields).zip(ty.field_offsets()) {
                    self.store_value(part, field, pointer, offset + field_offset);
                }
            }
            (Repr::Words(words), _) => {
                for (i, word) in words.iter().enumerate() {
                    self.b.ins().store(plain(), *word, pointer, at + i32::try_from(i).unwrap_or(0) * 8);
                }
            }
            (Repr::Int(n), Type::Bool) => {
                let byte = self.b.ins().ireduce(I8, *n);
                self.b.ins().store(plain(), byte, pointer, at);
            }
            (Repr::Int(n) | Repr::Place(n), _) => {
                self.b.ins().store(plain(), *n, pointer, at);
            }
            (Repr::Mem { pointer: from, size }, _) => {
                // What follows in a tuple is written later.
                self.copy_text(*from, *size, pointer, offset, ty.size().next_multiple_of(8));
            }
            (Repr::Tuple(_), _) => {}
        }
    }

    /// Reads a value back from memory.
    pub fn load_value(&mut self, ty: &Type, pointer: Value, offset: u32) -> Val {
        let at = i32::try_from(offset).unwrap_or(0);
        let repr = match ty {
            Type::Bool => Repr::Int(self.load(pointer, at, 1)),
            Type::Inet | Type::Prefix | Type::Flow | Type::USym => {
                let n = ty.size() / 8;
                Repr::Words(
                    (0..n)
                        .map(|i| self.b.ins().load(I64, plain(), pointer, at + i32::try_from(i * 8).unwrap_or(0)))
                        .collect(),
                )
            }
            Type::Tuple(_) | Type::Record(_) => {
                let offsets = ty.field_offsets();
                Repr::Tuple(
                    ty.fields()
                        .into_iter()
                        .zip(offsets)
                        .map(|(field, o)| self.load_value(field, pointer, offset + o))
                        .collect(),
                )
            }
            Type::Str { .. } | Type::Buf { .. } | Type::Array { .. } | Type::Struct { .. } => {
                let pointer = if offset == 0 {
                    pointer
                } else {
                    self.b.ins().iadd_imm_s(pointer, i64::from(offset))
                };
                Repr::Mem {
                    pointer,
                    size: ty.size().next_multiple_of(8),
                }
            }
            _ => Repr::Int(self.b.ins().load(I64, plain(), pointer, at)),
        };
        Val { repr, present: None }
    }

    /// All `i64` of a value in order; text has none.
    pub fn flatten(&mut self, value: &Val) -> Vec<Value> {
        match &value.repr {
            Repr::Int(n) | Repr::Place(n) => vec![*n],
            Repr::Words(words) => words.clone(),
            Repr::Mem { .. } => Vec::new(),
            Repr::Tuple(parts) => {
                let parts = parts.clone();
                parts.iter().flat_map(|p| self.flatten(p)).collect()
            }
        }
    }

    /// The reverse of [`Self::flatten`] for a type without text.
    pub fn unflatten(ty: &Ty, words: &[Value]) -> Repr {
        match ty {
            Ty::Inet | Ty::Prefix | Ty::Flow | Ty::Kept(Type::USym) => Repr::Words(words.to_vec()),
            Ty::Obj { .. } => Repr::Place(words[0]),
            Ty::Record(fields) => {
                let fields = fields.iter().map(|(_, ty)| ty.clone()).collect();
                Self::unflatten(&Ty::Tuple(fields), words)
            }
            Ty::Tuple(fields) => {
                let mut rest = words;
                let mut parts = Vec::new();
                for field in fields {
                    let n = self::words(field);
                    parts.push(Val {
                        repr: Self::unflatten(field, &rest[..n]),
                        present: None,
                    });
                    rest = &rest[n..];
                }
                Repr::Tuple(parts)
            }
            _ => Repr::Int(words[0]),
        }
    }
}
