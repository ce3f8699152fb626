-- relevo.enqueue() takes order and limits, and knows those of a kind.
--
-- A function cannot get new arguments: it is made anew, and whoever could call it still can. What
-- calls it by name is not touched: the new arguments come last and have defaults.

ALTER TABLE relevo.job_kind
    ADD COLUMN ordering_skips_dead boolean NOT NULL DEFAULT false,
    ADD COLUMN ordering_field      text    NULL,
    ADD COLUMN limit_key           text    COLLATE "C" NULL;
COMMENT ON COLUMN relevo.job_kind.ordering_field IS
    'The field of the payload whose value is the line that jobs of this kind stand in.';
COMMENT ON COLUMN relevo.job_kind.ordering_skips_dead IS
    'Whether those behind a dead letter in such a line go on.';
COMMENT ON COLUMN relevo.job_kind.limit_key IS 'The limit that jobs of this kind are under.';

-- Remembered until this transaction ends.
SELECT set_config('relevo.grants', coalesce(string_agg(
           format('GRANT EXECUTE ON FUNCTION relevo.enqueue TO %s%s', a.grantee::regrole,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '; '), ''), true)
FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
WHERE p.pronamespace = 'relevo'::regnamespace AND p.proname = 'enqueue'
  AND a.privilege_type = 'EXECUTE' AND a.grantee <> 0 AND a.grantee <> p.proowner;

-- allow contract: it is there again, with more arguments, when this transaction ends
DROP FUNCTION relevo.enqueue;

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
    ordering_key    text        DEFAULT NULL,
    on_dead         text        DEFAULT NULL,
    limit_key       text        DEFAULT NULL,
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
    line      text;
    line_dead relevo.order_on_dead;
    under     text;
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

    IF length(enqueue.ordering_key) NOT BETWEEN 1 AND 500
       OR length(enqueue.limit_key) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'an ordering key has 1 to 500 characters, a limit''s name 1 to 100'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF enqueue.on_dead NOT IN ('block', 'skip')
       OR (enqueue.on_dead IS NOT NULL AND enqueue.ordering_key IS NULL) THEN
        RAISE EXCEPTION 'on_dead is ''block'' or ''skip'', and says what a dead job means to those behind ordering_key'
            USING ERRCODE = 'invalid_parameter_value';
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
    -- Then the line it stands in, and the limit it is under: the caller's, or its kind's.
    IF enqueue.ordering_key IS NOT NULL THEN
        line := enqueue.ordering_key;
        line_dead := coalesce(enqueue.on_dead, 'block')::relevo.order_on_dead;
    ELSIF policy.ordering_field IS NOT NULL
          AND (jsonb_typeof(enqueue.payload -> policy.ordering_field) = 'string'
               OR enqueue.payload ->> policy.ordering_field ~ '^-?[0-9]+$') THEN
        line := 'kind/' || policy.name || '/' || (enqueue.payload ->> policy.ordering_field);
        line_dead := CASE WHEN policy.ordering_skips_dead THEN 'skip' ELSE 'block'
                     END::relevo.order_on_dead;
        IF length(line) > 500 THEN
            RAISE EXCEPTION 'the field % of the payload is too long to be ordered by',
                policy.ordering_field USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    under := coalesce(enqueue.limit_key, policy.limit_key);
    FOR try IN 1..tries_max LOOP
        INSERT INTO relevo.job
            (id, kind, payload, payload_version, queue, priority, max_attempts, max_deaths,
             traceparent, unique_key, unique_scope, ordering_key, on_dead, limit_key, run_at,
             state)
        VALUES (new_id, policy.name, enqueue.payload,
                coalesce(enqueue.payload_version, policy.payload_version),
                coalesce(enqueue.queue, policy.queue), coalesce(enqueue.priority, policy.priority),
                policy.max_attempts, policy.max_deaths, enqueue.traceparent, held, scope,
                line, line_dead, under, due,
                CASE WHEN due > now() THEN 'scheduled'
                     WHEN line IS NOT NULL OR under IS NOT NULL THEN 'waiting'
                     ELSE 'available' END::relevo.job_state)
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
    IF due <= now() AND line IS NULL AND under IS NULL THEN
        PERFORM pg_notify('relevo_job', coalesce(enqueue.queue, policy.queue));
    END IF;
    id := new_id;
    duplicate := false;
END
$$;
COMMENT ON FUNCTION relevo.enqueue IS
    'Enqueues a job of a published kind in the caller''s transaction: it exists when that commits. The same key gives the first job''s id, with duplicate true. Not executable by anybody until granted.';
REVOKE ALL ON FUNCTION relevo.enqueue FROM PUBLIC;
DO $$
BEGIN
    IF current_setting('relevo.grants') <> '' THEN
        EXECUTE current_setting('relevo.grants');
    END IF;
END
$$;
