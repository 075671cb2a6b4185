//! The running half of a pod: its VMM process and a session with its agent. Found when first needed, never stored.

use std::time::Duration;

use hutch_agent_proto::{Event, RemoteErrorKind, Request, Response};

use crate::backend::{AgentSession, BackendError, BackendResult, Backends, VmHandle, VmState, VmStats};
use crate::error::{Component, Error, Result};
use crate::fault;
use crate::options::Options;
use crate::store::VmRecord;

/// Calls a backend, between two fault points. The backend's error keeps its kind (P-204).
pub(crate) fn guarded<T>(
    component: Component,
    operation: &'static str,
    call: impl FnOnce() -> BackendResult<T>,
) -> Result<T> {
    fault::backend_point(component.short(), operation, "before")?;
    let result = call().map_err(|e| Error::backend(component, operation, e))?;
    fault::backend_point(component.short(), operation, "after")?;
    Ok(result)
}

/// The VMM and the agent of one pod, during one call.
pub(crate) struct Sandbox {
    pub(crate) backends: Backends,
    options: Options,
    record: Option<VmRecord>,
    vm: Option<Box<dyn VmHandle>>,
    session: Option<Box<dyn AgentSession>>,
    /// Additional time for requests that hooks in the guest delay (P-166).
    pub(crate) hook_time: Duration,
    /// The reason why the channel to the agent is unusable. Later requests fail at once with it (P-205).
    lost: Option<String>,
}

impl Sandbox {
    pub(crate) fn new(backends: Backends, options: Options, record: Option<VmRecord>) -> Self {
        Self { backends, options, record, vm: None, session: None, hook_time: Duration::ZERO, lost: None }
    }

    pub(crate) fn record(&self) -> Option<&VmRecord> {
        self.record.as_ref()
    }

    pub(crate) fn record_mut(&mut self) -> Option<&mut VmRecord> {
        self.record.as_mut()
    }

    pub(crate) fn set_record(&mut self, record: Option<VmRecord>) {
        self.vm = None;
        self.session = None;
        self.lost = None;
        self.record = record;
    }

    pub(crate) fn set_vm(&mut self, vm: Box<dyn VmHandle>) {
        self.vm = Some(vm);
    }

    /// Whether the VMM process lives.
    pub(crate) fn vm_alive(&self) -> bool {
        self.record.as_ref().is_some_and(|record| self.backends.vm.is_alive(record))
    }

    /// Whether the agent has been found unreachable in this call.
    pub(crate) fn agent_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Calls the VMM.
    pub(crate) fn vm_call<T>(
        &mut self,
        operation: &'static str,
        call: impl FnOnce(&mut dyn VmHandle) -> BackendResult<T>,
    ) -> Result<T> {
        guarded(Component::Vmm, operation, || {
            let vm = match &mut self.vm {
                Some(vm) => vm,
                None => {
                    let record = self.record.as_ref().ok_or_else(|| BackendError::Lost("it is not running".into()))?;
                    self.vm.insert(self.backends.vm.attach(record)?)
                }
            };
            call(vm.as_mut())
        })
    }

    /// Statistics of the VMM process.
    pub(crate) fn vm_stats(&self) -> Result<VmStats> {
        let host = &self.backends.vm;
        guarded(Component::Vmm, "stats", || match &self.record {
            Some(record) => host.stats(record),
            None => Err(BackendError::Lost("it is not running".into())),
        })
    }

    /// The state of the machine; [`VmState::Ended`] if its process does not answer.
    pub(crate) fn vm_state(&mut self) -> VmState {
        if !self.vm_alive() {
            return VmState::Ended("the virtual machine's process has ended".into());
        }
        self.vm_call("state", |vm| vm.state()).unwrap_or_else(|e| VmState::Ended(e.chain()))
    }

    /// Kills the VMM process, if it lives. Idempotent.
    pub(crate) fn kill_vm(&mut self) -> Result<()> {
        if let Some(record) = &self.record {
            let (host, timeout) = (&self.backends.vm, self.options.kill_timeout);
            guarded(Component::Vmm, "kill", || host.kill(record, timeout))?;
        }
        self.vm = None;
        self.session = None;
        self.lost.get_or_insert_with(|| "the virtual machine was stopped".into());
        Ok(())
    }

