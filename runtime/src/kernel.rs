//! The running kernel as the compiler wants to know it. Every fact is found out at the first question.

use crate::binary;
use crate::sys::bpf::{self, ProgAttr};
use crate::sys::cgroup::Cgroup2;
use crate::sys::perf::{self, KprobePmu};
use crate::sys::tracefs::Tracefs;
use crate::sys::{netlink::Netlink, netns, proc};
use crate::types::{self, Types};
use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_prog_type};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use weir_compiler::btf::{Btf, BtfError, BtfType};
use weir_compiler::kernel::{
    BpfFunction, Feature, KernelInfo, KernelVersion, Support, TracepointField, UsdtProbe, UserFunction, UserSymbol, Whereabouts,
};
use weir_compiler::object::LinkLayer;

pub(crate) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The running kernel.
#[derive(Debug, Default)]
pub struct Kernel {
    version: OnceLock<KernelVersion>,
    types: Types,
    tracefs: OnceLock<Result<Tracefs, String>>,
    features: Mutex<HashMap<Feature, Support>>,
    functions: OnceLock<Vec<(String, String)>>,
    names: OnceLock<Vec<String>>,
    files: Mutex<HashMap<String, Result<Vec<UserFunction>, String>>>,
    /// Where tracepoints are looked up.
    events: Events,
    /// Fields of tracepoints, by category and name.
    tracepoints: Mutex<HashMap<(String, String), Vec<TracepointField>>>,
}

/// Where tracepoints are looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Events {
    /// In tracefs, which is right.
    #[default]
    Tracefs,
    /// In tracefs, or in BTF if that cannot be read: good enough to judge a script, not to run it.
    TracefsOrBtf,
    /// In BTF, system calls in tracefs: they are the same on most kernels.
    Btf,
}

impl Kernel {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The running kernel, for somebody who may not read tracefs and will not run the script: tracepoints are then those of its BTF.
    #[must_use]
    pub fn for_judging() -> Self {
        Self {
            events: Events::TracefsOrBtf,
            ..Self::default()
        }
    }

    /// Another kernel, of which its BTF is all that is known: what that does not tell is taken to be there.
    ///
    /// # Errors
    /// When it is not BTF, or damaged.
    pub fn of_btf(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let btf = Btf::from_bytes(bytes)?;
        btf.check()?;
        let name = |id| match btf.type_by_id(id) {
            Some(BtfType::Func { name, .. }) => Some(name.to_owned()),
            _ => None,
        };
        let mut functions: Vec<String> = btf.ids().filter_map(name).collect();
        functions.sort_unstable();
        functions.dedup();
        let kernel = Self {
            types: Types::of(btf),
            events: Events::Btf,
            names: OnceLock::from(functions.clone()),
            functions: OnceLock::from(functions.into_iter().map(|f| ("vmlinux".to_owned(), f)).collect::<Vec<_>>()),
            ..Self::default()
        };
        let there = [
            Feature::Btf,
            Feature::Kprobe,
            Feature::KprobeMulti,
            Feature::Fentry,
            Feature::Tcx,
            Feature::Pmu,
        ];
        let kernel = there.into_iter().fold(kernel, |k, f| k.assume(f, Support::Yes));
        Ok(kernel.assume(Feature::IsaV4, Support::No("the other kernel may be older".to_owned())))
    }

    /// Takes an answer for granted instead of probing: for `--no-feature`, and for tests of what older kernels get.
    #[must_use]
    pub fn assume(self, feature: Feature, answer: Support) -> Self {
        self.features
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(feature, answer);
        self
    }

