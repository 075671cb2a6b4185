//! Backends that do nothing, successfully, so that the whole API works without a machine (pod contract, §11). The shim
//! has PID 0, which the runtime never waits for, signals or considers dead (P-113, P-120).

use std::path::{Path, PathBuf};
use std::time::Duration;

use hutch_agent_proto::{ContainerStats, Event, ExitStatus, Request, Response};

use super::{
    AgentCapabilities, AgentHost, AgentSession, BackendResult, Cgroups, HostMounts, Namespace, Network, RootDisk, Shim,
    ShimSpec, Shims, VmCapabilities, VmHandle, VmHost, VmLaunch, VmReply, VmRequest, VmState, VmStats,
};
use crate::network::Endpoint;
use crate::process::ProcessIdentity;
use crate::spec::NetworkConfig;
use crate::store::{BindRecord, VmRecord};

/// No machine. It never dies.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoVm;

impl VmHost for NoVm {
    fn capabilities(&self) -> VmCapabilities {
        VmCapabilities::default()
    }
    fn spawn(&self, _: &VmLaunch<'_>) -> BackendResult<Box<dyn VmHandle>> {
        Ok(Box::new(NoVm))
    }
    fn attach(&self, _: &VmRecord) -> BackendResult<Box<dyn VmHandle>> {
        Ok(Box::new(NoVm))
    }
    fn is_alive(&self, _: &VmRecord) -> bool {
        true
    }
    fn kill(&self, _: &VmRecord, _: Duration) -> BackendResult<()> {
        Ok(())
    }
    fn wait_end(&self, _: &VmRecord, _: Duration) -> BackendResult<bool> {
        Ok(true)
    }

    fn stats(&self, _: &VmRecord) -> BackendResult<VmStats> {
        Ok(VmStats::default())
    }
}

impl VmHandle for NoVm {
    fn process(&self) -> ProcessIdentity {
        ProcessIdentity::NONE
    }

    fn call(&mut self, request: VmRequest) -> BackendResult<VmReply> {
        Ok(match request {
            VmRequest::State => VmReply::State(VmState::Running),
            VmRequest::SetMemory { .. } | VmRequest::MemorySize => VmReply::Memory(0),
            _ => VmReply::Done,
        })
    }
}

/// No agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAgent;

impl AgentHost for NoAgent {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities::default()
    }
    fn connect(&self, _: &VmRecord, _: Duration) -> BackendResult<Box<dyn AgentSession>> {
        Ok(Box::new(NoAgent))
    }
}

impl AgentSession for NoAgent {
    fn call(&mut self, request: Request, _: Duration) -> BackendResult<Response> {
        Ok(match request {
            Request::StartProcess { .. } | Request::CreateContainer { .. } => Response::Started { pid: 0 },
            Request::WaitProcess { .. } => Response::Exited(ExitStatus::Code(0)),
            Request::ListProcesses { .. } => Response::Processes(Vec::new()),
            Request::Stats { .. } => Response::Stats(Box::<ContainerStats>::default()),
            _ => Response::Done,
        })
    }
    fn call_with_timeout(&mut self, request: Request, timeout: Duration) -> BackendResult<Option<Response>> {
        self.call(request, timeout).map(Some)
    }
    fn next_event(&mut self, timeout: Duration) -> BackendResult<Option<Event>> {
        std::thread::sleep(timeout);
        Ok(None)
    }
}

/// No shims.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoShims;

impl Shims for NoShims {
    fn spawn(&self, _: &ShimSpec) -> BackendResult<Box<dyn Shim>> {
        Ok(Box::new(NoShims))
    }
    fn is_alive(&self, _: ProcessIdentity) -> bool {
        false
    }
    fn wait_end(&self, _: ProcessIdentity, _: Duration) -> BackendResult<bool> {
        Ok(true)
    }
    fn kill(&self, _: ProcessIdentity, _: Duration) -> BackendResult<()> {
        Ok(())
    }
}

impl Shim for NoShims {
    fn process(&self) -> ProcessIdentity {
        ProcessIdentity::NONE
    }
    fn start(self: Box<Self>) -> BackendResult<()> {
        Ok(())
    }
}

/// No network: the caller's namespace, no endpoints.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

impl Network for NoNetwork {
    fn plan(&self, _: &str, _: &NetworkConfig) -> BackendResult<Namespace> {
        Ok(Namespace::default())
    }
    fn create(&self, _: &str, _: &Namespace, _: &NetworkConfig) -> BackendResult<()> {
        Ok(())
    }
    fn run(&self, _: &Namespace, job: &mut (dyn FnMut() + Send)) -> BackendResult<()> {
        job();
        Ok(())
    }
    fn scan(&self, _: &str, _: &Namespace, _: &NetworkConfig) -> BackendResult<Vec<Endpoint>> {
        Ok(Vec::new())
    }
    fn attach(&self, _: &Namespace, _: &Endpoint) -> BackendResult<()> {
        Ok(())
    }
    fn detach(&self, _: &Namespace, _: &Endpoint) -> BackendResult<()> {
        Ok(())
    }
    fn delete(&self, _: &str, _: &Namespace) -> BackendResult<()> {
        Ok(())
    }
}

/// No bind mounts.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMounts;

impl HostMounts for NoMounts {
    fn root_disk(&self, _: &Path) -> BackendResult<Option<RootDisk>> {
        Ok(None)
    }
    fn resolve(&self, source: &Path) -> BackendResult<PathBuf> {
        Ok(source.to_owned())
    }
    fn bind(&self, _: &BindRecord) -> BackendResult<()> {
        Ok(())
    }
    fn unbind(&self, _: &Path) -> BackendResult<()> {
        Ok(())
    }
    fn below(&self, _: &Path) -> BackendResult<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// No control groups.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCgroups;

impl Cgroups for NoCgroups {
    fn plan(&self, _: &str) -> BackendResult<Option<PathBuf>> {
        Ok(None)
    }
    fn missing(&self, _: &Path) -> BackendResult<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn create(&self, _: &Path) -> BackendResult<()> {
        Ok(())
    }
    fn add(&self, _: &Path, _: i32) -> BackendResult<()> {
        Ok(())
    }
    fn processes(&self, _: &Path) -> BackendResult<u64> {
        Ok(0)
    }
    fn memory_limit(&self, _: &Path) -> BackendResult<Option<u64>> {
        Ok(None)
    }
    fn limit_memory(&self, _: &Path, _: Option<u64>) -> BackendResult<bool> {
        Ok(false)
    }
    fn remove(&self, _: &Path) -> BackendResult<bool> {
        Ok(true)
    }
}
