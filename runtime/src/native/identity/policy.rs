//! The policy file of `identity`: text → names, rules, rows as the kernel compares them.
//!
//! TOML, or JSON of the same shape. Everything that is wrong is said with its line; nothing is guessed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use weir_ebpf_builtins::abi::{FAMILY_IPV4, FAMILY_IPV6};
use weir_ebpf_builtins::identity::{ALLOW, DENY, Rule as Row};
use weir_stdlib::{as_in_packets, parse_prefix};

/// Rules that have counters of their own.
pub const RULES_MAX: usize = 2048;

/// What stands for everybody in `from` and `to`.
const ANY: &str = "any";

/// IP protocols by their names in `proto`.
const PROTOCOLS: &[(&str, u8)] = &[("tcp", 6), ("udp", 17), ("sctp", 132), ("icmp", 1), ("icmpv6", 58)];

/// What a policy calls a protocol.
pub fn proto_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|(_, n)| *n == number).map(|(name, _)| *name)
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// From 1; 0 where only the file as a whole can be named.
    pub line: usize,
    pub message: String,
}

/// Who is who.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: String,
    /// As it stands in the mark, before it is shifted there.
    pub number: u32,
    pub members: Members,
}

/// Who has an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Members {
    /// The processes of cgroups: a path or a pattern, from the root of the hierarchy.
    Cgroup(String),
    /// The processes of Kubernetes pods: `NAMESPACE/NAME`, patterns allowed.
    Pod(String),
}

/// One end of a rule, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum To {
    Anybody,
    Prefix(IpAddr, u8),
    /// Index in [`Policy::identities`].
    Identity(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// As the user calls it, or what it says.
    pub name: String,
    /// Indices in [`Policy::identities`]; empty = everybody, whether known or not.
    pub from: Vec<usize>,
    pub to: Vec<To>,
    /// Inclusive ranges; empty = all, and protocols without ports.
    pub ports: Vec<(u16, u16)>,
    /// 0 = any.
    pub proto: u8,
    pub allow: bool,
}

/// A policy that makes sense.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub identities: Vec<Identity>,
    pub rules: Vec<Rule>,
    /// What happens where no rule says anything.
    pub allow: bool,
}

// ---- as written ----

/// A text with its place, where the format tells.
trait Placed: fmt::Debug {
    fn text(&self) -> &str;
    fn offset(&self) -> Option<usize>;
}

impl Placed for toml::Spanned<String> {
    fn text(&self) -> &str {
        self.get_ref()
    }
    fn offset(&self) -> Option<usize> {
        Some(self.span().start)
    }
}

impl Placed for String {
    fn text(&self) -> &str {
        self
    }
    fn offset(&self) -> Option<usize> {
        None
    }
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    bound = "T: Deserialize<'de>",
    expecting = "an object with `default`, `identity` and `rule`"
)]
struct File<T> {
    default: Option<T>,
    #[serde(default, rename = "identity")]
    identities: Vec<IdentityText<T>>,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleText<T>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "T: Deserialize<'de>")]
struct IdentityText<T> {
    name: T,
    number: Option<u32>,
    cgroup: Option<String>,
    pod: Option<String>,
    members: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "T: Deserialize<'de>")]
struct RuleText<T> {
    verdict: T,
    name: Option<String>,
    from: Option<OneOrMore<String>>,
    to: Option<OneOrMore<String>>,
    port: Option<OneOrMore<Port>>,
    proto: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected one value or a list of them")]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMore::One(one) => vec![one],
            OneOrMore::More(more) => more,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a port or a range in quotes: 443, \"8000-8080\"")]
enum Port {
    /// Not yet within the ports.
    One(i64),
    Range(String),
}

// ---- as meant ----

