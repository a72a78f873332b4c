//! Asking the kernel what is loaded and attached: ids, object information, attach points, BTF, pins; and detaching.
//!
//! Listing ids and opening objects by id takes CAP_SYS_ADMIN.

use super::{MapInfo, call, call_fd, info, name_of, ptr, ufd, zeroed};
use crate::sys::{Result, SysError};
use aya_obj::generated::{bpf_btf_info, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_info, bpf_prog_info};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const QUERY_EFFECTIVE: u32 = 1;
/// Programs on one hook; the kernel's own limit for tcx and cgroups is 64.
const MAX_PROGS: usize = 128;

/// A kind of BPF object that has ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    Program,
    Map,
    Link,
    Btf,
}

impl ObjectKind {
    fn noun(self) -> &'static str {
        match self {
            ObjectKind::Program => "programs",
            ObjectKind::Map => "maps",
            ObjectKind::Link => "links",
            ObjectKind::Btf => "BTF objects",
        }
    }

    fn next(self) -> bpf_cmd {
        match self {
            ObjectKind::Program => bpf_cmd::BPF_PROG_GET_NEXT_ID,
            ObjectKind::Map => bpf_cmd::BPF_MAP_GET_NEXT_ID,
            ObjectKind::Link => bpf_cmd::BPF_LINK_GET_NEXT_ID,
            ObjectKind::Btf => bpf_cmd::BPF_BTF_GET_NEXT_ID,
        }
    }

    fn open(self) -> (bpf_cmd, &'static str) {
        match self {
            ObjectKind::Program => (bpf_cmd::BPF_PROG_GET_FD_BY_ID, "open program"),
            ObjectKind::Map => (bpf_cmd::BPF_MAP_GET_FD_BY_ID, "open map"),
            ObjectKind::Link => (bpf_cmd::BPF_LINK_GET_FD_BY_ID, "open link"),
            ObjectKind::Btf => (bpf_cmd::BPF_BTF_GET_FD_BY_ID, "open BTF object"),
        }
    }
}

/// Lists the ids of all objects of a kind. Links have had a list since Linux 5.8: before that there are none.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub fn ids(kind: ObjectKind) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    let mut attr = zeroed();
    loop {
        match call(kind.next(), &mut attr) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && kind == ObjectKind::Link => return Ok(all),
            Err(e) => return Err(SysError::new("list the kernel's BPF", kind.noun(), e)),
        }
        // SAFETY: the kernel has written next_id into this member of the union.
        let id = unsafe { attr.__bindgen_anon_6.next_id };
        all.push(id);
        attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
    }
}

/// Opens an object by id.
///
/// # Errors
/// `ENOENT` when it is gone, `EPERM` without CAP_SYS_ADMIN.
pub fn by_id(kind: ObjectKind, id: u32) -> Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
    let (cmd, what) = kind.open();
    call_fd(cmd, &mut attr).map_err(|e| SysError::new(what, id.to_string(), e))
}

/// Opens a pinned object, and says of which kind it is.
///
/// # Errors
/// What the kernel says.
pub fn by_pin(path: &Path) -> Result<(ObjectKind, OwnedFd)> {
    let error = |e| SysError::new("open the pin", path.display().to_string(), e);
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| error(io::Error::from_raw_os_error(libc::EINVAL)))?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = text.as_ptr() as u64;
    let fd = call_fd(bpf_cmd::BPF_OBJ_GET, &mut attr).map_err(error)?;
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(error)?;
    let kind = kind_of_target(&target.to_string_lossy()).ok_or_else(|| error(io::Error::from_raw_os_error(libc::EINVAL)))?;
    Ok((kind, fd))
}

/// Reads what a link in `/proc/PID/fd` of a BPF object looks like.
#[must_use]
pub fn kind_of_target(target: &str) -> Option<ObjectKind> {
    match target.strip_prefix("anon_inode:")?.trim_matches(['[', ']']) {
        "bpf-prog" => Some(ObjectKind::Program),
        "bpf-map" => Some(ObjectKind::Map),
        "bpf_link" | "bpf-link" => Some(ObjectKind::Link),
        "btf" => Some(ObjectKind::Btf),
        _ => None,
    }
}

/// Everything that the kernel tells of a program without its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgDetails {
    pub id: u32,
    /// `enum bpf_prog_type`
    pub kind: u32,
    /// At most 15 bytes.
    pub name: String,
    /// The hash of the code, as 16 hexadecimal digits.
    pub tag: String,
    /// Nanoseconds of the boot clock.
    pub load_time_ns: u64,
    pub uid: u32,
    pub map_ids: Vec<u32>,
    /// Since statistics were switched on; 0 when they never were.
    pub run_count: u64,
    pub run_time_ns: u64,
    pub btf_id: u32,
    /// Bytes of translated code.
    pub code_bytes: u32,
    pub func_infos: u32,
}

