//! What a seed means: the deployment, what is asked of it, and all that goes wrong, and when.

use std::time::Duration;

use jiff::SignedDuration;
use runner_manager_backends::fake::{Behaviour, Ending, Fault, Operation, Rule};
use runner_manager_core::backend::{BackendErrorKind, Throttle};
use runner_manager_core::budget::{Quota, Rate};
use runner_manager_core::domain::{Limits, RunnerGroup};
use runner_manager_core::testing::simulator::{
    DurationRange, Effect, Faults, JitLimit, JobSpec, LyingBusy, RequestFault, WebhookFaults,
};

use super::dice::Dice;
use super::github_groups::{self, Drift};
use super::groups::{self, group};
use super::limits;
use super::machines::MachineFaults;
use super::signals::SignalFaults;
use super::throttle;

/// Whether the store may be rolled back or emptied.
pub(crate) const STORE_IS_LOST: bool = true;

/// Whether the webhook of a job that waits may be lost for good.
pub(crate) const QUEUED_IS_LOST: bool = true;

/// What goes wrong with the calls of one side, each in parts of a million.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Chances {
    pub(crate) crash: u32,
    pub(crate) freeze: u32,
    pub(crate) slow: u32,
    pub(crate) refuse: u32,
    pub(crate) lose: u32,
}

/// The chances of all sides, by [`Side`](super::faults::Side).
pub(crate) type AllChances = [Chances; 5];

/// Something that happens by itself at a time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Happening {
    /// Jobs are queued, all in one run where they are a matrix.
    Jobs {
        spec: JobSpec,
        count: usize,
        matrix: bool,
    },
    /// Somebody cancels the run of a job that waits or runs.
    Cancel,
    /// Somebody runs a job again that has ended.
    Rerun,
    /// A machine ends in mid-life.
    MachineEnds(Ending),
    /// One ends while a job runs on it.
    BusyMachineEnds(Ending),
    AllMachinesVanish,
    /// Somebody changes the managed runner group at GitHub.
    Drift(Drift),
    /// An operator has the sweeps go on that stopped since they would have condemned too much.
    GoOn,
    /// An operator drains a group, or resumes it.
    Drain(usize),
    Resume(usize),
    /// The groups are configured anew.
    Configure(Vec<RunnerGroup>),
    /// An operator has some runner go, in order.
    Retire,
    /// A replica is stopped in order and started anew.
    Restart(usize),
    /// A replica that is to be frozen or to crash although no call of its is under way.
    Freeze(usize, Duration),
    Crash(usize),
    /// What the store holds is kept, for it to be lost.
    KeepStore,
    /// The store forgets what came after the moment that was kept; everything where none was.
    LoseStore {
        everything: bool,
    },
    /// The cloud has no room, or has it again.
    Room(Option<u32>),
    /// The quota is this small, or none.
    Quota(Option<u32>),
}

/// All that a seed decides.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How far each replica's clock is off, in milliseconds.
    pub(crate) skews: Vec<i64>,
    pub(crate) groups: Vec<RunnerGroup>,
    pub(crate) sweep_interval: Duration,
    pub(crate) lease: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) github_quota: Quota,
    /// What is known of how many runners GitHub lets register.
    pub(crate) registrations: Option<Rate>,
    pub(crate) cloud_quota: Quota,
    /// How the cloud bounds creates and deletes.
    pub(crate) throttle: Throttle,
    /// What happens, in order, by the time since the beginning.
    pub(crate) happenings: Vec<(Duration, Happening)>,
    /// Until when things go wrong.
    pub(crate) trouble: Duration,
    pub(crate) chances: AllChances,
    pub(crate) most_crashes: u32,
    pub(crate) most_freezes: u32,
    pub(crate) cloud: Behaviour,
    pub(crate) github: Faults,
    /// How long GitHub keeps a registration without an agent, where it is not the usual time.
    pub(crate) unused_registration: Option<SignedDuration>,
    /// After which time without a sign of life GitHub ends the job of a machine, where it is not the usual one.
    pub(crate) lost_runner: Option<SignedDuration>,
    /// How many in a hundred agents never come up.
    pub(crate) broken_agents: u32,
    /// How many in a hundred webhooks never arrive.
    pub(crate) lost_webhooks: u32,
    /// What becomes of what machines say of their jobs.
    pub(crate) signals: SignalFaults,
    /// What becomes of what machines ask and say, where they call.
    pub(crate) machines: MachineFaults,
    /// Whether an operator sees to it, until the end, that sweeps go on that stopped.
    pub(crate) is_watched: bool,
}

