//! The open doors: kinds of somebody's own beside an unmodified API, scheduler and console, and
//! `relevo.enqueue()` in SQL.

mod enqueue_sql;
mod own_kinds;
