//! Namespaces, endpoints and mounts as files in a directory: visible to all processes, and to be counted at the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hutch_runtime::backend::{BackendError, BackendResult, Cgroups, HostMounts, Namespace, Network, RootDisk};
use hutch_runtime::network::{Endpoint, EndpointKind};
use hutch_runtime::spec::NetworkConfig;
use hutch_runtime::store::BindRecord;

/// A directory of entries.
#[derive(Debug, Clone)]
pub struct Ledger {
    dir: PathBuf,
}

impl Ledger {
    /// A ledger in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Name of an entry: no slashes.
    fn entry(&self, kind: &str, name: &str) -> PathBuf {
        self.dir.join(format!("{kind} {}", name.replace('/', "|")))
    }

    fn note(&self, kind: &str, name: &str) -> BackendResult<()> {
        let path = self.entry(kind, name);
        let written = fs::create_dir_all(&self.dir).and_then(|()| fs::write(&path, name));
        written.map_err(|e| BackendError::system(format!("write {}", path.display()), e))
    }

    fn strike(&self, kind: &str, name: &str) -> BackendResult<()> {
        let path = self.entry(kind, name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(BackendError::system(format!("remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }
}

fn text(namespace: &Namespace) -> String {
    namespace.path.as_deref().unwrap_or(Path::new("")).display().to_string()
}

impl Network for Ledger {
    fn plan(&self, pod: &str, config: &NetworkConfig) -> BackendResult<Namespace> {
        Ok(match &config.namespace {
            Some(path) => Namespace { path: Some(path.clone()), created: false },
            None => Namespace { path: Some(self.dir.join("netns").join(pod)), created: true },
        })
    }

    fn create(&self, _: &str, namespace: &Namespace, _: &NetworkConfig) -> BackendResult<()> {
        self.note("namespace", &text(namespace))
    }

    fn run(&self, _: &Namespace, job: &mut (dyn FnMut() + Send)) -> BackendResult<()> {
        hutch_runtime::backend::run_in_namespace(None, job)
    }

    fn scan(&self, _: &str, _: &Namespace, _: &NetworkConfig) -> BackendResult<Vec<Endpoint>> {
        Ok(vec![Endpoint {
            kind: EndpointKind::Tap { tap: "tap0".into(), keep_ingress: false },
            name: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
            addresses: vec!["10.1.1.2/24".into()],
            routes: Vec::new(),
            neighbours: Vec::new(),
        }])
    }

    fn attach(&self, namespace: &Namespace, endpoint: &Endpoint) -> BackendResult<()> {
        self.note("endpoint", &format!("{} in {}", endpoint.name, text(namespace)))
    }

    fn detach(&self, namespace: &Namespace, endpoint: &Endpoint) -> BackendResult<()> {
        self.strike("endpoint", &format!("{} in {}", endpoint.name, text(namespace)))
    }

    fn delete(&self, _: &str, namespace: &Namespace) -> BackendResult<()> {
        self.strike("namespace", &text(namespace))
    }
}

impl HostMounts for Ledger {
    /// Every file is a disk.
    fn root_disk(&self, rootfs: &Path) -> BackendResult<Option<RootDisk>> {
        let disk = RootDisk { device: rootfs.into(), fstype: "ext4".into(), path: PathBuf::new() };
        Ok(rootfs.is_file().then_some(disk))
    }

    fn resolve(&self, source: &Path) -> BackendResult<PathBuf> {
        source.canonicalize().map_err(|e| BackendError::system(format!("find {}", source.display()), e))
    }

    fn bind(&self, bind: &BindRecord) -> BackendResult<()> {
        self.note("mount", &bind.target.display().to_string())?;
        fs::create_dir_all(&bind.target).map_err(|e| BackendError::system("make a mount point", e))
    }

    fn unbind(&self, target: &Path) -> BackendResult<()> {
        match fs::remove_dir(target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(BackendError::system("remove a mount point", e))
            }
            _ => {}
        }
        self.strike("mount", &target.display().to_string())
    }

    fn below(&self, dir: &Path) -> BackendResult<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("mount ") {
                let target = PathBuf::from(fs::read_to_string(entry.path()).unwrap_or_default());
                if target.starts_with(dir) {
                    found.push(target);
                }
            }
        }
        found.sort();
        found.reverse();
        Ok(found)
    }
}

impl Cgroups for Ledger {
    fn plan(&self, name: &str) -> BackendResult<Option<PathBuf>> {
        Ok(Some(PathBuf::from(name)))
    }

    fn missing(&self, dir: &Path) -> BackendResult<Vec<PathBuf>> {
        Ok(vec![dir.to_owned()])
    }

    fn create(&self, dir: &Path) -> BackendResult<()> {
        self.note("cgroup", &dir.display().to_string())
    }

    fn add(&self, _: &Path, _: i32) -> BackendResult<()> {
        Ok(())
    }

    fn processes(&self, _: &Path) -> BackendResult<u64> {
        Ok(1)
    }

    fn memory_limit(&self, _: &Path) -> BackendResult<Option<u64>> {
        Ok(Some(1))
    }

    fn limit_memory(&self, _: &Path, _: Option<u64>) -> BackendResult<bool> {
        Ok(true)
    }

    fn remove(&self, dir: &Path) -> BackendResult<bool> {
        self.strike("cgroup", &dir.display().to_string()).map(|()| true)
    }
}
