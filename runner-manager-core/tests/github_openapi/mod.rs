//! Checks requests and answers against GitHub's published description of its REST API
//! (`tests/data/github/openapi-extract.json` and its supplement), and payloads against its webhook schemas. Stricter than the
//! schemas: a field or query parameter that they do not declare is a fault, so that neither our client nor
//! the simulator relies on what GitHub does not promise.
//!
//! For any test crate: `mod github_openapi;`, or by `#[path]` from another package.
#![allow(dead_code, unreachable_pub, reason = "shared by test crates, each of which uses a part of it")]

pub mod webhooks;

use std::{collections::BTreeMap, fs, path::PathBuf};

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

/// Statuses that any route may answer with although GitHub does not declare them for each: bad credentials,
/// a rate limit, what is not there, an outage.
const UNDECLARED: [u16; 7] = [401, 403, 404, 429, 500, 502, 503];

/// What GitHub answers to one operation although it does not declare it: a name of a runner group that is taken.
const TAKEN: [&str; 2] = [
    "409 of POST /orgs/{org}/actions/runner-groups",
    "409 of POST /enterprises/{enterprise}/actions/runner-groups",
];

/// Where the test data is, from whatever package this file is used in.
pub fn data() -> PathBuf {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let workspace = file.parent().expect("packages are directories of the workspace");
    workspace.join("runner-manager-core/tests/data/github")
}

/// GitHub's description, ready to check by.
#[derive(Debug)]
pub struct OpenApi {
    document: Value,
    validators: BTreeMap<String, Validator>,
}

impl OpenApi {
    /// Reads the description.
    pub fn load() -> Self {
        let [mut document, supplement] = ["openapi-extract.json", "openapi-supplement.json"].map(|name| {
            let text = fs::read_to_string(data().join(name)).expect("the description is checked in");
            serde_json::from_str::<Value>(&text).expect("the description is JSON")
        });
        let paths = document["paths"].as_object_mut().expect("an OpenAPI document has paths");
        paths.extend(supplement["paths"].as_object().expect("and so has the supplement").clone());
        Self { document, validators: BTreeMap::new() }
    }

    /// All operations, as in `GET /orgs/{org}/actions/runners`.
    pub fn operations(&self) -> Vec<String> {
        let paths = self.document["paths"].as_object().expect("an OpenAPI document has paths");
        let methods = |item: &Value| item.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        paths
            .iter()
            .flat_map(|(path, item)| methods(item).into_iter().map(move |method| (method, path)))
            .map(|(method, path)| format!("{} {path}", method.to_uppercase()))
            .collect()
    }

    /// The operation that a request is of, as in [`operations`](Self::operations).
    pub fn operation(&self, method: &str, path: &str) -> Option<String> {
        let path = self.template(method, path)?;
        Some(format!("{method} {path}"))
    }

