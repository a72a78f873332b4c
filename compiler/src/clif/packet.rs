//! The packet parser that a program needs: generated on demand, run once at its start.
//!
//! Every field that the program's blocks name is read as soon as the bounds check allows it and becomes a pair of
//! plain values, content and presence. Headers that nothing names are only stepped over. At TC, a header outside the
//! linear part of the buffer is pulled in once and parsing starts again: a filter must not be passed by fragmenting memory.

use super::value::{Val, VarSlot, words};
use super::{Generator, plain};
use crate::hir::{ExprKind, Ty, visit};
use crate::object::LinkLayer;
use crate::tables::{FIELDS, Field, FieldKind, FieldType, Header, Hook, Parsed, helper};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value};
use std::collections::BTreeSet;

/// IPv6 extension headers that are stepped over before giving up.
const MAX_EXTENSION_HEADERS: usize = 6;
/// What a pull makes linear: enough for Ethernet, two tags, IPv6 with extensions and TCP with options.
const PULL_BYTES: i64 = 512;

/// EtherTypes as a little-endian load sees them.
const ETH_IP: i64 = 0x0008;
const ETH_IPV6: i64 = 0xdd86;
const ETH_ARP: i64 = 0x0608;
const ETH_8021Q: i64 = 0x0081;
const ETH_8021AD: i64 = 0xa888;

/// What a program wants to know of a packet.
#[derive(Debug, Default)]
struct Demand {
    fields: BTreeSet<usize>,
    headers: BTreeSet<Header>,
}

impl Demand {
    fn has(&self, wanted: &[Header]) -> bool {
        wanted.iter().any(|h| self.headers.contains(h))
            || self
                .fields
                .iter()
                .any(|f| header_of(&FIELDS[*f]).is_some_and(|h| wanted.contains(&h)))
    }

    fn wants_l4(&self) -> bool {
        self.has(&[Header::Tcp, Header::Udp, Header::Sctp, Header::Port, Header::Icmp, Header::Icmp6])
    }

    fn wants_proto(&self) -> bool {
        self.fields.iter().any(|f| FIELDS[*f].kind == FieldKind::Parsed(Parsed::IpProto))
    }
}

/// The header that a field is in, `None` for what comes from the context.
fn header_of(field: &Field) -> Option<Header> {
    Some(match field.kind {
        FieldKind::Bits { header, .. }
        | FieldKind::MacAt { header, .. }
        | FieldKind::Inet4At { header, .. }
        | FieldKind::Inet6At { header, .. } => header,
        FieldKind::Parsed(parsed) => match parsed {
            Parsed::EthType => Header::Eth,
            Parsed::VlanTci | Parsed::VlanId | Parsed::VlanPrio => Header::Vlan,
            Parsed::IpSrc | Parsed::IpDst | Parsed::IpVersion | Parsed::IpProto | Parsed::IpTtl | Parsed::IpTos | Parsed::IpLen => {
                Header::Ip
            }
            Parsed::PortSrc | Parsed::PortDst => Header::Port,
            Parsed::TcpHdrLen => Header::Tcp,
        },
        FieldKind::Context { .. } | FieldKind::Address(_) | FieldKind::PacketLen | FieldKind::Segments => return None,
    })
}

pub(super) fn field_ty(ty: FieldType) -> Ty {
    match ty {
        FieldType::Bool => Ty::Bool,
        FieldType::U8 | FieldType::U16 | FieldType::U32 | FieldType::U64 => Ty::U64,
        FieldType::Inet => Ty::Inet,
        FieldType::Mac => Ty::Mac,
        FieldType::Flow => Ty::Flow,
    }
}

/// Where the parser is.
struct Cursor {
    data: Value,
    end: Value,
    /// Taken when a header is cut off.
    fail: Block,
    /// Taken when there is nothing more to find.
    done: Block,
}

