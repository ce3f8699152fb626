//! The console: who gets in, what the pages do in a real browser, and following a run.

mod access;
mod attention;
mod follow;
mod pages;
