//! `server`: where the manager listens, and who may talk to it.

use std::net::{Ipv4Addr, SocketAddr};

use super::MIN_SECRET_LENGTH;
use super::cursor::{Cursor, Fields, all};
use super::environment::{Environment, certificates, secret};
use super::url::BaseUrl;
use crate::domain::Secret;

pub(super) const KEYS: [&str; 8] = [
    "listen",
    "public_url",
    "webhook_url",
    "bootstrap_url",
    "bootstrap_ca",
    "webhook_secret",
    "allow_unsigned_webhooks",
    "tokens",
];
pub(super) const TOKEN_KEYS: [&str; 3] = ["name", "role", "token"];
pub(super) const ROLES: [(&str, Role); 2] = [("admin", Role::Admin), ("viewer", Role::Viewer)];

/// How many secrets webhooks may be signed with: a new one, and the one whose place it takes.
pub(super) const MAX_WEBHOOK_SECRETS: usize = 2;

/// Where the server takes webhooks in.
const WEBHOOK_PATH: &str = "/webhook";

/// The longest name of a token, in characters.
const MAX_TOKEN_NAME: usize = 32;

/// Where the manager listens, and who may talk to it.
#[derive(Debug, Clone)]
pub struct Server {
    /// The address of the HTTP server. Default [`Server::DEFAULT_LISTEN`].
    pub listen: SocketAddr,
    /// How GitHub and people reach it from outside. Default none.
    pub public_url: Option<BaseUrl>,
    /// Where GitHub sends webhooks. Default `/webhook` below `public_url`, and none without one.
    pub webhook_url: Option<BaseUrl>,
    /// Where machines reach the manager. Default `public_url`, and none without one: then machines are given their JIT
    /// config in their user data.
    pub bootstrap_url: Option<BaseUrl>,
    /// The certificates in PEM that sign the manager's there. Default those of the machines' own systems.
    pub bootstrap_ca: Option<String>,
    /// How webhooks prove that they come from GitHub.
    pub webhooks: Webhooks,
    /// Who may use the API. Default nobody.
    pub tokens: Vec<ApiToken>,
}

impl Server {
    /// Port 8080 of this machine alone: a server that others reach is a decision.
    pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
}

/// How webhooks prove that they come from GitHub.
#[derive(Debug, Clone)]
pub enum Webhooks {
    /// By a signature with one of these secrets.
    Signed(WebhookSecrets),
    /// Not at all: possible on a loopback address alone, where the user wrote
    /// `allow_unsigned_webhooks: true`.
    Unsigned,
}

/// What webhooks may be signed with. Two secrets serve while one takes the place of the other.
#[derive(Debug, Clone)]
pub struct WebhookSecrets {
    /// The one that hooks are to have.
    pub present: Secret,
    /// The one that they had, and that is still taken. Default none.
    pub former: Option<Secret>,
}

impl WebhookSecrets {
    /// All that are taken, the present one first.
    pub fn iter(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.present).chain(&self.former)
    }
}

impl From<Secret> for WebhookSecrets {
    fn from(present: Secret) -> Self {
        Self { present, former: None }
    }
}

/// What the bearer of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Look, and act: drain, resume, retire.
    Admin,
    /// Look.
    Viewer,
}

/// A token of the API.
#[derive(Debug, Clone)]
pub struct ApiToken {
    /// Who acts, for the log.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// The token itself.
    pub token: Secret,
}

pub(super) fn read(at: &Cursor<'_>, environment: &dyn Environment) -> Option<Server> {
    let fields = at.known_fields(&KEYS)?;
    let listen = fields.or("listen", Server::DEFAULT_LISTEN, listen);
    let public_url = fields.or("public_url", None, |at| at.parsed(BaseUrl::new).map(Some));
    let webhook_url = fields.or("webhook_url", None, |at| at.parsed(BaseUrl::new).map(Some));
    let bootstrap_url = fields.or("bootstrap_url", None, |at| at.parsed(BaseUrl::new).map(Some));
    let bootstrap_ca = fields.or("bootstrap_ca", None, |at| certificates(at, environment).map(Some));
    let webhooks = webhooks(&fields, listen, environment);
    let tokens = fields.or("tokens", Vec::new(), |at| tokens(at, environment));
    let public_url = public_url?;
    let below = public_url.as_ref().map(|url| url.join(WEBHOOK_PATH));
    let webhook_url = webhook_url?.or(below);
    let bootstrap_url = bootstrap_url?.or_else(|| public_url.clone());
    if let (Some(at), None) = (fields.optional("bootstrap_ca"), &bootstrap_url) {
        at.fault("has no meaning without bootstrap_url or public_url");
        return None;
    }
    Some(Server {
        listen: listen?,
        public_url,
        webhook_url,
        bootstrap_url,
        bootstrap_ca: bootstrap_ca?,
        webhooks: webhooks?,
        tokens: tokens?,
    })
}