impl Plan {
    /// What a seed means.
    pub(crate) fn of(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let mut shape = dice.fork("shape");
        let lease = shape.seconds(30, 90);
        let mut groups = groups::drawn(&mut shape);
        let (mut github_groups, mut outage) = (dice.fork("github groups"), dice.fork("outage"));
        if github_groups.percent(40) {
            github_groups::manage(&mut groups);
        }
        let is_watched = outage.percent(30);
        if is_watched {
            groups::widen(&mut groups);
        }
        let trouble = shape.seconds(5 * 60, 15 * 60);
        let replicas = shape.count(1, 4);
        let skew = |shape: &mut Dice| {
            if shape.percent(30) { 0 } else { shape.between(0, 600_000).cast_signed() - 300_000 }
        };
        let skews = (0..replicas).map(|_| skew(&mut shape)).collect();
        let mut plan = Self {
            seed,
            skews,
            sweep_interval: shape.seconds(60, 180),
            lease,
            call_timeout: lease * 4 / 10,
            github_quota: limits::quota(&mut shape, &[2, 6, 60]),
            registrations: None,
            cloud_quota: limits::quota(&mut shape, &[1, 4, 30]),
            throttle: throttle::drawn(&mut dice.fork("throttle")),
            happenings: Vec::new(),
            trouble,
            chances: chances(&mut dice.fork("chances")),
            most_crashes: 8,
            most_freezes: 8,
            cloud: cloud(&mut dice.fork("cloud")),
            github: github(&mut dice.fork("github")),
            unused_registration: None,
            lost_runner: None,
            broken_agents: *shape.pick(&[0, 0, 0, 5, 15]),
            lost_webhooks: *shape.pick(&[0, 0, 10, 30]),
            signals: signals(&mut dice.fork("signals")),
            machines: MachineFaults::default(),
            is_watched,
            groups,
        };
        plan.draw_machines(&mut dice.fork("machines"));
        let mut failing = dice.fork("failing webhooks");
        plan.github.webhooks.failed = *failing.pick(&[0.0, 0.1, 0.3]);
        plan.github.webhooks.lost = *failing.pick(&[0.0, 0.0, 0.05]);
        let is_known = dice.fork("registrations").percent(50);
        plan.registrations = plan
            .github
            .jit_limit
            .filter(|_| is_known)
            .map(|limit| Rate { calls: limit.per_minute, per: Duration::from_mins(1) });
        plan.happenings = plan.draw_happenings(&mut dice.fork("happenings"));
        plan.draw_losses(&mut dice.fork("losses"));
        plan.draw_drifts(&mut github_groups);
        plan.draw_outage(&mut outage);
        plan.happenings.sort_by_key(|(at, _)| *at);
        plan
    }

    /// In half of the deployments machines call the manager.
    fn draw_machines(&mut self, dice: &mut Dice) {
        self.cloud.callback = dice.percent(50);
        let (lost, silent) = (*dice.pick(&[0, 10, 30]), *dice.pick(&[0, 0, 20]));
        self.machines = MachineFaults { lost, silent };
    }

    /// Somebody works on the runner group at GitHub that is managed.
    fn draw_drifts(&mut self, dice: &mut Dice) {
        if !github_groups::is_managed(&self.groups) {
            return;
        }
        for _ in 0..dice.count(1, 6) {
            let at = dice.millis(0, self.end());
            self.happenings.push((at, Happening::Drift(Drift::drawn(dice))));
        }
    }

