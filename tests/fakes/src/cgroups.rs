//! Control groups in memory.

use std::path::{Path, PathBuf};

use super::fake_host::FakeHost;
use hutch_runtime::backend::{BackendError, BackendResult, Cgroups};

/// A group and those that it lies in, innermost first.
fn groups_of(dir: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()).map(ToOwned::to_owned)
}

impl Cgroups for FakeHost {
    fn plan(&self, name: &str) -> BackendResult<Option<PathBuf>> {
        self.called("cgroup.plan", name, |_| Ok(Some(PathBuf::from(name))))
    }

    fn missing(&self, dir: &Path) -> BackendResult<Vec<PathBuf>> {
        self.called("cgroup.missing", "", |state| {
            let missing = groups_of(dir).filter(|dir| !state.cgroups.contains_key(dir));
            let mut missing: Vec<PathBuf> = missing.collect();
            missing.reverse();
            Ok(missing)
        })
    }

    fn create(&self, dir: &Path) -> BackendResult<()> {
        self.called("cgroup.create", "", |state| {
            for dir in groups_of(dir) {
                state.cgroups.entry(dir).or_default();
            }
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

    fn processes(&self, dir: &Path) -> BackendResult<u64> {
        self.called("cgroup.processes", "", |state| {
            Ok(state.cgroups.get(dir).map_or(0, |members| members.len() as u64))
        })
    }

    fn memory_limit(&self, dir: &Path) -> BackendResult<Option<u64>> {
        self.called("cgroup.memory-limit", "", |state| Ok(state.memory_limits.get(dir).copied()))
    }

    fn limit_memory(&self, dir: &Path, bytes: Option<u64>) -> BackendResult<bool> {
        let detail = bytes.map_or_else(|| "none".to_owned(), |bytes| (bytes >> 20).to_string());
        self.called("cgroup.limit-memory", &detail, |state| {
            if !state.cgroups.contains_key(dir) {
                return Err(BackendError::Refused(format!("no group {}", dir.display())));
            }
            match bytes {
                Some(bytes) => state.memory_limits.insert(dir.to_owned(), bytes),
                None => state.memory_limits.remove(dir),
            };
            Ok(true)
        })
    }

    fn remove(&self, dir: &Path) -> BackendResult<bool> {
        self.called("cgroup.remove", "", |state| {
            let living = |pid: &i32| {
                state.vms.values().any(|vm| vm.alive && vm.process.pid == *pid)
                    || state.shims.get(pid).is_some_and(|shim| shim.alive)
            };
            let inner = state.cgroups.keys().any(|other| other != dir && other.starts_with(dir));
            if inner || state.cgroups.get(dir).is_some_and(|members| members.iter().any(living)) {
                return Ok(false);
            }
            state.cgroups.remove(dir);
            state.memory_limits.remove(dir);
            Ok(true)
        })
    }
}
