//! Everything Relevo does with a Postgres server that is not the queue: connections, COPY streams,
//! staging schemas and the cutover.

pub mod connect;
pub mod cutover;
pub mod error;
pub mod ident;

pub use connect::{PoolOptions, connect, connect_beside, connect_one};
pub use error::PgError;
