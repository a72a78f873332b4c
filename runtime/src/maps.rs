//! Maps of a script in user space: reading them into [`Snapshot`]s, clearing, zeroing.

use crate::format::{sint, uint, value};
use crate::sys::bpf::{self, Elements};
use crate::sys::proc::possible_cpus;
use crate::sys::{Result, SysError};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use weir_compiler::object::MapKind;
use weir_compiler::types::{MapValue, Series, Type};

/// A map of the kernel, open, with what is needed to read it.
#[derive(Debug)]
pub struct Map {
    pub fd: OwnedFd,
    pub kind: MapKind,
    /// The symbol in the object.
    pub symbol: String,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    /// A plain scalar: its last word says that it was assigned.
    pub has_set_word: bool,
}

/// The value of one element, per-CPU parts combined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Plain(Vec<u8>),
    /// count, sum, min, max
    Int(i128),
    Stats {
        sum: i128,
        count: u64,
    },
    Hist(Vec<u64>),
    /// The intervals of a series that have a value, oldest first.
    Series(Vec<Point>),
}

/// One interval of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its number since 1970.
    pub epoch: u64,
    pub value: i128,
}

impl Cell {
    /// Returns the average of a `Stats`, rounded towards zero.
    #[must_use]
    pub fn average(sum: i128, count: u64) -> i128 {
        if count == 0 { 0 } else { sum / i128::from(count) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub key: Vec<u8>,
    pub value: Cell,
}

/// The content of a map at one moment, sorted as it is printed.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// With the `@`.
    pub name: String,
    /// `None` for a scalar.
    pub key: Option<Type>,
    pub value: MapValue,
    pub rows: Vec<Row>,
}

impl Map {
    /// Opens the same map once more.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn duplicate(&self) -> Result<Self> {
        Ok(Self {
            fd: dup(self.borrow(), &self.symbol)?,
            symbol: self.symbol.clone(),
            ..*self
        })
    }

    /// Returns how many bytes a lookup of one element gives.
    #[must_use]
    pub fn lookup_size(&self) -> usize {
        if self.kind.is_per_cpu() {
            self.value_size.next_multiple_of(8) as usize * possible_cpus() as usize
        } else {
            self.value_size as usize
        }
    }

    fn borrow(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads one element; `None` when it is not there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.lookup_size()];
        Ok(bpf::map_lookup(self.borrow(), key, &mut value, &self.symbol)?.then_some(value))
    }

    /// Reads everything.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn elements(&self) -> Result<Elements> {
        bpf::map_elements(
            self.borrow(),
            self.key_size as usize,
            self.lookup_size(),
            self.max_entries,
            &self.symbol,
        )
    }
}

impl Map {
    /// Counts the elements.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn len(&self) -> Result<usize> {
        Ok(self.keys()?.len())
    }

    /// Whether there is no element.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

impl Contents for Map {
    fn shape(&self) -> Shape {
        Shape {
            kind: self.kind,
            value_size: self.value_size,
            max_entries: self.max_entries,
            has_set_word: self.has_set_word,
        }
    }

    fn element_size(&self) -> usize {
        self.lookup_size()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.lookup(key)
    }

    fn all(&self) -> Result<Elements> {
        self.elements()
    }

    fn put(&self, key: &[u8], value: &[u8], flags: u64) -> Result<()> {
        bpf::map_update(self.borrow(), key, value, flags, &self.symbol)
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        bpf::map_delete(self.borrow(), key, &self.symbol).map(|_| ())
    }
}

/// What reading a map has to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub kind: MapKind,
    pub value_size: u32,
    pub max_entries: u32,
    /// As in [`Map`].
    pub has_set_word: bool,
}

impl Shape {
    fn is_array(self) -> bool {
        matches!(self.kind, MapKind::Array | MapKind::PerCpuArray)
    }

    /// Returns the size of one CPU's part of an element.
    fn part_size(self) -> usize {
        if self.kind.is_per_cpu() {
            self.value_size.next_multiple_of(8) as usize
        } else {
            self.value_size as usize
        }
    }

