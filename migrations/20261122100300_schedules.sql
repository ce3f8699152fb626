-- What the scheduler keeps: who leads, which schedules there are, and which of
-- their slots were dealt with. A slot fires at most once because its row is
-- unique, not because only one scheduler runs.

CREATE TABLE relevo.leader_lease (
    name        text        PRIMARY KEY,
    term        bigint      NOT NULL DEFAULT 0 CHECK (term >= 0),
    holder      text,
    acquired_at timestamptz,
    expires_at  timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT leader_lease_held_by_someone
        CHECK (term = 0 OR (holder IS NOT NULL AND acquired_at IS NOT NULL))
);
COMMENT ON TABLE relevo.leader_lease IS
    'One row per office that only one process may hold at a time. Taken, kept and given up by conditional updates against the database''s clock.';
COMMENT ON COLUMN relevo.leader_lease.name IS 'The office: so far only scheduler.';
COMMENT ON COLUMN relevo.leader_lease.term IS
    'Rises by one at every change of holder and never falls; a write made as leader proves its term in the same transaction.';
COMMENT ON COLUMN relevo.leader_lease.holder IS
    'Host, process id and a random part of the process that holds or last held the office.';
COMMENT ON COLUMN relevo.leader_lease.acquired_at IS 'When the present term began.';
COMMENT ON COLUMN relevo.leader_lease.expires_at IS
    'From this moment of the database''s clock on anyone may take the office; set to the present by a holder that leaves.';

INSERT INTO relevo.leader_lease (name) VALUES ('scheduler');

CREATE TABLE relevo.schedule (
    name                    text        PRIMARY KEY CHECK (name <> ''),
    origin                  text        NOT NULL CHECK (origin IN ('configuration', 'operator')),
    active                  boolean     NOT NULL DEFAULT true,
    rhythm                  text        NOT NULL,
    timezone                text        NOT NULL,
    backup_source           text,
    job_kind                text,
    job_payload             jsonb,
    missed_runs             text        NOT NULL DEFAULT 'once'
                            CHECK (missed_runs IN ('once', 'skip', 'catch_up')),
    missed_max_age_seconds  bigint      NOT NULL DEFAULT 21600 CHECK (missed_max_age_seconds >= 0),
    settled_to              timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_by              text        NOT NULL,
    CONSTRAINT schedule_starts_a_backup_or_a_job CHECK (
        (backup_source IS NOT NULL AND job_kind IS NULL AND job_payload IS NULL)
        OR (backup_source IS NULL AND job_kind IS NOT NULL AND job_payload IS NOT NULL)
    )
);
COMMENT ON TABLE relevo.schedule IS
    'What is started by the clock. Rows of origin configuration follow the configuration of the leading scheduler.';
COMMENT ON COLUMN relevo.schedule.name IS 'backup/<source> for the schedule of a configured source, else chosen by the operator.';
COMMENT ON COLUMN relevo.schedule.origin IS
    'configuration: written by the leader from relevo.toml; operator: written by relevo schedule add, never touched by the configuration.';
COMMENT ON COLUMN relevo.schedule.active IS
    'false: keeps its history and fires nothing, for instance because its source left the configuration.';
COMMENT ON COLUMN relevo.schedule.rhythm IS
    'every <N>h from <HH:MM> (wall-clock time of the zone) or cron <expression> (five fields, or six with seconds first).';
COMMENT ON COLUMN relevo.schedule.timezone IS 'IANA name of the zone the rhythm is meant in.';
COMMENT ON COLUMN relevo.schedule.backup_source IS 'Name of the configured backup source whose run is started.';
COMMENT ON COLUMN relevo.schedule.job_kind IS 'Kind of the job that is enqueued, where no backup is started.';
COMMENT ON COLUMN relevo.schedule.job_payload IS 'Payload of that job.';
COMMENT ON COLUMN relevo.schedule.missed_runs IS
    'What becomes of slots nobody was there for. once: the newest starts, the others are recorded as skipped; skip: none starts; catch_up: all start, oldest first.';
COMMENT ON COLUMN relevo.schedule.missed_max_age_seconds IS
    'A missed slot older than this, in seconds, is never started.';
COMMENT ON COLUMN relevo.schedule.settled_to IS
    'Every slot at or before this moment was dealt with. Begins at the moment the schedule was made or changed, so slots of the past do not fire.';
COMMENT ON COLUMN relevo.schedule.created_at IS 'When the schedule was first seen.';
COMMENT ON COLUMN relevo.schedule.updated_at IS 'When its definition last changed.';
COMMENT ON COLUMN relevo.schedule.updated_by IS 'Process that last changed its definition.';

CREATE TABLE relevo.schedule_fire (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schedule  text        NOT NULL REFERENCES relevo.schedule (name) ON DELETE CASCADE,
    slot      timestamptz NOT NULL,
    outcome   text        NOT NULL CHECK (outcome IN ('started', 'skipped')),
    reason    text,
    run_id    bigint,
    job_id    bigint,
    term      bigint      NOT NULL,
    fired_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT schedule_fire_once_per_slot UNIQUE (schedule, slot),
    CONSTRAINT schedule_fire_outcome_is_told CHECK (
        (outcome = 'started' AND reason IS NULL AND num_nonnulls(run_id, job_id) = 1)
        OR (outcome = 'skipped' AND reason IS NOT NULL AND run_id IS NULL AND job_id IS NULL)
    )
);
COMMENT ON TABLE relevo.schedule_fire IS
    'One row per slot that was dealt with, inserted in the transaction that starts its run or job.';
COMMENT ON COLUMN relevo.schedule_fire.id IS 'Order in which the slots were dealt with.';
COMMENT ON COLUMN relevo.schedule_fire.schedule IS 'The schedule; its deletion takes its fires along.';
COMMENT ON COLUMN relevo.schedule_fire.slot IS 'The nominal moment: when it was meant to start, not when it did.';
COMMENT ON COLUMN relevo.schedule_fire.outcome IS 'started: a run or job was made; skipped: nothing was, reason says why.';
COMMENT ON COLUMN relevo.schedule_fire.reason IS 'Why the slot was skipped, for people.';
COMMENT ON COLUMN relevo.schedule_fire.run_id IS 'The run it started; no foreign key, since runs are pruned on their own.';
COMMENT ON COLUMN relevo.schedule_fire.job_id IS 'The job it enqueued; no foreign key, since jobs move between tables.';
COMMENT ON COLUMN relevo.schedule_fire.term IS 'Term of the leader that dealt with it.';
COMMENT ON COLUMN relevo.schedule_fire.fired_at IS 'When it was dealt with, by the database''s clock.';

CREATE INDEX schedule_fire_by_age ON relevo.schedule_fire (fired_at);
COMMENT ON INDEX relevo.schedule_fire_by_age IS 'For the hourly removal of old fires.';
