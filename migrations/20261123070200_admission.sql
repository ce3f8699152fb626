-- Order and limits: a job with an ordering key or under a limit is admitted before it can be claimed.
--
-- Nothing here reads the table: columns get their defaults without a rewrite, and what is checked is
-- checked for new rows; the rows there are come in a later file.

CREATE TYPE relevo.order_on_dead AS ENUM ('block', 'skip');
COMMENT ON TYPE relevo.order_on_dead IS
    'What a dead letter means to the jobs behind it with the same ordering key. block: they wait until it is retried or discarded; skip: they go on.';

ALTER TABLE relevo.job
    ADD COLUMN ordering_key text COLLATE "C" NULL,
    ADD COLUMN limit_key    text COLLATE "C" NULL,
    ADD COLUMN on_dead      relevo.order_on_dead NULL,
    ADD COLUMN in_turn      boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT job_is_sound,
    ADD CONSTRAINT job_is_sound CHECK (
        CASE WHEN state = 'running'
             THEN session_id IS NOT NULL AND claimed_at IS NOT NULL AND claim_no IS NOT NULL
                  AND attempt >= 1 AND lease_epoch >= 1
             ELSE state IN ('available', 'scheduled', 'retryable', 'waiting')
                  AND session_id IS NULL AND claimed_at IS NULL AND claim_no IS NULL
                  AND cancel_requested_at IS NULL AND NOT started
                  AND (state <> 'retryable' OR last_error IS NOT NULL)
                  AND attempt >= 0 AND lease_epoch >= 0
        END
        AND max_attempts >= 1 AND deaths >= 0 AND max_deaths >= 1 AND payload_version >= 1
        AND (unique_key IS NULL) = (unique_scope IS NULL)
        AND length(queue) BETWEEN 1 AND 100 AND length(kind) BETWEEN 1 AND 100
        AND CASE WHEN ordering_key IS NULL
                 THEN NOT in_turn AND on_dead IS NULL
                      AND (state <> 'waiting' OR limit_key IS NOT NULL)
                 ELSE on_dead IS NOT NULL AND length(ordering_key) BETWEEN 1 AND 500
                      AND (in_turn OR state NOT IN ('available', 'running'))
            END
        AND (limit_key IS NULL OR length(limit_key) BETWEEN 1 AND 100)
    ) NOT VALID;
COMMENT ON CONSTRAINT job_is_sound ON relevo.job IS
    'Running means leased, in an attempt, under an epoch; every other state here means neither leased nor started nor asked to stop; retryable has an error; waiting has a key that it waits for; who has an ordering key runs in its turn only; counts are in range; a unique key has a scope; names and keys have a length. Ended states live in other tables.';
COMMENT ON COLUMN relevo.job.ordering_key IS
    'Jobs with the same key run one at a time, in the order of their ids among those that are due.';
COMMENT ON COLUMN relevo.job.limit_key IS
    'The limit (relevo.job_limit) this job is under; without such a row nothing holds it back.';
COMMENT ON COLUMN relevo.job.on_dead IS 'What its death means to those behind it.';
COMMENT ON COLUMN relevo.job.in_turn IS
    'It holds its ordering key: from its admission to its end, through retries, snoozes and rescues.';

ALTER TABLE relevo.dead_letter
    ADD COLUMN ordering_key text COLLATE "C" NULL,
    ADD COLUMN limit_key    text COLLATE "C" NULL,
    ADD COLUMN on_dead      relevo.order_on_dead NULL;
COMMENT ON COLUMN relevo.dead_letter.ordering_key IS
    'With on_dead block, no other job with this key is admitted while this dead letter is here.';

CREATE TABLE relevo.job_limit (
    updated_at  timestamptz NOT NULL DEFAULT now(),
    period      interval    NULL,
    concurrency integer     NULL,
    rate        integer     NULL,
    name        text COLLATE "C" NOT NULL,
    CONSTRAINT job_limit_pkey PRIMARY KEY (name),
    CONSTRAINT job_limit_name_length CHECK (length(name) BETWEEN 1 AND 100),
    CONSTRAINT job_limit_limits CHECK (concurrency IS NOT NULL OR rate IS NOT NULL),
    CONSTRAINT job_limit_in_range
        CHECK (concurrency >= 0 AND rate >= 1
           AND period BETWEEN interval '1 millisecond' AND interval '31 days'),
    CONSTRAINT job_limit_rate_is_whole CHECK ((rate IS NULL) = (period IS NULL))
);
COMMENT ON TABLE relevo.job_limit IS
    'Limits that jobs name by limit_key, over all queues and kinds: the budget of an endpoint, say.';
COMMENT ON COLUMN relevo.job_limit.concurrency IS
    'At most so many of its jobs are available or running; null: any number.';
COMMENT ON COLUMN relevo.job_limit.rate IS
    'At most so many of its jobs are claimed within any period; null: any number.';

CREATE TABLE relevo.limit_use (
    started_at timestamptz NOT NULL DEFAULT now(),
    jobs       bigint      NOT NULL,
    limit_key  text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE relevo.limit_use IS
    'How many jobs under a limit with a rate each claim took, written by the claim itself; older than the period, a row counts no more and is pruned.';
CREATE INDEX limit_use_recent ON relevo.limit_use (limit_key, started_at);
COMMENT ON INDEX relevo.limit_use_recent IS 'What was claimed under a limit lately.';
