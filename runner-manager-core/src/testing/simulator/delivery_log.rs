//! The delivery log of a hook, as it is read and redelivered from.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    DeliveryId, HookId, Simulator,
    hooks::HookTarget,
    reply::{Call, Reply, with_query},
    webhooks::{Event, Outcome, Record},
};

impl Simulator {
    /// Routes under a hook's `deliveries`.
    pub(super) fn delivery_route(&mut self, hook: HookId, rest: &[&str], call: &Call<'_>) -> Reply {
        let [id, rest @ ..] = rest else {
            return if call.method == "GET" { self.list_deliveries(hook, call) } else { Reply::not_found() };
        };
        let id = id.parse().ok().map(DeliveryId).filter(|id| self.hooks.by_id[&hook].log.contains(id));
        let Some(id) = id else { return Reply::not_found() };
        match (call.method, rest) {
            ("GET", []) => self.get_delivery(id),
            ("POST", ["attempts"]) => {
                self.redeliver(id, call.now);
                Reply::accepted()
            }
            _ => Reply::not_found(),
        }
    }

    /// Newest first; the cursor names the first entry of a page.
    fn list_deliveries(&mut self, hook: HookId, call: &Call<'_>) -> Reply {
        let cursor = match call.query.get("cursor") {
            None => u64::MAX,
            Some(cursor) => match cursor.strip_prefix("v1_").and_then(|id| id.parse().ok()) {
                Some(id) => id,
                None => return Reply::error(StatusCode::BAD_REQUEST, "Invalid cursor."),
            },
        };
        let wanted = call.query.get("status").map(String::as_str);
        let log = &self.hooks.by_id[&hook].log;
        let reachable = log.range(..=DeliveryId(cursor)).rev();
        let mut found = reachable.filter(|id| outcome_is(&self.deliveries.by_id[*id], wanted));
        let page: Vec<DeliveryId> = found.by_ref().take(call.per_page()).copied().collect();
        let next = found.next().copied();
        let entries = page.iter().map(|id| self.delivery_json(*id)).collect();
        let reply = Reply::ok(Value::Array(entries));
        let Some(next) = next else { return reply };
        let url = with_query(call, &self.settings.base_url, &[("cursor", &format!("v1_{next}"))]);
        reply.with_header("link", format!("<{url}>; rel=\"next\""))
    }

    fn get_delivery(&mut self, id: DeliveryId) -> Reply {
        let record = self.deliveries.by_id[&id].clone();
        let payload = self.payload(&record).expect("a logged delivery's hook is there");
        let payload: Value = serde_json::from_str(&payload).expect("payloads are JSON");
        let hook = &self.hooks.by_id[&record.hook];
        let mut json = self.delivery_json(id);
        json["url"] = json!(hook.url);
        json["request"] = json!({
            "headers": {"X-GitHub-Delivery": record.guid, "X-GitHub-Event": record.event.name()},
            "payload": payload,
        });
        json["response"] = json!({"headers": {}, "payload": null});
        Reply::ok(json)
    }

    fn delivery_json(&self, id: DeliveryId) -> Value {
        let record = &self.deliveries.by_id[&id];
        let (repository, installation) = self.delivery_origin(record);
        let code = record.outcome.map_or(0, Outcome::code);
        let status = match code {
            0 => "failed to connect to host",
            _ => StatusCode::from_u16(code)
                .ok()
                .and_then(|status| status.canonical_reason())
                .unwrap_or("Unknown"),
        };
        json!({
            "id": id,
            "guid": record.guid,
            "delivered_at": record.sent_at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()),
            "redelivery": record.redelivery,
            "duration": record.seconds,
            "status": status,
            "status_code": code,
            "event": record.event.name(),
            "action": record.event.action(),
            "installation_id": installation,
            "repository_id": repository,
        })
    }

    /// The repository and the installation that an entry of a delivery log names.
    fn delivery_origin(&self, record: &Record) -> (Option<u64>, Option<u64>) {
        let repository = match record.event.as_ref() {
            Event::Job(job) => Some(job.repository_id),
            Event::Ping => None,
        };
        let app = self.hooks.get(record.hook).and_then(|hook| match hook.target {
            HookTarget::App(app) => Some(app),
            HookTarget::Repository(_) | HookTarget::Organization(_) => None,
        });
        let owner = repository.map(|repository| self.world.repository(repository).owner);
        let installation = app.zip(owner).map(|(app, owner)| self.installation(app, owner));
        (repository, installation)
    }
}

/// By GitHub's description of the parameter, by which a receiver that could not be reached (0) is found under
/// neither word.
fn outcome_is(record: &Record, wanted: Option<&str>) -> bool {
    let status = record.outcome.map_or(0, Outcome::code);
    match wanted {
        Some("success") => (200..400).contains(&status),
        Some("failure") => (400..600).contains(&status),
        _ => true,
    }
}
