//! GitHub's runner groups: found, made, kept as configured, and named where one is in the way.

use runner_manager_backends::fake::Behaviour;
use runner_manager_core::domain::{
    GitHubGroup, GroupAccess, GroupRules, GroupVisibility, RegisteredGroup, RunnerGroup, Scope,
};
use runner_manager_core::store::{JobFilter, Page};
use runner_manager_core::testing::simulator::{Effect, JobSpec, RequestFault};

use crate::world::World;
use crate::{HOUR, MINUTE, all_run, linux};

fn acme() -> Scope {
    Scope::organization("acme").unwrap()
}

fn open() -> GroupRules {
    GroupRules { access: GroupAccess::All, allows_public_repositories: false, workflows: None }
}

fn selected() -> GroupRules {
    GroupRules { access: GroupAccess::Repositories(["acme/app".parse().unwrap()].into()), ..open() }
}

/// A group that registers into one of GitHub's that is called so.
fn into(name: &str, managed: Option<GroupRules>) -> RunnerGroup {
    RunnerGroup { github_group: GitHubGroup { name: name.to_owned(), managed }, ..linux(0, 10) }
}

async fn world(group: RunnerGroup) -> World {
    World::new(vec![group], Behaviour::default()).await
}

async fn make(world: &World, name: &str, rules: &GroupRules) -> RegisteredGroup {
    world.account().github.create_runner_group(&acme(), name, rules).await.unwrap()
}

async fn found(world: &World, name: &str) -> Option<RegisteredGroup> {
    let groups = world.account().github.runner_groups(&acme()).await.unwrap();
    groups.into_iter().find(|group| group.name == name)
}

