//! The conformance suite of [`BackendKind`]. It connects to nothing.
//!
//! ```
//! use runner_manager_core::testing::conformance::backend_kind::{Subject, cases};
//! use runner_manager_core::testing::conformance::run;
//!
//! # async fn example(kind: std::sync::Arc<dyn runner_manager_core::backend::BackendKind>) {
//! run(cases(), &[], || async {
//!     Subject {
//!         kind: kind.clone(),
//!         backend: serde_json::json!({"region": "eu"}),
//!         placement: serde_json::json!({"zones": ["a", "b"], "image": "x"}),
//!         expanded: vec![
//!             serde_json::json!({"zones": "a", "image": "x"}),
//!             serde_json::json!({"zones": "b", "image": "x"}),
//!         ],
//!         faulty_backend: (serde_json::json!({"regoin": "eu", "port": "x"}), vec!["port", "regoin"]),
//!         faulty_placement: (serde_json::json!({"zones": ["a", 1], "imgae": "x"}), vec!["imgae", "zones.1"]),
//!     }
//! })
//! .await;
//! # }
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::Case;
use crate::backend::{BackendKind, SettingsFault};

/// What an implementation lends to the cases.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The kind.
    pub kind: Arc<dyn BackendKind>,
    /// Settings of a backend that are right.
    pub backend: Value,
    /// Settings of a placement that are right and have a list.
    pub placement: Value,
    /// What they expand to, in order: at least two.
    pub expanded: Vec<Value>,
    /// Settings of a backend with at least two faults, and the path of each, joined by dots.
    pub faulty_backend: (Value, Vec<&'static str>),
    /// Settings of a placement with at least two faults, and the path of each, joined by dots.
    pub faulty_placement: (Value, Vec<&'static str>),
}

/// The cases, by the names of [`BackendKind`]'s *Behaviour*.
pub fn cases() -> Vec<Case<Subject>> {
    vec![
        case("kind_is_a_word", kind_is_a_word),
        case("schemas_describe_objects", schemas_describe_objects),
        case("placements_are_expanded", placements_are_expanded),
        case("every_fault_is_told", every_fault_is_told),
    ]
}

fn case(name: &'static str, body: fn(&Subject)) -> Case<Subject> {
    Case::new(name, move |subject: Subject| async move { body(&subject) })
}

fn kind_is_a_word(subject: &Subject) {
    let kind = subject.kind.kind();
    assert!(!kind.is_empty() && kind.chars().all(|c| c.is_ascii_lowercase()), "{kind:?} is not a word");
}

/// Of objects that refuse unknown keys, and with a description of every key.
fn schemas_describe_objects(subject: &Subject) {
    for (what, schema) in
        [("backend", subject.kind.backend_schema()), ("placement", subject.kind.placement_schema())]
    {
        let schema = schema.to_value();
        assert_eq!(schema["type"], "object", "the schema of a {what} is not an object's");
        assert_eq!(schema["additionalProperties"], false, "the schema of a {what} takes unknown keys");
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let described = property["description"].as_str().is_some_and(|text| !text.is_empty());
            assert!(described, "{key} of a {what} is not described");
        }
    }
}

/// And each of them expands to itself alone.
fn placements_are_expanded(subject: &Subject) {
    assert!(subject.expanded.len() >= 2, "the subject's placement has no list");
    let placements = subject.kind.placements(&subject.placement).expect("the placement is right");
    let settings: Vec<&Value> = placements.iter().map(|placement| &placement.settings).collect();
    let one_set = |expected: &Value, got: &Value| {
        let expected = expected.as_object().expect("settings are an object");
        expected.iter().all(|(key, value)| got.get(key) == Some(value))
    };
    assert_eq!(settings.len(), subject.expanded.len(), "{settings:?}");
    for (expected, got) in subject.expanded.iter().zip(&settings) {
        assert!(one_set(expected, got), "expected {expected}, got {got}");
    }
    let descriptions: BTreeSet<&str> =
        placements.iter().map(|placement| placement.description.as_str()).collect();
    assert_eq!(descriptions.len(), placements.len(), "descriptions do not tell the placements apart");
    for placement in &placements {
        let again = subject.kind.placements(&placement.settings).expect("an expanded placement is right");
        assert_eq!(again, std::slice::from_ref(placement), "an expanded placement expands again");
    }
}

fn every_fault_is_told(subject: &Subject) {
    subject.kind.check(&subject.backend).expect("the backend's settings are right");
    let (settings, expected) = &subject.faulty_backend;
    told(&subject.kind.check(settings).expect_err("faulty settings are refused"), expected);
    let (settings, expected) = &subject.faulty_placement;
    told(&subject.kind.placements(settings).expect_err("a faulty placement is refused"), expected);
}

fn told(faults: &[SettingsFault], expected: &[&str]) {
    assert!(expected.len() >= 2, "the subject's settings have fewer than two faults");
    let paths: BTreeSet<String> = faults.iter().map(|fault| fault.path.join(".")).collect();
    assert_eq!(paths, expected.iter().map(ToString::to_string).collect(), "{faults:?}");
    assert!(faults.iter().all(|fault| !fault.message.is_empty()), "a fault without a message: {faults:?}");
}
