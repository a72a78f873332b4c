//! `retransmits`: the offsets of the kernel's fields for its programs, and tables of what they have counted.
//!
//! Connections come from two maps, open ones and those that have ended; the latter are taken away and added up here, so that
//! what they have sent stays. An iterator over all open files reads the sockets that nothing has happened to.

use super::engine::{Engine, Maps, Rows, Value, text_bytes};
use super::{Params, Setup, pressure, process};
use crate::attach::tracing::Iterator as KernelIterator;
use crate::error::{Error, Notice};
use crate::format::uint;
use crate::kernel::Kernel;
use crate::load::Elf;
use crate::maps::Map;
use crate::sys::{bpf, netns};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::os::fd::AsFd;
use weir_compiler::btf::Btf;
use weir_compiler::kernel::KernelInfo;
use weir_ebpf_builtins::abi::net::{Flow, Inet};
use weir_ebpf_builtins::retransmits::{self as object, ClosedKey, Conn, Dest, KINDS};
use weir_parser::Span;
use weir_stdlib::MapShape;
use weir_stdlib::retransmits::{KEEP_DEFAULT, MAX_DEFAULT, MAX_DESTINATIONS_DEFAULT};

/// So often, in ticks, sockets are asked whose they are.
const OWNERS_EVERY: u32 = 10;

pub(super) fn setup(params: &Params<'_>, event_used: &dyn Fn(&str) -> bool, kernel: &Kernel) -> Result<Setup, Error> {
    let refuse = |message: String, help: Option<String>, span| Error::Param { message, help, span };
    let btf = kernel.btf().ok_or_else(|| {
        refuse(
            "`retransmits` needs the types of the kernel, and this one has no BTF (CONFIG_DEBUG_INFO_BTF)".to_owned(),
            Some("`tracepoint:tcp:tcp_retransmit_skb { @[args.daddr] = count(); }` needs none".to_owned()),
            params.0.span,
        )
    })?;
    let mut elf = Elf::parse(&object::OBJECT)?;
    let missing = |ty: &str, field: &str| {
        let message = format!("`retransmits` needs `{field}` of the kernel's `struct {ty}`, and this kernel has none");
        refuse(message, None, params.0.span)
    };
    for (name, ty, field) in object::OFFSETS {
        let (offset, bits) = place(btf, ty, field).ok_or_else(|| missing(ty, field))?;
        elf.set_rodata(name, offset)?;
        if *name == "ICSK_CA_STATE" {
            elf.set_rodata(object::RODATA_CA_MASK, if bits == 0 { 0xff } else { (1 << bits) - 1 })?;
        }
    }
    for (name, ty, field) in object::OFFSETS_IPV6 {
        elf.set_rodata(name, place(btf, ty, field).map_or(0, |(offset, _)| offset))?;
    }
    let (cb, _) = place(btf, "sk_buff", "cb").ok_or_else(|| missing("sk_buff", "cb"))?;
    let (segs, _) = place(btf, "tcp_skb_cb", "tcp_gso_segs").ok_or_else(|| missing("tcp_skb_cb", "tcp_gso_segs"))?;
    elf.set_rodata(object::RODATA_SKB_SEGS, cb + segs)?;
    let mut only = None;
    if let (Some(name), Some((_, span))) = (params.text("netns"), params.get("netns")) {
        let namespace = netns::identity(name).ok_or_else(|| {
            let names = netns::named();
            let help = if names.is_empty() {
                "`ip netns` has no names; a pid or a path will do, such as `/proc/123/ns/net`".to_owned()
            } else {
                format!("there are `{}`; a pid or a path will do, too", names.join("`, `"))
            };
            refuse(format!("there is no network namespace `{name}`"), Some(help), span)
        })?;
        if !netns::is_one(name) {
            let help = "a name of `ip netns`, a pid, or a path such as `/proc/123/ns/net`; to count in all of them, leave `netns` out";
            return Err(refuse(format!("`{name}` is no network namespace"), Some(help.to_owned()), span));
        }
        elf.set_rodata(object::RODATA_NETNS, u32::try_from(namespace.1).unwrap_or(u32::MAX))?;
        only = Some(Only {
            alias: params.0.alias.clone(),
            name: name.to_owned(),
            namespace,
            span,
        });
    }
    for (event, symbol) in params.0.native.events.iter().zip(object::RODATA_EVENTS) {
        elf.set_rodata(symbol, u32::from(event_used(event.name)))?;
    }
    let size = |name, default| u32::try_from(params.int(name).unwrap_or(default)).unwrap_or(u32::MAX);
    let max = size("max", MAX_DEFAULT);
    Ok(Setup {
        elf,
        sizes: vec![
            (object::SOCKS, max),
            (object::CLOSED, max),
            (object::DESTS, size("max_destinations", MAX_DESTINATIONS_DEFAULT)),
        ],
        fill: Vec::new(),
        skip: Vec::new(),
        keep: &[],
        lists: None,
        engine: Some(Box::new(Retransmits {
            only,
            max: u64::from(max),
            alias: params.0.alias.clone(),
            span: params.0.span,
            ..Retransmits::new(usize::try_from(size("keep", KEEP_DEFAULT)).unwrap_or(usize::MAX))
        })),
    })
}

