//! No secret leaves the program by any way but the one that it is for: real processes that log everything, on a
//! file and on a Redis, do all that has to do with secrets, and all that they gave away is searched.
#![expect(clippy::disallowed_methods, reason = "tests of processes wait in real time")]
#![expect(clippy::print_stderr, reason = "a test that fails shows the logs of its processes")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod clouds;
#[path = "../../../runner-manager-core/tests/http_server/mod.rs"]
mod http_server;
mod machines;
mod operators;
#[path = "../../../runner-manager-core/tests/support/redis_server.rs"]
mod redis_server;
#[path = "../server/support.rs"]
#[expect(dead_code, reason = "some of it is for the tests of the server")]
mod support;
mod world;

use runner_manager_core::testing::secrets::Secrets;

use self::redis_server::RedisServer;
use self::world::{REDIS_PASSWORD, World};

/// What was given away, by where.
type Outputs = Vec<(String, Vec<u8>)>;

#[tokio::test(flavor = "multi_thread")]
async fn on_a_file() {
    let world = World::start("{kind: embedded, path: store.redb}", "json").await;
    nothing_is_given_away(world, |folder| {
        vec![("the store's file".to_owned(), std::fs::read(folder.join("store.redb")).unwrap())]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_redis() {
    let Some(redis) = RedisServer::start(&["--rdbcompression", "no"]) else { return };
    let password = format!(">{REDIS_PASSWORD}");
    let user = ["ACL", "SETUSER", "rm", "on", &password, "~*", "&*", "+@all"];
    assert_eq!(redis.ask(&user), "+OK");
    let store = format!("{{kind: redis, url: '{}', user: rm, password: '{REDIS_PASSWORD}'}}", redis.url());
    let world = World::start(&store, "text").await;
    nothing_is_given_away(world, |_| {
        assert_eq!(redis.ask(&["SAVE"]), "+OK");
        let told = redis.ask(&["CONFIG", "GET", "dir"]);
        let folder = std::path::Path::new(told.lines().last().unwrap());
        vec![("the Redis' data".to_owned(), std::fs::read(folder.join("dump.rdb")).unwrap())]
    })
    .await;
}

async fn nothing_is_given_away(mut world: World, store: impl Fn(&std::path::Path) -> Outputs) {
    world.run_jobs().await;
    world.until_all_went_wrong().await;
    let mut outputs = operators::look_and_act(&world).await;
    outputs.extend(machines::call(&world).await);
    outputs.extend(operators::run_commands(&world, &world.jobs().await[0]));
    let planted = world.plant().await;
    outputs.extend(world.answers().await);
    let secrets = world.secrets().await;
    machines::are_given_no_more_than_they_need(&world);
    outputs.extend(world.end());
    outputs.extend(store(world.folder.path()));

    let finds: Vec<String> = outputs
        .iter()
        .flat_map(|(place, bytes)| {
            let found = secrets.find(bytes);
            found.into_iter().map(move |find| format!("{place}: {find}"))
        })
        .collect();
    assert_eq!(finds, Vec::<String>::new(), "what was given away");
    all_that_was_planted_is_found(&planted, &outputs);
}

/// What was logged, served and stored is what was searched: what is planted there is found, in every form.
fn all_that_was_planted_is_found((planted, forms): &(Secrets, Vec<&str>), outputs: &Outputs) {
    let forms_in = |place: &str| {
        let (_, bytes) = outputs.iter().find(|(name, _)| name == place).unwrap();
        planted.find(bytes).into_iter().map(|find| find.form).collect::<Vec<_>>()
    };
    let logged = forms_in("manager.log");
    for form in forms {
        assert!(logged.contains(form), "{form} is not among {logged:?}");
    }
    for place in ["/api/v1/jobs", outputs.last().unwrap().0.as_str()] {
        assert!(forms_in(place).contains(&"plain"), "{place}");
    }
    let (_, log) = outputs.iter().find(|(name, _)| name == "manager.log").unwrap();
    let log = String::from_utf8_lossy(log);
    for below in ["hyper_util::", "tower::"] {
        let tells = log.lines().any(|line| line.contains("TRACE") && line.contains(below));
        assert!(tells, "{below} logs, too, as far down as it can");
    }
}
