//! The sender of webhooks: takes what is due, sends it as GitHub does, and tells the simulator what came of it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::testing::simulator::control::SentWebhook;
use runner_manager_core::testing::simulator::{Delivery, Simulator};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::SimulatedGitHub;
use crate::http_face::local_client;

/// How long a receiver may take, as at GitHub:
/// <https://docs.github.com/webhooks/using-webhooks/best-practices-for-using-webhooks>.
const PATIENCE: Duration = Duration::from_secs(10);

impl SimulatedGitHub {
    /// Sends webhooks, so many at once, and lets all else happen that is due by itself, until `stop`.
    pub(crate) async fn deliver(self: &Arc<Self>, at_once: usize, stop: CancellationToken) {
        // Receivers with https need the system's certificates; without any, those with http still hear.
        let client = match reqwest::Client::builder().no_proxy().build().or_else(|_| local_client()) {
            Ok(client) => client,
            Err(error) => return tracing::error!(%error, "there is no HTTP client: no webhook will be sent"),
        };
        let mut sending = JoinSet::new();
        loop {
            let next = loop {
                if sending.len() >= at_once {
                    // What is due now waits for one of these to end.
                    break None;
                }
                match self.with(Simulator::next_delivery) {
                    Some(delivery) => sending.spawn(Arc::clone(self).send(client.clone(), delivery)),
                    None => break self.with(|github, _| github.next_due()),
                };
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.sooner.notified() => {}
                () = self.sleep_until(next) => {}
                Some(_) = sending.join_next() => {}
            }
        }
    }

    async fn send(self: Arc<Self>, client: reqwest::Client, delivery: Delivery) {
        let Delivery { id, guid, job, action, url, headers, body, .. } = delivery;
        let sent_at = self.clock.now();
        let answer = async {
            let answer = client.post(&url).timeout(PATIENCE).headers(headers).body(body).send().await?;
            let status = answer.status().as_u16();
            answer.bytes().await.map(|_| status)
        };
        let status = match answer.await.map_err(reqwest::Error::without_url) {
            Ok(status) => Some(status),
            Err(error) => {
                tracing::debug!(%guid, %error, "a webhook did not arrive");
                None
            }
        };
        let seconds = self.clock.now().duration_since(sent_at).as_secs_f64();
        let sent = SentWebhook { job, action: action.map(str::to_owned), sent_at, seconds, status };
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
        self.with(|github, now| github.delivered(id, status, now));
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