impl Generator<'_, '_> {
    /// Generates the parser for what these blocks name; leaves the insertion point behind it.
    pub fn parse_packet(&mut self, blocks: &[usize]) {
        let mut demand = Demand::default();
        for &index in blocks {
            visit::block(&self.hir.blocks[index], &mut |e| match e.kind {
                ExprKind::Field(field) => {
                    demand.fields.insert(field);
                }
                ExprKind::HasHeader(header) => {
                    demand.headers.insert(header);
                }
                _ => {}
            });
        }
        for &field in &demand.fields {
            let n = words(&field_ty(FIELDS[field].ty));
            let slot = VarSlot {
                words: (0..n).map(|_| self.b.declare_var(I64)).collect(),
                present: header_of(&FIELDS[field]).map(|_| self.b.declare_var(I8)),
                memory: None,
                present_at: None,
            };
            self.fields.insert(field, slot);
        }
        for &header in &demand.headers {
            let var = self.b.declare_var(I8);
            self.headers.insert(header, var);
        }
        self.context_fields(&demand);
        let packet = demand.fields.iter().any(|f| header_of(&FIELDS[*f]).is_some()) || !demand.headers.is_empty();
        if packet {
            self.headers_of_packet(&demand);
        }
    }

    /// The value of a field, as the parser left it.
    pub fn field_value(&mut self, field: usize) -> Val {
        let Some(slot) = self.fields.get(&field).cloned() else {
            return Val::int(self.ctx);
        };
        self.read_slot(&slot, &field_ty(FIELDS[field].ty))
    }

    /// Whether the packet has a header, as the parser found it; an `i8`.
    pub fn header_present(&mut self, header: Header) -> Value {
        if let Some(at) = self.header_rooms.get(&header).copied() {
            let frame = self.memory.frame();
            return self.b.ins().load(I8, plain(), frame, i32::try_from(at).unwrap_or(0));
        }
        match self.headers.get(&header).copied() {
            Some(var) => self.b.use_var(var),
            None => self.b.ins().iconst(I8, 0),
        }
    }

    fn context_fields(&mut self, demand: &Demand) {
        for &field in &demand.fields {
            let value = match FIELDS[field].kind {
                FieldKind::Context { xdp, skb } => {
                    let Some((offset, bytes)) = (if self.hook.is_skb() { skb } else { xdp }) else {
                        continue;
                    };
                    self.load(self.ctx, i32::from(offset), u32::from(bytes))
                }
                FieldKind::PacketLen if self.hook.is_skb() => self.load(self.ctx, 0, 4),
                FieldKind::PacketLen => self.helper(helper::XDP_GET_BUFF_LEN, &[self.ctx]),
                FieldKind::Segments if self.hook.is_skb() => {
                    let segments = self.load(self.ctx, 164, 4);
                    let one = self.int(1);
                    self.b.ins().umax(segments, one)
                }
                FieldKind::Segments => self.int(1),
                _ => continue,
            };
            let slot = self.fields[&field].clone();
            self.b.def_var(slot.words[0], value);
        }
    }

    fn headers_of_packet(&mut self, demand: &Demand) {
        let tc = self.hook == Hook::Tc;
        let done = self.b.create_block();
        let fail = self.b.create_block();
        let start = self.b.create_block();
        let pulled = self.b.append_block_param(start, I64);
        let zero = self.int(0);
        self.b.ins().jump(start, &[BlockArg::Value(zero)]);
        self.b.switch_to_block(start);
        self.absent_defaults();
        let (data_at, end_at) = if self.hook.is_skb() { (76, 80) } else { (0, 4) };
        let data = self.load(self.ctx, data_at, 4);
        let end = self.load(self.ctx, end_at, 4);
        let cursor = Cursor { data, end, fail, done };
        self.link_layer(demand, &cursor);
        self.b.switch_to_block(fail);
        if tc {
            // Cut off: by the end of the packet, or only by the end of its linear part?
            self.b.set_cold_block(fail);
            let (pull, again) = (self.b.create_block(), self.b.create_block());
            let already = self.compare_imm(IntCC::NotEqual, pulled, 0);
            self.b.ins().brif(already, done, &[], pull, &[]);
            self.b.switch_to_block(pull);
            self.b.set_cold_block(pull);
            let len = self.load(self.ctx, 0, 4);
            let most = self.int(PULL_BYTES);
            let wanted = self.b.ins().umin(len, most);
            let result = self.helper(helper::SKB_PULL_DATA, &[self.ctx, wanted]);
            self.b.ins().brif(result, done, &[], again, &[]);
            self.b.switch_to_block(again);
            let one = self.int(1);
            self.b.ins().jump(start, &[BlockArg::Value(one)]);
        } else {
            self.b.ins().jump(done, &[]);
        }
        self.b.switch_to_block(done);
    }

