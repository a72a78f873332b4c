//! The kernel's verifier accepts what the compiler makes: random well-typed scripts over every hook.
//!
//! Seeds are fixed and printed; `WEIR_ACCEPT_COUNT` changes the number of scripts, `WEIR_ACCEPT_SEED` the first seed. A script that the
//! verifier refuses once and accepts without the optimiser is counted and shown; one refused twice is a failure.

#![allow(clippy::unwrap_used)] // A panic is the failure.

use std::fmt::Write;
use weir_compiler::kernel::{Feature, KernelInfo, Support};
use weir_compiler::pipeline::{Options, Output, Source, compile};
use weir_compiler::tables::{BUILTINS, BuiltinKind, CGROUP_HOOKS, FIELDS, FieldKind, FieldType, Hook};
use weir_runtime::load::load;
use weir_runtime::{Error, Kernel};

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// What every script defines.
const DEFINITIONS: &str = "struct point { int x; short y : 9; short z : 7; char name[12]; struct point *next; };
enum color { RED, GREEN };
fn larger($a : int64, $b : int64) : int64 { if ($a > $b) { return $a; } return $b; }
fn through($n : int64) : int64 { let $m = $n; $p = &$m; return *$p + 1; }
";

/// Writes one script. Maps are named after their types, so that every use agrees.
struct Script {
    random: Random,
    hook: Hook,
    ints: Vec<String>,
    bools: Vec<String>,
    inets: Vec<String>,
    texts: Vec<String>,
    /// Values that only user space can read.
    kept: Vec<String>,
    vars: usize,
    depth: usize,
}

