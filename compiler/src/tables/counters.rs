//! Events that the kernel (`software`) and the processor (`hardware`) count.

/// A counted event.
#[derive(Debug)]
pub struct Counter {
    pub hardware: bool,
    pub name: &'static str,
    pub alias: Option<&'static str>,
    /// `PERF_COUNT_SW_*` or `PERF_COUNT_HW_*`
    pub config: u64,
    /// A block runs at every so many events unless the script says otherwise.
    pub default_count: u64,
}

macro_rules! counters {
    ($($hardware:literal $name:literal $alias:expr, $config:literal, $count:literal;)*) => {
        /// Every counted event.
        pub static COUNTERS: &[Counter] =
            &[$(Counter { hardware: $hardware, name: $name, alias: $alias, config: $config, default_count: $count },)*];
    };
}

counters! {
    false "alignment-faults" None, 7, 1;
    false "bpf-output" None, 10, 1;
    false "context-switches" Some("cs"), 3, 1000;
    false "cpu-clock" Some("cpu"), 0, 1_000_000;
    false "cpu-migrations" None, 4, 1;
    false "dummy" None, 9, 1;
    false "emulation-faults" None, 8, 1;
    false "major-faults" None, 6, 1;
    false "minor-faults" None, 5, 100;
    false "page-faults" Some("faults"), 2, 100;
    false "task-clock" None, 1, 1_000_000;
    true "backend-stalls" None, 8, 1_000_000;
    true "branch-instructions" Some("branches"), 4, 100_000;
    true "branch-misses" None, 5, 100_000;
    true "bus-cycles" None, 6, 100_000;
    true "cache-misses" None, 3, 1_000_000;
    true "cache-references" None, 2, 1_000_000;
    true "cpu-cycles" Some("cycles"), 0, 1_000_000;
    true "frontend-stalls" None, 7, 1_000_000;
    true "instructions" None, 1, 1_000_000;
    true "ref-cycles" None, 9, 1_000_000;
}
