//! Services that are played: for answers that the real ones cannot be made to give, or that the peer has no service for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Method;
use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::domain::{InstanceId, InstanceState};
use runner_manager_core::retry::Retry;
use serde_json::{Value, json};

use super::stage::{IMAGE, NETWORK, OUTSIDE, Play, is, json_answer, plain, runner};
use super::{owner, placement};
use crate::testing::fault_proxy::Harm;

#[tokio::test]
async fn a_token_that_ends_in_mid_work_is_not_noticed() {
    let play = Play::start(|_| None).await;
    play.lock().uses_left = Some(3);
    let backend = play.backend().await;
    for number in 0..10 {
        let made = backend.create(&runner(number, &plain())).await.unwrap();
        assert_eq!(backend.find(&made.runner).await.unwrap().map(|found| found.id), Some(made.id.clone()));
        backend.delete(&made.id).await.unwrap();
        assert_eq!(backend.get(&made.id).await.unwrap(), None);
    }
    assert!(play.lock().tokens > 10, "the tokens did not end");
}

#[tokio::test]
async fn one_new_token_serves_all_who_wait_for_it() {
    let play = Play::start(|_| None).await;
    let backend = play.backend().await;
    let nobody = owner("acme", "key");
    let lists = futures_util::future::join_all((0..20).map(|_| backend.list(&nobody))).await;
    assert!(lists.iter().all(Result::is_ok));
    assert_eq!(play.lock().tokens, 1);
}

/// Keystone may lock out who tries too often.
#[tokio::test]
async fn a_wrong_password_is_not_tried_again_and_again() {
    let play = Play::start(|seen| {
        let refusal = json!({"error": {"code": 401, "title": "Unauthorized", "message": "wrong"}});
        is(seen, &Method::POST, "/v3/auth/tokens").then(|| json_answer(401, &refusal))
    })
    .await;
    let backend = play.backend().await;
    for _ in 0..10 {
        let error = backend.list(&owner("acme", "key")).await.unwrap_err();
        assert_eq!((error.kind, error.retry), (BackendErrorKind::Unauthenticated, Retry::Never), "{error}");
    }
    assert_eq!(play.asked("POST /v3/auth/tokens"), 1);
}

/// What a refused create means, by status and words.
#[tokio::test]
async fn refusals_of_a_create_are_told_apart() {
    let nova = |kind: &str, message: &str| json!({kind: {"code": 400, "message": message}}).to_string();
    let user_data = "Invalid input for field/attribute user_data. Value: aHVzaA==. 'aHVzaA==' is too long";
    for (status, body, kind) in [
        (
            403,
            nova("forbidden", "Quota exceeded for cores, ram: Requested 4, but already used 20 of 20 cores"),
            BackendErrorKind::QuotaExceeded,
        ),
        (403, nova("forbidden", "Maximum number of ports exceeded"), BackendErrorKind::QuotaExceeded),
        (
            403,
            nova("forbidden", "Policy doesn't allow os_compute_api:servers:create to be performed."),
            BackendErrorKind::PermissionDenied,
        ),
        (413, nova("overLimit", "Quota exceeded for instances"), BackendErrorKind::QuotaExceeded),
        (413, nova("overLimit", "This request was rate-limited."), BackendErrorKind::RateLimited),
        (429, String::from("Too Many Requests"), BackendErrorKind::RateLimited),
        (400, nova("badRequest", "Flavor f1 could not be found."), BackendErrorKind::NotFound),
        (400, nova("badRequest", user_data), BackendErrorKind::InvalidConfig),
        (
            400,
            nova("badRequest", &format!("'{}' is too long", "aHVzaA".repeat(20))),
            BackendErrorKind::InvalidConfig,
        ),
        (
            409,
            nova("conflictingRequest", "No fixed IP addresses available for network: n"),
            BackendErrorKind::NoCapacity,
        ),
        (
            409,
            nova(
                "conflictingRequest",
                "Multiple possible networks found, use a Network ID to be more specific.",
            ),
            BackendErrorKind::InvalidConfig,
        ),
        (404, String::from("<html>no such page</html>"), BackendErrorKind::NotFound),
        (500, nova("computeFault", "Unexpected API Error."), BackendErrorKind::Unclear),
        (502, String::from("<html>Bad Gateway</html>"), BackendErrorKind::Unclear),
        (
            503,
            String::from(
                "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>",
            ),
            BackendErrorKind::Unavailable,
        ),
        (
            503,
            String::from(
                "{\"message\": \"The server is currently unavailable. The Keystone service is temporarily unavailable.\"}",
            ),
            BackendErrorKind::Unavailable,
        ),
        (503, String::from("<html>503</html>"), BackendErrorKind::Unclear),
        (504, String::new(), BackendErrorKind::Unclear),
    ] {
        let answer = body.clone();
        let play = Play::start(move |seen| {
            let asked = is(seen, &Method::POST, "/compute/v2.1/servers");
            asked.then(|| Harm::Answer { status, body: Bytes::from(answer.clone()) })
        })
        .await;
        let error = play.backend().await.create(&runner(1, &plain())).await.unwrap_err();
        assert_eq!(error.kind, kind, "{status} {body}: {error}");
        assert!(!error.to_string().contains("aHVzaA"), "{error}");
        assert_eq!(play.asked("POST /compute/v2.1/servers"), 1, "it was asked again");
    }
}

