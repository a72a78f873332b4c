//! `cgroup:PATH:HOOK` and `cgroup_skb:PATH:DIRECTION` by bpf_link: beside what others have attached there, and gone with us or with the
//! cgroup. Cgroups that come while a script runs are attached to, as interfaces are.

use super::{Attacher, Handle, Observer};
use crate::error::{Error, Notice};
use crate::pin::{LinkName, Pin};
use crate::sys::SysError;
use crate::sys::bpf::query::LinkPlace;
use crate::sys::bpf::{LinkTarget, link_create};
use crate::sys::cgroup::Cgroup2;
use aya_obj::generated::bpf_attach_type;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use weir_compiler::object::{CgroupPattern, Direction};
use weir_compiler::tables::CgroupHook;
use weir_parser::Span;

/// `BPF_CGROUP_INET_INGRESS` or `_EGRESS`.
#[must_use]
pub fn skb_attach_type(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => bpf_attach_type::BPF_CGROUP_INET_INGRESS as u32,
        Direction::Egress => bpf_attach_type::BPF_CGROUP_INET_EGRESS as u32,
    }
}

/// A hook of any cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Packets(Direction),
    /// A system call of sockets.
    Call(&'static CgroupHook),
}

impl Place {
    fn attach_type(self) -> u32 {
        match self {
            Place::Packets(direction) => skb_attach_type(direction),
            Place::Call(hook) => hook.attach_type,
        }
    }

    fn point(self, path: &str) -> String {
        match self {
            Place::Packets(Direction::Ingress) => format!("cgroup_skb:{path}:ingress"),
            Place::Packets(Direction::Egress) => format!("cgroup_skb:{path}:egress"),
            Place::Call(hook) => format!("cgroup:{path}:{}", hook.name),
        }
    }
}

/// A program with the cgroups it is for.
#[derive(Debug)]
pub struct Target {
    pub program: OwnedFd,
    pub pattern: CgroupPattern,
    pub place: Place,
    pub span: Span,
}

#[derive(Debug)]
struct Attachment {
    /// Index of the target.
    target: usize,
    path: String,
    /// A cgroup that is made again under its old name is another one.
    id: u64,
    _link: OwnedFd,
}

/// All programs of a script on cgroups.
pub struct Cgroups {
    targets: Vec<Target>,
    attached: Vec<Attachment>,
    /// Attempts that failed while running, said once: target and cgroup.
    failed: HashSet<(usize, u64)>,
    changes: Option<Inotify>,
    observer: Observer,
}

impl std::fmt::Debug for Cgroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cgroups").field("attached", &self.attached).finish_non_exhaustive()
    }
}

impl Cgroups {
    #[must_use]
    pub fn new(observer: &Observer) -> Self {
        Self {
            targets: Vec::new(),
            attached: Vec::new(),
            failed: HashSet::new(),
            changes: None,
            observer: observer.clone(),
        }
    }

    /// Attaches a program to every cgroup that its pattern names, and remembers it for those to come.
    ///
    /// # Errors
    /// When a cgroup named in full does not exist, or any of them refuses.
    pub fn add(&mut self, target: Target, verbose: bool) -> Result<(), Error> {
        if self.changes.is_none() {
            match Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK) {
                Ok(changes) => self.changes = Some(changes),
                Err(e) => (self.observer)(&Notice::Other {
                    message: format!("cgroups that come later will not be attached to: {e}"),
                    span: Some(target.span),
                }),
            }
        }
        let root = hierarchy(&target)?;
        let found = self.find(root, &target.pattern);
        if found.is_empty() {
            if !target.pattern.is_glob() {
                return Err(Error::NoCgroup {
                    path: target.pattern.pattern,
                    span: target.span,
                });
            }
            // Of a pattern that is attached in parts the first one speaks, when the others find nothing either.
            if target.pattern.overlap.also.is_empty() && root.find(&target.pattern.pattern).is_empty() {
                (self.observer)(&Notice::NoCgroupYet {
                    pattern: target.pattern.pattern.clone(),
                    span: target.span,
                });
            }
        }
        let index = self.targets.len();
        self.targets.push(target);
        for (path, id) in found {
            let link = self.link(root, index, &path)?;
            if verbose {
                (self.observer)(&Notice::AttachedTo {
                    point: self.targets[index].place.point(&path),
                });
            }
            self.keep(index, path, id, link);
        }
        Ok(())
    }

    /// Finds the cgroups of a pattern, with their ids. What comes while we look is heard.
    fn find(&self, root: &Cgroup2, pattern: &CgroupPattern) -> Vec<(String, u64)> {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        let mut watch = |dir: &Path| {
            if let Some(changes) = &self.changes {
                // A directory that is gone has nothing to tell; a second watch of one is the first.
                let _ = changes.add_watch(dir, flags);
            }
        };
        root.search(&pattern.pattern, &mut watch)
            .into_iter()
            .filter(|path| pattern.matches(path))
            .filter_map(|path| root.id(&path).map(|id| (path, id)))
            .collect()
    }

    fn link(&self, root: &Cgroup2, target: usize, path: &str) -> Result<OwnedFd, Error> {
        let Target { program, place, span, .. } = &self.targets[target];
        link(root, program.as_fd(), path, place.attach_type(), &place.point(path), *span)
    }

    fn keep(&mut self, target: usize, path: String, id: u64, link: OwnedFd) {
        self.attached.push(Attachment {
            target,
            path,
            id,
            _link: link,
        });
    }

    /// A descriptor that is readable when [`Self::refresh`] has something to do.
    #[must_use]
    pub fn ready(&self) -> Option<RawFd> {
        self.changes.as_ref().map(|c| c.as_fd().as_raw_fd())
    }

    /// Takes in what has happened to cgroups: attaches to new ones, lets go of those that are gone.
    pub fn refresh(&mut self) {
        let Some(changes) = &self.changes else { return };
        // Which ones does not matter, and what did not fit into the queue is found all the same.
        while changes.read_events().is_ok_and(|events| !events.is_empty()) {}
        let Ok(root) = Cgroup2::get() else { return };
        let found: Vec<Vec<(String, u64)>> = self.targets.iter().map(|t| self.find(root, &t.pattern)).collect();
        let mut gone: Vec<String> = Vec::new();
        self.attached.retain(|a| {
            let there = found[a.target].iter().any(|(path, id)| *path == a.path && *id == a.id);
            if !there && !gone.contains(&a.path) {
                gone.push(a.path.clone());
            }
            there
        });
        for path in gone {
            let left: HashSet<u64> = self.attached.iter().map(|a| a.id).collect();
            (self.observer)(&Notice::CgroupGone { path, left: left.len() });
        }
        let mut new: Vec<(String, Vec<String>)> = Vec::new();
        for (target, found) in found.into_iter().enumerate() {
            for (path, id) in found {
                if self.attached.iter().any(|a| a.target == target && a.id == id) || self.failed.contains(&(target, id)) {
                    continue;
                }
                match self.link(root, target, &path) {
                    Ok(link) => {
                        let point = format!("`{}`", self.targets[target].place.point(&path));
                        match new.iter_mut().find(|(p, _)| *p == path) {
                            Some((_, points)) => points.push(point),
                            None => new.push((path.clone(), vec![point])),
                        }
                        self.keep(target, path, id, link);
                    }
                    // Gone again already: the next event says so.
                    Err(Error::NoCgroup { .. }) => {}
                    Err(error) => {
                        self.failed.insert((target, id));
                        (self.observer)(&Notice::LateAttach {
                            message: error.to_string(),
                            help: error.help().into_iter().next(),
                            span: self.targets[target].span,
                        });
                    }
                }
            }
        }
        for (path, points) in new {
            (self.observer)(&Notice::CgroupAppeared { path, points });
        }
    }
}

