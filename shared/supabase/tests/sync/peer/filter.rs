//! The query of a request as SQL.

use relevo_pg::ident::{literal, quote};
use url::form_urlencoded;

/// What a query asks for.
#[derive(Default)]
pub(crate) struct Asked {
    /// Columns, quoted; `*` without any.
    pub(crate) select: String,
    /// Conditions, joined.
    pub(crate) filter: String,
    /// `ORDER BY …`, or nothing.
    pub(crate) order: String,
    /// Rows at most.
    pub(crate) limit: Option<usize>,
    /// Columns of an insert.
    pub(crate) columns: Vec<String>,
    /// Unique columns of an insert.
    pub(crate) on_conflict: Option<String>,
}

/// Reads it; conditions name columns of `table`.
pub(crate) fn read(query: &str, table: &str) -> Result<Asked, String> {
    let mut asked = Asked { select: "*".to_owned(), ..Asked::default() };
    let mut conditions = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "select" => asked.select = list(&value),
            "columns" => asked.columns = value.split(',').map(unquote).collect(),
            "on_conflict" => asked.on_conflict = Some(list(&value)),
            "limit" => asked.limit = Some(value.parse().map_err(|_| "bad limit".to_owned())?),
            "order" => asked.order = format!("ORDER BY {}", order(&value)?),
            "or" | "and" => conditions.push(group(&name, &value, table)?),
            column => conditions.push(condition(&column_of(table, column), &value)?),
        }
    }
    asked.filter = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
    Ok(asked)
}

fn unquote(name: &str) -> String {
    name.trim_matches('"').to_owned()
}

fn list(value: &str) -> String {
    let names: Vec<String> = value
        .split(',')
        .map(|name| if name == "*" { name.to_owned() } else { quote(&unquote(name)) })
        .collect();
    names.join(", ")
}

fn column_of(table: &str, column: &str) -> String {
    format!("{}.{}", quote(table), quote(&unquote(column)))
}

fn order(value: &str) -> Result<String, String> {
    let mut terms = Vec::new();
    for term in value.split(',') {
        let mut parts = term.split('.');
        let mut sql = quote(&unquote(parts.next().unwrap_or_default()));
        for word in parts {
            sql.push_str(match word {
                "asc" => " ASC",
                "desc" => " DESC",
                "nullslast" => " NULLS LAST",
                "nullsfirst" => " NULLS FIRST",
                other => return Err(format!("bad order {other}")),
            });
        }
        terms.push(sql);
    }
    Ok(terms.join(", "))
}

/// `op.value`, with `not.` before it or not.
fn condition(column: &str, text: &str) -> Result<String, String> {
    if let Some(negated) = text.strip_prefix("not.") {
        return Ok(format!("NOT ({})", condition(column, negated)?));
    }
    let (operator, value) = text.split_once('.').ok_or_else(|| format!("bad filter {text}"))?;
    let sign = match operator {
        "eq" => "=",
        "neq" => "<>",
        "gt" => ">",
        "gte" => ">=",
        "lt" => "<",
        "lte" => "<=",
        "is" if matches!(value, "null" | "true" | "false") => {
            return Ok(format!("{column} IS {value}"));
        }
        "in" => {
            let inside = value.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
            let inside = inside.ok_or_else(|| format!("bad list {value}"))?;
            let values: Vec<String> = split(inside).iter().map(|v| literal(&unquote(v))).collect();
            return Ok(format!("{column} IN ({})", values.join(", ")));
        }
        other => return Err(format!("unknown operator {other}")),
    };
    Ok(format!("{column} {sign} {}", literal(value)))
}

/// `(a.gt."x",and(…))`
fn group(word: &str, text: &str, table: &str) -> Result<String, String> {
    let inside = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let inside = inside.ok_or_else(|| format!("bad group {text}"))?;
    let mut terms = Vec::new();
    for term in split(inside) {
        let nested = ["and", "or"].into_iter().find(|word| term.starts_with(&format!("{word}(")));
        terms.push(match nested {
            Some(word) => group(word, &term[word.len()..], table)?,
            None => {
                let (column, rest) = term.split_once('.').ok_or("bad term")?;
                let (operator, value) = rest.split_once('.').ok_or("bad term")?;
                condition(&column_of(table, column), &format!("{operator}.{}", unquote(value)))?
            }
        });
    }
    Ok(format!("({})", terms.join(if word == "or" { " OR " } else { " AND " })))
}

/// Splits at commas that stand in neither quotes nor parentheses.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut depth, mut quoted) = (Vec::new(), String::new(), 0, false);
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(character);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}
