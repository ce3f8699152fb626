//! The document: complete, true to the router, and shown without anything from elsewhere.

use std::collections::BTreeSet;

use reqwest::Method;

use super::conform::{DOCUMENT, operations};
use super::server::{Server, execute};

const METHODS: [Method; 6] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

#[tokio::test]
async fn every_route_is_described_and_every_description_has_its_route() {
    let server = Server::start().await;
    for (path, methods) in DOCUMENT["paths"].as_object().unwrap() {
        let described: BTreeSet<String> =
            methods.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        let address = path.replace("{id}", "77777").replace(['{', '}'], "");
        for method in METHODS {
            let request = server.request(method.clone(), &address).build().unwrap();
            let got = execute(&server.client, request).await;
            if described.contains(method.as_str()) {
                assert_ne!(got.status, 405, "{method} {path} is described and not there");
                assert_ne!(got.body["code"], "route_not_found", "{method} {path}");
            } else {
                got.refused(405, "method_not_allowed");
                // Whatever the router takes besides would be named here.
                let allowed: BTreeSet<String> = got.headers["allow"]
                    .to_str()
                    .unwrap()
                    .split(',')
                    .map(|method| method.trim().to_owned())
                    .filter(|method| method != "HEAD")
                    .collect();
                assert_eq!(allowed, described, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn the_document_is_served_as_it_is() {
    let server = Server::start().await;
    let served = server.get("/openapi.json").await.ok(200);
    assert_eq!(served, *DOCUMENT);
    assert_eq!(served["openapi"], "3.1.0");
    let ids: BTreeSet<_> = operations()
        .iter()
        .map(|described| described.operation["operationId"].clone().to_string())
        .collect();
    assert_eq!(ids.len(), operations().len(), "ids are unique");
    let tags: Vec<_> = served["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for described in operations() {
        assert!(tags.contains(&&described.operation["tags"][0]));
        assert!(described.operation["summary"].as_str().is_some_and(|text| !text.is_empty()));
        if described.path.starts_with("/api/v1") {
            assert!(described.scope().is_some(), "{} {}", described.method, described.path);
        }
    }
    // Every reference leads somewhere.
    let text = served.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(!served["components"]["schemas"][name].is_null(), "{name}");
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let server = Server::start().await;
    let page = server.get("/docs").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
    let page = page.ok(200);
    let page = page.as_str().unwrap();
    for described in operations() {
        assert!(page.contains(described.path), "{}", described.path);
    }
    for word in ["<script", "<img", "<iframe", "@import", "javascript:", " style="] {
        assert!(!page.contains(word), "{word}");
    }
    for attribute in ["src=\"", "href=\""] {
        for address in page.split(attribute).skip(1) {
            assert!(address.starts_with('/') || address.starts_with('#'), "{attribute}");
            assert!(!address.starts_with("//"));
        }
    }
    let style = server.get("/docs/style.css").await.ok(200);
    assert!(!style.as_str().unwrap().contains("url("));
}
