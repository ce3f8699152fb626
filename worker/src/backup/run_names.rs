//! The names under which a run leaves things outside the control plane: files, folders of chunks,
//! imports in a target. One place writes and reads them, so that a sweep recognises exactly what
//! the handlers make.

/// The run of a file on its way in: `run42-request7.part` or `run42-request7.part.json`.
pub(crate) fn parse_part_name(name: &str) -> Option<i64> {
    let name = name.strip_suffix(".json").unwrap_or(name);
    let (run, request) = name.strip_suffix(".part")?.split_once("-request")?;
    number(request)?;
    number(run.strip_prefix("run")?)
}

/// The run of a kept dump: `run42-anything`.
pub(crate) fn parse_dump_name(name: &str) -> Option<i64> {
    number(name.strip_prefix("run")?.split_once('-')?.0)
}

/// The id of an import in a target. It begins with the control plane's own id: two control planes
/// may write to one target, and both count their runs from 1.
pub(crate) fn import_name(cluster: &str, run_id: i64, request_id: i64) -> String {
    format!("{cluster}_r{run_id}_q{request_id}")
}

/// A plain number: `str::parse` alone would also take signs.
pub(crate) fn number(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_else() {
        assert_eq!(parse_part_name("run42-request7.part"), Some(42));
        assert_eq!(parse_part_name("run42-request7.part.json"), Some(42));
        assert_eq!(parse_dump_name("run42-backup_x.sql.gz"), Some(42));
        assert_eq!(import_name("c0ffee00", 42, 7), "c0ffee00_r42_q7");
        for stranger in
            ["", "run", "run-request1.part", "run+1-request1.part", "run1-requestx.part"]
        {
            assert_eq!(parse_part_name(stranger), None, "{stranger:?}");
        }
        assert_eq!(parse_dump_name("runs-2"), None);
    }
}
