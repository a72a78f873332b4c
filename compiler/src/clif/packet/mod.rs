//! The packet parser that a program needs: generated on demand, run once at its start.
//!
//! Every field that the program's blocks name is read as soon as the bounds check allows it and becomes a pair of
//! plain values, content and presence. Headers that nothing names are only stepped over. A header outside the linear
//! part of the buffer is never skipped, a filter must not be passed by fragmenting memory: at TC it is pulled in once and
//! parsing starts again, at XDP and at `cgroup_skb` headers are copied out by a helper.
//!
//! What is written to the packet is in `write`, what is read from it at the place of use in `bytes`.

mod bytes;
mod dns;
mod headers;
mod write;

use super::value::{Val, VarSlot, words};
use super::{Generator, plain};
use crate::hir::{ExprKind, StmtKind, Ty, visit};
use crate::object::{AttachPoint, Direction};
use crate::tables::{FIELDS, Field, FieldKind, FieldType, Header, Hook, IFNAME_BYTES, IpPart, NAME_BYTES, Parsed, helper};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I32, I64};
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value};
use cranelift_frontend::Variable;
use std::collections::BTreeSet;

/// What a pull makes linear: enough for Ethernet, two tags, IPv6 with extensions and TCP with options.
const PULL_BYTES: i64 = 512;
/// Largest header that is read at once: IPv6.
const HEADER_BYTES: u32 = 40;
/// Marks the number that XDP leaves before a packet as ours.
pub(super) const META_MAGIC: i64 = 0x7765_6972;
/// The magic and the number.
pub(super) const META_BYTES: i64 = 8;

/// Offsets in `struct __sk_buff` (include/uapi/linux/bpf.h, Linux 6.18; nothing moves).
pub(super) mod skb {
    pub const QUEUE: i32 = 12;
    pub const VLAN_PRESENT: i32 = 20;
    pub const VLAN_TCI: i32 = 24;
    pub const VLAN_PROTO: i32 = 28;
    pub const IFINDEX: i32 = 40;
    pub const DATA: i32 = 76;
    pub const DATA_END: i32 = 80;
    pub const DATA_META: i32 = 140;
    pub const GSO_SEGS: i32 = 164;
}

/// Offsets in `struct xdp_md`.
mod xdp {
    pub const DATA: i32 = 0;
    pub const DATA_END: i32 = 4;
    pub const DATA_META: i32 = 8;
    pub const IFINDEX: i32 = 12;
    pub const QUEUE: i32 = 16;
}

/// What a program wants to know of a packet.
#[derive(Debug, Default)]
struct Demand {
    fields: BTreeSet<usize>,
    headers: BTreeSet<Header>,
    /// Something is written, so places of headers must be known.
    places: bool,
    /// An address is written, which transport checksums cover.
    checksums: bool,
}

impl Demand {
    fn has(&self, wanted: &[Header]) -> bool {
        wanted.iter().any(|h| self.headers.contains(h))
            || self
                .fields
                .iter()
                .any(|f| header_of(&FIELDS[*f]).is_some_and(|h| wanted.contains(&h)))
    }

    fn wants(&self, parsed: Parsed) -> bool {
        self.fields.iter().any(|f| FIELDS[*f].kind == FieldKind::Parsed(parsed))
    }

    fn wants_ip(&self, v6: bool, wanted: IpPart) -> bool {
        self.fields
            .iter()
            .any(|f| matches!(FIELDS[*f].kind, FieldKind::Ip { family, part } if part == wanted && family.has(v6)))
    }

    /// Whether it matters what follows the IP header.
    fn transport(&self) -> bool {
        use Header as H;
        self.checksums || self.wants(Parsed::Flow) || self.has(&[H::Tcp, H::Udp, H::Sctp, H::Port, H::Icmp, H::Icmp6, H::Dns, H::Payload])
    }

    /// Whether the length of what follows the IP header is wanted.
    fn transport_length(&self) -> bool {
        self.wants(Parsed::TcpPayloadLen) || self.has(&[Header::Payload])
    }

    /// Whether TCP, UDP and SCTP are told apart for their ports.
    fn ports(&self) -> bool {
        self.has(&[Header::Port]) || self.wants(Parsed::Flow)
    }
}

