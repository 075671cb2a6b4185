//! `exec` and `run` by container id (P-197, P-198).

use std::path::Path;
use std::time::Duration;

use crate::container::{ExecOptions, Process};
use crate::error::Result;
use crate::oci::{write_pid_file, Bundle};
use crate::runtime::Runtime;
use crate::spec::{Command, Exit};

/// Waits are repeated in slices of this length until the process ends.
const SLICE: Duration = Duration::from_secs(3600);

impl Runtime {
    /// Runs a command in a container. Detached: returns once the command runs. Else: waits and returns how it ended.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`](crate::Error::NoSuchContainer); else as [`Runtime::exec_container`].
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # use hutch_runtime::spec::Command;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// # runtime.run_pod(host.pod("web", &["web"]))?;
    /// let command = Command { args: vec!["exit".into(), "3".into()], ..Command::default() };
    /// let (_, exit) = runtime.oci_exec("web", &command, Default::default(), None)?;
    /// assert_eq!(exit.unwrap().shell_code(), 3);
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn oci_exec(
        &self,
        id: &str,
        command: &Command,
        options: ExecOptions,
        pid_file: Option<&Path>,
    ) -> Result<(Process, Option<Exit>)> {
        let found = self.find_container(id)?;
        let (_, _, process) = self.exec_container(&found.pod, id, command, options)?;
        if let Some(path) = pid_file
            && let Err(error) = write_pid_file(path, process.pid)
        {
            self.signal_process(&found.pod, id, &process.token, libc::SIGKILL, true)?;
            return Err(error);
        }
        if command.detach {
            return Ok((process, None));
        }
        loop {
            if let Some(exit) = self.wait_process(&found.pod, id, &process.token, SLICE)? {
                self.forget_process(&found.pod, id, &process.token)?;
                return Ok((process, Some(exit)));
            }
        }
    }

    /// Creates and starts a container from a bundle. Unless it is detached, waits for its end, deletes it and returns
    /// how it ended.
    ///
    /// # Errors
    /// As [`Runtime::oci_create`] and [`Runtime::oci_start`]. A container that did not start is deleted, unless it
    /// is detached.
    pub fn oci_run(&self, bundle: Bundle<'_>) -> Result<Option<Exit>> {
        let (id, detach) = (bundle.id.to_owned(), bundle.detach);
        let container = self.oci_create(bundle)?;
        let pod = container.pod().to_owned();
        let ended = self.oci_start(&id).and_then(|()| {
            if detach {
                return Ok(None);
            }
            loop {
                if let Some(exit) = self.wait_container(&pod, &id, SLICE)? {
                    return Ok(Some(exit));
                }
            }
        });
        if !detach {
            self.oci_delete(&id, true)?;
        }
        ended
    }
}
