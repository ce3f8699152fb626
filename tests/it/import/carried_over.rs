//! What people hang on their tables is there after an import, on the new ones.

use super::dump::Dump;
use super::target::{Target, ask};

#[tokio::test(flavor = "multi_thread")]
async fn row_security_keeps_rows_hidden() {
    let target = Target::new().await;
    let (reader, auditor) = (target.role("reader").await, target.role("auditor").await);
    target.import(&Dump::default()).await.unwrap();
    target
        .run(&format!(
            "GRANT SELECT ON articulo, categoria TO {reader}, {auditor};
             ALTER TABLE articulo ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             CREATE POLICY cheap ON articulo FOR SELECT TO {reader} USING
                 (precio1 < 100 AND EXISTS (SELECT FROM categoria c WHERE c.cat_id = articulo.cat_id));
             CREATE POLICY not_first ON articulo AS RESTRICTIVE TO {reader} USING (art_id <> 2);
             CREATE POLICY writing ON articulo FOR INSERT WITH CHECK (precio1 > 0);",
            reader = reader.name,
            auditor = auditor.name,
        ))
        .await;
    let policies = "SELECT string_agg(concat_ws('|', policyname, permissive, roles, cmd, qual, with_check), E'\\n'
                                      ORDER BY policyname)
                    FROM pg_policies WHERE schemaname = 'public' AND tablename = 'articulo'";
    let before = target.ask(policies).await;
    let (reads, audits) = (reader.pool().await, auditor.pool().await);
    let visible = "SELECT count(*)::text FROM articulo";
    let seen = ask(&reads, visible).await.unwrap();
    assert_ne!(seen, "0");
    for articles in [310, 320] {
        target.import(&Dump::new(articles, "dos")).await.unwrap();
        assert_eq!(target.ask(policies).await, before);
        assert_eq!(ask(&reads, visible).await.unwrap(), seen);
        assert_eq!(ask(&audits, visible).await.unwrap(), "0", "no policy lets it see anything");
    }
    reads.close().await;
    audits.close().await;
    reader.drop().await;
    auditor.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_others_follow_with_their_grants_and_dependents() {
    let target = Target::new().await;
    let reader = target.role("reader").await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    target
        .run(&format!(
            "CREATE SCHEMA informes;
             CREATE VIEW informes.caros WITH (security_barrier) AS
                 SELECT a.art_id, a.\"claveAlterna\", c.nombre AS categoria
                 FROM articulo a JOIN categoria c USING (cat_id) WHERE a.precio1 > 100;
             COMMENT ON VIEW informes.caros IS 'para gerencia';
             CREATE VIEW informes.resumen AS
                 SELECT categoria, count(*) AS cuantos FROM informes.caros GROUP BY categoria;
             GRANT USAGE ON SCHEMA informes TO {reader};
             GRANT SELECT ON informes.caros, informes.resumen TO {reader};",
            reader = reader.name
        ))
        .await;
    let pool = reader.pool().await;
    let seen = || ask(&pool, "SELECT count(*)::text FROM informes.caros");
    let before: i64 = seen().await.unwrap().parse().unwrap();
    for (articles, mark) in [(400, "dos"), (500, "tres")] {
        target.import(&Dump::new(articles, mark)).await.unwrap();
        let now: i64 = seen().await.unwrap().parse().unwrap();
        assert!(now > before, "the view shows the new rows");
        let summed = ask(&pool, "SELECT sum(cuantos)::text FROM informes.resumen").await.unwrap();
        assert_eq!(summed, now.to_string());
    }
    let barrier =
        "SELECT reloptions::text || obj_description(oid) FROM pg_class WHERE relname = 'caros'";
    assert_eq!(target.ask(barrier).await, "{security_barrier=true}para gerencia");
    pool.close().await;
    reader.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_of_other_tables_follow() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    target
        .run(
            "CREATE TABLE pedido (id int PRIMARY KEY,
                 art_id int REFERENCES articulo (art_id) ON DELETE CASCADE);
             INSERT INTO pedido SELECT i, i FROM generate_series(1, 50) i;",
        )
        .await;
    target.import(&Dump::new(290, "dos")).await.unwrap();
    let key = "SELECT convalidated::text || ' ' || confrelid::regclass::text || ' ' || pg_get_constraintdef(oid)
               FROM pg_constraint WHERE conrelid = 'pedido'::regclass AND contype = 'f'";
    assert_eq!(
        target.ask(key).await,
        "true articulo FOREIGN KEY (art_id) REFERENCES articulo(art_id) ON DELETE CASCADE"
    );
    target.run("DELETE FROM articulo WHERE art_id = 7").await;
    assert_eq!(target.count("pedido").await, 49, "the key works on the new table");
    // The previous tables can go without anybody noticing.
    target.import(&Dump::new(290, "tres")).await.unwrap();
    assert_eq!(target.own_schemas().await, "relevo_prev_public");
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_rules_publications_comments_and_options_follow() {
    let target = Target::new().await;
    target.import(&Dump::default()).await.unwrap();
    target
        .run(
            "CREATE TABLE cambios (art_id int);
             CREATE FUNCTION anota() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.cambios VALUES (NEW.art_id); RETURN NEW; END $$;
             CREATE TRIGGER anota AFTER UPDATE OF precio1 ON articulo
                 FOR EACH ROW WHEN (OLD.precio1 <> NEW.precio1) EXECUTE FUNCTION anota();
             CREATE TRIGGER callado AFTER INSERT ON articulo FOR EACH ROW EXECUTE FUNCTION anota();
             ALTER TABLE articulo DISABLE TRIGGER callado;
             COMMENT ON TABLE articulo IS 'lo que se vende';
             COMMENT ON COLUMN articulo.precio1 IS 'con IVA';
             COMMENT ON TABLE categoria IS 'cambiado a mano';
             ALTER TABLE articulo SET (fillfactor = 80);
             ALTER TABLE categoria REPLICA IDENTITY FULL;
             CREATE STATISTICS juntos ON cat_id, precio1 FROM articulo;
             COMMENT ON STATISTICS juntos IS 'van juntos';
             COMMENT ON TRIGGER anota ON articulo IS 'quien cambia';
             COMMENT ON INDEX articulo_cat_idx IS 'por categoría';
             COMMENT ON CONSTRAINT articulo_pkey ON articulo IS 'la clave';
             CREATE POLICY todas ON departamento USING (true);
             COMMENT ON POLICY todas ON departamento IS 'todo se ve';
             CREATE RULE callada AS ON DELETE TO departamento DO INSTEAD NOTHING;
             CREATE RULE dormida AS ON UPDATE TO departamento DO ALSO DELETE FROM cambios;
             ALTER TABLE departamento DISABLE RULE dormida;
             ALTER TABLE articulo ALTER COLUMN cat_id SET STATISTICS 500;
             ALTER TABLE articulo ALTER COLUMN cat_id SET (n_distinct = 12);
             CREATE PUBLICATION precios FOR TABLE categoria, articulo (art_id, precio1) WHERE (art_id > 10);",
        )
        .await;
    let published = "SELECT string_agg(concat_ws('|', tablename, attnames, rowfilter), E'\\n' ORDER BY tablename)
                     FROM pg_publication_tables WHERE pubname = 'precios' AND schemaname = 'public'";
    let before = target.ask(published).await;
    for articles in [301, 302] {
        let certificate = target.import(&Dump::new(articles, "dos")).await.unwrap();
        assert!(certificate.notices.iter().any(|notice| notice.contains("REFRESH PUBLICATION")));
        assert_eq!(target.ask(published).await, before);
        target
            .run("TRUNCATE cambios; UPDATE articulo SET precio1 = precio1 + 1 WHERE art_id < 4")
            .await;
        assert_eq!(target.count("cambios").await, 3);
        let asks = [
            (
                "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'callado'
              AND tgrelid = 'articulo'::regclass",
                "D",
            ),
            (
                "SELECT count(*)::text FROM pg_trigger WHERE NOT tgisinternal
              AND tgrelid = 'articulo'::regclass",
                "3",
            ),
            ("SELECT obj_description('articulo'::regclass)", "lo que se vende"),
            ("SELECT col_description('articulo'::regclass, 4)", "con IVA"),
            ("SELECT obj_description('categoria'::regclass)", "Categorías"),
            (
                "SELECT reloptions::text FROM pg_class WHERE oid = 'articulo'::regclass",
                "{fillfactor=80}",
            ),
            ("SELECT relreplident::text FROM pg_class WHERE oid = 'categoria'::regclass", "f"),
            (
                "SELECT string_agg(rulename || ' ' || ev_enabled::text, ', ' ORDER BY rulename)
                 FROM pg_rewrite WHERE ev_class = 'departamento'::regclass",
                "callada O, dormida D",
            ),
            (
                "SELECT attstattarget || ' ' || attoptions::text FROM pg_attribute
                 WHERE attrelid = 'articulo'::regclass AND attname = 'cat_id'",
                "500 {n_distinct=12}",
            ),
            (
                "SELECT string_agg(description, ', ' ORDER BY description) FROM pg_description
                 WHERE description IN ('van juntos', 'quien cambia', 'por categoría', 'la clave', 'todo se ve')
                   AND objoid IN (
                       SELECT oid FROM pg_statistic_ext WHERE stxrelid = 'articulo'::regclass UNION ALL
                       SELECT oid FROM pg_trigger WHERE tgrelid = 'articulo'::regclass UNION ALL
                       SELECT indexrelid FROM pg_index WHERE indrelid = 'articulo'::regclass UNION ALL
                       SELECT oid FROM pg_constraint WHERE conrelid = 'articulo'::regclass UNION ALL
                       SELECT oid FROM pg_policy WHERE polrelid = 'departamento'::regclass)",
                "la clave, por categoría, quien cambia, todo se ve, van juntos",
            ),
            (
                "SELECT stxrelid::regclass::text FROM pg_statistic_ext WHERE stxname = 'juntos'",
                "articulo",
            ),
        ];
        for (question, answer) in asks {
            assert_eq!(target.ask(question).await, answer, "{question}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_the_application_are_made_again() {
    let target = Target::new().await;
    target.import(&Dump::default()).await.unwrap();
    target
        .run(
            "CREATE INDEX busqueda ON articulo USING gin (to_tsvector('spanish', descripcion));
             CREATE INDEX \"Caros ON x.y\" ON articulo (precio1 DESC) WHERE precio1 > 100;
             ALTER TABLE articulo ADD COLUMN nota text;
             CREATE INDEX notas ON articulo (nota);",
        )
        .await;
    let indexes = "SELECT string_agg(indexdef, E'\\n' ORDER BY indexname) FROM pg_indexes
                   WHERE schemaname = 'public' AND tablename = 'articulo' AND indexname <> 'notas'";
    let before = target.ask(indexes).await;
    assert!(before.contains("to_tsvector"), "{before}");
    let certificate = target.import(&Dump::new(301, "dos")).await.unwrap();
    assert_eq!(target.ask(indexes).await, before);
    for left in ["notas cannot be made", "column public.articulo.nota is not in the dump"] {
        assert!(
            certificate.notices.iter().any(|notice| notice.contains(left)),
            "{left}: {:?}",
            certificate.notices
        );
    }
    target.import(&Dump::new(302, "tres")).await.unwrap();
    assert_eq!(target.ask(indexes).await, before, "and again");
}
