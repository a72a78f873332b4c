//! The command lines of `weir net`, `weir maps`, `weir progs`.

use clap::{ArgGroup, Parser, ValueEnum};

/// Shows all BPF on this machine's network: what runs where, in which order, whose it is, and what looks wrong.
///
/// Ends with code 3 when something looks wrong.
#[derive(Debug, Parser)]
#[command(name = "weir net", after_help = "`weir net rm --help` says how to remove one program.")]
pub struct Net {
    /// Only these interfaces
    #[arg(value_name = "IFACE")]
    pub interfaces: Vec<String>,
    /// Every network namespace, not only this one
    #[arg(long = "all-netns")]
    pub all_netns: bool,
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
    /// Stay, and show what comes and goes
    #[arg(long)]
    pub watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    Ingress,
    Egress,
}

/// Removes one program from the place where it is attached, after showing what that is and what runs instead.
#[derive(Debug, Parser)]
#[command(
    name = "weir net rm",
    override_usage = "weir net rm IFACE ingress|egress --priority N [--handle H] [--yes]\n       weir net rm [IFACE] --id N [--yes]",
    group(ArgGroup::new("what").args(["priority", "id"]).required(true))
)]
pub struct NetRm {
    /// The interface
    #[arg(value_name = "IFACE")]
    pub interface: Option<String>,
    /// The direction of the filter, as the interface sees it
    #[arg(value_enum, requires = "priority")]
    pub direction: Option<Direction>,
    /// The filter's priority in its clsact chain
    #[arg(long, value_name = "N", requires = "direction")]
    pub priority: Option<u16>,
    /// The filter's handle, where several have one priority
    #[arg(long, value_name = "H", value_parser = handle, requires = "priority")]
    pub handle: Option<u32>,
    /// The program's id: removes it from wherever it is attached
    #[arg(long, value_name = "N", conflicts_with_all = ["direction", "handle"])]
    pub id: Option<u32>,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// Lists BPF maps with how full they are, or shows what is in one.
#[derive(Debug, Parser)]
#[command(name = "weir maps")]
pub struct Maps {
    /// A map's id, its name, or the path where it is pinned
    #[arg(value_name = "ID | NAME | PIN")]
    pub map: Option<String>,
    /// Only the N entries with the largest values
    #[arg(long, value_name = "N", requires = "map", value_parser = how_many, allow_negative_numbers = true)]
    pub top: Option<usize>,
    /// Sort by this field of the value, largest first
    #[arg(long, value_name = "FIELD", requires = "map")]
    pub by: Option<String>,
    /// Remove all entries, after showing how many there are and who uses the map
    #[arg(long, requires = "map", conflicts_with_all = ["top", "by", "json", "watch"])]
    pub clear: bool,
    /// Do not ask
    #[arg(long, short = 'y', requires = "clear")]
    pub yes: bool,
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
    /// Show it again every second
    #[arg(long)]
    pub watch: bool,
}

/// Lists BPF programs, or tells all about one.
#[derive(Debug, Parser)]
#[command(name = "weir progs")]
pub struct Progs {
    /// A program's id or its name
    #[arg(value_name = "ID | NAME")]
    pub program: Option<String>,
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
    /// Show it again every second
    #[arg(long)]
    pub watch: bool,
}

/// A handle as `tc` writes it: `0x1`, or in decimal.
fn handle(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "write a number: `1` or `0x1`".to_owned())
}

/// Reads how many are wanted.
fn how_many(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "`--top` takes a number from 0 on, such as 10".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_declarations_are_consistent() {
        Net::command().debug_assert();
        NetRm::command().debug_assert();
        Maps::command().debug_assert();
        Progs::command().debug_assert();
    }

    #[test]
    fn a_removal_names_one_thing() {
        let parse = |words: &[&str]| NetRm::try_parse_from(std::iter::once(&"weir net rm").chain(words));
        let rm = parse(&["veth0", "ingress", "--priority", "2", "--handle", "0x1f"]).unwrap();
        assert_eq!(
            (rm.direction, rm.priority, rm.handle),
            (Some(Direction::Ingress), Some(2), Some(31))
        );
        assert_eq!(parse(&["--id", "7"]).unwrap().id, Some(7));
        assert_eq!(parse(&["veth0", "--id", "7"]).unwrap().interface.as_deref(), Some("veth0"));
        for wrong in [
            &[][..],
            &["veth0"],
            &["veth0", "ingress"],
            &["veth0", "--priority", "2"],
            &["veth0", "sideways", "--priority", "2"],
            &["veth0", "ingress", "--priority", "2", "--id", "3"],
            &["veth0", "ingress", "--priority", "2", "--handle", "x"],
            &["--id", "-1"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
