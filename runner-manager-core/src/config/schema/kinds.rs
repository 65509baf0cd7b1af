//! The schemas of backends' kinds as parts of ours.

use serde_json::{Map, Value, json};

/// One of several schemas; where there is none, nothing.
pub(super) fn any_of(schemas: &[Value]) -> Value {
    if schemas.is_empty() { Value::Bool(false) } else { json!({"anyOf": schemas}) }
}

/// Adds a property of ours to the schema of a kind.
pub(super) fn add(schema: &mut Value, key: &str, property: Value, required: bool) {
    schema["properties"][key] = property;
    if required {
        match schema["required"].as_array_mut() {
            Some(keys) => keys.push(key.into()),
            None => schema["required"] = json!([key]),
        }
    }
}

/// A kind's schema as a part of ours: its definitions move to `defs` under names that begin with `prefix`.
pub(super) fn embed(mut schema: Value, prefix: &str, defs: &mut Map<String, Value>) -> Value {
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    rename_references(&mut schema, prefix);
    let own = schema.as_object_mut().and_then(|object| {
        object.remove("$schema");
        object.remove("$defs")
    });
    if let Some(Value::Object(own)) = own {
        defs.extend(own.into_iter().map(|(name, schema)| (format!("{prefix}-{name}"), schema)));
    }
    schema
}

fn rename_references(schema: &mut Value, prefix: &str) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(name) = target.strip_prefix("#/$defs/") {
                            *target = format!("#/$defs/{prefix}-{name}");
                        }
                    }
                    _ => rename_references(value, prefix),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_references(item, prefix)),
        _ => {}
    }
}
