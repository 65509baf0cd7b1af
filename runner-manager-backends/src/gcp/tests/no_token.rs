//! What stands in the way of a token, and that nothing secret is told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use runner_manager_core::backend::{Backend, BackendError, BackendErrorKind as Kind};
use runner_manager_core::clock::{Clock, SystemClock, timeout};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::google::{ACTS_AS, Google, Key, answer, bearer, compute, exchanged, impersonated};
use super::peer::{Peer, until};
use super::{owner, spec};
use crate::testing::fault_proxy::Harm;

/// A subject token, as long as those that are given out.
const SUBJECT: &str =
    "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJyZXBvOmFjbWUvYXBwIn0.c2lnbmF0dXJl_Rk4x-Tz9";
const ACCESS: &str = "ya29.a0AfH6SMBx7Qw2Er5Ty8Ui1Op4As7Df0Gh3Jk6Lz9";

async fn list(backend: &Arc<dyn Backend>) -> Result<usize, BackendError> {
    backend.list(&owner("acme", "key")).await.map(|all| all.len())
}

/// A workload whose first exchanges of tokens are answered so.
async fn troubled(
    timeout: &str,
    trouble: impl Fn(usize) -> Option<Harm> + Send + Sync + 'static,
) -> (Google, Arc<dyn Backend>, tempfile::TempDir) {
    let asked = AtomicUsize::new(0);
    let google = Google::play(move |seen| match seen.path.as_str() {
        "/sts" => {
            let trouble = trouble(asked.fetch_add(1, Ordering::SeqCst));
            trouble.unwrap_or_else(|| answer(200, &exchanged(ACCESS)))
        }
        _ => compute(seen, |token| token == ACCESS),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, SUBJECT).unwrap();
    let backend = google.backend(&google.workload(&json!({"file": file})), timeout).await;
    (google, backend, folder)
}

type Trouble = fn() -> Harm;

/// Each is told, and is over with the next call: one exchange each.
#[tokio::test]
async fn a_token_service_that_refuses_or_says_nonsense_is_asked_anew() {
    let refused = || answer(400, &json!({"error": "invalid_grant", "error_description": "Token expired."}));
    let endless = || exchanged_until(u64::MAX);
    let troubles: [(&str, Trouble); 5] = [
        ("invalid_grant: Token expired.", refused),
        ("there are no credentials", || Harm::Answer { status: 200, body: "<html>".into() }),
        ("there are no credentials", || answer(200, &json!({"access_token": 5}))),
        ("makes no sense", endless),
        ("there are no credentials", || Harm::Flood {
            beginning: "{\"access_token\": \"",
            bytes: 100 << 20,
            taken: Arc::default(),
        }),
    ];
    for (told, trouble) in troubles {
        let (google, backend, _folder) = troubled("10s", move |number| (number == 0).then(trouble)).await;
        let error = list(&backend).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unauthenticated, "{error}");
        assert!(error.to_string().contains(told), "{told}: {error}");
        assert_eq!(list(&backend).await.unwrap(), 0, "{told}");
        assert_eq!(google.asked("/sts").len(), 2, "{told}");
    }
}

/// A token that is good for ever.
fn exchanged_until(seconds: u64) -> Harm {
    let mut body = exchanged(ACCESS);
    body["expires_in"] = json!(seconds);
    answer(200, &body)
}

/// The clocks of both are a day apart.
#[tokio::test]
async fn a_token_that_ended_before_it_came_is_an_error() {
    let acted = AtomicUsize::new(0);
    let google = Google::play(move |seen| match seen.path.as_str() {
        "/sts" => answer(200, &exchanged(ACCESS)),
        path if path == ACTS_AS && acted.fetch_add(1, Ordering::SeqCst) == 0 => {
            answer(200, &json!({"accessToken": ACCESS, "expireTime": "2020-01-01T00:00:00Z"}))
        }
        path if path == ACTS_AS => answer(200, &impersonated(ACCESS)),
        _ => compute(seen, |token| token == ACCESS),
    })
    .await;
    let source = json!({
        "type": "authorized_user", "client_id": "id", "client_secret": "hush", "refresh_token": "token",
        "token_uri": format!("{}/sts", google.url),
    });
    let credentials = json!({
        "type": "impersonated_service_account", "source_credentials": source,
        "service_account_impersonation_url": google.impersonation_url(),
    });
    let backend = google.backend(&credentials, "10s").await;
    let error = list(&backend).await.unwrap_err();
    assert!(error.kind == Kind::Unauthenticated && error.to_string().contains("makes no sense"), "{error}");
    assert_eq!(list(&backend).await.unwrap(), 0);
}

