//! The cases, in the order of the trait's *Behaviour* section.
#![expect(clippy::unwrap_used, reason = "a case panics where its subject does not behave")]

use std::time::Duration;

use jiff::Timestamp;

use super::{Subject, groups};
use crate::domain::{
    GitHubGroupId, GitHubRunnerId, JobId, JobObservation, JobReport, Labels, OpenRuns, RunId, RunnerName,
    Scope, Secret, WebhookDelivery,
};
use crate::github::{
    GitHubError, GitHubErrorKind, Hook, HookSpec, JOB_EVENT, JitConfig, JitRequest, RegisteredHook,
    RegisteredRunner,
};
use crate::retry::Retry;
use crate::testing::conformance::Case;

/// Enough runners for a second page.
const TWO_PAGES: usize = 105;
const ABSENT: GitHubRunnerId = GitHubRunnerId(999_999_999);

/// All cases.
pub fn cases() -> Vec<Case<Subject>> {
    vec![
        Case::new("a_jit_config_registers", a_jit_config_registers),
        Case::new("a_taken_name_is_told", a_taken_name_is_told),
        Case::new("an_unknown_group_is_told", an_unknown_group_is_told),
        Case::new("remove_takes_away", remove_takes_away),
        Case::new("remove_absent_succeeds", remove_absent_succeeds),
        Case::new("remove_busy_is_refused", remove_busy_is_refused),
        Case::new("lists_are_complete", lists_are_complete),
        Case::new("get_absent_is_none", get_absent_is_none),
        Case::new("find_absent_is_none", find_absent_is_none),
        Case::new("groups_are_listed", groups_are_listed),
        Case::new("a_group_is_made", groups::a_group_is_made),
        Case::new("a_taken_group_is_told", groups::a_taken_group_is_told),
        Case::new("a_group_is_changed", groups::a_group_is_changed),
        Case::new("a_repository_has_no_groups", groups::a_repository_has_no_groups),
        Case::new("open_runs_are_listed", open_runs_are_listed),
        Case::new("open_jobs_are_listed", open_jobs_are_listed),
        Case::new("a_job_is_told", a_job_is_told),
        Case::new("an_absent_job_is_none", an_absent_job_is_none),
        Case::new("a_job_is_run_again", a_job_is_run_again),
        Case::new("a_job_that_runs_is_not_run_again", a_job_that_runs_is_not_run_again),
        Case::new("a_hook_is_made_and_listed", a_hook_is_made_and_listed),
        Case::new("a_hook_is_mended", a_hook_is_mended),
        Case::new("delete_hook_takes_away", delete_hook_takes_away),
        Case::new("the_hook_of_an_app_is_set", the_hook_of_an_app_is_set),
        Case::new("a_delivery_is_logged_and_repeated", a_delivery_is_logged_and_repeated),
        Case::new("a_log_is_cut", a_log_is_cut),
        Case::new("a_refusal_is_unknown", a_refusal_is_unknown),
        Case::new("a_wait_is_honoured", a_wait_is_honoured),
    ]
}

async fn a_jit_config_registers(subject: Subject) {
    let made = subject.register("one").await;
    assert!(!made.encoded.expose().is_empty());
    let found = subject.find("one").await.expect("it was registered");
    let told = RegisteredRunner {
        id: made.id,
        name: name("one").to_string(),
        online: false,
        busy: false,
        labels: labels(),
    };
    assert_eq!(found, told);
    assert_eq!(subject.runners().await, [told]);
}

async fn a_taken_name_is_told(subject: Subject) {
    let made = subject.register("one").await;
    let error = subject.try_register("one", GitHubGroupId::DEFAULT).await.unwrap_err();
    assert_eq!((error.kind, error.retry), (GitHubErrorKind::NameTaken, Retry::Never), "{error}");
    assert_eq!(subject.find("one").await.map(|runner| runner.id), Some(made.id));
}

