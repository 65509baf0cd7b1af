//! Between our words and the engine's: a specification becomes the body of a create, and what the engine
//! tells of a container becomes an instance.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum,
    ContainerSummary, ContainerSummaryStateEnum, HostConfig,
};
use jiff::Timestamp;
use runner_manager_core::backend::{BackendError, BackendErrorKind, Bootstrap, InstanceSpec};
use runner_manager_core::domain::{Instance, InstanceFailure, InstanceId, InstanceState, Owner, OwnerTags};

use super::config::{JIT_CONFIG_VARIABLE, PlacementConfig};

type Labels = HashMap<String, String>;

/// The body of the call that creates the container of a specification.
pub(super) fn create_body(
    spec: &InstanceSpec,
    config: &PlacementConfig,
) -> Result<ContainerCreateBody, BackendError> {
    let Bootstrap::Direct { jit_config } = &spec.bootstrap else {
        let detail = "the docker backend hands over JIT configs alone";
        return Err(BackendError::new(BackendErrorKind::Unsupported, "create", detail));
    };
    let mut env: Vec<String> = config.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    env.push(format!("{JIT_CONFIG_VARIABLE}={}", jit_config.expose()));
    Ok(ContainerCreateBody {
        image: Some(config.image().to_owned()),
        cmd: (!config.command.is_empty()).then(|| config.command.clone()),
        entrypoint: config.entrypoint.clone(),
        env: Some(env),
        user: config.user.clone(),
        hostname: has_hostname(config).then(|| spec.runner.to_string()),
        labels: Some(labels(spec)),
        host_config: Some(host_config(config)),
        ..ContainerCreateBody::default()
    })
}

/// A container that shares another's network also shares its host name, and the engine refuses one.
fn has_hostname(config: &PlacementConfig) -> bool {
    let network = config.network.as_deref().unwrap_or_default();
    network != "host" && !network.starts_with("container:")
}

/// The user's tags, and ours, which win.
fn labels(spec: &InstanceSpec) -> Labels {
    let mut labels: Labels = spec.tags.clone().into_iter().collect();
    labels.extend(spec.owner.tags(&spec.runner, &spec.group));
    labels
}

fn host_config(config: &PlacementConfig) -> HostConfig {
    let memory = config.memory.map(|memory| i64::try_from(memory.0).unwrap_or(i64::MAX));
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    HostConfig {
        nano_cpus: config.cpus.map(nano_cpus),
        memory,
        // Equal to `memory`: no swap on top of it.
        memory_swap: memory,
        network_mode: config.network.clone(),
        binds: some(&config.volumes),
        extra_hosts: some(&config.extra_hosts),
        privileged: Some(config.privileged),
        runtime: config.runtime.clone(),
        ..HostConfig::default()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the settings allow at most 4096 CPUs")]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

/// The filter that lists all containers of an owner.
pub(super) fn owner_filter(owner: &Owner) -> HashMap<String, Vec<String>> {
    let label = vec![
        format!("{}={}", Owner::DEPLOYMENT_TAG, owner.deployment),
        format!("{}={}", Owner::FINGERPRINT_TAG, owner.fingerprint.as_str()),
    ];
    HashMap::from([("label".to_owned(), label)])
}

fn tags(labels: &Labels) -> Option<OwnerTags> {
    Owner::read_tags(|key| labels.get(key).map(String::as_str))
}

/// What an inspection tells, and whose the container is; `None` for one without our marks.
pub(super) fn inspected(container: &ContainerInspectResponse) -> Option<(Instance, Owner)> {
    let tags = tags(container.config.as_ref()?.labels.as_ref()?)?;
    let created: Timestamp = container.created.as_deref()?.parse().ok()?;
    let instance = Instance {
        id: InstanceId::new(container.id.as_deref()?),
        runner: tags.runner,
        group: tags.group,
        state: inspected_state(container.state.as_ref()?),
        // A list tells whole seconds alone, and all ways of telling must agree.
        created_at: Timestamp::from_second(created.as_second()).ok()?,
    };
    Some((instance, tags.owner))
}

/// What a list tells of one container; `None` for one whose marks cannot be read.
pub(super) fn listed(container: &ContainerSummary) -> Option<Instance> {
    let tags = tags(container.labels.as_ref()?)?;
    Some(Instance {
        id: InstanceId::new(container.id.as_deref()?),
        runner: tags.runner,
        group: tags.group,
        state: listed_state(container.state?),
        created_at: Timestamp::from_second(container.created?).ok()?,
    })
}

fn inspected_state(state: &ContainerState) -> InstanceState {
    let error = state.error.as_deref().unwrap_or_default();
    match state.status.unwrap_or(ContainerStateStatusEnum::EMPTY) {
        ContainerStateStatusEnum::EMPTY | ContainerStateStatusEnum::CREATED if error.is_empty() => {
            InstanceState::Pending
        }
        ContainerStateStatusEnum::EMPTY | ContainerStateStatusEnum::CREATED => {
            InstanceState::Failed(InstanceFailure::Other, format!("the container did not start: {error}"))
        }
        ContainerStateStatusEnum::RUNNING
        | ContainerStateStatusEnum::PAUSED
        | ContainerStateStatusEnum::RESTARTING
        | ContainerStateStatusEnum::STOPPING => InstanceState::Running,
        ContainerStateStatusEnum::REMOVING
        | ContainerStateStatusEnum::EXITED
        | ContainerStateStatusEnum::DEAD => InstanceState::Stopped,
    }
}

const fn listed_state(state: ContainerSummaryStateEnum) -> InstanceState {
    match state {
        ContainerSummaryStateEnum::EMPTY | ContainerSummaryStateEnum::CREATED => InstanceState::Pending,
        ContainerSummaryStateEnum::RUNNING
        | ContainerSummaryStateEnum::PAUSED
        | ContainerSummaryStateEnum::RESTARTING
        | ContainerSummaryStateEnum::STOPPING => InstanceState::Running,
        ContainerSummaryStateEnum::REMOVING
        | ContainerSummaryStateEnum::EXITED
        | ContainerSummaryStateEnum::DEAD => InstanceState::Stopped,
    }
}
