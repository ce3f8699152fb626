//! Reads the SELECT of a view and writes it for Postgres, or gives up.

use crate::ddl::expression::{Kind, Parser, Relation, Scope, ScopeColumn, Typed, Use, truth};
use crate::ddl::names::{cut, quote};
use crate::event::SkippedObject;
use crate::lexer::{LexMode, Token, TokenKind, tokenize};
use crate::options::TranslateOptions;

/// A view that can be made.
pub(super) struct View {
    pub(super) sql: String,
    pub(super) columns: Vec<ScopeColumn>,
    pub(super) note: String,
}

/// The CREATE VIEW of a view over known relations, whose Postgres names stand beside them.
pub(super) fn create(
    object: &SkippedObject,
    known: &[Relation],
    pg_names: &[String],
    schema: &str,
    options: &TranslateOptions,
) -> Option<View> {
    let tokens = tokenize(&object.source, LexMode::default());
    let from = tokens.iter().position(|token| is_word(&token.kind, "view"))?;
    let database = object.database.as_deref();
    let source = &object.source;
    let reader = Reader { source, tokens: &tokens, database, known, pg_names, schema, options };
    let mut at = from + 1;
    // The name, and the columns where they are listed.
    let mut names = Vec::new();
    while !is_word(&tokens.get(at)?.kind, "as") {
        if tokens[at].kind == TokenKind::Punct('(') {
            at += 1;
            while tokens.get(at)?.kind != TokenKind::Punct(')') {
                if let TokenKind::Quoted(name) | TokenKind::Word(name) = &tokens[at].kind {
                    names.push(name.clone());
                }
                at += 1;
            }
        }
        at += 1;
    }
    let select = reader.query(at + 1)?;
    let mut columns = select.columns;
    if !names.is_empty() {
        if names.len() != columns.len() {
            return None;
        }
        for (column, name) in columns.iter_mut().zip(names) {
            column.pg_name = cut(&name);
            column.name = name;
        }
    }
    let list: Vec<String> = columns.iter().map(|column| quote(&column.pg_name)).collect();
    let sql = format!(
        "-- view\nCREATE VIEW {}.{} ({}) AS\n{}",
        quote(schema),
        quote(&cut(&object.name)),
        list.join(", "),
        select.sql
    );
    let note = if select.compares_text {
        "it compares texts, which Postgres does with regard to case".to_owned()
    } else {
        String::new()
    };
    Some(View { sql, columns, note })
}

struct Reader<'a> {
    source: &'a str,
    tokens: &'a [Token],
    /// The database of the view; what another holds is not known here.
    database: Option<&'a str>,
    known: &'a [Relation],
    pg_names: &'a [String],
    schema: &'a str,
    options: &'a TranslateOptions,
}

struct Select {
    sql: String,
    columns: Vec<ScopeColumn>,
    compares_text: bool,
    /// With an order or a limit of its own.
    ordered: bool,
}

/// FROM as far as it is read before the names in it are known.
#[derive(Default)]
struct From {
    relations: Vec<Relation>,
    /// Tokens at which the conditions of joins begin.
    conditions: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn parser<'b>(&'b self, scope: Scope<'b>, at: usize) -> Parser<'b> {
        let mut parser = Parser::new(self.source, self.tokens, scope, self.options, Use::View);
        parser.cursor.rewind(at);
        parser
    }

    /// One SELECT, or several joined by UNION, from a token on to the end.
    fn query(&self, start: usize) -> Option<Select> {
        let (mut whole, mut at) = self.select(start)?;
        while at < self.tokens.len() {
            if !is_word(&self.tokens[at].kind, "union") || whole.ordered {
                return None;
            }
            let next = |at: usize| self.tokens.get(at).map(|token| &token.kind);
            let all = next(at + 1).is_some_and(|kind| is_word(kind, "all"));
            let distinct = next(at + 1).is_some_and(|kind| is_word(kind, "distinct"));
            let (part, end) = self.select(at + 1 + usize::from(all || distinct))?;
            if part.ordered || part.columns.len() != whole.columns.len() {
                return None;
            }
            for (column, other) in whole.columns.iter_mut().zip(&part.columns) {
                // Of a column, all parts must hold the same.
                if column.kind != other.kind {
                    return None;
                }
                whole.compares_text |= !all && column.kind == Kind::Text;
            }
            let word = if all { "UNION ALL" } else { "UNION" };
            whole.sql = format!("{}\n{word}\n{}", whole.sql, part.sql);
            whole.compares_text |= part.compares_text;
            at = end;
        }
        Some(whole)
    }

