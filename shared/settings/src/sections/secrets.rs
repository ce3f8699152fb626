//! `[secrets]`: the key that seals the secrets kept in the control plane.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, Section};

/// The key that seals the secrets of connections kept in the control plane.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// One or several keys with commas between; the first seals, all open.
    pub key: Option<SecretString>,
    /// The file with the keys where `key` is not given; absolute. `None`: `secret.key` under
    /// `data_dir`.
    pub keys_path: Option<PathBuf>,
}

pub(crate) const SECTION: Section = Section {
    name: "secrets",
    help: "The key that seals the secrets of connections kept in the control plane; docs/connections.md tells more.",
    keys: &[
        Key::secret(
            "key",
            Preset::Absent("the keys are in the file keys_path"),
            "Key of 64 hexadecimal digits, as `relevo secret generate` prints one; several with commas between, of which the first seals.",
        ),
        Key::text(
            "keys_path",
            Preset::Absent("secret.key under data_dir, made when first needed"),
            "File that holds the keys; only its owner may read it.",
        ),
    ],
};

impl Secrets {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let key = reader.optional_secret("key", check::sealing_keys);
        let keys_path = reader.optional("keys_path", check::file_path);
        Some(Self { key: key?, keys_path: keys_path? })
    }
}
