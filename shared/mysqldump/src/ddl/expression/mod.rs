//! Translates MySQL expressions: a typed whitelist.
//!
//! A translation that Postgres would refuse, or that means something else there, is worse than
//! none: whatever is not known for certain gives `None`, and the caller reports the source.

mod aggregate;
mod call;
mod parser;
mod scope;
#[cfg(test)]
mod tests;
mod typing;

pub(super) use parser::Parser;
pub(super) use scope::{Relation, Scope, ScopeColumn};
pub(super) use typing::{Kind, Typed, kind_of, truth};

use crate::ddl::types::{Encoding, pg_column};
use crate::lexer::{LexMode, tokenize};
use crate::options::TranslateOptions;
use crate::schema::{ColumnDef, TableDef};

/// What an expression is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Must be immutable, and must give MySQL's very values: no comparison of texts, which MySQL
    /// makes without regard to case.
    Generated,
    /// May be volatile.
    Default,
    /// Must be immutable.
    Check,
    /// May be volatile, may aggregate.
    View,
}

/// A text that is a number to both servers. What is none is an error in MySQL, unless its mode takes
/// what there is of one.
const NUMBER: &str = "'^[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]{1,2})?$'";

/// The rule of a generated column; only what is immutable in Postgres.
pub(super) fn generated(
    source: &str,
    column: &ColumnDef,
    table: &TableDef,
    options: &TranslateOptions,
) -> Option<String> {
    let (sql, kind) = translate(source, table, options, Use::Generated)?;
    let pg = pg_column(table, column, options);
    let wanted = kind_of(&pg.encoding);
    match (wanted, kind) {
        (Kind::Other, _) => None,
        // A cast cuts what is too long, as MySQL does where its mode lets it in.
        (Kind::Text, Kind::Text) if matches!(pg.encoding, Encoding::Text { limit: Some(_) }) => {
            Some(format!("({sql})::{}", pg.name))
        }
        // A member of a document as a number, as MySQL's dumps leave it out. Any other text stays: what
        // is no number in it is one to a lenient server.
        (Kind::Integer | Kind::Number | Kind::Float, Kind::Text)
            if typing::is_unquoted_member(&sql) =>
        {
            let number = match wanted {
                Kind::Integer => format!("round(({sql})::numeric)::{}", pg.name),
                _ => format!("({sql})::{}", pg.name),
            };
            Some(format!("CASE WHEN {sql} ~ {NUMBER} THEN {number} END"))
        }
        // MySQL's truth is a number.
        (Kind::Integer, Kind::Bool) => Some(format!("({sql})::integer")),
        (Kind::Number, Kind::Integer) => Some(sql),
        // A quotient is rounded to few digits before it becomes a float.
        (Kind::Float, Kind::Number) if sql.contains(" / ") => None,
        (Kind::Float, Kind::Integer | Kind::Number) => Some(sql),
        (wanted, kind) => (wanted == kind).then_some(sql),
    }
}

/// A DEFAULT expression.
pub(super) fn default(
    source: &str,
    encoding: &Encoding,
    table: &TableDef,
    options: &TranslateOptions,
) -> Option<String> {
    let (sql, kind) = translate(source, table, options, Use::Default)?;
    match (kind_of(encoding), kind) {
        (_, Kind::Uuid) if *encoding == Encoding::Plain => Some(sql),
        (Kind::Text, Kind::Uuid) => Some(format!("{sql}::text")),
        (Kind::Number, Kind::Integer) | (Kind::Float, Kind::Integer | Kind::Number) => Some(sql),
        (Kind::Date | Kind::Instant, Kind::Moment) => Some(sql),
        (wanted, kind) if wanted == kind && kind != Kind::Other => Some(sql),
        _ => None,
    }
}

/// A CHECK expression.
pub(super) fn check(source: &str, table: &TableDef, options: &TranslateOptions) -> Option<String> {
    truth(translate(source, table, options, Use::Check)?)
}

/// A functional index part.
pub(super) fn index(source: &str, table: &TableDef, options: &TranslateOptions) -> Option<String> {
    translate(source, table, options, Use::Check).map(|(sql, _)| sql)
}

fn translate(
    source: &str,
    table: &TableDef,
    options: &TranslateOptions,
    purpose: Use,
) -> Option<Typed> {
    let tokens = tokenize(source, LexMode::default());
    let mut parser = Parser::new(source, &tokens, Scope::Table(table), options, purpose);
    let result = parser.expression()?;
    parser.cursor.at_end().then_some(result)
}
