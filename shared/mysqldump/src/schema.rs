//! What a dump says about its tables: the parsed `CREATE TABLE`, with later `ALTER TABLE` applied.
//!
//! Everything here is serialisable, so that a chunk of rows can travel with the definition it
//! needs and be encoded by any process alone.

use serde::{Deserialize, Serialize};

use crate::choices::TypeChoice;

/// One table as the dump defines it. Names are UTF-8 and unquoted, as MySQL shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TableDef {
    /// The database in force (`USE`, or a qualified name) when the table was created.
    pub database: Option<String>,
    /// The table's name.
    pub name: String,
    /// An earlier table's name begins with the same 63 bytes, which are all that Postgres keeps.
    #[serde(default)]
    pub shares_long_name: bool,
    /// The name chosen for Postgres, where it is another.
    #[serde(default)]
    pub pg_name: Option<String>,
    /// Columns that an ALTER added after the first rows: made after the load.
    #[serde(default)]
    pub added_later: Vec<String>,
    /// Columns that an ALTER widened after the first rows: changed after the load.
    #[serde(default)]
    pub widened_later: Vec<String>,
    /// `bigint unsigned` columns of foreign keys whose other side is known to be numeric in
    /// Postgres, too: neither becomes `bigint`.
    #[serde(default)]
    pub numeric_keys: Vec<String>,
    /// Columns in table order, invisible and generated ones included.
    pub columns: Vec<ColumnDef>,
    /// Parts of the primary key; empty when there is none.
    pub primary_key: Vec<IndexPart>,
    /// All other indexes, unique ones included.
    pub indexes: Vec<IndexDef>,
    /// Foreign keys that start at this table.
    pub foreign_keys: Vec<ForeignKeyDef>,
    /// CHECK constraints of the table and of its columns, as MySQL expressions.
    pub checks: Vec<CheckDef>,
    /// The next value named by `AUTO_INCREMENT=`, when the dump names one.
    pub auto_increment: Option<u64>,
    /// Storage engine.
    pub engine: Option<String>,
    /// Default character set of the table (as written, or by the collation, else the database's).
    pub charset: Option<String>,
    /// Default collation of the table.
    pub collation: Option<String>,
    /// Table comment; empty when there is none.
    pub comment: String,
    /// Source text of the `PARTITION BY` clause; the table is made plain in Postgres.
    pub partitioning: Option<String>,
    /// Things in the statement that have no meaning here, kept for the report.
    pub remarks: Vec<String>,
}

