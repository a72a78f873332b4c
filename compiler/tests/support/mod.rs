//! A kernel for tests: types from a checked-in extract of Linux 6.18, a few tracepoints, no I/O.

#![allow(clippy::unwrap_used, dead_code)] // A panic is the failure; each test uses its part.

mod module;
pub use module::module;

use std::sync::OnceLock;
use weir_compiler::btf::Btf;
use weir_compiler::hir::glob_match;
use weir_compiler::kernel::{
    BpfFunction, Feature, KernelInfo, KernelVersion, Support, TracepointField, UsdtProbe, UserFunction, Whereabouts,
};
use weir_compiler::object::LinkLayer;

pub struct FixtureKernel {
    pub kprobes: bool,
    pub tcx: bool,
    pub btf: bool,
    pub fentry: bool,
    pub pmu: bool,
    /// Instruction set v4.
    pub v4: bool,
}

impl Default for FixtureKernel {
    fn default() -> Self {
        Self {
            kprobes: true,
            tcx: true,
            btf: true,
            fentry: true,
            pmu: true,
            v4: true,
        }
    }
}

fn field(name: &str, ty: &str, offset: u32, size: u32, signed: bool, array: Option<u32>) -> TracepointField {
    TracepointField {
        name: name.to_owned(),
        ty: ty.to_owned(),
        offset,
        size,
        signed,
        array,
        data_loc: ty.starts_with("__data_loc"),
    }
}

const TRACEPOINTS: &[(&str, &str)] = &[
    ("sched", "sched_process_exec"),
    ("syscalls", "sys_enter_openat"),
    ("syscalls", "sys_exit_openat"),
    ("tcp", "tcp_retransmit_skb"),
    ("tcp", "tcp_send_reset"),
];

/// The files that scripts can name.
const FILES: &[(&str, &str)] = &[
    ("tools.bt", "macro twice(n) { n * 2 }\n"),
    ("bad.txt", "192.0.2.0/24 # seen in the logs\n2001:db8::7\n"),
    ("old.txt", "# lines end with CR alone\r192.0.2.1\r10.1.2.3/8\r"),
];

impl KernelInfo for FixtureKernel {
    fn version(&self) -> KernelVersion {
        KernelVersion::new(6, 18, 0)
    }

    fn feature(&self, feature: Feature) -> Support {
        match feature {
            Feature::Kprobe if !self.kprobes => Support::No("CONFIG_KPROBES is not set".to_owned()),
            Feature::Fentry if !self.fentry => Support::No("the kernel refuses fentry programs".to_owned()),
            Feature::Pmu if !self.pmu => Support::No("the processor shows no counters".to_owned()),
            Feature::IsaV4 if !self.v4 => Support::No("the kernel is older than 6.6".to_owned()),
            Feature::Tcx if !self.tcx => Support::No("the kernel is older than 6.6".to_owned()),
            _ => Support::Yes,
        }
    }

    fn btf(&self) -> Option<&Btf> {
        static BTF: OnceLock<Btf> = OnceLock::new();
        let load = || {
            let blob = include_bytes!("../fixtures/vmlinux-6.18.btf").to_vec();
            let own = Btf::from_bytes(blob.clone()).unwrap();
            let veth = module(&own, &blob, "veth_xmit", "veth_stats");
            own.with_modules(&[("veth".to_owned(), veth)]).unwrap()
        };
        self.btf.then(|| BTF.get_or_init(load))
    }

    fn add_modules(&self, modules: &[&str]) -> Result<(), String> {
        match modules.iter().find(|m| **m != "veth") {
            None => Ok(()),
            Some(other) => Err(format!("the types of the module `{other}` cannot be read: no such file")),
        }
    }

    fn bpf_functions(&self) -> Result<Vec<BpfFunction>, String> {
        let function = |program, name: &str, tracing, args: &[bool], returns| BpfFunction {
            program,
            name: name.to_owned(),
            btf_id: 3,
            tracing,
            args: args.to_vec(),
            returns,
        };
        Ok(vec![
            function(7, "guard_ingress", false, &[true], true),
            function(7, "guard_count", false, &[true, false], false),
            function(9, "guard_watch", true, &[true], true),
        ])
    }

