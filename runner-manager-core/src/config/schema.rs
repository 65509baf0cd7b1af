//! The JSON Schema of the configuration file, for editors: what the readers take, with meanings and defaults.
//!
//! The parts of backends and placements are composed from the schemas of the kinds. What concerns several
//! values (`min_idle` and `max`, a backend's name in a placement) only the readers know.

mod kinds;

use serde_json::{Map, Value, json};

use self::kinds::{add, any_of, embed};
use super::duration::{
    CALL_TIMEOUT, CONNECT_TIMEOUT, DurationKey, LEASE, RATE_PERIOD, RECOVER_INTERVAL, REDELIVER_INTERVAL,
    RESPONSE_TIMEOUT, SWEEP_INTERVAL, friendly, limit_keys,
};
use super::github::{CONNECTION_KEYS, CONNECTIONS, DEFAULT_API_URL, MAX_APPS};
use super::groups::{MAX_LABELS, MAX_PLACEMENTS, MAX_TAGS, PROCESSORS, SYSTEMS};
use super::server::{MAX_WEBHOOK_SECRETS, ROLES};
use super::services::{BOOTSTRAPS, DEFAULT_STORE_PATH, MAX_CONCURRENCY, STORES};
use super::{BALANCES, BackendSettings, GitHubSettings, MIN_SECRET_LENGTH, Server, github_groups};
use crate::backend::BackendRegistry;
use crate::budget::Rate;
use crate::domain::{BackendName, Bounds, ConnectionName, DeploymentName, GroupName, Label};

const NAME_PATTERN: &str = "^[a-z]([a-z0-9-]*[a-z0-9])?$";

/// The JSON Schema (2020-12) of the file that [`read`](super::read) takes, with the kinds of `registry`.
pub fn schema(registry: &BackendRegistry) -> Value {
    let mut defs = Map::new();
    defs.insert("secret".into(), secret_definition());
    defs.insert("duration".into(), json!({"type": "string", "examples": ["90s", "10m", "12h", "1h30m"]}));
    let backends = backends(registry, &mut defs);
    let groups = json!({
        "description": "The groups that runners are made from.",
        "type": "array",
        "items": group(&placement(registry, &mut defs)),
    });
    let mut root = object(
        "The configuration of Runner Manager.",
        &["name", "secret_key", "server", "github", "backends", "runner_groups"],
        vec![
            (
                "name",
                name(
                    "The deployment's name: half of the owner mark on all that it makes, and the beginning of \
                     its runners' names. Together with a group's name at most 48 characters.",
                    DeploymentName::MAX_LENGTH,
                ),
            ),
            (
                "secret_key",
                made_up_secret(
                    "Signs the tokens of starting instances; its fingerprint is the other half of the owner \
                     mark. All replicas have the same one.",
                ),
            ),
            ("server", server()),
            ("store", store()),
            ("github", github()),
            ("backends", backends),
            ("runner_groups", groups),
            (
                "balance",
                word(
                    "Which of several groups that serve a job equally well takes it: `pack` fills the first in \
                     the file up to its `max`, `spread` takes all in turn.",
                    &BALANCES.map(|(word, _)| word),
                    BALANCES[0].0,
                ),
            ),
            ("sweep_interval", duration(&SWEEP_INTERVAL)),
            (
                "sweep_dry_run",
                flag(
                    "Sweeps only say what they would remove, forget and adopt, and do nothing of it. Each replica \
                     goes by its own file, which a reload reads anew.",
                ),
            ),
            ("recover_interval", duration(&RECOVER_INTERVAL)),
            ("redeliver_interval", duration(&REDELIVER_INTERVAL)),
            ("lease", duration(&LEASE)),
            ("call_timeout", duration(&CALL_TIMEOUT)),
        ],
    );
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "Runner Manager".into();
    root["$defs"] = defs.into();
    root
}