    /// Waits for the VMM process to end by itself, at most `timeout`, then kills it.
    pub(crate) fn end_vm(&mut self, timeout: Duration) -> Result<()> {
        if let Some(record) = &self.record {
            let host = &self.backends.vm;
            guarded(Component::Vmm, "wait-end", || host.wait_end(record, timeout))?;
        }
        self.kill_vm()
    }

    /// Sends a request to the agent and returns its reply, within [`Options::agent_timeout`].
    pub(crate) fn call(&mut self, operation: &'static str, request: Request) -> Result<Response> {
        let hooks = match request {
            Request::CreateContainer { .. } | Request::StartContainer { .. } | Request::RemoveContainer { .. } => {
                self.hook_time
            }
            _ => Duration::ZERO,
        };
        let deadline = self.options.agent_timeout.saturating_add(hooks);
        self.on_session(operation, |session| session.call(request, deadline))
    }

    /// Sends a request whose reply may be late; `None` if `timeout` ran out, which leaves the channel usable.
    pub(crate) fn call_with_timeout(
        &mut self,
        operation: &'static str,
        request: Request,
        timeout: Duration,
    ) -> Result<Option<Response>> {
        self.on_session(operation, |session| session.call_with_timeout(request, timeout))
    }

    /// The next event of the guest, at most `timeout` away.
    pub(crate) fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>> {
        self.on_session("next-event", |session| session.next_event(timeout))
    }

    /// Uses the session. Once the agent was found unreachable, every further use fails at once (P-205).
    fn on_session<T>(
        &mut self,
        operation: &'static str,
        call: impl FnOnce(&mut dyn AgentSession) -> BackendResult<T>,
    ) -> Result<T> {
        guarded(Component::Agent, operation, || {
            if let Some(reason) = &self.lost {
                return Err(BackendError::Lost(reason.clone()));
            }
            let result = self.session().and_then(call);
            if let Err(error) = &result
                && error.is_lost()
            {
                self.lost = Some(error.to_string());
                self.session = None;
            }
            result
        })
    }

    /// As [`Sandbox::send_unless_gone`], for a request that writes cached data out, within [`Options::sync_timeout`].
    pub(crate) fn sync_unless_gone(&mut self, operation: &'static str, request: Request) -> Result<()> {
        let deadline = self.options.sync_timeout;
        match self.on_session(operation, |session| session.call(request, deadline)) {
            Err(Error::Backend { source, .. }) if source.is_gone() => Ok(()),
            other => other.map(drop),
        }
    }

    /// From now on a guest that does not answer is given up after `timeout`, whatever it is asked.
    pub(crate) fn be_quick(&mut self, timeout: Duration) {
        self.options.agent_timeout = self.options.agent_timeout.min(timeout);
        self.options.sync_timeout = self.options.sync_timeout.min(timeout);
    }

    /// As [`Sandbox::call`], for requests whose reply says nothing but "done".
    pub(crate) fn send(&mut self, operation: &'static str, request: Request) -> Result<()> {
        self.call(operation, request).map(drop)
    }

    /// As [`Sandbox::send`]; an object that is already gone counts as success.
    pub(crate) fn send_unless_gone(&mut self, operation: &'static str, request: Request) -> Result<()> {
        match self.send(operation, request) {
            Err(Error::Backend { source, .. }) if source.is_gone() => Ok(()),
            other => other,
        }
    }

    fn session(&mut self) -> BackendResult<&mut dyn AgentSession> {
        let session = match self.session.take() {
            Some(session) => session,
            None => {
                let record = self.record.as_ref().ok_or_else(|| BackendError::Lost("there is no machine".into()))?;
                if !self.backends.vm.is_alive(record) {
                    return Err(BackendError::Lost("the virtual machine has ended".into()));
                }
                self.backends.agent.connect(record, self.options.agent_timeout)?
            }
        };
        Ok(self.session.insert(session).as_mut())
    }
}

/// A reply of another kind than the request asks for.
pub(crate) fn unexpected(operation: &'static str) -> Error {
    let source = BackendError::UnexpectedReply("the guest agent");
    Error::Backend { component: Component::Agent, operation, source }
}

/// Whether the agent says that the object is in the wrong state.
pub(crate) fn is_wrong_state(error: &Error) -> bool {
    matches!(error, Error::Backend { source, .. } if source.remote_kind() == Some(RemoteErrorKind::WrongState))
}
