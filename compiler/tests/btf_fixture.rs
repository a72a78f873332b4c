//! A cut-down copy of a real kernel's BTF (`fixtures/vmlinux-6.18.btf`) and the tests on it. `cargo xtask btf-fixture` cuts a
//! new one.

#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is the failure.

mod cut;

use cut::{STRUCTS, TYPEDEFS};
use weir_compiler::btf::Btf;

fn fixture() -> Btf {
    Btf::from_bytes(include_bytes!("fixtures/vmlinux-6.18.btf").to_vec()).unwrap()
}

#[test]
fn fixture_is_whole() {
    let btf = fixture();
    assert_eq!(btf.check(), Ok(()));
    for id in btf.ids() {
        assert!(!btf.c_name(id).contains("<type"), "{}", btf.c_name(id));
    }
    for name in STRUCTS {
        assert!(btf.find_struct(name).is_some(), "{name}");
    }
    for name in TYPEDEFS {
        assert!(btf.find_typedef(name).is_some(), "{name}");
    }
    assert!(btf.find_func("tcp_connect").is_some());
}

/// Follows `a.b.c` from a struct: total byte offset, type of the last field.
fn path(btf: &Btf, name: &str, fields: &[&str]) -> (u32, String) {
    let mut ty = btf.find_struct(name).unwrap();
    let mut offset = 0;
    for field in fields {
        let found = btf.member(ty, field).unwrap_or_else(|| panic!("{name}: no {field}"));
        offset += found.byte_offset();
        ty = found.ty;
    }
    (offset, btf.c_name(ty))
}

#[test]
fn fields_of_a_real_kernel() {
    let btf = fixture();
    let at = |name, fields: &[&str]| path(&btf, name, fields);
    // In anonymous unions of anonymous structs.
    assert_eq!(at("sock", &["__sk_common", "skc_daddr"]), (0, "__be32".to_owned()));
    assert_eq!(at("sock", &["__sk_common", "skc_rcv_saddr"]), (4, "__be32".to_owned()));
    assert_eq!(at("sock", &["__sk_common", "skc_dport"]), (12, "__be16".to_owned()));
    assert_eq!(at("sock", &["__sk_common", "skc_num"]), (14, "__u16".to_owned()));
    assert_eq!(at("sock", &["__sk_common", "skc_family"]), (16, "short unsigned int".to_owned()));
    assert_eq!(at("sock", &["__sk_common", "skc_net", "net"]).1, "struct net *");
    assert_eq!(at("iphdr", &["saddr"]), (12, "__be32".to_owned()));
    assert_eq!(at("in6_addr", &["in6_u", "u6_addr8"]), (0, "__u8[16]".to_owned()));
    assert_eq!(at("task_struct", &["comm"]).1, "char[16]");
    assert_eq!(at("task_struct", &["real_parent"]).1, "struct task_struct *");
    assert_eq!(at("tcp_sock", &["inet_conn", "icsk_inet", "sk"]), (0, "struct sock".to_owned()));
    assert_eq!(at("sk_buff", &["len"]).1, "unsigned int");

    let iphdr = btf.find_struct("iphdr").unwrap();
    let version = btf.member(iphdr, "version").unwrap();
    assert_eq!((version.bit_offset, version.bitfield_size), (4, 4));
    let syn = btf.member(btf.find_struct("tcphdr").unwrap(), "syn").unwrap();
    assert_eq!((syn.bit_offset, syn.bitfield_size), (105, 1));

    let proto = btf.func_proto("tcp_set_state").unwrap();
    let params: Vec<String> = proto.params().map(|p| format!("{} {}", btf.c_name(p.ty), p.name)).collect();
    assert_eq!(params, ["struct sock * sk", "int state"]);
    assert_eq!(btf.c_name(proto.ret), "void");
    let hook = btf.find_typedef("btf_trace_tcp_retransmit_skb").unwrap();
    assert_eq!(btf.c_name(btf.resolve(hook)).split(", ").next(), Some("void (*)(void *"));
    assert_eq!(btf.enumerator("TCP_ESTABLISHED").map(|(value, _)| value), Some(1));
    assert_eq!(btf.enumerator("XDP_PASS").map(|(value, _)| value), Some(2));
    assert_eq!(
        btf.enumerator("SKB_DROP_REASON_NOT_SPECIFIED").map(|(_, id)| id),
        btf.find_enum("skb_drop_reason")
    );
}

/// Nothing gets lost on the way, and everything is kept that the lists ask for.
#[test]
fn cutting_the_extract_once_more_changes_nothing() {
    let again = Btf::from_bytes(cut::cut(&fixture())).unwrap();
    let text = |btf: &Btf| {
        let mut all: Vec<(String, Option<u32>, usize)> = btf
            .ids()
            .map(|id| (btf.c_name(id), btf.size_of(id), btf.fields(id).len()))
            .collect();
        all.sort();
        all
    };
    let (again, fixture) = (text(&again), text(&fixture()));
    assert!(fixture.len() > 400, "{}", fixture.len());
    assert_eq!(again, fixture);
}
