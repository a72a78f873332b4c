//! The BTF reader: against types built here, against the running kernel's types, against damaged blobs.

#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is the failure.

use std::time::Instant;
use weir_compiler::btf::{Btf, BtfError, BtfType, Kind, Linkage, TypeId};
use weir_compiler::elf::btf_build::{BtfBuilder, Field, IntEncoding, LinkageKind};

#[path = "support/module.rs"]
mod module;

/// A blob with every kind of type.
fn every_kind() -> Vec<u8> {
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, IntEncoding::Signed);
    let u64 = b.int("long unsigned int", 8, IntEncoding::Unsigned);
    let char = b.int("char", 1, IntEncoding::Char);
    let bool = b.int("_Bool", 1, IntEncoding::Bool);
    let be32 = b.typedef("__be32", int);
    let pair = b.structure(
        "",
        8,
        &[Field::at_byte("skc_daddr", be32, 0), Field::at_byte("skc_rcv_saddr", be32, 4)],
    );
    let either = b.union("", 8, &[Field::at_byte("skc_addrpair", u64, 0), Field::at_byte("", pair, 0)]);
    let bit = |name, bit_offset, bitfield_size| Field {
        name,
        ty: int,
        bit_offset,
        bitfield_size,
    };
    let common = b.structure(
        "sock_common",
        16,
        &[
            Field {
                name: "",
                ty: either,
                bit_offset: 0,
                bitfield_size: 0,
            },
            bit("skc_reuse", 64, 4),
            bit("skc_reuseport", 68, 1),
            Field {
                name: "skc_state",
                ty: char,
                bit_offset: 72,
                bitfield_size: 0,
            },
        ],
    );
    let comm = b.array(char, int, 16);
    let matrix = b.array(comm, int, 3);
    let fwd = b.forward("net", false);
    let net = b.ptr(fwd);
    b.structure(
        "sock",
        96,
        &[
            Field::at_byte("__sk_common", common, 0),
            Field::at_byte("comm", comm, 16),
            Field::at_byte("names", matrix, 32),
            Field::at_byte("net", net, 80),
            Field::at_byte("ok", bool, 88),
        ],
    );
    b.union("sock", 4, &[Field::at_byte("a", int, 0)]);
    b.enumeration("state", 4, true, &[("STATE_NONE", -1), ("STATE_OPEN", 1)]);
    b.enumeration("", 4, false, &[("FLAG_HIGH", -1)]);
    b.enumeration64("big", true, &[("BIG_NEGATIVE", -5_000_000_000), ("BIG", 1 << 40)]);
    let konst = b.qualifier(Kind::Const, char);
    let text = b.ptr(konst);
    let volatile = b.qualifier(Kind::Volatile, int);
    let tagged = b.type_tag("rcu", volatile);
    let shy = b.ptr(tagged);
    let restrict = b.qualifier(Kind::Restrict, shy);
    let proto = b.func_proto(int, &[("text", text), ("shy", restrict), ("", TypeId::VOID)]);
    let func = b.func("print_it", proto, LinkageKind::Global);
    b.decl_tag("kfunc", func, -1);
    let hook = b.ptr(proto);
    b.typedef("hook_t", hook);
    b.float("double", 8);
    let counter = b.var("counter", u64, LinkageKind::Static);
    b.datasec(".data", 8, &[(counter, 0, 8)]);
    b.forward("either", true);
    b.finish()
}

fn load(blob: Vec<u8>) -> Btf {
    Btf::from_bytes(blob).unwrap()
}

