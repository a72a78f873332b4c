//! The lists of a blocklist while it runs: what they hold, when entries end, how a file's new content gets into the kernel.
//!
//! A list is in the tries, or in exact tables where it was long enough at the start (`exact`), and then what these have no room for is in the tries.
//! The kernel's maps always hold what the tables here say, except while a change is on its way: new entries come before old ones go.

use super::audit::{Audit, Before, Changes, END, Record, listed};
use super::exact::{self, Exact, key};
use super::heartbeat::Heart;
use super::left;
use super::prefixes::{self, Key, Prefixes, bytes};
use super::pressure::{self, Pressure};
use super::protect::{Guard, Protected};
use super::table::{Change, Table, difference};
use crate::error::{Error, Notice};
use crate::format::uint;
use crate::maps::{Contents, Map};
use crate::pin::{Left, ListState, Pin};
use crate::sys::{Result as SysResult, bpf, proc};
use std::collections::{BTreeSet, HashMap};
use std::mem::offset_of;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use weir_ebpf_builtins::exact::{Bits, Counted};
use weir_ebpf_builtins::{Lpm4, Lpm6, PacketsBytes, Record4, Record6, blocklist as object};
use weir_parser::Span;
use weir_stdlib::blocklist::ENTRIES;

/// Where a list is from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The parameter: `prefixes`, `allow`.
    pub what: &'static str,
    pub span: Span,
    /// `None` for a list in the script, and for standard input.
    pub file: Option<PathBuf>,
    /// How long entries last that do not say it themselves.
    pub ttl: Option<u64>,
}

