//! `flows`: parameters → settings and maps of its object; ends flows, reports them, and makes tables of those that live.
//!
//! The kernel's programs write [`records`]; here they are read in place. A flow ends in three steps, so that no packet is counted
//! nowhere or twice: its key is deleted, a grace period of RCU passes, and then its record is read for the last time.

mod export;
mod nobodys;
mod records;
mod sockets;

use super::engine::{Engine, Maps, Rows, Value};
use super::lists::grace_period;
use super::{Params, Setup, process};
use crate::attach::tracing::Iterator as KernelIterator;
use crate::error::{Error, Notice};
use crate::format::uint;
use crate::kernel::Kernel;
use crate::load::Elf;
use crate::maps::{self, Map};
use crate::ring::Ring;
use crate::sys::cgroup::Cgroup2;
use crate::sys::netlink::Netlink;
use crate::sys::{bpf, netns, proc};
use export::{Export, Reason, Report, pod_direction};
use nobodys::Nobodys;
use records::Records;
use sockets::{Socket, back};
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use weir_compiler::kernel::KernelInfo;
use weir_ebpf_builtins::Owner;
use weir_ebpf_builtins::flows::{self as object, Delta, Key, Record};
use weir_parser::Span;
use weir_stdlib::decl::FLOW_AT_BYTES;
use weir_stdlib::flows::{ACTIVE_DEFAULT, IDLE_DEFAULT, MAX_DEFAULT};

const SECOND: u64 = 1_000_000_000;
/// A flow whose sender has sent a FIN or a reset ends when it was quiet for so long.
const LINGER: u64 = 2 * SECOND;
/// Above this part of `max`, in percent, idle flows end sooner.
const PRESSURE: usize = 80;
/// Looking at all open files of a machine may take so small a part of the time.
const ASKING: u32 = 20;

pub(super) fn setup(
    params: &Params<'_>,
    netns: Option<&str>,
    event_used: &dyn Fn(&str) -> bool,
    chained: bool,
    kernel: &Kernel,
) -> Result<Setup, Error> {
    let on_xdp = params.0.is_on_xdp();
    if on_xdp && let (Some(direction @ ("egress" | "to_pod")), Some((_, span))) = (params.text("direction"), params.get("direction")) {
        return Err(Error::Param {
            message: format!("XDP sees what comes in, not {direction}"),
            help: Some("leave out `hook`: TC sees both directions".to_owned()),
            span,
        });
    }
    let mut elf = Elf::parse(&object::OBJECT)?;
    for (event, symbol) in params.0.native.events.iter().zip(object::RODATA_EVENTS) {
        elf.set_rodata(symbol, u32::from(event_used(event.name)))?;
    }
    elf.set_rodata(object::RODATA_CHAIN_NEXT, u32::from(chained))?;
    // Whose a socket is takes the types of the kernel. The rest does without.
    let mut knows_owners = true;
    for (name, ty, field) in object::OFFSETS {
        let offset = kernel.btf().and_then(|btf| {
            let field = btf.member(btf.find_struct(ty)?, field)?;
            Some(field.byte_offset())
        });
        knows_owners &= offset.is_some();
        elf.set_rodata(name, offset.unwrap_or(0))?;
    }
    let kern = kernel.btf().and_then(|btf| btf.member(btf.find_struct("sock")?, "sk_kern_sock"));
    if let Some(field) = kern.filter(|field| knows_owners && field.bitfield_size > 0) {
        elf.set_rodata(object::RODATA_KERN_MASK, 1 << (field.bit_offset % 8))?;
    }
    let mut skip = Vec::new();
    if !knows_owners {
        skip.push(object::OPEN_SOCKETS);
    }
    // CONFIG_CGROUP_BPF makes the function.
    let has_hook = kernel
        .btf()
        .is_some_and(|btf| btf.find_func("__cgroup_bpf_run_filter_sk").is_some());
    if !knows_owners || !has_hook || Cgroup2::get().is_err() {
        skip.push(object::CLOSED_SOCKETS);
    }
    let export = match (params.text("export"), params.get("export")) {
        (None | Some("off"), _) | (_, None) => None,
        (Some(path), Some((_, span))) => Some(Export::open(path).map_err(|e| Error::Param {
            message: format!("reports cannot be written to `{path}`: {e}"),
            help: None,
            span,
        })?),
    };
    let max = u32::try_from(params.int("max").unwrap_or(MAX_DEFAULT)).unwrap_or(u32::MAX);
    let flows = Flows {
        alias: params.0.alias.clone(),
        span: params.0.span,
        netns: netns.map(str::to_owned),
        max,
        idle: params.duration("idle").unwrap_or(IDLE_DEFAULT),
        active: params.duration("active").unwrap_or(ACTIVE_DEFAULT),
        export,
        ..Flows::default()
    };
    Ok(Setup {
        elf,
        sizes: vec![(object::FLOWS_MAP, max), (object::RECORDS, max), (object::FREE, max)],
        fill: Vec::new(),
        keep: &[],
        skip,
        lists: None,
        engine: Some(Box::new(flows)),
    })
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    packets: u64,
    bytes: u64,
}

