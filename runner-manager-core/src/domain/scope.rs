//! Scopes: where at GitHub runners register, and which repositories they serve.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A repository by its full name, `owner/name`. Compared without case, as GitHub does; printed as written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository {
    owner: String,
    name: String,
}

/// Why a text is not the full name of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a repository: write it as owner/name")]
pub struct RepositoryError(String);

impl Repository {
    /// The account that the repository belongs to: a user or an organization.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository's name without its owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn folded(&self) -> (String, String) {
        (self.owner.to_ascii_lowercase(), self.name.to_ascii_lowercase())
    }
}

fn is_path_segment(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 100 && text.chars().all(allowed) && text != "." && text != ".."
}

impl FromStr for Repository {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        match text.split_once('/') {
            Some((owner, name)) if is_path_segment(owner) && is_path_segment(name) => {
                Ok(Self { owner: owner.to_owned(), name: name.to_owned() })
            }
            _ => Err(RepositoryError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Repository {
    type Error = RepositoryError;

    fn try_from(text: String) -> Result<Self, RepositoryError> {
        text.parse()
    }
}

impl From<Repository> for String {
    fn from(repository: Repository) -> Self {
        repository.to_string()
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl PartialEq for Repository {
    fn eq(&self, other: &Self) -> bool {
        self.owner.eq_ignore_ascii_case(&other.owner) && self.name.eq_ignore_ascii_case(&other.name)
    }
}

impl Eq for Repository {}

impl PartialOrd for Repository {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Repository {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.folded().cmp(&other.folded())
    }
}

/// Where runners register, which is also whose jobs they can take.
///
/// As text: `organization:acme`, `repository:acme/app`, `enterprise:acme-inc`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// All repositories of an organization. The name in lower case.
    Organization(String),
    /// One repository.
    Repository(Repository),
    /// All organizations of an enterprise. Its slug in lower case.
    Enterprise(String),
}

impl Scope {
    /// The scope of an organization; `None` where the text cannot be an organization's name.
    pub fn organization(name: &str) -> Option<Self> {
        is_path_segment(name).then(|| Self::Organization(name.to_ascii_lowercase()))
    }

    /// The scope of an enterprise; `None` where the text cannot be an enterprise's slug.
    pub fn enterprise(slug: &str) -> Option<Self> {
        is_path_segment(slug).then(|| Self::Enterprise(slug.to_ascii_lowercase()))
    }

    /// Whether a runner registered here can take a job of `repository`, which belongs to `enterprise` where
    /// GitHub said so.
    pub fn covers(&self, repository: &Repository, enterprise: Option<&str>) -> bool {
        match self {
            Self::Organization(name) => repository.owner().eq_ignore_ascii_case(name),
            Self::Repository(own) => own == repository,
            Self::Enterprise(slug) => enterprise.is_some_and(|named| named.eq_ignore_ascii_case(slug)),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Organization(name) => write!(f, "organization:{name}"),
            Self::Repository(repository) => write!(f, "repository:{repository}"),
            Self::Enterprise(slug) => write!(f, "enterprise:{slug}"),
        }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl TryFrom<String> for Scope {
    type Error = RepositoryError;

    fn try_from(text: String) -> Result<Self, RepositoryError> {
        let scope = match text.split_once(':') {
            Some(("organization", name)) => Self::organization(name),
            Some(("enterprise", slug)) => Self::enterprise(slug),
            Some(("repository", full)) => Some(Self::Repository(full.parse()?)),
            _ => None,
        };
        scope.ok_or(RepositoryError(text))
    }
}

#[cfg(test)]
mod tests {
    use super::{Repository, Scope};

    #[test]
    fn covers_without_case() {
        let repository: Repository = "Acme/App".parse().unwrap();
        assert!(Scope::organization("ACME").unwrap().covers(&repository, None));
        assert!(Scope::Repository("acme/app".parse().unwrap()).covers(&repository, None));
        assert!(!Scope::organization("acm").unwrap().covers(&repository, None));
        let enterprise = Scope::enterprise("acme-inc").unwrap();
        assert!(!enterprise.covers(&repository, None));
        assert!(enterprise.covers(&repository, Some("Acme-Inc")));
    }

    #[test]
    fn refuses_what_would_leave_its_place_in_a_path() {
        for bad in ["", "a", "a/", "/b", "a/b/c", "../x", "a/..", "a/b?x", "a b/c"] {
            assert!(bad.parse::<Repository>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn text_and_back() {
        for text in ["organization:acme", "repository:Acme/App", "enterprise:acme-inc"] {
            assert_eq!(Scope::try_from(text.to_owned()).unwrap().to_string(), text);
        }
    }
}