fn server() -> Value {
    object(
        "Where the manager listens, and who may talk to it.",
        &[],
        vec![
            (
                "listen",
                with_default(
                    text("The IP address and port of the HTTP server."),
                    Server::DEFAULT_LISTEN.to_string(),
                ),
            ),
            ("public_url", text("How GitHub and people reach the server from outside: an https URL.")),
            (
                "webhook_url",
                text(
                    "Where GitHub sends webhooks, where that is not `/webhook` below `public_url`: an https URL. The \
                     hooks that lead there are ours.",
                ),
            ),
            (
                "bootstrap_url",
                text(
                    "Where machines reach the manager, where that is not `public_url`: an https URL. With either of them, \
                     machines whose backend lets them call for their JIT config; without, they have it in their user data.",
                ),
            ),
            (
                "bootstrap_ca",
                certificates(
                    "Certificates in PEM by which machines know the manager, in place of their own system's.",
                ),
            ),
            ("webhook_secret", webhook_secret()),
            (
                "allow_unsigned_webhooks",
                flag(
                    "Takes webhooks without a signature. Possible only where `listen` is a loopback address: for \
                     tries on one machine.",
                ),
            ),
            (
                "tokens",
                with_default(
                    json!({
                        "description": "Who may use the API and the dashboard.",
                        "type": "array",
                        "items": token(),
                    }),
                    json!([]),
                ),
            ),
        ],
    )
}

fn webhook_secret() -> Value {
    let one = json!({"$ref": "#/$defs/secret"});
    json!({
        "description": format!(
            "What GitHub signs webhooks with. While a new secret takes the place of another, a list of both, the \
             new one first. Required unless `allow_unsigned_webhooks` is `true`. At least {MIN_SECRET_LENGTH} \
             characters."
        ),
        "anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_WEBHOOK_SECRETS}],
    })
}

fn token() -> Value {
    let roles = ROLES.map(|(word, _)| word);
    object(
        "A token of the API.",
        &["name", "role", "token"],
        vec![
            ("name", text("Who acts, for the log: up to 32 letters, digits, `-`, `_`, `.` and `@`.")),
            (
                "role",
                json!({
                    "description": "What it allows: `viewer` looks, `admin` also drains, resumes and retires.",
                    "type": "string",
                    "enum": roles,
                }),
            ),
            ("token", made_up_secret("The token itself, another for each.")),
        ],
    )
}

fn store() -> Value {
    let ca = certificates(
        "`redis`: the certificates, in PEM, that the server's is checked with. Without them, the system's.",
    );
    let mut store = object(
        "Where state lives.",
        &["kind"],
        vec![
            (
                "kind",
                json!({
                    "description": "`embedded`: in a file of this machine, for one process. `redis`: in a Redis \
                                    (6.2 or later) or Valkey, for any number of processes.",
                    "type": "string",
                    "enum": STORES,
                }),
            ),
            (
                "path",
                with_default(
                    text(
                        "`embedded`: the store's file; a relative path leads from the configuration's folder.",
                    ),
                    DEFAULT_STORE_PATH,
                ),
            ),
            (
                "url",
                secret(
                    "`redis`: where it is, required: `redis://USER:PASSWORD@HOST:PORT/DATABASE`, `rediss://` with \
                     TLS, `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE` or `rediss+sentinel://` by \
                     sentinels.",
                ),
            ),
            ("user", text("`redis`: the user, where it does not stand in the URL.")),
            ("password", secret("`redis`: the password, where it does not stand in the URL.")),
            ("ca", ca),
            (
                "prefix",
                text(
                    "`redis`: what the names of all keys begin with, one part of it in braces. Default `rm:{NAME}` \
                     with the deployment's name. The same for all replicas.",
                ),
            ),
            ("connect_timeout", duration(&CONNECT_TIMEOUT)),
            ("response_timeout", duration(&RESPONSE_TIMEOUT)),
        ],
    );
    let is = |kind: &str| json!({"required": ["kind"], "properties": {"kind": {"const": kind}}});
    let without =
        |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), false.into())).collect::<Map<_, _>>();
    let of_redis = ["url", "user", "password", "ca", "prefix", CONNECT_TIMEOUT.name, RESPONSE_TIMEOUT.name];
    store["allOf"] = json!([
        {"if": is("redis"), "then": {"required": ["url"], "properties": without(&["path"])}},
        {"if": is("embedded"), "then": {"properties": without(&of_redis)}},
    ]);
    store
}

