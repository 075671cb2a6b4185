//! Dependency rules: which workspace package may use which, and which packages must exist in one version only.

use super::findings;
use super::metadata::Metadata;
use crate::Result;

/// Each workspace package, and the workspace packages that it may use outside of tests. Arrows only point down.
const ARROWS: [(&str, &[&str]); 21] = [
    ("hutch", &["hutch-guest", "hutch-runtime", "hutch-vmm", "hutch-agent-proto"]),
    ("hutch-runtime", &["hutch-vmm", "hutch-agent-proto", "hutch-hook", "hutch-netlink"]),
    ("hutch-guest", &[]),
    ("hutch-netlink", &[]),
    ("hutch-vmm", &["hutch-devices"]),
    ("hutch-devices", &[]),
    ("hutch-agent", &["hutch-agent-proto", "hutch-netlink"]),
    ("hutch-agent-oci", &["hutch-agent", "hutch-agent-proto", "hutch-hook"]),
    ("hutch-agent-proto", &[]),
    ("hutch-hook", &[]),
    ("hutch-testbed", &[]),
    ("hutch-testbed-kernel", &["hutch-agent-proto", "hutch-guest", "hutch-testbed-host"]),
    ("hutch-testbed-host", &["hutch-testbed"]),
    (
        "hutch-e2e",
        &[
            "hutch-agent-proto",
            "hutch-file-suites",
            "hutch-runtime",
            "hutch-runtime-fakes",
            "hutch-takeover",
            "hutch-testbed",
        ],
    ),
    ("hutch-file-suites", &[]),
    ("hutch-takeover", &[]),
    ("hutch-interleavings", &[]),
    ("hutch-perf", &["hutch-runtime"]),
    ("hutch-attack", &["hutch-agent-oci", "hutch-agent-proto", "hutch-devices", "hutch-runtime", "hutch-vmm"]),
    ("hutch-runtime-fakes", &["hutch-agent-proto", "hutch-runtime"]),
    ("xtask", &["hutch-agent-proto", "hutch-testbed", "hutch-testbed-host"]),
];

/// Packages whose types cross crates, so that two versions in the tree would not work together.
const ONCE: [&str; 4] = ["vm-memory", "vmm-sys-util", "virtio-queue", "kvm-bindings"];

/// Backends: only the package on the right may use the one on the left, tests included.
const ONLY_IN: [(&str, &str); 3] =
    [("kvm-ioctls", "hutch-vmm"), ("linux-loader", "hutch-vmm"), ("acpi_tables", "hutch-vmm")];

/// Runs the check.
pub(crate) fn check() -> Result<()> {
    findings(problems(&Metadata::load()?))
}

fn problems(metadata: &Metadata) -> Vec<String> {
    let members = metadata.members();
    let mut found = Vec::new();
    for (name, package) in &members {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| known == name) else {
            found.push(format!("{name} has no dependency rule: add it to ARROWS"));
            continue;
        };
        for dependency in &package.dependencies {
            let other = dependency.name.as_str();
            let ordinary = dependency.kind.as_deref() != Some("dev");
            if ordinary && members.contains_key(other) && !allowed.contains(&other) {
                found.push(format!("{name} must not depend on {other}"));
            }
            if let Some((_, owner)) = ONLY_IN.iter().find(|(backend, owner)| *backend == other && owner != name) {
                found.push(format!("{name} must not depend on {other}, which belongs behind {owner}"));
            }
        }
    }
    for name in ONCE {
        let copies: Vec<&str> = metadata.packages.iter().filter(|p| p.name == name).map(|p| &*p.version).collect();
        if copies.len() > 1 {
            found.push(format!("{name} is in the tree more than once: {}", copies.join(", ")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(json: serde_json::Value) -> Metadata {
        serde_json::from_value(json).unwrap()
    }

    fn package(name: &str, version: &str, dependencies: &[(&str, Option<&str>)]) -> serde_json::Value {
        let dependencies: Vec<_> =
            dependencies.iter().map(|(name, kind)| serde_json::json!({ "name": name, "kind": kind })).collect();
        let id = format!("{name} {version}");
        serde_json::json!({ "id": id, "name": name, "version": version, "license": null, "dependencies": dependencies })
    }

    #[test]
    fn wrong_arrows_backends_and_copies_are_all_reported() {
        let found = problems(&metadata(serde_json::json!({
            "packages": [
                package("hutch-devices", "1", &[("hutch-vmm", None), ("kvm-ioctls", Some("dev"))]),
                package("hutch-vmm", "1", &[("hutch-devices", None), ("hutch-runtime", Some("dev")), ("kvm-ioctls", None)]),
                package("hutch-novelty", "1", &[]),
                package("vm-memory", "1", &[]),
                package("vm-memory", "2", &[]),
            ],
            "workspace_members": ["hutch-devices 1", "hutch-vmm 1", "hutch-novelty 1"],
        })));
        assert_eq!(
            found,
            [
                "hutch-devices must not depend on hutch-vmm",
                "hutch-devices must not depend on kvm-ioctls, which belongs behind hutch-vmm",
                "hutch-novelty has no dependency rule: add it to ARROWS",
                "vm-memory is in the tree more than once: 1, 2",
            ]
        );
    }
}
