//! Turns the collected texts of one section into typed values, noting every problem on the way.

use std::collections::BTreeMap;

use secrecy::SecretString;

use crate::error::Problem;
use crate::origin::Origin;
use crate::schema::{Key, Kind, Preset, Section};

/// What was said for each full key, the strongest voice only.
pub(crate) type Entries = BTreeMap<String, Entry>;

/// One value as it was written. It has no `Debug`: the text may be a secret.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

/// Reads one section.
pub(crate) struct Reader<'a> {
    entries: &'a mut Entries,
    problems: &'a mut Vec<Problem>,
    section: &'static Section,
    /// The section's name, or `backup.NAME`.
    prefix: String,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        entries: &'a mut Entries,
        problems: &'a mut Vec<Problem>,
        section: &'static Section,
        prefix: impl Into<String>,
    ) -> Self {
        Self { entries, problems, section, prefix: prefix.into() }
    }

    fn key(&self, name: &str) -> &'static Key {
        // Unwrap safety: names are literals of this crate, and the tests read every section.
        #[expect(clippy::expect_used, reason = "a missing key is a mistake in this crate")]
        self.section.key(name).expect("each key that is read stands in its section's table")
    }

    fn entry(&self, key: &Key) -> Option<Entry> {
        let said = self.entries.get(&key.full_name(&self.prefix)).cloned();
        said.or(match key.preset {
            Preset::Value(text) => Some(Entry { text: text.to_owned(), origin: Origin::Default }),
            Preset::Computed(_) | Preset::Absent(_) | Preset::Required => None,
        })
    }

    fn problem(&mut self, key: &Key, origin: Option<Origin>, message: String) {
        self.problems.push(Problem { key: key.full_name(&self.prefix), origin, message });
    }

    fn check<T>(
        &mut self,
        key: &Key,
        entry: Entry,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match check(&entry.text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(key, Some(entry.origin), message);
                None
            }
        }
    }

    /// Supplies a preset that depends on other values.
    pub(crate) fn compute(&mut self, name: &str, preset: impl FnOnce() -> String) {
        let full_name = self.key(name).full_name(&self.prefix);
        self.entries
            .entry(full_name)
            .or_insert_with(|| Entry { text: preset(), origin: Origin::Default });
    }

    /// A value that must be there.
    pub(crate) fn parsed<T>(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let key = self.key(name);
        if let Some(entry) = self.entry(key) {
            return self.check(key, entry, check);
        }
        let mut ways = vec![key.full_name(&self.prefix), key.env_name(&self.prefix)];
        if self.prefix == format!("backup.{}", crate::DEFAULT_SOURCE) {
            ways.extend(key.fixed_env.map(str::to_owned));
        }
        let message = format!("is missing; set it in the file, or {} in the environment", {
            ways.remove(0);
            ways.join(" or ")
        });
        self.problem(key, None, message);
        None
    }

    /// A value that may be absent; the outer `None` says it is there and wrong.
    pub(crate) fn optional<T>(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        let key = self.key(name);
        match self.entry(key) {
            None => Some(None),
            Some(entry) => self.check(key, entry, check).map(Some),
        }
    }

    /// A secret that must be there.
    pub(crate) fn secret(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Option<SecretString> {
        self.parsed(name, |text| check(text).map(|()| SecretString::from(text)))
    }

    /// A secret that may be absent.
    pub(crate) fn optional_secret(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Option<Option<SecretString>> {
        self.optional(name, |text| check(text).map(|()| SecretString::from(text)))
    }

    /// A whole number within its key's bounds.
    pub(crate) fn integer<T: TryFrom<i64>>(&mut self, name: &str) -> Option<T> {
        let Kind::Integer { min, max } = self.key(name).kind else {
            unreachable!("only integer keys are read as integers")
        };
        self.parsed(name, |text| {
            let number: i64 = text
                .trim()
                .parse()
                .map_err(|_| format!("`{text}` is not a whole number from {min} to {max}"))?;
            if !(min..=max).contains(&number) {
                return Err(format!("{number} is outside {min} to {max}"));
            }
            T::try_from(number).map_err(|_| format!("{number} is outside {min} to {max}"))
        })
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, name: &str) -> Option<bool> {
        self.parsed(name, |text| match text.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("`{other}` is neither true nor false")),
        })
    }

    /// Texts separated by commas.
    pub(crate) fn list(&mut self, name: &str) -> Option<Vec<String>> {
        self.parsed(name, |text| {
            Ok(text
                .split(',')
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .map(str::to_owned)
                .collect())
        })
    }
}