    /// Opens tracefs, privately mounted if need be.
    ///
    /// # Errors
    /// Why it is not to be had, in one line.
    pub fn tracefs(&self) -> Result<&Tracefs, String> {
        self.tracefs
            .get_or_init(|| Tracefs::open().map_err(|e| e.to_string()))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn probe(&self, feature: Feature) -> Support {
        match feature {
            Feature::Kprobe => match KprobePmu::read() {
                Some(_) => Support::Yes,
                None => Support::No(missing_config("CONFIG_KPROBES").unwrap_or_else(|| "CONFIG_KPROBES is not set".to_owned())),
            },
            Feature::KprobeMulti => match self.btf() {
                Some(btf) if btf.find_func("register_fprobe_ips").is_some() => Support::Yes,
                Some(_) => Support::No("CONFIG_FPROBE is not set".to_owned()),
                None => Support::Unknown("the kernel has no BTF to look it up in".to_owned()),
            },
            Feature::Fentry => self.probe_fentry(),
            // Whether the processor's cycles can be counted.
            Feature::Pmu => match perf::counter(true, 0, 1_000_000, perf::Whose::Process(0), "cycles") {
                Ok(_) => Support::Yes,
                Err(e) if matches!(e.errno(), libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV) => {
                    Support::No("the processor shows no counters, as in most virtual machines".to_owned())
                }
                Err(e) => Support::Unknown(e.source.to_string()),
            },
            // Whether a query on the loopback interface is understood.
            Feature::Tcx => match bpf::tcx_programs(1, true) {
                Ok(_) => Support::Yes,
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Support::No("tcx came with Linux 6.6".to_owned()),
                Err(e) => Support::Unknown(e.to_string()),
            },
            Feature::IsaV4 => {
                if self.version() >= KernelVersion::new(6, 6, 0) {
                    Support::Yes
                } else {
                    Support::No("BPF instruction set v4 came with Linux 6.6".to_owned())
                }
            }
            Feature::Btf => match std::fs::metadata(VMLINUX) {
                Ok(_) => Support::Yes,
                Err(_) => Support::No("CONFIG_DEBUG_INFO_BTF is not set".to_owned()),
            },
            Feature::Tracefs => match self.tracefs() {
                Ok(_) => Support::Yes,
                Err(e) if !filesystem_known("tracefs") => Support::No(format!("CONFIG_TRACING is not set ({e})")),
                Err(e) => Support::Unknown(e),
            },
        }
    }

    /// Loads (and throws away) a program on a function that the kernel keeps for such tests.
    fn probe_fentry(&self) -> Support {
        let Some(id) = self.btf().and_then(|btf| btf.find_func("bpf_fentry_test1")) else {
            return Support::No("the kernel has no BTF, or none of its test functions".to_owned());
        };
        // r0 = 0; exit
        let insns = [insn(0xb7, 0), insn(0x95, 0)];
        let (kind, attach_type) = (bpf_prog_type::BPF_PROG_TYPE_TRACING, bpf_attach_type::BPF_TRACE_FENTRY);
        let attr = ProgAttr {
            attach_btf_id: id.0,
            ..ProgAttr::new("weir_probe", kind as u32, attach_type as u32, &insns)
        };
        let loaded = match bpf::prog_load(&attr) {
            Ok(fd) => fd,
            Err(bpf::ProgLoadError::Sys(e)) => {
                return Support::No(format!("the kernel refuses such programs: {}", crate::sys::describe(&e.source)));
            }
            Err(e) => return Support::No(format!("the kernel refuses such programs: {e}")),
        };
        match bpf::link_create(loaded.as_fd(), bpf::LinkTarget::Tracing { exit: false }, "fentry") {
            Ok(_) => Support::Yes,
            Err(e) => Support::No(format!(
                "the kernel refuses to attach such programs: {}",
                crate::sys::describe(&e.source)
            )),
        }
    }

    /// Lists the functions that ftrace can hook, else all text symbols, without those that may not be probed: module and name.
    fn read_functions(&self) -> Vec<(String, String)> {
        let filter = self.tracefs().ok().and_then(|t| t.read("available_filter_functions").ok());
        let mut all: Vec<(String, String)> = match filter {
            Some(text) => text.lines().filter_map(filter_function).collect(),
            None => {
                let text = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
                text.lines().filter_map(text_symbol).collect()
            }
        };
        // `0xADDRESS-0xADDRESS NAME`; there is no list where debugfs is not mounted.
        let blacklist = std::fs::read_to_string("/sys/kernel/debug/kprobes/blacklist").unwrap_or_default();
        let protected: std::collections::HashSet<&str> = blacklist.lines().filter_map(|l| l.split_ascii_whitespace().nth(1)).collect();
        all.retain(|(_, name)| !protected.contains(name.as_str()));
        all.sort_unstable_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
        all.dedup();
        all
    }

    fn names(&self) -> &[String] {
        self.names.get_or_init(|| {
            let mut names: Vec<String> = self.functions_by_module().into_iter().map(|(_, name)| name).collect();
            names.dedup();
            names
        })
    }
}

/// `NAME`, or `NAME [MODULE]` in ftrace's list.
fn filter_function(line: &str) -> Option<(String, String)> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next()?;
    let module = words.next().and_then(|m| m.strip_prefix('[')?.strip_suffix(']'));
    Some((module.unwrap_or("vmlinux").to_owned(), name.to_owned()))
}

