//! Machines in memory.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fake_host::{FakeHost, State};
use super::guest::FakeGuest;
use super::processes::FakeVm;
use hutch_runtime::backend::{
    BackendError, BackendResult, VmCapabilities, VmHandle, VmHost, VmLaunch, VmReply, VmRequest, VmState, VmStats,
};
use hutch_runtime::process::ProcessIdentity;
use hutch_runtime::store::VmRecord;

/// The outside of a machine. Dropped before the machine was started, it takes the process with it.
struct Handle {
    host: FakeHost,
    uuid: String,
    process: ProcessIdentity,
}

fn living<'a>(state: &'a mut State, uuid: &str) -> BackendResult<&'a mut FakeVm> {
    state
        .vms
        .get_mut(uuid)
        .filter(|vm| vm.alive)
        .ok_or_else(|| BackendError::Lost("the virtual machine's process has ended".into()))
}

impl VmHost for FakeHost {
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
                kept_mib: 0,
                devices: BTreeSet::new(),
                disks: Vec::new(),
                guest: FakeGuest::new(),
            };
            state.vms.insert(launch.uuid.to_owned(), vm);
            Ok(process)
        });
        match process {
            Ok(process) => Ok(Box::new(Handle { host: self.clone(), uuid: launch.uuid.to_owned(), process })),
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
            Ok(Box::new(Handle { host: self.clone(), uuid: record.uuid.clone(), process }) as Box<dyn VmHandle>)
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
        self.called("vm.wait-end", &format!("{} ms", timeout.as_millis()), |_| Ok(()))?;
        let ended = |state: &mut State| {
            (!state.vms.get(&record.uuid).is_some_and(|vm| vm.alive && vm.process == record.process)).then_some(())
        };
        Ok(self.wait(timeout, ended).is_some())
    }

    fn stats(&self, record: &VmRecord) -> BackendResult<VmStats> {
        self.called("vm.stats", "", |state| {
            living(state, &record.uuid)?;
            Ok(VmStats { cpu_us: 1000, resident_bytes: 64 << 20, threads: 4, descriptors: 20 })
        })
    }
}

impl VmHandle for Handle {
    fn process(&self) -> ProcessIdentity {
        self.process
    }

    fn call(&mut self, request: VmRequest) -> BackendResult<VmReply> {
        let detail = match &request {
            VmRequest::PlugBlock(device) => device.id.clone(),
            VmRequest::Unplug { id } => id.clone(),
            VmRequest::SetVcpus(count) => count.to_string(),
            VmRequest::SetMemory { mib } => mib.to_string(),
            VmRequest::ExpectEnd(expected) => expected.to_string(),
            _ => String::new(),
        };
        self.host.called(&format!("vm.{}", request.name()), &detail, |state| {
            let slots = state.vm_capabilities.block_slots;
            living(state, &self.uuid)?.handle(request, slots)
        })
    }
}

impl FakeVm {
    /// `slots`: disks fit only into the slots that the machine was started with.
    fn handle(&mut self, request: VmRequest, slots: bool) -> BackendResult<VmReply> {
        match request {
            VmRequest::Start(spec) => {
                (self.vcpus, self.memory_mib) = (spec.vcpus, spec.memory_mib);
                let jail = if spec.jail.is_on() { "scripted" } else { "off" }.to_owned();
                self.spec = Some(*spec);
                return Ok(VmReply::Started { jail });
            }
            VmRequest::WaitReady { timeout } if self.guest.hangs => {
                return Err(BackendError::Timeout { after: timeout });
            }
            VmRequest::State => {
                return Ok(VmReply::State(match (&self.spec, self.paused) {
                    (None, _) => VmState::Created,
                    (_, true) => VmState::Paused,
                    (_, false) => VmState::Running,
                }));
            }
            VmRequest::Pause => self.paused = true,
            VmRequest::Resume => self.paused = false,
            VmRequest::PlugBlock(device) => {
                let room = self.spec.as_ref().map_or(0, |spec| spec.block_slots as usize);
                if slots && self.devices.len() >= room {
                    return Err(BackendError::Refused("no drive slot is free".into()));
                }
                self.devices.insert(device.id.clone());
                self.disks.push(device);
            }
            VmRequest::Unplug { id } => {
                self.devices.remove(&id);
            }
            VmRequest::SetVcpus(count) => self.vcpus = count,
            VmRequest::SetMemory { mib } => {
                self.memory_mib = mib;
                return Ok(VmReply::Memory(mib << 20));
            }
            VmRequest::MemorySize => return Ok(VmReply::Memory(self.memory_mib.max(self.kept_mib) << 20)),
            VmRequest::WaitReady { .. } | VmRequest::ExpectEnd(_) => {}
        }
        Ok(VmReply::Done)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.host.change(|state| {
            if let Some(vm) = state.vms.get_mut(&self.uuid).filter(|vm| vm.spec.is_none()) {
                vm.alive = false;
            }
        });
    }
}
