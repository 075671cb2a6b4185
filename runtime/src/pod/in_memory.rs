//! The file systems in memory (tmpfs, ramfs) to which a pod can write: their content is charged to the pod's control group, and
//! the kernel cannot give it back.
//!
//! They are found behind all that a container can write to: directories and disk images, named volumes, mounts below a bind, the
//! upper layer of an overlay, and the file behind a loop device. Not found is a mount that the host makes below a bind later, and an
//! upper layer whose name is relative. A file system that the host makes larger counts with its first size.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{open, OFlag};
use nix::sys::stat::{major, minor, Mode};
use nix::sys::statfs::{fstatfs, FsType, TMPFS_MAGIC};
use nix::sys::sysinfo::sysinfo;

use crate::logger;
use crate::mounts::table::{self, Mount};
use crate::spec::oci::is_pseudo;
use crate::spec::{ContainerConfig, DeviceKind, MountSpec, Volume};

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Sizes in MiB, by device number.
pub(crate) type Sizes = BTreeMap<u64, u64>;

/// The sizes of those to which these containers and volumes can write. `named`: the directory of a named volume.
pub(crate) fn sizes(
    containers: &[ContainerConfig],
    volumes: &[Volume],
    named: impl Fn(&str) -> Option<PathBuf>,
) -> Sizes {
    let roots = containers.iter().filter(|container| !container.readonly_rootfs).map(|c| c.rootfs.clone());
    let mounts = containers.iter().flat_map(|container| &container.mounts);
    let mounts = mounts.filter(|mount| mount.is_bind() && !mount.is_read_only() && !is_pseudo(&mount.destination));
    let mounts = mounts.map(|mount| PathBuf::from(&mount.source));
    let named_volume = |mount: &MountSpec| {
        let shared = mount.is_volume() && !mount.is_read_only() && !is_pseudo(&mount.destination);
        shared.then(|| named(&mount.source)).flatten()
    };
    let disks = containers.iter().flat_map(ContainerConfig::machine_devices).filter_map(|device| {
        let read_only = device.volume.is_some_and(|volume| volume.read_only);
        (device.kind == DeviceKind::Block && !read_only).then_some(device.info.host_path).flatten()
    });
    let volumes = volumes.iter().filter(|volume| !volume.read_only).map(|volume| volume.path.clone());
    let table = table::read().unwrap_or_else(|error| {
        logger::warn!(
            "mounts in memory below a shared directory do not count: the mount table cannot be read: {error}"
        );
        Vec::new()
    });
    let mut sizes = Sizes::new();
    for path in roots.chain(mounts).chain(disks).chain(volumes) {
        add(&path, &table, &mut sizes);
    }
    // A volume that does not exist yet will lie where the directory of all volumes lies, or will lie.
    for path in containers.iter().flat_map(|container| &container.mounts).filter_map(named_volume) {
        match path.ancestors().find_map(|path| path.canonicalize().ok()) {
            Some(there) if !path.exists() => add_own(&there, &table, &mut sizes),
            _ => add(&path, &table, &mut sizes),
        }
    }
    sizes
}

/// Their sum.
pub(crate) fn mib(sizes: &Sizes) -> u64 {
    sizes.values().copied().fold(0, u64::saturating_add)
}

/// Adds the file systems in memory that are behind `path` and mounted below it.
fn add(path: &Path, table: &[Mount], sizes: &mut Sizes) {
    let Ok(path) = path.canonicalize() else { return };
    add_own(&path, table, sizes);
    let below = table.iter().filter(|mount| mount.point != path && mount.point.starts_with(&path) && !mount.read_only);
    below.for_each(|mount| add_mount(mount, sizes));
}

/// Adds those behind `path` alone.
fn add_own(path: &Path, table: &[Mount], sizes: &mut Sizes) {
    sizes.extend(size(path));
    let own = mount_of(path).and_then(|id| table.iter().find(|mount| mount.id == id));
    sizes.extend(own.and_then(upper));
}