fn github() -> Value {
    let connection = |description: &str| object(description, &[], connection());
    let mut one = connection("One of several connections.");
    one["oneOf"] = CREDENTIALS.map(|key| json!({"required": [key]})).as_slice().into();
    let mut github = connection(
        "How GitHub is reached, and as whom. Either one connection, called `default`, with exactly one of `app`, \
         `apps` and `token`; or several under `connections`, which each have these keys.",
    );
    github["properties"][CONNECTIONS] = json!({
        "description": "Several connections, by names that groups refer to. No other key stands beside it.",
        "type": "object",
        "propertyNames": {"pattern": NAME_PATTERN, "maxLength": ConnectionName::MAX_LENGTH},
        "additionalProperties": one,
        "minProperties": 1,
    });
    let without = CONNECTION_KEYS.iter().map(|key| ((*key).to_owned(), false.into())).collect::<Map<_, _>>();
    let mut forms = CREDENTIALS.map(|key| json!({"required": [key]})).to_vec();
    forms.push(json!({"required": [CONNECTIONS], "properties": without}));
    github["oneOf"] = forms.into();
    github
}

/// The keys of a connection of which it has exactly one.
const CREDENTIALS: [&str; 3] = ["app", "apps", "token"];

fn connection() -> Vec<(&'static str, Value)> {
    let rate = GitHubSettings::DEFAULT_JIT_RATE;
    vec![
        (
            "api_url",
            with_default(
                text(
                    "The REST API. With data residency `https://api.SUBDOMAIN.ghe.com`, of a GitHub Enterprise Server \
                     `https://HOST/api/v3`.",
                ),
                DEFAULT_API_URL,
            ),
        ),
        ("app", app("The GitHub App to act as.")),
        (
            "apps",
            json!({
                "description": "Several GitHub Apps that share the work: GitHub counts the calls of each by itself.",
                "type": "array",
                "items": app("One of several GitHub Apps."),
                "minItems": 1,
                "maxItems": MAX_APPS,
            }),
        ),
        ("token", secret("The personal access token to act with.")),
        (
            "concurrency",
            concurrency(
                "How many calls with one credential may be under way at once, over all replicas. GitHub allows 100, \
                 whoever makes them.",
                GitHubSettings::DEFAULT_CONCURRENCY,
            ),
        ),
        (
            "jit_rate",
            with_default(
                self::rate(
                    "How many runners one credential may register in a period, over all replicas. GitHub allows 900 \
                     points a minute to one endpoint, of which a write costs five, and does not announce it.",
                ),
                json!({"calls": rate.calls, "per": friendly(rate.per)}),
            ),
        ),
        (
            CALL_TIMEOUT.name,
            duration(&DurationKey {
                default: None,
                meaning: "How long one call may take. Default as for the whole file. Less than half of `lease`.",
                ..CALL_TIMEOUT
            }),
        ),
        ("proxy", proxy()),
        (
            "ca",
            certificates(
                "The certificates, in PEM, that GitHub's, and that of a proxy with TLS, are checked with. Without them, \
                 the system's.",
            ),
        ),
    ]
}

fn app(description: &str) -> Value {
    let number = |description| json!({"description": description, "type": "integer", "minimum": 1});
    object(
        description,
        &["id", "private_key"],
        vec![
            ("id", number("The App's number.")),
            ("private_key", secret("Its private key in PEM.")),
            ("installation", number("The number of its installation. Without it, it is looked up.")),
        ],
    )
}

