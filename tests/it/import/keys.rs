//! Keys that Postgres has otherwise than MySQL: of values too long for an index, of texts whose case
//! does not count, of numbers past 2^63.

use serde_json::Value;

use super::target::Target;
use crate::cli::Relevo;

/// Letters and digits in no order that could be packed, the same ones each time.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed;
    let letters = std::iter::repeat_with(|| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from_digit((state >> 33) as u32 % 36, 36).unwrap()
    });
    letters.take(length).collect()
}

fn notices(certificate: &Value) -> String {
    certificate["notices"].to_string()
}

#[tokio::test]
async fn values_too_long_for_an_index_are_indexed_otherwise() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    let dump = |length: usize| {
        let row = |seed| {
            let long = noise(seed, length);
            format!("('{long}','{long}','{long}',{seed})")
        };
        format!(
            "CREATE TABLE `pagina` (\n  `url` mediumtext NOT NULL,\n  `titulo` varchar(6000) NOT \
             NULL,\n  `autor` varchar(6000) DEFAULT NULL,\n  `n` int NOT NULL,\n  PRIMARY KEY \
             (`url`(25),`n`),\n  UNIQUE KEY `titulo` (`titulo`),\n  KEY `autor` (`autor`,`n`)\n) \
             DEFAULT CHARSET=latin1 COLLATE=latin1_bin;\nINSERT INTO `pagina` VALUES {},{};\n",
            row(1),
            row(2)
        )
    };
    relevo.file("corta.sql", dump(600));
    let certificate = relevo.json(&["dump", "import", "corta.sql", "--to", target.url()]).await;
    assert!(!notices(&certificate).contains("too long"), "{certificate}");
    let keys = "SELECT string_agg(indexdef, ' | ' ORDER BY indexname) FROM pg_indexes
                WHERE schemaname = 'public' AND tablename = 'pagina'";
    let whole = target.ask(keys).await;
    assert!(!whole.contains("md5") && whole.contains("(url, n)"), "{whole}");

    relevo.file("larga.sql", dump(5_900));
    for more in [&[][..], &["--schema", "otra", "--single-transaction"][..]] {
        let args = ["dump", "import", "larga.sql", "--to", target.url()];
        let certificate = relevo.json(&[&args[..], more].concat()).await;
        let said = notices(&certificate);
        for wanted in ["no primary key", "unique by its hash", "over the beginnings of values"] {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
    }
    let narrow = target.ask(keys).await;
    assert!(
        narrow.contains("md5(\"left\"(url, 25)), n") && narrow.contains("md5((titulo)::text)"),
        "{narrow}"
    );
    assert!(narrow.contains("\"left\"((autor)::text, 250), n"), "{narrow}");
    let again = format!("INSERT INTO pagina VALUES ('x', '{}', NULL, 3)", noise(2, 5_900));
    let refused = sqlx::query(sqlx::AssertSqlSafe(again)).execute(target.pool()).await;
    assert!(refused.unwrap_err().to_string().contains("pagina_titulo"));
}

#[tokio::test]
async fn keys_without_regard_to_case_are_made_on_request() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    relevo.file(
        "cuenta.sql",
        "CREATE TABLE `cuenta` (\n  `clave` varchar(20) NOT NULL,\n  `correo` varchar(80) DEFAULT \
         NULL,\n  `exacto` varchar(20) COLLATE utf8mb4_bin DEFAULT NULL,\n  PRIMARY KEY (`clave`),\n  \
         UNIQUE KEY `correo` (`correo`),\n  UNIQUE KEY `exacto` (`exacto`)\n) DEFAULT \
         CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;\n\
         INSERT INTO `cuenta` VALUES ('ana','ana@x','ana'),('eva',NULL,'Ana');\n",
    );
    let args = ["dump", "import", "cuenta.sql", "--to", target.url()];
    let certificate = relevo.json(&args).await;
    assert!(notices(&certificate).contains("with regard to it in Postgres"), "{certificate}");
    target.run("INSERT INTO cuenta VALUES ('ANA', 'ANA@X', 'ANA')").await;

    let certificate = relevo.json(&[&args[..], &["--case-insensitive-keys"]].concat()).await;
    assert!(!notices(&certificate).contains("with regard to it in Postgres"), "{certificate}");
    for (row, key) in [
        ("('ANA', 'otro', 'otro')", "cuenta_PRIMARY_ci"),
        ("('otra', 'ANA@x', 'otro')", "cuenta_correo"),
        ("('otra', 'otro', 'Ana')", "cuenta_exacto"),
    ] {
        let sql = format!("INSERT INTO cuenta VALUES {row}");
        let refused = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(target.pool()).await;
        assert!(refused.unwrap_err().to_string().contains(key), "{key}");
    }
    target.run("INSERT INTO cuenta VALUES ('iris', NULL, 'ANA')").await;
}

#[tokio::test]
async fn numbers_past_what_counts_by_itself_are_refused_with_the_option_that_takes_them() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    relevo.file(
        "grande.sql",
        "CREATE TABLE `grande` (\n  `id` bigint unsigned NOT NULL AUTO_INCREMENT,\n  PRIMARY KEY \
         (`id`)\n);\nINSERT INTO `grande` VALUES (1),(18446744073709551615);\n",
    );
    let args = ["dump", "import", "grande.sql", "--to", target.url()];
    relevo.refuses(&args, 1, &["18446744073709551615", "TABLE.COLUMN=numeric"]).await;
    let certificate = relevo.json(&[&args[..], &["--column", "grande.id=numeric"]].concat()).await;
    assert!(notices(&certificate).contains("AUTO_INCREMENT left out"), "{certificate}");
    assert_eq!(target.ask("SELECT max(id)::text FROM grande").await, "18446744073709551615");
}