/// Asks about a program, the maps that it uses included.
///
/// # Errors
/// What the kernel says.
pub fn prog_details(prog: BorrowedFd<'_>) -> Result<ProgDetails> {
    let first: bpf_prog_info = info(prog, "ask about program")?;
    let mut map_ids = vec![0u32; first.nr_map_ids as usize];
    if !map_ids.is_empty() {
        // SAFETY: plain integers, all zero is valid.
        let mut ask: bpf_prog_info = unsafe { std::mem::zeroed() };
        ask.nr_map_ids = first.nr_map_ids;
        ask.map_ids = map_ids.as_mut_ptr() as u64;
        let answer = info_into(prog, ask, "ask about program")?;
        map_ids.truncate(answer.nr_map_ids as usize);
    }
    Ok(ProgDetails {
        id: first.id,
        kind: first.type_,
        name: name_of(&first.name),
        tag: first.tag.iter().map(|b| format!("{b:02x}")).collect(),
        load_time_ns: first.load_time,
        uid: first.created_by_uid,
        map_ids,
        run_count: first.run_cnt,
        run_time_ns: first.run_time_ns,
        btf_id: first.btf_id,
        code_bytes: first.xlated_prog_len,
        func_infos: first.nr_func_info,
    })
}

fn info_into<T>(fd: BorrowedFd<'_>, mut ask: T, what: &'static str) -> Result<T> {
    let mut attr = zeroed();
    attr.info.bpf_fd = ufd(fd);
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = std::ptr::from_mut(&mut ask) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map_err(|e| SysError::new(what, "descriptor", e))?;
    Ok(ask)
}

/// Reads a program's code after the verifier's rewriting. Empty when the kernel does not show it.
///
/// # Errors
/// What the kernel says.
pub fn prog_code(prog: BorrowedFd<'_>, code_bytes: u32) -> Result<Vec<[u8; 8]>> {
    let mut code = vec![[0u8; 8]; code_bytes as usize / 8];
    // SAFETY: plain integers, all zero is valid.
    let mut ask: bpf_prog_info = unsafe { std::mem::zeroed() };
    ask.xlated_prog_len = code_bytes;
    ask.xlated_prog_insns = code.as_mut_ptr() as u64;
    let answer = info_into(prog, ask, "read the code of program")?;
    // The kernel clears the pointer when it hides the code.
    if answer.xlated_prog_insns == 0 {
        code.clear();
    }
    code.truncate(answer.xlated_prog_len as usize / 8);
    Ok(code)
}

/// Reads the BTF type id of a program's main function, for its whole name.
///
/// # Errors
/// What the kernel says.
pub fn prog_main_func(prog: BorrowedFd<'_>) -> Result<Option<u32>> {
    // `struct bpf_func_info`: instruction offset, type id.
    let mut record = [0u32; 2];
    // SAFETY: plain integers, all zero is valid.
    let mut ask: bpf_prog_info = unsafe { std::mem::zeroed() };
    ask.nr_func_info = 1;
    ask.func_info_rec_size = 8;
    ask.func_info = record.as_mut_ptr() as u64;
    let answer = info_into(prog, ask, "ask about program")?;
    Ok((answer.nr_func_info > 0 && answer.func_info != 0 && record[1] != 0).then_some(record[1]))
}

/// Reads the BTF type ids of all functions of a program, its main one first.
///
/// # Errors
/// What the kernel says.
pub fn prog_funcs(prog: BorrowedFd<'_>, count: u32) -> Result<Vec<u32>> {
    // `struct bpf_func_info`: instruction offset, type id.
    let mut records = vec![[0u32; 2]; count as usize];
    // SAFETY: plain integers, all zero is valid.
    let mut ask: bpf_prog_info = unsafe { std::mem::zeroed() };
    ask.nr_func_info = count;
    ask.func_info_rec_size = 8;
    ask.func_info = records.as_mut_ptr() as u64;
    let answer = info_into(prog, ask, "ask about program")?;
    if answer.func_info == 0 {
        return Ok(Vec::new());
    }
    records.truncate(answer.nr_func_info as usize);
    Ok(records.into_iter().map(|[_, id]| id).filter(|id| *id != 0).collect())
}

