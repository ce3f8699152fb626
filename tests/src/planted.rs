//! Known secrets: planted wherever a test gives the system one, and looked for in all it produces.
//!
//! What a process wrote is searched when it ends, the databases of a cluster when it ends, the
//! output of each command and each page a browser opens at once: every test is a test of this.

use std::sync::{Mutex, PoisonError};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::database::hex;
use crate::gateway;

/// A password in the addresses of databases. The tests' servers trust everybody, so it opens
/// nothing; it is a secret all the same.
pub const DATABASE_PASSWORD: &str = "clave-de-la-base-5b1e07c9";
/// The password at the mail server.
pub const SMTP_PASSWORD: &str = "clave-del-correo-83fa42d0";
/// The secret part of an address that messages are sent to.
pub const HOOK_SECRET: &str = "T0PLANTADO-b7d9e3518c";

static MORE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes note of a secret that was made on the way, such as an API key.
pub fn plant(secret: &str) {
    assert!(secret.len() >= 12, "too short to be told from other text");
    let mut more = MORE.lock().unwrap_or_else(PoisonError::into_inner);
    if !more.iter().any(|known| known == secret) {
        more.push(secret.to_owned());
    }
}

/// Every known secret.
fn known() -> Vec<String> {
    let fixed = [gateway::API_KEY, DATABASE_PASSWORD, SMTP_PASSWORD, HOOK_SECRET];
    let more = MORE.lock().unwrap_or_else(PoisonError::into_inner);
    fixed.into_iter().map(str::to_owned).chain(more.iter().cloned()).collect()
}

/// The line of a text that holds a known secret.
pub fn find(text: &str) -> Option<&str> {
    let known = known();
    text.lines().find(|line| known.iter().any(|secret| line.contains(secret)))
}

/// Panics when a text holds a known secret.
#[track_caller]
pub fn assert_absent(what: &str, text: &str) {
    if let Some(line) = find(text) {
        panic!("a secret in {what}: {line}");
    }
}

/// An address of a database with the planted password, unless it has one that counts.
#[must_use]
pub fn with_password(url: &str) -> String {
    let mut url = url::Url::parse(url).expect("the address of a database");
    if url.password().is_none() {
        url.set_password(Some(DATABASE_PASSWORD)).expect("an address that takes a password");
    }
    url.to_string()
}

/// Where in Relevo's own tables of a database a known secret is, as text or as bytes.
pub async fn find_in_database(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.expect("connect to look for secrets");
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname)
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname IN ('relevo', 'relevo_ledger')
           AND c.relkind IN ('r', 'p') AND NOT c.relispartition",
    )
    .fetch_all(&mut connection)
    .await
    .expect("list the tables");
    let needles: Vec<String> =
        known().iter().flat_map(|secret| [secret.clone(), hex(secret.as_bytes())]).collect();
    let mut found = Vec::new();
    for table in tables {
        let sql = format!(
            "SELECT r::text FROM {table} AS r
             WHERE EXISTS (SELECT FROM unnest($1::text[]) AS n WHERE strpos(r::text, n) > 0) LIMIT 3"
        );
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(&needles)
            .fetch_all(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("look for secrets in {table}: {error}"));
        found.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    connection.close().await.ok();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planted_is_found() {
        assert_eq!(find("one\ntwo"), None);
        let line = format!("x {DATABASE_PASSWORD} y");
        assert_eq!(find(&format!("one\n{line}\nthree")), Some(line.as_str()));
        let url = with_password("postgres://app@db:5433/shop?sslmode=require");
        let whole = format!("postgres://app:{DATABASE_PASSWORD}@db:5433/shop?sslmode=require");
        assert_eq!(url, whole);
        assert_eq!(with_password("postgres://app:own@db/shop"), "postgres://app:own@db/shop");
    }
}
