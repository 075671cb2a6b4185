//! The further life of a process that ExecContainer started: by its token (P-126, M-03).

use std::time::Duration;

use hutch_agent_proto::{Request, Response, WindowSize};

use crate::container::{ids, Process};
use crate::error::{Component, Error, Result};
use crate::pod::{guarded, is_wrong_state, OpenPod};
use crate::runtime::Runtime;
use crate::spec::Exit;
use crate::store::ProcessRecord;
use crate::timestamp::Timestamp;

/// How long the guest may take to tell how an ended process ended.
const EXIT_STATUS_TIMEOUT: Duration = Duration::from_secs(1);

impl Runtime {
    /// The tracked processes of a container, sorted by token.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`], [`Error::NoSuchContainer`], [`Error::Store`].
    pub fn list_execs(&self, pod: &str, container: &str) -> Result<Vec<Process>> {
        let (pod, container) = ids(pod, container)?;
        let pod = OpenPod::shared(self, &pod)?;
        let dirs = &pod.containers[pod.find(&container)?].dirs;
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
        let index = pod.find(&container)?;
        let record = pod.exec(index, token)?;
        let shims = pod.live.backends.shims.clone();
        let exit = pod.containers[index].dirs.exec_exit_record(token);
        // The lock goes, the way to the guest stays.
        let OpenPod { mut live, .. } = pod;
        if record.shim.is_some() && !guarded(Component::Shim, "wait-end", || shims.wait_end(record.shim, timeout))? {
            return Ok(None);
        }
        if let Some(noted) = self.store().get(&exit)?.filter(|noted| noted.status.is_some()) {
            return Ok(Some(noted.to_exit()));
        }
        // The shim was killed, or there is none: the guest knows.
        let patience = if record.shim.is_some() { EXIT_STATUS_TIMEOUT } else { timeout };
        match live.ask_patiently("wait-process", Request::WaitProcess { token: token.into() }, patience) {
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
    /// [`Error::NoSuchProcess`], the guest's.
    pub fn signal_process(&self, pod: &str, container: &str, token: &str, signal: i32, all: bool) -> Result<()> {
        let request = Request::SignalProcess { token: token.into(), signal, all };
        match self.tell_process(pod, container, token, "signal-process", request) {
            Err(error) if is_wrong_state(&error) => Ok(()),
            other => other,
        }
    }

    /// Tells a tracked process the new size of its terminal.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`], the guest's.
    pub fn resize_process(&self, pod: &str, container: &str, token: &str, size: WindowSize) -> Result<()> {
        let request = Request::ResizeTerminal { token: token.into(), size };
        self.tell_process(pod, container, token, "resize-terminal", request)
    }

    /// Ends the stdin of a tracked process.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`], the guest's.
    pub fn close_stdin(&self, pod: &str, container: &str, token: &str) -> Result<()> {
        self.tell_process(pod, container, token, "close-stdin", Request::CloseStdin { token: token.into() })
    }

    /// Forgets a tracked process that has ended.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`]; [`Error::InvalidConfig`] while it runs.
    pub fn forget_process(&self, pod: &str, container: &str, token: &str) -> Result<()> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::shared(self, &pod)?;
        let index = pod.find(&container)?;
        let record = pod.exec(index, token)?;
        if pod.live.backends.shims.is_alive(record.shim) {
            return Err(Error::invalid(format!("process {token}"), "still runs; signal it or wait for its end first"));
        }
        if pod.live.vm_alive() {
            match pod.live.tell_gone("forget-process", Request::ForgetProcess { token: token.into() }) {
                Err(error) if !error.is_guest_lost() => return Err(error),
                _ => {}
            }
        }
        let dirs = &pod.containers[index].dirs;
        self.store().delete(&dirs.exec_exit_record(token))?;
        self.store().delete(&dirs.exec_record(token))
    }

    fn tell_process(
        &self,
        pod: &str,
        container: &str,
        token: &str,
        operation: &'static str,
        request: Request,
    ) -> Result<()> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::shared(self, &pod)?;
        let index = pod.find(&container)?;
        pod.exec(index, token)?;
        match pod.live.tell(operation, request) {
            Err(Error::Backend { source, .. }) if source.is_gone() => Ok(()),
            other => other,
        }
    }
}

impl OpenPod<'_> {
    /// The record of a tracked process.
    pub(crate) fn exec(&self, index: usize, token: &str) -> Result<ProcessRecord> {
        let container = &self.containers[index];
        let known = !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric());
        let record = if known { self.store().get(&container.dirs.exec_record(token))? } else { None };
        record.ok_or_else(|| Error::NoSuchProcess { container: container.id.to_string(), token: token.into() })
    }
}
