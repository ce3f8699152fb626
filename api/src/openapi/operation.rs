//! What one route does, beside the route itself: whoever adds a route describes it, since there is
//! no other way to add one.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use relevo_runs::api_keys::Scope;
use serde_json::{Value, json};

use super::schema;
use crate::app::App;

/// One method of one address.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    pub(super) scope: Option<Scope>,
    pub(super) parameters: Vec<Value>,
    pub(super) body: Option<(Value, Presence)>,
    /// The body's media type.
    pub(super) body_kind: &'static str,
    pub(super) answers: Vec<(u16, &'static str, Content)>,
    pub(super) problems: Vec<(u16, &'static str)>,
}

/// Whether a request must have its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    Optional,
}

/// What an answer consists of.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Nothing,
    Text(&'static str),
    Json(Value),
    /// JSON, with the address of what was made in the header `Location`.
    Made(Value),
}

impl Operation {
    /// An operation without parameters that anybody may ask for. `id` is its name in generated
    /// clients, `summary` a few words.
    pub(crate) fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        Self {
            method,
            path,
            id,
            tag: "",
            summary,
            description: "",
            scope: None,
            parameters: path_parameters(path),
            body: None,
            body_kind: "application/json",
            answers: Vec::new(),
            problems: vec![(500, "internal"), (503, "timed_out"), (503, "too_many_connections")],
        }
    }

    /// GET.
    pub(crate) fn get(path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self::new(Method::GET, path, id, summary)
    }

    /// POST.
    pub(crate) fn post(path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self::new(Method::POST, path, id, summary)
    }

    /// Sentences about it.
    pub(crate) fn describe(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Needs an API key with this scope.
    pub(crate) fn needs(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self.problem(401, "missing_api_key")
            .problem(401, "invalid_api_key")
            .problem(403, "missing_scope")
            .problem(429, "rate_limited")
            .uses_database()
    }

    /// Asks the control plane's database.
    pub(crate) fn uses_database(self) -> Self {
        let named = !self.parameters.is_empty();
        let with = self.problem(503, "database_unavailable").problem(503, "database_busy");
        if named { with.problem(400, "invalid_path") } else { with }
    }

    /// Takes parameters after the question mark.
    pub(crate) fn query<const N: usize>(mut self, parameters: [Value; N]) -> Self {
        self.parameters.extend(parameters);
        self.problem(400, "invalid_query")
    }

    /// Looks at a header.
    pub(crate) fn header(mut self, parameter: Value) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// Takes a JSON body.
    pub(crate) fn body(self, schema: Value) -> Self {
        self.takes(schema, Presence::Required)
    }

    /// Takes a JSON body, or none.
    pub(crate) fn optional_body(self, schema: Value) -> Self {
        self.takes(schema, Presence::Optional)
    }

    /// Takes a body that is read as JSON whatever it says it is.
    pub(crate) fn lenient_body(mut self, schema: Value) -> Self {
        self.body = Some((schema, Presence::Required));
        self.problem(400, "malformed_json")
            .problem(400, "unreadable_body")
            .problem(413, "body_too_large")
    }

    /// Takes bytes, whatever they are said to be.
    pub(crate) fn binary_body(mut self) -> Self {
        self.body = Some((json!({}), Presence::Optional));
        self.body_kind = "application/octet-stream";
        self.problem(400, "unreadable_body").problem(413, "body_too_large")
    }

    fn takes(mut self, schema: Value, presence: Presence) -> Self {
        self.body = Some((schema, presence));
        self.problem(400, "malformed_json")
            .problem(400, "unreadable_body")
            .problem(413, "body_too_large")
            .problem(415, "unsupported_media_type")
            .problem(422, "invalid_body")
    }

    /// Answers JSON.
    pub(crate) fn answer(mut self, status: u16, words: &'static str, schema: Value) -> Self {
        self.answers.push((status, words, Content::Json(schema)));
        self
    }

    /// Answers JSON, and in `Location` where to look at what was made.
    pub(crate) fn made(mut self, status: u16, words: &'static str, schema: Value) -> Self {
        self.answers.push((status, words, Content::Made(schema)));
        self
    }

    /// Answers a status alone.
    pub(crate) fn empty(mut self, status: u16, words: &'static str) -> Self {
        self.answers.push((status, words, Content::Nothing));
        self
    }

    /// Answers text of a media type.
    pub(crate) fn text(mut self, status: u16, words: &'static str, kind: &'static str) -> Self {
        self.answers.push((status, words, Content::Text(kind)));
        self
    }

    /// May be refused like this.
    pub(crate) fn problem(mut self, status: u16, code: &'static str) -> Self {
        self.problems.push((status, code));
        self
    }
}

/// The variable parts of a path: ids are numbers, everything else is a name.
fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| {
            let schema = match name {
                "id" => schema::id(),
                _ => json!({"type": "string", "minLength": 1}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect()
}

/// Routes of one resource, each with its description.
pub(crate) struct Routes {
    tag: &'static str,
    router: Router<App>,
    operations: Vec<Operation>,
}

impl Routes {
    /// None yet; `tag` is the heading they are listed under.
    pub(crate) fn new(tag: &'static str) -> Self {
        Self { tag, router: Router::new(), operations: Vec::new() }
    }

    /// Adds a route.
    pub(crate) fn add<H, T>(self, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        // Every method used here has a filter; another one would be met by the first start.
        let filter = MethodFilter::try_from(operation.method.clone()).unwrap_or(MethodFilter::GET);
        self.add_routed(operation, on(filter, handler))
    }

    fn add_routed(mut self, operation: Operation, routed: MethodRouter<App>) -> Self {
        self.router = self.router.route(operation.path, routed);
        self.described(operation)
    }

    /// Describes a route that another router serves.
    pub(crate) fn described(mut self, operation: Operation) -> Self {
        self.operations.push(Operation { tag: self.tag, ..operation });
        self
    }

    /// Takes in the routes of another resource.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// Puts something around the routes so far.
    pub(crate) fn map(mut self, layer: impl FnOnce(Router<App>) -> Router<App>) -> Self {
        self.router = layer(self.router);
        self
    }

    /// The routes, and what they do.
    pub(crate) fn split(self) -> (Router<App>, Vec<Operation>) {
        (self.router, self.operations)
    }
}
