//! Who wins: a remote version against what is here. No database, no I/O.

/// Whose version rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Somebody else's, perhaps.
    Anyone,
    /// What an own write was answered with.
    OwnWrite,
}

/// A row and what is known of it here.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) same_version: bool,
    pub(crate) pending: Option<i64>,
    pub(crate) here: bool,
    pub(crate) remote_hash: String,
    pub(crate) local_hash: Option<String>,
    pub(crate) base_hash: Option<String>,
    pub(crate) sent_hash: Option<String>,
    pub(crate) local_newer: bool,
    pub(crate) local: Option<String>,
}

/// What is done with a remote version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was seen before.
    Skip,
    /// Nothing local stands against it.
    Apply,
    /// It only becomes the base of the next write.
    Rebase,
    /// It is what the local change would have made of it.
    Adopt,
    /// Both sides changed; it is the newer one.
    RemoteWins,
    /// Both sides changed; the local version is newer.
    LocalWins,
    /// The same, of a row that was here before anything was recorded: it is sent.
    LocalWinsUnrecorded,
}

/// Asked for a row under its lock.
pub(crate) fn decide(known: &Known, of: Of) -> Verdict {
    let remote = Some(&known.remote_hash);
    if of == Of::OwnWrite {
        return if known.pending.is_some() { Verdict::Rebase } else { Verdict::Apply };
    }
    if known.same_version {
        return Verdict::Skip;
    }
    if known.pending.is_none() {
        // A row that was on both sides before they met: what would be written over is nobody's echo.
        let met = known.base_hash.is_some() || !known.here || known.local_hash.as_ref() == remote;
        return match (met, known.local_newer) {
            (true, _) => Verdict::Apply,
            (false, true) => Verdict::LocalWinsUnrecorded,
            (false, false) => Verdict::RemoteWins,
        };
    }
    if known.here && known.local_hash.as_ref() == remote {
        return Verdict::Adopt;
    }
    // The echo of an own write whose answer was lost, or a version with nothing new in it: neither
    // stands against the local change.
    if known.sent_hash.as_ref() == remote || known.base_hash.as_ref() == remote {
        return Verdict::Rebase;
    }
    // On a tie the remote version wins, which every clinic of the project sees.
    if known.local_newer { Verdict::LocalWins } else { Verdict::RemoteWins }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed_both(local_newer: bool) -> Known {
        Known {
            pending: Some(1),
            here: true,
            remote_hash: "r".to_owned(),
            local_hash: Some("l".to_owned()),
            base_hash: Some("b".to_owned()),
            local_newer,
            ..Known::default()
        }
    }

    #[test]
    fn the_newer_version_wins_and_a_tie_is_the_remotes() {
        assert_eq!(decide(&changed_both(true), Of::Anyone), Verdict::LocalWins);
        assert_eq!(decide(&changed_both(false), Of::Anyone), Verdict::RemoteWins);
    }

    #[test]
    fn the_echo_of_an_own_write_never_beats_a_newer_local_edit() {
        let echo = Known { sent_hash: Some("r".to_owned()), ..changed_both(false) };
        assert_eq!(decide(&echo, Of::Anyone), Verdict::Rebase);
        let untouched = Known { base_hash: Some("r".to_owned()), ..changed_both(false) };
        assert_eq!(decide(&untouched, Of::Anyone), Verdict::Rebase);
        assert_eq!(decide(&changed_both(false), Of::OwnWrite), Verdict::Rebase);
    }

    #[test]
    fn equal_changes_are_no_conflict() {
        let equal = Known { local_hash: Some("r".to_owned()), ..changed_both(false) };
        assert_eq!(decide(&equal, Of::Anyone), Verdict::Adopt);
    }
}
