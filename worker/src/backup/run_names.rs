//! The names under which a run leaves things outside the control plane: files, folders of chunks,
//! imports in a target. One place writes and reads them, so that a sweep recognises exactly what
//! the handlers make.
//!
//! Every name begins with a tag that says which control plane made it, and in which incarnation:
//! two control planes may share a disk or a target, a restored one counts its runs on from where
//! the backup stood, and all of them count from 1. What carries another's tag is never touched.

use relevo_runs::Run;

/// A run, told apart from every other one of this control plane's past.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct RunKey {
    /// The control plane's incarnation when the run was created.
    pub(crate) incarnation: i64,
    /// The run's number.
    pub(crate) id: i64,
}

impl From<&Run> for RunKey {
    fn from(run: &Run) -> Self {
        Self { incarnation: run.incarnation, id: run.id.0 }
    }
}

/// Writes and reads the names of one control plane.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    cluster: String,
}

impl Names {
    /// The names of the control plane with this id.
    pub(crate) fn new(cluster_id: &str) -> Self {
        Self { cluster: cluster_id.to_owned() }
    }

    /// What every name of an incarnation begins with: `c0ffee00`, or `c0ffee00i2` after a restore.
    pub(crate) fn tag(&self, incarnation: i64) -> String {
        match incarnation {
            1 => self.cluster.clone(),
            restored => format!("{}i{}", self.cluster, base36(restored)),
        }
    }

    /// The incarnation of an own tag.
    pub(crate) fn incarnation(&self, tag: &str) -> Option<i64> {
        let rest = tag.strip_prefix(&self.cluster)?;
        if rest.is_empty() {
            return Some(1);
        }
        let digits = rest.strip_prefix('i')?;
        let incarnation = i64::from_str_radix(digits, 36).ok()?;
        // Written one way only: no sign, no capitals, no leading zeros.
        (incarnation > 1 && base36(incarnation) == digits).then_some(incarnation)
    }

    /// A file on its way in: `c0ffee00-run42-request7.part`.
    pub(crate) fn part(&self, run: RunKey, request_id: i64) -> String {
        format!("{}-run{}-request{request_id}.part", self.tag(run.incarnation), run.id)
    }

    /// A kept dump: `c0ffee00-run42-backup.sql.gz`.
    pub(crate) fn dump(&self, run: RunKey, filename: &str) -> String {
        format!("{}-run{}-{filename}", self.tag(run.incarnation), run.id)
    }

    /// The id of an import in a target: `c0ffee00_r42_q7`.
    pub(crate) fn import(&self, run: RunKey, request_id: i64) -> String {
        format!("{}_r{}_q{request_id}", self.tag(run.incarnation), run.id)
    }

    /// The run of a file on its way in, or of the notes beside it; `None` for a stranger's.
    pub(crate) fn run_of_part(&self, name: &str) -> Option<RunKey> {
        let name = name.strip_suffix(".json").unwrap_or(name);
        let (run, request) = name.strip_suffix(".part")?.rsplit_once("-request")?;
        number(request)?;
        let (tag, id) = run.split_once("-run")?;
        Some(RunKey { incarnation: self.incarnation(tag)?, id: number(id)? })
    }

    /// The run of a kept dump; `None` for a stranger's.
    pub(crate) fn run_of_dump(&self, name: &str) -> Option<RunKey> {
        let (tag, rest) = name.split_once("-run")?;
        let (id, _) = rest.split_once('-')?;
        Some(RunKey { incarnation: self.incarnation(tag)?, id: number(id)? })
    }
}

/// A plain number: `str::parse` alone would also take signs.
pub(crate) fn number(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Digits and lower-case letters: incarnations are moments in seconds, which are shorter so.
fn base36(number: i64) -> String {
    let mut left = number.unsigned_abs();
    let mut digits = Vec::new();
    loop {
        // A remainder by 36 is always a digit of that base.
        digits.extend(char::from_digit(u32::try_from(left % 36).unwrap_or(0), 36));
        left /= 36;
        if left == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTORED: i64 = 1_795_000_000;

    #[test]
    fn what_is_written_is_read_back_and_nothing_else() {
        let names = Names::new("c0ffee00");
        for incarnation in [1, 2, RESTORED] {
            let run = RunKey { incarnation, id: 42 };
            let part = names.part(run, 7);
            assert_eq!(names.run_of_part(&part), Some(run), "{part}");
            assert_eq!(names.run_of_part(&format!("{part}.json")), Some(run));
            let dump = names.dump(run, "backup-run3-x.sql.gz");
            assert_eq!(names.run_of_dump(&dump), Some(run), "{dump}");
        }
        assert_eq!(
            names.part(RunKey { incarnation: 1, id: 42 }, 7),
            "c0ffee00-run42-request7.part"
        );
        for stranger in [
            "",
            "run42-request7.part",
            "c0ffee00-run-request1.part",
            "c0ffee00-run+1-request1.part",
            "c0ffee00-run1-requestx.part",
            "c0ffee00i1-run1-request1.part",
            "c0ffee00i02-run1-request1.part",
            "c0ffee01-run1-request1.part",
        ] {
            assert_eq!(names.run_of_part(stranger), None, "{stranger:?}");
        }
        assert_eq!(names.run_of_dump("run42-backup.sql.gz"), None);
        assert_eq!(names.run_of_dump("deadbeef-run42-backup.sql.gz"), None);
    }

    #[test]
    fn incarnations_have_imports_of_their_own() {
        let names = Names::new("c0ffee00");
        let import = |incarnation| names.import(RunKey { incarnation, id: 42 }, 7);
        assert_eq!(import(1), "c0ffee00_r42_q7");
        assert_ne!(import(1), import(RESTORED));
        let longest = names.import(RunKey { incarnation: RESTORED, id: 99_999_999 }, 99_999_999);
        assert!(relevo_import::ImportId::new(&*longest).is_ok(), "{longest}");
    }
}
