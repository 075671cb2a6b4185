//! The file systems in memory (tmpfs, ramfs) to which a pod can write: their content is charged to the pod's control group, and
//! the kernel cannot give it back.
//!
//! Named volumes, mounts below a bind and the upper layers of overlays are not looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;
use nix::sys::statfs::{fstatfs, FsType, TMPFS_MAGIC};
use nix::sys::sysinfo::sysinfo;

use crate::spec::oci::is_pseudo;
use crate::spec::{ContainerConfig, Volume};

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Sizes in MiB, by device number.
pub(crate) type Sizes = BTreeMap<u64, u64>;

/// The sizes of those to which these containers and volumes can write.
pub(crate) fn sizes(containers: &[ContainerConfig], volumes: &[Volume]) -> Sizes {
    let roots = containers.iter().filter(|container| !container.readonly_rootfs).map(|c| c.rootfs.as_path());
    let mounts = containers.iter().flat_map(|container| &container.mounts).filter(|mount| {
        let from_host = mount.is_block() || mount.is_bind() && !is_pseudo(&mount.destination);
        from_host && !mount.is_read_only()
    });
    let volumes = volumes.iter().filter(|volume| !volume.read_only).map(|volume| volume.path.as_path());
    let paths = roots.chain(mounts.map(|mount| Path::new(&mount.source))).chain(volumes);
    paths.filter_map(size).collect()
}

/// Their sum.
pub(crate) fn mib(sizes: &Sizes) -> u64 {
    sizes.values().copied().fold(0, u64::saturating_add)
}

/// Device number and size of the file system at `path` if it lies in memory. One without a size can take all memory of the host.
/// A path that cannot be opened has none: making the share reports it. Nor has a device node: it has its file system from devtmpfs.
fn size(path: &Path) -> Option<(u64, u64)> {
    let file = File::from(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    let of = fstatfs(&file).ok()?;
    let in_memory = [TMPFS_MAGIC, RAMFS_MAGIC].contains(&of.filesystem_type());
    if !in_memory || !(metadata.is_dir() || metadata.is_file()) {
        return None;
    }
    let all = sysinfo().map_or(u64::MAX, |info| info.ram_total().saturating_add(info.swap_total()));
    let bytes = of.blocks().saturating_mul(u64::try_from(of.block_size()).ok()?);
    let bytes = if bytes == 0 { all } else { bytes.min(all) };
    Some((metadata.dev(), bytes >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::MountSpec;

    #[test]
    fn file_systems_in_memory_count_once_and_only_where_the_guest_can_write() {
        let on_tmpfs = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
        let (_, size) = size(on_tmpfs.path()).expect("it lies in memory");
        assert!(size > 0);
        let in_memory = |containers: &[ContainerConfig]| mib(&sizes(containers, &[]));
        let container = |rootfs: &Path, readonly_rootfs| ContainerConfig {
            rootfs: rootfs.into(),
            readonly_rootfs,
            ..ContainerConfig::default()
        };
        assert_eq!(in_memory(&[container(on_tmpfs.path(), false), container(on_tmpfs.path(), false)]), size);
        assert_eq!(in_memory(&[container(on_tmpfs.path(), true), container(Path::new("/proc"), false)]), 0);
        assert_eq!(in_memory(&[container(Path::new("/no/such/directory"), false)]), 0);
        assert_eq!(in_memory(&[container(Path::new("/dev/null"), false)]), 0, "a device node");
        let bind = |destination: &str, options: &[&str]| MountSpec {
            source: on_tmpfs.path().to_string_lossy().into_owned(),
            destination: destination.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..MountSpec::default()
        };
        let with = |mount: MountSpec| {
            in_memory(&[ContainerConfig { mounts: vec![mount], ..container(Path::new("/proc"), false) }])
        };
        assert_eq!(with(bind("/data", &["rbind"])), size);
        assert_eq!(with(bind("/data", &["rbind", "ro"])), 0);
        assert_eq!(with(bind("/dev/shm", &["rbind"])), 0, "it is not shared");
        let volume = |read_only| Volume {
            tag: "data".into(),
            path: on_tmpfs.path().into(),
            read_only,
            cache: Default::default(),
            suid: Default::default(),
            trusted: false,
        };
        assert_eq!((mib(&sizes(&[], &[volume(false)])), mib(&sizes(&[], &[volume(true)]))), (size, 0));
    }
}