impl Sums {
    fn of(record: &Record) -> Self {
        Self {
            packets: record.packets,
            bytes: record.bytes,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(other.packets),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// What has been reported of a live flow.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// Another flow may have the record by now.
    first_ns: u64,
    at_ns: u64,
    sums: Sums,
}

/// What an interface is called, and whether a pod is behind it.
#[derive(Clone, Debug, Default)]
struct Interface {
    name: String,
    is_pod: bool,
}

/// An instance while it runs.
#[derive(Debug, Default)]
struct Flows {
    alias: String,
    span: Span,
    netns: Option<String>,
    max: u32,
    /// Nanoseconds.
    idle: u64,
    active: u64,
    export: Option<Export>,
    records: Option<Records>,
    ring: Option<Ring>,
    iterators: Vec<KernelIterator>,
    /// Rows that somebody has deleted: their flows end together, since each end takes a look at all records and a grace period.
    doomed: HashSet<Vec<u8>>,
    /// As of the last look.
    live: Vec<(u32, Record)>,
    /// By index of the record.
    told: HashMap<u32, Told>,
    exported_flows: u64,
    exported: Sums,
    /// Of them, without a record.
    unlisted: u64,
    stats: Vec<u64>,
    /// When the monotonic clock began, nanoseconds since 1970.
    epoch_ns: u64,
    interfaces: HashMap<u32, Interface>,
    /// By the cookie of the socket.
    owners: HashMap<u64, (String, u32)>,
    /// The receivers' sockets, by the records of flows whose senders are elsewhere, and their [`Record::first_ns`].
    receivers: HashMap<u32, (u64, Socket)>,
    nobodys: Nobodys,
    /// Sockets are not asked before.
    ask_again: Option<Instant>,
    warned_of_pressure: bool,
    warned_of_no_room: bool,
    warned_of_overflow: bool,
    notices: Vec<Notice>,
}

fn now() -> u64 {
    proc::clock_ns(libc::CLOCK_MONOTONIC)
}

/// Sorts the `top` largest to the end (0: all of them), and returns how many are in front of them.
fn last_sorted<T, K: Ord>(all: &mut [T], top: usize, key: impl Fn(&T) -> K) -> usize {
    let left_out = if top == 0 { 0 } else { all.len().saturating_sub(top) };
    if left_out > 0 {
        all.select_nth_unstable_by_key(left_out, &key);
    }
    all[left_out..].sort_by_key(key);
    left_out
}

/// How long flows may be idle when so many of `max` are live.
fn idle_time(idle: u64, live: usize, max: u32) -> u64 {
    let percent = live * 100 / (max as usize).max(1);
    let shorter = match percent {
        95.. => idle / 16,
        90.. => idle / 8,
        PRESSURE.. => idle / 4,
        _ => idle,
    };
    shorter.max(SECOND.min(idle))
}

fn retransmits(record: &Record) -> u32 {
    record.estimated.wrapping_add(record.retrans.wrapping_sub(record.base_retrans))
}

fn known_by(record: &Record) -> &'static str {
    match (record.key.flow.proto, record.state & object::STATE_LOCAL) {
        (6, 0) => "estimate",
        (6, _) => "kernel",
        _ => "-",
    }
}

/// Flags as a row of letters, dots for those not seen.
fn flags(record: &Record) -> String {
    if record.key.flow.proto != 6 {
        return "-".to_owned();
    }
    let letters = "CEUAPRSF".chars().zip((0..8).rev());
    letters
        .map(|(letter, bit)| if record.flags >> bit & 1 == 0 { '.' } else { letter })
        .collect()
}

impl Flows {
    fn say(&mut self, warning: bool, message: String) {
        self.notices.push(Notice::Native {
            alias: self.alias.clone(),
            message,
            warning,
            span: warning.then_some(self.span),
        });
    }