    /// In some deployments the cloud, which bounds nothing, loses all machines while there are many, and an operator sees
    /// what sweeps say to that.
    fn draw_outage(&mut self, dice: &mut Dice) {
        if !self.is_watched {
            return;
        }
        self.throttle = Throttle::default();
        let at = dice.millis(self.end() / 4, self.end() / 2);
        for _ in 0..3 {
            let spec = groups::job(dice, &self.groups).seconds(400);
            let before = at.saturating_sub(dice.seconds(90, 180));
            self.happenings.push((before, Happening::Jobs { spec, count: 5, matrix: false }));
        }
        self.happenings.push((at, Happening::AllMachinesVanish));
        for _ in 0..dice.count(4, 10) {
            let later = at + dice.millis(0, self.end() / 2);
            self.happenings.push((later, Happening::GoOn));
        }
    }

    /// Until when things go wrong, in milliseconds.
    fn end(&self) -> u64 {
        u64::try_from(self.trouble.as_millis()).expect("minutes fit")
    }

    /// In some deployments jobs that lose their machine are run again, soon enough for that to go wrong, too.
    fn draw_losses(&mut self, dice: &mut Dice) {
        if dice.percent(50) {
            return;
        }
        for group in &mut self.groups {
            group.rerun_on_loss = dice.percent(80);
        }
        self.lost_runner = Some(SignedDuration::from_secs(dice.between(200, 400).cast_signed()));
        let end = self.end();
        for _ in 0..dice.count(1, 5) {
            let how = *dice.pick(&[Ending::Reclaimed, Ending::Vanished, Ending::Failed, Ending::Stopped]);
            self.happenings.push((dice.millis(end / 8, end), Happening::BusyMachineEnds(how)));
        }
    }

    /// The same deployment and the same work, and nothing goes wrong.
    pub(crate) fn calm(seed: u64) -> Self {
        let plan = Self::of(seed);
        let wanted = |happening: &Happening| {
            matches!(happening, Happening::Jobs { .. } | Happening::Cancel | Happening::Rerun)
        };
        Self {
            happenings: plan.happenings.into_iter().filter(|(_, happening)| wanted(happening)).collect(),
            chances: AllChances::default(),
            cloud: plan.cloud.calm(),
            github: Faults::default(),
            broken_agents: 0,
            lost_webhooks: 0,
            signals: SignalFaults { late: 0, doubled: 0, ..plan.signals },
            machines: MachineFaults::default(),
            ..plan
        }
    }

    pub(crate) const fn replicas(&self) -> usize {
        self.skews.len()
    }

