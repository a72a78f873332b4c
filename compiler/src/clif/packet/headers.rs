//! Header by header: link, tags, network, transport.

use super::{Access, Cursor, Demand, skb};
use crate::clif::{Generator, plain};
use crate::object::LinkLayer;
use crate::tables::{FIELDS, FieldKind, Header, Hook, IpPart, Parsed};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I16, I32, I64};
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value};

/// IPv6 extension headers that are stepped over before giving up.
const MAX_EXTENSION_HEADERS: i64 = 6;
/// The longest has 2048 bytes.
const MAX_EXTENSION_MASK: u64 = 0xfff;

/// EtherTypes as a little-endian load sees them.
const ETH_IP: i64 = 0x0008;
const ETH_IPV6: i64 = 0xdd86;
const ETH_ARP: i64 = 0x0608;
const ETH_8021Q: i64 = 0x0081;
const ETH_8021AD: i64 = 0xa888;
/// Port 53 as a little-endian load sees it.
const PORT_DNS: i64 = 0x3500;

/// Where transport headers are looked for.
#[derive(Clone, Copy)]
struct Transport {
    /// Takes address, protocol, family (4 or 6), and the length if `length` says so.
    block: Block,
    /// Whether bytes from the transport header to the end of the IP packet are counted.
    length: bool,
}

