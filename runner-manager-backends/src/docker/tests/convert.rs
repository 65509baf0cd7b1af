//! Conversions in both directions.

use std::collections::HashMap;

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum,
};
use runner_manager_core::domain::{InstanceFailure, InstanceState, Owner};
use serde_json::json;

use super::super::config::PlacementConfig;
use super::super::convert::{create_body, inspected, listed, owner_filter};
use super::{owner, spec};

fn labels() -> HashMap<String, String> {
    let spec = spec("docker-tests-linux-1", &json!({}));
    spec.owner.tags(&spec.runner, &spec.group).into_iter().collect()
}

#[test]
fn a_specification_becomes_a_body() {
    let settings = json!({
        "image": "runner:1", "command": ["/run"], "entrypoint": ["/init"], "env": {"A": "b"}, "user": "1000",
        "cpus": 1.5, "memory": "1GiB", "network": "ci", "volumes": ["cache:/cache:ro"],
        "extra_hosts": ["git:10.0.0.1"], "privileged": true, "runtime": "runc",
    });
    let mut spec = spec("docker-tests-linux-1", &settings);
    spec.tags.insert(Owner::RUNNER_TAG.to_owned(), "a-lie".to_owned());
    let body = create_body(&spec, &PlacementConfig::read(&settings).unwrap()).unwrap();
    let host = body.host_config.unwrap();
    assert_eq!(body.image.as_deref(), Some("runner:1"));
    assert_eq!(body.cmd.unwrap(), ["/run"]);
    assert_eq!(body.entrypoint.unwrap(), ["/init"]);
    assert_eq!(body.env.unwrap(), ["A=b", "ACTIONS_RUNNER_INPUT_JITCONFIG=a-jit-config"]);
    assert_eq!(
        (body.user.as_deref(), body.hostname.as_deref()),
        (Some("1000"), Some("docker-tests-linux-1"))
    );
    assert_eq!(
        (host.nano_cpus, host.memory, host.memory_swap),
        (Some(1_500_000_000), Some(1 << 30), Some(1 << 30))
    );
    assert_eq!((host.network_mode.as_deref(), host.runtime.as_deref()), (Some("ci"), Some("runc")));
    assert_eq!(
        (host.binds.unwrap(), host.extra_hosts.unwrap()),
        (vec!["cache:/cache:ro".to_owned()], vec!["git:10.0.0.1".to_owned()])
    );
    assert_eq!(host.privileged, Some(true));
    let labels = body.labels.unwrap();
    assert_eq!(labels["cost-center"], "ci");
    assert_eq!(labels[Owner::RUNNER_TAG], "docker-tests-linux-1", "the user's tags must not win over ours");
}

#[test]
fn the_host_network_takes_no_host_name() {
    for (network, has) in [("host", false), ("container:x", false), ("bridge", true)] {
        let settings = json!({"network": network});
        let body =
            create_body(&spec("docker-tests-linux-1", &settings), &PlacementConfig::read(&settings).unwrap());
        assert_eq!(body.unwrap().hostname.is_some(), has, "{network}");
    }
}

#[test]
fn the_defaults_are_those_of_the_official_image() {
    let body = create_body(&spec("docker-tests-linux-1", &json!({})), &PlacementConfig::default()).unwrap();
    assert_eq!(body.image.as_deref(), Some("ghcr.io/actions/actions-runner:latest"));
    assert_eq!(body.cmd.unwrap(), ["/home/runner/run.sh"]);
    assert_eq!(body.entrypoint, None);
    let settings = json!({"command": []});
    let body =
        create_body(&spec("docker-tests-linux-1", &settings), &PlacementConfig::read(&settings).unwrap());
    assert_eq!(body.unwrap().cmd, None, "an empty command is the image's own");
}

#[test]
fn both_ways_of_telling_agree() {
    use ContainerStateStatusEnum as Told;
    use ContainerSummaryStateEnum as Listed;
    for (told, summary, expected) in [
        (Told::CREATED, Listed::CREATED, InstanceState::Pending),
        (Told::RUNNING, Listed::RUNNING, InstanceState::Running),
        (Told::PAUSED, Listed::PAUSED, InstanceState::Running),
        (Told::RESTARTING, Listed::RESTARTING, InstanceState::Running),
        (Told::STOPPING, Listed::STOPPING, InstanceState::Running),
        (Told::REMOVING, Listed::REMOVING, InstanceState::Stopped),
        (Told::EXITED, Listed::EXITED, InstanceState::Stopped),
        (Told::DEAD, Listed::DEAD, InstanceState::Stopped),
    ] {
        let (instance, by) = inspected(&container(told, "")).unwrap();
        assert_eq!((&instance.state, &by), (&expected, &owner("key")));
        let summary = ContainerSummary {
            id: Some("0123".to_owned()),
            created: Some(1_767_225_600),
            labels: Some(labels()),
            state: Some(summary),
            ..ContainerSummary::default()
        };
        assert_eq!(listed(&summary), Some(instance));
    }
}

#[test]
fn a_container_that_did_not_start_has_failed() {
    let (instance, _) = inspected(&container(ContainerStateStatusEnum::CREATED, "no such file")).unwrap();
    assert!(
        matches!(&instance.state, InstanceState::Failed(InstanceFailure::Other, why) if why.contains("no such file")),
        "{}",
        instance.state
    );
}

#[test]
fn what_does_not_bear_our_marks_is_not_told() {
    let mut foreign = container(ContainerStateStatusEnum::RUNNING, "");
    foreign.config.as_mut().unwrap().labels.as_mut().unwrap().remove(Owner::FINGERPRINT_TAG);
    assert!(inspected(&foreign).is_none());
    assert!(listed(&ContainerSummary::default()).is_none());
}

#[test]
fn the_filter_names_both_halves_of_the_owner() {
    let filter = owner_filter(&owner("key"));
    let labels = &filter["label"];
    assert_eq!(labels.len(), 2);
    assert!(labels[0].ends_with("=docker-tests") && labels[1].ends_with(owner("key").fingerprint.as_str()));
}

fn container(status: ContainerStateStatusEnum, error: &str) -> ContainerInspectResponse {
    ContainerInspectResponse {
        id: Some("0123".to_owned()),
        name: Some("/docker-tests-linux-1".to_owned()),
        created: Some("2026-01-01T00:00:00.123456789Z".to_owned()),
        config: Some(ContainerConfig { labels: Some(labels()), ..ContainerConfig::default() }),
        state: Some(ContainerState {
            status: Some(status),
            error: Some(error.to_owned()),
            ..ContainerState::default()
        }),
        ..ContainerInspectResponse::default()
    }
}
