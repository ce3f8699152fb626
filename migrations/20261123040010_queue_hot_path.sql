-- Indexes of the queue whose entries are only those a statement may take: a claim, a probe, staging
-- and rescue read what they use, whatever else the table holds.

-- Led by what a worker must know to claim: jobs of other kinds, versions and queues are not passed.
DROP INDEX relevo.job_claim;
CREATE INDEX job_claim ON relevo.job (queue, kind, payload_version, priority DESC, run_at, id)
    WHERE state = 'available';
COMMENT ON INDEX relevo.job_claim IS
    'The claim order of each queue, kind and payload version; holds nothing but claimable jobs.';

-- By queue, so that the depth of one queue is read from its own entries; staging and its look go
-- from queue to queue.
DROP INDEX relevo.job_due;
CREATE INDEX job_due ON relevo.job (queue, run_at) WHERE state IN ('scheduled', 'retryable');
COMMENT ON INDEX relevo.job_due IS 'What staging moves to available, earliest first in each queue.';

-- Only running jobs: what is taken back from a dead session, and what a claim without an answer took.
CREATE INDEX job_running ON relevo.job (session_id) WHERE state = 'running';
COMMENT ON INDEX relevo.job_running IS 'The running jobs of each session.';