impl Generator<'_, '_> {
    /// Reads every wanted field that lies at a fixed place of a header.
    fn read_header(&mut self, demand: &Demand, cursor: &Cursor, header: Header, pointer: Value) {
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
                    let value = self.big_endian(pointer, i32::from(offset), bytes);
                    let value = self.bits(value, shift, mask);
                    self.set_field(field, &[value]);
                }
                FieldKind::MacAt { header: h, offset } if h == header => {
                    let low = self.load_word(cursor, pointer, i32::from(offset));
                    let high = self.load(pointer, i32::from(offset) + 4, 2);
                    let high = self.b.ins().ishl_imm_s(high, 32);
                    let mac = self.b.ins().bor(low, high);
                    self.set_field(field, &[mac]);
                }
                FieldKind::Inet4At { header: h, offset } if h == header => {
                    let (family, zero) = (self.int(2), self.int(0));
                    let address = self.load_word(cursor, pointer, i32::from(offset));
                    self.set_field(field, &[family, address, zero]);
                }
                _ => {}
            }
        }
    }

    /// Loads four bytes that lie at any even offset: those copied to the stack must be read aligned.
    fn load_word(&mut self, cursor: &Cursor, pointer: Value, offset: i32) -> Value {
        if offset % 4 == 0 || matches!(cursor.access, Access::Direct { .. }) {
            return self.load(pointer, offset, 4);
        }
        let low = self.load(pointer, offset, 2);
        let high = self.load(pointer, offset + 2, 2);
        let high = self.b.ins().ishl_imm_s(high, 16);
        self.b.ins().bor(low, high)
    }

    /// Takes a part of a number: shifts it right, or left for a negative `shift`, and masks it.
    pub(super) fn bits(&mut self, value: Value, shift: i8, mask: u64) -> Value {
        let value = match shift {
            0 => value,
            1.. => self.b.ins().ushr_imm_s(value, i64::from(shift)),
            _ => self.b.ins().ishl_imm_s(value, i64::from(-shift)),
        };
        if mask == u64::MAX {
            return value;
        }
        let mask = self.int(mask.cast_signed());
        self.b.ins().band(value, mask)
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
    pub(super) fn big_endian(&mut self, pointer: Value, offset: i32, bytes: u8) -> Value {
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
    pub(in crate::clif) fn starts_with_ip(&self) -> bool {
        let first = self.plan.programs[self.index].attach.first();
        first.is_some_and(|a| a.point.link_layer() == LinkLayer::None)
    }

    /// Parses from the first header on.
    pub(super) fn link_layer(&mut self, demand: &Demand, cursor: &Cursor) {
        let data = self.packet_start(cursor);
        if self.starts_with_ip() {
            return self.stage(cursor, true, |g, none| g.any_network(demand, cursor, none, data));
        }
        let eth = self.check(cursor, data, 14);
        self.read_header(demand, cursor, Header::Eth, eth);
        self.stage(cursor, true, |g, none| g.behind_ethernet(demand, cursor, none, eth));
    }

    /// `none` is left for when there is no network header, `cursor` from there on.
    fn behind_ethernet(&mut self, demand: &Demand, cursor: &Cursor, none: &Cursor, eth: Value) {
        let ether_type = self.load(eth, 12, 2);
        let network = self.b.create_block();
        let pointer = self.b.append_block_param(network, I64);
        let ty = self.b.append_block_param(network, I64);
        if matches!(self.hook, Hook::Tc | Hook::NativeTc) && demand.has(&[Header::Vlan]) {
            // A tag that the driver took out is the outer one.
            let (stripped, plain_block) = (self.b.create_block(), self.b.create_block());
            let present = self.load(self.ctx, skb::VLAN_PRESENT, 4);
            self.b.ins().brif(present, stripped, &[], plain_block, &[]);
            self.b.switch_to_block(stripped);
            let tci = self.load(self.ctx, skb::VLAN_TCI, 4);
            self.vlan(demand, 0, tci);
            self.tags(demand, none, ether_type, network, 1);
            self.b.switch_to_block(plain_block);
        }
        self.tags(demand, none, ether_type, network, 0);
        self.b.switch_to_block(network);
        if demand.wants(Parsed::EthType) {
            let raw = self.b.ins().ireduce(I16, ty);
            let host = self.b.ins().bswap(raw);
            let host = self.b.ins().uextend(I64, host);
            self.parsed(demand, Parsed::EthType, &[host]);
        }
        self.network_layer(demand, cursor, none, pointer, ty);
    }

    /// Steps over up to two tags in the frame, the first of which is number `first`; ends with jumps to `network`.
    fn tags(&mut self, demand: &Demand, cursor: &Cursor, ether_type: Value, network: Block, first: usize) {
        let wanted = demand.has(&[Header::Vlan]);
        let data = self.packet_start(cursor);
        let mut ty = ether_type;
        for tag in 0..2 {
            let at = 14 + 4 * i64::try_from(tag).unwrap_or(0);
            let pointer = self.b.ins().iadd_imm_s(data, at);
            let (is_tag, not_tag, other) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
            let c = self.compare_imm(IntCC::Equal, ty, ETH_8021Q);
            self.b.ins().brif(c, is_tag, &[], other, &[]);
            self.b.switch_to_block(other);
            let c = self.compare_imm(IntCC::Equal, ty, ETH_8021AD);
            self.b.ins().brif(c, is_tag, &[], not_tag, &[]);
            self.b.switch_to_block(not_tag);
            self.b.ins().jump(network, &[BlockArg::Value(pointer), BlockArg::Value(ty)]);
            self.b.switch_to_block(is_tag);
            let header = self.check(cursor, pointer, 4);
            if wanted {
                let tci = self.big_endian(header, 0, 2);
                self.vlan(demand, first + tag, tci);
                if let Some(places) = self.places.filter(|_| first + tag == 0) {
                    let at = self.int(at);
                    self.set_place(places.tag, at);
                }
            }
            ty = self.load(header, 2, 2);
        }
        let pointer = self.b.ins().iadd_imm_s(data, 22);
        self.b.ins().jump(network, &[BlockArg::Value(pointer), BlockArg::Value(ty)]);
    }

    /// Notes a tag; those behind the second have no words.
    fn vlan(&mut self, demand: &Demand, number: usize, tci: Value) {
        let inner = match number {
            0 => false,
            1 => true,
            _ => return,
        };
        self.set_header(Header::Vlan);
        if demand.wants(Parsed::VlanId { inner }) {
            let id = self.bits(tci, 0, 0xfff);
            self.parsed(demand, Parsed::VlanId { inner }, &[id]);
        }
        if demand.wants(Parsed::VlanPrio { inner }) {
            let prio = self.bits(tci, 13, 7);
            self.parsed(demand, Parsed::VlanPrio { inner }, &[prio]);
        }
    }

    /// Parses from an IP header on, whose version alone says what it is.
    fn any_network(&mut self, demand: &Demand, cursor: &Cursor, none: &Cursor, pointer: Value) {
        let header = self.check(none, pointer, 1);
        let first = self.load(header, 0, 1);
        let version = self.b.ins().ushr_imm_s(first, 4);
        let (v4, v6, other) = (self.int(ETH_IP), self.int(ETH_IPV6), self.int(0));
        let is_v4 = self.compare_imm(IntCC::Equal, version, 4);
        let is_v6 = self.compare_imm(IntCC::Equal, version, 6);
        let ty = self.b.ins().select(is_v6, v6, other);
        let ty = self.b.ins().select(is_v4, v4, ty);
        self.network_layer(demand, cursor, none, pointer, ty);
    }

    fn network_layer(&mut self, demand: &Demand, cursor: &Cursor, none: &Cursor, pointer: Value, ty: Value) {
        let below = demand.transport();
        let v4 = below || demand.has(&[Header::Ip, Header::Ip4]);
        let v6 = below || demand.has(&[Header::Ip, Header::Ip6]);
        let transport = Transport {
            block: self.b.create_block(),
            length: demand.transport_length(),
        };
        let params: Vec<Value> = (0..if transport.length { 4 } else { 3 })
            .map(|_| self.b.append_block_param(transport.block, I64))
            .collect();
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
                Header::Ip4 => self.ipv4(demand, cursor, none, pointer, transport),
                Header::Ip6 => self.ipv6(demand, cursor, none, pointer, transport),
                _ => {
                    let header = self.check(none, pointer, 28);
                    // Only Ethernet and IPv4: other sizes would move the fields.
                    let kind = self.load(header, 0, 8);
                    let kind = self.bits(kind, 0, 0x0000_ffff_ffff_ffff);
                    self.only_if(none, IntCC::Equal, kind, 0x0406_0008_0100);
                    self.read_header(demand, cursor, Header::Arp, header);
                    self.b.ins().jump(cursor.done, &[]);
                }
            }
            self.b.switch_to_block(no);
        }
        self.b.ins().jump(none.done, &[]);
        self.b.switch_to_block(transport.block);
        let length = params.get(3).copied();
        self.stage(cursor, true, |g, cursor| {
            g.transport_layer(demand, cursor, params[0], params[1], params[2], length)
        });
    }

    fn note_network(&mut self, cursor: &Cursor, pointer: Value, version: Value) {
        if let Some(places) = self.places {
            let at = self.offset_of(cursor, pointer);
            self.set_place(places.network, at);
            self.set_place(places.version, version);
        }
    }

    /// A big packet has no length in its header: then what the buffer holds counts.
    fn known_length(&mut self, cursor: &Cursor, pointer: Value, length: Value) -> Value {
        if !self.hook.is_skb() {
            return length;
        }
        let at = self.offset_of(cursor, pointer);
        let whole = self.load(self.ctx, 0, 4);
        let rest = self.b.ins().isub(whole, at);
        let unknown = self.compare_imm(IntCC::Equal, length, 0);
        self.b.ins().select(unknown, rest, length)
    }

    /// The flow of a packet whose ports are not known (yet): addresses, protocol, family.
    fn flow(&mut self, demand: &Demand, addresses: [Value; 4], proto: Value, family: i64) {
        if demand.wants(Parsed::Flow) {
            let proto = self.b.ins().ishl_imm_s(proto, 32);
            let family = self.int(family << 40);
            let last = self.b.ins().bor(proto, family);
            let [a, b, c, d] = addresses;
            self.parsed(demand, Parsed::Flow, &[a, b, c, d, last]);
        }
    }

    fn ipv4(&mut self, demand: &Demand, cursor: &Cursor, none: &Cursor, pointer: Value, transport: Transport) {
        let header = self.check(none, pointer, 20);
        let first = self.load(header, 0, 1);
        let version = self.b.ins().ushr_imm_s(first, 4);
        self.only_if(none, IntCC::Equal, version, 4);
        self.note_network(cursor, pointer, version);
        self.read_header(demand, cursor, Header::Ip4, header);
        self.set_header(Header::Ip);
        for (part, offset) in [(IpPart::Src, 12), (IpPart::Dst, 16)] {
            if demand.wants_ip(false, part) {
                let words = self.inet4(header, offset);
                self.set_ip(demand, false, part, &words);
            }
        }
        self.set_ip(demand, false, IpPart::Version, &[version]);
        for (part, offset, bytes, mask) in [
            (IpPart::Ttl, 8, 1, u64::MAX),
            (IpPart::Tos, 1, 1, u64::MAX),
            (IpPart::Id, 4, 2, u64::MAX),
            (IpPart::Frag, 6, 2, 0x1fff),
            (IpPart::Proto, 9, 1, u64::MAX),
        ] {
            if demand.wants_ip(false, part) {
                let value = self.big_endian(header, offset, bytes);
                let value = self.bits(value, 0, mask);
                self.set_ip(demand, false, part, &[value]);
            }
        }
        let mut length = None;
        if demand.wants_ip(false, IpPart::Len) || transport.length {
            let total = self.big_endian(header, 2, 2);
            let total = self.known_length(cursor, pointer, total);
            self.set_ip(demand, false, IpPart::Len, &[total]);
            length = Some(total);
        }
        if demand.wants(Parsed::Flow) {
            let (src, dst, zero) = (self.load(header, 12, 4), self.load(header, 16, 4), self.int(0));
            let proto = self.load(header, 9, 1);
            self.flow(demand, [src, zero, dst, zero], proto, 2);
        }
        if !demand.transport() {
            self.b.ins().jump(cursor.done, &[]);
            return;
        }
        // Only the first fragment has the transport header.
        let fragment = self.load(header, 6, 2);
        let offset = self.bits(fragment, 0, 0xff1f);
        let proto = self.load(header, 9, 1);
        let words = self.bits(first, 0, 15);
        self.stage(cursor, false, |g, cursor| {
            g.only_if(cursor, IntCC::Equal, offset, 0);
            g.only_if(cursor, IntCC::UnsignedGreaterThanOrEqual, words, 5);
            let bytes = g.b.ins().ishl_imm_s(words, 2);
            let l4 = g.b.ins().iadd(pointer, bytes);
            let l4 = g.pin(l4);
            let family = g.int(4);
            let mut args = vec![BlockArg::Value(l4), BlockArg::Value(proto), BlockArg::Value(family)];
            if let Some(total) = length.filter(|_| transport.length) {
                let rest = g.b.ins().isub(total, bytes);
                args.push(BlockArg::Value(rest));
            }
            g.b.ins().jump(transport.block, &args);
        });
    }

    /// Goes on only if the comparison holds; else there is nothing more to find.
    pub(super) fn only_if(&mut self, cursor: &Cursor, cc: IntCC, value: Value, n: i64) {
        let go = self.b.create_block();
        let c = self.compare_imm(cc, value, n);
        self.b.ins().brif(c, go, &[], cursor.done, &[]);
        self.b.switch_to_block(go);
    }

    fn ipv6(&mut self, demand: &Demand, cursor: &Cursor, none: &Cursor, pointer: Value, transport: Transport) {
        let header = self.check(none, pointer, 40);
        let first = self.big_endian(header, 0, 4);
        let version = self.b.ins().ushr_imm_s(first, 28);
        self.only_if(none, IntCC::Equal, version, 6);
        self.note_network(cursor, pointer, version);
        self.read_header(demand, cursor, Header::Ip6, header);
        self.set_header(Header::Ip);
        for (part, offset) in [(IpPart::Src, 8), (IpPart::Dst, 24)] {
            if demand.wants_ip(true, part) {
                let words = self.inet6(header, offset);
                self.set_ip(demand, true, part, &words);
            }
        }
        self.set_ip(demand, true, IpPart::Version, &[version]);
        if demand.wants_ip(true, IpPart::Tos) {
            let class = self.bits(first, 20, 0xff);
            self.set_ip(demand, true, IpPart::Tos, &[class]);
        }
        if demand.wants_ip(true, IpPart::Ttl) {
            let hops = self.load(header, 7, 1);
            self.set_ip(demand, true, IpPart::Ttl, &[hops]);
        }
        let mut length = None;
        if demand.wants_ip(true, IpPart::Len) || transport.length {
            let payload = self.big_endian(header, 4, 2);
            let whole = self.b.ins().iadd_imm_s(payload, 40);
            let whole = if self.hook.is_skb() {
                let at = self.offset_of(cursor, pointer);
                let skb_len = self.load(self.ctx, 0, 4);
                let rest = self.b.ins().isub(skb_len, at);
                let unknown = self.compare_imm(IntCC::Equal, payload, 0);
                self.b.ins().select(unknown, rest, whole)
            } else {
                whole
            };
            self.set_ip(demand, true, IpPart::Len, &[whole]);
            length = Some(whole);
        }
        let next = self.load(header, 6, 1);
        if demand.wants(Parsed::Flow) {
            let [_, s1, s2] = self.inet6(header, 8);
            let [_, d1, d2] = self.inet6(header, 24);
            self.flow(demand, [s1, s2, d1, d2], next, 10);
        }
        let walk = [IpPart::Proto, IpPart::Id, IpPart::Frag].iter().any(|p| demand.wants_ip(true, *p));
        if !demand.transport() && !walk {
            self.b.ins().jump(cursor.done, &[]);
            return;
        }
        self.stage(cursor, true, |g, cursor| {
            g.extensions(demand, cursor, pointer, next, transport, length)
        });
    }

    /// Walks the headers between that of IPv6 and the transport's: a loop, since unrolled it was most of the program.
    fn extensions(&mut self, demand: &Demand, cursor: &Cursor, start: Value, next: Value, transport: Transport, length: Option<Value>) {
        let (head, walk, options, fragment, auth, found, after) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        let [at, proto, count] = [(); 3].map(|()| self.b.append_block_param(head, I64));
        let [length_bytes, inner] = [(); 2].map(|()| self.b.append_block_param(after, I64));
        let first = self.b.ins().iadd_imm_s(start, 40);
        let zero = self.int(0);
        self.b
            .ins()
            .jump(head, &[BlockArg::Value(first), BlockArg::Value(next), BlockArg::Value(zero)]);
        self.b.switch_to_block(head);
        // Hop-by-hop, routing, destination options, mobility.
        for number in [0, 43, 60, 135] {
            self.branch_on(proto, number, options);
        }
        self.branch_on(proto, 44, fragment);
        self.branch_on(proto, 51, auth);
        self.b.ins().jump(found, &[]);
        self.b.switch_to_block(options);
        self.extension(cursor, at, 3, after);
        self.b.switch_to_block(auth);
        self.extension(cursor, at, 2, after);
        self.b.switch_to_block(fragment);
        self.fragment(demand, cursor, at, after);
        self.b.switch_to_block(after);
        // By way of the stack, in halves of a word, the verifier forgets which kind of header had which lengths: else it walks
        // every sequence of kinds on its own.
        let room = self.memory_slot(8);
        let short = self.b.ins().ireduce(I32, length_bytes);
        self.b.ins().store(plain(), short, room, 4);
        let bytes = self.load(room, 4, 2);
        let bytes = self.bits(bytes, 0, MAX_EXTENSION_MASK);
        let behind = self.b.ins().iadd(at, bytes);
        let behind = self.pin(behind);
        let count = self.b.ins().iadd_imm_s(count, 1);
        let more = self.compare_imm(IntCC::UnsignedLessThan, count, MAX_EXTENSION_HEADERS);
        self.b.ins().brif(more, walk, &[], cursor.done, &[]);
        self.b.switch_to_block(walk);
        self.b
            .ins()
            .jump(head, &[BlockArg::Value(behind), BlockArg::Value(inner), BlockArg::Value(count)]);
        self.b.switch_to_block(found);
        self.found_protocol(demand, proto);
        let family = self.int(6);
        let mut args = vec![BlockArg::Value(at), BlockArg::Value(proto), BlockArg::Value(family)];
        if let Some(whole) = length.filter(|_| transport.length) {
            let before = self.b.ins().isub(at, start);
            let rest = self.b.ins().isub(whole, before);
            args.push(BlockArg::Value(rest));
        }
        self.b.ins().jump(transport.block, &args);
    }

    /// The protocol behind IPv6 extension headers is known.
    fn found_protocol(&mut self, demand: &Demand, proto: Value) {
        self.set_ip(demand, true, IpPart::Proto, &[proto]);
        self.flow_word(demand, |g, last| {
            let rest = g.bits(last, 0, !(0xff << 32));
            let proto = g.b.ins().ishl_imm_s(proto, 32);
            g.b.ins().bor(rest, proto)
        });
    }

    /// Changes the last word of the flow: ports, protocol, family, and whether it has ports.
    pub(super) fn flow_word(&mut self, demand: &Demand, change: impl Fn(&mut Self, Value) -> Value) {
        for &field in &demand.fields {
            if FIELDS[field].kind == FieldKind::Parsed(Parsed::Flow)
                && let Some(var) = self.fields.get(&field).and_then(|s| s.words.get(4)).copied()
            {
                let last = self.b.use_var(var);
                let new = change(self, last);
                self.b.def_var(var, new);
            }
        }
    }

    /// A fragment header: only the first fragment goes on.
    fn fragment(&mut self, demand: &Demand, cursor: &Cursor, at: Value, after: Block) {
        let header = self.check(cursor, at, 8);
        let inner = self.load(header, 0, 1);
        if demand.wants_ip(true, IpPart::Id) {
            let id = self.big_endian(header, 4, 4);
            self.set_ip(demand, true, IpPart::Id, &[id]);
        }
        if demand.wants_ip(true, IpPart::Frag) {
            let offset = self.big_endian(header, 2, 2);
            let offset = self.bits(offset, 3, u64::MAX);
            self.set_ip(demand, true, IpPart::Frag, &[offset]);
        }
        let offset = self.load(header, 2, 2);
        let offset = self.bits(offset, 0, 0xf8ff);
        let (first, later) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(offset, later, &[], first, &[]);
        self.b.switch_to_block(later);
        self.found_protocol(demand, inner);
        self.b.ins().jump(cursor.done, &[]);
        self.b.switch_to_block(first);
        let length = self.int(8);
        self.b.ins().jump(after, &[BlockArg::Value(length), BlockArg::Value(inner)]);
    }

    fn branch_on(&mut self, value: Value, n: i64, target: Block) {
        let no = self.b.create_block();
        let c = self.compare_imm(IntCC::Equal, value, n);
        self.b.ins().brif(c, target, &[], no, &[]);
        self.b.switch_to_block(no);
    }

    /// An extension header with its length in its second byte: `(n + 1) << 3`, or `(n + 2) << 2` for authentication.
    fn extension(&mut self, cursor: &Cursor, at: Value, shift: i64, after: Block) {
        let header = self.check(cursor, at, 8);
        let next = self.load(header, 0, 1);
        let units = self.load(header, 1, 1);
        let units = self.b.ins().iadd_imm_s(units, if shift == 3 { 1 } else { 2 });
        let length = self.b.ins().ishl_imm_s(units, shift);
        self.b.ins().jump(after, &[BlockArg::Value(length), BlockArg::Value(next)]);
    }

    fn transport_layer(&mut self, demand: &Demand, cursor: &Cursor, pointer: Value, proto: Value, family: Value, length: Option<Value>) {
        let ports = demand.ports();
        let payload = demand.has(&[Header::Payload]);
        let dns = demand.has(&[Header::Dns]);
        let sums = demand.checksums;
        // Number, least length of the header, whether there is more than the header itself that asks for it, its family.
        let kinds = [
            (Header::Tcp, 6, 20, ports || payload || dns || sums, None),
            (Header::Udp, 17, 8, ports || payload || dns || sums, None),
            (Header::Sctp, 132, 12, ports || payload, None),
            (Header::Icmp, 1, if payload { 8 } else { 4 }, payload, Some(4)),
            (Header::Icmp6, 58, if payload { 8 } else { 4 }, payload || sums, Some(6)),
        ];
        for (header, number, bytes, also, only_family) in kinds {
            if !demand.has(&[header]) && !also {
                continue;
            }
            let (yes, no) = (self.b.create_block(), self.b.create_block());
            let c = self.compare_imm(IntCC::Equal, proto, number);
            self.b.ins().brif(c, yes, &[], no, &[]);
            self.b.switch_to_block(yes);
            if let Some(wanted) = only_family {
                self.only_if(cursor, IntCC::Equal, family, wanted);
            }
            let at = self.check(cursor, pointer, bytes);
            if let Some(places) = self.places {
                let offset = self.offset_of(cursor, pointer);
                self.set_place(places.transport, offset);
                let number = self.int(number);
                self.set_place(places.proto, number);
            }
            self.read_header(demand, cursor, header, at);
            if ports && matches!(header, Header::Tcp | Header::Udp | Header::Sctp) {
                self.ports(demand, at);
            }
            let size = if header == Header::Tcp { self.tcp_size(demand, at) } else { None };
            let data = match size {
                Some(size) => size,
                None => self.int(if header == Header::Icmp || header == Header::Icmp6 {
                    8
                } else {
                    bytes
                }),
            };
            // Behind this the header's bytes may be overwritten by the next that are copied out.
            let is_dns = (dns && matches!(header, Header::Tcp | Header::Udp)).then(|| {
                let (src, dst) = (self.load(at, 0, 2), self.load(at, 2, 2));
                let a = self.compare_imm(IntCC::Equal, src, PORT_DNS);
                let b = self.compare_imm(IntCC::Equal, dst, PORT_DNS);
                self.b.ins().bor(a, b)
            });
            if let Some(length) = length {
                self.data(demand, cursor, pointer, data, length, header);
            }
            if let (Some(is_dns), Some(dns)) = (is_dns, cursor.dns) {
                let offset = self.offset_of(cursor, pointer);
                let mut message = self.b.ins().iadd(offset, data);
                if header == Header::Tcp {
                    // Two bytes of length come first.
                    message = self.b.ins().iadd_imm_s(message, 2);
                }
                self.b.ins().brif(is_dns, dns, &[BlockArg::Value(message)], cursor.done, &[]);
            } else {
                self.b.ins().jump(cursor.done, &[]);
            }
            self.b.switch_to_block(no);
        }
        self.b.ins().jump(cursor.done, &[]);
    }

    fn ports(&mut self, demand: &Demand, header: Value) {
        self.set_header(Header::Port);
        let src = self.big_endian(header, 0, 2);
        let dst = self.big_endian(header, 2, 2);
        self.parsed(demand, Parsed::PortSrc, &[src]);
        self.parsed(demand, Parsed::PortDst, &[dst]);
        self.flow_word(demand, |g, last| {
            let high = g.b.ins().ishl_imm_s(dst, 16);
            let both = g.b.ins().bor(src, high);
            let known = g.int(1 << 48);
            let ports = g.b.ins().bor(both, known);
            g.b.ins().bor(last, ports)
        });
    }

    /// Length of the TCP header with its options, where anything asks for it.
    fn tcp_size(&mut self, demand: &Demand, header: Value) -> Option<Value> {
        let wanted = demand.wants(Parsed::TcpHdrLen) || demand.transport_length() || demand.has(&[Header::Dns]);
        wanted.then(|| {
            let offset = self.load(header, 12, 1);
            let words = self.b.ins().ushr_imm_s(offset, 4);
            let size = self.b.ins().ishl_imm_s(words, 2);
            self.parsed(demand, Parsed::TcpHdrLen, &[size]);
            size
        })
    }

    /// What follows the transport header: where it is and how much of it there is.
    fn data(&mut self, demand: &Demand, cursor: &Cursor, pointer: Value, header: Value, length: Value, which: Header) {
        let least = if which == Header::Tcp { 20 } else { 0 };
        let (good, bad) = (self.b.create_block(), self.b.create_block());
        let rest = self.b.ins().isub(length, header);
        let c = self.compare_imm(IntCC::SignedGreaterThanOrEqual, rest, 0);
        let long = self.compare_imm(IntCC::UnsignedGreaterThanOrEqual, header, least);
        let c = self.b.ins().band(c, long);
        self.b.ins().brif(c, good, &[], bad, &[]);
        self.b.switch_to_block(good);
        if which == Header::Tcp {
            self.parsed(demand, Parsed::TcpPayloadLen, &[rest]);
        }
        if demand.has(&[Header::Payload]) {
            let offset = self.offset_of(cursor, pointer);
            let start = self.b.ins().iadd(offset, header);
            // What the header promises and the packet does not have is not there.
            let whole = self.packet_len();
            let held = self.b.ins().isub(whole, start);
            let zero = self.int(0);
            let held = self.b.ins().smax(held, zero);
            let n = self.b.ins().umin(rest, held);
            self.set_header(Header::Payload);
            self.parsed(demand, Parsed::Payload, &[start, n]);
        }
        self.b.ins().jump(bad, &[]);
        self.b.switch_to_block(bad);
    }
}
