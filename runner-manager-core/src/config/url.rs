//! URLs: where a service is reached, which of them is GitHub's API, and proxies.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::uri::Authority;

use crate::domain::Secret;

/// An `https` URL (plain `http` for loopback hosts alone) with neither user, query nor a slash at the end.
///
/// ```
/// use runner_manager_core::config::BaseUrl;
///
/// assert_eq!(BaseUrl::new("https://ghe.example.com/api/v3/")?.as_str(), "https://ghe.example.com/api/v3");
/// assert!(BaseUrl::new("http://127.0.0.1:8080").is_ok());
/// assert!(BaseUrl::new("http://example.com").is_err());
/// # Ok::<(), runner_manager_core::config::BaseUrlError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(String);

/// Why a text is not a base URL. Does not repeat the text, which may have a password in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// It has no scheme and host, or is no URL at all.
    #[error("expected a URL such as https://example.com")]
    NotAUrl,
    /// Its scheme is neither `https` nor `http`.
    #[error("expected an https URL")]
    Scheme,
    /// Plain `http` to a host that is not this machine: secrets would travel in clear.
    #[error("expected an https URL: plain http is for loopback hosts alone")]
    PlainHttp,
    /// It has a user, a password, a query or a fragment.
    #[error("expected a URL without user, query and fragment")]
    Extra,
}

impl BaseUrl {
    /// The URL of something below it. The path begins with a slash and ends without.
    pub(super) fn join(&self, path: &str) -> Self {
        Self(format!("{}{path}", self.0))
    }

    /// Checks a text and takes it as a base URL.
    ///
    /// # Errors
    /// [`BaseUrlError`] when it is none.
    pub fn new(text: &str) -> Result<Self, BaseUrlError> {
        let uri: Uri = text.parse().map_err(|_| BaseUrlError::NotAUrl)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(BaseUrlError::NotAUrl);
        };
        if authority.host().is_empty() {
            return Err(BaseUrlError::NotAUrl);
        }
        if authority.as_str().contains('@') || text.contains(['?', '#']) {
            return Err(BaseUrlError::Extra);
        }
        match scheme {
            "https" => {}
            "http" if is_loopback(authority.host()) => {}
            "http" => return Err(BaseUrlError::PlainHttp),
            _ => return Err(BaseUrlError::Scheme),
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// The URL, without a slash at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, in lower case, with its port where it has one.
    pub fn authority(&self) -> String {
        self.parts().0.to_ascii_lowercase()
    }

    /// The host with its port, and the path behind it.
    fn parts(&self) -> (&str, &str) {
        let behind = self.0.split_once("://").map_or(&*self.0, |(_, rest)| rest);
        behind.find('/').map_or((behind, ""), |at| behind.split_at(at))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A URL of GitHub's REST API. A web address is refused, with the API's address that belongs to it. On a loopback
/// host anything may stand in for GitHub.
pub(super) fn api_url(text: &str) -> Result<BaseUrl, String> {
    let url = BaseUrl::new(text).map_err(|error| error.to_string())?;
    let authority = url.authority();
    let host = authority.rsplit_once(':').map_or(&*authority, |(host, _)| host);
    let path = url.parts().1;
    let right = match host {
        _ if is_loopback(host) => return Ok(url),
        "github.com" | "www.github.com" | "api.github.com" => "https://api.github.com".to_owned(),
        _ => match host.strip_suffix(".ghe.com") {
            Some(name) => {
                let name = name.rsplit('.').next().unwrap_or(name);
                format!("https://api.{name}.ghe.com")
            }
            None if host == "ghe.com" => "https://api.SUBDOMAIN.ghe.com".to_owned(),
            None => format!("https://{authority}/api/v3"),
        },
    };
    if right == format!("https://{authority}{path}") {
        return Ok(url);
    }
    let owner = path.split('/').nth(1).filter(|owner| !owner.is_empty() && *owner != "api");
    let hint = owner.map_or("", |_| "; whose runners they are stands in the groups");
    Err(format!("expected the address of GitHub's API, which is {right} there{hint}"))
}

/// A proxy that leads to GitHub by HTTP `CONNECT`.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// `http://HOST:PORT`, or `https://HOST:PORT` where TLS leads to the proxy, too; without a slash at the end.
    pub url: String,
    /// The user and the password that it asks for.
    pub login: Option<(String, Secret)>,
}

/// Why a text is not the URL of a proxy. Does not repeat the text, which may have a password in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the URL of an HTTP proxy such as http://proxy.example.com:3128 or http://USER:PASSWORD@HOST:PORT"
)]
pub struct ProxyError;