impl Script {
    fn new(seed: u64, hook: Hook, tracepoint_args: &[&str]) -> Self {
        let mut kept: Vec<String> = [
            "strerror(13)",
            "(a=1, b=\"x\")",
            "signal_name(9)",
            "(uint8[8])(uint64)7",
            "(enum color)1",
            "*(struct point *)1000",
        ]
        .map(str::to_owned)
        .to_vec();
        let (mut ints, mut bools, mut inets, mut texts) = (Vec::new(), vec!["true".to_owned()], Vec::new(), Vec::new());
        for builtin in BUILTINS.iter().filter(|b| b.hooks.contains(hook)) {
            match builtin.kind {
                BuiltinKind::Comm
                | BuiltinKind::Pcomm
                | BuiltinKind::LeaderComm
                | BuiltinKind::ProbeType
                | BuiltinKind::Func
                | BuiltinKind::Probe => texts.push(builtin.name.to_owned()),
                BuiltinKind::Usermode | BuiltinKind::HasCpid => bools.push(builtin.name.to_owned()),
                BuiltinKind::Kstack | BuiltinKind::Ustack | BuiltinKind::Username => kept.push(builtin.name.to_owned()),
                // No numbers, or only with more than a script.
                BuiltinKind::Ctx | BuiltinKind::Curtask | BuiltinKind::Args | BuiltinKind::Cpid => {}
                _ => ints.push(builtin.name.to_owned()),
            }
        }
        for field in FIELDS.iter().filter(|f| f.hooks.contains(hook)) {
            match field.ty {
                // The others are of one family, and to compare them with an address of the other is an error.
                FieldType::Inet if field.name.starts_with("ip.") => inets.push(field.name.to_owned()),
                FieldType::Inet => {}
                FieldType::Bool => bools.push(field.name.to_owned()),
                FieldType::Mac | FieldType::Flow | FieldType::Bytes => {}
                FieldType::Name | FieldType::IfName | FieldType::Direction => texts.push(field.name.to_owned()),
                _ if matches!(field.kind, FieldKind::At { .. }) => ints.push(format!("{}[20]", field.name)),
                _ if field.kind == FieldKind::Meta && hook == Hook::Xdp => {}
                _ => ints.push(field.name.to_owned()),
            }
        }
        ints.extend(tracepoint_args.iter().map(|a| format!("args.{a}")));
        Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            hook,
            ints,
            bools,
            inets,
            texts,
            kept,
            vars: 0,
            depth: 0,
        }
    }

    fn int(&mut self) -> String {
        self.depth += 1;
        let choice = if self.depth > 4 {
            self.random.below(4)
        } else {
            self.random.below(22)
        };
        let text = match choice {
            16 => format!("strstr({}, \"ab\")", self.text()),
            17 => format!("larger({}, {})", self.int(), self.int()),
            18 => format!("((uint8[4])(uint32)({}))[{}]", self.int(), self.random.below(4)),
            19 => format!("through({})", self.int()),
            20 => format!("strlen(str_concat({}, \"-\"))", self.text()),
            21 => format!("((struct point *)({}))->y", self.int()),
            12 => format!("strlen({})", self.text()),
            13 => format!("strncmp({}, {}, {})", self.text(), self.text(), self.random.below(20)),
            14 => "(int64)@kc[1, 10.0.0.1, \"x\"]".to_owned(),
            15 => "len(@kc)".to_owned(),
            0 | 1 => {
                let i = self.random.below(self.ints.len());
                self.ints[i].clone()
            }
            2 => self
                .random
                .pick(&["0", "1", "7", "255", "65535", "4294967296", "AF_INET", "IPPROTO_TCP"])
                .to_owned(),
            3 if self.vars > 0 => format!("$v{}", self.random.below(self.vars)),
            3 => "@si".to_owned(),
            4 => format!("@ki[{}]", self.key()),
            5 => format!("({} ? {} : {})", self.truth(), self.int(), self.int()),
            6 => format!("({})({})", self.random.pick(&["uint8", "int16", "uint32", "int64"]), self.int()),
            7 => format!("-({})", self.int()),
            8 => "@si++".to_owned(),
            _ => {
                let op = self.random.pick(&["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"]);
                let (left, right) = (self.int(), self.int());
                // A constant zero there is an error of its own.
                if matches!(op, "/" | "%") {
                    format!("({left} {op} ({right} + @si))")
                } else {
                    format!("({left} {op} {right})")
                }
            }
        };
        self.depth -= 1;
        text
    }

    fn inet(&mut self) -> String {
        if !self.inets.is_empty() && self.random.below(3) > 0 {
            let i = self.random.below(self.inets.len());
            return self.inets[i].clone();
        }
        match self.random.below(3) {
            0 => "10.0.0.1".to_owned(),
            1 => format!("ntop({})", self.int()),
            _ => format!("ntop(AF_INET, {})", self.int()),
        }
    }

    fn text(&mut self) -> String {
        let i = self.random.below(self.texts.len() + 1);
        self.texts.get(i).cloned().unwrap_or_else(|| "\"some words\"".to_owned())
    }

    fn truth(&mut self) -> String {
        self.depth += 1;
        let choice = if self.depth > 4 {
            self.random.below(2)
        } else {
            self.random.below(9)
        };
        let text = match choice {
            0 => {
                let op = self.random.pick(&["==", "!=", "<", ">=", ">"]);
                format!("{} {op} {}", self.int(), self.int())
            }
            1 if self.random.below(2) == 0 => self.int(),
            1 => {
                let i = self.random.below(self.bools.len());
                self.bools[i].clone()
            }
            2 => format!("({} && {})", self.truth(), self.truth()),
            3 => format!("({} || {})", self.truth(), self.truth()),
            4 => format!("!({})", self.truth()),
            5 => format!("{} in (10.0.0.0/8, 192.0.2.7, \"2001:db8::/32\")", self.inet()),
            6 => format!("{} in (1, 5-9, 80)", self.int()),
            7 => format!("{} == {}", self.inet(), self.inet()),
            _ => format!("find(@ki, ({}), $found)", self.key()),
        };
        self.depth -= 1;
        format!("({text})")
    }

    /// A key of the one type that the keyed maps of the script have.
    fn key(&mut self) -> String {
        format!("{}, {}, {}", self.int(), self.inet(), self.text())
    }

    fn statement(&mut self, out: &mut String) {
        self.depth += 1;
        let choice = if self.depth > 2 {
            self.random.below(13)
        } else {
            self.random.below(19)
        };
        match choice {
            0 => {
                let value = self.int();
                writeln!(out, "$v{} = {value};", self.vars).unwrap();
                self.vars += 1;
            }
            1 => writeln!(out, "@si = {};", self.int()).unwrap(),
            2 => writeln!(out, "@ki[{}] = {};", self.key(), self.int()).unwrap(),
            3 => writeln!(out, "@ki[{}]++;", self.key()).unwrap(),
            4 => {
                let agg = self.random.pick(&["sum", "avg", "min", "max", "stats", "hist"]);
                let sign = self.random.pick(&["uint64", "int64"]);
                writeln!(out, "@s{agg}{sign} = {agg}(({sign})({}));", self.int()).unwrap();
            }
            5 => {
                let agg = self.random.pick(&["sum", "avg", "min", "max", "stats", "hist"]);
                writeln!(out, "@k{agg}[{}] = {agg}((uint64)({}));", self.key(), self.int()).unwrap();
            }
            6 => writeln!(
                out,
                "@sl[{}] = lhist({}, 0, 100, 10); @sh = hist({}, 2);",
                self.text(),
                self.int(),
                self.int()
            )
            .unwrap(),
            7 => writeln!(
                out,
                "printf(\"%d %s %s %x\\n\", {}, {}, {}, {});",
                self.int(),
                self.inet(),
                self.text(),
                self.int()
            )
            .unwrap(),
            8 => writeln!(out, "print(({}, {}));", self.int(), self.text()).unwrap(),
            9 => writeln!(out, "@c = count(); @kc[{}] = count();", self.key()).unwrap(),
            10 => writeln!(out, "delete(@ki, ({}));", self.key()).unwrap(),
            11 => writeln!(out, "@st = {};", self.text()).unwrap(),
            12 => {
                let i = self.random.below(self.kept.len());
                let kept = self.kept[i].clone();
                writeln!(
                    out,
                    "@kept{i}[{kept}] = count(); print(({kept}, {})); print(strcontains({}, \"ab\"));",
                    self.int(),
                    self.text()
                )
                .unwrap();
            }
            13 => {
                let vars = self.vars;
                writeln!(
                    out,
                    "for ($i : 0..({} & 255)) {{ if {} {{ {}; }}",
                    self.int(),
                    self.truth(),
                    self.random.pick(&["break", "continue", "return"])
                )
                .unwrap();
                self.statement(out);
                self.vars = vars;
                out.push_str("}\n");
            }
            14 => {
                let vars = self.vars;
                writeln!(out, "for ($kv : {}) {{ @si += $kv.1 + $kv.0.0;", self.random.pick(&["@kc", "@ki"])).unwrap();
                self.statement(out);
                self.vars = vars;
                out.push_str("}\n");
            }
            15 => {
                let vars = self.vars;
                writeln!(out, "while {} {{ if {} {{ break; }}", self.truth(), self.truth()).unwrap();
                self.statement(out);
                self.vars = vars;
                out.push_str("}\n");
            }
            16 | 17 => {
                let vars = self.vars;
                writeln!(out, "if {} {{", self.truth()).unwrap();
                self.statement(out);
                self.vars = vars;
                writeln!(out, "}} else {{").unwrap();
                self.statement(out);
                self.vars = vars;
                writeln!(out, "}}").unwrap();
            }
            _ => {
                let vars = self.vars;
                writeln!(out, "unroll(2) {{").unwrap();
                self.statement(out);
                self.vars = vars;
                writeln!(out, "}}").unwrap();
            }
        }
        self.depth -= 1;
    }

    fn write(mut self, probe: &str) -> String {
        // What other statements read is assigned first.
        let mut out =
            format!("{DEFINITIONS}begin {{ @si = 1; @ki[1, 10.0.0.1, \"x\"] = 1; @kc[1, 10.0.0.1, \"x\"] = count(); }}\n{probe} ");
        if self.random.below(2) == 0 {
            write!(out, "/{}/ ", self.truth()).unwrap();
        }
        out.push_str("{\n");
        for _ in 0..=self.random.below(4) {
            self.statement(&mut out);
        }
        if self.hook.has_packet() && self.random.below(2) == 0 {
            writeln!(out, "if {} {{ {}(); }}", self.truth(), self.random.pick(&["drop", "pass"])).unwrap();
        }
        out.push_str("}\n");
        out
    }
}