    /// A time of the monotonic clock as milliseconds since 1970.
    fn wall_ms(&self, at_ns: u64) -> u64 {
        self.epoch_ns.saturating_add(at_ns) / 1_000_000
    }

    /// Reads all live records.
    fn read_records(&mut self) {
        self.live = self.records.as_mut().map(Records::live).unwrap_or_default();
        if self.live.iter().any(|(_, r)| !self.interfaces.contains_key(&r.key.ifindex)) {
            self.name_interfaces();
        }
    }

    /// What of a live flow is in no report yet.
    fn untold(&self, index: u32, record: &Record) -> Sums {
        let told = self.told.get(&index).filter(|t| t.first_ns == record.first_ns);
        Sums::of(record).minus(told.map_or(Sums::default(), |t| t.sums))
    }

    fn name_interfaces(&mut self) {
        let links = netns::run_in(self.netns.as_deref(), || Netlink::open().and_then(|mut netlink| netlink.links()));
        for link in links.and_then(|links| links).unwrap_or_default() {
            let is_pod = matches!(link.kind.as_str(), "veth" | "netkit") && link.lower_netnsid.is_some();
            self.interfaces.insert(link.ifindex, Interface { name: link.name, is_pod });
        }
        // One that has gone already keeps its number.
        for (_, record) in &self.live {
            let ifindex = record.key.ifindex;
            self.interfaces.entry(ifindex).or_insert_with(|| Interface {
                name: format!("if{ifindex}"),
                is_pod: false,
            });
        }
    }

    /// Looks for the receivers of what comes from elsewhere: what they send back tells their sockets.
    fn find_receivers(&mut self) {
        let mut gone = std::mem::take(&mut self.receivers);
        let mut strangers = Vec::new();
        for (index, record) in self.live.iter().filter(|(_, r)| Socket::of(r) == Socket::Unseen) {
            let known = gone.remove(index).filter(|known| known.0 == record.first_ns);
            self.receivers.extend(known.map(|known| (*index, known)));
            // Where the kernel has refused a moment ago somebody may listen now.
            if !matches!(known, Some((_, Socket::Cookie(_)))) {
                strangers.push((*index, record));
            }
        }
        if strangers.is_empty() {
            return;
        }
        let sent_here = self.live.iter().map(|(_, r)| (back(r.key), Socket::of(r)));
        let sockets: HashMap<Key, Socket> = sent_here.filter(|(_, socket)| *socket != Socket::Unseen).collect();
        let found = strangers
            .iter()
            .filter_map(|(i, r)| Some((*i, (r.first_ns, *sockets.get(&r.key)?))));
        self.receivers.extend(found);
    }

    /// The socket of a flow: the sender's, or else the receiver's.
    fn socket(&self, index: u32, record: &Record) -> Socket {
        let receiver = || self.receivers.get(&index).filter(|known| known.0 == record.first_ns);
        match Socket::of(record) {
            Socket::Unseen => receiver().map_or(Socket::Unseen, |known| known.1),
            seen => seen,
        }
    }

