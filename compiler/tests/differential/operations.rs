//! Every operation on every type, with operands in registers and as constants on either side, as CLIF text.
//!
//! The random programs meet all of this too, but an operation that needs a long sequence must not depend on luck.

/// Bytes of input, two operands, before the results.
const RESULTS: usize = 64;

const TYPES: [(&str, u32); 4] = [("i8", 8), ("i16", 16), ("i32", 32), ("i64", 64)];

const BINARY: &[&str] = &[
    "iadd", "isub", "imul", "umulhi", "smulhi", "band", "bor", "bxor", "rotl", "rotr", "ishl", "ushr", "sshr", "umin", "umax", "smin",
    "smax",
];

const DIVISIONS: &[&str] = &["udiv", "urem", "sdiv", "srem"];

const UNARY: &[&str] = &["ineg", "bnot", "iabs", "popcnt", "clz", "ctz", "bswap"];

const CONDITIONS: &[&str] = &["eq", "ne", "ult", "ule", "ugt", "uge", "slt", "sle", "sgt", "sge"];

/// Operands that find edge cases.
const NUMBERS: &[i64] = &[
    0,
    1,
    2,
    7,
    10,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1234_5678_9abc_def0,
    i64::MAX,
    i64::MIN,
    -1,
    -2,
    -10,
    -0x8000_0001,
];

/// A program and what it is about.
pub struct Operation {
    pub name: String,
    pub clif: String,
}

struct Text {
    lines: String,
    next: u32,
    results: usize,
}

impl Text {
    fn value(&mut self, definition: &str) -> String {
        self.next += 1;
        let name = format!("v{}", self.next);
        self.lines.push_str(&format!("    {name} = {definition}\n"));
        name
    }

    fn constant(&mut self, (ty, bits): (&str, u32), value: i64) -> String {
        let value = if bits == 64 { value } else { value & ((1 << bits) - 1) };
        self.value(&format!("iconst.{ty} {value}"))
    }

    fn result(&mut self, value: &str) {
        let offset = RESULTS + 8 * self.results;
        self.results += 1;
        assert!(offset + 8 <= super::generate::PACKET_BYTES, "room for the results");
        self.lines.push_str(&format!("    store notrap {value}, v2+{offset}\n"));
    }

    fn finish(self, name: String) -> Operation {
        let clif = format!(
            "function u0:0(i64) -> i64 system_v {{
block0(v0: i64):
    v1 = load.i32 notrap v0
    v2 = uextend.i64 v1
    v3 = load.i32 notrap v0+4
    v4 = uextend.i64 v3
    v5 = iconst.i64 {}
    v6 = iadd v2, v5
    v7 = icmp ugt v6, v4
    brif v7, block1, block2
block1:
    v8 = iconst.i64 0
    return v8
block2:
{}    v9 = iconst.i64 1
    return v9
}}",
            super::generate::PACKET_BYTES,
            self.lines
        );
        Operation { name, clif }
    }
}

/// A program with operands `a` and `b` of one type in the packet.
fn with_operands(ty: &str) -> (Text, String, String) {
    let mut text = Text {
        lines: String::new(),
        next: 10,
        results: 0,
    };
    let a = text.value(&format!("load.{ty} notrap v2"));
    let b = text.value(&format!("load.{ty} notrap v2+8"));
    (text, a, b)
}

