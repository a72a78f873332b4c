//! How full the maps of a native are: said when four fifths are taken.

use crate::error::Error;
use crate::maps::Map;

/// Returns how many of so many entries are nearly all.
pub(super) fn high(max: u64) -> u64 {
    max.saturating_mul(4).div_ceil(5)
}

/// Looks after maps in which packets make entries. To count those takes a while, so that is done only when so many more packets have come that
/// one of the maps can be nearly full.
#[derive(Debug)]
pub(super) struct Pressure {
    /// Not before so many packets; nothing when it has been said.
    due: Option<u64>,
}

impl Pressure {
    pub fn new() -> Self {
        Self { due: Some(0) }
    }

    /// Gives the entries, and how many there can be, of a map that is nearly full: once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn check(&mut self, packets: u64, maps: &[&Map]) -> Result<Option<(u64, u64)>, Error> {
        if self.due.is_none_or(|due| packets < due) {
            return Ok(None);
        }
        let mut sizes = Vec::new();
        for map in maps {
            sizes.push((map.len()? as u64, u64::from(map.max_entries)));
        }
        Ok(self.judge(packets, &sizes))
    }

    fn judge(&mut self, packets: u64, sizes: &[(u64, u64)]) -> Option<(u64, u64)> {
        let full = sizes.iter().find(|(entries, max)| *entries >= high(*max));
        let room = sizes.iter().map(|(entries, max)| high(*max).saturating_sub(*entries)).min();
        self.due = match full {
            Some(_) => None,
            None => Some(packets.saturating_add(room.unwrap_or(u64::MAX))),
        };
        full.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_counted_when_a_map_can_be_nearly_full_and_it_is_said_once() {
        let mut pressure = Pressure::new();
        assert_eq!(pressure.judge(0, &[(0, 100), (0, 1000)]), None);
        assert_eq!(pressure.due, Some(80));
        assert_eq!(pressure.judge(200, &[(70, 100), (10, 1000)]), None);
        assert_eq!(pressure.due, Some(210));
        assert_eq!(pressure.judge(210, &[(80, 100), (10, 1000)]), Some((80, 100)));
        assert_eq!(pressure.due, None);
    }

    #[test]
    fn four_fifths_of_a_few_are_not_none() {
        assert_eq!([0, 1, 2, 4, 5, 100].map(high), [0, 1, 2, 4, 4, 80]);
    }
}
