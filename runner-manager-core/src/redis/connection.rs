//! One connection to one server: dialled, signed in, and asked.
//!
//! The conversation up to the sign-in is held word by word, so that each failure has its own sentence (a
//! server that refuses a client says so unasked, and hangs up). Then the client library's multiplexer takes
//! over: many questions at a time, each answered in its turn. A question that is given up keeps its place in
//! the line, so its late answer is never taken for another's. Nothing is repeated in here.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, ServerError, Value};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsConnector;

use super::open_error::RedisOpenError;
use super::settings::{RedisAddress, RedisSettings};
use crate::certificates::client_config;
use crate::clock::{Clock, timeout};

/// The longest answer to a word of the conversation before the sign-in is done.
const MAX_GREETING: usize = 64 * 1024;
/// The name under which the server lists our connections.
const CLIENT_NAME: &str = "runner-manager";

const PLAIN_HINT: &str = "it may be overloaded or stopped, or this port may expect TLS (rediss://)";
const TLS_HINT: &str = "this port may expect no TLS (redis:// instead of rediss://)";

/// Makes connections as the settings say.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) settings: RedisSettings,
    pub(super) clock: Arc<dyn Clock>,
    tls: Option<Tls>,
}

struct Tls(TlsConnector);

impl Tls {
    fn new(ca: Option<&str>) -> Result<Self, RedisOpenError> {
        let config = client_config(ca).map_err(|reason| RedisOpenError::Certificates { reason })?;
        Ok(Self(Arc::new(config).into()))
    }
}

impl Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// A stream to a server, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// A connection before the multiplexer has it: one question, one answer.
pub(super) struct Conversation {
    stream: Box<dyn Stream>,
    server: String,
    encrypted: bool,
}

/// What a server is to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServerRole {
    Master,
    /// Of the master at this address.
    Replica(String),
    Sentinel,
    /// It may not be asked.
    Unseen,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AskError {
    /// The server refused the question: it was not done.
    Refused(ServerError),
    /// There is no answer, and there will be none. Whether the question arrived is not known.
    Lost(String, Option<redis::RedisError>),
}

/// How far a connection came.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Reaching,
    Encrypting,
    SigningIn,
}

impl Dialer {
    /// # Errors
    /// When the certificates to check servers with cannot be used.
    pub(super) fn new(settings: RedisSettings, clock: Arc<dyn Clock>) -> Result<Self, RedisOpenError> {
        let tls = if settings.tls { Some(Tls::new(settings.ca.as_deref())?) } else { None };
        Ok(Self { settings, clock, tls })
    }

    /// A connection that is signed in, to a server that is no replica as far as can be seen.
    pub(super) async fn dial(&self, address: &RedisAddress) -> Result<Connection, RedisOpenError> {
        self.in_time(address, async |stage| {
            let mut conversation = self.open(address, stage).await?;
            self.sign_in(&mut conversation).await?;
            self.select(&mut conversation).await?;
            conversation.name_itself().await?;
            match conversation.role().await? {
                ServerRole::Master | ServerRole::Unseen => conversation.multiplexed(address).await,
                ServerRole::Replica(master) => {
                    Err(RedisOpenError::Replica { server: conversation.server, master })
                }
                ServerRole::Sentinel => Err(RedisOpenError::IsSentinel { server: conversation.server }),
            }
        })
        .await
    }

    /// Asks one question of a server that may want no sign-in, such as a sentinel.
    pub(super) async fn ask_once(
        &self,
        address: &RedisAddress,
        question: &Cmd,
    ) -> Result<Value, RedisOpenError> {
        self.in_time(address, async |stage| {
            let mut conversation = self.open(address, stage).await?;
            match conversation.ask(question).await? {
                Value::ServerError(error) if error.code() == "NOAUTH" => {
                    self.sign_in(&mut conversation).await?;
                    conversation.ask(question).await.and_then(|answer| conversation.accepted(answer))
                }
                answer => conversation.accepted(answer),
            }
        })
        .await
    }

