//! What the cloud counts by itself, creates and deletes: how it bounds them, what replicas know of that, and whether its
//! own books keep to it.

use std::time::Duration;

use jiff::Timestamp;
use runner_manager_backends::fake::{Books, Life};
use runner_manager_core::backend::Throttle;
use runner_manager_core::budget::Rate;
use runner_manager_core::domain::{Owner, later};

use super::dice::Dice;
use super::plan::{Chances, Happening, Plan};
use super::run::run;
use super::seeds::run_all;

/// How long a prompt process may take from its leave to the call: it sits out short waits for GitHub.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// A call that had to wait, by the names that it is counted by.
pub(crate) const WAITS: [(&str, &str); 2] =
    [(":creates", "throttle: a create waits"), (":deletes", "throttle: a delete waits")];

/// How the cloud of a seed bounds calls.
pub(crate) fn drawn(dice: &mut Dice) -> Throttle {
    let rate = |dice: &mut Dice| {
        let calls = u32::try_from(dice.between(1, 6)).expect("it is small");
        dice.percent(70).then(|| Rate { calls, per: dice.seconds(4, 15) })
    };
    let (creates, deletes) = (rate(dice), rate(dice));
    Throttle { account: Some("fake:acme:here".to_owned()), creates, deletes }
}

/// What a process knows of that: one in three never learns the account.
pub(crate) fn as_known(throttle: &Throttle, seed: u64) -> Throttle {
    let knows = !Dice::new(seed).fork("account").percent(33);
    Throttle { account: throttle.account.clone().filter(|_| knows), ..throttle.clone() }
}

/// Whether calls leave as soon as they may: nothing is slow, and no process is frozen.
pub(crate) fn is_prompt(plan: &Plan) -> bool {
    let slows = |chances: &Chances| chances.slow > 0 || chances.freeze > 0;
    let freezes = |(_, happening): &(Duration, Happening)| matches!(happening, Happening::Freeze(..));
    !plan.chances.iter().any(slows) && !plan.happenings.iter().any(freezes) && plan.github.requests.is_empty()
}

/// What is wrong with what prompt processes asked of the cloud, by its own books.
pub(crate) fn overrun(throttle: &Throttle, books: &Books, owner: &Owner) -> Option<String> {
    let times = |when: &dyn Fn(&Life) -> Option<Timestamp>| -> Vec<Timestamp> {
        let mut times: Vec<_> =
            books.lives.iter().filter(|life| life.owner == *owner).filter_map(when).collect();
        times.sort();
        times
    };
    let creates = throttle.creates.map(|rate| (rate, "creates", times(&|life| Some(life.asked_at))));
    let deletes = throttle.deletes.map(|rate| (rate, "deletes", times(&|life| life.deleted_at)));
    creates.into_iter().chain(deletes).find_map(|(rate, word, times)| {
        // Calls that were allowed within the rate's period may have left within a shorter one.
        let (most, period) = (rate.calls as usize, rate.per.checked_sub(ON_ITS_WAY)?);
        let too_many = times.windows(most + 1).find(|calls| later(calls[0], period) > calls[most])?;
        Some(format!("{too_many:?}: more than {most} {word} within {period:?}, by the cloud's own books"))
    })
}

#[test]
fn the_clouds_books_keep_to_its_rates_whatever_crashes() {
    let tight = Rate { calls: 2, per: Duration::from_secs(10) };
    let tally = run_all(0..20, |seed| {
        let mut plan = Plan::of(seed);
        for chances in &mut plan.chances {
            *chances = Chances { slow: 0, freeze: 0, ..*chances };
        }
        plan.happenings.retain(|(_, happening)| !matches!(happening, Happening::Freeze(..)));
        plan.github.requests.clear();
        plan.throttle = Throttle { creates: Some(tight), deletes: Some(tight), ..plan.throttle };
        assert!(is_prompt(&plan));
        run(plan, false)
    });
    assert_eq!(tally.failed, None);
    for word in WAITS.map(|(_, word)| word).into_iter().chain(["crash"]) {
        assert!(tally.struck.contains_key(word), "never met: {word}");
    }
    let in_a_call = tally.struck.keys().filter(|kind| kind.contains(": crash ")).count();
    assert!(in_a_call > 0, "nobody crashes in the middle of a call");
}
