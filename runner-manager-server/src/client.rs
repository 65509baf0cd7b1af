//! `groups`, `runners`, `jobs`, `why`: a running manager, asked over its API.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Client, StatusCode, Url};
use runner_manager_core::domain::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::output;
use crate::view::{Group, Job, Listing, Loss, Runner};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The largest answer that is read: the longest page of the API is far below it.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Which manager is asked.
#[derive(Debug, Args)]
struct Remote {
    /// Where the manager answers.
    #[arg(long, env = "RUNNER_MANAGER_URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// A token of its configuration.
    #[arg(long, env = "RUNNER_MANAGER_TOKEN", hide_env_values = true, value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::new(text)))]
    token: Option<Secret>,
    /// Prints the API's answer as it is.
    #[arg(long)]
    json: bool,
}

/// Which part of a list is asked for.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    remote: Remote,
    /// How many at most, 1 to 500.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Those after this one: the `next` of the page before.
    #[arg(long)]
    after: Option<String>,
}

/// Which job is asked about.
#[derive(Debug, Args)]
pub(crate) struct WhyOptions {
    #[command(flatten)]
    remote: Remote,
    /// GitHub's number of the job: the last one in its address.
    job: u64,
}

/// Lists the groups.
///
/// # Errors
/// When the manager does not answer as it should.
pub(crate) async fn groups(options: &ListOptions) -> anyhow::Result<ExitCode> {
    let answer = options.remote.get("api/v1/groups", &[]).await?;
    show(&options.remote, answer, |groups: &Listing<Group>| {
        let rows: Vec<_> = groups
            .items
            .iter()
            .map(|group| {
                let bounds = format!("{}/{}", group.alive, group.max);
                let trouble = match (&group.draining, &group.blocked) {
                    (Some(_), _) => "draining".to_owned(),
                    (None, blocked) => blocked.clone().unwrap_or_default(),
                };
                let [queued, idle, busy] =
                    [group.counts.queued, group.counts.idle, group.counts.busy].map(|n| n.to_string());
                [group.name.clone(), group.scope.clone(), bounds, queued, idle, busy, trouble]
            })
            .collect();
        output::table(["GROUP", "SCOPE", "RUNNERS", "QUEUED", "IDLE", "BUSY", "BLOCKED"], &rows)
    })
}

/// Lists the runners.
///
/// # Errors
/// When the manager does not answer as it should.
pub(crate) async fn runners(options: &ListOptions) -> anyhow::Result<ExitCode> {
    let answer = options.remote.get("api/v1/runners", &options.query()).await?;
    show(&options.remote, answer, |runners: &Listing<Runner>| {
        let rows: Vec<_> = runners
            .items
            .iter()
            .map(|runner| {
                let since = format!("{:.0}", runner.since);
                [
                    runner.name.clone(),
                    runner.state.to_string(),
                    since,
                    runner.backend.clone(),
                    runner.detail.clone(),
                ]
            })
            .collect();
        output::table(["RUNNER", "STATE", "SINCE", "BACKEND", "DETAIL"], &rows)?;
        more(runners.next.as_deref())
    })
}

/// Lists the jobs.
///
/// # Errors
/// When the manager does not answer as it should.
pub(crate) async fn jobs(options: &ListOptions) -> anyhow::Result<ExitCode> {
    let answer = options.remote.get("api/v1/jobs", &options.query()).await?;
    show(&options.remote, answer, |jobs: &Listing<Job>| {
        let rows: Vec<_> = jobs
            .items
            .iter()
            .map(|job| {
                let lost = job.lost.as_ref().map(Loss::sentence);
                let note = lost.or_else(|| job.waits.clone()).or_else(|| job.runner.clone());
                let note = note.unwrap_or_default();
                [job.id.to_string(), job.repository.clone(), job.name.clone(), job.state.clone(), note]
            })
            .collect();
        output::table(["JOB", "REPOSITORY", "NAME", "STATE", "RUNNER OR REASON"], &rows)?;
        more(jobs.next.as_deref())
    })
}

/// Tells why a job waits, or what became of it.
///
/// # Errors
/// When the manager does not answer as it should, or knows no such job.
pub(crate) async fn why(options: &WhyOptions) -> anyhow::Result<ExitCode> {
    let answer = options.remote.get(&format!("api/v1/jobs/{}", options.job), &[]).await?;
    show(&options.remote, answer, |job: &Job| {
        let what = match (&job.waits, &job.runner) {
            (Some(reason), _) => format!("waits: {reason}"),
            (None, Some(runner)) => format!("{} on runner {runner}", job.state.replace('_', " ")),
            (None, None) => job.state.replace('_', " "),
        };
        let line = format!("job {} ({}) of {}: {what}", job.id, job.name, job.repository);
        output::line(&output::printable(&line))?;
        match &job.lost {
            Some(loss) => output::line(&output::printable(&loss.sentence())),
            None => Ok(()),
        }
    })
}

impl ListOptions {
    fn query(&self) -> Vec<(&'static str, String)> {
        let after = self.after.clone().map(|after| ("after", after));
        std::iter::once(("limit", self.limit.to_string())).chain(after).collect()
    }
}

impl Remote {
    async fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        let url = self.address(path, query)?;
        // A redirect could lead the token elsewhere.
        let client =
            Client::builder().timeout(ANSWER_WITHIN).redirect(reqwest::redirect::Policy::none()).build()?;
        let mut request = client.get(url.clone());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.with_context(|| format!("{} does not answer", self.url))?;
        let status = response.status();
        let body = bounded(response).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).with_context(|| format!("{url} is not a Runner Manager"));
        }
        match serde_json::from_slice::<Refused>(&body) {
            Ok(refused) => bail!("{}", output::printable(&refused.error)),
            Err(_) => bail!("{url} answered {status}"),
        }
    }

    fn address(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Url> {
        let base = format!("{}/", self.url.as_str().trim_end_matches('/'));
        let mut url = Url::parse(&base)?.join(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

/// What the API says when it refuses.
#[derive(Debug, Deserialize)]
struct Refused {
    error: String,
}

async fn bounded(mut response: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            bail!("the answer is larger than {MAX_ANSWER} bytes");
        }
    }
    Ok(body)
}

fn show<T: DeserializeOwned>(
    remote: &Remote,
    answer: Value,
    print: impl FnOnce(&T) -> std::io::Result<()>,
) -> anyhow::Result<ExitCode> {
    if remote.json {
        output::json(&answer)?;
    } else {
        let read = serde_json::from_value(answer).context("the manager is of another version")?;
        print(&read)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn more(next: Option<&str>) -> std::io::Result<()> {
    match next {
        Some(next) => output::line(&format!("more: --after {next}")),
        None => Ok(()),
    }
}
