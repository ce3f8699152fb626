//! How a command fails: an exit code, the whole chain of causes, and what to do.

use std::fmt::{self, Write as _};

use relevo_pg::PgError;
use serde::Serialize;

/// The exit codes; `relevo --help` and docs/cli.md say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for was tried and failed.
    Failed = 1,
    /// The command line, a payload or another input isn't understood.
    Usage = 2,
    /// The configuration is wrong.
    Configuration = 3,
    /// The control plane can't be used.
    ControlPlane = 4,
    /// What was named doesn't exist.
    NotFound = 5,
    /// Done, but rows are missing: they are set aside.
    Quarantined = 6,
    /// Interrupted by a person.
    Interrupted = 130,
}

impl Exit {
    /// The code as the system takes it.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// A command's failure. Not an error type itself, so that `?` never nests one in another.
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
    advice: Option<String>,
}

/// Standard output was closed by its reader; that's the reader's right and no failure.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct StdoutClosed;

impl Failure {
    /// A failure with its own words.
    pub fn new(
        exit: Exit,
        message: impl fmt::Display + fmt::Debug + Send + Sync + 'static,
    ) -> Self {
        Self { exit, error: anyhow::Error::msg(message), advice: None }
    }

    /// A failure with its causes.
    pub fn with(exit: Exit, error: anyhow::Error) -> Self {
        Self { exit, error, advice: None }
    }

    /// Adds what the person can do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether nothing is to be said, because nobody reads any more.
    pub fn is_stdout_closed(&self) -> bool {
        self.error.chain().any(|cause| cause.is::<StdoutClosed>())
    }

    /// Whether waiting may help: the control plane isn't there, or not yet as it should be.
    pub fn may_pass(&self) -> bool {
        let lasting = self
            .error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<PgError>())
            .any(|cause| !cause.is_transient());
        self.exit == Exit::ControlPlane && !lasting
    }

    /// The chain in one line, for the log.
    pub fn line(&self) -> String {
        self.causes().collect::<Vec<_>>().join(": ")
    }

    /// The text for standard error.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (depth, cause) in self.causes().enumerate() {
            let lead = if depth == 0 { "error" } else { "  because" };
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{lead}: {cause}");
        }
        if let Some(advice) = &self.advice {
            let _ = writeln!(text, "what to do: {advice}");
        }
        text
    }

    /// The same as one JSON document.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            error: Body<'a>,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            message: String,
            causes: Vec<String>,
            advice: Option<&'a str>,
            exit_code: u8,
        }
        let mut causes = self.causes();
        let message = causes.next().unwrap_or_default();
        let body = Body {
            message,
            causes: causes.collect(),
            advice: self.advice.as_deref(),
            exit_code: self.exit.code(),
        };
        // Strings and a number are always JSON.
        serde_json::to_string(&Document { error: body }).unwrap_or_default()
    }

    /// The chain without repetitions: a transparent error says what its source says.
    fn causes(&self) -> impl Iterator<Item = String> + '_ {
        let mut last = None;
        self.error.chain().filter_map(move |cause| {
            let text = cause.to_string();
            if last.as_ref() == Some(&text) {
                return None;
            }
            last = Some(text.clone());
            Some(text)
        })
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl From<anyhow::Error> for Failure {
    /// Whatever has no better code has failed. What the control plane's database says of itself
    /// is told apart, since that is one thing to repair, not a hundred.
    fn from(error: anyhow::Error) -> Self {
        let (exit, advice) = diagnose(&error);
        Self { exit, error, advice: advice.map(str::to_owned) }
    }
}

fn diagnose(error: &anyhow::Error) -> (Exit, Option<&'static str>) {
    for cause in error.chain() {
        let Some(cause) = cause.downcast_ref::<sqlx::Error>() else { continue };
        if relevo_pg::error::is_transient(cause) {
            return (
                Exit::ControlPlane,
                Some("see that the database runs and can be reached, then try again"),
            );
        }
        match relevo_pg::error::sqlstate(cause).as_deref() {
            Some("42P01" | "3F000" | "42703" | "42883") => {
                return (
                    Exit::ControlPlane,
                    Some("the control plane's schema isn't this version's; run `relevo migrate`"),
                );
            }
            Some("42501") => {
                return (
                    Exit::ControlPlane,
                    Some(
                        "the role in the database URL needs rights on schema relevo; let its \
                         owner run `relevo migrate`, or grant them",
                    ),
                );
            }
            _ => {}
        }
    }
    (Exit::Failed, None)
}

/// Gives a result's error an exit code and advice.
pub trait OrFail<T> {
    /// The error with this exit code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure { exit, ..Failure::from(error.into()) })
    }
}

/// Adds advice to a failure in passing.
pub trait Advise<T> {
    /// What the person can do about it.
    fn advise(self, advice: impl Into<String>) -> Result<T, Failure>;
}

impl<T> Advise<T> for Result<T, Failure> {
    fn advise(self, advice: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|failure| failure.advise(advice))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_whole_chain_is_told_once_with_what_to_do() {
        let io = std::io::Error::other("disk on fire");
        let failure = Err::<(), _>(io)
            .context("writing failed")
            .context("writing failed")
            .or_exit(Exit::Configuration)
            .advise("call the fire brigade")
            .expect_err("is one");
        assert_eq!(
            failure.text(),
            "error: writing failed\n  because: disk on fire\nwhat to do: call the fire brigade\n"
        );
        let json: serde_json::Value = serde_json::from_str(&failure.json()).expect("is JSON");
        assert_eq!(json["error"]["message"], "writing failed");
        assert_eq!(json["error"]["causes"][0], "disk on fire");
        assert_eq!(json["error"]["exit_code"], 3);
    }

    #[test]
    fn an_unreachable_database_is_told_apart() {
        let error = anyhow::Error::from(sqlx::Error::PoolTimedOut).context("listing jobs failed");
        assert_eq!(Failure::from(error).exit(), Exit::ControlPlane);
        assert_eq!(Failure::from(anyhow::anyhow!("no")).exit(), Exit::Failed);
    }

    #[test]
    fn a_closed_pipe_is_recognised() {
        let error = anyhow::Error::from(StdoutClosed).context("printing");
        assert!(Failure::from(error).is_stdout_closed());
    }
}
