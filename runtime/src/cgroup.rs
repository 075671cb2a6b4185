//! Control groups of the host, version 2 (Linux Documentation/admin-guide/cgroup-v2.rst).

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use hutch_agent_proto::Deadline;

use nix::sys::statfs::{statfs, FsType};

use crate::backend::{BackendError, BackendResult, Cgroups};

/// Magic number of the cgroup v2 file system (statfs(2), CGROUP2_SUPER_MAGIC).
const CGROUP2_MAGIC: FsType = FsType(0x6367_7270);
/// The slice of a name in systemd's form that names none.
const DEFAULT_SLICE: &str = "system.slice";
/// A group stays busy for a moment after its last process was reaped.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// File with the bound of a group's memory.
const MEMORY_LIMIT: &str = "memory.max";

/// The cgroup v2 hierarchy mounted at a directory.
#[derive(Debug, Clone)]
pub struct CgroupFs {
    root: PathBuf,
}

impl CgroupFs {
    /// The hierarchy at `root`, usually `/sys/fs/cgroup`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl Default for CgroupFs {
    fn default() -> Self {
        Self::new("/sys/fs/cgroup")
    }
}

fn fail(what: &str, path: &Path, error: io::Error) -> BackendError {
    BackendError::system(format!("{what} {}", path.display()), error)
}

/// The relative path of group `name`; `None` if a component of it could lead out of the hierarchy. A name of the form
/// `SLICE:PREFIX:NAME`, which engines give that have systemd make their groups, is the place at which systemd would put the
/// scope `PREFIX-NAME`.
pub(crate) fn clean_name(name: &str) -> Option<PathBuf> {
    let path = match name.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] if !slice.contains('/') => systemd_path(slice, prefix, name)?,
        _ => PathBuf::from(name),
    };
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!clean.as_os_str().is_empty()).then_some(clean)
}

/// The place of a scope of systemd (systemd.slice(5)): the slice `a-b.slice` lies in `a.slice`, `-.slice` is the root.
fn systemd_path(slice: &str, prefix: &str, name: &str) -> Option<PathBuf> {
    let plain = |text: &str| !text.contains('/');
    let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
    let stem = slice.strip_suffix(".slice")?;
    let mut path = PathBuf::new();
    if stem != "-" {
        if stem.split('-').any(str::is_empty) {
            return None;
        }
        let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
        path.extend(ends.filter_map(|end| stem.get(..end)).map(|part| format!("{part}.slice")));
    }
    if name.is_empty() || !plain(prefix) || !plain(name) {
        return None;
    }
    path.push(match (name.ends_with(".slice"), prefix) {
        (true, _) => name.to_owned(),
        (false, "") => format!("{name}.scope"),
        (false, prefix) => format!("{prefix}-{name}.scope"),
    });
    Some(path)
}

impl Cgroups for CgroupFs {
    fn plan(&self, name: &str) -> BackendResult<Option<PathBuf>> {
        let clean =
            clean_name(name).ok_or_else(|| BackendError::Refused(format!("{name:?} does not name a control group")))?;
        match statfs(&self.root) {
            Ok(found) if found.filesystem_type() == CGROUP2_MAGIC => Ok(Some(self.root.join(clean))),
            // A host with cgroup v1 or without cgroups: the pod runs without a group.
            _ => Ok(None),
        }
    }

    fn missing(&self, dir: &Path) -> BackendResult<Vec<PathBuf>> {
        let chain = dir.ancestors().take_while(|dir| *dir != self.root && dir.starts_with(&self.root));
        let mut missing: Vec<PathBuf> = chain.filter(|dir| !dir.exists()).map(ToOwned::to_owned).collect();
        missing.reverse();
        Ok(missing)
    }

    fn create(&self, dir: &Path) -> BackendResult<()> {
        fs::create_dir_all(dir).map_err(|e| fail("make the control group", dir, e))?;
        self.enable_memory(dir);
        Ok(())
    }

    fn add(&self, dir: &Path, pid: i32) -> BackendResult<()> {
        if pid <= 0 {
            return Ok(());
        }
        match fs::write(dir.join("cgroup.procs"), pid.to_string()) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                Err(fail("move a process into the control group", dir, e))
            }
            _ => Ok(()),
        }
    }

    fn processes(&self, dir: &Path) -> BackendResult<u64> {
        let members = fs::read_to_string(dir.join("cgroup.procs"));
        members.map(|text| text.lines().count() as u64).map_err(|e| fail("read the control group", dir, e))
    }

    fn memory_limit(&self, dir: &Path) -> BackendResult<Option<u64>> {
        match fs::read_to_string(dir.join(MEMORY_LIMIT)) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(fail("read the memory limit of the control group", dir, e)),
        }
    }

    fn limit_memory(&self, dir: &Path, bytes: Option<u64>) -> BackendResult<bool> {
        let write = |name: &str, text: &str| match write_existing(&dir.join(name), text) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(fail("limit the memory of the control group", dir, e)),
        };
        // A pod without its VMM process, or with half of its shims, is of no use.
        write("memory.oom.group", if bytes.is_some() { "1" } else { "0" })?;
        write(MEMORY_LIMIT, &bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string()))
    }

    fn remove(&self, dir: &Path) -> BackendResult<bool> {
        let deadline = Deadline::after(BUSY_TIMEOUT);
        let mut wait = Duration::from_millis(1);
        loop {
            match fs::remove_dir(dir) {
                Ok(()) => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && in_use(dir) => return Ok(false),
                // The kernel sends no event when the group is free. This follows a kill and takes milliseconds.
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(Duration::from_millis(100));
                }
                Err(e) => return Err(fail("remove the control group", dir, e)),
            }
        }
    }
}

