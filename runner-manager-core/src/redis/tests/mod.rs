//! The link to a server that is played: word by word, also badly, on a clock that stands still.

mod calls;
mod opening;
mod played;
mod together;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::played::Played;
use super::link::{Link, Script};
use super::open_error::RedisOpenError;
use super::settings::RedisSettings;
use crate::clock::SimulatedClock;
use crate::random::SeededRandom;

/// How long anything may take in real time before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A link and the clock that it waits by.
struct Under {
    link: Link,
    clock: Arc<SimulatedClock>,
}

fn clock() -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH))
}

fn script() -> Script {
    Script::new("test", "return 1")
}

async fn open(url: &str, clock: Arc<SimulatedClock>) -> Result<Link, RedisOpenError> {
    let settings = RedisSettings::new(url, "rm:{test}").unwrap();
    within(Link::open(settings, clock, Arc::new(SeededRandom::new(1)))).await
}

async fn linked(server: &Played) -> Under {
    let clock = clock();
    Under { link: open(&server.url(), clock.clone()).await.unwrap(), clock }
}

/// The outcome of what must end by itself.
#[expect(clippy::disallowed_methods, reason = "a test that hangs fails after real time")]
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it does not end")
}

/// Lets everything else go on until something holds.
async fn until(holds: impl AsyncFn() -> bool) {
    within(async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
