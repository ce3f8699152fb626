//! How an error is told to people: itself and what is behind it, in one line.
//!
//! A crate of its own without dependencies, so that every other one can use it.

use std::error::Error;

/// An error and its causes in one line, joined by colons. A cause that the text ends with already
/// is left out: transparent errors, and those that print their source themselves, would say it
/// twice.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Level(&'static str, Option<Box<Level>>);

    impl fmt::Display for Level {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Level {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|level| level as &(dyn Error + 'static))
        }
    }

    #[test]
    fn every_cause_is_said_once() {
        let third = Level("the disk is full", None);
        let second = Level("writing failed: the disk is full", Some(Box::new(third)));
        let first = Level("the chunk is not stored", Some(Box::new(second)));
        assert_eq!(chain(&first), "the chunk is not stored: writing failed: the disk is full");
        assert_eq!(chain(&Level("alone", None)), "alone");
    }
}