pub(crate) fn insn(code: u8, imm: i32) -> bpf_insn {
    // SAFETY: bpf_insn is plain integers and bit fields; zero is register 0 twice, offset 0.
    let mut insn: bpf_insn = unsafe { std::mem::zeroed() };
    insn.code = code;
    insn.imm = imm;
    insn
}

/// Module and name of a text symbol in a line of `/proc/kallsyms`.
fn text_symbol(line: &str) -> Option<(String, String)> {
    let mut words = line.split_ascii_whitespace();
    let (_, kind, name) = (words.next()?, words.next()?, words.next()?);
    let module = words.next().and_then(|m| m.strip_prefix('[')?.strip_suffix(']'));
    // `__pfx_` and `.cold` parts are not functions that anybody calls.
    let called = matches!(kind, "t" | "T") && !name.contains('.') && !name.starts_with("__pfx_") && module != Some("bpf");
    called.then(|| (module.unwrap_or("vmlinux").to_owned(), name.to_owned()))
}

fn filesystem_known(name: &str) -> bool {
    std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.split_ascii_whitespace().any(|w| w == name))
}

/// Says that an option is not set, when the kernel's configuration can be read without unpacking it.
fn missing_config(option: &str) -> Option<String> {
    let release = uname_release();
    let text = std::fs::read_to_string(format!("/boot/config-{release}")).ok()?;
    (!text.lines().any(|l| l.starts_with(option) && l[option.len()..].starts_with("=y"))).then(|| format!("{option} is not set"))
}

fn uname_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

/// The version of the kernel that runs.
#[must_use]
pub fn running_version() -> KernelVersion {
    parse_version(&uname_release())
}

/// Parses `6.18.44-fc-v669` and `6.1.0-25-cloud-amd64`.
#[must_use]
pub fn parse_version(release: &str) -> KernelVersion {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    KernelVersion::new(next(), next(), next())
}

/// Reads a tracepoint's `format` file.
#[must_use]
pub fn parse_format(text: &str) -> Vec<TracepointField> {
    text.lines()
        .filter_map(|line| parse_field(line.trim().strip_prefix("field:")?))
        .collect()
}

/// `char comm[16]; offset:8; size:16; signed:0;`, with tabs between the parts.
fn parse_field(line: &str) -> Option<TracepointField> {
    let mut parts = line.split(';').map(str::trim);
    let declaration = parts.next()?;
    let mut number = |name: &str| -> Option<u32> { parts.next()?.strip_prefix(name)?.strip_prefix(':')?.parse().ok() };
    let (offset, size, signed) = (number("offset")?, number("size")?, number("signed").unwrap_or(0) != 0);
    // `__rel_loc` counts from the end of its field and stays the plain number that it is.
    let data_loc = declaration.starts_with("__data_loc");
    let (ty, name) = match declaration.rfind([' ', '*']) {
        Some(at) => (declaration[..=at].trim(), &declaration[at + 1..]),
        None => ("", declaration),
    };
    let (name, array) = match name.split_once('[') {
        Some((name, len)) => (
            name,
            Some(len.trim_end_matches(']').parse().unwrap_or_else(|_| size / element_size(ty))),
        ),
        None => (name, None),
    };
    // `__data_loc char[] name`: the brackets are part of the type there.
    Some(TracepointField {
        name: name.to_owned(),
        ty: ty.to_owned(),
        offset,
        size,
        signed,
        array: array.filter(|_| !data_loc),
        data_loc,
    })
}