    fn draw_happenings(&self, dice: &mut Dice) -> Vec<(Duration, Happening)> {
        let mut all: Vec<(Duration, Happening)> = Vec::new();
        let end = self.end();
        let add = |all: &mut Vec<_>, dice: &mut Dice, from: u64, happening: Happening| {
            all.push((dice.millis(from, end), happening));
        };
        let mut jobs = dice.count(8, 32);
        while jobs > 0 {
            let count = if dice.percent(50) { 1 } else { dice.count(1, jobs.min(12)) };
            jobs -= count;
            let spec = groups::job(dice, &self.groups);
            let matrix = dice.percent(30);
            add(&mut all, dice, 0, Happening::Jobs { spec, count, matrix });
        }
        let some = |dice: &mut Dice, most: usize| if dice.percent(50) { 0 } else { dice.count(1, most) };
        for _ in 0..some(dice, 5) {
            add(&mut all, dice, 0, Happening::Cancel);
        }
        for _ in 0..some(dice, 3) {
            add(&mut all, dice, end / 4, Happening::Rerun);
        }
        for _ in 0..some(dice, 3) {
            let how = *dice.pick(&[Ending::Reclaimed, Ending::Vanished, Ending::Failed, Ending::Stopped]);
            add(&mut all, dice, 0, Happening::MachineEnds(how));
        }
        for _ in 0..some(dice, 3) {
            add(&mut all, dice, 0, Happening::Retire);
        }
        for _ in 0..some(dice, 2) {
            let group = dice.count(0, self.groups.len() - 1);
            add(&mut all, dice, 0, Happening::Drain(group));
            add(&mut all, dice, end / 2, Happening::Resume(group));
        }
        for _ in 0..some(dice, 3) {
            let groups = groups::varied(dice, &self.groups);
            add(&mut all, dice, 0, Happening::Configure(groups));
        }
        for _ in 0..some(dice, 2) {
            let replica = dice.count(0, self.replicas() - 1);
            add(&mut all, dice, 0, Happening::Restart(replica));
        }
        // A group becomes smaller while it is about to make many.
        for _ in 0..some(dice, 2) {
            let at = dice.millis(0, end);
            let spec = groups::job(dice, &self.groups);
            all.push((at, Happening::Jobs { spec, count: 8, matrix: false }));
            all.push((at + dice.millis(0, 1_500), Happening::Configure(groups::smallest(&self.groups))));
        }
        for _ in 0..some(dice, 2) {
            let replica = dice.count(0, self.replicas() - 1);
            let pause = self.lease + dice.seconds(1, 60);
            add(&mut all, dice, 0, Happening::Freeze(replica, pause));
            let other = dice.count(0, self.replicas() - 1);
            add(&mut all, dice, 0, Happening::Crash(other));
        }
        if STORE_IS_LOST {
            for _ in 0..some(dice, 2) {
                let at = dice.millis(10_000, end);
                let everything = dice.percent(40);
                if !everything {
                    all.push((at.saturating_sub(dice.millis(1, 1_000)), Happening::KeepStore));
                }
                all.push((at, Happening::LoseStore { everything }));
            }
        }
        for _ in 0..some(dice, 2) {
            let room = u32::try_from(dice.between(0, 2)).ok();
            let scarce = if dice.percent(50) { Happening::Room(room) } else { Happening::Quota(room) };
            let again = if matches!(scarce, Happening::Room(_)) {
                Happening::Room(None)
            } else {
                Happening::Quota(None)
            };
            add(&mut all, dice, 0, scarce);
            add(&mut all, dice, end / 2, again);
        }
        all
    }
}

/// How nervous each side is: calm in most seeds, so that one trouble at a time is seen, too.
fn chances(dice: &mut Dice) -> AllChances {
    let level = |dice: &mut Dice, low: u32, high: u32| match dice.between(0, 3) {
        0 | 1 => 0,
        2 => low,
        _ => high,
    };
    // The outside is called more seldom than the storage, and a cloud the most seldom.
    let often = [1, 1, 6, 6, 15];
    std::array::from_fn(|side| Chances {
        crash: level(dice, 200, 1_000) * often[side],
        freeze: level(dice, 200, 1_000) * often[side],
        slow: level(dice, 10_000, 100_000),
        refuse: level(dice, 2_000, 20_000),
        lose: level(dice, 2_000, 20_000),
    })
}

