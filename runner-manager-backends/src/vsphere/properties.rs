//! The property collector: how vCenter tells of its objects.
//!
//! vCenter has no call that reads one object. One names a set of objects (one, or all below a folder) and the
//! paths of the properties that are wanted, and gets both in pages. With a collector of one's own, one call
//! waits until any of these properties changes, so that nobody needs to ask again and again.
//! <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vmodl.query.PropertyCollector.html>

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use runner_manager_core::clock::{TimedOut, timeout};

use super::errors::{Failure, Fault};
use super::session::Session;
use super::xml::{Element, Reference};

/// Objects in one page.
const PAGE: usize = 100;

/// Pages of one reading: 100,000 objects. More is no inventory but a server that does not end.
const MOST_PAGES: usize = 1000;

/// How long vCenter may wait at most for a change before it answers that there was none.
const MOST_WAIT: Duration = Duration::from_secs(20);

/// The name of the selection that leads from a folder into the folders in it.
const DOWN: &str = "down";

/// What was told of one object.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) reference: Reference,
    properties: BTreeMap<String, Element>,
    /// The properties that could not be told, with the type of the fault for each.
    withheld: Vec<(String, String)>,
}

impl Object {
    /// A property, by the path with which it was asked for. None where it is not set.
    pub(super) fn get(&self, path: &str) -> Option<&Element> {
        self.properties.get(path)
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.get(path).map(Element::text)
    }

    pub(super) fn reference(&self, path: &str) -> Option<Reference> {
        self.get(path).and_then(Reference::read)
    }

    /// An `ObjectContent` of an answer.
    pub(super) fn read(content: &Element) -> Option<Self> {
        let reference = content.child("obj").and_then(Reference::read)?;
        let mut object = Self { reference, properties: BTreeMap::new(), withheld: Vec::new() };
        for property in content.children("propSet") {
            object.set(property);
        }
        for missing in content.children("missingSet") {
            let fault = missing.child("fault").and_then(|localized| localized.child("fault"));
            let kind = fault.and_then(|fault| fault.kind.clone()).unwrap_or_default();
            object.withheld.push((missing.text_of("path").unwrap_or_default().to_owned(), kind));
        }
        Some(object)
    }

    /// Takes a `DynamicProperty` or a `PropertyChange`.
    fn set(&mut self, property: &Element) {
        let Some(name) = property.text_of("name") else { return };
        match property.child("val") {
            Some(value) => self.properties.insert(name.to_owned(), value.clone()),
            None => self.properties.remove(name),
        };
    }

    /// # Errors
    /// Where the user may not see a property, which must not be taken for one that is not set.
    fn complete(self) -> Result<Self, Failure> {
        let hidden = self.withheld.iter().find(|(_, kind)| kind == "NoPermission");
        let Some((path, kind)) = hidden else { return Ok(self) };
        let detail = Element::new("fault")
            .with(Element::value("object", &self.reference.value))
            .with(Element::value("privilegeId", "System.Read"));
        Err(Failure::Fault(Box::new(Fault {
            kind: kind.clone(),
            message: format!("{path} is not shown"),
            detail,
        })))
    }
}

/// Reads properties of one object.
///
/// # Errors
/// Where it could not be read; a fault that [`tells_gone`](Failure::tells_gone) where the object does not exist.
pub(super) async fn read(session: &Session, object: &Reference, paths: &[&str]) -> Result<Object, Failure> {
    let filter = filter("specSet", object, &object.kind, paths, None);
    let mut found = retrieve(session, filter).await?;
    found.pop().ok_or_else(|| Failure::Broken("it does not tell of the object that was asked for".to_owned()))
}

/// Reads properties of all objects of a type in a folder and the folders in it.
///
/// # Errors
/// Where any page could not be had.
pub(super) async fn read_below(
    session: &Session,
    folder: &Reference,
    kind: &str,
    paths: &[&str],
) -> Result<Vec<Object>, Failure> {
    let down = Element::new("selectSet")
        .of_kind("TraversalSpec")
        .with(Element::value("name", DOWN))
        .with(Element::value("type", "Folder"))
        .with(Element::value("path", "childEntity"))
        .with(Element::value("skip", false))
        .with(Element::new("selectSet").of_kind("SelectionSpec").with(Element::value("name", DOWN)));
    retrieve(session, filter("specSet", folder, kind, paths, Some(down))).await
}

/// A `PropertyFilterSpec`: which properties of which objects.
fn filter(name: &str, from: &Reference, kind: &str, paths: &[&str], select: Option<Element>) -> Element {
    let properties = Element::new("propSet")
        .with(Element::value("type", kind))
        .with(Element::value("all", false))
        .with_all(paths.iter().map(|path| Element::value("pathSet", path)));
    let objects = Element::new("objectSet")
        .with(from.element("obj"))
        .with(Element::value("skip", select.is_some()))
        .with_all(select);
    Element::new(name).with(properties).with(objects)
}

