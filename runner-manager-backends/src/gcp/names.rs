//! What the settings' names stand for: paths of resources at Compute.

/// The region of a zone: its name without what follows the last `-`.
pub(super) fn region(zone: &str) -> &str {
    zone.rsplit_once('-').map_or(zone, |(region, _)| region)
}

/// The last part of a path.
pub(super) fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The path of an image from its name, `family/NAME`, or a path.
pub(super) fn image(project: &str, image: &str) -> String {
    if image.starts_with("projects/") {
        return image.to_owned();
    }
    format!("projects/{project}/global/images/{image}")
}

/// The path of a network from its name or a path.
pub(super) fn network(project: &str, network: &str) -> String {
    if network.starts_with("projects/") {
        return network.to_owned();
    }
    format!("projects/{project}/global/networks/{network}")
}

/// The path of a subnet in a zone's region from its name or a path.
pub(super) fn subnet(project: &str, zone: &str, subnet: &str) -> String {
    if subnet.starts_with("projects/") {
        return subnet.to_owned();
    }
    format!("projects/{project}/regions/{}/subnetworks/{subnet}", region(zone))
}

/// The path of an instance template from its name or a path.
pub(super) fn template(project: &str, template: &str) -> String {
    if template.starts_with("projects/") {
        return template.to_owned();
    }
    format!("projects/{project}/global/instanceTemplates/{template}")
}

/// Whether a text is one name, as resources have them.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether a text can be a project's id, also one of a domain (`example.com:project`).
pub(super) fn is_project(text: &str) -> bool {
    !text.is_empty() && text.split(['.', ':']).all(is_name)
}

/// Whether a text is a path `projects/PROJECT/...` that has these steps at its end; `*` stands for any name.
pub(super) fn is_path(text: &str, steps: &[&str]) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let ["projects", project, rest @ ..] = parts.as_slice() else { return false };
    is_project(project)
        && rest.len() == steps.len()
        && rest.iter().zip(steps).all(|(part, step)| part == step || (*step == "*" && is_name(part)))
}

#[cfg(test)]
mod tests {
    use super::{image, is_path, is_project, region, subnet};

    #[test]
    fn names_stand_for_paths() {
        assert_eq!(region("europe-west1-b"), "europe-west1");
        assert_eq!(image("p", "family/debian-12"), "projects/p/global/images/family/debian-12");
        assert_eq!(image("p", "projects/d/global/images/x"), "projects/d/global/images/x");
        assert_eq!(
            subnet("host", "europe-west1-b", "runners"),
            "projects/host/regions/europe-west1/subnetworks/runners"
        );
        assert!(is_project("example.com:my-project") && !is_project("a/b") && !is_project(""));
        assert!(is_path("projects/d/global/images/family/x", &["global", "images", "family", "*"]));
        assert!(!is_path("projects/d/global/images/../x", &["global", "images", "*", "*"]));
    }
}