    /// The process of a socket, and its pid.
    fn owner(&self, socket: Socket) -> Option<(&str, u32)> {
        match socket {
            Socket::Unseen => None,
            Socket::Kernels => Some((process::KERNEL, 0)),
            Socket::Cookie(cookie) => self.owners.get(&cookie).map(|(name, pid)| (name.as_str(), *pid)),
        }
    }

    /// Takes in whose the sockets are that nobody is known for yet.
    fn take_owners(&mut self, cookies: &HashSet<u64>, maps: &Maps) -> Result<(), Error> {
        let map = map(maps, object::OWNERS)?;
        for cookie in cookies {
            let mut owner = [0; size_of::<Owner>()];
            if !self.owners.contains_key(cookie) && bpf::map_lookup(map.fd.as_fd(), &cookie.to_ne_bytes(), &mut owner, &map.symbol)? {
                let name = owner[..16].split(|b| *b == 0).next().unwrap_or_default();
                let pid = uint(&owner[16..]) as u32;
                self.owners.insert(*cookie, (String::from_utf8_lossy(name).into_owned(), pid));
            }
        }
        Ok(())
    }

    /// Asks whose the sockets are that nobody is known for.
    fn ask_sockets(&mut self, maps: &Maps) -> Result<(), Error> {
        self.find_receivers();
        // What a receiver sends back may have ended before what it gets.
        let receivers = self.receivers.values().map(|known| known.1);
        let sockets = self.live.iter().map(|(_, r)| Socket::of(r)).chain(receivers);
        let cookies: HashSet<u64> = sockets.filter_map(Socket::cookie).collect();
        self.owners.retain(|cookie, _| cookies.contains(cookie));
        self.nobodys.retain(|cookie| cookies.contains(&cookie));
        self.take_owners(&cookies, maps)?;
        let began = Instant::now();
        let is_due = self.nobodys.are_due(began);
        let is_known = |cookie: &u64| self.owners.contains_key(cookie) || !is_due && self.nobodys.contains(*cookie);
        if cookies.iter().all(is_known) || self.iterators.is_empty() {
            return Ok(());
        }
        if self.ask_again.is_some_and(|then| began < then) {
            return Ok(());
        }
        for iterator in &self.iterators {
            iterator.run()?;
        }
        let took = began.elapsed();
        self.ask_again = Some(began + took.saturating_mul(ASKING).min(Duration::from_secs(60)));
        self.take_owners(&cookies, maps)?;
        let nobodys = cookies.into_iter().filter(|c| !self.owners.contains_key(c)).collect();
        self.nobodys.set(nobodys, began);
        Ok(())
    }

    /// Reports what has come since the last report.
    fn report(&mut self, index: u32, record: &Record, reason: Reason) {
        let sums = self.untold(index, record);
        self.exported_flows += 1;
        self.exported.add(sums);
        if self.export.is_none() {
            return;
        }
        let interface = self.interfaces.get(&record.key.ifindex).cloned().unwrap_or_default();
        let start = self
            .told
            .get(&index)
            .filter(|t| t.first_ns == record.first_ns)
            .map_or(record.first_ns, |t| t.at_ns.min(record.last_ns));
        let owner = self.owner(self.socket(index, record)).map(|(name, pid)| (name.to_owned(), pid));
        let report = Report {
            key: record.key,
            reason,
            start_ms: self.wall_ms(start),
            end_ms: self.wall_ms(record.last_ns),
            packets: sums.packets,
            bytes: sums.bytes,
            link: u64::from(record.state >> object::STATE_LINK_SHIFT),
            flags: record.flags as u8,
            syns: record.syns,
            fins: record.fins,
            rsts: record.rsts,
            retransmits: retransmits(record),
            known_by: known_by(record),
            srtt_us: record.srtt_us,
            owner: owner.as_ref().map(|(name, pid)| (name.as_str(), *pid)),
            interface: &interface.name,
            is_pod: interface.is_pod,
        };
        let told = self.export.as_mut().and_then(|export| export.write(&report));
        self.say_all(told);
    }

