//! Flags of the kernel's memory allocator by name, as `%gr` prints them.
//!
//! Source: `include/linux/gfp_types.h`, `include/trace/events/mmflags.h` of Linux 6.1 to 6.18. Bits from 23 on lie elsewhere in every
//! configuration of the kernel and stay numbers.

const DMA: u64 = 1;
const HIGHMEM: u64 = 1 << 1;
const DMA32: u64 = 1 << 2;
const MOVABLE: u64 = 1 << 3;
const HIGH: u64 = 1 << 5;
const IO: u64 = 1 << 6;
const FS: u64 = 1 << 7;
const DIRECT_RECLAIM: u64 = 1 << 10;
const KSWAPD_RECLAIM: u64 = 1 << 11;
const NOWARN: u64 = 1 << 13;
const COMP: u64 = 1 << 18;
const NOMEMALLOC: u64 = 1 << 19;
const HARDWALL: u64 = 1 << 20;
const ACCOUNT: u64 = 1 << 22;
const RECLAIM: u64 = DIRECT_RECLAIM | KSWAPD_RECLAIM;
const KERNEL: u64 = RECLAIM | IO | FS;
const USER: u64 = KERNEL | HARDWALL;
const HIGHUSER_MOVABLE: u64 = USER | HIGHMEM | MOVABLE;
const TRANSHUGE_LIGHT: u64 = (HIGHUSER_MOVABLE | COMP | NOMEMALLOC | NOWARN) & !RECLAIM;

/// What is found first takes its bits away: sets of flags before single ones.
const NAMES: &[(u64, &str)] = &[
    (TRANSHUGE_LIGHT | DIRECT_RECLAIM, "GFP_TRANSHUGE"),
    (TRANSHUGE_LIGHT, "GFP_TRANSHUGE_LIGHT"),
    (HIGHUSER_MOVABLE, "GFP_HIGHUSER_MOVABLE"),
    (USER | HIGHMEM, "GFP_HIGHUSER"),
    (USER, "GFP_USER"),
    (KERNEL | ACCOUNT, "GFP_KERNEL_ACCOUNT"),
    (KERNEL, "GFP_KERNEL"),
    (RECLAIM | IO, "GFP_NOFS"),
    (HIGH | KSWAPD_RECLAIM, "GFP_ATOMIC"),
    (RECLAIM, "GFP_NOIO"),
    (DMA, "GFP_DMA"),
    (HIGHMEM, "__GFP_HIGHMEM"),
    (DMA32, "GFP_DMA32"),
    (MOVABLE, "__GFP_MOVABLE"),
    (1 << 4, "__GFP_RECLAIMABLE"),
    (HIGH, "__GFP_HIGH"),
    (IO, "__GFP_IO"),
    (FS, "__GFP_FS"),
    (1 << 8, "__GFP_ZERO"),
    (DIRECT_RECLAIM, "__GFP_DIRECT_RECLAIM"),
    (KSWAPD_RECLAIM, "__GFP_KSWAPD_RECLAIM"),
    (1 << 12, "__GFP_WRITE"),
    (NOWARN, "__GFP_NOWARN"),
    (1 << 14, "__GFP_RETRY_MAYFAIL"),
    (1 << 15, "__GFP_NOFAIL"),
    (1 << 16, "__GFP_NORETRY"),
    (1 << 17, "__GFP_MEMALLOC"),
    (COMP, "__GFP_COMP"),
    (NOMEMALLOC, "__GFP_NOMEMALLOC"),
    (HARDWALL, "__GFP_HARDWALL"),
    (1 << 21, "__GFP_THISNODE"),
    (ACCOUNT, "__GFP_ACCOUNT"),
];

/// Returns the names of the flags, joined by `|`; what has none as a number.
pub fn names(flags: u64) -> String {
    let mut rest = flags;
    let mut found = Vec::new();
    for (mask, name) in NAMES {
        if rest & mask == *mask {
            rest &= !mask;
            found.push((*name).to_owned());
        }
    }
    match rest {
        0 if found.is_empty() => return "0".to_owned(),
        0 => {}
        rest => found.push(format!("{rest:#x}")),
    }
    found.join("|")
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn sets_of_flags_come_before_single_ones() {
        assert_eq!(names(0xcc0), "GFP_KERNEL");
        assert_eq!(names(0), "0");
        assert_eq!(names(0x400), "__GFP_DIRECT_RECLAIM");
        assert_eq!(names(0x52cc0), "GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP");
        assert_eq!(names(0x0010_0cc2), "GFP_HIGHUSER");
        assert_eq!(names(0x0010_0cca), "GFP_HIGHUSER_MOVABLE");
        assert_eq!(names(0x820), "GFP_ATOMIC");
        assert_eq!(names(0x0100_0001), "GFP_DMA|0x1000000");
    }
}