#[test]
fn every_kind_is_decoded() {
    let btf = load(every_kind());
    assert_eq!(btf.check(), Ok(()));
    let mut seen: Vec<u8> = btf.ids().map(|id| btf.kind(id).unwrap() as u8).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (1..=19).collect::<Vec<u8>>());
    assert!(btf.ids().all(|id| btf.type_by_id(id).is_some()));
    assert!(matches!(btf.type_by_id(TypeId::VOID), Some(BtfType::Void)));
    assert!(btf.type_by_id(TypeId(btf.type_count() + 1)).is_none());

    let Some(BtfType::Int(int)) = btf.type_by_id(btf.find_base("int").unwrap()) else {
        panic!()
    };
    assert_eq!((int.size, int.bits, int.offset, int.signed, int.bool), (4, 32, 0, true, false));
    let Some(BtfType::Int(bool)) = btf.type_by_id(btf.find_base("_Bool").unwrap()) else {
        panic!()
    };
    assert!(bool.bool && !bool.signed);
    let Some(BtfType::Func { name, linkage, .. }) = btf.type_by_id(btf.find_func("print_it").unwrap()) else {
        panic!()
    };
    assert_eq!((name, linkage), ("print_it", Linkage::Global));
    let mut data = btf.ids().filter_map(|id| match btf.type_by_id(id) {
        Some(BtfType::DataSec(data)) => Some(data),
        _ => None,
    });
    let data = data.next().unwrap();
    let variable = data.variables().next().unwrap();
    assert_eq!((data.name, variable.offset, variable.size), (".data", 0, 8));
    assert!(matches!(
        btf.type_by_id(variable.var),
        Some(BtfType::Var {
            name: "counter",
            linkage: Linkage::Static,
            ..
        })
    ));
    let tag = btf.ids().find_map(|id| match btf.type_by_id(id) {
        Some(BtfType::DeclTag { name, component, target }) => Some((name, component, target)),
        _ => None,
    });
    assert_eq!(tag, Some(("kfunc", -1, btf.find_func("print_it").unwrap())));
}

#[test]
fn names_find_the_right_kind() {
    let btf = load(every_kind());
    assert_eq!(btf.kind(btf.find_struct("sock").unwrap()), Some(Kind::Struct));
    assert_eq!(btf.kind(btf.find_union("sock").unwrap()), Some(Kind::Union));
    assert_eq!(btf.find_struct("net"), None, "only declared");
    assert_eq!(btf.find_struct("soc"), None);
    assert_eq!(btf.find_struct("ock"), None);
    assert_eq!(btf.find_struct(""), None);
    assert_eq!(btf.find_struct("a\0b"), None);
    assert_eq!(btf.kind(btf.find_enum("big").unwrap()), Some(Kind::Enum64));
    assert!(btf.find_typedef("hook_t").is_some() && btf.find_func("hook_t").is_none());
    assert_eq!(btf.struct_names().collect::<Vec<_>>(), ["sock_common", "sock"]);
    assert_eq!(btf.func_names().collect::<Vec<_>>(), ["print_it"]);
}

#[test]
fn fields_are_found_through_anonymous_members() {
    let btf = load(every_kind());
    let sock = btf.find_struct("sock").unwrap();
    let common = btf.member(sock, "__sk_common").unwrap();
    assert_eq!((common.bit_offset, common.bitfield_size), (0, 0));
    let addr = btf.member(common.ty, "skc_rcv_saddr").unwrap();
    assert_eq!(
        (addr.byte_offset(), btf.size_of(addr.ty), btf.c_name(addr.ty)),
        (4, Some(4), "__be32".to_owned())
    );
    let bit = btf.member(common.ty, "skc_reuseport").unwrap();
    assert_eq!((bit.bit_offset, bit.bitfield_size), (68, 1));
    let state = btf.member(common.ty, "skc_state").unwrap();
    assert_eq!(
        (state.bit_offset, state.bitfield_size),
        (72, 0),
        "not a bit-field next to bit-fields"
    );
    assert_eq!(btf.member(sock, "skc_daddr"), None, "`__sk_common` has a name");
    assert_eq!(btf.member(sock, ""), None);
    assert_eq!(btf.member(btf.find_base("int").unwrap(), "x"), None);
    let names: Vec<&str> = btf.member_names(common.ty).collect();
    assert_eq!(
        names,
        [
            "skc_addrpair",
            "skc_daddr",
            "skc_rcv_saddr",
            "skc_reuse",
            "skc_reuseport",
            "skc_state"
        ]
    );
}

#[test]
fn sizes_and_c_names() {
    let btf = load(every_kind());
    let sock = btf.find_struct("sock").unwrap();
    let shown = |field: &str| {
        let ty = btf.member(sock, field).unwrap().ty;
        (btf.c_name(ty), btf.size_of(ty))
    };
    assert_eq!(shown("comm"), ("char[16]".to_owned(), Some(16)));
    assert_eq!(shown("names"), ("char[3][16]".to_owned(), Some(48)));
    assert_eq!(shown("net"), ("struct net *".to_owned(), Some(8)));
    assert_eq!(btf.size_of(sock), Some(96));
    assert_eq!(btf.size_of(TypeId::VOID), None);
    let hook = btf.find_typedef("hook_t").unwrap();
    assert_eq!(btf.c_name(hook), "hook_t");
    assert_eq!(btf.c_name(btf.resolve(hook)), "int (*)(const char *, volatile int *restrict, ...)");
    let proto = btf.func_proto("print_it").unwrap();
    let params: Vec<(&str, String)> = proto.params().map(|p| (p.name, btf.c_name(p.ty))).collect();
    assert_eq!(params[0], ("text", "const char *".to_owned()));
    assert!(proto.is_variadic() && btf.c_name(proto.ret) == "int");
    assert!(btf.func_proto("nothing").is_none());
}

