//! Instances as EC2 tells of them: whose they are by their tags, and what their states mean.

use aws_sdk_ec2::types::{Instance as Told, InstanceStateName, StateReason};
use jiff::Timestamp;
use runner_manager_core::domain::{Instance, InstanceFailure, InstanceId, InstanceState, Owner, OwnerTags};

use super::errors::told;

/// Whose an instance is; `None` where it bears no marks of a Runner Manager.
pub(super) fn marks(instance: &Told) -> Option<OwnerTags> {
    Owner::read_tags(|key| tag(instance, key))
}

/// The value of a tag.
pub(super) fn tag<'a>(instance: &'a Told, key: &str) -> Option<&'a str> {
    instance.tags().iter().find(|tag| tag.key() == Some(key)).and_then(|tag| tag.value())
}

/// The instance, where it is one of a Runner Manager.
pub(super) fn instance(instance: &Told) -> Option<Instance> {
    let OwnerTags { runner, group, .. } = marks(instance)?;
    let launched = instance.launch_time()?;
    let created_at = Timestamp::new(launched.secs(), i32::try_from(launched.subsec_nanos()).ok()?).ok()?;
    Some(Instance {
        id: InstanceId::new(instance.instance_id()?),
        runner,
        group,
        state: state(instance),
        created_at,
    })
}

/// Whether it has come to its end, and EC2 only tells of it a while longer.
pub(super) fn is_terminated(instance: &Told) -> bool {
    instance.state().and_then(|state| state.name()) == Some(&InstanceStateName::Terminated)
}

/// What its state means. One that EC2 ended, rather than somebody who was asked to, has failed and says why.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html>
fn state(instance: &Told) -> InstanceState {
    match instance.state().and_then(|state| state.name()) {
        Some(InstanceStateName::Pending) => InstanceState::Pending,
        Some(InstanceStateName::Terminated) => {
            failure(instance.state_reason()).unwrap_or(InstanceState::Gone)
        }
        // Its job has ended, or is about to: nothing starts such an instance again.
        Some(InstanceStateName::ShuttingDown | InstanceStateName::Stopping | InstanceStateName::Stopped) => {
            failure(instance.state_reason()).unwrap_or(InstanceState::Stopped)
        }
        // Also of a new word of EC2's: nothing is known of it, so that its job may go on.
        _ => InstanceState::Running,
    }
}

/// Why EC2 ended it; `None` where it was told to, or powered itself off.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html>
fn failure(reason: Option<&StateReason>) -> Option<InstanceState> {
    let reason = reason?;
    let code = reason.code().unwrap_or_default();
    let kind = match code {
        "" | "pending" => return None,
        "Client.UserInitiatedShutdown"
        | "Client.InstanceInitiatedShutdown"
        | "Client.UserInitiatedHibernate" => {
            return None;
        }
        "Server.SpotInstanceTermination" | "Server.SpotInstanceShutdown" | "Server.SpotInstanceStop" => {
            InstanceFailure::Reclaimed
        }
        "Server.InsufficientInstanceCapacity" => InstanceFailure::NoCapacity,
        _ if code.ends_with("LimitExceeded") => InstanceFailure::QuotaExceeded,
        _ => InstanceFailure::Other,
    };
    let message = reason.message().unwrap_or_default();
    let words = if message.starts_with(code) { message.to_owned() } else { format!("{code}: {message}") };
    let hint = match code {
        "Client.InternalError" => " (most often the volume's KMS key: may the credentials use it?)",
        _ => "",
    };
    Some(InstanceState::Failed(kind, format!("{}{hint}", told(&words))))
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::primitives::DateTime;
    use aws_sdk_ec2::types::{Instance as Told, InstanceState as ToldState, StateReason, Tag};
    use runner_manager_core::domain::{InstanceFailure, InstanceState};

    use super::instance;

    fn told(state: &str, reason: Option<(&str, &str)>) -> Told {
        let marks = [
            ("runner-manager-deployment", "acme"),
            ("runner-manager-owner", "0011223344556677"),
            ("runner-manager-runner", "acme-linux-1"),
            ("runner-manager-group", "linux"),
        ];
        let tags = marks.map(|(key, value)| Tag::builder().key(key).value(value).build());
        Told::builder()
            .instance_id("i-1")
            .launch_time(DateTime::from_secs(1_764_158_111))
            .set_tags(Some(tags.into()))
            .state(ToldState::builder().name(state.into()).build())
            .set_state_reason(
                reason.map(|(code, message)| StateReason::builder().code(code).message(message).build()),
            )
            .build()
    }

    #[test]
    fn states_are_told() {
        let state = |state, reason| instance(&told(state, reason)).unwrap().state;
        assert_eq!(state("pending", None), InstanceState::Pending);
        assert_eq!(state("running", None), InstanceState::Running);
        assert_eq!(state("a-new-word", None), InstanceState::Running);
        for ended in ["shutting-down", "stopping", "stopped"] {
            assert_eq!(state(ended, None), InstanceState::Stopped, "{ended}");
        }
        for code in ["Client.UserInitiatedShutdown", "Client.InstanceInitiatedShutdown"] {
            assert_eq!(state("terminated", Some((code, "ended"))), InstanceState::Gone, "{code}");
        }
        assert_eq!(state("terminated", None), InstanceState::Gone);
    }

    #[test]
    fn the_reason_of_an_early_end_is_told() {
        let failed = |code, message: &'static str| match instance(&told("terminated", Some((code, message))))
        {
            Some(instance) => match instance.state {
                InstanceState::Failed(kind, why) => (kind, why),
                other => panic!("{other}"),
            },
            None => panic!("it bears our marks"),
        };
        let (kind, why) = failed("Client.InternalError", "Client.InternalError: Client error on launch");
        assert_eq!(kind, InstanceFailure::Other);
        assert!(
            why.starts_with("Client.InternalError: Client error on launch") && why.contains("KMS key"),
            "{why}"
        );
        let (kind, why) = failed("Client.VolumeLimitExceeded", "Volume limit exceeded");
        assert_eq!(
            (kind, why.as_str()),
            (InstanceFailure::QuotaExceeded, "Client.VolumeLimitExceeded: Volume limit exceeded")
        );
        assert_eq!(failed("Server.SpotInstanceTermination", "").0, InstanceFailure::Reclaimed);
        assert_eq!(failed("Server.InsufficientInstanceCapacity", "").0, InstanceFailure::NoCapacity);
        assert_eq!(failed("Server.InternalError", "").0, InstanceFailure::Other);
    }

    #[test]
    fn what_bears_no_marks_is_none_of_ours() {
        let mut foreign = told("running", None);
        foreign.tags = None;
        assert_eq!(instance(&foreign), None);
    }
}
