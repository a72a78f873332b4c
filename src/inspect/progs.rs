//! `weir progs`: all programs, or all about one.

use super::args::Progs;
use super::table::{Style, Table};
use super::{again, failed, fill, json, loaded, maps_of, nearest, owner, refused, runs};
use crate::out;
use crate::render::Failure;
use std::fmt::Write;
use std::process::ExitCode;
use weir_runtime::inspect::{Objects, Program, Removal, Selector, select, statistics_are_on};

pub fn main(args: &Progs) -> Result<ExitCode, Failure> {
    let style = Style::for_stdout();
    let page = || match &args.program {
        None => list(args.json, style),
        Some(wanted) => one(wanted, args.json, style),
    };
    if args.watch {
        again(page)?;
    } else {
        out::stdout(&page()?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read() -> Result<(Vec<Program>, bool), Failure> {
    let mut objects = Objects::read(true).map_err(|e| refused(&e))?;
    let all = objects.all_programs().map_err(|e| refused(&e))?;
    Ok((all, objects.owners.complete))
}

fn list(as_json: bool, style: Style) -> Result<String, Failure> {
    let (all, complete) = read()?;
    if as_json {
        return json(&all);
    }
    if all.is_empty() {
        return Ok("no BPF programs are loaded\n".to_owned());
    }
    let head = vec!["ID", "PROGRAM", "TYPE", "TAG", "LOADED", "UID", "RUNS", "OWNER", "MAPS"];
    let mut table = Table::new(style, head, &["ID", "UID"], 0);
    let statistics = statistics_are_on();
    for program in &all {
        table.row(vec![
            program.id.to_string(),
            program.name.clone(),
            program.kind.clone(),
            program.tag.clone(),
            loaded(program),
            program.uid.to_string(),
            runs(program, statistics),
            owner(&program.owners, &program.pins, complete),
            maps_of(program),
        ]);
    }
    Ok(table.render())
}

fn one(wanted: &str, as_json: bool, style: Style) -> Result<String, Failure> {
    let (all, complete) = read()?;
    let program = find(wanted, &all)?;
    let selector = Selector::Program {
        id: program.id,
        interface: None,
    };
    let places = select(&selector).map_err(failed)?.found;
    if as_json {
        let attached: Vec<serde_json::Value> = places
            .iter()
            .map(|p| serde_json::json!({ "place": p.place, "at": p.attachment.at, "link_id": p.attachment.link_id }))
            .collect();
        return json(&serde_json::json!({ "program": program, "attached": attached }));
    }
    Ok(describe(program, &places, complete, style))
}

fn find<'a>(wanted: &str, all: &'a [Program]) -> Result<&'a Program, Failure> {
    if let Ok(id) = wanted.parse::<u32>() {
        return all
            .iter()
            .find(|p| p.id == id)
            .ok_or_else(|| Failure::new(format!("no BPF program has id {id}")).help("`weir progs` lists them"));
    }
    let named: Vec<&Program> = all.iter().filter(|p| p.name == wanted).collect();
    match named.as_slice() {
        [one] => Ok(one),
        [] => {
            let failure = Failure::new(format!("no BPF program is called `{wanted}`"));
            Err(match nearest(wanted, all.iter().map(|p| p.name.as_str())) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure.help("`weir progs` lists them"),
            })
        }
        several => {
            let ids: Vec<String> = several.iter().map(|p| p.id.to_string()).collect();
            Err(Failure::new(format!("{} programs are called `{wanted}`", several.len()))
                .help(format!("name one by id: {}", ids.join(", "))))
        }
    }
}

fn describe(program: &Program, places: &[Removal], complete: bool, style: Style) -> String {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = writeln!(text, "{}", style.bold(&format!("{} (id {})", program.name, program.id)));
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    fact("type", &program.kind);
    fact("tag", &program.tag);
    fact("loaded", &format!("{}, by uid {}", loaded(program), program.uid));
    let runs = runs(program, statistics_are_on());
    fact(
        "runs",
        if runs.is_empty() {
            "not counted (sysctl kernel.bpf_stats_enabled)"
        } else {
            &runs
        },
    );
    fact("owner", &owner(&program.owners, &program.pins, complete));
    if let Some(returns) = &program.returns {
        let values: Vec<String> = returns.iter().map(i32::to_string).collect();
        fact("returns", &values.join(" or "));
    }
    for (i, place) in places.iter().enumerate() {
        let value = format!("{}, {}", place.place, place.attachment.at.text());
        fact(if i == 0 { "attached" } else { "" }, &value);
    }
    if places.is_empty() {
        fact("attached", "nowhere on the network");
    }
    for (i, map) in program.maps.iter().enumerate() {
        let value = format!("{} (id {}) {} {}", map.name, map.id, map.kind, fill(map));
        fact(if i == 0 { "maps" } else { "" }, value.trim_end());
    }
    text
}
