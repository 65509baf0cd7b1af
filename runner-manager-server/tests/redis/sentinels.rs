//! Sentinels: the master is found by them, and followed when it changes.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::redis_server::RedisServer;
use crate::support::PATIENCE;
use crate::world::World;

/// Three sentinels that watch one master, and end with the test.
struct Sentinels {
    children: Vec<Child>,
    ports: Vec<u16>,
    _folder: TempDir,
}

impl Sentinels {
    fn watch(master: u16) -> Self {
        let folder = TempDir::new().unwrap();
        let (mut children, mut ports) = (Vec::new(), Vec::new());
        for number in 0..3 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = folder.path().join(format!("sentinel-{number}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n",
                folder.path().display()
            );
            std::fs::write(&config, text).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&config).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
            children.push(command.spawn().unwrap());
            ports.push(port);
        }
        Self { children, ports, _folder: folder }
    }

    fn url(&self) -> String {
        let hosts: Vec<_> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/main", hosts.join(","))
    }

    /// What one sentinel knows of the master. A sentinel does not know `QUIT`: the end of what is sent ends
    /// the conversation.
    fn told(&self, at: usize) -> String {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.ports[at]))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"SENTINEL MASTER main\r\n")?;
            stream.shutdown(Shutdown::Write)?;
            std::io::read_to_string(stream)
        };
        // One that is starting does not answer yet.
        ask().unwrap_or_default()
    }

    /// Waits until every sentinel knows the two others and the replica, so that a failover can be.
    fn until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        let ready = |at| {
            let master = self.told(at);
            let words: Vec<_> = master.split_whitespace().collect();
            let number = |key: &str| {
                words.iter().position(|word| *word == key).and_then(|place| words.get(place + 2)).copied()
            };
            number("num-other-sentinels") == Some("2") && number("num-slaves") == Some("1")
        };
        while !(0..3).all(ready) {
            assert!(Instant::now() < deadline, "the sentinels did not find each other");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn a_failover_is_followed() {
    let Some(mut master) = RedisServer::start(&["--appendonly", "yes"]) else { return };
    let of_master = format!("127.0.0.1 {}", master.port());
    let replica = RedisServer::start(&["--appendonly", "yes", "--replicaof", &of_master]).unwrap();
    let sentinels = Sentinels::watch(master.port());
    sentinels.until_ready();
    let mut world = World::start(&sentinels.url(), "");
    world.all_goes_on(1).await;
    // Replication lags behind by a moment: what is looked for afterwards has to have arrived.
    assert_eq!(master.ask(&["WAIT", "1", "10000"]), ":1");
    master.kill();
    world.until_ready_is(503, "").await;
    world.until_ready_is(200, "ok").await;
    assert!(replica.ask(&["ROLE"]).contains("master"));
    world.until_jobs_are(0, 1).await;
    world.all_goes_on(2).await;
    // The old master comes back as one, and is told by the sentinels that it is a replica now.
    master.restart();
    world.all_goes_on(3).await;
    world.until_jobs_are(0, 3).await;
}