fn compile_with(script: &str, kernel: &Kernel, optimise: bool) -> Output {
    let source = Source {
        name: "generated".to_owned(),
        text: script.to_owned(),
    };
    compile(
        &source,
        kernel,
        &Options {
            optimise,
            ..Options::default()
        },
    )
}

/// Loads a script; `Ok(true)` when only the unoptimised form was accepted.
fn accepted(script: &str, kernel: &Kernel) -> Result<bool, String> {
    let mut first_log = String::new();
    for optimise in [true, false] {
        let output = compile_with(script, kernel, optimise);
        let errors: Vec<String> = output
            .diagnostics
            .iter()
            .filter(|d| d.is_error())
            .map(|d| d.message.clone())
            .collect();
        // A block that needs more than the kernel's stack is the user's to split, and said so.
        if errors.iter().any(|e| e.contains("bytes of stack")) {
            return Ok(false);
        }
        let Some(object) = output.object else {
            return Err(format!("{errors:?} {:?}", output.internal));
        };
        match load(&object, &|_, _| None) {
            Ok(_) => {
                if !optimise {
                    eprintln!("accepted only without the optimiser:\n{script}\n{first_log}");
                }
                return Ok(!optimise);
            }
            Err(Error::Rejected { log, .. }) => {
                first_log = log
                    .lines()
                    .rev()
                    .take(30)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect::<Vec<_>>()
                    .join("\n")
            }
            Err(other) => return Err(other.to_string()),
        }
    }
    Err(first_log)
}

