//! A real Redis server for a test, on a free port of this machine and with a directory of its own.
//!
//! Other crates take this file in by its path: it needs the standard library and `tempfile` alone.

#![allow(dead_code, reason = "each test that takes this file in uses a part of it")]
#![allow(clippy::print_stderr, reason = "a person is told that a test had nothing to do")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// How often a server that starts is asked whether it works, and the pause between.
const TRIES: u32 = 1500;
const PAUSE: Duration = Duration::from_millis(20);

/// A server that ends with the test.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    options: Vec<String>,
    directory: TempDir,
}

impl RedisServer {
    /// A server that writes nothing down, or as the options say (such as `["--appendonly", "yes"]`).
    ///
    /// None where this machine has no `redis-server`: then the test has nothing to do. In CI it fails.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if found.is_err() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI has no redis-server");
            eprintln!("skipped: no redis-server");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory can be made");
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        // Somebody else may take the port between our looking for it and the server's taking it.
        for _ in 0..5 {
            let port = free_port();
            let mut child = spawn(port, directory.path(), &options);
            if answers(&mut child, port) {
                return Some(Self { child, port, options, directory });
            }
            end(&mut child);
        }
        panic!("redis-server does not start: {}", log(directory.path()));
    }

    /// The port on which it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        // One that was paused is killed all the same.
        end(&mut self.child);
    }

    /// Starts it anew after [`kill`](Self::kill), on the same port and with what it had written down.
    pub(crate) fn restart(&mut self) {
        end(&mut self.child);
        self.child = spawn(self.port, self.directory.path(), &self.options);
        assert!(
            answers(&mut self.child, self.port),
            "redis-server does not start again: {}",
            log(self.directory.path())
        );
    }

    /// Ends it, removes what it had written down, and starts it anew.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        for entry in std::fs::read_dir(self.directory.path()).expect("the directory is there") {
            let path = entry.expect("the directory can be read").path();
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.expect("what the server wrote can be removed");
        }
        self.restart();
    }

    /// Stops it where it is: it keeps its connections and answers nothing.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Has it go on after [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Asks it something, and tells its answer as it came: for what a test looks up or breaks.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        ask(local(self.port), words).expect("the server answers")
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let done = Command::new("sh").args(["-c", &kill]).status().expect("a shell runs");
        assert!(done.success(), "the server takes a signal");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

fn spawn(port: u16, directory: &Path, options: &[String]) -> Child {
    let log = std::fs::File::create(directory.join("log")).expect("a log can be written");
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .arg("--dir")
        .arg(directory)
        .args(options)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server was found")
}

fn log(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("log")).unwrap_or_default()
}

/// Waits until a server that starts works; false when it ended, or took too long.
fn answers(child: &mut Child, port: u16) -> bool {
    for _ in 0..TRIES {
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        if ask(local(port), &["PING"]).is_ok_and(|answer| answer == "+PONG") {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
    false
}

fn end(child: &mut Child) {
    // One that has ended already cannot be killed, which is as it should be.
    let _ = child.kill();
    let _ = child.wait();
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Asks a server something, and tells its answer as it came.
pub(crate) fn ask(address: SocketAddr, words: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut question = format!("*{}\r\n", words.len());
    for word in words {
        question.extend(["$", &word.len().to_string(), "\r\n", word, "\r\n"]);
    }
    // Nothing follows the answer to QUIT, so all that comes is read.
    question.push_str("*1\r\n$4\r\nQUIT\r\n");
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.strip_suffix("+OK\r\n").unwrap_or(&answer).trim_end().to_owned())
}