/// Device number and size of the file system with an overlay's upper layer, if that lies in memory.
fn upper(mount: &Mount) -> Option<(u64, u64)> {
    // A relative name was one for the process that made the mount.
    size(mount.upper.as_deref().filter(|path| path.is_absolute())?)
}

fn add_mount(mount: &Mount, sizes: &mut Sizes) {
    // The table names the types: a network file system whose server is gone would not answer statfs(2).
    match mount.kind.as_str() {
        "tmpfs" | "ramfs" => sizes.extend(size(&mount.point)),
        _ => sizes.extend(upper(mount)),
    }
}

/// The number of the mount that `path` is in, as the mount table has it.
fn mount_of(path: &Path) -> Option<u64> {
    let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Device number and size of the file system at `path` if it lies in memory. One without a size can take all memory of the host.
/// A path that cannot be opened has none: making the share reports it. A device node has its file system from devtmpfs: only the file
/// behind a loop device counts, to which the kernel writes for the group that writes to the device.
fn size(path: &Path) -> Option<(u64, u64)> {
    let file = File::from(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    if metadata.file_type().is_block_device() {
        let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
        let backing = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/loop/backing_file")).ok()?;
        let backing = fs::canonicalize(backing.trim_end_matches('\n')).ok()?;
        return backing.is_file().then(|| size(&backing)).flatten();
    }
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
    use nix::mount::{mount, umount2, MntFlags, MsFlags};
    use nix::sched::{unshare, CloneFlags};

    use super::*;

    #[test]
    fn file_systems_in_memory_count_once_and_only_where_the_guest_can_write() {
        let on_tmpfs = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
        let (_, size) = size(on_tmpfs.path()).expect("it lies in memory");
        assert!(size > 0);
        let in_memory = |containers: &[ContainerConfig]| mib(&sizes(containers, &[], |_| None));
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
        let none = |_: &str| None;
        assert_eq!((mib(&sizes(&[], &[volume(false)], none)), mib(&sizes(&[], &[volume(true)], none))), (size, 0));
    }
    /// Runs `body` in a mount namespace of its own, with an empty directory, if that is possible here.
    fn among_mounts(body: impl FnOnce(&Path) + Send + 'static) {
        let none = None::<&str>;
        let run = move || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
                let line = format!("SKIPPED: no mount namespace here: {error}\n");
                return std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).expect("stdout");
            }
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("a namespace of its own");
            let dir = tempfile::tempdir().expect("a directory");
            body(dir.path());
            // They go away with the thread; the directory is removed before.
            for mount in table::read().expect("a table").iter().rev().filter(|m| m.point.starts_with(dir.path())) {
                umount2(&mount.point, MntFlags::MNT_DETACH).expect("mounted");
            }
        };
        std::thread::spawn(run).join().expect("the test");
    }

    fn make(parts: &[&Path]) {
        parts.iter().for_each(|path| fs::create_dir_all(path).expect("a directory"));
    }

    fn mount_tmpfs(at: &Path, options: &str) {
        make(&[at]);
        mount(Some("t"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("a tmpfs");
    }

    fn bind(source: &Path, options: &[&str]) -> ContainerConfig {
        let mount = MountSpec {
            source: source.to_string_lossy().into_owned(),
            destination: "/data".into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..MountSpec::default()
        };
        ContainerConfig { rootfs: "/proc".into(), mounts: vec![mount], ..ContainerConfig::default() }
    }

    fn all(container: ContainerConfig) -> Vec<u64> {
        sizes(&[container], &[], |_| None).into_values().collect()
    }

    #[test]
    fn a_file_system_in_memory_below_a_bind_counts_unless_it_is_read_only() {
        among_mounts(|dir| {
            let source = dir.join("source with blank");
            mount_tmpfs(&source.join("a/b"), "size=3m");
            mount_tmpfs(&dir.join("beside"), "size=5m");
            mount_tmpfs(&source.join("ro"), "size=7m");
            let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, &source.join("ro"), None::<&str>, remount, None::<&str>).expect("read-only");
            assert_eq!(all(bind(&source, &["rbind"])), [3]);
            assert_eq!(all(bind(&source, &["rbind", "ro"])), [0; 0]);
            // Through a link, as the bind follows it.
            std::os::unix::fs::symlink(&source, dir.join("link")).expect("a link");
            assert_eq!(all(bind(&dir.join("link/a"), &["rbind"])), [3]);
        });
    }

    #[test]
    fn the_upper_layer_of_an_overlay_counts() {
        among_mounts(|dir| {
            let (memory, lower, merged) = (dir.join("memory"), dir.join("lower"), dir.join("deep/merged"));
            mount_tmpfs(&memory, "size=9m");
            let (upper, work) = (memory.join("up per"), memory.join("work"));
            make(&[&lower, &merged, &upper, &work]);
            let layers =
                format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
            let overlay = mount(Some("o"), &merged, Some("overlay"), MsFlags::empty(), Some(layers.as_str()));
            if let Err(error) = overlay {
                let line = format!("SKIPPED: no overlay here: {error}\n");
                return std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).expect("stdout");
            }
            make(&[&merged.join("sub")]);
            let root = |rootfs: &Path| ContainerConfig { rootfs: rootfs.into(), ..ContainerConfig::default() };
            assert_eq!(all(root(&merged)), [9]);
            assert_eq!(all(bind(&merged.join("sub"), &["rbind"])), [9], "a directory in it");
            assert_eq!(all(bind(&dir.join("deep"), &["bind"])), [9], "a directory above it");
            assert_eq!(all(ContainerConfig { readonly_rootfs: true, ..root(&merged) }), [0; 0]);
            // All of its layers in memory, but none to write to.
            let (first, second, read_only) = (memory.join("1"), memory.join("2"), dir.join("read-only"));
            make(&[&first, &second, &read_only]);
            let layers = format!("lowerdir={}:{}", first.display(), second.display());
            mount(Some("o"), &read_only, Some("overlay"), MsFlags::empty(), Some(layers.as_str())).expect("an overlay");
            assert_eq!(all(root(&read_only)), [0; 0]);
        });
    }

    #[test]
    fn a_named_volume_counts_before_it_exists() {
        among_mounts(|dir| {
            mount_tmpfs(&dir.join("volumes"), "size=11m");
            let mut container = bind(Path::new("data"), &[]);
            container.mounts[0].kind = "volume".into();
            let named = |name: &str| Some(dir.join("volumes").join(name));
            let count = |container: &ContainerConfig| mib(&sizes(std::slice::from_ref(container), &[], named));
            assert_eq!(count(&container), 11);
            make(&[&dir.join("volumes/data")]);
            assert_eq!(count(&container), 11);
            container.mounts[0].options.push("ro".into());
            assert_eq!(count(&container), 0);
        });
    }

    #[test]
    fn the_file_behind_a_loop_device_counts() {
        among_mounts(|dir| {
            mount_tmpfs(&dir.join("memory"), "size=13m");
            let image = dir.join("memory/image");
            File::create(&image).and_then(|file| file.set_len(1 << 20)).expect("an image");
            let losetup = |args: &[&std::ffi::OsStr]| std::process::Command::new("losetup").args(args).output();
            let made = losetup(&["--find".as_ref(), "--show".as_ref(), image.as_ref()]);
            let Some(made) = made.ok().filter(|made| made.status.success()) else {
                let line = b"SKIPPED: no loop device here\n";
                return std::io::Write::write_all(&mut std::io::stdout(), line).expect("stdout");
            };
            let device = String::from_utf8_lossy(&made.stdout).trim().to_owned();
            let mut container = bind(Path::new(&device), &[]);
            container.mounts[0].kind = "block".into();
            let counted = all(container.clone());
            container.mounts[0].read_only = true;
            let read_only = all(container);
            losetup(&["--detach".as_ref(), device.as_ref()]).expect("detached");
            assert_eq!((counted, read_only), (vec![13], vec![]));
        });
    }
}
