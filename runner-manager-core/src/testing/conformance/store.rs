//! The suite of [`Store`](crate::store::Store).

#![expect(clippy::unwrap_used, reason = "a case panics where the subject does not behave")]

mod hooks;
mod lists;
mod trust;
mod whole;
mod writes;

use super::Case;
use super::storage::StorageSubject;

/// The cases, each named like the point of *Behaviour* that it tests.
pub fn cases() -> Vec<Case<StorageSubject>> {
    vec![
        Case::new("a_write_is_read", writes::a_write_is_read),
        Case::new("records_come_back_whole", whole::records_come_back_whole),
        Case::new("a_write_is_whole", writes::a_write_is_whole),
        Case::new("tasks_come_with_their_write", writes::tasks_come_with_their_write),
        Case::new("versions_are_compared", writes::versions_are_compared),
        Case::new("versions_never_return", writes::versions_never_return),
        Case::new("a_record_is_named_once", writes::a_record_is_named_once),
        Case::new("a_slot_is_reserved_once", writes::a_slot_is_reserved_once),
        Case::new("max_is_never_exceeded", writes::max_is_never_exceeded),
        Case::new("a_slot_is_freed_at_the_end", writes::a_slot_is_freed_at_the_end),
        Case::new("a_draining_group_is_closed", writes::a_draining_group_is_closed),
        Case::new("a_group_in_use_stays", writes::a_group_in_use_stays),
        Case::new("adoption_is_not_bounded", writes::adoption_is_not_bounded),
        Case::new("a_lost_claim_is_refused", writes::a_lost_claim_is_refused),
        Case::new("a_write_ends_its_claim", writes::a_write_ends_its_claim),
        Case::new("a_repeat_gets_the_first_answer", writes::a_repeat_gets_the_first_answer),
        Case::new("trust_is_said_of_a_life", trust::trust_is_said_of_a_life),
        Case::new("the_untrusted_is_not_relied_on", trust::the_untrusted_is_not_relied_on),
        Case::new("numbers_outlive_a_loss", trust::numbers_outlive_a_loss),
        Case::new("counters_follow_the_records", lists::counters_follow_the_records),
        Case::new("hooks_are_known_by_their_place", hooks::hooks_are_known_by_their_place),
        Case::new("lists_are_ordered_and_paged", lists::lists_are_ordered_and_paged),
        Case::new("history_is_kept_and_bounded", lists::history_is_kept_and_bounded),
    ]
}