/// The header that a field is in, `None` for what comes from the context.
fn header_of(field: &Field) -> Option<Header> {
    Some(match field.kind {
        FieldKind::Bits { header, .. } | FieldKind::MacAt { header, .. } | FieldKind::Inet4At { header, .. } => header,
        FieldKind::Ip { family, .. } => family.header(),
        FieldKind::Parsed(parsed) => match parsed {
            Parsed::EthType => Header::Eth,
            Parsed::VlanId { .. } | Parsed::VlanPrio { .. } => Header::Vlan,
            Parsed::PortSrc | Parsed::PortDst => Header::Port,
            Parsed::TcpHdrLen | Parsed::TcpPayloadLen => Header::Tcp,
            Parsed::Flow => Header::Ip,
            Parsed::Payload => Header::Payload,
            Parsed::DnsId | Parsed::DnsQr | Parsed::DnsRcode | Parsed::DnsQname | Parsed::DnsQtype => Header::Dns,
        },
        FieldKind::Context { .. }
        | FieldKind::Address(_)
        | FieldKind::PacketLen
        | FieldKind::Segments
        | FieldKind::At { .. }
        | FieldKind::Meta
        | FieldKind::IfName
        | FieldKind::Direction
        | FieldKind::Queue
        | FieldKind::Helper(_) => return None,
    })
}

/// Whether a field of the context can be absent all the same.
fn may_be_missing(kind: FieldKind) -> bool {
    matches!(kind, FieldKind::Meta | FieldKind::IfName | FieldKind::Queue | FieldKind::Helper(_))
}

/// How a field is held between the parser and its use.
pub(super) fn field_ty(ty: FieldType) -> Ty {
    match ty {
        FieldType::Bool => Ty::Bool,
        FieldType::U8 | FieldType::U16 | FieldType::U32 | FieldType::U64 => Ty::U64,
        FieldType::Inet => Ty::Inet,
        FieldType::Mac => Ty::Mac,
        FieldType::Flow => Ty::Flow,
        FieldType::Name => Ty::Str { cap: NAME_BYTES },
        FieldType::IfName | FieldType::Direction => Ty::Str { cap: IFNAME_BYTES },
        // Where they are: offset from the packet's start and length.
        FieldType::Bytes => Ty::Tuple(vec![Ty::U64, Ty::U64]),
    }
}

/// Where the headers of this packet are, for what writes to it: numbers, never pointers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    /// Offset of the IP header from the packet's start.
    pub network: Place,
    /// Offset of the transport header.
    pub transport: Place,
    /// Protocol whose header is at `transport`, 0 for none.
    pub proto: Place,
    /// Offset of the outer VLAN tag, 0 where the driver has taken it out.
    pub tag: Place,
    /// 4 or 6, 0 for what is no IP packet.
    pub version: Place,
}

/// What holds one of those numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Var(Variable),
    /// Offset in working memory, for the bodies of loops.
    Frame(u32),
}

impl Places {
    /// The same with each number held elsewhere.
    pub fn map(self, mut f: impl FnMut(Place) -> Place) -> Self {
        Self {
            network: f(self.network),
            transport: f(self.transport),
            proto: f(self.proto),
            tag: f(self.tag),
            version: f(self.version),
        }
    }
}

/// How the parser gets at the packet's bytes.
#[derive(Clone, Copy)]
enum Access {
    /// By pointers into the linear part.
    Direct { data: Value, end: Value },
    /// By offset; a helper copies what is wanted to `room`.
    Copy { room: Value },
}

/// Where the parser is.
#[derive(Clone, Copy)]
struct Cursor {
    access: Access,
    /// Taken when a header is cut off.
    fail: Block,
    /// Taken when there is nothing more to find.
    done: Block,
    /// Parses a DNS message at the offset that it is given.
    dns: Option<Block>,
}

impl Generator<'_, '_> {
    fn demand(&self, blocks: &[usize]) -> Demand {
        let mut demand = Demand::default();
        for &index in blocks {
            let block = &self.hir.blocks[index];
            visit::block(block, &mut |e| match e.kind {
                ExprKind::Field(field) => {
                    demand.fields.insert(field);
                }
                ExprKind::HasHeader(header) => {
                    demand.headers.insert(header);
                }
                _ => {}
            });
            visit::each_stmt(&block.body, &mut |s| {
                if let StmtKind::SetField { field, .. } = &s.kind
                    && header_of(&FIELDS[*field]).is_some()
                {
                    demand.fields.insert(*field);
                    demand.places = true;
                    demand.checksums |= matches!(
                        FIELDS[*field].kind,
                        FieldKind::Ip {
                            part: IpPart::Src | IpPart::Dst,
                            ..
                        }
                    );
                }
            });
        }
        demand
    }