async fn an_unknown_group_is_told(subject: Subject) {
    let error = subject.try_register("one", GitHubGroupId(999_999)).await.unwrap_err();
    assert_eq!((error.kind, error.retry), (GitHubErrorKind::NotFound, Retry::Never), "{error}");
    assert_eq!(subject.find("one").await, None);
}

async fn remove_takes_away(subject: Subject) {
    let (gone, kept) = (subject.register("one").await, subject.register("two").await);
    subject.remove(gone.id).await.unwrap();
    assert_eq!(subject.find("one").await, None);
    assert_eq!(subject.get(gone.id).await, None);
    let left: Vec<GitHubRunnerId> = subject.runners().await.iter().map(|runner| runner.id).collect();
    assert_eq!(left, [kept.id]);
}

async fn remove_absent_succeeds(subject: Subject) {
    subject.remove(ABSENT).await.unwrap();
    let made = subject.register("one").await;
    subject.remove(made.id).await.unwrap();
    subject.remove(made.id).await.unwrap();
}

async fn remove_busy_is_refused(subject: Subject) {
    let made = subject.register("one").await;
    subject.world.run_job(&made, &subject.repository, &labels()).await;
    let error = subject.remove(made.id).await.unwrap_err();
    assert_eq!((error.kind, error.retry), (GitHubErrorKind::Busy, Retry::Backoff), "{error}");
    let there = subject.get(made.id).await.expect("it was not removed");
    assert!(there.busy && there.online, "{there:?}");
}

async fn lists_are_complete(subject: Subject) {
    let mut made = Vec::new();
    for at in 0..TWO_PAGES {
        made.push(subject.register(&format!("n{at}")).await.id);
    }
    let mut listed: Vec<GitHubRunnerId> = subject.runners().await.iter().map(|runner| runner.id).collect();
    listed.sort_unstable();
    made.sort_unstable();
    assert_eq!(listed, made);
    subject.world.hide_entries().await;
    let error = subject.github.runners(&subject.scope).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unavailable, "{error}");
}

async fn get_absent_is_none(subject: Subject) {
    assert_eq!(subject.get(ABSENT).await, None);
    let made = subject.register("one").await;
    assert_eq!(subject.get(made.id).await.map(|runner| runner.id), Some(made.id));
}

async fn find_absent_is_none(subject: Subject) {
    assert_eq!(subject.find("one").await, None);
    subject.register("one1").await;
    assert_eq!(subject.find("one").await, None, "a part of a name is another name");
}

async fn groups_are_listed(subject: Subject) {
    let groups = subject.github.runner_groups(&subject.scope).await.unwrap();
    let default: Vec<_> = groups.iter().filter(|group| group.default).collect();
    assert_eq!(default.len(), 1, "{groups:?}");
    assert_eq!((default[0].id, default[0].name.as_str()), (GitHubGroupId::DEFAULT, "Default"));
}

async fn open_runs_are_listed(subject: Subject) {
    let runs = async |which| subject.github.open_runs(&subject.repository, which).await.unwrap();
    assert_eq!(runs(OpenRuns::All).await, []);
    let waits = subject.world.queue_job(&subject.repository, &labels()).await;
    for which in [OpenRuns::Moving, OpenRuns::All] {
        let [run] = &runs(which).await[..] else { panic!("one run is open") };
        let jobs = subject.github.open_jobs(&subject.repository, run.id).await.unwrap();
        assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [waits]);
    }
}

async fn open_jobs_are_listed(subject: Subject) {
    assert!(subject.open_jobs().await.is_empty());
    let other = Labels::parse(["other"]).unwrap();
    let waits = subject.world.queue_job(&subject.repository, &other).await;
    let made = subject.register("one").await;
    subject.world.run_job(&made, &subject.repository, &labels()).await;
    let behind = subject.world.queue_job_behind(&subject.repository, &other).await;
    let done = subject.world.end_job(&subject.repository).await;
    let open = subject.open_jobs().await;
    let queued = open.iter().filter(|job| job.report == JobReport::Queued);
    assert_eq!(queued.map(|job| job.id).collect::<Vec<_>>(), [waits, behind]);
    let running: Vec<_> = open.iter().filter(|job| job.report != JobReport::Queued).collect();
    let [job] = running.as_slice() else { panic!("one runs, and {done} has ended: {open:?}") };
    let JobReport::InProgress { runner, runner_id } = &job.report else { panic!("it runs: {job:?}") };
    assert_eq!((runner.as_str(), *runner_id), (name("one").as_str(), Some(made.id)));
}

