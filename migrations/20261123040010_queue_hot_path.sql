-- Indexes of the queue whose entries are only those a statement may take: a claim, a probe, staging
-- and rescue read what they use, whatever else the table holds.
--
-- Made under other names first: until the moment of the exchange the table can be read, so that the
-- heartbeats of workers that go on are answered.

-- Led by what a worker must know to claim: jobs of other kinds, versions and queues are not passed.
CREATE INDEX job_claim_by_kind
    ON relevo.job (queue, kind, payload_version, priority DESC, run_at, id)
    WHERE state = 'available';

-- By queue, so that the depth of one queue is read from its own entries; staging and its look go
-- from queue to queue.
CREATE INDEX job_due_by_queue ON relevo.job (queue, run_at)
    WHERE state IN ('scheduled', 'retryable');

-- Only running jobs: what is taken back from a dead session, and what a claim without an answer took.
CREATE INDEX job_running ON relevo.job (session_id) WHERE state = 'running';
COMMENT ON INDEX relevo.job_running IS 'The running jobs of each session.';

DROP INDEX relevo.job_claim;
ALTER INDEX relevo.job_claim_by_kind RENAME TO job_claim;
COMMENT ON INDEX relevo.job_claim IS
    'The claim order of each queue, kind and payload version; holds nothing but claimable jobs.';

DROP INDEX relevo.job_due;
ALTER INDEX relevo.job_due_by_queue RENAME TO job_due;
COMMENT ON INDEX relevo.job_due IS 'What staging moves to available, earliest first in each queue.';
