//! The harness of the integration tests: databases, real processes, a whole cluster, and reference
//! values computed by MariaDB itself.
//!
//! What fails here fails the test, so these functions panic with a message that says what was
//! being waited for, instead of handing errors back.

mod browser;
mod cluster;
mod database;
mod fault_proxy;
pub mod gateway;
mod helm;
mod keda;
pub mod mail;
mod mariadb;
mod pg_dump;
mod pgbouncer;
pub mod planted;
mod postgres;
mod process;
mod python;
pub mod reference;
pub mod rotel;
pub mod schemathesis;
mod shop;
mod small_disk;
mod statements;
mod wait;

pub use browser::Browser;
pub use cluster::{Cluster, ClusterBuilder, CommandOutput, SOURCE};
pub use database::TestDatabase;
pub use fault_proxy::FaultProxy;
pub use gateway::Gateway;
pub use helm::helm;
pub use keda::keda_check;
pub use mail::MailServer;
pub use mariadb::MariaDb;
pub use pg_dump::pg_dump;
pub use pgbouncer::PgBouncer;
pub use postgres::OwnPostgres;
pub use process::{Process, ProcessBuilder, binary_path, clean_command, free_port};
pub use python::programs_of;
pub use rotel::Rotel;
pub use shop::ShopDump;
pub use small_disk::SmallDisk;
pub use statements::{Watched, watch_statements};
pub use wait::{wait_blocked, wait_for};
