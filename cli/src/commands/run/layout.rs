//! The devices of the machine, and the mounts that the agent makes in the guest.
//!
//! In the guest, `/run/hutch/root` is the root file system of the command; with an overlay, `/run/hutch/lower` is its
//! lower layer. Each single file has its own share at `/run/hutch/vN`, from which the agent binds it to its
//! destination.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use hutch_agent_proto::{GuestMount, SandboxSpec};
use hutch_vmm::config::{
    BlockConfig, ConsoleConfig, ConsoleLevel, ConsoleOutput, NetConfig, ShareConfig, SharePolicy, TapSource,
    VsockConfig,
};
use hutch_vmm::{Confinement, MachineConfig};

use crate::resolve::{RootMode, RootSource, RunPlan};

/// The guest's context id. The vsock belongs to one guest, so that the id need not be unique.
const GUEST_CID: u64 = 3;
/// Tag of the share, or serial number of the disk, of the root file system.
const ROOT_TAG: &str = "root";
/// Mount point of the root file system.
const ROOT: &str = "/run/hutch/root";
/// Mount point of the root file system below an overlay.
const LOWER: &str = "/run/hutch/lower";
/// Mount point of the tmpfs that takes the overlay's writes.
const WRITES: &str = "/run/hutch/writes";
/// Directory of the mount points of single files.
const FILES: &str = "/run/hutch";
/// Entropy for the guest's pool, in bytes: the size of Linux's pool.
const ENTROPY: usize = 32;

/// The machine and its guest.
pub struct Layout {
    pub machine: MachineConfig,
    pub sandbox: SandboxSpec,
}

/// Lays out machine and guest as planned.
pub fn lay_out(plan: &RunPlan, kernel: &Path, initrd: &Path) -> Layout {
    let mut machine = MachineConfig::new(&plan.name, kernel);
    machine.vcpus = plan.cpus;
    machine.memory.size_mib = plan.memory_mib;
    machine.initrd = Some(plan.initrd.clone().unwrap_or_else(|| initrd.to_owned()));
    machine.cmdline.clone_from(&plan.append);
    machine.console = match &plan.console {
        Some(path) => ConsoleConfig { output: ConsoleOutput::File(path.clone()), level: ConsoleLevel::Verbose },
        None => ConsoleConfig { output: ConsoleOutput::Ring, level: ConsoleLevel::Quiet },
    };
    machine.vsock = Some(VsockConfig { guest_cid: GUEST_CID });
    machine.rng = true;
    machine.confinement = if plan.jail { Confinement::Foreground } else { Confinement::None };
    machine.deferred_teardown = true;
    let mut mounts = add_root(plan, &mut machine);
    add_volumes(plan, &mut machine, &mut mounts);
    add_disks(plan, &mut machine);
    if let Some(tap) = &plan.tap {
        let tap = TapSource::Name(tap.clone());
        machine.nets.push(NetConfig { id: "net0".into(), tap, mac: mac(&plan.name), mtu: None });
    }
    let sandbox = SandboxSpec {
        hostname: plan.hostname.clone(),
        mounts,
        root: Some(ROOT.into()),
        root_readonly: plan.root_mode == RootMode::ReadOnly,
        entropy: entropy(),
        ..SandboxSpec::default()
    };
    Layout { machine, sandbox }
}

/// Adds the root file system as a share or as a disk. The host makes it read-only unless the plan allows writes to it.
fn add_root(plan: &RunPlan, machine: &mut MachineConfig) -> Vec<GuestMount> {
    let read_only = plan.root_mode != RootMode::ReadWrite;
    let (id, path) = (ROOT_TAG.to_owned(), plan.rootfs.path().to_owned());
    match &plan.rootfs {
        RootSource::Directory(_) => {
            // The guest's own: programs such as sudo need their set-id bits.
            let policy = SharePolicy::default();
            machine.shares.push(ShareConfig { id, tag: ROOT_TAG.into(), path, read_only, only: None, policy });
            root_mounts(plan.root_mode, ROOT_TAG, "virtiofs")
        }
        RootSource::Disk { fstype, .. } => {
            machine.blocks.push(BlockConfig { id, path, read_only, serial: Some(ROOT_TAG.into()) });
            root_mounts(plan.root_mode, &format!("serial:{ROOT_TAG}"), fstype)
        }
    }
}