    /// Until found, everything is absent.
    fn absent_defaults(&mut self) {
        let zero = self.int(0);
        let absent = self.b.ins().iconst(I8, 0);
        let slots: Vec<VarSlot> = {
            let mut fields: Vec<usize> = self.fields.keys().copied().collect();
            fields.sort_unstable();
            fields.iter().map(|f| self.fields[f].clone()).collect()
        };
        for slot in slots {
            if let Some(present) = slot.present {
                for var in slot.words {
                    self.b.def_var(var, zero);
                }
                self.b.def_var(present, absent);
            }
        }
        let mut headers: Vec<Header> = self.headers.keys().copied().collect();
        headers.sort_unstable();
        for header in headers {
            let var = self.headers[&header];
            self.b.def_var(var, absent);
        }
    }

    /// Goes on only if `bytes` bytes at `pointer` are in the packet.
    fn check(&mut self, cursor: &Cursor, pointer: Value, bytes: i64) {
        let limit = self.b.ins().iadd_imm_s(pointer, bytes);
        let cut = self.b.ins().icmp(IntCC::UnsignedGreaterThan, limit, cursor.end);
        let go = self.b.create_block();
        self.b.ins().brif(cut, cursor.fail, &[], go, &[]);
        self.b.switch_to_block(go);
    }

    fn set_field(&mut self, field: usize, values: &[Value]) {
        let Some(slot) = self.fields.get(&field).cloned() else { return };
        for (var, value) in slot.words.iter().zip(values) {
            self.b.def_var(*var, *value);
        }
        if let Some(present) = slot.present {
            let one = self.b.ins().iconst(I8, 1);
            self.b.def_var(present, one);
        }
    }

    fn set_header(&mut self, header: Header) {
        if let Some(var) = self.headers.get(&header).copied() {
            let one = self.b.ins().iconst(I8, 1);
            self.b.def_var(var, one);
        }
    }

    fn parsed(&mut self, demand: &Demand, parsed: Parsed, values: &[Value]) {
        if let Some(&field) = demand.fields.iter().find(|f| FIELDS[**f].kind == FieldKind::Parsed(parsed)) {
            self.set_field(field, values);
        }
    }

    fn wants(demand: &Demand, parsed: Parsed) -> bool {
        demand.fields.iter().any(|f| FIELDS[*f].kind == FieldKind::Parsed(parsed))
    }

    /// Reads every wanted field that lies at a fixed place of a header.
    fn read_header(&mut self, demand: &Demand, header: Header, pointer: Value) {
        self.set_header(header);
        for &field in &demand.fields {
            match FIELDS[field].kind {
                FieldKind::Bits {
                    header: h,
                    offset,
                    bytes,
                    shift,
                    mask,
                } if h == header => {
                    let mut value = self.big_endian(pointer, i32::from(offset), bytes);
                    if shift > 0 {
                        value = self.b.ins().ushr_imm_s(value, i64::from(shift));
                    }
                    if mask != u64::MAX {
                        let mask = self.int(mask.cast_signed());
                        value = self.b.ins().band(value, mask);
                    }
                    self.set_field(field, &[value]);
                }
                FieldKind::MacAt { header: h, offset } if h == header => {
                    let low = self.load(pointer, i32::from(offset), 4);
                    let high = self.load(pointer, i32::from(offset) + 4, 2);
                    let high = self.b.ins().ishl_imm_s(high, 32);
                    let mac = self.b.ins().bor(low, high);
                    self.set_field(field, &[mac]);
                }
                FieldKind::Inet4At { header: h, offset } if h == header => {
                    let words = self.inet4(pointer, i32::from(offset));
                    self.set_field(field, &words);
                }
                FieldKind::Inet6At { header: h, offset } if h == header => {
                    let words = self.inet6(pointer, i32::from(offset));
                    self.set_field(field, &words);
                }
                _ => {}
            }
        }
    }

    fn inet4(&mut self, pointer: Value, offset: i32) -> [Value; 3] {
        let family = self.int(2);
        let address = self.load(pointer, offset, 4);
        let zero = self.int(0);
        [family, address, zero]
    }