/// Opens the BTF that the kernel has of one of its modules.
///
/// # Errors
/// `ENOENT` when there is none.
pub fn module_btf(module: &str) -> Result<OwnedFd> {
    for id in ids(ObjectKind::Btf)? {
        // It may be gone by now.
        let Ok(fd) = by_id(ObjectKind::Btf, id) else { continue };
        let mut name = [0u8; 64];
        // SAFETY: plain integers, all zero is valid (and asks for no data).
        let mut ask: bpf_btf_info = unsafe { std::mem::zeroed() };
        ask.name = name.as_mut_ptr() as u64;
        ask.name_len = name.len() as u32;
        let answer = info_into(fd.as_fd(), ask, "ask about BTF object")?;
        if answer.kernel_btf != 0 && name.split(|b| *b == 0).next() == Some(module.as_bytes()) {
            return Ok(fd);
        }
    }
    let gone = io::Error::from_raw_os_error(libc::ENOENT);
    Err(SysError::new("find the types of the module", module, gone))
}

/// A map's information with the types of its key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDetails {
    pub info: MapInfo,
    /// 0 without.
    pub btf_id: u32,
    pub btf_key: u32,
    pub btf_value: u32,
}

/// Asks about a map.
///
/// # Errors
/// What the kernel says.
pub fn map_details(map: BorrowedFd<'_>) -> Result<MapDetails> {
    let raw: bpf_map_info = info(map, "ask about map")?;
    Ok(MapDetails {
        info: super::map_info(map)?,
        btf_id: raw.btf_id,
        btf_key: raw.btf_key_type_id,
        btf_value: raw.btf_value_type_id,
    })
}

/// Reads a BTF object.
///
/// # Errors
/// What the kernel says.
pub fn btf_bytes(btf: BorrowedFd<'_>) -> Result<Vec<u8>> {
    // SAFETY: plain integers, all zero is valid (and asks for no data).
    let mut ask: bpf_btf_info = unsafe { std::mem::zeroed() };
    let size = info_into(btf, ask, "ask about BTF object")?.btf_size;
    let mut data = vec![0u8; size as usize];
    ask.btf = data.as_mut_ptr() as u64;
    ask.btf_size = size;
    info_into(btf, ask, "read BTF object")?;
    Ok(data)
}

