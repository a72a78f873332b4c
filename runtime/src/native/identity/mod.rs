//! `identity`: which pod may talk to whom. Parameters → settings and maps of its object; what changes while it runs.
//!
//! [`policy`] reads the file, [`who`] looks who there is; this brings the kernel's maps from one state to the next. The rules in force
//! are swapped as a whole; who is who is kept up to date within about a second of each change that [`watch`] hears of.

mod log;
mod policy;
mod reload;
mod watch;
mod who;

use super::audit::{Audit, Before, Changes, END};
use super::engine::{Engine, Maps, Rows, Value, text_bytes};
use super::heartbeat::{self, Heart};
use super::lists::grace_period;
use super::pressure::Pressure;
use super::{Params, Setup};
use crate::attach::tracing::Iterator as KernelIterator;
use crate::error::{Error, Notice};
use crate::format::uint;
use crate::kernel::Kernel;
use crate::load::Elf;
use crate::maps::{Contents, Map};
use crate::pin::Pin;
use crate::sys::{Result as SysResult, bpf, proc};
pub(super) use log::ended;
use policy::{Policy, PolicyError, RULES_MAX};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use watch::Watch;
use weir_compiler::object::MapKind;
use weir_ebpf_builtins::identity::{self as object, NAME_WORDS, RULE_WORDS, Rule as Row};
use weir_parser::Span;
use weir_stdlib::ParamValue;
use weir_stdlib::blocklist::AUDIT_DEFAULT;
use weir_stdlib::identity::{MASK_DEFAULT, MAX_DEFAULT, PODS_DEFAULT};
use who::Everybody;

pub(super) fn setup(
    params: &Params<'_>,
    netns: Option<&str>,
    event_used: &dyn Fn(&str) -> bool,
    kernel: &Kernel,
    pin: Option<&Arc<Pin>>,
) -> Result<Setup, Error> {
    let mut elf = Elf::parse(&object::OBJECT)?;
    let path = match params.get("policy") {
        Some((ParamValue::File(path), span)) => (PathBuf::from(path), span),
        _ => return Err(Error::Object("no policy".to_owned())),
    };
    let mask = params.int("mark_mask").unwrap_or(MASK_DEFAULT) as u32;
    let bits = mask >> mask.trailing_zeros();
    if bits & bits.wrapping_add(1) != 0 {
        return Err(Error::Param {
            message: format!("`mark_mask` is {mask:#x}: its bits are not side by side"),
            help: Some(
                "numbers of identities are written there as they are: 0xffff, or 0xff00 where others have the lowest eight".to_owned(),
            ),
            span: params.get("mark_mask").map_or(params.0.span, |(_, span)| span),
        });
    }
    let max = u32::try_from(params.int("max").unwrap_or(MAX_DEFAULT)).unwrap_or(u32::MAX / 2);
    let enforce = match params.text("direction") {
        Some("to_pod") => object::ENFORCE_TO_POD,
        Some("both") => object::ENFORCE_FROM_POD | object::ENFORCE_TO_POD,
        _ => object::ENFORCE_FROM_POD,
    };
    let deny_unknown = params.text("unknown") == Some("deny");
    let beats = heartbeat::is_needed(kernel, pin.map(Arc::as_ref));
    for (symbol, value) in [
        (object::RODATA_ENFORCE, enforce),
        (object::RODATA_MASK, mask),
        (object::RODATA_HALF, max),
        (object::RODATA_DENY_UNKNOWN, u32::from(deny_unknown)),
        (object::RODATA_DRY_RUN, u32::from(params.flag("dry_run"))),
        (object::RODATA_ON_DENY, u32::from(event_used("deny"))),
        (object::RODATA_ON_ALLOW, u32::from(event_used("allow"))),
        (object::RODATA_ON_UNKNOWN, u32::from(event_used("unknown"))),
        (object::RODATA_NEEDS_HEARTBEAT, u32::from(beats)),
    ] {
        elf.set_rodata(symbol, value)?;
    }
    let mut notices = Vec::new();
    let audit = Audit::of(params, AUDIT_DEFAULT, &mut notices);
    let enforcer = Enforcer::new(
        Plan {
            alias: params.0.alias.clone(),
            span: path.1,
            path: path.0,
            pods: PathBuf::from(params.text("pods").unwrap_or(PODS_DEFAULT)),
            netns: netns.map(str::to_owned),
            mask,
            max,
            duration: params.duration("duration"),
            deny_unknown,
            audit,
            notices,
            beats,
        },
        pin,
    )?;
    Ok(Setup {
        elf,
        sizes: vec![(object::RULES, max.saturating_mul(2))],
        fill: enforcer.fill(),
        skip: Vec::new(),
        keep: KEPT,
        lists: None,
        engine: Some(Box::new(enforcer)),
    })
}

