//! Hooks of the guest (P-166): the executables in `prestart`, `poststart` and `poststop` of a directory in the guest.
//! They run for each container, in the agent's own namespaces, in the order of their names. Runs on connection threads.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hutch_agent::failure::{invalid, io as failed_io, Outcome};
use hutch_agent::Agent;
use hutch_agent_proto::{Deadline, RemoteError, RemoteErrorKind};
use hutch_hook::state_file;

use crate::hooks::OciState;
use crate::job::{HookPoint, Job, HOOK_TIMEOUT};
use crate::spawn_helper::run_in_helper;

/// How long all hooks of one point may take together. The host adds this to its own timeout.
const POINT_TIMEOUT: Duration = Duration::from_secs(30);

/// Hooks of one container.
#[derive(Debug, Clone)]
pub struct GuestHooks {
    /// Directory with the directories of hooks.
    pub dir: PathBuf,
    /// State that the hooks read; its status and pid are filled in.
    pub state: OciState,
}

impl GuestHooks {
    /// Checks that the directory exists.
    pub fn check(&self) -> Outcome<()> {
        match fs::metadata(&self.dir) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(invalid(format!("guest_hooks {}: is not a directory", self.dir.display()))),
            Err(error) => Err(invalid(format!(
                "guest_hooks {}: {error}; it is a directory of the guest, for example one of the pod's volumes, \
                 /run/hutch/volumes/TAG",
                self.dir.display()
            ))),
        }
    }

    /// Runs the hooks of one point, up to the first failure.
    ///
    /// # Errors
    /// The failure of a hook, with its output.
    pub fn run(&self, agent: &Agent, point: HookPoint, pid: Option<i32>) -> Outcome<()> {
        self.each(agent, point, pid, Err)
    }

    /// Runs the hooks of one point and logs failures.
    pub fn run_logged(&self, agent: &Agent, point: HookPoint, pid: Option<i32>) {
        let warn = |error: RemoteError| {
            agent.warn(format!("container {:?}: {error}", self.state.id));
            Ok(())
        };
        if let Err(error) = self.each(agent, point, pid, warn) {
            let _ = warn(error);
        }
    }

    fn each(
        &self,
        agent: &Agent,
        point: HookPoint,
        pid: Option<i32>,
        failed: impl Fn(RemoteError) -> Outcome<()>,
    ) -> Outcome<()> {
        let programs = list(&self.dir.join(point.name()))?;
        if programs.is_empty() {
            return Ok(());
        }
        let deadline = Deadline::after(POINT_TIMEOUT);
        let state = self.state.text(point.status(), pid);
        for program in programs {
            let what = format!("{} of the guest", point.name());
            if Instant::now() >= deadline {
                let message = format!("{what}: no time is left for {}", program.display());
                failed(RemoteError::new(RemoteErrorKind::Timeout, message))?;
                continue;
            }
            let result = self.one(agent, point, &program, &state);
            result.or_else(|error| failed(RemoteError { message: format!("{what}: {}", error.message), ..error }))?;
        }
        Ok(())
    }

    fn one(&self, agent: &Agent, point: HookPoint, program: &Path, state: &str) -> Outcome<()> {
        let state = state_file(state.as_bytes()).map_err(|error| failed_io("the state for a hook", &error))?;
        let null = fs::File::options().write(true).open("/dev/null").map_err(|error| failed_io("/dev/null", &error))?;
        let stdio = [state.as_fd(), null.as_fd(), null.as_fd()];
        let job = Job::Hook { program: program.to_owned(), point };
        // The helper enforces the timeout of the hook; this limit is for a helper that fails to.
        run_in_helper(agent, &job, stdio, HOOK_TIMEOUT + Duration::from_secs(5))
    }
}

/// The executables in a directory, sorted by name; none if the directory does not exist.
fn list(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let failed = |error: io::Error| failed_io(dir.display(), &error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(failed)?,
    };
    let mut programs = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // A link is followed; its target must exist.
        let meta = fs::metadata(&path).map_err(|error| failed_io(path.display(), &error))?;
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            programs.push(path);
        }
    }
    programs.sort();
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf, mode: u32) {
        fs::write(&path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn p_166_executables_run_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        file(at("20-b"), 0o755);
        file(at("10-a"), 0o500);
        file(at("README"), 0o644);
        fs::create_dir(at("30-dir")).unwrap();
        std::os::unix::fs::symlink("10-a", at("40-link")).unwrap();
        let names: Vec<_> = list(dir.path()).unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["10-a", "20-b", "40-link"]);
        assert!(list(&at("none")).unwrap().is_empty());
        assert!(list(&at("README")).is_err());
        std::os::unix::fs::symlink("gone", at("50-broken")).unwrap();
        assert!(list(dir.path()).unwrap_err().message.contains("50-broken"));
    }

    #[test]
    fn p_166_a_missing_directory_is_invalid() {
        let dir = tempfile::tempdir().unwrap();
        let hooks = |dir: &Path| GuestHooks { dir: dir.to_owned(), state: OciState::default() };
        hooks(dir.path()).check().unwrap();
        file(dir.path().join("f"), 0o644);
        for bad in ["f", "none"] {
            let error = hooks(&dir.path().join(bad)).check().unwrap_err();
            assert_eq!(error.kind, RemoteErrorKind::Invalid);
            assert!(error.message.contains("guest_hooks"), "{error:?}");
        }
    }
}