/// Where a field is: bytes from the start of the struct, and its bits if it is a bit-field.
fn place(btf: &Btf, ty: &str, path: &str) -> Option<(u32, u32)> {
    let mut id = btf.find_struct(ty)?;
    let (mut offset, mut bits) = (0, 0);
    for name in path.split('.') {
        let field = btf.member(id, name)?;
        offset += field.byte_offset();
        bits = field.bitfield_size;
        id = field.ty;
    }
    Some((offset, bits))
}

/// What is counted, of a connection or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    retransmits: u64,
    sent: u64,
    /// By `KIND_*`; what has no event is among the others.
    kinds: [u64; KINDS],
    synacks: u64,
    resets_in: u64,
    resets_out: u64,
}

impl Counts {
    /// Reads a connection's. The events' readings and the iterator's are of the same counters; the later one is larger.
    fn of(conn: &Conn) -> Self {
        let since = |base: u32, event: u32, seen: u32| u64::from(event.wrapping_sub(base).max(seen.wrapping_sub(base)));
        let retransmits = since(conn.base_retrans, conn.retrans, conn.seen_retrans);
        let mut kinds = conn.kinds.map(u64::from);
        kinds[object::KIND_OTHER] = retransmits.saturating_sub(kinds[..object::KIND_OTHER].iter().sum());
        Self {
            retransmits,
            sent: since(conn.base_sent, conn.sent, conn.seen_sent),
            kinds,
            synacks: 0,
            resets_in: u64::from(conn.resets_in),
            resets_out: u64::from(conn.resets_out),
        }
    }

    fn each(self, other: Self, change: impl Fn(u64, u64) -> u64) -> Self {
        let mut kinds = self.kinds;
        for (kind, other) in kinds.iter_mut().zip(other.kinds) {
            *kind = change(*kind, other);
        }
        Self {
            retransmits: change(self.retransmits, other.retransmits),
            sent: change(self.sent, other.sent),
            kinds,
            synacks: change(self.synacks, other.synacks),
            resets_in: change(self.resets_in, other.resets_in),
            resets_out: change(self.resets_out, other.resets_out),
        }
    }

    fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    fn minus(self, other: Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    fn ratio(&self) -> String {
        ratio(self.retransmits, self.sent)
    }
}

/// Segments sent again of those sent.
fn ratio(retransmits: u64, sent: u64) -> String {
    if retransmits == 0 {
        return "0%".to_owned();
    }
    // In hundredths of a percent, rounded.
    let all = u128::from(sent.max(retransmits));
    match (u128::from(retransmits) * 10_000 + all / 2) / all {
        0 => "<0.01%".to_owned(),
        10_000 => "100%".to_owned(),
        n => format!("{}.{:02}%", n / 100, n % 100),
    }
}

const STATES: [&str; 13] = [
    "?",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// What the programs have counted, added up.
#[derive(Debug, Default)]
struct Retransmits {
    iterators: Vec<KernelIterator>,
    keep: usize,
    ticks: u32,
    /// Of connections that have ended.
    by_destination: HashMap<Inet, Counts>,
    by_process: HashMap<String, Counts>,
    ended: VecDeque<(Conn, Counts)>,
    /// Connections that were open at the last look.
    open: Vec<(ClosedKey, Conn)>,
    /// What belongs to no connection, at the last look.
    dests: Vec<(Inet, Dest)>,
    stats: Vec<u64>,
    /// What was there when the script last cleared.
    forgotten: HashMap<ClosedKey, Counts>,
    forgotten_dests: HashMap<Inet, Dest>,
    forgotten_stats: Vec<u64>,
    /// Until its namespace is gone.
    only: Option<Only>,
    /// How many connections there can be.
    max: u64,
    alias: String,
    span: Span,
    /// Parameters whose maps have been said to be nearly full.
    told: Vec<&'static str>,
    notices: Vec<Notice>,
}

/// The namespace that is counted, where it is one.
#[derive(Debug)]
struct Only {
    alias: String,
    name: String,
    /// As [`netns::identity`] tells it.
    namespace: (u64, u64),
    span: Span,
}

impl Retransmits {
    /// Says once that the namespace is gone. Nothing keeps it alive here, and one of the same name that comes later is another.
    fn check_namespace(&mut self) {
        let is_gone = |only: &Only| netns::identity(&only.name) != Some(only.namespace) && netns::find(only.namespace).is_none();
        if let Some(Only { alias, name, span, .. }) = self.only.take_if(|only| is_gone(only)) {
            self.notices.push(Notice::Native {
                alias,
                message: format!("network namespace `{name}` is gone: what was counted stays; a new start counts in one that comes"),
                warning: true,
                span: Some(span),
            });
        }
    }

    /// Says once of each map that it is nearly full.
    fn check_pressure(&mut self, param: &'static str, what: &str, entries: usize, map: &Map) {
        let max = u64::from(map.max_entries);
        if (entries as u64) < pressure::high(max) || self.told.contains(&param) {
            return;
        }
        self.told.push(param);
        self.notices.push(Notice::Native {
            alias: self.alias.clone(),
            message: format!(
                "{entries} {what} of at most {max}: what finds no room is in no row, only in the sums, as `untracked`; give it more with \
                 `{param}={}`",
                max.saturating_mul(4)
            ),
            warning: true,
            span: Some(self.span),
        });
    }

    /// Names of the columns of a table.
    fn columns(table: &str) -> Vec<&'static str> {
        let map = weir_stdlib::native("retransmits").and_then(|n| n.maps.iter().find(|m| m.name == table));
        match map.map(|m| m.shape) {
            Some(MapShape::Table { columns, .. }) => columns.iter().map(|c| c.name).collect(),
            _ => Vec::new(),
        }
    }

    fn new(keep: usize) -> Self {
        Self { keep, ..Self::default() }
    }

    fn ask_sockets(&self) -> Result<(), Error> {
        self.iterators.iter().try_for_each(|i| i.run().map_err(Error::Sys))
    }

    /// Adds up the connections that have ended, and takes them away.
    fn take_ended(&mut self, maps: &Maps) -> Result<HashSet<ClosedKey>, Error> {
        let closed = map(maps, object::CLOSED)?;
        let elements = closed.elements()?;
        let mut taken = HashSet::new();
        for (raw, value) in elements.iter() {
            bpf::map_delete(closed.fd.as_fd(), raw, object::CLOSED)?;
            if let (Some(key), Some(conn)) = (plain::<ClosedKey>(raw), plain::<Conn>(value)) {
                self.end(key, conn);
                taken.insert(key);
            }
        }
        Ok(taken)
    }

    fn end(&mut self, key: ClosedKey, conn: Conn) {
        let counts = Counts::of(&conn).minus(self.forgotten.remove(&key).unwrap_or_default());
        let dest = self.by_destination.entry(conn.flow.destination()).or_default();
        *dest = dest.plus(Counts {
            resets_in: 0,
            resets_out: 0,
            ..counts
        });
        let process = self.by_process.entry(process_of(&conn)).or_default();
        *process = process.plus(counts);
        self.ended.push_back((conn, counts));
        while self.ended.len() > self.keep {
            self.ended.pop_front();
        }
    }

    /// Open connections, with what they have sent since the script last cleared.
    fn open(&self) -> impl Iterator<Item = (&Conn, Counts)> {
        self.open.iter().map(|(key, conn)| {
            let before = self.forgotten.get(key).copied().unwrap_or_default();
            (conn, Counts::of(conn).minus(before))
        })
    }

    /// By peer. Resets come from the counters that also know those without a connection.
    fn destinations(&self) -> BTreeMap<Inet, Counts> {
        let mut all: BTreeMap<Inet, Counts> = self.by_destination.iter().map(|(k, v)| (*k, *v)).collect();
        for (conn, counts) in self.open() {
            let dest = all.entry(conn.flow.destination()).or_default();
            *dest = dest.plus(Counts {
                resets_in: 0,
                resets_out: 0,
                ..counts
            });
        }
        for (peer, dest) in &self.dests {
            let before = self.forgotten_dests.get(peer).copied().unwrap_or_default();
            let synacks = dest.synacks.saturating_sub(before.synacks);
            let more = Counts {
                retransmits: synacks,
                synacks,
                resets_in: dest.resets_in.saturating_sub(before.resets_in),
                resets_out: dest.resets_out.saturating_sub(before.resets_out),
                ..Counts::default()
            };
            if more != Counts::default() {
                let sum = all.entry(*peer).or_default();
                *sum = sum.plus(more);
            }
        }
        all
    }

    fn processes(&self) -> BTreeMap<String, Counts> {
        let mut all: BTreeMap<String, Counts> = self.by_process.iter().map(|(k, v)| (k.clone(), *v)).collect();
        for (conn, counts) in self.open() {
            let process = all.entry(process_of(conn)).or_default();
            *process = process.plus(counts);
        }
        all
    }

    fn stat(&self, index: u32) -> u64 {
        let at = |stats: &[u64]| stats.get(index as usize).copied().unwrap_or(0);
        at(&self.stats).saturating_sub(at(&self.forgotten_stats))
    }
}

impl Engine for Retransmits {
    fn started(&mut self, maps: &Maps, iterators: Vec<KernelIterator>) -> Result<(), Error> {
        self.iterators = iterators;
        self.look(maps)
    }

