-- Who is logged in at the console, and links that log in once.

CREATE TABLE relevo.console_session (
    token_sha256 bytea       NOT NULL,
    api_key_id   bigint      NULL,
    name         text        NOT NULL,
    scopes       text[]      NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    used_at      timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    CONSTRAINT console_session_pkey PRIMARY KEY (token_sha256),
    CONSTRAINT console_session_token_length CHECK (octet_length(token_sha256) = 32),
    CONSTRAINT console_session_key_fkey
        FOREIGN KEY (api_key_id) REFERENCES relevo.api_key (id) ON DELETE CASCADE,
    CONSTRAINT console_session_name_length CHECK (char_length(name) BETWEEN 1 AND 200),
    CONSTRAINT console_session_scopes_known
        CHECK (scopes <> '{}' AND scopes <@ ARRAY['enqueue', 'read', 'operate', 'admin']),
    CONSTRAINT console_session_ends CHECK (expires_at > created_at)
);
COMMENT ON TABLE relevo.console_session IS
    'One row per browser that is logged in at the console. Logging out deletes it; what has expired is deleted at later log-ins.';
COMMENT ON COLUMN relevo.console_session.token_sha256 IS
    'SHA-256 of the cookie; looked up by hash, so the table holds no secret.';
COMMENT ON COLUMN relevo.console_session.api_key_id IS
    'The key that was shown; the session ends when the key is revoked or expires. NULL after a one-time link.';
COMMENT ON COLUMN relevo.console_session.name IS
    'Who it is in the audit log: the key''s name, or whom the link was made for.';
COMMENT ON COLUMN relevo.console_session.scopes IS 'What it may do.';
COMMENT ON COLUMN relevo.console_session.created_at IS 'When it was opened.';
COMMENT ON COLUMN relevo.console_session.used_at IS
    'When it was last used, to the minute; a session idle for too long opens nothing.';
COMMENT ON COLUMN relevo.console_session.expires_at IS 'From then on it opens nothing, however it is used.';

CREATE INDEX console_session_by_end ON relevo.console_session (expires_at);
COMMENT ON INDEX relevo.console_session_by_end IS 'For deleting what has expired.';
CREATE INDEX console_session_by_key ON relevo.console_session (api_key_id) WHERE api_key_id IS NOT NULL;
COMMENT ON INDEX relevo.console_session_by_key IS 'What the foreign key needs.';

CREATE TABLE relevo.console_link (
    token_sha256 bytea       NOT NULL,
    name         text        NOT NULL,
    scopes       text[]      NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    CONSTRAINT console_link_pkey PRIMARY KEY (token_sha256),
    CONSTRAINT console_link_token_length CHECK (octet_length(token_sha256) = 32),
    CONSTRAINT console_link_name_length CHECK (char_length(name) BETWEEN 1 AND 200),
    CONSTRAINT console_link_scopes_known
        CHECK (scopes <> '{}' AND scopes <@ ARRAY['enqueue', 'read', 'operate', 'admin']),
    CONSTRAINT console_link_ends CHECK (expires_at > created_at)
);
COMMENT ON TABLE relevo.console_link IS
    'One row per one-time link that nobody has followed yet. Following it deletes the row in the transaction that opens the session.';
COMMENT ON COLUMN relevo.console_link.token_sha256 IS 'SHA-256 of the token in the link.';
COMMENT ON COLUMN relevo.console_link.name IS 'Whom it was made for, as the audit log will name them.';
COMMENT ON COLUMN relevo.console_link.scopes IS 'What the session will be allowed.';
COMMENT ON COLUMN relevo.console_link.created_at IS 'When it was made.';
COMMENT ON COLUMN relevo.console_link.expires_at IS 'From then on it opens nothing.';

COMMENT ON COLUMN relevo.audit.api_key_id IS
    'The API key that was shown, at the API or when logging in at the console; NULL for the command line and one-time links. No foreign key: the entry outlives the key.';
COMMENT ON COLUMN relevo.audit.actor IS
    'api:<name of the key>, console:<name of the key or person>, or cli:<user of the operating system>.';
