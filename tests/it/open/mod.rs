//! The open doors: kinds of somebody's own beside an unmodified API, scheduler and console, and
//! `relevo.enqueue()` in SQL, workers over HTTP.

mod enqueue_sql;
mod http_workers;
mod own_kinds;
