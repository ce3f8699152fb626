-- A state for jobs that are due and held back. In a file of its own: a value may be used only when
-- the transaction that added it has ended.

ALTER TYPE relevo.job_state ADD VALUE IF NOT EXISTS 'waiting' BEFORE 'available';
COMMENT ON TYPE relevo.job_state IS
    'scheduled: waits for run_at, first attempt or snoozed; waiting: due, held back by an ordering key or a limit; available: may be claimed; running: leased to a session; retryable: failed, waits for run_at; completed, cancelled: ended, in job_history; dead: given up, in dead_letter.';