/// For arrays whose length is written with a name (`[NR_X]`).
fn element_size(ty: &str) -> u32 {
    match ty.trim_start_matches("const ").trim_start_matches("unsigned ") {
        "short" | "u16" | "__u16" | "s16" | "__be16" => 2,
        "int" | "u32" | "__u32" | "s32" | "__be32" | "__le32" => 4,
        "long" | "u64" | "__u64" | "s64" | "long long" | "size_t" => 8,
        ty if ty.ends_with('*') => 8,
        _ => 1,
    }
}

/// What everybody may write is not run with the rights of whoever starts weir.
fn refuse_writable(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path)
        .map_err(|e| format!("cannot read `{}`: {e}", path.display()))?
        .permissions()
        .mode();
    if mode & 0o002 != 0 {
        return Err(format!(
            "everybody may write to `{}`: nothing is imported from there",
            path.display()
        ));
    }
    Ok(())
}

/// Reads one imported script. It is known by its canonical path, so that it is taken once whatever it was called.
fn read_script(path: &Path) -> Result<(String, String), String> {
    refuse_writable(path)?;
    let name = std::fs::canonicalize(path).map_or_else(|_| path.display().to_string(), |p| p.display().to_string());
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read `{name}`: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|e| format!("`{name}` is not UTF-8 text: byte {}", e.utf8_error().valid_up_to()))?;
    Ok((name, text))
}

/// Inode of the namespace that the machine started with (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

impl KernelInfo for Kernel {
    fn version(&self) -> KernelVersion {
        *self.version.get_or_init(running_version)
    }

    fn feature(&self, feature: Feature) -> Support {
        let lock = || self.features.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = lock().get(&feature) {
            return known.clone();
        }
        let answer = self.probe(feature);
        lock().insert(feature, answer.clone());
        answer
    }

    fn btf(&self) -> Option<&Btf> {
        self.types.get()
    }

    fn add_modules(&self, modules: &[&str]) -> Result<(), String> {
        self.types.add(modules)
    }

    fn bpf_functions(&self) -> Result<Vec<BpfFunction>, String> {
        types::bpf_functions()
    }

    fn tracepoint(&self, category: &str, name: &str) -> Option<Vec<TracepointField>> {
        // Asked for at each mention and in each round of the checker. What is not there may come, so only what is there is kept.
        let mut known = self.tracepoints.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (category.to_owned(), name.to_owned());
        if let Some(fields) = known.get(&key) {
            return Some(fields.clone());
        }
        let read = || {
            let tracefs = self.tracefs().map_err(|_| ())?;
            Ok(tracefs
                .read(&format!("events/{category}/{name}/format"))
                .ok()
                .map(|text| parse_format(&text)))
        };
        let of_btf = || self.btf()?.tracepoint(category, name);
        let fields = match self.events {
            Events::Tracefs => read().unwrap_or(None),
            Events::TracefsOrBtf => read().unwrap_or_else(|()| of_btf()),
            Events::Btf if category == "syscalls" => read().unwrap_or(None).or_else(of_btf),
            Events::Btf => of_btf(),
        }?;
        known.insert(key, fields.clone());
        Some(fields)
    }

    fn tracepoints(&self) -> Vec<(String, String)> {
        let Ok(tracefs) = self.tracefs() else { return Vec::new() };
        let mut all = Vec::new();
        for category in tracefs.list("events").unwrap_or_default() {
            // Files such as `enable` stand between the directories; ftrace's own events cannot be attached to.
            if category == "ftrace" || category == "header_page" || category == "header_event" {
                continue;
            }
            for name in tracefs.list(&format!("events/{category}")).unwrap_or_default() {
                if name != "enable" && name != "filter" {
                    all.push((category.clone(), name));
                }
            }
        }
        all
    }

    fn has_function(&self, name: &str) -> bool {
        // BTF knows the functions that were not inlined, and knows them at once; the lists are long.
        self.btf().is_some_and(|btf| btf.find_func(name).is_some()) || self.names().binary_search_by(|f| f.as_str().cmp(name)).is_ok()
    }

