//! Cuts a small extract out of a kernel's BTF, so that the compiler's tests run the same on every kernel.
//!
//! It keeps the types listed below with everything they contain; a struct that is only pointed at becomes a forward
//! declaration, and of the largest structs only the named fields stay (at their real offsets).

use std::collections::{HashMap, HashSet};
use weir_compiler::btf::{Btf, BtfType, Composite, Kind, Linkage, TypeId};
use weir_compiler::elf::btf_build::{BtfBuilder, Field, IntEncoding, LinkageKind};

pub const STRUCTS: &[&str] = &[
    "__sk_buff",
    "bpf_iter__task",
    "bpf_iter__tcp",
    "bpf_perf_event_data",
    "bpf_raw_tracepoint_args",
    "cgroup",
    "ethhdr",
    "file",
    "icmphdr",
    "in6_addr",
    "inet_connection_sock",
    "inet_sock",
    "iphdr",
    "ipv6hdr",
    "kernfs_node",
    "net",
    "net_device",
    "nsproxy",
    "pt_regs",
    "sk_buff",
    "skb_shared_info",
    "sock",
    "sock_common",
    "sockaddr_in",
    "sockaddr_in6",
    "socket",
    "task_struct",
    "tcp_sock",
    "tcphdr",
    "udp_sock",
    "udphdr",
    "xdp_md",
];
const FUNCS: &[&str] = &[
    "__traceiter_sched_switch",
    "__traceiter_tcp_retransmit_skb",
    "bpf_iter_task",
    "bpf_iter_tcp",
    "ip_output",
    "ip_rcv",
    "kfree_skb_list_reason",
    "tcp_connect",
    "tcp_drop_reason",
    "tcp_rcv_established",
    "tcp_recvmsg",
    "tcp_retransmit_skb",
    "tcp_sendmsg",
    "tcp_set_state",
    "tcp_v4_connect",
    "tcp_v6_connect",
    "udp_sendmsg",
    "vfs_read",
    "vfs_write",
];
pub const TYPEDEFS: &[&str] = &[
    "btf_trace_inet_sock_set_state",
    "btf_trace_kfree_skb",
    "btf_trace_net_dev_queue",
    "btf_trace_netif_receive_skb",
    "btf_trace_sched_switch",
    "btf_trace_tcp_probe",
    "btf_trace_tcp_retransmit_skb",
    "btf_trace_tcp_send_reset",
    "pid_t",
    "size_t",
    "u64",
];
const ENUMS: &[&str] = &["bpf_map_type", "skb_drop_reason", "sock_type", "xdp_action"];
/// Of the anonymous enums those with these enumerators.
const ENUMERATORS: &[&str] = &["TCP_ESTABLISHED", "IPPROTO_TCP", "NF_INET_PRE_ROUTING"];
/// Structs of which only some fields stay.
const PARTIAL: &[(&str, &[&str])] = &[
    ("cgroup", &["kn", "level"]),
    ("file", &["f_flags", "f_pos", "f_mode"]),
    ("kernfs_node", &["id", "name"]),
    ("net", &["ns", "ifindex", "net_cookie"]),
    (
        "net_device",
        &[
            "name",
            "ifindex",
            "mtu",
            "type",
            "flags",
            "dev_addr",
            "num_tx_queues",
            "real_num_tx_queues",
        ],
    ),
    ("nsproxy", &["net_ns"]),
    ("skb_shared_info", &["nr_frags", "gso_size", "gso_segs", "gso_type", "tx_flags"]),
    (
        "task_struct",
        &[
            "pid",
            "tgid",
            "comm",
            "real_parent",
            "parent",
            "flags",
            "exit_code",
            "nsproxy",
            "start_time",
            "__state",
            "in_iowait",
        ],
    ),
];

