//! An instance with a name: `pin="NAME"`. Between a native and [`crate::pin`]: who it is, what of it is kept, what is asked of it.

use super::{Instance, Params};
use crate::attach::interfaces::Settings;
use crate::attach::reaper::REAPER_ARG;
use crate::attach::{Attacher, Observer};
use crate::error::{Error, Notice};
use crate::kernel::Kernel;
use crate::pin::{self, Pin, PinError, Record};
use crate::sys::{netns, proc};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_compiler::object::{IfacePattern, MapKind, NativeInstance, Object};
use weir_parser::Span;
use weir_stdlib::{ParamType, ParamValue, show_duration};

/// Takes the name that the parameter `pin` gives.
pub(super) fn open(params: &Params<'_>) -> Result<Option<Arc<Pin>>, Error> {
    let Some((ParamValue::Str(name), span)) = params.get("pin") else {
        return Ok(None);
    };
    if params.duration("duration").is_some() {
        return Err(Error::Param {
            message: "`duration` cannot end what `pin` keeps when weir is gone".to_owned(),
            help: Some("leave one of them out; `weir stop NAME` ends a pin".to_owned()),
            span: params.get("duration").map_or(span, |(_, span)| span),
        });
    }
    let pin = Pin::open(name, params.0.native.name).map_err(|e| error(e, span))?;
    Ok(Some(Arc::new(pin)))
}

fn error(error: PinError, span: Span) -> Error {
    Error::Param {
        help: error.help(),
        message: error.to_string(),
        span,
    }
}

/// Whether it drops packets, as opposed to counting what it would drop.
pub(super) fn decides(params: &Params<'_>) -> bool {
    !params.flag("dry_run")
}

/// What its counters do not tell: that nothing is dropped, and for how long it is asked to work.
pub(super) fn in_brief(params: &Params<'_>) -> String {
    let time = params
        .duration("duration")
        .map_or_else(String::new, |ns| format!(" for {}", show_duration(ns)));
    match (decides(params), time.is_empty()) {
        (false, _) => format!(" (dry run{time}: nothing is dropped)"),
        (true, false) => format!(" (in force{time})"),
        (true, true) => String::new(),
    }
}

/// Starts named instances and leaves them: each takes over what is pinned, with its files as they are now.
///
/// # Errors
/// As for any start; then what is pinned stays in force.
pub fn renew(object: &Object, kernel: &Kernel, observer: &Observer) -> Result<(), Error> {
    let natives = super::load_all(object, kernel)?;
    super::upkeep::tell(&natives, observer);
    let mut attacher = Attacher::new(kernel, observer, &[REAPER_ARG.into()], Settings::default());
    for native in &natives {
        native.attach(&mut attacher)?;
    }
    natives.iter().try_for_each(super::Instance::attached)?;
    super::upkeep::tell(&natives, observer);
    attacher.finish().detach();
    Ok(())
}

impl Instance {
    fn pin_span(&self) -> Span {
        Params(&self.spec).get("pin").map_or(self.spec.span, |(_, span)| span)
    }

    /// Before anything is attached: says who it is.
    pub(super) fn introduce(&self) -> Result<(), Error> {
        let Some(pin) = &self.pin else { return Ok(()) };
        let params = Params(&self.spec);
        let text = params.text("iface").unwrap_or_default();
        let netns = IfacePattern::parse(text).netns;
        let now = proc::clock_ns(libc::CLOCK_REALTIME) / 1_000_000_000;
        let record = Record {
            native: self.spec.native.name.to_owned(),
            alias: self.spec.alias.clone(),
            iface: text.to_owned(),
            netns: netns.map_or_else(netns::here, |name| netns::identity(&name)).unwrap_or_default(),
            dry_run: !decides(&params),
            since: pin.before().map_or(now, |before| before.since),
            started: now,
            owner: pin::this_process(),
            statement: statement(&self.spec),
            files: files(&self.spec).collect(),
            sources: sources(&self.spec).collect(),
            audit: audit(&self.spec),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settled: true,
        };
        pin.introduce(&record).map_err(|e| error(e, self.pin_span()))
    }

