-- Runs, their log, API keys and the backup requests: everything of the control plane that is not
-- the queue itself. The schema `relevo` exists already when this runs.

CREATE TABLE relevo.control (
    only_row    boolean     NOT NULL DEFAULT true,
    cluster_id  text        NOT NULL DEFAULT left(replace(gen_random_uuid()::text, '-', ''), 8),
    incarnation bigint      NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT control_pkey PRIMARY KEY (only_row),
    CONSTRAINT control_is_one_row CHECK (only_row),
    CONSTRAINT control_cluster_id_form CHECK (cluster_id ~ '^[0-9a-f]{8}$'),
    CONSTRAINT control_incarnation_positive CHECK (incarnation > 0)
);
COMMENT ON TABLE relevo.control IS
    'One row about this control plane as a whole.';
COMMENT ON COLUMN relevo.control.only_row IS
    'Always true: with the primary key it allows one row only.';
COMMENT ON COLUMN relevo.control.cluster_id IS
    'Tells this control plane from every other one that works on the same targets: part of the names it leaves there.';
COMMENT ON COLUMN relevo.control.incarnation IS
    'Rises by one when the control plane is restored from a backup; part of every fence in a target, so that jobs of the time before the restore lose against those after it.';
COMMENT ON COLUMN relevo.control.created_at IS
    'When this control plane was first migrated.';

INSERT INTO relevo.control DEFAULT VALUES;

CREATE TYPE relevo.run_state AS ENUM ('pending', 'running', 'succeeded', 'failed', 'cancelled');
COMMENT ON TYPE relevo.run_state IS
    'pending: created, no handler has begun; running: some handler has begun; succeeded, failed, cancelled: ended, never changes again.';

CREATE TABLE relevo.run (
    id               bigint           NOT NULL GENERATED ALWAYS AS IDENTITY,
    pipeline         text             NOT NULL,
    source           text             NOT NULL,
    state            relevo.run_state NOT NULL DEFAULT 'pending',
    phase            text             NOT NULL DEFAULT 'waiting',
    trigger          text             NOT NULL,
    options          jsonb            NOT NULL DEFAULT '{}',
    notes            jsonb            NOT NULL DEFAULT '{}',
    created_at       timestamptz      NOT NULL DEFAULT now(),
    started_at       timestamptz      NULL,
    finished_at      timestamptz      NULL,
    updated_at       timestamptz      NOT NULL DEFAULT now(),
    progress         jsonb            NULL,
    stats            jsonb            NOT NULL DEFAULT '{}',
    certificate      jsonb            NULL,
    error            text             NULL,
    cancel_requested boolean          NOT NULL DEFAULT false,
    cleaned_at       timestamptz      NULL,
    CONSTRAINT run_pkey PRIMARY KEY (id),
    CONSTRAINT run_pipeline_length CHECK (char_length(pipeline) BETWEEN 1 AND 100),
    CONSTRAINT run_source_length CHECK (char_length(source) BETWEEN 1 AND 100),
    CONSTRAINT run_trigger_length CHECK (char_length(trigger) BETWEEN 1 AND 200),
    CONSTRAINT run_phase_length CHECK (char_length(phase) BETWEEN 1 AND 100),
    CONSTRAINT run_options_is_object CHECK (jsonb_typeof(options) = 'object'),
    CONSTRAINT run_notes_is_object CHECK (jsonb_typeof(notes) = 'object'),
    CONSTRAINT run_stats_is_object CHECK (jsonb_typeof(stats) = 'object'),
    CONSTRAINT run_progress_is_object CHECK (jsonb_typeof(progress) = 'object'),
    CONSTRAINT run_certificate_is_object CHECK (jsonb_typeof(certificate) = 'object'),
    CONSTRAINT run_error_length CHECK (char_length(error) <= 20000),
    CONSTRAINT run_pending_has_not_started CHECK (state <> 'pending' OR started_at IS NULL),
    CONSTRAINT run_running_has_started CHECK (state <> 'running' OR started_at IS NOT NULL),
    CONSTRAINT run_succeeded_has_started CHECK (state <> 'succeeded' OR started_at IS NOT NULL),
    CONSTRAINT run_ended_has_finished_at
        CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT run_failed_has_error CHECK ((state = 'failed') = (error IS NOT NULL)),
    CONSTRAINT run_certificate_needs_success CHECK (certificate IS NULL OR state = 'succeeded'),
    CONSTRAINT run_cancelled_was_requested CHECK (state <> 'cancelled' OR cancel_requested),
    CONSTRAINT run_cleaned_has_ended CHECK (cleaned_at IS NULL OR finished_at IS NOT NULL)
);
COMMENT ON TABLE relevo.run IS
    'One row per execution of a pipeline for one source.';
