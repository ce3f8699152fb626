//! Pieces of SQL that several statements share.

/// The columns that a job takes along into `job_history`, the same in both tables.
macro_rules! history_columns {
    () => {
        "id, lease_epoch, run_at, created_at, session_id, claimed_at, batch_id, run_id, attempt, \
         max_attempts, priority, deaths, max_deaths, payload_version, queue, kind, payload, \
         traceparent, last_error"
    };
}

/// The columns that a job takes along into `dead_letter`, the same in both tables.
macro_rules! dead_columns {
    () => {
        "id, lease_epoch, run_at, created_at, session_id, claimed_at, batch_id, run_id, attempt, \
         max_attempts, unique_scope, priority, deaths, max_deaths, payload_version, queue, kind, \
         payload, unique_key, traceparent, ordering_key, limit_key, on_dead"
    };
}

/// The state of a row of `relevo.job` whose time has come: who is under a limit, or has an order and
/// not the turn, is admitted first. The argument names the row, as in `"j."`.
macro_rules! ready_state {
    ($row:literal) => {
        concat!(
            "CASE WHEN ",
            $row,
            "limit_key IS NOT NULL OR (",
            $row,
            "ordering_key IS NOT NULL AND NOT ",
            $row,
            "in_turn) THEN 'waiting' ELSE 'available' END::relevo.job_state"
        )
    };
}

/// The state of a job that enters `relevo.job` at the time `$due`: as `ready_state`, for a row that
/// cannot have the turn yet.
macro_rules! entry_state {
    ($row:literal, $due:literal) => {
        concat!(
            "CASE WHEN ",
            $due,
            " > now() THEN 'scheduled' WHEN ",
            $row,
            "limit_key IS NOT NULL OR ",
            $row,
            "ordering_key IS NOT NULL THEN 'waiting' ELSE 'available' END::relevo.job_state"
        )
    };
}

pub(crate) use {dead_columns, entry_state, history_columns, ready_state};

/// The channel on which queues with new work are named.
pub(crate) const CHANNEL_JOB: &str = "relevo_job";
/// The channel on which workers are told of cancelled jobs, as "session job".
pub(crate) const CHANNEL_CONTROL: &str = "relevo_control";

/// Errors and reasons are for people: beyond this they are cut.
const TEXT_LENGTH_MAX: usize = 10_000;

/// Text as Postgres can store it: without NUL, and of a bounded length.
pub(crate) fn storable(text: &str) -> String {
    let mut end = text.len().min(TEXT_LENGTH_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = text[..end].replace('\0', "\u{fffd}");
    if end < text.len() { format!("{cut}… (cut, {} bytes in all)", text.len()) } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character_and_keeps_no_nul() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        let long = "ñ".repeat(TEXT_LENGTH_MAX);
        let cut = storable(&long);
        assert!(cut.len() < TEXT_LENGTH_MAX + 40 && cut.contains("20000 bytes in all"));
    }
}
