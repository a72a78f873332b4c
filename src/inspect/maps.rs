//! `weir maps`: how full all maps are, or what is in one.

use super::args::Maps;
use super::rm::agreed;
use super::table::{Style, Table};
use super::{again, fill, json, nearest, owner, refused};
use crate::out;
use crate::render::Failure;
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use weir_runtime::inspect::maps::{dump, remove};
use weir_runtime::inspect::typed::{Leaf, Value, decode};
use weir_runtime::inspect::{Dump, MapState, Objects};
use weir_runtime::sys::bpf::query::{self, ObjectKind};

pub fn main(args: &Maps) -> Result<ExitCode, Failure> {
    let style = Style::for_stdout();
    if let (Some(wanted), true) = (&args.map, args.clear) {
        return clear(wanted, args.yes);
    }
    let page = || match &args.map {
        None => list(args.json, style),
        Some(wanted) => one(wanted, args, style),
    };
    if args.watch {
        again(page)?;
    } else {
        out::stdout(&page()?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(as_json: bool, style: Style) -> Result<String, Failure> {
    let mut objects = Objects::read(true).map_err(|e| refused(&e))?;
    let all = objects.all_maps().map_err(|e| refused(&e))?;
    if as_json {
        return json(&all);
    }
    if all.is_empty() {
        return Ok("there are no BPF maps\n".to_owned());
    }
    let head = vec!["ID", "MAP", "TYPE", "KEY", "VALUE", "ENTRIES", "MAX", "FULL", "OWNER"];
    let mut table = Table::new(style, head, &["ID", "KEY", "VALUE", "ENTRIES", "MAX", "FULL"], 0);
    for map in &all {
        table.row(vec![
            map.id.to_string(),
            map.name.clone(),
            map.kind.clone(),
            map.key_bytes.to_string(),
            map.value_bytes.to_string(),
            map.entries.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            map.max_entries.to_string(),
            map.pressure().map_or_else(String::new, |p| format!("{p}%")),
            held(map, objects.owners.complete),
        ]);
    }
    Ok(table.render())
}

/// Who holds a map: processes and pins, else the programs that use it.
fn held(map: &MapState, complete: bool) -> String {
    if map.owners.is_empty() && map.pins.is_empty() && !map.used_by.is_empty() {
        let users: Vec<String> = map
            .used_by
            .iter()
            .take(2)
            .map(|u| format!("program {} (id {})", u.name, u.id))
            .collect();
        let more = map.used_by.len() - users.len();
        return users.join(", ") + &if more > 0 { format!(", {more} more") } else { String::new() };
    }
    owner(&map.owners, &map.pins, complete)
}

/// Opens a map by id, name or pin.
fn open(wanted: &str) -> Result<OwnedFd, Failure> {
    if wanted.contains('/') {
        return match query::by_pin(Path::new(wanted)) {
            Ok((ObjectKind::Map, fd)) => Ok(fd),
            Ok(_) => Err(Failure::new(format!("`{wanted}` is pinned, but no map"))),
            Err(e) => Err(refused(&e)),
        };
    }
    let by_id = |id| query::by_id(ObjectKind::Map, id);
    if let Ok(id) = wanted.parse::<u32>() {
        return by_id(id).map_err(|e| match e.errno() {
            libc::ENOENT => Failure::new(format!("no BPF map has id {id}")).help("`weir maps` lists them"),
            _ => refused(&e),
        });
    }
    let mut objects = Objects::read(false).map_err(|e| refused(&e))?;
    let all = objects.all_maps().map_err(|e| refused(&e))?;
    // A map of a script is `@x` to whoever wrote it and `AT_x` to the kernel, which keeps 15 bytes.
    let kernel_name = wanted.replacen('@', "AT_", 1);
    let is_it = |m: &&MapState| m.name == wanted || (wanted.starts_with('@') && m.name == kernel_name[..kernel_name.len().min(15)]);
    let named: Vec<&MapState> = all.iter().filter(is_it).collect();
    match named.as_slice() {
        [one] => by_id(one.id).map_err(|e| refused(&e)),
        [] => {
            let failure = Failure::new(format!("no BPF map is called `{wanted}`"));
            Err(match nearest(wanted, all.iter().map(|m| m.name.as_str())) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure.help("`weir maps` lists them"),
            })
        }
        several => {
            let ids: Vec<String> = several.iter().map(|m| m.id.to_string()).collect();
            Err(Failure::new(format!("{} maps are called `{wanted}`", several.len())).help(format!("name one by id: {}", ids.join(", "))))
        }
    }
}

/// Removes all entries of a map.
fn clear(wanted: &str, yes: bool) -> Result<ExitCode, Failure> {
    let fd = open(wanted)?;
    let all = dump_of(&fd, wanted)?;
    let mut state = weir_runtime::inspect::maps::state(fd.as_fd(), false).map_err(|e| refused(&e))?;
    let name = format!("{} (id {})", state.name, state.id);
    if !state.can_fill {
        return Err(
            Failure::new(format!("{name} is of type {}, whose entries cannot be removed", state.kind))
                .help("hashes and tries have entries that come and go"),
        );
    }
    let count = all.elements.iter().count();
    state.entries = Some(count as u64);
    let mut objects = Objects::read(true).map_err(|e| refused(&e))?;
    let complete = objects.owners.complete;
    let known = objects.all_maps().map_err(|e| refused(&e))?.into_iter().find(|m| m.id == state.id);
    out::stdout(&format!(
        "{name} {} {}\n  remove:  all entries\n  used by: {}\n",
        state.kind,
        fill(&state),
        known.map_or_else(String::new, |m| held(&m, complete))
    ))?;
    if !yes && !agreed()? {
        out::stdout("nothing was removed\n")?;
        return Ok(ExitCode::FAILURE);
    }
    let gone = remove(fd.as_fd(), &all).map_err(|e| refused(&e))?;
    out::stdout(&format!("removed {gone} entries of {name}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn dump_of(fd: &OwnedFd, wanted: &str) -> Result<Dump, Failure> {
    dump(fd.as_fd()).map_err(|e| match e.errno() {
        libc::EOPNOTSUPP => Failure::new(format!("the entries of map `{wanted}` cannot be read"))
            .help("queues, ring buffers and storage of sockets and tasks have no keys to go through"),
        _ => refused(&e),
    })
}

fn one(wanted: &str, args: &Maps, style: Style) -> Result<String, Failure> {
    let fd = open(wanted)?;
    let dump = dump_of(&fd, wanted)?;
    let elements: Vec<(&[u8], &[u8])> = dump.elements.iter().collect();
    let total = elements.len();
    // Of a million entries only those that are shown become values.
    let chosen = chosen(&dump, &elements, args)?;
    let row = |i: usize| (key(&dump, elements[i].0), value(&dump, elements[i].1));
    let info = &dump.details.info;
    if args.json {
        let entry = |i: &usize| {
            let (key, value) = row(*i);
            Entry { key, value }
        };
        let entries = Rows(&chosen, entry);
        return json(&Page {
            id: info.id,
            name: &info.name,
            kind: weir_runtime::inspect::maps::map_type(info.kind),
            entries_in_map: total,
            max_entries: info.max_entries,
            entries,
        });
    }
    let mut state = weir_runtime::inspect::maps::state(fd.as_fd(), false).map_err(|e| refused(&e))?;
    state.entries = Some(total as u64);
    let head = format!("{} (id {}) {} {}", info.name, info.id, state.kind, fill(&state));
    let mut text = style.bold(&head) + "\n";
    for (key, value) in chosen.into_iter().map(row) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "  [{key}]: {}", show(&value, dump.part.1 > 1));
    }
    Ok(text)
}

#[derive(serde::Serialize)]
struct Page<'a, T: serde::Serialize> {
    id: u32,
    name: &'a str,
    #[serde(rename = "type")]
    kind: String,
    entries_in_map: usize,
    max_entries: u32,
    entries: T,
}

/// Entries that become values one after the other: of a million there is never more than one.
struct Rows<'a, F>(&'a [usize], F);

