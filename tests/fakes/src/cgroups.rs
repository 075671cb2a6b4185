//! Control groups in memory.

use std::path::{Path, PathBuf};

use super::fake_host::FakeHost;
use hutch_runtime::backend::{BackendError, BackendResult, Cgroups};

impl Cgroups for FakeHost {
    fn plan(&self, name: &str) -> BackendResult<Option<PathBuf>> {
        self.called("cgroup.plan", name, |_| Ok(Some(PathBuf::from(name))))
    }

    fn create(&self, dir: &Path) -> BackendResult<()> {
        self.called("cgroup.create", "", |state| {
            state.cgroups.entry(dir.to_owned()).or_default();
            Ok(())
        })
    }

    fn add(&self, dir: &Path, pid: i32) -> BackendResult<()> {
        self.called("cgroup.add", "", |state| match state.cgroups.get_mut(dir) {
            Some(members) => {
                members.insert(pid);
                Ok(())
            }
            None => Err(BackendError::Refused(format!("no group {}", dir.display()))),
        })
    }

    fn remove(&self, dir: &Path) -> BackendResult<()> {
        self.called("cgroup.remove", "", |state| {
            let living = |pid: &i32| {
                state.vms.values().any(|vm| vm.alive && vm.process.pid == *pid)
                    || state.shims.get(pid).is_some_and(|shim| shim.alive)
            };
            if state.cgroups.get(dir).is_some_and(|members| members.iter().any(living)) {
                return Err(BackendError::Refused(format!("group {} is busy", dir.display())));
            }
            state.cgroups.remove(dir);
            Ok(())
        })
    }
}
