-- A control plane that is restored from a backup counts its runs on from where the backup stood, so
-- the number alone no longer says which run a file or an import in a target belongs to.

ALTER TABLE relevo.run ADD COLUMN incarnation bigint NOT NULL DEFAULT 1;
UPDATE relevo.run SET incarnation = (SELECT incarnation FROM relevo.control);
ALTER TABLE relevo.run ALTER COLUMN incarnation DROP DEFAULT;
ALTER TABLE relevo.run ADD CONSTRAINT run_incarnation_positive CHECK (incarnation > 0);
COMMENT ON COLUMN relevo.run.incarnation IS
    'The control plane''s incarnation when the run was created; part of the name of what it leaves on disk and in targets.';

CREATE INDEX run_by_end ON relevo.run (finished_at) WHERE cleaned_at IS NOT NULL;
COMMENT ON INDEX relevo.run_by_end IS
    'Ended runs in the order in which they are forgotten.';
