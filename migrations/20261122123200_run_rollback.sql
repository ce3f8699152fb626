-- A run whose import was rolled back stays a success; that its data were taken back is noted beside.

ALTER TABLE relevo.run
    ADD COLUMN rolled_back_at timestamptz NULL,
    ADD COLUMN rolled_back_by text NULL,
    ADD CONSTRAINT run_rolled_back_by_length CHECK (char_length(rolled_back_by) BETWEEN 1 AND 200),
    ADD CONSTRAINT run_rolled_back_succeeded
        CHECK ((rolled_back_at IS NULL) = (rolled_back_by IS NULL)
           AND (rolled_back_at IS NULL OR state = 'succeeded'));
COMMENT ON COLUMN relevo.run.rolled_back_at IS
    'When the data from before the run were put back into their place; NULL while its own are.';
COMMENT ON COLUMN relevo.run.rolled_back_by IS
    'Who did that, as in the audit log.';