/// What an enforcer is made from.
#[derive(Debug)]
pub(super) struct Plan {
    pub alias: String,
    /// Of `policy`.
    pub span: Span,
    pub path: PathBuf,
    pub pods: PathBuf,
    pub netns: Option<String>,
    pub mask: u32,
    /// Rows in each half of `RULES`.
    pub max: u32,
    /// Nanoseconds from now.
    pub duration: Option<u64>,
    pub deny_unknown: bool,
    pub audit: Audit,
    pub notices: Vec<Notice>,
    /// Programs pass everything unless they see that we are there.
    pub beats: bool,
}

/// An instance while it runs.
#[derive(Debug)]
pub(super) struct Enforcer {
    plan: Plan,
    policy: Policy,
    everybody: Everybody,
    watch: Watch,
    rows: Vec<Row>,
    generation: u32,
    /// Rules keep their counters by their names.
    slots: BTreeMap<String, u32>,
    ends: Option<u64>,
    over: bool,
    /// What was in force before a change that has failed half way: the kernel has some of both.
    torn: Option<Policy>,
    /// What has been complained about already.
    told: Vec<String>,
    /// How full `.denied` is.
    denied: Pressure,
    heart: Option<Heart>,
    /// What was in force when it was made.
    before: Before<Policy>,
    pin: Option<Arc<Pin>>,
}