    fn inet6(&mut self, pointer: Value, offset: i32) -> [Value; 3] {
        let family = self.int(10);
        let high = self.load(pointer, offset, 8);
        let low = self.load(pointer, offset + 8, 8);
        [family, high, low]
    }

    /// Loads a big-endian number, zero-extended.
    fn big_endian(&mut self, pointer: Value, offset: i32, bytes: u8) -> Value {
        let ty = match bytes {
            1 => return self.load(pointer, offset, 1),
            2 => I16,
            4 => I32,
            _ => I64,
        };
        let raw = self.b.ins().load(ty, plain(), pointer, offset);
        let value = self.b.ins().bswap(raw);
        if ty == I64 { value } else { self.b.ins().uextend(I64, value) }
    }

    /// Whether packets start with the IP header at this program's hook.
    fn starts_with_ip(&self) -> bool {
        let first = self.plan.programs[self.index].attach.first();
        first.is_some_and(|a| a.point.link_layer() == LinkLayer::None)
    }

    fn link_layer(&mut self, demand: &Demand, cursor: &Cursor) {
        if self.starts_with_ip() {
            // The version alone says what it is.
            self.check(cursor, cursor.data, 1);
            let first = self.load(cursor.data, 0, 1);
            let version = self.b.ins().ushr_imm_s(first, 4);
            let (v4, v6, none) = (self.int(ETH_IP), self.int(ETH_IPV6), self.int(0));
            let is_v4 = self.compare_imm(IntCC::Equal, version, 4);
            let is_v6 = self.compare_imm(IntCC::Equal, version, 6);
            let ty = self.b.ins().select(is_v6, v6, none);
            let ty = self.b.ins().select(is_v4, v4, ty);
            return self.network_layer(demand, cursor, cursor.data, ty);
        }
        self.check(cursor, cursor.data, 14);
        self.read_header(demand, Header::Eth, cursor.data);
        let ether_type = self.load(cursor.data, 12, 2);
        let network = self.b.create_block();
        let pointer = self.b.append_block_param(network, I64);
        let ty = self.b.append_block_param(network, I64);
        let wants_vlan = demand.has(&[Header::Vlan]);
        if self.hook == Hook::Tc && wants_vlan {
            // A tag that the driver took out is the outer one.
            let (stripped, plain_block) = (self.b.create_block(), self.b.create_block());
            let present = self.load(self.ctx, 20, 4);
            self.b.ins().brif(present, stripped, &[], plain_block, &[]);
            self.b.switch_to_block(stripped);
            let tci = self.load(self.ctx, 24, 4);
            self.vlan(demand, tci);
            self.tags(demand, cursor, ether_type, network, false);
            self.b.switch_to_block(plain_block);
        }
        self.tags(demand, cursor, ether_type, network, wants_vlan);
        self.b.switch_to_block(network);
        if Self::wants(demand, Parsed::EthType) {
            let raw = self.b.ins().ireduce(I16, ty);
            let host = self.b.ins().bswap(raw);
            let host = self.b.ins().uextend(I64, host);
            self.parsed(demand, Parsed::EthType, &[host]);
        }
        self.network_layer(demand, cursor, pointer, ty);
    }

    /// Steps over up to two tags in the frame; ends with jumps to `network`.
    fn tags(&mut self, demand: &Demand, cursor: &Cursor, ether_type: Value, network: Block, outer: bool) {
        let mut ty = ether_type;
        for tag in 0..2 {
            let at = 14 + 4 * tag;
            let pointer = self.b.ins().iadd_imm_s(cursor.data, i64::from(at));
            let (is_tag, not_tag, other) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
            let c = self.compare_imm(IntCC::Equal, ty, ETH_8021Q);
            self.b.ins().brif(c, is_tag, &[], other, &[]);
            self.b.switch_to_block(other);
            let c = self.compare_imm(IntCC::Equal, ty, ETH_8021AD);
            self.b.ins().brif(c, is_tag, &[], not_tag, &[]);
            self.b.switch_to_block(not_tag);
            self.b.ins().jump(network, &[BlockArg::Value(pointer), BlockArg::Value(ty)]);
            self.b.switch_to_block(is_tag);
            self.check(cursor, cursor.data, i64::from(at + 4));
            if tag == 0 && outer {
                let tci = self.big_endian(cursor.data, at, 2);
                self.vlan(demand, tci);
            }
            ty = self.load(cursor.data, at + 2, 2);
        }
        let pointer = self.b.ins().iadd_imm_s(cursor.data, 22);
        self.b.ins().jump(network, &[BlockArg::Value(pointer), BlockArg::Value(ty)]);
    }

