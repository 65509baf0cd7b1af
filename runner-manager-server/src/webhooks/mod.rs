//! `webhooks`: has GitHub's hooks lead to this deployment, shows whether they do, and takes them away again.
//!
//! It works by the configuration alone, whether or not a manager runs. What is asked of GitHub stands in
//! [`site`].

mod site;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::config::{self, BaseUrl, Configuration, GitHubCredentials};
use runner_manager_core::domain::{ConnectionName, RepositoryError, Scope};
use serde::Serialize;

use self::site::Outcome;
pub(crate) use self::site::{Place, Site, Told, webhook_url};
use crate::cli::ConfigFile;
use crate::connect::Connected;
use crate::patience::Patience;
use crate::{WRONG_INPUT, connect, output};

/// What is to be done with hooks.
#[derive(Debug, Subcommand)]
pub(crate) enum WebhooksCommand {
    /// Makes the hook of each scope, or mends the one that is there: address, secret, event.
    Install(WebhooksOptions),
    /// Tells which hooks lead here, what they were last answered, and what is wrong with them.
    Show(WebhooksOptions),
    /// Removes the hooks that lead here, and no other.
    Remove(WebhooksOptions),
}

impl WebhooksCommand {
    const fn options(&self) -> &WebhooksOptions {
        match self {
            Self::Install(options) | Self::Show(options) | Self::Remove(options) => options,
        }
    }
}

/// Which hooks are meant.
#[derive(Debug, Args)]
pub(crate) struct WebhooksOptions {
    #[command(flatten)]
    file: ConfigFile,
    /// Only the hook of this scope: organization:NAME or repository:OWNER/NAME. Default: the scopes of all groups.
    #[arg(long, value_name = "SCOPE", value_parser = scope, conflicts_with = "app")]
    scope: Vec<Scope>,
    /// The App's own hook, which tells of all accounts that the App is installed on.
    #[arg(long)]
    app: bool,
    /// Where webhooks go. Default: the configuration's `server.webhook_url`, or `/webhook` below its `server.public_url`.
    #[arg(long, value_parser = BaseUrl::new)]
    url: Option<BaseUrl>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

fn scope(text: &str) -> Result<Scope, RepositoryError> {
    Scope::try_from(text.to_owned())
}

/// What was done, or found.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing is wrong.
    ok: bool,
    /// Where hooks are to lead.
    url: String,
    /// Each place that was looked at.
    hooks: Vec<Told>,
}

/// Does it, and prints what came of it.
///
/// # Errors
/// When the configuration cannot be used.
pub(crate) async fn run(command: &WebhooksCommand) -> anyhow::Result<ExitCode> {
    let options = command.options();
    let configuration = config::load(&options.file.config, &runner_manager_backends::registry())?;
    if let Some(refusal) = refusal(command, &configuration) {
        return Ok(crate::fail(&anyhow::anyhow!(refusal), WRONG_INPUT));
    }
    let own = options.url.as_ref().map(|url| url.as_str().to_owned());
    let url = own.or_else(|| webhook_url(&configuration)).context("there is no URL")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut hooks = Vec::new();
    for (name, settings) in &configuration.github {
        let accounts = connect::connected(name, settings, &clock)?;
        let patience = Patience::new(clock.clone(), settings.call_timeout);
        for (account, place) in places(command, &configuration, name, &accounts) {
            let site = Site::new(&configuration, account, &patience, url.clone());
            let told = match command {
                WebhooksCommand::Install(_) => site.install(&place).await,
                WebhooksCommand::Show(_) => site.show(&place).await,
                WebhooksCommand::Remove(_) => site.remove(&place).await,
            };
            hooks.push(told.by(account));
        }
    }
    let ok = hooks.iter().all(|told| told.wrong.is_empty());
    let report = Report { ok, url, hooks };
    if options.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why it cannot be done as it was asked for.
fn refusal(command: &WebhooksCommand, configuration: &Configuration) -> Option<&'static str> {
    let options = command.options();
    if options.url.is_none() && configuration.server.webhook_url.is_none() {
        return Some("where webhooks go is not known: set server.public_url, or give --url");
    }
    if options.app && !has_app(configuration) {
        return Some("--app needs an App in the configuration: with a token there is none");
    }
    if options.app && matches!(command, WebhooksCommand::Remove(_)) {
        return Some("an App always has its hook: switch it off in the App's settings at GitHub");
    }
    None
}

