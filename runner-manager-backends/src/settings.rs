//! Reads a backend's settings into types of its own, and tells all faults at once.
//!
//! serde stops at the first fault. [`read`] notes it, takes the faulty part out and reads again, until
//! nothing is left to complain of. What the settings mean is each backend's own affair.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use runner_manager_core::backend::{BackendError, BackendErrorKind, SettingsFault};
use runner_manager_core::budget::Rate;
use runner_manager_core::domain::Secret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_path_to_error::Segment;

/// More faults than this are not told at once: nobody reads them.
const MOST_FAULTS: usize = 50;

/// Reads `settings` as a `T`.
///
/// A type whose keys are all optional (a serde default each) has every fault told; where a required key is
/// missing, serde goes no further in that object.
///
/// # Errors
/// All faults, each with the path from the root of `settings`.
///
/// ```
/// use runner_manager_backends::settings::read;
/// use serde::Deserialize;
///
/// #[derive(Debug, Default, Deserialize)]
/// #[serde(default, deny_unknown_fields)]
/// struct Settings {
///     host: String,
///     ports: Vec<u16>,
/// }
///
/// let wrong = serde_json::json!({"hots": "a", "ports": [80, "http", 1]});
/// let faults = read::<Settings>(&wrong).unwrap_err();
/// assert_eq!(faults[0].path, ["hots"]);
/// assert_eq!(faults[1].path, ["ports", "1"]);
/// ```
pub fn read<T: DeserializeOwned>(settings: &Value) -> Result<T, Vec<SettingsFault>> {
    let mut rest = settings.clone();
    let mut reader = Reader::default();
    loop {
        match serde_path_to_error::deserialize::<_, T>(&rest) {
            Ok(read) if reader.faults.is_empty() => return Ok(read),
            Ok(_) => return Err(reader.faults),
            Err(error) => {
                if !reader.note(&mut rest, &error) || reader.faults.len() >= MOST_FAULTS {
                    return Err(reader.faults);
                }
            }
        }
    }
}

/// A fault at a path of keys.
pub fn fault<const N: usize>(path: [&str; N], message: impl Into<String>) -> SettingsFault {
    SettingsFault { path: path.map(str::to_owned).into(), message: message.into() }
}

/// The error of an operation that found its settings faulty. They were checked before, so that this tells of a
/// configuration that was changed behind the manager's back.
pub(crate) fn refused(operation: &'static str, faults: &[SettingsFault]) -> BackendError {
    let told: Vec<String> =
        faults.iter().map(|fault| format!("{}: {}", fault.path.join("."), fault.message)).collect();
    BackendError::new(BackendErrorKind::InvalidConfig, operation, told.join("; "))
}

/// A setting that is one value or a list of them: a list makes one placement of each.
///
/// It reads from either; an empty list is refused, because it would make no placement at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMany(Vec<String>);

impl OneOrMany {
    /// The values, in the user's order; never empty.
    pub fn values(&self) -> &[String] {
        &self.0
    }
}

impl From<&str> for OneOrMany {
    fn from(value: &str) -> Self {
        Self(vec![value.to_owned()])
    }
}

impl Serialize for OneOrMany {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::from(value))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                if values.is_empty() {
                    return Err(serde::de::Error::custom("an empty list makes no placement"));
                }
                Ok(OneOrMany(values))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl schemars::JsonSchema for OneOrMany {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ]
        })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// How many calls may be begun in any period of a length: `{calls: 3, per: 2s}`, as elsewhere in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// How many calls, from 1 to 20000.
    pub calls: u32,
    /// In any period of this length. From 1s to 1h.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub per: Duration,
}

impl RateConfig {
    /// What is wrong with it, where it stands under a key.
    pub fn faults(&self, key: &str) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        if !(1..=Rate::MOST_CALLS).contains(&self.calls) {
            faults.push(fault([key, "calls"], format!("must be from 1 to {}", Rate::MOST_CALLS)));
        }
        if !(Duration::from_secs(1)..=Duration::from_hours(1)).contains(&self.per) {
            faults.push(fault([key, "per"], "must be from 1s to 1h"));
        }
        faults
    }
}

