//! What is said about the end of a run.

use relevo_runs::{Run, RunState};
use serde_json::{Value, json};

/// A message: a sentence for people, and the same for machines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    /// One line.
    pub(crate) text: String,
    /// A JSON object whose `text` Slack and its like show.
    pub(crate) body: Value,
}

/// What to say about an ended run; `email` names who else is to hear of it.
pub(crate) fn compose(run: &Run, email: Option<&str>) -> Message {
    let duration = run.finished_at.map(|end| end - run.started_at.unwrap_or(run.created_at));
    let duration_seconds = duration.map(|duration| duration.num_seconds().max(0));
    let took = duration_seconds.map(|seconds| format!(" after {seconds} s")).unwrap_or_default();
    let text = match run.state {
        RunState::Succeeded => {
            let number = |name: &str| run.stats.get(name).and_then(Value::as_u64).unwrap_or(0);
            format!(
                "{} of {}: run {} succeeded{took}: {} rows in {} tables",
                run.pipeline,
                run.source,
                run.id,
                number("rows"),
                number("tables")
            )
        }
        RunState::Failed => format!(
            "{} of {}: run {} FAILED{took}; {}. {}",
            run.pipeline,
            run.source,
            run.id,
            if run.is_undecided() {
                "whether the target shows the previous data or the new ones is not known"
            } else {
                "the previous data are untouched"
            },
            run.error.as_deref().unwrap_or("No reason was recorded.")
        ),
        RunState::Pending | RunState::Running | RunState::Cancelled => format!(
            "{} of {}: run {} was {}{took}; the previous data are untouched",
            run.pipeline, run.source, run.id, run.state
        ),
    };
    let body = json!({
        "text": text,
        "event": format!("run.{}", run.state),
        "run_id": run.id,
        "pipeline": run.pipeline,
        "source": run.source,
        "state": run.state,
        "trigger": run.trigger,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "duration_seconds": duration_seconds,
        "stats": run.stats,
        "error": run.error,
        "email": email,
    });
    Message { text, body }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use relevo_runs::RunId;

    use super::*;

    fn run(state: RunState) -> Run {
        let at = DateTime::from_timestamp(1_700_000_000, 0).expect("a moment");
        Run {
            id: RunId(7),
            incarnation: 1,
            pipeline: "backup".to_owned(),
            source: "sicar".to_owned(),
            state,
            phase: "finish".to_owned(),
            trigger: "cli".to_owned(),
            traceparent: None,
            options: json!({}),
            notes: json!({}),
            created_at: at,
            started_at: Some(at),
            finished_at: Some(at + TimeDelta::seconds(90)),
            updated_at: at,
            progress: None,
            stats: json!({ "rows": 1_082_334, "tables": 9 }),
            certificate: None,
            error: (state == RunState::Failed).then(|| "the gateway refused the key".to_owned()),
            cancel_requested: false,
            cleaned_at: None,
            rolled_back_at: None,
            rolled_back_by: None,
        }
    }

    #[test]
    fn a_message_says_what_happened_to_people_and_machines() {
        let message = compose(&run(RunState::Succeeded), Some("ops@example.com"));
        assert_eq!(
            message.text,
            "backup of sicar: run 7 succeeded after 90 s: 1082334 rows in 9 tables"
        );
        assert_eq!(message.body["event"], "run.succeeded");
        assert_eq!(message.body["email"], "ops@example.com");
        let message = compose(&run(RunState::Failed), None);
        assert!(message.text.contains("FAILED after 90 s"), "{}", message.text);
        assert!(message.text.contains("refused the key"), "{}", message.text);
    }
}