    /// What is wrong with a request: its path, method, path and query parameters, and body.
    pub fn check_request(&mut self, method: &str, path_and_query: &str, body: &[u8]) -> Vec<String> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let Some(template) = self.template(method, path) else {
            return vec![format!("GitHub does not describe {method} {path}")];
        };
        let operation = self.document["paths"][&template][method.to_lowercase()].clone();
        let mut faults = self.check_query(&operation, query);
        let declared = &operation["requestBody"];
        let schema = &declared["content"]["application/json"]["schema"];
        if schema.is_null() {
            if !body.is_empty() && body != b"{}" {
                faults.push(format!("{method} {template} takes no body"));
            }
        } else if body.is_empty() {
            if declared["required"] == true {
                faults.push(format!("{method} {template} needs a body"));
            }
        } else {
            let key = format!("request {method} {template}");
            let found = self.check_json(&key, schema, body);
            faults.extend(found.into_iter().map(|fault| format!("{key}: {fault}")));
        }
        faults
    }

    /// What is wrong with an answer: its status and its body.
    pub fn check_answer(&mut self, method: &str, path: &str, status: u16, body: &[u8]) -> Vec<String> {
        let path = path.split('?').next().unwrap_or(path);
        let Some(template) = self.template(method, path) else {
            return if status == 404 {
                self.check_error(body)
            } else {
                vec![format!("{status} for {method} {path}, which GitHub does not describe")]
            };
        };
        let declared = &self.document["paths"][&template][method.to_lowercase()]["responses"];
        let response = self.resolved(&declared[status.to_string()]);
        let key = format!("{status} of {method} {template}");
        if response.is_null() {
            return match status {
                304 if body.is_empty() => Vec::new(),
                _ if UNDECLARED.contains(&status) || TAKEN.contains(&&*key) => self.check_error(body),
                _ => vec![format!("{key} is not declared")],
            };
        }
        let schema = &response["content"]["application/json"]["schema"];
        if schema.is_null() {
            return if body.is_empty() { Vec::new() } else { vec![format!("{key} has no body")] };
        }
        let faults = self.check_json(&key, schema, body);
        faults.into_iter().map(|fault| format!("{key}: {fault}")).collect()
    }

    fn check_error(&mut self, body: &[u8]) -> Vec<String> {
        self.check_json("basic-error", &json!({"$ref": "#/components/schemas/basic-error"}), body)
    }

    fn check_query(&self, operation: &Value, query: &str) -> Vec<String> {
        let declared = operation["parameters"].as_array().cloned().unwrap_or_default();
        let declared: Vec<Value> = declared.iter().map(|one| self.resolved(one)).collect();
        let mut faults = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let parameter = declared.iter().find(|one| one["in"] == "query" && one["name"] == name);
            let Some(parameter) = parameter else {
                faults.push(format!("query parameter {name} is not declared"));
                continue;
            };
            let schema = &parameter["schema"];
            let typed = schema["type"] != "integer" || value.parse::<i64>().is_ok();
            let listed = schema["enum"].as_array().is_none_or(|words| words.contains(&json!(value)));
            if !typed || !listed {
                faults.push(format!("query parameter {name} may not be {value:?}"));
            }
        }
        faults
    }

    fn check_json(&mut self, key: &str, schema: &Value, body: &[u8]) -> Vec<String> {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            return vec![format!("not JSON: {:?}", String::from_utf8_lossy(body))];
        };
        if !self.validators.contains_key(key) {
            let mut strict = self.strict(schema, true);
            strict["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
            let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
            let validator = options.build(&strict).expect("the converted schema is a schema");
            self.validators.insert(key.to_owned(), validator);
        }
        let found = self.validators[key].iter_errors(&value);
        found.map(|error| format!("{} at {}", error, error.instance_path())).collect()
    }

    /// The described path that a path is of: literal segments win over parameters, and parameters that are
    /// integers take only digits.
    fn template(&self, method: &str, path: &str) -> Option<String> {
        let path = path.strip_prefix("/api/v3").unwrap_or(path);
        let segments: Vec<&str> = path.split('/').collect();
        let paths = self.document["paths"].as_object().expect("an OpenAPI document has paths");
        let has_method = |item: &Value| item.get(method.to_lowercase()).is_some();
        paths
            .iter()
            .filter(|(_, item)| has_method(item))
            .filter(|(template, _)| fits(template, &segments))
            .min_by_key(|(template, _)| template.matches('{').count())
            .map(|(template, _)| template.clone())
    }

    fn resolved(&self, value: &Value) -> Value {
        match value.get("$ref").and_then(Value::as_str) {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').expect("references are within the document");
                self.resolved(self.document.pointer(pointer).expect("every reference resolves"))
            }
            None => value.clone(),
        }
    }

    /// The schema in draft 2020-12: references resolved, `nullable` spelled out, undeclared fields refused.
    /// Branches of a combination are left open, the schema that combines them is not.
    fn strict(&self, schema: &Value, close: bool) -> Value {
        let Value::Object(schema) = self.resolved(schema) else { return schema.clone() };
        let mut strict = Map::new();
        let mut combines = false;
        for (key, value) in &schema {
            let value = match key.as_str() {
                "properties" => {
                    let properties = value.as_object().expect("properties are an object");
                    properties.iter().map(|(name, one)| (name.clone(), self.strict(one, true))).collect()
                }
                "items" => self.strict(value, true),
                "allOf" | "anyOf" | "oneOf" => {
                    combines = true;
                    let branches = value.as_array().expect("branches are an array");
                    branches.iter().map(|one| self.strict(one, false)).collect()
                }
                "type"
                | "required"
                | "enum"
                | "format"
                | "minItems"
                | "maxItems"
                | "minLength"
                | "maxLength"
                | "pattern"
                | "minimum"
                | "maximum"
                | "additionalProperties" => value.clone(),
                _ => continue,
            };
            strict.insert(key.clone(), value);
        }
        let open = strict.contains_key("additionalProperties");
        if close && !open && (combines || strict.contains_key("properties")) {
            strict.insert("unevaluatedProperties".to_owned(), json!(false));
        }
        if schema.get("nullable") == Some(&json!(true)) { nullable(strict) } else { Value::Object(strict) }
    }
}

fn nullable(mut schema: Map<String, Value>) -> Value {
    // The description of installations demands of an account that it be a user and an enterprise at once.
    if let Some(branches) = schema.remove("allOf") {
        schema.insert("anyOf".to_owned(), branches);
    }
    json!({"anyOf": [{"type": "null"}, schema]})
}

fn fits(template: &str, segments: &[&str]) -> bool {
    let wanted: Vec<&str> = template.split('/').collect();
    let fits = |(wanted, given): (&&str, &&str)| match wanted.strip_prefix('{') {
        Some(name) if name.ends_with("_id}") => given.parse::<u64>().is_ok(),
        Some(_) => !given.is_empty(),
        None => wanted == given,
    };
    wanted.len() == segments.len() && wanted.iter().zip(segments).all(fits)
}
