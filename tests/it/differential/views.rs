//! Views over the random tables: what they show, on both sides.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use relevo_tests::MariaDb;
use sqlx::{AssertSqlSafe, PgPool};

use super::schema::quote;

/// Draws a view over a table with an `id`; `rules` can be computed from its other columns.
pub fn draw(random: &mut StdRng, nth: u32, table: &str, rules: &[String]) -> String {
    let rule = rules.choose(random).map_or("1", String::as_str);
    let least = random.random_range(0..9);
    let queries = [
        format!("SELECT `id` AS `k`, {rule} AS `x` FROM {table}"),
        format!(
            "SELECT `id`, `id` % 3 AS `rest` FROM {table} WHERE `id` > {least} ORDER BY `id` DESC"
        ),
        format!("SELECT count(*) AS `n`, min(`id`) AS `least`, max(`id`) AS `most` FROM {table}"),
        format!("SELECT `id` % 4 AS `part`, count(*) AS `n` FROM {table} GROUP BY `id` % 4"),
        format!(
            "SELECT `a`.`id` AS `one`, `b`.`id` AS `other` FROM {table} `a` LEFT JOIN {table} `b` \
             ON `b`.`id` = `a`.`id` + {least}"
        ),
        format!(
            "SELECT `id` FROM {table} WHERE `id` < {least} UNION SELECT `id` FROM {table} WHERE `id` BETWEEN 5 AND 9"
        ),
        format!("SELECT DISTINCT coalesce({rule}, 0) AS `x` FROM {table}"),
        format!(
            "SELECT CASE WHEN `id` IN (1, {least}) THEN 'yes' ELSE 'no' END AS `found` FROM {table}"
        ),
    ];
    let query = queries.choose(random).expect("a query");
    format!("CREATE VIEW `v{nth}` AS {query};")
}

/// Compares the rows of each view that was made; one that was not must be told of. Returns how
/// many were compared.
pub async fn compare(
    maria: &MariaDb,
    target: &PgPool,
    database: &str,
    told: &str,
) -> Result<usize, String> {
    let listed = maria
        .run(&format!(
            "SELECT table_name FROM information_schema.views WHERE table_schema = '{database}';"
        ))
        .map_err(|error| error.to_string())?;
    let made: Vec<String> = sqlx::query_scalar(
        "SELECT viewname::text FROM pg_views WHERE schemaname = $1 ORDER BY viewname",
    )
    .bind(database)
    .fetch_all(target)
    .await
    .expect("list the views");
    let mut compared = 0;
    for view in listed.lines() {
        if !made.iter().any(|name| name == view) {
            if !told.contains(view) {
                return Err(format!("view {view} was neither made nor told of"));
            }
            continue;
        }
        let expected = in_mysql(maria, database, view)?;
        let found = in_postgres(target, database, view).await;
        if expected != found {
            return Err(format!("view {view}: expected {expected:?}, found {found:?}"));
        }
        compared += 1;
    }
    Ok(compared)
}

/// The rows of a view, sorted; values as JSON would be too much: numbers lose zeros at their end.
fn in_mysql(maria: &MariaDb, database: &str, view: &str) -> Result<Vec<String>, String> {
    let listed = maria
        .run(&format!(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = '{database}' \
             AND table_name = '{view}' ORDER BY ordinal_position;"
        ))
        .map_err(|error| error.to_string())?;
    let columns: Vec<_> = listed
        .lines()
        .map(|name| {
            // Postgres has no NUL characters: an import leaves them out.
            let text = format!("REPLACE(CONVERT({} USING utf8mb4), '\\0', '')", quote(name));
            format!("IFNULL(HEX({text}), '-')")
        })
        .collect();
    let rows = maria
        .run(&format!(
            "SELECT CONCAT_WS(' ', {}) FROM `{database}`.{};",
            columns.join(", "),
            quote(view)
        ))
        .map_err(|error| format!("view {view}: {error}"))?;
    Ok(sorted(rows.lines().map(str::to_owned)))
}

async fn in_postgres(target: &PgPool, database: &str, view: &str) -> Vec<String> {
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT column_name::text FROM information_schema.columns \
         WHERE table_schema = $1 AND table_name = $2 ORDER BY ordinal_position",
    )
    .bind(database)
    .bind(view)
    .fetch_all(target)
    .await
    .expect("list the columns of a view");
    let name = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let texts: Vec<_> = columns
        .iter()
        .map(|column| {
            let bytes = format!("convert_to({}::text, 'UTF8')", name(column));
            format!("coalesce(upper(encode({bytes}, 'hex')), '-')")
        })
        .collect();
    let sql = format!(
        "SELECT concat_ws(' ', {}) FROM {}.{}",
        texts.join(", "),
        name(database),
        name(view)
    );
    let rows: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(target).await.expect("read a view");
    sorted(rows.into_iter())
}

fn sorted(rows: impl Iterator<Item = String>) -> Vec<String> {
    let mut rows: Vec<_> = rows.map(|row| trimmed(&row)).collect();
    rows.sort();
    rows
}

/// A row whose decimals have no zeros at their end, as each server keeps as many as it likes, and
/// whose comparisons are numbers, as MySQL has them.
fn trimmed(row: &str) -> String {
    let value = |hex: &str| {
        let bytes: Option<Vec<u8>> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).ok())
            .collect();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let decimal = text.contains('.') && text.parse::<f64>().is_ok();
        match text.as_str() {
            "true" => "31".to_owned(),
            "false" => "30".to_owned(),
            _ if decimal => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            _ => hex.to_owned(),
        }
    };
    row.split(' ').map(value).collect::<Vec<_>>().join(" ")
}
