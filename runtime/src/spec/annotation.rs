//! Annotations that change a pod's machine, and the host's policy for them (P-190, P-191).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512};

use super::{need_absolute, PodConfig};
use crate::error::{Error, Result};

/// Prefix of hutch's own annotations.
pub const ANNOTATION_PREFIX: &str = "dev.hutch.hypervisor.";
/// Prefix of Kata Containers' annotations, accepted as well.
pub const KATA_PREFIX: &str = "io.katacontainers.config.hypervisor.";

/// A file of the machine that an annotation can replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Override {
    /// The guest kernel.
    Kernel,
    /// The root disk image.
    Image,
    /// The initial RAM file system.
    Initrd,
    /// Program of the machine monitor.
    Vmm,
    /// The firmware. Type `hutch` boots without it and refuses the override (P-190).
    Firmware,
}

impl Override {
    const ALL: [Override; 5] = [Override::Kernel, Override::Image, Override::Initrd, Override::Vmm, Override::Firmware];

    /// Key of the path under each prefix; `{key}_hash` and the shared `asset_hash_type` go with it.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Override::Kernel => &["kernel"],
            Override::Image => &["image"],
            Override::Initrd => &["initrd"],
            Override::Vmm => &["vmm", "path"],
            Override::Firmware => &["firmware"],
        }
    }
}

/// The overrides that the host allows to pods. None by default (P-191).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AssetPolicy {
    /// Overrides that are enabled.
    pub enabled: BTreeSet<Override>,
    /// Files that may be used, and directories whose files may be used.
    pub allowed_paths: Vec<PathBuf>,
}

impl AssetPolicy {
    /// Applies the pod's annotations to its machine; checks each against the policy and its hash (P-190, P-191).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with the annotation.
    pub fn apply(&self, config: &mut PodConfig) -> Result<()> {
        if let (Some((prefix, key, _)), Some(_)) = (find(config, Override::Image), find(config, Override::Initrd)) {
            let what = format!("annotation {prefix}{key}");
            return Err(Error::invalid(what, "cannot be given together with one for the initrd; give one of the two"));
        }
        for asset in Override::ALL {
            let Some((prefix, key, path)) = find(config, asset) else { continue };
            let annotation = format!("annotation {prefix}{key}");
            let path = PathBuf::from(path);
            need_absolute(&annotation, &path)?;
            let path = self.admit(asset, &annotation, &path)?;
            let lookup = |suffix: &str| config.annotations.get(&format!("{prefix}{suffix}")).cloned();
            if let Some(hash) = lookup(&format!("{key}_hash")) {
                let kind = lookup("asset_hash_type").unwrap_or_else(|| "sha512".into());
                check_hash(&annotation, &path, &kind, &hash)?;
            }
            let machine = &mut config.hypervisor;
            match asset {
                Override::Kernel => machine.kernel = path,
                // Image and initrd exclude each other, so the override replaces either.
                Override::Image => (machine.image, machine.initrd) = (Some(path), None),
                Override::Initrd => (machine.image, machine.initrd) = (None, Some(path)),
                Override::Vmm => machine.vmm = Some(path),
                Override::Firmware => machine.firmware = Some(path),
            }
        }
        Ok(())
    }

    /// The file at `path`, if the policy allows it. Links are resolved first, so that none can lead out of the allowed
    /// paths.
    fn admit(&self, asset: Override, annotation: &str, path: &Path) -> Result<PathBuf> {
        if !self.enabled.contains(&asset) {
            return Err(Error::invalid(annotation, "is not enabled in the host's configuration"));
        }
        let real = path.canonicalize().map_err(|e| Error::invalid(annotation, format!("{}: {e}", path.display())))?;
        let allowed = self.allowed_paths.iter().filter_map(|allowed| allowed.canonicalize().ok());
        if !allowed.into_iter().any(|allowed| real.starts_with(allowed)) {
            let reason = format!("names {}, which is not on the host's list of allowed paths", real.display());
            return Err(Error::invalid(annotation, reason));
        }
        Ok(real)
    }
}

fn find(config: &PodConfig, asset: Override) -> Option<(&'static str, &'static str, String)> {
    [ANNOTATION_PREFIX, KATA_PREFIX].into_iter().find_map(|prefix| {
        asset.keys().iter().find_map(|key| {
            let path = config.annotations.get(&format!("{prefix}{key}"))?;
            Some((prefix, *key, path.clone()))
        })
    })
}

/// Supports SHA-512 only. An empty file never matches (P-190).
fn check_hash(annotation: &str, path: &Path, kind: &str, expected: &str) -> Result<()> {
    if !kind.eq_ignore_ascii_case("sha512") {
        return Err(Error::invalid(annotation, format!("hash type {kind:?} is not supported; use sha512")));
    }
    let (digest, len) =
        hash_file(path).map_err(|e| Error::invalid(annotation, format!("cannot read {}: {e}", path.display())))?;
    if len == 0 {
        return Err(Error::invalid(annotation, format!("{} is empty", path.display())));
    }
    if !digest.eq_ignore_ascii_case(expected) {
        return Err(Error::invalid(annotation, format!("{} does not have the given SHA-512 digest", path.display())));
    }
    Ok(())
}

fn hash_file(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hash = Sha512::new();
    let mut buffer = vec![0; 64 << 10];
    let mut len = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        len += count as u64;
    }
    Ok((hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), len))
}
