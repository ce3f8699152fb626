//! Names: at most 63 bytes in Postgres, index names unique per schema instead of per table.

use std::collections::HashSet;

use crate::schema::{ColumnDef, TableDef};

/// Longest name Postgres keeps, in bytes.
const NAME_LIMIT_BYTES: usize = 63;

/// The Postgres name of a table.
pub fn table_name(table: &TableDef) -> String {
    if let Some(chosen) = &table.pg_name {
        return limited(chosen);
    }
    if table.shares_long_name { limited(&table.name) } else { cut(&table.name) }
}

/// What every table of Postgres has by itself: no other column of it can be called so.
const SYSTEM_COLUMNS: [&str; 6] = ["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];

/// Whether Postgres keeps this column name for itself.
pub(crate) fn is_system_column(name: &str) -> bool {
    SYSTEM_COLUMNS.contains(&name)
}

/// The Postgres name of a column: cut as Postgres itself cuts it, unless that is taken; with an
/// underscore behind it where Postgres keeps the name for itself.
pub(crate) fn column_name(table: &TableDef, column: &ColumnDef) -> String {
    if let Some(chosen) = &column.pg_name {
        return limited(chosen);
    }
    if is_system_column(&column.name) {
        let mut name = format!("{}_", column.name);
        while table.columns.iter().any(|other| other.name == name) {
            name.push('_');
        }
        return name;
    }
    if column.name.len() <= NAME_LIMIT_BYTES {
        return column.name.clone();
    }
    let name = cut(&column.name);
    let taken = table
        .columns
        .iter()
        .take_while(|other| other.name != column.name)
        .chain(table.columns.iter().filter(|other| other.name.len() <= NAME_LIMIT_BYTES))
        .any(|other| cut(&other.name) == name);
    if taken { limited(&column.name) } else { name }
}

/// The first 63 bytes of a name, whole characters only.
pub(crate) fn cut(name: &str) -> String {
    let mut end = name.len().min(NAME_LIMIT_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// A name of at most 63 bytes: longer ones are cut and end in a hash of the whole, so that two
/// long names stay distinct and the same name is always cut alike.
pub(crate) fn limited(name: &str) -> String {
    if name.len() <= NAME_LIMIT_BYTES {
        return name.to_owned();
    }
    // FNV-1a: stable for ever, unlike the standard library's hasher.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut end = NAME_LIMIT_BYTES - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{:08x}", &name[..end], (hash >> 32) as u32 ^ hash as u32)
}

/// Gives out names that are unique within one schema.
#[derive(Debug, Default)]
pub(crate) struct NamePool {
    taken: HashSet<String>,
}

impl NamePool {
    /// Marks a name as taken.
    pub(crate) fn reserve(&mut self, name: String) {
        self.taken.insert(name);
    }

    /// The wanted name, cut to the limit; with a number when it is taken.
    pub(crate) fn take(&mut self, wanted: &str) -> String {
        let mut name = limited(wanted);
        let mut number = 1_u32;
        while self.taken.contains(&name) {
            number += 1;
            name = limited(&format!("{wanted}_{number}"));
        }
        self.taken.insert(name.clone());
        name
    }
}

/// Quotes an identifier for Postgres.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string literal for Postgres, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let text = text.replace('\0', "");
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// Text between dollar quotes that nothing in it can end: a dump's labels and names are in it.
pub(crate) fn body(text: &str) -> String {
    let mut tag = "$relevo$".to_owned();
    while text.contains(&tag) {
        tag.insert(tag.len() - 1, '_');
    }
    format!("{tag}\n{text}{tag}")
}

/// A block of PL/pgSQL as a statement that opens with its name.
pub(super) fn block(name: &str, text: &str) -> String {
    format!("-- {name}\nDO {}", body(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_distinct() {
        let (one, two) = (limited(&format!("{}a", "ñ".repeat(40))), limited(&"ñ".repeat(41)));
        assert!(one.len() <= 63 && two.len() <= 63);
        assert_ne!(one, two);
        assert_eq!(limited("short"), "short");
    }

    #[test]
    fn taken_names_get_a_number() {
        let mut pool = NamePool::default();
        pool.reserve("a_b".to_owned());
        assert_eq!(pool.take("a_b"), "a_b_2");
        assert_eq!(pool.take("a_b"), "a_b_3");
    }

    #[test]
    fn literals() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\b'"), r"E'a\\b'''");
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn nothing_in_a_block_ends_it() {
        assert_eq!(block("x", "BEGIN END\n"), "-- x\nDO $relevo$\nBEGIN END\n$relevo$");
        assert_eq!(body("'$relevo$'"), "$relevo_$\n'$relevo$'$relevo_$");
    }
}