    fn say_all(&mut self, told: Option<String>) {
        told.into_iter().for_each(|message| self.say(true, message));
    }

    /// Ends flows. Those that go on begin anew with their next packet.
    fn end(&mut self, ended: &[(u32, Key, Reason)], maps: &Maps) -> Result<(), Error> {
        if ended.is_empty() {
            return Ok(());
        }
        let keys: Vec<u8> = ended.iter().flat_map(|(_, key, _)| key_bytes(key)).collect();
        let flows = map(maps, object::FLOWS_MAP)?;
        bpf::map_delete_many(flows.fd.as_fd(), &keys, flows.key_size as usize, &flows.symbol)?;
        grace_period();
        let free = map(maps, object::FREE)?;
        for (index, _, reason) in ended {
            let record = self.records.as_ref().and_then(|records| records.get(*index));
            if let Some(record) = record {
                self.report(*index, &record, *reason);
            }
            self.told.remove(index);
            if let Some(records) = &self.records {
                records.free(*index);
            }
            bpf::map_push(free.fd.as_fd(), &index.to_ne_bytes(), &free.symbol)?;
        }
        Ok(())
    }

    /// Takes in packets that found no record; those of one flow are one report.
    fn take_unlisted(&mut self) {
        self.epoch_ns = proc::clock_ns(libc::CLOCK_REALTIME).saturating_sub(now());
        let mut deltas: HashMap<Key, Record> = HashMap::new();
        let mut packets = 0;
        if let Some(ring) = &self.ring {
            ring.drain(usize::MAX, |bytes| {
                if let Some(delta) = delta(bytes) {
                    packets += u64::from(delta.packets);
                    let record = deltas.entry(delta.key).or_insert_with(|| Record {
                        key: delta.key,
                        first_ns: delta.at_ns,
                        state: u32::from(delta.link) << object::STATE_LINK_SHIFT,
                        ..Record::default()
                    });
                    add_delta(record, &delta);
                }
                true
            });
        }
        if packets == 0 {
            return;
        }
        self.unlisted += packets;
        if deltas.keys().any(|key| !self.interfaces.contains_key(&key.ifindex)) {
            self.name_interfaces();
        }
        for record in deltas.values() {
            // No element has this number.
            self.report(u32::MAX, record, Reason::NoRoom);
        }
        if !self.warned_of_no_room {
            self.warned_of_no_room = true;
            let max = self.max;
            self.say(
                true,
                format!(
                    "all {max} flows are taken: packets of others are reported one by one; give it more with `max={}`",
                    u64::from(max) * 4
                ),
            );
        }
    }

    /// Says that packets are in no report.
    fn overflow(&mut self, maps: &Maps) {
        if self.warned_of_overflow {
            return;
        }
        let overflow = map(maps, object::STATS_MAP).and_then(|stats| super::stat(stats, object::STAT_OVERFLOW));
        if overflow.is_ok_and(|packets| packets > 0) {
            self.warned_of_overflow = true;
            let message =
                "packets of flows without a place come faster than they can be reported: `overflow` counts those that are in no report";
            self.say(true, message.to_owned());
        }
    }

    /// Ends what has ended, and reports what goes on for long.
    fn expire(&mut self, maps: &Maps) -> Result<(), Error> {
        let now = now();
        let live = self.live.len();
        let idle = idle_time(self.idle, live, self.max);
        if idle < self.idle && !self.warned_of_pressure {
            self.warned_of_pressure = true;
            let max = self.max;
            self.say(
                true,
                format!(
                    "{live} of {max} flows are live: they end sooner when they are idle; give it more with `max={}`",
                    u64::from(max) * 4
                ),
            );
        }
        let mut ended = Vec::new();
        let mut active = Vec::new();
        for (index, record) in &self.live {
            let quiet = now.saturating_sub(record.last_ns);
            let told = self.told.get(index).filter(|t| t.first_ns == record.first_ns);
            let since = told.map_or(record.first_ns, |t| t.at_ns);
            if record.fins + record.rsts > 0 && quiet >= LINGER.min(idle) {
                ended.push((*index, record.key, Reason::End));
            } else if quiet >= idle {
                ended.push((*index, record.key, Reason::Idle));
            } else if now.saturating_sub(since) >= self.active && self.untold(*index, record).packets > 0 {
                active.push((*index, *record));
            }
        }
        for (index, record) in active {
            self.report(index, &record, Reason::Active);
            self.told.insert(
                index,
                Told {
                    first_ns: record.first_ns,
                    at_ns: now,
                    sums: Sums::of(&record),
                },
            );
        }
        self.end(&ended, maps)
    }