fn hierarchy(target: &Target) -> Result<&'static Cgroup2, Error> {
    let path = &target.pattern.pattern;
    Cgroup2::get().map_err(|why| Error::Attach {
        point: target.place.point(path),
        span: target.span,
        source: SysError::new("open cgroup", path.as_str(), std::io::Error::other(why)),
    })
}

/// `BPF_CGROUP_SETSOCKOPT`
#[must_use]
pub fn setsockopt_type() -> u32 {
    bpf_attach_type::BPF_CGROUP_SETSOCKOPT as u32
}

/// Attaches a native to a system call of sockets anywhere. With a pin it outlives us, and takes over what is pinned.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn attach_native(
    attacher: &mut Attacher<'_>,
    program: BorrowedFd<'_>,
    (name, attach_type): (&str, u32),
    pin: Option<&Pin>,
    span: Span,
) -> Result<(), Error> {
    const ROOT: &str = "/";
    let point = format!("cgroup:{ROOT}:{name}");
    let error = |source| Error::Attach {
        point: point.clone(),
        span,
        source,
    };
    let root = Cgroup2::get().map_err(|why| error(SysError::new("open cgroup", ROOT, std::io::Error::other(why))))?;
    let id = root.id(ROOT);
    let here = |place| matches!(place, LinkPlace::Cgroup { cgroup_id, attach_type: t } if Some(cgroup_id) == id && t == attach_type);
    let pinned = pin.map(|pin| (pin, LinkName::cgroup(name)));
    let adopted = pinned.as_ref().map(|(pin, name)| pin.adopt(name, program, here)).transpose();
    let fd = match adopted.map_err(error)?.flatten() {
        Some(fd) => fd,
        None => {
            let fd = link(root, program, ROOT, attach_type, &point, span)?;
            if let Some((pin, name)) = &pinned {
                pin.keep(name, fd.as_fd()).map_err(error)?;
            }
            fd
        }
    };
    attacher.push(Handle::Link(fd));
    if attacher.verbose {
        (attacher.observer)(&Notice::AttachedTo { point });
    }
    Ok(())
}

fn link(root: &Cgroup2, program: BorrowedFd<'_>, path: &str, attach_type: u32, point: &str, span: Span) -> Result<OwnedFd, Error> {
    let attach_error = |source| Error::Attach {
        point: point.to_owned(),
        span,
        source,
    };
    let no_cgroup = || Error::NoCgroup {
        path: path.to_owned(),
        span,
    };
    let dir = root.open_dir(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => no_cgroup(),
        _ => attach_error(SysError::new("open cgroup", path, e)),
    })?;
    let target = LinkTarget::Cgroup {
        dir: dir.as_fd(),
        attach_type,
    };
    link_create(program, target, point).map_err(|source| match source.errno() {
        // Removed since it was opened.
        libc::ENODEV | libc::ENOENT => no_cgroup(),
        _ => attach_error(source),
    })
}