/// Nothing was sent to Compute: a create is not unclear, and the next call does not wait for the same answer.
#[tokio::test]
async fn a_token_service_that_never_answers_is_given_up() {
    let never = || Harm::Delay(Duration::from_hours(1));
    let (google, backend, _folder) = troubled("1s", move |number| (number < 2).then(never)).await;
    let error = list(&backend).await.unwrap_err();
    assert!(error.kind == Kind::Unavailable && error.to_string().contains("credentials"), "{error}");
    let spec = spec(owner("acme", "key"), "acme-linux-1", &Peer::good());
    let error = backend.create(&spec).await.unwrap_err();
    assert!(error.kind == Kind::Unavailable && error.to_string().contains("credentials"), "{error}");
    assert_eq!(list(&backend).await.unwrap(), 0);
    assert_eq!((google.asked("/sts").len(), google.asked("/compute/").len()), (3, 1));
}

/// The connection is closed once the call that waits has ended: nothing goes on to be read.
#[tokio::test]
async fn an_endless_token_is_left_when_the_call_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut service = JoinSet::new();
    service.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n{\"access_token\": \"")
            .await
            .unwrap();
        while stream.write_all(&[b'x'; 1024]).await.is_ok() {
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, SUBJECT).unwrap();
    let google = Google::play(|seen| compute(seen, |_| true)).await;
    let mut workload = google.workload(&json!({"file": file}));
    workload["token_url"] = json!(format!("http://{address}/"));
    let backend = google.backend(&workload, "1s").await;
    assert_eq!(list(&backend).await.unwrap_err().kind, Kind::Unavailable);
    let left = timeout(&SystemClock, Duration::from_secs(5), service.join_next()).await;
    left.expect("it is still read").unwrap().unwrap();
}

/// The library asks again by itself.
#[tokio::test]
async fn a_token_service_in_trouble_is_waited_for() {
    let broken = || Harm::Answer { status: 503, body: "try later".into() };
    let (google, backend, _folder) = troubled("5s", move |number| (number == 0).then(broken)).await;
    for _ in 0..3 {
        let error = list(&backend).await.unwrap_err();
        assert!(error.kind == Kind::Unavailable && error.to_string().contains("503"), "{error}");
    }
    assert_eq!(google.asked("/sts").len(), 1);
    // Ten seconds later.
    SystemClock.sleep(Duration::from_secs(9)).await;
    until("it is well again", async || list(&backend).await.is_ok()).await;
    assert_eq!(google.asked("/sts").len(), 2);
}

/// Who acts as another is asked for again at once, until the call ends.
#[tokio::test]
async fn an_account_that_cannot_be_had_now_is_asked_for_anew() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let google = Google::play(move |seen| match seen.path.as_str() {
        "/sts" => answer(200, &exchanged("sts")),
        path if path == ACTS_AS && well.load(Ordering::SeqCst) => answer(200, &impersonated(ACCESS)),
        path if path == ACTS_AS => Harm::Answer { status: 503, body: "try later".into() },
        _ => compute(seen, |token| token == ACCESS),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, SUBJECT).unwrap();
    let mut credentials = google.workload(&json!({"file": file}));
    credentials["service_account_impersonation_url"] = json!(google.impersonation_url());
    let backend = google.backend(&credentials, "4s").await;
    let error = list(&backend).await.unwrap_err();
    assert!(error.kind == Kind::Unavailable && error.to_string().contains("credentials"), "{error}");
    assert!(google.asked(ACTS_AS).len() > 1);
    is_well.store(true, Ordering::SeqCst);
    assert_eq!(list(&backend).await.unwrap(), 0);
}

