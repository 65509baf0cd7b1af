//! What is not told on of why there is no token: the library repeats whole answers, a token's file in which it misses a field,
//! and the bytes of a key that it cannot read.

use serde::Deserialize;

/// How the library begins an answer that it repeats.
const BODY: &str = "body=<";

/// What the library says of later tries. It does not know that others are made.
const OF_LATER: [&str; 4] = [
    " Subsequent calls with this credential will also fail.",
    " Subsequent calls with this credential might succeed.",
    " and future attempts will not succeed",
    " but future attempts may succeed",
];

/// The fewest characters of a word that may be a secret.
const FEWEST: usize = 20;

const UNSAID: &str = "[...]";

/// A text of the library without what may be secret in it.
pub(super) fn without_secrets(text: &str) -> String {
    let text = OF_LATER.iter().fold(text.to_owned(), |text, words| text.replace(words, ""));
    without_bytes(&without_words(&without_body(&text)))
}

/// A refusal: <https://www.rfc-editor.org/rfc/rfc6749#section-5.2>
#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// Of an answer that is repeated, the reason is left.
fn without_body(text: &str) -> String {
    let Some((before, rest)) = text.split_once(BODY) else { return text.to_owned() };
    let (body, after) = rest.rsplit_once('>').unwrap_or((rest, ""));
    match serde_json::from_str(body) {
        Ok(Refusal { error, error_description }) => format!("{before}{error}: {error_description}{after}"),
        Err(_) => format!("{before}{UNSAID}{after}"),
    }
}

/// Without words that look like tokens and keys: long ones with digits, and letters of both cases.
fn without_words(text: &str) -> String {
    let mut kept = String::new();
    for part in text.split_inclusive(|char| !is_of_a_word(char)) {
        let word = part.trim_end_matches(|char| !is_of_a_word(char));
        kept.push_str(if looks_secret(word) { UNSAID } else { word });
        kept.push_str(&part[word.len()..]);
    }
    kept
}

fn is_of_a_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || "-_.~+/%".contains(char)
}

/// What begins with a slash is a path, or what follows the scheme of a URL.
fn looks_secret(word: &str) -> bool {
    let has = |is: fn(&char) -> bool| word.chars().any(|char| is(&char));
    word.len() >= FEWEST
        && !word.starts_with('/')
        && has(char::is_ascii_digit)
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_uppercase)
}

/// Without lists of numbers.
fn without_bytes(text: &str) -> String {
    let mut kept = String::new();
    for (place, part) in text.split('[').enumerate() {
        let rest = part.trim_start_matches(|char: char| char.is_ascii_digit() || ", ".contains(char));
        let is_list = place > 0 && part.len() - rest.len() >= FEWEST;
        let rest = if is_list { rest.strip_prefix(']').unwrap_or(rest) } else { part };
        kept.push_str(match (place, is_list) {
            (0, _) => "",
            (_, true) => UNSAID,
            (_, false) => "[",
        });
        kept.push_str(rest);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::without_secrets;

    const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl_Rk4x-Tz9";

    #[test]
    fn reasons_are_left_and_secrets_are_not() {
        for (text, left) in [
            (
                "It failed. Subsequent calls with this credential will also fail. and future attempts will not succeed: no"
                    .to_owned(),
                "It failed.: no",
            ),
            (
                format!(
                    "failed, body=<{{\"error\": \"invalid_grant\", \"error_description\": \"no {JWT}\"}}> for good"
                ),
                "failed, invalid_grant: no [...] for good",
            ),
            (
                format!("failed, body=<<p>{JWT}</p>> for good: status (400)"),
                "failed, [...] for good: status (400)",
            ),
            (format!("no field, body=<{{\"id_token\": \"short\", \"x\": \"{JWT}\"}}"), "no field, [...]"),
            (format!("a [403] error: \"{JWT}\", {JWT}?"), "a [403] error: \"[...]\", [...]?"),
            (
                "illegal section start: [45, 45, 45, 45, 45, 66, 69]: and on".to_owned(),
                "illegal section start: [...]: and on",
            ),
            ("start: [45, 45, 45, 45, 45, 66, 69".to_owned(), "start: [...]"),
            ("start: [45, 45, 45, 45, 45, 66...".to_owned(), "start: [...]..."),
        ] {
            assert_eq!(without_secrets(&text), left);
        }
        for whole in [
            "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
            "error sending request for url (https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a-b@c)",
            "//iam.googleapis.com/projects/1234/locations/global/workloadIdentityPools/ci/providers/acme",
            "/var/run/secrets/Tokens/token-1: No such file or directory (os error 2)",
            "",
        ] {
            assert_eq!(without_secrets(whole), whole);
        }
    }
}