#[test]
fn enumerators() {
    let btf = load(every_kind());
    let value = |name: &str| btf.enumerator(name).map(|(value, _)| value);
    assert_eq!(value("STATE_NONE"), Some(-1));
    assert_eq!(value("FLAG_HIGH"), Some(0xffff_ffff));
    assert_eq!(value("BIG_NEGATIVE"), Some(-5_000_000_000));
    assert_eq!(value("BIG"), Some(1 << 40));
    assert_eq!(value("STATE"), None);
    assert_eq!(btf.enumerator("BIG").unwrap().1, btf.find_enum("big").unwrap());
    assert_eq!(btf.enumerators().count(), 5);
}

/// Asked before and after the index is made, by whoever asks first and by whoever asks again.
#[test]
fn walks_and_the_index_give_the_same_answers() {
    let blob = every_kind();
    let names = [
        "int",
        "sock",
        "sock_common",
        "net",
        "state",
        "big",
        "__be32",
        "hook_t",
        "print_it",
        "double",
        "counter",
        "rcu",
        "kfunc",
        "no",
        "",
    ];
    let ask = |btf: &Btf, name: &str| {
        (
            btf.find_struct(name),
            btf.find_union(name),
            btf.find_enum(name),
            btf.find_typedef(name),
            btf.find_func(name),
            btf.find_base(name),
        )
    };
    let indexed = load(blob.clone());
    assert!(indexed.type_count() > 30);
    for name in names {
        let walked = load(blob.clone());
        let expected = ask(&indexed, name);
        assert_eq!(ask(&walked, name), expected, "{name}");
        assert_eq!(ask(&walked, name), expected, "{name}, once more");
    }
    // So many questions that the walks give way to the index on the way.
    let asked = load(blob.clone());
    for round in 0..100 {
        let unknown = format!("unknown {round}");
        assert_eq!(ask(&asked, &unknown), ask(&indexed, &unknown));
        for name in names {
            assert_eq!(ask(&asked, name), ask(&indexed, name), "{name} in round {round}");
        }
    }
    // By number, in both directions, from types that nobody has walked to yet.
    let (up, down) = (load(blob.clone()), load(blob));
    for id in indexed.ids() {
        assert_eq!(up.kind(id), indexed.kind(id), "{id:?}");
        assert_eq!(up.c_name(id), indexed.c_name(id), "{id:?}");
    }
    for id in indexed.ids().collect::<Vec<_>>().into_iter().rev() {
        assert_eq!(down.kind(id), indexed.kind(id), "{id:?}");
    }
    assert_eq!(down.kind(TypeId(indexed.type_count() + 1)), None);
    assert_eq!(down.kind(TypeId::VOID), None);
}

#[test]
fn headers_are_checked() {
    let good = every_kind();
    let with = |at: usize, bytes: &[u8]| {
        let mut blob = good.clone();
        blob[at..at + bytes.len()].copy_from_slice(bytes);
        Btf::from_bytes(blob).map(|_| ()).unwrap_err()
    };
    assert_eq!(Btf::from_bytes(vec![0x9f, 0xeb]).unwrap_err(), BtfError::TooShort(2));
    assert_eq!(with(0, &[0xeb, 0x9f]), BtfError::Magic(0x9feb));
    assert_eq!(with(2, &[2]), BtfError::Version(2));
    assert_eq!(with(4, &[0xff; 4]), BtfError::Bounds(good.len()));
    assert_eq!(with(8, &[0xff; 4]), BtfError::Bounds(good.len()));
    assert_eq!(with(20, &[0xff; 4]), BtfError::Bounds(good.len()));
}

