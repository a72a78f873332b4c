//! Random XDP programs in CLIF.
//!
//! Every program is safe for the kernel verifier by construction (bounds checks, initialised stack, bounded loops) and
//! has the same meaning on both machines (divisors are never 0, quotients never overflow).

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, AtomicRmwOp, Block, BlockArg, ExtFuncData, ExternalName, FuncRef, Function, GlobalValueData, InstBuilder, JumpTableData,
    MemFlagsData, Signature, SourceLoc, StackSlot, StackSlotData, StackSlotKind, Type, UserExternalName, UserFuncName, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use weir_compiler::backend::ns;

/// Size of the packets that programs run on. Inputs come first, results go to the rest.
pub const PACKET_BYTES: usize = 192;
/// Size of the values of map 0.
pub const ELEMENT_BYTES: usize = 64;
const INPUT_BYTES: i32 = 64;
const SLOT_BYTES: u32 = 32;

/// splitmix64: good enough, and the same everywhere.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that finds edge cases: small, near a power of two, all ones, or anything.
    fn number(&mut self) -> i64 {
        match self.below(6) {
            0 => self.below(8) as i64,
            1 => -(self.below(8) as i64),
            2 => (1_i64 << self.below(63)).wrapping_sub(self.below(3) as i64 - 1),
            3 => i64::from(self.next() as u32),
            4 => i64::from(self.next() as i32),
            _ => self.next() as i64,
        }
    }
}

pub fn packet(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PACKET_BYTES);
    while bytes.len() < PACKET_BYTES {
        bytes.extend(rng.number().to_le_bytes());
    }
    bytes
}

pub struct Program {
    pub func: Function,
    pub consts: Vec<i64>,
}

pub fn program(seed: u64) -> Program {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.push(AbiParam::new(types::I64));
    signature.returns.push(AbiParam::new(types::I64));
    let mut func = Function::with_name_signature(UserFuncName::user(0, 0), signature);
    let mut context = FunctionBuilderContext::new();
    let consts: Vec<i64> = {
        let mut rng = Rng::new(seed ^ 0xc0);
        (0..4).map(|_| rng.number()).collect()
    };
    let builder = FunctionBuilder::new(&mut func, &mut context);
    let mut generator = Generator {
        rng: Rng::new(seed),
        b: builder,
        vars: Vec::new(),
        pool: Vec::new(),
        slots: Vec::new(),
        data: Value::from_u32(0),
        data_end: Value::from_u32(0),
        context: Value::from_u32(0),
        fail: Block::from_u32(0),
        pins: Vec::new(),
        constants: Vec::new(),
        load_bytes: None,
        element: Value::from_u32(0),
        line: 1,
        loops: 0,
    };
    generator.whole();
    let config = TargetFrontendConfig {
        default_call_conv: CallConv::SystemV,
        pointer_width: target_lexicon::PointerWidth::U64,
        page_size_align_log2: 12,
    };
    generator.b.finalize(config);
    Program { func, consts }
}

const TYPES: [Type; 4] = [types::I8, types::I16, types::I32, types::I64];

struct Generator<'a> {
    rng: Rng,
    b: FunctionBuilder<'a>,
    vars: Vec<(Variable, Type)>,
    /// Values in scope.
    pool: Vec<Value>,
    slots: Vec<StackSlot>,
    data: Value,
    data_end: Value,
    context: Value,
    fail: Block,
    pins: Vec<(Type, FuncRef)>,
    constants: Vec<FuncRef>,
    load_bytes: Option<FuncRef>,
    /// Pointer to the value of map 0.
    element: Value,
    line: u32,
    loops: u32,
}