/// Returns the extract.
pub fn cut(from: &Btf) -> Vec<u8> {
    let mut roots: Vec<TypeId> = Vec::new();
    roots.extend(
        STRUCTS
            .iter()
            .map(|name| from.find_struct(name).unwrap_or_else(|| panic!("no struct {name}"))),
    );
    // Which functions are static and kept differs between builds of a kernel.
    roots.extend(FUNCS.iter().filter_map(|name| from.find_func(name)));
    roots.extend(
        TYPEDEFS
            .iter()
            .map(|name| from.find_typedef(name).unwrap_or_else(|| panic!("no typedef {name}"))),
    );
    roots.extend(
        ENUMS
            .iter()
            .map(|name| from.find_enum(name).unwrap_or_else(|| panic!("no enum {name}"))),
    );
    roots.extend(
        ENUMERATORS
            .iter()
            .map(|name| from.enumerator(name).unwrap_or_else(|| panic!("no {name}")).1),
    );
    let mut cutter = Cutter {
        from,
        roots: roots.iter().copied().collect(),
        seen: HashSet::new(),
        kept: Vec::new(),
        declared: Vec::new(),
    };
    for root in roots {
        cutter.visit(root, false);
    }
    cutter.write()
}

/// Copies chosen types of one blob to another.
struct Cutter<'a> {
    from: &'a Btf,
    roots: HashSet<TypeId>,
    /// What was seen, by value or behind a pointer.
    seen: HashSet<(TypeId, bool)>,
    /// What is copied in full, in order.
    kept: Vec<TypeId>,
    /// What becomes a forward declaration.
    declared: Vec<TypeId>,
}

