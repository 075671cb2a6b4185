//! Bind mounts in memory.

use std::path::{Path, PathBuf};

use super::fake_host::FakeHost;
use hutch_runtime::backend::{BackendError, BackendResult, HostMounts, RootDisk};
use hutch_runtime::store::BindRecord;

impl HostMounts for FakeHost {
    fn root_disk(&self, rootfs: &Path) -> BackendResult<Option<RootDisk>> {
        self.called("mounts.root-disk", "", |state| Ok(state.root_disks.get(rootfs).cloned()))
    }

    fn resolve(&self, source: &Path) -> BackendResult<PathBuf> {
        self.called("mounts.resolve", "", |_| {
            source.canonicalize().map_err(|e| BackendError::system(format!("find {}", source.display()), e))
        })
    }

    fn bind(&self, bind: &BindRecord) -> BackendResult<()> {
        self.called("mounts.bind", &bind.destination, |state| {
            if state.mounts.insert(bind.target.clone(), bind.clone()).is_some() {
                state.violations.push(format!("mounted twice: {}", bind.target.display()));
            }
            Ok(())
        })
    }

    fn unbind(&self, target: &Path) -> BackendResult<()> {
        self.called("mounts.unbind", "", |state| {
            state.mounts.remove(target);
            Ok(())
        })
    }

    fn below(&self, dir: &Path) -> BackendResult<Vec<PathBuf>> {
        self.called("mounts.below", "", |state| {
            Ok(state.mounts.keys().rev().filter(|target| target.starts_with(dir)).cloned().collect())
        })
    }
}
