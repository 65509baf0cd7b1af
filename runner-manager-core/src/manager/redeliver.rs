//! Finds the webhooks that did not get through in GitHub's logs of deliveries, and has them delivered again.
//!
//! One task for each place that may have a hook that leads here: the scopes, and the Apps that we work as. Which
//! deliveries those are, and when a log is read, [`policy::redelivery`](crate::policy::redelivery) says. What is known
//! of a hook stands in the store: that GitHub is about to be asked is written down before each call, under the task's
//! claim, so that whoever carries on after a crash neither forgets a delivery nor asks for it without end.
//!
//! It makes no job known by itself: what GitHub delivers again comes in by the path of all webhooks.

use jiff::Timestamp;

use super::Manager;
use super::calls::CallError;
use super::worker::{TaskError, Work};
use crate::domain::{
    ConnectionName, DeliveryId, FoundHook, HookPlace, HookRecord, Scope, WebhookDelivery, later,
};
use crate::github::{GitHubError, GitHubErrorKind, Hook};
use crate::policy::redelivery::{
    Answer, MOST_READ, News, answered, asking, due, is_sought, pause, read, since,
};
use crate::queue::{ClaimToken, NewTask, Task};
use crate::retry::Retry;
use crate::store::{Change, Expected, StoreError, Version, Write};

/// A hook's record while its task is worked on: nobody else writes it then.
struct Held<'c> {
    claim: &'c ClaimToken,
    record: HookRecord,
    /// None before the record was first written.
    version: Option<Version>,
}

/// What is known of the hooks that may tell of a scope's jobs.
#[derive(Debug, Default)]
pub(super) struct HooksOfScope {
    /// Those of the Apps of its connection; none for a token's account, and before the first look.
    of_apps: Vec<Option<HookRecord>>,
    own: Option<HookRecord>,
}

impl HooksOfScope {
    /// Whether something holds for the scope's own hook, or for the hooks of Apps.
    pub(super) fn of_one_way(&self, holds: impl Fn(&HookRecord) -> bool) -> bool {
        self.own.as_ref().is_some_and(&holds) || self.of_all_apps(holds)
    }

    /// Whether something holds for the hook of every App: it tells of what its App is installed on alone, and nobody
    /// knows here which of several Apps that is.
    fn of_all_apps(&self, holds: impl Fn(&HookRecord) -> bool) -> bool {
        !self.of_apps.is_empty() && self.of_apps.iter().all(|hook| hook.as_ref().is_some_and(&holds))
    }
}

impl Manager {
    /// Looks at the hook of a place, and has delivered again what failed.
    pub(super) async fn redeliver_webhooks(
        &self,
        claim: &ClaimToken,
        place: &HookPlace,
    ) -> Result<Work, TaskError> {
        let settings = &self.parts().settings;
        let (Some(interval), Some(url)) = (settings.redeliver_interval, &settings.webhook_url) else {
            // Another replica may do it, so that the task stays.
            return Ok(Work::AgainAt(later(self.now().await?, settings.sweep_interval)));
        };
        self.inner.catalogue.forget();
        let found = self.store().hook(place).await?;
        let version = found.as_ref().map(|found| found.version);
        if !self.is_hook_place(place).await? {
            self.forget_hook(claim, place, version).await?;
            return Ok(Work::Done);
        }
        let record = found.map_or_else(|| HookRecord::new(place.clone()), |found| found.value);
        let was_troubled = record.trouble.is_some();
        let mut held = Held { claim, record, version };
        if !self.seek_hook(&mut held, url).await? {
            return Ok(Work::Done);
        }
        let looked = self.look_at_log(&mut held).await;
        let news = match looked {
            Ok(news) => news,
            Err(error) => {
                // What was found out so far is kept, where the store takes it.
                if let Err(unwritten) = self.write_hook(&mut held).await {
                    tracing::debug!(%place, error = %unwritten, "what is known of the hook was not written down");
                }
                return Err(error);
            }
        };
        self.write_hook(&mut held).await?;
        if let Some(trouble) = held.record.trouble.as_ref().filter(|_| !was_troubled) {
            tracing::warn!(%place, trouble, "failed webhooks cannot be redelivered");
        }
        let now = self.now().await?;
        Ok(Work::AgainAt(later(now, pause(&held.record, interval, news.more, !was_troubled, now))))
    }

