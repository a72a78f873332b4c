//! What is neither a probe nor a name: declarations at the top of a script, statements, and operators that are words.
//!
//! The parser knows their syntax; this table is what `weir doc`, the REPL and the reference manual say of them. The tests compile
//! every example.

/// A form of the language.
#[derive(Debug)]
pub struct Statement {
    /// The words that a user looks it up by, the first is its name.
    pub words: &'static [&'static str],
    pub form: &'static str,
    pub doc: &'static str,
    /// A whole script.
    pub example: &'static str,
}

macro_rules! statements {
    ($([$($word:literal)+] $form:literal, $doc:literal, $example:literal;)*) => {
        /// Every form, declarations first.
        pub static STATEMENTS: &[Statement] =
            &[$(Statement { words: &[$($word),+], form: $form, doc: $doc, example: $example },)*];
    };
}

statements! {
    ["use" "as"] "use NATIVE(param=value, …) [as ALIAS];",
        "runs a native: its maps are `@ALIAS.map`, its events are probes `ALIAS:event`",
        "use blocklist(iface=\"lo\", prefixes=(192.0.2.0/24)) as bl; bl:drop { @[ip.src] = count(); } interval:s:1 { print(@bl.hits, 10); }";
    ["config"] "config = { setting = value; … }",
        "settings of the script; a variable of the environment, `BPFTRACE_` before the setting's name, goes before it",
        "config = { max_map_keys = 65536; missing_probes = warn } begin { exit(); }";
    ["import"] "import \"PATH\";",
        "takes the macros, functions and blocks of another script; a relative path starts at the script's folder, and a folder stands for all scripts in it",
        "import \"tools.bt\"; begin { print(twice(21)); exit(); }";
    ["macro"] "macro name($variable, @map, expression) { … }",
        "a block that is put in where it is called; a variable or map that is an argument can be changed; the last expression is its value",
        "macro bump(@m, key) { @m[key] = @m[key] + 1; } begin { bump(@calls, 7); exit(); }";
    ["fn"] "fn name($a: type, …): type { … }",
        "a function of its own in the kernel, with typed parameters",
        "fn double($n: uint64): uint64 { return $n * 2; } begin { print(double(21)); exit(); }";
    ["let"] "let $x[: type][ = value];  or  let @m = KIND(entries);",
        "declares a variable of a block, or before all blocks a map of a kind: `hash`, `percpuhash`, `lruhash`, `percpulruhash`, or `lpm`, which is keyed by prefix",
        "let @seen = lruhash(1000); begin { let $n: uint32 = 3; @seen[$n] = 1; exit(); }";
    ["struct" "union" "enum"] "struct name { type member; … };",
        "declares a type as C does; those of the running kernel are known without",
        "enum side { IN, OUT }; union word { uint32 all; uint8 parts[4]; }; struct pair { int a; union word b; }; begin { print(sizeof(struct pair)); print(OUT); exit(); }";
    ["if" "else"] "if (condition) { … } [else if (…) { … }] [else { … }]",
        "runs the block if the condition holds; an absent condition does not",
        "xdp:lo { if (tcp.dport == 22) { @ssh = count(); } else { @other = count(); } }";
    ["while"] "while (condition) { … }",
        "as long as the condition holds; ends after 8 388 608 rounds at the latest",
        "begin { $i = 0; while ($i < 3) { $i++; } print($i); exit(); }";
    ["for"] "for ($kv : @map) { … }  or  for ($i : start..end) { … }",
        "every entry of a map, `$kv.0` its key and `$kv.1` its value, or every number from start to before end",
        "begin { for ($i : 0..3) { @[$i] = $i * $i; } for ($kv : @) { print($kv); } exit(); }";
    ["unroll"] "unroll (times) { … }",
        "repeats the block a fixed number of times, at most 100",
        "begin { unroll (3) { printf(\"x\"); } exit(); }";
    ["limit"] "limit (n/s) { … }",
        "runs the block at most n times in the time (`/ms`, `/s`, `/m`, `/h`, or a duration: `1/5m`); what is held back is counted and told",
        "xdp:lo { limit (10/s) { printf(\"%s\\n\", ip.src); } }";
    ["break" "continue"] "break;  continue;",
        "leaves a loop, or goes on with its next round",
        "begin { for ($i : 0..10) { if ($i == 1) { continue; } if ($i == 3) { break; } print($i); } exit(); }";
    ["return"] "return [value];",
        "ends the block; in a packet block a value is the verdict, as a number of the kernel: `return XDP_DROP;`",
        "xdp:lo { if (has(arp)) { return XDP_PASS; } @ = count(); }";
    ["in"] "value in (a, b, low-high, prefix, …)  or  key in @map",
        "whether a value is one of a set of constants, or a map has a key; large sets become maps by themselves; `file(\"PATH\")` takes an entry a line",
        "xdp:lo { if (ip.src in (10.0.0.0/8, 192.0.2.7, \"2001:db8::/32\") && tcp.dport in (22, 8000-8080)) { @ = count(); } }";
    ["file"] "file(\"PATH\")",
        "the entries of a file, one a line, behind `#` a comment, of addresses and numbers also behind `;`; in a set, in an `lpm` map and in parameters of natives",
        "xdp:lo /ip.src in (file(\"bad.txt\"), 10.0.0.66)/ { @[ip.src] = count(); }";
    ["sizeof" "offsetof" "typeof"] "sizeof(type or value)  offsetof(type, member)  typeof(value)",
        "the size of a type in bytes, where a member lies in it, and the type that a value has",
        "struct pair { int a; int b; }; begin { $x = (typeof(pid))7; print(sizeof($x)); print(offsetof(struct pair, b)); exit(); }";
    ["lpm"] "let @m = lpm(entries[, file(\"PATH\")]);",
        "a map keyed by prefix, IPv4 and IPv6: `@m[ip.src]` is the value of the longest prefix that holds the address",
        "let @nets = lpm(64); begin { @nets[10.0.0.0/8] = 1; } xdp:lo /ip.src in @nets/ { @ = count(); }";
}

#[must_use]
pub fn statement(word: &str) -> Option<&'static Statement> {
    STATEMENTS.iter().find(|s| s.words.contains(&word))
}
