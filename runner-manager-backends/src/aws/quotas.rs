//! EC2's quotas on processors: one for the instances on demand of a class of types, and another for those on spot. Service
//! Quotas tells how large they are, but not how much of them is in use, by us or by others in the account.

use aws_sdk_ec2::types::{InstanceTypeInfo, VCpuInfo};
use runner_manager_core::backend::BackendErrorKind;

use super::connection::Connection;
use super::errors::{Effect, Failure};

/// What may be missing to ask for them.
const PERMISSION: &str = "servicequotas:GetServiceQuota";

/// Types that count together, by the letters that their names begin with; and the codes of their quotas.
struct Class {
    families: &'static [&'static str],
    on_demand: &'static str,
    spot: Option<&'static str>,
}

const fn class(
    families: &'static [&'static str],
    on_demand: &'static str,
    spot: Option<&'static str>,
) -> Class {
    Class { families, on_demand, spot }
}

/// <https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html>; types that need a host of their own
/// (`mac`) have none.
const CLASSES: [Class; 10] = [
    class(&["a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"], "L-1216C47A", Some("L-34B43A08")),
    class(&["dl"], "L-6E869C2A", Some("L-85EED4F7")),
    class(&["f"], "L-74FC7D96", Some("L-88CF9481")),
    class(&["g", "gr", "vt"], "L-DB2E81BA", Some("L-3819A6DF")),
    class(&["hpc"], "L-F7808C92", None),
    class(&["inf"], "L-1945791B", Some("L-B5D1601B")),
    class(&["p"], "L-417A185B", Some("L-7212CCBC")),
    class(&["trn"], "L-2C3B7624", Some("L-6B0D517C")),
    class(&["u"], "L-43DA4232", None),
    class(&["x"], "L-7295265B", Some("L-E3A00192")),
];

/// The code of the quota that counts for a type; `None` where none is known.
fn code(instance_type: &str, spot: bool) -> Option<&'static str> {
    let family = instance_type.split(|char: char| !char.is_ascii_lowercase()).next()?;
    let class = CLASSES.iter().find(|class| class.families.contains(&family))?;
    if spot { class.spot } else { Some(class.on_demand) }
}

/// A quota, beside a type that counts for it.
#[derive(Debug)]
pub(super) struct Quota {
    /// What AWS calls it, and its code.
    name: String,
    processors: f64,
    instance_type: String,
    /// Of one instance.
    needs: i32,
}

impl Quota {
    /// The quota for a type; `None` where none is known, or the type's processors are not.
    ///
    /// # Errors
    /// Where it is not told.
    pub(super) async fn of(
        connection: &Connection,
        kind: &InstanceTypeInfo,
        spot: bool,
    ) -> Result<Option<Self>, Failure> {
        let needs = kind.v_cpu_info().and_then(VCpuInfo::default_v_cpus);
        let (Some(instance_type), Some(needs)) = (kind.instance_type(), needs) else { return Ok(None) };
        let Some(code) = code(instance_type.as_str(), spot) else { return Ok(None) };
        let answer =
            connection.quotas.get_service_quota().service_code("ec2").quota_code(code).send().await?;
        let Some(told) = answer.quota() else { return Ok(None) };
        let Some(processors) = told.value() else { return Ok(None) };
        let name = told.quota_name().unwrap_or("on processors");
        let name = format!("`{name}` ({code})");
        Ok(Some(Self { name, processors, instance_type: instance_type.as_str().to_owned(), needs }))
    }

    /// Whether not even one instance fits, in words.
    pub(super) fn missing(&self) -> Option<String> {
        let Self { name, processors, instance_type, needs } = self;
        let fits = *processors >= f64::from(*needs);
        (!fits).then(|| {
            format!("the quota {name} allows {processors} processors, and one {instance_type} has {needs}")
        })
    }

    /// Whether some instances fit, and fewer than there may be, in words.
    pub(super) fn remark(&self, max: u32) -> Option<String> {
        let Self { name, processors, instance_type, needs } = self;
        let room = (processors / f64::from(*needs)).floor();
        (1.0..f64::from(max)).contains(&room).then(|| {
            format!(
                "the quota {name} allows {processors} processors, which is {room} of {instance_type} at most, and the \
                 group's max is {max}"
            )
        })
    }
}

/// Why a quota is not known, in words. Nothing depends on it.
pub(super) fn unknown(failure: &Failure) -> String {
    let why = match failure.meaning(Effect::None) {
        BackendErrorKind::PermissionDenied => format!("the credentials may not do {PERMISSION}: "),
        _ => String::new(),
    };
    format!("the quota on processors was not compared: {why}{failure}")
}

#[cfg(test)]
mod tests {
    use super::{Quota, code};

    #[test]
    fn each_type_has_the_quota_of_its_class() {
        for (instance_type, on_demand, spot) in [
            ("t3.small", Some("L-1216C47A"), Some("L-34B43A08")),
            ("im4gn.large", Some("L-1216C47A"), Some("L-34B43A08")),
            ("m7i-flex.large", Some("L-1216C47A"), Some("L-34B43A08")),
            ("dl2q.24xlarge", Some("L-6E869C2A"), Some("L-85EED4F7")),
            ("f2.6xlarge", Some("L-74FC7D96"), Some("L-88CF9481")),
            ("gr6.4xlarge", Some("L-DB2E81BA"), Some("L-3819A6DF")),
            ("hpc7a.12xlarge", Some("L-F7808C92"), None),
            ("inf2.xlarge", Some("L-1945791B"), Some("L-B5D1601B")),
            ("p6-b200.48xlarge", Some("L-417A185B"), Some("L-7212CCBC")),
            ("trn1n.32xlarge", Some("L-2C3B7624"), Some("L-6B0D517C")),
            ("u-6tb1.56xlarge", Some("L-43DA4232"), None),
            ("x2iedn.xlarge", Some("L-7295265B"), Some("L-E3A00192")),
            ("mac2.metal", None, None),
            ("", None, None),
        ] {
            assert_eq!(
                (code(instance_type, false), code(instance_type, true)),
                (on_demand, spot),
                "{instance_type}"
            );
        }
    }

    #[test]
    fn room_is_counted_in_whole_instances() {
        let of = |processors| Quota {
            name: "`Running` (L-1)".to_owned(),
            processors,
            instance_type: "c7i.xlarge".to_owned(),
            needs: 4,
        };
        assert_eq!(
            of(3.0).missing().as_deref(),
            Some("the quota `Running` (L-1) allows 3 processors, and one c7i.xlarge has 4")
        );
        assert_eq!((of(4.0).missing(), of(11.0).remark(2), of(3.0).remark(2)), (None, None, None));
        assert_eq!(
            of(11.0).remark(3).as_deref(),
            Some(
                "the quota `Running` (L-1) allows 11 processors, which is 2 of c7i.xlarge at most, and the group's \
                 max is 3"
            )
        );
    }
}
