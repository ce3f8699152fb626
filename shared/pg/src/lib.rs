//! Everything Relevo does with a Postgres server that is not the queue: connections, COPY streams,
//! staging schemas and the cutover.

pub mod connect;
pub mod copy;
pub mod cutover;
pub mod embedded;
pub mod error;
pub mod ident;
mod pooled;
mod pooler;
pub mod session;
mod socket;
pub mod staging;

pub use connect::{PoolOptions, connect, connect_beside, connect_one, connect_proved};
pub use error::PgError;
pub use session::Session;
