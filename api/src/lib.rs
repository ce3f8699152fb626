//! The HTTP side: enqueueing, watching and steering jobs and runs, and the gateway's webhook.
//!
//! [`serve`] answers on a listener until it is told to stop. Everything under `/api/v1` asks for an
//! API key with the scope of the route; the webhook is known by its token; `/metrics`, `/livez` and
//! `/readyz` are open. Whatever is refused is answered with `application/problem+json` and a stable
//! `code`. Routes live by resource in `routes`.

mod app;
mod auth;
mod error;
mod extract;
mod listen;
mod page;
mod routes;

pub use app::{ApiDeps, router};
pub use listen::serve;
