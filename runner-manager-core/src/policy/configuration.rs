//! Which replica's configuration holds where they differ.
//!
//! A file is applied at start and on reload only, and replicas never take turns: one that starts with a
//! configuration that another one has replaced does not bring it back while anybody lives that has the present
//! one. Its own is then in *drift*, which is shown, and it works by the store's groups.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::{Deployment, Digest, Replica, ReplicaId, later};

/// When a replica offers its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It starts, or the store lost what it had.
    Start,
    /// Somebody told it to read its file anew.
    Reload,
}

/// What becomes of the configuration that a replica offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the deployment's from now on.
    Apply,
    /// It is the deployment's already.
    Current,
    /// It was replaced, and others live that have the present one.
    Drift,
}

/// What becomes of a configuration that `replica` offers. Others that were seen within `patience` live.
pub fn judge(
    deployment: &Deployment,
    replica: &ReplicaId,
    offered: &Digest,
    offer: Offer,
    patience: Duration,
    now: Timestamp,
) -> Verdict {
    let Some(current) = &deployment.configuration else { return Verdict::Apply };
    if current == offered {
        return Verdict::Current;
    }
    let has_current = |(id, other): (&ReplicaId, &Replica)| {
        id != replica && other.configuration == *current && lives(other, patience, now)
    };
    let was_replaced = deployment.superseded.contains(offered);
    match offer {
        Offer::Start if was_replaced && deployment.replicas.iter().any(has_current) => Verdict::Drift,
        Offer::Start | Offer::Reload => Verdict::Apply,
    }
}

/// The deployment with another configuration.
pub fn applied(deployment: &Deployment, configuration: &Digest) -> Deployment {
    let mut next = deployment.clone();
    if next.configuration.as_ref() == Some(configuration) {
        return next;
    }
    next.superseded.retain(|earlier| earlier != configuration);
    if let Some(before) = next.configuration.replace(configuration.clone()) {
        next.superseded.insert(0, before);
    }
    next.superseded.truncate(Deployment::MOST_SUPERSEDED);
    next.revision += 1;
    next
}

/// Whether a replica was seen so lately that it is taken to run.
pub fn lives(replica: &Replica, patience: Duration, now: Timestamp) -> bool {
    now < later(replica.seen_at, patience)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Offer, Verdict, applied, judge};
    use crate::domain::{Deployment, Digest, Replica, ReplicaId};
    use crate::policy::samples::at;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn seen(deployment: &mut Deployment, name: &str, configuration: &str, second: i64) {
        let replica =
            Replica { configuration: Digest::new(configuration), seen_at: at(second), backends: [].into() };
        deployment.replicas.insert(ReplicaId::new(name), replica);
    }

    fn says(deployment: &Deployment, configuration: &str, offer: Offer) -> Verdict {
        judge(deployment, &ReplicaId::new("me"), &Digest::new(configuration), offer, PATIENCE, at(100))
    }

    #[test]
    fn what_is_new_is_applied_and_what_is_current_is_left() {
        let new = Deployment::new();
        assert_eq!(says(&new, "one", Offer::Start), Verdict::Apply);
        let one = applied(&new, &Digest::new("one"));
        assert_eq!((says(&one, "one", Offer::Start), one.revision), (Verdict::Current, 1));
        assert_eq!(says(&one, "one", Offer::Reload), Verdict::Current);
        assert_eq!(applied(&one, &Digest::new("one")), one);
        assert_eq!(says(&one, "two", Offer::Start), Verdict::Apply);
    }

    #[test]
    fn what_was_replaced_comes_back_only_when_nobody_has_the_present_one() {
        let mut two = applied(&applied(&Deployment::new(), &Digest::new("one")), &Digest::new("two"));
        assert_eq!((two.revision, &*two.superseded), (2, &[Digest::new("one")][..]));
        seen(&mut two, "me", "two", 99);
        assert_eq!(says(&two, "one", Offer::Start), Verdict::Apply, "its own earlier word binds nobody");
        seen(&mut two, "other", "one", 99);
        assert_eq!(says(&two, "one", Offer::Start), Verdict::Apply);
        seen(&mut two, "third", "two", 81);
        assert_eq!(says(&two, "one", Offer::Start), Verdict::Drift);
        assert_eq!(says(&two, "one", Offer::Reload), Verdict::Apply);
        seen(&mut two, "third", "two", 80);
        assert_eq!(says(&two, "one", Offer::Start), Verdict::Apply, "not seen for 20 s");
        let back = applied(&two, &Digest::new("one"));
        assert_eq!((back.revision, &*back.superseded), (3, &[Digest::new("two")][..]));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut deployment = Deployment::new();
        for number in 0..40 {
            deployment = applied(&deployment, &Digest::new(number.to_string()));
        }
        assert_eq!(deployment.superseded.len(), Deployment::MOST_SUPERSEDED);
        assert_eq!(deployment.superseded[0], Digest::new("38"));
    }
}
