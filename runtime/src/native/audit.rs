//! The audit log: a line of JSON for every change of a native's rules: who, when, what.

use super::{Params, identity, lists};
use crate::error::Notice;
use crate::pin::{self, Pin};
use crate::sys::proc;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// So many prefixes or rules of one change are written out; the counts are always whole.
const LISTED: usize = 10_000;

/// For no log.
const OFF: &str = "off";

/// The action of what is no longer in force.
pub(super) const END: &str = "end";

/// Says that somebody has ended a named instance whose own weir is gone: what that would have said.
///
/// # Errors
/// When its log cannot be written; the path is in the message.
pub fn record_stop(left: &pin::Left) -> io::Result<()> {
    let pinned = &left.record;
    let Some(path) = &pinned.audit else { return Ok(()) };
    let lists = match pinned.native.as_str() {
        "blocklist" => lists::ended(left),
        "identity" => identity::ended(left),
        _ => Vec::new(),
    };
    let failed = |e: io::Error| io::Error::new(e.kind(), format!("the audit log `{}` cannot be written ({e})", path.display()));
    let mut audit = Audit::open(path).map_err(failed)?;
    for (list, removed) in lists {
        let record = Record {
            instance: &pinned.alias,
            native: &pinned.native,
            action: END,
            list,
            source: pinned.sources.get(list).cloned().unwrap_or_default(),
            changes: removed.map(Changes::removed).unwrap_or_default(),
            ..Record::default()
        };
        audit.write(&record).map_err(failed)?;
    }
    Ok(())
}

/// What was in force before a start.
#[derive(Debug)]
pub(super) enum Before<T> {
    Nothing,
    /// Of another version of weir, or cut short.
    Unknown,
    Known(T),
}

impl<T> Before<T> {
    /// What a start takes over, if it takes anything over.
    pub fn of(pin: Option<&Pin>, read: impl FnOnce(&Pin) -> Option<T>) -> Self {
        match pin.and_then(|pin| Some((pin, pin.before()?))) {
            None => Before::Nothing,
            Some((_, before)) if !before.settled => Before::Unknown,
            Some((pin, _)) => read(pin).map_or(Before::Unknown, Before::Known),
        }
    }

    /// What becomes of it; `None`: it is not known after all.
    pub fn and_then<U>(self, know: impl FnOnce(T) -> Option<U>) -> Before<U> {
        match self {
            Before::Nothing => Before::Nothing,
            Before::Unknown => Before::Unknown,
            Before::Known(known) => know(known).map_or(Before::Unknown, Before::Known),
        }
    }

    /// Takes it out, leaving nothing.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Before::Nothing)
    }
}

/// The file, or nothing.
#[derive(Debug)]
pub(super) struct Audit {
    file: Option<File>,
    path: PathBuf,
}

/// What happened.
#[derive(Debug, Default, Serialize)]
pub(super) struct Record<'a> {
    pub instance: &'a str,
    pub native: &'a str,
    /// `start`, `reload`, `expire`, `end`.
    pub action: &'a str,
    /// `prefixes`, `allow` or `policy`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub list: &'a str,
    /// Where the list is from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    pub entries: usize,
    #[serde(flatten)]
    pub changes: Changes,
}

/// How a list is another than before. By default nothing is known of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Changes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

impl Changes {
    /// Everything is new.
    pub fn added(count: usize) -> Self {
        Self {
            added: Some(count),
            removed: Some(0),
            ..Self::default()
        }
    }

    /// Everything has gone.
    pub fn removed(count: usize) -> Self {
        Self {
            added: Some(0),
            removed: Some(count),
            ..Self::default()
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    pid: u32,
    uid: u32,
    /// Who logged in, before `sudo` and `su`.
    #[serde(skip_serializing_if = "Option::is_none")]
    login_uid: Option<u32>,
    #[serde(flatten)]
    record: &'a Record<'a>,
}

impl Audit {
    /// Keeps no log.
    pub fn off() -> Self {
        Self {
            file: None,
            path: PathBuf::new(),
        }
    }

    /// Whether an instance is to keep one.
    pub fn is_wanted(params: &Params<'_>) -> bool {
        params.text("audit") != Some(OFF)
    }

    /// Opens the log that an instance's `audit` names. It is no reason not to run that there is none.
    pub fn of(params: &Params<'_>, default: &str, notices: &mut Vec<Notice>) -> Self {
        let path = match params.text("audit").unwrap_or(default) {
            OFF => return Self::off(),
            path => Path::new(path),
        };
        Self::open(path).unwrap_or_else(|error| {
            notices.push(Notice::Native {
                alias: params.0.alias.clone(),
                message: format!(
                    "no audit log is kept: cannot open `{}` ({error}); name another with `audit=\"PATH\"`, or `audit=\"off\"`",
                    path.display()
                ),
                warning: true,
                span: Some(params.0.span),
            });
            Self::off()
        })
    }

    /// Opens the log for appending; made readable for its owner only.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self {
            file: Some(file),
            path: path.to_owned(),
        })
    }

    /// Appends a record. Returns what a person should hear, if it cannot be written.
    pub fn log(&mut self, record: &Record<'_>) -> Option<String> {
        let error = self.write(record).err()?;
        let path = self.path.display();
        Some(format!(
            "the audit log `{path}` cannot be written ({error}); what follows is not logged"
        ))
    }

    /// Appends a record, in one write, so that lines of several weirs do not mix.
    ///
    /// # Errors
    /// When it cannot be written; the log is closed then.
    pub fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let line = Line {
            time: timestamp(),
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            login_uid: login_uid(),
            record,
        };
        let mut text = serde_json::to_vec(&line).map_err(io::Error::other)?;
        text.push(b'\n');
        let result = file.write_all(&text);
        if result.is_err() {
            self.file = None;
        }
        result
    }
}

/// Writes out the first of many.
pub(super) fn listed<T>(items: &[T], show: impl Fn(&T) -> String) -> Vec<String> {
    items.iter().take(LISTED).map(show).collect()
}

fn timestamp() -> String {
    let now = i128::from(proc::clock_ns(libc::CLOCK_REALTIME));
    String::from_utf8_lossy(&crate::format::time::strftime("%Y-%m-%dT%H:%M:%S.%f%z", now)).into_owned()
}

fn login_uid() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/self/loginuid").ok()?;
    // All ones: nobody has logged in (a service).
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}
