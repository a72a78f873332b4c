//! What the audit log has of a policy, and what is written down for whoever takes it over: the kernel's rows are rules taken apart, which cannot
//! be put together again.

use super::super::audit::{Before, Changes, END, Record, listed};
use super::Enforcer;
use super::policy::{Policy, Rule, To};
use crate::pin::Left;

const LIST: &str = "policy";

impl Enforcer {
    pub(super) fn record(&mut self, action: &str, changes: Changes) {
        let record = Record {
            instance: &self.plan.alias,
            native: "identity",
            action,
            list: LIST,
            source: self.plan.path.display().to_string(),
            entries: if action == END { 0 } else { self.policy.rules.len() },
            changes,
        };
        if let Some(complaint) = self.plan.audit.log(&record) {
            self.say(true, complaint);
        }
    }

    /// Says that the policy is in force, and what that changes where another was.
    pub(super) fn record_start(&mut self) {
        let changes = match self.before.take() {
            Before::Nothing => {
                let add = listed(&self.policy.rules, in_words);
                Changes {
                    add,
                    ..Changes::added(self.policy.rules.len())
                }
            }
            Before::Unknown => Changes::default(),
            Before::Known(old) => changes(&old, &self.policy),
        };
        self.record("start", changes);
    }

    /// Nothing is written down of what is in force while it changes, nor when a change has failed half way.
    pub(super) fn forget_written(&self) {
        if let Some(pin) = &self.pin {
            pin.forget_rules();
        }
    }

    /// Writes down what is in force.
    pub(super) fn write_down(&self) {
        if let Some(pin) = &self.pin {
            pin.keep_rules(&self.policy);
        }
    }
}

/// What one policy has that another has not.
pub(super) fn changes(old: &Policy, new: &Policy) -> Changes {
    let (old_rules, new_rules) = (&old.rules, renumbered(new, old));
    let missing = |a: &[Rule], b: &[Rule]| -> Vec<Rule> { a.iter().filter(|rule| !b.contains(rule)).cloned().collect() };
    let (add, remove) = (missing(&new_rules, old_rules), missing(old_rules, &new_rules));
    let (added, removed) = (Some(add.len()), Some(remove.len()));
    let (mut add, mut remove) = (listed(&add, in_words), listed(&remove, in_words));
    if new.allow != old.allow {
        add.push(format!("default {}", verdict(new.allow)));
        remove.push(format!("default {}", verdict(old.allow)));
    }
    Changes {
        added,
        removed,
        add,
        remove,
    }
}

/// The rules of a policy with the places that identities have in the old one, by their names: those that it has not come behind.
fn renumbered(new: &Policy, old: &Policy) -> Vec<Rule> {
    let place = |i: usize| {
        let name = &new.identities[i].name;
        let found = old.identities.iter().position(|identity| identity.name == *name);
        found.unwrap_or(old.identities.len() + i)
    };
    let mut rules = new.rules.clone();
    for rule in &mut rules {
        rule.from.iter_mut().for_each(|i| *i = place(*i));
        for to in &mut rule.to {
            if let To::Identity(i) = to {
                *i = place(*i);
            }
        }
    }
    rules
}

/// How many rules an owner has left in force, if that is known.
pub(crate) fn ended(left: &Left) -> Vec<(&'static str, Option<usize>)> {
    let policy: Option<Policy> = left.rules();
    vec![(LIST, policy.map(|policy| policy.rules.len()))]
}

/// A rule as the audit log has it.
fn in_words(rule: &Rule) -> String {
    format!("{} {}", verdict(rule.allow), rule.name)
}

fn verdict(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::identity::policy::parse;

    #[test]
    fn who_is_meant_counts_and_not_their_place_in_the_file() {
        let policy = |names: &[&str], rules: &[(&str, &str)]| {
            let names: String = names
                .iter()
                .map(|n| format!("[[identity]]\nname = \"{n}\"\ncgroup = \"/{n}\"\n"))
                .collect();
            let rule = |(from, to): &(&str, &str)| {
                format!("[[rule]]\nname = \"r\"\nfrom = \"{from}\"\nto = \"{to}\"\nport = 1\nverdict = \"allow\"\n")
            };
            let rules: String = rules.iter().map(rule).collect();
            parse(&format!("default = \"deny\"\n{names}{rules}"), false, 0xffff).unwrap()
        };
        let counts = |old: &Policy, new: &Policy| {
            let changes = changes(old, new);
            (changes.added, changes.removed)
        };
        let old = policy(&["a", "b"], &[("a", "b"), ("b", "b")]);
        let moved = policy(&["new", "b", "a"], &[("a", "b"), ("b", "b")]);
        assert_eq!(counts(&old, &moved), (Some(0), Some(0)));
        // The same places, other names.
        let swapped = policy(&["b", "a"], &[("b", "a"), ("b", "b")]);
        assert_eq!(counts(&old, &swapped), (Some(1), Some(1)));
        assert_eq!(counts(&old, &policy(&["a", "c"], &[("a", "c"), ("a", "a")])), (Some(2), Some(2)));
    }
}