/// Sets one element.
type Fill = (&'static str, Vec<u8>, Vec<u8>);

fn now() -> u64 {
    proc::clock_ns(libc::CLOCK_BOOTTIME)
}

/// Reads and checks a policy.
fn read(plan: &Plan) -> Result<Policy, Error> {
    let text = std::fs::read_to_string(&plan.path).map_err(|source| Error::ReadFile {
        path: plan.path.clone(),
        source,
        span: plan.span,
    })?;
    if text.trim().is_empty() {
        return Err(Error::Param {
            message: format!("{} is empty", plan.path.display()),
            help: Some("a policy that lets everything pass says `default = \"allow\"`".to_owned()),
            span: plan.span,
        });
    }
    let is_json = plan.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    policy::parse(&text, is_json, plan.mask >> plan.mask.trailing_zeros()).map_err(|PolicyError { line, message }| Error::PrefixFile {
        path: plan.path.clone(),
        line,
        message,
        span: plan.span,
    })
}

impl Enforcer {
    /// Reads the policy and looks who there is.
    ///
    /// # Errors
    /// A policy that makes no sense or is too long; no cgroup v2.
    pub fn new(plan: Plan, pin: Option<&Arc<Pin>>) -> Result<Self, Error> {
        let policy = read(&plan)?;
        let mut watch = Watch::new();
        let everybody = look(&plan, &policy, &mut watch)?;
        let mut enforcer = Self {
            ends: plan.duration.map(|d| now().saturating_add(d)),
            plan,
            rows: Vec::new(),
            generation: 0,
            slots: BTreeMap::new(),
            over: false,
            torn: None,
            told: Vec::new(),
            denied: Pressure::new(),
            heart: None,
            before: Before::of(pin.map(Arc::as_ref), Pin::rules),
            pin: pin.cloned(),
            policy,
            everybody,
            watch,
        };
        let before = pin.map(|pin| slots_of(pin)).unwrap_or_default();
        let (slots, fresh) = slots(&enforcer.policy, &before);
        enforcer.slots = slots;
        if let Some(verdicts) = pin.and_then(|pin| pin.map(object::VERDICTS)) {
            zero_counters(verdicts, &fresh)?;
        }
        enforcer.rows = enforcer.rows_of(&enforcer.policy, &enforcer.everybody, &enforcer.slots)?;
        enforcer.tell_who();
        Ok(enforcer)
    }

    /// How a number lies in a mark.
    fn mark(&self, number: u32) -> u32 {
        number << self.plan.mask.trailing_zeros()
    }

    /// What the maps are filled with before anything is attached.
    pub fn fill(&self) -> Vec<Fill> {
        let mut fill = Vec::new();
        for (id, who) in &self.everybody.cgroups {
            fill.push((object::CGROUPS, word64(*id), word(self.mark_of(*who))));
        }
        for (ifindex, who) in &self.everybody.ifaces {
            fill.push((object::IFACES, word(*ifindex), word(self.mark_of(*who))));
        }
        fill.extend(self.names());
        for (i, row) in self.rows.iter().enumerate() {
            fill.push((object::RULES, word(i as u32), row_bytes(row)));
        }
        let state = State {
            generation: 0,
            rules: [self.rows.len() as u32, 0],
            default: [default(&self.policy), 0],
        };
        fill.push((object::POLICY, word(0), state.bytes()));
        fill
    }

    fn mark_of(&self, who: usize) -> u32 {
        self.mark(self.policy.identities[who].number)
    }

    /// The names that event blocks read.
    fn names(&self) -> Vec<Fill> {
        let identities = self.policy.identities.iter().map(|identity| {
            let key = word(self.mark(identity.number));
            (object::NAMES, key, text(&identity.name, NAME_WORDS))
        });
        let rules = self
            .slots
            .iter()
            .map(|(name, slot)| (object::RULE_NAMES, word(*slot), text(name, RULE_WORDS)));
        identities.chain(rules).collect()
    }

    fn rows_of(&self, policy: &Policy, everybody: &Everybody, slots: &BTreeMap<String, u32>) -> Result<Vec<Row>, Error> {
        let addresses = |who: usize| everybody.addresses.get(who).into_iter().flatten().copied().collect();
        let mut rows = policy.rows(&addresses, &|number| self.mark(number));
        for row in &mut rows {
            row.rule = slots.get(&policy.rules[row.rule as usize].name).copied().unwrap_or(object::NO_RULE);
        }
        if rows.len() > self.plan.max as usize {
            return Err(Error::Param {
                message: format!(
                    "the policy takes {} rows (each sender, prefix and range of ports is one), but `max` is {}",
                    rows.len(),
                    self.plan.max
                ),
                help: Some(format!("add `max={}`", rows.len().next_power_of_two())),
                span: self.plan.span,
            });
        }
        Ok(rows)
    }

    fn say(&mut self, warning: bool, message: String) {
        self.plan.notices.push(Notice::Native {
            alias: self.plan.alias.clone(),
            message,
            warning,
            span: warning.then_some(self.plan.span),
        });
    }

    /// Says once what is odd about who there is.
    fn tell_who(&mut self) {
        let name = |i: usize| self.policy.identities[i].name.clone();
        let nobody: Vec<String> = self.everybody.nobody.iter().map(|i| format!("`{}`", name(*i))).collect();
        let mut messages: Vec<String> = self
            .everybody
            .disputed
            .iter()
            .map(|(path, first, second)| {
                format!(
                    "the cgroup {path} is claimed by `{}` and `{}`; the first has it",
                    name(*first),
                    name(*second)
                )
            })
            .collect();
        if !nobody.is_empty() {
            let verdict = if self.plan.deny_unknown {
                "packets of others are dropped (`unknown=\"deny\"`)"
            } else {
                "packets of others pass (`unknown=\"allow\"`)"
            };
            let is_pod = |i: &usize| matches!(self.policy.identities[*i].members, policy::Members::Pod(_));
            let pods = &self.plan.pods;
            let why = if self.everybody.nobody.iter().any(is_pod) && !pods.is_dir() {
                format!(
                    "no cgroup matches, and `{}`, by which pods are known, is no directory",
                    pods.display()
                )
            } else {
                "no cgroup matches".to_owned()
            };
            messages.push(format!("nobody is {} now: {why}; {verdict}", nobody.join(", ")));
        }
        for message in messages {
            if !self.told.contains(&message) {
                self.told.push(message.clone());
                self.say(true, message);
            }
        }
    }

    /// Brings the kernel to another policy, other people, or both.
    fn put(&mut self, policy: Policy, everybody: Everybody, maps: &Maps) -> Result<(), Error> {
        let (slots, fresh) = slots(&policy, &self.slots);
        if slots.len() > RULES_MAX {
            return Err(Error::Param {
                message: format!("more than {RULES_MAX} rules"),
                help: None,
                span: self.plan.span,
            });
        }
        let rows = self.rows_of(&policy, &everybody, &slots)?;
        let verdicts = map(maps, object::VERDICTS)?;
        for slot in fresh {
            let zero = vec![0; verdicts.lookup_size()];
            bpf::map_update(verdicts.fd.as_fd(), &word(slot), &zero, 0, &verdicts.symbol)?;
        }
        // Numbers may have changed hands, so who is who is as much a part of the policy as its rules.
        let rules_changed = self.torn.is_some() || rows != self.rows || default(&policy) != default(&self.policy);
        let numbers = |policy: &Policy, everybody: &Everybody| -> (BTreeMap<u64, u32>, BTreeMap<u32, u32>) {
            let mark = |who: &usize| self.mark(policy.identities[*who].number);
            (
                everybody.cgroups.iter().map(|(id, who)| (*id, mark(who))).collect(),
                everybody.ifaces.iter().map(|(ifindex, who)| (*ifindex, mark(who))).collect(),
            )
        };
        let (cgroups, ifaces) = (map(maps, object::CGROUPS)?, map(maps, object::IFACES)?);
        let old = match &self.torn {
            None => numbers(&self.policy, &self.everybody),
            Some(_) => (
                held(cgroups, |key| Some(u64::from_ne_bytes(key.try_into().ok()?)))?,
                held(ifaces, |key| Some(u32::from_ne_bytes(key.try_into().ok()?)))?,
            ),
        };
        let new = numbers(&policy, &everybody);
        let is_another = self.torn.is_some() || policy != self.policy;
        if is_another {
            self.forget_written();
        }
        self.torn.get_or_insert_with(|| self.policy.clone());
        (self.policy, self.everybody, self.slots, self.rows) = (policy, everybody, slots, rows);
        for (symbol, key, value) in self.names() {
            let map = map(maps, symbol)?;
            bpf::map_update(map.fd.as_fd(), &key, &value, 0, symbol)?;
        }
        sync(cgroups, &old.0, &new.0, |id| word64(*id))?;
        sync(ifaces, &old.1, &new.1, |ifindex| word(*ifindex))?;
        if old.0 != new.0 {
            // What was found out about ancestors may be wrong now.
            map(maps, object::KNOWN)?.clear()?;
        }
        if rules_changed {
            self.swap(maps)?;
        }
        if is_another {
            self.write_down();
        }
        self.torn = None;
        Ok(())
    }

    /// Puts `self.rows` in force.
    fn swap(&mut self, maps: &Maps) -> Result<(), Error> {
        let (rules, policy) = (map(maps, object::RULES)?, map(maps, object::POLICY)?);
        let next = self.generation.wrapping_add(1);
        let half = (next & 1) as usize;
        let base = if half == 0 { 0 } else { self.plan.max };
        let keys: Vec<u8> = (0..self.rows.len() as u32).flat_map(|i| (base + i).to_ne_bytes()).collect();
        let values: Vec<u8> = self.rows.iter().flat_map(row_bytes).collect();
        bpf::map_update_many(rules.fd.as_fd(), &keys, &values, 4, rules.value_size as usize, &rules.symbol)?;
        let raw = policy.lookup(&word(0))?.unwrap_or_default();
        let mut state = State::read(&raw);
        state.rules[half] = self.rows.len() as u32;
        state.default[half] = default(&self.policy);
        let write = |state: &State| bpf::map_update(policy.fd.as_fd(), &word(0), &state.bytes(), 0, &policy.symbol);
        write(&state)?;
        state.generation = next;
        write(&state)?;
        self.generation = next;
        // The half that was in force may be written when no program reads it any more.
        grace_period();
        Ok(())
    }

    /// Looks who there is now; ends enforcement when its time is over.
    fn catch_up(&mut self, maps: &Maps) {
        if self.ends.is_some_and(|ends| ends <= now()) {
            let nothing = Policy {
                identities: self.policy.identities.clone(),
                rules: Vec::new(),
                allow: true,
            };
            let rules = self.torn.as_ref().unwrap_or(&self.policy).rules.len();
            match self.put(nothing, self.everybody.clone(), maps) {
                Ok(()) => {
                    self.over = true;
                    self.say(true, "its `duration` is over: everything passes from now on".to_owned());
                    self.record(END, Changes::removed(rules));
                }
                Err(error) => self.say(true, format!("its `duration` is over, but the policy cannot be removed: {error}")),
            }
            return;
        }
        self.try_again(maps);
        let began = Instant::now();
        if !self.watch.is_due(began, who::cables(self.plan.netns.as_deref())) {
            return;
        }
        let looked = look(&self.plan, &self.policy, &mut self.watch);
        self.watch.looked(began, began.elapsed());
        let result = looked.and_then(|everybody| {
            if everybody == self.everybody {
                return Ok(());
            }
            self.put(self.policy.clone(), everybody, maps)
        });
        if let Err(error) = result {
            let message = format!("cannot follow who is who: {error}");
            if !self.told.contains(&message) {
                self.told.push(message.clone());
                self.say(true, message);
            }
        }
        self.tell_who();
    }

    /// Says once that `.denied` is nearly full.
    fn check_denied(&mut self, maps: &Maps) -> Result<(), Error> {
        let (stats, denied) = (map(maps, object::STATS_MAP)?, map(maps, object::DENIED)?);
        let numbers = [object::STAT_DENIED, object::STAT_UNKNOWN, object::STAT_UNDECIDED].map(|i| super::stat(stats, i));
        let packets = numbers.into_iter().sum::<Result<u64, Error>>()?;
        if let Some((entries, max)) = self.denied.check(packets, &[denied])? {
            self.say(
                true,
                format!(
                    "`.denied` has {entries} entries of at most {max}: those that were not seen for longest make room; `.stats` and rules \
                     count on, and `clear` makes room"
                ),
            );
        }
        Ok(())
    }

    /// Rules with the elements of `VERDICTS` that count for them, in the order of the file.
    fn rules(&self) -> Vec<(String, u32)> {
        let mut rules: Vec<(String, u32)> = Vec::new();
        for rule in &self.policy.rules {
            if let Some(slot) = self.slots.get(&rule.name)
                && !rules.iter().any(|(_, s)| s == slot)
            {
                rules.push((rule.name.clone(), *slot));
            }
        }
        rules
    }

    /// A key of `DENIED` in words.
    fn describe(&self, key: &[u8]) -> String {
        let part = |from: usize, to: usize| key.get(from..to).map_or(0, uint);
        let mut addr = [0; 16];
        addr.copy_from_slice(key.get(8..24).unwrap_or(&[0; 16]));
        let (identity, port, proto) = (part(0, 4) as u32, part(4, 6), part(6, 7) as u8);
        let to = if part(7, 8) == 4 {
            Ipv4Addr::new(addr[0], addr[1], addr[2], addr[3]).to_string()
        } else {
            Ipv6Addr::from(addr).to_string()
        };
        let proto = policy::proto_name(proto).map_or_else(|| format!("protocol {proto}"), str::to_owned);
        let port = if port == 0 { String::new() } else { format!("/{port}") };
        format!("{} -> {to} {proto}{port}", self.name_of(identity))
    }

    /// What to call the sender that a mark stands for.
    fn name_of(&self, mark: u32) -> String {
        match self.policy.identities.iter().find(|i| self.mark(i.number) == mark) {
            Some(identity) => identity.name.clone(),
            None if mark == 0 => "unknown".to_owned(),
            None => format!("identity {}", mark >> self.plan.mask.trailing_zeros()),
        }
    }
}

impl Engine for Enforcer {
    fn move_in(&mut self, maps: &Maps) -> Result<(), Error> {
        if self.plan.beats {
            self.heart = Some(Heart::start(map(maps, object::HEARTBEAT)?)?);
        }
        Ok(())
    }

    fn started(&mut self, _: &Maps, _: Vec<KernelIterator>) -> Result<(), Error> {
        self.record_start();
        self.write_down();
        Ok(())
    }

    fn reload(&mut self, path: &Path, maps: &Maps, touched: &mut dyn FnMut() -> bool) {
        if !self.over && self.plan.path == path {
            self.read_again(maps, touched);
        }
    }

    fn tick(&mut self, maps: &Maps) {
        // Whoever looks at the map hears why it cannot be read.
        let _ = self.check_denied(maps);
        if !self.over {
            self.catch_up(maps);
        }
    }

    fn record_end(&mut self) {
        if !self.over {
            self.record(END, Changes::removed(self.policy.rules.len()));
        }
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.plan.notices)
    }

    fn rows(&mut self, table: &str, _: usize, maps: &Maps) -> Result<Rows, Error> {
        let mut rows: Vec<(String, u64, u64)> = Vec::new();
        if table == "verdicts" {
            let verdicts = map(maps, object::VERDICTS)?;
            for (name, slot) in self.rules() {
                let raw = verdicts.lookup(&word(slot))?.unwrap_or_default();
                let (packets, bytes) = sums(&raw);
                rows.push((name, packets, bytes));
            }
        } else {
            for (key, value) in map(maps, object::DENIED)?.elements()?.iter() {
                let (packets, bytes) = sums(value);
                rows.push((self.describe(key), packets, bytes));
            }
        }
        // The most packets last.
        rows.sort_by(|a, b| (a.1, &b.0).cmp(&(b.1, &a.0)));
        let rows = rows
            .into_iter()
            .map(|(name, packets, bytes)| (text_bytes(&name), vec![Value::Count(packets), Value::Count(bytes)]));
        Ok(rows.collect())
    }

    /// Of `.entries`, the only one.
    fn numbers(&mut self, _: &str, _: &Maps) -> Result<Vec<u64>, Error> {
        Ok(vec![
            self.policy.identities.len() as u64,
            self.everybody.cgroups.len() as u64,
            self.everybody.ifaces.len() as u64,
            self.policy.rules.len() as u64,
            self.rows.len() as u64,
            u64::from(self.plan.max),
        ])
    }

    fn clear(&mut self, table: &str, maps: &Maps) -> Result<(), Error> {
        let symbol = if table == "verdicts" { object::VERDICTS } else { object::DENIED };
        Ok(map(maps, symbol)?.clear()?)
    }

    fn delete(&mut self, table: &str, key: &[u8], maps: &Maps) -> Result<(), Error> {
        if table == "verdicts" {
            let verdicts = map(maps, object::VERDICTS)?;
            let zero = vec![0; verdicts.lookup_size()];
            for (_, slot) in self.rules().into_iter().filter(|(name, _)| text_bytes(name) == key) {
                bpf::map_update(verdicts.fd.as_fd(), &word(slot), &zero, 0, &verdicts.symbol)?;
            }
            return Ok(());
        }
        let denied = map(maps, object::DENIED)?;
        for (raw, _) in denied.elements()?.iter() {
            if text_bytes(&self.describe(raw)) == key {
                bpf::map_delete(denied.fd.as_fd(), raw, &denied.symbol)?;
            }
        }
        Ok(())
    }
}

