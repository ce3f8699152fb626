//! The session settings a dump makes for itself and that change how its bytes are to be read.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Settings in force at a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct SessionState {
    /// Character set of the statement's text, lower case; `None` until the dump names one.
    pub charset: Option<String>,
    /// Backslash is an ordinary character in strings (`NO_BACKSLASH_ESCAPES`).
    pub no_backslash_escapes: bool,
    /// Double quotes delimit identifiers (`ANSI_QUOTES`).
    pub ansi_quotes: bool,
    /// `NO_AUTO_VALUE_ON_ZERO`: a 0 in an AUTO_INCREMENT column stays 0.
    pub no_auto_value_on_zero: bool,
    /// Time zone of `timestamp` values; `None` until the dump names one.
    pub time_zone: Option<String>,
}

/// Follows `SET` statements, user variables (`@OLD_…`) included.
#[derive(Debug, Clone, Default)]
pub struct SessionTracker {
    state: SessionState,
    sql_mode: String,
    variables: HashMap<String, Value>,
}

/// A value on the right side of an assignment: known, or the server's default.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Known(String),
    Default,
}

impl SessionTracker {
    /// The settings in force.
    pub fn state(&self) -> &SessionState {
        &self.state
    }

    /// Takes over one statement that begins with `SET`; what it does not know is ignored.
    /// Returns whether the state has changed.
    pub fn apply(&mut self, statement: &str) -> bool {
        let before = self.state.clone();
        let Some(rest) = strip_word(statement.trim(), "SET") else { return false };
        for assignment in split_assignments(rest) {
            self.assign(assignment.trim());
        }
        before != self.state
    }

    fn assign(&mut self, assignment: &str) {
        let assignment = ["SESSION", "LOCAL", "GLOBAL"]
            .iter()
            .find_map(|scope| strip_word(assignment, scope))
            .unwrap_or(assignment);
        if let Some(rest) = strip_word(assignment, "NAMES") {
            let name = rest.split_whitespace().next().unwrap_or("");
            let value = self.value(name);
            self.set_charset(&value);
            return;
        }
        if let Some(rest) =
            strip_word(assignment, "CHARACTER SET").or_else(|| strip_word(assignment, "CHARSET"))
        {
            let value = self.value(rest.trim());
            self.set_charset(&value);
            return;
        }
        let Some((left, right)) = assignment.split_once('=') else { return };
        let left = left.trim().trim_end_matches(':').trim_end().to_ascii_lowercase();
        let value = self.value(right.trim());
        if left.starts_with('@') && !left.starts_with("@@") {
            self.variables.insert(left, value);
            return;
        }
        let name = left
            .trim_start_matches("@@")
            .trim_start_matches("session.")
            .trim_start_matches("local.")
            .trim_matches('`');
        match name {
            "character_set_client" => self.set_charset(&value),
            "sql_mode" => self.set_sql_mode(&value),
            "time_zone" => {
                self.state.time_zone = match value {
                    Value::Known(zone) if !zone.eq_ignore_ascii_case("system") => Some(zone),
                    _ => None,
                };
            }
            _ => {}
        }
    }

    fn value(&self, text: &str) -> Value {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        if let Some(system) = lower.strip_prefix("@@") {
            let system = system
                .trim_start_matches("session.")
                .trim_start_matches("local.")
                .trim_start_matches("global.");
            let known = match system {
                "character_set_client" => self.state.charset.clone(),
                "sql_mode" => Some(self.sql_mode.clone()),
                "time_zone" => self.state.time_zone.clone(),
                _ => None,
            };
            return known.map_or(Value::Default, Value::Known);
        }
        if lower.starts_with('@') {
            return self.variables.get(&lower).cloned().unwrap_or(Value::Default);
        }
        if lower == "default" {
            return Value::Default;
        }
        let unquoted = text
            .strip_prefix('\'')
            .and_then(|t| t.strip_suffix('\''))
            .or_else(|| text.strip_prefix('"').and_then(|t| t.strip_suffix('"')))
            .unwrap_or(text);
        Value::Known(unquoted.to_owned())
    }

