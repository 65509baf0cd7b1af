//! The suite of [`TaskQueue`](crate::queue::TaskQueue).

#![expect(clippy::unwrap_used, reason = "a case panics where the subject does not behave")]

mod bounds;
mod claims;
mod ends;

use super::Case;
use super::storage::StorageSubject;

/// The cases, each named like the point of *Behaviour* that it tests.
pub fn cases() -> Vec<Case<StorageSubject>> {
    vec![
        Case::new("a_task_is_claimed_once", claims::a_task_is_claimed_once),
        Case::new("equal_keys_collapse", claims::equal_keys_collapse),
        Case::new("a_claimed_key_is_not_collapsed_into", claims::a_claimed_key_is_not_collapsed_into),
        Case::new("one_claim_per_key", claims::one_claim_per_key),
        Case::new("a_delay_is_kept", claims::a_delay_is_kept),
        Case::new("higher_priorities_go_first", claims::higher_priorities_go_first),
        Case::new("a_lane_is_held_within_its_bound", bounds::a_lane_is_held_within_its_bound),
        Case::new("lanes_are_apart", claims::lanes_are_apart),
        Case::new("a_claim_waits_for_a_task", claims::a_claim_waits_for_a_task),
        Case::new("all_who_wait_are_served", claims::all_who_wait_are_served),
        Case::new("a_lease_runs_out", ends::a_lease_runs_out),
        Case::new("a_lease_is_extended", ends::a_lease_is_extended),
        Case::new("ack_ends_a_task", ends::ack_ends_a_task),
        Case::new("a_late_ack_is_refused", ends::a_late_ack_is_refused),
        Case::new("retry_comes_back_later", ends::retry_comes_back_later),
        Case::new("release_comes_back_at_once", ends::release_comes_back_at_once),
        Case::new("bury_keeps_it_with_its_reason", ends::bury_keeps_it_with_its_reason),
        Case::new("revive_brings_it_back", ends::revive_brings_it_back),
        Case::new("dead_tasks_are_bounded", ends::dead_tasks_are_bounded),
        Case::new("statistics_count", ends::statistics_count),
    ]
}
