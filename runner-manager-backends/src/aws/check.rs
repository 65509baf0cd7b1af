//! What is missing for a placement: asked of EC2 by looks, and by calls that only try (`DryRun`). Nothing is made.

use std::sync::Arc;

use aws_sdk_ec2::types::{
    ArchitectureType, ArchitectureValues, Image, ImageState, InstanceTypeInfo, LocationType, ProcessorInfo,
    Reservation, ResourceType, Subnet, Tag, TagSpecification, UsageClassType,
};
use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::Owner;

use super::config::{ImageConfig, LaunchTemplateConfig, PlacementConfig};
use super::connection::Connection;
use super::errors::{Effect, Failure};
use super::images::{Ami, Images, described};
use super::quotas::{Quota, unknown};
use super::reading::filter;
use super::request;

/// EC2's answer to a call that only tries and would have succeeded.
const WOULD_HAVE_SUCCEEDED: &str = "DryRunOperation";

/// What is missing for a placement, in sentences.
///
/// # Errors
/// Where a service could not be asked at all.
pub(super) async fn missing(
    connection: &Connection,
    images: &Images,
    clock: &Arc<dyn Clock>,
    config: &PlacementConfig,
) -> Result<Vec<String>, Failure> {
    let mut check = Check { connection, config, missing: Vec::new() };
    check.instances().await?;
    let ami = images.of(connection, clock, config).await;
    let ami = check.told(of_image(config), ami)?.flatten();
    let image = check.image(ami.as_ref()).await?;
    let of_template = check.launch_template().await?;
    let kind = check.instance_type(image.as_ref(), of_template).await?;
    let subnet = check.subnet().await?;
    if let (Some(kind), Some(subnet)) = (&kind, &subnet) {
        check.offering(kind, subnet).await?;
    }
    check.security_groups(subnet.as_ref()).await?;
    check.key_pair().await?;
    check.placement_group().await?;
    if let Some(kind) = &kind {
        check.quota(kind).await;
    }
    check.run(ami.as_ref()).await?;
    Ok(check.missing)
}

/// What is good to know of a placement for up to so many instances, in sentences.
///
/// # Errors
/// Where EC2 could not be asked at all.
pub(super) async fn remarks(
    connection: &Connection,
    config: &PlacementConfig,
    max: u32,
) -> Result<Vec<String>, Failure> {
    let mut check = Check { connection, config, missing: Vec::new() };
    let of_template = check.launch_template().await?;
    let Some(kind) = check.instance_type(None, of_template).await? else { return Ok(Vec::new()) };
    let remark = match Quota::of(connection, &kind, config.spot).await {
        Ok(quota) => quota.and_then(|quota| quota.remark(max)),
        Err(failure) => Some(unknown(&failure)),
    };
    Ok(remark.into_iter().collect())
}

fn of_image(config: &PlacementConfig) -> &'static str {
    match &config.image {
        Some(ImageConfig::Named(name)) if name.starts_with("ssm:") => "ssm:GetParameter",
        _ => "ec2:DescribeImages",
    }
}

struct Check<'a> {
    connection: &'a Connection,
    config: &'a PlacementConfig,
    missing: Vec<String>,
}