/// One list, both families.
#[derive(Debug)]
struct List {
    origin: Origin,
    v4: Table<Lpm4>,
    v6: Table<Lpm6>,
    /// Two sets of tries, one of them in force.
    sets: [[&'static str; 2]; 2],
    /// Which set is in force, where there are two.
    active: Option<usize>,
    /// IPv4, IPv6: where the entries are instead.
    exact: [Option<Exact>; 2],
    /// Some entries had no room there.
    spilled: bool,
}

/// Both lists of an instance.
#[derive(Debug)]
pub(super) struct Lists {
    alias: String,
    block: List,
    allow: List,
    max: u64,
    guard: Option<Guard>,
    audit: Audit,
    /// When enforcement ends.
    ends: Option<u64>,
    over: bool,
    /// A list has been said to be nearly full.
    warned: bool,
    /// `.hits` has been said to be full.
    warned_of_hits: bool,
    /// How full the kernel's part of it is.
    hits: Pressure,
    notices: Vec<Notice>,
    span: Span,
    /// Records of the instance that this one takes the place of.
    before: [Option<Map>; 2],
    /// What that had in force, for the audit log.
    left: Before<JoinHandle<left::Lists>>,
    /// Programs pass everything unless they see that we are there.
    beats: bool,
    heart: Option<Heart>,
}

/// What [`Lists::new`] is made from.
pub(super) struct Plan {
    pub alias: String,
    pub span: Span,
    pub block: (Origin, Prefixes),
    pub allow: (Origin, Prefixes),
    pub max: u64,
    pub atomic: bool,
    /// The block list's tables, IPv4 and IPv6.
    pub exact: [Option<Exact>; 2],
    pub guard: Option<Guard>,
    pub audit: Audit,
    /// Nanoseconds from now.
    pub duration: Option<u64>,
    pub notices: Vec<Notice>,
    pub beats: bool,
    pub left: Before<JoinHandle<left::Lists>>,
}

type Maps = HashMap<String, Map>;

/// A key of the tries: its family (0: IPv4), and what it stands for.
pub(super) fn bits_of(key: &[u8]) -> (usize, Bits) {
    let family = usize::from(key.len() != size_of::<Lpm4>());
    let Some((len, addr)) = key.split_first_chunk::<4>() else {
        return (family, (0, 0));
    };
    let bits = addr.iter().fold(0, |bits: u128, byte| bits << 8 | u128::from(*byte));
    let shift = 128_u32.saturating_sub(8 * addr.len() as u32);
    (family, (bits.checked_shl(shift).unwrap_or(0), u32::from_ne_bytes(*len)))
}

/// Not wall time: a clock that is set must end nothing. Goes on while the machine sleeps.
fn now() -> u64 {
    proc::clock_ns(libc::CLOCK_BOOTTIME)
}

pub(super) const BLOCK: [[&str; 2]; 2] = [[object::BLOCK4, object::BLOCK6], [object::SWAP4, object::SWAP6]];
pub(super) const TABLES: [[&str; 3]; 2] = [
    [object::NODES4, object::RECORDS4, object::SIEVE4],
    [object::NODES6, object::RECORDS6, object::SIEVE6],
];
const PAST: [&str; 2] = [object::PAST4, object::PAST6];
pub(super) const ALLOW: [[&str; 2]; 2] = [[object::ALLOW4, object::ALLOW6]; 2];

impl Lists {
    /// Takes over what the maps are filled with.
    pub fn new(plan: Plan) -> Self {
        let now = now();
        let list = |(origin, prefixes): (Origin, Prefixes), sets, active, exact| List {
            v4: Table::new().change(&prefixes.v4, origin.ttl, now).table,
            v6: Table::new().change(&prefixes.v6, origin.ttl, now).table,
            origin,
            sets,
            active,
            exact,
            spilled: false,
        };
        let mut lists = Self {
            alias: plan.alias,
            block: list(plan.block, BLOCK, plan.atomic.then_some(0), plan.exact),
            allow: list(plan.allow, ALLOW, None, [None, None]),
            max: plan.max,
            guard: plan.guard,
            audit: plan.audit,
            ends: plan.duration.map(|d| now.saturating_add(d)),
            over: false,
            warned: false,
            warned_of_hits: false,
            hits: Pressure::new(),
            notices: plan.notices,
            span: plan.span,
            before: [None, None],
            left: plan.left,
            beats: plan.beats,
            heart: None,
        };
        lists.check_pressure();
        lists
    }

    /// Puts the tables into their maps. Before programs look into them.
    pub fn move_in(&mut self, maps: &Maps) -> Result<(), Error> {
        let map = |symbol: &str| maps.get(symbol).ok_or_else(|| Error::Object(format!("no map `{symbol}`")));
        for (exact, [nodes, records, sieve]) in self.block.exact.iter_mut().zip(TABLES) {
            if let Some(exact) = exact {
                exact.move_to(map(nodes)?, map(records)?, || map(sieve))?;
            }
        }
        if self.beats {
            self.heart = Some(Heart::start(map(object::HEARTBEAT)?)?);
        }
        Ok(())
    }

    /// Takes the records of the instance whose place this one takes: what was counted there goes on here, once nothing is counted there any
    /// more ([`Self::started`]).
    pub fn take_over(&mut self, pin: &Pin) {
        self.before = TABLES.map(|[_, symbol, _]| left::map(pin.map(symbol)?, symbol));
    }

    fn fetch_before(&mut self, maps: &Maps) -> Result<(), Error> {
        let [v4, v6] = std::mem::take(&mut self.before);
        // Of one entry: the list was short.
        let [v4, v6] = [v4, v6].map(|map| map.filter(|map| map.max_entries > 1));
        if v4.is_none() && v6.is_none() {
            return Ok(());
        }
        grace_period();
        if let Some(map) = v4.filter(|map| map.value_size as usize == size_of::<Record4>()) {
            let hits = counted::<Lpm4>(&map, offset_of!(Record4, key), offset_of!(Record4, hits))?;
            self.block.add_hits(0, &hits, maps)?;
        }
        if let Some(map) = v6.filter(|map| map.value_size as usize == size_of::<Record6>()) {
            let hits = counted::<Lpm6>(&map, offset_of!(Record6, key), offset_of!(Record6, hits))?;
            self.block.add_hits(1, &hits, maps)?;
        }
        Ok(())
    }

    /// Lists what was counted in the exact tables: keys of the tries, with hits. One may come more than once.
    pub fn hits(&self) -> Vec<(Vec<u8>, PacketsBytes)> {
        let [v4, v6] = &self.block.exact;
        let v4 = v4
            .iter()
            .flat_map(Exact::hits)
            .map(|(bits, hits)| (bytes([&key::<Lpm4>(bits)]), hits));
        let v6 = v6
            .iter()
            .flat_map(Exact::hits)
            .map(|(bits, hits)| (bytes([&key::<Lpm6>(bits)]), hits));
        v4.chain(v6).collect()
    }

    /// Lists the entries that were counted there, as [`bits_of`] does; one may come more than once.
    pub fn counted(&self) -> impl Iterator<Item = (usize, Bits)> {
        let families = self.block.exact.iter().enumerate();
        families.flat_map(|(family, exact)| exact.iter().flat_map(Exact::hits).map(move |(bits, _)| (family, bits)))
    }

    /// Forgets what was counted there for one entry, by its key in the tries.
    pub fn forget_hits(&mut self, key: &[u8]) {
        let (family, bits) = bits_of(key);
        if let Some(exact) = &mut self.block.exact[family] {
            exact.forget_hits(bits);
        }
    }

    /// Forgets what was counted there. With `keep`, entries that were hit stay known.
    pub fn clear_hits(&mut self, keep: bool, maps: &Maps) -> Result<(), Error> {
        for family in 0..2 {
            let Some(exact) = &mut self.block.exact[family] else { continue };
            let hit = exact.clear_hits();
            if keep {
                let zeros: Vec<Counted> = hit.into_iter().map(|(bits, _)| (bits, PacketsBytes::default())).collect();
                self.block.add_past(family, &zeros, maps)?;
            }
        }
        Ok(())
    }

    /// Gives what a person should hear, once.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn say(&mut self, warning: bool, message: String) {
        self.notices.push(Notice::Native {
            alias: self.alias.clone(),
            message,
            warning,
            span: warning.then_some(self.span),
        });
    }

    /// Says in the audit log that the lists are in force, and what that changes where others were.
    pub fn started(&mut self, maps: &Maps) -> Result<(), Error> {
        self.fetch_before(maps)?;
        let left = self.left.take().and_then(|reading| reading.join().ok()?);
        for allow in [false, true] {
            let list = self.list(allow);
            let changes = match &left {
                Before::Nothing => Changes::added(list.len()),
                Before::Unknown => Changes::default(),
                Before::Known(lists) => {
                    let old = &lists[usize::from(allow)];
                    changes(difference(old.v4.iter(), list.v4.keys()), difference(old.v6.iter(), list.v6.keys()))
                }
            };
            if !allow || list.len() > 0 || changes.removed != Some(0) {
                self.record(allow, "start", changes);
            }
        }
        Ok(())
    }

    /// Says in the audit log that they no longer are.
    pub fn record_end(&mut self) {
        for allow in [false, true] {
            let removed = self.list(allow).len();
            if removed > 0 {
                self.record(allow, END, Changes::removed(removed));
            }
        }
    }

    fn list(&self, allow: bool) -> &List {
        if allow { &self.allow } else { &self.block }
    }

    fn list_mut(&mut self, allow: bool) -> &mut List {
        if allow { &mut self.allow } else { &mut self.block }
    }

    fn record(&mut self, allow: bool, action: &str, changes: Changes) {
        let list = self.list(allow);
        let record = Record {
            instance: &self.alias,
            native: "blocklist",
            action,
            list: list.origin.what,
            source: list.origin.file.as_deref().map(|p| p.display().to_string()).unwrap_or_default(),
            entries: if action == END { 0 } else { list.len() },
            changes,
        };
        if let Some(complaint) = self.audit.log(&record) {
            self.say(true, complaint);
        }
    }

    /// Number of entries: IPv4, IPv6, allowed IPv4, allowed IPv6.
    pub fn sizes(&self) -> [usize; 4] {
        [self.block.v4.len(), self.block.v6.len(), self.allow.v4.len(), self.allow.v6.len()]
    }

    /// The same for whoever looks from outside.
    pub fn states(&self) -> Vec<ListState> {
        let of_family = |sets: &[[&'static str; 2]; 2], family: usize| {
            let maps: BTreeSet<_> = sets.iter().map(|set| set[family].to_owned()).collect();
            maps.into_iter().collect()
        };
        let lists = [&self.block, &self.allow];
        let maps = lists
            .into_iter()
            .flat_map(|list| [0, 1].map(|family| of_family(&list.sets, family)));
        let sizes = ENTRIES.iter().zip(self.sizes()).zip(maps);
        sizes
            .map(|((name, entries), maps)| ListState {
                name: (*name).to_owned(),
                entries: entries as u64,
                max: self.max,
                maps,
            })
            .collect()
    }

    /// Reads a file that has changed, and puts it in force. A file with a fault in it changes nothing.
    ///
    /// `touched` tells whether the file has changed again since; then the next call does the work.
    pub fn reload(&mut self, path: &Path, maps: &Maps, mut touched: impl FnMut() -> bool) {
        if self.over {
            return;
        }
        for allow in [true, false] {
            let origin = &self.list(allow).origin;
            if origin.file.as_deref() != Some(path) {
                continue;
            }
            let (what, span) = (origin.what, origin.span);
            let new = prefixes::read_text(path, span).and_then(|text| {
                if text.is_empty() && self.list(allow).len() > 0 {
                    let message = format!("{} is empty", path.display());
                    return Err(Error::Param { message, help: None, span });
                }
                prefixes::parse(path, &text, span)
            });
            if touched() {
                return;
            }
            let new = new.and_then(|new| {
                fits(what, &new, self.max, span)?;
                self.spares(allow, &new)?;
                Ok(new)
            });
            let result = new.and_then(|new| self.put(allow, &new, maps));
            if let Err(error) = result {
                self.say(true, error.while_running("the list in force stays as it is"));
            }
        }
    }

    /// Refuses a new list that would cut somebody off who must not be.
    fn spares(&self, allow: bool, new: &Prefixes) -> Result<(), Error> {
        let Some(guard) = &self.guard else { return Ok(()) };
        let block = |addr| if allow { self.block.covering(addr) } else { covering(new, addr) };
        let allowed = |addr| {
            if allow {
                covering(new, addr).is_some()
            } else {
                self.allow.covering(addr).is_some()
            }
        };
        let span = self.list(allow).origin.span;
        spares(&guard.addresses(span)?, block, allowed, span)
    }

    fn put(&mut self, allow: bool, new: &Prefixes, maps: &Maps) -> Result<(), Error> {
        let now = now();
        let list = self.list_mut(allow);
        let ttl = list.origin.ttl;
        let v4 = list.v4.change(&new.v4, ttl, now);
        let v6 = list.v6.change(&new.v6, ttl, now);
        let (added, removed) = (v4.add.len() + v6.add.len(), v4.remove.len() + v6.remove.len());
        let fitted = !list.spilled;
        list.apply(&v4, &v6, maps)?;
        let spilled = list.spilled && fitted;
        let changes = changes((v4.add, v4.remove), (v6.add, v6.remove));
        list.v4 = v4.table;
        list.v6 = v6.table;
        let (what, entries) = (list.origin.what, list.len());
        if added + removed > 0 {
            self.record(allow, "reload", changes);
        }
        if entries == 0 && removed > 0 && !allow {
            self.say(
                true,
                format!("`{what}` read again: {added} added, {removed} removed: `{what}` has no entry, nothing is dropped"),
            );
        } else {
            self.say(
                false,
                format!("`{what}` read again: {added} added, {removed} removed, {entries} in force"),
            );
        }
        if spilled {
            let message = format!(
                "`{what}` has outgrown the tables that were made for it at the start: what they have no room for is in force, but slower; \
                 a new start makes room"
            );
            self.say(true, message);
        }
        self.check_pressure();
        Ok(())
    }

    fn check_pressure(&mut self) {
        let most = self.sizes().into_iter().max().unwrap_or(0) as u64;
        let high = most >= pressure::high(self.max) && most > 0;
        if high && !self.warned {
            self.say(true, format!("a list has {most} entries of at most {}: raise `max`", self.max));
        }
        self.warned = high;
    }

    /// Says once that `.hits` is nearly full, and once that packets were dropped for prefixes that have no counter of their own.
    pub fn check_hits(&mut self, maps: &Maps) {
        let map = |symbol: &str| maps.get(symbol);
        let (Some(stats), Some(v4), Some(v6)) = (map(object::STATS_MAP), map(object::HITS4), map(object::HITS6)) else {
            return;
        };
        let more = u64::from(v4.max_entries) * 4;
        if !self.warned_of_hits && uncounted(stats).is_ok_and(|n| n > 0) {
            self.warned_of_hits = true;
            let max = v4.max_entries;
            self.say(
                true,
                format!(
                    "`.hits` is full with {max} prefixes: hits of others are in `.stats` alone, as `uncounted`; give it more with `max_hits={more}`"
                ),
            );
        }
        // What cannot be read now is complained about when somebody wants to see it.
        let dropped = super::stat(stats, object::STAT_DROPPED).unwrap_or(0);
        if let Ok(Some((entries, max))) = self.hits.check(dropped, &[v4, v6])
            && !self.warned_of_hits
        {
            self.say(
                true,
                format!("`.hits` has {entries} prefixes of a family, of at most {max}: give it more with `max_hits={more}`"),
            );
        }
    }

    /// Ends entries whose time is over, and enforcement when its own is.
    pub fn tick(&mut self, maps: &Maps) {
        self.check_hits(maps);
        let now = now();
        if !self.over && self.ends.is_some_and(|ends| ends <= now) {
            self.over = true;
            match self.block.remove_all(maps) {
                Ok(removed) => {
                    self.say(true, "its `duration` is over: everything passes from now on".to_owned());
                    self.record(false, END, Changes::removed(removed));
                }
                Err(error) => self.say(true, format!("its `duration` is over, but the list cannot be removed: {error}")),
            }
        }
        for allow in [false, true] {
            let list = self.list_mut(allow);
            let (v4, v6) = (list.v4.ended(now), list.v6.ended(now));
            if v4.is_empty() && v6.is_empty() {
                continue;
            }
            let result = list.forget(&v4, 0, maps).and_then(|()| list.forget(&v6, 1, maps));
            if let Err(error) = result {
                self.say(true, format!("entries whose time is over cannot be removed: {error}"));
                continue;
            }
            if let Err(error) = list.settle(maps) {
                self.say(true, format!("hits of entries whose time is over are lost: {error}"));
            }
            let list = self.list_mut(allow);
            list.v4.forget_ended(now);
            list.v6.forget_ended(now);
            self.record(allow, "expire", changes((Vec::new(), v4), (Vec::new(), v6)));
            self.check_pressure();
        }
    }
}

/// Refuses a list that is longer than `max`.
pub(super) fn fits(what: &str, list: &Prefixes, max: u64, span: Span) -> Result<(), Error> {
    for (count, family) in [(list.v4.len(), "IPv4"), (list.v6.len(), "IPv6")] {
        if count as u64 > max {
            return Err(Error::Param {
                message: format!("`{what}` has {count} {family} prefixes, but `max` is {max}"),
                help: Some(format!("add `max={}`", count.next_power_of_two())),
                span,
            });
        }
    }
    Ok(())
}

/// Refuses what would cut off an address that must stay reachable.
pub(super) fn spares(
    protected: &BTreeSet<Protected>,
    block: impl Fn(IpAddr) -> Option<(IpAddr, u32)>,
    allowed: impl Fn(IpAddr) -> bool,
    span: Span,
) -> Result<(), Error> {
    for Protected { addr, why } in protected {
        if let Some((net, len)) = block(*addr)
            && !allowed(*addr)
        {
            return Err(Error::Param {
                message: format!("the list covers {addr}, {why}, by its entry {net}/{len}"),
                help: Some(format!(
                    "take the entry out, let the address pass with `allow={}`, or force it with `protect=false`",
                    quoted(*addr)
                )),
                span,
            });
        }
    }
    Ok(())
}

/// An address as a script writes it.
fn quoted(addr: IpAddr) -> String {
    if addr.is_ipv4() { addr.to_string() } else { format!("\"{addr}\"") }
}

/// Finds the longest entry that covers an address.
pub(super) fn covering(list: &Prefixes, addr: IpAddr) -> Option<(IpAddr, u32)> {
    match addr {
        IpAddr::V4(a) => longest(list.v4.iter().map(|e| &e.key), a.to_bits().into(), 32),
        IpAddr::V6(a) => longest(list.v6.iter().map(|e| &e.key), a.to_bits(), 128),
    }
}

fn longest<'a, K: Key + 'a>(keys: impl Iterator<Item = &'a K>, addr: u128, width: u32) -> Option<(IpAddr, u32)> {
    let covers = |key: &&K| {
        let (net, len) = key.order();
        // A shift by the whole width is no bits at all.
        (net ^ addr).checked_shr(width - len).unwrap_or(0) == 0
    };
    keys.filter(covers).max_by_key(|key| key.order().1).map(Key::prefix)
}

/// What was added and removed, of each family.
fn changes(v4: (Vec<Lpm4>, Vec<Lpm4>), v6: (Vec<Lpm6>, Vec<Lpm6>)) -> Changes {
    Changes {
        added: Some(v4.0.len() + v6.0.len()),
        removed: Some(v4.1.len() + v6.1.len()),
        add: [listed(&v4.0, show), listed(&v6.0, show)].concat(),
        remove: [listed(&v4.1, show), listed(&v6.1, show)].concat(),
    }
}

/// How many entries each list has that an owner has left in force, if that is known; lists without any are left out, as an owner does.
pub(super) fn ended(left: &Left) -> Vec<(&'static str, Option<usize>)> {
    let sizes = match left::read(|symbol| left.map(symbol)) {
        Some(lists) => lists.map(|list| Some(list.len())),
        // Maps of another version may mean something else; what its owner has said does not.
        None => [&ENTRIES[..2], &ENTRIES[2..4]].map(|families| {
            let mut of_list = left.lists.iter().filter(|l| families.contains(&l.name.as_str())).peekable();
            of_list.peek()?;
            Some(of_list.map(|l| l.entries as usize).sum())
        }),
    };
    let lists = ["prefixes", "allow"].into_iter().zip(sizes);
    // Where nothing is known of its length, it is known from whom it came.
    let is_known = |list: &str| list == "prefixes" || left.record.sources.contains_key(list);
    lists
        .filter(|(list, size)| size.map_or_else(|| is_known(list), |n| n > 0))
        .collect()
}

fn show<K: Key>(key: &K) -> String {
    let (addr, len) = key.prefix();
    format!("{addr}/{len}")
}

impl List {
    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    fn covering(&self, addr: IpAddr) -> Option<(IpAddr, u32)> {
        match addr {
            IpAddr::V4(a) => longest(self.v4.keys(), a.to_bits().into(), 32),
            IpAddr::V6(a) => longest(self.v6.keys(), a.to_bits(), 128),
        }
    }

    fn trie<'m>(&self, family: usize, set: usize, maps: &'m Maps) -> Result<&'m Map, Error> {
        let symbol = self.sets[set][family];
        maps.get(symbol).ok_or_else(|| Error::Object(format!("no map `{symbol}`")))
    }

