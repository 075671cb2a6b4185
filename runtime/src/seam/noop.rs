//! Seams that do nothing, successfully, so that the whole API works without a machine (§11). The stand-in has PID 0,
//! which is never waited for, signalled, or taken for dead (P-113, P-120).

use std::path::{Path, PathBuf};
use std::time::Duration;

use hutch_agent_proto::{ContainerStats, Event, ExitStatus, Request, Response};

use super::{
    AgentCapabilities, AgentHost, AgentSession, BlockDevice, Cgroups, HostMounts, Namespace, Network, RootDisk,
    SeamResult, StandIn, StandInSpec, StandIns, VmCapabilities, VmHandle, VmHost, VmLaunch, VmSpec, VmState, VmStats,
};
use crate::network::Endpoint;
use crate::process::ProcessIdentity;
use crate::spec::NetworkConfig;
use crate::store::{BindRecord, VmRecord};

/// No machine. One that does not exist cannot die either.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoVm;

impl VmHost for NoVm {
    fn capabilities(&self) -> VmCapabilities {
        VmCapabilities::default()
    }
    fn spawn(&self, _: &VmLaunch<'_>) -> SeamResult<Box<dyn VmHandle>> {
        Ok(Box::new(NoVm))
    }
    fn attach(&self, _: &VmRecord) -> SeamResult<Box<dyn VmHandle>> {
        Ok(Box::new(NoVm))
    }
    fn is_alive(&self, _: &VmRecord) -> bool {
        true
    }
    fn kill(&self, _: &VmRecord, _: Duration) -> SeamResult<()> {
        Ok(())
    }
    fn wait_end(&self, _: &VmRecord, _: Duration) -> SeamResult<bool> {
        Ok(true)
    }
}

impl VmHandle for NoVm {
    fn process(&self) -> ProcessIdentity {
        ProcessIdentity::NONE
    }
    fn start(&mut self, _: &VmSpec) -> SeamResult<()> {
        Ok(())
    }
    fn wait_ready(&mut self, _: Duration) -> SeamResult<()> {
        Ok(())
    }
    fn state(&mut self) -> SeamResult<VmState> {
        Ok(VmState::Running)
    }
    fn pause(&mut self) -> SeamResult<()> {
        Ok(())
    }
    fn resume(&mut self) -> SeamResult<()> {
        Ok(())
    }
    fn plug_block(&mut self, _: &BlockDevice) -> SeamResult<()> {
        Ok(())
    }
    fn plug_vfio(&mut self, _: &str, _: &Path) -> SeamResult<()> {
        Ok(())
    }
    fn unplug(&mut self, _: &str) -> SeamResult<()> {
        Ok(())
    }
    fn set_vcpus(&mut self, _: u32) -> SeamResult<()> {
        Ok(())
    }
    fn set_memory(&mut self, _: u64) -> SeamResult<u64> {
        Ok(0)
    }
    fn expect_end(&mut self, _: bool) -> SeamResult<()> {
        Ok(())
    }
    fn stats(&mut self) -> SeamResult<VmStats> {
        Ok(VmStats::default())
    }
}

/// No agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAgent;

impl AgentHost for NoAgent {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities::default()
    }
    fn connect(&self, _: &VmRecord, _: Duration) -> SeamResult<Box<dyn AgentSession>> {
        Ok(Box::new(NoAgent))
    }
}

impl AgentSession for NoAgent {
    fn call(&mut self, request: Request, _: Duration) -> SeamResult<Response> {
        Ok(match request {
            Request::StartProcess { .. } | Request::CreateContainer { .. } => Response::Started { pid: 0 },
            Request::WaitProcess { .. } => Response::Exited(ExitStatus::Code(0)),
            Request::ListProcesses { .. } => Response::Processes(Vec::new()),
            Request::Stats { .. } => Response::Stats(Box::<ContainerStats>::default()),
            _ => Response::Done,
        })
    }
    fn call_patiently(&mut self, request: Request, patience: Duration) -> SeamResult<Option<Response>> {
        self.call(request, patience).map(Some)
    }
    fn next_event(&mut self, timeout: Duration) -> SeamResult<Option<Event>> {
        std::thread::sleep(timeout);
        Ok(None)
    }
}

/// No stand-ins.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoStandIns;

impl StandIns for NoStandIns {
    fn spawn(&self, _: &StandInSpec) -> SeamResult<Box<dyn StandIn>> {
        Ok(Box::new(NoStandIns))
    }
    fn is_alive(&self, _: ProcessIdentity) -> bool {
        false
    }
    fn wait_end(&self, _: ProcessIdentity, _: Duration) -> SeamResult<bool> {
        Ok(true)
    }
    fn kill(&self, _: ProcessIdentity, _: Duration) -> SeamResult<()> {
        Ok(())
    }
    fn signal(&self, _: ProcessIdentity, _: i32) -> SeamResult<bool> {
        Ok(false)
    }
}

impl StandIn for NoStandIns {
    fn process(&self) -> ProcessIdentity {
        ProcessIdentity::NONE
    }
    fn release(self: Box<Self>) -> SeamResult<()> {
        Ok(())
    }
}

/// No network: the caller's namespace, no endpoints.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

impl Network for NoNetwork {
    fn plan(&self, _: &str, _: &NetworkConfig) -> SeamResult<Namespace> {
        Ok(Namespace::default())
    }
    fn create(&self, _: &str, _: &Namespace, _: &NetworkConfig) -> SeamResult<()> {
        Ok(())
    }
    fn run(&self, _: &Namespace, job: &mut (dyn FnMut() + Send)) -> SeamResult<()> {
        job();
        Ok(())
    }
    fn scan(&self, _: &str, _: &Namespace, _: &NetworkConfig) -> SeamResult<Vec<Endpoint>> {
        Ok(Vec::new())
    }
    fn attach(&self, _: &Namespace, _: &Endpoint) -> SeamResult<()> {
        Ok(())
    }
    fn detach(&self, _: &Namespace, _: &Endpoint) -> SeamResult<()> {
        Ok(())
    }
    fn delete(&self, _: &str, _: &Namespace) -> SeamResult<()> {
        Ok(())
    }
}

/// No bind mounts.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMounts;

impl HostMounts for NoMounts {
    fn root_disk(&self, _: &Path) -> SeamResult<Option<RootDisk>> {
        Ok(None)
    }
    fn resolve(&self, source: &Path) -> SeamResult<PathBuf> {
        Ok(source.to_owned())
    }
    fn bind(&self, _: &BindRecord) -> SeamResult<()> {
        Ok(())
    }
    fn unbind(&self, _: &Path) -> SeamResult<()> {
        Ok(())
    }
    fn below(&self, _: &Path) -> SeamResult<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// No control groups.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCgroups;

impl Cgroups for NoCgroups {
    fn plan(&self, _: &str) -> SeamResult<Option<PathBuf>> {
        Ok(None)
    }
    fn create(&self, _: &Path) -> SeamResult<()> {
        Ok(())
    }
    fn add(&self, _: &Path, _: i32) -> SeamResult<()> {
        Ok(())
    }
    fn remove(&self, _: &Path) -> SeamResult<()> {
        Ok(())
    }
}
