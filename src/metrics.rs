//! `--prometheus ADDR`: the maps of a running script over HTTP, in Prometheus' text format (version 0.0.4).
//!
//! Input: the maps, read at each request; the script's text, for help and the names of labels; notices, for losses. Each client
//! has a thread, so that a slow one keeps nobody else waiting; it is let go after some seconds.

use crate::render::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weir_compiler::object::MapRole;
use weir_compiler::types::{MapValue, Type};
use weir_parser::mentions::{Mention, mentions};
use weir_runtime::format::{Context, hist, sint, uint, value};
use weir_runtime::maps::{Cell, Contents, Row, Snapshot};
use weir_runtime::{Error, MapsHandle, Notice};
use weir_stdlib::MapDecl;

/// How long a client may take for its request, and then for each piece of the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients at once; who comes then is told to come again.
const MAX_CLIENTS: usize = 16;
/// A request's head is a few hundred bytes.
const MAX_REQUEST: usize = 8 << 10;

/// What notices have said so far.
#[derive(Debug, Default)]
struct Losses {
    events: u64,
    captures: u64,
    /// Updates that a full map refused.
    refused: BTreeMap<String, u64>,
}

/// Counts losses; a part of the observer of the run.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<Losses>>);

impl Counters {
    pub fn hear(&self, notice: &Notice) {
        let mut losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Notice::LostEvents { count } => losses.events += count,
            Notice::LostCaptures { count } => losses.captures += count,
            Notice::MapFull { map, refused, .. } => *losses.refused.entry(map.clone()).or_default() += refused,
            _ => {}
        }
    }
}

/// A socket that listens, before anything is attached.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

/// Takes `HOST:PORT`, `:PORT` and `PORT`; without a host it is every address of the machine.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    text.parse()
        .map_err(|_| "write an address and a port: `127.0.0.1:9464`, `[::1]:9464`, or `:9464` for all addresses".to_owned())
}

impl Listening {
    /// # Errors
    /// When the address is taken or not this machine's.
    pub fn at(address: SocketAddr) -> Result<Self, Failure> {
        let failed = |e| Failure::new(format!("cannot serve metrics at {address}: {e}"));
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to answer.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn serve(self, source: Scrape) -> Result<Server, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let Self { listener, address } = self;
        let source = Arc::new(source);
        let clients = Arc::new(AtomicUsize::new(0));
        let work = move || {
            for stream in listener.incoming() {
                if theirs.load(Ordering::Acquire) {
                    return;
                }
                // A client that has gone, or talks nonsense, is no failure of the run.
                if let Ok(stream) = stream {
                    client(stream, &source, &clients);
                }
            }
        };
        let thread = std::thread::Builder::new().name("weir-metrics".to_owned()).spawn(work);
        let thread = thread.map_err(|e| Failure::new(format!("cannot serve metrics: {e}")))?;
        Ok(Server {
            address,
            stop,
            thread: Some(thread),
        })
    }
}

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let mut wake = self.address;
        if wake.ip().is_unspecified() {
            let local: std::net::IpAddr = if wake.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            };
            wake.set_ip(local);
        }
        // It waits for a client: be one. Without it the thread ends with the process.
        if TcpStream::connect_timeout(&wake, Duration::from_secs(1)).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// Answers one client on a thread of its own. It ends by itself: every wait for the client has a bound.
fn client(mut stream: TcpStream, source: &Arc<Scrape>, clients: &Arc<AtomicUsize>) {
    let busy = |stream: &mut TcpStream| {
        let _ = stream.set_write_timeout(Some(CLIENT_TIMEOUT));
        let _ = stream.write_all(head("503 Service Unavailable", 0).as_bytes());
    };
    if clients.load(Ordering::Acquire) >= MAX_CLIENTS {
        return busy(&mut stream);
    }
    let counted = Counted::new(clients);
    let source = Arc::clone(source);
    let work = move || {
        let _counted = counted;
        let _ = answer(stream, &source);
    };
    // Without a thread the connection is closed, which the client sees.
    let _ = std::thread::Builder::new().name("weir-scrape".to_owned()).spawn(work);
}

