//! Every word of the language at every hook of packets and sockets: the kernel loads what the tables promise, and what they deny is
//! refused with the documented error.
//!
//! Words, hooks and forms come from the compiler's tables; here stands only what to write for a parameter of a function.

#![allow(clippy::unwrap_used)] // A panic is the failure.

use std::collections::BTreeSet;
use std::fmt::Write;
use weir_compiler::hir;
use weir_compiler::kernel::KernelInfo;
use weir_compiler::pipeline::{Options, Output, Source, compile};
use weir_compiler::tables::{
    AddressFamily, BUILTINS, CGROUP_HOOKS, FIELDS, FUNCTIONS, Field, FieldKind, FieldType, Function, FunctionKind, Hook, Verdict,
};
use weir_runtime::load::load;
use weir_runtime::{Error, Kernel, native};

/// So many words at a time are one program: more need more stack than the kernel allows.
const TOGETHER: usize = 24;

const DEFINITIONS: &str = "struct point { int x; char six[6]; };\nbegin { @m[1] = 1; }\n";

/// A hook as a script names it.
struct Place {
    hook: Hook,
    point: String,
    /// What stands before, for events of natives.
    natives: &'static str,
    /// IPv6 addresses only.
    v6: bool,
    can_deny: bool,
    /// Whether programs there are those of a place before: what loads there loads here. Not so with addresses of system calls, where the
    /// kernel asks what a program is to be attached to.
    same: bool,
}

fn places() -> Vec<Place> {
    let place = |hook, point: &str, natives| Place {
        hook,
        point: point.to_owned(),
        natives,
        v6: false,
        can_deny: true,
        same: false,
    };
    let same = |hook, point| Place {
        same: true,
        ..place(hook, point, "")
    };
    let mut places = vec![
        place(Hook::Xdp, "xdp:lo", ""),
        same(Hook::Xdp, "xdp:lo:native"),
        same(Hook::Xdp, "xdp:lo:generic"),
        // Interfaces without Ethernet are among them: other programs.
        place(Hook::Xdp, "xdp:*", ""),
        place(Hook::Tc, "tc:lo:ingress", ""),
        same(Hook::Tc, "tc:lo:from_pod"),
        place(Hook::Tc, "tc:lo:egress", ""),
        same(Hook::Tc, "tc:lo:to_pod"),
        place(Hook::Tc, "tc:*:ingress", ""),
        same(Hook::Tc, "tc:*:egress"),
        place(Hook::CgroupSkb, "cgroup_skb:/:ingress", ""),
        place(Hook::CgroupSkb, "cgroup_skb:/:egress", ""),
        place(
            Hook::NativeXdp,
            "bl:drop",
            "use blocklist(iface=\"lo\", audit=\"off\", protect=false, prefixes=198.51.100.0/24) as bl;",
        ),
        place(Hook::NativeTc, "fl:new", "use flows(iface=\"lo\", max=100) as fl;"),
        place(Hook::NativeXdp, "fx:new", "use flows(iface=\"lo\", max=100, hook=\"xdp\") as fx;"),
        place(Hook::NativeTrace, "re:retransmit", "use retransmits() as re;"),
    ];
    for hook in CGROUP_HOOKS {
        let place = Place {
            hook: hook.hook,
            point: format!("cgroup:/:{}", hook.name),
            natives: "",
            v6: hook.family == AddressFamily::V6,
            can_deny: hook.can_deny,
            same: false,
        };
        let like = |p: &Place| (p.hook, p.v6, p.can_deny) == (place.hook, place.v6, place.can_deny);
        let same = places.iter().any(like);
        places.push(Place { same, ..place });
    }
    places
}

/// One use of a word, and whether the hook has it.
struct Use {
    word: String,
    /// Forms to try: of a function it depends on what it returns.
    forms: Vec<String>,
    there: bool,
    /// Whether this kernel may hide what it asks for.
    hidden: bool,
}

fn uses(place: &Place, no_percpu: bool) -> Vec<Use> {
    let mut uses = Vec::new();
    let leaves = place.point.ends_with("egress") || place.point.ends_with("to_pod");
    // What depends on the hook alone has been tried at the place before.
    for builtin in BUILTINS.iter().filter(|_| !place.same) {
        uses.push(Use {
            word: builtin.name.to_owned(),
            forms: vec![format!("print({});", builtin.name)],
            there: builtin.hooks.contains(place.hook),
            hidden: false,
        });
    }
    for field in FIELDS {
        let name = match field.kind {
            FieldKind::At { .. } => format!("{}[20]", field.name),
            _ => field.name.to_owned(),
        };
        let meta = field.kind == FieldKind::Meta;
        // The tag is written at XDP, and read where packets come in.
        let readable = field.hooks.contains(place.hook) && !(meta && (place.hook == Hook::Xdp || leaves));
        uses.push(Use {
            word: field.name.to_owned(),
            forms: vec![format!("print({name});")],
            there: readable,
            hidden: false,
        });
        uses.push(Use {
            word: format!("{} = …", field.name),
            forms: vec![format!("{name} = {};", value(field, place.v6))],
            there: field.hooks.contains(place.hook) && field.writable.contains(place.hook),
            hidden: false,
        });
    }
    let verdict = |f: &&Function| matches!(f.kind, FunctionKind::Verdict(_));
    for function in FUNCTIONS.iter().filter(|f| !place.same || verdict(f)) {
        let there = function.hooks.contains(place.hook);
        // What a native reports is decided already.
        let decides = match function.kind {
            FunctionKind::Verdict(Verdict::Deny) => place.can_deny,
            FunctionKind::Verdict(_) => place.natives.is_empty(),
            _ => true,
        };
        let there = there && decides;
        let (call, statement) = call(function, place);
        let aggregates = function.signature.starts_with("@ = ");
        uses.push(Use {
            word: format!("{}()", function.name),
            forms: match aggregates {
                true => vec![format!("@agg_{} = {call};", function.name)],
                false => vec![format!("{statement}print({call});"), format!("{statement}{call};")],
            },
            there: there && !matches!(function.kind, FunctionKind::Fail | FunctionKind::Instead(_)),
            hidden: function.kind == FunctionKind::PercpuKaddr && no_percpu,
        });
    }
    uses
}

