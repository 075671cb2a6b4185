//! Pods for tests: directories for records of their own, and command lines for the verbs.

use std::path::Path;

use crate::{kernels, Ended, Hutch, RootFs};

/// Pods with records and a root file system of their own. What is left of them is removed when dropped.
pub struct Pods {
    root: RootFs,
    // Short, for sockets lie in it.
    records: tempfile::TempDir,
}

impl Pods {
    /// None yet.
    ///
    /// # Panics
    /// If there is no room for records.
    pub fn new() -> Pods {
        let records = tempfile::Builder::new().prefix("hutch-pods-").tempdir_in("/run").expect("a directory in /run");
        // There from the beginning, so that they do not look like something left behind.
        for name in ["etc", "run", "volumes"] {
            std::fs::create_dir(records.path().join(name)).expect("a directory in a new one");
        }
        Pods { root: RootFs::new(), records }
    }

    /// The root file system of all containers.
    pub fn root(&self) -> &RootFs {
        &self.root
    }

    /// Where the state of a pod is.
    pub fn state(&self, pod: &str) -> std::path::PathBuf {
        self.states().join(pod)
    }

    /// Where the configuration of a pod is.
    pub fn config(&self, pod: &str) -> std::path::PathBuf {
        self.configs().join(pod)
    }

    /// Where configurations are.
    pub fn configs(&self) -> std::path::PathBuf {
        self.records.path().join("etc")
    }

    /// Where states are.
    pub fn states(&self) -> std::path::PathBuf {
        self.records.path().join("run")
    }

    /// A command line of `hutch`.
    pub fn hutch(&self, words: &[&str]) -> Hutch {
        let path = |name: &str| self.records.path().join(name).to_string_lossy().into_owned();
        let command = Hutch::new(words[0]).args(&words[1..]);
        // The emulated host is slow, and busy with other machines at times.
        command.env("HUTCH_ROOT", &path("etc")).env("HUTCH_STATE_ROOT", &path("run")).env("HUTCH_BOOT_TIMEOUT", "60")
    }

    /// A verb that makes a pod (`create`, `run`), as far as the options of the pod.
    pub fn new_pod(&self, verb: &str, name: &str) -> Hutch {
        self.new_pod_on(verb, name, self.root.path())
    }

    /// The same with another root file system.
    pub fn new_pod_on(&self, verb: &str, name: &str, root: &Path) -> Hutch {
        let kernel = kernels().pop().expect("a kind of kernel");
        let root = root.to_string_lossy().into_owned();
        self.hutch(&["pod", verb, "--kernel", &kernel, "-m", "192M", "--name", name, "--rootfs", &root])
    }

    /// Runs a command line to its end, which is to be a success; what it printed.
    ///
    /// # Panics
    /// With everything known, if it fails.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        self.hutch(words).end().expect_code(0).text()
    }

    /// Runs a script in a container.
    pub fn exec(&self, pod: &str, container: &str, script: &str) -> Ended {
        self.hutch(&["container", "exec", pod, container, "--", "/bin/sh", "-c", script]).end()
    }

    /// A field of `status --format json`, by its JSON pointer; `null` if it is not there.
    ///
    /// # Panics
    /// If there is no status.
    #[track_caller]
    pub fn status(&self, pod: &str, pointer: &str) -> serde_json::Value {
        let text = self.ok(&["pod", "status", pod, "--format", "json"]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("a status is JSON");
        value.pointer(pointer).cloned().unwrap_or_default()
    }

    /// Nothing is recorded any more.
    ///
    /// # Panics
    /// With what is.
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
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

impl Drop for Pods {
    fn drop(&mut self) {
        // After a failed test: or its machines would be in the way of the tests that follow.
        let _ = self.hutch(&["pod", "rm", "--force", "--all"]).into_command().status();
    }
}
