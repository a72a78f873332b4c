//! What a named instance says of itself, and how others speak to its owner: two small maps in its folder.

use super::admin::Answer;
use super::{byte_array, replace};
use crate::sys::bpf::query::{self, ObjectKind};
use crate::sys::bpf::{self, pin as sys};
use crate::sys::{Result as SysResult, SysError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

const RECORD: &str = "record";
const CONTROL: &str = "control";
const RULES: &str = "rules";
/// Bytes of an element of `control`.
const WORDS: usize = 512;
/// Element of `control`, written by `weir stop`: other than 0, the instance has been ended.
const STOP: u32 = 0;
/// Element of `control`, written by `weir reload`: a number that was not there before.
const REQUEST: u32 = 1;
/// Element of `control`, written by the owner: the request's number, how it went, and words.
const ANSWER: u32 = 2;
/// Element of `control`, written by the owner: how full its lists are.
const LISTS: u32 = 3;
const ELEMENTS: u32 = 4;

/// A process, for good: pids are used again, start times are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: u32,
    /// In clock ticks since boot.
    pub start: u64,
    pub pid_namespace: u64,
}

/// Who a named instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub native: String,
    /// In the script of its last start.
    pub alias: String,
    /// As the script names it: `veth0`, `lxc*@blue`.
    pub iface: String,
    /// Device and inode of the network namespace that the interface is in.
    pub netns: (u64, u64),
    pub dry_run: bool,
    /// Seconds since 1970: when the name was first taken.
    pub since: u64,
    /// The same, of the last start.
    pub started: u64,
    pub owner: Owner,
    /// The `use` statement of the last start, its parameters evaluated. Nothing when a list came from standard input.
    pub statement: Option<String>,
    pub files: Vec<PathBuf>,
    /// The same as the script has them, by the parameters that they are given for.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// Where its changes are written down.
    #[serde(default)]
    pub audit: Option<PathBuf>,
    /// Whose the pinned maps are.
    pub version: String,
    /// Not while a start takes over what is there, nor if it was cut short: the pinned maps and rules need not be those in force then.
    #[serde(default = "usually", skip_serializing_if = "bool::clone")]
    pub settled: bool,
}

fn usually() -> bool {
    true
}

/// A list of a named instance, as its owner last said. The maps that it is in do not tell: they have room to spare, and long lists
/// are in tables whose content only the owner can count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListState {
    /// As in `.entries`.
    pub name: String,
    pub entries: u64,
    /// How many it may have.
    pub max: u64,
    /// Maps that hold it and nothing else.
    pub maps: Vec<String>,
}

impl Record {
    /// Reads it; `None` where there is none, or one that cannot be understood.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        value(&opened(dir, RECORD)?)
    }

    /// Writes it in the place of the one before.
    pub(super) fn write(&self, dir: &Path) -> SysResult<()> {
        put(dir, RECORD, self)
    }

    /// Whether what it says of itself in maps is meant as we would mean it.
    pub(super) fn is_of_this_version(&self) -> bool {
        self.version == env!("CARGO_PKG_VERSION")
    }
}

/// Writes down what is in force, where the programs' own maps do not tell.
pub(super) fn put_rules(dir: &Path, rules: &impl Serialize) -> SysResult<()> {
    put(dir, RULES, rules)
}

/// What is in force is not as it was written down, or soon will not be.
pub(super) fn forget_rules(dir: &Path) {
    // Mostly there are none.
    let _ = fs::remove_file(dir.join(RULES));
}

pub(super) fn open_rules(dir: &Path) -> Option<OwnedFd> {
    opened(dir, RULES)
}

fn opened(dir: &Path, file: &str) -> Option<OwnedFd> {
    match query::by_pin(&dir.join(file)) {
        Ok((ObjectKind::Map, fd)) => Some(fd),
        _ => None,
    }
}