#[tokio::test]
async fn a_service_says_how_long_to_wait() {
    let play = Play::start(|seen| {
        is(seen, &Method::GET, "/compute/v2.1/servers/detail").then(|| Harm::AnswerWith {
            status: 429,
            headers: vec![("retry-after", "7".to_owned())],
            body: Bytes::from_static(b"{\"overLimit\": {\"message\": \"slow down\"}}"),
        })
    })
    .await;
    let error = play.backend().await.list(&owner("acme", "key")).await.unwrap_err();
    let seven = Retry::After(std::time::Duration::from_secs(7));
    assert_eq!((error.kind, error.retry), (BackendErrorKind::RateLimited, seven), "{error}");
}

/// Signing in fails before anything is asked for, so that nothing is unclear.
#[tokio::test]
async fn a_keystone_that_is_down_makes_no_create_unclear() {
    for (status, body) in [(500, "{}"), (503, "<html>"), (504, "")] {
        let play = Play::start(move |seen| {
            let asked = is(seen, &Method::POST, "/v3/auth/tokens");
            asked.then(|| Harm::Answer { status, body: Bytes::from_static(body.as_bytes()) })
        })
        .await;
        let error = play.backend().await.create(&runner(1, &plain())).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Unavailable, "{error}");
    }
}

/// Nova accepted it, and another of its processes does not know of it yet.
#[tokio::test]
async fn a_server_that_is_not_told_of_at_once_is_waited_for() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let play = Play::start(move |seen| {
        let look = is(seen, &Method::GET, "/compute/v2.1/servers/server-0");
        (look && counted.fetch_add(1, Ordering::SeqCst) < 2)
            .then(|| json_answer(404, &json!({"itemNotFound": {"message": "Instance could not be found."}})))
    })
    .await;
    let backend = play.backend().await;
    let made = backend.create(&runner(1, &plain())).await.unwrap();
    assert_eq!((made.state, looks.load(Ordering::SeqCst)), (InstanceState::Running, 3));
    assert!(
        backend.capabilities().lag > std::time::Duration::ZERO,
        "absence right after a create counts for nothing"
    );
}

/// A list is all of it, or an error.
#[tokio::test]
async fn a_cell_that_does_not_answer_is_no_shorter_list() {
    let play = Play::start(|_| None).await;
    let backend = play.backend().await;
    let made = backend.create(&runner(1, &plain())).await.unwrap();
    assert_eq!(backend.list(&owner("acme", "key")).await.unwrap().len(), 1);
    play.lock()
        .servers
        .push(json!({"id": "server-9", "status": "UNKNOWN", "created": "2020-11-26T11:55:11Z"}));
    let absent = runner(7, &plain()).runner;
    let unknown = InstanceId::new("server-9/acme-linux-9");
    for error in [
        backend.list(&owner("acme", "key")).await.unwrap_err(),
        backend.find(&absent).await.unwrap_err(),
        backend.get(&unknown).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, BackendErrorKind::Unavailable, "{error}");
        assert!(error.detail.contains("cell"), "{error}");
    }
    assert!(backend.find(&made.runner).await.unwrap().is_some());
}