    fn in_force(&self) -> usize {
        self.active.unwrap_or(0)
    }

    /// Brings the kernel from the tables of now to those of the changes.
    fn apply(&mut self, v4: &Change<Lpm4>, v6: &Change<Lpm6>, maps: &Maps) -> Result<(), Error> {
        let Some(active) = self.active else {
            let added = self
                .add(0, 0, v4.add.iter(), maps)
                .and_then(|()| self.add(1, 0, v6.add.iter(), maps));
            if let Err(error) = added {
                // As it was: what could be added is taken out again.
                let _ = self.remove(0, 0, v4.add.iter(), maps);
                let _ = self.remove(1, 0, v6.add.iter(), maps);
                let _ = self.settle(maps);
                return Err(error);
            }
            self.remove(0, 0, v4.remove.iter(), maps)?;
            self.remove(1, 0, v6.remove.iter(), maps)?;
            return self.settle(maps);
        };
        let other = 1 - active;
        let filled = self
            .add(0, other, v4.table.keys(), maps)
            .and_then(|()| self.add(1, other, v6.table.keys(), maps));
        if let Err(error) = filled.and_then(|()| self.write_state(other, maps)) {
            let _ = self.empty(0, other, v4.table.keys(), maps);
            let _ = self.empty(1, other, v6.table.keys(), maps);
            return Err(error);
        }
        self.active = Some(other);
        // Programs that have begun look into the old set to their end.
        grace_period();
        let (old4, old6) = (
            std::mem::replace(&mut self.v4, Table::new()),
            std::mem::replace(&mut self.v6, Table::new()),
        );
        self.empty(0, active, old4.keys(), maps)?;
        self.empty(1, active, old6.keys(), maps)?;
        self.settle(maps)
    }

