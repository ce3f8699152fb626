//! Views and sequences of the dump, as far as their SQL means the same in Postgres.

use crate::ddl::expression::Relation;
use crate::ddl::names::{cut, quote};
use crate::ddl::view;
use crate::event::{SkippedKind, SkippedObject};
use crate::lexer::{Cursor, LexMode, TokenKind, tokenize};
use crate::options::TranslateOptions;
use crate::schema::TableDef;

/// An object that can be made once the tables are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSql {
    /// View or sequence.
    pub kind: SkippedKind,
    /// Its name in Postgres.
    pub name: String,
    /// One statement; a sequence's value is set by a second one of the same name.
    pub sql: String,
    /// Makes the same of one that is there already, in its place; for a view, if the columns allow
    /// it.
    pub sql_in_place: String,
    /// What differs from the original; empty when nothing does.
    pub note: String,
}

/// What becomes of the objects that the splitter skipped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectPlan {
    /// What can be made, in this order: sequences, then views after those they read from.
    pub statements: Vec<ObjectSql>,
    /// What cannot, to be listed with its source.
    pub left: Vec<SkippedObject>,
}

/// Translates views and sequences; all else is left.
pub fn objects(
    skipped: &[SkippedObject],
    tables: &[TableDef],
    schema: &str,
    options: &TranslateOptions,
) -> ObjectPlan {
    let mut plan = ObjectPlan::default();
    let mut views: Vec<&SkippedObject> = Vec::new();
    for object in skipped {
        match object.kind {
            SkippedKind::Sequence => match sequence(object, schema) {
                Some(Sequence { sql, sql_in_place }) => plan.statements.push(ObjectSql {
                    kind: object.kind,
                    name: cut(&object.name),
                    sql,
                    sql_in_place,
                    note: String::new(),
                }),
                None => plan.left.push(object.clone()),
            },
            SkippedKind::View => views.push(object),
            _ => plan.left.push(object.clone()),
        }
    }
    let mut known: Vec<Relation> =
        tables.iter().map(|table| Relation::of_table(table.name.clone(), table, options)).collect();
    let names: Vec<String> = tables.iter().map(super::table_name).collect();
    let mut pg_names: Vec<String> = names;
    // A view may read from one that the dump makes later: round by round, until nothing is new.
    loop {
        let before = views.len();
        views.retain(|object| {
            let Some(made) = view::create(object, &known, &pg_names, schema, options) else {
                return true;
            };
            pg_names.push(cut(&object.name));
            known.push(Relation { alias: object.name.clone(), columns: made.columns });
            plan.statements.push(ObjectSql {
                kind: SkippedKind::View,
                name: cut(&object.name),
                sql_in_place: made.sql.replacen("CREATE VIEW", "CREATE OR REPLACE VIEW", 1),
                sql: made.sql,
                note: made.note,
            });
            false
        });
        if views.len() == before {
            break;
        }
    }
    plan.left.extend(views.into_iter().cloned());
    plan
}

/// A sequence, made and changed.
struct Sequence {
    sql: String,
    sql_in_place: String,
}

