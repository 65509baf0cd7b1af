//! Base URLs: where a service is reached, without a slash at the end.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

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
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{BaseUrl, BaseUrlError};

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
}
