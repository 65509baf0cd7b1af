//! GitHub Apps: their installations, the tokens of these, and the hook of the first App.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AppSettings, Simulator,
    hooks::HookTarget,
    limits::suspended,
    permissions::{self, Permissions},
    reply::{Call, Page, Reply, time},
    shapes::{self, WEB},
    world::ScopeId,
};

const CREATED: &str = "2020-01-01T00:00:00Z";
/// Installation ids are account ids further up, of each App by so much more, so that no table is needed.
const INSTALLATIONS_FROM: u64 = 50_000_000;

/// Whom an installation token speaks for.
#[derive(Debug, Clone)]
pub(super) struct InstallationToken {
    pub(super) app: u64,
    pub(super) owner: u64,
    pub(super) installation: u64,
    pub(super) expires_at: Timestamp,
    pub(super) permissions: Permissions,
    /// Only these, if it was asked so.
    repositories: Option<BTreeSet<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenRequest {
    repositories: Option<Vec<String>>,
    repository_ids: Option<Vec<u64>>,
    permissions: Option<Permissions>,
}

impl Simulator {
    /// All Apps.
    pub(super) fn apps(&self) -> impl Iterator<Item = &AppSettings> {
        self.settings.app.iter().chain(&self.settings.more_apps)
    }

    fn app(&self, id: u64) -> Option<&AppSettings> {
        self.apps().find(|app| app.id == id)
    }

    /// The number of an App's installation on an account.
    pub(super) fn installation(&self, app: u64, owner: u64) -> u64 {
        let before = self.apps().take_while(|other| other.id != app).count() as u64;
        INSTALLATIONS_FROM * (before + 1) + owner
    }

    /// The Apps whose hooks tell of an event of an account: they are installed there, and subscribed to it.
    pub(super) fn apps_told_of(&self, owner: u64, event: &str) -> impl Iterator<Item = u64> {
        let login = &self.world.account(owner).login;
        let subscribed = move |app: &&AppSettings| app.events.iter().any(|subscribed| subscribed == event);
        self.apps().filter(|app| installed_on(app, login)).filter(subscribed).map(|app| app.id)
    }

    /// Whether an App's installation on an account is suspended.
    pub(super) fn is_suspended(&self, app: u64, owner: u64) -> bool {
        let name = self.name_of(owner);
        let is_it = |listed: &String| name.is_some_and(|name| listed.eq_ignore_ascii_case(name));
        self.app(app).is_some_and(|app| app.suspended_on.iter().any(is_it))
    }

    /// The login of an account, or the slug of an enterprise.
    fn name_of(&self, owner: u64) -> Option<&String> {
        let enterprise = self.world.enterprises().find(|enterprise| enterprise.id == owner);
        let account = || self.world.has_account(owner).then(|| &self.world.account(owner).login);
        enterprise.map(|enterprise| &enterprise.slug).or_else(account)
    }

    /// Whether a token's installation may see the scope at all.
    pub(super) fn token_covers(&self, token: &InstallationToken, scope: ScopeId) -> bool {
        let owner = token.owner;
        match scope {
            ScopeId::Organization(id) | ScopeId::Enterprise(id) => id == owner,
            ScopeId::Repository(id) => {
                self.world.repository(id).owner == owner
                    && token.repositories.as_ref().is_none_or(|listed| listed.contains(&id))
            }
        }
    }

    /// Routes under `/app`, for the App itself.
    pub(super) fn app_route(&mut self, app: u64, rest: &[&str], call: &Call<'_>) -> Reply {
        let Some(app) = self.app(app).cloned() else { return Reply::not_found() };
        match (call.method, rest) {
            ("GET", []) => Reply::ok(self.app_json(&app)),
            ("GET", ["installations"]) => self.list_installations(&app, call),
            ("GET", ["installations", id]) => match self.find_installation(&app, id) {
                Some(owner) => Reply::ok(self.installation_json(&app, owner)),
                None => Reply::not_found(),
            },
            ("POST", ["installations", id, "access_tokens"]) => match self.find_installation(&app, id) {
                Some(owner) if self.is_suspended(app.id, owner) => suspended(),
                Some(owner) => self.mint_token(&app, owner, call),
                None => Reply::not_found(),
            },
            (_, ["hook", "config"]) => self.app_hook_config(app.id, call),
            (_, ["hook", "deliveries", rest @ ..]) => match self.hooks.of_app(app.id) {
                Some(hook) => self.delivery_route(hook, rest, call),
                None => Reply::not_found(),
            },
            _ => Reply::not_found(),
        }
    }

