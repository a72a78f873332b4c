//! Packet fields that need more than their name: those with an offset, those known when the block is compiled, and
//! assignments; sending packets elsewhere.

use super::check::{Checker, interface_help};
use super::{Expr, ExprKind, StmtKind, Ty};
use crate::object::{AttachPoint, Direction};
use crate::tables::{self, AddressFamily, FIELDS, Family, Field, FieldKind, FieldType, Header, Hook};
use weir_parser::ast::{self, BinaryOp};
use weir_parser::{Diagnostic, Span};

/// The lint of numbers that a field never has.
const NEVER_EQUAL: &str = "never-equal";

impl Checker<'_> {
    /// The text of a field that the attach point tells.
    pub(super) fn known_field(&mut self, index: usize, span: Span) -> Option<Expr> {
        let text = match FIELDS[index].kind {
            FieldKind::Direction => {
                self.site_dependent = true;
                match self.point.as_ref()?.direction()? {
                    Direction::Ingress => "ingress".to_owned(),
                    Direction::Egress => "egress".to_owned(),
                }
            }
            FieldKind::IfName => {
                let iface = self.point.as_ref()?.iface()?;
                if iface.pattern.contains(['*', '?', '[']) {
                    return None;
                }
                let name = iface.pattern.clone();
                self.site_dependent = true;
                name
            }
            _ => return None,
        };
        let cap = tables::IFNAME_BYTES.max(u32::try_from(text.len() + 1).unwrap_or(0));
        Some(Self::make(ExprKind::Str(text.into_bytes()), Ty::Str { cap }, span))
    }

    /// What says nearly the same as a field where there is none.
    pub(super) fn instead_of_field(&self, field: &Field) -> Option<String> {
        match field.kind {
            FieldKind::IfName if self.hook.has_packet() => Some("`pkt.ifindex` is its number".to_owned()),
            FieldKind::Direction => {
                let instance = &self.natives[self.native?];
                let vars = instance.native.events[self.event].vars;
                let var = vars.iter().find(|v| matches!(v.name, "egress" | "from_pod"))?;
                Some(format!("`{}.{}`: {}", instance.alias, var.name, var.doc))
            }
            _ => None,
        }
    }

    /// Says where the number that XDP leaves can be read.
    pub(super) fn reads_meta(&mut self, span: Span) -> bool {
        if self.hook == Hook::Tc && self.point.as_ref().and_then(AttachPoint::direction) == Some(Direction::Ingress) {
            return true;
        }
        let d = if self.hook == Hook::Xdp {
            Diagnostic::error("write-only-field", span, "`pkt.meta` can only be written in an `xdp` block")
                .help("keep the number in a variable: `$x = 7; pkt.meta = $x;`")
        } else {
            Diagnostic::error("not-at-this-hook", span, "`pkt.meta` is gone when a packet leaves")
                .label("available in `tc` ingress, of the interface whose `xdp` block has written it")
        };
        self.error(d.help("read it in a `tc:IFACE:ingress` block"));
        false
    }

    /// `pkt.u16[off]`: `None` for an index of anything else.
    pub(super) fn packet_index(&mut self, base: &ast::Expr, index: &ast::Expr, span: Span) -> Option<Expr> {
        let path = Self::dotted(base)?;
        let field = &FIELDS[tables::field(&path)?];
        let FieldKind::At { bytes } = field.kind else { return None };
        if self.defines.contains_key("pkt") {
            return None;
        }
        if !field.hooks.contains(self.hook) {
            let d = Diagnostic::error(
                "not-at-this-hook",
                base.span,
                format!("`{path}` is not available in {} block", self.hook.with_article()),
            );
            self.error(d.label(format!("available in {}", field.hooks)));
            return Some(self.failed(span));
        }
        let offset = self.expr(index);
        match (&offset.ty, &offset.kind) {
            (Ty::Error, _) => return Some(self.failed(span)),
            (Ty::Int { .. }, ExprKind::Int(n)) if !(0..=0xffff).contains(n) => {
                let message = format!("an offset in a packet is from 0 to 65535, found {n}");
                self.error(Diagnostic::error("out-of-range", offset.span, message));
                return Some(self.failed(span));
            }
            (Ty::Int { .. }, _) => {}
            (other, _) => {
                let message = format!("an offset is an integer, found `{other}`");
                self.error(Diagnostic::error("operand-type", offset.span, message));
                return Some(self.failed(span));
            }
        }
        let kind = ExprKind::PacketBytes {
            offset: Box::new(offset),
            bytes,
        };
        let ty = Ty::Int {
            bits: bytes * 8,
            signed: false,
        };
        Some(Self::make(kind, ty, span))
    }

    /// The packet field that an expression names, as the target of an assignment.
    pub(super) fn field_target(&self, target: &ast::Expr) -> Option<usize> {
        let path = match &target.kind {
            ast::ExprKind::Index { base, .. } => Self::dotted(base)?,
            _ => Self::dotted(target)?,
        };
        let first = path.split(['.', '[']).next().unwrap_or_default();
        if self.defines.contains_key(first) || self.alias(first).is_some() {
            return None;
        }
        tables::field(&path)
    }

    pub(super) fn assign_field(
        &mut self,
        index: usize,
        target: &ast::Expr,
        op: Option<BinaryOp>,
        value: &ast::Expr,
        span: Span,
    ) -> Option<StmtKind> {
        let field = &FIELDS[index];
        if !field.hooks.contains(self.hook) && !field.writable.contains(self.hook) {
            self.packet_field(index, target.span);
            return None;
        }
        if !field.writable.contains(self.hook) {
            self.read_only(field, target.span);
            return None;
        }
        if op.is_some() && field.kind == FieldKind::Meta {
            self.reads_meta(target.span);
            return None;
        }
        let value = match op {
            None => self.value(value),
            Some(op) => self.binary(op, target, value, span),
        };
        let ty = match field.ty {
            FieldType::Inet => Ty::Inet,
            FieldType::Mac => Ty::Mac,
            _ => Ty::U64,
        };
        let value = self.adapt(value, &ty);
        if value.ty == Ty::Error || !self.fits_family(field, &value) || !self.fits_hook(field, &value) {
            return None;
        }
        let fits = if ty == Ty::U64 { value.ty.is_int() } else { value.ty == ty };
        if !fits {
            let expected = match field.ty {
                FieldType::Inet => "an address",
                FieldType::Mac => "a MAC address",
                _ => "an integer",
            };
            let message = format!("`{}` takes {expected}, found `{}`", field.name, value.ty);
            self.error(Diagnostic::error("operand-type", value.span, message));
            return None;
        }
        if let ExprKind::Int(n) = value.kind {
            let most = greatest(field);
            if !(0..=most).contains(&n) {
                let message = format!("`{}` is from 0 to {most}, found {n}", field.name);
                self.error(Diagnostic::error("out-of-range", value.span, message));
                return None;
            }
        }
        Some(StmtKind::SetField { field: index, value })
    }

    fn read_only(&mut self, field: &Field, span: Span) {
        let d = if field.writable == tables::Hooks::of(&[]) {
            let d = Diagnostic::error("read-only-field", span, format!("`{}` cannot be assigned to", field.name));
            match field.name {
                "port.src" => d.help("`tcp.sport` and `udp.sport` can"),
                "port.dst" => d.help("`tcp.dport` and `udp.dport` can"),
                name if name.starts_with("tcp.") && field.ty == FieldType::Bool => d.help("`tcp.flags` can, all flags at once"),
                _ => {
                    let group = field.name.split('.').next().unwrap_or_default();
                    let of_group = |f: &&Field| f.name.split('.').next() == Some(group) && f.writable.contains(self.hook);
                    let names: Vec<String> = FIELDS.iter().filter(of_group).map(|f| format!("`{}`", f.name)).collect();
                    if names.is_empty() {
                        d
                    } else {
                        d.help(format!("of `{group}` these can: {}", names.join(", ")))
                    }
                }
            }
        } else {
            let message = format!("`{}` cannot be assigned to in {} block", field.name, self.hook.with_article());
            Diagnostic::error("read-only-field", span, message).label(format!("it can be in {}", field.writable))
        };
        self.error(d);
    }

    /// Says that a socket cannot be sent to an address, for it is of the other family. With attach points of both it depends.
    fn fits_hook(&mut self, field: &Field, value: &Expr) -> bool {
        let (ExprKind::Inet { bytes, v6 }, Some(hook), Some(family)) = (&value.kind, self.cgroup_hook, self.family) else {
            return true;
        };
        let other = match family {
            AddressFamily::V4 => *v6,
            AddressFamily::V6 => !*v6,
            AddressFamily::None => false,
        };
        if other && !self.stand_ins.contains(&value.span) {
            let (has, found) = if *v6 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            let message = format!("`{}` is an {has} address at `{}`, this is {found}", field.name, hook.name);
            let d = Diagnostic::error("address-family", value.span, message);
            let [a, b, c, e, ..] = bytes;
            self.error(match v6 {
                true => d,
                false => d.help(format!("to a socket of IPv6 that address is `\"::ffff:{a}.{b}.{c}.{e}\"`")),
            });
        }
        !other
    }

    /// Says that an address is of a family that the field never has.
    pub(super) fn fits_family(&mut self, field: &Field, value: &Expr) -> bool {
        let ExprKind::Inet { v6, .. } = value.kind else { return true };
        self.same_family(field, v6, value.span)
    }

    /// Says that a number stands beside a field that has too few bits for it: `field op value`, in a set `==`. Once for each place,
    /// whatever number of attach points or macros brings the checker there.
    pub(super) fn fits_width(&mut self, field: &Field, op: BinaryOp, value: &Expr) {
        let most = match field.ty {
            FieldType::U8 => i128::from(u8::MAX),
            FieldType::U16 => i128::from(u16::MAX),
            FieldType::U32 => i128::from(u32::MAX),
            _ => return,
        };
        let number = match &value.kind {
            ExprKind::Int(n) if value.ty.is_signed() => i128::from(*n),
            ExprKind::Int(n) => i128::from(n.cast_unsigned()),
            _ => return,
        };
        if (0..=most).contains(&number) || self.diagnostics.iter().any(|d| d.code == NEVER_EQUAL && d.span == value.span) {
            return;
        }
        let range = format!("`{}` is a number from 0 to {most}", field.name);
        let always = match op {
            BinaryOp::Lt | BinaryOp::Le => number > most,
            BinaryOp::Gt | BinaryOp::Ge => number < 0,
            _ => {
                let message = format!("{range}, never {number}");
                return self.diagnostics.push(Diagnostic::lint(NEVER_EQUAL, value.span, message));
            }
        };
        let less_or_greater = if number < 0 { "greater" } else { "less" };
        let message = format!("{range}, always {less_or_greater} than {number}");
        let label = if always { "always true" } else { "never true" };
        self.diagnostics
            .push(Diagnostic::lint(NEVER_EQUAL, value.span, message).label(label));
    }

    pub(super) fn same_family(&mut self, field: &Field, v6: bool, span: Span) -> bool {
        let wanted = match field.kind {
            FieldKind::Ip {
                family: family @ (Family::V4 | Family::V6),
                ..
            } => family,
            FieldKind::Inet4At { header: Header::Arp, .. } => Family::V4,
            _ => return true,
        };
        if wanted.has(v6) || self.stand_ins.contains(&span) {
            return true;
        }
        let name = |v6: bool| if v6 { "IPv6" } else { "IPv4" };
        let message = format!("`{}` is an {} address, this is {}", field.name, name(!v6), name(v6));
        let d = Diagnostic::error("address-family", span, message);
        let d = match field.name.split_once('.') {
            Some(("ip4" | "ip6", part)) => d.help(format!("`ip{}.{part}` or `ip.{part}`", if v6 { 6 } else { 4 })),
            _ => d,
        };
        self.error(d);
        false
    }

    /// `redirect("if")`, `mirror("if")`.
    pub(super) fn redirect(&mut self, name: &ast::Expr, mirror: bool) -> Option<StmtKind> {
        let function = if mirror { "mirror" } else { "redirect" };
        if let ast::ExprKind::Name(word) = &name.kind
            && !self.defines.contains_key(word)
            && self.kernel.interfaces().contains(word)
        {
            let d = Diagnostic::error(
                "argument-type",
                name.span,
                format!("`{word}` is the name of an interface, and wants quotes"),
            );
            self.error(d.help(format!("`{function}(\"{word}\")`")));
            return None;
        }
        let value = self.expr(name);
        let ExprKind::Str(text) = &value.kind else {
            if value.ty != Ty::Error {
                let d = Diagnostic::error(
                    "argument-type",
                    name.span,
                    format!("`{function}` takes the name of an interface as a string literal"),
                );
                self.error(d.help(format!("`{function}(\"eth1\")`")));
            }
            return None;
        };
        let device = String::from_utf8_lossy(text).into_owned();
        let elsewhere = self.point.as_ref().and_then(AttachPoint::iface).is_some_and(|i| i.netns.is_some());
        if !elsewhere && !self.kernel.any_interface() && !self.options.judged_only {
            let interfaces = self.kernel.interfaces();
            if !interfaces.contains(&device) {
                let d = Diagnostic::error("no-interface", name.span, format!("there is no interface `{device}`"));
                self.error(d.help(interface_help(&device, &interfaces)));
                return None;
            }
        }
        Some(StmtKind::Redirect { device, mirror })
    }
}

/// The greatest number that fits into a field.
fn greatest(field: &Field) -> i64 {
    match (field.name, field.ty) {
        ("vlan.id", _) => 0xfff,
        ("vlan.prio", _) => 7,
        (_, FieldType::U8) => 0xff,
        (_, FieldType::U16) => 0xffff,
        (_, FieldType::U32) => 0xffff_ffff,
        _ => i64::MAX,
    }
}
