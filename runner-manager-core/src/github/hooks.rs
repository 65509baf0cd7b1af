//! Hooks: what GitHub sends webhooks by.

pub use crate::domain::JOB_EVENT;
use crate::domain::{Scope, Secret};

/// Which hook is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// A hook of an organization or repository, by GitHub's number.
    Of(Scope, u64),
    /// The App's own.
    App,
}

/// What a hook is to be. That it is active, speaks JSON, asks for a good certificate and tells of
/// [`JOB_EVENT`] alone goes without saying.
#[derive(Debug, Clone)]
pub struct HookSpec {
    /// Where its webhooks go.
    pub url: String,
    /// What they are signed with; none for no signature.
    pub secret: Option<Secret>,
}

/// A hook as GitHub has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own at GitHub")]
pub struct RegisteredHook {
    /// Which one it is.
    pub hook: Hook,
    /// Where its webhooks go.
    pub url: String,
    /// The events that it tells of; `*` stands for all.
    pub events: Vec<String>,
    /// Whether it sends anything. Of the App's own GitHub does not say, and it is taken for active.
    pub is_active: bool,
    /// Whether what it sends is JSON.
    pub is_json: bool,
    /// Whether it sends to whoever answers, whatever their certificate.
    pub is_insecure: bool,
    /// Whether what it sends is signed. With what GitHub does not show.
    pub is_signed: bool,
}

impl RegisteredHook {
    /// Whether its webhooks go to an address. A slash at the end makes no other one of it.
    pub fn goes_to(&self, url: &str) -> bool {
        self.url.trim_end_matches('/') == url.trim_end_matches('/')
    }

    /// Whether it tells of jobs.
    pub fn tells_of_jobs(&self) -> bool {
        self.events.iter().any(|event| event == JOB_EVENT || event == "*")
    }

    /// What keeps us from its webhooks, or makes them less safe, one sentence each.
    pub fn faults(&self) -> Vec<&'static str> {
        let faults = [
            (!self.is_active, "it is switched off"),
            (!self.tells_of_jobs(), "it does not tell of the event `workflow_job`"),
            (!self.is_json, "it does not send JSON"),
            (self.is_insecure, "it does not look at the receiver's certificate"),
            (!self.is_signed, "it has no secret"),
        ];
        faults.into_iter().filter(|(is_so, _)| *is_so).map(|(_, fault)| fault).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Hook, RegisteredHook};

    fn hook() -> RegisteredHook {
        RegisteredHook {
            hook: Hook::App,
            url: "https://rm.example.com/webhook".into(),
            events: vec!["workflow_job".into()],
            is_active: true,
            is_json: true,
            is_insecure: false,
            is_signed: true,
        }
    }

    #[test]
    fn an_address_is_the_same_with_a_slash_at_its_end() {
        for (url, same) in [
            ("https://rm.example.com/webhook", true),
            ("https://rm.example.com/webhook/", true),
            ("https://rm.example.com/webhooks", false),
            ("https://rm.example.com", false),
        ] {
            assert_eq!(hook().goes_to(url), same, "{url}");
        }
    }

    #[test]
    fn every_fault_is_told() {
        assert_eq!(hook().faults(), Vec::<&str>::new());
        let all = RegisteredHook { events: vec!["*".into()], ..hook() };
        assert_eq!(all.faults(), Vec::<&str>::new());
        let wrong = RegisteredHook {
            events: vec!["push".into()],
            is_active: false,
            is_json: false,
            is_insecure: true,
            is_signed: false,
            ..hook()
        };
        assert_eq!(wrong.faults().len(), 5);
    }
}
