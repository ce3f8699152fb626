-- The durable queue: jobs, their leases, batches, keys, history and dead letters.
--
-- A job is in exactly one of relevo.job (unfinished), relevo.job_history (completed, cancelled) and
-- relevo.dead_letter. All three draw ids from one sequence. The hot table stays narrow and small:
-- finished rows leave it in the statement that finishes them. No foreign keys and no row triggers
-- on it: the statements in shared/queue keep the references, and pay once per batch, not per row.
--
-- The schema relevo exists already: making it here would ask for more rights than owning it.

CREATE TYPE relevo.job_state AS ENUM
    ('scheduled', 'available', 'running', 'retryable', 'completed', 'cancelled', 'dead');
COMMENT ON TYPE relevo.job_state IS
    'scheduled: waits for run_at, first attempt or snoozed; available: may be claimed; running: leased to a session; retryable: failed, waits for run_at; completed, cancelled: ended, in job_history; dead: given up, in dead_letter.';

CREATE TYPE relevo.unique_scope AS ENUM ('claimed', 'finished');
COMMENT ON TYPE relevo.unique_scope IS
    'How long a job holds its unique key. claimed: until a worker takes the job; finished: until the job ends.';

CREATE TYPE relevo.death_cause AS ENUM ('failed', 'exhausted', 'poison');
COMMENT ON TYPE relevo.death_cause IS
    'Why a job became a dead letter. failed: the handler said it can never succeed; exhausted: the last attempt failed; poison: too many workers died under it.';

CREATE TYPE relevo.batch_state AS ENUM ('open', 'sealed', 'completed');
COMMENT ON TYPE relevo.batch_state IS
    'open: takes members; sealed: takes no more, some member has not ended; completed: every member has ended and the completion job is enqueued.';

CREATE TYPE relevo.failed_member_policy AS ENUM ('complete', 'wait');
COMMENT ON TYPE relevo.failed_member_policy IS
    'What a dead member means to its batch. complete: it has ended; wait: it blocks the batch until retried or discarded.';

CREATE SEQUENCE relevo.job_id_seq AS bigint;
COMMENT ON SEQUENCE relevo.job_id_seq IS
    'Ids of jobs, unique over job, job_history and dead_letter.';

-- Columns are laid out widest first, so that no row carries alignment padding. Names and keys
-- compare by their bytes: that is all they are for, and several times cheaper in an index.
CREATE TABLE relevo.job (
    id                  bigint              NOT NULL DEFAULT nextval('relevo.job_id_seq'),
    lease_epoch         bigint              NOT NULL DEFAULT 0,
    run_at              timestamptz         NOT NULL DEFAULT now(),
    created_at          timestamptz         NOT NULL DEFAULT now(),
    session_id          bigint              NULL,
    claimed_at          timestamptz         NULL,
    claim_no            bigint              NULL,
    batch_id            bigint              NULL,
    run_id              bigint              NULL,
    cancel_requested_at timestamptz         NULL,
    state               relevo.job_state    NOT NULL,
    attempt             integer             NOT NULL DEFAULT 0,
    max_attempts        integer             NOT NULL,
    unique_scope        relevo.unique_scope NULL,
    priority            smallint            NOT NULL DEFAULT 0,
    deaths              smallint            NOT NULL DEFAULT 0,
    max_deaths          smallint            NOT NULL,
    payload_version     smallint            NOT NULL,
    started             boolean             NOT NULL DEFAULT false,
    queue               text COLLATE "C"    NOT NULL,
    kind                text COLLATE "C"    NOT NULL,
    payload             jsonb               NOT NULL,
    unique_key          text COLLATE "C"    NULL,
    traceparent         text                NULL,
    last_error          text                NULL,
    cancel_reason       text                NULL,
    CONSTRAINT job_pkey PRIMARY KEY (id),
    CONSTRAINT job_state_is_unfinished
        CHECK (state IN ('scheduled', 'available', 'running', 'retryable')),
    CONSTRAINT job_running_has_a_lease
        CHECK ((state = 'running') = (session_id IS NOT NULL)
           AND (state = 'running') = (claimed_at IS NOT NULL)
           AND (state = 'running') = (claim_no IS NOT NULL)),
    CONSTRAINT job_running_is_an_attempt
        CHECK (state <> 'running' OR (attempt >= 1 AND lease_epoch >= 1)),
    CONSTRAINT job_started_is_running CHECK (NOT started OR state = 'running'),
    CONSTRAINT job_cancel_requested_is_running
        CHECK (cancel_requested_at IS NULL OR state = 'running'),
    CONSTRAINT job_retryable_has_an_error CHECK (state <> 'retryable' OR last_error IS NOT NULL),
    CONSTRAINT job_counts_in_range
        CHECK (attempt >= 0 AND max_attempts >= 1 AND deaths >= 0 AND max_deaths >= 1
           AND payload_version >= 1 AND lease_epoch >= 0),
    CONSTRAINT job_unique_key_has_a_scope CHECK ((unique_key IS NULL) = (unique_scope IS NULL)),
    CONSTRAINT job_names_have_a_length
        CHECK (length(queue) BETWEEN 1 AND 100 AND length(kind) BETWEEN 1 AND 100)
) WITH (
    -- Rows live briefly and die in masses: vacuum by count, soon, and without naps.
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.2,
    autovacuum_analyze_threshold = 20000
);
COMMENT ON TABLE relevo.job IS
    'Every unfinished job. The lease of a running job is (session_id, lease_epoch); every write-back proves both.';
