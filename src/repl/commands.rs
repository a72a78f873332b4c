//! The commands of the REPL: one table that dispatch, `:help`, completion and hints are made of.

use crate::render::Failure;
use crate::repl::Repl;

/// What the argument of a command is, for completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    None,
    Map,
    Name,
    File,
    Stage,
    Job,
    Pattern,
    Expr,
    Setting,
}

#[derive(Debug)]
pub struct Command {
    pub name: &'static str,
    /// As `:help` shows it.
    pub args: &'static str,
    pub arg: Arg,
    pub doc: &'static str,
    pub run: fn(&mut Repl, &str) -> Result<(), Failure>,
}

pub static COMMANDS: &[Command] = &[
    Command {
        name: "help",
        args: "[TOPIC]",
        arg: Arg::Name,
        doc: "this list, or what a word means",
        run: Repl::help,
    },
    Command {
        name: "jobs",
        args: "",
        arg: Arg::None,
        doc: "what runs in the background",
        run: Repl::jobs,
    },
    Command {
        name: "stop",
        args: "[N|all]",
        arg: Arg::Job,
        doc: "ends a job; without a number the newest",
        run: Repl::stop,
    },
    Command {
        name: "print",
        args: "@MAP [TOP]",
        arg: Arg::Map,
        doc: "prints a map; `@MAP` alone does the same",
        run: Repl::print,
    },
    Command {
        name: "every",
        args: "5s @MAP [TOP]",
        arg: Arg::Map,
        doc: "prints a map regularly, as a job",
        run: Repl::every,
    },
    Command {
        name: "watch",
        args: "@MAP",
        arg: Arg::Map,
        doc: "shows a map in full screen, with changes and a sparkline; any key returns",
        run: Repl::watch,
    },
    Command {
        name: "clear",
        args: "@MAP|all",
        arg: Arg::Map,
        doc: "removes what is in a map",
        run: Repl::clear,
    },
    Command {
        name: "maps",
        args: "",
        arg: Arg::None,
        doc: "the maps of this session: types, entries, memory",
        run: Repl::maps,
    },
    Command {
        name: "list",
        args: "PATTERN",
        arg: Arg::Pattern,
        doc: "probes by pattern: `tracepoint:tcp:*`",
        run: Repl::list,
    },
    Command {
        name: "type",
        args: "EXPR",
        arg: Arg::Expr,
        doc: "the type of an expression or a map",
        run: Repl::type_of,
    },
    Command {
        name: "dump",
        args: "STAGE",
        arg: Arg::Stage,
        doc: "what a stage of the compiler made of the last entry",
        run: Repl::dump,
    },
    Command {
        name: "save",
        args: "FILE",
        arg: Arg::File,
        doc: "writes this session as a script",
        run: Repl::save,
    },
    Command {
        name: "load",
        args: "FILE [ARGS]",
        arg: Arg::File,
        doc: "runs a script as a job",
        run: Repl::load,
    },
    Command {
        name: "net",
        args: "[IFACE…]",
        arg: Arg::None,
        doc: "which BPF programs are attached to interfaces",
        run: Repl::net,
    },
    Command {
        name: "doc",
        args: "NAME",
        arg: Arg::Name,
        doc: "what a native, builtin, function, field or probe is",
        run: Repl::doc,
    },
    Command {
        name: "set",
        args: "[NAME VALUE]",
        arg: Arg::Setting,
        doc: "settings of the `config` block for later entries, and `unsafe on`",
        run: Repl::set,
    },
    Command {
        name: "wait",
        args: "TIME",
        arg: Arg::None,
        doc: "waits, for input that comes from a pipe: `:wait 2s`",
        run: Repl::wait,
    },
    Command {
        name: "quit",
        args: "",
        arg: Arg::None,
        doc: "ends everything; so does Ctrl-D",
        run: Repl::quit,
    },
];

/// Finds a command by its name or an unambiguous beginning of it.
pub fn find(name: &str) -> Result<&'static Command, Failure> {
    if let Some(command) = COMMANDS.iter().find(|c| c.name == name) {
        return Ok(command);
    }
    let starts: Vec<&Command> = COMMANDS.iter().filter(|c| !name.is_empty() && c.name.starts_with(name)).collect();
    match starts.as_slice() {
        [command] => Ok(command),
        [] => {
            let near = COMMANDS.iter().min_by_key(|c| strsim::damerau_levenshtein(c.name, name));
            let near = near.filter(|c| strsim::damerau_levenshtein(c.name, name) <= 2);
            let failure = Failure::new(format!("there is no command `:{name}`"));
            Err(match near {
                Some(near) => failure.help(format!("did you mean `:{}`?", near.name)),
                None => failure.help("`:help` lists them"),
            })
        }
        several => {
            let names: Vec<String> = several.iter().map(|c| format!("`:{}`", c.name)).collect();
            Err(Failure::new(format!("`:{name}` could be {}", names.join(" or "))))
        }
    }
}

/// `:help` without a topic.
pub fn help() -> String {
    let width = COMMANDS
        .iter()
        .map(|c| c.name.len() + c.args.chars().count() + 2)
        .max()
        .unwrap_or(0);
    let mut out = String::from(
        "Type a probe, and it runs in the background:   tracepoint:syscalls:sys_enter_openat { @[comm] = count(); }\n\
         Type a statement, and it runs once:            print(@); printf(\"%d\\n\", ncpus);\n\
         Maps live as long as the session; every entry can fill and read them.\n\n",
    );
    for command in COMMANDS {
        let left = format!(":{} {}", command.name, command.args);
        out.push_str(&format!("  {left:width$}  {}\n", command.doc));
    }
    out.push_str("\nTab completes, Ctrl-R searches the history, Ctrl-C clears the line, Ctrl-D leaves.\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_by_name_beginning_and_slip() {
        assert_eq!(find("jobs").unwrap().name, "jobs");
        assert_eq!(find("j").unwrap().name, "jobs");
        assert_eq!(find("wtach").unwrap_err().help.unwrap(), "did you mean `:watch`?");
        assert_eq!(find("w").unwrap_err().message, "`:w` could be `:watch` or `:wait`");
        assert!(find("xyzzy").unwrap_err().help.unwrap().contains(":help"));
        assert!(find("").is_err());
    }

    #[test]
    fn help_names_every_command() {
        let help = help();
        assert!(
            COMMANDS
                .iter()
                .all(|c| help.contains(&format!(":{} ", c.name)) && help.contains(c.doc))
        );
    }
}
