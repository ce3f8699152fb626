//! The guard: a half-empty dump passes every other check.
use std::fmt;

/// One table that would lose too much.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuardFinding {
    /// The table's name in Postgres.
    pub table: String,
    /// Rows before: by the last certificate, or in the present target.
    pub rows_before: u64,
    /// Rows in the dump; `None` when the table is gone.
    pub rows_dump: Option<u64>,
}

impl fmt::Display for GuardFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows_dump {
            None => write!(f, "{} is gone (it had {} rows)", self.table, self.rows_before),
            Some(rows) => {
                let lost = 100 - rows * 100 / self.rows_before.max(1);
                write!(
                    f,
                    "{} fell from {} to {rows} rows (-{lost} %)",
                    self.table, self.rows_before
                )
            }
        }
    }
}