    /// Adds entries to a set, whether programs look into it or not.
    fn add<'a, K: Key + 'a>(&mut self, family: usize, set: usize, keys: impl Iterator<Item = &'a K>, maps: &Maps) -> Result<(), Error> {
        let Some(exact) = &mut self.exact[family] else {
            return Ok(fill(self.trie(family, set, maps)?, keys)?);
        };
        let rest = exact.insert(set, keys, grace_period);
        if rest.is_empty() {
            return Ok(());
        }
        if !self.spilled {
            self.spilled = true;
            self.write_state(self.in_force(), maps)?;
        }
        Ok(fill(self.trie(family, set, maps)?, rest.iter())?)
    }

    /// Takes entries out of a set that programs may look into.
    fn remove<'a, K: Key + 'a>(&mut self, family: usize, set: usize, keys: impl Iterator<Item = &'a K>, maps: &Maps) -> Result<(), Error> {
        let Some(exact) = &mut self.exact[family] else {
            return Ok(remove_keys(self.trie(family, set, maps)?, keys)?);
        };
        let rest = exact.remove(set, keys);
        Ok(remove_keys(self.trie(family, set, maps)?, rest.iter())?)
    }

    /// Takes everything out of a set that no program looks into.
    fn empty<'a, K: Key + 'a>(&mut self, family: usize, set: usize, keys: impl Iterator<Item = &'a K>, maps: &Maps) -> Result<(), Error> {
        if let Some(exact) = &mut self.exact[family] {
            exact.clear(set);
            if !self.spilled {
                return Ok(());
            }
        }
        Ok(remove_keys(self.trie(family, set, maps)?, keys)?)
    }

