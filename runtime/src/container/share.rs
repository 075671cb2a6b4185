//! Sharing a container's root file system and bind mounts: they are bound into the directory that the guest sees
//! (P-099, P-100).

use std::path::Path;

use serde_json::Value;

use super::hotplug::PluggedRoot;
use crate::container::{ContainerRef, OpenContainer};
use crate::error::{Component, Error, Result};
use crate::id::random_hex;
use crate::pod::guarded;
use crate::spec::oci::{shared_binds, shm_source, GuestBind, GuestPaths, GUEST_SHARED_DIR};
use crate::store::{BindRecord, MountsRecord};

/// Longest last part of a name in the shared directory, so that the whole stays a file name.
const MAX_BASE_NAME: usize = 40;

impl ContainerRef<'_, '_> {
    /// Binds root file system and mounts, after they are recorded. Returns their paths in the guest.
    pub(crate) fn share(&mut self, oci: &Value, root: Option<PluggedRoot>) -> Result<GuestPaths> {
        let mounts = self.pod.sandbox.backends.mounts.clone();
        let mut paths = GuestPaths {
            start_container: self.pod.config.hooks.start_container.clone(),
            guest_hooks: self.pod.config.agent.guest_hooks.as_ref().map(|dir| dir.to_string_lossy().into_owned()),
            seccomp: self.pod.sandbox.backends.agent.capabilities().seccomp,
            shm_bytes: shm_source(oci).and_then(shm_size),
            ..GuestPaths::default()
        };
        let mut binds = Vec::new();
        paths.rootfs = match root {
            Some(root) => self.mount_root_disk(&root)?,
            None => {
                let bind = self.bind_of_root()?;
                let name = bind.target.file_name().unwrap_or_default().to_string_lossy().into_owned();
                binds.push(bind);
                format!("{GUEST_SHARED_DIR}/{name}")
            }
        };
        paths.binds = self.mount_block_volumes()?;
        for (source, destination, read_only) in shared_binds(oci) {
            let source = guarded(Component::Mounts, "resolve", || mounts.resolve(Path::new(&source)))?;
            let name = self.share_name(&destination)?;
            paths
                .binds
                .push(GuestBind { destination: destination.clone(), source: format!("{GUEST_SHARED_DIR}/{name}") });
            let target = self.pod.dirs.shared_dir().join(name);
            binds.push(BindRecord { source, target, destination, read_only });
        }
        let record = MountsRecord(binds);
        self.pod.store().put(&self.dirs.mounts_record(), &record)?;
        self.mounts = record;
        for bind in &self.mounts.0 {
            guarded(Component::Mounts, "bind", || mounts.bind(bind))?;
        }
        self.note_host_paths();
        Ok(paths)
    }

    fn bind_of_root(&self) -> Result<BindRecord> {
        let mounts = &self.pod.sandbox.backends.mounts;
        let source = guarded(Component::Mounts, "resolve", || mounts.resolve(&self.config.rootfs))?;
        if !self.config.rootfs_type.is_empty() {
            return Err(Error::invalid(
                format!("container {}: rootfs_type {}", self.id, self.config.rootfs_type),
                format!("is for a disk image or block device; {} is a directory", source.display()),
            ));
        }
        if std::fs::metadata(&source).is_ok_and(|found| !found.is_dir()) {
            return Err(Error::invalid(
                format!("container {}: rootfs {}", self.id, source.display()),
                match self.pod.refusal_of_disks() {
                    Some(refusal) => format!("is not a directory, and cannot be given to the pod as a disk: {refusal}"),
                    None => "is neither a directory nor a disk image or block device".into(),
                },
            ));
        }
        let target = self.pod.dirs.shared_dir().join(self.share_name("rootfs")?);
        Ok(BindRecord { source, target, destination: "/".into(), read_only: self.config.readonly_rootfs })
    }

    /// Container id, 16 random hexadecimal digits, base name of the destination (P-100).
    fn share_name(&self, destination: &str) -> Result<String> {
        let base: String = destination
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| c.is_ascii_graphic())
            .take(MAX_BASE_NAME)
            .collect();
        Ok(format!("{}-{}-{base}", self.id, random_hex(8)?))
    }

    /// Notes in the configured mounts where the host has bound them.
    fn note_host_paths(&mut self) {
        let container: &mut OpenContainer = self;
        for mount in &mut container.config.mounts {
            let bind = container.mounts.0.iter().find(|bind| bind.destination == mount.destination);
            mount.host_path = bind.map(|bind| bind.target.clone());
        }
    }
}

/// Size of the file system at `path`, which is the caller's `/dev/shm` for the container.
fn shm_size(path: &str) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    stat.blocks().checked_mul(stat.fragment_size()).filter(|size| *size > 0)
}
