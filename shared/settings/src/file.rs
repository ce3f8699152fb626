//! Finds `relevo.toml`, reads it with line numbers, and refuses keys that don't exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::check;
use crate::error::{Problem, SettingsError};
use crate::nearest::nearest;
use crate::origin::Origin;
use crate::reader::{Entries, Entry};
use crate::reference::expand;
use crate::schema::{Key, Kind, REPEATED, Section};

/// Where a file is looked for when neither a flag nor `RELEVO_CONFIG` names one.
const SEARCH: [&str; 2] = ["relevo.toml", "/etc/relevo/relevo.toml"];

/// The file to read. One that is named must exist; none at all is fine.
pub(crate) fn find(
    cli_path: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    cli_path
        .map(Path::to_owned)
        .or_else(|| env("RELEVO_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from))
        .or_else(|| SEARCH.iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// What a file says.
pub(crate) struct FileContent {
    pub(crate) entries: Entries,
    /// The tables of repeated sections, such as `backup.sicar`, also empty ones.
    pub(crate) named: BTreeSet<String>,
}

pub(crate) fn read(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> Result<FileContent, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    let table = DeTable::parse(&text).map_err(|error| SettingsError::Syntax {
        path: path.to_owned(),
        line: line_of(&text, error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let content = FileContent { entries: Entries::new(), named: BTreeSet::new() };
    let mut walk = Walk { path, text: &text, env, problems, content };
    walk.root(table.get_ref());
    Ok(walk.content)
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

struct Walk<'a> {
    path: &'a Path,
    text: &'a str,
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: &'a mut Vec<Problem>,
    content: FileContent,
}

impl Walk<'_> {
    fn origin(&self, offset: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line: line_of(self.text, offset) }
    }

    fn problem(&mut self, key: impl Into<String>, offset: usize, message: impl Into<String>) {
        let origin = Some(self.origin(offset));
        self.problems.push(Problem { key: key.into(), origin, message: message.into() });
    }

    fn root(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let offset = name.span().start;
            let name = name.get_ref().as_ref();
            match (Section::find(name).filter(|_| !name.is_empty()), value.get_ref()) {
                (Some(section), DeValue::Table(inner)) if section.is_repeated() => {
                    self.named(section, inner);
                }
                (Some(section), DeValue::Table(inner)) => self.section(section, name, inner),
                (Some(_), _) => {
                    self.problem(name, offset, format!("is a section; write [{name}]"));
                }
                (None, _) => self.key(&crate::sections::ROOT, "", name, offset, value),
            }
        }
    }

    fn named(&mut self, section: &'static Section, table: &DeTable<'_>) {
        let kind = section.name;
        for (name, value) in table {
            let offset = name.span().start;
            let name = name.get_ref().as_ref();
            let full_name = format!("{kind}.{name}");
            let DeValue::Table(inner) = value.get_ref() else {
                let message = format!(
                    "is a table of its own for each {kind}; write [{kind}.NAME], such as \
                     [{kind}.{}], and the keys below it",
                    section.example_name()
                );
                self.problem(full_name, offset, message);
                continue;
            };
            if check::plain_name(name).is_err() {
                let message = format!("a {kind}'s name has 1 to 40 small letters, digits, - and _");
                self.problem(full_name, offset, message);
                continue;
            }
            self.content.named.insert(full_name.clone());
            self.section(section, &full_name, inner);
        }
    }

    fn section(&mut self, section: &Section, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            self.key(section, prefix, name.get_ref(), name.span().start, value);
        }
    }

    fn key(
        &mut self,
        section: &Section,
        prefix: &str,
        name: &str,
        offset: usize,
        value: &Spanned<DeValue<'_>>,
    ) {
        let secret_file = |name: &str| {
            let key = section.key(name.strip_suffix("_file")?)?;
            (key.kind == Kind::Secret).then_some(key)
        };
        if let Some(key) = section.key(name) {
            match self.value(key, value) {
                Ok(text) => {
                    self.insert(key, prefix, offset, Entry { text, origin: self.origin(offset) });
                }
                Err(message) => self.problem(key.full_name(prefix), offset, message),
            }
        } else if let Some(key) = secret_file(name) {
            let read = self.value(key, value).and_then(|text| {
                // Relative to the file that names it, wherever the process was started.
                let path = self.path.parent().unwrap_or(Path::new("")).join(text);
                read_secret(&path, self.origin(offset))
            });
            match read {
                Ok(entry) => self.insert(key, prefix, offset, entry),
                Err(message) => {
                    self.problem(format!("{}_file", key.full_name(prefix)), offset, message);
                }
            }
        } else {
            let full_name =
                if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            self.problem(full_name, offset, unknown(section, name));
        }
    }

    fn insert(&mut self, key: &Key, prefix: &str, offset: usize, entry: Entry) {
        let full_name = key.full_name(prefix);
        if self.content.entries.insert(full_name.clone(), entry).is_some() {
            let message = format!("is given twice: as {0} and as {0}_file", key.name);
            self.problem(full_name, offset, message);
        }
    }

    /// The value as the environment would write it.
    fn value(&self, key: &Key, value: &Spanned<DeValue<'_>>) -> Result<String, String> {
        let wanted = match key.kind {
            Kind::Text | Kind::Secret => "a text in quotes",
            Kind::Integer { .. } => "a whole number",
            Kind::Boolean => "true or false",
            Kind::List => "a list of texts, such as [\"a\", \"b\"]",
        };
        match (key.kind, value.get_ref()) {
            // A number or a truth value in quotes is a reference's only way.
            (Kind::List, DeValue::Array(items)) => {
                let texts = items.iter().map(|item| match item.get_ref() {
                    DeValue::String(text) => expand(text, self.env),
                    _ => Err(format!("takes {wanted}")),
                });
                texts.collect::<Result<Vec<_>, _>>().map(|texts| texts.join(","))
            }
            (_, DeValue::String(text)) => expand(text, self.env),
            // A port or a chat's number is a text here, and is written without quotes all the same.
            (Kind::Integer { .. } | Kind::Text, DeValue::Integer(number))
                if number.radix() == 10 =>
            {
                Ok(number.as_str().to_owned())
            }
            (Kind::Boolean, DeValue::Boolean(truth)) => Ok(truth.to_string()),
            (_, other) => Err(format!("takes {wanted}, not {}", article(other.type_str()))),
        }
    }
}

fn article(type_name: &str) -> String {
    let vowel = type_name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {type_name}", if vowel { "an" } else { "a" })
}

/// Reads the file that holds a secret; the line break that editors leave at the end is dropped.
pub(crate) fn read_secret(path: &Path, named_by: Origin) -> Result<Entry, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let text = text.trim_end_matches(['\n', '\r']).to_owned();
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    let origin = Origin::SecretFile { path: path.to_owned(), named_by: Box::new(named_by) };
    Ok(Entry { text, origin })
}

fn unknown(section: &Section, name: &str) -> String {
    let top = section.name.is_empty();
    let sections = Section::ALL.iter().filter(|other| top && !other.name.is_empty());
    let names = section.keys.iter().map(|key| key.name).chain(sections.map(|other| other.name));
    if let Some(name) = nearest(name, names.clone()) {
        return format!("is not known; did you mean {name}?");
    }
    let elsewhere = Section::ALL.iter().find(|other| other.key(name).is_some());
    match elsewhere.map(|other| other.name) {
        Some("") => "is not known here; it belongs at the top, above the first section".to_owned(),
        Some(other) if REPEATED.contains(&other) => {
            format!("is not known here; it belongs under [{other}.NAME]")
        }
        Some(other) => format!("is not known here; it belongs under [{other}]"),
        None => format!("is not known; known here: {}", names.collect::<Vec<_>>().join(", ")),
    }
}