#[test]
fn damage_keeps_what_came_before() {
    let mut b = BtfBuilder::new();
    b.int("int", 4, IntEncoding::Signed);
    b.structure("late", 4, &[]);
    let mut blob = b.finish();
    // The kind of the second type: 12 common bytes and 4 of the integer after the header.
    blob[24 + 16 + 7] = 0x1f;
    let btf = load(blob);
    assert_eq!(btf.check(), Err(BtfError::Types { last_good: 1, offset: 16 }));
    assert!(btf.find_base("int").is_some() && btf.find_struct("late").is_none());
}

/// Asks everything that a compiler may ask.
/// With `names_first`, before anything has made the index.
fn ask_everything(btf: &Btf, names_first: bool) {
    if names_first {
        ask_names(btf);
    }
    let _ = btf.check();
    for id in btf.ids().chain([TypeId(u32::MAX)]) {
        let _ = format!("{:?}", btf.type_by_id(id));
        let _ = btf.c_name(id);
        let _ = (btf.size_of(id), btf.resolve(id), btf.member(id, "skc_daddr"), btf.fields(id).len());
    }
    ask_names(btf);
    let _ = (btf.struct_names().count(), btf.enumerators().count());
}

fn ask_names(btf: &Btf) {
    for name in ["sock", "sock_common", "int", "print_it", "hook_t", "state", "BIG", "a"] {
        let _ = (
            btf.find_struct(name),
            btf.find_union(name),
            btf.find_enum(name),
            btf.find_typedef(name),
            btf.find_func(name),
        );
        let _ = (btf.enumerator(name), btf.func_proto(name).map(|p| p.params().count()));
    }
}

#[test]
fn damaged_blobs_do_not_panic_or_hang() {
    let good = every_kind();
    // Xorshift: the same blobs on every run.
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut parsed = 0;
    for round in 0..4000 {
        let mut blob = good.clone();
        for _ in 0..1 + random(8) {
            let at = if round % 4 == 0 {
                random(blob.len())
            } else {
                24 + random(blob.len() - 24)
            };
            // Small numbers make types that point at each other.
            blob[at] = if random(2) == 0 { random(40) as u8 } else { random(256) as u8 };
        }
        if round % 16 == 0 {
            blob.truncate(random(good.len()));
        }
        if let Ok(btf) = Btf::from_bytes(blob) {
            parsed += 1;
            ask_everything(&btf, round % 2 == 0);
        }
    }
    assert!(parsed > 2000, "{parsed}");
}

