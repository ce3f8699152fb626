//! Who imports: the import's id, from which its schemas are named, and the fence of its writers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ImportError;

/// The longest id: `relevo_stage_` before it and a suffix behind must fit into 63 bytes.
const ID_MAX_BYTES: usize = 40;

/// The name of one import, unique in its target for ever.
///
/// Lower-case letters, digits and underscores, 1 to 40 bytes. Several control planes may share a
/// target, so an id made from a run's number has to name its control plane too.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImportId(String);

impl ImportId {
    /// Checks and wraps an id.
    ///
    /// # Errors
    /// [`ImportError::Id`] when the text is empty, too long or holds other characters.
    pub fn new(id: impl Into<String>) -> Result<Self, ImportError> {
        let id = id.into();
        let fits = (1..=ID_MAX_BYTES).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if fits { Ok(Self(id)) } else { Err(ImportError::Id { id }) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The program name that sessions of this import begin with.
    pub(crate) fn program(&self) -> String {
        format!("relevo import {}", self.0)
    }

    /// The schema the rows land in first.
    #[must_use]
    pub fn staging_schema(&self) -> String {
        format!("relevo_stage_{}", self.0)
    }

    /// The schema that takes the tables kept before the previous ones, until they are dropped.
    #[must_use]
    pub fn trash_schema(&self) -> String {
        format!("relevo_trash_{}", self.0)
    }
}

impl fmt::Display for ImportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImportId {
    type Err = ImportError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for ImportId {
    type Error = ImportError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<ImportId> for String {
    fn from(id: ImportId) -> Self {
        id.0
    }
}

/// The schema that keeps the tables which `schema` showed before.
#[must_use]
pub fn previous_schema(schema: &str) -> String {
    relevo_pg::ident::fit(&format!("relevo_prev_{schema}"), "")
}

/// Proof of the right to write: a later writer's fence is greater, and an earlier one's writes are
/// refused from then on.
///
/// Compared field by field in this order. Within one control plane job ids rise for ever and a
/// job's epoch rises with every claim; a control plane restored from a backup starts a new
/// incarnation.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize,
)]
pub struct Fence {
    /// Incarnation of the control plane, from 1.
    pub incarnation: i64,
    /// The job that writes.
    pub job_id: i64,
    /// The lease epoch of the job's current claim.
    pub epoch: i64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.incarnation, self.job_id, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_and_name_schemas() {
        assert!(ImportId::new("run42").is_ok());
        for wrong in ["", "Run42", "run-42", "run 42", &"x".repeat(41)] {
            assert!(ImportId::new(wrong).is_err(), "{wrong}");
        }
        let longest = ImportId::new("x".repeat(ID_MAX_BYTES)).unwrap();
        assert!(longest.staging_schema().len() <= 63 && longest.trash_schema().len() <= 63);
    }

    #[test]
    fn fences_order_by_incarnation_then_job_then_epoch() {
        let fence = |incarnation, job_id, epoch| Fence { incarnation, job_id, epoch };
        assert!(fence(1, 9, 9) < fence(2, 1, 1));
        assert!(fence(1, 3, 9) < fence(1, 4, 1));
        assert!(fence(1, 3, 1) < fence(1, 3, 2));
    }
}
