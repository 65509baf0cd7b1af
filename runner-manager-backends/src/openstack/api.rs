//! The calls to Nova that deal with servers, and lists in pages.
//! <https://docs.openstack.org/api-ref/compute/>

use serde::Deserialize;
use serde_json::{Value, json};

use super::catalog::Service;
use super::errors::Failure;
use super::server::Server;
use super::session::{Call, Session};

/// The most pages of a list: a million servers.
const MOST_PAGES: usize = 1000;

/// How often a list begins anew, where the last of a page was deleted before the next page was asked for.
const LISTS: usize = 4;

/// The microversion since which Nova tells of servers whose cell does not answer.
const TELLS_OF_DOWN_CELLS: u32 = 69;

/// One server; `None` where it does not exist.
pub(super) async fn server(session: &Session, id: &str) -> Result<Option<Server>, Failure> {
    #[derive(Deserialize)]
    struct Told {
        server: Server,
    }
    match session.read::<Told>(&Call::get(Service::Compute, &["servers", id])).await {
        Ok(told) if told.server.is_unknown() => Err(unknown_part()),
        Ok(told) => Ok(Some(told.server)),
        Err(failure) if failure.is_absent() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// All servers of the project. Nova leaves out those of a cell that does not answer as soon as a query narrows the
/// list down, so that the first page is asked for without any.
pub(super) async fn servers(session: &Session) -> Result<Vec<Server>, Failure> {
    let call = Call::get(Service::Compute, &["servers", "detail"]);
    let servers: Vec<Server> = read(list(session, call, "servers", LastPage::IsEmpty).await?)?;
    if servers.iter().any(Server::is_unknown) { Err(unknown_part()) } else { Ok(servers) }
}

/// The servers of a name. That there are none counts only where all of Nova answers.
pub(super) async fn servers_named(session: &Session, name: &str) -> Result<Vec<Server>, Failure> {
    // Nova takes a regular expression; names of runners have no sign that means anything in one.
    let call = Call::get(Service::Compute, &["servers", "detail"]).with("name", &format!("^{name}$"));
    let mut servers: Vec<Server> = read(pages(session, call, "servers").await?)?;
    servers.retain(|server| server.name == name);
    if servers.is_empty() && session.microversion().await? >= TELLS_OF_DOWN_CELLS {
        let call = Call::get(Service::Compute, &["servers"]);
        let all: Vec<Server> = read(list(session, call, "servers", LastPage::IsEmpty).await?)?;
        if all.iter().any(Server::is_unknown) {
            return Err(unknown_part());
        }
    }
    Ok(servers)
}

fn unknown_part() -> Failure {
    Failure::Incomplete("a cell of Nova does not answer, so that what it has is not known".to_owned())
}

/// Asks for a server: its id.
pub(super) async fn create_server(session: &Session, body: Value) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Told {
        server: Made,
    }
    #[derive(Deserialize)]
    struct Made {
        id: String,
    }
    session.read::<Told>(&Call::post(Service::Compute, &["servers"], body)).await.map(|told| told.server.id)
}

/// Asks for a server's end; absent is success.
pub(super) async fn delete_server(session: &Session, id: &str) -> Result<(), Failure> {
    absent_is_success(session.call(&Call::delete(Service::Compute, &["servers", id])).await.map(drop))
}

/// Ends a server that Nova keeps for a while after its deletion (`reclaim_instance_interval`).
pub(super) async fn force_delete_server(session: &Session, id: &str) -> Result<(), Failure> {
    let call = Call::post(Service::Compute, &["servers", id, "action"], json!({"forceDelete": null}));
    absent_is_success(session.call(&call).await.map(drop))
}

/// Writes items of metadata onto a server, beside those that it has.
pub(super) async fn set_metadata(session: &Session, id: &str, items: Value) -> Result<(), Failure> {
    let call = Call::post(Service::Compute, &["servers", id, "metadata"], json!({"metadata": items}));
    session.call(&call).await.map(drop)
}

pub(super) fn absent_is_success(outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
        Err(failure) if failure.is_absent() => Ok(()),
        outcome => outcome,
    }
}

/// How the last page of a list is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastPage {
    NamesNoNext,
    /// Nova names a next page after a full one, and takes out of a page what stands there twice, as a server may that is
    /// just being made: then it names none though there is more (`get_all` in nova/compute/api.py).
    IsEmpty,
}

/// All items of a list that comes in pages, under `key`.
pub(super) async fn pages(session: &Session, first: Call, key: &str) -> Result<Vec<Value>, Failure> {
    list(session, first, key, LastPage::NamesNoNext).await
}

async fn list(session: &Session, first: Call, key: &str, last_page: LastPage) -> Result<Vec<Value>, Failure> {
    for _ in 1..LISTS {
        match list_once(session, first.clone(), key, last_page).await {
            Err(failure) if failure.is(400) && failure.to_string().contains("marker") => {}
            outcome => return outcome,
        }
    }
    list_once(session, first, key, last_page).await
}

async fn list_once(
    session: &Session,
    first: Call,
    key: &str,
    last_page: LastPage,
) -> Result<Vec<Value>, Failure> {
    let mut all: Vec<Value> = Vec::new();
    let mut next = Some(first.clone());
    for _ in 0..MOST_PAGES {
        let Some(call) = next.take() else { return Ok(all) };
        let mut page: Value = session.read(&call).await?;
        let Value::Array(items) = page[key].take() else {
            return Err(Failure::Broken(format!("it has no list of {key}")));
        };
        let goes_on = match last_page {
            LastPage::NamesNoNext => names_next(&page, key),
            LastPage::IsEmpty => !items.is_empty(),
        };
        let last = items.last().and_then(|item| item["id"].as_str()).map(str::to_owned);
        all.extend(items);
        if goes_on {
            let marker =
                last.ok_or_else(|| Failure::Broken("a page with nothing on it names a next one".to_owned()))?;
            next = Some(first.clone().with("marker", &marker));
        }
    }
    match next {
        Some(_) => Err(Failure::Broken(format!("its list of {key} has more than {MOST_PAGES} pages"))),
        None => Ok(all),
    }
}

fn names_next(page: &Value, key: &str) -> bool {
    let links = page[format!("{key}_links")].as_array();
    links.is_some_and(|links| links.iter().any(|link| link["rel"] == "next"))
}

fn read(items: Vec<Value>) -> Result<Vec<Server>, Failure> {
    let read = serde_json::from_value(Value::Array(items));
    read.map_err(|error| Failure::Broken(format!("its list of servers cannot be read: {error}")))
}
