//! Who asks, before a played Google that checks what a real one does: signatures and claims of service accounts' keys, the
//! exchange of a workload's token, and one account that acts as another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http::Method;
use runner_manager_core::backend::{Backend, BackendErrorKind as Kind};
use runner_manager_core::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::google::{
    ACCOUNT, ACTS_AS, AUDIENCE, Google, Key, SCOPE, answer, bearer, compute, exchanged, impersonated,
};
use super::peer::Peer;
use super::played::refusal;
use super::{owner, spec};
use crate::testing::fault_proxy::{Harm, Seen};

/// How far the library moves both ends of a key's token, so that clocks may differ.
const SLACK: i64 = 20;

/// That a token is one that a key's account may sign for itself: <https://google.aip.dev/auth/4111>.
fn is_own(key: &Key, token: &str) -> bool {
    let Some(claims) = key.claims(token) else { return false };
    let now = SystemClock.now().as_second();
    let [from, until] = ["iat", "exp"].map(|name| claims[name].as_i64().unwrap());
    assert!(from <= now && now < until && until - from <= 3600 + SLACK, "{claims}");
    // With a scope there is no audience.
    claims["iss"] == ACCOUNT
        && claims["sub"] == ACCOUNT
        && claims["scope"] == SCOPE
        && claims["aud"].is_null()
}

fn form(seen: &Seen) -> BTreeMap<String, String> {
    let query = String::from_utf8(seen.body.to_vec()).unwrap();
    let url = reqwest::Url::parse(&format!("http://form/?{query}")).unwrap();
    url.query_pairs().into_owned().collect()
}

/// That an account was asked for by a token, and with what must be said of it.
fn is_impersonation(seen: &Seen, by: impl Fn(&str) -> bool) -> bool {
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    seen.method == Method::POST && body == json!({"scope": [SCOPE], "lifetime": "3600s"}) && by(bearer(seen))
}

async fn list(backend: &Arc<dyn Backend>) -> Result<usize, Kind> {
    backend.list(&owner("acme", "key")).await.map(|all| all.len()).map_err(|error| error.kind)
}

#[tokio::test]
async fn a_key_signs_its_own_tokens_and_nobody_else_is_asked() {
    let key = Arc::new(Key::new());
    let known = Arc::clone(&key);
    let google = Google::play(move |seen| compute(seen, |token| is_own(&known, token))).await;
    let backend = google.backend(&key.file(&google), "5s").await;
    assert_eq!(list(&backend).await, Ok(0));
    assert_eq!(google.asked("/").len(), google.asked("/compute/v1/projects/acme/").len());
    let stranger = google.backend(&Key::new().file(&google), "5s").await;
    assert_eq!(list(&stranger).await, Err(Kind::Unauthenticated));
}