impl<F: Fn(&usize) -> Entry> serde::Serialize for Rows<'_, F> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
}

#[derive(serde::Serialize)]
struct Entry {
    key: Value,
    /// Of a per-CPU map a list, a value for each CPU.
    value: Value,
}

/// A per-CPU number as its sum, then its parts.
fn show(value: &Value, per_cpu: bool) -> String {
    match value {
        Value::List(parts) if per_cpu && parts.iter().all(|p| matches!(p, Value::Int(_))) => {
            let sum: i128 = parts.iter().map(|p| if let Value::Int(n) = p { *n } else { 0 }).sum();
            format!("{sum} {value}")
        }
        _ => value.to_string(),
    }
}

fn key(dump: &Dump, bytes: &[u8]) -> Value {
    decode(dump.btf.as_ref(), dump.details.btf_key, bytes)
}

fn value(dump: &Dump, bytes: &[u8]) -> Value {
    let details = &dump.details;
    let size = details.info.value_size as usize;
    let (part, cpus) = dump.part;
    let one = |b: &[u8]| decode(dump.btf.as_ref(), details.btf_value, b.get(..size).unwrap_or(b));
    if cpus > 1 || part != size {
        Value::List(bytes.chunks_exact(part.max(1)).map(one).collect())
    } else {
        one(bytes)
    }
}