fn root_mounts(mode: RootMode, source: &str, fstype: &str) -> Vec<GuestMount> {
    let share = |target: &str, options: &[&str]| mount(source, target, fstype, options);
    match mode {
        RootMode::ReadWrite => vec![share(ROOT, &[])],
        RootMode::ReadOnly => vec![share(ROOT, &["ro"])],
        RootMode::Overlay => {
            let lower = format!("lowerdir={LOWER}");
            let (upper, work) = (format!("upperdir={WRITES}/upper"), format!("workdir={WRITES}/work"));
            vec![
                share(LOWER, &["ro"]),
                mount("tmpfs", WRITES, "tmpfs", &["mode=755", "size=90%"]),
                mount("overlay", ROOT, "overlay", &[&lower, &upper, &work]),
            ]
        }
    }
}

fn add_volumes(plan: &RunPlan, machine: &mut MachineConfig, mounts: &mut Vec<GuestMount>) {
    let mut inside = Vec::new();
    for tmpfs in &plan.tmpfs {
        let options: Vec<&str> = tmpfs.options.iter().map(String::as_str).collect();
        inside.push(mount("tmpfs", &tmpfs.target, "tmpfs", &options));
    }
    for (index, volume) in plan.volumes.iter().enumerate() {
        let tag = format!("v{index}");
        let options: &[&str] = if volume.read_only { &["ro"] } else { &[] };
        let (path, only) = match (volume.is_file, volume.source.parent(), volume.source.file_name()) {
            (true, Some(parent), Some(name)) => (parent.to_owned(), Some(name.to_owned())),
            _ => (volume.source.clone(), None),
        };
        inside.push(match &only {
            None => mount(&tag, &volume.target, "virtiofs", options),
            Some(_) => {
                let mount_point = format!("{FILES}/{tag}");
                mounts.push(mount(&tag, &mount_point, "virtiofs", options));
                // The name of the file on the share. The resolution has refused names that are not UTF-8.
                let name = volume.source.file_name().unwrap_or_default().to_string_lossy();
                mount(&format!("{mount_point}/{name}"), &volume.target, "bind", options)
            }
        });
        let (read_only, policy) = (volume.read_only, volume.policy);
        machine.shares.push(ShareConfig { id: tag.clone(), tag, path, read_only, only, policy });
    }
    // Mount outer directories first, or they would hide inner ones.
    inside.sort_by_key(|mount| mount.target.matches('/').count());
    mounts.extend(inside.into_iter().map(|mount| GuestMount { in_root: true, ..mount }));
}

fn add_disks(plan: &RunPlan, machine: &mut MachineConfig) {
    for (index, disk) in plan.disks.iter().enumerate() {
        let id = format!("disk{index}");
        machine.blocks.push(BlockConfig {
            id: id.clone(),
            path: disk.path.clone(),
            read_only: disk.read_only,
            serial: Some(id),
        });
    }
}

fn mount(source: &str, target: &str, fstype: &str, options: &[&str]) -> GuestMount {
    GuestMount {
        source: source.into(),
        target: target.into(),
        fstype: fstype.into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        in_root: false,
    }
}

/// A locally administered MAC address, derived from the name (FNV-1a).
fn mac(name: &str) -> [u8; 6] {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    [0x02, a, b, c, d, e]
}