#[tokio::test]
async fn a_soft_deleted_server_is_ended_for_good() {
    let play = Play::start(|seen| {
        let forced =
            is(seen, &Method::POST, "/compute/v2.1/servers/server-0/action") && seen.says("forceDelete");
        forced.then(|| json_answer(202, &Value::Null))
    })
    .await;
    let backend = play.backend().await;
    let made = backend.create(&runner(1, &plain())).await.unwrap();
    play.lock().servers[0]["status"] = json!("SOFT_DELETED");
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().state, InstanceState::Stopped);
    backend.delete(&made.id).await.unwrap();
    assert_eq!(play.asked("POST /compute/v2.1/servers/server-0/action"), 1);
    assert_eq!(play.asked("DELETE /compute/v2.1/servers/server-0"), 0);
}

#[tokio::test]
async fn a_deletion_that_is_stuck_is_shown_and_asked_for_again() {
    let play = Play::start(|seen| {
        is(seen, &Method::DELETE, "/compute/v2.1/servers/server-0").then(|| json_answer(204, &Value::Null))
    })
    .await;
    let backend = play.backend().await;
    let made = backend.create(&runner(1, &plain())).await.unwrap();
    backend.delete(&made.id).await.unwrap();
    play.lock().servers[0]["OS-EXT-STS:task_state"] = json!("deleting");
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().state, InstanceState::Stopped);
    let error = backend.delete(&made.id).await.unwrap_err();
    assert!(error.detail.contains("stuck since 2020-11-26T11:55:11Z: an administrator must look"), "{error}");
    assert_eq!(play.asked("DELETE /compute/v2.1/servers/server-0"), 2);
}

#[tokio::test]
async fn a_floating_ip_comes_with_the_server_and_goes_with_it() {
    let play = Play::start(|_| None).await;
    let backend = play.backend().await;
    let mut wanted = plain();
    wanted["floating_network"] = json!(OUTSIDE);
    let made = backend.create(&runner(1, &wanted)).await.unwrap();
    {
        let cloud = play.lock();
        let (port, address) = (&cloud.ports[0], &cloud.floating[0]);
        assert_eq!((&port["network_id"], &port["name"]), (&json!(NETWORK), &json!("acme-linux-1")));
        assert_eq!((&address["floating_network_id"], &address["port_id"]), (&json!(OUTSIDE), &port["id"]));
    }
    // A port of somebody else's stays.
    play.lock().ports.push(json!({"id": "port-9", "name": "acme-linux-1", "description": "made by hand"}));
    backend.delete(&made.id).await.unwrap();
    assert_eq!(backend.get(&made.id).await.unwrap(), None);
    let cloud = play.lock();
    assert_eq!((cloud.ports.len(), &cloud.ports[0]["id"], cloud.floating.len()), (1, &json!("port-9"), 0));
}

#[tokio::test]
async fn an_address_is_taken_back_where_there_is_no_server_for_it() {
    for refused in ["/compute/v2.1/servers", "/network/v2.0/floatingips"] {
        let play = Play::start(move |seen| {
            let refusal = json!({"NeutronError": {"type": "OverQuota", "message": "Quota exceeded for resources: ['floatingip']."}});
            is(seen, &Method::POST, refused).then(|| json_answer(409, &refusal))
        })
        .await;
        let mut wanted = plain();
        wanted["floating_network"] = json!(OUTSIDE);
        let error = play.backend().await.create(&runner(1, &wanted)).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::QuotaExceeded, "{error}");
        let cloud = play.lock();
        assert_eq!((cloud.ports.len(), cloud.floating.len(), cloud.servers.len()), (0, 0, 0), "{refused}");
    }
}

