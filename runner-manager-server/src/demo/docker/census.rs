//! The engine's own books: the lives of our containers, by its events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use jiff::Timestamp;
use runner_manager_core::domain::Owner;
use tokio_util::sync::CancellationToken;

use super::marked;
use crate::demo::summary::Life;

/// The lives of the containers that bear one owner's mark, by their ids.
#[derive(Debug, Default)]
pub(in crate::demo) struct Census(Mutex<BTreeMap<String, Life>>);

impl Census {
    /// The lives so far.
    pub(in crate::demo) fn lives(&self) -> Vec<Life> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// How many containers each group has now.
    pub(in crate::demo) fn alive(&self) -> BTreeMap<String, u64> {
        let lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut alive = BTreeMap::new();
        for life in lives.values().filter(|life| life.gone_at.is_none()) {
            *alive.entry(life.group.clone()).or_default() += 1;
        }
        alive
    }

    /// Listens to the engine's events since a time, until `stop`.
    ///
    /// # Errors
    /// When the engine falls silent: the census would be wrong from then on.
    pub(in crate::demo) async fn take(
        self: Arc<Self>,
        docker: Docker,
        owner: Owner,
        since: Timestamp,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut filters = marked(&owner);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        filters.insert("event".to_owned(), vec!["create".to_owned(), "destroy".to_owned()]);
        let since = since.as_second().to_string();
        let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
        let mut events = docker.events(Some(options));
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.next() => {
                    let event = event.context("the Docker engine ended its events")?;
                    self.note(&event.context("the Docker engine's events broke off")?);
                }
            }
        }
    }

    fn note(&self, event: &EventMessage) {
        let at = event.time_nano.and_then(|nanos| Timestamp::from_nanosecond(nanos.into()).ok());
        let Some((actor, at)) = event.actor.as_ref().zip(at) else { return };
        let Some(id) = &actor.id else { return };
        let mut lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event.action.as_deref() {
            Some("create") => {
                let labels = actor.attributes.as_ref();
                let group = labels.and_then(|labels| labels.get(Owner::GROUP_TAG)).cloned();
                let life = Life { group: group.unwrap_or_default(), created_at: at, gone_at: None };
                lives.insert(id.clone(), life);
            }
            Some("destroy") => {
                if let Some(life) = lives.get_mut(id) {
                    life.gone_at = Some(at);
                }
            }
            _ => {}
        }
    }
}
