//! A session at a vCenter: signs in at the first call, and again whenever vCenter has forgotten the session.
//!
//! vCenter ends a session that was idle for half an hour. Nothing has to keep it alive: a call that is refused
//! with `NotAuthenticated` had no effect, and is made once more after a new login.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::Secret;
use tokio::sync::Mutex;

use super::errors::Failure;
use super::transport::Transport;
use super::xml::{Element, Reference};

/// Who signs in.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: Secret,
}

/// A vCenter to which calls can be made.
#[derive(Debug)]
pub(super) struct Session {
    transport: Transport,
    credentials: Credentials,
    /// Held while somebody signs in, so that all who need it then wait for one login.
    login: Mutex<Option<Arc<Login>>>,
}

/// What a login gave.
#[derive(Debug)]
struct Login {
    cookie: Option<HeaderValue>,
    content: Element,
}

impl Session {
    pub(super) fn new(transport: Transport, credentials: Credentials) -> Self {
        Self { transport, credentials, login: Mutex::new(None) }
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.transport.clock()
    }

    /// How long one call may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.transport.timeout()
    }

    /// One of vCenter's own objects, by its name in the `ServiceContent`, such as `searchIndex`.
    /// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.ServiceInstanceContent.html>
    pub(super) async fn service(&self, name: &str) -> Result<Reference, Failure> {
        let login = self.signed_in(None).await?;
        let object = login.content.child(name).and_then(Reference::read);
        object.ok_or_else(|| Failure::Unfit(format!("this server has no {name}: is it a vCenter?")))
    }

    /// Makes a call, and gives what stands in its `returnval`s.
    pub(super) async fn call(&self, method: &Element) -> Result<Vec<Element>, Failure> {
        let login = self.signed_in(None).await?;
        let answer = match self.transport.call(method, login.cookie.as_ref()).await {
            Err(failure) if failure.is("NotAuthenticated") => {
                let login = self.signed_in(Some(&login)).await?;
                self.transport.call(method, login.cookie.as_ref()).await?
            }
            other => other?,
        };
        Ok(answer.0.into_children().into_iter().filter(|child| child.name == "returnval").collect())
    }

    /// The login that holds; a new one where there is none yet, or only the `forgotten` one.
    async fn signed_in(&self, forgotten: Option<&Arc<Login>>) -> Result<Arc<Login>, Failure> {
        let mut held = self.login.lock().await;
        match &*held {
            Some(login) if !forgotten.is_some_and(|forgotten| Arc::ptr_eq(forgotten, login)) => {
                Ok(Arc::clone(login))
            }
            _ => {
                *held = None;
                let login = Arc::new(self.sign_in().await?);
                *held = Some(Arc::clone(&login));
                Ok(login)
            }
        }
    }

    /// `RetrieveServiceContent`, which needs no session and tells where all else is, and `Login`.
    /// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.ServiceInstance.html#retrieveContent>
    /// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.SessionManager.html#login>
    async fn sign_in(&self) -> Result<Login, Failure> {
        let instance = Reference::new("ServiceInstance", "ServiceInstance");
        let retrieve = Element::new("RetrieveServiceContent").with(instance.element("_this"));
        let (answer, first) = self.transport.call(&retrieve, None).await?;
        let content = answer.into_children().into_iter().find(|child| child.name == "returnval");
        let content = content.ok_or_else(|| Failure::Broken("it has no service content".to_owned()))?;
        let manager = content.child("sessionManager").and_then(Reference::read);
        let manager = manager.ok_or_else(|| Failure::Broken("it has no session manager".to_owned()))?;
        let login = Element::new("Login")
            .with(manager.element("_this"))
            .with(Element::value("userName", &self.credentials.username))
            .with(Element::value("password", self.credentials.password.expose()));
        let (_, cookie) = self.transport.call(&login, first.as_ref()).await?;
        Ok(Login { cookie: cookie.or(first), content })
    }
}
