//! Checks payloads against the schemas of octokit/webhooks.

use std::{collections::BTreeMap, fs};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use super::data;

/// The schemas of `workflow_job`, by action.
#[derive(Debug)]
pub struct WebhookSchemas(BTreeMap<&'static str, Validator>);

impl WebhookSchemas {
    /// Reads the schemas.
    pub fn load() -> Self {
        let actions = ["queued", "waiting", "in_progress", "completed"];
        Self(actions.into_iter().map(|action| (action, validator(action))).collect())
    }

    /// What is wrong with the payload of a `workflow_job` event.
    pub fn check(&self, payload: &Value) -> Vec<String> {
        let action = payload["action"].as_str().unwrap_or_default();
        let Some(validator) = self.0.get(action) else {
            return vec![format!("workflow_job has no action {action:?}")];
        };
        let found = validator.iter_errors(payload);
        found.map(|error| format!("{action}: {} at {}", error, error.instance_path())).collect()
    }
}

/// A real payload, by its file's name.
pub fn example(name: &str) -> Value {
    let path = data().join("webhook-examples").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("the examples are JSON")
}

fn validator(action: &str) -> Validator {
    let mut schema = inlined(&read(&format!("workflow_job/{action}.schema.json")));
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema");
    let options = jsonschema::options().with_draft(Draft::Draft7).should_validate_formats(true);
    options.build(&schema).expect("the schema is one")
}

fn read(name: &str) -> Value {
    let path = data().join("webhook-schemas").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("the schemas are JSON")
}

/// References name files in `common`, from within it without saying so.
fn inlined(schema: &Value) -> Value {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let file = reference.rsplit('/').next().expect("a split has a last part");
        return inlined(&read(&format!("common/{file}")));
    }
    match schema {
        Value::Object(object) => {
            let kept = object.iter().filter(|(key, _)| !["$id", "$schema"].contains(&key.as_str()));
            kept.map(|(key, value)| (key.clone(), inlined(value))).collect()
        }
        Value::Array(items) => items.iter().map(inlined).collect(),
        other => other.clone(),
    }
}
