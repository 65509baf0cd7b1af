//! What machines ask of a manager and tell it, strangers in their place, and what machines are given in user data.

use std::collections::BTreeSet;
use std::time::Instant;

use http::Method;
use runner_manager_core::domain::{RunnerName, Secret, TokenKey};
use runner_manager_core::testing::secrets::Secrets;
use serde_json::Value;

use super::Outputs;
use super::clouds::Orders;
use super::support::{PATIENCE, client};
use super::world::{ADMIN, SECRET_KEY, World};

/// The word of the start of the machine that the test plays.
pub(crate) const BOOT: &str = "boot-Rt6Yu8Io3Pl5Kj2Hg";
/// That of another start, which nobody has.
const ANOTHER_BOOT: &str = "boot-of-another-start";
const CALLS: [&str; 8] =
    ["script", "progress", "jit-config", "heartbeat", "job-started", "job-completed", "failed", "left"];

/// The token of a runner's machine.
pub(crate) fn token(runner: &str) -> String {
    let key = TokenKey::new(Secret::new(SECRET_KEY));
    key.token(&RunnerName::new(runner).unwrap()).expose().to_owned()
}

/// The names of all runners that were to call: those on record, those that ended, and those of which clouds were told.
pub(crate) async fn callers(world: &World) -> BTreeSet<String> {
    let listed = [world.get("runners").await, world.get("ended-runners?limit=500").await];
    let on_record =
        listed.iter().flat_map(|list| list["items"].as_array().unwrap()).map(|runner| &runner["name"]);
    let told = world.orders.iter().flat_map(Orders::all).map(|order| name_in(&order));
    let names = on_record.map(|name| name.as_str().unwrap().to_owned()).chain(told);
    names
        .filter(|name| ["calling", "mute", "stack", "compute"].iter().any(|group| is_of(name, group)))
        .collect()
}

fn is_of(runner: &str, group: &str) -> bool {
    runner.starts_with(&format!("rm-{group}-"))
}

/// The runner that a cloud is told of: each has it at another place.
fn name_in(order: &Value) -> String {
    let places = ["/server/name", "/name", "/Labels/runner-manager-runner"];
    let name = places.iter().find_map(|place| order.pointer(place)?.as_str());
    name.unwrap_or_else(|| panic!("there is no name in {order:#}")).to_owned()
}

/// A machine, and strangers in its place, from its first call to the last, when it has nothing to ask any more.
/// What they are answered, but for what is meant for the machine.
pub(crate) async fn call(world: &World) -> Outputs {
    let runner = a_mute_runner(world).await;
    let token = token(&runner);
    let mut outputs = Outputs::new();
    strangers(world, &runner, &token, &mut outputs).await;
    let machine = Machine { world, runner: &runner, token: &token };

    let (status, script) = machine.call("script", &[]).await;
    assert_eq!(status, 200);
    let bears =
        |secret: &str, text: &str| !Secrets::default().and("it", secret).find(text.as_bytes()).is_empty();
    assert!(bears(&token, &script), "the script has its token: {script}");
    let (status, config) = machine.call("jit-config", &[]).await;
    assert_eq!(status, 200, "{config}");

    // With what it knows wherever it can be said.
    for (status, what, fields) in [
        (409, "jit-config", [("boot", ANOTHER_BOOT), ("detail", &*token)]),
        (400, "progress", [("step", &*token), ("boot", BOOT)]),
        (400, "heartbeat", [("state", &*token), ("boot", BOOT)]),
        (400, "job-started", [("repository", &*token), ("run_id", &*token)]),
        (400, "left", [("reason", &*token), ("boot", BOOT)]),
        (204, "progress", [("step", "listening"), ("boot", BOOT)]),
        (409, "jit-config", [("boot", BOOT), ("detail", "spent: its listener was seen")]),
        (200, "heartbeat", [("state", "idle"), ("leave", &*token)]),
        (204, "failed", [("reason", &*token), ("detail", &*format!("curl: Bearer {token} {token}"))]),
    ] {
        let answer = machine.call(what, &fields).await;
        assert_eq!(answer.0, status, "{what}: {}", answer.1);
        outputs.push((format!("a machine's {what}"), answer.1.into_bytes()));
    }
    until_ended(world, &runner).await;
    for (status, what) in [(410, "script"), (410, "jit-config"), (410, "heartbeat"), (204, "left")] {
        let answer = machine.call(what, &[("state", "idle"), ("reason", "asked")]).await;
        assert_eq!(answer.0, status, "{what}: {}", answer.1);
        outputs.push((format!("the {what} of a machine that is gone"), answer.1.into_bytes()));
    }
    outputs
}

