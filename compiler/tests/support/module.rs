//! The types of a module as the kernel shows them: numbers and names go on where those of the kernel end.

use weir_compiler::btf::{Btf, Kind, TypeId};

/// Types that stand behind those of `base`: `int NAME(struct sk_buff *skb, struct STATS *stats)` and `struct STATS { int drops; }`.
pub fn module(base: &Btf, base_blob: &[u8], function: &str, stats: &str) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(base_blob[at..at + 4].try_into().unwrap());
    let (names_before, types_before) = (word(20), base.type_count());
    let mut names = Vec::new();
    let mut name = |text: &str| {
        let at = names_before + names.len() as u32;
        names.extend_from_slice(text.as_bytes());
        names.push(0);
        at
    };
    let info = |kind: Kind, len: u32| (kind as u32) << 24 | len;
    let (int, skb) = (base.find_base("int").unwrap(), base.find_struct("sk_buff").unwrap_or(TypeId::VOID));
    let own = |n: u32| types_before + n;
    let types: Vec<u32> = [
        // 1: struct sk_buff *
        vec![0, info(Kind::Ptr, 0), skb.0],
        // 2: struct STATS
        vec![name(stats), info(Kind::Struct, 1), 4, name("drops"), int.0, 0],
        // 3: struct STATS *
        vec![0, info(Kind::Ptr, 0), own(2)],
        // 4: its prototype
        vec![0, info(Kind::FuncProto, 2), int.0, name("skb"), own(1), name("stats"), own(3)],
        // 5: the function
        vec![name(function), info(Kind::Func, 0), own(4)],
    ]
    .concat();
    let mut blob = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, types.len() as u32 * 4, types.len() as u32 * 4, names.len() as u32] {
        blob.extend_from_slice(&word.to_le_bytes());
    }
    types.iter().for_each(|word| blob.extend_from_slice(&word.to_le_bytes()));
    blob.extend_from_slice(&names);
    blob
}
