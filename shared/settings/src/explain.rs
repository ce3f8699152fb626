//! What is in force and from where, without secrets.

use url::Url;

use crate::check::is_name;
use crate::origin::Origin;
use crate::reader::Entries;
use crate::schema::{Key, Kind, Preset, Section};

/// One line of `relevo config check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The full key.
    pub key: String,
    /// The value in force, fit to be shown; `None` when the key is not set.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: Origin,
    /// What an unset key means.
    pub note: Option<&'static str>,
    /// Whether a running process takes up a change; else it holds from the next start.
    pub holds_at_once: bool,
}

pub(crate) fn explain(keys: &[(String, &'static Key)], in_force: &Entries) -> Vec<Explained> {
    keys.iter()
        .map(|(section, key)| {
            let full_name = key.full_name(section);
            let entry = in_force.get(&full_name);
            let value = entry.map(|entry| entry.text.clone()).or_else(|| match key.preset {
                Preset::Value(text) => Some(text.to_owned()),
                _ => None,
            });
            let note = match key.preset {
                Preset::Absent(note) if value.is_none() => Some(note),
                _ => None,
            };
            Explained {
                key: full_name,
                value: value.map(|text| if key.kind == Kind::Secret { mask(&text) } else { text }),
                origin: entry.map_or(Origin::Default, |entry| entry.origin.clone()),
                note,
                holds_at_once: Section::of(section).is_some_and(|known| known.holds_at_once(key)),
            }
        })
        .collect()
}

/// Of a database URL everything but the password and the parameters; of any other secret nothing.
fn mask(secret: &str) -> String {
    if is_name(secret) {
        return secret.to_owned();
    }
    match Url::parse(secret) {
        Ok(mut url) if matches!(url.scheme(), "postgres" | "postgresql") => {
            // Setting fails only for URLs without a host, which hold no password either.
            let _ = url.set_password(url.password().map(|_| "***"));
            url.set_query(None);
            url.set_fragment(None);
            url.to_string()
        }
        _ => "***".to_owned(),
    }
}