    fn tracepoint(&self, category: &str, name: &str) -> Option<Vec<TracepointField>> {
        Some(match (category, name) {
            ("syscalls", "sys_enter_openat") => vec![
                field("__syscall_nr", "int", 8, 4, true, None),
                field("dfd", "int", 16, 8, false, None),
                field("filename", "const char *", 24, 8, false, None),
                field("flags", "int", 32, 8, false, None),
            ],
            ("syscalls", "sys_exit_openat") => vec![field("ret", "long", 16, 8, true, None)],
            ("tcp", "tcp_retransmit_skb") => vec![
                field("skbaddr", "const void *", 8, 8, false, None),
                field("state", "int", 24, 4, true, None),
                field("sport", "__u16", 28, 2, false, None),
                field("dport", "__u16", 30, 2, false, None),
                field("family", "__u16", 32, 2, false, None),
                field("saddr", "__u8", 34, 4, false, Some(4)),
                field("daddr", "__u8", 38, 4, false, Some(4)),
                field("saddr_v6", "__u8", 42, 16, false, Some(16)),
                field("daddr_v6", "__u8", 58, 16, false, Some(16)),
            ],
            ("tcp", "tcp_send_reset") => vec![],
            ("sched", "sched_process_exec") => {
                vec![
                    field("filename", "__data_loc char[]", 8, 4, true, None),
                    field("pid", "pid_t", 12, 4, true, None),
                ]
            }
            _ => return None,
        })
    }

    fn tracepoints(&self) -> Vec<(String, String)> {
        TRACEPOINTS.iter().map(|(c, n)| ((*c).to_owned(), (*n).to_owned())).collect()
    }

    fn has_function(&self, name: &str) -> bool {
        self.functions().iter().any(|f| f == name)
    }

    fn functions(&self) -> Vec<String> {
        ["tcp_connect", "tcp_recvmsg", "tcp_retransmit_skb", "tcp_sendmsg", "vfs_read"]
            .map(str::to_owned)
            .to_vec()
    }

    fn functions_by_module(&self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = self.functions().into_iter().map(|f| ("vmlinux".to_owned(), f)).collect();
        all.extend(["veth_open", "veth_xmit"].map(|f| ("veth".to_owned(), f.to_owned())));
        all.push(("sch_netem".to_owned(), "netem_enqueue".to_owned()));
        all
    }

    fn binaries(&self, name: &str) -> Result<Vec<String>, String> {
        let all = ["/usr/bin/victim", "/usr/lib/libplain.so.1"];
        let found: Vec<String> = all
            .into_iter()
            .filter(|path| *path == name || path.ends_with(&format!("/{name}")) || (name.contains('*') && glob_match(name, path)))
            .map(str::to_owned)
            .collect();
        if found.is_empty() {
            return Err(format!("there is no program or library `{name}`"));
        }
        Ok(found)
    }

    fn user_functions(&self, path: &str) -> Result<Vec<UserFunction>, String> {
        if path != "/usr/bin/victim" {
            return Ok(Vec::new());
        }
        let function = |name: &str, demangled: Option<&str>, offset, indirect| UserFunction {
            name: name.to_owned(),
            demangled: demangled.map(str::to_owned),
            offset,
            indirect,
        };
        Ok(vec![
            function("_ZN2ns4openEPKc", Some("ns::open(char const*)"), 0x1200, false),
            function("_ZN2ns4openEi", Some("ns::open(int)"), 0x1300, false),
            function("copy", None, 0x1400, true),
            function("copy_avx2", None, 0x1500, false),
            function("copy_sse2", None, 0x1600, false),
            function("main", None, 0x1100, false),
            function("main_alias", None, 0x1100, false),
        ])
    }

