//! Answers that are kept, so that GitHub need not give them again.
//!
//! GitHub tags what it answers, and says 304 to whoever has the same already. Such an answer costs nothing of the
//! budget: <https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api>. A tag holds
//! for one token alone, so that after a renewal each thing is given once more. What is kept is bounded; what was
//! not asked for the longest goes first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{ETAG, HeaderValue};
use http::{HeaderMap, Response};

/// How many bytes are kept in all.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// How many bytes of each answer are not its body: its key, its headers, and what keeps it.
const OVERHEAD: usize = 2 * 1024;

/// What an answer was given to: the account that asked, and the path with its query.
type Key = (String, String);

/// An answer of success.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    headers: HeaderMap,
    body: Bytes,
    pub(super) tag: HeaderValue,
    used: u64,
}

impl Kept {
    /// The answer as it was given.
    pub(super) fn answer(&self) -> Response<Bytes> {
        let mut answer = Response::new(self.body.clone());
        *answer.headers_mut() = self.headers.clone();
        answer
    }

    fn size(&self) -> usize {
        self.body.len() + OVERHEAD
    }
}

/// The answers that are kept.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: BTreeMap<Key, Arc<Kept>>,
    bytes: usize,
    uses: u64,
}

impl Answers {
    /// What was last answered.
    pub(super) fn find(&self, account: &str, path: &str) -> Option<Arc<Kept>> {
        self.lock().kept.get(&(account.to_owned(), path.to_owned())).cloned()
    }

    /// Keeps an answer of success that has a tag.
    pub(super) fn keep(&self, account: &str, path: &str, answer: &Response<Bytes>) {
        let mut inner = self.lock();
        inner.forget(&(account.to_owned(), path.to_owned()));
        let Some(tag) = answer.headers().get(ETAG).cloned() else { return };
        inner.uses += 1;
        let used = inner.uses;
        let kept = Kept { headers: answer.headers().clone(), body: answer.body().clone(), tag, used };
        inner.bytes += kept.size();
        inner.kept.insert((account.to_owned(), path.to_owned()), Arc::new(kept));
        inner.make_room();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes = self.bytes.saturating_sub(kept.size());
        }
    }

    fn make_room(&mut self) {
        while self.bytes > MOST_BYTES {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            self.forget(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answers, MOST_BYTES};
    use bytes::Bytes;
    use http::Response;

    fn answer(bytes: usize, tag: Option<&str>) -> Response<Bytes> {
        let mut answer = Response::builder();
        if let Some(tag) = tag {
            answer = answer.header("etag", tag);
        }
        answer.body(Bytes::from(vec![b' '; bytes])).unwrap()
    }

    #[test]
    fn an_answer_is_kept_with_its_tag_for_one_account() {
        let answers = Answers::default();
        answers.keep("a", "/x", &answer(3, Some("1")));
        assert_eq!(answers.find("a", "/x").unwrap().tag, "1");
        assert_eq!(answers.find("a", "/x").unwrap().answer().body().len(), 3);
        assert!(answers.find("b", "/x").is_none());
        answers.keep("a", "/x", &answer(3, None));
        assert!(answers.find("a", "/x").is_none(), "what has no tag takes the place of what had one");
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
        let answers = Answers::default();
        for at in 0..5 {
            answers.keep("a", &format!("/{at}"), &answer(MOST_BYTES / 4, Some("1")));
        }
        assert!(answers.lock().bytes <= MOST_BYTES);
        assert!(answers.find("a", "/0").is_none());
        assert!(answers.find("a", "/4").is_some());
        answers.keep("a", "/large", &answer(MOST_BYTES, Some("1")));
        let inner = answers.lock();
        assert_eq!((inner.bytes, inner.kept.len()), (0, 0));
    }
}