    /// The tasks that look at hooks: none where it is switched off, or where not known which hooks lead here.
    pub(super) async fn redelivery_tasks(&self) -> Result<Vec<Task>, StoreError> {
        if !self.redelivers() {
            return Ok(Vec::new());
        }
        let mut places = Vec::new();
        for scope in self.scopes().await? {
            let connection = self.connection_of(&scope).await?;
            places.extend(self.places_of_apps(&connection).chain(place_of(&scope)));
        }
        places.sort();
        places.dedup();
        Ok(places.into_iter().map(|place| Task::RedeliverWebhooks { place }).collect())
    }

    /// The task that begins to look at a new scope's hook.
    pub(super) fn redelivery_task(&self, scope: &Scope) -> Option<NewTask> {
        let place = place_of(scope).filter(|_| self.redelivers())?;
        Some(NewTask::now(Task::RedeliverWebhooks { place }))
    }

    fn redelivers(&self) -> bool {
        let settings = &self.parts().settings;
        settings.redeliver_interval.is_some() && settings.webhook_url.is_some()
    }

    /// Whether a place is one of the deployment's.
    async fn is_hook_place(&self, place: &HookPlace) -> Result<bool, StoreError> {
        let scopes = self.scopes().await?;
        let HookPlace::App { connection, account } = place else {
            return Ok(scopes.iter().any(|scope| place_of(scope).as_ref() == Some(place)));
        };
        // A connection that only other replicas have is not ours to judge.
        let accounts = self.parts().github.accounts(connection).len();
        Ok(self.is_connection_used(connection).await? && (accounts == 0 || *account < accounts))
    }