/// Reads a policy; `shift_max` is the greatest number that has room in the mark.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(text: &str, is_json: bool, number_max: u32) -> Result<Policy, PolicyError> {
    if is_json {
        let file: File<String> = serde_json::from_str(text).map_err(|e| PolicyError {
            line: e.line(),
            // Its own words end with the place.
            message: e.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
        })?;
        Reader { text, number_max }.policy(file)
    } else {
        let file: File<toml::Spanned<String>> = toml::from_str(text).map_err(|e| PolicyError {
            line: e.span().map_or(0, |span| line_of(text, span.start)),
            message: e.message().lines().next().unwrap_or_default().to_owned(),
        })?;
        Reader { text, number_max }.policy(file)
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

struct Reader<'a> {
    text: &'a str,
    number_max: u32,
}

/// A name in the file: a single identity, or a group of others.
enum Name {
    Identity(usize),
    Group(Vec<String>),
}

impl Reader<'_> {
    fn error(&self, at: &dyn Placed, message: String) -> PolicyError {
        PolicyError {
            line: at.offset().map_or(0, |offset| line_of(self.text, offset)),
            message,
        }
    }

    fn policy<T: Placed>(&self, file: File<T>) -> Result<Policy, PolicyError> {
        let allow = match &file.default {
            None => false,
            Some(word) => self.verdict(word, "default")?,
        };
        let mut identities: Vec<Identity> = Vec::new();
        let mut names: BTreeMap<String, Name> = BTreeMap::new();
        let taken: Vec<u32> = file.identities.iter().filter_map(|i| i.number).collect();
        let mut free = (1..=self.number_max).filter(|n| !taken.contains(n));
        for entry in &file.identities {
            let name = entry.name.text();
            if name.is_empty() || name == ANY || name.contains(char::is_control) || parse_prefix(name).is_ok() {
                return Err(self.error(&entry.name, format!("`{}` cannot be the name of an identity", name.escape_debug())));
            }
            let members = match (&entry.cgroup, &entry.pod, &entry.members) {
                (Some(path), None, None) => Members::Cgroup(path.clone()),
                (None, Some(pod), None) if pod.contains('/') => Members::Pod(pod.clone()),
                (None, Some(pod), None) => {
                    return Err(self.error(&entry.name, format!("identity `{name}`: a pod is `NAMESPACE/NAME`, found `{pod}`")));
                }
                (None, None, Some(members)) => {
                    if entry.number.is_some() {
                        return Err(self.error(
                            &entry.name,
                            format!("identity `{name}`: a group of `members` has no `number` of its own"),
                        ));
                    }
                    // A rule for it would be for nobody, and is told from one for everybody by its list alone.
                    if members.is_empty() {
                        return Err(self.error(&entry.name, format!("identity `{name}`: `members` is empty")));
                    }
                    if names.insert(name.to_owned(), Name::Group(members.clone())).is_some() {
                        return Err(self.error(&entry.name, format!("identity `{name}` is there twice")));
                    }
                    continue;
                }
                (cgroup, pod, members) => {
                    let given = [("cgroup", cgroup.is_some()), ("pod", pod.is_some()), ("members", members.is_some())];
                    let given: Vec<String> = given.iter().filter(|g| g.1).map(|g| format!("`{}`", g.0)).collect();
                    let mut message = format!("identity `{name}` needs one of `cgroup`, `pod` and `members`");
                    if !given.is_empty() {
                        message.push_str(&format!(", found {}", given.join(" and ")));
                    }
                    return Err(self.error(&entry.name, message));
                }
            };
            let number = match entry.number {
                Some(number) if number == 0 || number > self.number_max => {
                    return Err(self.error(
                        &entry.name,
                        format!(
                            "identity `{name}`: `number` is from 1 to {} (`mark_mask` has room for no more)",
                            self.number_max
                        ),
                    ));
                }
                Some(number) => number,
                None => free
                    .next()
                    .ok_or_else(|| self.error(&entry.name, format!("more than {} identities", self.number_max)))?,
            };
            if let Some(other) = identities.iter().find(|i| i.number == number) {
                return Err(self.error(
                    &entry.name,
                    format!("identities `{}` and `{name}` have the same number {number}", other.name),
                ));
            }
            if names.insert(name.to_owned(), Name::Identity(identities.len())).is_some() {
                return Err(self.error(&entry.name, format!("identity `{name}` is there twice")));
            }
            identities.push(Identity {
                name: name.to_owned(),
                number,
                members,
            });
        }
        // Groups are right even if no rule names them.
        for entry in &file.identities {
            self.resolve(&entry.name, entry.name.text(), &names, &mut Vec::new())?;
        }
        if file.rules.len() > RULES_MAX {
            return Err(self.error(&file.rules[RULES_MAX].verdict, format!("more than {RULES_MAX} rules")));
        }
        let rules = file
            .rules
            .into_iter()
            .enumerate()
            .map(|(i, rule)| self.rule(i, rule, &names))
            .collect::<Result<_, _>>()?;
        Ok(Policy { identities, rules, allow })
    }

    fn verdict(&self, word: &dyn Placed, what: &str) -> Result<bool, PolicyError> {
        match word.text() {
            "allow" => Ok(true),
            "deny" => Ok(false),
            other => Err(self.error(word, format!("`{what}` is \"allow\" or \"deny\", found \"{other}\""))),
        }
    }

    /// The identities that a name stands for. `path` has the groups on the way.
    fn resolve(
        &self,
        at: &dyn Placed,
        name: &str,
        names: &BTreeMap<String, Name>,
        path: &mut Vec<String>,
    ) -> Result<Vec<usize>, PolicyError> {
        match names.get(name) {
            None => {
                let near = weir_compiler::hir::nearest_name(name, names.keys().map(String::as_str));
                let hint = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
                Err(self.error(at, format!("no identity `{name}`{hint}")))
            }
            Some(Name::Identity(i)) => Ok(vec![*i]),
            Some(Name::Group(members)) => {
                if path.iter().any(|p| p == name) {
                    path.push(name.to_owned());
                    return Err(self.error(at, format!("group `{name}` contains itself: {}", path.join(" → "))));
                }
                path.push(name.to_owned());
                let mut all = Vec::new();
                for member in members {
                    all.extend(self.resolve(at, member, names, path)?);
                }
                path.pop();
                all.sort_unstable();
                all.dedup();
                Ok(all)
            }
        }
    }

    fn rule<T: Placed>(&self, index: usize, rule: RuleText<T>, names: &BTreeMap<String, Name>) -> Result<Rule, PolicyError> {
        let at = &rule.verdict;
        let wrong = |message: String| self.error(at, format!("rule {}: {message}", index + 1));
        let allow = self.verdict(at, "verdict")?;
        let from_names = rule.from.map(OneOrMore::into_vec);
        let to_texts = rule.to.map(OneOrMore::into_vec);
        let port_list = rule.port.map(OneOrMore::into_vec);
        // What is left out stands for all of them: a list from which the last one was taken must not.
        for (field, is_empty, all) in [
            ("from", from_names.as_ref().is_some_and(Vec::is_empty), "everybody"),
            ("to", to_texts.as_ref().is_some_and(Vec::is_empty), "everybody"),
            ("port", port_list.as_ref().is_some_and(Vec::is_empty), "all ports"),
        ] {
            if is_empty {
                return Err(wrong(format!("`{field}` is an empty list; leave it out for {all}")));
            }
        }
        let (from_names, to_texts) = (from_names.unwrap_or_default(), to_texts.unwrap_or_default());
        let proto_name = rule.proto.unwrap_or_default();
        let proto = match proto_name.as_str() {
            "" | "any" => 0,
            word => match PROTOCOLS.iter().find(|(name, _)| *name == word) {
                Some((_, number)) => *number,
                None => {
                    let names: Vec<String> = PROTOCOLS.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                    return Err(wrong(format!("`proto` is {} or \"any\", found \"{word}\"", names.join(", "))));
                }
            },
        };
        let mut from = Vec::new();
        for name in from_names.iter().filter(|name| *name != ANY) {
            from.extend(self.resolve(at, name, names, &mut Vec::new())?);
        }
        if from_names.iter().any(|name| name == ANY) {
            // Only now: a name beside it may be wrong.
            from.clear();
        }
        from.sort_unstable();
        from.dedup();
        let mut to = Vec::new();
        for text in &to_texts {
            if text == ANY {
                to.push(To::Anybody);
            } else if names.contains_key(text) {
                to.extend(self.resolve(at, text, names, &mut Vec::new())?.into_iter().map(To::Identity));
            } else if text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(':') || text.contains('/') {
                let prefix = parse_prefix(text).map_err(|e| wrong(format!("`{text}` is not a prefix: {e}")))?;
                let (addr, len) = as_in_packets(prefix);
                to.push(To::Prefix(addr, len));
            } else {
                to.extend(self.resolve(at, text, names, &mut Vec::new())?.into_iter().map(To::Identity));
            }
        }
        if to.is_empty() {
            to.push(To::Anybody);
        }
        let mut ports = Vec::new();
        let mut port_texts = Vec::new();
        for port in port_list.unwrap_or_default() {
            let range = match &port {
                Port::One(port) => match u16::try_from(*port) {
                    Ok(port) => (port, port),
                    Err(_) => return Err(wrong(format!("`{port}` is not within the ports, 0 to 65535"))),
                },
                Port::Range(text) => {
                    let (low, high) = text.split_once('-').unwrap_or((text, text));
                    match (low.trim().parse::<u16>(), high.trim().parse::<u16>()) {
                        (Ok(low), Ok(high)) if low <= high => (low, high),
                        _ => return Err(wrong(format!("`{text}` is no port and no range of ports"))),
                    }
                }
            };
            port_texts.push(if range.0 == range.1 {
                range.0.to_string()
            } else {
                format!("{}-{}", range.0, range.1)
            });
            ports.push(range);
        }
        if !ports.is_empty() && !matches!(proto, 0 | 6 | 17 | 132) {
            return Err(wrong(format!("`{proto_name}` has no ports")));
        }
        let name = rule.name.unwrap_or_else(|| {
            let or_any = |names: &[String]| if names.is_empty() { ANY.to_owned() } else { names.join(",") };
            let mut name = format!(
                "{} {} -> {}",
                if allow { "allow" } else { "deny" },
                or_any(&from_names),
                or_any(&to_texts)
            );
            match (proto, port_texts.is_empty()) {
                (0, true) => {}
                (0, false) => name.push_str(&format!(" port {}", port_texts.join(","))),
                (_, true) => name.push_str(&format!(" {proto_name}")),
                (_, false) => name.push_str(&format!(" {proto_name}/{}", port_texts.join(","))),
            }
            name
        });
        Ok(Rule {
            name,
            from,
            to,
            ports,
            proto,
            allow,
        })
    }
}