impl Check<'_> {
    fn say(&mut self, what: impl Into<String>) {
        self.missing.push(what.into());
    }

    /// Notes a missing permission, and what does not exist or fit, and goes on.
    fn told<T>(
        &mut self,
        permission: &str,
        answer: Result<T, impl Into<Failure>>,
    ) -> Result<Option<T>, Failure> {
        let failure = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(failure) => failure.into(),
        };
        match failure.meaning(Effect::None) {
            BackendErrorKind::PermissionDenied => {
                self.say(format!("the credentials may not do {permission}: {failure}"));
            }
            BackendErrorKind::NotFound
            | BackendErrorKind::InvalidConfig
            | BackendErrorKind::QuotaExceeded => {
                self.say(failure.to_string());
            }
            _ => return Err(failure),
        }
        Ok(None)
    }

    /// The same for a call that only tried.
    fn tried<T>(&mut self, permission: &str, answer: Result<T, impl Into<Failure>>) -> Result<(), Failure> {
        match answer.map_err(Into::into) {
            Err(failure) if failure.code() == WOULD_HAVE_SUCCEEDED => Ok(()),
            answer => self.told(permission, answer).map(drop),
        }
    }

    /// Looks, and tries to end one of ours, where there is one: a policy may allow it of ours alone, so that nothing else
    /// can be tried.
    async fn instances(&mut self) -> Result<(), Failure> {
        let ec2 = &self.connection.ec2;
        let filters = vec![
            filter("tag-key", [Owner::FINGERPRINT_TAG]),
            filter("instance-state-name", ["pending", "running"]),
        ];
        let looked = ec2.describe_instances().set_filters(Some(filters)).max_results(5).send().await;
        let Some(looked) = self.told("ec2:DescribeInstances", looked)? else { return Ok(()) };
        let mut instances = looked.reservations().iter().flat_map(Reservation::instances);
        let Some(id) = instances.find_map(|one| one.instance_id()) else { return Ok(()) };
        let ended = ec2.terminate_instances().instance_ids(id).dry_run(true).send().await;
        self.tried("ec2:TerminateInstances", ended)
    }

    async fn image(&mut self, ami: Option<&Ami>) -> Result<Option<Image>, Failure> {
        let Some(ami) = ami else { return Ok(None) };
        let image = described(self.connection, &ami.id).await;
        let Some(image) = self.told("ec2:DescribeImages", image)? else { return Ok(None) };
        let (has, wants) = (image.architecture().map(ArchitectureValues::as_str), self.config.architecture());
        if has.is_some_and(|has| has != wants) {
            self.say(format!(
                "image {} is for {}, and the group is for {wants}",
                ami.id,
                has.unwrap_or_default()
            ));
        }
        if let Some(state) = image.state().map(ImageState::as_str).filter(|state| *state != "available") {
            self.say(format!("image {} is {state}, not available", ami.id));
        }
        Ok(Some(image))
    }

    /// The type that is named, or that of the launch template.
    async fn instance_type(
        &mut self,
        image: Option<&Image>,
        of_template: Option<String>,
    ) -> Result<Option<InstanceTypeInfo>, Failure> {
        let Some(name) = self.config.instance_type().map(str::to_owned).or(of_template) else {
            return Ok(None);
        };
        let answer =
            self.connection.ec2.describe_instance_types().instance_types(name.as_str().into()).send().await;
        let Some(answer) = self.told("ec2:DescribeInstanceTypes", answer)? else { return Ok(None) };
        let Some(kind) = answer.instance_types.unwrap_or_default().pop() else {
            self.say(format!("there is no instance type {name} in this region"));
            return Ok(None);
        };
        let architectures =
            kind.processor_info().map(ProcessorInfo::supported_architectures).unwrap_or_default();
        let wants = image.and_then(|image| image.architecture()).map(ArchitectureValues::as_str);
        let wants = wants.unwrap_or_else(|| self.config.architecture());
        if !architectures.is_empty() && !architectures.iter().any(|has| has.as_str() == wants) {
            let has: Vec<&str> = architectures.iter().map(ArchitectureType::as_str).collect();
            self.say(format!(
                "instance type {name} has {} processors, and the image is for {wants}",
                has.join(", ")
            ));
        }
        let uses = kind.supported_usage_classes();
        if self.config.spot && !uses.is_empty() && !uses.contains(&UsageClassType::Spot) {
            self.say(format!("instance type {name} is not to be had as a spot instance"));
        }
        Ok(Some(kind))
    }

    async fn subnet(&mut self) -> Result<Option<Subnet>, Failure> {
        let Some(id) = self.config.subnet() else { return Ok(None) };
        let answer = self.connection.ec2.describe_subnets().subnet_ids(id).send().await;
        let Some(answer) = self.told("ec2:DescribeSubnets", answer)? else { return Ok(None) };
        let subnet = answer.subnets.unwrap_or_default().pop();
        match &subnet {
            None => self.say(format!("there is no subnet {id}")),
            Some(subnet) if subnet.available_ip_address_count() == Some(0) => {
                self.say(format!("subnet {id} has no free address"));
            }
            Some(_) => {}
        }
        Ok(subnet)
    }

    /// Whether the zone of a subnet has the type at all.
    async fn offering(&mut self, kind: &InstanceTypeInfo, subnet: &Subnet) -> Result<(), Failure> {
        let (Some(kind), Some(zone)) = (kind.instance_type(), subnet.availability_zone()) else {
            return Ok(());
        };
        let filters = vec![filter("instance-type", [kind.as_str()]), filter("location", [zone])];
        let asked = self.connection.ec2.describe_instance_type_offerings();
        let asked = asked.location_type(LocationType::AvailabilityZone).set_filters(Some(filters));
        let answer = asked.send().await;
        let Some(answer) = self.told("ec2:DescribeInstanceTypeOfferings", answer)? else { return Ok(()) };
        if answer.instance_type_offerings().is_empty() {
            self.say(format!(
                "the zone {zone} of subnet {} has no instances of type {}",
                subnet.subnet_id().unwrap_or_default(),
                kind.as_str()
            ));
        }
        Ok(())
    }

    async fn security_groups(&mut self, subnet: Option<&Subnet>) -> Result<(), Failure> {
        for id in &self.config.security_groups {
            let answer = self.connection.ec2.describe_security_groups().group_ids(id).send().await;
            let Some(answer) = self.told("ec2:DescribeSecurityGroups", answer)? else { continue };
            let vpc = subnet.and_then(|subnet| subnet.vpc_id());
            match answer.security_groups().first() {
                None => self.say(format!("there is no security group {id}")),
                Some(group) if vpc.is_some() && group.vpc_id().is_some() && group.vpc_id() != vpc => {
                    self.say(format!("security group {id} is of another VPC than the subnet"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn key_pair(&mut self) -> Result<(), Failure> {
        let Some(name) = &self.config.key_pair else { return Ok(()) };
        let answer = self.connection.ec2.describe_key_pairs().key_names(name).send().await;
        self.told("ec2:DescribeKeyPairs", answer).map(drop)
    }

    async fn placement_group(&mut self) -> Result<(), Failure> {
        let Some(name) = &self.config.placement_group else { return Ok(()) };
        let answer = self.connection.ec2.describe_placement_groups().group_names(name).send().await;
        self.told("ec2:DescribePlacementGroups", answer).map(drop)
    }

    /// The type of instances that a launch template has, if any.
    async fn launch_template(&mut self) -> Result<Option<String>, Failure> {
        let Some(LaunchTemplateConfig { id, name, version }) = &self.config.launch_template else {
            return Ok(None);
        };
        let asked = self.connection.ec2.describe_launch_template_versions();
        let asked = asked.set_launch_template_id(id.clone()).set_launch_template_name(name.clone());
        let answer = asked.versions(version.as_deref().unwrap_or("$Default")).send().await;
        let Some(answer) = self.told("ec2:DescribeLaunchTemplateVersions", answer)? else { return Ok(None) };
        let Some(found) = answer.launch_template_versions().first() else {
            self.say("the launch template has no such version");
            return Ok(None);
        };
        let kind = found.launch_template_data().and_then(|data| data.instance_type());
        Ok(kind.map(|kind| kind.as_str().to_owned()))
    }

    /// One that is not told keeps nothing from working: `remarks` says why.
    async fn quota(&mut self, kind: &InstanceTypeInfo) {
        let quota = Quota::of(self.connection, kind, self.config.spot).await;
        self.missing.extend(quota.ok().flatten().and_then(|quota| quota.missing()));
    }

    /// The whole request, with tags as a runner's instance would have them.
    async fn run(&mut self, ami: Option<&Ami>) -> Result<(), Failure> {
        // What was not found would only be told once more.
        if ami.is_none() && self.config.image.is_some() {
            return Ok(());
        }
        let request = match request::base(self.config, ami) {
            Ok(request) => request,
            Err(failure) => return self.told("ec2:RunInstances", Err::<(), _>(failure)).map(drop),
        };
        let marks = [Owner::DEPLOYMENT_TAG, Owner::FINGERPRINT_TAG, Owner::RUNNER_TAG, Owner::GROUP_TAG];
        let marks = marks.map(|key| Tag::builder().key(key).value("check").build());
        let tags =
            |kind| TagSpecification::builder().resource_type(kind).set_tags(Some(marks.to_vec())).build();
        let kinds = [ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface];
        let request = request.dry_run(true).set_tag_specifications(Some(kinds.map(tags).into()));
        let answer = request.send_with(&self.connection.ec2).await;
        match answer.map_err(Failure::from) {
            Err(failure) if failure.code() == WOULD_HAVE_SUCCEEDED || self.has_told(&failure) => Ok(()),
            answer => self.told("ec2:RunInstances", answer).map(drop),
        }
    }

    /// Whether a look has found out the same.
    fn has_told(&self, failure: &Failure) -> bool {
        let words = failure.to_string();
        self.missing.contains(&words)
    }
}
