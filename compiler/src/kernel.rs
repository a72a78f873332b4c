//! What the compiler knows of the kernel it compiles for. The runtime implements [`KernelInfo`] for the running
//! kernel, tests for checked-in fixtures.

use crate::btf::Btf;
use crate::object::LinkLayer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    pub major: u16,
    pub minor: u16,
    pub patch: u16,
}

impl KernelVersion {
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }
}

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The answer of a feature probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    Yes,
    /// With the reason in the user's words: ``CONFIG_KPROBES is not set``.
    No(String),
    /// Could not be found out (no permission, …), with why.
    Unknown(String),
}

/// Things that a kernel may lack. Each is probed at most once, and only when the script needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    Kprobe,
    KprobeMulti,
    Fentry,
    Tcx,
    /// BPF instruction set v4: `sdiv`, `smod`, `movsx`, `bswap`, `gotol`.
    IsaV4,
    Btf,
    Tracefs,
    /// Counters of the processor.
    Pmu,
}

/// One field of a tracepoint's record, as its `format` file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracepointField {
    pub name: String,
    /// The C type as written, without the array part: `const char *`, `__u8`, `__data_loc char[]`.
    pub ty: String,
    /// Bytes from the start of the program's context.
    pub offset: u32,
    pub size: u32,
    pub signed: bool,
    /// Number of elements for `__u8 saddr[4]`.
    pub array: Option<u32>,
    pub data_loc: bool,
}

/// Where the host of an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// It is one of this machine's own.
    Here,
    /// Packets for it leave by this interface.
    Behind(String),
}

/// A function of a program or library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFunction {
    /// As the symbol table has it.
    pub name: String,
    /// As a C++ programmer writes it, where the name is mangled.
    pub demangled: Option<String>,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Chosen when the program is loaded (`STT_GNU_IFUNC`): what is at `offset` runs once and chooses.
    pub indirect: bool,
}

/// A symbol of a program or library: function or variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSymbol {
    pub name: String,
    /// As `nm` prints it.
    pub address: u64,
    /// In bytes, 0 where the file does not say.
    pub size: u64,
}

/// One place of a static event of a program or library, as its note says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsdtProbe {
    pub provider: String,
    pub name: String,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Where the counter lies that tells the program that somebody listens; 0 where there is none.
    pub semaphore: u64,
    /// Where the arguments are: `-4@%eax 8@16(%rbp)`.
    pub args: String,
}

/// A function of a BPF program that is loaded: its main one, or one that it calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfFunction {
    /// The id of the program.
    pub program: u32,
    pub name: String,
    /// In the program's own types.
    pub btf_id: u32,
    /// Whether the program is itself one that traces: as a rule those cannot be traced.
    pub tracing: bool,
    /// Of each argument, whether the kernel lets a tracing program have it.
    pub args: Vec<bool>,
    pub returns: bool,
}

