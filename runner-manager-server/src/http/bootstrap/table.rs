//! The calls of machines, in one table: it makes both the router and their part of `/api/v1/openapi.json`, so that
//! neither has a call that the other lacks.

use axum::routing::{MethodRouter, get, post};
use serde_json::{Map, Value, json};

use super::super::AppState;
use super::{PULSES, REASONS, STEPS};

/// The name of how machines show who they are.
pub(in crate::http) const SECURITY: &str = "machine";

/// What every call may be refused with. Its order is that in which it is looked.
const REFUSALS: [(&str, &str); 5] = [
    ("401", "No token of this runner. An unknown runner is answered alike"),
    ("429", "This machine has called too often lately: again later"),
    ("415", "The body is no form"),
    ("413", "The body is larger than 64 KiB"),
    ("503", "Not now: again later"),
];
const WRONG_FIELD: (&str, &str) = ("400", "A field is missing, or has what it cannot have");
const GONE: (&str, &str) = ("410", "The runner is taken away, or gone: the machine is to leave");
/// With which a machine is told when to call again.
const AGAIN: [&str; 2] = ["429", "503"];

/// What a call is answered when all is well.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Nothing but that it was taken in.
    Nothing,
    /// A text that is for the machine alone.
    Secret(&'static str),
    /// One of these words.
    Word(&'static [&'static str]),
}

/// One field of a form.
struct Field {
    name: &'static str,
    about: &'static str,
    /// What it may have; anything where there are none.
    words: Vec<&'static str>,
    required: bool,
}

impl Field {
    const fn text(name: &'static str, about: &'static str, required: bool) -> Self {
        Self { name, about, words: Vec::new(), required }
    }

