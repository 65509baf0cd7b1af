//! What an instance is made from: a specification becomes one request for one instance.
//!
//! Owner, group and runner stand in it as tags, so that they are there with the instance.
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html>

use std::collections::BTreeMap;

use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    InstanceInterruptionBehavior, InstanceMarketOptionsRequest, InstanceMetadataEndpointState,
    InstanceMetadataOptionsRequest, InstanceNetworkInterfaceSpecification, LaunchTemplateSpecification,
    MarketType, Placement as Where, ResourceType, ShutdownBehavior, SpotInstanceType, SpotMarketOptions, Tag,
    TagSpecification, Tenancy,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use runner_manager_core::backend::{BackendError, InstanceSpec};

use super::config::{LaunchTemplateConfig, PlacementConfig, VolumeConfig};
use super::errors::Failure;
use super::images::Ami;
use crate::bootstrap::{self, Cloud};

/// The tag that EC2's console shows as an instance's name.
const NAME_TAG: &str = "Name";

/// The user data, in base64.
///
/// # Errors
/// Where the instance cannot be told what to do.
pub(super) fn user_data(spec: &InstanceSpec, config: &PlacementConfig) -> Result<String, BackendError> {
    Ok(BASE64.encode(bootstrap::user_data(config.scripts(), Cloud::Aws, spec)?.expose()))
}

/// The request for a runner's instance.
///
/// # Errors
/// Where the placement's settings do not fit its image.
pub(super) fn run(
    spec: &InstanceSpec,
    config: &PlacementConfig,
    ami: Option<&Ami>,
    user_data: String,
) -> Result<RunInstancesInputBuilder, Failure> {
    let request = base(config, ami)?
        .client_token(spec.runner.as_str())
        .user_data(user_data)
        .set_tag_specifications(Some(tags(spec, config)));
    Ok(request)
}

/// A request for an instance of a placement, without what it is for.
///
/// # Errors
/// Where the placement's settings do not fit its image.
pub(super) fn base(config: &PlacementConfig, ami: Option<&Ami>) -> Result<RunInstancesInputBuilder, Failure> {
    let mut request = RunInstancesInputBuilder::default()
        .min_count(1)
        .max_count(1)
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .metadata_options(metadata(config))
        .set_launch_template(config.launch_template.as_ref().map(template))
        .set_instance_type(config.instance_type().map(Into::into))
        .set_image_id(ami.map(|ami| ami.id.clone()))
        .set_key_name(config.key_pair.clone())
        .set_iam_instance_profile(config.instance_profile.as_deref().map(profile))
        .set_placement(place(config))
        .set_instance_market_options(config.spot.then(|| spot(config)));
    if let Some(volume) = &config.root_volume {
        request = request.block_device_mappings(root(volume, ami)?);
    }
    Ok(network(config, request))
}

fn metadata(config: &PlacementConfig) -> InstanceMetadataOptionsRequest {
    InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(HttpTokensState::Required)
        .http_put_response_hop_limit(config.metadata_hop_limit.into())
        .build()
}

fn template(config: &LaunchTemplateConfig) -> LaunchTemplateSpecification {
    LaunchTemplateSpecification::builder()
        .set_launch_template_id(config.id.clone())
        .set_launch_template_name(config.name.clone())
        .set_version(config.version.clone())
        .build()
}

fn profile(name: &str) -> IamInstanceProfileSpecification {
    let builder = IamInstanceProfileSpecification::builder();
    if name.starts_with("arn:") { builder.arn(name) } else { builder.name(name) }.build()
}

fn place(config: &PlacementConfig) -> Option<Where> {
    let wanted = config.dedicated || config.placement_group.is_some();
    let place = Where::builder()
        .set_tenancy(config.dedicated.then_some(Tenancy::Dedicated))
        .set_group_name(config.placement_group.clone());
    wanted.then(|| place.build())
}

/// It is never stopped, nor asked for again: a runner is one attempt.
fn spot(config: &PlacementConfig) -> InstanceMarketOptionsRequest {
    let options = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .set_max_price(config.spot_max_price.clone());
    InstanceMarketOptionsRequest::builder()
        .market_type(MarketType::Spot)
        .spot_options(options.build())
        .build()
}

fn root(volume: &VolumeConfig, ami: Option<&Ami>) -> Result<BlockDeviceMapping, Failure> {
    let device = ami.and_then(|ami| ami.root_device.as_deref());
    let device = device.ok_or_else(|| {
        let image = ami.map(|ami| ami.id.as_str()).unwrap_or_default();
        Failure::Unfit(format!(
            "image {image} has no root volume that could be changed: take root_volume out"
        ))
    })?;
    let number = |value: Option<u32>| value.map(|value| i32::try_from(value).unwrap_or(i32::MAX));
    let disk = EbsBlockDevice::builder()
        .delete_on_termination(true)
        .set_volume_size(number(volume.size_gib))
        .set_volume_type(volume.kind.as_deref().map(Into::into))
        .set_iops(number(volume.iops))
        .set_throughput(number(volume.throughput))
        .set_encrypted(volume.encrypted)
        .set_kms_key_id(volume.kms_key.clone());
    Ok(BlockDeviceMapping::builder().device_name(device).ebs(disk.build()).build())
}

/// Subnet and groups stand in the request itself, unless there is something to say of the network card: EC2 takes one of
/// the two. A launch template may have a card of its own, which only another card can replace.
fn network(config: &PlacementConfig, request: RunInstancesInputBuilder) -> RunInstancesInputBuilder {
    let subnet = config.subnet().map(str::to_owned);
    let groups = (!config.security_groups.is_empty()).then(|| config.security_groups.clone());
    let says = subnet.is_some() || groups.is_some();
    if config.public_ip.is_none() && !(config.launch_template.is_some() && says) {
        return request.set_subnet_id(subnet).set_security_group_ids(groups);
    }
    let card = InstanceNetworkInterfaceSpecification::builder()
        .device_index(0)
        .delete_on_termination(true)
        .set_associate_public_ip_address(config.public_ip)
        .set_subnet_id(subnet)
        .set_groups(groups);
    request.network_interfaces(card.build())
}

/// The marks and the user's tags, on all that comes into being with the call.
fn tags(spec: &InstanceSpec, config: &PlacementConfig) -> Vec<TagSpecification> {
    let name = BTreeMap::from([(NAME_TAG.to_owned(), spec.runner.to_string())]);
    let marks = spec.owner.tags(&spec.runner, &spec.group);
    let all: BTreeMap<String, String> = name.into_iter().chain(spec.tags.clone()).chain(marks).collect();
    let all: Vec<Tag> =
        all.into_iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
    let request = config.spot.then_some(ResourceType::SpotInstancesRequest);
    [ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface]
        .into_iter()
        .chain(request)
        .map(|kind| TagSpecification::builder().resource_type(kind).set_tags(Some(all.clone())).build())
        .collect()
}
