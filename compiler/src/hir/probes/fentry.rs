//! `fentry` and `fexit`: functions of the kernel, of its modules, and of BPF programs.

use super::{Site, Target, function_match, glob_match, is_glob};
use crate::btf::{Btf, BtfType, ModuleFunc, TypeId};
use crate::hir::check::{Checker, nearest_name};
use crate::kernel::{BpfFunction, Feature, Support};
use crate::object::{AttachPoint, FunctionOf};
use crate::tables::Hook;
use std::collections::HashMap;
use weir_parser::{Diagnostic, ast};

/// What the kernel's own functions are in.
const KERNEL: &str = "vmlinux";

/// Functions with types, by module and name.
type ModuleFuncs<'a> = HashMap<(&'a str, &'a str), ModuleFunc>;

/// One attach point with its words.
struct Asked<'a> {
    point: &'a ast::AttachPoint,
    ret: bool,
}

impl Asked<'_> {
    fn word(&self) -> &'static str {
        if self.ret { "fexit" } else { "fentry" }
    }

    fn site(&self, of: FunctionOf, function: &str, btf_id: u32, target: Target) -> Site {
        let hook = if self.ret { Hook::Fexit } else { Hook::Fentry };
        let place = match &of {
            FunctionOf::Kernel => format!("{KERNEL}:{function}"),
            FunctionOf::Module(module) => format!("{module}:{function}"),
            FunctionOf::Program(id) => format!("bpf:{id}:{function}"),
        };
        let attach = AttachPoint::Fentry {
            of,
            function: function.to_owned(),
            btf_id,
            ret: self.ret,
        };
        let mut site = Site::found(hook, self.point.span, self.word(), &place, function, attach);
        site.target = target;
        site
    }

    /// A function of the kernel, or one of `of_modules`.
    fn typed(&self, btf: &Btf, of_modules: &ModuleFuncs<'_>, module: &str, function: &str) -> Option<Site> {
        let (id, own, of) = if module == KERNEL {
            let id = btf.find_func(function).filter(|id| btf.is_own(*id))?;
            (id, id.0, FunctionOf::Kernel)
        } else {
            let func = of_modules.get(&(module, function))?;
            (func.id, func.own_id, FunctionOf::Module(module.to_owned()))
        };
        let proto = prototype(btf, id)?;
        Some(self.site(of, function, own, Target::Proto { proto, skip: 0 }))
    }
}

fn prototype(btf: &Btf, id: TypeId) -> Option<TypeId> {
    match btf.type_by_id(id)? {
        BtfType::Func { proto, .. } => Some(proto),
        _ => None,
    }
}