    /// `{scope}/installation`, for the App itself.
    pub(super) fn scope_installation(&self, app: u64, scope: ScopeId) -> Reply {
        let owner = match scope {
            ScopeId::Enterprise(id) | ScopeId::Organization(id) => id,
            ScopeId::Repository(id) => self.world.repository(id).owner,
        };
        match (self.app(app), self.name_of(owner)) {
            (Some(app), Some(name)) if installed_on(app, name) => {
                Reply::ok(self.installation_json(app, owner))
            }
            _ => Reply::not_found(),
        }
    }

    /// `/installation/repositories`, for an installation.
    pub(super) fn installation_repositories(&self, token: &InstallationToken, call: &Call<'_>) -> Reply {
        let owner = token.owner;
        if !self.world.has_account(owner) {
            return Reply::not_found();
        }
        let owner = self.world.account(owner);
        let listed = |id: &&u64| token.repositories.as_ref().is_none_or(|listed| listed.contains(*id));
        let ids: Vec<u64> = owner.repositories.iter().filter(listed).copied().collect();
        let base = &self.settings.base_url;
        let page = Page::cut(call, base, ids.iter(), ids.len());
        page.map(|id| shapes::full_repository(base, self.world.repository(*id), owner))
            .counted("repositories")
    }

    /// `/orgs/{org}/repos`, as a token lists them.
    pub(super) fn organization_repositories(&self, organization: u64, call: &Call<'_>) -> Reply {
        let owner = self.world.account(organization);
        let base = &self.settings.base_url;
        let page = Page::cut(call, base, owner.repositories.iter(), owner.repositories.len());
        page.map(|id| shapes::minimal_repository(base, self.world.repository(*id), owner)).plain()
    }

    fn app_hook_config(&mut self, app: u64, call: &Call<'_>) -> Reply {
        let hook = match self.hooks.of_app(app) {
            Some(hook) => hook,
            None => self.hooks.add(HookTarget::App(app), "https://example.com/webhook", None, call.now),
        };
        self.hook_config_route(hook, call)
    }

    /// The account or enterprise of an App's installation.
    fn find_installation(&self, app: &AppSettings, id: &str) -> Option<u64> {
        let id = id.parse::<u64>().ok()?;
        let owner = id % INSTALLATIONS_FROM;
        let is_it = self.installation(app.id, owner) == id;
        self.name_of(owner).filter(|name| is_it && installed_on(app, name)).map(|_| owner)
    }

    fn list_installations(&self, app: &AppSettings, call: &Call<'_>) -> Reply {
        let accounts = self.world.accounts().map(|account| (account.id, &account.login));
        let enterprises = self.world.enterprises().map(|enterprise| (enterprise.id, &enterprise.slug));
        let owners: Vec<u64> = enterprises
            .chain(accounts)
            .filter(|(_, name)| installed_on(app, name))
            .map(|(owner, _)| owner)
            .collect();
        let page = Page::cut(call, &self.settings.base_url, owners.iter(), owners.len());
        page.map(|owner| self.installation_json(app, *owner)).plain()
    }