COMMENT ON COLUMN relevo.run.id IS
    'The run''s number; jobs carry it as run_id.';
COMMENT ON COLUMN relevo.run.pipeline IS
    'What kind of run this is, for example backup.';
COMMENT ON COLUMN relevo.run.source IS
    'The configured source it moves, for example sicar.';
COMMENT ON COLUMN relevo.run.state IS
    'Where the run stands as a whole; see the type.';
COMMENT ON COLUMN relevo.run.phase IS
    'The step of the pipeline it is in, named by the pipeline; kept as it was when the run ends, so a failed run says where it failed.';
COMMENT ON COLUMN relevo.run.trigger IS
    'Who started it: api, cli, schedule:<name>.';
COMMENT ON COLUMN relevo.run.options IS
    'How it was asked for (mode, force), as given at the start; never secrets.';
COMMENT ON COLUMN relevo.run.notes IS
    'What one step of the pipeline leaves for the next (batch id, file name); never secrets.';
COMMENT ON COLUMN relevo.run.created_at IS
    'When it was asked for.';
COMMENT ON COLUMN relevo.run.started_at IS
    'When the first handler began; NULL while pending, and for runs that ended before they began.';
COMMENT ON COLUMN relevo.run.finished_at IS
    'When it ended; set in exactly the ended states.';
COMMENT ON COLUMN relevo.run.updated_at IS
    'Last change of phase, progress or state.';
COMMENT ON COLUMN relevo.run.progress IS
    'The last progress: {done, total, unit, message}; total may be null.';
COMMENT ON COLUMN relevo.run.stats IS
    'Figures gathered on the way (bytes, rows, durations).';
COMMENT ON COLUMN relevo.run.certificate IS
    'What was moved and how it was verified, per table; only a run that succeeded has one.';
COMMENT ON COLUMN relevo.run.error IS
    'Why it failed and what to do; set in exactly the state failed.';
COMMENT ON COLUMN relevo.run.cancel_requested IS
    'A person asked for its end; the run becomes cancelled when its handlers have stopped.';

COMMENT ON COLUMN relevo.run.cleaned_at IS
    'When everything the run had left (files, staging schemas, jobs) was cleared away after its end.';

CREATE UNIQUE INDEX run_one_active_per_source ON relevo.run (pipeline, source)
    WHERE state IN ('pending', 'running');
COMMENT ON INDEX relevo.run_one_active_per_source IS
    'One active run per pipeline and source.';
CREATE INDEX run_to_be_cleaned ON relevo.run (id) WHERE finished_at IS NOT NULL AND cleaned_at IS NULL;
COMMENT ON INDEX relevo.run_to_be_cleaned IS
    'Ended runs that may have left something; nearly always empty.';
CREATE INDEX run_by_source ON relevo.run (pipeline, source, id DESC);
COMMENT ON INDEX relevo.run_by_source IS
    'The history of one source, newest first.';

CREATE TABLE relevo.run_event (
    id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    run_id  bigint      NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    level   text        NOT NULL,
    message text        NOT NULL,
    fields  jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT run_event_pkey PRIMARY KEY (id),
    CONSTRAINT run_event_run_fkey FOREIGN KEY (run_id) REFERENCES relevo.run (id) ON DELETE CASCADE,
    CONSTRAINT run_event_level_known CHECK (level IN ('debug', 'info', 'warn', 'error')),
    CONSTRAINT run_event_message_length CHECK (char_length(message) BETWEEN 1 AND 4000),
    CONSTRAINT run_event_fields_is_object CHECK (jsonb_typeof(fields) = 'object'),
    CONSTRAINT run_event_fields_size CHECK (octet_length(fields::text) <= 4000000)
);
COMMENT ON TABLE relevo.run_event IS
    'The log of a run, in order of id; the number of events per run is bounded by the writer.';
COMMENT ON COLUMN relevo.run_event.id IS
    'Position in the log, rising; readers page with "after this id".';
COMMENT ON COLUMN relevo.run_event.run_id IS
    'The run that this tells about; the log goes with it.';
COMMENT ON COLUMN relevo.run_event.at IS
    'When it was written, by the database''s clock.';
COMMENT ON COLUMN relevo.run_event.level IS
    'debug, info, warn or error.';
COMMENT ON COLUMN relevo.run_event.message IS
    'One sentence that reads alone.';
