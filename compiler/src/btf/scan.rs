//! Look-ups without an index: the type section is walked as far as a question needs, and no further.
//!
//! What is asked for most (`task_struct`, `sock`) stands near the start of a kernel's types, and a script asks for a
//! handful of names. An index of all types costs more than that; it is made when the walks have become as expensive,
//! see [`Scan::index_pays`].

use super::{BtfError, BtfType, COMMON, Kind, KindSet, TypeId, u32_at};
use std::collections::HashMap;

/// The start of every so many types is remembered; from there to a type is a walk.
const STRIDE: u32 = 16;
/// Walks over all types that cost as much as making the index.
const WALKS: usize = 4;

/// What was seen of a type section so far.
#[derive(Default)]
pub(super) struct Scan {
    /// Offsets of types 1, 1 + `STRIDE`, ….
    marks: Vec<u32>,
    /// Types before `end`.
    count: u32,
    /// Where the first type that was not seen yet starts.
    end: u32,
    /// Every enum among the types seen, in order.
    enums: Vec<u32>,
    /// Why the walk cannot go on behind `end`.
    pub damage: Option<BtfError>,
    /// Bytes walked to answer questions.
    walked: usize,
    /// Answers by name: of which kinds one was looked for, and what was found.
    names: HashMap<String, Vec<(KindSet, Option<TypeId>)>>,
    enumerators: HashMap<String, Option<(i64, TypeId)>>,
}

/// The head of one type.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub name: u32,
    pub kind: Kind,
    /// Bytes, those of its elements included.
    pub len: u32,
}

/// Reads the head of the type that starts at `at`, if all of the type is there.
pub(super) fn head(section: &[u8], at: u32) -> Option<Head> {
    let (name, info) = u32_at(section, at).zip(u32_at(section, at + 4))?;
    let kind = Kind::from_info(info)?;
    let len = COMMON + kind.extra(info & 0xffff);
    (at as usize + len as usize <= section.len()).then_some(Head { name, kind, len })
}

impl Scan {
    /// Sees one more type; `None` at the end.
    fn advance(&mut self, section: &[u8]) -> Option<Head> {
        if self.damage.is_some() || self.end as usize >= section.len() {
            return None;
        }
        let Some(head) = head(section, self.end) else {
            self.damage = Some(BtfError::Types {
                last_good: self.count,
                offset: self.end,
            });
            return None;
        };
        if self.count.is_multiple_of(STRIDE) {
            self.marks.push(self.end);
        }
        self.count += 1;
        self.end += head.len;
        if matches!(head.kind, Kind::Enum | Kind::Enum64) {
            self.enums.push(self.count);
        }
        Some(head)
    }

    /// Returns where a type starts.
    pub fn offset(&mut self, section: &[u8], id: TypeId) -> Option<u32> {
        let index = id.0.checked_sub(1)?;
        while self.count < id.0 {
            self.advance(section)?;
        }
        let mut at = *self.marks.get((index / STRIDE) as usize)?;
        for _ in 0..index % STRIDE {
            at += head(section, at)?.len;
        }
        Some(at)
    }

    /// Returns the first type of one of these kinds whose name stands at one of these offsets.
    pub fn find(&mut self, section: &[u8], names: &[u32], kinds: KindSet) -> Option<TypeId> {
        if names.is_empty() {
            return None;
        }
        let (mut at, mut id) = (0, 0);
        let found = loop {
            let head = if id < self.count {
                head(section, at)
            } else {
                self.advance(section)
            };
            let Some(head) = head else { break None };
            id += 1;
            at += head.len;
            if names.contains(&head.name) && kinds.contains(head.kind) {
                break Some(TypeId(id));
            }
        };
        self.walked += at as usize;
        found
    }

    /// Calls `visit` for each enum in order until it returns something.
    pub fn enums<T>(&mut self, section: &[u8], mut visit: impl FnMut(TypeId, u32) -> Option<T>) -> Option<T> {
        let mut next = 0;
        loop {
            while let Some(&id) = self.enums.get(next) {
                next += 1;
                let at = self.offset(section, TypeId(id))?;
                if let Some(found) = visit(TypeId(id), at) {
                    return Some(found);
                }
            }
            self.advance(section)?;
        }
    }

    /// Whether so many questions were asked that an index of all types is the cheaper way from here on.
    pub fn index_pays(&self, section: &[u8]) -> bool {
        self.walked > WALKS * section.len()
    }

    /// Returns the answer to the same question before.
    pub fn known(&self, name: &str, kinds: KindSet) -> Option<Option<TypeId>> {
        let answers = self.names.get(name)?;
        answers.iter().find(|(k, _)| *k == kinds).map(|(_, found)| *found)
    }

    pub fn remember(&mut self, name: &str, kinds: KindSet, found: Option<TypeId>) {
        self.names.entry(name.to_owned()).or_default().push((kinds, found));
    }

    pub fn known_enumerator(&self, name: &str) -> Option<Option<(i64, TypeId)>> {
        self.enumerators.get(name).copied()
    }

    pub fn remember_enumerator(&mut self, name: &str, found: Option<(i64, TypeId)>) {
        self.enumerators.insert(name.to_owned(), found);
    }
}

/// Finds the value of the enumerator whose name stands at `name` in an enum.
pub(super) fn value_of(ty: &BtfType<'_>, name: u32) -> Option<i64> {
    let BtfType::Enum(info) = ty else { return None };
    let mut values = info.values();
    while let Some((name_off, value)) = values.next_raw() {
        if name_off == name {
            return Some(value);
        }
    }
    None
}