    fn vlan(&mut self, demand: &Demand, tci: Value) {
        self.set_header(Header::Vlan);
        self.parsed(demand, Parsed::VlanTci, &[tci]);
        if Self::wants(demand, Parsed::VlanId) {
            let mask = self.int(0xfff);
            let id = self.b.ins().band(tci, mask);
            self.parsed(demand, Parsed::VlanId, &[id]);
        }
        if Self::wants(demand, Parsed::VlanPrio) {
            let prio = self.b.ins().ushr_imm_s(tci, 13);
            let mask = self.int(7);
            let prio = self.b.ins().band(prio, mask);
            self.parsed(demand, Parsed::VlanPrio, &[prio]);
        }
    }

    fn network_layer(&mut self, demand: &Demand, cursor: &Cursor, pointer: Value, ty: Value) {
        let l4 = demand.wants_l4();
        let v4 = l4 || demand.has(&[Header::Ip, Header::Ip4]);
        let v6 = l4 || demand.has(&[Header::Ip, Header::Ip6]);
        // Where transport headers start: address, protocol, family.
        let transport = self.b.create_block();
        let l4_pointer = self.b.append_block_param(transport, I64);
        let proto = self.b.append_block_param(transport, I64);
        let family = self.b.append_block_param(transport, I64);
        for (wanted, number, which) in [
            (v4, ETH_IP, Header::Ip4),
            (v6, ETH_IPV6, Header::Ip6),
            (demand.has(&[Header::Arp]), ETH_ARP, Header::Arp),
        ] {
            if !wanted {
                continue;
            }
            let (yes, no) = (self.b.create_block(), self.b.create_block());
            let c = self.compare_imm(IntCC::Equal, ty, number);
            self.b.ins().brif(c, yes, &[], no, &[]);
            self.b.switch_to_block(yes);
            match which {
                Header::Ip4 => self.ipv4(demand, cursor, pointer, transport),
                Header::Ip6 => self.ipv6(demand, cursor, pointer, transport),
                _ => {
                    self.check(cursor, pointer, 28);
                    // Only Ethernet and IPv4: other sizes would move the fields.
                    let kind = self.load(pointer, 0, 8);
                    let mask = self.int(0x0000_ffff_ffff_ffff);
                    let kind = self.b.ins().band(kind, mask);
                    let usual = self.compare_imm(IntCC::Equal, kind, 0x0406_0008_0100);
                    let found = self.b.create_block();
                    self.b.ins().brif(usual, found, &[], cursor.done, &[]);
                    self.b.switch_to_block(found);
                    self.read_header(demand, Header::Arp, pointer);
                    self.b.ins().jump(cursor.done, &[]);
                }
            }
            self.b.switch_to_block(no);
        }
        self.b.ins().jump(cursor.done, &[]);
        self.b.switch_to_block(transport);
        self.transport_layer(demand, cursor, l4_pointer, proto, family);
    }

