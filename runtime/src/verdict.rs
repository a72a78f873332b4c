//! What programs return, in the words of the language.

use std::borrow::Cow;
use weir_compiler::constants::CONSTANTS;
use weir_compiler::object::ProgramKind;
use weir_compiler::tables::{FUNCTIONS, FunctionKind, Hook};

/// Names a verdict: by the function that gives it, else by the kernel's constant.
#[must_use]
pub fn word(kind: ProgramKind, code: i32) -> Cow<'static, str> {
    let (hook, prefix) = match kind {
        ProgramKind::Xdp | ProgramKind::NativeEventXdp => (Hook::Xdp, "XDP_"),
        _ => (Hook::Tc, "TC_ACT_"),
    };
    let function = FUNCTIONS
        .iter()
        .find(|f| matches!(f.kind, FunctionKind::Verdict(v) if v.code(hook) == Some(code)));
    if let Some(function) = function {
        return Cow::Borrowed(function.name);
    }
    match CONSTANTS.iter().find(|(name, n)| name.starts_with(prefix) && *n == i64::from(code)) {
        Some((name, _)) => Cow::Borrowed(name),
        None => Cow::Owned(format!("verdict {code}")),
    }
}

/// Returns whether the packet ends with this verdict.
#[must_use]
pub fn drops(kind: ProgramKind, code: i32) -> bool {
    match kind {
        // PASS, TX, REDIRECT; whatever the kernel does not know it drops.
        ProgramKind::Xdp | ProgramKind::NativeEventXdp => !(2..=4).contains(&code),
        // SHOT, STOLEN, QUEUED, TRAP.
        _ => matches!(code, 2 | 4 | 5 | 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_have_the_words_of_the_language() {
        let xdp: Vec<_> = (0..6).map(|c| word(ProgramKind::Xdp, c).into_owned()).collect();
        assert_eq!(xdp[..4], ["XDP_ABORTED", "drop", "pass", "tx"]);
        assert_eq!(xdp[5], "verdict 5");
        let tc: Vec<_> = [-1, 0, 2].map(|c| word(ProgramKind::SchedCls, c).into_owned()).into();
        assert_eq!(tc, ["next", "pass", "drop"]);
        assert!(word(ProgramKind::SchedCls, 4).starts_with("TC_ACT_"));
    }

    #[test]
    fn what_ends_a_packet() {
        let dropped = |kind, codes: std::ops::Range<i32>| codes.filter(|c| drops(kind, *c)).collect::<Vec<_>>();
        assert_eq!(dropped(ProgramKind::Xdp, -1..6), [-1, 0, 1, 5]);
        assert_eq!(dropped(ProgramKind::SchedCls, -1..9), [2, 4, 5, 8]);
    }
}