async fn a_job_is_told(subject: Subject) {
    let asked = Labels::parse(["Linux", "gpu"]).unwrap();
    let id = subject.world.queue_job(&subject.repository, &asked).await;
    let job = subject.github.job(&subject.repository, id).await.unwrap().expect("it was queued");
    assert_eq!((job.id, &job.repository, &job.labels), (id, &subject.repository, &asked));
    assert_eq!(job.report, JobReport::Queued);
}

async fn an_absent_job_is_none(subject: Subject) {
    let job = subject.github.job(&subject.repository, JobId(999_999_999)).await.unwrap();
    assert_eq!(job, None);
}

async fn a_job_is_run_again(subject: Subject) {
    let id = subject.world.end_job(&subject.repository).await;
    let first = subject.github.job(&subject.repository, id).await.unwrap().expect("it was queued");
    let latest = async || subject.github.latest_jobs(&subject.repository, first.run).await.unwrap();
    assert_eq!(latest().await, std::slice::from_ref(&first), "ended or not");
    subject.github.rerun_job(&subject.repository, id).await.unwrap();
    let latest = latest().await;
    let [again] = latest.as_slice() else { panic!("it is in the place of the first: {latest:?}") };
    assert_eq!((&again.name, again.attempt, &again.report), (&first.name, 2, &JobReport::Queued));
    assert_ne!(again.id, id);
    let absent = subject.github.rerun_job(&subject.repository, JobId(999_999_999)).await.unwrap_err();
    assert_eq!(absent.kind, GitHubErrorKind::NotFound, "{absent}");
}

async fn a_job_that_runs_is_not_run_again(subject: Subject) {
    let id = subject.world.queue_job(&subject.repository, &labels()).await;
    let error = subject.github.rerun_job(&subject.repository, id).await.unwrap_err();
    assert_eq!((error.kind, error.retry), (GitHubErrorKind::PermissionDenied, Retry::Never), "{error}");
}

async fn a_hook_is_made_and_listed(subject: Subject) {
    let place = subject.place();
    assert_eq!(subject.github.hooks(&place).await.unwrap(), []);
    let made = subject.github.create_hook(&place, &hook_spec("one")).await.unwrap();
    assert_eq!((made.faults(), made.events.as_slice()), (vec![], &[JOB_EVENT.to_owned()][..]));
    assert_eq!((&made.url, &made.hook), (&hook_spec("one").url, &subject.first_hook().await.hook));
    assert_eq!(subject.github.hooks(&place).await.unwrap(), [made]);
    assert!(subject.world.is_signed_with(&subject.repository, &Secret::new("one")).await);
    let again = subject.github.create_hook(&place, &hook_spec("two")).await.unwrap_err();
    assert_eq!((again.kind, again.retry), (GitHubErrorKind::Invalid, Retry::Never), "{again}");
    let enterprise = Scope::enterprise("inc").unwrap();
    let error = subject.github.hooks(&enterprise).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Invalid, "{error}");
}

async fn a_hook_is_mended(subject: Subject) {
    let made = subject.github.create_hook(&subject.place(), &hook_spec("one")).await.unwrap();
    let moved = HookSpec { url: "https://elsewhere.example.com/webhook".into(), secret: None };
    subject.github.update_hook(&made.hook, &moved).await.unwrap();
    let found = subject.first_hook().await;
    assert_eq!((&found.url, found.faults()), (&moved.url, vec!["it has no secret"]));
    subject.github.update_hook(&made.hook, &hook_spec("two")).await.unwrap();
    assert_eq!(subject.first_hook().await, made);
    assert!(subject.world.is_signed_with(&subject.repository, &Secret::new("two")).await);
    subject.github.delete_hook(&made.hook).await.unwrap();
    let error = subject.github.update_hook(&made.hook, &hook_spec("two")).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::NotFound, "{error}");
}

