//! Text form of the typed tree, for `-d hir` and the stage tests.

use super::{Block, Event, EventMap, Expr, ExprKind, MapValueTy, Program, SetElem, Stmt, StmtKind};
use crate::tables;
use std::fmt::Write;

/// Prints the whole tree, one statement a line.
#[must_use]
pub fn dump(program: &Program) -> String {
    let mut out = String::new();
    for (i, map) in program.maps.iter().enumerate() {
        let value = match &map.value {
            MapValueTy::Plain(ty) => ty.to_string(),
            MapValueTy::Agg(agg) => agg.to_string(),
        };
        match &map.key {
            None => writeln!(out, "map {i} {}: {value}", map.name),
            Some(key) => writeln!(out, "map {i} {}[{key}]: {value}", map.name),
        }
        .ok();
    }
    for (i, set) in program.sets.iter().enumerate() {
        let kind = if set.lpm { "prefixes" } else { "keys" };
        writeln!(out, "set {i} of {}: {} {kind}", set.ty, set.keys.len()).ok();
    }
    for (i, native) in program.natives.iter().enumerate() {
        writeln!(out, "native {i} {} as {}", native.native.name, native.alias).ok();
        for (param, value) in native.native.params.iter().zip(&native.params) {
            if let Some(value) = value {
                writeln!(out, "  {} = {value:?}", param.name).ok();
            }
        }
    }
    for block in &program.blocks {
        let mut printer = Printer {
            program,
            block,
            out: &mut out,
        };
        printer.block();
    }
    out
}

struct Printer<'a> {
    program: &'a Program,
    block: &'a Block,
    out: &'a mut String,
}

