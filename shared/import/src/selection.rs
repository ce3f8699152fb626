//! Which tables of a dump are wanted, and under which names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use relevo_mysqldump::TableDef;
use serde::{Deserialize, Serialize};

/// Which tables of a dump are wanted, and under which names. A pattern is a table's name in the
/// dump or `database.table`; `*` stands for any characters, `?` for one; upper and lower case
/// differ.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Take tables that fit one of these patterns; empty for all.
    pub only: Vec<String>,
    /// Of those, leave out tables that fit one of these.
    pub exclude: Vec<String>,
    /// New names by the name in the dump.
    pub rename: BTreeMap<String, String>,
}

impl Selection {
    /// Whether everything is taken as it is.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a table of the dump is wanted.
    #[must_use]
    pub fn takes(&self, table: &TableDef) -> bool {
        let fits = |pattern: &String| {
            matches(pattern, &table.name) || matches(pattern, &table.qualified_name())
        };
        (self.only.is_empty() || self.only.iter().any(fits)) && !self.exclude.iter().any(fits)
    }

    /// The names after renaming, keys to other tables included.
    fn renamed(&self, table: &TableDef) -> TableDef {
        let new_name = |name: &String| self.rename.get(name).unwrap_or(name).clone();
        let mut renamed = table.clone();
        renamed.name = new_name(&table.name);
        for key in &mut renamed.foreign_keys {
            key.references_table = new_name(&key.references_table);
        }
        renamed
    }
}

/// Renames definitions, each once: what was the same definition before is the same afterwards.
#[derive(Default)]
pub(crate) struct Renamer {
    /// By address; the first of the pair keeps the address taken.
    known: HashMap<*const TableDef, (Arc<TableDef>, Arc<TableDef>)>,
}

impl Renamer {
    pub(crate) fn rename(&mut self, selection: &Selection, table: Arc<TableDef>) -> Arc<TableDef> {
        if selection.rename.is_empty() {
            return table;
        }
        let known = self.known.entry(Arc::as_ptr(&table)).or_insert_with(|| {
            let renamed = Arc::new(selection.renamed(&table));
            (table, renamed)
        });
        Arc::clone(&known.1)
    }
}

/// Whether the whole text fits the pattern.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut place) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut retry: Option<(usize, usize)> = None;
    while place < text.len() {
        match pattern.get(at) {
            Some('*') => {
                retry = Some((at, place));
                at += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == text[place] => {
                at += 1;
                place += 1;
            }
            _ => match retry {
                Some((star, tried)) => {
                    at = star + 1;
                    place = tried + 1;
                    retry = Some((star, place));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&rest| rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(database: Option<&str>, name: &str) -> TableDef {
        TableDef {
            database: database.map(str::to_owned),
            name: name.to_owned(),
            ..TableDef::default()
        }
    }

    fn list(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|&pattern| pattern.to_owned()).collect()
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, text, fits) in [
            ("articulo", "articulo", true),
            ("articulo", "articulos", false),
            ("art*", "articulo", true),
            ("*lo", "articulo", true),
            ("a*i*o", "articulo", true),
            ("a*x*o", "articulo", false),
            ("art?culo", "artículo", true),
            ("*", "", true),
            ("?", "", false),
            ("**a", "banana", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn exclusion_wins_and_databases_may_be_named() {
        let selection = Selection {
            only: list(&["shop.*", "log"]),
            exclude: list(&["*_tmp"]),
            ..Selection::default()
        };
        assert!(selection.takes(&table(Some("shop"), "articulo")));
        assert!(!selection.takes(&table(Some("shop"), "articulo_tmp")));
        assert!(!selection.takes(&table(Some("other"), "articulo")));
        assert!(selection.takes(&table(None, "log")));
    }

    #[test]
    fn a_renamed_table_is_renamed_once_and_in_the_keys_of_others() {
        let mut child = table(None, "hijo");
        child.foreign_keys.push(relevo_mysqldump::ForeignKeyDef {
            name: "f".to_owned(),
            columns: list(&["padre_id"]),
            references_database: None,
            references_table: "padre".to_owned(),
            references_columns: list(&["id"]),
            on_delete: None,
            on_update: None,
        });
        let selection = Selection {
            rename: [("padre".to_owned(), "madre".to_owned())].into(),
            ..Selection::default()
        };
        let (parent, child) = (Arc::new(table(None, "padre")), Arc::new(child));
        let mut renamer = Renamer::default();
        let renamed = renamer.rename(&selection, Arc::clone(&parent));
        assert_eq!(renamed.name, "madre");
        assert!(Arc::ptr_eq(&renamed, &renamer.rename(&selection, parent)));
        assert_eq!(renamer.rename(&selection, child).foreign_keys[0].references_table, "madre");
    }
}