impl<'a> Cutter<'a> {
    fn fields(&self, composite: &Composite<'a>) -> Vec<Field<'a>> {
        let wanted = PARTIAL.iter().find(|(name, _)| *name == composite.name).map(|(_, fields)| *fields);
        composite
            .members()
            .filter(|m| {
                // An anonymous member stays when something in it is wanted.
                let inside = || self.from.member_names(m.ty).any(|name| wanted.is_some_and(|w| w.contains(&name)));
                wanted.is_none_or(|w| w.contains(&m.name) || m.name.is_empty() && inside())
            })
            .map(|m| Field {
                name: m.name,
                ty: m.ty,
                bit_offset: m.bit_offset,
                bitfield_size: m.bitfield_size as u8,
            })
            .collect()
    }

    fn visit(&mut self, id: TypeId, pointed_at: bool) {
        if id == TypeId::VOID || !self.seen.insert((id, pointed_at)) {
            return;
        }
        let ty = self.from.type_by_id(id).unwrap();
        if let BtfType::Struct(composite) | BtfType::Union(composite) = &ty
            && pointed_at
            && !composite.name.is_empty()
            && !self.roots.contains(&id)
        {
            self.declared.push(id);
            return;
        }
        if !self.kept.contains(&id) {
            self.kept.push(id);
        }
        match ty {
            BtfType::Ptr(target) => self.visit(target, true),
            BtfType::Typedef { target, .. } | BtfType::TypeTag { target, .. } => self.visit(target, pointed_at),
            BtfType::Const(target) | BtfType::Volatile(target) | BtfType::Restrict(target) => self.visit(target, pointed_at),
            BtfType::Array(array) => {
                self.visit(array.elem, pointed_at);
                self.visit(array.index, false);
            }
            BtfType::Struct(composite) | BtfType::Union(composite) => {
                for field in self.fields(&composite) {
                    self.visit(field.ty, false);
                }
            }
            BtfType::Func { proto, .. } => self.visit(proto, false),
            BtfType::FuncProto(proto) => {
                self.visit(proto.ret, false);
                for param in proto.params() {
                    self.visit(param.ty, false);
                }
            }
            _ => {}
        }
    }

    fn write(&self) -> Vec<u8> {
        // A struct that is also copied in full needs no declaration; two of one name share one.
        let kept: HashSet<TypeId> = self.kept.iter().copied().collect();
        let mut ids: HashMap<TypeId, TypeId> = self.kept.iter().copied().zip((1..).map(TypeId)).collect();
        ids.insert(TypeId::VOID, TypeId::VOID);
        let mut declarations: Vec<(&str, bool)> = Vec::new();
        for id in self.declared.iter().filter(|id| !kept.contains(id)) {
            let key = match self.from.type_by_id(*id).unwrap() {
                BtfType::Struct(composite) => (composite.name, false),
                BtfType::Union(composite) => (composite.name, true),
                other => panic!("{other:?}"),
            };
            let at = declarations.iter().position(|d| *d == key).unwrap_or_else(|| {
                declarations.push(key);
                declarations.len() - 1
            });
            ids.insert(*id, TypeId((self.kept.len() + at) as u32 + 1));
        }
        let mut b = BtfBuilder::new();
        for old in &self.kept {
            let new = self.copy(&mut b, *old, &ids);
            assert_eq!(new, ids[old], "{old:?} {}: the builder merged two types", self.from.c_name(*old));
        }
        for (name, union) in declarations {
            b.forward(name, union);
        }
        b.finish()
    }

    fn copy(&self, b: &mut BtfBuilder, old: TypeId, ids: &HashMap<TypeId, TypeId>) -> TypeId {
        let moved = |composite: &Composite<'a>| -> Vec<Field<'a>> {
            self.fields(composite).into_iter().map(|f| Field { ty: ids[&f.ty], ..f }).collect()
        };
        match self.from.type_by_id(old).unwrap() {
            BtfType::Int(int) => {
                assert!(int.offset == 0 && u32::from(int.bits) == int.size * 8, "{int:?}");
                let encoding = match (int.signed, int.char, int.bool) {
                    (true, ..) => IntEncoding::Signed,
                    (_, true, _) => IntEncoding::Char,
                    (.., true) => IntEncoding::Bool,
                    _ => IntEncoding::Unsigned,
                };
                b.int(int.name, int.size, encoding)
            }
            BtfType::Ptr(target) => b.ptr(ids[&target]),
            BtfType::Array(array) => b.array(ids[&array.elem], ids[&array.index], array.len),
            BtfType::Struct(composite) => b.structure(composite.name, composite.size, &moved(&composite)),
            BtfType::Union(composite) => b.union(composite.name, composite.size, &moved(&composite)),
            BtfType::Enum(info) if self.from.kind(old) == Some(Kind::Enum64) => {
                let values: Vec<(&str, i64)> = info.values().map(|e| (e.name, e.value)).collect();
                b.enumeration64(info.name, info.signed, &values)
            }
            BtfType::Enum(info) => {
                let values: Vec<(&str, i32)> = info.values().map(|e| (e.name, e.value as i32)).collect();
                b.enumeration(info.name, info.size, info.signed, &values)
            }
            BtfType::Fwd { name, union } => b.forward(name, union),
            BtfType::Typedef { name, target } => b.typedef(name, ids[&target]),
            BtfType::TypeTag { name, target } => b.type_tag(name, ids[&target]),
            BtfType::Const(target) => b.qualifier(Kind::Const, ids[&target]),
            BtfType::Volatile(target) => b.qualifier(Kind::Volatile, ids[&target]),
            BtfType::Restrict(target) => b.qualifier(Kind::Restrict, ids[&target]),
            BtfType::Func { name, proto, linkage } => {
                let linkage = if linkage == Linkage::Global {
                    LinkageKind::Global
                } else {
                    LinkageKind::Static
                };
                b.func(name, ids[&proto], linkage)
            }
            BtfType::FuncProto(proto) => {
                let params: Vec<(&str, TypeId)> = proto.params().map(|p| (p.name, ids[&p.ty])).collect();
                b.func_proto(ids[&proto.ret], &params)
            }
            BtfType::Float { name, size } => b.float(name, size),
            other => panic!("not expected in a struct: {other:?}"),
        }
    }
}