async fn delete_hook_takes_away(subject: Subject) {
    let made = subject.github.create_hook(&subject.place(), &hook_spec("one")).await.unwrap();
    subject.github.delete_hook(&made.hook).await.unwrap();
    assert_eq!(subject.github.hooks(&subject.place()).await.unwrap(), []);
    subject.github.delete_hook(&made.hook).await.unwrap();
    let error = subject.github.delete_hook(&Hook::App).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Invalid, "{error}");
}

async fn the_hook_of_an_app_is_set(subject: Subject) {
    let set = subject.github.update_hook(&Hook::App, &hook_spec("one")).await;
    let found = subject.github.app_hook().await;
    let Ok(found) = found else {
        let [set, found] = [set.unwrap_err(), found.unwrap_err()];
        assert_eq!([set.kind, found.kind], [GitHubErrorKind::Invalid; 2], "{set}, {found}");
        return;
    };
    set.unwrap();
    assert_eq!((&found.url, found.faults()), (&hook_spec("one").url, vec![]));
    assert!(subject.world.is_signed_with(&subject.repository, &Secret::new("one")).await);
}

async fn a_delivery_is_logged_and_repeated(subject: Subject) {
    let hook = subject.world.fail_delivery(&subject.repository).await;
    let log = subject.log(&hook, 100).await;
    let [failed] = log.as_slice() else { panic!("one delivery was made: {log:?}") };
    assert_eq!((failed.status, failed.event.as_str(), failed.is_redelivery), (503, JOB_EVENT, false));
    assert!(subject.github.deliveries(&hook, Timestamp::MAX, 100).await.unwrap().is_empty());

    subject.github.redeliver(&hook, failed.id).await.unwrap();
    subject.world.deliver().await;
    let log = subject.log(&hook, 100).await;
    let [again, first] = log.as_slice() else { panic!("it was repeated once: {log:?}") };
    assert_eq!(first, failed, "the newest comes first");
    assert_eq!((&again.delivery, again.status, again.is_redelivery), (&failed.delivery, 202, true));
    assert_ne!(again.id, failed.id);
}

async fn a_log_is_cut(subject: Subject) {
    let hook = subject.world.fail_delivery(&subject.repository).await;
    let first = subject.log(&hook, 100).await;
    for _ in 0..2 {
        subject.world.queue_job(&subject.repository, &labels()).await;
        subject.world.deliver().await;
    }
    let log = subject.log(&hook, 100).await;
    assert_eq!((log.len(), &log[2..]), (3, &first[..]), "the newest come first");
    assert_eq!(subject.log(&hook, 2).await, log[..2]);
}

async fn a_refusal_is_unknown(subject: Subject) {
    use GitHubErrorKind::{PermissionDenied, RateLimited, Unavailable, Unclear};
    let made = subject.register("one").await;
    let reads: [(u16, &[GitHubErrorKind]); 5] = [
        (403, &[PermissionDenied, RateLimited]),
        (429, &[RateLimited]),
        (500, &[Unavailable]),
        (502, &[Unavailable]),
        (503, &[Unavailable]),
    ];
    for (status, expected) in reads {
        subject.world.refuse(status, None).await;
        for error in subject.read_errors(made.id).await {
            assert!(expected.contains(&error.kind), "{status} gave {error}");
        }
        let error = subject.remove(made.id).await.unwrap_err();
        let unclear = status >= 500 && error.kind == Unclear;
        assert!(unclear || expected.contains(&error.kind), "{status} gave {error}");
    }
}