COMMENT ON COLUMN relevo.job.id IS 'Unique over job, job_history and dead_letter; never reused.';
COMMENT ON COLUMN relevo.job.lease_epoch IS
    'Rises by one at every claim and is never reset, so that a later lease can be told from an earlier one, in targets too.';
COMMENT ON COLUMN relevo.job.run_at IS
    'Not before this time, by this database''s clock; the claim order within a priority.';
COMMENT ON COLUMN relevo.job.created_at IS 'When the job was enqueued.';
COMMENT ON COLUMN relevo.job.session_id IS 'The worker session that holds the lease; only while running.';
COMMENT ON COLUMN relevo.job.claimed_at IS 'When the present lease began; only while running.';
COMMENT ON COLUMN relevo.job.claim_no IS
    'Which of its session''s claims took the job; only while running. A session whose claim got no answer asks by this number what it has claimed.';
COMMENT ON COLUMN relevo.job.batch_id IS 'The batch (relevo.batch) this job is a member of.';
COMMENT ON COLUMN relevo.job.run_id IS 'Opaque correlation: the run this job works for. The queue only filters by it.';
COMMENT ON COLUMN relevo.job.cancel_requested_at IS
    'When a running job was asked to stop; its worker learns it by NOTIFY or its next heartbeat.';
COMMENT ON COLUMN relevo.job.state IS 'scheduled, available, running or retryable; other states live in other tables.';
COMMENT ON COLUMN relevo.job.attempt IS
    'Attempts begun, the running one included; a snooze, a give-back and a rescue take theirs back.';
COMMENT ON COLUMN relevo.job.max_attempts IS 'The attempt whose failure makes the job a dead letter.';
COMMENT ON COLUMN relevo.job.unique_scope IS 'How long unique_key is held.';
COMMENT ON COLUMN relevo.job.priority IS 'Higher is claimed first.';
COMMENT ON COLUMN relevo.job.deaths IS
    'Sessions that died under this job since its last progress; once it is above zero, only sessions that had marked the job as started count.';
COMMENT ON COLUMN relevo.job.max_deaths IS 'The number of deaths that makes the job poison, a dead letter.';
COMMENT ON COLUMN relevo.job.payload_version IS 'Version of the payload''s shape; workers claim versions they know.';
COMMENT ON COLUMN relevo.job.started IS
    'Set before the handler runs, for jobs with deaths: tells a job that was running from one that only lay prefetched when its worker died.';
COMMENT ON COLUMN relevo.job.queue IS 'Where the job waits; also the payload of NOTIFY relevo_job.';
COMMENT ON COLUMN relevo.job.kind IS 'The type of the job; the queue itself knows no kinds.';
COMMENT ON COLUMN relevo.job.payload IS 'Arguments for the handler: references, never secrets.';
COMMENT ON COLUMN relevo.job.unique_key IS 'While set, no second unfinished job with this key can be enqueued.';
COMMENT ON COLUMN relevo.job.traceparent IS 'W3C trace context of the enqueuer.';
COMMENT ON COLUMN relevo.job.last_error IS 'Why the last attempt failed, the whole chain of causes.';
COMMENT ON COLUMN relevo.job.cancel_reason IS 'Why a running job was asked to stop.';