    fn look(&mut self, maps: &Maps) -> Result<(), Error> {
        self.ask_sockets()?;
        // First the open ones: what ends meanwhile is found among the ended, and only there counted.
        let socks = map(maps, object::SOCKS)?;
        let open: Vec<(ClosedKey, Conn)> = socks
            .elements()?
            .iter()
            .filter_map(|(sk, conn)| {
                let conn = plain::<Conn>(conn)?;
                let key = ClosedKey {
                    sk: uint(sk),
                    since_ns: conn.since_ns,
                };
                Some((key, conn))
            })
            .collect();
        self.check_pressure("max", "connections", open.len(), socks);
        let taken = self.take_ended(maps)?;
        self.open = open.into_iter().filter(|(key, _)| !taken.contains(key)).collect();
        let dests = map(maps, object::DESTS)?;
        self.dests = dests
            .elements()?
            .iter()
            .filter_map(|(peer, parts)| {
                let sum = super::sum_words(parts, size_of::<Dest>() / 8);
                Some((plain(peer)?, plain(&sum)?))
            })
            .collect();
        self.check_pressure("max_destinations", "peers with SYN-ACKs and resets", self.dests.len(), dests);
        let stats = map(maps, object::STATS_MAP)?;
        self.stats = (0..object::STATS)
            .map(|i| Ok(uint(&super::sum_words(&stats.lookup(&i.to_ne_bytes())?.unwrap_or_default(), 1))))
            .collect::<Result<_, Error>>()?;
        Ok(())
    }

