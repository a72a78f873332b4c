//! What natives need while a script runs: files that are read again, and a clock.

use super::Instance;
use super::files::{Changed, Files};
use crate::attach::Observer;
use crate::error::Error;
use crate::format::time::strftime;
use crate::sys::proc;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use weir_compiler::object::Object;
use weir_parser::Span;
use weir_stdlib::ParamValue;

/// Looks after all natives of a script.
#[derive(Debug)]
pub(crate) struct Upkeep {
    files: Option<Files>,
}

impl Upkeep {
    /// Starts to watch the files. Before they are read: a change in between must not be missed.
    ///
    /// # Errors
    /// When the kernel has no more inotify instances.
    pub fn new(object: &Object) -> Result<Self, Error> {
        let values = object.natives.iter().flat_map(|n| &n.params);
        let mut paths: Vec<PathBuf> = values
            .filter_map(|value| match value {
                Some(ParamValue::File(path)) => Some(path.into()),
                _ => None,
            })
            .collect();
        paths.sort();
        paths.dedup();
        let files = if paths.is_empty() { None } else { Some(Files::new(paths)?) };
        Ok(Self { files })
    }

    /// Readable when [`Self::take_in`] has something to do.
    pub fn ready(&self) -> Option<RawFd> {
        self.files.as_ref().map(Files::as_raw_fd)
    }

    /// Takes in what has happened to the files.
    pub fn take_in(&mut self) {
        if let Some(files) = &mut self.files {
            files.take_in();
        }
    }

    /// When [`Self::reload`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.files.as_ref().and_then(Files::due)
    }

    /// Reads files again that have changed, and says which cannot be read yet.
    pub fn reload(&mut self, natives: &[Instance], observer: &Observer) {
        let Some(files) = &mut self.files else { return };
        for Changed { path, held_up } in files.changed() {
            for native in natives {
                if let Some(time) = held_up {
                    native.file_is_free(&path, time);
                }
                native.reload(&path, &mut || files.touched(&path));
            }
        }
        for (path, time) in files.held_up() {
            natives.iter().for_each(|native| native.file_is_held_up(&path, time));
        }
        tell(natives, observer);
    }

    /// Lets time pass, and hears what others ask of named instances. Returns whether somebody has ended one.
    pub fn tick(natives: &[Instance], observer: &Observer) -> bool {
        natives.iter().for_each(Instance::tick);
        let ended = natives.iter().filter(|native| native.hear()).count() > 0;
        tell(natives, observer);
        ended
    }
}

impl Instance {
    /// Says that a file cannot be read again, if it is one of this native's: somebody has been writing it for so long.
    fn file_is_held_up(&self, path: &Path, time: Duration) {
        let Some(span) = self.span_of(path) else { return };
        let now = i128::from(proc::clock_ns(libc::CLOCK_REALTIME));
        let since = strftime("%H:%M:%S", now - time.as_nanos() as i128);
        let message = format!(
            "`{0}` has been written since {1} and not closed: what is in force stays until it is; `fuser -v {0}` tells who has it open",
            path.display(),
            String::from_utf8_lossy(&since)
        );
        self.say(message, Some(span));
    }

    /// Says that it can be read now, after so long.
    fn file_is_free(&self, path: &Path, time: Duration) {
        if self.span_of(path).is_some() {
            self.say(
                format!("`{}` is read now, after {} s of writing", path.display(), time.as_secs()),
                None,
            );
        }
    }

    /// Where the script names a file as a parameter.
    fn span_of(&self, path: &Path) -> Option<Span> {
        let is_it = |value: &Option<ParamValue>| matches!(value, Some(ParamValue::File(file)) if Path::new(file) == path);
        let index = self.spec.params.iter().position(is_it)?;
        self.spec.param_spans.get(index).copied().flatten().or(Some(self.spec.span))
    }
}

/// Hands on what natives have to say.
pub(crate) fn tell(natives: &[Instance], observer: &Observer) {
    natives.iter().for_each(Instance::tell_sizes);
    for notice in natives.iter().flat_map(Instance::notices) {
        observer(&notice);
    }
}
