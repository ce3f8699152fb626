//! Rows that are set aside: what the translation or the server refuses, where the user allows it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relevo_mysqldump::{BatchStats, Checksum, IndexKey, RowEncoder, RowError, RowValues, TableDef};
use relevo_pg::copy::CopyIn;
use relevo_pg::{PgError, Session};
use sqlx::postgres::PgDatabaseError;
use sqlx::types::JsonValue;
use sqlx::{Executor, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::error::ImportError;
use crate::identity::ImportId;
use crate::ledger;

/// A reason longer than this is cut: the server repeats values in it.
pub(crate) const REASON_MAX_CHARS: usize = 500;

/// After a line was refused, so many lines go together at first.
const LINES_AFTER_REFUSAL: usize = 64;

/// How many rows of an import may be set aside, and how many are.
#[derive(Debug)]
pub(crate) struct Allowance {
    limit: u64,
    taken: AtomicU64,
}

impl Allowance {
    /// `limit` rows in all, of which so many are set aside already.
    pub(crate) fn new(limit: u64, taken: u64) -> Self {
        Self { limit, taken: AtomicU64::new(taken) }
    }

    /// Whether any row may be.
    pub(crate) fn is_given(&self) -> bool {
        self.limit > 0
    }

    /// How many more may be.
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Takes one; an import that has none left fails with the row's own error.
    fn take(&self, error: impl FnOnce() -> ImportError) -> Result<(), ImportError> {
        self.take_all(1, error)
    }

    /// Takes several, or fails with the error of one of them.
    pub(crate) fn take_all(
        &self,
        rows: u64,
        error: impl FnOnce() -> ImportError,
    ) -> Result<(), ImportError> {
        if self.taken.fetch_add(rows, Ordering::Relaxed) + rows <= self.limit {
            return Ok(());
        }
        Err(ImportError::TooManyRefused { limit: self.limit, source: Box::new(error()) })
    }
}

/// A row that is set aside.
#[derive(Debug)]
pub(crate) struct AsideRow {
    /// Its table in Postgres.
    pub(crate) table: String,
    /// The values of its primary key, where it has one.
    pub(crate) key: JsonValue,
    /// Its values by column.
    pub(crate) data: JsonValue,
    /// Why it was refused.
    pub(crate) reason: String,
    /// Where it begins in the unpacked dump; of a chunk, where the chunk does.
    pub(crate) offset: u64,
    /// On which line, where that is known.
    pub(crate) line: Option<u64>,
}

impl AsideRow {
    /// The error that it would have been.
    pub(crate) fn error(&self) -> ImportError {
        let source = RowError {
            table: self.table.clone(),
            row: 1,
            column: String::new(),
            offset: 0,
            line: 0,
            reason: self.reason.clone(),
        };
        ImportError::Row { batch_offset: self.offset, source }
    }
}

/// Where a row stands in the dump.
pub(crate) type Place<'a> = &'a (dyn Fn(usize) -> (u64, Option<u64>) + Sync);

/// A line of COPY text that the server refused.
struct RefusedLine {
    number: usize,
    /// Where it is, its end included.
    bytes: Range<usize>,
    reason: String,
}

/// Why the server took none of several lines.
struct Refusal {
    error: PgError,
    reason: String,
    /// The one that it names, counted from 1.
    line: Option<usize>,
}

/// What the rows of one COPY go through.
pub(crate) struct Sorter<'a> {
    pub(crate) session: &'a mut Session,
    pub(crate) table: &'a TableDef,
    /// Its name in Postgres.
    pub(crate) name: &'a str,
    pub(crate) statement: &'a str,
    pub(crate) allowance: &'a Allowance,
    pub(crate) idle_limit: Duration,
    pub(crate) cancel: &'a CancellationToken,
}

