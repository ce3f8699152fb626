//! Migrations that would hold up a cluster at work, or the processes of the version before, are
//! refused.
//!
//! A migration runs while old processes go on. So it may neither lock a table that jobs go through
//! for as long as that is large, nor take away what the former version uses. Where a statement is
//! fine all the same, a line before it in its file says so: `-- allow RULE: why`.

use std::collections::BTreeSet;

use super::{names, text};

/// The newest migration that landed before the rules; a migration that landed is never edited.
const BASELINE: &str = "20261123041500_enqueue";

/// Tables that grow with the work, or that every worker writes to all the time.
const HOT: [&str; 9] = [
    "job",
    "job_history",
    "job_progress",
    "dead_letter",
    "batch",
    "idempotency_key",
    "session",
    "run",
    "run_event",
];

/// A statement, and what a line before it in its file allows.
#[derive(Debug)]
struct Statement {
    sql: String,
    allowed: BTreeSet<String>,
}

/// The statements of a file: what stands in quotes or between dollar signs holds none.
fn statements(file: &str) -> Vec<Statement> {
    let mut found = Vec::new();
    let mut allowed = BTreeSet::new();
    let mut sql = String::new();
    // What ends the text that the scan is in.
    let mut closing: Option<String> = None;
    let mut rest = file;
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        if let Some(end) = &closing {
            if rest.starts_with(end.as_str()) {
                length = end.len();
                closing = None;
            }
        } else if rest.starts_with("--") {
            let line = rest.lines().next().unwrap_or_default();
            if let Some((rule, why)) =
                line[2..].trim().strip_prefix("allow ").and_then(|allow| allow.split_once(": "))
            {
                assert!(why.len() > 10, "{line}: say why");
                allowed.insert(rule.to_owned());
            }
            rest = &rest[line.len()..];
            continue;
        } else if c == '\'' {
            closing = Some("'".to_owned());
        } else if let Some(tag) = dollar_tag(rest) {
            length = tag.len();
            closing = Some(tag);
        } else if c == ';' {
            found.push(Statement { sql: normal(&sql), allowed: allowed.clone() });
            sql.clear();
            rest = &rest[1..];
            continue;
        }
        sql.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    assert!(sql.trim().is_empty(), "a statement has no end: {sql}");
    found
}

/// `$$` or `$name$` at the beginning.
fn dollar_tag(text: &str) -> Option<String> {
    let inner = text.strip_prefix('$')?.split('$').next()?;
    let is_tag = inner.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text[1 + inner.len()..].starts_with('$');
    is_tag.then(|| format!("${inner}$"))
}

/// In capitals, with single spaces.
fn normal(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ").to_uppercase()
}

/// The table that follows one of these words, without its schema.
fn table_after<'a>(sql: &'a str, words: &[&str]) -> Option<&'a str> {
    let rest = words.iter().find_map(|words| sql.strip_prefix(words))?;
    let rest = rest.trim_start_matches("IF EXISTS ").trim_start_matches("ONLY ");
    let name = rest.split([' ', '(', ',']).next()?;
    Some(name.trim_start_matches("RELEVO."))
}

/// The rules that a statement breaks, each with what to do instead.
fn broken(sql: &str, new_tables: &BTreeSet<String>) -> Vec<(&'static str, &'static str)> {
    let is_hot = |table: &str| {
        HOT.iter().any(|hot| hot.eq_ignore_ascii_case(table)) && !new_tables.contains(table)
    };
    let mut found = Vec::new();
    let mut add = |rule, instead| found.push((rule, instead));
    if sql.starts_with("CREATE INDEX") || sql.starts_with("CREATE UNIQUE INDEX") {
        let on = sql.split_once(" ON ").and_then(|(_, rest)| table_after(rest, &[""]));
        if on.is_some_and(is_hot) && !sql.contains(" CONCURRENTLY ") {
            add("index", "CREATE INDEX CONCURRENTLY in a file of its own (-- no-transaction)");
        }
    }
    if let Some(table) = table_after(sql, &["ALTER TABLE "])
        && is_hot(table)
    {
        for part in actions(sql) {
            let has = |words: &str| part.contains(words);
            if has("ALTER COLUMN") && has(" TYPE ") || has(" SET LOGGED") || has(" SET UNLOGGED") {
                add("rewrite", "a new column, filled in batches, and the change of names later");
            }
            if part.starts_with("ADD COLUMN") {
                let default = part.split_once(" DEFAULT ").map_or("", |(_, value)| value);
                // The time of the statement is one value for all rows, and needs no rewrite.
                let is_volatile = default.contains('(') && !default.starts_with("NOW()");
                if is_volatile || has(" GENERATED ") || has("SERIAL") {
                    add("rewrite", "a default that is the same for every row, or none");
                }
                if has(" NOT NULL") && default.is_empty() {
                    add("rewrite", "a default: the former version writes rows without the column");
                }
            }
            if has(" SET NOT NULL") {
                add("scan", "ADD CONSTRAINT … CHECK (… IS NOT NULL) NOT VALID, then VALIDATE");
            }
            let constrains = part.starts_with("ADD CONSTRAINT")
                || ["ADD CHECK", "ADD FOREIGN", "ADD PRIMARY", "ADD UNIQUE"]
                    .iter()
                    .any(|start| part.starts_with(start));
            if constrains && !has(" NOT VALID") && !has(" USING INDEX ") {
                add("scan", "NOT VALID, and VALIDATE CONSTRAINT in a later file; or USING INDEX");
            }
            if part.starts_with("DROP COLUMN") || part.starts_with("RENAME") {
                add("contract", "leave it until no supported version uses it");
            }
        }
    }
    if table_after(sql, &["DROP TABLE "]).is_some() || sql.starts_with("DROP FUNCTION") {
        add("contract", "leave it until no supported version uses it");
    }
    if table_after(sql, &["UPDATE ", "DELETE FROM ", "TRUNCATE ", "LOCK TABLE "])
        .is_some_and(is_hot)
    {
        add("rows", "let upkeep do it in batches");
    }
    if ["VACUUM", "CLUSTER", "REINDEX"].iter().any(|word| sql.starts_with(word)) {
        add("rewrite", "leave it to the server's operator");
    }
    found
}