    fn end_all(&mut self, maps: &Maps) -> Result<(), Error> {
        self.read_records();
        self.ask_sockets(maps)?;
        let all: Vec<(u32, Key, Reason)> = self.live.iter().map(|(i, r)| (*i, r.key, Reason::Forced)).collect();
        self.end(&all, maps)
    }
}

impl Engine for Flows {
    fn move_in(&mut self, maps: &Maps) -> Result<(), Error> {
        self.records = Some(Records::new(map(maps, object::RECORDS)?)?);
        let ring = map(maps, object::DELTAS)?;
        self.ring = Some(Ring::new(maps::dup(ring.fd.as_fd(), &ring.symbol)?, ring.max_entries)?);
        let free = map(maps, object::FREE)?;
        // The first elements are taken first, so that few pages are touched where there are few flows.
        for index in (0..self.max).rev() {
            bpf::map_push(free.fd.as_fd(), &index.to_ne_bytes(), &free.symbol)?;
        }
        Ok(())
    }

    fn started(&mut self, _: &Maps, iterators: Vec<KernelIterator>) -> Result<(), Error> {
        self.iterators = iterators;
        self.name_interfaces();
        Ok(())
    }

    fn tick(&mut self, maps: &Maps) {
        self.take_unlisted();
        self.read_records();
        // What cannot be done now is tried again in a second, and complained about when somebody wants to see it.
        let _ = self.ask_sockets(maps);
        let _ = self.expire(maps);
        self.overflow(maps);
        let told = self.export.as_mut().and_then(Export::flush);
        self.say_all(told);
    }