impl Generator<'_> {
    fn flags() -> MemFlagsData {
        MemFlagsData::trusted()
    }

    fn import(&mut self, namespace: u32, index: u32, params: &[Type], result: Type) -> FuncRef {
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.extend(params.iter().map(|ty| AbiParam::new(*ty)));
        signature.returns.push(AbiParam::new(result));
        let signature = self.b.import_signature(signature);
        let name = self.b.func.declare_imported_user_function(UserExternalName { namespace, index });
        self.b.import_function(ExtFuncData {
            name: ExternalName::User(name),
            signature,
            colocated: false,
            patchable: false,
        })
    }

    fn whole(&mut self) {
        for ty in TYPES {
            let pin = self.import(ns::PIN, 0, &[ty], ty);
            self.pins.push((ty, pin));
        }
        for index in 0..4 {
            let constant = self.import(ns::CONST, index, &[], types::I64);
            self.constants.push(constant);
        }
        let load_bytes = self.import(ns::HELPER, 189, &[types::I64, types::I64, types::I64, types::I64], types::I64);
        self.load_bytes = Some(load_bytes);

        let entry = self.b.create_block();
        self.b.append_block_params_for_function_params(entry);
        self.fail = self.b.create_block();
        let body = self.b.create_block();
        self.b.switch_to_block(entry);
        self.context = self.b.block_params(entry)[0];
        let data = self.b.ins().load(types::I32, Self::flags(), self.context, 0);
        self.data = self.b.ins().uextend(types::I64, data);
        let data_end = self.b.ins().load(types::I32, Self::flags(), self.context, 4);
        self.data_end = self.b.ins().uextend(types::I64, data_end);
        let need = self.b.ins().iconst(types::I64, PACKET_BYTES as i64);
        let end = self.b.ins().iadd(self.data, need);
        let short = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, self.data_end);
        self.b.ins().brif(short, self.fail, &[], body, &[]);
        self.b.switch_to_block(body);
        self.look_up();

        for _ in 0..1 + self.rng.below(2) {
            let slot = self
                .b
                .create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, SLOT_BYTES, 3));
            self.slots.push(slot);
            for offset in (0..SLOT_BYTES as i32).step_by(8) {
                let value = self.constant(types::I64);
                let address = self.b.ins().stack_addr(types::I64, slot, 0);
                self.b.ins().store(Self::flags(), value, address, offset);
            }
        }
        for i in 0..2 + self.rng.below(5) {
            let ty = self.rng.pick(&TYPES);
            let var = self.b.declare_var(ty);
            let input = self.b.ins().load(ty, Self::flags(), self.data, (i * 8) as i32);
            self.b.def_var(var, input);
            self.vars.push((var, ty));
        }

        let budget = 3 + self.rng.below(14) as i32;
        self.statements(budget, 0);

        // Results: every variable, and everything that is in the slots.
        let mut offset = INPUT_BYTES;
        for (var, _) in self.vars.clone() {
            let value = self.b.use_var(var);
            self.b.ins().store(Self::flags(), value, self.data, offset);
            offset += 8;
        }
        let mut hash = self.b.ins().iconst(types::I64, 7);
        for slot in self.slots.clone() {
            for at in (0..SLOT_BYTES as i32).step_by(8) {
                let address = self.b.ins().stack_addr(types::I64, slot, at);
                let value = self.b.ins().load(types::I64, Self::flags(), address, 0);
                let turned = self.b.ins().rotl_imm_u(hash, 7);
                hash = self.b.ins().bxor(turned, value);
            }
        }
        self.b.ins().store(Self::flags(), hash, self.data, offset);
        self.b.ins().return_(&[hash]);
        self.b.switch_to_block(self.fail);
        let zero = self.b.ins().iconst(types::I64, 0);
        self.b.ins().return_(&[zero]);
        self.b.seal_all_blocks();
    }

    /// Finds the value of map 0, key 0.
    fn look_up(&mut self) {
        let map = self.b.func.declare_imported_user_function(UserExternalName {
            namespace: ns::MAP,
            index: 0,
        });
        let symbol = GlobalValueData::Symbol {
            name: ExternalName::User(map),
            offset: 0.into(),
            colocated: false,
            tls: false,
        };
        let symbol = self.b.create_global_value(symbol);
        let function = self.import(ns::HELPER, 1, &[types::I64, types::I64], types::I64);
        let key = self
            .b
            .create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 4, 2));
        let zero = self.b.ins().iconst(types::I32, 0);
        let key = self.b.ins().stack_addr(types::I64, key, 0);
        self.b.ins().store(Self::flags(), zero, key, 0);
        let map = self.b.ins().symbol_value(types::I64, symbol);
        let call = self.b.ins().call(function, &[map, key]);
        let found = self.b.inst_results(call)[0];
        let body = self.b.create_block();
        self.b.ins().brif(found, body, &[], self.fail, &[]);
        self.b.switch_to_block(body);
        let pin = self.pin(types::I64);
        let call = self.b.ins().call(pin, &[found]);
        self.element = self.b.inst_results(call)[0];
    }

    fn pin(&self, ty: Type) -> FuncRef {
        self.pins.iter().find(|(t, _)| *t == ty).expect("there is one for each type").1
    }

    /// Room for `bytes` bytes: base address and an offset, in a stack slot or in the map's value.
    fn place(&mut self, bytes: u32) -> (Value, i32) {
        if self.rng.below(2) == 0 {
            let offset = (self.rng.below(ELEMENT_BYTES as u64 / u64::from(bytes)) * u64::from(bytes)) as i32;
            return (self.element, offset);
        }
        let slot = self.slot();
        let offset = (self.rng.below(u64::from(SLOT_BYTES / bytes)) * u64::from(bytes)) as i32;
        (self.b.ins().stack_addr(types::I64, slot, 0), offset)
    }

    fn statements(&mut self, budget: i32, depth: u32) {
        let scope = self.pool.len();
        for _ in 0..budget {
            self.line += 1;
            self.b.set_srcloc(SourceLoc::new(self.line));
            match self.rng.below(24) {
                0..=8 => {
                    for _ in 0..3 {
                        let ty = self.rng.pick(&TYPES);
                        let value = self.operation(ty);
                        self.keep(value);
                    }
                }
                9..=10 => self.assign(),
                11 => self.memory_access(),
                12 => self.packet_access(),
                13 => self.atomic(),
                14 => self.moving_packet_access(),
                15 => self.helper(),
                16 => self.table(depth),
                17..=20 => self.branch(depth),
                21..=22 if self.loops < 3 => self.bounded_loop(depth),
                _ => {
                    let ty = self.rng.pick(&TYPES);
                    let value = self.operation(ty);
                    self.keep(value);
                }
            }
        }
        self.pool.truncate(scope);
    }

    /// Puts a value into scope or into a variable.
    fn keep(&mut self, value: Value) {
        let ty = self.b.func.dfg.value_type(value);
        let fitting: Vec<Variable> = self.vars.iter().filter(|(_, t)| *t == ty).map(|(v, _)| *v).collect();
        if !fitting.is_empty() && self.rng.below(2) == 0 {
            let var = self.rng.pick(&fitting);
            self.b.def_var(var, value);
        }
        self.pool.push(value);
    }

    fn assign(&mut self) {
        let vars = self.vars.clone();
        let (var, ty) = self.rng.pick(&vars);
        let value = self.operation(ty);
        self.b.def_var(var, value);
    }

    fn constant(&mut self, ty: Type) -> Value {
        let mask = if ty == types::I64 { u64::MAX } else { (1 << ty.bits()) - 1 };
        let value = self.rng.number() as u64 & mask;
        self.b.ins().iconst(ty, value as i64)
    }

    /// Any value of a type: a variable, something in scope, a constant, or a conversion.
    fn value(&mut self, ty: Type) -> Value {
        match self.rng.below(10) {
            0..=1 => return self.constant(ty),
            2 if ty == types::I64 => {
                let constants = self.constants.clone();
                let function = self.rng.pick(&constants);
                let call = self.b.ins().call(function, &[]);
                return self.b.inst_results(call)[0];
            }
            3..=6 => {
                let fitting: Vec<Value> = self.pool.iter().copied().filter(|v| self.b.func.dfg.value_type(*v) == ty).collect();
                if !fitting.is_empty() {
                    return self.rng.pick(&fitting);
                }
            }
            _ => {}
        }
        let vars = self.vars.clone();
        let (var, from) = self.rng.pick(&vars);
        let value = self.b.use_var(var);
        self.convert(value, from, ty)
    }

    fn convert(&mut self, value: Value, from: Type, to: Type) -> Value {
        if from == to {
            value
        } else if from.bits() > to.bits() {
            self.b.ins().ireduce(to, value)
        } else if self.rng.below(2) == 0 {
            self.b.ins().uextend(to, value)
        } else {
            self.b.ins().sextend(to, value)
        }
    }

    fn condition_code(&mut self) -> IntCC {
        use IntCC::*;
        self.rng.pick(&[
            Equal,
            NotEqual,
            SignedLessThan,
            SignedGreaterThanOrEqual,
            SignedGreaterThan,
            SignedLessThanOrEqual,
            UnsignedLessThan,
            UnsignedGreaterThanOrEqual,
            UnsignedGreaterThan,
            UnsignedLessThanOrEqual,
        ])
    }

    /// Something to branch on.
    fn condition(&mut self) -> Value {
        let ty = self.rng.pick(&TYPES);
        match self.rng.below(8) {
            0 => self.value(ty),
            1 => {
                let (a, b) = (self.value(ty), self.value(ty));
                let bits = self.b.ins().band(a, b);
                let zero = self.b.ins().iconst(ty, 0);
                let cc = self.rng.pick(&[IntCC::Equal, IntCC::NotEqual]);
                self.b.ins().icmp(cc, bits, zero)
            }
            2 => {
                let (a, b) = (self.value(ty), self.value(ty));
                self.b.ins().band(a, b)
            }
            3 => {
                let inner = self.condition();
                let ty = self.b.func.dfg.value_type(inner);
                let one = self.b.ins().iconst(ty, 1);
                self.b.ins().bxor(inner, one)
            }
            _ => {
                let (a, b) = (self.value(ty), self.value(ty));
                let cc = self.condition_code();
                self.b.ins().icmp(cc, a, b)
            }
        }
    }

    fn operation(&mut self, ty: Type) -> Value {
        let a = self.value(ty);
        match self.rng.below(40) {
            0..=3 => {
                let b = self.value(ty);
                self.b.ins().iadd(a, b)
            }
            4..=5 => {
                let b = self.value(ty);
                self.b.ins().isub(a, b)
            }
            6..=7 => {
                let b = self.value(ty);
                self.b.ins().imul(a, b)
            }
            8..=9 => {
                let b = self.value(ty);
                self.b.ins().band(a, b)
            }
            10 => {
                let b = self.value(ty);
                self.b.ins().bor(a, b)
            }
            11 => {
                let b = self.value(ty);
                self.b.ins().bxor(a, b)
            }
            12..=14 => {
                let amount_ty = self.rng.pick(&TYPES);
                let amount = self.value(amount_ty);
                match self.rng.below(3) {
                    0 => self.b.ins().ishl(a, amount),
                    1 => self.b.ins().ushr(a, amount),
                    _ => self.b.ins().sshr(a, amount),
                }
            }
            15..=16 => {
                let amount = self.value(ty);
                if self.rng.below(2) == 0 {
                    self.b.ins().rotl(a, amount)
                } else {
                    self.b.ins().rotr(a, amount)
                }
            }
            17..=18 => self.division(a, ty),
            19 => {
                let (b, c) = (self.value(ty), self.value(ty));
                self.b.ins().bitselect(a, b, c)
            }
            20..=22 => {
                let condition = self.condition();
                let b = self.value(ty);
                self.b.ins().select(condition, a, b)
            }
            23 => {
                let b = self.value(ty);
                match self.rng.below(4) {
                    0 => self.b.ins().umin(a, b),
                    1 => self.b.ins().umax(a, b),
                    2 => self.b.ins().smin(a, b),
                    _ => self.b.ins().smax(a, b),
                }
            }
            24 => self.b.ins().ineg(a),
            25 => self.b.ins().bnot(a),
            26 => self.b.ins().iabs(a),
            27 => self.b.ins().popcnt(a),
            28 => self.b.ins().clz(a),
            29 => self.b.ins().ctz(a),
            30 if ty != types::I8 => self.b.ins().bswap(a),
            31 => {
                let from = self.rng.pick(&TYPES);
                let value = self.value(from);
                self.b.ins().bmask(ty, value)
            }
            32..=33 if ty == types::I8 => self.condition_value(),
            34 => {
                let b = self.value(ty);
                if self.rng.below(2) == 0 {
                    self.b.ins().umulhi(a, b)
                } else {
                    self.b.ins().smulhi(a, b)
                }
            }
            35 => {
                let pin = self.pin(ty);
                let call = self.b.ins().call(pin, &[a]);
                self.b.inst_results(call)[0]
            }
            36 => {
                let from = self.rng.pick(&TYPES);
                let value = self.value(from);
                self.convert(value, from, ty)
            }
            37 => {
                // Extending and truncating loads.
                let offset = self.rng.below(INPUT_BYTES as u64 - 8) as i32;
                let (flags, data) = (Self::flags(), self.data);
                match (self.rng.below(6), ty) {
                    (0, types::I16 | types::I32 | types::I64) => self.b.ins().uload8(ty, flags, data, offset),
                    (1, types::I16 | types::I32 | types::I64) => self.b.ins().sload8(ty, flags, data, offset),
                    (2, types::I32 | types::I64) => self.b.ins().uload16(ty, flags, data, offset),
                    (3, types::I32 | types::I64) => self.b.ins().sload16(ty, flags, data, offset),
                    (4, types::I64) => self.b.ins().uload32(flags, data, offset),
                    (5, types::I64) => self.b.ins().sload32(flags, data, offset),
                    _ => self.b.ins().load(ty, flags, data, offset),
                }
            }
            38 => {
                // A mask and a comparison of the same value, as bounds checks have it.
                let mask = self.b.ins().iconst(ty, 31);
                let low = self.b.ins().band(a, mask);
                let limit = self.b.ins().iconst(ty, 20);
                let below = self.b.ins().icmp(IntCC::UnsignedLessThan, low, limit);
                self.b.ins().select(below, low, limit)
            }
            _ => {
                let b = self.value(ty);
                self.b.ins().iadd(a, b)
            }
        }
    }

    fn condition_value(&mut self) -> Value {
        let ty = self.rng.pick(&TYPES);
        let (a, b) = (self.value(ty), self.value(ty));
        let cc = self.condition_code();
        self.b.ins().icmp(cc, a, b)
    }

    /// A division with a divisor that is not 0, and not -1 if signed.
    fn division(&mut self, a: Value, ty: Type) -> Value {
        let signed = self.rng.below(2) == 0;
        let mask = if ty == types::I64 { u64::MAX } else { (1 << ty.bits()) - 1 };
        let divisor = if self.rng.below(2) == 0 {
            let mut value = self.rng.number() as u64 & mask;
            if value == 0 || value == mask {
                value = 10;
            }
            self.b.ins().iconst(ty, value as i64)
        } else {
            let b = self.value(ty);
            let one = self.b.ins().iconst(ty, 1);
            let odd = self.b.ins().bor(b, one);
            let minus_one = self.b.ins().iconst(ty, mask as i64);
            let bad = self.b.ins().icmp(IntCC::Equal, odd, minus_one);
            let seven = self.b.ins().iconst(ty, 7);
            self.b.ins().select(bad, seven, odd)
        };
        match (signed, self.rng.below(2)) {
            (false, 0) => self.b.ins().udiv(a, divisor),
            (false, _) => self.b.ins().urem(a, divisor),
            (true, 0) => self.b.ins().sdiv(a, divisor),
            (true, _) => self.b.ins().srem(a, divisor),
        }
    }

    fn slot(&mut self) -> StackSlot {
        let slots = self.slots.clone();
        self.rng.pick(&slots)
    }

    fn memory_access(&mut self) {
        let ty = self.rng.pick(&TYPES);
        let flags = Self::flags();
        match self.rng.below(5) {
            0..=1 => {
                let value = self.value(ty);
                let (address, offset) = self.place(ty.bytes());
                self.b.ins().store(flags, value, address, offset);
            }
            2 => {
                let value = self.value(types::I64);
                let (address, offset) = self.place(ty.bytes());
                match ty.bits() {
                    8 => self.b.ins().istore8(flags, value, address, offset),
                    16 => self.b.ins().istore16(flags, value, address, offset),
                    32 => self.b.ins().istore32(flags, value, address, offset),
                    _ => self.b.ins().store(flags, value, address, offset),
                };
            }
            3 => {
                let (address, offset) = self.place(ty.bytes());
                let value = self.b.ins().load(ty, flags, address, offset);
                self.keep(value);
            }
            _ => {
                // At a variable offset.
                let index = self.value(types::I64);
                let mask = self.b.ins().iconst(types::I64, i64::from(SLOT_BYTES) - 8);
                let masked = self.b.ins().band(index, mask);
                let (base, _) = self.place(SLOT_BYTES);
                let address = self.b.ins().iadd(base, masked);
                let value = self.b.ins().load(types::I64, flags, address, 0);
                self.keep(value);
            }
        }
    }

    fn packet_access(&mut self) {
        let ty = self.rng.pick(&TYPES);
        let flags = Self::flags();
        if self.rng.below(2) == 0 {
            let offset = self.rng.below(PACKET_BYTES as u64 - 8) as i32;
            let value = self.b.ins().load(ty, flags, self.data, offset);
            self.keep(value);
        } else {
            let value = self.value(ty);
            let offset = INPUT_BYTES + self.rng.below(PACKET_BYTES as u64 - INPUT_BYTES as u64 - 8) as i32;
            let part = self.rng.below(16) as i32;
            let part = self.b.ins().iconst(types::I64, i64::from(part.min(offset)));
            let base = self.b.ins().iadd(self.data, part);
            let rest = offset - 16;
            self.b.ins().store(flags, value, base, rest);
        }
    }

    /// Reads at a variable offset, with its own bounds check.
    fn moving_packet_access(&mut self) {
        let flags = Self::flags();
        let ty = self.rng.pick(&TYPES);
        let index_ty = self.rng.pick(&TYPES);
        let index = self.value(index_ty);
        let mask = self.b.ins().iconst(index_ty, 63);
        let masked = self.b.ins().band(index, mask);
        let wide = if index_ty == types::I64 {
            masked
        } else {
            self.b.ins().uextend(types::I64, masked)
        };
        let at = self.b.ins().iadd(self.data, wide);
        let size = self.b.ins().iconst(types::I64, 8);
        let end = self.b.ins().iadd(at, size);
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, self.data_end);
        let inside = self.b.create_block();
        self.b.ins().brif(beyond, self.fail, &[], inside, &[]);
        self.b.switch_to_block(inside);
        let value = self.b.ins().load(ty, flags, at, 0);
        self.keep(value);
    }

    fn atomic(&mut self) {
        let ty = self.rng.pick(&[types::I32, types::I64]);
        let value = self.value(ty);
        let (base, offset) = self.place(ty.bytes());
        let offset = self.b.ins().iconst(types::I64, i64::from(offset));
        let address = self.b.ins().iadd(base, offset);
        let flags = Self::flags();
        let result = match self.rng.below(9) {
            0 => {
                let expected = if self.rng.below(2) == 0 {
                    self.b.ins().load(ty, flags, address, 0)
                } else {
                    self.value(ty)
                };
                self.b.ins().atomic_cas(flags, address, expected, value)
            }
            1 => self.b.ins().atomic_load(ty, flags, address),
            2 => {
                self.b.ins().atomic_store(flags, value, address);
                return;
            }
            _ => {
                use AtomicRmwOp::*;
                let op = self.rng.pick(&[Add, Sub, And, Or, Xor, Xchg]);
                self.b.ins().atomic_rmw(ty, flags, op, address, value)
            }
        };
        if self.rng.below(2) == 0 {
            self.keep(result);
        }
    }

    /// A call that clobbers registers and writes memory: packet bytes into a slot.
    fn helper(&mut self) {
        let slot = self.slot();
        let offset = self.rng.below(PACKET_BYTES as u64 - u64::from(SLOT_BYTES)) as i64;
        let len = self.rng.pick(&[1, 4, 8, i64::from(SLOT_BYTES)]);
        let offset = self.b.ins().iconst(types::I64, offset);
        let len = self.b.ins().iconst(types::I64, len);
        let buffer = self.b.ins().stack_addr(types::I64, slot, 0);
        let function = self.load_bytes.expect("declared at the start");
        let call = self.b.ins().call(function, &[self.context, offset, buffer, len]);
        let result = self.b.inst_results(call)[0];
        self.keep(result);
    }

    fn branch(&mut self, depth: u32) {
        if depth >= 4 {
            return;
        }
        let condition = self.condition();
        let (yes, no, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        if self.rng.below(4) == 0 {
            let cold = self.rng.pick(&[yes, no]);
            self.b.set_cold_block(cold);
        }
        // A value that the arms pass to the join.
        let ty = self.rng.pick(&TYPES);
        let joined = self.b.append_block_param(after, ty);
        let one_armed = self.rng.below(2) == 0;
        if one_armed {
            let direct = self.value(ty);
            self.b.ins().brif(condition, yes, &[], after, &[BlockArg::Value(direct)]);
        } else {
            self.b.ins().brif(condition, yes, &[], no, &[]);
        }
        for (arm, used) in [(yes, true), (no, !one_armed)] {
            if !used {
                continue;
            }
            self.b.switch_to_block(arm);
            let scope = self.pool.len();
            let budget = 1 + self.rng.below(4) as i32;
            self.statements(budget, depth + 1);
            let value = self.value(ty);
            self.pool.truncate(scope);
            self.b.ins().jump(after, &[BlockArg::Value(value)]);
        }
        if one_armed {
            // Unreachable blocks must be filled too; they are removed.
            self.b.switch_to_block(no);
            let zero = self.b.ins().iconst(types::I64, 0);
            self.b.ins().return_(&[zero]);
        }
        self.b.switch_to_block(after);
        self.pool.push(joined);
    }

    fn table(&mut self, depth: u32) {
        if depth >= 3 {
            return;
        }
        let ty = self.rng.pick(&TYPES);
        let index = self.value(ty);
        let mask = self.b.ins().iconst(ty, 7);
        let index = self.b.ins().band(index, mask);
        let index = if ty.bits() > 32 {
            self.b.ins().ireduce(types::I32, index)
        } else {
            index
        };
        let index = if ty.bits() < 32 {
            self.b.ins().uextend(types::I32, index)
        } else {
            index
        };
        let after = self.b.create_block();
        let arms: Vec<Block> = (0..1 + self.rng.below(4)).map(|_| self.b.create_block()).collect();
        let result_ty = self.rng.pick(&TYPES);
        let joined = self.b.append_block_param(after, result_ty);
        let direct = self.value(result_ty);
        let calls: Vec<_> = arms.iter().map(|arm| self.b.func.dfg.block_call(*arm, &[])).collect();
        let default = self.b.func.dfg.block_call(after, &[BlockArg::Value(direct)]);
        let table = self.b.create_jump_table(JumpTableData::new(default, &calls));
        self.b.ins().br_table(index, table);
        for arm in arms {
            self.b.switch_to_block(arm);
            let scope = self.pool.len();
            self.statements(1, depth + 1);
            let value = self.value(result_ty);
            self.pool.truncate(scope);
            self.b.ins().jump(after, &[BlockArg::Value(value)]);
        }
        self.b.switch_to_block(after);
        self.pool.push(joined);
    }

    fn bounded_loop(&mut self, depth: u32) {
        if depth >= 2 {
            return;
        }
        self.loops += 1;
        let ty = self.rng.pick(&[types::I32, types::I64]);
        let header = self.b.create_block();
        let (body, after) = (self.b.create_block(), self.b.create_block());
        let counter = self.b.append_block_param(header, ty);
        let zero = self.b.ins().iconst(ty, 0);
        self.b.ins().jump(header, &[BlockArg::Value(zero)]);
        self.b.switch_to_block(header);
        let limit = 1 + self.rng.below(6) as i64;
        let limit = self.b.ins().iconst(ty, limit);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, counter, limit);
        self.b.ins().brif(more, body, &[], after, &[]);
        self.b.switch_to_block(body);
        let scope = self.pool.len();
        self.pool.push(counter);
        let budget = 1 + self.rng.below(4) as i32;
        self.statements(budget, depth + 1);
        self.pool.truncate(scope);
        let one = self.b.ins().iconst(ty, 1);
        let next = self.b.ins().iadd(counter, one);
        self.b.ins().jump(header, &[BlockArg::Value(next)]);
        self.b.switch_to_block(after);
    }
}