    /// Whether it takes over what a name stands for.
    pub(super) fn adopts(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.before().is_some())
    }

    /// Everything is attached: from now on it outlives us.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let Some(pin) = &self.pin else { return Ok(()) };
        // Event blocks end with their script: the kernel empties a program array when nobody holds it but programs. Names have no dots.
        let kept = |symbol: &str, kind| kind != MapKind::ProgArray && !symbol.contains('.');
        let maps = self.maps.values().filter(|m| kept(&m.symbol, m.kind));
        let programs: Vec<(String, BorrowedFd<'_>)> = self.programs.iter().map(|p| (p.symbol(), p.fd.as_fd())).collect();
        pin.settle(
            maps.map(|m| (m.symbol.as_str(), m.fd.as_fd())),
            programs.iter().map(|(symbol, fd)| (symbol.as_str(), *fd)),
        )
        .map_err(|e| error(e, self.pin_span()))?;
        self.tell_sizes();
        Ok(())
    }

    /// Says how full its lists are to whoever looks at a named instance.
    pub(crate) fn tell_sizes(&self) {
        if let (Some(pin), Some(lists)) = (&self.pin, self.lists()) {
            pin.hold(lists.states());
        }
    }

    /// What somebody should know before they rely on it.
    pub(crate) fn how_long(&self) -> Option<Notice> {
        let params = Params(&self.spec);
        let can_be_pinned = self.spec.native.params.iter().any(|p| p.name == "pin");
        let dry_run = if decides(&params) { "" } else { "dry run, nothing is dropped; " };
        let time = params.duration("duration").map(show_duration);
        let message = match &self.pin {
            Some(pin) => {
                let taken = if pin.before().is_some() { "taken over" } else { "new" };
                let name = pin.name();
                format!("{dry_run}pinned as `{name}` ({taken}): stays in force when weir is gone, until `weir stop {name}`")
            }
            None if !dry_run.is_empty() => match time {
                Some(time) => format!("dry run: what would be dropped is counted for {time}, and passes"),
                None => "dry run: what would be dropped is counted, and passes".to_owned(),
            },
            None if !can_be_pinned => return None,
            None => match time {
                Some(time) => format!("in force for {time}, at most as long as weir runs, then everything passes"),
                None => "in force as long as weir runs, then everything passes; with `pin=\"NAME\"` it stays".to_owned(),
            },
        };
        Some(Notice::Native {
            alias: self.spec.alias.clone(),
            message,
            warning: false,
            span: None,
        })
    }

    /// Hears what others ask of a named instance. Returns whether it has been ended.
    pub(crate) fn hear(&self) -> bool {
        let Some(pin) = &self.pin else { return false };
        if pin.is_stopped() {
            return true;
        }
        if let Some(request) = pin.asked_to_reload() {
            let told = self.notices();
            for path in files(&self.spec) {
                self.reload_file(&path);
            }
            let new = self.notices();
            self.tell_sizes();
            let (mut good, mut text) = (true, Vec::new());
            for notice in &new {
                good &= !notice.is_warning();
                if let Notice::Native { message, .. } = notice {
                    text.push(message.as_str());
                }
            }
            let text = if text.is_empty() {
                "no list or policy is in a file".to_owned()
            } else {
                text.join("\n")
            };
            pin.answer(request, good, &text);
            self.untold().extend(told.into_iter().chain(new));
        }
        false
    }

    /// Reads one of its files again, whether it has changed or not. The path is whole; scripts may have named it otherwise.
    fn reload_file(&self, path: &Path) {
        for value in self.spec.params.iter().flatten() {
            if let ParamValue::File(given) = value
                && whole(given) == path
            {
                self.reload(Path::new(given), &mut || false);
            }
        }
    }

    /// Whether it stays when we end.
    pub(crate) fn farewell(&self) -> Option<Notice> {
        let pin = self.pin.as_ref()?;
        let name = pin.name();
        let message = if pin.outlives() {
            format!("stays in force as `{name}`: `weir stop {name}` ends it, the next start takes it over")
        } else {
            format!("ended by `weir stop {name}`")
        };
        Some(Notice::Native {
            alias: self.spec.alias.clone(),
            message,
            warning: false,
            span: None,
        })
    }
}

