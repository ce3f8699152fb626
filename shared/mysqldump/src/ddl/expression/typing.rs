//! Kinds of values, and the rules by which they combine.

use crate::ddl::names::literal;
use crate::ddl::types::Encoding;

/// What an expression yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ddl) enum Kind {
    /// Whole numbers.
    Integer,
    /// Exact decimals.
    Number,
    /// Floating point.
    Float,
    /// Text.
    Text,
    /// jsonb.
    Json,
    /// The literal NULL.
    Null,
    /// Truth.
    Bool,
    /// Dates.
    Date,
    /// Date and time without a zone.
    Moment,
    /// Date and time with a zone.
    Instant,
    /// UUIDs.
    Uuid,
    /// Anything else: may be handed on, not computed with.
    Other,
}

/// SQL text and what it yields.
pub(in crate::ddl) type Typed = (String, Kind);

/// What the values of a column are.
pub(in crate::ddl) fn kind_of(encoding: &Encoding) -> Kind {
    match encoding {
        Encoding::Int { .. } | Encoding::Year => Kind::Integer,
        Encoding::Decimal { .. } => Kind::Number,
        Encoding::Float | Encoding::Double => Kind::Float,
        Encoding::Json => Kind::Json,
        Encoding::Boolean | Encoding::Bit { width: 1 } => Kind::Bool,
        Encoding::Text { .. } | Encoding::Enum { .. } => Kind::Text,
        Encoding::Date => Kind::Date,
        Encoding::DateTime { .. } => Kind::Moment,
        Encoding::Timestamp { .. } => Kind::Instant,
        _ => Kind::Other,
    }
}

/// A condition: MySQL takes numbers for truth.
pub(in crate::ddl) fn truth((sql, kind): Typed) -> Option<String> {
    match kind {
        Kind::Bool => Some(sql),
        kind if is_number(kind) && !sql.bytes().all(|b| b.is_ascii_digit()) => {
            Some(format!("({sql} <> 0)"))
        }
        _ => None,
    }
}

pub(super) fn both_true(left: Typed, operator: &str, right: Typed) -> Option<Typed> {
    Some((format!("({} {operator} {})", truth(left)?, truth(right)?), Kind::Bool))
}

pub(super) fn is_number(kind: Kind) -> bool {
    matches!(kind, Kind::Integer | Kind::Number | Kind::Float)
}

/// `+`, `-`, `*` and `%`.
pub(super) fn arithmetic(left: &Typed, operator: &str, right: &Typed) -> Option<Typed> {
    if !is_number(left.1) || !is_number(right.1) {
        return None;
    }
    Some(match (left.1, right.1) {
        // MySQL computes whole numbers in 64 bits.
        (Kind::Integer, Kind::Integer) => {
            (format!("({}::bigint {operator} {})", left.0, right.0), Kind::Integer)
        }
        (Kind::Float, _) | (_, Kind::Float) => {
            (format!("({} {operator} {})", left.0, right.0), Kind::Float)
        }
        _ => (format!("({} {operator} {})", left.0, right.0), Kind::Number),
    })
}

/// A member of a document as text. A JSON null is the text `null` to MySQL.
pub(super) fn unquoted_member(document: &Typed, path: &str) -> Option<Typed> {
    let (sql, kind) = document;
    (*kind == Kind::Json).then(|| {
        let null = format!("CASE WHEN jsonb_typeof({sql} #> {path}) = 'null' THEN 'null' END");
        (format!("COALESCE({sql} #>> {path}, {null})"), Kind::Text)
    })
}

/// Whether SQL text is what [`unquoted_member`] wrote.
pub(super) fn is_unquoted_member(sql: &str) -> bool {
    sql.starts_with("COALESCE(") && sql.ends_with("= 'null' THEN 'null' END)")
}

/// Kinds that CONCAT prints as Postgres does.
pub(super) fn joins(kind: Kind) -> bool {
    matches!(kind, Kind::Text | Kind::Integer)
}

pub(super) fn is_digits(sql: &str) -> bool {
    !sql.is_empty() && sql.len() < 9 && sql.bytes().all(|b| b.is_ascii_digit())
}

/// What a choice between two expressions yields.
pub(super) fn unify(left: Kind, right: Kind) -> Option<Kind> {
    match (left, right) {
        (Kind::Other | Kind::Json, _) | (_, Kind::Other | Kind::Json) => None,
        (Kind::Null, kind) | (kind, Kind::Null) => Some(kind),
        (Kind::Integer, Kind::Number) | (Kind::Number, Kind::Integer) => Some(Kind::Number),
        (a, b) => (a == b).then_some(a),
    }
}

/// The content of a plain string literal in SQL.
pub(super) fn plain_literal(sql: &str) -> Option<&str> {
    let content = sql.strip_prefix('\'')?.strip_suffix('\'')?;
    (!content.contains('\'')).then_some(content)
}

/// `$.a.b` as the elements of a Postgres path; plain members only.
pub(super) fn json_path(path: &str) -> Option<String> {
    let members: Vec<&str> = path.strip_prefix("$.")?.split('.').collect();
    let plain = |member: &&str| {
        let member = member.strip_prefix('"').and_then(|m| m.strip_suffix('"')).unwrap_or(member);
        !member.is_empty() && member.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    members
        .iter()
        .all(plain)
        .then(|| literal(&format!("{{{}}}", members.join(",").replace('"', ""))))
}