fn proxy() -> Value {
    let parts = object(
        "A proxy by its parts.",
        &["url"],
        vec![
            ("url", secret("Where it is: `http://HOST:PORT`, or `https://HOST:PORT` where TLS leads to it.")),
            ("user", text("The user that it asks for.")),
            ("password", secret("The password that it asks for.")),
        ],
    );
    json!({
        "description": "The HTTP proxy that leads there by `CONNECT`: its URL, `http://USER:PASSWORD@HOST:PORT`, as a \
                        secret, or a map of its parts. Without it, none: variables such as `HTTPS_PROXY` are not \
                        looked at.",
        "anyOf": [{"$ref": "#/$defs/secret"}, parts],
    })
}

fn certificates(description: &str) -> Value {
    let file = text("The file; a relative path leads from the configuration's folder.");
    object(description, &["file"], vec![("file", file)])
}

fn backends(registry: &BackendRegistry, defs: &mut Map<String, Value>) -> Value {
    let common = || {
        concurrency(
            "How many of its runners are worked on at once, over all replicas, and so how many calls may be under \
             way.",
            BackendSettings::DEFAULT_CONCURRENCY,
        )
    };
    let kinds = registry.iter().map(|kind| {
        let word = kind.kind();
        let mut part = embed(kind.backend_schema().into(), &format!("{word}-backend"), defs);
        add(&mut part, "kind", json!({"description": "What hosts the instances.", "const": word}), true);
        add(&mut part, "concurrency", common(), false);
        add(
            &mut part,
            "rate",
            rate("How many calls may be begun in a period, over all replicas. Without it, as many as come."),
            false,
        );
        add(
            &mut part,
            "bootstrap",
            with_default(
                json!({
                    "description": "How its machines get their JIT config, where they could call the manager for it: \
                                    `direct` for machines that cannot reach it.",
                    "enum": BOOTSTRAPS.map(|(word, _)| word),
                }),
                BOOTSTRAPS[0].0,
            ),
            false,
        );
        part
    });
    json!({
        "description": "What hosts instances, by names that placements refer to.",
        "type": "object",
        "propertyNames": {"pattern": NAME_PATTERN, "maxLength": BackendName::MAX_LENGTH},
        "additionalProperties": any_of(&kinds.collect::<Vec<_>>()),
    })
}

fn concurrency(description: &str, default: u16) -> Value {
    let whole = json!({
        "description": description, "type": "integer", "minimum": 1, "maximum": MAX_CONCURRENCY,
    });
    with_default(whole, default)
}

fn rate(description: &str) -> Value {
    let calls = json!({
        "description": "How many calls.", "type": "integer", "minimum": 1, "maximum": Rate::MOST_CALLS,
    });
    object(description, &["calls", "per"], vec![("calls", calls), ("per", duration(&RATE_PERIOD))])
}

fn placement(registry: &BackendRegistry, defs: &mut Map<String, Value>) -> Value {
    let kinds = registry.iter().map(|kind| {
        let mut part = embed(kind.placement_schema().into(), &format!("{}-placement", kind.kind()), defs);
        add(&mut part, "backend", name("The name of the backend.", BackendName::MAX_LENGTH), true);
        part
    });
    any_of(&kinds.collect::<Vec<_>>())
}