fn whole(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

fn files(spec: &NativeInstance) -> impl Iterator<Item = PathBuf> {
    spec.params.iter().flatten().filter_map(|value| match value {
        ParamValue::File(path) => Some(whole(path)),
        _ => None,
    })
}

/// Its files as the script names them, with their parameters.
fn sources(spec: &NativeInstance) -> impl Iterator<Item = (String, String)> {
    let params = spec.native.params.iter().zip(&spec.params);
    params.filter_map(|(decl, value)| match value {
        Some(ParamValue::File(path)) => Some((decl.name.to_owned(), path.clone())),
        _ => None,
    })
}

/// Where its changes are written down.
fn audit(spec: &NativeInstance) -> Option<PathBuf> {
    let decl = spec.native.params.iter().find(|p| p.name == "audit")?;
    let ParamType::Path { none } = decl.ty else { return None };
    let params = Params(spec);
    let path = params.text(decl.name).unwrap_or(decl.default.trim_matches('"'));
    (none != Some(path)).then(|| whole(path))
}

/// The `use` statement with its parameters as they are, for a start that nobody types. `None` if a list came from standard input.
fn statement(spec: &NativeInstance) -> Option<String> {
    let mut params = Vec::new();
    for (decl, value) in spec.native.params.iter().zip(&spec.params) {
        let Some(value) = value else { continue };
        let text = match (decl.ty, value) {
            // Nobody knows in which folder it will be started again.
            (ParamType::Path { none }, ParamValue::Str(path)) if none != Some(path.as_str()) => quoted(&whole(path).to_string_lossy()),
            _ => written(value)?,
        };
        params.push(format!("{}={text}", decl.name));
    }
    Some(format!("use {}({}) as {};", spec.native.name, params.join(", "), spec.alias))
}

/// A value as scripts write it.
fn written(value: &ParamValue) -> Option<String> {
    Some(match value {
        ParamValue::Str(text) => quoted(text),
        ParamValue::Bool(b) => b.to_string(),
        ParamValue::Int(n) => n.to_string(),
        ParamValue::Duration(ns) => quoted(&show_duration(*ns)),
        ParamValue::File(path) => format!("file({})", quoted(&whole(path).to_string_lossy())),
        ParamValue::Stdin => return None,
        ParamValue::Ports(ports) => {
            let ranges: Vec<String> = ports.iter().map(|(low, high)| format!("{low}-{high}")).collect();
            quoted(&ranges.join(","))
        }
        ParamValue::List(list) => match list.as_slice() {
            [one] => quoted(one),
            _ => format!("({})", list.iter().map(|p| quoted(p)).collect::<Vec<_>>().join(", ")),
        },
    })
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_scripts_have_them() {
        let check = |value, text: &str| assert_eq!(written(&value).as_deref(), Some(text));
        check(ParamValue::Str(r#"a"b\c"#.into()), r#""a\"b\\c""#);
        check(ParamValue::Duration(90_000_000_000), "\"90s\"");
        check(ParamValue::Ports(vec![(80, 80), (8000, 8080)]), "\"80-80,8000-8080\"");
        check(ParamValue::List(vec!["10.0.0.0/8".into()]), "\"10.0.0.0/8\"");
        check(
            ParamValue::List(vec!["10.0.0.0/8".into(), "2001:db8::/32".into()]),
            "(\"10.0.0.0/8\", \"2001:db8::/32\")",
        );
        check(ParamValue::File("/etc/bad list".into()), "file(\"/etc/bad list\")");
        assert_eq!(written(&ParamValue::Stdin), None);
    }
}