    fn functions(&self) -> Vec<String> {
        self.names().to_vec()
    }

    fn functions_by_module(&self) -> Vec<(String, String)> {
        self.functions.get_or_init(|| self.read_functions()).clone()
    }

    fn binaries(&self, name: &str) -> Result<Vec<String>, String> {
        binary::find(name)
    }

    fn user_functions(&self, path: &str) -> Result<Vec<UserFunction>, String> {
        // Types are checked in rounds, each of which asks again.
        let mut files = self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        files.entry(path.to_owned()).or_insert_with(|| binary::functions(path)).clone()
    }

    fn usdt_probes(&self, path: &str) -> Result<Vec<UsdtProbe>, String> {
        binary::usdt_probes(path)
    }

    fn code_offset(&self, path: &str, address: u64) -> Option<u64> {
        binary::code_offset(path, address)
    }

    fn code_address(&self, path: &str, offset: u64) -> Option<u64> {
        binary::code_address(path, offset)
    }

    fn user_symbols(&self, path: &str) -> Result<Vec<UserSymbol>, String> {
        binary::symbols(path)
    }

    fn interfaces(&self) -> Vec<String> {
        let links = Netlink::open().and_then(|mut n| n.links()).unwrap_or_default();
        links.into_iter().map(|l| l.name).collect()
    }

    fn interface_kind(&self, name: &str) -> Option<String> {
        let link = Netlink::open().and_then(|mut n| n.link(name)).ok()??;
        Some(link.kind).filter(|kind| !kind.is_empty())
    }

    fn whereabouts(&self, address: std::net::IpAddr) -> Option<Whereabouts> {
        let mut netlink = Netlink::open().ok()?;
        let route = netlink.route(address).ok()??;
        if route.local {
            return Some(Whereabouts::Here);
        }
        let links = netlink.links().ok()?;
        let link = links.into_iter().find(|l| l.ifindex == route.ifindex)?;
        Some(Whereabouts::Behind(link.name))
    }

    fn interfaces_in(&self, netns: &str) -> io::Result<Vec<String>> {
        let links = netns::run_in(Some(netns), || Netlink::open().and_then(|mut n| n.links()));
        let links = links.and_then(|links| links).map_err(|e| e.source)?;
        Ok(links.into_iter().map(|l| l.name).collect())
    }

    fn link_layer(&self, iface: &str, netns: Option<&str>) -> Option<LinkLayer> {
        let link = netns::run_in(netns, || Netlink::open()?.link(iface)).and_then(|l| l).ok()??;
        crate::attach::iface::link_layer(&link)
    }

    fn network_namespaces(&self) -> Vec<String> {
        netns::named()
    }

    fn cgroup_id(&self, path: &str) -> Option<u64> {
        Cgroup2::get().ok()?.id(path)
    }

    fn cgroups(&self, pattern: &str) -> Result<Vec<String>, String> {
        Ok(Cgroup2::get()?.find(pattern))
    }

    fn cgroup_path(&self, path: &str) -> String {
        Cgroup2::get().map_or_else(|_| path.to_owned(), |root| root.normal(path))
    }

    fn cgroups_below(&self, path: &str) -> Vec<String> {
        let mut all = Vec::new();
        if let Ok(root) = Cgroup2::get() {
            root.walk(path, &mut |path, _| all.push(path.to_owned()));
        }
        all
    }

