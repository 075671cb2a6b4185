//! The paths of the records. `resources/docs/reference/files.md` has the table.

use std::path::{Path, PathBuf};

use super::record::RecordPath;
use super::records::{
    AgentRecord, ContainerState, DevicesRecord, ExitRecord, FailureRecord, MountsRecord, NetworkRecord, PodState,
    ProcessRecord, VmRecord,
};
use super::StoreCause;
use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::spec::{ContainerConfig, PodConfig};

/// Config root if none is given.
pub const DEFAULT_CONFIG_ROOT: &str = "/var/lib/hutch/pods";
/// Run root if none is given.
pub const DEFAULT_RUN_ROOT: &str = "/run/hutch/pods";

/// Longest path of a Unix socket: `sun_path` has 108 bytes, one of them for the end (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Hexadecimal digits of the UUID in the name of the control socket.
const SOCKET_DIGITS: usize = 8;

/// Paths of the records of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDirs {
    config: PathBuf,
    run: PathBuf,
}

/// Paths of the records of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerDirs {
    config: PathBuf,
    run: PathBuf,
}

impl PodDirs {
    pub(super) fn new(config_root: &Path, run_root: &Path, id: &PodId) -> Self {
        Self { config: config_root.join(id.as_str()), run: run_root.join(id.as_str()) }
    }

    /// Directory in the config root.
    pub fn config_dir(&self) -> &Path {
        &self.config
    }

    /// Directory in the run root.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// The lock file.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// The directory that the guest sees.
    pub fn shared_dir(&self) -> PathBuf {
        self.run.join("shared")
    }

    /// Output of the VMM process.
    pub fn vmm_log(&self) -> PathBuf {
        self.run.join("vmm.log")
    }

    /// Output of the guest's console, if it is kept.
    pub fn console_log(&self) -> PathBuf {
        self.run.join("console.log")
    }

    /// Control socket of the machine with this UUID.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if the path is too long for a socket (P-052).
    pub fn control_socket(&self, uuid: &str) -> Result<PathBuf> {
        let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).take(SOCKET_DIGITS).collect();
        let path = self.run.join(format!("vm-{digits}.sock"));
        check_socket_path(&path)?;
        Ok(path)
    }

    /// Checks the socket paths before anything is made (P-052).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn check_socket_paths(&self) -> Result<()> {
        self.control_socket(&"0".repeat(SOCKET_DIGITS)).map(drop)
    }

    /// Pod config record.
    pub fn config_record(&self) -> RecordPath<PodConfig> {
        RecordPath::new(self.config.join("config.json"))
    }

    /// Pod state record.
    pub fn state_record(&self) -> RecordPath<PodState> {
        RecordPath::new(self.run.join("state.json"))
    }

    /// Network record.
    pub fn network_record(&self) -> RecordPath<NetworkRecord> {
        RecordPath::new(self.run.join("network.json"))
    }

    /// Hypervisor record.
    pub fn vm_record(&self) -> RecordPath<VmRecord> {
        RecordPath::new(self.run.join("hypervisor.json"))
    }

    /// Agent record.
    pub fn agent_record(&self) -> RecordPath<AgentRecord> {
        RecordPath::new(self.run.join("agent.json"))
    }

    /// Failure record.
    pub fn failure_record(&self) -> RecordPath<FailureRecord> {
        RecordPath::new(self.run.join("failure.json"))
    }

    /// Paths of the records of a container.
    pub fn container(&self, id: &ContainerId) -> ContainerDirs {
        ContainerDirs { config: self.config.join(id.as_str()), run: self.run.join(id.as_str()) }
    }

    /// Ids of containers that have a directory in either root, whether the pod lists them or not.
    ///
    /// # Errors
    /// [`Error::Store`] if a directory cannot be read.
    pub fn container_dirs(&self) -> Result<Vec<ContainerId>> {
        let mut ids = Vec::new();
        for dir in [&self.config, &self.run] {
            let fail = |e| Error::Store { path: dir.clone(), source: StoreCause::Read(e) };
            let entries = match std::fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(fail(e)),
            };
            for entry in entries {
                let entry = entry.map_err(fail)?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    ids.extend(entry.file_name().to_str().and_then(|name| ContainerId::new(name).ok()));
                }
            }
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }
}

impl ContainerDirs {
    /// Directory in the config root.
    pub fn config_dir(&self) -> &Path {
        &self.config
    }

    /// Directory in the run root.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// Directory of the records of execs.
    pub fn exec_dir(&self) -> PathBuf {
        self.run.join("exec")
    }

    /// Container config record.
    pub fn config_record(&self) -> RecordPath<ContainerConfig> {
        RecordPath::new(self.config.join("config.json"))
    }

    /// Container state record.
    pub fn state_record(&self) -> RecordPath<ContainerState> {
        RecordPath::new(self.run.join("state.json"))
    }

    /// Record of the init process.
    pub fn process_record(&self) -> RecordPath<ProcessRecord> {
        RecordPath::new(self.run.join("process.json"))
    }

    /// Mounts record.
    pub fn mounts_record(&self) -> RecordPath<MountsRecord> {
        RecordPath::new(self.run.join("mounts.json"))
    }

    /// Devices record.
    pub fn devices_record(&self) -> RecordPath<DevicesRecord> {
        RecordPath::new(self.run.join("devices.json"))
    }

    /// Exit record of the init process, written by its shim.
    pub fn exit_record(&self) -> RecordPath<ExitRecord> {
        RecordPath::new(self.run.join("exit.json"))
    }

    /// Record of an exec.
    pub fn exec_record(&self, token: &str) -> RecordPath<ProcessRecord> {
        RecordPath::new(self.exec_dir().join(format!("{token}.json")))
    }

    /// Exit record of an exec, written by its shim.
    pub fn exec_exit_record(&self, token: &str) -> RecordPath<ExitRecord> {
        RecordPath::new(self.exec_dir().join(format!("{token}.exit.json")))
    }

    /// Tokens of the tracked execs.
    ///
    /// # Errors
    /// [`Error::Store`] if the directory cannot be read.
    pub fn exec_tokens(&self) -> Result<Vec<String>> {
        let dir = self.exec_dir();
        let fail = |e| Error::Store { path: dir.clone(), source: StoreCause::Read(e) };
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        };
        let mut tokens = Vec::new();
        for entry in entries {
            let name = entry.map_err(fail)?.file_name();
            let token = name.to_str().and_then(|name| name.strip_suffix(".json"));
            // Neither exit records nor temporary files.
            tokens.extend(token.filter(|token| !token.contains(['.', ' '])).map(str::to_owned));
        }
        tokens.sort();
        Ok(tokens)
    }
}

fn check_socket_path(path: &Path) -> Result<()> {
    let len = path.as_os_str().len();
    if len <= MAX_SOCKET_PATH {
        return Ok(());
    }
    Err(Error::invalid(
        format!("socket path {}", path.display()),
        format!("has {len} bytes, {MAX_SOCKET_PATH} are possible; use a shorter pod id or run root"),
    ))
}