fn cloud(dice: &mut Dice) -> Behaviour {
    let settle = dice.seconds(30, 60);
    let half = u64::try_from(settle.as_millis() / 2).expect("seconds fit") - 1;
    let mut faults = Vec::new();
    let mut rule = |dice: &mut Dice, operation, fault| {
        if dice.percent(30) {
            let chance = *dice.pick(&[0.03, 0.1, 0.3]);
            faults.push(Rule { operation, chance, fault });
        }
    };
    let error = |kind, retry_after| Fault::Error { kind, retry_after };
    // A late instance and a stale look together stay within what the backend calls its settle time.
    let late = dice.millis(1_000, half);
    rule(dice, Operation::Create, Fault::Late(late));
    rule(dice, Operation::Create, Fault::LostReply);
    rule(dice, Operation::Create, Fault::NoAnswer(Duration::from_mins(1)));
    let after = dice.seconds(1, 300);
    let how = *dice.pick(&[Ending::Stopped, Ending::Reclaimed, Ending::Vanished, Ending::Failed]);
    rule(dice, Operation::Create, Fault::Dies { after, how });
    for kind in [
        BackendErrorKind::NoCapacity,
        BackendErrorKind::QuotaExceeded,
        BackendErrorKind::RateLimited,
        BackendErrorKind::Unavailable,
        BackendErrorKind::Unclear,
    ] {
        let retry_after = (kind == BackendErrorKind::RateLimited).then(|| dice.seconds(5, 60));
        rule(dice, Operation::Create, error(kind, retry_after));
    }
    for operation in [Operation::Get, Operation::Find, Operation::List] {
        let ago = dice.millis(500, half);
        rule(dice, operation, Fault::Stale(ago));
        rule(dice, operation, error(BackendErrorKind::Unavailable, None));
    }
    rule(dice, Operation::List, Fault::MissingPage);
    rule(dice, Operation::Delete, error(BackendErrorKind::Unavailable, None));
    rule(dice, Operation::Delete, Fault::LostReply);
    Behaviour {
        seed: dice.next(),
        settle,
        lag: Duration::from_millis(half),
        create_latency: dice.millis(0, 4_000),
        call_latency: dice.millis(0, 800),
        boot_time: dice.seconds(1, 40),
        boot_jitter: dice.seconds(0, 30),
        delete_time: dice.seconds(0, 40),
        tell_gone: dice.seconds(0, 20),
        page_size: dice.count(2, 100),
        faults,
        ..Behaviour::default()
    }
}

fn github(dice: &mut Dice) -> Faults {
    let share = |dice: &mut Dice| *dice.pick(&[0.0, 0.0, 0.1, 0.3]);
    let webhooks = WebhookFaults {
        doubled: share(dice),
        delayed: share(dice),
        delay: DurationRange {
            min: SignedDuration::from_secs(1),
            max: SignedDuration::from_secs(dice.between(5, 120).cast_signed()),
        },
        reordered: share(dice),
        ..WebhookFaults::default()
    };
    let mut requests = Vec::new();
    let mut fault = |dice: &mut Dice, fault: RequestFault| {
        if dice.percent(30) {
            requests.push(fault.with_probability(*dice.pick(&[0.02, 0.1, 0.3])));
        }
    };
    for status in [403, 429, 502] {
        let seconds = u32::try_from(dice.between(1, 60)).expect("it is small");
        let retry_after = (status != 502 && dice.percent(50)).then_some(seconds);
        fault(dice, RequestFault::always(Effect::Answer { status, retry_after }));
    }
    fault(dice, RequestFault::always(Effect::LoseReply));
    fault(dice, RequestFault::always(Effect::SkipEntries).on("GET", "/orgs/*/actions/runners"));
    let delay = DurationRange {
        min: SignedDuration::from_millis(50),
        max: SignedDuration::from_millis(dice.between(100, 10_000).cast_signed()),
    };
    fault(dice, RequestFault::always(Effect::Delay(delay)));
    let lasts = SignedDuration::from_secs(dice.between(25, 170).cast_signed());
    let lying_busy = if dice.percent(40) {
        vec![LyingBusy { probability: *dice.pick(&[0.2, 0.7]), lasts, spares: false }]
    } else {
        Vec::new()
    };
    let per_minute = u32::try_from(dice.between(3, 12)).expect("it is small");
    let jit_limit = dice
        .percent(20)
        .then_some(JitLimit { per_minute: per_minute.div_ceil(4), announced: dice.percent(50) });
    let hourly_budget = dice.percent(30).then_some(per_minute * 10);
    Faults { webhooks, requests, jit_limit, hourly_budget, lying_busy }
}

