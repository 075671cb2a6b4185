//! Sessions with the agents of guests in memory.

use std::time::Duration;

use hutch_agent_proto::{Event, Request, Response};

use super::fake_host::FakeHost;
use super::guest::Answer;
use super::processes::FakeVm;
use hutch_runtime::backend::{AgentCapabilities, AgentHost, AgentSession, BackendError, BackendResult};
use hutch_runtime::store::VmRecord;

struct Session {
    host: FakeHost,
    uuid: String,
    seen: usize,
}

impl AgentHost for FakeHost {
    fn capabilities(&self) -> AgentCapabilities {
        self.lock().agent_capabilities
    }

    fn connect(&self, vm: &VmRecord, timeout: Duration) -> BackendResult<Box<dyn AgentSession>> {
        self.called("agent.connect", "", |state| {
            let found = state.vms.get_mut(&vm.uuid).filter(|vm| vm.alive).ok_or_else(gone)?;
            if found.paused {
                state.violations.push("a connection to a guest whose vCPUs are paused".into());
            }
            answering(found, timeout)?;
            let seen = found.guest.events_from(0).len();
            Ok(Box::new(Session { host: self.clone(), uuid: vm.uuid.clone(), seen }) as Box<dyn AgentSession>)
        })
    }
}

fn gone() -> BackendError {
    BackendError::Lost("the guest closed the channel".into())
}

/// A paused or hung guest does not answer. The bound is not waited for: the result would be the same.
fn answering(vm: &FakeVm, timeout: Duration) -> BackendResult<()> {
    if vm.paused || vm.guest.hangs || vm.spec.is_none() {
        return Err(BackendError::Timeout { after: timeout });
    }
    Ok(())
}

impl Session {
    fn send(&mut self, request: Request, deadline: Duration) -> BackendResult<Answer> {
        let (name, detail) = describe(&request);
        self.host.called(&format!("agent.{name}"), &detail, |state| {
            let vm = state.vms.get_mut(&self.uuid).filter(|vm| vm.alive).ok_or_else(gone)?;
            if vm.paused {
                state.violations.push(format!("a guest whose vCPUs are paused was asked for {name} {detail}"));
            }
            vm.guest.timeouts.insert(name, deadline);
            answering(vm, deadline)?;
            let answer = vm.guest.handle(request);
            if answer == Answer::PowerOff {
                vm.alive = false;
            }
            Ok(answer)
        })
    }
}

impl AgentSession for Session {
    fn call(&mut self, request: Request, deadline: Duration) -> BackendResult<Response> {
        self.call_with_timeout(request, deadline)?.ok_or(BackendError::Timeout { after: deadline })
    }

    fn call_with_timeout(&mut self, request: Request, timeout: Duration) -> BackendResult<Option<Response>> {
        match self.send(request, timeout)? {
            Answer::Now(result) => Ok(result.map(Some)?),
            Answer::PowerOff => Ok(Some(Response::Done)),
            Answer::WhenEnded(token) => {
                let uuid = self.uuid.clone();
                let ended = self.host.wait(timeout, |state| match state.vms.get(&uuid).filter(|vm| vm.alive) {
                    None => Some(Err(gone())),
                    Some(vm) => vm.guest.status(&token).map(|status| Ok(Response::Exited(status))),
                });
                ended.transpose()
            }
        }
    }

    fn next_event(&mut self, timeout: Duration) -> BackendResult<Option<Event>> {
        let (uuid, seen) = (self.uuid.clone(), self.seen);
        let event = self.host.wait(timeout, |state| match state.vms.get(&uuid).filter(|vm| vm.alive) {
            None => Some(Err(gone())),
            Some(vm) => vm.guest.events_from(seen).first().cloned().map(Ok),
        });
        let event = event.transpose()?;
        self.seen += usize::from(event.is_some());
        Ok(event)
    }
}

/// Name of a request in the record of calls, and what it is about.
pub(super) fn describe(request: &Request) -> (&'static str, String) {
    match request {
        Request::Ping => ("ping", String::new()),
        Request::SetupSandbox(_) => ("setup-sandbox", String::new()),
        Request::SetClock { .. } => ("set-clock", String::new()),
        Request::StartProcess { container, .. } => ("start-process", container.clone().unwrap_or_default()),
        Request::WaitProcess { .. } => ("wait-process", String::new()),
        Request::SignalProcess { signal, .. } => ("signal-process", signal.to_string()),
        Request::ResizeTerminal { .. } => ("resize-terminal", String::new()),
        Request::CloseStdin { .. } => ("close-stdin", String::new()),
        Request::ForgetProcess { .. } => ("forget-process", String::new()),
        Request::CreateContainer { id, .. } => ("create-container", id.clone()),
        Request::StartContainer { id } => ("start-container", id.clone()),
        Request::KillContainer { id, signal, all } => {
            ("kill-container", format!("{id} {signal}{}", if *all { " all" } else { "" }))
        }
        Request::RemoveContainer { id, .. } => ("remove-container", id.clone()),
        Request::PauseContainer { id } => ("pause-container", id.clone()),
        Request::ResumeContainer { id } => ("resume-container", id.clone()),
        Request::UpdateContainer { id, .. } => ("update-container", id.clone()),
        Request::ListProcesses { id } => ("list-processes", id.clone()),
        Request::Stats { id } => ("stats", id.clone()),
        Request::Mount(mount) => ("mount", mount.target.clone()),
        Request::Unmount { target } => ("unmount", target.clone()),
        Request::ConfigureNetwork(_) => ("configure-network", String::new()),
        Request::OnlineCpus { count } => ("online-cpus", count.to_string()),
        Request::AwaitMemory { more } => ("await-memory", (more >> 20).to_string()),
        Request::PowerOff => ("power-off", String::new()),
        _ => ("unknown", String::new()),
    }
}