    fn usdt_probes(&self, path: &str) -> Result<Vec<UsdtProbe>, String> {
        if path != "/usr/bin/victim" {
            return Ok(Vec::new());
        }
        let probe = |name: &str, offset, semaphore, args: &str| UsdtProbe {
            provider: "shop".to_owned(),
            name: name.to_owned(),
            offset,
            semaphore,
            args: args.to_owned(),
        };
        Ok(vec![
            probe("close", 0x1170, 0, ""),
            probe("sale", 0x1150, 0x4010, "-4@%eax 8@-16(%rbp,%rcx,8) 8@$7 8@price(%rip)"),
            probe("sale", 0x1160, 0x4010, "-4@%ebx 8@(%rdi) 8@$8 8@%r8"),
        ])
    }

    fn code_offset(&self, _path: &str, address: u64) -> Option<u64> {
        (0x401_000..0x402_000).contains(&address).then(|| address - 0x400_000)
    }

    fn interfaces(&self) -> Vec<String> {
        ["lo", "veth0", "veth1"].map(str::to_owned).to_vec()
    }

    fn interface_kind(&self, name: &str) -> Option<String> {
        (name == "veth1").then(|| "veth".to_owned())
    }

    /// 10.0.1.0/24 and 2001:db8:1::/48 are behind `veth1`, whose own addresses end in 1.
    fn whereabouts(&self, address: std::net::IpAddr) -> Option<Whereabouts> {
        let (behind, last) = match address {
            std::net::IpAddr::V4(a) => (a.octets()[..3] == [10, 0, 1], a.octets()[3]),
            std::net::IpAddr::V6(a) => (a.segments()[..3] == [0x2001, 0xdb8, 1], a.octets()[15]),
        };
        match (behind, last) {
            (true, 1) => Some(Whereabouts::Here),
            (true, _) => Some(Whereabouts::Behind("veth1".to_owned())),
            (false, _) => Some(Whereabouts::Behind("veth0".to_owned())),
        }
    }

    fn interfaces_in(&self, netns: &str) -> std::io::Result<Vec<String>> {
        match netns {
            "blue" => Ok(["lo", "veth0", "tun0", "can0"].map(str::to_owned).to_vec()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    fn link_layer(&self, iface: &str, _netns: Option<&str>) -> Option<LinkLayer> {
        match iface {
            "tun0" => Some(LinkLayer::None),
            "can0" => None,
            _ => Some(LinkLayer::Ethernet),
        }
    }

    fn network_namespaces(&self) -> Vec<String> {
        vec!["blue".to_owned()]
    }

    fn cgroups(&self, pattern: &str) -> Result<Vec<String>, String> {
        let wanted = format!("/{}", pattern.trim_start_matches('/'));
        Ok(self
            .cgroups_below("/")
            .into_iter()
            .filter(|c| weir_compiler::hir::glob_match(&wanted, c))
            .collect())
    }

    fn cgroups_below(&self, _path: &str) -> Vec<String> {
        ["/", "/system.slice", "/system.slice/nginx.service"].map(str::to_owned).to_vec()
    }

    fn cgroup_id(&self, _path: &str) -> Option<u64> {
        None
    }

    fn cpus(&self) -> u32 {
        2
    }

    fn memory(&self) -> Option<u64> {
        Some(16 << 30)
    }

    fn read_file(&self, path: &str) -> std::io::Result<Vec<u8>> {
        let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, path.to_owned());
        FILES
            .iter()
            .find(|(name, _)| *name == path)
            .map(|(_, text)| text.as_bytes().to_vec())
            .ok_or_else(missing)
    }

    fn import(&self, path: &std::path::Path) -> Result<Vec<(String, String)>, String> {
        let found = FILES.iter().find(|(name, _)| path.ends_with(name));
        let (name, text) = found.ok_or_else(|| format!("`{}` cannot be read here", path.display()))?;
        Ok(vec![((*name).to_owned(), (*text).to_owned())])
    }
}
