//! `/livez`, `/readyz`, `/metrics`: served by the telemetry's own router, described here.

use crate::openapi::{Operation, Routes};

pub(super) fn routes() -> Routes {
    Routes::new("Health and figures")
        .described(Operation::get("/livez", "isAlive", "Whether the process answers").text(
            200,
            "It does.",
            "text/plain",
        ))
        .described(
            Operation::get("/readyz", "isReady", "Whether the database answers and is migrated")
                .text(200, "It is.", "text/plain")
                .text(503, "It is not, and why.", "text/plain"),
        )
        .described(Operation::get("/metrics", "getMetrics", "Figures for Prometheus").text(
            200,
            "The figures.",
            "text/plain",
        ))
}
