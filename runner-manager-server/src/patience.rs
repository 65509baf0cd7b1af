//! Questions of commands to whoever may not answer: GitHub by a connection, a backend, the store.
//!
//! Each is bounded in time, and whoever has let one pass without a word is asked nothing more: a command ends however
//! many questions it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use runner_manager_core::clock::{Clock, timeout};

/// The patience with one of them.
#[derive(Debug)]
pub(crate) struct Patience {
    clock: Arc<dyn Clock>,
    within: Duration,
    is_over: AtomicBool,
}

impl Patience {
    /// Patience that is over with the first question that is not answered `within` its time.
    pub(crate) const fn new(clock: Arc<dyn Clock>, within: Duration) -> Self {
        Self { clock, within, is_over: AtomicBool::new(false) }
    }

    /// The clock by which it is measured.
    pub(crate) const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The answer to one question.
    ///
    /// # Errors
    /// The refusal, or why there is no answer.
    pub(crate) async fn ask<T, E>(&self, question: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
    where
        E: Into<anyhow::Error>,
    {
        let within = self.within;
        if self.is_over.load(Ordering::Relaxed) {
            anyhow::bail!("not asked, since an earlier question was not answered within {within:?}");
        }
        let begun = self.clock.now();
        let answer = timeout(&*self.clock, within, question).await;
        let answer = answer.map_err(anyhow::Error::from).and_then(|answer| answer.map_err(Into::into));
        // Whoever makes the call may have given up by itself.
        let took = self.clock.now().duration_since(begun);
        if answer.is_err() && took >= SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX) {
            self.is_over.store(true, Ordering::Relaxed);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use jiff::Timestamp;
    use runner_manager_core::clock::SimulatedClock;

    use super::Patience;

    const WITHIN: Duration = Duration::from_secs(40);

    fn patience() -> (Patience, Arc<SimulatedClock>) {
        let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
        (Patience::new(clock.clone(), WITHIN), clock)
    }

    fn refusal() -> Result<(), io::Error> {
        Err(io::Error::other("no"))
    }

    #[tokio::test]
    async fn whoever_does_not_answer_is_asked_nothing_more() {
        let (patience, clock) = patience();
        let silent = patience.ask(pending::<Result<(), io::Error>>());
        let (answer, ()) = tokio::join!(silent, async { clock.advance(WITHIN) });
        assert!(answer.unwrap_err().to_string().contains("no answer within 40s"));
        let next = patience.ask(async { unreachable!("it is not asked") as Result<(), io::Error> }).await;
        assert!(next.unwrap_err().to_string().contains("not asked"));
    }

    #[tokio::test]
    async fn a_call_that_gives_up_by_itself_is_no_answer_either() {
        let (patience, clock) = patience();
        let question = patience.ask(async {
            clock.advance(WITHIN);
            refusal()
        });
        assert_eq!(question.await.unwrap_err().to_string(), "no");
        assert!(patience.ask(ready(refusal())).await.unwrap_err().to_string().contains("not asked"));
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let (patience, _) = patience();
        for _ in 0..3 {
            assert_eq!(patience.ask(ready(refusal())).await.unwrap_err().to_string(), "no");
        }
    }
}