async fn reason(world: &World) -> String {
    let jobs = world.manager.jobs(&JobFilter::All, &Page::first(1)).await.unwrap();
    jobs[0].reason.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn spec(repository: &str) -> JobSpec {
    JobSpec::new(repository, ["large"]).seconds(30)
}

/// How often GitHub was asked to change a runner group.
fn changes(world: &World) -> u64 {
    let requests = world.github().books().requests.clone();
    let is_change = |route: &str| route.contains("runner-groups") && !route.starts_with("GET");
    requests.iter().filter(|(route, _)| is_change(route)).map(|(_, count)| count).sum()
}

fn refuse(world: &World, method: &str, status: u16) {
    let answer = Effect::Answer { status, retry_after: None };
    let fault = RequestFault::always(answer).on(method, "/orgs/*/actions/runner-groups");
    world.github().faults_mut().requests = vec![fault];
}

#[tokio::test]
async fn a_managed_group_is_made_and_its_runners_register_into_it() {
    let mut world = world(into("Large", Some(selected()))).await;
    world.queue(&spec("acme/app"), 2);
    all_run(&mut world, 2, 5 * MINUTE).await;
    let group = found(&world, "Large").await.unwrap();
    assert_eq!(group.visibility, GroupVisibility::Selected);
    let members = world.account().github.group_members(&acme(), group.id).await.unwrap();
    assert_eq!(members, selected().access);
    world.pass(HOUR).await;
    assert_eq!(changes(&world), 1, "what is as configured is left alone");
    assert_eq!(world.manager.statistics().snapshot().github_groups, [("created", 1)].into());
}

#[tokio::test]
async fn a_managed_group_that_drifts_is_mended_and_that_is_shown() {
    let mut world = world(into("Large", Some(selected()))).await;
    world.pass(MINUTE).await;
    let group = found(&world, "Large").await.unwrap();
    let github = world.account().github;
    let drifted = GroupRules { allows_public_repositories: true, ..open() };
    github.update_runner_group(&acme(), group.id, "Large", &drifted).await.unwrap();
    world.pass(10 * MINUTE).await;
    let mended = found(&world, "Large").await.unwrap();
    assert_eq!((mended.visibility, mended.allows_public_repositories), (GroupVisibility::Selected, false));
    let lib = GroupAccess::Repositories(["acme/lib".parse().unwrap()].into());
    github.set_group_members(&acme(), group.id, &lib).await.unwrap();
    world.pass(10 * MINUTE).await;
    assert_eq!(github.group_members(&acme(), group.id).await.unwrap(), selected().access);
    let groups = world.manager.groups().await.unwrap();
    let finding = groups[0].record.github.clone().unwrap();
    assert_eq!(finding.mended.unwrap().what, "it was given to acme/lib, and not to acme/app");
    assert_eq!(world.manager.statistics().snapshot().github_groups, [("created", 1), ("mended", 2)].into());
}

#[tokio::test]
async fn a_change_of_the_configuration_changes_the_group_at_once() {
    let mut world = world(into("Large", Some(open()))).await;
    world.pass(MINUTE).await;
    let before = found(&world, "Large").await.unwrap();
    let rules = GroupRules {
        workflows: Some(["acme/app/.github/workflows/a.yaml@main".to_owned()].into()),
        ..open()
    };
    world.manager.reconfigure(vec![into("Large", Some(rules.clone()))]).await.unwrap();
    world.pass(MINUTE).await;
    let after = found(&world, "Large").await.unwrap();
    assert_eq!((after.id, after.workflows), (before.id, rules.workflows));
}

#[tokio::test]
async fn a_group_that_is_not_managed_is_never_changed_nor_made() {
    let mut world = world(into("Large", None)).await;
    world.queue(&spec("acme/app"), 1);
    world.pass(10 * MINUTE).await;
    assert_eq!(
        reason(&world).await,
        "group linux can register no runner: GitHub's runner group `Large` does not exist in organization:acme: \
         create it, or set `manage: true`"
    );
    let rules = GroupRules { allows_public_repositories: true, ..open() };
    let made = make(&world, "large", &rules).await;
    all_run(&mut world, 1, 10 * MINUTE).await;
    assert_eq!(found(&world, "large").await, Some(made));
    assert_eq!(changes(&world), 1, "that of the test");
}

#[tokio::test]
async fn a_default_group_is_never_changed() {
    let mut world =
        world(into("Default", Some(GroupRules { allows_public_repositories: true, ..open() }))).await;
    world.pass(10 * MINUTE).await;
    assert_eq!(changes(&world), 0);
    let finding = world.manager.groups().await.unwrap()[0].record.github.clone().unwrap();
    assert!(finding.trouble.unwrap().detail.contains("default group, which is never changed"));
}

#[tokio::test]
async fn a_group_that_github_refuses_to_make_is_named_with_what_is_missing() {
    for (status, part) in [
        (404, "the plan may have no runner groups"),
        (422, "the plan may have no runner groups"),
        (401, "Unauthenticated"),
    ] {
        let mut world = world(into("Large", Some(open()))).await;
        world.crash().await;
        refuse(&world, "POST", status);
        world.start();
        world.queue(&spec("acme/app"), 1);
        world.pass(10 * MINUTE).await;
        let reason = reason(&world).await;
        assert!(reason.contains("`Large` is not to be had") && reason.contains(part), "{status}: {reason}");
        world.github().faults_mut().requests.clear();
        all_run(&mut world, 1, HOUR).await;
        let finding = world.manager.groups().await.unwrap()[0].record.github.clone().unwrap();
        assert_eq!(finding.trouble, None);
    }
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    use runner_manager_core::rest::RestGitHub;
    use runner_manager_core::testing::simulated::SimulatorTransport;
    use runner_manager_core::testing::simulator::{AppSettings, Settings, Simulator};
    let mut world = world(into("Large", Some(open()))).await;
    world.crash().await;
    let mut app = AppSettings::default();
    app.permissions.insert("organization_self_hosted_runners".to_owned(), "read".to_owned());
    let id = app.id;
    let settings = Settings { app: Some(app), ..Settings::default() };
    let github = std::sync::Arc::new(std::sync::Mutex::new(Simulator::new(settings)));
    let clock = world.clock.clone();
    world.adjust = Box::new(move |parts| {
        let transport = SimulatorTransport::app(github.clone(), clock.clone(), id);
        let github = RestGitHub::new(std::sync::Arc::new(transport), clock.clone());
        crate::world::change_account(parts, |account| account.github = std::sync::Arc::new(github));
    });
    world.start();
    world.queue(&spec("acme/app"), 1);
    world.pass(10 * MINUTE).await;
    let reason = reason(&world).await;
    assert!(reason.contains("organization_self_hosted_runners: write"), "{reason}");
}

#[tokio::test]
async fn a_group_that_was_deleted_at_github_is_made_again() {
    let mut world = world(into("Large", Some(open()))).await;
    world.pass(MINUTE).await;
    let before = found(&world, "Large").await.unwrap();
    delete(&world, &before);
    world.queue(&spec("acme/app"), 1);
    all_run(&mut world, 1, 10 * MINUTE).await;
    assert_ne!(found(&world, "Large").await.unwrap().id, before.id);
}

fn delete(world: &World, group: &RegisteredGroup) {
    let request = http::Request::builder()
        .method("DELETE")
        .uri(format!("/orgs/acme/actions/runner-groups/{}", group.id))
        .header("authorization", "Bearer ghp_simulator")
        .header("user-agent", "tests")
        .body(bytes::Bytes::new())
        .unwrap();
    let now = runner_manager_core::clock::Clock::now(&*world.clock);
    assert_eq!(world.github().handle(&request, now).response.status(), 204);
}

#[tokio::test]
async fn a_job_that_the_group_keeps_out_says_so() {
    let mut world = world(linux(0, 10)).await;
    world.github().add_repository("acme", "site", false);
    world.queue(&spec("acme/site"), 1);
    world.pass(10 * MINUTE).await;
    assert_eq!(
        reason(&world).await,
        "group linux registers into GitHub's runner group `Default`, which keeps it out: acme/site is public, and \
         public repositories may not use it"
    );
    let default = found(&world, "Default").await.unwrap();
    let rules = GroupRules { allows_public_repositories: true, ..open() };
    world.account().github.update_runner_group(&acme(), default.id, "Default", &rules).await.unwrap();
    all_run(&mut world, 1, HOUR).await;
}

#[tokio::test]
async fn a_repository_that_a_group_was_not_given_to_is_named() {
    let mut world = world(into("Large", None)).await;
    make(&world, "Large", &selected()).await;
    world.queue(&spec("acme/lib"), 1);
    world.pass(10 * MINUTE).await;
    let said = reason(&world).await;
    assert!(said.ends_with("`Large`, which keeps it out: it was not given to acme/lib"), "{said}");
}
