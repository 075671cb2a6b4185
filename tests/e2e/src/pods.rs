//! Pods for tests: directories for records of their own, and command lines for the verbs.

use std::path::Path;

use crate::{kernels, Ended, Hutch, RootFs};

/// Pods with records and a root file system of their own. Dropping this removes the pods that are left.
pub struct Pods {
    root: RootFs,
    // A short path: it holds Unix sockets.
    records: tempfile::TempDir,
}

impl Pods {
    /// An empty set of records below /run.
    pub fn new() -> Pods {
        let records = tempfile::Builder::new().prefix("hutch-pods-").tempdir_in("/run").expect("a directory in /run");
        // Made now, or a leak check would report them.
        for name in ["etc", "run", "volumes"] {
            std::fs::create_dir(records.path().join(name)).expect("a directory in a new one");
        }
        Pods { root: RootFs::new(), records }
    }

    /// The root file system that all containers use.
    pub fn root(&self) -> &RootFs {
        &self.root
    }

    /// State directory of one pod.
    pub fn state(&self, pod: &str) -> std::path::PathBuf {
        self.states().join(pod)
    }

    /// Configuration directory of one pod.
    pub fn config(&self, pod: &str) -> std::path::PathBuf {
        self.configs().join(pod)
    }

    /// `HUTCH_ROOT`: the configurations of all pods.
    pub fn configs(&self) -> std::path::PathBuf {
        self.records.path().join("etc")
    }

    /// `HUTCH_STATE_ROOT`: the state of all pods.
    pub fn states(&self) -> std::path::PathBuf {
        self.records.path().join("run")
    }

    /// A command line of `hutch` that uses these records.
    pub fn hutch(&self, words: &[&str]) -> Hutch {
        let path = |name: &str| self.records.path().join(name).to_string_lossy().into_owned();
        let command = Hutch::new(words[0]).args(&words[1..]);
        command.env("HUTCH_ROOT", &path("etc")).env("HUTCH_STATE_ROOT", &path("run"))
    }

    /// The beginning of a command line that makes a pod; `verb` is `create` or `run`.
    pub fn new_pod(&self, verb: &str, name: &str) -> Hutch {
        self.new_pod_on(verb, name, self.root.path())
    }

    /// Like [`Pods::new_pod`], with another root file system.
    pub fn new_pod_on(&self, verb: &str, name: &str, root: &Path) -> Hutch {
        let kernel = kernels().pop().expect("a kind of kernel");
        let root = root.to_string_lossy().into_owned();
        self.hutch(&["pod", verb, "--kernel", &kernel, "-m", "192M", "--name", name, "--rootfs", &root])
    }

    /// Runs a command line that must succeed and returns its stdout.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        self.hutch(words).end().expect_code(0).text()
    }

    /// Runs a script in a container.
    pub fn exec(&self, pod: &str, container: &str, script: &str) -> Ended {
        self.hutch(&["container", "exec", pod, container, "--", "/bin/sh", "-c", script]).end()
    }

    /// The field of `status --format json` at a JSON pointer; `null` if there is none.
    #[track_caller]
    pub fn status(&self, pod: &str, pointer: &str) -> serde_json::Value {
        let text = self.ok(&["pod", "status", pod, "--format", "json"]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("a status is JSON");
        value.pointer(pointer).cloned().unwrap_or_default()
    }

    /// Checks that no pod and no namespace is recorded.
    #[track_caller]
    pub fn expect_none(&self) {
        assert_eq!(self.ok(&["pod", "ls", "-q"]), "");
        assert!(!self.records.path().join("run.netns").exists(), "namespaces are left");
        for name in ["etc", "run"] {
            let dir = self.records.path().join(name);
            let left: Vec<_> = entries(&dir);
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

impl Default for Pods {
    fn default() -> Self {
        Self::new()
    }
}

fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    // The marker of a root stays.
    found.filter(|path| !path.ends_with(hutch_runtime::store::ROOT_MARKER)).collect()
}

impl Drop for Pods {
    fn drop(&mut self) {
        // A failed test leaves machines, which would disturb the next tests.
        let _ = self.hutch(&["pod", "rm", "--force", "--all"]).into_command().status();
    }
}