/// Packets and bytes of all CPUs.
fn sums(raw: &[u8]) -> (u64, u64) {
    let sums = super::sum_words(raw, 2);
    (uint(&sums[..8]), uint(&sums[8..]))
}

fn look(plan: &Plan, policy: &Policy, watch: &mut Watch) -> Result<Everybody, Error> {
    who::look(&policy.identities, &plan.pods, plan.netns.as_deref(), watch).map_err(|message| Error::Param {
        message,
        help: None,
        span: plan.span,
    })
}

/// What a named instance keeps: counters, and who has been let through and may be answered.
const KEPT: &[&str] = &[object::VERDICTS, object::DENIED, object::STATS_MAP, object::FLOWS];

/// The counters of rules by their names, as the last owner of a named instance has left them.
fn slots_of(pin: &Pin) -> BTreeMap<String, u32> {
    let Some(names) = pin.map(object::RULE_NAMES) else {
        return BTreeMap::new();
    };
    let mut slots = BTreeMap::new();
    let mut name = vec![0; RULE_WORDS * 8];
    for slot in 0..RULES_MAX as u32 {
        if !bpf::map_lookup(names.as_fd(), &word(slot), &mut name, object::RULE_NAMES).is_ok_and(|found| found) {
            break;
        }
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        // Those that were cut may be several rules.
        if end > 0 && end < name.len() - 1 {
            slots.insert(String::from_utf8_lossy(&name[..end]).into_owned(), slot);
        }
    }
    slots
}