    fn tick(&mut self, maps: &Maps) {
        self.ticks += 1;
        // What cannot be read now is read, and complained about, when somebody wants to see it.
        if self.ticks.is_multiple_of(OWNERS_EVERY) {
            let _ = self.look(maps);
        }
        let _ = self.take_ended(maps);
        self.check_namespace();
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn rows(&mut self, table: &str, _: usize, _: &Maps) -> Result<Rows, Error> {
        let (n, text) = (Value::Count, |text: String| Value::Text(text));
        let mut rows: Vec<(Counts, Vec<u8>, Vec<Value>)> = match table {
            "destinations" => {
                let row = |(peer, c): (Inet, Counts)| {
                    let [rto, fast, tlp, syn, other] = c.kinds;
                    let values = vec![
                        n(c.retransmits),
                        n(c.sent),
                        text(c.ratio()),
                        n(rto),
                        n(fast),
                        n(tlp),
                        n(syn),
                        n(c.synacks),
                        n(other),
                        n(c.resets_in),
                        n(c.resets_out),
                    ];
                    (c, words(&[peer.family, peer.addr[0], peer.addr[1]]), values)
                };
                self.destinations().into_iter().map(row).collect()
            }
            "processes" => {
                let row = |(name, c): (String, Counts)| {
                    let values = vec![n(c.retransmits), n(c.sent), text(c.ratio()), n(c.resets_in), n(c.resets_out)];
                    (c, text_bytes(&name), values)
                };
                self.processes().into_iter().map(row).collect()
            }
            _ => {
                let row = |(conn, c): (&Conn, Counts)| {
                    let [rto, fast, tlp, syn, _] = c.kinds;
                    let state = STATES.get(usize::from(conn.state)).copied().unwrap_or("?");
                    let values = vec![
                        n(c.retransmits),
                        n(c.sent),
                        text(c.ratio()),
                        n(rto),
                        n(fast),
                        n(tlp),
                        n(syn),
                        text(state.to_owned()),
                        n(u64::from(conn.pid)),
                        text(process_of(conn)),
                    ];
                    (c, flow_bytes(&conn.flow), values)
                };
                let ended = self.ended.iter().map(|(conn, counts)| (conn, *counts));
                ended.chain(self.open()).map(row).collect()
            }
        };
        rows.sort_by(|(a, ka, _), (b, kb, _)| (a.retransmits, a.sent, ka).cmp(&(b.retransmits, b.sent, kb)));
        Ok(rows.into_iter().map(|(_, key, values)| (key, values)).collect())
    }

    /// Rows of which something was sent again or reset, if there are any: of hundreds of connections most are in order.
    fn telling_rows(&mut self, table: &str, top: usize, maps: &Maps) -> Result<Rows, Error> {
        let mut rows = self.rows(table, top, maps)?;
        let columns = Self::columns(table);
        let is_quiet =
            |(name, value): (&&str, &Value)| matches!(value, Value::Count(0) | Value::Text(_)) || matches!(*name, "sent" | "pid");
        let tells = |values: &[Value]| !columns.iter().zip(values).all(is_quiet);
        if rows.iter().any(|(_, values)| tells(values)) {
            rows.retain(|(_, values)| tells(values));
        }
        Ok(rows)
    }

    fn numbers(&mut self, _: &str, _: &Maps) -> Result<Vec<u64>, Error> {
        let conns = self.processes().into_values().fold(Counts::default(), Counts::plus);
        let synacks = self.stat(object::STAT_SYNACK);
        let untracked = self.stat(object::STAT_UNTRACKED) + self.stat(object::STAT_UNKEPT);
        let [rto, fast, tlp, syn, other] = conns.kinds;
        Ok(vec![
            conns.retransmits + synacks + untracked,
            rto,
            fast,
            tlp,
            syn,
            synacks,
            other + untracked,
            self.stat(object::STAT_RESET_IN),
            self.stat(object::STAT_RESET_OUT),
            self.open.len() as u64,
            self.max,
            untracked,
        ])
    }

    fn clear(&mut self, _: &str, maps: &Maps) -> Result<(), Error> {
        self.look(maps)?;
        self.by_destination.clear();
        self.by_process.clear();
        self.ended.clear();
        self.forgotten = self.open.iter().map(|(key, conn)| (*key, Counts::of(conn))).collect();
        self.forgotten_dests = self.dests.iter().copied().collect();
        self.forgotten_stats = self.stats.clone();
        Ok(())
    }
}

fn map<'a>(maps: &'a Maps, symbol: &str) -> Result<&'a Map, Error> {
    maps.get(symbol).ok_or_else(|| Error::Object(format!("no map `{symbol}`")))
}