    fn ended(&mut self, maps: &Maps) {
        self.take_unlisted();
        self.overflow(maps);
        if let Err(error) = self.end_all(maps) {
            self.say(true, format!("the last reports are missing: {error}"));
        }
        let told = self.export.as_mut().and_then(Export::end);
        self.say_all(told);
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn look(&mut self, maps: &Maps) -> Result<(), Error> {
        self.deleted(maps)?;
        self.take_unlisted();
        self.read_records();
        self.ask_again = None;
        self.ask_sockets(maps)?;
        let stats = map(maps, object::STATS_MAP)?;
        self.stats = (0..object::STATS).map(|i| super::stat(stats, i)).collect::<Result<_, Error>>()?;
        Ok(())
    }

    fn rows(&mut self, _: &str, top: usize, _: &Maps) -> Result<Rows, Error> {
        let now = now();
        let mut live: Vec<&(u32, Record)> = self.live.iter().collect();
        let left_out = last_sorted(&mut live, top, |(_, r)| (r.bytes, r.packets, r.key));
        let nothing = std::iter::repeat_n((Vec::new(), Vec::new()), left_out);
        let rows = live[left_out..].iter().map(|(index, record)| {
            let interface = self.interfaces.get(&record.key.ifindex);
            let socket = self.socket(*index, record);
            let nobody = if socket == Socket::Unseen {
                process::UNSEEN
            } else {
                process::UNKNOWN
            };
            let (process, pid) = self.owner(socket).unwrap_or((nobody, 0));
            let values = vec![
                Value::Count(record.packets),
                Value::Count(record.bytes),
                Value::Text(flags(record)),
                Value::Count(u64::from(retransmits(record))),
                Value::Text(known_by(record).to_owned()),
                Value::Count(u64::from(record.srtt_us)),
                Value::Text(process.to_owned()),
                Value::Count(u64::from(pid)),
                Value::Count(u64::from(record.key.vlan)),
                Value::Count(now.saturating_sub(record.first_ns) / SECOND),
            ];
            (row_key(record, interface), values)
        });
        Ok(nothing.chain(rows).collect())
    }

    fn numbers(&mut self, _: &str, _: &Maps) -> Result<Vec<u64>, Error> {
        let mut live = Sums::default();
        for (index, record) in &self.live {
            live.add(self.untold(*index, record));
        }
        let stat = |index: u32| self.stats.get(index as usize).copied().unwrap_or(0);
        Ok(vec![
            self.live.len() as u64,
            u64::from(self.max),
            live.packets,
            live.bytes,
            self.exported_flows,
            self.exported.packets,
            self.exported.bytes,
            self.unlisted,
            stat(object::STAT_OVERFLOW),
            stat(object::STAT_OVERFLOW_BYTES),
            stat(object::STAT_NON_IP),
            stat(object::STAT_MALFORMED),
            stat(object::STAT_STRAY_FRAGMENTS),
        ])
    }

    /// Of `.flows`, the only one that can be cleared.
    fn clear(&mut self, _: &str, maps: &Maps) -> Result<(), Error> {
        self.end_all(maps)?;
        self.read_records();
        Ok(())
    }

    /// Of `.flows`.
    fn delete(&mut self, _: &str, key: &[u8], _: &Maps) -> Result<(), Error> {
        self.doomed.insert(key.to_vec());
        Ok(())
    }

    fn deleted(&mut self, maps: &Maps) -> Result<(), Error> {
        if self.doomed.is_empty() {
            return Ok(());
        }
        let doomed = std::mem::take(&mut self.doomed);
        self.read_records();
        if self.export.is_some() {
            // The report says whose it was.
            self.ask_sockets(maps)?;
        }
        let is_doomed = |(_, r): &&(u32, Record)| doomed.contains(&row_key(r, self.interfaces.get(&r.key.ifindex)));
        let ended: Vec<(u32, Key, Reason)> = self
            .live
            .iter()
            .filter(is_doomed)
            .map(|(i, r)| (*i, r.key, Reason::Forced))
            .collect();
        self.end(&ended, maps)?;
        let gone: HashSet<u32> = ended.iter().map(|(index, ..)| *index).collect();
        self.live.retain(|(index, _)| !gone.contains(index));
        Ok(())
    }
}

fn map<'m>(maps: &'m Maps, symbol: &str) -> Result<&'m Map, Error> {
    maps.get(symbol).ok_or_else(|| Error::Object(format!("no map `{symbol}`")))
}

/// A [`Key`] as it lies in memory.
fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<Key>());
    let flow = &key.flow;
    for word in [flow.src[0], flow.src[1], flow.dst[0], flow.dst[1]] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(&flow.sport.to_ne_bytes());
    bytes.extend_from_slice(&flow.dport.to_ne_bytes());
    bytes.extend_from_slice(&[flow.proto, flow.family, flow.has_ports, flow.zero]);
    bytes.extend_from_slice(&key.ifindex.to_ne_bytes());
    bytes.extend_from_slice(&key.vlan.to_ne_bytes());
    bytes.extend_from_slice(&[key.direction, key.zero]);
    bytes
}

/// Reads a record of the ring buffer.
fn delta(bytes: &[u8]) -> Option<Delta> {
    if bytes.len() < size_of::<Delta>() {
        return None;
    }
    // SAFETY: so many bytes are there, and a `Delta` is made of integers.
    Some(unsafe { bytes.as_ptr().cast::<Delta>().read_unaligned() })
}

fn add_delta(record: &mut Record, delta: &Delta) {
    record.packets += u64::from(delta.packets);
    record.bytes += delta.bytes;
    record.last_ns = record.last_ns.max(delta.at_ns);
    record.flags |= u32::from(delta.flags);
    let counts = [&mut record.fins, &mut record.syns, &mut record.rsts];
    for (bit, count) in counts.into_iter().enumerate() {
        if delta.flags >> bit & 1 != 0 {
            *count += 1;
        }
    }
}

