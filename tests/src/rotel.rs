//! A real receiver of traces: Rotel, an OpenTelemetry collector, from PyPI.
//!
//! It prints every span it takes in, and that is read here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::python::programs_of;
use crate::{Process, free_port, wait_for};

/// The version whose output is read here.
const VERSION: &str = "0.0.1a15";

/// How long it may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running collector.
pub struct Rotel {
    process: Process,
    url: String,
    _folder: TempDir,
}

/// A span, as the collector understood it.
#[derive(Debug, Clone, Default)]
pub struct Span {
    /// The service it came from.
    pub service: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// The span above; empty for a root.
    pub parent_id: String,
    /// What was done.
    pub name: String,
    /// `SERVER`, `CONSUMER`, `INTERNAL`, …
    pub kind: String,
    /// `UNSET`, `OK` or `ERROR`.
    pub status: String,
    /// Why it failed.
    pub message: String,
    /// Facts, each as text.
    pub facts: BTreeMap<String, String>,
    /// Trace id and span id of each linked span.
    pub links: Vec<(String, String)>,
}

impl Rotel {
    /// Starts one, installing it first where it is missing.
    pub async fn start() -> Self {
        let program = program();
        let folder = TempDir::with_prefix("relevo-rotel-").expect("a folder for the collector");
        let http = format!("127.0.0.1:{}", free_port());
        let process = Process::program(&program)
            .args(["start", "--exporter", "blackhole"])
            .args(["--debug-log", "traces", "--debug-log-verbosity", "detailed"])
            .args(["--otlp-http-endpoint", &http])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{}", free_port())])
            .args(["--pid-file", &folder.path().join("pid").to_string_lossy()])
            .args(["--log-file", &folder.path().join("log").to_string_lossy()])
            .spawn();
        wait_for("the collector", START_TIMEOUT, async || {
            assert!(process.exited().is_none(), "it ended:\n{}", process.output());
            tokio::net::TcpStream::connect(&http).await.ok()
        })
        .await;
        Self { process, url: format!("http://{http}"), _folder: folder }
    }

    /// What to set `telemetry.otlp_endpoint` to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything it has printed.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Every span it has taken in so far.
    pub fn spans(&self) -> Vec<Span> {
        parse(&self.output())
    }

    /// Waits until the spans are such that `probe` finds what it looks for.
    pub async fn wait<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut probe: impl FnMut(&[Span]) -> Option<T>,
    ) -> T {
        wait_for(what, timeout, async || probe(&self.spans())).await
    }
}

/// Reads the collector's detailed form. Values of several lines are cut after the first.
fn parse(output: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut service = String::new();
    let mut span: Option<Span> = None;
    let mut in_links = false;
    for line in output.lines() {
        let trimmed = line.trim();
        let value =
            |line: &str| line.split_once(':').map_or("", |(_, value)| value).trim().to_owned();
        if line.starts_with("ResourceSpans #") || line.starts_with("Span #") {
            spans.extend(span.take());
            in_links = false;
            if line.starts_with("Span #") {
                span = Some(Span { service: service.clone(), ..Span::default() });
            }
            continue;
        }
        let fact = trimmed.strip_prefix("-> ").and_then(|fact| fact.split_once(": "));
        let Some(span) = &mut span else {
            if let Some(("service.name", value)) = fact {
                service = unwrapped(value);
            }
            continue;
        };
        if trimmed.starts_with("SpanLink #") {
            in_links = true;
            span.links.push((String::new(), String::new()));
        } else if let (true, Some(link), Some((name, value))) =
            (in_links, span.links.last_mut(), fact)
        {
            match name {
                "Trace ID" => link.0 = value.to_owned(),
                "ID" => link.1 = value.to_owned(),
                _ => {}
            }
        } else if let Some((name, value)) = fact {
            span.facts.insert(name.to_owned(), unwrapped(value));
        } else if let Some((name, _)) = trimmed.split_once(':') {
            match name.trim() {
                "Trace ID" => span.trace_id = value(trimmed),
                "Parent ID" => span.parent_id = value(trimmed),
                "ID" => span.id = value(trimmed),
                "Name" => span.name = value(trimmed),
                "Kind" => span.kind = value(trimmed).replace("SPAN_KIND_", ""),
                "Status code" => span.status = value(trimmed).replace("STATUS_CODE_", ""),
                "Status message" => span.message = value(trimmed),
                _ => {}
            }
        }
    }
    spans.extend(span);
    spans
}

/// `Str(text)` and `Int(7)` without their types.
fn unwrapped(value: &str) -> String {
    let inner = value.split_once('(').map_or(value, |(_, rest)| rest);
    inner.strip_suffix(')').unwrap_or(inner).to_owned()
}

/// The collector's program: the package holds it, beside a wrapper that is of no use here.
fn program() -> PathBuf {
    let programs = programs_of(&format!("rotel=={VERSION}"));
    find(&programs.with_file_name("lib")).expect("rotel-agent in what was installed")
}

/// `…/python3.*/site-packages/rotel/rotel-agent`.
fn find(lib: &Path) -> Option<PathBuf> {
    std::fs::read_dir(lib)
        .ok()?
        .flatten()
        .map(|python| python.path().join("site-packages/rotel/rotel-agent"))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_from_the_collectors_words() {
        let output = "\
ResourceSpans #0
Resource attributes:
     -> service.name: Str(relevo-x)
ScopeSpans #0
InstrumentationScope relevo
Span #0
    Trace ID       : 0af7
    Parent ID      :
    ID             : b7ad
    Name           : POST /x
    Kind           : SPAN_KIND_SERVER
Start time: 1700000000000000000
    Status code    : STATUS_CODE_ERROR
    Status message : bad: very
Attributes:
     -> relevo.job.id: Int(7)
     -> note: Str(a (b): c)
Links:
SpanLink #0
     -> Trace ID: 0af7
     -> ID: c001
Span #1
    Trace ID       : 0af8
    Name           : second
";
        let spans = parse(output);
        assert_eq!(spans.len(), 2);
        let first = &spans[0];
        assert_eq!((&*first.service, &*first.name), ("relevo-x", "POST /x"));
        assert_eq!(
            (&*first.kind, &*first.status, &*first.message),
            ("SERVER", "ERROR", "bad: very")
        );
        assert_eq!((&*first.trace_id, &*first.parent_id, &*first.id), ("0af7", "", "b7ad"));
        assert_eq!((&*first.facts["relevo.job.id"], &*first.facts["note"]), ("7", "a (b): c"));
        assert_eq!(first.links, [("0af7".to_owned(), "c001".to_owned())]);
        assert_eq!((&*spans[1].service, &*spans[1].name), ("relevo-x", "second"));
    }
}
