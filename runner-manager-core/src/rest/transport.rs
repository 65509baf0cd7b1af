//! The trait [`Transport`]: one HTTP request to GitHub's API, with the credentials of somebody.

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};

use crate::domain::Scope;

/// Whose credentials a request bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As<'a> {
    /// Those that work in a scope: the token, or the App's installation on the scope's owner.
    Scope(&'a Scope),
    /// The App's own, which may ask about the App and its installations, and nothing else.
    App,
}

/// The name of the call that a request belongs to, such as `find_runner`: on each request, as an extension, for
/// those who count or check what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallName(pub &'static str);

/// Why there is no answer to a request.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The request was certainly not sent.
    #[error("the request was not sent")]
    NotSent(#[source] Box<dyn Error + Send + Sync>),
    /// The request may have been sent, and may have had its effect.
    #[error("no answer came")]
    Unclear(#[source] Box<dyn Error + Send + Sync>),
    /// The answer was refused for its size. The request may have had its effect.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The largest that is taken.
        limit: usize,
    },
    /// The request was not sent, since GitHub refused the credentials for it with this answer: the App is
    /// not installed there, its installation is suspended, or it may not have a token now.
    #[error("GitHub gave App {app} no credentials for {account}: {}", .answer.status())]
    Refused {
        /// The App's number.
        app: u64,
        /// The account that it is, or should be, installed on.
        account: String,
        /// What GitHub said.
        answer: Box<Response<Bytes>>,
    },
    /// The request was not sent, since GitHub wants none of the App's own calls for a while.
    #[error("GitHub wants none of the calls of App {app} for {pause:?}")]
    Held {
        /// The App's number.
        app: u64,
        /// For how long.
        pause: Duration,
    },
    /// The request was not sent: [`As::App`] was asked of a transport that works with a token.
    #[error("there is no App: the credentials are a token")]
    NoApp,
}

/// Sends one HTTP request to GitHub's API. It knows nothing of what is asked.
///
/// The request's URI is a path with its query relative to the API's root, such as
/// `/orgs/acme/actions/runners?per_page=100`; its body is JSON or empty. The transport adds what all requests
/// have: address, credentials, user agent. It bounds the wait and the answer's size, follows no redirect
/// except of a GET, and never sends a request twice unless the first one certainly had no effect.
#[async_trait]
pub trait Transport: Debug + Send + Sync + 'static {
    /// Sends a request and returns the whole answer, whatever its status.
    ///
    /// # Errors
    /// [`TransportError`] when there is no answer to this request.
    async fn send(&self, who: As<'_>, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError>;

    /// The number of the App that it works as. None where it has a token: then [`As::App`] is
    /// [`TransportError::NoApp`].
    fn app(&self) -> Option<u64> {
        None
    }

    /// Names whom GitHub counts a call for: its host, and the App with the account that it is installed on, or
    /// the token by a fingerprint. Equal wherever the same is used, in this process or another one, since the
    /// calls of one account share a budget. No secret.
    fn account(&self, who: As<'_>) -> String;
}
