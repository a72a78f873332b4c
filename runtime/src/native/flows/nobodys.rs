//! Sockets that no process has. Looking for them costs a look at all open files of the machine, so it is done less and less often.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// A socket that nobody has may be waiting to be accepted: so long after that it is asked for again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Those that are still nobody's after that are the kernel's own (what answers to a ping): they are asked for twice as late each
/// time, and at last so seldom.
const MOST_PATIENCE: Duration = Duration::from_secs(60);

/// Cookies that nobody had when sockets were last asked.
#[derive(Debug, Default)]
pub(super) struct Nobodys {
    cookies: HashSet<u64>,
    patience: Duration,
    /// When these are asked for again.
    again: Option<Instant>,
}

impl Nobodys {
    pub fn retain(&mut self, is_live: impl Fn(u64) -> bool) {
        self.cookies.retain(|cookie| is_live(*cookie));
    }

    pub fn are_due(&self, now: Instant) -> bool {
        !self.cookies.is_empty() && self.again.is_some_and(|then| now >= then)
    }

    pub fn contains(&self, cookie: u64) -> bool {
        self.cookies.contains(&cookie)
    }

    /// Takes in that nobody has these, as of an asking that began then.
    pub fn set(&mut self, cookies: HashSet<u64>, began: Instant) {
        if !cookies.is_subset(&self.cookies) {
            self.patience = PATIENCE;
        } else if self.are_due(began) {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.again = Some(began + self.patience);
        self.cookies = cookies;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks as soon as they are due, and gives the seconds between.
    fn waits(nobodys: &mut Nobodys, now: &mut Instant, cookies: &[u64], times: usize) -> Vec<u64> {
        let wait = |_| {
            nobodys.set(cookies.iter().copied().collect(), *now);
            let began = *now;
            while !nobodys.are_due(*now) {
                *now += Duration::from_secs(1);
            }
            (*now - began).as_secs()
        };
        (0..times).map(wait).collect()
    }

    #[test]
    fn the_same_are_asked_for_ever_more_seldom_and_a_new_one_soon() {
        let (mut nobodys, mut now) = (Nobodys::default(), Instant::now());
        assert_eq!(waits(&mut nobodys, &mut now, &[1, 2], 6), [5, 10, 20, 40, 60, 60]);
        assert_eq!(waits(&mut nobodys, &mut now, &[1], 1), [60], "one less is not a new one");
        assert_eq!(waits(&mut nobodys, &mut now, &[1, 3], 2), [5, 10]);
        nobodys.set(HashSet::from([1, 3]), now - Duration::from_secs(1));
        assert!(!nobodys.are_due(now + Duration::from_secs(8)) && nobodys.are_due(now + Duration::from_secs(9)));
    }

    #[test]
    fn without_any_nobody_is_asked() {
        let (mut nobodys, now) = (Nobodys::default(), Instant::now());
        nobodys.set(HashSet::from([1]), now);
        nobodys.retain(|cookie| cookie != 1);
        assert!(!nobodys.are_due(now + Duration::from_secs(600)) && !nobodys.contains(1));
    }
}
