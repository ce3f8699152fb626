//! Telling people: what is said, to whom, by which way, and when a state is worth a word.
//!
//! | module | holds |
//! |---|---|
//! | [`channels`] | the ways to tell people: `[notify]` and `[channel.NAME]` |
//! | [`message`] | what is said about a run or an alert, in English or Spanish |
//! | [`sender`] | posting and mailing it |
//! | [`alerts`] | states that last: told once when they begin, once when they are over |
//! | [`rules`] | the built-in rules that see such states |
//! | [`plan`] | which jobs tell what, one for each channel |
//!
//! A channel gets a job of its own, so that a dead one neither holds up nor repeats the others. The
//! leading scheduler and the workers look at the rules; only when no worker is alive does the
//! scheduler tell people itself.

pub mod alerts;
pub mod channels;
pub mod message;
pub mod plan;
pub mod rules;
pub mod sender;
mod template;
mod words;

pub use alerts::{Alert, Condition, Rule};
pub use channels::{Channel, HEARTBEAT, Way, channels};
pub use message::{Message, Occasion};
pub use sender::{SendError, Sender};
pub use template::{unclosed_name, unknown_names};
