//! Bodies: read within bounds of size, time and memory.
//!
//! Anybody can send bytes to `/webhook`, signed or not, so no body is buffered before its bound is known, and
//! all that are held at one time have one bound together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode, header::CONTENT_LENGTH};
use runner_manager_core::clock::{Clock, timeout};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::Refusal;

/// The largest body that is taken: GitHub sends no payload over 25 MB.
/// Source: <https://docs.github.com/webhooks/webhook-events-and-payloads#payload-cap>.
pub(super) const MAX_BODY: usize = 25 * 1024 * 1024;
/// How long a body may take. GitHub itself gives up a delivery after 10 s.
/// Source: <https://docs.github.com/webhooks/using-webhooks/handling-failed-webhook-deliveries>.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// What may be held of all bodies together, beyond the first [`FREE`] bytes of each.
const BUDGET: usize = 64 * 1024 * 1024;
/// What each body may hold without asking, so that usual webhooks (some 20 KB) never wait for large ones. The
/// bound on connections bounds these.
const FREE: usize = 64 * 1024;

/// All bodies that are being read.
#[derive(Debug)]
pub(super) struct Bodies {
    budget: Semaphore,
    clock: Arc<dyn Clock>,
}

/// A whole body, and its hold on the budget.
#[derive(Debug)]
pub(super) struct HeldBody<'a> {
    pub(super) bytes: Bytes,
    _held: Option<SemaphorePermit<'a>>,
}

impl Bodies {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { budget: Semaphore::new(BUDGET), clock }
    }

    /// Reads a whole body.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<HeldBody<'_>, Refusal> {
        let declared = declared_length(headers)?;
        self.in_time(self.collect(declared.unwrap_or(0), body.into_data_stream())).await
    }

    /// Reads a body of unknown length to its end and keeps nothing of it.
    pub(super) async fn discard(&self, body: Body) -> Result<(), Refusal> {
        self.in_time(async {
            let (mut stream, mut length) = (body.into_data_stream(), 0);
            while let Some(chunk) = next(&mut stream).await? {
                length = grown(length, &chunk)?;
            }
            Ok(())
        })
        .await
    }

    async fn collect(&self, expected: usize, mut stream: BodyDataStream) -> Result<HeldBody<'_>, Refusal> {
        // Memory that is reserved but not written costs nothing; growing step by step would cost twice.
        let mut bytes = BytesMut::with_capacity(expected);
        let (mut held, mut paid): (Option<SemaphorePermit<'_>>, usize) = (None, FREE);
        while let Some(chunk) = next(&mut stream).await? {
            let length = grown(bytes.len(), &chunk)?;
            if length > paid {
                let more = u32::try_from(length - paid).expect("a body is shorter than 4 GB");
                let permit = self.budget.acquire_many(more).await.expect("the budget is never closed");
                match &mut held {
                    Some(held) => held.merge(permit),
                    None => held = Some(permit),
                }
                paid = length;
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(HeldBody { bytes: bytes.freeze(), _held: held })
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        timeout(&*self.clock, READ_WITHIN, work).await.unwrap_or_else(|_| {
            let reason = format!("the body did not arrive within {} s", READ_WITHIN.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason))
        })
    }
}

/// How long the body says that it is; none where it comes in chunks.
pub(super) fn declared_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    let length = length
        .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "the Content-Length header is no number"))?;
    usize::try_from(length).ok().filter(|length| *length <= MAX_BODY).map(Some).ok_or_else(too_large)
}

fn too_large() -> Refusal {
    let reason = format!("the body is larger than {MAX_BODY} bytes: GitHub sends none of that size");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
}

fn grown(length: usize, chunk: &Bytes) -> Result<usize, Refusal> {
    let length = length + chunk.len();
    if length <= MAX_BODY { Ok(length) } else { Err(too_large()) }
}

async fn next(stream: &mut BodyDataStream) -> Result<Option<Bytes>, Refusal> {
    let broken = |_| Refusal::new(StatusCode::BAD_REQUEST, "the body broke off");
    stream.next().await.transpose().map_err(broken)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use axum::body::Body;
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use http::{HeaderMap, HeaderValue, StatusCode};
    use jiff::Timestamp;
    use runner_manager_core::clock::{SimulatedClock, SystemClock};

    use super::{BUDGET, Bodies, FREE, MAX_BODY, declared_length};

    fn chunks(count: usize, size: usize) -> Body {
        let chunk = Bytes::from(vec![b'x'; size]);
        Body::from_stream(stream::iter((0..count).map(move |_| Ok::<_, std::io::Error>(chunk.clone()))))
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_bounded_while_it_is_read() {
        let bodies = Bodies::new(Arc::new(SystemClock));
        let fits = bodies.read(&HeaderMap::new(), chunks(25, 1024 * 1024)).await.unwrap();
        assert_eq!(fits.bytes.len(), MAX_BODY);
        let refusal = bodies.read(&HeaderMap::new(), chunks(26, 1024 * 1024)).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let refusal = bodies.discard(chunks(26, 1024 * 1024)).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_budget_that_was_lent_comes_back() {
        let bodies = Bodies::new(Arc::new(SystemClock));
        let held = bodies.read(&HeaderMap::new(), chunks(3, 1024 * 1024)).await.unwrap();
        assert_eq!(bodies.budget.available_permits(), BUDGET - 3 * 1024 * 1024 + FREE);
        drop(held);
        assert_eq!(bodies.budget.available_permits(), BUDGET);
    }

    #[tokio::test]
    async fn usual_bodies_pass_while_the_budget_is_spent() {
        let bodies = Bodies::new(Arc::new(SystemClock));
        let _all = bodies.budget.acquire_many(u32::try_from(BUDGET).unwrap()).await.unwrap();
        assert!(bodies.read(&HeaderMap::new(), chunks(1, FREE)).await.is_ok());
    }

    #[tokio::test]
    async fn a_slow_body_is_given_up() {
        let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
        let bodies = Bodies::new(clock.clone());
        let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>().boxed());
        let headers = HeaderMap::new();
        let (refusal, ()) = tokio::join!(bodies.read(&headers, never), async {
            while clock.next_wake().is_none() {
                tokio::task::yield_now().await;
            }
            clock.advance(Duration::from_secs(10));
        });
        assert_eq!(refusal.unwrap_err().status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[test]
    fn a_declared_length_is_refused_before_anything_is_read() {
        let length = |text: &'static str| {
            let headers =
                HeaderMap::from_iter([(http::header::CONTENT_LENGTH, HeaderValue::from_static(text))]);
            declared_length(&headers).map_err(|refusal| refusal.status())
        };
        assert_eq!(length("26214400"), Ok(Some(MAX_BODY)));
        assert_eq!(length("26214401"), Err(StatusCode::PAYLOAD_TOO_LARGE));
        assert_eq!(length("99999999999999999999"), Err(StatusCode::BAD_REQUEST));
        assert_eq!(declared_length(&HeaderMap::new()).unwrap(), None);
    }
}