/// A key of the table: flow, interface, direction from both sides.
fn row_key(record: &Record, interface: Option<&Interface>) -> Vec<u8> {
    let mut bytes = key_bytes(&record.key);
    bytes.truncate(size_of_val(&record.key.flow));
    let direction = if record.key.direction == object::DIRECTION_EGRESS {
        "egress"
    } else {
        "ingress"
    };
    let direction = if interface.is_some_and(|i| i.is_pod) {
        format!("{direction}/{}", pod_direction(record.key.direction))
    } else {
        direction.to_owned()
    };
    for text in [interface.map_or("", |i| i.name.as_str()), &direction] {
        let mut text = text.as_bytes().to_vec();
        text.truncate(FLOW_AT_BYTES as usize - 1);
        text.resize(FLOW_AT_BYTES as usize, 0);
        bytes.extend_from_slice(&text);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_ebpf_builtins::abi::net::Flow;

    #[test]
    fn keys_lie_as_the_programs_read_them() {
        let key = Key {
            flow: Flow {
                src: [1, 2],
                dst: [3, 4],
                sport: 5,
                dport: 6,
                proto: 7,
                family: 8,
                has_ports: 9,
                zero: 0,
            },
            ifindex: 10,
            vlan: 11,
            direction: 12,
            zero: 0,
        };
        let bytes = key_bytes(&key);
        assert_eq!(bytes.len(), size_of::<Key>());
        // SAFETY: as many bytes as a key, which is made of integers.
        assert_eq!(unsafe { bytes.as_ptr().cast::<Key>().read_unaligned() }, key);
    }

    #[test]
    fn flows_end_sooner_when_there_are_many() {
        assert_eq!(idle_time(16 * SECOND, 79, 100), 16 * SECOND);
        assert_eq!(idle_time(16 * SECOND, 80, 100), 4 * SECOND);
        assert_eq!(idle_time(16 * SECOND, 100, 100), SECOND);
        assert_eq!(idle_time(2 * SECOND, 90, 100), SECOND, "never at once");
    }

    #[test]
    fn the_largest_are_last() {
        let all: Vec<u32> = (0..1000).map(|i| i * 7 % 1000).collect();
        for (top, left_out) in [(0, 0), (1, 999), (10, 990), (1000, 0), (5000, 0)] {
            let mut sorted = all.clone();
            assert_eq!(last_sorted(&mut sorted, top, |n| *n), left_out);
            assert!(sorted[left_out..].iter().copied().eq(left_out as u32..1000), "{top}");
        }
        assert_eq!(last_sorted(&mut [0_u32; 0], 10, |n| *n), 0);
    }

    #[test]
    fn flags_are_letters() {
        let mut record = Record {
            flags: 0x12,
            ..Record::default()
        };
        assert_eq!(flags(&record), "-");
        record.key.flow.proto = 6;
        assert_eq!(flags(&record), "...A..S.");
    }

    #[test]
    fn retransmits_are_those_since_the_first_packet_and_counters_wrap() {
        let record = Record {
            estimated: 2,
            base_retrans: u32::MAX,
            retrans: 3,
            ..Record::default()
        };
        assert_eq!(retransmits(&record), 6);
    }

    #[test]
    fn packets_without_a_record_add_up() {
        let mut record = Record::default();
        for (packets, flags) in [(1, 0x02), (3, 0x11)] {
            let delta = Delta {
                packets,
                bytes: 100,
                flags,
                at_ns: 9,
                ..Delta::default()
            };
            add_delta(&mut record, &delta);
        }
        assert_eq!((record.packets, record.bytes, record.flags), (4, 200, 0x13));
        assert_eq!(
            (record.syns, record.fins, record.rsts),
            (1, 1, 0),
            "the last segment alone has the FIN"
        );
    }
}