    /// Makes what was taken out of the exact tables usable again, and puts the hits of entries that are gone where they stay.
    fn settle(&mut self, maps: &Maps) -> Result<(), Error> {
        if self.exact.iter().flatten().any(Exact::has_limbo) {
            grace_period();
            self.exact.iter_mut().flatten().for_each(Exact::reclaim);
        }
        for family in 0..2 {
            let gone = self.exact[family].as_mut().map(Exact::gone).unwrap_or_default();
            self.add_past(family, &gone, maps)?;
        }
        Ok(())
    }

    /// Adds hits to entries, there or not.
    fn add_hits<K: Key>(&mut self, family: usize, hits: &[(K, PacketsBytes)], maps: &Maps) -> Result<(), Error> {
        let mut gone = Vec::new();
        for (key, hits) in hits {
            let added = self.exact[family].as_mut().is_some_and(|exact| exact.add_hits(key, *hits));
            if !added {
                gone.push((exact::bits(key), *hits));
            }
        }
        self.add_past(family, &gone, maps)
    }

    /// Adds hits to what user space alone counts on. For what there is no room, only the sum stays.
    fn add_past(&mut self, family: usize, counted: &[Counted], maps: &Maps) -> Result<(), Error> {
        let symbol = PAST[family];
        let map = maps.get(symbol).ok_or_else(|| Error::Object(format!("no map `{symbol}`")))?;
        let mut no_room = 0u64;
        for (bits, hits) in counted {
            let key = if family == 0 {
                bytes([&key::<Lpm4>(*bits)])
            } else {
                bytes([&key::<Lpm6>(*bits)])
            };
            let before = map.lookup(&key)?.unwrap_or_default();
            let word = |at: usize| before.get(at..at + 8).map_or(0, uint);
            let sums = [word(0) + hits.packets, word(8) + hits.bytes];
            let value: Vec<u8> = sums.iter().flat_map(|sum| sum.to_ne_bytes()).collect();
            match map.put(&key, &value, 0) {
                Err(e) if e.errno() == libc::E2BIG => no_room = no_room.saturating_add(hits.packets),
                result => result?,
            }
        }
        if no_room > 0 {
            let stats = maps.get(object::STATS_MAP);
            let stats = stats.ok_or_else(|| Error::Object(format!("no map `{}`", object::STATS_MAP)))?;
            let sum = super::stat(stats, object::STAT_UNCOUNTED_PAST)? + no_room;
            // Of all processors the first has it: no program writes there.
            let mut value = sum.to_ne_bytes().to_vec();
            value.resize(stats.lookup_size(), 0);
            let key = object::STAT_UNCOUNTED_PAST.to_ne_bytes();
            bpf::map_update(stats.fd.as_fd(), &key, &value, 0, &stats.symbol)?;
        }
        Ok(())
    }

