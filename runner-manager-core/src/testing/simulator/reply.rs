//! Requests and replies as the handlers see them, GitHub's error bodies, and pages.

use std::collections::BTreeMap;

use http::StatusCode;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Books, FaultKind, random::Random};

const DOCUMENTATION: &str = "https://docs.github.com/rest";

/// One request, taken apart.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    /// As sent, with `/api/v3` if it was there: for links.
    pub(super) path: &'a str,
    /// Without `/api/v3`.
    pub(super) segments: &'a [&'a str],
    pub(super) query: BTreeMap<String, String>,
    pub(super) body: &'a [u8],
    pub(super) now: Timestamp,
    /// How likely each entry is to be missing from a listing.
    pub(super) holes: f64,
}

impl Call<'_> {
    /// The body as JSON; an absent one stands for `{}`.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Reply> {
        let body = if self.body.is_empty() { b"{}" } else { self.body };
        let value: Value = serde_json::from_slice(body)
            .map_err(|_| Reply::error(StatusCode::BAD_REQUEST, "Problems parsing JSON"))?;
        serde_json::from_value(value)
            .map_err(|error| Reply::invalid_simple("Invalid request.", &[&error.to_string()]))
    }

    fn number(&self, name: &str, default: usize) -> usize {
        self.query.get(name).and_then(|value| value.parse().ok()).filter(|&n| n > 0).unwrap_or(default)
    }

    pub(super) fn per_page(&self) -> usize {
        self.number("per_page", 30).min(100)
    }

    pub(super) fn page(&self) -> usize {
        self.number("page", 1)
    }
}

/// The path's query as pairs, percent-decoded; of one name twice the last counts.
pub(super) fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (*first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let mut byte = [0];
                if hex::decode_to_slice([*high, *low], &mut byte).is_ok() {
                    bytes.push(byte[0]);
                    rest = after;
                } else {
                    bytes.push(b'%');
                }
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&hex::encode_upper([byte]));
        }
    }
    encoded
}

/// One reply, not yet put into HTTP.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Option<Value>,
    /// Headers beyond those that every answer has.
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Reply {
    pub(super) fn new(status: StatusCode, body: Value) -> Self {
        Self { status, body: Some(body), headers: Vec::new() }
    }

    pub(super) fn ok(body: Value) -> Self {
        Self::new(StatusCode::OK, body)
    }

    pub(super) fn created(body: Value) -> Self {
        Self::new(StatusCode::CREATED, body)
    }

    pub(super) fn accepted() -> Self {
        Self::new(StatusCode::ACCEPTED, json!({}))
    }

    pub(super) fn no_content() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: None, headers: Vec::new() }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// GitHub's `basic-error`.
    pub(super) fn error(status: StatusCode, message: &str) -> Self {
        let status_text = status.as_str();
        let body = json!({"message": message, "documentation_url": DOCUMENTATION, "status": status_text});
        Self::new(status, body)
    }

    pub(super) fn not_found() -> Self {
        Self::error(StatusCode::NOT_FOUND, "Not Found")
    }

    /// GitHub's `validation-error-simple`.
    pub(super) fn invalid_simple(message: &str, errors: &[&str]) -> Self {
        let mut body = json!({"message": message, "documentation_url": DOCUMENTATION});
        if !errors.is_empty() {
            body["errors"] = json!(errors);
        }
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, body)
    }

    /// GitHub's `validation-error`.
    pub(super) fn invalid(resource: &str, field: &str, code: &str, message: &str) -> Self {
        let error = json!({"resource": resource, "field": field, "code": code, "message": message});
        let body =
            json!({"message": "Validation Failed", "errors": [error], "documentation_url": DOCUMENTATION});
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, body)
    }
}

/// The entries of one page, and what goes with them.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) entries: Vec<T>,
    pub(super) total: usize,
    link: Option<String>,
}

impl<T> Page<T> {
    /// The page that the call asks for, out of `total` entries as they are at this moment: as at GitHub,
    /// what is added or removed between two calls shifts the entries of the later pages.
    pub(super) fn cut(
        call: &Call<'_>,
        base_url: &str,
        entries: impl Iterator<Item = T>,
        total: usize,
    ) -> Self {
        let (per_page, page) = (call.per_page(), call.page());
        let entries = entries.skip((page - 1).saturating_mul(per_page)).take(per_page).collect();
        Self { entries, total, link: link(call, base_url, per_page, page, total) }
    }

    /// Leaves entries out, if a fault says so.
    pub(super) fn with_holes(mut self, call: &Call<'_>, chance: &mut Random, books: &mut Books) -> Self {
        self.entries.retain(|_| {
            let skip = chance.chance(call.holes);
            if skip {
                books.count_fault(FaultKind::SkippedEntry);
            }
            !skip
        });
        self
    }

    pub(super) fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        let entries = self.entries.into_iter().map(change).collect();
        Page { entries, total: self.total, link: self.link }
    }
}

impl Page<Value> {
    /// As `{"total_count": .., name: [..]}`.
    pub(super) fn counted(self, name: &str) -> Reply {
        let body = json!({"total_count": self.total, name: self.entries});
        Self::linked(Reply::ok(body), self.link)
    }

    /// As a plain array.
    pub(super) fn plain(self) -> Reply {
        Self::linked(Reply::ok(Value::Array(self.entries)), self.link)
    }

    fn linked(reply: Reply, link: Option<String>) -> Reply {
        match link {
            Some(link) => reply.with_header("link", link),
            None => reply,
        }
    }
}

fn link(call: &Call<'_>, base_url: &str, per_page: usize, page: usize, total: usize) -> Option<String> {
    let last = total.div_ceil(per_page).max(1);
    let mut parts = Vec::new();
    let mut add = |relation: &str, number: usize| {
        let number = number.to_string();
        parts.push(format!("<{}>; rel=\"{relation}\"", with_query(call, base_url, &[("page", &number)])));
    };
    if page > 1 {
        add("prev", (page - 1).min(last));
    }
    if page < last {
        add("next", page + 1);
        add("last", last);
    }
    if page > 1 {
        add("first", 1);
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The call's own URL with some query parameters replaced.
pub(super) fn with_query(call: &Call<'_>, base_url: &str, replaced: &[(&str, &str)]) -> String {
    let mut query = call.query.clone();
    for (name, value) in replaced {
        query.insert((*name).to_owned(), (*value).to_owned());
    }
    let pairs: Vec<String> =
        query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    format!("{base_url}{}?{}", call.path, pairs.join("&"))
}

/// GitHub's form of a time: whole seconds, `Z`.
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
