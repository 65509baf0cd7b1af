//! What sweeps left as it is, and what operators said to that.

use jiff::Timestamp;
use runner_manager_core::domain::{self, WithheldBecause};
use runner_manager_core::manager::DeploymentStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Time;

/// The sweeps, where they left something.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Sweeps {
    /// Whether the sweeps of the replica that answers only say what they would do.
    pub(crate) dry_run: bool,
    /// What the last sweeps found and left as it is.
    pub(crate) withheld: Vec<Withheld>,
    /// The words of operators by which sweeps went on, the last first.
    pub(crate) go_ons: Vec<GoOn>,
}

/// What the last sweep of a backend or a scope found and left as it is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Withheld {
    /// The backend by its name, or the scope such as `organization:acme`.
    pub(crate) source: String,
    /// `too_much`: it stopped, and asks an operator; `dry_run`: it only says what it would do.
    pub(crate) because: WithheldBecause,
    /// Since when sweeps of it leave something for that reason.
    #[schemars(with = "Time")]
    pub(crate) since: Timestamp,
    /// How many things it found.
    pub(crate) count: usize,
    /// How many it looked at.
    pub(crate) looked_at: usize,
    /// What tells these findings from others: to be named when the sweep is to go on with them.
    pub(crate) mark: String,
    /// The things it found, the first thousand of them; in `deployment` and `status` the first five.
    pub(crate) findings: Vec<Finding>,
}

/// One thing that a sweep would do something about.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Finding {
    /// `missing`, `orphan`, `double`, `registration`, `adoption` or `leaving`.
    pub(crate) kind: String,
    /// The runner's name.
    pub(crate) runner: String,
    /// The instance, where it is about one.
    pub(crate) instance: Option<String>,
    /// What would be done, in words.
    pub(crate) would: String,
}

/// An operator said that what a sweep stopped at may be dealt with.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct GoOn {
    /// The backend by its name, or the scope such as `organization:acme`.
    pub(crate) source: String,
    /// Who said so: the name of a token, or `local`.
    pub(crate) by: String,
    /// When.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
    /// How many findings were named.
    pub(crate) count: usize,
    /// How many of them are not dealt with yet.
    pub(crate) left: usize,
}

impl Sweeps {
    /// All that is left, each with at most so many findings.
    pub(crate) fn new(status: &DeploymentStatus, most_findings: usize) -> Self {
        Self {
            dry_run: status.sweep_dry_run,
            withheld: status.withheld.iter().map(|withheld| Withheld::new(withheld, most_findings)).collect(),
            go_ons: status.go_ons.iter().map(GoOn::from).collect(),
        }
    }

    /// What people should know about them. Whoever may not ask sees it too: it names no runner.
    pub(super) fn remarks(&self) -> impl Iterator<Item = String> {
        let dry = self.dry_run.then(|| {
            "sweep_dry_run: the sweeps of this replica say what they would do, and do nothing of it"
                .to_owned()
        });
        dry.into_iter().chain(self.withheld.iter().map(Withheld::remark))
    }
}

impl Withheld {
    fn new(withheld: &domain::Withheld, most_findings: usize) -> Self {
        Self {
            source: withheld.source.word(),
            because: withheld.because,
            since: withheld.since,
            count: withheld.count,
            looked_at: withheld.looked_at,
            mark: withheld.mark(),
            findings: withheld.findings.iter().take(most_findings).map(Finding::from).collect(),
        }
    }

    /// What it found, in a sentence.
    pub(crate) fn remark(&self) -> String {
        let Self { source, count, looked_at, since, .. } = self;
        match self.because {
            WithheldBecause::TooMuch => format!(
                "the sweep of {source} stopped: it would condemn {count} of {looked_at} (since {since:.0}); \
                 `runner-manager sweep show` names them"
            ),
            WithheldBecause::DryRun => format!(
                "the sweep of {source} would do something about {count} of {looked_at}, but for sweep_dry_run; \
                 `runner-manager sweep show` names them"
            ),
        }
    }
}

impl From<&domain::Finding> for Finding {
    fn from(finding: &domain::Finding) -> Self {
        use domain::Finding as Found;
        let (kind, runner, instance) = match finding {
            Found::Missing(runner) => ("missing", runner, None),
            Found::Orphan(runner, instance) => ("orphan", runner, Some(instance)),
            Found::Double(runner, instance) => ("double", runner, Some(instance)),
            Found::Registration(runner) => ("registration", runner, None),
            Found::Adoption(runner, instance) => ("adoption", runner, Some(instance)),
            Found::Leaving(runner) => ("leaving", runner, None),
        };
        Self {
            kind: kind.to_owned(),
            runner: runner.to_string(),
            instance: instance.map(ToString::to_string),
            would: finding.to_string(),
        }
    }
}

impl From<&domain::GoOn> for GoOn {
    fn from(go_on: &domain::GoOn) -> Self {
        Self {
            source: go_on.source.word(),
            by: go_on.by.clone(),
            at: go_on.at,
            count: go_on.count,
            left: go_on.left.len(),
        }
    }
}
