//! A certificate for people: rows per table on both sides.

use serde_json::Value;

use crate::output::{clean, count, duration, table};

/// The certificate's text. It is read as JSON, as it was stored: a certificate of an older version
/// shows what it has.
pub fn text(certificate: &Value) -> String {
    let figure = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64);
    let shown = |value: Option<u64>| value.map(count).unwrap_or_default();
    let word = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_str).map(clean).unwrap_or_default()
    };
    let empty = Vec::new();
    let tables = certificate.get("tables").and_then(Value::as_array).unwrap_or(&empty);
    let rows: Vec<Vec<String>> = tables
        .iter()
        .map(|entry| {
            let (dump, target) = (figure(entry, "rows_dump"), figure(entry, "rows_target"));
            vec![
                word(entry, "table"),
                shown(dump),
                shown(target),
                shown(figure(entry, "rows_before")),
                if dump == target { "equal" } else { "DIFFERENT" }.to_owned(),
            ]
        })
        .collect();
    let mut text = table(
        &["TABLE", "ROWS IN DUMP", "ROWS LOADED", "ROWS BEFORE", "CHECK"],
        &rows,
        "no tables\n",
    );
    for entry in tables {
        for change in entry.get("stats").map(changes).unwrap_or_default() {
            text.push_str(&format!("changed in {}: {change}\n", word(entry, "table")));
        }
    }
    let total = figure(certificate, "rows").map(count).unwrap_or_default();
    let took = figure(certificate, "duration_ms").map(duration).unwrap_or_default();
    text.push_str(&format!(
        "\n{} table(s), {total} rows, schema {}, {took}\n",
        tables.len(),
        word(certificate, "schema"),
    ));
    let skipped = certificate.get("skipped").and_then(Value::as_array).unwrap_or(&empty);
    for object in skipped {
        text.push_str(&format!(
            "not carried over: {} {}\n",
            word(object, "kind"),
            word(object, "name")
        ));
    }
    let notices = certificate.get("notices").and_then(Value::as_array).unwrap_or(&empty);
    for notice in notices.iter().filter_map(Value::as_str) {
        text.push_str(&format!("note: {}\n", clean(notice)));
    }
    text
}

/// What encoding a table's rows changed, from its counted statistics.
pub fn changes(stats: &Value) -> Vec<String> {
    let counted = |name: &str| stats.get(name).and_then(Value::as_u64).unwrap_or_default();
    let dates = stats.get("nulled_dates").and_then(Value::as_object);
    let dates = dates.into_iter().flatten().map(|(column, dates)| {
        let dates = count(dates.as_u64().unwrap_or_default());
        format!("{dates} zero or impossible date(s) of {} become NULL", clean(column))
    });
    let others = [
        ("stripped_nuls", "text(s) lose NUL characters"),
        ("replaced_text", "text(s) hold bytes that are no text and are adapted"),
        ("adapted_values", "value(s) do not fit their type and are adapted as MySQL does"),
    ];
    let others = others.into_iter().map(|(name, what)| (counted(name), what));
    let others = others.filter(|(values, _)| *values > 0);
    dates.chain(others.map(|(values, what)| format!("{} {what}", count(values)))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_sides_stand_beside_each_other() {
        let text = text(&json!({
            "schema": "public", "rows": 50_220, "duration_ms": 61_000,
            "tables": [
                {"table": "articulo", "rows_dump": 50_000, "rows_target": 50_000, "rows_before": 49_900,
                 "stats": {"nulled_dates": {"alta": 3}, "stripped_nuls": 0, "adapted_values": 2}},
                {"table": "categoria", "rows_dump": 220, "rows_target": 219, "rows_before": null},
            ],
            "skipped": [{"kind": "view", "name": "ventas_hoy", "source": "…"}],
            "notices": ["3 zero dates became NULL"],
        }));
        assert!(
            text.contains("articulo   50,000        50,000       49,900       equal"),
            "{text}"
        );
        assert!(text.contains("DIFFERENT"), "{text}");
        let dates = "changed in articulo: 3 zero or impossible date(s) of alta become NULL\n";
        assert!(text.contains(dates), "{text}");
        let adapted = "changed in articulo: 2 value(s) do not fit their type";
        assert!(text.contains(adapted) && !text.contains("NUL characters"), "{text}");
        assert!(text.contains("2 table(s), 50,220 rows, schema public, 61 s"), "{text}");
        assert!(text.contains("not carried over: view ventas_hoy"), "{text}");
        assert!(text.contains("note: 3 zero dates"), "{text}");
    }
}