fn allowed() -> bool {
    // SAFETY: plain system call without pointers.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: loading BPF programs needs root");
    }
    root
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn random_scripts_load() {
    if !allowed() {
        return;
    }
    let kernel = Kernel::new();
    let first = number("WEIR_ACCEPT_SEED", 1);
    let count = number("WEIR_ACCEPT_COUNT", 200);
    eprintln!("seeds {first} to {}", first + count - 1);
    let kprobes = kernel.feature(Feature::Kprobe) == Support::Yes;
    let mut failures = Vec::new();
    let mut fallbacks = 0;
    // What the verifier gave up following; weir tells the author that, and it must be rare.
    let mut too_long = 0;
    for seed in first..first + count {
        let cgroup = &CGROUP_HOOKS[usize::try_from(seed / 7).unwrap() % CGROUP_HOOKS.len()];
        let cgroup_probe = format!("cgroup:/:{}", cgroup.name);
        let (hook, probe, args): (Hook, &str, &[&str]) = match seed % 7 {
            5 => (cgroup.hook, &cgroup_probe, &[]),
            0 | 1 => (Hook::Xdp, "xdp:lo", &[]),
            2 | 3 => (Hook::Tc, "tc:lo:ingress", &[]),
            4 if kprobes => (Hook::Kprobe, "kprobe:tcp_sendmsg", &[]),
            4 => (Hook::PerfEvent, "interval:s:1", &[]),
            _ => (
                Hook::Tracepoint,
                "tracepoint:sched:sched_switch",
                &["prev_pid", "next_pid", "prev_prio"],
            ),
        };
        let script = Script::new(seed, hook, args).write(probe);
        match accepted(&script, &kernel) {
            Ok(fallback) => fallbacks += u32::from(fallback),
            Err(why) if why.contains("BPF program is too large") => too_long += 1,
            Err(why) => failures.push(format!("seed {seed}\n{script}\n{why}")),
        }
    }
    eprintln!("{count} scripts, {fallbacks} accepted only without the optimiser, {too_long} too long for the kernel");
    assert!(
        too_long <= 1 + count / 50,
        "{too_long} of {count} scripts are too long for the kernel"
    );
    assert!(
        failures.is_empty(),
        "{} of {count} failed\n{}",
        failures.len(),
        failures.into_iter().take(5).collect::<Vec<_>>().join("\n")
    );
    assert!(
        u64::from(fallbacks) * 20 <= count,
        "{fallbacks} of {count} scripts needed the unoptimised form"
    );
}
