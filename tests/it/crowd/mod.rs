//! Many worker processes on one server.

mod alone;
