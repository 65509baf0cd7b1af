//! Handing on a wake-up that was not used, for storages whose waiters are woken one at a time.

use tokio::sync::Notify;

/// What one who was woken holds until it has looked: dropped before that, it wakes the next in its place.
#[derive(Debug)]
pub(crate) struct Baton<'w>(Option<&'w Notify>);

impl<'w> Baton<'w> {
    /// A baton that goes on to those who wait for `next`.
    pub(crate) const fn of(next: &'w Notify) -> Self {
        Self(Some(next))
    }

    /// The look was taken: it has told whether there is more.
    pub(crate) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Baton<'_> {
    fn drop(&mut self) {
        if let Some(next) = self.0 {
            next.notify_one();
        }
    }
}
