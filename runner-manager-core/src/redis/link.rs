//! The connections to a Redis: scripts and reads on a shared one, waiting on connections of their own.
//!
//! - A connection is made when it is needed, by one caller for all. After a failure there is a pause, which
//!   grows to a second; whoever comes meanwhile hears at once what the failure was.
//! - A connection whose answer did not come in time is given up. Those who still wait on it wait to their own
//!   end; whoever comes next gets a new one.
//! - Nothing is repeated: whether a script whose answer was lost may run again is the caller's to say. The one
//!   exception is a server that does not know the script yet, which did nothing.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use redis::{Cmd, ServerError, Value};

use super::connection::{AskError, Connection, Dialer, said};
use super::open_error::RedisOpenError;
use super::reply::list;
use super::settings::RedisSettings;
use super::{examine, refusal, sentinel};
use crate::clock::Clock;
use crate::random::Random;
use crate::retry::Backoff;
use crate::store::StoreError;

/// The pauses between failed tries to connect. Short, because a server that is back is wanted at once, and
/// one try for each replica in a second disturbs nobody.
const RECONNECT: Backoff = Backoff { base: Duration::from_millis(50), ceiling: Duration::from_secs(1) };

/// The most connections that are kept for the next one who waits.
const MAX_IDLE: usize = 64;

/// The shortest wait: Redis takes nothing for "without end".
const MIN_WAIT: Duration = Duration::from_millis(10);

/// A script with the hash that a server knows it by.
#[derive(Debug)]
pub(super) struct Script {
    /// What it is called, for messages.
    pub(super) name: &'static str,
    /// What it says.
    pub(super) text: String,
    /// The hash of that.
    pub(super) sha: String,
}

impl Script {
    /// The script that says this.
    pub(super) fn new(name: &'static str, text: &str) -> Self {
        Self { name, text: text.to_owned(), sha: ::redis::Script::new(text).get_hash().to_owned() }
    }

    /// What it is called in messages.
    fn told(&self) -> String {
        format!("script `{}`", self.name)
    }

    fn by_hash(&self, keys: &[&str], args: &[&[u8]]) -> Cmd {
        called("EVALSHA", &self.sha, keys, args)
    }

    fn by_text(&self, keys: &[&str], args: &[&[u8]]) -> Cmd {
        called("EVAL", &self.text, keys, args)
    }
}

fn called(command: &str, script: &str, keys: &[&str], args: &[&[u8]]) -> Cmd {
    let mut call = redis::cmd(command);
    call.arg(script).arg(keys.len()).arg(keys).arg(args);
    call
}

/// The connections to one Redis.
#[derive(Clone)]
pub(super) struct Link(Arc<Inner>);

struct Inner {
    dialer: Dialer,
    random: Arc<dyn Random>,
    /// The connection that all scripts share. Locked while one caller connects.
    shared: tokio::sync::Mutex<Option<Connection>>,
    /// Connections on which nobody waits now.
    idle: Mutex<Vec<Connection>>,
    failures: Mutex<Failures>,
}

/// How connecting fared of late.
#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    last: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    at: Timestamp,
    pause: Duration,
    said: String,
}