fn zero_counters(verdicts: OwnedFd, slots: &[u32]) -> Result<(), Error> {
    let value_size = bpf::map_info(verdicts.as_fd())?.value_size;
    let verdicts = Map {
        fd: verdicts,
        kind: MapKind::PerCpuArray,
        symbol: object::VERDICTS.to_owned(),
        key_size: 4,
        value_size,
        max_entries: RULES_MAX as u32,
        has_set_word: false,
    };
    let zero = vec![0; verdicts.lookup_size()];
    for slot in slots {
        bpf::map_update(verdicts.fd.as_fd(), &word(*slot), &zero, 0, &verdicts.symbol)?;
    }
    Ok(())
}

/// Counters for rules by their names, and those of them that are new. Names that stay keep theirs.
fn slots(policy: &Policy, old: &BTreeMap<String, u32>) -> (BTreeMap<String, u32>, Vec<u32>) {
    let mut slots: BTreeMap<String, u32> = BTreeMap::new();
    for rule in &policy.rules {
        if let Some(slot) = old.get(&rule.name) {
            slots.insert(rule.name.clone(), *slot);
        }
    }
    let mut fresh = Vec::new();
    // A slot that goes is not given away at once: programs that run may still count there.
    let mut free = (0..).filter(|n| !old.values().any(|taken| taken == n));
    for rule in &policy.rules {
        if !slots.contains_key(&rule.name)
            && let Some(slot) = free.next()
        {
            slots.insert(rule.name.clone(), slot);
            fresh.push(slot);
        }
    }
    (slots, fresh)
}

