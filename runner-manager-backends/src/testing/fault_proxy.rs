//! An HTTP proxy on loopback that does harm, before a service or in the place of one.
//!
//! It knows nothing of what is spoken over it. A test gives it a function that looks at each request and says
//! which harm is to be done, if any, under a name by which the proxy counts. A request that came whole goes to its end
//! also where nobody waits for its reply any more: a client that gives up early takes nothing back.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runner_manager_core::clock::{Clock, SystemClock};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// A request, as the deciding function sees it.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    /// Whether its body has a text in it.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

/// What is done to a request.
pub(crate) enum Harm {
    /// It is answered in the service's place, which does not get it.
    Answer { status: u16, body: Bytes },
    /// The same with headers of its own, which take the place of the usual ones.
    AnswerWith { status: u16, headers: Vec<(&'static str, String)>, body: Bytes },
    /// It is answered in the service's place with a body of so many bytes, made as it is read; how much of it
    /// was made is counted.
    Flood { beginning: &'static str, bytes: usize, taken: Arc<AtomicUsize> },
    /// It reaches the service after a while.
    Delay(Duration),
    /// It does not reach the service, and the connection is closed.
    Refuse,
    /// It reaches the service, whose reply does not come back: the connection is closed.
    LoseReply,
    /// It reaches the service, whose reply comes back after a while.
    HoldReply(Duration),
    /// It reaches the service, whose reply comes back as far as its middle.
    Cut,
}

type Body = BoxBody<Bytes, io::Error>;
type Decide = dyn Fn(&Seen) -> Option<(&'static str, Harm)> + Send + Sync;

/// The proxy, for as long as it is held.
pub(crate) struct Proxy {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("url", &self.url).finish_non_exhaustive()
    }
}

struct Shared {
    /// The service, and who speaks to it.
    service: Option<(String, reqwest::Client)>,
    decide: Box<Decide>,
    counts: Mutex<BTreeMap<&'static str, u32>>,
    /// Who brings the requests to their end.
    couriers: Mutex<JoinSet<()>>,
    /// The bodies of the requests that are not at their end, by their number.
    on_its_way: watch::Sender<BTreeMap<u32, Bytes>>,
}

/// What the counts have requests under to which nothing was done.
pub(crate) const UNHARMED: &str = "unharmed";

impl Proxy {
    /// A proxy before the service at `scheme://host:port`, whoever signed its certificate.
    pub(crate) async fn before(
        service: &str,
        decide: impl Fn(&Seen) -> Option<(&'static str, Harm)> + Send + Sync + 'static,
    ) -> Self {
        let client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
        let service = (service.trim_end_matches('/').to_owned(), client.build().unwrap());
        Self::start(Some(service), Box::new(decide)).await
    }

    /// A service that is played: what the function does not answer is lost.
    pub(crate) async fn alone(
        decide: impl Fn(&Seen) -> Option<(&'static str, Harm)> + Send + Sync + 'static,
    ) -> Self {
        Self::start(None, Box::new(decide)).await
    }

    async fn start(service: Option<(String, reqwest::Client)>, decide: Box<Decide>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            service,
            decide,
            counts: Mutex::default(),
            couriers: Mutex::default(),
            on_its_way: watch::Sender::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self { url, shared, _tasks: tasks }
    }

    /// How many requests there were, by the name of what was done to them.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u32> {
        self.shared.counts.lock().unwrap().clone()
    }

    /// Waits until no request whose body has the text in it is on its way: what it was to do at the service is done.
    pub(crate) async fn settled(&self, text: &str) {
        let says = |body: &Bytes| body.windows(text.len()).any(|part| part == text.as_bytes());
        let mut on_its_way = self.shared.on_its_way.subscribe();
        // The sender is held by the proxy, so that waiting cannot fail.
        let _ = on_its_way.wait_for(|all| !all.values().any(says)).await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| handle(request, Arc::clone(&shared)));
    // It ends with an error whenever a connection is closed on purpose.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// An error closes the connection without a reply.
async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let path = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let seen = Seen { method: parts.method, path, headers: parts.headers, body };
    let decided = (shared.decide)(&seen);
    let name = decided.as_ref().map_or(UNHARMED, |(name, _)| name);
    *shared.counts.lock().unwrap().entry(name).or_default() += 1;
    shared.send_out(seen, decided.map(|(_, harm)| harm)).await.map_err(io::Error::other)?
}

impl Shared {
    /// Has a request brought to the service: where its reply comes back.
    fn send_out(
        self: &Arc<Self>,
        seen: Seen,
        harm: Option<Harm>,
    ) -> oneshot::Receiver<Result<Response<Body>, io::Error>> {
        let mut number = 0;
        self.on_its_way.send_modify(|all| {
            number = all.last_key_value().map_or(0, |(last, _)| last + 1);
            all.insert(number, seen.body.clone());
        });
        let (reply, replied) = oneshot::channel();
        let courier = Arc::clone(self);
        let mut couriers = self.couriers.lock().unwrap();
        while couriers.try_join_next().is_some() {}
        couriers.spawn(async move {
            let answer = courier.bring(&seen, harm).await;
            courier.on_its_way.send_modify(|all| drop(all.remove(&number)));
            // Whoever asked may have gone.
            let _ = reply.send(answer);
        });
        replied
    }

    /// Brings a request to the service, and its reply back, with the harm that is done to it.
    async fn bring(&self, seen: &Seen, harm: Option<Harm>) -> Result<Response<Body>, io::Error> {
        match harm {
            None => self.forward(seen).await,
            Some(Harm::Answer { status, body }) => Ok(response(status, full(body))),
            Some(Harm::AnswerWith { status, headers, body }) => {
                let mut answer = response(status, full(body));
                for (name, value) in headers {
                    answer.headers_mut().insert(name, value.parse().unwrap());
                }
                Ok(answer)
            }
            Some(Harm::Flood { beginning, bytes, taken }) => {
                Ok(response(200, flood(beginning, bytes, taken)))
            }
            Some(Harm::Refuse) => Err(io::Error::other("refused")),
            Some(Harm::Delay(time)) => {
                SystemClock.sleep(time).await;
                self.forward(seen).await
            }
            Some(Harm::HoldReply(time)) => {
                let reply = self.forward(seen).await;
                SystemClock.sleep(time).await;
                reply
            }
            Some(Harm::LoseReply) => {
                self.forward(seen).await?;
                Err(io::Error::other("lost"))
            }
            Some(Harm::Cut) => {
                let (head, body) = self.forward(seen).await?.into_parts();
                let whole = body.collect().await?.to_bytes();
                let half = whole.slice(..whole.len() / 2);
                Ok(Response::from_parts(head, broken(half)))
            }
        }
    }

    async fn forward(&self, seen: &Seen) -> Result<Response<Body>, io::Error> {
        let Some((service, client)) = &self.service else { return Err(io::Error::other("nobody is there")) };
        let mut headers = seen.headers.clone();
        for own in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            headers.remove(own);
        }
        let request = client.request(seen.method.clone(), format!("{service}{}", seen.path));
        let answer =
            request.headers(headers).body(seen.body.clone()).send().await.map_err(io::Error::other)?;
        let mut reply = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if ![header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
                reply = reply.header(name, value);
            }
        }
        let body = answer.bytes().await.map_err(io::Error::other)?;
        Ok(reply.body(full(body)).unwrap())
    }
}

fn response(status: u16, body: Body) -> Response<Body> {
    Response::builder().status(status).header(header::CONTENT_TYPE, "text/xml").body(body).unwrap()
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed()
}

/// A body that begins and, once its beginning is under way, breaks off.
fn broken(beginning: Bytes) -> Body {
    let mut beginning = Some(beginning);
    let mut waited = false;
    let parts = stream::poll_fn(move |context| match (beginning.take(), waited) {
        (Some(part), _) => Poll::Ready(Some(Ok(Frame::data(part)))),
        (None, false) => {
            waited = true;
            context.waker().wake_by_ref();
            Poll::Pending
        }
        (None, true) => Poll::Ready(Some(Err(io::Error::other("cut")))),
    });
    BodyExt::boxed(StreamBody::new(parts))
}

fn flood(beginning: &'static str, bytes: usize, taken: Arc<AtomicUsize>) -> Body {
    const PART: usize = 64 << 10;
    let parts = std::iter::repeat_n(Bytes::from(vec![b'x'; PART]), bytes.div_ceil(PART));
    let parts = stream::iter([Bytes::from_static(beginning.as_bytes())].into_iter().chain(parts));
    BodyExt::boxed(StreamBody::new(parts.map(move |part| {
        taken.fetch_add(part.len(), Ordering::SeqCst);
        Ok(Frame::data(part))
    })))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Harm, Proxy, Seen, UNHARMED};

    /// Each harm, as a client sees it, before a service that counts what reaches it.
    #[tokio::test]
    async fn each_harm_is_what_it_says() {
        let service =
            Proxy::alone(|_| Some(("served", Harm::Answer { status: 200, body: "0123456789".into() }))).await;
        let proxy = Proxy::before(&service.url, |seen| match seen.path.as_str() {
            "/answer" => Some(("answer", Harm::Answer { status: 503, body: "no".into() })),
            "/headers" => {
                let headers = vec![("content-type", "text/plain".to_owned())];
                Some(("headers", Harm::AnswerWith { status: 201, headers, body: "yes".into() }))
            }
            "/refuse" => Some(("refuse", Harm::Refuse)),
            "/late" => Some(("late", Harm::Delay(Duration::from_millis(100)))),
            "/lose" => Some(("lose", Harm::LoseReply)),
            "/cut" => Some(("cut", Harm::Cut)),
            "/flood" => {
                Some(("flood", Harm::Flood { beginning: "<", bytes: 1 << 20, taken: Arc::default() }))
            }
            _ => None,
        })
        .await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut reached = 0;
        for (path, status, body, reaches) in [
            ("/", Some(200), Some(10), true),
            ("/answer", Some(503), Some(2), false),
            ("/headers", Some(201), Some(3), false),
            ("/refuse", None, None, false),
            ("/late", Some(200), Some(10), true),
            ("/lose", None, None, true),
            ("/cut", Some(200), None, true),
            ("/flood", Some(200), Some((1 << 20) + 1), false),
        ] {
            let answer = client.post(format!("{}{path}", proxy.url)).body("a question").send().await;
            assert_eq!(answer.as_ref().ok().map(|answer| answer.status().as_u16()), status, "{path}");
            if let Ok(answer) = answer {
                assert_eq!(answer.bytes().await.ok().map(|body| body.len()), body, "{path}");
            }
            reached += u32::from(reaches);
            assert_eq!(service.counts().get("served").copied().unwrap_or(0), reached, "{path}");
        }
        assert_eq!((proxy.counts()[UNHARMED], proxy.counts()["cut"]), (1, 1));
    }

    #[tokio::test]
    async fn a_client_that_gives_up_takes_nothing_back() {
        let service = Proxy::alone(|_| Some(("served", Harm::Answer { status: 200, body: "".into() }))).await;
        let late = |_: &Seen| Some(("late", Harm::Delay(Duration::from_millis(200))));
        let proxy = Proxy::before(&service.url, late).await;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(50));
        let asked = client.build().unwrap().post(&proxy.url).body("for runner-1 and others").send().await;
        assert!(asked.unwrap_err().is_timeout());
        proxy.settled("runner-2").await;
        assert_eq!(service.counts().get("served"), None);
        proxy.settled("runner-1").await;
        assert_eq!(service.counts()["served"], 1);
    }
}
