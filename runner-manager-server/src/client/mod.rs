//! Commands that ask a running manager over its API: which one, and how it is asked.
//!
//! [`lists`] shows what there is, [`status`](mod@status) how everything is, once or again and again, [`operate`] has something
//! done.

mod lists;
mod operate;
mod status;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use runner_manager_core::domain::Secret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::lists::{ListOptions, WhyOptions, groups, jobs, runners, why};
pub(crate) use self::operate::{GroupOptions, RetireOptions, SweepCommand, drain, resume, retire, sweep};
pub(crate) use self::status::{StatusOptions, TopOptions, status, top};
use crate::output;

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

impl Remote {
    async fn get(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Value> {
        let url = self.address(path, query)?;
        self.ask(client()?.get(url)).await
    }

    async fn post<T: Serialize + Sync>(&self, path: &[&str], body: &T) -> anyhow::Result<Value> {
        let url = self.address(path, &[])?;
        self.ask(client()?.post(url).json(body)).await
    }

    async fn ask(&self, mut request: RequestBuilder) -> anyhow::Result<Value> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.with_context(|| format!("{} does not answer", self.url))?;
        let (status, url) = (response.status(), response.url().clone());
        let body = bounded(response).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).with_context(|| format!("{url} is not a Runner Manager"));
        }
        match serde_json::from_slice::<Refused>(&body) {
            Ok(refused) => bail!("{}", output::printable(&refused.error)),
            Err(_) => bail!("{url} answered {status}"),
        }
    }

    /// The address of a path below `/api/v1`, whatever its parts have in them.
    fn address(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Url> {
        let mut url = self.url.clone();
        let Ok(mut parts) = url.path_segments_mut() else { bail!("{} is no address of a server", self.url) };
        parts.pop_if_empty().extend(["api", "v1"]).extend(path);
        drop(parts);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

fn client() -> anyhow::Result<Client> {
    // A redirect could lead the token elsewhere.
    Ok(Client::builder().timeout(ANSWER_WITHIN).redirect(reqwest::redirect::Policy::none()).build()?)
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
        print(&read(answer)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read<T: DeserializeOwned>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).context("the manager is of another version")
}