impl Policy {
    /// Makes the rows that the kernel compares, in the order in which it does so: longest prefix, then narrowest ports, then a named
    /// sender, then as in the file. `addresses` are those that an identity's members have now; `mark` says how a number lies in a mark.
    #[must_use]
    pub fn rows(&self, addresses: &dyn Fn(usize) -> Vec<IpAddr>, mark: &dyn Fn(u32) -> u32) -> Vec<Row> {
        let mut rows = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let mut prefixes: Vec<Option<(IpAddr, u8)>> = Vec::new();
            for to in &rule.to {
                match to {
                    To::Anybody => prefixes.push(None),
                    To::Prefix(addr, len) => prefixes.push(Some((*addr, *len))),
                    To::Identity(i) => prefixes.extend(addresses(*i).into_iter().map(|a| Some((a, if a.is_ipv4() { 32 } else { 128 })))),
                }
            }
            let any_port = [(0, u16::MAX)];
            let ports: &[(u16, u16)] = if rule.ports.is_empty() { &any_port } else { &rule.ports };
            let any_from = [0];
            let from: Vec<u32> = rule.from.iter().map(|i| mark(self.identities[*i].number)).collect();
            let from: &[u32] = if from.is_empty() { &any_from } else { &from };
            for prefix in &prefixes {
                for (low, high) in ports {
                    for from in from {
                        rows.push(row(index as u32, rule, *prefix, (*low, *high), *from));
                    }
                }
            }
        }
        // Stable: the file's order decides between equals.
        rows.sort_by_key(|r| {
            let bits: u32 = r.mask.iter().map(|m| m.count_ones()).sum();
            // Families do not compete; an IPv4 prefix is as long as it is within its own 32 bits.
            let bits = if r.family == FAMILY_IPV4 as u8 { bits + 96 } else { bits };
            let width = if r.with_port == 0 {
                u32::MAX
            } else {
                u32::from(r.port_high - r.port_low)
            };
            (std::cmp::Reverse((r.family != 0, bits)), width, r.proto == 0, r.from == 0)
        });
        rows
    }
}