impl TableDef {
    /// Position of a column by name; MySQL compares column names without regard to case.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name).or_else(|| {
            let lower = name.to_lowercase();
            self.columns.iter().position(|c| c.name.to_lowercase() == lower)
        })
    }

    /// The column that counts by itself, if any.
    pub fn auto_increment_column(&self) -> Option<&ColumnDef> {
        self.columns.iter().find(|c| c.auto_increment)
    }

    /// `database.table`, or the bare name where the dump names no database.
    pub fn qualified_name(&self) -> String {
        match &self.database {
            Some(database) => format!("{database}.{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDef {
    /// Name.
    pub name: String,
    /// The name chosen for Postgres, where it is another.
    #[serde(default)]
    pub pg_name: Option<String>,
    /// The type chosen for Postgres, where one is.
    #[serde(default)]
    pub pg_type: Option<TypeChoice>,
    /// MySQL type.
    pub ty: ColumnType,
    /// May hold NULL.
    pub nullable: bool,
    /// Default value, when one is given.
    pub default: Option<DefaultValue>,
    /// `AUTO_INCREMENT`.
    pub auto_increment: bool,
    /// `ON UPDATE CURRENT_TIMESTAMP`.
    pub on_update_now: bool,
    /// Generated column: its expression.
    pub generated: Option<GeneratedDef>,
    /// Left out of an INSERT that has no column list.
    pub invisible: bool,
    /// Character set, when the column names its own (or its collation implies one).
    pub charset: Option<String>,
    /// Collation, when the column names its own.
    pub collation: Option<String>,
    /// Comment; empty when there is none.
    pub comment: String,
}

/// Width of an integer type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntSize {
    /// 1 byte.
    Tiny,
    /// 2 bytes.
    Small,
    /// 3 bytes.
    Medium,
    /// 4 bytes.
    Int,
    /// 8 bytes.
    Big,
}

/// A MySQL or MariaDB column type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ColumnType {
    /// All integer types.
    Int {
        /// Storage size.
        size: IntSize,
        /// `UNSIGNED` (implied by ZEROFILL).
        unsigned: bool,
        /// `ZEROFILL`: only how MySQL prints the number.
        zerofill: bool,
        /// Display width; `tinyint(1)` is the habitual boolean.
        width: Option<u32>,
    },
    /// `DECIMAL(precision, scale)`.
    Decimal {
        /// Digits in all, up to 65.
        precision: u32,
        /// Digits after the point, up to 38.
        scale: u32,
        /// `UNSIGNED`.
        unsigned: bool,
    },
    /// 4 byte float.
    Float {
        /// Digits after the point, when given.
        scale: Option<u32>,
        /// `UNSIGNED`.
        unsigned: bool,
    },
    /// 8 byte float.
    Double {
        /// Digits after the point, when given.
        scale: Option<u32>,
        /// `UNSIGNED`.
        unsigned: bool,
    },
    /// `BIT(width)`.
    Bit {
        /// Bits, 1 to 64.
        width: u32,
    },
    /// `DATE`.
    Date,
    /// `DATETIME(fsp)`.
    DateTime {
        /// Fractional digits, 0 to 6.
        fsp: u32,
    },
    /// `TIMESTAMP(fsp)`.
    Timestamp {
        /// Fractional digits, 0 to 6.
        fsp: u32,
    },
    /// `TIME(fsp)`, ±838 hours.
    Time {
        /// Fractional digits, 0 to 6.
        fsp: u32,
    },
    /// `YEAR`.
    Year,
    /// `CHAR(length)`.
    Char {
        /// Characters.
        length: u32,
    },
    /// `VARCHAR(length)`.
    VarChar {
        /// Characters.
        length: u32,
    },
    /// The TEXT family.
    Text,
    /// `BINARY(length)`: dumps drop no bytes, but the server pads to this length.
    Binary {
        /// Bytes.
        length: u32,
    },
    /// `VARBINARY(length)`.
    VarBinary {
        /// Bytes.
        length: u32,
    },
    /// The BLOB family.
    Blob,
    /// `ENUM(…)`.
    Enum {
        /// Labels in order.
        labels: Vec<String>,
    },
    /// `SET(…)`.
    Set {
        /// Labels in order.
        labels: Vec<String>,
    },
    /// MySQL's JSON, or MariaDB's `longtext … CHECK (json_valid(…))`.
    Json,
    /// Any spatial type.
    Geometry {
        /// `point`, `polygon`, …, in lower case.
        kind: String,
    },
    /// MariaDB's UUID.
    Uuid,
    /// MariaDB's INET4.
    Inet4,
    /// MariaDB's INET6.
    Inet6,
    /// `VECTOR(n)` of MySQL 9 and MariaDB 11.7.
    Vector,
}

impl ColumnType {
    /// A type whose values are text in some character set.
    pub fn is_text(&self) -> bool {
        matches!(
            self,
            Self::Char { .. }
                | Self::VarChar { .. }
                | Self::Text
                | Self::Enum { .. }
                | Self::Set { .. }
        )
    }

    /// A type whose values are bytes.
    pub fn is_binary(&self) -> bool {
        matches!(
            self,
            Self::Binary { .. }
                | Self::VarBinary { .. }
                | Self::Blob
                | Self::Geometry { .. }
                | Self::Vector
        )
    }