    fn ipv4(&mut self, demand: &Demand, cursor: &Cursor, pointer: Value, transport: Block) {
        self.check(cursor, pointer, 20);
        let first = self.load(pointer, 0, 1);
        let version = self.b.ins().ushr_imm_s(first, 4);
        self.only_if(cursor, IntCC::Equal, version, 4);
        self.read_header(demand, Header::Ip4, pointer);
        self.set_header(Header::Ip);
        if Self::wants(demand, Parsed::IpSrc) {
            let words = self.inet4(pointer, 12);
            self.parsed(demand, Parsed::IpSrc, &words);
        }
        if Self::wants(demand, Parsed::IpDst) {
            let words = self.inet4(pointer, 16);
            self.parsed(demand, Parsed::IpDst, &words);
        }
        self.parsed(demand, Parsed::IpVersion, &[version]);
        for (parsed, offset, bytes) in [
            (Parsed::IpTtl, 8, 1),
            (Parsed::IpTos, 1, 1),
            (Parsed::IpLen, 2, 2),
            (Parsed::IpProto, 9, 1),
        ] {
            if Self::wants(demand, parsed) {
                let value = self.big_endian(pointer, offset, bytes);
                self.parsed(demand, parsed, &[value]);
            }
        }
        if !demand.wants_l4() {
            self.b.ins().jump(cursor.done, &[]);
            return;
        }
        // Only the first fragment has the transport header.
        let fragment = self.load(pointer, 6, 2);
        let mask = self.int(0xff1f);
        let offset = self.b.ins().band(fragment, mask);
        self.only_if(cursor, IntCC::Equal, offset, 0);
        let mask = self.int(15);
        let words = self.b.ins().band(first, mask);
        self.only_if(cursor, IntCC::UnsignedGreaterThanOrEqual, words, 5);
        let bytes = self.b.ins().ishl_imm_s(words, 2);
        let l4 = self.b.ins().iadd(pointer, bytes);
        let l4 = self.pin(l4);
        let proto = self.load(pointer, 9, 1);
        let family = self.int(4);
        self.b
            .ins()
            .jump(transport, &[BlockArg::Value(l4), BlockArg::Value(proto), BlockArg::Value(family)]);
    }

    /// Goes on only if the comparison holds; else there is nothing more to find.
    fn only_if(&mut self, cursor: &Cursor, cc: IntCC, value: Value, n: i64) {
        let go = self.b.create_block();
        let c = self.compare_imm(cc, value, n);
        self.b.ins().brif(c, go, &[], cursor.done, &[]);
        self.b.switch_to_block(go);
    }

    fn ipv6(&mut self, demand: &Demand, cursor: &Cursor, pointer: Value, transport: Block) {
        self.check(cursor, pointer, 40);
        let first = self.big_endian(pointer, 0, 4);
        let version = self.b.ins().ushr_imm_s(first, 28);
        self.only_if(cursor, IntCC::Equal, version, 6);
        self.read_header(demand, Header::Ip6, pointer);
        self.set_header(Header::Ip);
        if Self::wants(demand, Parsed::IpSrc) {
            let words = self.inet6(pointer, 8);
            self.parsed(demand, Parsed::IpSrc, &words);
        }
        if Self::wants(demand, Parsed::IpDst) {
            let words = self.inet6(pointer, 24);
            self.parsed(demand, Parsed::IpDst, &words);
        }
        self.parsed(demand, Parsed::IpVersion, &[version]);
        if Self::wants(demand, Parsed::IpTos) {
            let class = self.b.ins().ushr_imm_s(first, 20);
            let mask = self.int(0xff);
            let class = self.b.ins().band(class, mask);
            self.parsed(demand, Parsed::IpTos, &[class]);
        }
        if Self::wants(demand, Parsed::IpTtl) {
            let hops = self.load(pointer, 7, 1);
            self.parsed(demand, Parsed::IpTtl, &[hops]);
        }
        if Self::wants(demand, Parsed::IpLen) {
            let payload = self.big_endian(pointer, 4, 2);
            let whole = self.b.ins().iadd_imm_s(payload, 40);
            self.parsed(demand, Parsed::IpLen, &[whole]);
        }
        if !demand.wants_l4() && !demand.wants_proto() {
            self.b.ins().jump(cursor.done, &[]);
            return;
        }
        let mut next = self.load(pointer, 6, 1);
        let mut at = self.b.ins().iadd_imm_s(pointer, 40);
        let family = self.int(6);
        for _ in 0..MAX_EXTENSION_HEADERS {
            let (options, fragment, auth, found, after) = (
                self.b.create_block(),
                self.b.create_block(),
                self.b.create_block(),
                self.b.create_block(),
                self.b.create_block(),
            );
            let at_after = self.b.append_block_param(after, I64);
            let next_after = self.b.append_block_param(after, I64);
            // Hop-by-hop, routing, destination options, mobility.
            for number in [0, 43, 60, 135] {
                self.branch_on(next, number, options);
            }
            self.branch_on(next, 44, fragment);
            self.branch_on(next, 51, auth);
            self.b.ins().jump(found, &[]);
            self.b.switch_to_block(options);
            self.extension(cursor, at, 8, 3, after);
            self.b.switch_to_block(auth);
            self.extension(cursor, at, 8, 2, after);
            self.b.switch_to_block(fragment);
            self.check(cursor, at, 8);
            let inner = self.load(at, 0, 1);
            let offset = self.load(at, 2, 2);
            let mask = self.int(0xf8ff);
            let offset = self.b.ins().band(offset, mask);
            let (first_fragment, later) = (self.b.create_block(), self.b.create_block());
            self.b.ins().brif(offset, later, &[], first_fragment, &[]);
            self.b.switch_to_block(later);
            self.parsed(demand, Parsed::IpProto, &[inner]);
            self.b.ins().jump(cursor.done, &[]);
            self.b.switch_to_block(first_fragment);
            let behind = self.b.ins().iadd_imm_s(at, 8);
            self.b.ins().jump(after, &[BlockArg::Value(behind), BlockArg::Value(inner)]);
            self.b.switch_to_block(found);
            self.parsed(demand, Parsed::IpProto, &[next]);
            self.b
                .ins()
                .jump(transport, &[BlockArg::Value(at), BlockArg::Value(next), BlockArg::Value(family)]);
            self.b.switch_to_block(after);
            at = at_after;
            next = next_after;
        }
        self.b.ins().jump(cursor.done, &[]);
    }