async fn a_wait_is_honoured(subject: Subject) {
    // What it takes to ask, a token of an App, is there.
    subject.runners().await;
    subject.world.spend_budget().await;
    let error = subject.github.runners(&subject.scope).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::RateLimited, "{error}");
    let Retry::After(wait) = error.retry else {
        panic!("GitHub said when the next period begins: {error:?}")
    };
    assert!(wait > Duration::ZERO && wait <= Duration::from_hours(1), "{wait:?}");
    for status in [403, 429] {
        subject.world.refuse(status, Some(17)).await;
        let error = subject.github.runners(&subject.scope).await.unwrap_err();
        let wanted = Retry::After(Duration::from_secs(17));
        assert_eq!((error.kind, error.retry), (GitHubErrorKind::RateLimited, wanted), "{error}");
    }
}

impl Subject {
    async fn register(&self, suffix: &str) -> JitConfig {
        self.try_register(suffix, GitHubGroupId::DEFAULT).await.unwrap()
    }

    async fn try_register(&self, suffix: &str, group: GitHubGroupId) -> Result<JitConfig, GitHubError> {
        let request = JitRequest { scope: self.scope.clone(), name: name(suffix), group, labels: labels() };
        self.github.create_jit_config(&request).await
    }

    async fn runners(&self) -> Vec<RegisteredRunner> {
        self.github.runners(&self.scope).await.unwrap()
    }

    async fn get(&self, id: GitHubRunnerId) -> Option<RegisteredRunner> {
        self.github.runner(&self.scope, id).await.unwrap()
    }

    async fn find(&self, suffix: &str) -> Option<RegisteredRunner> {
        self.github.find_runner(&self.scope, &name(suffix)).await.unwrap()
    }

    async fn remove(&self, id: GitHubRunnerId) -> Result<(), GitHubError> {
        self.github.remove_runner(&self.scope, id).await
    }

    async fn open_jobs(&self) -> Vec<JobObservation> {
        let mut jobs = Vec::new();
        for run in self.github.open_runs(&self.repository, OpenRuns::All).await.unwrap() {
            jobs.extend(self.github.open_jobs(&self.repository, run.id).await.unwrap());
        }
        jobs.sort_by_key(|job| job.id);
        jobs
    }

    /// Where hooks are made.
    fn place(&self) -> Scope {
        Scope::Repository(self.repository.clone())
    }

    async fn first_hook(&self) -> RegisteredHook {
        self.github.hooks(&self.place()).await.unwrap().swap_remove(0)
    }

    async fn log(&self, hook: &Hook, most: usize) -> Vec<WebhookDelivery> {
        self.github.deliveries(hook, Timestamp::UNIX_EPOCH, most).await.unwrap()
    }

    /// The errors of all calls that read, each of which must fail.
    async fn read_errors(&self, id: GitHubRunnerId) -> Vec<GitHubError> {
        let (github, scope) = (&self.github, &self.scope);
        vec![
            github.runners(scope).await.unwrap_err(),
            github.runner(scope, id).await.unwrap_err(),
            github.runner(scope, ABSENT).await.unwrap_err(),
            github.find_runner(scope, &name("one")).await.unwrap_err(),
            github.open_runs(&self.repository, OpenRuns::Moving).await.unwrap_err(),
            github.open_jobs(&self.repository, RunId(1)).await.unwrap_err(),
            github.latest_jobs(&self.repository, RunId(1)).await.unwrap_err(),
            github.job(&self.repository, JobId(1)).await.unwrap_err(),
            github.hooks(&self.place()).await.unwrap_err(),
        ]
    }
}

fn name(suffix: &str) -> RunnerName {
    RunnerName::new(format!("conformance-{suffix}")).expect("the suffixes are short")
}

/// A hook that signs with a secret.
fn hook_spec(secret: &str) -> HookSpec {
    HookSpec { url: "https://rm.example.com/webhook".into(), secret: Some(Secret::new(secret)) }
}

fn labels() -> Labels {
    Labels::parse(["self-hosted", "linux", "conformance"]).expect("these are labels")
}
