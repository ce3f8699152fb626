-- init: the tables the sync keeps beside the synchronised ones. The first three are queried by
-- operators, their names and columns are fixed.
CREATE TABLE IF NOT EXISTS {schema}._sync_metadata (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL UNIQUE,
    last_sync_from_supabase timestamptz,
    last_sync_to_supabase timestamptz,
    records_synced_down bigint NOT NULL DEFAULT 0,
    records_synced_up bigint NOT NULL DEFAULT 0,
    last_error text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS {schema}._sync_pending (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL,
    record_id uuid NOT NULL,
    operation text NOT NULL CHECK (operation IN ('INSERT', 'UPDATE', 'DELETE')),
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    synced boolean NOT NULL DEFAULT false,
    synced_at timestamptz,
    error text,
    retry_count integer NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS idx_sync_pending_unsynced
    ON {schema}._sync_pending (table_name, record_id, id) WHERE NOT synced;
CREATE INDEX IF NOT EXISTS idx_sync_pending_table ON {schema}._sync_pending (table_name);
CREATE INDEX IF NOT EXISTS idx_sync_pending_done
    ON {schema}._sync_pending (synced_at) WHERE synced;
CREATE TABLE IF NOT EXISTS {schema}._sync_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    direction text NOT NULL CHECK (direction IN ('DOWN', 'UP')),
    table_name text NOT NULL,
    records_affected bigint NOT NULL,
    status text NOT NULL CHECK (status IN ('SUCCESS', 'ERROR', 'PARTIAL')),
    error_message text,
    duration_ms bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The last remote version seen of each row: what a conditional write is filtered on.
CREATE TABLE IF NOT EXISTS {schema}._sync_base (
    table_name text NOT NULL,
    record_id uuid NOT NULL,
    remote_updated_at timestamptz NOT NULL,
    hash text NOT NULL,
    PRIMARY KEY (table_name, record_id)
);
-- What was sent and not yet answered: tells the echo of an own write from somebody else's.
CREATE TABLE IF NOT EXISTS {schema}._sync_sent (
    table_name text NOT NULL,
    record_id uuid NOT NULL,
    hash text NOT NULL,
    PRIMARY KEY (table_name, record_id)
);
-- How far the remote table was read. seen_* is the furthest version read, floor_* where the next
-- pass begins: behind it by the overlap in which late commits may still appear.
CREATE TABLE IF NOT EXISTS {schema}._sync_position (
    table_name text PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    seen_id uuid NOT NULL,
    floor_at timestamptz NOT NULL,
    floor_id uuid NOT NULL
);
-- Changes that can't be sent now: until not_before, or for good while state is 'dead'.
CREATE TABLE IF NOT EXISTS {schema}._sync_held_up (
    table_name text NOT NULL,
    record_id uuid NOT NULL,
    last_pending_id bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'dead')),
    tries integer NOT NULL DEFAULT 1,
    not_before timestamptz NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (table_name, record_id)
);
-- Remote rows that the local database refused: they are asked for again in each cycle.
CREATE TABLE IF NOT EXISTS {schema}._sync_held_down (
    table_name text NOT NULL,
    record_id uuid NOT NULL,
    data jsonb NOT NULL,
    reason text NOT NULL,
    tries integer NOT NULL DEFAULT 1,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name, record_id)
);
-- What lost against another version, or could not be sent: kept to be read and restored.
CREATE TABLE IF NOT EXISTS {schema}._sync_conflict (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL,
    record_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN
        ('both_changed', 'deleted_remotely', 'deleted_locally', 'unique', 'rejected')),
    winner text NOT NULL CHECK (winner IN ('local', 'remote', 'nobody')),
    loser jsonb,
    winner_data jsonb,
    detail text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS idx_sync_conflict_open
    ON {schema}._sync_conflict (table_name, record_id, kind)
    WHERE resolved_at IS NULL AND winner = 'nobody';
-- Application triggers that were made to keep still in the sync's own transactions.
CREATE TABLE IF NOT EXISTS {schema}._sync_trigger (
    table_name text NOT NULL,
    trigger_name text NOT NULL,
    definition text NOT NULL,
    enabled "char" NOT NULL,
    PRIMARY KEY (table_name, trigger_name)
);
CREATE TABLE IF NOT EXISTS {schema}._sync_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL DEFAULT 0,
    paused boolean NOT NULL DEFAULT false,
    online boolean,
    consecutive_errors integer NOT NULL DEFAULT 0,
    last_success_at timestamptz,
    last_attempt_at timestamptz,
    last_error text,
    drift text,
    requests bigint NOT NULL DEFAULT 0,
    received_bytes bigint NOT NULL DEFAULT 0,
    sent_bytes bigint NOT NULL DEFAULT 0
);
INSERT INTO {schema}._sync_state DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Records a local change, and nothing in the sync's own transactions: that is what prevents loops.
-- It writes with its owner's rights, so that applications need none on the tables above.
CREATE OR REPLACE FUNCTION {schema}._sync_record_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_catalog, pg_temp AS $body$
BEGIN
    IF current_setting('app.is_sync', true) = 'true' THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'table % is synchronised: use DELETE, which is recorded, in place of TRUNCATE',
            TG_TABLE_NAME USING ERRCODE = 'feature_not_supported';
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO _sync_pending (table_name, record_id, operation, data)
        VALUES (TG_TABLE_NAME, NEW.id, 'INSERT', to_jsonb(NEW));
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO _sync_pending (table_name, record_id, operation, data)
        VALUES (TG_TABLE_NAME, OLD.id, 'DELETE', to_jsonb(OLD));
    ELSIF OLD.id <> NEW.id THEN
        INSERT INTO _sync_pending (table_name, record_id, operation, data)
        VALUES (TG_TABLE_NAME, OLD.id, 'DELETE', to_jsonb(OLD)),
               (TG_TABLE_NAME, NEW.id, 'INSERT', to_jsonb(NEW));
    ELSIF NOT (OLD *= NEW) THEN
        INSERT INTO _sync_pending (table_name, record_id, operation, data)
        VALUES (TG_TABLE_NAME, NEW.id, 'UPDATE', to_jsonb(NEW));
    ELSE
        RETURN NULL;
    END IF;
    PERFORM pg_notify('_sync_pending', '');
    RETURN NULL;
END
$body$;
REVOKE ALL ON FUNCTION {schema}._sync_record_change() FROM PUBLIC;
