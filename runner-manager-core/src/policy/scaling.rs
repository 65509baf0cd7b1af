//! How many runners a group makes or gives up, from its counters alone: it costs the same at 10 and at
//! 100,000 runners.

use crate::domain::Bounds;
use crate::store::GroupCounts;

/// How many runners the group's placements take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// As many as are wanted.
    Any,
    /// One, to see whether it works again.
    One,
    /// None: all are set back, or the group is draining.
    Nothing,
}

/// What a group should do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// Runners to request.
    pub create: u32,
    /// Runners in [`Requested`](crate::domain::Phase::Requested) to cancel at once.
    pub cancel: u32,
    /// Idle runners that no job needs, to give up once they were idle for `idle_timeout`.
    pub surplus_idle: u32,
    /// Waiting jobs that this group cannot serve now and another group might.
    pub overflow: u32,
    /// Runners that are wanted and for which there is room, but which no placement takes now.
    pub held_back: u32,
}

/// Compares what a group has with what it should have.
///
/// `want = queued + min_idle`, `free = requested + creating + booting + idle`,
/// `create = min(want - free, max - alive)`, never below 0. A draining group wants nothing.
pub fn plan(bounds: Bounds, counts: &GroupCounts, draining: bool, allowance: Allowance) -> Plan {
    let want = if draining { 0 } else { counts.queued.saturating_add(bounds.min_idle()) };
    let free = counts.free();
    let room = bounds.max().saturating_sub(counts.alive());
    let allowed = match allowance {
        Allowance::Any => u32::MAX,
        Allowance::One => 1,
        Allowance::Nothing => 0,
    };
    let missing = want.saturating_sub(free).min(room);
    let create = missing.min(allowed);
    let surplus = free.saturating_sub(want);
    let cancel = surplus.min(counts.requested);
    let surplus_idle = (surplus - cancel).min(counts.idle);
    let served = if draining { 0 } else { free + create };
    let overflow = counts.queued.saturating_sub(served);
    Plan { create, cancel, surplus_idle, overflow, held_back: missing - create }
}

/// How many more waiting jobs a group could take over from another one.
pub fn room_for_jobs(bounds: Bounds, counts: &GroupCounts, allowance: Allowance) -> u32 {
    let room = bounds.max().saturating_sub(counts.alive());
    let could_make = match allowance {
        Allowance::Any => room,
        Allowance::One => room.min(1),
        Allowance::Nothing => 0,
    };
    let could_have = counts.free() + could_make;
    could_have.saturating_sub(counts.queued.saturating_add(bounds.min_idle()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::{Allowance, Plan, plan, room_for_jobs};
    use crate::domain::Bounds;
    use crate::store::GroupCounts;

    fn counts(queued: u32, requested: u32, idle: u32, busy: u32) -> GroupCounts {
        GroupCounts { queued, requested, idle, busy, ..GroupCounts::default() }
    }

    #[test]
    fn the_table() {
        let bounds = Bounds::new(1, 10).unwrap();
        let plan = |counts: GroupCounts| plan(bounds, &counts, false, Allowance::Any);
        let nothing = Plan::default();
        for (counts, expected) in [
            (counts(0, 0, 1, 0), nothing),
            (counts(0, 0, 0, 0), Plan { create: 1, ..nothing }),
            (counts(3, 0, 1, 0), Plan { create: 3, ..nothing }),
            (counts(3, 2, 1, 0), Plan { create: 1, ..nothing }),
            (counts(50, 0, 0, 4), Plan { create: 6, overflow: 44, ..nothing }),
            (counts(5, 0, 0, 10), Plan { overflow: 5, ..nothing }),
            (counts(0, 3, 2, 0), Plan { cancel: 3, surplus_idle: 1, ..nothing }),
        ] {
            assert_eq!(plan(counts), expected, "{counts:?}");
        }
    }

    #[test]
    fn a_draining_group_gives_up_all_that_is_free() {
        let bounds = Bounds::new(2, 10).unwrap();
        let given = plan(bounds, &counts(4, 1, 2, 3), true, Allowance::Nothing);
        assert_eq!(given, Plan { create: 0, cancel: 1, surplus_idle: 2, overflow: 4, held_back: 0 });
    }

    #[test]
    fn a_blocked_group_probes_by_one() {
        let bounds = Bounds::new(0, 10).unwrap();
        assert_eq!(plan(bounds, &counts(4, 0, 0, 0), false, Allowance::One).create, 1);
        let blocked = plan(bounds, &counts(4, 0, 0, 0), false, Allowance::Nothing);
        assert_eq!((blocked.create, blocked.overflow, blocked.held_back), (0, 4, 4));
        assert_eq!(room_for_jobs(bounds, &counts(0, 0, 0, 0), Allowance::Nothing), 0);
    }

    fn any_counts() -> impl Strategy<Value = GroupCounts> {
        (0..50_u32, 0..20_u32, 0..20_u32, 0..20_u32, 0..20_u32, 0..20_u32, 0..20_u32).prop_map(
            |(queued, requested, creating, booting, idle, busy, retiring)| GroupCounts {
                queued,
                requested,
                creating,
                booting,
                idle,
                busy,
                retiring,
            },
        )
    }

    fn any_allowance() -> impl Strategy<Value = Allowance> {
        prop_oneof![Just(Allowance::Any), Just(Allowance::One), Just(Allowance::Nothing)]
    }

    proptest! {
        #[test]
        fn never_above_max(
            counts in any_counts(), min_idle in 0..40_u32, above in 0..60_u32,
            draining: bool, allowance in any_allowance(),
        ) {
            let bounds = Bounds::new(min_idle, (min_idle + above).max(1)).unwrap();
            let plan = plan(bounds, &counts, draining, allowance);
            prop_assert!(plan.create == 0 || counts.alive() + plan.create <= bounds.max());
        }

        #[test]
        fn never_makes_and_gives_up_at_once_and_never_gives_up_what_a_job_needs(
            counts in any_counts(), min_idle in 0..40_u32, above in 0..60_u32, allowance in any_allowance(),
        ) {
            let bounds = Bounds::new(min_idle, (min_idle + above).max(1)).unwrap();
            let plan = plan(bounds, &counts, false, allowance);
            prop_assert!(plan.create == 0 || plan.cancel + plan.surplus_idle == 0);
            prop_assert!(plan.cancel <= counts.requested && plan.surplus_idle <= counts.idle);
            if plan.cancel + plan.surplus_idle > 0 {
                let left = counts.free() - plan.cancel - plan.surplus_idle;
                prop_assert!(left >= counts.queued + bounds.min_idle());
            }
        }

        #[test]
        fn every_job_is_served_or_overflows(counts in any_counts(), max in 1..60_u32) {
            let bounds = Bounds::new(0, max).unwrap();
            let plan = plan(bounds, &counts, false, Allowance::Any);
            prop_assert!(counts.free() + plan.create + plan.overflow >= counts.queued);
            if plan.overflow > 0 {
                prop_assert_eq!(room_for_jobs(bounds, &counts, Allowance::Any), 0);
            }
        }
    }
}