    fn word<T>(name: &'static str, about: &'static str, words: &[(&'static str, T)]) -> Self {
        Self { name, about, words: words.iter().map(|(word, _)| *word).collect(), required: true }
    }
}

/// One call.
pub(super) struct Call {
    /// What stands behind the runner in its path.
    what: &'static str,
    pub(super) handler: MethodRouter<AppState>,
    summary: &'static str,
    /// The fields of its form; none for a call without one.
    form: Option<Vec<Field>>,
    answer: Answer,
    refusals: Vec<(&'static str, &'static str)>,
}

impl Call {
    fn says<const N: usize>(
        what: &'static str,
        handler: MethodRouter<AppState>,
        summary: &'static str,
        fields: [Field; N],
    ) -> Self {
        let about = "A random word of this start of the script, the same in all its calls";
        let boot = Field::text("boot", about, what == "jit-config");
        let form = [boot].into_iter().chain(fields).collect();
        Self { what, handler, summary, form: Some(form), answer: Answer::Nothing, refusals: Vec::new() }
    }

    fn answers(self, answer: Answer) -> Self {
        Self { answer, ..self }
    }

    fn refuses<const N: usize>(self, refusals: [(&'static str, &'static str); N]) -> Self {
        Self { refusals: refusals.into(), ..self }
    }

    pub(super) fn path(&self) -> String {
        format!("/bootstrap/v1/runners/{{runner}}/{}", self.what)
    }
}

/// All of them, in the order in which a machine makes them.
pub(super) fn table() -> Vec<Call> {
    let script = Call {
        what: "script",
        handler: get(super::script),
        summary: "The script of a machine, with its token in it",
        form: None,
        answer: Answer::Secret("The script"),
        refusals: vec![("409", "There is no such script, and never will be"), GONE],
    };
    let config = "The JIT config, minted on this call. Asked for again, it is minted anew: the one before is good for nothing then";
    let refused =
        "Its listener was seen, another start of the machine had the JIT config, or there were too many";
    vec![
        script,
        Call::says(
            "progress",
            post(super::progress),
            "Tells how far a machine has come",
            [Field::word("step", "What it did last", &STEPS)],
        )
        .refuses([WRONG_FIELD, GONE]),
        Call::says("jit-config", post(super::jit_config), "Has GitHub register the runner", [])
            .answers(Answer::Secret(config))
            .refuses([WRONG_FIELD, ("409", refused), GONE]),
        Call::says(
            "heartbeat",
            post(super::heartbeat),
            "Tells how a machine fares, and hears whether it is to leave",
            [
                Field::word("state", "Whether a job runs", &PULSES),
                Field::text(
                    "leave",
                    "`refused` from a machine that was asked to leave and runs a job",
                    false,
                ),
            ],
        )
        .answers(Answer::Word(&["stay", "leave"]))
        .refuses([WRONG_FIELD, GONE]),
        Call::says("job-started", post(super::job_started), "Tells that a job begins", job())
            .refuses([WRONG_FIELD]),
        Call::says("job-completed", post(super::job_completed), "Tells that a job has ended", job())
            .refuses([WRONG_FIELD]),
        Call::says(
            "failed",
            post(super::failed),
            "The last word of a machine whose runner never listened",
            [Field::text("reason", "What failed, in a word", false), detail()],
        ),
        Call::says(
            "left",
            post(super::left),
            "The last word of a machine whose runner has ended",
            [Field::word("reason", "Why it ended", &REASONS), detail()],
        )
        .refuses([WRONG_FIELD]),
    ]
}

const fn detail() -> Field {
    Field::text("detail", "What else there is to say, such as the last lines of the runner's log", false)
}

const fn job() -> [Field; 5] {
    [
        Field::text("run_id", "`GITHUB_RUN_ID`", true),
        Field::text("run_attempt", "`GITHUB_RUN_ATTEMPT`", true),
        Field::text("repository", "`GITHUB_REPOSITORY`", true),
        Field::text("job", "`GITHUB_JOB`", false),
        Field::text("workflow", "`GITHUB_WORKFLOW`", false),
    ]
}

/// Their part of the description: what is done at each path.
pub(in crate::http) fn paths() -> Map<String, Value> {
    let described = |call: Call| {
        let method = if call.form.is_some() { "post" } else { "get" };
        (call.path(), json!({method: operation(&call)}))
    };
    table().into_iter().map(described).collect()
}

fn operation(call: &Call) -> Value {
    let mut responses = Map::new();
    let (status, answer) = answer(call);
    responses.insert(status.to_owned(), answer);
    for (status, when) in REFUSALS.iter().chain(&call.refusals) {
        responses.insert((*status).to_owned(), refusal(status, when));
    }
    let runner = json!({"name": "runner", "in": "path", "required": true, "schema": {"type": "string"}});
    let mut operation = json!({
        "summary": call.summary, "security": [{SECURITY: []}], "parameters": [runner], "responses": responses,
    });
    if let Some(form) = &call.form {
        let content = json!({"application/x-www-form-urlencoded": {"schema": schema(form)}});
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn answer(call: &Call) -> (&'static str, Value) {
    let text = |schema: Value| json!({"text/plain": {"schema": schema}});
    match call.answer {
        Answer::Nothing => ("204", json!({"description": "It was taken in"})),
        Answer::Secret(what) => {
            ("200", json!({"description": what, "content": text(json!({"type": "string"}))}))
        }
        Answer::Word(words) => {
            let content = text(json!({"type": "string", "enum": words}));
            ("200", json!({"description": call.summary, "content": content}))
        }
    }
}

fn refusal(status: &str, when: &str) -> Value {
    let content = json!({"text/plain": {"schema": {"type": "string"}}});
    let mut refusal = json!({"description": when, "content": content});
    if AGAIN.contains(&status) {
        let seconds = json!({"description": "In so many seconds", "schema": {"type": "integer"}});
        refusal["headers"] = json!({"Retry-After": seconds});
    }
    refusal
}

fn schema(form: &[Field]) -> Value {
    let property = |field: &Field| {
        let mut property = json!({"type": "string", "description": field.about});
        if !field.words.is_empty() {
            property["enum"] = json!(field.words);
        }
        (field.name.to_owned(), property)
    };
    let properties: Map<String, Value> = form.iter().map(property).collect();
    let required: Vec<&str> = form.iter().filter(|field| field.required).map(|field| field.name).collect();
    json!({"type": "object", "properties": properties, "required": required})
}
