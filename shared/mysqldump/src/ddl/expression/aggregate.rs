//! Aggregates, which views use.

use crate::ddl::expression::parser::Parser;
use crate::ddl::expression::typing::{Kind, Typed, joins};
use crate::ddl::names::literal;
use crate::lexer::TokenKind;

impl Parser<'_> {
    pub(super) fn is_aggregate(name: &str) -> bool {
        matches!(name, "count" | "sum" | "min" | "max" | "avg" | "group_concat")
    }

    /// An aggregate, after its name.
    pub(super) fn aggregate(&mut self, name: &str) -> Option<Typed> {
        if std::mem::replace(&mut self.in_aggregate, true) {
            return None;
        }
        let result = self.aggregate_call(name);
        self.in_aggregate = false;
        self.aggregates += 1;
        // A window function has its frame behind it.
        if self.cursor.sees("over") { None } else { result }
    }

    fn aggregate_call(&mut self, name: &str) -> Option<Typed> {
        if !self.cursor.eat_punct('(') {
            return None;
        }
        if name == "count" && self.cursor.eat_punct('*') {
            return self.cursor.eat_punct(')').then(|| ("count(*)".to_owned(), Kind::Integer));
        }
        let distinct = if self.cursor.eat("distinct") { "DISTINCT " } else { "" };
        let (sql, kind) = self.expression()?;
        if name == "group_concat" {
            return self.group_concat(&sql, kind, distinct);
        }
        if !self.cursor.eat_punct(')') {
            return None;
        }
        if !distinct.is_empty() && kind == Kind::Text {
            self.compares_text = true;
        }
        let call = format!("{name}({distinct}{sql})");
        match (name, kind) {
            ("count", _) => Some((call, Kind::Integer)),
            ("sum", Kind::Integer | Kind::Number) => Some((call, Kind::Number)),
            ("sum" | "avg", Kind::Float) => Some((call, Kind::Float)),
            // MySQL gives four digits more than the values have.
            ("avg", Kind::Integer) => Some((format!("round({call}, 4)"), Kind::Number)),
            ("min" | "max", Kind::Text) => {
                self.compares_text = true;
                Some((call, kind))
            }
            ("min" | "max", Kind::Integer | Kind::Number | Kind::Float)
            | ("min" | "max", Kind::Date | Kind::Moment | Kind::Instant) => Some((call, kind)),
            _ => None,
        }
    }

    fn group_concat(&mut self, sql: &str, kind: Kind, distinct: &str) -> Option<Typed> {
        if !joins(kind) {
            return None;
        }
        let text = if kind == Kind::Text { sql.to_owned() } else { format!("{sql}::text") };
        let mut order = String::new();
        if self.cursor.eat("order by") {
            let (by, by_kind) = self.expression()?;
            // Postgres orders distinct values by themselves only.
            if !distinct.is_empty() && (by != sql || kind != Kind::Text) {
                return None;
            }
            self.compares_text |= by_kind == Kind::Text;
            let direction = if self.cursor.eat("desc") { " DESC" } else { "" };
            let _ = self.cursor.eat("asc");
            order = format!(" ORDER BY {by}{direction}");
        }
        let mut separator = ",".to_owned();
        if self.cursor.eat("separator") {
            match self.cursor.next()? {
                TokenKind::Text(text) => separator.clone_from(text),
                _ => return None,
            }
        }
        let separator = literal(&separator);
        self.cursor
            .eat_punct(')')
            .then(|| (format!("string_agg({distinct}{text}, {separator}{order})"), Kind::Text))
    }
}