impl From<RateConfig> for Rate {
    fn from(config: RateConfig) -> Self {
        Self { calls: config.calls, per: config.per }
    }
}

/// Where a secret of a backend comes from: a text, `{env: NAME}` or `{file: PATH}`, as elsewhere in the
/// configuration. A relative path begins at the working folder of the process.
///
/// ```
/// use runner_manager_backends::settings::SecretSource;
///
/// let source: SecretSource = serde_json::from_value(serde_json::json!("hunter2"))?;
/// assert_eq!(format!("{source:?}"), "a text");
/// assert_eq!(source.resolve()?.expose(), "hunter2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected a text, {env: NAME} or {file: PATH}")]
pub enum SecretSource {
    /// The secret itself.
    Text(String),
    /// The name of an environment variable that holds it.
    Variable {
        /// The variable.
        env: String,
    },
    /// The path of a file that holds it; a line break at its end is no part of it.
    File {
        /// The file.
        file: std::path::PathBuf,
    },
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("a text"),
            Self::Variable { env } => write!(f, "environment variable {env}"),
            Self::File { file } => write!(f, "file {}", file.display()),
        }
    }
}

impl SecretSource {
    /// The secret.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn resolve(&self) -> Result<Secret, String> {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::Variable { env } => std::env::var(env)
                .map_err(|_| format!("the environment variable {env} is not set, or no text"))?,
            Self::File { file } => std::fs::read_to_string(file)
                .map_err(|error| format!("{}: {error}", file.display()))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
        };
        if text.is_empty() { Err("is empty".to_owned()) } else { Ok(Secret::new(text)) }
    }
}

/// The faults so far, and where the parts that were taken out of lists stood.
#[derive(Default)]
struct Reader {
    faults: Vec<SettingsFault>,
    told: BTreeSet<Vec<String>>,
    taken: BTreeMap<Vec<String>, usize>,
}

impl Reader {
    /// Notes one fault and takes what is faulty out of `rest`; false where nothing could be taken out.
    fn note(&mut self, rest: &mut Value, error: &serde_path_to_error::Error<serde_json::Error>) -> bool {
        let message = error.inner().to_string();
        let mut now: Vec<String> = error.path().iter().filter_map(key).collect();
        if let Some(unknown) = unknown_key(&message)
            && now.last().map(String::as_str) != Some(unknown)
        {
            now.push(unknown.to_owned());
        }
        let original = self.original(&now, rest);
        // An object that lost a faulty part may be refused for that alone, which would be no news.
        let follows = self.told.iter().any(|told| told.starts_with(&original));
        if !follows {
            self.faults.push(SettingsFault { path: original.clone(), message });
        }
        self.told.insert(original);
        self.take_out(rest, &now)
    }

    /// Where a path of what is left stood in what the user wrote.
    fn original(&self, now: &[String], rest: &Value) -> Vec<String> {
        let mut original: Vec<String> = Vec::new();
        let mut at = Some(rest);
        for step in now {
            let shifted = match (at, step.parse::<usize>()) {
                (Some(Value::Array(_)), Ok(index)) => {
                    (index + self.taken.get(&original).copied().unwrap_or(0)).to_string()
                }
                _ => step.clone(),
            };
            at = at.and_then(|value| child(value, step));
            original.push(shifted);
        }
        original
    }