    /// The type as MySQL writes it, without attributes that change no values.
    pub fn mysql_name(&self) -> String {
        let signed = |name: &str, unsigned: bool| {
            if unsigned { format!("{name} unsigned") } else { name.to_owned() }
        };
        let fraction = |name: &str, fsp: u32| {
            if fsp == 0 { name.to_owned() } else { format!("{name}({fsp})") }
        };
        match self {
            Self::Int { size, unsigned, width, .. } => {
                let name = match size {
                    IntSize::Tiny => "tinyint",
                    IntSize::Small => "smallint",
                    IntSize::Medium => "mediumint",
                    IntSize::Int => "int",
                    IntSize::Big => "bigint",
                };
                let name = width.map_or_else(|| name.to_owned(), |w| format!("{name}({w})"));
                signed(&name, *unsigned)
            }
            Self::Decimal { precision, scale, unsigned } => {
                signed(&format!("decimal({precision},{scale})"), *unsigned)
            }
            Self::Float { unsigned, .. } => signed("float", *unsigned),
            Self::Double { unsigned, .. } => signed("double", *unsigned),
            Self::Bit { width } => format!("bit({width})"),
            Self::Date => "date".to_owned(),
            Self::DateTime { fsp } => fraction("datetime", *fsp),
            Self::Timestamp { fsp } => fraction("timestamp", *fsp),
            Self::Time { fsp } => fraction("time", *fsp),
            Self::Year => "year".to_owned(),
            Self::Char { length } => format!("char({length})"),
            Self::VarChar { length } => format!("varchar({length})"),
            Self::Text => "text".to_owned(),
            Self::Binary { length } => format!("binary({length})"),
            Self::VarBinary { length } => format!("varbinary({length})"),
            Self::Blob => "blob".to_owned(),
            Self::Enum { .. } => "enum".to_owned(),
            Self::Set { .. } => "set".to_owned(),
            Self::Json => "json".to_owned(),
            Self::Geometry { kind } => kind.clone(),
            Self::Uuid => "uuid".to_owned(),
            Self::Inet4 => "inet4".to_owned(),
            Self::Inet6 => "inet6".to_owned(),
            Self::Vector => "vector".to_owned(),
        }
    }

    /// A type that can hold a zero or partial date.
    pub fn is_date(&self) -> bool {
        matches!(self, Self::Date | Self::DateTime { .. } | Self::Timestamp { .. })
    }
}

/// The DEFAULT of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "default", content = "value")]
pub enum DefaultValue {
    /// `DEFAULT NULL`.
    Null,
    /// A quoted string or a bare number, unescaped. Bytes that are not UTF-8 are in `Bytes`.
    Literal(String),
    /// A literal of raw bytes (hex, bit, or a string that is not UTF-8).
    Bytes(Vec<u8>),
    /// `CURRENT_TIMESTAMP[(n)]` and its synonyms.
    Now,
    /// Any other expression, as MySQL source.
    Expression(String),
}

/// A generated column's rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedDef {
    /// MySQL expression, without the outer parentheses.
    pub expression: String,
    /// STORED or PERSISTENT rather than VIRTUAL.
    pub stored: bool,
}

/// What an index is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexKind {
    /// `KEY`.
    Plain,
    /// `UNIQUE KEY`.
    Unique,
    /// `FULLTEXT KEY`.
    FullText,
    /// `SPATIAL KEY`.
    Spatial,
    /// `VECTOR INDEX`.
    Vector,
}

/// One index other than the primary key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexDef {
    /// Name; MySQL's names are unique per table only. Empty when the dump gives none.
    pub name: String,
    /// Kind.
    pub kind: IndexKind,
    /// Parts in order.
    pub parts: Vec<IndexPart>,
    /// `USING BTREE`, `USING HASH`, as written.
    pub using: Option<String>,
    /// Comment; empty when there is none.
    pub comment: String,
}

/// One part of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPart {
    /// Column, or the expression of a functional part.
    pub key: IndexKey,
    /// Prefix length in characters (bytes for binary columns).
    pub prefix: Option<u32>,
    /// `DESC`.
    pub descending: bool,
}

/// What an index part looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexKey {
    /// A column by name.
    Column(String),
    /// A MySQL expression.
    Expression(String),
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKeyDef {
    /// Constraint name; empty when the dump gives none.
    pub name: String,
    /// Referencing columns.
    pub columns: Vec<String>,
    /// Database of the referenced table, when it is named.
    pub references_database: Option<String>,
    /// Referenced table.
    pub references_table: String,
    /// Referenced columns.
    pub references_columns: Vec<String>,
    /// `ON DELETE` action in upper case, when given.
    pub on_delete: Option<String>,
    /// `ON UPDATE` action in upper case, when given.
    pub on_update: Option<String>,
}

/// A CHECK constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDef {
    /// Name; empty when the dump gives none.
    pub name: String,
    /// MySQL expression without the outer parentheses.
    pub expression: String,
    /// False for `NOT ENFORCED`.
    pub enforced: bool,
}