    /// Generates the parser for what these blocks name; leaves the insertion point behind it.
    pub fn parse_packet(&mut self, blocks: &[usize]) {
        let demand = self.demand(blocks);
        for &field in &demand.fields {
            if self.in_card {
                self.place = self.first_use(blocks, field);
            }
            let ty = field_ty(FIELDS[field].ty);
            let in_memory = ty.in_memory();
            let memory = in_memory.then(|| super::value::Room::Frame(self.frame_room(ty.stored().map_or(8, |t| t.size()))));
            let n = if in_memory { 0 } else { words(&ty) };
            let optional = header_of(&FIELDS[field]).is_some() || may_be_missing(FIELDS[field].kind);
            let slot = VarSlot {
                words: (0..n).map(|_| self.b.declare_var(I64)).collect(),
                present: optional.then(|| self.b.declare_var(I8)),
                memory,
                present_at: None,
            };
            self.fields.insert(field, slot);
        }
        for &header in &demand.headers {
            let var = self.b.declare_var(I8);
            self.headers.insert(header, var);
        }
        if demand.places {
            let mut new = || Place::Var(self.b.declare_var(I64));
            self.places = Some(Places {
                network: new(),
                transport: new(),
                proto: new(),
                tag: new(),
                version: new(),
            });
        }
        self.context_fields(&demand);
        let packet = demand.fields.iter().any(|f| header_of(&FIELDS[*f]).is_some()) || !demand.headers.is_empty();
        if packet {
            self.headers_of_packet(&demand);
        }
    }

    /// A field as the parser left it.
    pub fn held_field(&mut self, field: usize) -> Val {
        let Some(slot) = self.fields.get(&field).cloned() else {
            return Val::int(self.ctx);
        };
        self.read_slot(&slot, &field_ty(FIELDS[field].ty))
    }