fn value(field: &Field, v6: bool) -> &'static str {
    match field.ty {
        FieldType::Mac => "\"02:42:ac:11:00:02\"",
        FieldType::Inet if v6 || field.name.starts_with("ip6") => "\"2001:db8::1\"",
        FieldType::Inet => "10.0.0.1",
        _ => "1",
    }
}

/// A call with as few arguments as it takes, and what must stand before it.
fn call(function: &Function, place: &Place) -> (String, &'static str) {
    let signature = function.signature.strip_prefix("@ = ").unwrap_or(function.signature);
    let Some((_, parameters)) = signature.split_once('(') else {
        // `comptime expression`
        return (signature.replace("expression", "1"), "");
    };
    // Those in brackets may be left out, but not what depends on the others.
    let parameters = parameters
        .split(')')
        .next()
        .unwrap()
        .replace("[family, ]", "")
        .replace(['[', ']'], "");
    let least = match function.kind {
        FunctionKind::Delete | FunctionKind::Buf => 2,
        _ => function.args.0,
    };
    let mut before = "";
    let arguments: Vec<&str> = parameters
        .split(", ")
        .filter(|p| !p.is_empty() && *p != "...")
        .take(least)
        .map(|parameter| {
            if parameter == "$value" {
                before = "$value = 1; ";
            }
            argument(function, parameter, place)
        })
        .collect();
    (format!("{}({})", function.name, arguments.join(", ")), before)
}

/// What to write for a parameter, by its name in the signature.
fn argument<'a>(function: &Function, parameter: &'a str, place: &Place) -> &'a str {
    match parameter {
        "format" | "text" | "a" | "b" | "path" => "\"x\"",
        "part" => "\"y\"",
        "\"address\"" => "\"10.0.0.1\"",
        "\"symbol\"" if function.kind == FunctionKind::PercpuKaddr => "\"runqueues\"",
        "\"symbol\"" => "\"_text\"",
        "\"/path\"" => "\"/\"",
        "\"if\"" => "\"lo\"",
        "@map" => "@m",
        "pointer" if function.kind == FunctionKind::ContainerOf => "(int32 *)1000",
        "pointer" | "p" | "struct path" | "sk" | "argv" => "(uint8 *)1000",
        "bytes" => "((struct point *)1000)->six",
        "struct x" => "struct point",
        "member" => "x",
        "condition" => "true",
        "number or \"NAME\"" => "9",
        "min" => "0",
        "max" => "10",
        "interval" => "1s",
        "field" if place.hook.has_packet() => "ip.src",
        "skb" | "length" | "offset" | "step" | "x" | "n" | "nsecs" | "id" | "errno" | "number" | "key" | "value" | "count" => "1",
        "address" | "field" => "(uint32)1",
        quoted if quoted.starts_with('"') || quoted.starts_with('$') => quoted,
        other => panic!("`{}`: what to write for `{other}`?", function.name),
    }
}

fn compiled(script: &str, kernel: &Kernel) -> Output {
    let source = Source {
        name: "matrix".to_owned(),
        text: script.to_owned(),
    };
    let script = hir::Options {
        unsafe_functions: true,
        child: Some(1),
        ..hir::Options::default()
    };
    compile(
        &source,
        kernel,
        &Options {
            script,
            ..Options::default()
        },
    )
}

/// A script with each form in a line of its own, and the number of the first of these lines, from 0.
fn script(place: &Place, forms: &[&str]) -> (String, usize) {
    let mut text = format!("{}\n{DEFINITIONS}{} {{\n", place.natives, place.point);
    let first = text.lines().count();
    for (i, form) in forms.iter().enumerate() {
        // None of them is the last that runs.
        writeln!(text, "if (rand == {i}) {{ {form} }}").unwrap();
    }
    text.push_str("}\n");
    (text, first)
}