/// Nothing of these is in what a backend tells, nor in how it shows itself.
async fn tells_nothing_of(backend: &Arc<dyn Backend>, secrets: &[&str], told: &str) {
    let error = list(backend).await.unwrap_err();
    for text in [format!("{error} {error:?}"), format!("{backend:?}")] {
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    assert!(error.to_string().contains(told), "{told}: {error}");
}

/// A service repeats what it refuses, and who reads a token's file tells of it whole.
#[tokio::test]
async fn no_token_is_told_on() {
    let parts: Vec<&str> = SUBJECT.split('.').chain([ACCESS, "hush"]).collect();
    let described =
        || json!({"error": "invalid_request", "error_description": format!("no such token: {SUBJECT}")});
    for (status, body, told) in [
        (400, described().to_string(), "invalid_request: no such token"),
        (401, format!("<p>{SUBJECT}</p>"), "401"),
        (503, SUBJECT.to_owned(), "503"),
        (400, json!({"error": {"code": 400, "status": "X", "message": SUBJECT}}).to_string(), "400"),
    ] {
        let (_google, backend, _folder) =
            troubled("5s", move |_| Some(Harm::Answer { status, body: body.clone().into() })).await;
        tells_nothing_of(&backend, &parts, told).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token.json");
    std::fs::write(&file, json!({"id_token": SUBJECT, "nonce": "hush"}).to_string()).unwrap();
    let google = Google::play(|seen| {
        let repeated = format!("{{\"error\": {{\"message\": \"Not for {}.\"}}}}", bearer(seen));
        match seen.path.as_str() {
            "/sts" => answer(200, &exchanged(ACCESS)),
            path if path == ACTS_AS => Harm::Answer { status: 403, body: repeated.into() },
            _ => compute(seen, |_| true),
        }
    })
    .await;
    let format = |name: &str| json!({"type": "json", "subject_token_field_name": name});
    let misnamed = google.workload(&json!({"file": file, "format": format("token")}));
    tells_nothing_of(&google.backend(&misnamed, "5s").await, &parts, "subject token field `token`").await;
    let mut refused = google.workload(&json!({"file": file, "format": format("id_token")}));
    refused["service_account_impersonation_url"] = json!(google.impersonation_url());
    tells_nothing_of(&google.backend(&refused, "5s").await, &parts, "Not for").await;
}

/// Line ends that became blanks or were lost, half a key, and one of another kind.
#[tokio::test]
async fn no_key_is_told_on() {
    let key = Key::new();
    let google = Google::play(|seen| compute(seen, |_| true)).await;
    let lines: Vec<&str> = key.pem.lines().filter(|line| !line.starts_with("--")).collect();
    let half = |text: &str| text[..text.len() / 2].to_owned();
    for (pem, told) in [
        (key.pem.replace('\n', " "), "private key"),
        (key.pem.replace('\n', "\\n"), "private key"),
        (half(&key.pem), "private key"),
        (format!("{}\n-----END PRIVATE KEY-----", half(&key.pem)), "private key"),
        (key.pem.replace("PRIVATE", "RSA PRIVATE"), "PKCS8"),
        (lines.concat(), "private key"),
    ] {
        let mut file = key.file(&google);
        file["private_key"] = Value::from(pem);
        let backend = google.backend(&file, "5s").await;
        // Also as a list of bytes.
        let bytes = format!("{:?}", &lines[0].as_bytes()[..8]);
        let secrets = [&lines[0][..16], lines[1], bytes.trim_matches(['[', ']'])];
        tells_nothing_of(&backend, &secrets, told).await;
    }
    let good = google.backend(&key.file(&google), "5s").await;
    assert_eq!(list(&good).await.unwrap(), 0);
    let asked = google.asked("/compute/").pop().unwrap();
    assert!(!format!("{good:?}").contains(bearer(&asked)));
}
