//! Translates MySQL expressions: a small, typed whitelist.
//!
//! A translation that Postgres would refuse, or that means something else there, is worse than
//! none: whatever is not known for certain gives `None`, and the caller reports the source.

use crate::ddl::names::{column_name, literal, quote};
use crate::ddl::types::{Encoding, pg_column};
use crate::lexer::{Cursor, LexMode, TokenKind, tokenize};
use crate::options::{JsonType, TranslateOptions};
use crate::schema::{ColumnDef, ColumnType, TableDef};

/// What an expression yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Number,
    Float,
    Text,
    Json,
    Null,
    Bool,
    Date,
    Moment,
    Uuid,
    Other,
}

/// What an expression is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Must be immutable, and must give MySQL's very values: no comparison of texts, which MySQL
    /// makes without regard to case.
    Generated,
    /// May be volatile.
    Default,
    /// Must be immutable.
    Check,
}

/// SQL text and what it yields.
type Typed = (String, Kind);

/// The rule of a generated column; only what is immutable in Postgres.
pub(super) fn generated(
    source: &str,
    column: &ColumnDef,
    table: &TableDef,
    options: &TranslateOptions,
) -> Option<String> {
    let (sql, kind) = translate(source, table, options, Use::Generated)?;
    let wanted = kind_of(&pg_column(table, column, options).encoding);
    match (wanted, kind) {
        (Kind::Other, _) => None,
        // MySQL's truth is a number.
        (Kind::Integer, Kind::Bool) => Some(format!("({sql})::integer")),
        (Kind::Number, Kind::Integer) => Some(sql),
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
        (Kind::Number, Kind::Integer) | (Kind::Date, Kind::Moment) => Some(sql),
        (wanted, kind) if wanted == kind && kind != Kind::Other => Some(sql),
        _ => None,
    }
}

/// A CHECK expression.
pub(super) fn check(source: &str, table: &TableDef, options: &TranslateOptions) -> Option<String> {
    let (sql, kind) = translate(source, table, options, Use::Check)?;
    (kind == Kind::Bool).then_some(sql)
}

/// A functional index part.
pub(super) fn index(source: &str, table: &TableDef, options: &TranslateOptions) -> Option<String> {
    translate(source, table, options, Use::Check).map(|(sql, _)| sql)
}

fn kind_of(encoding: &Encoding) -> Kind {
    match encoding {
        Encoding::Int { .. } | Encoding::Year => Kind::Integer,
        Encoding::Decimal { .. } => Kind::Number,
        Encoding::Float | Encoding::Double => Kind::Float,
        Encoding::Json => Kind::Json,
        Encoding::Boolean | Encoding::Bit { width: 1 } => Kind::Bool,
        Encoding::Text { .. } | Encoding::Enum { .. } => Kind::Text,
        Encoding::Date => Kind::Date,
        Encoding::DateTime { .. } => Kind::Moment,
        _ => Kind::Other,
    }
}

fn translate(
    source: &str,
    table: &TableDef,
    options: &TranslateOptions,
    purpose: Use,
) -> Option<Typed> {
    let tokens = tokenize(source, LexMode::default());
    let mut parser =
        Parser { cursor: Cursor::new(source, &tokens), table, options, purpose, depth: 0 };
    let result = parser.or()?;
    parser.cursor.at_end().then_some(result)
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    table: &'a TableDef,
    options: &'a TranslateOptions,
    purpose: Use,
    depth: usize,
}

/// Deeper expressions than this are not read: they come from no server.
const DEPTH_LIMIT: usize = 64;

