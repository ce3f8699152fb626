//! The known name that was probably meant.

/// The candidate most like `word`, if any is like it at all.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Below this, suggestions mislead more than they help.
    const LIKE: f64 = 0.75;
    candidates
        .into_iter()
        .map(|candidate| {
            // A name broken off is meant more surely than one of similar letters.
            let begun = word.len() >= 3 && candidate.starts_with(word);
            (strsim::jaro_winkler(word, candidate) + if begun { 1.0 } else { 0.0 }, candidate)
        })
        .filter(|(likeness, _)| *likeness >= LIKE)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}