    /// A key as it is printed: the kernel counts the bits of the address family into the length of a prefix.
    fn shown_key(self, key: &[u8]) -> Vec<u8> {
        let mut key = key.to_vec();
        if self.kind == MapKind::LpmTrie
            && let Some(len) = key.first_chunk_mut::<4>()
        {
            *len = u32::from_ne_bytes(*len).saturating_sub(32).to_ne_bytes();
        }
        key
    }

    /// Combines the parts of the CPUs into one value. `None` for a plain scalar that was never assigned.
    fn combine(self, kind: &MapValue, raw: &[u8], scalar: bool) -> Option<Cell> {
        let parts = raw.chunks_exact(self.part_size().max(1));
        match kind {
            MapValue::Plain(ty) if scalar => {
                let flag = ty.size().next_multiple_of(8) as usize;
                (uint(raw.get(flag..flag + 8)?) != 0).then(|| Cell::Plain(raw[..ty.size() as usize].to_vec()))
            }
            MapValue::Plain(ty) => Some(Cell::Plain(raw.get(..ty.size() as usize)?.to_vec())),
            _ => Some(combine_parts(kind, parts)),
        }
    }
}

/// The elements of a map, wherever they are: in the kernel, or in our own memory in a replay.
#[expect(clippy::missing_errors_doc, reason = "every error is what the kernel says")]
pub trait Contents: std::fmt::Debug + Send + Sync {
    fn shape(&self) -> Shape;
    /// Returns how many bytes one element gives, all CPUs together.
    fn element_size(&self) -> usize;
    /// Reads one element; `None` when it is not there.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    fn all(&self) -> Result<Elements>;
    /// Writes one element; flags as in `BPF_MAP_UPDATE_ELEM`.
    fn put(&self, key: &[u8], value: &[u8], flags: u64) -> Result<()>;
    /// Removes one element, if it is there.
    fn remove(&self, key: &[u8]) -> Result<()>;