/// All programs.
pub fn all() -> Vec<Operation> {
    let mut all = Vec::new();
    for ty in TYPES {
        for op in BINARY {
            let (mut text, a, b) = with_operands(ty.0);
            let r = text.value(&format!("{op} {a}, {b}"));
            text.result(&r);
            for number in [1, 3, 0x7f, -1, -0x80, 0xffff_ffff, 0x1_0000_0003] {
                let c = text.constant(ty, number);
                let r = text.value(&format!("{op} {a}, {c}"));
                text.result(&r);
                let r = text.value(&format!("{op} {c}, {b}"));
                text.result(&r);
            }
            all.push(text.finish(format!("{op}.{}", ty.0)));
        }
        for op in DIVISIONS {
            let (mut text, a, b) = with_operands(ty.0);
            // Neither 0 nor -1: those trap on x86.
            let one = text.constant(ty, 1);
            let odd = text.value(&format!("bor {b}, {one}"));
            let minus = text.constant(ty, -1);
            let bad = text.value(&format!("icmp eq {odd}, {minus}"));
            let seven = text.constant(ty, 7);
            let divisor = text.value(&format!("select {bad}, {seven}, {odd}"));
            let r = text.value(&format!("{op} {a}, {divisor}"));
            text.result(&r);
            for number in [1, 2, 3, 10, 60, 0x7f, 0x80, -2, -3, -10, 0x7fff_ffff, 0x1_0000_0003, i64::MIN] {
                let masked = if ty.1 == 64 { number } else { number & ((1 << ty.1) - 1) };
                if masked != 0 && masked != (if ty.1 == 64 { -1 } else { (1 << ty.1) - 1 }) {
                    let c = text.constant(ty, number);
                    let r = text.value(&format!("{op} {a}, {c}"));
                    text.result(&r);
                }
            }
            all.push(text.finish(format!("{op}.{}", ty.0)));
        }
        let (mut text, a, b) = with_operands(ty.0);
        for op in UNARY.iter().filter(|op| **op != "bswap" || ty.0 != "i8") {
            let r = text.value(&format!("{op} {a}"));
            text.result(&r);
        }
        let r = text.value(&format!("bitselect {a}, {b}, {a}"));
        text.result(&r);
        for to in TYPES {
            let r = text.value(&format!("bmask.{} {a}", to.0));
            text.result(&r);
        }
        all.push(text.finish(format!("unary.{}", ty.0)));

        let (mut text, a, _) = with_operands(ty.0);
        for to in TYPES {
            let ops: &[&str] = if to.1 > ty.1 {
                &["uextend", "sextend"]
            } else if to.1 < ty.1 {
                &["ireduce"]
            } else {
                &[]
            };
            for op in ops {
                let r = text.value(&format!("{op}.{} {a}", to.0));
                // Once more through 64 bits, where a wrong high half shows.
                let r = if to.1 < 64 { text.value(&format!("uextend.i64 {r}")) } else { r };
                text.result(&r);
            }
        }
        all.push(text.finish(format!("convert.{}", ty.0)));

        for cc in CONDITIONS {
            let (mut text, a, b) = with_operands(ty.0);
            let r = text.value(&format!("icmp {cc} {a}, {b}"));
            text.result(&r);
            let r = text.value(&format!("select {r}, {a}, {b}"));
            text.result(&r);
            for number in [0, 1, 0x7f, -1, 0xffff_ffff, 0x8000_0000, 0x1_0000_0000] {
                let c = text.constant(ty, number);
                let r = text.value(&format!("icmp {cc} {a}, {c}"));
                text.result(&r);
                let test = text.value(&format!("icmp {cc} {c}, {b}"));
                let r = text.value(&format!("select {test}, {c}, {a}"));
                text.result(&r);
            }
            all.push(text.finish(format!("icmp {cc} {}", ty.0)));
        }
    }
    // What selection believes about the high bits of a value.
    for to in &TYPES[..3] {
        for extra in -1..=1 {
            let (mut text, a, b) = with_operands("i64");
            let shift = text.constant(TYPES[3], i64::from(64 - to.1) + extra);
            let mask = text.constant(TYPES[3], (1_i64 << (i64::from(to.1) - extra)) - 1);
            let mut narrow = Vec::new();
            for wide in [format!("ushr {a}, {shift}"), format!("band {b}, {mask}")] {
                let wide = text.value(&wide);
                let cut = text.value(&format!("ireduce.{} {wide}", to.0));
                for extend in ["uextend", "sextend"] {
                    let r = text.value(&format!("{extend}.i64 {cut}"));
                    text.result(&r);
                }
                narrow.push(cut);
            }
            for cc in ["slt", "sge", "ult", "eq"] {
                let r = text.value(&format!("icmp {cc} {}, {}", narrow[0], narrow[1]));
                text.result(&r);
            }
            let r = text.value(&format!("bxor {}, {}", narrow[0], narrow[1]));
            let r = text.value(&format!("uextend.i64 {r}"));
            text.result(&r);
            all.push(text.finish(format!("high bits {} {extra}", to.0)));
        }
    }
    all
}

/// Packets with every pair of interesting operands.
pub fn packets() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for a in NUMBERS {
        for b in NUMBERS {
            let mut packet = vec![0; super::generate::PACKET_BYTES];
            packet[..8].copy_from_slice(&a.to_le_bytes());
            packet[8..16].copy_from_slice(&b.to_le_bytes());
            packets.push(packet);
        }
    }
    packets
}
