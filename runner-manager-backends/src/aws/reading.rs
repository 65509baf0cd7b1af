//! Looks at instances. A list is read page by page. Looks at single instances that come at about the same time are
//! made in one call, because EC2 counts calls: however many instances start at once, it is asked a few times a
//! second.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, Instance};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use runner_manager_core::clock::Clock;

use super::errors::Failure;

/// The most pages of one list.
const MOST_PAGES: usize = 1000;

/// How long a look waits for others that want to go with it.
const WINDOW: Duration = Duration::from_millis(100);

/// The most values of a filter, as EC2 has it.
const MOST_VALUES: usize = 200;

/// A filter of one name.
pub(super) fn filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Filter {
    let values = values.into_iter().map(str::to_owned).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// All instances that pass filters.
///
/// # Errors
/// Where any page of them could not be had.
pub(super) async fn all(
    ec2: &Client,
    filters: Vec<Filter>,
    page_size: u16,
) -> Result<Vec<Instance>, Failure> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let mut token: Option<String> = None;
    for _ in 0..MOST_PAGES {
        let page = ec2.describe_instances().set_filters(Some(filters.clone())).max_results(page_size.into());
        let page = page.set_next_token(token).send().await?;
        let reservations = page.reservations.unwrap_or_default();
        let instances = reservations.into_iter().flat_map(|one| one.instances.unwrap_or_default());
        // A page may repeat what the one before it had.
        found.extend(instances.filter(|one| seen.insert(one.instance_id().unwrap_or_default().to_owned())));
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(found);
        }
    }
    Err(Failure::Unanswered(format!("a list of more than {MOST_PAGES} pages")))
}

type Read = Result<Arc<Vec<Instance>>, Arc<Failure>>;

/// A call that is made once, whoever of those who wait for it is still there.
type Reading = Shared<BoxFuture<'static, Read>>;

/// Looks at instances by the value of one filter, many in one call.
///
/// A look begins after it was asked for, never before: who joins a call joins before it is made.
#[derive(Debug)]
pub(super) struct Looks {
    ec2: Client,
    clock: Arc<dyn Clock>,
    filter: &'static str,
    page_size: u16,
    last: Mutex<Option<Call>>,
}

/// A call, and what it is to ask for: nothing more can be added once that was taken out.
#[derive(Debug)]
struct Call {
    values: Values,
    reading: Reading,
}

type Values = Arc<Mutex<Option<BTreeSet<String>>>>;

impl Looks {
    pub(super) fn new(ec2: Client, clock: Arc<dyn Clock>, filter: &'static str, page_size: u16) -> Self {
        Self { ec2, clock, filter, page_size, last: Mutex::default() }
    }

    /// The instances of a value, among those of others.
    ///
    /// # Errors
    /// When the call failed, for all that had joined it.
    pub(super) async fn look(&self, value: &str) -> Read {
        let reading = self.join(value);
        reading.await
    }

    fn join(&self, value: &str) -> Reading {
        let mut last = lock(&self.last);
        if let Some(call) = &*last
            && let Some(values) = &mut *lock(&call.values)
            && values.len() < MOST_VALUES
        {
            values.insert(value.to_owned());
            return call.reading.clone();
        }
        let values: Values = Arc::new(Mutex::new(Some(BTreeSet::from([value.to_owned()]))));
        let reading = self.read(Arc::clone(&values)).shared();
        *last = Some(Call { values, reading: reading.clone() });
        reading
    }

    /// Waits for others to join, and makes the call.
    fn read(&self, values: Values) -> BoxFuture<'static, Read> {
        let (ec2, clock, name, page_size) =
            (self.ec2.clone(), Arc::clone(&self.clock), self.filter, self.page_size);
        async move {
            clock.sleep(WINDOW).await;
            let values = lock(&values).take().unwrap_or_default();
            let filters = vec![filter(name, values.iter().map(String::as_str))];
            all(&ec2, filters, page_size).await.map(Arc::new).map_err(Arc::new)
        }
        .boxed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
