//! A random database as statements for MariaDB: tables of every type, their rows, and what hangs
//! on them.

use std::fmt::Write as _;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::flags::Flags;
use super::values::{self, Values};
use super::views;

/// Names that something could take for something else.
const NAMES: [&str; 14] = [
    "c",
    "Col",
    "select",
    "ñandú",
    "x`y",
    "a\"b",
    "with space",
    "semi;colon",
    "quo'te",
    "back\\slash",
    "comma,(",
    "$d",
    "order",
    "-- no comment",
];

/// A table, or other objects, for MariaDB.
#[derive(Debug)]
pub struct Part {
    /// What makes it.
    pub create: String,
    /// What fills it.
    pub rows: String,
    /// The table, when a row of defaults can be added to it.
    pub with_defaults: Option<String>,
}

pub struct Column {
    /// Its name.
    pub name: String,
    kind: String,
    values: Values,
    null: bool,
    /// Another column is computed from it: of a text without the NUL characters that are left out,
    /// other things may be computed.
    computed_from: bool,
}

struct Draw<'a> {
    random: &'a mut StdRng,
    flags: &'a Flags,
    /// For a MySQL, which knows fewer types than MariaDB and a few of its own.
    mysql: bool,
    parts: Vec<Part>,
    /// Tables whose `id` may be referred to, and how many rows they have.
    parents: Vec<(String, String, u32)>,
}

/// Draws a database.
pub fn draw(random: &mut StdRng, flags: &Flags, mysql: bool) -> Vec<Part> {
    let mut draw = Draw { random, flags, mysql, parts: Vec::new(), parents: Vec::new() };
    for nth in 0..draw.random.random_range(1..4) {
        draw.table(nth);
    }
    if draw.random.random_bool(0.2) {
        draw.objects();
    }
    draw.parts
}

