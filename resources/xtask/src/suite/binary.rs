//! Builds the workspace's test binaries and finds their paths.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};

use crate::setup::{self, Need};
use crate::{build, Result};

/// The surroundings that a test binary needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// None: unit tests, and integration tests without a virtual machine.
    Unit,
    /// Any `/dev/kvm`: bare-metal guests of a few instructions.
    BareMetal,
    /// A `/dev/kvm` that only emulates: tests of hutch's error messages there.
    EmulatedKvm,
    /// The built program and a `/dev/kvm` that runs a stock guest: the host's, or else the testbed's.
    RealGuest,
    /// Not a test: an example program, which tests run.
    Example,
}

/// A built test binary or example.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Binary {
    /// Its source file, from the root of the repository.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) path: PathBuf,
    /// Directory of its package, which is its working directory.
    pub(crate) dir: PathBuf,
}

#[derive(Deserialize)]
struct Artifact {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds every test binary and every example of the workspace.
pub(crate) fn build_all() -> Result<Vec<Binary>> {
    setup::ensure(&[Need::Seccomp])?;
    println!("\n    Building all tests");
    let mut command = build::cargo();
    command.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the tests do not build: {command:?} ended with {}", output.status).into());
    }
    let mut binaries: Vec<Binary> =
        String::from_utf8(output.stdout)?.lines().filter_map(|line| binary_of(line, &build::root())).collect();
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(binaries)
}

fn binary_of(message: &str, root: &Path) -> Option<Binary> {
    let artifact: Artifact = serde_json::from_str(message).ok()?;
    let example = artifact.target.as_ref()?.kind.iter().any(|kind| kind == "example");
    if artifact.reason != "compiler-artifact" || !(artifact.profile?.test || example) {
        return None;
    }
    let (target, path) = (artifact.target?, artifact.executable?);
    let dir = artifact.manifest_path?.parent()?.to_owned();
    let name = target.src_path.strip_prefix(root).unwrap_or(&target.src_path).to_string_lossy().into_owned();
    let integration = target.kind.iter().any(|kind| kind == "test");
    let kind = match dir.strip_prefix(root).ok().and_then(Path::to_str) {
        _ if example => Kind::Example,
        Some("vmm") if integration => Kind::BareMetal,
        Some("tests/e2e") if integration && name.ends_with("/emulated.rs") => Kind::EmulatedKvm,
        Some("tests/e2e") if integration => Kind::RealGuest,
        // Containers need root, namespaces and control groups, which the testbed always has.
        Some("runtime/agent/oci") if integration => Kind::RealGuest,
        _ => Kind::Unit,
    };
    Some(Binary { name, kind, path, dir })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(dir: &str, kind: &str, test: bool) -> String {
        message_of(dir, "x", kind, test)
    }

    fn message_of(dir: &str, name: &str, kind: &str, test: bool) -> String {
        serde_json::json!({
            "reason": "compiler-artifact", "executable": "/t/x-1", "manifest_path": format!("/r/{dir}/Cargo.toml"),
            "target": { "kind": [kind], "src_path": format!("/r/{dir}/tests/{name}.rs") }, "profile": { "test": test },
        })
        .to_string()
    }

    #[test]
    fn kinds_follow_from_where_a_test_lives() {
        let kind = |dir, kind| binary_of(&message(dir, kind, true), Path::new("/r")).map(|b| b.kind);
        assert_eq!(kind("vmm", "test"), Some(Kind::BareMetal));
        assert_eq!(kind("vmm", "lib"), Some(Kind::Unit));
        assert_eq!(kind("tests/e2e", "test"), Some(Kind::RealGuest));
        assert_eq!(kind("runtime/agent/oci", "test"), Some(Kind::RealGuest));
        assert_eq!(kind("cli", "test"), Some(Kind::Unit));
        let emulated = binary_of(&message_of("tests/e2e", "emulated", "test", true), Path::new("/r"));
        assert_eq!(emulated.map(|b| b.kind), Some(Kind::EmulatedKvm));
        assert_eq!(binary_of(&message("vmm", "example", false), Path::new("/r")).map(|b| b.kind), Some(Kind::Example));
        let binary = binary_of(&message("vmm", "test", true), Path::new("/r")).unwrap();
        assert_eq!((binary.name.as_str(), binary.dir.as_path()), ("vmm/tests/x.rs", Path::new("/r/vmm")));
    }

    #[test]
    fn other_artifacts_are_left_out() {
        assert!(binary_of(&message("vmm", "lib", false), Path::new("/r")).is_none());
        assert!(binary_of(r#"{"reason":"build-finished","success":true}"#, Path::new("/r")).is_none());
        assert!(binary_of("text", Path::new("/r")).is_none());
    }
}
