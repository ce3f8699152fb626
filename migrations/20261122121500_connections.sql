-- Connections that people keep through the command line or the API, beside those of the
-- configuration file.

CREATE TABLE relevo.connection (
    name       text        NOT NULL,
    kind       text        NOT NULL,
    address    text        NOT NULL,
    options    jsonb       NOT NULL DEFAULT '{}',
    sealed     bytea       NOT NULL,
    key_id     text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by text        NOT NULL,
    CONSTRAINT connection_pkey PRIMARY KEY (name),
    CONSTRAINT connection_name_form CHECK (name ~ '^[a-z0-9_-]{1,40}$'),
    CONSTRAINT connection_kind_known CHECK (kind IN ('postgres', 'gateway', 'smtp', 'webhook')),
    CONSTRAINT connection_address_length CHECK (char_length(address) BETWEEN 1 AND 2000),
    CONSTRAINT connection_options_is_object CHECK (jsonb_typeof(options) = 'object'),
    CONSTRAINT connection_sealed_size CHECK (octet_length(sealed) BETWEEN 42 AND 100000),
    CONSTRAINT connection_key_id_form CHECK (key_id ~ '^[0-9a-f]{8}$'),
    CONSTRAINT connection_updated_by_length CHECK (char_length(updated_by) BETWEEN 1 AND 200)
);
COMMENT ON TABLE relevo.connection IS
    'Named endpoints kept through the command line or the API; those of the configuration file are not here.';
COMMENT ON COLUMN relevo.connection.name IS
    'The name that channels and sources use.';
COMMENT ON COLUMN relevo.connection.kind IS
    'What answers there.';
COMMENT ON COLUMN relevo.connection.address IS
    'Where, without user, password, path and parameters: what may be shown.';
COMMENT ON COLUMN relevo.connection.options IS
    'What else may be shown, such as the sender of a mail server.';
COMMENT ON COLUMN relevo.connection.sealed IS
    'The secrets (URL, key) as JSON, encrypted and authenticated with XChaCha20-Poly1305 together with the name: version byte, 24 bytes of nonce, ciphertext with its tag.';
COMMENT ON COLUMN relevo.connection.key_id IS
    'Which key sealed it: the first eight hexadecimal digits of the key''s SHA-256.';
COMMENT ON COLUMN relevo.connection.created_at IS
    'When it was first kept.';
COMMENT ON COLUMN relevo.connection.updated_at IS
    'When it was last changed or sealed anew.';
COMMENT ON COLUMN relevo.connection.updated_by IS
    'Who did that: api:<key''s name> or cli:<user>.';
