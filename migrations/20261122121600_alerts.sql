-- States that somebody should look at: told once when they begin and once when they are over.

CREATE TABLE relevo.alert (
    id           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    key          text        NOT NULL,
    rule         text        NOT NULL,
    subject      text        NOT NULL,
    details      jsonb       NOT NULL DEFAULT '{}',
    level        bigint      NOT NULL DEFAULT 0,
    occurrences  bigint      NOT NULL DEFAULT 1,
    opened_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    told_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    told_level   bigint      NOT NULL DEFAULT 0,
    resolved_at  timestamptz NULL,
    CONSTRAINT alert_pkey PRIMARY KEY (id),
    CONSTRAINT alert_key_length CHECK (char_length(key) BETWEEN 1 AND 500),
    CONSTRAINT alert_rule_known CHECK (
        rule IN ('failed', 'overdue', 'disk_low', 'no_worker', 'dead_letters', 'channel')
    ),
    CONSTRAINT alert_subject_length CHECK (char_length(subject) BETWEEN 1 AND 500),
    CONSTRAINT alert_details_is_object CHECK (jsonb_typeof(details) = 'object'),
    CONSTRAINT alert_occurrences_positive CHECK (occurrences > 0),
    CONSTRAINT alert_resolved_after_opened CHECK (resolved_at >= opened_at)
);
COMMENT ON TABLE relevo.alert IS
    'One row per state that somebody should look at, from its beginning to its end.';
COMMENT ON COLUMN relevo.alert.key IS
    'What the state is of, for example overdue/backup/sicar: while it lasts there is one row of a key.';
COMMENT ON COLUMN relevo.alert.rule IS
    'failed: a source''s last run failed; overdue: no success in time; disk_low; no_worker; dead_letters; channel: a way to tell people is dead.';
COMMENT ON COLUMN relevo.alert.subject IS
    'The source, host or channel; for people.';
COMMENT ON COLUMN relevo.alert.details IS
    'Figures of the message, as last seen; never secrets.';
COMMENT ON COLUMN relevo.alert.level IS
    'How bad it is as last seen, where that is a number (dead letters present).';
COMMENT ON COLUMN relevo.alert.occurrences IS
    'How often it was seen, or for failed runs how many failed in a row.';
COMMENT ON COLUMN relevo.alert.opened_at IS
    'When it was first seen.';
COMMENT ON COLUMN relevo.alert.last_seen_at IS
    'When it was last seen.';
COMMENT ON COLUMN relevo.alert.told_at IS
    'When people were last told, that is when the jobs that tell them were enqueued.';
COMMENT ON COLUMN relevo.alert.told_level IS
    'The level they were told of.';
COMMENT ON COLUMN relevo.alert.resolved_at IS
    'When it was over; NULL while it lasts.';

CREATE UNIQUE INDEX alert_one_open_per_key ON relevo.alert (key) WHERE resolved_at IS NULL;
COMMENT ON INDEX relevo.alert_one_open_per_key IS
    'A state begins once, however many processes see it.';
CREATE INDEX alert_resolved ON relevo.alert (resolved_at) WHERE resolved_at IS NOT NULL;
COMMENT ON INDEX relevo.alert_resolved IS
    'For pruning.';
