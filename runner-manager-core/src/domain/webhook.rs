//! Deliveries of webhooks, as GitHub's log has them.

use jiff::Timestamp;

use super::DeliveryId;

/// The event by which a hook tells of jobs.
pub const JOB_EVENT: &str = "workflow_job";

/// One attempt to deliver a webhook, from GitHub's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookDelivery {
    /// GitHub's number of the attempt.
    pub id: u64,
    /// The delivery that it was an attempt at; the same for all attempts.
    pub delivery: DeliveryId,
    /// When.
    pub at: Timestamp,
    /// What the receiver answered; 0 where it did not.
    pub status: u16,
    /// The event that it tells of, such as `workflow_job`.
    pub event: String,
    /// Whether somebody asked for it: the first attempt is GitHub's own.
    pub is_redelivery: bool,
}

impl WebhookDelivery {
    /// Whether the receiver took it.
    pub const fn is_taken(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}