/// Which elements are shown, in which order: by a field, largest first, when that was asked for.
fn chosen(dump: &Dump, elements: &[(&[u8], &[u8])], args: &Maps) -> Result<Vec<usize>, Failure> {
    if args.top.is_none() && args.by.is_none() {
        return Ok((0..elements.len()).collect());
    }
    // `value` is the value itself, as it is called where there are no fields.
    let field = args.by.as_deref().filter(|f| *f != "value");
    let (size, btf) = (dump.details.info.value_size as usize, dump.btf.as_ref());
    let leaf = Leaf::find(btf, dump.details.btf_value, size, field);
    let of = |bytes: &[u8]| match leaf {
        Some(leaf) => {
            let parts = bytes.chunks(dump.part.0.max(1)).filter_map(|part| leaf.number(btf, part));
            parts.reduce(|a, b| a + b)
        }
        None => value(dump, bytes).number(field),
    };
    let number = |(i, (_, bytes)): (usize, &(&[u8], &[u8]))| (of(bytes), i);
    let mut numbers: Vec<(Option<f64>, usize)> = elements.iter().enumerate().map(number).collect();
    if let (Some(field), Some((_, first))) = (field, elements.first())
        && numbers.iter().all(|(number, _)| number.is_none())
    {
        let fields = value(dump, first).fields();
        let failure = Failure::new(format!("the values of the map have no number `{field}`"));
        return Err(if fields.is_empty() {
            failure.help("they are plain: leave `--by` out")
        } else {
            failure.help(format!("there are: {}", fields.join(", ")))
        });
    }
    let rank = |n: &Option<f64>| n.unwrap_or(f64::NEG_INFINITY);
    let largest_first = |(a, i): &(Option<f64>, usize), (b, j): &(Option<f64>, usize)| rank(b).total_cmp(&rank(a)).then(i.cmp(j));
    if let Some(top) = args.top.filter(|top| (1..numbers.len()).contains(top)) {
        numbers.select_nth_unstable_by(top - 1, largest_first);
    }
    numbers.truncate(args.top.unwrap_or(usize::MAX));
    numbers.sort_unstable_by(largest_first);
    Ok(numbers.into_iter().map(|(_, i)| i).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_cpu_numbers_are_summed() {
        let parts = Value::List(vec![Value::Int(3), Value::Int(4)]);
        assert_eq!(show(&parts, true), "7 [3, 4]");
        assert_eq!(show(&parts, false), "[3, 4]");
    }
}
