-- The run remembers the trace it was started in: jobs that are not made by its own handlers (by the
-- gateway's webhook, by a reconciler) join it.

ALTER TABLE relevo.run ADD COLUMN traceparent text NULL,
    ADD CONSTRAINT run_traceparent_length CHECK (char_length(traceparent) <= 200);
COMMENT ON COLUMN relevo.run.traceparent IS
    'W3C trace context of who started the run; null where traces are off.';
