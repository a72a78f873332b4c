//! Reading the policy again, and going on where the kernel has refused a part of a change.

use super::super::engine::Maps;
use super::log::changes;
use super::policy::Policy;
use super::{Enforcer, look, read};

impl Enforcer {
    /// Reads the policy again and puts it in force, all at once. One with a fault in it changes nothing.
    pub(super) fn read_again(&mut self, maps: &Maps, touched: &mut dyn FnMut() -> bool) {
        let new = read(&self.plan);
        if touched() {
            return;
        }
        let old = self.torn.as_ref().unwrap_or(&self.policy).clone();
        let result = new.and_then(|new| {
            let everybody = look(&self.plan, &new, &mut self.watch)?;
            self.put(new, everybody, maps)
        });
        match result {
            Ok(()) => self.is_in_force(&old),
            Err(error) => {
                let what = if self.torn.is_none() {
                    "the policy in force stays as it is"
                } else {
                    "not all of the new policy is in force; weir tries again every second"
                };
                self.say(true, error.while_running(what));
            }
        }
    }

    /// Says what is another now.
    fn is_in_force(&mut self, old: &Policy) {
        let changes = changes(old, &self.policy);
        let [added, removed] = [changes.added, changes.removed].map(Option::unwrap_or_default);
        self.record("reload", changes);
        let rules = self.policy.rules.len();
        self.say(
            false,
            format!("policy read again: {added} rules added, {removed} removed, {rules} in force"),
        );
        self.tell_who();
    }

    /// Brings the kernel to what a change that has failed half way was to bring it to. That it cannot be done has been said.
    pub(super) fn try_again(&mut self, maps: &Maps) {
        let Some(old) = self.torn.clone() else { return };
        let is_done = self.put(self.policy.clone(), self.everybody.clone(), maps).is_ok();
        if is_done && old != self.policy {
            self.is_in_force(&old);
        }
    }
}