/// Names the process of a connection.
fn process_of(conn: &Conn) -> String {
    let bytes = words(&conn.comm);
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    if text.is_empty() {
        return process::UNKNOWN.to_owned();
    }
    String::from_utf8_lossy(text).into_owned()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

fn flow_bytes(flow: &Flow) -> Vec<u8> {
    let mut bytes = words(&[flow.src[0], flow.src[1], flow.dst[0], flow.dst[1]]);
    bytes.extend(flow.sport.to_ne_bytes());
    bytes.extend(flow.dport.to_ne_bytes());
    bytes.extend([flow.proto, flow.family, flow.has_ports, 0]);
    bytes
}

/// A record of the kernel's side.
trait Record: Copy {}
impl Record for Conn {}
impl Record for ClosedKey {}
impl Record for Dest {}
impl Record for Inet {}

fn plain<T: Record>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: so many bytes are there, and a `Record` is made of integers.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(retrans: u32, seen: u32) -> Conn {
        Conn {
            since_ns: 1,
            base_retrans: 10,
            retrans: 10 + retrans,
            seen_retrans: 10 + seen,
            base_sent: u32::MAX - 1,
            sent: 98,
            seen_sent: 50,
            kinds: [1, 2, 0, 0, 0],
            ..Conn::default()
        }
    }

    #[test]
    fn the_later_reading_counts_and_counters_wrap() {
        let counts = Counts::of(&conn(4, 5));
        assert_eq!((counts.retransmits, counts.sent), (5, 100));
        // Two of them had no event.
        assert_eq!(counts.kinds, [1, 2, 0, 0, 2]);
        assert_eq!(Counts::of(&conn(4, 0)).retransmits, 4);
    }

    #[test]
    fn ratios_are_told_apart_down_to_a_hundredth_of_a_percent() {
        assert_eq!(ratio(0, 0), "0%");
        assert_eq!(ratio(5, 100), "5.00%");
        assert_eq!(ratio(1, 10_000), "0.01%");
        assert_eq!(ratio(1, 1_000_000), "<0.01%");
        assert_eq!(ratio(6, 0), "100%");
        assert_eq!(ratio(u64::MAX, u64::MAX), "100%");
    }

    #[test]
    fn what_was_cleared_is_not_counted_when_the_connection_ends() {
        let mut rt = Retransmits::new(1);
        let key = ClosedKey { sk: 7, since_ns: 1 };
        rt.forgotten.insert(key, Counts::of(&conn(3, 0)));
        rt.end(key, conn(5, 0));
        assert_eq!(rt.processes()["?"].retransmits, 2);
        assert!(rt.forgotten.is_empty());
        // Its address is used again: another connection.
        rt.end(ClosedKey { sk: 7, since_ns: 2 }, conn(3, 0));
        assert_eq!(rt.processes()["?"].retransmits, 5);
        assert_eq!(rt.ended.len(), 1, "only so many are kept");
    }
}