    /// `select … from … where … group by … having … order by … limit …`, from a token on; and the
    /// token behind it. WITH, windows and subqueries are not read.
    fn select(&self, start: usize) -> Option<(Select, usize)> {
        let mut parser = self.parser(Scope::Relations(&[]), start);
        if !parser.cursor.eat("select") {
            return None;
        }
        let distinct = if parser.cursor.eat("distinct") { "DISTINCT " } else { "" };
        let list = parser.cursor.position();
        // What is selected is read after FROM has told which names there are.
        while !parser.cursor.at_end() && !parser.cursor.sees("from") {
            if parser.cursor.group().is_none() {
                parser.cursor.next();
            }
        }
        let list_end = parser.cursor.position();
        let mut from = From::default();
        let mut from_sql = String::new();
        if parser.cursor.eat("from") {
            from_sql = format!(" FROM {}", self.joined(&mut parser, &mut from, 0)?);
        }
        let after_from = parser.cursor.position();
        let From { relations, conditions } = from;
        let scope = Scope::Relations(&relations);
        let mut compares_text = false;
        for (place, at) in conditions.into_iter().enumerate() {
            let mut parser = self.parser(scope, at);
            let condition = truth(parser.expression()?)?;
            compares_text |= parser.compares_text;
            from_sql = from_sql.replace(&mark(place), &condition);
        }
        let mut parser = self.parser(scope, after_from);
        let mut tail = String::new();
        if parser.cursor.eat("where") {
            tail.push_str(&format!(" WHERE {}", truth(parser.expression()?)?));
        }
        let mut groups = Vec::new();
        let grouped = parser.cursor.eat("group by");
        if grouped {
            loop {
                let (sql, kind) = parser.expression()?;
                // A bare number would be a position.
                if sql.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                parser.compares_text |= kind == Kind::Text;
                groups.push(sql);
                if !parser.cursor.eat_punct(',') {
                    break;
                }
            }
            tail.push_str(&format!(" GROUP BY {}", groups.join(", ")));
        }
        if parser.aggregates > 0 {
            return None;
        }
        compares_text |= parser.compares_text;
        let rest = parser.cursor.position();
        let list = self.list(scope, list, list_end, grouped.then_some(&groups))?;
        let mut parser = self.parser(scope, rest);
        if parser.cursor.eat("having") {
            // Only after a grouping; without one MySQL takes it for a second WHERE.
            let condition = truth(self.having(&mut parser, &list, &groups)?)?;
            if !grouped {
                return None;
            }
            tail.push_str(&format!(" HAVING {condition}"));
        }
        compares_text |= parser.compares_text;
        let ordered = parser.cursor.sees("order by") || parser.cursor.sees("limit");
        if parser.cursor.eat("order by") {
            let loose = distinct.is_empty() && !list.aggregated;
            tail.push_str(&order(&mut parser, &list, &groups, loose)?);
        }
        if parser.cursor.eat("limit") {
            let first = parser.cursor.number()?;
            tail.push_str(&if parser.cursor.eat_punct(',') {
                format!(" LIMIT {} OFFSET {first}", parser.cursor.number()?)
            } else {
                format!(" LIMIT {first}")
            });
        }
        let end = parser.cursor.position();
        let distinct_text = list.columns.iter().any(|column| column.kind == Kind::Text);
        compares_text |= list.compares_text || !distinct.is_empty() && distinct_text;
        let sql = format!("SELECT {distinct}{}{from_sql}{tail}", list.items.join(", "));
        Some((Select { sql, columns: list.columns, compares_text, ordered }, end))
    }

    /// The condition on groups: of aggregates, and of what the groups are by.
    fn having(&self, parser: &mut Parser<'_>, list: &List, groups: &[String]) -> Option<Typed> {
        let start = parser.cursor.position();
        let (before, bare) = (parser.aggregates, parser.bare_columns);
        let condition = parser.expression()?;
        // A name may be that of a selected column, which Postgres does not know here.
        let named = self.tokens[start..parser.cursor.position()].iter().any(|token| {
            matches!(&token.kind, TokenKind::Quoted(name)
                if list.columns.iter().any(|column| column.name == *name))
        });
        let only_groups = parser.bare_columns == bare && parser.aggregates > before;
        (!named && only_groups && !groups.is_empty()).then_some(condition)
    }

    /// What is selected, between two tokens.
    fn list(
        &self,
        scope: Scope<'_>,
        start: usize,
        end: usize,
        groups: Option<&Vec<String>>,
    ) -> Option<List> {
        let mut parser = self.parser(scope, start);
        let mut list = List::default();
        let mut bare = false;
        loop {
            let before = parser.bare_columns;
            let (sql, kind) = parser.expression()?;
            let free = parser.bare_columns > before;
            // Of a group, Postgres gives what the group is by, and aggregates.
            if free && groups.is_some_and(|groups| !groups.contains(&sql)) {
                return None;
            }
            bare |= free;
            if !parser.cursor.eat("as") {
                return None;
            }
            let name = parser.cursor.identifier()?;
            let literal = kind == Kind::Null || kind == Kind::Text && sql.ends_with('\'');
            list.items.push(if literal { format!("{sql}::text") } else { sql });
            let kind = if kind == Kind::Null { Kind::Text } else { kind };
            list.columns.push(ScopeColumn { pg_name: cut(&name), name, kind });
            if !parser.cursor.eat_punct(',') {
                break;
            }
        }
        list.aggregated = groups.is_some() || parser.aggregates > 0;
        list.compares_text = parser.compares_text;
        let mixed = groups.is_none() && bare && parser.aggregates > 0;
        (parser.cursor.position() == end && !mixed).then_some(list)
    }

