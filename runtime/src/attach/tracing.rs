//! Programs that belong to one place of the kernel's code by its types: `rawtracepoint`, `fentry`, `fexit`, `iter`.

use super::{Attacher, Handle, Point};
use crate::error::Error;
use crate::pin;
use crate::sys::bpf::{self, LinkTarget, link_create};
use crate::sys::{ATTACH, SysError};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use weir_parser::Span;

/// Attaches to a raw tracepoint by its name.
///
/// # Errors
/// `ENOENT` when there is none, else what the kernel says.
pub fn raw_tracepoint(attacher: &mut Attacher<'_>, place: &Point<'_>, name: &str) -> Result<(), Error> {
    let point = format!("rawtracepoint:{name}");
    let c_name = CString::new(name).map_err(|e| place.error(&point, SysError::new(ATTACH, name, e.into())))?;
    let link = bpf::raw_tracepoint_open(place.program, &c_name).map_err(|e| place.error(&point, e))?;
    attacher.push(Handle::Link(link));
    Ok(())
}

/// Attaches to the function that the program was loaded for.
///
/// # Errors
/// What the kernel says.
pub fn function(attacher: &mut Attacher<'_>, place: &Point<'_>, function: &str, exit: bool) -> Result<(), Error> {
    let point = format!("{}:{function}", if exit { "fexit" } else { "fentry" });
    let link = link_create(place.program, LinkTarget::Tracing { exit }, &point).map_err(|e| place.error(&point, e))?;
    attacher.push(Handle::Link(link));
    Ok(())
}

/// An iterator, to be run when everything else is attached.
#[derive(Debug)]
pub struct Iterator {
    link: OwnedFd,
    kind: String,
    /// Where it goes, instead of being run.
    pin: Option<PathBuf>,
    span: Span,
}

/// Makes an iterator ready.
///
/// # Errors
/// What the kernel says.
pub fn iterator(attacher: &mut Attacher<'_>, place: &Point<'_>, kind: &str, pin: Option<&str>) -> Result<(), Error> {
    let mut iterator = Iterator::new(place.program, kind).map_err(|e| place.error(&format!("iter:{kind}"), e))?;
    iterator.pin = pin.map(pin::path).transpose().map_err(|e| Error::Param {
        help: e.help(),
        message: e.to_string(),
        span: place.span,
    })?;
    iterator.span = place.span;
    attacher.attached.iterators.push(iterator);
    Ok(())
}

impl Iterator {
    /// Makes a program that was loaded for an iterator ready to be run.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(program: BorrowedFd<'_>, kind: &str) -> Result<Self, SysError> {
        let link = link_create(program, LinkTarget::Iter, &format!("iter:{kind}"))?;
        Ok(Self {
            link,
            kind: kind.to_owned(),
            pin: None,
            span: Span::default(),
        })
    }

    /// Gives it its name, if it has one. Whoever reads that file runs it, for as long as the name is there.
    ///
    /// # Errors
    /// `EEXIST` when there is something of that name.
    pub fn pin(&self) -> Result<Option<&Path>, Error> {
        let Some(path) = &self.pin else { return Ok(None) };
        bpf::pin::pin(self.link.as_fd(), path).map_err(|e| {
            let shown = path.display();
            let (message, help) = match e.errno() {
                libc::EEXIST => (
                    format!("there is something at `{shown}` already"),
                    format!("take another name, or remove it: `rm {shown}`"),
                ),
                libc::EPERM | libc::EINVAL => (
                    format!("the iterator cannot have the name `{shown}`: {e}"),
                    "it takes a name in a BPF file system, without a dot: `/sys/fs/bpf/NAME`".to_owned(),
                ),
                _ => return Error::Sys(e),
            };
            Error::Param {
                message,
                help: Some(help),
                span: self.span,
            }
        })?;
        Ok(Some(path))
    }

    /// Runs the program once for every object.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&self) -> Result<(), SysError> {
        let mut file = File::from(bpf::iter_create(self.link.as_fd(), &self.kind)?);
        // Nothing comes out of it: what the script prints goes through the ring buffer.
        let mut room = [0; 4096];
        loop {
            match file.read(&mut room) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // So many objects without output: the kernel wants to be asked again.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
                Err(e) => return Err(SysError::new("run iterator", &self.kind, e)),
            }
        }
    }
}