COMMENT ON COLUMN relevo.run_event.fields IS
    'The same facts for machines. Writers keep to 32 kB; the table''s bound is wider, since jsonb writes large numbers out.';

CREATE INDEX run_event_by_run ON relevo.run_event (run_id, id);
COMMENT ON INDEX relevo.run_event_by_run IS
    'Pages of one run''s log.';

CREATE TABLE relevo.api_key (
    id            bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    name          text        NOT NULL,
    prefix        text        NOT NULL,
    secret_sha256 bytea       NOT NULL,
    scopes        text[]      NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_used_at  timestamptz NULL,
    revoked_at    timestamptz NULL,
    CONSTRAINT api_key_pkey PRIMARY KEY (id),
    CONSTRAINT api_key_prefix_unique UNIQUE (prefix),
    CONSTRAINT api_key_name_length CHECK (char_length(name) BETWEEN 1 AND 100),
    CONSTRAINT api_key_hash_length CHECK (octet_length(secret_sha256) = 32),
    CONSTRAINT api_key_scopes_known
        CHECK (scopes <@ ARRAY['enqueue', 'read', 'operate', 'admin'] AND cardinality(scopes) > 0)
);
COMMENT ON TABLE relevo.api_key IS
    'Keys that open the HTTP API; the secret itself is shown once and never stored.';
COMMENT ON COLUMN relevo.api_key.id IS
    'Number by which people revoke it.';
COMMENT ON COLUMN relevo.api_key.name IS
    'Who or what uses it.';
COMMENT ON COLUMN relevo.api_key.prefix IS
    'The first, public part of the key, by which it is looked up and recognised in lists.';
COMMENT ON COLUMN relevo.api_key.secret_sha256 IS
    'SHA-256 of the whole key. The key holds 256 random bits, so a slow password hash would add nothing.';
COMMENT ON COLUMN relevo.api_key.scopes IS
    'What it may do: enqueue (jobs, runs), read, operate (cancel, retry, pause), admin (all of it).';
COMMENT ON COLUMN relevo.api_key.created_at IS
    'When it was made.';
COMMENT ON COLUMN relevo.api_key.last_used_at IS
    'When it last opened the API, to the minute.';
COMMENT ON COLUMN relevo.api_key.revoked_at IS
    'Since when it opens nothing; NULL while valid.';

CREATE TABLE relevo.backup_request (
    id             bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    run_id         bigint      NOT NULL,
    round          integer     NOT NULL,
    mode           text        NOT NULL,
    state          text        NOT NULL DEFAULT 'asked',
    gateway_job_id text        NULL,
    download_url   text        NULL,
    filename       text        NULL,
    filesize_bytes bigint      NULL,
    filesize_mb    double precision NULL,
    expires_at     timestamptz NULL,
    asked_at       timestamptz NOT NULL DEFAULT now(),
    answered_at    timestamptz NULL,
    delivered_at   timestamptz NULL,
    ended_at       timestamptz NULL,
    next_job_id    bigint      NULL,
    error          text        NULL,
    CONSTRAINT backup_request_pkey PRIMARY KEY (id),
    CONSTRAINT backup_request_run_fkey FOREIGN KEY (run_id) REFERENCES relevo.run (id) ON DELETE CASCADE,
    CONSTRAINT backup_request_round_unique UNIQUE (run_id, round),
    CONSTRAINT backup_request_round_positive CHECK (round > 0),
    CONSTRAINT backup_request_mode_known CHECK (mode IN ('webhook', 'sync')),
    CONSTRAINT backup_request_state_known
        CHECK (state IN ('asked', 'answered', 'delivered', 'failed', 'expired')),
    CONSTRAINT backup_request_gateway_job_id_length CHECK (char_length(gateway_job_id) BETWEEN 1 AND 200),
    CONSTRAINT backup_request_download_url_length CHECK (char_length(download_url) BETWEEN 1 AND 2048),
    CONSTRAINT backup_request_filename_length CHECK (char_length(filename) BETWEEN 1 AND 300),
    CONSTRAINT backup_request_filesize_bytes_positive CHECK (filesize_bytes > 0),
    CONSTRAINT backup_request_filesize_mb_positive CHECK (filesize_mb > 0 AND filesize_mb < 1e12),
    CONSTRAINT backup_request_error_length CHECK (char_length(error) BETWEEN 1 AND 4000),
    CONSTRAINT backup_request_answered_has_id
        CHECK (state <> 'answered' OR (gateway_job_id IS NOT NULL AND answered_at IS NOT NULL)),
    CONSTRAINT backup_request_delivered_has_url
        CHECK ((state = 'delivered') = (download_url IS NOT NULL)
           AND (state = 'delivered') = (delivered_at IS NOT NULL)),
    CONSTRAINT backup_request_delivered_has_job CHECK (state <> 'delivered' OR next_job_id IS NOT NULL),
    CONSTRAINT backup_request_ended_says_why
        CHECK ((state IN ('failed', 'expired')) = (error IS NOT NULL)
           AND (state IN ('failed', 'expired')) = (ended_at IS NOT NULL))
);
COMMENT ON TABLE relevo.backup_request IS
    'One row per time the gateway is asked for a backup; what it delivers is matched against these.';
