-- For the SQL editor of the Supabase project: each synchronised table needs an updated_at that the
-- database itself maintains, and an index in the order in which the sync reads.
-- Safe to run again.
CREATE OR REPLACE FUNCTION public.relevo_touch() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond');
    RETURN NEW;
END
$body$;

DO $body$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[{tables}]::text[] LOOP
        EXECUTE format('ALTER TABLE public.%I ALTER COLUMN updated_at SET DEFAULT clock_timestamp()', name);
        EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON public.%I (updated_at, id)',
                       left(name, 50) || '_sync_order', name);
        -- A row that was made offline appears now, whatever moment it carries.
        EXECUTE format('CREATE OR REPLACE TRIGGER relevo_touch_insert BEFORE INSERT ON public.%I
                        FOR EACH ROW EXECUTE FUNCTION public.relevo_touch()', name);
        -- A trigger that maintains it already is left as it is.
        IF NOT EXISTS (SELECT FROM pg_trigger t
                       WHERE t.tgrelid = format('public.%I', name)::regclass
                         AND NOT t.tgisinternal AND (t.tgtype & 19) = 19) THEN
            EXECUTE format('CREATE TRIGGER relevo_touch BEFORE UPDATE ON public.%I
                            FOR EACH ROW EXECUTE FUNCTION public.relevo_touch()', name);
        END IF;
    END LOOP;
END
$body$;