    /// Sets every value to zero, keys stay.
    fn zero(&self) -> Result<()> {
        let zeros = vec![0; self.element_size()];
        if self.shape().is_array() {
            return self.reset(true);
        }
        for key in self.keys()? {
            // BPF_EXIST: a key that has gone meanwhile must not come back.
            match self.put(&key, &zeros, 2) {
                Err(e) if e.errno() != libc::ENOENT => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes everything.
    fn clear(&self) -> Result<()> {
        if self.shape().is_array() {
            return self.reset(false);
        }
        for key in self.keys()? {
            self.remove(&key)?;
        }
        Ok(())
    }

    /// Zeroes an array. `still_assigned` keeps the word that says so.
    fn reset(&self, still_assigned: bool) -> Result<()> {
        for i in 0..self.shape().max_entries {
            let mut value = vec![0; self.element_size()];
            if still_assigned
                && self.shape().has_set_word
                && let Some(old) = self.get(&i.to_ne_bytes())?
                && let Some(at) = value.len().checked_sub(8)
            {
                value[at..].copy_from_slice(&old[at..]);
            }
            self.put(&i.to_ne_bytes(), &value, 0)?;
        }
        Ok(())
    }

    fn keys(&self) -> Result<Vec<Vec<u8>>> {
        let elements = self.all()?;
        Ok(elements.iter().map(|(key, _)| key.to_vec()).collect())
    }

    /// Reads a map of the script. A scalar that was never assigned has no row; an aggregation that never ran counts
    /// as never assigned when `skip_untouched`.
    fn snapshot(&self, name: &str, key: Option<&Type>, value: &MapValue, skip_untouched: bool) -> Result<Snapshot> {
        let mut snapshot = Snapshot {
            name: name.to_owned(),
            key: key.cloned(),
            value: value.clone(),
            rows: Vec::new(),
        };
        match key {
            None => {
                let raw = self.get(&0u32.to_ne_bytes())?.unwrap_or_default();
                let cell = self.shape().combine(value, &raw, true);
                snapshot.rows.extend(
                    cell.filter(|c| !(skip_untouched && is_untouched(value, c)))
                        .map(|value| Row { key: Vec::new(), value }),
                );
            }
            Some(_) => {
                for (key, raw) in self.all()?.iter() {
                    snapshot.rows.extend(self.shape().combine(value, raw, false).map(|value| Row {
                        key: self.shape().shown_key(key),
                        value,
                    }));
                }
            }
        }
        snapshot.sort();
        Ok(snapshot)
    }

    /// Reads one element of a keyed map as a snapshot of one row.
    fn snapshot_key(&self, name: &str, key: &Type, bytes: &[u8], value: &MapValue) -> Result<Snapshot> {
        let raw = self.get(bytes)?;
        let cell = raw.and_then(|raw| self.shape().combine(value, &raw, false));
        let rows = cell
            .map(|value| Row {
                key: self.shape().shown_key(bytes),
                value,
            })
            .into_iter()
            .collect();
        Ok(Snapshot {
            name: name.to_owned(),
            key: Some(key.clone()),
            value: value.clone(),
            rows,
        })
    }
}

/// Combines one value for each CPU.
#[must_use]
pub fn combine_parts<'a>(kind: &MapValue, parts: impl Iterator<Item = &'a [u8]>) -> Cell {
    let word = |part: &[u8], i: usize| part.get(i * 8..i * 8 + 8).map_or(0, uint);
    let number = |part: &[u8], signed: bool| {
        let bytes = part.get(..8).unwrap_or(&[]);
        if signed { i128::from(sint(bytes)) } else { i128::from(uint(bytes)) }
    };
    match kind {
        MapValue::Plain(_) => Cell::Plain(parts.flatten().copied().collect()),
        MapValue::Count => Cell::Int(parts.map(|p| i128::from(word(p, 0))).sum()),
        MapValue::Sum { signed } => Cell::Int(wrap(parts.map(|p| number(p, *signed)).sum(), *signed)),
        MapValue::Min { signed } => Cell::Int(parts.filter(|p| word(p, 1) != 0).map(|p| number(p, *signed)).min().unwrap_or(0)),
        MapValue::Max { signed } => Cell::Int(parts.filter(|p| word(p, 1) != 0).map(|p| number(p, *signed)).max().unwrap_or(0)),
        MapValue::Avg { signed } | MapValue::Stats { signed } => {
            let (mut sum, mut count) = (0, 0u64);
            for part in parts {
                sum += number(part, *signed);
                count += word(part, 1);
            }
            Cell::Stats {
                sum: wrap(sum, *signed),
                count,
            }
        }
        MapValue::TSeries { count, series, signed, .. } => Cell::Series(combine_series(parts, *count, *series, *signed)),
        MapValue::Hist { .. } | MapValue::LHist { .. } => {
            let mut counts: Vec<u64> = Vec::new();
            for part in parts {
                counts.resize(counts.len().max(part.len() / 8), 0);
                for (i, count) in counts.iter_mut().enumerate() {
                    *count = count.saturating_add(word(part, i));
                }
            }
            Cell::Hist(counts)
        }
    }
}

/// Combines the intervals of all CPUs; those that are older than the newest by `count` have gone.
fn combine_series<'a>(parts: impl Iterator<Item = &'a [u8]>, count: u32, series: Series, signed: bool) -> Vec<Point> {
    let mut intervals: BTreeMap<u64, (i128, u64)> = BTreeMap::new();
    for bucket in parts.flat_map(|part| part.chunks_exact(24)) {
        let (epoch, updates) = (uint(&bucket[..8]), uint(&bucket[16..]));
        if epoch == 0 {
            continue;
        }
        let value = if signed {
            i128::from(sint(&bucket[8..16]))
        } else {
            i128::from(uint(&bucket[8..16]))
        };
        let Some((sofar, n)) = intervals.get_mut(&epoch) else {
            intervals.insert(epoch, (value, updates));
            continue;
        };
        match series {
            // The number of updates is the time.
            Series::Last if updates < *n => continue,
            Series::Last => (*sofar, *n) = (value, updates),
            Series::Min => *sofar = value.min(*sofar),
            Series::Max => *sofar = value.max(*sofar),
            Series::Sum | Series::Avg => (*sofar, *n) = (value + *sofar, n.saturating_add(updates)),
        }
    }
    let newest = intervals.last_key_value().map_or(0, |(epoch, _)| *epoch);
    let kept = intervals.split_off(&(newest + 1).saturating_sub(u64::from(count)));
    kept.into_iter()
        .map(|(epoch, (value, n))| Point {
            epoch,
            value: match series {
                Series::Avg => value / i128::from(n.max(1)),
                _ => wrap(value, signed),
            },
        })
        .collect()
}

/// Cuts a sum to 64 bits, as the kernel's words are.
fn wrap(sum: i128, signed: bool) -> i128 {
    if signed { i128::from(sum as i64) } else { i128::from(sum as u64) }
}

/// The row of a scalar that nothing was assigned to.
pub(crate) fn unassigned(value: &MapValue) -> Option<Row> {
    match value {
        MapValue::Plain(ty @ (Type::Int { .. } | Type::Bool | Type::Str { .. } | Type::Tuple(_) | Type::Record(_))) => Some(Row {
            key: Vec::new(),
            value: Cell::Plain(vec![0; ty.size() as usize]),
        }),
        _ => None,
    }
}

pub(crate) fn is_untouched(kind: &MapValue, cell: &Cell) -> bool {
    match (kind, cell) {
        (MapValue::Plain(_), _) => false,
        (_, Cell::Int(v)) => *v == 0,
        (_, Cell::Stats { count, .. }) => *count == 0,
        (_, Cell::Hist(counts)) => counts.iter().all(|c| *c == 0),
        (_, Cell::Series(points)) => points.is_empty(),
        (_, Cell::Plain(_)) => false,
    }
}

impl Snapshot {
    /// Sorts ascending: by value where the value is a number, by average, by total count; else by key.
    pub fn sort(&mut self) {
        let key_type = self.key.clone();
        let by_key = |a: &Row, b: &Row| key_type.as_ref().map_or(Ordering::Equal, |ty| value::compare(ty, &a.key, &b.key));
        let int_type = match &self.value {
            MapValue::Plain(ty @ Type::Int { .. }) => Some(ty.clone()),
            _ => None,
        };
        self.rows.sort_by(|a, b| {
            let by_value = match (&a.value, &b.value) {
                (Cell::Plain(x), Cell::Plain(y)) => int_type.as_ref().map_or(Ordering::Equal, |ty| value::compare(ty, x, y)),
                (Cell::Int(x), Cell::Int(y)) => x.cmp(y),
                (Cell::Stats { sum: s, count: n }, Cell::Stats { sum: t, count: m }) => Cell::average(*s, *n).cmp(&Cell::average(*t, *m)),
                (Cell::Hist(x), Cell::Hist(y)) => total(x).cmp(&total(y)),
                (Cell::Series(x), Cell::Series(y)) => x.last().map(|p| p.epoch).cmp(&y.last().map(|p| p.epoch)),
                _ => Ordering::Equal,
            };
            by_value.then_with(|| by_key(a, b))
        });
    }

