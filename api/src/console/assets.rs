//! The files the pages are made with: embedded, and addressed by their content, so that browsers
//! keep them as long as they stay the same.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use crate::error::ApiError;

/// One file.
pub(super) struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
    address: LazyLock<String>,
}

impl Asset {
    /// Where pages find it.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

macro_rules! asset {
    ($constant:ident, $name:literal, $kind:literal) => {
        pub(super) static $constant: Asset = Asset {
            name: $name,
            kind: $kind,
            text: include_str!($name),
            address: LazyLock::new(|| {
                format!("/console/assets/{}?{:016x}", $name, fingerprint(include_str!($name)))
            }),
        };
    };
}

asset!(STYLE, "style.css", "text/css; charset=utf-8");
asset!(SCRIPT, "console.js", "text/javascript; charset=utf-8");
asset!(ICON, "icon.svg", "image/svg+xml");

/// Tells one content from another (FNV-1a); nothing depends on its being hard to forge.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Serves one.
pub(super) async fn serve(Path(name): Path<String>) -> Response {
    let Some(asset) = [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.name == name) else {
        return ApiError::not_found("route_not_found", "there is no such file").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, asset.text).into_response()
}