    /// Relations and their joins.
    fn joined(&self, parser: &mut Parser<'_>, from: &mut From, depth: usize) -> Option<String> {
        let mut sql = self.relation(parser, from, depth)?;
        loop {
            let cursor = &mut parser.cursor;
            let outer = if cursor.eat("left outer join") || cursor.eat("left join") {
                Some("LEFT JOIN")
            } else if cursor.eat("right outer join") || cursor.eat("right join") {
                Some("RIGHT JOIN")
            } else {
                None
            };
            let inner = outer.is_none()
                && (cursor.eat("join")
                    || cursor.eat("inner join")
                    || cursor.eat("cross join")
                    || cursor.eat("straight_join")
                    || cursor.eat_punct(','));
            if outer.is_none() && !inner {
                return Some(sql);
            }
            let right = self.relation(parser, from, depth)?;
            if parser.cursor.eat("on") {
                let join = outer.unwrap_or("JOIN");
                sql = format!("{sql} {join} {right} ON {}", mark(from.conditions.len()));
                from.conditions.push(parser.cursor.position());
                parser.cursor.group()?;
            } else if inner {
                sql = format!("{sql} CROSS JOIN {right}");
            } else {
                return None;
            }
        }
    }

    fn relation(&self, parser: &mut Parser<'_>, from: &mut From, depth: usize) -> Option<String> {
        if parser.cursor.eat_punct('(') {
            if depth > 32 {
                return None;
            }
            let inner = self.joined(parser, from, depth + 1)?;
            return parser.cursor.eat_punct(')').then(|| format!("({inner})"));
        }
        let (database, name) = parser.cursor.qualified()?;
        if database.is_some_and(|named| Some(named.as_str()) != self.database) {
            return None;
        }
        let at = self.known.iter().position(|known| known.alias == name)?;
        let _ = parser.cursor.eat("as");
        let alias = match parser.cursor.peek() {
            Some(TokenKind::Quoted(_)) => parser.cursor.identifier()?,
            _ => name,
        };
        if from.relations.iter().any(|other| other.alias == alias) {
            return None;
        }
        let sql =
            format!("{}.{} AS {}", quote(self.schema), quote(&self.pg_names[at]), quote(&alias));
        from.relations.push(Relation { alias, columns: self.known[at].columns.clone() });
        Some(sql)
    }
}

/// What is selected.
#[derive(Default)]
struct List {
    items: Vec<String>,
    columns: Vec<ScopeColumn>,
    aggregated: bool,
    compares_text: bool,
}

/// `ORDER BY`, after these words: NULL comes first in MySQL. `loose` when anything may be ordered
/// by, not only what is selected.
fn order(parser: &mut Parser<'_>, list: &List, groups: &[String], loose: bool) -> Option<String> {
    let mut parts = Vec::new();
    loop {
        let selected = match parser.cursor.peek() {
            Some(TokenKind::Quoted(name))
                if parser.cursor.peek_at(1) != Some(&TokenKind::Punct('.')) =>
            {
                list.columns.iter().position(|column| column.name == *name)
            }
            _ => None,
        };
        let sql = match selected {
            Some(at) => {
                parser.cursor.next();
                (at + 1).to_string()
            }
            None => {
                let (sql, _) = parser.expression()?;
                match list.items.iter().position(|item| *item == sql) {
                    Some(at) => (at + 1).to_string(),
                    None if loose || groups.contains(&sql) => sql,
                    None => return None,
                }
            }
        };
        let direction = if parser.cursor.eat("desc") { "DESC NULLS LAST" } else { "NULLS FIRST" };
        let _ = parser.cursor.eat("asc");
        parts.push(format!("{sql} {direction}"));
        if !parser.cursor.eat_punct(',') {
            return Some(format!(" ORDER BY {}", parts.join(", ")));
        }
    }
}

/// Stands for the condition of a join until all names are known.
fn mark(place: usize) -> String {
    format!("\u{0}{place}\u{0}")
}

fn is_word(kind: &TokenKind, wanted: &str) -> bool {
    matches!(kind, TokenKind::Word(word) if word.eq_ignore_ascii_case(wanted))
}
