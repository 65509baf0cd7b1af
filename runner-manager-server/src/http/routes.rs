//! The routes of `/api/v1`, in one table: it makes both the router and `/api/v1/openapi.json`, so that neither
//! has a route that the other lacks. The schemas of answers and requests come from their own types. The calls of machines
//! are described there, too, by a table of their [own](super::bootstrap).

use axum::Router;
use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, extract::DefaultBodyLimit};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::api::{self, EndedQuery, JobsQuery, RunnersQuery};
use super::operate::{self, GoOnRequest, Nothing, RetireRequest};
use super::{AppState, auth, bootstrap, events, in_time};
use crate::view::{
    Deployment, EndedRunner, GoOn, Group, Job, Listing, Queue, Retired, Runner, Status, Sweeps,
};

/// The largest body of a request that has the manager do something, in bytes.
const MAX_REQUEST: usize = 16 * 1024;

/// What every route may answer when it refuses, beside its own refusals.
const REFUSALS: [(u16, &str); 4] = [
    (400, "What was asked cannot be read"),
    (401, "No token, or one that is not known"),
    (403, "The token may only look; or there are no tokens and the caller is not this machine"),
    (503, "The store cannot work now"),
];

type DescribeType = fn(&mut SchemaGenerator) -> Schema;

/// One route.
struct Route {
    path: &'static str,
    handler: MethodRouter<AppState>,
    /// Whether it has the manager do something, which a viewer may not.
    acts: bool,
    summary: &'static str,
    query: Option<DescribeType>,
    request: Option<DescribeType>,
    answer: DescribeType,
    /// The media type of the answer.
    media: &'static str,
    refusals: Vec<(u16, &'static str)>,
}

impl Route {
    fn looks<A: JsonSchema>(
        path: &'static str,
        handler: MethodRouter<AppState>,
        summary: &'static str,
    ) -> Self {
        Self {
            path,
            handler,
            acts: false,
            summary,
            query: None,
            request: None,
            answer: SchemaGenerator::subschema_for::<A>,
            media: "application/json",
            refusals: Vec::new(),
        }
    }

    fn acts<R: JsonSchema, A: JsonSchema>(
        path: &'static str,
        handler: MethodRouter<AppState>,
        summary: &'static str,
    ) -> Self {
        let request: DescribeType = SchemaGenerator::subschema_for::<R>;
        let refusals = vec![(415, "The content type is not application/json")];
        Self { acts: true, request: Some(request), refusals, ..Self::looks::<A>(path, handler, summary) }
    }

    fn with_query<Q: JsonSchema>(mut self) -> Self {
        self.query = Some(SchemaGenerator::subschema_for::<Q>);
        self
    }