/// Errors of each form, by code, when all are compiled together.
fn errors(place: &Place, forms: &[&str], kernel: &Kernel) -> Vec<Vec<(String, String)>> {
    let (text, first) = script(place, forms);
    let output = compiled(&text, kernel);
    assert!(output.internal.is_none(), "{:?}\n{text}", output.internal);
    let mut found = vec![Vec::new(); forms.len()];
    for d in output.diagnostics.iter().filter(|d| d.is_error()) {
        let line = text[..d.span.start as usize].matches('\n').count();
        let at = line.checked_sub(first).and_then(|i| found.get_mut(i));
        let at = at.unwrap_or_else(|| panic!("{}: {} in line {line} of\n{text}", place.point, d.message));
        at.push((d.code.to_string(), d.message.clone()));
    }
    found
}

/// Loads these forms as one program.
fn loads(place: &Place, forms: &[&str], kernel: &Kernel, natives: &[native::Instance]) -> Result<(), String> {
    let (text, _) = script(place, forms);
    let output = compiled(&text, kernel);
    let errors: Vec<String> = output
        .diagnostics
        .iter()
        .filter(|d| d.is_error())
        .map(|d| d.message.clone())
        .collect();
    let Some(object) = output.object else {
        return Err(format!("{errors:?} {:?}", output.internal));
    };
    match load(&object, &|instance, symbol| natives.get(instance).and_then(|n| n.map_fd(symbol))) {
        Ok(_) => Ok(()),
        Err(Error::Rejected { log, .. }) => Err(log.lines().rev().take(12).collect::<Vec<_>>().join("\n")),
        Err(other) => Err(other.to_string()),
    }
}

/// Tells apart which of these forms the kernel refuses.
fn refused(place: &Place, forms: &[&str], kernel: &Kernel, natives: &[native::Instance]) -> Vec<String> {
    match loads(place, forms, kernel, natives) {
        Ok(()) => Vec::new(),
        Err(why) if forms.len() == 1 => vec![format!("{}: `{}` does not load\n{why}", place.point, forms[0])],
        Err(_) => {
            let (a, b) = forms.split_at(forms.len() / 2);
            [refused(place, a, kernel, natives), refused(place, b, kernel, natives)].concat()
        }
    }
}

#[test]
fn every_word_loads_or_is_refused_at_every_hook_of_packets_and_sockets() {
    // SAFETY: plain system call without pointers.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: loading BPF programs needs root");
        return;
    }
    let kernel = Kernel::new();
    let no_percpu = kernel.symbol_address("__per_cpu_offset").is_none();
    let mut failures = Vec::new();
    let mut kinds = BTreeSet::new();
    let (mut loaded, mut denied) = (0, 0);
    for place in places() {
        let natives = match place.natives {
            "" => Vec::new(),
            text => {
                let object = compiled(&format!("{text} begin {{ exit(); }}"), &kernel).object.unwrap();
                native::load_all(&object, &kernel).unwrap()
            }
        };
        let uses = uses(&place, no_percpu);
        let first: Vec<&str> = uses.iter().map(|u| u.forms[0].as_str()).collect();
        let last: Vec<&str> = uses.iter().map(|u| u.forms.last().unwrap().as_str()).collect();
        let of_first = errors(&place, &first, &kernel);
        // Only where the first form does not do.
        let again: Vec<usize> = (0..uses.len()).filter(|&i| !of_first[i].is_empty()).collect();
        let mut of_last = of_first.clone();
        let second: Vec<&str> = again.iter().map(|&i| last[i]).collect();
        for (&i, found) in again.iter().zip(errors(&place, &second, &kernel)) {
            of_last[i] = found;
        }
        let mut good = Vec::new();
        for (i, one) in uses.iter().enumerate() {
            match (one.there, of_first[i].is_empty(), of_last[i].is_empty()) {
                (true, true, _) => good.push(first[i]),
                (true, false, true) => good.push(last[i]),
                (true, false, false) if one.hidden && of_last[i].iter().all(|(code, _)| code == "unknown-symbol") => {}
                (true, false, false) => failures.push(format!("{}: `{}`: {:?}", place.point, last[i], of_last[i])),
                (false, false, false) => {
                    denied += 1;
                    kinds.extend(of_last[i].iter().map(|(code, _)| code.clone()));
                }
                (false, ..) => failures.push(format!("{}: `{}` should be refused", place.point, one.word)),
            }
        }
        let mut to_load = good.clone();
        to_load.retain(|form| !place.same || place.hook.is_cgroup_call() && form.contains("addr."));
        for forms in to_load.chunks(TOGETHER) {
            failures.extend(refused(&place, forms, &kernel, &natives));
        }
        loaded += to_load.len();
        // What a kind of hook lacks is the same at all places of it.
        if place.hook == Hook::Xdp && !place.same {
            for word in ["pid", "comm", "kstack", "next()", "addr.ip", "skb.mark"] {
                let at = uses.iter().position(|u| u.word == word).unwrap();
                let (code, message) = &of_last[at][0];
                assert!(
                    code == "not-at-this-hook" && message.contains(word.trim_end_matches("()")),
                    "{word}: {message}"
                );
            }
        }
    }
    eprintln!("{loaded} uses load, {denied} are refused, by {kinds:?}");
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
}
