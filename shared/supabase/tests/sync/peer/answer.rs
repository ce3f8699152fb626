//! What requests are answered with.

use axum::body::Bytes;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use relevo_pg::ident::quote;
use serde_json::{Map, Value, json};
use sqlx::AssertSqlSafe;

use super::Peer;
use super::filter::{self, Asked};

/// An error's body.
pub(crate) fn error(
    status: StatusCode,
    code: &str,
    message: &str,
    details: Option<&str>,
) -> Response {
    let body = json!({ "code": code, "details": details, "hint": null, "message": message });
    (status, axum::Json(body)).into_response()
}

/// Postgres' error with the status that PostgREST gives it.
fn of_postgres(failure: &sqlx::Error) -> Response {
    let sqlx::Error::Database(refused) = failure else {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return error(status, "PGRST001", &failure.to_string(), None);
    };
    let code = refused.code().unwrap_or_default().into_owned();
    let status = match code.as_str() {
        "23503" | "23505" => StatusCode::CONFLICT,
        "42P01" => StatusCode::NOT_FOUND,
        "42501" => StatusCode::FORBIDDEN,
        "25006" => StatusCode::METHOD_NOT_ALLOWED,
        code if code.starts_with("40") || code.starts_with("53") || code.starts_with("57") => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::BAD_REQUEST,
    };
    error(status, &code, refused.message(), None)
}

fn body(status: StatusCode, text: String) -> Response {
    let bytes = text.len();
    let mut response = (status, text).into_response();
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert("x-body-bytes", HeaderValue::from(bytes));
    response
}

/// The tables and their columns, as OpenAPI 2.
pub(crate) async fn description(peer: &Peer) -> Response {
    let found: Result<Vec<(String, String, String)>, _> = sqlx::query_as(
        "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
           AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, a.attnum",
    )
    .fetch_all(&peer.pool)
    .await;
    let columns = match found {
        Ok(columns) => columns,
        Err(failure) => return of_postgres(&failure),
    };
    let mut definitions = Map::new();
    for (table, column, kind) in columns {
        let table = definitions
            .entry(table)
            .or_insert_with(|| json!({ "type": "object", "properties": {} }));
        table["properties"][column] = json!({ "format": kind });
    }
    let whole = json!({ "swagger": "2.0", "definitions": Value::Object(definitions) });
    body(StatusCode::OK, whole.to_string())
}

/// One request to a table.
pub(crate) async fn table(
    peer: &Peer,
    method: &Method,
    name: &str,
    query: &str,
    prefer: &str,
    sent: &Bytes,
) -> Response {
    let asked = match filter::read(query, name) {
        Ok(asked) => asked,
        Err(reason) => return error(StatusCode::BAD_REQUEST, "PGRST100", &reason, None),
    };
    let sent = String::from_utf8_lossy(sent);
    let statement = match statement(peer, method, name, &asked, prefer, &sent) {
        Ok(statement) => statement,
        Err(refusal) => return *refusal,
    };
    let mut rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(statement));
    if matches!(*method, Method::POST | Method::PATCH) {
        rows = rows.bind(&*sent);
    }
    match rows.fetch_one(&peer.pool).await {
        Ok(text) => {
            let created = *method == Method::POST;
            body(if created { StatusCode::CREATED } else { StatusCode::OK }, text)
        }
        Err(failure) => of_postgres(&failure),
    }
}

fn statement(
    peer: &Peer,
    method: &Method,
    name: &str,
    asked: &Asked,
    prefer: &str,
    sent: &str,
) -> Result<String, Box<Response>> {
    let (table, filter, select) = (quote(name), &asked.filter, &asked.select);
    let rows = |from: &str| {
        format!(
            "SELECT coalesce(json_agg(row_to_json(x)), '[]')::text FROM (SELECT {select} FROM {from}) x"
        )
    };
    let refuse =
        |code: &str, reason: &str| Box::new(error(StatusCode::BAD_REQUEST, code, reason, None));
    match *method {
        Method::GET => {
            let limit = asked.limit.unwrap_or(usize::MAX).min(peer.flags.max_rows);
            Ok(rows(&format!("{table} WHERE {filter} {} LIMIT {limit}", asked.order)))
        }
        Method::POST => {
            let columns: Vec<String> = asked.columns.iter().map(|column| quote(column)).collect();
            let columns = columns.join(", ");
            let ignore = match &asked.on_conflict {
                Some(key) if prefer.contains("resolution=ignore-duplicates") => {
                    format!("ON CONFLICT ({key}) DO NOTHING")
                }
                _ => String::new(),
            };
            Ok(format!(
                "WITH w AS (INSERT INTO {table} ({columns})
                     SELECT {columns} FROM json_populate_recordset(NULL::{table}, $1::json)
                     {ignore} RETURNING *) {}",
                rows("w")
            ))
        }
        Method::PATCH => {
            let values: Map<String, Value> = serde_json::from_str(sent)
                .map_err(|_| refuse("PGRST102", "Empty or invalid json"))?;
            let set: Vec<String> =
                values.keys().map(|column| format!("{0} = r.{0}", quote(column))).collect();
            Ok(format!(
                "WITH w AS (UPDATE {table} SET {}
                     FROM json_populate_record(NULL::{table}, $1::json) r
                     WHERE {filter} RETURNING {table}.*) {}",
                set.join(", "),
                rows("w")
            ))
        }
        Method::DELETE => Ok(format!(
            "WITH w AS (DELETE FROM {table} WHERE {filter} RETURNING {table}.*) {}",
            rows("w")
        )),
        _ => Err(refuse("PGRST117", "Unsupported HTTP method")),
    }
}
