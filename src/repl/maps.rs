//! The maps of a REPL session: made by one entry, filled and read by every later one, gone with the session.

use crate::repl::screen::Screen;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_compiler::hir;
use weir_compiler::object::{MapRole, MapSpec};
use weir_compiler::types::MapValue;
use weir_runtime::format::{Context, map};
use weir_runtime::maps::{Contents, Map, Snapshot};
use weir_runtime::symbols::Symbols;
use weir_runtime::{Error, MapsHandle, SharedMaps};

/// One map of the session.
struct Kept {
    /// Its types, as later entries see them.
    hir: hir::Map,
    spec: MapSpec,
    map: Map,
    /// The entry that made it.
    entry: usize,
    text: String,
}

/// Shared with the threads that print regularly.
#[derive(Clone, Default)]
pub struct Workspace(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    maps: BTreeMap<String, Kept>,
    /// Stack traces by the symbol of their map: ids in keys mean the same in every entry.
    stacks: BTreeMap<String, Map>,
}

/// How full a map is, and how large.
pub struct Fill {
    pub ty: String,
    pub entries: usize,
    pub max_entries: u32,
    pub bytes: u64,
    pub entry: usize,
}

impl Workspace {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the compiler must know of the maps that are there.
    pub fn types(&self) -> Vec<hir::Map> {
        self.lock().maps.values().map(|m| m.hir.clone()).collect()
    }

    /// What the loader puts in the place of an entry's maps.
    pub fn descriptors(&self) -> SharedMaps {
        let inner = self.lock();
        let own = inner.maps.iter().map(|(name, m)| (name.clone(), &m.map));
        let stacks = inner.stacks.iter().map(|(symbol, map)| (symbol.clone(), map));
        own.chain(stacks)
            .filter_map(|(name, map)| Some((name, Arc::new(map.fd.as_fd().try_clone_to_owned().ok()?))))
            .collect()
    }

    /// Keeps the maps that an entry has brought.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn keep(&self, handle: &MapsHandle, types: &[hir::Map], entry: usize, text: &str) -> Result<(), Error> {
        let mut inner = self.lock();
        for (spec, map) in handle.own()? {
            let MapRole::User { name, .. } = &spec.role else {
                inner.stacks.entry(spec.name.clone()).or_insert(map);
                continue;
            };
            let name = name.clone();
            if let Some(hir) = types.iter().find(|t| t.name == name) {
                inner.maps.entry(name).or_insert_with(|| Kept {
                    hir: hir.clone(),
                    spec,
                    map,
                    entry,
                    text: text.to_owned(),
                });
            }
        }
        Ok(())
    }

    pub fn names(&self) -> Vec<String> {
        self.lock().maps.keys().cloned().collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.lock().maps.contains_key(name)
    }

    /// The entry that made a map: its number and text.
    pub fn maker(&self, name: &str) -> Option<(usize, String)> {
        self.lock().maps.get(name).map(|m| (m.entry, m.text.clone()))
    }

    /// The types of a map, as they are written.
    pub fn type_of(&self, name: &str) -> Option<String> {
        self.lock().maps.get(name).map(|m| type_text(&m.spec))
    }

    pub fn snapshot(&self, name: &str) -> Option<Result<Snapshot, Error>> {
        let inner = self.lock();
        let kept = inner.maps.get(name)?;
        let MapRole::User { key, value, .. } = &kept.spec.role else {
            return None;
        };
        Some(kept.map.snapshot(name, key.as_ref(), value, false).map_err(Error::Sys))
    }

    /// Prints a map as `print` does.
    pub fn print(&self, name: &str, top: u32, screen: &Screen) -> Option<Result<(), Error>> {
        Some(self.snapshot(name)?.map(|snapshot| screen.print(&self.text(&snapshot, top))))
    }

    /// The text of a snapshot; an empty map says so.
    pub fn text(&self, snapshot: &Snapshot, top: u32) -> String {
        if snapshot.rows.is_empty() {
            return format!("{} is empty\n", snapshot.name);
        }
        let mut out = Vec::new();
        map::text(snapshot, top, 0, &self.context(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// What formatting needs: the stacks of all entries.
    pub fn context(&self) -> Context {
        let stacks = self
            .lock()
            .stacks
            .values()
            .filter_map(|m| m.fd.as_fd().try_clone_to_owned().ok())
            .collect();
        Context {
            symbols: Symbols::with_stacks(stacks),
            ..Context::default()
        }
    }

    pub fn clear(&self, name: &str) -> Option<Result<(), Error>> {
        Some(self.lock().maps.get(name)?.map.clear().map_err(Error::Sys))
    }

    /// How full each map is.
    pub fn fills(&self) -> Vec<Fill> {
        let inner = self.lock();
        let fill = |kept: &Kept| {
            let scalar = matches!(kept.spec.role, MapRole::User { key: None, .. });
            let entries = if scalar {
                1
            } else {
                kept.map.elements().map_or(0, |e| e.iter().count())
            };
            Fill {
                ty: type_text(&kept.spec),
                entries,
                max_entries: kept.map.max_entries,
                bytes: u64::from(kept.map.max_entries) * (u64::from(kept.map.key_size) + kept.map.lookup_size() as u64),
                entry: kept.entry,
            }
        };
        inner.maps.values().map(fill).collect()
    }
}

/// `@x[string[16]]: count_t`
fn type_text(spec: &MapSpec) -> String {
    match &spec.role {
        MapRole::User {
            name,
            key: Some(key),
            value,
            ..
        } => format!("{name}[{key}]: {}", value_text(value)),
        MapRole::User {
            name, key: None, value, ..
        } => format!("{name}: {}", value_text(value)),
        _ => String::new(),
    }
}

fn value_text(value: &MapValue) -> String {
    value.to_string()
}
