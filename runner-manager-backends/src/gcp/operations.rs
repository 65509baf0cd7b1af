//! Operations: whatever changes something is one, which goes on after the call that began it. An error may stand in one that
//! is done. <https://cloud.google.com/compute/docs/api/how-tos/api-requests-responses#handling_api_responses>

use std::time::Duration;

use google_cloud_compute_v1::model::{Operation, OperationList, operation};
use http::Method;
use jiff::Timestamp;
use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::domain::{InstanceFailure, InstanceState};

use super::connection::Connection;
use super::errors::{Effect, Failure};

/// How long nobody asks again after an answer that did not say that the operation is done: Compute holds an answer back
/// until then, for up to two minutes, but need not.
const PAUSE: Duration = Duration::from_millis(500);

/// The type of the operation by which Compute ends a Spot instance.
/// <https://cloud.google.com/compute/docs/samples/compute-preemptible-history>
const PREEMPTED: &str = "compute.instances.preempted";

/// The most operations on one instance that are looked at.
const MOST_OPERATIONS: &str = "50";

/// How far an operation was followed.
#[derive(Debug)]
pub(super) enum Followed {
    /// It has done what it was to do.
    Done,
    /// It ended without.
    Failed(Failure),
    /// It was still running, or could not be asked about any more.
    Running,
}

/// Follows an operation in a zone until it is done or a time has come. It is only looked at, so that a failed look is
/// repeated.
pub(super) async fn follow(
    connection: &Connection,
    zone: &str,
    began: Operation,
    until: Timestamp,
) -> Followed {
    let Some(name) = began.name.clone() else { return Followed::Running };
    let path = connection.in_zone(zone, &format!("operations/{name}/wait"));
    let mut operation = began;
    loop {
        if operation.status == Some(operation::Status::Done) {
            return Failure::of(&operation).map_or(Followed::Done, Followed::Failed);
        }
        let left = until.duration_since(connection.clock.now());
        let Ok(left) = Duration::try_from(left) else { return Followed::Running };
        if left.is_zero() {
            return Followed::Running;
        }
        match connection.call(Method::POST, &path, &[], None, left).await {
            Ok(told) => operation = told,
            Err(failure) => {
                tracing::debug!(zone, operation = name, %failure, "an operation cannot be asked about");
                // Asking again would help with nothing else.
                if !matches!(failure.meaning(Effect::None), BackendErrorKind::Unavailable) {
                    return Followed::Running;
                }
            }
        }
        if operation.status != Some(operation::Status::Done) {
            connection.clock.sleep(PAUSE.min(left)).await;
        }
    }
}

/// What became of an instance that is not there, or has stopped, by the operations on it: `Failed`, or `Pending` where it is
/// still being made; `None` where nothing but its own end or a delete is known of.
///
/// # Errors
/// Where Compute does not say.
pub(super) async fn end_of(
    connection: &Connection,
    zone: &str,
    instance: u64,
) -> Result<Option<InstanceState>, Failure> {
    let filter = format!("targetId = {instance}");
    let query = [("filter", filter.as_str()), ("maxResults", MOST_OPERATIONS)];
    let list: OperationList = connection.get(&connection.in_zone(zone, "operations"), &query).await?;
    let mut end = None;
    for operation in list.items.iter().filter(|operation| operation.target_id == Some(instance)) {
        match operation.operation_type.as_deref() {
            Some(PREEMPTED) => {
                let why = "Google took the Spot instance back".to_owned();
                return Ok(Some(InstanceState::Failed(InstanceFailure::Reclaimed, why)));
            }
            Some("insert") if operation.status == Some(operation::Status::Done) => {
                end = Failure::of(operation)
                    .map(|failure| InstanceState::Failed(of_insert(&failure), failure.to_string()));
            }
            Some("insert") => end = Some(InstanceState::Pending),
            _ => {}
        }
    }
    Ok(end)
}

fn of_insert(failure: &Failure) -> InstanceFailure {
    match failure.meaning(Effect::None) {
        BackendErrorKind::NoCapacity => InstanceFailure::NoCapacity,
        BackendErrorKind::QuotaExceeded => InstanceFailure::QuotaExceeded,
        _ => InstanceFailure::Other,
    }
}
