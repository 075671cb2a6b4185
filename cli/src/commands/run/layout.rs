//! What the machine consists of and what the agent mounts where.
//!
//! In the guest: `/run/hutch/root` is the root file system of the command (with an overlay, it lies over
//! `/run/hutch/lower`); single files come in directories `/run/hutch/vN` and are bound to their places.

use std::fs::File;
use std::io::Read;

use hutch_agent_proto::{GuestMount, SandboxSpec};
use hutch_runtime::guest::GuestAssets;
use hutch_vmm::config::{
    BlockConfig, ConsoleConfig, ConsoleLevel, ConsoleOutput, NetConfig, ShareConfig, TapSource, VsockConfig,
};
use hutch_vmm::MachineConfig;

use crate::resolve::{RootMode, RunPlan};

/// The guest's address on its own vsock; nobody else shares it.
const GUEST_CID: u64 = 3;
/// Tag of the root file system.
const ROOT_TAG: &str = "root";
/// Where it is mounted.
const ROOT: &str = "/run/hutch/root";
/// Where it is mounted under an overlay.
const LOWER: &str = "/run/hutch/lower";
/// In-memory file system that takes the overlay's writes.
const WRITES: &str = "/run/hutch/writes";
/// Entropy for the guest's pool, in bytes: what Linux' pool holds.
const ENTROPY: usize = 32;

/// Machine and guest.
pub struct Layout {
    /// What is built on the host.
    pub machine: MachineConfig,
    /// What the agent sets up.
    pub sandbox: SandboxSpec,
}

/// Lays both out as the plan says.
pub fn lay_out(plan: &RunPlan, assets: &GuestAssets) -> Layout {
    let mut machine = MachineConfig::new(&plan.name, &assets.kernel);
    machine.vcpus = plan.cpus;
    machine.memory.size_mib = plan.memory_mib;
    machine.initrd = Some(plan.initrd.clone().unwrap_or_else(|| assets.initrd.clone()));
    machine.cmdline.clone_from(&plan.append);
    machine.console = match &plan.console {
        Some(path) => ConsoleConfig { output: ConsoleOutput::File(path.clone()), level: ConsoleLevel::Verbose },
        None => ConsoleConfig { output: ConsoleOutput::Ring, level: ConsoleLevel::Quiet },
    };
    machine.vsock = Some(VsockConfig { guest_cid: GUEST_CID });
    machine.rng = true;
    machine.shares.push(ShareConfig {
        id: "root".into(),
        tag: ROOT_TAG.into(),
        path: plan.rootfs.clone(),
        read_only: plan.root_mode != RootMode::ReadWrite,
    });
    let mut mounts = root_mounts(plan.root_mode);
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

fn root_mounts(mode: RootMode) -> Vec<GuestMount> {
    let share = |target: &str, options: &[&str]| mount(ROOT_TAG, target, "virtiofs", options);
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
    for tmpfs in &plan.tmpfs {
        let options: Vec<&str> = tmpfs.options.iter().map(String::as_str).collect();
        mounts.push(GuestMount { in_root: true, ..mount("tmpfs", &tmpfs.target, "tmpfs", &options) });
    }
    for (index, volume) in plan.volumes.iter().enumerate() {
        let tag = format!("v{index}");
        let options: &[&str] = if volume.read_only { &["ro"] } else { &[] };
        machine.shares.push(ShareConfig {
            id: tag.clone(),
            tag: tag.clone(),
            path: volume.source.clone(),
            read_only: volume.read_only,
        });
        mounts.push(GuestMount { in_root: true, ..mount(&tag, &volume.target, "virtiofs", options) });
    }
    // Outer mounts first, or they would hide inner ones.
    let outside = mounts.iter().take_while(|mount| !mount.in_root).count();
    mounts[outside..].sort_by_key(|mount| mount.target.matches('/').count());
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

/// A locally administered address that is the same for the same name (FNV-1a).
fn mac(name: &str) -> [u8; 6] {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    [0x02, a, b, c, d, e]
}

/// Fresh from the host's pool. Without it the guest has its entropy device.
fn entropy() -> Vec<u8> {
    let mut bytes = vec![0; ENTROPY];
    match File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}