    async fn is_connection_used(&self, connection: &ConnectionName) -> Result<bool, StoreError> {
        for scope in self.scopes().await? {
            if self.connection_of(&scope).await? == *connection {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks for the place's hook where it is time to. Tells whether there can be one.
    async fn seek_hook(&self, held: &mut Held<'_>, url: &str) -> Result<bool, TaskError> {
        let now = self.now().await?;
        let place = held.record.place.clone();
        let needs_none = match &place {
            HookPlace::Scope(scope) => {
                self.hooks_of(scope).await?.of_all_apps(|hook| hook.found == Some(FoundHook::OfTheApp))
            }
            HookPlace::App { .. } => false,
        };
        if !needs_none && !is_sought(&held.record, url, now) {
            return Ok(true);
        }
        let found = match &place {
            HookPlace::Scope(_) if needs_none => Ok(FoundHook::Absent),
            HookPlace::Scope(scope) => self.hook_of_scope(&place, scope, url).await,
            HookPlace::App { .. } => match self.hook_of_app(&place, url).await {
                Err(CallError::Failed(error)) if error.kind == GitHubErrorKind::Invalid => return Ok(false),
                found => found,
            },
        };
        match found {
            Ok(found) => {
                (held.record.found, held.record.sought_at) = (Some(found), Some(now));
                held.record.url = Some(url.to_owned());
                held.record.trouble = None;
            }
            Err(error) => {
                if held.record.url.as_deref() != Some(url) {
                    held.record.found = None;
                }
                held.record.trouble = Some(told(&place, error)?);
            }
        }
        Ok(true)
    }

    async fn hook_of_scope(
        &self,
        place: &HookPlace,
        scope: &Scope,
        url: &str,
    ) -> Result<FoundHook, CallError<GitHubError>> {
        let hooks = self.list_of_hook(place, "hooks", |github| github.hooks(scope)).await?;
        let ours = hooks.iter().find(|hook| hook.goes_to(url) && hook.is_active && hook.tells_of_jobs());
        Ok(match ours.map(|hook| &hook.hook) {
            Some(Hook::Of(_, number)) => FoundHook::Numbered(*number),
            Some(Hook::App) | None => FoundHook::Absent,
        })
    }

    async fn hook_of_app(&self, place: &HookPlace, url: &str) -> Result<FoundHook, CallError<GitHubError>> {
        let hook = self.list_of_hook(place, "app_hook", |github| github.app_hook()).await?;
        let is_ours = hook.goes_to(url) && hook.tells_of_jobs();
        Ok(if is_ours { FoundHook::OfTheApp } else { FoundHook::Absent })
    }

    /// What is known of the hooks that may tell of a scope's jobs.
    pub(super) async fn hooks_of(&self, scope: &Scope) -> Result<HooksOfScope, StoreError> {
        let connection = self.connection_of(scope).await?;
        let mut hooks = HooksOfScope::default();
        for place in self.places_of_apps(&connection) {
            hooks.of_apps.push(self.store().hook(&place).await?.map(|hook| hook.value));
        }
        if let Some(place) = place_of(scope) {
            hooks.own = self.store().hook(&place).await?.map(|hook| hook.value);
        }
        Ok(hooks)
    }

    /// Where the Apps of a connection may have hooks.
    fn places_of_apps(&self, connection: &ConnectionName) -> impl Iterator<Item = HookPlace> + use<> {
        let (accounts, connection) = (self.parts().github.accounts(connection).len(), connection.clone());
        (0..accounts).map(move |account| HookPlace::App { connection: connection.clone(), account })
    }

    /// Reads the log of the place's hook, and has delivered again what failed.
    async fn look_at_log(&self, held: &mut Held<'_>) -> Result<News, TaskError> {
        let place = held.record.place.clone();
        let Some(hook) = hook_at(&held.record) else { return Ok(News::default()) };
        let from = since(&held.record, self.now().await?);
        let listed =
            self.list_of_hook(&place, "deliveries", |github| github.deliveries(&hook, from, MOST_READ)).await;
        let log = match listed {
            Ok(log) => log,
            Err(error) => {
                held.record.trouble = Some(told(&place, error)?);
                held.record.found = None;
                return Ok(News::default());
            }
        };
        if log.len() >= MOST_READ {
            tracing::warn!(%place, most = MOST_READ, "more was delivered than is read at a time: older webhooks that failed are not redelivered");
        }
        held.record.trouble = None;
        let now = self.now().await?;
        let news = self.take_in_log(held, &log, now);
        for delivery in due(&held.record, news.allowed, now) {
            self.redeliver(held, &hook, &delivery).await?;
            if held.record.trouble.is_some() {
                break;
            }
        }
        Ok(news)
    }

    fn take_in_log(&self, held: &mut Held<'_>, log: &[WebhookDelivery], now: Timestamp) -> News {
        let (record, news) = read(held.record.clone(), log, now);
        held.record = record;
        let News { failed, taken, failed_again, .. } = news;
        if failed + taken + failed_again > 0 {
            let place = &held.record.place;
            tracing::info!(%place, failed, taken, failed_again, "log of webhook deliveries read");
        }
        self.count_redeliveries("taken", taken);
        self.count_redeliveries("failed", failed_again);
        news
    }

    /// Has GitHub deliver one delivery again.
    async fn redeliver(
        &self,
        held: &mut Held<'_>,
        hook: &Hook,
        delivery: &DeliveryId,
    ) -> Result<(), TaskError> {
        let now = self.now().await?;
        let Some(failed) = held.record.failed.get_mut(delivery) else { return Ok(()) };
        let (before, attempt) = (failed.redelivery, failed.attempt);
        failed.redelivery = asking(before, now);
        self.write_hook(held).await?;
        let place = held.record.place.clone();
        let asked = self.ask_of_hook(&place, "redeliver", |github| github.redeliver(hook, attempt)).await;
        let (answer, ending) = match asked {
            Ok(()) => (Answer::Accepted, None),
            Err(CallError::TimedOut(_)) => (Answer::Unclear, None),
            Err(CallError::NotMade(error)) => (Answer::NotMade, Some(error)),
            Err(CallError::Failed(error)) if error.kind == GitHubErrorKind::PermissionDenied => {
                held.record.trouble = Some(error.about_hooks(&place));
                (Answer::NotMade, None)
            }
            Err(CallError::Failed(error)) => refusal(&place, delivery, &error),
        };
        let word = match answer {
            Answer::Accepted => "asked",
            Answer::NotMade => "not_made",
            Answer::Refused => "refused",
            Answer::Unclear => "unclear",
        };
        self.count_redeliveries(word, 1);
        if let Some(failed) = held.record.failed.get_mut(delivery) {
            failed.redelivery = answered(before, answer, now);
        }
        ending.map_or(Ok(()), Err)
    }

    fn count_redeliveries(&self, outcome: &'static str, count: u64) {
        if count > 0 {
            self.inner
                .statistics
                .count(|counters| *counters.redeliveries.entry(outcome).or_default() += count);
        }
    }

    async fn write_hook(&self, held: &mut Held<'_>) -> Result<(), StoreError> {
        let expected = held.version.map_or(Expected::Absent, Expected::Version);
        let change = Change::PutHook { record: held.record.clone(), expected };
        held.version = self.change_hook(held.claim, change).await?;
        Ok(())
    }

    async fn forget_hook(
        &self,
        claim: &ClaimToken,
        place: &HookPlace,
        version: Option<Version>,
    ) -> Result<(), StoreError> {
        let Some(expected) = version else { return Ok(()) };
        self.change_hook(claim, Change::RemoveHook { place: place.clone(), expected }).await.map(drop)
    }

    async fn change_hook(&self, claim: &ClaimToken, change: Change) -> Result<Option<Version>, StoreError> {
        let write = Write {
            operation: self.operation(),
            claim: Some(claim.clone()),
            ends_claim: false,
            on_trust: false,
            changes: vec![change],
            tasks: Vec::new(),
        };
        Ok(self.apply(write).await?.versions.into_iter().next().flatten())
    }
}

/// Where a scope's hook is. GitHub has no calls for an enterprise's hooks.
fn place_of(scope: &Scope) -> Option<HookPlace> {
    match scope {
        Scope::Organization(_) | Scope::Repository(_) => Some(HookPlace::Scope(scope.clone())),
        Scope::Enterprise(_) => None,
    }
}

/// The hook whose log is to be read.
fn hook_at(record: &HookRecord) -> Option<Hook> {
    match (&record.place, record.found?) {
        (HookPlace::Scope(scope), FoundHook::Numbered(number)) => Some(Hook::Of(scope.clone(), number)),
        (HookPlace::App { .. }, FoundHook::OfTheApp) => Some(Hook::App),
        (_, FoundHook::Absent | FoundHook::Numbered(_) | FoundHook::OfTheApp) => None,
    }
}

/// What people are told of a hook that cannot be read.
///
/// # Errors
/// What may go another time.
fn told(place: &HookPlace, error: CallError<GitHubError>) -> Result<String, TaskError> {
    let error = match error {
        CallError::Failed(error) => error,
        CallError::TimedOut(error) | CallError::NotMade(error) => return Err(error),
    };
    match error.kind {
        GitHubErrorKind::NotFound
        | GitHubErrorKind::NoInstallation
        | GitHubErrorKind::PermissionDenied
        | GitHubErrorKind::Invalid
            if error.retry == Retry::Never =>
        {
            Ok(error.about_hooks(place))
        }
        _ => Err(TaskError::outside(&error, error.retry)),
    }
}

/// What a refused redelivery means, and what ends the run.
fn refusal(place: &HookPlace, delivery: &DeliveryId, error: &GitHubError) -> (Answer, Option<TaskError>) {
    tracing::warn!(%place, %delivery, %error, "GitHub does not redeliver a webhook");
    match error.kind {
        // It is too old, or GitHub has it no more.
        GitHubErrorKind::NotFound | GitHubErrorKind::Invalid => (Answer::Refused, None),
        GitHubErrorKind::Unclear | GitHubErrorKind::Unexpected => (Answer::Unclear, None),
        GitHubErrorKind::PermissionDenied
        | GitHubErrorKind::NoInstallation
        | GitHubErrorKind::Unauthenticated
        | GitHubErrorKind::RateLimited
        | GitHubErrorKind::Unavailable
        | GitHubErrorKind::NameTaken
        | GitHubErrorKind::Busy => (Answer::NotMade, Some(TaskError::outside(error, error.retry))),
    }
}
