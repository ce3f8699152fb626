-- The door for triggers and other languages: a job enqueued in the caller's own transaction, by the
-- policy of its kind. The same steps in the same order as in shared/queue/src/enqueue.
--
-- SECURITY DEFINER, so that who enqueues needs no right on any table; nobody may call it until the
-- right is granted: docs/enqueue-sql.md.

CREATE FUNCTION relevo.enqueue(
    kind            text,
    payload         jsonb       DEFAULT '{}',
    queue           text        DEFAULT NULL,
    priority        integer     DEFAULT NULL,
    run_at          timestamptz DEFAULT NULL,
    delay           interval    DEFAULT NULL,
    idempotency_key text        DEFAULT NULL,
    idempotency_ttl interval    DEFAULT '24 hours',
    unique_key      text        DEFAULT NULL,
    unique_until    text        DEFAULT NULL,
    payload_version integer     DEFAULT NULL,
    traceparent     text        DEFAULT NULL,
    OUT id          bigint,
    OUT duplicate   boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    tries_max CONSTANT integer := 5;
    policy    relevo.job_kind;
    new_id    bigint;
    due       timestamptz;
    held      text;
    scope     relevo.unique_scope;
    holder    bigint;
BEGIN
    SELECT k.* INTO policy FROM relevo.job_kind AS k WHERE k.name = enqueue.kind;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no job kind is called "%"', left(enqueue.kind, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A kind is known from the start of the first worker that runs it.';
    END IF;
    IF policy.internal THEN
        RAISE EXCEPTION 'jobs of the kind "%" are steps of Relevo''s own', enqueue.kind
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Start the run they belong to, over HTTP or by command.';
    END IF;
    IF jsonb_typeof(enqueue.payload) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'a payload is a JSON object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(enqueue.payload::text) > 1048576 THEN
        RAISE EXCEPTION 'the payload has % bytes, at most 1048576 are taken',
            octet_length(enqueue.payload::text) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF enqueue.payload_version NOT BETWEEN 1 AND policy.payload_version THEN
        RAISE EXCEPTION 'payloads of "%" have the versions 1 to %', enqueue.kind,
            policy.payload_version USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF length(enqueue.queue) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'a queue''s name has 1 to 100 characters'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF enqueue.priority NOT BETWEEN -32768 AND 32767 THEN
        RAISE EXCEPTION 'a priority lies between -32768 and 32767'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF enqueue.run_at NOT BETWEEN '2000-01-01 00:00:00+00' AND '3000-01-01 00:00:00+00'
       OR enqueue.delay NOT BETWEEN interval '0' AND interval '10 years' THEN
        RAISE EXCEPTION 'run_at lies between the years 2000 and 2999, delay between nothing and ten years'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF length(enqueue.idempotency_key) NOT BETWEEN 1 AND 400
       OR length(enqueue.unique_key) NOT BETWEEN 1 AND 400 THEN
        RAISE EXCEPTION 'a key has 1 to 400 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF enqueue.idempotency_key IS NOT NULL
       AND (enqueue.idempotency_ttl BETWEEN interval '1 millisecond' AND interval '10 years')
           IS NOT TRUE THEN
        RAISE EXCEPTION 'an idempotency key lives more than nothing and at most ten years'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF enqueue.unique_until NOT IN ('claimed', 'finished')
       OR (enqueue.unique_until IS NOT NULL AND enqueue.unique_key IS NULL) THEN
        RAISE EXCEPTION 'unique_until is ''claimed'' or ''finished'', and says how long unique_key holds'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF length(enqueue.traceparent) > 200 THEN
        RAISE EXCEPTION 'the traceparent is not one' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    new_id := nextval('relevo.job_id_seq');
    due := coalesce(enqueue.run_at, now()) + coalesce(enqueue.delay, interval '0');

    -- First the idempotency key decides. Callers' keys are their own: none can meet a key of
    -- Relevo's own jobs, nor one given over HTTP.
    IF enqueue.idempotency_key IS NOT NULL THEN
        FOR try IN 1..tries_max LOOP
            INSERT INTO relevo.idempotency_key AS k (key, job_id, expires_at)
            VALUES ('sql/' || enqueue.idempotency_key, new_id, now() + enqueue.idempotency_ttl)
            ON CONFLICT (key) DO UPDATE
                SET job_id = excluded.job_id, created_at = now(), expires_at = excluded.expires_at
                WHERE k.expires_at <= now();
            EXIT WHEN FOUND;
            SELECT k.job_id INTO holder FROM relevo.idempotency_key AS k
            WHERE k.key = 'sql/' || enqueue.idempotency_key;
            IF FOUND THEN
                id := holder;
                duplicate := true;
                RETURN;
            END IF;
            -- It was pruned between the two statements, and is free again.
            IF try = tries_max THEN
                RAISE EXCEPTION 'the idempotency key was taken and freed again and again'
                    USING ERRCODE = 'serialization_failure';
            END IF;
        END LOOP;
    END IF;

    -- Then the unique key: the caller's, or what the kind itself goes by.
    IF enqueue.unique_key IS NOT NULL THEN
        held := 'sql/' || enqueue.unique_key;
        scope := coalesce(enqueue.unique_until, 'finished')::relevo.unique_scope;
    ELSIF policy.unique_field IS NOT NULL
          AND (jsonb_typeof(enqueue.payload -> policy.unique_field) = 'string'
               OR enqueue.payload ->> policy.unique_field ~ '^-?[0-9]+$') THEN
        held := 'kind/' || policy.name || '/' || (enqueue.payload ->> policy.unique_field);
        scope := policy.unique_scope;
    END IF;
    IF length(held) > 500 THEN
        RAISE EXCEPTION 'the field % of the payload is too long to be unique by', policy.unique_field
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR try IN 1..tries_max LOOP
        INSERT INTO relevo.job
            (id, kind, payload, payload_version, queue, priority, max_attempts, max_deaths,
             traceparent, unique_key, unique_scope, run_at, state)
        VALUES (new_id, policy.name, enqueue.payload,
                coalesce(enqueue.payload_version, policy.payload_version),
                coalesce(enqueue.queue, policy.queue), coalesce(enqueue.priority, policy.priority),
                policy.max_attempts, policy.max_deaths, enqueue.traceparent, held, scope, due,
                CASE WHEN due > now() THEN 'scheduled' ELSE 'available' END::relevo.job_state)
        ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING;
        EXIT WHEN FOUND;
        SELECT j.id INTO holder FROM relevo.job AS j WHERE j.unique_key = held;
        IF FOUND THEN
            IF enqueue.idempotency_key IS NOT NULL THEN
                UPDATE relevo.idempotency_key AS k SET job_id = holder
                WHERE k.key = 'sql/' || enqueue.idempotency_key;
            END IF;
            id := holder;
            duplicate := true;
            RETURN;
        END IF;
        -- Its holder ended between the two statements.
        IF try = tries_max THEN
            RAISE EXCEPTION 'the unique key was taken and freed again and again'
                USING ERRCODE = 'serialization_failure';
        END IF;
    END LOOP;

    -- Delivered when the caller's transaction commits; the same queue is told of once.
    IF due <= now() THEN
        PERFORM pg_notify('relevo_job', coalesce(enqueue.queue, policy.queue));
    END IF;
    id := new_id;
    duplicate := false;
END
$$;
COMMENT ON FUNCTION relevo.enqueue IS
    'Enqueues a job of a published kind in the caller''s transaction: it exists when that commits. The same key gives the first job''s id, with duplicate true. Not executable by anybody until granted.';
REVOKE ALL ON FUNCTION relevo.enqueue FROM PUBLIC;
