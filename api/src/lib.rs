//! The HTTP side: enqueueing, watching and steering jobs and runs, and the gateway's webhook.
//!
//! [`serve`] answers on a listener until it is told to stop. Everything under `/api/v1` asks for an
//! API key with the scope of the route; the webhook is known by its token; `/metrics`, `/livez` and
//! `/readyz` are open; the console under `/console` knows browsers by a session cookie. Whatever is refused is answered with `application/problem+json` and a stable
//! `code`. Routes live by resource in `routes`, each beside its description: `openapi` makes
//! a document and a page of those.

mod app;
mod audited;
mod auth;
mod console;
mod error;
mod extract;
mod figures;
mod gathered;
mod limits;
mod listen;
mod live;
mod openapi;
mod page;
mod places;
mod routes;
mod stall;

pub use app::{ApiDeps, NextSlots, document, router};
pub use listen::serve;
