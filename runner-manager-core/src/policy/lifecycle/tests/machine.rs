//! What machines say, and who gets a JIT config.

use super::{advance, label, runner};
use crate::domain::{Boot, GitHubRunnerId, OperationId, Runner, RunnerState};
use crate::policy::lifecycle::{Event, MOST_MINTS, MachineWord, NoConfig, RegistrationReading, may_mint};
use crate::policy::samples::at;

fn ends() -> Event {
    Event::Machine(MachineWord::Ends { failed: false, detail: "asked".to_owned() })
}

/// The machine is asked first, and no reading counts as long as it may answer.
#[test]
fn an_idle_runner_whose_machine_speaks_is_asked() {
    let reading = |second| Event::Registration {
        reading: RegistrationReading::Present { online: true, busy: false },
        begun: at(second),
    };
    let mut silent = runner(RunnerState::Idle { leaving: None });
    silent.machine.listening_at = Some(at(0));
    let mut answers = silent.clone();
    let script = [
        (Event::Unneeded, 200, "Idle, to go, asked"),
        (reading(300), 300, "Idle, to go, asked"),
        (reading(499), 510, "Idle, to go, asked"),
        (reading(500), 500, "Idle, to go, one reading"),
        (reading(560), 560, "Retiring, deregister"),
        (Event::Deregistered, 561, "Retiring, grace"),
    ];
    for (event, second, expected) in script {
        assert_eq!(advance(&mut silent, &event, at(second)), None);
        assert_eq!(label(&silent.state), expected, "after {event:?} at {second}");
    }
    let script = [
        (Event::Unneeded, 200, "Idle, to go, asked"),
        (ends(), 210, "Retiring, deregister"),
        (Event::Deregistered, 211, "Retiring, delete"),
    ];
    for (event, second, expected) in script {
        assert_eq!(advance(&mut answers, &event, at(second)), None);
        assert_eq!(label(&answers.state), expected, "after {event:?} at {second}");
    }
}

#[test]
fn a_machine_is_not_waited_for_that_github_calls_gone() {
    let mut runner = runner(RunnerState::Idle { leaving: None });
    runner.machine.listening_at = Some(at(0));
    let absent = Event::Registration { reading: RegistrationReading::Absent, begun: at(200) };
    advance(&mut runner, &absent, at(200));
    assert_eq!(label(&runner.state), "Idle, to go, one reading");
    let mut listens = super::runner(RunnerState::Booting);
    advance(&mut listens, &Event::Machine(MachineWord::Listens), at(1));
    assert_eq!((label(&listens.state), listens.machine.can_be_asked()), ("Idle".to_owned(), true));
    advance(&mut listens, &ends(), at(2));
    assert_eq!(label(&listens.state), "Retiring, deregister");
    assert!(!listens.machine.can_be_asked());
}

/// Who asks for a JIT config is told by the record alone, whatever replica is asked.
#[test]
fn a_jit_config_is_minted_for_one_start_at_a_time() {
    let (boot, by) = (Boot::of("a"), OperationId::new("1"));
    let asked = Event::Machine(MachineWord::ConfigAsked { boot: boot.clone(), by: by.clone() });
    let mut runner = runner(RunnerState::Booting);
    runner.online_at = None;
    let may = |runner: &Runner, boot: &Boot, second| may_mint(runner, boot, at(600), at(second));
    assert_eq!(may(&runner, &boot, 0), Ok(()));
    assert_eq!(may(&runner, &boot, 600), Err(NoConfig::Gone));
    advance(&mut runner, &asked, at(0));
    assert_eq!(may(&runner, &boot, 19), Err(NoConfig::NotNow));
    assert_eq!(may(&runner, &boot, 20), Ok(()));
    assert_eq!(may(&runner, &Boot::of("b"), 20), Err(NoConfig::AnotherStart));
    // Another call does not take over what is under way, and what came of a call that was taken over is not taken in.
    let other = MachineWord::ConfigAsked { boot: boot.clone(), by: OperationId::new("2") };
    let before = runner.clone();
    advance(&mut runner, &Event::Machine(other.clone()), at(19));
    assert_eq!(runner, before);
    advance(&mut runner, &Event::Machine(other), at(20));
    advance(&mut runner, &Event::Machine(MachineWord::ConfigMade { by, id: GitHubRunnerId(7) }), at(21));
    assert_eq!(runner.registration, None);
    for number in 1..=MOST_MINTS {
        let by = OperationId::new(format!("call {number}"));
        let now = at(i64::from(number) * 30 + 20);
        assert_eq!(may_mint(&runner, &boot, at(600), now), Ok(()), "{number}");
        let asked = MachineWord::ConfigAsked { boot: boot.clone(), by: by.clone() };
        advance(&mut runner, &Event::Machine(asked), now);
        let id = GitHubRunnerId(number.into());
        advance(&mut runner, &Event::Machine(MachineWord::ConfigMade { by, id }), now);
        assert_eq!(runner.registration, Some(id));
    }
    assert_eq!(may(&runner, &boot, 400), Err(NoConfig::TooOften));
    runner.machine.mint = None;
    advance(&mut runner, &Event::Machine(MachineWord::Listens), at(401));
    assert_eq!(may(&runner, &boot, 402), Err(NoConfig::Used));
}