impl Checker<'_> {
    pub(super) fn fentry_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        ret: bool,
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let asked = Asked { point, ret };
        match parts {
            [_, bpf, program] if bpf == "bpf" => self.bpf_program_sites(&asked, None, program, out),
            [_, bpf, id, program] if bpf == "bpf" => match id.parse() {
                Ok(id) => self.bpf_program_sites(&asked, Some(id), program, out),
                Err(_) if id == "*" => self.bpf_program_sites(&asked, None, program, out),
                Err(_) => self.error(wrong("has an id of a program that is not a number")),
            },
            [_, function] => self.function_sites(&asked, None, function, out),
            [_, module, function] => {
                // The kernel writes them with `_`, files and people with `-`.
                let module = module.replace('-', "_");
                self.function_sites(&asked, Some(&module), function, out);
            }
            _ => self.error(wrong("has the wrong number of parts")),
        }
    }

    fn function_sites(&mut self, asked: &Asked<'_>, module: Option<&str>, function: &str, out: &mut Vec<Site>) {
        let kernel = self.kernel;
        let (point, word) = (asked.point, asked.word());
        if let Support::No(why) = kernel.feature(Feature::Fentry) {
            let d = Diagnostic::error("no-fentry", point.span, format!("this kernel has no `{word}` ({why})"));
            let d = if kernel.feature(Feature::Kprobe) == Support::Yes {
                let (kprobe, how) = if asked.ret {
                    ("kretprobe", "the result is `retval`")
                } else {
                    ("kprobe", "its arguments are `arg0`, `arg1`, …")
                };
                let module = module.map_or_else(String::new, |m| format!("{m}:"));
                d.help(format!("`{kprobe}:{module}{function}` works here; {how}"))
            } else {
                self.instead_of(d, function)
            };
            if !self.lacking(d) {
                return;
            }
        }
        let Some(btf) = self.need_btf(kernel, point.span) else { return };
        let wanted = module.unwrap_or(KERNEL);
        if !is_glob(wanted) && !is_glob(function) {
            if wanted == KERNEL
                && let Some(site) = asked.typed(btf, &ModuleFuncs::new(), KERNEL, function)
            {
                return out.push(site);
            }
            if module == Some(KERNEL) {
                let own = || btf.func_names();
                let near = nearest_name(function, own()).map(|n| format!("did you mean `{word}:{n}`?"));
                return self.missing(point, format!("this kernel has no types of a function `{function}`"), near);
            }
        }
        // What cannot be traced has types all the same, so it is the list of what can be that is looked through.
        let all = kernel.functions_by_module();
        let modules = match module {
            // Without a module a pattern is for the kernel itself, a name for whatever has it.
            None if is_glob(function) => KERNEL,
            None => "*",
            Some(module) => module,
        };
        let found: Vec<(&str, &str)> = all
            .iter()
            .filter(|(m, f)| glob_match(modules, m) && function_match(function, f))
            .map(|(m, f)| (m.as_str(), f.as_str()))
            .collect();
        let mut names: Vec<&str> = found.iter().map(|(m, _)| *m).filter(|m| *m != KERNEL).collect();
        names.sort_unstable();
        names.dedup();
        if let Err(why) = kernel.add_modules(&names) {
            let kprobe = if asked.ret { "kretprobe" } else { "kprobe" };
            let module = names.first().copied().unwrap_or("MODULE");
            let d = Diagnostic::error("no-types", point.span, why);
            return self.error(d.help(format!("`{kprobe}:{module}:{function}` needs no types")));
        }
        let Some(btf) = kernel.btf() else { return };
        // Found once for all: a module has thousands.
        let mut of_modules = ModuleFuncs::new();
        for module in names {
            for (name, func) in btf.module_funcs(module) {
                of_modules.entry((module, name)).or_insert(func);
            }
        }
        let sites: Vec<Site> = found.iter().filter_map(|(m, f)| asked.typed(btf, &of_modules, m, f)).collect();
        if !sites.is_empty() {
            return out.extend(sites);
        }
        if let Some(module) = module.filter(|m| !is_glob(m) && !all.iter().any(|(have, _)| have == m)) {
            let mut modules: Vec<&str> = all.iter().map(|(m, _)| m.as_str()).collect();
            modules.sort_unstable();
            modules.dedup();
            let near = nearest_name(module, modules.into_iter()).map(|m| format!("did you mean `{word}:{m}:{function}`?"));
            return self.missing(point, format!("no module `{module}` is loaded"), near);
        }
        if is_glob(function) || is_glob(wanted) {
            return self.missing(point, format!("no kernel function with types matches `{function}`"), None);
        }
        match module {
            Some(module) => {
                let own = all.iter().filter(|(m, f)| m == module && f != function).map(|(_, f)| f.as_str());
                let near = nearest_name(function, own).map(|n| format!("did you mean `{word}:{module}:{n}`?"));
                let message = format!("the module `{module}` has no function `{function}` that can be traced");
                self.missing(point, message, near);
            }
            None => {
                let near = nearest_name(function, btf.func_names()).map(|n| format!("did you mean `{word}:{n}`?"));
                self.missing(point, format!("this kernel has no types of a function `{function}`"), near);
            }
        }
    }

    /// Functions of BPF programs by name, or by program and name.
    fn bpf_program_sites(&mut self, asked: &Asked<'_>, id: Option<u32>, name: &str, out: &mut Vec<Site>) {
        let (point, word) = (asked.point, asked.word());
        if let Support::No(why) = self.kernel.feature(Feature::Fentry) {
            let d = Diagnostic::error("no-fentry", point.span, format!("this kernel has no `{word}` ({why})"));
            if !self.lacking(d.help("`weir progs` shows how often each BPF program has run, where the kernel counts that")) {
                return;
            }
        }
        let all = match self.kernel.bpf_functions() {
            Ok(all) => all,
            Err(why) => {
                let d = Diagnostic::error("no-programs", point.span, format!("the BPF programs cannot be listed: {why}"));
                return self.error(d);
            }
        };
        // Of what matches only by pattern, those that cannot be traced are passed over.
        let fits = |f: &&BpfFunction| id.is_none_or(|id| id == f.program) && glob_match(name, &f.name) && !(is_glob(name) && f.tracing);
        let before = out.len();
        for f in all.iter().filter(fits) {
            let target = Target::BpfFunction {
                args: f.args.clone(),
                returns: f.returns,
            };
            out.push(asked.site(FunctionOf::Program(f.program), &f.name, f.btf_id, target));
        }
        if out.len() > before {
            return;
        }
        let message = match id {
            Some(id) if all.iter().any(|f| f.program == id) => format!("the BPF program {id} has no function `{name}`"),
            Some(id) => format!("there is no BPF program {id} with types"),
            None if is_glob(name) => format!("no function of a BPF program matches `{name}`"),
            None => format!("no BPF program has a function `{name}`"),
        };
        let of = all.iter().filter(|f| id.is_none_or(|id| id == f.program));
        let near = nearest_name(name, of.map(|f| f.name.as_str())).map(|n| format!("did you mean `{word}:bpf:{n}`?"));
        let near = near.or_else(|| Some(format!("`weir -l '{word}:bpf:*'` lists them")));
        self.missing(point, message, near);
    }
}
