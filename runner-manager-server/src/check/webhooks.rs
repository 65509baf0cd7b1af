//! `check --online`, of webhooks: whether GitHub's hooks lead here, and how they fare. Nothing is changed.

use std::collections::BTreeSet;

use runner_manager_core::config::Configuration;
use runner_manager_core::domain::Scope;

use super::Finding;
use crate::connect::Connected;
use crate::patience::Patience;
use crate::webhooks::{Place, Site, Told, webhook_url};

/// Whether webhooks come from all scopes of a connection. What GitHub does not show is no fault: without webhooks jobs are
/// found, only later.
pub(super) async fn look(
    configuration: &Configuration,
    scopes: &BTreeSet<&Scope>,
    accounts: &[Connected],
    patience: &Patience,
) -> Vec<Finding> {
    let subject = |place: &Place| format!("webhooks, {place}");
    let Some(url) = webhook_url(configuration) else {
        let mut finding = Finding::new("webhooks", Ok::<_, anyhow::Error>(vec![]));
        finding.remarks.push(
            "neither server.public_url nor server.webhook_url is set, so that no hook was looked for"
                .to_owned(),
        );
        return vec![finding];
    };
    let site = |account: &Connected| Site::new(configuration, account, patience, url.clone());
    for account in accounts.iter().filter(|account| account.app.is_some()) {
        let app = site(account).show(&Place::App).await;
        if app.is_found() {
            return vec![Finding { subject: subject(&Place::App), missing: app.wrong, remarks: app.remarks }];
        }
    }
    let Some(site) = accounts.first().map(site) else { return Vec::new() };
    let mut findings = Vec::new();
    for scope in scopes {
        let place = Place::Scope((*scope).clone());
        let told = show_for(&site, scope).await;
        let unknown = |mut remarks: Vec<String>| {
            if configuration.redeliver_interval.is_some() {
                remarks.push("until then webhooks that fail are not redelivered".to_owned());
            }
            (Vec::new(), remarks)
        };
        let (missing, remarks) =
            if told.is_unknown() { unknown(told.wrong) } else { (told.wrong, told.remarks) };
        findings.push(Finding { subject: subject(&place), missing, remarks });
    }
    findings
}

/// The hook of a scope; for a repository without one that of its organization.
async fn show_for(site: &Site<'_>, scope: &Scope) -> Told {
    let own = site.show(&Place::Scope(scope.clone())).await;
    let owner = match scope {
        Scope::Repository(repository) if !own.is_found() => Scope::organization(repository.owner()),
        Scope::Organization(_) | Scope::Repository(_) | Scope::Enterprise(_) => None,
    };
    let Some(owner) = owner else { return own };
    let of_owner = site.show(&Place::Scope(owner)).await;
    if of_owner.is_found() { of_owner } else { own }
}