impl Draw<'_> {
    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    fn name(&mut self, nth: u32) -> String {
        let plain = self.flags.plain_names || self.random.random_bool(0.6);
        let usable: Vec<_> = NAMES.iter().filter(|name| self.flags.alphabet.has(name)).collect();
        let word = if plain { "c" } else { usable.choose(self.random).expect("a name") };
        format!("{word}{nth}")
    }

    fn comment(&mut self) -> String {
        let text = values::text(self.random, 40, self.flags.alphabet);
        format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''").replace('\0', ""))
    }

    fn columns(&mut self) -> Vec<Column> {
        (0..self.random.random_range(1..13))
            .map(|nth| {
                let (kind, values) = values::draw(self.random, self.flags.alphabet, self.mysql);
                let null = kind.ends_with(" null") || self.random.random_bool(0.6);
                let name = self.name(nth);
                Column { name, kind, values, null, computed_from: false }
            })
            .collect()
    }

    fn table(&mut self, nth: u32) {
        let name = format!("t{}", self.name(nth));
        let table = quote(&name);
        let mut columns = self.columns();
        let keyed = self.random.random_bool(0.7);
        let with_defaults = keyed && self.random.random_bool(0.4);
        let mut lines = Vec::new();
        let count_type = ["int", "int unsigned", "bigint unsigned", "smallint"]
            .choose(self.random)
            .expect("a type");
        if keyed {
            lines.push(format!("`id` {count_type} NOT NULL AUTO_INCREMENT PRIMARY KEY"));
        }
        for column in &columns {
            let mut line = format!("{} {}", quote(&column.name), column.kind);
            if !column.null {
                line.push_str(" NOT NULL");
            }
            let document = matches!(column.values, Values::Geometry | Values::Json);
            if !document && (with_defaults || self.one_in(4)) {
                let value = self.default_of(column);
                if value != "NULL" || column.null {
                    write!(line, " DEFAULT {value}").ok();
                }
            }
            if matches!(column.values, Values::DateTime(_)) && column.null && self.one_in(5) {
                write!(line, " ON UPDATE CURRENT_TIMESTAMP({})", fsp_of(&column.kind)).ok();
            }
            if self.one_in(6) {
                write!(line, " COMMENT {}", self.comment()).ok();
            }
            if self.one_in(25) && columns.len() > 1 && column.null {
                line.push_str(" INVISIBLE");
            }
            lines.push(line);
        }
        let generated = self.generated(&mut columns);
        lines.extend(generated);
        let mut used = 0;
        for column in &columns {
            let Some(part) = column.values.index_part(&column.kind) else { continue };
            if self.one_in(5) && used < 4 {
                used += 1;
                lines.push(format!("KEY `k{used}` ({}{part})", quote(&column.name)));
            }
        }
        if let Some(text) = columns.iter().find(|column| is_full_text(column))
            && self.one_in(4)
        {
            lines.push(format!("FULLTEXT KEY `words` ({})", quote(&text.name)));
        }
        if let Some(check) = columns.iter().find(|column| matches!(column.values, Values::Year))
            && self.one_in(2)
        {
            lines.push(format!("CONSTRAINT `ck{nth}` CHECK ({} >= 0)", quote(&check.name)));
        }
        let referring = self.reference(nth, &mut lines);
        let mut options = String::new();
        let plain = referring.is_none() && !lines.iter().any(|line| line.starts_with("FULLTEXT"));
        if plain && self.one_in(5) {
            options.push_str(" ENGINE=MyISAM");
        } else if plain && keyed && self.one_in(6) {
            options.push_str(" PARTITION BY HASH (`id`) PARTITIONS 3");
        } else if keyed && plain {
            self.parents.push((name.clone(), (*count_type).to_owned(), 0));
        }
        if !options.contains("PARTITION") && self.one_in(3) {
            let comment = self.comment();
            options.insert_str(0, &format!(" COMMENT={comment}"));
        }
        let create = format!("CREATE TABLE {table} ({}){options};", lines.join(", "));
        let (rows, sql) = self.rows(&table, &columns, keyed, referring.as_ref());
        if let Some(parent) = self.parents.last_mut()
            && parent.0 == name
        {
            parent.2 = rows;
        }
        let given = with_defaults && lines.iter().all(|line| is_given(line));
        self.parts.push(Part { create, rows: sql, with_defaults: given.then_some(name) });
        if keyed && self.one_in(3) {
            let mut rules = Vec::new();
            for column in &columns {
                rules.extend(rules_of(column).into_iter().map(|(_, rule)| rule));
            }
            let create = views::draw(self.random, nth, &table, &rules);
            self.parts.push(Part { create, rows: String::new(), with_defaults: None });
        }
    }

    /// A default that MariaDB takes: a literal, without what only rows may hold.
    fn default_of(&mut self, column: &Column) -> String {
        let long = column.kind.contains("text") || column.kind.contains("blob");
        match &column.values {
            Values::Enum(labels) => text_default(labels.first().expect("a label")),
            Values::Set(labels) => text_default(labels.first().expect("a label")),
            // MySQL takes a default of such a column in parentheses only.
            Values::Text(_) | Values::Bytes { .. } if long && self.mysql => "('x')".to_owned(),
            Values::Text(_) if long => "'x'".to_owned(),
            Values::Text(_) => {
                let text = values::text(self.random, 10, self.flags.alphabet);
                // MariaDB itself writes such defaults in a way that it cannot read again.
                let plain: String = text.chars().filter(|c| c.is_ascii() && *c >= ' ').collect();
                text_default(&plain)
            }
            Values::Bytes { .. } => "'abc'".to_owned(),
            Values::Date => "'2020-02-29'".to_owned(),
            Values::DateTime(_) | Values::Timestamp(_) => "'2021-03-04 05:06:07'".to_owned(),
            Values::Uuid => "'00000000-1111-4000-8000-000000000000'".to_owned(),
            other => other.literal(self.random, &column.kind, self.flags.alphabet),
        }
    }

    /// A column that is computed from the others.
    fn generated(&mut self, columns: &mut [Column]) -> Option<String> {
        if !self.random.random_bool(0.4) {
            return None;
        }
        let at = self.random.random_range(0..columns.len());
        let column = &mut columns[at];
        column.computed_from = true;
        let rules = rules_of(column);
        let (kind, rule) = rules.choose(self.random)?;
        let kept = ["VIRTUAL", "STORED"].choose(self.random)?;
        Some(format!("`gen` {kind} GENERATED ALWAYS AS ({rule}) {kept}"))
    }

    /// A foreign key on an earlier table.
    fn reference(&mut self, nth: u32, lines: &mut Vec<String>) -> Option<(String, u32)> {
        let (parent, kind, rows) = self.parents.choose(self.random)?.clone();
        if !self.random.random_bool(0.5) {
            return None;
        }
        let rule = ["", " ON DELETE CASCADE", " ON DELETE SET NULL ON UPDATE CASCADE"]
            .choose(self.random)?;
        lines.push(format!("`ref` {kind} NULL"));
        lines.push(format!(
            "CONSTRAINT `fk{nth}` FOREIGN KEY (`ref`) REFERENCES {} (`id`){rule}",
            quote(&parent)
        ));
        Some((parent, rows))
    }

    fn rows(
        &mut self,
        table: &str,
        columns: &[Column],
        keyed: bool,
        referring: Option<&(String, u32)>,
    ) -> (u32, String) {
        let mut sql = String::new();
        let mut names: Vec<_> = columns.iter().map(|column| quote(&column.name)).collect();
        if referring.is_some() {
            names.push("`ref`".to_owned());
        }
        let rows = self.random.random_range(0..30);
        for row in 1..=rows {
            let mut cells: Vec<_> = columns
                .iter()
                .map(|column| match column.null && self.one_in(8) {
                    true => "NULL".to_owned(),
                    false => self.cell(column),
                })
                .collect();
            if let Some((_, known)) = referring {
                let some = *known > 0 && !self.one_in(4);
                cells.push(if some { "1".to_owned() } else { "NULL".to_owned() });
            }
            let (mut names, values) = (names.join(","), cells.join(","));
            let mut id = String::new();
            if keyed {
                names.insert_str(0, "`id`,");
                id = format!("{row},");
            }
            writeln!(sql, "INSERT IGNORE INTO {table} ({names}) VALUES ({id}{values});").ok();
        }
        if keyed && self.one_in(4) {
            let next = rows + self.random.random_range(2..500);
            writeln!(sql, "ALTER TABLE {table} AUTO_INCREMENT={next};").ok();
        }
        (rows, sql)
    }

    fn cell(&mut self, column: &Column) -> String {
        loop {
            let cell = column.values.literal(self.random, &column.kind, self.flags.alphabet);
            let text = matches!(column.values, Values::Text(_));
            // In hexadecimal; one that only looks like it is no loss.
            if !(text && column.computed_from && cell.contains("00")) {
                return cell;
            }
        }
    }

    /// What holds no rows and must not be in the way.
    fn objects(&mut self) {
        let create = "CREATE TABLE `log` (`a` int);\nCREATE TRIGGER `on_log` BEFORE INSERT ON `log` FOR EACH \
             ROW SET NEW.`a` = NEW.`a` + 1;\nCREATE FUNCTION `twice`(x int) RETURNS int \
             DETERMINISTIC RETURN x * 2;\nCREATE VIEW `seen` AS SELECT `a`, count(*) AS `n` FROM \
             `log` GROUP BY `a`;\n";
        let rows = "INSERT INTO `log` VALUES (1),(2);\n";
        let (mut create, mut rows) = (create.to_owned(), rows.to_owned());
        if !self.mysql {
            create.push_str("CREATE SEQUENCE `numbers` START WITH 7 INCREMENT BY 3;");
            rows.push_str("SELECT nextval(`numbers`);");
        }
        self.parts.push(Part { create, rows, with_defaults: None });
    }
}

