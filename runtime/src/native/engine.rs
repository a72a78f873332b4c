//! What a native does in user space while it runs: it reads its maps and makes tables of them.

use crate::attach::tracing::Iterator as KernelIterator;
use crate::error::{Error, Notice};
use crate::maps::{Cell, Map, Row, Snapshot};
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::Path;
use weir_compiler::native_maps;
use weir_compiler::types::MapValue;
use weir_stdlib::MapShape;
use weir_stdlib::decl::TEXT_BYTES;

/// The native's maps by their symbols.
pub(super) type Maps = HashMap<String, Map>;

/// The user-space half of a native.
pub(super) trait Engine: Debug + Send {
    /// The maps are made. Nothing is attached.
    ///
    /// # Errors
    /// What the kernel says.
    fn move_in(&mut self, _maps: &Maps) -> Result<(), Error> {
        Ok(())
    }

    /// Everything is attached. `iterators` are the native's own, in the order of the declaration.
    ///
    /// # Errors
    /// What the kernel says.
    fn started(&mut self, maps: &Maps, iterators: Vec<KernelIterator>) -> Result<(), Error>;

    /// A file among the parameters has changed. `touched` tells whether it has once more since; then the next call does the work.
    fn reload(&mut self, path: &Path, maps: &Maps, touched: &mut dyn FnMut() -> bool) {
        let _ = (path, maps, touched);
    }

    /// About a second has gone.
    fn tick(&mut self, maps: &Maps);

    /// Everything is detached, and printed.
    fn ended(&mut self, _maps: &Maps) {}

    /// Its rules are no longer in force: for whoever keeps an audit log.
    fn record_end(&mut self) {}

    /// Gives what a person should hear, once.
    fn notices(&mut self) -> Vec<Notice>;

    /// Reads what the programs have left. Rows and numbers are those of the last look.
    ///
    /// # Errors
    /// What the kernel says.
    fn look(&mut self, _maps: &Maps) -> Result<(), Error> {
        Ok(())
    }

    /// The rows of a table, sorted as they are printed: the most important one last. Nobody will look at more than the last `top` of them
    /// (0: at all); those before may be left empty, so that there are as many as there would be.
    ///
    /// # Errors
    /// What the kernel says.
    fn rows(&mut self, table: &str, top: usize, maps: &Maps) -> Result<Rows, Error>;

    /// The same for the summary on one screen: without what tells nothing there.
    ///
    /// # Errors
    /// What the kernel says.
    fn telling_rows(&mut self, table: &str, top: usize, maps: &Maps) -> Result<Rows, Error> {
        self.rows(table, top, maps)
    }

    /// The numbers of a map that only the engine knows, in the order of the declaration.
    ///
    /// # Errors
    /// What the kernel says.
    fn numbers(&mut self, map: &str, maps: &Maps) -> Result<Vec<u64>, Error>;

    /// Begins anew: what was counted so far is forgotten.
    ///
    /// # Errors
    /// What the kernel says.
    fn clear(&mut self, map: &str, maps: &Maps) -> Result<(), Error>;

    /// Forgets one entry, by its key as in [`Self::rows`], of a map whose entries can be deleted. What takes long for each may wait for
    /// [`Self::deleted`], which is called before anybody looks.
    ///
    /// # Errors
    /// What the kernel says.
    fn delete(&mut self, _map: &str, _key: &[u8], _maps: &Maps) -> Result<(), Error> {
        Ok(())
    }

    /// The last of several entries has been deleted.
    ///
    /// # Errors
    /// What the kernel says.
    fn deleted(&mut self, _maps: &Maps) -> Result<(), Error> {
        Ok(())
    }
}

/// A value of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Count(u64),
    Text(String),
}

/// The key as its type lies in memory, and a value for each column.
pub(super) type Rows = Vec<(Vec<u8>, Vec<Value>)>;

/// Text with zeros behind it, as it lies in memory.
pub(super) fn text_bytes(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.truncate(TEXT_BYTES as usize - 1);
    bytes.resize(TEXT_BYTES as usize, 0);
    bytes
}

/// Makes rows look like any map.
pub(super) fn snapshot(name: String, shape: MapShape, rows: Rows) -> Snapshot {
    let rows = rows.into_iter().map(|(key, values)| {
        let bytes = values.into_iter().flat_map(|value| match value {
            Value::Count(n) => n.to_le_bytes().to_vec(),
            Value::Text(text) => text_bytes(&text),
        });
        Row {
            key,
            value: Cell::Plain(bytes.collect()),
        }
    });
    Snapshot {
        name,
        key: Some(native_maps::key_type(shape)),
        value: MapValue::Plain(native_maps::value_type(shape)),
        rows: rows.collect(),
    }
}