impl CgroupFs {
    /// Lets `dir` have a memory controller, as far as the groups that it lies in allow that. Where it cannot, the pod runs
    /// without a limit and its status says so.
    fn enable_memory(&self, dir: &Path) {
        let mut above: Vec<&Path> = dir.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)).collect();
        above.reverse();
        for group in above {
            let file = group.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&file).unwrap_or_default();
            if !enabled.split_whitespace().any(|controller| controller == "memory") {
                let _ = write_existing(&file, "+memory");
            }
        }
    }
}

/// Writes a file of the hierarchy; makes none.
fn write_existing(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// Whether a group has members or groups. Processes that have ended are not listed.
fn in_use(dir: &Path) -> bool {
    let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    !members.trim().is_empty() || entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        for (name, expected) in [("/a/b", Some("a/b")), ("a.slice/x", Some("a.slice/x")), ("./a//b/", Some("a/b"))] {
            assert_eq!(clean_name(name).as_deref(), expected.map(Path::new), "{name:?}");
        }
        for name in ["", "/", ".", "..", "a/../b", "/../x"] {
            assert_eq!(clean_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn p_196_names_in_the_form_of_systemd_are_places_below_its_slices() {
        for (name, expected) in [
            ("system.slice:crio:1234", Some("system.slice/crio-1234.scope")),
            (":runc:1234", Some("system.slice/runc-1234.scope")),
            ("-.slice:libpod:1", Some("libpod-1.scope")),
            ("user.slice::1", Some("user.slice/1.scope")),
            (
                "kubepods-burstable-pod1.slice:cri-containerd:2",
                Some("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-2.scope"),
            ),
            ("machine.slice:x:a.slice", Some("machine.slice/a.slice")),
            ("/own/a:b:c", Some("own/a:b:c")),
            ("system:x:1", None),
            ("../a.slice:x:1", None),
            ("a--b.slice:x:1", None),
            ("a.slice:x:", None),
            ("a.slice:x:../../1", None),
        ] {
            assert_eq!(clean_name(name).as_deref(), expected.map(Path::new), "{name:?}");
        }
    }

    #[test]
    fn a_directory_that_is_no_hierarchy_has_no_groups() {
        let dir = tempfile::tempdir().unwrap();
        let groups = CgroupFs::new(dir.path());
        assert_eq!(groups.plan("a").unwrap(), None);
        assert!(groups.plan("..").is_err());
        assert!(groups.remove(&dir.path().join("x")).unwrap());
        groups.add(&dir.path().join("x"), 0).unwrap();
    }

    /// Uses the real hierarchy if this process may write there.
    #[test]
    fn p_197_groups_take_processes_and_go() {
        let groups = CgroupFs::default();
        let name = format!("hutch-test-{}", std::process::id());
        let dir = groups.plan(&name).unwrap().filter(|dir| groups.create(dir).is_ok());
        let Some(dir) = dir else {
            // Bypasses the output capture of libtest, so that the skip is counted.
            let line = "SKIPPED: no writable cgroup v2 hierarchy at /sys/fs/cgroup";
            return std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
        };
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        groups.add(&dir, child.id() as i32).unwrap();
        let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        assert_eq!(members.trim(), child.id().to_string());
        child.kill().unwrap();
        child.wait().unwrap();
        groups.add(&dir, child.id() as i32).unwrap();
        assert_eq!(groups.processes(&dir).unwrap(), 0);
        assert!(groups.remove(&dir).unwrap());
        assert!(!dir.exists());
        groups.create(&dir).unwrap();
        // Memory: the bound is there where the kernel has a controller for it.
        let bound = 64 << 20;
        let bounded = groups.limit_memory(&dir, Some(bound)).unwrap();
        assert_eq!(groups.memory_limit(&dir).unwrap(), bounded.then_some(bound));
        if bounded {
            assert_eq!(fs::read_to_string(dir.join("memory.oom.group")).unwrap().trim(), "1");
            assert!(groups.limit_memory(&dir, None).unwrap());
            assert_eq!(groups.memory_limit(&dir).unwrap(), None);
        }
        // A group that others use stays, and is not waited for.
        let inner = dir.join("inner");
        assert_eq!(groups.missing(&inner).unwrap(), std::slice::from_ref(&inner));
        groups.create(&inner).unwrap();
        assert!(groups.missing(&inner).unwrap().is_empty());
        assert!(!groups.remove(&dir).unwrap(), "it has a group");
        assert!(groups.remove(&inner).unwrap() && groups.remove(&dir).unwrap());
    }
}
