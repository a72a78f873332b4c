//! The bytes of a capture: mapped where that works, read where it does not (a pipe, standard input).

use crate::error::Error;
use crate::sys::mmap::Mmap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

#[derive(Debug)]
pub enum Source {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Source {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let error = |e: &io::Error| {
            let (message, help) = match e.kind() {
                io::ErrorKind::NotFound => (format!("there is no file `{}`", path.display()), None),
                io::ErrorKind::IsADirectory => (format!("`{}` is a directory", path.display()), None),
                _ => (format!("cannot read `{}`: {e}", path.display()), None),
            };
            Error::Replay { message, help, span: None }
        };
        let read = |mut reader: Box<dyn Read>| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| Source::Read(bytes))
        };
        if path == Path::new("-") {
            return read(Box::new(io::stdin().lock())).map_err(|e| error(&e));
        }
        let file = File::open(path).map_err(|e| error(&e))?;
        let metadata = file.metadata().map_err(|e| error(&e))?;
        if metadata.is_file()
            && let Ok(len) = usize::try_from(metadata.len())
            && len > 0
            && let Ok(map) = Mmap::new(file.as_fd(), len, 0, false, true)
        {
            return Ok(Source::Mapped(map));
        }
        read(Box::new(file)).map_err(|e| error(&e))
    }
}

impl AsRef<[u8]> for Source {
    fn as_ref(&self) -> &[u8] {
        match self {
            Source::Mapped(map) => map.as_ref(),
            Source::Read(bytes) => bytes,
        }
    }
}
