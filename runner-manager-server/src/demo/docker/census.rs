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
use crate::summary::Life;

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bollard::models::EventMessage;
    use serde_json::json;

    use super::Census;

    fn event(action: &str, id: &str, nanos: i64) -> EventMessage {
        let attributes = json!({"runner-manager-group": "small", "name": "demo-small-1"});
        serde_json::from_value(json!({
            "Type": "container", "Action": action, "timeNano": nanos,
            "Actor": {"ID": id, "Attributes": attributes},
        }))
        .unwrap()
    }

    #[test]
    fn a_life_is_from_create_to_destroy() {
        let census = Census::default();
        for event in [event("create", "a", 5), event("create", "b", 6), event("destroy", "a", 9)] {
            census.note(&event);
        }
        // Of one that began before the census nothing is known.
        census.note(&event("destroy", "c", 10));
        let lives = census.lives();
        let gone: Vec<_> =
            lives.iter().map(|life| life.gone_at.map(jiff::Timestamp::as_nanosecond)).collect();
        assert_eq!(gone, [Some(9), None]);
        assert_eq!(lives[0].created_at.as_nanosecond(), 5);
        assert_eq!(census.alive(), BTreeMap::from([("small".to_owned(), 1)]));
    }
}
