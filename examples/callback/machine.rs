//! A machine that calls back: what the start scripts do with curl.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use http::{Request, StatusCode};
use runner_manager_backends::fake::{FakeCloud, StartedInstance};
use runner_manager_core::backend::Bootstrap;
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::manager::Manager;
use runner_manager_core::testing::simulated::SharedSimulator;
use runner_manager_core::testing::simulator::Conclusion;

use crate::calls::answer;

/// A machine, and whom it reaches.
pub(crate) struct Machine<'m> {
    pub(crate) manager: &'m Manager,
    pub(crate) github: &'m SharedSimulator,
    pub(crate) cloud: &'m Mutex<FakeCloud>,
    pub(crate) instance: StartedInstance,
}

impl Machine<'_> {
    /// Lives, from its user data until its power is off.
    pub(crate) async fn live(&self) -> anyhow::Result<()> {
        let script = self.call("script", "").await?;
        println!("it is given its script, of {} lines", script.lines().count());
        self.call("progress", "step=began").await?;
        let config = self.call("jit-config", "boot=a-random-word-of-this-start").await?;
        let session = lock(self.github).connect(&config, SystemClock.now())?;
        self.call("progress", "step=listening").await?;
        println!("it says that it is idle, and hears: {}", self.call("heartbeat", "state=idle").await?);

        let job = lock(self.github).poll(session, SystemClock.now())?.context("GitHub has no job for it")?;
        let told = format!(
            "run_id={}&run_attempt={}&repository={}&job={}",
            job.run, job.attempt, job.repository, job.name
        );
        self.call("job-started", &told).await?;
        println!("it says that a job runs, and hears: {}", self.call("heartbeat", "state=busy").await?);
        self.call("job-completed", &told).await?;
        lock(self.github).finish(session, Conclusion::Success, SystemClock.now())?;
        self.call("left", "reason=finished&detail=the runner ended with 0").await?;
        lock(self.cloud).instance_ended(&self.instance.id, SystemClock.now());
        Ok(())
    }

    /// Somebody else calls in its place.
    pub(crate) async fn stranger(&self) -> anyhow::Result<StatusCode> {
        Ok(self.ask("jit-config", "boot=mine", "0123456789abcdef").await?.0)
    }

    async fn call(&self, what: &str, form: &str) -> anyhow::Result<String> {
        let Bootstrap::Callback { token, .. } = &self.instance.bootstrap else {
            bail!("it is not to call back")
        };
        let (status, text) = self.ask(what, form, token.expose()).await?;
        if !status.is_success() {
            bail!("{what}: {status}");
        }
        Ok(text)
    }

    /// Where a real machine has a network, this one has a function.
    async fn ask(&self, what: &str, form: &str, token: &str) -> anyhow::Result<(StatusCode, String)> {
        let method = if what == "script" { "GET" } else { "POST" };
        let path = format!("/bootstrap/v1/runners/{}/{what}", self.instance.runner);
        let request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        let response = answer(self.manager, &request.body(form.to_owned())?).await;
        Ok((response.status(), response.into_body()))
    }
}

pub(crate) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