fn row(index: u32, rule: &Rule, prefix: Option<(IpAddr, u8)>, ports: (u16, u16), from: u32) -> Row {
    let (family, addr, mask) = match prefix {
        None => (0, [0; 16], [0; 16]),
        Some((IpAddr::V4(addr), len)) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&addr.octets());
            (FAMILY_IPV4, bytes, leading(len))
        }
        Some((IpAddr::V6(addr), len)) => (FAMILY_IPV6, addr.octets(), leading(len)),
    };
    Row {
        from,
        rule: index,
        verdict: if rule.allow { ALLOW } else { DENY },
        port_low: ports.0,
        port_high: ports.1,
        family: family as u8,
        proto: rule.proto,
        with_port: u8::from(!rule.ports.is_empty()),
        zero: [0; 5],
        addr: words(addr),
        mask: words(mask),
    }
}

/// A mask with so many bits set, in network order.
fn leading(bits: u8) -> [u8; 16] {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    mask.to_be_bytes()
}

fn words(bytes: [u8; 16]) -> [u64; 2] {
    let number = u128::from_le_bytes(bytes);
    [number as u64, (number >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
default = "deny"

[[identity]]
name = "web"
number = 7
cgroup = "/kubepods.slice/web-*"

[[identity]]
name = "db"
pod = "shop/db-*"

[[identity]]
name = "all"
members = ["web", "db"]

[[rule]]
from = "web"
to = "db"
port = 5432
proto = "tcp"
verdict = "allow"

[[rule]]
from = "all"
to = ["10.0.0.0/8", "2001:db8::/32"]
port = [53, "8000-8080"]
verdict = "allow"

[[rule]]
name = "no metadata service"
to = "169.254.169.254"
verdict = "deny"
"#;

    fn parse_toml(text: &str) -> Result<Policy, PolicyError> {
        parse(text, false, 0xffff)
    }

    #[test]
    fn a_policy_is_read() {
        let policy = parse_toml(TEXT).unwrap();
        assert!(!policy.allow);
        let numbers: Vec<_> = policy.identities.iter().map(|i| (i.name.as_str(), i.number)).collect();
        assert_eq!(numbers, [("web", 7), ("db", 1)]);
        assert_eq!(policy.identities[1].members, Members::Pod("shop/db-*".to_owned()));
        let names: Vec<_> = policy.rules.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "allow web -> db tcp/5432",
                "allow all -> 10.0.0.0/8,2001:db8::/32 port 53,8000-8080",
                "no metadata service"
            ]
        );
        assert_eq!(policy.rules[1].from, [0, 1]);
        assert_eq!(policy.rules[1].ports, [(53, 53), (8000, 8080)]);
        assert!(policy.rules[2].from.is_empty());
    }

    #[test]
    fn json_says_the_same() {
        let json = r#"{"default": "deny", "identity": [{"name": "web", "number": 7, "cgroup": "/a"}],
            "rule": [{"from": "web", "to": ["10.0.0.0/8"], "port": [53, "80-81"], "verdict": "allow"}]}"#;
        let toml = "default = \"deny\"\n[[identity]]\nname = \"web\"\nnumber = 7\ncgroup = \"/a\"\n\
            [[rule]]\nfrom = \"web\"\nto = \"10.0.0.0/8\"\nport = [53, \"80-81\"]\nverdict = \"allow\"\n";
        assert_eq!(parse(json, true, 0xffff).unwrap(), parse_toml(toml).unwrap());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let identity = "[[identity]]\nname = \"web\"\ncgroup = \"/a\"\n";
        for (text, line, message) in [
            ("default = \"maybe\"\n", 1, "`default` is \"allow\" or \"deny\", found \"maybe\""),
            ("default = deny\n", 1, "string values must be quoted, expected literal string"),
            (
                "[[rule]]\nverdict = \"allow\"\nform = \"web\"\n",
                3,
                "unknown field `form`, expected one of `verdict`, `name`, `from`, `to`, `port`, `proto`",
            ),
            ("[[rule]]\nto = \"10.0.0.0/8\"\n", 1, "missing field `verdict`"),
            (
                &format!("{identity}[[rule]]\nfrom = \"wep\"\nverdict = \"allow\"\n"),
                6,
                "no identity `wep`; did you mean `web`?",
            ),
            (
                &format!("{identity}[[rule]]\nfrom = [\"any\", \"wep\"]\nverdict = \"allow\"\n"),
                6,
                "no identity `wep`; did you mean `web`?",
            ),
            (
                "[[rule]]\nto = \"10.0.0.1/8\"\nverdict = \"deny\"\n",
                3,
                "rule 1: `10.0.0.1/8` is not a prefix: bits beyond the length are set, write `10.0.0.0/8`",
            ),
            (
                "[[rule]]\nport = \"90-80\"\nverdict = \"deny\"\n",
                3,
                "rule 1: `90-80` is no port and no range of ports",
            ),
            (
                "[[rule]]\nport = 70000\nverdict = \"deny\"\n",
                3,
                "rule 1: `70000` is not within the ports, 0 to 65535",
            ),
            (
                "[[rule]]\nproto = \"tpc\"\nverdict = \"deny\"\n",
                3,
                "rule 1: `proto` is \"tcp\", \"udp\", \"sctp\", \"icmp\", \"icmpv6\" or \"any\", found \"tpc\"",
            ),
            (
                "[[rule]]\nproto = \"icmp\"\nport = 7\nverdict = \"deny\"\n",
                4,
                "rule 1: `icmp` has no ports",
            ),
            (
                "[[identity]]\nname = \"a\"\n",
                2,
                "identity `a` needs one of `cgroup`, `pod` and `members`",
            ),
            (
                "[[identity]]\nname = \"a\"\ncgroup = \"/x\"\npod = \"b/web\"\n",
                2,
                "identity `a` needs one of `cgroup`, `pod` and `members`, found `cgroup` and `pod`",
            ),
            (
                "[[identity]]\nname = \"a\"\npod = \"web\"\n",
                2,
                "identity `a`: a pod is `NAMESPACE/NAME`, found `web`",
            ),
            (
                "[[identity]]\nname = \"a\"\nnumber = 65536\ncgroup = \"/\"\n",
                2,
                "identity `a`: `number` is from 1 to 65535 (`mark_mask` has room for no more)",
            ),
            (
                "[[identity]]\nname = \"10.0.0.1\"\ncgroup = \"/\"\n",
                2,
                "`10.0.0.1` cannot be the name of an identity",
            ),
            (&format!("{identity}{identity}"), 5, "identity `web` is there twice"),
            (
                "[[identity]]\nname = \"a\"\nnumber = 3\ncgroup = \"/a\"\n[[identity]]\nname = \"b\"\nnumber = 3\ncgroup = \"/b\"\n",
                6,
                "identities `a` and `b` have the same number 3",
            ),
            (
                "[[identity]]\nname = \"a\"\nmembers = [\"b\"]\n[[identity]]\nname = \"b\"\nmembers = [\"a\"]\n",
                2,
                "group `a` contains itself: a → b → a",
            ),
            ("[[identity]]\nname = \"a\"\nmembers = [\"c\"]\n", 2, "no identity `c`"),
            ("[[identity]]\nname = \"a\"\nmembers = []\n", 2, "identity `a`: `members` is empty"),
            (
                "[[identity]]\nname = \"any\"\ncgroup = \"/a\"\n",
                2,
                "`any` cannot be the name of an identity",
            ),
            (
                "[[identity]]\nname = \"a\\nb\"\ncgroup = \"/a\"\n",
                2,
                "`a\\nb` cannot be the name of an identity",
            ),
            (
                "[[rule]]\nverdict = \"allow\"\nfrom = []\n",
                2,
                "rule 1: `from` is an empty list; leave it out for everybody",
            ),
            (
                "[[rule]]\nverdict = \"allow\"\nto = []\n",
                2,
                "rule 1: `to` is an empty list; leave it out for everybody",
            ),
            (
                "[[rule]]\nverdict = \"allow\"\nport = []\n",
                2,
                "rule 1: `port` is an empty list; leave it out for all ports",
            ),
            (
                "[[identity]]\nname = \"a\"\nnumber = 4\nmembers = []\n",
                2,
                "identity `a`: a group of `members` has no `number` of its own",
            ),
        ] {
            let error = parse_toml(text).unwrap_err();
            assert_eq!((error.line, error.message.as_str()), (line, message), "{text}");
        }
        let error = parse("{\"rule\": [\n{\"verdict\": 1}]}", true, 1).unwrap_err();
        assert_eq!(
            (error.line, error.message.as_str()),
            (2, "invalid type: integer `1`, expected a string")
        );
        // Where a value stands that is well-formed and wrong, the reader of JSON does not tell.
        let error = parse("{\"rule\": [{\"verdict\": \"deny\", \"port\": \"x\"}]}", true, 1).unwrap_err();
        assert_eq!(
            (error.line, error.message.as_str()),
            (0, "rule 1: `x` is no port and no range of ports")
        );
        let error = parse("[]", true, 1).unwrap_err();
        assert!(error.message.contains("an object with `default`"), "{}", error.message);
    }

    #[test]
    fn both_ends_take_any_every_name_and_addresses_as_packets_have_them() {
        let text = "[[identity]]\nname = \"3scale\"\ncgroup = \"/a\"\n[[rule]]\nverdict = \"allow\"\nfrom = [\"any\", \"3scale\"]\n\
                    to = [\"3scale\", \"::ffff:192.0.2.1\", \"::ffff:0:0/96\", \"any\"]\n";
        let rule = &parse_toml(text).unwrap().rules[0];
        assert!(rule.from.is_empty());
        assert_eq!(
            rule.to,
            [
                To::Identity(0),
                To::Prefix("192.0.2.1".parse().unwrap(), 32),
                To::Prefix("::ffff:0:0".parse().unwrap(), 96),
                To::Anybody
            ]
        );
    }

    #[test]
    fn the_longest_prefix_comes_first_then_the_narrowest_ports() {
        let policy = parse_toml(TEXT).unwrap();
        let db = |i: usize| if i == 1 { vec!["10.1.2.3".parse().unwrap()] } else { Vec::new() };
        let rows = policy.rows(&db, &|number| number << 4);
        let told: Vec<_> = rows
            .iter()
            .map(|r| (r.rule, r.from, r.mask[0].count_ones() + r.mask[1].count_ones(), r.port_low))
            .collect();
        assert_eq!(
            told,
            [
                (0, 0x70, 32, 5432),
                (2, 0, 32, 0),
                (1, 0x70, 8, 53),
                (1, 0x10, 8, 53),
                (1, 0x70, 8, 8000),
                (1, 0x10, 8, 8000),
                (1, 0x70, 32, 53),
                (1, 0x10, 32, 53),
                (1, 0x70, 32, 8000),
                (1, 0x10, 32, 8000),
            ]
        );
        assert_eq!(rows[0].addr, [u64::from(u32::from_le_bytes([10, 1, 2, 3])), 0]);
        assert_eq!((rows[0].with_port, rows[1].with_port), (1, 0));
    }

    #[test]
    fn masks_are_in_network_order() {
        assert_eq!(leading(0), [0; 16]);
        assert_eq!(leading(9)[..3], [0xff, 0x80, 0]);
        assert_eq!(leading(128), [0xff; 16]);
    }
}