    async fn in_time<T>(
        &self,
        address: &RedisAddress,
        connect: impl AsyncFnOnce(&mut Stage) -> Result<T, RedisOpenError>,
    ) -> Result<T, RedisOpenError> {
        let limit = self.settings.connect_timeout;
        let mut stage = Stage::Reaching;
        if let Ok(connected) = timeout(&*self.clock, limit, connect(&mut stage)).await {
            return connected;
        }
        let (what, hint) = match stage {
            Stage::Reaching => ("no connection", "see that the host is right and no firewall is in between"),
            Stage::Encrypting => ("no TLS", TLS_HINT),
            Stage::SigningIn => ("no answer", PLAIN_HINT),
        };
        Err(RedisOpenError::Silent { server: address.to_string(), what, limit, hint })
    }

    async fn open(&self, address: &RedisAddress, stage: &mut Stage) -> Result<Conversation, RedisOpenError> {
        let server = address.to_string();
        let tcp = async {
            let tcp = TcpStream::connect((&*address.host, address.port)).await?;
            tcp.set_nodelay(true)?;
            Ok(tcp)
        };
        let tcp =
            tcp.await.map_err(|source| RedisOpenError::Unreachable { server: server.clone(), source })?;
        let Some(Tls(tls)) = &self.tls else {
            *stage = Stage::SigningIn;
            return Ok(Conversation { stream: Box::new(tcp), server, encrypted: false });
        };
        *stage = Stage::Encrypting;
        let refused = |source: io::Error| {
            let hint = if source.to_string().contains("certificate") {
                "name what signed the server's certificate with ca, and reach it by a name that stands in it"
            } else {
                TLS_HINT
            };
            RedisOpenError::Tls { server: address.to_string(), source, hint }
        };
        let name = ServerName::try_from(address.host.clone());
        let name = name.map_err(|error| refused(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let encrypted = tls.connect(name, tcp).await.map_err(refused)?;
        *stage = Stage::SigningIn;
        Ok(Conversation { stream: Box::new(encrypted), server, encrypted: true })
    }

    async fn sign_in(&self, conversation: &mut Conversation) -> Result<(), RedisOpenError> {
        let Some(password) = &self.settings.password else { return Ok(()) };
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = &self.settings.user {
            auth.arg(user);
        }
        auth.arg(password.expose());
        let answer = conversation.ask(&auth).await?;
        conversation.accepted(answer).map(drop)
    }

    async fn select(&self, conversation: &mut Conversation) -> Result<(), RedisOpenError> {
        let database = self.settings.database;
        if database == 0 {
            return Ok(());
        }
        match conversation.ask(redis::cmd("SELECT").arg(database)).await? {
            Value::ServerError(error) if error.code() == "ERR" => {
                let (server, answer) = (conversation.server.clone(), said(&error));
                Err(RedisOpenError::Database { server, database, answer })
            }
            answer => conversation.accepted(answer).map(drop),
        }
    }
}

impl Conversation {
    /// Asks, and hears the answer.
    async fn ask(&mut self, question: &Cmd) -> Result<Value, RedisOpenError> {
        // A server that hangs up unasked has said why: that is heard first.
        let asked = self.stream.write_all(&question.get_packed_command()).await;
        let asked = match asked {
            Ok(()) => self.stream.flush().await,
            failed => failed,
        };
        let mut answer = Vec::new();
        loop {
            let read = (&mut self.stream).take(4096).read_buf(&mut answer).await;
            match redis::parse_redis_value(&answer) {
                Ok(value) => return Ok(value),
                Err(error) if error.kind() != ErrorKind::Io || answer.len() > MAX_GREETING => {
                    return Err(RedisOpenError::NotRedis { server: self.server.clone() });
                }
                Err(_) => {}
            }
            let end = match read {
                Ok(0) => asked.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => continue,
                Err(error) => error,
            };
            let hint = if self.encrypted { "see its log" } else { PLAIN_HINT };
            return Err(RedisOpenError::Closed { server: self.server.clone(), source: end, hint });
        }
    }

    /// The answer, unless it is a refusal.
    fn accepted(&self, answer: Value) -> Result<Value, RedisOpenError> {
        let Value::ServerError(error) = answer else { return Ok(answer) };
        let (server, answer) = (self.server.clone(), said(&error));
        Err(match error.code() {
            "DENIED" => RedisOpenError::Protected { server },
            "NOAUTH" => {
                RedisOpenError::SignIn { server, answer, hint: "put its password into the configuration" }
            }
            "WRONGPASS" => RedisOpenError::SignIn { server, answer, hint: "see the user and the password" },
            "ERR" if answer.contains("without any password configured") => RedisOpenError::SignIn {
                server,
                answer,
                hint: "take the password out of the configuration, or give the server one (requirepass)",
            },
            _ => RedisOpenError::Refused { server, answer },
        })
    }

    /// Only people who list the server's clients miss it.
    async fn name_itself(&mut self) -> Result<(), RedisOpenError> {
        match self.ask(redis::cmd("CLIENT").arg("SETNAME").arg(CLIENT_NAME)).await? {
            Value::ServerError(error) if matches!(error.code(), "NOAUTH" | "DENIED") => {
                self.accepted(Value::ServerError(error)).map(drop)
            }
            _ => Ok(()),
        }
    }

    async fn role(&mut self) -> Result<ServerRole, RedisOpenError> {
        let answer = match self.ask(&redis::cmd("ROLE")).await? {
            Value::ServerError(error) if matches!(error.code(), "NOPERM" | "ERR") => {
                return Ok(ServerRole::Unseen);
            }
            answer => self.accepted(answer)?,
        };
        let Value::Array(parts) = answer else { return Ok(ServerRole::Unseen) };
        let text = |at: usize| parts.get(at).map(text_of).unwrap_or_default();
        Ok(match &*text(0) {
            "master" => ServerRole::Master,
            "slave" => ServerRole::Replica(format!("{}:{}", text(1), text(2))),
            "sentinel" => ServerRole::Sentinel,
            _ => ServerRole::Unseen,
        })
    }

    async fn multiplexed(self, address: &RedisAddress) -> Result<Connection, RedisOpenError> {
        // Signed in already, and timed by our clock: the library has nothing to add of either.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let made = MultiplexedConnection::new_with_config(&info, self.stream, config).await;
        let (multiplexed, driver) =
            made.map_err(|error| RedisOpenError::Refused { server: self.server, answer: error.to_string() })?;
        let mut tasks = JoinSet::new();
        let running = tasks.spawn(driver);
        let address = address.clone();
        Ok(Connection { multiplexed, driver: Arc::new(Driver { _tasks: tasks, running }), address })
    }
}

/// A connection that is signed in. Clones are the same connection, which is closed with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    multiplexed: MultiplexedConnection,
    driver: Arc<Driver>,
    pub(super) address: RedisAddress,
}

/// What reads and writes for a connection, for as long as the connection is kept.
#[derive(Debug)]
struct Driver {
    _tasks: JoinSet<()>,
    running: AbortHandle,
}

impl Connection {
    /// Whether it is still connected, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.driver.running.is_finished()
    }

    /// Whether both are one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.driver, &other.driver)
    }

    /// Asks, and waits for the answer up to `limit`. What is lost after this began may have been done.
    pub(super) async fn ask(
        &self,
        question: &Cmd,
        clock: &dyn Clock,
        limit: Duration,
    ) -> Result<Value, AskError> {
        let mut multiplexed = self.multiplexed.clone();
        match timeout(clock, limit, multiplexed.req_packed_command(question)).await {
            Ok(Ok(Value::ServerError(error))) => Err(AskError::Refused(error)),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(AskError::Lost("the connection broke".to_owned(), Some(error))),
            Err(late) => Err(AskError::Lost(late.to_string(), None)),
        }
    }
}

/// What a server said, in its own words.
pub(super) fn said(error: &ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default()).trim_end().to_owned()
}

/// A value as a text, where it is one.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Okay => "OK".to_owned(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}
