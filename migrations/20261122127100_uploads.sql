-- Dumps that are handed to Relevo instead of being fetched: through the API, piece by piece, or by
-- the command line. The bytes lie beside the chunks, where every worker sees them; how many there
-- are is the file's length, which nobody has to keep in step with a column.

CREATE TABLE relevo.upload (
    id           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    source       text        NOT NULL,
    filename     text        NOT NULL,
    total_bytes  bigint      NOT NULL,
    sha256       bytea       NULL,
    options      jsonb       NOT NULL DEFAULT '{}',
    created_by   text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    completed_at timestamptz NULL,
    run_id       bigint      NULL,
    CONSTRAINT upload_pkey PRIMARY KEY (id),
    CONSTRAINT upload_run_fkey FOREIGN KEY (run_id) REFERENCES relevo.run (id) ON DELETE SET NULL,
    CONSTRAINT upload_source_length CHECK (char_length(source) BETWEEN 1 AND 100),
    CONSTRAINT upload_filename_length CHECK (char_length(filename) BETWEEN 1 AND 300),
    CONSTRAINT upload_total_bytes_positive CHECK (total_bytes > 0),
    CONSTRAINT upload_sha256_length CHECK (octet_length(sha256) = 32),
    CONSTRAINT upload_options_is_object CHECK (jsonb_typeof(options) = 'object'),
    CONSTRAINT upload_created_by_length CHECK (char_length(created_by) BETWEEN 1 AND 200),
    CONSTRAINT upload_used_is_complete CHECK (run_id IS NULL OR completed_at IS NOT NULL)
);
COMMENT ON TABLE relevo.upload IS
    'Dumps handed to Relevo as files; a row goes with its file, when its run has ended or when it expires.';
COMMENT ON COLUMN relevo.upload.id IS
    'The upload''s number; the file is named after it.';
COMMENT ON COLUMN relevo.upload.source IS
    'The source whose run is to load it.';
COMMENT ON COLUMN relevo.upload.filename IS
    'What its sender calls it; the kept dump is called so.';
COMMENT ON COLUMN relevo.upload.total_bytes IS
    'How long it will be.';
COMMENT ON COLUMN relevo.upload.sha256 IS
    'What its sender says its SHA-256 is; compared when the last byte is there.';
COMMENT ON COLUMN relevo.upload.options IS
    'How the run is to be started when the last byte is there; empty: by its sender.';
COMMENT ON COLUMN relevo.upload.created_by IS
    'Who sends it.';
COMMENT ON COLUMN relevo.upload.created_at IS
    'When it was announced.';
COMMENT ON COLUMN relevo.upload.expires_at IS
    'When it is given up unless more of it arrives; ignored while its run is active.';
COMMENT ON COLUMN relevo.upload.completed_at IS
    'When all of it was there and its checksum right.';
COMMENT ON COLUMN relevo.upload.run_id IS
    'The run that loads it.';

CREATE INDEX upload_by_run ON relevo.upload (run_id) WHERE run_id IS NOT NULL;
COMMENT ON INDEX relevo.upload_by_run IS
    'What the foreign key needs.';