CREATE INDEX job_claim ON relevo.job (queue, priority DESC, run_at, id) WHERE state = 'available';
COMMENT ON INDEX relevo.job_claim IS 'The claim order; holds nothing but claimable jobs.';
CREATE INDEX job_due ON relevo.job (run_at) WHERE state IN ('scheduled', 'retryable');
COMMENT ON INDEX relevo.job_due IS 'What staging moves to available, earliest first.';
CREATE UNIQUE INDEX job_unique_key ON relevo.job (unique_key) WHERE unique_key IS NOT NULL;
COMMENT ON INDEX relevo.job_unique_key IS 'At most one unfinished holder per unique key.';
CREATE INDEX job_run ON relevo.job (run_id, id) WHERE run_id IS NOT NULL;
COMMENT ON INDEX relevo.job_run IS 'The unfinished jobs of a run.';
CREATE INDEX job_batch ON relevo.job (batch_id, id) WHERE batch_id IS NOT NULL;
COMMENT ON INDEX relevo.job_batch IS 'The unfinished members of a batch.';
CREATE INDEX job_cancel_requested ON relevo.job (session_id) WHERE cancel_requested_at IS NOT NULL;
COMMENT ON INDEX relevo.job_cancel_requested IS
    'What a heartbeat asks: which jobs of this session are to stop. Nearly always empty.';

CREATE TABLE relevo.job_history (
    id              bigint           NOT NULL,
    lease_epoch     bigint           NOT NULL,
    run_at          timestamptz      NOT NULL,
    created_at      timestamptz      NOT NULL,
    session_id      bigint           NULL,
    claimed_at      timestamptz      NULL,
    batch_id        bigint           NULL,
    run_id          bigint           NULL,
    finished_at     timestamptz      NOT NULL,
    state           relevo.job_state NOT NULL,
    attempt         integer          NOT NULL,
    max_attempts    integer          NOT NULL,
    priority        smallint         NOT NULL,
    deaths          smallint         NOT NULL,
    max_deaths      smallint         NOT NULL,
    payload_version smallint         NOT NULL,
    queue           text COLLATE "C" NOT NULL,
    kind            text COLLATE "C" NOT NULL,
    payload         jsonb            NOT NULL,
    traceparent     text             NULL,
    last_error      text             NULL,
    cancel_reason   text             NULL,
    CONSTRAINT job_history_state_is_final CHECK (state IN ('completed', 'cancelled')),
    CONSTRAINT job_history_cancelled_has_a_reason
        CHECK ((state = 'cancelled') = (cancel_reason IS NOT NULL))
) PARTITION BY RANGE (finished_at);
COMMENT ON TABLE relevo.job_history IS
    'Jobs that ended as completed or cancelled, one partition per UTC day; pruning drops whole partitions. Columns mean what they mean in relevo.job, as of the end.';
COMMENT ON COLUMN relevo.job_history.session_id IS
    'The session that ended the job; with lease_epoch it proves to that session that a lost answer was a success.';
COMMENT ON COLUMN relevo.job_history.finished_at IS 'When the job ended, by this database''s clock.';
COMMENT ON COLUMN relevo.job_history.cancel_reason IS 'Why it was cancelled; null when completed.';

-- Plain, not unique: a unique index would have to hold the partition key too. Uniqueness follows
-- from the move: a row enters only by being deleted from relevo.job or relevo.dead_letter.
CREATE INDEX job_history_id ON relevo.job_history (id);
CREATE INDEX job_history_run ON relevo.job_history (run_id, id) WHERE run_id IS NOT NULL;

CREATE TABLE relevo.job_history_default PARTITION OF relevo.job_history DEFAULT;
COMMENT ON TABLE relevo.job_history_default IS
    'Takes what no day''s partition takes, when upkeep did not run for days; upkeep moves its rows into their days.';

