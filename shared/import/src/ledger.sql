-- create_ledger
-- What imports did in this database, kept here so that it is true whatever happens to the control
-- plane: a row of data and the row that vouches for it commit together.
CREATE SCHEMA IF NOT EXISTS relevo_ledger;

CREATE TABLE IF NOT EXISTS relevo_ledger.import (
    id text PRIMARY KEY,
    owner text NOT NULL,
    schema text NOT NULL,
    staging text NOT NULL,
    state text NOT NULL CHECK (state IN ('loading', 'sealed', 'live', 'failed')),
    fence_incarnation bigint NOT NULL,
    fence_job_id bigint NOT NULL,
    fence_epoch bigint NOT NULL,
    options jsonb NOT NULL,
    manifest jsonb,
    certificate jsonb,
    follow_up jsonb NOT NULL DEFAULT '[]',
    error text,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sealed_at timestamptz,
    ended_at timestamptz,
    CONSTRAINT sealed_has_manifest CHECK (state NOT IN ('sealed', 'live') OR manifest IS NOT NULL),
    CONSTRAINT live_has_certificate CHECK ((state = 'live') = (certificate IS NOT NULL)),
    CONSTRAINT ended_has_time CHECK ((state IN ('live', 'failed')) = (ended_at IS NOT NULL))
);
CREATE INDEX IF NOT EXISTS import_schema_idx ON relevo_ledger.import (schema, ended_at);
COMMENT ON TABLE relevo_ledger.import IS 'One import each; the latest live one of a schema is what its readers see.';
COMMENT ON COLUMN relevo_ledger.import.owner IS 'The control plane (or program) that imports and clears up after itself.';
COMMENT ON COLUMN relevo_ledger.import.fence_incarnation IS 'With job and epoch: a writer with a lower fence changes nothing any more.';
COMMENT ON COLUMN relevo_ledger.import.follow_up IS 'Statements that are still to be run after the cutover.';
COMMENT ON COLUMN relevo_ledger.import.manifest IS 'What the dump holds; known once it was read to its end.';

CREATE TABLE IF NOT EXISTS relevo_ledger.import_table (
    import_id text NOT NULL REFERENCES relevo_ledger.import ON DELETE CASCADE,
    table_name text NOT NULL,
    definition jsonb NOT NULL,
    PRIMARY KEY (import_id, table_name)
);
COMMENT ON TABLE relevo_ledger.import_table IS 'Tables created in the staging schema of an import.';

CREATE TABLE IF NOT EXISTS relevo_ledger.import_chunk (
    import_id text NOT NULL REFERENCES relevo_ledger.import ON DELETE CASCADE,
    ordinal integer NOT NULL CHECK (ordinal >= 0),
    table_name text NOT NULL,
    state text NOT NULL CHECK (state IN ('started', 'done')),
    fence_incarnation bigint NOT NULL,
    fence_job_id bigint NOT NULL,
    fence_epoch bigint NOT NULL,
    rows bigint,
    checksum text,
    body_crc32 bigint,
    statement text,
    stats jsonb,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at timestamptz,
    PRIMARY KEY (import_id, ordinal),
    CONSTRAINT done_has_figures CHECK
        ((state = 'done') = (rows IS NOT NULL AND stats IS NOT NULL AND checksum IS NOT NULL
                             AND body_crc32 IS NOT NULL AND statement IS NOT NULL
                             AND done_at IS NOT NULL))
);
COMMENT ON TABLE relevo_ledger.import_chunk IS 'Pieces of a dump. A done one was set in the transaction that loaded its rows.';
COMMENT ON COLUMN relevo_ledger.import_chunk.checksum IS 'Sum of the hashes of its rows, hexadecimal.';
COMMENT ON COLUMN relevo_ledger.import_chunk.body_crc32 IS 'CRC-32 of the rows as they were in the dump.';
COMMENT ON COLUMN relevo_ledger.import_chunk.statement IS 'The COPY that its rows came with.';

CREATE TABLE IF NOT EXISTS relevo_ledger.import_step (
    import_id text NOT NULL REFERENCES relevo_ledger.import ON DELETE CASCADE,
    name text NOT NULL,
    done_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (import_id, name)
);
COMMENT ON TABLE relevo_ledger.import_step IS 'Keys, indexes and the like that are built; written in the transaction that built them.';

-- Since imports can be rolled back.
ALTER TABLE relevo_ledger.import ADD COLUMN IF NOT EXISTS rollback jsonb;
COMMENT ON COLUMN relevo_ledger.import.rollback IS 'Set when what this import had replaced was put back: its tables are not what readers see any more.';

-- Since a failed import takes back the schema that it made.
ALTER TABLE relevo_ledger.import ADD COLUMN IF NOT EXISTS made_schema boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN relevo_ledger.import.made_schema IS 'The target schema was made by this import: should it fail, an empty one is dropped again.';

-- Since rows may be filtered.
ALTER TABLE relevo_ledger.import_step ADD COLUMN IF NOT EXISTS rows bigint;
COMMENT ON COLUMN relevo_ledger.import_step.rows IS 'Rows that the statement changed; of a filter, those that it took out.';

-- Since an import that was cut off is taken up again, and rows may be set aside.
ALTER TABLE relevo_ledger.import ADD COLUMN IF NOT EXISTS source text;
COMMENT ON COLUMN relevo_ledger.import.source IS 'The file it is loaded from: who imports it again after a crash goes on with this import.';
ALTER TABLE relevo_ledger.import_chunk ADD COLUMN IF NOT EXISTS batches jsonb;
COMMENT ON COLUMN relevo_ledger.import_chunk.batches IS 'Of an import without chunk files: number and CRC-32 of each batch of rows in it.';
ALTER TABLE relevo_ledger.import_chunk ADD COLUMN IF NOT EXISTS quarantined bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN relevo_ledger.import_chunk.quarantined IS 'Rows of it that were refused and set aside.';

CREATE TABLE IF NOT EXISTS relevo_ledger.quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    import_id text NOT NULL REFERENCES relevo_ledger.import ON DELETE CASCADE,
    table_name text NOT NULL,
    row_key jsonb NOT NULL,
    data jsonb NOT NULL,
    reason text NOT NULL,
    dump_offset bigint NOT NULL,
    dump_line bigint,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'loaded', 'discarded')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    edited_at timestamptz,
    ended_at timestamptz,
    CONSTRAINT ended_has_time CHECK ((state = 'waiting') = (ended_at IS NULL))
);
CREATE INDEX IF NOT EXISTS quarantine_import_idx ON relevo_ledger.quarantine (import_id);
COMMENT ON TABLE relevo_ledger.quarantine IS 'Rows of dumps that were refused and set aside, until a person mends and loads them, or discards them.';
COMMENT ON COLUMN relevo_ledger.quarantine.row_key IS 'Values of the primary key; {} where the table has none.';
COMMENT ON COLUMN relevo_ledger.quarantine.data IS 'Values by column, as text that the column''s type reads; what was refused is as the dump has it.';
COMMENT ON COLUMN relevo_ledger.quarantine.dump_offset IS 'Byte of the unpacked dump at which the row begins; of a backup''s chunk, at which the chunk does.';
