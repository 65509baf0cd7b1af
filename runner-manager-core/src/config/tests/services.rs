//! What can be wrong with secrets, the server and the services, each with the place that is told.

use super::faults::each;
use super::{GOOD, spoilt, told};

#[test]
fn secrets() {
    each(&[
        (
            "{env: RM_SECRET_KEY}",
            "{env: NOT_SET}",
            "2:19: secret_key.env: environment variable `NOT_SET` is not set",
        ),
        (
            "{env: RM_SECRET_KEY}",
            "{env: SHORT}",
            "2:13: secret_key: the secret has 6 characters, at least 16 are needed",
        ),
        (
            "{env: RM_SECRET_KEY}",
            "{env: SHORT, file: x}",
            "2:13: secret_key: expected a text, {env: NAME} or {file: PATH}",
        ),
        ("{env: RM_SECRET_KEY}", "{}", "2:13: secret_key: expected a text, {env: NAME} or {file: PATH}"),
        (
            "{env: RM_SECRET_KEY}",
            "{environment: SHORT}",
            "2:13: secret_key: expected a text, {env: NAME} or {file: PATH}",
        ),
        (
            "{env: RM_SECRET_KEY}",
            "1234567890123456789",
            "2:13: secret_key: expected a text (put it in quotes), found a number",
        ),
        (
            "{file: webhook.secret}",
            "{file: other.secret}",
            "5:26: server.webhook_secret.file: file `/etc/rm/other.secret` cannot be read: no such file",
        ),
        (
            "{file: webhook.secret}",
            "{file: empty}",
            "5:19: server.webhook_secret: the secret has 0 characters, at least 16 are needed",
        ),
        (
            "{file: webhook.secret}",
            "[{env: WEBHOOK_SECRET}, {env: SHORT}]",
            "5:43: server.webhook_secret[1]: the secret has 6 characters, at least 16 are needed",
        ),
        (
            "{file: webhook.secret}",
            "[{file: webhook.secret}, {env: WEBHOOK_SECRET}]",
            "5:44: server.webhook_secret[1]: is the same secret as the first one: name it once",
        ),
        (
            "{file: webhook.secret}",
            "[]",
            "5:19: server.webhook_secret: expected a secret, or the new one and the one before it, found a list of 0",
        ),
        (
            "{file: webhook.secret}",
            "[{env: A}, {env: B}, {env: C}]",
            "5:19: server.webhook_secret: expected a secret, or the new one and the one before it, found a list of 3",
        ),
        (
            "{env: GITHUB_TOKEN}",
            "''",
            "9:10: github.token: the secret has 0 characters, at least 1 are needed",
        ),
        (
            "{env: GITHUB_TOKEN}",
            "gh hidden",
            "9:10: github.token: expected a token without spaces, line breaks and characters outside ASCII",
        ),
    ]);
}

#[test]
fn a_secret_without_its_quotes_is_not_told() {
    let odd =
        ["!", "!!", "!!int ", "!!null ", "!!binary ", "&", "*", "@", "`", "%", "|", ">", "{", "[", "\"", "'"];
    for begin in odd.into_iter().chain(["- ", "? ", "{x: ", "[x, ", "<<: ", "&a *", "\t", "1 ", ": "]) {
        let text = spoilt("{env: RM_SECRET_KEY}", &format!("{begin}hunter2"));
        let told = told(&text);
        assert!(!told.contains("hunter2"), "{begin:?} gave {told}");
    }
}

#[test]
fn the_server() {
    each(&[
        (
            "127.0.0.1:8080",
            "localhost:8080",
            "4:11: server.listen: expected an IP address and a port such as 0.0.0.0:8080, found `localhost:8080`",
        ),
        (
            "  listen: 127.0.0.1:8080\n",
            "  public_url: http://example.com\n",
            "4:15: server.public_url: expected an https URL: plain http is for loopback hosts alone",
        ),
        (
            "  webhook_secret: {file: webhook.secret}\n",
            "",
            "4:3: server.webhook_secret: is required, but missing: without it anybody could send webhooks (on a loopback address allow_unsigned_webhooks: true takes its place)",
        ),
        (
            "  webhook_secret: {file: webhook.secret}\n",
            "  allow_unsigned_webhooks: false\n",
            "4:3: server.webhook_secret: is required, but missing: without it anybody could send webhooks (on a loopback address allow_unsigned_webhooks: true takes its place)",
        ),
        (
            "  listen: 127.0.0.1:8080\n",
            "  listen: 0.0.0.0:80\n  allow_unsigned_webhooks: true\n",
            "5:28: server.allow_unsigned_webhooks: has no meaning beside webhook_secret: remove one of them",
        ),
        (
            "role: admin",
            "role: root",
            "7:25: server.tokens[0].role: expected `admin` or `viewer`, found `root`",
        ),
        (
            "name: ops",
            "name: 'o p s'",
            "7:14: server.tokens[0].name: expected a name of 1 to 32 letters, digits, `-`, `_`, `.` and `@`",
        ),
        (
            "ops-token-0123456789}",
            "ops-token-0123456789}\n    - {name: ops, role: viewer, token: ops-token-0123456789}",
            "8:7: server.tokens[1]: a token `ops` stands in line 7 already\n8:7: server.tokens[1]: is the same secret as the token in line 7: whose is it?",
        ),
    ]);
    let open = GOOD
        .replace("127.0.0.1:8080", "0.0.0.0:8080")
        .replace("webhook_secret: {file: webhook.secret}", "allow_unsigned_webhooks: true");
    assert_eq!(
        told(&open),
        "5:28: server.allow_unsigned_webhooks: is possible only where server.listen is a loopback address such as 127.0.0.1:8080"
    );
}

