//! `weir -l`: which probes there are, by pattern, or those of a script.

use crate::args::{Run, split_rest};
use crate::render::{Failure, Renderer};
use crate::{out, source};
use std::fmt::Write;
use std::process::ExitCode;
use weir_compiler::btf::{Btf, BtfType, TypeId};
use weir_compiler::hir::{self, glob_match};
use weir_compiler::kernel::{Feature, KernelInfo, Support, TracepointField};
use weir_compiler::object::Direction;
use weir_compiler::tables::{CGROUP_HOOKS, COUNTERS, PROVIDERS, Provider, provider};
use weir_parser::{SourceId, ast};
use weir_runtime::Kernel;
use weir_stdlib::{NATIVES, Native, type_word};

pub fn main(args: &Run, kernel: &Kernel) -> Result<ExitCode, Failure> {
    let (search, _) = split_rest(args.program.as_deref(), &args.rest).map_err(Failure::new)?;
    let is_file = search.is_some_and(|s| s == "-" || std::path::Path::new(s).is_file());
    let mut instances = all_natives();
    let patterns: Vec<String> = if args.program.is_some() || is_file {
        let source = source::read(args.program.as_deref(), search)?;
        let parsed = weir_parser::parse(SourceId(0), &source.text);
        if parsed.has_errors() {
            out::stderr(&Renderer::for_stderr().diagnostics(&[source], &parsed.diagnostics));
            return Ok(ExitCode::FAILURE);
        }
        instances = natives(&parsed.program);
        attach_points(&parsed.program)
    } else {
        match search {
            None => vec!["*".to_owned()],
            Some(search) => search
                .to_str()
                .ok_or_else(|| Failure::new("the pattern is not UTF-8"))?
                .split(',')
                .map(str::to_owned)
                .collect(),
        }
    };
    let mut text = String::new();
    for pattern in &patterns {
        let before = text.len();
        list(pattern, kernel, args.verbose, &mut text)?;
        list_events(pattern, &instances, args.verbose, &mut text);
        if text.len() == before {
            list_events(pattern, &known_aliases(), args.verbose, &mut text);
        }
        if text.len() == before {
            out::stdout(&text)?;
            return Err(Failure::new(format!("no probe matches `{pattern}`"))
                .help("patterns have `*`, `?` and `[…]`: `weir -l 'tracepoint:tcp:*'`"));
        }
    }
    out::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn attach_points(program: &ast::Program) -> Vec<String> {
    let probes = program
        .items
        .iter()
        .filter_map(|item| if let ast::Item::Probe(probe) = item { Some(probe) } else { None });
    probes
        .flat_map(|p| &p.attach_points)
        .map(|point| parts_text(&point.parts))
        .collect()
}

/// A name that events are known by, and the native whose events they are.
type Instance = (String, &'static Native);

/// Where there is no script: all of them, by their own names.
fn all_natives() -> Vec<Instance> {
    NATIVES.iter().map(|n| (n.name.to_owned(), *n)).collect()
}

/// All natives by the names that their own examples give them: `bl:*` is understood without a script, too.
fn known_aliases() -> Vec<Instance> {
    let examples = NATIVES.iter().map(|n| weir_parser::parse(SourceId(0), n.example));
    examples.flat_map(|parsed| natives(&parsed.program)).collect()
}

/// The natives that a script uses, by their names in it.
fn natives(program: &ast::Program) -> Vec<Instance> {
    let uses = program
        .items
        .iter()
        .filter_map(|item| if let ast::Item::Use(item) = item { Some(item) } else { None });
    uses.filter_map(|item| {
        let native = weir_stdlib::native(&item.native.name)?;
        Some((item.alias.as_ref().unwrap_or(&item.native).name.clone(), native))
    })
    .collect()
}

/// `blocklist:*`: the events of natives; with their variables.
fn list_events(pattern: &str, instances: &[Instance], verbose: bool, text: &mut String) {
    for (name, native) in instances {
        for event in native.events {
            let full = format!("{name}:{}", event.name);
            if !glob_match(pattern, &full) {
                continue;
            }
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{full}");
            for var in event.vars.iter().filter(|_| verbose) {
                let _ = writeln!(text, "    {} {name}.{}", type_word(var.ty), var.name);
            }
        }
    }
}

fn parts_text(parts: &[ast::Ident]) -> String {
    parts.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(":")
}

/// A pattern with the probe type's full name, and the probe types that it can mean.
fn normalise(pattern: &str) -> (String, Vec<&'static Provider>) {
    let (first, rest) = match pattern.split_once(':') {
        Some((first, rest)) => (first, Some(rest)),
        None => (pattern, None),
    };
    if let Some(known) = provider(first) {
        let full = match rest {
            Some(rest) => format!("{}:{rest}", known.name),
            // `-l tracepoint` is all of them.
            None => format!("{}*", known.name),
        };
        return (full, vec![known]);
    }
    // Every place of a kretprobe has a kprobe, too, and so on: a pattern that names neither lists them once.
    let wanted = |p: &&Provider| !matches!(p.name, "kretprobe" | "fexit" | "uretprobe") && (rest.is_none() || glob_match(first, p.name));
    (pattern.to_owned(), PROVIDERS.iter().filter(wanted).collect())
}

/// The functions that the pattern does not pass over, each behind its module. As in `hir::function_match`, but the pattern is for the
/// whole of a probe.
fn shown(pattern: &str, mut functions: Vec<(String, String)>) -> Vec<(String, String)> {
    functions.retain(|(_, function)| !hir::is_hidden_piece(pattern, function));
    functions
}

/// What a list is made of, and what is missing from it.
struct List<'a> {
    kernel: &'a Kernel,
    pattern: String,
    verbose: bool,
    /// Whether one probe type was asked for: then what stands in the way is an error.
    only: bool,
    text: String,
    /// Why some probe types are not in it.
    missing: Vec<String>,
}

impl List<'_> {
    fn add(&mut self, name: &str, arguments: impl FnOnce() -> Vec<String>) {
        if glob_match(&self.pattern, name) {
            self.put(name, arguments);
        }
    }

    fn put(&mut self, name: &str, arguments: impl FnOnce() -> Vec<String>) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "{name}");
        if self.verbose {
            for line in arguments() {
                let _ = writeln!(self.text, "    {line}");
            }
        }
    }

    /// A probe type that cannot be listed: an error when it alone was asked for.
    fn cannot(&mut self, what: &str, why: &str) -> Result<(), Failure> {
        if self.only {
            return Err(Failure::new(format!("cannot list {what}: {why}")));
        }
        self.missing.push(format!("{what} are not in it: {why}"));
        Ok(())
    }

    fn provider(&mut self, provider: &'static Provider) -> Result<(), Failure> {
        let kernel = self.kernel;
        let none = Vec::new;
        match provider.name {
            "tracepoint" => {
                if let Support::No(why) | Support::Unknown(why) = kernel.feature(Feature::Tracefs) {
                    return self.cannot("tracepoints", &why);
                }
                for (category, name) in kernel.tracepoints() {
                    self.add(&format!("tracepoint:{category}:{name}"), || {
                        let fields = kernel.tracepoint(&category, &name).unwrap_or_default();
                        let own = fields.iter().filter(|f| !f.name.starts_with("common_"));
                        own.map(declaration).collect()
                    });
                }
            }
            "rawtracepoint" => {
                let Some(btf) = kernel.btf() else {
                    return self.cannot("raw tracepoints", "the kernel has no BTF");
                };
                let mut names: Vec<&str> = btf.typedef_names().filter_map(|n| n.strip_prefix("btf_trace_")).collect();
                names.sort_unstable();
                for name in names {
                    self.add(&format!("rawtracepoint:{name}"), || {
                        let parameters = hir::raw_parameters(btf, name).unwrap_or_default();
                        parameters.iter().map(|p| typed(btf, p.ty, &p.name)).collect()
                    });
                }
            }
            "kprobe" | "kretprobe" => match kernel.feature(Feature::Kprobe) {
                Support::No(why) if self.only => {
                    return Err(
                        Failure::new(format!("this kernel has no kprobes ({why})")).help("list tracepoints: `weir -l 'tracepoint:*'`")
                    );
                }
                Support::No(_) => {}
                Support::Yes | Support::Unknown(_) => {
                    let parts = self.pattern.matches(':').count();
                    for (module, function) in shown(&self.pattern, kernel.functions_by_module()) {
                        // As it was asked for: with the module or without.
                        let name = if parts > 1 {
                            format!("{}:{module}:{function}", provider.name)
                        } else {
                            format!("{}:{function}", provider.name)
                        };
                        self.add(&name, none);
                    }
                }
            },
            "fentry" | "fexit" => self.fentry(provider.name)?,
            "iter" => {
                let Some(btf) = kernel.btf() else {
                    return self.cannot("iterators", "the kernel has no BTF");
                };
                for kind in hir::iterators(btf) {
                    self.add(&format!("iter:{kind}"), || {
                        let context = btf.find_struct(&format!("bpf_iter__{kind}"));
                        let fields = context.map(|id| btf.fields(id)).unwrap_or_default();
                        fields.iter().map(|(name, f)| typed(btf, f.ty, &format!("ctx.{name}"))).collect()
                    });
                }
            }
            "software" | "hardware" => {
                let hardware = provider.name == "hardware";
                if let (true, Support::No(why)) = (hardware, kernel.feature(Feature::Pmu)) {
                    return if self.only { self.cannot("hardware events", &why) } else { Ok(()) };
                }
                for counter in COUNTERS.iter().filter(|c| c.hardware == hardware) {
                    self.add(&format!("{}:{}:{}", provider.name, counter.name, counter.default_count), none);
                }
            }
            "uprobe" | "uretprobe" | "usdt" => self.file(provider)?,
            "xdp" => kernel.interfaces().into_iter().for_each(|i| self.add(&format!("xdp:{i}"), none)),
            "tc" => {
                for iface in kernel.interfaces() {
                    for direction in [Direction::Ingress, Direction::Egress] {
                        let word = if direction == Direction::Ingress { "ingress" } else { "egress" };
                        self.add(&format!("tc:{iface}:{word}"), none);
                    }
                }
            }
            "cgroup" => {
                for path in kernel.cgroups_below("/") {
                    CGROUP_HOOKS
                        .iter()
                        .for_each(|h| self.add(&format!("cgroup:{path}:{}", h.name), none));
                }
            }
            "cgroup_skb" => {
                for path in kernel.cgroups_below("/") {
                    ["ingress", "egress"]
                        .into_iter()
                        .for_each(|d| self.add(&format!("cgroup_skb:{path}:{d}"), none));
                }
            }
            _ => self.forms(provider),
        }
        Ok(())
    }

    /// What has no list of places: the form says what can be written.
    fn forms(&mut self, provider: &Provider) {
        for form in provider.form.split(" | ") {
            let full = if form.starts_with(provider.name) {
                form.to_owned()
            } else {
                format!("{}:{form}", provider.name)
            };
            self.add(&full, Vec::new);
        }
    }

    fn fentry(&mut self, word: &str) -> Result<(), Failure> {
        let kernel = self.kernel;
        let parts: Vec<&str> = self.pattern.split(':').collect();
        if parts.len() > 2 && parts[1] == "bpf" {
            let with_id = parts.len() > 3;
            let all = kernel
                .bpf_functions()
                .map_err(|e| Failure::new(format!("cannot list the BPF programs: {e}")))?;
            for f in all {
                let name = if with_id {
                    format!("{word}:bpf:{}:{}", f.program, f.name)
                } else {
                    format!("{word}:bpf:{}", f.name)
                };
                self.add(&name, || {
                    let shown = f.args.iter().enumerate().filter(|(_, shown)| **shown);
                    let mut lines: Vec<String> = shown.map(|(n, _)| format!("arg{n}")).collect();
                    if word == "fexit" && f.returns {
                        lines.push("int retval".to_owned());
                    }
                    lines
                });
            }
            return Ok(());
        }
        if let Support::No(why) = kernel.feature(Feature::Fentry) {
            return if self.only {
                self.cannot(&format!("`{word}`"), &format!("this kernel has none ({why})"))
            } else {
                Ok(())
            };
        }
        let Some(btf) = kernel.btf() else {
            return self.cannot("functions with types", "the kernel has no BTF");
        };
        let typed_functions: std::collections::HashSet<&str> = btf.func_names().collect();
        // Written with and without the module.
        let with_module = parts.len() > 2;
        let functions = shown(&self.pattern, kernel.functions_by_module());
        let modules = functions.iter().map(|(m, _)| m.as_str()).filter(|m| *m != "vmlinux");
        let mut modules: Vec<&str> = modules.filter(|m| with_module && glob_match(parts[1], m)).collect();
        modules.sort_unstable();
        modules.dedup();
        if let Err(why) = kernel.add_modules(&modules) {
            self.missing.push(why);
        }
        let Some(all) = kernel.btf() else { return Ok(()) };
        let of_modules: std::collections::HashMap<(&str, &str), TypeId> = modules
            .iter()
            .flat_map(|m| all.module_funcs(m).map(|(name, func)| ((*m, name), func.id)))
            .collect();
        for (module, function) in &functions {
            let own = module == "vmlinux";
            let there = of_modules.get(&(module.as_str(), function.as_str())).copied();
            if !(own && typed_functions.contains(function.as_str()) || there.is_some()) {
                continue;
            }
            let name = if with_module {
                format!("{word}:{module}:{function}")
            } else {
                format!("{word}:{function}")
            };
            self.add(&name, || {
                // Looking for a name among all is slow, so it is done for those that are shown.
                let id = there.or_else(|| btf.find_func(function));
                let Some(BtfType::Func { proto, .. }) = id.and_then(|id| all.type_by_id(id)) else {
                    return Vec::new();
                };
                let (parameters, _, ret) = hir::parameters(all, proto, 0);
                let mut lines: Vec<String> = parameters.iter().map(|p| typed(all, p.ty, &p.name)).collect();
                if word == "fexit" {
                    lines.push(typed(all, ret, "retval"));
                }
                lines
            });
        }
        Ok(())
    }

    /// Places in a program or library, which the pattern must name.
    fn file(&mut self, provider: &'static Provider) -> Result<(), Failure> {
        let pattern = self.pattern.clone();
        let mut parts = pattern.splitn(3, ':').skip(1);
        let (Some(binary), Some(place)) = (parts.next(), parts.next()) else {
            // Every file of the machine has some.
            self.forms(provider);
            return Ok(());
        };
        if !self.only {
            return Ok(());
        }
        let paths = self.kernel.binaries(binary).map_err(Failure::new)?;
        for path in paths {
            if provider.name == "usdt" {
                let probes = self.kernel.usdt_probes(&path).map_err(Failure::new)?;
                let mut seen = std::collections::HashSet::new();
                for probe in probes {
                    let full = format!("{}:{}", probe.provider, probe.name);
                    // One event may be in many places.
                    if (glob_match(place, &full) || glob_match(place, &probe.name)) && seen.insert(full.clone()) {
                        self.put(&format!("usdt:{path}:{full}"), || {
                            let arguments = probe.args.split_ascii_whitespace().enumerate();
                            arguments.map(|(i, at)| format!("arg{i}: {at}")).collect()
                        });
                    }
                }
                continue;
            }
            for function in self.kernel.user_functions(&path).map_err(Failure::new)? {
                let demangled = || function.demangled.iter().cloned().collect();
                if !function.indirect && glob_match(place, &function.name) {
                    self.put(&format!("{}:{path}:{}", provider.name, function.name), demangled);
                }
            }
        }
        Ok(())
    }
}