/// The port was made, and then the process died: the sweep finds it as an instance that has stopped.
#[tokio::test]
async fn what_was_left_behind_is_listed_and_removed() {
    let play = Play::start(|_| None).await;
    let backend = play.backend().await;
    let (me, fingerprint) = (owner("acme", "key"), owner("acme", "key").fingerprint);
    let description = format!("runner-manager acme {} linux", fingerprint.as_str());
    let marks: Value = json!(me.tags(&runner(3, &plain()).runner, &runner(3, &plain()).group));
    {
        let mut cloud = play.lock();
        let at = "2020-11-26T11:55:11Z";
        cloud
            .ports
            .push(json!({"id": "a", "name": "acme-linux-1", "description": description, "created_at": at}));
        cloud.ports.push(json!({"id": "b", "name": "other-linux-1", "description": "runner-manager other f linux", "created_at": at}));
        cloud.ports.push(json!({"id": "c", "name": "acme-linux-2", "description": description, "created_at": "2999-01-01T00:00:00Z"}));
        cloud
            .floating
            .push(json!({"id": "d", "description": format!("{description} acme-linux-1"), "created_at": at}));
        cloud.volumes.push(json!({"id": "e", "metadata": marks, "created_at": "2020-11-26T11:55:11.000000"}));
        cloud.volumes.push(json!({"id": "f", "metadata": {}, "created_at": "2020-11-26T11:55:11.000000"}));
    }
    let listed = backend.list(&me).await.unwrap();
    let told: Vec<(&str, &InstanceState)> =
        listed.iter().map(|left| (left.id.as_str(), &left.state)).collect();
    let stopped = &InstanceState::Stopped;
    assert_eq!(told, [("-/acme-linux-1+address", stopped), ("-/acme-linux-3+volume", stopped)]);
    for left in &listed {
        backend.delete(&left.id).await.unwrap();
        assert_eq!(backend.get(&left.id).await.unwrap(), None);
    }
    assert_eq!(backend.list(&me).await.unwrap(), []);
    let cloud = play.lock();
    let ids = |things: &[Value]| {
        things.iter().map(|thing| thing["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((ids(&cloud.ports), ids(&cloud.floating)), (vec!["b".to_owned(), "c".to_owned()], vec![]));
    assert_eq!(ids(&cloud.volumes), ["f"]);
}

/// Nova may fail to delete a volume with its server, and then nothing tells any more that they belonged together.
#[tokio::test]
async fn a_volume_that_nova_leaves_behind_is_removed() {
    let play = Play::start(|_| None).await;
    let backend = play.backend().await;
    let mut wanted = plain();
    wanted["volume"] = json!({"size_gib": 20});
    let made = backend.create(&runner(1, &wanted)).await.unwrap();
    play.lock().volumes.push(json!({"id": "v1", "metadata": {}, "created_at": "2020-11-26T11:55:11.000000"}));
    play.lock().servers[0]["os-extended-volumes:volumes_attached"] = json!([{"id": "v1"}]);
    backend.delete(&made.id).await.unwrap();
    assert_eq!(backend.get(&made.id).await.unwrap(), None);
    assert_eq!(play.lock().volumes, Vec::<Value>::new());
}

/// So it is with the ports that Nova makes.
#[tokio::test]
async fn a_port_that_nova_leaves_behind_is_removed() {
    let play = Play::start(|_| None).await;
    let backend = play.backend().await;
    let made = backend.create(&runner(1, &plain())).await.unwrap();
    play.lock().ports.push(json!({"id": "p1", "name": "", "device_id": "server-0"}));
    play.lock().ports.push(json!({"id": "p2", "name": "brought by somebody", "device_id": "server-0"}));
    backend.delete(&made.id).await.unwrap();
    assert_eq!(backend.get(&made.id).await.unwrap(), None);
    let left: Vec<Value> = play.lock().ports.iter().map(|port| port["id"].clone()).collect();
    assert_eq!(left, ["p2"]);
}

/// A page's last server may be deleted before the next page is asked for.
#[tokio::test]
async fn a_list_begins_anew_where_its_place_is_lost() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let play = Play::start(move |seen| {
        if !is(seen, &Method::GET, "/compute/v2.1/servers/detail") {
            return None;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        let server = |number: usize| json!({"id": format!("s{number}"), "status": "ACTIVE", "name": "x"});
        let next = json!([{"rel": "next", "href": "http://elsewhere/"}]);
        Some(match seen.path.split_once("marker=").map(|(_, marker)| marker) {
            None if counted.load(Ordering::SeqCst) == 1 => {
                json_answer(200, &json!({"servers": [server(1)], "servers_links": next}))
            }
            None => json_answer(200, &json!({"servers": [server(2)], "servers_links": next})),
            Some("s2") => json_answer(200, &json!({"servers": [server(3)]})),
            Some("s3") => json_answer(200, &json!({"servers": []})),
            Some(_) => json_answer(400, &json!({"badRequest": {"message": "marker [s1] not found"}})),
        })
    })
    .await;
    assert_eq!(play.backend().await.list(&owner("acme", "key")).await.unwrap(), []);
    assert_eq!(asked.load(Ordering::SeqCst), 5);
}

/// Nova takes a server that is just being made out of a page where it stands twice, and then names no next page.
#[tokio::test]
async fn a_page_that_names_no_next_one_is_not_the_last() {
    let play = Play::start(|seen| {
        if !is(seen, &Method::GET, "/compute/v2.1/servers/detail") {
            return None;
        }
        let server = |number: usize| {
            let runner = runner(number, &plain());
            json!({
                "id": format!("s{number}"), "name": runner.runner.as_str(), "status": "ACTIVE",
                "created": "2020-11-26T11:55:11Z", "updated": "2020-11-26T11:55:11Z",
                "metadata": runner.owner.tags(&runner.runner, &runner.group),
            })
        };
        let page = match seen.path.split_once("marker=").map(|(_, marker)| marker) {
            None => vec![server(1), server(2)],
            Some("s2") => vec![server(3)],
            Some(_) => Vec::new(),
        };
        Some(json_answer(200, &json!({"servers": page})))
    })
    .await;
    let listed = play.backend().await.list(&owner("acme", "key")).await.unwrap();
    assert_eq!(listed.len(), 3, "{listed:#?}");
}

#[tokio::test]
async fn hostile_answers_are_bounded() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let play = Play::start(move |seen| {
        is(seen, &Method::GET, "/compute/v2.1/servers/detail").then(|| Harm::Flood {
            beginning: "{\"servers\": [\"",
            bytes: 1 << 30,
            taken: Arc::clone(&counted),
        })
    })
    .await;
    let error = play.backend().await.list(&owner("acme", "key")).await.unwrap_err();
    assert!(error.detail.contains("longer than 16 MiB"), "{error}");
    assert!(taken.load(Ordering::SeqCst) < 64 << 20, "{taken:?} bytes were read");
    let endless = Play::start(|seen| {
        let page = json!({"servers": [{"id": "s", "status": "ACTIVE"}], "servers_links": [{"rel": "next"}]});
        is(seen, &Method::GET, "/compute/v2.1/servers/detail").then(|| json_answer(200, &page))
    })
    .await;
    let error = endless.backend().await.list(&owner("acme", "key")).await.unwrap_err();
    assert!(error.detail.contains("more than 1000 pages"), "{error}");
}

/// A Nova from before tags and before cells that can be down.
#[tokio::test]
async fn an_old_nova_serves() {
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = Arc::clone(&bodies);
    let play = Play::start(move |seen| {
        if is(seen, &Method::POST, "/compute/v2.1/servers") {
            kept.lock().unwrap().push(serde_json::from_slice(&seen.body).unwrap());
            assert_eq!(seen.headers["x-openstack-nova-api-version"], "2.25");
        }
        let version = json!({"version": {"version": "2.25", "min_version": "2.1"}});
        is(seen, &Method::GET, "/compute/v2.1/").then(|| json_answer(200, &version))
    })
    .await;
    let backend = play.backend().await;
    let made = backend.create(&runner(1, &plain())).await.unwrap();
    assert!(bodies.lock().unwrap()[0]["server"].get("tags").is_none());
    assert_eq!(backend.find(&made.runner).await.unwrap().map(|found| found.id), Some(made.id));
    assert_eq!(backend.find(&runner(2, &plain()).runner).await.unwrap(), None);
}

/// What is asked of the cloud for one instance, from its first call to its last.
#[tokio::test]
async fn the_calls_of_an_instance_are_few() {
    let play = Play::start(|_| None).await;
    let backend = play.backend().await;
    let first = backend.create(&runner(1, &plain())).await.unwrap();
    play.lock().asked.clear();
    let made = backend.create(&runner(2, &plain())).await.unwrap();
    backend.delete(&made.id).await.unwrap();
    assert_eq!(backend.get(&made.id).await.unwrap(), None);
    assert_eq!(
        play.lock().asked,
        [
            "POST /compute/v2.1/servers",
            "GET /compute/v2.1/servers/server-1",
            "GET /compute/v2.1/servers/server-1",
            "DELETE /compute/v2.1/servers/server-1",
            "GET /compute/v2.1/servers/server-1",
            "GET /network/v2.0/ports",
        ]
    );
    play.lock().asked.clear();
    backend.list(&owner("acme", "key")).await.unwrap();
    let asked = play.lock().asked.clone();
    // Two for servers, of which the second finds that there are no more.
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(backend.get(&first.id).await.unwrap().is_some());
    assert_eq!(placement(&plain()).description, format!("f1, {IMAGE}"));
}
