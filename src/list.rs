//! `weir -l`: which probes there are, by pattern, or those of a script.

use crate::args::{Run, split_rest};
use crate::render::{Failure, Renderer};
use crate::{out, source};
use std::fmt::Write;
use std::process::ExitCode;
use weir_compiler::hir::glob_match;
use weir_compiler::kernel::{Feature, KernelInfo, Support, TracepointField};
use weir_compiler::object::Direction;
use weir_compiler::tables::CGROUP_HOOKS;
use weir_compiler::tables::{PROVIDERS, Provider, provider};
use weir_parser::{SourceId, ast};
use weir_runtime::Kernel;

pub fn main(args: &Run, kernel: &Kernel) -> Result<ExitCode, Failure> {
    let (search, _) = split_rest(args.program.as_deref(), &args.rest).map_err(Failure::new)?;
    let is_file = search.is_some_and(|s| s == "-" || std::path::Path::new(s).is_file());
    let patterns: Vec<String> = if args.program.is_some() || is_file {
        let source = source::read(args.program.as_deref(), search)?;
        let parsed = weir_parser::parse(SourceId(0), &source.text);
        if parsed.has_errors() {
            out::stderr(&Renderer::for_stderr().diagnostics(&[source], &parsed.diagnostics));
            return Ok(ExitCode::FAILURE);
        }
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
    // Every kretprobe is a kprobe, too: a pattern that names neither lists them once.
    let wanted = |p: &&Provider| p.name != "kretprobe" && (rest.is_none() || glob_match(first, p.name));
    (pattern.to_owned(), PROVIDERS.iter().filter(wanted).collect())
}

fn list(pattern: &str, kernel: &Kernel, verbose: bool, text: &mut String) -> Result<(), Failure> {
    let (pattern, providers) = normalise(pattern);
    let only = providers.len() == 1;
    let mut add = |name: String, fields: &dyn Fn() -> Vec<TracepointField>| {
        if glob_match(&pattern, &name) {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{name}");
            if verbose {
                fields().iter().filter(|f| !f.name.starts_with("common_")).for_each(|f| {
                    let _ = writeln!(text, "    {}", declaration(f));
                });
            }
        }
    };
    let none = || Vec::new();
    for provider in providers {
        match provider.name {
            "tracepoint" => {
                if only && let Support::No(why) | Support::Unknown(why) = kernel.feature(Feature::Tracefs) {
                    return Err(Failure::new(format!("cannot list tracepoints: {why}")));
                }
                for (category, name) in kernel.tracepoints() {
                    add(format!("tracepoint:{category}:{name}"), &|| {
                        kernel.tracepoint(&category, &name).unwrap_or_default()
                    });
                }
            }
            "kprobe" | "kretprobe" => match kernel.feature(Feature::Kprobe) {
                Support::No(why) if only => {
                    return Err(
                        Failure::new(format!("this kernel has no kprobes ({why})")).help("list tracepoints: `weir -l 'tracepoint:*'`")
                    );
                }
                Support::No(_) => {}
                Support::Yes | Support::Unknown(_) => {
                    kernel
                        .functions()
                        .into_iter()
                        .for_each(|f| add(format!("{}:{f}", provider.name), &none));
                }
            },
            "xdp" => kernel.interfaces().into_iter().for_each(|i| add(format!("xdp:{i}"), &none)),
            "tc" => {
                for iface in kernel.interfaces() {
                    for direction in [Direction::Ingress, Direction::Egress] {
                        let word = if direction == Direction::Ingress { "ingress" } else { "egress" };
                        add(format!("tc:{iface}:{word}"), &none);
                    }
                }
            }
            "cgroup" => {
                for path in kernel.cgroups_below("/") {
                    CGROUP_HOOKS.iter().for_each(|h| add(format!("cgroup:{path}:{}", h.name), &none));
                }
            }
            "cgroup_skb" => {
                for path in kernel.cgroups_below("/") {
                    ["ingress", "egress"]
                        .into_iter()
                        .for_each(|d| add(format!("cgroup_skb:{path}:{d}"), &none));
                }
            }
            // These have no list of places: their form says what can be written.
            _ => {
                for form in provider.form.split(" | ") {
                    let full = if form.starts_with(provider.name) {
                        form.to_owned()
                    } else {
                        format!("{}:{form}", provider.name)
                    };
                    add(full, &none);
                }
            }
        }
    }
    Ok(())
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
