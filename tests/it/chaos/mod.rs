//! The queue in a storm: processes killed and frozen, the server crashed, connections cut and
//! silenced, while jobs are enqueued through every door.

mod alone;
mod effects;
mod rescues;
