//! Accounts and repositories as GitHub writes them, in answers and in payloads.

use serde_json::{Map, Value, json};

use super::world::{Account, Enterprise, Repository};

pub(super) const WEB: &str = "https://github.com";
const CREATED: &str = "2020-01-01T00:00:00Z";

/// `X_url` of a repository that its API URL with a suffix makes.
const REPOSITORY_URLS: [(&str, &str); 37] = [
    ("url", ""),
    ("forks_url", "/forks"),
    ("keys_url", "/keys{/key_id}"),
    ("collaborators_url", "/collaborators{/collaborator}"),
    ("teams_url", "/teams"),
    ("hooks_url", "/hooks"),
    ("issue_events_url", "/issues/events{/number}"),
    ("events_url", "/events"),
    ("assignees_url", "/assignees{/user}"),
    ("branches_url", "/branches{/branch}"),
    ("tags_url", "/tags"),
    ("blobs_url", "/git/blobs{/sha}"),
    ("git_tags_url", "/git/tags{/sha}"),
    ("git_refs_url", "/git/refs{/sha}"),
    ("trees_url", "/git/trees{/sha}"),
    ("statuses_url", "/statuses/{sha}"),
    ("languages_url", "/languages"),
    ("stargazers_url", "/stargazers"),
    ("contributors_url", "/contributors"),
    ("subscribers_url", "/subscribers"),
    ("subscription_url", "/subscription"),
    ("commits_url", "/commits{/sha}"),
    ("git_commits_url", "/git/commits{/sha}"),
    ("comments_url", "/comments{/number}"),
    ("issue_comment_url", "/issues/comments{/number}"),
    ("contents_url", "/contents/{+path}"),
    ("compare_url", "/compare/{base}...{head}"),
    ("merges_url", "/merges"),
    ("archive_url", "/{archive_format}{/ref}"),
    ("downloads_url", "/downloads"),
    ("issues_url", "/issues{/number}"),
    ("pulls_url", "/pulls{/number}"),
    ("milestones_url", "/milestones{/number}"),
    ("notifications_url", "/notifications{?since,all,participating}"),
    ("labels_url", "/labels{/name}"),
    ("releases_url", "/releases{/id}"),
    ("deployments_url", "/deployments"),
];

/// An account in the form of `simple-user`.
pub(super) fn account(api: &str, account: &Account) -> Value {
    let kind = if account.is_user { "User" } else { "Organization" };
    simple_user(api, account.id, &account.login, kind)
}

/// The user in whose name everything happens.
pub(super) fn sender(api: &str) -> Value {
    simple_user(api, 1, "octocat", "User")
}

fn simple_user(api: &str, id: u64, login: &str, kind: &str) -> Value {
    let url = format!("{api}/users/{login}");
    json!({
        "login": login,
        "id": id,
        "node_id": format!("U_{id}"),
        "avatar_url": format!("https://avatars.githubusercontent.com/u/{id}?v=4"),
        "gravatar_id": "",
        "url": url,
        "html_url": format!("{WEB}/{login}"),
        "followers_url": format!("{url}/followers"),
        "following_url": format!("{url}/following{{/other_user}}"),
        "gists_url": format!("{url}/gists{{/gist_id}}"),
        "starred_url": format!("{url}/starred{{/owner}}{{/repo}}"),
        "subscriptions_url": format!("{url}/subscriptions"),
        "organizations_url": format!("{url}/orgs"),
        "repos_url": format!("{url}/repos"),
        "events_url": format!("{url}/events{{/privacy}}"),
        "received_events_url": format!("{url}/received_events"),
        "type": kind,
        "site_admin": false,
    })
}

/// An organization in the form of `organization-simple`.
pub(super) fn organization(api: &str, account: &Account) -> Value {
    let (id, url) = (account.id, format!("{api}/orgs/{}", account.login));
    json!({
        "login": account.login,
        "id": id,
        "node_id": format!("O_{id}"),
        "url": url,
        "repos_url": format!("{url}/repos"),
        "events_url": format!("{url}/events"),
        "hooks_url": format!("{url}/hooks"),
        "issues_url": format!("{url}/issues"),
        "members_url": format!("{url}/members{{/member}}"),
        "public_members_url": format!("{url}/public_members{{/member}}"),
        "avatar_url": format!("https://avatars.githubusercontent.com/u/{id}?v=4"),
        "description": null,
    })
}

pub(super) fn enterprise(enterprise: &Enterprise) -> Value {
    let id = enterprise.id;
    json!({
        "id": id,
        "slug": enterprise.slug,
        "name": enterprise.slug,
        "node_id": format!("E_{id}"),
        "avatar_url": format!("https://avatars.githubusercontent.com/b/{id}?v=4"),
        "description": null,
        "website_url": null,
        "html_url": format!("{WEB}/enterprises/{}", enterprise.slug),
        "created_at": CREATED,
        "updated_at": CREATED,
    })
}

/// A repository in the form of `minimal-repository`, as far as it is required.
pub(super) fn minimal_repository(api: &str, repository: &Repository, owner: &Account) -> Value {
    Value::Object(repository_urls(api, repository, owner))
}

/// A repository as in payloads.
pub(super) fn payload_repository(api: &str, repository: &Repository, owner: &Account) -> Value {
    let mut json = full_repository(api, repository, owner);
    json["custom_properties"] = json!({});
    json
}

/// A repository in the form of `repository`.
pub(super) fn full_repository(api: &str, repository: &Repository, owner: &Account) -> Value {
    let mut object = repository_urls(api, repository, owner);
    let full_name = &repository.full_name;
    let rest = json!({
        "created_at": CREATED,
        "updated_at": CREATED,
        "pushed_at": CREATED,
        "git_url": format!("git://github.com/{full_name}.git"),
        "ssh_url": format!("git@github.com:{full_name}.git"),
        "clone_url": format!("{WEB}/{full_name}.git"),
        "svn_url": format!("{WEB}/{full_name}"),
        "homepage": null,
        "size": 0,
        "stargazers_count": 0,
        "watchers_count": 0,
        "language": null,
        "has_issues": true,
        "has_projects": true,
        "has_downloads": true,
        "has_wiki": true,
        "has_pages": false,
        "forks_count": 0,
        "mirror_url": null,
        "archived": false,
        "disabled": false,
        "open_issues_count": 0,
        "license": null,
        "forks": 0,
        "open_issues": 0,
        "watchers": 0,
        "default_branch": "main",
        "is_template": false,
        "topics": [],
        "visibility": if repository.private { "private" } else { "public" },
        "web_commit_signoff_required": false,
    });
    if let Value::Object(rest) = rest {
        object.extend(rest);
    }
    Value::Object(object)
}

fn repository_urls(api: &str, repository: &Repository, owner: &Account) -> Map<String, Value> {
    let url = format!("{api}/repos/{}", repository.full_name);
    let mut object: Map<String, Value> = REPOSITORY_URLS
        .iter()
        .map(|(name, suffix)| ((*name).to_owned(), Value::String(format!("{url}{suffix}"))))
        .collect();
    object.insert("id".to_owned(), json!(repository.id));
    object.insert("node_id".to_owned(), json!(format!("R_{}", repository.id)));
    object.insert("name".to_owned(), json!(repository.name));
    object.insert("full_name".to_owned(), json!(repository.full_name));
    object.insert("private".to_owned(), json!(repository.private));
    object.insert("owner".to_owned(), account(api, owner));
    object.insert("html_url".to_owned(), json!(format!("{WEB}/{}", repository.full_name)));
    object.insert("description".to_owned(), Value::Null);
    object.insert("fork".to_owned(), json!(false));
    object
}