#[test]
fn services() {
    each(&[
        (
            "github:\n",
            "store: {kind: embeded}\ngithub:\n",
            "8:15: store.kind: unknown kind of store `embeded`; did you mean `embedded`?",
        ),
        (
            "github:\n",
            "store: {kind: embedded, url: x}\ngithub:\n",
            "8:25: store.url: unknown key `url`; known: kind, path",
        ),
        ("github:\n", "store: {path: ''}\ngithub:\n", "8:8: store.kind: is required, but missing"),
        (
            "token: {env: GITHUB_TOKEN}",
            "api_url: http://example.com",
            "9:3: github: expected one of app, apps and token, found none\n9:12: github.api_url: expected an https URL: plain http is for loopback hosts alone",
        ),
        (
            "token: {env: GITHUB_TOKEN}",
            "app: {id: 0, private_key: {env: SHORT}}",
            "9:13: github.app.id: expected a whole number from 1 to 18446744073709551615, found 0\n9:29: github.app.private_key: expected a private key in PEM, which begins with -----BEGIN",
        ),
        (
            "  token: {env: GITHUB_TOKEN}\n",
            "  token: x\n  app: {id: 1, private_key: {file: app.pem}}\n",
            "9:3: github: expected one of app, apps and token, found more than one",
        ),
        ("github:\n", "balance: fill\ngithub:\n", "8:10: balance: expected `pack` or `spread`, found `fill`"),
    ]);
}

#[cfg(feature = "redis")]
#[test]
fn a_redis_store() {
    let cases = [
        ("", "8:8: store.url: is required, but missing"),
        (
            ", url: 'http://hidden'",
            "8:27: store.url: expected a URL that begins with redis://, rediss:// (TLS), redis+sentinel:// or rediss+sentinel://",
        ),
        (
            ", url: {env: SHORT}",
            "8:27: store.url: expected a URL that begins with redis://, rediss:// (TLS), redis+sentinel:// or rediss+sentinel://",
        ),
        (", url: {env: NONE}", "8:33: store.url.env: environment variable `NONE` is not set"),
        (
            ", url: 'redis://ops@h'",
            "8:27: store.url: it names a user, but no password: write redis://USER:PASSWORD@HOST, or redis://:PASSWORD@HOST",
        ),
        (
            ", url: 'redis://h', user: ops",
            "8:8: store.password: is required, but missing: there is a user without one",
        ),
        (
            ", url: 'redis://a:hidden@h', user: b, password: c",
            "8:55: store.user: stands in the URL, too: remove one of them\n8:68: store.password: stands in the URL, too: remove one of them",
        ),
        (
            ", url: 'redis://h', ca: {file: ca.pem}",
            "8:44: store.ca: has no meaning without TLS: write rediss:// or rediss+sentinel:// in the URL",
        ),
        (
            ", url: 'rediss://h', ca: {file: empty}",
            "8:52: store.ca.file: file `/etc/rm/empty` has no certificate in PEM in it",
        ),
        (
            ", url: 'redis://h', prefix: rm",
            "8:48: store.prefix: expected a prefix with one part in braces, such as rm:{acme}, at most 128 visible characters",
        ),
        (
            ", url: 'redis://h', connect_timeout: 1ms",
            "8:57: store.connect_timeout: expected a duration from 100ms to 30s, found `1ms`",
        ),
        (
            ", url: 'redis://h', path: x",
            "8:40: store.path: unknown key `path`; known: kind, url, user, password, ca, prefix, connect_timeout, response_timeout",
        ),
    ];
    let cases = cases.map(|(rest, fault)| (format!("store: {{kind: redis{rest}}}\ngithub:\n"), fault));
    let cases: Vec<_> = cases.iter().map(|(to, fault)| ("github:\n", &**to, *fault)).collect();
    each(&cases);
    assert!(cases.iter().all(|(_, to, _)| !told(&spoilt("github:\n", to)).contains("hidden")));
}