/// What can be computed from a column, and the type that holds it.
fn rules_of(column: &Column) -> Vec<(&'static str, String)> {
    let name = quote(&column.name);
    match &column.values {
        Values::Int { bits: ..=32, unsigned: false } => vec![
            ("bigint", format!("{name} + 1")),
            ("bigint", format!("{name} * 2 - 7")),
            ("int", format!("{name} % 7")),
            ("int", format!("{name} DIV 3")),
            ("varchar(60)", format!("concat({name},'x')")),
            ("int", format!("if({name} > 0, 1, 0)")),
            ("int", format!("coalesce({name}, 5)")),
            ("bigint", format!("abs({name})")),
            ("decimal(30,4)", format!("{name} / 3")),
            ("int", format!("case when {name} is null then 1 else 2 end")),
            ("int", format!("greatest({name}, 0)")),
            ("int", format!("nullif({name}, 0)")),
            ("tinyint(1)", format!("{name} between 0 and 9")),
        ],
        Values::Decimal { digits: 10, .. } => vec![
            ("decimal(12,1)", format!("round({name}, 1)")),
            ("bigint", format!("floor({name})")),
            ("decimal(14,3)", format!("{name} * 1.5")),
        ],
        Values::Text(_) => vec![
            ("varchar(200)", format!("concat({name},'-',{name})")),
            ("varchar(200)", format!("upper({name})")),
            ("varchar(200)", format!("lower({name})")),
            ("int", format!("char_length({name})")),
            ("int", format!("length({name})")),
            ("varchar(200)", format!("left({name}, 3)")),
            ("varchar(200)", format!("substr({name}, 2, 4)")),
            ("varchar(200)", format!("replace({name}, 'a', 'b')")),
            ("varchar(200)", format!("trim({name})")),
            ("varchar(200)", format!("ifnull({name}, 'nothing')")),
            ("varchar(200)", format!("concat_ws('/', {name}, 'x')")),
        ],
        // Not of dates: those that Postgres does not have become NULL, and so would the rule.
        Values::Json => vec![("varchar(50)", format!("json_value({name}, '$.a')"))],
        _ => Vec::new(),
    }
}

fn is_full_text(column: &Column) -> bool {
    let charset = column.kind.contains("character set");
    let utf8 = column.kind.contains("utf8mb4") || !charset;
    matches!(column.values, Values::Text(_)) && utf8
}

/// Whether a row of defaults has a value for a column.
fn is_given(line: &str) -> bool {
    !line.contains(" NOT NULL") || line.contains(" DEFAULT ") || line.contains("AUTO_INCREMENT")
}

fn fsp_of(kind: &str) -> &str {
    kind.split(['(', ')']).nth(1).unwrap_or("0")
}

fn text_default(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name for MySQL.
pub fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