/// The places of a connection, each with the credential that looks after it.
fn places<'a>(
    command: &WebhooksCommand,
    configuration: &Configuration,
    name: &ConnectionName,
    accounts: &'a [Connected],
) -> Vec<(&'a Connected, Place)> {
    let options = command.options();
    let apps = accounts.iter().filter(|account| account.app.is_some()).map(|account| (account, Place::App));
    if options.app {
        return apps.collect();
    }
    let own = |scope: &&Scope| connection_of(scope, configuration) == Some(name);
    let is_chosen = !options.scope.is_empty();
    let scopes: BTreeSet<&Scope> = if is_chosen {
        options.scope.iter().filter(own).collect()
    } else {
        configuration.groups.iter().filter(|group| group.github == *name).map(|group| &group.scope).collect()
    };
    let shows_app = matches!(command, WebhooksCommand::Show(_)) && !is_chosen;
    let first = accounts.first();
    let scopes = scopes.into_iter().filter_map(|scope| Some((first?, Place::Scope(scope.clone()))));
    scopes.chain(apps.filter(|_| shows_app)).collect()
}

/// The connection that a scope is worked on by: that of its groups, else that of groups of the same owner, else
/// the first.
fn connection_of<'a>(scope: &Scope, configuration: &'a Configuration) -> Option<&'a ConnectionName> {
    let owner = |scope: &Scope| match scope {
        Scope::Organization(name) => Some(name.clone()),
        Scope::Repository(repository) => Some(repository.owner().to_ascii_lowercase()),
        Scope::Enterprise(_) => None,
    };
    let groups = &configuration.groups;
    let same = groups.iter().find(|group| group.scope == *scope);
    let of_owner =
        || groups.iter().find(|group| owner(scope).is_some() && owner(&group.scope) == owner(scope));
    same.or_else(of_owner).map(|group| &group.github).or_else(|| configuration.github.keys().next())
}

fn has_app(configuration: &Configuration) -> bool {
    let mut credentials = configuration.github.values().flat_map(|settings| &settings.credentials);
    credentials.any(|credentials| matches!(credentials, GitHubCredentials::App { .. }))
}

fn print(report: &Report) -> std::io::Result<()> {
    let rows = report.hooks.iter().map(|told| {
        let Told { place, outcome, hook, events, last, .. } = told;
        let id = hook.map(|id| id.to_string()).unwrap_or_default();
        let last = last.as_ref().map(|last| format!("{} at {}", last.status, last.at)).unwrap_or_default();
        [place.clone(), word(*outcome).to_owned(), id, events.join(" "), last]
    });
    let rows: Vec<_> = rows.collect();
    output::line(&output::printable(&format!("hooks that lead to {}", report.url)))?;
    output::table(["PLACE", "OUTCOME", "HOOK", "EVENTS", "LAST ANSWER"], &rows)?;
    for Told { place, wrong, remarks, .. } in &report.hooks {
        for what in wrong {
            output::line(&output::printable(&format!("WRONG    {place}: {what}")))?;
        }
        for what in remarks {
            output::line(&output::printable(&format!("note     {place}: {what}")))?;
        }
    }
    Ok(())
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Updated => "updated",
        Outcome::Removed => "removed",
        Outcome::Found => "found",
        Outcome::Absent => "absent",
        Outcome::Unknown => "unknown",
    }
}