impl Sorter<'_> {
    /// Encodes rows into `text` and copies them within the open transaction. What is refused is
    /// returned beside the figures of the rest.
    pub(crate) async fn copy(
        &mut self,
        encoder: &mut RowEncoder,
        rows: &[u8],
        text: &mut Vec<u8>,
        place: Place<'_>,
    ) -> Result<(BatchStats, Vec<AsideRow>), ImportError> {
        text.clear();
        let left = self.allowance.left();
        let sorted = encoder
            .encode_each(rows, text, left)
            .map_err(|source| self.over(row_error(source, place)))?;
        let mut aside = Vec::new();
        let mut stats = sorted.stats;
        for (start, error) in sorted.refused {
            let reason = match error.column.as_str() {
                "" => error.reason.clone(),
                column => format!("column {column}: {}", error.reason),
            };
            self.allowance.take(|| row_error(error, place))?;
            aside.push(self.row(&encoder.row_values(rows, start), &reason, place(start)));
        }
        for RefusedLine { number, bytes, reason } in self.copy_lines(text).await? {
            let text = text[bytes].strip_suffix(b"\n").unwrap_or_default();
            let mut one = Checksum::default();
            one.add_row(text);
            stats.checksum = Checksum(stats.checksum.0.wrapping_sub(one.0));
            stats.rows -= 1;
            stats.bytes_out -= text.len() as u64 + 1;
            let at = sorted.starts.get(number).copied().unwrap_or_default();
            aside.push(self.row(&encoder.line_values(text), &reason, place(at)));
        }
        Ok((stats, aside))
    }

    fn over(&self, error: ImportError) -> ImportError {
        ImportError::TooManyRefused { limit: self.allowance.limit, source: Box::new(error) }
    }

    fn row(
        &self,
        values: &RowValues,
        reason: &str,
        (offset, line): (u64, Option<u64>),
    ) -> AsideRow {
        let is_key = |name: &str| {
            self.table.primary_key.iter().any(|part| {
                let IndexKey::Column(column) = &part.key else { return false };
                let defined = self.table.columns.iter().find(|c| c.name == *column);
                defined.is_some_and(|c| c.pg_name.as_deref().unwrap_or(&c.name) == name)
            })
        };
        let text = |value: &Option<String>| match value {
            Some(text) => JsonValue::String(text.clone()),
            None => JsonValue::Null,
        };
        let of = |keep: &dyn Fn(&str) -> bool| {
            let kept = values.iter().filter(|(name, _)| keep(name));
            JsonValue::Object(kept.map(|(name, value)| (name.clone(), text(value))).collect())
        };
        AsideRow {
            table: self.name.to_owned(),
            key: of(&is_key),
            data: of(&|_| true),
            reason: reason.chars().take(REASON_MAX_CHARS).collect(),
            offset,
            line,
        }
    }

    /// Copies lines; those that the server refuses are returned with its reason. As long as it
    /// refuses none this is one COPY within a savepoint. After that the lines before the refused
    /// one are copied again, then itself; where the server names no line, it is found by halves. Who
    /// follows goes in parts that begin small and double: a part that is refused is never much
    /// larger than what went well before it, so that many refusals cost no more than they must.
    async fn copy_lines(&mut self, text: &[u8]) -> Result<Vec<RefusedLine>, ImportError> {
        let Some(mut refusal) = self.copy_or_undo(text).await? else { return Ok(Vec::new()) };
        let ends: Vec<usize> = memchr::memchr_iter(b'\n', text).map(|at| at + 1).collect();
        let start_of = |line: usize| if line == 0 { 0 } else { ends[line - 1] };
        let mut refused = Vec::new();
        // The first line that is not copied yet, and how many of them were refused together.
        let (mut from, mut count) = (0, ends.len());
        loop {
            let Refusal { error, reason, line } = refusal;
            // How many go next, and how many then if these go well; twice as many if not given.
            let (mut next, mut then) = match line.filter(|line| (1..=count).contains(line)) {
                _ if count <= 1 => {
                    self.allowance.take(|| error.into())?;
                    let bytes = start_of(from)..ends.get(from).copied().unwrap_or(text.len());
                    refused.push(RefusedLine { number: from, bytes, reason });
                    from += 1;
                    (LINES_AFTER_REFUSAL, None)
                }
                Some(line) => ((line - 1).max(1), Some(1)),
                None => (count / 2, Some((count / 4).max(1))),
            };
            refusal = loop {
                if from >= ends.len() {
                    return Ok(refused);
                }
                count = next.min(ends.len() - from);
                let part = &text[start_of(from)..ends[from + count - 1]];
                if let Some(refusal) = self.copy_or_undo(part).await? {
                    break refusal;
                }
                from += count;
                next = then.unwrap_or(count * 2);
                then = then.map(|lines| (lines / 2).max(1));
            };
        }
    }

    /// Copies lines, or none of them when the server refuses one.
    async fn copy_or_undo(&mut self, part: &[u8]) -> Result<Option<Refusal>, ImportError> {
        if part.is_empty() {
            return Ok(None);
        }
        self.run("-- copy_lines\nSAVEPOINT rows").await?;
        let Err(error) = self.copy_part(part).await else {
            self.run("-- copy_lines\nRELEASE SAVEPOINT rows").await?;
            return Ok(None);
        };
        let Some((reason, line)) = refusal(&error) else { return Err(error.into()) };
        self.run("-- copy_lines\nROLLBACK TO SAVEPOINT rows; RELEASE SAVEPOINT rows").await?;
        Ok(Some(Refusal { error, reason, line }))
    }

    async fn run(&mut self, sql: &'static str) -> Result<(), ImportError> {
        let failed = |source| ImportError::database(format!("loading into {}", self.name), source);
        self.session.connection().execute(sql).await.map(|_| ()).map_err(failed)
    }

    async fn copy_part(&mut self, part: &[u8]) -> Result<(), PgError> {
        let what = format!("copying into {}", self.name);
        let cancel = self.cancel.clone();
        let mut copy =
            CopyIn::begin(self.session, self.statement, what, self.idle_limit, cancel).await?;
        copy.send(part).await?;
        copy.finish().await.map(|_| ())
    }
}

