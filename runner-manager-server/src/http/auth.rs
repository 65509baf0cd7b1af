//! Who may ask: the bearer of a token of the configuration, or, where there are none, this machine alone.
//!
//! A token comes as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic, so that a browser can ask
//! for it. It never comes in an address, which logs and histories keep. Who has something done needs the role admin.

use std::net::SocketAddr;

use axum::Extension;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use runner_manager_core::config::{ApiToken, Role, Server};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::AppState;
use super::answer::Refusal;

const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"Runner Manager\", charset=\"UTF-8\"");

/// Who may ask.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    /// The bearers of these tokens.
    Tokens(Vec<ApiToken>),
    /// Whoever asks this machine under a name that only means itself.
    Local,
    /// Nobody: the server listens for others, and there is no token.
    Nobody,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name of the token, or `local`.
    pub(super) name: String,
    /// What it allows.
    pub(super) role: Role,
}

impl Access {
    /// What the configuration allows.
    pub(crate) fn new(server: &Server, listen: SocketAddr) -> Self {
        if !server.tokens.is_empty() {
            Self::Tokens(server.tokens.clone())
        } else if listen.ip().is_loopback() {
            Self::Local
        } else {
            Self::Nobody
        }
    }

    fn check(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        match self {
            Self::Tokens(tokens) => {
                let given = given(headers).ok_or_else(|| unauthorized("a token is needed"))?;
                bearer(tokens, &given).ok_or_else(|| unauthorized("the token is not known"))
            }
            Self::Local if names_this_machine(headers) => {
                Ok(Caller { name: "local".to_owned(), role: Role::Admin })
            }
            Self::Local => Err(forbidden(
                "without server.tokens in the configuration only http://127.0.0.1 and http://localhost answer here",
            )),
            Self::Nobody => Err(forbidden(
                "configure server.tokens: without them nobody may look while the server listens for other machines",
            )),
        }
    }
}

/// Lets a request through whose sender may ask.
pub(super) async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    match state.0.parts.access.check(request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) if refusal.status() == StatusCode::UNAUTHORIZED => {
            ([(WWW_AUTHENTICATE, CHALLENGE)], refusal).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets a request through whose sender, known to [`guard`], may have something done.
pub(super) async fn may_act(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    match caller.role {
        Role::Admin => next.run(request).await,
        Role::Viewer => {
            let name = &caller.name;
            forbidden(&format!("the token `{name}` may only look: use one with the role admin"))
                .into_response()
        }
    }
}

fn unauthorized(what: &str) -> Refusal {
    let reason =
        format!("{what}: send `Authorization: Bearer TOKEN`, or the token as the password of HTTP Basic");
    Refusal::new(StatusCode::UNAUTHORIZED, reason)
}

fn forbidden(reason: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, reason)
}

fn given(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = text(headers, AUTHORIZATION)?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(rest).ok())??;
    let (_, password) =
        String::from_utf8(decoded).ok()?.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned()))?;
    Some(password)
}

/// Whose token it is. Compares with every one, each in a time that does not depend on where they differ.
fn bearer(tokens: &[ApiToken], given: &str) -> Option<Caller> {
    let given = Sha256::digest(given.as_bytes());
    let compare =
        |token: &ApiToken| Sha256::digest(token.token.expose().as_bytes()).as_slice().ct_eq(given.as_slice());
    let same: Vec<Choice> = tokens.iter().map(compare).collect();
    let (token, _) = tokens.iter().zip(same).find(|(_, same)| bool::from(*same))?;
    Some(Caller { name: token.name.clone(), role: token.role })
}

/// A page of another site can make a browser ask this machine, but only under that site's own name.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, HOST) else { return false };
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || matches!(host, "127.0.0.1" | "[::1]")
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use http::header::{AUTHORIZATION, HOST};
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
    use runner_manager_core::config::{ApiToken, Role};
    use runner_manager_core::domain::Secret;

    use super::{Access, Caller};

    fn check(access: &Access, header: HeaderName, value: &str) -> Result<Caller, StatusCode> {
        let headers = HeaderMap::from_iter([(header, HeaderValue::from_str(value).unwrap())]);
        access.check(&headers).map_err(|refusal| refusal.status())
    }

    fn asks(access: &Access, header: HeaderName, value: &str) -> Option<StatusCode> {
        check(access, header, value).err()
    }

    #[test]
    fn a_token_is_its_bearer() {
        let token = |name: &str, role, token: &str| ApiToken {
            name: name.to_owned(),
            role,
            token: Secret::new(token),
        };
        let access = Access::Tokens(vec![
            token("ops", Role::Admin, "0123456789abcdef"),
            token("eye", Role::Viewer, "fedcba9876543210"),
        ]);
        let who = |value: &str| check(&access, AUTHORIZATION, value).unwrap();
        assert_eq!(who("Bearer 0123456789abcdef"), Caller { name: "ops".to_owned(), role: Role::Admin });
        assert_eq!(who("Bearer fedcba9876543210"), Caller { name: "eye".to_owned(), role: Role::Viewer });
        let local = check(&Access::Local, HOST, "localhost").unwrap();
        assert_eq!(local, Caller { name: "local".to_owned(), role: Role::Admin });
    }

    #[test]
    fn a_token_opens_and_nothing_else_does() {
        let token = |name: &str, token: &str| ApiToken {
            name: name.to_owned(),
            role: Role::Viewer,
            token: Secret::new(token),
        };
        let access = Access::Tokens(vec![token("ops", "0123456789abcdef"), token("b", "fedcba9876543210")]);
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        for opens in [
            "Bearer 0123456789abcdef".to_owned(),
            "bearer fedcba9876543210".to_owned(),
            basic("anybody:0123456789abcdef"),
        ] {
            assert_eq!(asks(&access, AUTHORIZATION, &opens), None, "{opens}");
        }
        for refused in [
            "Bearer 0123456789abcde".to_owned(),
            "Bearer ".to_owned(),
            "0123456789abcdef".to_owned(),
            "Digest 0123456789abcdef".to_owned(),
            "Basic !!!".to_owned(),
            basic("0123456789abcdef:"),
            basic("0123456789abcdef"),
        ] {
            assert_eq!(asks(&access, AUTHORIZATION, &refused), Some(StatusCode::UNAUTHORIZED), "{refused}");
        }
        assert_eq!(asks(&access, HOST, "localhost"), Some(StatusCode::UNAUTHORIZED));
    }

    #[test]
    fn without_tokens_only_this_machine_may_ask() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "[::1]:80", "[::1]"] {
            assert_eq!(asks(&Access::Local, HOST, host), None, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "10.0.0.1:80",
            "localhost.evil:1",
            "",
        ] {
            assert_eq!(asks(&Access::Local, HOST, host), Some(StatusCode::FORBIDDEN), "{host}");
        }
        assert_eq!(asks(&Access::Nobody, HOST, "localhost"), Some(StatusCode::FORBIDDEN));
    }
}