/// `RetrievePropertiesEx` and, for each further page, `ContinueRetrievePropertiesEx`.
async fn retrieve(session: &Session, filter: Element) -> Result<Vec<Object>, Failure> {
    let collector = session.service("propertyCollector").await?;
    let mut call = Element::new("RetrievePropertiesEx")
        .with(collector.element("_this"))
        .with(filter)
        .with(Element::new("options").with(Element::value("maxObjects", PAGE)));
    let mut objects = Vec::new();
    let mut tokens = BTreeSet::new();
    for _ in 0..MOST_PAGES {
        // No page at all: no object is there.
        let Some(page) = session.call(&call).await?.pop() else { return Ok(objects) };
        for content in page.children("objects") {
            let object = Object::read(content);
            let object =
                object.ok_or_else(|| Failure::Broken("it tells of an object without a name".to_owned()))?;
            objects.push(object.complete()?);
        }
        let Some(token) = page.text_of("token") else { return Ok(objects) };
        if !tokens.insert(token.to_owned()) {
            return Err(Failure::Broken("its pages go round in a circle".to_owned()));
        }
        call = Element::new("ContinueRetrievePropertiesEx")
            .with(collector.element("_this"))
            .with(Element::value("token", token));
    }
    Err(Failure::Broken(format!("it has more than {MOST_PAGES} pages")))
}

/// Waits until `look` finds in an object what it looks for, as long as `limit`.
///
/// # Errors
/// [`Failure::TimedOut`] after `limit`, and where vCenter could not be asked.
pub(super) async fn wait<T>(
    session: &Session,
    object: &Reference,
    paths: &[&str],
    limit: Duration,
    look: impl Fn(&Object) -> Option<T>,
) -> Result<T, Failure> {
    // A collector of its own: all who wait on one would take the changes away from each other.
    let common = session.service("propertyCollector").await?;
    let create = Element::new("CreatePropertyCollector").with(common.element("_this"));
    let made = session.call(&create).await?.pop().as_ref().and_then(Reference::read);
    let own = made.ok_or_else(|| Failure::Broken("it gives no property collector".to_owned()))?;
    let waited = timeout(session.clock(), limit, changes(session, &own, object, paths, look)).await;
    let end = Element::new("DestroyPropertyCollector").with(own.element("_this"));
    if let Err(failure) = session.call(&end).await {
        tracing::debug!(%failure, "a property collector is left until its session ends");
    }
    waited.map_err(|TimedOut(_)| Failure::TimedOut(TimedOut(limit)))?
}

/// `CreateFilter`, and `WaitForUpdatesEx` over and over: the first answers at once with all there is.
async fn changes<T>(
    session: &Session,
    collector: &Reference,
    object: &Reference,
    paths: &[&str],
    look: impl Fn(&Object) -> Option<T>,
) -> Result<T, Failure> {
    let create = Element::new("CreateFilter")
        .with(collector.element("_this"))
        .with(filter("spec", object, &object.kind, paths, None))
        .with(Element::value("partialUpdates", false));
    session.call(&create).await?;
    let mut known = Object { reference: object.clone(), properties: BTreeMap::new(), withheld: Vec::new() };
    let mut version = String::new();
    let wait = (session.timeout() / 2).min(MOST_WAIT).as_secs().max(1);
    loop {
        let call = Element::new("WaitForUpdatesEx")
            .with(collector.element("_this"))
            .with(Element::value("version", &version))
            .with(Element::new("options").with(Element::value("maxWaitSeconds", wait)));
        // No update set: nothing has changed.
        let Some(updates) = session.call(&call).await?.pop() else { continue };
        for update in updates.children("filterSet").flat_map(|set| set.children("objectSet")) {
            if update.text_of("kind") == Some("leave") {
                return Err(gone(object));
            }
            for change in update.children("changeSet") {
                known.set(change);
            }
        }
        if let Some(found) = look(&known) {
            return Ok(found);
        }
        updates.text_of("version").unwrap_or_default().clone_into(&mut version);
    }
}

fn gone(object: &Reference) -> Failure {
    let detail = Element::new("fault").with(object.element("obj"));
    let message = format!("{} is there no more", object.value);
    Failure::Fault(Box::new(Fault { kind: "ManagedObjectNotFound".to_owned(), message, detail }))
}

/// Follows a task to its end: its result, which not every task has, or its failure.
/// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.TaskInfo.html>
///
/// # Errors
/// Where the end could not be learnt: the task may go on.
pub(super) async fn follow(
    session: &Session,
    task: &Reference,
    limit: Duration,
) -> Result<Result<Option<Element>, Failure>, Failure> {
    let end = wait(session, task, &["info"], limit, |told| {
        let info = told.get("info")?;
        match info.text_of("state")? {
            "success" => Some(Ok(info.child("result").cloned())),
            "error" => Some(Err(task_failure(info))),
            _ => None,
        }
    });
    // A collector ends with its session, and the book of a task some time after the task. What the task works on
    // may well be there.
    end.await.map_err(|failure| match failure {
        Failure::Fault(fault) if fault.kind == "ManagedObjectNotFound" => {
            Failure::Broken("the task cannot be followed any more".to_owned())
        }
        other => other,
    })
}

/// The failure that a task's info tells of, in `error`: a `LocalizedMethodFault`.
fn task_failure(info: &Element) -> Failure {
    let error = info.child("error");
    let message = error.and_then(|error| error.text_of("localizedMessage")).unwrap_or_default().to_owned();
    let detail = error.and_then(|error| error.child("fault")).cloned().unwrap_or_default();
    let kind = detail.kind.clone().unwrap_or_else(|| "a fault without a type".to_owned());
    Failure::Fault(Box::new(Fault { kind, message, detail }))
}
