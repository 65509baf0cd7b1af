//! What is noted on a runner's record of what went wrong with what was done for it.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::{Failure, Runner, later};

/// For how long the same trouble is not written down once more.
const SAME_TROUBLE: Duration = Duration::from_mins(1);

/// The same trouble is written down again only once a while: each time is a write.
pub(super) fn note(runner: &mut Runner, detail: &str, now: Timestamp) {
    let news = Failure::new(detail, now);
    let is_told = |last: &Failure| last.detail == news.detail && now < later(last.at, SAME_TROUBLE);
    if !runner.trouble.as_ref().is_some_and(is_told) {
        runner.trouble = Some(news);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use crate::domain::{
        CreateStep, Failure, InstanceFailure, InstanceId, InstanceState, Limits, Phase, PlacementKey,
        RetireReason, Runner, RunnerState,
    };
    use crate::policy::lifecycle::{Event, InstanceReading, Next, RegistrationReading, step};
    use crate::policy::samples::{self, at};

    fn runner(state: RunnerState) -> Runner {
        Runner { state, ..samples::runner(&samples::group_with_placements(1), PlacementKey::unknown()) }
    }

    fn advance(runner: &mut Runner, event: &Event, now: Timestamp) {
        match step(runner, event, &Limits::default(), now) {
            Next::Unchanged => {}
            Next::Changed(after) => *runner = *after,
            Next::Ended { why } => panic!("{why}"),
        }
    }

    /// What others say has no length of its own, and a runner's record has.
    #[test]
    fn what_is_kept_of_a_refusal_is_bounded() {
        let detail = "no ".repeat(10_000);
        let failed =
            Event::CreateFailed { kind: InstanceFailure::Other, detail: detail.clone(), retry_after: None };
        let asked =
            runner(RunnerState::Creating { create: CreateStep::Asked { at: at(0), unclear_since: None } });
        let Next::Ended { why: RetireReason::CreateFailed { detail: kept, .. } } =
            step(&asked, &failed, &Limits::default(), at(60))
        else {
            panic!("a refusal ends it");
        };
        assert!(kept.len() <= Failure::LONGEST_DETAIL);
        let stopped = InstanceState::Failed(InstanceFailure::Other, detail.clone());
        let reading = InstanceReading::Present { id: InstanceId::new("i-1"), state: stopped };
        let seen = Event::Instance { reading, begun: at(60) };
        let Next::Changed(after) = step(&runner(RunnerState::Booting), &seen, &Limits::default(), at(60))
        else {
            panic!("a failed instance is retired");
        };
        let RunnerState::Retiring { why: RetireReason::InstanceFailed { detail: kept, .. }, .. } =
            after.state
        else {
            panic!("{:?}", after.state);
        };
        assert!(kept.len() <= Failure::LONGEST_DETAIL);
        let Next::Changed(after) = step(&asked, &Event::Troubled { detail }, &Limits::default(), at(60))
        else {
            panic!("trouble is written down");
        };
        assert!(after.trouble.unwrap().detail.len() <= Failure::LONGEST_DETAIL);
    }

    #[test]
    fn trouble_is_written_down_once_a_minute_until_the_runner_comes_up() {
        let troubled = |detail: &str| Event::Troubled { detail: detail.to_owned() };
        let mut runner = runner(RunnerState::Booting);
        let told = |runner: &Runner| runner.trouble.clone().map(|trouble| (trouble.detail, trouble.at));
        advance(&mut runner, &troubled("status 502"), at(10));
        assert_eq!(told(&runner), Some(("status 502".to_owned(), at(10))));
        assert_eq!(step(&runner, &troubled("status 502"), &Limits::default(), at(69)), Next::Unchanged);
        advance(&mut runner, &troubled("status 502"), at(70));
        assert_eq!(told(&runner), Some(("status 502".to_owned(), at(70))));
        advance(&mut runner, &troubled("status 403"), at(71));
        assert_eq!(told(&runner), Some(("status 403".to_owned(), at(71))), "what is new is told at once");
        let online = RegistrationReading::Present { online: true, busy: false };
        advance(&mut runner, &Event::Registration { reading: online, begun: at(80) }, at(80));
        assert_eq!((runner.phase(), told(&runner)), (Phase::Idle, None));
        advance(&mut runner, &troubled("status 500"), at(90));
        advance(
            &mut runner,
            &Event::Instance {
                reading: InstanceReading::Present {
                    id: InstanceId::new("i-1"),
                    state: InstanceState::Stopped,
                },
                begun: at(95),
            },
            at(95),
        );
        assert_eq!(
            (runner.phase(), told(&runner)),
            (Phase::Retiring, Some(("status 500".to_owned(), at(90))))
        );
    }
}