impl Printer<'_> {
    fn block(&mut self) {
        let points: Vec<String> = self.block.attach.iter().map(|a| format!("{:?}", a.point)).collect();
        writeln!(self.out, "block {} [{}]", self.block.hook.name(), points.join(", ")).ok();
        for (i, var) in self.block.vars.iter().enumerate() {
            writeln!(self.out, "  let ${} #{i}: {}", var.name, var.ty).ok();
        }
        if let Some(predicate) = &self.block.predicate {
            let text = self.expr(predicate);
            writeln!(self.out, "  when {text}").ok();
        }
        self.stmts(&self.block.body, 1);
    }

    fn stmts(&mut self, stmts: &[Stmt], depth: usize) {
        for stmt in stmts {
            let indent = "  ".repeat(depth);
            match &stmt.kind {
                StmtKind::If { cond, then, otherwise } => {
                    let cond = self.expr(cond);
                    writeln!(self.out, "{indent}if {cond}").ok();
                    self.stmts(then, depth + 1);
                    if !otherwise.is_empty() {
                        writeln!(self.out, "{indent}else").ok();
                        self.stmts(otherwise, depth + 1);
                    }
                }
                StmtKind::While { cond, body } => {
                    let cond = self.expr(cond);
                    writeln!(self.out, "{indent}while {cond}").ok();
                    self.stmts(body, depth + 1);
                }
                StmtKind::ForRange { var, start, end, body } => {
                    let (start, end) = (self.expr(start), self.expr(end));
                    writeln!(self.out, "{indent}for ${} : {start}..{end}", self.block.vars[*var].name).ok();
                    self.stmts(body, depth + 1);
                }
                StmtKind::ForMap { var, map, body } => {
                    let map = self.map(*map, None);
                    writeln!(self.out, "{indent}for ${} : {map}", self.block.vars[*var].name).ok();
                    self.stmts(body, depth + 1);
                }
                StmtKind::Unroll { count, body } => {
                    writeln!(self.out, "{indent}unroll {count}").ok();
                    self.stmts(body, depth + 1);
                }
                StmtKind::Limit { rate, per, body, .. } => {
                    writeln!(self.out, "{indent}limit {rate} in {per} ns").ok();
                    self.stmts(body, depth + 1);
                }
                StmtKind::Block(body) => {
                    writeln!(self.out, "{indent}block").ok();
                    self.stmts(body, depth + 1);
                }
                other => {
                    let text = self.simple(other);
                    writeln!(self.out, "{indent}{text}").ok();
                }
            }
        }
    }

    fn map(&self, map: usize, key: Option<&Expr>) -> String {
        let name = &self.program.maps[map].name;
        match key {
            None => name.clone(),
            Some(key) => format!("{name}[{}]", self.expr(key)),
        }
    }

    fn event_map(&self, map: EventMap) -> String {
        match map {
            EventMap::Own(map) => self.map(map, None),
            EventMap::Native { instance, map } => {
                let native = &self.program.natives[instance];
                format!("@{}.{}", native.alias, native.native.maps[map].name)
            }
        }
    }

    fn simple(&self, kind: &StmtKind) -> String {
        match kind {
            StmtKind::Expr(e) => self.expr(e),
            StmtKind::SetVar { var, value } => format!("${} = {}", self.block.vars[*var].name, self.expr(value)),
            StmtKind::SetField { field, value } => format!("{} = {}", tables::FIELDS[*field].name, self.expr(value)),
            StmtKind::Redirect { device, mirror } => format!("{} {device:?}", if *mirror { "mirror" } else { "redirect" }),
            StmtKind::SetMap { map, key, value } => format!("{} = {}", self.map(*map, key.as_ref()), self.expr(value)),
            StmtKind::AddMap { map, key, value } => format!("{} += {}", self.map(*map, key.as_ref()), self.expr(value)),
            StmtKind::Aggregate { map, key, agg, value } => {
                let value = value.as_ref().map(|v| self.expr(v)).unwrap_or_default();
                format!("{} {agg:?}({value})", self.map(*map, key.as_ref()))
            }
            StmtKind::Event(event) => match event {
                Event::Printf { what, args, .. } => {
                    let word = match what {
                        crate::object::TextKind::Print => "printf".to_owned(),
                        other => format!("{other:?}").to_lowercase(),
                    };
                    format!("{word} {}", self.list(args))
                }
                Event::SeqPrintf { args, .. } => format!("seq_printf {}", self.list(args)),
                Event::Join { args, .. } => format!("join {}", self.list(args)),
                Event::PrintValue(e) => format!("print {}", self.expr(e)),
                Event::PrintMap { map, top, div } => format!("print {} top {top} div {div}", self.event_map(*map)),
                Event::PrintMapKey { map, key } => format!("print {}", self.map(*map, Some(key))),
                Event::Clear(map) => format!("clear {}", self.event_map(*map)),
                Event::PrintNative { instance, top } => format!("print @{} top {top}", self.program.natives[*instance].alias),
                Event::Zero(map) => format!("zero {}", self.event_map(*map)),
                Event::Time(format) => format!("time {format:?}"),
            },
            StmtKind::Break => "break".to_owned(),
            StmtKind::Continue => "continue".to_owned(),
            StmtKind::Return(None) => "return".to_owned(),
            StmtKind::Return(Some(e)) => format!("return {}", self.expr(e)),
            StmtKind::Verdict(v) => format!("verdict {v:?}"),
            StmtKind::Capture { bytes } => format!("capture {bytes}"),
            StmtKind::Exit { code: None } => "exit".to_owned(),
            StmtKind::Exit { code: Some(e) } => format!("exit {}", self.expr(e)),
            StmtKind::If { .. }
            | StmtKind::While { .. }
            | StmtKind::ForRange { .. }
            | StmtKind::ForMap { .. }
            | StmtKind::Unroll { .. }
            | StmtKind::Limit { .. }
            | StmtKind::Block(_) => String::new(),
        }
    }

    fn list(&self, exprs: &[Expr]) -> String {
        exprs.iter().map(|e| self.expr(e)).collect::<Vec<_>>().join(", ")
    }

    fn expr(&self, e: &Expr) -> String {
        let inner = match &e.kind {
            ExprKind::Int(n) => return n.to_string(),
            ExprKind::Str(s) => return format!("{:?}", String::from_utf8_lossy(s)),
            ExprKind::Inet { bytes, v6 } => return inet_text(bytes, *v6),
            ExprKind::Mac(mac) => return mac.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"),
            ExprKind::Prefix(bytes, len, v6) => return format!("{}/{len}", inet_text(bytes, *v6)),
            ExprKind::Builtin(b) => return format!("{b:?}").to_lowercase(),
            ExprKind::PacketBytes { offset, bytes } => return format!("(packet {bytes} {})", self.expr(offset)),
            ExprKind::Field(i) => return tables::FIELDS[*i].name.to_owned(),
            ExprKind::HasHeader(h) => format!("has {h:?}"),
            ExprKind::Has(e) => format!("has {}", self.expr(e)),
            ExprKind::EventVar { offset, size } => format!("event {offset} {size}"),
            ExprKind::Var(id) => return format!("${}", self.block.vars[*id].name),
            ExprKind::MapGet { map, key } => format!("get {}", self.map(*map, key.as_deref())),
            ExprKind::AggGet { map, key } => format!("aggregate {}", self.map(*map, key.as_deref())),
            ExprKind::HasKey { map, key } => format!("has_key {}", self.map(*map, Some(key))),
            ExprKind::Delete { map, key } => format!("delete {}", self.map(*map, key.as_deref())),
            ExprKind::IncDec {
                target,
                increment,
                postfix,
            } => {
                let op = if *increment { "++" } else { "--" };
                if *postfix {
                    format!("{}{op}", self.expr(target))
                } else {
                    format!("{op}{}", self.expr(target))
                }
            }
            ExprKind::Not(e) => format!("! {}", self.expr(e)),
            ExprKind::BitNot(e) => format!("~ {}", self.expr(e)),
            ExprKind::Neg(e) => format!("- {}", self.expr(e)),
            ExprKind::Binary { op, left, right } => format!("{} {} {}", self.expr(left), op.symbol(), self.expr(right)),
            ExprKind::Ternary { cond, then, otherwise } => format!("{} ? {} : {}", self.expr(cond), self.expr(then), self.expr(otherwise)),
            ExprKind::Elvis { value, otherwise } => format!("{} ?: {}", self.expr(value), self.expr(otherwise)),
            ExprKind::In { value, set } => {
                let set: Vec<String> = set
                    .iter()
                    .map(|s| match s {
                        SetElem::One(e) => self.expr(e),
                        SetElem::Range(a, b) => format!("{}-{}", self.expr(a), self.expr(b)),
                        SetElem::Prefix(bytes, len, v6) => format!("{}/{len}", inet_text(bytes, *v6)),
                    })
                    .collect();
                format!("{} in ({})", self.expr(value), set.join(", "))
            }
            ExprKind::InMap { value, set } => format!("{} in set {set}", self.expr(value)),
            ExprKind::Convert(e) => format!("convert {}", self.expr(e)),
            ExprKind::CtxLoad { offset, size } => format!("ctx {offset} {size}"),
            ExprKind::Place { base, offset } => format!("place {} + {offset}", self.expr(base)),
            ExprKind::Element { base, index, size } => format!("element {} [{}] * {size}", self.expr(base), self.expr(index)),
            ExprKind::Read { place, size, bits: None } => format!("read {} {size}", self.expr(place)),
            ExprKind::Read {
                place,
                size,
                bits: Some((shift, width)),
            } => format!("read {} {size} bits {shift} {width}", self.expr(place)),
            ExprKind::ReadStr { ptr, len, cap, space } => match len {
                Some(len) => format!("str {} {} {cap} {space:?}", self.expr(ptr), self.expr(len)),
                None => format!("str {} {cap} {space:?}", self.expr(ptr)),
            },
            ExprKind::ReadBuf { ptr, len, cap, space } => format!("buf {} {} {cap} {space:?}", self.expr(ptr), self.expr(len)),
            ExprKind::ReadArray { place, size } => format!("array {} {size}", self.expr(place)),
            ExprKind::Memcmp { left, right, n } => format!("memcmp {} {} {n}", self.expr(left), self.expr(right)),
            ExprKind::Strncmp { left, right, n } => format!("strncmp {} {} {n}", self.expr(left), self.expr(right)),
            ExprKind::Strcontains { text, part, index } => {
                let word = if *index { "strstr" } else { "strcontains" };
                format!("{word} {} {}", self.expr(text), self.expr(part))
            }
            ExprKind::Concat { left, right } => format!("concat {} {}", self.expr(left), self.expr(right)),
            ExprKind::Fill { number, size, args } => format!("fill {number} {size} ({})", self.list(args)),
            ExprKind::Give { number, args, value, size } => {
                format!("give {number} {size} ({}) {}", self.list(args), self.expr(value))
            }
            ExprKind::AddrOf(id) => format!("address ${}", self.block.vars[*id].name),
            ExprKind::MapAddr { map, key } => format!("address {}", self.map(*map, key.as_deref())),
            ExprKind::FilePath { place, cap } => format!("path {cap} ({})", self.expr(place)),
            ExprKind::StackBytes { user, depth } => format!("bytes of {} {depth}", if *user { "ustack" } else { "kstack" }),
            ExprKind::Inline { body, result } => {
                let lines: Vec<String> = body.iter().map(|s| self.simple(&s.kind)).collect();
                let value = result.map(|id| format!("${}", self.block.vars[id].name)).unwrap_or_default();
                format!("inline {{ {} }} {value}", lines.join("; "))
            }
            ExprKind::Strlen(e) => format!("strlen {}", self.expr(e)),
            ExprKind::Stack { user, depth, build_id } => {
                let mode = if *build_id { "build_id " } else { "" };
                format!("{} {mode}{depth}", if *user { "ustack" } else { "kstack" })
            }
            ExprKind::Len(map) => format!("len {}", self.map(*map, None)),
            ExprKind::Elapsed => "elapsed".to_owned(),
            ExprKind::Helper { number, args } => {
                let name = crate::backend::helper_name(*number).unwrap_or_default();
                format!("{name} {}", self.list(args))
            }
            ExprKind::Block { body, value } => {
                let body: Vec<String> = body.iter().map(|s| self.simple(&s.kind)).collect();
                format!("{{ {}; {} }}", body.join("; "), self.expr(value))
            }
            ExprKind::DataLoc { offset } => format!("data_loc {offset}"),
            ExprKind::Ntop { family, addr } => match family {
                Some(family) => format!("ntop {} {}", self.expr(family), self.expr(addr)),
                None => format!("ntop {}", self.expr(addr)),
            },
            ExprKind::Bswap { value, bits } => format!("bswap{bits} {}", self.expr(value)),
            ExprKind::Tuple(parts) => return format!("({})", self.list(parts)),
            ExprKind::TupleGet { base, index } => format!("{}.{index}", self.expr(base)),
            ExprKind::Error => "error".to_owned(),
        };
        format!("({inner}: {})", e.ty)
    }
}

fn inet_text(bytes: &[u8; 16], v6: bool) -> String {
    if v6 {
        std::net::Ipv6Addr::from(*bytes).to_string()
    } else {
        std::net::Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).to_string()
    }
}