/// Why a script or a command gave no answer.
enum CallError {
    NotSent(RedisOpenError),
    Lost(Connection, String, Option<redis::RedisError>),
    Refused(StoreError),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("servers", &self.0.dialer.settings.servers).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects, so that what is wrong shows at once.
    ///
    /// # Errors
    /// When the server cannot be reached, lets nobody in, or is a replica.
    pub(super) async fn open(
        settings: RedisSettings,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, RedisOpenError> {
        let link = Self(Arc::new(Inner {
            dialer: Dialer::new(settings, clock)?,
            random,
            shared: tokio::sync::Mutex::default(),
            idle: Mutex::default(),
            failures: Mutex::default(),
        }));
        link.connected().await?;
        examine::check_version(&link).await?;
        Ok(link)
    }

    /// Runs a script that may write.
    ///
    /// # Errors
    /// `Unclear` where the answer was lost: it may have been done. `Unavailable` where it was surely not done.
    /// `Corrupt` where the script itself failed.
    pub(super) async fn run(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<Value, StoreError> {
        self.call(script, keys, args).await.map_err(|error| error.told(&script.told(), StoreError::Unclear))
    }

    /// Runs a script that does several things, and answers each by itself.
    ///
    /// # Errors
    /// As those of [`run`](Self::run): of the whole, and of each.
    pub(super) async fn run_all(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<Vec<Result<Value, StoreError>>, StoreError> {
        let told = |error: CallError| error.told(&script.told(), StoreError::Unclear);
        let connection = self.connected().await.map_err(|error| told(CallError::NotSent(error)))?;
        let answer = self.called(&connection, script, keys, args).await;
        let answer = self.settled(&connection, &script.told(), answer).await.map_err(told)?;
        let mut answers = Vec::new();
        for answer in list(answer)? {
            answers.push(match answer {
                Value::ServerError(error) => Err(self.refused(&connection, &script.told(), &error).await),
                answer => Ok(answer),
            });
        }
        Ok(answers)
    }

    /// Runs a script that only reads.
    ///
    /// # Errors
    /// `Unavailable` where there is no answer, `Corrupt` where the script itself failed.
    pub(super) async fn read(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<Value, StoreError> {
        self.call(script, keys, args)
            .await
            .map_err(|error| error.told(&script.told(), StoreError::Unavailable))
    }

    /// Asks with one command that may be asked again without harm; `what` names it in messages.
    ///
    /// # Errors
    /// As those of [`read`](Self::read).
    pub(super) async fn look_up(&self, what: &str, question: &Cmd) -> Result<Value, StoreError> {
        let asking = async {
            let connection = self.connected().await.map_err(CallError::NotSent)?;
            let answer = self.asked(&connection, question).await;
            self.settled(&connection, what, answer).await
        };
        asking.await.map_err(|error| error.told(what, StoreError::Unavailable))
    }

    /// Whether scripts that write are taken now: writes a mark of no meaning to `key`, which goes by itself.
    ///
    /// # Errors
    /// As those of [`run`](Self::run).
    pub(super) async fn probe(&self, key: &str) -> Result<(), StoreError> {
        let script = Script::new("probe", "redis.call('SET', KEYS[1], '1', 'PX', 60000)");
        self.run(&script, &[key], &[]).await.map(drop)
    }

    /// Waits until something is pushed to a list, and takes it; false when the time is over.
    ///
    /// # Errors
    /// `Unavailable`. What was taken may be lost then.
    pub(super) async fn wait(&self, key: &str, limit: Duration) -> Result<bool, StoreError> {
        let limit = limit.max(MIN_WAIT);
        let connection = match self.0.take_idle() {
            Some(connection) => connection,
            None => self.0.dialled().await.map_err(unavailable)?,
        };
        let mut question = redis::cmd("BLPOP");
        question.arg(key).arg(format!("{:.3}", limit.as_secs_f64()));
        let within = limit + self.0.dialer.settings.response_timeout;
        match connection.ask(&question, &*self.0.dialer.clock, within).await {
            Ok(answer) => {
                self.0.put_idle(connection);
                Ok(answer != Value::Nil)
            }
            Err(AskError::Lost(reason, source)) => {
                let text = format!("redis {}: {reason}", connection.address);
                Err(StoreError::Unavailable(text, source.map(Into::into)))
            }
            Err(AskError::Refused(error)) => {
                let (meant, elsewhere) = refusal::meaning(&connection.address.to_string(), "BLPOP", &error);
                if !elsewhere {
                    self.0.put_idle(connection);
                }
                Err(meant)
            }
        }
    }

    /// Asks something that only reads, of the server itself. A refusal is answered in its own words.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn ask(&self, question: &Cmd) -> Result<Result<Value, String>, RedisOpenError> {
        let connection = self.connected().await?;
        match self.asked(&connection, question).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(AskError::Refused(error)) => Ok(Err(said(&error))),
            Err(AskError::Lost(reason, _)) => {
                self.give_up(&connection).await;
                Err(RedisOpenError::Lost { server: connection.address.to_string(), reason })
            }
        }
    }

    /// Where the server is that scripts are sent to; none while there is no connection.
    pub(super) async fn address(&self) -> Option<String> {
        let shared = self.0.shared.lock().await;
        shared.as_ref().filter(|connection| connection.is_open()).map(|open| open.address.to_string())
    }

    async fn call(&self, script: &Script, keys: &[&str], args: &[&[u8]]) -> Result<Value, CallError> {
        let connection = self.connected().await.map_err(CallError::NotSent)?;
        let answer = self.called(&connection, script, keys, args).await;
        self.settled(&connection, &script.told(), answer).await
    }

    /// Asks for a script by its hash, and by its text where the server does not know it yet.
    async fn called(
        &self,
        connection: &Connection,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<Value, AskError> {
        let answer = self.asked(connection, &script.by_hash(keys, args)).await;
        if matches!(&answer, Err(AskError::Refused(error)) if error.code() == "NOSCRIPT") {
            return self.asked(connection, &script.by_text(keys, args)).await;
        }
        answer
    }

    /// What an answer comes to, and what it says of the connection.
    async fn settled(
        &self,
        connection: &Connection,
        what: &str,
        answer: Result<Value, AskError>,
    ) -> Result<Value, CallError> {
        match answer {
            Ok(value) => Ok(value),
            Err(AskError::Refused(error)) => {
                Err(CallError::Refused(self.refused(connection, what, &error).await))
            }
            Err(AskError::Lost(reason, source)) => {
                self.give_up(connection).await;
                Err(CallError::Lost(connection.clone(), reason, source))
            }
        }
    }

    /// What a refusal means, and what it says of the connection.
    async fn refused(&self, connection: &Connection, what: &str, error: &ServerError) -> StoreError {
        let (meant, elsewhere) = refusal::meaning(&connection.address.to_string(), what, error);
        if elsewhere {
            self.give_up(connection).await;
        }
        meant
    }

    async fn asked(&self, connection: &Connection, question: &Cmd) -> Result<Value, AskError> {
        let Dialer { clock, settings, .. } = &self.0.dialer;
        connection.ask(question, &**clock, settings.response_timeout).await
    }

    /// The shared connection: the one that is there, or a new one.
    async fn connected(&self) -> Result<Connection, RedisOpenError> {
        let mut shared = self.0.shared.lock().await;
        if let Some(connection) = shared.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        *shared = None;
        // Those of a server that went, or is no master any more, would wait for nothing.
        self.0.lock_idle().clear();
        let connection = self.0.dialled().await?;
        *shared = Some(connection.clone());
        Ok(connection)
    }

    /// Takes a connection away from those who come next.
    async fn give_up(&self, connection: &Connection) {
        let mut shared = self.0.shared.lock().await;
        if shared.as_ref().is_some_and(|current| current.is(connection)) {
            *shared = None;
        }
    }
}

impl Inner {
    /// A new connection, unless the last try failed a moment ago.
    async fn dialled(&self) -> Result<Connection, RedisOpenError> {
        let now = self.dialer.clock.now();
        if let Some(last) = self.lock_failures().in_the_way(now) {
            return Err(RedisOpenError::Waiting { last });
        }
        // Large, and rare: boxed, so that every question need not have room for it.
        let dialled = Box::pin(sentinel::dial(&self.dialer)).await;
        let mut failures = self.lock_failures();
        match &dialled {
            Ok(_) => *failures = Failures::default(),
            Err(error) => {
                let now = self.dialer.clock.now();
                failures.add(now, self.random.next_u64(), error.to_string());
            }
        }
        dialled
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.lock_idle();
        idle.retain(Connection::is_open);
        idle.pop()
    }

    fn put_idle(&self, connection: Connection) {
        let mut idle = self.lock_idle();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_failures(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failures {
    /// What the last failure was, while its pause lasts. A clock that was set back ends the pause.
    fn in_the_way(&self, now: Timestamp) -> Option<String> {
        let last = self.last.as_ref()?;
        let passed = Duration::try_from(now.duration_since(last.at)).ok()?;
        (passed < last.pause).then(|| last.said.clone())
    }

    fn add(&mut self, at: Timestamp, entropy: u64, said: String) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last = Some(Failure { at, pause: RECONNECT.pause(self.in_a_row, entropy), said });
    }
}

type Source = Option<Box<dyn std::error::Error + Send + Sync>>;

impl CallError {
    /// What the caller hears, with `lost` for an answer that was lost.
    fn told(self, what: &str, lost: impl FnOnce(String, Source) -> StoreError) -> StoreError {
        match self {
            Self::NotSent(error) => unavailable(error),
            Self::Refused(meant) => meant,
            Self::Lost(connection, reason, source) => {
                let text = format!("redis {}: {what}: {reason}", connection.address);
                lost(text, source.map(Into::into))
            }
        }
    }
}

fn unavailable(error: RedisOpenError) -> StoreError {
    StoreError::Unavailable(error.to_string(), Some(Box::new(error)))
}
