//! The whitelist at work.

use super::*;

fn table() -> TableDef {
    let source = "CREATE TABLE `t` (`a` int, `b` decimal(10,2), `n` varchar(20), `d` date, \
                  `j` json, `g` int GENERATED ALWAYS AS (`a` + 1) VIRTUAL)";
    crate::ddl::parse_create_table(source, LexMode::default()).unwrap().unwrap()
}

fn checked(source: &str) -> Option<String> {
    check(source, &table(), &TranslateOptions::default())
}

#[test]
fn what_is_known_is_translated() {
    assert_eq!(
        checked("`a` > 0 and `b` <= 1.5").as_deref(),
        Some(r#"(("a" > 0) AND ("b" <= 1.5))"#)
    );
    assert_eq!(
        checked("`n` in (_utf8mb4'x','y''z')").as_deref(),
        Some(r#"("n" IN ('x', 'y''z'))"#)
    );
    assert_eq!(checked("`a` between 1 and 3").as_deref(), Some(r#"("a" BETWEEN 1 AND 3)"#));
    let table = table();
    let options = TranslateOptions::default();
    let rule = |source: &str, at: usize| generated(source, &table.columns[at], &table, &options);
    assert_eq!(rule("`a` + 1", 0).as_deref(), Some(r#"("a"::bigint + 1)"#));
    assert_eq!(
        rule("concat(`n`,' ',`n`)", 2).as_deref(),
        Some(r#"(("n" || ' ' || "n"))::varchar(20)"#)
    );
    assert_eq!(
        rule("case when (`d` is null) then 1 else NULL end", 0).as_deref(),
        Some(r#"CASE WHEN (("d" IS NULL)) THEN 1 ELSE NULL END"#)
    );
    assert_eq!(rule("`d` is null", 0).as_deref(), Some(r#"(("d" IS NULL))::integer"#));
    assert_eq!(rule("concat(`a`,'x')", 2).as_deref(), Some(r#"(("a"::text || 'x'))::varchar(20)"#));
    let member = r#"COALESCE("j" #>> '{x,y}', CASE WHEN jsonb_typeof("j" #> '{x,y}') = 'null' THEN 'null' END)"#;
    let source = "json_unquote(json_extract(`j`,_utf8mb4'$.x.y'))";
    let cut = format!("({member})::varchar(20)");
    assert_eq!(rule(source, 2), Some(cut.clone()));
    assert_eq!(rule("`j`->>'$.x.y'", 2), Some(cut));
    let number =
        format!("CASE WHEN {member} ~ {NUMBER} THEN round(({member})::numeric)::integer END");
    assert_eq!(rule(source, 0), Some(number));
    assert_eq!(rule("`a` / 2", 1).as_deref(), Some(r#"("a"::numeric / NULLIF(2, 0))"#));
}

#[test]
fn what_is_not_known_for_certain_is_left_out() {
    for source in [
        "`n` > 0",
        "`j` = 1",
        "sleep(1) = 1",
        "`a` > (select 1)",
        "`missing` > 0",
        "`n` regexp 'x'",
        "`g` > 1",
        "now() > `d`",
        "",
    ] {
        assert_eq!(checked(source), None, "{source}");
    }
    assert_eq!(checked(&"(".repeat(5000)), None);
}

#[test]
fn numbers_stand_for_truth_and_literals_are_taken_for_what_they_meet() {
    assert_eq!(checked("`a`").as_deref(), Some(r#"("a" <> 0)"#));
    assert_eq!(
        checked("not `a` or `d` >= '2020-02-29'").as_deref(),
        Some(r#"(NOT ("a" <> 0) OR ("d" >= '2020-02-29'))"#)
    );
    assert_eq!(checked("`a` in ('1',2)").as_deref(), Some(r#"("a" IN (1, 2))"#));
    assert_eq!(checked("`d` > '2020-02-31'"), None);
    assert_eq!(checked("`a` % 2 = 0").as_deref(), Some(r#"(("a"::bigint % NULLIF(2, 0)) = 0)"#));
    assert_eq!(checked("cast(`b` as signed) = 1").as_deref(), Some(r#"(round("b")::bigint = 1)"#));
}
