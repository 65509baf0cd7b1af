//! A server that says what a test wants it to say.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// What a client asked, and on which connection, counted from 1.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) connection: usize,
    pub(super) words: Vec<String>,
}

/// What the server does with a question.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// What a master that has nothing against anybody says.
    Usual,
    /// Says this, in Redis' own language.
    Say(&'static str),
    /// Says this when it is told to.
    When(Arc<Notify>, &'static str),
    /// Says this, and hangs up.
    Last(&'static str),
    /// Hangs up.
    Close,
}

type Play = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The server. Ends with the test.
pub(super) struct Played {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    open: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Played {
    /// A server that answers as `play` wants.
    pub(super) async fn start(play: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, play).await
    }

    /// A server that says something to everyone who comes, and hangs up.
    pub(super) async fn unfriendly(greeting: &'static str) -> Self {
        Self::start_with(Some(greeting), |_| Reply::Close).await
    }

    async fn start_with(
        greeting: Option<&'static str>,
        play: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, open): (Arc<Mutex<Vec<Asked>>>, _) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let (books, count, play) = (asked.clone(), open.clone(), Arc::new(play) as Arc<Play>);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 1.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                if let Some(greeting) = greeting {
                    stream.write_all(greeting.as_bytes()).await.unwrap();
                    continue;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let (books, count, play) = (books.clone(), count.clone(), play.clone());
                connections.spawn(async move {
                    // A client may go at any moment.
                    let _ = serve(stream, number, &books, &*play).await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, asked, open, _tasks: tasks }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// What was asked with these words at the beginning.
    pub(super) fn asked(&self, command: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.words.join(" ").starts_with(command)).cloned().collect()
    }
}

async fn serve(
    stream: TcpStream,
    connection: usize,
    books: &Mutex<Vec<Asked>>,
    play: &Play,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(words) = question(&mut stream).await? {
        let asked = Asked { connection, words };
        let reply = play(&asked);
        let usual = usual(&asked);
        books.lock().unwrap().push(asked);
        match reply {
            Reply::Usual => stream.get_mut().write_all(usual.as_bytes()).await?,
            Reply::Say(text) => stream.get_mut().write_all(text.as_bytes()).await?,
            Reply::When(told, text) => {
                tokio::select! {
                    biased;
                    () = told.notified() => {}
                    () = gone(&mut stream) => return Ok(()),
                }
                stream.get_mut().write_all(text.as_bytes()).await?;
            }
            Reply::Last(text) => return stream.get_mut().write_all(text.as_bytes()).await,
            Reply::Close => return Ok(()),
        }
    }
    Ok(())
}

/// Waits until the client has gone. One that asks more is there.
async fn gone(stream: &mut BufReader<TcpStream>) {
    if stream.fill_buf().await.is_ok_and(|more| !more.is_empty()) {
        std::future::pending::<()>().await;
    }
}

async fn question(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<String>>> {
    let Some(count) = number(stream).await? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..count {
        let Some(length) = number(stream).await? else { return Ok(None) };
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await?;
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
    }
    Ok(Some(words))
}

/// The number behind the first character of a line.
async fn number(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<usize>> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.trim_end().get(1..).and_then(|number| number.parse().ok()))
}

fn usual(asked: &Asked) -> &'static str {
    match &*asked.words[0] {
        "ROLE" => "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
        "INFO" => "$22\r\nredis_version:7.0.15\r\n\r\n",
        "EVALSHA" | "EVAL" => ":1\r\n",
        "BLPOP" => "*-1\r\n",
        _ => "+OK\r\n",
    }
}