/// One of the clients, until it goes.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(clients: &Arc<AtomicUsize>) -> Self {
        clients.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(clients))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn head(status: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

fn answer(mut stream: TcpStream, source: &Scrape) -> std::io::Result<()> {
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let deadline = Instant::now() + CLIENT_TIMEOUT;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        // A byte now and then does not keep the thread.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        let n = stream.read(&mut buffer)?;
        if n == 0 || request.len() + n > MAX_REQUEST {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..n]);
    }
    let line = String::from_utf8_lossy(&request);
    let mut words = line.lines().next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let (status, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => match source.text() {
            Ok(text) => ("200 OK", text),
            Err(e) => ("500 Internal Server Error", format!("{e}\n")),
        },
        ("GET" | "HEAD", "/") => ("200 OK", "weir: see /metrics\n".to_owned()),
        ("GET" | "HEAD", _) => ("404 Not Found", "see /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    stream.write_all(head(status, body.len()).as_bytes())?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

/// Says that a map has this many keys, which are too many.
pub type Warn = Box<dyn Fn(&str, usize) + Send + Sync>;

/// What is read at each request.
pub struct Scrape {
    pub maps: MapsHandle,
    /// With the names that it has found; one scrape at a time uses them.
    pub context: Mutex<Context>,
    /// What the script says about its maps, and its name.
    pub mentions: Vec<Mention>,
    pub name: String,
    pub counters: Counters,
    /// Series of one map at most.
    pub limit: usize,
    /// Told once for each map that has more.
    pub warn: Warn,
    pub warned: Mutex<BTreeSet<String>>,
}

impl Scrape {
    /// What a script and those that it imports say about their maps.
    pub fn mentions_of<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<Mention> {
        texts.flat_map(mentions).collect()
    }

    fn text(&self) -> Result<String, Error> {
        let mut page = Page::default();
        let mut fills: Vec<(String, usize, u32)> = Vec::new();
        for (spec, map) in self.maps.own()? {
            let MapRole::User { name, key, value, .. } = &spec.role else {
                continue;
            };
            let snapshot = map.snapshot(name, key.as_ref(), value, false).map_err(Error::Sys)?;
            if key.is_some() {
                fills.push((name.clone(), snapshot.rows.len(), spec.max_entries));
            }
            self.map(&snapshot, None, &mut page);
        }
        for (name, decl) in self.maps.declared() {
            if let Some(snapshot) = self.maps.snapshot(&name)? {
                self.map(&snapshot, Some(decl), &mut page);
            }
        }
        let losses = self.counters.0.lock().unwrap_or_else(PoisonError::into_inner);
        page.family("weir_map_entries", "gauge", "Keys in a map of the script");
        for (name, entries, _) in &fills {
            page.sample("weir_map_entries", &[("map", name)], &entries.to_string());
        }
        page.family("weir_map_max_entries", "gauge", "Keys that a map of the script has room for");
        for (name, _, max) in &fills {
            page.sample("weir_map_max_entries", &[("map", name)], &max.to_string());
        }
        page.family("weir_map_refused_updates_total", "counter", "Updates that a full map refused");
        for (name, _, _) in &fills {
            let refused = losses.refused.get(name).copied().unwrap_or(0);
            page.sample("weir_map_refused_updates_total", &[("map", name)], &refused.to_string());
        }
        page.family("weir_lost_events_total", "counter", "Events that did not fit into the ring buffer");
        page.sample("weir_lost_events_total", &[], &losses.events.to_string());
        page.family(
            "weir_lost_captures_total",
            "counter",
            "Captured packets that did not fit into the ring buffer",
        );
        page.sample("weir_lost_captures_total", &[], &losses.captures.to_string());
        if !page.left_out.is_empty() {
            page.family(
                "weir_series_left_out",
                "gauge",
                "Keys of a map that are not shown, since there are more than the limit",
            );
            for (name, n) in std::mem::take(&mut page.left_out) {
                page.sample("weir_series_left_out", &[("map", &name)], &n.to_string());
            }
        }
        Ok(page.out)
    }

    /// Writes one map; of a native's, its declaration says what is what. The largest values stay when there are too many.
    fn map(&self, snapshot: &Snapshot, decl: Option<&MapDecl>, page: &mut Page) {
        let left_out = snapshot.rows.len().saturating_sub(self.limit);
        let rows = &snapshot.rows[left_out..];
        if left_out > 0 {
            page.left_out.push((snapshot.name.clone(), left_out));
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.insert(snapshot.name.clone()) {
                (self.warn)(&snapshot.name, snapshot.rows.len());
            }
        }
        let mention = self.mentions.iter().find(|m| m.map == snapshot.name);
        let help = mention.and_then(|m| m.comment.clone());
        let help = help.unwrap_or_else(|| format!("{} of {}", snapshot.name, self.name));
        let names = match decl {
            Some(decl) => decl.shape.key_names().into_iter().map(word).collect(),
            None => label_names(mention.map_or(&[], |m| &m.key), snapshot.key.as_ref()),
        };
        let ctx = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        match decl {
            Some(decl) if !decl.levels.is_empty() => page.levels(snapshot, rows, decl.levels, &help, &names, &ctx),
            _ => page.map(snapshot, rows, &help, &names, &ctx),
        }
    }
}

/// A page in the making.
#[derive(Default)]
struct Page {
    out: String,
    /// Names that are taken.
    families: BTreeSet<String>,
    left_out: Vec<(String, usize)>,
}

impl Page {
    /// Starts a metric; returns the name that it has on the page.
    fn family(&mut self, name: &str, kind: &str, help: &str) -> String {
        let mut name = name.to_owned();
        while !self.families.insert(name.clone()) {
            name.push('_');
        }
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a `String` cannot fail, here and below.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        name
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.out.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.out, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{close} {value}");
    }

    /// Writes a native's numbers, of which some go up and down: a counter and a gauge.
    fn levels(&mut self, snapshot: &Snapshot, rows: &[Row], levels: &[&str], help: &str, names: &[String], ctx: &Context) {
        let base = metric_name(&snapshot.name);
        let labelled = rows.iter().map(|row| (row, labels(snapshot.key.as_ref(), &row.key, names, ctx)));
        let is_level = |labels: &[(String, String)]| labels.iter().any(|(_, text)| levels.contains(&text.as_str()));
        let (now, counted): (Vec<_>, Vec<_>) = labelled.partition(|(_, labels)| is_level(labels));
        for (name, kind, rows) in [(base.clone(), "gauge", now), (format!("{base}_total"), "counter", counted)] {
            if rows.is_empty() {
                continue;
            }
            let name = self.family(&name, kind, help);
            rows.iter().for_each(|(row, labels)| self.number(&name, labels, &row.value));
        }
    }

    fn map(&mut self, snapshot: &Snapshot, rows: &[Row], help: &str, names: &[String], ctx: &Context) {
        let base = metric_name(&snapshot.name);
        let mut labels: Vec<Vec<(String, String)>> = rows.iter().map(|row| labels(snapshot.key.as_ref(), &row.key, names, ctx)).collect();
        number_the_same(rows, &mut labels);
        let rows = || rows.iter().zip(&labels);
        match &snapshot.value {
            MapValue::Count | MapValue::Sum { signed: false } => {
                let name = self.family(&format!("{base}_total"), "counter", help);
                rows().for_each(|(row, labels)| self.number(&name, labels, &row.value));
            }
            MapValue::Sum { .. } | MapValue::Min { .. } | MapValue::Max { .. } => {
                let name = self.family(&base, "gauge", help);
                rows().for_each(|(row, labels)| self.number(&name, labels, &row.value));
            }
            MapValue::Avg { .. } | MapValue::Stats { .. } => {
                let name = self.family(&base, "summary", help);
                for (row, labels) in rows() {
                    if let Cell::Stats { sum, count } = &row.value {
                        self.labelled(&format!("{name}_sum"), labels, None, &sum.to_string());
                        self.labelled(&format!("{name}_count"), labels, None, &count.to_string());
                    }
                }
            }
            kind @ (MapValue::Hist { .. } | MapValue::LHist { .. }) => {
                let name = self.family(&base, "histogram", help);
                for (row, labels) in rows() {
                    if let Cell::Hist(counts) = &row.value {
                        self.histogram(&name, labels, kind, counts);
                    }
                }
            }
            MapValue::TSeries { .. } => {
                let name = self.family(&base, "gauge", help);
                for (row, labels) in rows() {
                    if let Cell::Series(points) = &row.value
                        && let Some(last) = points.last()
                    {
                        self.labelled(&name, labels, None, &last.value.to_string());
                    }
                }
            }
            MapValue::Plain(ty) => {
                for (suffix, offset, ty) in parts(ty) {
                    let name = self.family(&format!("{base}{suffix}"), "gauge", help);
                    for (row, labels) in rows() {
                        if let Cell::Plain(bytes) = &row.value {
                            let end = (offset + ty.size()) as usize;
                            let bytes = bytes.get(offset as usize..end).unwrap_or_default();
                            self.plain(&name, labels, ty, bytes, ctx);
                        }
                    }
                }
            }
        }
    }

    fn labelled(&mut self, name: &str, labels: &[(String, String)], extra: Option<(&str, &str)>, value: &str) {
        let mut all: Vec<(&str, &str)> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        all.extend(extra);
        self.sample(name, &all, value);
    }

    fn number(&mut self, name: &str, labels: &[(String, String)], cell: &Cell) {
        if let Cell::Int(n) = cell {
            self.labelled(name, labels, None, &n.to_string());
        }
    }

    /// A number, or what is none as the label `value` of a 1.
    fn plain(&mut self, name: &str, labels: &[(String, String)], ty: &Type, bytes: &[u8], ctx: &Context) {
        let number = match ty {
            Type::Int { signed: true, .. } | Type::Enum { .. } => Some(sint(bytes).to_string()),
            Type::Int { .. } | Type::Bool => Some(uint(bytes).to_string()),
            _ => None,
        };
        match number {
            Some(number) => self.labelled(name, labels, None, &number),
            None => self.labelled(name, labels, Some(("value", &shown(ty, bytes, ctx))), "1"),
        }
    }

    /// Buckets of whole numbers: below `high` is at most `high - 1`. The kernel keeps no sum, so none is given.
    fn histogram(&mut self, name: &str, labels: &[(String, String)], kind: &MapValue, counts: &[u64]) {
        let all = vec![1; counts.len()];
        let bounds = hist::buckets(kind, &all);
        let last = counts.iter().rposition(|c| *c != 0).unwrap_or(0);
        let mut below = 0;
        for (bound, count) in bounds.iter().zip(counts).take(last + 1) {
            below += count;
            if let Some(high) = bound.high {
                self.labelled(
                    &format!("{name}_bucket"),
                    labels,
                    Some(("le", &(high - 1).to_string())),
                    &below.to_string(),
                );
            }
        }
        self.labelled(&format!("{name}_bucket"), labels, Some(("le", "+Inf")), &below.to_string());
        self.labelled(&format!("{name}_count"), labels, None, &below.to_string());
    }
}

/// The parts of a value that are metrics of their own: suffix, offset and type.
fn parts(ty: &Type) -> Vec<(String, u32, &Type)> {
    let names: Vec<String> = match ty {
        Type::Record(fields) => fields.iter().map(|(name, _)| format!("_{}", word(name))).collect(),
        Type::Tuple(fields) => (0..fields.len()).map(|i| format!("_{i}")).collect(),
        _ => return vec![(String::new(), 0, ty)],
    };
    let fields = names.into_iter().zip(ty.field_offsets()).zip(ty.fields());
    fields.map(|((name, offset), ty)| (name, offset, ty)).collect()
}

fn shown(ty: &Type, bytes: &[u8], ctx: &Context) -> String {
    let mut out = Vec::new();
    value::text(ty, bytes, ctx, &mut out);
    let text = String::from_utf8_lossy(&out);
    match ty {
        // A line for each frame, the innermost first; flame graphs are drawn from one line with the outermost first.
        Type::KStack { .. } | Type::UStack { .. } => {
            let frames = text.lines().map(str::trim).filter(|frame| !frame.is_empty());
            frames.rev().collect::<Vec<_>>().join(";")
        }
        _ => text.into_owned(),
    }
}

/// `@dns` is `weir_dns`, `@bl.hits` is `weir_bl_hits`, `@` is `weir_map`.
fn metric_name(map: &str) -> String {
    match map.trim_start_matches('@') {
        "" => "weir_map".to_owned(),
        name => format!("weir_{}", word(name)),
    }
}

fn word(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// The labels of one key.
/// Tells keys apart that differ in what is not shown: user stacks of two processes that run the same program. By the keys, so that a
/// series keeps its number while others overtake it.
fn number_the_same(rows: &[Row], labels: &mut [Vec<(String, String)>]) {
    let mut by_key: Vec<usize> = (0..rows.len()).collect();
    by_key.sort_by(|a, b| rows[*a].key.cmp(&rows[*b].key));
    let mut seen: BTreeMap<Vec<(String, String)>, usize> = BTreeMap::new();
    for row in by_key {
        let n = seen.entry(labels[row].clone()).or_default();
        *n += 1;
        if *n > 1 {
            labels[row].push(("nth".to_owned(), n.to_string()));
        }
    }
}

fn labels(ty: Option<&Type>, bytes: &[u8], names: &[String], ctx: &Context) -> Vec<(String, String)> {
    let Some(ty) = ty else { return Vec::new() };
    let fields = match ty {
        Type::Tuple(_) => ty.fields().into_iter().zip(ty.field_offsets()).collect(),
        _ => vec![(ty, 0)],
    };
    let text = fields.iter().map(|(ty, offset)| {
        let end = (offset + ty.size()) as usize;
        shown(ty, bytes.get(*offset as usize..end).unwrap_or_default(), ctx)
    });
    names.iter().cloned().zip(text).collect()
}

/// What the parts of a key are called where the script first writes them: `ip.src` is `ip_src`, `$daddr` is `daddr`,
/// `ntop(args.daddr)` is `args_daddr`; what has no such name, or twice the same, is `key0`, `key1` …
fn label_names(written: &[String], key: Option<&Type>) -> Vec<String> {
    let count = match key {
        None => return Vec::new(),
        Some(Type::Tuple(fields)) => fields.len(),
        Some(_) => 1,
    };
    let numbered = || (0..count).map(|i| format!("key{i}")).collect();
    if written.len() != count {
        return numbered();
    }
    let names: Vec<String> = written
        .iter()
        .enumerate()
        .map(|(i, key)| key_name(key).unwrap_or_else(|| format!("key{i}")))
        .collect();
    if names.iter().collect::<BTreeSet<_>>().len() == count {
        names
    } else {
        numbered()
    }
}

fn key_name(key: &str) -> Option<String> {
    let key = key.trim();
    let inner = match key.split_once('(') {
        // `ntop(x)`, `str(x)`: what is shown is x.
        Some((_, rest)) => rest.strip_suffix(')')?,
        None => key,
    };
    let path = inner.trim_start_matches('$');
    let plain = !path.is_empty()
        && path
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '>'));
    let name = word(&path.replace("->", "_"));
    // `le`, `nth` and `value` are ours.
    (plain && name.starts_with(|c: char| c.is_ascii_alphabetic()) && !matches!(name.as_str(), "le" | "nth" | "value")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(value: MapValue, rows: Vec<Row>) -> Snapshot {
        Snapshot {
            name: "@x".to_owned(),
            key: None,
            value,
            rows,
        }
    }

    fn page(value: MapValue, cell: Cell) -> String {
        let rows = vec![Row {
            key: Vec::new(),
            value: cell,
        }];
        let snapshot = snapshot(value, rows);
        let mut page = Page::default();
        page.map(&snapshot, &snapshot.rows, "what \\ it\nis", &[], &Context::default());
        page.out
    }

    #[test]
    fn each_kind_of_map_is_a_kind_of_metric() {
        assert_eq!(
            page(MapValue::Count, Cell::Int(5)),
            "# HELP weir_x_total what \\\\ it\\nis\n# TYPE weir_x_total counter\nweir_x_total 5\n"
        );
        assert!(page(MapValue::Min { signed: true }, Cell::Int(-5)).ends_with("# TYPE weir_x gauge\nweir_x -5\n"));
        assert!(page(MapValue::Avg { signed: true }, Cell::Stats { sum: 10, count: 4 }).ends_with("weir_x_sum 10\nweir_x_count 4\n"));
        let mut counts = vec![0; 66];
        (counts[1], counts[4]) = (2, 3);
        let text = page(MapValue::Hist { bits: 0 }, Cell::Hist(counts));
        assert!(
            text.ends_with(
                "histogram\nweir_x_bucket{le=\"-1\"} 0\nweir_x_bucket{le=\"0\"} 2\nweir_x_bucket{le=\"1\"} 2\nweir_x_bucket{le=\"3\"} 2\n\
                 weir_x_bucket{le=\"7\"} 5\nweir_x_bucket{le=\"+Inf\"} 5\nweir_x_count 5\n"
            ),
            "{text}"
        );
        let text = page(MapValue::LHist { min: 0, max: 20, step: 10 }, Cell::Hist(vec![1, 2, 0, 4]));
        assert!(
            text.ends_with("_bucket{le=\"-1\"} 1\nweir_x_bucket{le=\"9\"} 3\nweir_x_bucket{le=\"19\"} 3\nweir_x_bucket{le=\"+Inf\"} 7\nweir_x_count 7\n"),
            "{text}"
        );
        let text = page(MapValue::Plain(Type::Str { cap: 8 }), Cell::Plain(b"a\"b\0\0\0\0\0".to_vec()));
        assert!(text.ends_with("weir_x{value=\"a\\\"b\"} 1\n"), "{text}");
    }

    #[test]
    fn keys_that_read_the_same_keep_their_numbers() {
        let row = |key: &[u8]| Row {
            key: key.to_vec(),
            value: Cell::Int(0),
        };
        let same = vec![("ustack".to_owned(), "main".to_owned())];
        let other = vec![("ustack".to_owned(), "idle".to_owned())];
        let numbered = |rows: &[Row], mut labels: Vec<Vec<(String, String)>>| {
            number_the_same(rows, &mut labels);
            let mut nth: Vec<_> = rows
                .iter()
                .zip(&labels)
                .map(|(r, l)| (r.key.clone(), l.get(1).map(|l| l.1.clone())))
                .collect();
            nth.sort();
            nth
        };
        let first = numbered(&[row(b"1"), row(b"2"), row(b"3")], vec![same.clone(), other.clone(), same.clone()]);
        assert_eq!(
            first,
            [(b"1".to_vec(), None), (b"2".to_vec(), None), (b"3".to_vec(), Some("2".to_owned()))]
        );
        assert_eq!(numbered(&[row(b"3"), row(b"2"), row(b"1")], vec![same.clone(), other, same]), first);
    }

    #[test]
    fn names_are_the_scripts() {
        let names = |key: &[&str]| {
            let written: Vec<String> = key.iter().map(|k| (*k).to_owned()).collect();
            label_names(&written, Some(&Type::Tuple(vec![Type::I64; key.len().max(2)])))
        };
        assert_eq!(
            names(&["ip.src", "$d", "ntop(args.daddr)", "tid+1"]),
            ["ip_src", "d", "args_daddr", "key3"]
        );
        assert_eq!(names(&["comm", "comm"]), ["key0", "key1"]);
        assert_eq!(names(&["value", "$x->y"]), ["key0", "x_y"]);
        assert_eq!(names(&[]), ["key0", "key1"]);
        assert_eq!(label_names(&[], Some(&Type::I64)), ["key0"]);
        assert_eq!(
            (metric_name("@"), metric_name("@bl.hits")),
            ("weir_map".into(), "weir_bl_hits".into())
        );
    }

    #[test]
    fn addresses() {
        assert_eq!(address(":9464").unwrap().to_string(), "0.0.0.0:9464");
        assert_eq!(address("9464").unwrap().port(), 9464);
        assert_eq!(address("[::1]:1").unwrap().to_string(), "[::1]:1");
        assert!(address("localhost").unwrap_err().contains("127.0.0.1:9464"));
    }
}