    fn refuses(mut self, status: u16, when: &'static str) -> Self {
        self.refusals.push((status, when));
        self
    }
}

/// All of them.
fn table() -> Vec<Route> {
    let group = "No such group";
    vec![
        Route::looks::<Status>("/api/v1/status", get(api::status), "How everything is, at a glance"),
        Route::looks::<Listing<Group>>("/api/v1/groups", get(api::groups), "All groups, by name"),
        Route::acts::<Nothing, Group>(
            "/api/v1/groups/{name}/drain",
            post(operate::drain),
            "Has a group make no new runners: idle ones go, busy ones finish, waiting jobs go to other groups",
        )
        .refuses(404, group),
        Route::acts::<Nothing, Group>(
            "/api/v1/groups/{name}/resume",
            post(operate::resume),
            "Ends a drain that an operator asked for",
        )
        .refuses(404, group),
        Route::looks::<Listing<Runner>>(
            "/api/v1/runners",
            get(api::runners),
            "Runners by name, or those of one state, the longest in it first",
        )
        .with_query::<RunnersQuery>(),
        Route::acts::<RetireRequest, Retired>(
            "/api/v1/runners/{name}/retire",
            post(operate::retire),
            "Has a runner go: an idle one in order, a busy one only with force, which kills its job",
        )
        .refuses(404, "No such runner")
        .refuses(409, "It runs a job, or its backend is being asked for its instance"),
        Route::looks::<Listing<EndedRunner>>(
            "/api/v1/ended-runners",
            get(api::ended_runners),
            "The runners that ended last, newest first",
        )
        .with_query::<EndedQuery>(),
        Route::looks::<Listing<Job>>(
            "/api/v1/jobs",
            get(api::jobs),
            "Jobs, those first heard of last first, each with why it waits",
        )
        .with_query::<JobsQuery>(),
        Route::looks::<Job>("/api/v1/jobs/{id}", get(api::job), "One job, with why it waits")
            .refuses(404, "No such job is on record"),
        Route::looks::<Queue>("/api/v1/queue", get(api::queue), "How the queue of background work fares"),
        Route::looks::<Deployment>("/api/v1/deployment", get(api::deployment), "What the replicas share"),
        Route::looks::<Sweeps>(
            "/api/v1/sweeps",
            get(api::sweeps),
            "What sweeps found and left as it is, and what operators said to that",
        ),
        Route::acts::<GoOnRequest, GoOn>(
            "/api/v1/sweeps/go-on",
            post(operate::go_on),
            "Has a sweep go on that stopped because it would condemn too much, with the findings of a mark",
        )
        .refuses(404, "No sweep of that has stopped")
        .refuses(409, "It found something else meanwhile, or it is a dry run"),
        Route::looks::<Value>("/api/v1/openapi.json", get(openapi), "This description"),
    ]
}

/// What streams: it takes as long as the listener stays.
fn stream() -> Route {
    let summary = "Server-sent events: a `snapshot` whenever something changed";
    let route = Route::looks::<String>("/api/v1/events", get(events::stream), summary);
    Route { media: "text/event-stream", ..route }
}

/// The router of all of them. Who may ask at all is decided around it.
pub(super) fn router(state: &AppState) -> Router<AppState> {
    let routes = |acts: bool| {
        table()
            .into_iter()
            .filter(move |route| route.acts == acts)
            .fold(Router::new(), |router, route| router.route(route.path, route.handler))
    };
    let acting = routes(true)
        .route_layer(axum::middleware::from_fn(auth::may_act))
        .layer(DefaultBodyLimit::max(MAX_REQUEST));
    let stream = stream();
    routes(false)
        .merge(acting)
        .route_layer(from_fn_with_state(state.clone(), in_time))
        .route(stream.path, stream.handler)
}

/// `GET /api/v1/openapi.json`.
async fn openapi(State(_): State<AppState>) -> Response {
    Json(document()).into_response()
}

/// The description of all of them, in `OpenAPI` 3.1.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    // What is sent has all its fields; of what is asked, some may be left out.
    let mut answers = settings.clone().for_serialize().into_generator();
    let mut requests =
        settings.with(|settings| settings.inline_subschemas = true).for_deserialize().into_generator();
    let mut paths = bootstrap::paths();
    for route in table().into_iter().chain([stream()]) {
        let method = if route.acts { "post" } else { "get" };
        paths.insert(route.path.to_owned(), json!({method: operation(&route, &mut answers, &mut requests)}));
    }
    let refused = json!({
        "description": "The body of every refusal.",
        "type": "object",
        "properties": {"error": {"description": "What is wrong, and what to do.", "type": "string"}},
        "required": ["error"],
    });
    let mut schemas = answers.take_definitions(true);
    schemas.insert("Refused".to_owned(), refused);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Runner Manager",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What goes on in a deployment, and what operators may do. New fields may come; none goes \
                            or changes its meaning within v1. Requests that do something need a token with the role \
                            admin. Below /bootstrap/v1 is what machines call.",
        },
        "security": [{"token": []}, {"password": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic"},
                bootstrap::SECURITY: {
                    "type": "http", "scheme": "bearer",
                    "description": "The token of one runner's machine, which is good for the calls of that runner alone.",
                },
            },
        },
    })
}

fn operation(route: &Route, answers: &mut SchemaGenerator, requests: &mut SchemaGenerator) -> Value {
    let mut parameters = path_parameters(route.path);
    if let Some(query) = route.query {
        parameters.extend(query_parameters(&query(requests)));
    }
    let mut responses = Map::new();
    let answer = (route.answer)(answers);
    responses.insert(
        "200".to_owned(),
        json!({"description": route.summary, "content": {route.media: {"schema": answer}}}),
    );
    for (status, when) in REFUSALS.iter().chain(&route.refusals) {
        let schema = json!({"$ref": "#/components/schemas/Refused"});
        let refused = json!({"description": when, "content": {"application/json": {"schema": schema}}});
        responses.insert(status.to_string(), refused);
    }
    let mut operation = json!({"summary": route.summary, "parameters": parameters, "responses": responses});
    if let Some(request) = route.request {
        let schema = request(requests);
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    operation
}

/// What stands in braces in a path.
fn path_parameters(path: &str) -> Vec<Value> {
    let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    named
        .map(|name| {
            let schema = if name == "id" {
                json!({"type": "integer", "minimum": 0})
            } else {
                json!({"type": "string"})
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect()
}

/// The fields of a query's type.
fn query_parameters(query: &Schema) -> Vec<Value> {
    let fields = query.get("properties").and_then(Value::as_object);
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        json!({"name": name, "in": "query", "required": false, "description": description, "schema": schema})
    };
    fields.into_iter().flatten().map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::{bootstrap, document, stream, table};

    /// All references of the document, wherever they stand.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document();
        let described: BTreeSet<&str> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let calls = bootstrap::paths();
        let routes = table().into_iter().chain([stream()]).map(|route| route.path);
        assert_eq!(described, routes.chain(calls.keys().map(String::as_str)).collect());
    }

    #[test]
    fn what_it_refers_to_is_there_and_named_as_openapi_wants() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 10, "{found:?}");
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").expect("it is a schema of ours");
            assert!(document["components"]["schemas"][name].is_object(), "{name} is missing");
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            assert!(name.chars().all(allowed), "{name} is no name for OpenAPI");
        }
    }

    #[test]
    fn nothing_in_it_has_a_place_for_a_secret() {
        let text = document()["components"]["schemas"].to_string();
        for word in ["\"token\"", "\"secret", "private_key", "jit_config", "password"] {
            assert!(!text.contains(word), "{word}");
        }
    }
}
