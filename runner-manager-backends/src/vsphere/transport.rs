//! The way to a vCenter: one SOAP request over HTTP, and its answer within bounds.
//!
//! It knows envelopes and faults, and nothing of what is asked or of sessions.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, COOKIE, HeaderName, HeaderValue, SET_COOKIE};
use reqwest::{Certificate, Client, Url};
use runner_manager_core::clock::{Clock, timeout};

use super::errors::{Failure, Fault};
use super::tls::{self, Thumbprint};
use super::xml::Element;
use crate::outgoing;

/// The most of an answer that is read: a page of a hundred machines with all their settings has 2 MB.
pub(super) const MOST_BYTES: usize = 16 << 20;

/// The version of the API that is asked for: the oldest that has all that we use. Newer vCenters answer as one
/// of it. <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/>
const SOAP_ACTION: HeaderValue = HeaderValue::from_static("urn:vim25/6.5");

const XML: HeaderValue = HeaderValue::from_static("text/xml; charset=utf-8");

/// Whom to believe that it is the vCenter.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// Whom the system believes.
    System,
    /// Whose certificate one of these signed.
    Authorities(Vec<Certificate>),
    /// Who has this certificate.
    Certificate(Thumbprint),
    /// Anybody.
    Anybody,
}

/// A vCenter, each call to which is bounded in time and size.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client,
    url: Url,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Transport {
    /// # Errors
    /// Why there can be no such client.
    pub(super) fn new(
        url: Url,
        trust: Trust,
        timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let builder = outgoing::client();
        let builder = match trust {
            Trust::System => builder,
            Trust::Authorities(authorities) => builder.tls_certs_only(authorities),
            Trust::Certificate(thumbprint) => {
                let config = tls::pinned(thumbprint).map_err(|error| error.to_string())?;
                builder.tls_backend_preconfigured(config)
            }
            Trust::Anybody => builder.tls_danger_accept_invalid_certs(true),
        };
        let client = builder.build().map_err(|error| format!("the client cannot be made: {error}"))?;
        Ok(Self { client, url, timeout, clock })
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Makes one call: sends the method's element and gives the answer's, such as `LoginResponse`, with the
    /// cookie that it sets.
    pub(super) async fn call(
        &self,
        method: &Element,
        cookie: Option<&HeaderValue>,
    ) -> Result<(Element, Option<HeaderValue>), Failure> {
        timeout(self.clock.as_ref(), self.timeout, self.exchange(method, cookie)).await?
    }

    async fn exchange(
        &self,
        method: &Element,
        cookie: Option<&HeaderValue>,
    ) -> Result<(Element, Option<HeaderValue>), Failure> {
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, XML)
            .header(HeaderName::from_static("soapaction"), SOAP_ACTION)
            .body(envelope(method));
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie.clone());
        }
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        let status = response.status().as_u16();
        let set = response.headers().get(SET_COOKIE).and_then(session_cookie);
        let body = outgoing::body(response, MOST_BYTES, Failure::Broken).await?;
        // A fault comes with 500, every other answer with 200.
        if !matches!(status, 200 | 500) {
            return Err(Failure::Status(status));
        }
        let answer = std::str::from_utf8(&body).map_err(|_| "it is not UTF-8".to_owned()).and_then(opened);
        match answer {
            Ok(answer) if answer.name == "Fault" => Err(Failure::Fault(Box::new(fault(answer)))),
            Ok(answer) if answer.name == format!("{}Response", method.name) => Ok((answer, set)),
            Ok(_) => Err(Failure::Broken("it answers another question".to_owned())),
            Err(_) if status == 500 => Err(Failure::Status(status)),
            Err(why) => Err(Failure::Broken(why)),
        }
    }
}

/// The request's whole body.
fn envelope(method: &Element) -> String {
    let mut inner = String::new();
    method.write(&mut inner);
    // The method and all in it are of the namespace `urn:vim25`.
    let name = &method.name;
    let inner = inner.replacen(&format!("<{name}>"), &format!("<{name} xmlns=\"urn:vim25\">"), 1);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\
         <soapenv:Body>{inner}</soapenv:Body></soapenv:Envelope>"
    )
}

/// What stands in an answer's envelope.
fn opened(document: &str) -> Result<Element, String> {
    let envelope = Element::read(document)?;
    if envelope.name != "Envelope" {
        return Err("it is no SOAP envelope".to_owned());
    }
    let body = envelope.into_children().into_iter().find(|child| child.name == "Body");
    let first = body.and_then(|body| body.into_children().into_iter().next());
    first.ok_or_else(|| "its envelope is empty".to_owned())
}

/// The fault of an answer. Its type is the `xsi:type` of what stands in `detail`, or that element's name
/// without `Fault` at its end.
fn fault(answer: Element) -> Fault {
    let message = answer.text_of("faultstring").unwrap_or_default().trim().to_owned();
    let detail = answer.into_children().into_iter().find(|child| child.name == "detail");
    let detail = detail.and_then(|detail| detail.into_children().into_iter().next()).unwrap_or_default();
    let name = detail.name.strip_suffix("Fault").unwrap_or(&detail.name);
    let kind = detail.kind.clone().unwrap_or_else(|| name.to_owned());
    let kind = if kind.is_empty() { "a fault without a type".to_owned() } else { kind };
    Fault { kind, message, detail }
}

/// `name=value` of a `Set-Cookie`, without where and how long it is good.
fn session_cookie(set: &HeaderValue) -> Option<HeaderValue> {
    let pair = set.to_str().ok()?.split(';').next()?;
    let mut cookie = HeaderValue::from_str(pair).ok()?;
    cookie.set_sensitive(true);
    Some(cookie)
}

#[cfg(test)]
mod tests {
    use super::{Element, envelope, fault, opened};

    #[test]
    fn a_method_is_put_into_an_envelope() {
        let method = Element::new("CurrentTime").with(Element::value("_this", "ServiceInstance"));
        let written = envelope(&method);
        assert!(
            written.contains("<CurrentTime xmlns=\"urn:vim25\"><_this>ServiceInstance</_this></CurrentTime>"),
            "{written}"
        );
        assert_eq!(opened(&written).unwrap(), method);
    }

    /// The first form is vcsim's, the second vCenter's.
    #[test]
    fn faults_are_told_by_type() {
        for (detail, kind) in [
            ("<Fault xmlns:t=\"x\" t:type=\"InvalidLogin\"></Fault>", "InvalidLogin"),
            ("<InvalidLoginFault xmlns=\"urn:vim25\" xsi:type=\"InvalidLogin\"/>", "InvalidLogin"),
            ("<NotAuthenticatedFault/>", "NotAuthenticated"),
            ("", "a fault without a type"),
        ] {
            let answer = format!(
                "<e:Envelope><e:Body><e:Fault><faultstring>No.</faultstring><detail>{detail}</detail>\
                 </e:Fault></e:Body></e:Envelope>"
            );
            let fault = fault(opened(&answer).unwrap());
            assert_eq!((fault.kind.as_str(), fault.message.as_str()), (kind, "No."));
        }
    }
}
