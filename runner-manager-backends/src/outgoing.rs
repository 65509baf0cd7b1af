//! The HTTP clients of the backends that bring their own: what they all keep to, whomever they ask.
//!
//! It leaves alone whom to trust, how long to wait, and what is asked: those are each backend's.

use reqwest::{Client, ClientBuilder, Response, redirect};

/// A client that follows no redirection, which would lead a token or a password to another place, and asks by the
/// proxy that the environment names (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, but for the hosts of `NO_PROXY`; also in
/// lower case). The SDKs of clouds do the same: signing in and asking take one way.
pub(crate) fn client() -> ClientBuilder {
    Client::builder().redirect(redirect::Policy::none())
}

/// The body of an answer, read as far as `most` bytes.
///
/// # Errors
/// Where it breaks off; and the error that `broken` makes of one that is longer.
pub(crate) async fn body<E: From<reqwest::Error>>(
    mut response: Response,
    most: usize,
    broken: impl FnOnce(String) -> E,
) -> Result<Vec<u8>, E> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > most {
            return Err(broken(format!("it is longer than {} MiB", most >> 20)));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
