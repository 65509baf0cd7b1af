//! The GitHub client against a transport that plays answers from a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use jiff::Timestamp;

use super::{As, RestGitHub, Transport, TransportError};
use crate::clock::SimulatedClock;
use crate::domain::{
    GitHubGroupId, GitHubRunnerId, GroupAccess, GroupRules, JobId, Labels, OpenRuns, Repository, RunnerName,
    Scope,
};
use crate::github::{GitHub, GitHubError, GitHubErrorKind, Hook, Intent, JitRequest};
use crate::retry::Retry;

/// Answers requests in turn with what was written down, and keeps what was asked.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<Result<Response<Bytes>, TransportError>>>,
    asked: Mutex<Vec<String>>,
    app: Option<u64>,
}

#[async_trait]
impl Transport for Script {
    async fn send(&self, who: As<'_>, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let who = if who == As::App { "app " } else { "" };
        self.asked.lock().unwrap().push(format!("{who}{} {}", request.method(), request.uri()));
        self.answers.lock().unwrap().pop_front().expect("no more answers were written down")
    }

    fn app(&self) -> Option<u64> {
        self.app
    }

    fn account(&self, _: As<'_>) -> String {
        "token".to_owned()
    }
}

const NOW: i64 = 1_800_000_000;

struct Scripted {
    github: RestGitHub,
    script: Arc<Script>,
}

impl Scripted {
    fn new(answers: impl IntoIterator<Item = Response<Bytes>>) -> Self {
        Self::of(answers.into_iter().map(Ok), false)
    }

    fn of(answers: impl IntoIterator<Item = Result<Response<Bytes>, TransportError>>, app: bool) -> Self {
        let answers = Mutex::new(answers.into_iter().collect());
        let app = app.then_some(7);
        let script = Arc::new(Script { answers, app, ..Script::default() });
        let clock = Arc::new(SimulatedClock::new(Timestamp::from_second(NOW).unwrap()));
        Self { github: RestGitHub::new(Arc::<Script>::clone(&script), clock), script }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.script.asked.lock().unwrap())
    }

    async fn register(&self) -> GitHubError {
        let request = JitRequest {
            scope: acme(),
            name: RunnerName::new("rm-1").unwrap(),
            group: GitHubGroupId::DEFAULT,
            labels: Labels::parse(["linux"]).unwrap(),
        };
        self.github.create_jit_config(&request).await.unwrap_err()
    }
}

