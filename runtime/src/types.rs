//! The types of the running kernel: its own, and behind them those of the modules that scripts name.
//!
//! Who holds types may hold them for as long as the kernel's description lives, so nothing is ever taken away: when modules
//! are added the whole is made anew, longer than before, and the shorter one stays.

use crate::kernel::VMLINUX;
use crate::sys::bpf::query::{self, ObjectKind};
use crate::sys::mmap::Mmap;
use crate::sys::proc;
use aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_TRACING;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};
use weir_compiler::btf::{Btf, BtfType, TypeId};
use weir_compiler::kernel::BpfFunction;

/// Structs that programs get as their argument, which the kernel shows as what it keeps behind them.
const CONTEXTS: &[&str] = &[
    "xdp_md",
    "__sk_buff",
    "bpf_sock",
    "bpf_sock_addr",
    "bpf_sock_ops",
    "sk_msg_md",
    "bpf_flow_keys",
    "sk_reuseport_md",
    "bpf_sk_lookup",
];

#[derive(Debug, Default)]
pub struct Types {
    own: OnceLock<Option<Btf>>,
    longer: OnceLock<Box<Longer>>,
    /// Held while the next one is made.
    adding: Mutex<()>,
}

#[derive(Debug)]
struct Longer {
    btf: Btf,
    next: OnceLock<Box<Longer>>,
}

impl Types {
    /// Takes those of a file instead of the running kernel's.
    pub fn of(btf: Btf) -> Self {
        Self {
            own: OnceLock::from(Some(btf)),
            ..Self::default()
        }
    }

    pub fn get(&self) -> Option<&Btf> {
        let mut newest = self.own.get_or_init(load).as_ref()?;
        let mut next = &self.longer;
        while let Some(longer) = next.get() {
            newest = &longer.btf;
            next = &longer.next;
        }
        Some(newest)
    }

    /// Adds the types of modules that are not there yet.
    ///
    /// # Errors
    /// Why one cannot be had, in one line.
    pub fn add(&self, modules: &[&str]) -> Result<(), String> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(btf) = self.get() else {
            return Err("the kernel has no type information".to_owned());
        };
        let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
        for module in modules {
            if btf.has_module(module) || blobs.iter().any(|(name, _)| name == module) {
                continue;
            }
            let blob = proc::read_all(&format!("/sys/kernel/btf/{module}"))
                .map_err(|e| format!("the types of the module `{module}` cannot be read: {e}"))?;
            blobs.push(((*module).to_owned(), blob));
        }
        if blobs.is_empty() {
            return Ok(());
        }
        let all = btf
            .with_modules(&blobs)
            .map_err(|e| format!("the types of the modules cannot be used: {e}"))?;
        let mut next = &self.longer;
        while let Some(longer) = next.get() {
            next = &longer.next;
        }
        next.get_or_init(|| {
            Box::new(Longer {
                btf: all,
                next: OnceLock::new(),
            })
        });
        Ok(())
    }
}

fn load() -> Option<Btf> {
    let file = File::open(VMLINUX).ok()?;
    let len = usize::try_from(file.metadata().ok()?.len()).ok()?;
    // Mappable since Linux 6.16; ENODEV and EINVAL before.
    if let Ok(map) = Mmap::new(file.as_fd(), len, 0, false, true)
        && let Ok(btf) = Btf::new(Box::new(map))
    {
        return Some(btf);
    }
    Btf::from_bytes(proc::read_all(VMLINUX).ok()?).ok()
}

/// Lists the functions of all BPF programs that are loaded, by program.
///
/// # Errors
/// Why they cannot be listed, in one line.
pub fn bpf_functions() -> Result<Vec<BpfFunction>, String> {
    let mut all = Vec::new();
    let mut types: HashMap<u32, Option<Btf>> = HashMap::new();
    for id in query::ids(ObjectKind::Program).map_err(|e| e.to_string())? {
        // It may be gone by now.
        let Ok(fd) = query::by_id(ObjectKind::Program, id) else { continue };
        let Ok(info) = query::prog_details(fd.as_fd()) else { continue };
        if info.func_infos == 0 {
            continue;
        }
        let btf = types.entry(info.btf_id).or_insert_with(|| {
            let fd = query::by_id(ObjectKind::Btf, info.btf_id).ok()?;
            Btf::from_bytes(query::btf_bytes(fd.as_fd()).ok()?).ok()
        });
        let Some(btf) = btf else { continue };
        for func in query::prog_funcs(fd.as_fd(), info.func_infos).unwrap_or_default() {
            let Some(BtfType::Func { name, proto, .. }) = btf.type_by_id(TypeId(func)) else {
                continue;
            };
            let Some(BtfType::FuncProto(proto)) = btf.type_by_id(proto) else {
                continue;
            };
            all.push(BpfFunction {
                program: id,
                name: name.to_owned(),
                btf_id: func,
                tracing: info.kind == BPF_PROG_TYPE_TRACING as u32,
                args: proto.params().map(|p| is_shown(btf, p.ty)).collect(),
                returns: btf.resolve(proto.ret) != TypeId::VOID,
            });
        }
    }
    Ok(all)
}

/// Whether the kernel lets a tracing program read an argument of this type of a BPF function: numbers, pointers to numbers or to nothing
/// in particular, and the program's own context (`btf_ctx_access`).
fn is_shown(btf: &Btf, ty: TypeId) -> bool {
    match btf.resolved(ty) {
        Some(BtfType::Int(_) | BtfType::Enum(_)) => true,
        Some(BtfType::Ptr(to)) => match btf.resolved(to) {
            None | Some(BtfType::Void | BtfType::Int(_)) => true,
            Some(BtfType::Struct(s)) => CONTEXTS.contains(&s.name),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_added_behind_what_is_there() {
        let types = Types::default();
        let Some(own) = types.get() else {
            eprintln!("skipped: the kernel has no type information");
            return;
        };
        let task = own.find_struct("task_struct");
        let folder = std::fs::read_dir("/sys/kernel/btf").unwrap();
        let mut modules: Vec<String> = folder
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|n| n != "vmlinux")
            .collect();
        modules.sort();
        modules.truncate(2);
        if modules.is_empty() {
            eprintln!("skipped: no module is loaded");
            return;
        }
        for (n, module) in modules.iter().enumerate() {
            types.add(&[module]).unwrap();
            let all = types.get().unwrap();
            all.check().unwrap();
            assert!(modules[..=n].iter().all(|m| all.has_module(m)));
            assert_eq!(all.find_struct("task_struct"), task);
            // Every function of a module has a prototype whose types all are there.
            for (name, func) in all.module_funcs(module) {
                let Some(BtfType::Func { proto, .. }) = all.type_by_id(func.id) else {
                    panic!("{name}");
                };
                let Some(BtfType::FuncProto(proto)) = all.type_by_id(proto) else {
                    panic!("{name}");
                };
                assert!(proto.params().all(|p| !all.c_name(p.ty).is_empty()), "{name}");
            }
        }
        assert!(types.add(&["no_such_module"]).unwrap_err().contains("`no_such_module`"));
    }
}