fn default(policy: &Policy) -> u32 {
    if policy.allow { object::ALLOW } else { object::DENY }
}

/// [`object::Policy`] as bytes.
#[derive(Debug, PartialEq, Eq)]
struct State {
    generation: u32,
    rules: [u32; 2],
    default: [u32; 2],
}

impl State {
    fn bytes(&self) -> Vec<u8> {
        let words = [self.generation, 0, self.rules[0], self.rules[1], self.default[0], self.default[1]];
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    fn read(bytes: &[u8]) -> Self {
        let word = |i: usize| {
            bytes
                .get(4 * i..4 * i + 4)
                .map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
        };
        Self {
            generation: word(0),
            rules: [word(2), word(3)],
            default: [word(4), word(5)],
        }
    }
}

/// A row as bytes, field by field.
fn row_bytes(row: &Row) -> Vec<u8> {
    let mut out = Vec::with_capacity(size_of::<Row>());
    for word in [row.from, row.rule, row.verdict] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    for port in [row.port_low, row.port_high] {
        out.extend_from_slice(&port.to_ne_bytes());
    }
    out.extend_from_slice(&[row.family, row.proto, row.with_port, 0, 0, 0, 0, 0]);
    for word in [row.addr[0], row.addr[1], row.mask[0], row.mask[1]] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out
}

fn map<'m>(maps: &'m Maps, symbol: &str) -> Result<&'m Map, Error> {
    maps.get(symbol).ok_or_else(|| Error::Object(format!("no map `{symbol}`")))
}