    fn mint_token(&mut self, app: &AppSettings, owner: u64, call: &Call<'_>) -> Reply {
        let request: TokenRequest = match call.json() {
            Ok(request) => request,
            Err(reply) => return reply,
        };
        let Some(permissions) = permissions::narrowed(&app.permissions, request.permissions.clone()) else {
            return Reply::invalid_simple(
                "The permissions requested are not granted to this installation.",
                &[],
            );
        };
        let Some(repositories) = self.chosen_repositories(owner, &request) else {
            return Reply::invalid_simple(
                "There is at least one repository that does not exist or is not accessible to the parent installation.",
                &[],
            );
        };
        let token = format!("ghs_{}{}", self.names.hex(), &self.names.hex()[..4]);
        let expires_at = call.now + SignedDuration::from_hours(1);
        let mut json = json!({
            "token": token,
            "expires_at": time(expires_at + self.settings.clock_ahead),
            "permissions": permissions,
            "repository_selection": if repositories.is_some() { "selected" } else { "all" },
        });
        if let Some(repositories) = &repositories {
            let account = self.world.account(owner);
            let base = &self.settings.base_url;
            let full = |id: &u64| shapes::full_repository(base, self.world.repository(*id), account);
            json["repositories"] = repositories.iter().map(full).collect();
        }
        // Whole seconds, as in the answer: the token ends when its holder thinks that it does.
        let expires_at = Timestamp::from_second(expires_at.as_second()).unwrap_or(expires_at);
        let (app, installation) = (app.id, self.installation(app.id, owner));
        let minted = InstallationToken { app, owner, installation, expires_at, permissions, repositories };
        self.tokens.insert(token, minted);
        Reply::created(json)
    }

    /// None if one is not the installation's; none within if there is no choice.
    #[expect(clippy::option_option, reason = "refused, all, or these: read in one place only")]
    fn chosen_repositories(&self, owner: u64, request: &TokenRequest) -> Option<Option<BTreeSet<u64>>> {
        if request.repositories.is_none() && request.repository_ids.is_none() {
            return Some(None);
        }
        let login = if self.world.has_account(owner) { &self.world.account(owner).login } else { "" };
        let by_name = |name: &String| self.world.find_repository(&format!("{login}/{name}"));
        let named = request.repositories.iter().flatten().map(by_name);
        let known = |id: &u64| {
            Some(*id).filter(|id| self.world.has_repository(*id) && self.world.repository(*id).owner == owner)
        };
        let numbered = request.repository_ids.iter().flatten().map(known);
        named.chain(numbered).collect::<Option<BTreeSet<u64>>>().map(Some)
    }

    fn app_json(&self, app: &AppSettings) -> Value {
        let api = &self.settings.base_url;
        json!({
            "id": app.id,
            "slug": app.slug,
            "client_id": app.client_id,
            "node_id": format!("A_{}", app.id),
            "owner": shapes::sender(api),
            "name": app.slug,
            "description": null,
            "external_url": "https://example.com",
            "html_url": format!("{WEB}/apps/{}", app.slug),
            "created_at": CREATED,
            "updated_at": CREATED,
            "permissions": app.permissions,
            "events": app.events,
        })
    }

    fn installation_json(&self, app: &AppSettings, owner: u64) -> Value {
        let api = &self.settings.base_url;
        let id = self.installation(app.id, owner);
        let (account, kind) = if self.world.has_account(owner) {
            let account = self.world.account(owner);
            (shapes::account(api, account), if account.is_user { "User" } else { "Organization" })
        } else {
            (shapes::enterprise(self.world.enterprise(owner)), "Enterprise")
        };
        json!({
            "id": id,
            "account": account,
            "repository_selection": "all",
            "access_tokens_url": format!("{api}/app/installations/{id}/access_tokens"),
            "repositories_url": format!("{api}/installation/repositories"),
            "html_url": format!("{WEB}/settings/installations/{id}"),
            "app_id": app.id,
            "app_slug": app.slug,
            "target_id": owner,
            "target_type": kind,
            "permissions": app.permissions,
            "events": app.events,
            "single_file_name": null,
            "created_at": CREATED,
            "updated_at": CREATED,
            "suspended_at": self.is_suspended(app.id, owner).then_some(CREATED),
            "suspended_by": null,
        })
    }
}

/// Whether an App is installed on the account or enterprise of this name.
fn installed_on(app: &AppSettings, name: &str) -> bool {
    let named = |names: &Vec<String>| names.iter().any(|listed| listed.eq_ignore_ascii_case(name));
    app.installed_on.as_ref().is_none_or(named)
}