    fn set_charset(&mut self, value: &Value) {
        self.state.charset = match value {
            Value::Known(name) if !name.is_empty() => Some(name.to_ascii_lowercase()),
            _ => None,
        };
    }

    fn set_sql_mode(&mut self, value: &Value) {
        let mode = match value {
            Value::Known(mode) => mode.to_ascii_uppercase(),
            Value::Default => String::new(),
        };
        // `CONCAT(@@sql_mode, ',ANSI_QUOTES')` adds to the mode. What else is computed of it, such as
        // REPLACE, only takes away what does not matter here.
        let mode = match mode.strip_prefix("CONCAT(") {
            Some(added) => format!("{},{added}", self.sql_mode),
            None if mode.contains('(') => return,
            None => mode,
        };
        let words = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        let has = |flag: &str| mode.split(words).any(|word| word == flag);
        // The combined modes all bring ANSI_QUOTES.
        let ansi = ["ANSI", "DB2", "MAXDB", "MSSQL", "ORACLE", "POSTGRESQL"];
        self.state.ansi_quotes = has("ANSI_QUOTES") || ansi.iter().any(|m| has(m));
        self.state.no_backslash_escapes = has("NO_BACKSLASH_ESCAPES");
        self.state.no_auto_value_on_zero = has("NO_AUTO_VALUE_ON_ZERO");
        self.sql_mode = mode;
    }
}

/// `text` without the leading word(s), when it starts with them as whole words.
pub fn strip_word<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    let mut rest = text.trim_start();
    for word in words.split(' ') {
        let head = rest.get(..word.len())?;
        if !head.eq_ignore_ascii_case(word) {
            return None;
        }
        rest = &rest[word.len()..];
        if rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        rest = rest.trim_start();
    }
    Some(rest)
}

/// Splits at commas outside quotes and parentheses.
fn split_assignments(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match (quote, c) {
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            (None, _) => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_footer_of_mysqldump() {
        let mut tracker = SessionTracker::default();
        for statement in [
            "SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT",
            "SET NAMES utf8mb4",
            "SET @OLD_TIME_ZONE=@@TIME_ZONE",
            "SET TIME_ZONE='+00:00'",
            "SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO'",
        ] {
            tracker.apply(statement);
        }
        assert_eq!(tracker.state().charset.as_deref(), Some("utf8mb4"));
        assert_eq!(tracker.state().time_zone.as_deref(), Some("+00:00"));
        assert!(tracker.state().no_auto_value_on_zero);

        tracker.apply("SET @saved_cs_client     = @@character_set_client");
        tracker.apply("SET character_set_client = latin1");
        assert_eq!(tracker.state().charset.as_deref(), Some("latin1"));
        tracker.apply("SET character_set_client = @saved_cs_client");
        assert_eq!(tracker.state().charset.as_deref(), Some("utf8mb4"));

        tracker.apply("SET TIME_ZONE=@OLD_TIME_ZONE");
        tracker.apply("SET SQL_MODE=@OLD_SQL_MODE");
        assert_eq!(tracker.state().time_zone, None);
        assert!(!tracker.state().no_auto_value_on_zero);
    }

    #[test]
    fn modes_that_change_the_lexer() {
        let mut tracker = SessionTracker::default();
        tracker.apply("SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'");
        assert!(tracker.state().ansi_quotes && tracker.state().no_backslash_escapes);
        tracker.apply("SET sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_VALUE_ON_ZERO')");
        tracker.apply("SET sql_mode = (SELECT REPLACE(@@sql_mode, 'ONLY_FULL_GROUP_BY', ''))");
        assert!(tracker.state().ansi_quotes && tracker.state().no_auto_value_on_zero);
        tracker.apply("set @@session.sql_mode = \"\"");
        assert!(!tracker.state().ansi_quotes && !tracker.state().no_backslash_escapes);
        assert!(!tracker.apply("SET FOREIGN_KEY_CHECKS=0, @x = IF(1, 'a,b', 2)"));
    }
}
