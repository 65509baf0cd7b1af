//! What bounds a call to the outside, and whose other calls wait where it is refused.
//!
//! It says for whom a call is counted: at GitHub for the account that makes it, at a cloud for the backend, and for the
//! account that backends may have in common. It asks nobody but the backend whom it works for. Leave is asked for in
//! [`leave`](super::leave), and calls are made in [`calls`](super::calls).

use std::time::Duration;

use super::Manager;
use super::calls::Purpose;
use super::connections::Candidate;
use crate::backend::Throttle;
use crate::budget::{Bound, BudgetKey, Quota, Rate};
use crate::clock::timeout;
use crate::domain::BackendName;

/// How much longer one call may take to reach GitHub than another one.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// What a backend is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    Create,
    Delete,
    /// Anything that changes nothing.
    Look,
}

impl Errand {
    /// The word for what a cloud counts by itself of these calls, with how many it allows; none for what it does not.
    const fn part(self, throttle: &Throttle) -> Option<(&'static str, Option<Rate>)> {
        match self {
            Self::Create => Some(("creates", throttle.creates)),
            Self::Delete => Some(("deletes", throttle.deletes)),
            Self::Look => None,
        }
    }
}

/// What bounds a call, and what is left alone by everybody where the one who is asked wants that.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) all: Vec<Bound>,
    pub(super) left_alone: Vec<BudgetKey>,
}

impl Bounds {
    /// A call to GitHub: something bounds all calls of the account, and something those of a purpose.
    pub(super) fn of_account(candidate: &Candidate<'_>, purpose: Purpose) -> Self {
        let rate = match purpose {
            Purpose::Registration => candidate.account.registrations.map(within_any_period),
            Purpose::Runner | Purpose::Recovery | Purpose::Sweep => None,
        };
        let all = Bound { key: candidate.key.clone(), quota: candidate.account.quota };
        let part = purpose.key(candidate).map(|key| Bound { key, quota: Quota { concurrent: None, rate } });
        Self { all: [all].into_iter().chain(part).collect(), left_alone: vec![candidate.key.clone()] }
    }

    /// What bounds one call and another, which are made with one leave.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.all.extend(other.all.iter().cloned());
        self.left_alone.extend(other.left_alone.iter().cloned());
        self
    }

    /// A call to a backend: something bounds all calls to it, and something may bound those of an errand.
    ///
    /// The latter are counted for the backend as well as for its account, so that replicas keep to the rate together
    /// also while some of them do not know the account.
    fn of_backend(name: &BackendName, quota: Quota, errand: Errand, throttle: &Throttle) -> Self {
        let key = BudgetKey::backend(name);
        let part = errand.part(throttle).filter(|(_, rate)| rate.is_some() || throttle.account.is_some());
        let parts: Vec<Bound> = part.map_or_else(Vec::new, |(word, rate)| {
            let account = throttle.account.as_deref().map(BudgetKey::cloud);
            let bound =
                |key: BudgetKey| Bound { key: key.part(word), quota: Quota { concurrent: None, rate } };
            [key.clone()].into_iter().chain(account).map(bound).collect()
        });
        let left_alone = match &parts[..] {
            [] => vec![key.clone()],
            parts => parts.iter().map(|bound| bound.key.clone()).collect(),
        };
        Self { all: [Bound { key, quota }].into_iter().chain(parts).collect(), left_alone }
    }
}

impl Manager {
    /// What bounds a call to a backend for an errand.
    pub(super) async fn backend_bounds(&self, name: &BackendName, errand: Errand) -> Bounds {
        let connected = self.parts().backends.get(name);
        let quota = connected.map(|connected| connected.quota).unwrap_or_default();
        let throttle = match (errand, connected) {
            (Errand::Create | Errand::Delete, Some(connected)) => {
                let (clock, limit) = (&*self.parts().clock, self.parts().settings.call_timeout);
                timeout(clock, limit, connected.backend.throttle()).await.unwrap_or_else(|_| {
                    tracing::warn!(backend = %name, "it does not say in time how its cloud bounds calls");
                    Throttle::default()
                })
            }
            (Errand::Look, _) | (_, None) => Throttle::default(),
        };
        Bounds::of_backend(name, quota, errand, &throttle)
    }
}

/// A rate that also holds where one call takes longer on its way than another.
const fn within_any_period(rate: Rate) -> Rate {
    Rate { calls: rate.calls, per: rate.per.saturating_add(ON_ITS_WAY) }
}