impl Proxy {
    /// Takes a URL, which may have a user and a password in it, with `%XX` for their odd characters.
    ///
    /// # Errors
    /// [`ProxyError`] when it is none.
    pub fn new(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(ProxyError)?;
        if !matches!(scheme, "http" | "https") {
            return Err(ProxyError);
        }
        // No host has an @, so a password may.
        let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(of, place)| (Some(of), place));
        let place: Authority = place.trim_end_matches('/').parse().map_err(|_| ProxyError)?;
        if place.host().is_empty() {
            return Err(ProxyError);
        }
        let login = login.map(user_and_password).transpose()?;
        Ok(Self { url: format!("{scheme}://{place}"), login })
    }
}

fn user_and_password(text: &str) -> Result<(String, Secret), ProxyError> {
    let (user, password) = text.split_once(':').ok_or(ProxyError)?;
    let plain = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded.map(String::from).map_err(|_| ProxyError)
    };
    Ok((plain(user)?, Secret::new(plain(password)?)))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{BaseUrl, BaseUrlError, Proxy, api_url};

    #[test]
    fn tells_urls_apart() {
        let refusal = |text| BaseUrl::new(text).unwrap_err();
        for text in ["", "example.com", "/a/b", "https://", "not a url"] {
            assert_eq!(refusal(text), BaseUrlError::NotAUrl, "{text}");
        }
        assert_eq!(refusal("ftp://example.com"), BaseUrlError::Scheme);
        assert_eq!(refusal("http://example.com"), BaseUrlError::PlainHttp);
        assert_eq!(refusal("http://127.0.0.1.example.com"), BaseUrlError::PlainHttp);
        for text in ["https://a:b@example.com", "https://example.com/?x", "https://example.com/#x"] {
            assert_eq!(refusal(text), BaseUrlError::Extra, "{text}");
        }
        for text in ["http://localhost:1", "http://[::1]:1", "http://127.8.8.8/x", "https://example.com"] {
            assert_eq!(BaseUrl::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn the_api_is_told_from_the_web() {
        for text in [
            "https://api.github.com",
            "https://api.github.com/",
            "https://api.acme.ghe.com",
            "https://github.example.com/api/v3",
            "https://github.example.com:8443/api/v3/",
            "http://127.0.0.1:8080",
            "http://localhost:1/anything",
        ] {
            assert_eq!(api_url(text).unwrap().as_str(), text.trim_end_matches('/'));
        }
        for (text, right) in [
            ("https://github.com", "which is https://api.github.com there"),
            ("https://github.com/acme", "https://api.github.com there; whose runners they are"),
            ("https://GitHub.com/acme/app", "https://api.github.com there; whose runners they are"),
            ("https://api.github.com/orgs/acme", "https://api.github.com there"),
            ("https://api.github.com/api/v3", "https://api.github.com there"),
            ("https://acme.ghe.com", "https://api.acme.ghe.com there"),
            ("https://acme.ghe.com/api/v3", "https://api.acme.ghe.com there"),
            ("https://ghe.com", "https://api.SUBDOMAIN.ghe.com there"),
            ("https://github.example.com", "https://github.example.com/api/v3 there"),
            ("https://github.example.com/acme", "https://github.example.com/api/v3 there; whose"),
            ("https://github.example.com:8443/api", "https://github.example.com:8443/api/v3 there"),
            ("http://github.example.com/api/v3", "plain http is for loopback hosts alone"),
        ] {
            let error = api_url(text).unwrap_err();
            assert!(error.contains(right), "{text}: {error}");
        }
    }

    #[test]
    fn proxies() {
        let login = |text| {
            let login = Proxy::new(text).unwrap().login;
            login.map(|(user, password)| (user, password.expose().to_owned()))
        };
        assert_eq!(Proxy::new("http://proxy:3128/").unwrap().url, "http://proxy:3128");
        assert_eq!(login("https://proxy:3128"), None);
        assert_eq!(login("http://ann:p%40ss%3A1@h:1"), Some(("ann".to_owned(), "p@ss:1".to_owned())));
        assert_eq!(login("http://ann:a@b@h:1"), Some(("ann".to_owned(), "a@b".to_owned())));
        for text in
            ["", "proxy:3128", "socks5://h:1", "http://", "http://h:1/x", "http://h:1?x", "http://ann@h:1"]
        {
            assert!(Proxy::new(text).is_err(), "{text}");
        }
    }
}
