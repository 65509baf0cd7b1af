//! Who asks, and where: the SDK's clients, made by the SDK's own rules and the settings.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use runner_manager_core::domain::Secret;

use super::config::{AccessKeyConfig, AssumeRoleConfig, Settings};
use crate::settings::SecretSource;

/// How long a connection may take until it is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What we are called in the account's logs.
const NAME: &str = "runner-manager";

/// The clients of the services that are asked.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) ec2: aws_sdk_ec2::Client,
    pub(super) ssm: aws_sdk_ssm::Client,
    pub(super) sts: aws_sdk_sts::Client,
    /// Where EC2 is asked.
    pub(super) region: String,
    pub(super) quotas: aws_sdk_servicequotas::Client,
}

impl Connection {
    /// The clients that the settings mean. Credentials are looked for by the first call.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) async fn new(settings: &Settings) -> Result<Self, String> {
        let found = loader(settings)?.load().await;
        let region = found.region().map(ToString::to_string);
        let region = region.ok_or("nothing says which region is meant: give `region`, or set AWS_REGION")?;
        let found = match &settings.assume_role {
            Some(role) => acting_as(role, &found, settings.endpoints.sts.as_deref()).await,
            None => found,
        };
        // Whether another try is worth it is the manager's affair.
        let once = found.to_builder().retry_config(RetryConfig::disabled()).build();
        let mut ec2 = aws_sdk_ec2::config::Builder::from(&once);
        if let Some(url) = &settings.endpoints.ec2 {
            ec2.set_endpoint_url(Some(url.clone()));
        }
        let mut ssm = aws_sdk_ssm::config::Builder::from(&once);
        if let Some(url) = &settings.endpoints.ssm {
            ssm.set_endpoint_url(Some(url.clone()));
        }
        let mut sts = aws_sdk_sts::config::Builder::from(&once);
        if let Some(url) = &settings.endpoints.sts {
            sts.set_endpoint_url(Some(url.clone()));
        }
        let mut quotas = aws_sdk_servicequotas::config::Builder::from(&once);
        if let Some(url) = &settings.endpoints.servicequotas {
            quotas.set_endpoint_url(Some(url.clone()));
        }
        Ok(Self {
            ec2: aws_sdk_ec2::Client::from_conf(ec2.build()),
            ssm: aws_sdk_ssm::Client::from_conf(ssm.build()),
            sts: aws_sdk_sts::Client::from_conf(sts.build()),
            region,
            quotas: aws_sdk_servicequotas::Client::from_conf(quotas.build()),
        })
    }
}

fn loader(settings: &Settings) -> Result<ConfigLoader, String> {
    let timeouts =
        TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(settings.timeout).build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .app_name(AppName::new(NAME).expect("letters and a dash are a name"))
        .timeout_config(timeouts);
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(key) = &settings.access_key {
        loader = loader.credentials_provider(credentials(key)?);
    }
    Ok(loader)
}

fn credentials(key: &AccessKeyConfig) -> Result<Credentials, String> {
    let secret = key.secret.as_ref().map(SecretSource::resolve).transpose();
    let secret = secret.map_err(|why| format!("access_key.secret: {why}"))?;
    let token = key.session_token.as_ref().map(SecretSource::resolve).transpose();
    let token = token.map_err(|why| format!("access_key.session_token: {why}"))?;
    let secret = secret.as_ref().map(Secret::expose).unwrap_or_default();
    let token = token.map(|token| token.expose().to_owned());
    Ok(Credentials::new(key.id.clone().unwrap_or_default(), secret, token, None, "settings"))
}

/// The same configuration with the credentials of a role.
async fn acting_as(role: &AssumeRoleConfig, found: &SdkConfig, sts: Option<&str>) -> SdkConfig {
    let mut asking = found.to_builder();
    if let Some(sts) = sts {
        asking.set_endpoint_url(Some(sts.to_owned()));
    }
    let mut provider = AssumeRoleProvider::builder(role.role_arn.as_deref().unwrap_or_default())
        .session_name(role.session_name.as_deref().unwrap_or(NAME))
        .configure(&asking.build());
    if let Some(id) = &role.external_id {
        provider = provider.external_id(id);
    }
    let provider = SharedCredentialsProvider::new(provider.build().await);
    found.to_builder().credentials_provider(provider).build()
}
