-- Indexes of admission. Each holds only jobs with a key: other jobs pay for none of them. While they
-- are made the table can be read, so that the heartbeats of workers that go on are answered.
--
-- allow index: no job has a key yet, and a look at a million rows takes a second

CREATE UNIQUE INDEX job_turn ON relevo.job (ordering_key) WHERE in_turn;
COMMENT ON INDEX relevo.job_turn IS 'At most one job holds an ordering key.';
CREATE INDEX job_line ON relevo.job (ordering_key, id)
    WHERE state = 'waiting' AND ordering_key IS NOT NULL AND NOT in_turn;
COMMENT ON INDEX relevo.job_line IS 'Who waits behind an ordering key, the next first.';
CREATE INDEX job_limited ON relevo.job (limit_key, queue, priority DESC, run_at, id)
    WHERE state = 'waiting' AND limit_key IS NOT NULL AND (ordering_key IS NULL OR in_turn);
COMMENT ON INDEX relevo.job_limited IS
    'Who waits for room under a limit, in claim order within each queue.';
CREATE INDEX job_live ON relevo.job (limit_key)
    WHERE limit_key IS NOT NULL AND state IN ('available', 'running');
COMMENT ON INDEX relevo.job_live IS 'The jobs that take up room under a limit.';
CREATE INDEX job_waiting ON relevo.job (queue) WHERE state = 'waiting';
COMMENT ON INDEX relevo.job_waiting IS 'How many of a queue''s jobs are held back.';
CREATE INDEX dead_letter_blocks ON relevo.dead_letter (ordering_key) WHERE on_dead = 'block';
COMMENT ON INDEX relevo.dead_letter_blocks IS 'Ordering keys that a dead letter blocks.';
