-- Kinds of jobs as the workers that run them describe them, so that API, scheduler, console and SQL
-- serve kinds they were not built with.

CREATE TABLE relevo.job_kind (
    seen_at              timestamptz         NOT NULL DEFAULT clock_timestamp(),
    backoff_base_ms      bigint              NOT NULL,
    backoff_cap_ms       bigint              NOT NULL,
    timeout_ms           bigint              NOT NULL,
    progress_deadline_ms bigint              NULL,
    max_attempts         integer             NOT NULL,
    unique_scope         relevo.unique_scope NULL,
    payload_version      smallint            NOT NULL,
    priority             smallint            NOT NULL,
    max_deaths           smallint            NOT NULL,
    internal             boolean             NOT NULL,
    name                 text COLLATE "C"    NOT NULL,
    queue                text COLLATE "C"    NOT NULL,
    summary              text                NOT NULL,
    unique_field         text                NULL,
    published_by         text                NOT NULL,
    payload_schema       jsonb               NOT NULL,
    CONSTRAINT job_kind_pkey PRIMARY KEY (name),
    CONSTRAINT job_kind_name_form CHECK (name ~ '^[A-Za-z][A-Za-z0-9_.-]{0,99}$'),
    CONSTRAINT job_kind_queue_length CHECK (length(queue) BETWEEN 1 AND 100),
    CONSTRAINT job_kind_counts_in_range
        CHECK (payload_version >= 1 AND max_attempts >= 1 AND max_deaths >= 1),
    CONSTRAINT job_kind_times_positive
        CHECK (backoff_base_ms > 0 AND backoff_cap_ms > 0 AND timeout_ms > 0
           AND progress_deadline_ms > 0),
    CONSTRAINT job_kind_unique_is_whole CHECK ((unique_field IS NULL) = (unique_scope IS NULL)),
    CONSTRAINT job_kind_schema_is_object CHECK (jsonb_typeof(payload_schema) = 'object')
);
COMMENT ON TABLE relevo.job_kind IS
    'The kinds that workers know, published by each at its start and every minute. A kind that nobody has published for 90 days is forgotten.';
COMMENT ON COLUMN relevo.job_kind.seen_at IS
    'When a worker last published it as it stands here, to half a minute.';
COMMENT ON COLUMN relevo.job_kind.backoff_base_ms IS 'Upper bound of the delay before the second run.';
COMMENT ON COLUMN relevo.job_kind.backoff_cap_ms IS 'The bound never grows past this.';
COMMENT ON COLUMN relevo.job_kind.timeout_ms IS 'The longest one run may take.';
COMMENT ON COLUMN relevo.job_kind.progress_deadline_ms IS
    'The longest a run may go without movement; null: its timeout is bound enough.';
COMMENT ON COLUMN relevo.job_kind.max_attempts IS 'Given to jobs of this kind.';
COMMENT ON COLUMN relevo.job_kind.unique_scope IS 'How long a job holds the value of unique_field.';
COMMENT ON COLUMN relevo.job_kind.payload_version IS
    'The newest version: given to jobs of this kind. An older one replaces it only when nobody has published the newer for five minutes.';
COMMENT ON COLUMN relevo.job_kind.priority IS 'Given to jobs of this kind unless their producer says otherwise.';
COMMENT ON COLUMN relevo.job_kind.max_deaths IS 'Given to jobs of this kind.';
COMMENT ON COLUMN relevo.job_kind.internal IS
    'A step of Relevo''s own: only who may operate enqueues it by hand.';
COMMENT ON COLUMN relevo.job_kind.queue IS 'Where jobs of this kind wait unless their producer says otherwise.';
COMMENT ON COLUMN relevo.job_kind.summary IS 'What one job does, in a sentence.';
COMMENT ON COLUMN relevo.job_kind.unique_field IS
    'The field of the payload whose value makes jobs of this kind the same one.';
COMMENT ON COLUMN relevo.job_kind.published_by IS 'Name of the worker that published it last.';
COMMENT ON COLUMN relevo.job_kind.payload_schema IS 'JSON Schema (2020-12) of the payload.';
