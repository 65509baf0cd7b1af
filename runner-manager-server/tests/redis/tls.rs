//! TLS to a Redis whose certificate a CA of our own signed, made anew by the `openssl` program.

use tempfile::TempDir;

use crate::certificates::make_certificates;
use crate::opening::refused;
use crate::redis_server::RedisServer;
use crate::world::World;

/// A server that listens by TLS, and what it needs.
struct Encrypted {
    server: RedisServer,
    port: u16,
    folder: TempDir,
}

impl Encrypted {
    /// None where this machine lacks something; in CI it fails.
    fn start() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        if !make_certificates(folder.path()) {
            return None;
        }
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (certificate, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        let options = [
            ["--tls-port", &port.to_string()],
            ["--tls-cert-file", &certificate],
            ["--tls-key-file", &key],
            ["--tls-ca-cert-file", &ca],
            ["--tls-auth-clients", "no"],
        ];
        let server = RedisServer::start(&options.concat())?;
        Some(Self { server, port, folder })
    }

    fn ca(&self) -> String {
        format!(", ca: {{file: {}}}", self.folder.path().join("ca.pem").display())
    }

    fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }
}

#[tokio::test]
async fn a_redis_by_tls() {
    let Some(redis) = Encrypted::start() else { return };
    let mut world = World::start(&redis.url(), &redis.ca());
    world.all_goes_on(1).await;
    redis.server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    world.all_goes_on(2).await;
}

#[test]
fn tls_that_does_not_fit() {
    let Some(redis) = Encrypted::start() else { return };
    let unknown = refused(&redis.url(), "");
    assert!(unknown.contains("with ca"), "{unknown}");
    let plain = refused(&redis.url().replace("rediss", "redis"), "");
    assert!(plain.contains("may expect TLS (rediss://)"), "{plain}");
    let other_name = refused(&redis.url().replace("127.0.0.1", "localhost"), &redis.ca());
    assert!(other_name.contains("by a name that stands in it"), "{other_name}");
    let plain_port = redis.server.url().replace("redis://", "rediss://");
    let encrypted = refused(&plain_port, &redis.ca());
    assert!(encrypted.contains("redis:// instead of rediss://"), "{encrypted}");
}
