//! Named endpoints: those of the configuration file, and those kept in the control plane with their
//! secrets sealed.
//!
//! | module | holds |
//! |---|---|
//! | [`endpoint`] | what a connection is, and which of them the configuration file makes |
//! | [`store`] | the table of the others |
//! | [`references`] | sources of dumps that name connections in place of addresses |
//! | [`keyring`] | the keys that seal their secrets: where they are, how they rotate |
//! | [`outbound`] | the guard against requests to private addresses |
//! | [`mail`] | the way to a mail server |
//! | [`trial`] | trying a connection out |
//!
//! Whatever an administrator of the API could type in is guarded: a connection from the table
//! reaches private addresses only where `outbound.allow` names them. What stands in the
//! configuration file is the word of whoever owns the machine.

pub mod endpoint;
pub mod keyring;
pub mod mail;
pub mod outbound;
pub mod references;
mod seal;
pub mod store;
pub mod trial;

pub use endpoint::{Endpoint, Origin, Shown};
pub use keyring::{KeyError, Keyring};
pub use mail::{MailError, MailServer};
pub use outbound::{Outbound, OutboundError};
pub use references::{ReferenceError, Resolved};
pub use store::{Change, Connections, NewConnection, Rotation, StoreError};
pub use trial::{Trial, try_out};