/// Brings a hash map from one content to another: new entries come before old ones go.
fn sync<K: Ord>(map: &Map, old: &BTreeMap<K, u32>, new: &BTreeMap<K, u32>, bytes: impl Fn(&K) -> Vec<u8>) -> SysResult<()> {
    for (key, value) in new {
        if old.get(key) != Some(value) {
            bpf::map_update(map.fd.as_fd(), &bytes(key), &word(*value), 0, &map.symbol)?;
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        bpf::map_delete(map.fd.as_fd(), &bytes(key), &map.symbol)?;
    }
    Ok(())
}

/// What a hash map has, its keys read by `key`.
fn held<K: Ord>(map: &Map, key: impl Fn(&[u8]) -> Option<K>) -> SysResult<BTreeMap<K, u32>> {
    let elements = map.elements()?;
    let element = |(bytes, value): (&[u8], &[u8])| Some((key(bytes)?, u32::from_ne_bytes(value.try_into().ok()?)));
    Ok(elements.iter().filter_map(element).collect())
}

fn word(n: u32) -> Vec<u8> {
    n.to_ne_bytes().to_vec()
}

fn word64(n: u64) -> Vec<u8> {
    n.to_ne_bytes().to_vec()
}

/// A text with zeros behind it, cut at a character's start to leave at least one.
fn text(text: &str, words: usize) -> Vec<u8> {
    let mut end = text.len().min(words * 8 - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = text.as_bytes()[..end].to_vec();
    bytes.resize(words * 8, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn rows_lie_as_the_program_reads_them() {
        let row = Row {
            from: 1,
            rule: 2,
            verdict: 3,
            port_low: 4,
            port_high: 5,
            family: 6,
            proto: 7,
            with_port: 8,
            zero: [0; 5],
            addr: [9, 10],
            mask: [11, 12],
        };
        let bytes = row_bytes(&row);
        assert_eq!(bytes.len(), size_of::<Row>());
        for (offset, value) in [
            (offset_of!(Row, from), 1),
            (offset_of!(Row, rule), 2),
            (offset_of!(Row, verdict), 3),
            (offset_of!(Row, port_low), 4),
            (offset_of!(Row, port_high), 5),
            (offset_of!(Row, family), 6),
            (offset_of!(Row, proto), 7),
            (offset_of!(Row, with_port), 8),
            (offset_of!(Row, addr), 9),
            (offset_of!(Row, addr) + 8, 10),
            (offset_of!(Row, mask), 11),
            (offset_of!(Row, mask) + 8, 12),
        ] {
            assert_eq!(bytes[offset], value, "offset {offset}");
        }
    }

    #[test]
    fn the_state_is_read_as_it_was_written() {
        let state = State {
            generation: 7,
            rules: [1, 2],
            default: [0, 1],
        };
        let bytes = state.bytes();
        assert_eq!(bytes.len(), size_of::<object::Policy>());
        assert_eq!(offset_of!(object::Policy, rules), 8);
        assert_eq!(offset_of!(object::Policy, default), 16);
        assert_eq!(State::read(&bytes), state);
    }

    #[test]
    fn rules_keep_their_counters_by_name() {
        let policy = |names: &[&str]| Policy {
            identities: Vec::new(),
            rules: names
                .iter()
                .map(|name| policy::Rule {
                    name: (*name).to_owned(),
                    from: Vec::new(),
                    to: Vec::new(),
                    ports: Vec::new(),
                    proto: 0,
                    allow: true,
                })
                .collect(),
            allow: true,
        };
        let (first, fresh) = slots(&policy(&["a", "b", "a"]), &BTreeMap::new());
        assert_eq!(fresh, [0, 1]);
        let (second, fresh) = slots(&policy(&["c", "b"]), &first);
        assert_eq!((second["b"], second["c"]), (1, 2), "the slot of `a` rests for one round");
        assert_eq!(fresh, [2]);
        let (third, fresh) = slots(&policy(&["d"]), &second);
        assert_eq!((third["d"], fresh), (0, vec![0]));
    }

    #[test]
    fn names_are_cut_at_a_character() {
        assert_eq!(text("ab", 1), b"ab\0\0\0\0\0\0");
        assert_eq!(text("abcdefgh", 1), b"abcdefg\0");
        assert_eq!(text("abcdefü", 1), b"abcdef\0\0");
    }
}
