//! Calls on a process that ExecContainer started: wait, signal, forget; by its token (P-126).

use std::time::Duration;

use hutch_agent_proto::{Request, Response, WindowSize};

use crate::container::{ids, OpenContainer, Process};
use crate::error::{Component, Error, Result};
use crate::pod::{guarded, is_wrong_state, OpenPod};
use crate::runtime::Runtime;
use crate::spec::Exit;
use crate::store::{ProcessRecord, Store};
use crate::timestamp::Timestamp;

/// Bound for the guest to report the exit status of an ended process.
const EXIT_STATUS_TIMEOUT: Duration = Duration::from_secs(1);

impl Runtime {
    /// The tracked processes of a container, sorted by token.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`], [`Error::NoSuchContainer`], [`Error::Store`].
    pub fn list_execs(&self, pod: &str, container: &str) -> Result<Vec<Process>> {
        let (pod, container) = ids(pod, container)?;
        let pod = OpenPod::shared(self, &pod)?;
        let dirs = &pod.find(&container)?.dirs;
        let mut list = Vec::new();
        for token in dirs.exec_tokens()? {
            if let Some(record) = self.store().get(&dirs.exec_record(&token))? {
                list.push(Process { token, pid: record.shim.pid, started_at: record.started_at });
            }
        }
        Ok(list)
    }

    /// Waits for the end of a tracked process, at most `timeout`; `None` if it still runs. Holds no lock meanwhile.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if no such process is tracked.
    ///
    /// # Examples
    /// See [`Runtime::exec_container`].
    pub fn wait_process(&self, pod: &str, container: &str, token: &str, timeout: Duration) -> Result<Option<Exit>> {
        let (id, container) = ids(pod, container)?;
        let pod = OpenPod::shared(self, &id)?;
        let found = pod.find(&container)?;
        let record = found.exec(self.store(), token)?;
        let exit = found.dirs.exec_exit_record(token);
        let mut sandbox = pod.into_sandbox();
        let shims = sandbox.backends.shims.clone();
        if record.shim.is_some() && !guarded(Component::Shim, "wait-end", || shims.wait_end(record.shim, timeout))? {
            return Ok(None);
        }
        if let Some(noted) = self.store().get(&exit)?.filter(|noted| noted.status.is_some()) {
            return Ok(Some(noted.to_exit()));
        }
        // The shim was killed, or there is none: the guest knows.
        let timeout = if record.shim.is_some() { EXIT_STATUS_TIMEOUT } else { timeout };
        match sandbox.call_with_timeout("wait-process", Request::WaitProcess { token: token.into() }, timeout) {
            Ok(Some(Response::Exited(status))) => Ok(Some(Exit::reported(status, Timestamp::now()))),
            Ok(_) => Ok(None),
            Err(Error::Backend { source, .. }) if source.is_gone() => {
                // It lived when the wait began, and its container was stopped since.
                Ok(Some(Exit::unknown("it ended with its container", Timestamp::now())))
            }
            Err(error) if error.is_guest_lost() => {
                Ok(Some(Exit::unknown("the virtual machine ended", Timestamp::now())))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a signal to a tracked process; `all`: to its descendants too. One that has ended is fine.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`], an error of the agent.
    pub fn signal_process(&self, pod: &str, container: &str, token: &str, signal: i32, all: bool) -> Result<()> {
        let request = Request::SignalProcess { token: token.into(), signal, all };
        match self.send_to_process(pod, container, token, "signal-process", request) {
            Err(error) if is_wrong_state(&error) => Ok(()),
            other => other,
        }
    }

    /// Sets the size of a tracked process's terminal.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`], an error of the agent.
    pub fn resize_process(&self, pod: &str, container: &str, token: &str, size: WindowSize) -> Result<()> {
        let request = Request::ResizeTerminal { token: token.into(), size };
        self.send_to_process(pod, container, token, "resize-terminal", request)
    }

    /// Ends the stdin of a tracked process.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`], an error of the agent.
    pub fn close_stdin(&self, pod: &str, container: &str, token: &str) -> Result<()> {
        self.send_to_process(pod, container, token, "close-stdin", Request::CloseStdin { token: token.into() })
    }

    /// Forgets a tracked process that has ended.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`]; [`Error::InvalidConfig`] while it runs.
    pub fn forget_process(&self, pod: &str, container: &str, token: &str) -> Result<()> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::shared(self, &pod)?;
        let found = pod.find(&container)?;
        let (record, dirs) = (found.exec(self.store(), token)?, found.dirs.clone());
        if pod.sandbox.backends.shims.is_alive(record.shim) {
            return Err(Error::invalid(format!("process {token}"), "still runs; signal it or wait for its end first"));
        }
        if pod.sandbox.vm_alive() {
            match pod.sandbox.send_unless_gone("forget-process", Request::ForgetProcess { token: token.into() }) {
                Err(error) if !error.is_guest_lost() => return Err(error),
                _ => {}
            }
        }
        self.store().delete(&dirs.exec_exit_record(token))?;
        self.store().delete(&dirs.exec_record(token))
    }

    fn send_to_process(
        &self,
        pod: &str,
        container: &str,
        token: &str,
        operation: &'static str,
        request: Request,
    ) -> Result<()> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::shared(self, &pod)?;
        pod.find(&container)?.exec(self.store(), token)?;
        match pod.sandbox.send(operation, request) {
            Err(Error::Backend { source, .. }) if source.is_gone() => Ok(()),
            other => other,
        }
    }
}

impl OpenContainer {
    /// The record of a tracked process.
    fn exec(&self, store: &Store, token: &str) -> Result<ProcessRecord> {
        let known = !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric());
        let record = if known { store.get(&self.dirs.exec_record(token))? } else { None };
        record.ok_or_else(|| Error::NoSuchProcess { container: self.id.to_string(), token: token.into() })
    }
}
