//! ExecContainer: a further process in a container (pod contract, §7.6).

use hutch_agent_proto::{Request, Rlimit, WindowSize};
use serde::{Deserialize, Serialize};

use crate::backend::{PidNamespace, ShimSpec};
use crate::container::{ids, ContainerHandle, ContainerRef};
use crate::error::{Component, Result};
use crate::logger;
use crate::pod::{guarded, OpenPod, PodHandle};
use crate::runtime::Runtime;
use crate::spec::Command;
use crate::store::ProcessRecord;
use crate::timestamp::Timestamp;
use crate::verb::Verb;

/// A further process in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Names the process in other calls.
    pub token: String,
    /// PID of its shim; 0 if it has none.
    pub pid: i32,
    /// When it was started.
    pub started_at: Timestamp,
}

/// Options of a further process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Size of its terminal, if it has one.
    pub terminal: Option<WindowSize>,
    /// Limits to set.
    pub rlimits: Vec<Rlimit>,
}

impl Runtime {
    /// Runs a command in a ready or running container of a running pod (P-121). Several may run at once (P-027). The
    /// container's records do not change (P-122); the process is tracked by its token until it is forgotten or the
    /// container stops (P-126).
    ///
    /// # Errors
    /// [`Error::WrongState`](crate::Error::WrongState), [`Error::InvalidConfig`](crate::Error::InvalidConfig), the
    /// agent's. If the guest refuses, no shim is left; if the shim cannot start, the guest process is killed
    /// (P-123).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # use hutch_runtime::spec::Command;
    /// # use std::time::Duration;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// let command = Command { args: vec!["exit".into(), "3".into()], ..Command::default() };
    /// let (_, _, process) = runtime.exec_container("web", "server", &command, Default::default())?;
    /// let exit = runtime.wait_process("web", "server", &process.token, Duration::from_secs(5))?;
    /// assert_eq!(exit.unwrap().code, Some(3));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn exec_container(
        &self,
        pod: &str,
        container: &str,
        command: &Command,
        options: ExecOptions,
    ) -> Result<(PodHandle, ContainerHandle, Process)> {
        let (pod, container) = ids(pod, container)?;
        let process = command.to_process(options.terminal, options.rlimits)?;
        let mut pod = OpenPod::shared(self, &pod)?;
        let mut container = pod.container(&container)?;
        Verb::ExecContainer.check_pod(container.pod.id.as_str(), container.pod.state.state)?;
        Verb::ExecContainer.check_container(container.id.as_str(), container.state.state)?;
        let token = container.pod.fresh_token()?;
        let request = Request::StartProcess {
            token: token.clone(),
            container: Some(container.id.to_string()),
            process: Box::new(process),
        };
        container.pod.sandbox.call("start-process", request)?;
        let record = match container.track(token.clone(), command) {
            Ok(record) => record,
            Err(error) => {
                container.untrack(&token);
                return Err(error);
            }
        };
        let process = Process { token, pid: record.shim.pid, started_at: record.started_at };
        Ok((PodHandle::new(container.pod), container.handle(), process))
    }
}

impl ContainerRef<'_, '_> {
    /// Gives the process a shim in the namespaces of the container's own shim (P-122).
    fn track(&self, token: String, command: &Command) -> Result<ProcessRecord> {
        let (shims, store) = (&self.pod.sandbox.backends.shims, self.pod.store());
        let own = self.shim();
        let spec = ShimSpec {
            container: self.id.to_string(),
            token: token.clone(),
            exit_record: self.dirs.exec_exit_record(&token).path().to_owned(),
            console: command.console.clone(),
            terminal: command.interactive,
            stdin: command.has_stdin(),
            detach: command.detach,
            stdio: command.stdio.clone(),
            pid_namespace: if own.is_some() { PidNamespace::Join(own) } else { PidNamespace::New },
            ..self.pod.shim_base()?
        };
        store.make_dir(&self.dirs.exec_dir())?;
        let shim = guarded(Component::Shim, "spawn-exec", || shims.spawn(&spec))?;
        let record = ProcessRecord { token: token.clone(), shim: shim.process(), started_at: Timestamp::now() };
        store.put(&self.dirs.exec_record(&token), &record)?;
        self.pod.join_cgroup(record.shim)?;
        guarded(Component::Shim, "start-exec", || shim.start())?;
        Ok(record)
    }

    /// Ends a process that cannot be tracked (P-123).
    fn untrack(&mut self, token: &str) {
        let record = self.dirs.exec_record(token);
        let kill = Request::SignalProcess { token: token.into(), signal: libc::SIGKILL, all: true };
        let forget = Request::ForgetProcess { token: token.into() };
        let result = (|| {
            self.pod.sandbox.send_unless_gone("signal-process", kill)?;
            self.pod.sandbox.send_unless_gone("forget-process", forget)?;
            if let Some(record) = self.pod.store().get(&record)? {
                self.pod.kill_shim(record.shim)?;
            }
            self.pod.store().delete(&record)
        })();
        if let Err(error) = result {
            logger::warn!("pod {}: ending process {token}: {}", self.pod.id, error.chain());
        }
    }
}