fn list(pattern: &str, kernel: &Kernel, verbose: bool, text: &mut String) -> Result<(), Failure> {
    if let Some((word, name)) = pattern.split_once(' ').filter(|(w, _)| matches!(*w, "struct" | "union" | "enum")) {
        return list_type(word, name.trim(), kernel, text);
    }
    let (pattern, providers) = normalise(pattern);
    let mut list = List {
        kernel,
        pattern,
        verbose,
        only: providers.len() == 1,
        text: String::new(),
        missing: Vec::new(),
    };
    for provider in providers {
        list.provider(provider)?;
    }
    text.push_str(&list.text);
    for missing in &list.missing {
        out::stderr(&format!("warning: the list is incomplete: {missing}\n"));
    }
    Ok(())
}

/// `struct sock`: a type of the kernel, with the offset of each member.
fn list_type(word: &str, name: &str, kernel: &Kernel, text: &mut String) -> Result<(), Failure> {
    let btf = kernel.btf().ok_or_else(|| Failure::new("this kernel has no type information"))?;
    let found = match word {
        "struct" => btf.find_struct(name),
        "union" => btf.find_union(name),
        _ => btf.find_enum(name),
    };
    let Some(id) = found else {
        let near = match word {
            "struct" => hir::nearest_name(name, btf.struct_names()),
            "union" => hir::nearest_name(name, btf.union_names()),
            _ => hir::nearest_name(name, btf.enum_names()),
        };
        let failure = Failure::new(format!("this kernel has no `{word} {name}`"));
        return Err(match near {
            Some(near) => failure.help(format!("did you mean `{word} {near}`?")),
            None => failure,
        });
    };
    let size = btf.size_of(id).unwrap_or(0);
    let _ = writeln!(text, "{word} {name} {{ /* {size} bytes */");
    if let Some(BtfType::Enum(info)) = btf.type_by_id(id) {
        for value in info.values() {
            let _ = writeln!(text, "    {} = {},", value.name, value.value);
        }
    }
    for (member, field) in btf.fields(id) {
        let bits = if field.bitfield_size > 0 {
            format!(":{}", field.bitfield_size)
        } else {
            String::new()
        };
        let _ = writeln!(text, "    {}{bits}; /* {} */", typed(btf, field.ty, member), field.byte_offset());
    }
    let _ = writeln!(text, "}}");
    Ok(())
}