/// Where a link holds its program. Kinds that have nothing to do with the network are [`LinkPlace::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPlace {
    Xdp {
        ifindex: u32,
    },
    Tcx {
        ifindex: u32,
        attach_type: u32,
    },
    Netkit {
        ifindex: u32,
        attach_type: u32,
    },
    Cgroup {
        cgroup_id: u64,
        attach_type: u32,
    },
    Netns {
        inode: u32,
        attach_type: u32,
    },
    Netfilter {
        family: u32,
        hook: u32,
        priority: i32,
    },
    /// A function of another program (`freplace`), or of the kernel when `target_prog` is 0.
    Tracing {
        target_prog: u32,
        target_func: u32,
    },
    Other(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkDetails {
    pub id: u32,
    pub prog_id: u32,
    pub place: LinkPlace,
}

/// Asks about a link.
///
/// # Errors
/// What the kernel says.
pub fn link_details(link: BorrowedFd<'_>) -> Result<LinkDetails> {
    let raw: bpf_link_info = info(link, "ask about link")?;
    let place = &raw.__bindgen_anon_1;
    let is = |kind: bpf_link_type| raw.type_ == kind as u32;
    // SAFETY: the kernel fills the member that belongs to the link's type; all members are plain integers.
    let place = unsafe {
        if is(bpf_link_type::BPF_LINK_TYPE_XDP) {
            LinkPlace::Xdp {
                ifindex: place.xdp.ifindex,
            }
        } else if is(bpf_link_type::BPF_LINK_TYPE_TCX) {
            LinkPlace::Tcx {
                ifindex: place.tcx.ifindex,
                attach_type: place.tcx.attach_type,
            }
        } else if is(bpf_link_type::BPF_LINK_TYPE_NETKIT) {
            LinkPlace::Netkit {
                ifindex: place.netkit.ifindex,
                attach_type: place.netkit.attach_type,
            }
        } else if is(bpf_link_type::BPF_LINK_TYPE_CGROUP) {
            LinkPlace::Cgroup {
                cgroup_id: place.cgroup.cgroup_id,
                attach_type: place.cgroup.attach_type,
            }
        } else if is(bpf_link_type::BPF_LINK_TYPE_NETNS) {
            LinkPlace::Netns {
                inode: place.netns.netns_ino,
                attach_type: place.netns.attach_type,
            }
        } else if is(bpf_link_type::BPF_LINK_TYPE_NETFILTER) {
            LinkPlace::Netfilter {
                family: place.netfilter.pf,
                hook: place.netfilter.hooknum,
                priority: place.netfilter.priority,
            }
        } else if is(bpf_link_type::BPF_LINK_TYPE_TRACING) {
            LinkPlace::Tracing {
                target_prog: place.tracing.target_obj_id,
                target_func: place.tracing.target_btf_id,
            }
        } else {
            LinkPlace::Other(raw.type_)
        }
    };
    Ok(LinkDetails {
        id: raw.id,
        prog_id: raw.prog_id,
        place,
    })
}

/// What a hook hangs on.
#[derive(Clone, Copy, Debug)]
pub enum HookTarget<'a> {
    /// An interface of the calling thread's network namespace.
    Ifindex(u32),
    /// A cgroup's folder or a network namespace.
    Fd(BorrowedFd<'a>),
}

/// The programs on a hook, in order of execution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookPrograms {
    pub programs: Vec<HookProgram>,
    /// `BPF_F_ALLOW_*` of a cgroup's hook.
    pub flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookProgram {
    pub id: u32,
    /// 0 when it is attached without a link, or the hook does not tell.
    pub link_id: u32,
    pub flags: u32,
}

/// Asks which programs are on a hook; with `effective`, those of a cgroup's ancestors, too.
///
/// # Errors
/// `EINVAL` when the kernel does not know the hook.
pub fn prog_query(target: HookTarget<'_>, attach_type: u32, effective: bool) -> io::Result<HookPrograms> {
    let mut ids = [0u32; MAX_PROGS];
    let mut flags = [0u32; MAX_PROGS];
    let mut links = [0u32; MAX_PROGS];
    let mut attr = zeroed();
    match target {
        HookTarget::Ifindex(ifindex) => {
            attr.query.__bindgen_anon_1.target_ifindex = ifindex;
            // Only hooks of interfaces know these, and old kernels refuse what they do not know.
            attr.query.link_ids = links.as_mut_ptr() as u64;
            attr.query.prog_attach_flags = flags.as_mut_ptr() as u64;
        }
        HookTarget::Fd(fd) => attr.query.__bindgen_anon_1.target_fd = ufd(fd),
    }
    attr.query.attach_type = attach_type;
    attr.query.query_flags = if effective { QUERY_EFFECTIVE } else { 0 };
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = MAX_PROGS as u32;
    call(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: the kernel has written both integers into this member of the union.
    let (count, hook_flags) = unsafe { (attr.query.__bindgen_anon_2.prog_cnt as usize, attr.query.attach_flags) };
    let programs = (0..count.min(MAX_PROGS)).map(|i| HookProgram {
        id: ids[i],
        link_id: links[i],
        flags: flags[i],
    });
    Ok(HookPrograms {
        programs: programs.filter(|p| p.id != 0).collect(),
        flags: hook_flags,
    })
}

/// Takes a link's program off its hook; the link stays, empty, with whoever holds it.
///
/// # Errors
/// `EOPNOTSUPP` for kinds of links that cannot be detached.
pub fn link_detach(link: &OwnedFd) -> Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = ufd(link.as_fd());
    call(bpf_cmd::BPF_LINK_DETACH, &mut attr)
        .map(drop)
        .map_err(|e| SysError::new("detach", "link", e))
}

/// Detaches a program that was attached without a link.
///
/// # Errors
/// `ENOENT` when it is not there any more.
pub fn prog_detach(target: HookTarget<'_>, attach_type: u32, prog: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut attr = zeroed();
    match target {
        HookTarget::Ifindex(ifindex) => attr.__bindgen_anon_5.__bindgen_anon_1.target_ifindex = ifindex,
        HookTarget::Fd(fd) => attr.__bindgen_anon_5.__bindgen_anon_1.target_fd = ufd(fd),
    }
    attr.__bindgen_anon_5.attach_bpf_fd = ufd(prog);
    attr.__bindgen_anon_5.attach_type = attach_type;
    call(bpf_cmd::BPF_PROG_DETACH, &mut attr)
        .map(drop)
        .map_err(|e| SysError::new("detach program", name, e))
}

/// Reads whether a key is in a map whose values the kernel does not hand out (`ENOENT` is no, anything else yes).
pub fn map_has(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> bool {
    let mut attr = super::elem_attr(map, ptr(key), value.as_mut_ptr() as u64, 0);
    call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr).map_or_else(|e| e.raw_os_error() != Some(libc::ENOENT), |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_say_what_they_are() {
        assert_eq!(kind_of_target("anon_inode:bpf-prog"), Some(ObjectKind::Program));
        assert_eq!(kind_of_target("anon_inode:bpf_link"), Some(ObjectKind::Link));
        assert_eq!(kind_of_target("anon_inode:[eventpoll]"), None);
        assert_eq!(kind_of_target("/dev/null"), None);
    }
}