    fn take_out(&mut self, rest: &mut Value, path: &[String]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let place = self.original(parents, rest);
        let parent = parents.iter().try_fold(rest, |value, step| child_mut(value, step));
        match parent {
            Some(Value::Object(object)) => object.remove(last).is_some(),
            Some(Value::Array(array)) => match last.parse::<usize>() {
                Ok(index) if index < array.len() => {
                    array.remove(index);
                    *self.taken.entry(place).or_default() += 1;
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }
}

fn key(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { variant } => Some(variant.clone()),
        Segment::Unknown => None,
    }
}

/// The key that serde's message calls unknown.
fn unknown_key(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

fn child<'a>(value: &'a Value, step: &str) -> Option<&'a Value> {
    match value {
        Value::Array(array) => array.get(step.parse::<usize>().ok()?),
        _ => value.get(step),
    }
}

fn child_mut<'a>(value: &'a mut Value, step: &str) -> Option<&'a mut Value> {
    match value {
        Value::Array(array) => array.get_mut(step.parse::<usize>().ok()?),
        _ => value.get_mut(step),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use serde::Deserialize;
    use serde_json::json;

    use runner_manager_core::backend::SettingsFault;
    use runner_manager_core::budget::Rate;

    use super::{OneOrMany, RateConfig, SecretSource, read};

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Outer {
        _name: Option<String>,
        zones: Option<OneOrMany>,
        inner: Vec<Inner>,
        map: BTreeMap<String, u32>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        count: u32,
    }

    fn paths(settings: &serde_json::Value) -> Vec<String> {
        read::<Outer>(settings).unwrap_err().into_iter().map(|fault| fault.path.join(".")).collect()
    }

    #[test]
    fn tells_every_fault_where_the_user_wrote_it() {
        let wrong = json!({
            "nmae": "x",
            "zones": ["a", 1, "b", 2],
            "inner": [{"count": 1}, 5, {"cuont": 1, "count": "x"}, {"count": -1}],
            "map": {"a": 1, "b": "c"},
        });
        assert_eq!(
            paths(&wrong),
            [
                "inner.1",
                "inner.2.count",
                "inner.2.cuont",
                "inner.3.count",
                "map.b",
                "nmae",
                "zones.1",
                "zones.3"
            ]
        );
    }

    #[test]
    fn secrets_come_from_texts_variables_and_files() {
        let source = |settings| serde_json::from_value::<SecretSource>(settings);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file\n").unwrap();
        let read = source(json!({"file": file.path()})).unwrap().resolve().unwrap();
        assert_eq!(read.expose(), "from a file");
        let path = source(json!({"env": "PATH"})).unwrap().resolve().unwrap();
        assert_eq!(path.expose(), std::env::var("PATH").unwrap());
        for unresolved in [json!(""), json!({"env": "NO_SUCH_VARIABLE"}), json!({"file": "/no/such/file"})] {
            assert!(source(unresolved.clone()).unwrap().resolve().is_err(), "{unresolved}");
        }
        assert!(source(json!(5)).unwrap_err().to_string().contains("{env: NAME}"));
        assert!(!format!("{:?}", source(json!("hush"))).contains("hush"));
    }

    #[test]
    fn rates_are_as_they_are_elsewhere_in_the_configuration() {
        let read = |settings| read::<RateConfig>(&settings);
        let rate = read(json!({"calls": 20_000, "per": "1m 30s"})).unwrap();
        assert_eq!(Rate::from(rate), Rate { calls: 20_000, per: Duration::from_secs(90) });
        assert_eq!(rate.faults("rate"), []);
        let told = |faults: Vec<SettingsFault>| -> Vec<String> {
            faults.iter().map(|fault| format!("{} {}", fault.path.join("."), fault.message)).collect()
        };
        let wrong = read(json!({"calls": 0, "per": "2h"})).unwrap().faults("rate");
        assert_eq!(told(wrong), ["rate.calls must be from 1 to 20000", "rate.per must be from 1s to 1h"]);
        for (wrong, word) in
            [(json!({"calls": 1}), "per"), (json!({"calls": 1, "per": 2}), "per"), (json!(5), "RateConfig")]
        {
            let told = told(read(wrong.clone()).unwrap_err());
            assert!(told[0].contains(word), "{wrong}: {told:?}");
        }
    }

    #[test]
    fn what_is_no_object_is_one_fault_at_the_root() {
        assert_eq!(paths(&json!("x")), [""]);
        assert_eq!(paths(&json!({"zones": []})), ["zones"]);
    }

    #[test]
    fn reads_what_is_right() {
        let right = read::<Outer>(&json!({"zones": "a", "inner": [{"count": 3}]})).unwrap();
        assert_eq!(right.zones.unwrap().values(), ["a"]);
        assert_eq!((right.inner[0].count, right.map.len()), (3, 0));
    }
}
