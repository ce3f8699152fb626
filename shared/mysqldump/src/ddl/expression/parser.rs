//! The grammar: precedence by descent, every level typed.

use crate::ddl::expression::Use;
use crate::ddl::expression::scope::Scope;
use crate::ddl::expression::typing::{
    Kind, Typed, arithmetic, both_true, is_number, json_path, plain_literal, truth, unify,
    unquoted_member,
};
use crate::ddl::names::literal;
use crate::lexer::{Cursor, Token, TokenKind};
use crate::options::TranslateOptions;
use crate::values::date;

/// Deeper expressions than this are not read: they come from no server.
const DEPTH_LIMIT: usize = 64;

/// Reads one expression after another from a cursor.
pub(in crate::ddl) struct Parser<'a> {
    pub(in crate::ddl) cursor: Cursor<'a>,
    pub(super) scope: Scope<'a>,
    pub(super) options: &'a TranslateOptions,
    pub(super) purpose: Use,
    /// Columns named outside aggregates so far.
    pub(in crate::ddl) bare_columns: usize,
    /// Aggregates so far.
    pub(in crate::ddl) aggregates: usize,
    pub(super) in_aggregate: bool,
    /// Texts were compared, which Postgres does with regard to case.
    pub(in crate::ddl) compares_text: bool,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(in crate::ddl) fn new(
        source: &'a str,
        tokens: &'a [Token],
        scope: Scope<'a>,
        options: &'a TranslateOptions,
        purpose: Use,
    ) -> Self {
        Self {
            cursor: Cursor::new(source, tokens),
            scope,
            options,
            purpose,
            bare_columns: 0,
            aggregates: 0,
            in_aggregate: false,
            compares_text: false,
            depth: 0,
        }
    }

    /// A whole expression.
    pub(in crate::ddl) fn expression(&mut self) -> Option<Typed> {
        self.nested(|parser| {
            let mut left = parser.and()?;
            while parser.cursor.eat("or") {
                let right = parser.and()?;
                left = both_true(left, "OR", right)?;
            }
            Some(left)
        })
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        let result = if self.depth <= DEPTH_LIMIT { read(self) } else { None };
        self.depth -= 1;
        result
    }

    fn and(&mut self) -> Option<Typed> {
        let mut left = self.not()?;
        while self.cursor.eat("and") {
            let right = self.not()?;
            left = both_true(left, "AND", right)?;
        }
        Some(left)
    }

    fn not(&mut self) -> Option<Typed> {
        if !self.cursor.eat("not") {
            return self.comparison();
        }
        self.nested(|parser| {
            let condition = truth(parser.not()?)?;
            Some((format!("NOT {condition}"), Kind::Bool))
        })
    }

    /// Whether two values compare alike in both servers. Literals may be rewritten to the other
    /// side's type.
    fn comparable(&mut self, left: &mut Typed, right: &mut Typed) -> Option<()> {
        adapt_literal(left, right.1, self.purpose);
        adapt_literal(right, left.1, self.purpose);
        let zoned = |a, b| (a, b) == (Kind::Instant, Kind::Moment);
        match (left.1, right.1) {
            (Kind::Other | Kind::Json | Kind::Null, _)
            | (_, Kind::Other | Kind::Json | Kind::Null) => return None,
            (Kind::Text, Kind::Text) if self.purpose == Use::Generated => return None,
            (Kind::Text, Kind::Text) => self.compares_text = true,
            (a, b) if a == b || is_number(a) && is_number(b) => {}
            (a, b) if self.purpose == Use::View && (zoned(a, b) || zoned(b, a)) => {}
            _ => return None,
        }
        Some(())
    }

    fn comparison(&mut self) -> Option<Typed> {
        let mut left = self.sum()?;
        if self.cursor.eat("is not null") {
            return Some((format!("({} IS NOT NULL)", left.0), Kind::Bool));
        }
        if self.cursor.eat("is null") {
            return Some((format!("({} IS NULL)", left.0), Kind::Bool));
        }
        let negated = self.cursor.eat("not");
        let not = if negated { "NOT " } else { "" };
        if self.cursor.eat("between") {
            let mut low = self.sum()?;
            if !self.cursor.eat("and") {
                return None;
            }
            let mut high = self.sum()?;
            self.comparable(&mut left, &mut low)?;
            self.comparable(&mut left, &mut high)?;
            let sql = format!("({} {not}BETWEEN {} AND {})", left.0, low.0, high.0);
            return Some((sql, Kind::Bool));
        }
        if self.cursor.eat("in") {
            let mut items = self.arguments()?;
            for item in &mut items {
                self.comparable(&mut left, item)?;
            }
            if items.is_empty() {
                return None;
            }
            let list: Vec<String> = items.into_iter().map(|i| i.0).collect();
            return Some((format!("({} {not}IN ({}))", left.0, list.join(", ")), Kind::Bool));
        }
        if self.purpose == Use::View && self.cursor.eat("like") {
            let right = self.sum()?;
            // MySQL's usual collations do not tell case.
            self.compares_text = true;
            return (left.1 == Kind::Text && right.1 == Kind::Text)
                .then(|| (format!("({} {not}ILIKE {})", left.0, right.0), Kind::Bool));
        }
        if negated {
            return None;
        }
        let Some(operator) = self.operator() else { return Some(left) };
        let mut right = self.sum()?;
        self.comparable(&mut left, &mut right)?;
        Some((format!("({} {operator} {})", left.0, right.0), Kind::Bool))
    }

    fn operator(&mut self) -> Option<&'static str> {
        let operator = if self.cursor.eat_punct('=') {
            "="
        } else if self.cursor.eat_punct('<') {
            if self.cursor.eat_punct('=') {
                if self.cursor.eat_punct('>') { "IS NOT DISTINCT FROM" } else { "<=" }
            } else if self.cursor.eat_punct('>') {
                "<>"
            } else {
                "<"
            }
        } else if self.cursor.eat_punct('>') {
            if self.cursor.eat_punct('=') { ">=" } else { ">" }
        } else if self.cursor.sees_punct('!')
            && self.cursor.peek_at(1) == Some(&TokenKind::Punct('='))
        {
            self.cursor.next();
            self.cursor.next();
            "<>"
        } else {
            return None;
        };
        Some(operator)
    }

    fn sum(&mut self) -> Option<Typed> {
        let mut left = self.product()?;
        loop {
            let operator = if self.cursor.eat_punct('+') {
                "+"
            } else if self.cursor.eat_punct('-') {
                "-"
            } else {
                return Some(left);
            };
            if self.cursor.eat("interval") {
                left = self.shifted(&left, operator)?;
                continue;
            }
            let right = self.product()?;
            left = arithmetic(&left, operator, &right)?;
        }
    }

    /// `± INTERVAL n unit`, after INTERVAL.
    fn shifted(&mut self, left: &Typed, operator: &str) -> Option<Typed> {
        let number = match self.cursor.next()? {
            TokenKind::Number(number) if number.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => return None,
        };
        let TokenKind::Word(unit) = self.cursor.next()? else { return None };
        let unit = unit.to_ascii_lowercase();
        let whole_days = matches!(unit.as_str(), "day" | "week" | "month" | "year");
        if !whole_days && !matches!(unit.as_str(), "second" | "minute" | "hour") {
            return None;
        }
        let sql = format!("({} {operator} INTERVAL '{number} {unit}')", left.0);
        match left.1 {
            Kind::Date if whole_days => Some((format!("{sql}::date"), Kind::Date)),
            Kind::Date | Kind::Moment => Some((sql, Kind::Moment)),
            _ => None,
        }
    }

    fn product(&mut self) -> Option<Typed> {
        let mut left = self.primary()?;
        loop {
            if self.cursor.sees_punct('-')
                && self.cursor.peek_at(1) == Some(&TokenKind::Punct('>'))
                && self.cursor.peek_at(2) == Some(&TokenKind::Punct('>'))
            {
                for _ in 0..3 {
                    self.cursor.next();
                }
                let path = self.json_path_argument()?;
                left = unquoted_member(&left, &path)?;
            } else if self.cursor.eat_punct('*') {
                let right = self.primary()?;
                left = arithmetic(&left, "*", &right)?;
            } else if self.cursor.eat_punct('%') || self.cursor.eat("mod") {
                // By zero gives NULL; the sign is that of the left side in both servers.
                let right = self.primary()?;
                let divisor = (format!("NULLIF({}, 0)", right.0), right.1);
                if left.1 == Kind::Float || right.1 == Kind::Float {
                    return None;
                }
                left = arithmetic(&left, "%", &divisor)?;
            } else if self.cursor.eat_punct('/') {
                // MySQL divides whole numbers to a decimal, and by zero to NULL.
                let right = self.primary()?;
                if !is_number(left.1) || !is_number(right.1) {
                    return None;
                }
                let float = left.1 == Kind::Float || right.1 == Kind::Float;
                let (ty, kind) =
                    if float { ("float8", Kind::Float) } else { ("numeric", Kind::Number) };
                left = (format!("({}::{ty} / NULLIF({}, 0))", left.0, right.0), kind);
            } else {
                return Some(left);
            }
        }
    }

    fn primary(&mut self) -> Option<Typed> {
        match self.cursor.next()? {
            TokenKind::Number(number) => {
                number.parse::<f64>().ok()?;
                let whole = number.bytes().all(|b| b.is_ascii_digit()) && number.len() < 19;
                Some((number.clone(), if whole { Kind::Integer } else { Kind::Number }))
            }
            TokenKind::Text(text) => Some((literal(text), Kind::Text)),
            TokenKind::Quoted(name) => self.column(name),
            TokenKind::Punct('-') => self.nested(|parser| {
                let (sql, kind) = parser.primary()?;
                let bare = sql.bytes().all(|b| b.is_ascii_digit());
                let wide = if kind == Kind::Integer && !bare { "::bigint" } else { "" };
                is_number(kind).then(|| (format!("(-{sql}{wide})"), kind))
            }),
            TokenKind::Punct('(') => {
                let inner = self.expression()?;
                self.cursor.eat_punct(')').then(|| (format!("({})", inner.0), inner.1))
            }
            TokenKind::Word(word) => self.word(word),
            _ => None,
        }
    }

    fn word(&mut self, word: &'a str) -> Option<Typed> {
        let lower = word.to_ascii_lowercase();
        if lower.starts_with("_utf8") || lower == "_latin1" {
            // Introducer before a string.
            return match self.cursor.next()? {
                TokenKind::Text(text) => Some((literal(text), Kind::Text)),
                _ => None,
            };
        }
        if self.cursor.sees_punct('(') {
            return match lower.as_str() {
                "json_unquote" => self.json_unquote(),
                "cast" => self.cast(),
                "convert" => self.convert(),
                _ if self.purpose == Use::View && Self::is_aggregate(&lower) => {
                    self.aggregate(&lower)
                }
                _ => {
                    let arguments = self.arguments()?;
                    self.call(&lower, &arguments)
                }
            };
        }
        let volatile = matches!(self.purpose, Use::Default | Use::View);
        match lower.as_str() {
            "null" => Some(("NULL".to_owned(), Kind::Null)),
            "case" => self.nested(Self::case),
            "true" | "false" => Some((lower.to_uppercase(), Kind::Bool)),
            "current_timestamp" if volatile => Some(self.now()),
            "current_date" if volatile => Some(("CURRENT_DATE".to_owned(), Kind::Date)),
            _ => self.column(word),
        }
    }

    /// The present moment, for what the expression is for.
    pub(super) fn now(&self) -> Typed {
        let sql = if self.purpose == Use::View { "LOCALTIMESTAMP" } else { "CURRENT_TIMESTAMP" };
        (sql.to_owned(), Kind::Moment)
    }

    /// `json_unquote(json_extract(column, '$.path'))`, after the first word.
    fn json_unquote(&mut self) -> Option<Typed> {
        if !(self.cursor.eat_punct('(')
            && self.cursor.eat("json_extract")
            && self.cursor.eat_punct('('))
        {
            return None;
        }
        let document = self.expression()?;
        if !self.cursor.eat_punct(',') {
            return None;
        }
        let path = self.json_path_argument()?;
        let member = unquoted_member(&document, &path)?;
        (self.cursor.eat_punct(')') && self.cursor.eat_punct(')')).then_some(member)
    }

    fn json_path_argument(&mut self) -> Option<String> {
        if matches!(self.cursor.peek(), Some(TokenKind::Word(word)) if word.starts_with('_')) {
            self.cursor.next();
        }
        match self.cursor.next()? {
            TokenKind::Text(path) => json_path(path),
            _ => None,
        }
    }

    /// `CASE WHEN … THEN … ELSE … END`, after CASE.
    fn case(&mut self) -> Option<Typed> {
        let mut sql = "CASE".to_owned();
        let mut kind = Kind::Null;
        while self.cursor.eat("when") {
            let condition = truth(self.expression()?)?;
            if !self.cursor.eat("then") {
                return None;
            }
            let (value, yields) = self.expression()?;
            kind = unify(kind, yields)?;
            sql.push_str(&format!(" WHEN {condition} THEN {value}"));
        }
        if self.cursor.eat("else") {
            let (value, yields) = self.expression()?;
            kind = unify(kind, yields)?;
            sql.push_str(&format!(" ELSE {value}"));
        }
        (self.cursor.eat("end") && kind != Kind::Null).then(|| (format!("{sql} END"), kind))
    }

    /// A column, after the first part of its name.
    fn column(&mut self, first: &str) -> Option<Typed> {
        let mut parts = vec![first.to_owned()];
        while self.cursor.eat_punct('.') {
            parts.push(self.cursor.identifier()?);
        }
        // No column in a default.
        if self.purpose == Use::Default || parts.len() > 3 {
            return None;
        }
        let name = parts.pop()?;
        let qualifier = parts.pop();
        let generated_too = self.purpose == Use::View;
        let found = self.scope.column(qualifier.as_deref(), &name, generated_too, self.options)?;
        if !self.in_aggregate {
            self.bare_columns += 1;
        }
        Some(found)
    }

    /// `(a, b, …)`.
    pub(super) fn arguments(&mut self) -> Option<Vec<Typed>> {
        if !self.cursor.eat_punct('(') {
            return None;
        }
        let mut arguments = Vec::new();
        if self.cursor.eat_punct(')') {
            return Some(arguments);
        }
        loop {
            arguments.push(self.expression()?);
            if self.cursor.eat_punct(')') {
                return Some(arguments);
            }
            if !self.cursor.eat_punct(',') {
                return None;
            }
        }
    }
}

/// Takes a literal for what it is compared with, where that is exact: a date written as text, a
/// number in quotes, 0 and 1 beside a truth.
fn adapt_literal(value: &mut Typed, other: Kind, purpose: Use) {
    match (value.1, other) {
        (Kind::Text, Kind::Date | Kind::Moment | Kind::Instant) => {
            let Some(text) = plain_literal(&value.0) else { return };
            let fits = date::is_valid(text.as_bytes())
                && (other != Kind::Date || text.len() == 10)
                && (other != Kind::Instant || purpose == Use::View);
            if fits {
                value.1 = other;
            }
        }
        (Kind::Text, Kind::Integer) => {
            let number = plain_literal(&value.0)
                .filter(|text| text.parse::<i64>().is_ok_and(|n| n.to_string() == *text));
            if let Some(number) = number {
                *value = (number.to_owned(), Kind::Integer);
            }
        }
        (Kind::Integer, Kind::Bool) if value.0 == "0" || value.0 == "1" => {
            let sql = if value.0 == "1" { "TRUE" } else { "FALSE" };
            *value = (sql.to_owned(), Kind::Bool);
        }
        _ => {}
    }
}