#[test]
fn types_that_contain_themselves_end() {
    let mut b = BtfBuilder::new();
    let own = TypeId(1);
    // An anonymous union made of itself, over and over.
    b.union("", 8, &[Field::at_byte("", own, 0); 60]);
    let proto = TypeId(2);
    b.func_proto(proto, &[("a", proto); 200].map(|(name, ty)| (name, ty)));
    b.typedef("loop", TypeId(3));
    b.array(TypeId(4), TypeId(4), 2);
    b.qualifier(Kind::Const, TypeId(5));
    b.ptr(TypeId(6));
    let btf = load(b.finish());
    assert_eq!(btf.type_count(), 6);
    let start = Instant::now();
    ask_everything(&btf, true);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

/// The running kernel's types, `None` where it has none.
fn running_kernel() -> Option<Vec<u8>> {
    let blob = std::fs::read("/sys/kernel/btf/vmlinux").ok();
    if blob.is_none() {
        eprintln!("skipped: the kernel has no BTF");
    }
    blob
}

#[test]
fn running_kernel_types() {
    let Some(blob) = running_kernel() else { return };
    let bytes = blob.len();
    let start = Instant::now();
    let btf = load(blob);
    let opened = start.elapsed();
    let sock = btf.find_struct("sock").unwrap();
    let first = start.elapsed();
    let start = Instant::now();
    let common = btf.member(sock, "__sk_common").unwrap();
    let field = start.elapsed();
    let start = Instant::now();
    assert_eq!(btf.find_struct("no_such_struct_in_any_kernel"), None);
    let missing = start.elapsed();
    let start = Instant::now();
    let established = btf.enumerator("TCP_ESTABLISHED");
    let enumerator = start.elapsed();
    println!(
        "{bytes} bytes, {} types: open {opened:?}, first look-up {first:?}, field {field:?}, missing {missing:?}, enumerator {enumerator:?}",
        btf.type_count()
    );
    assert_eq!(btf.check(), Ok(()));
    assert_eq!(btf.c_name(sock), "struct sock");
    assert_eq!(btf.c_name(common.ty), "struct sock_common");
    assert_eq!(common.bit_offset, 0);
    assert_eq!(established.unwrap().0, 1);

    // Inside an anonymous union of an anonymous struct; these offsets are the same in every kernel weir knows.
    let daddr = btf.member(common.ty, "skc_daddr").unwrap();
    assert_eq!((daddr.byte_offset(), btf.c_name(daddr.ty).as_str()), (0, "__be32"));
    let saddr = btf.member(common.ty, "skc_rcv_saddr").unwrap();
    assert_eq!((saddr.byte_offset(), btf.size_of(saddr.ty)), (4, Some(4)));
    let reuse = btf.member(common.ty, "skc_reuse").unwrap();
    assert_eq!(reuse.bitfield_size, 4);

    let task = btf.find_struct("task_struct").unwrap();
    let comm = btf.member(task, "comm").unwrap();
    assert_eq!((btf.c_name(comm.ty).as_str(), btf.size_of(comm.ty)), ("char[16]", Some(16)));
    let parent = btf.member(task, "real_parent").unwrap();
    assert_eq!(btf.c_name(parent.ty), "struct task_struct *");

    let proto = btf.func_proto("tcp_sendmsg").unwrap();
    let params: Vec<(&str, String)> = proto.params().map(|p| (p.name, btf.c_name(p.ty))).collect();
    assert_eq!(params[0], ("sk", "struct sock *".to_owned()));
    assert_eq!(btf.c_name(proto.ret), "int");
    assert!(btf.member_names(task).any(|name| name == "tgid"));
    assert!(btf.struct_names().any(|name| name == "sk_buff"));
}

/// Every type of the running kernel decodes, and every struct's members lie within it.
#[test]
fn running_kernel_is_consistent() {
    let Some(blob) = running_kernel() else { return };
    let btf = load(blob);
    let mut members = 0;
    for id in btf.ids() {
        let ty = btf.type_by_id(id);
        assert!(ty.is_some(), "{id:?}");
        if let Some(BtfType::Struct(composite) | BtfType::Union(composite)) = ty {
            for member in composite.members() {
                members += 1;
                let bits = match member.bitfield_size {
                    0 => u64::from(btf.size_of(member.ty).unwrap_or(0)) * 8,
                    bits => u64::from(bits),
                };
                let end = u64::from(member.bit_offset) + bits;
                assert!(end <= u64::from(composite.size) * 8, "{} {member:?}", btf.c_name(id));
            }
        }
    }
    assert!(members > 10_000, "{members}");
}

#[test]
fn types_of_modules_stand_behind_those_of_the_kernel() {
    let blob = every_kind();
    let own = load(blob.clone());
    let last = own.type_count();
    let of = |function, stats| module::module(&own, &blob, function, stats);
    let all = own.with_modules(&[("one".to_owned(), of("one_xmit", "one_stats"))]).unwrap();
    // One more, added later, changes no number.
    let all = all.with_modules(&[("two".to_owned(), of("two_xmit", "two_stats"))]).unwrap();
    all.check().unwrap();
    assert_eq!(all.find_struct("sock"), own.find_struct("sock"));
    assert!(all.has_module("one") && all.has_module("two") && !all.has_module("three") && !own.has_module("one"));
    for (module, function, stats, first) in [("one", "one_xmit", "one_stats", last), ("two", "two_xmit", "two_stats", last + 5)] {
        let funcs: Vec<_> = all.module_funcs(module).collect();
        let [(name, func)] = funcs.as_slice() else { panic!("{funcs:?}") };
        // The kernel itself counts each module from where its own types end.
        assert_eq!((*name, func.id, func.own_id), (function, TypeId(first + 5), last + 5));
        assert!(!all.is_own(func.id) && all.is_own(TypeId(last)));
        let proto = all.func_proto(function).unwrap();
        let params: Vec<_> = proto.params().map(|p| (p.name.to_owned(), all.c_name(p.ty).to_string())).collect();
        assert_eq!(params[1], ("stats".to_owned(), format!("struct {stats} *")));
        let id = all.find_struct(stats).unwrap();
        let drops = all.member(id, "drops").unwrap();
        assert_eq!((id, drops.ty), (TypeId(first + 2), own.find_base("int").unwrap()));
    }
    let mut damaged = of("x", "y");
    damaged[24 + 7] = 0xff;
    assert!(own.with_modules(&[("bad".to_owned(), damaged)]).is_err());
    assert!(own.with_modules(&[("bad".to_owned(), vec![1, 2, 3])]).is_err());
}
