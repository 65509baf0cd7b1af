//! Which AMI a placement means: by its id, by a parameter of Systems Manager, or the newest of a name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_ec2::types::{Filter, Image};
use jiff::Timestamp;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::later;

use super::config::{ImageConfig, ImageSearch, PlacementConfig};
use super::connection::Connection;
use super::errors::Failure;

/// How long it is remembered what a name led to.
const REMEMBERED: Duration = Duration::from_mins(5);

/// How many pages of images are read, of a thousand each.
const MOST_PAGES: usize = 100;

/// An AMI, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ami {
    pub(super) id: String,
    /// Its root device, where that was asked for.
    pub(super) root_device: Option<String>,
}

/// What is asked of an image: which, of which architecture, and whether its root device matters.
type Key = (ImageConfig, &'static str, bool);

/// What images' names led to.
#[derive(Debug, Default)]
pub(super) struct Images(Mutex<BTreeMap<Key, (Timestamp, Ami)>>);

impl Images {
    /// The AMI of a placement; `None` where its launch template has it.
    ///
    /// # Errors
    /// Where there is none, or a service could not be asked.
    pub(super) async fn of(
        &self,
        connection: &Connection,
        clock: &Arc<dyn Clock>,
        config: &PlacementConfig,
    ) -> Result<Option<Ami>, Failure> {
        let Some(image) = &config.image else { return Ok(None) };
        let key = (image.clone(), config.architecture(), config.root_volume.is_some());
        let now = clock.now();
        if let Some((until, ami)) = self.lock().get(&key)
            && now < *until
        {
            return Ok(Some(ami.clone()));
        }
        let ami = resolve(connection, config, image).await?;
        self.lock().insert(key, (later(now, REMEMBERED), ami.clone()));
        Ok(Some(ami))
    }

    /// Has everything looked up again.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, (Timestamp, Ami)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn resolve(
    connection: &Connection,
    config: &PlacementConfig,
    image: &ImageConfig,
) -> Result<Ami, Failure> {
    let id = match image {
        ImageConfig::Named(name) => match name.strip_prefix("ssm:") {
            Some(parameter) => parameter_value(connection, parameter).await?,
            None => name.clone(),
        },
        ImageConfig::Search(search) => {
            let newest = newest(connection, config, search).await?;
            let root_device = newest.root_device_name().map(str::to_owned);
            return Ok(Ami { id: newest.image_id().unwrap_or_default().to_owned(), root_device });
        }
    };
    let root_device = match &config.root_volume {
        Some(_) => described(connection, &id).await?.root_device_name().map(str::to_owned),
        None => None,
    };
    Ok(Ami { id, root_device })
}

async fn parameter_value(connection: &Connection, parameter: &str) -> Result<String, Failure> {
    let answer = connection.ssm.get_parameter().name(parameter).send().await;
    let answer = answer.map_err(Failure::from).map_err(|failure| match failure.code() {
        "ParameterNotFound" => Failure::Missing(format!("there is no parameter {parameter}")),
        _ => failure,
    })?;
    let value = answer.parameter().and_then(|parameter| parameter.value()).unwrap_or_default();
    if value.starts_with("ami-") {
        Ok(value.to_owned())
    } else {
        Err(Failure::Unfit(format!("the parameter {parameter} does not hold the id of an AMI")))
    }
}

/// An image, as EC2 tells of it.
///
/// # Errors
/// Where there is none, or EC2 could not be asked.
pub(super) async fn described(connection: &Connection, id: &str) -> Result<Image, Failure> {
    let missing = || Failure::Missing(format!("there is no image {id}, or the account may not use it"));
    let answer = connection.ec2.describe_images().image_ids(id).send().await.map_err(Failure::from);
    match answer {
        Ok(answer) => answer.images.unwrap_or_default().pop().ok_or_else(missing),
        Err(failure) if failure.code().starts_with("InvalidAMIID") => Err(missing()),
        Err(failure) => Err(failure),
    }
}

async fn newest(
    connection: &Connection,
    config: &PlacementConfig,
    search: &ImageSearch,
) -> Result<Image, Failure> {
    let filters =
        [("name", search.name.as_str()), ("state", "available"), ("architecture", config.architecture())];
    let filters = filters.map(|(name, value)| Filter::builder().name(name).values(value).build());
    let mut newest: Option<Image> = None;
    let mut token = None;
    for _ in 0..MOST_PAGES {
        let page = connection.ec2.describe_images().set_filters(Some(filters.to_vec()));
        let page = page.set_owners(Some(search.owners.clone())).set_next_token(token).send().await?;
        newest = page
            .images
            .unwrap_or_default()
            .into_iter()
            .chain(newest)
            .max_by(|one, other| one.creation_date().cmp(&other.creation_date()));
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    newest.ok_or_else(|| {
        Failure::Missing(format!(
            "there is no image for {} by the name {} of {}",
            config.architecture(),
            search.name,
            search.owners.join(", ")
        ))
    })
}
