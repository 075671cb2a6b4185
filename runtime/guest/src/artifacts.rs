//! `resources/artifacts.toml`, compiled into the program: versions and sums of the tested kernels. A package of a
//! recorded version with another sum is refused; a version without a record is only reported.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::store::manifest::{KernelOrigin, Manifest, VMLINUX};
use super::GuestError;

const TEXT: &str = include_str!("../../../resources/artifacts.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Artifacts {
    #[serde(default)]
    distro: Vec<DistroArtifact>,
    #[serde(default)]
    source: Vec<SourceArtifact>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DistroArtifact {
    package: String,
    version: String,
    deb_sha256: Digest,
    vmlinux_sha256: Digest,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceArtifact {
    package: String,
    version: String,
    archive_sha256: Digest,
    config_sha256: Digest,
    compiler: String,
    vmlinux_sha256: Digest,
}

/// Result of comparing an asset with the recorded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recorded {
    /// The same version, the same kernel.
    Same,
    /// The same version and inputs, another kernel.
    Differs,
    /// The version, the configuration or the compiler has no record.
    Unknown,
}

fn load() -> Artifacts {
    match toml::from_str(TEXT) {
        Ok(artifacts) => artifacts,
        Err(error) => panic!("resources/artifacts.toml, which is compiled in, is malformed: {error}"),
    }
}

/// Refuses a package whose version is recorded with another sum.
pub(crate) fn check_package(package: &str, version: &str, got: Digest) -> Result<(), GuestError> {
    check_package_in(&load(), package, version, got)
}

fn check_package_in(known: &Artifacts, package: &str, version: &str, got: Digest) -> Result<(), GuestError> {
    match known.distro.iter().find(|one| one.package == package && one.version == version) {
        Some(one) if one.deb_sha256 != got => Err(GuestError::UnexpectedPackage {
            package: package.to_owned(),
            version: version.to_owned(),
            expected: one.deb_sha256,
            got,
        }),
        _ => Ok(()),
    }
}

/// Compares the kernel of an asset with the record of its origin.
pub(crate) fn compare(manifest: &Manifest) -> Recorded {
    compare_in(&load(), manifest)
}

fn compare_in(known: &Artifacts, manifest: &Manifest) -> Recorded {
    let recorded = match &manifest.kernel.origin {
        KernelOrigin::Package { package, version, .. } => known
            .distro
            .iter()
            .find(|one| one.package == *package && one.version == *version)
            .map(|one| one.vmlinux_sha256),
        KernelOrigin::Source { package, version, sha256, config_sha256, compiler } => known
            .source
            .iter()
            .find(|one| {
                (&one.package, &one.version, &one.compiler) == (package, version, compiler)
                    && (one.archive_sha256, one.config_sha256) == (*sha256, *config_sha256)
            })
            .map(|one| one.vmlinux_sha256),
        KernelOrigin::File { .. } => None,
    };
    match (recorded, manifest.files.get(VMLINUX)) {
        (Some(recorded), Some(file)) if recorded == file.sha256 => Recorded::Same,
        (Some(_), _) => Recorded::Differs,
        (None, _) => Recorded::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_compiled_in_is_well_formed() {
        let artifacts = load();
        assert!(!artifacts.distro.is_empty() && !artifacts.source.is_empty());
    }

    #[test]
    fn a_recorded_version_with_another_sum_is_refused() {
        let known = Artifacts {
            distro: vec![DistroArtifact {
                package: "p".into(),
                version: "1".into(),
                deb_sha256: Digest::of(b"deb"),
                vmlinux_sha256: Digest::of(b"elf"),
            }],
            source: Vec::new(),
        };
        check_package_in(&known, "p", "1", Digest::of(b"deb")).unwrap();
        check_package_in(&known, "p", "2", Digest::of(b"other")).unwrap();
        let error = check_package_in(&known, "p", "1", Digest::of(b"other")).unwrap_err();
        assert!(matches!(error, GuestError::UnexpectedPackage { .. }), "{error}");
    }
}
