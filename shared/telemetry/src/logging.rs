//! Log lines on standard error and, where one is named, in a file: one line per event, readable
//! alone, with fields, without secrets.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::sync::Arc;

use relevo_settings::{LogFormat, Telemetry};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::redact;
use crate::rotating::RotatingFile;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level or the directives don't parse.
    #[error(
        "`{filter}` is not a log filter; write a level, or directives such as info,relevo_worker=debug"
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// The parser's explanation.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The log file can't be written to.
    #[error("the log file {} can't be opened", path.display())]
    File {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Logging is already set up in this process.
    #[error("logging is already set up")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Libraries whose debug lines drown ours; a bare `debug` or `trace` means our own.
const CHATTY: [&str; 9] =
    ["h2", "hyper", "hyper_util", "mio", "reqwest", "rustls", "sqlx", "tokio", "tower"];

/// Sets up logging for the whole process, as the settings say. A panic becomes a log line too.
/// Secrets told by [`redact::hide`] appear in no line.
///
/// # Errors
/// [`LoggingError`] when the level doesn't parse, when the log file can't be opened, or when called
/// a second time.
pub fn init_logging(settings: &Telemetry) -> Result<(), LoggingError> {
    let filter = parse(&settings.log_level)?;
    let file = settings.log_file.clone().map(|path| {
        let size_max_bytes = settings.log_max_size_mb.saturating_mul(1 << 20);
        RotatingFile::open(path.clone(), size_max_bytes, settings.log_max_files)
            .map(Arc::new)
            .map_err(|source| LoggingError::File { path, source })
    });
    let output = Output { file: file.transpose()? };
    // An event is formed once for both, and colours have no place in a file.
    let ansi = output.file.is_none() && io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    match settings.log_format {
        LogFormat::Json => registry.with(json_layer(output)).try_init()?,
        LogFormat::Text => registry.with(text_layer(output, ansi)).try_init()?,
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(location, "a task panicked: {message}");
    }));
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    let bare = filter.trim().to_ascii_lowercase();
    let quiet = if matches!(bare.as_str(), "debug" | "trace") { &CHATTY[..] } else { &[] };
    let directives =
        quiet.iter().fold(filter.trim().to_owned(), |list, name| format!("{list},{name}=info"));
    EnvFilter::try_new(directives)
        .map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

fn text_layer<S, W>(writer: W, ansi: bool) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(ansi)
}

fn json_layer<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .with_writer(writer)
}

/// Standard error and the log file.
#[derive(Clone)]
struct Output {
    file: Option<Arc<RotatingFile>>,
}

impl<'w> MakeWriter<'w> for Output {
    type Writer = OneLineWriter<Both<'w>>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLineWriter(Both { file: self.file.as_deref() })
    }
}

struct Both<'w> {
    file: Option<&'w RotatingFile>,
}

impl Write for Both<'_> {
    /// The file gets the line also when nobody reads standard error any more.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let shown = io::stderr().write_all(line);
        if let Some(file) = self.file {
            file.write_line(line)?;
        }
        shown.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// One line per event: line breaks inside a message are written as `\n`, so that no message can
/// pass for two. Secrets are taken out before.
struct OneLineWriter<W>(W);

impl<W: Write> Write for OneLineWriter<W> {
    /// The layer hands over each event in one piece, its final line break included.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let clean = redact::bytes(event);
        let body = clean.strip_suffix(b"\n").unwrap_or(&clean);
        if body.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            let mut line = Vec::with_capacity(clean.len() + 16);
            for byte in body {
                match byte {
                    b'\n' => line.extend_from_slice(b"\\n"),
                    b'\r' => line.extend_from_slice(b"\\r"),
                    other => line.push(*other),
                }
            }
            line.extend_from_slice(&clean[body.len()..]);
            self.0.write_all(&line)?;
        } else {
            self.0.write_all(&clean)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Captured {
        type Writer = OneLineWriter<Self>;
        fn make_writer(&'w self) -> Self::Writer {
            OneLineWriter(self.clone())
        }
    }

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn speak() {
        let span = tracing::info_span!("job", job_id = 7, run_id = 3);
        let _entered = span.enter();
        tracing::info!(duration_ms = 12, "first\nsecond");
        tracing::debug!("not at info");
    }

    #[test]
    fn a_text_event_is_one_line_with_its_spans_fields() {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::registry()
            .with(parse("info").unwrap())
            .with(text_layer(captured.clone(), false));
        tracing::subscriber::with_default(subscriber, speak);
        let text = captured.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in ["INFO", "job_id=7", "run_id=3", "first\\nsecond", "duration_ms=12"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_json_event_is_one_object_with_its_spans_fields() {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::registry()
            .with(parse("info").unwrap())
            .with(json_layer(captured.clone()));
        tracing::subscriber::with_default(subscriber, speak);
        let event: serde_json::Value = serde_json::from_str(&captured.text()).unwrap();
        assert_eq!(event["message"], "first\nsecond");
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["duration_ms"], 12);
        assert_eq!(event["spans"][0]["job_id"], 7);
    }

    #[test]
    fn a_secret_that_was_told_is_in_no_line() {
        redact::hide("postgres://app:correct-horse@db/shop");
        let captured = Captured::default();
        let subscriber = tracing_subscriber::registry()
            .with(parse("info").unwrap())
            .with(json_layer(captured.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("job", url = "postgres://app:correct-horse@db/shop");
            let _entered = span.enter();
            let error = io::Error::other("refused: correct-horse");
            tracing::error!(error = &error as &dyn std::error::Error, "no \"correct-horse\"");
        });
        let text = captured.text();
        assert!(!text.contains("correct-horse"), "{text}");
        assert_eq!(text.matches("[redacted]").count(), 3, "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = parse("info,relevo=loud").unwrap_err();
        assert!(error.to_string().contains("relevo=loud"), "{error}");
        assert!(parse("DEBUG").unwrap().to_string().contains("sqlx=info"));
    }
}
