//! Reference values of a database, computed by MariaDB itself, and the same computed by Postgres
//! from imported tables.
//!
//! A row's hash is the MD5 of the concatenation, over the columns in table order, of `N;` for NULL
//! and otherwise `V`, the byte length of the canonical text in decimal, `:`, the text, `;`. A
//! table's checksum is the sum of its rows' hashes, read as big-endian numbers, modulo 2^128: the
//! order of rows does not matter, duplicates do. The canonical text of a column depends on its
//! [`ColumnKind`]; both servers produce it in SQL (`mariadb` and `postgres`).

mod mariadb;
mod postgres;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use mariadb::compute;
pub use postgres::compare;

/// What a database held when it was dumped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// The server's version.
    pub server: String,
    /// Tables by name; views are not among them.
    pub tables: BTreeMap<String, Table>,
}

impl Reference {
    /// Reads a file that the shop generator wrote.
    ///
    /// # Panics
    ///
    /// When it is missing or is something else.
    pub fn read(path: &std::path::Path) -> Self {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{} is no reference: {error}", path.display()))
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.values().map(|table| table.rows).sum()
    }
}

/// One table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// How many rows.
    pub rows: u64,
    /// Checksum of the rows, 32 hexadecimal digits.
    pub checksum: String,
    /// Columns in table order.
    pub columns: Vec<Column>,
    /// The next value of the AUTO_INCREMENT column, where there is one.
    pub auto_increment: Option<u64>,
    /// Indexes by name in MariaDB, `PRIMARY` among them.
    pub indexes: BTreeMap<String, Index>,
    /// Foreign keys by name.
    pub foreign_keys: BTreeMap<String, ForeignKey>,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as MariaDB writes it, such as `decimal(10,2) unsigned`.
    pub mysql_type: String,
    /// Which canonical text its values have.
    pub kind: ColumnKind,
    /// How many values are NULL, zero dates included.
    pub nulls: u64,
    /// Sum of the first digits of the hashes of rows that consist of this column alone.
    pub checksum: String,
}

/// How a column's values are written for hashing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Decimal integer; of `bit` and `year` too.
    Int,
    /// Plain decimal without trailing zeros.
    Decimal,
    /// The bytes of the number as a double, the least first, in hexadecimal.
    Float,
    /// `YYYY-MM-DD`, with as many digits of a time as it takes; zero dates count as NULL. A
    /// timestamp is in UTC.
    DateTime,
    /// Signed seconds.
    Time,
    /// The text; of `enum` and `set` (members joined by commas) too.
    Text,
    /// The text without trailing spaces.
    Char,
    /// Lower-case hexadecimal.
    Binary,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Index {
    /// Whether it allows no duplicates.
    pub unique: bool,
    /// Its columns in order.
    pub columns: Vec<String>,
    /// Whether it covers only the beginning of some column: then its Postgres form is an
    /// expression, or something else that cannot be compared by columns.
    pub prefix: bool,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The referring columns.
    pub columns: Vec<String>,
    /// The table referred to.
    pub table: String,
    /// The columns referred to.
    pub referred: Vec<String>,
    /// `ON DELETE` and `ON UPDATE`; `RESTRICT` and `NO ACTION` are the same thing in MariaDB, and
    /// are both written `NO ACTION` here.
    pub rules: (String, String),
}

/// Something an import did not carry over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// What of it: `rows`, `values`, a column, an index …
    pub what: String,
    /// What MariaDB says.
    pub expected: String,
    /// What Postgres says.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, what, expected, found } = self;
        write!(formatter, "{table}: {what}: expected {expected}, found {found}")
    }
}

/// How many hexadecimal digits of its hash a column is summed by: its checksum only has to say
/// which column differs, and one sum is cheaper than two.
const COLUMN_DIGITS: u32 = 15;

/// A table's checksum from the sums of the upper and the lower halves of its rows' hashes.
fn row_checksum(upper: u128, lower: u128) -> String {
    format!("{:032x}", (upper << 64).wrapping_add(lower))
}

fn column_checksum(sum: u128) -> String {
    format!("{sum:x}")
}
