//! Listings: all their pages, complete or an error.
//!
//! GitHub cuts its pages at the moment of each request. Where entries come and go while a listing is read,
//! one can slip from a page that is still to be read to one that was. So a listing whose length changed is
//! read once more, and what either reading saw counts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use http::{HeaderMap, Response};
use serde::Deserialize;
use serde_json::Value;

use super::RestGitHub;
use super::models::{Entry, Run};
use super::operation::Operation;
use super::transport::As;
use crate::github::{GitHubError, GitHubErrorKind};

/// The most pages of one listing: a hundred thousand entries.
const MOST_PAGES: usize = 1_000;
/// How often a listing is read that changes all the time.
const MOST_READINGS: usize = 2;
/// GitHub lists no more workflow runs than this for one search, whatever `total_count` says.
const SEARCH_LIMIT: usize = 1_000;
/// The most searches for workflow runs, each for older ones than the last.
const MOST_SEARCHES: usize = 50;

/// What a listing is and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listing<'a> {
    pub(super) operation: Operation,
    pub(super) who: As<'a>,
    pub(super) path: &'a str,
}

/// What was read of a listing.
struct Reading<T> {
    entries: BTreeMap<u64, T>,
    /// How many there are, as GitHub last said.
    total: usize,
    /// Whether that changed from page to page.
    moved: bool,
}

#[derive(Deserialize)]
struct Page {
    total_count: usize,
    #[serde(flatten)]
    arrays: BTreeMap<String, Value>,
}

impl RestGitHub {
    /// All entries of a listing that counts them, in the order of their numbers. `filter` is a query without
    /// the page, such as `name=x`.
    pub(super) async fn list<T: Entry + Send>(
        &self,
        listing: Listing<'_>,
        filter: &str,
    ) -> Result<Vec<T>, GitHubError> {
        let reading = self.read(listing, filter).await?;
        if reading.entries.len() < reading.total {
            return Err(incomplete(listing.operation, reading.entries.len(), reading.total));
        }
        Ok(reading.entries.into_values().collect())
    }

    /// All workflow runs of a status, by number. Beyond what GitHub lists for one search, older ones are
    /// searched for.
    pub(super) async fn runs(
        &self,
        listing: Listing<'_>,
        status: &str,
    ) -> Result<BTreeMap<u64, Run>, GitHubError> {
        let mut found: BTreeMap<u64, Run> = BTreeMap::new();
        let mut filter = format!("status={status}");
        for _ in 0..MOST_SEARCHES {
            let reading: Reading<Run> = self.read(listing, &filter).await?;
            let (known, read, total) = (found.len(), reading.entries.len(), reading.total);
            let oldest = reading.entries.values().map(|run| run.created_at).min();
            found.extend(reading.entries);
            match oldest {
                _ if read >= total => return Ok(found),
                // The oldest are searched for again, since others may be of the same second.
                Some(oldest) if read >= SEARCH_LIMIT && found.len() > known => {
                    filter =
                        format!("status={status}&created=%3C%3D{}", oldest.strftime("%Y-%m-%dT%H:%M:%SZ"));
                }
                _ => return Err(incomplete(listing.operation, read, total)),
            }
        }
        let detail = format!("there are more workflow runs than {MOST_SEARCHES} searches can list");
        Err(listing.operation.error(GitHubErrorKind::Unexpected, detail))
    }

    async fn read<T: Entry + Send>(
        &self,
        listing: Listing<'_>,
        filter: &str,
    ) -> Result<Reading<T>, GitHubError> {
        let mut all = self.read_once(listing, filter).await?;
        for _ in 1..MOST_READINGS {
            if !all.moved {
                break;
            }
            let again = self.read_once(listing, filter).await?;
            all.entries.extend(again.entries);
            (all.total, all.moved) = (again.total, again.moved);
        }
        Ok(all)
    }

    async fn read_once<T: Entry + Send>(
        &self,
        listing: Listing<'_>,
        filter: &str,
    ) -> Result<Reading<T>, GitHubError> {
        let mut entries = BTreeMap::new();
        let mut totals = None;
        self.pages(listing, filter, |answer| {
            let (total, page) =
                counted::<T>(answer.body()).map_err(|why| listing.operation.unreadable(why))?;
            let first = totals.map_or(total, |(first, _, _)| first);
            let moved = totals.is_some_and(|(_, last, moved)| moved || last != total);
            totals = Some((first, total, moved));
            entries.extend(page.into_iter().map(|entry| (entry.id(), entry)));
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        let (_, total, moved) = totals.unwrap_or_default();
        Ok(Reading { entries, total, moved })
    }

    /// Gets one page after the other until `take` has enough or there is none.
    pub(super) async fn pages(
        &self,
        listing: Listing<'_>,
        filter: &str,
        mut take: impl FnMut(&Response<Bytes>) -> Result<ControlFlow<()>, GitHubError> + Send,
    ) -> Result<(), GitHubError> {
        let joint = if filter.is_empty() { "" } else { "&" };
        let mut query = format!("{filter}{joint}per_page=100");
        for _ in 0..MOST_PAGES {
            let path = format!("{}?{query}", listing.path);
            let answer = self.get_again(listing.operation, listing.who, &path).await?;
            if take(&answer)?.is_break() {
                return Ok(());
            }
            match next_query(answer.headers()) {
                Some(next) => query = next,
                None => return Ok(()),
            }
        }
        let detail = format!("the listing has more than {MOST_PAGES} pages");
        Err(listing.operation.error(GitHubErrorKind::Unexpected, detail))
    }
}

fn counted<T: Entry>(body: &[u8]) -> Result<(usize, Vec<T>), serde_json::Error> {
    let mut page: Page = serde_json::from_slice(body)?;
    let array = page.arrays.remove(T::ARRAY).unwrap_or_default();
    Ok((page.total_count, serde_json::from_value(array)?))
}

fn incomplete(operation: Operation, got: usize, total: usize) -> GitHubError {
    let detail = format!("the listing is incomplete: {got} of {total} entries came");
    operation.error(GitHubErrorKind::Unavailable, detail)
}

/// The query of the next page. Only the query is taken from the link: where a repository was renamed, and
/// behind a proxy, the rest of it is not an address of ours.
fn next_query(headers: &HeaderMap) -> Option<String> {
    let links = headers.get("link")?.to_str().ok()?;
    let next = links.split(", <").find(|link| link.contains("rel=\"next\""))?;
    let (url, _) = next.trim_start_matches('<').split_once('>')?;
    let (_, query) = url.split_once('?')?;
    Some(query.to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::next_query;

    #[test]
    fn the_next_page_is_found_among_the_links() {
        let mut headers = HeaderMap::new();
        assert_eq!(next_query(&headers), None);
        let links = "<https://h/api/v3/x?per_page=100&page=1>; rel=\"prev\", \
                     <https://h/api/v3/x?per_page=100&page=3>; rel=\"next\", <https://h/x?page=9>; rel=\"last\"";
        headers.insert("link", HeaderValue::from_static(links));
        assert_eq!(next_query(&headers).as_deref(), Some("per_page=100&page=3"));
        headers.insert("link", HeaderValue::from_static("<https://h/x?page=1>; rel=\"first\""));
        assert_eq!(next_query(&headers), None);
    }
}
