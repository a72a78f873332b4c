//! Times as people write them in parameters and in files: `30s`, `5m`, `1h`.

/// Units and their nanoseconds.
const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Reads a whole number with a unit, without blanks; returns nanoseconds. `None` for anything else.
#[must_use]
pub fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// Writes a time in the largest unit that leaves a whole number.
#[must_use]
pub fn show_duration(ns: u64) -> String {
    let fits = UNITS.iter().rev().find(|(_, scale)| ns.is_multiple_of(*scale) && ns >= *scale);
    fits.map_or_else(|| format!("{ns}ns"), |(unit, scale)| format!("{}{unit}", ns / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(parse_duration("5m"), Some(300_000_000_000));
        assert_eq!(parse_duration("1500ms"), Some(1_500_000_000));
        assert_eq!(parse_duration("2d"), Some(172_800_000_000_000));
        for wrong in ["", "5", "m", "-5m", "5 m", "5y", "99999999999999999999s", "1000000d", "+5s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for text in ["5m", "1h", "36h", "2d", "1500ms", "90s", "7ns"] {
            assert_eq!(
                parse_duration(&show_duration(parse_duration(text).unwrap())),
                parse_duration(text),
                "{text}"
            );
        }
        assert_eq!(show_duration(300_000_000_000), "5m");
        assert_eq!(show_duration(0), "0ns");
    }
}
