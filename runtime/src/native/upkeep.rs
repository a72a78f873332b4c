//! What natives need while a script runs: files that are read again, and a clock.

use super::Instance;
use super::files::Files;
use crate::attach::Observer;
use crate::error::Error;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Instant;
use weir_compiler::object::Object;
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

    /// Reads files again that have changed.
    pub fn reload(&mut self, natives: &[Instance], observer: &Observer) {
        let Some(files) = &mut self.files else { return };
        for path in files.changed() {
            for native in natives {
                native.reload(&path, &mut || files.touched(&path));
            }
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

/// Hands on what natives have to say.
pub(crate) fn tell(natives: &[Instance], observer: &Observer) {
    natives.iter().for_each(Instance::tell_sizes);
    for notice in natives.iter().flat_map(Instance::notices) {
        observer(&notice);
    }
}
