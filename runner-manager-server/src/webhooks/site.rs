//! The hooks at GitHub that lead to this deployment: looked for, set and removed, one place at a time.

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use runner_manager_core::config::{Configuration, Webhooks};
use runner_manager_core::domain::{Scope, Secret, WebhookDelivery};
use runner_manager_core::github::{GitHub, GitHubError, GitHubErrorKind, Hook, HookSpec, RegisteredHook};
use serde::Serialize;

use crate::connect::Connected;
use crate::patience::Patience;

/// For how long GitHub keeps a hook's log.
const LOG: SignedDuration = SignedDuration::from_hours(72);

/// Where a hook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A hook of an organization or a repository.
    Scope(Scope),
    /// The App's.
    App,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope(scope) => scope.fmt(f),
            Self::App => f.write_str("app"),
        }
    }
}

/// What became of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// There was none; there is now.
    Created,
    /// The one that was there is as it should be.
    Updated,
    /// It is gone.
    Removed,
    /// It is there.
    Found,
    /// None leads here.
    Absent,
    /// GitHub did not say, or not do it.
    Unknown,
}

/// What was done or found at one place.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    /// The scope, or `app`.
    pub(super) place: String,
    /// What was done.
    pub(super) outcome: Outcome,
    /// GitHub's number of the hook; an App's has none.
    pub(super) hook: Option<u64>,
    /// The events that it tells of.
    pub(super) events: Vec<String>,
    /// Whether it sends anything.
    pub(super) active: bool,
    /// The last delivery.
    pub(super) last: Option<Last>,
    /// What is wrong, in words.
    pub(crate) wrong: Vec<String>,
    /// What is good to know, in words.
    pub(crate) remarks: Vec<String>,
}

/// How the last delivery went.
#[derive(Debug, Serialize)]
pub(super) struct Last {
    pub(super) at: Timestamp,
    /// What was answered; 0 where nothing was.
    pub(super) status: u16,
}

impl Told {
    fn new(place: &Place, outcome: Outcome) -> Self {
        let (hook, events, last) = (None, Vec::new(), None);
        Self {
            place: place.to_string(),
            outcome,
            hook,
            events,
            active: false,
            last,
            wrong: vec![],
            remarks: vec![],
        }
    }

    /// The same, where several look after hooks: named for who looked after this one.
    pub(super) fn by(mut self, account: &Connected) -> Self {
        if account.called != "GitHub" {
            self.place = format!("{} by {}", self.place, account.called);
        }
        self
    }

    fn failed(place: &Place, error: &anyhow::Error) -> Self {
        Self { wrong: vec![format!("{error:#}")], ..Self::new(place, Outcome::Unknown) }
    }

    /// Whether GitHub did not say.
    pub(crate) fn is_unknown(&self) -> bool {
        self.outcome == Outcome::Unknown
    }

    /// Whether a hook leads here.
    pub(crate) fn is_found(&self) -> bool {
        self.outcome == Outcome::Found
    }
}

/// Where the webhooks of a configuration go.
pub(crate) fn webhook_url(configuration: &Configuration) -> Option<String> {
    configuration.server.webhook_url.as_ref().map(ToString::to_string)
}

/// The hooks that lead to one URL.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    github: Arc<dyn GitHub>,
    patience: &'a Patience,
    url: String,
    /// None where webhooks need no signature.
    secret: Option<Secret>,
}

impl<'a> Site<'a> {
    pub(crate) fn new(
        configuration: &Configuration,
        account: &Connected,
        patience: &'a Patience,
        url: String,
    ) -> Self {
        let secret = match &configuration.server.webhooks {
            Webhooks::Signed(secrets) => Some(secrets.present.clone()),
            Webhooks::Unsigned => None,
        };
        Self { github: account.github.clone(), patience, url, secret }
    }

    /// Has the hook of a place lead here.
    pub(super) async fn install(&self, place: &Place) -> Told {
        let spec = HookSpec { url: self.url.clone(), secret: self.secret.clone() };
        self.try_install(place, &spec).await.unwrap_or_else(|error| Told::failed(place, &error))
    }

    async fn try_install(&self, place: &Place, spec: &HookSpec) -> anyhow::Result<Told> {
        let before = self.find(place).await?;
        let Some(before) = before else {
            let Place::Scope(scope) = place else { anyhow::bail!("GitHub tells of no hook of the App") };
            let made = self.ask(place, self.github.create_hook(scope, spec)).await?;
            return Ok(self.told(place, Outcome::Created, &made));
        };
        self.ask(place, self.github.update_hook(&before.hook, spec)).await?;
        let mut told = match self.find(place).await? {
            Some(after) => self.told(place, Outcome::Updated, &after),
            None => anyhow::bail!("the hook was changed, and is not there any more"),
        };
        if before.goes_to(&self.url) {
            told.remarks.extend(self.faults(&before).map(|fault| format!("until now {fault}")));
        } else {
            told.remarks.push(format!("until now it led to `{}`", before.url));
        }
        Ok(told)
    }