COMMENT ON COLUMN relevo.backup_request.id IS
    'The request''s number; DownloadDump names it.';
COMMENT ON COLUMN relevo.backup_request.run_id IS
    'The run that asked.';
COMMENT ON COLUMN relevo.backup_request.round IS
    'Which request of the run this is, counted from 1; a repeated job finds its own request by it.';
COMMENT ON COLUMN relevo.backup_request.mode IS
    'webhook: the gateway calls back; sync: it answers when the backup is there.';
COMMENT ON COLUMN relevo.backup_request.state IS
    'asked: stored, the gateway may have been called; answered: it promised a webhook; delivered: a download exists and its job is enqueued; failed: the gateway said it failed; expired: given up by us.';
COMMENT ON COLUMN relevo.backup_request.gateway_job_id IS
    'The gateway''s own name for the backup (job_id, backup_id).';
COMMENT ON COLUMN relevo.backup_request.download_url IS
    'Where the dump can be fetched; its host was checked.';
COMMENT ON COLUMN relevo.backup_request.filename IS
    'The dump''s file name as the gateway says or the URL ends.';
COMMENT ON COLUMN relevo.backup_request.filesize_bytes IS
    'Exact length, where the gateway gave it in bytes.';
COMMENT ON COLUMN relevo.backup_request.filesize_mb IS
    'Length in MB as the gateway rounded it: good for a look at the disk, not for a comparison.';
COMMENT ON COLUMN relevo.backup_request.expires_at IS
    'Until when the gateway keeps the file, if it said so.';
COMMENT ON COLUMN relevo.backup_request.asked_at IS
    'When this row was stored, before the gateway was called.';
COMMENT ON COLUMN relevo.backup_request.answered_at IS
    'When the gateway promised a webhook.';
COMMENT ON COLUMN relevo.backup_request.delivered_at IS
    'When the download became known.';
COMMENT ON COLUMN relevo.backup_request.ended_at IS
    'When it failed or was given up.';
COMMENT ON COLUMN relevo.backup_request.next_job_id IS
    'The job that this request''s outcome enqueued: the download after a delivery, the follow-up after a failure.';
COMMENT ON COLUMN relevo.backup_request.error IS
    'Why it failed or was given up.';

CREATE INDEX backup_request_by_gateway_job ON relevo.backup_request (gateway_job_id, id DESC)
    WHERE gateway_job_id IS NOT NULL;
COMMENT ON INDEX relevo.backup_request_by_gateway_job IS
    'Deliveries to the bare webhook path, matched by the gateway''s id.';

CREATE TABLE relevo.backup_token (
    token_sha256 bytea       NOT NULL,
    request_id   bigint      NOT NULL,
    issued_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT backup_token_pkey PRIMARY KEY (token_sha256),
    CONSTRAINT backup_token_request_fkey
        FOREIGN KEY (request_id) REFERENCES relevo.backup_request (id) ON DELETE CASCADE,
    CONSTRAINT backup_token_length CHECK (octet_length(token_sha256) = 32)
);
COMMENT ON TABLE relevo.backup_token IS
    'The unguessable tokens handed out in webhook paths. A request has one per time the gateway was called for it; each stays good, since any of the calls may have arrived.';
COMMENT ON COLUMN relevo.backup_token.token_sha256 IS
    'SHA-256 of the token; looked up by hash, so the comparison leaks nothing and the table holds no secret.';
COMMENT ON COLUMN relevo.backup_token.request_id IS
    'The request that a delivery with this token answers.';
COMMENT ON COLUMN relevo.backup_token.issued_at IS
    'When it was made, directly before the gateway was called with it.';

CREATE INDEX backup_token_by_request ON relevo.backup_token (request_id);
COMMENT ON INDEX relevo.backup_token_by_request IS
    'Says whether a request may have been sent already; also what the foreign key needs.';
