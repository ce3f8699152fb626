//! Traces: what belongs together, from a request or a schedule through every job of a run.
//!
//! A job carries the `traceparent` of whoever enqueued it. [`current_traceparent`] gives it: the
//! functions that make a job ask for it, so that nobody has to pass it on. What sets it is a
//! [`Work`], one for each HTTP request ([`trace_http`]), job ([`job`]), fire of a schedule or
//! command ([`root`]).
//!
//! Without a collector nothing is recorded and a `Work` is empty; only a `traceparent` that came
//! from outside is passed on. docs/tracing.md tells what the spans hold.

mod export;
mod http;
mod job;

use std::sync::OnceLock;
use std::time::Duration;

use futures::future::Either;
use opentelemetry::trace::{
    FutureExt as _, Link, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};

pub use self::export::{TraceError, init};
pub use self::http::trace_http;
pub use self::job::{JobFacts, job};

/// How long the last spans may take to leave when a process ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

static RECORDER: OnceLock<export::Recorder> = OnceLock::new();

/// Whether this process records traces.
pub fn is_on() -> bool {
    RECORDER.get().is_some()
}

/// Sends what is recorded and not sent yet, within 3 s; what doesn't leave in that time is lost.
/// Nothing is recorded after it.
pub async fn shutdown() {
    if let Some(recorder) = RECORDER.get() {
        recorder.shutdown(SHUTDOWN_TIMEOUT).await;
    }
}

/// The context that a job made now has to carry: the current work's, in the form of the header
/// `traceparent`.
pub fn current_traceparent() -> Option<String> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| {
            format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags())
        })
    })
}

/// The trace id inside a `traceparent`.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    parse(traceparent).and_then(|_| traceparent.get(3..35))
}

/// Reads a `traceparent` of version 00; others are left out, as the standard wants.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = traceparent.split('-');
    let version = parts.next()?;
    let (trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = version == "00"
        && hex(trace_id, 32)
        && hex(span_id, 16)
        && hex(flags, 2)
        && parts.next().is_none();
    if !fits {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace_id).ok()?,
        SpanId::from_hex(span_id).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

/// A piece of work in a trace, or nothing at all where traces are off.
#[derive(Clone, Debug, Default)]
#[must_use = "work is recorded by run()"]
pub struct Work(Option<Context>);

impl Work {
    /// Runs the future as this work: jobs that it makes belong to the trace. The work ends with
    /// it; a future that is dropped before its end is recorded as failed.
    pub fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        let Some(context) = self.0 else { return Either::Left(future) };
        let ending = Ending { context: context.clone(), reached: false };
        let future = future.with_context(context);
        Either::Right(async move {
            let output = future.await;
            ending.reach();
            output
        })
    }

    /// Adds a fact that was not known at the start.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Says that the work failed, and why; secrets are taken out.
    pub fn fail(&self, reason: &str) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(crate::redact::text(reason).into_owned()));
        }
    }

    /// Whether anything is recorded: facts that cost something need not be gathered otherwise.
    pub fn is_recorded(&self) -> bool {
        self.0.as_ref().is_some_and(|context| context.span().is_recording())
    }

    /// The id of the trace, for a log line.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.0.as_ref().map(|context| context.span().span_context().trace_id())
    }

    /// Passes a context on without recording anything.
    fn passed_on(parent: Option<SpanContext>) -> Self {
        Self(parent.map(|parent| Context::new().with_remote_span_context(parent)))
    }
}

/// Runs the future in a trace that is known by its `traceparent`, without recording it.
pub fn within<F: Future>(
    traceparent: Option<&str>,
    future: F,
) -> impl Future<Output = F::Output> + use<F> {
    match traceparent.and_then(parse) {
        Some(parent) => {
            Either::Right(future.with_context(Context::new().with_remote_span_context(parent)))
        }
        None => Either::Left(future),
    }
}

/// Ends the span whatever becomes of the future.
struct Ending {
    context: Context,
    reached: bool,
}

impl Ending {
    fn reach(mut self) {
        self.reached = true;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let span = self.context.span();
        if !self.reached {
            span.set_status(Status::error("stopped from outside, or a panic"));
        }
        span.end();
    }
}

/// What a span is made of.
struct Start {
    name: String,
    kind: SpanKind,
    parent: Option<SpanContext>,
    link: Option<SpanContext>,
    /// Ids that are fixed beforehand.
    ids: export::FixedIds,
    facts: Vec<KeyValue>,
}

fn start(recorder: &export::Recorder, start: Start) -> Work {
    let parent = Start::parent_context(start.parent);
    let mut builder =
        SpanBuilder::from_name(start.name).with_kind(start.kind).with_attributes(start.facts);
    if let Some(link) = start.link {
        builder = builder.with_links(vec![Link::with_context(link)]);
    }
    let span = start.ids.hold(|| recorder.tracer().build_with_context(builder, &parent));
    Work(Some(parent.with_span(span)))
}

impl Start {
    fn parent_context(parent: Option<SpanContext>) -> Context {
        match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        }
    }
}

/// Work that begins a trace: a schedule's fire, a command.
pub fn root<const N: usize>(
    name: &str,
    facts: impl FnOnce() -> [(&'static str, Value); N],
) -> Work {
    let Some(recorder) = RECORDER.get() else { return Work::default() };
    start(
        recorder,
        Start {
            name: name.to_owned(),
            kind: SpanKind::Internal,
            parent: None,
            link: None,
            ids: export::FixedIds::default(),
            facts: facts().into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_a_valid_traceparent_is_taken() {
        assert_eq!(trace_id(PARENT), Some("0af7651916cd43dd8448eb211c80319c"));
        for bad in [
            "",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-02",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033é-01",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_came_from_outside_is_passed_on_where_nothing_is_recorded() {
        assert_eq!(current_traceparent(), None);
        let work = Work::passed_on(parse(PARENT));
        assert!(!work.is_recorded());
        let inside = work.run(async {
            tokio::task::yield_now().await;
            current_traceparent()
        });
        assert_eq!(inside.await.as_deref(), Some(PARENT));
        assert_eq!(current_traceparent(), None);
        assert_eq!(Work::default().run(async { current_traceparent() }).await, None);
    }
}