/// A declaration of a type of the kernel.
fn typed(btf: &Btf, ty: TypeId, name: &str) -> String {
    format!("{} {name}", btf.c_name(ty))
}

/// `const char * filename`, `__u8 saddr[4]`
fn declaration(field: &TracepointField) -> String {
    let array = field.array.map_or_else(String::new, |n| format!("[{n}]"));
    format!("{} {}{array}", field.ty, field.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pattern: &str) -> (String, Vec<&'static str>) {
        let (full, providers) = normalise(pattern);
        (full, providers.into_iter().map(|p| p.name).collect())
    }

    #[test]
    fn short_names_are_spelled_out() {
        assert_eq!(names("t:tcp:*"), ("tracepoint:tcp:*".into(), vec!["tracepoint"]));
        assert_eq!(names("kr:tcp_*"), ("kretprobe:tcp_*".into(), vec!["kretprobe"]));
        assert_eq!(names("tracepoint"), ("tracepoint*".into(), vec!["tracepoint"]));
    }

    #[test]
    fn a_pattern_for_the_type_looks_only_where_it_can_match() {
        assert_eq!(names("trace*:tcp:*").1, ["tracepoint"]);
        assert_eq!(names("nothing:x").1.len(), 0);
        let all = names("*open*").1;
        assert!(all.contains(&"tracepoint") && all.contains(&"kprobe") && !all.contains(&"kretprobe"));
    }

    #[test]
    fn pieces_of_functions_are_listed_where_they_are_asked_for() {
        let names = |pattern: &str| -> Vec<String> {
            let all = ["tcp_probe", "tcp_probe.part.0", "tcp_probe.isra.0"];
            let all = all.map(|name| ("vmlinux".to_owned(), name.to_owned())).to_vec();
            shown(pattern, all).into_iter().map(|(_, name)| name).collect()
        };
        for pattern in ["kprobe:tcp_*", "fentry:tcp_*", "fexit:vmlinux:tcp_*"] {
            assert_eq!(names(pattern), ["tcp_probe", "tcp_probe.isra.0"], "{pattern}");
        }
        assert_eq!(names("fentry:tcp_*.part.*").len(), 3);
        assert_eq!(names("kprobe:tcp_probe.part.0").len(), 3);
    }

    #[test]
    fn events_of_natives_are_listed() {
        let list = |pattern: &str, script: &str, verbose| {
            let parsed = weir_parser::parse(SourceId(0), script);
            let mut text = String::new();
            list_events(pattern, &natives(&parsed.program), verbose, &mut text);
            text
        };
        let script = "use blocklist(iface=\"lo\", prefixes=10.0.0.1) as bl; use blocklist(iface=\"lo\", prefixes=10.0.0.1);";
        assert_eq!(list("bl:*", script, false), "bl:drop\nbl:allow\n");
        assert_eq!(list("*:drop", script, false), "bl:drop\nblocklist:drop\n");
        assert_eq!(list("bl:drop", script, true), "bl:drop\n    prefix bl.prefix\n");
        assert_eq!(list("blocked:*", script, false), "");
        let mut text = String::new();
        list_events("bl:*", &known_aliases(), false, &mut text);
        assert_eq!(text, "bl:drop\nbl:allow\n");
    }

    #[test]
    fn events_of_every_native_are_listed_by_its_name_and_by_an_alias() {
        for native in NATIVES {
            let parsed = weir_parser::parse(SourceId(0), native.example);
            let used = natives(&parsed.program);
            let [(alias, _)] = used.as_slice() else {
                panic!("the example of {} uses {used:?}", native.name)
            };
            assert_ne!(alias, native.name);
            for (name, instances) in [(alias.as_str(), used.clone()), (native.name, all_natives())] {
                let mut text = String::new();
                list_events(&format!("{name}:*"), &instances, false, &mut text);
                let expected: String = native.events.iter().map(|e| format!("{name}:{}\n", e.name)).collect();
                assert!(text == expected && !text.is_empty(), "{name}: {text}");
                let mut verbose = String::new();
                list_events(&format!("{name}:*"), &instances, true, &mut verbose);
                for var in native.events.iter().flat_map(|e| e.vars) {
                    assert!(verbose.contains(&format!(" {name}.{}\n", var.name)), "{}: {verbose}", var.name);
                }
            }
        }
    }

    #[test]
    fn interfaces_and_timers_are_listed() {
        let kernel = Kernel::new();
        let list = |pattern: &str| {
            let mut text = String::new();
            list(pattern, &kernel, false, &mut text).unwrap();
            text
        };
        assert_eq!(list("xdp:lo"), "xdp:lo\n");
        assert_eq!(list("tc:lo:*"), "tc:lo:ingress\ntc:lo:egress\n");
        assert!(
            list("interval:*").starts_with("interval:s:N\ninterval:ms:N\n"),
            "{}",
            list("interval:*")
        );
        assert_eq!(list("xdp:no-such-iface"), "");
    }

    #[test]
    fn places_in_files_and_arguments_are_listed() {
        let kernel = Kernel::new();
        let list = |pattern: &str, verbose| {
            let mut text = String::new();
            list(pattern, &kernel, verbose, &mut text).map(|()| text).map_err(|e| e.message)
        };
        let malloc = list("u:libc:mallo[c]", false).unwrap();
        assert!(malloc.starts_with("uprobe:/") && malloc.ends_with(":malloc\n"), "{malloc}");
        assert!(list("uprobe:no-such-program:f", false).unwrap_err().contains("no-such-program"));
        assert_eq!(list("software:cpu-clo*", false).unwrap(), "software:cpu-clock:1000000\n");
        assert_eq!(list("usdt", false).unwrap(), "usdt:BINARY:[PROVIDER:]PROBE\n");
        if kernel.btf().is_some() {
            let switch = list("rt:sched_switch", true).unwrap();
            assert!(switch.starts_with("rawtracepoint:sched_switch\n    bool preempt\n"), "{switch}");
            assert!(list("iter:task", true).unwrap().contains("struct task_struct * ctx.task"));
            let address = list("struct in_addr", true).unwrap();
            assert!(
                address.starts_with("struct in_addr { /* 4 bytes */\n") && address.contains("s_addr; /* 0 */"),
                "{address}"
            );
            assert!(list("struct in_adr", true).unwrap_err().contains("no `struct in_adr`"));
        }
    }

    #[test]
    fn the_probes_of_a_script() {
        let parsed = weir_parser::parse(SourceId(0), "t:tcp:tcp_probe, BEGIN { exit(); }");
        assert_eq!(attach_points(&parsed.program), ["t:tcp:tcp_probe", "BEGIN"]);
    }

    #[test]
    fn fields_look_like_c() {
        let field = TracepointField {
            name: "saddr".into(),
            ty: "__u8".into(),
            offset: 8,
            size: 4,
            signed: false,
            array: Some(4),
            data_loc: false,
        };
        assert_eq!(declaration(&field), "__u8 saddr[4]");
    }
}