    /// Returns the rows to print: the `top` largest, or all for 0.
    #[must_use]
    pub fn top(&self, top: u32) -> &[Row] {
        let skip = if top == 0 {
            0
        } else {
            self.rows.len().saturating_sub(top as usize)
        };
        &self.rows[skip..]
    }
}

fn total(counts: &[u64]) -> u128 {
    counts.iter().map(|c| u128::from(*c)).sum()
}

/// Opens a duplicate of a map's descriptor.
///
/// # Errors
/// When there are too many open files.
pub fn dup(fd: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    fd.try_clone_to_owned()
        .map_err(|e| SysError::new("duplicate the descriptor of", name, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(w: &[i64]) -> Vec<u8> {
        w.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn combine(kind: &MapValue, parts: &[&[i64]]) -> Cell {
        let parts: Vec<_> = parts.iter().map(|p| words(p)).collect();
        combine_parts(kind, parts.iter().map(Vec::as_slice))
    }

    #[test]
    fn cpus_are_combined() {
        assert_eq!(combine(&MapValue::Count, &[&[3], &[4]]), Cell::Int(7));
        assert_eq!(combine(&MapValue::Sum { signed: true }, &[&[-3, 1], &[1, 1]]), Cell::Int(-2));
        assert_eq!(combine(&MapValue::Sum { signed: false }, &[&[-1, 1], &[2, 1]]), Cell::Int(1));
        // A CPU that never updated does not count.
        assert_eq!(combine(&MapValue::Min { signed: true }, &[&[0, 0], &[5, 1], &[7, 2]]), Cell::Int(5));
        assert_eq!(combine(&MapValue::Max { signed: true }, &[&[0, 0], &[-5, 1]]), Cell::Int(-5));
        assert_eq!(
            combine(&MapValue::Max { signed: false }, &[&[-5, 1], &[1, 1]]),
            Cell::Int(i128::from(u64::MAX - 4))
        );
        assert_eq!(
            combine(&MapValue::Avg { signed: true }, &[&[10, 2], &[-4, 1]]),
            Cell::Stats { sum: 6, count: 3 }
        );
        assert_eq!(
            combine(&MapValue::Hist { bits: 0 }, &[&[1, 0, 2], &[0, 1, 1]]),
            Cell::Hist(vec![1, 1, 3])
        );
    }

    #[test]
    fn intervals_of_all_cpus_become_one_series() {
        let series = |series| MapValue::TSeries {
            interval: 1000,
            count: 3,
            series,
            signed: true,
        };
        let combine = |kind, parts: &[&[i64]]| match combine(&series(kind), parts) {
            Cell::Series(points) => points.iter().map(|p| (p.epoch, p.value)).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        // Epoch, value, number of updates (the time for the last value); interval 6 is too old beside 9.
        let one: &[i64] = &[6, 1, 1, 7, 5, 2, 0, 0, 0];
        let two: &[i64] = &[9, -4, 1, 7, 3, 4, 8, 6, 3];
        assert_eq!(combine(Series::Sum, &[one, two]), [(7, 8), (8, 6), (9, -4)]);
        assert_eq!(combine(Series::Avg, &[one, two]), [(7, 1), (8, 2), (9, -4)]);
        assert_eq!(combine(Series::Min, &[one, two]), [(7, 3), (8, 6), (9, -4)]);
        assert_eq!(combine(Series::Max, &[one, two]), [(7, 5), (8, 6), (9, -4)]);
        assert_eq!(combine(Series::Last, &[one, two]), [(7, 3), (8, 6), (9, -4)]);
        assert_eq!(combine(Series::Last, &[&[0; 9], &[0; 9]]), []);
    }

    #[test]
    fn rows_are_sorted_by_number_then_key() {
        let row = |k: i64, v: i128| Row {
            key: k.to_le_bytes().to_vec(),
            value: Cell::Int(v),
        };
        let mut s = Snapshot {
            name: "@".into(),
            key: Some(Type::I64),
            value: MapValue::Count,
            rows: vec![row(2, 5), row(1, 5), row(3, 1)],
        };
        s.sort();
        assert_eq!(s.rows, [row(3, 1), row(1, 5), row(2, 5)]);
        assert_eq!(s.top(1), [row(2, 5)]);
        assert_eq!(s.top(9).len(), 3);
    }

    #[test]
    fn strings_are_sorted_by_key() {
        let row = |k: i64, v: &[u8]| Row {
            key: k.to_le_bytes().to_vec(),
            value: Cell::Plain(v.to_vec()),
        };
        let mut s = Snapshot {
            name: "@".into(),
            key: Some(Type::I64),
            value: MapValue::Plain(Type::Str { cap: 2 }),
            rows: vec![row(2, b"a\0"), row(-1, b"z\0")],
        };
        s.sort();
        assert_eq!(s.rows[0].key, (-1i64).to_le_bytes());
    }
}