impl Parser<'_> {
    fn enter(&mut self) -> Option<()> {
        self.depth += 1;
        (self.depth <= DEPTH_LIMIT).then_some(())
    }

    fn comparable(&self, left: Kind, right: Kind) -> Option<()> {
        let fits = match (left, right) {
            (Kind::Other | Kind::Json | Kind::Null, _)
            | (_, Kind::Other | Kind::Json | Kind::Null) => false,
            (Kind::Text, Kind::Text) => self.purpose != Use::Generated,
            (a, b) if a == b => true,
            (a, b) => numeric(a).is_some() && numeric(b).is_some(),
        };
        fits.then_some(())
    }

    fn or(&mut self) -> Option<Typed> {
        self.enter()?;
        let mut left = self.and()?;
        while self.cursor.eat("or") {
            let right = self.and()?;
            left = both_bool(&left, "OR", &right)?;
        }
        self.depth -= 1;
        Some(left)
    }

    fn and(&mut self) -> Option<Typed> {
        let mut left = self.not()?;
        while self.cursor.eat("and") {
            let right = self.not()?;
            left = both_bool(&left, "AND", &right)?;
        }
        Some(left)
    }

    fn not(&mut self) -> Option<Typed> {
        if self.cursor.eat("not") {
            self.enter()?;
            let (sql, kind) = self.not()?;
            return (kind == Kind::Bool).then(|| (format!("NOT {sql}"), Kind::Bool));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Option<Typed> {
        let left = self.sum()?;
        if self.cursor.eat("is not null") {
            return Some((format!("({} IS NOT NULL)", left.0), Kind::Bool));
        }
        if self.cursor.eat("is null") {
            return Some((format!("({} IS NULL)", left.0), Kind::Bool));
        }
        let negated = self.cursor.eat("not");
        let not = if negated { "NOT " } else { "" };
        if self.cursor.eat("between") {
            let low = self.sum()?;
            if !self.cursor.eat("and") {
                return None;
            }
            let high = self.sum()?;
            self.comparable(left.1, low.1)?;
            self.comparable(left.1, high.1)?;
            return Some((
                format!("({} {not}BETWEEN {} AND {})", left.0, low.0, high.0),
                Kind::Bool,
            ));
        }
        if self.cursor.eat("in") {
            let items = self.arguments()?;
            for item in &items {
                self.comparable(left.1, item.1)?;
            }
            let list: Vec<String> = items.into_iter().map(|i| i.0).collect();
            return Some((format!("({} {not}IN ({}))", left.0, list.join(", ")), Kind::Bool));
        }
        if negated {
            return None;
        }
        let Some(operator) = self.operator() else { return Some(left) };
        let right = self.sum()?;
        self.comparable(left.1, right.1)?;
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
            let right = self.product()?;
            left = arithmetic(&left, operator, &right)?;
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
            } else if self.cursor.eat_punct('/') {
                // MySQL divides whole numbers to a decimal, and by zero to NULL.
                let right = self.primary()?;
                numeric(left.1)?;
                numeric(right.1)?;
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
            TokenKind::Punct('-') => {
                self.enter()?;
                let (sql, kind) = self.primary()?;
                numeric(kind)?;
                Some((format!("(-{sql})"), kind))
            }
            TokenKind::Punct('(') => {
                let inner = self.or()?;
                self.cursor.eat_punct(')').then(|| (format!("({})", inner.0), inner.1))
            }
            TokenKind::Word(word) => {
                let lower = word.to_ascii_lowercase();
                if lower.starts_with("_utf8") || lower == "_latin1" {
                    // Introducer before a string.
                    return match self.cursor.next()? {
                        TokenKind::Text(text) => Some((literal(text), Kind::Text)),
                        _ => None,
                    };
                }
                if lower == "json_unquote" && self.cursor.sees_punct('(') {
                    return self.json_unquote();
                }
                if self.cursor.sees_punct('(') {
                    let arguments = self.arguments()?;
                    return self.call(&lower, &arguments);
                }
                match lower.as_str() {
                    "null" => Some(("NULL".to_owned(), Kind::Null)),
                    "case" => self.case(),
                    "true" | "false" => Some((lower.to_uppercase(), Kind::Bool)),
                    "current_timestamp" if self.purpose == Use::Default => {
                        Some(("CURRENT_TIMESTAMP".to_owned(), Kind::Moment))
                    }
                    "current_date" if self.purpose == Use::Default => {
                        Some(("CURRENT_DATE".to_owned(), Kind::Date))
                    }
                    _ => self.column(word),
                }
            }
            _ => None,
        }
    }

    /// `json_unquote(json_extract(column, '$.path'))`, after the first word.
    fn json_unquote(&mut self) -> Option<Typed> {
        self.enter()?;
        if !(self.cursor.eat_punct('(')
            && self.cursor.eat("json_extract")
            && self.cursor.eat_punct('('))
        {
            return None;
        }
        let document = self.or()?;
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
        self.enter()?;
        let mut sql = "CASE".to_owned();
        let mut kind = Kind::Null;
        while self.cursor.eat("when") {
            let (condition, yields) = self.or()?;
            if yields != Kind::Bool || !self.cursor.eat("then") {
                return None;
            }
            let (value, yields) = self.or()?;
            kind = unify(kind, yields)?;
            sql.push_str(&format!(" WHEN {condition} THEN {value}"));
        }
        if self.cursor.eat("else") {
            let (value, yields) = self.or()?;
            kind = unify(kind, yields)?;
            sql.push_str(&format!(" ELSE {value}"));
        }
        (self.cursor.eat("end") && kind != Kind::Null).then(|| (format!("{sql} END"), kind))
    }

    fn column(&self, name: &str) -> Option<Typed> {
        let column = &self.table.columns[self.table.column_index(name)?];
        // Postgres allows no generated column in another's rule, and no column in a default.
        if column.generated.is_some() || self.purpose == Use::Default {
            return None;
        }
        // A zero-filled number counts as its digits in one place and as a number in another.
        if matches!(column.ty, ColumnType::Int { zerofill: true, .. }) {
            return None;
        }
        let kind = kind_of(&pg_column(self.table, column, self.options).encoding);
        if kind == Kind::Json && self.options.json != JsonType::Jsonb {
            return None;
        }
        Some((quote(&column_name(self.table, column)), kind))
    }

    fn arguments(&mut self) -> Option<Vec<Typed>> {
        if !self.cursor.eat_punct('(') {
            return None;
        }
        let mut arguments = Vec::new();
        if self.cursor.eat_punct(')') {
            return Some(arguments);
        }
        loop {
            arguments.push(self.or()?);
            if self.cursor.eat_punct(')') {
                return Some(arguments);
            }
            if !self.cursor.eat_punct(',') {
                return None;
            }
        }
    }

    fn call(&self, name: &str, arguments: &[Typed]) -> Option<Typed> {
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
            ("date", 1) if matches!(first, Some(Kind::Date | Kind::Moment)) => {
                Some((format!("{}::date", sql[0]), Kind::Date))
            }
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
            ("length" | "octet_length", 1) if all(Kind::Text) => {
                Some((format!("octet_length({})", sql[0]), Kind::Integer))
            }
            ("md5", 1) if all(Kind::Text) => Some((format!("md5({})", sql[0]), Kind::Text)),
            ("abs", 1) => {
                numeric(first?)?;
                Some((format!("abs({})", sql[0]), first?))
            }
            ("ifnull" | "coalesce", 1..) => {
                let kind = arguments.iter().try_fold(Kind::Null, |kind, a| unify(kind, a.1))?;
                Some((format!("COALESCE({})", sql.join(", ")), kind))
            }
            ("if", 3) if first == Some(Kind::Bool) => {
                let kind = unify(arguments[1].1, arguments[2].1)?;
                Some((format!("CASE WHEN {} THEN {} ELSE {} END", sql[0], sql[1], sql[2]), kind))
            }
            ("nullif", 2) if unify(first?, arguments[1].1) == first => {
                Some((format!("NULLIF({}, {})", sql[0], sql[1]), first?))
            }
            ("year" | "month" | "day" | "dayofmonth", 1)
                if matches!(first, Some(Kind::Date | Kind::Moment)) =>
            {
                let field = if name == "dayofmonth" { "day" } else { name };
                let field = field.to_uppercase();
                Some((format!("EXTRACT({field} FROM {})::integer", sql[0]), Kind::Integer))
            }
            ("uuid", 0) if self.purpose == Use::Default => {
                Some(("gen_random_uuid()".to_owned(), Kind::Uuid))
            }
            ("now" | "current_timestamp" | "localtimestamp" | "localtime", _)
                if self.purpose == Use::Default =>
            {
                Some(("CURRENT_TIMESTAMP".to_owned(), Kind::Moment))
            }
            ("json_object", 0) => Some(("'{}'::jsonb".to_owned(), Kind::Json)),
            ("json_array", 0) => Some(("'[]'::jsonb".to_owned(), Kind::Json)),
            ("curdate" | "current_date", 0) if self.purpose == Use::Default => {
                Some(("CURRENT_DATE".to_owned(), Kind::Date))
            }
            _ => None,
        }
    }
}