    /// Tells the programs which set is in force, and whether to look into the tries as well.
    fn write_state(&self, set: usize, maps: &Maps) -> Result<(), Error> {
        let map = maps.get(object::STATE).ok_or_else(|| Error::Object("no map STATE".to_owned()))?;
        let mut words = [0; object::STATE_WORDS];
        words[object::STATE_ACTIVE] = u32::from(set == 1);
        words[object::STATE_SPILLED] = u32::from(self.spilled);
        let value: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(bpf::map_update(map.fd.as_fd(), &0u32.to_ne_bytes(), &value, 0, &map.symbol)?)
    }

    fn forget<K: Key>(&mut self, keys: &[K], family: usize, maps: &Maps) -> Result<(), Error> {
        self.remove(family, self.in_force(), keys.iter(), maps)
    }

    fn remove_all(&mut self, maps: &Maps) -> Result<usize, Error> {
        let removed = self.len();
        let (v4, v6) = (
            std::mem::replace(&mut self.v4, Table::new()),
            std::mem::replace(&mut self.v6, Table::new()),
        );
        self.remove(0, self.in_force(), v4.keys(), maps)?;
        self.remove(1, self.in_force(), v6.keys(), maps)?;
        self.settle(maps)?;
        Ok(removed)
    }
}

/// Packets that `.hits` has no prefix for: those that the programs had no room for, and those of entries that are gone.
pub(super) fn uncounted(stats: &Map) -> Result<u64, Error> {
    Ok(super::stat(stats, object::STAT_UNCOUNTED)? + super::stat(stats, object::STAT_UNCOUNTED_PAST)?)
}