    /// Tells how the hook of a place fares.
    pub(crate) async fn show(&self, place: &Place) -> Told {
        self.try_show(place).await.unwrap_or_else(|error| Told::failed(place, &error))
    }

    async fn try_show(&self, place: &Place) -> anyhow::Result<Told> {
        let found = self.find(place).await?.filter(|hook| hook.goes_to(&self.url));
        let Some(hook) = found else {
            let absent = format!("no hook leads to {}: `runner-manager webhooks install` makes it", self.url);
            // One hook is enough, so that an App's that leads elsewhere is nothing to be mended.
            return Ok(match place {
                Place::App => Told {
                    remarks: vec!["the App's hook leads elsewhere".to_owned()],
                    ..Told::new(place, Outcome::Absent)
                },
                Place::Scope(_) => Told { wrong: vec![absent], ..Told::new(place, Outcome::Absent) },
            });
        };
        let mut told = self.told(place, Outcome::Found, &hook);
        let since = self.patience.clock().now().checked_sub(LOG)?;
        let log = self.ask(place, self.github.deliveries(&hook.hook, since, 1)).await?;
        if let Some(last) = log.first() {
            told.last = Some(Last { at: last.at, status: last.status });
            told.wrong.extend(complaint(last));
        }
        Ok(told)
    }

    /// Removes the hook of a place that leads here.
    pub(super) async fn remove(&self, place: &Place) -> Told {
        let removed = async {
            let Some(hook) = self.find(place).await? else { return Ok(Told::new(place, Outcome::Absent)) };
            self.ask(place, self.github.delete_hook(&hook.hook)).await?;
            let mut told = self.told(place, Outcome::Removed, &hook);
            told.wrong.clear();
            Ok(told)
        };
        removed.await.unwrap_or_else(|error: anyhow::Error| Told::failed(place, &error))
    }

    /// The hook of a scope that leads here; the App's wherever it leads.
    async fn find(&self, place: &Place) -> anyhow::Result<Option<RegisteredHook>> {
        match place {
            Place::App => self.ask(place, self.github.app_hook()).await.map(Some),
            Place::Scope(scope) => {
                let hooks = self.ask(place, self.github.hooks(scope)).await?;
                Ok(hooks.into_iter().find(|hook| hook.goes_to(&self.url)))
            }
        }
    }

    fn told(&self, place: &Place, outcome: Outcome, hook: &RegisteredHook) -> Told {
        let number = match hook.hook {
            Hook::Of(_, number) => Some(number),
            Hook::App => None,
        };
        let mut wrong: Vec<String> = self.faults(hook).map(str::to_owned).collect();
        if *place == Place::App && !hook.tells_of_jobs() {
            wrong.push("subscribe the App to the event `Workflow job` in its settings at GitHub".to_owned());
        }
        let (events, active) = (hook.events.clone(), hook.is_active);
        Told { hook: number, events, active, wrong, ..Told::new(place, outcome) }
    }

    /// What is wrong with a hook, by our needs.
    fn faults(&self, hook: &RegisteredHook) -> impl Iterator<Item = &'static str> + use<> {
        let signed_enough =
            RegisteredHook { is_signed: hook.is_signed || self.secret.is_none(), ..hook.clone() };
        signed_enough.faults().into_iter()
    }

    /// The answer to one question, or why there is none.
    async fn ask<T>(
        &self,
        place: &Place,
        question: impl Future<Output = Result<T, GitHubError>>,
    ) -> anyhow::Result<T> {
        self.patience.ask(question).await.map_err(|error| {
            let refusal = error.downcast_ref::<GitHubError>();
            match refusal.and_then(|refusal| self.hint(place, refusal.kind)) {
                Some(hint) => error.context(hint),
                None => error,
            }
        })
    }

    /// What to do about a refusal.
    fn hint(&self, place: &Place, kind: GitHubErrorKind) -> Option<String> {
        match (place, kind) {
            (Place::Scope(Scope::Enterprise(slug)), GitHubErrorKind::Invalid) => Some(format!(
                "add the webhook in the settings of the enterprise {slug}: payload URL {}, content type \
                 application/json, the configuration's secret, and the event Workflow jobs",
                self.url
            )),
            (Place::Scope(scope), GitHubErrorKind::NotFound | GitHubErrorKind::PermissionDenied) => {
                let permission = match scope {
                    Scope::Organization(_) => "Webhooks of the organization (a token: admin:org_hook)",
                    Scope::Repository(_) | Scope::Enterprise(_) => {
                        "Webhooks of the repository (a token: admin:repo_hook)"
                    }
                };
                Some(format!("the credentials may need the permission {permission}"))
            }
            _ => None,
        }
    }
}

/// What the last delivery says of a hook.
fn complaint(last: &WebhookDelivery) -> Option<String> {
    let why = match last.status {
        _ if last.is_taken() => return None,
        0 => "was not answered: does the URL lead to the manager from the internet?".to_owned(),
        401 => "was answered 401: its secret is another one: `runner-manager webhooks install` sets ours"
            .to_owned(),
        other => format!("was answered {other}"),
    };
    Some(format!("its last delivery, at {}, {why}", last.at))
}