/// Fresh bytes from the host's pool; empty if it cannot be read, because the guest has an entropy device too.
fn entropy() -> Vec<u8> {
    let mut bytes = vec![0; ENTROPY];
    match File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::{tests::directory, tests::resolve_in, RunPlan};

    fn plan(words: &[&str]) -> (tempfile::TempDir, RunPlan) {
        let dir = directory();
        let plan = resolve_in(dir.path(), words).unwrap();
        (dir, plan)
    }

    fn laid_out(plan: &RunPlan) -> Layout {
        lay_out(plan, "/kernel".as_ref(), "/initrd".as_ref())
    }

    fn mounts(layout: &Layout) -> Vec<(&str, &str, &str, bool)> {
        layout.sandbox.mounts.iter().map(|m| (&*m.source, &*m.target, &*m.fstype, m.in_root)).collect()
    }

    #[test]
    fn the_root_is_shared_and_mounted_according_to_its_mode() {
        let (dir, plain) = plan(&[]);
        let layout = laid_out(&plain);
        assert_eq!(layout.machine.shares[0].path, dir.path());
        assert!(!layout.machine.shares[0].read_only && !layout.sandbox.root_readonly);
        assert_eq!(mounts(&layout), [("root", ROOT, "virtiofs", false)]);

        let layout = laid_out(&plan(&["--read-only"]).1);
        assert!(layout.machine.shares[0].read_only && layout.sandbox.root_readonly);
        assert_eq!(layout.sandbox.mounts[0].options, ["ro"]);

        let layout = laid_out(&plan(&["--rootfs-overlay"]).1);
        // The host refuses writes, the guest takes them.
        assert!(layout.machine.shares[0].read_only && !layout.sandbox.root_readonly);
        let types: Vec<&str> = layout.sandbox.mounts.iter().map(|m| m.fstype.as_str()).collect();
        assert_eq!(types, ["virtiofs", "tmpfs", "overlay"]);
    }

    #[test]
    fn a_root_that_is_an_image_is_a_disk() {
        let (_dir, mut plan) = plan(&[]);
        plan.rootfs = RootSource::Disk { path: "/srv/root.img".into(), fstype: "ext4".into() };
        let layout = laid_out(&plan);
        assert!(layout.machine.shares.is_empty() && !layout.machine.blocks[0].read_only);
        assert_eq!(mounts(&layout), [("serial:root", ROOT, "ext4", false)]);
        for mode in [RootMode::ReadOnly, RootMode::Overlay] {
            plan.root_mode = mode;
            let layout = laid_out(&plan);
            assert!(layout.machine.blocks[0].read_only, "the host refuses writes");
            assert_eq!(layout.sandbox.mounts[0].options, ["ro"]);
        }
        assert_eq!(mounts(&laid_out(&plan))[0], ("serial:root", LOWER, "ext4", false));
    }

    #[test]
    fn a_file_is_shared_alone_and_bound_to_its_destination() {
        let (dir, plan) = plan(&["-v", "@/file:/etc/f:ro", "-v", "@/sub:/data"]);
        let layout = laid_out(&plan);
        let real = dir.path().canonicalize().unwrap();
        let shares = &layout.machine.shares[1..];
        assert_eq!((shares[0].path.clone(), shares[0].only.as_deref()), (real.clone(), Some("file".as_ref())));
        assert!(shares[0].read_only && !shares[1].read_only);
        assert_eq!((shares[1].path.clone(), shares[1].only.clone()), (real.join("sub"), None));
        assert_eq!(
            mounts(&layout)[1..],
            [
                ("v0", "/run/hutch/v0", "virtiofs", false),
                ("v1", "/data", "virtiofs", true),
                ("/run/hutch/v0/file", "/etc/f", "bind", true),
            ]
        );
    }

    #[test]
    fn outer_mounts_come_before_inner_ones() {
        let (_dir, plan) = plan(&["-v", "@/sub:/a/b/c", "-v", "@/sub:/a", "--tmpfs", "/a/b"]);
        let layout = laid_out(&plan);
        let targets: Vec<&str> = layout.sandbox.mounts[1..].iter().map(|m| m.target.as_str()).collect();
        assert_eq!(targets, ["/a", "/a/b", "/a/b/c"]);
    }

    #[test]
    fn the_machine_has_the_devices_of_the_options() {
        let words = ["--cpus", "3", "--memory", "64M", "--disk", "@/file:ro", "--net", "tap=t0", "--append", "a=b c"];
        let (_dir, plan) = plan(&words);
        let machine = laid_out(&plan).machine;
        assert_eq!((machine.vcpus, machine.memory.size_mib), (3, 64));
        assert_eq!(machine.cmdline, ["a=b", "c"]);
        assert!(machine.blocks[0].read_only && machine.vsock.is_some() && machine.rng);
        assert_eq!(machine.nets[0].mac[0] & 3, 2, "not a locally administered unicast address");
        machine.check().unwrap();
    }

    #[test]
    fn addresses_depend_on_the_name() {
        assert_eq!(mac("a"), mac("a"));
        assert_ne!(mac("a"), mac("b"));
    }
}
