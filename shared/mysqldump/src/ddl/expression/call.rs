//! Functions that mean the same in both servers.

use crate::ddl::expression::Use;
use crate::ddl::expression::parser::Parser;
use crate::ddl::expression::typing::{
    Kind, Typed, is_digits, is_number, joins, plain_literal, truth, unify,
};
use crate::lexer::TokenKind;

impl Parser<'_> {
    /// A call by name, its arguments read.
    pub(super) fn call(&self, name: &str, arguments: &[Typed]) -> Option<Typed> {
        let sql: Vec<&str> = arguments.iter().map(|a| a.0.as_str()).collect();
        let all = |kind| arguments.iter().all(|a| a.1 == kind);
        let first = arguments.first().map(|a| a.1);
        match (name, arguments.len()) {
            // What is joined must be text; whole numbers print alike unless zero-filled.
            ("concat", 1..) if arguments.iter().all(|a| joins(a.1)) => {
                let parts: Vec<String> = arguments
                    .iter()
                    .map(|(sql, kind)| match kind {
                        Kind::Text => sql.clone(),
                        _ => format!("{sql}::text"),
                    })
                    .collect();
                Some((format!("({})", parts.join(" || ")), Kind::Text))
            }
            ("replace", 3) if all(Kind::Text) => {
                Some((format!("replace({})", sql.join(", ")), Kind::Text))
            }
            ("left" | "right", 2) if first == Some(Kind::Text) && is_digits(sql[1]) => {
                Some((format!("\"{name}\"({})", sql.join(", ")), Kind::Text))
            }
            ("date", 1) if self.has_date(first?) => Some((format!("{}::date", sql[0]), Kind::Date)),
            // Which letters change depends on the collation, and differs in places.
            ("lower" | "lcase" | "upper" | "ucase", 1) if self.purpose == Use::Generated => None,
            ("lower" | "lcase" | "upper" | "ucase" | "trim" | "ltrim" | "rtrim", 1)
                if all(Kind::Text) =>
            {
                let name = match name {
                    "lcase" => "lower",
                    "ucase" => "upper",
                    // TRIM of MySQL takes blanks only, as btrim does.
                    "trim" => "btrim",
                    other => other,
                };
                Some((format!("{name}({})", sql[0]), Kind::Text))
            }
            ("char_length" | "character_length", 1) if all(Kind::Text) => {
                Some((format!("char_length({})", sql[0]), Kind::Integer))
            }
            // Bytes in the column's own character set.
            ("length" | "octet_length", 1) if all(Kind::Text) && self.scope.is_utf8() => {
                Some((format!("octet_length({})", sql[0]), Kind::Integer))
            }
            ("md5", 1) if all(Kind::Text) && self.scope.is_utf8() => {
                Some((format!("md5({})", sql[0]), Kind::Text))
            }
            ("abs", 1) => {
                is_number(first?).then_some(())?;
                // MySQL computes in 64 bits: the least smallint has an absolute value there.
                let wide = if first == Some(Kind::Integer) { "::bigint" } else { "" };
                Some((format!("abs({}{wide})", sql[0]), first?))
            }
            ("ifnull" | "coalesce", 1..) => {
                let kind = arguments.iter().try_fold(Kind::Null, |kind, a| unify(kind, a.1))?;
                Some((format!("COALESCE({})", sql.join(", ")), kind))
            }
            ("if", 3) => {
                let kind = unify(arguments[1].1, arguments[2].1)?;
                let condition = truth(arguments[0].clone())?;
                Some((format!("CASE WHEN {condition} THEN {} ELSE {} END", sql[1], sql[2]), kind))
            }
            ("isnull", 1) => Some((format!("({} IS NULL)", sql[0]), Kind::Bool)),
            // Not immutable in Postgres.
            ("concat_ws", 2..) if self.is_volatile() && arguments.iter().all(|a| joins(a.1)) => {
                Some((format!("concat_ws({})", sql.join(", ")), Kind::Text))
            }
            ("round", 1) if matches!(first, Some(Kind::Integer | Kind::Number)) => {
                Some((format!("round({}::numeric)", sql[0]), Kind::Number))
            }
            ("round", 2)
                if matches!(first, Some(Kind::Integer | Kind::Number)) && is_digits(sql[1]) =>
            {
                Some((format!("round({}::numeric, {})", sql[0], sql[1]), Kind::Number))
            }
            ("floor" | "ceil" | "ceiling", 1)
                if matches!(first, Some(Kind::Integer | Kind::Number)) =>
            {
                Some((format!("{name}({}::numeric)", sql[0]), Kind::Number))
            }
            ("substr" | "substring" | "mid", 2 | 3)
                if first == Some(Kind::Text)
                    && sql[1..].iter().all(|n| is_digits(n) && *n != "0") =>
            {
                Some((format!("substr({})", sql.join(", ")), Kind::Text))
            }
            ("date_format", 2) if self.purpose == Use::View && self.has_date(first?) => {
                let pattern = date_pattern(plain_literal(sql[1])?)?;
                Some((format!("to_char({}::timestamp, '{pattern}')", sql[0]), Kind::Text))
            }
            ("nullif", 2) if unify(first?, arguments[1].1) == first => {
                Some((format!("NULLIF({}, {})", sql[0], sql[1]), first?))
            }
            ("year" | "month" | "day" | "dayofmonth", 1) if self.has_date(first?) => {
                let field = if name == "dayofmonth" { "day" } else { name };
                let field = field.to_uppercase();
                Some((format!("EXTRACT({field} FROM {})::integer", sql[0]), Kind::Integer))
            }
            ("uuid", 0) if self.purpose == Use::Default => {
                Some(("gen_random_uuid()".to_owned(), Kind::Uuid))
            }
            ("now" | "current_timestamp" | "localtimestamp" | "localtime", _)
                if self.is_volatile() =>
            {
                Some(self.now())
            }
            ("json_object", 0) => Some(("'{}'::jsonb".to_owned(), Kind::Json)),
            ("json_array", 0) => Some(("'[]'::jsonb".to_owned(), Kind::Json)),
            ("curdate" | "current_date", 0) if self.is_volatile() => {
                Some(("CURRENT_DATE".to_owned(), Kind::Date))
            }
            _ => None,
        }
    }

    fn is_volatile(&self) -> bool {
        matches!(self.purpose, Use::Default | Use::View)
    }

    /// Kinds with a date in them; that of an instant depends on the session's zone.
    fn has_date(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Date | Kind::Moment)
            || kind == Kind::Instant && self.purpose == Use::View
    }

    /// `cast(value as type)`, after CAST.
    pub(super) fn cast(&mut self) -> Option<Typed> {
        if !self.cursor.eat_punct('(') {
            return None;
        }
        let value = self.expression()?;
        if !self.cursor.eat("as") {
            return None;
        }
        let TokenKind::Word(wanted) = self.cursor.next()? else { return None };
        let size = self.cursor.group();
        let _ = self.cursor.eat("charset utf8mb4") || self.cursor.eat("character set utf8mb4");
        let _ = self.cursor.eat("integer");
        if !self.cursor.eat_punct(')') {
            return None;
        }
        let (sql, kind) = value;
        match (wanted.to_ascii_lowercase().as_str(), kind, size) {
            ("signed", Kind::Integer, None) => Some((sql, kind)),
            ("signed", Kind::Number, None) => {
                Some((format!("round({sql})::bigint"), Kind::Integer))
            }
            ("char", Kind::Text, None) => Some((sql, kind)),
            ("char", Kind::Integer, None) => Some((format!("{sql}::text"), Kind::Text)),
            ("date", kind, None) if self.has_date(kind) => {
                Some((format!("{sql}::date"), Kind::Date))
            }
            ("datetime", Kind::Date | Kind::Moment, None) => {
                Some((format!("{sql}::timestamp(0)"), Kind::Moment))
            }
            ("decimal", Kind::Integer | Kind::Number, Some(size))
                if size.bytes().all(|b| b.is_ascii_digit() || b == b',') =>
            {
                Some((format!("{sql}::numeric({size})"), Kind::Number))
            }
            _ => None,
        }
    }

    /// `convert(text using charset)`, after CONVERT: all text is UTF-8 here.
    pub(super) fn convert(&mut self) -> Option<Typed> {
        if !self.cursor.eat_punct('(') {
            return None;
        }
        let (sql, kind) = self.expression()?;
        let unicode = ["using utf8mb4", "using utf8mb3", "using utf8"];
        (kind == Kind::Text
            && unicode.iter().any(|words| self.cursor.eat(words))
            && self.cursor.eat_punct(')'))
        .then_some((sql, kind))
    }
}

/// A pattern of DATE_FORMAT for to_char; only what both print alike, whatever the language.
fn date_pattern(format: &str) -> Option<String> {
    let mut pattern = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => pattern.push_str(match chars.next()? {
                'Y' => "YYYY",
                'y' => "YY",
                'm' => "MM",
                'd' => "DD",
                'H' => "HH24",
                'h' | 'I' => "HH12",
                'i' => "MI",
                's' | 'S' => "SS",
                'T' => "HH24:MI:SS",
                'j' => "DDD",
                _ => return None,
            }),
            '-' | '/' | ':' | '.' | ' ' | ',' => pattern.push(c),
            _ => return None,
        }
    }
    Some(pattern)
}
