//! The bound of the host's memory that the processes of a pod use together: `memory.max` of the pod's control group.
//!
//! It follows the size of the machine: it rises before memory is plugged in, and falls after the guest has given memory
//! back. A machine that takes more than it was given, by a fault of the VMM or of the kernel, ends instead of the host's
//! other processes. A healthy pod must never reach it, so everything that the kernel charges to the group counts:
//!
//! - the guest's memory, and the page tables and other data that the kernel keeps for it;
//! - the VMM's heap and threads, and the buffers of vsock connections, whose number is limited;
//! - the kernel's objects for files that the guest's kernel caches, each of which may keep a descriptor of the VMM;
//! - the shims.
//!
//! The page cache of files that the guest reads or writes through shares and disks is charged too. It does not count: the
//! kernel gives it back before it ends a process. Data that a guest writes to a share or a disk on a tmpfs of the host stays in
//! memory: the whole size of such a file system is added.
//!
//! The bound is hutch's only where the group is: a group that was there before, that several pods are in, or whose bound
//! another program removed is left alone, and the pod's status says so.

use nix::sys::resource::{getrlimit, Resource};

use crate::error::{Component, Result};
use crate::id::VolumeName;
use crate::logger;
use crate::pod::{guarded, in_memory, OpenPod};
use crate::spec::{ContainerConfig, Volume};
use crate::store::VmRecord;

/// The VMM's program, heap and threads, and the kernel's data for its vCPUs and devices. An estimate, with room.
const VMM_MIB: u64 = 64;
/// Buffers of vsock connections: 1024 of 256 KiB, each in a vector that may have room for twice as much.
const VSOCK_MIB: u64 = 512;
/// A shim: a process with four threads. An estimate, with room.
const SHIM_MIB: u64 = 8;
/// The kernel's data for the guest's memory: page tables of the host and of the guest's physical addresses, reverse mappings
/// and, for nested guests, shadow page tables; each 8 bytes for each page of 4 KiB.
const TABLES: u64 = 4096 / (4 * 8);
/// Inode, directory entry and open file of the kernel, and the file server's own record.
const FILE_KIB: u64 = 2;
/// A file costs a guest's kernel at least half as much as it costs the host.
const FILES_OF_GUEST: u64 = 2;

/// The bound for a machine of `machine_mib`, whose group has `processes` and whose VMM may hold `descriptors`; MiB.
fn limit_mib(machine_mib: u64, processes: u64, descriptors: u64) -> u64 {
    let files = (descriptors.saturating_mul(FILE_KIB) >> 10).min(machine_mib.saturating_mul(FILES_OF_GUEST));
    let parts = [machine_mib, machine_mib / TABLES, VMM_MIB, VSOCK_MIB, processes.saturating_mul(SHIM_MIB), files];
    parts.into_iter().fold(0, u64::saturating_add)
}