/// Reads what was counted in records that nobody counts in any more.
fn counted<K: Key>(records: &Map, key_at: usize, hits_at: usize) -> Result<Vec<(K, PacketsBytes)>, Error> {
    let elements = records.elements()?;
    let counted = elements.iter().filter_map(|(_, record)| {
        let (packets, bytes) = (
            uint(record.get(hits_at..hits_at + 8)?),
            uint(record.get(hits_at + 8..hits_at + 16)?),
        );
        let addr = record.get(key_at + 4..key_at + 4 + K::WIDTH as usize / 8)?;
        let addr = addr.iter().fold(0, |addr: u128, byte| addr << 8 | u128::from(*byte));
        let len = u32::try_from(uint(record.get(key_at..key_at + 4)?)).ok()?;
        (packets != 0).then(|| (K::new(addr, len), PacketsBytes { packets, bytes }))
    });
    Ok(counted.collect())
}

fn fill<'a, K: Key + 'a>(trie: &Map, keys: impl Iterator<Item = &'a K>) -> SysResult<()> {
    let bytes = bytes(keys);
    let size = trie.key_size as usize;
    bpf::map_update_many(trie.fd.as_fd(), &bytes, &bytes, size, size, &trie.symbol)
}

fn remove_keys<'a, K: Key + 'a>(trie: &Map, keys: impl Iterator<Item = &'a K>) -> SysResult<()> {
    bpf::map_delete_many(trie.fd.as_fd(), &bytes(keys), trie.key_size as usize, &trie.symbol)
}