/// The kernel as the compiler sees it.
pub trait KernelInfo {
    fn version(&self) -> KernelVersion;
    fn feature(&self, feature: Feature) -> Support;
    /// Returns the types of vmlinux, or `None` where the kernel has no BTF. Those of modules that were asked for are behind them.
    fn btf(&self) -> Option<&Btf>;
    /// Adds the types of modules to [`KernelInfo::btf`]; the numbers of those that are there do not change.
    ///
    /// # Errors
    /// Why the kernel does not have those of one, in one line.
    fn add_modules(&self, modules: &[&str]) -> Result<(), String> {
        match modules {
            [] => Ok(()),
            [module, ..] => Err(format!("the types of the module `{module}` are not known here")),
        }
    }
    /// Lists the functions of all BPF programs that are loaded.
    ///
    /// # Errors
    /// Why they cannot be listed, in one line.
    fn bpf_functions(&self) -> Result<Vec<BpfFunction>, String> {
        Ok(Vec::new())
    }
    /// Returns the fields of a tracepoint, `None` when there is no such tracepoint.
    fn tracepoint(&self, category: &str, name: &str) -> Option<Vec<TracepointField>>;
    /// Lists every tracepoint as `(category, name)`, sorted. Slow; for globs and "did you mean".
    fn tracepoints(&self) -> Vec<(String, String)>;
    /// Returns whether a kprobe can be put on the function.
    fn has_function(&self, name: &str) -> bool;
    /// Lists the functions that can be probed, sorted. Slow; for globs and "did you mean".
    fn functions(&self) -> Vec<String>;
    /// Lists the functions that can be probed with the module that each is in, `vmlinux` for the kernel's own.
    fn functions_by_module(&self) -> Vec<(String, String)> {
        self.functions().into_iter().map(|f| ("vmlinux".to_owned(), f)).collect()
    }
    /// Finds a program or library by path, by name in `PATH`, by name of a library, or by a pattern of paths.
    ///
    /// # Errors
    /// Why there is none, in one line.
    fn binaries(&self, name: &str) -> Result<Vec<String>, String> {
        Err(format!("there is no program or library `{name}`"))
    }
    /// Lists the functions of a program or library, sorted by name.
    ///
    /// # Errors
    /// Why the file cannot be read, in one line.
    fn user_functions(&self, _path: &str) -> Result<Vec<UserFunction>, String> {
        Ok(Vec::new())
    }
    /// Lists the static events of a program or library.
    ///
    /// # Errors
    /// Why the file cannot be read, in one line.
    fn usdt_probes(&self, _path: &str) -> Result<Vec<UsdtProbe>, String> {
        Ok(Vec::new())
    }
    /// Translates an address, as `nm` prints it, to an offset in the file; `None` outside of the code.
    fn code_offset(&self, _path: &str, _address: u64) -> Option<u64> {
        None
    }
    /// The other way: what `nm` would print for an offset in the file.
    fn code_address(&self, _path: &str, _offset: u64) -> Option<u64> {
        None
    }
    /// Lists the functions and variables of a program or library, sorted by name.
    ///
    /// # Errors
    /// Why the file cannot be read, in one line.
    fn user_symbols(&self, _path: &str) -> Result<Vec<UserSymbol>, String> {
        Ok(Vec::new())
    }
    /// Lists the network interfaces of weir's own network namespace.
    fn interfaces(&self) -> Vec<String>;
    /// Lists the network interfaces of another network namespace: a name of `ip netns`, a pid, or a path.
    ///
    /// # Errors
    /// `NotFound` when there is no such namespace; else why it cannot be looked into.
    fn interfaces_in(&self, netns: &str) -> std::io::Result<Vec<String>>;
    /// Returns what the packets of an interface start with, `None` when it is neither Ethernet nor IP, or not there.
    fn link_layer(&self, iface: &str, netns: Option<&str>) -> Option<LinkLayer>;
    /// Returns what made an interface of weir's own network namespace, where it is not hardware: `veth`, `tun`.
    fn interface_kind(&self, _name: &str) -> Option<String> {
        None
    }
    /// Says where an address is, by the routes of weir's own network namespace.
    fn whereabouts(&self, _address: std::net::IpAddr) -> Option<Whereabouts> {
        None
    }
    /// Lists the names of `ip netns`.
    fn network_namespaces(&self) -> Vec<String>;
    /// Returns whether interface names mean nothing: there is no kernel, packets come from a file, with and without
    /// Ethernet.
    fn any_interface(&self) -> bool {
        false
    }
    /// Returns the id of a cgroup v2 directory.
    fn cgroup_id(&self, path: &str) -> Option<u64>;
    /// Finds the cgroup v2 directories that a path or a pattern names, as paths from the root of the hierarchy; a path may also be one of
    /// the file system.
    ///
    /// # Errors
    /// Why there is no hierarchy to look at.
    fn cgroups(&self, pattern: &str) -> Result<Vec<String>, String>;
    /// Returns a path or pattern, as people write it, as one from the root of the hierarchy.
    fn cgroup_path(&self, path: &str) -> String {
        format!("/{}", path.trim_matches('/'))
    }
    /// Lists the cgroups below one, itself included. Slow; for "did you mean".
    fn cgroups_below(&self, path: &str) -> Vec<String>;
    /// Returns the address of a symbol of the kernel, `None` where there is none or addresses are hidden.
    fn symbol_address(&self, _name: &str) -> Option<u64> {
        None
    }
    /// Returns device and inode of weir's own pid namespace, `None` in the first one.
    fn pid_namespace(&self) -> Option<(u64, u64)> {
        None
    }
    /// Reads what `import` names: a file, or all scripts of a directory in the order of their names. Each with the name it is known by.
    ///
    /// # Errors
    /// Why it cannot be, in the user's words.
    fn import(&self, path: &std::path::Path) -> Result<Vec<(String, String)>, String> {
        Err(format!("`{}` cannot be read here", path.display()))
    }
    /// Number of possible CPUs.
    fn cpus(&self) -> u32;
    /// Bytes of memory of the machine that the script is to run on, where that is known.
    fn memory(&self) -> Option<u64> {
        None
    }
    /// Reads a file that the script names with `file("…")`.
    ///
    /// # Errors
    /// Whatever reading the file gave.
    fn read_file(&self, path: &str) -> std::io::Result<Vec<u8>>;
}
