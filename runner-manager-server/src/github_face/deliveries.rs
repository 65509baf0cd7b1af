//! The sender of webhooks: takes what is due, sends it as GitHub does, and tells the simulator what came of it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::testing::simulator::{Delivery, JobId};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::SimulatedGitHub;
use crate::http_face::local_client;

/// How many webhooks are on their way at once.
const AT_ONCE: usize = 64;
/// How long a receiver may take, as at GitHub:
/// <https://docs.github.com/webhooks/using-webhooks/best-practices-for-using-webhooks>.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is read of a payload.
#[derive(Deserialize)]
struct Payload {
    workflow_job: Announced,
}

#[derive(Deserialize)]
struct Announced {
    id: JobId,
}

impl SimulatedGitHub {
    /// Sends webhooks, and lets all else happen that is due by itself, until `stop`.
    pub(crate) async fn deliver(self: &Arc<Self>, stop: CancellationToken) {
        // Receivers with https need the system's certificates; without any, those with http still hear.
        let client = match reqwest::Client::builder().no_proxy().build().or_else(|_| local_client()) {
            Ok(client) => client,
            Err(error) => return tracing::error!(%error, "there is no HTTP client: no webhook will be sent"),
        };
        let mut waiting = VecDeque::new();
        let mut sending = JoinSet::new();
        loop {
            let (due, next) = self.with(|github, now| (github.deliveries_due(now), github.next_due()));
            waiting.extend(due);
            while sending.len() < AT_ONCE
                && let Some(delivery) = waiting.pop_front()
            {
                sending.spawn(Arc::clone(self).send(client.clone(), delivery));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.sooner.notified() => {}
                () = self.sleep_until(next) => {}
                Some(_) = sending.join_next() => {}
            }
        }
    }

    async fn send(self: Arc<Self>, client: reqwest::Client, delivery: Delivery) {
        self.note(&delivery);
        let Delivery { id, guid, url, headers, body, .. } = delivery;
        let status = match client.post(&url).timeout(PATIENCE).headers(headers).body(body).send().await {
            Ok(answer) => Some(answer.status().as_u16()),
            Err(error) => {
                tracing::debug!(%guid, error = %error.without_url(), "a webhook did not arrive");
                None
            }
        };
        self.with(|github, now| github.delivered(id, status, now));
    }

    fn note(&self, delivery: &Delivery) {
        if delivery.action != Some("queued") {
            return;
        }
        if let Ok(payload) = serde_json::from_slice::<Payload>(&delivery.body) {
            let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
            announced.entry(payload.workflow_job.id).or_insert_with(|| self.clock.now());
        }
    }

    async fn sleep_until(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => {
                let left = at.duration_since(self.clock.now());
                self.clock.sleep(left.try_into().unwrap_or(Duration::ZERO)).await;
            }
            None => std::future::pending().await,
        }
    }
}