fn row_error(source: RowError, place: Place<'_>) -> ImportError {
    match place(source.offset) {
        (offset, Some(line)) => ImportError::RowAt { offset, line, source },
        (offset, None) => ImportError::Row { batch_offset: offset, source },
    }
}

/// The server's reason and the line it names, if it refused a row and nothing else went wrong.
fn refusal(error: &PgError) -> Option<(String, Option<usize>)> {
    let PgError::Database { source, .. } = error else { return None };
    // Values that a type does not take, and rows that break a rule.
    let code = relevo_pg::error::sqlstate(source)?;
    if !code.starts_with("22") && !code.starts_with("23") {
        return None;
    }
    let answer = source.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    // Behind what a type has to say of the value, as in "JSON data, line 1: …".
    let context = answer.r#where().unwrap_or_default();
    let place = context.lines().find(|line| line.starts_with("COPY ")).unwrap_or_default();
    let number = place
        .split_once(", line ")
        .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    let reason = match place.split_once(", column ") {
        Some((_, column)) => format!("{} (column {column})", answer.message()),
        None => answer.message().to_owned(),
    };
    Some((reason, number.and_then(|digits| digits.parse().ok())))
}

/// Keeps rows in the target's ledger.
pub(crate) async fn keep(
    connection: &mut PgConnection,
    id: &ImportId,
    rows: &[AsideRow],
) -> Result<(), ImportError> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let json = |value: &dyn Fn(&AsideRow) -> &JsonValue| {
        let written = rows.iter().map(|row| ledger::write(id, "refused row", value(row)));
        written.collect::<Result<Vec<_>, _>>()
    };
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "-- keep_refused_rows
         INSERT INTO relevo_ledger.quarantine
             (import_id, table_name, row_key, data, reason, dump_offset, dump_line)
         SELECT $1, r.* FROM unnest($2::text[], $3::jsonb[], $4::jsonb[], $5::text[], $6::bigint[],
                                    $7::bigint[]) AS r",
    )
    .bind(id.as_str())
    .bind(rows.iter().map(|row| row.table.as_str()).collect::<Vec<_>>())
    .bind(json(&|row| &row.key)?)
    .bind(json(&|row| &row.data)?)
    .bind(rows.iter().map(|row| row.reason.replace('\0', "\u{fffd}")).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| number(row.offset)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.line.map(number)).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(|source| ImportError::database("keeping refused rows", source))
}

/// Waits for others that set rows of the import aside, until their transaction ends; who comes next
/// waits for ours.
pub(crate) async fn lock(connection: &mut PgConnection, id: &ImportId) -> Result<(), ImportError> {
    sqlx::query(
        "-- lock_refused_rows
         SELECT pg_advisory_xact_lock(hashtextextended('relevo quarantine ' || $1, 0))",
    )
    .bind(id.as_str())
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(|source| ImportError::database("waiting to set rows aside", source))
}

/// How many rows an import has set aside.
pub(crate) async fn count(
    connection: &mut PgConnection,
    id: &ImportId,
) -> Result<u64, ImportError> {
    sqlx::query_scalar::<_, i64>(
        "-- count_refused_rows
         SELECT count(*) FROM relevo_ledger.quarantine WHERE import_id = $1",
    )
    .bind(id.as_str())
    .fetch_one(connection)
    .await
    .map(i64::unsigned_abs)
    .map_err(|source| ImportError::database("counting refused rows", source))
}