    /// The value of a field.
    pub fn field_value(&mut self, field: usize) -> Val {
        let held = self.held_field(field);
        if FIELDS[field].ty == FieldType::Bytes {
            return self.payload(&held);
        }
        held
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

    /// Whether the program sees packets that come in, not those that go out.
    fn is_ingress(&self) -> bool {
        let point = self.plan.programs[self.index].attach.first().map(|a| &a.point);
        !matches!(
            point,
            Some(AttachPoint::Tc {
                direction: Direction::Egress,
                ..
            })
        )
    }

    fn context_fields(&mut self, demand: &Demand) {
        let is_skb = self.hook.is_skb();
        for &field in &demand.fields {
            if self.in_card {
                let blocks = self.plan.programs[self.index].blocks.clone();
                self.place = self.first_use(&blocks, field);
            }
            let mut present = None;
            let value = match FIELDS[field].kind {
                FieldKind::Context { xdp, skb } => {
                    let Some((offset, bytes)) = (if is_skb { skb } else { xdp }) else {
                        continue;
                    };
                    self.load(self.ctx, i32::from(offset), u32::from(bytes))
                }
                FieldKind::PacketLen => self.packet_len(),
                FieldKind::Segments if is_skb => {
                    let segments = self.load(self.ctx, skb::GSO_SEGS, 4);
                    let one = self.int(1);
                    self.b.ins().umax(segments, one)
                }
                FieldKind::Segments => self.int(1),
                FieldKind::Queue if is_skb => {
                    let queue = self.load(self.ctx, skb::QUEUE, 4);
                    if self.is_ingress() {
                        // The kernel keeps the receive queue plus one; 0 says that nobody noted it.
                        present = Some(self.compare_imm(IntCC::NotEqual, queue, 0));
                        self.b.ins().iadd_imm_s(queue, -1)
                    } else {
                        queue
                    }
                }
                FieldKind::Queue => self.load(self.ctx, xdp::QUEUE, 4),
                FieldKind::Helper(number) => {
                    let value = self.helper(number, &[self.ctx]);
                    present = Some(self.compare_imm(IntCC::NotEqual, value, 0));
                    value
                }
                FieldKind::Meta => {
                    self.read_meta(field);
                    continue;
                }
                FieldKind::IfName => {
                    self.interface_name(field);
                    continue;
                }
                _ => continue,
            };
            let slot = self.fields[&field].clone();
            self.b.def_var(slot.words[0], value);
            if let Some(var) = slot.present {
                let present = present.unwrap_or_else(|| self.b.ins().iconst(I8, 1));
                self.b.def_var(var, present);
            }
        }
    }

    /// Length of the packet, all fragments of its buffer.
    fn packet_len(&mut self) -> Value {
        if self.hook.is_skb() {
            self.load(self.ctx, 0, 4)
        } else if self.in_card {
            // Programs there see packets of one piece.
            let (data, end) = self.linear();
            self.b.ins().isub(end, data)
        } else {
            self.helper(helper::XDP_GET_BUFF_LEN, &[self.ctx])
        }
    }

    /// The interface's name, from a map that is filled whenever the program is attached.
    fn interface_name(&mut self, field: usize) {
        let slot = self.fields[&field].clone();
        let (Some(super::value::Room::Frame(at)), Some(present)) = (slot.memory, slot.present) else {
            return;
        };
        let map = self.plan.interfaces(self.index);
        let at = i32::try_from(at).unwrap_or(0);
        let frame = self.memory.frame();
        let zero = self.int(0);
        for word in [0, 8] {
            self.b.ins().store(plain(), zero, frame, at + word);
        }
        let (found, done) = (self.b.create_block(), self.b.create_block());
        let offset = if self.hook.is_skb() { skb::IFINDEX } else { xdp::IFINDEX };
        let key = self.index_slot();
        let number = self.b.ins().load(I32, plain(), self.ctx, offset);
        self.b.ins().store(plain(), number, key, 0);
        let map = self.map_address(map);
        let name = self.helper(helper::MAP_LOOKUP_ELEM, &[map, key]);
        let known = self.compare_imm(IntCC::NotEqual, name, 0);
        self.b.def_var(present, known);
        self.b.ins().brif(name, found, &[], done, &[]);
        self.b.switch_to_block(found);
        let name = self.pin(name);
        for word in [0, 8] {
            let part = self.b.ins().load(I64, plain(), name, word);
            self.b.ins().store(plain(), part, frame, at + word);
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// The number that XDP has left, if the magic says that it is ours.
    fn read_meta(&mut self, field: usize) {
        let slot = self.fields[&field].clone();
        let Some(present) = slot.present else { return };
        let zero = self.int(0);
        let absent = self.b.ins().iconst(I8, 0);
        self.b.def_var(slot.words[0], zero);
        self.b.def_var(present, absent);
        let (inside, ours, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let meta = self.load(self.ctx, skb::DATA_META, 4);
        let data = self.load(self.ctx, skb::DATA, 4);
        let limit = self.b.ins().iadd_imm_s(meta, META_BYTES);
        let cut = self.b.ins().icmp(IntCC::UnsignedGreaterThan, limit, data);
        self.b.ins().brif(cut, done, &[], inside, &[]);
        self.b.switch_to_block(inside);
        let magic = self.load(meta, 0, 4);
        let is_ours = self.compare_imm(IntCC::Equal, magic, META_MAGIC);
        self.b.ins().brif(is_ours, ours, &[], done, &[]);
        self.b.switch_to_block(ours);
        let value = self.load(meta, 4, 4);
        let one = self.b.ins().iconst(I8, 1);
        self.b.def_var(slot.words[0], value);
        self.b.def_var(present, one);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// The packet's linear part: where it starts and ends.
    fn linear(&mut self) -> (Value, Value) {
        let (data_at, end_at) = if self.hook.is_skb() {
            (skb::DATA, skb::DATA_END)
        } else {
            (xdp::DATA, xdp::DATA_END)
        };
        (self.load(self.ctx, data_at, 4), self.load(self.ctx, end_at, 4))
    }

    fn headers_of_packet(&mut self, demand: &Demand) {
        let done = self.b.create_block();
        // One for all ways that lead to a message: it is long, and only the offset differs.
        let dns = demand.has(&[Header::Dns]).then(|| {
            let block = self.b.create_block();
            (block, self.b.append_block_param(block, I64))
        });
        let dns_block = dns.map(|(block, _)| block);
        match self.hook {
            Hook::CgroupSkb => {
                self.absent_defaults();
                self.parse_copies(demand, done, dns_block);
            }
            Hook::Tc | Hook::NativeTc => self.parse_pulling(demand, done, dns_block),
            _ => {
                self.absent_defaults();
                let fail = self.b.create_block();
                let (data, end) = self.linear();
                let cursor = Cursor {
                    access: Access::Direct { data, end },
                    fail,
                    done,
                    dns: dns_block,
                };
                self.link_layer(demand, &cursor);
                // Cut off: by the end of the packet, or only by the end of its first buffer?
                self.b.switch_to_block(fail);
                self.b.set_cold_block(fail);
                if self.in_card {
                    self.b.ins().jump(done, &[]);
                    return self.dns_block(demand, done, dns);
                }
                let copies = self.b.create_block();
                let (data, end) = self.linear();
                let linear = self.b.ins().isub(end, data);
                let len = self.packet_len();
                let more = self.b.ins().icmp(IntCC::UnsignedGreaterThan, len, linear);
                self.b.ins().brif(more, copies, &[], done, &[]);
                self.b.switch_to_block(copies);
                self.b.set_cold_block(copies);
                self.absent_defaults();
                self.parse_copies(demand, done, dns_block);
            }
        }
        self.dns_block(demand, done, dns);
    }

    /// Where all ways to a DNS message meet, if one is wanted; then what is behind the parser.
    fn dns_block(&mut self, demand: &Demand, done: Block, dns: Option<(Block, Value)>) {
        if let Some((block, offset)) = dns {
            if self.in_card {
                let field = demand.fields.iter().find(|f| header_of(&FIELDS[**f]) == Some(Header::Dns));
                let blocks = self.plan.programs[self.index].blocks.clone();
                self.place = field.map_or(self.plan.programs[self.index].span, |f| self.first_use(&blocks, *f));
            }
            self.b.switch_to_block(block);
            self.with_memory(|g| g.dns(demand, done, offset));
            self.b.ins().jump(done, &[]);
        }
        self.b.switch_to_block(done);
    }

    /// Parses what a helper copies out, header by header.
    fn parse_copies(&mut self, demand: &Demand, done: Block, dns: Option<Block>) {
        let room = self.memory_slot(HEADER_BYTES);
        let cursor = Cursor {
            access: Access::Copy { room },
            fail: done,
            done,
            dns,
        };
        self.link_layer(demand, &cursor);
    }

    /// Parses the linear part; pulls in more and starts again where that is too short.
    fn parse_pulling(&mut self, demand: &Demand, done: Block, dns: Option<Block>) {
        let (fail, start) = (self.b.create_block(), self.b.create_block());
        let pulled = self.b.append_block_param(start, I64);
        let zero = self.int(0);
        self.b.ins().jump(start, &[BlockArg::Value(zero)]);
        self.b.switch_to_block(start);
        self.absent_defaults();
        let (data, end) = self.linear();
        let cursor = Cursor {
            access: Access::Direct { data, end },
            fail,
            done,
            dns,
        };
        self.link_layer(demand, &cursor);
        // Cut off: by the end of the packet, or only by the end of its linear part?
        self.b.switch_to_block(fail);
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
    }

    /// Until found, everything is absent.
    fn absent_defaults(&mut self) {
        let zero = self.int(0);
        let absent = self.b.ins().iconst(I8, 0);
        let mut fields: Vec<usize> = self.fields.keys().copied().collect();
        fields.sort_unstable();
        for field in fields {
            if header_of(&FIELDS[field]).is_none() {
                continue;
            }
            let slot = self.fields[&field].clone();
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
        if let Some(places) = self.places {
            for place in [places.network, places.transport, places.proto, places.tag, places.version] {
                self.set_place(place, zero);
            }
        }
    }

    fn set_place(&mut self, place: Place, value: Value) {
        match place {
            Place::Var(var) => self.b.def_var(var, value),
            Place::Frame(at) => {
                let frame = self.memory.frame();
                self.b.ins().store(plain(), value, frame, i32::try_from(at).unwrap_or(0));
            }
        }
    }

    /// Where a header is.
    fn place(&mut self, place: Place) -> Value {
        match place {
            Place::Var(var) => self.b.use_var(var),
            Place::Frame(at) => {
                let frame = self.memory.frame();
                self.b.ins().load(I64, plain(), frame, i32::try_from(at).unwrap_or(0))
            }
        }
    }

    /// Puts the places where the body of a loop finds them.
    pub fn places_in_frame(&mut self) -> Option<Places> {
        let places = self.places?;
        Some(places.map(|place| {
            let Place::Var(var) = place else { return place };
            let value = self.b.use_var(var);
            let place = Place::Frame(self.frame_room(8));
            self.set_place(place, value);
            place
        }))
    }

    /// Parses a part whose many ways out all know the same: they meet before they leave, with one set of moves.
    /// `checks` says whether bytes of the packet are asked for in it.
    fn stage(&mut self, cursor: &Cursor, checks: bool, work: impl FnOnce(&mut Self, &Cursor)) {
        let done = self.b.create_block();
        let fail = if cursor.fail == cursor.done { done } else { self.b.create_block() };
        work(self, &Cursor { done, fail, ..*cursor });
        if checks && fail != done {
            self.b.switch_to_block(fail);
            self.b.set_cold_block(fail);
            self.b.ins().jump(cursor.fail, &[]);
        }
        self.b.switch_to_block(done);
        self.b.ins().jump(cursor.done, &[]);
    }

    /// Goes on only if `bytes` bytes at `pointer` are in the packet. Returns where to load them from.
    fn check(&mut self, cursor: &Cursor, pointer: Value, bytes: i64) -> Value {
        let go = self.b.create_block();
        match cursor.access {
            Access::Direct { end, .. } => {
                let limit = self.b.ins().iadd_imm_s(pointer, bytes);
                let cut = self.b.ins().icmp(IntCC::UnsignedGreaterThan, limit, end);
                self.b.ins().brif(cut, cursor.fail, &[], go, &[]);
                self.b.switch_to_block(go);
                pointer
            }
            Access::Copy { room } => {
                let n = self.int(bytes);
                let result = self.copy_bytes(pointer, room, n);
                self.b.ins().brif(result, cursor.fail, &[], go, &[]);
                self.b.switch_to_block(go);
                room
            }
        }
    }

    /// Copies bytes of the packet, wherever in its fragments they lie. Returns 0 when all of them are there.
    fn copy_bytes(&mut self, offset: Value, to: Value, bytes: Value) -> Value {
        let number = if self.hook.is_skb() {
            helper::SKB_LOAD_BYTES
        } else {
            helper::XDP_LOAD_BYTES
        };
        self.helper(number, &[self.ctx, offset, to, bytes])
    }

    /// Where the packet starts, as the cursor counts.
    fn packet_start(&mut self, cursor: &Cursor) -> Value {
        match cursor.access {
            Access::Direct { data, .. } => data,
            Access::Copy { .. } => self.int(0),
        }
    }

    /// Offset from the packet's start, a plain number.
    fn offset_of(&mut self, cursor: &Cursor, pointer: Value) -> Value {
        match cursor.access {
            Access::Direct { data, .. } => self.b.ins().isub(pointer, data),
            Access::Copy { .. } => pointer,
        }
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
        for &field in &demand.fields {
            if FIELDS[field].kind == FieldKind::Parsed(parsed) {
                self.set_field(field, values);
            }
        }
    }

    fn set_ip(&mut self, demand: &Demand, v6: bool, wanted: IpPart, values: &[Value]) {
        for &field in &demand.fields {
            if matches!(FIELDS[field].kind, FieldKind::Ip { family, part } if part == wanted && family.has(v6)) {
                self.set_field(field, values);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{BUILTINS, Hooks};

    /// The rules for what is absent need no test at hooks that have no such word.
    #[test]
    fn nothing_is_absent_in_system_calls_of_cgroups() {
        let mut words = 0;
        for field in FIELDS.iter().filter(|f| Hooks::CGROUP_CALL.iter().any(|h| f.hooks.contains(h))) {
            words += 1;
            assert!(header_of(field).is_none() && !may_be_missing(field.kind), "{}", field.name);
            assert!(
                !Hooks::PACKET.iter().any(|h| field.hooks.contains(h)),
                "{} is of a packet, too",
                field.name
            );
        }
        assert!(words >= 4 && BUILTINS.iter().all(|b| crate::tables::field(b.name).is_none() || b.name == "flow"));
    }
}