/// Reads what [`put`] has written.
pub(super) fn value<T: DeserializeOwned>(map: &OwnedFd) -> Option<T> {
    let bytes = element(map, 0)?;
    let end = bytes.iter().rposition(|b| *b != 0)? + 1;
    serde_json::from_slice(&bytes[..end]).ok()
}

/// Pins a value in a map of its own, in the place of the one before.
fn put(dir: &Path, file: &str, value: &impl Serialize) -> SysResult<()> {
    let wrong = |e: io::Error| SysError::new("write", file, e);
    let mut bytes = serde_json::to_vec(value).map_err(|e| wrong(io::Error::other(e)))?;
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    let size = u32::try_from(bytes.len()).map_err(|e| wrong(io::Error::other(e)))?;
    let map = byte_array(&format!("weir_{file}"), size, 1)?;
    bpf::map_update(map.as_fd(), &0u32.to_ne_bytes(), &bytes, 0, file)?;
    replace(map.as_fd(), dir, file)
}

fn element(map: &OwnedFd, index: u32) -> Option<Vec<u8>> {
    let mut bytes = vec![0; bpf::map_info(map.as_fd()).ok()?.value_size as usize];
    bpf::map_lookup(map.as_fd(), &index.to_ne_bytes(), &mut bytes, CONTROL)
        .ok()?
        .then_some(bytes)
}

/// What others and the owner say to each other.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    /// Makes it, once for each start: what was said to the last owner is not for this one.
    pub fn make(dir: &Path) -> SysResult<()> {
        let map = byte_array("weir_control", WORDS as u32, ELEMENTS)?;
        let path = dir.join(CONTROL);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(SysError::new("remove the pin", CONTROL, e)),
            _ => {}
        }
        sys::pin(map.as_fd(), &path)
    }

    pub fn open(dir: &Path) -> Option<Self> {
        opened(dir, CONTROL).map(Self)
    }

    fn word(&self, index: u32) -> u64 {
        let bytes = element(&self.0, index).unwrap_or_default();
        bytes.first_chunk::<8>().map_or(0, |b| u64::from_ne_bytes(*b))
    }

    fn put(&self, index: u32, words: [u64; 2], text: &str) {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut end = text.len().min(WORDS - bytes.len() - 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        bytes.extend_from_slice(&text.as_bytes()[..end]);
        bytes.resize(WORDS, 0);
        // Who does not hear it asks again, or waits in vain and says so.
        let _ = bpf::map_update(self.0.as_fd(), &index.to_ne_bytes(), &bytes, 0, CONTROL);
    }

    pub fn stop(&self) {
        self.put(STOP, [1, 0], "");
    }

    pub fn stopped(&self) -> bool {
        self.word(STOP) != 0
    }

    pub fn ask(&self, number: u64) {
        self.put(REQUEST, [number, 0], "");
    }

    pub fn request(&self) -> u64 {
        self.word(REQUEST)
    }

    pub fn answer(&self, number: u64, answer: &Answer) {
        self.put(ANSWER, [number, u64::from(answer.good)], &answer.text);
    }

    pub fn hold(&self, lists: &[ListState]) {
        // What cannot be written is not told; the maps are looked at then.
        let text = serde_json::to_string(lists).unwrap_or_default();
        self.put(LISTS, [0, 0], &text);
    }

    /// How full the lists are; none if the owner has not said.
    pub fn lists(&self) -> Vec<ListState> {
        let bytes = element(&self.0, LISTS).unwrap_or_default();
        let text = bytes.get(16..).and_then(|rest| rest.split(|b| *b == 0).next());
        text.and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default()
    }

    /// The answer to that request, once it is there.
    pub fn answer_to(&self, number: u64) -> Option<Answer> {
        let bytes = element(&self.0, ANSWER)?;
        let word = |i: usize| u64::from_ne_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap_or_default());
        let text = bytes.get(16..)?.split(|b| *b == 0).next()?;
        (word(0) == number).then(|| Answer {
            good: word(1) != 0,
            text: String::from_utf8_lossy(text).into_owned(),
        })
    }
}
