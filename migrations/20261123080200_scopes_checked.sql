-- The scopes there were before `work` satisfy the wider checks too.

ALTER TABLE relevo.api_key VALIDATE CONSTRAINT api_key_scopes_known_2;
ALTER TABLE relevo.console_session VALIDATE CONSTRAINT console_session_scopes_known_2;
ALTER TABLE relevo.console_link VALIDATE CONSTRAINT console_link_scopes_known_2;