/// Machines that say nothing of their jobs.
pub(crate) const SILENT: SignalFaults = SignalFaults { lost: 100, late: 0, doubled: 0 };

fn signals(dice: &mut Dice) -> SignalFaults {
    if dice.percent(30) {
        return SILENT;
    }
    let mut share = || *dice.pick(&[0, 0, 10, 30]);
    SignalFaults { lost: share(), late: share(), doubled: share() }
}

/// How a cloud behaves in which nothing goes wrong any more.
pub(crate) trait Calm {
    fn calm(self) -> Self;
}

impl Calm for Behaviour {
    fn calm(self) -> Self {
        let zones = Behaviour::default().zones;
        Self { faults: Vec::new(), quota: None, zones, ..self }
    }
}

/// A plan of a scenario: one replica, one group of this name, label and size, and nothing else.
pub(crate) fn quiet(group_name: &str, label: &str, min_idle: u32, max: u32) -> Plan {
    let mut group = group(group_name, &[label], min_idle, max, &["zone-a"]);
    group.limits = Limits::default();
    Plan {
        seed: 1,
        skews: vec![0],
        groups: vec![group],
        sweep_interval: Duration::from_mins(2),
        lease: Duration::from_mins(1),
        call_timeout: Duration::from_secs(24),
        github_quota: Quota { concurrent: Some(60), rate: None },
        registrations: None,
        cloud_quota: Quota::default(),
        throttle: Throttle::default(),
        happenings: Vec::new(),
        trouble: Duration::ZERO,
        chances: AllChances::default(),
        most_crashes: 0,
        most_freezes: 0,
        cloud: Behaviour::default(),
        github: Faults::default(),
        unused_registration: None,
        lost_runner: None,
        broken_agents: 0,
        lost_webhooks: 0,
        signals: SILENT,
        machines: MachineFaults::default(),
        is_watched: false,
    }
}

/// What is to go wrong outside of calls in some seed, by the names that it is counted by.
pub(crate) fn all_faults() -> Vec<String> {
    let mut all: Vec<&str> = vec![
        "agent: never comes up",
        "webhook: lost",
        "webhook: not taken",
        "signal: taken",
        "signal: lost",
        "signal: late",
        "signal: doubled",
        "machine: registered",
        "machine: answer lost",
        "machine: silent",
        "machine: left when asked",
        "cancel",
        "rerun",
        "machine ends",
        "busy machine ends",
        "all machines vanish",
        "go on",
        "go on: refused",
        "github group: mended",
        "lost job run again",
        "drain",
        "resume",
        "configure",
        "retire",
        "restart",
        "freeze",
        "crash",
        "room",
        "quota",
        "cloud: create: late",
        "cloud: create: lost_reply",
        "cloud: create: no_answer",
        "cloud: create: error NoCapacity",
        "cloud: create: error QuotaExceeded",
        "cloud: create: error RateLimited",
        "cloud: create: error Unavailable",
        "cloud: create: error Unclear",
        "cloud: get: stale",
        "cloud: find: stale",
        "cloud: list: stale",
        "cloud: list: missing_page",
        "cloud: get: error Unavailable",
        "cloud: find: error Unavailable",
        "cloud: list: error Unavailable",
        "cloud: delete: error Unavailable",
        "cloud: delete: lost_reply",
        "github: WebhookDoubled",
        "github: WebhookDelayed",
        "github: WebhookFailed",
        "github: WebhookLost",
        "github: WebhookReordered",
        "github: Delay",
        "github: Answer403",
        "github: Answer429",
        "github: AnswerError",
        "github: LostReply",
        "github: SkippedEntry",
        "github: JitLimit",
        "github: HourlyBudget",
        "github: LyingBusy",
        "github: LyingBusyRead",
    ];
    all.extend(Drift::words());
    if STORE_IS_LOST {
        all.extend(["store rolled back", "store emptied"]);
    }
    all.into_iter().map(str::to_owned).collect()
}
