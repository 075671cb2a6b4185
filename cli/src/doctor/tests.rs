//! Findings on fake hosts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use hutch_guest::{AssetKind, GuestError, Inspection};
use hutch_vmm::confine::identity::Kept;
use hutch_vmm::confine::trial::Granted;
use hutch_vmm::probe::KvmSupport;

use super::checks::examine;
use super::host::{Limit, View};
use super::report::{Finding, Report, Status};

struct FakeHost {
    kvm: KvmSupport,
    files: HashMap<&'static str, &'static str>,
    nodes: Vec<&'static str>,
    denied: Vec<&'static str>,
    cgroup2: Vec<&'static str>,
    open_files: u64,
    seccomp: bool,
    granted: Granted,
    landlock: Option<u32>,
    root: bool,
    assets: RefCell<HashMap<String, Inspection>>,
}

/// A host without problems.
fn good() -> FakeHost {
    FakeHost {
        kvm: KvmSupport::Hardware,
        files: HashMap::from([
            ("/proc/cpuinfo", "processor : 0\nflags\t\t: fpu svm sse\n"),
            ("/proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable:    4194304 kB\n"),
            ("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
        ]),
        nodes: vec!["/dev/net/tun", "/dev/vhost-vsock"],
        denied: vec![],
        cgroup2: vec!["/sys/fs/cgroup"],
        open_files: 1 << 20,
        seccomp: true,
        granted: Granted { apart: Ok(()), pid: Ok(()), net: Ok(()), root: Ok(()), identity: Ok(()), file_server: 7 },
        landlock: Some(6),
        root: true,
        assets: RefCell::new(HashMap::from([("distro".to_owned(), asset("distro", &[]))])),
    }
}

fn asset(kind: &str, problems: &[&str]) -> Inspection {
    let zero = "0".repeat(64);
    let stamp = serde_json::json!({"size": 0, "mtime_ns": 0, "ctime_ns": 0, "inode": 0, "device": 0});
    let manifest = serde_json::json!({
        "format": 1, "kind": kind, "modules": [], "files": {}, "built_unix_s": 0, "built_in_ms": 0, "builder": "x",
        "kernel": {"release": "6.12.9", "form": "ELF", "key": "k",
            "origin": {"from": "package", "package": "p", "version": "1", "sha256": zero}},
        "agent": {"path": "/a", "given": false, "sha256": zero, "stamp": stamp, "version": "0.1.0"},
    });
    Inspection {
        dir: PathBuf::from("/g"),
        manifest: serde_json::from_value(manifest).unwrap(),
        files: problems
            .iter()
            .map(|problem| hutch_guest::FileCheck {
                name: "vmlinux".into(),
                sha256: None,
                problem: Some((*problem).to_owned()),
            })
            .collect(),
        recorded: hutch_guest::Recorded::Unknown,
        stale: vec![],
    }
}

impl View for FakeHost {
    fn kvm(&self) -> KvmSupport {
        self.kvm.clone()
    }

    fn read(&self, path: &str) -> io::Result<String> {
        self.files.get(path).map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn access(&self, path: &str) -> io::Result<()> {
        match (self.nodes.contains(&path), self.denied.contains(&path)) {
            (_, true) => Err(io::ErrorKind::PermissionDenied.into()),
            (true, _) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_cgroup2(&self, path: &str) -> bool {
        self.cgroup2.contains(&path)
    }

    fn limit(&self, limit: Limit) -> io::Result<(u64, u64)> {
        Ok(match limit {
            Limit::Files => (1024, self.open_files),
            Limit::Memlock => (u64::MAX, u64::MAX),
        })
    }

    fn seccomp(&self) -> io::Result<()> {
        if self.seccomp {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    fn granted(&self) -> Granted {
        self.granted.clone()
    }

    fn landlock(&self) -> Option<u32> {
        self.landlock
    }

    fn is_root(&self) -> bool {
        self.root
    }

    fn guest_dir(&self) -> PathBuf {
        PathBuf::from("/g")
    }

    fn asset(&self, kind: &AssetKind) -> Result<Inspection, GuestError> {
        let found = self.assets.borrow_mut().remove(&kind.to_string());
        found.ok_or_else(|| GuestError::NotBuilt { kind: kind.clone(), dir: PathBuf::from("/g") })
    }
}

fn finding(host: &FakeHost, check: &str) -> Finding {
    examine(host).into_iter().find(|finding| finding.check == check).unwrap()
}

#[test]
fn a_good_host_is_usable_and_has_nothing_to_remedy() {
    let report = Report::new(examine(&good()));
    assert!(report.usable, "{report:?}");
    assert!(report.findings.iter().all(|f| f.status == Status::Ok && f.remedy.is_none()), "{report:?}");
    assert!(report.table().contains("works here"));
}

#[test]
fn every_problem_with_kvm_is_a_failure_with_a_remedy() {
    for (support, word) in [
        (KvmSupport::EmulatedOnly, "emulates"),
        (KvmSupport::Absent, "there is no /dev/kvm"),
        (KvmSupport::Denied, "no permission"),
    ] {
        let host = FakeHost { kvm: support, ..good() };
        let finding = finding(&host, "kvm");
        assert_eq!(finding.status, Status::Failure);
        assert!(finding.detail.contains(word) && finding.remedy.is_some(), "{finding:?}");
        let report = Report::new(examine(&host));
        assert!(!report.usable && report.table().contains("would not work"));
    }
}

#[test]
fn guest_assets_must_exist_and_be_intact() {
    let host = good();
    host.assets.borrow_mut().clear();
    let missing = finding(&host, "guest-assets");
    assert_eq!(missing.status, Status::Failure);
    assert_eq!(missing.remedy.as_deref(), Some("run `hutch guest build --kernel distro`"));

    let host = good();
    host.assets.borrow_mut().insert("distro".into(), asset("distro", &["has changed"]));
    let damaged = finding(&host, "guest-assets");
    assert_eq!(damaged.status, Status::Failure);
    assert!(damaged.detail.contains("vmlinux has changed") && damaged.remedy.unwrap().contains("--force"));
}

#[test]
fn the_own_kernel_is_optional_but_a_damaged_one_is_reported() {
    assert_eq!(finding(&good(), "guest-kernel").status, Status::Ok);
    let host = good();
    host.assets.borrow_mut().insert("source".into(), asset("source", &["has changed"]));
    assert_eq!(finding(&host, "guest-kernel").status, Status::Warning);
}

#[test]
fn problems_that_do_not_affect_run_are_warnings() {
    let mut host = good();
    host.nodes.clear();
    host.cgroup2 = vec!["/sys/fs/cgroup/unified"];
    host.open_files = 1024;
    host.seccomp = false;
    host.root = false;
    host.files.insert("/proc/meminfo", "MemAvailable: 1000 kB\n");
    host.files.insert("/proc/cpuinfo", "flags : fpu hypervisor\n");
    let report = Report::new(examine(&host));
    assert!(report.usable);
    let warnings: Vec<_> =
        report.findings.iter().filter(|f| f.status == Status::Warning && f.remedy.is_some()).map(|f| f.check).collect();
    assert_eq!(warnings, ["processor", "memory", "open-files", "user", "jail", "tun", "cgroups"]);
    host.denied.push("/dev/net/tun");
    assert!(finding(&host, "tun").remedy.unwrap().contains("run as root"));
}

#[test]
fn the_layers_of_a_jail_are_named() {
    let mut host = good();
    let found = finding(&host, "jail");
    assert_eq!(found.status, Status::Ok);
    assert_eq!(
        found.detail,
        "machines get seccomp, landlock 6; also: private root, ns mnt,ipc,uts, ns pid for a pod, ns net if it has no network, \
         a uid of its own if it has no shares, caps fs 7 for its shares"
    );
    // An ordinary user.
    let refused = || Err("EPERM: Operation not permitted".to_owned());
    host.granted = Granted {
        apart: refused(),
        pid: refused(),
        net: refused(),
        root: refused(),
        identity: Err(Kept::NotRoot),
        file_server: 0,
    };
    (host.landlock, host.root) = (None, false);
    let found = finding(&host, "jail");
    assert_eq!(found.status, Status::Ok, "both are usual");
    for layer in ["seccomp, no landlock", "without: private root (EPERM", "a uid of its own (not root)"] {
        assert!(found.detail.contains(layer), "{}", found.detail);
    }
    // Root of a container: what counts is what the kernel grants.
    (host.root, host.granted.file_server, host.granted.identity) = (true, 7, Ok(()));
    let found = finding(&host, "jail");
    assert_eq!(found.status, Status::Warning);
    assert!(found.remedy.is_some_and(|remedy| remedy.contains("CAP_SYS_ADMIN")));
    for layer in [
        "also: a uid of its own if it has no shares, caps fs 7",
        "without: private root (EPERM",
        "ns pid for a pod (EPERM",
    ] {
        assert!(found.detail.contains(layer), "{}", found.detail);
    }
    host.seccomp = false;
    assert!(finding(&host, "jail").detail.contains("no seccomp filters"));
}

#[test]
fn a_nested_host_is_named() {
    let mut host = good();
    host.files.insert("/proc/cpuinfo", "flags : vmx hypervisor\n");
    assert!(finding(&host, "processor").detail.contains("nested"));
}

#[test]
fn json_has_the_documented_members() {
    let json =
        serde_json::to_value(Report::new(vec![Finding::warning("tun", "a", "b"), Finding::ok("kvm", "c")])).unwrap();
    let expected = serde_json::json!({
        "format": 1, "usable": true, "findings": [
            {"check": "tun", "status": "warning", "detail": "a", "remedy": "b"},
            {"check": "kvm", "status": "ok", "detail": "c", "remedy": null},
        ],
    });
    assert_eq!(json, expected);
}