    fn symbol_address(&self, name: &str) -> Option<u64> {
        let text = std::fs::read_to_string("/proc/kallsyms").ok()?;
        text.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let addr = u64::from_str_radix(words.next()?, 16).ok().filter(|a| *a != 0)?;
            (words.nth(1)? == name).then_some(addr)
        })
    }

    fn import(&self, path: &Path) -> Result<Vec<(String, String)>, String> {
        let name = path.display().to_string();
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => format!("there is no file `{name}`"),
            _ => format!("cannot read `{name}`: {e}"),
        };
        let info = std::fs::metadata(path).map_err(failed)?;
        if info.is_dir() {
            refuse_writable(path)?;
            let entries = std::fs::read_dir(path).map_err(failed)?;
            let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
            files.retain(|p| p.extension().is_some_and(|e| e == "bt" || e == "weir"));
            files.sort();
            if files.is_empty() {
                return Err(format!("there is no script in the directory `{name}`"));
            }
            return files.iter().map(|file| read_script(file)).collect();
        }
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."));
        refuse_writable(folder)?;
        Ok(vec![read_script(path)?])
    }

    fn pid_namespace(&self) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let own = std::fs::metadata("/proc/self/ns/pid").ok()?;
        (own.ino() != FIRST_PID_NAMESPACE).then(|| (own.dev(), own.ino()))
    }

    fn cpus(&self) -> u32 {
        proc::possible_cpus()
    }

    fn memory(&self) -> Option<u64> {
        proc::memory()
    }

    fn read_file(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("6.18.44-fc-v669"), KernelVersion::new(6, 18, 44));
        assert_eq!(parse_version("6.1.0-25-cloud-amd64"), KernelVersion::new(6, 1, 0));
        assert_eq!(parse_version("6.12"), KernelVersion::new(6, 12, 0));
    }

    #[test]
    fn tracepoint_formats() {
        let text = "\
name: tcp_probe
ID: 1400
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:__u8 saddr[28];\toffset:8;\tsize:28;\tsigned:0;
\tfield:const char * filename;\toffset:40;\tsize:8;\tsigned:0;
\tfield:__data_loc char[] name;\toffset:48;\tsize:4;\tsigned:0;
\tfield:const char *const * argv;\toffset:56;\tsize:8;\tsigned:0;
\tfield:unsigned long args[N];\toffset:64;\tsize:48;\tsigned:0;

print fmt: \"x\"
";
        let fields = parse_format(text);
        let find = |name: &str| fields.iter().find(|f| f.name == name).unwrap().clone();
        assert!(find("common_pid").signed);
        assert_eq!(
            find("saddr"),
            TracepointField {
                name: "saddr".into(),
                ty: "__u8".into(),
                offset: 8,
                size: 28,
                signed: false,
                array: Some(28),
                data_loc: false
            }
        );
        assert_eq!(find("filename").ty, "const char *");
        assert_eq!(
            (find("name").ty.as_str(), find("name").data_loc, find("name").array),
            ("__data_loc char[]", true, None)
        );
        assert_eq!(find("argv").ty, "const char *const *");
        assert_eq!(find("args").array, Some(6));
    }

    #[test]
    fn a_tracepoint_is_read_once_and_a_missing_one_is_looked_for_again() {
        let kernel = Kernel::new();
        if let Err(why) = kernel.tracefs() {
            eprintln!("skipped: no tracefs: {why}");
            return;
        }
        let known = || kernel.tracepoints.lock().unwrap().len();
        let first = kernel.tracepoint("sched", "sched_process_exit").unwrap();
        assert!(first.iter().any(|f| f.name == "pid"), "{first:?}");
        assert_eq!(kernel.tracepoint("sched", "sched_process_exit").unwrap(), first);
        assert_eq!(known(), 1);
        assert_eq!(kernel.tracepoint("sched", "no_such_tracepoint"), None);
        assert_eq!(known(), 1);
    }

    #[test]
    fn text_symbols() {
        let pair = |module: &str, name: &str| Some((module.to_owned(), name.to_owned()));
        assert_eq!(text_symbol("ffffffff81000000 T tcp_sendmsg"), pair("vmlinux", "tcp_sendmsg"));
        assert_eq!(text_symbol("ffffffff81000000 t veth_xmit\t[veth]"), pair("veth", "veth_xmit"));
        assert_eq!(text_symbol("ffffffff81000000 t bpf_prog_1\t[bpf]"), None);
        assert_eq!(filter_function("veth_xmit [veth]"), pair("veth", "veth_xmit"));
        assert_eq!(filter_function("tcp_sendmsg"), pair("vmlinux", "tcp_sendmsg"));
        assert_eq!(text_symbol("ffffffff81000000 D jiffies"), None);
        assert_eq!(text_symbol("ffffffff81000000 t foo.cold"), None);
    }
}
