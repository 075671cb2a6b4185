//! Machines in memory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::guest::FakeGuest;
use super::world::{State, World};
use hutch_runtime::backend::{
    BackendError, BackendResult, BlockDevice, VmCapabilities, VmHandle, VmHost, VmLaunch, VmSpec, VmState, VmStats,
};
use hutch_runtime::process::ProcessIdentity;
use hutch_runtime::store::VmRecord;

/// A machine.
pub(super) struct FakeVm {
    pub(super) pod: String,
    pub(super) socket: PathBuf,
    pub(super) process: ProcessIdentity,
    pub(super) alive: bool,
    pub(super) spec: Option<VmSpec>,
    pub(super) paused: bool,
    pub(super) vcpus: u32,
    pub(super) memory_mib: u64,
    pub(super) devices: BTreeSet<String>,
    /// Every disk that was ever plugged in.
    pub(super) disks: Vec<BlockDevice>,
    pub(super) guest: FakeGuest,
}

/// The outside of a machine. Dropped before the machine was started, it takes the process with it.
struct Handle {
    world: World,
    uuid: String,
    process: ProcessIdentity,
}

impl Handle {
    fn call<T>(
        &self,
        name: &str,
        detail: &str,
        call: impl FnOnce(&mut FakeVm) -> BackendResult<T>,
    ) -> BackendResult<T> {
        self.world.called(name, detail, |state| call(living(state, &self.uuid)?))
    }
}

fn living<'a>(state: &'a mut State, uuid: &str) -> BackendResult<&'a mut FakeVm> {
    state
        .vms
        .get_mut(uuid)
        .filter(|vm| vm.alive)
        .ok_or_else(|| BackendError::Lost("the virtual machine's process has ended".into()))
}

impl VmHost for World {
    fn capabilities(&self) -> VmCapabilities {
        self.lock().vm_capabilities
    }

    fn spawn(&self, launch: &VmLaunch<'_>) -> BackendResult<Box<dyn VmHandle>> {
        let process = self.called("vm.spawn", launch.pod, |state| {
            if state.vm_of(launch.pod).is_some() {
                state.violations.push(format!("second machine for {}", launch.pod));
            }
            let pid = state.fresh_pid();
            let process = ProcessIdentity { pid, start_ticks: pid as u64 };
            let vm = FakeVm {
                pod: launch.pod.to_owned(),
                socket: launch.socket.to_owned(),
                process,
                alive: true,
                spec: None,
                paused: false,
                vcpus: 0,
                memory_mib: 0,
                devices: BTreeSet::new(),
                disks: Vec::new(),
                guest: FakeGuest::new(),
            };
            state.vms.insert(launch.uuid.to_owned(), vm);
            Ok(process)
        });
        match process {
            Ok(process) => Ok(Box::new(Handle { world: self.clone(), uuid: launch.uuid.to_owned(), process })),
            Err(error) => {
                // The contract of a spawn: a failed one leaves no process.
                self.change(|state| state.vms.remove(launch.uuid));
                Err(error)
            }
        }
    }

    fn attach(&self, record: &VmRecord) -> BackendResult<Box<dyn VmHandle>> {
        self.called("vm.attach", "", |state| {
            let process = living(state, &record.uuid)?.process;
            Ok(Box::new(Handle { world: self.clone(), uuid: record.uuid.clone(), process }) as Box<dyn VmHandle>)
        })
    }

    fn is_alive(&self, record: &VmRecord) -> bool {
        let state = self.lock();
        state.vms.get(&record.uuid).is_some_and(|vm| vm.alive && vm.process == record.process)
    }

    fn kill(&self, record: &VmRecord, _: Duration) -> BackendResult<()> {
        self.called("vm.kill", "", |state| {
            if let Some(vm) = state.vms.get_mut(&record.uuid).filter(|vm| vm.process == record.process) {
                vm.alive = false;
            }
            Ok(())
        })
    }

    fn wait_end(&self, record: &VmRecord, timeout: Duration) -> BackendResult<bool> {
        self.called("vm.wait-end", "", |_| Ok(()))?;
        let ended = |state: &mut State| {
            (!state.vms.get(&record.uuid).is_some_and(|vm| vm.alive && vm.process == record.process)).then_some(())
        };
        Ok(self.wait(timeout, ended).is_some())
    }
}

impl VmHandle for Handle {
    fn process(&self) -> ProcessIdentity {
        self.process
    }

    fn start(&mut self, spec: &VmSpec) -> BackendResult<()> {
        self.call("vm.start", "", |vm| {
            (vm.vcpus, vm.memory_mib) = (spec.vcpus, spec.memory_mib);
            vm.spec = Some(spec.clone());
            Ok(())
        })
    }

    fn wait_ready(&mut self, timeout: Duration) -> BackendResult<()> {
        self.call("vm.wait-ready", "", |vm| match vm.guest.hangs {
            true => Err(BackendError::Timeout { after: timeout }),
            false => Ok(()),
        })
    }

    fn state(&mut self) -> BackendResult<VmState> {
        self.call("vm.state", "", |vm| {
            Ok(match (&vm.spec, vm.paused) {
                (None, _) => VmState::Created,
                (_, true) => VmState::Paused,
                (_, false) => VmState::Running,
            })
        })
    }

    fn pause(&mut self) -> BackendResult<()> {
        self.call("vm.pause", "", |vm| {
            vm.paused = true;
            Ok(())
        })
    }

    fn resume(&mut self) -> BackendResult<()> {
        self.call("vm.resume", "", |vm| {
            vm.paused = false;
            Ok(())
        })
    }

    fn plug_block(&mut self, device: &BlockDevice) -> BackendResult<()> {
        let slots = self.world.lock().vm_capabilities.block_slots;
        self.call("vm.plug-block", &device.id, |vm| {
            let room = vm.spec.as_ref().map_or(0, |spec| spec.block_slots as usize);
            if slots && vm.devices.len() >= room {
                return Err(BackendError::Refused("no drive slot is free".into()));
            }
            vm.devices.insert(device.id.clone());
            vm.disks.push(device.clone());
            Ok(())
        })
    }

    fn plug_vfio(&mut self, id: &str, _: &Path) -> BackendResult<()> {
        self.call("vm.plug-vfio", id, |vm| {
            vm.devices.insert(id.to_owned());
            Ok(())
        })
    }

    fn unplug(&mut self, id: &str) -> BackendResult<()> {
        self.call("vm.unplug", id, |vm| {
            vm.devices.remove(id);
            Ok(())
        })
    }

    fn set_vcpus(&mut self, count: u32) -> BackendResult<()> {
        self.call("vm.set-vcpus", &count.to_string(), |vm| {
            vm.vcpus = count;
            Ok(())
        })
    }

    fn set_memory(&mut self, mib: u64) -> BackendResult<u64> {
        self.call("vm.set-memory", &mib.to_string(), |vm| {
            vm.memory_mib = mib;
            Ok(mib << 20)
        })
    }

    fn expect_end(&mut self, expected: bool) -> BackendResult<()> {
        self.call("vm.expect-end", &expected.to_string(), |_| Ok(()))
    }

    fn stats(&mut self) -> BackendResult<VmStats> {
        self.call("vm.stats", "", |_| {
            Ok(VmStats { cpu_us: 1000, resident_bytes: 64 << 20, threads: 4, descriptors: 20 })
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.world.change(|state| {
            if let Some(vm) = state.vms.get_mut(&self.uuid).filter(|vm| vm.spec.is_none()) {
                vm.alive = false;
            }
        });
    }
}