    fn branch_on(&mut self, value: Value, n: i64, target: Block) {
        let no = self.b.create_block();
        let c = self.compare_imm(IntCC::Equal, value, n);
        self.b.ins().brif(c, target, &[], no, &[]);
        self.b.switch_to_block(no);
    }

    /// An extension header with its length in its second byte: `(n + 1) << 3`, or `(n + 2) << 2` for authentication.
    fn extension(&mut self, cursor: &Cursor, at: Value, bytes: i64, shift: i64, after: Block) {
        self.check(cursor, at, bytes);
        let next = self.load(at, 0, 1);
        let units = self.load(at, 1, 1);
        let units = self.b.ins().iadd_imm_s(units, if shift == 3 { 1 } else { 2 });
        let length = self.b.ins().ishl_imm_s(units, shift);
        let behind = self.b.ins().iadd(at, length);
        let behind = self.pin(behind);
        self.b.ins().jump(after, &[BlockArg::Value(behind), BlockArg::Value(next)]);
    }

    fn transport_layer(&mut self, demand: &Demand, cursor: &Cursor, pointer: Value, proto: Value, family: Value) {
        let ports = demand.has(&[Header::Port]);
        let kinds = [
            (Header::Tcp, 6, 20, ports, None),
            (Header::Udp, 17, 8, ports, None),
            (Header::Sctp, 132, 12, ports, None),
            (Header::Icmp, 1, 4, false, Some(4)),
            (Header::Icmp6, 58, 4, false, Some(6)),
        ];
        for (header, number, bytes, ports, only_family) in kinds {
            if !demand.has(&[header]) && !ports {
                continue;
            }
            let (yes, no) = (self.b.create_block(), self.b.create_block());
            let c = self.compare_imm(IntCC::Equal, proto, number);
            self.b.ins().brif(c, yes, &[], no, &[]);
            self.b.switch_to_block(yes);
            if let Some(wanted) = only_family {
                self.only_if(cursor, IntCC::Equal, family, wanted);
            }
            self.check(cursor, pointer, bytes);
            self.read_header(demand, header, pointer);
            if header == Header::Tcp && Self::wants(demand, Parsed::TcpHdrLen) {
                let offset = self.load(pointer, 12, 1);
                let words = self.b.ins().ushr_imm_s(offset, 4);
                let bytes = self.b.ins().ishl_imm_s(words, 2);
                self.parsed(demand, Parsed::TcpHdrLen, &[bytes]);
            }
            if ports {
                self.set_header(Header::Port);
                for (parsed, offset) in [(Parsed::PortSrc, 0), (Parsed::PortDst, 2)] {
                    if Self::wants(demand, parsed) {
                        let port = self.big_endian(pointer, offset, 2);
                        self.parsed(demand, parsed, &[port]);
                    }
                }
            }
            self.b.ins().jump(cursor.done, &[]);
            self.b.switch_to_block(no);
        }
        self.b.ins().jump(cursor.done, &[]);
    }
}