fn acme() -> Scope {
    Scope::organization("acme").unwrap()
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Bytes> {
    let builder = Response::builder().status(status);
    let with = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    with.body(Bytes::from(body.to_owned())).unwrap()
}

fn runner(id: u64) -> String {
    format!(r#"{{"id": {id}, "name": "rm-{id}", "os": "linux", "status": "online", "busy": false}}"#)
}

fn page(total: usize, ids: impl Iterator<Item = u64>, next: Option<u32>) -> Response<Bytes> {
    let runners: Vec<String> = ids.map(runner).collect();
    let body = format!(r#"{{"total_count": {total}, "runners": [{}]}}"#, runners.join(","));
    let link = next.map(|page| format!("<https://h/x?per_page=100&page={page}>; rel=\"next\""));
    answer(200, &link.as_deref().map(|link| ("link", link)).into_iter().collect::<Vec<_>>(), &body)
}

fn secs(seconds: u64) -> Retry {
    Retry::After(Duration::from_secs(seconds))
}

fn rfc9110(second: i64) -> String {
    let time = Timestamp::from_second(second).unwrap();
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap()
}

#[tokio::test]
async fn a_refusal_is_known_by_its_status_its_headers_and_its_body() {
    use GitHubErrorKind::{
        Busy, Invalid, NameTaken, NotFound, PermissionDenied, RateLimited, Unauthenticated, Unavailable,
        Unclear, Unexpected,
    };
    let reset = (NOW + 90).to_string();
    let spent: &[(&str, &str)] = &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset)];
    let past: &[(&str, &str)] = &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "5")];
    // The answer was given ten minutes after our clock says.
    let (late_reset, date) = ((NOW + 690).to_string(), rfc9110(NOW + 600));
    let late: &[(&str, &str)] =
        &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &late_reset), ("date", &date)];
    let far: &[(&str, &str)] = &[("retry-after", "999999999")];
    let odd: &[(&str, &str)] = &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")];
    let secondary = r#"{"message": "You have exceeded a secondary rate limit."}"#;
    let forbidden = r#"{"message": "Resource not accessible by integration"}"#;
    let (never, backoff) = (Retry::Never, Retry::Backoff);
    // status, headers, body; how a read, a registration and a removal fail.
    let table = [
        (401, &[][..], "{}", [(Unauthenticated, never); 3]),
        (403, &[], forbidden, [(PermissionDenied, never); 3]),
        (403, &[("x-ratelimit-remaining", "1")], forbidden, [(PermissionDenied, never); 3]),
        (403, spent, "{}", [(RateLimited, secs(90)); 3]),
        (403, late, "{}", [(RateLimited, secs(90)); 3]),
        (403, past, "{}", [(RateLimited, secs(1)); 3]),
        (403, &[("retry-after", "7")], "{}", [(RateLimited, secs(7)); 3]),
        (403, &[], secondary, [(RateLimited, secs(60)); 3]),
        (429, &[], "<html>", [(RateLimited, secs(60)); 3]),
        (429, far, "{}", [(RateLimited, secs(3600)); 3]),
        (429, odd, "{}", [(RateLimited, secs(60)); 3]),
        (409, &[], "{}", [(Unexpected, backoff), (NameTaken, never), (Unexpected, backoff)]),
        (422, &[], "{}", [(Invalid, never), (Invalid, never), (Busy, backoff)]),
        (301, &[], "{}", [(Invalid, never); 3]),
        (500, &[], "{}", [(Unavailable, backoff), (Unclear, backoff), (Unclear, backoff)]),
        (503, &[("retry-after", "7")], "", [(Unavailable, secs(7)), (Unclear, secs(7)), (Unclear, secs(7))]),
        (418, &[], "{}", [(Unexpected, backoff); 3]),
    ];
    for (status, headers, body, expected) in table {
        let scripted = Scripted::new((0..3).map(|_| answer(status, headers, body)));
        let errors = [
            scripted.github.runners(&acme()).await.unwrap_err(),
            scripted.register().await,
            scripted.github.remove_runner(&acme(), GitHubRunnerId(1)).await.unwrap_err(),
        ];
        let told = errors.each_ref().map(|error| (error.kind, error.retry));
        assert_eq!(told, expected, "{status} {headers:?} {body}");
    }
    let scripted = Scripted::new([answer(404, &[], r#"{"message": "Not Found"}"#)]);
    let error = scripted.register().await;
    assert_eq!(error.kind, NotFound);
    assert_eq!(error.to_string(), "create_jit_config: NotFound: status 404: Not Found");
}

type Make<'a> = &'a dyn Fn() -> TransportError;

#[tokio::test]
async fn without_an_answer_a_read_had_no_effect_and_a_write_may_have_had() {
    use GitHubErrorKind::{NoInstallation, RateLimited, Unavailable, Unclear, Unexpected};
    let refused = |status, headers| TransportError::Refused {
        app: 7,
        account: "acme".to_owned(),
        answer: Box::new(answer(status, headers, "{}")),
    };
    let table: [(Make<'_>, GitHubErrorKind, GitHubErrorKind); 5] = [
        (&|| TransportError::NotSent("no route".into()), Unavailable, Unavailable),
        (&|| TransportError::Unclear("cut".into()), Unavailable, Unclear),
        (&|| TransportError::TooLarge { limit: 10 }, Unexpected, Unclear),
        (&|| refused(404, &[]), NoInstallation, NoInstallation),
        (&|| refused(429, &[("retry-after", "7")]), RateLimited, RateLimited),
    ];
    for (make, read, write) in table {
        let scripted = Scripted::of((0..3).map(|_| Err(make())), true);
        assert_eq!(scripted.github.runner(&acme(), GitHubRunnerId(1)).await.unwrap_err().kind, read);
        assert_eq!(scripted.register().await.kind, write);
        let removed = scripted.github.remove_runner(&acme(), GitHubRunnerId(1)).await;
        assert_eq!(removed.unwrap_err().kind, write);
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_unexpected_or_unclear() {
    for body in ["", "{", "[]", r#"{"total_count": 1}"#, r#"{"runners": []}"#] {
        let scripted = Scripted::new([answer(200, &[], body), answer(201, &[], body)]);
        let error = scripted.github.runners(&acme()).await.unwrap_err();
        assert_eq!(error.kind, GitHubErrorKind::Unexpected, "{body}");
        assert_eq!(scripted.register().await.kind, GitHubErrorKind::Unclear, "{body}");
    }
}

#[tokio::test]
async fn a_listing_that_lacks_entries_is_an_error() {
    let scripted = Scripted::new([page(3, 1..3, None)]);
    let error = scripted.github.runners(&acme()).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unavailable);
    assert!(error.detail.contains("2 of 3"), "{error}");
    // The same entry twice is not two entries.
    let scripted = Scripted::new([page(3, 1..3, Some(2)), page(3, 2..3, None)]);
    assert!(scripted.github.runners(&acme()).await.is_err());
}

#[tokio::test]
async fn a_listing_that_changed_while_it_was_read_is_read_again() {
    // Runner 1 went after the first page, and 101 slipped from the second page to the first.
    let first = [page(150, 1..101, Some(2)), page(149, 102..151, None)];
    let second = [page(149, 2..102, Some(2)), page(149, 102..151, None)];
    let scripted = Scripted::new(first.into_iter().chain(second));
    let listed = scripted.github.runners(&acme()).await.unwrap();
    assert!((1..151).all(|id| listed.iter().any(|runner| runner.id == GitHubRunnerId(id))));
    let path = "GET /orgs/acme/actions/runners?per_page=100";
    let next = "GET /orgs/acme/actions/runners?per_page=100&page=2";
    assert_eq!(scripted.asked(), [path, next, path, next]);
}

#[tokio::test]
async fn an_endless_listing_ends() {
    let scripted = Scripted::new((0..1_000).map(|at| page(9, at..=at, Some(2))));
    let error = scripted.github.runners(&acme()).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unexpected, "{error}");
}

#[tokio::test]
async fn absent_is_said_only_of_a_place_that_shows_itself() {
    let gone = || answer(404, &[], "{}");
    let scripted = Scripted::new([gone(), page(0, 0..0, None), gone(), gone()]);
    assert_eq!(scripted.github.runner(&acme(), GitHubRunnerId(1)).await.unwrap(), None);
    // Seen a moment ago, so that nothing more is asked.
    scripted.github.remove_runner(&acme(), GitHubRunnerId(1)).await.unwrap();
    assert_eq!(scripted.asked().len(), 3);

    let scripted = Scripted::new([gone(), gone()]);
    let error = scripted.github.remove_runner(&acme(), GitHubRunnerId(1)).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::NotFound);
    let scripted = Scripted::new([gone(), answer(403, &[], "{}")]);
    let error = scripted.github.job(&repository(), JobId(1)).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::PermissionDenied);
}

fn repository() -> Repository {
    "acme/app".parse().unwrap()
}

fn runs(total: usize, ids: impl Iterator<Item = u64>, next: Option<usize>) -> Response<Bytes> {
    let at = |id: u64| Timestamp::from_second(NOW - i64::try_from(id).unwrap()).unwrap();
    let runs: Vec<String> = ids.map(|id| format!(r#"{{"id": {id}, "created_at": "{}"}}"#, at(id))).collect();
    let body = format!(r#"{{"total_count": {total}, "workflow_runs": [{}]}}"#, runs.join(","));
    let link = next.map(|page| format!("<https://h/x?page={page}>; rel=\"next\"")).unwrap_or_default();
    answer(200, &[("link", &link)], &body)
}

#[tokio::test]
async fn more_runs_than_one_search_lists_are_searched_for() {
    let first = (0..10_usize).map(|at| {
        let from = u64::try_from(at * 100).unwrap();
        runs(1_050, from..from + 100, (at < 9).then_some(at + 2))
    });
    let older = runs(51, 999..1_050, None);
    let none = runs(0, 0..0, None);
    let before = (0..3).map(|_| runs(0, 0..0, None));
    let answers = before.chain(first).chain([older, none]);
    let scripted = Scripted::new(answers);
    assert_eq!(scripted.github.open_runs(&repository(), OpenRuns::All).await.unwrap().len(), 1_050);
    let asked = scripted.asked();
    let older = "created=%3C%3D2027-01-15T07:43:21Z&per_page=100";
    assert_eq!(asked[13], format!("GET /repos/acme/app/actions/runs?status=queued&{older}"));

    // Where searching for older ones does not help, the listing is incomplete.
    let same = || (0..10_usize).map(|at| runs(1_050, 0..1_000, (at < 9).then_some(at + 2)));
    let before = (0..3).map(|_| runs(0, 0..0, None));
    let scripted = Scripted::new(before.chain(same()).chain(same()));
    let error = scripted.github.open_runs(&repository(), OpenRuns::All).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unavailable);
}

#[tokio::test]
async fn jobs_that_are_none_of_ours_are_passed_over() {
    let job = |id: u64, status: &str, label: &str| {
        format!(
            r#"{{"id": {id}, "run_id": 5, "run_attempt": 2, "name": "build", "workflow_name": null,
                "labels": ["{label}"], "created_at": "2026-01-01T00:00:00Z", "status": "{status}",
                "conclusion": null, "runner_id": 0, "runner_name": ""}}"#
        )
    };
    let jobs = [
        job(1, "queued", "a"),
        job(2, "queued", "a,b"),
        job(3, "in_progress", "a"),
        job(4, "new", "a"),
        job(5, "completed", "a"),
    ];
    let jobs = format!(r#"{{"total_count": 5, "jobs": [{}]}}"#, jobs.join(","));
    let none = || runs(0, 0..0, None);
    // The run moves on while it is looked for, and is listed twice.
    let listed = [none(), runs(1, 5..6, None), none(), none(), runs(1, 5..6, None)];
    let scripted = Scripted::new(listed.into_iter().chain([answer(200, &[], &jobs)]));
    let runs = scripted.github.open_runs(&repository(), OpenRuns::All).await.unwrap();
    let [run] = &runs[..] else { panic!("{runs:?}") };
    let open = scripted.github.open_jobs(&repository(), run.id).await.unwrap();
    let told: Vec<_> = open.iter().map(|job| (job.id, job.attempt)).collect();
    assert_eq!(told, [(JobId(1), 2), (JobId(3), 2)]);
    let asked = scripted.asked();
    let words = ["requested", "pending", "waiting", "queued", "in_progress"];
    for (asked, word) in asked.iter().zip(words) {
        assert_eq!(*asked, format!("GET /repos/acme/app/actions/runs?status={word}&per_page=100"));
    }
    assert_eq!(asked.len(), 6);
}

#[tokio::test]
async fn budgets_are_kept_and_the_scarcest_is_told() {
    let reset = (NOW + 60).to_string();
    let headers = |resource, remaining| {
        [
            ("x-ratelimit-resource", resource),
            ("x-ratelimit-limit", "5000"),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", reset.as_str()),
        ]
    };
    let scripted = Scripted::new([
        answer(200, &headers("core", "4000"), r#"{"total_count": 0, "runners": []}"#),
        answer(409, &headers("actions_runner_registration", "12"), "{}"),
    ]);
    assert_eq!(scripted.github.budget(&acme()), None);
    scripted.github.runners(&acme()).await.unwrap();
    assert_eq!(scripted.github.budget(&acme()).unwrap().remaining, 4_000);
    scripted.register().await;
    let budget = scripted.github.budget(&acme()).unwrap();
    assert_eq!((budget.limit, budget.remaining), (5_000, 12));
    assert_eq!(budget.reset_at.as_second(), NOW + 60);
}

#[tokio::test]
async fn a_check_names_what_is_missing() {
    let installation = |body: &str| Ok(answer(200, &[], body));
    let may = r#"{"id": 1, "permissions": {"organization_self_hosted_runners": "write", "actions": "read"}}"#;
    let may_not = r#"{"id": 1, "suspended_at": "2026-01-01T00:00:00Z",
        "permissions": {"organization_self_hosted_runners": "read"}}"#;
    let fine = || Ok(page(0, 0..0, None));
    let actions = |repositories: &str| {
        Ok(answer(200, &[], &format!(r#"{{"enabled_repositories": "{repositories}"}}"#)))
    };
    let app: [(Vec<Result<_, _>>, &[&str]); 5] = [
        (vec![installation(may), fine(), actions("selected")], &[]),
        (vec![installation(may), fine(), Ok(answer(403, &[], "{}"))], &[]),
        (vec![installation(may_not)], &["runners: write", "actions: read", "suspended"]),
        (vec![Ok(answer(404, &[], "{}"))], &["not installed"]),
        (vec![Ok(answer(401, &[], "{}"))], &["private key"]),
    ];
    let token: [(Vec<Result<_, _>>, &[&str]); 5] = [
        (vec![fine(), actions("all")], &[]),
        (vec![fine(), actions("none")], &["Actions is switched off"]),
        (vec![Ok(answer(401, &[], "{}"))], &["wrong or have ended"]),
        (vec![Ok(answer(403, &[], "{}"))], &["may not manage"]),
        (vec![Ok(answer(404, &[], "{}"))], &["does not exist"]),
    ];
    let all = app.into_iter().map(|case| (case, true)).chain(token.into_iter().map(|case| (case, false)));
    for ((answers, expected), app) in all {
        let missing = Scripted::of(answers, app).github.check(&acme(), Intent::Supply).await.unwrap();
        assert_eq!(missing.len(), expected.len(), "{missing:?}");
        for (sentence, part) in missing.iter().zip(expected) {
            assert!(sentence.contains(part), "{sentence:?} does not say {part:?}");
        }
    }
    let scripted = Scripted::of(vec![installation(may)], true);
    let missing = scripted.github.check(&acme(), Intent::SupplyAndRerun).await.unwrap();
    assert_eq!(missing, ["the App lacks the permission `actions: write`"], "to run a job again takes more");
    let scripted = Scripted::new([answer(500, &[], "{}")]);
    assert_eq!(
        scripted.github.check(&acme(), Intent::Supply).await.unwrap_err().kind,
        GitHubErrorKind::Unavailable
    );
}

#[tokio::test]
async fn a_group_is_given_to_what_exists() {
    let repositories =
        GroupAccess::Repositories(["acme/app".parse().unwrap(), "acme/lib".parse().unwrap()].into());
    let rules = GroupRules { access: repositories, allows_public_repositories: false, workflows: None };
    let missing = || answer(404, &[], r#"{"message": "Not Found"}"#);
    let scripted = Scripted::new([answer(200, &[], r#"{"id": 7}"#), missing()]);
    let error = scripted.github.create_runner_group(&acme(), "large", &rules).await.unwrap_err();
    assert_eq!((error.kind, error.retry), (GitHubErrorKind::NotFound, Retry::Never));
    assert!(error.detail.contains("`acme/lib` does not exist"), "{error}");
    assert_eq!(scripted.asked(), ["GET /repos/acme/app", "GET /repos/acme/lib"], "and nothing is made");
    let scripted = Scripted::new([missing()]);
    let access = GroupAccess::Organizations(["acme".to_owned()].into());
    let inc = Scope::enterprise("inc").unwrap();
    let error = scripted.github.set_group_members(&inc, GitHubGroupId(2), &access).await.unwrap_err();
    assert!(error.detail.contains("`acme` does not exist"), "{error}");
    assert_eq!(scripted.asked(), ["GET /orgs/acme"]);
}

#[tokio::test]
async fn each_scope_has_its_paths() {
    let scopes = [
        (acme(), "/orgs/acme"),
        (Scope::Repository(repository()), "/repos/acme/app"),
        (Scope::enterprise("inc").unwrap(), "/enterprises/inc"),
    ];
    for (scope, path) in scopes {
        let scripted = Scripted::new([page(0, 0..0, None), answer(200, &[], &runner(7))]);
        let name = RunnerName::new("rm-1").unwrap();
        assert_eq!(scripted.github.find_runner(&scope, &name).await.unwrap(), None);
        scripted.github.runner(&scope, GitHubRunnerId(7)).await.unwrap().unwrap();
        let base = format!("GET {path}/actions/runners");
        assert_eq!(scripted.asked(), [format!("{base}?name=rm-1&per_page=100"), format!("{base}/7")]);
    }
    let scripted = Scripted::new([answer(202, &[], "{}"), answer(202, &[], "{}")]);
    scripted.github.redeliver(&Hook::App, 9_007_199_254_740_993).await.unwrap();
    scripted.github.redeliver(&Hook::Of(acme(), 3), 4).await.unwrap();
    let app = "app POST /app/hook/deliveries/9007199254740993/attempts";
    assert_eq!(scripted.asked(), [app, "POST /orgs/acme/hooks/3/deliveries/4/attempts"]);
    let hook = Hook::Of(Scope::enterprise("inc").unwrap(), 3);
    assert_eq!(scripted.github.redeliver(&hook, 4).await.unwrap_err().kind, GitHubErrorKind::Invalid);
}

#[tokio::test]
async fn repositories_are_listed_by_installation_or_token() {
    let listed = r#"{"total_count": 3, "repositories": [{"id": 1, "full_name": "Acme/app"},
        {"id": 2, "full_name": "other/app"}, {"id": 3, "full_name": "acme/old", "archived": true}]}"#;
    let scripted = Scripted::of([Ok(answer(200, &[], listed))], true);
    assert_eq!(scripted.github.repositories(&acme()).await.unwrap(), [repository()]);
    let plain = |body: &str, link: &str| Ok(answer(200, &[("link", link)], body));
    let pages = [
        plain(r#"[{"id": 1, "full_name": "acme/app"}]"#, "<https://h/x?page=2>; rel=\"next\""),
        plain(r#"[{"id": 2, "full_name": "acme/web"}]"#, ""),
    ];
    let scripted = Scripted::of(pages, false);
    assert_eq!(scripted.github.repositories(&acme()).await.unwrap().len(), 2);
    assert_eq!(scripted.asked(), ["GET /orgs/acme/repos?per_page=100", "GET /orgs/acme/repos?page=2"]);
}

#[tokio::test]
async fn deliveries_are_read_no_further_than_asked() {
    let log = r#"[{"id": 3, "guid": "b", "delivered_at": "2026-01-01T00:00:09Z", "status_code": 502},
        {"id": 2, "guid": "a", "delivered_at": "2026-01-01T00:00:01Z", "status_code": 0}]"#;
    let more = "<https://h/x?per_page=100&cursor=v1_2>; rel=\"next\"";
    let scripted = Scripted::new([answer(200, &[("link", more)], log)]);
    let since = "2026-01-01T00:00:05Z".parse().unwrap();
    let found = scripted.github.deliveries(&Hook::Of(acme(), 3), since, 100).await.unwrap();
    assert_eq!(found.iter().map(|found| (found.id, found.status)).collect::<Vec<_>>(), [(3, 502)]);
    assert_eq!(scripted.asked(), ["GET /orgs/acme/hooks/3/deliveries?per_page=100"]);
}