fn both_bool(left: &Typed, operator: &str, right: &Typed) -> Option<Typed> {
    (left.1 == Kind::Bool && right.1 == Kind::Bool)
        .then(|| (format!("({} {operator} {})", left.0, right.0), Kind::Bool))
}

fn numeric(kind: Kind) -> Option<()> {
    matches!(kind, Kind::Integer | Kind::Number | Kind::Float).then_some(())
}

fn arithmetic(left: &Typed, operator: &str, right: &Typed) -> Option<Typed> {
    numeric(left.1)?;
    numeric(right.1)?;
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
fn unquoted_member(document: &Typed, path: &str) -> Option<Typed> {
    let (sql, kind) = document;
    (*kind == Kind::Json).then(|| {
        let null = format!("CASE WHEN jsonb_typeof({sql} #> {path}) = 'null' THEN 'null' END");
        (format!("COALESCE({sql} #>> {path}, {null})"), Kind::Text)
    })
}

/// Kinds that CONCAT prints as Postgres does.
fn joins(kind: Kind) -> bool {
    matches!(kind, Kind::Text | Kind::Integer)
}

fn is_digits(sql: &str) -> bool {
    !sql.is_empty() && sql.len() < 9 && sql.bytes().all(|b| b.is_ascii_digit())
}

/// What a choice between two expressions yields.
fn unify(left: Kind, right: Kind) -> Option<Kind> {
    match (left, right) {
        (Kind::Other | Kind::Json, _) | (_, Kind::Other | Kind::Json) => None,
        (Kind::Null, kind) | (kind, Kind::Null) => Some(kind),
        (Kind::Integer, Kind::Number) | (Kind::Number, Kind::Integer) => Some(Kind::Number),
        (a, b) => (a == b).then_some(a),
    }
}

/// `$.a.b` as the elements of a Postgres path; plain members only.
fn json_path(path: &str) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableDef {
        let source = "CREATE TABLE `t` (`a` int, `b` decimal(10,2), `n` varchar(20), `d` date, \
                      `j` json, `g` int GENERATED ALWAYS AS (`a` + 1) VIRTUAL)";
        crate::ddl::parse_create_table(source, LexMode::default()).unwrap().unwrap()
    }

    fn checked(source: &str) -> Option<String> {
        check(source, &table(), &TranslateOptions::default())
    }

    #[test]
    fn what_is_known_is_translated() {
        assert_eq!(
            checked("`a` > 0 and `b` <= 1.5").as_deref(),
            Some(r#"(("a" > 0) AND ("b" <= 1.5))"#)
        );
        assert_eq!(
            checked("`n` in (_utf8mb4'x','y''z')").as_deref(),
            Some(r#"("n" IN ('x', 'y''z'))"#)
        );
        assert_eq!(checked("`a` between 1 and 3").as_deref(), Some(r#"("a" BETWEEN 1 AND 3)"#));
        let table = table();
        let options = TranslateOptions::default();
        let rule =
            |source: &str, at: usize| generated(source, &table.columns[at], &table, &options);
        assert_eq!(rule("`a` + 1", 0).as_deref(), Some(r#"("a"::bigint + 1)"#));
        assert_eq!(rule("concat(`n`,' ',`n`)", 2).as_deref(), Some(r#"("n" || ' ' || "n")"#));
        assert_eq!(
            rule("case when (`d` is null) then 1 else NULL end", 0).as_deref(),
            Some(r#"CASE WHEN (("d" IS NULL)) THEN 1 ELSE NULL END"#)
        );
        assert_eq!(rule("`d` is null", 0).as_deref(), Some(r#"(("d" IS NULL))::integer"#));
        assert_eq!(rule("concat(`a`,'x')", 2).as_deref(), Some(r#"("a"::text || 'x')"#));
        let member = r#"COALESCE("j" #>> '{x,y}', CASE WHEN jsonb_typeof("j" #> '{x,y}') = 'null' THEN 'null' END)"#;
        let source = "json_unquote(json_extract(`j`,_utf8mb4'$.x.y'))";
        assert_eq!(rule(source, 2).as_deref(), Some(member));
        assert_eq!(rule("`j`->>'$.x.y'", 2).as_deref(), Some(member));
        assert_eq!(rule("`a` / 2", 1).as_deref(), Some(r#"("a"::numeric / NULLIF(2, 0))"#));
    }

    #[test]
    fn what_is_not_known_for_certain_is_left_out() {
        for source in [
            "`n` > 0",
            "`a`",
            "`j` = 1",
            "sleep(1) = 1",
            "`a` > (select 1)",
            "`missing` > 0",
            "`n` regexp 'x'",
            "`g` > 1",
            "now() > `d`",
            "",
        ] {
            assert_eq!(checked(source), None, "{source}");
        }
        assert_eq!(checked(&"(".repeat(5000)), None);
    }
}