-- Upkeep makes partitions ahead; these serve until its first pass.
DO $$
DECLARE
    day date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    FOR i IN 0..3 LOOP
        EXECUTE format(
            'CREATE TABLE relevo.job_history_%s PARTITION OF relevo.job_history FOR VALUES FROM (%L) TO (%L)',
            to_char(day + i, 'YYYYMMDD'),
            to_char(day + i, 'YYYY-MM-DD') || ' 00:00:00+00',
            to_char(day + i + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
    END LOOP;
END
$$;

CREATE TABLE relevo.dead_letter (
    id              bigint              NOT NULL,
    lease_epoch     bigint              NOT NULL,
    run_at          timestamptz         NOT NULL,
    created_at      timestamptz         NOT NULL,
    session_id      bigint              NULL,
    claimed_at      timestamptz         NULL,
    batch_id        bigint              NULL,
    run_id          bigint              NULL,
    died_at         timestamptz         NOT NULL DEFAULT now(),
    cause           relevo.death_cause  NOT NULL,
    attempt         integer             NOT NULL,
    max_attempts    integer             NOT NULL,
    unique_scope    relevo.unique_scope NULL,
    priority        smallint            NOT NULL,
    deaths          smallint            NOT NULL,
    max_deaths      smallint            NOT NULL,
    payload_version smallint            NOT NULL,
    queue           text COLLATE "C"    NOT NULL,
    kind            text COLLATE "C"    NOT NULL,
    payload         jsonb               NOT NULL,
    unique_key      text COLLATE "C"    NULL,
    traceparent     text                NULL,
    last_error      text                NOT NULL,
    CONSTRAINT dead_letter_pkey PRIMARY KEY (id),
    CONSTRAINT dead_letter_poison_has_deaths CHECK (cause <> 'poison' OR deaths >= max_deaths),
    CONSTRAINT dead_letter_exhausted_has_attempts
        CHECK (cause <> 'exhausted' OR attempt >= max_attempts)
);
COMMENT ON TABLE relevo.dead_letter IS
    'Jobs that were given up. They wait for a person: retried they go back to relevo.job, discarded they go to relevo.job_history as cancelled. Columns mean what they mean in relevo.job.';
COMMENT ON COLUMN relevo.dead_letter.died_at IS 'When the job was given up.';
COMMENT ON COLUMN relevo.dead_letter.cause IS 'Why the job was given up.';
COMMENT ON COLUMN relevo.dead_letter.last_error IS 'What made it give up, the whole chain of causes.';
COMMENT ON COLUMN relevo.dead_letter.unique_key IS
    'Not held while dead; taken again when the job is retried, unless another job holds it then.';
CREATE INDEX dead_letter_run ON relevo.dead_letter (run_id, id) WHERE run_id IS NOT NULL;

CREATE TABLE relevo.session (
    id           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    ended_at     timestamptz NULL,
    ttl          interval    NOT NULL,
    claim_floor  bigint      NOT NULL DEFAULT 0,
    pid          integer     NOT NULL,
    concurrency  integer     NOT NULL,
    running      integer     NOT NULL DEFAULT 0,
    draining     boolean     NOT NULL DEFAULT false,
    died         boolean     NOT NULL DEFAULT false,
    name         text        NOT NULL,
    host         text        NOT NULL,
    queues       text[]      NOT NULL,
    CONSTRAINT session_pkey PRIMARY KEY (id),
    CONSTRAINT session_ttl_positive CHECK (ttl > interval '0'),
    CONSTRAINT session_died_has_ended CHECK (NOT died OR ended_at IS NOT NULL)
) WITH (fillfactor = 50);
COMMENT ON TABLE relevo.session IS
    'One row per worker process that holds, or may hold, leases. Heartbeats touch this row only. Deleted when it has ended and no job names it any more.';
COMMENT ON COLUMN relevo.session.heartbeat_at IS
    'The last sign of life, by this database''s clock. Older than ttl, the session is dead and its jobs are taken back.';
COMMENT ON COLUMN relevo.session.ended_at IS
    'When the session closed in order or was declared dead; from then on it can claim nothing.';
COMMENT ON COLUMN relevo.session.ttl IS 'How long a heartbeat holds the session''s leases.';
COMMENT ON COLUMN relevo.session.claim_floor IS
    'Claims of this session with a lower number are void, should they still arrive.';
COMMENT ON COLUMN relevo.session.pid IS 'Process id on its host, for people.';
COMMENT ON COLUMN relevo.session.concurrency IS 'Handlers it runs at once.';
COMMENT ON COLUMN relevo.session.running IS 'Handlers running at the last heartbeat.';
COMMENT ON COLUMN relevo.session.draining IS 'It was told to stop and claims nothing more.';
COMMENT ON COLUMN relevo.session.died IS
    'Declared dead by rescue, not closed in order: its leftover jobs count a death.';
COMMENT ON COLUMN relevo.session.name IS 'The worker''s name from its settings, for people.';
COMMENT ON COLUMN relevo.session.host IS 'The host it runs on, for people.';
COMMENT ON COLUMN relevo.session.queues IS 'The queues it takes from; empty means all.';

CREATE TABLE relevo.batch (
    id                bigint                      NOT NULL GENERATED ALWAYS AS IDENTITY,
    state             relevo.batch_state          NOT NULL DEFAULT 'open',
    policy            relevo.failed_member_policy NOT NULL,
    total             bigint                      NOT NULL DEFAULT 0,
    pending           bigint                      NOT NULL DEFAULT 0,
    completed         bigint                      NOT NULL DEFAULT 0,
    cancelled         bigint                      NOT NULL DEFAULT 0,
    dead              bigint                      NOT NULL DEFAULT 0,
    run_id            bigint                      NULL,
    completion_job_id bigint                      NULL,
    created_at        timestamptz                 NOT NULL DEFAULT now(),
    sealed_at         timestamptz                 NULL,
    completed_at      timestamptz                 NULL,
    completion        jsonb                       NOT NULL,
    CONSTRAINT batch_pkey PRIMARY KEY (id),
    CONSTRAINT batch_counts_in_range
        CHECK (total >= 0 AND pending >= 0 AND completed >= 0 AND cancelled >= 0 AND dead >= 0
           AND pending <= total),
    CONSTRAINT batch_sealed_has_a_time CHECK ((state = 'open') = (sealed_at IS NULL)),
    CONSTRAINT batch_completed_has_a_job
        CHECK ((state = 'completed') = (completed_at IS NOT NULL)
           AND (state = 'completed') = (completion_job_id IS NOT NULL)),
    CONSTRAINT batch_completed_has_nothing_pending CHECK (state <> 'completed' OR pending = 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE relevo.batch IS
    'Jobs whose common end enqueues one completion job, exactly once: in the transaction in which the sealed batch''s last pending member ends.';
COMMENT ON COLUMN relevo.batch.policy IS 'What a dead member means.';
COMMENT ON COLUMN relevo.batch.total IS 'Members enqueued; duplicates were not.';
COMMENT ON COLUMN relevo.batch.pending IS
    'Members that have not ended. Under policy wait a dead member is still pending.';
COMMENT ON COLUMN relevo.batch.completed IS 'Members that completed.';
COMMENT ON COLUMN relevo.batch.cancelled IS 'Members that were cancelled or discarded.';
COMMENT ON COLUMN relevo.batch.dead IS 'Members that are dead letters now.';
COMMENT ON COLUMN relevo.batch.run_id IS 'The completion job''s correlation id.';
COMMENT ON COLUMN relevo.batch.completion IS
    'The completion job as it will be enqueued: column names of relevo.job, and delay_seconds.';
CREATE INDEX batch_completed_at ON relevo.batch (completed_at) WHERE state = 'completed';
COMMENT ON INDEX relevo.batch_completed_at IS 'What pruning deletes.';

CREATE TABLE relevo.idempotency_key (
    job_id     bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    key        text COLLATE "C" NOT NULL,
    CONSTRAINT idempotency_key_pkey PRIMARY KEY (key),
    CONSTRAINT idempotency_key_length CHECK (length(key) BETWEEN 1 AND 500)
);
COMMENT ON TABLE relevo.idempotency_key IS
    'Same key, same job: an enqueue with a known, unexpired key returns the first one''s id and enqueues nothing, whatever became of that job.';
COMMENT ON COLUMN relevo.idempotency_key.job_id IS 'The job the first enqueue made, wherever it is now.';
COMMENT ON COLUMN relevo.idempotency_key.expires_at IS 'From then on the key is free again.';
CREATE INDEX idempotency_key_expires_at ON relevo.idempotency_key (expires_at);
COMMENT ON INDEX relevo.idempotency_key_expires_at IS 'What pruning deletes.';

CREATE TABLE relevo.job_progress (
    job_id      bigint      NOT NULL,
    lease_epoch bigint      NOT NULL,
    done        bigint      NOT NULL,
    done_max    bigint      NOT NULL,
    total       bigint      NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    unit        text        NOT NULL,
    message     text        NOT NULL,
    CONSTRAINT job_progress_pkey PRIMARY KEY (job_id),
    CONSTRAINT job_progress_counts_in_range
        CHECK (done >= 0 AND done_max >= done AND (total IS NULL OR total >= 0))
) WITH (fillfactor = 70);
COMMENT ON TABLE relevo.job_progress IS
    'How far a handler is, as it last reported; kept after the end until pruned with the history.';
COMMENT ON COLUMN relevo.job_progress.lease_epoch IS 'The lease under which it was reported.';
COMMENT ON COLUMN relevo.job_progress.done_max IS
    'The furthest any attempt came: only beyond it does progress prove that the job is no poison.';
COMMENT ON COLUMN relevo.job_progress.unit IS 'What done and total count, such as bytes or rows.';

CREATE TABLE relevo.queue_control (
    paused_at timestamptz NOT NULL DEFAULT now(),
    queue     text COLLATE "C" NOT NULL,
    CONSTRAINT queue_control_pkey PRIMARY KEY (queue),
    CONSTRAINT queue_control_queue_length CHECK (length(queue) BETWEEN 1 AND 100)
);
COMMENT ON TABLE relevo.queue_control IS
    'Queues from which nothing is claimed for now: a row means paused.';