/// The actions of an ALTER TABLE, which commas outside of parentheses separate.
fn actions(sql: &str) -> Vec<String> {
    let mut rest = sql.trim_start_matches("ALTER TABLE ");
    for word in ["IF EXISTS ", "ONLY "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let rest = rest.split_once(' ').map_or("", |(_, rest)| rest);
    let (mut depth, mut found) = (0_i32, vec![String::new()]);
    for c in rest.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().unwrap().push(c);
    }
    found.iter().map(|action| action.trim().to_owned()).collect()
}

fn tables_made(statements: &[Statement]) -> BTreeSet<String> {
    let made = statements.iter().filter_map(|one| table_after(&one.sql, &["CREATE TABLE "]));
    made.map(str::to_owned).collect()
}

#[test]
fn no_migration_holds_up_a_cluster_at_work() {
    let every = names("migrations", ".sql");
    let new: Vec<_> = every.iter().filter(|name| name.as_str() > BASELINE).collect();
    assert!(every.contains(BASELINE), "{BASELINE} is gone");
    let read = |name: &&String| statements(&text(&format!("migrations/{name}.sql")));
    let made: BTreeSet<_> = new.iter().flat_map(|name| tables_made(&read(name))).collect();
    let mut wrong = Vec::new();
    for name in &new {
        for statement in read(name) {
            for (rule, instead) in broken(&statement.sql, &made) {
                if !statement.allowed.contains(rule) {
                    let start: String = statement.sql.chars().take(100).collect();
                    wrong.push(format!("{name}: {start}…\n    breaks `{rule}`: {instead}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nwhere it is short or safe all the same, a line before it says `-- allow RULE: why`",
        wrong.join("\n")
    );
    // What stands in the schema is known here by its name.
    let tables: BTreeSet<_> = every.iter().flat_map(|name| tables_made(&read(&name))).collect();
    for hot in HOT {
        assert!(tables.contains(&hot.to_uppercase()), "there is no table {hot}");
    }
}

#[test]
fn what_locks_is_told_from_what_does_not() {
    for (sql, rules) in [
        ("CREATE INDEX x ON relevo.job (kind)", &["index"][..]),
        ("CREATE UNIQUE INDEX x ON ONLY relevo.run_event (id)", &["index"]),
        ("CREATE INDEX CONCURRENTLY x ON relevo.job (kind)", &[]),
        ("CREATE INDEX x ON relevo.fresh (kind)", &[]),
        ("CREATE INDEX x ON relevo.setting (kind)", &[]),
        ("ALTER TABLE relevo.job ALTER COLUMN kind TYPE bigint", &["rewrite"]),
        (
            "ALTER TABLE relevo.job ADD COLUMN a int, ALTER COLUMN b SET DATA TYPE text",
            &["rewrite"],
        ),
        ("ALTER TABLE relevo.job ADD COLUMN a uuid DEFAULT gen_random_uuid()", &["rewrite"]),
        ("ALTER TABLE relevo.job ADD COLUMN a timestamptz NOT NULL DEFAULT now()", &[]),
        ("ALTER TABLE relevo.job ADD COLUMN a int NOT NULL DEFAULT 0, ADD COLUMN b text", &[]),
        ("ALTER TABLE relevo.job ADD COLUMN a int NOT NULL", &["rewrite"]),
        ("ALTER TABLE relevo.job ALTER COLUMN a SET NOT NULL", &["scan"]),
        ("ALTER TABLE relevo.job ADD CONSTRAINT c CHECK (a > 0, b)", &["scan"]),
        ("ALTER TABLE relevo.job ADD CONSTRAINT c CHECK (a > 0) NOT VALID", &[]),
        ("ALTER TABLE relevo.job VALIDATE CONSTRAINT c", &[]),
        ("ALTER TABLE relevo.job ADD CONSTRAINT c UNIQUE USING INDEX i", &[]),
        ("ALTER TABLE relevo.job DROP COLUMN a, RENAME COLUMN b TO c", &["contract", "contract"]),
        ("DROP TABLE relevo.setting", &["contract"]),
        ("UPDATE relevo.job SET a = 1", &["rows"]),
        ("DELETE FROM relevo.job_history", &["rows"]),
        (
            "CREATE FUNCTION f() RETURNS void AS $$ UPDATE relevo.job SET a = 1; $$ LANGUAGE sql",
            &[],
        ),
    ] {
        let file = format!("CREATE TABLE relevo.fresh (a int DEFAULT ';');\n{sql};\n");
        let found = statements(&file);
        assert_eq!(found.len(), 2, "{found:?}");
        let made = tables_made(&found);
        let told: Vec<_> = broken(&found[1].sql, &made).into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(told, rules, "{sql}");
    }
    let file = "-- allow index: it is empty still\nCREATE INDEX x ON relevo.job (kind);";
    assert!(statements(file)[0].allowed.contains("index"));
}