/// From each place that a workload's token may come from, with and without an account that it acts as.
#[tokio::test]
async fn workloads_exchange_their_tokens() {
    let google = Google::play(|seen| match seen.path.as_str() {
        "/subject" if seen.headers.get("metadata").is_some_and(|value| value == "True") => {
            Harm::Answer { status: 200, body: "subject-of-url".into() }
        }
        "/subject.json" => answer(200, &json!({"id_token": "subject-of-url-json", "other": 1})),
        "/sts" => answer(200, &exchanged(&format!("sts-{}", form(seen)["subject_token"]))),
        path if path == ACTS_AS => answer(200, &impersonated(&format!("as-{}", bearer(seen)))),
        _ => compute(seen, |token| token.contains("sts-subject-")),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let [text, json_file] = ["token", "token.json"].map(|name| folder.path().join(name));
    std::fs::write(&text, "subject-of-file").unwrap();
    std::fs::write(&json_file, r#"{"id_token": "subject-of-file-json"}"#).unwrap();
    let format = json!({"type": "json", "subject_token_field_name": "id_token"});
    let url = &google.url;
    for (subject, source) in [
        ("subject-of-file", json!({"file": text})),
        ("subject-of-file-json", json!({"file": json_file, "format": format})),
        ("subject-of-url", json!({"url": format!("{url}/subject"), "headers": {"Metadata": "True"}})),
        ("subject-of-url-json", json!({"url": format!("{url}/subject.json"), "format": format})),
    ] {
        for acts in [false, true] {
            let mut credentials = google.workload(&source);
            if acts {
                credentials["service_account_impersonation_url"] = json!(google.impersonation_url());
            }
            let before = google.asked(ACTS_AS).len();
            assert_eq!(list(&google.backend(&credentials, "5s").await).await, Ok(0), "{subject} {acts}");
            // Who acts as another needs the token for that alone.
            let scope = if acts { "https://www.googleapis.com/auth/iam" } else { SCOPE };
            let wanted = [
                ("audience", AUDIENCE),
                ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
                ("scope", scope),
                ("subject_token", subject),
                ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ];
            let exchange = google.asked("/sts").pop().unwrap();
            assert_eq!(exchange.method, Method::POST);
            assert_eq!(form(&exchange), wanted.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
            let token = format!("sts-{subject}");
            let acted = google.asked(ACTS_AS);
            assert_eq!(acted.len() - before, usize::from(acts));
            assert!(!acts || is_impersonation(acted.last().unwrap(), |by| by == token));
            let given = if acts { format!("as-{token}") } else { token };
            assert_eq!(bearer(&google.asked("/compute/").pop().unwrap()), given);
        }
    }
}

#[tokio::test]
async fn keys_and_workloads_act_as_others() {
    let key = Arc::new(Key::new());
    let known = Arc::clone(&key);
    let google = Google::play(move |seen| match seen.path.as_str() {
        "/sts" => answer(200, &exchanged("sts")),
        path if path == ACTS_AS => {
            assert!(is_impersonation(seen, |by| by == "sts" || is_own(&known, by)));
            answer(200, &impersonated("as-runners"))
        }
        _ => compute(seen, |token| token == "as-runners"),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "subject").unwrap();
    for source in [key.file(&google), google.workload(&json!({"file": file}))] {
        let credentials = json!({
            "type": "impersonated_service_account", "source_credentials": source,
            "service_account_impersonation_url": google.impersonation_url(),
        });
        assert_eq!(list(&google.backend(&credentials, "5s").await).await, Ok(0));
    }
    assert_eq!(google.asked(ACTS_AS).len(), 2);
}

/// A workload whose tokens have a number each; the least that Compute takes; and what it says to a create.
async fn numbered(least: &Arc<AtomicUsize>) -> (Google, Arc<dyn Backend>, tempfile::TempDir) {
    let (least, given) = (Arc::clone(least), AtomicUsize::new(0));
    let google = Google::play(move |seen| {
        if seen.path == "/sts" {
            return answer(200, &exchanged(&(given.fetch_add(1, Ordering::SeqCst) + 1).to_string()));
        }
        let good = |token: &str| token.parse::<usize>().unwrap() >= least.load(Ordering::SeqCst);
        if seen.method == Method::POST && good(bearer(seen)) {
            return refusal(403, "quotaExceeded", "Quota 'CPUS' exceeded.");
        }
        compute(seen, good)
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "subject").unwrap();
    let backend = google.backend(&google.workload(&json!({"file": file})), "5s").await;
    (google, backend, folder)
}

/// One that ended early, or while the machine slept: nobody notices, also where many ask at once.
#[tokio::test]
async fn a_token_that_compute_refuses_is_replaced_unnoticed() {
    let least = Arc::new(AtomicUsize::new(1));
    let (google, backend, _folder) = numbered(&least).await;
    assert_eq!(list(&backend).await, Ok(0));
    least.store(2, Ordering::SeqCst);
    let spec = spec(owner("acme", "key"), "acme-linux-1", &Peer::good());
    let error = backend.create(&spec).await.unwrap_err();
    assert_eq!(error.kind, Kind::QuotaExceeded, "{error}");
    let asked = google.asked("/compute/v1/projects/acme/zones/");
    assert_eq!(asked.iter().map(bearer).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((&asked[0].path, &asked[0].body), (&asked[1].path, &asked[1].body));
    least.store(3, Ordering::SeqCst);
    let listed = join_all((0..20).map(|_| list(&backend))).await;
    assert_eq!(listed, [Ok(0); 20]);
    assert_eq!(google.asked("/sts").len(), 3);
}

#[tokio::test]
async fn a_token_that_is_never_good_is_tried_anew_once() {
    let least = Arc::new(AtomicUsize::new(usize::MAX));
    let (google, backend, _folder) = numbered(&least).await;
    assert_eq!(list(&backend).await, Err(Kind::Unauthenticated));
    assert_eq!(google.asked("/compute/").iter().map(bearer).collect::<Vec<_>>(), ["1", "2"]);
    least.store(3, Ordering::SeqCst);
    assert_eq!(list(&backend).await, Ok(0));
}