fn group(placement: &Value) -> Value {
    let number = |description, minimum: i64, maximum: i64, default: i64| {
        let whole = json!({
            "description": description, "type": "integer", "minimum": minimum, "maximum": maximum,
        });
        with_default(whole, default)
    };
    let mut properties = vec![
        ("name", name("The group's name.", GroupName::MAX_LENGTH)),
        ("organization", text("Runners register at this organization.")),
        ("repository", text("Runners register at this repository, `owner/name`.")),
        ("enterprise", text("Runners register at the enterprise of this slug.")),
        (
            "github",
            name(
                "The connection to GitHub. Without it the only one, or the one that is called `default`.",
                ConnectionName::MAX_LENGTH,
            ),
        ),
        ("github_group", github_groups::schema()),
        ("os", word("The operating system; also a label.", &SYSTEMS.map(|(word, _)| word), SYSTEMS[0].0)),
        ("arch", word("The processor; also a label.", &PROCESSORS.map(|(word, _)| word), PROCESSORS[0].0)),
        (
            "labels",
            with_default(
                json!({
                    "description": "What its runners offer beside `self-hosted`, `os` and `arch`.",
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": Label::MAX_LENGTH},
                    "maxItems": MAX_LABELS,
                }),
                json!([]),
            ),
        ),
        (
            "min_idle",
            number("How many runners are kept idle beyond what waiting jobs need.", 0, u32::MAX.into(), 0),
        ),
        (
            "max",
            number(
                "How many runners there may be at any moment, in whatever state.",
                1,
                u32::MAX.into(),
                Bounds::DEFAULT_MAX.into(),
            ),
        ),
        (
            "priority",
            number(
                "Of groups that serve a job equally well the highest takes it.",
                i32::MIN.into(),
                i32::MAX.into(),
                0,
            ),
        ),
        (
            "tags",
            with_default(
                json!({
                    "description": "Your own tags, on every instance. Those that begin with `runner-manager-` \
                                    are taken.",
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "maxProperties": MAX_TAGS,
                }),
                json!({}),
            ),
        ),
        (
            "rerun_on_loss",
            flag(
                "Whether a job that lost its machine (a spot instance that was taken back, a crash) is run again at \
                 GitHub once GitHub has ended it: once. Needs the permission `actions: write`.",
            ),
        ),
    ];
    properties.extend(limit_keys().iter().map(|key| (key.name, duration(key))));
    properties.push((
        "placements",
        json!({
            "description": "Where its instances may be created, tried in this order. Lists in a placement are \
                            expanded to one placement for each combination.",
            "type": "array",
            "items": placement,
            "minItems": 1,
            "maxItems": MAX_PLACEMENTS,
        }),
    ));
    let mut group =
        object("The specification that runners are made from.", &["name", "placements"], properties);
    group["oneOf"] =
        ["organization", "repository", "enterprise"].map(|key| json!({"required": [key]})).as_slice().into();
    group
}

fn secret_definition() -> Value {
    let referred = |key: &str, description: &str| {
        object("A secret that stands elsewhere.", &[key], vec![(key, text(description))])
    };
    json!({
        "anyOf": [
            {"type": "string", "minLength": 1},
            referred("env", "The environment variable that holds it."),
            referred("file", "The file that holds it; a relative path leads from the configuration's folder."),
        ],
    })
}

fn secret(description: &str) -> Value {
    json!({"description": description, "$ref": "#/$defs/secret"})
}

/// A secret that the user makes up.
fn made_up_secret(description: &str) -> Value {
    secret(&format!("{description} At least {MIN_SECRET_LENGTH} characters."))
}

fn duration(key: &DurationKey) -> Value {
    let (least, most) = (friendly(key.least), friendly(key.most));
    let description = format!("{} From {least} to {most}.", key.meaning);
    let schema = json!({"description": description, "$ref": "#/$defs/duration"});
    match key.default {
        Some(default) => with_default(schema, friendly(default)),
        None => schema,
    }
}

pub(super) fn text(description: &str) -> Value {
    json!({"description": description, "type": "string", "minLength": 1})
}

/// Something that is off unless it is turned on.
fn flag(description: &str) -> Value {
    with_default(json!({"description": description, "type": "boolean"}), false)
}

fn name(description: &str, longest: usize) -> Value {
    json!({"description": description, "type": "string", "pattern": NAME_PATTERN, "maxLength": longest})
}

fn word(description: &str, words: &[&str], default: &str) -> Value {
    with_default(json!({"description": description, "type": "string", "enum": words}), default)
}

pub(super) fn with_default(mut schema: Value, default: impl Into<Value>) -> Value {
    schema["default"] = default.into();
    schema
}

pub(super) fn object(description: &str, required: &[&str], properties: Vec<(&str, Value)>) -> Value {
    let properties: Map<_, _> =
        properties.into_iter().map(|(key, schema)| (key.to_owned(), schema)).collect();
    json!({
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}