impl OpenPod<'_> {
    /// The bound in bytes, for the descriptors that a VMM process may hold: it takes all that its limit allows.
    fn limit_bytes(&self, machine_mib: u64, processes: u64) -> u64 {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
        let in_memory = self.sandbox.record().map_or(0, |record| in_memory::mib(&record.in_memory));
        limit_mib(machine_mib, processes, descriptors).saturating_add(in_memory).saturating_mul(1 << 20)
    }

    /// Bounds the memory of a new group, before a process is in it. `neighbours`: pods in the same group, or in one above
    /// or below it.
    pub(super) fn begin_memory_limit(&mut self, neighbours: &[(String, VmRecord)]) -> Result<()> {
        let Some(record) = self.sandbox.record() else { return Ok(()) };
        let Some(dir) = record.cgroup.clone() else {
            return self.run_unlimited("it has no control group");
        };
        let made = record.cgroup_made.iter().flatten().any(|made| *made == dir);
        if let Some((pod, _)) = neighbours.first() {
            // The other pod sees that its bound was removed.
            for (_, other) in neighbours {
                if let Some(dir) = &other.cgroup {
                    let cgroups = &self.sandbox.backends.cgroups;
                    guarded(Component::Cgroups, "limit-memory", || cgroups.limit_memory(dir, None))?;
                }
            }
            return self.run_unlimited(&format!("it shares its control group with pod {pod}"));
        }
        if !made {
            return self.run_unlimited("its control group was not made by hutch");
        }
        let sizes = self.files_in_memory(&self.config.containers, &self.config.volumes);
        if let Some(record) = self.sandbox.record_mut() {
            record.in_memory = sizes;
        }
        match self.write_memory_limit(self.config.hypervisor.memory_mib)? {
            true => self.put_vm_record(),
            false => self.run_unlimited("its control group has no memory controller"),
        }
    }

    fn run_unlimited(&mut self, reason: &str) -> Result<()> {
        if let Some(record) = self.sandbox.record_mut() {
            record.limited_mib = None;
            record.unlimited = Some(reason.to_owned());
        }
        self.put_vm_record()
    }

    /// Writes the bound for a machine of `machine_mib`; `false` without a memory controller. The caller writes the record.
    fn write_memory_limit(&mut self, machine_mib: u64) -> Result<bool> {
        let Some(dir) = self.sandbox.record().and_then(|record| record.cgroup.clone()) else { return Ok(false) };
        let cgroups = self.sandbox.backends.cgroups.clone();
        let written = guarded(Component::Cgroups, "limit-memory", || {
            // One more: the process that joins next.
            let processes = cgroups.processes(&dir)?.saturating_add(1);
            cgroups.limit_memory(&dir, Some(self.limit_bytes(machine_mib, processes)))
        })?;
        if let Some(record) = self.sandbox.record_mut().filter(|_| written) {
            record.limited_mib = Some(machine_mib);
        }
        Ok(written)
    }

    /// Changes the bound to that of a machine of `machine_mib`, unless there is none. The caller writes the record.
    fn change_memory_limit(&mut self, machine_mib: u64) -> Result<()> {
        let Some(record) = self.sandbox.record().filter(|record| record.limited_mib.is_some()) else { return Ok(()) };
        let Some(dir) = record.cgroup.clone() else { return Ok(()) };
        let cgroups = &self.sandbox.backends.cgroups;
        if guarded(Component::Cgroups, "memory-limit", || cgroups.memory_limit(&dir))?.is_none() {
            if let Some(record) = self.sandbox.record_mut() {
                record.limited_mib = None;
                record.unlimited = Some("another program removed its limit".to_owned());
            }
            return Ok(());
        }
        self.write_memory_limit(machine_mib).map(drop)
    }

    /// Called before the machine is given `machine_mib` in all: raises the bound. The caller writes the record.
    pub(super) fn raise_memory_limit(&mut self, machine_mib: u64) -> Result<()> {
        let now = self.sandbox.record().and_then(|record| record.limited_mib).unwrap_or(0);
        self.change_memory_limit(machine_mib.max(now))
    }

    /// Lowers the bound to the memory that the machine has now, if the guest has given some back since the last call.
    pub(super) fn lower_memory_limit(&mut self, wanted_mib: u64) -> Result<()> {
        let limited =
            self.sandbox.record().and_then(|record| record.limited_mib).filter(|limited| *limited > wanted_mib);
        let Some(limited) = limited else { return Ok(()) };
        let machine_mib = match self.sandbox.vm_call("memory-size", |vm| vm.memory_size()) {
            Ok(bytes) => bytes.div_ceil(1 << 20).max(wanted_mib),
            Err(error) if error.is_injected() => return Err(error),
            Err(error) => {
                // A bound that is too high harms no pod; a later call lowers it.
                logger::warn!("pod {}: lowering the limit of its memory: {}", self.id, error.chain());
                return Ok(());
            }
        };
        if machine_mib < limited {
            self.change_memory_limit(machine_mib)?;
            self.put_vm_record()?;
        }
        Ok(())
    }

    /// The file systems in memory to which these can write.
    pub(crate) fn files_in_memory(&self, containers: &[ContainerConfig], volumes: &[Volume]) -> in_memory::Sizes {
        let named = self.rt.volumes();
        in_memory::sizes(containers, volumes, |name| VolumeName::new(name).ok().map(|name| named.path(&name)))
    }

    /// Called before a container's process may run, with the file systems in memory to which it can write. The bound follows when
    /// the container's shim joins the group.
    pub(crate) fn count_files_in_memory(&mut self, mut sizes: in_memory::Sizes) -> Result<()> {
        let limited = |record: &&VmRecord| record.limited_mib.is_some();
        let Some(record) = self.sandbox.record().filter(limited) else { return Ok(()) };
        sizes.retain(|device, _| !record.in_memory.contains_key(device));
        if sizes.is_empty() {
            return Ok(());
        }
        if let Some(record) = self.sandbox.record_mut() {
            record.in_memory.extend(sizes);
        }
        self.put_vm_record()
    }

    /// Called when a process has joined the group.
    pub(super) fn count_in_memory_limit(&self) {
        let Some(record) = self.sandbox.record() else { return };
        let (Some(machine_mib), Some(dir)) = (record.limited_mib, &record.cgroup) else { return };
        let cgroups = &self.sandbox.backends.cgroups;
        let raised = (|| {
            let bytes = self.limit_bytes(machine_mib, cgroups.processes(dir)?.saturating_add(1));
            match cgroups.memory_limit(dir)? {
                Some(now) if now < bytes => cgroups.limit_memory(dir, Some(bytes)).map(drop),
                _ => Ok(()),
            }
        })();
        if let Err(error) = raised {
            logger::warn!("pod {}: raising the limit of its memory for one more process: {error}", self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_has_room_for_all_that_is_charged() {
        // 2 GiB: 16 of tables, 64 of the VMM, 512 of vsock, 8 of one shim, and the files of 1000 or of all descriptors.
        assert_eq!(limit_mib(2048, 1, 0), 2048 + 16 + 64 + 512 + 8);
        assert_eq!(limit_mib(2048, 1, 1024), limit_mib(2048, 1, 0) + 2);
        assert_eq!(limit_mib(2048, 1, 1 << 20), limit_mib(2048, 1, 0) + 2048);
        // No more files than the guest's memory can hold.
        assert_eq!(limit_mib(128, 1, u64::MAX), limit_mib(128, 1, 0) + 256);
        assert_eq!(limit_mib(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }
}