/// Waits until every BPF program that runs now has ended.
pub(super) fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: no memory is passed. The kernel's answer to this command is `synchronize_rcu()`.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0;
    if !done {
        // Refused with `nohz_full`. No packet takes that long.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(text: &str) -> Prefixes {
        Prefixes::parse(text).unwrap()
    }

    #[test]
    fn the_longest_entry_covers() {
        let list = prefixes("0.0.0.0/0\n10.0.0.0/8\n10.1.0.0/16\n2001:db8::/32\n192.0.2.1\n");
        let of = |addr: &str| covering(&list, addr.parse().unwrap()).map(|(net, len)| format!("{net}/{len}"));
        assert_eq!(of("10.1.2.3").as_deref(), Some("10.1.0.0/16"));
        assert_eq!(of("10.2.0.0").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(of("192.0.2.1").as_deref(), Some("192.0.2.1/32"));
        assert_eq!(of("192.0.2.2").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(of("2001:db8:1::").as_deref(), Some("2001:db8::/32"));
        assert_eq!(of("2001:db9::"), None);
        assert_eq!(covering(&prefixes("::/0"), "fe80::1".parse().unwrap()).map(|c| c.1), Some(0));
    }

    #[test]
    fn whoever_is_protected_is_spared_unless_allowed() {
        let list = prefixes("10.0.0.0/8\n");
        let gateway = BTreeSet::from([Protected {
            addr: "10.0.0.1".parse().unwrap(),
            why: "the default gateway",
        }]);
        let check = |allow: &str| {
            let allow = prefixes(allow);
            spares(&gateway, |a| covering(&list, a), |a| covering(&allow, a).is_some(), Span::default())
        };
        let refused = check("10.0.0.2\n").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the list covers 10.0.0.1, the default gateway, by its entry 10.0.0.0/8"
        );
        assert!(refused.help()[0].contains("`allow=10.0.0.1`"), "{:?}", refused.help());
        assert!(check("10.0.0.0/24\n").is_ok());
        assert!(spares(&gateway, |a| covering(&prefixes("11.0.0.0/8\n"), a), |_| false, Span::default()).is_ok());
    }
}