/// `CREATE SEQUENCE …` of MariaDB, or the SELECT that sets its value.
fn sequence(object: &SkippedObject, schema: &str) -> Option<Sequence> {
    let tokens = tokenize(&object.source, LexMode::default());
    let mut cursor = Cursor::new(&object.source, &tokens);
    let name = format!("{}.{}", quote(schema), quote(&cut(&object.name)));
    if cursor.eat("select") || cursor.eat("do") {
        if !(cursor.eat("setval") && cursor.eat_punct('(')) {
            return None;
        }
        cursor.qualified()?;
        cursor.eat_punct(',').then_some(())?;
        let value = number(&mut cursor)?;
        let mut used = true;
        if cursor.eat_punct(',') {
            used = cursor.number()? != 0;
        }
        let text = crate::ddl::names::literal(&name);
        let sql = format!("-- sequence_value\nSELECT setval({text}, {value}, {used})");
        return Some(Sequence { sql_in_place: sql.clone(), sql });
    }
    while !cursor.eat("sequence") {
        cursor.next()?;
    }
    let _ = cursor.eat("if not exists");
    cursor.qualified()?;
    let mut clauses = String::new();
    let mut cycles = false;
    while !cursor.at_end() {
        let clause = [
            ("start with", "START WITH"),
            ("start", "START WITH"),
            ("minvalue", "MINVALUE"),
            ("maxvalue", "MAXVALUE"),
            ("increment by", "INCREMENT BY"),
            ("increment", "INCREMENT BY"),
        ]
        .into_iter()
        .find(|(words, _)| cursor.eat(words));
        if let Some((_, clause)) = clause {
            cursor.eat_punct('=');
            clauses.push_str(&format!(" {clause} {}", number(&mut cursor)?));
        } else if cursor.eat("cache") {
            // Values held by one session only would be lost; Postgres counts one by one.
            cursor.eat_punct('=');
            number(&mut cursor)?;
        } else if cursor.eat("nocycle") || cursor.eat("nocache") {
        } else if cursor.eat("cycle") {
            cycles = true;
        } else if cursor.eat("engine") {
            cursor.eat_punct('=');
            cursor.identifier()?;
        } else {
            return None;
        }
    }
    // What is not said is as it is by default, and not as it was before. RESTART makes all that
    // follows, the value included, part of the transaction.
    let unsaid: String = [
        ("INCREMENT BY", " INCREMENT BY 1"),
        ("MINVALUE", " NO MINVALUE"),
        ("MAXVALUE", " NO MAXVALUE"),
    ]
    .into_iter()
    .filter_map(|(clause, default)| (!clauses.contains(clause)).then_some(default))
    .collect();
    let cycle = if cycles { " CYCLE" } else { "" };
    let no_cycle = if cycles { " CYCLE" } else { " NO CYCLE" };
    Some(Sequence {
        sql: format!("-- sequence\nCREATE SEQUENCE {name}{clauses}{cycle}"),
        sql_in_place: format!(
            "-- sequence\nALTER SEQUENCE {name}{clauses}{unsaid}{no_cycle} RESTART"
        ),
    })
}

