//! What the compiler hears where there is no kernel: packet programs need nothing of it.

use std::io;
use weir_compiler::btf::Btf;
use weir_compiler::kernel::{Feature, KernelInfo, KernelVersion, Support, TracepointField};
use weir_compiler::object::LinkLayer;

/// No kernel at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKernel;

const WHY: &str = "a replay has packets only";

impl KernelInfo for NoKernel {
    fn version(&self) -> KernelVersion {
        // Whatever a packet field needs, the stand-ins have it.
        KernelVersion::new(u16::MAX, 0, 0)
    }

    fn feature(&self, feature: Feature) -> Support {
        match feature {
            // With it no filter needs a heartbeat.
            Feature::Tcx | Feature::IsaV4 => Support::Yes,
            _ => Support::No(WHY.to_owned()),
        }
    }

    fn btf(&self) -> Option<&Btf> {
        None
    }

    fn tracepoint(&self, _category: &str, _name: &str) -> Option<Vec<TracepointField>> {
        None
    }

    fn tracepoints(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn has_function(&self, _name: &str) -> bool {
        false
    }

    fn functions(&self) -> Vec<String> {
        Vec::new()
    }

    fn interfaces(&self) -> Vec<String> {
        Vec::new()
    }

    /// Not asked where any interface will do.
    fn link_layer(&self, _iface: &str, _netns: Option<&str>) -> Option<LinkLayer> {
        Some(LinkLayer::Ethernet)
    }

    fn interfaces_in(&self, _netns: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn network_namespaces(&self) -> Vec<String> {
        Vec::new()
    }

    /// Packets come from the capture, whatever their interface was called.
    fn any_interface(&self) -> bool {
        true
    }

    fn cgroups(&self, _path: &str) -> Result<Vec<String>, String> {
        Err(WHY.to_owned())
    }

    fn cgroups_below(&self, _path: &str) -> Vec<String> {
        Vec::new()
    }

    fn cgroup_id(&self, _path: &str) -> Option<u64> {
        None
    }

    fn cpus(&self) -> u32 {
        1
    }

    fn read_file(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }
}
