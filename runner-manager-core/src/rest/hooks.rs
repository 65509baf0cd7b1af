//! Hooks and the logs of their deliveries.

use std::ops::ControlFlow;

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;

use super::models::{App, Delivery, HookBody, HookConfig, HookConfigBody, HookEntry};
use super::operation::{Effect, Operation};
use super::pages::Listing;
use super::transport::As;
use super::{RestGitHub, scope_path};
use crate::domain::{Scope, WebhookDelivery};
use crate::github::{GitHubError, GitHubErrorKind, Hook, HookSpec, RegisteredHook};

const APP_CONFIG: &str = "/app/hook/config";

impl RestGitHub {
    pub(super) async fn list_hooks(&self, scope: &Scope) -> Result<Vec<RegisteredHook>, GitHubError> {
        let operation = Operation::read("hooks");
        let path = hooks_path(operation, scope)?;
        let mut hooks = Vec::new();
        self.pages(Listing { operation, who: As::Scope(scope), path: &path }, "", |answer| {
            let page: Vec<HookEntry> = operation.read_json(answer)?;
            hooks.extend(page.into_iter().map(|entry| entry.registered(scope)));
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        Ok(hooks)
    }

    pub(super) async fn make_hook(
        &self,
        scope: &Scope,
        spec: &HookSpec,
    ) -> Result<RegisteredHook, GitHubError> {
        let operation = Operation { name: "create_hook", effect: Effect::Write };
        let request = operation.post(&hooks_path(operation, scope)?, &HookBody::of_new(spec))?;
        let answer = self.call(operation, As::Scope(scope), request).await?;
        let made: HookEntry = operation.read_json(&answer)?;
        Ok(made.registered(scope))
    }

    pub(super) async fn change_hook(&self, hook: &Hook, spec: &HookSpec) -> Result<(), GitHubError> {
        let operation = Operation { name: "update_hook", effect: Effect::Write };
        let request = match hook {
            Hook::App => operation.send(Method::PATCH, APP_CONFIG, &HookConfigBody::of(spec))?,
            Hook::Of(scope, id) => {
                let path = format!("{}/{id}", hooks_path(operation, scope)?);
                operation.send(Method::PATCH, &path, &HookBody::of(spec))?
            }
        };
        self.call(operation, owner(hook), request).await.map(drop)
    }

    pub(super) async fn take_hook_away(&self, hook: &Hook) -> Result<(), GitHubError> {
        let operation = Operation { name: "delete_hook", effect: Effect::Write };
        let Hook::Of(scope, id) = hook else {
            return Err(operation.error(GitHubErrorKind::Invalid, "an App always has its one hook"));
        };
        let place = hooks_path(operation, scope)?;
        let request = operation.request(Method::DELETE, &format!("{place}/{id}"), Bytes::new())?;
        match self.call(operation, As::Scope(scope), request).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == GitHubErrorKind::NotFound => {
                self.expect_visible(operation, scope, &place).await
            }
            Err(error) => Err(error),
        }
    }

    /// The App's hook. What it tells of stands with the App itself.
    pub(super) async fn hook_of_the_app(&self) -> Result<RegisteredHook, GitHubError> {
        let operation = Operation::read("app_hook");
        let config: HookConfig = operation.read_json(&self.get(operation, As::App, APP_CONFIG).await?)?;
        let App { events } = operation.read_json(&self.get(operation, As::App, "/app").await?)?;
        Ok(config.registered(Hook::App, events, true))
    }

    pub(super) async fn list_deliveries(
        &self,
        hook: &Hook,
        since: Timestamp,
        most: usize,
    ) -> Result<Vec<WebhookDelivery>, GitHubError> {
        let operation = Operation::read("deliveries");
        let path = deliveries_path(operation, hook)?;
        let mut deliveries: Vec<WebhookDelivery> = Vec::new();
        self.pages(Listing { operation, who: owner(hook), path: &path }, "", |answer| {
            let page: Vec<Delivery> = operation.read_json(answer)?;
            let reached = page.iter().any(|delivery| delivery.delivered_at < since);
            let newer = page.into_iter().filter(|delivery| delivery.delivered_at >= since);
            deliveries.extend(newer.map(WebhookDelivery::from));
            let enough = reached || deliveries.len() >= most;
            Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .await?;
        deliveries.truncate(most);
        Ok(deliveries)
    }

    pub(super) async fn deliver_again(&self, hook: &Hook, id: u64) -> Result<(), GitHubError> {
        let operation = Operation { name: "redeliver", effect: Effect::Write };
        let path = format!("{}/{id}/attempts", deliveries_path(operation, hook)?);
        let request = operation.request(Method::POST, &path, Bytes::new())?;
        self.call(operation, owner(hook), request).await.map(drop)
    }
}

fn hooks_path(operation: Operation, scope: &Scope) -> Result<String, GitHubError> {
    if let Scope::Enterprise(_) = scope {
        return Err(
            operation.error(GitHubErrorKind::Invalid, "GitHub has no calls for an enterprise's hooks")
        );
    }
    Ok(format!("{}/hooks", scope_path(scope)))
}

fn deliveries_path(operation: Operation, hook: &Hook) -> Result<String, GitHubError> {
    match hook {
        Hook::App => Ok("/app/hook/deliveries".to_owned()),
        Hook::Of(scope, id) => Ok(format!("{}/{id}/deliveries", hooks_path(operation, scope)?)),
    }
}

const fn owner(hook: &Hook) -> As<'_> {
    match hook {
        Hook::App => As::App,
        Hook::Of(scope, _) => As::Scope(scope),
    }
}