/// A whole number with its sign.
fn number(cursor: &mut Cursor<'_>) -> Option<i64> {
    let sign = if cursor.eat_punct('-') { "-" } else { "" };
    match cursor.next()? {
        TokenKind::Number(digits) => format!("{sign}{digits}").parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(dump: &str) -> (Vec<String>, Vec<String>) {
        let mut splitter = crate::DumpSplitter::new(crate::SplitOptions::default());
        let (mut tables, mut skipped) = (Vec::new(), Vec::new());
        splitter
            .feed(dump.as_bytes(), &mut |event| {
                match event {
                    crate::Event::Table(table) => tables.push(TableDef::clone(&table)),
                    crate::Event::Skipped(object) => skipped.push(object),
                    _ => {}
                }
                Ok(())
            })
            .unwrap();
        let plan = objects(&skipped, &tables, "s", &TranslateOptions::default());
        (
            plan.statements.into_iter().map(|made| made.sql).collect(),
            plan.left.into_iter().map(|object| object.name).collect(),
        )
    }

    const TABLES: &str = "CREATE TABLE `a` (`id` int NOT NULL, `n` varchar(20), `d` datetime, \
                          PRIMARY KEY (`id`));\nCREATE TABLE `b` (`a_id` int, `x` decimal(8,2));\n";

    #[test]
    fn sequences() {
        let (sql, left) = made(
            "CREATE SEQUENCE `q` start with 5 minvalue -1 maxvalue 99 increment by 2 cache 1000 \
             nocycle ENGINE=InnoDB;\nSELECT SETVAL(`q`, 7, 0);\nDO SETVAL(`q`, 9);",
        );
        assert!(left.is_empty());
        assert_eq!(
            sql,
            [
                "-- sequence\nCREATE SEQUENCE \"s\".\"q\" START WITH 5 MINVALUE -1 MAXVALUE 99 \
                 INCREMENT BY 2",
                "-- sequence_value\nSELECT setval('\"s\".\"q\"', 7, false)",
                "-- sequence_value\nSELECT setval('\"s\".\"q\"', 9, true)",
            ]
        );
        let in_place = |source: &str| {
            let object = SkippedObject {
                kind: SkippedKind::Sequence,
                database: None,
                name: "q".to_owned(),
                source: source.to_owned(),
                offset: 0,
            };
            sequence(&object, "s").unwrap().sql_in_place
        };
        assert_eq!(
            in_place("CREATE SEQUENCE `q` start with 5 minvalue -1 maxvalue 99 nocycle"),
            "-- sequence\nALTER SEQUENCE \"s\".\"q\" START WITH 5 MINVALUE -1 MAXVALUE 99 INCREMENT BY \
             1 NO CYCLE RESTART"
        );
        assert_eq!(
            in_place("DO SETVAL(`q`, 9)"),
            "-- sequence_value\nSELECT setval('\"s\".\"q\"', 9, true)"
        );
    }

    #[test]
    fn views_that_mean_the_same() {
        let (sql, left) = made(&format!(
            "{TABLES}CREATE VIEW `w` AS select `v`.`id` AS `id` from `v`;\n/*!50001 CREATE \
             ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`r`@`%` SQL SECURITY DEFINER */\n/*!50001 VIEW \
             `v` AS select `a`.`id` AS `id`,sum(`b`.`x`) AS `total`,count(0) AS `c` from (`a` left \
             join `b` on(`a`.`id` = `b`.`a_id`)) where `a`.`d` >= '2020-01-01' group by `a`.`id` \
             order by `a`.`id` desc limit 3 */;"
        ));
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(
            sql,
            [
                "-- view\nCREATE VIEW \"s\".\"v\" (\"id\", \"total\", \"c\") AS\nSELECT \"a\".\"id\", \
                 sum(\"b\".\"x\"), count(0) FROM (\"s\".\"a\" AS \"a\" LEFT JOIN \"s\".\"b\" AS \"b\" ON \
                 ((\"a\".\"id\" = \"b\".\"a_id\"))) WHERE (\"a\".\"d\" >= '2020-01-01') GROUP BY \
                 \"a\".\"id\" ORDER BY 1 DESC NULLS LAST LIMIT 3",
                "-- view\nCREATE VIEW \"s\".\"w\" (\"id\") AS\nSELECT \"v\".\"id\" FROM \"s\".\"v\" AS \
                 \"v\"",
            ]
        );
    }

    #[test]
    fn groups_with_conditions_and_unions() {
        let (sql, left) = made(&format!(
            "{TABLES}CREATE VIEW `v` AS select `a`.`id` AS `id`,count(0) AS `c` from `a` group by \
             `a`.`id` having count(0) > 1 union all select `b`.`a_id` AS `a_id`,1 AS `1` from `b`;"
        ));
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(
            sql,
            [
                "-- view\nCREATE VIEW \"s\".\"v\" (\"id\", \"c\") AS\nSELECT \"a\".\"id\", count(0) FROM \
              \"s\".\"a\" AS \"a\" GROUP BY \"a\".\"id\" HAVING (count(0) > 1)\nUNION ALL\nSELECT \
              \"b\".\"a_id\", 1 FROM \"s\".\"b\" AS \"b\""
            ]
        );
    }

    #[test]
    fn views_that_may_not_are_left() {
        for select in [
            "select sleep(1) AS `x` from `a`",
            "select `a`.`n` AS `n`,count(0) AS `c` from `a` group by `a`.`id`",
            "select `a`.`id` AS `x` from `nowhere` `a`",
            "select (select 1) AS `x`",
            "select `a`.`id` AS `x` from `a` where `a`.`n` regexp 'x'",
            "select `id` AS `x` from `a` `p` join `a` `q`",
            "select row_number() over () AS `x` from `a`",
            "select `a`.`id` AS `x` from `elsewhere`.`a`",
            "select `a`.`id` AS `x` from `a` having `a`.`id` > 1",
            "select `a`.`id` AS `x` from `a` union select `a`.`n` AS `n` from `a`",
            "select `a`.`id` AS `x` from `a` limit 1 union select `b`.`a_id` AS `a_id` from `b`",
        ] {
            let (sql, left) = made(&format!("{TABLES}CREATE VIEW `v` AS {select};"));
            assert_eq!((sql.len(), left.len()), (0, 1), "{select}: {sql:?}");
        }
    }
}
