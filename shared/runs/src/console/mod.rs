//! What the console keeps and asks beyond the API: who is logged in, and its first page.
//!
//! A browser is logged in by an API key, or by a one-time link that the command line makes for
//! whoever can use the control plane anyway. Either is exchanged for a session: a cookie of 256
//! random bits, of which the database holds the SHA-256 only.

mod session;
mod summary;

pub use session::{
    Session, SessionError, SessionToken, close, make_link, open_by_key, open_by_link, session,
};
pub use summary::{Leader, SourceSummary, leader, sources};
