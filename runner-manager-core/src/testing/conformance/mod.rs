//! Conformance suites: one list of named cases a trait, the same for every implementation.
//!
//! A case has the name of the point of the trait's *Behaviour* section that it tests. An implementation that
//! cannot do something lists a [`Skip`] for it, which names what covers the case elsewhere; a case that is
//! skipped although it passes fails the run, so that the list stays true.

pub mod backend;
pub mod backend_kind;
pub mod budget;
pub mod clock;
pub mod github;
pub mod queue;
pub mod storage;
pub mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

type Body<S> = Box<dyn Fn(S) -> BoxFuture<'static, ()> + Send + Sync>;

/// One case: it takes a fresh subject, and panics where the subject does not behave.
pub struct Case<S> {
    /// The name of the point of *Behaviour*.
    pub name: &'static str,
    body: Body<S>,
}

impl<S> fmt::Debug for Case<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<S> Case<S> {
    /// A case of a name.
    pub fn new<F>(name: &'static str, body: impl Fn(S) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, body: Box::new(move |subject| body(subject).boxed()) }
    }
}

/// A case that an implementation cannot pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skip {
    /// The case.
    pub case: &'static str,
    /// Why, and what covers it elsewhere.
    pub because: &'static str,
}

/// What a run did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The cases that passed.
    pub passed: Vec<&'static str>,
    /// The cases that were skipped, and failed as their list says they would.
    pub skipped: Vec<&'static str>,
}

/// Runs all cases, each on a fresh subject.
///
/// # Panics
/// When a case fails, when a skipped one passes, and when a skip names no case.
pub async fn run<S, F>(cases: Vec<Case<S>>, skips: &[Skip], subject: impl Fn() -> F) -> Report
where
    F: Future<Output = S>,
{
    let mut report = Report::default();
    let mut wrong: Vec<String> = Vec::new();
    for skip in skips {
        if !cases.iter().any(|case| case.name == skip.case) {
            wrong.push(format!("{} is skipped, but there is no such case", skip.case));
        }
    }
    for case in &cases {
        let passed = AssertUnwindSafe((case.body)(subject().await)).catch_unwind().await.is_ok();
        match (passed, skips.iter().any(|skip| skip.case == case.name)) {
            (true, false) => report.passed.push(case.name),
            (false, true) => report.skipped.push(case.name),
            (true, true) => wrong.push(format!("{} is skipped, but passes", case.name)),
            (false, false) => wrong.push(format!("{} failed", case.name)),
        }
    }
    assert!(wrong.is_empty(), "conformance: {}", wrong.join("; "));
    report
}
