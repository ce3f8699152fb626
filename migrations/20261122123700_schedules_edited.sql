-- Schedules that operators edit: spread over some seconds, changed under a number that the leader
-- checks when it fires; and what the leader says about its configuration file.

ALTER TABLE relevo.schedule
    ADD COLUMN jitter_seconds integer NOT NULL DEFAULT 0
        CONSTRAINT schedule_jitter_in_range CHECK (jitter_seconds BETWEEN 0 AND 3600),
    ADD COLUMN revision bigint NOT NULL DEFAULT 1;
COMMENT ON COLUMN relevo.schedule.jitter_seconds IS
    'Starts are spread over so many seconds after their slot; the delay follows from name and slot.';
COMMENT ON COLUMN relevo.schedule.revision IS
    'Rises with every change of the definition. A slot is settled only under the revision its leader has read.';
COMMENT ON COLUMN relevo.schedule.rhythm IS
    'every <N>h from <HH:MM> (wall-clock time of the zone), every <N><s|m|h|d> (real time, counted from 1970), or cron <expression> (five fields, or six with seconds first).';
COMMENT ON COLUMN relevo.schedule.origin IS
    'configuration: written by the leader from relevo.toml; operator: made over the API, the command line or the console, never touched by the configuration.';
COMMENT ON COLUMN relevo.schedule.active IS
    'false: keeps its history and fires nothing: it left the configuration, or somebody disabled it.';
COMMENT ON COLUMN relevo.schedule.updated_by IS 'Who last changed its definition.';

CREATE TABLE relevo.schedule_file (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    path        text,
    loaded_at   timestamptz NOT NULL,
    problem     text,
    problem_at  timestamptz,
    reported_by text        NOT NULL,
    term        bigint      NOT NULL,
    CONSTRAINT schedule_file_problem_has_a_time CHECK ((problem IS NULL) = (problem_at IS NULL))
);
COMMENT ON TABLE relevo.schedule_file IS
    'One row: what the leading scheduler says about its configuration file.';
COMMENT ON COLUMN relevo.schedule_file.only_row IS 'Always true: there is one row at most.';
COMMENT ON COLUMN relevo.schedule_file.path IS 'The file, on the leader''s host; none when it runs without one.';
COMMENT ON COLUMN relevo.schedule_file.loaded_at IS 'When what is in force was read.';
COMMENT ON COLUMN relevo.schedule_file.problem IS
    'Why what is on disk now, or a part of it, is not in force; none when all of it is.';
COMMENT ON COLUMN relevo.schedule_file.problem_at IS 'When that was noticed.';
COMMENT ON COLUMN relevo.schedule_file.reported_by IS 'Host and process of the leader.';
COMMENT ON COLUMN relevo.schedule_file.term IS 'The leader''s term.';