fn listen(at: &Cursor<'_>) -> Option<SocketAddr> {
    at.parsed(|text| {
        let refusal = |_| format!("expected an IP address and a port such as 0.0.0.0:8080, found `{text}`");
        text.parse().map_err(refusal)
    })
}

/// `listen` is none where it could not be read.
fn webhooks(
    fields: &Fields<'_>,
    listen: Option<SocketAddr>,
    environment: &dyn Environment,
) -> Option<Webhooks> {
    let unsigned = match fields.optional("allow_unsigned_webhooks") {
        Some(at) => at.flag()?.then_some(at),
        None => None,
    };
    match (fields.optional("webhook_secret"), unsigned) {
        (Some(at), unsigned) => {
            if let Some(unsigned) = unsigned {
                unsigned.fault("has no meaning beside webhook_secret: remove one of them");
            }
            webhook_secrets(at, environment).map(Webhooks::Signed)
        }
        (None, Some(unsigned)) => {
            if listen.is_some_and(|listen| !listen.ip().is_loopback()) {
                unsigned.fault(
                    "is possible only where server.listen is a loopback address such as 127.0.0.1:8080",
                );
            }
            Some(Webhooks::Unsigned)
        }
        (None, None) => {
            fields.missing(
                "webhook_secret",
                "is required, but missing: without it anybody could send webhooks (on a loopback address \
                 allow_unsigned_webhooks: true takes its place)",
            );
            None
        }
    }
}

/// One secret, or a list of one or two.
fn webhook_secrets(at: &Cursor<'_>, environment: &dyn Environment) -> Option<WebhookSecrets> {
    if !at.is_list() {
        return secret(at, environment, MIN_SECRET_LENGTH).map(WebhookSecrets::from);
    }
    let items = at.items()?;
    if items.is_empty() || items.len() > MAX_WEBHOOK_SECRETS {
        at.fault(format!(
            "expected a secret, or the new one and the one before it, found a list of {}",
            items.len()
        ));
        return None;
    }
    let mut read = all(items.iter().map(|item| secret(item, environment, MIN_SECRET_LENGTH)))?.into_iter();
    let (present, former) = (read.next()?, read.next());
    if let Some(former) = &former
        && former.expose() == present.expose()
    {
        items[1].fault("is the same secret as the first one: name it once");
        return None;
    }
    Some(WebhookSecrets { present, former })
}

fn tokens(at: &Cursor<'_>, environment: &dyn Environment) -> Option<Vec<ApiToken>> {
    let items = at.items()?;
    let read = items.iter().map(|item| token(item, environment)).collect::<Vec<_>>();
    for (at, item) in items.iter().enumerate() {
        let Some(token) = &read[at] else { continue };
        for (earlier, other) in read[..at].iter().enumerate() {
            let Some(other) = other else { continue };
            let line = items[earlier].line();
            if other.name == token.name {
                item.fault(format!("a token `{}` stands in line {line} already", token.name));
            }
            if other.token.expose() == token.token.expose() {
                item.fault(format!("is the same secret as the token in line {line}: whose is it?"));
            }
        }
    }
    all(read)
}

fn token(at: &Cursor<'_>, environment: &dyn Environment) -> Option<ApiToken> {
    let fields = at.known_fields(&TOKEN_KEYS)?;
    let name = fields.required("name").and_then(|at| at.parsed(token_name));
    let role = fields.required("role").and_then(|at| at.word(&ROLES));
    let token = fields.required("token").and_then(|at| secret(at, environment, MIN_SECRET_LENGTH));
    Some(ApiToken { name: name?, role: role?, token: token? })
}

fn token_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if !text.is_empty() && text.len() <= MAX_TOKEN_NAME && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected a name of 1 to {MAX_TOKEN_NAME} letters, digits, `-`, `_`, `.` and `@`"))
    }
}
