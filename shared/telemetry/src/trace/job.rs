//! A job's attempt as a span.
//!
//! Every attempt is a child of the work that enqueued the job, and linked to the attempt before. So
//! that the link needs no storing, the id of an attempt's span follows from the job and the lease's
//! epoch, which rises with every claim. Attempts that never ran (claimed by a worker that died
//! first) leave a link to a span that nobody recorded.

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState};
use opentelemetry::{KeyValue, Value};
use sha2::{Digest as _, Sha256};

use super::export::FixedIds;
use super::{RECORDER, Start, Work, parse, start};

/// What a job's span tells.
#[derive(Clone, Copy, Debug)]
pub struct JobFacts<'a> {
    /// The job's id.
    pub id: i64,
    /// Its type; the span's name.
    pub kind: &'a str,
    /// The queue it came from.
    pub queue: &'a str,
    /// The run it works for.
    pub run_id: Option<i64>,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// The lease's epoch.
    pub epoch: i64,
    /// When it was enqueued, in microseconds since 1970.
    pub created_at_us: i64,
    /// The context it carries.
    pub traceparent: Option<&'a str>,
}

/// The work of one attempt of a job. A job without a context begins a trace, the same for all its
/// attempts.
pub fn job(facts: &JobFacts<'_>) -> Work {
    let parent = facts.traceparent.and_then(parse);
    let Some(recorder) = RECORDER.get() else { return Work::passed_on(parent) };
    let trace_id = parent.as_ref().map_or_else(|| facts.trace_id(), SpanContext::trace_id);
    let before = (facts.epoch > 1).then(|| {
        let span_id = facts.span_id(trace_id, facts.epoch - 1);
        let flags = parent.as_ref().map_or(TraceFlags::SAMPLED, SpanContext::trace_flags);
        SpanContext::new(trace_id, span_id, flags, true, TraceState::default())
    });
    let ids = FixedIds::of(trace_id, facts.span_id(trace_id, facts.epoch));
    start(
        recorder,
        Start {
            name: facts.kind.to_owned(),
            kind: SpanKind::Consumer,
            parent,
            link: before,
            ids,
            facts: facts.attributes(),
        },
    )
}

impl JobFacts<'_> {
    fn attributes(&self) -> Vec<KeyValue> {
        let mut facts = vec![
            KeyValue::new("messaging.system", "relevo"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", Value::from(self.queue.to_owned())),
            KeyValue::new("relevo.job.id", self.id),
            KeyValue::new("relevo.job.kind", Value::from(self.kind.to_owned())),
            KeyValue::new("relevo.job.attempt", i64::from(self.attempt)),
            KeyValue::new("relevo.job.epoch", self.epoch),
        ];
        facts.extend(self.run_id.map(|run_id| KeyValue::new("relevo.run.id", run_id)));
        facts
    }

    fn trace_id(&self) -> TraceId {
        let hash = Sha256::new()
            .chain_update(self.id.to_be_bytes())
            .chain_update(self.created_at_us.to_be_bytes())
            .chain_update(self.kind)
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        TraceId::from_bytes(bytes)
    }

    fn span_id(&self, trace_id: TraceId, epoch: i64) -> SpanId {
        let hash = Sha256::new()
            .chain_update(trace_id.to_bytes())
            .chain_update(self.id.to_be_bytes())
            .chain_update(epoch.to_be_bytes())
            .finalize();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash[..8]);
        SpanId::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_share_a_trace_and_differ_in_their_spans() {
        let facts = JobFacts {
            id: 7,
            kind: "Noop",
            queue: "default",
            run_id: None,
            attempt: 2,
            epoch: 3,
            created_at_us: 1_700_000_000_000_000,
            traceparent: None,
        };
        let later = JobFacts { attempt: 3, epoch: 4, ..facts };
        let other = JobFacts { id: 8, ..facts };
        let trace_id = facts.trace_id();
        assert_eq!(later.trace_id(), trace_id);
        assert_ne!(other.trace_id(), trace_id);
        assert_eq!(later.span_id(trace_id, 3), facts.span_id(trace_id, 3));
        assert_ne!(later.span_id(trace_id, 4), facts.span_id(trace_id, 3));
        assert_ne!(other.span_id(trace_id, 3), facts.span_id(trace_id, 3));
    }
}
