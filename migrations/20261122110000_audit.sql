-- Who did what by hand, and keys that are replaced with an overlap.

CREATE TABLE relevo.audit (
    id         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    at         timestamptz NOT NULL DEFAULT now(),
    api_key_id bigint      NULL,
    actor      text        NOT NULL,
    action     text COLLATE "C" NOT NULL,
    object     text COLLATE "C" NOT NULL,
    before     jsonb       NULL,
    after      jsonb       NULL,
    CONSTRAINT audit_pkey PRIMARY KEY (id),
    CONSTRAINT audit_actor_length CHECK (char_length(actor) BETWEEN 1 AND 200),
    CONSTRAINT audit_action_form CHECK (action ~ '^[a-z_]+\.[a-z_]+$'),
    CONSTRAINT audit_object_length CHECK (char_length(object) BETWEEN 1 AND 300)
);
COMMENT ON TABLE relevo.audit IS
    'One row per action of an operator, inserted in the transaction of the action itself: there is never one without the other.';
COMMENT ON COLUMN relevo.audit.id IS 'Order of the entries.';
COMMENT ON COLUMN relevo.audit.at IS 'When the action''s transaction began, by this database''s clock.';
COMMENT ON COLUMN relevo.audit.api_key_id IS
    'The API key that was shown; NULL for the command line. No foreign key: the entry outlives the key.';
COMMENT ON COLUMN relevo.audit.actor IS 'api:<name of the key>, or cli:<user of the operating system>.';
COMMENT ON COLUMN relevo.audit.action IS 'What was done, <resource>.<verb>.';
COMMENT ON COLUMN relevo.audit.object IS 'To what: the resource''s number or name.';
COMMENT ON COLUMN relevo.audit.before IS 'How it was, where that is small and would be lost.';
COMMENT ON COLUMN relevo.audit.after IS 'How it is since, or what was asked for.';
CREATE INDEX audit_object ON relevo.audit (object, id);
COMMENT ON INDEX relevo.audit_object IS 'What happened to one thing.';

ALTER TABLE relevo.api_key
    ADD COLUMN expires_at timestamptz NULL,
    ADD COLUMN replaces   bigint      NULL;
COMMENT ON COLUMN relevo.api_key.expires_at IS
    'From then on it opens nothing: the end of the overlap with the key that replaces it. NULL while it has no end.';
COMMENT ON COLUMN relevo.api_key.replaces IS 'The key in whose place this one was made.';