/// One whose machine says nothing by itself.
async fn a_mute_runner(world: &World) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let runners = world.get("runners").await;
        let is_mute = |runner: &&Value| runner["group"] == "mute" && runner["state"] == "booting";
        if let Some(runner) = runners["items"].as_array().unwrap().iter().find(is_mute) {
            return runner["name"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "no machine boots: {runners:#}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Its last words are told, without its token.
async fn until_ended(world: &World, runner: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ended = world.get("ended-runners").await;
        if let Some(ended) = ended["items"].as_array().unwrap().iter().find(|ended| ended["name"] == *runner)
        {
            let last = ended["timeline"].as_array().unwrap().last().unwrap()["what"].as_str().unwrap();
            assert_eq!(last, "failed: [secret]: curl: Bearer [secret] [secret]");
            return;
        }
        assert!(Instant::now() < deadline, "{runner} does not end: {ended:#}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Who has another token, another runner's, or one that is of something else, is refused, and told nothing.
async fn strangers(world: &World, runner: &str, token: &str, outputs: &mut Outputs) {
    let other = "rm-mute-another";
    let cut = &token[1..];
    let swapped: String = token.chars().rev().collect();
    let others = self::token(other);
    for (runner, token) in [
        (runner, others.as_str()),
        (other, token),
        (runner, cut),
        (runner, &swapped),
        (runner, SECRET_KEY),
        (runner, ADMIN),
        (runner, ""),
    ] {
        let stranger = Machine { world, runner, token };
        for what in CALLS {
            let (status, answer) = stranger.call(what, &[("detail", token), ("state", "idle")]).await;
            assert_eq!((status, &*answer), (401, "no token of this runner"), "{what}");
            outputs.push((format!("a stranger's {what}"), answer.into_bytes()));
        }
    }
}

struct Machine<'w> {
    world: &'w World,
    runner: &'w str,
    token: &'w str,
}

impl Machine<'_> {
    async fn call(&self, what: &str, fields: &[(&str, &str)]) -> (u16, String) {
        let url = format!("{}/bootstrap/v1/runners/{}/{what}", self.world.url(), self.runner);
        let method = if what == "script" { Method::GET } else { Method::POST };
        let has_boot = fields.iter().any(|(key, _)| *key == "boot");
        let boot = [("boot", BOOT)].into_iter().filter(|_| !has_boot);
        let body: String = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(boot.chain(fields.iter().copied()))
            .finish();
        let request = client().request(method, url).bearer_auth(self.token);
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// What stands in user data and metadata is good for one runner: in callback mode its token, in direct mode its JIT
/// config, and nothing else that is secret.
pub(crate) fn are_given_no_more_than_they_need(world: &World) {
    let (lasting, configs) = (world.lasting_secrets(), world.jit_configs());
    let mut seen = BTreeSet::new();
    for order in world.orders.iter().flat_map(Orders::all) {
        let (runner, body) = (name_in(&order), order.to_string().into_bytes());
        assert_eq!(lasting.find(&body), Vec::new(), "{runner}");
        let calls = ["stack", "compute"].iter().any(|group| is_of(&runner, group));
        let has_token = !Secrets::default().and("its token", token(&runner)).find(&body).is_empty();
        let has_config = !configs.find(&body).is_empty();
        assert_eq!((has_token, has_config), (calls, !calls), "{runner}");
        seen.insert(runner.rsplit_once('-').unwrap().0.to_owned());
    }
    let all = ["rm-engine", "rm-stack", "rm-direct-stack", "rm-compute", "rm-direct-compute"];
    let compiled = |group: &&str| {
        (cfg!(feature = "gcp") || !group.ends_with("compute"))
            && (cfg!(feature = "openstack") || !group.ends_with("stack"))
    };
    assert_eq!(seen, all.into_iter().filter(compiled).map(str::to_owned).collect());
}
