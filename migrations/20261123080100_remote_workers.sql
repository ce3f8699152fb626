-- Workers that reach the queue through the API: whose sessions they are, what they run, and the
-- scope that their keys have.

ALTER TABLE relevo.session
    ADD COLUMN owner text NULL,
    ADD COLUMN declared jsonb NULL;
COMMENT ON COLUMN relevo.session.owner IS
    'Who opened it through the API, and alone may act for it; null: a worker on this database.';
COMMENT ON COLUMN relevo.session.declared IS
    'What its owner wants to find again, such as the kinds it runs.';

ALTER TABLE relevo.api_key
    ADD CONSTRAINT api_key_scopes_known_2
        CHECK (scopes <@ ARRAY['enqueue', 'read', 'work', 'operate', 'admin']
               AND cardinality(scopes) > 0) NOT VALID,
    DROP CONSTRAINT api_key_scopes_known;

ALTER TABLE relevo.console_session
    ADD CONSTRAINT console_session_scopes_known_2
        CHECK (scopes <> '{}' AND scopes <@ ARRAY['enqueue', 'read', 'work', 'operate', 'admin'])
        NOT VALID,
    DROP CONSTRAINT console_session_scopes_known;

ALTER TABLE relevo.console_link
    ADD CONSTRAINT console_link_scopes_known_2
        CHECK (scopes <> '{}' AND scopes <@ ARRAY['enqueue', 'read', 'work', 'operate', 'admin'])
        NOT VALID,
    DROP CONSTRAINT console_link_scopes_known;
